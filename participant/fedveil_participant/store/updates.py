"""The updates of this organisation between training and masking: sealed files, one a spent key, and the rows that name
them.

Promise: an update is durable before `put_update` returns, and no second one is kept beside it; neither writing nor
reading holds more of it than a chunk. The values are float64, exactly as they were clipped: a repeated attempt rounds
the same values afresh, and a second rounding to float32 before it would move what is unbiased by up to 2^-24 of itself,
128 steps of a 32-bit grid. Source: FLSA/1 section 2.9 with A10 (docs/protocol.md).
"""

from collections.abc import Sequence

import numpy as np
from fedveil_common.crypto.labels import labelled
from fedveil_common.database import Database
from fedveil_common.errors import StorageError
from fedveil_common.rows import Value
from fedveil_common.sealedfile import SealedFile, SealedFiles
from numpy.typing import NDArray

from fedveil_participant.events import SpentKey
from fedveil_participant.store import tables

_FLOAT = np.dtype("<f8")


class StoredUpdate:
    """An update at rest, read piece by piece, from any thread. Close it. `model_hash`: the model it was made from."""

    def __init__(self, model_hash: bytes, file: SealedFile) -> None:
        self.model_hash = model_hash
        self.length = file.length // _FLOAT.itemsize
        self._file = file

    def read(self, start: int, count: int) -> NDArray[np.float64]:
        """Coordinates start .. start+count: float64, not writable, the organisation's secret. IntegrityError
        `aead_failed`, `sealed_file_damaged`.
        """
        return np.frombuffer(self._file.read(start * _FLOAT.itemsize, count * _FLOAT.itemsize), dtype=_FLOAT)

    def close(self) -> None:
        """Done with it."""
        self._file.close()


class UpdateCache:
    """Any thread. Every method may raise StorageError."""

    def __init__(self, database: Database, files: SealedFiles) -> None:
        self._database = database
        self._files = files
        with database.read() as connection:
            kept = frozenset(row.blob("blob") for row in tables.UPDATES.select(connection))
        files.keep_only(kept)  # a crash left the others without a row

    def put_update(self, key: SpentKey, model_hash: bytes, blocks: Sequence[NDArray[np.float64]]) -> None:
        """The update made for a step (or query), sealed: float64 blocks end to end, the organisation's secret."""
        views = [np.ascontiguousarray(block, dtype=_FLOAT).data for block in blocks]
        name = self._files.write(views, sum(view.nbytes for view in views), _context(key, model_hash))
        with self._database.write() as connection:
            before = tables.UPDATES.one(connection, **spent_columns(key))
            tables.UPDATES.put(connection, **spent_columns(key), model_hash=model_hash, blob=name)
        if before is not None:
            self._files.delete(before.blob("blob"))

    def open_update(self, key: SpentKey) -> StoredUpdate | None:
        """The update, if one is kept; to be closed. IntegrityError `sealed_file_damaged`: a file of another format."""
        with self._database.read() as connection:
            row = tables.UPDATES.one(connection, **spent_columns(key))
        if row is None:
            return None
        model_hash = row.blob("model_hash")
        try:
            return StoredUpdate(model_hash, self._files.open(row.blob("blob"), _context(key, model_hash)))
        except StorageError as error:
            if error.code != "sealed_file_missing":
                raise
            return None

    def drop_update(self, key: SpentKey) -> None:
        """The update is gone."""
        with self._database.write() as connection:
            row = tables.UPDATES.one(connection, **spent_columns(key))
            tables.UPDATES.delete(connection, **spent_columns(key))
        if row is not None:
            self._files.delete(row.blob("blob"))

    def drop_updates(self) -> None:
        """Every update is gone."""
        with self._database.write() as connection:
            found = tables.UPDATES.select(connection)
            tables.UPDATES.delete(connection)
        for row in found:
            self._files.delete(row.blob("blob"))


def spent_columns(key: SpentKey) -> dict[str, Value]:
    """A spent key as the tables hold it."""
    return {"dataset": key.dataset, "version": key.version, "purpose": key.purpose.value, "subject": key.subject}


def _context(key: SpentKey, model_hash: bytes) -> bytes:
    return labelled(
        "journal/update", key.dataset.encode(), key.version, key.purpose.value.encode(), key.subject, model_hash
    )
