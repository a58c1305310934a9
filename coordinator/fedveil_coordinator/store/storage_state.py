"""How a coordinator's files stand, as far as it shows without the passphrase: the record, and `storage.key` as bytes.

Promise: needs no passphrase and no lock, and changes nothing. Every `storage.key` that an order writes is on record by
its SHA-256, with what it holds, before it is written: so the file that lies there is known for what it is, or is none
of this home's. What it cannot say: whether the files that lie there are as the record says, and open.
"""

import enum
import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import sqlalchemy as sa
from fedveil_common.database import glance
from fedveil_common.errors import ConfigError

from fedveil_coordinator.store import storage_key, tables

BEGUN, SEALED, UNSEALED, REWRAPPED = "storage.begun", "storage.sealed", "storage.unsealed", "storage.rewrapped"
"""What the audit trail calls an order that began, one that ended, and a key under another passphrase."""


@dataclass(frozen=True, slots=True)
class StorageRow:
    """What the audit trail says of one order. `key`: the fingerprint of the key that it gives, empty: none; `file`: the
    digest of the `storage.key` that it wrote, empty: none, or an earlier build wrote the row.
    """

    what: str
    order: str
    key: str
    file: str


class State(enum.Enum):
    """`serve` takes the first two, given the passphrase, and refuses the others."""

    CLEAR = "clear"
    SEALED = "sealed"
    UNFINISHED = "unfinished"
    """`storage.key` is that of an order that was interrupted, or is at work."""
    MISSING = "key missing"
    """Sealed on record, and there is no `storage.key`."""
    EXCHANGED = "key exchanged"
    """There is a `storage.key`, and no order on record wrote it, or it holds another key than the one in force, or it
    is that of an unfinished order after which another one began.
    """


@dataclass(frozen=True, slots=True)
class Standing:
    """`order`: the one that is unfinished, else empty; `key`: the fingerprint of the key in force on record, empty:
    none.
    """

    state: State
    order: str
    key: str


def look(home: Path) -> Standing:
    """How the files of `home` stand. StorageError, also of a database that is not there."""
    with glance(home / tables.FILE) as connection:
        rows = storage_rows(connection)
    return standing(rows, storage_key.lying(home))


def storage_rows(connection: sa.Connection) -> list[StorageRow]:
    """The record of storage orders, oldest first."""
    names = (BEGUN, SEALED, UNSEALED, REWRAPPED)
    found = [row for what in names for row in tables.AUDIT.select(connection, what=what)]
    made = []
    for row in sorted(found, key=lambda one: one.integer("seq")):
        detail = json.loads(row.text("detail"))
        made.append(StorageRow(row.text("what"), detail["order"], detail["key"], detail.get("file", "")))
    return made


def standing(rows: Sequence[StorageRow], lies: bytes | None) -> Standing:
    """`rows`: the record of storage orders, oldest first; `lies`: the bytes of `storage.key`, None: no file."""
    key = key_on_record(rows)
    if lies is None:
        return Standing(State.MISSING if key else State.CLEAR, "", key)
    name = digest(lies)
    wrote = next((row for row in reversed(rows) if row.file == name), None)
    if wrote is None:
        return Standing(State.EXCHANGED, "", key)
    if _unfinished(wrote):
        return Standing(State.EXCHANGED if superseded(rows, lies) else State.UNFINISHED, wrote.order, key)
    return Standing(State.SEALED if key and wrote.key == key else State.EXCHANGED, "", key)


def check_current(rows: Sequence[StorageRow], lies: bytes | None) -> None:
    """Returns if an order whose `storage.key` lies there may be finished. ConfigError `storage_key_replaced`."""
    if superseded(rows, lies):
        raise ConfigError(
            "storage_key_replaced",
            "storage.key is that of an order that was finished, and another began after it",
            not_done="no file was changed",
            next_step="put the storage.key back that belongs to this database",
        )


def superseded(rows: Sequence[StorageRow], lies: bytes | None) -> bool:
    """Whether `storage.key` is that of an order that was finished long ago: one began after it, and none begins before
    the one before it has ended. To finish it again would put a key in force that was given up.
    """
    name = digest(lies)
    since = [row for row in rows if row.what == BEGUN or row.file == name]
    places = [place for place, row in enumerate(since) if row.file == name]
    return bool(places) and _unfinished(since[places[-1]]) and places[-1] < len(since) - 1


def _unfinished(row: StorageRow) -> bool:
    return row.what == BEGUN or (row.what == REWRAPPED and row.order != "")


def key_on_record(rows: Sequence[StorageRow]) -> str:
    """The fingerprint of the key that the last order that ended put in force; empty: none."""
    return next((row.key for row in reversed(rows) if row.what in {SEALED, UNSEALED}), "")


def digest(lies: bytes | None) -> str:
    """By which the record names a `storage.key`; empty for no file."""
    return "" if lies is None else hashlib.sha256(lies).hexdigest()
