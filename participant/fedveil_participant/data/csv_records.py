"""A CSV file as records of text: UTF-8 (a byte order mark is dropped), comma, double quotes, a header; one pass.

Promise: memory is bounded by the longest record (a line has fewer than MAX_RECORD characters, a cell at most what the
standard library's reader takes); blank lines are no records; a record's place is the line on which it begins.
"""

import csv
import io
import re
from collections.abc import Iterator
from typing import BinaryIO

from fedveil_participant.data.problems import Problems
from fedveil_participant.data.records import Place

MAX_RECORD = 4_194_304
"""Longest line, in characters."""

MAX_CELL = 131_072
"""Longest cell, in characters: `csv.field_size_limit()` as the standard library sets it."""

_OTHER_SEPARATORS = {";": "semicolons", "\t": "tabs", "|": "bars"}
_SURROGATE = re.compile("[\ud800-\udfff]")


class CsvRecords:
    """The records of one stream, which the caller opens and closes."""

    def __init__(self, stream: BinaryIO) -> None:
        self._text = io.TextIOWrapper(stream, encoding="utf-8-sig", errors="surrogateescape", newline="")
        self._found: Iterator[tuple[int, list[str]]] = iter(())
        self._columns = 0

    def detach(self) -> None:
        """Gives the stream back, open."""
        self._text.detach()

    def header(self, problems: Problems) -> list[str]:
        """See `Records.header`."""
        known = problems.total
        self._found = split(self._text, problems)
        _, names = next(self._found, (1, []))
        if not names and problems.total == known:
            problems.add(1, "", "empty_file", "the file is empty; its first line names the columns")
        other = next((said for mark, said in _OTHER_SEPARATORS.items() if len(names) == 1 and mark in names[0]), None)
        if other is not None:
            problems.add(
                1, "", "separator", f"the header is one column and holds {other}: columns are separated by commas"
            )
            return []
        self._columns = len(names)
        return names

    def records(self, problems: Problems) -> Iterator[tuple[Place, list[str]]]:
        """See `Records.records`."""
        for line, record in self._found:
            if len(record) != self._columns:
                problems.add(line, "", "field_count", f"{len(record)} fields, the header has {self._columns}")
                continue
            yield Place(line), record


def split(text: io.TextIOWrapper, problems: Problems) -> Iterator[tuple[int, list[str]]]:
    """(line on which it begins, fields) for each record that is not blank; stops at the first that cannot be split."""
    reader = csv.reader(_lines(text, problems), strict=True)
    line = 1
    while True:
        try:
            record = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            problems.add(line, "", "csv_syntax", f"not CSV from here on: {error}")
            return
        if record:
            yield line, record
        line = reader.line_num + 1


def _lines(text: io.TextIOWrapper, problems: Problems) -> Iterator[str]:
    """Physical lines without bytes that are not UTF-8."""
    number = 0
    while line := text.readline(MAX_RECORD):
        number += 1
        if len(line) == MAX_RECORD:
            problems.add(number, "", "line_too_long", f"a line of {MAX_RECORD} characters or more")
            return
        if not line.isascii() and _SURROGATE.search(line):
            problems.add(number, "", "not_utf8", "bytes that are not UTF-8 text")
            line = _SURROGATE.sub("?", line)
        yield line
