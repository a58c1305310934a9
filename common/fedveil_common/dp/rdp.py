"""What a mechanism costs, as Renyi differential privacy at fixed orders, and what that means in (epsilon, delta).

Promise: every value is an upper bound of the formula in its docstring, tight to the last bit of a float (`ceiling`), so
that what a ledger adds up is never below the truth. Composition is addition, order by order. A `squared_shift` is
(Delta2/sigma)^2, the squared L2 sensitivity over the variance of the noise, both in units of the grid: an exact
rational; 1/z^2 for a noise multiplier z (`shift_of`). Adjacency: one record (person, participant) added or removed.
For integer shifts and integer orders the discrete Gaussian's RDP EQUALS the continuous one's, sampled or not, so
`gaussian` and `sampled_gaussian` are what the ledger charges for it; what a SUM of several discrete Gaussians costs
more than one of the same total variance is `with_gap`.
Source: Mironov 2017 (RDP); Mironov, Talwar, Zhang 2019 (sampling); Canonne, Kamath, Steinke 2020 (discrete Gaussian,
conversion); Kairouz, Liu, Steinke 2021 (sums); Agarwal, Kairouz, Liu 2021 (Skellam).
"""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from fractions import Fraction
from functools import cache, lru_cache

import gmpy2

from fedveil_common.dp.ceiling import least_float, plus, rounding_down, rounding_up

ORDERS = (*range(2, 65), 80, 96, 128, 192, 256, 512)
"""The orders at which everything is accounted."""

LIFETIME_ORDERS = (2, 3, 4, 5, 6, 8, 10, 12, 16, 24, 32, 64)
"""The orders of the lifetime stop: what is spent depends on what was seen, and a stop on RDP is proven for an order
that is fixed beforehand, so each of these has its own part of delta (Feldman, Zrnic 2021; Lecuyer 2021)."""

_INDEX = {order: index for index, order in enumerate(ORDERS)}

_LARGEST_SCALE = 2**30
"""Of a discrete Laplace: beyond it 256 bits would no longer be ample for the difference that its formula takes."""

_MARGIN = Fraction(2**60 + 1, 2**60)
"""For the one formula that subtracts: it loses fewer than 130 of 256 bits, so its relative error is below 2^-120 and a
factor of 1 + 2^-60 makes a bound of it."""


@dataclass(frozen=True, slots=True)
class Curve:
    """An upper bound of the Renyi divergence at each of ORDERS, in nats; 0 or more, infinity where there is none."""

    rho: tuple[float, ...]

    def __post_init__(self) -> None:
        if len(self.rho) != len(ORDERS) or not all(isinstance(rho, float) and rho >= 0 for rho in self.rho):
            raise ValueError(f"a curve is {len(ORDERS)} floats, none of them negative")

    def __add__(self, other: "Curve") -> "Curve":
        """Both mechanisms on the same records, the second chosen by whatever the first one showed."""
        return composed((self, other))

    def times(self, count: int) -> "Curve":
        """The mechanism `count` times (0 or more)."""
        if count < 0:
            raise ValueError("nothing happens less than 0 times")
        return Curve(tuple(_times(rho, count) for rho in self.rho))

    def at(self, order: int) -> float:
        """The value at one of ORDERS."""
        return self.rho[_INDEX[order]]

    def within(self, other: "Curve") -> bool:
        """Whether no order costs more than in `other`."""
        return all(mine <= theirs for mine, theirs in zip(self.rho, other.rho, strict=True))


NOTHING = Curve((0.0,) * len(ORDERS))
"""What a mechanism costs that does not look."""


def composed(curves: Iterable[Curve]) -> Curve:
    """The sum of curves, the same in any order; NOTHING for none."""
    columns = zip(*(curve.rho for curve in curves), strict=True)
    sums = tuple(plus(column) for column in columns)
    return Curve(sums) if sums else NOTHING


def largest(first: Curve, second: Curve) -> Curve:
    """The larger of both at each order: for a record that meets one of them, nobody says which."""
    return Curve(tuple(map(max, first.rho, second.rho)))


def shift_of(noise_multiplier: float | Fraction) -> Fraction:
    """1/z^2, exactly: the squared shift under noise of standard deviation z*Delta2. ValueError unless 0 < z < inf."""
    if not 0 < noise_multiplier < math.inf:
        raise ValueError("a noise multiplier is positive and finite")
    return 1 / Fraction(noise_multiplier) ** 2


def gaussian(squared_shift: Fraction) -> Curve:
    """alpha*squared_shift/2: the Gaussian, and the discrete Gaussian at integer shifts.

    Source: Mironov 2017, Corollary 3; Canonne, Kamath, Steinke 2020, Proposition 5 (an equality where alpha*shift is an
    integer) coordinate by coordinate.
    """
    _check_shift(squared_shift)
    return _curve(lambda order: least_float(order * squared_shift / 2))


@lru_cache(maxsize=256)
def sampled_gaussian(sample_rate: Fraction | float, squared_shift: Fraction) -> Curve:
    """log(sum_k C(a,k) (1-q)^(a-k) q^k e^(k(k-1)*squared_shift/2)) / (a-1): each record is in with probability q.

    The binomial weights add up to 1, so the sum is 1 plus the same with e^x - 1 for e^x, whose terms are all positive:
    nothing cancels, however small q. The divergence in the other direction is not larger (Mironov, Talwar, Zhang 2019,
    Theorem 5: the reflection between both distributions exists on the grid too), and the terms are moments
    E[(P'/P)^k], which for the discrete Gaussian at integer shifts equal the continuous one's.
    Source: Mironov, Talwar, Zhang 2019, section 3.3. ValueError unless 0 < q <= 1.
    """
    if not 0 < sample_rate <= 1:
        raise ValueError("a sampling rate is within 0 (excluded) and 1")
    _check_shift(squared_shift)
    if sample_rate == 1:
        return gaussian(squared_shift)
    rate = Fraction(sample_rate)
    top = ORDERS[-1]
    with rounding_up():
        drawn, left = gmpy2.mpfr(rate), gmpy2.mpfr(1 - rate)
        half = gmpy2.mpq(squared_shift) / 2
        moved = [drawn**k * gmpy2.expm1(gmpy2.mpfr(half * (k * (k - 1)))) for k in range(top + 1)]
        still = [left**k for k in range(top + 1)]

        def value(order: int) -> float:
            excess = gmpy2.mpfr(0)
            for k in range(2, order + 1):  # the terms of k = 0 and 1 are 0
                excess += math.comb(order, k) * moved[k] * still[order - k]
            return least_float(gmpy2.log1p(excess) / (order - 1))

        return _curve(value)


def laplace(scale: float | Fraction, sensitivity: float | Fraction = 1) -> Curve:
    """The continuous Laplace of scale b under an L1 shift of `sensitivity`, x = sensitivity/b:
    log(a/(2a-1) e^((a-1)x) + (a-1)/(2a-1) e^(-ax)) / (a-1).

    Convex in x and 0 at 0, so a shift over several coordinates costs no more than the same in one. Never above x, as
    which it is pure DP.
    Source: Mironov 2017, Table II and Proposition 6.
    """
    distance = _distance(scale, sensitivity)
    with rounding_up():

        def value(order: int) -> float:
            away = gmpy2.mpq(order, 2 * order - 1) * gmpy2.exp(gmpy2.mpfr((order - 1) * distance))
            back = gmpy2.mpq(order - 1, 2 * order - 1) * gmpy2.exp(gmpy2.mpfr(-order * distance))
            return min(least_float(gmpy2.log(away + back) / (order - 1)), least_float(distance))

        return _curve(value)


def discrete_laplace(scale: float | Fraction, sensitivity: int = 1) -> Curve:
    """The discrete Laplace, P(x) ~ e^(-|x|/b), under an integer L1 shift D: log G / (a-1) with t = 1/b, r = e^-t,
    G = A e^((a-1)Dt) + (1-A) e^(-aDt) and 1-A = (1 - r^(2a-2)) / ((1 - r^(2a-1)) (1 + 1/r)).

    G is the sum of P(x)^a P(x-D)^(1-a) over all x, three geometric series. log G is convex in D and 0 at 0, so a shift
    over several coordinates costs no more than the same in one. Never above D/b, as which it is pure DP.
    Source: derived here; pure DP: Ghosh, Roughgarden, Sundararajan 2009. ValueError for a scale above 2^30.
    """
    if scale > _LARGEST_SCALE:
        raise ValueError(f"a discrete Laplace is accounted up to a scale of {_LARGEST_SCALE}")
    distance = _distance(scale, sensitivity)
    step = distance / sensitivity
    with rounding_up():

        def power(exponent: int) -> gmpy2.mpfr:
            return gmpy2.exp(gmpy2.mpfr(-exponent * step))

        def value(order: int) -> float:
            back = (1 - power(2 * order - 2)) / ((1 - power(2 * order - 1)) * (1 + power(-1)))
            away = gmpy2.exp(gmpy2.mpfr((order - 1) * distance))
            mass = (1 - back) * away + back * gmpy2.exp(gmpy2.mpfr(-order * distance))
            return min(least_float(gmpy2.log(mass) / (order - 1) * _MARGIN), least_float(distance))

        return _curve(value)


def skellam(squared_sensitivity: int, l1_sensitivity: int, variance: int | Fraction) -> Curve:
    """a*D2^2/(2 mu) + min(((2a-1) D2^2 + 6 D1)/(4 mu^2), 3 D1/(2 mu)): Skellam noise of total variance mu, integer
    shifts with squared L2 norm up to D2^2 and L1 norm up to D1 (`l1_bound`), integer orders only.

    Source: Agarwal, Kairouz, Liu 2021, the multi-dimensional Skellam mechanism at scale 1.
    """
    if squared_sensitivity <= 0 or l1_sensitivity <= 0 or variance <= 0:
        raise ValueError("sensitivities and the variance are positive")
    mu = Fraction(variance)

    def value(order: int) -> float:
        tight = ((2 * order - 1) * squared_sensitivity + 6 * l1_sensitivity) / (4 * mu**2)
        return least_float(order * squared_sensitivity / (2 * mu) + min(tight, 3 * l1_sensitivity / (2 * mu)))

    return _curve(value)


def l1_bound(squared_sensitivity: int, length: int) -> int:
    """min(sqrt(d)*D2, D2^2), rounded up: the L1 norm of `length` integers whose squares sum to at most D2^2."""
    if squared_sensitivity <= 0 or length < 1:
        raise ValueError("a sensitivity is positive, and so is a length")
    return min(math.isqrt(length * squared_sensitivity - 1) + 1, squared_sensitivity)


def sum_gap(variances: Iterable[int | Fraction]) -> float:
    """tau: how far, at every point of one coordinate, the log density of a sum of independent discrete Gaussians lies
    from that of one discrete Gaussian of the same total variance: 10 sum_k exp(-2 pi^2 S_k v_{k+1} / (S_k + v_{k+1})),
    S_k the sum of the first k variances; 10 sum_{k<n} exp(-2 pi^2 v k/(k+1)) for n equal ones. 0 for a single one.

    Source: Kairouz, Liu, Steinke 2021, the theorem on the convolution of two discrete Gaussians, term by term (as its
    Proposition 14 does for equal ones). ValueError for a variance below 1/4, where it is not proven.
    """
    before, exponents = Fraction(0), []
    for variance in variances:
        if variance < Fraction(1, 4):
            raise ValueError("the theorem needs variances of at least 1/4")
        if before:
            exponents.append(before * variance / (before + variance))
        before += variance
    with rounding_down():
        factor = 2 * gmpy2.const_pi() ** 2
        squeezed = [factor * gmpy2.mpfr(exponent) for exponent in exponents]
    with rounding_up():
        return least_float(sum((10 * gmpy2.exp(-one) for one in squeezed), gmpy2.mpfr(0)))


def with_gap(single: Curve, gap: float, length: int) -> Curve:
    """The curve of a sum of discrete Gaussians over `length` coordinates, from that of a single one of the same total
    variance and their `sum_gap`: rho + (2a-1)/(a-1)*tau*d.

    Both densities lie within a factor e^(tau*d) of the single one's, sampled or not; they enter with powers a and a-1.
    """
    if gap < 0 or length < 1:
        raise ValueError("a gap is not negative and a length is positive")
    distance = Fraction(gap) * length
    return Curve(
        tuple(
            rho if rho == math.inf else least_float(Fraction(rho) + distance * (2 * order - 1) / (order - 1))
            for order, rho in zip(ORDERS, single.rho, strict=True)
        )
    )


def epsilon(curve: Curve, delta: float | Fraction, orders: tuple[int, ...] = ORDERS) -> float:
    """max(0, min over `orders` of rho + log(1-1/a) - log(a*delta)/(a-1)), rounded up: the mechanism is
    (epsilon, delta)-DP. 0 for a mechanism that costs nothing; infinity if no order gives a bound.

    For a curve that is fixed beforehand; see `lifetime_epsilon` for one that is not. ValueError unless 0 < delta < 1.
    Source: Canonne, Kamath, Steinke 2020, Proposition 12.
    """
    _check_delta(delta)
    values = [curve.at(order) for order in orders]
    if 0.0 in values:  # divergence 0 at one order above 1: the distributions are equal
        return 0.0
    with rounding_up():
        rarity = gmpy2.log(gmpy2.mpfr(1 / Fraction(delta)))
        found = (rho + _converted(order) + rarity / (order - 1) for order, rho in zip(orders, values, strict=True))
        return max(0.0, least_float(min(found)))


def lifetime_epsilon(curve: Curve, delta: float | Fraction) -> float:
    """`epsilon` for a curve whose parts were chosen one after the other, each by what the ones before showed: over
    LIFETIME_ORDERS, each with its twelfth of `delta`.
    """
    return epsilon(curve, Fraction(delta) / len(LIFETIME_ORDERS), LIFETIME_ORDERS)


def _curve(value: Callable[[int], float]) -> Curve:
    return Curve(tuple(value(order) for order in ORDERS))


def _times(rho: float, count: int) -> float:
    if rho == math.inf:
        return math.inf if count else 0.0
    return least_float(Fraction(rho) * count)


@cache
def _converted(order: int) -> gmpy2.mpfr:
    """What the conversion adds at order a whatever delta is, rounded up: log(1 - 1/a) + log(1/a)/(a-1)."""
    with rounding_up():
        kept, inverse = gmpy2.mpfr(Fraction(order - 1, order)), gmpy2.mpfr(Fraction(1, order))
        return gmpy2.log(kept) + gmpy2.log(inverse) / (order - 1)


def _distance(scale: float | Fraction, sensitivity: float | Fraction) -> Fraction:
    if not 0 < scale < math.inf or not 0 < sensitivity < math.inf:
        raise ValueError("a scale and a sensitivity are positive and finite")
    return Fraction(sensitivity) / Fraction(scale)


def _check_shift(squared_shift: Fraction) -> None:
    if squared_shift <= 0:
        raise ValueError("a squared shift is positive")


def _check_delta(delta: float | Fraction) -> None:
    if not 0 < delta < 1:
        raise ValueError("a delta is within 0 and 1, both excluded")
