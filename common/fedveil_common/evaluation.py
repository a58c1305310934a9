"""What the opened evaluation blocks say about a model.

Promise: a pure function of the sum; no participant's own figure is in it. Rows count with the weight u = min(1,
weight_cap/h) of their participant. AUC comes from two histograms of 64 equal score bins: pairs within one bin count one
half, so it differs from the exact AUC by at most half the share of pairs that fall into a common bin.
"""

from dataclasses import dataclass

import numpy as np

from fedveil_common.decode import Decoded
from fedveil_common.errors import RoundAborted
from fedveil_common.layout import CORRECT, HOLDOUT, LOSS, NEGATIVE, POSITIVE
from fedveil_common.plan import Plan


@dataclass(frozen=True, slots=True)
class Metrics:
    """`loss`: mean capped loss (nats, or squared error on the scaled target). `accuracy` and `auc` in 0..1, None where
    the plan does not ask or the holdout lacks a class. `rows`: weighted holdout rows. Public to the federation.
    """

    loss: float
    accuracy: float | None
    auc: float | None
    rows: float


def metrics(plan: Plan, decoded: Decoded) -> Metrics:
    """The metrics in an opened sum that has evaluation blocks.

    Raises RoundAborted `no_holdout_rows` if nobody had a holdout row; ValueError if the sum has no evaluation blocks.
    """
    if HOLDOUT not in decoded:
        raise ValueError("this sum carries no evaluation")
    rows = decoded[HOLDOUT].only
    if not rows > 0:
        raise RoundAborted(
            "no_holdout_rows",
            "no participant has a holdout row, so no model can be measured",
            not_done="the model was not measured and not accepted",
            next_step="raise evaluation.holdout in the plan or take another training.seed",
        )
    accuracy = decoded[CORRECT].only / rows if CORRECT in decoded else None
    auc = _auc(decoded) if POSITIVE in decoded else None
    return Metrics(decoded[LOSS].only / rows, accuracy, auc, rows)


def _auc(decoded: Decoded) -> float | None:
    negative, positive = decoded[NEGATIVE].at(), decoded[POSITIVE].at()
    pairs = float(negative.sum()) * float(positive.sum())
    if not pairs > 0:
        return None
    below = np.cumsum(negative) - negative
    return float((positive * (below + negative / 2.0)).sum()) / pairs
