"""Vectors of ring elements on disk: little-endian u32, read back piece by piece, each leaf checked as it is read.

Promise: a ring file exists only whole and durable; a leaf (16,384 coordinates) that changed on the disk is found before
it is added to anything; reading a piece costs the memory of that piece. The check is a CRC-32 a leaf: it guards against
the disk, while who made the vector was checked by signature and hash when it arrived.
Format: the elements; CRC-32 of each leaf (u32 little-endian); number of elements (u64); the 8 bytes "FVRING01".
"""

import os
import zlib
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fedveil_common import durable
from fedveil_common.errors import IntegrityError, PeerError, StorageError
from fedveil_common.transcript import LEAF_COORDINATES

_MAGIC = b"FVRING01"
_LEAF_BYTES = 4 * LEAF_COORDINATES
_FOOTER = 16


class RingWriter:
    """A ring file of `length` elements in the making; leaves may come in any order. For one thread at a time."""

    def __init__(self, path: Path, length: int) -> None:
        if length <= 0:
            raise ValueError("a ring file has at least one element")
        self._path = path
        self._length = length
        self._checks: list[int | None] = [None] * -(-length // LEAF_COORDINATES)
        self._file = durable.TemporaryFile(path.parent)

    def write(self, index: int, leaf: bytes) -> None:
        """Leaf number `index`: exactly its bytes. ValueError if they do not fit; StorageError discards the file."""
        if not 0 <= index < len(self._checks) or len(leaf) != self._leaf_bytes(index):
            raise ValueError(f"leaf {index} of {len(leaf)} bytes does not fit a file of {self._length} elements")
        self._file.write(leaf, index * _LEAF_BYTES)
        self._checks[index] = zlib.crc32(leaf)

    def commit(self) -> None:
        """The file is durable under its name. If there is one already, it stays, and must be of the same content:
        the first one wins. ValueError while a leaf is missing; PeerError `input_differs`; StorageError.
        """
        checks = [check for check in self._checks if check is not None]
        if len(checks) < len(self._checks):
            self.discard()
            raise ValueError(f"{len(self._checks) - len(checks)} leaves are missing")
        footer = _footer(checks, self._length)
        if self._path.exists():
            self.discard()
            with RingFile(self._path) as first:
                if first.footer != footer:
                    raise PeerError("input_differs", f"{self._path.name} was already stored with another content")
            return
        self._file.write(footer, 4 * self._length)
        self._file.commit(self._path.name)

    def discard(self) -> None:
        """Nothing remains."""
        self._file.discard()

    def _leaf_bytes(self, index: int) -> int:
        return min(_LEAF_BYTES, 4 * self._length - index * _LEAF_BYTES)


class RingFile:
    """A ring file open for reading; `read` may be called from any thread. Close it, or use it in `with`."""

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
            with durable.storing(path):
                size = os.fstat(self._descriptor).st_size
                footer = os.pread(self._descriptor, _FOOTER, max(0, size - _FOOTER))
            self.length = int.from_bytes(footer[:8], "little")
            leaves = -(-self.length // LEAF_COORDINATES)
            if footer[8:] != _MAGIC or size != 4 * self.length + 4 * leaves + _FOOTER:
                raise self._damaged("its end is missing")
            with durable.storing(path):
                self._checks = np.frombuffer(os.pread(self._descriptor, 4 * leaves, 4 * self.length), dtype="<u4")
        except BaseException:
            os.close(self._descriptor)
            raise

    def read(self, start: int, count: int) -> NDArray[np.uint32]:
        """Elements start .. start+count: uint32, shape (count,), in fresh memory. IntegrityError `ring_file_damaged`
        naming the file and leaf; ValueError outside the file.
        """
        if start < 0 or count < 0 or start + count > self.length:
            raise ValueError(f"elements {start} to {start + count} are not in a file of {self.length}")
        first, last = start // LEAF_COORDINATES, -(-(start + count) // LEAF_COORDINATES)
        begin, end = first * _LEAF_BYTES, min(last * _LEAF_BYTES, 4 * self.length)
        values = np.empty((end - begin) // 4, dtype="<u4")
        view, done = values.view(np.uint8).data, 0
        with durable.storing(self.path):
            while done < len(view):
                got = os.preadv(self._descriptor, [view[done:]], begin + done)
                if got == 0:
                    raise self._damaged("it is too short")
                done += got
        for index in range(first, last):
            leaf = view[(index - first) * _LEAF_BYTES : (index - first + 1) * _LEAF_BYTES]
            if zlib.crc32(leaf) != int(self._checks[index]):
                raise self._damaged(f"leaf {index} does not match its check sum")
        offset = start - first * LEAF_COORDINATES
        return values[offset : offset + count]

    @property
    def footer(self) -> bytes:
        """Check sums and length: equal for equal content (not against an adversary: CRC-32)."""
        return _footer([int(check) for check in self._checks], self.length)

    def verify(self) -> None:
        """Every leaf matches its check sum, in the memory of one leaf. IntegrityError `ring_file_damaged`."""
        for start in range(0, self.length, LEAF_COORDINATES):
            self.read(start, min(LEAF_COORDINATES, self.length - start))

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


def write_ring(path: Path, pieces: Iterable[NDArray[np.uint32]]) -> None:
    """A ring file of consecutive pieces (uint32), of any lengths. ValueError if they are empty. StorageError."""
    file = durable.TemporaryFile(path.parent)
    try:
        rest, length, checks = np.empty(0, dtype="<u4"), 0, list[int]()

        def flush(values: NDArray[np.uint32]) -> None:
            nonlocal length
            leaf = values.tobytes()
            file.write(leaf, 4 * length)
            checks.append(zlib.crc32(leaf))
            length += len(values)

        for piece in pieces:
            rest = np.concatenate([rest, piece]) if len(rest) else piece.astype("<u4", copy=False)
            while len(rest) >= LEAF_COORDINATES:
                flush(rest[:LEAF_COORDINATES])
                rest = rest[LEAF_COORDINATES:]
        if len(rest):
            flush(rest)
        if not length:
            raise ValueError("a ring file has at least one element")
        file.write(_footer(checks, length), 4 * length)
        file.commit(path.name)
    except BaseException:
        file.discard()
        raise


def _footer(checks: list[int], length: int) -> bytes:
    return np.array(checks, dtype="<u4").tobytes() + length.to_bytes(8, "little") + _MAGIC


def read_ring(path: Path) -> NDArray[np.uint32]:
    """The whole vector: uint32, shape (d,). Errors as `RingFile`."""
    with RingFile(path) as file:
        return file.read(0, file.length)
