"""The gradient of the loss of each record by itself, for the built-in models.

The loss is that of `gradient` (log-loss in nats, or half the squared error on the scaled target), without the ridge
penalty, which is no record's. float64 throughout; where a hidden unit is at 0 its slope counts as 0.
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
    values = network.activations(chain, inputs)
    delta, stop = at_outputs(plan, values[-1], target), len(flat)
    for number in reversed(range(len(chain))):
        came, layer = values[number], layers[number]
        start = stop - layer.parameters
        weights = found[:, start : start + layer.weights].reshape(count, layer.outputs, layer.inputs)
        np.multiply(delta[:, :, np.newaxis], came[:, np.newaxis, :], out=weights)
        found[:, start + layer.weights : stop] = delta
        if number:
            delta = (delta @ chain[number].weights) * (came > 0)
        stop = start
    return found
