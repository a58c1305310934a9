"""A table as groups: one row per group of `k` rows or more, with its size and a measure of each column.

Promise: no group of fewer than k rows and no measure of fewer than k numbers is in it; groups stand in the order of
their names, which says nothing about the order of rows.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from fedveil_participant.masking.cells import Cells
from fedveil_participant.masking.classes import classes_of
from fedveil_participant.masking.rules import Grouping


@dataclass(frozen=True, slots=True, eq=False)
class Groups:
    """`table`: what remains. `sizes`: of its groups. `lost`: rows of groups that were too small."""

    table: pa.Table
    sizes: NDArray[np.int64]
    lost: int


def grouped(grouping: Grouping, cells: Mapping[str, Cells], numbers: Mapping[str, NDArray[np.float64]]) -> Groups:
    """`cells` of the columns in `by`; `numbers` of the measured ones: float64 per row, NaN = missing."""
    by = [cells[name] for name in grouping.by]
    classes = classes_of(by, by[0].rows)
    large = classes.sizes >= grouping.k
    first = np.full(len(classes.sizes), by[0].rows, dtype=np.int64)
    np.minimum.at(first, classes.ids, np.arange(by[0].rows))
    names = [[_named(one, row) for row in first[large].tolist()] for one in by]
    order = sorted(range(int(large.sum())), key=lambda place: [one[place] or "" for one in names])
    columns: dict[str, pa.Array] = {
        name: pa.array([named[place] for place in order], pa.string())
        for name, named in zip(grouping.by, names, strict=True)
    }
    places = np.flatnonzero(large)[order]
    columns[grouping.count] = pa.array(classes.sizes[places])
    for name, measure in grouping.measures.items():
        columns[name] = _measured(measure, numbers[name], classes.ids, len(classes.sizes), grouping.k).take(places)
    return Groups(pa.table(columns), classes.sizes[places], int(classes.sizes[~large].sum()))


def _named(cells: Cells, row: int) -> str | None:
    code = int(cells.codes[row])
    return None if code < 0 else str(cells.values[code].as_py())


def _measured(measure: str, numbers: NDArray[np.float64], ids: NDArray[np.int64], count: int, k: int) -> pa.Array:
    there = ~np.isnan(numbers)
    values, of = numbers[there], ids[there]
    present = np.bincount(of, minlength=count)
    sums = np.bincount(of, weights=values, minlength=count).astype(np.float64)
    found: NDArray[np.float64]
    match measure:
        case "sum":
            found = sums
        case "mean":
            found = sums / np.maximum(present, 1)
        case _:
            found = np.full(count, np.inf if measure == "min" else -np.inf)
            (np.minimum if measure == "min" else np.maximum).at(found, of, values)
    return pa.array(found, pa.float64(), mask=present < k)
