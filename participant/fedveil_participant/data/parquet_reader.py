"""Reads a Parquet file in a process of its own and writes it as tagged CSV; the program run by `parquet_records`.

Promise: whatever the file, this process stays within the memory it was given, and only its stdout carries rows. It is
run as `python -I FILE MEMORY ROWS COLUMNS CELL TEXT [NAME ...]` with the file as stdin and an environment that
says nothing; it imports pyarrow and nothing of Fedveil, so that a defect of the decoder meets no key and no journal.

Records on stdout, UTF-8: `#,NAME...` once (all columns, or those of the NAMEs that are there), `ROW_GROUP,CELL...` per
row, then one of `=,ROWS` (the end) or `!,CODE,ROW_GROUP,COLUMN` (why it stopped; row group -1 and no column where none
is to blame). A missing value is an empty cell. A number is the shortest decimal that is the same double, a boolean 1
or 0, a date or time ISO 8601 without zeros at the end of a fraction (an instant in UTC ends in Z). Row groups count
from 0.
"""

import csv
import io
import os
import resource
import sys
import unicodedata
from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    import pyarrow as pa
    from pyarrow import parquet

BATCH_ROWS = 4096
BATCH_CELLS = 262_144
"""At most so many rows and cells are decoded at a time."""

BUFFER_BYTES = 65_536
METADATA_STRING, METADATA_ITEMS = 16 * 1024 * 1024, 1_000_000
"""Bounds of the footer: bytes of one text, items of one list."""

CPU_S = 4 * 3600
MAGIC = b"PAR1"


class Limits(NamedTuple):
    """Of a file: rows, columns, bytes of one text, characters in all (a small file can hold a long text often)."""

    rows: int
    columns: int
    cell: int
    text: int


class Stop(Exception):
    """Why nothing more is read: a code, and the row group and column if one is to blame."""

    def __init__(self, code: str, group: int = -1, column: str = "") -> None:
        super().__init__(code)
        self.code, self.group, self.column = code, group, column


def main(arguments: list[str]) -> None:
    """The whole program."""
    memory, *limits = (int(text) for text in arguments[:5])
    resource.setrlimit(resource.RLIMIT_AS, (memory, memory))  # before the decoder is loaded
    resource.setrlimit(resource.RLIMIT_CPU, (CPU_S, CPU_S))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    text = io.TextIOWrapper(sys.stdout.buffer, encoding="utf-8", newline="")
    out = csv.writer(text)
    try:
        total = 0
        for record in records(Limits(*limits), arguments[5:]):
            total += record[0] != "#"
            out.writerow(record)
        out.writerow(["=", total])
    except Stop as stop:
        out.writerow(["!", stop.code, stop.group, stop.column])
    except MemoryError:
        out.writerow(["!", "too_much_memory", -1, ""])
    text.flush()
    os._exit(0)  # what the decoder would still tidy up does not matter


def records(most: Limits, wanted: list[str]) -> Iterator[list[object]]:
    """The header and each row, tagged. Raises Stop, MemoryError."""
    stream = open(0, "rb", buffering=0, closefd=False)  # noqa: SIM115 - it ends with the process
    check_magic(stream)
    file = open_file(stream)
    if len(file.schema_arrow) > most.columns:
        raise Stop("too_many_columns")
    if not 0 <= file.metadata.num_rows <= most.rows:
        raise Stop("too_many_rows")
    names = [field.name for field in file.schema_arrow]
    if wanted:
        names = [name for name in names if unicodedata.normalize("NFC", name.strip()) in set(wanted)]
    yield ["#", *names]
    for field in file.schema_arrow:
        if field.name in names and not is_readable(field.type):
            raise Stop("column_type", -1, field.name)
    characters = 0
    for group in range(file.num_row_groups):
        for batch in batches(file, group, names if wanted else None):
            cells = [column_cells(batch.column(i), most.cell, group, name) for i, name in enumerate(names)]
            characters += sum(sum(map(len, column)) for column in cells)
            if characters > most.text:
                raise Stop("too_much_text", group)
            for row in zip(*cells, strict=True):
                yield [group, *row]


def check_magic(stream: io.RawIOBase) -> None:
    """Raises Stop `not_parquet` unless the file begins and ends as Parquet does."""
    size = stream.seek(0, os.SEEK_END)
    for start in (0, size - len(MAGIC)):
        if size < 3 * len(MAGIC) or stream.seek(start) != start or stream.read(len(MAGIC)) != MAGIC:
            raise Stop("not_parquet")


def open_file(stream: io.RawIOBase) -> "parquet.ParquetFile":
    """The file with its texts left as dictionaries: a value repeated a million times is held once."""
    import pyarrow as pa
    from pyarrow import parquet

    pa.set_cpu_count(1)
    pa.set_io_thread_count(1)

    def opened(dictionaries: list[str]) -> "parquet.ParquetFile":
        return parquet.ParquetFile(
            pa.PythonFile(stream, mode="r"),
            read_dictionary=dictionaries,
            buffer_size=BUFFER_BYTES,
            pre_buffer=False,
            thrift_string_size_limit=METADATA_STRING,
            thrift_container_size_limit=METADATA_ITEMS,
        )

    try:
        return opened([field.name for field in opened([]).schema_arrow if is_text(field.type)])
    except MemoryError:
        raise
    except (pa.ArrowException, OSError, ValueError, TypeError):
        raise Stop("parquet_damaged") from None


def batches(file: "parquet.ParquetFile", group: int, names: list[str] | None) -> "Iterator[pa.RecordBatch]":
    """The rows of one row group, a bounded number at a time. Raises Stop `parquet_damaged`."""
    import pyarrow as pa

    columns = len(file.schema_arrow) if names is None else len(names)
    rows = max(1, min(BATCH_ROWS, BATCH_CELLS // max(1, columns)))
    seen = 0
    try:
        for batch in file.iter_batches(rows, [group], names, use_threads=False):
            seen += batch.num_rows
            yield batch
    except MemoryError:
        raise
    except (pa.ArrowException, OSError, ValueError, TypeError):
        raise Stop("parquet_damaged", group) from None
    if seen != file.metadata.row_group(group).num_rows:
        raise Stop("parquet_damaged", group)


def is_text(kind: "pa.DataType") -> bool:
    """Whether a column of this type holds texts."""
    from pyarrow import types

    return bool(types.is_string(kind) or types.is_large_string(kind))


def is_readable(kind: "pa.DataType") -> bool:
    """Whether a cell of this type has a meaning as text: nothing nested, no raw bytes, no duration."""
    from pyarrow import types

    if types.is_dictionary(kind):
        return is_readable(kind.value_type) and not types.is_dictionary(kind.value_type)
    plain = (types.is_null, types.is_boolean, types.is_integer, types.is_floating, types.is_decimal)
    moments = (types.is_date, types.is_time, types.is_timestamp)
    return is_text(kind) or any(test(kind) for test in (*plain, *moments))


def column_cells(column: "pa.Array", most: int, group: int, name: str) -> list[str]:
    """The cells of one column as text, each at most `most` characters. Raises Stop naming the column."""
    import pyarrow as pa
    from pyarrow import compute, types

    try:
        if not types.is_dictionary(column.type):
            return plain_cells(column, most)
        used = compute.unique(column.indices.drop_null())
        texts = plain_cells(column.dictionary.take(used), most)
        named = dict(zip(used.to_pylist(), texts, strict=True))
        return ["" if index is None else named[index] for index in column.indices.to_pylist()]
    except UnicodeDecodeError:
        raise Stop("not_utf8", group, name) from None
    except OverflowError:
        raise Stop("cell_too_long", group, name) from None
    except MemoryError:
        raise
    except (pa.ArrowException, ValueError, TypeError):
        raise Stop("parquet_damaged", group, name) from None


def plain_cells(column: "pa.Array", most: int) -> list[str]:
    """The cells of a column that is no dictionary. OverflowError if a text is longer than `most` bytes."""
    import pyarrow as pa
    from pyarrow import compute, types

    kind = column.type
    if is_text(kind):
        longest = compute.max(compute.binary_length(column)).as_py()
        if longest is not None and longest > most:
            raise OverflowError
        return ["" if value is None else value for value in column.to_pylist()]
    if types.is_boolean(kind):
        return ["" if value is None else str(int(value)) for value in column.to_pylist()]
    if types.is_floating(kind):
        return ["" if value is None else number(float(value)) for value in column.to_pylist()]
    if types.is_decimal(kind):
        return ["" if value is None else format(value, "f") for value in column.to_pylist()]
    if types.is_date(kind) or types.is_time(kind):
        return ["" if value is None else whole(value) for value in column.cast(pa.string()).to_pylist()]
    if types.is_timestamp(kind):
        end = "Z" if kind.tz is not None else ""  # stored in UTC, whatever zone is named
        moments = column.cast(pa.timestamp(kind.unit)).cast(pa.string()).to_pylist()
        return ["" if value is None else whole(value.replace(" ", "T")) + end for value in moments]
    return ["" if value is None else str(value) for value in column.to_pylist()]  # whole numbers, or all missing


def whole(moment: str) -> str:
    """A time without zeros at the end of its fraction: in which unit a column is stored does not matter."""
    return moment.rstrip("0").removesuffix(".") if "." in moment else moment


def number(value: float) -> str:
    """The shortest decimal that is the same double, without a fraction of zero."""
    return repr(value).removesuffix(".0")


if __name__ == "__main__":
    main(sys.argv[1:])
