"""Public checks on an opened sum and on the model that came of it: what bounds the damage of a poisoned input.

Both raise IntegrityError `model_rejected`; the caller makes the previous model current again and ends the run.
Source: FLSA/1 section 4 (public sanity of the sum); each coordinate of an honest input is already capped (A6).
"""

import math

import numpy as np

from fedveil_common.decode import Decoded, Readings
from fedveil_common.errors import IntegrityError
from fedveil_common.layout import (
    CORRECT,
    HOLDOUT,
    LOSS,
    LOSS_CAP,
    NEGATIVE,
    POSITIVE,
    UPDATE,
    WEIGHT,
    layout_for,
)
from fedveil_common.messages import Purpose
from fedveil_common.plan import Plan, PrivacySpec, Unit
from fedveil_common.transcript import LEAF_COORDINATES

LOSS_FACTOR = 2.0
"""A model whose holdout loss exceeds this many times the best so far is rejected."""

LEAST_BEST = 1e-3
"""A best loss below it counts as this much: there the measured loss is mostly quantisation."""

DEVIATIONS = 4.0
"""How many standard deviations of its noise a loss may lie off before it counts for or against a model (D17)."""

_FAR = 8.0
"""Deviations that a coordinate's noise passes about once in 10^15 sums: beyond, it was not noise."""


def check_norm(plan: Plan, decoded: Decoded, survivors: int) -> None:
    """The L2 norm of the summed update is at most survivors x update_norm, the weight at most `survivors`.

    Slack: rounding moves each coordinate of each input by less than one grid step, hence the norm of the sum by less
    than survivors x sqrt(parameters) x update_norm / M; the same for the weight.
    """
    update = decoded[UPDATE]
    if plan.privacy is not None:
        _check_noisy_norm(plan, plan.privacy, update, survivors)
        return
    weight = decoded[WEIGHT].only
    step = 1.0 / plan.protection.max_value
    bound = survivors * plan.protection.update_norm * (1.0 + math.sqrt(len(update)) * step)
    norm = _norm(update)
    if not norm <= bound:
        raise _rejected(f"the summed update has norm {norm:.6g}, honest inputs give at most {bound:.6g}")
    if not 0.0 <= weight <= survivors * (1.0 + step):
        raise _rejected(f"the weights sum to {weight:.6g} for {survivors} survivors")


def _check_noisy_norm(plan: Plan, privacy: PrivacySpec, update: Readings, survivors: int) -> None:
    """Each unit adds at most its clip norm and there are `rows` records, or the survivors; each input at most
    update_norm a coordinate; the noise of the survivors' shares passes sigma*(sqrt d + 8) about once in 10^14 sums
    (D17).
    """
    root = math.sqrt(len(update))
    many = privacy.rows if privacy.unit is Unit.RECORD else survivors
    records = min(many * privacy.clip_norm, survivors * plan.protection.update_norm * root)
    sigma = privacy.clip_norm * privacy.noise_multiplier * math.sqrt(survivors)  # each share is at most the whole
    bound = records + sigma * (root + 8.0)
    norm = _norm(update)
    if not norm <= bound:
        raise _rejected(f"the summed update has norm {norm:.6g}, honest inputs give at most {bound:.6g}")


def _norm(update: Readings) -> float:
    """The L2 norm, in the memory of one leaf."""
    squares = 0.0
    for start in range(0, len(update), LEAF_COORDINATES):
        leaf = update.at(slice(start, start + LEAF_COORDINATES))
        squares += float(np.sum(leaf * leaf))  # not BLAS, whose threads spin
    return math.sqrt(squares)


def loss_at_most(loss: float, deviation: float) -> float:
    """What a measured loss with noise of this `deviation` may be in truth: the form in which the best is kept, at least
    0. The loss itself without noise.
    """
    return max(0.0, loss + DEVIATIONS * deviation) if deviation else loss


def check_loss(best_so_far: float | None, loss: float, deviation: float = 0.0) -> None:
    """The holdout loss of a new model is finite and at most LOSS_FACTOR x the best so far (None: no best yet).

    `deviation`: of the noise on it. It then counts as DEVIATIONS of them less, and the best, by `loss_at_most`, as so
    many more: noise alone rejects no model unless one of both passes them, and not even then if they hardly do.
    """
    if not math.isfinite(loss) or (loss < 0 and not deviation):
        raise _rejected(f"the holdout loss of the new model is {loss:g}")
    if best_so_far is not None and loss - DEVIATIONS * deviation > LOSS_FACTOR * max(best_so_far, LEAST_BEST):
        raise _rejected(f"the holdout loss of the new model is {loss:.6g}, the best so far is {best_so_far:.6g}")


def check_measures(plan: Plan, decoded: Decoded, survivors: int, deviation: float = 0.0) -> None:
    """Counts are not negative, holdout rows at most survivors x weight_cap, right answers and both classes at most the
    holdout rows, the loss at most LOSS_CAP a row: what any set of rows gives. Slack as in `check_norm`. A single member
    can still claim too much within these bounds. With differential privacy all of it but for noise, whose `deviation`
    is in records (`private_sum.count_deviation`); the loss at most the plan's loss_cap.
    """
    if plan.privacy is not None:
        _check_noisy_measures(plan, plan.privacy, decoded, survivors, deviation)
        return
    scales = {block.name: block.scale for block in layout_for(plan, Purpose.EVALUATE, plan.training.rounds).blocks}
    sums = {name: float(decoded[name].at().sum()) for name in scales}
    least = {name: float(decoded[name].at().min()) * scales[name] for name in scales}
    slack = {name: survivors * len(decoded[name]) / scales[name] for name in scales}
    rows = sums[HOLDOUT]
    bounds = {HOLDOUT: survivors * float(plan.training.weight_cap), CORRECT: rows, LOSS: rows * LOSS_CAP}
    for name, scale in scales.items():
        if least[name] < -survivors:
            raise _rejected(f"a count of {name} sums to {least[name] / scale:.6g}")
        if name in bounds and sums[name] > bounds[name] + slack[name] + slack[HOLDOUT] * LOSS_CAP:
            raise _rejected(f"{name} sums to {sums[name]:.6g}, honest inputs give at most {bounds[name]:.6g}")
    classes = sums.get(NEGATIVE, 0.0) + sums.get(POSITIVE, 0.0)
    if NEGATIVE in sums and classes > rows + slack[NEGATIVE] + slack[POSITIVE] + slack[HOLDOUT]:
        raise _rejected(f"the two classes have {classes:.6g} rows, the holdout {rows:.6g}")


def _check_noisy_measures(plan: Plan, privacy: PrivacySpec, decoded: Decoded, survivors: int, deviation: float) -> None:
    """Before the noise each bound holds exactly: a record is rounded within its own bound, so there is no other slack.
    A difference of two sums, and a sum of cells, has the noise of as many coordinates as it is made of.
    """
    far = _FAR * deviation
    rows = decoded[HOLDOUT].only
    if rows > survivors * privacy.rows + far:
        raise _rejected(f"{rows:.6g} holdout records, {survivors} inputs hold at most {privacy.rows} each")
    for name, unit in (
        (HOLDOUT, 1.0),
        (CORRECT, 1.0),
        (NEGATIVE, 1.0),
        (POSITIVE, 1.0),
        (LOSS, plan.evaluation.loss_cap),
    ):
        if name in decoded and (least := float(decoded[name].at().min())) < -far * unit:
            raise _rejected(f"{name} sums to {least:.6g}, and its noise has a deviation of {deviation * unit:.6g}")
    for name, unit in ((CORRECT, 1.0), (LOSS, plan.evaluation.loss_cap)):
        if name in decoded and decoded[name].only > (rows + math.sqrt(2) * far) * unit:
            raise _rejected(f"{name} sums to {decoded[name].only:.6g} for {rows:.6g} holdout records")
    if NEGATIVE in decoded:
        classes = float(decoded[NEGATIVE].at().sum()) + float(decoded[POSITIVE].at().sum())
        cells = len(decoded[NEGATIVE]) + len(decoded[POSITIVE])
        if classes > rows + math.sqrt(cells + 1) * far:
            raise _rejected(f"the two classes have {classes:.6g} records, the holdout {rows:.6g}")


def check_still_measured(best_so_far: float) -> None:
    """After a first measured model (best loss finite), a sum without holdout rows means that someone took them off."""
    if math.isfinite(best_so_far):
        raise _rejected("the holdout rows of this sum are none, and those of earlier sums were not")


def _rejected(why: str) -> IntegrityError:
    return IntegrityError(
        "model_rejected",
        why,
        not_done="the new model was not accepted; the previous one is current again and the run ends with it",
        next_step="look for the participant whose data or software is wrong before another run",
    )
