"""How good a model is on rows that are at hand: for the tables of demo and simulation, where one process holds them."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from fedveil_common import design, prediction
from fedveil_common.plan import FloatTarget, Plan
from fedveil_common.standardisation import Standardisation
from fedveil_participant.data.csv_source import Source, read_table
from fedveil_participant.data.in_memory import in_memory
from fedveil_participant.training.descent import GradientDescent
from fedveil_participant.training.trainer import Trainer
from numpy.typing import NDArray

VERSION_KEY = bytes(32)
"""Versions are not looked at here."""


@dataclass(frozen=True, slots=True)
class Score:
    """`accuracy` in 0..1 (None for a float target), `loss` the mean over rows (nats, or squared error on the scale)."""

    accuracy: float | None
    loss: float
    rows: int


def source_of(data: bytes, filename: str, plan: Plan) -> Source:
    """The rows of a table, the bytes of a CSV or Parquet file, under a plan. Raises DataError."""
    return read_table([in_memory(filename, data)], filename, plan, VERSION_KEY)


def score(
    plan: Plan,
    model: NDArray[np.float32],
    scaling: Standardisation,
    source: Source,
    only: NDArray[np.bool_] | None = None,
    trainer: Trainer | None = None,
) -> Score:
    """The model's score on the rows of `source`, or on those that `only` (bool, shape (rows,)) marks."""
    matrix = design.inputs(plan, scaling, source.table)
    target = design.targets(plan, source.table)
    if only is not None:
        matrix, target = matrix[only], target[only]
    if not len(target):
        return Score(None, 0.0, 0)
    raw = (trainer or GradientDescent()).outputs(plan, model, matrix)
    losses = prediction.losses_of(plan, raw, target)
    accuracy = None
    if not isinstance(plan.data.target, FloatTarget):
        scores = prediction.scores_of(plan, raw)
        accuracy = float(np.mean(prediction.right(plan, scores, target)))
    return Score(accuracy, float(losses.mean()), len(target))


def together(scores: Sequence[Score]) -> Score:
    """The score on the rows of several scores put together."""
    rows = sum(one.rows for one in scores)
    if not rows:
        return Score(None, 0.0, 0)
    known = [one for one in scores if one.accuracy is not None]
    right = sum((one.accuracy or 0.0) * one.rows for one in known)
    loss = sum(one.loss * one.rows for one in scores) / rows
    return Score(right / rows if known else None, loss, rows)
