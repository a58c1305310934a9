"""Checkpoints of an organisation's records: how far trail, outbox, receipts and ledger had come, signed.

Promise: a row that was written before a checkpoint cannot be changed or taken away without the protocol key, unless the
checkpoint goes too; whoever keeps an export elsewhere sees that as well (`compare`). Who holds the protocol key can
rewrite everything: it is this organisation's own record, against its own intruders.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import sqlalchemy as sa
from fedveil_common import record_file
from fedveil_common.crypto import signing
from fedveil_common.database import Database
from fedveil_common.errors import IntegrityError
from fedveil_common.ports import Clock
from fedveil_common.record_file import Owner, SignedHead
from fedveil_common.rows import NO_ROWS, AppendOnlyTable, Head, Value
from fedveil_common.secret import PrivateKey

from fedveil_participant.store import tables

RECORDS: Mapping[str, AppendOnlyTable] = {
    table.name: table for table in (tables.TRAIL, tables.OUTBOX, tables.RECEIPTS, tables.LEDGER)
}
"""What a checkpoint is over."""

EXPORTED: Mapping[str, AppendOnlyTable] = {**RECORDS, tables.CHECKPOINTS.name: tables.CHECKPOINTS}
"""What an export holds."""


@dataclass(frozen=True, slots=True)
class Checked:
    """What a check of the records found: rows of each table, checkpoints, and rows behind the last of these."""

    rows: Mapping[str, int]
    checkpoints: int
    uncovered: int


class CheckpointRows:
    """Any thread. Every method may raise StorageError."""

    def __init__(self, database: Database, clock: Clock) -> None:
        self._database = database
        self._clock = clock

    def checkpoint(self, key: PrivateKey, federation_id: str, org_id: str, reason: str) -> None:
        """The records as they stand, signed under the protocol key; durable when this returns."""
        with self._database.write() as connection:
            now = self._clock.wall_s()
            signed = record_file.sign_head(key, federation_id, org_id, reason, now, _heads(connection, RECORDS))
            row: dict[str, Value] = {"wall_s": now, "statement": signed.statement, "sig": signed.signature}
            tables.CHECKPOINTS.append(connection, [row])

    def uncovered_rows(self) -> int:
        """How many rows have been written since the last checkpoint."""
        with self._database.read() as connection:
            last = tables.CHECKPOINTS.one(connection, seq=tables.CHECKPOINTS.head(connection).seq)
            covered = {} if last is None else SignedHead(last.blob("statement"), last.blob("sig")).heads
            return _uncovered(_heads(connection, RECORDS), covered)

    def check_records(self, owner: Owner) -> Checked:
        """Every checkpoint is signed and what it says of the rows holds. Digests and chains were checked when the
        database was opened. IntegrityError `records_rewritten`, `head_not_signed`, `records_damaged`.
        """
        with self._database.read() as connection:
            covered: Mapping[str, Head] = {}
            found = tables.CHECKPOINTS.select(connection)
            for row in found:
                head = SignedHead(row.blob("statement"), row.blob("sig"))
                record_file.check_head(head, owner)
                covered = _goes_on(connection, covered, head, f"checkpoint {row.integer('seq')}")
            heads = _heads(connection, RECORDS)
        return Checked({name: head.seq for name, head in heads.items()}, len(found), _uncovered(heads, covered))

    def compare(self, earlier: SignedHead) -> None:
        """Returns if the records begin with what an earlier export ended with. IntegrityError `records_rewritten`."""
        with self._database.read() as connection:
            _goes_on(connection, {}, earlier, "the earlier export")

    def export(self, key: PrivateKey, federation_id: str, org_id: str) -> Iterator[bytes]:
        """The lines of a file with every row of the records, in one snapshot, and a signed head."""
        owner = Owner(federation_id, org_id, signing.public_key(key))
        with self._database.read() as connection:
            yield record_file.first_line(owner, {name: table.columns for name, table in EXPORTED.items()})
            for name, table in EXPORTED.items():
                for row in table.each(connection):
                    yield record_file.row_line(name, row.values)
            heads = _heads(connection, EXPORTED)
        now = self._clock.wall_s()
        yield record_file.last_line(record_file.sign_head(key, federation_id, org_id, "export", now, heads))


def _heads(connection: sa.Connection, records: Mapping[str, AppendOnlyTable]) -> dict[str, Head]:
    return {name: table.head(connection) for name, table in records.items()}


def _uncovered(heads: Mapping[str, Head], covered: Mapping[str, Head]) -> int:
    return sum(head.seq - covered.get(name, NO_ROWS).seq for name, head in heads.items())


def _goes_on(
    connection: sa.Connection, covered: Mapping[str, Head], signed: SignedHead, which: str
) -> Mapping[str, Head]:
    """The heads of `signed`, if the tables hold exactly these rows and `covered` went before."""
    heads = signed.heads
    for name, head in heads.items():
        table = EXPORTED.get(name)
        if table is None or table.chain_at(connection, head.seq) != head.chain:
            raise _rewritten(name, f"{which} is over {head.seq} rows that are not, or not so, in this journal")
        if head.seq < covered.get(name, NO_ROWS).seq:
            raise _rewritten(name, f"{which} is over fewer rows than the one before it")
    missing = set(RECORDS) - set(heads)
    if missing:
        raise _rewritten(min(missing), f"{which} says nothing of it")
    return heads


def _rewritten(table: str, why: str) -> IntegrityError:
    return IntegrityError(
        "records_rewritten",
        f"the records {table} are not those that were signed: {why}",
        not_done="nothing was changed",
        next_step="keep the folder as it is, and find out who could write it; an export that was kept elsewhere says "
        "what stood there",
    )
