"""What can be wrong with masking rules, and with a cell that they are applied to, as typed errors.

Promise: every problem is named at once, with its line (of the rules) or its column and row (of the table), and never
with a value that was found in the table.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from fedveil_common.errors import ConfigError
from fedveil_common.plan.problems import PlanProblem, printable
from numpy.typing import NDArray

MAX_PROBLEMS = 100
"""How many bad cells are listed; the rest is counted."""

RulesProblem = PlanProblem
"""A problem of the rules file: line from 1, dotted path, stable code, words."""


class RulesError(ConfigError):
    """`bad_masking_rules`: the rules cannot be used; `problems` has everything found, in line order."""

    def __init__(self, filename: str, problems: Sequence[RulesProblem]) -> None:
        self.filename = filename
        self.problems = tuple(sorted(problems))
        listing = "\n".join(
            f"{filename}:{p.line}: {printable(p.path) + ': ' if p.path else ''}{p.text}" for p in self.problems
        )
        count = "1 problem" if len(problems) == 1 else f"{len(problems)} problems"
        super().__init__(
            "bad_masking_rules",
            f"{count} in the masking rules\n{listing}\n",
            not_done="nothing was masked",
            next_step="correct the lines named above; docs/masking.md has every field",
        )


@dataclass(frozen=True, slots=True, order=True)
class CellProblem:
    """One cell that a rule cannot be applied to: `row` counts from 1, `code` is stable."""

    row: int
    column: str
    code: str
    text: str


class BadCellsError(ConfigError):
    """`bad_cells`: some cells are not what their rules need. `total` counts them, `problems` has the first ones."""

    def __init__(self, problems: Sequence[CellProblem], total: int) -> None:
        self.problems = tuple(problems)
        self.total = total
        lines = [f"row {p.row}: {printable(p.column)}: {p.text}" for p in problems]
        if total > len(problems):
            lines.append(f"and {total - len(problems)} more")
        listing = "\n".join(lines)
        super().__init__(
            "bad_cells",
            f"{total} cell{'' if total == 1 else 's'} to which the masking rules cannot be applied\n{listing}\n",
            not_done="nothing of this table was masked or used",
            next_step="correct these cells, or put a `suppress` before the step that cannot take them",
        )


class BadCells:
    """Collects bad cells: all are counted, the first MAX_PROBLEMS of each column are kept."""

    def __init__(self) -> None:
        self._kept: list[CellProblem] = []
        self.total = 0

    def add(self, column: str, rows: NDArray[np.int64], code: str, text: str) -> None:
        """`rows`: the numbers of the rows, from 1, in order."""
        self.total += len(rows)
        self._kept.extend(CellProblem(row, column, code, text) for row in rows[:MAX_PROBLEMS].tolist())

    def stop_if_any(self) -> None:
        """Raises BadCellsError if a cell was recorded."""
        if self.total:
            raise BadCellsError(sorted(self._kept)[:MAX_PROBLEMS], self.total)
