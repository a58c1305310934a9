"""The one loop of the coordinator: takes what arrived, steps the run's machine, carries its actions out in order.

Runs on a thread of its own; every other thread only posts. Invariant: the facts of a batch are durable before anything
that follows from them is sent, receipted or computed. There is no protocol in here: what to answer is decided in `run`
and `round`; who may speak was decided by the edges. A simulation calls `pump` itself, with its own ports.
"""

import queue
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future
from functools import partial

import structlog
from fedveil_common import plan as plans
from fedveil_common.errors import ConfigError, FedveilError, IntegrityError, PeerError
from fedveil_common.ids import AttemptKey, OrgId, RunId
from fedveil_common.messages import (
    CoordinatorHello,
    Header,
    Manifest,
    ParticipantMessage,
    RosterNotice,
    RunEnded,
    RunEndedAck,
    SignedBlob,
)
from fedveil_common.paillier.key_use import KeyUse
from fedveil_common.ports import Clock, Entropy, Failpoints
from fedveil_common.roster import Roster
from fedveil_common.secret import Seed

from fedveil_coordinator import acceptance, computing, continuing, facts, run
from fedveil_coordinator import attempt as attempts
from fedveil_coordinator.cipher_desk import CipherDesk, Keys
from fedveil_coordinator.events import (
    AbortOrdered,
    Acknowledge,
    Action,
    Announce,
    Connected,
    DiscardInputs,
    Disconnected,
    Event,
    Heard,
    InputSpooled,
    KeepInputs,
    MakeNoise,
    MultiplyInputs,
    OpenSum,
    Persist,
    ProcessSum,
    Received,
    Resumed,
    RosterChanged,
    Send,
    Tick,
    UploadRefused,
)
from fedveil_coordinator.intake import due
from fedveil_coordinator.noising import NoiseSource, PlannedNoise
from fedveil_coordinator.ports import Journal, Outlet, Releases, Workers
from fedveil_coordinator.sums import Sums
from fedveil_coordinator.upload import Upload
from fedveil_coordinator.watched import WATCHED_BOUND, Watched

log = structlog.get_logger("fedveil.coordinator")

REFUSED_BOUND = 64
"""Refused messages of one session before it is closed."""


def _nobody() -> None:
    """Nobody waits for this to be taken."""


class Driver:
    """The coordinator's driver. `post` and `call` are safe from any thread; the rest belongs to the driver's thread."""

    def __init__(
        self,
        office: run.Office,
        rosters: Mapping[int, Roster],
        roster_notice: RosterNotice,
        software: str,
        journal: Journal,
        workers: Workers,
        clock: Clock,
        entropy: Entropy,
        failpoints: Failpoints,
        keys: Keys,
    ) -> None:
        self.office = office
        self._rosters = dict(rosters)
        self._notice = roster_notice
        self._software = software
        self._journal = journal
        self._keys = keys
        self._ciphers = CipherDesk(keys, journal, entropy)
        self.sums = Sums(journal, self._ciphers, workers.pool)
        self.noise_source: NoiseSource | None = None
        self.registry: Releases | None = None
        self._workers = workers
        self._clock = clock
        self._entropy = entropy
        self._failpoints = failpoints
        self._inbox: queue.SimpleQueue[Callable[[], None] | Event | None] = queue.SimpleQueue()
        self._outlets: dict[OrgId, Outlet] = {}
        self._uploads: dict[OrgId, list[tuple[SignedBlob, Future[SignedBlob]]]] = {}
        self._leaves: dict[OrgId, int] = {}
        self._leaves_lock = threading.Lock()
        self._refused: dict[OrgId, int] = {}
        self._owed: dict[OrgId, set[RunId]] = {}
        self.members = frozenset(self._rosters[max(self._rosters)].participants)
        self._ends: dict[RunId, RunEnded] = {}
        self._pending: list[tuple[RunId, Action]] = []
        self.active: run.RunState | None = None
        self.waiting: list[tuple[RunId, bytes]] = []
        self.seconds: dict[RunId, dict[int, float]] = {}
        self._offered_at: dict[tuple[RunId, int], float] = {}
        self.watched: dict[RunId, list[Watched]] = {}
        self.listeners: list[Callable[[RunId, Watched], None]] = []
        self.failure: FedveilError | None = None

    # --- from other threads -------------------------------------------------------------------------------------------

    def post(self, event: Event) -> None:
        """Hand an event to the active run."""
        self._inbox.put(event)

    def call(self, work: Callable[[], None]) -> None:
        """Run `work` on the driver's thread, between events."""
        self._inbox.put(work)

    def stop(self) -> None:
        """Let `serve` return after what is queued."""
        self._inbox.put(None)

    def connected(self, org_id: OrgId, outlet: Outlet, taken: Callable[[], None] = _nobody) -> None:
        """A session stands; the newer one replaces an older one of the same organisation. `taken`: see `received`."""
        self._taking(taken, partial(self._connect, org_id, outlet))

    def _taking(self, taken: Callable[[], None], work: Callable[[], None]) -> None:
        def take() -> None:
            taken()
            work()

        self.call(take)

    def disconnected(self, org_id: OrgId, outlet: Outlet) -> None:
        """A session is gone."""
        self.call(lambda: self._disconnect(org_id, outlet))

    def received(self, org_id: OrgId, message: ParticipantMessage, taken: Callable[[], None] = _nobody) -> None:
        """A parsed message on a session. `taken` is called once it has left the queue: who reads from a member reads on
        only then, so that the queue holds at most one message of a session, however fast it talks.
        """
        if isinstance(message, RunEndedAck):
            work = partial(self._end_stored, org_id, message.run_id)
        elif isinstance(message, SignedBlob):
            work = partial(self._countersigned, org_id, message)
        else:
            work = partial(self._receive, Received(org_id, message, self._clock.monotonic_s(), self._seed()))
        self._taking(taken, work)

    def input_progress(self, org_id: OrgId, leaves: int) -> None:
        """So many leaves of an upload are verified; 0 while it waits for its turn. Queued once."""
        with self._leaves_lock:
            waiting = org_id in self._leaves
            self._leaves[org_id] = leaves

        def take() -> None:
            with self._leaves_lock:
                latest = self._leaves.pop(org_id)
            self._handle(Heard(org_id, latest, self._clock.monotonic_s()))

        if not waiting:
            self.call(take)

    def expect_upload(self, org_id: OrgId, header: SignedBlob) -> Upload:
        """An upload that may begin; PeerError otherwise. Any thread: reads one immutable snapshot, and the machine
        checks again when the upload is complete.
        """
        state = self.active
        if state is None or state.attempt is None:
            raise PeerError("input_not_expected", "no input is awaited now", peer=org_id)
        body = acceptance.upload_shape(state.attempt, org_id, header)
        return Upload(state.attempt, header, body, due(body, self._ciphers.shape(state.attempt)))

    def headers(self, org_id: OrgId, key: AttemptKey) -> Iterator[tuple[str, int, list[bytes]]]:
        """What a holder multiplies, and its lifts: as `CipherDesk.headers`. PeerError `headers_not_due`. Any thread."""
        state = self.active
        if state is None or state.attempt is None or state.attempt.key != key or not state.attempt.frame.keys:
            raise PeerError("headers_not_due", "this attempt is not being opened", peer=org_id)
        return self._ciphers.headers(state.attempt, org_id)

    def examine(self, org_id: OrgId, upload: Upload) -> None:
        """Under paillier: whether what is durable now is what its signed header promises. Any thread, up to seconds.

        PeerError naming the sender: the round goes on without it.
        """
        known = acceptance.accepted(upload.attempt, org_id, upload.header)
        if isinstance(upload.body, Header) or known == upload.header:
            return  # the leaf hashes are all that a masked input promises; what was accepted was examined
        try:
            self._ciphers.examine(upload.attempt, org_id, upload.body)
        except PeerError as error:
            self.post(UploadRefused(org_id, upload.header, error.code, self._clock.monotonic_s()))
            raise

    def input_complete(self, org_id: OrgId, header: SignedBlob) -> "Future[SignedBlob]":
        """The upload is verified and durable; the future holds the signed receipt once the journal has it.

        It cannot be cancelled: whether the member still waits or not, the driver sets it.
        """
        future: Future[SignedBlob] = Future()
        future.set_running_or_notify_cancel()

        def accept() -> None:
            self._uploads.setdefault(org_id, []).append((header, future))
            self._handle(InputSpooled(org_id, header, self._clock.monotonic_s()))

        self.call(accept)
        return future

    # --- the loop -----------------------------------------------------------------------------------------------------

    def serve(self) -> None:
        """Until `stop`: wait for what comes or for the next deadline, then pump. A storage failure ends the loop."""
        while True:
            due = self.next_deadline()
            timeout = None if due is None else max(0.0, due - self._clock.monotonic_s())
            try:
                first = self._inbox.get(timeout=timeout)
            except queue.Empty:
                self.tick()
                continue
            if not self._take(first):
                return

    def _take(self, first: "Callable[[], None] | Event | None") -> bool:
        batch = [first]
        while not self._inbox.empty():
            batch.append(self._inbox.get())
        alive = None not in batch
        try:
            for item in batch:
                if item is not None:
                    self._work(item)
            self._flush()
        except FedveilError as error:
            self.failure = error
            log.error("driver.stopped", code=error.code)
            raise
        due = self.next_deadline()
        if due is not None and due <= self._clock.monotonic_s():
            self.tick()
        return alive

    def pump(self) -> bool:
        """Everything queued, once; False if there was nothing. For a simulation, which has no thread."""
        if self._inbox.empty():
            return False
        self._take(self._inbox.get())
        return True

    def tick(self) -> None:
        """Tell the active run that its deadline has passed."""
        self._handle(Tick(self._clock.monotonic_s(), self._seed()))
        self._flush()

    def next_deadline(self) -> float | None:
        """When `tick` is due, on the monotonic clock."""
        return None if self.active is None else run.deadline(self.active, self._clock.monotonic_s())

    def _work(self, item: "Callable[[], None] | Event") -> None:
        if callable(item):
            item()
        else:
            self._handle(item)

    def _handle(self, event: Event) -> None:
        """One event into the active run; a refused message is logged and moves nothing."""
        if self.active is None:
            if isinstance(event, InputSpooled):
                self._refuse_upload(event.org_id, PeerError("input_not_expected", "no run is active"))
            return
        try:
            self.active, actions = run.step(self.active, event)
        except PeerError as error:
            org = OrgId(getattr(event, "org_id", ""))
            log.warning("message.refused", org=org, code=error.code)
            self._count_refused(org)
            if isinstance(event, InputSpooled):
                self._refuse_upload(org, error)
            return
        if isinstance(event, InputSpooled) and not any(isinstance(action, Acknowledge) for action in actions):
            late = PeerError("input_not_expected", "the attempt has ended, or another input came first")
            self._refuse_upload(event.org_id, late)  # every upload gets an answer, or its slot would stay taken
        self._pending.extend((self.active.run_id, action) for action in actions)
        if self.active.ended is not None:
            self._flush()
            self._finish(self.active, self.active.ended)

    def _receive(self, event: Received) -> None:
        """Members of the roster, and of the open attempt, are heard; a joiner only listens until it is listed."""
        attempt = self.active and self.active.attempt
        if event.org_id in self.members or (attempt and event.org_id in attempt.frame.manifest.cohort):
            self._handle(event)

    def _count_refused(self, org_id: OrgId) -> None:
        self._refused[org_id] = self._refused.get(org_id, 0) + 1
        outlet = self._outlets.get(org_id)
        if self._refused[org_id] > REFUSED_BOUND and outlet is not None:
            outlet.close("too_many_refused")

    def _end_stored(self, org_id: OrgId, run_id: RunId) -> None:
        """A member has the end of a run: no longer owed. What is not owed costs nothing."""
        if run_id in self._owed.get(org_id, ()):
            self._journal.delivered(run_id, org_id)
            self._owed[org_id].discard(run_id)

    def _countersigned(self, org_id: OrgId, blob: SignedBlob) -> None:
        """A member derived the final model of a run and signs it; what does not fit is counted as refused."""
        try:
            if self.registry is not None:
                self.registry.countersigned(org_id, blob)
        except (PeerError, ConfigError) as error:
            log.warning("message.refused", org=org_id, code=error.code)
            self._count_refused(org_id)

    def publish_status(self) -> None:
        """Tell everyone which models are in force now."""
        if self.registry is not None:
            notice = self.registry.notice()
            for outlet in self._outlets.values():
                outlet.send(notice)

    def _refuse_upload(self, org_id: OrgId, error: FedveilError) -> None:
        for _, future in self._uploads.pop(org_id, []):
            future.set_exception(error)

    def _flush(self) -> None:
        """Make the batch's facts durable, then carry out its other actions in order."""
        pending, self._pending = self._pending, []
        if not pending:
            return
        by_run: dict[RunId, list[tuple[str, bytes]]] = {}
        for run_id, action in pending:
            if isinstance(action, Persist):
                by_run.setdefault(run_id, []).append((facts.kind_of(action.fact), facts.encode(action.fact)))
        for run_id, records in by_run.items():
            for kind, _ in records:
                self._failpoints.hit(f"coordinator.before.{kind}")
            self._journal.append(run_id, records)
            for kind, _ in records:
                self._failpoints.hit(f"coordinator.after.{kind}")
        for run_id, action in pending:
            if isinstance(action, Persist):
                number = self.sums.note(run_id, action.fact)
                if number is not None:
                    self._time(run_id, action.fact, number)
        for run_id, action in pending:
            self._perform(run_id, action)

    def _perform(self, run_id: RunId, action: Action) -> None:
        match action:
            case Persist():
                pass
            case Send():
                outlet = self._outlets.get(action.org_id)
                if outlet is not None:
                    outlet.send(action.message)
            case Acknowledge():
                for _, future in self._uploads.pop(action.org_id, []):
                    future.set_result(action.receipt)
            case MakeNoise():
                self._make_noise(action.draft)
            case MultiplyInputs():
                self._multiply()
            case OpenSum():
                self._open_sum()
            case ProcessSum():
                self._process_sum(action.manifest)
            case DiscardInputs():
                self._journal.discard_inputs(action.key)
            case KeepInputs():
                self._journal.keep_inputs(action.key, action.survivors, action.quorum, action.holders)
            case Announce():
                self._announce(run_id, action)

    def _announce(self, run_id: RunId, action: Announce) -> None:
        told = self.watched.setdefault(run_id, [])
        told.append(Watched(told[-1].number + 1 if told else 1, action.kind, action.facts))
        del told[:-WATCHED_BOUND]
        log.info(f"run.{action.kind}", run=run_id, **dict(action.facts))
        for listener in list(self.listeners):
            listener(run_id, told[-1])

    def _seed(self) -> Seed:
        return Seed(self._entropy.take(32))

    # --- sessions -----------------------------------------------------------------------------------------------------

    def _connect(self, org_id: OrgId, outlet: Outlet) -> None:
        older = self._outlets.get(org_id)
        if older is not None and older is not outlet:
            older.close("session_replaced")
        self._outlets[org_id] = outlet
        self._refused.pop(org_id, None)
        roster = self._rosters[max(self._rosters)]
        outlet.send(CoordinatorHello(self._software, (1,), roster.federation_id))
        outlet.send(self._notice)
        if self.registry is not None:
            outlet.send(self.registry.notice())
        owed = self._journal.owed(org_id)
        self._owed[org_id] = set(owed)
        for run_id in owed:
            ended = self._ended(run_id)
            if ended is not None:
                outlet.send(ended)
        if org_id in roster.participants:
            self._handle(Connected(org_id, self._clock.monotonic_s(), self._seed()))

    def _disconnect(self, org_id: OrgId, outlet: Outlet) -> None:
        if self._outlets.get(org_id) is outlet:
            del self._outlets[org_id]
            self._handle(Disconnected(org_id, self._clock.monotonic_s()))

    @property
    def connected_members(self) -> tuple[OrgId, ...]:
        """Who has a session now, sorted. A snapshot."""
        return tuple(sorted(self._outlets))

    # --- runs ---------------------------------------------------------------------------------------------------------

    def resume(self) -> None:
        """Take up the unfinished runs of the journal, the oldest first. Before `serve`."""
        self.waiting = self._journal.unfinished()
        self._next_run()
        self._flush()

    def start_run(self, run_id: RunId, canonical: bytes) -> None:
        """A new run; it waits for its turn if another one is active. On the driver's thread.

        ConfigError `cannot_continue` or `unknown_run` if the plan continues what it cannot continue; PolicyRefusal
        `model_withdrawn` if that, or what it descends from, was withdrawn.
        """
        plan = plans.parse_canonical(canonical)
        continuing.check(plan, self.state_of)
        if plan.continues and self.registry is not None:
            self.registry.check_first_model(plan)
        self._keys_of(canonical)
        self._journal.create_run(run_id, canonical, self._clock.wall_s())
        self.waiting.append((run_id, canonical))
        self._next_run()
        self._flush()

    def abort_run(self, run_id: RunId) -> None:
        """End the run by the operator's order. ConfigError `unknown_run` if it neither runs nor waits."""
        if self.active is not None and self.active.run_id == run_id:
            self._handle(AbortOrdered(self._clock.monotonic_s()))
            self._flush()
            return
        if run_id not in [waiting for waiting, _ in self.waiting]:
            raise ConfigError("unknown_run", f"run {run_id} neither runs nor waits", next_step="fedveil run list")
        self.waiting = [entry for entry in self.waiting if entry[0] != run_id]
        self._journal.set_status(run_id, "ended", "aborted_by_operator")

    def publish_roster(self, roster: Roster, notice: RosterNotice) -> None:
        """A new roster version: everyone is told before any offer binds it."""
        self._rosters[roster.version] = roster
        self.members = frozenset(self._rosters[max(self._rosters)].participants)
        self._notice = notice
        for outlet in self._outlets.values():
            outlet.send(notice)
        before = self.active.roster.participants if self.active is not None else ()
        self._handle(RosterChanged(roster, self._clock.monotonic_s()))
        for org in sorted(self._outlets):
            if org in roster.participants and org not in before:
                self._handle(Connected(org, self._clock.monotonic_s(), self._seed()))
        self._flush()

    def end_session(self, org_id: OrgId, code: str) -> None:
        """Close the session of an organisation (revoked)."""
        outlet = self._outlets.pop(org_id, None)
        if outlet is not None:
            outlet.close(code)
            self._handle(Disconnected(org_id, self._clock.monotonic_s()))
            self._flush()

    def _next_run(self) -> None:
        if self.active is not None or not self.waiting:
            return
        run_id, canonical = self.waiting.pop(0)
        at = self._clock.monotonic_s()
        recorded = [facts.decode(kind, body) for kind, body in self._journal.facts(run_id)]
        roster = self._rosters[max(self._rosters)]
        if recorded:
            self.active = self._replay(run_id, recorded, roster, at)
        else:
            answer = continuing.answer(plans.parse_canonical(canonical), self.state_of, self._journal.answer)
            keys = self._keys_of(canonical)
            self.active, actions = run.open_run(run_id, canonical, self.office, roster, answer, at, keys)
            self._pending.extend((run_id, action) for action in actions)
        self._journal.set_status(run_id, "running", "")
        if self.active.ended is not None:
            self._finish(self.active, self.active.ended)
            return
        if recorded:
            self._handle(Resumed(at))
        for org in sorted(self._outlets):
            if org in roster.participants:
                self._handle(Connected(org, at, self._seed()))

    def _keys_of(self, canonical: bytes) -> tuple[KeyUse, ...]:
        """The key that a new run's inputs are encrypted under; none under masked. ConfigError `no_such_key`."""
        named = plans.parse_canonical(canonical).protection.key
        return (self._keys.use(named),) if named else ()

    def _replay(self, run_id: RunId, recorded: list[facts.Fact], roster: Roster, at: float) -> run.RunState:
        first, *others = recorded
        if not isinstance(first, facts.RunOpened):
            raise IntegrityError("journal_damaged", f"the journal of run {run_id} does not begin with its opening")
        state = run.opened(run_id, first, self.office, roster)
        for fact in others:
            self.sums.note(run_id, fact)
            state = run.apply(state, fact, self._rosters, at)
        return state

    def _finish(self, state: run.RunState, ended: facts.Ended) -> None:
        """The run is over: its end is owed to every roster member until it says that it has it."""
        self._journal.owe(state.run_id, state.roster.participants)  # first: a crash between the two repeats both
        for org in state.roster.participants:
            self._owed.setdefault(org, set()).add(state.run_id)
        self._journal.set_status(state.run_id, "ended", ended.code)
        self.active = None
        self._next_run()

    def _ended(self, run_id: RunId) -> RunEnded | None:
        if run_id not in self._ends:
            state = self.state_of(run_id)
            if state.ended is None:
                return None
            self._ends[run_id] = RunEnded(
                run_id, state.plan_hash, state.ended.code, state.standardise, state.ended.model
            )
        return self._ends[run_id]

    def state_of(self, run_id: RunId) -> run.RunState:
        """The state of any run, replayed if it is not active. ConfigError `unknown_run`."""
        if self.active is not None and self.active.run_id == run_id:
            return self.active
        recorded = [facts.decode(kind, body) for kind, body in self._journal.facts(run_id)]
        if not recorded:
            raise ConfigError("unknown_run", f"there is no run {run_id}", next_step="fedveil run list")
        return self._replay(run_id, recorded, self._rosters[max(self._rosters)], self._clock.monotonic_s())

    # --- heavy work ---------------------------------------------------------------------------------------------------

    def _attempt(self) -> attempts.Attempt:
        assert self.active is not None, "these actions come from the attempt of the active run"
        assert self.active.attempt is not None
        return self.active.attempt

    def _make_noise(self, draft: Manifest) -> None:
        state, now = self.active, self._clock.monotonic_s
        assert state is not None
        source = self.noise_source or PlannedNoise(state.plan, self._entropy)
        made = (self._ciphers, state, draft, source, self._journal, now)
        self._workers.submit(lambda: computing.make_noise(*made), self.post)

    def _multiply(self) -> None:
        attempt, now = self._attempt(), self._clock.monotonic_s
        self._workers.submit(lambda: computing.multiply(self._ciphers, attempt, now), self.post)

    def _open_sum(self) -> None:
        state, attempt = self.active, self._attempt()
        assert state is not None
        now, pool, seed = self._clock.monotonic_s, self._workers.pool, self._seed()
        self._workers.submit(lambda: computing.open_sum(self.sums, state.plan, attempt, pool, now, seed), self.post)

    def _process_sum(self, manifest: Manifest) -> None:
        state, attempt = self.active, self._attempt()
        assert state is not None
        assert isinstance(attempt.stage, attempts.Opened)
        survivors, now = len(attempt.stage.survivors), self._clock.monotonic_s
        self._workers.submit(
            lambda: computing.process_sum(self.sums, state, manifest, survivors, now, self._seed()), self.post
        )

    def _time(self, run_id: RunId, fact: facts.Fact, number: int) -> None:
        """From the first offer of a round to its durable sum, as this process saw it."""
        if isinstance(fact, facts.Offered):
            self._offered_at.setdefault((run_id, number), self._clock.monotonic_s())
        elif (run_id, number) in self._offered_at:
            began = self._offered_at[run_id, number]
            self.seconds.setdefault(run_id, {})[number] = self._clock.monotonic_s() - began
