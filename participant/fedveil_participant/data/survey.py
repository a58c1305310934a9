"""What stands in a table, before any plan: for the person who registers it.

Promise: one pass in memory of the columns' number; nothing of a cell is in the result but counts and what kind of
thing a column holds. It stays with the organisation.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

from fedveil_common.plan.section import MISSING_MARKS

from fedveil_participant.data.columns import normal, parse_number
from fedveil_participant.data.csv_source import MAX_VALUES, Counts, canonical_row, read_records
from fedveil_participant.data.problems import Problems
from fedveil_participant.data.records import TableFile
from fedveil_participant.data.selection import Selection
from fedveil_participant.data.version import VersionDigest


@dataclass(slots=True)
class ColumnSurvey:
    """One column: how many cells are numbers, how many other texts, how many are missing."""

    name: str
    numbers: int = 0
    texts: int = 0
    missing: int = 0
    _first: str | None = field(default=None, repr=False)
    _varies: bool = False

    def note(self, cell: str) -> None:
        """One cell."""
        text = normal(cell)
        if text in MISSING_MARKS:
            self.missing += 1
            return
        self.numbers, self.texts = (
            (self.numbers, self.texts + 1) if parse_number(text) is None else (self.numbers + 1, self.texts)
        )
        self._varies = self._varies or (self._first is not None and self._first != text)
        self._first = text

    @property
    def kind(self) -> str:
        """`number`, `text`, `mixed` or `empty`."""
        if not self.numbers and not self.texts:
            return "empty"
        return "mixed" if self.numbers and self.texts else "number" if self.numbers else "text"

    @property
    def constant(self) -> bool:
        """Whether all its cells that are not missing are the same."""
        return not self._varies


@dataclass(frozen=True, slots=True)
class Survey:
    """A table: rows that are used and rows that are left out, its columns, and the version label (local)."""

    rows: int
    left_out: int
    columns: tuple[ColumnSurvey, ...]
    version: bytes


def survey(files: Sequence[TableFile], name: str, selection: Selection, version_key: bytes) -> Survey:
    """The whole table. DataError (`bad_data`) with all problems; OSError if a file cannot be opened."""
    problems, counts, version = Problems(name), Counts(), VersionDigest(version_key)
    columns: dict[str, ColumnSurvey] = {}
    rows = 0
    for _, record in read_records(files, [], (), selection, problems, MAX_VALUES, counts):
        rows += 1
        version.add(canonical_row(record))
        for column, cell in record.items():
            columns.setdefault(column, ColumnSurvey(column)).note(cell)
    problems.stop_if_any()
    return Survey(rows, counts.found - counts.used, tuple(columns.values()), version.digest())
