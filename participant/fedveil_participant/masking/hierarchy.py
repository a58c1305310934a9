"""A hierarchy: for each value of a column what it becomes at level 1, 2, .., read from a CSV file beside the rules.

Promise: every record has the same number of levels, no value stands twice, and the bytes of the file are in the digest
of the rules that name it. Whether one level is a coarsening of another is asked with `coarsens`.
"""

import csv
import hashlib
import io
from collections.abc import Mapping
from dataclasses import dataclass, field

from fedveil_common.plan.section import MISSING_MARKS

from fedveil_participant.data.columns import normal

MAX_BYTES = 16 * 1024 * 1024
MAX_LEVELS = 32


class BadHierarchy(ValueError):
    """`code` and the words say why the file is no hierarchy; no value of it is in them."""

    def __init__(self, code: str, text: str) -> None:
        super().__init__(text)
        self.code = code
        self.text = text


@dataclass(frozen=True, slots=True)
class Hierarchy:
    """`paths`: value -> what stands at levels 1, 2, ... `sha256`: of the file, hex."""

    sha256: str
    levels: int
    paths: Mapping[str, tuple[str, ...]] = field(repr=False)

    def at(self, value: str, level: int) -> str | None:
        """What `value` becomes at `level` (from 1); None if the file does not have it."""
        path = self.paths.get(value)
        return None if path is None else path[level - 1]

    def coarsens(self, finer: int, coarser: int) -> bool:
        """Whether equal labels at level `finer` always have equal labels at level `coarser`."""
        above: dict[str, str] = {}
        return all(
            above.setdefault(path[finer - 1], path[coarser - 1]) == path[coarser - 1] for path in self.paths.values()
        )


def parse_hierarchy(data: bytes) -> Hierarchy:
    """The hierarchy in a CSV file without a header: value, level 1, level 2, .. in each record. BadHierarchy."""
    if len(data) > MAX_BYTES:
        raise BadHierarchy("hierarchy_too_large", f"more than {MAX_BYTES} bytes")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise BadHierarchy("not_utf8", "not UTF-8 text") from None
    paths: dict[str, tuple[str, ...]] = {}
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    try:
        for record in reader:
            if record:
                _add(paths, [normal(cell) for cell in record], reader.line_num)
    except csv.Error:
        raise BadHierarchy("csv_syntax", f"line {reader.line_num}: not CSV") from None
    if not paths:
        raise BadHierarchy("hierarchy_empty", "no record in it")
    return Hierarchy(hashlib.sha256(data).hexdigest(), len(next(iter(paths.values()))), paths)


def _add(paths: dict[str, tuple[str, ...]], record: list[str], line: int) -> None:
    value, *labels = record
    if not 1 <= len(labels) <= MAX_LEVELS:
        raise BadHierarchy("hierarchy_levels", f"line {line}: a value and 1 to {MAX_LEVELS} levels are needed")
    if paths and len(labels) != len(next(iter(paths.values()))):
        raise BadHierarchy("hierarchy_levels", f"line {line}: not as many levels as the lines before")
    if value in paths:
        raise BadHierarchy("hierarchy_twice", f"line {line}: this value stands in an earlier line too")
    if value in MISSING_MARKS or any(label in MISSING_MARKS for label in labels):
        raise BadHierarchy("missing_mark", f"line {line}: a blank, '?' or NA stands for a missing value")
    paths[value] = tuple(labels)
