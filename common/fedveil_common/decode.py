"""From the opened ring sum to numbers: the one place that interprets a coordinate.

Promise: the coordinator and every participant get bit-identical float64 values, so that models derived from them agree.
Source: FLSA/1 2.5.4.
"""

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from fedveil_common.layout import Layout

Decoded = Mapping[str, NDArray[np.float64]]


def decode(layout: Layout, ring_sum: NDArray[np.uint32]) -> dict[str, NDArray[np.float64]]:
    """Each block of an opened sum in its own units: two's complement of 2^32, divided by the block's scale.

    `ring_sum`: uint32, shape (layout.length,); raises ValueError for anything else. The result is as public as the sum.
    """
    if ring_sum.dtype != np.uint32 or ring_sum.shape != (layout.length,):
        raise ValueError(f"a sum of {layout.length} uint32 words was expected")
    signed = ring_sum.view(np.int32)
    slices = layout.slices()
    return {block.name: signed[slices[block.name]].astype(np.float64) / block.scale for block in layout.blocks}
