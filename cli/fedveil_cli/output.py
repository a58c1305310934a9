"""What a command prints: results on stdout, everything else on stderr, and nothing that a terminal would obey.

Promise: with `--json` stdout holds exactly one line, a JSON object, and only if the command succeeded. Text that comes
from outside (names in a plan, reasons of a peer, file names) is printed without markup, and its control and format
characters are escaped: it can neither hide, nor move, nor colour what a person decides upon.
"""

import contextlib
import errno
import json
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TextIO

from fedveil_common.errors import FedveilError, StorageError

UNBOUNDED = 100_000
"""Columns of a stdout that is no terminal: nothing is folded there."""

GAP, RULE = "   ", "\u2500"
"""Between two columns of a table, and under their names."""


def safe_text(text: str) -> str:
    """`text` on one line, every character that is not printable (control, format, separators) as its escape."""
    return "".join(character if character.isprintable() else ascii(character)[1:-1] for character in text)


@dataclass(frozen=True, slots=True)
class TextTable:
    """Rows of cells under `columns`, for people; cells need not be safe."""

    columns: Sequence[str]
    rows: Sequence[Sequence[str]]


@dataclass(frozen=True, slots=True)
class Output:
    """How one command talks. The streams are looked up at each call."""

    as_json: bool

    def result(self, value: Mapping[str, object], text: Sequence[str | TextTable]) -> None:
        """The command's result on stdout: `value` under --json, else `text`, line by line. NaN is a ValueError.

        StorageError `disk_full` or `output_lost` if stdout takes it not: what the command did before is done.
        """
        line = json.dumps(dict(value), allow_nan=False) if self.as_json else ""
        with _onto_stdout() as stream:
            if self.as_json:
                print(line, file=stream)
            for part in () if self.as_json else text:
                if isinstance(part, TextTable):
                    _print_table(part, stream)
                else:
                    print(safe_text(part), file=stream)

    def report(self, value: Mapping[str, object]) -> None:
        """A flat result: under --json as it is, else a line for each entry."""
        self.result(dict(value), [f"{name.replace('_', ' ')}: {entry}" for name, entry in value.items()])

    def note(self, text: str) -> None:
        """One line about what goes on, on stderr."""
        _print_aside(f"fedveil: {safe_text(text)}")

    def warn(self, text: str) -> None:
        """One line that a person should not miss, on stderr."""
        self.note(f"warning: {text}")

    def error(self, error: FedveilError) -> None:
        """What went wrong, on stderr: for people, or under --json as {"error": {code, what, not_done, next}}."""
        print_error(error.code, error.what, error.not_done, error.next_step, as_json=self.as_json)


def print_error(code: str, what: str, not_done: str, next_step: str, *, as_json: bool) -> None:
    """The parts of an error on stderr. Further lines of `what` (the problems of a plan or table) follow indented."""
    if as_json:
        value = {"error": {"code": code, "what": what, "not_done": not_done, "next": next_step}}
        _print_aside(json.dumps(value))
        return
    first, *rest = what.rstrip("\n").split("\n")
    if rest:
        lines = [f"fedveil: error: [{code}] {safe_text(first)}", *(f"  {safe_text(line)}" for line in rest)]
        lines.append(f"fedveil: error: {safe_text(not_done)}")
    else:
        lines = [f"fedveil: error: [{code}] {safe_text(first)}; {safe_text(not_done)}"]
    if next_step:
        lines.append(f"fedveil: hint: {safe_text(next_step)}")
    _print_aside("\n".join(lines))


@contextlib.contextmanager
def _onto_stdout() -> Iterator[TextIO]:
    """stdout, flushed at the end; its failures as StorageError."""
    stream = sys.stdout
    if stream is None:  # closed by whoever started this process
        raise output_lost(OSError(errno.EBADF, os.strerror(errno.EBADF)))
    try:
        yield stream
        stream.flush()
    except OSError as error:
        _drop_output(stream)
        raise output_lost(error) from None


def output_lost(error: OSError) -> StorageError:
    """`disk_full` or `output_lost`: stdout did not take the result of something that was done."""
    kept = "what was done is kept; only the output is missing"
    if error.errno in {errno.ENOSPC, errno.EDQUOT}:
        return StorageError(
            "disk_full",
            "no space is left for the output",
            not_done=kept,
            next_step="free some space; look at the state before you give the command again",
        )
    reason = error.strerror or type(error).__name__
    return StorageError(
        "output_lost",
        f"stdout cannot be written: {reason}",
        not_done=kept,
        next_step="open stdout; look at the state before you give the command again",
    )


def _drop_output(stream: TextIO) -> None:
    """What is still buffered would fail again when the interpreter ends, and take the exit code with it."""
    with contextlib.suppress(OSError, ValueError):
        number, nowhere = stream.fileno(), os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, number)
        os.close(nowhere)


def _print_aside(text: str) -> None:
    """A line on stderr. One that cannot be written is lost: it changes no result."""
    if sys.stderr is not None:
        with contextlib.suppress(OSError, ValueError):
            print(text, file=sys.stderr, flush=True)


def _print_table(table: TextTable, stream: TextIO) -> None:
    """Cells are folded in a narrow terminal, never cut. Where nothing is folded and a character is a column, the table
    is made here: the same one, without loading what draws for terminals.
    """
    if not stream.isatty() and (lines := _unfolded(table, stream)):
        print(*lines, sep="\n", file=stream)
        return
    from rich.box import SIMPLE
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    width = None if stream.isatty() else UNBOUNDED
    console = Console(file=stream, markup=False, emoji=False, highlight=False, width=width, safe_box=True)
    grid = Table(box=SIMPLE, show_edge=False, pad_edge=False)
    for column in table.columns:
        grid.add_column(Text(safe_text(column)), overflow="fold")
    for row in table.rows:
        grid.add_row(*(Text(safe_text(cell)) for cell in row))
    console.print(grid)


def _unfolded(table: TextTable, stream: TextIO) -> list[str]:
    """The lines of a table of ASCII text; none if it has to be drawn."""
    rows = [[safe_text(cell) for cell in row] for row in (table.columns, *table.rows)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    total = sum(widths) + len(GAP) * (len(widths) - 1)
    ascii_alone = all(cell.isascii() for row in rows for cell in row)
    if not ascii_alone or not 0 < total <= UNBOUNDED or not (stream.encoding or "utf-8").lower().startswith("utf"):
        return []
    lines = [GAP.join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in rows]
    return [lines[0], RULE * total, *lines[1:]]
