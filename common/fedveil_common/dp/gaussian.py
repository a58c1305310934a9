"""Discrete Gaussian noise: P(x) proportional to exp(-x^2 / 2v) on the integers, for an exact variance parameter v.

Promise: within 2^-107 of it in total variation a draw (`distance` has the proven figure), for 1 <= v <= 2^48. Up to
sigma = 2^10 one table gives it; above, factor * coarse + fine, whose own distance is proven in `two_levels`.
Sources: Canonne, Kamath, Steinke (NeurIPS 2020) for the distribution; Micciancio, Walter (CRYPTO 2017), for two levels.
"""

import functools
from fractions import Fraction
from math import isqrt

from fedveil_common.dp.cumulative import Ratios, Sampler, Table, TwoLevels, rational, symmetric
from fedveil_common.dp.exponential import exp_minus

MAX_VARIANCE = 2**48

_ONE_TABLE = 2**20
"""The largest v of one table: at sigma = 1024 it takes 2 MB and a twentieth of a second to make. Ten times that at
2^13, where two small tables draw no slower; and XNoise has a variance for each participant that may drop out."""

_CACHED = 32
"""Samplers kept, mostly below 2 MB; 13 MB each at the largest variance."""


@functools.lru_cache(maxsize=_CACHED)
def table(variance: int | Fraction) -> Sampler:
    """The sampler of the discrete Gaussian with v = `variance` exactly, 1 .. 2^48; ValueError outside.

    The variance of what is drawn is at most v, and from v = 4 on v within 10^-30 of itself.
    """
    if not 1 <= variance <= MAX_VARIANCE:
        raise ValueError(f"the variance of a discrete Gaussian is within 1 .. {MAX_VARIANCE} grid units squared")
    v = rational(variance)
    return one_table(v) if v <= _ONE_TABLE else two_levels(v, 2 * isqrt(isqrt(int(v))) // 3)


def most(variance: int) -> int:
    """At least `table(variance).bound`, without making a table; ValueError for a variance below 1.

    Proof. One table ends at 12.5 sigma + 1. Two levels end at k (12.5 sigma_a + 1) + 12.5 sigma_b + 1, where
    sigma_b < 2.45 k, k <= 2/3 sqrt(sigma) and k sigma_a <= sigma: that is at most 12.5 sigma + 31.7 k + 1
    <= sigma (12.5 + 21.2 / sqrt(sigma)) + 1, and sqrt(sigma) >= 32 there: below 13.2 sigma + 1.
    """
    if variance < 1:
        raise ValueError("a discrete Gaussian has a variance of at least 1")
    return isqrt(176 * variance) + 2  # 13.26 sigma


def one_table(v: Fraction) -> Table:
    """The table for v, cut at the least bound >= 12.5 sigma.

    Proof of the tail: sum over x > B of e^(-x^2/2v) is at most (v/B) e^(-B^2/2v), all of it at least sqrt(2 pi v)
    (Poisson summation), so both tails are below 2 e^(-78.125) / (12.5 sqrt(2 pi)) < 2^-116. The table's own bound of
    it, by ratios, is within a few parts in a hundred of that; the rounding adds bound * 2^-128, at most 2^-111.
    """
    bound = isqrt(-(-625 * v.numerator // (4 * v.denominator)) - 1) + 1
    return symmetric(lambda bits: _ratios(v, bound, bits), bound)


def _ratios(v: Fraction, bound: int, bits: int) -> Ratios:
    """r(k) = e^-(2k+1)/2v, each from the one before by a factor e^-1/v.

    Both exponentials lack at most 2 units, so r(0) lacks at most 2, and r(k+1) at most what r(k) lacks, 2 and one.
    """
    ratio, factor = exp_minus(1 / (2 * v), bits), exp_minus(1 / v, bits)
    values = []
    for _ in range(bound + 1):
        values.append(ratio)
        ratio = ratio * factor >> bits
    return Ratios(values, 3 * bound + 2)


def two_levels(v: Fraction, factor: int) -> TwoLevels:
    """The sum k a + b, k = factor, of independent discrete Gaussians with k^2 v_a + v_b = v, 5 k^2 <= v_b < 6 k^2.

    It is no discrete Gaussian, but close to the one of v. Completing the square in a, with t^2 = v_a v_b / v: P(y) is
    proportional to e^(-y^2 / 2v) S(y), where S(y) sums e^(-(a - k v_a y / v)^2 / 2t^2) over a. By Poisson summation
    S(y) = sqrt(2 pi) t (1 + s), |s| <= tau = 2 e^(-2 pi^2 t^2) + 2 e^(-8 pi^2 t^2) + .. for every y, so each P(y) is
    within a factor (1 + tau) / (1 - tau) of the discrete Gaussian's, and the distance at most tau / (1 - tau). With
    v >= 30 k^2, t^2 = (v_b / k^2) (1 - v_b / v) >= 5 (1 - 1/5) = 4, and tau < 2^-112.
    ValueError unless factor >= 1 and v >= 30 factor^2.
    """
    square = factor * factor
    if factor < 1 or v < 30 * square:
        raise ValueError("two levels need a factor whose square is at most a thirtieth of the variance")
    coarse = int(v / square) - 5
    a, b = one_table(Fraction(coarse)), one_table(v - square * coarse)
    return TwoLevels(factor, a, b, a.distance + b.distance + _TWO_LEVELS)


_TWO_LEVELS = Fraction(1, 2**111)
"""At least tau / (1 - tau) of `two_levels`."""
