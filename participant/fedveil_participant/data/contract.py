"""What of a plan an organisation's data fulfils: every demand of the plan, counted, for the organisation alone.

Promise: `check_contract` says yes exactly where acceptance would, and reads the data as acceptance does; beside that
it counts what fails in each column, and names what a plan does not demand and a model cannot do without (a class that
is missing, a column in which all are the same). No value is in the result, and nothing of it goes to the coordinator.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from fedveil_common.errors import PolicyRefusal
from fedveil_common.plan import BinaryTarget, CategoryTarget, FloatTarget, Missing, Plan

from fedveil_participant.data.columns import BadCell, CategoryColumn, FloatColumn, PersonColumn, TargetColumn, normal
from fedveil_participant.data.csv_source import (
    EVERY_ROW,
    MAX_VALUES,
    Column,
    Counts,
    canonical_row,
    plan_columns,
    read_records,
    through_mask,
)
from fedveil_participant.data.masked_records import Mask
from fedveil_participant.data.prepare import check_row_count
from fedveil_participant.data.problems import DataProblem, Problems
from fedveil_participant.data.records import TableFile
from fedveil_participant.data.selection import Selection
from fedveil_participant.data.version import VersionDigest


@dataclass(frozen=True, slots=True)
class ColumnContract:
    """One column of the plan: what it demands, and by code how many rows do not give it."""

    name: str
    demand: str
    failing: tuple[tuple[str, int], ...]


@dataclass(frozen=True, slots=True)
class Finding:
    """`code` is stable. `refuses`: the plan would not be accepted for it."""

    code: str
    column: str
    text: str
    refuses: bool


@dataclass(frozen=True, slots=True)
class Contract:
    """`left_out`: rows that filters and exclusions took; `rows`: those that the plan looks at; `failing`: of these, in
    which a cell is not what the plan demands; `dropped`: by its rule for missing values; `usable`: what is left.
    `problems`: the first of them, with their places.
    """

    left_out: int
    rows: int
    failing: int
    dropped: int
    usable: int
    columns: tuple[ColumnContract, ...]
    findings: tuple[Finding, ...]
    problems: tuple[DataProblem, ...]
    version: bytes

    @property
    def fulfilled(self) -> bool:
        """Whether the plan would be accepted for this data."""
        return not any(one.refuses for one in self.findings)


def check_contract(
    files: Sequence[TableFile],
    name: str,
    plan: Plan,
    version_key: bytes,
    selection: Selection = EVERY_ROW,
    mask: Mask | None = None,
) -> Contract:
    """The whole table against the plan. OSError if a file cannot be opened; what else is wrong is in the result."""
    problems, counts, version = Problems(name), Counts(), VersionDigest(version_key)
    _, _, columns = plan_columns(plan)
    if mask is not None:
        files, selection = [through_mask(files, name, selection, mask, version, problems, counts)], EVERY_ROW
    counted = counts if mask is None else None
    seen: dict[str, set[float]] = {column: set() for column in columns}
    failing: dict[str, Counter[str]] = {column: Counter() for column in columns}
    enough = {column: _classes(reader) for column, reader in columns.items()}
    rows = bad = dropped = 0
    for place, record in read_records(
        files, list(columns), (), selection, problems, MAX_VALUES // len(columns), counted
    ):
        rows += 1
        if mask is None:
            version.add(canonical_row(record))
        wrong = drop = False
        for column, reader in columns.items():
            try:
                cell = reader.read(normal(record[column]))
            except BadCell as error:
                wrong = True
                failing[column][error.code] += 1
                problems.add(place.line, column, error.code, error.text, place.group)
                continue
            drop = drop or cell.drop
            if cell.typed != "null" and len(seen[column]) < enough[column]:
                seen[column].add(cell.stored)
        bad += wrong
        dropped += drop and not wrong
    usable = rows - bad - dropped
    demands = tuple(
        ColumnContract(one, _demand(reader), tuple(sorted(failing[one].items()))) for one, reader in columns.items()
    )
    findings = (*_refusing(plan, problems, bad, usable, counts), *_thin(columns, seen, usable))
    return Contract(
        counts.found - counts.used, rows, bad, dropped, usable, demands, findings, problems.kept, version.digest()
    )


def _classes(reader: Column) -> int:
    """How many different values are looked for: two tell that a column varies."""
    match reader:
        case TargetColumn(target=CategoryTarget(values=values)):
            return len(values)
        case _:
            return 2


def _demand(reader: Column) -> str:
    """In the words of a plan file; texts of the plan are from outside."""
    match reader:
        case FloatColumn(feature=feature):
            clamp = ", clamped" if feature.clamp else ""
            return f"number from {feature.lo:g} to {feature.hi:g}{clamp}; missing: {_missing(feature.missing)}"
        case CategoryColumn(feature=feature):
            return f"one of {len(feature.values)} values; missing: {_missing(feature.missing)}"
        case TargetColumn(target=BinaryTarget()):
            return "target, any value: positive or not; never missing"
        case TargetColumn(target=CategoryTarget(values=values)):
            return f"target, one of {len(values)} classes; never missing"
        case TargetColumn(target=FloatTarget(lo=lo, hi=hi)):
            return f"target, number from {lo:g} to {hi:g}; never missing"
        case _:
            return "the person; never missing"


def _missing(rule: Missing) -> str:
    return {
        Missing.ERROR: "an error",
        Missing.MEAN: "the mean",
        Missing.DROP: "the row is dropped",
        Missing.VALUE: "a value of the plan",
    }[rule]


def _refusing(plan: Plan, problems: Problems, bad: int, usable: int, counts: Counts) -> list[Finding]:
    found = []
    if problems.total:
        found.append(Finding("bad_data", "", f"{problems.total} problems, in {bad} rows or with the table", True))
    if counts.found and not counts.used:
        found.append(Finding("no_rows_left", "", "the filters and exclusions leave no row", True))
    try:
        check_row_count(plan, usable)
    except PolicyRefusal as error:
        found.append(Finding(error.code, "", error.what, True))
    return found


def _thin(columns: Mapping[str, Column], seen: Mapping[str, set[float]], usable: int) -> list[Finding]:
    """What the plan permits and a model suffers from."""
    found = []
    for name, reader in columns.items():
        values = len(seen[name])
        match reader:
            case _ if not usable or isinstance(reader, PersonColumn):
                continue
            case TargetColumn(target=BinaryTarget()) if values < 2:
                found.append(Finding("class_missing", name, "one of the two classes has no row here", False))
            case TargetColumn(target=CategoryTarget(values=classes)) if values < len(classes):
                text = f"{len(classes) - values} of {len(classes)} classes have no row here"
                found.append(Finding("class_missing", name, text, False))
            case _ if values < 2:
                text = "the same in every row, or missing: it tells a model nothing"
                found.append(Finding("constant_column", name, text, False))
    return found
