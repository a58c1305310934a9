"""Members and the coordinator lost at every point of a round, over the in-memory federation (attack 29, R2 to R22).

What counts as failure: a sum that is not exactly that of its survivors (checked against the participants' own journals
after every run), a member that reveals both secrets of one peer, a wait without a name. What does not: an attempt that
is aborted cleanly, naming who was missing.
"""

from collections.abc import Callable

import numpy as np
import pytest
from fedveil_common.ids import OrgId
from fedveil_common.masking.packing import unpack
from fedveil_common.masking.ring import signed, smallest
from fedveil_common.messages import Reveal, RevealMessage
from fedveil_coordinator import facts
from fedveil_coordinator.reporting import waiting_report
from fedveil_simulation.cluster import Cluster, Packet

from tests.federation import (
    RUN,
    after,
    body_of,
    check_sums,
    die_after,
    federation,
    journal,
    parse,
    plan_bytes,
    revealed,
    run,
    silence,
    state,
    trail,
)

PHASES = ("offer", "advert", "shares", "ack", "dealers", "input", "vote", "reveal")
NOT_HERE = {"Excluded", "AttemptDied", "OpeningsAccepted", "ProductMade", "QuorumCalled"}
FACTS = [kind for kind in facts._KINDS if kind not in NOT_HERE]
FIVE = [OrgId(name) for name in federation(start=False).members]
ROUND = 2


class CoordinatorKilledError(Exception):
    """The coordinator's process is gone: nothing after the durable write happened."""


def started(count: int = 5) -> Cluster:
    return federation(FIVE[:count])


def secrets_revealed(cluster: Cluster) -> None:
    """Nobody ever revealed both secrets of one peer in one attempt (rival R2), or a survivor's mask key (rival R8)."""
    for packet in cluster.sent:
        if packet.outward:
            continue
        message = parse(packet)
        if isinstance(message, RevealMessage):
            body = body_of(message.reveal)
            assert isinstance(body, Reveal)
            seeds = {dealer for dealer, _ in body.self_shares}
            keys = {dealer for dealer, _ in body.key_shares}
            assert not seeds & keys


@pytest.mark.parametrize("phase", PHASES)
@pytest.mark.parametrize("back", [0.0, 5.0, None], ids=["at once", "after 5 s", "never"])
def test_attack_29_one_of_five_lost_in_every_phase(phase: str, back: float | None) -> None:
    """N - q = 1: the run goes on whatever happens to one member, and every sum is exact."""
    cluster = started()
    lost = FIVE[2]
    then: Callable[[], None] | None = None
    if back == 0.0:
        then = lambda: cluster.start_member(lost)  # noqa: E731
    elif back is not None:
        delay = back
        then = lambda: after(cluster, delay, lambda: cluster.start_member(lost))  # noqa: E731
    died = die_after(cluster, lost, phase, ROUND, then)
    assert run(cluster) == "finished"
    assert died == [1]
    secrets_revealed(cluster)
    attempts = {record.attempt for record in state(cluster).records}
    assert attempts == {1}
    if back == 0.0:
        assert all(record.dropped == () for record in state(cluster).records)
        assert cluster.members[lost].memory.has_end(RUN)


@pytest.mark.parametrize("phase", ["offer", "advert", "shares", "ack", "dealers"])
def test_attack_29_one_too_many_is_a_clean_abort_that_names_them(phase: str) -> None:
    """N - q + 1 = 2 lost before their inputs: nothing opens, an abort certificate frees the others' updates."""
    plan = plan_bytes(wait_s=30)
    cluster = federation(plan=plan, names=FIVE)
    silence(cluster, FIVE[:1], phase, ROUND)
    first = cluster._once
    silence(cluster, FIVE[1:2], phase, ROUND)
    assert first is not cluster._once
    code = run(cluster, plan)
    secrets_revealed(cluster)
    recorded = [facts.decode(kind, body) for kind, body in cluster.memory.facts(RUN)]
    aborts = [fact for fact in recorded if isinstance(fact, facts.AbortStarted)]
    assert aborts, "the attempt was given up"
    assert set(aborts[0].missing) == set(FIVE[:2])
    assert [fact for fact in recorded if isinstance(fact, facts.AbortCertified)]
    if code == "finished":  # the three that were left are a cohort of their own
        assert max(record.attempt for record in state(cluster).records) == 2
    for org in FIVE[2:]:
        assert "abort_vote" in trail(cluster, org, ROUND)


@pytest.mark.parametrize(
    ("phase", "code", "certified"),
    [("input", "too_few_survivors", True), ("vote", "too_few_votes", False), ("reveal", "too_few_reveals", False)],
)
def test_attack_29_one_too_many_lost_later_opens_nothing(phase: str, code: str, certified: bool) -> None:
    """N - q + 1 = 2 lost for good once their input, vote or reveal was journaled and before it was sent: no second sum.

    Before the vote the attempt is aborted under a certificate and the other three are a cohort of their own. After it
    the three that are left can neither open nor undo their votes: the updates are spent, and the run ends.
    """
    cluster = started()
    silence(cluster, FIVE[:2], phase, ROUND)
    assert run(cluster) == ("finished" if certified else "model_spent")
    secrets_revealed(cluster)
    recorded = [facts.decode(kind, body) for kind, body in cluster.memory.facts(RUN)]
    assert bool([fact for fact in recorded if isinstance(fact, facts.AbortCertified)]) == certified
    if certified:
        (started_fact,) = [fact for fact in recorded if isinstance(fact, facts.AbortStarted)]
        assert (started_fact.reason, set(started_fact.missing)) == (code, set(FIVE[:2]))
        assert next(record for record in state(cluster).records if record.round == ROUND).cohort == tuple(FIVE[2:])
        return
    assert [fact.reason for fact in recorded if isinstance(fact, facts.AttemptDied)] == [code]
    assert (RUN, ROUND) not in cluster.memory.sums
    assert len(revealed(cluster, RUN, ROUND)) == (phase == "reveal")
    for org in FIVE[2:]:
        assert cluster.members[org].memory.kept.spent, "what was sent stays spent"


def test_a_cohort_of_three_aborts_without_a_leak_and_goes_on_with_the_same_update() -> None:
    """N = 3 tolerates no drop; with the abort certificate attempt 2 sums the very updates of attempt 1."""
    cluster = started(3)
    lost = FIVE[1]
    die_after(cluster, lost, "dealers", ROUND)
    cluster.start_run(RUN, plan_bytes())
    cluster.play(lambda: any(kind == "AbortCertified" for kind, _ in cluster.memory.facts(RUN)))
    cluster.start_member(lost)
    cluster.play(lambda: cluster.ended(RUN))
    check_sums(cluster)
    assert cluster.memory.runs[RUN][1:] == ("ended", "finished")
    records = {record.round: record for record in state(cluster).records}
    assert records[ROUND].attempt == 2
    secrets_revealed(cluster)
    masked = [packet for packet in cluster.uploads if packet[0] == FIVE[0]]
    assert len({data for _, _, data in masked}) == len(masked), "no two uploads are the same bytes (I10)"


@pytest.mark.parametrize("kind", FACTS)
def test_rival_R13_the_coordinator_restarts_after_every_fact(kind: str) -> None:
    """Killed once after this fact was journaled: the same attempt goes on; every sum is exact."""
    cluster = started(3)
    append, seen = cluster.memory.append, []

    def crash(run_id: object, records: list[tuple[str, bytes]]) -> None:
        append(run_id, records)  # type: ignore[arg-type]
        if any(name == kind for name, _ in records) and not seen:
            seen.append(1)
            raise CoordinatorKilledError

    cls = type(cluster.memory)
    original = cls.append
    cls.append = lambda self, run_id, records: (
        crash(run_id, records)
        if self is cluster.memory
        else original(  # type: ignore[method-assign,assignment]
            self, run_id, records
        )
    )
    append = original.__get__(cluster.memory)
    once = cluster._once

    def guarded() -> bool:
        try:
            return once()
        except CoordinatorKilledError:
            cluster.restart_coordinator()
            return True

    cluster._once = guarded  # type: ignore[method-assign]
    try:
        assert run(cluster) == "finished"
    finally:
        cls.append = original  # type: ignore[method-assign]
    expected = kind not in {"AbortStarted", "AbortVoteAccepted", "AbortCertified"}
    assert bool(seen) == expected
    assert {record.attempt for record in state(cluster).records} == {1}


def test_rival_R3_a_member_lost_before_it_shares_keys_does_not_stop_the_round() -> None:
    cluster = started()
    silence(cluster, [FIVE[4]], "advert", ROUND)
    assert run(cluster) == "finished"
    assert next(record for record in state(cluster).records if record.round == ROUND).dropped == (FIVE[4],)


def test_rival_R9_no_count_weight_or_metric_travels_in_the_clear() -> None:
    """Two federations whose tables differ in rows, labels and values send the same messages of the same sizes."""
    sizes = []
    for shift in (0, 1):
        cluster = federation(FIVE[shift : shift + 3])
        assert run(cluster) == "finished"
        names = {org: str(index) for index, org in enumerate(sorted(cluster.members))}
        sent = [packet for packet in cluster.sent if not packet.outward]
        sizes.append(
            sorted((names[packet.org_id], type(parse(packet)).__name__, shape(packet, list(names))) for packet in sent)
        )
        sizes[-1].extend(sorted((names[org], "upload", len(data)) for org, _, data in cluster.uploads))
    assert sizes[0] == sizes[1]


def shape(packet: Packet, names: list[OrgId]) -> int:
    """The size of a packet without the names in it."""
    data = packet.data
    for name in names:
        data = data.replace(name.encode(), b"")
    return len(data)


def test_rival_R22_every_wait_names_whom_it_waits_for_and_until_when() -> None:
    cluster = started()
    cluster.kill_member(FIVE[4])
    cluster.start_run(RUN, plan_bytes())
    died = die_after(cluster, FIVE[0], "ack", ROUND)
    cluster.settle()
    while not died:
        assert cluster.pass_time()
        cluster.settle()
    waiting = waiting_report(state(cluster), cluster.clock.monotonic_s())
    assert waiting is not None
    assert waiting["for"] == [FIVE[0]]
    assert 0 < float(str(waiting["until_s"])) <= 3.0
    cluster.play(lambda: cluster.ended(RUN))
    check_sums(cluster)


def test_the_masked_bytes_of_two_runs_say_nothing_of_their_inputs() -> None:
    """Correlation of what the coordinator received with what was masked: none (rival R1, end to end)."""
    cluster = started(3)
    assert run(cluster) == "finished"
    org = FIVE[0]
    vectors = list(journal(cluster, org).encoded.values())
    uploads = [data for sender, _, data in cluster.uploads if sender == org]
    bits = smallest(3, 16)
    assert len(vectors) == len(uploads)
    for vector, upload in zip(vectors, uploads, strict=True):
        masked = signed(unpack(upload, len(vector), bits), bits)
        assert not np.array_equal(vector, masked)
        words = np.corrcoef(vector.astype(np.float64), masked.astype(np.float64))[0, 1]
        assert abs(words) < 0.9
