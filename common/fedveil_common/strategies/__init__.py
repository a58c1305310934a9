"""What a model becomes after a sum: pure, float64, fixed order; the participant re-derives every model."""

import numpy as np
from numpy.typing import NDArray

from fedveil_common.decode import Decoded
from fedveil_common.plan import Plan, check_release
from fedveil_common.strategies import fedavg


def apply(plan: Plan, model: NDArray[np.float32], decoded: Decoded) -> NDArray[np.float32]:
    """The next model under the plan's strategy; errors as `fedavg.next_model`."""
    check_release(plan)
    return fedavg.next_model(model, decoded)
