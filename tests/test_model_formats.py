"""A model in other formats says what `predict` says: ONNX by onnxruntime, arrays by scikit-learn, names for torch."""

import csv
import dataclasses
import hashlib
import importlib.util
import io
import json
import pathlib
import sys
import unicodedata
from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import safetensors
import safetensors.numpy
from fedveil_common import design, initial, layout, modelfile, network, prediction
from fedveil_common.errors import ConfigError
from fedveil_common.exchange import arrays, formats, layers, onnx_graph
from fedveil_common.exchange.format_names import Format
from fedveil_common.modelfile import ModelFile
from fedveil_common.plan import CategoryTarget, FloatFeature, ModelKind, Plan
from fedveil_common.plan.section import MISSING_MARKS
from fedveil_participant.data.csv_source import read_features
from numpy.typing import NDArray
from onnx.reference import ReferenceEvaluator
from onnx.reference.op_run import OpRun

from tests import model_samples
from tests.model_samples import BUILT_IN, STANDARDISE

EVERY = pytest.mark.parametrize(("kind", "target"), BUILT_IN)
COLUMNS = ("sex", "strict", "label", "größe", "colour", "dropped", "ward")
Row = tuple[str, str, str, str, str, str, str]

GOOD: Sequence[Row] = [
    ("F", "1.5", "3", "-2", "r", "0.5", "a"),
    ("M", "-3", "", "5", "g h", "1", "b"),
    ("M", "3", "0", "?", "ü", "0", "c"),
    ("F", "0", "10", "99", "NA", "-4", "d"),  # clamped, filled
    ("F", "-0.0", "NA", "-7.5", "?", "1e300", "a"),
    ("M", "2.999999999", "5", "1e-300", "", "0.25", "b"),
    ("F", "1", "5", "1", "r", "?", "a"),  # dropped in training: no prediction
    ("M", "1", "5", "1", "r", "0.5", ""),
]
"""What `predict` takes, by columns: every rule that fills, clamps or leaves a row without a prediction."""

REFUSED: Sequence[Row] = [
    ("F", "", "3", "-2", "r", "0.5", "a"),  # no rule for a missing number
    ("F", "3.0000001", "3", "-2", "r", "0.5", "a"),  # out of range
    ("F", "1", "-0.1", "-2", "r", "0.5", "a"),
    ("F", "1", "1", "1", "purple", "0.5", "a"),  # unknown
    ("f", "1", "1", "1", "r", "0.5", "a"),
    ("", "1", "1", "1", "r", "0.5", "a"),  # no rule for a missing category
    ("F", "inf", "1", "1", "r", "0.5", "a"),
    ("F", "1", "1", "-inf", "r", "0.5", "a"),  # no number, clamped or not
    ("F", "1", "1", "1", "r", "inf", "a"),
    ("F", "1", "1", "1", "r", "0.5", "e"),
]


def table_of(rows: Sequence[Row]) -> bytes:
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerows([COLUMNS, *rows])
    return text.getvalue().encode()


def predicted(file: ModelFile, rows: Sequence[Row]) -> NDArray[np.float64]:
    table = read_features(io.BytesIO(table_of(rows)), "rows.csv", file.plan)
    return prediction.predict(file.plan, file.model, file.standardisation, table)


def fed(plan: Plan, rows: Sequence[Row]) -> dict[str, NDArray[Any]]:
    """The rows as an ONNX program gets them: NaN for a missing number, text as it stands."""
    values: dict[str, NDArray[Any]] = {}
    for feature in plan.data.features:
        cells = [row[COLUMNS.index(feature.name)] for row in rows]
        if isinstance(feature, FloatFeature):
            numbers = [float("nan") if cell in MISSING_MARKS else float(cell) for cell in cells]
            values[feature.name] = np.array(numbers, dtype=np.float64)[:, np.newaxis]
        else:
            values[feature.name] = np.array(cells, dtype=object)[:, np.newaxis]
    return values


def stamped(file: ModelFile) -> dict[str, str]:
    return formats.stamp(file, modelfile.write_model(file))


def session(file: ModelFile) -> onnxruntime.InferenceSession:
    data = onnx_graph.to_onnx(file, stamped(file))
    onnx.checker.check_model(onnx.load_model_from_string(data), full_check=True)
    return onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"])


@EVERY
@pytest.mark.parametrize("standardise", STANDARDISE)
def test_onnx_says_what_predict_says(kind: str, target: str, standardise: str) -> None:
    file = model_samples.signed(model_samples.plan_for(kind, target, standardise))
    runner = session(file)
    assert [one.name for one in runner.get_inputs()] == list(COLUMNS)
    assert tuple(one.name for one in runner.get_outputs()) == onnx_graph.output_names(file.plan)
    first, *labels = runner.run(None, fed(file.plan, GOOD))
    expected = predicted(file, GOOD)
    assert first.dtype == np.float64
    assert np.isnan(expected).reshape(len(GOOD), -1).any(axis=1).tolist() == [False] * 6 + [True] * 2
    np.testing.assert_allclose(first.reshape(expected.shape), expected, rtol=0, atol=1e-12)
    if isinstance(file.plan.data.target, CategoryTarget):
        best = [file.plan.data.target.values[int(one.argmax())] for one in expected[:6]]
        assert labels[0].ravel().tolist() == [*best, "", ""]
    elif target == "binary":
        assert labels[0].ravel().tolist() == [*(expected[:6] >= 0.5).astype(int), -1, -1]
    else:
        assert labels == []


@EVERY
def test_a_row_that_predict_refuses_is_nan_in_onnx_and_spoils_no_other(kind: str, target: str) -> None:
    file = model_samples.signed(model_samples.plan_for(kind, target, "federated"))
    runner = session(file)
    for row in REFUSED:
        with pytest.raises(Exception, match="bad_data"):
            predicted(file, [row])
    mixed = [GOOD[0], *REFUSED, GOOD[1]]
    first, *labels = runner.run(None, fed(file.plan, mixed))
    rows = first.reshape(len(mixed), -1)
    assert np.isnan(rows[1:-1]).all()
    np.testing.assert_allclose(rows[[0, -1]], predicted(file, GOOD[:2]).reshape(2, -1), rtol=0, atol=1e-12)
    if labels:
        assert set(labels[0].ravel().tolist()[1:-1]) <= {"", -1}
        assert not {"", -1} & set(labels[0].ravel().tolist()[:1])


class ForgetfulRelu(OpRun):  # type: ignore[misc]
    """A runtime's own max(0, z), which makes 0 of a NaN, as the C function fmax does."""

    op_domain = ""

    def _run(self, values: NDArray[np.float64]) -> tuple[NDArray[np.float64]]:
        return (np.fmax(values, 0.0),)


ForgetfulRelu.__name__ = "Relu"


@pytest.mark.parametrize(("kind", "target"), [one for one in BUILT_IN if one[0] == "mlp"])
def test_no_runtime_makes_a_number_of_a_row_that_cannot_be_used(kind: str, target: str) -> None:
    file = model_samples.signed(model_samples.plan_for(kind, target, "federated"))
    model = onnx.load_model_from_string(onnx_graph.to_onnx(file, {}))
    mixed = [GOOD[0], *REFUSED, GOOD[1]]
    for ops in ([], [ForgetfulRelu]):
        first, *labels = ReferenceEvaluator(model, new_ops=ops).run(None, fed(file.plan, mixed))
        rows = first.reshape(len(mixed), -1)
        assert np.isnan(rows[1:-1]).all()
        np.testing.assert_allclose(rows[[0, -1]], predicted(file, GOOD[:2]).reshape(2, -1), rtol=0, atol=1e-12)
        assert all(set(one.ravel().tolist()[1:-1]) <= {"", -1} for one in labels)


def test_onnx_of_values_that_overflow_an_exponential_stays_a_probability() -> None:
    for kind, target in (("logistic", "binary"), ("softmax", "category")):
        file = model_samples.signed(model_samples.plan_for(kind, target, "none"))
        file = dataclasses.replace(file, model=(file.model * 1e4).astype(np.float32))
        first = session(file).run(None, fed(file.plan, GOOD))[0]
        expected = predicted(file, GOOD)
        np.testing.assert_allclose(first.reshape(expected.shape), expected, rtol=0, atol=1e-12)
        assert {0.0, 1.0} & set(expected[:6].ravel().tolist())


HUGE = ("M", "-3", "10", "5", "ü", "1", "d")
HUGE_FEATURES = {**model_samples.FEATURES, "strict": "{type: float, range: [-1.0e+300, 1.0e+300]}"}


@EVERY
@pytest.mark.parametrize("size", [1e30, 3e38])
def test_weights_near_the_end_of_float32_give_one_answer_or_none(kind: str, target: str, size: float) -> None:
    """Where sums may pass what float64 holds, infinities of both signs meet or not by the order in which a program
    adds: `predict` said NaN where ONNX said infinity. Such a row has no prediction in either, and others are the same.
    """
    plan = model_samples.plan_for(kind, target, "none", HUGE_FEATURES)
    file = model_samples.signed(plan)
    signs = np.where(np.arange(len(file.model)) % 2, size, -size).astype(np.float32)
    file = dataclasses.replace(file, model=signs)
    rows = [
        HUGE,
        *(("F", text, "3", "-2", "r", "0.5", "a") for text in ("1e300", "-1e300", "1e270", "1e200", "1", "0")),
    ]
    first, *labels = session(file).run(None, fed(plan, rows))
    expected = predicted(file, rows).reshape(len(rows), -1)
    found = first.reshape(expected.shape)
    assert (np.isnan(found) == np.isnan(expected)).all()
    assert np.isfinite(found[~np.isnan(found)]).all()
    assert np.isnan(expected[1:3]).all(), "1e300 times 1e30 is no number"
    assert not np.isnan(expected[-2:]).any() or size > 1e38
    np.testing.assert_allclose(found, expected, rtol=1e-9, atol=0, equal_nan=True)
    for one in labels:
        assert set(one.ravel().tolist()[1:3]) in ({""}, {-1})


def test_how_large_an_input_may_be_follows_from_the_layers() -> None:
    """By hand: one layer of 2 and -3, bias 5; and what no input can save."""
    plan = linear_plan("linear", "float", {"a": "{type: float, range: [0, 1]}", "b": "{type: float, range: [0, 1]}"})
    model = np.array([2, -3, 5], dtype=np.float32)
    assert network.largest_input(plan, model) == (network.SAFE - 5) / 5
    assert network.largest_input(plan, model, 1e6) == (network.SAFE / 1e6 - 5) / 5
    assert network.largest_input(plan, np.zeros(3, dtype=np.float32)) == network.SAFE
    assert network.largest_input(plan, model, 1e308) == -1.0
    deep = model_samples.plan_for("mlp", "binary", "none", {"a": "{type: float, range: [0, 1]}"})
    layers = layout.parameter_count(deep)
    assert network.largest_input(deep, np.full(layers, 3e38, dtype=np.float32)) > 0


def linear_plan(kind: str, target: str, features: dict[str, str]) -> Plan:
    return model_samples.plan_for(kind, target, "none", features)


WIDE = {
    "a": "{type: float, range: [-8.0e+307, 8.0e+307]}",
    "b": "{type: float, range: [-1.0e-300, 1.0e-300], missing: mean, clamp: true}",
    "c": "{type: float, range: [0, 1.0e+300], missing: mean, clamp: true}",
    "k": "{type: category, values: [x, y]}",
}


@EVERY
@pytest.mark.parametrize("standardise", STANDARDISE)
def test_onnx_of_the_largest_and_the_smallest_numbers(kind: str, target: str, standardise: str) -> None:
    """To 1e-6 of the answer from one end of the doubles to the other; small weights keep the sums within them."""
    plan = model_samples.plan_for(kind, target, standardise, WIDE)
    file = model_samples.signed(plan)
    file = dataclasses.replace(file, model=(file.model * np.float32(1e-3)).astype(np.float32))
    sizes = (0.0, 5e-324, 1e-308, 1e-300, 1.0, 123.456, 1e300, 8e307, 1.7e308)
    numbers = [sign * size for size in sizes for sign in (1.0, -1.0)]
    rows = [(numbers[at], numbers[-1 - at], numbers[at + 1], "xy"[at % 2]) for at in range(len(numbers) - 2)]
    text = "a,b,c,k\n" + "".join(f"{a!r},{b!r},{c!r},{k}\n" for a, b, c, k in rows)
    table = read_features(io.BytesIO(text.encode()), "rows.csv", plan)
    expected = prediction.predict(plan, file.model, file.standardisation, table)
    feeds: dict[str, NDArray[Any]] = {name: np.array([[row[at]] for row in rows]) for at, name in enumerate("abc")}
    feeds["k"] = np.array([[row[3]] for row in rows], dtype=object)
    first = session(file).run(None, feeds)[0].reshape(expected.shape)
    assert np.isfinite(expected).all()
    np.testing.assert_allclose(first, expected, rtol=1e-6, atol=1e-6)


def test_onnx_of_one_column_and_of_categories_alone() -> None:
    for kept in (("strict",), ("ward",), ("ward", "sex")):
        features = {name: model_samples.FEATURES[name] for name in kept}
        plan = model_samples.plan_for("logistic", "binary", "range", features)
        file = model_samples.signed(plan)
        expected = predicted(file, GOOD[:6])
        first = session(file).run(None, fed(plan, GOOD[:6]))[0]
        np.testing.assert_allclose(first.ravel(), expected, rtol=0, atol=1e-12)


def test_onnx_carries_the_signed_manifest_and_says_that_again() -> None:
    file = model_samples.signed(model_samples.plan_for("mlp", "category"))
    data = modelfile.write_model(file)
    made = onnx_graph.to_onnx(file, formats.stamp(file, data))
    assert made == onnx_graph.to_onnx(file, formats.stamp(file, data))
    found = {one.key: one.value for one in onnx.load_model_from_string(made).metadata_props}
    assert found == {
        "fedveil.manifest": file.signatures[0].body.decode(),
        "fedveil.signature_sha256": hashlib.sha256(file.signatures[0].sig).hexdigest(),
        "fedveil.file_sha256": hashlib.sha256(data).hexdigest(),
    }
    assert modelfile.parse_manifest(found["fedveil.manifest"].encode()) == modelfile.manifest_for(
        file, *[getattr(modelfile.parse_manifest(file.signatures[0].body), name) for name in MANIFEST]
    )
    weights = {one.name: onnx.numpy_helper.to_array(one) for one in onnx.load_model_from_string(made).graph.initializer}
    kept = [weights[name].ravel() for name in ("fedveil/layer1.weight", "fedveil/layer1.bias")]
    assert np.concatenate(kept).tobytes() == file.model[: sum(map(len, kept))].tobytes()


MANIFEST = ("federation_id", "run_id", "round", "roster_version", "transcript")


def test_columns_that_are_called_as_something_in_the_graph() -> None:
    names = ("label", "probability", "fedveil/1", "fedveil/layer1.weight", "fedveil//2", "label_", "7")
    rules = model_samples.FEATURES.values()
    renamed = model_samples.plan_for("logistic", "binary", "range", dict(zip(names, rules, strict=True)))
    file = model_samples.signed(renamed)
    runner = session(file)
    assert [one.name for one in runner.get_inputs()] == list(names)
    assert [one.name for one in runner.get_outputs()] == ["probability_", "label__"]
    plain = model_samples.signed(model_samples.plan_for("logistic", "binary", "range"))
    feeds = dict(zip(names, fed(plain.plan, GOOD).values(), strict=True))
    plain = dataclasses.replace(plain, model=file.model)
    np.testing.assert_allclose(runner.run(None, feeds)[0].ravel(), predicted(plain, GOOD), rtol=0, atol=1e-12)


# --- scikit-learn, torch, a table -------------------------------------------------------------------------------------


def design_rows(file: ModelFile) -> NDArray[np.float64]:
    """The unscaled inputs of the good rows that have a prediction."""
    table = read_features(io.BytesIO(table_of(GOOD[:6])), "rows.csv", file.plan)
    scaled = design.inputs(file.plan, file.standardisation, table)
    columns = layers.columns(file)
    return np.asarray(scaled * columns.std + columns.mean, dtype=np.float64)


def example(folder: str, name: str) -> Any:
    path = pathlib.Path(__file__).parents[1] / "examples" / folder / name
    spec = importlib.util.spec_from_file_location(f"{folder}_example", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@EVERY
@pytest.mark.parametrize("standardise", STANDARDISE)
def test_scikit_learn_says_what_predict_says(kind: str, target: str, standardise: str, tmp_path: pathlib.Path) -> None:
    file = model_samples.signed(model_samples.plan_for(kind, target, standardise))
    path = tmp_path / "model.npz"
    path.write_bytes(arrays.to_sklearn(file, stamped(file)))
    pipeline = example("sklearn_model", "estimator.py").load(path)
    expected = predicted(file, GOOD[:6])
    inputs = design_rows(file)
    if target == "float":
        np.testing.assert_allclose(pipeline.predict(inputs), expected, rtol=0, atol=1e-9)
    else:
        given = pipeline.predict_proba(inputs)
        np.testing.assert_allclose(given[:, 1] if target == "binary" else given, expected, rtol=0, atol=1e-9)
    if isinstance(file.plan.data.target, CategoryTarget):
        best = [file.plan.data.target.values[int(one.argmax())] for one in expected]
        assert pipeline.predict(inputs).tolist() == best


def test_the_npz_needs_no_pickle_and_is_the_same_every_time() -> None:
    file = model_samples.signed(model_samples.plan_for("mlp", "category"))
    data = arrays.to_sklearn(file, stamped(file))
    assert data == arrays.to_sklearn(file, stamped(file))
    with np.load(io.BytesIO(data), allow_pickle=False) as found:
        assert all(found[name].dtype.kind in "fUi" for name in found.files)
        assert found["inputs"].tolist() == list(design.input_names(file.plan))
        assert found["fedveil_manifest"].item() == file.signatures[0].body.decode()
        assert found["coefs_0"].shape == (file.plan.data.inputs, 5)


@EVERY
def test_torch_names_and_shapes_are_those_of_a_state_dict(kind: str, target: str, tmp_path: pathlib.Path) -> None:
    file = model_samples.signed(model_samples.plan_for(kind, target, "federated"))
    data = arrays.to_torch(file, stamped(file))
    tensors = safetensors.numpy.load(data)
    inputs = file.plan.data.inputs
    width = 3 if target == "category" else 1
    sizes = [inputs, *file.plan.model.hidden, width]
    names = [""] if kind != "mlp" else [f"{2 * number}." for number in range(len(sizes) - 1)]
    wanted = {f"{name}weight": (out, into) for name, out, into in zip(names, sizes[1:], sizes, strict=False)}
    wanted |= {f"{name}bias": (out,) for name, out in zip(names, sizes[1:], strict=False)}
    assert {name: tensor.shape for name, tensor in tensors.items()} == wanted
    assert {str(tensor.dtype) for tensor in tensors.values()} == {"float32"}
    path = tmp_path / "m.safetensors"
    path.write_bytes(data)
    with safetensors.safe_open(path, "np") as opened:
        metadata = opened.metadata()
    read, beside = example("torch_model", "network.py").read(path)  # what torch loads, where there is torch
    assert beside == metadata
    assert {one: (tuple(shape), raw) for one, (shape, raw) in read.items()} == {
        one: (tensor.shape, tensor.tobytes()) for one, tensor in tensors.items()
    }
    mean, std = (np.array(json.loads(metadata[name])) for name in ("fedveil.mean", "fedveil.std"))
    assert json.loads(metadata["fedveil.inputs"]) == list(design.input_names(file.plan))
    values = (design_rows(file) - mean) / std
    for name in names:  # what torch would do with them
        values = values @ tensors[f"{name}weight"].T.astype(np.float64) + tensors[f"{name}bias"]
        values = np.maximum(values, 0) if name != names[-1] else values
    expected = network.outputs(file.plan, file.model, (design_rows(file) - mean) / std)
    np.testing.assert_allclose(values, expected, rtol=0, atol=1e-9)


@pytest.mark.parametrize(("kind", "target"), [one for one in BUILT_IN if one[0] != "mlp"])
def test_the_table_of_coefficients_predicts_too(kind: str, target: str) -> None:
    file = model_samples.signed(model_samples.plan_for(kind, target, "federated"))
    rows = list(csv.DictReader(io.StringIO(arrays.to_csv(file).decode())))
    outputs = list(dict.fromkeys(row["output"] for row in rows))
    plain = design_rows(file)
    raw = []
    for output in outputs:
        own = [row for row in rows if row["output"] == output]
        assert [row["kind"] for row in own] == ["intercept"] + ["input"] * file.plan.data.inputs
        assert [row["input"] for row in own[1:]] == list(design.input_names(file.plan))
        numbers = np.array([[float(row[name]) for name in ("coefficient", "mean", "std")] for row in own[1:]])
        raw.append(((plain - numbers[:, 1]) / numbers[:, 2]) @ numbers[:, 0] + float(own[0]["coefficient"]))
    table = read_features(io.BytesIO(table_of(GOOD[:6])), "rows.csv", file.plan)
    expected = network.outputs(file.plan, file.model, design.inputs(file.plan, file.standardisation, table))
    np.testing.assert_allclose(np.array(raw).T, expected, rtol=0, atol=1e-9)
    classes = file.plan.data.target
    assert outputs == (list(classes.values) if isinstance(classes, CategoryTarget) else [""])


# --- what a format cannot say -----------------------------------------------------------------------------------------


def test_what_a_format_cannot_say_is_refused_by_its_name() -> None:
    own = model_samples.signed(model_samples.plan_for("trainer", "binary"))
    mlp = model_samples.signed(model_samples.plan_for("mlp", "binary"))
    assert own.plan.model.kind is ModelKind.TRAINER
    calls = {
        Format.ONNX: lambda: onnx_graph.to_onnx(own, {}),
        Format.SKLEARN: lambda: arrays.to_sklearn(own, {}),
        Format.TORCH: lambda: arrays.to_torch(own, {}),
        Format.CSV: lambda: arrays.to_csv(own),
    }
    for wanted, call in calls.items():
        with pytest.raises(ConfigError, match="risk") as caught:
            call()
        assert caught.value.code == "format_cannot_say"
        assert f"as {wanted.value}" in caught.value.what
        assert caught.value.next_step == "--to one of: safetensors"
    with pytest.raises(ConfigError) as caught:
        arrays.to_csv(mlp)
    assert caught.value.code == "format_cannot_say"
    assert "csv" not in caught.value.next_step
    formats.check_says(own.plan, Format.SAFETENSORS)


def test_a_library_that_is_not_there_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnx", None)
    file = model_samples.signed(model_samples.plan_for("logistic", "binary"))
    with pytest.raises(ConfigError) as caught:
        onnx_graph.to_onnx(file, {})
    assert caught.value.code == "extra_missing"
    assert "fedveil[exchange]" in caught.value.next_step


def test_the_samples_mean_something() -> None:
    """The rows and plans above have what the tests are about."""
    plan = model_samples.plan_for("logistic", "binary", "federated")
    assert [one.name for one in plan.data.features] == list(COLUMNS)
    assert all(unicodedata.is_normalized("NFC", name) for name in COLUMNS)
    assert initial.initial_model(plan).shape == model_samples.unsigned(plan).model.shape
