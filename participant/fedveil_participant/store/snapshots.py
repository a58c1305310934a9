"""Accepted data at rest: one sealed file in `snapshots/` for each plan and data version, and the row that names it.

Promise: a snapshot is durable before `put` returns, and so before the plan is answered with yes; it opens for the plan
and version that it was made for and for no other. A file without a row is removed when the store opens, and
`keep_only` removes what no open run needs.
"""

from collections.abc import Iterable

from fedveil_common.crypto.labels import labelled
from fedveil_common.database import Database
from fedveil_common.errors import StorageError
from fedveil_common.rows import Row
from fedveil_common.sealedfile import SealedFiles

from fedveil_participant.data import snapshot
from fedveil_participant.data.csv_source import Source
from fedveil_participant.store import tables

FOLDER = "snapshots"


class Snapshots:
    """Any thread. Every method may raise StorageError."""

    def __init__(self, database: Database, files: SealedFiles) -> None:
        self._database = database
        self._files = files
        with database.read() as connection:
            kept = frozenset(row.blob("blob") for row in tables.SNAPSHOTS.select(connection))
        files.keep_only(kept)  # a crash left the others without a row

    def put(self, dataset: str, plan_hash: bytes, source: Source) -> None:
        """What the plan reads of the data set, sealed; in the place of an earlier one of this plan and version."""
        parts = snapshot.pack(source)
        name = self._files.write(parts, sum(part.nbytes for part in parts), _context(plan_hash, source.version))
        with self._database.write() as connection:
            known = tables.SNAPSHOTS.one(connection, plan_hash=plan_hash, version=source.version)
            tables.SNAPSHOTS.put(connection, plan_hash=plan_hash, version=source.version, dataset=dataset, blob=name)
        if known is not None:
            self._files.delete(known.blob("blob"))

    def get(self, plan_hash: bytes, version: bytes) -> Source | None:
        """What was put; None if it is not kept. IntegrityError `aead_failed`, `snapshot_damaged`,
        `sealed_file_damaged`.
        """
        with self._database.read() as connection:
            row = tables.SNAPSHOTS.one(connection, plan_hash=plan_hash, version=version)
        if row is None:
            return None
        try:
            with self._files.open(row.blob("blob"), _context(plan_hash, version)) as file:
                return snapshot.unpack(file.read, file.length, version)
        except StorageError as error:
            if error.code != "sealed_file_missing":
                raise
            return None

    def keep_only(self, wanted: Iterable[tuple[bytes, bytes]]) -> int:
        """Erases every snapshot but those of these (plan hash, version); returns how many."""
        kept = set(wanted)
        with self._database.read() as connection:
            rows = tables.SNAPSHOTS.select(connection)
        return self._erase([row for row in rows if (row.blob("plan_hash"), row.blob("version")) not in kept])

    def forget(self, dataset: str) -> int:
        """Erases every snapshot of a data set; returns how many."""
        with self._database.read() as connection:
            rows = tables.SNAPSHOTS.select(connection, dataset=dataset)
        return self._erase(rows)

    def _erase(self, rows: list[Row]) -> int:
        for row in rows:
            self._files.delete(row.blob("blob"))  # before its row: a crash between leaves no file that nobody names
        with self._database.write() as connection:
            for row in rows:
                tables.SNAPSHOTS.delete(connection, plan_hash=row.blob("plan_hash"), version=row.blob("version"))
        return len(rows)


def _context(plan_hash: bytes, version: bytes) -> bytes:
    return labelled("journal/snapshot", plan_hash, version)
