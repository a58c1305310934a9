"""Disclosure risk by the definitions, in plain Python with exact shares: the second implementation of k, l and t.

A table is a list of rows, a row a mapping from column to text or None; None is a value of its own. Sources: Sweeney
2002; Machanavajjhala et al. 2007; Li et al. 2007, section 4.2; Wong et al. 2006; Brickell and Shmatikov 2008.
"""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from fractions import Fraction

Row = Mapping[str, str | None]


def classes(rows: Sequence[Row], quasi: Sequence[str]) -> list[list[Row]]:
    """Rows with equal quasi-identifiers."""
    found: dict[tuple[str | None, ...], list[Row]] = {}
    for row in rows:
        found.setdefault(tuple(row[name] for name in quasi), []).append(row)
    return list(found.values())


def shares(rows: Sequence[Row], column: str) -> dict[str | None, Fraction]:
    """Value -> its share of these rows."""
    counts = Counter(row[column] for row in rows)
    return {value: Fraction(count, len(rows)) for value, count in counts.items()}


def measures(rows: Sequence[Row], quasi: Sequence[str], column: str, *, ordered: bool) -> dict[str, float]:
    """k, l, entropy_l, t, alpha, delta of one sensitive column. `ordered`: t by the ordered distance of numbers."""
    groups, whole = classes(rows, quasi), shares(rows, column)
    order = sorted(whole, key=lambda value: float(value or 0)) if ordered else list(whole)
    each = [shares(group, column) for group in groups]
    entropies = [-sum(float(p) * math.log(p) for p in one.values()) for one in each]
    return {
        "k": min(len(group) for group in groups),
        "l": min(len(one) for one in each),
        "entropy_l": math.exp(min(entropies)),
        "alpha": float(max(max(one.values()) for one in each)),
        "delta": max(abs(math.log(p / whole[value])) for one in each for value, p in one.items()),
        "t": float(max(distance(one, whole, order, ordered=ordered) for one in each)),
    }


def distance(
    share: Mapping[str | None, Fraction],
    whole: Mapping[str | None, Fraction],
    order: Sequence[str | None],
    *,
    ordered: bool,
) -> Fraction:
    """The earth mover's distance of two distributions over `order`."""
    differences = [share.get(value, Fraction(0)) - whole[value] for value in order]
    if not ordered:
        return sum((abs(one) for one in differences), Fraction(0)) / 2
    if len(order) < 2:
        return Fraction(0)
    moved, total = Fraction(0), Fraction(0)
    for one in differences:
        moved += one
        total += abs(moved)
    return total / (len(order) - 1)


def prosecutor(rows: Sequence[Row], quasi: Sequence[str], above: Fraction) -> dict[str, float]:
    """highest risk, rows at risk above a threshold, success rate, unique rows."""
    sizes = [len(group) for group in classes(rows, quasi)]
    return {
        "highest": float(Fraction(1, min(sizes))),
        "at_risk": sum(size for size in sizes if Fraction(1, size) > above),
        "success": float(sum(Fraction(1, size) * size for size in sizes) / len(rows)),
        "uniques": sum(size == 1 for size in sizes),
    }
