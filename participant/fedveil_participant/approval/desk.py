"""Who decides for a participant that runs: its policy first, then what its people said. A `consent.Consenting`.

Promise: the policy is judged before any consent counts, and again in the middle of a run; what a plan waits for is
durable before the coordinator hears that it waits; every decision is on record with its digests. Any thread.
"""

import threading
from collections.abc import Callable, Container
from typing import Protocol

from fedveil_common import plan as plans
from fedveil_common.errors import FedveilError, PolicyRefusal
from fedveil_common.ids import OrgId, RunId
from fedveil_common.paillier.round_shape import shape_of_plan
from fedveil_common.plan import Plan
from fedveil_common.ports import Clock
from fedveil_common.roster import Roster

from fedveil_participant.approval import people
from fedveil_participant.approval.binding import NOTHING, Binding, Bindings, bind
from fedveil_participant.approval.decisions import (
    DENIED_BEFORE,
    OTHER_TRAINER,
    Agreed,
    Decision,
    Denied,
    Standing,
    Waiting,
    decide,
)
from fedveil_participant.approval.roster_word import RosterStore, RosterWord
from fedveil_participant.checks import Limits
from fedveil_participant.consent import PENDING, Word
from fedveil_participant.events import Admission
from fedveil_participant.policy import SAID, Facts, Policy, Refusal, judge, policy_digest, refused
from fedveil_participant.policy import hours as hours_of_day
from fedveil_participant.policy.automatic import month_epsilon
from fedveil_participant.policy.judging import MONTH_SPENT, input_bytes, rounds_of
from fedveil_participant.policy.rules import RosterRule
from fedveil_participant.ports import Cipher

DENIED, WITHDRAWN, PAUSED, OUTSIDE_HOURS = "consent_denied", "consent_withdrawn", "paused", "outside_hours"
"""What the coordinator hears: closed codes, without reasons, counts or names."""

DEFAULT_CHANGED_ROWS = 10
"""Rows that must have changed between two runs with exact sums, where no policy says it."""


class ConsentStore(RosterStore, Protocol):
    """What the desk keeps; `store.ParticipantStore` in production."""

    def keep_offer(  # noqa: D102
        self, run_id: RunId, canonical: bytes, binding: Binding, kind: str = ..., offered: Container[RunId] = ...
    ) -> bool: ...
    def standing_consents(self) -> Standing: ...  # noqa: D102
    def was_denied(self, plan_hash: bytes) -> bool: ...  # noqa: D102
    def is_paused(self) -> bool: ...  # noqa: D102
    def note(self, kind: str, facts: tuple[tuple[str, str], ...]) -> None: ...  # noqa: D102


class ConsentDesk:
    """`policy`: None where the organisation has none; then nothing is refused by a rule, and all waits for a person."""

    def __init__(
        self,
        me: OrgId,
        policy: Policy | None,
        store: ConsentStore,
        bindings: Bindings,
        clock: Clock,
        cipher: Cipher | None = None,
    ) -> None:
        self.me = me
        self._store = store
        self._bindings = bindings
        self._clock = clock
        self._cipher = cipher
        self._paused = store.is_paused()
        asked = policy is not None and policy.roster is RosterRule.CONFIRM
        self.roster_word = RosterWord(me, asked, store, people.named(policy))
        self._told: dict[RunId, str] = {}
        self._offered: frozenset[RunId] = frozenset()
        self._telling = threading.Lock()
        self.policy = policy
        self.digest = policy_digest(policy)

    # --- what the driver asks -----------------------------------------------------------------------------------------

    def begin_session(self) -> None:
        """`Consenting.begin_session`."""
        with self._telling:
            self._offered = frozenset()

    def decide(self, run_id: RunId, canonical: bytes, plan: Plan, members: tuple[OrgId, ...]) -> Word:
        """`Consenting.decide`."""
        digest = plans.plan_hash(canonical)
        with self._telling:
            self._offered = offered = self._offered | {run_id}
        refusals = self.judged(run_id, plan, members)
        if refusals:
            error = refused(refusals)
            codes = ",".join(one.code for one in refusals)
            self._note(run_id, "policy_refused", (("plan", digest.hex()), ("rules", codes), *self._policy_fact()))
            return Word(refusals[0].code, error.what, SAID)
        standing = self.standing()
        try:
            binding = self.bound(plan, digest)
        except FedveilError as error:
            if digest in standing.accepted and standing.denial(digest) is None:
                return Word()  # what is wrong is found, and said, where the data is read
            return Word(error.code, str(error), PENDING)
        match self._decision(run_id, plan, binding, standing):
            case Agreed() as decision:
                self._keep_trainer(decision, binding)
                self._note(run_id, "consent_applies", (("by", decision.by), *binding.facts()))
                return Word()
            case Denied() as decision:
                self._store.keep_offer(run_id, canonical, binding, "denied_plan_offered", offered)
                let_in = any(one.run_id == run_id for one in standing.let_in)
                said = WITHDRAWN if let_in else DENIED
                return Word(said, f"{decision.denial.person.name} denied this plan", said)
            case Waiting() as decision:
                if not self._store.keep_offer(run_id, canonical, binding, offered=offered):
                    what = "too many plans wait that are still offered; this one is not kept: approve or deny some"
                    return Word("too_many_pending", what, PENDING)
                return Word(PENDING, decision.why, PENDING)

    def check_rows(self, plan: Plan, rows: Callable[[], int]) -> None:
        """`Consenting.check_rows`."""
        rule = None if self.policy is None else self.policy.data.get(plan.data.dataset)
        if rule is not None and (found := rows()) < rule.min_rows:
            where = f"data.{plan.data.dataset}.min_rows"
            self._store.note("policy_refused", (("dataset", plan.data.dataset), ("rules", "rows_below_policy")))
            raise refused((Refusal("rows_below_policy", where, f"{found} rows", f"at least {rule.min_rows}"),))

    def admission(self, run_id: RunId, plan: Plan, plan_hash: bytes) -> Admission | None:
        """`Consenting.admission`. LocalRefusal `policy_refused` too."""
        binding, standing = self.bound(plan, plan_hash), self.standing()
        self._check_policy(run_id, plan, standing)
        decision = self._decision(run_id, plan, binding, standing)
        if not isinstance(decision, Agreed):
            why = decision.why if isinstance(decision, Waiting) else "the plan was denied"
            raise PolicyRefusal(
                "approval_gone",
                why,
                not_done="no input was made",
                next_step="`fedveil pending` shows what waits; `fedveil approve PLAN_HASH` approves it as it is now",
            )
        self._keep_trainer(decision, binding)
        epsilon = 0.0 if plan.privacy is None else plan.privacy.max_epsilon
        return Admission(run_id, binding, decision.by, decision.number, rounds_of(plan), epsilon)

    def hold(self, wall_s: float, roster: Roster) -> str:
        """`Consenting.hold`."""
        unconfirmed = self.roster_word.hold(roster)
        if self._paused:
            return PAUSED
        if self.policy is not None and not hours_of_day.within(self.policy.hours, wall_s):
            return OUTSIDE_HOURS
        return unconfirmed

    def unconfirmed(self, roster: Roster) -> str:
        """`Consenting.unconfirmed`."""
        return self.roster_word.unconfirmed(roster)

    @property
    def watches_clock(self) -> bool:
        """`Consenting.watches_clock`."""
        return self.policy is not None and self.policy.hours is not None

    # --- what its people's commands ask -------------------------------------------------------------------------------

    def pause_changed(self) -> None:
        """The store says anew whether inputs are held back."""
        self._paused = self._store.is_paused()

    def bound(self, plan: Plan, plan_hash: bytes) -> Binding:
        """What an approval of the plan would be bound to now."""
        return bind(plan_hash, plan.data.dataset, self.digest, self._bindings.of(plan))

    def standing(self) -> Standing:
        """What was said, as far as this policy lets it count: where it names approvers, the command line approves
        nothing.
        """
        found = self._store.standing_consents()
        if self.policy is not None and self.policy.approvers:
            return Standing(frozenset(), found.approvals, found.denials, found.let_in)
        return found

    def decision(self, run_id: RunId, plan: Plan, binding: Binding) -> Decision:
        """What stands for a run."""
        return self._decision(run_id, plan, binding, self.standing())

    def judged(self, run_id: RunId, plan: Plan, members: tuple[OrgId, ...]) -> tuple[Refusal, ...]:
        """What the policy says to a plan that is offered for a run."""
        return () if self.policy is None else judge(self.policy, plan, self.facts(run_id, plan, members))

    def facts(self, run_id: RunId, plan: Plan, members: tuple[OrgId, ...] | None) -> Facts:
        """What is known beside the plan."""
        now, spent = self._clock.wall_s(), None
        if self.policy is not None:
            spent = month_epsilon(self.policy, plan.data.dataset, run_id, self._store.standing_consents().let_in, now)
        size = None if members is None else self._input_bytes(plan, len(members))
        return Facts(self.me, members, None, spent, size, now)

    def _check_policy(self, run_id: RunId, plan: Plan, standing: Standing) -> None:
        """The policy as it is now, beside the runs that were let in since the offer: a coordinator may send a manifest
        without offering anew. What a month may spend is asked of a run that is not let in yet. LocalRefusal
        `policy_refused`.
        """
        if self.policy is None:
            return
        let_in = any(one.run_id == run_id for one in standing.let_in)
        found = judge(self.policy, plan, self.facts(run_id, plan, None))
        if refusals := tuple(one for one in found if not (let_in and one.code == MONTH_SPENT)):
            codes = ",".join(one.code for one in refusals)
            self._note(run_id, "policy_refused", (("rules", codes), *self._policy_fact()))
            raise refused(refusals)

    def _input_bytes(self, plan: Plan, members: int) -> int | None:
        if not plan.protection.key:
            return input_bytes(plan, members)
        if self._cipher is None:
            return None
        try:
            shape = shape_of_plan(self._cipher.accepted(plan.protection.key), plan, members)
        except PolicyRefusal:
            return None  # no key is pinned: that is refused where the key is asked for
        return shape.blocks.count * shape.input_leaf_bytes

    def _decision(self, run_id: RunId, plan: Plan, binding: Binding, standing: Standing) -> Decision:
        least = DEFAULT_CHANGED_ROWS if self.policy is None else self.policy.min_changed_rows
        changed: Callable[[RunId], int | None] = lambda earlier: self._bindings.changed_rows(plan, earlier)  # noqa: E731
        why = DENIED_BEFORE if self._store.was_denied(binding.plan_hash) else ""
        if not self._bindings.trainer_known(binding.plan_hash, binding.trainer):
            why = OTHER_TRAINER
        now = self._clock.wall_s()
        return decide(plan, run_id, binding, standing, self.policy, least, changed, now, ask_people=why)

    def _keep_trainer(self, decision: Agreed, binding: Binding) -> None:
        """What people approved has the trainer in it. It is told again at every decision: a crash between the approval
        and this loses nothing.
        """
        if decision.number and binding.trainer != NOTHING:
            self._bindings.trainer_approved(binding.plan_hash, binding.trainer)

    def _policy_fact(self) -> tuple[tuple[str, str], ...]:
        return (("policy", self.digest.hex()),)

    def _note(self, run_id: RunId, kind: str, facts: tuple[tuple[str, str], ...]) -> None:
        """On record once, not at every connection."""
        told = f"{kind} {facts}"
        with self._telling:
            if self._told.get(run_id) == told:
                return
            self._told[run_id] = told
        self._store.note(kind, (("run", run_id), *facts))


def limits_of(policy: Policy | None) -> Limits:
    """What the round machine insists on, against every manifest and before every vote."""
    if policy is None:
        return Limits()
    cohort = policy.cohort
    return Limits(
        corrupt=cohort.corrupt,
        min_changed_rows=policy.min_changed_rows,
        smallest_cohort=cohort.min_members,
        smallest_sum=cohort.min_survivors,
        known=frozenset(cohort.known),
        known_in_cohort=cohort.min_known,
        known_in_sum=cohort.min_known_survivors,
        input_bytes=policy.resources.max_bytes_per_round or 0,
    )
