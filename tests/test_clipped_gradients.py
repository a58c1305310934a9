"""One private step of one participant: what a record, or a person, can move, and by how much (D1, D2, D4, D8).

`clipped_sum` takes its rounding words by position, so a unit that is taken away moves the words of those behind it.
That does not touch the bound: the words are uniform, independent of each other and of the data, and each is used once,
so the sum WITHOUT a unit has the same distribution whichever words its contributions take. Coupled so that every other
unit keeps its words, two neighbours differ by exactly the one unit's contribution, and the noise, drawn from another
key, covers that. This needs what the first tests show: a contribution is a function of its own rows, the model and its
own words alone, to the last bit, it is never longer than C_int, and nothing but addition follows.
"""

from collections.abc import Iterable
from functools import cache
from math import sqrt
from typing import cast

import numpy as np
import pytest
from fedveil_common.crypto.kdf import derive
from fedveil_common.dp.distribution import DiscreteGaussian
from fedveil_common.member_noise import Piece
from fedveil_common.plan import Plan, PrivacySpec, parameters
from fedveil_common.plan.parameters import Layer
from fedveil_common.private_sum import grid
from fedveil_common.secret import Seed
from fedveil_participant import update
from fedveil_participant.data.prepare import Rows
from fedveil_participant.data.units import Units
from fedveil_participant.training import clipped, gradient
from fedveil_participant.training.clipped import clipped_sum
from fedveil_participant.training.record_gradients import record_gradients
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from private_federation import private_plan
from scipy import stats

CALM = settings(deadline=None, derandomize=True, max_examples=40, suppress_health_check=[HealthCheck.too_slow])

BINARY = "{column: y, type: binary}"
FLOAT = "{column: y, type: float, range: [0, 1]}"
CATEGORY = "{column: y, type: category, values: [a, b, c]}"
KINDS = {
    "logistic": ("{kind: logistic, l2: 0.01}", BINARY),
    "linear": ("{kind: linear, l2: 0.01}", FLOAT),
    "softmax": ("{kind: softmax, l2: 0.01}", CATEGORY),
    "mlp": ("{kind: mlp, hidden: [4], l2: 0.01}", BINARY),
    "deep": ("{kind: mlp, hidden: [5, 3], l2: 0.01}", CATEGORY),
    "fitted": ("{kind: mlp, hidden: [4], l2: 0.01}", FLOAT),
}
WILD = (1e308, -1e308, 1e200, float("inf"), float("nan"), 0.0, -0.0, 5e-324)
"""Inputs that no clamped table has: what a defect further up could let through."""


GRIDS: dict[str, dict[str, object]] = {
    "coarse": {"bits": 12, "clip": 16.0},
    "usual": {"bits": 16},
    "whole": {"bits": 24, "clip": 16.0},
    "fine": {"bits": 31, "noise": "noise_multiplier: 0.2", "most": 1000.0},
}
"""From C_int = 2047 to 2^26: above it no noise that can be drawn keeps epsilon below 1000."""


@cache
def plan_of(
    kind: str, persons: bool = False, sample: float = 1.0, grid: str = "usual"
) -> tuple[Plan, PrivacySpec, tuple[Layer, ...], int]:
    """A private plan of this kind, its privacy block, its layers and its number of parameters."""
    model, target = KINDS[kind]
    person, options = "person: who" if persons else "", {"sample": sample, **GRIDS[grid]}
    plan = private_plan(model=model, target=target, person=person, **options)
    assert plan.privacy is not None
    return plan, plan.privacy, parameters.layers(plan.model, plan.data), parameters.count(plan.model, plan.data)


def table(plan: Plan, layers: tuple[Layer, ...], count: int, seed: int, persons: int = 0) -> Rows:
    """`count` rows of plausible values; of `persons` persons, if that is not 0."""
    draw = np.random.default_rng(seed)
    outputs = layers[-1].outputs
    whole = outputs > 1 or "binary" in str(type(plan.data.target)).lower()
    target = draw.integers(0, max(2, outputs), count).astype(np.float64) if whole else draw.uniform(-1, 1, count)
    labels = draw.integers(0, persons, count).astype(np.uint64) if persons else None
    return Rows(draw.uniform(-1, 1, (count, layers[0].inputs)), target, labels)


def model_of(length: int, seed: int, size: float = 1.0) -> NDArray[np.float32]:
    return (np.random.default_rng(seed).normal(size=length) * size).astype(np.float32)


def secret_of(number: int) -> Seed:
    return Seed(derive(b"", number.to_bytes(32, "big"), "test/clipped"))


def of_unit(
    plan: Plan, privacy: PrivacySpec, model: NDArray[np.float32], rows: Rows, secret: Seed, first: int
) -> object:
    """The contribution of `rows`, which are one unit and stand alone, with the rounding words from `first` on."""
    bound, scale = grid(plan, privacy).sensitivity, plan.protection.max_value / plan.protection.update_norm
    key = derive(b"", secret.expose(), "dp/rounding")
    with np.errstate(all="ignore"):
        chosen, begins = rows.units.rows_of(np.array([0]))
        layers = parameters.layers(plan.model, plan.data)
        each = record_gradients(plan, layers, model.astype(np.float64), rows.inputs[chosen], rows.target[chosen])
        slope = clipped._of_units(each, begins)
        return clipped._within(clipped.rounded(clipped._clipped(slope, bound, scale), key, first), bound)[0]


def exact_square(vector: Iterable[int]) -> int:
    """The square of the norm, in Python's integers."""
    return sum(int(value) ** 2 for value in vector)


@st.composite
def cases(draw: st.DrawFn) -> tuple[str, int, int, int, float, list[tuple[int, int, float]]]:
    """Kind, seed, rows, persons (0: none), size of the model, and cells that are replaced by wild ones."""
    rows = draw(st.integers(1, 12))
    cells = st.tuples(st.integers(0, rows - 1), st.integers(0, 4), st.sampled_from(WILD))
    return (
        draw(st.sampled_from(sorted(KINDS))),
        draw(st.integers(0, 2**16)),
        rows,
        draw(st.sampled_from([0, 1, 3])),
        draw(st.sampled_from([0.0, 0.3, 30.0, 1e30])),
        draw(st.lists(cells, max_size=4)),
    )


@CALM
@given(cases(), st.sampled_from(sorted(GRIDS)))
def test_a_sum_is_that_of_contributions_none_of_which_exceeds_the_bound(
    case: tuple[str, int, int, int, float, list[tuple[int, int, float]]], steps: str
) -> None:
    """Exact integers: |contribution|^2 <= C_int^2 for every unit, whatever its rows hold, and the sum is their sum."""
    kind, seed, count, persons, size, cells = case
    plan, privacy, layers, length = plan_of(kind, persons > 0, grid=steps)
    rows, model = table(plan, layers, count, seed, persons), model_of(length, seed, size)
    for row, column, value in cells:
        rows.inputs[row, column] = value
    secret, bound = secret_of(seed), grid(plan, privacy).sensitivity
    found = clipped_sum(plan, privacy, model, rows, secret)
    assert found.dtype == np.int64
    total = [0] * length
    units = rows.units
    for number in range(len(units)):
        chosen, _ = units.rows_of(np.array([number]))
        own = None if rows.persons is None else rows.persons[chosen]
        alone = of_unit(
            plan, privacy, model, Rows(rows.inputs[chosen], rows.target[chosen], own), secret, number * length
        )
        contribution = [int(value) for value in cast(NDArray[np.int64], alone)]
        assert exact_square(contribution) <= bound**2
        total = [sum(pair) for pair in zip(total, contribution, strict=True)]
    assert found.tolist() == total


@CALM
@given(st.sampled_from(sorted(KINDS)), st.integers(0, 2**16), st.integers(2, 40), st.data())
def test_a_records_gradient_does_not_depend_on_who_stands_beside_it(
    kind: str, seed: int, count: int, data: st.DataObject
) -> None:
    """To the last bit: one in the last place, times a scale of 2^20, moves the rounding of others now and then."""
    plan, _, layers, length = plan_of(kind)
    rows, flat = table(plan, layers, count, seed), model_of(length, seed).astype(np.float64)
    whole = record_gradients(plan, layers, flat, rows.inputs, rows.target)
    gone = data.draw(st.integers(0, count - 1))
    left = np.delete(np.arange(count), gone)
    fewer = record_gradients(plan, layers, flat, rows.inputs[left], rows.target[left])
    alone = record_gradients(plan, layers, flat, rows.inputs[[gone]], rows.target[[gone]])
    assert np.array_equal(whole[left], fewer)
    assert np.array_equal(whole[[gone]], alone)
    with_one = clipped._clipped(whole.copy(), 10_000, 2047.9375)
    without = clipped._clipped(fewer.copy(), 10_000, 2047.9375)
    assert np.array_equal(with_one[left], without)


@CALM
@given(st.integers(0, 2**32), st.integers(1, 400), st.sampled_from([64, 1000, 2**20, 2**30 - 1]))
def test_the_clip_in_integers_is_exact(seed: int, length: int, bound: int) -> None:
    """Whatever the float clip and the rounding left: just above the bound, far above, one large coordinate."""
    draw = np.random.default_rng(seed)
    rows = draw.normal(size=(6, length))
    rows *= bound * np.array([0.5, 1.0, 1.0 + 1e-9, 1.01, 2.0, 1.0])[:, None] / np.linalg.norm(rows, axis=1)[:, None]
    integers = np.rint(rows).astype(np.int64)
    integers[5] = 0
    integers[5, 0] = bound + 1
    before = integers.copy()
    after = clipped._within(integers, bound)
    for old, new in zip(before.tolist(), after.tolist(), strict=True):
        assert exact_square(new) <= bound**2
        if exact_square(old) <= bound**2:
            assert new == old
        assert all(0 <= n * (1 if o >= 0 else -1) <= abs(o) for o, n in zip(old, new, strict=True)), "towards 0"


def test_the_re_clip_has_work_to_do_and_does_it() -> None:
    """Rounding alone passes the bound for some records, so without the clip in integers there is no exact bound."""
    plan, privacy, layers, length = plan_of("mlp")
    bound, scale = grid(plan, privacy).sensitivity, plan.protection.max_value / plan.protection.update_norm
    rows, flat = table(plan, layers, 2000, 3), model_of(length, 3).astype(np.float64)
    slopes = 100 * record_gradients(plan, layers, flat, rows.inputs, rows.target)
    on_grid = clipped.rounded(clipped._clipped(slopes, bound, scale), bytes(32), 0)
    squares = [exact_square(row) for row in on_grid.tolist()]
    assert sum(square > bound**2 for square in squares) > 100
    kept = clipped._within(on_grid, bound)
    assert max(exact_square(row) for row in kept.tolist()) <= bound**2


# --- gradients --------------------------------------------------------------------------------------------------------


def loss_of(
    plan: Plan, layers: tuple[Layer, ...], flat: NDArray[np.float64], inputs: NDArray[np.float64], y: float
) -> float:
    """The loss of one row, written out: nothing of the product in it."""
    values, start = inputs, 0
    for number, layer in enumerate(layers, start=1):
        weights = flat[start : start + layer.weights].reshape(layer.outputs, layer.inputs)
        values = weights @ values + flat[start + layer.weights : start + layer.parameters]
        values = values if number == len(layers) else np.maximum(values, 0)
        start += layer.parameters
    match type(plan.data.target).__name__:
        case "BinaryTarget":
            return float(np.logaddexp(0, values[0]) - y * values[0])
        case "CategoryTarget":
            return float(np.log(np.exp(values).sum()) - values[int(y)])
        case _:
            return float((values[0] - y) ** 2 / 2)


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_record_gradients_are_finite_differences(kind: str) -> None:
    plan, _, layers, length = plan_of(kind)
    rows, flat = table(plan, layers, 9, 5), model_of(length, 5).astype(np.float64)
    found, step = record_gradients(plan, layers, flat, rows.inputs, rows.target), 1e-6
    for row in range(9):
        for at in range(length):
            moved = [flat.copy(), flat.copy()]
            moved[0][at] += step
            moved[1][at] -= step
            up, down = (loss_of(plan, layers, one, rows.inputs[row], rows.target[row]) for one in moved)
            assert found[row, at] == pytest.approx((up - down) / (2 * step), abs=2e-8)


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_the_batch_gradient_is_their_mean_and_the_penalty(kind: str) -> None:
    plan, _, layers, length = plan_of(kind)
    rows, flat = table(plan, layers, 30, 6), model_of(length, 6).astype(np.float64)
    mean = record_gradients(plan, layers, flat, rows.inputs, rows.target).mean(axis=0)
    penalised = np.concatenate([np.repeat([1.0, 0.0], [one.weights, one.outputs]) for one in layers])
    batch = gradient.gradient(plan, layers, flat, rows.inputs, rows.target)
    np.testing.assert_allclose(batch, mean + plan.model.l2 * flat * penalised, rtol=1e-12, atol=1e-14)


# --- rounding ---------------------------------------------------------------------------------------------------------


def test_rounding_has_no_bias() -> None:
    """200,000 draws of each of some values: the mean is within 4.5 standard errors, and only neighbours occur."""
    values = np.array([0.0, 0.1, 0.5, 0.9, -0.25, -3.999, 7.0, 1234.0625, -1e6 + 0.3])
    count = 200_000
    drawn = clipped.rounded(np.tile(values, (count, 1)), b"\5" * 32, 0)
    assert (np.abs(drawn - values) < 1).all()
    part = values - np.floor(values)
    error = np.sqrt(np.maximum(part * (1 - part), 1e-30) / count)
    assert (np.abs(drawn.mean(axis=0) - values) / error < 4.5)[part > 0].all()
    assert (drawn.mean(axis=0) == values)[part == 0].all()
    once, again = drawn[: count // 2, 2] - 0.5, drawn[count // 2 :, 2] - 0.5
    assert abs(np.mean(once * again)) * 4 < 4.5 / sqrt(count / 2), "words of different positions are independent"


# --- sampling ---------------------------------------------------------------------------------------------------------


def drawn_in(count: int, rate: float, rounds: int) -> NDArray[np.bool_]:
    """Which of `count` units are in the sample of each round, each with a secret of its own."""
    keys = (derive(b"", secret_of(number).expose(), "dp/sample") for number in range(rounds))
    return np.stack([clipped._sample(count, rate, key) for key in keys])


@pytest.mark.parametrize("rate", [0.02, 0.1, 0.5, 0.9])
def test_every_unit_is_drawn_as_often_as_the_rate_says(rate: float) -> None:
    """Binomial, for each of 300 units over 2000 rounds and for all together (D20)."""
    count, rounds = 300, 2000
    drawn = drawn_in(count, rate, rounds)
    each = [stats.binomtest(int(hits), rounds, rate).pvalue for hits in drawn.sum(axis=0)]
    assert min(each) > 1e-3 / count
    assert stats.binomtest(int(drawn.sum()), count * rounds, rate).pvalue > 1e-3
    sizes = drawn.sum(axis=1)
    assert sizes.var() == pytest.approx(count * rate * (1 - rate), rel=0.15), "Poisson sampling, not a fixed size"


def test_rounds_and_units_are_drawn_independently() -> None:
    count, rounds, rate = 300, 2000, 0.3
    drawn = drawn_in(count, rate, rounds)
    both = int((drawn[1:] & drawn[:-1]).sum())
    assert stats.binomtest(both, count * (rounds - 1), rate**2).pvalue > 1e-3
    beside = int((drawn[:, 1:] & drawn[:, :-1]).sum())
    assert stats.binomtest(beside, (count - 1) * rounds, rate**2).pvalue > 1e-3


def test_a_rate_of_one_takes_everyone_and_the_smallest_rates_are_kept() -> None:
    assert clipped._sample(1000, 1.0, bytes(32)).all()
    assert not clipped._sample(1000, 2.0**-64, bytes(32)).any()
    assert not clipped._sample(1000, 5e-324, bytes(32)).any()
    assert clipped._sample(1000, 1 - 2.0**-53, bytes(32)).all()
    assert clipped._sample(0, 0.5, bytes(32)).shape == (0,)


def test_the_sample_is_drawn_by_person() -> None:
    """All rows of a person or none; the bound is one person's. By row, ten rows would pay ten times the price (D2)."""
    plan, privacy, layers, length = plan_of("linear", persons=True, sample=0.5)
    bound = grid(plan, privacy).sensitivity
    draw = np.random.default_rng(1)
    inputs = draw.uniform(0.5, 1.0, (10, layers[0].inputs))
    rows = Rows(inputs, np.full(10, -1.0), np.full(10, 77, dtype=np.uint64))
    model = np.full(length, 5.0, np.float32)  # ten gradients in one direction, each far beyond the clip norm
    alone = Rows(inputs, rows.target)
    seen, norms = set(), []
    for number in range(60):
        found = clipped_sum(plan, privacy, model, rows, secret_of(number))
        assert exact_square(found.tolist()) <= bound**2
        seen.add(bool(found.any()))
        norms.append(exact_square(clipped_sum(plan, privacy, model, alone, secret_of(number)).tolist()))
    assert seen == {True, False}
    assert max(norms) > 16 * bound**2, "as rows of nobody the same table moves the sum more than four times as far"


def test_rows_of_one_person_may_lie_anywhere_in_the_table() -> None:
    labels = np.array([5, 9, 5, 2**64 - 1, 9, 5], dtype=np.uint64)
    units = Units.grouped(labels)
    assert len(units) == 3
    found = [sorted(units.rows_of(np.array([one]))[0].tolist()) for one in range(3)]
    assert found == [[0, 2, 5], [1, 4], [3]]
    chosen, begins = units.rows_of(np.array([0, 2]))
    assert chosen.tolist() == [0, 2, 5, 3]
    assert begins.tolist() == [0, 3]


# --- edges ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("persons", [0, 2])
@pytest.mark.parametrize("kind", sorted(KINDS))
def test_an_empty_table_and_an_empty_sample_give_zeros(kind: str, persons: int) -> None:
    plan, privacy, layers, length = plan_of(kind, persons=persons > 0, sample=1e-9)
    rows, model = table(plan, layers, 5, 1, persons), model_of(length, 1)
    none = Rows(rows.inputs[:0], rows.target[:0], None if rows.persons is None else rows.persons[:0])
    for one in (none, rows):
        found = clipped_sum(plan, privacy, model, one, secret_of(1))
        assert found.dtype == np.int64
        assert found.tolist() == [0] * length


@pytest.mark.parametrize("at_once", [1, 40, 100, 777])
@pytest.mark.parametrize("persons", [0, 7])
@pytest.mark.parametrize("kind", ["logistic", "deep"])
def test_how_many_are_worked_on_at_once_changes_nothing(
    kind: str, persons: int, at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan, privacy, layers, length = plan_of(kind, persons=persons > 0, sample=0.7, grid="whole")
    rows, model = table(plan, layers, 60, 2, persons), model_of(length, 2)
    whole = clipped_sum(plan, privacy, model, rows, secret_of(2))
    assert whole.any()
    monkeypatch.setattr(clipped, "AT_ONCE", at_once)
    assert np.array_equal(clipped_sum(plan, privacy, model, rows, secret_of(2)), whole)


@pytest.mark.parametrize("value", [1e308, -1e308, float("nan"), float("inf")])
def test_a_record_that_is_not_finite_counts_as_nothing_and_spoils_nobody(value: float) -> None:
    plan, privacy, layers, length = plan_of("logistic")
    rows, model = table(plan, layers, 6, 4), model_of(length, 4)
    rows.inputs[5] = value
    found = clipped_sum(plan, privacy, model, rows, secret_of(4))
    without = clipped_sum(plan, privacy, model, Rows(rows.inputs[:5], rows.target[:5]), secret_of(4))
    assert exact_square((found - without).tolist()) <= grid(plan, privacy).sensitivity ** 2
    assert np.array_equal(found, without), "the last one's words are nobody else's"


def test_sampling_and_rounding_have_keys_of_their_own_and_follow_the_secret() -> None:
    plan, privacy, layers, length = plan_of("logistic", sample=0.5)
    rows, model = table(plan, layers, 40, 8), model_of(length, 8)
    found = [clipped_sum(plan, privacy, model, rows, secret_of(number)) for number in (1, 1, 2)]
    assert np.array_equal(found[0], found[1])
    assert not np.array_equal(found[0], found[2])


def test_no_key_is_used_for_two_things(monkeypatch: pytest.MonkeyPatch) -> None:
    """A word that decides whether a unit is drawn decides nothing else; the noise has another seed altogether."""
    used: list[bytes] = []
    honest = clipped.Streams

    def streams(keys: list[tuple[bytes, bool]], *rest: int) -> object:
        used.extend(key for key, _ in keys)
        return honest(keys, *rest)

    monkeypatch.setattr(clipped, "Streams", streams)
    plan, privacy, layers, length = plan_of("logistic", sample=0.5)
    clipped_sum(plan, privacy, model_of(length, 8), table(plan, layers, 40, 8), secret_of(1))
    assert len(used) == len(set(used)) == 2
    assert secret_of(1).expose() not in used


# --- D1's counter-example ---------------------------------------------------------------------------------------------


def test_d1_rounding_and_re_clipping_the_sum_moves_neighbours_beyond_the_bound() -> None:
    """The rule that D1 replaced: each record clipped in float, the participant's SUM rounded and clipped to its cap.

    Both neighbours' sums are rounded with the same words, the most favourable coupling there is; a record of norm
    C then moves the rounded sum by more than C in most pairs. By record it moves it by at most C in every pair.
    """
    length, bound, pairs = 4096, 512, 40  # C_int = 8 sqrt d
    draw = np.random.default_rng(9)
    naive, ours = [], []
    for number in range(pairs):
        others = draw.normal(size=(3, length))
        record = draw.normal(size=(1, length))
        target = bound * (1 - 1e-12)
        both = [one * target / np.linalg.norm(one, axis=1, keepdims=True) for one in (others, record)]
        without, full = both[0].sum(axis=0), both[0].sum(axis=0) + both[1][0]
        key = number.to_bytes(32, "big")
        rounded = [clipped.rounded(one[np.newaxis], key, 0)[0] for one in (without, full)]
        naive.append(sqrt(exact_square((rounded[1] - rounded[0]).tolist())) / bound)
        own = clipped._within(clipped.rounded(clipped._clipped(both[1] * 3, bound, 1.0), key, 0), bound)[0]
        ours.append(exact_square(own.tolist()))
    assert np.mean([one > 1 for one in naive]) > 0.9
    assert max(naive) > 1.001
    assert max(ours) <= bound**2
    assert min(ours) > 0.8 * bound**2, "what the clip in integers costs at the coarsest grid that a plan may have"


# --- the share of noise -----------------------------------------------------------------------------------------------


def test_a_coordinate_that_is_too_large_is_clamped_before_the_noise_and_nothing_after() -> None:
    """Clamping is non-expansive: the difference of two neighbours is never larger after it."""
    plan, privacy, _, length = plan_of("logistic")
    most, share = plan.protection.max_value, 1000
    assert privacy.noise.value == "participants"
    rows = [np.full(length, float(value)) for value in (3 * most, most + 1, most, -5 * most, 2.0**62)]
    pieces = [Piece(Seed(bytes(32)), DiscreteGaussian(share))]
    noise = update.noisy(plan, np.zeros(length), pieces)
    for one in rows:
        assert np.array_equal(update.noisy(plan, one, pieces) - noise, np.clip(one, -most, most).astype(int))
    with pytest.raises(ValueError, match="noise"):
        update.noisy(plan, rows[0], [])


def test_noise_whole_equals_piecewise_and_follows_its_key() -> None:
    plan, _, _, length = plan_of("deep")
    values = np.arange(length, dtype=np.float64)
    drawn = [Piece(Seed(b"\1" * 32), DiscreteGaussian(10**6)), Piece(Seed(b"\3" * 32), DiscreteGaussian(500))]
    whole = update.noisy(plan, values, drawn)
    parts = [update.noisy(plan, values[at : at + 7], drawn, at) for at in range(0, length, 7)]
    assert np.array_equal(whole, np.concatenate(parts))
    assert not np.array_equal(
        whole, update.noisy(plan, values, [Piece(Seed(b"\2" * 32), DiscreteGaussian(10**6)), drawn[1]])
    )
    assert not np.array_equal(whole, update.noisy(plan, values, drawn[:1]))
