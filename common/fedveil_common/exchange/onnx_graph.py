"""A model as ONNX: raw columns in, what `predict` says out, everything between inside the graph.

Promise: one input per column of the plan, in plan order and under its name: float64 [N, 1] for numbers, where NaN is a
missing value, text [N, 1] for categories. Missing values, clamping, one-hot and standardisation are the plan's, in
float64; weights are the signed float32 values, made float64 by the graph. A graph cannot refuse a table, so a row that
`predict` would refuse, or would leave empty, is NaN here (label -1, or the empty text): an unknown category, a missing
value without a rule, a number outside of the range of a column without `clamp`, an infinity. Texts are compared as they
are: give them without surrounding blanks and in Unicode normal form C. Operators: ONNX 18, ai.onnx.ml 3.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedveil_common import design, prediction
from fedveil_common.exchange import formats, layers
from fedveil_common.exchange.format_names import Format
from fedveil_common.modelfile import ModelFile
from fedveil_common.plan import (
    BinaryTarget,
    CategoryFeature,
    CategoryTarget,
    FloatFeature,
    FloatTarget,
    Missing,
    Plan,
    Standardise,
)
from fedveil_common.plan.section import MISSING_MARKS

OPSET, ML_OPSET, IR_VERSION = 18, 3, 8
"""Of 2022, so that runtimes of today and of some years ago read it."""

ML = "ai.onnx.ml"


@dataclass
class _Graph:
    """Nodes and constants in the making; `onnx` is the library. Names in it begin as no column of the plan does."""

    onnx: Any
    prefix: str
    nodes: list[Any] = field(default_factory=list)
    constants: dict[str, Any] = field(default_factory=dict)
    _made: int = 0

    def name(self) -> str:
        self._made += 1
        return f"{self.prefix}{self._made}"

    def node(self, kind: str, *inputs: str, out: str = "", domain: str = "", **attributes: Any) -> str:
        """The name of what an operator makes of `inputs`."""
        made = out or self.name()
        self.nodes.append(self.onnx.helper.make_node(kind, list(inputs), [made], domain=domain, **attributes))
        return made

    def constant(self, value: NDArray[Any], name: str = "") -> str:
        made = name or self.name()
        self.constants[made] = self.onnx.numpy_helper.from_array(np.ascontiguousarray(value), made)
        return made

    def texts(self, values: Sequence[str]) -> str:
        made = self.name()
        kind = self.onnx.TensorProto.STRING
        encoded = [value.encode() for value in values]
        self.constants[made] = self.onnx.helper.make_tensor(made, kind, [len(values)], encoded)
        return made


def to_onnx(file: ModelFile, stamp: Mapping[str, str]) -> bytes:
    """The ONNX file for a verified model: a function of its arguments alone. `stamp`: its metadata (`formats.stamp`).

    ConfigError `format_cannot_say`, `extra_missing`.
    """
    formats.check_says(file.plan, Format.ONNX)
    onnx = formats.library("onnx", "ONNX")
    taken = [feature.name for feature in file.plan.data.features]
    graph = _Graph(onnx, _free("fedveil/", lambda prefix: not any(name.startswith(prefix) for name in taken)))
    inside = _matrix(graph, file.plan, file)
    scaled = _standardised(graph, inside, file)
    outputs = _outputs(graph, file.plan, _layers(graph, scaled, file), _bad_rows(graph, scaled, file))
    made = onnx.helper.make_graph(
        graph.nodes, file.plan.name, _inputs(onnx, file.plan), outputs, list(graph.constants.values())
    )
    opsets = [onnx.helper.make_opsetid("", OPSET), onnx.helper.make_opsetid(ML, ML_OPSET)]
    model = onnx.helper.make_model(made, opset_imports=opsets, producer_name="fedveil", ir_version=IR_VERSION)
    onnx.helper.set_model_props(model, dict(stamp))
    data: bytes = model.SerializeToString(deterministic=True)
    return data


def output_names(plan: Plan) -> tuple[str, ...]:
    """What the graph puts out, in order: probability and label, probabilities and label, or value; `_` is put behind a
    name that is also a column's.
    """
    taken = {feature.name for feature in plan.data.features}
    names: tuple[str, ...]
    match plan.data.target:
        case BinaryTarget():
            names = ("probability", "label")
        case CategoryTarget():
            names = ("probabilities", "label")
        case FloatTarget():
            names = ("value",)
    return tuple(_free(name, lambda one: one not in taken, "_") for name in names)


def _free(name: str, is_free: Callable[[str], bool], more: str = "/") -> str:
    while not is_free(name):
        name += more
    return name


def _inputs(onnx: Any, plan: Plan) -> list[Any]:
    kinds = {True: onnx.TensorProto.DOUBLE, False: onnx.TensorProto.STRING}
    return [
        onnx.helper.make_tensor_value_info(feature.name, kinds[isinstance(feature, FloatFeature)], ["N", 1])
        for feature in plan.data.features
    ]


def _matrix(graph: _Graph, plan: Plan, file: ModelFile) -> str:
    """[N, inputs] in natural units, in plan order; NaN where a row cannot be used."""
    parts: list[str] = []
    number = 0
    for feature in plan.data.features:
        match feature:
            case FloatFeature():
                federated = plan.data.standardise is Standardise.FEDERATED
                middle = design.middle(feature, float(file.standardisation.mean[number]), federated)
                parts.append(_number(graph, feature, middle))
                number += 1
            case CategoryFeature():
                parts.append(_category(graph, feature))
    return parts[0] if len(parts) == 1 else graph.node("Concat", *parts, axis=1)


def _number(graph: _Graph, feature: FloatFeature, middle: float) -> str:
    given = feature.name
    nan, lo, hi = (graph.constant(np.array([value])) for value in (np.nan, feature.lo, feature.hi))
    if feature.clamp:
        raised = graph.node("Where", graph.node("Less", given, lo), lo, given)
        inside = graph.node("Where", graph.node("Greater", given, hi), hi, raised)
        usable = graph.node("Where", graph.node("IsInf", given), nan, inside)
    else:
        above, below = graph.node("GreaterOrEqual", given, lo), graph.node("LessOrEqual", given, hi)
        usable = graph.node("Where", graph.node("And", above, below), given, nan)
    match feature.missing:
        case Missing.VALUE:
            fill = feature.fill
        case Missing.MEAN:
            fill = middle
        case _:
            fill = None
    if fill is None:
        return usable
    return graph.node("Where", graph.node("IsNaN", given), graph.constant(np.array([fill])), usable)


def _category(graph: _Graph, feature: CategoryFeature) -> str:
    """One row of a table for each value: the one-hot form without the first, and a row of NaN for all other texts."""
    known = {value: code for code, value in enumerate(feature.values)}
    if feature.missing is Missing.VALUE and feature.fill is not None:
        known |= dict.fromkeys(sorted(MISSING_MARKS), known[feature.fill])
    unknown = len(feature.values)
    table = np.full((unknown + 1, unknown - 1), np.nan)
    table[:unknown] = np.eye(unknown)[:, 1:]
    code = graph.node(
        "LabelEncoder",
        feature.name,
        domain=ML,
        keys_strings=list(known),
        values_int64s=list(known.values()),
        default_int64=unknown,
    )
    return graph.node("Flatten", graph.node("Gather", graph.constant(table), code, axis=0), axis=1)


def _standardised(graph: _Graph, matrix: str, file: ModelFile) -> str:
    columns = layers.columns(file)
    centred = graph.node("Sub", matrix, graph.constant(columns.mean))
    return graph.node("Div", centred, graph.constant(columns.std))


def _layers(graph: _Graph, values: str, file: ModelFile) -> str:
    """The raw outputs. `Relu` of a runtime may make a number of a NaN: `_bad_rows` says which rows count."""
    chain = layers.dense(file)
    for number, layer in enumerate(chain, start=1):
        weights = graph.constant(layer.weights, f"{graph.prefix}layer{number}.weight")
        bias = graph.constant(layer.bias, f"{graph.prefix}layer{number}.bias")
        turned = graph.node("Transpose", _double(graph, weights), perm=[1, 0])
        values = graph.node("Add", graph.node("MatMul", values, turned), _double(graph, bias))
        if number < len(chain):
            values = graph.node("Relu", values)
    return values


def _double(graph: _Graph, name: str) -> str:
    return graph.node("Cast", name, to=graph.onnx.TensorProto.DOUBLE)


def _bad_rows(graph: _Graph, matrix: str, file: ModelFile) -> str:
    """Per row, bool [N, 1]: whether a row has an input that is not there, or one that is larger than sums can hold."""
    axes = graph.constant(np.array([1], dtype=np.int64))
    most = graph.constant(np.array([prediction.largest_input(file.plan, file.model)]))
    unusable = graph.node("Or", graph.node("IsNaN", matrix), graph.node("Greater", graph.node("Abs", matrix), most))
    missing = graph.node("Cast", unusable, to=graph.onnx.TensorProto.DOUBLE)
    count = graph.node("ReduceSum", missing, axes, keepdims=1)
    return graph.node("Greater", count, graph.constant(np.array([0.5])))


def _outputs(graph: _Graph, plan: Plan, raw: str, bad: str) -> list[Any]:
    onnx, names = graph.onnx, output_names(plan)
    nan = graph.constant(np.array([np.nan]))
    double, integer, text = onnx.TensorProto.DOUBLE, onnx.TensorProto.INT64, onnx.TensorProto.STRING

    def declared(name: str, kind: Any, width: int) -> Any:
        return onnx.helper.make_tensor_value_info(name, kind, ["N", width])

    match plan.data.target:
        case BinaryTarget():
            sure = graph.node("Sigmoid", raw)
            half, none = graph.constant(np.array([0.5])), graph.constant(np.array([-1], dtype=np.int64))
            hit = graph.node("Cast", graph.node("GreaterOrEqual", sure, half), to=integer)
            graph.node("Where", bad, nan, sure, out=names[0])
            graph.node("Where", bad, none, hit, out=names[1])
            return [declared(names[0], double, 1), declared(names[1], integer, 1)]
        case CategoryTarget(values=classes):
            spread = graph.node("Softmax", raw, axis=1)
            best = graph.node("ArgMax", spread, axis=1, keepdims=1)
            chosen = graph.node("Where", bad, graph.constant(np.array([len(classes)], dtype=np.int64)), best)
            graph.node("Where", bad, nan, spread, out=names[0])
            graph.node("Gather", graph.texts([*classes, ""]), chosen, axis=0, out=names[1])
            return [declared(names[0], double, len(classes)), declared(names[1], text, 1)]
        case FloatTarget(lo=lo, hi=hi):
            one, half_width, low = (graph.constant(np.array([value])) for value in (1.0, (hi - lo) / 2.0, lo))
            natural = graph.node("Add", graph.node("Mul", graph.node("Add", raw, one), half_width), low)
            graph.node("Where", bad, nan, natural, out=names[0])
            return [declared(names[0], double, 1)]
