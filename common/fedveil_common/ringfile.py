"""Vectors of ring elements on disk, packed leaf by leaf as they travel, each leaf checked as it is read.

Promise: a ring file exists only whole and durable; a leaf (16,384 coordinates) that changed on the disk is found before
it is used for anything; reading a leaf costs the memory of that leaf. The check is a CRC-32 a leaf: it guards against
the disk, while who made the vector was checked by signature and hash when it arrived.
Format: the packed leaves (`masking.packing`); CRC-32 of each leaf (u32 little-endian); number of elements (u64); bits
of the ring (u32); the 8 bytes "FVRING02".
"""

import os
import threading
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from fedveil_common import durable
from fedveil_common.errors import IntegrityError, PeerError, StorageError
from fedveil_common.masking.packing import size_bytes, unpack
from fedveil_common.masking.ring import MAX_BITS, MIN_BITS, Ring, Signed, signed, signed_zeros, zeros
from fedveil_common.transcript import LEAF_COORDINATES

_MAGIC = b"FVRING02"
_TRAILER = 20


def leaf_count(length: int) -> int:
    """How many leaves a vector of `length` coordinates has."""
    return -(-length // LEAF_COORDINATES)


def leaf_length(length: int, index: int) -> int:
    """How many coordinates leaf `index` holds; the last is shorter."""
    return min(LEAF_COORDINATES, length - index * LEAF_COORDINATES)


class RingWriter:
    """A ring file in the making: `length` elements modulo 2^bits; its leaves come in any order, from any thread."""

    def __init__(self, path: Path, length: int, bits: int) -> None:
        """ValueError for an empty vector; StorageError."""
        if length < 1:
            raise ValueError("a ring file has at least one element")
        self._path = path
        self._length, self._bits = length, bits
        self._leaf_bytes = size_bytes(LEAF_COORDINATES, bits)
        self._checks: list[int | None] = [None] * leaf_count(length)
        self._lock = threading.Lock()
        self._file = durable.TemporaryFile(path.parent)

    def write(self, index: int, data: bytes | bytearray | memoryview) -> None:
        """Leaf `index`, packed. ValueError if it does not fit or came before; StorageError discards the file."""
        if not 0 <= index < len(self._checks):
            raise ValueError(f"leaf {index} of {len(self._checks)} does not exist")
        if len(data) != size_bytes(leaf_length(self._length, index), self._bits):
            raise ValueError(f"leaf {index} cannot have {len(data)} bytes")
        with self._lock:
            if self._checks[index] is not None:
                raise ValueError(f"leaf {index} came twice")
            self._checks[index] = zlib.crc32(data)
        self._file.write(data, index * self._leaf_bytes)

    def finish(self, *, replace: bool = False) -> None:
        """The file is durable under its name. If there is one already, it stays and must be of the same content (the
        first one wins), unless `replace`. ValueError if a leaf is missing; PeerError `input_differs`; StorageError.
        """
        missing = [index for index, check in enumerate(self._checks) if check is None]
        if missing:
            self.discard()
            raise ValueError(f"leaf {missing[0]} is missing")
        footer = footer_of([check or 0 for check in self._checks], self._length, self._bits)
        if not replace and self._path.exists():
            self.discard()
            with RingFile(self._path) as first:
                if first.footer != footer:
                    raise PeerError("input_differs", f"{self._path.name} was already stored with another content")
            return
        last = len(self._checks) - 1
        end = last * self._leaf_bytes + size_bytes(leaf_length(self._length, last), self._bits)
        self._file.write(footer, end)
        self._file.commit(self._path.name)

    def discard(self) -> None:
        """Nothing remains. Does nothing after `finish`."""
        self._file.discard()


class RingFile:
    """A ring file open for reading, from any thread. Close it, or use it in `with`."""

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
        self.length = int.from_bytes(trailer[:8], "little")
        self.bits = int.from_bytes(trailer[8:12], "little")
        self.leaves = leaf_count(self.length)
        if trailer[12:] != _MAGIC or not MIN_BITS <= self.bits <= MAX_BITS or not 0 < self.length < size:
            raise self._damaged("its end is missing")
        self._leaf_bytes = size_bytes(LEAF_COORDINATES, self.bits)
        end = (self.leaves - 1) * self._leaf_bytes + size_bytes(leaf_length(self.length, self.leaves - 1), self.bits)
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
        data = bytearray(size_bytes(leaf_length(self.length, index), self.bits))
        view, done = memoryview(data), 0
        with durable.storing(self.path):
            while done < len(view):
                got = os.preadv(self._descriptor, [view[done:]], index * self._leaf_bytes + done)
                if got == 0:
                    raise self._damaged("it is too short")
                done += got
        if zlib.crc32(data) != int(self._checks[index]):
            raise self._damaged(f"leaf {index} does not match its check sum")
        return data

    def leaf(self, index: int) -> Ring:
        """The residues of leaf `index`, in fresh memory. Errors as `packed`."""
        return unpack(self.packed(index), leaf_length(self.length, index), self.bits)

    def whole(self) -> Ring:
        """The whole vector, shape (length,), in fresh memory. Errors as `packed`."""
        values = zeros(self.length, self.bits)
        for index in range(self.leaves):
            start = index * LEAF_COORDINATES
            values[start : start + LEAF_COORDINATES] = self.leaf(index)
        return values

    @property
    def footer(self) -> bytes:
        """Check sums, length and ring: equal for equal content (not against an adversary: CRC-32)."""
        return footer_of([int(check) for check in self._checks], self.length, self.bits)

    def close(self) -> None:
        """The file is closed."""
        os.close(self._descriptor)

    def __enter__(self) -> "RingFile":
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


def footer_of(checks: Sequence[int], length: int, bits: int) -> bytes:
    """What stands behind the leaves of a ring file; `checks`: the CRC-32 of each leaf."""
    sums = np.array(checks, dtype="<u4").tobytes()
    return sums + length.to_bytes(8, "little") + bits.to_bytes(4, "little") + _MAGIC


def read_signed(path: Path) -> Signed:
    """The whole vector as signed integers, shape (d,). Errors as `RingFile`."""
    with RingFile(path) as file:
        values = signed_zeros(file.length, file.bits)
        for index in range(file.leaves):
            start = index * LEAF_COORDINATES
            values[start : start + LEAF_COORDINATES] = signed(file.leaf(index), file.bits)
        return values
