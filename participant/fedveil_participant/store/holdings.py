"""What an organisation holds beside its rounds: keys, registered data, accepted plans, ends of runs.

Invariant: the protocol key exists only sealed in the journal (no journal, no key); after a re-key the data versions
that are present count as spent until the organisation's own operator says otherwise, for a reason that stays on record.
Source: FLSA/1 with A2 and A3 (docs/protocol.md).
"""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import sqlalchemy as sa
from fedveil_common.database import Database
from fedveil_common.errors import ConfigError, PolicyRefusal, SealedError, StorageError
from fedveil_common.ids import RunId
from fedveil_common.ports import Clock, Entropy
from fedveil_common.rows import Value
from fedveil_common.sealer import Sealer
from fedveil_common.secret import PrivateKey, Seed

from fedveil_participant.store import consents, tables
from fedveil_participant.store.models import Models
from fedveil_participant.store.trail import facts_text

_PROTOCOL_KEY, _VERSION_KEY = "protocol_key", "data_version_key"
_REKEYED, _ROSTER, _NEWER_ROSTER = "rekeyed", "roster", "newer_roster"


def carried(dataset: str) -> str:
    """The name of the mark of a data set whose ledger was carried on after a re-key."""
    return f"carried/{dataset}"


@dataclass(frozen=True, slots=True)
class StoredPlan:
    """A run's plan and the version label of the data that it was accepted for (local, never sent)."""

    run_id: RunId
    plan_hash: bytes
    canonical: bytes
    version: bytes


@dataclass(frozen=True, slots=True)
class StoredEnd:
    """How a run ended here; `has_model` says whether a verified final model is kept."""

    run_id: RunId
    plan_hash: bytes
    code: str
    has_model: bool
    wall_s: float


class Holdings:
    """Any thread. Every method may raise StorageError."""

    def __init__(self, database: Database, models: Models, sealer: Sealer, clock: Clock, entropy: Entropy) -> None:
        self._database = database
        self._models = models
        self._sealer = sealer
        self._clock = clock
        self._entropy = entropy

    def _drop_unnamed_models(self) -> None:
        """Models that a crash left without a row. Only for the holder of the lock: to anyone else, a model whose row
        is about to be written looks the same.
        """
        with self._database.read() as connection:
            kept = frozenset(row.blob("model") for row in tables.ENDS.select(connection))
        self._models.keep_only(kept)

    # --- keys ---------------------------------------------------------------------------------------------------------

    def set_protocol_key(self, key: PrivateKey) -> None:
        """The Ed25519 protocol key of this membership; an earlier one is erased."""
        self._set_secret(_PROTOCOL_KEY, key.expose())
        self._database.erase_history()

    def protocol_key(self) -> PrivateKey:
        """The Ed25519 protocol key. SealedError `no_protocol_key` if this journal holds none."""
        found = self._secret(_PROTOCOL_KEY)
        if found is None:
            raise SealedError(
                "no_protocol_key",
                "this journal holds no protocol key",
                not_done="no attempt is joined",
                next_step="fedveil join, or ask the operator for `fedveil invite ORG --rekey`",
            )
        return PrivateKey(found)

    def data_version_key(self) -> Seed:
        """The local key under which data versions are labelled; made at the first call, then always the same."""
        with self._database.write() as connection:
            row = tables.SECRETS.one(connection, name=_VERSION_KEY)
            if row is not None:
                return Seed(self._sealer.open(row.blob("sealed"), _VERSION_KEY.encode()))
            made = Seed(self._entropy.take(32))
            self._put_secret(connection, _VERSION_KEY, made.expose())
        return made

    def _set_secret(self, name: str, value: bytes) -> None:
        with self._database.write() as connection:
            self._put_secret(connection, name, value)

    def _put_secret(self, connection: sa.Connection, name: str, value: bytes) -> None:
        tables.SECRETS.put(connection, name=name, sealed=self._sealer.seal(value, name.encode()))

    def _secret(self, name: str) -> bytes | None:
        with self._database.read() as connection:
            row = tables.SECRETS.one(connection, name=name)
        return None if row is None else self._sealer.open(row.blob("sealed"), name.encode())

    # --- the roster ---------------------------------------------------------------------------------------------------

    def save_roster(self, signed: bytes) -> None:
        """The pinned roster, as signed; no newer one waits."""
        with self._database.write() as connection:
            tables.MARKS.put(connection, name=_ROSTER, value=signed)
            tables.MARKS.delete(connection, name=_NEWER_ROSTER)

    def save_newer_roster(self, signed: bytes) -> None:
        """A newer roster, as signed, which waits for the end of the open attempt."""
        self._mark(_NEWER_ROSTER, signed)

    def newer_roster(self) -> bytes:
        """The roster that waits; empty if none does."""
        return self._marked(_NEWER_ROSTER) or b""

    def roster(self) -> bytes:
        """The pinned roster; empty before the first."""
        return self._marked(_ROSTER) or b""

    def _mark(self, name: str, value: bytes) -> None:
        with self._database.write() as connection:
            tables.MARKS.put(connection, name=name, value=value)

    def _marked(self, name: str) -> bytes | None:
        with self._database.read() as connection:
            row = tables.MARKS.one(connection, name=name)
        return None if row is None else row.blob("value")

    # --- data and plans -----------------------------------------------------------------------------------------------

    def save_dataset(self, name: str, path: Path) -> None:
        """The table registered under `name`; a new one, or another path, is in the trail."""
        with self._database.write() as connection:
            before = tables.DATASETS.one(connection, name=name)
            if before is None or before.text("path") != str(path):
                tables.TRAIL.append(connection, [self._note("data_registered", dataset=name, path=str(path))])
            tables.DATASETS.put(connection, name=name, path=str(path))

    def datasets(self) -> dict[str, Path]:
        """Registered tables by name."""
        with self._database.read() as connection:
            return {row.text("name"): Path(row.text("path")) for row in tables.DATASETS.select(connection)}

    def accept_plan(self, plan_hash: bytes) -> bool:
        """The owner passed this hash with --accept. The first time is in the trail. False if somebody has denied the
        plan: then the command line, which a service repeats at every start, is no word any more.
        """
        with self._database.write() as connection:
            if consents.denied_before(connection, plan_hash):
                return False
            if tables.ACCEPTED.one(connection, plan_hash=plan_hash) is None:
                tables.TRAIL.append(connection, [self._note("plan_accepted", plan=plan_hash.hex(), by="--accept")])
            tables.ACCEPTED.put(connection, plan_hash=plan_hash, wall_s=self._clock.wall_s())
        return True

    def accepted(self) -> frozenset[bytes]:
        """Every plan hash that the owner accepted."""
        with self._database.read() as connection:
            return frozenset(row.blob("plan_hash") for row in tables.ACCEPTED.select(connection))

    def save_plan(self, run_id: RunId, plan_hash: bytes, canonical: bytes, version: bytes) -> None:
        """The plan of a run that was answered with yes, and the data version it was accepted for."""
        with self._database.write() as connection:
            tables.PLANS.put(connection, run_id=run_id, plan_hash=plan_hash, canonical=canonical, version=version)

    def plans(self) -> list[StoredPlan]:
        """Every run that was answered with yes."""
        with self._database.read() as connection:
            found = tables.PLANS.select(connection)
        return [
            StoredPlan(RunId(row.text("run_id")), row.blob("plan_hash"), row.blob("canonical"), row.blob("version"))
            for row in found
        ]

    # --- after a re-key -----------------------------------------------------------------------------------------------

    def mark_rekeyed(self) -> None:
        """This journal begins a membership anew: what its predecessor spent is not known."""
        self._mark(_REKEYED, b"yes")

    def spent_all(self, dataset: str, versions: Iterable[bytes]) -> None:
        """These versions count as spent for every plan without DP."""
        with self._database.write() as connection:
            for version in versions:
                tables.PRESUMED_SPENT.put(connection, dataset=dataset, version=version)

    def admit_version(self, dataset: str, version: bytes) -> None:
        """PolicyRefusal `version_presumed_spent` if this data may have been summed before a re-key.

        After a re-key that is every version: which ones were present is lost with the journal (and with it the key that
        labels them), so one that was summed cannot be told from a new one. `forgive_spent` settles the data set.
        """
        with self._database.read() as connection:
            if tables.FORGIVEN.one(connection, dataset=dataset) is not None:
                return
            rekeyed = tables.MARKS.one(connection, name=_REKEYED) is not None
            presumed = tables.PRESUMED_SPENT.one(connection, dataset=dataset, version=version) is not None
        if rekeyed or presumed:
            raise PolicyRefusal(
                "version_presumed_spent",
                f"this version of {dataset} may have been summed before the journal was lost",
                not_done="the plan was not accepted",
                next_step=f"fedveil budget set {dataset} --reason TEXT, if you know that it was not",
            )

    def admit_ledger(self, dataset: str) -> None:
        """PolicyRefusal `ledger_not_carried` if what this data set spent of privacy was lost with an earlier journal.

        It says nothing about the version: the ledger is over all of them (D7).
        """
        if self._marked(_REKEYED) is not None and self._marked(carried(dataset)) is None:
            raise PolicyRefusal(
                "ledger_not_carried",
                f"the ledger of {dataset} was lost with the journal, so what it may still spend is not known",
                not_done="the plan was not accepted",
                next_step=f"get `budget record` of the operator, then fedveil budget carry {dataset} --record FILE",
            )

    def forgive_spent(self, dataset: str, reason: str) -> None:
        """The operator's own decision: what a re-key presumed spent for `dataset` is not. What this journal itself
        recorded as spent stays. ConfigError `reason_missing`.
        """
        if not reason.strip():
            raise ConfigError("reason_missing", "a reason must be given", next_step="--reason TEXT")
        now, trail = self._clock.wall_s(), self._note("budget_set", dataset=dataset, reason=reason)
        with self._database.write() as connection:
            tables.PRESUMED_SPENT.delete(connection, dataset=dataset)
            tables.FORGIVEN.put(connection, dataset=dataset, wall_s=now, reason=reason)
            tables.TRAIL.append(connection, [trail])

    def _note(self, kind: str, **facts: str) -> dict[str, Value]:
        """A row of the trail that belongs to no attempt, for the transaction of what it is about."""
        return {
            "wall_s": self._clock.wall_s(),
            "run_id": "",
            "round": 0,
            "attempt": 0,
            "kind": kind,
            "facts": facts_text(tuple(facts.items())),
        }

    # --- ends of runs -------------------------------------------------------------------------------------------------

    def save_end(self, run_id: RunId, plan_hash: bytes, code: str, model_file: bytes) -> None:
        """How a run ended, and its verified final model (empty: none). The first end that was stored stays."""
        model = self._models.put(run_id, model_file) if model_file else b""
        with self._database.write() as connection:
            if tables.ENDS.one(connection, run_id=run_id) is None:
                tables.ENDS.insert(
                    connection,
                    run_id=run_id,
                    plan_hash=plan_hash,
                    code=code,
                    model=model,
                    wall_s=self._clock.wall_s(),
                )
            tables.TAG_KEYS.delete(connection, run_id=run_id)

    def has_end(self, run_id: RunId) -> bool:
        """Whether the end of a run is stored."""
        with self._database.read() as connection:
            return tables.ENDS.one(connection, run_id=run_id) is not None

    def ends(self) -> list[StoredEnd]:
        """Every run that ended here, oldest first."""
        with self._database.read() as connection:
            found = tables.ENDS.select(connection)
        return [
            StoredEnd(
                RunId(row.text("run_id")),
                row.blob("plan_hash"),
                row.text("code"),
                bool(row.blob("model")),
                row.real("wall_s"),
            )
            for row in found
        ]

    def model(self, run_id: RunId) -> bytes:
        """The final model file of a run. ConfigError `unknown_model`; errors of `Models.get`."""
        name = self._model_name(run_id)
        try:
            return self._models.get(run_id, name)
        except StorageError:
            again = self._model_name(run_id)
            if again == name:
                raise
        return self._models.get(run_id, again)  # the holder of the lock sealed it meanwhile

    def _model_name(self, run_id: RunId) -> bytes:
        with self._database.read() as connection:
            row = tables.ENDS.one(connection, run_id=run_id)
        if row is None or not row.blob("model"):
            raise ConfigError("unknown_model", f"no final model of run {run_id} is kept here")
        return row.blob("model")
