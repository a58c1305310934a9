"""A table read under a plan, in one pass and in memory proportional to the plan's columns.

Promise: either every cell of the plan's columns is right or nothing is used and all problems are reported at once,
each with its place. Column names are unique; columns that the plan does not name enter the version label and nothing
else. A table is one file or several with the same columns, of any kind that gives `Records`: equal cells mean the same
whatever the kind. `read_source` and `read_features` read one CSV stream, which the caller opens.

Order: a record that the organisation's selection leaves out is gone before anything else; the version is of the rows
that are left; a mask sees them all as one table of texts; the plan's columns are checked in what the mask made.
"""

import unicodedata
from array import array
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from typing import BinaryIO

import numpy as np
from fedveil_common import jcs
from fedveil_common.plan import FloatFeature, Plan
from fedveil_common.plan.section import MISSING_MARKS
from fedveil_common.table import Table
from numpy.typing import NDArray

from fedveil_participant.data import holdout
from fedveil_participant.data.columns import (
    BadCell,
    CategoryColumn,
    Cell,
    FloatColumn,
    PersonColumn,
    TargetColumn,
    normal,
    parse_number,
)
from fedveil_participant.data.csv_records import CsvRecords
from fedveil_participant.data.masked_records import Mask, masked_file
from fedveil_participant.data.problems import Problems
from fedveil_participant.data.records import Place, Records, TableFile
from fedveil_participant.data.selection import Selection
from fedveil_participant.data.version import VersionDigest

MAX_VALUES = 268_435_456
"""Rows times columns of the plan, at most: 2 GiB of values in memory."""

EVERY_ROW = Selection()

Column = FloatColumn | CategoryColumn | TargetColumn | PersonColumn


@dataclass(frozen=True, slots=True, eq=False)
class Source:
    """A data set as one participant holds it. `version`: 32 bytes, local. `positions`: uint64 per row, see `holdout`.
    `sketch`: of the version, local (`difference`).

    Rows dropped by a `missing: drop` rule are in the version and not in the table.
    """

    table: Table
    version: bytes
    positions: NDArray[np.uint64]
    sketch: bytes = b""


@dataclass(slots=True)
class Counts:
    """`found`: records that stood in the files; `used`: those that the selection keeps."""

    found: int = 0
    used: int = 0


def read_source(stream: BinaryIO, filename: str, plan: Plan, version_key: bytes) -> Source:
    """`read_table` of one CSV stream."""
    return read_table([csv_file(filename, stream)], filename, plan, version_key)


def read_features(stream: BinaryIO, filename: str, plan: Plan) -> Table:
    """`read_feature_table` of one CSV stream."""
    return read_feature_table([csv_file(filename, stream)], filename, plan)


def csv_file(name: str, stream: BinaryIO) -> TableFile:
    """A CSV stream as the one file of a table. It can be opened once; the stream stays open."""

    @contextmanager
    def opened(names: tuple[str, ...]) -> Iterator[Records]:
        records = CsvRecords(stream)
        try:
            yield records
        finally:
            records.detach()

    return TableFile(name, opened)


def read_table(
    files: Sequence[TableFile],
    name: str,
    plan: Plan,
    version_key: bytes,
    selection: Selection = EVERY_ROW,
    mask: Mask | None = None,
) -> Source:
    """Everything the plan reads, target (a statistics plan has none) and person included. `version_key`: 32 local
    secret bytes. `selection`: which rows are used at all. `mask`: what is done to them before the plan sees them.

    Raises DataError (`bad_data`) with all problems; OSError if a file cannot be opened.
    """
    features, target, named = plan_columns(plan)
    in_plan_order = [column for column in named if not isinstance(named[column], PersonColumn)]
    version = VersionDigest(version_key)
    positions = array("Q")
    if mask is not None:
        raw = Problems(name)
        files, selection = [through_mask(files, name, selection, mask, version, raw)], EVERY_ROW
        raw.stop_if_any()
    for cells, whole in _rows(files, name, named, (), selection):
        if mask is None:
            version.add(canonical_row(whole))
        if any(cell.drop for cell in cells.values()):
            continue
        _store(features, cells)
        if target is not None:
            target.values.append(cells[plan.data.target.column].stored)
        subject = [plan.data.person] if plan.data.person is not None else in_plan_order
        array_text = ",".join([cells[name].typed for name in subject])
        positions.append(holdout.position(plan.training.seed, f"[{array_text}]".encode()))
    table = _table(features, len(positions), None if target is None else target.array())
    return Source(table, version.digest(), np.array(positions, dtype=np.uint64), version.sketch())


def read_feature_table(files: Sequence[TableFile], name: str, plan: Plan) -> Table:
    """The features only, for prediction: every record gives a row; `missing: drop` leaves the value missing (NaN, -1).

    Raises DataError (`bad_data`) with all problems; OSError if a file cannot be opened.
    """
    features = feature_columns(plan)
    rows = 0
    for cells, _ in _rows(files, name, dict(features), tuple(features)):
        _store(features, cells)
        rows += 1
    return _table(features, rows, None)


def plan_columns(
    plan: Plan,
) -> tuple[dict[str, FloatColumn | CategoryColumn], TargetColumn | None, dict[str, Column]]:
    """Readers of the plan's features, of its target (a statistics plan has none), and of all its columns by name: in
    plan order, the person's last.
    """
    features = feature_columns(plan)
    target = None if plan.statistics is not None else TargetColumn(plan.data.target)
    named: dict[str, Column] = {**features}
    if target is not None:
        named[plan.data.target.column] = target
    if plan.data.person is not None:
        named[plan.data.person] = PersonColumn(plan.data.person)
    return features, target, named


def feature_columns(plan: Plan) -> dict[str, FloatColumn | CategoryColumn]:
    """Readers of the plan's features."""
    return {f.name: FloatColumn(f) if isinstance(f, FloatFeature) else CategoryColumn(f) for f in plan.data.features}


def _store(features: dict[str, FloatColumn | CategoryColumn], cells: dict[str, Cell]) -> None:
    for name, column in features.items():
        match column:
            case FloatColumn():
                column.values.append(cells[name].stored)
            case CategoryColumn():
                column.values.append(int(cells[name].stored))


def _table(features: dict[str, FloatColumn | CategoryColumn], rows: int, target: NDArray[np.float64] | None) -> Table:
    return Table(
        rows=rows,
        numbers={name: column.array() for name, column in features.items() if isinstance(column, FloatColumn)},
        codes={name: column.array() for name, column in features.items() if isinstance(column, CategoryColumn)},
        target=target,
    )


def canonical_row(row: Mapping[str, str]) -> bytes:
    """A record with all its columns as RFC 8785 JSON: missing as null, decimal numbers as numbers, else text.

    It does not depend on any plan, so that no choice of columns makes the same data look new.
    """
    members = []
    for name, begins in _members(tuple(row)):
        text = normal(row[name])
        value = None if text in MISSING_MARKS else parse_number(text)
        typed = jcs.number(value) if value is not None else "null" if text in MISSING_MARKS else jcs.string(text)
        members.append(begins + typed)
    return f"{{{','.join(members)}}}".encode()


@lru_cache(maxsize=8)
def _members(names: tuple[str, ...]) -> tuple[tuple[str, str], ...]:
    """The columns of a table in the order of RFC 8785, each with how its member begins: the same for every row."""
    in_order = sorted(names, key=lambda name: name.encode("utf-16-be"))
    return tuple((name, f"{jcs.string(name)}:") for name in in_order)


def through_mask(
    files: Sequence[TableFile],
    name: str,
    selection: Selection,
    mask: Mask,
    version: VersionDigest,
    problems: Problems,
    counts: Counts | None = None,
) -> TableFile:
    """What a mask makes of the records that the selection keeps, as a table of its own; `version` is of the records
    before it. What is wrong with the files is in `problems`: then the masked table means nothing.
    """

    def rows() -> Iterator[dict[str, str]]:
        for _, record in read_records(files, [], (), selection, problems, MAX_VALUES, counts):
            version.add(canonical_row(record))
            yield record

    return masked_file(name, rows(), mask)


def _rows(
    files: Sequence[TableFile],
    name: str,
    named: dict[str, Column],
    only: tuple[str, ...],
    selection: Selection = EVERY_ROW,
) -> Iterator[tuple[dict[str, Cell], dict[str, str]]]:
    """Each good record: its typed cells, and the whole of it; raises DataError at the end if any record was bad.

    `only`: the columns that are asked of the files; empty: all.
    """
    problems = Problems(name)
    for place, record in read_records(files, list(named), only, selection, problems, MAX_VALUES // len(named)):
        cells: dict[str, Cell] = {}
        for column_name, column in named.items():
            try:
                cells[column_name] = column.read(normal(record[column_name]))
            except BadCell as error:
                problems.add(place.line, column_name, error.code, error.text, place.group)
        if not problems.total:
            yield cells, record
    problems.stop_if_any()


def read_records(
    files: Sequence[TableFile],
    wanted: Sequence[str],
    only: tuple[str, ...],
    selection: Selection,
    problems: Problems,
    most: int,
    counts: "Counts | None" = None,
) -> Iterator[tuple[Place, dict[str, str]]]:
    """Each record that the selection keeps, by the names of its columns, with its place.

    What is wrong with the files is in `problems`; the records of a file whose header is wrong are not read.
    `wanted`: columns that must be there. `only`: see `TableFile`. `most`: records, at most.
    """
    count = 0
    first: list[str] = []
    for file in files:
        problems.file, known = file.name, problems.total
        with file.open(only) as source:
            names = [unicodedata.normalize("NFC", column.strip()) for column in source.header(problems)]
            if names:
                _check_names(names, wanted, problems)
            if first and names and sorted(names) != sorted(first):
                problems.add(1, "", "columns_differ", f"not the columns of {files[0].name}")
            keep = selection.keeper(names, problems) if names else None
            if problems.total > known or keep is None:
                continue  # the other files may have problems of their own
            first = first or names
            before = count
            for place, record in source.records(problems):
                count += 1
                if count > most:
                    problems.add(place.line, "", "too_many_rows", f"more than {most} rows", place.group)
                    break
                used = keep(record)
                if counts is not None:
                    counts.found += 1
                    counts.used += used
                if used:
                    yield place, dict(zip(names, record, strict=True))
            if count == before and problems.total == known:
                problems.add(1, "", "no_rows", "there is no record after the header")


def _check_names(names: list[str], wanted: Sequence[str], problems: Problems) -> None:
    """Each column stands there once, and each wanted one does."""
    for name in sorted({name for name in names if names.count(name) > 1}):
        problems.add(1, name, "column_twice", "the header names this column more than once")
    for name in wanted:
        if name not in names:
            problems.add(1, name, "column_missing", "the plan reads this column and the header lacks it")
