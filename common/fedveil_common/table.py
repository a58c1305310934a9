"""A table as typed columns: what a source yields once every cell was checked against the plan.

Promise: only the plan's columns are in it; numbers lie within their declared range (clamped where the plan says so),
categories are indices into the plan's list. Never leaves the organisation.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True, eq=False)
class Table:
    """`rows` rows. `numbers`: float64 per float feature, natural units, NaN = missing. `codes`: int32 per category,
    -1 = missing. `target`: float64, 0/1 for a binary target, the index of the class for a category, natural units for a
    float one; None where none was read.
    """

    rows: int
    numbers: Mapping[str, NDArray[np.float64]]
    codes: Mapping[str, NDArray[np.int32]]
    target: NDArray[np.float64] | None
