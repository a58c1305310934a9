"""Federated averaging with momentum at the server: one moment, a decaying sum of the mean updates.

v' = momentum * v + mean; model' = model + learning_rate * v'. Source: Hsu, Qi, Brown 2019, "Measuring the Effects of
Non-Identical Data Distribution for Federated Visual Classification" (FedAvgM).
"""

from fedveil_common.plan.spec import MomentumSpec
from fedveil_common.strategies.moving import Rule, Values


def rule(spec: MomentumSpec) -> Rule:
    """The rule under the plan's fields."""

    def step(model: Values, moments: tuple[Values, ...], mean: Values) -> tuple[Values, ...]:
        (velocity,) = moments
        moved = spec.momentum * velocity + mean
        return model + spec.learning_rate * moved, moved

    return step
