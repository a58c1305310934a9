"""Vectors of ring elements on disk: leaf files whose leaves are packed residues (`leaffile`, "FVRING02").

Promise: as `leaffile`; a file of another shape is refused before anything of it is used.
"""

from pathlib import Path

from fedveil_common.leaffile import LeafFile, LeafWriter
from fedveil_common.leafform import LeafSeal
from fedveil_common.leafshape import RingShape, leaf_count, leaf_length
from fedveil_common.masking.packing import unpack
from fedveil_common.masking.ring import Ring, Signed, signed, signed_zeros, zeros
from fedveil_common.ports import LeafSource
from fedveil_common.transcript import LEAF_COORDINATES


def residues(source: LeafSource, index: int) -> Ring:
    """The residues of leaf `index`, in fresh memory. Errors as `source.packed`; ValueError if it holds none."""
    if not isinstance(source.shape, RingShape):
        raise ValueError("leaves of another shape hold no residues")
    return unpack(source.packed(index), leaf_length(source.shape.length, index), source.shape.bits)


class RingWriter(LeafWriter):
    """A ring file in the making: `length` elements modulo 2^bits; its leaves come in any order, from any thread."""

    def __init__(self, path: Path, length: int, bits: int, seal: LeafSeal | None = None) -> None:
        """ValueError for an empty vector; StorageError."""
        super().__init__(path, RingShape(length, bits), seal)


class RingFile(LeafFile):
    """A ring file open for reading, from any thread. Close it, or use it in `with`."""

    def __init__(self, path: Path, seal: LeafSeal | None = None) -> None:
        """As `LeafFile`; IntegrityError `ring_file_damaged` also for a file of another shape."""
        super().__init__(path, seal)
        if not isinstance(self.shape, RingShape):
            self.close()
            raise self._damaged("it holds no ring elements")
        self.length, self.bits = self.shape.length, self.shape.bits

    def leaf(self, index: int) -> Ring:
        """The residues of leaf `index`, in fresh memory. Errors as `packed`."""
        return residues(self, index)

    def whole(self) -> Ring:
        """The whole vector, shape (length,), in fresh memory. Errors as `packed`."""
        values = zeros(self.length, self.bits)
        for index in range(self.leaves):
            start = index * LEAF_COORDINATES
            values[start : start + LEAF_COORDINATES] = self.leaf(index)
        return values


def read_signed(path: Path, seal: LeafSeal | None = None) -> Signed:
    """The whole vector as signed integers, shape (d,). Errors as `RingFile`."""
    with RingFile(path, seal) as file:
        values = signed_zeros(file.length, file.bits)
        for index in range(file.leaves):
            start = index * LEAF_COORDINATES
            values[start : start + LEAF_COORDINATES] = signed(file.leaf(index), file.bits)
        return values


__all__ = ["RingFile", "RingWriter", "leaf_count", "leaf_length", "read_signed", "residues"]
