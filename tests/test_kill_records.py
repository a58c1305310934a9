"""Attacks 27 and 28 in full: each process killed right before and right after EVERY write to its disk, one at a time.

A federation of three, of which none may be missing, runs one training round and the last measurement. Whoever dies is
started again from its journal; the run must end as if nothing had happened: the same sums bit for bit, in the first
attempt. After every run all rules of the stories hold (`ledger`): one vector under a T2, one vote, one advert, no
secret twice, each input counted once. What a torn tail of the journal file does is in `test_database`, and with real
processes in `test_kill_record_processes`.

The second sum writes what the first one wrote; `FEDVEIL_SWEEP=1` kills there too.
"""

import os
from functools import lru_cache

import pytest
from federation import FIVE
from fedveil_common.ids import COORDINATOR, OrgId, RunId
from fedveil_common.messages import AdvertMessage
from fedveil_participant import driver as participant
from fedveil_participant import round as participant_round
from fedveil_participant.events import Action, Event, Send
from ledger import RuleBrokenError
from mortal_cluster import MortalCluster, mortal
from test_round_stories import quiet

__all__ = ["quiet"]

LIMIT_S = 4_000.0
PARTS = 8
EVERYTHING = bool(os.environ.get("FEDVEIL_SWEEP"))


def ended(cluster: MortalCluster) -> MortalCluster:
    """Played to the end of the run; every rule holds."""
    cluster.settle()
    assert cluster.end(LIMIT_S) == "finished"
    cluster.settle()
    cluster.ledger.check()
    return cluster


@lru_cache(None)
def undisturbed() -> tuple[dict[tuple[RunId, int], bytes], dict[OrgId, list[str]]]:
    """The sums of a run in which nobody dies, and what each party wrote."""
    cluster = ended(mortal())
    return cluster.opened, {party: writes.made for party, writes in cluster.writes.items()}


def fatal_writes(party: OrgId) -> list[int]:
    """The numbers of the writes at which this party dies, one run each."""
    made = undisturbed()[1][party]
    if EVERYTHING:
        return list(range(len(made)))
    last = "append SumApplied" if party == COORDINATOR else "save done"
    first, second = (number for number, kind in enumerate(made) if kind.startswith(last))
    return [number for number in range(len(made)) if number <= first + 1 or number >= second]


def test_attacks_27_and_28_every_kind_of_record_of_an_honest_round_is_killed_at() -> None:
    """The control of the sweep: what is left out without FEDVEIL_SWEEP was written before under the same name."""
    opened, made = undisturbed()
    assert len(opened) == 2
    for party in (FIVE[0], COORDINATOR):
        assert {made[party][number] for number in fatal_writes(party)} >= set(made[party]) - {
            "append SumApplied, Ended"
        }
    stages = ("offer", "advert", "shares", "ack", "dealers", "input", "vote", "reveal", "done")
    assert [kind for kind in made[FIVE[0]] if kind.startswith("save ")][:9] == [f"save {stage}" for stage in stages]
    assert sum(kind.startswith("append") for kind in made[COORDINATOR]) > 40


@pytest.mark.parametrize("part", range(PARTS))
@pytest.mark.parametrize("party", [FIVE[0], COORDINATOR], ids=["27 a member", "28 the coordinator"])
def test_attacks_27_and_28_killed_before_and_after_every_write(party: OrgId, part: int) -> None:
    opened, made = undisturbed()
    for number in fatal_writes(party)[part::PARTS]:
        for durable in (False, True):
            cluster = ended(mortal({party: (number, durable)}))
            where = (made[party][number], number, "after" if durable else "before")
            assert cluster.writes[party].died, where
            assert cluster.opened == opened, where
            assert {key.attempt for key, _, _ in cluster.ledger.sums} == {1}, where


def test_attack_27_a_kill_before_a_record_would_show_if_sending_came_first(monkeypatch: pytest.MonkeyPatch) -> None:
    """Stopped by the order of actions (persist, then send). With it turned around a member that dies before its advert
    is durable makes a second one for the same attempt: the rule that the sweep checks breaks.
    """
    number = undisturbed()[1][FIVE[0]].index("save advert")
    ended(mortal({FIVE[0]: (number, False)}))
    honest = participant_round.step

    def hasty(state: participant_round.State, event: Event) -> tuple[participant_round.State, tuple[Action, ...]]:
        after, actions = honest(state, event)
        said = [one for one in actions if isinstance(one, Send) and isinstance(one.message, AdvertMessage)]
        return after, (*said, *(one for one in actions if one not in said))

    monkeypatch.setattr(participant.round, "step", hasty)
    cluster = mortal({FIVE[0]: (number, False)})
    cluster.settle()
    assert cluster.writes[FIVE[0]].died
    with pytest.raises(RuleBrokenError) as caught:
        cluster.ledger.check()
    assert caught.value.code == "two_adverts"
