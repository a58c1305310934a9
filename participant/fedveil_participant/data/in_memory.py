"""A table as the bytes of its file: where a simulation or a comparison holds it anyway.

Promise: the same reading as from disk; bytes that begin as Parquet does are Parquet, all others CSV.
"""

import io
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager

from fedveil_participant.data.csv_source import csv_file
from fedveil_participant.data.parquet_records import parquet_records
from fedveil_participant.data.records import Records, TableFile

PARQUET_START = b"PAR1"


def in_memory(name: str, data: bytes) -> TableFile:
    """The one file of a table. `name` is for messages."""
    if not data.startswith(PARQUET_START):
        return csv_file(name, io.BytesIO(data))

    @contextmanager
    def opened(names: tuple[str, ...]) -> Iterator[Records]:
        with tempfile.TemporaryFile() as stream:  # the reader needs a descriptor
            stream.write(data)
            stream.flush()
            with parquet_records(stream, names) as records:
                yield records

    return TableFile(name, opened)
