"""The masking ledger: which noise was put on which column of which version of a data set.

Promise: an entry is about single cells of one output. It is no differential privacy of a training run, stands in no
run's ledger and is never added to or claimed as a run's epsilon (docs/decisions/0024-masking-engine.md).
"""

from dataclasses import dataclass

from fedveil_common.jcs import Json


@dataclass(frozen=True, slots=True)
class NoiseEntry:
    """Discrete Laplace noise of `scale` on `grid`, in the column's unit, on `cells` cells. `version`: of the data
    before masking, under the masking key, hex. `width`: of the clamp right before it, if that has both bounds.
    """

    dataset: str
    column: str
    version: str
    key_id: str
    scale: float
    grid: float
    cells: int
    width: float | None

    @property
    def per_step(self) -> float:
        """Epsilon of one cell for a change of its value by one step of the grid."""
        return self.grid / self.scale

    @property
    def whole_width(self) -> float | None:
        """Epsilon of one cell for any change of its value, where a clamp bounds it; rounding to the grid included."""
        return None if self.width is None else (self.width + self.grid) / self.scale

    def json(self) -> dict[str, Json]:
        """The entry as JSON."""
        return {
            "dataset": self.dataset,
            "column": self.column,
            "version": self.version,
            "key_id": self.key_id,
            "mechanism": "discrete_laplace",
            "scale": self.scale,
            "grid": self.grid,
            "cells": self.cells,
            "cell_epsilon_per_grid_step": self.per_step,
            "cell_epsilon_of_any_change": self.whole_width,
            "in_the_epsilon_of_runs": False,
        }
