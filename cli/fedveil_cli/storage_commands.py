"""The bodies of `fedveil storage`: what of a coordinator's home is sealed, and by whose word."""

import pathlib
from collections.abc import Callable
from typing import assert_never

from fedveil_common.database import FolderLock
from fedveil_common.errors import ConfigError
from fedveil_common.ports import Clock, Entropy, Failpoints
from fedveil_common.secret import Passphrase
from fedveil_coordinator import founding, resting
from fedveil_coordinator.founding import Federation
from fedveil_coordinator.resting import Done
from fedveil_coordinator.store import storage_key, storage_state
from fedveil_coordinator.store.storage_state import Standing, State

from fedveil_cli import core_dumps
from fedveil_cli.output import Output
from fedveil_cli.service_commands import is_operator
from fedveil_cli.world import World

Order = Callable[[Federation, Passphrase, Clock, Entropy, Failpoints], Done]


COMMANDS = {resting.SEAL: "seal", resting.ROTATE: "rotate", resting.UNSEAL: "open"}
"""What the record calls an order, and what it is called here."""


def show(home: pathlib.Path, output: Output) -> bool:
    """`storage show`: whether `serve` would find the files as it must, given the passphrase. No lock."""
    seen = storage_state.look(_federation(home).home)
    order = COMMANDS.get(seen.order, "")
    value: dict[str, object] = {"state": seen.state.value, "sealed": seen.state is State.SEALED, "key": seen.key}
    output.result(value | ({"order": order} if order else {}), _lines(seen, order))
    return seen.state in {State.CLEAR, State.SEALED}


def _lines(seen: Standing, order: str) -> list[str]:
    record = f"sealed under the key {seen.key}" if seen.key else "in clear"
    match seen.state:
        case State.CLEAR:
            return ["in clear"]
        case State.SEALED:
            return [f"{record}: opened sums, inputs, products, answers, evidence"]
        case State.UNFINISHED:
            return [
                f"`storage {order}` was interrupted, or is at work: some files are in the old form, some in the new",
                f"next: fedveil storage {order}",
            ]
        case State.MISSING:
            return [
                f"on record: {record}; there is no storage.key: nothing of it opens, and `serve` refuses",
                "next: put the storage.key back that belongs to this database",
            ]
        case State.EXCHANGED:
            return [
                f"on record: {record}; the storage.key that lies here is another, or is not on record",
                "next: put the storage.key back that belongs to this database; `serve` compares what is in it",
            ]
        case never:
            assert_never(never)


def order(home: pathlib.Path, what: Order, passphrase: Passphrase, world: World, output: Output) -> None:
    """`storage seal`, `rotate` or `open`. ConfigError `data_folder_in_use` while the coordinator runs."""
    federation = _federation(home)
    core_dumps.refuse()
    with FolderLock(home):
        made = what(federation, passphrase, world.clock, world.entropy, world.failpoints)
        sealed = storage_key.exists(home)
    finished = COMMANDS.get(made.finished, "")
    lines = [f"{made.files} files, {made.bytes} bytes: {'sealed' if sealed else 'in clear'}"]
    if finished:
        then = "then this order was carried out" if made.anew else "nothing else was to be done"
        lines.insert(0, f"`storage {finished}`, which was interrupted, is finished; {then}")
    if finished == COMMANDS[resting.ROTATE] and not made.anew:
        lines.append("the key is the one that the interrupted order made; for another: fedveil storage rotate")
    value = {"sealed": sealed, "files": made.files, "bytes": made.bytes, "finished": finished, "anew": made.anew}
    output.result(value, lines)


def rewrap(home: pathlib.Path, old: Passphrase, new: Passphrase, world: World, output: Output) -> None:
    """`storage rewrap`."""
    federation = _federation(home)
    with FolderLock(home):
        resting.rewrap(federation, old, new, world.clock, world.entropy)
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
