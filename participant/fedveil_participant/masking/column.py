"""One column through its steps, and what was done to it.

Promise: a missing cell stays missing; a cell that a step cannot take is recorded by row and code and goes on as
missing, so that all bad cells are found at once; the caller raises before anything is used.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import assert_never

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from fedveil_common import jcs
from fedveil_common.jcs import number
from fedveil_common.plan.section import MISSING_MARKS
from fedveil_common.ports import Entropy
from numpy.typing import NDArray

from fedveil_participant.data.columns import parse_number
from fedveil_participant.masking import numbers, rules, texts, tokens
from fedveil_participant.masking.canonical import form
from fedveil_participant.masking.cells import Cells
from fedveil_participant.masking.keys import MaskingKey
from fedveil_participant.masking.ledger import NoiseEntry
from fedveil_participant.masking.problems import BadCells
from fedveil_participant.masking.row_noise import RowNoise
from fedveil_participant.masking.rules import ColumnRule
from fedveil_participant.masking.typed_text import typed

NUMERIC = (rules.Ranges, rules.Clamp, rules.Microaggregate, rules.Noise)
"""Steps that write numbers."""

Levels = Mapping[tuple[str, int], int]
"""(column, place of the step) -> how many levels above its own a step is taken; absent: none."""


@dataclass(frozen=True, slots=True)
class StepCounts:
    """What one step did: cells `changed` into another value, cells `emptied`, rows marked to be left out."""

    step: str
    changed: int
    emptied: int
    rows: int = 0


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What the steps of every column need. `noise` makes the noise of the whole table; `rows`: which of them (from 0)
    the cells are of; `key` is there if a step needs it.
    """

    dataset: str
    key: MaskingKey | None
    entropy: Entropy
    noise: Callable[[], RowNoise]
    rows: NDArray[np.int64]
    bad: BadCells
    levels: Levels


@dataclass(slots=True, eq=False)
class MaskedColumn:
    """The outcome. `suppressed`: one mark per row that is to be left out."""

    rule: ColumnRule
    cells: Cells
    suppressed: NDArray[np.bool_]
    counts: list[StepCounts] = field(default_factory=list)
    noise: list[NoiseEntry] = field(default_factory=list)


def mask_column(rule: ColumnRule, cells: Cells, around: Surroundings, *, drop_rows: bool) -> MaskedColumn:
    """The column after all steps. `drop_rows`: whether steps that leave out rows mark them, or were done before."""
    done = MaskedColumn(rule, cells, np.zeros(cells.rows, dtype=np.bool_))
    for place, step in enumerate(rule.steps):
        before = done.cells
        match step:
            case rules.Keep() | rules.Drop():
                after = before
            case rules.Suppress(what="row"):
                found = _matching(before, step) if drop_rows else np.zeros(len(before.values), dtype=np.bool_)
                marked = np.append(found, False)[before.codes]
                done.suppressed |= marked
                done.counts.append(StepCounts(step.NAME, 0, 0, int(marked.sum())))
                continue
            case rules.Noise():
                after = _noisy(rule, place, step, done, around)
            case _:
                after = _mapped(rule, place, step, before, around)
        done.cells = after
        changed, emptied = _difference(before, after, step)
        done.counts.append(StepCounts(step.NAME, changed, emptied))
    return done


def _difference(before: Cells, after: Cells, step: rules.Step) -> tuple[int, int]:
    """(cells with another value, cells that are missing now). A number written otherwise is the same value."""
    if before is after:
        return 0, 0
    there = before.codes >= 0
    pairs = before.codes[there].astype(np.int64) * (len(after.values) + 1) + after.codes[there] + 1
    if isinstance(step, rules.Noise):  # equal cells may differ after it
        pairs, counts = np.unique(pairs, return_counts=True)
    else:
        of_value = np.zeros(len(before.values), dtype=np.int64)
        of_value[before.codes[there]] = pairs
        used = before.counts() > 0
        pairs, counts = of_value[used], before.counts()[used]
    old, new = np.divmod(pairs, len(after.values) + 1)
    emptied, old, new, counts = int(counts[new == 0].sum()), old[new > 0], new[new > 0] - 1, counts[new > 0]
    old_texts, new_texts = before.values.take(pa.array(old)), after.values.take(pa.array(new))
    differ = pc.not_equal(old_texts, new_texts).to_numpy(zero_copy_only=False)
    if isinstance(step, NUMERIC):
        pairs_of_texts = zip(old_texts.filter(differ).to_pylist(), new_texts.filter(differ).to_pylist(), strict=True)
        differ[differ] = [typed(one) != typed(other) for one, other in pairs_of_texts]
    return int(counts[differ].sum()), emptied


def _mapped(rule: ColumnRule, place: int, step: rules.Step, cells: Cells, around: Surroundings) -> Cells:
    """A step that gives every row with one value the same value."""
    match step:
        case rules.Redact():
            return cells.mapped(texts.redacted(cells.values, step.patterns))
        case rules.Pseudonym():
            key = _key(around).derive("pseudonym", step.scope, domain_of(step.domain, around.dataset, rule.name))
            return cells.mapped(tokens.pseudonyms(cells.texts(), key, step.length, by_value=step.typed))
        case rules.Surrogate():
            return cells.mapped(tokens.surrogates(cells.texts(), around.entropy, step.length))
        case rules.Truncate():
            return cells.mapped([_shortened(text[: step.keep].rstrip()) for text in cells.texts()])
        case rules.MaskCharacters():
            return cells.mapped([_shortened(texts.masked(text, step)) for text in cells.texts()])
        case rules.Suppress():
            found = _matching(cells, step)
            return cells.mapped([None if out else text for text, out in zip(cells.texts(), found, strict=True)])
        case rules.Lookup():
            level = (step.level, *step.then)[around.levels.get((rule.name, place), 0)]
            looked = [step.hierarchy.at(text, level) or step.other for text in cells.texts()]
            return _without_bad(
                rule, cells, looked, around, "not_in_hierarchy", "the hierarchy does not have this value"
            )
        case rules.Dates():
            to = (step.to, *step.then)[around.levels.get((rule.name, place), 0)]
            dates = [texts.parse_date(text, step.order) for text in cells.texts()]
            coarse = [None if date is None else texts.coarse_date(date, to) for date in dates]
            return _without_bad(rule, cells, coarse, around, "not_a_date", f"no date in the order {step.order}")
        case rules.Fpe():
            return _encrypted(rule, step, cells, around)
        case rules.Ranges() | rules.Clamp() | rules.Microaggregate():
            return _numeric(rule, place, step, cells, around)
        case rules.Keep() | rules.Drop() | rules.Noise():
            return cells
        case _:
            assert_never(step)


def _shortened(text: str) -> str | None:
    """A text of which something was taken away; what stands for a missing value now, is missing and counted so."""
    return None if text in MISSING_MARKS else text


def _numeric(
    rule: ColumnRule,
    place: int,
    step: rules.Ranges | rules.Clamp | rules.Microaggregate,
    cells: Cells,
    around: Surroundings,
) -> Cells:
    cells, values = _numbers(rule, cells, around)
    match step:
        case rules.Ranges():
            width = (step.width, *step.then)[around.levels.get((rule.name, place), 0)]
            return cells.mapped(numbers.range_texts(values, step, width))
        case rules.Clamp():
            low, high = (-np.inf if step.min is None else step.min), (np.inf if step.max is None else step.max)
            return cells.mapped([number(value) for value in np.clip(values, low, high).tolist()])
        case rules.Microaggregate():
            counts = cells.counts()
            if 0 < counts.sum() < step.k:
                text = f"the column has {counts.sum()} numbers, fewer than the {step.k} of one group"
                around.bad.add(rule.name, around.rows[cells.codes >= 0] + 1, "group_too_small", text)
                return cells
            means = numbers.microaggregated(values, counts, step.k).tolist()
            return cells.mapped([number(value) for value in means])
        case _:
            assert_never(step)


def _noisy(rule: ColumnRule, place: int, step: rules.Noise, done: MaskedColumn, around: Surroundings) -> Cells:
    """Noise is drawn per row, not per value. The entry says what one cell's value is protected by."""
    cells, values = _numbers(rule, done.cells, around)
    steps = numbers.on_grid(values, step)
    if steps is None:
        text = "too large for the grid of the noise; put a clamp before it"
        around.bad.add(rule.name, around.rows[cells.codes >= 0] + 1, "beyond_grid", text)
        return cells
    noise = around.noise()
    levels = [around.levels.get((rule.name, before), 0) for before in range(place)]
    purpose = jcs.dumps([rule.name, place, levels, [{one.NAME: form(one)} for one in rule.steps]])
    there = cells.codes >= 0
    noisy = steps[cells.codes[there]] + noise.draw(step, purpose)[around.rows[there]]
    distinct, codes = np.unique(noisy, return_inverse=True)
    whole = np.full(cells.rows, -1, dtype=np.int32)
    whole[there] = codes
    before = rule.steps[place - 1] if place else None
    bounds = (before.min, before.max) if isinstance(before, rules.Clamp) else (None, None)
    done.noise.append(
        NoiseEntry(
            dataset=around.dataset,
            column=rule.name,
            version=noise.version.hex(),
            key_id=_key(around).key_id,
            scale=step.scale,
            grid=step.grid,
            cells=int(there.sum()),
            width=None if bounds[0] is None or bounds[1] is None else bounds[1] - bounds[0],
        )
    )
    return Cells(whole, pa.array(numbers.grid_texts(distinct, step), pa.string()))


def _encrypted(rule: ColumnRule, step: rules.Fpe, cells: Cells, around: Surroundings) -> Cells:
    cipher = tokens.FormatCipher(step, fpe_key(_key(around), step, around.dataset, rule.name))
    found: list[str | None] = []
    reasons: dict[tuple[str, str], list[int]] = {}
    for code, text in enumerate(cells.texts()):
        try:
            found.append(cipher.encrypt(text))
        except tokens.BadText as error:
            found.append(None)
            reasons.setdefault((error.code, error.text), []).append(code)
    for (code_of_error, words), codes in reasons.items():
        marked = np.zeros(len(cells.values), dtype=np.bool_)
        marked[codes] = True
        _record(rule, cells, marked, around, code_of_error, words)
    return cells.mapped(found)


def fpe_key(key: MaskingKey, step: rules.Fpe, dataset: str, column: str) -> bytes:
    """The AES-256 key of a column's format-preserving encryption."""
    return key.derive("fpe", step.scope, domain_of(step.domain, dataset, column))


def domain_of(named: str | None, dataset: str, column: str) -> str:
    """The domain of a column's keys: its own, unless the rules name one. A name has no slash: they cannot be equal."""
    return f"{dataset}/{column}" if named is None else named


def _matching(cells: Cells, step: rules.Suppress) -> NDArray[np.bool_]:
    """Which values are to be suppressed: one mark per distinct value."""
    wanted = {typed(value) for value in step.values}
    found = np.zeros(len(cells.values), dtype=np.bool_)
    for place, text in enumerate(cells.texts()):
        value = parse_number(text) if step.below is not None or step.above is not None else None
        found[place] = typed(text) in wanted or (
            value is not None
            and ((step.below is not None and value < step.below) or (step.above is not None and value > step.above))
        )
    if step.rarer_than is not None:
        found |= cells.counts() < step.rarer_than
    return found


def _numbers(rule: ColumnRule, cells: Cells, around: Surroundings) -> tuple[Cells, numbers.Floats]:
    """The distinct values as numbers; cells that are none are recorded and missing. Equal numbers are one value."""
    parsed = [parse_number(text) for text in cells.texts()]
    named = [None if value is None else number(value) for value in parsed]
    cells = _without_bad(rule, cells, named, around, "not_a_number", "not a finite decimal number")
    return cells, np.array([float(text) for text in cells.texts()], dtype=np.float64)


def _without_bad(
    rule: ColumnRule, cells: Cells, found: Sequence[str | None], around: Surroundings, code: str, text: str
) -> Cells:
    """Values mapped to `found`; where that is None, the cells are recorded and missing."""
    bad = np.array([value is None for value in found], dtype=np.bool_)
    if bad.any():
        _record(rule, cells, bad, around, code, text)
    return cells.mapped(found)


def _record(rule: ColumnRule, cells: Cells, bad: NDArray[np.bool_], around: Surroundings, code: str, text: str) -> None:
    around.bad.add(rule.name, around.rows[np.append(bad, False)[cells.codes]] + 1, code, text)


def _key(around: Surroundings) -> MaskingKey:
    assert around.key is not None, "whoever makes the surroundings has checked that rules with such a step have a key"
    return around.key


def can_rise(rule: ColumnRule, levels: Levels) -> tuple[int, ...]:
    """The places of the steps of `rule` that can still go up a level."""
    return tuple(
        place
        for place, step in enumerate(rule.steps)
        if isinstance(step, rules.Levelled) and levels.get((rule.name, place), 0) < len(step.then)
    )


def numeric_output(rule: ColumnRule) -> bool:
    """Whether every value that the steps leave is a number."""
    kinds = [step for step in rule.steps if not isinstance(step, rules.Keep | rules.Suppress)]
    return bool(kinds) and all(
        isinstance(step, rules.Clamp | rules.Noise | rules.Microaggregate)
        or (isinstance(step, rules.Ranges) and step.show != "range")
        for step in kinds
    )


def untouched(rule: ColumnRule) -> bool:
    """Whether cells that are not emptied stay as they were."""
    return all(isinstance(step, rules.Keep | rules.Suppress) for step in rule.steps)
