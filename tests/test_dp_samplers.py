"""Noise samplers bit by bit: tables against mpmath and a second implementation, chunks, ties, crowded buckets, ends."""

from collections.abc import Callable, Sequence
from fractions import Fraction
from typing import ClassVar

import mpmath
import numpy as np
import pytest
from fedveil_common.crypto.prg import Streams
from fedveil_common.dp import cumulative, exponential, gaussian, laplace, skellam
from fedveil_common.dp.cumulative import DISTANCE, LANE, Ratios, Sampler, Table, TwoLevels
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from tests.reference import dp_samplers as reference

KEY = bytes(range(32))
OTHER = bytes(range(1, 33))
F = Fraction


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
    *((skellam.table, skellam_weight, F(v)) for v in (F(1, 64), F(1, 3), 1, 64, 1000)),
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
    assert all(found[x] == found[-x] >= 0 for x in found)
    with mpmath.workprec(300):
        shares = {x: mpmath.mpf(p) / 2**128 for x, p in found.items()}
        away = far(shares, weight(parameter), table.bound + 40 + table.bound // 2)
        assert away <= mpmath.mpf(table.distance.numerator) / table.distance.denominator <= mpmath.mpf(2) ** -107
        assert table.distance <= F(60, 2**128) + 3 * F(int(away * 2**200), 2**200)
        total = mpmath.fsum(weight(parameter)(x) for x in found)
        assert all(found[x] for x in found if weight(parameter)(x) > total * mpmath.mpf(2) ** -127)


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


@pytest.mark.parametrize(
    ("ratios", "weight"),
    [
        (gaussian._ratios(F(17, 2), 40, 72), gaussian_weight(F(17, 2))),
        (skellam._ratios(F(64), 40, 72), skellam_weight(F(64))),
        (skellam._ratios(F(10**6), 9000, 72), skellam_weight(F(10**6))),
        (laplace._remainders(F(7, 2), 41, 72), lambda d: mpmath.exp(-d / mpmath.mpf(3.5)) * geometric(41 - d)),
    ],
)
def test_ratios_are_enclosed(ratios: Ratios, weight: Callable[[int], mpmath.mpf]) -> None:
    """In few bits, where an error that is stated too small shows; and none is above the one before."""
    with mpmath.workprec(300):
        for k in [*range(40), len(ratios.values) - 2]:
            true = weight(k + 1) / weight(k) * 2**72
            assert ratios.values[k] <= true <= ratios.values[k] + ratios.error
            assert weight(k + 1) ** 2 >= weight(k) * weight(k + 2)


def geometric(terms: int) -> mpmath.mpf:
    """1 + q^2 + .. for q = e^(-2/7)."""
    return mpmath.fsum(mpmath.exp(-4 * mpmath.mpf(j) / 7) for j in range(terms))


# --- draws ------------------------------------------------------------------------------------------------------------

Parts = tuple[int, reference.Half, reference.Half]

ONE: list[tuple[str, Sampler, reference.Half]] = [
    ("gaussian 16", gaussian.table(16), reference.gaussian(F(16))),
    ("gaussian 17/2", gaussian.table(F(17, 2)), reference.gaussian(F(17, 2))),
    ("gaussian 4096", gaussian.table(4096), reference.gaussian(F(4096))),
    ("laplace 1/2", laplace.table(F(1, 2)), reference.laplace(F(1, 2))),
    ("laplace 8", laplace.table(8), reference.laplace(F(8))),
    ("skellam 1/3", skellam.table(F(1, 3)), reference.skellam(F(1, 3))),
    ("skellam 64", skellam.table(64), reference.skellam(F(64))),
]
TWO: list[tuple[str, Sampler, Parts]] = [
    ("gaussian 1100^2", gaussian.table(1100**2), reference.wide_gaussian(F(1100**2))),
    ("laplace 197/3", laplace.table(F(197, 3)), reference.wide_laplace(F(197, 3))),
]


def check_edges(table: Sampler, half: reference.Half) -> None:
    """Edge for edge; those that no U tells apart from the ends are not kept."""
    assert isinstance(table, Table)
    assert edges(table) == [edge for edge in reference.edges(half) if 0 < edge < 2**128]


@pytest.mark.parametrize(("name", "sampler", "half"), ONE, ids=[name for name, *_ in ONE])
def test_a_table_is_that_of_the_second_implementation(name: str, sampler: Sampler, half: reference.Half) -> None:
    check_edges(sampler, half)
    for start, count in ((0, 1500), (LANE - 300, 300)):
        drawn = sampler.draw(KEY, start, count)
        assert drawn.dtype == np.int64
        assert drawn.tolist() == reference.draw(reference.edges(half), KEY, start, count)


@pytest.mark.parametrize(("name", "sampler", "parts"), TWO, ids=[name for name, *_ in TWO])
def test_two_levels_are_those_of_the_second_implementation(name: str, sampler: Sampler, parts: Parts) -> None:
    assert isinstance(sampler, TwoLevels)
    assert sampler.factor == parts[0]
    check_edges(sampler.coarse, parts[1])
    check_edges(sampler.fine, parts[2])
    for start, count in ((0, 1000), (LANE - 300, 300)):
        assert sampler.draw(KEY, start, count).tolist() == reference.two(*parts, KEY, start, count)


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


@pytest.mark.parametrize(("name", "sampler", "_"), [*ONE, *TWO], ids=[name for name, *_ in [*ONE, *TWO]])
def test_known_answers(name: str, sampler: Sampler, _: object) -> None:
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
@pytest.mark.parametrize("at", [5, cumulative._STEP + 6])
def test_a_tie_is_settled_by_the_lower_word(at: int, beside: int, above: int) -> None:
    """One draw has exactly an edge's upper word: one unit of 2^-128 on either side of the edge decides."""
    edge = words(KEY, at, 1)[0] << 64 | words(KEY, LANE + at, 1)[0]
    table = Table(-3, [edge + beside], F(0))
    assert table.draw(KEY, 0, at + 20)[at] == -3 + above
    assert table.draw(KEY, at, 1)[0] == -3 + above
    assert table.draw(KEY, at - 5, 20).tolist() == counted([edge + beside], -3, at - 5, 20)


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
