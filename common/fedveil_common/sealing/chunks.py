"""The chunks of a sealed file: 1 MiB of plaintext each, under AES-256-GCM, in order, the last one marked as such.

Promise: what comes out is what was sealed, from the first byte to the last, or an error that names the chunk: none can
be changed, exchanged, repeated or left out, and the end cannot be cut off. Memory: two chunks. The nonce of chunk i is
u88be(i) and a last byte that is 1 for the final chunk; a chunk key is of one file (its salt and its data key), so none
repeats. Associated data: `Header.fixed`. Source: STREAM (Hoang, Reyhanitabar, Rogaway, Vizar 2015); docs/sealing.md.
"""

from collections.abc import Callable, Iterator
from typing import BinaryIO

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from fedveil_common.crypto import aead
from fedveil_common.errors import ConfigError, PeerError
from fedveil_common.sealing.header import CHUNK, Header
from fedveil_common.secret import Seed

SEALED_CHUNK = CHUNK + aead.TAG_BYTES

Read = Callable[[int], bytes]
"""As `read` of a binary file: at most so many bytes, fewer at the end."""


def seal(header: Header, key: Seed, read: Read) -> Iterator[bytearray]:
    """The sealed chunks of what `read` gives, each in the same memory as the one before. ConfigError `file_changed` if
    it does not give exactly `header.length` bytes.
    """
    cipher, fixed = AESGCM(header.chunk_key(key)), header.fixed
    room = bytearray(SEALED_CHUNK)
    for index in range(header.chunks):
        size = _size(header, index)
        part = _exactly(read, size)
        sealed = room if size == CHUNK else bytearray(size + aead.TAG_BYTES)
        cipher.encrypt_into(_nonce(header, index), part, fixed, sealed)
        yield sealed
    if read(1):
        raise _changed()


class Reader:
    """Chunks of one sealed file, in any order. `stream` is a seekable file whose header was parsed and checked."""

    def __init__(self, stream: BinaryIO, header: Header, start: int, key: Seed) -> None:
        self._stream, self._header, self._start = stream, header, start
        self._cipher, self._fixed = AESGCM(header.chunk_key(key)), header.fixed

    def chunk(self, index: int) -> bytes:
        """The plaintext of chunk `index`. PeerError `sealed_chunk_damaged` names it."""
        size = _size(self._header, index) + aead.TAG_BYTES
        self._stream.seek(self._start + index * SEALED_CHUNK)
        data = self._stream.read(size)
        try:
            if len(data) != size:
                raise InvalidTag
            return self._cipher.decrypt(_nonce(self._header, index), data, self._fixed)
        except InvalidTag:
            raise _damaged(self._header, index) from None

    def check_end(self) -> None:
        """Nothing stands behind the last chunk. PeerError `sealed_chunk_damaged`."""
        last = self._header.chunks - 1
        self._stream.seek(self._start + last * SEALED_CHUNK + _size(self._header, last) + aead.TAG_BYTES)
        if self._stream.read(1):
            raise _damaged(self._header, self._header.chunks)


def _size(header: Header, index: int) -> int:
    return min(CHUNK, header.length - index * CHUNK)


def _nonce(header: Header, index: int) -> bytes:
    return index.to_bytes(11, "big") + bytes([index == header.chunks - 1])


def _exactly(read: Read, size: int) -> bytes:
    part = read(size)
    while len(part) < size:
        more = read(size - len(part))
        if not more:
            raise _changed()
        part += more
    return part


def _changed() -> ConfigError:
    return ConfigError(
        "file_changed",
        "the file became longer or shorter while it was sealed",
        not_done="nothing was sealed",
        next_step="seal it when nobody writes to it",
    )


def _damaged(header: Header, index: int) -> PeerError:
    return PeerError(
        "sealed_chunk_damaged",
        f"chunk {index} of {header.chunks} of the sealed file is damaged, missing, or of another file",
        not_done="nothing was kept of what was opened before it",
        next_step="take another copy of the file",
    )
