"""Files by content, plain or sealed: written whole or not at all, and checked whenever they are read.

`BlobStore`: the name is the SHA-256 of the file, verified on every read. `SealedBlobStore`: the same store, holding
ciphertext. Format of a sealed blob: 32-byte salt, then chunks of 1 MiB under AES-256-GCM; key = KDF(salt, the
caller's key, "blob/key"), nonce = chunk index, and each chunk's associated data binds its index, its length and whether
it is the last, so that a chunk cannot be moved, cut off or added. The salt is fresh, so a key never sees a nonce twice.
Source: NIST SP 800-38D; the STREAM construction of Hoang, Reyhanitabar, Rogaway and Vizar (2015).
"""

import hashlib
from collections.abc import Iterator
from pathlib import Path

from fedveil_common import durable
from fedveil_common.crypto import aead
from fedveil_common.crypto.kdf import derive
from fedveil_common.crypto.labels import labelled, u32, u64
from fedveil_common.errors import IntegrityError, StorageError
from fedveil_common.ports import Entropy
from fedveil_common.secret import Seed

CHUNK_BYTES = 1 << 20
SALT_BYTES = 32


class BlobWriter:
    """A blob in the making. `commit` or `discard` ends it."""

    def __init__(self, folder: Path) -> None:
        self._file = durable.TemporaryFile(folder)
        self._hash = hashlib.sha256()
        self._size = 0

    def write(self, data: bytes) -> None:
        """Append. StorageError discards the blob."""
        self._file.write(data, self._size)
        self._hash.update(data)
        self._size += len(data)

    def commit(self) -> bytes:
        """The blob is durable; its name is the 32-byte digest returned."""
        digest = self._hash.digest()
        self._file.commit(digest.hex())
        return digest

    def discard(self) -> None:
        """Nothing remains."""
        self._file.discard()


class BlobStore:
    """Blobs in one folder, which belongs to this store alone.

    The holder of the folder's lock opens it; whoever only reads beside that holder says `sweep=False`, because a
    half-written file may be the holder's, and then calls neither `delete` nor `keep_only`.
    """

    def __init__(self, folder: Path, *, sweep: bool = True) -> None:
        self._folder = folder
        durable.make_folder(folder)
        if sweep:
            durable.sweep(folder)

    def path(self, digest: bytes) -> Path:
        """Where the blob stands, if it exists. Whoever reads the file itself must check it."""
        return self._folder / digest.hex()

    def writer(self) -> BlobWriter:
        """A streaming writer."""
        return BlobWriter(self._folder)

    def put(self, data: bytes) -> bytes:
        """`data` is durable; returns its name, SHA-256(data)."""
        writer = self.writer()
        writer.write(data)
        return writer.commit()

    def get(self, digest: bytes) -> bytes:
        """The bytes. StorageError `blob_missing`, IntegrityError `blob_damaged` naming the file."""
        path = self.path(digest)
        try:
            with durable.storing(path):
                data = path.read_bytes()
        except StorageError as error:
            if isinstance(error.__cause__, FileNotFoundError):
                raise StorageError("blob_missing", f"{path} does not exist", next_step="restore it") from error
            raise
        if hashlib.sha256(data).digest() != digest:
            raise IntegrityError(
                "blob_damaged",
                f"{path} is not what was written: its SHA-256 differs from its name",
                not_done="it was not used",
                next_step="check the disk",
            )
        return data

    def delete(self, digest: bytes) -> None:
        """The blob is gone, durably; no error if it was not there."""
        durable.remove(self.path(digest))

    def keep_only(self, digests: frozenset[bytes]) -> int:
        """Removes every blob that is not in `digests` (left by a crash between file and row); returns how many."""
        extra = [path for path in self._folder.iterdir() if path.name not in {digest.hex() for digest in digests}]
        for path in extra:
            durable.remove(path)
        return len(extra)


class SealedBlobWriter:
    """A sealed blob in the making; at most one chunk of plaintext is held."""

    def __init__(self, inner: BlobWriter, key: Seed, salt: bytes) -> None:
        self._inner = inner
        self._key = _blob_key(key, salt)
        self._index = 0
        self._pending = bytearray()
        inner.write(salt)

    def write(self, data: bytes) -> None:
        """Append plaintext."""
        self._pending += data
        while len(self._pending) > CHUNK_BYTES:  # the last chunk is known as such only at `commit`
            self._seal(bytes(self._pending[:CHUNK_BYTES]), last=False)
            del self._pending[:CHUNK_BYTES]

    def commit(self) -> bytes:
        """The blob is durable; returns its name, the SHA-256 of its ciphertext."""
        self._seal(bytes(self._pending), last=True)
        self._pending.clear()
        return self._inner.commit()

    def discard(self) -> None:
        """Nothing remains."""
        self._pending.clear()
        self._inner.discard()

    def _seal(self, chunk: bytes, *, last: bool) -> None:
        associated = _associated(self._index, len(chunk), last)
        self._inner.write(aead.seal(self._key, _nonce(self._index), chunk, associated))
        self._index += 1


class SealedBlobStore:
    """Blobs under the key of one holder: without it the folder shows only how large they are."""

    def __init__(self, blobs: BlobStore, key: Seed, entropy: Entropy) -> None:
        self._blobs = blobs
        self._key = key
        self._entropy = entropy

    def writer(self) -> SealedBlobWriter:
        """A streaming writer."""
        return SealedBlobWriter(self._blobs.writer(), self._key, self._entropy.take(SALT_BYTES))

    def put(self, data: bytes) -> bytes:
        """`data` is durable and sealed; returns the blob's name."""
        writer = self.writer()
        writer.write(data)
        return writer.commit()

    def get(self, digest: bytes) -> bytes:
        """The plaintext. StorageError `blob_missing`, IntegrityError `blob_damaged` (file) or `aead_failed` (key)."""
        return b"".join(self._chunks(self._blobs.get(digest)))

    def delete(self, digest: bytes) -> None:
        """The blob is gone."""
        self._blobs.delete(digest)

    def keep_only(self, digests: frozenset[bytes]) -> int:
        """As `BlobStore.keep_only`."""
        return self._blobs.keep_only(digests)

    def _chunks(self, sealed: bytes) -> Iterator[bytes]:
        salt, rest = sealed[:SALT_BYTES], memoryview(sealed)[SALT_BYTES:]
        key = _blob_key(self._key, salt)
        size = CHUNK_BYTES + aead.TAG_BYTES
        count = max(1, -(-len(rest) // size))
        for index in range(count):
            chunk = bytes(rest[index * size : (index + 1) * size])
            associated = _associated(index, len(chunk) - aead.TAG_BYTES, index == count - 1)
            yield aead.open_sealed(key, _nonce(index), chunk, associated)


def _blob_key(key: Seed, salt: bytes) -> bytes:
    return derive(salt, key.expose(), "blob/key")


def _nonce(index: int) -> bytes:
    return u32(0) + u64(index)


def _associated(index: int, length: int, last: bool) -> bytes:
    return labelled("blob/chunk", u64(index), u64(max(length, 0)), b"last" if last else b"more")
