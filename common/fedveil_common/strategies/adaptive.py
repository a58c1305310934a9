"""FedAdagrad, FedAdam, FedYogi: two moments, of the mean updates and of their squares.

With mean D of this round, elementwise:
m' = beta1 * m + (1 - beta1) * D
v' = v + D^2 (fedadagrad); beta2 * v + (1 - beta2) * D^2 (fedadam); v - (1 - beta2) * D^2 * sign(v - D^2) (fedyogi)
model' = model + (learning_rate * m') / (sqrt(v') + tau)
At the start m = 0 and v = tau^2. Source: Reddi et al. 2021, "Adaptive Federated Optimization", Algorithm 2.
"""

import numpy as np

from fedveil_common.plan.spec import AdaptiveSpec
from fedveil_common.strategies.moving import Rule, Values


def rule(spec: AdaptiveSpec) -> Rule:
    """The rule under the plan's fields."""

    def step(model: Values, moments: tuple[Values, ...], mean: Values) -> tuple[Values, ...]:
        first, second = moments
        first = spec.beta1 * first + (1.0 - spec.beta1) * mean
        second = _second(spec, second, mean * mean)
        return model + (spec.learning_rate * first) / (np.sqrt(second) + spec.tau), first, second

    return step


def _second(spec: AdaptiveSpec, second: Values, square: Values) -> Values:
    if spec.beta2 is None:  # fedadagrad
        return second + square
    if spec.kind == "fedadam":
        return spec.beta2 * second + (1.0 - spec.beta2) * square
    return second - (1.0 - spec.beta2) * square * np.sign(second - square)
