"""From the opened ring sum to numbers: the one place that interprets a coordinate.

Promise: the coordinator and every participant get bit-identical float64 values, so that models derived from them agree;
a block is converted only where it is read, so that a large sum needs no second copy in float64. What is interpreted is
said to whoever asks, block by block, so that it can be held against what was charged. Source: FLSA/1 2.5.4.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fedveil_common.layout import Layout
from fedveil_common.masking.ring import Signed


@dataclass(frozen=True, slots=True, eq=False)
class Readings:
    """One block of an opened sum: signed integers, and the scale that turns them into the block's own units.

    For what never was on a grid (the same figures without a federation): the values themselves, and scale 1.
    """

    integers: Signed | NDArray[np.float64]
    scale: float

    def __len__(self) -> int:
        return len(self.integers)

    def at(self, where: slice = slice(None)) -> NDArray[np.float64]:
        """The values there, in the block's units: float64, in fresh memory. As public as the sum."""
        return self.integers[where].astype(np.float64) / self.scale

    @property
    def only(self) -> float:
        """The value of a block of one coordinate."""
        return float(self.at(slice(0, 1))[0])


Decoded = Mapping[str, Readings]


Record = Callable[[str, int], None]
"""(block, coordinates): told of each block that is interpreted, as it is."""


def decode(layout: Layout, opened: Signed, record: Record | None = None) -> dict[str, Readings]:
    """Each block of an opened sum in its own units: signed integers, divided by the block's scale when read. `record`
    hears of every block before it can be read.

    `opened`: int32 or int64, shape (layout.length,); raises ValueError for anything else.
    """
    if opened.dtype not in (np.dtype(np.int32), np.dtype(np.int64)) or opened.shape != (layout.length,):
        raise ValueError(f"a sum of {layout.length} signed integers was expected")
    found: dict[str, Readings] = {}
    start = 0
    for block in layout.blocks:
        values = opened[start : start + block.length]
        if record is not None:
            record(block.name, len(values))
        found[block.name] = Readings(values, block.scale)
        start += block.length
    return found
