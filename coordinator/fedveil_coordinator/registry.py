"""The registry of models: every version with its stage, and the operator's decisions about them, signed.

Promise: a decision is durable, together with the status list that follows from it, before anybody hears of it; none is
signed for a model that does not follow again from the opened sums, and no release without the quorum that its
verifiers will ask for. Invariant: no parameters are kept here, only what was signed. Decisions and `countersigned` run
on the driver's thread, `status` on any. Source: docs/registry.md.
"""

import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from fedveil_common import private_sum, wire
from fedveil_common.crypto.labels import h
from fedveil_common.errors import ConfigError, FedveilError, IntegrityError, PeerError, PolicyRefusal
from fedveil_common.ids import OrgId, RunId
from fedveil_common.messages import BlobType, Manifest, Purpose, SignedBlob, StatusNotice
from fedveil_common.modelfile import ModelManifest, parse_manifest
from fedveil_common.noise import rests_on
from fedveil_common.plan import Plan
from fedveil_common.ports import Clock, Failpoints
from fedveil_common.provenance import Lineage
from fedveil_common.registry import countersignature, statement, status
from fedveil_common.registry.countersignature import Countersigned
from fedveil_common.registry.identity import ModelRef
from fedveil_common.registry.stages import Move, Stage, check_move
from fedveil_common.registry.statement import OPERATOR_ONLY, QUORUM, Change, ReleaseFacts, Statement
from fedveil_common.registry.status import Listed, StatusList
from fedveil_common.roster import Roster
from fedveil_common.secret import PrivateKey

from fedveil_coordinator.run import ModelVersion, RunState, sign_model
from fedveil_coordinator.store.stages import KeptStatus, Stages
from fedveil_coordinator.sums import Sums
from fedveil_coordinator.trust import TrustInForce

REMEMBERED = 64
"""Runs of which it is remembered what their members countersign."""


@dataclass(frozen=True, slots=True)
class Version:
    """One model of a run: after `step` steps, signed. `final`: the one with which the run ended."""

    state: RunState
    step: int
    blob: SignedBlob
    manifest: ModelManifest
    final: bool

    @property
    def name(self) -> str:
        """How people name it."""
        return self.manifest.run_id if self.final else f"{self.manifest.run_id}:{self.manifest.round}"


class Registry:
    """The stages of every model, as they were decided so far."""

    def __init__(
        self,
        state_of: Callable[[RunId], RunState],
        sums: Sums,
        store: Stages,
        trust: TrustInForce,
        roster_of: Callable[[int], Roster],
        key: PrivateKey,
        clock: Clock,
        failpoints: Failpoints,
        publish: Callable[[bytes], None],
    ) -> None:
        """`state_of`: of any run, ConfigError `unknown_run`. `roster_of`: version -> the roster. `publish`: takes each
        new status list, once it is durable, for whoever looks without asking; it may be told one again.

        IntegrityError `registry_damaged` if the log is not whole.
        """
        self._state_of = state_of
        self._sums = sums
        self._store = store
        self._trust = trust
        self._roster_of = roster_of
        self._key = key
        self._clock = clock
        self._failpoints = failpoints
        self._publish = publish
        self._lock = threading.RLock()
        self._due: OrderedDict[RunId, tuple[Countersigned, Roster]] = OrderedDict()
        self._blobs = store.statements()
        try:
            self._log = [statement.verify(blob, trust.trust) for blob in self._blobs]
            self._stages = statement.fold(self._log)
        except FedveilError as error:
            raise IntegrityError(
                "registry_damaged",
                f"the log of stages in the coordinator's database is not what was signed ({error.code})",
                not_done="the coordinator did not start",
                next_step="restore a whole backup",
            ) from error

    # --- versions -----------------------------------------------------------------------------------------------------

    def version(self, name: str) -> Version:
        """RUN: the final model of a run; RUN:ROUND: what the sum of a round led to.

        ConfigError `unknown_run`, `no_model`, `unknown_version`.
        """
        run, _, number = name.partition(":")
        state = self._state_of(RunId(run))
        blob: SignedBlob | None = state.ended.model[0] if state.ended is not None and state.ended.model else None
        if not number:
            if blob is None:
                raise ConfigError("no_model", f"run {run} has no final model", next_step="fedveil run show RUN")
            return self._signed(state, blob, final=True)
        found = next((one for one in state.versions if str(one.round) == number), None)
        if found is None:
            raise ConfigError(
                "unknown_version",
                f"round {number} of run {run} led to no model",
                next_step=f"`fedveil model show {run}` lists the rounds that did",
            )
        if blob is not None and parse_manifest(blob.body).round == found.round:
            return self._signed(state, blob, final=True)
        return self._signed(state, self._sign(state, found), final=False)

    def _sign(self, state: RunState, version: ModelVersion) -> SignedBlob:
        """The manifest of a round's model, under the roster of its round: the same whenever it is asked for."""
        roster = self._roster_of(self._manifest(state.run_id, version.round).roster_version)
        return sign_model(replace(state, roster=roster), version)

    def _signed(self, state: RunState, blob: SignedBlob, *, final: bool) -> Version:
        manifest = parse_manifest(blob.body)
        step = next(one.step for one in state.versions if one.round == manifest.round)
        return Version(state, step, blob, manifest, final)

    def _manifest(self, run_id: RunId, round: int) -> Manifest:
        body = wire.parse_body(BlobType.MANIFEST, self._sums.source(run_id, round)[0].body)
        assert isinstance(body, Manifest)
        return body

    def derive(self, version: Version) -> Lineage:
        """The model itself, derived again from the sums. IntegrityError `registry_damaged` if it is another one."""
        lineage = self._sums.lineage_to(version.state, version.step)
        if lineage.model_hash != version.manifest.model_hash:
            raise IntegrityError(
                "registry_damaged",
                f"the stored sums do not lead to the model that was signed for {version.name}",
                not_done="nothing was decided, nothing was handed out",
                next_step="stop the coordinator and look at its disk; participants keep the model",
            )
        return lineage

    def stage(self, identity: bytes) -> Stage:
        """The stage of a model, by its id."""
        change = self._stages.get(identity)
        return change.after if change is not None else Stage.DRAFT

    def decisions(self, identity: bytes) -> list[Statement]:
        """What was decided about a model, oldest first."""
        return [one for one in self._log if any(change.model.model_id == identity for change in one.changes)]

    def facts(self, version: Version) -> ReleaseFacts:
        """What a release of this version would say."""
        state, plan = version.state, version.state.plan
        rested = OPERATOR_ONLY if rests_on(plan) == "coordinator" else QUORUM
        transcripts = [one.t3 for one in state.versions[: version.step]]
        epsilon = None
        if plan.privacy is not None:
            sums = sum(record.round <= version.manifest.round for record in state.records)
            epsilon = private_sum.spent(plan, plan.privacy, sums)
        return ReleaseFacts(
            rested,
            state.plan_hash,
            version.step,
            self.derive(version).state_hash,
            h("registry/lineage", *transcripts),
            metrics_of(state, version.step),
            epsilon,
            plan.privacy.delta if plan.privacy is not None else None,
        )

    # --- countersignatures --------------------------------------------------------------------------------------------

    def due(self, run_id: RunId) -> tuple[Countersigned, Roster]:
        """What the members of a run countersign, and the roster under which they do.

        PeerError `countersignature_not_due` for a run without a final model, or one that no member can vouch for;
        ConfigError `unknown_run`.
        """
        if run_id not in self._due:
            state = self._state_of(run_id)
            if state.ended is None or not state.ended.model or rests_on(state.plan) == "coordinator":
                raise PeerError("countersignature_not_due", f"run {run_id} has no model to countersign")
            manifest = parse_manifest(state.ended.model[0].body)
            last = self._manifest(run_id, manifest.round)
            self._due[run_id] = (
                countersignature.of_round(manifest, last),
                self._roster_of(manifest.roster_version),
            )
            while len(self._due) > REMEMBERED:
                self._due.popitem(last=False)
        return self._due[run_id]

    def countersigned(self, org_id: OrgId, blob: SignedBlob) -> RunId:
        """A member derived the final model of a run itself: durable when this returns. The run.

        PeerError `wrong_sender`, `bad_document`, those of `due` and of `countersignature.check`: nothing was kept.
        """
        if blob.signer_id != org_id:
            raise PeerError("wrong_sender", f"{org_id} sent a countersignature of {blob.signer_id}", peer=org_id)
        run_id = countersignature.parse(blob.body).model.run_id
        expected, roster = self.due(run_id)
        countersignature.check(blob, expected, roster)
        self._store.countersign(run_id, org_id, blob)
        return run_id

    def countersigners(self, run_id: RunId) -> tuple[SignedBlob, ...]:
        """The countersignatures of a run's final model, by organisation."""
        return tuple(self._store.countersigned(run_id))

    def needed(self, run_id: RunId) -> int:
        """How many must countersign before a release. PeerError as `due`."""
        expected, roster = self.due(run_id)
        return countersignature.needed(expected, self._state_of(run_id).plan, roster)

    # --- decisions ----------------------------------------------------------------------------------------------------

    def promote(self, name: str, to: Stage, who: str, reason: str) -> Version:
        """Draft -> candidate -> released.

        ConfigError `stage_jump`, `not_final_model`, `registry_full` and those of `version`; PolicyRefusal
        `release_without_quorum`, `parameters_withdrawn`, `descends_from_withdrawn`; IntegrityError `registry_damaged`.
        Nothing was decided then.
        """
        version = self._decidable(name)
        ref = ModelRef.of(version.manifest)
        check_move(Move.PROMOTE, version.name, self.stage(ref.model_id), to)
        facts = self.facts(version)
        released: tuple[ReleaseFacts, ...] = ()
        if to is Stage.RELEASED:
            self._check_release(version, facts)
            released = (facts,)
        self._decide(Move.PROMOTE, who, reason, (self._change(ref, to),), released)
        return version

    def retire(self, name: str, who: str, reason: str) -> Version:
        """Released -> retired: a better one is there. ConfigError as `promote`."""
        return self._end(Move.RETIRE, name, Stage.RETIRED, who, reason)

    def withdraw(self, name: str, who: str, reason: str) -> Version:
        """Whatever it was, it is not to be used any more, for good. ConfigError as `promote`."""
        return self._end(Move.WITHDRAW, name, Stage.WITHDRAWN, who, reason)

    def _end(self, move: Move, name: str, to: Stage, who: str, reason: str) -> Version:
        version = self._decidable(name)
        ref = ModelRef.of(version.manifest)
        check_move(move, version.name, self.stage(ref.model_id), to)
        self._decide(move, who, reason, (self._change(ref, to),))
        return version

    def rollback(self, name: str, who: str, reason: str) -> tuple[Version, tuple[RunId, ...]]:
        """A retired version is released again, and what is released of the plan of the same name is retired, in one
        statement; the runs of those. ConfigError and PolicyRefusal as `promote`; ConfigError `too_many_released`.
        """
        version = self._decidable(name)
        ref = ModelRef.of(version.manifest)
        check_move(Move.ROLLBACK, version.name, self.stage(ref.model_id), Stage.RELEASED)
        facts = self.facts(version)
        self._check_release(version, facts)
        plan_name = version.state.plan.name
        others = [
            change.model
            for change in self._stages.values()
            if change.after is Stage.RELEASED and self._state_of(change.model.run_id).plan.name == plan_name
        ]
        if len(others) >= statement.MAX_CHANGES:
            raise ConfigError(
                "too_many_released",
                f"{len(others)} models of plan {plan_name} are released, and one statement retires at most "
                f"{statement.MAX_CHANGES - 1}",
                not_done="the version stays retired",
                next_step="first retire some of them: fedveil model retire RUN --reason TEXT",
            )
        changes = (self._change(ref, Stage.RELEASED), *(self._change(one, Stage.RETIRED) for one in others))
        self._decide(Move.ROLLBACK, who, reason, changes, (facts,))
        return version, tuple(one.run_id for one in others)

    def _decidable(self, name: str) -> Version:
        version = self.version(name)
        if not version.final:
            raise ConfigError(
                "not_final_model",
                f"{name} is not the model with which its run ended, and participants derived and kept only that one",
                not_done="the version stays a draft",
                next_step=f"name the run alone: {version.manifest.run_id}",
            )
        return version

    def _change(self, ref: ModelRef, to: Stage) -> Change:
        return Change(ref, self.stage(ref.model_id), to)

    def _check_release(self, version: Version, facts: ReleaseFacts) -> None:
        """Returns if verifiers will accept the release."""
        run_id = version.manifest.run_id
        if any(
            change.after is Stage.WITHDRAWN and change.model.model_hash == version.manifest.model_hash
            for change in self._stages.values()
        ):
            raise PolicyRefusal(
                "parameters_withdrawn",
                f"a model with exactly the parameters of {version.name} was withdrawn",
                not_done="the version stays what it is",
                next_step="train another model: what was withdrawn stays withdrawn under every name",
            )
        gone = status.contents(self.status()).withdrawn_of(version.state.plan.earlier_runs)
        if gone:
            raise PolicyRefusal(
                "descends_from_withdrawn",
                f"{version.name} goes on from run {gone[0]}, whose model was withdrawn",
                not_done="the version stays what it is",
                next_step="train from the plan's seed, or from a model that nothing withdrawn led to",
            )
        if facts.rests_on == OPERATOR_ONLY:
            return
        expected, roster = self.due(run_id)
        least = countersignature.needed(expected, version.state.plan, roster)
        signed = [blob.signer_id for blob in self.countersigners(run_id)]
        if len(signed) < least:
            missing = ", ".join(org for org in expected.cohort if org not in signed)
            raise PolicyRefusal(
                "release_without_quorum",
                f"{len(signed)} of the {len(expected.cohort)} members of the last round countersigned {version.name}, "
                f"{least} must; missing: {missing}",
                not_done="the version stays a candidate",
                next_step="they countersign when they connect; where a policy asks first: `fedveil model countersign`",
            )
        countersignature.check_quorum(self.countersigners(run_id), expected, version.state.plan, roster)

    def _decide(
        self, move: Move, who: str, reason: str, changes: tuple[Change, ...], release: tuple[ReleaseFacts, ...] = ()
    ) -> None:
        with self._lock:
            now = int(self._clock.wall_s())
            made = Statement(
                self._trust.trust.federation_id,
                self._trust.trust.sequence,
                len(self._log) + 1,
                self._log[-1].digest if self._log else b"",
                now,
                who,
                move,
                reason,
                changes,
                release,
            )
            blob = statement.sign(made, self._key)
            log = [*self._log, made]
            stages = statement.fold(log)
            kept = self._next_list(log, stages, now)
            self._failpoints.hit("coordinator.before.stage")
            first = changes[0]
            detail = {"run": first.model.run_id, "from": first.before.value, "to": first.after.value}
            self._store.decide(made.number, blob, kept, who, detail)
            self._log, self._stages = log, stages
            self._blobs = [*self._blobs, blob]
            self._failpoints.hit("coordinator.after.stage")
            self._publish(kept.document)

    def releasing(self, identity: bytes) -> SignedBlob | None:
        """The last statement that released a model, signed; None if it was never released."""
        found = [blob for blob, one in zip(self._blobs, self._log, strict=True) if one.releases(identity)]
        return found[-1] if found else None

    # --- the status list ----------------------------------------------------------------------------------------------

    def status(self) -> bytes:
        """The file of the status list in force. One that is a day old, or of another trust document, is made anew."""
        with self._lock:
            kept, now = self._store.status(), int(self._clock.wall_s())
            trust = self._trust.trust
            if kept is not None:
                newest = status.contents(kept.document)
                fresh = abs(now - newest.as_of_s) < status.RENEW_S
                if fresh and newest.trust_sequence == trust.sequence:
                    return kept.document
            made = self._next_list(self._log, self._stages, now)
            self._store.renew(made)
            self._publish(made.document)
            return made.document

    def check_first_model(self, plan: Plan) -> None:
        """Returns unless the plan goes on from a model that was withdrawn, or that descends from one that was.
        PolicyRefusal `model_withdrawn`.
        """
        status.check_first_model(status.contents(self.status()), plan.earlier_runs, bytes.fromhex(plan.model.initial))

    def notice(self) -> StatusNotice:
        """What participants are told when they connect, and after each decision."""
        return StatusNotice(self.status())

    def _next_list(self, log: Sequence[Statement], stages: Mapping[bytes, Change], now: int) -> KeptStatus:
        """The list after the newest one. Its number is the time, or one more than the last: so that a database that was
        restored from a copy goes on above what participants have seen.
        """
        kept = self._store.status()
        before = status.contents(kept.document) if kept is not None else None
        goes_on = before is not None and (
            before.trust_sequence == self._trust.trust.sequence or before.sequence <= now + status.AHEAD_S
        )  # else a thief of the last coordinator's key left a number that nobody can count on from
        since = {change.model.model_id: one.made_s for one in log for change in one.changes}
        listed = [
            Listed(change.model, change.after, since[identity])
            for identity, change in sorted(stages.items())
            if change.after in status.LISTED
        ]
        if len(listed) > status.MAX_LISTED:
            raise ConfigError(
                "registry_full",
                f"a status list names at most {status.MAX_LISTED} models",
                not_done="nothing was decided",
                next_step="found another federation for further models",
            )
        made = StatusList(
            self._trust.trust.federation_id,
            self._trust.trust.sequence,
            max(now, 1 + (before.sequence if before is not None and goes_on else 0)),
            now,
            now + status.VALID_S,
            len(log),
            log[-1].digest if log else b"",
            tuple(listed),
        )
        return KeptStatus(made.sequence, status.to_file(made, self._key, self._trust.trust_chain))


def metrics_of(state: RunState, step: int) -> dict[str, float]:
    """What the sums measured of the model after `step` steps: the next sum after it does. Empty: nothing."""
    for record in state.records:
        if record.step == step and record.purpose in {Purpose.TRAIN, Purpose.EVALUATE}:
            values = {"loss": record.loss, "accuracy": record.accuracy, "auc": record.auc, "rows": record.rows}
            return {name: value for name, value in values.items() if value is not None}
    return {}
