"""Model files that a person named, read once from their beginning to their end.

Promise: `look_through` takes the memory of a few pieces, whatever the size of the model; `load` that of its parameters,
once. Both hash them while they are read, so that what was hashed is what is used. Nothing is verified here.
"""

import os
import pathlib
import stat
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import BinaryIO

from fedveil_common.exchange import model_stream
from fedveil_common.modelfile import ModelFile, ModelHead
from fedveil_common.named_file import open_named
from fedveil_common.plan import check_release

from fedveil_cli.files import MAX_MODEL, too_large, unreadable

THREADS = 2
"""That hash at a time: parts of a model do not depend on each other."""

PIECE = 1024 * 1024
"""Bytes that are read at a time."""

WHAT = "the model"


@dataclass(frozen=True, slots=True)
class Seen:
    """A model file without its parameters, and the hash of these, 32 bytes."""

    head: ModelHead
    model_hash: bytes


def look_through(path: pathlib.Path) -> Seen:
    """The file at `path`, its form checked and its signatures not.

    ConfigError `file_unreadable`, `file_too_large`; PeerError `bad_model_file`; NotInThisReleaseError.
    """
    with _opened(path) as stream, ThreadPoolExecutor(THREADS) as pool:
        head, model_hash = model_stream.read(_pieces(path, stream), pool)
    check_release(head.plan)
    return Seen(head, model_hash)


def load(path: pathlib.Path) -> tuple[ModelFile, bytes]:
    """The same with its parameters; and the hash of these. Raises as `look_through`."""
    with _opened(path) as stream, ThreadPoolExecutor(THREADS) as pool:
        found = os.fstat(stream.fileno())
        size = found.st_size if stat.S_ISREG(found.st_mode) else None
        file, model_hash = model_stream.read_model(_pieces(path, stream), pool, size)
    check_release(file.plan)
    return file, model_hash


@contextmanager
def _opened(path: pathlib.Path) -> Iterator[BinaryIO]:
    try:
        stream = open_named(path, pipe=True)
    except OSError as error:
        raise unreadable(path, WHAT, error) from None
    with stream:
        yield stream


def _pieces(path: pathlib.Path, stream: BinaryIO) -> Iterator[bytes]:
    length = 0
    while True:
        try:
            piece = stream.read(PIECE)
        except OSError as error:
            raise unreadable(path, WHAT, error) from None
        if not piece:
            return
        length += len(piece)
        if length > MAX_MODEL:
            raise too_large(path, WHAT, MAX_MODEL)
        yield piece
