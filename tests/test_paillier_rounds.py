"""Rounds under protection paillier: the production machines and drivers of both sides, a real key of real holders.

Every sum that is opened is compared with the sum of the integers in the participants' own journals (`run`).
"""

from collections.abc import Callable

import pytest
from encrypted_federation import KEY_ID, encrypted_federation, encrypted_plan
from federation import FIVE, RUN, THREE, after, die_after, journal, manifest_of, parse, run, silence, state, trail
from fedveil_common import wire
from fedveil_common.errors import ConfigError
from fedveil_common.ids import AttemptKey, OrgId
from fedveil_common.messages import BlobType, CipherHeader, Offer, Partial, QuorumCall
from fedveil_coordinator import facts
from fedveil_coordinator.reporting import waiting_report
from fedveil_participant.stages import Decrypting
from fedveil_simulation.cluster import Cluster

MASKED_ONLY = {
    "SharesAccepted",
    "SharesDelivered",
    "AckAccepted",
    "OpeningsAccepted",
    "DealersFrozen",
}
FACTS = [kind for kind in facts._KINDS if kind not in {"Excluded", "AttemptDied", *MASKED_ONLY}]
PHASES = ("offer", "advert", "key_set", "input", "vote", "certificate", "called", "reveal")


class CoordinatorKilledError(Exception):
    """The coordinator's process is gone: nothing after the durable write happened."""


def facts_of(cluster: Cluster) -> list[facts.Fact]:
    return [facts.decode(kind, body) for kind, body in cluster.memory.facts(RUN)]


def quorums(cluster: Cluster) -> list[tuple[int, ...]]:
    return [fact.quorum for fact in facts_of(cluster) if isinstance(fact, facts.QuorumCalled)]


@pytest.mark.parametrize(("holders", "threshold"), [(2, 2), (3, 2), (3, 3)])
def test_a_run_ends_with_the_exact_sums(holders: int, threshold: int) -> None:
    cluster = encrypted_federation(holders=THREE[:holders], threshold=threshold)
    assert run(cluster, encrypted_plan()) == "finished"
    assert len(cluster.memory.sums) == 2
    assert [len(one) for one in quorums(cluster)] == [threshold, threshold]


def test_nothing_but_ciphertexts_and_partial_decryptions_is_uploaded() -> None:
    cluster = encrypted_federation(threshold=3)
    assert run(cluster, encrypted_plan()) == "finished"
    kinds = [wire.parse_blob(header).type for _, header, _ in cluster.uploads]
    assert set(kinds) == {BlobType.CIPHER_HEADER, BlobType.PARTIAL}
    assert kinds.count(BlobType.CIPHER_HEADER) == kinds.count(BlobType.PARTIAL) == 6
    said = {type(parse(packet)).__name__ for packet in cluster.sent}
    assert not said & {"Shares", "ShareDelivery", "AckMessage", "ShareSet", "RevealMessage"}


def test_every_attempt_names_the_key_and_its_epoch() -> None:
    cluster = encrypted_federation()
    assert run(cluster, encrypted_plan()) == "finished"
    assert cluster.book is not None
    for packet in cluster.sent:
        message = parse(packet)
        if isinstance(message, Offer):
            (named,) = manifest_of(message.manifest).encryption
            key = cluster.book.key
            assert (named.key_id, named.epoch, named.fingerprint) == (KEY_ID, 0, key.fingerprint)
            assert (named.noise, named.noise_cap) == (b"", 0)


def test_the_same_update_is_encrypted_afresh_in_every_attempt() -> None:
    """P6: one lost before its header; the next attempt sums the same updates under other randomness."""
    cluster = encrypted_federation(threshold=2)
    plan = encrypted_plan()
    died = die_after(cluster, THREE[1], "key_set", 1)
    cluster.start_run(RUN, plan)
    cluster.play(lambda: any(kind == "AbortCertified" for kind, _ in cluster.memory.facts(RUN)))
    assert died
    cluster.start_member(THREE[1])
    cluster.play(lambda: cluster.ended(RUN))
    assert cluster.memory.runs[RUN][1:] == ("ended", "finished")
    headers = [wire.parse_blob(header) for _, header, _ in cluster.uploads]
    mine = [wire.parse_body(one.type, one.body) for one in headers if one.signer_id == THREE[0]]
    seen = [one.headers_hash for one in mine if isinstance(one, CipherHeader)]
    assert len(seen) == len(set(seen)) == 3


@pytest.mark.parametrize("phase", PHASES)
@pytest.mark.parametrize("back", [0.0, 5.0, None], ids=["at once", "after 5 s", "never"])
def test_one_of_five_lost_in_every_phase(phase: str, back: float | None) -> None:
    """Four of five holders can open: whatever happens to one of them, every sum is exact."""
    cluster = encrypted_federation(FIVE, FIVE[:4], 3)
    lost = FIVE[2]
    then: Callable[[], None] | None = None
    if back == 0.0:
        then = lambda: cluster.start_member(lost)  # noqa: E731
    elif back is not None:
        delay = back
        then = lambda: after(cluster, delay, lambda: cluster.start_member(lost))  # noqa: E731
    died = die_after(cluster, lost, phase, 1, then)
    assert run(cluster, encrypted_plan()) == "finished"
    assert died == [1]
    assert {record.attempt for record in state(cluster).records} == {1}
    if back is None and phase in {"called", "reveal"}:
        assert quorums(cluster)[:2] == [(0, 1, 2), (0, 1, 3)], "another holder took its place"


def test_with_fewer_holders_than_the_threshold_the_round_waits_with_a_reason_and_then_ends() -> None:
    cluster = encrypted_federation(FIVE, THREE, 3)
    silence(cluster, [THREE[1]], "called", 1)
    told: list[tuple[str, dict[str, str]]] = []
    cluster.coordinator.listeners.append(lambda run_id, seen: told.append((seen.kind, dict(seen.facts))))
    assert run(cluster, encrypted_plan()) == "model_spent"
    assert ("waiting", {"reason": "too_few_holders", "missing": THREE[1]}) in told
    assert [fact.reason for fact in facts_of(cluster) if isinstance(fact, facts.AttemptDied)] == ["too_few_holders"]
    assert not cluster.memory.sums


def test_rival_R22_the_wait_for_holders_names_them() -> None:
    cluster = encrypted_federation(FIVE, THREE, 3)
    silence(cluster, [THREE[1]], "called", 1)
    cluster.start_run(RUN, encrypted_plan())
    cluster.settle()
    while not any(fact_kind == "QuorumCalled" for fact_kind, _ in cluster.memory.facts(RUN)):
        assert cluster.pass_time()
        cluster.settle()
    for _ in range(4):
        cluster.pass_time()
        cluster.settle()
    waiting = waiting_report(state(cluster), cluster.clock.monotonic_s())
    assert waiting is not None
    assert (waiting["phase"], waiting["for"], waiting["reason"]) == ("decrypting", [THREE[1]], "too_few_holders")
    assert 0 < float(str(waiting["until_s"])) <= 120.0


def test_rival_R22_a_run_that_lacks_holders_names_them() -> None:
    cluster = encrypted_federation(FIVE, THREE, 3)
    cluster.kill_member(THREE[0])
    cluster.start_run(RUN, encrypted_plan())
    cluster.settle()
    waiting = waiting_report(state(cluster), cluster.clock.monotonic_s())
    assert waiting is not None
    assert (waiting["phase"], waiting["holders"]) == ("cohort", [THREE[0]])


def test_a_holder_that_comes_back_in_time_opens_the_sum() -> None:
    cluster = encrypted_federation(FIVE, THREE, 3)
    lost = THREE[1]
    die_after(cluster, lost, "called", 1, lambda: after(cluster, 60.0, lambda: cluster.start_member(lost)))
    assert run(cluster, encrypted_plan()) == "finished"
    assert {record.attempt for record in state(cluster).records} == {1}


def test_before_a_certificate_too_few_holders_are_a_clean_abort() -> None:
    """Nothing was certified, so the updates are free again, and the next attempt sums them with the holder."""
    cluster = encrypted_federation(FIVE, THREE, 3)
    lost = THREE[1]
    die_after(cluster, lost, "input", 1)
    cluster.start_run(RUN, encrypted_plan())
    cluster.play(lambda: any(kind == "AbortCertified" for kind, _ in cluster.memory.facts(RUN)))
    started = [fact for fact in facts_of(cluster) if isinstance(fact, facts.AbortStarted)]
    assert [fact.reason for fact in started] == ["too_few_holders"]
    assert lost in started[0].missing
    cluster.start_member(lost)
    cluster.play(lambda: cluster.ended(RUN))
    assert cluster.memory.runs[RUN][1:] == ("ended", "finished")


def test_a_run_waits_for_holders_before_it_offers() -> None:
    plan = encrypted_plan(wait_s=30)
    cluster = encrypted_federation(FIVE, THREE, 3, plan=plan)
    cluster.kill_member(THREE[0])
    assert run(cluster, plan) == "not_enough_holders"
    ended = state(cluster).ended
    assert ended is not None
    assert [org for org, _ in ended.missing] == [THREE[0]]


def test_a_plan_whose_key_was_not_published_starts_no_run() -> None:
    cluster = encrypted_federation()
    cluster.book = None
    cluster.restart_coordinator()
    with pytest.raises(ConfigError) as caught:
        cluster.coordinator.start_run(RUN, encrypted_plan())
    assert caught.value.code == "no_such_key"
    assert RUN not in cluster.memory.runs


@pytest.mark.parametrize("kind", FACTS)
def test_rival_R13_the_coordinator_restarts_after_every_fact(kind: str) -> None:
    """Killed once after this fact was journaled: the same attempt goes on; every sum is exact."""
    cluster = encrypted_federation(threshold=3)
    append, seen = cluster.memory.append, []

    def crash(run_id: object, records: list[tuple[str, bytes]]) -> None:
        append(run_id, records)  # type: ignore[arg-type]
        if any(name == kind for name, _ in records) and not seen:
            seen.append(1)
            raise CoordinatorKilledError

    cls = type(cluster.memory)
    original = cls.append
    cls.append = lambda self, run_id, records: (  # type: ignore[method-assign]
        crash(run_id, records) if self is cluster.memory else original(self, run_id, records)
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
        assert run(cluster, encrypted_plan()) == "finished"
    finally:
        cls.append = original  # type: ignore[method-assign]
    assert bool(seen) == (kind not in {"AbortStarted", "AbortVoteAccepted", "AbortCertified"})
    assert {record.attempt for record in state(cluster).records} == {1}


@pytest.mark.parametrize("phase", ["called", "reveal"])
def test_P4_an_answer_is_said_again_in_the_same_bytes(phase: str) -> None:
    """A holder that dies around its answer gives one signed answer for a quorum, however often it is asked."""
    cluster = encrypted_federation(threshold=3)
    die_after(cluster, THREE[0], phase, 1, lambda: cluster.start_member(THREE[0]))
    assert run(cluster, encrypted_plan()) == "finished"
    answers = [header for org, header, _ in cluster.uploads if org == THREE[0] and is_partial(header)]
    assert len(set(answers)) == 2, "one for each of the two sums"


def is_partial(header: bytes) -> bool:
    return wire.parse_blob(header).type is BlobType.PARTIAL


def test_who_holds_no_part_of_the_key_is_never_called() -> None:
    cluster = encrypted_federation(FIVE, THREE, 2)
    assert run(cluster, encrypted_plan()) == "finished"
    asked = {packet.org_id for packet in cluster.sent if isinstance(parse(packet), QuorumCall)}
    assert asked == {THREE[0], THREE[1]}
    for org in FIVE[3:]:
        assert "called" not in trail(cluster, org)
        assert "certificate" in trail(cluster, org)


def test_what_a_quorum_answered_is_kept_for_the_auditors() -> None:
    cluster = encrypted_federation(threshold=2)
    assert run(cluster, encrypted_plan()) == "finished"
    assert {(run_id, number) for run_id, number in cluster.memory.kept_products} == {(RUN, 1), (RUN, 2)}
    assert {org for _, number, org in cluster.memory.kept_decryptions if number == 1} == set(THREE[:2])


def test_an_abort_vote_is_never_followed_by_an_answer() -> None:
    """P4: a holder that abort-voted has no stage in which it could decrypt."""
    cluster = encrypted_federation(threshold=2)
    die_after(cluster, THREE[1], "input", 1)
    cluster.start_run(RUN, encrypted_plan())
    cluster.play(lambda: any(kind == "AbortCertified" for kind, _ in cluster.memory.facts(RUN)))
    stages = [stage for _, stage in journal(cluster, THREE[0]).stages]
    assert "abort_vote" in trail(cluster, THREE[0])
    assert not [stage for stage in stages if isinstance(stage, Decrypting)]


def test_a_partial_is_bound_to_its_quorum_and_to_its_holder() -> None:
    cluster = encrypted_federation(threshold=2)
    assert run(cluster, encrypted_plan()) == "finished"
    partials = [wire.parse_blob(header) for _, header, _ in cluster.uploads if is_partial(header)]
    for blob in partials:
        body = wire.parse_body(BlobType.PARTIAL, blob.body)
        assert isinstance(body, Partial)
        assert body.org_id == blob.signer_id
        assert body.quorum == (0, 1)


def test_standing_facts_of_both_protections_are_the_same() -> None:
    """What outlives an attempt does not depend on how the update was hidden."""
    cluster = encrypted_federation()
    assert run(cluster, encrypted_plan()) == "finished"
    for org in THREE:
        kept = journal(cluster, org).kept
        assert len(kept.spent) == 4
        assert kept.high_water[RUN] == (2, 1)
        assert {(one.round, bool(one.result)) for one in kept.opened} >= {(1, True), (2, True)}


def attempt_of(cluster: Cluster) -> AttemptKey:
    attempt = state(cluster).attempt
    assert attempt is not None
    return attempt.key


def names(orgs: tuple[OrgId, ...]) -> str:
    return ",".join(orgs)
