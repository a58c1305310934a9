"""Vectors on disk, leaf by leaf as they travel, each leaf checked as it is read; their shape stands at the end.

Promise: a leaf file exists only whole and durable; a leaf that changed on the disk is found before it is used for
anything; reading a leaf costs the memory of that leaf. The check is a CRC-32 a leaf: it guards against the disk, while
who made the vector was checked by signature and hash when it arrived.
Format: the leaves; CRC-32 of each leaf (u32 little-endian); the 20 bytes of the shape: two figures (u64, u32) and 8
bytes that say which kind they are of.
  "FVRING02": number of elements, bits of the ring; leaves as `masking.packing` makes them, 16,384 elements each.
  "FVBLCK01": number of leaves, bytes of each; what is in them is not this module's concern.
"""

import os
import threading
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, Self

import numpy as np

from fedveil_common import durable, limits
from fedveil_common.errors import IntegrityError, PeerError, StorageError
from fedveil_common.masking.packing import size_bytes
from fedveil_common.masking.ring import word
from fedveil_common.transcript import LEAF_COORDINATES

_TRAILER = 20
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


def footer_of(checks: Sequence[int], shape: Shape) -> bytes:
    """What stands behind the leaves of a file; `checks`: the CRC-32 of each leaf."""
    return np.array(checks, dtype="<u4").tobytes() + shape.trailer


class LeafWriter:
    """A leaf file in the making; its leaves come in any order, from any thread."""

    def __init__(self, path: Path, shape: Shape) -> None:
        """StorageError."""
        self._path = path
        self._shape = shape
        self._checks: list[int | None] = [None] * shape.leaves
        self._lock = threading.Lock()
        self._file = durable.TemporaryFile(path.parent)

    def write(self, index: int, data: bytes | bytearray | memoryview) -> None:
        """Leaf `index`. ValueError if it does not fit or came before; StorageError discards the file."""
        if not 0 <= index < len(self._checks):
            raise ValueError(f"leaf {index} of {len(self._checks)} does not exist")
        if len(data) != self._shape.size(index):
            raise ValueError(f"leaf {index} cannot have {len(data)} bytes")
        with self._lock:
            if self._checks[index] is not None:
                raise ValueError(f"leaf {index} came twice")
            self._checks[index] = zlib.crc32(data)
        self._file.write(data, self._shape.offset(index))

    def finish(self, *, replace: bool = False) -> None:
        """The file is durable under its name. If there is one already, it stays and must be of the same content (the
        first one wins), unless `replace`. ValueError if a leaf is missing; PeerError `input_differs`; StorageError.
        """
        missing = [index for index, check in enumerate(self._checks) if check is None]
        if missing:
            self.discard()
            raise ValueError(f"leaf {missing[0]} is missing")
        footer = footer_of([check or 0 for check in self._checks], self._shape)
        if not replace and self._path.exists():
            self.discard()
            with LeafFile(self._path) as first:
                if first.footer != footer:
                    raise PeerError("input_differs", f"{self._path.name} was already stored with another content")
            return
        self._file.write(footer, self._shape.offset(self._shape.leaves))
        self._file.commit(self._path.name)

    def discard(self) -> None:
        """Nothing remains. Does nothing after `finish`."""
        self._file.discard()


class LeafFile:
    """A leaf file open for reading, from any thread, of the shape that it says. Close it, or use it in `with`.

    Its error codes speak of ring files, whatever its shape: they are older than the other one.
    """

    def __init__(self, path: Path) -> None:
        """StorageError `ring_file_missing`; IntegrityError `ring_file_damaged`."""
        self.path = path
        try:
            self._descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError as error:
            raise StorageError("ring_file_missing", f"{path} does not exist", not_done="nothing was read") from error
        except OSError as error:
            raise durable.storage_error(error, path) from error
        try:
            self._open()
        except BaseException:
            os.close(self._descriptor)
            raise

    def _open(self) -> None:
        with durable.storing(self.path):
            size = os.fstat(self._descriptor).st_size
            trailer = os.pread(self._descriptor, _TRAILER, max(0, size - _TRAILER))
        try:
            self.shape = shape_of(trailer)
        except ValueError:
            raise self._damaged("its end is missing") from None
        self.leaves = self.shape.leaves
        end = self.shape.offset(self.leaves)
        if size != end + 4 * self.leaves + _TRAILER:
            raise self._damaged("its size is not that of its content")
        with durable.storing(self.path):
            self._checks = np.frombuffer(os.pread(self._descriptor, 4 * self.leaves, end), dtype="<u4")

    def packed(self, index: int) -> bytearray:
        """Leaf `index` as it travels, in fresh memory. IntegrityError `ring_file_damaged` naming file and leaf;
        ValueError outside the file.
        """
        if not 0 <= index < self.leaves:
            raise ValueError(f"leaf {index} is not in a file of {self.leaves}")
        data = bytearray(self.shape.size(index))
        view, start, done = memoryview(data), self.shape.offset(index), 0
        with durable.storing(self.path):
            while done < len(view):
                got = os.preadv(self._descriptor, [view[done:]], start + done)
                if got == 0:
                    raise self._damaged("it is too short")
                done += got
        if zlib.crc32(data) != int(self._checks[index]):
            raise self._damaged(f"leaf {index} does not match its check sum")
        return data

    @property
    def footer(self) -> bytes:
        """Check sums and shape: equal for equal content (not against an adversary: CRC-32)."""
        return footer_of([int(check) for check in self._checks], self.shape)

    def close(self) -> None:
        """The file is closed."""
        os.close(self._descriptor)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _damaged(self, what: str) -> IntegrityError:
        return IntegrityError(
            "ring_file_damaged",
            f"{self.path}: {what}",
            not_done="nothing of it was used",
            next_step="check the disk; the attempt must be repeated",
        )
