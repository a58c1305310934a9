"""One attempt at the coordinator: `step(attempt, event) -> (attempt, actions)`. Read this first.

Promise: each set (key set, dealers, survivors) is journaled before it is first sent and never changes afterwards; an
input counts once; nothing is opened without a certificate of q votes; whatever a participant sends, the others go on.
It opens no socket, reads no clock, draws no randomness and writes no log. What is accepted from a member is in
`acceptance`, the stages and their fold in `attempt`; `outstanding` says again what a member still needs.

Source: FLSA/1 sections 2.3, 2.7, 2.9 with A8, A9, A11, A12 (docs/protocol.md).
"""

import itertools
from collections import Counter
from dataclasses import replace
from typing import assert_never

from fedveil_common import noise, noise_links
from fedveil_common.errors import PeerError
from fedveil_common.ids import OrgId
from fedveil_common.masking import quorum
from fedveil_common.messages import (
    AbortNotice,
    AbortOrder,
    BlobType,
    CoordinatorMessage,
    KeySet,
    Manifest,
    Offer,
    OpeningRequest,
    Progress,
    Proposal,
    QuorumCall,
    Removal,
    Result,
    ResultNotice,
    ShareDelivery,
    ShareSet,
)
from fedveil_common.paillier.round_shape import shape_in_use
from fedveil_common.secret import PrivateKey

from fedveil_coordinator import acceptance, facts, opening
from fedveil_coordinator.attempt import (
    Aborted,
    Aborting,
    Acking,
    Attempt,
    Collecting,
    Dead,
    Dealings,
    Decrypting,
    Frame,
    Multiplying,
    Offering,
    Opened,
    Opening,
    Revealing,
    Sets,
    Sharing,
    Voting,
    complaints,
    convicted,
    opening_body,
    unanswered,
)
from fedveil_coordinator.course import Course
from fedveil_coordinator.events import (
    AbortOrdered,
    Action,
    Announce,
    DiscardInputs,
    Disconnected,
    Event,
    Heard,
    InputSpooled,
    KeepInputs,
    MultiplyInputs,
    OpeningFailed,
    OpenSum,
    ProductReady,
    Received,
    Resumed,
    SumReady,
    UploadRefused,
)
from fedveil_coordinator.intake import UPLOADS_AT_ONCE

# --- one step ---------------------------------------------------------------------------------------------------------


def step(attempt: Attempt, event: Event, signing_key: PrivateKey) -> tuple[Attempt, tuple[Action, ...]]:
    """The next state and the driver's work, in order. Raises PeerError if a message is refused: no state moved."""
    course = Course(attempt, signing_key)
    match event:
        case Received(org_id=org):
            if org not in attempt.frame.manifest.cohort:
                raise PeerError("not_in_cohort", f"{org} is not in the cohort of this attempt", peer=org)
            if not isinstance(event.message, Progress) or event.message.key == attempt.key:
                course.attempt = replace(attempt, heard={**attempt.heard, org: event.at})
            acceptance.receive(course, event)
            _delivered(course, attempt, org, event.at)
        case Heard(org_id=org) if org in attempt.frame.manifest.cohort:
            course.attempt = replace(attempt, heard={**attempt.heard, org: event.at})
            if event.leaves == 0 or event.leaves > attempt.uploaded.get(org, 0):
                uploaded = {**attempt.uploaded, org: max(event.leaves, attempt.uploaded.get(org, 0))}
                course.attempt = replace(
                    course.attempt, uploaded=uploaded, delivered={**attempt.delivered, org: event.at}
                )
        case InputSpooled(org_id=org):
            acceptance.accept_upload(course, event)
            _delivered(course, attempt, org, event.at)
        case UploadRefused():
            acceptance.refuse_upload(course, event)
        case Disconnected(org_id=org) if isinstance(attempt.stage, Decrypting):
            # another holder can answer: who is gone is not waited for, and counts again once it is heard of
            course.attempt = replace(
                attempt, heard={**attempt.heard, org: event.at - attempt.frame.manifest.progress_s}
            )
        case ProductReady() if isinstance(attempt.stage, Multiplying) and event.key == attempt.key:
            course.record(facts.ProductMade(event.noise, event.root), event.at)
        case SumReady() if isinstance(attempt.stage, Opening) and event.key == attempt.key:
            _publish(course, attempt.stage, event)
        case OpeningFailed() if isinstance(attempt.stage, Opening) and event.key == attempt.key:
            if event.dealer:
                evidence = attempt.stage.revealing.shares.get(event.dealer, {})
                course.exclude(event.dealer, event.code, tuple(evidence.values()), event.at)
            course.record(facts.AttemptDied(event.code), event.at)
        case Resumed():
            heard = dict.fromkeys(attempt.frame.manifest.cohort, event.at)
            course.attempt = replace(attempt, heard=heard, since=event.at, began=None)
            if isinstance(attempt.stage, Multiplying):
                course.act(MultiplyInputs(attempt.key))
            elif isinstance(attempt.stage, Opening):
                course.act(OpenSum(attempt.key))
            elif isinstance(attempt.stage, Opened):
                course.act(_keeping(attempt.frame, attempt.stage))
        case AbortOrdered():
            course.begin_abort("operator", (), event.at)
        case _:
            pass
    _advance(course, event.at)
    return course.attempt, tuple(course.actions)


def _delivered(course: Course, before: Attempt, org: OrgId, at: float) -> None:
    """What a member sent counts as a delivery if it moved the stage; a late one clears the member."""
    after = course.attempt
    if after.stage is not before.stage and org not in after.excluded:
        delivered = {**after.delivered, org: at}
        course.attempt = replace(after, delivered=delivered, overdue=after.overdue - {org})


def _advance(course: Course, at: float) -> None:
    """Close the current stage if everyone awaited has answered or is overdue; repeat until nothing closes."""
    while True:
        _mark_overdue(course, at)
        attempt, manifest = course.attempt, course.attempt.frame.manifest
        stage, pending, gone = attempt.stage, pending_members(attempt, at), attempt.abort_votes.keys()
        match stage:
            case Offering():
                if not _viable(course, len(stage.adverts) + len(pending), manifest.quorum, "too_few_adverts", at):
                    continue
                holders = len(attempt.frame.holders([*stage.adverts, *pending]))
                if not _viable(course, holders, attempt.frame.holders_needed, "too_few_holders", at):
                    continue
                if pending:
                    return
                members = tuple(sorted(stage.adverts))
                course.record(facts.KeySetFrozen(members), at)
                course.send(members, KeySet(attempt.frame.t0, tuple(stage.adverts[org] for org in members)))
            case Sharing():
                complete = tuple(sorted(stage.shares.keys() - gone))
                if not _viable(course, len(complete) + len(pending), manifest.quorum, "too_few_shares", at):
                    continue
                if pending:
                    return
                course.record(facts.SharesDelivered(complete), at)
                assert isinstance(course.attempt.stage, Acking)
                for org in complete:
                    course.send((org,), _delivery(stage.t1, course.attempt.stage.shares, org))
            case Acking():
                remaining = stage.shares.keys() - gone
                if not _viable(course, len(remaining), manifest.quorum, "too_few_dealers", at):
                    continue
                if pending:
                    return
                dealers = tuple(sorted(remaining - convicted(stage, manifest)))
                if not _viable(course, len(dealers), manifest.quorum, "too_few_dealers", at):
                    continue
                course.record(facts.DealersFrozen(dealers), at)
                for org in dealers:
                    course.send((org,), _share_set(stage.t1, dealers, stage.openings, org))
            case Collecting():
                needed = max(manifest.quorum, manifest.min_survivors)
                if not _viable(course, len(stage.headers) + len(pending), needed, "too_few_survivors", at):
                    continue
                if not _viable(course, len(stage.shares.keys() - gone), manifest.quorum, "too_few_votes", at):
                    continue
                holders = len(attempt.frame.holders(stage.shares.keys() - gone - attempt.excluded))
                if not _viable(course, holders, attempt.frame.holders_needed, "too_few_holders", at):
                    continue
                if pending:
                    return
                if len(_present_holders(course.attempt, at)) < attempt.frame.holders_needed:
                    if not _holders_late(course, at):
                        return
                    continue
                course.attempt = replace(course.attempt, missed=())
                course.record(facts.Proposed(tuple(sorted(stage.headers))), at)
                proposal = Proposal(stage.t2, tuple(stage.headers[org] for org in sorted(stage.headers)))
                course.send(sorted(stage.shares), proposal)
            case Voting():
                if len(stage.votes) < manifest.quorum:
                    if not _vote_lost(course, stage, pending, at):
                        return
                    continue
                course.record(facts.Certified(tuple(sorted(stage.votes))), at)
                assert isinstance(course.attempt.stage, Revealing | Multiplying)
                course.send(sorted(stage.shares), course.attempt.stage.certificate)
                if isinstance(course.attempt.stage, Multiplying):
                    course.act(MultiplyInputs(attempt.key))
            case Revealing():
                if _openable(stage, manifest, everyone_answered=not pending):
                    course.record(facts.OpeningStarted(tuple(sorted(stage.reveals))), at)
                    course.act(OpenSum(attempt.key))
                elif at >= attempt.since + manifest.hard_limit_s:
                    course.record(facts.AttemptDied("too_few_reveals"), at)
                return
            case Aborting():
                if len(stage.votes) >= quorum.abort_threshold(len(manifest.cohort), manifest.corrupt):
                    course.record(facts.AbortCertified(tuple(sorted(stage.votes))), at)
                    assert isinstance(course.attempt.stage, Aborted)
                    course.send(manifest.cohort, AbortNotice(course.attempt.stage.certificate))
                    course.act(DiscardInputs(attempt.key))
                elif at >= attempt.since + manifest.hard_limit_s:
                    course.record(facts.AttemptDied(stage.reason), at)
                return
            case Decrypting():
                _decrypt(course, stage, pending, at)
                return
            case Multiplying() | Opening() | Opened() | Aborted() | Dead():
                return
            case _:
                assert_never(stage)


def _present_holders(attempt: Attempt, at: float) -> tuple[int, ...]:
    """The holders of U2 that can be called now, by index."""
    stage = attempt.stage
    assert isinstance(stage, Collecting | Decrypting)
    late = attempt.overdue if isinstance(stage, Decrypting) else frozenset()  # with an input, not with an answer
    out = late | attempt.abort_votes.keys()
    there = [org for org in stage.shares if org not in out and _heard(attempt, org, at)]
    return attempt.frame.keys[0].indices(there) if attempt.frame.keys else ()


def _holders_late(course: Course, at: float) -> bool:
    """Before a certificate the wait for holders can still be given up: then the updates are free again."""
    attempt = course.attempt
    if at < attempt.since + attempt.frame.manifest.hard_limit_s:
        _say_waiting(course, at)
        return False
    course.begin_abort("too_few_holders", _absent_holders(attempt, at), at)
    return True


def _absent_holders(attempt: Attempt, at: float) -> tuple[OrgId, ...]:
    use = attempt.frame.keys[0]
    present = use.names(_present_holders(attempt, at))
    return tuple(org for org in use.holders if org not in present)


def _say_waiting(course: Course, at: float) -> None:
    """Name what an attempt waits for, once for each set of missing holders."""
    missing = _absent_holders(course.attempt, at)
    if missing != course.attempt.missed:
        course.attempt = replace(course.attempt, missed=missing)
        course.act(Announce("waiting", (("reason", "too_few_holders"), ("missing", ",".join(missing)))))


def _decrypt(course: Course, stage: Decrypting, pending: tuple[OrgId, ...], at: float) -> None:
    """Open once the whole quorum has answered; call another one where a member of it will not; wait where there is
    none, until the hard limit: after a certificate nothing can be taken back.
    """
    attempt, use = course.attempt, course.attempt.frame.keys[0]
    called = use.names(stage.quorums[-1]) if stage.quorums else ()
    if called and all(org in stage.reveals for org in called):
        course.record(facts.OpeningStarted(tuple(sorted(called))), at)
        course.act(OpenSum(attempt.key))
        return
    if called and all(org in stage.reveals or org in pending for org in called):
        return
    present = _present_holders(attempt, at)
    quorum_ = _next_quorum(stage, present, use.threshold, len(use.holders))
    if quorum_ and quorum_ == (stage.quorums[-1] if stage.quorums else ()):
        return  # all of it is there, and was told on its sessions
    if quorum_:
        course.record(facts.QuorumCalled(quorum_), at)
        asked = {**course.attempt.delivered, **dict.fromkeys(use.names(quorum_), at)}
        course.attempt = replace(course.attempt, delivered=asked, missed=())
        course.send(use.names(quorum_), QuorumCall(stage.t3, quorum_, stage.noise))
        if called:
            lost = [org for org in called if org not in use.names(quorum_)]
            course.act(Announce("holders_replaced", (("lost", ",".join(lost)), ("reason", "no_answer"))))
    elif at >= attempt.since + attempt.frame.manifest.hard_limit_s:
        course.record(facts.AttemptDied("too_few_holders"), at)
    else:
        _say_waiting(course, at)


def _next_quorum(stage: Decrypting, present: tuple[int, ...], threshold: int, holders: int) -> tuple[int, ...]:
    """Of the holders that are there, first those of the last quorum, then those that were replaced least often; empty
    if they are too few, or if the holders have answered in as many quorums as they ever do for one set of inputs.
    """
    if len(present) < threshold:
        return ()
    before = stage.quorums[-1] if stage.quorums else ()
    pairs = itertools.pairwise(stage.quorums)  # whoever comes and goes must not be called in turn with another one
    lost = Counter(index for former, latter in pairs for index in former if index not in latter)
    ranked = sorted(present, key=lambda index: (index not in before, lost[index], index))
    chosen = tuple(sorted(ranked[:threshold]))
    known = set(stage.quorums)
    if chosen in known or len(known) < holders:
        return chosen
    return next((one for one in stage.quorums if set(one) <= set(present)), ())


def _viable(course: Course, reachable: int, needed: int, reason: str, at: float) -> bool:
    """Whether the stage can still reach its number; if not, the abort is begun."""
    if reachable >= needed:
        return True
    course.begin_abort(reason, _missing(course.attempt, at), at)
    return False


def _missing(attempt: Attempt, at: float) -> tuple[OrgId, ...]:
    """Whom the attempt lacks: who is awaited in vain, and who abort-voted."""
    lost = set(awaited(attempt)) - set(pending_members(attempt, at))
    return tuple(sorted(lost | attempt.abort_votes.keys()))


def _vote_lost(course: Course, stage: Voting, pending: tuple[OrgId, ...], at: float) -> bool:
    """Give the vote up when q is out of reach AND enough members that have not voted are there to certify the abort;
    otherwise keep waiting for those that are missing, until the hard limit.
    """
    attempt, manifest = course.attempt, course.attempt.frame.manifest
    if len(stage.votes) + len(pending) >= manifest.quorum:
        return False
    there = [org for org in manifest.cohort if org in attempt.abort_votes or _heard(attempt, org, at)]
    free = [org for org in there if org not in stage.votes]
    late = at >= attempt.since + manifest.hard_limit_s
    if not late and len(free) < quorum.abort_threshold(len(manifest.cohort), manifest.corrupt):
        return False
    course.begin_abort("too_few_votes", _missing(attempt, at), at)
    return True


# --- who is waited for ------------------------------------------------------------------------------------------------


def awaited(attempt: Attempt) -> tuple[OrgId, ...]:
    """Whose answer the current stage still lacks, alive or not; sorted."""
    stage = attempt.stage
    match stage:
        case Offering():
            names = set(attempt.frame.manifest.cohort) - set(stage.adverts)
        case Sharing():
            names = set(stage.adverts) - set(stage.shares)
        case Acking():
            names = (set(stage.shares) - set(stage.acks)) | unanswered(stage, attempt.frame.manifest)
        case Collecting():
            names = set(stage.shares) - set(stage.headers)
        case Voting():
            names = set(stage.shares) - set(stage.votes)
        case Revealing():
            names = set(stage.shares) - set(stage.reveals)
        case Decrypting():
            called = attempt.frame.keys[0].names(stage.quorums[-1]) if stage.quorums else ()
            names = set(called) - set(stage.reveals)
        case Aborting():
            names = set(attempt.frame.manifest.cohort) - set(stage.votes) - stage.voted
        case Multiplying() | Opening() | Opened() | Aborted() | Dead():
            names = set()
    return tuple(sorted(names - attempt.excluded))


STAGE_PATIENCE = 10
"""Progress reports alone keep a member from being overdue for this many progress_s of one stage; see `patience`."""

LEAF_S = 1.0
"""What masking and sending one leaf (64 KiB) may take; see `patience`."""


def patience(attempt: Attempt, org: OrgId) -> float:
    """Until when a member that is heard of, and does not deliver what the stage waits for, is waited for.

    - An advert means "my update is ready", and training takes its time: half the hard limit, so that the other half is
      left for the rest. A member that was overdue with an advert earlier in this run has as long as in other stages.
    - Every later answer takes seconds: STAGE_PATIENCE x progress_s since the stage stands, or since its last delivery
      (for a dealer: since the last complaint about it), at most an eighth of the hard limit and at least progress_s.
    - An input is masked and sent: LEAF_S for each of its leaves besides. New leaves of an upload, and waiting for a
      free slot, are deliveries; as a whole a member has that time once more for each turn the cohort's uploads take.
    """
    manifest, stage = attempt.frame.manifest, attempt.stage
    since = attempt.since
    last = max(since, attempt.delivered.get(org, since))
    limit = manifest.hard_limit_s
    quiet = max(manifest.progress_s, min(STAGE_PATIENCE * manifest.progress_s, limit / 8))
    match stage:
        case Offering():
            return since + (quiet if org in attempt.slow else max(quiet, limit / 2))
        case Collecting():
            quiet += LEAF_S * _leaves(attempt)
            turns = 1 + -(-len(manifest.cohort) // UPLOADS_AT_ONCE)
            return min(last + quiet, since + turns * quiet)
        case Decrypting():  # exponentiations and an upload, for each block
            return last + quiet + LEAF_S * _leaves(attempt)
        case _:
            return last + quiet


def _leaves(attempt: Attempt) -> int:
    """Of one input."""
    manifest = attempt.frame.manifest
    if attempt.frame.keys:
        return shape_in_use(attempt.frame.keys[0], manifest).blocks.count
    return -(-manifest.length // manifest.leaf_coordinates)


def overdue_at(attempt: Attempt, org: OrgId) -> float:
    """When an awaited member becomes overdue if nothing more comes from it."""
    return min(attempt.heard.get(org, attempt.since) + attempt.frame.manifest.progress_s, patience(attempt, org))


def _heard(attempt: Attempt, org: OrgId, at: float) -> bool:
    """Whether a member is there: something came from it within progress_s, and it did not refuse."""
    if org in attempt.excluded or org in attempt.refused:
        return False
    return at < attempt.heard.get(org, attempt.since) + attempt.frame.manifest.progress_s


def pending_members(attempt: Attempt, at: float) -> tuple[OrgId, ...]:
    """Of those awaited, who is there and may still deliver."""
    out = attempt.overdue | attempt.abort_votes.keys()
    there = [org for org in awaited(attempt) if org not in out and _heard(attempt, org, at)]
    return tuple(org for org in there if at < patience(attempt, org))


def _mark_overdue(course: Course, at: float) -> None:
    """Members that are there and let their time pass: left out like dropped ones, not invited to the next attempt."""
    attempt = course.attempt
    if isinstance(attempt.stage, Aborting):
        return
    out = attempt.overdue | attempt.abort_votes.keys()
    there = [org for org in awaited(attempt) if org not in out and _heard(attempt, org, at)]
    late = frozenset(org for org in there if at >= patience(attempt, org))
    if not late:
        return
    slow = attempt.slow | late if isinstance(attempt.stage, Offering) else attempt.slow
    course.attempt = replace(attempt, overdue=attempt.overdue | late, slow=slow)
    for org in sorted(late):
        course.act(Announce("overdue", (("org", org), ("stage", type(attempt.stage).__name__.lower()))))


def deadline(attempt: Attempt, at: float) -> float | None:
    """When `Tick` may change something: the first awaited member to become overdue, or the hard limit."""
    manifest = attempt.frame.manifest
    match attempt.stage:
        case Multiplying() | Opening() | Opened() | Aborted() | Dead():
            return None
        case _:
            pass
    times = [overdue_at(attempt, org) for org in pending_members(attempt, at)]
    hard = attempt.since + manifest.hard_limit_s
    return min([*times, hard]) if hard > at or times else None


# --- what a member is told --------------------------------------------------------------------------------------------


def _delivery(t1: bytes, dealt: Dealings, recipient: OrgId) -> ShareDelivery:
    return ShareDelivery(t1, tuple(dealt[dealer][recipient] for dealer in sorted(dealt) if dealer != recipient))


def _share_set(t1: bytes, dealers: tuple[OrgId, ...], openings: Sets, recipient: OrgId) -> ShareSet:
    answers = [[b for b in openings.get(dealer, ()) if opening_body(b).recipient == recipient] for dealer in dealers]
    return ShareSet(t1, dealers, tuple(found[0] for found in answers if found))


def outstanding(attempt: Attempt, org: OrgId, signing_key: PrivateKey) -> tuple[CoordinatorMessage, ...]:
    """Everything `org` may still need in order to act in the current stage, in order; repeats are harmless."""
    frame, stage = attempt.frame, attempt.stage
    if org not in frame.manifest.cohort or org in attempt.excluded:
        return ()
    match stage:
        case Offering():
            return () if org in stage.adverts else (Offer(frame.manifest_blob),)
        case Sharing():
            lacks = org in stage.adverts and org not in stage.shares
            return (KeySet(frame.t0, tuple(stage.adverts[one] for one in sorted(stage.adverts))),) if lacks else ()
        case Acking():
            if org not in stage.shares:
                return ()
            told: list[CoordinatorMessage] = [] if org in stage.acks else [_delivery(stage.t1, stage.shares, org)]
            if org in unanswered(stage, frame.manifest):
                told.append(OpeningRequest(stage.t1, tuple(complaints(stage)[org])))
            return tuple(told)
        case Collecting() | Voting() | Revealing() | Multiplying() | Decrypting() if org not in stage.shares:
            return ()
        case Collecting() | Voting() | Multiplying() | Decrypting() if frame.keys:
            return _outstanding_encrypted(frame, stage, org)
        case Multiplying() | Decrypting():
            raise AssertionError("these stages are of protection paillier")
        case Collecting() | Voting() | Revealing():
            dealers = tuple(sorted(stage.shares))
            told = [_delivery(stage.t1, stage.shares, org), _share_set(stage.t1, dealers, stage.openings, org)]
            if not isinstance(stage, Collecting):
                told.append(Proposal(stage.t2, tuple(stage.headers[one] for one in sorted(stage.headers))))
            if isinstance(stage, Revealing):
                told.append(stage.certificate)
            return tuple(told)
        case Opened():
            return (ResultNotice(frame.key, stage.result),) if org in stage.dealers else ()
        case Aborting():
            course = Course(attempt, signing_key)
            return (Offer(frame.manifest_blob), AbortOrder(course.abort_request(stage.reason)))
        case Aborted():
            return (AbortNotice(stage.certificate),)
        case Opening() | Dead():
            return ()


def _outstanding_encrypted(
    frame: Frame, stage: Collecting | Voting | Multiplying | Decrypting, org: OrgId
) -> tuple[CoordinatorMessage, ...]:
    told: list[CoordinatorMessage] = [KeySet(frame.t0, tuple(stage.adverts[one] for one in sorted(stage.adverts)))]
    if not isinstance(stage, Collecting):
        told.append(Proposal(stage.t2, tuple(stage.headers[one] for one in sorted(stage.headers))))
    if isinstance(stage, Multiplying | Decrypting):
        told.append(stage.certificate)
    if isinstance(stage, Decrypting) and stage.quorums and org not in stage.reveals:
        quorum_ = stage.quorums[-1]
        if org in frame.keys[0].names(quorum_):
            told.append(QuorumCall(stage.t3, quorum_, stage.noise))
    return tuple(told)


def _openable(stage: Revealing, manifest: Manifest, *, everyone_answered: bool) -> bool:
    """Whether every secret of T3 is known or can be interpolated; shares are used only when nobody else will answer."""
    survivors, dealers = set(stage.headers), set(stage.shares)
    enough_shares = all(len(set(stage.reveals) - {dealer}) >= manifest.threshold for dealer in dealers - survivors)
    silent = survivors - set(stage.reveals)
    recoverable = all(len(set(stage.reveals) - {one}) >= manifest.threshold for one in silent)
    return enough_shares and (not silent or (everyone_answered and recoverable))


def _keeping(frame: Frame, stage: Opened) -> KeepInputs | DiscardInputs:
    """What stays for those who audit the sum; nothing where nobody may."""
    if noise.rests_on_coordinator(frame.manifest):
        return DiscardInputs(frame.key)
    holders = frame.keys[0].names(stage.quorum) if frame.keys else ()
    own = tuple(blob.signer_id for blob in frame.noise)
    return KeepInputs(frame.key, (*stage.survivors, *own), stage.quorum, holders)


def _removal(manifest: Manifest, stage: Opening) -> tuple[Removal, ...]:
    """What every reader of the sum takes out of it again: from what the survivors showed."""
    match stage.revealing:
        case Revealing() as revealing:
            links = [(org, opening.reveal_of(blob).noise_link) for org, blob in revealing.reveals.items()]
            return noise_links.removal(manifest, revealing.t2, len(revealing.shares), links)
        case Decrypting():
            return ()


def _publish(course: Course, stage: Opening, event: SumReady) -> None:
    """M10: the sum is durable; sign its root and tell everyone who dealt."""
    manifest = course.attempt.frame.manifest
    result = Result(
        t3=stage.t3,
        survivors=len(stage.revealing.headers),
        length=manifest.length,
        leaf_root=event.leaf_root,
        tag_sum=event.tag_sum,
        noise_left=event.noise_left,
        product_root=stage.revealing.product_root if isinstance(stage.revealing, Decrypting) else b"",
        removal=_removal(manifest, stage),
    )
    blob = course.sign(BlobType.RESULT, result)
    course.record(facts.SumOpened(blob), event.at)
    assert isinstance(course.attempt.stage, Opened)
    # first: whoever hears of the result may audit it at once
    course.act(_keeping(course.attempt.frame, course.attempt.stage))
    course.send(sorted(stage.revealing.shares), ResultNotice(manifest.key, blob))
