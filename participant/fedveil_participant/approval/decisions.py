"""Whether a run may have this organisation's data: by whose consent, or what it waits for. Pure.

Promise: no run without a consent that stands for exactly this plan in this house as it is today. A denial outweighs
every consent that was given before it. Without differential privacy a consent that was not given for this very run
lets a second one in only if enough rows are known to have changed: else one new row a day would be read off by
subtraction. What lets runs in without asking anybody says nothing of a plan that was denied before, nor of a trainer
that is another than the plan was approved with. Source: docs/consent.md.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from fedveil_common.ids import RunId
from fedveil_common.plan import Plan

from fedveil_participant.approval.binding import Binding, differences
from fedveil_participant.policy.automatic import LetIn, approved_by
from fedveil_participant.policy.rules import Policy

ACCEPT = "accept"
"""By what a run was let in: the hash stood on the command line of `participate`."""

OTHER_TRAINER = "its trainer, code or description, is another than the one that it was approved with"
DENIED_BEFORE = "it was denied before, and since then only people let it in"


@dataclass(frozen=True, slots=True)
class Person:
    """Who said something: the account's number, as the kernel gives it, and its name."""

    uid: int
    name: str


@dataclass(frozen=True, slots=True)
class Approval:
    """What people approved. `run_id`: the one run it is for; "" for any, up to `runs` of them. No input is given under
    it after `until_s` (seconds since 1970-01-01 UTC; inf: no end). It counts once `need` different people said so.
    """

    number: int
    binding: Binding
    run_id: str
    runs: int
    until_s: float
    need: int
    people: tuple[Person, ...]
    wall_s: float

    @property
    def complete(self) -> bool:
        """Whether enough people approved it."""
        return len({one.uid for one in self.people}) >= self.need

    @property
    def name(self) -> str:
        """As it stands in records."""
        return f"approval {self.number}"


@dataclass(frozen=True, slots=True)
class Denial:
    """A plan that somebody said no to. The reason never leaves this organisation."""

    plan_hash: bytes
    person: Person
    reason: str
    wall_s: float


@dataclass(frozen=True, slots=True)
class Standing:
    """Everything that was said, and every run that was let in. `accepted`: hashes given on the command line."""

    accepted: frozenset[bytes] = frozenset()
    approvals: tuple[Approval, ...] = ()
    denials: tuple[Denial, ...] = ()
    let_in: tuple[LetIn, ...] = ()

    def denial(self, plan_hash: bytes) -> Denial | None:
        """The denial of a plan, if one stands."""
        return next((one for one in self.denials if one.plan_hash == plan_hash), None)


@dataclass(frozen=True, slots=True)
class Agreed:
    """The run may begin. `by`: how that stands in the records; `number`: of the approval, 0 if it is none."""

    by: str
    number: int = 0


@dataclass(frozen=True, slots=True)
class Waiting:
    """Nobody consented yet; `why` is for this organisation's people."""

    why: str


@dataclass(frozen=True, slots=True)
class Denied:
    """Somebody said no."""

    denial: Denial


Decision = Agreed | Waiting | Denied

ChangedRows = Callable[[RunId], int | None]
"""How many rows changed since an earlier run, if that is known."""


def decide(
    plan: Plan,
    run_id: RunId,
    binding: Binding,
    standing: Standing,
    policy: Policy | None,
    min_changed_rows: int,
    changed_rows: ChangedRows,
    wall_s: float,
    *,
    ask_people: str = "",
) -> Decision:
    """What stands for `run_id` of `plan`, bound to `binding` in this house, at `wall_s`. `ask_people`: why nothing but
    people's own word counts for it; "" if command line and rules do too.
    """
    denial = standing.denial(binding.plan_hash)
    if denial is not None:
        return Denied(denial)
    reasons = []
    if binding.plan_hash in standing.accepted:
        if not ask_people:
            return Agreed(ACCEPT)
        reasons.append(f"--accept: {ask_people}")
    others = tuple(one for one in standing.let_in if one.run_id != run_id)
    for approval in standing.approvals:
        if approval.binding.plan_hash != binding.plan_hash:
            continue
        why = _why_not(approval, run_id, binding, others, wall_s)
        if not why and approval.run_id != run_id and approval.runs > 1:
            why = _too_similar(plan, binding, approval.name, others, min_changed_rows, changed_rows)
        if not why:
            return Agreed(approval.name, approval.number)
        reasons.append(f"{approval.name}: {why}")
    rule = "" if policy is None else approved_by(policy, plan, run_id, standing.let_in, wall_s)
    if rule:
        why = ask_people or _too_similar(plan, binding, rule, others, min_changed_rows, changed_rows)
        if not why:
            return Agreed(rule)
        reasons.append(f"{rule}: {why}")
    return Waiting("; ".join(reasons) or "nobody has approved this plan")


def _why_not(approval: Approval, run_id: RunId, binding: Binding, others: Iterable[LetIn], wall_s: float) -> str:
    """Why an approval of the plan does not let the run in; "" if it does."""
    if not approval.complete:
        return f"{len(approval.people)} of {approval.need} approved it"
    changed = differences(approval.binding, binding)
    if changed:
        return f"since then changed: {', '.join(changed)}"
    if approval.run_id not in {"", run_id}:
        return f"it is for run {approval.run_id}"
    if wall_s > approval.until_s:
        return "its time is over"
    if sum(one.by == approval.name for one in others) >= approval.runs:
        return f"it was for {approval.runs} run{'s' if approval.runs > 1 else ''}, and they are taken"
    return ""


def _too_similar(
    plan: Plan,
    binding: Binding,
    by: str,
    others: Iterable[LetIn],
    least: int,
    changed_rows: ChangedRows,
) -> str:
    """Why a further run with exact sums needs a person's own word; "" if it does not."""
    if plan.privacy is not None:
        return ""
    for one in others:
        if one.dataset == binding.dataset and (one.plan_hash == binding.plan_hash or one.by == by):
            changed = changed_rows(RunId(one.run_id))
            if changed is None or changed < least:
                found = "it is not known how many rows changed" if changed is None else f"{changed} rows changed"
                return f"{found} since run {one.run_id}, and without differential privacy {least} must have"
    return ""
