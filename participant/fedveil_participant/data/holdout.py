"""Which rows are held out: decided by a hash of the row (or of its person), so that it never depends on the file.

Rule (wire in effect: it fixes what a model may see): first 64 bits of SHA-256(u64be seed || RFC 8785 array) / 2^64 <
holdout. The array holds the typed plan columns in plan order, target last, missing = null, before clamping and filling;
with `data.person` it is [id], so that all rows of a person fall on the same side.
"""

import hashlib

import numpy as np
from fedveil_common.crypto.labels import u64
from numpy.typing import NDArray


def position(seed: int, subject: bytes) -> int:
    """The first 64 bits of SHA-256(u64be seed || subject), as an integer."""
    return int.from_bytes(hashlib.sha256(u64(seed) + subject).digest()[:8], "big")


def held_out(positions: NDArray[np.uint64], holdout: float) -> NDArray[np.bool_]:
    """Which rows are held out, given their positions and 0 < holdout < 1."""
    return positions < np.uint64(int(holdout * 2.0**64))
