"""A model as named arrays: for scikit-learn (an .npz) and for PyTorch (a safetensors file), and as a table (CSV).

Promise: arrays of numbers and text, no pickle and no code; equal models give equal bytes. What goes into a model are
the columns of `design.inputs`, which these formats name and cannot make of raw columns: one-hot, missing values and
clamping are the reader's part there (docs/models.md).
"""

import csv
import io
from collections.abc import Mapping

import numpy as np
import safetensors.numpy
from numpy.typing import NDArray

from fedveil_common import jcs
from fedveil_common.exchange import formats, layers
from fedveil_common.exchange.format_names import Format
from fedveil_common.modelfile import ModelFile
from fedveil_common.plan import BinaryTarget, CategoryTarget, FloatTarget, ModelKind

Arrays = dict[str, NDArray[np.float64] | NDArray[np.int64] | NDArray[np.str_]]


def to_sklearn(file: ModelFile, stamp: Mapping[str, str]) -> bytes:
    """An .npz, read with `allow_pickle=False`.

    `inputs` (names), `mean` and `scale` of the inputs; `coef` (outputs, inputs) and `intercept` (outputs,), or for
    an mlp `coefs_0`, `intercepts_0`, ... as `MLPClassifier.coefs_` has them (inputs, outputs); `classes` or, for a
    float target, `target_range` (lo, hi); the stamp's texts under `fedveil_...`. ConfigError `format_cannot_say`.
    """
    formats.check_says(file.plan, Format.SKLEARN)
    columns = layers.columns(file)
    arrays: Arrays = {"inputs": np.array(columns.names), "mean": columns.mean, "scale": columns.std}
    chain = layers.dense(file)
    if file.plan.model.kind is ModelKind.MLP:
        for number, layer in enumerate(chain):
            arrays[f"coefs_{number}"] = layer.weights.T.astype(np.float64)
            arrays[f"intercepts_{number}"] = layer.bias.astype(np.float64)
    else:
        arrays |= {"coef": chain[0].weights.astype(np.float64), "intercept": chain[0].bias.astype(np.float64)}
    match file.plan.data.target:
        case BinaryTarget():
            arrays["classes"] = np.array([0, 1])
        case CategoryTarget(values=classes):
            arrays["classes"] = np.array(classes)
        case FloatTarget(lo=lo, hi=hi):
            arrays["target_range"] = np.array([lo, hi])
    for name, text in stamp.items():
        arrays[name.replace(".", "_")] = np.array(text)
    stream = io.BytesIO()
    np.savez(stream, allow_pickle=False, **arrays)
    return stream.getvalue()


def to_torch(file: ModelFile, stamp: Mapping[str, str]) -> bytes:
    """A safetensors file whose tensors have the names of a state dict: of `nn.Linear` (`weight`, `bias`), or for an mlp
    of `nn.Sequential(Linear, ReLU, Linear, ...)` (`0.weight`, `2.weight`, ...). float32, the signed values.

    Its metadata: the stamp, and `fedveil.inputs`, `fedveil.mean`, `fedveil.std` as JSON lists. ConfigError
    `format_cannot_say`.
    """
    formats.check_says(file.plan, Format.TORCH)
    columns = layers.columns(file)
    chain = layers.dense(file)
    tensors: dict[str, NDArray[np.float32]] = {}
    for number, layer in enumerate(chain):
        prefix = f"{2 * number}." if file.plan.model.kind is ModelKind.MLP else ""
        tensors[f"{prefix}weight"] = np.ascontiguousarray(layer.weights)
        tensors[f"{prefix}bias"] = np.ascontiguousarray(layer.bias)
    metadata = {
        "format": "pt",
        **stamp,
        "fedveil.inputs": jcs.dumps(columns.names).decode(),
        "fedveil.mean": jcs.dumps(columns.mean.tolist()).decode(),
        "fedveil.std": jcs.dumps(columns.std.tolist()).decode(),
    }
    return safetensors.numpy.save(tensors, metadata)


def to_csv(file: ModelFile) -> bytes:
    """`output,kind,input,coefficient,mean,std`: an intercept and a line for each input, of each output.

    Coefficients are of the standardised inputs (value - mean) / std. An output is the class, or empty where there is
    one. Floats are the shortest decimals that are the same double. ConfigError `format_cannot_say`.
    """
    formats.check_says(file.plan, Format.CSV)
    columns = layers.columns(file)
    target = file.plan.data.target
    names = target.values if isinstance(target, CategoryTarget) else ("",)
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(["output", "kind", "input", "coefficient", "mean", "std"])
    (layer,) = layers.dense(file)
    for output, weights, bias in zip(names, layer.weights, layer.bias, strict=True):
        table.writerow([output, "intercept", "", repr(float(bias)), "", ""])
        for row in zip(columns.names, weights, columns.mean, columns.std, strict=True):
            table.writerow([output, "input", row[0], *(repr(float(value)) for value in row[1:])])
    return text.getvalue().encode()
