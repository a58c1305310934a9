"""An attempt as the coordinator knows it: its stages, and how each journaled fact moves it. Read before `round`.

Promise: an attempt is the fold (`apply`) of its facts and nothing else, so a restart replays the journal; each stage
holds only what that stage may know. Source: FLSA/1 section 2.9 (docs/protocol.md).

    Offering -> Sharing -> Acking -> Collecting -> Voting -> Revealing -> Opening -> Opened
    Offering -> Collecting -> Voting -> Multiplying -> Decrypting -> Opening -> Opened      (under protection paillier)
    (every stage before a certificate) -> Aborting -> Aborted | Dead
"""

import functools
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace

from fedveil_common import transcript, wire
from fedveil_common.ids import AttemptKey, OrgId
from fedveil_common.masking import quorum
from fedveil_common.messages import (
    AbortCertificate,
    Advert,
    BlobType,
    Certificate,
    Manifest,
    ShareAck,
    ShareMsg,
    ShareOpening,
    SignedBlob,
)
from fedveil_common.paillier.key_use import KeyUse
from fedveil_common.roster import Roster

from fedveil_coordinator import facts

Blobs = Mapping[OrgId, SignedBlob]
Sets = Mapping[OrgId, tuple[SignedBlob, ...]]
Dealings = Mapping[OrgId, Mapping[OrgId, SignedBlob]]
"""Dealer -> recipient -> its ShareMsg. Found by recipient: n dealers to n recipients are looked up n^2 times."""

REMEMBERED_BODIES = 1024
"""Parsed bodies of a kind that are read again with every message; a cohort has 256 members at most."""


@dataclass(frozen=True, slots=True)
class Frame:
    """What every stage of an attempt knows. `keys`: the key that inputs are encrypted under, none under masked;
    `noise`: the coordinator's own that the manifest commits to.
    """

    manifest_blob: SignedBlob
    manifest: Manifest
    t0: bytes
    roster: Roster
    keys: tuple[KeyUse, ...] = ()
    noise: tuple[SignedBlob, ...] = ()

    @property
    def key(self) -> AttemptKey:
        """Which attempt this is."""
        return self.manifest.key

    def holders(self, members: Collection[OrgId]) -> set[OrgId]:
        """Which of `members` hold a part of the key."""
        return {org for use in self.keys for org in use.holders if org in members}

    @property
    def holders_needed(self) -> int:
        """How many holders open a sum; 0 under masked."""
        return self.keys[0].threshold if self.keys else 0


@dataclass(frozen=True, slots=True)
class Offering:
    """M0 is out; adverts come in."""

    adverts: Blobs = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Sharing:
    """U1 is fixed; complete ShareMsg sets come in."""

    t1: bytes
    adverts: Blobs
    shares: Dealings


@dataclass(frozen=True, slots=True)
class Acking:
    """The sets that were complete are forwarded; acks, complaints and openings come in."""

    t1: bytes
    adverts: Blobs
    shares: Dealings
    acks: Blobs
    openings: Sets


@dataclass(frozen=True, slots=True)
class Collecting:
    """U2 is fixed; inputs come in. Under paillier nobody deals: U2 = U1, each with nothing dealt to anybody."""

    t1: bytes
    t2: bytes
    adverts: Blobs
    shares: Dealings
    openings: Sets
    headers: Blobs


@dataclass(frozen=True, slots=True)
class Voting:
    """U3 is fixed; votes come in."""

    t1: bytes
    t2: bytes
    t3: bytes
    adverts: Blobs
    shares: Dealings
    openings: Sets
    headers: Blobs
    votes: Blobs


@dataclass(frozen=True, slots=True)
class Revealing:
    """The certificate is out; reveals come in."""

    t1: bytes
    t2: bytes
    t3: bytes
    adverts: Blobs
    shares: Dealings
    openings: Sets
    headers: Blobs
    certificate: Certificate
    reveals: Blobs


@dataclass(frozen=True, slots=True)
class Multiplying:
    """The certificate is out; the certified inputs are being multiplied."""

    t1: bytes
    t2: bytes
    t3: bytes
    adverts: Blobs
    shares: Dealings
    headers: Blobs
    certificate: Certificate


@dataclass(frozen=True, slots=True)
class Decrypting:
    """The product is durable; partial decryptions come in. `quorums`: of holders, as they were called, the last one is
    to answer; `reveals`: its answers.
    """

    t1: bytes
    t2: bytes
    t3: bytes
    adverts: Blobs
    shares: Dealings
    headers: Blobs
    certificate: Certificate
    noise: tuple[SignedBlob, ...]
    product_root: bytes
    quorums: tuple[tuple[int, ...], ...]
    reveals: Blobs


@dataclass(frozen=True, slots=True)
class Opening:
    """Enough is revealed; the sum is being computed from the spools and the reveals."""

    t3: bytes
    revealing: Revealing | Decrypting


@dataclass(frozen=True, slots=True)
class Opened:
    """The sum is durable and its Result signed. `quorum`: of holders that opened it, by index; empty under masked."""

    survivors: tuple[OrgId, ...]
    dealers: tuple[OrgId, ...]
    result: SignedBlob
    quorum: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Aborting:
    """Abort votes come in. `voted`: who can no longer abort-vote because it voted to open."""

    reason: str
    missing: tuple[OrgId, ...]
    voted: frozenset[OrgId]
    votes: Blobs


@dataclass(frozen=True, slots=True)
class Aborted:
    """A certificate says that this attempt never opened: its updates may be used again."""

    reason: str
    missing: tuple[OrgId, ...]
    certificate: AbortCertificate


@dataclass(frozen=True, slots=True)
class Dead:
    """Neither opened nor certified as aborted: its updates are spent."""

    reason: str


Certain = Revealing | Multiplying | Decrypting | Opening | Opened
"""The stages after a certificate: what was revealed cannot be taken back, so none of them can be aborted."""

Stage = Offering | Sharing | Acking | Collecting | Voting | Certain | Aborting | Aborted | Dead


@dataclass(frozen=True, slots=True)
class Attempt:
    """An attempt: the fold of its facts up to `abort_votes`; the rest is known only while the process lives.

    `abort_votes`: who abort-voted before the coordinator asked, and will not go on; such a member's vote never counts.
    `refused`: will not go on either. `overdue`: is there and does not deliver what is waited for (`round.patience`).
    `slow`: was overdue with an advert in this run. `missed`: holders last said to be waited for. `heard`: any sign of a
    member; `delivered`: the last one that moved the attempt, or leaves of an upload (`uploaded` of them). `began`: None
    if this process did not see the offer.
    """

    frame: Frame
    stage: Stage
    excluded: frozenset[OrgId] = frozenset()
    abort_votes: Blobs = field(default_factory=dict)
    refused: frozenset[OrgId] = frozenset()
    overdue: frozenset[OrgId] = frozenset()
    slow: frozenset[OrgId] = frozenset()
    heard: Mapping[OrgId, float] = field(default_factory=dict)
    delivered: Mapping[OrgId, float] = field(default_factory=dict)
    uploaded: Mapping[OrgId, int] = field(default_factory=dict)
    missed: tuple[OrgId, ...] = ()
    since: float = 0.0
    began: float | None = None

    @property
    def key(self) -> AttemptKey:
        """Which attempt this is."""
        return self.frame.key


def begin(
    blob: SignedBlob,
    roster: Roster,
    at: float,
    slow: frozenset[OrgId] = frozenset(),
    keys: tuple[KeyUse, ...] = (),
    noise: tuple[SignedBlob, ...] = (),
) -> Attempt:
    """The attempt that a journaled manifest opens. `slow`: who was overdue with an advert earlier in this run."""
    manifest = wire.parse_body(BlobType.MANIFEST, blob.body)
    assert isinstance(manifest, Manifest)
    frame = Frame(blob, manifest, transcript.t0(blob.body), roster, keys, noise)
    return Attempt(frame, Offering(), slow=slow, heard=dict.fromkeys(manifest.cohort, at), since=at, began=at)


# --- the fold ---------------------------------------------------------------------------------------------------------


def apply(attempt: Attempt, fact: facts.Fact) -> Attempt:
    """The attempt after a journaled fact. Total on the facts `step` makes in the stage it makes them in."""
    match attempt.stage, fact:
        case _, facts.Excluded():
            after = replace(attempt, excluded=attempt.excluded | {fact.org_id})
            return _without_advert(after, fact.org_id)
        case Offering() as stage, facts.AdvertAccepted():
            return replace(attempt, stage=Offering({**stage.adverts, fact.advert.signer_id: fact.advert}))
        case Offering() as stage, facts.KeySetFrozen():
            adverts = {org: stage.adverts[org] for org in fact.members}
            t1 = transcript.t1(attempt.frame.t0, {org: blob.body for org, blob in adverts.items()})
            if attempt.frame.keys:
                nothing: Dealings = {org: {} for org in fact.members}
                t2 = transcript.t2(t1, fact.members)
                return replace(attempt, stage=Collecting(t1, t2, adverts, nothing, {}, {}))
            return replace(attempt, stage=Sharing(t1, adverts, {}))
        case Sharing() as stage, facts.SharesAccepted():
            dealt = {share_body(blob).recipient: blob for blob in fact.shares}
            return replace(attempt, stage=replace(stage, shares={**stage.shares, fact.dealer: dealt}))
        case Sharing() as stage, facts.SharesDelivered():
            sets = {org: stage.shares[org] for org in fact.dealers}
            return replace(attempt, stage=Acking(stage.t1, stage.adverts, sets, {}, {}))
        case Acking() as stage, facts.AckAccepted():
            return replace(attempt, stage=replace(stage, acks={**stage.acks, fact.ack.signer_id: fact.ack}))
        case Acking() as stage, facts.OpeningsAccepted():
            return replace(attempt, stage=replace(stage, openings={**stage.openings, fact.dealer: fact.openings}))
        case Acking() as stage, facts.DealersFrozen():
            sets = {org: stage.shares[org] for org in fact.dealers}
            t2 = transcript.t2(stage.t1, fact.dealers)
            return replace(attempt, stage=Collecting(stage.t1, t2, stage.adverts, sets, stage.openings, {}))
        case Collecting() as stage, facts.InputAccepted():
            return replace(attempt, stage=replace(stage, headers={**stage.headers, fact.header.signer_id: fact.header}))
        case Collecting() as stage, facts.Proposed():
            headers = {org: stage.headers[org] for org in fact.survivors}
            t3 = transcript.t3(stage.t2, {org: blob.body for org, blob in headers.items()})
            return replace(
                attempt,
                stage=Voting(stage.t1, stage.t2, t3, stage.adverts, stage.shares, stage.openings, headers, {}),
            )
        case Voting() as stage, facts.VoteAccepted():
            return replace(attempt, stage=replace(stage, votes={**stage.votes, fact.vote.signer_id: fact.vote}))
        case Voting() as stage, facts.Certified():
            certificate = Certificate(stage.t3, tuple(stage.votes[org] for org in fact.voters))
            if attempt.frame.keys:
                known = (stage.t1, stage.t2, stage.t3, stage.adverts, stage.shares, stage.headers)
                return replace(attempt, stage=Multiplying(*known, certificate))
            return replace(
                attempt,
                stage=Revealing(
                    stage.t1,
                    stage.t2,
                    stage.t3,
                    stage.adverts,
                    stage.shares,
                    stage.openings,
                    stage.headers,
                    certificate,
                    {},
                ),
            )
        case Multiplying() as stage, facts.ProductMade():
            known = (stage.t1, stage.t2, stage.t3, stage.adverts, stage.shares, stage.headers)
            made = Decrypting(*known, stage.certificate, fact.noise, fact.root, (), {})
            return replace(attempt, stage=made)
        case Decrypting() as stage, facts.QuorumCalled():
            return replace(attempt, stage=replace(stage, quorums=(*stage.quorums, fact.quorum), reveals={}))
        case Decrypting() as stage, facts.OpeningStarted():
            return replace(attempt, stage=Opening(stage.t3, stage))
        case (Revealing() | Decrypting()) as stage, facts.RevealAccepted():
            return replace(attempt, stage=replace(stage, reveals={**stage.reveals, fact.reveal.signer_id: fact.reveal}))
        case Revealing() as stage, facts.OpeningStarted():
            used = replace(stage, reveals={org: stage.reveals[org] for org in fact.revealers})
            return replace(attempt, stage=Opening(stage.t3, used))
        case Opening() as stage, facts.SumOpened():
            revealing = stage.revealing
            quorum_ = revealing.quorums[-1] if isinstance(revealing, Decrypting) else ()
            ended = Opened(tuple(sorted(revealing.headers)), tuple(sorted(revealing.shares)), fact.result, quorum_)
            return replace(attempt, stage=ended)
        case stage, facts.AbortStarted() if not isinstance(stage, (Opened, Aborted, Dead)):
            voted = frozenset(stage.votes) if isinstance(stage, Voting) else frozenset()
            return replace(attempt, stage=Aborting(fact.reason, fact.missing, voted, dict(attempt.abort_votes)))
        case Aborting() as stage, facts.AbortVoteAccepted():
            return replace(attempt, stage=replace(stage, votes={**stage.votes, fact.vote.signer_id: fact.vote}))
        case Offering() | Sharing() | Acking() | Collecting() | Voting(), facts.AbortVoteAccepted(vote=vote):
            after = replace(attempt, abort_votes={**attempt.abort_votes, vote.signer_id: vote})
            return _without_advert(after, vote.signer_id)
        case Aborting() as stage, facts.AbortCertified():
            certified = AbortCertificate(attempt.frame.t0, tuple(stage.votes[org] for org in fact.voters))
            return replace(attempt, stage=Aborted(stage.reason, stage.missing, certified))
        case _, facts.AttemptDied():
            return replace(attempt, stage=Dead(fact.reason))
        case stage, _:
            raise AssertionError(f"{type(fact).__name__} does not follow in {type(stage).__name__}")


def _without_advert(attempt: Attempt, org: OrgId) -> Attempt:
    """While U1 is open, a member that will not go on is not in it."""
    if not isinstance(attempt.stage, Offering):
        return attempt
    return replace(attempt, stage=Offering({one: blob for one, blob in attempt.stage.adverts.items() if one != org}))


# --- reading blobs that were accepted ---------------------------------------------------------------------------------


def advert_body(blob: SignedBlob) -> Advert:
    """The body of an advert."""
    return _advert(blob.body)


@functools.lru_cache(maxsize=REMEMBERED_BODIES)
def _advert(data: bytes) -> Advert:
    body = wire.parse_body(BlobType.ADVERT, data)
    assert isinstance(body, Advert)
    return body


def share_body(blob: SignedBlob) -> ShareMsg:
    """The body of a ShareMsg."""
    body = wire.parse_body(BlobType.SHARE, blob.body)
    assert isinstance(body, ShareMsg)
    return body


def ack_body(blob: SignedBlob) -> ShareAck:
    """The body of an ack."""
    return _ack(blob.body)


@functools.lru_cache(maxsize=REMEMBERED_BODIES)
def _ack(data: bytes) -> ShareAck:
    body = wire.parse_body(BlobType.SHARE_ACK, data)
    assert isinstance(body, ShareAck)
    return body


def opening_body(blob: SignedBlob) -> ShareOpening:
    """The body of a share opening."""
    body = wire.parse_body(BlobType.SHARE_OPENING, blob.body)
    assert isinstance(body, ShareOpening)
    return body


def message_to(stage: Revealing, dealer: OrgId, recipient: OrgId) -> ShareMsg:
    """What `dealer` dealt to `recipient`; its commitments bind both."""
    return share_body(stage.shares[dealer][recipient])


def complaints(stage: Acking) -> dict[OrgId, list[SignedBlob]]:
    """The acks that complain, by the dealer they complain about."""
    found: dict[OrgId, list[SignedBlob]] = {}
    for org in sorted(stage.acks):
        for dealer in ack_body(stage.acks[org]).bad_dealers:
            found.setdefault(dealer, []).append(stage.acks[org])
    return found


def opened_for(stage: Acking, dealer: OrgId) -> dict[OrgId, SignedBlob]:
    """By recipient: the openings with which `dealer` answered so far. The first for a recipient stays."""
    found: dict[OrgId, SignedBlob] = {}
    for blob in stage.openings.get(dealer, ()):
        found.setdefault(opening_body(blob).recipient, blob)
    return found


def answerable(blobs: Collection[SignedBlob], manifest: Manifest) -> bool:
    """Whether a dealer may answer these complaints: more of them prove it bad, and would open its secrets."""
    return len(blobs) <= quorum.opening_bound(len(manifest.cohort), manifest.corrupt)


def unanswered(stage: Acking, manifest: Manifest) -> set[OrgId]:
    """Dealers that still may answer the complaints about them."""
    return {
        dealer
        for dealer, blobs in complaints(stage).items()
        if answerable(blobs, manifest) and {blob.signer_id for blob in blobs} - opened_for(stage, dealer).keys()
    }


def convicted(stage: Acking, manifest: Manifest) -> set[OrgId]:
    """Dealers with more complaints than they may answer, or with one that they left unanswered (A11)."""
    return {
        dealer
        for dealer, blobs in complaints(stage).items()
        if not answerable(blobs, manifest) or {blob.signer_id for blob in blobs} - opened_for(stage, dealer).keys()
    }
