"""Floats into ring elements and back: clip, scale, round without bias, wrap.

Invariant: a quantised coordinate is within +-limit, its expectation is the scaled float, and n of them add in the ring
without wrapping when `quorum.check_no_wrap` holds. NaN and infinity never become numbers: the caller stops. `ring`
has the residues.
Source: FLSA/1 section 2.5 (docs/protocol.md). All arrays are one-dimensional; values are the participant's own secret.
"""

import math

import numpy as np
from numpy.typing import NDArray

from fedveil_common.crypto.prg import Streams
from fedveil_common.errors import PolicyRefusal
from fedveil_common.masking.ring import Signed

_PIECE = 65_536
"""Coordinates worked on at once: temporaries stay small whatever the length."""

_STEP = 32_768
"""Coordinates rounded at once: fewer, and the calls cost more than the arithmetic; more, and they leave the cache."""

_NARROW = 2**31
"""Limits below this are rounded into int32: half the memory, and floats become int32 several at a time."""

MAX_LIMIT = 2**47 - 1
"""Largest magnitude of a quantised coordinate: a float64 still holds fractions beside it."""


def check_finite(values: NDArray[np.float64]) -> None:
    """Returns if no coordinate is NaN or infinite; raises PolicyRefusal `update_not_finite` with the count alone."""
    bad = len(values) - count_finite(values)
    if bad:
        raise PolicyRefusal(
            "update_not_finite",
            f"{bad} of {len(values)} coordinates of the update are NaN or infinite",
            not_done="nothing was sent for this update",
            next_step="look at the training data and the learning rate of this organisation",
        )


def count_finite(values: NDArray[np.float64] | NDArray[np.float32]) -> int:
    """How many coordinates are neither NaN nor infinite."""
    return sum(
        int(np.count_nonzero(np.isfinite(values[start : start + _PIECE]))) for start in range(0, len(values), _PIECE)
    )


def clip_l2(values: NDArray[np.float64], norm: float, out: NDArray[np.float64] | None = None) -> NDArray[np.float64]:
    """`values` times min(1, norm/||values||): shape (d,), float64, a new array unless nothing is clipped.

    With `out`, which may be `values` itself, into that array if anything is clipped. Correct for the whole range of
    float64 (the squares of 1e308 are never formed). Raises PolicyRefusal `update_not_finite`; ValueError for a norm
    that is not positive and finite.
    """
    _check_shape(values)
    check_finite(values)
    if not (np.isfinite(norm) and norm > 0):
        raise ValueError("a clip norm is positive and finite")
    peak = max(float(np.max(values, initial=0.0)), -float(np.min(values, initial=0.0)))
    if peak == 0.0:
        return values
    squares = 0.0
    for start in range(0, len(values), _PIECE):
        unit = values[start : start + _PIECE] / peak
        squares += float(np.sum(unit * unit))
    length = math.sqrt(squares)  # ||values|| / peak, within 1 .. sqrt(d)
    if length <= norm / peak:  # infinity for a tiny peak, which is right: it needs no clip
        return values
    clipped = np.empty_like(values) if out is None else out
    for start in range(0, len(values), _PIECE):
        piece = slice(start, start + _PIECE)
        np.divide(values[piece], peak, out=clipped[piece])
        clipped[piece] *= norm / length
    return clipped


def quantise(
    values: NDArray[np.float64], scale: float, limit: int, rounding_key: bytes, start: int
) -> tuple[Signed, int]:
    """(integers, clamps): floor(v) + [u < frac v] for v = values*scale clamped to +-limit; shape (d,), int32 for a
    limit below 2^31, int64 above.

    `u` is a 53-bit uniform from words 2i, 2i+1 of the stream of `rounding_key`, i = start + position: whole equals
    chunked. `clamps` counts the coordinates that the clamp moved. Raises PolicyRefusal `update_not_finite`.
    """
    _check_shape(values)
    if not 1 <= limit <= MAX_LIMIT:
        raise ValueError(f"a limit is within 1 .. {MAX_LIMIT}")
    if not (np.isfinite(scale) and scale > 0):
        raise ValueError("a scale is positive and finite")
    count = len(values)
    integers: Signed = np.empty(count, dtype=np.int32) if limit < _NARROW else np.empty(count, dtype=np.int64)
    streams = Streams([(rounding_key, False)], start, 8)  # u64 words: 2i is the low half of word i
    room = min(count, _STEP)
    floats, bits, bools = np.empty((2, room)), np.empty(room, dtype="<u8"), np.empty(room, dtype=np.bool_)
    clamps = 0
    for first in range(0, count, _STEP):  # a step at a time, so that every pass finds it in the cache
        piece, rounded = values[first : first + _STEP], integers[first : first + _STEP]
        scaled, lower = floats[:, : len(piece)]
        drawn, up = bits[: len(piece)], bools[: len(piece)]
        with np.errstate(over="ignore", under="ignore", invalid="ignore"):  # what comes of it is looked at next
            np.multiply(piece, scale, out=scaled)
        largest, least = scaled.max(), scaled.min()
        if not (largest <= limit and least >= -limit):  # in these words, because a NaN is neither
            if not (np.isfinite(largest) and np.isfinite(least)):
                check_finite(values)  # returns for a product too large for a float: clamped like any other large one
            clamps += int(np.count_nonzero(np.abs(scaled) > limit))
            np.clip(scaled, -limit, limit, out=scaled)
        np.floor(scaled, out=lower)
        np.copyto(rounded, lower, casting="unsafe")
        scaled -= lower
        scaled *= 2.0**53  # exact, as u = drawn * 2^-53 would be: the comparison is the same
        streams.fill(drawn)
        drawn >>= np.uint64(11)
        np.copyto(lower, drawn.view("<i8"))  # exact; and a comparison of mixed types would convert it more slowly
        np.less(lower, scaled, out=up)
        rounded += up.view(np.int8)
    return integers, clamps


def _check_shape(values: NDArray[np.float64]) -> None:
    if values.dtype != np.float64 or values.ndim != 1:
        raise ValueError("an update is a one-dimensional float64 array")
