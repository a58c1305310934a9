"""A participant's part in a round: `step(state, event) -> (state, actions)`. Read this first.

Promise: whatever the coordinator sends, this machine releases for each peer at most one of its two secrets, votes once
per attempt, masks one vector per T2, and lets an update be opened only in a sum that a quorum certificate covers.
It opens no socket, reads no clock, draws no randomness and writes no log. A message that fails a check raises; then
nothing was sent and `state` is unchanged. Late and repeated messages are normal and are ignored in cases of their own.

Source: FLSA/1 sections 2.3, 2.6, 2.8, 2.9 with A8-A13 (docs/protocol.md); every rule that may refuse is in `checks`.
"""

from collections.abc import Sequence
from dataclasses import replace

from fedveil_common import noise as noises
from fedveil_common import noise_links, transcript, wire
from fedveil_common.crypto import agreement
from fedveil_common.crypto.draws import Draws
from fedveil_common.errors import FedveilError, PeerError
from fedveil_common.ids import AttemptKey, OrgId, RunId
from fedveil_common.masking import checksum
from fedveil_common.masking import shares as sealing
from fedveil_common.messages import (
    AbortCertificate,
    AbortMessage,
    AbortNotice,
    AbortOrder,
    AbortVote,
    AckMessage,
    Advert,
    AdvertMessage,
    BlobType,
    Certificate,
    CoordinatorMessage,
    Header,
    KeySet,
    Manifest,
    Offer,
    OpeningRequest,
    Openings,
    Phase,
    Progress,
    Proposal,
    QuorumCall,
    Refusal,
    ResultNotice,
    Reveal,
    RevealMessage,
    RunEnded,
    ShareAck,
    ShareDelivery,
    ShareOpening,
    Shares,
    ShareSet,
    SignedBlob,
    Vote,
    VoteMessage,
)
from fedveil_common.roster import Roster
from fedveil_common.secret import Seed

from fedveil_participant import checks, encrypted, encrypted_checks, spending, withdrawing, within_policy
from fedveil_participant.events import (
    Action,
    AnswerFailed,
    AnswerReady,
    Changes,
    CiphertextsReady,
    Connected,
    ConsentChanged,
    DiscardInput,
    EndStored,
    Event,
    InputReady,
    InputsHeld,
    LedgerEntry,
    Note,
    OpenedSum,
    Persist,
    PrepareUpdate,
    ProtectUpdate,
    Received,
    Resumed,
    Send,
    SpentKey,
    SumDisputed,
    TagKey,
    Tick,
    UpdateFailed,
    UpdateReady,
    UploadInput,
)
from fedveil_participant.stages import (
    AbortVoted,
    Acked,
    Advertised,
    Announced,
    BeforeVote,
    Certain,
    Dealt,
    Decrypting,
    Encoding,
    Encrypting,
    Frame,
    Held,
    Idle,
    Inputting,
    OpenStage,
    PeerKeys,
    Preparing,
    Revealed,
    Shared,
    Stage,
    Submitted,
    Voted,
    Working,
)
from fedveil_participant.state import State, Step, apply, close, left_behind, sign, spent_by

KEEP_REVEAL_S = 7 * 86_400.0
"""After a certificate the reveal is kept until the Result, or this long (A9)."""


def step(state: State, event: Event) -> Step:
    """The next state and what the driver must do, in order. Raises a FedveilError if the event is refused."""
    match event:
        case Received(message=message):
            return _receive(state, message, event)
        case UpdateReady() if isinstance(state.stage, Preparing) and state.stage.frame.key == event.key:
            return _advertise(state, state.stage, event)
        case UpdateFailed() if isinstance(state.stage, Working) and state.stage.frame.key == event.key:
            note = Note(event.code, f"no update for round {event.key.round}: {event.code}")
            return close(state, "update_failed", (Send(Refusal(event.key, event.code)), note))
        case InputReady() if isinstance(state.stage, Encoding) and state.stage.frame.key == event.key:
            return _commit_input(state, state.stage, event)
        case CiphertextsReady() if isinstance(state.stage, Encrypting) and state.stage.frame.key == event.key:
            return encrypted.submit(state, state.stage, event)
        case AnswerReady() if isinstance(state.stage, Decrypting) and state.stage.frame.key == event.key:
            return encrypted.answered(state, state.stage, event)
        case AnswerFailed() if isinstance(state.stage, Decrypting) and state.stage.frame.key == event.key:
            return encrypted.failed(state, state.stage, event)
        case UpdateReady() | UpdateFailed() | InputReady() | CiphertextsReady() | AnswerReady() | AnswerFailed():
            return state, left_behind(state, event)  # the attempt has moved on while the work was being done
        case Connected():
            return replace(state, progress_at=event.at), outstanding(state)
        case Resumed():
            return _resume(state, event)
        case Tick():
            return _tick(state, event.at)
        case EndStored() if not isinstance(state.stage, Idle) and state.stage.frame.key.run_id == event.run_id:
            after, actions = close(state, "run_ended", ())  # a Result that never came is in what the end derives from
            return _without_keys(after, event.run_id), actions
        case EndStored():
            return _without_keys(state, event.run_id), ()
        case InputsHeld():
            return withdrawing.hold(state, event.code)
        case ConsentChanged():
            return withdrawing.change(state, event.run_id, event.code)
        case SumDisputed():
            changes = Changes(disputed=(event.run_id,))
            trail = (("run", event.run_id), ("what", event.what))
            return apply(state, changes), (
                Persist("sum_disputed", changes, trail),
                Note("sum_disputed", f"run {event.run_id}: {event.what}"),
            )


def _without_keys(state: State, run_id: RunId) -> State:
    """The end of a run is stored: its sums need no further check."""
    return replace(state, tag_keys=tuple(one for one in state.tag_keys if one.run_id != run_id))


def deadline(state: State) -> float | None:
    """When the machine wants its next `Tick`, on the monotonic clock; None while no attempt is open."""
    match state.stage:
        case Idle():
            return None
        case Revealed() as stage:
            return min(state.progress_at, stage.revealed_at + KEEP_REVEAL_S)
        case Decrypting() as stage:
            return min(state.progress_at, stage.certified_at + KEEP_REVEAL_S)
        case Voted() | AbortVoted():
            return state.progress_at
        case stage:
            return min(state.progress_at, stage.frame.received_at + stage.frame.manifest.hard_limit_s)


def pin(state: State, roster: Roster) -> State:
    """The state once a newer roster version was accepted: pinned now, or when the open attempt is over."""
    if isinstance(state.stage, Idle):
        return replace(state, roster=roster, newer=None)
    return replace(state, newer=roster)


def outstanding(state: State) -> tuple[Action, ...]:
    """What this stage is waiting to get across: said again, in the same bytes, at every new connection."""
    match state.stage:
        case Advertised() as stage:
            return (Send(AdvertMessage(stage.advert)),)
        case Shared() as stage:
            return (Send(Shares(stage.t1, stage.shares)),)
        case Acked() as stage:
            again: tuple[Action, ...] = (Send(AckMessage(stage.ack)),)
            return (*again, Send(Openings(stage.t1, stage.openings))) if stage.openings else again
        case Inputting() as stage:
            return (UploadInput(stage.frame.key, stage.header, stage.leaf_hashes),)
        case Voted() as stage:
            return (Send(VoteMessage(stage.vote)),)
        case AbortVoted() as stage:
            return (Send(AbortMessage(stage.vote)),)
        case Revealed() as stage:
            return (Send(RevealMessage(stage.reveal)),)
        case Preparing() as stage:
            return (PrepareUpdate(stage.frame.manifest, stage.frame.update_key),)
        case Announced() as stage:
            return (Send(AdvertMessage(stage.advert)),)
        case Submitted() as stage:
            return (UploadInput(stage.frame.key, stage.header, stage.leaf_hashes),)
        case Decrypting() as stage:
            return encrypted.outstanding(stage)
        case Idle() | Encoding() | Encrypting():
            return ()


def _resume(state: State, event: Resumed) -> Step:
    """Started again from the journal: what this house would still begin is taken up; its clock may have begun anew."""
    at, sat_out = event.at, withdrawing.resume(state, event.refused)
    if sat_out is not None:
        return sat_out
    match state.stage:
        case Idle():
            return state, ()
        case Revealed() as stage:
            return replace(state, stage=replace(stage, revealed_at=at), progress_at=at), ()
        case Decrypting() as stage:
            return replace(state, stage=replace(stage, certified_at=at), progress_at=at), encrypted.outstanding(stage)
        case stage:
            resumed: OpenStage = replace(stage, frame=replace(stage.frame, received_at=at))
    work: tuple[Action, ...] = ()
    if isinstance(resumed, Preparing):
        work = (PrepareUpdate(resumed.frame.manifest, resumed.frame.update_key),)
    elif isinstance(resumed, Encoding):
        work = (_protect(resumed),)
    elif isinstance(resumed, Encrypting):
        work = (encrypted.encryption(resumed),)
    return replace(state, stage=resumed, progress_at=at), work


def _tick(state: State, at: float) -> Step:
    match state.stage:
        case Idle():
            return state, ()
        case Revealed() as stage if at >= stage.revealed_at + KEEP_REVEAL_S:
            return close(state, "expired", (Note("expired", "no result came within seven days of the reveal"),))
        case Decrypting() as stage if at >= stage.certified_at + KEEP_REVEAL_S:
            return close(state, "expired", (Note("expired", "no result came within seven days of the certificate"),))
        case stage if isinstance(stage, BeforeVote) and (
            at >= stage.frame.received_at + stage.frame.manifest.hard_limit_s
        ):
            return _abort_vote(state, stage, "hard_limit")
        case stage if at >= state.progress_at:
            report = Send(Progress(stage.frame.key, _phase(stage)))
            return replace(state, progress_at=at + stage.frame.manifest.progress_s / 3), (report,)
    return state, ()


def _phase(stage: OpenStage) -> Phase:
    match stage:
        case Preparing():
            return Phase.TRAINING
        case Advertised() | Announced():
            return Phase.ADVERTISED
        case Shared() | Acked():
            return Phase.SHARED
        case Encoding() | Inputting() | Encrypting() | Submitted():
            return Phase.INPUT
        case Voted() | AbortVoted():
            return Phase.VOTED
        case Revealed() | Decrypting():
            return Phase.REVEALED


# --- what the coordinator says ----------------------------------------------------------------------------------------


def _receive(state: State, message: CoordinatorMessage, event: Received) -> Step:
    stage = state.stage
    match message:
        case Offer():
            return _offer(state, message.manifest, event)
        case AbortNotice():
            return _aborted(state, message.certificate)
        case AbortOrder():
            return _abort_order(state, message.request)
        case KeySet():
            match stage:
                case Advertised() if message.t0 == stage.frame.t0:
                    return _share(state, stage, message, Draws(event.seed))
                case Announced() if message.t0 == stage.frame.t0:
                    return encrypted.key_set(state, stage, message, Draws(event.seed))
                case Encrypting() | Submitted() if message.t0 == stage.frame.t0 and (
                    encrypted.t2_of(message) != stage.t2
                ):
                    raise PeerError("equivocation", "a second, different key set for this attempt")
                case Shared() | Acked() if message.t0 == stage.frame.t0 and _t1_of(message) != stage.t1:
                    raise PeerError("equivocation", "a second, different key set for this attempt")
        case ShareDelivery():
            match stage:
                case Shared() if message.t1 == stage.t1:
                    return _acknowledge(state, stage, message)
                case Shared() | Advertised():
                    raise PeerError("wrong_transcript", "shares of another key set")
        case OpeningRequest():
            match stage:
                case Shared() | Acked() if message.t1 == stage.t1:
                    return _answer_complaints(state, stage, message)
        case ShareSet():
            match stage:
                case Acked() if message.t1 == stage.t1:
                    return _encode(state, stage, message, Draws(event.seed))
                case Encoding() if message.t1 == stage.t1 and transcript.t2(stage.t1, message.dealers) != stage.t2:
                    raise PeerError("equivocation", "a second, different dealer set for this attempt")
        case Proposal():
            match stage:
                case Encoding() | Inputting() if message.t2 == stage.t2:
                    return _vote(state, stage, message)
                case Encrypting() | Submitted() if message.t2 == stage.t2:
                    return encrypted.vote(state, stage, message)
                case Encoding() | Inputting() | Encrypting() | Submitted():
                    raise PeerError(
                        "wrong_transcript", "a proposal over another dealer set", not_done="no vote was cast"
                    )
                case Voted() if message.t2 == stage.t2 and _t3_of(message) != stage.t3:
                    raise PeerError("second_vote", "another set of inputs was proposed", not_done="no vote was cast")
        case Certificate():
            match stage:
                case Voted() if stage.frame.manifest.encryption:
                    return encrypted.certified(state, stage, message, event.at)
                case Voted():
                    return _reveal(state, stage, message, event.at)
                case AbortVoted():
                    raise PeerError("abort_voted", "this participant voted to abort", not_done="nothing was revealed")
                case Revealed() | Decrypting() if message.t3 != stage.t3:
                    raise PeerError(
                        "wrong_transcript", "a certificate over another set", not_done="nothing was revealed"
                    )
                case Encoding() | Inputting() | Encrypting() | Submitted():
                    raise PeerError("no_proposal", "a certificate without a proposal", not_done="nothing was revealed")
        case QuorumCall():
            match stage:
                case Decrypting():
                    return encrypted.called(state, stage, message)
                case Voted():
                    raise PeerError("no_certificate", "a quorum is called without a certificate")
        case ResultNotice():
            match stage:
                case Revealed() | Decrypting() if message.key == stage.frame.key:
                    checks.result_of(
                        message.result, stage.t3, len(stage.survivors), stage.frame.manifest.length, state.roster
                    )
                    pinned = OpenedSum(
                        message.key.run_id, message.key.round, stage.t3, transcript.result_hash(message.result.body)
                    )
                    settled = spending.settle(state, stage.frame)
                    return close(
                        state, "done", (), Changes(opened=(pinned,), tag_keys=_tag_keys(stage), ledger=settled)
                    )
        case RunEnded():
            match stage:
                case Idle() | Revealed() | Decrypting():
                    pass
                case _ if stage.frame.key.run_id == message.run_id:
                    return close(state, "run_ended", ())  # what was sent stays spent; every key is erased
        case _:
            pass  # roster, plans, receipts and ends of runs are the driver's: they move no attempt
    return state, ()  # late or repeated: what it would cause has happened, or can no longer happen


def _offer(state: State, blob: SignedBlob, event: Received) -> Step:
    """M0: every check of 2.6, then the work on the update begins. Nothing is sent yet."""
    t0 = transcript.t0(blob.body)
    if not isinstance(state.stage, Idle) and state.stage.frame.t0 == t0:
        checks.coordinator_signature(blob, state.roster, BlobType.MANIFEST)
        return state, outstanding(state)
    pinned = state  # for what concerns the attempt that is left
    if state.newer is not None:  # an attempt that begins is under the newest roster: its members, its coordinator
        state = replace(state, roster=state.newer, newer=None)
    checks.coordinator_signature(blob, state.roster, BlobType.MANIFEST)
    manifest = wire.parse_body(BlobType.MANIFEST, blob.body)
    assert isinstance(manifest, Manifest)
    checks.manifest_is_newer(manifest, state.high_water)
    checks.manifest_roster(manifest, state.roster, state.me)
    accepted = state.plans.get(manifest.key.run_id)
    if accepted is None:
        raise PeerError("plan_not_accepted", "the manifest is for a run this organisation did not accept")
    checks.not_disputed(manifest.key.run_id, state.disputed)
    said_no = withdrawing.refusal_of(state, manifest)
    if said_no:
        return pinned, said_no
    checks.manifest_quorum(manifest, state.roster, state.limits, accepted.plan.cohort.max_corrupt)
    checks.manifest_corrupt(manifest, state.roster, accepted.plan.cohort.max_corrupt)
    checks.manifest_cohort_size(manifest, accepted.plan)
    checks.manifest_no_wrap(manifest)
    checks.manifest_follows_plan(manifest, accepted)
    if accepted.plan.protection.key or manifest.encryption:
        encrypted_checks.manifest_key(manifest, accepted.keys, noises.coordinator_cap(accepted.plan))
    checks.abort_certificates_complete(manifest)
    freed, released, cleared = _leave(pinned, manifest)
    state = replace(state, ledgers=spent_by(state.ledgers, released))
    keys = checks.spent_key(manifest, accepted), checks.update_key(manifest, accepted)
    checks.not_spent(keys, state.spent - set(freed), state.sketches, state.limits.min_changed_rows)
    frame = Frame(blob, manifest, t0, *keys, event.at)
    spending.check(state, frame)
    changes = Changes(high_water=manifest.key, free=freed, tag_keys=_tag_keys(pinned.stage), ledger=released)
    after = apply(replace(state, stage=Preparing(frame), progress_at=event.at), changes)
    persist = Persist("offer", changes, (("t0", t0.hex()),))
    return after, (persist, *cleared, PrepareUpdate(manifest, frame.update_key))


def _tag_keys(stage: Stage) -> tuple[TagKey, ...]:
    """The checksum key of an attempt that may have been opened, kept until its sum was checked."""
    match stage:
        case Voted() | Revealed():
            return tuple(TagKey(stage.frame.key.run_id, stage.frame.key.round, stage.t3, key) for key in stage.tag_key)
        case _:
            return ()


def _leave(
    state: State, manifest: Manifest
) -> tuple[tuple[SpentKey, ...], tuple[LedgerEntry, ...], tuple[Action, ...]]:
    """Leave the open attempt for a newer one: what an abort certificate in the new manifest frees, what to delete.

    Without a certificate over my T0 the old attempt's update stays spent (2.8); its keys are erased with its stage, so
    this participant can never reveal anything for it.
    """
    match state.stage:
        case Idle():
            return (), (), ()
        case stage:
            pass
    for certificate in manifest.abort_certificates:
        if certificate.t0 == stage.frame.t0 and not isinstance(stage, Certain):  # these know a certificate to open
            checks.abort_certificate(certificate, stage.frame, state.roster)
            released = spending.release(state, stage.frame, certificate)
            return stage.frame.spends, released, (DiscardInput(stage.frame.key),)
    return (), (), (DiscardInput(stage.frame.key),)


def _advertise(state: State, stage: Preparing, event: UpdateReady) -> Step:
    """M1: the update is stored, so fresh keys may be made. They are journaled before their advert leaves."""
    checks.derived_model(stage.frame.manifest, event.model_hash)
    walked = {(one.run_id, one.round) for one in event.walked}
    checked = tuple(one for one in state.tag_keys if (one.run_id, one.round) in walked)
    changes = Changes(opened=event.walked, checked=checked, admission=event.admission)
    if stage.frame.manifest.encryption:
        return encrypted.announce(state, stage, event, changes)
    draws, frame = Draws(event.seed), stage.frame
    made = Advertised(
        frame,
        advert=SignedBlob(state.me, BlobType.ADVERT, b"", b""),
        mask_key=draws.private_key("mask"),
        channel_key=draws.private_key("channel"),
        self_seed=draws.seed("self"),
        kappa=draws.seed("kappa"),
    )
    advert = Advert(
        t0=frame.t0,
        org_id=state.me,
        mask_key=agreement.public_key(made.mask_key),
        channel_key=agreement.public_key(made.channel_key),
        selfseed_commit=sealing.selfseed_commit(frame.t0, state.me, made.self_seed),
        kappa_commit=sealing.kappa_commit(frame.t0, state.me, made.kappa),
        nonce=draws.bytes("nonce", 32),
    )
    blob = sign(state, BlobType.ADVERT, advert)
    after = apply(replace(state, stage=replace(made, advert=blob)), changes)
    return after, (Persist("advert", changes, (("t0", frame.t0.hex()),)), Send(AdvertMessage(blob)))


def _t1_of(message: KeySet) -> bytes:
    return transcript.t1(message.t0, {blob.signer_id: blob.body for blob in message.adverts})


def _share(state: State, stage: Advertised, message: KeySet, draws: Draws) -> Step:
    """M2 -> M3: deal my mask key and my self seed to every member of U1."""
    frame, manifest = stage.frame, stage.frame.manifest
    blobs = {blob.signer_id: blob for blob in message.adverts}
    for blob in message.adverts:
        checks.advert_signature(blob, state.roster, manifest)
    adverts = {org: checks.advert_of(blob, frame) for org, blob in blobs.items()}
    checks.own_advert(blobs, stage.advert)
    checks.fresh_keys(adverts.values())
    checks.enough(len(adverts), manifest, "key set")
    t1 = transcript.t1(frame.t0, {org: blob.body for org, blob in blobs.items()})
    xs = x_coordinates(manifest)
    made = sealing.deal_to_all(
        t1,
        state.me,
        xs,
        stage.channel_key,
        {org: advert.channel_key for org, advert in adverts.items() if org in xs},
        stage.mask_key,
        stage.self_seed,
        stage.kappa,
        manifest.threshold,
        draws,
    )
    signed = tuple(sign(state, BlobType.SHARE, message) for message in made.messages)
    dealt = tuple(
        Dealt(org, share.key_share, share.self_share) for org, share in made.shares.items() if org != state.me
    )
    peers = tuple(
        PeerKeys(org, adverts[org].mask_key, adverts[org].channel_key, adverts[org].kappa_commit)
        for org in sorted(adverts)
    )
    after = Shared(frame, t1, peers, stage.mask_key, stage.channel_key, stage.self_seed, stage.kappa, signed, dealt)
    return replace(state, stage=after), (
        Persist("shares", trail=(("t1", t1.hex()),)),
        Send(Shares(t1, signed)),
    )


def _acknowledge(state: State, stage: Shared, message: ShareDelivery) -> Step:
    """M4a -> M4b: open what was dealt to me; a dealer whose shares are unusable is named in the signed ack."""
    peers = {peer.org_id: peer for peer in stage.peers if peer.org_id != state.me}
    x = x_coordinates(stage.frame.manifest)[state.me]
    held: list[Held] = []
    bad: set[OrgId] = set()
    for blob in message.shares:
        dealer = peers.get(blob.signer_id)
        if dealer is None:
            raise PeerError(
                "not_a_member", f"a share by {blob.signer_id}, who is not in the key set", peer=blob.signer_id
            )
        try:
            held.append(
                checks.received_share(
                    blob, stage.t1, stage.frame.t0, state.me, x, stage.channel_key, dealer, state.roster
                )
            )
        except PeerError:
            bad.add(dealer.org_id)  # said in public: the dealer answers by opening exactly these shares (A11)
    ack = sign(state, BlobType.SHARE_ACK, ShareAck(stage.t1, state.me, tuple(sorted(bad))))
    after = Acked(
        stage.frame,
        stage.t1,
        stage.peers,
        stage.mask_key,
        stage.self_seed,
        stage.kappa,
        stage.dealt,
        tuple(held),
        message.shares,
        ack,
        (),
    )
    return replace(state, stage=after), (
        Persist("ack", trail=(("bad_dealers", ",".join(sorted(bad))),)),
        Send(AckMessage(ack)),
    )


def _answer_complaints(state: State, stage: Shared | Acked, message: OpeningRequest) -> Step:
    """M4c: open in public exactly the shares that were complained about, at most c of them in this attempt."""
    if not isinstance(stage, Acked):
        return state, ()  # asked again once my own ack is in
    members = [peer.org_id for peer in stage.peers]
    complainers = {checks.complaint(blob, stage.t1, state.me, members, state.roster) for blob in message.complaints}
    mine = {one.recipient: one for one in stage.dealt}
    answered = {opening_recipient(blob): blob for blob in stage.openings}
    checks.openings_bounded(complainers | set(answered), stage.frame.manifest)
    for org in sorted(complainers - set(answered)):
        one = mine[org]
        opening = ShareOpening(stage.t1, state.me, org, one.key_share.expose(), one.self_share.expose())
        answered[org] = sign(state, BlobType.SHARE_OPENING, opening)
    openings = tuple(answered[org] for org in sorted(answered))
    after = replace(stage, openings=openings)
    return replace(state, stage=after), (
        Persist("openings", trail=(("recipients", ",".join(sorted(answered))),)),
        Send(Openings(stage.t1, openings)),
    )


def opening_recipient(blob: SignedBlob) -> OrgId:
    """For whom a (verified or own) opening opens a share."""
    body = wire.parse_body(BlobType.SHARE_OPENING, blob.body)
    assert isinstance(body, ShareOpening)
    return body.recipient


def _encode(state: State, stage: Acked, message: ShareSet, draws: Draws) -> Step:
    """M4: the dealer set is fixed, so T2 is; the masked input may now be written, once."""
    manifest = stage.frame.manifest
    delivered = {blob.signer_id: blob for blob in stage.deliveries}
    held = {one.dealer: one for one in stage.held}
    for blob in message.openings:
        if blob.signer_id in delivered and blob.signer_id not in held:
            held[blob.signer_id] = checks.opening_answers(
                blob, delivered[blob.signer_id], stage.t1, state.me, state.roster
            )
    checks.dealers(message.dealers, [peer.org_id for peer in stage.peers], held, state.me, manifest)
    t2 = transcript.t2(stage.t1, message.dealers)
    after = Encoding(
        stage.frame,
        stage.t1,
        t2,
        tuple(peer for peer in stage.peers if peer.org_id in message.dealers),
        stage.mask_key,
        stage.self_seed,
        draws.seed("rounding"),
        tuple(replace(held[org], kappa=()) for org in message.dealers if org != state.me),
        _tag_key(t2, [(stage.kappa,) if org == state.me else held[org].kappa for org in message.dealers], manifest),
    )
    return replace(state, stage=after), (
        Persist("dealers", trail=(("t2", after.t2.hex()),)),
        _protect(after),
    )


def _tag_key(t2: bytes, kappas: Sequence[tuple[Seed, ...]], manifest: Manifest) -> tuple[Seed, ...]:
    """The checksum key, from the parts of all dealers in the order of their ids; empty if a part is missing, where a
    sum can be too large for a checksum (A4), and where the coordinator alone may see the exact sum (A5).
    """
    parts = [part for known in kappas for part in known]
    if noises.rests_on_coordinator(manifest):
        return ()  # the tag of the exact sum beside a noisy one would tell of the difference
    if len(parts) < len(kappas) or not checksum.usable(len(manifest.cohort), manifest.value_bits):
        return ()
    return (checksum.tag_key(t2, parts),)


def _protect(stage: Encoding) -> ProtectUpdate:
    return ProtectUpdate(
        stage.frame.manifest,
        stage.frame.update_key,
        stage.t2,
        stage.mask_key,
        stage.self_seed,
        stage.rounding,
        stage.tag_key,
        tuple((peer.org_id, peer.mask_key) for peer in stage.peers),
    )


def _commit_input(state: State, stage: Encoding, event: InputReady) -> Step:
    """M5: the masked input is durable; its header makes the update spent, so both are journaled before it leaves."""
    if event.t2 != stage.t2:
        return state, ()
    manifest = stage.frame.manifest
    dealers = tuple(peer.org_id for peer in stage.peers)
    links = noise_links.chain(manifest, _coins(state, stage))
    header = Header(
        t2=stage.t2,
        org_id=state.me,
        length=manifest.length,
        ring_bits=manifest.ring_bits,
        leaf_count=len(event.leaf_hashes),
        leaf_root=transcript.leaf_root(event.leaf_hashes),
        tag_ok=bool(stage.tag_key),
        masked_tag=event.masked_tag,
        noise_chain=links[-1].expose() if links else b"",
    )
    blob = sign(state, BlobType.HEADER, header)
    after = Inputting(
        stage.frame,
        stage.t2,
        dealers,
        stage.self_seed,
        stage.held,
        stage.tag_key,
        blob,
        event.leaf_hashes,
        links,
    )
    changes = Changes(spend=stage.frame.spends, ledger=spending.reserve(state, stage.frame))
    return apply(replace(state, stage=after), changes), (
        Persist("input", changes, (("leaf_root", header.leaf_root.hex()),)),
        UploadInput(stage.frame.key, blob, event.leaf_hashes),
    )


def _coins(state: State, stage: Encoding) -> noise_links.Coins:
    return noise_links.Coins(stage.rounding, stage.t2, state.me, len(stage.peers))


def _t3_of(message: Proposal) -> bytes:
    return transcript.t3(message.t2, {blob.signer_id: blob.body for blob in message.headers})


def _vote(state: State, stage: Encoding | Inputting, message: Proposal) -> Step:
    """M6 -> M7: the one vote of this attempt. A member whose input came too late votes as a witness (A9)."""
    frame, manifest = stage.frame, stage.frame.manifest
    members = stage.dealers if isinstance(stage, Inputting) else tuple(peer.org_id for peer in stage.peers)
    headers = {blob.signer_id: blob for blob in message.headers}
    for blob in message.headers:
        checks.header_of(blob, stage.t2, members, manifest, state.roster)
    checks.own_header(headers, state.me, stage.header if isinstance(stage, Inputting) else None)
    checks.enough_survivors(len(headers), manifest, state.limits)
    within_policy.survivors_within_policy(headers, state.limits, state.me)
    t3 = _t3_of(message)
    vote = sign(state, BlobType.VOTE, Vote(t3))
    survivor = state.me in headers
    after = Voted(
        frame,
        stage.t2,
        t3,
        members,
        tuple(sorted(headers)),
        (stage.self_seed,) if survivor else (),
        stage.held,
        stage.tag_key,
        vote,
        noise=stage.noise if survivor and isinstance(stage, Inputting) else (),
    )
    changes = Changes(opened=(OpenedSum(frame.key.run_id, frame.key.round, t3),))
    return apply(replace(state, stage=after), changes), (
        Persist("vote", changes, (("t3", t3.hex()), ("survivors", ",".join(sorted(headers))))),
        Send(VoteMessage(vote)),
    )


def _reveal(state: State, stage: Voted, message: Certificate, at: float) -> Step:
    """M8 -> M9: for survivors their self seed, for the dropped their mask key, and of my noise what no dropout used up.
    Computed from T3, from no request.
    """
    checks.vote_certificate(message, stage.t3, stage.dealers, stage.frame.manifest, state.roster)
    survivors = set(stage.survivors)
    reveal = Reveal(
        t3=stage.t3,
        self_seed=stage.self_seed[0].expose() if stage.self_seed else b"",
        self_shares=tuple((one.dealer, one.self_share.expose()) for one in stage.held if one.dealer in survivors),
        key_shares=tuple((one.dealer, one.key_share.expose()) for one in stage.held if one.dealer not in survivors),
        noise_link=noise_links.shown(stage.frame.manifest, stage.noise, len(stage.dealers), len(survivors)),
    )
    blob = sign(state, BlobType.REVEAL, reveal)
    after = Revealed(stage.frame, stage.t3, stage.survivors, stage.tag_key, blob, at)
    return replace(state, stage=after), (
        Persist("reveal", trail=(("t3", stage.t3.hex()),)),
        Send(RevealMessage(blob)),
        DiscardInput(stage.frame.key, stage.frame.update_key),
    )


# --- ends -------------------------------------------------------------------------------------------------------------


def _abort_order(state: State, blob: SignedBlob) -> Step:
    """The coordinator asks to end the attempt: agreed to until I have voted for a set of inputs, never after."""
    match state.stage:
        case stage if isinstance(stage, BeforeVote):
            request = checks.abort_request(blob, stage.frame, state.roster)
            return _abort_vote(state, stage, request.reason)
        case _:
            return state, ()


def _abort_vote(state: State, stage: BeforeVote, reason: str) -> Step:
    frame = stage.frame
    vote = sign(state, BlobType.ABORT, AbortVote(frame.t0, frame.key.attempt))
    after = AbortVoted(frame, vote, spent=isinstance(stage, Inputting | Submitted))
    return replace(state, stage=after), (
        Persist("abort_vote", trail=(("t0", frame.t0.hex()), ("reason", reason))),
        Send(AbortMessage(vote)),
        DiscardInput(frame.key),
    )


def _aborted(state: State, certificate: AbortCertificate) -> Step:
    """An abort certificate over my T0: no certificate to open can ever exist, so the update may be used again (A9)."""
    match state.stage:
        case stage if isinstance(stage, Idle | Certain):
            return state, ()
        case stage if certificate.t0 != stage.frame.t0:
            return state, ()
        case stage:
            checks.abort_certificate(certificate, stage.frame, state.roster)
    released = spending.release(state, stage.frame, certificate)
    return close(state, "aborted", (), Changes(free=stage.frame.spends, ledger=released))


def x_coordinates(manifest: Manifest) -> dict[OrgId, int]:
    """The Shamir x-coordinate of each cohort member: 1 + its index in the sorted cohort; never 0."""
    return {org: index + 1 for index, org in enumerate(manifest.cohort)}


def refusal(state: State, error: FedveilError) -> Send | None:
    """How to tell the coordinator that this attempt stops here: a closed code, without counts or names."""
    match state.stage:
        case Idle():
            return None
        case stage:
            return Send(Refusal(stage.frame.key, error.code))


def attempt_of(state: State) -> AttemptKey | None:
    """Which attempt is open, if any."""
    return None if isinstance(state.stage, Idle) else state.stage.frame.key


__all__ = ["Seed", "State", "attempt_of", "deadline", "outstanding", "refusal", "step", "x_coordinates"]
