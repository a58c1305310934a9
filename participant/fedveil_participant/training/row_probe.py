"""Does a trainer's gradient of a record depend on that record alone? Asked with made-up records before real ones.

Differential privacy bounds what one record moves because each record's gradient is its own. A trainer in which rows of
a chunk meet (batch normalisation, a loss over pairs, a state that it keeps) breaks that without looking wrong. So it is
asked for the gradients of ROWS made-up records, each alone and all of them in two orders, and they must agree.
Promise: nothing here looks at the organisation's rows, so the outcome is a matter of the code, the model and this draw.
It finds mistakes; it is no proof: code that wants to can behave for the probe. Source: D1, D8; docs/trainer.md.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from fedveil_common.crypto.prg import Streams
from fedveil_common.errors import LocalRefusal
from fedveil_common.plan import BinaryTarget, FloatTarget, Plan, parameters
from numpy.typing import NDArray

ROWS = 4
RELATIVE = 1e-4
"""Of a gradient's norm: far above what the order of a sum does to float32, far below what another row does."""

ABSOLUTE = 1e-6
"""Of the plan's clip norm: where a gradient is as good as none."""


@dataclass(frozen=True, slots=True, eq=False)
class RowProbe:
    """Made-up records, drawn from a key. `chunks`: which of them stand in each chunk that is asked for, in order."""

    inputs: NDArray[np.float64]
    target: NDArray[np.float64]
    chunks: tuple[NDArray[np.intp], ...]

    @classmethod
    def drawn(cls, plan: Plan, key: bytes) -> "RowProbe":
        """Inputs uniform in [-1, 1], targets of the plan's kind. `key`: 32 bytes."""
        columns = plan.data.inputs
        words = np.empty(ROWS * (columns + 1), dtype="<u8")
        Streams([(key, False)], 0, 8).fill(words)
        uniform = (words >> np.uint64(11)).astype(np.float64).reshape(ROWS, columns + 1) * 2.0**-53
        last = uniform[:, columns]
        if isinstance(plan.data.target, FloatTarget):
            target = 2.0 * last - 1.0
        else:
            classes = 2 if isinstance(plan.data.target, BinaryTarget) else parameters.outputs(plan.data.target)
            target = np.floor(last * classes)
        alone = tuple(np.array([row]) for row in range(ROWS))
        together = np.arange(ROWS)
        return cls(2.0 * uniform[:, :columns] - 1.0, target, (*alone, together, together[::-1].copy()))

    def check(self, found: Sequence[NDArray[np.float64]], clip_norm: float, trainer: str) -> None:
        """Every chunk gave each record the same gradient. LocalRefusal `trainer_mixes_rows`."""
        alone = np.concatenate(found[:ROWS])
        for chunk, gradients in zip(self.chunks[ROWS:], found[ROWS:], strict=True):
            for one, other in zip(alone[chunk], gradients, strict=True):
                if np.isfinite(one).all() != np.isfinite(other).all() or _differ(one, other, ABSOLUTE * clip_norm):
                    raise _mixed(trainer)


def _differ(one: NDArray[np.float64], other: NDArray[np.float64], least: float) -> bool:
    """By more than rounding does. Two that are not finite, or whose square is none, do not: both count as 0."""
    with np.errstate(over="ignore", invalid="ignore"):
        return float(np.linalg.norm(one - other)) > RELATIVE * float(np.linalg.norm(one)) + least


def _mixed(trainer: str) -> LocalRefusal:
    return LocalRefusal(
        "trainer_mixes_rows",
        f"the trainer {trainer} gives a record another gradient when other records stand beside it",
        not_done="no update was made: the bound on one record, and with it epsilon, would not hold",
        next_step="leave out what joins rows (batch normalisation, losses over pairs, state between calls); for dropout"
        " and other draws, make them depend on the record alone",
    )
