"""The place between what stands in a table and what a plan sees of it: a mask over the whole table, as texts.

Promise: a mask gets every row that is used and every column, before any of it is typed, clamped or dropped, and nothing
but what it gives back is read further. It sees the table at once, because groups, thresholds and suppression are about
all rows together; so the table is in memory, each distinct text of a batch once.
"""

import itertools
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING

from fedveil_participant.data.problems import Problems
from fedveil_participant.data.records import Place, Records, TableFile

if TYPE_CHECKING:
    import pyarrow as pa

Mask = Callable[["pa.Table"], "pa.Table"]
"""A table of texts (empty: missing) -> a table of texts, with other rows and columns where its rules say so. Raises
FedveilError. It is asked for tables with rows alone. What it gets and gives stays with the organisation.
"""

_BATCH = 65_536


def masked_file(name: str, rows: Iterator[Mapping[str, str]], mask: Mask) -> TableFile:
    """The rows, read now, masked at the first opening. A problem found after it names the row of the masked table."""
    table = collected(rows)

    @contextmanager
    def opened(names: tuple[str, ...]) -> Iterator[Records]:
        yield _MaskedRecords(mask(table) if table.num_rows else table)

    return TableFile(f"{name}, masked", opened)


def collected(rows: Iterator[Mapping[str, str]]) -> "pa.Table":
    """Records as one table of texts, columns in the order of the first; no columns where there is no record."""
    import pyarrow as pa

    batches = []
    first: list[str] = []
    while batch := list(itertools.islice(rows, _BATCH)):
        first = first or list(batch[0])
        batches.append(pa.table({name: pa.array([row[name] for row in batch], pa.string()) for name in first}))
    return pa.concat_tables(batches) if batches else pa.table({})


class _MaskedRecords:
    """A masked table, row by row."""

    def __init__(self, table: "pa.Table") -> None:
        self._table = table

    def header(self, problems: Problems) -> list[str]:
        """See `Records.header`."""
        if not self._table.column_names:
            problems.add(0, "", "no_rows", "no row was there to be masked, or the mask leaves no column")
        return list(self._table.column_names)

    def records(self, problems: Problems) -> Iterator[tuple[Place, list[str]]]:
        """See `Records.records`."""
        number = 0
        for batch in self._table.to_batches(_BATCH):
            for row in zip(*(column.to_pylist() for column in batch.columns), strict=True):
                number += 1
                yield Place(number), ["" if cell is None else str(cell) for cell in row]
