"""`data mask|preview|check|unmask`: an organisation's table through its masking rules.

Promise: nothing leaves below the thresholds of the rules; an output is written whole or not at all, for its owner alone
(0600), and never over a file that is read; what is printed of a table is masked. `subject` is the one place that says
what SOURCE means.
"""

import functools
import hmac
import io
import json
import os
import pathlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import BinaryIO

import pyarrow as pa
from fedveil_common.durable import TemporaryFile
from fedveil_common.durable import write_file as write_durably
from fedveil_common.errors import ConfigError
from fedveil_common.plan.yaml_tree import MAX_BYTES
from fedveil_common.sealing import files as sealed_files
from fedveil_common.sealing import header, key_files, recipients
from fedveil_common.secret import Passphrase
from fedveil_participant.data.folder import PARQUET, Reveal, table_files, unreadable
from fedveil_participant.data.selection import PersonDigests, Selection
from fedveil_participant.masking import (
    Masked,
    ReleaseRefused,
    RiskReport,
    Rules,
    mask_table,
    parse_key_reference,
    parse_rules,
    unmask_table,
)
from fedveil_participant.masking.hierarchy import MAX_BYTES as MAX_HIERARCHY
from fedveil_participant.masking.registered import changed, check_key
from fedveil_participant.masking.rules import Lookup
from fedveil_participant.masking.source import read_texts, read_typed
from pyarrow import csv, parquet

from fedveil_cli import data_home
from fedveil_cli.data_sources import opening, places
from fedveil_cli.files import read_file
from fedveil_cli.masking_keys import find_key, missing
from fedveil_cli.output import Output, TextTable
from fedveil_cli.passphrases import given_passphrase
from fedveil_cli.sealing_commands import KIND, MAX_KEY
from fedveil_cli.world import real_world

PREVIEWED = 5
FORMATS = ("csv", "parquet")


@dataclass(frozen=True, slots=True)
class Subject:
    """What is masked, and by which rules. `inputs`: the files and the folder that are read, keys of sealed
    ones too. `digest`, `key_id`: the masking digest and the key that were registered, if any were. `read`: the whole
    table; raises DataError, OSError.
    """

    shown: str
    rules_file: pathlib.Path
    inputs: tuple[pathlib.Path, ...]
    read: Callable[[], pa.Table]
    digest: bytes | None = None
    key_id: str = ""


def subject(
    source: str,
    rules_file: pathlib.Path,
    data_key: pathlib.Path | None,
    passphrase_file: pathlib.Path | None,
    output: Output,
) -> Subject:
    """SOURCE is a path. `data_key` opens what is sealed."""
    path = pathlib.Path(source)
    files = table_files(path) if data_key is None else table_files(path, _reveal(data_key, passphrase_file, output))
    paths = tuple(pathlib.Path(file.name) for file in files)

    def read() -> pa.Table:
        """Parquet keeps its types; CSV, and whatever is sealed, comes as texts."""
        if all(path.suffix.lower() in PARQUET for path in paths):
            return read_typed(paths, source)
        return read_texts(files, source)

    return Subject(source, rules_file, (path, *paths, *([] if data_key is None else [data_key])), read)


def registered_subject(home: pathlib.Path, name: str, passphrase: Passphrase | None, output: Output) -> Subject:
    """A registered data set with its rules, filters and exclusions. ConfigError `unknown_dataset`, `rules_missing`."""
    world = real_world()
    with data_home.looking(home, passphrase, world) as books:
        registration = data_home.registered(books, name)
        excluded, key = books.excluded(name), books.data_version_key()
    if registration.rules is None:
        raise ConfigError(
            "rules_missing",
            f"the data set {name} is registered without masking rules",
            not_done="nothing was masked",
            next_step=f"--rules FILE with a path, or fedveil data add {name} --replace --source ... --rules FILE",
        )
    selection = Selection(registration.where, excluded, PersonDigests(key))
    files = opening(home, world.clock)(registration)
    shown = registration.source.shown
    inputs = (*places(registration.source), *(pathlib.Path(file.name) for file in files))
    found = registration.rules
    return Subject(shown, found.path, inputs, lambda: read_texts(files, shown, selection), found.digest, found.key_id)


def mask(
    what: Subject, out: pathlib.Path, format_: str | None, report_file: pathlib.Path | None, output: Output
) -> None:
    """`data mask`. Errors as `mask_table`, with the thresholds; ConfigError `output_refused`, `bad_format`."""
    write = _writer(out, format_)
    _check_out(what, out, *(() if report_file is None else (report_file,)))
    done = _masked(what, output, release=True, report_file=report_file)
    write(done.table)
    if report_file is not None:
        _write_report(report_file, done.report)
    output.result(
        {"out": str(out), "report": done.report.json()},
        [f"{out}: {done.table.num_rows} rows, {done.table.num_columns} columns", *done.report.lines()],
    )


def check(what: Subject, report_file: pathlib.Path | None, output: Output) -> None:
    """`data check`: everything that `data mask` does, but the output. Errors as `mask`."""
    if report_file is not None:
        _check_out(what, report_file)
    done = _masked(what, output, release=True, report_file=report_file)
    if report_file is not None:
        _write_report(report_file, done.report)
    output.result(done.report.json(), done.report.lines())


def preview(what: Subject, output: Output) -> None:
    """`data preview`: the first rows, masked as the whole table would be. Thresholds do not apply: nothing leaves."""
    done = _masked(what, output, release=False, report_file=None)
    rows = done.table.slice(0, PREVIEWED)
    texts = [[_shown(value) for value in column.to_pylist()] for column in rows.columns]
    dropped = [one.name for one in done.report.columns if one.dropped]
    output.result(
        {
            "columns": rows.column_names,
            "rows": [list(row) for row in zip(*texts, strict=True)],
            "dropped": dropped,
            "rows_masked": done.table.num_rows,
        },
        [
            TextTable(rows.column_names, [[cell or "" for cell in row] for row in zip(*texts, strict=True)]),
            f"{rows.num_rows} of {done.table.num_rows} rows; dropped: {', '.join(dropped) or 'nothing'}",
        ],
    )


def unmask(what: Subject, out: pathlib.Path, format_: str | None, output: Output) -> None:
    """`data unmask`. Errors as `unmask_table`; ConfigError `output_refused`, `bad_format`, `masking_key_missing`."""
    write = _writer(out, format_)
    _check_out(what, out)
    rules = read_rules(what.rules_file)
    key = find_key(rules.key_ref, what.rules_file, output)
    if key is None:
        raise missing("the rules name no key (`key_ref`)")
    table, columns = unmask_table(rules, key, _read(what))
    write(table)
    output.result(
        {"out": str(out), "columns": list(columns), "rows": table.num_rows},
        [f"{out}: {table.num_rows} rows; in clear again: {', '.join(columns)}"],
    )


def _shown(value: object) -> str | None:
    return None if value is None else str(value)


def _masked(
    what: Subject,
    output: Output,
    *,
    release: bool,
    report_file: pathlib.Path | None,
) -> Masked:
    rules = read_rules(what.rules_file)
    if what.digest is not None and not hmac.compare_digest(rules.digest, what.digest):
        raise changed(what.shown, rules.digest, what.digest)
    key = find_key(rules.key_ref, what.rules_file, output) if rules.needs_key else None
    check_key(what.shown, key, what.key_id)
    table = _read(what)
    try:
        return mask_table(rules, key, table, rules.dataset, entropy=real_world().entropy, release=release)
    except ReleaseRefused as refused:
        if report_file is not None:
            _write_report(report_file, refused.report)
        for line in refused.report.lines():
            output.note(line)
        raise


def _read(what: Subject) -> pa.Table:
    try:
        return what.read()
    except OSError as error:
        raise unreadable(pathlib.Path(what.shown), error) from None


def read_rules(path: pathlib.Path) -> Rules:
    """The rules in a file, with the hierarchies beside it. RulesError; ConfigError `file_unreadable`."""

    def beside(name: str) -> bytes:
        return read_file(path.parent / name, "the hierarchy", MAX_HIERARCHY)

    return parse_rules(read_file(path, "the masking rules", MAX_BYTES), str(path), beside)


def _reveal(data_key: pathlib.Path, passphrase_file: pathlib.Path | None, output: Output) -> Reveal:
    """Opens what was sealed for this key, whatever federation it belongs to."""
    passphrase = given_passphrase(passphrase_file, "passphrase", output)
    key = key_files.read_private(read_file(data_key, "the private key", MAX_KEY), str(data_key), passphrase)

    def reveal(stream: BinaryIO) -> BinaryIO:
        expected = sealed_files.expect(KIND, None, None)
        opened = sealed_files.Opened(stream, lambda found: recipients.unwrap(found, key), expected)
        return io.BufferedReader(sealed_files.Stream(opened), header.CHUNK)

    return reveal


def _check_out(what: Subject, *outs: pathlib.Path) -> None:
    """ConfigError `output_refused` for a place that must not be replaced, or that would be read as the table."""
    read = [*what.inputs, what.rules_file, *_beside(what.rules_file)]
    for out in outs:
        _check_place(out, [path for path in read if path.exists()])


def _beside(rules_file: pathlib.Path) -> list[pathlib.Path]:
    """The key and the hierarchies that the rules name."""
    rules = read_rules(rules_file)
    names = [step.file for one in rules.columns.values() for step in one.steps if isinstance(step, Lookup)]
    reference = None if rules.key_ref is None else parse_key_reference(rules.key_ref)
    if reference is not None and reference.kind == "file":
        names.append(reference.name)
    return [rules_file.parent / name for name in names]


def _check_place(out: pathlib.Path, read: list[pathlib.Path]) -> None:
    why, folder = "", out.resolve().parent
    if out.exists() and any(path.samefile(out) for path in read):
        why = "it is a file that is read"
    elif folder.is_dir() and any(path.is_dir() and path.samefile(folder) for path in read):
        why = "it lies in the folder that is read, and would be a part of the table"
    elif out.exists() and not out.is_file():
        why = "it is no regular file"
    elif not out.absolute().parent.is_dir():
        why = "its folder does not exist"
    if why:
        raise ConfigError(
            "output_refused",
            f"{out} cannot be written: {why}",
            not_done="nothing was masked",
            next_step="name another place",
        )


def _write_report(path: pathlib.Path, report: RiskReport) -> None:
    text = json.dumps(report.json(), indent=1, allow_nan=False) + "\n"
    write_durably(pathlib.Path(os.path.realpath(path)), text.encode())


def _writer(out: pathlib.Path, format_: str | None) -> Callable[[pa.Table], None]:
    """Writes a table to `out` as CSV or Parquet: by `format_`, else by the end of the name. ConfigError."""
    chosen = format_ or ("parquet" if out.suffix.lower() in PARQUET else "csv")
    if chosen not in FORMATS:
        raise ConfigError(
            "bad_format", f"--format {chosen!r} is not one of {', '.join(FORMATS)}", next_step="--format csv"
        )
    return functools.partial(_write, pathlib.Path(os.path.realpath(out)), chosen)


def _write(out: pathlib.Path, format_: str, table: pa.Table) -> None:
    file = TemporaryFile(out.parent, unnamed=True)
    try:
        with pa.PythonFile(_Sink(file), mode="w") as sink:
            if format_ == "csv":
                csv.write_csv(table, sink, csv.WriteOptions(quoting_style="needed"))
            else:
                parquet.write_table(table, sink)
        file.commit(out.name)
    finally:
        file.discard()


class _Sink:
    """A temporary file as what Arrow writes to, from its beginning to its end. Its owner commits or discards it."""

    closed = False

    def __init__(self, file: TemporaryFile) -> None:
        self._file, self._size = file, 0

    def write(self, data: bytes | bytearray | memoryview) -> int:
        """All of it."""
        view = memoryview(data).cast("B")
        self._file.write(view, self._size)
        self._size += len(view)
        return len(view)

    def tell(self) -> int:
        """How much was written."""
        return self._size

    def flush(self) -> None:
        """Nothing is held back here."""

    def close(self) -> None:
        """Nothing to do: see the class."""
        self.closed = True
