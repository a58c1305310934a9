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
    """A ring file in the making: leaves 0, 1, 2, ..., all full but the last. For one thread at a time."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._checks: list[int] = []
        self._size_bytes = 0
        self._file = durable.TemporaryFile(path.parent)

    def write(self, leaf_index: int, data: bytes) -> None:
        """The next leaf. ValueError if it is another one or does not fit; StorageError discards the file."""
        full = self._size_bytes == len(self._checks) * _LEAF_BYTES
        if leaf_index != len(self._checks) or not full or len(data) % 4 or not 0 < len(data) <= _LEAF_BYTES:
            raise ValueError(f"leaf {leaf_index} of {len(data)} bytes does not follow {len(self._checks)} leaves")
        self._file.write(data, self._size_bytes)
        self._checks.append(zlib.crc32(data))
        self._size_bytes += len(data)

    def finish(self, *, replace: bool = False) -> None:
        """The file is durable under its name. If there is one already, it stays and must be of the same content (the
        first one wins), unless `replace`. ValueError for an empty file; PeerError `input_differs`; StorageError.
        """
        if not self._checks:
            self.discard()
            raise ValueError("a ring file has at least one element")
        footer = _footer(self._checks, self._size_bytes // 4)
        if not replace and self._path.exists():
            self.discard()
            with RingFile(self._path) as first:
                if first.footer != footer:
                    raise PeerError("input_differs", f"{self._path.name} was already stored with another content")
            return
        self._file.write(footer, self._size_bytes)
        self._file.commit(self._path.name)

    def discard(self) -> None:
        """Nothing remains. Does nothing after `finish`."""
        self._file.discard()


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
    """A ring file of consecutive pieces (uint32) of any lengths, in place of an older one. ValueError if there is
    nothing in them; StorageError.
    """
    writer = RingWriter(path)
    try:
        rest, index = np.empty(0, dtype="<u4"), 0
        for piece in pieces:
            rest = np.concatenate([rest, piece]) if len(rest) else piece.astype("<u4", copy=False)
            while len(rest) >= LEAF_COORDINATES:
                writer.write(index, rest[:LEAF_COORDINATES].tobytes())
                rest, index = rest[LEAF_COORDINATES:], index + 1
        if len(rest):
            writer.write(index, rest.tobytes())
        writer.finish(replace=True)
    except BaseException:
        writer.discard()
        raise


def _footer(checks: list[int], length: int) -> bytes:
    return np.array(checks, dtype="<u4").tobytes() + length.to_bytes(8, "little") + _MAGIC


def read_ring(path: Path) -> NDArray[np.uint32]:
    """The whole vector: uint32, shape (d,). Errors as `RingFile`."""
    with RingFile(path) as file:
        return file.read(0, file.length)
