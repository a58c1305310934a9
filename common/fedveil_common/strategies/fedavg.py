"""Federated averaging: the model moves by the weighted mean of the updates.

Promise: a pure function of (model, opened sum), the same bits on every machine, so each participant re-derives every
model before it trains on it. Elementwise IEEE 754 float64, leaf by leaf, rounded once to float32. Source: McMahan et
al. 2017 (FedAvg); weights inside the protected sum as FLSA/1 2.5.6.
"""

import numpy as np
from numpy.typing import NDArray

from fedveil_common.decode import Decoded
from fedveil_common.errors import IntegrityError, RoundAborted
from fedveil_common.layout import UPDATE, WEIGHT
from fedveil_common.transcript import LEAF_COORDINATES


def next_model(model: NDArray[np.float32], decoded: Decoded) -> NDArray[np.float32]:
    """The model plus sum(w'*x)/sum(w'): float32, the shape of `model`.

    Raises RoundAborted `no_weight` if nobody had a row to train on; IntegrityError `model_rejected` if a value is not
    finite; ValueError if the shapes differ.
    """
    update, weight = decoded[UPDATE], decoded[WEIGHT].only
    if model.dtype != np.float32 or model.shape != (len(update),):
        raise ValueError("the update does not have the shape of the model")
    if not weight > 0:
        raise RoundAborted(
            "no_weight",
            f"the weights of this round sum to {weight:g}: nobody had a row to train on",
            not_done="the model stays as it was",
            next_step="check the holdout fraction and the rows of the participants",
        )
    stepped, finite = np.empty_like(model), True
    for start in range(0, len(model), LEAF_COORDINATES):
        leaf = slice(start, start + LEAF_COORDINATES)
        with np.errstate(over="ignore"):
            stepped[leaf] = (model[leaf].astype(np.float64) + update.at(leaf) / weight).astype(np.float32)
        finite = finite and bool(np.isfinite(stepped[leaf]).all())
    if not finite:
        raise IntegrityError(
            "model_rejected", "the new model has values that are not finite", not_done="the last model stays current"
        )
    return stepped
