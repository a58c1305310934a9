"""Small federations that ask questions about columns: tables of the five members, and the plan of their statistics."""

import numpy as np
import pytest
from federation import FIVE, RecordingMemory
from fedveil_common import plan as plans
from fedveil_common.ids import OrgId, RunId
from fedveil_simulation.charter import make_charter
from fedveil_simulation.cluster import Cluster
from fedveil_simulation.key_book import KeyBook
from numpy.typing import NDArray

QUERIES = """    - {count: rows}
    - {sum: chol}
    - {mean: chol}
    - {variance: chol}
    - {histogram: age, bins: 10}
    - {histogram: chol, edges: [150, 200, 240, 300]}
    - {quantiles: chol, at: [0.25, 0.5, 0.75], resolution: 64}
    - {group_count: diagnosis}
"""
SETTINGS = {
    "kind": "masked",
    "bits": "",
    "min_cell": 1,
    "max_rows": 1000,
    "refresh": 0,
    "privacy": "none",
    "person": "",
    "queries": QUERIES,
    "min_rows": 2,
    "missing": "mean",
}
PLAN = """version: 1
name: asked
kind: statistics
data:
  dataset: table
  features:
    chol: {{type: float, range: [0, 500], clamp: true, missing: {missing}}}
    age: {{type: float, range: [0, 100], clamp: true}}
    diagnosis: {{type: category, values: [none, mild, severe]}}
  min_rows: {min_rows}
  {person}
statistics:
  max_rows: {max_rows}
  min_cell: {min_cell}
  refresh: {refresh}
  queries:
{queries}cohort: {{min_participants: 3, max_corrupt: 1, progress_s: 3, wait_s: 600, hard_limit_s: 120}}
protection: {{kind: {kind}{bits}}}
privacy: {privacy}
"""
PRIVATE = "{{unit: record, rows: 400, {noise}, delta: 1.0e-5, max_epsilon: {most}{more}}}"


def statistics_text(**settings: object) -> str:
    """The file of the plan."""
    return PLAN.format(**{**SETTINGS, **settings})


def statistics_plan(**settings: object) -> plans.Plan:
    """The plan in it."""
    return plans.parse_plan(statistics_text(**settings).encode(), "asked.yaml")


def statistics_bytes(**settings: object) -> bytes:
    """Its canonical bytes."""
    return plans.canonical(statistics_plan(**settings))


def private(noise: str = "noise_multiplier: 1.0", most: float = 100.0, more: str = "") -> str:
    """A privacy block for it."""
    return PRIVATE.format(noise=noise, most=most, more=more)


class Column:
    """The rows of one member: cholesterol (NaN where none was measured), age, diagnosis, and whose row it is."""

    def __init__(self, index: int, rows: int | None = None) -> None:
        rows = 40 + 13 * index if rows is None else rows
        draw = np.random.default_rng(100 + index)
        self.chol: NDArray[np.float64] = np.round(np.clip(draw.normal(210 + 10 * index, 45, rows), 0, 500), 1)
        self.chol[draw.random(rows) < 0.1] = np.nan
        self.age: NDArray[np.float64] = np.floor(draw.uniform(18, 96, rows))
        self.diagnosis = draw.choice(["none", "mild", "severe"], rows, p=[0.6, 0.3, 0.1])
        self.person = [f"p{number}" for number in draw.integers(0, max(1, rows // 2), rows)]

    def csv(self) -> bytes:
        """As the member has it."""
        lines = ["chol,age,diagnosis,person"]
        for chol, age, diagnosis, person in zip(self.chol, self.age, self.diagnosis, self.person, strict=True):
            lines.append(f"{'' if np.isnan(chol) else chol},{age},{diagnosis},{person}")
        return ("\n".join(lines) + "\n").encode()


def columns(names: tuple[OrgId, ...] = FIVE) -> list[Column]:
    """Of each member."""
    return [Column(FIVE.index(name)) for name in names]


def asking(
    names: tuple[OrgId, ...] = FIVE, *, seed: int = 1, book: KeyBook | None = None, canonical: bytes | None = None
) -> Cluster:
    """A cluster of these members with their tables, all started, who accept the plan."""
    data = {name: {"table": Column(FIVE.index(name)).csv()} for name in names}
    plan = statistics_bytes() if canonical is None else canonical
    cluster = Cluster(make_charter(names, seed), seed, data, plan, book=book)
    for name, member in cluster.members.items():
        member.memory = RecordingMemory(name)
        cluster.start_member(member.org_id)
    cluster.settle()
    return cluster


def accept(cluster: Cluster, canonical: bytes) -> None:
    """Every member's owner passes this plan's hash to --accept, and starts `participate` anew with it."""
    for member in cluster.members.values():
        member.accepted = member.accepted | {plans.plan_hash(canonical)}
        cluster.kill_member(member.org_id)
        cluster.start_member(member.org_id)
    cluster.settle()


def answers(cluster: Cluster, run_id: RunId) -> list[dict[str, object]]:
    """What the coordinator shows."""
    return cluster.coordinator.sums.answers(cluster.coordinator.state_of(run_id))  # type: ignore[return-value]


def union(names: tuple[OrgId, ...], column: str) -> NDArray[np.generic]:
    """A column of all members together; missing values left out."""
    values = np.concatenate([getattr(one, column) for one in columns(names)])
    return values if values.dtype.kind == "U" else values[~np.isnan(values)]


def check_exact(found: list[dict[str, object]], names: tuple[OrgId, ...]) -> None:
    """The answers of the standard plan without suppression, against numpy over the union."""
    chol, age, diagnosis = (union(names, column) for column in ("chol", "age", "diagnosis"))
    rows, total, mean, variance, ages, parts, quantiles, groups = found
    assert rows["value"] == len(age)
    assert total["value"] == pytest.approx(chol.sum(), rel=1e-7)
    assert mean["value"] == pytest.approx(chol.mean(), rel=1e-7)
    assert variance["value"] == pytest.approx(chol.var(), rel=1e-6)
    assert total["rows"] == mean["rows"] == variance["rows"] == len(chol)
    assert ages["counts"] == np.histogram(age, bins=10, range=(0, 100))[0].tolist()
    assert parts["counts"] == np.histogram(chol, bins=[150, 200, 240, 300])[0].tolist()
    assert parts["rows"] < len(chol), "some lie outside the edges"
    for value, exact in zip(quantiles["values"], np.quantile(chol, [0.25, 0.5, 0.75]), strict=True):
        assert abs(value - exact) <= 500 / 64
    assert groups["counts"] == [int((diagnosis == one).sum()) for one in ("none", "mild", "severe")]
    assert all(one["noise"] is None for one in found)
