"""A CSV file read under a plan, in one pass and in memory proportional to the plan's columns.

Promise: either every cell of the plan's columns is right or nothing is used and all problems are reported at once,
each with its line. UTF-8 (a byte order mark is dropped), comma, double quotes, a header with unique names; columns
that the plan does not name enter the version label and nothing else; blank lines are no records. The caller opens the
stream.
"""

import csv
import io
import re
import unicodedata
from array import array
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
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
from fedveil_participant.data.problems import Problems
from fedveil_participant.data.version import VersionDigest

MAX_RECORD = 4_194_304
"""Longest line, in characters."""

_OTHER_SEPARATORS = {";": "semicolons", "\t": "tabs", "|": "bars"}
_SURROGATE = re.compile("[\ud800-\udfff]")

Column = FloatColumn | CategoryColumn | TargetColumn | PersonColumn


@dataclass(frozen=True, slots=True, eq=False)
class Source:
    """A data set as one participant holds it. `version`: 32 bytes, local. `positions`: uint64 per row, see `holdout`.

    Rows dropped by a `missing: drop` rule are in the version and not in the table.
    """

    table: Table
    version: bytes
    positions: NDArray[np.uint64]


def read_source(stream: BinaryIO, filename: str, plan: Plan, version_key: bytes) -> Source:
    """Everything the plan reads, target and person included. `version_key`: 32 local secret bytes.

    Raises DataError (`bad_data`) with all problems.
    """
    features = _feature_columns(plan)
    target = TargetColumn(plan.data.target)
    named: dict[str, Column] = {**features, plan.data.target.column: target}
    in_plan_order = list(named)
    if plan.data.person is not None:
        named[plan.data.person] = PersonColumn(plan.data.person)
    version = VersionDigest(version_key)
    positions = array("Q")
    for cells, whole in _rows(stream, filename, named):
        version.add(canonical_row(whole))
        if any(cell.drop for cell in cells.values()):
            continue
        _store(features, cells)
        target.values.append(cells[plan.data.target.column].stored)
        subject = [plan.data.person] if plan.data.person is not None else in_plan_order
        array_text = ",".join([cells[name].typed for name in subject])
        positions.append(holdout.position(plan.training.seed, f"[{array_text}]".encode()))
    table = _table(features, len(positions), target.array())
    return Source(table, version.digest(), np.array(positions, dtype=np.uint64))


def read_features(stream: BinaryIO, filename: str, plan: Plan) -> Table:
    """The features only, for prediction: every record gives a row; `missing: drop` leaves the value missing (NaN, -1).

    Raises DataError (`bad_data`) with all problems.
    """
    features = _feature_columns(plan)
    rows = 0
    for cells, _ in _rows(stream, filename, dict(features)):
        _store(features, cells)
        rows += 1
    return _table(features, rows, None)


def _feature_columns(plan: Plan) -> dict[str, FloatColumn | CategoryColumn]:
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
    for name in sorted(row, key=lambda name: name.encode("utf-16-be")):
        text = normal(row[name])
        value = None if text in MISSING_MARKS else parse_number(text)
        typed = jcs.number(value) if value is not None else "null" if text in MISSING_MARKS else jcs.string(text)
        members.append(f"{jcs.string(name)}:{typed}")
    return f"{{{','.join(members)}}}".encode()


def _rows(
    stream: BinaryIO, filename: str, named: dict[str, Column]
) -> Iterator[tuple[dict[str, Cell], dict[str, str]]]:
    """Each good record: its typed cells, and the whole of it; raises DataError at the end if any record was bad."""
    problems = Problems(filename)
    text = io.TextIOWrapper(stream, encoding="utf-8-sig", errors="surrogateescape", newline="")
    try:
        records = _records(text, problems)
        _, header = next(records, (1, []))
        if not header and not problems.total:
            problems.add(1, "", "empty_file", "the file is empty; its first line names the columns")
            problems.stop_if_any()
        places = _places(header, list(named), problems)
        problems.stop_if_any()
        names = [unicodedata.normalize("NFC", name.strip()) for name in header]
        count = 0
        for line, record in records:
            count += 1
            if len(record) != len(header):
                problems.add(line, "", "field_count", f"{len(record)} fields, the header has {len(header)}")
                continue
            cells: dict[str, Cell] = {}
            for name, column in named.items():
                try:
                    cells[name] = column.read(normal(record[places[name]]))
                except BadCell as error:
                    problems.add(line, name, error.code, error.text)
            if not problems.total:
                yield cells, dict(zip(names, record, strict=True))
        if not count:
            problems.add(1, "", "no_rows", "there is no record after the header")
    finally:
        text.detach()
    problems.stop_if_any()


def _records(text: io.TextIOWrapper, problems: Problems) -> Iterator[tuple[int, list[str]]]:
    """(line on which it begins, fields) for each record that is not blank; stops at the first that cannot be split."""
    reader = csv.reader(_lines(text, problems), strict=True)
    line = 1
    while True:
        try:
            record = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            problems.add(line, "", "csv_syntax", f"not CSV from here on: {error}")
            return
        if record:
            yield line, record
        line = reader.line_num + 1


def _lines(text: io.TextIOWrapper, problems: Problems) -> Iterator[str]:
    """Physical lines without bytes that are not UTF-8."""
    number = 0
    while line := text.readline(MAX_RECORD):
        number += 1
        if len(line) == MAX_RECORD:
            problems.add(number, "", "line_too_long", f"a line of {MAX_RECORD} characters or more")
            return
        if not line.isascii() and _SURROGATE.search(line):
            problems.add(number, "", "not_utf8", "bytes that are not UTF-8 text")
            line = _SURROGATE.sub("?", line)
        yield line


def _places(header: list[str], wanted: list[str], problems: Problems) -> dict[str, int]:
    """Where each wanted column stands."""
    names = [unicodedata.normalize("NFC", name.strip()) for name in header]
    for name in sorted({name for name in names if names.count(name) > 1}):
        problems.add(1, name, "column_twice", "the header names this column more than once")
    other = next((said for mark, said in _OTHER_SEPARATORS.items() if len(names) == 1 and mark in names[0]), None)
    if other is not None:
        problems.add(1, "", "separator", f"the header is one column and holds {other}: columns are separated by commas")
        return {}
    for name in wanted:
        if name not in names:
            problems.add(1, name, "column_missing", "the plan reads this column and the header lacks it")
    return {name: names.index(name) for name in wanted if name in names}
