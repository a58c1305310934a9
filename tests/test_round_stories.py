"""Stories of a run, told at random: every fault that a network, a process or a liar can bring, at any moment.

A story is a federation of three to five members with one order of a run, and a list of faults: packets in flight lost,
repeated, delayed, reordered; sessions cut; members and the coordinator killed and started again, also between two
writes to their journals; time that passes; one member that lies; a coordinator that lies. After every step the rules of
`ledger.Ledger.check` hold; at the end the faults stop, and the run ends.

What counts as failure:
(a) a sum that is not, coordinate by coordinate, the integer sum of what its survivors encoded, each once;
(b) a member that releases both secrets of one peer in one attempt, over all its lives; both secrets of an honest dealer
    recoverable from what was released; more openings of one dealer than `quorum.opening_bound`;
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
from collections.abc import Callable

import hypothesis
import lies
import numpy as np
import pytest
import structlog
from federation import RUN, body_of, resigned
from fedveil_common import transcript, wire
from fedveil_common.errors import PeerError
from fedveil_common.ids import OrgId
from fedveil_common.masking import masks
from fedveil_common.masking.packing import unpack
from fedveil_common.messages import (
    Header,
    RunEnded,
    SignedBlob,
)
from fedveil_coordinator import driver as coordinator
from fedveil_participant import driver as participant
from fedveil_participant.stages import Idle, Revealed
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
    RuleBrokenError,
    observed,
    story_plan,
)

from tests import whole_vectors

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
        (whole,) = [leaf for _, leaf in leaves]
        ring = unpack(whole, body.length, body.ring_bits)
        ring += ring.dtype.type(7)
        hashes = tuple(whole_vectors.leaf_hashes(body.t2, liar, ring, body.ring_bits))
        other = wire.encode_blob(resigned(cluster.charter, blob, leaf_root=transcript.leaf_root(hashes)))
        try:
            false = honest(org_id, other, hashes, list(masks.leaves(ring, body.ring_bits)))
        except PeerError:
            false = None
        if false is not None:
            place = (liar, cluster.ledger.t0_of[body.t2])
            (truth,) = cluster.ledger.encoded[place]
            cluster.ledger.given[place] = (np.frombuffer(truth, dtype=np.int64) + 7).tobytes()
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
