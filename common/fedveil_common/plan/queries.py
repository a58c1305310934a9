"""The questions of a statistics plan, as values.

Promise: a question's answer follows from the opened sum and from the plan alone: every bound, cell and list of values
is the plan's, none comes from data. Source: FLSA/1 A2, D9 (docs/plan.md, "Statistics").
"""

import enum
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Count:
    """How many rows all participants have; under differential privacy with `data.person`, how many persons."""


class Figure(enum.StrEnum):
    """What is asked of a numeric column."""

    SUM = "sum"
    MEAN = "mean"
    VARIANCE = "variance"


@dataclass(frozen=True, slots=True)
class Moment:
    """A figure of the values of a numeric column; rows without a value do not count. The variance is that of the
    values themselves (divided by their number), not an estimate from a sample.
    """

    figure: Figure
    column: str


@dataclass(frozen=True, slots=True)
class Histogram:
    """Rows by cell of a numeric column: a cell has its lower edge, the last one both; what lies outside is in none."""

    column: str
    edges: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Quantiles:
    """Quantiles `at` (each within 0..1) of a numeric column, read off one histogram of `resolution` equal cells over
    its declared range.
    """

    column: str
    at: tuple[float, ...]
    resolution: int


@dataclass(frozen=True, slots=True)
class GroupCount:
    """Rows by value of a category, over the values that the plan declares."""

    column: str


Query = Count | Moment | Histogram | Quantiles | GroupCount


@dataclass(frozen=True, slots=True)
class StatisticsSpec:
    """What is asked, in order. `max_rows`: the most rows of one participant; it fixes the grid. `min_cell`: a cell of
    fewer rows is not shown. `refresh`: the number of the asking: the answer to an earlier one with the same number is
    served again.
    """

    queries: tuple[Query, ...]
    max_rows: int
    min_cell: int
    refresh: int = 0
