"""The frames of an upload, and how many bytes they have before they are made: what the outbox says of it beforehand.

Invariant: `size` is exactly what `announcement` and `leaves` come to. Source: SubmitInputRequest in rounds.proto; the
encoding of protocol buffers (a tag and a length before each field; a `first` of 0 is left out).
"""

from collections.abc import Iterator

from fedveil.v1 import rounds_pb2 as pb
from fedveil_common import limits
from fedveil_common.leafshape import Shape
from fedveil_common.messages import SignedBlob
from fedveil_common.ports import LeafSource
from fedveil_common.wire import tables

_TAG = 1
"""Bytes of the tag of a field whose number is below 16."""


def announcement(header: SignedBlob, leaf_hashes: tuple[bytes, ...]) -> bytes:
    """The first frame: the signed header, and the hash of every leaf."""
    frame = pb.SubmitInputRequest()
    tables.BLOB.put(frame.announcement, "header", header)
    frame.announcement.leaf_hashes.extend(leaf_hashes)
    return frame.SerializeToString()


def leaves(source: LeafSource, start: int, stop: int) -> bytes:
    """A frame of the leaves start .. stop."""
    frame = pb.SubmitInputRequest()
    frame.leaves.first = start
    frame.leaves.leaves.extend(bytes(source.packed(index)) for index in range(start, stop))
    return frame.SerializeToString()


def ranges(first: int, count: int) -> Iterator[tuple[int, int]]:
    """(start, stop) of each frame of the leaves `first` .. `count`."""
    for start in range(first, count, limits.LEAVES_PER_FRAME):
        yield start, min(start + limits.LEAVES_PER_FRAME, count)


def size(shape: Shape, first: int) -> int:
    """Bytes of all frames with the leaves from `first` on."""
    return sum(_frame_size(shape, start, stop) for start, stop in ranges(first, shape.leaves))


def _frame_size(shape: Shape, start: int, stop: int) -> int:
    inner = _TAG + _varint_size(start) if start else 0
    inner += sum(_field_size(shape.size(index)) for index in range(start, stop))
    return _field_size(inner)


def _field_size(length: int) -> int:
    return _TAG + _varint_size(length) + length


def _varint_size(value: int) -> int:
    return max(1, -(-value.bit_length() // 7))
