"""Integers drawn by a table of 128-bit cumulative probabilities: two lookups a draw, within 2^-107 of what is named.

Promise: a draw is a pure function of key, coordinate and table, and a table of its distribution alone (integers and
their correct rounding, no float), so draws are bit for bit equal in one piece or in many and on every platform.
Coordinate i has one 128-bit uniform U: word i of one lane of the key's stream on top, word i of the next lane below.
The value is the number of edges that are <= U. The lower word is read only where the upper one equals that of an edge,
which happens about once in 2^46 draws; its place does not move with that.

Not constant-time: which cache lines a draw touches depends on the value. Whoever can measure that on the machine that
draws sees its data anyway. Source: inversion (Devroye 1986, III.2) with a guide table (Chen, Asau 1974).
"""

from bisect import bisect_left, bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import accumulate
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from fedveil_common.crypto.prg import Streams

DISTANCE = Fraction(1, 2**107)
"""What a draw may be away from its distribution, in total variation: a sampler that cannot prove it is not made."""

LANE = 2**60
"""Words from one lane of a key's stream to the next: coordinates are numbered below it."""

MAX_VALUE = 2**30
"""Values of a table stay below it, and their places fit in 32 bits."""

_WHOLE = 1 << 128
_WORD = (1 << 64) - 1
_BITS = 256
"""Fraction bits of the weights at the first attempt."""

_STEP = 32_768
"""Coordinates drawn at once: fewer, and the calls cost more than the lookups; more, and they leave the cache."""

_GUIDE_BITS = (6, 18)
"""Fewest and most bits of the upper word that choose a bucket."""


def rational(parameter: int | Fraction) -> Fraction:
    """A distribution's parameter as a fraction of Python integers; TypeError for a float or an integer of numpy.

    A float would be another number than the one that was written down, and numpy's integers overflow.
    """
    if not isinstance(parameter, int | Fraction):
        raise TypeError(f"a parameter of a distribution is an int or a Fraction, not {type(parameter).__name__}")
    return Fraction(int(parameter.numerator), int(parameter.denominator))


class Sampler(Protocol):
    """Integer noise of one distribution, within `distance` of it in total variation, never above `bound`."""

    @property
    def bound(self) -> int:
        """The largest absolute value that it can give."""

    @property
    def distance(self) -> Fraction:
        """Proven bound of the total variation distance of one draw from the distribution; at most DISTANCE."""

    def draw(self, key: bytes, start: int, count: int) -> NDArray[np.int64]:
        """The noise of coordinates start .. start+count under `key`: shape (count,), int64, as secret as the key.

        Draws of different coordinates or keys are independent. ValueError for a key that is not 32 bytes, or
        coordinates outside 0 .. LANE.
        """


class Table:
    """Cumulative probabilities of a distribution on consecutive integers, and the draws from it. Immutable."""

    __slots__ = ("_at", "_edge", "_high", "_low", "_lowest", "_shift", "bound", "distance")

    def __init__(self, lowest: int, edges: Sequence[int], distance: Fraction) -> None:
        """`edges`, not decreasing, 0 .. 2^128: edge j is 2^128 times the probability of lowest+j or less, rounded.

        The value after the last edge takes the rest. `distance`: what the rounding and a tail left out come to.
        """
        if list(edges) != sorted(edges) or (edges and not 0 <= edges[0] <= edges[-1] <= _WHOLE):
            raise ValueError("edges do not decrease and lie within 0 .. 2^128")
        # U is at or above an edge of 0 always and at or above one of 2^128 never: values of probability 0 at the ends.
        never = bisect_right(edges, 0)
        lowest, edges = lowest + never, edges[never : bisect_left(edges, _WHOLE)]
        self.bound: int = max(abs(lowest), abs(lowest + len(edges)))
        self.distance: Fraction = distance
        if self.bound >= MAX_VALUE:
            raise ValueError(f"values of a table are below {MAX_VALUE}")
        self._lowest = lowest
        self._high = np.array([edge >> 64 for edge in edges], dtype=np.uint64)
        self._low = np.array([edge & _WORD for edge in edges], dtype=np.uint64)
        fewest, most = _GUIDE_BITS
        bits = min(max(len(edges).bit_length() + 2, fewest), most)
        self._shift = np.uint64(64 - bits)
        first = np.searchsorted(self._high, np.arange(1 << bits, dtype=np.uint64) << self._shift)
        inside = np.diff(first, append=len(edges))
        # A bucket without an edge has one value, one with a single edge two; the others are marked and searched.
        self._edge = np.where(inside == 1, np.append(self._high, np.uint64(0))[first], np.uint64(_WORD))
        self._at = np.where(inside > 1, lowest - 2, first + lowest).astype(np.int32)
        for array in (self._high, self._low, self._edge, self._at):
            array.flags.writeable = False

    def draw(self, key: bytes, start: int, count: int, lane: int = 0) -> NDArray[np.int64]:
        """As `Sampler.draw`, from lanes `lane` and `lane` + 1 of the key's stream."""
        if start < 0 or count < 0 or start + count > LANE:
            raise ValueError(f"coordinates are counted from 0 to {LANE}")
        values = np.empty(count, dtype=np.int64)
        upper = Streams([(key, False)], start + lane * LANE, 8)
        room = min(count, _STEP)
        words, buckets, edges = np.empty(room, "<u8"), np.empty(room, np.uint64), np.empty(room, np.uint64)
        values_at, above, unsettled = np.empty(room, np.int32), np.empty(room, np.bool_), np.empty(room, np.bool_)
        for first in range(0, count, _STEP):
            piece = values[first : first + _STEP]
            size = len(piece)
            word, edge, at, up, doubt = words[:size], edges[:size], values_at[:size], above[:size], unsettled[:size]
            upper.fill(word)
            bucket = np.right_shift(word, self._shift, out=buckets[:size]).view(np.intp)
            self._at.take(bucket, out=at, mode="clip")  # "clip" changes no index here, and takes no copy
            self._edge.take(bucket, out=edge, mode="clip")
            np.less(at, self._lowest, out=doubt)
            at += np.greater(word, edge, out=up).view(np.int8)
            doubt |= np.equal(word, edge, out=up)
            np.copyto(piece, at)
            if doubt.any():
                places = np.flatnonzero(doubt)
                piece[places] = self._settled(word[places], key, places + (start + first), lane + 1)
        return values

    def _settled(
        self, words: NDArray[np.uint64], key: bytes, coordinates: NDArray[np.intp], lane: int
    ) -> NDArray[np.int64]:
        """The values of these upper words, and of the lower words in `lane` where an edge has the same upper word."""
        below = np.searchsorted(self._high, words)
        up_to = np.searchsorted(self._high, words, side="right")
        lower = np.empty(1, dtype="<u8")
        for tied in np.flatnonzero(below != up_to):
            Streams([(key, False)], int(coordinates[tied]) + lane * LANE, 8).fill(lower)
            equals = self._low[below[tied] : up_to[tied]]
            below[tied] += np.searchsorted(equals, lower[0], side="right")
        return below.astype(np.int64) + self._lowest


@dataclass(frozen=True, slots=True)
class TwoLevels:
    """factor * coarse + fine, both drawn for each coordinate. Which distribution that is, its maker proves.

    ValueError for a `distance`, which has those of both tables in it, above DISTANCE.
    """

    factor: int
    coarse: Table
    fine: Table
    distance: Fraction

    def __post_init__(self) -> None:
        _check(self.distance)

    @property
    def bound(self) -> int:
        """As `Sampler.bound`."""
        return self.factor * self.coarse.bound + self.fine.bound

    def draw(self, key: bytes, start: int, count: int) -> NDArray[np.int64]:
        """As `Sampler.draw`; the coarse part has lanes 0 and 1 of the key's stream, the fine part 2 and 3."""
        values = self.coarse.draw(key, start, count)
        for first in range(0, count, _STEP):
            piece = values[first : first + _STEP]
            piece *= self.factor
            piece += self.fine.draw(key, start + first, len(piece), lane=2)
        return values


@dataclass(frozen=True, slots=True)
class Ratios:
    """r(0) .. r(bound) of a symmetric distribution on the integers, P(k+1) = r(k) P(k), with none above the one before.

    In units of 2^-bits: the ratio k is within values[k] .. values[k] + error, and both it and values[k] within 0 .. 1.
    """

    values: Sequence[int]
    error: int


def symmetric(ratios: Callable[[int], Ratios], bound: int) -> Table:
    """The table of the symmetric distribution with these ratios, cut at +-bound and normalised again.

    `ratios(bits)` gives the same ratios for any number of fraction bits. The edges are those of the cut distribution,
    2^128 F(x) rounded to nearest for x < 0, mirrored for x >= 0: the table is exactly symmetric, and does not depend on
    how it was computed. ValueError if the distance would exceed DISTANCE.

    Proof of the distance. Cutting off an event of probability t moves a distribution by t; ratios do not increase, so
    with r = r(bound) the two tails have at most 2 P(bound) (r + r^2 + ..) = 2 P(bound) r / (1 - r), here in upper
    bounds, and P(0) + .. is at least the part not cut. An edge is within 2^-129 of its probability and there are
    2 bound of them, each between two values: bound * 2^-128 in total variation.
    """
    for bits in (_BITS, 2 * _BITS, 4 * _BITS):
        edges, tail = _lower_half(ratios(bits), bound, bits)
        if edges:
            break
    else:
        raise ValueError("these ratios are not exact enough for a table")
    distance = tail + Fraction(bound, _WHOLE)
    _check(distance)
    return Table(-bound, edges + [_WHOLE - edge for edge in reversed(edges)], distance)


def _lower_half(ratios: Ratios, bound: int, bits: int) -> tuple[list[int], Fraction]:
    """(2^128 F(x) rounded for x = -bound .. -1, at most the mass of both tails), or no edges: `bits` did not suffice.

    Weights w(0) = 1, w(k+1) = r(k) w(k), in units of 2^-bits and rounded down: the lack of w(k+1) is at most that of
    w(k), as ratios are at most 1, and `error`, as weights are, and one: k (error + 1) in all. So the stored sum of any
    of the weights lacks at most E = (bound + 1)^2 (error + 1), the stored total T at most 2 E, and the quotient A / T,
    at most 1/2, is within E / T. An edge is (2^129 A + T) / 2T rounded down: right if its remainder is further than
    2^129 E from both ends.
    """
    if bound < 1 or len(ratios.values) != bound + 1:
        raise ValueError("there is a ratio for each of 0 .. bound, which is 1 or more")
    weights = [1 << bits]
    for ratio in ratios.values[:-1]:
        weights.append(weights[-1] * ratio >> bits)
    tails = list(accumulate(reversed(weights[1:])))
    total = weights[0] + 2 * tails[-1]
    lack = (bound + 1) ** 2 * (ratios.error + 1)
    margin, twice = lack << 129, 2 * total
    edges = []
    for tail in tails:
        edge, rest = divmod((tail << 129) + total, twice)
        if not margin <= rest < twice - margin:
            return [], Fraction(0)
        edges.append(edge)
    last = ratios.values[-1] + ratios.error
    if last >= 1 << bits:
        return [], Fraction(0)
    beyond = Fraction(2 * (weights[-1] + bound * (ratios.error + 1)) * last, ((1 << bits) - last) * total)
    return edges, beyond


def _check(distance: Fraction) -> None:
    if distance > DISTANCE:
        raise ValueError(
            "a sampler is within 2^-107 of its distribution; for one this wide or cut this short, it is not"
        )
