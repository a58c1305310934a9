"""Every kind of model: plan order, gradient, training, proximal term, evaluation blocks, prediction, end to end.

Second opinions: `reference.networks`, which writes down no derivative, and scikit-learn where it has the model.
"""

import csv
import dataclasses
import io
import json
import re

import numpy as np
import pytest
from fedveil_cli import demo_split, simulating
from fedveil_cli.model_files import prediction_table
from fedveil_cli.output import Output
from fedveil_cli.world import SystemClock
from fedveil_common import evaluation, initial, jcs, layout, modelfile, prediction, standardisation, transcript
from fedveil_common.decode import Readings
from fedveil_common.messages import Purpose
from fedveil_common.plan import (
    CategoryTarget,
    ModelKind,
    Plan,
    PlanError,
    canonical,
    check_release,
    parameters,
    parse_canonical,
    parse_plan,
    plan_hash,
)
from fedveil_common.plan.parameters import Layer
from fedveil_participant.data.csv_source import read_source
from fedveil_participant.data.prepare import Rows, prepare
from fedveil_participant.training.descent import GradientDescent
from fedveil_participant.training.gradient import gradient
from fedveil_participant.update import contribution
from sklearn.linear_model import LogisticRegression
from sklearn.neural_network import MLPClassifier

from tests.reference import networks

KEY = bytes(32)
TARGETS = {
    "binary": "{column: y, type: binary}",
    "category": "{column: y, type: category, values: [red, green, blue]}",
    "float": "{column: y, type: float, range: [-10, 30]}",
}
MODELS = {
    ("logistic", "binary"): "kind: logistic",
    ("linear", "float"): "kind: linear",
    ("softmax", "category"): "kind: softmax",
    ("mlp", "binary"): "kind: mlp, hidden: [5, 4]",
    ("mlp", "category"): "kind: mlp, hidden: [5]",
    ("mlp", "float"): "kind: mlp, hidden: [4, 3]",
}
EVERY = pytest.mark.parametrize(("kind", "target"), MODELS)


def text(kind: str, target: str, l2: float = 0.01, **training: float) -> str:
    fields = {"rounds": 1, "local_epochs": 1, "batch_size": 1000, "learning_rate": 0.5, "seed": 7, **training}
    return f"""\
version: 1
name: p
kind: train
data:
  dataset: d
  features:
    a: {{type: float, range: [-3, 3]}}
    b: {{type: float, range: [-3, 3]}}
    c: {{type: category, values: [x, z]}}
  target: {TARGETS[target]}
  min_rows: 3
  standardise: none
model: {{{MODELS[kind, target]}, l2: {l2}}}
training: {{{", ".join(f"{k}: {v}" for k, v in fields.items())}, weight_cap: 100}}
evaluation: {{holdout: 0.2}}
cohort: {{min_participants: 3}}
protection: {{kind: masked, update_norm: 5}}
privacy: none
"""


def plan_for(kind: str, target: str, l2: float = 0.01, **training: float) -> Plan:
    return parse_plan(text(kind, target, l2, **training).encode(), "p")


def wide(plan: Plan) -> Plan:
    """The plan with one hidden layer of 16 units, if it has hidden layers: enough to learn something from few rows."""
    if not plan.model.hidden:
        return plan
    return parse_plan(re.sub(rb'"hidden":[^]]*]', b'"hidden":[16]', _without_first(plan)), "p")


def _without_first(plan: Plan) -> bytes:
    return re.sub(rb'"initial":"[0-9a-f]*",', b"", canonical(plan))


def rows(target: str, count: int = 40) -> Rows:
    draw = np.random.default_rng(5)
    inputs = draw.normal(size=(count, 3))
    linear = inputs @ np.array([1.0, -2.0, 0.5]) + 0.3 * inputs[:, 0] * inputs[:, 1]
    match target:
        case "binary":
            truth = (linear > 0.2).astype(np.float64)
        case "category":
            truth = np.digitize(linear, [-0.7, 0.7]).astype(np.float64)
        case _:
            truth = 0.1 * linear
    return Rows(inputs, truth)


def as_rows(data: Rows) -> list[networks.Row]:
    return [(list(one), float(truth)) for one, truth in zip(data.inputs, data.target, strict=True)]


def sizes(plan: Plan) -> list[int]:
    chain = parameters.layers(plan.model, plan.data)
    return [chain[0].inputs, *(layer.outputs for layer in chain)]


def somewhere(plan: Plan, seed: int = 3) -> np.ndarray:  # type: ignore[type-arg]
    return np.random.default_rng(seed).normal(0, 0.7, layout.parameter_count(plan))


# --- plans ------------------------------------------------------------------------------------------------------------


def test_old_plans_keep_their_hashes() -> None:
    """Recorded before models, strategies and later fields were added: a field that is not set is in no hash."""
    import federation
    import test_plan

    demo = canonical(parse_plan(demo_split.plan_text(), "demo_plan.yaml"))
    assert plan_hash(demo).hex() == "103071e7e7051b25b7473ba2c86177453fa033dcde3a414e3bf17f5f9272aca4"
    annotated = canonical(test_plan.plan_of())
    assert plan_hash(annotated).hex() == "77d79370dd1f72f6ca3e308d7868521a54319cb7da9d8f3b19dcca7c07d7ebd9"
    assert (
        plan_hash(federation.plan_bytes()).hex() == "d87f8ac74b580545c3d3abc991ca209d3f72055fe06f6b266f9fb6f1d72cb696"
    )


@EVERY
def test_every_model_survives_the_canonical_form(kind: str, target: str) -> None:
    plan = plan_for(kind, target)
    check_release(plan)
    assert parse_canonical(canonical(plan)) == plan
    assert ("hidden" in json.loads(canonical(plan))["model"]) == (kind == "mlp")
    metrics = {"binary": ("loss", "accuracy", "auc"), "category": ("loss", "accuracy"), "float": ("loss",)}
    assert tuple(metric.value for metric in plan.evaluation.metrics) == metrics[target]


@pytest.mark.parametrize(
    ("kind", "target", "old", "new", "code"),
    [
        ("softmax", "category", "kind: softmax", "kind: logistic", "target_type"),
        ("softmax", "category", TARGETS["category"], TARGETS["binary"], "target_type"),
        ("softmax", "category", "kind: softmax", "kind: softmax, hidden: [3]", "unknown_field"),
        ("softmax", "category", "[red, green, blue]", "[red]", "range"),
        ("softmax", "category", "[red, green, blue]", "[red, red]", "value_twice"),
        ("softmax", "category", "holdout: 0.2", "holdout: 0.2, metrics: [loss, auc]", "choice"),
        ("mlp", "float", "[4, 3]", "[]", "range"),
        ("mlp", "float", "[4, 3]", "[4, 0]", "range"),
        ("mlp", "float", "[4, 3]", "[4, true]", "range"),
        ("mlp", "float", "[4, 3]", "[1.5]", "range"),
        ("mlp", "float", "[4, 3]", "[100000, 1000]", "range"),
        ("mlp", "float", ", hidden: [4, 3]", "", "missing"),
        ("mlp", "float", "rounds: 1", "rounds: 1, proximal_mu: -1", "range"),
    ],
)
def test_what_a_model_section_may_not_say(kind: str, target: str, old: str, new: str, code: str) -> None:
    good = text(kind, target)
    parse_plan(good.encode(), "p")
    assert old in good
    with pytest.raises(PlanError) as caught:
        parse_plan(good.replace(old, new, 1).encode(), "p")
    assert code in {problem.code for problem in caught.value.problems}


# --- plan order and the first model -----------------------------------------------------------------------------------


def test_the_first_model_draws_weights_in_plan_order_and_leaves_biases_at_zero() -> None:
    chain = (Layer(3, 5), Layer(5, 2))
    model = initial.draw(7, chain)
    stream = initial.draw(7, (Layer(25, 1),))[:-1]  # the 25 weights of both layers, from one stream
    assert (model[:15] == stream[:15]).all()
    assert (model[15:20] == 0).all()
    assert (model[20:30] == stream[15:]).all()
    assert (model[30:] == 0).all()
    large = initial.draw(1, (Layer(200, 200), Layer(200, 3)))
    assert large[: 200 * 200].std() == pytest.approx(0.01, rel=0.02)


@EVERY
def test_the_canonical_plan_names_the_first_model(kind: str, target: str) -> None:
    plan = plan_for(kind, target)
    first = initial.initial_model(plan)
    assert len(first) == layout.parameter_count(plan)
    assert transcript.model_hash(first.tobytes()).hex() == plan.model.initial
    members = json.loads(canonical(plan))
    members["model"]["initial"] = "0" * 64
    with pytest.raises(Exception, match="bad_plan"):
        parse_canonical(jcs.dumps(members))


@EVERY
def test_the_model_file_names_each_block_and_carries_the_model(kind: str, target: str) -> None:
    plan = plan_for(kind, target)
    model = somewhere(plan).astype(np.float32)
    blocks = modelfile.tensors(plan)
    shapes = {
        ("logistic", "binary"): {"weight": (3,), "bias": (1,)},
        ("linear", "float"): {"weight": (3,), "bias": (1,)},
        ("softmax", "category"): {"weight": (3, 3), "bias": (3,)},
        ("mlp", "category"): {
            "layer1.weight": (5, 3),
            "layer1.bias": (5,),
            "layer2.weight": (3, 5),
            "layer2.bias": (3,),
        },
    }
    assert {one.name: one.shape for one in blocks} == shapes.get(
        (kind, target), {one.name: one.shape for one in blocks}
    )
    assert sum(int(np.prod(one.shape)) for one in blocks) == len(model)
    file = modelfile.ModelFile(plan, model, standardisation.without_sum(plan), "{}", (), "", "")
    data = modelfile.write_model(file)
    assert (modelfile.read_model(data).model == model).all()
    from safetensors.numpy import load

    loaded = load(data)
    start = 0
    for one in blocks:
        part = model[start : start + int(np.prod(one.shape))]
        assert (loaded[one.name].ravel() == part).all()
        start += len(part)


# --- training ---------------------------------------------------------------------------------------------------------


@EVERY
def test_the_gradient_is_the_measured_slope(kind: str, target: str) -> None:
    plan, data = plan_for(kind, target, 0.05), rows(target)
    flat, chain = somewhere(plan), parameters.layers(plan.model, plan.data)
    found = gradient(plan, chain, flat, data.inputs, data.target)
    measured = networks.slope(target, sizes(plan), list(flat), as_rows(data), 0.05, 0.0, list(flat))
    assert found == pytest.approx(np.array(measured), abs=1e-7)
    assert np.abs(found).max() > 1e-2  # there was something to compare


@EVERY
@pytest.mark.parametrize("mu", [0.0, 0.7])
def test_training_is_what_the_reference_descends_to(kind: str, target: str, mu: float) -> None:
    """Three steps over all rows; with mu the proximal term is in the objective, for biases too."""
    plan, data = plan_for(kind, target, 0.05, local_epochs=3, proximal_mu=mu), rows(target)
    model = somewhere(plan).astype(np.float32)
    received = [float(value) for value in model]
    update = GradientDescent().update(plan, model, data)
    expected = networks.descend(target, sizes(plan), received, as_rows(data), 0.05, mu, 0.5, 3)
    assert update == pytest.approx(np.array(expected) - received, abs=1e-6)
    assert update.dtype == np.float64


@pytest.mark.parametrize(("kind", "target"), [("logistic", "binary"), ("mlp", "category")])
def test_the_proximal_term_keeps_the_local_model_near(kind: str, target: str) -> None:
    data, far = rows(target), []
    for mu in (0.0, 0.5, 5.0):
        plan = plan_for(kind, target, local_epochs=200, batch_size=8, learning_rate=0.05, proximal_mu=mu)
        far.append(float(np.linalg.norm(GradientDescent().update(plan, somewhere(plan).astype(np.float32), data))))
    assert far[0] > 1.5 * far[1] > 1.5 * far[2] > 0


def test_softmax_converges_to_scikit_learns_solution() -> None:
    l2 = 0.05
    plan, data = plan_for("softmax", "category", l2, local_epochs=6000), rows("category", 150)
    first = initial.initial_model(plan)
    model = first.astype(np.float64) + GradientDescent().update(plan, first, data)
    oracle = LogisticRegression(C=1 / (l2 * len(data)), tol=1e-10, max_iter=10_000).fit(data.inputs, data.target)
    assert model[:9].reshape(3, 3) == pytest.approx(oracle.coef_, abs=1e-5)
    # a constant added to every bias changes no probability: compare differences
    assert model[9:] - model[9] == pytest.approx(oracle.intercept_ - oracle.intercept_[0], abs=1e-4)


def test_an_mlp_scores_as_scikit_learns_with_the_same_parameters() -> None:
    plan, data = plan_for("mlp", "category"), rows("category")
    oracle = MLPClassifier(hidden_layer_sizes=(5,), max_iter=1, solver="sgd", random_state=0)
    with pytest.warns(Warning, match="iteration"):
        oracle.fit(data.inputs, data.target)
    parts = zip(oracle.coefs_, oracle.intercepts_, strict=True)
    flat = np.concatenate([np.concatenate([weights.T.ravel(), biases]) for weights, biases in parts])
    assert prediction.scores(plan, flat, data.inputs) == pytest.approx(oracle.predict_proba(data.inputs), abs=1e-9)


def test_an_mlp_learns_what_no_linear_model_can() -> None:
    draw = np.random.default_rng(1)
    inputs = draw.uniform(-1, 1, size=(300, 3))
    data = Rows(inputs, (inputs[:, 0] * inputs[:, 1] > 0).astype(np.float64))
    fit = {"local_epochs": 200, "batch_size": 10, "learning_rate": 0.3}
    found = {}
    for kind in ("logistic", "mlp"):
        plan = wide(plan_for(kind, "binary", 0.0, **fit))
        first = initial.initial_model(plan)
        model = first + GradientDescent().update(plan, first, data)
        found[kind] = float(prediction.right(plan, prediction.scores(plan, model, inputs), data.target).mean())
    assert found["mlp"] > 0.9 > 0.7 > found["logistic"]


@EVERY
def test_a_second_call_gives_the_same_bits_and_no_rows_give_nothing(kind: str, target: str) -> None:
    plan, data = plan_for(kind, target, batch_size=8, local_epochs=3, proximal_mu=0.1), rows(target)
    model = initial.initial_model(plan)
    first = GradientDescent().update(plan, model, data)
    assert (GradientDescent().update(plan, model.copy(), data) == first).all()
    assert (GradientDescent().update(plan, model, Rows(np.empty((0, 3)), np.empty(0))) == 0).all()


# --- evaluation and prediction ----------------------------------------------------------------------------------------


def table(target: str, start: int, count: int) -> bytes:
    data = rows(target, 200)
    names = ["red", "green", "blue"]
    lines = ["a,b,c,y"]
    for row in range(start, start + count):
        a, b, c = np.clip(data.inputs[row], -3, 3)
        truth = data.target[row]
        shown = (
            names[int(truth)]
            if target == "category"
            else f"{10 + 20 * truth:.4f}"
            if target == "float"
            else f"{truth:.0f}"
        )
        lines.append(f"{a:.4f},{b:.4f},{'z' if c > 0 else 'x'},{shown}")
    return ("\n".join(lines) + "\n").encode()


@EVERY
def test_evaluation_blocks_say_what_direct_counting_says(kind: str, target: str) -> None:
    plan = plan_for(kind, target)
    source = read_source(io.BytesIO(table(target, 0, 120)), "t.csv", plan, KEY)
    scaling = standardisation.without_sum(plan)
    model = somewhere(plan).astype(np.float32)
    blocks = contribution(plan, Purpose.EVALUATE, 0, source, model, scaling)
    shape = layout.layout_for(plan, Purpose.EVALUATE, 0)
    assert [len(block) for block in blocks] == [block.length for block in shape.blocks]
    names = [block.name for block in shape.blocks]
    bins = ["neg", "pos"] if target == "binary" else []
    assert names == ["holdout", *([] if target == "float" else ["correct"]), *bins, "loss"]
    measured = evaluation.metrics(plan, {n: Readings(b, 1.0) for n, b in zip(names, blocks, strict=True)})
    out = prepare(plan, source, scaling).held_out
    raw = [networks.outputs(sizes(plan), [float(v) for v in model], inputs) for inputs, _ in as_rows(out)]
    factor = 2 if target == "float" else 1  # measured: the squared error; trained on: half of it
    losses = [factor * networks.loss(target, one, truth) for one, truth in zip(raw, out.target, strict=True)]
    assert measured.loss == pytest.approx(np.mean(np.minimum(losses, 16.0)))
    if target == "category":
        assert measured.accuracy == np.mean(
            [int(np.argmax(one)) == truth for one, truth in zip(raw, out.target, strict=True)]
        )
    if target == "binary":
        assert measured.accuracy == np.mean(
            [(one[0] >= 0) == truth for one, truth in zip(raw, out.target, strict=True)]
        )
    assert (measured.auc is not None) == (target == "binary")


def test_an_unknown_class_is_a_mistake_in_the_data() -> None:
    plan = plan_for("softmax", "category")
    read_source(io.BytesIO(table("category", 0, 20)), "t.csv", plan, KEY)
    with pytest.raises(Exception, match="bad_data"):
        read_source(io.BytesIO(table("category", 0, 20).replace(b"red", b"pink")), "t.csv", plan, KEY)


def test_predictions_of_a_category_name_the_class_and_every_probability() -> None:
    plan = plan_for("softmax", "category")
    quoted = dataclasses.replace(
        plan, data=dataclasses.replace(plan.data, target=CategoryTarget("y", ("red", 'gr"een', "b,lue")))
    )
    values = np.array([[0.2, 0.5, 0.3], [np.nan] * 3, [0.4, 0.4, 0.2]])
    lines = list(csv.reader(io.StringIO(prediction_table(quoted, values).decode())))
    assert lines[0] == ["row", "prediction", "probability:red", 'probability:gr"een', "probability:b,lue"]
    assert lines[1:] == [["1", 'gr"een', "0.2", "0.5", "0.3"], ["2", "", "", "", ""], ["3", "red", "0.4", "0.4", "0.2"]]
    other = plan_for("mlp", "binary")
    assert prediction_table(other, np.array([0.25, np.nan])) == b"row,prediction\n1,0.25\n2,\n"


def test_class_probabilities_do_not_overflow() -> None:
    plan = plan_for("softmax", "category")
    with np.errstate(all="raise", under="ignore"):
        scored = prediction.scores_of(plan, np.array([[1e300, -1e300, 0.0], [-800.0, 800.0, 0.0]]))
    assert scored == pytest.approx(np.array([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]]))


# --- end to end -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "target"), [("softmax", "category"), ("mlp", "binary"), ("mlp", "float"), ("mlp", "category")]
)
def test_a_simulated_federation_trains_it(kind: str, target: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Real machines, masks and checks in memory; every participant re-derives the model and stores it."""
    plan = wide(
        plan_for(
            kind,
            target,
            0.0,
            rounds=6,
            local_epochs=30,
            batch_size=8,
            learning_rate=0.05 if target == "float" else 0.2,
            proximal_mu=0.01,
        )
    )
    tables = {name: table(target, 40 * index, 40) for index, name in enumerate(("acme", "borealis", "cygnus"))}
    played = simulating.play_in_memory(plan, canonical(plan), tables, 5, SystemClock())
    assert played.code == "finished"
    losses = [one["loss"] for one in played.rounds]
    assert losses[-1] < 0.7 * losses[0]
    sources = {name: read_source(io.BytesIO(data), name, plan, KEY) for name, data in tables.items()}
    simulating.show(plan, sources, None, played, Output(True))
    shown = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert (shown["accuracy"]["federated"] is None) == (target == "float")
    assert shown["log_loss"]["federated"] == pytest.approx(losses[-1], rel=0.05, abs=0.01)
    assert plan.model.kind is ModelKind(kind)
