"""The gradient of the loss of each record by itself, for the built-in models.

The loss is that of `gradient` (log-loss in nats, or half the squared error on the scaled target), without the ridge
penalty, which is no record's. float64 throughout; where a hidden unit is at 0 its slope counts as 0.
Promise: a row's slope is, to the last bit, a function of that row and the parameters: no product here is BLAS's, whose
last bit depends on how many rows stand beside it, and would move the rounding of others when one is taken away.
"""

import numpy as np
from fedveil_common import network
from fedveil_common.plan import Plan
from fedveil_common.plan.parameters import Layer
from numpy.typing import NDArray

from fedveil_participant.training.gradient import at_outputs


def record_gradients(
    plan: Plan,
    layers: tuple[Layer, ...],
    flat: NDArray[np.float64],
    inputs: NDArray[np.float64],
    target: NDArray[np.float64],
) -> NDArray[np.float64]:
    """The slope of each row's loss at the parameters `flat` (plan order): float64, shape (rows, parameters).

    `inputs`: float64 (rows, inputs); `target`: float64 (rows,). Rows that overflow are not finite; the caller looks.
    """
    count = len(inputs)
    found = np.empty((count, len(flat)))
    chain = network.split(layers, flat)
    values = _activations(chain, inputs)
    delta, stop = at_outputs(plan, values[-1], target), len(flat)
    for number in reversed(range(len(chain))):
        came, layer = values[number], layers[number]
        start = stop - layer.parameters
        weights = found[:, start : start + layer.weights].reshape(count, layer.outputs, layer.inputs)
        np.multiply(delta[:, :, np.newaxis], came[:, np.newaxis, :], out=weights)
        found[:, start + layer.weights : stop] = delta
        if number:
            delta = np.einsum("ij,jk->ik", delta, chain[number].weights) * (came > 0)
        stop = start
    return found


def record_outputs(
    layers: tuple[Layer, ...], flat: NDArray[np.float64], inputs: NDArray[np.float64]
) -> NDArray[np.float64]:
    """The raw outputs for each row, by itself as its slope is: float64, shape (rows, outputs). Rows that overflow are
    not finite.
    """
    return _activations(network.split(layers, flat), inputs)[-1]


def _activations(chain: tuple[network.Affine, ...], inputs: NDArray[np.float64]) -> list[NDArray[np.float64]]:
    """`network.activations` without BLAS: shape (rows, values) each."""
    values = [inputs]
    for number, layer in enumerate(chain, start=1):
        out = np.einsum("ij,kj->ik", values[-1], layer.weights) + layer.bias
        values.append(out if number == len(chain) else np.maximum(out, 0.0))
    return values
