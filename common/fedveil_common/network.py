"""A model as a chain of layers: from inputs to raw outputs, for every kind of model that this release has.

Promise: the one formula that training, evaluation and prediction share. Between layers stands max(0, z); the last
layer's outputs are raw: a logit, one logit per class, or a value on the scaled target. float64 inside.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fedveil_common.errors import ConfigError
from fedveil_common.plan import ModelKind, Plan, parameters
from fedveil_common.plan.parameters import Layer


@dataclass(frozen=True, slots=True, eq=False)
class Affine:
    """One layer's parameters as views: `weights` float64 (outputs, inputs), `bias` float64 (outputs,)."""

    weights: NDArray[np.float64]
    bias: NDArray[np.float64]

    def __call__(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        """The layer's outputs for `values` (rows, inputs): float64, shape (rows, outputs)."""
        if len(self.bias) == 1:
            return np.asarray(values @ self.weights[0] + self.bias[0], dtype=np.float64)[:, np.newaxis]
        return np.asarray(values @ self.weights.T + self.bias, dtype=np.float64)


def split(layers: tuple[Layer, ...], flat: NDArray[np.float64]) -> tuple[Affine, ...]:
    """Views of `flat` (float64, plan order), one per layer: writing to them writes to it."""
    found: list[Affine] = []
    start = 0
    for layer in layers:
        weights = flat[start : start + layer.weights].reshape(layer.outputs, layer.inputs)
        found.append(Affine(weights, flat[start + layer.weights : start + layer.parameters]))
        start += layer.parameters
    return tuple(found)


def activations(chain: tuple[Affine, ...], matrix: NDArray[np.float64]) -> list[NDArray[np.float64]]:
    """What goes into each layer, then the outputs: `matrix` first, float64, each of shape (rows, values)."""
    values = [matrix]
    for number, layer in enumerate(chain, start=1):
        out = layer(values[-1])
        values.append(out if number == len(chain) else np.maximum(out, 0.0))
    return values


def outputs(
    plan: Plan, model: NDArray[np.float32] | NDArray[np.float64], matrix: NDArray[np.float64]
) -> NDArray[np.float64]:
    """The raw outputs of `model` for rows of inputs: float64, shape (rows, outputs); not finite where it overflows.

    ConfigError `trainer_needed` for a trainer's model: its trainer alone can say.
    """
    if plan.model.kind is ModelKind.TRAINER:
        raise ConfigError(
            "trainer_needed",
            f"what this model says is known to the trainer {plan.model.trainer} alone",
            next_step="`fedveil model export` writes its parameters, for use with the trainer's code",
        )
    chain = split(parameters.layers(plan.model, plan.data), model.astype(np.float64))
    with np.errstate(over="ignore", invalid="ignore"):  # who uses them looks whether they are finite
        return activations(chain, matrix)[-1]


SAFE = 1.75e308
"""Below this no order of summation of a layer passes what float64 holds (1.797e308), rounding included."""


def largest_input(plan: Plan, model: NDArray[np.float32], widest: float = 1.0) -> float:
    """How large an input of a row may be in size so that nothing on the way to `widest` times its outputs can pass what
    float64 holds, in whatever order sums are taken; below 0: not even zeros are safe.

    Beyond it infinities of both signs may meet, and whether that is a number then depends on the order: two programs
    that are both right say different things.
    """
    steepness, offset, most = 1.0, 0.0, SAFE
    chain = split(parameters.layers(plan.model, plan.data), model.astype(np.float64))
    with np.errstate(over="ignore"):  # of layers: an infinite steepness leaves 0 as the only input
        for number, layer in enumerate(chain, start=1):
            steep = float(np.abs(layer.weights).sum(axis=1).max())
            steepness, offset = steepness * steep, offset * steep + float(np.abs(layer.bias).max())
            scale = max(widest, 1.0) if number == len(chain) else 1.0
            if offset * scale > SAFE:
                return -1.0
            if steepness:
                most = min(most, (SAFE / scale - offset) / steepness)
    return most
