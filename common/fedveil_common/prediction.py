"""What a model says about rows: used by participants to measure it, and by anyone who holds the model file to predict.

Promise: one formula for both, chosen by the type of the target; float64 inside, no overflow for any finite output.
"""

import numpy as np
from numpy.typing import NDArray

from fedveil_common import design, network
from fedveil_common.plan import BinaryTarget, CategoryTarget, FloatTarget, Plan
from fedveil_common.standardisation import Standardisation
from fedveil_common.table import Table

Model = NDArray[np.float32] | NDArray[np.float64]


def predict(
    plan: Plan, model: NDArray[np.float32], standardisation: Standardisation, table: Table
) -> NDArray[np.float64]:
    """Per row the probability of the positive class (binary), of each class (category), or the value in natural units.

    float64, shape (rows,), or (rows, classes) for a category; NaN for a row with a missing value that the plan has no
    rule to fill, and for one with an input above `largest_input`.
    """
    matrix = design.inputs(plan, standardisation, table)
    matrix[(np.abs(matrix) > largest_input(plan, model)).any(axis=1)] = np.nan
    return design.natural_target(plan, scores(plan, model, matrix))


def largest_input(plan: Plan, model: NDArray[np.float32]) -> float:
    """How large a scaled input may be for a prediction: beyond it, what comes out is no property of the model any more
    (`network.largest_input`).
    """
    target = plan.data.target
    return network.largest_input(plan, model, target.hi - target.lo if isinstance(target, FloatTarget) else 1.0)


def scores(plan: Plan, model: Model, matrix: NDArray[np.float64]) -> NDArray[np.float64]:
    """The model's output on the scale it is fitted on: a probability, one per class, or a target scaled to [-1, 1].

    float64, shape (rows,), or (rows, classes) for a category.
    """
    return scores_of(plan, network.outputs(plan, model, matrix))


def scores_of(plan: Plan, raw: NDArray[np.float64]) -> NDArray[np.float64]:
    """The same from the model's raw outputs: float64, shape (rows, outputs)."""
    match plan.data.target:
        case BinaryTarget():
            return sigmoid(raw[:, 0])
        case FloatTarget():
            return raw[:, 0]
        case CategoryTarget():
            return softmax(raw)


def sigmoid(logit: NDArray[np.float64]) -> NDArray[np.float64]:
    """1/(1+exp(-t)) without overflow."""
    falling = np.exp(-np.abs(logit))
    return np.asarray(np.where(logit >= 0, 1.0, falling) / (1.0 + falling), dtype=np.float64)


def softmax(logits: NDArray[np.float64]) -> NDArray[np.float64]:
    """exp(t_k) / sum exp(t_j) of each row, without overflow. Shape of `logits`."""
    grown = np.exp(logits - logits.max(axis=1, keepdims=True))
    return np.asarray(grown / grown.sum(axis=1, keepdims=True), dtype=np.float64)


def right(plan: Plan, scored: NDArray[np.float64], target: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Whether each row's answer is right: p >= 1/2 for the positive class, else the likeliest class (the first of
    equals). bool, shape (rows,). ValueError for a float target, which has no right answers.
    """
    match plan.data.target:
        case BinaryTarget():
            return np.asarray((scored >= 0.5) == (target > 0.5))
        case CategoryTarget():
            return np.asarray(scored.argmax(axis=1) == target)
        case FloatTarget():
            raise ValueError("a float target has no right answers")


def losses(plan: Plan, model: Model, matrix: NDArray[np.float64], target: NDArray[np.float64]) -> NDArray[np.float64]:
    """The loss of each row: log-loss in nats (binary, category), squared error on the scaled target (float).

    float64, shape (rows,).
    """
    return losses_of(plan, network.outputs(plan, model, matrix), target)


def losses_of(plan: Plan, raw: NDArray[np.float64], target: NDArray[np.float64]) -> NDArray[np.float64]:
    """The same from the model's raw outputs: float64, shape (rows, outputs)."""
    match plan.data.target:
        case BinaryTarget():
            return np.asarray(np.logaddexp(0.0, (1.0 - 2.0 * target) * raw[:, 0]), dtype=np.float64)
        case FloatTarget():
            return np.asarray((raw[:, 0] - target) ** 2, dtype=np.float64)
        case CategoryTarget():
            shifted = raw - raw.max(axis=1, keepdims=True)
            own = np.take_along_axis(shifted, target.astype(np.intp)[:, np.newaxis], axis=1)[:, 0]
            return np.asarray(np.log(np.exp(shifted).sum(axis=1)) - own, dtype=np.float64)
