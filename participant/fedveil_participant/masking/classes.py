"""Equivalence classes of a table and what they say about re-identification: k, l, t and their relatives.

Promise: figures are those of the definitions, computed from counts of (class, value) pairs that occur, so that a
million rows take seconds; a missing value is a value of its own. Sources: Sweeney 2002 (k), Machanavajjhala et al. 2007
(distinct and entropy l), Li et al. 2007 (t: earth mover's distance, ordered or equal), Wong et al. 2006 (alpha, k),
Brickell and Shmatikov 2008 (delta-disclosure). Whoever sees the table's rows may see these figures.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fedveil_participant.data.columns import parse_number
from fedveil_participant.masking.cells import Cells

Ids = NDArray[np.int64]
Floats = NDArray[np.float64]

_WIDEST = 2**62


@dataclass(frozen=True, slots=True, eq=False)
class Classes:
    """Rows with equal quasi-identifiers. `ids`: the class of each row, from 0; `sizes`: rows of each class."""

    ids: Ids
    sizes: NDArray[np.int64]

    @property
    def k(self) -> int:
        """The size of the smallest class; 0 without rows."""
        return int(self.sizes.min()) if len(self.sizes) else 0

    @property
    def uniques(self) -> int:
        """Classes of one row."""
        return int(np.count_nonzero(self.sizes == 1))


def classes_of(columns: Sequence[Cells], rows: int) -> Classes:
    """The classes of `rows` rows by these columns; one class of all rows without a column."""
    ids, width = np.zeros(rows, dtype=np.int64), 1
    for column in columns:
        size = len(column.values) + 1
        if width * size > _WIDEST:
            distinct, ids = np.unique(ids, return_inverse=True)
            width = len(distinct)
        ids, width = ids * size + (column.codes + 1), width * size
    distinct, found = np.unique(ids, return_inverse=True)
    return Classes(found, np.bincount(found, minlength=len(distinct)))


@dataclass(frozen=True, slots=True, eq=False)
class Spread:
    """How one sensitive column is spread within each class; one entry per class in each array."""

    column: str
    ordered: bool
    distinct: NDArray[np.int64]
    entropy: Floats
    largest_share: Floats
    distance: Floats
    disclosure: Floats

    @property
    def l(self) -> int:  # noqa: E743 - the name of the measure
        """Distinct l-diversity."""
        return int(self.distinct.min()) if len(self.distinct) else 0

    @property
    def entropy_l(self) -> float:
        """Entropy l-diversity: e to the least entropy."""
        return float(np.exp(self.entropy.min())) if len(self.entropy) else 0.0

    @property
    def t(self) -> float:
        """t-closeness."""
        return float(self.distance.max()) if len(self.distance) else 0.0

    @property
    def alpha(self) -> float:
        """The largest share that one value has of a class."""
        return float(self.largest_share.max()) if len(self.largest_share) else 0.0

    @property
    def delta(self) -> float:
        """Delta-disclosure: the largest |log| of a value's share of a class over its share of the table."""
        return float(self.disclosure.max()) if len(self.disclosure) else 0.0


def spread_of(name: str, column: Cells, classes: Classes) -> Spread:
    """The spread of a sensitive column. Ordered distance where all values are numbers and none is missing."""
    codes, ordered = _ranked(column)
    count, rows = len(classes.sizes), len(codes)
    values = int(codes.max()) + 1 if rows else 0
    pairs, counts = np.unique(classes.ids * max(values, 1) + codes, return_counts=True)
    of_class, of_value = pairs // max(values, 1), pairs % max(values, 1)
    overall = np.bincount(codes, minlength=values) / max(rows, 1)
    share = counts / classes.sizes[of_class]
    entropy: Floats = np.bincount(of_class, weights=-share * np.log(share), minlength=count).astype(np.float64)
    largest = np.zeros(count)
    np.maximum.at(largest, of_class, share)
    disclosure = np.zeros(count)
    np.maximum.at(disclosure, of_class, np.abs(np.log(share / overall[of_value])))
    if ordered:
        distance = _ordered_distance(classes, of_class, of_value, counts, np.bincount(codes, minlength=values))
    else:  # half the sum of |q - p|, which is the sum of q - p where it is positive: only where the class has the value
        excess = np.maximum(share - overall[of_value], 0.0)
        distance = np.bincount(of_class, weights=excess, minlength=count).astype(np.float64)
    return Spread(name, ordered, np.bincount(of_class, minlength=count), entropy, largest, distance, disclosure)


def _ranked(column: Cells) -> tuple[NDArray[np.int64], bool]:
    """(dense codes from 0, whether they are in the order of numbers)."""
    used = np.unique(column.codes)
    texts = column.texts()
    parsed = [parse_number(texts[code]) if code >= 0 else None for code in used.tolist()]
    known = [value for value in parsed if value is not None]
    if len(known) == len(parsed):
        ranks = np.unique(np.array(known, dtype=np.float64), return_inverse=True)[1]
        return ranks[np.searchsorted(used, column.codes)].astype(np.int64), True
    return np.searchsorted(used, column.codes).astype(np.int64), False


def _ordered_distance(
    classes: Classes, of_class: Ids, of_value: Ids, counts: NDArray[np.int64], totals: NDArray[np.int64]
) -> Floats:
    """1/(m-1) times the sum over values i < m-1 of |Q_i - P_i|, Q and P the cumulative shares of class and table.

    Between two values that a class has, Q is constant and P does not fall, so that the sum of a stretch is two
    differences of a sum of P: the place where P passes Q parts it. `of_class`, `of_value` are sorted pairs.
    """
    values, rows = len(totals), int(totals.sum())
    if values < 2:
        return np.zeros(len(classes.sizes))
    cumulative = np.cumsum(totals) / rows
    summed = np.concatenate([[0.0], np.cumsum(cumulative)])
    first = np.flatnonzero(np.diff(of_class, prepend=-1))
    within = np.cumsum(counts)
    before = (within - counts)[first]
    shares = (within - before[np.cumsum(np.diff(of_class, prepend=-1) > 0) - 1]) / classes.sizes[of_class]
    # a stretch: from each value of the class to the next one, or to the last value of all; and up to its first value
    last = np.append(first[1:], len(of_class)) - 1
    ends = np.append(of_value[1:], 0)
    ends[last] = values - 1
    stretches = _stretch(shares, of_value, ends, cumulative, summed)
    found = np.bincount(of_class, weights=stretches, minlength=len(classes.sizes)) + summed[of_value[first]]
    distances: Floats = found / (values - 1)
    return distances


def _stretch(shares: Floats, starts: Ids, ends: Ids, cumulative: Floats, summed: Floats) -> Floats:
    """The sum of |share - P_i| for i = start .. end - 1."""
    parted = np.clip(np.searchsorted(cumulative, shares), starts, ends)
    below = (parted - starts) * shares - (summed[parted] - summed[starts])
    above = (summed[ends] - summed[parted]) - (ends - parted) * shares
    total: Floats = below + above
    return total
