"""Evaluation under differential privacy: what a holdout record can move, what that costs, what is left of the figures.

A record trains or is held out, so a sum that does both has two prices, and a run costs the larger one at each order
(D11). The bound of a holdout record is exact, in integers, and shown over random tables of rows and of persons, as in
`test_clipped_gradients` for the update (D1, A6).
"""

import dataclasses
import math
from fractions import Fraction
from functools import cache

import dp_accounting as dpa
import numpy as np
import pytest
from absl import logging as absl_logging
from dp_accounting import rdp as oracle_rdp
from encrypted_federation import KEY_ID, encrypted_federation
from federation import FIVE, RUN, THREE, federation, journal
from fedveil_common import decode, evaluation, layout, modelfile, prediction, private_sum, provenance, sanity
from fedveil_common import plan as plans
from fedveil_common.crypto.kdf import derive
from fedveil_common.dp import budget, rdp
from fedveil_common.dp.charge import Charge, Rows, of_run
from fedveil_common.errors import IntegrityError, RoundAborted
from fedveil_common.ids import OrgId
from fedveil_common.messages import Purpose
from fedveil_common.plan import Plan, PlanError, PrivacySpec, measures, parameters
from fedveil_common.secret import Seed
from fedveil_coordinator import reporting
from fedveil_coordinator.run import RunState
from fedveil_participant import update
from fedveil_participant.data.csv_source import read_table
from fedveil_participant.data.in_memory import in_memory
from fedveil_participant.data.prepare import Rows as Table
from fedveil_participant.data.prepare import prepare
from fedveil_participant.training import measured
from fedveil_simulation.cluster import Cluster
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from private_federation import private_bytes, private_plan

CALM = settings(deadline=None, derandomize=True, max_examples=40, suppress_health_check=[HealthCheck.too_slow])
ORDERS = rdp.ORDERS
BINARY = "{column: y, type: binary}"
CATEGORY = "{column: y, type: category, values: [a, b, c]}"
FLOAT = "{column: y, type: float, range: [0, 1]}"
KINDS = {
    "logistic": ("{kind: logistic}", BINARY, "loss, accuracy, auc", 4),
    "mlp": ("{kind: mlp, hidden: [4]}", BINARY, "loss, accuracy", 3),
    "softmax": ("{kind: softmax}", CATEGORY, "loss, accuracy", 3),
    "linear": ("{kind: linear}", FLOAT, "loss", 2),
}
"""Model, target, metrics, and m: how many blocks a holdout record moves. Both histograms are one."""

absl_logging.set_verbosity(absl_logging.ERROR)


def measuring(what: str = "logistic", every: int = 1, more: str = "", **options: object) -> Plan:
    """A private plan that measures all that its kind of model has."""
    model, target, metrics, _ = KINDS[what]
    written = f"evaluation: {{every: {every}, metrics: [{metrics}], holdout: 0.4{more}}}"
    return private_plan(**{"model": model, "target": target, "evaluation": written, **options})


def privacy_of(plan: Plan) -> PrivacySpec:
    assert plan.privacy is not None
    return plan.privacy


# --- the price --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", sorted(KINDS))
@pytest.mark.parametrize("noise", [1.0, 2.5])
def test_a_holdout_record_pays_for_its_blocks_as_the_oracle_says(kind: str, noise: float) -> None:
    """8z/sqrt(m) at q = 1, by dp-accounting; the caps are whole steps, so ours is at most that and hardly below."""
    blocks = KINDS[kind][3]
    plan = measuring(kind, noise=f"noise_multiplier: {noise}", bits=24)
    for purpose in (Purpose.TRAIN, Purpose.EVALUATE):
        holdout = private_sum.charge(plan, privacy_of(plan), purpose, 0).holdout
        accountant = oracle_rdp.RdpAccountant(ORDERS)
        accountant.compose(dpa.GaussianDpEvent(8 * noise / math.sqrt(blocks)), 20)
        assert rdp.epsilon(holdout.times(20), 1e-5) == pytest.approx(accountant.get_epsilon(1e-5), rel=1e-4)


def test_d11_a_training_record_pays_the_same_whether_others_are_measured() -> None:
    """No further block moves with a training row: z, and not z/sqrt(1 + m/64), which charging one price would take."""
    plain, measuring_ = private_plan(sample=0.1), measuring(sample=0.1)
    charged = [private_sum.charge(one, privacy_of(one), Purpose.TRAIN, 0) for one in (plain, measuring_)]
    assert charged[0].holdout == rdp.NOTHING
    for order in ORDERS:
        assert charged[1].training.at(order) == pytest.approx(charged[0].training.at(order), rel=1e-12)
    last = private_sum.charge(measuring_, privacy_of(measuring_), Purpose.EVALUATE, 3)
    assert last.training == rdp.NOTHING
    between = measuring(every=2)
    assert private_sum.charge(between, privacy_of(between), Purpose.TRAIN, 1).holdout == rdp.NOTHING


@pytest.mark.parametrize(("sample", "larger"), [(1.0, 0), (0.01, 1)])
def test_d11_a_run_costs_the_larger_of_both(sample: float, larger: int) -> None:
    """Were both added up, or charged to everyone, it would cost more; were the other left out, too little."""
    plan = measuring(rounds=20, sample=sample)
    privacy, sums = privacy_of(plan), private_sum.sums_planned(plan)
    assert sums == 21
    training, holdout = private_sum.costs(plan, privacy, sums)
    spent = private_sum.spent(plan, privacy, sums)
    assert max(training, holdout) <= spent <= max(training, holdout) * (1 + 1e-9)
    assert (training < holdout) == bool(larger)
    every = [
        *(private_sum.charge(plan, privacy, Purpose.TRAIN, step) for step in range(20)),
        private_sum.charge(plan, privacy, Purpose.EVALUATE, 20),
    ]
    assert spent == of_run(every).epsilon(privacy.delta)
    both = [Charge(one.training + one.holdout, one.training + one.holdout, one.slack) for one in every]
    assert of_run(both).epsilon(privacy.delta) > 1.001 * spent, "the price without D11"


@pytest.mark.parametrize("every", [1, 3, 10])
def test_a_target_covers_every_sum_and_no_thousandth_less_noise_would(every: int) -> None:
    plan = measuring(rounds=10, every=every, sample=0.1, noise="target_epsilon: 3.0", bits=20)
    privacy, sums = privacy_of(plan), private_sum.sums_planned(plan)
    assert sums == 11
    assert private_sum.spent(plan, privacy, sums) <= 3.0
    less = dataclasses.replace(privacy, noise_multiplier=round(privacy.noise_multiplier - 1 / private_sum.FINEST, 3))
    assert private_sum.spent(plan, less, sums) > 3.0
    assert private_sum.spent(plan, privacy, 0) == 0.0


def test_no_noise_keeps_an_epsilon_below_what_the_largest_order_gives() -> None:
    plan = measuring()
    assert private_sum.multiplier_for(plan, privacy_of(plan), 0.005) == 0.0


@pytest.mark.parametrize("every", [1, 4])
@pytest.mark.parametrize("sample", [1.0, 0.01])
def test_the_sums_that_fit_are_the_last_number_that_does(every: int, sample: float) -> None:
    plan = measuring(rounds=40, every=every, sample=sample, most=9.0)
    privacy = privacy_of(plan)
    allowed = private_sum.sums_allowed(plan, privacy)
    assert 0 < allowed <= 41
    assert private_sum.spent(plan, privacy, allowed) <= 9.0
    assert allowed == 41 or private_sum.spent(plan, privacy, allowed + 1) > 9.0
    assert private_sum.steps_allowed(plan, privacy) == min(allowed, 40)


def test_a_run_has_no_more_sums_than_its_plan() -> None:
    plan = measuring(rounds=2)
    with pytest.raises(ValueError, match="3 sums"):
        private_sum.spent(plan, privacy_of(plan), 4)
    for purpose in (Purpose.STANDARDISE, Purpose.STATISTICS):
        with pytest.raises(ValueError, match=purpose.value):
            private_sum.charge(plan, privacy_of(plan), purpose, 0)
        with pytest.raises(ValueError, match=purpose.value):
            private_sum.mechanism(plan, privacy_of(plan), purpose, 0)


def test_long_plans_are_priced_in_no_time() -> None:
    """10,000 steps have three kinds of sum: what is kept is by kind, not by step."""
    plan = measuring(rounds=10_000, every=100, sample=0.01, noise="noise_multiplier: 4.0", bits=20)
    private_sum._charge.cache_clear()
    assert private_sum.sums_allowed(plan, privacy_of(plan)) == 10_001
    assert private_sum._charge.cache_info().misses <= 3


# --- a block without a price ------------------------------------------------------------------------------------------


def test_a_block_without_a_price_has_no_layout(monkeypatch: pytest.MonkeyPatch) -> None:
    """One block more than is charged, one coordinate more, or one less: nobody derives a layout, so nobody sends."""
    plan, honest = measuring(), layout._noisy_evaluation
    changed = {
        "block": lambda plan, privacy: (*honest(plan, privacy), layout.Block("minutes", 1, 1.0, 1.0)),
        "longer": lambda plan, privacy: (
            dataclasses.replace(honest(plan, privacy)[0], length=2),
            *honest(plan, privacy)[1:],
        ),
        "missing": lambda plan, privacy: honest(plan, privacy)[1:],
    }
    for change in changed.values():
        monkeypatch.setattr(layout, "_noisy_evaluation", change)
        for purpose in (Purpose.TRAIN, Purpose.EVALUATE):
            with pytest.raises(IntegrityError) as caught:
                layout.layout_for(plan, purpose, 0)
            assert caught.value.code == "uncharged_block"
    assert layout.layout_for(measuring(every=2), Purpose.TRAIN, 1).blocks[-1].name == layout.UPDATE


# --- what a record can move -------------------------------------------------------------------------------------------


@cache
def plan_of(kind: str, persons: bool = False, bits: int = 16) -> Plan:
    return measuring(kind, person="person: who" if persons else "", bits=bits, more=", loss_cap: 2.0")


def table(kind: str, count: int, seed: int, persons: int = 0) -> Table:
    """`count` rows of plausible values; of `persons` persons, if that is not 0."""
    draw = np.random.default_rng(seed)
    classes = {"softmax": 3}.get(kind, 2)
    target = draw.uniform(-1, 1, count) if kind == "linear" else draw.integers(0, classes, count).astype(np.float64)
    labels = draw.integers(0, persons, count).astype(np.uint64) if persons else None
    return Table(draw.uniform(-1, 1, (count, 5)), target, labels)


def model_of(plan: Plan, seed: int, size: float = 1.0) -> NDArray[np.float32]:
    draw = np.random.default_rng(seed)
    return (draw.normal(size=parameters.count(plan.model, plan.data)) * size).astype(np.float32)


def secret_of(number: int) -> Seed:
    return Seed(derive(b"", number.to_bytes(8, "big"), "test/measured"))


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
    share = private_sum.share_cap(wide, 4, 1)
    bits = private_sum.value_bits(wide, 4, 1)
    assert 2 ** (bits - 2) - 1 < private_sum.widest(wide) + share <= 2 ** (bits - 1) - 1
    for block in layout.layout_for(wide, Purpose.EVALUATE, 3).blocks:
        assert abs(block.limit - private_sum.widest(wide)) <= 1
    values = np.array([3.0 * one, 999_999.0 * one, 5.0, 1e6 * one])
    noise = update.noisy(wide, np.zeros(4), bytes(32), 1000)
    assert np.array_equal(update.private_input(wide, values, bytes(32), 1000) - noise, values.astype(np.int64))
    pieces = [update.private_input(wide, values[at : at + 1], bytes(32), 1000, at) for at in range(4)]
    assert np.array_equal(np.concatenate(pieces), update.private_input(wide, values, bytes(32), 1000))


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


def opened(plan: Plan, values: NDArray[np.float64], survivors: int, seed: int) -> decode.Decoded:
    """The evaluation blocks of an opened sum: `values` in steps of the grid, with the noise of so many shares."""
    sigma = math.sqrt(private_sum.opened_variance(plan, 4, 1, survivors))
    noisy = np.rint(values + np.random.default_rng(seed).normal(size=len(values)) * sigma).astype(np.int64)
    return decode.decode(layout.layout_for(plan, Purpose.EVALUATE, 3), noisy)


def test_noise_alone_rejects_no_model() -> None:
    """2000 opened sums of holdouts from none to many: no measure is implausible, no loss is too large beside the best,
    whatever the order in which they came.
    """
    plan = measuring(more=", loss_cap: 2.0")
    deviation = private_sum.count_deviation(plan, 4, 1, 5)
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
        sanity.check_measures(plan, opened(plan, values, 5, 1), 5, private_sum.count_deviation(plan, 4, 1, 5))
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
    rows, deviation = table("logistic", 500, 7), private_sum.count_deviation(plan, 4, 1, 5)
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


# --- whole runs -------------------------------------------------------------------------------------------------------


def survey(index: int, rows: int, persons: bool = False) -> dict[str, bytes]:
    """A table whose outcome follows its first column, with errors."""
    draw = np.random.default_rng(index)
    lines = [("who," if persons else "") + "f0,f1,f2,f3,f4,y"]
    for row in range(rows):
        values = draw.uniform(0, 1, 5)
        outcome = int(values[0] + 0.2 * draw.normal() > 0.5)
        who = f"p{index}-{row // 3}," if persons else ""
        lines.append(who + ",".join([*(f"{value:.4f}" for value in values), str(outcome)]))
    return {"table": ("\n".join(lines) + "\n").encode()}


def cluster_of(plan: Plan, rows: int, persons: bool = False) -> Cluster:
    canonical = plans.canonical(plan)
    cluster = encrypted_federation(plan=canonical) if plan.protection.key else federation(plan=canonical)
    for org, member in cluster.members.items():
        cluster.kill_member(org)
        member.data = survey(FIVE.index(org), rows, persons)
        cluster.start_member(org)
    cluster.settle()
    return cluster


def ended(cluster: Cluster, plan: Plan) -> str:
    cluster.start_run(RUN, plans.canonical(plan))
    cluster.play(lambda: cluster.ended(RUN), 400_000.0)
    return cluster.memory.runs[RUN][2]


def ledger_of(cluster: Cluster, org: OrgId) -> budget.Ledger:
    return budget.fold(one.entry for one in cluster.members[org].memory.kept.ledger)


def truth(
    cluster: Cluster, plan: Plan, model: NDArray[np.float32], lineage: provenance.Lineage
) -> tuple[float, float, float]:
    """Holdout units, accuracy and mean capped loss of a model over all members' tables, in clear; a unit's mean first.
    By the formulas of prediction, which are not those of `measured`.
    """
    units, right, loss = 0, 0.0, 0.0
    for org, member in cluster.members.items():
        source = read_table([in_memory(org, member.data["table"])], org, plan, bytes(32))
        rows = prepare(plan, source, lineage.standardisation).held_out
        scores = prediction.scores(plan, model, rows.inputs)
        is_right = prediction.right(plan, scores, rows.target)
        losses = np.minimum(prediction.losses(plan, model, rows.inputs, rows.target), plan.evaluation.loss_cap)
        for number in range(len(rows.units)):
            chosen, _ = rows.units.rows_of(np.array([number]))
            right += float(is_right[chosen].mean())
            loss += float(losses[chosen].mean())
        units += len(rows.units)
    return units, right / units, loss / units


@pytest.mark.parametrize("kind", ["masked", f"paillier, key: {KEY_ID}"])
@pytest.mark.parametrize("persons", [False, True])
def test_a_whole_run_measures_its_models_and_charges_for_it(kind: str, persons: bool) -> None:
    """Each figure is within four of the deviations that are told beside it, and so is most of them within one; both
    ledgers have spent what the plan says, to the last bit.
    """
    plan = measuring(
        rounds=3,
        kind=kind,
        noise="noise_multiplier: 0.5",
        more=", loss_cap: 2.0",
        most=1000.0,
        rate=4.0,
        person="person: who" if persons else "",
    )
    cluster = cluster_of(plan, 300, persons)
    assert ended(cluster, plan) == "finished"
    state = cluster.coordinator.state_of(RUN)
    assert [record.purpose for record in state.records] == [Purpose.TRAIN] * 3 + [Purpose.EVALUATE]
    lineage, off = provenance.begin(plan, None), []
    for record in state.records:
        units, accuracy, loss = truth(cluster, plan, lineage.model, lineage)
        told = reporting.round_report(plan, record, None)["noise"]
        assert isinstance(told, dict)
        assert record.rows is not None
        assert record.accuracy is not None
        assert record.loss is not None
        off += [(record.rows - units) / told["rows"], (record.accuracy - accuracy) / told["accuracy"]]
        off.append((record.loss - loss) / told["loss"])
        if record.purpose is Purpose.TRAIN:
            lineage = provenance.advance(lineage, cluster.memory.read_sum(RUN, record.round))
    assert max(map(abs, off)) < 4
    assert 0.3 < np.mean(np.abs(off)) < 1.5
    last = state.records[-1]
    assert (last.accuracy or 0.0) > 0.6, "and the model has learned something"
    due = private_sum.spent(plan, privacy_of(plan), 4)
    report = reporting.privacy_report(state)
    assert isinstance(report, dict)
    assert report["epsilon"] == due
    for org in cluster.members:
        assert ledger_of(cluster, org).spent(RUN).epsilon(1e-5) == due
        assert len(ledger_of(cluster, org).account(RUN).attempts) == 4


def test_a_budget_ends_the_run_before_the_sum_that_only_holdout_records_would_pay_for() -> None:
    """The steps fit and the last measurement does not: the model of the last step is signed and stored, unmeasured."""
    whole = measuring(rounds=3, sample=0.001, noise="noise_multiplier: 1.0", most=1000.0)
    privacy = privacy_of(whole)
    most = (private_sum.spent(whole, privacy, 3) + private_sum.spent(whole, privacy, 4)) / 2
    plan = measuring(rounds=3, sample=0.001, noise="noise_multiplier: 1.0", most=most)
    assert private_sum.costs(plan, privacy_of(plan), 3)[0] < private_sum.costs(plan, privacy_of(plan), 3)[1]
    cluster = cluster_of(plan, 60)
    assert ended(cluster, plan) == "budget_spent"
    assert len(cluster.memory.sums) == 3
    for org, member in cluster.members.items():
        assert ledger_of(cluster, org).spent(RUN).epsilon(1e-5) == private_sum.spent(plan, privacy_of(plan), 3) <= most
        (end,) = member.memory.ends.values()
        assert modelfile.read_model(end[2]).model.any()


def test_a_coordinator_that_goes_on_measuring_is_refused_by_everyone(monkeypatch: pytest.MonkeyPatch) -> None:
    plan = measuring(rounds=20, sample=0.001, most=2.5)
    allowed = private_sum.sums_allowed(plan, privacy_of(plan))
    assert 0 < allowed < 20
    cluster = cluster_of(plan, 60)
    monkeypatch.setattr(RunState, "budget_spent", property(lambda self: False))
    cluster.start_run(RUN, plans.canonical(plan))
    cluster.play(lambda: cluster.ended(RUN), 20_000.0)
    assert len(cluster.memory.sums) == allowed
    for org in cluster.members:
        assert "budget_spent" in [dict(facts).get("code") for _, facts in journal(cluster, org).notes]
        assert ledger_of(cluster, org).spent(RUN).epsilon(1e-5) <= 2.5


def test_evaluating_more_rarely_leaves_more_steps() -> None:
    often, rarely = (measuring(rounds=40, every=every, sample=0.001, most=2.5) for every in (1, 10))
    assert private_sum.steps_allowed(often, privacy_of(often)) < 20
    assert private_sum.steps_allowed(rarely, privacy_of(rarely)) == 40


def test_a_run_goes_on_after_restarts_with_the_same_figures() -> None:
    """Coordinator and members die after each sum: what was measured, charged and opened is folded again."""
    plan = measuring(rounds=3, noise="noise_multiplier: 0.5", more=", loss_cap: 2.0", most=1000.0, rate=4.0)
    cluster = cluster_of(plan, 200)
    cluster.start_run(RUN, plans.canonical(plan))
    for number in range(1, 4):
        cluster.play(lambda number=number: len(cluster.memory.sums) >= number, 200_000.0)  # type: ignore[misc]
        before = cluster.coordinator.state_of(RUN)
        cluster.restart_coordinator()
        for org in THREE:
            cluster.kill_member(org)
            cluster.start_member(org)
        after = cluster.coordinator.state_of(RUN)
        assert (after.records, after.losses, after.best_loss) == (before.records, before.losses, before.best_loss)
    cluster.play(lambda: cluster.ended(RUN), 400_000.0)
    assert cluster.memory.runs[RUN][2] == "finished"
    for org in cluster.members:
        assert ledger_of(cluster, org).spent(RUN).epsilon(1e-5) == private_sum.spent(plan, privacy_of(plan), 4)


def test_the_stopping_rule_reads_noisy_losses_and_everyone_stops_with_the_same_model() -> None:
    """Post-processing: the losses are those in the sums; the best model is the final one at every participant."""
    plan = measuring(
        rounds=30,
        noise="noise_multiplier: 1.0",
        more=", loss_cap: 2.0, stop: {patience: 2, min_delta: 0.02}",
        most=1000.0,
        rate=2.0,
    )
    cluster = cluster_of(plan, 400)
    assert ended(cluster, plan) == "finished"
    state = cluster.coordinator.state_of(RUN)
    assert state.verdict.stopped
    assert len(state.records) < 31
    best = min(state.losses[: state.verdict.best], key=lambda one: one[1])[0] if state.verdict.best else 0
    assert best == state.verdict.best
    lineage = provenance.begin(plan, None)
    for number in range(1, best + 1):
        lineage = provenance.advance(lineage, cluster.memory.read_sum(RUN, number))
    for org, member in cluster.members.items():
        (end,) = member.memory.ends.values()
        np.testing.assert_array_equal(modelfile.read_model(end[2]).model, lineage.model)
        spent = ledger_of(cluster, org).spent(RUN).epsilon(1e-5)
        assert spent == private_sum.spent(plan, privacy_of(plan), len(state.records))


# --- what opened, beside what was charged -----------------------------------------------------------------------------


def uncovered(cluster: Cluster, plan: Plan) -> list[str]:
    """Every opened coordinate of the run that no ledger entry covers, at the coordinator or at a participant.

    From what was interpreted at run time: block by block, against the entry of its very attempt.
    """
    state, found = cluster.coordinator.state_of(RUN), []
    ledgers = {org: ledger_of(cluster, org).account(RUN).attempts for org in cluster.members}
    for record in state.records:
        listed = reporting.round_report(plan, record, None)["opened"]
        assert isinstance(listed, list)
        if sum(one["coordinates"] for one in listed) != len(cluster.memory.read_sum(RUN, record.round)):
            found.append(f"round {record.round}: not every coordinate is listed")
        for one in listed:
            name = f"round {record.round}: {one['block']}"
            if not one["charged"]:
                found.append(name)
                continue
            for org, attempts in ledgers.items():
                (entry,) = [
                    standing
                    for key, standing in attempts.items()
                    if (key.attempt.round, key.attempt.attempt) == (record.round, record.attempt)
                ]
                assert isinstance(entry, budget.Settled)
                curve = {"training": entry.charged.training, "holdout": entry.charged.holdout}[one["records"]]
                if not all(rho > 0 for rho in curve.rho):
                    found.append(f"{name} at {org}")
    return found


@pytest.mark.parametrize("kind", ["masked", f"paillier, key: {KEY_ID}"])
def test_every_opened_coordinate_has_its_entry_in_both_ledgers(kind: str) -> None:
    plan = measuring(rounds=3, every=2, kind=kind)
    cluster = cluster_of(plan, 60)
    assert ended(cluster, plan) == "finished"
    assert uncovered(cluster, plan) == []
    blocks = [[name for name, _ in record.opened] for record in cluster.coordinator.state_of(RUN).records]
    holdout = ["holdout", "correct", "neg", "pos", "loss"]
    assert blocks == [["update", *holdout], ["update"], ["update", *holdout], holdout]


def test_a_block_more_than_is_charged_shows_in_the_list(monkeypatch: pytest.MonkeyPatch) -> None:
    """The check of layouts is taken out, and one block more is laid out, summed, opened and interpreted."""
    monkeypatch.setattr(private_sum, "check_priced", lambda *_: None)
    honest = layout._layout

    def longer(plan: Plan, purpose: Purpose, step: int) -> layout.Layout:
        return layout.Layout((*honest(plan, purpose, step).blocks, layout.Block("minutes", 2, 1.0, 1.0)))

    monkeypatch.setattr(layout, "_layout", longer)
    contribution = update.contribution
    monkeypatch.setattr(update, "contribution", lambda *args: [*contribution(*args), np.zeros(2)])
    plan = measuring(rounds=1)
    cluster = cluster_of(plan, 60)
    assert ended(cluster, plan) == "finished"
    assert uncovered(cluster, plan) == ["round 1: minutes", "round 2: minutes"]


def test_a_coordinate_that_nobody_interprets_shows_too(monkeypatch: pytest.MonkeyPatch) -> None:
    plan = private_plan(rounds=1)
    honest = decode.decode

    def silent(shape: layout.Layout, sums: NDArray[np.int64], record: decode.Record | None = None) -> object:
        return honest(shape, sums, None)

    monkeypatch.setattr(decode, "decode", silent)
    cluster = cluster_of(plan, 60)
    assert ended(cluster, plan) == "finished"
    assert uncovered(cluster, plan) == ["round 1: not every coordinate is listed"]


def test_the_charge_of_a_sum_that_measures_names_no_more_than_it_covers() -> None:
    plan = measuring(every=2)
    assert private_sum.rows_of(plan, privacy_of(plan), Purpose.TRAIN, 0, "pos") is Rows.HOLDOUT
    assert private_sum.rows_of(plan, privacy_of(plan), Purpose.TRAIN, 1, "pos") is None
    assert private_sum.rows_of(plan, privacy_of(plan), Purpose.TRAIN, 1, "update") is Rows.TRAINING
    assert private_sum.rows_of(plan, privacy_of(plan), Purpose.EVALUATE, 3, "update") is None
    one = private_sum.measure_cap(plan, privacy_of(plan))
    shift = private_sum.mechanism(plan, privacy_of(plan), Purpose.TRAIN, 0).squared_shift(Rows.HOLDOUT)
    assert shift == Fraction(4 * one**2, private_sum.grid(plan, privacy_of(plan)).variance)
    assert private_bytes(evaluation="evaluation: {holdout: 0.2}").count(b'"loss_cap":4') == 1
