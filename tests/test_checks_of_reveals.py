"""What the coordinator checks from the inputs to the reveals, and the loss of a model at its borders."""

import functools
import math
from collections.abc import Callable, Iterable
from dataclasses import replace

import pytest
from federation import (
    FIVE,
    RUN,
    Said,
    Tap,
    body_of,
    die_after,
    federation,
    plan_bytes,
    resigned,
    signed,
)
from fedveil_common import sanity, wire
from fedveil_common.errors import ConfigError, FedveilError, IntegrityError
from fedveil_common.ids import OrgId, RunId
from fedveil_common.masking import quorum
from fedveil_common.messages import (
    AbortMessage,
    AbortVote,
    AckMessage,
    AdvertMessage,
    BlobType,
    Header,
    ParticipantMessage,
    Proposal,
    Reveal,
    RevealMessage,
    RunEnded,
    Shares,
    SignedBlob,
    Vote,
    VoteMessage,
)
from fedveil_coordinator import acceptance, events, facts
from fedveil_coordinator import run as runs
from fedveil_simulation.cluster import Cluster, Packet
from test_checks_of_the_coordinator import (
    ELSE,
    HONEST,
    Waiting,
    again,
    blamed,
    first_of,
    of_run,
    recorded,
    taken,
    waiting,
)

BAD, PEER, LOST = FIVE[2], FIVE[1], FIVE[4]

# --- inputs -----------------------------------------------------------------------------------------------------------


@functools.cache
def collecting() -> Cluster:
    """Inputs are awaited; LOST's never comes."""
    cluster = federation()
    die_after(cluster, LOST, "dealers", 1)
    cluster.start_run(RUN, plan_bytes())
    cluster.settle()
    return cluster


def header_of(cluster: Cluster, org: OrgId) -> SignedBlob:
    return next(wire.parse_blob(head) for name, head, _ in cluster.uploads if name == org)


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"length": 1}, "wrong_shape"),
        ({"ring_bits": 33}, "wrong_shape"),
        ({"leaf_count": 2}, "wrong_shape"),
        ({"t2": ELSE}, "wrong_transcript"),
        ({"org_id": PEER}, "wrong_transcript"),
    ],
    ids=["length", "ring", "leaves", "T2", "name"],
)
def test_an_upload_of_another_shape_is_refused_before_a_leaf_is_read(changes: dict[str, object], code: str) -> None:
    cluster = collecting()
    good = header_of(cluster, BAD)
    assert isinstance(cluster.coordinator.expect_upload(BAD, good).body, Header)
    with pytest.raises(FedveilError) as caught:
        cluster.coordinator.expect_upload(BAD, resigned(cluster.charter, good, **changes))
    assert caught.value.code == code


def test_an_upload_in_anothers_name_or_at_the_wrong_time() -> None:
    cluster = collecting()
    good = header_of(cluster, BAD)
    for org, header, code in [
        (PEER, good, "wrong_signer"),
        (BAD, replace(good, sig=bytes(64)), "bad_signature"),
        (OrgId("zeta"), good, "input_not_expected"),
    ]:
        with pytest.raises(FedveilError) as caught:
            cluster.coordinator.expect_upload(org, header)
        assert caught.value.code == code
    for early in (waiting(AckMessage), waiting(VoteMessage)):
        with pytest.raises(FedveilError) as caught:
            early.cluster.coordinator.expect_upload(BAD, good)
        assert caught.value.code == "input_not_expected"


# --- votes, the end of a vote -----------------------------------------------------------------------------------------


def test_a_vote_over_another_set() -> None:
    here = waiting(VoteMessage)
    here.refused(VoteMessage(signed(here.cluster.charter, BAD, BlobType.VOTE, Vote(ELSE))), "wrong_transcript")


def test_an_abort_vote_over_another_attempt() -> None:
    here = waiting(VoteMessage)
    active = here.cluster.coordinator.active
    assert active is not None
    assert active.attempt is not None
    t0 = active.attempt.frame.t0
    for body, counts in [(AbortVote(t0, 1), True), (AbortVote(ELSE, 1), False), (AbortVote(t0, 2), False)]:
        message = AbortMessage(signed(here.cluster.charter, BAD, BlobType.ABORT, body))
        if counts:
            first_of(taken(here.cluster, BAD, message), facts.AbortVoteAccepted)
        else:
            here.refused(message, "wrong_transcript")


@pytest.mark.parametrize(("heard", "certified"), [(2, False), (3, True)])
def test_the_abort_certificate_has_exactly_the_threshold(heard: int, certified: bool) -> None:
    """N = 5, c = 1: three abort votes. Two dealers are lost, so that the vote is out of reach before it began."""
    assert quorum.abort_threshold(5, 1) == 3
    cluster = federation()
    voted: list[OrgId] = []

    def change(packet: Packet, said: Said) -> Iterable[Said]:
        if packet.outward or not isinstance(said, AbortMessage):
            return [said]
        voted.append(packet.org_id)
        return [said] if len(voted) <= heard else []

    cluster.route = Tap(change)
    for org in FIVE[3:]:
        die_after(cluster, org, "shares", 1)
    cluster.start_run(RUN, plan_bytes())
    cluster.play(lambda: bool(of_run(cluster, facts.AbortStarted)), 30)
    cluster.settle()
    assert len(of_run(cluster, facts.AbortVoteAccepted)) == heard
    assert bool(of_run(cluster, facts.AbortCertified)) == certified
    if certified:
        (fact,) = of_run(cluster, facts.AbortCertified)
        assert isinstance(fact, facts.AbortCertified)
        assert len(fact.voters) == 3
        return
    cluster.play(lambda: cluster.memory.runs[RUN][1] == "ended", 300)
    assert cluster.memory.runs[RUN][2] == "model_spent"
    (dead,) = of_run(cluster, facts.AttemptDied)
    assert dead == facts.AttemptDied("too_few_shares")


@pytest.mark.parametrize("deaf", [2, 3])
def test_a_vote_that_is_out_of_reach(deaf: int) -> None:
    """Some never see the proposal. Three that have not voted can certify the abort, so it begins at once; two cannot,
    so they are waited for until the hard limit.
    """
    cluster = federation(plan=plan_bytes(hard_limit_s=120))

    def change(packet: Packet, said: Said) -> Iterable[Said]:
        return [] if isinstance(said, Proposal) and packet.org_id in FIVE[:deaf] else [said]

    cluster.route = Tap(change)
    cluster.start_run(RUN, plan_bytes())
    cluster.settle()
    assert len(of_run(cluster, facts.VoteAccepted)) == 5 - deaf
    cluster.play(lambda: bool(of_run(cluster, facts.AbortStarted)), 1_000)
    started = of_run(cluster, facts.AbortStarted)[0]
    assert isinstance(started, facts.AbortStarted)
    assert (started.reason, started.missing) == ("too_few_votes", FIVE[:deaf])
    if deaf == 3:
        assert cluster.clock.monotonic_s() < 60
        cluster.settle()
        assert of_run(cluster, facts.AbortCertified)
    else:
        assert cluster.clock.monotonic_s() >= 120
        cluster.play(lambda: bool(of_run(cluster, facts.AttemptDied)), 1_000)
        assert of_run(cluster, facts.AttemptDied)[0] == facts.AttemptDied("too_few_votes")
        assert not of_run(cluster, facts.AbortCertified)
    assert not of_run(cluster, facts.Certified)


STAGES: dict[str, type[ParticipantMessage]] = {
    "offering": AdvertMessage,
    "sharing": Shares,
    "acking": AckMessage,
    "voting": VoteMessage,
}


@pytest.mark.parametrize("kind", STAGES.values(), ids=STAGES)
def test_the_operator_ends_a_run_before_a_certificate(kind: type[ParticipantMessage]) -> None:
    """The open attempt is given up by name, everyone is asked for an abort vote, the run ends under its own code."""
    cluster = federation()
    cluster.route = Tap(lambda packet, said: [] if type(said) is kind else [said])
    cluster.start_run(RUN, plan_bytes())
    cluster.settle()
    with pytest.raises(ConfigError) as caught:
        cluster.coordinator.abort_run(RunId("unknown"))
    assert caught.value.code == "unknown_run"
    cluster.coordinator.abort_run(RUN)
    cluster.settle()
    (started,) = of_run(cluster, facts.AbortStarted)
    assert started == facts.AbortStarted("operator", ())
    assert cluster.memory.runs[RUN][1:] == ("ended", "aborted_by_operator")
    assert not cluster.memory.sums
    assert not of_run(cluster, facts.Certified)
    told = {packet.org_id for packet, said in cluster.route.seen if isinstance(said, RunEnded)}  # type: ignore[attr-defined]
    assert told == set(FIVE)
    for org in FIVE:
        assert cluster.members[org].memory.has_end(RUN)
        assert cluster.members[org].memory.stage is None


def test_the_operator_ends_a_run_after_a_certificate_without_an_abort() -> None:
    here = waiting(RevealMessage)
    active = here.cluster.coordinator.active
    assert active is not None
    _, actions = runs.step(active, events.AbortOrdered(here.cluster.clock.monotonic_s()))
    made = recorded(actions)
    assert not any(isinstance(fact, facts.AbortStarted) for fact in made)
    assert [fact.code for fact in made if isinstance(fact, facts.Ended)] == ["aborted_by_operator"]


# --- reveals ----------------------------------------------------------------------------------------------------------


@functools.cache
def revealing() -> Waiting:
    """BAD's reveal is awaited; LOST dealt and gave no input, so that shares of its mask key are due."""
    return waiting(RevealMessage, "dealers")


def reveal_of(here: Waiting, org: OrgId = BAD) -> tuple[SignedBlob, Reveal]:
    said = here.from_(org, RevealMessage)
    assert isinstance(said, RevealMessage)
    body = body_of(said.reveal)
    assert isinstance(body, Reveal)
    return said.reveal, body


def sorted_pairs(*pairs: tuple[OrgId, bytes]) -> tuple[tuple[OrgId, bytes], ...]:
    return tuple(sorted(pairs))


BAD_REVEALS: dict[str, tuple[Callable[[Reveal], dict[str, object]], str]] = {
    "no key share of the dropped": (lambda b: {"key_shares": ()}, "incomplete_reveal"),
    "a key share of a survivor too": (
        lambda b: {"key_shares": sorted_pairs(*b.key_shares, (PEER, bytes(33)))},
        "incomplete_reveal",
    ),
    "a key share of a survivor instead": (
        lambda b: {"key_shares": ((PEER, b.key_shares[0][1]),)},
        "incomplete_reveal",
    ),
    "a self share left out": (lambda b: {"self_shares": b.self_shares[1:]}, "incomplete_reveal"),
    "a self share of the dropped too": (
        lambda b: {"self_shares": sorted_pairs(*b.self_shares, (LOST, bytes(33)))},
        "incomplete_reveal",
    ),
    "a self share of the dropped instead": (
        lambda b: {"self_shares": sorted_pairs(*b.self_shares[1:], (LOST, bytes(33)))},
        "incomplete_reveal",
    ),
    "a self share of its own too": (
        lambda b: {"self_shares": sorted_pairs(*b.self_shares, (BAD, bytes(33)))},
        "incomplete_reveal",
    ),
    "no self seed": (lambda b: {"self_seed": b""}, "incomplete_reveal"),
    "another self seed": (lambda b: {"self_seed": ELSE}, "wrong_secret_dealt"),
    "another self share": (
        lambda b: {"self_shares": ((b.self_shares[0][0], bytes(33)), *b.self_shares[1:])},
        "bad_share",
    ),
    "another key share": (lambda b: {"key_shares": ((LOST, bytes(33)),)}, "bad_share"),
}


@pytest.mark.parametrize(("changes", "code"), BAD_REVEALS.values(), ids=BAD_REVEALS)
def test_a_reveal_that_does_not_hold_exactly_what_is_due(
    changes: Callable[[Reveal], dict[str, object]], code: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stopped by `acceptance.reveal_defect`: it counts for nothing and its sender is to blame."""
    here = revealing()
    blob, body = reveal_of(here)
    assert {org for org, _ in body.key_shares} == {LOST}
    assert {org for org, _ in body.self_shares} == {*HONEST} - {LOST}
    first_of(taken(here.cluster, BAD, RevealMessage(blob)), facts.RevealAccepted)
    forged = again(here, blob, **changes(body))
    made = taken(here.cluster, BAD, RevealMessage(forged))
    assert made[0] == facts.Excluded(BAD, code, (forged,))
    assert facts.RevealAccepted(forged) not in made
    monkeypatch.setattr(acceptance, "reveal_defect", lambda *arguments: "")
    first_of(taken(here.cluster, BAD, RevealMessage(forged)), facts.RevealAccepted)


def test_a_witness_reveals_no_seed_of_its_own() -> None:
    """BAD's input never arrived and it voted for the set without it: a self seed from it would be one too many."""
    cluster = federation()
    honest = cluster.upload
    tap = Tap(lambda packet, said: [] if packet.org_id in (BAD, PEER) and isinstance(said, RevealMessage) else [said])
    cluster.route = tap

    def upload(org: OrgId, *arguments: object) -> SignedBlob:
        if org == BAD:
            raise FedveilError("unreachable", "it never arrives")
        return honest(org, *arguments)  # type: ignore[arg-type]

    cluster.upload = upload  # type: ignore[method-assign,assignment]
    cluster.start_run(RUN, plan_bytes())
    here = Waiting(cluster, tap)
    cluster.play(lambda: any(isinstance(said, RevealMessage) and p.org_id == BAD for p, said in tap.seen), 120)
    blob, body = reveal_of(here)
    assert body.self_seed == b""
    first_of(taken(cluster, BAD, RevealMessage(blob)), facts.RevealAccepted)
    forged = again(here, blob, self_seed=ELSE)
    assert taken(cluster, BAD, RevealMessage(forged))[0] == facts.Excluded(BAD, "incomplete_reveal", (forged,))


def test_a_reveal_for_another_set() -> None:
    here = revealing()
    blob, _ = reveal_of(here)
    here.refused(RevealMessage(again(here, blob, t3=ELSE)), "wrong_transcript")


def test_a_false_key_share_is_its_revealers_and_the_sum_is_exact(monkeypatch: pytest.MonkeyPatch) -> None:
    """Stopped by `acceptance.reveal_defect`. Without it the key of the dropped member is rebuilt from a false share,
    which blames the dropped member, and the sum is lost.
    """

    def play() -> Cluster:
        cluster = federation()

        def change(packet: Packet, said: Said) -> Iterable[Said]:
            if packet.outward or packet.org_id != BAD or not isinstance(said, RevealMessage):
                return [said]
            body = body_of(said.reveal)
            assert isinstance(body, Reveal)
            false = tuple((dealer, bytes(33)) for dealer, _ in body.key_shares)
            return [RevealMessage(resigned(cluster.charter, said.reveal, key_shares=false))]

        cluster.route = Tap(change)
        die_after(cluster, LOST, "dealers", 1)
        cluster.start_run(RUN, plan_bytes())
        cluster.play(lambda: cluster.memory.runs[RUN][1] == "ended", 2_000)
        return cluster

    cluster = play()
    assert blamed(cluster) == {(BAD, "bad_share")}, "three good shares of the four that are needed"
    assert not cluster.memory.sums
    monkeypatch.setattr(acceptance, "reveal_defect", lambda *arguments: "")
    cluster = play()
    assert blamed(cluster) == {(LOST, "inconsistent_shares")}, "the innocent is blamed"
    assert not cluster.memory.sums


# --- the public sanity of a model -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("best", "loss", "plausible"),
    [
        (None, 0.0, True),
        (None, 1e9, True),
        (None, -1e-12, False),
        (0.5, -1e-12, False),
        (None, math.nan, False),
        (0.5, math.inf, False),
        (0.5, 1.0, True),
        (0.5, math.nextafter(1.0, 2.0), False),
        (3.0, 6.0, True),
        (3.0, math.nextafter(6.0, 7.0), False),
        (0.0, 2e-3, True),
        (0.0, math.nextafter(2e-3, 1.0), False),
        (1e-3, 2e-3, True),
        (math.nextafter(1e-3, 0.0), 2e-3, True),
        (2e-3, 4e-3, True),
        (2e-3, math.nextafter(4e-3, 1.0), False),
    ],
)
def test_the_loss_of_a_new_model_at_its_borders(best: float | None, loss: float, plausible: bool) -> None:
    """At most twice the best so far, and never negative; stopped by `sanity.check_loss`."""
    if plausible:
        sanity.check_loss(best, loss)
        return
    with pytest.raises(IntegrityError) as caught:
        sanity.check_loss(best, loss)
    assert caught.value.code == "model_rejected"
