"""Vectors on disk, leaf by leaf as they travel, each leaf checked as it is read; their shape stands at the end.

Promise: a leaf file exists only whole and durable; a leaf that changed on the disk is found before it is used for
anything; reading a leaf costs the memory of that leaf. The check is a CRC-32 a leaf: it guards against the disk, while
who made the vector was checked by signature and hash when it arrived. Whoever has a `LeafSeal` writes and reads sealed
files, and no others: a file in clear is then refused, as a sealed one is without it.
Format: the leaves; CRC-32 of each leaf (u32 little-endian); the 20 bytes of the shape (`leafshape`). Of a sealed file:
see `leafform`.
"""

import os
import threading
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Self

from fedveil_common import at_rest, durable
from fedveil_common.errors import IntegrityError, PeerError, StorageError
from fedveil_common.leafform import SALT_BYTES, SEALED_MARK, LeafForm, LeafSeal, Plain, form_of
from fedveil_common.leafshape import TRAILER_BYTES, Shape, shape_of

_ENDING = TRAILER_BYTES + len(SEALED_MARK)


class LeafWriter:
    """A leaf file in the making; its leaves come in any order, from any thread."""

    def __init__(self, path: Path, shape: Shape, seal: LeafSeal | None = None) -> None:
        """StorageError."""
        self._path = path
        self._shape = shape
        self._seal = seal
        self._form = form_of(shape, seal)
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
        self._file.write(self._form.keep(index, data), self._form.place(index))

    def finish(self, *, replace: bool = False, modified_ns: int | None = None) -> None:
        """The file is durable under its name. If there is one already, it stays and must be of the same content (the
        first one wins), unless `replace`. ValueError if a leaf is missing; PeerError `input_differs`; StorageError.
        `modified_ns`: as `durable.TemporaryFile.commit`.
        """
        missing = [index for index, check in enumerate(self._checks) if check is None]
        if missing:
            self.discard()
            raise ValueError(f"leaf {missing[0]} is missing")
        checks = [check or 0 for check in self._checks]
        if not replace and self._path.exists():
            self.discard()
            with LeafFile(self._path, self._seal) as first:
                if (first.shape, first.checks) != (self._shape, checks):
                    raise PeerError("input_differs", f"{self._path.name} was already stored with another content")
            return
        if self._form.head:
            self._file.write(self._form.head, 0)
        self._file.write(end_of(checks, self._shape, self._form), self._form.place(self._shape.leaves))
        self._file.commit(self._path.name, modified_ns)

    def discard(self) -> None:
        """Nothing remains. Does nothing after `finish`."""
        self._file.discard()


class LeafFile:
    """A leaf file open for reading, from any thread, of the shape that it says. Close it, or use it in `with`.

    Its error codes speak of ring files, whatever its shape: they are older than the other one.
    """

    shape: Shape
    checks: list[int]
    """CRC-32 of each leaf: equal for equal content (not against an adversary)."""

    def __init__(self, path: Path, seal: LeafSeal | None = None) -> None:
        """StorageError `ring_file_missing`; IntegrityError `ring_file_damaged`, `not_sealed_at_rest`; SealedError
        `sealed_at_rest`.
        """
        self.path = path
        try:
            self._descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError as error:
            raise StorageError("ring_file_missing", f"{path} does not exist", not_done="nothing was read") from error
        except OSError as error:
            raise durable.storage_error(error, path) from error
        try:
            self._form = self._open(seal)
        except BaseException:
            os.close(self._descriptor)
            raise

    def _open(self, seal: LeafSeal | None) -> LeafForm:
        with durable.storing(self.path):
            size = os.fstat(self._descriptor).st_size
            ending = os.pread(self._descriptor, _ENDING, max(0, size - _ENDING))
        sealed = ending.endswith(SEALED_MARK)
        if sealed is not (seal is not None):
            raise at_rest.sealed(self.path) if sealed else self._unsealed(ending)
        try:
            self.shape = shape_of(ending.removesuffix(SEALED_MARK)[-TRAILER_BYTES:])
        except ValueError:
            raise self._damaged("its end is missing") from None
        self.leaves = self.shape.leaves
        form: LeafForm = Plain(self.shape)
        if seal is not None:
            with durable.storing(self.path):
                form = seal.under(self.shape, os.pread(self._descriptor, SALT_BYTES, 0))
        end = form.place(self.leaves)
        if size != end + form.checks_size + TRAILER_BYTES + len(form.tail):
            raise self._damaged("its size is not that of its content")
        with durable.storing(self.path):
            stored = os.pread(self._descriptor, form.checks_size, end)
        try:
            self.checks = form.open_checks(stored)
        except ValueError:
            raise self._damaged("it does not open under the storage key") from None
        return form

    def packed(self, index: int) -> bytearray:
        """Leaf `index` as it travels, in fresh memory. IntegrityError `ring_file_damaged` naming file and leaf;
        ValueError outside the file.
        """
        if not 0 <= index < self.leaves:
            raise ValueError(f"leaf {index} is not in a file of {self.leaves}")
        stored = bytearray(self._form.size(index))
        view, start, done = memoryview(stored), self._form.place(index), 0
        with durable.storing(self.path):
            while done < len(view):
                got = os.preadv(self._descriptor, [view[done:]], start + done)
                if got == 0:
                    raise self._damaged("it is too short")
                done += got
        try:
            data = self._form.open(index, stored)
        except ValueError:
            raise self._damaged(f"leaf {index} does not open under the storage key") from None
        if zlib.crc32(data) != self.checks[index]:
            raise self._damaged(f"leaf {index} does not match its check sum")
        return data

    def close(self) -> None:
        """The file is closed."""
        os.close(self._descriptor)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _unsealed(self, ending: bytes) -> IntegrityError:
        """There is a key, and the file is not under it: in clear, or damaged."""
        try:
            shape_of(ending[-TRAILER_BYTES:])
        except ValueError:
            return self._damaged("its end is missing")
        return at_rest.in_clear(self.path)

    def _damaged(self, what: str) -> IntegrityError:
        return IntegrityError(
            "ring_file_damaged",
            f"{self.path}: {what}",
            not_done="nothing of it was used",
            next_step="check the disk; the attempt must be repeated",
        )


def end_of(checks: Sequence[int], shape: Shape, form: LeafForm) -> bytes:
    """What stands behind the leaves of a file; `checks`: the CRC-32 of each leaf."""
    return form.keep_checks(checks) + shape.trailer + form.tail
