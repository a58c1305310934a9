"""A leaf file that arrives leaf by leaf, in order, over as many connections and processes as it takes.

Promise: a leaf that was verified and written is not asked for again and not replaced, also after a crash; the vector
appears under its name only whole and durable. What a crash left is believed for as far as it still matches what was
announced, so nothing is synced, and nothing about the leaves recorded, before the end. The part's name carries what it
is a part of (the digest of the signed header): a sender that announces another vector is refused, and the disk that one
sender can fill is one vector.
"""

import bisect
import os
import threading
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from fedveil_common import durable
from fedveil_common.errors import PeerError
from fedveil_common.leaffile import LeafFile, end_of
from fedveil_common.leafform import SALT_BYTES, Data, LeafForm, LeafSeal, Plain
from fedveil_common.leafshape import Shape

_PART = ".part"


@dataclass(frozen=True, slots=True)
class Announced:
    """What a sender has committed to: `identity` is 32 bytes that no other announcement has, `matches` says whether the
    bytes are those of leaf number so-and-so.
    """

    shape: Shape
    identity: bytes
    matches: Callable[[int, bytes], bool]


class LeafSpool:
    """One arrival. Ends with `close`, after which it can be taken up again if it was not finished.

    One thread writes. `close` may come from another: it waits for the leaf that is being written, and no other is.
    """

    def __init__(
        self, path: Path, announced: Announced, known: list[int], what: str = "input", seal: LeafSeal | None = None
    ) -> None:
        """`known`: check sums of the leaves that this process has verified and written before; kept up to date.
        `what` the vector is to its sender, for the words of errors. `seal`: of the file that the vector becomes.

        PeerError `input_differs` if another vector was announced, or is there already; StorageError.
        """
        self._path = path
        self._shape = announced.shape
        self._seal = seal
        self._form: LeafForm = Plain(announced.shape)
        self._what = what
        self._part = path.with_name(f"{path.name}.{announced.identity.hex()}{_PART}")
        self._checks = known
        self._lock = threading.Lock()
        self._descriptor = -1
        if path.exists():
            self._compare(announced)
            self._complete = True
            return
        self._complete = False
        with durable.storing(path.parent):
            others = [one for one in path.parent.glob(f"{path.name}.*{_PART}") if one != self._part]
        if others:
            raise self._differs("was announced before")
        with durable.storing(self._part):
            self._descriptor = os.open(self._part, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            self._take_up(announced)
        except BaseException:
            self.close()
            raise

    @property
    def first_missing(self) -> int:
        """How many leaves are there: verified, and written."""
        return self._shape.leaves if self._complete else len(self._checks)

    def write(self, index: int, data: bytes | bytearray) -> None:
        """Leaf `index`, verified: the first that is missing. StorageError leaves what was there."""
        with self._lock:
            if self._descriptor < 0 or index != self.first_missing or index >= self._shape.leaves:
                raise ValueError(f"leaf {index} is not the one that is missing ({self.first_missing}), or it is closed")
            if len(data) != self._shape.size(index):
                raise ValueError(f"leaf {index} cannot have {len(data)} bytes")
            with durable.storing(self._part):
                self._put(self._form.keep(index, data), self._form.place(index))
            self._checks.append(zlib.crc32(data))

    def finish(self) -> None:
        """The vector is durable under its name. ValueError if a leaf is missing; PeerError `input_not_expected` if what
        was collected has been discarded meanwhile; StorageError.
        """
        with self._lock:
            if self.first_missing != self._shape.leaves:
                raise ValueError(f"leaf {self.first_missing} is missing")
            if self._complete:
                return
            if not self._part.exists():
                raise PeerError("input_not_expected", "the attempt ended while its input or answer arrived")
            with durable.storing(self._part):
                self._put(end_of(self._checks, self._shape, self._form), self._form.place(self._shape.leaves))
                os.fsync(self._descriptor)
                self._part.rename(self._path)
            durable.sync_folder(self._path.parent)
            self._complete = True
            self._checks.clear()

    def close(self) -> None:
        """Done for now: what was written stays."""
        with self._lock:
            if self._descriptor >= 0:
                os.close(self._descriptor)
                self._descriptor = -1

    def _take_up(self, announced: Announced) -> None:
        """Believe the leaves on the disk that match the announcement, in order; what follows them is cut off."""
        with durable.storing(self._part):
            size = os.fstat(self._descriptor).st_size
        if self._seal is not None:
            size = self._begin(self._seal, size)
        del self._checks[self._whole(size) :]
        while len(self._checks) < self._whole(size):
            index = len(self._checks)
            with durable.storing(self._part):
                stored = os.pread(self._descriptor, self._form.size(index), self._form.place(index))
            try:
                data = bytes(self._form.open(index, bytearray(stored)))
            except ValueError:  # torn by a crash
                break
            if not announced.matches(index, data):
                break
            self._checks.append(zlib.crc32(data))
        if self._seal is not None and not self._checks:
            self._begin(self._seal, 0)  # a salt that a power cut left unwritten seals nothing
        with durable.storing(self._part):
            os.ftruncate(self._descriptor, self._form.place(len(self._checks)))

    def _begin(self, seal: LeafSeal, size: int) -> int:
        """The part's own key, under the salt with which it begins; a part without one begins now. Its size then."""
        with durable.storing(self._part):
            if size >= SALT_BYTES:
                self._form = seal.under(self._shape, os.pread(self._descriptor, SALT_BYTES, 0))
                return size
            form = seal.fresh(self._shape)
            os.ftruncate(self._descriptor, 0)
            self._put(form.head, 0)
        self._form = form
        return SALT_BYTES

    def _put(self, data: Data, offset: int) -> None:
        """All of `data` at `offset`: a disk that is nearly full takes a part, and says so at the next one."""
        view = memoryview(data)
        while view:
            written = os.pwrite(self._descriptor, view, offset)
            view, offset = view[written:], offset + written

    def _compare(self, announced: Announced) -> None:
        """The whole vector is there already: from a sender that did not hear so, or from before a crash."""
        with LeafFile(self._path, self._seal) as file:
            if file.shape != self._shape or not all(
                announced.matches(index, bytes(file.packed(index))) for index in range(file.leaves)
            ):
                raise self._differs("was already stored")

    def _whole(self, size: int) -> int:
        """How many whole leaves `size` bytes hold."""
        return bisect.bisect_right(range(1, self._shape.leaves + 1), size, key=self._form.place)

    def _differs(self, how: str) -> PeerError:
        return PeerError(
            "input_differs",
            f"another {self._what} of this attempt {how}",
            not_done=f"nothing was taken; the first {self._what} of an attempt stays",
            next_step="a participant sends it once an attempt: look for two machines that use the same home",
        )
