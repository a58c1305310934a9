"""Steps on numbers: ranges, bounds, groups of neighbours, noise. Whole arrays, in the column's own unit.

Promise: ranges are those of the decimals written in the rules, not of the doubles next to them; a value lies in exactly
one. Noise is an exact multiple of the grid before it becomes a double.
"""

import math
from fractions import Fraction

import numpy as np
from fedveil_common.dp import laplace
from fedveil_common.jcs import number
from numpy.typing import NDArray

from fedveil_participant.masking.rules import Noise, Ranges
from fedveil_participant.masking.steps import exact

Floats = NDArray[np.float64]

EXACT = 2.0**53
"""Below it a double holds every whole number."""


def range_texts(values: Floats, step: Ranges, width: float) -> list[str]:
    """Each value's range: its lower bound, its middle, or both bounds as `[lower, upper)`."""
    origin, size = exact(step.origin), exact(width)
    found = []
    for place in _places(values, origin, size):
        lower = origin + place * size
        match step.show:
            case "lower":
                found.append(number(float(lower)))
            case "middle":
                found.append(number(float(lower + size / 2)))
            case _:
                found.append(f"[{number(float(lower))}, {number(float(lower + size))})")
    return found


def _places(values: Floats, origin: Fraction, size: Fraction) -> list[int]:
    """floor((value - origin) / size), exactly, of the shortest decimal of each value."""
    whole = origin.denominator == size.denominator == 1 and size < EXACT and abs(origin) < EXACT / 2
    if whole and (not len(values) or float(np.abs(values).max()) < EXACT / 2):
        floors = np.floor(values).astype(np.int64)  # of whole bounds, a value's floor lies in the range of the value
        found: list[int] = ((floors - int(origin)) // int(size)).tolist()
        return found
    return [math.floor((exact(value) - origin) / size) for value in values.tolist()]


def microaggregated(values: Floats, counts: NDArray[np.int64], k: int) -> Floats:
    """The mean of each distinct value's group. `counts`: rows with that value, in all at least `k`.

    Groups are made in order of size, of `k` rows or more, and never part equal values, so that they do not depend on
    the order of rows; what is left at the end joins the last group.
    """
    order = np.argsort(values)
    sizes, groups, filled, group = counts[order].tolist(), np.empty(len(values), dtype=np.int64), 0, 0
    for place, size in enumerate(sizes):
        groups[place] = group
        filled += size
        if filled >= k:
            group, filled = group + 1, 0
    if filled and group:
        groups[groups == group] = group - 1
    sums = np.bincount(groups, weights=values[order] * counts[order])
    means = sums / np.bincount(groups, weights=counts[order])
    found = np.empty(len(values))
    found[order] = means[groups]
    return found


def on_grid(values: Floats, step: Noise) -> NDArray[np.int64] | None:
    """Each value in steps of the grid, to the nearest; None if one is beyond what a double holds exactly."""
    if not len(values):
        return np.zeros(0, dtype=np.int64)
    scaled = np.rint(values / step.grid)
    if not float(np.abs(scaled).max()) < EXACT / 4:
        return None
    return scaled.astype(np.int64)


def noise_draws(step: Noise, key: bytes, rows: int) -> NDArray[np.int64]:
    """Discrete Laplace noise in steps of the grid, one for each of `rows` places: int64."""
    return laplace.table(exact(step.scale) / exact(step.grid)).draw(key, 0, rows)


def grid_texts(steps: NDArray[np.int64], step: Noise) -> list[str]:
    """Whole numbers of steps as decimals in the column's unit."""
    grid = exact(step.grid)
    if grid.denominator == 1:
        return [number(float(count * grid.numerator)) for count in steps.tolist()]
    return [number(count * grid.numerator / grid.denominator) for count in steps.tolist()]
