"""Files by content: written whole or not at all, named by their SHA-256, and checked against it whenever they are read.

Format: the bytes themselves, or, of a store with a `Sealer`, the 8 bytes "FVBLOB01" and a record sealed as this name.
The name tells somebody who has the same bytes that they are here, and nobody else anything.
"""

import hashlib
from pathlib import Path

from fedveil_common import at_rest, durable
from fedveil_common.errors import IntegrityError, StorageError
from fedveil_common.sealer import Sealer

_SEALED = b"FVBLOB01"


class BlobStore:
    """Blobs in one folder, which belongs to this store alone: all of them sealed, or none. Hold the folder's lock."""

    def __init__(self, folder: Path, sealer: Sealer | None = None) -> None:
        self._folder = folder
        self._sealer = sealer
        durable.make_folder(folder)
        durable.sweep(folder)

    def path(self, digest: bytes) -> Path:
        """Where the blob stands, if it exists. Whoever reads the file itself must check it."""
        return self._folder / digest.hex()

    def put(self, data: bytes) -> bytes:
        """`data` is durable; returns its name, SHA-256(data)."""
        digest = hashlib.sha256(data).digest()
        stored = data if self._sealer is None else _SEALED + self._sealer.seal(data, b"blob", digest)
        durable.write_file(self.path(digest), stored)
        return digest

    def get(self, digest: bytes) -> bytes:
        """The bytes. StorageError `blob_missing`; IntegrityError `blob_damaged`, `not_sealed_at_rest`; SealedError
        `sealed_at_rest`: each names the file.
        """
        path = self.path(digest)
        try:
            with durable.storing(path):
                stored = path.read_bytes()
        except StorageError as error:
            if isinstance(error.__cause__, FileNotFoundError):
                raise StorageError("blob_missing", f"{path} does not exist", next_step="restore it") from error
            raise
        in_clear = hashlib.sha256(stored).digest() == digest
        if self._sealer is None:
            if in_clear:
                return stored
            raise at_rest.sealed(path) if stored.startswith(_SEALED) else _damaged(path)
        if in_clear:
            raise at_rest.in_clear(path)
        try:
            data = self._sealer.open(stored.removeprefix(_SEALED), b"blob", digest)
        except IntegrityError as error:
            raise _damaged(path) from error
        if hashlib.sha256(data).digest() != digest:
            raise _damaged(path)
        return data

    def digests(self) -> list[bytes]:
        """The names of all blobs, sorted."""
        return sorted(bytes.fromhex(path.name) for path in self._folder.iterdir())

    def delete(self, digest: bytes) -> None:
        """The blob is gone, durably; no error if it was not there."""
        durable.remove(self.path(digest))


def _damaged(path: Path) -> IntegrityError:
    return IntegrityError(
        "blob_damaged",
        f"{path} is not what was written: its content does not belong to its name",
        not_done="it was not used",
        next_step="check the disk",
    )
