"""Members that hold up, flood or mislead the coordinator, over the in-memory federation (FLSA/1 sections 2.3, 2.9).

Each liar is one of five, which the protocol bears: the run goes on, in bounded time, without it, with exact sums. What
counts as failure: a run that ends, or waits for the hard limit, because of one member; an honest member that gets
something its own parser refuses; a journal, queue or list that grows with what a member sends.
"""

from collections.abc import Callable, Iterable

import pytest
from federation import (
    FIVE,
    RUN,
    THREE,
    RecordingMemory,
    Said,
    Tap,
    body_of,
    check_sums,
    die_after,
    federation,
    plan_bytes,
    resigned,
    signed,
    state,
)
from fedveil_common.errors import ConfigError, PeerError, Unreachable
from fedveil_common.ids import OrgId, RunId
from fedveil_common.messages import (
    AbortMessage,
    AbortVote,
    AckMessage,
    AdvertMessage,
    BlobType,
    Openings,
    ParticipantHello,
    ParticipantMessage,
    PlanAnswer,
    Progress,
    Refusal,
    RevealMessage,
    RunEndedAck,
    ShareMsg,
    Shares,
    ShareSet,
    SignedBlob,
    VoteMessage,
)
from fedveil_coordinator import attempt as attempts
from fedveil_coordinator import driver, facts, round
from fedveil_coordinator.reporting import waiting_report
from fedveil_coordinator.sums import Sums
from fedveil_participant.stages import Idle
from fedveil_simulation.charter import make_charter
from fedveil_simulation.cluster import Cluster, Packet
from fedveil_simulation.journals import CoordinatorMemory

from tests import federation as federations

BAD, HONEST = FIVE[0], FIVE[1:]
NINE = tuple(OrgId(f"org{index}") for index in range(9))
DAY_S, HOUR_S = 86_400, 3_600


def facts_of(cluster: Cluster, run_id: RunId = RUN) -> list[facts.Fact]:
    return [facts.decode(kind, body) for kind, body in cluster.memory.facts(run_id)]


def many(cluster: Cluster, kind: type[facts.Fact]) -> list[facts.Fact]:
    return [fact for fact in facts_of(cluster) if isinstance(fact, kind)]


def liar(cluster: Cluster, change: Callable[[Packet, Said], Iterable[Said]], bad: OrgId = BAD) -> Tap:
    """What `bad` sends passes through `change`."""
    tap = Tap(lambda packet, said: [said] if packet.outward or packet.org_id != bad else change(packet, said))
    cluster.route = tap
    return tap


def abort_vote(cluster: Cluster, org: OrgId) -> AbortMessage:
    """An abort vote over the attempt that a member is in."""
    stage = cluster.members[org].memory.load()
    assert not isinstance(stage, Idle)
    body = AbortVote(stage.frame.t0, stage.frame.key.attempt)
    return AbortMessage(signed(cluster.charter, org, BlobType.ABORT, body))


def played(cluster: Cluster, plan: bytes, limit_s: float = 400_000.0) -> str:
    cluster.start_run(RUN, plan)
    cluster.play(lambda: cluster.memory.runs[RUN][1] == "ended", limit_s)
    check_sums(cluster)
    return cluster.memory.runs[RUN][2]


def of(names: tuple[OrgId, ...], plan: bytes) -> Cluster:
    """A federation of members with any names."""
    data = {name: federations.table(index % 5) for index, name in enumerate(names)}
    cluster = Cluster(make_charter(names, 1), 1, data, plan)
    for member in cluster.members.values():
        member.memory = RecordingMemory()
        cluster.start_member(member.org_id)
    cluster.settle()
    return cluster


# --- abort votes that nobody asked for --------------------------------------------------------------------------------


@pytest.mark.parametrize("names", [FIVE, NINE], ids=["5", "9"])
@pytest.mark.parametrize("instead_of", [AdvertMessage, Shares, AckMessage, VoteMessage])
def test_one_abort_vote_leaves_its_sender_out_and_nobody_else(
    names: tuple[OrgId, ...], instead_of: type[ParticipantMessage]
) -> None:
    """It says that this member will not go on. It neither ends the attempt nor burns an update."""
    plan = plan_bytes(min_participants=len(names))
    cluster = of(names, plan)
    bad = names[0]
    liar(cluster, lambda packet, said: [abort_vote(cluster, bad)] if isinstance(said, instead_of) else [said], bad)
    assert played(cluster, plan) == "finished"
    assert {record.attempt for record in state(cluster).records} == {1}
    assert not many(cluster, facts.AbortStarted)
    assert not many(cluster, facts.Excluded)
    certificates = [fact.voters for fact in many(cluster, facts.Certified) if isinstance(fact, facts.Certified)]
    assert all(bad not in voters for voters in certificates)


def test_abort_votes_that_put_the_quorum_out_of_reach_begin_the_abort_and_count() -> None:
    """Two of five: the attempt is aborted at once, their votes are in the certificate, they are not invited again."""
    plan = plan_bytes()
    cluster = federation(plan=plan)
    two = FIVE[:2]

    def change(packet: Packet, said: Said) -> Iterable[Said]:
        early = not packet.outward and packet.org_id in two and isinstance(said, Shares)
        return [abort_vote(cluster, packet.org_id)] if early else [said]

    cluster.route = Tap(change)
    assert played(cluster, plan) == "finished"
    (started,) = many(cluster, facts.AbortStarted)
    assert isinstance(started, facts.AbortStarted)
    assert (started.reason, started.missing) == ("too_few_shares", two)
    (certified,) = many(cluster, facts.AbortCertified)
    assert isinstance(certified, facts.AbortCertified)
    assert set(two) <= set(certified.voters)
    assert {record.cohort for record in state(cluster).records} == {FIVE[2:]}
    assert cluster.clock.monotonic_s() < 60


def test_a_member_whose_hard_limit_has_passed_is_invited_again() -> None:
    """An abort vote at the hard limit is what the protocol asks for: no reason to leave anybody out."""
    plan = plan_bytes(hard_limit_s=60)
    cluster = federation(THREE, plan=plan)
    lost = []

    def change(packet: Packet, said: Said) -> Iterable[Said]:
        if isinstance(said, AdvertMessage) and packet.org_id == THREE[0] and not lost:
            lost.append(1)
            return []
        return [said]

    real = round.patience
    try:
        round.patience = lambda attempt, org: float("inf")  # type: ignore[assignment]
        cluster.route = Tap(change)
        assert played(cluster, plan) == "finished"
    finally:
        round.patience = real
    assert {record.cohort for record in state(cluster).records} == {THREE}
    assert state(cluster).records[0].attempt == 2
    assert cluster.clock.monotonic_s() >= 60


@pytest.mark.parametrize("first", ["vote", "abort vote"])
def test_a_member_never_counts_as_voter_and_abort_voter(first: str) -> None:
    """Two of five never vote, so the attempt cannot open; BAD says both. It counts once, and both are the evidence."""
    cluster = federation(plan=plan_bytes())
    silent = FIVE[3:]
    said_both: list[SignedBlob] = []

    def change(packet: Packet, said: Said) -> Iterable[Said]:
        if packet.outward or not isinstance(said, VoteMessage):
            return [said]
        if packet.org_id in silent:
            return []
        if packet.org_id != BAD:
            return [said]
        other = abort_vote(cluster, BAD)
        said_both.extend([said.vote, other.vote])
        return [said, other] if first == "vote" else [other, said]

    cluster.route = Tap(change)
    cluster.start_run(RUN, plan_bytes())
    cluster.settle()
    (proof,) = many(cluster, facts.Excluded)
    assert isinstance(proof, facts.Excluded)
    assert (proof.org_id, proof.code, set(proof.evidence)) == (BAD, "equivocation", set(said_both))
    voters = {fact.vote.signer_id for fact in many(cluster, facts.VoteAccepted) if isinstance(fact, facts.VoteAccepted)}
    against = [fact.vote.signer_id for fact in many(cluster, facts.AbortVoteAccepted)]  # type: ignore[union-attr]
    assert (BAD in voters, BAD in against) == (first == "vote", first != "vote")
    current = cluster.coordinator.active
    assert current is not None
    assert current.attempt is not None
    cluster.restart_coordinator()
    again = cluster.coordinator.active
    assert again is not None
    assert again.attempt is not None
    assert again.attempt.abort_votes == current.attempt.abort_votes, "a restart knows it too"


# --- progress reports and nothing else --------------------------------------------------------------------------------

STAGES: list[type[ParticipantMessage]] = [AdvertMessage, Shares, AckMessage, VoteMessage, RevealMessage]


def only_progress_from(cluster: Cluster, kind: type[ParticipantMessage] | None) -> None:
    """From the first message of this kind on (None: from its upload on) BAD only says that it is alive."""
    begun: list[int] = []

    def change(packet: Packet, said: Said) -> Iterable[Said]:
        if isinstance(said, (ParticipantHello, PlanAnswer, Progress)):
            return [said]
        if (kind is not None and isinstance(said, kind)) or begun:
            begun.append(1)
            return []
        return [said]

    liar(cluster, change)
    if kind is None:
        honest = cluster.upload

        def upload(org: OrgId, *arguments: object) -> SignedBlob:
            if org == BAD:
                begun.append(1)
                raise Unreachable("unreachable", "it sends none")
            return honest(org, *arguments)  # type: ignore[arg-type]

        cluster.upload = upload  # type: ignore[method-assign,assignment]


@pytest.mark.parametrize("kind", [*STAGES[1:], None])
def test_progress_alone_holds_no_later_stage_up(kind: type[ParticipantMessage] | None) -> None:
    """The hard limit is an hour; each stage waits for ten times progress_s, an offer for half the limit."""
    plan = plan_bytes(hard_limit_s=HOUR_S, min_participants=5)
    cluster = federation(plan=plan)
    only_progress_from(cluster, kind)
    assert played(cluster, plan) == "finished"
    assert {record.attempt for record in state(cluster).records} == {1}
    opened = [dict(told.facts)["round"] for told in cluster.coordinator.watched[RUN] if told.kind == "round"]
    assert opened == ["1", "2"]
    assert cluster.clock.monotonic_s() < 4 * 3 * round.STAGE_PATIENCE + HOUR_S / 2
    late = [dict(told.facts)["org"] for told in cluster.coordinator.watched[RUN] if told.kind == "overdue"]
    assert set(late) == {BAD}


def test_progress_alone_holds_the_offer_up_once_for_half_the_hard_limit() -> None:
    """Training takes its time, so an offer waits long; but only once in a run for the same member."""
    plan = plan_bytes(hard_limit_s=HOUR_S, min_participants=5, rounds=4)
    cluster = federation(plan=plan)
    only_progress_from(cluster, AdvertMessage)
    assert played(cluster, plan) == "finished"
    assert len(state(cluster).records) == 5
    assert {record.attempt for record in state(cluster).records} == {1}
    assert HOUR_S / 2 <= cluster.clock.monotonic_s() < HOUR_S / 2 + 5 * 3 * round.STAGE_PATIENCE + 60


def test_who_was_overdue_is_not_invited_again_until_it_has_reconnected() -> None:
    """N = 3 bears no loss: the attempt is aborted, and the next one does not begin with the member that held it up."""
    plan = plan_bytes(hard_limit_s=DAY_S, wait_s=300)
    cluster = federation(THREE, plan=plan)
    only_progress_from(cluster, Shares)
    cluster.start_run(RUN, plan)
    cluster.play(lambda: bool(many(cluster, facts.AbortCertified)), DAY_S)
    assert cluster.clock.monotonic_s() < 60
    cluster.settle()
    active = cluster.coordinator.active
    assert active is not None
    assert active.willing == THREE[1:]
    assert len(many(cluster, facts.Offered)) == 1
    cluster.route = lambda packet: (packet,)
    number = cluster.session_of(BAD)
    assert number is not None
    cluster.cut(BAD, number, "unreachable")
    cluster.play(lambda: cluster.ended(RUN))
    assert cluster.memory.runs[RUN][2] == "finished"
    check_sums(cluster)


def test_a_wait_says_until_when_patience_lasts() -> None:
    cluster = federation(plan=plan_bytes(hard_limit_s=DAY_S))
    only_progress_from(cluster, AckMessage)
    cluster.start_run(RUN, plan_bytes(hard_limit_s=DAY_S))
    cluster.settle()
    seen = []
    while (report := waiting_report(state(cluster), cluster.clock.monotonic_s())) and report["phase"] == "acking":
        seen.append(report)
        assert cluster.pass_time()
        cluster.settle()
    assert {str(report["for"]) for report in seen} == {str([BAD])}
    assert all(0 < float(str(report["until_s"])) <= 3.0 for report in seen)
    assert len(seen) >= round.STAGE_PATIENCE


def test_an_upload_that_goes_on_is_waited_for_and_one_that_begins_again_and_again_is_not() -> None:
    """New leaves count as deliveries, the same ones again do not; and as a whole an input has its time."""
    cluster = federation(plan=plan_bytes(hard_limit_s=DAY_S))
    die_after(cluster, BAD, "dealers", 1)
    cluster.start_run(RUN, plan_bytes(hard_limit_s=DAY_S))
    cluster.settle()
    active = cluster.coordinator.active
    assert active is not None
    attempt = active.attempt
    assert attempt is not None
    assert isinstance(attempt.stage, attempts.Collecting)
    key, quiet = cluster.charter.coordinator_key, 3 * round.STAGE_PATIENCE + 1
    for leaves, waits in ((range(1, 9), True), ([1] * 8, False)):
        now, going = attempt, attempt.since
        for count in leaves:
            going += 2.5
            now, _ = round.step(now, round.Heard(BAD, count, going), key)
        assert round.patience(now, BAD) == attempt.since + (20 if waits else 2.5) + quiet
    now, going = attempt, attempt.since
    for count in range(1, 1000):
        going += 2.5
        now, _ = round.step(now, round.Heard(BAD, count, going), key)
    assert not isinstance(now.stage, attempts.Collecting)
    assert now.overdue == {BAD}


# --- openings ---------------------------------------------------------------------------------------------------------

VICTIM = FIVE[2]


def unusable(cluster: Cluster, message: Shares, victims: Iterable[OrgId]) -> Shares:
    """The shares, those for the victims with a ciphertext that cannot be opened."""
    made = []
    for blob in message.shares:
        body = body_of(blob)
        assert isinstance(body, ShareMsg)
        bad = body.recipient in victims
        made.append(resigned(cluster.charter, blob, ciphertext=bytes(len(body.ciphertext))) if bad else blob)
    return Shares(message.t1, tuple(made))


@pytest.mark.parametrize("times", [1, 2, 200])
def test_the_same_opening_twice_is_no_answer_and_reaches_nobody(times: int) -> None:
    """One opening answers; more of the same convict the dealer, and no honest member's parser ever sees them."""
    plan = plan_bytes()
    cluster = federation(plan=plan)

    def change(packet: Packet, said: Said) -> Iterable[Said]:
        if isinstance(said, Shares):
            return [unusable(cluster, said, [VICTIM])]
        return [Openings(said.t1, said.openings * times)] if isinstance(said, Openings) else [said]

    tap = liar(cluster, change)
    assert played(cluster, plan) == "finished"  # a malformed message to a member would leave `_deliver` as an exception
    assert {record.attempt for record in state(cluster).records} == {1}
    frozen = [fact.dealers for fact in many(cluster, facts.DealersFrozen) if isinstance(fact, facts.DealersFrozen)]
    assert all((BAD in dealers) == (times == 1) for dealers in frozen)
    for packet, said in tap.seen:
        if packet.outward and isinstance(said, ShareSet):
            assert len(said.openings) == (packet.org_id == VICTIM and times == 1)


def test_a_journal_with_a_doubled_opening_still_makes_a_share_set_that_parses() -> None:
    """`_share_set` takes one opening from each dealer, whatever an older coordinator once journaled."""
    cluster = federation(plan=plan_bytes())
    liar(cluster, lambda packet, said: [unusable(cluster, said, [VICTIM])] if isinstance(said, Shares) else [said])
    cluster.start_run(RUN, plan_bytes())
    cluster.settle()
    accepted = next(fact for fact in facts_of(cluster) if isinstance(fact, facts.OpeningsAccepted))
    told = round._share_set(bytes(32), (BAD,), {BAD: accepted.openings * 2}, VICTIM)
    assert told.openings == accepted.openings


def test_alternating_openings_are_journaled_once() -> None:
    """The first set wins; a different answer to the same complaint is evidence, once."""
    plan = plan_bytes()
    cluster = federation(plan=plan)

    def change(packet: Packet, said: Said) -> Iterable[Said]:
        if isinstance(said, Shares):
            return [unusable(cluster, said, [VICTIM])]
        if isinstance(said, AckMessage):
            return []  # the stage stays open
        if isinstance(said, Openings):
            other = resigned(cluster.charter, said.openings[0], self_share=bytes(33))
            return [said, Openings(said.t1, (other,))] * 50
        return [said]

    liar(cluster, change)
    cluster.start_run(RUN, plan)
    cluster.settle()
    offers = len(many(cluster, facts.Offered))
    assert len(many(cluster, facts.OpeningsAccepted)) == offers
    proofs = [fact for fact in many(cluster, facts.Excluded) if isinstance(fact, facts.Excluded)]
    assert [(one.org_id, one.code, len(one.evidence)) for one in proofs] == [(BAD, "equivocation", 2)] * offers


def test_more_complaints_than_may_be_opened_convict_the_dealer_at_once() -> None:
    """N = 5, c = 2: two opened shares and those of two corrupt members reach the threshold 4, so one may be opened."""
    plan = plan_bytes(max_corrupt=2, min_participants=5)
    cluster = federation(plan=plan)
    tap = liar(
        cluster, lambda packet, said: [unusable(cluster, said, FIVE[2:4])] if isinstance(said, Shares) else [said]
    )
    assert played(cluster, plan) == "finished"
    frozen = [fact.dealers for fact in many(cluster, facts.DealersFrozen) if isinstance(fact, facts.DealersFrozen)]
    assert set(frozen) == {HONEST}
    asked = [len(said.complaints) for _, said in tap.seen if type(said).__name__ == "OpeningRequest"]  # type: ignore[union-attr]
    assert set(asked) <= {1}


def test_a_share_that_its_dealer_did_not_sign_is_refused() -> None:
    """Else it would be forwarded, and stand in the journal as evidence that proves nothing."""
    plan = plan_bytes()
    cluster = federation(plan=plan)

    def change(packet: Packet, said: Said) -> Iterable[Said]:
        if isinstance(said, Shares):
            *others, last = said.shares
            forged = SignedBlob(last.signer_id, last.type, last.body, bytes(64))
            return [Shares(said.t1, (*others, forged))]
        return [said]

    liar(cluster, change)
    assert played(cluster, plan) == "finished"
    dealers = {fact.dealer for fact in many(cluster, facts.SharesAccepted) if isinstance(fact, facts.SharesAccepted)}
    assert dealers == set(HONEST)


# --- floods -----------------------------------------------------------------------------------------------------------


def pumped(cluster: Cluster, messages: Iterable[ParticipantMessage]) -> None:
    """The coordinator alone takes these of BAD."""
    for message in messages:
        cluster.coordinator.received(BAD, message)
    while cluster.coordinator.pump():
        pass


def offered() -> Cluster:
    """An attempt that waits for one advert."""
    cluster = federation(plan=plan_bytes(hard_limit_s=DAY_S))
    cluster.route = Tap(
        lambda packet, said: [] if isinstance(said, AdvertMessage) and packet.org_id == FIVE[4] else [said]
    )
    cluster.start_run(RUN, plan_bytes(hard_limit_s=DAY_S))
    cluster.settle()
    return cluster


def test_repeated_refusals_and_answers_are_announced_once() -> None:
    cluster = offered()
    active = cluster.coordinator.active
    assert active is not None
    assert active.attempt is not None
    before = len(cluster.coordinator.watched[RUN])
    pumped(cluster, [Refusal(active.attempt.key, f"code_{index}") for index in range(500)])
    pumped(cluster, [PlanAnswer(active.plan_hash, bool(index % 2), "no" * (1 - index % 2)) for index in range(500)])
    assert len(cluster.coordinator.watched[RUN]) <= before + 1


def test_announcements_are_bounded_and_keep_their_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(driver, "WATCHED_BOUND", 4)
    plan = plan_bytes(rounds=3)
    cluster = federation(plan=plan)
    assert played(cluster, plan) == "finished"
    told = cluster.coordinator.watched[RUN]
    assert len(told) == 4
    assert [one.number for one in told] == list(range(told[0].number, told[0].number + 4))
    assert told[-1].kind == "ended"


def test_many_different_second_adverts_are_one_piece_of_evidence() -> None:
    cluster = offered()
    (blob,) = [fact.advert for fact in many(cluster, facts.AdvertAccepted) if fact.advert.signer_id == BAD]  # type: ignore[union-attr]
    others = [resigned(cluster.charter, blob, nonce=index.to_bytes(32, "big")) for index in range(40)]
    pumped(cluster, [AdvertMessage(one) for one in others])
    assert len(many(cluster, facts.Excluded)) == 1


def test_a_session_full_of_refused_messages_is_closed() -> None:
    cluster = offered()
    number = cluster.session_of(BAD)
    (blob,) = [fact.advert for fact in many(cluster, facts.AdvertAccepted) if fact.advert.signer_id == BAD]  # type: ignore[union-attr]
    junk = AdvertMessage(SignedBlob(BAD, blob.type, blob.body, bytes(64)))
    pumped(cluster, [junk] * driver.REFUSED_BOUND)
    assert cluster.session_of(BAD) == number
    pumped(cluster, [junk])
    assert cluster.session_of(BAD) != number


def test_an_end_that_is_not_owed_costs_no_write(monkeypatch: pytest.MonkeyPatch) -> None:
    plan = plan_bytes()
    cluster = federation(THREE, plan=plan)
    written: list[tuple[RunId, OrgId]] = []
    real = CoordinatorMemory.delivered
    monkeypatch.setattr(
        CoordinatorMemory,
        "delivered",
        lambda self, run_id, org: (written.append((run_id, org)), real(self, run_id, org))[1],
    )
    cluster.start_run(RUN, plan)
    cluster.play(lambda: cluster.ended(RUN))
    cluster.settle()
    assert sorted(written) == [(RUN, org) for org in THREE]
    pumped(cluster, [RunEndedAck(run_id) for run_id in (RUN, RunId("made-up"))] * 100)
    assert len(written) == len(THREE)
    assert cluster.memory.owed(BAD) == []


def test_a_joiner_that_governance_has_not_listed_is_not_heard() -> None:
    cluster = offered()
    active = cluster.coordinator.active
    assert active is not None
    before = len(cluster.coordinator.watched[RUN])
    cluster.coordinator.received(OrgId("joiner"), PlanAnswer(active.plan_hash, True, ""))
    cluster.settle()
    assert cluster.coordinator.active is active
    assert len(cluster.coordinator.watched[RUN]) == before


# --- timing -----------------------------------------------------------------------------------------------------------


def test_a_receipt_that_nobody_waits_for_any_more_stops_nothing() -> None:
    """A cancelled upload cannot cancel what the driver will set."""
    cluster = federation(plan=plan_bytes())
    real = cluster.coordinator.input_complete
    cancelled = []

    def complete(org: OrgId, header: SignedBlob) -> object:
        future = real(org, header)
        if org == BAD:
            cancelled.append(future.cancel())
        return future

    cluster.coordinator.input_complete = complete  # type: ignore[method-assign,assignment]
    assert played(cluster, plan_bytes()) == "finished"
    assert cancelled == [False] * 2


def test_a_download_beside_the_next_offer_changes_no_source() -> None:
    """FetchSum folds the journal by itself: the driver's note of the open offer is its own."""
    plan = plan_bytes(rounds=3)
    cluster = federation(plan=plan)
    assert played(cluster, plan) == "finished"
    records = [fact for fact in facts_of(cluster) if isinstance(fact, (facts.Offered, facts.SumOpened))]
    newest = len(records) - 1
    assert isinstance(records[newest], facts.SumOpened)

    class Racing:
        """While a member's thread walks the journal, the driver notes that the newest sum was opened."""

        def facts(self, run_id: RunId) -> Iterable[tuple[str, bytes]]:
            yield facts.kind_of(records[0]), facts.encode(records[0])
            sums.note(RUN, records[newest])
            for fact in records[1:newest]:
                yield facts.kind_of(fact), facts.encode(fact)

    sums = Sums(Racing(), cluster.coordinator._ciphers)  # type: ignore[arg-type]
    for fact in records[:newest]:
        sums.note(RUN, fact)
    with pytest.raises(ConfigError) as caught:
        sums.source(RUN, 999)
    assert caught.value.code == "unknown_round"
    for number in range(1, 5):
        manifest, result = sums.source(RUN, number)
        offer, opened = records[2 * number - 2 : 2 * number]
        assert isinstance(offer, facts.Offered)
        assert isinstance(opened, facts.SumOpened)
        assert (manifest, result) == (offer.manifest, opened.result)


def test_an_upload_of_a_member_that_abort_voted_is_refused() -> None:
    cluster = federation(plan=plan_bytes(hard_limit_s=DAY_S))
    refused: list[str] = []
    honest = cluster.upload

    def upload(org: OrgId, *arguments: object) -> SignedBlob:
        if org == BAD:
            pumped(cluster, [abort_vote(cluster, BAD)])
        try:
            return honest(org, *arguments)  # type: ignore[arg-type]
        except PeerError as error:
            refused.append(f"{org} {error.code}")
            raise

    cluster.upload = upload  # type: ignore[method-assign,assignment]
    liar(cluster, lambda packet, said: [] if isinstance(said, (VoteMessage, AbortMessage)) else [said])
    cluster.start_run(RUN, plan_bytes(hard_limit_s=DAY_S))
    cluster.play(lambda: bool(many(cluster, facts.SumApplied)), 600)
    assert f"{BAD} input_not_expected" in refused
    (first, *_) = many(cluster, facts.Proposed)
    assert isinstance(first, facts.Proposed)
    assert first.survivors == HONEST
