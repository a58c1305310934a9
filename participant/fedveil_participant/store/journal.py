"""The participant's journal: the one open stage, sealed, and the facts that outlive it.

Promise: stage, standing changes and trail row are one transaction; the stage REPLACES the one before, and if it holds
a secret less, what it overwrote is emptied from database and log before `save` returns: a secret that a stage no longer
holds is gone from this folder. Nothing here leaves the organisation.
Source: FLSA/1 sections 2.8 and 2.9 with A3, A9, A10 (docs/protocol.md).
"""

import dataclasses
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from fedveil_common import durable, jcs
from fedveil_common.crypto.labels import u64
from fedveil_common.database import Database
from fedveil_common.dp import entries as ledger_entries
from fedveil_common.errors import StorageError
from fedveil_common.ids import AttemptKey, RunId
from fedveil_common.leaffile import LeafFile, LeafWriter
from fedveil_common.leafshape import Shape
from fedveil_common.messages import Purpose
from fedveil_common.ports import Clock
from fedveil_common.ringfile import RingWriter
from fedveil_common.rows import Row, Value
from fedveil_common.sealer import Sealer
from fedveil_common.secret import Secret, Seed
from fedveil_common.snapshot import SnapshotCodec

from fedveil_participant.events import Changes, LedgerEntry, OpenedSum, SpentKey, TagKey
from fedveil_participant.stages import STAGES, Idle, OpenStage, Stage
from fedveil_participant.state import LifetimeLimit
from fedveil_participant.store import consents, tables
from fedveil_participant.store.trail import facts_text
from fedveil_participant.store.updates import spent_columns

_ANSWER = "+answer-"
"""What stands beside an input is told from it by a character that no id has."""

_STAGES: SnapshotCodec[OpenStage] = SnapshotCodec(STAGES)


@dataclass(frozen=True, slots=True)
class Standing:
    """What outlives every attempt: the highest (round, attempt) of each run, spent keys, sums voted for, checksum keys
    of sums that are still to be checked, runs in which a false sum was signed, the entries of the privacy ledgers in
    order, the limits of data sets over all runs, and the sketches of accepted data versions.
    """

    high_water: Mapping[RunId, tuple[int, int]]
    spent: frozenset[SpentKey]
    opened: frozenset[OpenedSum]
    tag_keys: tuple[TagKey, ...]
    disputed: frozenset[RunId]
    ledger: tuple[LedgerEntry, ...] = ()
    lifetimes: Mapping[str, LifetimeLimit] = field(default_factory=dict)
    sketches: Mapping[bytes, bytes] = field(default_factory=dict)


class RoundJournal:
    """Stage, standing facts, inputs and answers; with every stage its row of the trail. Any thread. Every method may
    raise StorageError.
    """

    def __init__(self, database: Database, sealer: Sealer, folder: Path, clock: Clock) -> None:
        self._database = database
        self._sealer = sealer
        self._inputs = folder
        self._clock = clock
        self._held: frozenset[bytes] | None = None  # digests of the secrets in the stored stage, once it was saved here
        durable.make_folder(folder)
        durable.sweep(folder)
        self._drop_leftovers()

    def _drop_leftovers(self) -> None:
        """Inputs and answers whose attempt is over."""
        with self._database.read() as connection:
            stage = tables.STAGE.one(connection)
        current = None if stage is None else self._input(_key(stage))
        for path in list(self._inputs.iterdir()):
            if current is None or (path != current and not path.name.startswith(current.name + _ANSWER)):
                durable.remove(path)

    # --- the stage ----------------------------------------------------------------------------------------------------

    def save(
        self, key: AttemptKey, stage: Stage, kind: str, trail: tuple[tuple[str, str], ...], changes: Changes
    ) -> None:
        """Replace the stage (Idle: none is open), apply the changes, append to the trail: together or not at all.
        PolicyRefusal `approval_gone` if the admission among the changes no longer holds.
        """
        with self._database.write() as connection:
            if changes.admission is not None:
                consents.admit(connection, changes.admission, self._clock.wall_s())
                trail = (*trail, *consents.admission_facts(changes.admission))
            tables.STAGE.delete(connection)
            if not isinstance(stage, Idle):
                name = type(stage).__name__
                sealed = self._sealer.seal(_STAGES.encode(stage), *_stage_name(name, key))
                tables.STAGE.insert(connection, one=1, **_attempt(key), kind=name, sealed=sealed)
            if changes.high_water is not None:
                tables.HIGH_WATER.put(connection, **_attempt(changes.high_water))
            for spent in changes.free:
                tables.SPENT.delete(connection, **spent_columns(spent))
            for spent in changes.spend:
                tables.SPENT.put(connection, **spent_columns(spent))
            for opened in changes.opened:
                tables.OPENED.put(
                    connection, run_id=opened.run_id, round=opened.round, t3=opened.t3, result=opened.result
                )
            for one in changes.checked:
                tables.TAG_KEYS.delete(connection, run_id=one.run_id, round=one.round, t3=one.t3)
            for one in changes.tag_keys:
                sealed = self._sealer.seal(one.key.expose(), *_tag_key_name(one.run_id, one.round, one.t3))
                tables.TAG_KEYS.put(connection, run_id=one.run_id, round=one.round, t3=one.t3, sealed=sealed)
            for run_id in changes.disputed:
                tables.DISPUTED.put(connection, run_id=run_id)
            entries: list[dict[str, Value]] = [
                {
                    "wall_s": self._clock.wall_s(),
                    "dataset": one.dataset,
                    "entry": jcs.dumps(ledger_entries.encode(one.entry)),
                }
                for one in changes.ledger
            ]
            tables.LEDGER.append(connection, entries)
            row: dict[str, Value] = {
                "wall_s": self._clock.wall_s(),
                **_attempt(key),
                "kind": kind,
                "facts": facts_text(trail),
            }
            tables.TRAIL.append(connection, [row])
        kept = secrets_in(stage)
        if self._held is None or self._held - kept or changes.checked:
            self._database.erase_history()
        self._held = kept

    def load(self) -> Stage:
        """The stage a restart finds. IntegrityError `aead_failed` (another journal key), `journal_damaged`."""
        with self._database.read() as connection:
            row = tables.STAGE.one(connection)
        if row is None:
            return Idle()
        kind = row.text("kind")
        return _STAGES.decode(kind, self._sealer.open(row.blob("sealed"), *_stage_name(kind, _key(row))))

    def standing(self) -> Standing:
        """The standing facts."""
        with self._database.read() as connection:
            high_water = tables.HIGH_WATER.select(connection)
            spent = tables.SPENT.select(connection)
            opened = tables.OPENED.select(connection)
            tag_keys = sorted(
                tables.TAG_KEYS.select(connection),
                key=lambda row: (row.text("run_id"), row.integer("round"), row.blob("t3")),
            )
            disputed = tables.DISPUTED.select(connection)
            ledger = tables.LEDGER.select(connection)
            limits = tables.LIFETIMES.select(connection)
            sketches = tables.SKETCHES.select(connection)
        return Standing(
            {RunId(row.text("run_id")): (row.integer("round"), row.integer("attempt")) for row in high_water},
            frozenset(_spent_key(row) for row in spent),
            frozenset(
                OpenedSum(RunId(row.text("run_id")), row.integer("round"), row.blob("t3"), row.blob("result"))
                for row in opened
            ),
            tuple(self._tag_key(row) for row in tag_keys),
            frozenset(RunId(row.text("run_id")) for row in disputed),
            tuple(
                LedgerEntry(row.text("dataset"), ledger_entries.decode(jcs.loads(row.blob("entry"))))
                for row in sorted(ledger, key=lambda row: row.integer("seq"))
            ),
            {row.text("dataset"): LifetimeLimit(row.real("max_epsilon"), row.real("delta")) for row in limits},
            {row.blob("version"): row.blob("sketch") for row in sketches},
        )

    def _tag_key(self, row: Row) -> TagKey:
        place = RunId(row.text("run_id")), row.integer("round"), row.blob("t3")
        return TagKey(*place, Seed(self._sealer.open(row.blob("sealed"), *_tag_key_name(*place))))

    # --- inputs and answers -------------------------------------------------------------------------------------------

    def new_input(self, key: AttemptKey, length: int, bits: int) -> RingWriter:
        """The masked input of an attempt on its way in: what the coordinator will be sent, and nothing else. Durable
        once it is finished.
        """
        return RingWriter(self._input(key), length, bits)

    def new_blocks(self, key: AttemptKey, shape: Shape) -> LeafWriter:
        """The encrypted input of an attempt on its way in, as `new_input`."""
        return LeafWriter(self._input(key), shape)

    def open_input(self, key: AttemptKey) -> LeafFile:
        """The masked or encrypted input, to be closed. StorageError `input_gone` once it was discarded."""
        try:
            return LeafFile(self._input(key))
        except StorageError as error:
            if error.code != "ring_file_missing":
                raise
            raise StorageError("input_gone", "the masked input of this attempt was discarded") from error

    def new_answer(self, key: AttemptKey, quorum: tuple[int, ...], shape: Shape) -> LeafWriter:
        """This holder's partial decryptions for a quorum (holders by index) on their way in, as `new_input`."""
        return LeafWriter(self._answer(key, quorum), shape)

    def open_answer(self, key: AttemptKey, quorum: tuple[int, ...]) -> LeafFile:
        """The partial decryptions for a quorum, to be closed. StorageError `answer_gone` if there are none: never
        made, or discarded.
        """
        try:
            return LeafFile(self._answer(key, quorum))
        except StorageError as error:
            if error.code != "ring_file_missing":
                raise
            raise StorageError("answer_gone", "no answer of this attempt for this quorum is stored") from error

    def discard_input(self, key: AttemptKey) -> None:
        """The input of an attempt is gone, and with it every answer."""
        with durable.storing(self._inputs):
            answers = list(self._inputs.glob(f"{self._input(key).name}{_ANSWER}*"))
        for path in (*answers, self._input(key)):
            durable.remove(path)

    def _input(self, key: AttemptKey) -> Path:
        return self._inputs / f"{key.run_id}.{key.round}.{key.attempt}"

    def _answer(self, key: AttemptKey, quorum: tuple[int, ...]) -> Path:
        return self._inputs / f"{self._input(key).name}{_ANSWER}{'-'.join(map(str, quorum))}"


def secrets_in(value: object) -> frozenset[bytes]:
    """SHA-256 of every secret in a stage: which ones, without holding them twice."""
    if isinstance(value, Secret):
        return frozenset({hashlib.sha256(value.expose()).digest()})
    if isinstance(value, tuple):
        return frozenset().union(*map(secrets_in, value))
    if dataclasses.is_dataclass(value):
        return frozenset().union(*(secrets_in(getattr(value, one.name)) for one in dataclasses.fields(value)))
    return frozenset()


def _attempt(key: AttemptKey) -> dict[str, Value]:
    return {"run_id": key.run_id, "round": key.round, "attempt": key.attempt}


def _key(row: Row) -> AttemptKey:
    return AttemptKey(RunId(row.text("run_id")), row.integer("round"), row.integer("attempt"))


def _stage_name(kind: str, key: AttemptKey) -> tuple[bytes, ...]:
    return b"stage", kind.encode(), key.run_id.encode(), u64(key.round), u64(key.attempt)


def _tag_key_name(run_id: RunId, round: int, t3: bytes) -> tuple[bytes, ...]:
    return b"tag_key", run_id.encode(), u64(round), t3


def _spent_key(row: Row) -> SpentKey:
    return SpentKey(row.text("dataset"), row.blob("version"), Purpose(row.text("purpose")), row.blob("subject"))
