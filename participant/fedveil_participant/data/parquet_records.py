"""A Parquet file as records of text, decoded by a process of its own (`parquet_reader`).

Promise: whatever stands in the file, this process holds one record at a time and starts none that outlives the reading;
the decoder has MEMORY_BYTES of address space, no environment, no descriptor but the file and its output, and what it
says is parsed as CSV under the limits of `csv_records`. What is wrong is named by row group, row and column, never by a
value. Row groups count from 0, rows of the file from 1.
"""

import io
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, BinaryIO

from fedveil_participant.data.csv_records import MAX_CELL, split
from fedveil_participant.data.problems import Problems
from fedveil_participant.data.records import Place, Records

MEMORY_BYTES = 2 * 1024 * 1024 * 1024
MAX_ROWS = 268_435_456
MAX_COLUMNS = 16_384
MAX_TEXT = 64 * 1024 * 1024 * 1024

READER = Path(__file__).with_name("parquet_reader.py")

_ENVIRONMENT = {
    "ARROW_DEFAULT_MEMORY_POOL": "system",  # the others reserve address space that they do not use
    "MALLOC_ARENA_MAX": "1",
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "LC_ALL": "C.UTF-8",
}

_SAID = {
    "not_parquet": "not a Parquet file, or not all of one: its first and last four bytes are not PAR1",
    "parquet_damaged": "damaged: it cannot be decoded from here on",
    "column_type": "nested, binary or of a type that has no meaning as a number, text, date or time",
    "cell_too_long": f"a text of more than {MAX_CELL} bytes",
    "not_utf8": "bytes that are not UTF-8 text",
    "too_many_rows": f"more than {MAX_ROWS} rows",
    "too_many_columns": f"more than {MAX_COLUMNS} columns",
    "too_much_text": f"more than {MAX_TEXT} characters in all",
    "too_much_memory": f"decoding it takes more than {MEMORY_BYTES >> 20} MiB of memory; write smaller pages",
}


@contextmanager
def parquet_records(stream: BinaryIO, names: tuple[str, ...]) -> Iterator[Records]:
    """The records of a Parquet file; of the columns `names` only, if there are any. The stream has a descriptor."""
    os.lseek(stream.fileno(), 0, os.SEEK_SET)
    limits = [str(one) for one in (MEMORY_BYTES, MAX_ROWS, MAX_COLUMNS, MAX_CELL, MAX_TEXT)]
    reader = subprocess.Popen(
        [sys.executable, "-I", str(READER), *limits, *names],
        stdin=stream,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,  # a library's error may quote what stood in the file
        env=_ENVIRONMENT,
        close_fds=True,
        start_new_session=True,
    )
    assert reader.stdout is not None
    try:
        with reader.stdout as output:
            yield _ParquetRecords(output)
    finally:
        if reader.poll() is None:
            os.killpg(reader.pid, signal.SIGKILL)  # not yet waited for, so the id is still its own
        reader.wait()


class _ParquetRecords:
    """What the reader says, understood."""

    def __init__(self, output: IO[bytes]) -> None:
        text = io.TextIOWrapper(output, encoding="utf-8", errors="surrogateescape", newline="")
        self._text = text
        self._broken = Problems("")
        self._said = split(text, self._broken)
        self._columns = 0

    def header(self, problems: Problems) -> list[str]:
        """See `Records.header`."""
        names = self._next()
        if names[0] != "#":
            _blame(names, problems)
            return []
        if len(names) == 1:
            problems.add(0, "", "no_columns", "it has none of the columns that are read", 0)
        self._columns = len(names) - 1
        return names[1:]

    def records(self, problems: Problems) -> Iterator[tuple[Place, list[str]]]:
        """See `Records.records`."""
        row = 0
        while (record := self._next())[0].isdigit() and len(record) == 1 + self._columns:
            row += 1
            yield Place(row, int(record[0])), record[1:]
        if record != ["=", str(row)]:
            _blame(record, problems)

    def _next(self) -> list[str]:
        """What the reader says next; that it died, if it says nothing more or nothing that can be understood."""
        _, record = next(self._said, (0, []))
        return record if record and not self._broken.total else ["!", "too_much_memory", "-1", ""]


def _blame(record: list[str], problems: Problems) -> None:
    """The reader's reason for stopping, as a problem."""
    code, group, column = record[1:] if record[0] == "!" and len(record) == 4 else ("parquet_damaged", "-1", "")
    problems.add(0, column, code if code in _SAID else "parquet_damaged", _SAID.get(code, ""), max(0, int(group)))
