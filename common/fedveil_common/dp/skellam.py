"""Skellam noise: the difference of two independent Poisson variables of mean variance/2 each.

Promise: within 2^-107 of it in total variation a draw (`distance` has the proven figure), for variances from 1/64 to
2^26. The sum of independent Skellam variables is a Skellam variable, of the sum of their variances, exactly.
Source: Skellam 1946; Agarwal, Kairouz, Liu (NeurIPS 2021). P(k) = e^-v I_k(v), I the modified Bessel function.
"""

import functools
from fractions import Fraction
from math import isqrt

from fedveil_common.dp.cumulative import Ratios, Sampler, rational, symmetric

MIN_VARIANCE, MAX_VARIANCE = Fraction(1, 64), 2**26

_CACHED = 8
"""Samplers kept: 7 MB and half a second to make at the largest variance."""


@functools.lru_cache(maxsize=_CACHED)
def table(variance: int | Fraction) -> Sampler:
    """The sampler of the Skellam distribution of mean 0 and this variance, 1/64 .. 2^26; ValueError outside."""
    if not MIN_VARIANCE <= variance <= MAX_VARIANCE:
        raise ValueError(f"the variance of a Skellam distribution is within {MIN_VARIANCE} .. {MAX_VARIANCE}")
    v = rational(variance)
    bound = tail_bound(v)
    return symmetric(lambda bits: _ratios(v, bound, bits), bound)


def tail_bound(v: Fraction) -> int:
    """A bound that |x| exceeds with a probability below 2^-108: the least B with 3 B^2 - 152 B >= 456 v.

    Proof (Bernstein): log E e^(ux) = v (cosh u - 1) <= (v u^2 / 2) / (1 - u/3) for 0 <= u < 3, as 2 / (n+2)! <= 3^-n.
    With u = B / (v + B/3), P(x >= B) <= exp(-B^2 / 2(v + B/3)) <= e^-76, twice of which is below 2^-108.
    """
    need = -(-456 * v.numerator // v.denominator)
    least = (152 + isqrt(152 * 152 + 12 * need)) // 6
    return least if 3 * least * least - 152 * least >= need else least + 1


def _ratios(v: Fraction, bound: int, bits: int) -> Ratios:
    """r(k) = I_(k+1)(v) / I_k(v) = 1 / (2(k+1)/v + r(k+1)), from some far k on down, in intervals.

    A difference of two Poisson variables of the same log-concave distribution is log-concave and symmetric: ratios are
    within 0 .. 1, where the recurrence starts, and do not increase. It falls as r(k+1) rises, so rounding outwards
    encloses; an error shrinks by r(k)^2 a step, and `error` is the widest interval that is used, however wide.
    """
    scaled, one = v.numerator, 1 << bits
    low, high, widest = 0, one, 0
    values = [0] * (bound + 1)
    for k in range(2 * bound + bits, -1, -1):
        rest = 2 * (k + 1) * v.denominator << bits
        above, below = rest + scaled * low, rest + scaled * high
        low, high = (scaled << 2 * bits) // below, min(one, -(-(scaled << 2 * bits) // above))
        if k <= bound:
            values[k], widest = low, max(widest, high - low)
    return Ratios(values, widest)
