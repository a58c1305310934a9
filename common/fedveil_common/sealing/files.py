"""Files sealed, opened and given to other recipients, each as a whole or not at all.

Promise: output appears under its name only after its last chunk was written and is durable, so nothing half-open and
nothing half-sealed is left, whatever ends the process: until then the file has no name (O_TMPFILE). A killed process
leaves a file that begins with `.tmp-` where a file system knows no such files, and a whole one where it was about to
replace another file.
A data key is fresh for each seal: a seal that was killed begins anew. Memory: a few chunks, whatever the size. Giving a
file to other recipients (`rewrap`) takes nothing back from those who had it; sealing it anew does (`reencrypt`).
Source: docs/sealing.md.
"""

import hmac
import io
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from fedveil_common.crypto import aead
from fedveil_common.durable import LargeFile
from fedveil_common.errors import ConfigError
from fedveil_common.ports import Entropy
from fedveil_common.sealing import chunks, header
from fedveil_common.sealing.header import CHUNK, Header, Slot, Subject
from fedveil_common.secret import Seed

Wrap = Callable[[Seed], tuple[Slot, ...]]
"""The slots for a data key: `recipients.wrap_for` or `wrap_passphrase`."""

Unwrap = Callable[[Header], Seed]
"""The data key of a file whose header passed its checks: `recipients.unwrap` or `unwrap_passphrase`."""


def seal(source: BinaryIO, length: int, out: Path, subject: Subject, wrap: Wrap, entropy: Entropy) -> Header:
    """Seals the next `length` bytes of `source`, which must be all of it, into `out`; the header that was written.

    ConfigError `file_changed`, StorageError.
    """
    key, salt = Seed(entropy.take(aead.KEY_BYTES)), entropy.take(header.SALT_BYTES)
    made = header.make(key, subject, salt, length, wrap(key))
    begin = header.to_bytes(made)
    file = LargeFile(out.parent)
    try:
        file.append(begin)
        for chunk in chunks.seal(made, key, source.read):
            file.append(chunk)
        file.commit(out.name)
    finally:
        file.discard()
    return made


def unseal(source: BinaryIO, out: Path, unwrap: Unwrap, expected: Callable[[Subject], None]) -> Header:
    """Opens a sealed file into `out` (0600). `expected` raises for a subject that is not the one that was asked for.

    ConfigError `not_sealed`, `sealed_version_unknown`; PeerError `sealed_header_damaged`, `sealed_chunk_damaged`;
    SealedError.
    """
    opened = Opened(source, unwrap, expected)
    file = LargeFile(out.parent)
    try:
        for index in range(opened.header.chunks):
            file.append(opened.chunk(index))
        opened.check_end()
        file.commit(out.name)
    finally:
        file.discard()
    return opened.header


def rewrap(source: BinaryIO, out: Path, unwrap: Unwrap, wrap: Wrap) -> Header:
    """The same sealed chunks for other recipients, under the same data key. Every chunk is checked on the way, so a
    damaged file is not passed on.
    """
    before, start = header.parse(source)
    key = unwrap(before)
    made = header.make(key, before.subject, before.salt, before.length, wrap(key))
    begin, reader = header.to_bytes(made), chunks.Reader(source, before, start, key)
    file = LargeFile(out.parent)
    try:
        file.append(begin)
        for index in range(before.chunks):
            reader.chunk(index)
            source.seek(start + index * chunks.SEALED_CHUNK)
            file.append(source.read(chunks.SEALED_CHUNK))
        reader.check_end()
        file.commit(out.name)
    finally:
        file.discard()
    return made


def reencrypt(source: BinaryIO, out: Path, unwrap: Unwrap, wrap: Wrap, entropy: Entropy) -> Header:
    """The content under a new data key, for the recipients of `wrap` alone: who only had the old key cannot open it.
    Plaintext is in memory only.
    """
    opened = Opened(source, unwrap, lambda subject: None)
    opened.check_end()
    reading = io.BufferedReader(Stream(opened), CHUNK)
    return seal(reading, opened.header.length, out, opened.header.subject, wrap, entropy)


class Opened:
    """A sealed file whose header was checked under its data key. `source`: seekable, at its start."""

    def __init__(self, source: BinaryIO, unwrap: Unwrap, expected: Callable[[Subject], None]) -> None:
        self.header, start = header.parse(source)
        expected(self.header.subject)
        self._reader = chunks.Reader(source, self.header, start, unwrap(self.header))

    def chunk(self, index: int) -> bytes:
        """Plaintext of a chunk. PeerError `sealed_chunk_damaged`."""
        return self._reader.chunk(index)

    def all(self) -> Iterator[bytes]:
        """Every chunk, in order; the end is checked. PeerError `sealed_chunk_damaged`."""
        for index in range(self.header.chunks):
            yield self.chunk(index)
        self.check_end()

    def check_end(self) -> None:
        """See `chunks.Reader.check_end`."""
        self._reader.check_end()


class ReadTwice:
    """A sealed file that is looked at as a whole before anything is made of it: the second reading gives what the first
    one gave, or an error, though nothing is kept of it but 16 bytes a chunk.

    That it opens again under the same key is not enough: whoever has the data key and may write to the file could put
    another chunk in between. So each chunk is marked with GMAC (NIST SP 800-38D) under a key that only this object
    knows, one nonce a chunk: what fits a mark that its maker never saw is guessed with probability 2^-111 at most.
    """

    def __init__(self, opened: Opened, entropy: Entropy) -> None:
        self._opened = opened
        self._mark = AESGCM(entropy.take(aead.KEY_BYTES))
        self._marks: list[bytes] = []

    def first(self) -> Iterator[bytes]:
        """Every chunk, in order; the end is checked. PeerError `sealed_chunk_damaged`."""
        for index in range(self._opened.header.chunks):
            chunk = self._opened.chunk(index)
            self._marks.append(self._of(index, chunk))
            yield chunk
        self._opened.check_end()

    def again(self) -> Iterator[bytes]:
        """The same chunks, once `first` has ended. ConfigError `file_changed`; PeerError as `first`."""
        for index, mark in enumerate(self._marks):
            chunk = self._opened.chunk(index)
            if not hmac.compare_digest(self._of(index, chunk), mark):
                raise ConfigError(
                    "file_changed",
                    "somebody wrote to the sealed file while it was opened",
                    not_done="nothing was opened",
                    next_step="open it when nobody writes to it",
                )
            yield chunk

    def _of(self, index: int, chunk: bytes) -> bytes:
        return self._mark.encrypt(index.to_bytes(aead.NONCE_BYTES, "big"), b"", chunk)


class Stream(io.RawIOBase):
    """The plaintext of a sealed file as a seekable binary stream: nothing of it touches a disk. Not for two threads.

    Reading raises PeerError `sealed_chunk_damaged` at the chunk; the end is checked when it is read.
    """

    def __init__(self, opened: Opened) -> None:
        super().__init__()
        self._opened = opened
        self._at = 0
        self._held: tuple[int, bytes] = (-1, b"")

    def readable(self) -> bool:
        """Always."""
        return True

    def seekable(self) -> bool:
        """Always."""
        return True

    def tell(self) -> int:
        """Where the next read begins."""
        return self._at

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """As of any file."""
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self._opened.header.length}[whence]
        if base + offset < 0:
            raise ValueError("a position before the beginning")
        self._at = base + offset
        return self._at

    def readinto(self, buffer: bytearray | memoryview) -> int:  # type: ignore[override]
        """As much as there is, up to the size of `buffer`: readers of columns take a short read for the end."""
        view, done, length = memoryview(buffer).cast("B"), 0, self._opened.header.length
        while done < len(view) and self._at < length:
            index, within = divmod(self._at, CHUNK)
            if self._held[0] != index:
                self._held = (index, self._opened.chunk(index))
            part = memoryview(self._held[1])[within : within + len(view) - done]
            view[done : done + len(part)] = part
            done, self._at = done + len(part), self._at + len(part)
        if self._at >= length:
            self._opened.check_end()
        return done


def expect(kind: str, federation_id: str | None, object_id: str | None) -> Callable[[Subject], None]:
    """Refuses another kind, federation or object than was asked for (None: any): `sealed_for_another`."""

    def check(subject: Subject) -> None:
        asked = {"kind": kind, "federation": federation_id, "object": object_id}
        found = {"kind": subject.kind, "federation": subject.federation_id, "object": subject.object_id}
        for what, wanted in asked.items():
            if wanted is not None and found[what] != wanted:
                raise ConfigError(
                    "sealed_for_another",
                    f"the sealed file says {what} {found[what]}, and {wanted} was asked for",
                    not_done="nothing was opened",
                    next_step="name the right file, or ask for what it holds",
                )

    return check
