"""What can be wrong with a table, as values: every problem with its line and column, never with the value found."""

from dataclasses import dataclass

from fedveil_common.errors import ConfigError
from fedveil_common.plan.problems import printable

MAX_PROBLEMS = 100
"""How many problems are listed; the rest is counted."""


@dataclass(frozen=True, slots=True, order=True)
class DataProblem:
    """One problem: `line` counts from 1 (where the record begins), `column` may be empty, `code` is stable.

    `file`: the file of the table. In a Parquet file `group` is the row group (from 0) and `line` the row of the file,
    0 where no row is to blame; elsewhere `group` is -1.
    """

    line: int
    column: str
    code: str
    text: str
    file: str
    group: int = -1

    @property
    def place(self) -> str:
        """Where it is, for people."""
        if self.group < 0:
            return f"{self.file}:{self.line}"
        return f"{self.file}: row group {self.group}" + (f", row {self.line}" if self.line else "")


class DataError(ConfigError):
    """`bad_data`: the table cannot be read under this plan. `total` counts problems, `problems` has the first ones."""

    def __init__(self, filename: str, problems: tuple[DataProblem, ...], total: int) -> None:
        self.filename = filename
        self.problems = problems
        self.total = total
        lines = [f"{p.place}: {printable(p.column) + ': ' if p.column else ''}{p.text}" for p in problems]
        if total > len(problems):
            lines.append(f"and {total - len(problems)} more")
        listing = "\n".join(lines)
        super().__init__(
            "bad_data",
            f"{total} problem{'' if total == 1 else 's'} in the data\n{listing}\n",
            not_done="no row of this table was used",
            next_step="correct the lines named above, or ask for a plan with a rule for missing or outlying values",
        )


class Problems:
    """Collects problems: all are counted, the first MAX_PROBLEMS are kept. `file`: which file is being read."""

    def __init__(self, filename: str) -> None:
        self._filename = filename
        self.file = filename
        self._kept: list[DataProblem] = []
        self.total = 0

    @property
    def kept(self) -> tuple[DataProblem, ...]:
        """The first problems."""
        return tuple(self._kept)

    def add(self, line: int, column: str, code: str, text: str, group: int = -1) -> None:
        """Records one problem."""
        self.total += 1
        if len(self._kept) < MAX_PROBLEMS:
            self._kept.append(DataProblem(line, column, code, text, self.file, group))

    def stop_if_any(self) -> None:
        """Raises DataError if a problem was recorded."""
        if self.total:
            raise DataError(self._filename, tuple(self._kept), self.total)
