"""Public checks on an opened sum and on the model that came of it: what bounds the damage of a poisoned input.

Both raise IntegrityError `model_rejected`; the caller makes the previous model current again and ends the run.
Source: FLSA/1 section 4 (public sanity of the sum); each coordinate of an honest input is already capped (A6).
"""

import math

import numpy as np

from fedveil_common.decode import Decoded
from fedveil_common.errors import IntegrityError
from fedveil_common.layout import UPDATE, WEIGHT
from fedveil_common.plan import Plan

LOSS_FACTOR = 2.0
"""A model whose holdout loss exceeds this many times the best so far is rejected."""

LEAST_BEST = 1e-3
"""A best loss below it counts as this much: there the measured loss is mostly quantisation."""


def check_norm(plan: Plan, decoded: Decoded, survivors: int) -> None:
    """The L2 norm of the summed update is at most survivors x update_norm, the weight at most `survivors`.

    Slack: rounding moves each coordinate of each input by less than one grid step, hence the norm of the sum by less
    than survivors x sqrt(parameters) x update_norm / M; the same for the weight.
    """
    update, weight = decoded[UPDATE], float(decoded[WEIGHT][0])
    step = 1.0 / plan.protection.max_value
    bound = survivors * plan.protection.update_norm * (1.0 + math.sqrt(len(update)) * step)
    norm = float(np.linalg.norm(update))
    if not norm <= bound:
        raise _rejected(f"the summed update has norm {norm:.6g}, honest inputs give at most {bound:.6g}")
    if not 0.0 <= weight <= survivors * (1.0 + step):
        raise _rejected(f"the weights sum to {weight:.6g} for {survivors} survivors")


def check_loss(best_so_far: float | None, loss: float) -> None:
    """The holdout loss of a new model is finite and at most LOSS_FACTOR x the best so far (None: no best yet)."""
    if not math.isfinite(loss) or loss < 0:
        raise _rejected(f"the holdout loss of the new model is {loss:g}")
    if best_so_far is not None and loss > LOSS_FACTOR * max(best_so_far, LEAST_BEST):
        raise _rejected(f"the holdout loss of the new model is {loss:.6g}, the best so far is {best_so_far:.6g}")


def _rejected(why: str) -> IntegrityError:
    return IntegrityError(
        "model_rejected",
        why,
        not_done="the new model was not accepted; the previous one is current again and the run ends with it",
        next_step="look for the participant whose data or software is wrong before another run",
    )
