"""When a run has learned what it will learn: the plan's stopping rule, as a function of the securely summed losses.

Promise: pure, so that coordinator and participants find the same end and the same final model in the same opened sums.
The losses are those of models after at least one step, in order, each measured by the train sum that received it. A
loss counts as better only if it is more than `min_delta` below the best; after `patience` losses in a row that are not,
the run stops and the model with the best loss is the final one. Without the rule, or if it never stops, the last is.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from fedveil_common.plan.spec import StopSpec

Loss = tuple[int, float]
"""(model steps before it, mean holdout loss) of a model that was measured."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """`stopped`: no further sum is due. `best`: after how many steps the best model stood; 0 while none is measured."""

    stopped: bool
    best: int


def verdict(stop: StopSpec | None, losses: Sequence[Loss]) -> Verdict:
    """What the rule says to these losses; what comes after the loss at which it stopped does not count."""
    best, least, waited = 0, float("inf"), 0
    for step, loss in losses:
        if loss < least - (stop.min_delta if stop and best else 0.0):
            best, least, waited = step, loss, 0
        else:
            waited += 1
        if stop and waited >= stop.patience:
            return Verdict(True, best)
    return Verdict(False, best)
