"""A clip norm that follows the updates: where it stands after each step, as a multiple of the plan's `clip_norm`.

Promise: the same at every member and the coordinator, to the last bit, from the opened sums alone, so it is
post-processing. Each participant says in a block of its own, with noise, whether its update was within the norm; the
norm goes down while more than `quantile` of them are, and up while fewer are. Sums are in steps of a grid on which the
clip norm is always C_int: what follows the norm is what a step means, not the noise, the caps or the price.
Source: Andrew, Thakkar, McMahan, Ramaswamy 2021, with the nominal number of participants; D18 (docs/privacy.md).
"""

import gmpy2

from fedveil_common.decode import Decoded, Readings
from fedveil_common.layout import CLIPPED, UPDATE
from fedveil_common.plan import Plan

LEAST, MOST = 2.0**-20, 2.0**20
"""Of the multiple: a norm that leaves them was led there by something else than updates."""


def scaled(plan: Plan, ratio: float, decoded: Decoded) -> Decoded:
    """The blocks of a train sum whose updates were clipped to `ratio` times the clip norm, in units of the update."""
    if plan.privacy is None or plan.privacy.adaptive is None:
        return decoded
    update = decoded[UPDATE]
    return {**decoded, UPDATE: Readings(update.integers, update.scale / ratio)}


def following(plan: Plan, ratio: float, decoded: Decoded) -> float:
    """The multiple for the next step: `ratio` * exp(-rate * (share within the norm - quantile)), within LEAST .. MOST.
    1 where the plan has a fixed norm.
    """
    privacy = plan.privacy
    if privacy is None or privacy.adaptive is None:
        return 1.0
    within = min(1.0, max(0.0, decoded[CLIPPED].only / plan.cohort.min_participants + 0.5))
    exponent = -privacy.adaptive.rate * (within - privacy.adaptive.quantile)
    return min(MOST, max(LEAST, ratio * _exp(exponent)))


def _exp(value: float) -> float:
    """Correctly rounded, so that it is the same on every machine."""
    with gmpy2.context(precision=53):
        return float(gmpy2.exp(gmpy2.mpfr(value)))
