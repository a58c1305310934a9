"""Files under the key of one holder, written in one pass and read at any place: without the key, only their size shows.

Promise: memory is one chunk; what is read is what was written under this name, or `aead_failed`: a chunk cannot be
changed, moved within its file or into another, and a file cannot be cut or made longer. A file exists only whole and
durable. Construction: STREAM (Hoang, Reyhanitabar, Rogaway, Vizar 2015) with the length known beforehand, so that
chunks can be read in any order; AES-256-GCM of NIST SP 800-38D.

Format: the 8 bytes "FVSEAL01"; a 32-byte salt, which is also the file's name; chunks of 512 KiB (the last shorter, and
one empty chunk for no content), each as ciphertext and 16-byte tag. Key = KDF(salt, the holder's key, "sealed/file",
context), fresh with the salt, so no nonce comes twice under it; nonce = 0^4 || u64be(chunk index); associated data =
the index and the length of the whole content. `context` says what the file is: it opens as nothing else.
"""

import os
from collections.abc import Iterable
from pathlib import Path

from fedveil_common import durable
from fedveil_common.crypto import aead
from fedveil_common.crypto.kdf import derive
from fedveil_common.crypto.labels import labelled, u32, u64
from fedveil_common.errors import IntegrityError, StorageError
from fedveil_common.ports import Entropy
from fedveil_common.secret import Seed

CHUNK_BYTES = 512 * 1024
"""Four leaves of float64: what a participant encodes at a time is one chunk."""

SALT_BYTES = 32
_MAGIC = b"FVSEAL01"
_HEAD = len(_MAGIC) + SALT_BYTES
_SEALED = CHUNK_BYTES + aead.TAG_BYTES


class SealedFiles:
    """Sealed files in one folder, which belongs to this store alone; hold the folder's lock.

    Whoever only reads beside the lock's holder says `sweep=False`, because a half-written file may be the holder's.
    """

    def __init__(self, folder: Path, key: Seed, entropy: Entropy, *, sweep: bool = True) -> None:
        self._folder = folder
        self._key = key
        self._entropy = entropy
        durable.make_folder(folder)
        if sweep:
            durable.sweep(folder)

    def write(self, parts: Iterable[memoryview], length: int, *context: bytes) -> bytes:
        """The content, `parts` end to end, is durable; returns the file's name, 32 bytes. `length`: bytes in all.

        ValueError if the parts have another length; then, and after a StorageError, nothing remains.
        """
        salt = self._entropy.take(SALT_BYTES)
        file = durable.TemporaryFile(self._folder)
        try:
            file.write(sealed_head(salt), 0)
            writer = _Writer(file, self._of(salt, context), length)
            for part in parts:
                if part.nbytes:  # an empty view cannot be cast
                    writer.write(part.cast("B"))
            writer.end()
            file.commit(salt.hex())
        finally:
            file.discard()
        return salt

    def open(self, name: bytes, *context: bytes) -> "SealedFile":
        """The file, to be closed. StorageError `sealed_file_missing`; IntegrityError `sealed_file_damaged` if it is no
        sealed file. Whether its content is what was written shows as it is read.
        """
        return SealedFile(self._folder / name.hex(), name, self._of(name, context))

    def delete(self, name: bytes) -> None:
        """The file is gone, durably; no error if it was not there."""
        durable.remove(self._folder / name.hex())

    def keep_only(self, names: frozenset[bytes]) -> int:
        """Removes every other file (left by a crash between file and row); returns how many."""
        kept = {name.hex() for name in names}
        extra = [path for path in self._folder.iterdir() if path.name not in kept]
        for path in extra:
            durable.remove(path)
        return len(extra)

    def _of(self, salt: bytes, context: tuple[bytes, ...]) -> bytes:
        return derive(salt, self._key.expose(), "sealed/file", *context)


def sealed_head(name: bytes) -> bytes:
    """How the sealed file of this name begins."""
    return _MAGIC + name


class _Writer:
    """Cuts what comes into chunks; a chunk that lies in one part is sealed where it lies."""

    def __init__(self, file: durable.TemporaryFile, key: bytes, length: int) -> None:
        self._file = file
        self._key = key
        self._length = length
        self._pending = bytearray()
        self._index = 0
        self._taken = 0

    def write(self, part: memoryview) -> None:
        self._taken += len(part)
        while part:
            if not self._pending and len(part) >= CHUNK_BYTES:
                self._seal(part[:CHUNK_BYTES])
                part = part[CHUNK_BYTES:]
                continue
            room = CHUNK_BYTES - len(self._pending)
            self._pending += part[:room]
            part = part[room:]
            if len(self._pending) == CHUNK_BYTES:
                self._seal(self._pending)
                self._pending = bytearray()

    def end(self) -> None:
        if self._taken != self._length:
            raise ValueError(f"{self._taken} bytes came, {self._length} were announced")
        if self._pending or not self._length:
            self._seal(self._pending)

    def _seal(self, chunk: bytearray | memoryview) -> None:
        sealed = aead.seal(self._key, _nonce(self._index), chunk, _associated(self._index, self._length))
        self._file.write(sealed, _HEAD + self._index * _SEALED)
        self._index += 1


class SealedFile:
    """A sealed file open for reading, from any thread. Close it, or use it in `with`."""

    def __init__(self, path: Path, name: bytes, key: bytes) -> None:
        self._path = path
        self._key = key
        try:
            self._descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError as error:
            raise StorageError("sealed_file_missing", f"{path} does not exist", not_done="nothing was read") from error
        except OSError as error:
            raise durable.storage_error(error, path) from error
        try:
            with durable.storing(path):
                size = os.fstat(self._descriptor).st_size
                head = os.pread(self._descriptor, _HEAD, 0)
            chunks = max(1, -(-(size - _HEAD) // _SEALED))
            self.length = size - _HEAD - chunks * aead.TAG_BYTES
            if head != sealed_head(name) or self.length < 0:
                raise self._damaged("it is not a sealed file of this name and format")
        except BaseException:
            os.close(self._descriptor)
            raise

    def read(self, start: int, size: int) -> bytes:
        """`size` bytes of the content from byte `start` on. IntegrityError `aead_failed` for another key, context, name
        or byte, `sealed_file_damaged` if the file ends before.
        """
        if not 0 <= start <= start + size <= self.length:
            raise self._damaged(f"bytes {start} .. {start + size} are not within its {self.length}")
        first, last = start // CHUNK_BYTES, max(start, start + size - 1) // CHUNK_BYTES
        if first == last and start == first * CHUNK_BYTES and size == min(CHUNK_BYTES, self.length - start):
            return self._chunk(first)  # as it came out of the cipher, without a copy
        parts = [self._chunk(index) for index in range(first, last + 1)]
        parts[-1] = parts[-1][: start + size - last * CHUNK_BYTES]
        parts[0] = parts[0][start - first * CHUNK_BYTES :]
        return b"".join(parts)

    def close(self) -> None:
        """The file is closed."""
        os.close(self._descriptor)

    def __enter__(self) -> "SealedFile":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _chunk(self, index: int) -> bytes:
        content = min(CHUNK_BYTES, max(0, self.length - index * CHUNK_BYTES))
        with durable.storing(self._path):
            sealed = os.pread(self._descriptor, content + aead.TAG_BYTES, _HEAD + index * _SEALED)
        return aead.open_sealed(self._key, _nonce(index), sealed, _associated(index, self.length))

    def _damaged(self, what: str) -> IntegrityError:
        return IntegrityError(
            "sealed_file_damaged",
            f"{self._path}: {what}",
            not_done="nothing of it was used",
            next_step="check the disk; what it held is made again where it can be",
        )


def _nonce(index: int) -> bytes:
    return u32(0) + u64(index)


def _associated(index: int, length: int) -> bytes:
    return labelled("sealed/chunk", u64(index), u64(length))
