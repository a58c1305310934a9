"""What it takes to be a trainer: a model and rows in, an update or the model's outputs out. Nothing else leaves it."""

from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np
from fedveil_common.plan import Plan
from fedveil_common.secret import Seed
from numpy.typing import NDArray

from fedveil_participant.data.prepare import Rows

Take = Callable[[NDArray[np.float64]], None]
"""What gets the gradients of one part, float64 (rows, parameters), and may change them."""


class Trainer(Protocol):
    """Trains one model for one round on one participant's rows."""

    def update(self, plan: Plan, model: NDArray[np.float32], rows: Rows) -> NDArray[np.float64]:
        """The local model minus the one received: float64, shape of `model`, plan order; 0 without rows.

        Deterministic in its arguments. May hold NaN or infinity if training diverged; the caller refuses those. The
        update is the organisation's secret. The array is the caller's, who clips it in place.
        """
        ...

    def outputs(self, plan: Plan, model: NDArray[np.float32], inputs: NDArray[np.float64]) -> NDArray[np.float64]:
        """What `model` says about each row before any sigmoid or softmax: float64, shape (rows, outputs).

        One output for a binary target (a logit) or a float one (on its scale [-1, 1]), one per class for a category.
        May not be finite; the caller refuses that. They stay with the organisation.
        """
        ...

    def gradients(
        self,
        plan: Plan,
        model: NDArray[np.float32],
        rows: Rows,
        parts: Sequence[NDArray[np.intp]],
        secret: Seed,
        take: Take,
    ) -> None:
        """The slope of each row's own loss at `model`: `take` gets those of one part after the other.

        `parts`: row numbers, none of them empty; a part's rows x parameters float64 are in memory at once. A row whose
        slope is not finite is no error: the caller lets it count as 0. Nothing is averaged or clipped here. `secret`:
        32 bytes for draws that are nobody else's business. The slopes are the organisation's secret.
        """
        ...
