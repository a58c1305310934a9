"""A model file read once from its beginning to its end, in pieces.

Promise: what `read` and `read_model` return is what `modelfile.read_model` would find of the same bytes, and they
refuse the same files; the memory of `read` is the header and a few pieces, whatever the size of the model. Hashing is
done in `pool`, on pieces that do not depend on each other. Nothing is verified: `modelfile.verify_head` takes what
comes out.
"""

from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Executor, Future

import numpy as np

from fedveil_common import modelfile, transcript
from fedveil_common.errors import PeerError
from fedveil_common.modelfile import ModelFile, ModelHead

AHEAD = 4
"""Pieces that may wait in the pool: more would only take memory."""

START = 8
"""Bytes that say how long the header is."""


def read(pieces: Iterable[bytes], pool: Executor) -> tuple[ModelHead, bytes]:
    """(what stands before the parameters, the hash of these) of the file that `pieces` are, end to end.

    PeerError `bad_model_file`; NotInThisReleaseError; what `pieces` raises.
    """
    head, _, parts = _begin(iter(pieces))
    return head, _hash(head, parts, pool)


def read_model(pieces: Iterable[bytes], pool: Executor, size: int | None) -> tuple[ModelFile, bytes]:
    """(the file, the hash of its parameters), in the memory of these. `size`: bytes of the file where they are known:
    a plan of many parameters in a short file gets no room. None: the file is collected before room is made.

    Raises as `read`.
    """
    head, start, parts = _begin(iter(pieces))
    if size is None:
        collected = list(parts)
        size, parts = start + sum(map(len, collected)), iter(collected)
    modelfile.check_length(head.plan, size - start)
    room = np.empty((size - start) // 4, dtype="<f4")
    model_hash = _hash(head, _kept(parts, room.data.cast("B"), head), pool)
    return modelfile.whole(head, room.astype(np.float32, copy=False)), model_hash


def _begin(given: Iterator[bytes]) -> tuple[ModelHead, int, Iterator[bytes]]:
    """(the head, how many bytes it has, the parameters in parts)."""
    begin, rest = _take(given, b"", START)
    size = modelfile.head_size(begin)
    more, rest = _take(given, rest, size - START)
    return modelfile.read_head(begin + more), size, _whole_leaves(given, rest)


def _hash(head: ModelHead, parts: Iterator[bytes], pool: Executor) -> bytes:
    leaves, length = _hashed(parts, pool)
    modelfile.check_length(head.plan, length)
    return transcript.model_root(leaves)


def _kept(parts: Iterator[bytes], room: memoryview, head: ModelHead) -> Iterator[bytes]:
    """The parts, each put where it belongs."""
    at = 0
    for part in parts:
        if at + len(part) > len(room):  # the file grew while it was read
            modelfile.check_length(head.plan, at + len(part))
        room[at : at + len(part)] = part
        at += len(part)
        yield part


def _take(given: Iterator[bytes], rest: bytes, size: int) -> tuple[bytes, bytes]:
    """(the next `size` bytes, or fewer at the end of the file; what was read beyond). `rest`: read before."""
    parts, length = [rest], len(rest)
    while length < size and (piece := next(given, b"")):
        parts.append(piece)
        length += len(piece)
    data = b"".join(parts)
    return data[:size], data[size:]


def _whole_leaves(given: Iterator[bytes], rest: bytes) -> Iterator[bytes]:
    """The parameters in parts that end where a leaf of their hash does, but for the last part."""
    for piece in given:
        data = rest + piece
        whole = len(data) - len(data) % transcript.MODEL_LEAF_BYTES
        rest = data[whole:]
        if whole:
            yield data[:whole]
    if rest:
        yield rest


def _hashed(parts: Iterator[bytes], pool: Executor) -> tuple[list[bytes], int]:
    """(the leaf hashes in order, bytes in all)."""
    leaves: list[bytes] = []
    waiting: deque[Future[list[bytes]]] = deque()
    length = first = 0
    try:
        for part in parts:
            if len(part) % 4:
                raise PeerError(
                    "bad_model_file",
                    "this is not a Fedveil model file: it ends within a parameter",
                    not_done="the model was not loaded",
                )
            waiting.append(pool.submit(modelfile.part_leaves, part, first))
            length, first = length + len(part), first + -(-len(part) // transcript.MODEL_LEAF_BYTES)
            if len(waiting) == AHEAD:
                leaves += waiting.popleft().result()
        while waiting:
            leaves += waiting.popleft().result()
    finally:
        for one in waiting:
            one.cancel()
    return leaves, length
