"""Everything the coordinator keeps in its folder, opened together: `coordinator.db` and the folders beside it."""

from dataclasses import dataclass
from pathlib import Path

from fedveil_common.blobs import BlobStore
from fedveil_common.database import Database, open_database
from fedveil_common.ports import Clock
from fedveil_common.rows import verify

from fedveil_coordinator.store import tables
from fedveil_coordinator.store.journal import KEEP_BYTES, CoordinatorJournal, RunRow
from fedveil_coordinator.store.members import Members
from fedveil_coordinator.store.published_keys import PublishedKeys
from fedveil_coordinator.store.records import Records
from fedveil_coordinator.store.renewals import Renewals
from fedveil_coordinator.store.stages import KeptStatus, Stages
from fedveil_coordinator.store.storage import Storage
from fedveil_coordinator.store.tables import FILE


@dataclass(frozen=True, slots=True)
class CoordinatorStore:
    """The stores that share one database. `journal` is what the driver takes."""

    database: Database
    journal: CoordinatorJournal
    members: Members
    records: Records
    renewals: Renewals
    keys: PublishedKeys
    stages: Stages

    def close(self) -> None:
        """Every connection is closed."""
        self.database.close()


def open_store(
    home: Path,
    clock: Clock,
    *,
    create: bool = False,
    keep_bytes: int = KEEP_BYTES,
    storage: Storage | None = None,
) -> CoordinatorStore:
    """The store in `home`, checked from the first row to the last. Hold the `FolderLock` of `home`.

    `create` makes a new one (init); otherwise a missing database is StorageError `database_missing`, even if blobs are
    there. StorageError `database_damaged` names the file. `keep_bytes`: see `CoordinatorJournal.keep_inputs`.
    `storage`: the seals of the files of a home with a storage key; without it none of them can be read.
    """
    path = home / FILE
    check = verify(path, tables.ALL)
    database = open_database(path, f"{__name__}.migrations", create=create, check=check)
    try:
        return CoordinatorStore(
            database,
            CoordinatorJournal(database, home, clock, keep_bytes, storage),
            Members(database, clock),
            Records(database, BlobStore(home / "blobs", None if storage is None else storage.records), clock),
            Renewals(database, clock),
            PublishedKeys(database, clock),
            Stages(database, clock),
        )
    except BaseException:
        database.close()
        raise


__all__ = [
    "FILE",
    "CoordinatorJournal",
    "CoordinatorStore",
    "KeptStatus",
    "Members",
    "PublishedKeys",
    "Records",
    "Renewals",
    "RunRow",
    "Stages",
    "Storage",
    "open_store",
]
