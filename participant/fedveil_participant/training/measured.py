"""What one participant's holdout records say of a model in one private sum: the evaluation blocks, on the grid.

Promise: a record (a person with all of its holdout rows: the mean over them) adds non-negative integers of at most
`private_sum.measure_cap` steps to each block, in L2 norm, exactly, and both score histograms are one block, in one cell
of which a row is. Every figure is rounded without bias and kept within its cap by itself, and only then added up: no
operation after the rounding looks at more than one record but the clamp of each coordinate. What a record adds is a
function, to the last bit, of its own rows, the model and its own random words. A row whose score is not finite counts
as wrong, with the largest loss, in no cell. Source: A6, D1, D2, D8 (docs/privacy.md). All arrays are the organisation's
secret.
"""

import numpy as np
from fedveil_common import prediction, private_sum
from fedveil_common.crypto.kdf import derive
from fedveil_common.crypto.prg import Streams
from fedveil_common.plan import Metric, Plan, PrivacySpec, measures, parameters
from fedveil_common.secret import Seed
from numpy.typing import NDArray

from fedveil_participant.data.prepare import Rows
from fedveil_participant.training.record_gradients import record_outputs

AT_ONCE = 1 << 14
"""Records whose histograms are in memory at once: 128 cells of 8 bytes each, a few times over."""

_WORDS = 3
"""Random words of a record: for its right answers, its cells, its loss."""

_CELLS = 2 * measures.SCORE_BINS


def measured_sum(
    plan: Plan, privacy: PrivacySpec, model: NDArray[np.float32], rows: Rows, secret: Seed
) -> list[NDArray[np.int64]]:
    """The evaluation blocks of `model` over the holdout `rows`, in the order of `measures.blocks`, in steps of the
    grid: int64, each coordinate at most `private_sum.measure_range`. `secret`: the 32 bytes of this sum.
    """
    total = np.zeros(_CELLS + 3, dtype=np.int64)
    key = derive(b"", secret.expose(), "dp/evaluation")
    units = rows.units
    for first in range(0, len(units), AT_ONCE):
        part = np.arange(first, min(first + AT_ONCE, len(units)))
        total += of_units(plan, privacy, model, rows, *units.rows_of(part), key, first).sum(axis=0)
    most = private_sum.measure_range(plan, privacy)
    return [np.clip(total[where], 0, most) for where in _places(plan)]


def of_units(
    plan: Plan,
    privacy: PrivacySpec,
    model: NDArray[np.float32],
    rows: Rows,
    chosen: NDArray[np.intp],
    begins: NDArray[np.intp],
    key: bytes,
    first: int,
) -> NDArray[np.int64]:
    """What each of some units adds, whose rows are `chosen`, one unit after the other, each from `begins` on; with the
    words of the units from `first` on. Shape (units, 131): whether it is there, right answers, loss, then the cells of
    both histograms; 0 for what the plan does not measure.
    """
    sizes, count = np.diff(np.append(begins, len(chosen))), len(begins)
    owner = np.repeat(np.arange(count), sizes)
    inputs, target = rows.inputs[chosen], rows.target[chosen]
    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
        raw = record_outputs(parameters.layers(plan.model, plan.data), model.astype(np.float64), inputs)
        scores = prediction.scores_of(plan, raw)
        losses = prediction.losses_of(plan, raw, target)
    finite = np.isfinite(scores) if scores.ndim == 1 else np.isfinite(scores).all(axis=1)
    one, most = private_sum.measure_cap(plan, privacy), plan.evaluation.loss_cap
    words = _uniform(key, first, count)
    found = np.zeros((count, _CELLS + 3), dtype=np.int64)
    found[:, 0] = one
    if Metric.ACCURACY in plan.evaluation.metrics:
        right = np.bincount(owner[finite & prediction.right(plan, scores, target)], minlength=count)
        found[:, 1] = _rounded(right * one / sizes, words[:, 0], one)
    counted = np.where(finite & np.isfinite(losses), np.clip(losses, 0.0, most), most)
    loss = np.bincount(owner, weights=counted, minlength=count)  # adds in the order of a unit's own rows
    found[:, 2] = _rounded(loss / sizes * (one / most), words[:, 1], one)
    if Metric.AUC in plan.evaluation.metrics:
        bins = np.minimum(np.where(finite, scores, 0.0) * measures.SCORE_BINS, measures.SCORE_BINS - 1).astype(np.intp)
        cell = owner * _CELLS + (target > 0.5) * measures.SCORE_BINS + bins
        cells = np.bincount(cell[finite], minlength=count * _CELLS).reshape(count, _CELLS)
        filled = _rounded(np.cumsum(cells, axis=1) * one / sizes[:, np.newaxis], words[:, 2:], one)
        found[:, 3:] = np.diff(filled, axis=1, prepend=0)  # one word a record: the cells add up to one at most
    return found


def _places(plan: Plan) -> list[slice]:
    """Where each block of the plan lies in a row of `of_units`."""
    middle = 3 + measures.SCORE_BINS
    where = {
        measures.HOLDOUT: slice(0, 1),
        measures.CORRECT: slice(1, 2),
        measures.LOSS: slice(2, 3),
        measures.NEGATIVE: slice(3, middle),
        measures.POSITIVE: slice(middle, middle + measures.SCORE_BINS),
    }
    return [where[name] for name, _ in measures.blocks(plan)]


def _uniform(key: bytes, first: int, count: int) -> NDArray[np.float64]:
    """Words of 53 bits, uniform on [0, 1): shape (count, _WORDS); those of unit `first` begin the stream there."""
    words = np.empty(count * _WORDS, dtype="<u8")
    if count:
        Streams([(key, False)], first * _WORDS, 8).fill(words)
    return np.asarray((words >> np.uint64(11)).reshape(count, _WORDS) * 2.0**-53)


def _rounded(values: NDArray[np.float64], uniform: NDArray[np.float64], most: int) -> NDArray[np.int64]:
    """floor(v) + [u < v - floor(v)], within 0 .. `most`: int64, the shape of `values`; rising with v at one u."""
    lower = np.floor(values)
    return np.clip(lower.astype(np.int64) + (uniform < values - lower), 0, most)
