"""`data add` and `data list`: the registry of an organisation's data sets.

Promise: what is registered was read once, from its first row to its last. A registration holds paths and digests; a
password in a URL is refused before it is looked at.
"""

import pathlib
from collections.abc import Sequence
from dataclasses import dataclass

from fedveil_common.errors import ConfigError
from fedveil_common.secret import Passphrase
from fedveil_participant.data.folder import unreadable
from fedveil_participant.data.registration import FileSource, Origin, Registration, Rules, SqlSource
from fedveil_participant.data.selection import PersonDigests, Selection
from fedveil_participant.data.sql_address import is_address, read_address
from fedveil_participant.data.sql_records import Selected
from fedveil_participant.data.survey import Survey, survey

from fedveil_cli import data_home
from fedveil_cli.data_sources import opening
from fedveil_cli.files import read_file
from fedveil_cli.output import Output, TextTable
from fedveil_cli.world import real_world

MAX_QUERY = 1024 * 1024
VERSION_DIGITS = 12
"""How much of a version label is shown: enough to tell versions apart; all of it means nothing elsewhere."""


@dataclass(frozen=True, slots=True)
class Given:
    """What a person said about a source, as it stands on the command line."""

    source: str
    table: str | None = None
    query: str | None = None
    query_file: pathlib.Path | None = None
    password_file: pathlib.Path | None = None
    key: pathlib.Path | None = None
    key_passphrase_file: pathlib.Path | None = None
    rules: pathlib.Path | None = None
    where: Sequence[str] = ()


def add(
    home: pathlib.Path, name: str, given: Given, replacing: bool, passphrase: Passphrase | None, output: Output
) -> None:
    """`data add NAME --source ...`. ConfigError `dataset_exists`, `source_options`, `bad_where`, `bad_data` and those
    of the source; nothing is registered then.
    """
    world = real_world()
    wanted = Registration(name, _origin(given), _rules(name, given.rules, output), _where(given.where))
    with data_home.alone(home, name, passphrase, world) as store:
        if name in store.added() and not replacing:
            raise ConfigError(
                "dataset_exists",
                f"a data set {name} is registered already",
                not_done="it stays as it is",
                next_step="--replace puts this one in its place; what was spent of it stays on record",
            )
        files = opening(home, world.clock)(wanted)
        key = store.data_version_key()
        selection = Selection(wanted.where, store.excluded(name), PersonDigests(key))
        try:
            found = survey(files, wanted.source.shown, selection, key.expose())
        except OSError as error:
            raise unreadable(pathlib.Path(wanted.source.shown), error) from None
        store.register(wanted)
    sealed = any(file.name.lower().endswith(".sealed") for file in files)
    output.result(_report(wanted, found, sealed), _lines(wanted, found, sealed))
    if wanted.rules is not None:
        output.note("it is used masked by these rules and this key, or not at all; a change refuses it until --replace")
    if not found.rows:
        output.warn("no row is left by the filters and exclusions")


def list_(home: pathlib.Path, passphrase: Passphrase | None, output: Output) -> None:
    """`data list`."""
    found = []
    with data_home.looking(home, passphrase, real_world()) as books:
        for name, registration in sorted(books.registrations().items()):
            found.append(
                {
                    "dataset": name,
                    "source": registration.source.shown,
                    "kind": "sql" if isinstance(registration.source, SqlSource) else "file",
                    "rules": "" if registration.rules is None else str(registration.rules.path),
                    "where": [f"{column}={value}" for column, value in registration.where],
                    "excluded": sum(map(len, books.excluded(name).values())),
                    "open_runs": [str(run) for run in books.open_runs(name)],
                }
            )
    table = TextTable(
        ("data set", "source", "masked by", "only rows with", "excluded", "open runs"),
        [
            (
                str(one["dataset"]),
                str(one["source"]),
                str(one["rules"]),
                ", ".join(_texts(one["where"])),
                str(one["excluded"] or ""),
                ", ".join(_texts(one["open_runs"])),
            )
            for one in found
        ],
    )
    output.result({"datasets": found}, [table] if found else ["no data set is registered here"])


def _texts(value: object) -> list[str]:
    return [str(one) for one in value] if isinstance(value, list) else []


def _origin(given: Given) -> Origin:
    if not is_address(given.source):
        if given.table or given.query or given.query_file or given.password_file:
            raise _options("--table, --query, --query-file and --password-file are for databases")
        if given.key_passphrase_file is not None and given.key is None:
            raise _options("--key-passphrase-file is for the key that --key names")
        return FileSource(
            pathlib.Path(given.source).absolute(), _absolute(given.key), _absolute(given.key_passphrase_file)
        )
    if given.key is not None or given.key_passphrase_file is not None:
        raise _options("--key is for sealed files; a database is not one")
    if given.where:
        raise _options("--where is for files; a database has the organisation's own --query for that")
    if sum(one is not None for one in (given.table, given.query, given.query_file)) != 1:
        raise _options("a database is read by one of --table, --query and --query-file")
    address = read_address(given.source, pathlib.Path.cwd())
    query = given.query or ""
    if given.query_file is not None:
        try:
            query = read_file(given.query_file, "the query", MAX_QUERY).decode()
        except UnicodeDecodeError:
            raise _options("the file with the query is not UTF-8 text") from None
    selected = Selected(table=given.table or "", query=query)
    if not selected.statement:
        raise _options("the query is empty")
    return SqlSource(address, selected, _absolute(given.password_file))


def _rules(name: str, path: pathlib.Path | None, output: Output) -> Rules | None:
    if path is None:
        return None
    from fedveil_cli.home_masks import key_id_for, rules_for  # pyarrow, which other data sets do without

    found = rules_for(name, path)
    return Rules(path.absolute(), found.digest, key_id_for(found, path, output))


def _where(texts: Sequence[str]) -> tuple[tuple[str, str], ...]:
    pairs = [text.partition("=") for text in texts]
    if any(not equals or not column for column, equals, _ in pairs) or len({one[0] for one in pairs}) < len(pairs):
        raise ConfigError(
            "bad_where",
            "a filter is not COLUMN=VALUE, or a column has two",
            not_done="nothing was registered",
            next_step="--where ward=north",
        )
    return tuple((column, value) for column, _, value in pairs)


def _absolute(path: pathlib.Path | None) -> pathlib.Path | None:
    return None if path is None else path.absolute()


def _options(what: str) -> ConfigError:
    return ConfigError(
        "source_options",
        what,
        not_done="nothing was registered",
        next_step="fedveil data add --help has an example of each",
    )


def _report(wanted: Registration, found: Survey, sealed: bool) -> dict[str, object]:
    return {
        "dataset": wanted.name,
        "source": wanted.source.shown,
        "rows": found.rows,
        "left_out": found.left_out,
        "columns": [
            {"name": one.name, "kind": one.kind, "missing": one.missing, "constant": one.constant}
            for one in found.columns
        ],
        "version": found.version.hex()[:VERSION_DIGITS],
        "sealed": sealed,
        "rules_digest": "" if wanted.rules is None else wanted.rules.digest.hex(),
        "masking_key": "" if wanted.rules is None else wanted.rules.key_id,
    }


def _lines(wanted: Registration, found: Survey, sealed: bool) -> list[str | TextTable]:
    left = f", {found.left_out} more left out by filters and exclusions" if found.left_out else ""
    rules = [] if wanted.rules is None else [f"masked by {wanted.rules.path}, SHA-256 {wanted.rules.digest.hex()}"]
    return [
        f"{wanted.name}: {found.rows} rows{left}, {len(found.columns)} columns, from {wanted.source.shown}",
        f"version {found.version.hex()[:VERSION_DIGITS]}, {'sealed' if sealed else 'not sealed'} at rest",
        *rules,
        TextTable(
            ("column", "kind", "missing"),
            [
                (one.name, f"{one.kind}, constant" if one.constant and found.rows > 1 else one.kind, str(one.missing))
                for one in found.columns
            ],
        ),
    ]
