"""What one participant's rows say to the questions of a statistics plan: all that leaves it for the sum.

Promise: without differential privacy exact sums over its rows, in which every cell of fewer than `min_cell` own rows is
0. With it one joint vector for each unit (a row, or a person with all of its rows, who counts once with the mean over
them), in integers, of which every part is at most `per_row` in L2 norm, and only then added up: a unit that comes or
goes moves the sum by at most per_row sqrt(parts), exactly; under Laplace noise every part is that in L1 norm, and the
whole per_row parts. Nothing depends on rows in any other way. How values are
rounded comes from 32 secret bytes. Source: A2, A6, D1, D2, D8, D9 (docs/privacy.md).
"""

from math import isqrt

import numpy as np
from fedveil_common.crypto.kdf import derive
from fedveil_common.plan import NoiseKind, Plan
from fedveil_common.secret import Seed
from fedveil_common.statistics import vector
from fedveil_common.statistics.vector import Part
from fedveil_common.table import Table
from numpy.typing import NDArray

from fedveil_participant.data.csv_source import Source
from fedveil_participant.data.units import Units
from fedveil_participant.training.clipped import rounded

Blocks = list[NDArray[np.float64]]


def tally(plan: Plan, source: Source) -> Blocks:
    """Each part of the vector, in rows. The organisation's secret."""
    table, least = source.table, vector.asked(plan).min_cell
    blocks: Blocks = []
    for part in vector.parts(plan):
        if part.kind == vector.CELLS:
            cells = cells_of(plan, table, part)
            counts = np.bincount(cells[cells >= 0], minlength=part.length)
            blocks.append(np.where(counts < least, 0, counts).astype(np.float64))
            continue
        values = values_of(plan, table, part)
        known = values[~np.isnan(values)]
        blocks.append(np.array([float(known.sum()) if len(known) >= least else 0.0]))
    return blocks


def private_tally(plan: Plan, source: Source, secret: Seed) -> NDArray[np.int64]:
    """The whole vector in steps of the grid, before the noise. `secret`: 32 bytes that nobody else knows."""
    table, bound = source.table, vector.per_row(plan)
    units = Units.single(table.rows) if plan.data.person is None else Units.grouped(source.positions)
    unit_of = np.empty(table.rows, dtype=np.int64)
    unit_of[units.order] = np.repeat(np.arange(len(units)), np.diff(units.starts))
    key = derive(b"", secret.expose(), "dp/rounding")
    laplace = plan.privacy is not None and plan.privacy.mechanism is NoiseKind.LAPLACE
    shortened = within_sum if laplace else within
    first, sums = 0, []
    for part in vector.parts(plan):
        if part.kind == vector.CELLS:
            shares = _shares_of_cells(cells_of(plan, table, part), unit_of, len(units), part.length)
        else:
            shares = _means(values_of(plan, table, part), unit_of, len(units))
        owner, place, share = shares
        steps = shortened(rounded(share * bound, key, first), owner, len(units), bound)
        first += len(share)
        total = np.zeros(part.length, dtype=np.int64)
        np.add.at(total, place, steps)
        sums.append(total)
    return np.concatenate(sums)


Shares = tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]]
"""(unit, coordinate within the part, share within -1 .. 1) of every share that is not 0; a unit's are at most 1 in L2
norm together.
"""


def values_of(plan: Plan, table: Table, part: Part) -> NDArray[np.float64]:
    """What each row adds to a part of one coordinate: at most 1 in absolute value, NaN where it adds nothing."""
    if part.name == vector.ROWS:
        return np.ones(table.rows)
    feature = vector.number(plan, part.column)
    middle, half = vector.centre(feature)
    scaled = np.clip((table.numbers[part.column] - middle) / half, -1.0, 1.0)
    match part.kind:
        case vector.PRESENT:
            return np.where(np.isnan(scaled), np.nan, 1.0)
        case vector.SQUARES:
            return scaled * scaled
        case _:
            return scaled


def cells_of(plan: Plan, table: Table, part: Part) -> NDArray[np.int64]:
    """In which cell each row lies; -1 for none."""
    if not part.edges:
        return table.codes[part.column].astype(np.int64)
    values, edges = table.numbers[part.column], np.array(part.edges)
    found = np.searchsorted(edges, values, side="right") - 1
    found[values == edges[-1]] = part.length - 1
    return np.where((found < part.length) & ~np.isnan(values), found, -1)


def _means(values: NDArray[np.float64], unit_of: NDArray[np.int64], units: int) -> Shares:
    """Each unit's mean over its rows that have a value."""
    known = ~np.isnan(values)
    counts = np.bincount(unit_of[known], minlength=units)
    sums = np.bincount(unit_of[known], weights=values[known], minlength=units)
    owner = np.flatnonzero(counts)
    return owner, np.zeros(len(owner), dtype=np.int64), sums[owner] / counts[owner]


def _shares_of_cells(cells: NDArray[np.int64], unit_of: NDArray[np.int64], units: int, length: int) -> Shares:
    """How a unit's rows, those that lie in a cell, are shared among the cells."""
    held = cells >= 0
    counts = np.bincount(unit_of[held], minlength=units)
    pairs, many = np.unique(unit_of[held] * length + cells[held], return_counts=True)
    owner = pairs // length
    return owner, pairs % length, many / counts[owner]


def within(steps: NDArray[np.int64], owner: NDArray[np.int64], units: int, bound: int) -> NDArray[np.int64]:
    """`steps`, those of a unit whose norm exceeds `bound` shortened towards 0: exactly within it then, in integers."""
    squares = np.zeros(units, dtype=np.int64)
    np.add.at(squares, owner, steps * steps)
    norms = np.ones(units, dtype=np.int64)
    for unit in np.flatnonzero(squares > bound**2):
        norms[unit] = isqrt(int(squares[unit])) + 1
    shorter = np.sign(steps) * (np.abs(steps) * bound // norms[owner])
    return np.where(squares[owner] > bound**2, shorter, steps)


def within_sum(steps: NDArray[np.int64], owner: NDArray[np.int64], units: int, bound: int) -> NDArray[np.int64]:
    """As `within`, by the sum of the absolute values: what shares that were rounded up have too much is lost."""
    sums = np.zeros(units, dtype=np.int64)
    np.add.at(sums, owner, np.abs(steps))
    longest = np.maximum(sums, bound)
    shorter: NDArray[np.int64] = np.sign(steps) * (np.abs(steps) * bound // longest[owner])
    return shorter
