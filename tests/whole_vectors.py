"""Vectors masked, opened and stored whole, by the product's own steps.

The product works on a vector leaf by leaf and never holds a masked one whole; the tests compare and attack whole ones.
Nothing is computed here: `masked` is what a participant uploads, put together again. So a defence removed from the
product is removed here too.
"""

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from fedveil_common.ids import OrgId
from fedveil_common.masking import masks
from fedveil_common.masking.packing import unpack
from fedveil_common.masking.ring import Ring, signed
from fedveil_common.ringfile import RingWriter
from fedveil_common.transcript import LEAF_COORDINATES, input_leaf
from fedveil_participant.protecting import protect


def masked(
    values: Ring, keys: Sequence[masks.MaskKey], t2: bytes, org: OrgId, bits: int = 32
) -> tuple[Ring, tuple[bytes, ...]]:
    """(what `org` uploads for `values`, its leaf hashes): encoded, masked, packed and hashed by `protect`."""
    written: dict[int, bytes] = {}
    hashes = protect(
        len(values),
        bits,
        lambda start, count: signed(values[start : start + count], bits).astype(np.int64),
        keys,
        t2,
        org,
        lambda index, leaf: written.update({index: bytes(leaf)}),
    )
    sizes = [min(LEAF_COORDINATES, len(values) - start) for start in range(0, len(values), LEAF_COORDINATES)]
    parts: list[Ring] = [unpack(written[index], size, bits) for index, size in enumerate(sizes)]
    return np.concatenate(parts), hashes


def apply(ring: Ring, keys: Iterable[masks.MaskKey], start_word: int = 0) -> None:
    """Every stream on `ring`, in place; its first coordinate is number `start_word`."""
    masks.streams(keys, start_word, 8 * ring.dtype.itemsize).apply(ring)


def unmask(
    acc: Ring, self_keys: Iterable[bytes], dropped_pair_keys: Iterable[masks.MaskKey], start_word: int = 0
) -> None:
    """The sum of masked inputs opened, in place; arguments as `masks.opening_keys`."""
    apply(acc, masks.opening_keys(self_keys, dropped_pair_keys), start_word)


def leaf_hashes(t2: bytes, org: OrgId, ring: Ring, bits: int) -> list[bytes]:
    """What the header of a masked input commits to."""
    return [input_leaf(t2, org, index, leaf) for index, leaf in masks.leaves(ring, bits)]


def store(path: Path, ring: Ring, bits: int) -> None:
    """A ring file of a vector, in place of an older one."""
    writer = RingWriter(path, len(ring), bits)
    for index, leaf in masks.leaves(ring, bits):
        writer.write(index, leaf)
    writer.finish(replace=True)
