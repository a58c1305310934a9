"""What the drivers keep, in memory: the same contracts as the durable stores, for simulations.

A member that is "killed" loses its driver and keeps its journal, as on a disk; stages pass through the same snapshot
bytes as in the durable journal, so a restart reads what a restart would read.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace

import numpy as np
from fedveil_common.errors import PeerError, StorageError
from fedveil_common.ids import AttemptKey, OrgId, RunId
from fedveil_common.messages import SumRef
from fedveil_common.snapshot import SnapshotCodec
from fedveil_participant.events import Changes, OpenedSum, SpentKey
from fedveil_participant.stages import STAGES, Idle, OpenStage, Stage
from numpy.typing import NDArray

_STAGES: SnapshotCodec[OpenStage] = SnapshotCodec(STAGES)


@dataclass(slots=True)
class CoordinatorMemory:
    """The coordinator's journal, spools and sums."""

    records: dict[RunId, list[tuple[str, bytes]]] = field(default_factory=dict)
    runs: dict[RunId, tuple[bytes, str, str]] = field(default_factory=dict)
    debts: set[tuple[RunId, OrgId]] = field(default_factory=set)
    answers: dict[bytes, SumRef] = field(default_factory=dict)
    sums: dict[tuple[RunId, int], NDArray[np.uint32]] = field(default_factory=dict)
    inputs: dict[tuple[AttemptKey, OrgId], bytes] = field(default_factory=dict)

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

    def write_sum(self, run_id: RunId, round: int, pieces: Iterator[NDArray[np.uint32]]) -> None:
        """An opened sum, piece by piece."""
        self.sums[run_id, round] = np.concatenate(list(pieces))

    def read_sum(self, run_id: RunId, round: int) -> NDArray[np.uint32]:
        """An opened sum: uint32, shape (d,)."""
        return self.sums[run_id, round]

    def write_input(self, key: AttemptKey, org_id: OrgId, data: bytes) -> None:
        """A verified masked input, packed little-endian u32. The first one stays; PeerError `input_differs`."""
        if self.inputs.setdefault((key, org_id), data) != data:
            raise PeerError("input_differs", f"the input of {org_id} was already stored with another content")

    def read_input_piece(self, key: AttemptKey, org_id: OrgId, start: int, count: int) -> NDArray[np.uint32]:
        """Coordinates start .. start+count of a spooled masked input: uint32."""
        return np.frombuffer(self.inputs[key, org_id], dtype="<u4")[start : start + count]

    def discard_inputs(self, key: AttemptKey) -> None:
        """Inputs of an attempt that is over."""
        self.inputs = {place: data for place, data in self.inputs.items() if place[0] != key}


@dataclass(frozen=True, slots=True)
class Kept:
    """The standing facts of a participant, as its journal holds them."""

    high_water: dict[RunId, tuple[int, int]] = field(default_factory=dict)
    spent: frozenset[SpentKey] = frozenset()
    opened: frozenset[OpenedSum] = frozenset()


@dataclass(slots=True)
class ParticipantMemory:
    """One participant's journal, masked inputs, updates and final models."""

    stage: tuple[str, bytes] | None = None
    kept: Kept = field(default_factory=Kept)
    trail: list[tuple[str, AttemptKey, tuple[tuple[str, str], ...]]] = field(default_factory=list)
    notes: list[tuple[str, tuple[tuple[str, str], ...]]] = field(default_factory=list)
    plans: dict[RunId, tuple[bytes, bytes, bytes]] = field(default_factory=dict)
    inputs: dict[AttemptKey, NDArray[np.uint32]] = field(default_factory=dict)
    updates: dict[SpentKey, tuple[bytes, NDArray[np.float64]]] = field(default_factory=dict)
    ends: dict[RunId, tuple[bytes, str, bytes]] = field(default_factory=dict)
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
        )
        self.trail.append((kind, key, trail))

    def load(self) -> Stage:
        """The stage a restart finds."""
        return Idle() if self.stage is None else _STAGES.decode(*self.stage)

    def write_input(self, key: AttemptKey, ring: NDArray[np.uint32]) -> None:
        """The masked input of an attempt."""
        self.inputs[key] = ring.copy()

    def read_input(self, key: AttemptKey) -> NDArray[np.uint32]:
        """The masked input of an attempt; StorageError `input_gone` once it was discarded."""
        if key not in self.inputs:
            raise StorageError("input_gone", "the masked input of this attempt was discarded")
        return self.inputs[key]

    def discard_input(self, key: AttemptKey) -> None:
        """Delete the masked input of an attempt."""
        self.inputs.pop(key, None)

    def put_update(self, key: SpentKey, model_hash: bytes, values: NDArray[np.float64]) -> None:
        """The update made for a spent key."""
        self.updates[key] = (model_hash, values.copy())

    def get_update(self, key: SpentKey) -> tuple[bytes, NDArray[np.float64]] | None:
        """The update made for a spent key, if it is kept."""
        return self.updates.get(key)

    def drop_update(self, key: SpentKey) -> None:
        """Delete an update."""
        self.updates.pop(key, None)

    def admit_version(self, dataset: str, version: bytes) -> None:
        """A simulated member has no earlier journal whose spending it could have forgotten."""

    def drop_updates(self) -> None:
        """Delete every update."""
        self.updates.clear()

    def save_plan(self, run_id: RunId, plan_hash: bytes, canonical: bytes, version: bytes) -> None:
        """A run's plan and the data version it was accepted for."""
        self.plans[run_id] = (plan_hash, canonical, version)

    def save_roster(self, signed: bytes) -> None:
        """The pinned roster; no newer one waits."""
        self.roster, self.newer = signed, b""

    def save_newer_roster(self, signed: bytes) -> None:
        """A newer roster, which waits for the end of the open attempt."""
        self.newer = signed

    def save_end(self, run_id: RunId, plan_hash: bytes, code: str, model_file: bytes) -> None:
        """How a run ended, and its final model."""
        self.ends[run_id] = (plan_hash, code, model_file)

    def has_end(self, run_id: RunId) -> bool:
        """Whether the end of a run is stored."""
        return run_id in self.ends

    def note(self, kind: str, facts: tuple[tuple[str, str], ...]) -> None:
        """A refusal, for the local record."""
        self.notes.append((kind, facts))
