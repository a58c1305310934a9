"""A table as it is found, before any plan: named columns and records of text, from one file or several.

Promise: whatever the kind of the files, the same cells give the same records, so that a plan, the holdout and the
version mean the same for all of them. `Records` is the port that each kind of file fills.
"""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from fedveil_participant.data.problems import Problems


class Place(NamedTuple):
    """Where a record stands in its file: `line` from 1 (of a CSV file; in Parquet the row), `group` from 0 or -1."""

    line: int
    group: int = -1


class Records(Protocol):
    """One file, opened. What is wrong with it goes into `problems`, never a value of it."""

    def header(self, problems: Problems) -> list[str]:
        """The columns' names as they stand there; empty (with a problem recorded) if there are none. Called first."""
        ...

    def records(self, problems: Problems) -> Iterator[tuple[Place, list[str]]]:
        """The records in order, one text per column; stops early, with a problem recorded, where none can be read."""
        ...


@dataclass(frozen=True, slots=True)
class TableFile:
    """One file of a table. `open(names)` gives its records; columns other than `names` (if not empty) may be left out.

    OSError if it cannot be opened.
    """

    name: str
    open: Callable[[tuple[str, ...]], AbstractContextManager[Records]]
