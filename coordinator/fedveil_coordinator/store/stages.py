"""The registry at rest: stage statements, the status list in force, the countersignatures of final models.

Invariant: a statement and the list that follows from it are one transaction, with their audit row, so a crash leaves
the stage before or the one after; statements cannot be changed or removed. What is kept is signed, and public to every
member. Models are not kept here: they follow from the opened sums.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import sqlalchemy as sa
from fedveil_common import wire
from fedveil_common.database import Database
from fedveil_common.errors import ConfigError
from fedveil_common.ids import OrgId, RunId
from fedveil_common.messages import SignedBlob
from fedveil_common.ports import Clock
from fedveil_common.rows import Value

from fedveil_coordinator.store import tables
from fedveil_coordinator.store.records import SERVICE, audit


@dataclass(frozen=True, slots=True)
class KeptStatus:
    """The newest status list: its sequence, and its file as it is handed out."""

    sequence: int
    document: bytes


class Stages:
    """Any thread. Every method may raise StorageError."""

    def __init__(self, database: Database, clock: Clock) -> None:
        self._database = database
        self._clock = clock

    def statements(self) -> list[SignedBlob]:
        """Every stage statement, oldest first."""
        with self._database.read() as connection:
            return [wire.parse_blob(row.blob("statement")) for row in tables.STAGES.select(connection)]

    def status(self) -> KeptStatus | None:
        """The newest status list; None before the first."""
        with self._database.read() as connection:
            row = tables.STATUS.one(connection, one=1)
        return None if row is None else KeptStatus(row.integer("sequence"), row.blob("document"))

    def decide(self, number: int, statement: SignedBlob, status: KeptStatus, who: str, detail: dict[str, str]) -> None:
        """Statement `number`, and the list that follows from it: both or none. `who`: the operator's name.

        ConfigError `stage_changed` if another statement has that number: nothing was written.
        """
        with self._database.write() as connection:
            if len(tables.STAGES.select(connection)) != number - 1:
                raise ConfigError(
                    "stage_changed", "somebody else decided about a model meanwhile", next_step="try again"
                )
            rows: list[dict[str, Value]] = [{"statement": wire.encode_blob(statement)}]
            tables.STAGES.append(connection, rows)
            _put(connection, status)
            audit(connection, self._clock, who, "stage", number=str(number), **detail)

    def renew(self, status: KeptStatus) -> None:
        """A later list of the same stages."""
        with self._database.write() as connection:
            _put(connection, status)
            audit(connection, self._clock, SERVICE, "status", sequence=str(status.sequence))

    def countersigned(self, run_id: RunId) -> Sequence[SignedBlob]:
        """Who countersigned the final model of a run, by organisation."""
        with self._database.read() as connection:
            found = tables.COUNTERSIGNATURES.select(connection, run_id=run_id)
        return sorted((wire.parse_blob(row.blob("blob")) for row in found), key=lambda blob: blob.signer_id)

    def countersign(self, run_id: RunId, org_id: OrgId, blob: SignedBlob) -> None:
        """A countersignature that was checked. Repeating it changes nothing: a signature over one body is one."""
        with self._database.write() as connection:
            if tables.COUNTERSIGNATURES.one(connection, run_id=run_id, org_id=org_id) is None:
                tables.COUNTERSIGNATURES.insert(connection, run_id=run_id, org_id=org_id, blob=wire.encode_blob(blob))


def _put(connection: sa.Connection, status: KeptStatus) -> None:
    tables.STATUS.put(connection, one=1, sequence=status.sequence, document=status.document)
