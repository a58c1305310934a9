"""A table in memory, whole, for masking: texts from any kind of file, or the typed columns of a Parquet file.

Promise: a problem is named by file, line and column, never by value; a file that cannot be read whole gives nothing.
`read_texts` decodes Parquet in a process of its own; `read_typed` in this one, for a command that does nothing else.
"""

import os
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
from fedveil_common.named_file import descriptor
from pyarrow import parquet

from fedveil_participant.data.csv_source import EVERY_ROW, MAX_VALUES, read_records
from fedveil_participant.data.masked_records import collected
from fedveil_participant.data.parquet_reader import Stop, check_magic
from fedveil_participant.data.problems import Problems
from fedveil_participant.data.records import TableFile
from fedveil_participant.data.selection import Selection


def read_texts(files: Sequence[TableFile], name: str, selection: Selection = EVERY_ROW) -> pa.Table:
    """The files as one table of texts, columns in the order of the first file; `selection`: which rows.

    Raises DataError (`bad_data`) with all problems; OSError if a file cannot be opened.
    """
    problems = Problems(name)
    table = collected(record for _, record in read_records(files, [], (), selection, problems, MAX_VALUES))
    if not table.num_rows and not problems.total:
        problems.add(1, "", "no_rows", "no row is left by the filters and exclusions")
    problems.stop_if_any()
    if table.num_rows * table.num_columns > MAX_VALUES:
        problems.add(0, "", "too_many_rows", f"more than {MAX_VALUES} cells")
        problems.stop_if_any()
    return table


def read_typed(paths: Sequence[Path], name: str) -> pa.Table:
    """Parquet files with the same columns, in any order, as one table with their types.

    Raises DataError (`bad_data`); OSError if a file cannot be opened.
    """
    problems, tables = Problems(name), list[pa.Table]()
    for path in paths:
        problems.file = str(path)
        with os.fdopen(descriptor(path), "rb", buffering=0) as stream:
            try:
                check_magic(stream)
                tables.append(parquet.read_table(pa.PythonFile(stream, mode="r")))
            except Stop:
                problems.add(0, "", "not_parquet", "not a Parquet file, or not all of one", 0)
            except (pa.ArrowException, OSError, ValueError, TypeError):
                problems.add(0, "", "parquet_damaged", "damaged: it cannot be decoded", 0)
            else:
                if tables[-1].num_rows * max(1, tables[-1].num_columns) > MAX_VALUES:
                    problems.add(0, "", "too_many_rows", f"more than {MAX_VALUES} cells", 0)
                if sorted(tables[-1].column_names) != sorted(tables[0].column_names):
                    problems.add(0, "", "columns_differ", f"not the columns of {paths[0]}", 0)
    problems.stop_if_any()
    names = tables[0].column_names
    try:
        return pa.concat_tables([one.select(names) for one in tables], promote_options="none")
    except (pa.ArrowException, KeyError):
        problems.add(0, "", "columns_differ", "the files have columns of different types, or one name twice", 0)
        problems.stop_if_any()
        raise
