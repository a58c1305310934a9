"""A model file read once from its beginning to its end, in pieces, without its parameters being kept.

Promise: what `read` returns is what `modelfile.read_model` would find of the same bytes, and it refuses the same files;
memory is the header and a few pieces, whatever the size of the model. Hashing is done in `pool`, on pieces that do not
depend on each other. Nothing is verified: `modelfile.verify_head` takes what comes out.
"""

from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Executor, Future

from fedveil_common import modelfile, transcript
from fedveil_common.errors import PeerError
from fedveil_common.modelfile import ModelHead

AHEAD = 4
"""Pieces that may wait in the pool: more would only take memory."""

START = 8
"""Bytes that say how long the header is."""


def read(pieces: Iterable[bytes], pool: Executor) -> tuple[ModelHead, bytes]:
    """(what stands before the parameters, the hash of these) of the file that `pieces` are, end to end.

    PeerError `bad_model_file`; NotInThisReleaseError; what `pieces` raises.
    """
    given = iter(pieces)
    begin, rest = _take(given, b"", START)
    size = modelfile.head_size(begin)
    more, rest = _take(given, rest, size - START)
    head = modelfile.read_head(begin + more)
    leaves, length = _hashed(_whole_leaves(given, rest), pool)
    modelfile.check_length(head.plan, length)
    return head, transcript.model_root(leaves)


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
