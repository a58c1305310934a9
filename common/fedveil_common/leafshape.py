"""How many leaves a vector has and how large they are, and how that stands at the end of a file.

Format of the 20 bytes: two figures (u64, u32 little-endian) and 8 bytes that say which kind they are of.
  "FVRING02": number of elements, bits of the ring; leaves as `masking.packing` makes them, 16,384 elements each.
  "FVBLCK01": number of leaves, bytes of each; what is in them is not this module's concern.
"""

from dataclasses import dataclass
from typing import Protocol

from fedveil_common import limits
from fedveil_common.masking.packing import size_bytes
from fedveil_common.masking.ring import word
from fedveil_common.transcript import LEAF_COORDINATES

TRAILER_BYTES = 20
_RING = b"FVRING02"
_BLOCKS = b"FVBLCK01"


def leaf_count(length: int) -> int:
    """How many leaves a vector of `length` coordinates has."""
    return -(-length // LEAF_COORDINATES)


def leaf_length(length: int, index: int) -> int:
    """How many coordinates leaf `index` holds; the last is shorter."""
    return min(LEAF_COORDINATES, length - index * LEAF_COORDINATES)


class Shape(Protocol):
    """How many leaves a vector has and how large they are. A value: equal ones are of one kind, with equal figures."""

    @property
    def leaves(self) -> int:
        """How many: at least one."""
        ...

    @property
    def trailer(self) -> bytes:
        """The 20 bytes at the end of a file of this shape."""
        ...

    def size(self, index: int) -> int:
        """Bytes of leaf `index`: at least one."""
        ...

    def offset(self, index: int) -> int:
        """Bytes of all leaves before `index`, which may be `leaves`: of all of them."""
        ...


@dataclass(frozen=True, slots=True)
class RingShape:
    """`length` elements modulo 2^bits, packed. ValueError for an empty vector or a ring that does not exist."""

    length: int
    bits: int

    def __post_init__(self) -> None:
        if self.length < 1:
            raise ValueError("a vector has at least one element")
        word(self.bits)

    @property
    def leaves(self) -> int:
        """How many."""
        return leaf_count(self.length)

    @property
    def trailer(self) -> bytes:
        """The 20 bytes at the end of a ring file."""
        return _trailer(self.length, self.bits, _RING)

    def size(self, index: int) -> int:
        """Bytes of leaf `index`; the last is shorter."""
        return size_bytes(leaf_length(self.length, index), self.bits)

    def offset(self, index: int) -> int:
        """Bytes of all leaves before `index`."""
        whole = min(index, self.leaves - 1)
        return whole * size_bytes(LEAF_COORDINATES, self.bits) + (self.size(whole) if index > whole else 0)


@dataclass(frozen=True, slots=True)
class BlockShape:
    """`count` leaves of `leaf_bytes` each: blocks of ciphertexts. ValueError outside 1..2^14 of 1..2^20 bytes."""

    count: int
    leaf_bytes: int

    def __post_init__(self) -> None:
        if not 1 <= self.count <= limits.MAX_LEAVES or not 1 <= self.leaf_bytes <= limits.MAX_LEAF:
            raise ValueError(f"{self.count} blocks of {self.leaf_bytes} bytes are outside the limits")

    @property
    def leaves(self) -> int:
        """How many."""
        return self.count

    @property
    def trailer(self) -> bytes:
        """The 20 bytes at the end of a file of blocks."""
        return _trailer(self.count, self.leaf_bytes, _BLOCKS)

    def size(self, index: int) -> int:
        """Bytes of leaf `index`: the same for all."""
        return self.leaf_bytes

    def offset(self, index: int) -> int:
        """Bytes of all leaves before `index`."""
        return index * self.leaf_bytes


def _trailer(first: int, second: int, magic: bytes) -> bytes:
    return first.to_bytes(8, "little") + second.to_bytes(4, "little") + magic


def shape_of(trailer: bytes) -> Shape:
    """The shape whose trailer this is. ValueError if there is none."""
    first, second = int.from_bytes(trailer[:8], "little"), int.from_bytes(trailer[8:12], "little")
    if trailer[12:] == _RING:
        return RingShape(first, second)
    if trailer[12:] == _BLOCKS:
        return BlockShape(first, second)
    raise ValueError("not the end of a leaf file")
