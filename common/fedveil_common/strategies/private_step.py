"""The step that a noisy sum of clipped gradients asks for: one step of gradient descent over all records together.

Promise: every denominator is public (the sampling rate and the nominal number of records, both in the plan), so nothing
but the sum depends on records; the ridge penalty is the model's own and costs nothing. float64, elementwise, in the
order written here. Source: Abadi et al. 2016, algorithm 1, with the expected batch size for the actual one.
"""

import numpy as np
from numpy.typing import NDArray

from fedveil_common.decode import Readings
from fedveil_common.plan import Plan, PrivacySpec, parameters
from fedveil_common.strategies.moving import Mean, Values


def mean_update(plan: Plan, privacy: PrivacySpec, update: Readings) -> Mean:
    """-learning_rate * (sum/(sample_rate*rows) + l2*weight), biases without the penalty, for some coordinates."""
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
