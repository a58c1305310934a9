"""The thresholds of a table that leaves, and how a table below them may be mended.

Promise: a table passes only if its own figures do, computed anew after every change. `suppress` leaves out whole
classes, at most the share of rows that the rules permit; `generalise` (in `engine`) goes up the declared levels only.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fedveil_participant.masking.cells import Cells
from fedveil_participant.masking.classes import Classes, Spread, classes_of, spread_of
from fedveil_participant.masking.rules import Release

TOLERANCE = 1e-9
"""A distance that rounding put this far above its threshold is at it."""


@dataclass(frozen=True, slots=True)
class Shortfall:
    """One threshold that a table is below: which, what was wanted, what was found."""

    measure: str
    wanted: float
    found: float

    @property
    def text(self) -> str:
        """The shortfall for people."""
        side = "at most" if self.measure in {"t", "max_suppression"} else "at least"
        return f"{self.measure} is {self.found:g}, {side} {self.wanted:g} is wanted"


def shortfalls(release: Release, classes: Classes, spreads: Sequence[Spread], suppressed: float) -> list[Shortfall]:
    """What the table lacks. `suppressed`: share of the rows that were left out."""
    found = []
    if release.k is not None and classes.k < release.k:
        found.append(Shortfall("k", release.k, classes.k))
    least = min((one.l for one in spreads), default=0)
    if release.l is not None and least < release.l:
        found.append(Shortfall("l", release.l, least))
    most = max((one.t for one in spreads), default=0.0)
    if release.t is not None and most > release.t + TOLERANCE:
        found.append(Shortfall("t", release.t, most))
    if suppressed > release.max_suppression + TOLERANCE:
        found.append(Shortfall("max_suppression", release.max_suppression, suppressed))
    return found


def classes_to_keep(
    release: Release, quasi: Sequence[Cells], sensitive: Sequence[tuple[str, Cells]], most: int
) -> NDArray[np.bool_] | None:
    """Which rows stay when the classes below a threshold are left out; None if that would be more than `most` rows, or
    all of them.

    Leaving out classes changes the table that t compares with, so it is repeated until nothing fails.
    """
    rows = len(sensitive[0][1].codes) if sensitive else quasi[0].rows
    kept = np.ones(rows, dtype=np.bool_)
    while True:
        classes = classes_of([one.where(kept) for one in quasi], int(kept.sum()))
        failing = np.zeros(len(classes.sizes), dtype=np.bool_)
        if release.k is not None:
            failing |= classes.sizes < release.k
        for name, column in sensitive:
            spread = spread_of(name, column.where(kept), classes)
            if release.l is not None:
                failing |= spread.distinct < release.l
            if release.t is not None:
                failing |= spread.distance > release.t + TOLERANCE
        if not failing.any():
            return kept
        kept[np.flatnonzero(kept)[failing[classes.ids]]] = False
        if not kept.any() or rows - int(kept.sum()) > most:
            return None
