"""Noise samplers by what they draw: the exact ones, chi-square and moments, opendp beside them, Mironov's attack.

Our own draws have fixed keys, so nothing on our side is random. A comparison with opendp, whose draws are, has a false
alarm in fewer than one of 10^6 runs: ALARM a test, by the chi-square approximation for cells of 50 draws and more.
"""

from collections.abc import Callable, Iterator
from fractions import Fraction
from itertools import islice

import mpmath
import numpy as np
import opendp.prelude as opendp
import pytest
from fedveil_common.dp import exact, gaussian, laplace, skellam
from fedveil_common.dp.cumulative import Sampler, Table
from numpy.typing import NDArray
from scipy import stats

from tests.test_dp_samplers import KEY, F, gaussian_weight, laplace_weight, probabilities, skellam_weight, words

OTHER = bytes(range(1, 33))
ALARM = 1e-7

Integers = NDArray[np.int64]


# --- the exact samplers -----------------------------------------------------------------------------------------------


def test_exact_draws_from_bits_given_by_hand() -> None:
    assert [exact.below(6, iter(bits)) for bits in ([1, 1, 0, 1, 0, 1], [0, 0, 0], [1, 1, 1, 0, 1, 1])] == [5, 0, 3]
    assert exact.below(1, iter([])) == 0
    assert [exact.bernoulli(F(1, 3), iter(bits)) for bits in ([0, 0], [0, 1], [1, 0], [1, 1, 0, 0])] == [1, 0, 0, 1]
    # e^-1/2: 0 of {0, 1}, then 1 of {0, .., 3}: one success, so false. At once no success: true.
    assert not exact.bernoulli_exp(F(1, 2), iter([0, 0, 1]))
    assert exact.bernoulli_exp(F(1, 2), iter([1]))
    assert exact.bernoulli_exp(F(0), iter([]))
    # e^-2 with k = 1 always a success: 1 of {0, 1} at k = 2 makes e^-1 false, and the second is not asked for.
    assert not exact.bernoulli_exp(F(2), iter([1]))
    # Scale 1, so u = 0: e^-1 false is v = 0, and its sign - is refused; then e^-1 true, then false, is v = 1.
    assert [exact.laplace(F(1), iter([1, 1, 0, 0, 1, 1, sign])) for sign in (0, 1)] == [1, -1]
    # Scale 1/2 halves v = 2; scale 2 has u = 1, kept at once.
    assert exact.laplace(F(1, 2), iter([0, 0, 1, 0, 0, 1, 1, 0])) == 1
    assert exact.laplace(F(2), iter([1, 1, 1, 1])) == -1


def test_the_exact_bits_are_those_of_the_stream() -> None:
    expected = [word >> at & 1 for word in words(KEY, 0, 600) for at in range(64)]
    assert list(islice(exact.bits(KEY), len(expected))) == expected


def test_exact_parameters_outside_the_range_are_refused() -> None:
    bits = iter([0] * 100)
    for wrong in (
        lambda: exact.below(0, bits),
        lambda: exact.bernoulli(F(3, 2), bits),
        lambda: exact.bernoulli(F(-1, 2), bits),
        lambda: exact.bernoulli_exp(F(-1, 2), bits),
        lambda: exact.laplace(F(0), bits),
        lambda: exact.gaussian(F(0), bits),
    ):
        with pytest.raises(ValueError, match=r"bound|probability|exponent|positive"):
            wrong()
    assert next(bits) == 0


# --- distributions ----------------------------------------------------------------------------------------------------


def cells(share: Callable[[int], float], until: int, draws: int, least: float = 50) -> list[int]:
    """Inner borders of cells of neighbouring values in which `draws` draws leave at least `least` each."""
    borders, filled, left = [], 0.0, float(draws)
    for x in range(-until, until + 1):
        filled += draws * share(x)
        if filled >= least and left - filled >= least:
            borders.append(x + 1)
            left -= filled
            filled = 0.0
    return borders


def shares(table: Table) -> Callable[[int], float]:
    """Probability of a value by a table that was compared with mpmath above."""
    found = probabilities(table)
    return lambda x: found.get(x, 0) / 2**128


def deviates(drawn: Integers, share: Callable[[int], float], until: int, least: float = 50) -> float:
    """The p-value of Pearson's chi-square of a sample."""
    borders = cells(share, until, len(drawn), least)
    assert len(borders) > 5
    observed = np.bincount(np.searchsorted(borders, drawn, side="right"), minlength=len(borders) + 1)
    mass = np.array([share(x) for x in range(-until, until + 1)])
    expected = np.add.reduceat(mass, [0, *(border + until for border in borders)]) * len(drawn)
    return float(stats.chisquare(observed, expected * (len(drawn) / expected.sum())).pvalue)


def differ(one: Integers, other: Integers, share: Callable[[int], float], until: int) -> float:
    """The p-value of the chi-square of two samples being from one distribution."""
    borders = cells(share, until, min(len(one), len(other)))
    counts = [np.bincount(np.searchsorted(borders, x, side="right"), minlength=len(borders) + 1) for x in (one, other)]
    return float(stats.chi2_contingency(counts).pvalue)


FITS: list[tuple[str, Sampler, Callable[[int], mpmath.mpf], float]] = [
    ("gaussian 4", gaussian.table(16), gaussian_weight(F(16)), 16.0),
    ("gaussian 64", gaussian.table(4096), gaussian_weight(F(4096)), 4096.0),
    ("gaussian 1100", gaussian.table(1100**2), gaussian_weight(F(1100**2)), 1100.0**2),
    ("laplace 8", laplace.table(8), laplace_weight(F(8)), 127.8337),
    ("laplace 80", laplace.table(80), laplace_weight(F(80)), 12799.8333),
    ("skellam 64", skellam.table(64), skellam_weight(F(64)), 64.0),
]


@pytest.mark.parametrize(("name", "sampler", "weight", "variance"), FITS, ids=[name for name, *_ in FITS])
def test_draws_fit_their_distribution(
    name: str, sampler: Sampler, weight: Callable[[int], mpmath.mpf], variance: float
) -> None:
    """A million draws: chi-square, mean and variance; a scale wrong by 1 % would be found."""
    drawn = sampler.draw(KEY, 0, 1_000_000)
    until = int(12 * variance**0.5)
    half = [float(weight(x)) for x in range(until + 1)]
    total = 2 * sum(half) - half[0]
    assert deviates(drawn, lambda x: half[abs(x)] / total, until) > 1e-3
    error = (variance / len(drawn)) ** 0.5
    assert abs(drawn.mean()) < 4 * error
    assert drawn.var() == pytest.approx(variance, rel=0.01)
    wrong = {x: float(weight(x)) ** (1 / 1.02) for x in range(until + 1)}
    total = 2 * sum(wrong.values()) - wrong[0]
    assert deviates(drawn, lambda x: wrong[abs(x)] / total, until, len(drawn) / 50) < 1e-6


@pytest.mark.parametrize(
    ("draw", "sampler", "count"),
    [
        (lambda bits: exact.gaussian(F(9), bits), gaussian.table(9), 12_000),
        (lambda bits: exact.gaussian(F(17, 2), bits), gaussian.table(F(17, 2)), 12_000),
        (lambda bits: exact.laplace(F(5, 2), bits), laplace.table(F(5, 2)), 25_000),
    ],
)
def test_exact_draws_fit_the_tables(draw: Callable[[Iterator[int]], int], sampler: Table, count: int) -> None:
    bits = exact.bits(KEY)
    drawn = np.array([draw(bits) for _ in range(count)])
    assert deviates(drawn, shares(sampler), sampler.bound) > 1e-3
    assert drawn.min() < -5
    assert drawn.max() > 5


@pytest.mark.parametrize("gamma", [F(1, 7), F(1), F(17, 10), F(3)])
def test_exact_exponential_coins(gamma: Fraction) -> None:
    bits, count = exact.bits(OTHER), 20_000
    p = float(mpmath.exp(-mpmath.mpf(gamma.numerator) / gamma.denominator))
    hits = sum(exact.bernoulli_exp(gamma, bits) for _ in range(count))
    assert abs(hits - count * p) < 4 * (count * p * (1 - p)) ** 0.5


OPENDP = {
    "gaussian": lambda scale: opendp.m.make_gaussian(
        opendp.vector_domain(opendp.atom_domain(T=int)), opendp.l2_distance(T=float), scale=scale
    ),
    "laplace": lambda scale: opendp.m.make_laplace(
        opendp.vector_domain(opendp.atom_domain(T=int)), opendp.l1_distance(T=int), scale=scale
    ),
}


@pytest.mark.parametrize(
    ("kind", "scale", "sampler", "fine"),
    [
        ("gaussian", 8.0, gaussian.table(64), gaussian.table(64)),
        ("gaussian", 1100.0, gaussian.table(1100**2), gaussian.one_table(F(1100**2))),
        ("laplace", 8.0, laplace.table(8), laplace.table(8)),
        ("laplace", 80.0, laplace.table(80), laplace.one_table(F(80))),
    ],
)
def test_draws_are_like_those_of_opendp(kind: str, scale: float, sampler: Sampler, fine: Table) -> None:
    opendp.enable_features("contrib")
    theirs = np.array(OPENDP[kind](scale)([0] * 20_000))
    ours = sampler.draw(KEY, 0, 200_000)
    assert differ(ours, theirs, shares(fine), fine.bound) > ALARM
    assert differ(np.round(ours * 1.1).astype(np.int64), theirs, shares(fine), fine.bound) < ALARM


# --- Mironov's attack -------------------------------------------------------------------------------------------------


def naive(value: float, count: int) -> NDArray[np.float64]:
    """The sampler of the textbook, which is not private: inversion of a 53-bit uniform, added to the value."""
    uniform = (np.array(words(KEY, 0, count), dtype=np.uint64) >> np.uint64(11)).astype(np.float64) * 2.0**-53 - 0.5
    return value - np.sign(uniform) * np.log(1 - 2 * np.abs(uniform))


def off_the_grid(outputs: NDArray[np.float64]) -> float:
    """Of the outputs near 0, the share that is no multiple of 2^-53: only noise that was added to 0 leaves them."""
    near = outputs[np.abs(outputs) < 0.25] * 2.0**53
    assert len(near) > 1000
    return float(np.mean(near != np.floor(near)))


def test_rival_R12_mironov_tells_a_float_sampler_and_not_ours() -> None:
    """Mironov (CCS 2012): one output tells whether the value was 0 or 1. Integer noise has one support for both."""
    assert off_the_grid(naive(0.0, 100_000)) == pytest.approx(0.836, abs=0.02)
    assert off_the_grid(naive(1.0, 100_000)) == 0.0
    for sampler in (laplace.table(4), gaussian.table(16), skellam.table(16)):
        noise = sampler.draw(KEY, 0, 100_000)
        outputs = [(value + noise).astype(np.float64) for value in (0, 1)]
        assert [off_the_grid(output) for output in outputs] == [0.0, 0.0]
        # Each value is possible for both, as far as 2^-100 is possible at all.
        assert isinstance(sampler, Table)
        possible = {x for x, p in probabilities(sampler).items() if p > 2**28}
        assert possible == set(range(min(possible), max(possible) + 1))
        assert {x + 1 for x in possible} - probabilities(sampler).keys() <= {sampler.bound + 1}
