"""What the opened evaluation blocks say about a model.

Promise: a pure function of the plan and the sum; no participant's own figure is in it. Without differential privacy
rows count with the weight u = min(1, weight_cap/h) of their participant; with it every record (person) counts once, and
what is said here is post-processing of noisy sums: a mean over a noisy number, or nothing where that number is too
small. AUC comes from two histograms of 64 equal score bins: pairs within one bin count one half, so it differs from the
exact AUC by at most half the share of pairs that fall into a common bin. From noisy histograms, cells below 0 count as
0; what that leaves above 0 in empty cells draws the figure towards one half.
"""

from dataclasses import dataclass
from math import hypot

import numpy as np

from fedveil_common import private_sum
from fedveil_common.decode import Decoded
from fedveil_common.errors import RoundAborted
from fedveil_common.layout import CORRECT, HOLDOUT, LOSS, NEGATIVE, POSITIVE
from fedveil_common.plan import Plan


@dataclass(frozen=True, slots=True)
class Metrics:
    """`loss`: mean capped loss (nats, or squared error on the scaled target). `accuracy` and `auc` in 0..1, None where
    the plan does not ask or the holdout lacks a class. `rows`: weighted holdout rows, or records (persons). Public to
    the federation. Under noise loss and accuracy may lie outside what is possible: they are not cut off.
    """

    loss: float
    accuracy: float | None
    auc: float | None
    rows: float


def metrics(plan: Plan, decoded: Decoded) -> Metrics:
    """The metrics in an opened sum that has evaluation blocks.

    Raises RoundAborted `no_holdout_rows` if nobody had a holdout row, or a noisy number of them is too small for a
    mean (`private_sum.least_count`); ValueError if the sum has no evaluation blocks.
    """
    if HOLDOUT not in decoded:
        raise ValueError("this sum carries no evaluation")
    rows = decoded[HOLDOUT].only
    least = 0.0 if plan.privacy is None else private_sum.least_count(plan, plan.privacy)
    if not rows > least:
        why = "no participant has a holdout row" if not least else f"{rows:.4g} holdout records, {least:.4g} are needed"
        raise RoundAborted(
            "no_holdout_rows",
            f"{why}, so no model can be measured",
            not_done="the model was not measured and not accepted",
            next_step="raise evaluation.holdout in the plan or take another training.seed",
        )
    accuracy = decoded[CORRECT].only / rows if CORRECT in decoded else None
    auc = _auc(decoded) if POSITIVE in decoded else None
    return Metrics(decoded[LOSS].only / rows, accuracy, auc, rows)


def deviation(mean: float, most: float, count_deviation: float, rows: float) -> float:
    """Standard deviation of the noise on a mean of values within 0 .. `most` over a noisy number of `rows`, itself with
    `count_deviation` records of noise. That is (e_sum - mean*e_rows)/rows, exactly, with the true mean, for which
    `mean` stands.
    """
    return hypot(most, min(max(mean, 0.0), most)) * count_deviation / rows


def _auc(decoded: Decoded) -> float | None:
    negative, positive = (np.maximum(decoded[name].at(), 0.0) for name in (NEGATIVE, POSITIVE))
    pairs = float(negative.sum()) * float(positive.sum())
    if not pairs > 0:
        return None
    below = np.cumsum(negative) - negative
    return float((positive * (below + negative / 2.0)).sum()) / pairs
