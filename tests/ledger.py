"""A federation under observation: what everyone did in all its lives, kept outside of every journal, and the rules.

The machines, drivers, journals and wire bytes are those of the simulation; only the contribution of a member is made up
(`MarkedBench`), so that each member has a coordinate of its own and a double or lost count shows in the sum itself.
The ledger learns from what a member sends (`heard`), stores (`saved`) and encodes (`encoded`); nothing that the
coordinator wrote enters an expected sum. `check` raises RuleBrokenError with the code of the rule.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np
from federation import FIVE, PLAN, RUN, SETTINGS, body_of, parse
from fedveil_common import layout as layouts
from fedveil_common import plan as plans
from fedveil_common import wire
from fedveil_common.errors import PeerError, Unreachable
from fedveil_common.ids import COORDINATOR, AttemptKey, OrgId, RunId
from fedveil_common.masking.quorum import opening_bound
from fedveil_common.masking.ring import Signed
from fedveil_common.messages import (
    AbortMessage,
    AbortVote,
    Advert,
    AdvertMessage,
    Header,
    Manifest,
    Openings,
    ParticipantMessage,
    Purpose,
    Reveal,
    RevealMessage,
    ShareOpening,
    SignedBlob,
    Vote,
    VoteMessage,
)
from fedveil_common.noise_links import Coins
from fedveil_common.plan import Plan
from fedveil_common.provenance import Lineage
from fedveil_common.secret import Seed
from fedveil_coordinator import attempt as attempts
from fedveil_coordinator import driver as coordinator
from fedveil_participant.events import Changes, ProtectUpdate
from fedveil_participant.ports import Bench
from fedveil_participant.stages import Advertised, Idle, Revealed, Stage, Voted
from fedveil_simulation.charter import make_charter
from fedveil_simulation.cluster import Cluster, Packet
from fedveil_simulation.journals import CoordinatorMemory, PackedMemory, ParticipantMemory
from numpy.typing import NDArray

Vector = NDArray[np.int64]

MARK = 1000
"""What a member adds, in grid steps, to the one coordinate of the update that is its own."""

BASE = 4
"""Member i holds out BASE^i rows: their sum counts every member up to three times, also where there is no update."""

HARD_LIMIT_S = 30
"""Short, so that a story may outlive it."""


def story_plan(**settings: object) -> bytes:
    """The small plan, with shorter waits."""
    chosen = {**SETTINGS, "wait_s": 60, "hard_limit_s": HARD_LIMIT_S, **settings}
    return plans.canonical(plans.parse_plan(PLAN.format(**chosen).encode(), "small.yaml"))


def small_table(index: int) -> bytes:
    """Twelve rows; another version for every member."""
    rows = [f"{row / 16},0.25,0.5,0.75,{index / 8},{row % 2}" for row in range(12)]
    return ("\n".join(["f0,f1,f2,f3,f4,y", *rows]) + "\n").encode()


class RuleBrokenError(AssertionError):
    """A rule does not hold; `code` says which."""

    def __init__(self, code: str, what: str) -> None:
        super().__init__(f"[{code}] {what}")
        self.code = code


class CrashError(Exception):
    """A process is gone, between two instructions."""

    def __init__(self, party: OrgId) -> None:
        super().__init__(party)
        self.party = party


class MarkedBench:
    """Reads and encodes like the real bench; the contribution is a mark by which the member is known in the sum."""

    def __init__(self, bench: Bench, index: int, encoded: Callable[[bytes], None]) -> None:
        self._bench, self._index, self._encoded = bench, index, encoded

    def accept(self, plan: Plan) -> bytes:
        return self._bench.accept(plan)

    def sketch(self, version: bytes) -> bytes:
        return self._bench.sketch(version)

    def rows(self, plan: Plan, version: bytes) -> int:
        return self._bench.rows(plan, version)

    def contribution(
        self, plan: Plan, version: bytes, purpose: Purpose, lineage: Lineage | None, fresh: Callable[[], Seed]
    ) -> Sequence[NDArray[np.float64]]:
        shape = layouts.layout_for(plan, purpose, 0 if lineage is None else lineage.step)
        values = np.zeros(shape.length)
        rows = float(BASE**self._index)
        for name, where in shape.slices().items():
            match name:
                case layouts.UPDATE:
                    values[where.start + self._index] = MARK * plan.protection.update_norm / plan.protection.max_value
                case layouts.WEIGHT | layouts.LOSS | layouts.CORRECT:
                    values[where] = 0.5 if name == layouts.WEIGHT else rows / 2
                case layouts.HOLDOUT:
                    values[where] = rows
        return [values]

    def encode(self, plan: Plan, manifest: Manifest, values: NDArray[np.float64], coins: Coins, start: int) -> Signed:
        assert start == 0, "a story's vector is one piece"
        made = self._bench.encode(plan, manifest, values, coins, start)
        self._encoded(made.astype(np.int64).tobytes())
        return made


@dataclass
class Ledger:
    """Everything that honest software did. Keys: T0 of the attempt unless said otherwise."""

    manifests: dict[bytes, Manifest] = field(default_factory=dict)
    t0_of: dict[bytes, bytes] = field(default_factory=dict)
    adverts: dict[tuple[OrgId, bytes], set[bytes]] = field(default_factory=dict)
    secrets: dict[bytes, set[tuple[OrgId, bytes]]] = field(default_factory=dict)
    encoded: dict[tuple[OrgId, bytes], set[bytes]] = field(default_factory=dict)
    vectors: dict[tuple[OrgId, bytes], set[bytes]] = field(default_factory=dict)
    votes: dict[tuple[OrgId, bytes], set[bytes]] = field(default_factory=dict)
    aborts: set[tuple[OrgId, bytes]] = field(default_factory=set)
    survivors: dict[bytes, set[tuple[OrgId, ...]]] = field(default_factory=dict)
    released: dict[tuple[bytes, OrgId, str], set[OrgId]] = field(default_factory=dict)
    opened: dict[tuple[OrgId, bytes], set[OrgId]] = field(default_factory=dict)
    reveals: set[bytes] = field(default_factory=set)
    sums: list[tuple[AttemptKey, bytes, bytes]] = field(default_factory=list)
    given: dict[tuple[OrgId, bytes], bytes] = field(default_factory=dict)
    kinds: list[tuple[OrgId, str]] = field(default_factory=list)

    def saved(self, org: OrgId, kind: str, stage: Stage) -> None:
        """A member is about to store this stage."""
        self.kinds.append((org, kind))
        if isinstance(stage, Idle):
            return
        t0 = stage.frame.t0
        self.manifests[t0] = stage.frame.manifest
        for name in ("t1", "t2", "t3"):
            if hasattr(stage, name):
                self.t0_of[getattr(stage, name)] = t0
        if isinstance(stage, Advertised):
            for secret in (stage.mask_key, stage.channel_key, stage.self_seed, stage.kappa):
                self.secrets.setdefault(secret.expose(), set()).add((org, t0))
        if isinstance(stage, Voted):
            self.survivors.setdefault(stage.t3, set()).add(stage.survivors)
        if isinstance(stage, Revealed):
            self.reveals.add(stage.t3)

    def heard(self, org: OrgId, message: ParticipantMessage) -> None:
        """A member sends this."""
        match message:
            case AdvertMessage(advert=blob):
                body = body_of(blob)
                assert isinstance(body, Advert)
                self.adverts.setdefault((org, body.t0), set()).add(blob.body)
            case Openings(openings=blobs):
                for body in map(body_of, blobs):
                    assert isinstance(body, ShareOpening)
                    self.opened.setdefault((org, self.t0_of[body.t1]), set()).add(body.recipient)
            case VoteMessage(vote=blob):
                body = body_of(blob)
                assert isinstance(body, Vote)
                self.votes.setdefault((org, self.t0_of[body.t3]), set()).add(body.t3)
            case AbortMessage(vote=blob):
                body = body_of(blob)
                assert isinstance(body, AbortVote)
                self.aborts.add((org, body.t0))
            case RevealMessage(reveal=blob):
                self._revealed(org, blob)
            case _:
                pass

    def _revealed(self, org: OrgId, blob: SignedBlob) -> None:
        body = body_of(blob)
        assert isinstance(body, Reveal)
        t0 = self.t0_of[body.t3]
        if body.self_seed:
            self.released.setdefault((t0, org, "seed"), set()).add(org)
        for kind, told in (("seed", body.self_shares), ("key", body.key_shares)):
            for dealer, _ in told:
                self.released.setdefault((t0, dealer, kind), set()).add(org)

    # --- the rules ----------------------------------------------------------------------------------------------------

    def check(self, liars: frozenset[OrgId] = frozenset()) -> None:
        """Every rule, over everything so far. What a liar's own software did is not held against it."""
        for rule in (self.check_sums, self.check_secrets, self.check_votes, self.check_vectors, self.check_opened):
            rule(liars)

    def check_sums(self, liars: frozenset[OrgId] = frozenset()) -> None:
        """(a) An opened sum is the integer sum of what its survivors encoded, each exactly once."""
        for key, t3, ring in self.sums:
            found = np.frombuffer(ring, dtype=np.int64)
            (survivors,) = self.survivors.get(t3, {()})
            if not survivors:
                raise RuleBrokenError("wrong_sum", f"{key} was opened under a T3 that nobody voted for")
            self.check_marks(found, self.manifests[self.t0_of[t3]], survivors, liars)
            total = np.zeros(len(found), dtype=np.int64)
            for org in survivors:
                total += np.frombuffer(self._input(org, self.t0_of[t3]), dtype=np.int64)
            if not np.array_equal(total, found):
                raise RuleBrokenError("wrong_sum", f"{key}: {found} was opened, {survivors} put in {total}")

    def _input(self, org: OrgId, t0: bytes) -> bytes:
        if (org, t0) in self.given:
            return self.given[org, t0]
        (ring,) = self.encoded[org, t0]
        return ring

    def check_marks(
        self, found: Vector, manifest: Manifest, survivors: tuple[OrgId, ...], liars: frozenset[OrgId]
    ) -> None:
        """(a) again, from the sum alone: each survivor's mark stands in it once, nobody else's at all."""
        if liars & set(survivors):
            return  # a liar may have put in anything
        length = manifest.length
        names = sorted(FIVE)
        if manifest.purpose is Purpose.TRAIN:
            counts = [round(float(found[index]) / MARK) for index in range(len(names))]
        else:
            rows = round(float(found[0]) / float((2**15 - 1) // 400))  # block `holdout` comes first
            counts = [rows // BASE**index % BASE for index in range(len(names))]
        expected = [int(org in survivors) for org in names]
        if counts != expected:
            raise RuleBrokenError("wrong_count", f"{counts} of {names} stand in a sum over {survivors}, d = {length}")

    def check_secrets(self, liars: frozenset[OrgId] = frozenset()) -> None:
        """(b) Nobody releases both secrets of one peer; both can never be put together from what was released."""
        for (t0, dealer, kind), members in self.released.items():
            both = members & self.released.get((t0, dealer, "key" if kind == "seed" else "seed"), set()) - liars
            if both:
                raise RuleBrokenError("both_secrets", f"{sorted(both)} released both secrets of {dealer}")
        for t0, dealer in {(t0, dealer) for t0, dealer, _ in self.released} | {(t0, org) for org, t0 in self.opened}:
            if dealer in liars:
                continue
            public = self.opened.get((dealer, t0), set()) | (liars & set(self.manifests[t0].cohort))
            known = {kind: self.released.get((t0, dealer, kind), set()) for kind in ("seed", "key")}
            ways = [
                dealer in members or len(members | public) >= self.manifests[t0].threshold for members in known.values()
            ]
            if all(ways):
                raise RuleBrokenError("both_recoverable", f"both secrets of {dealer} can be put together")
        for (org, t0), recipients in self.opened.items():
            manifest = self.manifests[t0]
            if org not in liars and len(recipients) > opening_bound(len(manifest.cohort), manifest.corrupt):
                raise RuleBrokenError("too_many_openings", f"{org} opened the shares of {sorted(recipients)}")

    def check_votes(self, liars: frozenset[OrgId] = frozenset()) -> None:
        """(c) One vote in an attempt, over all lives; never beside an abort vote."""
        for (org, t0), votes in self.votes.items():
            if org in liars:
                continue
            if len(votes) > 1:
                raise RuleBrokenError("two_votes", f"{org} voted for {len(votes)} sets of inputs in one attempt")
            if (org, t0) in self.aborts:
                raise RuleBrokenError("vote_and_abort", f"{org} voted to open and to abort")

    def check_vectors(self, liars: frozenset[OrgId] = frozenset()) -> None:
        """(d) One masked vector under a T2; one advert under a T0; no secret in two attempts."""
        for (org, _), vectors in self.vectors.items():
            if org not in liars and len(vectors) > 1:
                raise RuleBrokenError("two_vectors", f"{org} sent {len(vectors)} masked vectors under one T2")
        for (org, _), adverts in self.adverts.items():
            if org not in liars and len(adverts) > 1:
                raise RuleBrokenError("two_adverts", f"{org} sent {len(adverts)} adverts for one attempt")
        for uses in self.secrets.values():
            if len(uses) > 1:
                raise RuleBrokenError("secret_reused", f"one secret serves {sorted(org for org, _ in uses)}")

    def check_opened(self, liars: frozenset[OrgId] = frozenset()) -> None:
        """(e) One sum of an attempt, one opened attempt of a round, reveals for one attempt of a round."""
        rounds: dict[tuple[RunId, int], set[tuple[AttemptKey, bytes, bytes]]] = {}
        for key, t3, ring in self.sums:
            rounds.setdefault((key.run_id, key.round), set()).add((key, t3, ring))
        shown: dict[tuple[RunId, int], set[bytes]] = {}
        for t3 in self.reveals:
            key = self.manifests[self.t0_of[t3]].key
            shown.setdefault((key.run_id, key.round), set()).add(t3)
        for place, found in (*rounds.items(), *shown.items()):
            if len(found) > 1:
                raise RuleBrokenError("second_sum", f"{len(found)} sums of round {place[1]} were opened")


class LedgerMemory(ParticipantMemory):
    """A participant's journal that tells the ledger, and may be the last thing a process did."""

    def __init__(self, ledger: Ledger, org: OrgId) -> None:
        super().__init__()
        self.ledger, self.org = ledger, org
        self.crash: tuple[int, bool] | None = None
        self.on_save: Callable[[str], None] = lambda kind: None

    def save(
        self, key: AttemptKey, stage: Stage, kind: str, trail: tuple[tuple[str, str], ...], changes: Changes
    ) -> None:
        countdown, durable = self.crash or (-1, False)
        if countdown > 0:
            self.crash = (countdown - 1, durable)
        if countdown == 0:
            self.crash = None
            if not durable:
                raise CrashError(self.org)
        self.ledger.saved(self.org, kind, stage)
        super().save(key, stage, kind, trail, changes)
        self.on_save(kind)
        if countdown == 0:
            raise CrashError(self.org)


class LedgerSpool(CoordinatorMemory):
    """The coordinator's journal, likewise; every sum that is written is copied into the ledger."""

    def __init__(self, cluster: "LedgerCluster") -> None:
        super().__init__()
        self.cluster = cluster
        self.crash: tuple[int, bool] | None = None
        self.on_append: Callable[[str], None] = lambda kind: None

    def append(self, run_id: RunId, records: list[tuple[str, bytes]]) -> None:
        countdown, durable = self.crash or (-1, False)
        if countdown > 0:
            self.crash = (countdown - 1, durable)
        if countdown == 0:
            self.crash = None
            if not durable:
                raise CrashError(COORDINATOR)
        super().append(run_id, records)
        for kind, _ in records:
            self.on_append(kind)
        if countdown == 0:
            raise CrashError(COORDINATOR)

    def store_sum(self, run_id: RunId, round: int, made: PackedMemory) -> None:
        super().store_sum(run_id, round, made)
        active = self.cluster.coordinator.active
        assert active is not None
        assert active.attempt is not None
        assert isinstance(active.attempt.stage, attempts.Opening)
        key, t3 = active.attempt.key, active.attempt.stage.t3
        self.cluster.ledger.sums.append((key, t3, self.read_sum(run_id, round).astype(np.int64).tobytes()))


class LedgerCluster(Cluster):
    """A cluster that keeps a ledger, in which any process may crash between two writes, and any party may be slow."""

    def __init__(self, names: tuple[OrgId, ...], plan: bytes, seed: int = 1) -> None:
        self.ledger = Ledger()
        self.first = 0
        data: dict[OrgId, Mapping[str, bytes]] = {name: {"table": small_table(FIVE.index(name))} for name in names}
        super().__init__(make_charter(names, seed), seed, data, plan)
        for member in self.members.values():
            member.memory = LedgerMemory(self.ledger, member.org_id)

    def _new_coordinator(self) -> coordinator.Driver:
        if not isinstance(self.memory, LedgerSpool):
            self.memory = LedgerSpool(self)
        return super()._new_coordinator()

    def journal(self, org: OrgId) -> LedgerMemory:
        """The journal of a member."""
        memory = self.members[org].memory
        assert isinstance(memory, LedgerMemory)
        return memory

    @property
    def spool(self) -> LedgerSpool:
        """The journal of the coordinator."""
        assert isinstance(self.memory, LedgerSpool)
        return self.memory

    @property
    def alive(self) -> list[OrgId]:
        """Whose process runs."""
        return [org for org, member in self.members.items() if member.driver is not None]

    def start_member(self, org_id: OrgId) -> None:
        super().start_member(org_id)
        driver = self.members[org_id].driver
        assert driver is not None
        protect, working_on = driver._protect, b""

        def encoded(ring: bytes) -> None:
            self.ledger.encoded.setdefault((org_id, working_on), set()).add(ring)

        def protected(action: ProtectUpdate) -> None:
            nonlocal working_on
            working_on = self.ledger.t0_of[action.t2]
            protect(action)

        driver._bench = MarkedBench(driver._bench, FIVE.index(org_id), encoded)
        driver._protection._bench = driver._bench
        driver._protect = protected  # type: ignore[method-assign]

    def dispatch(self, packet: Packet) -> None:
        if not packet.outward:
            self.ledger.heard(packet.org_id, parse(packet))  # type: ignore[arg-type]
        super().dispatch(packet)

    def upload(
        self,
        org_id: OrgId,
        header: bytes,
        leaf_hashes: tuple[bytes, ...],
        leaves: Iterable[tuple[int, bytes | bytearray]],
    ) -> SignedBlob:
        pieces = [(index, bytes(leaf)) for index, leaf in leaves]
        body = body_of(wire.parse_blob(header))
        assert isinstance(body, Header)
        self.ledger.vectors.setdefault((org_id, body.t2), set()).add(b"".join(leaf for _, leaf in pieces))
        try:
            return self.receive(org_id, header, leaf_hashes, pieces)
        except CrashError as crash:
            self._bury(crash)
            raise Unreachable("unreachable", "the coordinator went away during the upload") from None

    def receive(
        self, org_id: OrgId, header: bytes, leaf_hashes: tuple[bytes, ...], leaves: list[tuple[int, bytes]]
    ) -> SignedBlob:
        """An upload, whoever makes it."""
        return super().upload(org_id, header, leaf_hashes, leaves)

    def _deliver(self, packet: Packet) -> None:
        try:
            super()._deliver(packet)
        except PeerError as error:
            self.cut(packet.org_id, packet.session, error.code)  # as the participant's client does

    def _bury(self, crash: CrashError) -> None:
        if crash.party == COORDINATOR:
            self.restart_coordinator()
        else:
            self.kill_member(crash.party)

    @contextmanager
    def _typed(self) -> Iterator[None]:
        """(g) Nothing but a crash that we asked for leaves a driver."""
        try:
            yield
        except CrashError as crash:
            self._bury(crash)
        except RuleBrokenError:
            raise
        except Exception as error:
            raise RuleBrokenError("untyped_error", f"{type(error).__name__} left a driver: {error}") from error

    def _once(self) -> bool:
        done = True
        with self._typed():
            done = self._turn()
        return done

    def _turn(self) -> bool:
        """One thing that can be done now, the parties asked in turn from `first` on."""

        def network() -> bool:
            if self._network:
                self._deliver(self._network.popleft())
                return True
            return False

        drivers = [driver for member in self.members.values() if (driver := member.driver) is not None]
        turns: list[Callable[[], bool]] = [self.coordinator.pump, *(driver.pump for driver in drivers), network]
        turns = turns[self.first % len(turns) :] + turns[: self.first % len(turns)]
        if any(turn() for turn in turns):
            return True
        for tasks in self._tasks.values():
            if tasks.queue:
                tasks.queue.popleft()()
                return True
        return False

    def pass_time(self) -> bool:
        moved = True
        with self._typed():
            moved = super().pass_time()
        return moved

    def heal(self, *, restart: bool = True) -> None:
        """Faults stop: nobody crashes any more, every session begins anew, and who is dead is started.

        With `restart`, every process starts again from its journal; without, the living keep what they have in memory.
        """
        self.spool.crash = None
        for org in self.members:
            self.journal(org).crash = None
            if restart and org in self.alive:
                self.kill_member(org)
        if restart:
            self.restart_coordinator()
        for org, member in self.members.items():
            number = self.session_of(org)
            if number is not None:
                self.cut(org, number, "unreachable")
            if member.driver is None:
                self.start_member(org)

    def end(self, limit_s: float) -> str:
        """Play to the end of the run; its code. RuleBrokenError `no_end`, also if deadlines pass for nothing."""
        still, before = 0, -1.0

        def over() -> bool:
            nonlocal still, before
            now = self.clock.monotonic_s()
            still, before = (still + 1 if now == before else 0), now
            return self.ended(RUN) or still > 100

        self.play(over, limit_s)
        _, status, code = self.memory.runs[RUN]
        if status != "ended":
            raise RuleBrokenError("no_end", f"the run is {status} after {self.clock.monotonic_s():.0f} s")
        return code


def observed(count: int, *, plan: bytes | None = None, seed: int = 1) -> LedgerCluster:
    """`count` members, each started, and a run ordered."""
    canonical = plan or story_plan()
    cluster = LedgerCluster(FIVE[:count], canonical, seed)
    for org in cluster.members:
        cluster.start_member(org)
    cluster.start_run(RUN, canonical)
    while RUN not in cluster.memory.runs:
        cluster.coordinator.pump()
    return cluster
