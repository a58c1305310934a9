"""What an operator may ask of a coordinator, as functions on plain values. The admin edge and its client mirror these.

Promise: each decision runs on the driver's thread, between events, so it sees and leaves a consistent state; revocation
is in the allow-list and has ended live sessions before the call returns.
"""

import base64
import json
from collections.abc import Callable, Collection, Iterator
from concurrent.futures import Future
from typing import Protocol, TypeVar

from fedveil_common import plan as plans
from fedveil_common import spending_record
from fedveil_common.errors import ConfigError
from fedveil_common.ids import OrgId, RunId, check_name
from fedveil_common.messages import RosterNotice
from fedveil_common.pki import holders
from fedveil_common.ports import Clock, Entropy
from fedveil_common.roster import Role, Roster, accept_roster
from fedveil_common.spending_record import SpendingRecord
from fedveil_common.succession import roster_in_force, roster_of_its_time

from fedveil_coordinator import enrollment, facts, key_shelf, reporting
from fedveil_coordinator.allowlist import AllowList
from fedveil_coordinator.driver import Driver
from fedveil_coordinator.key_shelf import KeyShelf, ShelvedKey
from fedveil_coordinator.model_operations import ModelOperations
from fedveil_coordinator.registry import Registry
from fedveil_coordinator.reporting import Plain
from fedveil_coordinator.spending_records import recorded_run
from fedveil_coordinator.store import CoordinatorStore
from fedveil_coordinator.store.journal import ENDED
from fedveil_coordinator.store.members import Member as MemberRow
from fedveil_coordinator.trust import TrustInForce
from fedveil_coordinator.watched import Watched

T = TypeVar("T")

ANSWER_TIMEOUT_S = 30.0


class Watcher(Protocol):
    """Receives the events of one run."""

    def __call__(self, event: Watched) -> None:
        """One event; called on the driver's thread, must not block."""
        ...


class Operations:
    """The operator's side of a running coordinator."""

    def __init__(
        self,
        driver: Driver,
        store: CoordinatorStore,
        trust: TrustInForce,
        allowed: AllowList,
        clock: Clock,
        entropy: Entropy,
        software: str,
        shelf: KeyShelf,
        registry: Registry,
    ) -> None:
        self._driver = driver
        self._store = store
        self._trust = trust
        self._allowed = allowed
        self._clock = clock
        self._entropy = entropy
        self._software = software
        self._shelf = shelf
        self.models = ModelOperations(self._ask, driver, registry, store, trust)

    def _ask(self, work: Callable[[], T]) -> T:
        """Run `work` on the driver's thread and wait for it."""
        answer: Future[T] = Future()

        def run() -> None:
            try:
                answer.set_result(work())
            except Exception as error:  # noqa: BLE001 - carried to the caller's thread, where it is raised again
                answer.set_exception(error)

        self._driver.call(run)
        return answer.result(timeout=ANSWER_TIMEOUT_S)

    # --- federation ---------------------------------------------------------------------------------------------------

    def status(self) -> Plain:
        """Who is a member, who is here, which run waits for whom."""
        return self._ask(self._status)

    def _status(self) -> Plain:
        roster = self._roster()
        connected = set(self._driver.connected_members)
        active = self._driver.active
        at = self._clock.monotonic_s()
        frozen = {(item.role, item.org_id) for item in self._allowed.frozen()}
        return {
            "federation_id": roster.federation_id,
            "software": self._software,
            "fingerprint": self._trust.trust.fingerprint.hex(),
            "roster_version": roster.version,
            "trust_sequence": self._trust.trust.sequence,
            "membership": holders.membership_line(self._trust.trust, roster),
            "participants": [
                {
                    "org": row.org_id,
                    "state": _state_of(row, roster, frozen),
                    "in_roster": row.org_id in roster.participants,
                    "connected": row.org_id in connected,
                    "protocol_key": row.protocol_key.hex(),
                }
                for row in self._store.members.members()
                if row.role == Role.PARTICIPANT
            ],
            "run": None if active is None else self._report(active.run_id, at),
            "keys": [_key_report(key) for key in self._shelf.newest()],
            "queued": [run_id for run_id, _ in self._driver.waiting],
            "alarms": reporting.alarms(self._allowed.frozen(), self._clock.wall_s()),
        }

    def _roster(self) -> Roster:
        return roster_of_its_time(self._newest(), self._trust.trust)

    def _newest(self) -> bytes:
        rosters = self._store.records.rosters()
        return rosters[max(rosters)]

    def register_invite(self, data: bytes) -> int:
        """Keep a governance-signed invite; how many keys it replaces (1 for a re-key)."""
        return enrollment.register_invite(self._store.members, self._trust.trust, data, self._clock.wall_s())

    def revoke(self, org: str, reason: str) -> tuple[int, int]:
        """Revoke a member at once; (live sessions ended, still open)."""
        org_id = OrgId(check_name(org, "the organisation"))
        self._store.members.revoke(org_id, reason, self._clock.wall_s())
        live = self._ask(lambda: org_id in self._driver.connected_members)
        self._allowed.revoke(org_id, self._clock.wall_s())

        def end() -> int:
            self._driver.end_session(org_id, "certificate_revoked")
            return int(org_id in self._driver.connected_members)

        return int(live), self._ask(end)

    def roster_draft(self) -> tuple[bytes, bytes, str, list[str]]:
        """(current signed roster, trust chain, members as JSON list, revoked ids): what the operator signs next."""
        invites = {invite.token_id: invite for invite in self._store.members.invites()}
        rows = [row for row in self._store.members.members() if row.role == Role.PARTICIPANT]
        joined = [
            {
                "org": row.org_id,
                "role": row.role,
                "protocol_key": row.protocol_key.hex(),
                "invite": base64.b64encode(invites[row.token_id].signed).decode(),
                "proof": base64.b64encode(row.proof).decode(),
            }
            for row in rows
            if row.revoked_s is None
        ]
        revoked = sorted(row.org_id for row in rows if row.revoked_s is not None)
        return self._newest(), self._trust.trust_chain, json.dumps(joined), list(revoked)

    def publish_roster(self, signed: bytes) -> int:
        """A governance-signed higher version becomes current; everyone is told. The version."""
        roster = accept_roster(self._roster(), roster_in_force(signed, self._trust.trust))
        self._store.records.save_roster(roster.version, signed)
        self._ask(lambda: self._driver.publish_roster(roster, RosterNotice(signed, self._trust.trust_chain)))
        return roster.version

    def publish_trust(self, chain: bytes) -> int:
        """A chain that goes on from the one in force takes its place; everyone is told. Its length.

        Raises PeerError `trust_rollback`, `trust_fork`, those of `verify_chain`; `coordinator_not_named` for one that
        names another coordinator: this one cannot go on under it. Repeating changes nothing.
        """

        def take() -> int:
            newest, before = self._newest(), self._trust.trust.sequence
            roster = self._trust.advance(chain, newest)
            if self._trust.trust.sequence > before:
                self._store.records.save_trust(chain)
                self._driver.publish_roster(roster, RosterNotice(newest, chain))
            return self._trust.trust.sequence

        return self._ask(take)

    def publish_key(self, terms: bytes, record: bytes) -> Plain:
        """A key that its holders made, in its next epoch; what is published now. Errors as `KeyShelf.publish`."""
        roster = self._roster()
        return _key_report(self._shelf.publish(terms, record, roster.federation_id, self._members(roster)))

    def _members(self, roster: Roster) -> set[tuple[OrgId, bytes]]:
        """Who is a member under which protocol key: the roster's participants, and who joined and is not listed yet;
        without those who were revoked or joined again under another key.
        """
        found = {org: roster.key_of(org) for org in roster.participants}
        for row in self._store.members.members():
            if row.role == Role.PARTICIPANT:
                found[row.org_id] = row.protocol_key
                if row.revoked_s is not None:
                    del found[row.org_id]
        return set(found.items())

    # --- runs ---------------------------------------------------------------------------------------------------------

    def start_run(self, canonical: bytes, reuse_key_epoch: bool = False) -> RunId:
        """A new run of this plan; its id. `reuse_key_epoch`: the operator consents to a second run under one epoch.

        ConfigError `no_such_key`, `holder_not_listed`, `key_epoch_used`; those of the driver.
        """
        plan = plans.parse_canonical(canonical)
        plans.check_release(plan)
        run_id = RunId(f"{plan.name[:40]}-{self._entropy.take(4).hex()}")

        def start() -> None:
            if plan.protection.key:
                self._check_key(plan.protection.key, reuse_key_epoch)
            self._driver.start_run(run_id, canonical)

        self._ask(start)
        return run_id

    def _check_key(self, key_id: str, reuse: bool) -> None:
        """Returns if a new run may use the newest epoch of the key: an epoch serves one run (P7)."""
        key, roster = self._shelf.current(key_id), self._roster()
        listed = {(org, roster.key_of(org)) for org in roster.participants}
        key_shelf.check_holders(key.terms, listed, "no run was started")
        for row in () if reuse else self._store.journal.runs():
            if plans.parse_canonical(row.canonical_plan).protection.key != key_id:
                continue
            opened = self._store.journal.facts_of_kind(row.run_id, facts.RunOpened.__name__)
            used = any(_fingerprint(body) == key.fingerprint for body in opened)
            if used or (not opened and row.status != ENDED):
                raise ConfigError(
                    "key_epoch_used",
                    f"run {row.run_id} {'uses' if used else 'waits to use'} epoch {key.epoch} of the key {key_id}, "
                    "and an epoch serves one run",
                    not_done="no run was started",
                    next_step="the holders make the next epoch (`fedveil key refresh`), then `fedveil key publish`; "
                    "`run start --reuse-key-epoch` consents, and every participant must consent too",
                )

    def list_runs(self) -> list[Plain]:
        """Every run, oldest first."""
        rows = [(row, plans.parse_canonical(row.canonical_plan)) for row in self._store.journal.runs()]
        return [
            {
                "run_id": row.run_id,
                "name": plan.name,
                "kind": plan.kind.value,
                "plan_hash": plans.plan_hash(row.canonical_plan).hex(),
                "status": row.status,
                "code": row.code,
                "created_s": row.created_s,
            }
            for row, plan in rows
        ]

    def get_run(self, run_id: str) -> Plain:
        """One run. ConfigError `unknown_run`."""
        return self._ask(lambda: self._report(RunId(run_id), self._clock.monotonic_s()))

    def _report(self, run_id: RunId, at: float) -> Plain:
        row = next((row for row in self._store.journal.runs() if row.run_id == run_id), None)
        if row is None:
            raise ConfigError("unknown_run", f"there is no run {run_id}", next_step="fedveil run list")
        if row.status == "waiting":
            return {"run_id": run_id, "status": "waiting", "code": "", "rounds": [], "waiting": {"phase": "queue"}}
        state = self._driver.state_of(run_id)
        report = reporting.run_report(state, row.status, at, self._driver.seconds.get(run_id, {}))
        if state.plan.statistics is not None and state.standardise and not state.rejected:
            report["answers"] = self._driver.sums.answers(state)
        return report

    def get_round(self, run_id: str, number: int) -> Plain:
        """One round of a run: opened, or what it waits for. ConfigError `unknown_round`."""

        def find() -> Plain:
            state = self._driver.state_of(RunId(run_id))
            seconds = self._driver.seconds.get(RunId(run_id), {})
            for record in state.records:
                if record.round == number:
                    return reporting.round_report(reporting.Prices(state.plan), record, seconds.get(number))
            if state.attempt is not None and state.attempt.key.round == number:
                waiting = reporting.waiting_report(state, self._clock.monotonic_s())
                return {"number": number, "cohort": list(state.attempt.frame.manifest.cohort), "waiting": waiting}
            raise ConfigError("unknown_round", f"run {run_id} has no round {number}", next_step="fedveil run show RUN")

        return self._ask(find)

    def spending_record(self, org_id: str) -> bytes:
        """What a member may have spent, signed: for one that lost its journal. ConfigError `unknown_member`."""
        org = OrgId(check_name(org_id, "the organisation"))
        if org not in {row.org_id for row in self._store.members.members() if row.role == Role.PARTICIPANT}:
            raise ConfigError("unknown_member", f"{org} never joined this federation", next_step="fedveil status")
        runs = [
            recorded_run(row.run_id, row.canonical_plan, self._store.journal.facts(row.run_id), org)
            for row in self._store.journal.runs()
            if plans.parse_canonical(row.canonical_plan).privacy is not None
        ]
        record = SpendingRecord(self._roster().federation_id, org, self._clock.wall_s(), tuple(runs))
        return spending_record.to_file(record, self._driver.office.signing_key)

    def abort_run(self, run_id: str) -> None:
        """End a run. ConfigError `unknown_run`."""
        self._ask(lambda: self._driver.abort_run(RunId(run_id)))

    def watch(self, run_id: str, watcher: Watcher) -> tuple[list[Watched], Callable[[], None]]:
        """(events so far, how to stop watching); later events go to `watcher`."""
        wanted = RunId(run_id)

        def listener(run: RunId, event: Watched) -> None:
            if run == wanted:
                watcher(event)

        def begin() -> list[Watched]:
            if wanted not in {row.run_id for row in self._store.journal.runs()}:
                raise ConfigError("unknown_run", f"there is no run {run_id}", next_step="fedveil run list")
            self._driver.listeners.append(listener)
            told = list(self._driver.watched.get(wanted, []))
            ended = next(
                (row for row in self._store.journal.runs() if row.run_id == wanted and row.status == "ended"), None
            )
            if ended is not None and (not told or told[-1].kind != "ended"):
                told.append(Watched(told[-1].number + 1 if told else 1, "ended", (("code", ended.code),)))
            return told

        def stop() -> None:
            self._driver.call(
                lambda: self._driver.listeners.remove(listener) if listener in self._driver.listeners else None
            )

        return self._ask(begin), stop


def _fingerprint(opened: bytes) -> bytes | None:
    """Of the key that a run was opened with."""
    fact = facts.decode(facts.RunOpened.__name__, opened)
    return fact.key[0].fingerprint if isinstance(fact, facts.RunOpened) and fact.key else None


def _key_report(key: ShelvedKey) -> Plain:
    terms = key.terms.terms
    return {
        "id": key.key_id,
        "epoch": key.epoch,
        "fingerprint": key.fingerprint.hex(),
        "root": key.terms.holders.root.hex(),
        "holders": [str(org) for org in terms.holders],
        "threshold": terms.threshold,
    }


def _state_of(row: MemberRow, roster: Roster, frozen: Collection[tuple[str, str]]) -> str:
    if row.revoked_s is not None:
        return "revoked"
    if (row.role, row.org_id) in frozen:
        return "frozen"
    return "active" if row.org_id in roster.participants else "pending"


def iterate(data: bytes, size: int) -> Iterator[bytes]:
    """`data` in pieces of at most `size` bytes."""
    for start in range(0, len(data), size):
        yield data[start : start + size]
