"""A table or a query of a database as records of text, row by row; what `postgresql` and `sqlite` have in common.

Promise: memory is a bounded number of rows; cells have the texts that the same cells have in a Parquet file
(docs/data.md), so that the version does not depend on where a table lies. An error says what kind of failure it was and
never what a driver said of it, since that quotes the query and the values.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from fedveil_common.errors import ConfigError

from fedveil_participant.data.csv_records import MAX_CELL
from fedveil_participant.data.problems import Problems
from fedveil_participant.data.records import Place

BATCH_ROWS, BATCH_CELLS = 1000, 65_536
"""At most so many rows and cells are fetched at a time."""

STATEMENT_S = 600
"""How long one statement, or one fetch of a batch, may take."""

Cell = Callable[[object], str]
"""A value of the driver -> its text, empty for a missing one; raises `BadValue`."""


class BadValue(Exception):
    """A cell that has no text; `code` and `text` say why, never what stood there."""

    def __init__(self, code: str, text: str) -> None:
        super().__init__(code)
        self.code = code
        self.text = text


@dataclass(frozen=True, slots=True)
class SqlColumn:
    """One column of the result: `cell` is None if its type has no meaning as a number, text, date or time."""

    name: str
    cell: Cell | None


@dataclass(frozen=True, slots=True)
class Selected:
    """What is read: a table by its name (`schema.table`, or `table`), or the organisation's own query."""

    table: str = ""
    query: str = ""

    def __post_init__(self) -> None:
        if bool(self.table) == bool(self.query):
            raise ConfigError(
                "source_selection",
                "a database is read by a table's name or by a query, one of the two",
                next_step="--table NAME, --query SQL or --query-file FILE",
            )

    @property
    def parts(self) -> tuple[str, ...]:
        """The table's name as identifiers. ConfigError `source_selection`."""
        parts = tuple(self.table.split("."))
        if not 1 <= len(parts) <= 2 or not all(parts) or "\x00" in self.table:
            raise ConfigError(
                "source_selection",
                "the table's name is not TABLE or SCHEMA.TABLE",
                next_step="name the table, or read it by --query",
            )
        return parts

    @property
    def statement(self) -> str:
        """The statement that reads it: one, without its end. Both dialects quote identifiers by double quotes."""
        if self.query:
            return self.query.strip().rstrip(";").rstrip()
        quoted = ".".join('"' + part.replace('"', '""') + '"' for part in self.parts)
        return f"SELECT * FROM {quoted}"  # noqa: S608 - identifiers, quoted above

    @property
    def shown(self) -> str:
        """For messages: the table's name; of a query only that it is one, since its text may hold values."""
        return f"table {self.table}" if self.table else "query"


class SqlRecords:
    """`Records` of a result. `batches`: rows as the driver gives them."""

    def __init__(self, columns: Sequence[SqlColumn], batches: Iterator[Sequence[Sequence[object]]]) -> None:
        self._columns = columns
        self._batches = batches

    def header(self, problems: Problems) -> list[str]:
        """See `Records.header`."""
        if not self._columns:
            problems.add(0, "", "no_columns", "the query gives no columns")
        unfit = [column.name for column in self._columns if column.cell is None]
        for name in unfit:
            problems.add(0, name, "column_type", "of a type that has no meaning as a number, text, date or time")
        return [] if unfit else [column.name for column in self._columns]

    def records(self, problems: Problems) -> Iterator[tuple[Place, list[str]]]:
        """See `Records.records`. ConfigError `database_*` if the database stops."""
        number = 0
        for batch in self._batches:
            for row in batch:
                number += 1
                cells = self._cells(row, number, problems)
                if cells is not None:
                    yield Place(number), cells

    def _cells(self, row: Sequence[object], number: int, problems: Problems) -> list[str] | None:
        cells, known = [], problems.total
        for column, value in zip(self._columns, row, strict=True):
            assert column.cell is not None, "the header was refused"
            try:
                text = "" if value is None else column.cell(value)
                if len(text) > MAX_CELL:
                    raise BadValue("cell_too_long", f"a text of more than {MAX_CELL} characters")
            except BadValue as error:
                problems.add(number, column.name, error.code, error.text)
                continue
            cells.append(text)
        return cells if problems.total == known else None


def batch_rows(columns: int) -> int:
    """How many rows are fetched at a time."""
    return max(1, min(BATCH_ROWS, BATCH_CELLS // max(1, columns)))


def unreachable(shown: str, why: str) -> ConfigError:
    """`database_unreachable`."""
    return ConfigError(
        "database_unreachable",
        f"{shown} cannot be read: {why}",
        not_done="no row of it was used",
        next_step="check the address, the server and who may connect, with psql as the same user",
    )


def refused(shown: str, why: str) -> ConfigError:
    """`database_query`: the database does not carry out what was asked of it."""
    return ConfigError(
        "database_query",
        f"{shown} did not give the rows: {why}",
        not_done="no row of it was used",
        next_step="try the table or query with the database's own tools, as the same user and read-only",
    )


def lost(shown: str, why: str) -> ConfigError:
    """`database_lost`: it was there, and is not any more."""
    return ConfigError(
        "database_lost",
        f"{shown} stopped in the middle: {why}",
        not_done="no row of it was used",
        next_step="try again once the database is there",
    )
