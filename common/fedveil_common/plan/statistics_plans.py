"""The block `statistics` of a plan: reading it, writing it, and what stands in a plan that trains nothing.

Promise: every question names a declared column of the right type, every bound is the plan's, and a plan that left here
fits the grid. Source: the design of statistics (A2, D9); docs/plan.md.
"""

from itertools import pairwise
from typing import TypeVar

from fedveil_common import jcs
from fedveil_common.plan import spec
from fedveil_common.plan.private_plans import NOTHING_MEASURED
from fedveil_common.plan.queries import (
    Count,
    Figure,
    GroupCount,
    Histogram,
    Moment,
    Quantiles,
    Query,
    StatisticsSpec,
)
from fedveil_common.plan.section import Section
from fedveil_common.plan.yaml_tree import Node
from fedveil_common.statistics import vector

NO_TARGET = spec.FloatTarget("", -1.0, 1.0)
"""No column has an empty name."""

NO_MODEL = spec.ModelSpec(spec.ModelKind.LINEAR, 0.0, "")
NO_TRAINING = spec.TrainingSpec(
    rounds=1,
    local_epochs=1,
    batch_size=1,
    learning_rate=1.0,
    proximal_mu=0.0,
    seed=0,
    weight=spec.Weight.UNIFORM,
    weight_cap=1,
)
"""One secure sum is the whole run."""

NO_STRATEGY = spec.StrategySpec()
NO_EVALUATION = NOTHING_MEASURED
NO_NORM = 1.0
"""`update_norm` and `clip_norm` of a statistics plan, whose columns have ranges."""

DEFAULT_BITS, DEFAULT_PRIVATE_BITS = 40, 24
"""value_bits: without differential privacy a sum is then exact to 10^-11 of the column's range for each row of
max_rows; with it a row is so many steps of the grid that rounding is small beside one.
"""

MAX_ROWS = 10**9
MAX_CELLS = 4096
MAX_QUERIES = 256
MAX_AT = 256
MAX_REFRESH = 1_000_000

KINDS = ("count", *Figure, "histogram", "quantiles", "group_count")


def read(section: Section, data: spec.DataSpec, protection: spec.ProtectionSpec) -> StatisticsSpec:
    """The block; meaningful only if nothing was found wrong."""
    line = section.line_of("queries")
    queries: list[Query] = []
    nodes = section.items("queries")
    for node in nodes:
        query = _query(Section(node, section.at("queries"), line, section.findings), data)
        if query is not None and query in queries:
            section.findings.wrong(node.line, section.at("queries"), "value_twice", "the same is asked twice")
        elif query is not None:
            queries.append(query)
    if section.present and not 1 <= len(nodes) <= MAX_QUERIES:
        section.wrong("queries", "range", f"{len(nodes)} questions; 1 to {MAX_QUERIES} are possible")
    found = StatisticsSpec(
        queries=tuple(queries),
        max_rows=section.integer("max_rows", 1, MAX_ROWS),
        min_cell=section.integer("min_cell", 1, MAX_ROWS, default=5),
        refresh=section.integer("refresh", 0, MAX_REFRESH, default=0),
    )
    if found.max_rows > protection.max_value:
        section.wrong(
            "max_rows",
            "max_rows",
            f"{found.max_rows} rows cannot be counted in {protection.value_bits} bits; at most {protection.max_value}",
        )
    section.close()
    return found


def _query(section: Section, data: spec.DataSpec) -> Query | None:
    """One question; None after a problem that leaves nothing of it."""
    kinds = [kind for kind in KINDS if section.has(kind)]
    if len(kinds) != 1:
        if section.present:
            text = f"a question is one of {', '.join(KINDS)}, as in {{mean: COLUMN}}"
            section.findings.wrong(section.line, section.path, "query_kind", text)
        section.skip()
        return None
    (kind,) = kinds
    query: Query | None
    if kind == "count":
        section.choice("count", ("rows",))
        query = Count()
    elif kind == "group_count":
        category = _column(section, kind, data, spec.CategoryFeature, "category")
        query = None if category is None else GroupCount(category.name)
    else:
        query = _of_number(section, kind, _column(section, kind, data, spec.FloatFeature, "float"))
    section.close()
    return query


def _of_number(section: Section, kind: str, feature: spec.FloatFeature | None) -> Query | None:
    column = "" if feature is None else feature.name
    query: Query
    if kind == "histogram":
        query = Histogram(column, _edges(section, feature))
    elif kind == "quantiles":
        query = Quantiles(column, _at(section), section.integer("resolution", 2, MAX_CELLS))
    else:
        query = Moment(Figure(kind), column)
    return None if feature is None else query


F = TypeVar("F", spec.FloatFeature, spec.CategoryFeature)


def _column(section: Section, key: str, data: spec.DataSpec, wanted: type[F], named: str) -> F | None:
    name = section.column(key)
    found = next((feature for feature in data.features if feature.name == name), None)
    if name is not None and found is None:
        section.wrong(key, "column_unknown", f"column {name!r} is not among data.features")
    elif found is not None and not isinstance(found, wanted):
        section.wrong(key, "column_type", f"column {name!r} is not of type {named}, which {key} asks for")
    return found if isinstance(found, wanted) else None


def _edges(section: Section, feature: spec.FloatFeature | None) -> tuple[float, ...]:
    if section.has("edges") == section.has("bins"):
        section.findings.wrong(
            section.line, section.at("edges"), "query_cells", "a histogram has either edges: [a, b, ...] or bins: N"
        )
    if section.has("bins"):
        bins = section.integer("bins", 1, MAX_CELLS)
        equal = () if feature is None else vector.equal_edges(feature.lo, feature.hi, bins)
        if any(not a < b for a, b in pairwise(equal)):
            section.wrong("bins", "range", "the range of the column is too narrow for so many cells")
        return equal
    nodes = section.items("edges", required=False)
    found = [section.as_number(node, "edges") for node in nodes]
    edges = tuple(edge for edge in found if edge is not None)
    if nodes and not 2 <= len(nodes) <= MAX_CELLS + 1:
        section.wrong("edges", "range", f"{len(nodes)} edges; 2 to {MAX_CELLS + 1} are possible")
    if any(not a < b for a, b in pairwise(edges)):
        section.wrong("edges", "range", "edges ascend, each above the one before")
    if feature is not None and any(not feature.lo <= edge <= feature.hi for edge in edges):
        section.wrong(
            "edges", "range", f"an edge lies outside the range of the column, {feature.lo:g} to {feature.hi:g}"
        )
    return edges


def _at(section: Section) -> tuple[float, ...]:
    nodes = section.items("at")
    found = tuple(_number_at(section, node) for node in nodes)
    if nodes and len(nodes) > MAX_AT:
        section.wrong("at", "range", f"{len(nodes)} quantiles; at most {MAX_AT} are possible")
    if section.present and not nodes:
        section.wrong("at", "range", "at least one quantile, as in at: [0.25, 0.5, 0.75]")
    if any(not a < b for a, b in pairwise(found)):
        section.wrong("at", "range", "quantiles ascend, each above the one before")
    return found


def _number_at(section: Section, node: Node) -> float:
    value = section.as_number(node, "at")
    if value is not None and not 0 <= value <= 1:
        section.wrong("at", "range", f"{value:g} is not within 0 to 1")
    return value or 0.0


def canonical(statistics: StatisticsSpec) -> dict[str, jcs.Json]:
    """The block in the canonical plan: cells of histograms as edges."""
    members: dict[str, jcs.Json] = {
        "max_rows": statistics.max_rows,
        "min_cell": statistics.min_cell,
        "queries": [_canonical(query) for query in statistics.queries],
    }
    return members | ({"refresh": statistics.refresh} if statistics.refresh else {})


def _canonical(query: Query) -> dict[str, jcs.Json]:
    match query:
        case Count():
            return {"count": "rows"}
        case Moment():
            return {query.figure.value: query.column}
        case Histogram():
            return {"histogram": query.column, "edges": list(query.edges)}
        case Quantiles():
            return {"quantiles": query.column, "at": list(query.at), "resolution": query.resolution}
        case GroupCount():
            return {"group_count": query.column}
