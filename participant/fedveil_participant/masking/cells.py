"""A column as codes into its distinct values: what every step works on, so that work is done once per distinct value.

Promise: equal cells have equal codes whatever the kind of file they come from: a cell is a text without surrounding
blanks in Unicode normal form C; numbers, dates and truth values of typed columns are the texts that docs/data.md names;
a null, a blank, `?` and NA are missing (code -1) and stay so through every step.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from fedveil_common.errors import ConfigError
from fedveil_common.plan.problems import printable
from fedveil_common.plan.section import MISSING_MARKS
from numpy.typing import NDArray

from fedveil_participant.data.columns import normal
from fedveil_participant.data.parquet_reader import Stop, is_readable, plain_cells

Codes = NDArray[np.int32]

MAX_CELL = 131_072
"""Longest text of a cell, in bytes."""

_AT_ONCE = 1 << 20
"""Rows turned into texts at once: an Arrow array of texts holds 2 GiB at most."""


@dataclass(frozen=True, slots=True, eq=False)
class Cells:
    """`codes`: int32, one per row, -1 = missing. `values`: an Arrow array of distinct texts without nulls."""

    codes: Codes
    values: pa.Array

    @property
    def rows(self) -> int:
        """How many there are."""
        return len(self.codes)

    @property
    def missing(self) -> int:
        """How many cells are missing."""
        return int(np.count_nonzero(self.codes < 0))

    def texts(self) -> list[str]:
        """The distinct values."""
        found: list[str] = self.values.to_pylist()
        return found

    def counts(self) -> NDArray[np.int64]:
        """How many rows have each value."""
        return np.bincount(self.codes[self.codes >= 0], minlength=len(self.values))

    def rows_of(self, values: NDArray[np.bool_]) -> int:
        """How many rows have a value that is marked in `values` (one mark per distinct value)."""
        return int(self.counts()[values].sum())

    def mapped(self, texts: Sequence[str | None] | pa.Array) -> "Cells":
        """Each distinct value replaced by the text at its place; None: missing from now on."""
        given = texts if isinstance(texts, pa.Array) else pa.array(texts, pa.string())
        encoded = given.dictionary_encode()
        places = np.append(encoded.indices.fill_null(-1).to_numpy(zero_copy_only=False), -1).astype(np.int32)
        return Cells(places[self.codes], encoded.dictionary)

    def where(self, kept: NDArray[np.bool_]) -> "Cells":
        """The rows that are marked in `kept`, and the values that they have."""
        if kept.all():
            return self
        codes = self.codes[kept]
        used = np.bincount(codes[codes >= 0], minlength=len(self.values)) > 0
        places = np.append(np.cumsum(used) - 1, -1).astype(np.int32)
        return Cells(places[codes], self.values.filter(pa.array(used)))

    def strings(self) -> pa.ChunkedArray:
        """One text per row, null where missing."""
        chunks = [
            self.values.take(_indices(self.codes[start : start + _AT_ONCE])) for start in range(0, self.rows, _AT_ONCE)
        ]
        return pa.chunked_array(chunks, pa.string())

    def numbers(self) -> pa.ChunkedArray:
        """One double per row, null where missing; every value is a decimal number."""
        numbers = pa.array([float(text) for text in self.texts()], pa.float64())
        return pa.chunked_array([numbers.take(_indices(self.codes))], pa.float64())


def _indices(codes: Codes) -> pa.Array:
    return pa.array(codes, mask=codes < 0)


def encode(column: pa.ChunkedArray, name: str) -> Cells:
    """The cells of a column of texts or of numbers, truth values, dates or times.

    ConfigError `column_unreadable` for another type, a text that is too long or no UTF-8.
    """
    if not is_readable(column.type):
        raise _unreadable(name, "it is nested, binary or of a type that has no meaning as a number, text, date or time")
    if len(column) >= 2**31:
        raise _unreadable(name, "it has more rows than can be masked at once")
    kind = column.type
    if pa.types.is_large_string(kind):
        column = pa.chunked_array([chunk.cast(pa.string()) for chunk in column.chunks], pa.string())
    whole = column.combine_chunks()
    if isinstance(whole, pa.ChunkedArray):  # an empty column stays chunked
        whole = pa.concat_arrays(whole.chunks) if whole.num_chunks else pa.array([], whole.type)
    if not pa.types.is_dictionary(kind):
        whole = pc.dictionary_encode(whole)
    codes = whole.indices.cast(pa.int64()).fill_null(-1).to_numpy(zero_copy_only=False).astype(np.int32)
    distinct = whole.dictionary
    if pa.types.is_large_string(distinct.type):
        distinct = distinct.cast(pa.string())
    try:
        texts = plain_cells(distinct, MAX_CELL)
    except OverflowError:
        raise _unreadable(name, f"a text of more than {MAX_CELL} bytes") from None
    except (UnicodeDecodeError, pa.ArrowException, ValueError, TypeError, Stop):
        raise _unreadable(name, "a value that is no text") from None
    cleaned = [None if (text := normal(raw)) in MISSING_MARKS else text for raw in texts]
    return Cells(codes, distinct).mapped(cleaned)


def _unreadable(name: str, why: str) -> ConfigError:
    return ConfigError(
        "column_unreadable",
        f"column {printable(name)} cannot be masked: {why}",
        not_done="nothing of this table was masked",
        next_step="drop the column from the source, or write it as text, numbers, dates or times",
    )
