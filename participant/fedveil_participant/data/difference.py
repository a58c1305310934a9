"""Whether two versions of a data set differ in few rows, told from a sketch of each, without keeping a row.

Promise: for two sketches under one key, `changed_rows` is never more than the rows that were added or removed (the
larger of the two numbers), so that few changed rows are never taken for many; up to MOST_ROWS different rows it is
that number, but for a chance below 2^-18. A sketch has SKETCH_BYTES whatever the number of rows, and says nothing
without the key; it stays on this machine with the record of what was opened.

How: each row is a point x of the field of P elements, from its keyed digest; a sketch holds the sums of x^j over all
rows for j = 0 .. SUMS - 1. The difference of two sketches is those sums over the rows in which the versions differ, a
sequence whose shortest linear recurrence has as many terms as there are such points. Source: set reconciliation
(Minsky, Trachtenberg, Zippel 2003), here with power sums; the recurrence by Berlekamp's algorithm (Massey 1969).
"""

import struct

import numpy as np
from numpy.typing import NDArray

P = 4_294_967_291
"""2^32 - 5, a prime: two factors below it fit into 64 bits."""

MOST_ROWS = 50
"""So many changed rows can be asked for."""

MOST_POINTS = 2 * MOST_ROWS
"""A row that was changed is one that went and one that came."""

SUMS = 2 * MOST_POINTS
SKETCH_BYTES = 4 * SUMS
_BATCH = 4096


class SketchSums:
    """Accumulates rows; O(1) memory."""

    def __init__(self) -> None:
        self._sums = np.zeros(SUMS, dtype=np.uint64)
        self._points: list[int] = []

    def add(self, digest: bytes) -> None:
        """One row, by 32 bytes that nobody without the key can predict."""
        self._points.append(1 + int.from_bytes(digest[:8], "big") % (P - 1))
        if len(self._points) == _BATCH:
            self._fold()

    def sketch(self) -> bytes:
        """The sketch so far: SKETCH_BYTES. Never leaves this machine."""
        self._fold()
        return struct.pack(f">{SUMS}I", *(int(one) for one in self._sums))

    def _fold(self) -> None:
        points: NDArray[np.uint64] = np.array(self._points, dtype=np.uint64)
        self._points = []
        powers = np.ones_like(points)
        for j in range(SUMS):
            self._sums[j] = (int(self._sums[j]) + int(powers.sum())) % P  # 4096 terms below 2^32 fit
            powers = powers * points % np.uint64(P)


def changed_rows(one: bytes, other: bytes) -> int:
    """At least so many rows were added, or removed, between two versions. MOST_ROWS: so many or more.

    ValueError if one of them is no sketch.
    """
    first, second = _sums(one), _sums(other)
    sums = [(a - b) % P for a, b in zip(first, second, strict=True)]
    points = recurrence(sums)
    if points >= MOST_POINTS:
        return MOST_ROWS
    more = sums[0] if sums[0] <= P // 2 else P - sums[0]  # how many rows one has more than the other
    return min(MOST_ROWS, (points + min(more, points) + 1) // 2)


def recurrence(sums: list[int]) -> int:
    """The length of the shortest linear recurrence over the field of P elements that gives this sequence."""
    current, before = [1], [1]
    length, since, last = 0, 1, 1
    for place, value in enumerate(sums):
        gap = value
        for back in range(1, min(length, len(current) - 1) + 1):
            gap += current[back] * sums[place - back]
        gap %= P
        if gap == 0:
            since += 1
            continue
        factor = gap * pow(last, -1, P) % P
        kept = current
        size = max(len(current), len(before) + since)
        current = current + [0] * (size - len(current))
        for index, term in enumerate(before):
            current[index + since] = (current[index + since] - factor * term) % P
        if 2 * length <= place:
            length, before, last, since = place + 1 - length, kept, gap, 1
        else:
            since += 1
    return length


def _sums(sketch: bytes) -> tuple[int, ...]:
    if len(sketch) != SKETCH_BYTES:
        raise ValueError("this is no sketch of a version")
    return struct.unpack(f">{SUMS}I", sketch)
