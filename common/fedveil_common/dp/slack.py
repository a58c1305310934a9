"""What the noise that is really drawn may differ from the noise that is accounted: a price in delta, not in RDP.

Promise: with gamma = draws*2^-107 + attempts*2^-64, an upper bound of the total variation distance between a mechanism
as it runs and as `rdp` accounts it, a mechanism that is (epsilon, delta')-DP as accounted is
(epsilon, delta' + (1 + e^epsilon)*gamma)-DP as it runs. `epsilon` solves that for a given total delta, upwards.
A draw of the 128-bit table sampler is within 2^-107 of the exact distribution; an attempt that tests its draw against
the bound W of the no-wrap inequality (`mechanism.tail`) changes the distribution by beta' = 2^-64 at most. Under masked
a sum that wraps is post-processing, so there attempts are not counted.
Source: amendment D15 (docs/protocol.md); P_real <= P_accounted + gamma under both neighbours.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction

import gmpy2

from fedveil_common.dp import rdp
from fedveil_common.dp.ceiling import rounding_up
from fedveil_common.dp.rdp import Curve

DRAW = Fraction(1, 2**107)
"""Total variation distance of one draw of the table sampler from the exact discrete distribution, at most."""

TAIL = Fraction(1, 2**64)
"""beta': the probability, at most, with which an attempt's noise leaves the bound that its ring is made for."""

_STEP = 1 + 2.0**-40
"""How far above the last figure the next is tried: so far may the result be above the smallest that holds."""

_TRIES = 64
_HOPELESS = 80.0
"""e^80 * 2^-107 > 1: no delta is left for an epsilon like that, if there is any slack at all."""


@dataclass(frozen=True, slots=True)
class Slack:
    """Counts, so that they add exactly: coordinates drawn by the table sampler, and attempts that test their draw."""

    draws: int = 0
    attempts: int = 0

    def __post_init__(self) -> None:
        if self.draws < 0 or self.attempts < 0:
            raise ValueError("a count is not negative")

    def __add__(self, other: "Slack") -> "Slack":
        return Slack(self.draws + other.draws, self.attempts + other.attempts)

    @property
    def gamma(self) -> Fraction:
        """The total variation distance, at most."""
        return self.draws * DRAW + self.attempts * TAIL

    def within(self, other: "Slack") -> bool:
        """Whether neither count exceeds that of `other`."""
        return self.draws <= other.draws and self.attempts <= other.attempts


EXACT = Slack()
"""No slack: what is accounted is what runs."""


def epsilon(curve: Curve, slack: Slack, delta: float | Fraction) -> float:
    """The epsilon of a curve that is fixed beforehand, at a total `delta` that pays for the slack too; infinity if the
    slack leaves nothing of it. Rounded up, by 10^-12 of itself at most.

    (1 + e^epsilon) is why that happens early: at delta = 1e-5 a single tested attempt leaves nothing above about 32, a
    thousand nothing above about 24.6, a hundred thousand nothing above about 20.
    ValueError unless 0 < delta < 1.
    """
    return _solved(lambda left: rdp.epsilon(curve, left), slack, delta)


def lifetime_epsilon(curve: Curve, slack: Slack, delta: float | Fraction) -> float:
    """As `epsilon` for a curve whose parts were chosen one after the other (`rdp.lifetime_epsilon`)."""
    return _solved(lambda left: rdp.lifetime_epsilon(curve, left), slack, delta)


def _solved(accounted: Callable[[Fraction], float], slack: Slack, delta: float | Fraction) -> float:
    """An epsilon with accounted(delta - (1 + e^epsilon)*gamma) <= epsilon: checked in exactly these words, from the
    smallest that it could be upwards.
    """
    tried = accounted(Fraction(delta))
    if not slack.gamma:
        return tried
    for _ in range(_TRIES):
        left = _left(tried, slack, Fraction(delta))
        if left <= 0:
            return math.inf
        found = accounted(left)
        if found <= tried:
            return tried
        tried = found * _STEP
    return math.inf


def _left(tried: float, slack: Slack, delta: Fraction) -> Fraction:
    """What of `delta` is left for what is accounted: delta - (1 + e^tried)*gamma, rounded down."""
    if tried > _HOPELESS:
        return Fraction(-1)
    with rounding_up():
        grown = gmpy2.mpq(gmpy2.exp(gmpy2.mpfr(tried)))
    return delta - (1 + Fraction(int(grown.numerator), int(grown.denominator))) * slack.gamma
