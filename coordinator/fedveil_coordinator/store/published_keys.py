"""The keys of Paillier protection that the operator published: terms and record of every epoch, as they came.

Invariant: an epoch of a key is written once, in one transaction with its audit row. What is kept is public.
"""

from dataclasses import dataclass

from fedveil_common.database import Database
from fedveil_common.ports import Clock
from fedveil_common.rows import Row

from fedveil_coordinator.store import tables
from fedveil_coordinator.store.records import SERVICE, audit


@dataclass(frozen=True, slots=True)
class PublishedKey:
    """One epoch. `fingerprint`: 32 bytes; `terms`, `record`: the two documents, checked before they came here."""

    key_id: str
    epoch: int
    fingerprint: bytes
    terms: bytes
    record: bytes


class PublishedKeys:
    """Every epoch of every key. Any thread. Every method may raise StorageError."""

    def __init__(self, database: Database, clock: Clock) -> None:
        self._database = database
        self._clock = clock

    def every(self) -> list[PublishedKey]:
        """All of them, in the order in which they were published."""
        with self._database.read() as connection:
            return [_key(row) for row in tables.KEYS.select(connection)]

    def add(self, key: PublishedKey, who: str = SERVICE) -> None:
        """An epoch that is not there yet; its holders' names are in its terms."""
        with self._database.write() as connection:
            tables.KEYS.insert(
                connection,
                key_id=key.key_id,
                epoch=key.epoch,
                fingerprint=key.fingerprint,
                terms=key.terms,
                record=key.record,
                published_s=float(self._clock.wall_s()),
            )
            audit(
                connection,
                self._clock,
                who,
                "key.published",
                key=key.key_id,
                epoch=str(key.epoch),
                fingerprint=key.fingerprint.hex(),
            )


def _key(row: Row) -> PublishedKey:
    return PublishedKey(
        row.text("key_id"), row.integer("epoch"), row.blob("fingerprint"), row.blob("terms"), row.blob("record")
    )
