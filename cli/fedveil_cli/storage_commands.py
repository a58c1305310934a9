"""The bodies of `fedveil storage`: what of a coordinator's home is sealed, and by whose word."""

import pathlib
from collections.abc import Callable

from fedveil_common.database import FolderLock
from fedveil_common.errors import ConfigError
from fedveil_common.ports import Clock, Entropy, Failpoints
from fedveil_common.secret import Passphrase
from fedveil_coordinator import founding, resting
from fedveil_coordinator.founding import Federation
from fedveil_coordinator.store import storage_key
from fedveil_coordinator.store.converting import Converted

from fedveil_cli.output import Output
from fedveil_cli.service_commands import is_operator
from fedveil_cli.world import World

Order = Callable[[Federation, Passphrase, Clock, Entropy, Failpoints], Converted]


def show(home: pathlib.Path, output: Output) -> None:
    """`storage show`: needs no passphrase and no lock."""
    federation = _federation(home)
    sealed = storage_key.exists(federation.home)
    what = (
        "sealed: opened sums, inputs, products, answers, evidence"
        if sealed
        else "no storage.key: in clear (if the key was lost, `serve` says so)"
    )
    output.result({"sealed": sealed}, [what])


def order(home: pathlib.Path, what: Order, passphrase: Passphrase, world: World, output: Output) -> None:
    """`storage seal`, `rotate` or `open`. ConfigError `data_folder_in_use` while the coordinator runs."""
    federation = _federation(home)
    with FolderLock(home):
        made = what(federation, passphrase, world.clock, world.entropy, world.failpoints)
        sealed = storage_key.exists(home)
    line = f"{made.files} files, {made.bytes} bytes: {'sealed' if sealed else 'in clear'}"
    output.result({"sealed": sealed, "files": made.files, "bytes": made.bytes}, [line])


def rewrap(home: pathlib.Path, old: Passphrase, new: Passphrase, world: World, output: Output) -> None:
    """`storage rewrap`."""
    federation = _federation(home)
    with FolderLock(home):
        resting.rewrap(federation, old, new, world.entropy)
    output.result({"sealed": True}, ["storage.key is under the new passphrase; no other file was touched"])


def _federation(home: pathlib.Path) -> Federation:
    if not is_operator(home):
        raise ConfigError(
            "not_an_operators_home",
            f"{home} is not the home of a coordinator",
            not_done="nothing was changed",
            next_step="an organisation's home seals what it keeps by itself, under its journal key",
        )
    return founding.load_federation(home)
