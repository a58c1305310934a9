"""What a plan that continues a run may go on from: the final model of an ended run of the same plan, for more rounds.

Promise: nothing but `training.rounds` differs from the plan of the run that is continued, so what organisations once
agreed to stands; they agree anew by the hash of the new plan, which names the first model and every run that led to it.
Source: FLSA/1 section 2.8 (docs/protocol.md).
"""

from collections.abc import Callable
from dataclasses import replace

from fedveil_common import layout, modelfile
from fedveil_common.errors import ConfigError
from fedveil_common.ids import RunId
from fedveil_common.messages import SumRef
from fedveil_common.plan import Plan

from fedveil_coordinator.run import RunState

StateOf = Callable[[RunId], RunState]
"""The state of a run; ConfigError `unknown_run`."""


def answer(plan: Plan, state_of: StateOf, known: Callable[[bytes], SumRef | None]) -> tuple[SumRef, ...]:
    """The earlier sum that answers the plan's query (moments, statistics), if there is one: of a continued run always
    the one that it used. `known`: by `layout.answer_digest`.
    """
    if plan.continues:
        return state_of(RunId(plan.continues[-1].run)).standardise
    asks = layout.needs_standardise(plan) or plan.statistics is not None
    found = known(layout.answer_digest(plan)) if asks else None
    return () if found is None else (found,)


def check(plan: Plan, state_of: StateOf) -> None:
    """A plan that continues runs goes on from the end of the last of them. ConfigError `cannot_continue`,
    `unknown_run`.
    """
    if not plan.continues:
        return
    leg = plan.continues[-1]
    earlier = state_of(RunId(leg.run))
    before = earlier.plan
    if earlier.ended is None or not earlier.ended.model:
        raise _refused(f"run {leg.run} has no final model")
    final = modelfile.parse_manifest(earlier.ended.model[0].body).model_hash
    steps = [version.step for version in earlier.versions if version.model_hash == final]
    if final.hex() != plan.model.initial or leg.steps not in steps:
        raise _refused(f"the plan does not begin with the final model of run {leg.run}")
    training = replace(plan.training, rounds=before.training.rounds)
    same = replace(plan, training=training, model=before.model, continues=before.continues)
    if same != before or plan.model != replace(before.model, initial=plan.model.initial):
        raise _refused(f"the plan differs from that of run {leg.run} in more than training.rounds")
    if plan.continues[:-1] != before.continues:
        raise _refused(f"run {leg.run} did not itself begin where the plan says")


def _refused(why: str) -> ConfigError:
    return ConfigError(
        "cannot_continue",
        why,
        not_done="no run was started",
        next_step="`fedveil run start PLAN --from RUN` with the plan of that run and another training.rounds",
    )
