"""Opened rounds as they are published: their record from the journal, the inputs, products and answers that were kept.

Promise: what is served is what was stored; nothing is served of a round that was not opened. Memory: the leaf hashes of
the two rounds that were asked for last. Any thread. Source: FLSA/1 section 4.2 (docs/protocol.md).
"""

import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import Protocol

from fedveil_common import transcript, wire
from fedveil_common.errors import ConfigError, StorageError
from fedveil_common.ids import COORDINATOR, OrgId, RunId
from fedveil_common.messages import BlobType, CipherHeader, Header, Noise, Partial, Result, SignedBlob
from fedveil_common.ports import LeafSource
from fedveil_common.published import LeafKind, PublishedRound

from fedveil_coordinator.publishing import Record, record_of

REMEMBERED = 2

SignedRosterOf = Callable[[int], bytes]
"""Roster version -> the signed document."""

KeyOf = Callable[[bytes], tuple[bytes, bytes]]
"""Fingerprint of a Paillier key -> its terms and its record, as they were published. ConfigError."""


LeafHash = Callable[[int, bytes | bytearray], bytes]
"""(index, leaf) -> its hash."""


class ArchiveStore(Protocol):
    """Where facts and kept inputs are; a part of the driver's journal."""

    def facts(self, run_id: RunId) -> list[tuple[str, bytes]]: ...  # noqa: D102
    def kept_input(self, run_id: RunId, round: int, org_id: OrgId) -> LeafSource:
        """An input of an opened round, or the noise, which is the coordinator's; to be closed. StorageError
        `ring_file_missing` once it was let go.
        """
        ...

    def kept_product(self, run_id: RunId, round: int) -> LeafSource:
        """The product of the inputs of an opened round. As `kept_input`."""
        ...

    def kept_answer(self, run_id: RunId, round: int, org_id: OrgId) -> LeafSource:
        """A holder's answer in the quorum that opened a round. As `kept_input`."""
        ...


def no_key(fingerprint: bytes) -> tuple[bytes, bytes]:
    """For an archive of rounds under masked alone. ConfigError `no_such_key`."""
    raise ConfigError("no_such_key", f"no key of fingerprint {fingerprint.hex()} is published here")


class Archive:
    """The opened rounds of every run."""

    def __init__(self, store: ArchiveStore, signed_roster: SignedRosterOf, key_of: KeyOf = no_key) -> None:
        self._store = store
        self._signed_roster = signed_roster
        self._key_of = key_of
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

    def leaves(
        self, run_id: RunId, round: int, indices: Sequence[int], kind: LeafKind = LeafKind.INPUT
    ) -> Iterator[tuple[OrgId, int, bytes]]:
        """Leaf after leaf of a kind, of each those who have one in the order of their ids; nothing of a kind that the
        round does not have. Errors as `round`, before the first.
        """
        names = sorted(self.round(run_id, round).hashes(kind))
        sources: dict[OrgId, LeafSource] = {}
        try:
            for org in names:
                sources[org] = self._open(run_id, round, kind, org)
            for index in indices:
                for org in names:
                    yield org, index, bytes(sources[org].packed(index))
        finally:
            for source in sources.values():
                source.close()

    def _read(self, run_id: RunId, round: int) -> PublishedRound:
        record = record_of(self._store.facts(run_id), round)
        if record is None or record.result is None:
            raise ConfigError("unknown_round", f"run {run_id} has no opened round {round}")
        if record.rests_on_coordinator:
            raise ConfigError(
                "round_not_published",
                f"the coordinator added its noise to the opened sum of round {round} of run {run_id}: what proves a sum"
                " would give the exact one away",
                not_done="nothing of the round was published",
                next_step="integrity and privacy of this run rest on the coordinator, as its plan says",
            )
        place = (run_id, round)
        inputs = {
            org: self._hashes(*place, LeafKind.INPUT, org, _input_leaf(record.headers[org])) for org in record.survivors
        }
        published = PublishedRound(
            record.manifest,
            record.result,
            self._signed_roster(record.roster_version),
            record.chosen(record.adverts, record.members),
            tuple(sorted(record.dealers)),
            record.chosen(record.headers, record.survivors),
            record.chosen(record.votes, record.voters),
            record.chosen(record.reveals, record.revealers),
            inputs,
        )
        return self._with_ciphers(published, record, place) if record.encryption else published

    def _with_ciphers(self, published: PublishedRound, record: Record, place: tuple[RunId, int]) -> PublishedRound:
        """The parts that only a round under paillier has."""
        result = wire.parse_body(BlobType.RESULT, published.result.body)
        assert isinstance(result, Result)
        inputs = dict(published.leaf_hashes)
        for blob in record.noise:
            noise = wire.parse_body(BlobType.NOISE, blob.body)
            assert isinstance(noise, Noise)
            leaf = partial(transcript.noise_leaf, noise.nonce)
            inputs[COORDINATOR] = self._hashes(*place, LeafKind.INPUT, COORDINATOR, leaf)
        partials = {}
        for blob in published.reveals:
            body = wire.parse_body(BlobType.PARTIAL, blob.body)
            assert isinstance(body, Partial)
            leaf = partial(transcript.partial_leaf, body.t3, blob.signer_id, body.quorum)
            partials[blob.signer_id] = self._hashes(*place, LeafKind.PARTIAL, blob.signer_id, leaf)
        product = partial(transcript.product_leaf, result.t3)
        terms, key_record = self._key_of(record.encryption[0].fingerprint)
        return replace(
            published,
            leaf_hashes=inputs,
            product_hashes=self._hashes(*place, LeafKind.PRODUCT, COORDINATOR, product),
            partial_hashes=partials,
            key_terms=terms,
            key_record=key_record,
            noise=record.noise,
        )

    def _hashes(self, run_id: RunId, round: int, kind: LeafKind, org: OrgId, leaf_hash: LeafHash) -> tuple[bytes, ...]:
        source = self._open(run_id, round, kind, org)
        try:
            return tuple(leaf_hash(index, source.packed(index)) for index in range(source.leaves))
        finally:
            source.close()

    def _open(self, run_id: RunId, round: int, kind: LeafKind, org: OrgId) -> LeafSource:
        try:
            match kind:
                case LeafKind.INPUT:
                    return self._store.kept_input(run_id, round, org)
                case LeafKind.PRODUCT:
                    return self._store.kept_product(run_id, round)
                case LeafKind.PARTIAL:
                    return self._store.kept_answer(run_id, round, org)
        except StorageError as error:
            if error.code != "ring_file_missing":
                raise
            raise ConfigError(
                "round_not_kept",
                f"the protected inputs of round {round} of run {run_id} are no longer kept",
                not_done="the round was not published",
                next_step="the operator can keep more of them: fedveil serve --keep-inputs",
            ) from error


def _input_leaf(blob: SignedBlob) -> LeafHash:
    """How the leaves of an input are hashed, by its header."""
    header = wire.parse_body(blob.type, blob.body)
    assert isinstance(header, Header | CipherHeader), "an accepted input has a header"
    return partial(transcript.input_leaf, header.t2, header.org_id)
