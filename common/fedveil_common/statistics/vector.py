"""The vector of a statistics sum: which parts the questions need, and what one row weighs in it.

Promise: a pure function of the plan. Every part is a sum over rows of something that is at most 1 for each: 1, a value
scaled by its declared range to [-1, 1], its square, or one cell of several. A row is `per_row` steps of the grid in
each part, so one row (under differential privacy one unit) moves part by part at most `per_row` in L2 norm, and the
whole by at most per_row sqrt(parts). Questions about one column share its parts: what is asked twice is summed once.
Source: FLSA/1 A6, A17, D1, D9 (docs/protocol.md).
"""

from dataclasses import dataclass

from fedveil_common.plan.queries import Count, Figure, GroupCount, Histogram, Moment, Quantiles, Query, StatisticsSpec
from fedveil_common.plan.spec import CategoryFeature, FloatFeature, Plan

ROWS = "rows"
PRESENT, SUM, SQUARES, CELLS = "present", "sum", "squares", "cells"


@dataclass(frozen=True, slots=True)
class Part:
    """`length` coordinates named `name`. `column`: what they are about, empty for the rows. `edges`: of the cells of a
    numeric column; empty for other parts.
    """

    name: str
    length: int
    column: str = ""
    edges: tuple[float, ...] = ()

    @property
    def kind(self) -> str:
        """ROWS, PRESENT, SUM, SQUARES or CELLS."""
        return self.name.partition(":")[0]


def asked(plan: Plan) -> StatisticsSpec:
    """The questions of a statistics plan. ValueError for a training plan."""
    if plan.statistics is None:
        raise ValueError("there are no statistics in a training plan")
    return plan.statistics


def parts(plan: Plan) -> tuple[Part, ...]:
    """The parts in order: rows if they are counted; of each numeric column, in plan order, how many values, their sum
    and their squares, as far as asked for; the cells of each question about cells.
    """
    queries = asked(plan).queries
    found = [Part(ROWS, 1)] if Count() in queries else []
    for feature in plan.data.float_features:
        figures = {one.figure for one in queries if isinstance(one, Moment) and one.column == feature.name}
        kinds = (PRESENT, SUM, SQUARES)[: 0 if not figures else 3 if Figure.VARIANCE in figures else 2]
        found += [Part(f"{kind}:{feature.name}", 1, feature.name) for kind in kinds]
    for number, query in enumerate(queries, start=1):
        match query:
            case Histogram():
                found.append(Part(cells_of(number), len(query.edges) - 1, query.column, query.edges))
            case Quantiles():
                found.append(Part(cells_of(number), query.resolution, query.column, edges_of(plan, query)))
            case GroupCount():
                found.append(Part(cells_of(number), len(category(plan, query.column).values), query.column))
            case Count() | Moment():
                pass
    return tuple(found)


def cells_of(number: int) -> str:
    """The name of the cells of a question, which are numbered from 1."""
    return f"{CELLS}:{number}"


def length(plan: Plan) -> int:
    """How many coordinates the sum has."""
    return sum(part.length for part in parts(plan))


def per_row(plan: Plan) -> int:
    """Steps of the grid of one row in one part: floor(M / max_rows), so that all rows of a participant fit."""
    return plan.protection.max_value // asked(plan).max_rows


def squared_sensitivity(plan: Plan) -> int:
    """The sum of the squared caps of all parts: how far one unit moves the sum at most, in squared steps."""
    return len(parts(plan)) * per_row(plan) ** 2


def l1_sensitivity(plan: Plan) -> int:
    """Delta1, the sum of the caps of all parts: how far one unit moves the sum at most in L1 norm, in steps, where each
    part is kept within its cap in that norm (under Laplace noise).

    Proof. A unit adds to each part either one coordinate of at most the cap, or its shares among cells, which are
    shortened in integers until they add up to at most the cap; the L1 norm of the joint vector is the sum over the
    parts. What follows, sums over units and a range that every coordinate is kept within, moves no two sums further
    apart. Without shortening, k shares of a person that are each rounded up would add up to as much as the cap plus k.
    """
    return len(parts(plan)) * per_row(plan)


def edges_of(plan: Plan, query: Quantiles) -> tuple[float, ...]:
    """The edges of equal cells over the declared range."""
    feature = number(plan, query.column)
    return equal_edges(feature.lo, feature.hi, query.resolution)


def equal_edges(lo: float, hi: float, cells: int) -> tuple[float, ...]:
    """The edges of so many equal cells from `lo` to `hi`."""
    return (*(lo + (hi - lo) * (cell / cells) for cell in range(cells)), hi)


def number(plan: Plan, column: str) -> FloatFeature:
    """The numeric column of this name. KeyError for another."""
    return {feature.name: feature for feature in plan.data.float_features}[column]


def category(plan: Plan, column: str) -> CategoryFeature:
    """The category of this name. KeyError for another."""
    return {one.name: one for one in plan.data.features if isinstance(one, CategoryFeature)}[column]


def centre(feature: FloatFeature) -> tuple[float, float]:
    """(middle, half width) of a declared range: a value x counts as (x - middle) / half width."""
    half = (feature.hi - feature.lo) / 2
    return feature.lo + half, half


def title(query: Query) -> str:
    """A question in words."""
    match query:
        case Count():
            return "rows"
        case Moment():
            return f"{query.figure} of {query.column}"
        case Histogram():
            return f"histogram of {query.column}"
        case Quantiles():
            return f"quantiles of {query.column}"
        case GroupCount():
            return f"rows by {query.column}"
