"""How an opened sum moves a model, whatever the strategy: the mean update, leaf by leaf, rounded once.

Promise: a pure function of (model, moments, opened sum), the same bits on every machine, so each participant re-derives
every model before it trains on it. Elementwise IEEE 754 float64 in the order the rule writes it, each of model and
moments rounded once to float32. The mean is sum(w'*x)/sum(w'), weights inside the protected sum, FLSA/1 2.5.6; with
differential privacy it is that of `private_step`.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fedveil_common.decode import Decoded
from fedveil_common.errors import IntegrityError, RoundAborted
from fedveil_common.layout import UPDATE, WEIGHT
from fedveil_common.transcript import LEAF_COORDINATES

Values = NDArray[np.float64]
Kept = NDArray[np.float32]

Rule = Callable[[Values, tuple[Values, ...], Values], tuple[Values, ...]]
"""(model, moments, mean update) of some coordinates -> (new model, new moments ...), elementwise, all float64."""


Mean = Callable[[slice, Values], Values]
"""(which coordinates, the model there) -> the mean update there, float64."""


@dataclass(frozen=True, slots=True, eq=False)
class Moved:
    """A model and a strategy's moments: float32, all of one shape, plan order. As public as the sums."""

    model: Kept
    moments: tuple[Kept, ...] = ()


def weighted_mean(decoded: Decoded) -> Mean:
    """The mean update of an opened train sum without differential privacy: sum(w'*x)/sum(w').

    Raises RoundAborted `no_weight` if nobody had a row to train on.
    """
    update, weight = decoded[UPDATE], decoded[WEIGHT].only
    if not weight > 0:
        raise RoundAborted(
            "no_weight",
            f"the weights of this round sum to {weight:g}: nobody had a row to train on",
            not_done="the model stays as it was",
            next_step="check the holdout fraction and the rows of the participants",
        )
    return lambda where, _: np.asarray(update.at(where) / weight)


def move(before: Moved, length: int, mean: Mean, rule: Rule) -> Moved:
    """What `rule` makes of `before` and the mean update of `length` coordinates.

    Raises IntegrityError `model_rejected` if a value is not finite; ValueError if the shapes differ.
    """
    kept = (before.model, *before.moments)
    if any(one.dtype != np.float32 or one.shape != (length,) for one in kept):
        raise ValueError("the update does not have the shape of the model")
    after, finite = tuple(np.empty_like(one) for one in kept), True
    for start in range(0, length, LEAF_COORDINATES):
        leaf = slice(start, start + LEAF_COORDINATES)
        model, *moments = (one[leaf].astype(np.float64) for one in kept)
        with np.errstate(over="ignore", invalid="ignore"):
            for whole, part in zip(after, rule(model, tuple(moments), mean(leaf, model)), strict=True):
                whole[leaf] = part.astype(np.float32)
                finite = finite and bool(np.isfinite(whole[leaf]).all())
    if not finite:
        raise IntegrityError(
            "model_rejected", "the new model has values that are not finite", not_done="the last model stays current"
        )
    return Moved(after[0], after[1:])
