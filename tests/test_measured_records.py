"""What a holdout record can move in a private sum, and what noise alone may do to the figures (A6, D1, D17).

The bound of a record is exact, in integers, over random tables of rows and of persons, as `test_clipped_gradients` has
it for the update: by the same argument, since words are taken by position here too.
"""

import math

import numpy as np
import pytest
from fedveil_common import decode, evaluation, layout, network, prediction, private_sum, sanity
from fedveil_common.crypto.kdf import derive
from fedveil_common.dp.charge import Rows
from fedveil_common.dp.distribution import DiscreteGaussian
from fedveil_common.errors import IntegrityError, RoundAborted
from fedveil_common.member_noise import Piece
from fedveil_common.messages import Purpose
from fedveil_common.plan import Plan, PlanError, measures, parameters
from fedveil_common.secret import Seed
from fedveil_participant import update
from fedveil_participant.data.prepare import Rows as Table
from fedveil_participant.training import measured
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from measuring_plans import KINDS, measuring, model_of, plan_of, privacy_of, secret_of, table
from numpy.typing import NDArray
from private_federation import private_plan

CALM = settings(deadline=None, derandomize=True, max_examples=40, suppress_health_check=[HealthCheck.too_slow])


# --- what a record can move -------------------------------------------------------------------------------------------


def alone(plan: Plan, model: NDArray[np.float32], rows: Table, number: int, secret: Seed) -> NDArray[np.int64]:
    """What unit `number` of `rows` adds: computed from its own rows alone, with its own words."""
    chosen, _ = rows.units.rows_of(np.array([number]))
    own = Table(rows.inputs[chosen], rows.target[chosen], None if rows.persons is None else rows.persons[chosen])
    key = derive(b"", secret.expose(), "dp/evaluation")
    (found,) = measured.of_units(plan, privacy_of(plan), model, own, *own.units.rows_of(np.array([0])), key, number)
    return found


WILD = (1e308, -1e308, 1e200, float("inf"), float("nan"), -0.0, 5e-324)


@st.composite
def cases(draw: st.DrawFn) -> tuple[str, int, int, int, float, list[tuple[int, int, float]]]:
    """Kind, seed, rows, persons (0: none), size of the model, and cells that are replaced by wild ones."""
    rows = draw(st.integers(1, 20))
    cells = st.tuples(st.integers(0, rows - 1), st.integers(0, 4), st.sampled_from(WILD))
    return (
        draw(st.sampled_from(sorted(KINDS))),
        draw(st.integers(0, 2**16)),
        rows,
        draw(st.sampled_from([0, 1, 4])),
        draw(st.sampled_from([0.0, 0.3, 30.0, 1e30])),
        draw(st.lists(cells, max_size=4)),
    )


@CALM
@given(cases(), st.sampled_from([16, 24]))
def test_a_record_moves_each_block_by_its_cap_and_all_by_what_is_charged(
    case: tuple[str, int, int, int, float, list[tuple[int, int, float]]], bits: int
) -> None:
    """Exact integers, for every unit: the square of each block's norm is at most cap^2, and of the whole at most the
    squared sensitivity that the price is made from; and the sum is that of what each adds by itself, to the last bit.
    """
    kind, seed, count, persons, size, cells = case
    plan = plan_of(kind, persons > 0, bits)
    rows, model, secret = table(kind, count, seed, persons), model_of(plan, seed, size), secret_of(seed)
    for row, column, value in cells:
        rows.inputs[row, column] = value
    privacy, cap = privacy_of(plan), private_sum.measure_cap(plan, privacy_of(plan))
    priced = private_sum.mechanism(plan, privacy, Purpose.EVALUATE, 3)
    assert priced.squared_sensitivity(Rows.HOLDOUT) == KINDS[kind][3] * cap**2
    assert priced.squared_sensitivity(Rows.TRAINING) == 0
    total = [0] * (measured._CELLS + 3)
    for number in range(len(rows.units)):
        added = [int(value) for value in alone(plan, model, rows, number, secret)]
        blocks = (added[0:1], added[1:2], added[2:3], added[3:])
        assert all(sum(value**2 for value in block) <= cap**2 for block in blocks)
        assert sum(value**2 for value in added) <= priced.squared_sensitivity(Rows.HOLDOUT)
        assert min(added) >= 0
        total = [sum(pair) for pair in zip(total, added, strict=True)]
    found = measured.measured_sum(plan, privacy, model, rows, secret)
    assert [block.tolist() for block in found] == [total[where] for where in measured._places(plan)]
    assert [len(block) for block in found] == [length for _, length in measures.blocks(plan)]


@CALM
@given(cases())
def test_neighbouring_tables_differ_by_no_more_than_is_charged(
    case: tuple[str, int, int, int, float, list[tuple[int, int, float]]],
) -> None:
    """The last unit is taken away, so that every other keeps its words: the sums differ by what it added, exactly."""
    kind, seed, count, persons, size, _ = case
    plan = plan_of(kind, persons > 0)
    rows, model, secret = table(kind, count, seed, persons), model_of(plan, seed, size), secret_of(seed)
    units = rows.units
    chosen, _ = units.rows_of(np.array([len(units) - 1]))
    left = np.setdiff1d(np.arange(count), chosen)
    fewer = Table(rows.inputs[left], rows.target[left], None if rows.persons is None else rows.persons[left])
    sums = [np.concatenate(measured.measured_sum(plan, privacy_of(plan), model, one, secret)) for one in (rows, fewer)]
    moved = sum(int(value) ** 2 for value in sums[0] - sums[1])
    assert moved <= private_sum.mechanism(plan, privacy_of(plan), Purpose.TRAIN, 0).squared_sensitivity(Rows.HOLDOUT)
    most = private_sum.measure_range(plan, privacy_of(plan))
    assert sums[0].max(initial=0) <= most


@CALM
@given(st.sampled_from(sorted(KINDS)), st.integers(0, 2**16), st.integers(2, 60), st.data())
def test_a_rows_figures_do_not_depend_on_who_stands_beside_it(
    kind: str, seed: int, count: int, data: st.DataObject
) -> None:
    """To the last bit: one in the last place moves the rounding of others now and then."""
    plan = plan_of(kind)
    rows, flat = table(kind, count, seed), model_of(plan, seed).astype(np.float64)
    layers = parameters.layers(plan.model, plan.data)

    def figures(chosen: list[int]) -> NDArray[np.float64]:
        raw = measured.record_outputs(layers, flat, rows.inputs[chosen])
        scores, losses = prediction.scores_of(plan, raw), prediction.losses_of(plan, raw, rows.target[chosen])
        return np.column_stack([raw, scores, losses])

    gone = data.draw(st.integers(0, count - 1))
    left = [row for row in range(count) if row != gone]
    whole = figures(list(range(count)))
    assert np.array_equal(whole[left], figures(left))
    assert np.array_equal(whole[[gone]], figures([gone]))


def test_with_the_products_of_a_whole_table_they_would() -> None:
    """Why `record_outputs` has none: the control of the test above."""
    plan = plan_of("mlp")
    layers, flat = parameters.layers(plan.model, plan.data), model_of(plan, 1).astype(np.float64)
    moved = 0
    for seed in range(200):
        inputs = table("mlp", 33, seed).inputs
        whole, alone_ = (network.activations(network.split(layers, flat), rows)[-1] for rows in (inputs, inputs[:1]))
        moved += not np.array_equal(whole[:1], alone_)
    assert moved


def test_a_person_with_many_rows_counts_once_and_as_rows_it_would_count_as_often() -> None:
    plan, cap = (
        plan_of("logistic", persons=True),
        private_sum.measure_cap(plan_of("logistic"), privacy_of(plan_of("logistic"))),
    )
    rows, model = table("logistic", 200, 1, persons=1), model_of(plan, 1)
    person = measured.measured_sum(plan, privacy_of(plan), model, rows, secret_of(1))
    nobody = measured.measured_sum(plan, privacy_of(plan), model, Table(rows.inputs, rows.target), secret_of(1))
    assert person[0].tolist() == [cap]
    assert nobody[0].tolist() == [200 * cap]
    share = nobody[1][0] / 200
    assert abs(person[1][0] - share) <= 1, "the mean over its rows"
    assert person[2].sum() + person[3].sum() == cap


@pytest.mark.parametrize("persons", [0, 30])
def test_rounding_has_no_bias(persons: int) -> None:
    """Loss and right answers, over 4000 secrets: within 4.5 standard errors of the exact means."""
    plan = plan_of("logistic", persons > 0)
    privacy, cap = privacy_of(plan), private_sum.measure_cap(plan, privacy_of(plan))
    rows, model = table("logistic", 90, 2, persons), model_of(plan, 2)
    found = np.array(
        [np.concatenate(measured.measured_sum(plan, privacy, model, rows, secret_of(n))) for n in range(4000)], float
    )
    raw = measured.record_outputs(parameters.layers(plan.model, plan.data), model.astype(float), rows.inputs)
    losses = np.minimum(np.logaddexp(0.0, (1.0 - 2.0 * rows.target) * raw[:, 0]), 2.0)
    right = (raw[:, 0] >= 0) == (rows.target > 0.5)
    units = [rows.units.rows_of(np.array([number]))[0] for number in range(len(rows.units))]
    expected = [sum(values[one].mean() for one in units) for values in (right, losses / 2.0)]
    for mean, exact in ((found[:, 1], expected[0]), (found[:, -1], expected[1])):
        error = max(float(mean.std()), 1e-9) / math.sqrt(len(mean))
        assert abs(float(mean.mean()) / cap - exact) * cap < 4.5 * error + 1e-6
    cells = found[:, 2:-1].mean(axis=0) / cap
    assert cells.sum() == pytest.approx(len(units), rel=1e-12), "each unit fills one cell's worth"


@pytest.mark.parametrize("persons", [0, 7])
def test_how_many_are_worked_on_at_once_changes_nothing(persons: int, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = plan_of("logistic", persons > 0)
    rows, model = table("logistic", 60, 3, persons), model_of(plan, 3)
    whole = measured.measured_sum(plan, privacy_of(plan), model, rows, secret_of(3))
    for at_once in (1, 3, 10):
        monkeypatch.setattr(measured, "AT_ONCE", at_once)
        for one, other in zip(
            whole, measured.measured_sum(plan, privacy_of(plan), model, rows, secret_of(3)), strict=True
        ):
            assert np.array_equal(one, other)


def test_no_holdout_record_adds_nothing_and_a_row_that_overflows_counts_against_the_model() -> None:
    plan = plan_of("logistic")
    privacy, cap = privacy_of(plan), private_sum.measure_cap(plan, privacy_of(plan))
    rows, model = table("logistic", 3, 4), model_of(plan, 4)
    none = Table(rows.inputs[:0], rows.target[:0])
    assert not np.concatenate(measured.measured_sum(plan, privacy, model, none, secret_of(4))).any()
    rows.inputs[:] = float("nan")
    held, right, negative, positive, loss = measured.measured_sum(plan, privacy, model, rows, secret_of(4))
    assert (held.tolist(), right.tolist(), loss.tolist()) == ([3 * cap], [0], [3 * cap])
    assert not np.concatenate([negative, positive]).any()


def test_a_key_of_its_own_draws_the_roundings() -> None:
    plan, used = plan_of("logistic", persons=True), []
    honest = measured.Streams

    def streams(keys: list[tuple[bytes, bool]], *rest: int) -> object:
        used.extend(key for key, _ in keys)
        return honest(keys, *rest)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(measured, "Streams", streams)
        measured.measured_sum(plan, privacy_of(plan), model_of(plan, 1), table("logistic", 9, 1, 4), secret_of(1))
    assert used == [derive(b"", secret_of(1).expose(), "dp/evaluation")]
    others = {derive(b"", secret_of(1).expose(), label) for label in ("dp/rounding", "dp/sample", "dp/noise")}
    assert not others & set(used)


# --- the range --------------------------------------------------------------------------------------------------------


def test_a_count_may_be_wider_than_the_update_and_everyone_finds_the_same_width() -> None:
    """R_l = cap*rows, above max_value here: kept whole in the input, and the values are as wide as that needs."""
    narrow, wide = private_plan(rows=10**6, delta=1e-8), measuring(rows=10**6, delta=1e-8)
    one = private_sum.measure_cap(wide, privacy_of(wide))
    assert private_sum.widest(narrow) == narrow.protection.max_value
    assert private_sum.widest(wide) == one * 10**6 > wide.protection.max_value
    share = private_sum.share_cap(wide, 5, 4, 1)
    bits = private_sum.value_bits(wide, 5, 4, 1)
    assert 2 ** (bits - 2) - 1 < private_sum.widest(wide) + share <= 2 ** (bits - 1) - 1
    for block in layout.layout_for(wide, Purpose.EVALUATE, 3).blocks:
        assert abs(block.limit - private_sum.widest(wide)) <= 1
    values = np.array([3.0 * one, 999_999.0 * one, 5.0, 1e6 * one])
    drawn = [Piece(Seed(bytes(32)), DiscreteGaussian(1000))]
    noise = update.noisy(wide, np.zeros(4), drawn)
    assert np.array_equal(update.private_input(wide, values, drawn) - noise, values.astype(np.int64))
    pieces = [update.private_input(wide, values[at : at + 1], drawn, at) for at in range(4)]
    assert np.array_equal(np.concatenate(pieces), update.private_input(wide, values, drawn))
    widest = private_sum.widest(wide)
    beyond = np.array([2.0, -2.0, 1.0, -1.0]) * widest
    held = np.array([1, -1, 1, -1]) * widest
    assert np.array_equal(update.private_input(wide, beyond, drawn) - noise, held), "no input is wider than was priced"


def test_more_records_than_the_plan_says_are_cut_off_and_move_it_no_further() -> None:
    plan = measuring(rows=5, delta=1e-5)
    rows, model = table("logistic", 40, 5), model_of(plan, 5)
    held, *_ = measured.measured_sum(plan, privacy_of(plan), model, rows, secret_of(5))
    assert held.tolist() == [5 * private_sum.measure_cap(plan, privacy_of(plan))]


def test_counts_that_no_float_holds_are_a_problem_of_the_plan() -> None:
    with pytest.raises(PlanError) as caught:
        measuring(rows=10**9, delta=1e-11, bits=24, clip=16.0)
    assert [(one.path, one.code) for one in caught.value.problems] == [("protection.value_bits", "privacy_grid")]


# --- what noise alone may do ------------------------------------------------------------------------------------------


def left(plan: Plan, survivors: int) -> int:
    """The variance of the noise of so many of five, settled."""
    levels = private_sum.shares(plan, 5, 4, 1)
    assert levels is not None
    return levels.total(5 - survivors)


def opened(plan: Plan, values: NDArray[np.float64], survivors: int, seed: int) -> decode.Decoded:
    """The evaluation blocks of an opened sum: `values` in steps of the grid, with the noise of so many shares."""
    sigma = math.sqrt(left(plan, survivors))
    noisy = np.rint(values + np.random.default_rng(seed).normal(size=len(values)) * sigma).astype(np.int64)
    return decode.decode(layout.layout_for(plan, Purpose.EVALUATE, 3), noisy)


def test_noise_alone_rejects_no_model() -> None:
    """2000 opened sums of holdouts from none to many: no measure is implausible, no loss is too large beside the best,
    whatever the order in which they came.
    """
    plan = measuring(more=", loss_cap: 2.0")
    deviation = private_sum.count_deviation(plan, left(plan, 5))
    for records in (0, 20, 60, 400):
        rows = table("logistic", records, 6)
        exact = np.concatenate(measured.measured_sum(plan, privacy_of(plan), model_of(plan, 6), rows, secret_of(6)))
        best = math.inf
        for seed in range(500):
            found = opened(plan, exact.astype(np.float64), 5, seed)
            sanity.check_measures(plan, found, 5, deviation)
            try:
                figures = evaluation.metrics(plan, found)
            except RoundAborted:
                continue
            noise = evaluation.deviation(2.0, 2.0, deviation, figures.rows)
            sanity.check_loss(None if math.isinf(best) else best, figures.loss, noise)
            best = min(best, sanity.loss_at_most(figures.loss, noise))
            assert best >= 0


def test_a_model_that_is_much_worse_is_still_rejected() -> None:
    sanity.check_loss(sanity.loss_at_most(0.3, 0.02), 0.8, 0.02)
    with pytest.raises(IntegrityError) as caught:
        sanity.check_loss(sanity.loss_at_most(0.3, 0.02), 0.9, 0.02)
    assert caught.value.code == "model_rejected"
    sanity.check_loss(None, -0.1, 0.2)
    assert sanity.loss_at_most(-5.0, 0.2) == 0.0
    assert sanity.loss_at_most(0.25, 0.0) == 0.25
    for loss, noise in ((-0.1, 0.0), (math.nan, 1.0), (math.inf, 1.0)):
        with pytest.raises(IntegrityError):
            sanity.check_loss(None, loss, noise)


@pytest.mark.parametrize(
    ("block", "value"),
    [
        ("holdout", 1e9),
        ("holdout", -1e3),
        ("correct", 1e3),
        ("correct", -1e3),
        ("loss", 1e4),
        ("loss", -1e4),
        ("neg", 1e4),
        ("pos", -1e3),
    ],
)
def test_what_no_records_and_no_noise_give_is_rejected(block: str, value: float) -> None:
    plan = measuring()
    shape = layout.layout_for(plan, Purpose.EVALUATE, 3)
    values = np.zeros(shape.length)
    values[shape.slices()[block].start] = value * private_sum.measure_cap(plan, privacy_of(plan))
    with pytest.raises(IntegrityError) as caught:
        sanity.check_measures(plan, opened(plan, values, 5, 1), 5, private_sum.count_deviation(plan, left(plan, 5)))
    assert caught.value.code == "model_rejected"


def test_a_number_of_records_that_is_mostly_noise_measures_nothing() -> None:
    plan = measuring()
    least = private_sum.least_count(plan, privacy_of(plan))
    assert least == pytest.approx(32.0, rel=0.01), "four deviations of 8z records"
    shape = layout.layout_for(plan, Purpose.EVALUATE, 3)
    for rows, means in ((least - 1, False), (-least, False), (least + 1, True)):
        values = np.zeros(shape.length, dtype=np.int64)
        values[0] = round(rows * private_sum.measure_cap(plan, privacy_of(plan)))
        if means:
            assert evaluation.metrics(plan, decode.decode(shape, values)).loss == 0.0
        else:
            with pytest.raises(RoundAborted) as caught:
                evaluation.metrics(plan, decode.decode(shape, values))
            assert caught.value.code == "no_holdout_rows"


def test_the_deviation_of_a_mean_is_that_of_many_sums() -> None:
    plan = measuring(more=", loss_cap: 2.0")
    rows, deviation = table("logistic", 500, 7), private_sum.count_deviation(plan, left(plan, 5))
    exact = np.concatenate(measured.measured_sum(plan, privacy_of(plan), model_of(plan, 7), rows, secret_of(7)))
    found = [evaluation.metrics(plan, opened(plan, exact.astype(np.float64), 5, seed)) for seed in range(3000)]
    for values, most in (([one.loss for one in found], 2.0), ([one.accuracy for one in found], 1.0)):
        told = evaluation.deviation(float(np.mean(values)), most, deviation, 500)
        assert np.std(values) == pytest.approx(told, rel=0.06)


def test_auc_from_noisy_histograms_counts_no_negative_cell_and_leans_to_one_half() -> None:
    plan = measuring()
    shape, cap = layout.layout_for(plan, Purpose.EVALUATE, 3), private_sum.measure_cap(plan, privacy_of(plan))
    values = np.zeros(shape.length)
    where = shape.slices()
    values[where["holdout"]] = 2000 * cap
    values[where["neg"].start + 10] = values[where["pos"].start + 50] = 1000 * cap  # AUC 1
    aucs = [evaluation.metrics(plan, opened(plan, values, 5, seed)).auc for seed in range(200)]
    assert all(one is not None and 0.5 < one <= 1.0 for one in aucs)
    assert 0.6 < np.mean([one for one in aucs if one is not None]) < 0.95
