"""Training and prediction: against scikit-learn's solution, deterministic, and fast enough for the demo."""

import io
import json
from importlib import resources

import numpy as np
import pytest
from fedveil_cli import demo_split
from fedveil_common import design, evaluation, initial, layout, prediction, standardisation, strategies
from fedveil_common.decode import Decoded, Readings
from fedveil_common.messages import Purpose
from fedveil_common.plan import Plan, canonical, check_release, parse_canonical, parse_plan, with_seed
from fedveil_participant.data.csv_source import Source, read_features, read_source
from fedveil_participant.data.prepare import Rows, prepare
from fedveil_participant.training.alone import fit
from fedveil_participant.training.descent import GradientDescent
from fedveil_participant.update import contribution
from sklearn.linear_model import LogisticRegression, Ridge

KEY = bytes(32)


def plan_for(kind: str, l2: float, **training: float) -> Plan:
    target = {"logistic": "{column: y, type: binary}", "linear": "{column: y, type: float, range: [-10, 30]}"}[kind]
    fields = {"rounds": 1, "local_epochs": 4000, "batch_size": 1000, "learning_rate": 0.5, **training}
    return parse_plan(
        f"""\
version: 1
name: p
kind: train
data:
  dataset: d
  features:
    a: {{type: float, range: [0, 10], missing: mean}}
    c: {{type: category, values: [x, y, z], missing: drop}}
    b: {{type: float, range: [-1, 1], missing: 0.5}}
  target: {target}
  min_rows: 3
  standardise: range
model: {{kind: {kind}, l2: {l2}}}
training: {{{", ".join(f"{k}: {v}" for k, v in fields.items())}, seed: 7, weight_cap: 100}}
evaluation: {{holdout: 0.2}}
cohort: {{min_participants: 3}}
protection: {{kind: masked, update_norm: 5}}
privacy: none
""".encode(),
        "p",
    )


def rows(kind: str, count: int = 200) -> Rows:
    draw = np.random.default_rng(5)
    inputs = draw.normal(size=(count, 4))
    linear = inputs @ np.array([1.0, -2.0, 0.5, 0.0]) + 0.7
    if kind == "linear":
        return Rows(inputs, 0.1 * linear + draw.normal(0, 0.05, count))
    return Rows(inputs, (draw.uniform(size=count) < 1 / (1 + np.exp(-linear))).astype(np.float64))


@pytest.mark.parametrize("l2", [0.01, 0.1])
def test_logistic_regression_converges_to_scikit_learns_solution(l2: float) -> None:
    plan, data = plan_for("logistic", l2), rows("logistic")
    model = initial.initial_model(plan).astype(np.float64) + GradientDescent().update(
        plan, initial.initial_model(plan), data
    )
    oracle = LogisticRegression(C=1 / (l2 * len(data)), tol=1e-10, max_iter=10_000).fit(data.inputs, data.target)
    assert model[:-1] == pytest.approx(oracle.coef_[0], abs=1e-5)
    assert model[-1] == pytest.approx(oracle.intercept_[0], abs=1e-5)


def test_linear_regression_converges_to_scikit_learns_solution() -> None:
    plan, data = plan_for("linear", 0.02, learning_rate=0.2), rows("linear")
    model = initial.initial_model(plan).astype(np.float64) + GradientDescent().update(
        plan, initial.initial_model(plan), data
    )
    oracle = Ridge(alpha=0.02 * len(data), tol=1e-12).fit(data.inputs, data.target)
    assert model[:-1] == pytest.approx(oracle.coef_, abs=1e-6)
    assert model[-1] == pytest.approx(oracle.intercept_, abs=1e-6)


def test_mini_batches_depend_on_seed_and_model_and_on_nothing_else() -> None:
    plan, data = plan_for("logistic", 0.01, local_epochs=2, batch_size=8), rows("logistic")
    model, trainer = initial.initial_model(plan), GradientDescent()
    first = trainer.update(plan, model, data)
    assert (trainer.update(plan, model.copy(), data) == first).all()
    assert (trainer.update(with_seed(plan, 8), model, data) != first).any()
    assert first.dtype == np.float64
    assert (model == initial.initial_model(plan)).all()  # the model received is left as it was


def test_no_rows_give_no_update() -> None:
    plan = plan_for("logistic", 0.01)
    empty = Rows(np.empty((0, 4)), np.empty(0))
    assert (GradientDescent().update(plan, initial.initial_model(plan), empty) == 0).all()


def test_divergence_shows_as_values_that_are_not_finite() -> None:
    plan, data = plan_for("linear", 0.0, learning_rate=1e6, local_epochs=500), rows("linear")
    assert not np.isfinite(GradientDescent().update(plan, initial.initial_model(plan), data)).all()


# --- design matrix and prediction ---


def test_the_design_matrix_is_one_hot_without_the_first_value_and_fills_means() -> None:
    plan = plan_for("logistic", 0.0)
    table = read_features(io.BytesIO(b"a,c,b\n10,x,-1\n?,z,NA\n0,y,1\n2.5,,0\n"), "f", plan)
    matrix = design.inputs(plan, standardisation.by_range(plan), table)
    assert matrix[:3].tolist() == [[1, 0, 0, -1], [0, 0, 1, 0.5], [-1, 1, 0, 1]]
    assert np.isnan(matrix[3, 1:3]).all()
    model = np.array([1, 2, 3, 4, 0.5], dtype=np.float32)
    found = prediction.predict(plan, model, standardisation.by_range(plan), table)
    assert found[:3] == pytest.approx(1 / (1 + np.exp(-np.array([1 - 4 + 0.5, 3 + 2 + 0.5, -1 + 2 + 4 + 0.5]))))
    assert np.isnan(found[3])


def test_missing_means_are_the_federations_only_under_federated_standardisation() -> None:
    import dataclasses

    from fedveil_common.plan import Standardise

    plan = plan_for("logistic", 0.0)
    table = read_features(io.BytesIO(b"a,c,b\n?,x,0\n"), "f", plan)
    scaling = standardisation.Standardisation(np.array([2.0, 0.0]), np.array([4.0, 1.0]))
    federated = dataclasses.replace(plan, data=dataclasses.replace(plan.data, standardise=Standardise.FEDERATED))
    assert design.inputs(federated, scaling, table)[0, 0] == 0.0
    none = dataclasses.replace(plan, data=dataclasses.replace(plan.data, standardise=Standardise.NONE))
    assert design.inputs(none, standardisation.without_sum(none), table)[0, 0] == 5.0


def test_linear_predictions_are_in_natural_units() -> None:
    plan = plan_for("linear", 0.0)
    table = read_features(io.BytesIO(b"a,c,b\n5,x,0\n"), "f", plan)
    found = prediction.predict(plan, np.array([0, 0, 0, 0, 0.5], np.float32), standardisation.by_range(plan), table)
    assert found.tolist() == [20.0]  # 0.5 on [-1, 1] is 20 on [-10, 30]


def test_extreme_logits_do_not_overflow() -> None:
    with np.errstate(all="raise", under="ignore"):
        assert prediction.sigmoid(np.array([-1e308, -800.0, 0.0, 800.0, 1e308])).tolist() == [0.0, 0.0, 0.5, 1.0, 1.0]


# --- the demo's data and plan ---

DEMO = parse_plan(demo_split.plan_text(), "demo_plan.yaml")


def load(numbers: tuple[int, ...], plan: Plan = DEMO) -> Source:
    return read_source(io.BytesIO(demo_split.rows_csv(numbers)), "demo.csv", plan, KEY)


def test_the_demo_plan_is_what_the_demo_promises() -> None:
    check_release(DEMO)
    assert parse_canonical(canonical(DEMO)) == DEMO
    assert (DEMO.cohort.progress_s, DEMO.cohort.min_participants) == (3.0, 5)
    assert (DEMO.evaluation.every, DEMO.evaluation.holdout) == (1, 0.2)
    assert DEMO.data.inputs == 30
    assert 8 <= DEMO.training.rounds <= 10


def test_the_committed_split_is_the_function_of_its_seed() -> None:
    committed = json.loads((resources.files("fedveil_cli") / "demo_data" / "split.json").read_text())
    found = demo_split.split(7)
    assert committed == {
        "seed": 7,
        "hospitals": {k: list(v) for k, v in found.hospitals.items()},
        "test": list(found.test),
    }


@pytest.mark.parametrize("seed", [0, 7, 19])
def test_every_row_is_dealt_once_and_hospitals_differ(seed: int) -> None:
    found = demo_split.split(seed)
    dealt = [row for rows in found.hospitals.values() for row in rows]
    assert sorted([*dealt, *found.test]) == list(range(569))
    assert len(found.test) == 114
    shares = [load(rows).table.target.mean() for rows in found.hospitals.values()]  # type: ignore[union-attr]
    assert max(shares) - min(shares) > 0.6
    assert all(len(rows) >= DEMO.data.min_rows for rows in found.hospitals.values())


def test_the_demo_data_is_scikit_learns() -> None:
    from sklearn.datasets import load_breast_cancer

    bundled = load_breast_cancer()
    table = load(tuple(range(569))).table
    for column, name in enumerate(bundled.feature_names):
        assert (table.numbers[name.replace(" ", "_")] == bundled.data[:, column]).all()
    assert table.target is not None
    assert (table.target == 1 - bundled.target).all()


def federated(plan: Plan, sources: list[Source]) -> tuple[np.ndarray, standardisation.Standardisation]:  # type: ignore[type-arg]
    """Rounds without masks and rounding: what the learning itself gives."""

    def summed(purpose: Purpose, step: int, model=None, scaling=None) -> Decoded:  # type: ignore[no-untyped-def]
        parts = [contribution(plan, purpose, step, member, model, scaling) for member in sources]
        names = [block.name for block in layout.layout_for(plan, purpose, step).blocks]
        sums = [Readings(np.asarray(np.sum(values, axis=0)), 1.0) for values in zip(*parts, strict=True)]
        return dict(zip(names, sums, strict=True))

    scaling = standardisation.from_sum(plan, summed(Purpose.STANDARDISE, 0))
    model = initial.initial_model(plan)
    for step in range(plan.training.rounds):
        model = strategies.apply(plan, model, summed(Purpose.TRAIN, step, model, scaling))
    assert evaluation.metrics(plan, summed(Purpose.EVALUATE, plan.training.rounds, model, scaling)).loss < 0.3
    return model, scaling


def test_the_federation_is_as_good_as_pooling_and_better_than_any_hospital_alone() -> None:
    accuracy: dict[str, list[float]] = {}
    loss: dict[str, list[float]] = {}
    for seed in range(4):
        plan, dealt = with_seed(DEMO, seed), demo_split.split(seed)
        sources = {name: load(rows, plan) for name, rows in dealt.hospitals.items()}
        test = load(dealt.test, plan).table
        models = {"federated": federated(plan, list(sources.values())), "pooled": fit(plan, list(sources.values()))}
        models |= {name: fit(plan, [member]) for name, member in sources.items()}
        for name, (model, scaling) in models.items():
            p = prediction.predict(plan, model, scaling, test)
            assert test.target is not None
            accuracy.setdefault(name, []).append(float(((p >= 0.5) == test.target).mean()))
            q = np.where(test.target > 0.5, p, 1 - p)
            loss.setdefault(name, []).append(float(-np.log(np.maximum(q, 1e-12)).mean()))
    mean = {name: float(np.mean(values)) for name, values in accuracy.items()}
    assert abs(mean["federated"] - mean["pooled"]) <= 0.01
    losses = {name: float(np.mean(values)) for name, values in loss.items()}
    for hospital in demo_split.SHARES:
        assert losses["federated"] < losses[hospital]
        assert mean["federated"] > mean[hospital]


def test_holdout_rows_never_reach_the_trainer() -> None:
    member = load(demo_split.split(7).hospitals["northgate"])
    prepared = prepare(DEMO, member, standardisation.by_range(DEMO))
    assert len(prepared.train) + len(prepared.held_out) == member.table.rows
    train = {row.tobytes() for row in prepared.train.inputs}
    assert not train & {row.tobytes() for row in prepared.held_out.inputs}
