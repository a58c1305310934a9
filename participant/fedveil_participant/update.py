"""From data and model to the integers that are masked: train or measure, clip, weigh, round, cap.

Promise: what `encode` yields is all that leaves the organisation for a secure sum, and every coordinate of it is
within its block's integer cap, whatever the training produced. NaN or infinity stop this participant's own attempt
(`update_not_finite`); nothing stands in for them. Source: FLSA/1 2.5, A6, A17.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from fedveil_common import layout as layouts
from fedveil_common import prediction, private_sum
from fedveil_common import standardisation as moments
from fedveil_common.errors import PolicyRefusal
from fedveil_common.masking import fixedpoint
from fedveil_common.masking.ring import Signed
from fedveil_common.member_noise import Piece
from fedveil_common.messages import Purpose
from fedveil_common.plan import Metric, NoiseSource, Plan, PrivacySpec, Unit, Weight
from fedveil_common.secret import Seed
from fedveil_common.standardisation import Standardisation
from numpy.typing import NDArray

from fedveil_participant.data.csv_source import Source
from fedveil_participant.data.prepare import Prepared, Rows, prepare
from fedveil_participant.tally import private_tally, tally
from fedveil_participant.training.clipped import clipped_sum, clipped_whole, within_norm
from fedveil_participant.training.descent import GradientDescent
from fedveil_participant.training.measured import measured_sum
from fedveil_participant.training.trainer import Trainer

Blocks = list[NDArray[np.float64]]


@dataclass(frozen=True, slots=True, eq=False)
class Encoded:
    """`integers`: signed, the organisation's secret. `clamps`: how many coordinates a cap moved; stays local."""

    integers: Signed
    clamps: int


_BUILT_IN = GradientDescent()


def contribution(
    plan: Plan,
    purpose: Purpose,
    step: int,
    source: Source,
    model: NDArray[np.float32] | None,
    standardisation: Standardisation | None,
    trainer: Trainer = _BUILT_IN,
    secret: Seed | None = None,
    clip: float = 1.0,
) -> Blocks:
    """The values of each block of `layout_for(plan, purpose, step)`, in its order and units, before rounding: float64.

    `model` (float32) and `standardisation` are needed for train and evaluate, and None for questions about data. The
    values are the organisation's secret. Raises PolicyRefusal `update_not_finite`; ValueError for purpose statistics in
    a training plan, and for a plan with differential privacy without `secret`, the 32 bytes that choose its sample and
    its rounding. There the update is what `clipped_sum` gives, the evaluation what `measured_sum` gives, figures and
    cells what `private_tally` gives, all in steps of the grid. `clip`: `Lineage.clip`.
    """
    if purpose is Purpose.STANDARDISE:
        blocks = _standardise(plan, source)
    elif purpose is Purpose.STATISTICS and plan.statistics is not None:
        blocks = _statistics(plan, source, secret)
    elif purpose is Purpose.STATISTICS or model is None or standardisation is None:
        raise ValueError(f"purpose {purpose.value} needs a model and a standardisation, or a plan with statistics")
    else:
        _check_finite(model, "model")  # else a capped loss could hide it
        prepared = prepare(plan, source, standardisation)
        measures = purpose is Purpose.EVALUATE or layouts.evaluation_due(plan, step)
        if plan.privacy is not None:
            blocks = _noiseless(plan, plan.privacy, purpose, measures, model, prepared, trainer, secret, clip)
        else:
            blocks = _train(plan, model, prepared.train, trainer) if purpose is Purpose.TRAIN else []
            blocks += _evaluate(plan, model, prepared.held_out, trainer) if measures else []
    for block in blocks:
        _check_finite(block)
    return blocks


def encode(
    layout: layouts.Layout,
    values: NDArray[np.float64],
    rounding_key: bytes,
    value_bits: int,
    start: int = 0,
) -> Encoded:
    """`values`, which are coordinates start .. start+len of the blocks end to end, as signed integers: scaled,
    stochastically rounded under `rounding_key` (32 secret bytes), capped. Whole equals piecewise.

    Each coordinate is at most min(floor(cap*scale), 2^(value_bits-1)-1) in absolute value. Raises PolicyRefusal
    `update_not_finite`; ValueError if the values do not fit the layout.
    """
    stop = start + len(values)
    if values.ndim != 1 or not 0 <= start < stop <= layout.length:
        raise ValueError("the values do not fit the layout")
    most = (1 << (value_bits - 1)) - 1
    pieces: list[NDArray[np.signedinteger]] = []
    clamps = 0
    for where, block in zip(layout.slices().values(), layout.blocks, strict=True):
        first, last = max(where.start, start), min(where.stop, stop)
        if first >= last:
            continue
        piece = values[first - start : last - start]
        integers, moved = fixedpoint.quantise(piece, block.scale, min(block.limit, most), rounding_key, first)
        pieces.append(integers)
        clamps += moved
    whole = pieces[0] if len(pieces) == 1 else np.concatenate(pieces)
    return Encoded(whole, clamps)


def _noiseless(
    plan: Plan,
    privacy: PrivacySpec,
    purpose: Purpose,
    measures: bool,
    model: NDArray[np.float32],
    prepared: Prepared,
    trainer: Trainer,
    secret: Seed | None,
    clip: float,
) -> Blocks:
    """The blocks of a private sum in steps of the grid, before the noise, each coordinate within its block's range:
    the clamp looks at one coordinate of the sum over records, and moves two neighbours no further apart.
    """
    if secret is None:
        raise ValueError("a private step needs secret bytes")
    blocks: list[NDArray[np.int64]] = []
    if purpose is Purpose.TRAIN:
        most = plan.protection.max_value
        made = _private(plan, privacy, model, prepared.train, trainer, secret, clip)
        blocks += [np.clip(block, -most, most) for block in made]
    if measures:
        blocks += measured_sum(plan, privacy, model, prepared.held_out, secret)
    return [block.astype(np.float64) for block in blocks]


def _statistics(plan: Plan, source: Source, secret: Seed | None) -> Blocks:
    if plan.privacy is None:
        return tally(plan, source)
    if secret is None:
        raise ValueError("private statistics need secret bytes")
    return [private_tally(plan, source, secret).astype(np.float64)]


def _private(
    plan: Plan,
    privacy: PrivacySpec,
    model: NDArray[np.float32],
    rows: Rows,
    trainer: Trainer,
    secret: Seed,
    clip: float,
) -> list[NDArray[np.int64]]:
    """The update block of a private step, and whether the update was within its norm where that follows the updates;
    in steps of the grid, before the noise.
    """
    if privacy.unit is Unit.RECORD:
        return [clipped_sum(plan, privacy, model, rows, secret, trainer)]
    update = trainer.update(plan, model, rows)
    if update.shape != model.shape or update.dtype != np.float64:
        raise ValueError("a trainer returns float64 in the shape of the model")
    on_grid = clipped_whole(plan, privacy, update / clip, secret)
    if privacy.adaptive is None:
        return [on_grid]
    cap = private_sum.measure_cap(plan, privacy)
    return [on_grid, np.array([cap if within_norm(privacy, update / clip) else -cap])]


def noisy(plan: Plan, values: NDArray[np.float64], pieces: Sequence[Piece], start: int = 0) -> NDArray[np.int64]:
    """`values`, steps of the grid from coordinate `start` on, within +-max_value, plus this participant's own noise,
    `pieces` of it: none only where the coordinator adds it all. Whole equals piecewise; int64.
    """
    assert plan.privacy is not None, "there is noise where there is a privacy block"
    if (not pieces) != (plan.privacy.noise is NoiseSource.COORDINATOR):
        raise ValueError("an input has the noise that its plan says")
    most = plan.protection.max_value
    integers = np.clip(np.rint(values), -most, most).astype(np.int64)
    for piece in pieces:
        piece.add_to(integers, start)
    return integers


def private_input(
    plan: Plan, values: NDArray[np.float64], pieces: Sequence[Piece], start: int = 0
) -> NDArray[np.int64]:
    """`values` of `contribution`, steps of the grid from coordinate `start` on, each kept within `private_sum.widest`,
    plus this participant's own noise (`noisy`). A count may be larger than max_value: what lies beyond is added to the
    noisy rest, which it does not change. Whole equals piecewise; int64.
    """
    most, widest = plan.protection.max_value, private_sum.widest(plan)
    values = np.clip(values, -widest, widest)
    within = np.clip(values, -most, most)
    return noisy(plan, within, pieces, start) + np.rint(values - within).astype(np.int64)


def _train(plan: Plan, model: NDArray[np.float32], rows: Rows, trainer: Trainer) -> Blocks:
    """Update = w'*clip(x) and weight = w'."""
    update = trainer.update(plan, model, rows)
    if update.shape != model.shape or update.dtype != np.float64:
        raise ValueError("a trainer returns float64 in the shape of the model")
    _check_finite(update)
    cap = plan.training.weight_cap
    weight = min(len(rows) / cap, 1.0) if plan.training.weight is Weight.ROWS else float(len(rows) > 0)
    fixedpoint.clip_l2(update, plan.protection.update_norm, out=update)  # in place: it is ours, and may be large
    update *= weight
    return [update, np.array([weight])]


def _evaluate(plan: Plan, model: NDArray[np.float32], rows: Rows, trainer: Trainer) -> Blocks:
    """The evaluation blocks of the model received, over the holdout rows."""
    share = _row_weight(plan, len(rows))
    raw = trainer.outputs(plan, model, rows.inputs)
    scores = prediction.scores_of(plan, raw)
    _check_finite(scores.ravel())
    blocks = [np.array([share * len(rows)])]
    if Metric.ACCURACY in plan.evaluation.metrics:
        blocks.append(np.array([share * np.count_nonzero(prediction.right(plan, scores, rows.target))]))
    if Metric.AUC in plan.evaluation.metrics:
        bins = np.minimum((scores * layouts.SCORE_BINS).astype(np.int64), layouts.SCORE_BINS - 1)
        for members in (rows.target < 0.5, rows.target > 0.5):
            blocks.append(share * np.bincount(bins[members], minlength=layouts.SCORE_BINS).astype(np.float64))
    losses = np.minimum(prediction.losses_of(plan, raw, rows.target), layouts.LOSS_CAP)
    blocks.append(np.array([share * losses.sum()]))
    return blocks


def _standardise(plan: Plan, source: Source) -> Blocks:
    """Rows and, per float feature, how many have it, sum and sum of squares on the scale of its declared range."""
    table = source.table
    share = _row_weight(plan, table.rows)
    blocks = [np.array([share * table.rows])]
    natural = [table.numbers[feature.name] for feature in plan.data.float_features]
    columns = moments.scaled(plan, np.stack(natural, axis=1))
    for index in range(columns.shape[1]):
        known = columns[:, index][~np.isnan(columns[:, index])]
        blocks += [np.array([share * total]) for total in (len(known), known.sum(), (known * known).sum())]
    return blocks


def _row_weight(plan: Plan, rows: int) -> float:
    """U = min(1, weight_cap/h): large participants count as if they had weight_cap rows."""
    return min(1.0, plan.training.weight_cap / rows) if rows else 0.0


def _check_finite(values: NDArray[np.float64] | NDArray[np.float32], name: str = "") -> None:
    bad = len(values) - fixedpoint.count_finite(values)
    if bad:
        raise PolicyRefusal(
            "update_not_finite",
            f"{bad} of {len(values)} values{' of block ' + name if name else ''} are NaN or infinite",
            not_done="nothing was sent; this participant sits this attempt out",
            next_step="lower training.learning_rate in the plan, or look for extreme values in the data",
        )
