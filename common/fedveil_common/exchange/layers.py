"""A verified model as plain layers and the scaling before them: what every format but the signed one writes down.

Promise: weights are the signed float32 values, not rounded again; columns stand in plan order, as `design.inputs` makes
them; scaling a column is (value - mean) / std in float64.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fedveil_common import design
from fedveil_common.modelfile import ModelFile
from fedveil_common.plan import FloatFeature, parameters


@dataclass(frozen=True, slots=True, eq=False)
class Dense:
    """`weights` float32, shape (outputs, inputs); `bias` float32, shape (outputs,). max(0, z) stands between two."""

    weights: NDArray[np.float32]
    bias: NDArray[np.float32]


@dataclass(frozen=True, slots=True, eq=False)
class Columns:
    """The inputs of the first layer: their names, and float64 mean and std each, shape (inputs,); 0 and 1 for 0/1."""

    names: tuple[str, ...]
    mean: NDArray[np.float64]
    std: NDArray[np.float64]


def dense(file: ModelFile) -> tuple[Dense, ...]:
    """The layers of a built-in model, from the inputs to the outputs."""
    found: list[Dense] = []
    start = 0
    for layer in parameters.layers(file.plan.model, file.plan.data):
        weights = file.model[start : start + layer.weights].reshape(layer.outputs, layer.inputs)
        found.append(Dense(weights, file.model[start + layer.weights : start + layer.parameters]))
        start += layer.parameters
    return tuple(found)


def columns(file: ModelFile) -> Columns:
    """What goes into the first layer."""
    mean: list[float] = []
    std: list[float] = []
    number = 0
    for feature in file.plan.data.features:
        if isinstance(feature, FloatFeature):
            mean.append(float(file.standardisation.mean[number]))
            std.append(float(file.standardisation.std[number]))
            number += 1
        else:
            mean += [0.0] * (len(feature.values) - 1)
            std += [1.0] * (len(feature.values) - 1)
    return Columns(design.input_names(file.plan), np.array(mean), np.array(std))
