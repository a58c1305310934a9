"""The one loop of a participant: takes what arrived, steps the round machine, carries its actions out in order.

Runs on one thread; every other thread only posts. Invariant: the stage is durable before anything that follows from it
is sent. There is no round protocol in here. What the driver itself decides is the session (connect, be told again),
which plan is answered with yes, and that a final model is stored only once it was re-derived and its signature checked.
A simulation calls `pump` itself, with its own ports.
"""

import contextlib
import queue
from collections.abc import Callable, Mapping

import structlog
from fedveil_common.errors import (
    FedveilError,
    PeerError,
    PolicyRefusal,
    RoundAborted,
    Unreachable,
    heard,
)
from fedveil_common.ids import AttemptKey, RunId
from fedveil_common.messages import (
    CoordinatorHello,
    CoordinatorMessage,
    ParticipantHello,
    PlanOffer,
    ReceiptNotice,
    Refusal,
    RosterNotice,
    RunEnded,
    SignedBlob,
    StatusNotice,
)
from fedveil_common.ports import Clock, Entropy, Failpoints
from fedveil_common.roster import Roster
from fedveil_common.secret import Seed

from fedveil_participant import derivation, finish, kept, labels, round
from fedveil_participant.checking import Checker, PastRoster
from fedveil_participant.consent import Consenting
from fedveil_participant.events import (
    Action,
    AnswerQuorum,
    Connected,
    DiscardInput,
    EncryptUpdate,
    EndStored,
    Event,
    Note,
    Persist,
    PrepareUpdate,
    ProtectUpdate,
    Received,
    Resumed,
    Send,
    SumDisputed,
    Tick,
    UpdateFailed,
    UpdateReady,
    UploadInput,
)
from fedveil_participant.house_record import HouseRecord
from fedveil_participant.lineage import Walker
from fedveil_participant.plan_answers import PlanAnswers
from fedveil_participant.ports import Bench, Cipher, Journal, Link, Workers
from fedveil_participant.protection import Protection
from fedveil_participant.run_results import RunResults
from fedveil_participant.stages import Idle

log = structlog.get_logger("fedveil.participant")

VerifyRoster = Callable[[RosterNotice, Roster], Roster]
"""(notice, pinned) -> the roster to pin from now on: governance signatures, chain and version checked. FedveilError."""

RECONNECT_FIRST_S, RECONNECT_LAST_S = 0.5, 30.0

UPLOAD_TRIES = 5
"""Uploads of one input over one session before this participant says that it will send none (then the others go on)."""

RETRY_S = 1.0
"""How long after a failed upload or download, with the session standing, it is tried again."""


class Driver:
    """The participant's driver. `post` and `call` are safe from any thread; the rest belongs to the driver's thread."""

    def __init__(
        self,
        state: round.State,
        consent: Consenting,
        verify_roster: VerifyRoster,
        chain: bytes,
        past_roster: PastRoster,
        software: str,
        journal: Journal,
        bench: Bench,
        link: Link,
        workers: Workers,
        clock: Clock,
        entropy: Entropy,
        failpoints: Failpoints,
        cipher: Cipher,
    ) -> None:
        self.state = state
        self._verify_roster = verify_roster
        self._roster_bytes, self._chain = b"", chain
        self._newer = b""
        self._software = software
        self._journal = journal
        self._bench = bench
        self._record = HouseRecord(journal, bench)
        self.answers = PlanAnswers(self, consent, journal, bench, link, workers, clock, cipher, self._record)
        self._link = link
        self._workers = workers
        self._clock = clock
        self._entropy = entropy
        self._failpoints = failpoints
        self._cipher = cipher
        self._protection = Protection(journal, bench, link, cipher, workers.pool, clock)
        self._walker = Walker(link, Checker(link, entropy, past_roster), workers.pool)
        self._inbox: queue.SimpleQueue[Callable[[], None] | Event | None] = queue.SimpleQueue()
        self._session = 0
        self._reconnect_at: float | None = None
        self._backoff_s = RECONNECT_FIRST_S
        self._uploading: tuple[AttemptKey, tuple[int, ...]] | None = None
        self._upload_failures = 0
        self._preparing: AttemptKey | None = None
        self._answering: set[tuple[AttemptKey, tuple[int, ...]]] = set()
        self._retries: list[tuple[float, Action]] = []
        self._last_key = round.attempt_of(state) or AttemptKey(RunId(""), 0, 0)
        self.connected = False
        self.results = RunResults(journal, link, self.tell)
        self.ended: dict[RunId, str] = {}
        self.listeners: list[Callable[[str, Mapping[str, str]], None]] = []

    # --- from other threads -------------------------------------------------------------------------------------------

    def post(self, event: Event) -> None:
        """Hand an event to the round machine."""
        self._inbox.put(event)

    def call(self, work: Callable[[], None]) -> None:
        """Run `work` on the driver's thread, between events."""
        self._inbox.put(work)

    def reopen_session(self) -> None:
        """Begin a session over the link as it is now (it has another certificate); the one before ends."""
        self.call(self.open_session)

    def stop(self) -> None:
        """Let `serve` return after what is queued."""
        self._inbox.put(None)

    # --- the loop -----------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Take up what the journal holds and begin a session. Before `serve`."""
        self.answers.refresh_hold()
        self.answers.close_denied()
        self.handle(Resumed(self._clock.monotonic_s(), self.answers.refused_now()))
        self.answers.drop_snapshots()
        self.open_session()

    def serve(self) -> None:
        """Until `stop`: wait for what comes or for the next deadline, then pump."""
        while True:
            due = self.next_deadline()
            timeout = None if due is None else max(0.0, due - self._clock.monotonic_s())
            try:
                item = self._inbox.get(timeout=timeout)
            except queue.Empty:
                self.tick()
                continue
            if item is None:
                return
            self._work(item)

    def pump(self) -> bool:
        """One queued item; False if there was none. For a simulation, which has no thread."""
        if self._inbox.empty():
            return False
        item = self._inbox.get()
        if item is not None:
            self._work(item)
        return True

    def tick(self) -> None:
        """A deadline has passed: reconnect, or tell the machine."""
        now = self._clock.monotonic_s()
        if self.answers.looks_at is not None and now >= self.answers.looks_at:
            self.answers.refresh_hold()
        if self._reconnect_at is not None and now >= self._reconnect_at:
            self.open_session()
        ready = [action for time, action in self._retries if time <= now]
        self._retries = [entry for entry in self._retries if entry[0] > now]
        if ready and self.connected:
            for action in round.outstanding(self.state):  # the stage may have moved on: only what it still asks for
                self._perform(action)
        due = round.deadline(self.state)
        if due is not None and now >= due:
            self.handle(Tick(now))
        self.answers.stop_if_left()

    def next_deadline(self) -> float | None:
        """When `tick` is due, on the monotonic clock."""
        times = [time for time in (round.deadline(self.state), self._reconnect_at) if time is not None]
        times.extend(time for time, _ in self._retries)
        if self.answers.looks_at is not None:
            times.append(self.answers.looks_at)
        return min(times) if times else None

    def _work(self, item: "Callable[[], None] | Event") -> None:
        if self.answers.looks_at is not None:
            self.answers.refresh_hold()  # before each event: none of them makes an input outside of the hours
        if callable(item):
            item()
        else:
            self.handle(item)
        self.answers.stop_if_left()

    def handle(self, event: Event) -> None:
        """One event into the machine; a refusal is logged, told by its code, and moves nothing."""
        before = self.state
        try:
            self.state, actions = round.step(self.state, event)
        except FedveilError as error:
            log.warning("refused", code=error.code, what=error.what)
            self._journal.note("refused", (("code", error.code), ("event", type(event).__name__)))
            self.tell("refused", {"code": error.code, "what": error.what})
            said = round.refusal(self.state, error)
            if said is not None:
                self._send(said)
            return
        try:
            for action in actions:
                self._perform(action)
        except PolicyRefusal as error:  # of the transaction that writes an advert: nothing of the step was done
            if not isinstance(event, UpdateReady):
                raise
            self.state = before
            self.tell("refused", {"code": error.code, "what": error.what})
            self.handle(UpdateFailed(event.key, error.code, self._clock.monotonic_s()))
            self.answers.ask_again(event.key.run_id)
            return
        if self._newer and self.state.newer is None:  # the attempt that it waited for is over
            self._journal.save_roster(self._newer)
            self._newer = b""

    def _perform(self, action: Action) -> None:
        match action:
            case Persist():
                self._persist(action)
            case Send():
                if isinstance(action.message, Refusal):
                    self.answers.sat_out()
                self._failpoints.hit(f"participant.send.{type(action.message).__name__}")
                self._send(action)
            case PrepareUpdate():
                if self._preparing != action.manifest.key:
                    self._preparing = action.manifest.key
                    self._workers.submit(lambda: self._prepare(action))
            case ProtectUpdate() | EncryptUpdate():
                self._workers.submit(lambda: self._protect(action))
            case AnswerQuorum():
                if (action.manifest.key, action.quorum) not in self._answering:
                    self._answering.add((action.manifest.key, action.quorum))
                    self._workers.submit(lambda: self._answer_quorum(action))
            case UploadInput():
                self._upload(action)
            case DiscardInput():
                self._journal.discard_input(action.key)
                if action.update is not None:
                    self._journal.drop_update(action.update)
            case Note():
                if action.code == "policy_refused":
                    self._journal.note("policy_refused", (("what", action.text),))
                self.tell(action.code, {"text": action.text})

    def _send(self, action: Send) -> None:
        key = round.attempt_of(self.state) or self._last_key
        self._link.send(action.message, labels.label_of_message(action.message, self.state.stage, key))

    def _persist(self, action: Persist) -> None:
        key = round.attempt_of(self.state) or self._last_key
        self._failpoints.hit(f"participant.before.{action.kind}")
        self._journal.save(key, self.state.stage, action.kind, action.trail, action.changes)
        self._failpoints.hit(f"participant.after.{action.kind}")
        self._last_key = key
        self.tell(action.kind, {"run": key.run_id, "round": str(key.round), "attempt": str(key.attempt)})

    def tell(self, kind: str, facts: Mapping[str, str]) -> None:
        """What happened, for this organisation's people."""
        log.info(f"participant.{kind}", **facts)
        for listener in list(self.listeners):
            listener(kind, facts)

    def _seed(self) -> Seed:
        return Seed(self._entropy.take(32))

    # --- the session --------------------------------------------------------------------------------------------------

    def open_session(self) -> None:
        """Begin a session; the one before ends. On the driver's thread."""
        self._session += 1
        number = self._session
        self._reconnect_at, self.connected = None, False
        self.answers.begin_session()

        def on_message(message: CoordinatorMessage) -> None:
            self.call(lambda: self._message(number, message))

        def on_closed(error: FedveilError) -> None:
            self.call(lambda: self._lost(number, error))

        self._link.open(on_message, on_closed)
        self._link.send(ParticipantHello(self._software, (1,)))

    def _lost(self, number: int, error: FedveilError) -> None:
        if number != self._session:
            return
        self.connected = False
        jitter = int.from_bytes(self._entropy.take(2), "big") / 65_535
        self._reconnect_at = self._clock.monotonic_s() + self._backoff_s * (0.5 + jitter)
        self._backoff_s = min(2 * self._backoff_s, RECONNECT_LAST_S)
        self.tell("disconnected", {"code": error.code, "what": error.what})

    def _message(self, number: int, message: CoordinatorMessage) -> None:
        if number != self._session:
            return
        now = self._clock.monotonic_s()
        match message:
            case CoordinatorHello():
                self._hello(message, now)
            case RosterNotice():
                self._roster(message)
            case PlanOffer():
                self.answers.offered(message)
            case RunEnded():
                self.handle(Received(message, now, self._seed()))
                self.run_ended(message)
            case StatusNotice():
                self.results.status(message)
            case ReceiptNotice():
                self._receipt(message.receipt, message.receipt.body)
            case _:
                self.handle(Received(message, now, self._seed()))

    def _hello(self, message: CoordinatorHello, now: float) -> None:
        if message.federation_id != self.state.roster.federation_id or 1 not in message.protocols:
            self.tell("refused", {"code": "wrong_federation", "what": f"this is federation {message.federation_id}"})
            return
        self.connected, self._backoff_s = True, RECONNECT_FIRST_S
        self._uploading, self._upload_failures = None, 0
        self.tell("connected", {"federation": message.federation_id, "software": message.software})
        self.handle(Connected(now))

    def _roster(self, message: RosterNotice) -> None:
        """A governance-signed higher version is taken; added members are named to the operator (A7). Whether inputs are
        made under it is the policy's.
        """
        before = self.state.newer or self.state.roster
        try:
            roster = self._verify_roster(message, before)
        except FedveilError as error:
            self.tell("alarm", {"code": error.code, "what": error.what})
            return
        self._roster_bytes, self._chain = message.signed_roster, message.trust_chain
        if roster.version == before.version:
            return
        self.state = round.pin(self.state, roster)
        if self.state.newer is None:
            self._journal.save_roster(message.signed_roster)
        else:
            self._journal.save_newer_roster(message.signed_roster)
            self._newer = message.signed_roster
        added = sorted(set(roster.participants) - set(before.participants))
        removed = sorted(set(before.participants) - set(roster.participants))
        self.tell("roster", {"version": str(roster.version), "added": ",".join(added), "removed": ",".join(removed)})
        self.answers.refresh_hold()  # before anything else is done under it

    # --- long work ----------------------------------------------------------------------------------------------------

    def _prepare(self, action: PrepareUpdate) -> None:
        """Re-derive the model, then train or measure; an update made for the same spent key is used again."""
        manifest = action.manifest
        try:
            accepted = self.state.plans[manifest.key.run_id]
            walk = derivation.derive(self._walker, self.state, manifest, accepted)
            model_hash = b"" if walk is None else walk.lineage.model_hash
            if not kept.is_kept(self._journal, action.update_key, model_hash):
                read = accepted.plan, accepted.version
                self.answers.consent.check_rows(accepted.plan, lambda: self._bench.rows(*read))
                lineage = None if walk is None else walk.lineage
                asked = (accepted.plan, accepted.version, manifest.purpose, lineage, self._seed)
                if sum(map(len, blocks := self._bench.contribution(*asked))) != manifest.length:
                    raise ValueError("the contribution does not fit the layout of the sum")
                self._record.read(manifest.key.run_id, *read, manifest.purpose.value, manifest.key.round)
                self._journal.put_update(action.update_key, model_hash, blocks)
                del blocks
            walked = () if walk is None else walk.sums
            admission = self.answers.consent.admission(manifest.key.run_id, accepted.plan, accepted.plan_hash)
            now = self._clock.monotonic_s()
            event: Event = UpdateReady(manifest.key, model_hash, now, self._seed(), walked, admission)
        except KeyError:
            event = UpdateFailed(manifest.key, "plan_not_accepted", self._clock.monotonic_s())
        except Unreachable as error:
            log.warning("prepare.unreachable", code=error.code)
            self.call(lambda: self._again(action))
            return
        except FedveilError as error:
            log.warning("prepare.failed", code=error.code, what=error.what)
            self._note_dispute(error, manifest.key.run_id)
            facts = {"round": str(manifest.key.round), "code": error.code, "what": error.what}
            self.call(lambda: self.tell("update_refused", facts))
            if error.code in {"approval_gone", "trainer_changed"}:  # it waits for its people now
                self.call(lambda: self.answers.ask_again(manifest.key.run_id))
            event = UpdateFailed(manifest.key, heard(error), self._clock.monotonic_s())
        self.call(lambda: self._prepared(event))

    def _note_dispute(self, error: FedveilError, run_id: RunId) -> None:
        """A false sum ends the run here, for good: before anything else follows from the error."""
        if error.code == "sum_disputed":
            self.post(SumDisputed(run_id, error.what))

    def _prepared(self, event: Event) -> None:
        self._preparing = None
        self.handle(event)

    def _again(self, action: PrepareUpdate | UploadInput | AnswerQuorum) -> None:
        """What failed for want of a connection is tried again: soon if the session stands, else at the next one."""
        if isinstance(action, PrepareUpdate):
            self._preparing = None
        elif isinstance(action, AnswerQuorum):
            self._answering.discard((action.manifest.key, action.quorum))
        else:
            self._uploading = None
        if self.connected:
            self._retries.append((self._clock.monotonic_s() + RETRY_S, action))

    def _protect(self, action: ProtectUpdate | EncryptUpdate) -> None:
        accepted, me = self.state.plans[action.manifest.key.run_id], self.state.me
        if isinstance(action, ProtectUpdate):
            self.post(self._protection.mask(action, accepted, me))
        else:
            self.post(self._protection.encrypt(action, accepted, me))

    def _answer_quorum(self, action: AnswerQuorum) -> None:
        key = action.manifest.key
        try:
            event = self._protection.answer(action, self.state.plans[key.run_id], self.state.me)
        except (Unreachable, RoundAborted) as error:
            log.warning("answer.unreachable", code=error.code)
            self.call(lambda: self._again(action))
            return
        self.call(lambda: self._answered((key, action.quorum), event))

    def _answered(self, place: tuple[AttemptKey, tuple[int, ...]], event: Event) -> None:
        self._answering.discard(place)
        self.handle(event)

    def _upload(self, action: UploadInput) -> None:
        if self._uploading == (action.key, action.quorum) or not self.connected:
            return
        self._uploading = (action.key, action.quorum)
        session = self._session
        label = labels.label_of_upload(action, self.state.stage)

        def work() -> None:
            code = ""
            try:
                opened = self._journal.open_answer(action.key, action.quorum) if action.quorum else None
                with contextlib.closing(opened or self._journal.open_input(action.key)) as source:
                    self._failpoints.hit("participant.upload")
                    receipt = self._link.submit_input(action.header, action.leaf_hashes, source, label)
                self._receipt(receipt, label.awaits)
            except (Unreachable, RoundAborted) as error:
                log.warning("upload.unreachable", code=error.code)
                self.call(lambda: self._again(action))
                return
            except FedveilError as error:
                code = error.code
                log.warning("upload.failed", code=error.code, what=error.what)
            self.call(lambda: self._uploaded(session, action, code))

        self._workers.submit(work)

    def _receipt(self, receipt: SignedBlob, due: bytes) -> None:
        """A receipt for what awaits the body `due`. A false one is an alarm and moves nothing. Any thread."""
        try:
            if not self._record.receipt(receipt, self.state.roster.coordinator_key, due):
                log.info("receipt.not_awaited")  # said twice, or about what never left
        except PeerError as error:
            facts = {"code": error.code, "what": error.what}
            self.call(lambda: self.tell("alarm", facts))

    def _uploaded(self, session: int, action: UploadInput, code: str) -> None:
        if self._uploading == (action.key, action.quorum) and session == self._session:
            self._uploading = None
            failed = code not in {"", "answer_not_expected"}  # another quorum was called; this one may be once more
            self._upload_failures = self._upload_failures + 1 if failed else 0
            if failed and round.attempt_of(self.state) == action.key:
                self._try_again(action, code)
        self.tell("uploaded" if not code else "upload_failed", {"round": str(action.key.round), "code": code})

    def _try_again(self, action: UploadInput, code: str) -> None:
        """The session stands and the upload failed: again after a pause; after some times the others need not wait."""
        if self._upload_failures >= UPLOAD_TRIES:
            self._upload_failures = 0
            self._link.send(Refusal(action.key, code))
            return
        self._retries.append((self._clock.monotonic_s() + RETRY_S * 2 ** (self._upload_failures - 1), action))

    def run_ended(self, message: RunEnded) -> None:
        """Store the end of a run; its final model only if it is the one derived here and the signature is right.

        A run that was not accepted here, or ended before it was offered, ends here without a model.
        """
        if self._journal.has_end(message.run_id):
            self.results.acknowledge(message.run_id)
            return
        if self.answers.holds_end(message):
            return
        accepted = self.state.plans.get(message.run_id)
        state, chain = self.state, (self._roster_bytes, self._chain)

        def work() -> None:
            try:
                left = finish.results(message, accepted, self._walker, state, *chain)
                with_model = self.results.store(message, left)
            except FedveilError as error:
                code, what = error.code, error.what
                self._note_dispute(error, message.run_id)
                self.call(lambda: self.tell("model_refused", {"run": message.run_id, "code": code, "what": what}))
                return
            self.call(lambda: self._stored(message, with_model))

        self._workers.submit(work)

    def _stored(self, message: RunEnded, with_model: bool) -> None:
        self._walker.forget(message.run_id)
        self.answers.ended(message.run_id)
        self.handle(EndStored(message.run_id))
        self.answers.drop_snapshots()
        if isinstance(self.state.stage, Idle):
            self._journal.drop_updates()  # of attempts that never came to a reveal
        self.ended[message.run_id] = message.code
        self._record.ended(message.run_id, message.code, with_model)
        self.results.acknowledge(message.run_id)
        self.tell("run_ended", {"run": message.run_id, "code": message.code, "model": str(with_model)})
