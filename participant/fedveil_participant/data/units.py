"""Which rows belong together: each by itself, or all of one person: what differential privacy protects (D2)."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True, eq=False)
class Units:
    """`order`: row numbers, unit after unit. `starts`: where in it each begins, and the end: shape (units + 1,)."""

    order: NDArray[np.intp]
    starts: NDArray[np.intp]

    @classmethod
    def single(cls, rows: int) -> "Units":
        """Every row by itself."""
        return cls(np.arange(rows), np.arange(rows + 1))

    @classmethod
    def grouped(cls, labels: NDArray[np.uint64]) -> "Units":
        """Rows with the same label together. A label is 64 bits of a hash of the person's id: two persons who share one
        are taken for one.
        """
        order = np.argsort(labels, kind="stable")
        held = labels[order]
        first = np.flatnonzero(np.concatenate([[True], held[1:] != held[:-1]])) if len(held) else np.zeros(0, np.intp)
        return cls(order, np.append(first, len(held)))

    def __len__(self) -> int:
        return len(self.starts) - 1

    def sizes(self, units: NDArray[np.intp]) -> NDArray[np.intp]:
        """How many rows each of these units has."""
        return np.asarray(self.starts[units + 1] - self.starts[units])

    def rows_of(self, units: NDArray[np.intp]) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
        """The rows of these units, one unit after the other, and where in that list each begins."""
        sizes = self.sizes(units)
        begins = np.cumsum(sizes) - sizes
        within = np.arange(int(sizes.sum())) - np.repeat(begins, sizes)
        return self.order[np.repeat(self.starts[units], sizes) + within], begins
