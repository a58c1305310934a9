"""A table masked by its rules: `mask_table`.

Promise: default deny. A column that the rules do not name stops everything, and so does one that they name and the
table lacks, a cell that a step cannot take, a missing key. Equal cells give equal results whatever the kind of file;
the same table under the same key and rules always gives the same, surrogates apart. What is returned was masked whole.
"""

import functools
import json
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from fedveil_common.errors import ConfigError, PolicyRefusal
from fedveil_common.plan.problems import printable
from fedveil_common.ports import Entropy
from numpy.typing import NDArray

from fedveil_participant.data.columns import parse_number
from fedveil_participant.masking import report as reports
from fedveil_participant.masking.cells import Cells, encode
from fedveil_participant.masking.classes import Classes, Spread, classes_of, spread_of
from fedveil_participant.masking.column import (
    MaskedColumn,
    StepCounts,
    Surroundings,
    can_rise,
    mask_column,
    numeric_output,
    untouched,
)
from fedveil_participant.masking.grouping import grouped
from fedveil_participant.masking.keys import MaskingKey
from fedveil_participant.masking.ledger import NoiseEntry
from fedveil_participant.masking.problems import BadCells
from fedveil_participant.masking.release import TOLERANCE, Shortfall, classes_to_keep, shortfalls
from fedveil_participant.masking.report import ColumnFigures, RiskReport, SpreadFigures
from fedveil_participant.masking.row_noise import RowNoise
from fedveil_participant.masking.rules import ColumnClass, ColumnRule, OnFail, Release, Rules, Suppress

METADATA = b"fedveil.masking"
"""Where a masked table says how it was masked: JSON with dataset, masking_digest, key_id."""


@dataclass(frozen=True, slots=True, eq=False)
class Masked:
    """A masked table. Its columns are texts, and doubles where a column of numbers went through numeric steps only; a
    column that was kept has the type that it had. `noise`: for the masking ledger. The report is the organisation's.
    """

    table: pa.Table
    report: RiskReport
    noise: tuple[NoiseEntry, ...]

    @property
    def counts(self) -> Mapping[str, tuple[StepCounts, ...]]:
        """Column -> what each of its steps did."""
        return {one.name: one.steps for one in self.report.columns}


class ReleaseRefused(PolicyRefusal):
    """`release_below_thresholds`: the table must not leave; `report` says why, with all figures."""

    def __init__(self, report: RiskReport, why: str) -> None:
        self.report = report
        below = "\n".join(one.text for one in report.release or ())
        super().__init__(
            "release_below_thresholds",
            f"the masked table is below the thresholds of the rules{why}\n{below}\n",
            not_done="no masked table was written or used",
            next_step="mask the quasi-identifiers more coarsely; `fedveil data check` shows what each change gives",
        )


def mask_table(
    rules: Rules,
    key: MaskingKey | None,
    table: pa.Table,
    dataset: str,
    *,
    entropy: Entropy,
    release: bool = False,
) -> Masked:
    """`table` masked by `rules`, with its risk report. `release`: the thresholds of the rules apply.

    PolicyRefusal `column_unlisted`; ReleaseRefused. ConfigError `masking_dataset`, `column_absent`, `column_twice`,
    `masking_key_missing`, `table_empty`, `column_unreadable`; BadCellsError.
    """
    work = _Work(rules, key, table, dataset, entropy)
    if not release or rules.release is None:
        return work.masked(None)
    return work.released(rules.release)


class _Work:
    """One table on its way. Columns are encoded when they are needed, and once."""

    def __init__(self, rules: Rules, key: MaskingKey | None, table: pa.Table, dataset: str, entropy: Entropy) -> None:
        _check_key(rules, key)
        if dataset != rules.dataset:
            raise ConfigError(
                "masking_dataset",
                f"the rules are those of data set {rules.dataset}, not of {printable(dataset)}",
                not_done="nothing was masked",
                next_step="name the rules of this data set",
            )
        self._rules, self._key = rules, key
        self._table = _named(table, rules)
        self._encoded = functools.cache(self._encode)
        self._entropy = entropy
        self._levels: dict[tuple[str, int], int] = {}
        self._noise: RowNoise | None = None
        self._kept = self._rows_kept()
        self._columns = self._mask_columns()
        self._released = np.ones(len(self._kept), dtype=np.bool_)

    def _encode(self, name: str) -> Cells:
        return encode(self._table.column(name), name)

    def _row_noise(self) -> RowNoise:
        if self._noise is None:
            assert self._key is not None, "_check_key"
            columns = {name: self._encoded(name) for name in self._table.column_names}
            self._noise = RowNoise(columns, self._key, self._rules.dataset)
        return self._noise

    def _around(self, rows: NDArray[np.int64], bad: BadCells) -> Surroundings:
        return Surroundings(self._rules.dataset, self._key, self._entropy, self._row_noise, rows, bad, self._levels)

    def _rows_kept(self) -> NDArray[np.int64]:
        """The rows that no step leaves out. Groups and counts of all other steps are made of these alone."""
        everything, bad = np.arange(self._table.num_rows), BadCells()
        suppressed = np.zeros(self._table.num_rows, dtype=np.bool_)
        self._row_counts: dict[str, tuple[StepCounts, ...]] = {}
        for name, rule in self._rules.columns.items():
            if any(isinstance(step, Suppress) and step.what == "row" for step in rule.steps):
                done = mask_column(rule, self._encoded(name), self._around(everything, bad), drop_rows=True)
                suppressed |= done.suppressed
                self._row_counts[name] = tuple(done.counts)
        bad.stop_if_any()
        return np.flatnonzero(~suppressed)

    def _mask_columns(self) -> dict[str, MaskedColumn]:
        bad = BadCells()
        columns = {
            name: self._masked(self._rules.columns[name], bad)
            for name in self._table.column_names
            if not self._rules.columns[name].dropped
        }
        bad.stop_if_any()
        return columns

    def _masked(self, rule: ColumnRule, bad: BadCells) -> MaskedColumn:
        kept = np.zeros(self._table.num_rows, dtype=np.bool_)
        kept[self._kept] = True
        cells = self._encoded(rule.name).where(kept)
        return mask_column(rule, cells, self._around(self._kept, bad), drop_rows=False)

    def _of(self, kind: ColumnClass) -> list[tuple[str, Cells]]:
        """The columns of a class that remain, over the rows that do."""
        return [(name, one.cells.where(self._released)) for name, one in self._columns.items() if one.rule.kind is kind]

    def _measured(self) -> tuple[Classes, list[Spread]]:
        quasi = [cells for _, cells in self._of(ColumnClass.QUASI)]
        classes = classes_of(quasi, int(self._released.sum()))
        return classes, [spread_of(name, cells, classes) for name, cells in self._of(ColumnClass.SENSITIVE)]

    def released(self, release: Release) -> Masked:
        """The table if it meets the thresholds, as it is or mended as the rules say. ReleaseRefused."""
        if self._rules.aggregate is None:
            self._mend(release)
        done = self.masked(release)
        if done.report.release or not done.report.rows:
            raise ReleaseRefused(done.report, _why(release.on_fail))
        return done

    def _mend(self, release: Release) -> None:
        gone = self._table.num_rows - len(self._kept)
        most = int(release.max_suppression * self._table.num_rows + TOLERANCE) - gone
        while True:
            classes, spreads = self._measured()
            if not shortfalls(release, classes, spreads, 0.0) or release.on_fail is OnFail.REFUSE:
                return
            kept = classes_to_keep(
                release, [cells for _, cells in self._of(ColumnClass.QUASI)], self._of(ColumnClass.SENSITIVE), most
            )
            if kept is not None:
                self._released = kept
                return
            if release.on_fail is OnFail.SUPPRESS or not self._rise():
                return

    def _rise(self) -> bool:
        """One quasi-identifier a level up, the one with the most values; False if none can go further."""
        rising = [
            (len(np.unique(cells.codes)), name, can_rise(self._rules.columns[name], self._levels))
            for name, cells in self._of(ColumnClass.QUASI)
        ]
        able = [(distinct, name, places[0]) for distinct, name, places in rising if places]
        if not able:
            return False
        _, name, place = max(able, key=lambda one: one[0])
        self._levels[name, place] = self._levels.get((name, place), 0) + 1
        bad = BadCells()
        self._columns[name] = self._masked(self._rules.columns[name], bad)
        bad.stop_if_any()
        return True

    def masked(self, release: Release | None) -> Masked:
        """The table as it is now, with its report."""
        classes, spreads = self._measured()
        lost, table = len(self._kept) - int(self._released.sum()), None
        if self._rules.aggregate is not None:
            bad = BadCells()
            numbers = {name: self._row_numbers(name, bad) for name in self._rules.aggregate.measures}
            bad.stop_if_any()
            cells = {name: self._columns[name].cells for name in self._rules.aggregate.by}
            groups = grouped(self._rules.aggregate, cells, numbers)
            table, lost, spreads = groups.table, groups.lost, []
            classes = Classes(np.repeat(np.arange(len(groups.sizes)), groups.sizes), groups.sizes)
        if table is None:
            table = pa.table({name: self._output(name) for name in self._columns})
        report = self._report(classes, spreads, table.num_rows, lost, release)
        said = {
            "dataset": self._rules.dataset,
            "masking_digest": self._rules.digest.hex(),
            "key_id": report.key_id,
        }
        table = table.replace_schema_metadata({METADATA: json.dumps(said).encode()})
        return Masked(table, report, report.noise)

    def _output(self, name: str) -> pa.ChunkedArray:
        """The column as it leaves, of the rows that remain."""
        done, source = self._columns[name], self._table.column(name)
        cells = done.cells.where(self._released)
        kind = source.type
        plain = not (pa.types.is_dictionary(kind) or pa.types.is_string(kind) or pa.types.is_large_string(kind))
        if plain and untouched(done.rule):
            rows = source.take(pa.array(self._kept[self._released]))
            return pc.if_else(pa.array(cells.codes >= 0), rows, pa.scalar(None, kind))
        numeric = pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind)
        return cells.numbers() if numeric and numeric_output(done.rule) else cells.strings()

    def _row_numbers(self, name: str, bad: BadCells) -> NDArray[np.float64]:
        """The numbers of a column to be measured: one double per row, NaN where missing."""
        cells = self._columns[name].cells
        parsed = [parse_number(text) for text in cells.texts()]
        marked = np.array([value is None for value in parsed] + [False])
        bad.add(name, self._kept[marked[cells.codes]] + 1, "not_a_number", "not a finite decimal number")
        values = np.array([np.nan if value is None else value for value in parsed] + [np.nan])
        found: NDArray[np.float64] = values[cells.codes]
        return found

    def _report(
        self, classes: Classes, spreads: Sequence[Spread], rows: int, lost: int, release: Release | None
    ) -> RiskReport:
        read = self._table.num_rows
        by_rules = read - len(self._kept)
        figures = tuple(self._figures(self._rules.columns[name]) for name in self._table.column_names)
        found = tuple(SpreadFigures.of(one) for one in spreads)
        below: tuple[Shortfall, ...] | None = None
        if release is not None:
            below = tuple(shortfalls(release, classes, spreads, (by_rules + lost) / max(read, 1)))
        grouping = self._rules.aggregate
        quasi = tuple(name for name, _ in self._of(ColumnClass.QUASI)) if grouping is None else grouping.by
        return RiskReport(
            dataset=self._rules.dataset,
            digest=self._rules.digest.hex(),
            key_id=self._key.key_id if self._key is not None and self._rules.needs_key else None,
            rows_read=read,
            rows=rows,
            suppressed_by_rules=by_rules,
            suppressed_for_release=lost,
            quasi=quasi,
            classes=len(classes.sizes),
            k=classes.k,
            uniques=classes.uniques,
            at_risk=reports.rows_at_risk(classes),
            grouped=grouping is not None,
            spreads=found,
            columns=figures,
            levels=tuple((name, levels) for (name, _), levels in self._levels.items()),
            noise=tuple(entry for one in self._columns.values() for entry in one.noise),
            notes=reports.notes_on(figures, classes.k, found),
            release=below,
        )

    def _figures(self, rule: ColumnRule) -> ColumnFigures:
        if rule.dropped:
            return ColumnFigures(rule.name, rule.kind.value, True, (StepCounts("drop", 0, 0),), 0, 0)
        done = self._columns[rule.name]
        counts = list(done.counts)
        for place, before in enumerate(self._row_counts.get(rule.name, ())):
            counts[place] = replace(counts[place], rows=before.rows)
        codes = done.cells.codes[self._released]
        missing = int(np.count_nonzero(codes < 0))
        return ColumnFigures(rule.name, rule.kind.value, False, tuple(counts), reports.dense_distinct(codes), missing)


def _why(on_fail: OnFail) -> str:
    match on_fail:
        case OnFail.REFUSE:
            return ""
        case OnFail.SUPPRESS:
            return ", and leaving out the classes below them would take more rows than max_suppression permits"
        case OnFail.GENERALISE:
            return ", and no declared level of generalisation is left"


def _check_key(rules: Rules, key: MaskingKey | None) -> None:
    if rules.needs_key and key is None:
        raise ConfigError(
            "masking_key_missing",
            "the rules need a masking key, and none was given",
            not_done="nothing was masked",
            next_step="put the key where `key_ref` of the rules says",
        )


def _named(table: pa.Table, rules: Rules) -> pa.Table:
    """The table under the names that the rules use: every column named once, and by the rules."""
    names = [unicodedata.normalize("NFC", name.strip()) for name in table.column_names]
    twice = sorted({printable(name) for name in names if names.count(name) > 1})
    if twice:
        raise ConfigError(
            "column_twice",
            f"the table names more than once: {', '.join(twice)}",
            not_done="nothing was masked",
            next_step="give each column a name of its own",
        )
    unlisted = [printable(name) for name in names if name not in rules.columns]
    if unlisted:
        raise PolicyRefusal(
            "column_unlisted",
            f"the rules say nothing about these columns: {', '.join(unlisted)}",
            not_done="nothing was masked: what is not listed does not leave",
            next_step="list each of them in the rules, if only with `do: drop`",
        )
    absent = [printable(name) for name in rules.columns if name not in names]
    if absent:
        raise ConfigError(
            "column_absent",
            f"the rules name columns that the table lacks: {', '.join(absent)}",
            not_done="nothing was masked",
            next_step="name the right table, or take the columns out of the rules",
        )
    if not table.num_rows:
        raise ConfigError(
            "table_empty",
            "the table has no rows",
            not_done="nothing was masked",
            next_step="name a table with rows",
        )
    return table.rename_columns(names)
