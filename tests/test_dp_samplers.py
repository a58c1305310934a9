"""Noise samplers: tables against mpmath and a second implementation, ties, chunks, distributions, Mironov's attack.

Our own draws have fixed keys, so nothing on our side is random. A comparison with opendp, whose draws are, has a false
alarm in fewer than one of 10^7 runs (ALARM, as the chi-square approximation has it for cells of 50 and more).
"""

from collections.abc import Callable, Sequence
from fractions import Fraction
from itertools import islice
from typing import ClassVar

import mpmath
import numpy as np
import opendp.prelude as opendp
import pytest
from fedveil_common.crypto.prg import Streams
from fedveil_common.dp import cumulative, exact, exponential, gaussian, laplace, skellam
from fedveil_common.dp.cumulative import DISTANCE, LANE, Ratios, Sampler, Table, TwoLevels
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import stats

from tests.reference import dp_samplers as reference

KEY = bytes(range(32))
OTHER = bytes(range(1, 33))
ALARM = 1e-7
F = Fraction

Integers = NDArray[np.int64]


def edges(table: Table) -> list[int]:
    """A table's edges as integers."""
    return [int(high) << 64 | int(low) for high, low in zip(table._high, table._low, strict=True)]


def probabilities(table: Table) -> dict[int, int]:
    """Value -> probability in units of 2^-128."""
    every = [0, *edges(table), 2**128]
    return {table._lowest + at: every[at + 1] - every[at] for at in range(len(every) - 1)}


def words(key: bytes, start: int, count: int) -> list[int]:
    """64-bit words of a key's stream."""
    drawn = np.empty(count, dtype="<u8")
    Streams([(key, False)], start, 8).fill(drawn)
    return drawn.tolist()


# --- exponentials -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("x", [F(0), F(1, 2**21), F(1, 3), F(1), F(7, 5), F(2), F(64), F(1001, 7), F(2**32)])
@pytest.mark.parametrize("bits", [1, 64, 256, 1024])
def test_exponentials_are_enclosed(x: Fraction, bits: int) -> None:
    found = exponential.exp_minus(x, bits)
    with mpmath.workprec(bits + 100):
        true = mpmath.exp(-mpmath.mpf(x.numerator) / x.denominator) * mpmath.mpf(2) ** bits
        assert found <= true <= found + 2


@pytest.mark.parametrize(("x", "bits"), [(F(-1, 10), 64), (F(2**32 + 1), 64), (F(1), 0), (F(1), 2**20 + 1)])
def test_exponentials_outside_the_proof_are_refused(x: Fraction, bits: int) -> None:
    with pytest.raises(ValueError, match="exponent"):
        exponential.exp_minus(x, bits)


# --- tables against mpmath --------------------------------------------------------------------------------------------


def gaussian_weight(v: Fraction) -> Callable[[int], mpmath.mpf]:
    return lambda x: mpmath.exp(-mpmath.mpf(x * x * v.denominator) / (2 * v.numerator))


def laplace_weight(scale: Fraction) -> Callable[[int], mpmath.mpf]:
    return lambda x: mpmath.exp(-mpmath.mpf(abs(x) * scale.denominator) / scale.numerator)


def skellam_weight(v: Fraction) -> Callable[[int], mpmath.mpf]:
    return lambda x: mpmath.besseli(abs(x), mpmath.mpf(v.numerator) / v.denominator)


def far(found: dict[int, mpmath.mpf], weight: Callable[[int], mpmath.mpf], until: int) -> mpmath.mpf:
    """Total variation distance from the whole distribution, whose weights are summed as far as +-`until`."""
    half = [weight(x) for x in range(until + 1)]
    total = 2 * mpmath.fsum(half) - half[0]
    missing = mpmath.fsum(w for x, w in enumerate(half) if x not in found) + mpmath.fsum(
        w for x, w in enumerate(half) if x and -x not in found
    )
    return (missing / total + mpmath.fsum(abs(p - half[abs(x)] / total) for x, p in found.items())) / 2


TABLES = [
    *((gaussian.table, gaussian_weight, F(v)) for v in (1, F(17, 2), 16, 4096, 10**6)),
    *((laplace.table, laplace_weight, F(t)) for t in (F(1, 64), F(1, 2), 1, F(100, 7), 64)),
    *((skellam.table, skellam_weight, F(v)) for v in (F(1, 64), F(1, 3), 1, 64, 4096)),
]


@pytest.mark.parametrize(("make", "weight", "parameter"), TABLES)
def test_every_probability_is_right(
    make: Callable[[Fraction], Sampler], weight: Callable[[Fraction], Callable[[int], mpmath.mpf]], parameter: Fraction
) -> None:
    """Within 2^-107 each, within `distance` together, which is no more than the truth by much; symmetric exactly."""
    table = make(parameter)
    assert isinstance(table, Table)
    found = probabilities(table)
    assert max(found) == -min(found) == table.bound
    assert all(found[x] == found[-x] > 0 for x in found)
    with mpmath.workprec(300):
        shares = {x: mpmath.mpf(p) / 2**128 for x, p in found.items()}
        away = far(shares, weight(parameter), table.bound + 40 + table.bound // 2)
        assert away <= mpmath.mpf(table.distance.numerator) / table.distance.denominator <= mpmath.mpf(2) ** -107
        assert table.distance <= F(60, 2**128) + 3 * F(int(away * 2**200), 2**200)
        assert max(abs(p - shares[-x]) for x, p in shares.items()) == 0


@pytest.mark.parametrize(
    ("sampler", "weight"),
    [
        (gaussian.two_levels(F(270), 3), gaussian_weight(F(270))),
        (gaussian.two_levels(F(4001, 8), 4), gaussian_weight(F(4001, 8))),
        (laplace.two_levels(F(7), 5), laplace_weight(F(7))),
        (laplace.two_levels(F(33, 2), 12), laplace_weight(F(33, 2))),
    ],
)
def test_two_levels_add_up(sampler: TwoLevels, weight: Callable[[int], mpmath.mpf]) -> None:
    """The exact distribution of factor * coarse + fine, by the sum over all pairs, is as near as it claims."""
    summed: dict[int, int] = {}
    fine = probabilities(sampler.fine)
    for a, p in probabilities(sampler.coarse).items():
        for b, r in fine.items():
            value = sampler.factor * a + b
            summed[value] = summed.get(value, 0) + p * r
    assert sampler.bound == max(summed) == -min(summed)
    with mpmath.workprec(300):
        shares = {x: mpmath.mpf(p) / 2**256 for x, p in summed.items()}
        away = far(shares, weight, 3 * sampler.bound // 2)
        assert away <= mpmath.mpf(sampler.distance.numerator) / sampler.distance.denominator <= mpmath.mpf(2) ** -107


def variance(table: Table) -> float:
    """Of the draws."""
    return float(F(sum(p * x * x for x, p in probabilities(table).items()), 2**128))


def test_two_gaussian_levels_are_what_the_proof_asks_for() -> None:
    """Tau / (1 - tau) at t^2 = 4; the variances add up to v, the fine one is 5 to 6 squares of the factor."""
    with mpmath.workprec(300):
        tau = 2 * mpmath.nsum(lambda j: mpmath.exp(-8 * mpmath.pi**2 * j * j), [1, mpmath.inf])
        assert tau / (1 - tau) < mpmath.mpf(gaussian._TWO_LEVELS.numerator) / gaussian._TWO_LEVELS.denominator
    for v in (F(2**20 + 1), F(2**22 * 10 - 1, 7), F(2**26)):
        sampler = gaussian.table(v)
        assert isinstance(sampler, TwoLevels)
        square, fine = sampler.factor**2, variance(sampler.fine)
        assert 30 * square <= v
        assert 5 * square - 1e-6 < fine < 6 * square
        assert square * variance(sampler.coarse) + fine == pytest.approx(float(v), rel=1e-12)
        assert sampler.distance == sampler.coarse.distance + sampler.fine.distance + gaussian._TWO_LEVELS


@pytest.mark.parametrize(("make", "weight", "parameter"), [TABLES[3], TABLES[8], TABLES[13]])
def test_the_precision_at_which_a_table_is_made_does_not_show(
    make: Callable[[Fraction], Sampler],
    weight: object,
    parameter: Fraction,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """140 bits settle no table, 280 do: the edges are rounded correctly, and so are the same."""
    expected = make(parameter)
    monkeypatch.setattr(cumulative, "_BITS", 140)
    again = make.__wrapped__(parameter)  # type: ignore[attr-defined]
    assert isinstance(expected, Table)
    assert edges(again) == edges(expected)


def test_what_cannot_be_proven_is_not_made() -> None:
    def vague(bits: int) -> Ratios:
        return Ratios([1 << (bits - 1)] * 11, 1 << (bits - 9))

    def never_falling(bits: int) -> Ratios:
        return Ratios([0] * 10 + [1 << bits], 0)

    for ratios in (vague, never_falling):
        with pytest.raises(ValueError, match="exact"):
            cumulative.symmetric(ratios, 10)
    with pytest.raises(ValueError, match="cut this short"):
        cumulative.symmetric(lambda bits: Ratios([1 << (bits - 1)] * 61, 0), 60)
    with pytest.raises(ValueError, match="ratio for each"):
        cumulative.symmetric(lambda bits: Ratios([1 << (bits - 1)] * 10, 0), 10)
    with pytest.raises(ValueError, match="ratio for each"):
        cumulative.symmetric(lambda bits: Ratios([0], 0), 0)
    part = laplace.one_table(F(2))
    with pytest.raises(ValueError, match="cut this short"):
        TwoLevels(2, part, part, DISTANCE + F(1, 2**200))


@pytest.mark.parametrize(
    ("make", "outside"),
    [
        (gaussian.table, (0, F(99, 100), 2**48 + 1)),
        (laplace.table, (0, F(1, 65), 2**24 + 1)),
        (skellam.table, (0, F(1, 65), 2**26 + 1)),
    ],
)
def test_parameters_outside_the_range_are_refused(make: Callable[..., Sampler], outside: Sequence[int]) -> None:
    for parameter in outside:
        with pytest.raises(ValueError, match="within"):
            make(parameter)
    for parameter in (4.0, np.int64(4)):
        with pytest.raises(TypeError, match="int or a Fraction"):
            make.__wrapped__(parameter)  # type: ignore[attr-defined]


def test_factors_outside_the_proofs_are_refused() -> None:
    with pytest.raises(ValueError, match="factor"):
        gaussian.two_levels(F(29), 1)
    with pytest.raises(ValueError, match="factor"):
        gaussian.two_levels(F(29), 0)
    with pytest.raises(ValueError, match="factor"):
        laplace.two_levels(F(29), 1)


def test_the_widest_samplers_keep_their_promise() -> None:
    for sampler in (gaussian.table(2**48), laplace.table(2**24)):
        assert 2**24 * 12 < sampler.bound < 2**31
        assert sampler.distance <= DISTANCE


# --- draws ------------------------------------------------------------------------------------------------------------

DRAWN: list[tuple[str, Sampler, Callable[[int, int], list[int]]]] = [
    (name, make(parameter), lambda start, count, table=table: reference.draw(table, KEY, start, count))
    for name, make, parameter, table in (
        ("gaussian 16", gaussian.table, F(16), reference.edges(reference.gaussian(F(16)))),
        ("gaussian 17/2", gaussian.table, F(17, 2), reference.edges(reference.gaussian(F(17, 2)))),
        ("gaussian 4096", gaussian.table, F(4096), reference.edges(reference.gaussian(F(4096)))),
        ("laplace 1/2", laplace.table, F(1, 2), reference.edges(reference.laplace(F(1, 2)))),
        ("laplace 8", laplace.table, F(8), reference.edges(reference.laplace(F(8)))),
        ("skellam 1/3", skellam.table, F(1, 3), reference.edges(reference.skellam(F(1, 3)))),
        ("skellam 64", skellam.table, F(64), reference.edges(reference.skellam(F(64)))),
    )
] + [
    (name, make(parameter), lambda start, count, parts=parts: reference.two(*parts, KEY, start, count))
    for name, make, parameter, parts in (
        ("gaussian 1100^2", gaussian.table, F(1100**2), reference.wide_gaussian(F(1100**2))),
        ("laplace 197/3", laplace.table, F(197, 3), reference.wide_laplace(F(197, 3))),
    )
]


@pytest.mark.parametrize(("name", "sampler", "expected"), DRAWN, ids=[name for name, _, _ in DRAWN])
def test_draws_are_those_of_the_second_implementation(
    name: str, sampler: Sampler, expected: Callable[[int, int], list[int]]
) -> None:
    for start, count in ((0, 1500), (LANE - 300, 300)):
        drawn = sampler.draw(KEY, start, count)
        assert drawn.dtype == np.int64
        assert drawn.tolist() == expected(start, count)


KNOWN = {
    "gaussian 16": [4, 0, 5, -3, 3, 1, -4, -2, -8, -2, 1, 5],
    "gaussian 17/2": [3, 0, 4, -2, 2, 1, -3, -1, -6, -1, 1, 4],
    "gaussian 4096": [57, 0, 81, -45, 41, 16, -57, -27, -124, -32, 24, 79],
    "laplace 1/2": [0, 0, 1, 0, 0, 0, 0, 0, -1, 0, 0, 1],
    "laplace 8": [8, 0, 13, -6, 5, 2, -8, -3, -24, -4, 3, 12],
    "skellam 1/3": [0, 0, 1, 0, 0, 0, 0, 0, -1, 0, 0, 1],
    "skellam 64": [7, 0, 10, -6, 5, 2, -7, -3, -16, -4, 3, 10],
    "gaussian 1100^2": [1044, -28, 1391, -693, 655, 333, -985, -512, -2156, -578, 430, 1337],
    "laplace 197/3": [94, -15, 130, -23, 37, 26, -62, -27, -204, -15, 6, 50],
}


@pytest.mark.parametrize(("name", "sampler", "expected"), DRAWN, ids=[name for name, _, _ in DRAWN])
def test_known_answers(name: str, sampler: Sampler, expected: object) -> None:
    """These values are a promise: whoever opens a noise key years later draws them again."""
    assert sampler.draw(KEY, 0, 12).tolist() == KNOWN[name]


@pytest.mark.parametrize("sampler", [gaussian.table(64**2), gaussian.table(4000**2), laplace.table(100)])
def test_whole_equals_chunked(sampler: Sampler) -> None:
    length = 2 * cumulative._STEP + 4321
    whole = sampler.draw(KEY, 7, length)
    assert len(np.unique(whole[:100])) > 20
    at = 0
    for size in (1, 2, 3, 0, 13, 509, 16_383, cumulative._STEP + 1, length):
        count = min(size, length - at)
        assert np.array_equal(sampler.draw(KEY, 7 + at, count), whole[at : at + count])
        at += count
    assert at == length
    assert not np.array_equal(sampler.draw(OTHER, 7, 100), whole[:100])
    whole[:] = 0  # what is handed out is the caller's
    assert sampler.draw(KEY, 7, 100).any()


@pytest.mark.parametrize("sampler", [gaussian.table(16), gaussian.table(2**26)])
def test_coordinates_and_keys_that_are_none_are_refused(sampler: Sampler) -> None:
    for start, count in ((-1, 2), (0, -1), (LANE, 1)):
        with pytest.raises(ValueError, match="coordinates"):
            sampler.draw(KEY, start, count)
    with pytest.raises(ValueError, match="32 bytes"):
        sampler.draw(KEY[1:], 0, 1)
    assert sampler.draw(KEY, LANE, 0).shape == (0,)


# --- ties, crowded buckets, ends --------------------------------------------------------------------------------------


def counted(table: Sequence[int], lowest: int, start: int, count: int) -> list[int]:
    """The definition: how many edges are <= U."""
    upper, lower = words(KEY, start, count), words(KEY, LANE + start, count)
    return [lowest + sum(edge <= (high << 64 | low) for edge in table) for high, low in zip(upper, lower, strict=True)]


@pytest.mark.parametrize(("beside", "above"), [(-1, 1), (0, 1), (1, 0)])
def test_a_tie_is_settled_by_the_lower_word(beside: int, above: int) -> None:
    """Draw 5 has exactly an edge's upper word: one unit of 2^-128 on either side of the edge decides."""
    at = 5
    edge = words(KEY, at, 1)[0] << 64 | words(KEY, LANE + at, 1)[0]
    table = Table(-3, [edge + beside], F(0))
    assert table.draw(KEY, 0, 20)[at] == -3 + above
    assert table.draw(KEY, at, 1)[0] == -3 + above
    assert table.draw(KEY, 0, 20).tolist() == counted([edge + beside], -3, 0, 20)


@given(st.data())
def test_draws_count_edges(data: st.DataObject) -> None:
    """Edges on, beside and far from the words that are drawn, several with one upper word, some in one bucket."""
    start = data.draw(st.integers(0, 5))
    upper, lower = words(KEY, start, 40), words(KEY, LANE + start, 40)
    index = st.integers(0, 39)
    drawn = index.map(lambda at: upper[at] << 64 | lower[at])
    near = st.builds(lambda u, by: u + by, drawn, st.integers(-2, 2) | st.integers(-(2**64), 2**64))
    spread = st.builds(lambda u, by: u + by, drawn, st.integers(-(2**122), 2**122))
    ends = st.sampled_from([0, 1, 2**64 - 1, 2**64, 2**128 - 2**64, 2**128 - 1, 2**128])
    table = sorted(min(max(e, 0), 2**128) for e in data.draw(st.lists(near | spread | ends, max_size=30)))
    lowest = data.draw(st.integers(-100, 100))
    assert Table(lowest, table, F(0)).draw(KEY, start, 40).tolist() == counted(table, lowest, start, 40)


class Forged:
    """Streams whose words are given: `upper` in a table's first lane, `lower` in its second."""

    upper, lower = 0, 0
    asked: ClassVar[list[int]] = []

    def __init__(self, keys: object, start_word: int, word_bytes: int) -> None:
        self.start = start_word
        self.asked.append(start_word)

    def fill(self, part: NDArray[np.uint64]) -> None:
        part[:] = self.upper if self.start < LANE else self.lower


def test_the_ends_of_the_range_are_the_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    """U = 0 and U = 2^128 - 1 give -bound and bound; the lower word is asked for at its coordinate, if at all."""
    monkeypatch.setattr(cumulative, "Streams", Forged)
    top = 2**64 - 1
    for sampler in (gaussian.table(16), laplace.table(1), skellam.table(1)):
        for upper, lower, value in ((0, 0, -sampler.bound), (top, top, sampler.bound)):
            monkeypatch.setattr(Forged, "upper", upper)
            monkeypatch.setattr(Forged, "lower", lower)
            monkeypatch.setattr(Forged, "asked", [])
            assert sampler.draw(KEY, 9, 3).tolist() == [value] * 3
            assert Forged.asked == [9, LANE + 9, LANE + 10, LANE + 11]
        monkeypatch.setattr(Forged, "upper", 2**63 + 12345)
        monkeypatch.setattr(Forged, "asked", [])
        assert sampler.draw(KEY, 9, 3).tolist() == [0] * 3
        assert Forged.asked == [9]


@pytest.mark.parametrize(
    ("lowest", "table"),
    [(0, [3, 2]), (0, [-1, 2]), (0, [2**128 + 1]), (-(2**30), [5]), (2**30 - 1, [5])],
)
def test_tables_that_are_none_are_refused(lowest: int, table: list[int]) -> None:
    with pytest.raises(ValueError, match=r"edges|below"):
        Table(lowest, table, F(0))


def test_a_table_without_an_edge_is_a_constant() -> None:
    assert Table(7, [0, 0, 2**128], F(0)).draw(KEY, 0, 5).tolist() == [9] * 5


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
def test_exact_draws_fit_the_tables(draw: Callable[[object], int], sampler: Table, count: int) -> None:
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


def test_mironov_tells_a_float_sampler_and_not_ours() -> None:
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
