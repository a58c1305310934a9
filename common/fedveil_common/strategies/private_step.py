"""What a noisy sum asks for: one step of gradient descent over all records together, or the mean of clipped updates.

Promise: every denominator is public (the sampling rate and the nominal number of records or participants, in the
plan), so nothing but the sum depends on records; the ridge penalty is the model's own and costs nothing. float64,
elementwise, in the order written here. Source: Abadi et al. 2016, algorithm 1, with the expected batch size for the
actual one (records); McMahan et al. 2018 (participants).
"""

import numpy as np
from numpy.typing import NDArray

from fedveil_common.decode import Readings
from fedveil_common.plan import Plan, PrivacySpec, Unit, parameters
from fedveil_common.strategies.moving import Mean, Values


def mean_update(plan: Plan, privacy: PrivacySpec, update: Readings) -> Mean:
    """The mean update for some coordinates. Unit participant: sum/min_participants. Unit record: -learning_rate *
    (sum/(sample_rate*rows) + l2*weight), biases without the penalty.
    """
    if privacy.unit is Unit.PARTICIPANT:
        nominal = plan.cohort.min_participants
        return lambda where, _: np.asarray(update.at(where) / nominal)
    expected = privacy.sample_rate * privacy.rows
    rate, ridge = plan.training.learning_rate, plan.model.l2
    penalised = _weights(plan)

    def mean(where: slice, model: Values) -> Values:
        slope = update.at(where) / expected
        if ridge:
            slope += ridge * model * penalised[where]
        return np.asarray(-rate * slope)

    return mean


def _weights(plan: Plan) -> NDArray[np.bool_]:
    """Which parameters are weights and not biases: plan order."""
    parts = [
        (count, penalised)
        for layer in parameters.layers(plan.model, plan.data)
        for count, penalised in ((layer.weights, True), (layer.outputs, False))
    ]
    return np.repeat([penalised for _, penalised in parts], [count for count, _ in parts])
