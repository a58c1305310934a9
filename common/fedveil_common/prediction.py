"""What a model says about rows: used by participants to measure it, and by anyone who holds the model file to predict.

Promise: one formula for both; float64 inside, no overflow for any finite input.
"""

import numpy as np
from numpy.typing import NDArray

from fedveil_common import design
from fedveil_common.plan import ModelKind, Plan
from fedveil_common.standardisation import Standardisation
from fedveil_common.table import Table


def predict(
    plan: Plan, model: NDArray[np.float32], standardisation: Standardisation, table: Table
) -> NDArray[np.float64]:
    """Per row the probability of the positive class (logistic) or the value in natural units (linear).

    float64, shape (rows,); NaN for a row with a missing value that the plan has no rule to fill.
    """
    matrix = design.inputs(plan, standardisation, table)
    return design.natural_target(plan, scores(plan, model, matrix))


def scores(
    plan: Plan, model: NDArray[np.float32] | NDArray[np.float64], matrix: NDArray[np.float64]
) -> NDArray[np.float64]:
    """The model's output on the scale it is fitted on: a probability, or a target scaled to [-1, 1]. Shape (rows,)."""
    parameters = model.astype(np.float64)
    linear = matrix @ parameters[:-1] + parameters[-1]
    match plan.model.kind:
        case ModelKind.LOGISTIC:
            return sigmoid(linear)
        case ModelKind.LINEAR:
            return np.asarray(linear, dtype=np.float64)


def sigmoid(logit: NDArray[np.float64]) -> NDArray[np.float64]:
    """1/(1+exp(-t)) without overflow."""
    falling = np.exp(-np.abs(logit))
    return np.asarray(np.where(logit >= 0, 1.0, falling) / (1.0 + falling), dtype=np.float64)


def losses(
    plan: Plan,
    model: NDArray[np.float32] | NDArray[np.float64],
    matrix: NDArray[np.float64],
    target: NDArray[np.float64],
) -> NDArray[np.float64]:
    """The loss of each row: log-loss in nats (logistic), squared error on the scaled target (linear). Shape (rows,)."""
    parameters = model.astype(np.float64)
    linear = matrix @ parameters[:-1] + parameters[-1]
    match plan.model.kind:
        case ModelKind.LOGISTIC:
            return np.asarray(np.logaddexp(0.0, (1.0 - 2.0 * target) * linear), dtype=np.float64)
        case ModelKind.LINEAR:
            return np.asarray((linear - target) ** 2, dtype=np.float64)
