"""What a model becomes after a sum: pure, float64, fixed order; the participant re-derives every model and moment."""

import numpy as np

from fedveil_common.crypto.labels import h
from fedveil_common.decode import Decoded
from fedveil_common.layout import UPDATE
from fedveil_common.plan import AdaptiveSpec, MomentumSpec, Plan, StrategySpec, check_release
from fedveil_common.strategies import adaptive, fedavg, fedavgm
from fedveil_common.strategies.moving import Kept, Moved, Rule, move, weighted_mean
from fedveil_common.strategies.private_step import mean_update

__all__ = ["Moved", "apply", "has_state", "start", "state_hash"]


def start(plan: Plan, model: Kept) -> Moved:
    """`model` (float32) with the plan's strategy before its first sum: what its moments begin at."""
    match plan.strategy:
        case StrategySpec():
            return Moved(model)
        case MomentumSpec():
            return Moved(model, (np.zeros_like(model),))
        case AdaptiveSpec(tau=tau):
            return Moved(model, (np.zeros_like(model), np.full_like(model, tau * tau)))


def apply(plan: Plan, before: Moved, decoded: Decoded) -> Moved:
    """The next model and moments under the plan's strategy; errors as `moving.move` and `moving.weighted_mean`."""
    check_release(plan)
    update = decoded[UPDATE]
    mean = weighted_mean(decoded) if plan.privacy is None else mean_update(plan, plan.privacy, update)
    return move(before, len(update), mean, _rule(plan))


def has_state(plan: Plan) -> bool:
    """Whether the plan's strategy keeps moments from sum to sum."""
    return not isinstance(plan.strategy, StrategySpec)


def state_hash(moved: Moved) -> bytes:
    """H("state", moments ...) over their float32 little-endian bytes in plan order: 32 bytes; empty without moments."""
    if not moved.moments:
        return b""
    return h("state", *(one.astype("<f4", copy=False).view(np.uint8).data for one in moved.moments))


def _rule(plan: Plan) -> Rule:
    match plan.strategy:
        case StrategySpec():
            return fedavg.rule
        case MomentumSpec() as spec:
            return fedavgm.rule(spec)
        case AdaptiveSpec() as spec:
            return adaptive.rule(spec)
