"""What it takes to be a trainer: a model and rows in, an update out. Nothing else leaves it."""

from typing import Protocol

import numpy as np
from fedveil_common.plan import Plan
from numpy.typing import NDArray

from fedveil_participant.data.prepare import Rows


class Trainer(Protocol):
    """Trains one model for one round on one participant's rows."""

    def update(self, plan: Plan, model: NDArray[np.float32], rows: Rows) -> NDArray[np.float64]:
        """The local model minus the one received: float64, shape of `model`, plan order; 0 without rows.

        Deterministic in its arguments. May hold NaN or infinity if training diverged; the caller refuses those. The
        update is the organisation's secret. The array is the caller's, who clips it in place.
        """
        ...
