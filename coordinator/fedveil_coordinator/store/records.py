"""What the coordinator must be able to show later: audit, evidence, rosters and trust documents.

Invariant: an effect and its audit row are one transaction, so there is no effect without its row, and an audit log that
cannot be written stops the effect; audit and evidence refuse to be changed or removed.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import sqlalchemy as sa
from fedveil_common import jcs
from fedveil_common.blobs import BlobStore
from fedveil_common.database import Database
from fedveil_common.errors import ConfigError
from fedveil_common.ids import OrgId, RunId
from fedveil_common.ports import Clock
from fedveil_common.rows import Value

from fedveil_coordinator.store import storage_state, tables
from fedveil_coordinator.store.storage_state import StorageRow

SERVICE = "coordinator"
"""Who did what no person ordered."""


@dataclass(frozen=True, slots=True)
class AuditRow:
    """One line of the audit log. `detail` holds public facts only."""

    seq: int
    wall_s: float
    who: str
    what: str
    detail: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Evidence:
    """Signed blobs that convict `org_id`, named by SHA-256; `Records.blob` gives their bytes."""

    org_id: OrgId
    code: str
    wall_s: float
    blobs: tuple[bytes, ...]


def audit(connection: sa.Connection, clock: Clock, who: str, what: str, **detail: str) -> None:
    """One audit row in the transaction of the effect it tells of."""
    text = jcs.dumps(dict(detail)).decode()
    row: dict[str, Value] = {"wall_s": clock.wall_s(), "who": who, "what": what, "detail": text}
    tables.AUDIT.append(connection, [row])


class Records:
    """Audit, evidence, rosters, trust chain. Any thread. Every method may raise StorageError."""

    def __init__(self, database: Database, blobs: BlobStore, clock: Clock) -> None:
        self._database = database
        self._blobs = blobs
        self._clock = clock

    def audit(self, who: str, what: str, **detail: str) -> None:
        """A row for an effect outside the database (a process started, a session ended)."""
        with self._database.write() as connection:
            audit(connection, self._clock, who, what, **detail)

    def audit_rows(self) -> list[AuditRow]:
        """The whole log, oldest first."""
        with self._database.read() as connection:
            found = tables.AUDIT.select(connection)
        return [
            AuditRow(
                row.integer("seq"),
                row.real("wall_s"),
                row.text("who"),
                row.text("what"),
                json.loads(row.text("detail")),
            )
            for row in found
        ]

    def storage_on_record(self) -> str:
        """The fingerprint of the storage key that the last `fedveil storage` order put in force; empty: none."""
        return storage_state.key_on_record(self.storage_rows())

    def storage_rows(self) -> list[StorageRow]:
        """What is on record of orders about files at rest, oldest first."""
        with self._database.read() as connection:
            return storage_state.storage_rows(connection)

    def record_evidence(self, run_id: RunId, org_id: OrgId, code: str, blobs: Sequence[bytes]) -> None:
        """Keep the signed blobs that show how `org_id` broke the protocol. They are durable before the row is."""
        digests = [self._blobs.put(blob).hex() for blob in blobs]
        row: dict[str, Value] = {
            "wall_s": self._clock.wall_s(),
            "run_id": run_id,
            "org_id": org_id,
            "code": code,
            "blobs": " ".join(digests),
        }
        with self._database.write() as connection:
            tables.EVIDENCE.append(connection, [row])
            audit(connection, self._clock, SERVICE, "evidence", run=run_id, org=org_id, code=code)

    def evidence(self, run_id: RunId) -> list[Evidence]:
        """What is kept against members of a run, oldest first."""
        with self._database.read() as connection:
            found = tables.EVIDENCE.select(connection, run_id=run_id)
        return [
            Evidence(
                OrgId(row.text("org_id")),
                row.text("code"),
                row.real("wall_s"),
                tuple(bytes.fromhex(name) for name in row.text("blobs").split()),
            )
            for row in found
        ]

    def blob(self, digest: bytes) -> bytes:
        """The bytes of one piece of evidence. IntegrityError `blob_damaged`, StorageError `blob_missing`."""
        return self._blobs.get(digest)

    def save_roster(self, version: int, signed: bytes, who: str = SERVICE) -> None:
        """A new signed roster. ConfigError `roster_not_newer` unless `version` is above every stored one."""
        with self._database.write() as connection:
            newest = _newest(connection)
            if newest is not None and version <= newest[0]:
                raise ConfigError("roster_not_newer", f"roster version {version} is not above {newest[0]}")
            tables.ROSTERS.insert(connection, version=version, signed=signed)
            audit(connection, self._clock, who, "roster", version=str(version))

    def latest_roster(self) -> tuple[int, bytes] | None:
        """(version, signed bytes) of the newest roster."""
        with self._database.read() as connection:
            return _newest(connection)

    def rosters(self) -> dict[int, bytes]:
        """Every roster by version: a running attempt keeps the one that its manifest pinned."""
        with self._database.read() as connection:
            found = tables.ROSTERS.select(connection)
        return {row.integer("version"): row.blob("signed") for row in found}

    def save_trust(self, document: bytes, who: str = SERVICE) -> None:
        """Append a trust document to the chain."""
        with self._database.write() as connection:
            number = len(tables.TRUST.select(connection)) + 1
            tables.TRUST.insert(connection, number=number, document=document)
            audit(connection, self._clock, who, "trust", number=str(number))

    def trust_chain(self) -> list[bytes]:
        """The trust documents, first to last."""
        with self._database.read() as connection:
            return [row.blob("document") for row in tables.TRUST.select(connection)]


def _newest(connection: sa.Connection) -> tuple[int, bytes] | None:
    found = tables.ROSTERS.select(connection)
    return (found[-1].integer("version"), found[-1].blob("signed")) if found else None
