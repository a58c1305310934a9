"""A federation in one process: the production drivers, machines and wire bytes over an in-memory network.

Promise: every message is serialised by its sender and parsed by its receiver, every signature is made and checked as in
production; one seed fixes the whole transcript byte for byte. The network is a queue that a test may bend (`route`):
drop, delay, duplicate, reorder, lie. Time passes only when nothing else can happen.
"""

from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fedveil_common import plan as plans
from fedveil_common import wire
from fedveil_common.errors import FedveilError, PeerError, Unreachable
from fedveil_common.gate import UNLABELLED, Label
from fedveil_common.ids import COORDINATOR, AttemptKey, OrgId, RunId
from fedveil_common.messages import CoordinatorMessage, ParticipantMessage, SignedBlob
from fedveil_common.ports import LeafSource, NoFailpoints
from fedveil_common.published import LeafKind, PublishedRound
from fedveil_common.secret import Seed
from fedveil_common.wire.published import encode_parts, parse_parts
from fedveil_coordinator import driver as coordinator
from fedveil_coordinator.archive import Archive, no_key
from fedveil_coordinator.events import Event
from fedveil_coordinator.intake import Intake
from fedveil_coordinator.run import Office
from fedveil_participant import driver as participant
from fedveil_participant import round as participant_round
from fedveil_participant.bench import TableBench
from fedveil_participant.checking import SumDownload
from fedveil_participant.checks import Limits
from fedveil_participant.consent import Consent, Consenting, restored_plan
from fedveil_participant.data.in_memory import in_memory
from fedveil_participant.home_cipher import HomeCipher
from fedveil_participant.mask_source import InlineMasks
from fedveil_participant.reasons import reasoned
from fedveil_participant.state import spent_by
from fedveil_participant.training.own_trainer import BUILT_IN, Trainers

from fedveil_simulation.charter import Charter
from fedveil_simulation.journals import CoordinatorMemory, ParticipantMemory, SpoolMemory
from fedveil_simulation.key_book import NO_KEYS, KeyBook, MemberKeys
from fedveil_simulation.ports import SeededEntropy, SimulatedClock

SOFTWARE = "simulation"


@dataclass(frozen=True, slots=True)
class Packet:
    """One message in flight: bytes only. `outward` is from the coordinator to `org_id`."""

    org_id: OrgId
    session: int
    outward: bool
    data: bytes


Route = Callable[[Packet], Iterable[Packet]]
"""What the network makes of a packet: itself, nothing, several, others."""


class _Tasks:
    """Long work of one process, waiting for its turn on the one thread; gone when the process is killed."""

    def __init__(self) -> None:
        self.queue: deque[Callable[[], None]] = deque()


class _CoordinatorWorkers(_Tasks):
    pool: Executor | None = None

    def submit(self, work: Callable[[], Event], post: Callable[[Event], None]) -> None:
        self.queue.append(lambda: post(work()))


class _MemberWorkers(_Tasks):
    pool: Executor | None = None

    def submit(self, work: Callable[[], None]) -> None:
        self.queue.append(work)


class _Outlet:
    def __init__(self, cluster: "Cluster", org_id: OrgId, session: int) -> None:
        self._cluster, self._org_id, self._session = cluster, org_id, session

    def send(self, message: CoordinatorMessage) -> None:
        data = wire.encode_coordinator(message)
        self._cluster.dispatch(Packet(self._org_id, self._session, True, data))

    def close(self, code: str) -> None:
        self._cluster.cut(self._org_id, self._session, code)


class _Link:
    """One participant's connection: bytes in, bytes out."""

    def __init__(self, cluster: "Cluster", org_id: OrgId) -> None:
        self._cluster, self._org_id = cluster, org_id

    def open(self, on_message: Callable[[CoordinatorMessage], None], on_closed: Callable[[FedveilError], None]) -> None:
        self._cluster.open_session(self._org_id, on_message, on_closed)

    def send(self, message: ParticipantMessage, label: Label = UNLABELLED) -> None:
        session = self._cluster.session_of(self._org_id)
        if session is not None:
            data = wire.encode_participant(reasoned(message))
            self._cluster.dispatch(Packet(self._org_id, session, False, data))

    def submit_input(
        self, header: SignedBlob, leaf_hashes: tuple[bytes, ...], source: LeafSource, label: Label = UNLABELLED
    ) -> SignedBlob:
        leaves = ((index, source.packed(index)) for index in range(source.leaves))
        return self._cluster.upload(self._org_id, wire.encode_blob(header), leaf_hashes, leaves)

    def fetch_headers(self, key: AttemptKey) -> Iterable[tuple[str, int, bytes]]:
        for name, first, numbers in self._cluster.coordinator.headers(self._org_id, key):
            for index, one in enumerate(numbers, first):
                yield name, index, one

    def fetch_sum(self, run_id: RunId, round: int) -> SumDownload:
        return self._cluster.download(run_id, round)

    def fetch_round(self, run_id: RunId, round: int) -> PublishedRound:
        return self._cluster.published(run_id, round)

    def fetch_leaves(
        self, run_id: RunId, round: int, leaves: Sequence[int], kind: LeafKind = LeafKind.INPUT
    ) -> Iterable[tuple[OrgId, int, bytes]]:
        return self._cluster.archive.leaves(run_id, round, leaves, kind)


@dataclass(slots=True)
class Session:
    """One side's view of an open session."""

    number: int
    on_message: Callable[[CoordinatorMessage], None]
    on_closed: Callable[[FedveilError], None]
    outlet: _Outlet | None = None


@dataclass(slots=True)
class Member:
    """One organisation: its journal stays when its driver is killed. `consent`: who decides for it, if it is not the
    list of accepted plans; `limits`: what its policy insists on; `closed`: runs that are denied at its next start.
    """

    org_id: OrgId
    data: Mapping[str, bytes]
    accepted: frozenset[bytes]
    memory: ParticipantMemory = field(default_factory=ParticipantMemory)
    driver: participant.Driver | None = None
    lives: int = 0
    consent: Consenting | None = None
    limits: Limits = field(default_factory=Limits)
    closed: Mapping[RunId, str] = field(default_factory=dict)


class Cluster:
    """A coordinator and its members. `run` plays until a run has ended everywhere, or nothing can happen any more."""

    def __init__(
        self,
        charter: Charter,
        seed: int,
        members: Mapping[OrgId, Mapping[str, bytes]],
        plan: bytes,
        trainers: Mapping[OrgId, Trainers] | None = None,
        book: KeyBook | None = None,
    ) -> None:
        """`book`: the key of a plan under paillier."""
        self.charter, self.seed, self.book = charter, seed, book
        self._trainers = trainers or {}
        self.clock = SimulatedClock()
        self.memory = CoordinatorMemory()
        self.members = {
            org: Member(org, data, frozenset({plans.plan_hash(plan)})) for org, data in sorted(members.items())
        }
        self.signed_rosters = {charter.roster.version: charter.notice.signed_roster}
        self.route: Route = lambda packet: (packet,)
        self.sent: list[Packet] = []
        self.uploads: list[tuple[OrgId, bytes, bytes]] = []
        self._tasks: dict[OrgId, _Tasks] = {}
        self._network: deque[Packet] = deque()
        self._sessions: dict[OrgId, Session] = {}
        self._session_count = 0
        self._coordinator_lives = 0
        self.coordinator = self._new_coordinator()

    # --- people -------------------------------------------------------------------------------------------------------

    def _new_coordinator(self) -> coordinator.Driver:
        self._coordinator_lives += 1
        workers = _CoordinatorWorkers()
        self._tasks[COORDINATOR] = workers
        made = coordinator.Driver(
            Office(self.charter.coordinator_key),
            {self.charter.roster.version: self.charter.roster},
            self.charter.notice,
            SOFTWARE,
            self.memory,
            workers,
            self.clock,
            SeededEntropy(self.seed, f"coordinator/{self._coordinator_lives}"),
            NoFailpoints(),
            self.book or NO_KEYS,
        )
        made.resume()
        return made

    def restart_coordinator(self) -> None:
        """Kill the coordinator's process and start it again from its journal."""
        for org in list(self._sessions):
            self.cut(org, self._sessions[org].number, "unreachable")
        self.coordinator = self._new_coordinator()

    def start_member(self, org_id: OrgId) -> None:
        """Start (again) a member's process from its journal."""
        member = self.members[org_id]
        member.lives += 1
        memory = member.memory
        entropy = SeededEntropy(self.seed, f"{org_id}/{member.lives}")
        version_key = Seed(SeededEntropy(self.seed, f"{org_id}/version").take(32))
        cipher = HomeCipher(MemberKeys(self.book, org_id), entropy, lambda key, shape: InlineMasks(key, entropy))
        accepted = {
            run_id: restored_plan(canonical, digest, version, cipher)
            for run_id, (digest, canonical, version) in memory.plans.items()
        }
        state = participant_round.State(
            org_id,
            self.charter.member_keys[org_id],
            self.charter.roster,
            closed=member.closed,
            plans=accepted,
            high_water=memory.kept.high_water,
            spent=memory.kept.spent,
            opened=memory.kept.opened,
            tag_keys=memory.kept.tag_keys,
            disputed=memory.kept.disputed,
            ledgers=spent_by({}, memory.kept.ledger),
            sketches=dict(memory.sketches),
            stage=memory.load(),
            limits=member.limits,
        )
        workers = _MemberWorkers()
        self._tasks[org_id] = workers
        files = {name: Path(org_id) / name for name in member.data}
        by_path = {files[name]: data for name, data in member.data.items()}
        member.driver = participant.Driver(
            state,
            member.consent or Consent(member.accepted),
            self.charter.verifier(org_id),
            self.charter.notice.trust_chain,
            self.charter.past_roster,
            SOFTWARE,
            memory,
            TableBench(
                files,
                version_key,
                lambda path: [in_memory(str(path), by_path[path])],
                self._trainers.get(org_id, BUILT_IN),
            ),
            _Link(self, org_id),
            workers,
            self.clock,
            entropy,
            NoFailpoints(),
            cipher,
        )
        member.driver.start()

    def kill_member(self, org_id: OrgId) -> None:
        """End a member's process at once; its journal stays."""
        member = self.members[org_id]
        member.driver = None
        del self._tasks[org_id]
        session = self._sessions.pop(org_id, None)
        if session is not None and session.outlet is not None:
            self.coordinator.disconnected(org_id, session.outlet)

    # --- the network --------------------------------------------------------------------------------------------------

    def open_session(
        self,
        org_id: OrgId,
        on_message: Callable[[CoordinatorMessage], None],
        on_closed: Callable[[FedveilError], None],
    ) -> None:
        """A member dials; the coordinator learns of it at once."""
        self._session_count += 1
        session = Session(self._session_count, on_message, on_closed)
        session.outlet = _Outlet(self, org_id, session.number)
        self._sessions[org_id] = session
        self.coordinator.connected(org_id, session.outlet)

    def session_of(self, org_id: OrgId) -> int | None:
        """The number of a member's open session."""
        session = self._sessions.get(org_id)
        return None if session is None else session.number

    def cut(self, org_id: OrgId, number: int, code: str) -> None:
        """Break a session: both sides learn of it."""
        session = self._sessions.get(org_id)
        if session is None or session.number != number:
            return
        del self._sessions[org_id]
        session.on_closed(Unreachable(code, "the session was cut"))
        if session.outlet is not None:
            self.coordinator.disconnected(org_id, session.outlet)

    def dispatch(self, packet: Packet) -> None:
        """Put a packet on the network."""
        self.sent.append(packet)
        self._network.extend(self.route(packet))

    def inject(self, packet: Packet) -> None:
        """Put a packet on the network past `route`: what an attacker sends."""
        self._network.append(packet)

    def _deliver(self, packet: Packet) -> None:
        session = self._sessions.get(packet.org_id)
        if session is None or session.number != packet.session:
            return
        if packet.outward:
            session.on_message(wire.parse_coordinator(packet.data))
            return
        try:
            message = wire.parse_participant(packet.data)
        except PeerError:
            return  # the edge answers INVALID_ARGUMENT; the driver never sees it
        self.coordinator.received(packet.org_id, message)

    def upload(
        self,
        org_id: OrgId,
        header: bytes,
        leaf_hashes: tuple[bytes, ...],
        leaves: Iterable[tuple[int, bytes | bytearray]],
    ) -> SignedBlob:
        """Receive a masked input as the edge does: each leaf against its announced hash, then the receipt."""
        blob = wire.parse_blob(header)
        upload = self.coordinator.expect_upload(org_id, blob)
        intake, key, quorum = Intake(upload.due, leaf_hashes), upload.attempt.key, upload.due.quorum
        announced = intake.announced(blob)
        spool: SpoolMemory[Any] = (
            self.memory.spool_answer(key, org_id, quorum, announced)
            if quorum
            else self.memory.spool(key, org_id, announced)
        )
        first = spool.first_missing
        intake.begin(first, spool.write)
        for index, leaf in leaves:
            if index >= first:
                intake.take(index, [bytes(leaf)])
        intake.complete()
        self.uploads.append((org_id, header, spool.data))
        spool.finish()
        self.coordinator.examine(org_id, upload)
        future = self.coordinator.input_complete(org_id, blob)
        while not future.done() and self.coordinator.pump():
            pass
        return wire.parse_blob(wire.encode_blob(future.result(timeout=0)))

    def download(self, run_id: RunId, round: int) -> SumDownload:
        """Serve an opened sum as the edge does."""
        manifest, result = self.coordinator.sums.source(run_id, round)
        opened = self.memory.open_sum(run_id, round)
        leaves = ((index, opened.packed(index)) for index in range(opened.leaves))
        return SumDownload(
            wire.parse_blob(wire.encode_blob(result)), wire.parse_blob(wire.encode_blob(manifest)), leaves
        )

    @property
    def archive(self) -> Archive:
        """What the coordinator publishes of opened rounds."""
        key_of = no_key if self.book is None else self.book.published
        return Archive(self.memory, self.signed_rosters.__getitem__, key_of)

    def published(self, run_id: RunId, round: int) -> PublishedRound:
        """Serve what proves an opened round as the edge does."""
        return parse_parts(encode_parts(self.archive.round(run_id, round)))

    # --- time ---------------------------------------------------------------------------------------------------------

    def _once(self) -> bool:
        """Do one thing that can be done now; False if there is none."""
        if self.coordinator.pump():
            return True
        for member in self.members.values():
            if member.driver is not None and member.driver.pump():
                return True
        if self._network:
            self._deliver(self._network.popleft())
            return True
        for tasks in self._tasks.values():
            if tasks.queue:
                tasks.queue.popleft()()
                return True
        return False

    def settle(self) -> None:
        """Until nothing can happen without time passing."""
        while self._once():
            pass

    def pass_time(self) -> bool:
        """Move to the next deadline of anyone and let it pass; False if there is none."""
        drivers: list[coordinator.Driver | participant.Driver] = [self.coordinator]
        drivers.extend(member.driver for member in self.members.values() if member.driver is not None)
        times = [time for driver in drivers if (time := driver.next_deadline()) is not None]
        if not times:
            return False
        self.clock.advance_to(min(times))
        for driver in drivers:
            due = driver.next_deadline()
            if due is not None and due <= self.clock.monotonic_s():
                driver.tick()
        return True

    def play(self, until: Callable[[], bool], limit_s: float = 200_000.0) -> None:
        """Until `until()` holds, nothing can happen, or `limit_s` simulated seconds have passed."""
        end = self.clock.monotonic_s() + limit_s
        self.settle()
        while not until() and self.clock.monotonic_s() < end and self.pass_time():
            self.settle()

    def start_run(self, run_id: RunId, plan: bytes) -> None:
        """Order a run, as the operator does."""
        self.coordinator.call(lambda: self.coordinator.start_run(run_id, plan))

    def ended(self, run_id: RunId) -> bool:
        """Whether the run has ended, and every member that lives has stored its end."""
        over = self.memory.runs.get(run_id, (b"", "", ""))[1] == "ended"
        alive = [member for member in self.members.values() if member.driver is not None]
        return over and all(member.memory.has_end(run_id) for member in alive)
