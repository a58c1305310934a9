"""From opened blocks to the leaves of a sum: the same arithmetic for who opens it and for who audits it.

Promise: a block gives the sums of its own coordinates and of no others, or IntegrityError; a leaf is packed as under
every protection, so that what follows a sum need not know how it was opened. A leaf of 16,384 coordinates lies across
several blocks, and a block across two leaves. Public: whoever has the answers of a quorum may open.
Source: docs/paillier.md, section 4 (P8); FLSA/1 section 2.3 (docs/protocol.md).
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from fedveil_common.errors import IntegrityError
from fedveil_common.masking import ring
from fedveil_common.masking.packing import pack
from fedveil_common.paillier import opening
from fedveil_common.paillier.group import Group
from fedveil_common.paillier.round_shape import RoundShape
from fedveil_common.ringfile import leaf_length
from fedveil_common.transcript import LEAF_COORDINATES


def block_coordinates(shape: RoundShape) -> int:
    """How many coordinates a full block holds; the last ones hold fewer, or none."""
    return shape.blocks.width * shape.slots.per_plaintext


def covering(shape: RoundShape, leaf: int) -> range:
    """The blocks in which the coordinates of a leaf of the sum lie."""
    start, each = leaf * LEAF_COORDINATES, block_coordinates(shape)
    return range(start // each, -(-(start + leaf_length(shape.slots.length, leaf)) // each))


def open_block(
    group: Group, shape: RoundShape, index: int, bodies: Sequence[int], rows: Sequence[Sequence[int]], survivors: int
) -> NDArray[np.int64]:
    """The sums of the coordinates of block `index`, from coordinate index * block_coordinates on: int64.

    `bodies`: of the product; `rows`: for each holder of a quorum its numbers of this block, checked, so that they are
    units. IntegrityError `not_opened`, `sum_out_of_range`.
    """
    plaintexts = opening.combine(group, bodies, rows)
    return shape.slots.unpack_part(index * shape.blocks.width, plaintexts, survivors)


def packed_leaf(values: NDArray[np.int64], bits: int) -> bytearray:
    """A leaf as it travels: residues modulo 2^bits. IntegrityError `sum_out_of_range` for a ring too narrow for it."""
    try:
        residues = ring.residues(values, bits)
    except ValueError as error:
        raise IntegrityError(
            "sum_out_of_range",
            f"the opened sum does not fit the ring that its manifest names: {error}",
            not_done="nothing was derived from it",
            next_step="the manifest should not have been accepted: report it",
        ) from error
    return pack(residues, bits)
