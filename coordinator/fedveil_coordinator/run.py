"""A run at the coordinator: which secure sum comes next, with whom, and how it ends. Pure, like `round`.

A run is a sequence of secure sums, each with a round number of its own: one for the standardisation (unless an earlier
run's answer to the same query is reused), one per model step, one that measures the final model. An attempt that was
certified as aborted is tried again; one that died ends the run, because its updates are spent.

Source: FLSA/1 sections 2.1, 2.8, A1, A2, A9 (docs/protocol.md); sanity of the sum: section 4.
"""

import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np
from fedveil_common import layout, private_sum, sanity, stopping, strategies, transcript, wire
from fedveil_common import noise as noises
from fedveil_common import plan as plans
from fedveil_common.crypto import signing
from fedveil_common.crypto.draws import Draws
from fedveil_common.errors import IntegrityError
from fedveil_common.ids import COORDINATOR, AttemptKey, OrgId, RunId
from fedveil_common.masking import quorum, ring
from fedveil_common.messages import (
    AbortCertificate,
    BlobType,
    Encryption,
    Manifest,
    Offer,
    PlanAnswer,
    PlanOffer,
    Purpose,
    Result,
    RunEnded,
    SignedBlob,
    SumRef,
)
from fedveil_common.modelfile import ModelManifest, tensors
from fedveil_common.paillier.key_use import KeyUse
from fedveil_common.plan import Plan
from fedveil_common.roster import Roster
from fedveil_common.secret import PrivateKey

from fedveil_coordinator import attempt as attempts
from fedveil_coordinator import facts
from fedveil_coordinator import round as rounds
from fedveil_coordinator.events import (
    AbortOrdered,
    Action,
    Announce,
    Connected,
    Disconnected,
    Event,
    MakeNoise,
    NoiseReady,
    Persist,
    ProcessSum,
    Received,
    Resumed,
    RosterChanged,
    Send,
    SumProcessed,
)
from fedveil_coordinator.opened_round import RoundRecord, record_of

FINAL_ANSWERS = frozenset({"model_spent", "budget_spent", "not_in_this_release", "bad_plan"})
"""Codes of a plan answer that will not change while the run waits."""

OUT = "refused"
"""What stands for the answer of an organisation that is not invited again until it has reconnected."""

MAX_ANSWERS = 64
"""Answers to one plan that are heard in one session: consent comes and goes, and not a thousand times."""

MAX_ATTEMPTS = 16
"""Attempts of one round before the run ends: members that cannot make an update would be asked for ever."""


@dataclass(frozen=True, slots=True)
class Office:
    """Who the coordinator is: its federation and its protocol signing key."""

    signing_key: PrivateKey


@dataclass(frozen=True, slots=True)
class ModelVersion:
    """A model that a train sum led to: after `step` steps, opened in `round` under `t3`."""

    step: int
    round: int
    model_hash: bytes
    t3: bytes


@dataclass(frozen=True, slots=True)
class RunState:
    """One run. The fields up to `ended` are the fold of its facts; the rest is known only while the process lives.
    `standardise`: the sum that standardises, or that answers the questions of a statistics plan.
    """

    run_id: RunId
    canonical: bytes
    plan: Plan
    office: Office
    roster: Roster
    keys: tuple[KeyUse, ...] = ()
    round: int = 1
    step: int = 0
    model_hash: bytes = b""
    state_hash: bytes = b""
    standardise: tuple[SumRef, ...] = ()
    standardisation_hash: bytes = b""
    previous: tuple[SumRef, ...] = ()
    previous_manifest: bytes = b""
    certificates: tuple[AbortCertificate, ...] = ()
    versions: tuple[ModelVersion, ...] = ()
    best_loss: float = math.inf
    losses: tuple[stopping.Loss, ...] = ()
    good: int = 0
    records: tuple[RoundRecord, ...] = ()
    evaluated: bool = False
    rejected: str = ""
    attempt: attempts.Attempt | None = None
    ended: facts.Ended | None = None
    connected: frozenset[OrgId] = frozenset()
    answers: Mapping[OrgId, str] = field(default_factory=dict)
    heard: Mapping[OrgId, int] = field(default_factory=dict)
    slow: frozenset[OrgId] = frozenset()
    waiting_since: float = 0.0
    working: bool = False

    @property
    def plan_hash(self) -> bytes:
        """The hash that organisations approve."""
        return plans.plan_hash(self.canonical)

    @property
    def purpose(self) -> Purpose | None:
        """What the next sum is for; None when there is nothing left to sum, or nothing may be summed any more."""
        if self.plan.statistics is not None:
            return None if self.standardise else Purpose.STATISTICS
        if layout.needs_standardise(self.plan) and not self.standardise:
            return Purpose.STANDARDISE
        if self.verdict.stopped or self.budget_spent:
            return None
        if self.step < self.plan.training.rounds:
            return Purpose.TRAIN
        return Purpose.EVALUATE if self.plan.evaluation.metrics and not self.evaluated else None

    @property
    def budget_spent(self) -> bool:
        """Whether one more sum would cost more than the plan's max_epsilon allows; every opened sum was charged. A run
        that the stopping rule has ended wants none.
        """
        privacy, opened = self.plan.privacy, len(self.records)
        if privacy is None or self.verdict.stopped or opened >= private_sum.sums_planned(self.plan):
            return False
        return opened >= private_sum.sums_allowed(self.plan, privacy)

    @property
    def verdict(self) -> stopping.Verdict:
        """What the plan's stopping rule says to the losses so far."""
        return stopping.verdict(self.plan.evaluation.stop, self.losses)

    @property
    def willing(self) -> tuple[OrgId, ...]:
        """Roster members that are connected and accepted this plan, sorted."""
        return tuple(org for org in self.roster.participants if org in self.connected and self.answers.get(org) == "")

    @property
    def undecided(self) -> tuple[OrgId, ...]:
        """Roster members that are connected and have not answered yet."""
        return tuple(org for org in self.roster.participants if org in self.connected and org not in self.answers)


Step = tuple[RunState, tuple[Action, ...]]


def corrupt_bound(plan: Plan, roster: Roster) -> int:
    """C of this plan's manifests: an absolute number for the whole roster."""
    return quorum.corrupt_bound(plan.cohort.max_corrupt, len(roster.participants))


def open_run(
    run_id: RunId,
    canonical: bytes,
    office: Office,
    roster: Roster,
    answer: tuple[SumRef, ...],
    at: float,
    keys: tuple[KeyUse, ...] = (),
) -> Step:
    """A new run and its first fact. `answer`: an earlier opened sum that answers the plan's query. `keys`: the one
    that inputs are encrypted under, where the plan says paillier.
    """
    fact = facts.RunOpened(canonical, answer, keys)
    return replace(opened(run_id, fact, office, roster), waiting_since=at), (Persist(fact),)


def opened(run_id: RunId, fact: facts.RunOpened, office: Office, roster: Roster) -> RunState:
    """The state that the first fact of a run's journal stands for."""
    plan = plans.parse_canonical(fact.canonical_plan)
    return RunState(
        run_id,
        fact.canonical_plan,
        plan,
        office,
        roster,
        fact.key,
        model_hash=bytes.fromhex(plan.model.initial),
        state_hash=strategies.state_hash(strategies.start(plan, np.zeros(layout.parameter_count(plan), np.float32))),
        standardise=fact.answer,
    )


def apply(state: RunState, fact: facts.Fact, rosters: Mapping[int, Roster], at: float = 0.0) -> RunState:
    """The state after a journaled fact. `rosters` by version: an attempt keeps the one its manifest pinned."""
    match fact:
        case facts.Offered():
            roster = rosters[_manifest(fact.manifest).roster_version]
            attempt = attempts.begin(fact.manifest, roster, at, keys=state.keys, noise=fact.noise)
            return replace(state, attempt=attempt, previous_manifest=transcript.manifest_hash(fact.manifest.body))
        case facts.SumApplied():
            return _applied(state, fact)
        case facts.Ended():
            return replace(state, ended=fact, attempt=None, working=False)
        case facts.RunOpened():
            raise AssertionError("a run is opened once")
        case _:
            pass
    assert state.attempt is not None, "attempt facts follow an offer"
    after = attempts.apply(state.attempt, fact)
    match after.stage:
        case attempts.Aborted(certificate=certificate):
            return replace(state, attempt=None, certificates=(*state.certificates, certificate))
        case _:
            return replace(state, attempt=after)


def _manifest(blob: SignedBlob) -> Manifest:
    body = wire.parse_body(BlobType.MANIFEST, blob.body)
    assert isinstance(body, Manifest)
    return body


def _result(blob: SignedBlob) -> Result:
    body = wire.parse_body(BlobType.RESULT, blob.body)
    assert isinstance(body, Result)
    return body


def _applied(state: RunState, fact: facts.SumApplied) -> RunState:
    """The opened sum has become the next model, the standardisation or the last measurement."""
    assert state.attempt is not None
    assert isinstance(state.attempt.stage, attempts.Opened)
    manifest, stage = state.attempt.frame.manifest, state.attempt.stage
    result = _result(stage.result)
    ref = SumRef(state.run_id, manifest.key.round, transcript.result_hash(stage.result.body))
    record = record_of(state.plan, manifest, stage.survivors, result.noise_left, fact)
    loss = math.inf if fact.loss is None else sanity.loss_at_most(fact.loss, record.loss_noise)
    after = replace(
        state,
        attempt=None,
        certificates=(),
        round=state.round + 1,
        records=(*state.records, record),
        rejected=fact.rejected,
        working=False,
        best_loss=min(state.best_loss, loss),
        good=manifest.step if fact.loss is not None and fact.rejected != "loss" else state.good,
    )
    match manifest.purpose:
        case Purpose.STATISTICS:
            return replace(after, standardise=(ref,), step=1)
        case Purpose.STANDARDISE:
            return replace(after, standardise=(ref,), standardisation_hash=fact.standardisation_hash)
        case Purpose.TRAIN if not fact.rejected:
            measured = ((state.step, fact.loss),) if state.step and fact.loss is not None else ()
            version = ModelVersion(state.step + 1, manifest.key.round, fact.model_hash, result.t3)
            return replace(
                after,
                step=state.step + 1,
                model_hash=fact.model_hash,
                state_hash=fact.state_hash,
                standardisation_hash=fact.standardisation_hash,
                previous=(ref,),
                versions=(*state.versions, version),
                losses=(*state.losses, *measured) if state.plan.evaluation.stop else (),
            )
        case Purpose.EVALUATE:
            return replace(after, evaluated=True)
        case _:
            return after


# --- one step ---------------------------------------------------------------------------------------------------------


def step(state: RunState, event: Event) -> Step:
    """The next state and the driver's work, in order. Raises PeerError if a message is refused: no state moved."""
    if state.ended is not None:
        return state, ()
    actions: list[Action] = []
    match event:
        case Connected():
            answers = {org: code for org, code in state.answers.items() if org != event.org_id}
            heard = {org: many for org, many in state.heard.items() if org != event.org_id}
            state = replace(state, connected=state.connected | {event.org_id}, answers=answers, heard=heard)
            actions.append(Send(event.org_id, PlanOffer(state.run_id, state.canonical)))
            if state.attempt is not None:
                told = rounds.outstanding(state.attempt, event.org_id, state.office.signing_key)
                actions.extend(Send(event.org_id, message) for message in told)
        case Disconnected():
            state = replace(state, connected=state.connected - {event.org_id})
            state, more = _round_step(state, event)
            actions.extend(more)
        case Received(message=PlanAnswer() as answer):
            state, more = _answered(state, event.org_id, answer)
            actions.extend(more)
        case RosterChanged():
            state = replace(state, roster=event.roster)
        case SumProcessed():
            state, more = _processed(state, event)
            actions.extend(more)
        case NoiseReady():
            state, more = _noised(state, event)
            actions.extend(more)
        case AbortOrdered():
            state, more = _ordered_to_end(state, event)
            actions.extend(more)
        case Resumed():
            state = replace(state, waiting_since=event.at, connected=frozenset(), answers={}, heard={}, working=False)
            state, more = _round_step(state, event)
            actions.extend(more)
        case _:
            state, more = _round_step(state, event)
            actions.extend(more)
    state, more = _advance(state, event)
    return state, (*actions, *more)


def _answered(state: RunState, org_id: OrgId, answer: PlanAnswer) -> Step:
    """The latest answer of a session counts: an organisation may agree later, or no longer. One that is out of the
    attempts is out until it has reconnected, whatever it says.
    """
    code, many, before = "" if answer.accepted else answer.code, state.heard.get(org_id, 0), state.answers.get(org_id)
    attempt = state.attempt
    out = attempt is not None and org_id in attempt.refused | attempt.excluded | attempt.overdue
    barred = before == OUT or (out and before is not None)  # nothing was heard of it since it connected: it is not
    if answer.plan_hash != state.plan_hash or barred or many >= MAX_ANSWERS or before == code:
        return state, ()
    state = replace(state, answers={**state.answers, org_id: code}, heard={**state.heard, org_id: many + 1})
    return state, (Announce("plan_answer", (("org", org_id), ("code", code or "accepted"))),)


def _round_step(state: RunState, event: Event) -> Step:
    """Pass the event to the attempt; notice when the attempt is over."""
    if state.attempt is None:
        return state, ()  # late: the attempt it belongs to is over
    attempt, actions = rounds.step(state.attempt, event, state.office.signing_key)
    state = replace(state, attempt=attempt, slow=attempt.slow)
    match attempt.stage:
        case attempts.Opened() if not state.working:
            return replace(state, working=True), (*actions, ProcessSum(attempt.frame.manifest))
        case attempts.Aborted(certificate=certificate):
            announce = Announce("aborted", (("round", str(attempt.key.round)), ("reason", attempt.stage.reason)))
            out = attempt.refused | attempt.excluded | attempt.overdue  # not invited again until they have reconnected
            state = replace(
                state,
                attempt=None,
                certificates=(*state.certificates, certificate),
                waiting_since=event.at,
                answers={**state.answers, **dict.fromkeys(out, OUT)},
            )
            return state, (*actions, announce)
        case attempts.Dead():
            state, more = _end(state, "model_spent")
            return state, (*actions, *more)
        case _:
            return state, actions


def _ordered_to_end(state: RunState, event: AbortOrdered) -> Step:
    """The operator ends the run: an open attempt is aborted first as far as that is still possible."""
    actions: tuple[Action, ...] = ()
    if state.attempt is not None:
        attempt, actions = rounds.step(state.attempt, event, state.office.signing_key)
        state = replace(state, attempt=attempt)
    state, more = _end(state, "aborted_by_operator")
    return state, (*actions, *more)


def _processed(state: RunState, event: SumProcessed) -> Step:
    """What the sum came to. The loss in it is that of the model its round received: an implausible one ends the run."""
    if state.attempt is None or state.attempt.key != event.key or not isinstance(state.attempt.stage, attempts.Opened):
        return state, ()
    fact = facts.SumApplied(
        event.model_hash,
        event.standardisation_hash,
        event.loss,
        event.accuracy,
        event.auc,
        event.rows,
        event.norm_code and "norm",
        event.state_hash,
        event.opened,
    )
    if event.loss is not None:
        stage = state.attempt.stage
        left = _result(stage.result).noise_left
        record = record_of(state.plan, state.attempt.frame.manifest, stage.survivors, left, fact)
        try:
            sanity.check_loss(None if math.isinf(state.best_loss) else state.best_loss, event.loss, record.loss_noise)
        except IntegrityError:
            fact = replace(fact, rejected="loss")
    after = replace(_applied(state, fact), waiting_since=event.at)
    shown = {"round": str(event.key.round), "purpose": str(after.records[-1].purpose), "rejected": fact.rejected}
    if event.loss is not None:
        shown["loss"] = f"{event.loss:.4f}"
    if event.accuracy is not None:
        shown["accuracy"] = f"{event.accuracy:.4f}"
    return after, (Persist(fact), Announce("round", tuple(shown.items())))


def _advance(state: RunState, event: Event) -> Step:
    """Offer the next attempt when it can be offered; end the run when it is done, or waited too long."""
    if state.ended is not None or state.attempt is not None or state.working:
        return state, ()
    if state.rejected:
        return _end(state, "model_rejected")
    waited = event.at - state.waiting_since
    if state.purpose is None:
        answered_before = state.plan.statistics is not None and not state.records
        if answered_before and state.undecided and waited < state.plan.cohort.progress_s:
            return state, ()  # who accepts the plan reads the answer that there is, and keeps it
        return _end(state, "budget_spent" if state.budget_spent else "finished")
    seed = getattr(event, "seed", None)
    if len(state.certificates) >= MAX_ATTEMPTS:
        return _end(state, "too_many_attempts")
    if waited < _pause(state):
        return state, ()
    needed = participants_needed(state)
    if len(state.willing) >= needed and not holders_missing(state):
        if state.undecided and waited < state.plan.cohort.progress_s:
            return state, ()
        if seed is None:
            return state, ()
        draft = manifest_of(state, Draws(seed).bytes("manifest/nonce", 32))
        if any(named.noise_cap for named in draft.encryption):
            return replace(state, working=True), (MakeNoise(draft),)
        return _offer(state, draft, (), event.at)
    if waited >= state.plan.cohort.wait_s:
        return _end(state, "not_enough_participants" if len(state.willing) < needed else "not_enough_holders")
    final = [state.answers[org] for org in state.roster.participants if state.answers.get(org) in FINAL_ANSWERS]
    if final and len(state.roster.participants) - len(final) < needed:
        return _end(state, max(final, key=final.count))  # waiting longer cannot bring enough of them
    return state, ()


def participants_needed(state: RunState) -> int:
    """How many must be there and willing before an offer: what the plan asks for, and what A1 asks for at this c."""
    return max(state.plan.cohort.min_participants, corrupt_bound(state.plan, state.roster) + 2)


def holders_missing(state: RunState) -> tuple[OrgId, ...]:
    """The key's holders that are not there, if those who are cannot open a sum; else nobody."""
    for use in state.keys:
        absent = tuple(org for org in use.holders if org not in state.willing)
        if len(use.holders) - len(absent) < use.threshold:
            return absent
    return ()


def _pause(state: RunState) -> float:
    """Seconds between two attempts of a round: none before the second, then longer each time."""
    return state.plan.cohort.progress_s * max(0, len(state.certificates) - 1)


def _noised(state: RunState, event: NoiseReady) -> Step:
    """The offer that the noise was made for, if it is still the one to be made."""
    state = replace(state, working=False)
    if state.attempt is not None or state.purpose is None or manifest_of(state, event.draft.nonce) != event.draft:
        return state, ()
    blob = signing.sign(state.office.signing_key, COORDINATOR, BlobType.NOISE, wire.encode_body(event.noise))
    (named,) = event.draft.encryption
    committed = replace(named, noise=hashlib.sha256(blob.body).digest())
    return _offer(state, replace(event.draft, encryption=(committed,)), (blob,), event.at)


def _offer(state: RunState, manifest: Manifest, noise: tuple[SignedBlob, ...], at: float) -> Step:
    blob = signing.sign(state.office.signing_key, COORDINATOR, BlobType.MANIFEST, wire.encode_body(manifest))
    fact = facts.Offered(blob, noise)
    after = replace(
        state,
        attempt=attempts.begin(blob, state.roster, at, state.slow, state.keys, noise),
        previous_manifest=transcript.manifest_hash(blob.body),
    )
    key = manifest.key
    announce = Announce("offer", (("round", str(key.round)), ("attempt", str(key.attempt))))
    return after, (Persist(fact), *(Send(org, Offer(blob)) for org in manifest.cohort), announce)


def manifest_of(state: RunState, nonce: bytes) -> Manifest:
    """M0 of the next attempt: everything in it follows from the plan, the roster and what was opened before."""
    plan, roster, purpose = state.plan, state.roster, state.purpose
    assert purpose is not None, "there is something left to sum"
    cohort, corrupt = state.willing, corrupt_bound(plan, roster)
    q = quorum.quorum(len(cohort), corrupt)
    shape = layout.layout_for(plan, purpose, state.step)
    query = layout.is_query(purpose)
    cap, bits = noises.coordinator_cap(plan), private_sum.value_bits(plan, len(cohort), q, corrupt)
    encryption = tuple(Encryption(use.key_id, use.epoch, use.fingerprint, b"", cap) for use in state.keys)
    return Manifest(
        federation_id=roster.federation_id,
        key=AttemptKey(state.run_id, state.round, len(state.certificates) + 1),
        purpose=purpose,
        protection=plan.protection.kind,
        plan_hash=state.plan_hash,
        previous_manifest_hash=state.previous_manifest,
        roster_version=roster.version,
        roster_hash=roster.hash,
        cohort=cohort,
        corrupt=corrupt,
        quorum=q,
        threshold=q,
        min_survivors=max(q, 3),
        graph="none" if encryption else "complete",
        length=shape.length,
        ring_bits=ring.smallest(len(cohort), bits, cap),
        value_bits=bits,
        update_norm=plan.protection.update_norm,
        leaf_coordinates=transcript.LEAF_COORDINATES,
        prg="none" if encryption else "AES256CTR",
        noise=private_sum.noise_of(plan),
        layout_hash=shape.hash,
        dataset=plan.data.dataset,
        model_hash=b"" if query else state.model_hash,
        query_digest=layout.query_digest(plan) if query else state.state_hash,
        step=state.step,
        standardise=() if query else state.standardise,
        previous=state.previous,
        progress_s=plan.cohort.progress_s,
        hard_limit_s=plan.cohort.hard_limit_s,
        nonce=nonce,
        abort_certificates=state.certificates,
        encryption=encryption,
    )


def _end(state: RunState, code: str) -> Step:
    """The run is over; its last model is signed, or the best one where the stopping rule ended it, or after a rejection
    the last one whose own loss was plausible.
    """
    versions = state.versions[: state.good] if state.rejected else state.versions
    if code == "finished" and state.verdict.stopped:
        versions = state.versions[: state.verdict.best]
    signed = (sign_model(state, versions[-1]),) if versions else ()
    missing: tuple[tuple[OrgId, str], ...] = ()
    if code in {"not_enough_participants", "not_enough_holders"} or code in FINAL_ANSWERS:
        absent = [org for org in state.roster.participants if org not in state.willing]
        missing = tuple((org, state.answers.get(org, "")) for org in absent)
    fact = facts.Ended(code, signed, missing)
    ended = RunEnded(state.run_id, state.plan_hash, code, state.standardise, signed)
    after = replace(state, ended=fact, attempt=None, working=False)
    return after, (
        Persist(fact),
        *(Send(org, ended) for org in state.roster.participants),
        Announce("ended", (("code", code),)),
    )


def sign_model(state: RunState, version: ModelVersion) -> SignedBlob:
    """The signed manifest of a model version: what every participant verifies against its own re-derivation."""
    manifest = ModelManifest(
        model_hash=version.model_hash,
        layout=tensors(state.plan),
        plan_hash=state.plan_hash,
        standardisation_hash=state.standardisation_hash,
        federation_id=state.roster.federation_id,
        run_id=state.run_id,
        round=version.round,
        transcript=version.t3,
        roster_version=state.roster.version,
    )
    return signing.sign(state.office.signing_key, COORDINATOR, BlobType.MODEL, manifest.to_bytes())


def deadline(state: RunState, at: float) -> float | None:
    """When the run wants its next `Tick`, on the monotonic clock; None if only an event can move it."""
    if state.ended is not None or state.working:
        return None
    if state.attempt is not None:
        return rounds.deadline(state.attempt, at)
    times = [state.waiting_since + state.plan.cohort.wait_s]
    if state.undecided:
        times.append(state.waiting_since + state.plan.cohort.progress_s)
    if _pause(state) and at < state.waiting_since + _pause(state):
        times.append(state.waiting_since + _pause(state))
    return min(times)
