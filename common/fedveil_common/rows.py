"""Tables whose rows are checked when they are read: a bit that turned on the disk is an error, not a fact.

SQLite's own check sees broken pages, not a changed byte inside a value; here every row carries a digest over its table
and columns, and the rows of an append-only table are numbered without a gap and chained, so that a missing, moved or
changed row is found when the database is opened. Guards against the disk, not against someone who can write the file
and recompute digests.
"""

import struct
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from fedveil_common.crypto.labels import h, u64
from fedveil_common.database import damaged
from fedveil_common.errors import StorageError

Value = str | int | float | bytes | None


def _encoded(value: Value) -> bytes:
    match value:
        case None:
            return b"n"
        case str():
            return b"t" + value.encode("utf-8")
        case bytes():
            return b"b" + value
        case float():
            return b"r" + struct.pack(">d", value)
        case int():
            return b"i" + str(int(value)).encode("ascii")


def row_digest(table: str, columns: Iterable[str], values: Mapping[str, Value]) -> bytes:
    """What a row of `table` carries as its digest: over the table's name and the values in the order of `columns`."""
    return h("row", table.encode(), *(_encoded(values[column]) for column in columns))


def row_link(table: str, chain: bytes, seq: int, digest: bytes) -> bytes:
    """The chain up to row `seq`, after `chain` up to the row before it (empty for the first)."""
    return h("row/chain", table.encode(), chain, u64(seq), digest)


@dataclass(frozen=True, slots=True)
class Row:
    """One verified row. The accessors say which type the column has; another one is a damaged database."""

    table: str
    values: Mapping[str, Value]

    def text(self, column: str) -> str:
        """A TEXT column."""
        value = self.values[column]
        if not isinstance(value, str):
            raise self._wrong(column)
        return value

    def integer(self, column: str) -> int:
        """An INTEGER column."""
        value = self.values[column]
        if not isinstance(value, int):
            raise self._wrong(column)
        return value

    def real(self, column: str) -> float:
        """A REAL column."""
        value = self.values[column]
        if not isinstance(value, float):
            raise self._wrong(column)
        return value

    def blob(self, column: str) -> bytes:
        """A BLOB column."""
        value = self.values[column]
        if not isinstance(value, bytes):
            raise self._wrong(column)
        return value

    def _wrong(self, column: str) -> StorageError:
        return damaged(Path(self.table), f"column {column} holds another type")


class CheckedTable:
    """A table with a `digest` column; the write methods belong into a `Database.write` transaction."""

    def __init__(self, name: str, *columns: str) -> None:
        self.name = name
        self.columns = columns
        self._table = sa.table(name, *(sa.column(column) for column in (*columns, "digest")))
        self._insert = self._table.insert()
        self._replace = self._table.insert().prefix_with("OR REPLACE")
        self._selects: dict[tuple[str, ...], sa.Select[Any]] = {}
        self._deletes: dict[tuple[str, ...], sa.Delete] = {}

    def _digest(self, values: Mapping[str, Value]) -> bytes:
        return row_digest(self.name, self.columns, values)

    def _where(self, where: Mapping[str, Value]) -> list[sa.ColumnElement[bool]]:
        return [self._table.c[column] == value for column, value in where.items()]

    def _bound(self, columns: tuple[str, ...]) -> list[sa.ColumnElement[bool]]:
        """The condition on these columns, NULL being equal to NULL. Making a statement costs more than running it."""
        return [self._table.c[column].is_not_distinct_from(sa.bindparam(column)) for column in columns]

    def insert(self, connection: sa.Connection, **values: Value) -> None:
        """A new row; every column must be given. sqlalchemy IntegrityError if its key exists."""
        connection.execute(self._insert, {**values, "digest": self._digest(values)})

    def put(self, connection: sa.Connection, **values: Value) -> None:
        """The row with this primary key has these values from now on."""
        connection.execute(self._replace, {**values, "digest": self._digest(values)})

    def change(self, connection: sa.Connection, where: Mapping[str, Value], **changes: Value) -> int:
        """Sets columns of the rows that match; returns how many there were."""
        found = self.select(connection, **where)
        for row in found:
            values = {**row.values, **changes}
            key = self._where(row.values)
            connection.execute(self._table.update().where(*key).values({**changes, "digest": self._digest(values)}))
        return len(found)

    def delete(self, connection: sa.Connection, **where: Value) -> int:
        """Removes the rows that match (all, if nothing is asked for); returns how many there were."""
        columns = tuple(where)
        if columns not in self._deletes:
            self._deletes[columns] = self._table.delete().where(*self._bound(columns))
        return connection.execute(self._deletes[columns], where).rowcount

    def select(self, connection: sa.Connection, **where: Value) -> list[Row]:
        """The rows that match, in the order in which they were first written. StorageError `database_damaged`."""
        columns = tuple(where)
        if columns not in self._selects:
            self._selects[columns] = self._table.select().where(*self._bound(columns)).order_by(sa.text("rowid"))
        return [self._checked(row._mapping) for row in connection.execute(self._selects[columns], where)]

    def one(self, connection: sa.Connection, **where: Value) -> Row | None:
        """The row that matches, if there is one."""
        found = self.select(connection, **where)
        return found[0] if found else None

    def _checked(self, mapping: sa.RowMapping) -> Row:
        values: dict[str, Value] = {column: mapping[column] for column in self.columns}
        if self._digest(values) != mapping["digest"]:
            raise damaged(Path(self.name), "a row does not match its digest")
        return Row(self.name, values)

    def verify(self, connection: sa.Connection) -> None:
        """Every row matches its digest; StorageError `database_damaged` otherwise. One row in memory at a time."""
        for row in connection.execution_options(yield_per=256).execute(self._table.select()):
            self._checked(row._mapping)


@dataclass(frozen=True, slots=True)
class Head:
    """How far an append-only table has come: the number of its last row, and the chain of digests up to it."""

    seq: int
    chain: bytes


NO_ROWS = Head(0, b"")


class AppendOnlyTable(CheckedTable):
    """A table whose rows are numbered `seq` = 1, 2, ... and chained; its triggers refuse UPDATE and DELETE."""

    def __init__(self, name: str, *columns: str) -> None:
        super().__init__(name, "seq", *columns)
        self._table = sa.table(name, *(sa.column(column) for column in ("seq", *columns, "digest", "chain")))
        self._insert = self._table.insert()
        self._selects.clear()
        self._last = self._table.select().order_by(self._table.c.seq.desc()).limit(1)

    def append(self, connection: sa.Connection, records: Iterable[Mapping[str, Value]]) -> None:
        """New rows, in order, after all others."""
        last = connection.execute(self._last).mappings().first()
        seq, chain = (0, b"") if last is None else (int(last["seq"]), bytes(last["chain"]))
        prepared: list[dict[str, Value]] = []
        for record in records:
            seq += 1
            values: dict[str, Value] = {**record, "seq": seq}
            digest = self._digest(values)
            chain = row_link(self.name, chain, seq, digest)
            prepared.append({**values, "digest": digest, "chain": chain})
        if prepared:
            connection.execute(self._insert, prepared)

    def head(self, connection: sa.Connection) -> "Head":
        """The last row: number 0 and an empty chain if there is none."""
        last = connection.execute(self._last).mappings().first()
        return NO_ROWS if last is None else Head(int(last["seq"]), bytes(last["chain"]))

    def each(self, connection: sa.Connection) -> Iterator[Row]:
        """Every row, in order, one in memory at a time. StorageError `database_damaged`."""
        statement = self._table.select().order_by(self._table.c.seq)
        for row in connection.execution_options(yield_per=256).execute(statement):
            yield self._checked(row._mapping)

    def chain_at(self, connection: sa.Connection, seq: int) -> bytes | None:
        """The chain up to row `seq`, empty for 0; None if there are fewer rows. `verify` says whether it is right."""
        if seq == 0:
            return NO_ROWS.chain
        found = connection.execute(sa.select(self._table.c.chain).where(self._table.c.seq == seq)).scalar()
        return None if found is None else bytes(found)

    def verify(self, connection: sa.Connection) -> None:
        """Digests, numbers and chain are right from the first row to the last; StorageError otherwise."""
        chain, expected = b"", 1
        statement = self._table.select().order_by(self._table.c.seq)
        for row in connection.execution_options(yield_per=256).execute(statement):
            mapping = row._mapping
            self._checked(mapping)
            chain = row_link(self.name, chain, expected, mapping["digest"])
            if mapping["seq"] != expected or mapping["chain"] != chain:
                raise damaged(Path(self.name), f"the chain of records breaks at number {expected}")
            expected += 1


def verify(path: Path, tables: Iterable[CheckedTable]) -> Callable[[sa.Connection], None]:
    """A check for `open_database`: every row of every table. The error names the file and the table."""

    def check(connection: sa.Connection) -> None:
        for table in tables:
            try:
                table.verify(connection)
            except StorageError as error:
                raise damaged(path, error.what) from error

    return check
