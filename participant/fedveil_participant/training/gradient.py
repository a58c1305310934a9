"""The gradient of the built-in models' training objective, by the chain rule, layer by layer.

Objective of a batch: mean loss + l2/2 * |weights|^2; the loss is log-loss in nats (binary, category), or half the
squared error on the scaled target (float); biases are not penalised. float64 throughout. With these losses the slope at
the outputs is "score minus truth" for every type of target. Where a hidden unit is at 0 its slope counts as 0.
"""

import numpy as np
from fedveil_common import network, prediction
from fedveil_common.plan import CategoryTarget, Plan
from fedveil_common.plan.parameters import Layer
from numpy.typing import NDArray


def gradient(
    plan: Plan,
    layers: tuple[Layer, ...],
    flat: NDArray[np.float64],
    inputs: NDArray[np.float64],
    target: NDArray[np.float64],
) -> NDArray[np.float64]:
    """The slope of the objective at the parameters `flat` (float64, plan order) over one batch: shape of `flat`.

    `inputs`: float64 (rows, inputs); `target`: float64 (rows,), at least one row. The organisation's secret.
    """
    found = np.empty_like(flat)
    chain, slopes = network.split(layers, flat), network.split(layers, found)
    values = network.activations(chain, inputs)
    delta = at_outputs(plan, values[-1], target)
    for number in reversed(range(len(chain))):
        came, layer, slope = values[number], chain[number], slopes[number]
        slope.weights[:] = _transposed(delta, came) / len(came) + plan.model.l2 * layer.weights
        slope.bias[:] = delta.mean(axis=0)
        if number:
            delta = (delta @ layer.weights) * (came > 0)
    return found


def _transposed(delta: NDArray[np.float64], came: NDArray[np.float64]) -> NDArray[np.float64]:
    """`delta`' x `came`; a single output as a product of a vector and a matrix, which is several times faster."""
    if delta.shape[1] == 1:
        return np.asarray(delta[:, 0] @ came)[np.newaxis]
    return np.asarray(delta.T @ came)


def at_outputs(plan: Plan, raw: NDArray[np.float64], target: NDArray[np.float64]) -> NDArray[np.float64]:
    """Score minus truth: float64, shape (rows, outputs)."""
    scored = prediction.scores_of(plan, raw)
    if isinstance(plan.data.target, CategoryTarget):
        scored[np.arange(len(target)), target.astype(np.intp)] -= 1.0
        return scored
    return (scored - target)[:, np.newaxis]
