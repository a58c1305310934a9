"""What can be wrong with a table, as values: every problem with its line and column, never with the value found."""

from dataclasses import dataclass

from fedveil_common.errors import ConfigError
from fedveil_common.plan.problems import printable

MAX_PROBLEMS = 100
"""How many problems are listed; the rest is counted."""


@dataclass(frozen=True, slots=True, order=True)
class DataProblem:
    """One problem: `line` counts from 1 (where the record begins), `column` may be empty, `code` is stable."""

    line: int
    column: str
    code: str
    text: str


class DataError(ConfigError):
    """`bad_data`: the table cannot be read under this plan. `total` counts problems, `problems` has the first ones."""

    def __init__(self, filename: str, problems: tuple[DataProblem, ...], total: int) -> None:
        self.filename = filename
        self.problems = problems
        self.total = total
        lines = [f"{filename}:{p.line}: {printable(p.column) + ': ' if p.column else ''}{p.text}" for p in problems]
        if total > len(problems):
            lines.append(f"and {total - len(problems)} more")
        listing = "\n".join(lines)
        super().__init__(
            "bad_data",
            f"{total} problem{'' if total == 1 else 's'} in the data\n{listing}\n",
            not_done="no row of this file was used",
            next_step="correct the lines named above, or ask for a plan with a rule for missing or outlying values",
        )


class Problems:
    """Collects problems: all are counted, the first MAX_PROBLEMS are kept."""

    def __init__(self, filename: str) -> None:
        self._filename = filename
        self._kept: list[DataProblem] = []
        self.total = 0

    def add(self, line: int, column: str, code: str, text: str) -> None:
        """Records one problem."""
        self.total += 1
        if len(self._kept) < MAX_PROBLEMS:
            self._kept.append(DataProblem(line, column, code, text))

    def stop_if_any(self) -> None:
        """Raises DataError if a problem was recorded."""
        if self.total:
            raise DataError(self._filename, tuple(self._kept), self.total)
