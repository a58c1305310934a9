"""`data exclude`: persons who objected, left out of every later run over a data set.

Promise: of an id only a keyed digest is kept, and neither an id nor a digest is printed. What earlier runs learned of a
person stays in their models: they are listed, for nothing here unlearns. An objection is taken also while the source
cannot be read; then nobody is told how many rows it concerns.
"""

import pathlib

from fedveil_common import plan as plans
from fedveil_common.errors import ConfigError
from fedveil_common.secret import Passphrase
from fedveil_participant.checks import MIN_CHANGED_ROWS
from fedveil_participant.data.folder import unreadable
from fedveil_participant.data.problems import DataError
from fedveil_participant.data.registration import Registration
from fedveil_participant.data.selection import PersonDigests, Selection
from fedveil_participant.data.survey import survey
from fedveil_participant.store import Books, ParticipantStore

from fedveil_cli import data_home
from fedveil_cli.data_sources import opening
from fedveil_cli.files import read_file
from fedveil_cli.output import Output, TextTable
from fedveil_cli.world import World, real_world

MAX_IDS = 64 * 1024 * 1024


def exclude(
    home: pathlib.Path,
    name: str,
    ids: pathlib.Path,
    column: str | None,
    undo: bool,
    passphrase: Passphrase | None,
    output: Output,
) -> None:
    """`data exclude NAME --ids FILE [--column C] [--undo]`.

    ConfigError `unknown_dataset`, `ids_empty`, `ids_not_text`, `exclusion_column`, `bad_data`, `data_folder_in_use`.
    """
    world = real_world()
    lines = _lines_of(ids)
    with data_home.alone(home, name, passphrase, world) as store:
        registration = data_home.registered(store, name)
        field = column or _column(store, name)
        digests = PersonDigests(store.data_version_key())
        persons = {digest for line in lines if (digest := digests.of(line))}
        if not persons:
            raise ConfigError(
                "ids_empty", f"{ids} names nobody", not_done="nobody was excluded", next_step="one id on each line"
            )
        rows = _concerned(home, registration, store, field, persons, world, output)
        changed = store.readmit(name, field, persons) if undo else store.exclude(name, field, persons)
        total = sum(map(len, store.excluded(name).values()))
        runs = store.runs_over(name)
    did = "back in the data" if undo else "excluded"
    output.result(
        {
            "dataset": name,
            "column": field,
            "persons": len(persons),
            "changed": changed,
            "rows": rows,
            "excluded": total,
            "runs": [str(run) for run in runs],
        },
        [
            f"{name}: {changed} persons newly {did} by {field}, {total} excluded in all, from the next run on",
            "rows concerned: " + ("not known, the source cannot be read now" if rows is None else str(rows)),
            f"earlier runs over {name}, which nothing unlearns: {', '.join(map(str, runs)) or 'none'}",
        ],
    )
    if rows is not None and rows < MIN_CHANGED_ROWS and runs:
        output.note(
            f"with exact sums, a plan that was summed is not summed again until {MIN_CHANGED_ROWS} rows differ: "
            "the difference of the two sums would be these persons"
        )


def show(home: pathlib.Path, name: str, passphrase: Passphrase | None, output: Output) -> None:
    """`data exclude NAME --list`: counts, by column."""
    with data_home.looking(home, passphrase, real_world()) as books:
        found = {field: len(persons) for field, persons in sorted(books.excluded(name).items())}
        if not found:
            data_home.registered(books, name)
    rows = [(field, str(count)) for field, count in found.items()]
    table = TextTable(("column", "persons excluded"), rows)
    output.result({"dataset": name, "excluded": found}, [table] if rows else [f"nobody is excluded from {name}"])


def _lines_of(path: pathlib.Path) -> list[str]:
    try:
        return read_file(path, "the ids", MAX_IDS).decode("utf-8-sig").splitlines()
    except UnicodeDecodeError:
        raise ConfigError(
            "ids_not_text", f"{path} is not UTF-8 text", not_done="nobody was excluded", next_step="one id on each line"
        ) from None


def _column(books: Books, name: str) -> str:
    """The column that names persons: of earlier exclusions, or else of every plan that was accepted for the data."""
    known = set(books.excluded(name)) or {
        plan.data.person
        for plan in (plans.parse_canonical(one.canonical) for one in books.plans())
        if plan.data.dataset == name and plan.data.person is not None
    }
    if len(known) != 1:
        raise ConfigError(
            "exclusion_column",
            f"which column of {name} names a person is not known",
            not_done="nobody was excluded",
            next_step="--column NAME",
        )
    return known.pop()


def _concerned(
    home: pathlib.Path,
    registration: Registration,
    store: ParticipantStore,
    field: str,
    persons: set[bytes],
    world: World,
    output: Output,
) -> int | None:
    """How many rows of the source these persons have; None if it cannot be read now. DataError for a wrong column."""
    key, name = store.data_version_key(), registration.source.shown
    selection = Selection(registration.where, {field: frozenset(persons)}, PersonDigests(key))
    filtered = Selection(registration.where)
    try:
        files = opening(home, world.clock)(registration)
        with_them = survey(files, name, filtered, key.expose())
        without = survey(files, name, selection, key.expose())
    except DataError:
        raise
    except ConfigError as error:
        output.warn(f"the source cannot be read now ({error.code})")
        return None
    except OSError as error:
        output.warn(f"the source cannot be read now ({unreadable(pathlib.Path(name), error).code})")
        return None
    return with_them.rows - without.rows
