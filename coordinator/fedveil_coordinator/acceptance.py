"""What members say in an attempt: each message is accepted as a fact, ignored as late, or refused.

Promise: only a message that the session's own organisation signed, under the transcript of this attempt, becomes a
fact; the first of its kind wins; a different second one is kept as evidence, once, and excludes its sender (A12); a
reveal whose shares do not match what was dealt convicts the revealer; who abort-voted never counts as a voter.
Source: FLSA/1 sections 2.3, 2.9 (docs/protocol.md).
"""

import hashlib
from dataclasses import replace

from fedveil_common import noise_links, wire
from fedveil_common.crypto import agreement, signing
from fedveil_common.errors import PeerError
from fedveil_common.ids import OrgId
from fedveil_common.masking import checksum, shares
from fedveil_common.messages import (
    AbortMessage,
    AbortVote,
    AckMessage,
    Advert,
    AdvertMessage,
    BlobType,
    Body,
    CipherHeader,
    Header,
    KeyAdvert,
    OpeningRequest,
    Openings,
    Partial,
    Receipt,
    ReceiptKind,
    ReceiptNotice,
    Refusal,
    Reveal,
    RevealMessage,
    ShareAck,
    ShareMsg,
    ShareOpening,
    Shares,
    SignedBlob,
    Vote,
    VoteMessage,
)
from fedveil_common.paillier.round_shape import shape_in_use
from fedveil_common.secret import Seed

from fedveil_coordinator import facts
from fedveil_coordinator.attempt import (
    Aborted,
    Aborting,
    Acking,
    Attempt,
    Certain,
    Collecting,
    Dead,
    Decrypting,
    Frame,
    Multiplying,
    Offering,
    Opened,
    Opening,
    Revealing,
    Sharing,
    Voting,
    advert_body,
    answerable,
    complaints,
    message_to,
    opened_for,
    share_body,
)
from fedveil_coordinator.course import Course
from fedveil_coordinator.events import (
    Acknowledge,
    Announce,
    InputSpooled,
    Received,
    UploadRefused,
)


def receive(course: Course, event: Received) -> None:
    """One message of a cohort member. Late and repeated ones are ignored; PeerError if it is refused."""
    org, message, at = event.org_id, event.message, event.at
    stage = course.attempt.stage
    match message:
        case Refusal() if message.key == course.attempt.key and org not in course.attempt.refused:
            course.attempt = replace(course.attempt, refused=course.attempt.refused | {org})
            course.act(Announce("refused", (("org", org), ("code", message.code))))
        case AdvertMessage() | Shares() | AckMessage() | Openings() if org in course.attempt.abort_votes:
            pass  # it has ended its part; only what it says about the end still counts
        case AdvertMessage():
            _accept_advert(course, org, message.advert, at)
        case Shares() if isinstance(stage, Sharing) and org in stage.adverts and org not in stage.shares:
            _accept_shares(course, stage, org, message, at)
        case AckMessage() if isinstance(stage, Acking) and org in stage.shares:
            _accept_ack(course, stage, org, message.ack, at)
        case Openings() if isinstance(stage, Acking) and org in stage.shares:
            _accept_openings(course, stage, org, message, at)
        case VoteMessage():
            _accept_vote(course, org, message.vote, at)
        case AbortMessage():
            _accept_abort_vote(course, org, message.vote, at)
        case RevealMessage():
            _accept_reveal(course, org, message.reveal, at)
        case _:
            pass  # late or repeated: normal


def _signed(course: Course, org: OrgId, blob: SignedBlob, type: BlobType) -> Body:
    """The body of a blob that `org` itself signed; PeerError otherwise."""
    if blob.signer_id != org:
        raise PeerError("wrong_signer", f"{org} sent a {type} signed by {blob.signer_id}", peer=org)
    signing.verify(blob, course.attempt.frame.roster.key_of(org), type)
    return wire.parse_body(type, blob.body)


def _first_wins(course: Course, org: OrgId, first: SignedBlob | None, again: SignedBlob, at: float) -> bool:
    """True if `again` is the first of its kind. An identical repeat is ignored; a different one is equivocation."""
    if first is None:
        return True
    if first != again:
        _equivocated(course, org, (first, again), at)
    return False


def _equivocated(course: Course, org: OrgId, evidence: tuple[SignedBlob, ...], at: float) -> None:
    """Two things that no honest member says in one attempt, both signed; stored once."""
    if course.exclude(org, "equivocation", evidence, at):
        course.act(Announce("equivocation", (("org", org), ("type", str(evidence[-1].type)))))


def _accept_advert(course: Course, org: OrgId, blob: SignedBlob, at: float) -> None:
    attempt = course.attempt
    body = _signed(course, org, blob, BlobType.KEY_ADVERT if attempt.frame.keys else BlobType.ADVERT)
    assert isinstance(body, Advert | KeyAdvert)
    if body.t0 != attempt.frame.t0 or body.org_id != org:
        raise PeerError("wrong_transcript", "the advert is for another attempt", peer=org)
    stage = attempt.stage
    told = (Offering, Sharing, Acking, Collecting, Voting, Revealing, Multiplying, Decrypting)
    known = stage.adverts if isinstance(stage, told) else {}
    if not _first_wins(course, org, known.get(org), blob, at) or not isinstance(stage, Offering):
        return
    if org in attempt.excluded:
        return
    if isinstance(body, KeyAdvert):
        if body.fingerprint != attempt.frame.keys[0].fingerprint:
            course.exclude(org, "wrong_key", (blob,), at)
            return
        course.record(facts.AdvertAccepted(blob), at)
        return
    used = {
        key for other in stage.adverts.values() for key in (advert_body(other).mask_key, advert_body(other).channel_key)
    }
    try:
        for key in (body.mask_key, body.channel_key):
            agreement.check_public_key(key)
        if body.mask_key == body.channel_key or used & {body.mask_key, body.channel_key}:
            raise PeerError("key_reused", "a public key of the advert was already seen", peer=org)
    except PeerError as error:
        course.exclude(org, error.code, (blob,), at)
        return
    course.record(facts.AdvertAccepted(blob), at)


def _accept_shares(course: Course, stage: Sharing, org: OrgId, message: Shares, at: float) -> None:
    """One complete set: exactly one ShareMsg for every other member of U1, each signed by the dealer, so that what is
    forwarded, and what may later convict the dealer, is its own word. Recipients verify what is in them.
    """
    if message.t1 != stage.t1:
        raise PeerError("wrong_transcript", "shares under another key set", peer=org)
    if len(message.shares) != len(stage.adverts) - 1:
        raise PeerError("incomplete_shares", "not exactly one share for every other member", peer=org)
    recipients: set[OrgId] = set()
    for blob in message.shares:
        body = wire.parse_body(BlobType.SHARE, blob.body)
        assert isinstance(body, ShareMsg)
        if blob.signer_id != org or blob.type is not BlobType.SHARE or (body.t1, body.dealer) != (stage.t1, org):
            raise PeerError("wrong_signer", "a share of another dealer or attempt", peer=org)
        recipients.add(body.recipient)
    if recipients != set(stage.adverts) - {org}:
        raise PeerError("incomplete_shares", "not exactly one share for every other member", peer=org)
    key = course.attempt.frame.roster.key_of(org)
    for blob in message.shares:  # last, because it costs: 255 of them take the driver some 30 ms, once for each dealer
        signing.verify(blob, key, BlobType.SHARE)
    course.record(facts.SharesAccepted(org, message.shares), at)


def _accept_ack(course: Course, stage: Acking, org: OrgId, blob: SignedBlob, at: float) -> None:
    body = _signed(course, org, blob, BlobType.SHARE_ACK)
    assert isinstance(body, ShareAck)
    if body.t1 != stage.t1 or body.org_id != org:
        raise PeerError("wrong_transcript", "an ack under another key set", peer=org)
    if not _first_wins(course, org, stage.acks.get(org), blob, at):
        return
    if not set(body.bad_dealers) <= set(stage.shares) - {org}:
        raise PeerError("not_a_member", "an ack complains about one who did not deal", peer=org)
    course.record(facts.AckAccepted(blob), at)
    assert isinstance(course.attempt.stage, Acking)
    for dealer in body.bad_dealers:
        against = tuple(complaints(course.attempt.stage)[dealer])
        if answerable(against, course.attempt.frame.manifest):
            course.send((dealer,), OpeningRequest(stage.t1, against))
            asked = {**course.attempt.delivered, dealer: at}  # its time to answer begins with the complaint
            course.attempt = replace(course.attempt, delivered=asked)
        course.act(Announce("complaint", (("org", org), ("dealer", dealer))))


def _accept_openings(course: Course, stage: Acking, org: OrgId, message: Openings, at: float) -> None:
    if message.t1 != stage.t1:
        raise PeerError("wrong_transcript", "openings under another key set", peer=org)
    against = complaints(stage).get(org, [])
    complainers = {blob.signer_id for blob in against}
    known = opened_for(stage, org)
    if not answerable(against, course.attempt.frame.manifest) or len(message.openings) > len(complainers):
        raise PeerError("too_many_openings", "more openings than there are complaints to answer", peer=org)
    fresh: dict[OrgId, SignedBlob] = {}
    last = ""
    for blob in message.openings:
        body = wire.parse_body(BlobType.SHARE_OPENING, blob.body)
        assert isinstance(body, ShareOpening)
        if body.recipient <= last:
            raise PeerError("too_many_openings", "not one opening for each complaint, in order", peer=org)
        last = body.recipient
        if blob == known.get(body.recipient):
            continue  # said again beside the answer to a later complaint
        _signed(course, org, blob, BlobType.SHARE_OPENING)
        if (body.t1, body.dealer) != (stage.t1, org) or body.recipient not in complainers:
            raise PeerError("wrong_transcript", "an opening that nobody asked for", peer=org)
        if body.recipient in known:
            _equivocated(course, org, (known[body.recipient], blob), at)
            return
        shares.check_opening(body, share_body(stage.shares[org][body.recipient]))
        fresh[body.recipient] = blob
    if fresh:
        answers = {**known, **fresh}
        course.record(facts.OpeningsAccepted(org, tuple(answers[one] for one in sorted(answers))), at)


def upload_shape(attempt: Attempt, org: OrgId, header: SignedBlob) -> Header | CipherHeader | Partial:
    """The signed body of an upload that is about to begin, if its leaves may be received at all. PeerError otherwise.

    Called by the gate of the upload before any leaf is read, and again before what was uploaded is accepted.
    """
    if not attempt.frame.keys:
        return _input_shape(attempt, org, header)
    if header.type is BlobType.PARTIAL:
        return _partial_shape(attempt, org, header)
    return _cipher_shape(attempt, org, header)


def _awaited_input(attempt: Attempt, org: OrgId, header: SignedBlob, expected: BlobType) -> tuple[Collecting, Body]:
    """The stage in which an input of `org` is awaited, and the body of its header, which `org` signed."""
    stage, out = attempt.stage, attempt.abort_votes.keys() | attempt.excluded
    if not isinstance(stage, Collecting) or org not in stage.shares or org in out:
        raise PeerError("input_not_expected", "no input of this organisation is awaited now", peer=org)
    if header.signer_id != org:
        raise PeerError("wrong_signer", f"{org} sent a header signed by {header.signer_id}", peer=org)
    signing.verify(header, attempt.frame.roster.key_of(org), expected)
    return stage, wire.parse_body(expected, header.body)


def _cipher_shape(attempt: Attempt, org: OrgId, header: SignedBlob) -> CipherHeader:
    """What its numbers are worth is found when all of it is there (`ciphers.examine_input`)."""
    stage, body = _awaited_input(attempt, org, header, BlobType.CIPHER_HEADER)
    assert isinstance(body, CipherHeader)
    use, manifest = attempt.frame.keys[0], attempt.frame.manifest
    if body.t2 != stage.t2 or body.org_id != org:
        raise PeerError("wrong_transcript", "the header is under another key set", peer=org)
    if body.fingerprint != use.fingerprint:
        raise PeerError("wrong_key", "the header is of ciphertexts under another key", peer=org)
    shape = shape_in_use(use, manifest)
    if (body.length, body.blocks, body.width) != (manifest.length, shape.blocks.count, shape.blocks.width):
        raise PeerError("wrong_shape", "the header announces another vector than the manifest", peer=org)
    return body


def _partial_shape(attempt: Attempt, org: OrgId, header: SignedBlob) -> Partial:
    """An answer of a holder that was called, in the quorum that was called last."""
    stage = attempt.stage
    called = isinstance(stage, Decrypting) and bool(stage.quorums)
    if not isinstance(stage, Decrypting) or not called or org in attempt.excluded:
        raise PeerError("answer_not_expected", "no answer of this organisation is awaited now", peer=org)
    if header.signer_id != org:
        raise PeerError("wrong_signer", f"{org} sent an answer signed by {header.signer_id}", peer=org)
    signing.verify(header, attempt.frame.roster.key_of(org), BlobType.PARTIAL)
    body = wire.parse_body(BlobType.PARTIAL, header.body)
    assert isinstance(body, Partial)
    if body.t3 != stage.t3 or body.org_id != org:
        raise PeerError("wrong_transcript", "the answer is about another set of inputs", peer=org)
    if body.quorum != stage.quorums[-1] or org not in attempt.frame.keys[0].names(body.quorum):
        raise PeerError(
            "answer_not_expected", "the answer is for another quorum than the one that was called", peer=org
        )
    return body


def _input_shape(attempt: Attempt, org: OrgId, header: SignedBlob) -> Header:
    stage, manifest = attempt.stage, attempt.frame.manifest
    if not isinstance(stage, Collecting) or org not in stage.shares or org in attempt.abort_votes:
        raise PeerError("input_not_expected", "no input of this organisation is awaited now", peer=org)
    if header.signer_id != org:
        raise PeerError("wrong_signer", f"{org} sent a header signed by {header.signer_id}", peer=org)
    signing.verify(header, attempt.frame.roster.key_of(org), BlobType.HEADER)
    body = wire.parse_body(BlobType.HEADER, header.body)
    assert isinstance(body, Header)
    if body.t2 != stage.t2 or body.org_id != org:
        raise PeerError("wrong_transcript", "the header is under another dealer set", peer=org)
    leaves = -(-manifest.length // manifest.leaf_coordinates)
    if (body.length, body.ring_bits, body.leaf_count) != (manifest.length, manifest.ring_bits, leaves):
        raise PeerError("wrong_shape", "the header announces another vector than the manifest", peer=org)
    if not noise_links.check_chain_end(manifest, len(stage.shares), body.noise_chain):
        raise PeerError("wrong_shape", "the header's noise chain is not what the manifest asks for", peer=org)
    try:
        checksum.from_bytes(body.masked_tag)
    except PeerError as error:
        raise PeerError(error.code, error.what, peer=org) from None
    return body


def accepted(attempt: Attempt, org: OrgId, header: SignedBlob) -> SignedBlob | None:
    """What `org` uploaded before in the place of `header`, and was accepted; None if nothing was."""
    stage = attempt.stage
    if header.type is BlobType.PARTIAL:
        return stage.reveals.get(org) if isinstance(stage, Decrypting) else None
    collected = (Collecting, Voting, Revealing, Multiplying, Decrypting)
    return stage.headers.get(org) if isinstance(stage, collected) else None


def accept_upload(course: Course, event: InputSpooled) -> None:
    """An upload whose every leaf is verified and durable; a repeat of the same is receipted again."""
    org, header = event.org_id, event.header
    known, kind = accepted(course.attempt, org, header), ReceiptKind.INPUT
    if header.type is BlobType.PARTIAL:
        kind = ReceiptKind.REVEAL
    if _first_wins(course, org, known, header, event.at):
        body = upload_shape(course.attempt, org, header)
        course.record(
            facts.RevealAccepted(header) if kind is ReceiptKind.REVEAL else facts.InputAccepted(header), event.at
        )
    elif known == header:
        parsed = wire.parse_body(header.type, header.body)
        assert isinstance(parsed, Header | CipherHeader | Partial)
        body = parsed
    else:
        return
    digest = hashlib.sha256(body.leaf_root).digest()
    receipt = course.sign(BlobType.RECEIPT, Receipt(course.attempt.frame.t0, kind, digest))
    course.act(Acknowledge(org, receipt))


def refuse_upload(course: Course, event: UploadRefused) -> None:
    """What a member signed and uploaded in full does not hold: it is out, and the others go on without it."""
    stage, org = course.attempt.stage, event.org_id
    known = stage.headers if isinstance(stage, Collecting) else stage.reveals if isinstance(stage, Decrypting) else None
    if known is None or org in known:
        return  # late, or another one of it was accepted meanwhile
    if course.exclude(org, event.code, (event.header,), event.at):
        course.act(Announce("blamed", (("org", org), ("code", event.code))))


def _accept_vote(course: Course, org: OrgId, blob: SignedBlob, at: float) -> None:
    body = _signed(course, org, blob, BlobType.VOTE)
    stage = course.attempt.stage
    if not isinstance(stage, Voting) or org not in stage.shares:
        return
    if body != Vote(stage.t3):
        raise PeerError("wrong_transcript", "a vote over another set of inputs", peer=org)
    if org in course.attempt.abort_votes:
        _equivocated(course, org, (course.attempt.abort_votes[org], blob), at)
        return
    if _first_wins(course, org, stage.votes.get(org), blob, at):
        course.record(facts.VoteAccepted(blob), at)


def _accept_abort_vote(course: Course, org: OrgId, blob: SignedBlob, at: float) -> None:
    body = _signed(course, org, blob, BlobType.ABORT)
    frame = course.attempt.frame
    if body != AbortVote(frame.t0, frame.key.attempt):
        raise PeerError("wrong_transcript", "an abort vote over another attempt", peer=org)
    stage = course.attempt.stage
    match stage:
        case _ if isinstance(stage, Certain | Aborted | Dead):
            pass  # a certificate exists, or the end is decided
        case Aborting() if org in stage.voted:
            _equivocated(course, org, (blob,), at)  # its vote to open is in the journal: it does not count for both
        case Aborting():
            if _first_wins(course, org, stage.votes.get(org), blob, at):
                course.record(facts.AbortVoteAccepted(blob), at)
        case Voting() if org in stage.votes:
            _equivocated(course, org, (stage.votes[org], blob), at)
        case _ if _first_wins(course, org, course.attempt.abort_votes.get(org), blob, at):
            _gone(course, org, blob, at)
        case _:
            pass


def _gone(course: Course, org: OrgId, blob: SignedBlob, at: float) -> None:
    """An abort vote that nobody asked for: this member will not go on; whether the others can, `round` decides.

    Where its own hard limit has passed that is what the protocol asks of it. Else it is treated like a refusal.
    """
    attempt = course.attempt
    course.record(facts.AbortVoteAccepted(blob), at)
    began, limits = attempt.began, attempt.frame.manifest
    early = began is not None and at < began + limits.hard_limit_s - limits.progress_s
    if early:
        course.attempt = replace(course.attempt, refused=course.attempt.refused | {org})
    course.act(Announce("abort_vote", (("org", org), ("code", "early" if early else "hard_limit"))))


def _accept_reveal(course: Course, org: OrgId, blob: SignedBlob, at: float) -> None:
    """Every share must match what its dealer committed to; a revealer whose share does not is to blame (2.9)."""
    stage = course.attempt.stage
    if course.attempt.frame.keys or not isinstance(stage, (Revealing, Opening, Opened)):
        return
    body = _signed(course, org, blob, BlobType.REVEAL)
    assert isinstance(body, Reveal)
    if isinstance(stage, Revealing) and org in stage.shares and org not in course.attempt.excluded:
        if body.t3 != stage.t3:
            raise PeerError("wrong_transcript", "a reveal for another set of inputs", peer=org)
        if _first_wins(course, org, stage.reveals.get(org), blob, at):
            code = reveal_defect(course.attempt.frame, stage, org, body)
            if code:
                course.exclude(org, code, (blob,), at)
                course.act(Announce("blamed", (("org", org), ("code", code))))
                return
            course.record(facts.RevealAccepted(blob), at)
    digest = hashlib.sha256(blob.body).digest()
    receipt = course.sign(BlobType.RECEIPT, Receipt(course.attempt.frame.t0, ReceiptKind.REVEAL, digest))
    course.send((org,), ReceiptNotice(receipt))


def reveal_defect(frame: Frame, stage: Revealing, org: OrgId, body: Reveal) -> str:
    """Empty if the reveal holds exactly what T3 asks of `org` and all of it matches the commitments; else a code."""
    survivors, dealers = set(stage.headers), set(stage.shares)
    if {one for one, _ in body.self_shares} != survivors - {org} or len(body.self_shares) != len(survivors - {org}):
        return "incomplete_reveal"
    dropped = dealers - survivors - {org}
    if {one for one, _ in body.key_shares} != dropped or len(body.key_shares) != len(dropped):
        return "incomplete_reveal"
    if bool(body.self_seed) != (org in survivors):
        return "incomplete_reveal"
    try:
        if body.self_seed:
            advert = advert_body(stage.adverts[org])
            shares.check_self_seed(frame.t0, org, Seed(body.self_seed), advert.selfseed_commit)
            header = wire.parse_body(BlobType.HEADER, stage.headers[org].body)
            assert isinstance(header, Header)
            sizes = len(dealers), len(survivors)
            noise_links.check_shown(frame.manifest, stage.t2, org, *sizes, body.noise_link, header.noise_chain)
        elif body.noise_link:
            return "noise_chain_broken"
        for dealer, share in body.self_shares:
            shares.check_revealed_self_share(message_to(stage, dealer, org), share)
        for dealer, share in body.key_shares:
            shares.check_revealed_key_share(message_to(stage, dealer, org), share)
    except PeerError as error:
        return error.code
    return ""
