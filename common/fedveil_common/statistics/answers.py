"""What an opened statistics sum says: the answer to each question, with its noise.

Promise: a pure function of the plan and the sum, so that coordinator and participants find the same figures to the
last bit; no row is looked at, so that under differential privacy all of it is post-processing and costs nothing.
Without noise a figure is exact but for one step of the grid for each participant. With it a count may come out
negative: what is below `min_cell` is not shown, a mean and a variance stay within what the declared range permits, and
quantiles come from cells that are at least 0, so that they ascend. Noise is one standard deviation, of a mean or a
variance to first order. Source: D9, A2 (docs/privacy.md, docs/plan.md).
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fedveil_common import jcs, private_sum
from fedveil_common.decode import Decoded
from fedveil_common.errors import IntegrityError
from fedveil_common.plan import Count, Figure, GroupCount, Histogram, Moment, Plan, Quantiles, Query
from fedveil_common.statistics import vector


@dataclass(frozen=True, slots=True)
class Answer:
    """`values`: one for a figure, one for each cell or quantile; None where fewer rows than min_cell are behind it.
    `noise`: of each value (of a quantile: of the rows below it, at most); None without differential privacy. `rows`:
    how many rows are behind the answer, as noisy as it. As public as the sum.
    """

    query: Query
    values: tuple[float | None, ...]
    noise: tuple[float, ...] | None
    rows: float

    @property
    def suppressed(self) -> int:
        """How many values are not shown."""
        return sum(value is None for value in self.values)


def check_sum(plan: Plan, decoded: Decoded, survivors: int, variance: float) -> None:
    """Every figure lies within what honest inputs give, noise included. IntegrityError `model_rejected`."""
    most = survivors * float(vector.asked(plan).max_rows)
    slack = (survivors + _unlikely(plan) * math.sqrt(variance)) / vector.per_row(plan)
    for part in vector.parts(plan):
        values = decoded[part.name].at()
        signed = part.kind == vector.SUM
        least, largest = float(values.min()), float(values.max())
        if least < (-most if signed else 0.0) - slack or largest > most + slack:
            raise IntegrityError(
                "model_rejected",
                f"{part.name} of the opened sum lies between {least:.6g} and {largest:.6g} rows, and honest inputs give"
                f" at most {most:.6g}",
                not_done="no answer was taken from it",
                next_step="look for the participant whose data or software is wrong before another run",
            )


def _unlikely(plan: Plan) -> float:
    """Standard deviations of the noise beyond which no honest inputs are behind a figure."""
    return 0.0 if plan.privacy is None else private_sum.grid(plan, plan.privacy).noise.unlikely


def answers(plan: Plan, decoded: Decoded, variance: float) -> tuple[Answer, ...]:
    """The answer to each question of the plan, in order. `variance`: of the noise that is left
    (`Result.noise_left`, in squared steps of the grid).
    """
    reading = _Reading(plan, decoded, math.sqrt(variance) / vector.per_row(plan))
    return tuple(reading.answer(number, query) for number, query in enumerate(vector.asked(plan).queries, start=1))


@dataclass(frozen=True, slots=True)
class _Reading:
    """A sum that is being read. `sigma`: of the noise on a coordinate, in rows; 0 for none."""

    plan: Plan
    decoded: Decoded
    sigma: float

    def answer(self, number: int, query: Query) -> Answer:
        match query:
            case Count():
                rows = self.decoded[vector.ROWS].only
                return Answer(query, (rows if self._shown(rows) else None,), self._noise(self.sigma), rows)
            case Moment():
                return self._moment(query)
            case Quantiles():
                return self._quantiles(query, self.decoded[vector.cells_of(number)].at())
            case Histogram() | GroupCount():
                cells = self.decoded[vector.cells_of(number)].at()
                shown = tuple(float(cell) if self._shown(float(cell)) else None for cell in cells)
                return Answer(query, shown, self._noise(*[self.sigma] * len(cells)), float(cells.sum()))

    def _shown(self, rows: float) -> bool:
        """Without noise a cell of fewer rows was sent as 0 by whoever has it; with noise it is looked at here."""
        return not self.sigma or rows >= vector.asked(self.plan).min_cell

    def _noise(self, *sigmas: float) -> tuple[float, ...] | None:
        return sigmas if self.sigma else None

    def _moment(self, query: Moment) -> Answer:
        """With u the values scaled to [-1, 1]: from how many there are, sum of u and sum of u^2."""
        feature = vector.number(self.plan, query.column)
        middle, half = vector.centre(feature)
        rows = self.decoded[f"{vector.PRESENT}:{query.column}"].only
        total = self.decoded[f"{vector.SUM}:{query.column}"].only
        if not self._shown(rows) or rows <= 0:
            return Answer(query, (None,), self._noise(math.nan), rows)
        mean = min(max(total / rows, -1.0), 1.0)
        match query.figure:
            case Figure.SUM:
                return Answer(
                    query, (half * total + middle * rows,), self._noise(math.hypot(half, middle) * self.sigma), rows
                )
            case Figure.MEAN:
                value = min(max(middle + half * mean, feature.lo), feature.hi)
                return Answer(query, (value,), self._noise(half * math.hypot(1.0, mean) * self.sigma / rows), rows)
            case Figure.VARIANCE:
                square = self.decoded[f"{vector.SQUARES}:{query.column}"].only / rows
                spread = min(max(square - mean * mean, 0.0), 1.0)
                slope = math.hypot(1.0, 2 * mean, square - 2 * mean * mean)
                return Answer(
                    query, (half * half * spread,), self._noise(half * half * slope * self.sigma / rows), rows
                )

    def _quantiles(self, query: Quantiles, cells: NDArray[np.float64]) -> Answer:
        rows = float(cells.sum())
        held = np.maximum(cells, 0.0)
        below = np.cumsum(held)
        if not self._shown(rows) or not below[-1] > 0:
            values: tuple[float | None, ...] = (None,) * len(query.at)
        else:
            edges = vector.edges_of(self.plan, query)
            values = tuple(_quantile(at * float(below[-1]), held, below, edges) for at in query.at)
        return Answer(query, values, self._noise(*[self.sigma * math.sqrt(len(cells))] * len(query.at)), rows)


def _quantile(target: float, held: NDArray[np.float64], below: NDArray[np.float64], edges: tuple[float, ...]) -> float:
    """Where `target` rows are below, if the rows of a cell are spread evenly over it."""
    filled = np.flatnonzero(held > 0)
    cell = int(filled[min(int(np.searchsorted(below[filled], target)), len(filled) - 1)])
    share = (target - (float(below[cell]) - float(held[cell]))) / float(held[cell])
    return edges[cell] + (edges[cell + 1] - edges[cell]) * min(max(share, 0.0), 1.0)


def to_json(plan: Plan, found: tuple[Answer, ...]) -> list[dict[str, jcs.Json]]:
    """The answers as plain values, for reports and files."""
    return [_one(plan, answer) for answer in found]


def _one(plan: Plan, answer: Answer) -> dict[str, jcs.Json]:
    query = answer.query
    noise = [None if math.isnan(sigma) else sigma for sigma in answer.noise or ()]
    members: dict[str, jcs.Json] = {"question": vector.title(query), "rows": answer.rows}
    match query:
        case Count() | Moment():
            members |= {"value": answer.values[0], "noise": noise[0] if noise else None}
        case Histogram(edges=edges):
            members |= {"edges": list(edges), "counts": list(answer.values)}
        case GroupCount(column=column):
            members |= {"values": list(vector.category(plan, column).values), "counts": list(answer.values)}
        case Quantiles(at=at, column=column, resolution=resolution):
            feature = vector.number(plan, column)
            members |= {
                "at": list(at),
                "values": list(answer.values),
                "cell_width": (feature.hi - feature.lo) / resolution,
            }
    if isinstance(query, Histogram | GroupCount | Quantiles):
        members |= {"noise": noise[0] if noise else None}
    if answer.noise is not None:
        members["suppressed"] = answer.suppressed
    return members
