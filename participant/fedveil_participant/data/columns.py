"""One reader per plan column: from a cell's text to a typed value, and from typed values to arrays.

Promise: a cell has one meaning: blank, `?` and `NA` are missing; numbers are decimal ASCII; categories are compared
as text in Unicode normal form C; surrounding blanks do not count. `typed` is the value before clamping and filling,
as JSON.
"""

import math
import re
import unicodedata
from array import array
from dataclasses import dataclass, field

import numpy as np
from fedveil_common import jcs
from fedveil_common.plan import (
    BinaryTarget,
    CategoryFeature,
    CategoryTarget,
    FloatFeature,
    FloatTarget,
    Missing,
    Target,
)
from fedveil_common.plan.section import MISSING_MARKS
from numpy.typing import NDArray

_NUMBER = re.compile(r"[-+]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][-+]?[0-9]+)?\Z")


class BadCell(Exception):
    """A cell that the plan does not permit; `code` and `text` say why, never what stood there."""

    def __init__(self, code: str, text: str) -> None:
        super().__init__(code)
        self.code = code
        self.text = text


@dataclass(frozen=True, slots=True)
class Cell:
    """`typed`: the canonical JSON of the value as read. `stored`: what the array gets. `drop`: the row goes."""

    typed: str
    stored: float
    drop: bool = False


def parse_number(text: str) -> float | None:
    """The finite double in `text`, or None. -0 becomes 0."""
    if not _NUMBER.match(text):
        return None
    value = float(text)
    return value + 0.0 if math.isfinite(value) else None


def normal(text: str) -> str:
    """A cell without surrounding blanks, in Unicode normal form C."""
    return unicodedata.normalize("NFC", text.strip()) if not text.isascii() else text.strip()


@dataclass(slots=True)
class FloatColumn:
    """Numbers within a range; missing is stored as NaN."""

    feature: FloatFeature
    values: "array[float]" = field(default_factory=lambda: array("d"))

    def read(self, text: str) -> Cell:
        """The cell, or BadCell."""
        spec = self.feature
        if text in MISSING_MARKS:
            match spec.missing:
                case Missing.ERROR:
                    raise BadCell("missing", "a value is missing and the plan has no rule for that")
                case Missing.VALUE:
                    return Cell("null", math.nan if spec.fill is None else spec.fill)
                case Missing.MEAN:
                    return Cell("null", math.nan)
                case Missing.DROP:
                    return Cell("null", math.nan, drop=True)
        value = parse_number(text)
        if value is None:
            raise BadCell("not_a_number", "not a finite decimal number")
        inside = min(max(value, spec.lo), spec.hi)
        if inside != value and not spec.clamp:
            raise BadCell("out_of_range", f"outside the plan's range {spec.lo:g} to {spec.hi:g}")
        return Cell(jcs.number(value), inside)

    def array(self) -> NDArray[np.float64]:
        """The stored values: float64."""
        return np.array(self.values, dtype=np.float64)


@dataclass(slots=True)
class CategoryColumn:
    """One of a closed list of values, stored as its index; missing is stored as -1."""

    feature: CategoryFeature
    values: "array[int]" = field(default_factory=lambda: array("i"))
    _codes: dict[str, int] = field(init=False)

    def __post_init__(self) -> None:
        self._codes = {value: code for code, value in enumerate(self.feature.values)}

    def read(self, text: str) -> Cell:
        """The cell, or BadCell."""
        if text in MISSING_MARKS:
            match self.feature.missing:
                case Missing.DROP:
                    return Cell("null", -1, drop=True)
                case Missing.VALUE if self.feature.fill is not None:
                    return Cell("null", self._codes[self.feature.fill])
                case _:
                    raise BadCell("missing", "a value is missing and the plan has no rule for that")
        code = self._codes.get(text)
        if code is None:
            raise BadCell("unknown_category", f"not one of the {len(self._codes)} values in the plan")
        return Cell(jcs.string(text), code)

    def array(self) -> NDArray[np.int32]:
        """The stored indices: int32."""
        return np.array(self.values, dtype=np.int32)


@dataclass(slots=True)
class TargetColumn:
    """The target; it is never missing. Binary: 1 or 0, compared as numbers where both parse, else as text. Category:
    the index of the class, compared as text.
    """

    target: Target
    values: "array[float]" = field(default_factory=lambda: array("d"))
    _positive: float | None = field(init=False)
    _classes: dict[str, int] = field(init=False)

    def __post_init__(self) -> None:
        positive = self.target.positive if isinstance(self.target, BinaryTarget) else ""
        self._positive = parse_number(positive)
        classes = self.target.values if isinstance(self.target, CategoryTarget) else ()
        self._classes = {value: code for code, value in enumerate(classes)}

    def read(self, text: str) -> Cell:
        """The cell, or BadCell."""
        if text in MISSING_MARKS:
            raise BadCell("missing", "the target is missing")
        value = parse_number(text)
        match self.target:
            case BinaryTarget(positive=positive):
                numbers = value is not None and self._positive is not None
                hit = value == self._positive if numbers else text == positive
                return Cell("1" if hit else "0", float(hit))
            case CategoryTarget():
                code = self._classes.get(text)
                if code is None:
                    raise BadCell("unknown_category", f"not one of the {len(self._classes)} classes in the plan")
                return Cell(jcs.string(text), code)
            case FloatTarget(lo=lo, hi=hi):
                if value is None:
                    raise BadCell("not_a_number", "not a finite decimal number")
                if not lo <= value <= hi:
                    raise BadCell("out_of_range", f"outside the plan's range {lo:g} to {hi:g}")
                return Cell(jcs.number(value), value)

    def array(self) -> NDArray[np.float64]:
        """The stored values: float64."""
        return np.array(self.values, dtype=np.float64)


@dataclass(slots=True)
class PersonColumn:
    """Whose row it is; used for the holdout and the version, never stored."""

    name: str

    def read(self, text: str) -> Cell:
        """The cell, or BadCell."""
        if text in MISSING_MARKS:
            raise BadCell("missing", "the row names no person")
        return Cell(jcs.string(text), 0.0)
