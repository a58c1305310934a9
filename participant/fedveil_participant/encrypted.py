"""A participant's part in a round under protection paillier: the steps in which it differs from `round`, their caller.

Promise: an update is encrypted under the key this organisation pinned and no other; a holder decrypts only the product
of exactly the headers it voted for, after their certificate, one set of inputs for an attempt, and answers in at most
as many quorums as there are holders. Pure, like `round`. Source: docs/paillier.md, section 6 (P4, G8).
"""

from dataclasses import replace

from fedveil_common import transcript
from fedveil_common.crypto.draws import Draws
from fedveil_common.messages import (
    AdvertMessage,
    BlobType,
    Certificate,
    CipherHeader,
    KeyAdvert,
    KeySet,
    Partial,
    Proposal,
    QuorumCall,
    Refusal,
    Vote,
    VoteMessage,
)
from fedveil_common.paillier.key_use import KeyUse

from fedveil_participant import checks, encrypted_checks, spending, within_policy
from fedveil_participant.events import (
    AnswerFailed,
    AnswerQuorum,
    AnswerReady,
    Changes,
    CiphertextsReady,
    DiscardInput,
    EncryptUpdate,
    Note,
    OpenedSum,
    Persist,
    Send,
    UpdateReady,
    UploadInput,
)
from fedveil_participant.stages import (
    Announced,
    Answer,
    Decrypting,
    Encrypting,
    Frame,
    Preparing,
    Submitted,
    Voted,
)
from fedveil_participant.state import State, Step, apply, sign


def announce(state: State, stage: Preparing, event: UpdateReady, changes: Changes) -> Step:
    """M1: the update is stored; under which key it would be encrypted is said in public."""
    frame = stage.frame
    advert = KeyAdvert(frame.t0, state.me, frame.manifest.encryption[0].fingerprint)
    blob = sign(state, BlobType.KEY_ADVERT, advert)
    after = apply(replace(state, stage=Announced(frame, blob)), changes)
    return after, (Persist("advert", changes, (("t0", frame.t0.hex()),)), Send(AdvertMessage(blob)))


def key_set(state: State, stage: Announced, message: KeySet, draws: Draws) -> Step:
    """M2: U1 is fixed, and with it U2 and T2. Nobody deals anything; the update may now be encrypted."""
    frame, manifest = stage.frame, stage.frame.manifest
    blobs = {blob.signer_id: blob for blob in message.adverts}
    for blob in message.adverts:
        encrypted_checks.key_advert(blob, frame, state.roster)
    checks.own_advert(blobs, stage.advert)
    checks.enough(len(blobs), manifest, "key set")
    after = Encrypting(frame, t2_of(message), tuple(sorted(blobs)), draws.seed("rounding"), draws.seed("own"))
    return replace(state, stage=after), (Persist("key_set", trail=(("t2", after.t2.hex()),)), encryption(after))


def key_of(state: State, frame: Frame) -> KeyUse:
    """The key of an attempt. PolicyRefusal `key_not_pinned` if it is no longer pinned here: a pin can move on."""
    accepted = state.plans.get(frame.key.run_id)
    return encrypted_checks.pinned_key(frame.manifest, () if accepted is None else accepted.keys)


def t2_of(message: KeySet) -> bytes:
    """T2 under this key set."""
    bodies = {blob.signer_id: blob.body for blob in message.adverts}
    return transcript.t2(transcript.t1(message.t0, bodies), bodies)


def encryption(stage: Encrypting) -> EncryptUpdate:
    """What is to be done in this stage."""
    frame = stage.frame
    return EncryptUpdate(frame.manifest, frame.update_key, frame.t0, stage.t2, stage.rounding, stage.own)


def submit(state: State, stage: Encrypting, event: CiphertextsReady) -> Step:
    """M5: the input is durable; its header makes the update spent, so both are journaled before it leaves."""
    if event.t2 != stage.t2:
        return state, ()
    manifest, proven = stage.frame.manifest, event.proven
    header = CipherHeader(
        t2=stage.t2,
        org_id=state.me,
        fingerprint=manifest.encryption[0].fingerprint,
        length=manifest.length,
        blocks=proven.blocks,
        width=proven.width,
        headers_hash=proven.headers_hash,
        bodies_hash=proven.bodies_hash,
        commitment=proven.commitment,
        body_commitment=proven.body_commitment,
        response=proven.response,
        leaf_root=transcript.leaf_root(event.leaf_hashes),
    )
    blob = sign(state, BlobType.CIPHER_HEADER, header)
    after = Submitted(stage.frame, stage.t2, stage.members, stage.own, blob, event.leaf_hashes)
    changes = Changes(spend=stage.frame.spends, ledger=spending.reserve(state, stage.frame))
    return apply(replace(state, stage=after), changes), (
        Persist("input", changes, (("leaf_root", header.leaf_root.hex()),)),
        UploadInput(stage.frame.key, blob, event.leaf_hashes),
    )


def vote(state: State, stage: Encrypting | Submitted, message: Proposal) -> Step:
    """M6 -> M7: the one vote of this attempt. The headers it is over are kept: a holder multiplies these, no others."""
    frame, manifest = stage.frame, stage.frame.manifest
    headers = {blob.signer_id: blob for blob in message.headers}
    use = key_of(state, frame)
    for blob in message.headers:
        encrypted_checks.cipher_header(blob, stage.t2, stage.members, manifest, use, state.roster)
    checks.own_header(headers, state.me, stage.header if isinstance(stage, Submitted) else None)
    checks.enough_survivors(len(headers), manifest, state.limits)
    within_policy.survivors_within_policy(headers, state.limits, state.me)
    t3 = transcript.t3(message.t2, {blob.signer_id: blob.body for blob in message.headers})
    blob = sign(state, BlobType.VOTE, Vote(t3))
    survivors = tuple(sorted(headers))
    kept = tuple(headers[org] for org in survivors)
    after = Voted(frame, stage.t2, t3, stage.members, survivors, (), (), (), blob, kept, (stage.own,))
    changes = Changes(opened=(OpenedSum(frame.key.run_id, frame.key.round, t3),))
    return apply(replace(state, stage=after), changes), (
        Persist("vote", changes, (("t3", t3.hex()), ("survivors", ",".join(survivors)))),
        Send(VoteMessage(blob)),
    )


def certified(state: State, stage: Voted, message: Certificate, at: float) -> Step:
    """M8: exactly this set of inputs may be opened. Durable before anything is decrypted; the update is not needed."""
    frame = stage.frame
    checks.vote_certificate(message, stage.t3, stage.dealers, frame.manifest, state.roster)
    after = Decrypting(frame, stage.t3, stage.survivors, stage.headers, stage.own[0], at)
    return replace(state, stage=after), (
        Persist("certificate", trail=(("t3", stage.t3.hex()),)),
        DiscardInput(frame.key, frame.update_key),
    )


def called(state: State, stage: Decrypting, message: QuorumCall) -> Step:
    """This holder is to answer in a quorum: what it answered is said again, in the same bytes; else it is computed."""
    frame = stage.frame
    use = key_of(state, frame)
    encrypted_checks.quorum_call(message, stage, use, state.me, state.roster)
    if message.quorum == stage.called:
        return state, outstanding(stage)
    quorums = stage.quorums if message.quorum in stage.quorums else (*stage.quorums, message.quorum)
    after = replace(stage, called=message.quorum, quorums=quorums, noise=message.noise)
    named = ",".join(use.names(message.quorum))
    return replace(state, stage=after), (Persist("called", trail=(("quorum", named),)), *outstanding(after))


def outstanding(stage: Decrypting) -> tuple[AnswerQuorum | UploadInput, ...]:
    """The answer that is due in this stage, or the work on it; nothing for who holds no part of the key."""
    if not stage.called:
        return ()
    frame = stage.frame
    for one in stage.answers:
        if one.quorum == stage.called:
            return (UploadInput(frame.key, one.partial, one.leaf_hashes, one.quorum),)
    work = AnswerQuorum(frame.manifest, frame.t0, stage.t3, stage.called, stage.headers, stage.noise, stage.own)
    return (work,)


def answered(state: State, stage: Decrypting, event: AnswerReady) -> Step:
    """M9: the partial decryptions are durable; signed and journaled before they leave."""
    if event.t3 != stage.t3 or any(one.quorum == event.quorum for one in stage.answers):
        return state, ()
    proven = event.proven
    partial = Partial(
        t3=stage.t3,
        org_id=state.me,
        quorum=event.quorum,
        commitment=proven.commitment,
        long_commitment=proven.long_commitment,
        response=proven.response,
        leaf_root=transcript.leaf_root(event.leaf_hashes),
    )
    blob = sign(state, BlobType.PARTIAL, partial)
    after = replace(stage, answers=(*stage.answers, Answer(event.quorum, blob, event.leaf_hashes)))
    return replace(state, stage=after), (
        Persist("reveal", trail=(("t3", stage.t3.hex()), ("leaf_root", partial.leaf_root.hex()))),
        *outstanding(after),
    )


def failed(state: State, stage: Decrypting, event: AnswerFailed) -> Step:
    """What was to be opened failed a check: no share was used on it. Some tries later the others go on without us."""
    if event.quorum != stage.called:
        return state, ()
    after = replace(stage, called=(), failures=stage.failures + 1)
    note = Note(event.code, f"nothing was decrypted in round {stage.frame.key.round}: {event.code}")
    refusal = Send(Refusal(stage.frame.key, event.code))
    return replace(state, stage=after), (Persist("answer_failed", trail=(("code", event.code),)), note, refusal)
