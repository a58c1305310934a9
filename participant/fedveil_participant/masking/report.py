"""The risk report of a masked table: what an attacker could do with it, what was done to it, what no mask prevents.

Promise: figures only; no value of any row is in it, except names of columns. It is the organisation's own and leaves
with nothing. Models of attack: prosecutor (knows that a person is in the table), journalist (does not), marketer (wants
many), as in El Emam, Dankar 2008.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from fedveil_common.jcs import Json

from fedveil_participant.masking.classes import Classes, Spread
from fedveil_participant.masking.column import StepCounts
from fedveil_participant.masking.ledger import NoiseEntry
from fedveil_participant.masking.release import Shortfall

AT_RISK = 0.2
"""A row is at risk if whoever looks for its person finds it with a higher probability than this."""

FEW_VALUES = 10_000
"""Fewer distinct values than this can be told apart by how often they stand there."""


@dataclass(frozen=True, slots=True)
class ColumnFigures:
    """One column: its class, the steps that it went through, distinct values and missing cells of the result."""

    name: str
    kind: str
    dropped: bool
    steps: tuple[StepCounts, ...]
    distinct: int
    missing: int


@dataclass(frozen=True, slots=True)
class SpreadFigures:
    """The measures of one sensitive column. `ordered`: t by the ordered distance, else by the equal distance."""

    name: str
    ordered: bool
    l: int  # noqa: E741 - the name of the measure
    entropy_l: float
    alpha: float
    delta: float
    t: float

    @classmethod
    def of(cls, spread: Spread) -> "SpreadFigures":
        """The figures of all classes."""
        return cls(spread.column, spread.ordered, spread.l, spread.entropy_l, spread.alpha, spread.delta, spread.t)


@dataclass(frozen=True, slots=True)
class Note:
    """Something that the masks do not protect against, here."""

    code: str
    text: str


@dataclass(frozen=True, slots=True)
class RiskReport:
    """See the module. `rows`: of the result. `suppressed_by_rules`, `suppressed_for_release`: rows left out. `levels`:
    columns that went up for the release, and how far. `release`: None where no thresholds were asked for.
    """

    dataset: str
    digest: str
    key_id: str | None
    rows_read: int
    rows: int
    suppressed_by_rules: int
    suppressed_for_release: int
    quasi: tuple[str, ...]
    classes: int
    k: int
    uniques: int
    at_risk: int
    grouped: bool
    spreads: tuple[SpreadFigures, ...]
    columns: tuple[ColumnFigures, ...]
    levels: tuple[tuple[str, int], ...]
    noise: tuple[NoiseEntry, ...]
    notes: tuple[Note, ...]
    release: tuple[Shortfall, ...] | None

    @property
    def suppression(self) -> float:
        """Share of the rows that were left out."""
        return (self.suppressed_by_rules + self.suppressed_for_release) / max(self.rows_read, 1)

    @property
    def highest(self) -> float:
        """The highest probability with which the row of a person who is known to be in the table is found."""
        return 1 / self.k if self.k else 0.0

    @property
    def success(self) -> float:
        """The mean of that over all rows: what share of the rows an attacker who links them all gets right."""
        return self.classes / self.rows if self.rows else 0.0

    def json(self) -> dict[str, Json]:
        """The report as JSON."""
        return {
            "dataset": self.dataset,
            "masking_digest": self.digest,
            "key_id": self.key_id,
            "rows_read": self.rows_read,
            "rows": self.rows,
            "suppressed_by_rules": self.suppressed_by_rules,
            "suppressed_for_release": self.suppressed_for_release,
            "suppression": self.suppression,
            "quasi_identifiers": list(self.quasi),
            "aggregated": self.grouped,
            "classes": self.classes,
            "k": self.k,
            "uniques": self.uniques,
            "prosecutor": {
                "highest_risk": self.highest,
                "at_risk_above": AT_RISK,
                "rows_at_risk": self.at_risk,
                "share_at_risk": self.at_risk / self.rows if self.rows else 0.0,
                "success_rate": self.success,
            },
            "journalist": {"highest_risk_at_most": self.highest, "population_known": False},
            "marketer": {"success_rate_at_most": self.success},
            "sensitive": [
                {
                    "column": one.name,
                    "l_distinct": one.l,
                    "l_entropy": one.entropy_l,
                    "t": one.t,
                    "t_distance": "ordered" if one.ordered else "equal",
                    "alpha": one.alpha,
                    "delta_disclosure": one.delta,
                }
                for one in self.spreads
            ],
            "columns": [
                {
                    "column": one.name,
                    "class": one.kind,
                    "dropped": one.dropped,
                    "steps": [
                        {"step": s.step, "changed": s.changed, "emptied": s.emptied, "rows": s.rows} for s in one.steps
                    ],
                    "distinct": one.distinct,
                    "missing": one.missing,
                }
                for one in self.columns
            ],
            "generalised": [{"column": name, "levels": levels} for name, levels in self.levels],
            "noise": [one.json() for one in self.noise],
            "not_protected": [{"code": one.code, "text": one.text} for one in self.notes],
            "release": None
            if self.release is None
            else {
                "passed": not self.release,
                "below": [{"measure": s.measure, "wanted": s.wanted, "found": s.found} for s in self.release],
            },
        }

    def lines(self) -> list[str]:
        """The report for people; names of columns are as they stand in the table."""
        found = [
            f"data set {self.dataset}: {self.rows_read} rows read, {self.rows} "
            f"{'groups' if self.grouped else 'rows'} masked, {self.suppression:.2%} of the rows left out "
            f"({self.suppressed_by_rules} by the rules, {self.suppressed_for_release} for the release)",
            f"masking digest {self.digest}, key {self.key_id or 'none'}",
            f"quasi-identifiers: {', '.join(self.quasi) or 'none'}",
            f"{self.classes} classes, k = {self.k}, {self.uniques} of one row",
            f"prosecutor: highest risk {self.highest:.4g}, {self.at_risk} rows above {AT_RISK:g}, "
            f"success rate {self.success:.4g}",
            f"journalist: at most {self.highest:.4g}; how much less needs a table of the population, which is not here",
            f"marketer: success rate at most {self.success:.4g}",
        ]
        for one in self.spreads:
            found.append(
                f"{one.name}: l = {one.l} (entropy {one.entropy_l:.4g}), t = {one.t:.4g} "
                f"({'ordered' if one.ordered else 'equal'} distance), alpha {one.alpha:.4g}, delta {one.delta:.4g}"
            )
        for name, levels in self.levels:
            found.append(f"{name}: generalised by {levels} more")
        for entry in self.noise:
            bound = entry.whole_width
            found.append(
                f"{entry.column}: discrete Laplace noise of scale {entry.scale:g} on a grid of {entry.grid:g}, "
                f"{entry.cells} cells, version {entry.version[:16]}; a cell's epsilon "
                f"{entry.per_step:.4g} per step of the grid{'' if bound is None else f', {bound:.4g} for any change'}"
                " (of no run's epsilon a part)"
            )
        found += [f"not protected: {note.text}" for note in self.notes]
        if self.release is not None:
            found += [f"below the threshold: {one.text}" for one in self.release]
            found += [] if self.release else ["the thresholds for release are met"]
        return found


def rows_at_risk(classes: Classes) -> int:
    """Rows whose class is smaller than 1 / AT_RISK."""
    return int(classes.sizes[classes.sizes < 1 / AT_RISK].sum()) if len(classes.sizes) else 0


def notes_on(figures: Sequence[ColumnFigures], k: int, spreads: Sequence[SpreadFigures]) -> tuple[Note, ...]:
    """What these masks do not protect against."""
    there = [one for one in figures if not one.dropped]
    found = [
        Note(
            "not_differential_privacy",
            "masking is no differential privacy: what is trained on masked columns says about its rows what it says "
            "about any",
        )
    ]
    for one in there:
        done = {step.step for step in one.steps}
        if done & {"pseudonym", "fpe", "surrogate"}:
            if one.distinct < FEW_VALUES:
                text = f"{one.name} has {one.distinct} distinct values: how often each stands there tells them apart"
                found.append(Note("frequencies_identify", text))
            if "surrogate" not in done:
                text = f"{one.name}: whoever has the key can link or undo it; rows of one person are linked to all"
                found.append(Note("linkable", text))
        if one.kind == "free_text" and "redact" not in done:
            found.append(Note("free_text_kept", f"{one.name} is free text and nothing in it was looked for"))
        elif one.kind == "free_text":
            text = f"{one.name}: patterns find what looks like them; names and stories remain"
            found.append(Note("patterns_only", text))
    if not any(one.kind == "quasi" for one in there):
        found.append(Note("no_quasi_identifiers", "no column is called a quasi-identifier: k, l and t say nothing"))
    if any(one.kind in {"feature", "sensitive"} for one in there):
        text = "features and sensitive columns are in no class: who knows their values finds the row by them"
        found.append(Note("features_identify", text))
    for spread in spreads:
        if spread.l == 1 and k > 1:
            text = f"{spread.name}: a class has one value only: whoever is in it is known to have that"
            found.append(Note("class_of_one_value", text))
    return tuple(found)


def dense_distinct(codes: np.ndarray[tuple[int, ...], np.dtype[np.int32]]) -> int:
    """How many different values (missing not among them) occur."""
    return len(np.unique(codes[codes >= 0]))
