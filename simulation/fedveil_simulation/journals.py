"""What the drivers keep, in memory: the same contracts as the durable stores, for simulations.

A member that is "killed" loses its driver and keeps its journal, as on a disk; stages pass through the same snapshot
bytes as in the durable journal, so a restart reads what a restart would read.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Generic, TypeVar

import numpy as np
from fedveil_common.errors import PeerError, StorageError
from fedveil_common.ids import COORDINATOR, AttemptKey, OrgId, RunId
from fedveil_common.leafshape import RingShape, Shape
from fedveil_common.leafspool import Announced
from fedveil_common.masking import masks
from fedveil_common.masking.ring import Ring, Signed, signed
from fedveil_common.messages import SignedBlob, SumRef
from fedveil_common.ringfile import residues
from fedveil_common.snapshot import SnapshotCodec
from fedveil_participant.events import Changes, LedgerEntry, OpenedSum, SpentKey, TagKey
from fedveil_participant.stages import STAGES, Idle, OpenStage, Stage
from numpy.typing import NDArray

_STAGES: SnapshotCodec[OpenStage] = SnapshotCodec(STAGES)

Place = TypeVar("Place", tuple[AttemptKey, OrgId], tuple[AttemptKey, OrgId, tuple[int, ...]])
"""Of an input: (attempt, sender); of an answer: (attempt, sender, quorum)."""


@dataclass(frozen=True, slots=True, eq=False)
class UpdateMemory:
    """An update, as it was stored."""

    model_hash: bytes
    values: NDArray[np.float64]

    @property
    def length(self) -> int:
        """Coordinates."""
        return len(self.values)

    def read(self, start: int, count: int) -> NDArray[np.float64]:
        """Coordinates start .. start+count."""
        return self.values[start : start + count]

    def close(self) -> None:
        """Nothing to do."""


class PackedMemory:
    """A vector in memory, of any shape: sink and source in one."""

    def __init__(self, shape: Shape, store: Callable[["PackedMemory", bool], None]) -> None:
        self.shape = shape
        self._leaves: dict[int, bytes] = {}
        self._store = store

    def write(self, index: int, data: bytes | bytearray) -> None:
        """Leaf `index` as it travels."""
        assert 0 <= index < self.leaves, "the leaf exists"
        assert index not in self._leaves, "each leaf is written once"
        assert len(data) == self.shape.size(index), "a leaf has the size that its shape says"
        self._leaves[index] = bytes(data)

    def finish(self, *, replace: bool = False) -> None:
        """In its place, whole."""
        assert len(self._leaves) == self.leaves, "no leaf is missing"
        self._store(self, replace)

    def discard(self) -> None:
        """Nothing remains."""

    @property
    def leaves(self) -> int:
        """How many there will be."""
        return self.shape.leaves

    @property
    def bits(self) -> int:
        """The ring is 2^bits; of residues only."""
        assert isinstance(self.shape, RingShape), "a vector of residues"
        return self.shape.bits

    @property
    def present(self) -> int:
        """How many leaves were written."""
        return len(self._leaves)

    def packed(self, index: int) -> bytes:
        """Leaf `index` as it travels."""
        return self._leaves[index]

    def close(self) -> None:
        """Nothing to do."""

    @property
    def data(self) -> bytes:
        """All leaves, one after the other."""
        return b"".join(data for _, data in sorted(self._leaves.items()))

    @property
    def whole(self) -> Ring:
        """All residues."""
        leaves: list[Any] = [residues(self, index) for index in sorted(self._leaves)]
        return np.concatenate(leaves)


def packed(ring: Ring, bits: int) -> PackedMemory:
    """A whole vector, packed; it goes nowhere when it is finished."""
    made = PackedMemory(RingShape(len(ring), bits), lambda made, replace: None)
    for index, leaf in masks.leaves(ring, bits):
        made.write(index, leaf)
    return made


class SpoolMemory(Generic[Place]):
    """A vector that arrives in order: what came stays in `parts`, the whole goes to `wholes`."""

    def __init__(
        self,
        wholes: dict[Place, PackedMemory],
        parts: dict[Place, tuple[bytes, PackedMemory]],
        place: Place,
        announced: Announced,
    ) -> None:
        self._wholes: dict[Place, PackedMemory] = wholes
        self._parts: dict[Place, tuple[bytes, PackedMemory]] = parts
        self._place: Place = place
        whole = wholes.get(place)
        fresh = PackedMemory(announced.shape, lambda made, replace: None)
        identity, self._made = (announced.identity, whole) if whole else parts.get(place, (announced.identity, fresh))
        same = identity == announced.identity
        if whole is not None:
            same = whole.shape == announced.shape and all(
                announced.matches(index, whole.packed(index)) for index in range(whole.leaves)
            )
        if not same:
            raise PeerError("input_differs", f"another input of {place[1]} came first")
        if whole is None:
            parts[place] = (identity, self._made)

    @property
    def first_missing(self) -> int:
        """How many leaves are there already."""
        return self._made.present

    @property
    def data(self) -> bytes:
        """All leaves that are there, one after the other."""
        return self._made.data

    def write(self, index: int, data: bytes | bytearray) -> None:
        """The leaf that is missing."""
        assert index == self.first_missing, "leaves come in order"
        self._made.write(index, data)

    def finish(self) -> None:
        """In its place, whole."""
        self._made.finish()
        self._parts.pop(self._place, None)
        self._wholes.setdefault(self._place, self._made)

    def close(self) -> None:
        """What came stays."""


@dataclass(slots=True)
class CoordinatorMemory:
    """The coordinator's journal, spools, products and sums."""

    records: dict[RunId, list[tuple[str, bytes]]] = field(default_factory=dict)
    runs: dict[RunId, tuple[bytes, str, str]] = field(default_factory=dict)
    debts: set[tuple[RunId, OrgId]] = field(default_factory=set)
    answers: dict[bytes, SumRef] = field(default_factory=dict)
    sums: dict[tuple[RunId, int], PackedMemory] = field(default_factory=dict)
    inputs: dict[tuple[AttemptKey, OrgId], PackedMemory] = field(default_factory=dict)
    kept: dict[tuple[RunId, int, OrgId], PackedMemory] = field(default_factory=dict)
    parts: dict[tuple[AttemptKey, OrgId], tuple[bytes, PackedMemory]] = field(default_factory=dict)
    products: dict[AttemptKey, PackedMemory] = field(default_factory=dict)
    kept_products: dict[tuple[RunId, int], PackedMemory] = field(default_factory=dict)
    decryptions: dict[tuple[AttemptKey, OrgId, tuple[int, ...]], PackedMemory] = field(default_factory=dict)
    kept_decryptions: dict[tuple[RunId, int, OrgId], PackedMemory] = field(default_factory=dict)
    decryption_parts: dict[tuple[AttemptKey, OrgId, tuple[int, ...]], tuple[bytes, PackedMemory]] = field(
        default_factory=dict
    )

    def append(self, run_id: RunId, records: list[tuple[str, bytes]]) -> None:
        """Facts, in order."""
        self.records.setdefault(run_id, []).extend(records)

    def facts(self, run_id: RunId) -> list[tuple[str, bytes]]:
        """Every fact of a run, in order."""
        return list(self.records.get(run_id, []))

    def create_run(self, run_id: RunId, canonical: bytes, created_s: float) -> None:
        """A run that waits for its turn."""
        self.runs[run_id] = (canonical, "waiting", "")

    def set_status(self, run_id: RunId, status: str, code: str) -> None:
        """Where a run stands."""
        self.runs[run_id] = (self.runs[run_id][0], status, code)

    def unfinished(self) -> list[tuple[RunId, bytes]]:
        """Runs that have not ended, oldest first."""
        return [(run_id, canonical) for run_id, (canonical, status, _) in self.runs.items() if status != "ended"]

    def owe(self, run_id: RunId, orgs: tuple[OrgId, ...]) -> None:
        """The end of the run is owed to these."""
        self.debts |= {(run_id, org) for org in orgs}

    def owed(self, org_id: OrgId) -> list[RunId]:
        """Whose ends are owed to `org_id`."""
        return sorted(run_id for run_id, org in self.debts if org == org_id)

    def delivered(self, run_id: RunId, org_id: OrgId) -> None:
        """`org_id` has stored the end of the run."""
        self.debts.discard((run_id, org_id))

    def save_answer(self, query_digest: bytes, ref: SumRef) -> None:
        """The sum that answers a query; the first one stays."""
        self.answers.setdefault(query_digest, ref)

    def answer(self, query_digest: bytes) -> SumRef | None:
        """The stored answer, if any."""
        return self.answers.get(query_digest)

    def new_sum(self, run_id: RunId, round: int, length: int, bits: int) -> PackedMemory:
        """An opened sum on its way in."""
        return PackedMemory(RingShape(length, bits), lambda made, replace: self.store_sum(run_id, round, made))

    def store_sum(self, run_id: RunId, round: int, made: PackedMemory) -> None:
        """An opened sum is whole."""
        self.sums[run_id, round] = made

    def open_sum(self, run_id: RunId, round: int) -> PackedMemory:
        """An opened sum, packed."""
        return self.sums[run_id, round]

    def read_sum(self, run_id: RunId, round: int) -> Signed:
        """An opened sum, shape (d,)."""
        found = self.sums[run_id, round]
        return signed(found.whole, found.bits)

    def spool(self, key: AttemptKey, org_id: OrgId, announced: Announced) -> SpoolMemory[tuple[AttemptKey, OrgId]]:
        """An input on its way in, from the first leaf that is missing. The first one stays; PeerError
        `input_differs`.
        """
        return SpoolMemory(self.inputs, self.parts, (key, org_id), announced)

    def open_input(self, key: AttemptKey, org_id: OrgId) -> PackedMemory:
        """A spooled input."""
        return self.inputs[key, org_id]

    def new_noise(self, key: AttemptKey, shape: Shape) -> PackedMemory:
        """The coordinator's own noise on its way in."""

        def store(made: PackedMemory, replace: bool) -> None:
            self.inputs[key, COORDINATOR] = made

        return PackedMemory(shape, store)

    def new_product(self, key: AttemptKey, shape: Shape) -> PackedMemory:
        """The product of an attempt's inputs on its way in. The first one stays, unless it is to be replaced;
        PeerError `input_differs`.
        """

        def store(made: PackedMemory, replace: bool) -> None:
            first = self.products.get(key)
            if replace or first is None:
                self.products[key] = made
            elif (first.shape, first.data) != (made.shape, made.data):
                raise PeerError("input_differs", "another product came first")

        return PackedMemory(shape, store)

    def open_product(self, key: AttemptKey) -> PackedMemory:
        """The product of an attempt's inputs. StorageError `ring_file_missing`."""
        return _found(self.products.get(key), "product of this attempt")

    def spool_answer(
        self, key: AttemptKey, org_id: OrgId, quorum: tuple[int, ...], announced: Announced
    ) -> SpoolMemory[tuple[AttemptKey, OrgId, tuple[int, ...]]]:
        """A holder's partial decryptions for this quorum on their way in, as `spool`."""
        return SpoolMemory(self.decryptions, self.decryption_parts, (key, org_id, quorum), announced)

    def open_answer(self, key: AttemptKey, org_id: OrgId, quorum: tuple[int, ...]) -> PackedMemory:
        """A holder's partial decryptions for this quorum. StorageError `ring_file_missing`."""
        return _found(self.decryptions.get((key, org_id, quorum)), f"answer of {org_id} for this quorum")

    def discard_inputs(self, key: AttemptKey) -> None:
        """What was spooled of an attempt that is over."""
        for inputs in (self.inputs, self.parts):
            for place in [place for place in inputs if place[0] == key]:
                del inputs[place]
        for answers in (self.decryptions, self.decryption_parts):
            for answer in [answer for answer in answers if answer[0] == key]:
                del answers[answer]
        self.products.pop(key, None)

    def keep_inputs(
        self,
        key: AttemptKey,
        survivors: tuple[OrgId, ...],
        quorum: tuple[int, ...] = (),
        holders: tuple[OrgId, ...] = (),
    ) -> None:
        """Inputs of an attempt that was opened stay, for audits; with a quorum also what it opened."""
        for org in survivors:
            if (key, org) in self.inputs:
                self.kept[key.run_id, key.round, org] = self.inputs.pop((key, org))
        if quorum and key in self.products:
            self.kept_products[key.run_id, key.round] = self.products.pop(key)
        for org in holders if quorum else ():
            if (key, org, quorum) in self.decryptions:
                self.kept_decryptions[key.run_id, key.round, org] = self.decryptions.pop((key, org, quorum))
        self.discard_inputs(key)

    def kept_input(self, run_id: RunId, round: int, org_id: OrgId) -> PackedMemory:
        """An input of an opened round. StorageError `ring_file_missing` if it is not kept."""
        return _found(self.kept.get((run_id, round, org_id)), f"kept input of {org_id} for round {round}")

    def kept_product(self, run_id: RunId, round: int) -> PackedMemory:
        """The product of the inputs of an opened round. StorageError `ring_file_missing` if it is not kept."""
        return _found(self.kept_products.get((run_id, round)), f"kept product for round {round}")

    def kept_answer(self, run_id: RunId, round: int, org_id: OrgId) -> PackedMemory:
        """A holder's answer that opened a round. StorageError `ring_file_missing` if it is not kept."""
        return _found(self.kept_decryptions.get((run_id, round, org_id)), f"kept answer of {org_id} for round {round}")


def _found(made: PackedMemory | None, what: str) -> PackedMemory:
    if made is None:
        raise StorageError("ring_file_missing", f"there is no {what}")
    return made


@dataclass(frozen=True, slots=True)
class Kept:
    """The standing facts of a participant, as its journal holds them."""

    high_water: dict[RunId, tuple[int, int]] = field(default_factory=dict)
    spent: frozenset[SpentKey] = frozenset()
    opened: frozenset[OpenedSum] = frozenset()
    tag_keys: tuple[TagKey, ...] = ()
    disputed: frozenset[RunId] = frozenset()
    ledger: tuple[LedgerEntry, ...] = ()


@dataclass(slots=True)
class ParticipantMemory:
    """One participant's journal, inputs, answers, updates and final models."""

    stage: tuple[str, bytes] | None = None
    kept: Kept = field(default_factory=Kept)
    trail: list[tuple[str, AttemptKey, tuple[tuple[str, str], ...]]] = field(default_factory=list)
    notes: list[tuple[str, tuple[tuple[str, str], ...]]] = field(default_factory=list)
    records: list[tuple[str, tuple[tuple[str, str], ...]]] = field(default_factory=list)
    receipts: list[tuple[SignedBlob, bytes, bytes]] = field(default_factory=list)
    plans: dict[RunId, tuple[bytes, bytes, bytes]] = field(default_factory=dict)
    inputs: dict[AttemptKey, PackedMemory] = field(default_factory=dict)
    answers: dict[tuple[AttemptKey, tuple[int, ...]], PackedMemory] = field(default_factory=dict)
    updates: dict[SpentKey, UpdateMemory] = field(default_factory=dict)
    ends: dict[RunId, tuple[bytes, str, bytes]] = field(default_factory=dict)
    statistics: dict[RunId, bytes] = field(default_factory=dict)
    sketches: dict[bytes, bytes] = field(default_factory=dict)
    countersignatures: dict[RunId, SignedBlob] = field(default_factory=dict)
    roster: bytes = b""
    newer: bytes = b""

    def save(
        self, key: AttemptKey, stage: Stage, kind: str, trail: tuple[tuple[str, str], ...], changes: Changes
    ) -> None:
        """Replace the stage, apply the changes, append to the trail: together or not at all."""
        self.stage = None if isinstance(stage, Idle) else (type(stage).__name__, _STAGES.encode(stage))
        high_water = dict(self.kept.high_water)
        if changes.high_water is not None:
            high_water[changes.high_water.run_id] = (changes.high_water.round, changes.high_water.attempt)
        self.kept = replace(
            self.kept,
            high_water=high_water,
            spent=(self.kept.spent - set(changes.free)) | set(changes.spend),
            opened=self.kept.opened | set(changes.opened),
            tag_keys=changes.applied_to(self.kept.tag_keys),
            disputed=self.kept.disputed | set(changes.disputed),
            ledger=(*self.kept.ledger, *changes.ledger),
        )
        self.trail.append((kind, key, trail))

    def load(self) -> Stage:
        """The stage a restart finds."""
        return Idle() if self.stage is None else _STAGES.decode(*self.stage)

    def new_input(self, key: AttemptKey, length: int, bits: int) -> PackedMemory:
        """The masked input of an attempt on its way in."""
        return self.new_blocks(key, RingShape(length, bits))

    def new_blocks(self, key: AttemptKey, shape: Shape) -> PackedMemory:
        """The encrypted input of an attempt on its way in."""

        def store(made: PackedMemory, replace: bool) -> None:
            self.inputs[key] = made

        return PackedMemory(shape, store)

    def open_input(self, key: AttemptKey) -> PackedMemory:
        """The input of an attempt; StorageError `input_gone` once it was discarded."""
        if key not in self.inputs:
            raise StorageError("input_gone", "the masked input of this attempt was discarded")
        return self.inputs[key]

    def new_answer(self, key: AttemptKey, quorum: tuple[int, ...], shape: Shape) -> PackedMemory:
        """This holder's partial decryptions for a quorum on their way in."""

        def store(made: PackedMemory, replace: bool) -> None:
            self.answers[key, quorum] = made

        return PackedMemory(shape, store)

    def open_answer(self, key: AttemptKey, quorum: tuple[int, ...]) -> PackedMemory:
        """The partial decryptions for a quorum; StorageError `answer_gone` if there are none."""
        if (key, quorum) not in self.answers:
            raise StorageError("answer_gone", "no answer of this attempt for this quorum is stored")
        return self.answers[key, quorum]

    def discard_input(self, key: AttemptKey) -> None:
        """Delete the input of an attempt, and every answer."""
        self.inputs.pop(key, None)
        for place in [place for place in self.answers if place[0] == key]:
            del self.answers[place]

    def put_update(self, key: SpentKey, model_hash: bytes, blocks: Sequence[NDArray[np.float64]]) -> None:
        """The update made for a spent key."""
        self.updates[key] = UpdateMemory(model_hash, np.concatenate(blocks) if blocks else np.empty(0))

    def open_update(self, key: SpentKey) -> UpdateMemory | None:
        """The update made for a spent key, if it is kept."""
        return self.updates.get(key)

    def drop_update(self, key: SpentKey) -> None:
        """Delete an update."""
        self.updates.pop(key, None)

    def admit_version(self, dataset: str, version: bytes) -> None:
        """A simulated member has no earlier journal whose spending it could have forgotten."""

    def admit_ledger(self, dataset: str) -> None:
        """Nor whose ledger it would have to carry on."""

    def drop_updates(self) -> None:
        """Delete every update."""
        self.updates.clear()

    def save_plan(self, run_id: RunId, plan_hash: bytes, canonical: bytes, version: bytes) -> None:
        """A run's plan and the data version it was accepted for."""
        self.plans[run_id] = (plan_hash, canonical, version)

    def save_sketch(self, version: bytes, sketch: bytes) -> None:
        """The sketch of a data version that a plan was accepted for."""
        self.sketches[version] = sketch

    def keep_snapshots(self, wanted: Iterable[tuple[bytes, bytes]]) -> None:
        """A simulated member keeps its data in memory."""

    def save_roster(self, signed: bytes) -> None:
        """The pinned roster; no newer one waits."""
        self.roster, self.newer = signed, b""

    def save_newer_roster(self, signed: bytes) -> None:
        """A newer roster, which waits for the end of the open attempt."""
        self.newer = signed

    def save_end(self, run_id: RunId, plan_hash: bytes, code: str, model_file: bytes, answers: bytes = b"") -> None:
        """How a run ended, and its final model or its answers."""
        self.ends[run_id] = (plan_hash, code, model_file)
        if answers:
            self.statistics[run_id] = answers

    def put_countersignature(self, run_id: RunId, blob: SignedBlob, *, held: bool) -> None:
        """A countersignature, which no owner of a simulated member holds back."""
        self.countersignatures[run_id] = blob

    def countersignature(self, run_id: RunId) -> tuple[SignedBlob, ...]:
        """The countersignature of a run's model, if there is one."""
        found = self.countersignatures.get(run_id)
        return (found,) if found is not None else ()

    def countersignature_held(self, run_id: RunId) -> bool:
        """Never."""
        return False

    def has_end(self, run_id: RunId) -> bool:
        """Whether the end of a run is stored."""
        return run_id in self.ends

    def note(self, kind: str, facts: tuple[tuple[str, str], ...]) -> None:
        """A refusal, or what else belongs into the local record."""
        (self.notes if kind == "refused" else self.records).append((kind, facts))

    def keep_receipt(self, receipt: SignedBlob, key: bytes, due: bytes) -> bool:
        """A receipt, with the key that was pinned and the body that was awaited; the first for each stays."""
        fresh = due not in {one[2] for one in self.receipts}
        if fresh:
            self.receipts.append((receipt, key, due))
        return fresh
