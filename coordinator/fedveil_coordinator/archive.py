"""Opened rounds as they are published: their record from the journal, the masked inputs that were kept.

Promise: what is served is what was stored; nothing is served of a round that was not opened. Memory: the leaf hashes of
the two rounds that were asked for last. Any thread. Source: FLSA/1 section 4.2 (docs/protocol.md).
"""

import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from typing import Protocol

from fedveil_common import transcript, wire
from fedveil_common.errors import ConfigError, StorageError
from fedveil_common.ids import OrgId, RunId
from fedveil_common.messages import BlobType, Header
from fedveil_common.ports import LeafSource
from fedveil_common.published import PublishedRound

from fedveil_coordinator.publishing import Record, record_of

REMEMBERED = 2

SignedRosterOf = Callable[[int], bytes]
"""Roster version -> the signed document."""


class ArchiveStore(Protocol):
    """Where facts and kept inputs are; a part of the driver's journal."""

    def facts(self, run_id: RunId) -> list[tuple[str, bytes]]: ...  # noqa: D102
    def kept_input(self, run_id: RunId, round: int, org_id: OrgId) -> LeafSource:
        """A masked input of an opened round, to be closed. StorageError `ring_file_missing` once it was let go."""
        ...


class Archive:
    """The opened rounds of every run."""

    def __init__(self, store: ArchiveStore, signed_roster: SignedRosterOf) -> None:
        self._store = store
        self._signed_roster = signed_roster
        self._lock = threading.Lock()
        self._known: OrderedDict[tuple[RunId, int], PublishedRound] = OrderedDict()

    def round(self, run_id: RunId, round: int) -> PublishedRound:
        """What is published of an opened round. ConfigError `unknown_round`; `round_not_kept` if inputs were let go."""
        place = (run_id, round)
        with self._lock:
            if place not in self._known:
                self._known[place] = self._read(run_id, round)
            self._known.move_to_end(place)
            while len(self._known) > REMEMBERED:
                self._known.popitem(last=False)
            return self._known[place]

    def leaves(self, run_id: RunId, round: int, indices: Sequence[int]) -> Iterator[tuple[OrgId, int, bytes]]:
        """Leaf after leaf, the survivors of each in the order of their ids. Errors as `round`, before the first."""
        survivors = sorted(self.round(run_id, round).leaf_hashes)
        sources: dict[OrgId, LeafSource] = {}
        try:
            for org in survivors:
                sources[org] = self._open(run_id, round, org)
            for index in indices:
                for org in survivors:
                    yield org, index, bytes(sources[org].packed(index))
        finally:
            for source in sources.values():
                source.close()

    def _read(self, run_id: RunId, round: int) -> PublishedRound:
        record = record_of(self._store.facts(run_id), round)
        if record is None or record.result is None:
            raise ConfigError("unknown_round", f"run {run_id} has no opened round {round}")
        return PublishedRound(
            record.manifest,
            record.result,
            self._signed_roster(record.roster_version),
            record.chosen(record.adverts, record.members),
            tuple(sorted(record.dealers)),
            record.chosen(record.headers, record.survivors),
            record.chosen(record.votes, record.voters),
            record.chosen(record.reveals, record.revealers),
            {org: self._hashes(record, run_id, org) for org in record.survivors},
        )

    def _hashes(self, record: Record, run_id: RunId, org: OrgId) -> tuple[bytes, ...]:
        header = wire.parse_body(BlobType.HEADER, record.headers[org].body)
        assert isinstance(header, Header)
        source = self._open(run_id, record.key.round, org)
        try:
            return tuple(
                transcript.input_leaf(header.t2, org, index, source.packed(index)) for index in range(source.leaves)
            )
        finally:
            source.close()

    def _open(self, run_id: RunId, round: int, org: OrgId) -> LeafSource:
        try:
            return self._store.kept_input(run_id, round, org)
        except StorageError as error:
            if error.code != "ring_file_missing":
                raise
            raise ConfigError(
                "round_not_kept",
                f"the masked inputs of round {round} of run {run_id} are no longer kept",
                not_done="the round was not published",
                next_step="the operator can keep more of them: fedveil serve --keep-inputs",
            ) from error
