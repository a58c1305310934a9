"""Automatic approval: which rule of a policy lets a run in without asking, and what its caps still leave. Pure.

Promise: a rule for plans with differential privacy never lets one with exact sums in; nothing is let in beyond a cap; a
run counts in the month in which it was let in, in whichever it goes on; a plan that no rule lets in waits for a person.
Source: docs/consent.md.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from fedveil_common import plan as plans
from fedveil_common.plan import Plan

from fedveil_participant.policy import hours
from fedveil_participant.policy.judging import matches, rounds_of
from fedveil_participant.policy.rules import AutomaticRule, Policy


@dataclass(frozen=True, slots=True)
class LetIn:
    """A run that was let in: by what (`by` is the rule's name or another approval), and what its plan may use."""

    run_id: str
    plan_hash: bytes
    dataset: str
    by: str
    rounds: int
    epsilon: float
    wall_s: float


def rule_name(index: int) -> str:
    """What stands in records for the automatic rule at a place of the policy, counted from 0."""
    return f"approve[{index}]"


def approved_by(policy: Policy, plan: Plan, run_id: str, before: Iterable[LetIn], wall_s: float) -> str:
    """The name of the first rule that lets a run in at `wall_s`; "" if none does. `before`: all runs let in so far. If
    this run is among them, the caps are those of its own month, beside the others of that month.
    """
    others = _beside(policy, run_id, before, wall_s)
    for index, rule in enumerate(policy.approve):
        name = rule_name(index)
        used = [one for one in others if one.by == name and one.dataset == rule.dataset]
        if _fits(rule, plan) and _asks_no_more_rows(policy, plan) and _within(rule, plan, used):
            return name
    return ""


def month_epsilon(policy: Policy, dataset: str, run_id: str, before: Iterable[LetIn], wall_s: float) -> float:
    """What the other runs may spend of a data set that were let in within the month of `wall_s`, or in that in which
    this one was: each counts with its plan's max_epsilon, whatever it has spent so far.
    """
    return sum(one.epsilon for one in _beside(policy, run_id, before, wall_s) if one.dataset == dataset)


def _beside(policy: Policy, run_id: str, before: Iterable[LetIn], wall_s: float) -> list[LetIn]:
    """The other runs of the month in which this one counts: that in which it was let in, else that of `wall_s`."""
    known = tuple(before)
    own = next((one.wall_s for one in known if one.run_id == run_id), wall_s)
    month = hours.month_of(own, policy.zone)
    return [one for one in known if one.run_id != run_id and hours.month_of(one.wall_s, policy.zone) == month]


def _fits(rule: AutomaticRule, plan: Plan) -> bool:
    if rule.dataset != plan.data.dataset or rule.exact != (plan.privacy is None):
        return False
    digest = plans.plan_hash(plans.canonical(plan))
    return not rule.plans or any(matches(one.hash, one.name, one.kind, plan, digest) for one in rule.plans)


def _asks_no_more_rows(policy: Policy, plan: Plan) -> bool:
    """Whether the plan demands no more rows than the policy itself does: yes and no to rising demands, each answered
    without a person, would find the number of rows by bisection.
    """
    rules = policy.data.get(plan.data.dataset)
    return rules is not None and plan.data.min_rows <= rules.min_rows


def _within(rule: AutomaticRule, plan: Plan, used: list[LetIn]) -> bool:
    epsilon = 0.0 if plan.privacy is None else plan.privacy.max_epsilon
    return (
        len(used) + 1 <= rule.runs
        and sum(one.rounds for one in used) + rounds_of(plan) <= rule.rounds
        and (plan.privacy is None or sum(one.epsilon for one in used) + epsilon <= rule.epsilon)
    )
