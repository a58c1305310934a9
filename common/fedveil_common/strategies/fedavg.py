"""Federated averaging: the model moves by the weighted mean of the updates. No moments.

Source: McMahan et al. 2017 (FedAvg).
"""

from fedveil_common.strategies.moving import Values


def rule(model: Values, moments: tuple[Values, ...], mean: Values) -> tuple[Values, ...]:
    """See `moving.Rule`."""
    assert not moments
    return (model + mean,)
