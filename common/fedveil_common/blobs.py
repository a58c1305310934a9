"""Files by content: written whole or not at all, named by their SHA-256, and checked against it whenever they are read.

What must not be read by others than its holder is a `sealedfile`.
"""

import hashlib
from pathlib import Path

from fedveil_common import durable
from fedveil_common.errors import IntegrityError, StorageError


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
