"""What a home knows of its data sets: where each lies, who objected, and sketches of the versions that were accepted.

Promise: a registration that `data add` made is replaced or removed by commands alone, never by the path of a start. Of
persons only keyed digests are here. What was spent, the ledgers and the sketches outlive a registration.
"""

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from fedveil_common import jcs
from fedveil_common.database import Database
from fedveil_common.ports import Clock
from fedveil_common.rows import Value

from fedveil_participant.data import registration as registrations_of
from fedveil_participant.data.registration import FileSource, Registration
from fedveil_participant.store import tables

REGISTERED, FORGOTTEN, EXCLUDED, ADMITTED = "data_registered", "data_forgotten", "persons_excluded", "persons_admitted"
KEY_PINNED = "masking_key_pinned"
"""The trail's words for what is done to data sets."""


class DataSets:
    """Any thread. Every method may raise StorageError."""

    def __init__(self, database: Database, clock: Clock) -> None:
        self._database = database
        self._clock = clock

    # --- registrations ------------------------------------------------------------------------------------------------

    def register(self, registration: Registration) -> None:
        """This data set lies there from now on, also after `participate --data` named another place for one start."""
        now, content = self._clock.wall_s(), registrations_of.encode(registration)
        facts = [["dataset", registration.name], ["source", registration.source.shown]]
        if registration.rules is not None:
            facts.append(["rules_digest", registration.rules.digest.hex()])
            facts.append(["masking_key", registration.rules.key_id])
        with self._database.write() as connection:
            tables.DATASETS.delete(connection, name=registration.name)
            tables.SOURCES.put(connection, name=registration.name, content=content, wall_s=now)
            tables.TRAIL.append(connection, [self._trail(REGISTERED, facts)])

    def pin_masking_key(self, name: str, key_id: str) -> None:
        """The key that this registration masks under is this one from now on; it was not at hand when it was made."""
        with self._database.write() as connection:
            row = tables.SOURCES.one(connection, name=name)
            known = None if row is None else registrations_of.decode(name, row.blob("content"))
            if row is None or known is None or known.rules is None or known.rules.key_id:
                return
            content = registrations_of.encode(replace(known, rules=replace(known.rules, key_id=key_id)))
            tables.SOURCES.put(connection, name=name, content=content, wall_s=row.real("wall_s"))
            tables.TRAIL.append(connection, [self._trail(KEY_PINNED, [["dataset", name], ["masking_key", key_id]])])

    def added(self) -> dict[str, Registration]:
        """What `data add` registered, by name. StorageError `registration_damaged`."""
        with self._database.read() as connection:
            found = tables.SOURCES.select(connection)
        return {row.text("name"): registrations_of.decode(row.text("name"), row.blob("content")) for row in found}

    def registrations(self) -> dict[str, Registration]:
        """Every data set by name: what `data add` registered, and files that a `participate --data` named."""
        with self._database.read() as connection:
            files = {row.text("name"): Path(row.text("path")) for row in tables.DATASETS.select(connection)}
        return {**{name: Registration(name, FileSource(path)) for name, path in files.items()}, **self.added()}

    # --- persons who objected -----------------------------------------------------------------------------------------

    def exclude(self, dataset: str, field: str, persons: Iterable[bytes]) -> int:
        """These persons (digests) are in no later run over the data set; returns how many are new."""
        now, fresh = self._clock.wall_s(), 0
        with self._database.write() as connection:
            for person in persons:
                key: dict[str, Value] = {"dataset": dataset, "field": field, "person": person}
                if tables.EXCLUDED.one(connection, **key) is None:
                    tables.EXCLUDED.insert(connection, **key, wall_s=now)
                    fresh += 1
            facts = [["dataset", dataset], ["column", field], ["persons", str(fresh)]]
            tables.TRAIL.append(connection, [self._trail(EXCLUDED, facts)])
        return fresh

    def readmit(self, dataset: str, field: str, persons: Iterable[bytes]) -> int:
        """The exclusion of these persons is undone; returns how many there were. No byte of their digests is left."""
        gone = 0
        with self._database.write() as connection:
            for person in persons:
                gone += tables.EXCLUDED.delete(connection, dataset=dataset, field=field, person=person)
            facts = [["dataset", dataset], ["column", field], ["persons", str(gone)]]
            tables.TRAIL.append(connection, [self._trail(ADMITTED, facts)])
        self._database.erase_history()
        return gone

    def excluded(self, dataset: str) -> dict[str, frozenset[bytes]]:
        """The digests of those who objected, by the column that names them."""
        with self._database.read() as connection:
            found = tables.EXCLUDED.select(connection, dataset=dataset)
        by_field: dict[str, set[bytes]] = {}
        for row in found:
            by_field.setdefault(row.text("field"), set()).add(row.blob("person"))
        return {field: frozenset(persons) for field, persons in by_field.items()}

    # --- versions -----------------------------------------------------------------------------------------------------

    def save_sketch(self, version: bytes, sketch: bytes) -> None:
        """The sketch of a version that a plan was accepted for (both local)."""
        with self._database.write() as connection:
            tables.SKETCHES.put(connection, version=version, sketch=sketch)

    def _trail(self, kind: str, facts: list[list[str]]) -> dict[str, Value]:
        return {
            "wall_s": self._clock.wall_s(),
            "run_id": "",
            "round": 0,
            "attempt": 0,
            "kind": kind,
            "facts": jcs.dumps([list(pair) for pair in facts]).decode(),
        }
