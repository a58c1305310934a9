"""From an epsilon to the noise that keeps it, and from noise to how many steps an epsilon allows.

Promise: `noise_multiplier` returns a z with at most four decimals of which epsilon(z) <= target was computed, on the
float that is returned; one ten-thousandth less would not do. `steps_allowed` returns the largest number for which the
same holds. Both rest on epsilon falling with z and rising with steps, and on nothing else.
"""

from collections.abc import Callable
from fractions import Fraction

from fedveil_common.dp import rdp
from fedveil_common.dp.charge import Spent
from fedveil_common.dp.slack import EXACT, Slack
from fedveil_common.errors import ConfigError

DECIMALS = 4
MAX_STEPS = 2**32
"""More than a run can have."""

_UNIT: int = 10**DECIMALS
_MOST_NOISE = 10**6
"""A noise multiplier above it is of no use: the sum is noise and nothing else."""


def noise_multiplier(
    target_epsilon: float, delta: float, sample_rate: float, steps: int, slack: Slack = EXACT
) -> float:
    """The least z at which `steps` sums, each over a sample drawn at `sample_rate`, cost no more than `target_epsilon`.

    `slack`: of all the steps together. Errors as `least_noise`; ValueError for a rate outside 0 (excluded) to 1 or
    less than one step.
    """
    if steps < 1:
        raise ValueError("a run has at least one step")

    def cost(noise: Fraction) -> Spent:
        return Spent(rdp.sampled_gaussian(sample_rate, rdp.shift_of(noise)).times(steps), slack)

    return least_noise(cost, target_epsilon, delta)


def least_noise(cost: Callable[[Fraction], Spent], target_epsilon: float, delta: float) -> float:
    """The least z of DECIMALS decimals at which `cost(z)` (of the whole run, falling with z) keeps `target_epsilon`.

    Raises ConfigError `epsilon_out_of_reach` if no z up to 10^6 does: at a given delta no mechanism's bound falls below
    what the largest order gives (0.0084 at 1e-5), nor below what the slack costs.
    """
    if target_epsilon <= 0:
        raise ValueError("a target epsilon is positive")

    def keeps(count: int) -> bool:
        return cost(Fraction(count / _UNIT)).epsilon(delta) <= target_epsilon

    found = _first(keeps, _UNIT, _MOST_NOISE * _UNIT)
    if found is None:
        raise ConfigError(
            "epsilon_out_of_reach",
            f"no noise keeps an epsilon of {target_epsilon:g} at delta {delta:g}",
            next_step="allow a larger epsilon or delta, or fewer steps",
        )
    return found / _UNIT


def steps_allowed(each: Spent, max_epsilon: float, delta: float) -> int:
    """How many times `each` may happen, one after the other, before `max_epsilon` is passed: 0 .. MAX_STEPS."""

    def passes(steps: int) -> bool:
        slack = Slack(each.slack.draws * steps, each.slack.attempts * steps)
        return Spent(each.curve.times(steps), slack).epsilon(delta) > max_epsilon

    first = _first(passes, 1, MAX_STEPS)
    return MAX_STEPS if first is None else first - 1


def _first(holds: Callable[[int], bool], start: int, most: int) -> int | None:
    """The least number from 1 to `most` for which `holds`, which stays true once it is; None if there is none."""
    above = start
    while not holds(above):
        if above >= most:
            return None
        above = min(2 * above, most)
    below = above // 2 if above > start else 0  # does not hold, or is 0
    while above - below > 1:
        middle = (below + above) // 2
        if holds(middle):
            above = middle
        else:
            below = middle
    return above
