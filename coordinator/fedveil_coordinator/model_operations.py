"""What an operator asks about models, as functions on plain values: lists, one version, decisions, files.

Promise: each runs on the driver's thread, between events; what is told to participants is durable before. A model that
is handed out was derived again from the sums, and is the one whose manifest was signed.
"""

import base64
from collections.abc import Callable
from typing import Protocol, TypeVar

from fedveil_common import modelfile
from fedveil_common import plan as plans
from fedveil_common.errors import ConfigError
from fedveil_common.ids import RunId
from fedveil_common.messages import SignedBlob
from fedveil_common.noise import rests_on
from fedveil_common.plan import Kind
from fedveil_common.registry import release
from fedveil_common.registry.identity import ModelRef
from fedveil_common.registry.stages import Move, Stage
from fedveil_common.registry.statement import MAX_REASON, Statement

from fedveil_coordinator import facts
from fedveil_coordinator.driver import Driver
from fedveil_coordinator.registry import Registry, Version, metrics_of
from fedveil_coordinator.reporting import Plain
from fedveil_coordinator.store import CoordinatorStore
from fedveil_coordinator.trust import TrustInForce

T = TypeVar("T")


class Ask(Protocol):
    """Runs work on the driver's thread and waits for it."""

    def __call__(self, work: Callable[[], T]) -> T:
        """What `work` returns; what it raises."""
        ...


class ModelOperations:
    """The operator's side of the registry."""

    def __init__(
        self, ask: Ask, driver: Driver, registry: Registry, store: CoordinatorStore, trust: TrustInForce
    ) -> None:
        self._ask = ask
        self._driver = driver
        self._registry = registry
        self._store = store
        self._trust = trust

    def list_models(self) -> list[Plain]:
        """The final model of each ended training run, oldest first."""
        return self._ask(self._list)

    def _list(self) -> list[Plain]:
        found: list[Plain] = []
        for row in self._store.journal.runs():
            plan = plans.parse_canonical(row.canonical_plan)
            bodies = self._store.journal.facts_of_kind(row.run_id, facts.Ended.__name__)
            ended = [facts.decode(facts.Ended.__name__, body) for body in bodies]
            blobs = [blob for one in ended if isinstance(one, facts.Ended) for blob in one.model]
            if plan.kind is not Kind.TRAIN or not ended:
                continue
            entry: Plain = {"run_id": row.run_id, "code": row.code, "plan": plan.name, "stage": None}
            for blob in blobs:
                ref = ModelRef.of(modelfile.parse_manifest(blob.body))
                signed = len(self._registry.countersigners(row.run_id))
                entry |= {"stage": self._registry.stage(ref.model_id).value, "countersigned": signed, **ref.to_json()}
            found.append(entry)
        return found

    def get_model(self, name: str) -> Plain:
        """One version, with every version of its run. ConfigError as `Registry.version`."""
        return self._ask(lambda: self._report(self._registry.version(name)))

    def _report(self, version: Version) -> Plain:
        registry, state, manifest = self._registry, version.state, version.manifest
        ref = ModelRef.of(manifest)
        said = registry.facts(version)
        trusted = rests_on(state.plan) == "coordinator"
        vouched = version.final and not trusted
        rounds = [record for record in state.records if record.round <= manifest.round]
        return {
            "version": version.name,
            "final": version.final,
            "stage": registry.stage(ref.model_id).value,
            **ref.to_json(),
            "plan": state.plan.name,
            "roster_version": manifest.roster_version,
            "transcript": manifest.transcript.hex(),
            "facts": said.to_json(),
            "lineage": [
                {"round": one.round, "purpose": one.purpose.value, "survivors": list(one.survivors)} for one in rounds
            ],
            "countersigned": [blob.signer_id for blob in registry.countersigners(manifest.run_id)] if vouched else [],
            "countersignatures_needed": registry.needed(manifest.run_id) if vouched else None,
            "decisions": [_decision(one, ref.model_id) for one in registry.decisions(ref.model_id)],
            "versions": [
                {
                    "version": f"{manifest.run_id}:{one.round}",
                    "steps": one.step,
                    "model_hash": one.model_hash.hex(),
                    "metrics": metrics_of(state, one.step),
                }
                for one in state.versions
            ],
        }

    def decide(self, move: str, name: str, to: str, reason: str, who: str) -> Plain:
        """A decision of `who`: it is durable and everyone connected was told when this returns. The version after it.

        ConfigError `reason_missing`, `bad_stage`; those of `Registry`.
        """
        if len(reason) > MAX_REASON or (move != Move.PROMOTE and not reason.strip()):
            raise ConfigError("reason_missing", f"a reason of 1 to {MAX_REASON} characters must be given")

        def work() -> Plain:
            registry = self._registry
            retired: list[str] = []
            match move:
                case Move.PROMOTE:
                    version = registry.promote(name, _stage(to), who, reason)
                case Move.RETIRE:
                    version = registry.retire(name, who, reason)
                case Move.WITHDRAW:
                    version = registry.withdraw(name, who, reason)
                case Move.ROLLBACK:
                    version, others = registry.rollback(name, who, reason)
                    retired = [str(one) for one in others]
                case _:
                    raise ConfigError("bad_stage", f"there is no decision {move!r}")
            self._driver.publish_status()
            report: Plain = {**self._report(version), "retired": retired}
            if move == Move.WITHDRAW:
                report["descend"] = self._descend(version.manifest.run_id)
            return report

        return self._ask(work)

    def _descend(self, run_id: RunId) -> list[Plain]:
        """The models that go on from that of a run and were not withdrawn themselves: for whoever just withdrew it."""
        found: list[Plain] = []
        for entry in self._list():
            earlier = self._registry.version(str(entry["run_id"])).state.plan.earlier_runs if entry["stage"] else ()
            if run_id in earlier and entry["stage"] != Stage.WITHDRAWN:
                found.append({"run_id": entry["run_id"], "stage": entry["stage"]})
        return found

    def status(self) -> bytes:
        """The file of the status list in force."""
        return self._registry.status()

    def export(self, name: str) -> bytes:
        """The model file of a version: of one that was released, with its statement and countersignatures.

        ConfigError as `Registry.version`; IntegrityError `registry_damaged`.
        """
        return self._ask(lambda: self._file(self._registry.version(name)))

    def _file(self, version: Version) -> bytes:
        manifest, lineage = version.manifest, self._registry.derive(version)
        rosters = self._store.records.rosters()
        file = modelfile.ModelFile(
            plan=version.state.plan,
            model=lineage.model,
            standardisation=lineage.standardisation,
            lineage=modelfile.lineage_text(manifest, version.step),
            signatures=(version.blob,),
            trust_chain=base64.b64encode(self._trust.trust_chain).decode(),
            roster=base64.b64encode(rosters[manifest.roster_version]).decode(),
        )
        said = self._registry.releasing(ModelRef.of(manifest).model_id)
        if said is not None:
            blobs: tuple[SignedBlob, ...] = ()
            if rests_on(version.state.plan) != "coordinator":
                blobs = self._registry.countersigners(manifest.run_id)
            file = release.released_file(file, said, blobs)
        return modelfile.write_model(file)


def _stage(text: str) -> Stage:
    try:
        return Stage(text)
    except ValueError:
        raise ConfigError(
            "bad_stage", f"there is no stage {text!r}", next_step="draft, candidate, released, retired, withdrawn"
        ) from None


def _decision(said: Statement, identity: bytes) -> Plain:
    change = next(one for one in said.changes if one.model.model_id == identity)
    return {
        "number": said.number,
        "made_s": said.made_s,
        "who": said.who,
        "move": said.move.value,
        "from": change.before.value,
        "to": change.after.value,
        "reason": said.reason,
    }
