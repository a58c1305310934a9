"""Each rule of the stories can fail: the same story with honest parties first, then with one of them replaced.

A rule that cannot fail says nothing. The rules and the stories are in `ledger` and `test_round_stories`.
"""

from collections.abc import Callable
from dataclasses import replace

import hypothesis
import ledger
import lies
import numpy as np
import pytest
from federation import FIVE, RUN, parse, rebuilt
from fedveil_common import wire
from fedveil_common.errors import StorageError
from fedveil_common.ids import AttemptKey, OrgId, RunId
from fedveil_common.masking.ring import residues, signed
from fedveil_common.messages import (
    AckMessage,
    Certificate,
    OpeningRequest,
    Proposal,
    RevealMessage,
    ShareDelivery,
    SignedBlob,
    VoteMessage,
)
from fedveil_common.secret import Seed
from fedveil_coordinator import run as coordinator_run
from fedveil_participant import checks
from fedveil_participant import driver as participant
from fedveil_participant import round as participant_round
from fedveil_participant.events import Action, Changes
from fedveil_participant.round import State
from fedveil_participant.stages import Acked, Revealed, Stage, Voted
from fedveil_simulation.cluster import Packet
from fedveil_simulation.journals import PackedMemory, packed
from hypothesis.stateful import (
    run_state_machine_as_test,
)
from ledger import (
    LedgerCluster,
    LedgerMemory,
    LedgerSpool,
    RuleBrokenError,
    observed,
)
from test_round_stories import KINDS, RoundStories, ends_well, quiet, told

__all__ = ["quiet"]


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
    honest = LedgerSpool.store_sum

    def store_sum(self: LedgerSpool, run_id: RunId, round: int, made: PackedMemory) -> None:
        values = signed(made.whole, made.bits).astype(np.int64)
        if extra == "one step":
            values[0] += 1
        else:
            (place,) = [place for place in self.cluster.ledger.encoded if place[0] == FIVE[0]]
            (again,) = self.cluster.ledger.encoded[place]
            values += np.frombuffer(again, dtype=np.int64)
        honest(self, run_id, round, packed(residues(values, made.bits), made.bits))

    monkeypatch.setattr(LedgerSpool, "store_sum", store_sum)
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
    honest = LedgerSpool.store_sum

    def store_sum(self: LedgerSpool, run_id: RunId, round: int, made: PackedMemory) -> None:
        honest(self, run_id, round, made)
        (place,) = [place for place in self.cluster.ledger.encoded if place[0] == FIVE[0]]
        (own,) = self.cluster.ledger.encoded[place]
        without = signed(made.whole, made.bits).astype(np.int64) - np.frombuffer(own, dtype=np.int64)
        honest(self, run_id, round, packed(residues(without, made.bits), made.bits))

    monkeypatch.setattr(LedgerSpool, "store_sum", store_sum)
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
