"""One pass from values to a masked input: encode, mask, pack, hash, write, piece by piece while it is in the cache.

Promise: no second copy of the vector exists in memory; what is written is the same whatever the pieces and threads.
Source: FLSA/1 sections 2.3 and 2.10 (docs/protocol.md).
"""

from collections.abc import Callable, Sequence
from concurrent.futures import Executor

from fedveil_common import transcript
from fedveil_common.ids import OrgId
from fedveil_common.masking import masks
from fedveil_common.masking.packing import pack
from fedveil_common.masking.ring import Signed, residues
from fedveil_common.transcript import LEAF_COORDINATES

PIECE_LEAVES = 4
"""Leaves worked on at once: 4 x 64 KiB of the vector, beside the same amount of keystream."""

STRETCH_PIECES = 16
"""Pieces of one job at least: the ciphers of all streams are set up once a job."""

STRETCHES = 2
"""Jobs that a vector is cut into where there is a pool: as many as it has threads."""

Encode = Callable[[int, int], Signed]
"""(first coordinate, count) -> those coordinates of the organisation's own vector as signed integers, unmasked."""

Write = Callable[[int, bytearray], None]
"""(leaf index, packed leaf): called from the pool's threads, in no order."""


def protect(
    length: int,
    bits: int,
    encode: Encode,
    keys: Sequence[masks.MaskKey],
    t2: bytes,
    org: OrgId,
    write: Write,
    pool: Executor | None = None,
) -> tuple[bytes, ...]:
    """Writes the masked vector of `length` coordinates modulo 2^bits, leaf by leaf; returns its leaf hashes in order.

    The first error of a job (a value that is not finite, a full disk) is raised once all jobs have ended.
    """
    leaves = -(-length // LEAF_COORDINATES)
    hashes: list[bytes] = [b""] * leaves

    def stretch(first: int, last: int) -> None:
        streams = masks.streams(keys, first * LEAF_COORDINATES, bits)
        for index in range(first, last, PIECE_LEAVES):
            start = index * LEAF_COORDINATES
            stop = min(min(index + PIECE_LEAVES, last) * LEAF_COORDINATES, length)
            integers = encode(start, stop - start)
            piece = residues(integers, bits)
            streams.apply(piece)
            for leaf, at in enumerate(range(0, len(piece), LEAF_COORDINATES), index):
                packed = pack(piece[at : at + LEAF_COORDINATES], bits)
                hashes[leaf] = transcript.input_leaf(t2, org, leaf, packed)
                write(leaf, packed)

    least = PIECE_LEAVES * STRETCH_PIECES
    size = leaves if pool is None else max(least, -(-leaves // STRETCHES))
    size += -size % PIECE_LEAVES
    jobs = [(first, min(first + size, leaves)) for first in range(0, leaves, size)]
    if pool is None or len(jobs) == 1:
        for job in jobs:
            stretch(*job)
        return tuple(hashes)
    running = [pool.submit(stretch, *job) for job in jobs]
    errors = [error for one in running if (error := one.exception()) is not None]
    if errors:
        raise errors[0]
    return tuple(hashes)
