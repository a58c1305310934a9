"""Stories of a run, told at random: every fault that a network, a process or a liar can bring, at any moment.

A story is a federation of three to five members with one order of a run, and a list of faults: packets in flight lost,
repeated, delayed, reordered; sessions cut; members and the coordinator killed and started again, also between two
writes to their journals; time that passes; one member that lies; a coordinator that lies. After every step the rules of
`ledger.Ledger.check` hold; at the end the faults stop, and the run ends.

What counts as failure:
(a) a sum that is not, coordinate by coordinate, the integer sum of what its survivors encoded, each once;
(b) a member that releases both secrets of one peer in one attempt, over all its lives; both secrets of an honest dealer
    recoverable from what was released; more than c openings of one dealer;
(c) two votes of a member in one attempt, or a vote beside an abort vote, over all its lives;
(d) two masked vectors of a member under one T2, two adverts under one T0, a secret used in two attempts;
(e) two sums of one attempt or of one round, reveals for two attempts of one round;
(f) a run that has not ended within LIMIT_S simulated seconds after the faults stopped (every session begins anew, the
    dead are started, in half of the stories everybody is), or with a code that is none of ENDS; any other end than
    `finished`, with the model at every member that ever took part, where nobody lied and no fault outlasted the hard
    limit;
(g) an exception that leaves a driver.

What does not: an attempt that is aborted; a member left out of a sum; a run that ends without a model after a lie, or
after a member was away for longer than the hard limit (its updates are spent: `model_spent`); a member that missed a
Result and keeps its reveal for seven days; a false end that a lying coordinator tells its members, for the end of a run
is not signed; whatever happens to a liar. A liar may put any vector into a sum, and then counts with that one.

`FEDVEIL_STORIES=1000` tells that many other stories; without it the same few are told each time.
"""

import os
from collections.abc import Callable, Iterator
from dataclasses import replace

import hypothesis
import ledger
import lies
import numpy as np
import pytest
import structlog
from federation import FIVE, RUN, body_of, parse, rebuilt, resigned
from fedveil_common import transcript, wire
from fedveil_common.errors import PeerError, StorageError
from fedveil_common.ids import AttemptKey, OrgId, RunId
from fedveil_common.masking import masks
from fedveil_common.messages import (
    AckMessage,
    Certificate,
    Header,
    OpeningRequest,
    Proposal,
    RevealMessage,
    RunEnded,
    ShareDelivery,
    SignedBlob,
    VoteMessage,
)
from fedveil_common.secret import Seed
from fedveil_coordinator import driver as coordinator
from fedveil_coordinator import run as coordinator_run
from fedveil_participant import checks
from fedveil_participant import driver as participant
from fedveil_participant import round as participant_round
from fedveil_participant.events import Action, Changes
from fedveil_participant.round import State
from fedveil_participant.stages import Acked, Idle, Revealed, Stage, Voted
from fedveil_simulation.cluster import Packet
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from ledger import (
    HARD_LIMIT_S,
    LedgerCluster,
    LedgerMemory,
    LedgerSpool,
    RuleBrokenError,
    observed,
    story_plan,
)
from numpy.typing import NDArray

STORIES = int(os.environ.get("FEDVEIL_STORIES", "0"))
TOLD = 30
"""Stories of a plain test run."""

LIMIT_S = 4_000.0
"""Sixteen attempts with their pauses, hard limits and a wait for members: less than this in simulated seconds."""

ENDS = {"finished", "model_spent", "model_rejected", "not_enough_participants", "too_many_attempts"}
"""Codes with which a run may end here, whatever happened."""

KINDS = ("offer", "advert", "shares", "ack", "openings", "dealers", "input", "vote", "reveal", "abort_vote", "done")

picks = st.integers(0, 63)
few = st.integers(0, 25)


class RoundStories(RuleBasedStateMachine):
    """One story. Each rule first lets the federation go on a little, so that faults fall everywhere in a round."""

    cluster: LedgerCluster
    liar: OrgId | None = None
    members_lied = coordinator_lied = broken = False

    @initialize(
        count=st.sampled_from([3, 4, 5]),
        liar=st.none() | picks,
        rounds=st.sampled_from([1, 1, 2]),
        first=picks,
        restart=st.booleans(),
    )
    def begin(self, count: int, liar: int | None, rounds: int, first: int, restart: bool) -> None:
        self.cluster = observed(count, plan=story_plan(rounds=rounds))
        self.cluster.first = first
        self.names = list(self.cluster.members)
        self.liar = None if liar is None else self.names[liar % count]
        self.held: list[Packet] = []
        self.restart = restart

    def member(self, pick: int) -> OrgId:
        return self.names[pick % len(self.names)]

    def goes_on(self, steps: int) -> None:
        for _ in range(steps):
            if not self.cluster._once():
                break

    def take(self, pick: int, wanted: Callable[[Packet], bool] = lambda packet: True) -> Packet | None:
        """One of the packets in flight, taken off the network."""
        chosen = [packet for packet in self.cluster._network if wanted(packet)]
        if not chosen:
            return None
        packet = chosen[pick % len(chosen)]
        self.cluster._network.remove(packet)
        return packet

    # --- time and progress --------------------------------------------------------------------------------------------

    @rule(steps=st.integers(1, 120))
    def go_on(self, steps: int) -> None:
        self.goes_on(steps)

    @rule(kind=st.sampled_from(KINDS))
    def until_someone_stored(self, kind: str) -> None:
        known = len(self.cluster.ledger.kinds)
        for _ in range(300):
            if not self.cluster._once() and not self.cluster.pass_time():
                return
            if any(stored == kind for _, stored in self.cluster.ledger.kinds[known:]):
                return

    @rule(steps=few, times=st.integers(1, 12))
    def time_passes(self, steps: int, times: int) -> None:
        self.goes_on(steps)
        for _ in range(times):
            self.cluster.pass_time()
            self.goes_on(4)

    @rule(first=picks)
    def others_are_slow(self, first: int) -> None:
        self.cluster.first = first

    # --- the network --------------------------------------------------------------------------------------------------

    @rule(steps=few, pick=picks)
    def a_packet_is_lost(self, steps: int, pick: int) -> None:
        self.goes_on(steps)
        self.take(pick)

    @rule(steps=few, pick=picks)
    def a_packet_comes_twice(self, steps: int, pick: int) -> None:
        self.goes_on(steps)
        packet = self.take(pick)
        if packet is not None:
            self.cluster._network.extend([packet, packet])

    @rule(steps=few, pick=picks)
    def a_packet_is_delayed(self, steps: int, pick: int) -> None:
        self.goes_on(steps)
        packet = self.take(pick)
        if packet is not None:
            self.held.append(packet)

    @precondition(lambda self: self.held)
    @rule(steps=few, pick=picks)
    def a_delayed_packet_arrives(self, steps: int, pick: int) -> None:
        self.goes_on(steps)
        self.cluster._network.appendleft(self.held.pop(pick % len(self.held)))

    @rule(steps=few, pick=picks)
    def packets_change_places(self, steps: int, pick: int) -> None:
        self.goes_on(steps)
        self.cluster._network.rotate(pick)

    @rule(steps=few, pick=picks)
    def a_session_breaks(self, steps: int, pick: int) -> None:
        self.goes_on(steps)
        number = self.cluster.session_of(self.member(pick))
        if number is not None:
            self.cluster.cut(self.member(pick), number, "unreachable")

    # --- processes ----------------------------------------------------------------------------------------------------

    @rule(steps=few, pick=picks)
    def a_member_is_killed(self, steps: int, pick: int) -> None:
        self.goes_on(steps)
        if self.member(pick) in self.cluster.alive:
            self.cluster.kill_member(self.member(pick))

    @rule(steps=few, pick=picks)
    def a_member_is_started(self, steps: int, pick: int) -> None:
        self.goes_on(steps)
        if self.member(pick) not in self.cluster.alive:
            self.cluster.start_member(self.member(pick))

    @rule(steps=few)
    def the_coordinator_is_started_again(self, steps: int) -> None:
        self.goes_on(steps)
        self.cluster.restart_coordinator()

    @rule(pick=picks, countdown=st.integers(0, 5), durable=st.booleans())
    def a_member_will_die_at_a_write(self, pick: int, countdown: int, durable: bool) -> None:
        self.cluster.journal(self.member(pick)).crash = (countdown, durable)

    @rule(countdown=st.integers(0, 8), durable=st.booleans())
    def the_coordinator_will_die_at_a_write(self, countdown: int, durable: bool) -> None:
        self.cluster.spool.crash = (countdown, durable)

    # --- lies ---------------------------------------------------------------------------------------------------------

    @precondition(lambda self: self.liar is not None)
    @rule(steps=few, pick=picks, how=st.sampled_from(lies.MEMBER_LIES))
    def a_member_lies(self, steps: int, pick: int, how: str) -> None:
        self.goes_on(steps)
        packet = self.take(pick, lambda packet: not packet.outward and packet.org_id == self.liar)
        if packet is not None:
            self.members_lied = True
            self.cluster._network.extendleft(reversed(lies.member_lie(self.cluster, packet, how, pick)))

    @precondition(lambda self: self.liar is not None)
    @rule(steps=few, what=st.sampled_from(lies.SAYINGS))
    def a_member_says_something_else(self, steps: int, what: str) -> None:
        self.goes_on(steps)
        assert self.liar is not None
        for packet in lies.saying(self.cluster, self.liar, what):
            self.members_lied = True
            self.cluster.inject(packet)

    @precondition(lambda self: self.liar is not None)
    @rule(when=st.sampled_from(["instead", "before", "after"]))
    def a_member_uploads_another_vector(self, when: str) -> None:
        assert self.liar is not None
        self.members_lied = True
        uploads_another_vector(self.cluster, self.liar, when)

    @rule(steps=few, pick=picks, how=st.sampled_from(lies.COORDINATOR_LIES))
    def the_coordinator_lies(self, steps: int, pick: int, how: str) -> None:
        self.goes_on(steps)
        packet = self.take(pick, lambda packet: packet.outward)
        if packet is not None:
            self.coordinator_lied = True
            self.cluster._network.extendleft(reversed(lies.coordinator_lie(self.cluster, packet, how, pick)))

    @rule(steps=few, pick=st.integers(0, 10_000), to=picks)
    def the_coordinator_says_it_again(self, steps: int, pick: int, to: int) -> None:
        self.goes_on(steps)
        said = [packet for packet in self.cluster.sent if packet.outward]
        if said:
            self.coordinator_lied = True
            for packet in lies.addressed(self.cluster, said[pick % len(said)], self.member(to)):
                self.cluster.inject(packet)

    @rule(steps=few, to=picks, false_end=st.booleans())
    def the_coordinator_wants_an_end(self, steps: int, to: int, false_end: bool) -> None:
        self.goes_on(steps)
        self.coordinator_lied = True
        org = self.member(to)
        if false_end:
            end = RunEnded(RUN, bytes(32), "made_up", (), ())
            packet = Packet(org, 0, True, wire.encode_coordinator(end))
            said = lies.addressed(self.cluster, packet, org)
        else:
            said = lies.abort_order(self.cluster, org)
        for packet in said:
            self.cluster.inject(packet)

    # --- the rules ----------------------------------------------------------------------------------------------------

    @invariant()
    def rules_hold(self) -> None:
        self.broken = True
        self.cluster.ledger.check(frozenset() if self.liar is None else frozenset({self.liar}))
        self.broken = False

    def teardown(self) -> None:
        """The faults stop."""
        if self.broken or not hasattr(self, "cluster"):
            return
        calm = not self.members_lied and not self.coordinator_lied
        calm = calm and self.cluster.clock.monotonic_s() < HARD_LIMIT_S
        code = ends_well(self.cluster, calm=calm, restart=self.restart)
        self.rules_hold()
        hypothesis.event(f"{'calm' if calm else 'stormy'}: {code}")


def ends_well(cluster: LedgerCluster, *, calm: bool, restart: bool = True) -> str:
    """(f) The code with which the run ends once the faults have stopped."""
    cluster.heal(restart=restart)
    code = cluster.end(LIMIT_S)
    if code not in ENDS:
        raise RuleBrokenError("unknown_end", f"the run ended with {code}")
    if calm:
        took_part = [member.memory for member in cluster.members.values() if member.memory.trail]
        ends = {memory.ends.get(RUN, (b"", "", b""))[1:] for memory in took_part}
        if code != "finished" or len(ends) != 1 or any(model == b"" for _, model in ends):
            raise RuleBrokenError("not_finished", f"ended with {code} though nothing stood in the way")
        if any(not isinstance(memory.load(), (Idle, Revealed)) for memory in took_part):
            raise RuleBrokenError("not_idle", "an attempt is open after the end of the run")
    return code


def uploads_another_vector(cluster: LedgerCluster, liar: OrgId, when: str) -> None:
    """At its next upload the liar sends another vector under a header of its own: instead of the true one, or too."""
    if "receive" in vars(cluster):
        return  # it is about to
    honest = cluster.receive

    def receive(
        org_id: OrgId, header: bytes, leaf_hashes: tuple[bytes, ...], leaves: list[tuple[int, bytes]]
    ) -> SignedBlob:
        if org_id != liar:
            return honest(org_id, header, leaf_hashes, leaves)
        del cluster.receive
        receipt = honest(org_id, header, leaf_hashes, leaves) if when == "after" else None
        blob = wire.parse_blob(header)
        body = body_of(blob)
        assert isinstance(body, Header)
        ring = np.frombuffer(b"".join(leaf for _, leaf in leaves), dtype="<u4") + np.uint32(7)
        hashes = tuple(masks.leaf_hashes(body.t2, liar, ring))
        other = wire.encode_blob(resigned(cluster.charter, blob, leaf_root=transcript.leaf_root(hashes)))
        try:
            false = honest(org_id, other, hashes, [(index, bytes(leaf)) for index, leaf in masks.leaves(ring)])
        except PeerError:
            false = None
        if false is not None:
            place = (liar, cluster.ledger.t0_of[body.t2])
            (truth,) = cluster.ledger.encoded[place]
            cluster.ledger.given[place] = (np.frombuffer(truth, dtype="<u4") + np.uint32(7)).tobytes()
        if when == "instead" and false is not None:
            return false
        return receipt or honest(org_id, header, leaf_hashes, leaves)

    cluster.receive = receive  # type: ignore[method-assign]


@pytest.fixture(autouse=True)
def quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    """A story logs thousands of lines that nobody reads."""
    silent = structlog.wrap_logger(None, wrapper_class=structlog.make_filtering_bound_logger(50))
    monkeypatch.setattr(participant, "log", silent)
    monkeypatch.setattr(coordinator, "log", silent)


def told(count: int, **settings: object) -> hypothesis.settings:
    """How `count` stories are told; the clock of the machine they run on is nobody's business."""
    health = list(hypothesis.HealthCheck)
    return hypothesis.settings(
        max_examples=count, stateful_step_count=30, suppress_health_check=health, print_blob=True, **settings
    )


def test_stories() -> None:
    run_state_machine_as_test(RoundStories, settings=told(STORIES or TOLD, derandomize=not STORIES))


# --- each rule can fail: the same story with honest parties first, then with one of them replaced --------------------


def code_of(check: Callable[[], object]) -> str:
    """The code of the rule that does not hold."""
    with pytest.raises(RuleBrokenError) as caught:
        check()
    return caught.value.code


def played(cluster: LedgerCluster, until: Callable[[], bool] | None = None) -> LedgerCluster:
    """On, one thing at a time, to the end of the run or to where `until` holds."""
    while not (until() if until is not None else cluster.ended(RUN)):
        assert cluster._once() or cluster.pass_time(), "nothing can happen any more"
    return cluster


def stored(cluster: LedgerCluster, org: OrgId, kind: str) -> Callable[[], bool]:
    """Whether a member has stored this."""
    return lambda: (org, kind) in cluster.ledger.kinds


class Forgetful(LedgerMemory):
    """A journal that loses every write of some kinds."""

    forgets: frozenset[str] = frozenset()

    def save(
        self, key: AttemptKey, stage: Stage, kind: str, trail: tuple[tuple[str, str], ...], changes: Changes
    ) -> None:
        before = self.stage
        super().save(key, stage, kind, trail, changes)
        if kind in self.forgets:
            self.stage = before


def forgetting(cluster: LedgerCluster, org: OrgId, *kinds: str) -> None:
    """Start a member again, with a journal that loses these writes."""
    memory = Forgetful(cluster.ledger, org)
    memory.forgets = frozenset(kinds)
    cluster.kill_member(org)
    cluster.members[org].memory = memory
    cluster.start_member(org)


@pytest.mark.parametrize(("extra", "code"), [("the first again", "wrong_count"), ("one step", "wrong_sum")])
def test_rule_a_can_fail(extra: str, code: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A coordinator that adds one member twice, or is off by one."""
    played(observed(3)).ledger.check()
    honest = LedgerSpool.write_sum

    def write_sum(self: LedgerSpool, run_id: RunId, round: int, pieces: Iterator[NDArray[np.uint32]]) -> None:
        ring = np.concatenate(list(pieces))
        if extra == "one step":
            ring[0] += np.uint32(1)
        else:
            (place,) = [place for place in self.cluster.ledger.encoded if place[0] == FIVE[0]]
            (again,) = self.cluster.ledger.encoded[place]
            ring += np.frombuffer(again, dtype="<u4")
        honest(self, run_id, round, iter([ring]))

    monkeypatch.setattr(LedgerSpool, "write_sum", write_sum)
    cluster = observed(3)
    assert code_of(played(cluster, lambda: bool(cluster.ledger.sums)).ledger.check) == code


@pytest.mark.parametrize("code", ["both_secrets", "both_recoverable"])
def test_rule_b_can_fail(code: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Members that take one survivor for dropped: each releases the wrong secret, or both."""
    played(observed(5)).ledger.check()
    honest, victim = participant_round._reveal, FIVE[0]

    def reveal(state: State, stage: Voted, message: Certificate, at: float) -> tuple[State, tuple[Action, ...]]:
        if state.me == victim:
            return honest(state, stage, message, at)
        without = replace(stage, survivors=tuple(org for org in stage.survivors if org != victim))
        after, wrong = honest(state, without, message, at)
        return after, wrong if code == "both_recoverable" else (*wrong, *honest(state, stage, message, at)[1])

    monkeypatch.setattr(participant_round, "_reveal", reveal)
    cluster = observed(5)
    played(cluster, lambda: all(stored(cluster, org, "reveal")() for org in FIVE))
    assert code_of(cluster.ledger.check) == code


def test_rule_b_can_fail_by_openings(monkeypatch: pytest.MonkeyPatch) -> None:
    """A coordinator damages two members' shares and asks for both openings at once."""

    def play() -> LedgerCluster:
        cluster, victim = observed(4), FIVE[0]

        def damage(packet: Packet) -> list[Packet]:
            message = parse(packet)
            if not isinstance(message, ShareDelivery) or packet.org_id not in FIVE[1:3]:
                return [packet]
            blobs = [lies.unsigned(blob)[0] if blob.signer_id == victim else blob for blob in message.shares]
            return [rebuilt(packet, replace(message, shares=tuple(blobs)))]

        cluster.route = damage
        played(cluster, lambda: all(stored(cluster, org, "ack")() for org in FIVE[:4]))
        acks = [one.ack for packet in cluster.sent if isinstance(one := parse(packet), AckMessage)]
        bad = sorted({ack for ack in acks if ack.signer_id in FIVE[1:3]}, key=lambda blob: blob.signer_id)
        stage = cluster.members[victim].memory.load()
        assert isinstance(stage, Acked)
        request = Packet(victim, 0, True, wire.encode_coordinator(OpeningRequest(stage.t1, tuple(bad))))
        for packet in lies.addressed(cluster, request, victim):
            cluster.inject(packet)
        cluster.settle()
        return cluster

    cluster = play()
    assert ("refused", (("code", "too_many_complaints"), ("event", "Received"))) in cluster.journal(FIVE[0]).notes
    cluster.ledger.check()
    monkeypatch.setattr(checks, "openings_bounded", lambda *arguments: None)
    assert code_of(play().ledger.check) == "too_many_openings"


def test_rule_c_can_fail_by_an_abort_vote(monkeypatch: pytest.MonkeyPatch) -> None:
    """A member that agrees to an abort after it has voted to open."""

    def play() -> LedgerCluster:
        cluster = observed(3)
        played(cluster, stored(cluster, FIVE[0], "vote"))
        for packet in lies.abort_order(cluster, FIVE[0]):
            cluster.inject(packet)
        return played(cluster)

    play().ledger.check()
    honest = participant_round._abort_order

    def agree(state: State, blob: SignedBlob) -> tuple[State, tuple[Action, ...]]:
        if isinstance(state.stage, Voted):
            return participant_round._abort_vote(state, state.stage, "agreeable")  # type: ignore[arg-type]
        return honest(state, blob)

    monkeypatch.setattr(participant_round, "_abort_order", agree)
    assert code_of(play().ledger.check) == "vote_and_abort"


def test_rule_c_can_fail_by_a_lost_vote() -> None:
    """A member whose journal has lost its vote is shown another set of inputs."""

    def play(*lost: str) -> LedgerCluster:
        cluster, org = observed(4), FIVE[0]
        forgetting(cluster, org, *lost)
        played(cluster, stored(cluster, org, "vote"))
        (proposal,) = {one for packet in cluster.sent if isinstance(one := parse(packet), Proposal)}
        cluster.kill_member(org)
        cluster.start_member(org)
        cluster.settle = lambda: None  # type: ignore[method-assign]
        fewer = wire.encode_coordinator(replace(proposal, headers=proposal.headers[:-1]))
        for packet in lies.addressed(cluster, Packet(org, 0, True, fewer), org):
            cluster.inject(packet)
        for _ in range(100):
            cluster._once()
        return cluster

    cluster = play()
    assert ("refused", (("code", "second_vote"), ("event", "Received"))) in cluster.journal(FIVE[0]).notes
    cluster.ledger.check()
    assert code_of(play("vote").ledger.check) == "two_votes"


@pytest.mark.parametrize(
    ("lost", "after", "code"),
    [(("dealers", "input"), "input", "two_vectors"), (("advert",), "advert", "two_adverts")],
)
def test_rule_d_can_fail_by_a_lost_write(lost: tuple[str, ...], after: str, code: str) -> None:
    """A member whose journal has lost its keys, or its rounding, makes them anew in the same attempt."""

    def play(*lost: str) -> LedgerCluster:
        cluster, org = observed(3), FIVE[0]
        forgetting(cluster, org, *lost)
        played(cluster, stored(cluster, org, after))
        for _ in range(3):
            cluster._once()
        cluster.kill_member(org)
        cluster.start_member(org)
        return played(cluster, lambda: cluster.clock.monotonic_s() > 5 or cluster.ended(RUN))

    play().ledger.check()
    assert code_of(play(*lost).ledger.check) == code


def test_rule_d_can_fail_by_poor_entropy(monkeypatch: pytest.MonkeyPatch) -> None:
    played(observed(3)).ledger.check()
    monkeypatch.setattr(participant.Driver, "_seed", lambda self: Seed(self.state.me.encode().ljust(32, b".")))
    assert code_of(played(observed(3)).ledger.check) == "secret_reused"


def test_rule_e_can_fail(monkeypatch: pytest.MonkeyPatch) -> None:
    """A coordinator that opens an attempt a second time, without one of its members."""
    honest = LedgerSpool.write_sum

    def write_sum(self: LedgerSpool, run_id: RunId, round: int, pieces: Iterator[NDArray[np.uint32]]) -> None:
        honest(self, run_id, round, pieces)
        (place,) = [place for place in self.cluster.ledger.encoded if place[0] == FIVE[0]]
        (own,) = self.cluster.ledger.encoded[place]
        honest(self, run_id, round, iter([self.sums[run_id, round] - np.frombuffer(own, dtype="<u4")]))

    monkeypatch.setattr(LedgerSpool, "write_sum", write_sum)
    cluster = observed(3)
    played(cluster, lambda: bool(cluster.ledger.sums))
    assert code_of(cluster.ledger.check_opened) == "second_sum"


@pytest.mark.parametrize(("stage", "kind"), [(Voted, VoteMessage), (Revealed, RevealMessage)])
@pytest.mark.parametrize("restart", [True, False])
def test_rule_f_can_fail(stage: type[Stage], kind: type, restart: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """One message is lost with its session, and its sender does not say it again."""

    def play() -> str:
        cluster, lost = observed(3), []

        def lose(packet: Packet) -> list[Packet]:
            if isinstance(parse(packet), kind) and not lost:
                lost.append(packet)
                return []
            return [packet]

        cluster.route = lose
        played(cluster, lambda: bool(lost))
        return ends_well(cluster, calm=True, restart=restart)

    assert play() == "finished"
    honest = participant_round.outstanding
    monkeypatch.setattr(
        participant_round, "outstanding", lambda state: () if isinstance(state.stage, stage) else honest(state)
    )
    assert code_of(play) == "not_finished"


def test_rule_f_can_fail_by_no_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """A coordinator that neither offers anything nor gives up."""
    monkeypatch.setattr(coordinator_run, "_advance", lambda state, event: (state, ()))
    assert code_of(lambda: ends_well(observed(3), calm=False)) == "no_end"


def test_rule_f_can_fail_by_an_end_that_nobody_knows() -> None:
    cluster = observed(3)
    cluster.coordinator.call(lambda: cluster.coordinator.abort_run(RUN))
    cluster.settle()
    assert code_of(lambda: ends_well(cluster, calm=False)) == "unknown_end"


@pytest.mark.parametrize("fault", [KeyError("x"), StorageError("disk_full", "no room")])
def test_rule_g_can_fail(fault: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    """An exception leaves the participant's machine, or the coordinator's journal."""

    def fail(*arguments: object) -> None:
        raise fault

    cluster = observed(3)
    if isinstance(fault, StorageError):
        monkeypatch.setattr(LedgerSpool, "append", fail)
    else:
        monkeypatch.setattr(checks, "own_advert", fail)
    assert code_of(lambda: played(cluster)) == "untyped_error"


def test_the_stories_find_what_a_lost_write_breaks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Told at random over members whose journals lose every write, they do not hold."""
    monkeypatch.setattr(ledger, "LedgerMemory", Forgetful)
    monkeypatch.setattr(Forgetful, "forgets", frozenset(KINDS))
    with pytest.raises(RuleBrokenError):
        run_state_machine_as_test(RoundStories, settings=told(100, phases=[hypothesis.Phase.generate]))
