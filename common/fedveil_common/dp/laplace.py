"""Discrete Laplace noise: P(x) proportional to exp(-|x| / scale) on the integers, for an exact rational scale.

Promise: within 2^-107 of it in total variation a draw (`distance` has the proven figure), for scales 1/64 .. 2^24. Up
to scale 64 one table gives it; above, two of them, in a sum that is exact. Epsilon-differential privacy of a sum of
sensitivity D needs the scale D / epsilon; the distance adds a delta of its own.
Source: Ghosh, Roughgarden, Sundararajan (STOC 2009), the two-sided geometric distribution.
"""

import functools
from fractions import Fraction
from math import isqrt

from fedveil_common.dp.cumulative import Ratios, Sampler, Table, TwoLevels, rational, symmetric
from fedveil_common.dp.exponential import exp_minus

MIN_SCALE, MAX_SCALE = Fraction(1, 64), 2**24

_ONE_TABLE = 64
"""The largest scale of one table. With factor^2 = 64 scale, too, a coarse table is about as large as its fine one."""

_CACHED = 16
"""Samplers kept, mostly below 2 MB; 6 MB each at the largest scale."""


@functools.lru_cache(maxsize=_CACHED)
def table(scale: int | Fraction) -> Sampler:
    """The sampler of the discrete Laplace distribution of this scale, 1/64 .. 2^24; ValueError outside."""
    if not MIN_SCALE <= scale <= MAX_SCALE:
        raise ValueError(
            f"the scale of a discrete Laplace distribution is within {MIN_SCALE} .. {MAX_SCALE} grid units"
        )
    t = rational(scale)
    return one_table(t) if t <= _ONE_TABLE else two_levels(t, isqrt(_ONE_TABLE * int(t)))


def one_table(scale: Fraction) -> Table:
    """The table, cut at the least bound >= 75 scales.

    Proof of the tail: with q = e^(-1/scale) it is 2 q^(bound+1) / (1 + q) <= q^bound <= e^-75 < 2^-108.
    """
    bound = -(-75 * scale.numerator // scale.denominator)

    def ratios(bits: int) -> Ratios:
        """Nothing but q."""
        return Ratios([exp_minus(1 / scale, bits)] * (bound + 1), 2)

    return symmetric(ratios, bound)


def two_levels(scale: Fraction, factor: int) -> TwoLevels:
    """The sum factor * A + D, exactly discrete Laplace for exact A and D.

    Proof. It is the difference of two independent geometric variables, P(g) = (1-q) q^g. Of such a g the quotient and
    the remainder by `factor` = m are independent, since q^(ma + b) = (q^m)^a q^b: the quotient is geometric with q^m,
    the remainder has P(b) proportional to q^b on 0 .. m-1. So A, the difference of the quotients, is discrete Laplace
    of the scale divided by m, and D is the difference of two remainders.
    """
    if factor < 2:
        raise ValueError("two levels need a factor of two or more")
    a, d = one_table(scale / factor), symmetric(lambda bits: _remainders(scale, factor, bits), factor - 1)
    return TwoLevels(factor, a, d, a.distance + d.distance)


def _remainders(scale: Fraction, factor: int, bits: int) -> Ratios:
    """r(d) = q g(m-d-1) / g(m-d) of D, with g(j) = 1 + q^2 + .. + q^2(j-1) and g(0) = 0, for d = 0 .. m-1.

    P(d) is proportional to the sum over b < m-d of q^b q^(b+d), which is q^d g(m-d); D is the difference of two
    variables with the same log-concave distribution, so its ratios do not increase.
    The stored g(j) lacks at most j^2 <= m^2 = e units: none for j = 1, and g(j+1) = 1 + q^2 g(j) what g(j) lacks,
    2 g(j) <= 2j for the q^2, and one. A stored ratio divides by the stored g(j), at least 1, raised by e: it lacks at
    most 2 for q, e for the numerator, e for the denominator, and one.
    """
    one, q, square = 1 << bits, exp_minus(1 / scale, bits), exp_minus(2 / scale, bits)
    sums = [0, one]
    for _ in range(factor - 1):
        sums.append(one + (sums[-1] * square >> bits))
    lack = factor * factor
    values = [q * sums[j - 1] // (sums[j] + lack) for j in range(factor, 0, -1)]
    return Ratios(values, 2 * lack + 3)
