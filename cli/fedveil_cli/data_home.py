"""The home of an organisation as the commands about its data sets open it: to look beside a participant, or alone.

Promise: looking works while a participant runs. What changes a data set does not (`data_folder_in_use`): the
participant took the registrations and exclusions that it found when it started.
"""

import contextlib
import pathlib
from collections.abc import Iterator

from fedveil_common.database import FolderLock
from fedveil_common.errors import ConfigError
from fedveil_common.ids import check_name
from fedveil_common.secret import Passphrase
from fedveil_participant import membership
from fedveil_participant.data.registration import Registration
from fedveil_participant.store import Books, ParticipantStore, journal_key, open_holdings, open_store

from fedveil_cli.files import check_writable
from fedveil_cli.world import World


@contextlib.contextmanager
def looking(home: pathlib.Path, passphrase: Passphrase | None, world: World) -> Iterator[Books]:
    """What a home has on record, also while its participant runs. ConfigError `not_joined`; as `open_holdings`."""
    membership.load_membership(home)
    with contextlib.closing(open_holdings(home, journal_key(home, passphrase), world.clock, world.entropy)) as books:
        yield books


@contextlib.contextmanager
def alone(home: pathlib.Path, name: str, passphrase: Passphrase | None, world: World) -> Iterator[ParticipantStore]:
    """The store of a home in which nothing runs, to change something of the data set `name`. ConfigError `bad_name`,
    `data_folder_in_use`.
    """
    membership.load_membership(home)
    check_name(name, "the data set")
    check_writable(home)
    with FolderLock(home):
        store = open_store(home, journal_key(home, passphrase), world.clock, world.entropy)
        try:
            yield store
        finally:
            store.close()


def registered(books: Books, name: str) -> Registration:
    """The data set of this name. ConfigError `unknown_dataset`."""
    known = books.registrations()
    if name not in known:
        raise ConfigError(
            "unknown_dataset",
            f"no data set {name} is registered here; there is {', '.join(sorted(known)) or 'none'}",
            next_step=f"fedveil data add {name} --source FILE",
        )
    return known[name]
