"""A table or query of a SQLite file, which cannot be changed through it.

Promise: the file is opened read-only (mode=ro) and, before the organisation's query is looked at, an authorizer permits
what reads and nothing else: no ATTACH, no PRAGMA, no write, no function that loads code. All rows come from one
transaction. A value is taken as what it is, since a SQLite column holds any type.
"""

import functools
import re
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import quote

from fedveil_common.ports import Clock

from fedveil_participant.data import sql_records
from fedveil_participant.data.records import Records, TableFile
from fedveil_participant.data.sql_records import STATEMENT_S, BadValue, Selected, SqlColumn, SqlRecords

_READING = frozenset({sqlite3.SQLITE_SELECT, sqlite3.SQLITE_READ, sqlite3.SQLITE_RECURSIVE})
_LOADING = frozenset({"load_extension", "fts3_tokenizer", "writefile", "readfile", "edit"})
_STEPS = 100_000
"""Instructions of SQLite's machine between two looks at the clock."""

_SURROGATE = re.compile("[\ud800-\udfff]")


def sqlite_table(path: Path, selected: Selected, clock: Clock) -> TableFile:
    """The table as the one file of a data set. ConfigError `source_selection`, and `database_*` as it is read."""
    shown, statement = f"sqlite {path}, {selected.shown}", selected.statement
    return TableFile(shown, lambda names: _opened(path, statement, shown, clock))


@contextmanager
def _opened(path: Path, statement: str, shown: str, clock: Clock) -> Iterator[Records]:
    try:
        connection = sqlite3.connect(
            f"file:{quote(str(path))}?mode=ro", uri=True, isolation_level=None, cached_statements=0
        )
    except sqlite3.Error as error:
        raise sql_records.unreachable(shown, _named(error)) from None
    late: list[bool] = []
    try:
        connection.text_factory = functools.partial(str, encoding="utf-8", errors="surrogateescape")
        for pragma in ("trusted_schema = OFF", "query_only = ON", "cell_size_check = ON"):
            connection.execute(f"PRAGMA {pragma}")
        connection.execute("BEGIN")
        connection.set_authorizer(_authorize)
        ends = clock.monotonic_s() + STATEMENT_S
        connection.set_progress_handler(lambda: _is_late(clock, ends, late), _STEPS)
        cursor = connection.execute(statement)
        columns = [SqlColumn(one[0], _cell) for one in cursor.description or ()]
        yield SqlRecords(columns, _batches(cursor, sql_records.batch_rows(len(columns)), shown, late))
    except (sqlite3.Error, sqlite3.Warning, UnicodeEncodeError) as error:
        raise sql_records.refused(shown, _why(error, late)) from None
    finally:
        connection.close()


def _authorize(action: int, first: str | None, second: str | None, database: str | None, source: str | None) -> int:
    """What one step of a statement may do, as SQLite asks when it is prepared."""
    del first, database, source
    if action in _READING:
        return sqlite3.SQLITE_OK
    if action == sqlite3.SQLITE_FUNCTION and (second or "").lower() not in _LOADING:
        return sqlite3.SQLITE_OK
    return sqlite3.SQLITE_DENY


def _is_late(clock: Clock, ends: float, late: list[bool]) -> int:
    if clock.monotonic_s() < ends:
        return 0
    late.append(True)
    return 1


def _batches(cursor: sqlite3.Cursor, rows: int, shown: str, late: list[bool]) -> Iterator[Sequence[Sequence[object]]]:
    while True:
        try:
            batch = cursor.fetchmany(rows)
        except sqlite3.Error as error:
            raise sql_records.lost(shown, _why(error, late)) from None
        if not batch:
            return
        yield batch


def _cell(value: object) -> str:
    match value:
        case str():
            if not value.isascii() and _SURROGATE.search(value):
                raise BadValue("not_utf8", "bytes that are not UTF-8 text")
            return value
        case int():
            return str(value)
        case float():
            return repr(value).removesuffix(".0")
        case _:
            raise BadValue("column_type", "raw bytes have no meaning as a number, text, date or time")


def _why(error: Exception, late: list[bool]) -> str:
    return f"it took more than {STATEMENT_S} s" if late else _named(error)


def _named(error: Exception) -> str:
    """Which of SQLite's own codes it is: a closed list; its message may quote values."""
    match getattr(error, "sqlite_errorname", ""):
        case "SQLITE_AUTH":
            return "it would do more than read (SQLITE_AUTH)"
        case "SQLITE_CANTOPEN":
            return "the file is not there or may not be read (SQLITE_CANTOPEN)"
        case "SQLITE_NOTADB" | "SQLITE_CORRUPT" as name:
            return f"the file is no database, or damaged ({name})"
        case "":
            return "it is not one statement that reads"
        case name:
            return str(name)
