"""Who only wants that nothing opens, or that others stop: holders that come and go, crashes, a coordinator's faults."""

from collections import defaultdict
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from encrypted_attackers import attempt_of, first_round, happened, listen, play, play_first_round, quorums
from encrypted_federation import encrypted_federation, encrypted_plan
from federation import FIVE, RUN, THREE, after, die_after, journal, trail
from fedveil_common.errors import StorageError, Unreachable
from fedveil_common.ids import OrgId
from fedveil_coordinator import round as rounds
from fedveil_participant import home_cipher
from fedveil_participant.stages import Idle
from fedveil_simulation.cluster import Cluster

TWO_CORRUPT = encrypted_plan(max_corrupt=2, min_participants=4)


def come_and_go(cluster: Cluster, pair: tuple[OrgId, OrgId]) -> Callable[[], None]:
    """Whoever of these two is called leaves as soon as the other one is there. To be asked all the time."""
    first, second = pair
    over: list[int] = []

    def watch() -> None:
        called = quorums(cluster)
        if len(called) == len(over):
            return
        alive = [org for org in pair if cluster.members[org].driver is not None]
        leaving = [org for org in alive if FIVE.index(org) in called[-1]]
        other = second if leaving[:1] == [first] else first
        if leaving and other not in alive:
            cluster.start_member(other)
        elif not leaving or rounds._heard(attempt_of(cluster), other, cluster.clock.monotonic_s()):
            over.append(1)
            for org in leaving[:1]:
                cluster.kill_member(org)

    return watch


def play_with(cluster: Cluster, watch: Callable[[], None], most: int) -> None:
    """Until the first round is over, or so many quorums were called."""

    def over() -> bool:
        watch()
        return happened(cluster, "SumOpened", "AttemptDied") or len(quorums(cluster)) >= most

    cluster.start_run(RUN, TWO_CORRUPT)
    play(cluster, over)


def test_two_holders_that_come_and_go_in_turn_do_not_keep_the_others_from_opening() -> None:
    """`_next_quorum`: a holder that was replaced is called again only where no other is there."""
    cluster = encrypted_federation(FIVE, FIVE, 3, plan=TWO_CORRUPT)
    play_with(cluster, come_and_go(cluster, (FIVE[0], FIVE[1])), 12)
    assert happened(cluster, "SumOpened")
    assert quorums(cluster) == [(0, 1, 2), (1, 2, 3), (2, 3, 4)]
    assert play_first_round(cluster) == FIVE


def test_two_holders_that_come_and_go_without_the_memory_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """The twin: the two are called in turn for ever, though three honest holders are there all the time."""
    monkeypatch.setattr(rounds, "Counter", lambda indices: defaultdict(int))
    cluster = encrypted_federation(FIVE, FIVE, 3, plan=TWO_CORRUPT)
    play_with(cluster, come_and_go(cluster, (FIVE[0], FIVE[1])), 12)
    assert len(quorums(cluster)) == 12
    assert not happened(cluster, "SumOpened")


def silent(monkeypatch: pytest.MonkeyPatch, org: OrgId) -> None:
    """A holder that is there, is called, and never answers."""
    honest = home_cipher.answer

    def answer(key: Any, holder: Any, *rest: Any) -> Any:
        if key.terms.holders[holder.index] == org:
            raise Unreachable("unreachable", "in no hurry")
        return honest(key, holder, *rest)

    monkeypatch.setattr(home_cipher, "answer", answer)


def test_a_holder_that_was_replaced_can_be_called_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its answer for the earlier quorum is not awaited; that is no failure after which it would leave the attempt.

    Else one holder that is silent ends the attempt whenever an honest one was gone for a second.
    """
    plan = encrypted_plan(hard_limit_s=600)
    cluster = encrypted_federation(FIVE, FIVE[:4], 3, plan=plan)
    told = listen(cluster)
    back = FIVE[2]
    die_after(cluster, back, "reveal", 1, lambda: after(cluster, 1.0, lambda: cluster.start_member(back)))
    silent(monkeypatch, FIVE[3])
    assert first_round(cluster, plan) == FIVE
    assert quorums(cluster) == [(0, 1, 2), (0, 1, 3), (0, 1, 2)]
    assert not told.of("refused")


def test_a_coordinator_that_cannot_read_its_disk_stops_no_holder(monkeypatch: pytest.MonkeyPatch) -> None:
    """A StorageError that came over the wire is the coordinator's: the holder's process goes on, and asks again."""
    cluster = encrypted_federation(THREE, THREE, 2)
    honest, faults = cluster.coordinator.headers, []

    def headers(*place: Any) -> Iterator[tuple[str, int, list[bytes]]]:
        if len(faults) < 3:
            faults.append(1)
            raise StorageError("ring_file_missing", "what was fetched has moved")
        return honest(*place)

    monkeypatch.setattr(cluster.coordinator, "headers", headers)
    assert first_round(cluster, encrypted_plan()) == THREE
    assert len(faults) == 3


@pytest.mark.parametrize("phase", ["key_set", "called"])
def test_a_key_that_is_no_longer_pinned_ends_the_attempt_and_not_the_process(phase: str) -> None:
    """Started again in the middle of an attempt, with another pin: nothing is encrypted or decrypted; it says so."""
    cluster = encrypted_federation(FIVE, THREE, 2 if phase == "key_set" else 3)
    book, lost = cluster.book, THREE[0]
    told = listen(cluster)

    def unpinned() -> None:
        cluster.book = None
        cluster.start_member(lost)
        cluster.book = book

    die_after(cluster, lost, phase, 1, unpinned)
    survivors = first_round(cluster, encrypted_plan())
    assert survivors == (FIVE[1:] if phase == "key_set" else ())
    assert {"org": lost, "code": "key_not_pinned"} in told.of("refused")
    if phase == "key_set":
        assert isinstance(journal(cluster, lost).load(), Idle)
    assert "reveal" not in trail(cluster, lost)
    assert not journal(cluster, lost).answers
