"""Consent in the rounds: when a withdrawal takes effect, what a manifest must keep of a policy, who may join later.

The machines are those of production, in one process; what leaves is read from the wire.
"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace

import pytest
from fedveil_common import plan as plans
from fedveil_common.errors import LocalRefusal, PolicyRefusal
from fedveil_common.ids import OrgId, RunId
from fedveil_common.messages import (
    AdvertMessage,
    Offer,
    PlanAnswer,
    Refusal,
    RevealMessage,
    Shares,
    VoteMessage,
)
from fedveil_common.plan import Plan
from fedveil_common.roster import Roster
from fedveil_coordinator.run import MAX_ANSWERS
from fedveil_participant import withdrawing
from fedveil_participant.checks import Limits
from fedveil_participant.consent import Word
from fedveil_participant.events import Admission, Send
from fedveil_participant.policy import hours
from fedveil_participant.policy.rules import HoursRules
from fedveil_simulation.cluster import Cluster, Packet

from tests.federation import (
    FIVE,
    RUN,
    Said,
    Tap,
    check_sums,
    die_after,
    federation,
    journal,
    manifest_of,
    parse,
    plan_bytes,
    run,
    trail,
)
from tests.private_federation import private_bytes

FOUR = FIVE[:4]
VICTIM = FIVE[2]


@dataclass
class Mind:
    """What a member's people want, as they change it."""

    word: Word = field(default_factory=Word)
    held: str = ""
    strange: str = ""
    rows: int = 0
    gone: bool = False
    clock: Callable[[], float] | None = None
    rule: HoursRules | None = None
    asked: list[RunId] = field(default_factory=list)
    admitted: list[RunId] = field(default_factory=list)

    def begin_session(self) -> None:
        pass

    def decide(self, run_id: RunId, canonical: bytes, plan: Plan, members: tuple[OrgId, ...]) -> Word:
        self.asked.append(run_id)
        return self.word

    def check_rows(self, plan: Plan, rows: Callable[[], int]) -> None:
        if rows() < self.rows:
            raise LocalRefusal("policy_refused", "too few rows")

    def admission(self, run_id: RunId, plan: Plan, plan_hash: bytes) -> Admission | None:
        self.admitted.append(run_id)
        if self.gone:
            raise PolicyRefusal("approval_gone", "changed")
        return None

    def hold(self, wall_s: float, roster: Roster) -> str:
        return self.held or ("" if hours.within(self.rule, wall_s) else "outside_hours")

    def unconfirmed(self, roster: Roster) -> str:
        return self.strange

    @property
    def watches_clock(self) -> bool:
        return self.rule is not None


PENDING = Word("consent_pending", "nobody has approved this plan", "consent_pending")


def minded(
    names: tuple[OrgId, ...] = FOUR, plan: bytes | None = None, limits: Limits | None = None, **minds: Mind
) -> tuple[Cluster, Mind]:
    """A federation in which the victim has a mind of its own."""
    mind = minds.get("mind") or Mind()
    cluster = federation(names, plan=plan or plan_bytes(rounds=3), start=False)
    cluster.members[VICTIM].consent = mind
    cluster.members[VICTIM].limits = limits or Limits()
    for org in names:
        cluster.start_member(org)
    cluster.settle()
    return cluster, mind


def sent(cluster: Cluster, *kinds: type, org: OrgId = VICTIM) -> list[Said]:
    """What a member sent of these kinds."""
    packets = [packet for packet in cluster.sent if packet.org_id == org and not packet.outward]
    return [said for said in map(parse, packets) if isinstance(said, kinds)]


def answers(cluster: Cluster) -> list[str]:
    return [one.code or "accepted" for one in sent(cluster, PlanAnswer) if isinstance(one, PlanAnswer)]


def finish(cluster: Cluster, plan: bytes) -> str:
    if RUN not in cluster.memory.runs:
        cluster.start_run(RUN, plan)
    cluster.play(lambda: cluster.ended(RUN), 200_000.0)
    check_sums(cluster, RUN)
    return cluster.memory.runs[RUN][2]


# --- partial approval -------------------------------------------------------------------------------------------------


def test_a_run_starts_with_those_who_agreed_and_the_others_may_join_later_rounds() -> None:
    plan = plan_bytes(rounds=3)
    cluster, mind = minded(plan=plan, mind=Mind(word=PENDING))
    once: list[int] = []

    def change(packet: Packet, said: Said) -> list[Said]:
        if isinstance(said, RevealMessage) and not once:  # the first sum opens: now the people say yes
            once.append(1)
            mind.word = Word()
            cluster.members[VICTIM].driver.answers.reconsider(plans.plan_hash(plan))  # type: ignore[union-attr]
        return [said]

    cluster.route = Tap(change)
    number = cluster.session_of(VICTIM)
    assert finish(cluster, plan) == "finished"
    assert answers(cluster) == ["consent_pending", "accepted"]
    assert cluster.session_of(VICTIM) == number, "without a reconnect"
    assert "reveal" not in trail(cluster, VICTIM, 1)
    assert "reveal" in trail(cluster, VICTIM, 3), "it walked the sums that it was not in"
    assert len({member.memory.ends[RUN][2] for member in cluster.members.values()}) == 1, "one model everywhere"


def test_nobody_who_waits_hinders_the_others_and_nothing_of_it_leaves() -> None:
    plan = plan_bytes(rounds=2)
    cluster, _ = minded(plan=plan, mind=Mind(word=PENDING))
    assert finish(cluster, plan) == "finished"
    assert {type(one).__name__ for one in sent(cluster, object)} == {"ParticipantHello", "PlanAnswer", "RunEndedAck"}
    assert trail(cluster, VICTIM) == []


def test_too_few_who_agree_is_no_run() -> None:
    plan = plan_bytes(rounds=1, min_participants=4, wait_s=60)
    cluster, _ = minded(plan=plan, mind=Mind(word=PENDING))
    cluster.start_run(RUN, plan)
    cluster.play(lambda: cluster.ended(RUN), 200_000.0)
    assert cluster.memory.runs[RUN][2] == "not_enough_participants"


def test_the_coordinator_takes_the_latest_answer_and_not_endlessly_many() -> None:
    plan = plan_bytes(rounds=1, min_participants=5, wait_s=600)
    cluster, _ = minded(plan=plan)
    cluster.start_run(RUN, plan)
    cluster.settle()
    active = cluster.coordinator.active
    assert active is not None

    def say(accepted: bool, code: str) -> None:
        cluster.coordinator.received(VICTIM, PlanAnswer(active.plan_hash, accepted, code))  # type: ignore[union-attr]
        while cluster.coordinator.pump():
            pass

    def heard() -> str:
        found = cluster.coordinator.active
        assert found is not None
        return found.answers[VICTIM]

    say(False, "paused")
    assert heard() == "paused"
    say(True, "")
    assert heard() == ""
    before = len(cluster.coordinator.watched[RUN])
    say(True, "")
    assert len(cluster.coordinator.watched[RUN]) == before, "the same again is nothing new"
    for index in range(4 * MAX_ANSWERS):
        say(bool(index % 2), "" if index % 2 else "paused")
    assert len(cluster.coordinator.watched[RUN]) <= before + MAX_ANSWERS


# --- withdrawal -------------------------------------------------------------------------------------------------------


def withdrawn_at(kind: str, plan: bytes | None = None) -> tuple[Cluster, dict[RunId, int]]:
    """The people say no in the moment in which the victim's journal says `kind` in round 1."""
    plan = plan or plan_bytes(rounds=1)
    cluster, mind = minded(FOUR, plan)
    late: dict[RunId, int] = {}
    done: list[int] = []

    def saved(said: str, key: object) -> None:
        if said == kind and getattr(key, "round", 0) == 1 and not done:
            done.append(1)
            mind.word = Word("consent_withdrawn", "denied", "consent_withdrawn")
            driver = cluster.members[VICTIM].driver
            assert driver is not None
            driver.call(lambda: late.update(driver.answers.withdraw(plans.plan_hash(plan), "consent_withdrawn")))
            driver.call(lambda: driver.answers.reconsider(plans.plan_hash(plan)))

    journal(cluster, VICTIM).on_save = saved  # type: ignore[assignment]
    assert finish(cluster, plan) == "finished"
    assert done, f"there was no {kind}"
    return cluster, late


@pytest.mark.parametrize("kind", ["offer", "advert", "shares", "ack", "dealers"])
def test_before_its_header_a_member_sits_out(kind: str) -> None:
    cluster, late = withdrawn_at(kind)
    said = trail(cluster, VICTIM, 1)
    assert "sat_out" in said
    assert not {"input", "vote", "reveal"} & set(said)
    assert late == {}
    assert trail(cluster, VICTIM, 2) == []
    assert any(isinstance(one, Refusal) and one.code == "consent_withdrawn" for one in sent(cluster, Refusal))
    assert not [upload for upload in cluster.uploads if upload[0] == VICTIM]


def test_after_its_header_and_before_its_vote_a_member_does_not_vote() -> None:
    cluster, late = withdrawn_at("input")
    said = trail(cluster, VICTIM, 1)
    assert ("input" in said, "sat_out" in said) == (True, True)
    assert not {"vote", "reveal"} & set(said)
    assert late == {}
    assert trail(cluster, VICTIM, 2) == []
    votes = [one for one in sent(cluster, VoteMessage) if isinstance(one, VoteMessage)]
    assert len(votes) == trail(cluster, VICTIM).count("vote")


@pytest.mark.parametrize("kind", ["vote", "reveal"])
def test_after_its_vote_it_is_too_late_for_the_round_and_not_for_the_next(kind: str) -> None:
    cluster, late = withdrawn_at(kind)
    assert "reveal" in trail(cluster, VICTIM, 1)
    assert "sat_out" not in trail(cluster, VICTIM)
    assert late == {RUN: 1}
    assert trail(cluster, VICTIM, 2) == []


def test_an_input_is_spent_if_its_header_left_and_free_if_not() -> None:
    for kind, spent in (("dealers", False), ("input", True)):
        memory = journal(withdrawn_at(kind)[0], VICTIM)
        assert memory.stage is None, "and with the stage every key is gone"
        assert bool(memory.kept.spent) == spent


@pytest.mark.parametrize("private", [False, True], ids=["exact", "private"])
def test_consent_that_is_gone_between_training_and_advert_makes_no_advert(private: bool) -> None:
    plan = private_bytes(rounds=2) if private else plan_bytes(rounds=2)
    mind = Mind(gone=True)
    cluster, _ = minded(plan=plan, mind=mind)
    assert finish(cluster, plan) == "finished"
    assert mind.admitted
    assert not sent(cluster, AdvertMessage, Shares)
    assert "approval_gone" in {one.code for one in sent(cluster, Refusal) if isinstance(one, Refusal)}
    assert journal(cluster, VICTIM).kept.ledger == (), "and nothing was charged"


def test_consent_that_is_gone_in_the_transaction_of_the_advert_makes_no_advert() -> None:
    plan = plan_bytes(rounds=2)
    cluster, mind = minded(plan=plan)
    memory = journal(cluster, VICTIM)
    save, tried = memory.save, []

    def refusing(key: object, stage: object, kind: str, *rest: object) -> None:
        if kind == "advert":
            tried.append(key)
            mind.word = PENDING
            raise PolicyRefusal("approval_gone", "the approval has ended")
        save(key, stage, kind, *rest)  # type: ignore[arg-type]

    memory.save = refusing  # type: ignore[method-assign, assignment]
    assert finish(cluster, plan) == "finished"
    assert len(tried) == 1
    assert "update_failed" in trail(cluster, VICTIM, 1), "from the stage that is in the journal"
    assert not sent(cluster, AdvertMessage)
    assert memory.stage is None
    assert answers(cluster) == ["accepted", "consent_pending"]


def test_a_member_killed_after_the_approval_and_before_its_advert_goes_on_by_the_consent_that_stands_then() -> None:
    for word, adverts in ((Word(), True), (PENDING, False)):
        plan = plan_bytes(rounds=2)
        cluster, mind = minded(plan=plan)

        def again(cluster: Cluster = cluster, mind: Mind = mind, word: Word = word) -> None:
            mind.word = word
            mind.gone = bool(word.code)
            cluster.start_member(VICTIM)

        died = die_after(cluster, VICTIM, "offer", 1, again)
        assert finish(cluster, plan) == "finished"
        assert died
        assert bool(sent(cluster, AdvertMessage)) == adverts


@pytest.mark.parametrize("kind", ["advert", "shares", "ack", "dealers", "input"])
def test_a_plan_that_is_denied_while_its_member_is_down_gets_no_input_and_no_vote_from_the_open_attempt(
    kind: str,
) -> None:
    plan = plan_bytes(rounds=1)
    cluster, mind = minded(plan=plan)

    def again() -> None:
        mind.word = Word("consent_withdrawn", "denied", "consent_withdrawn")
        cluster.members[VICTIM].closed = {RUN: "consent_withdrawn"}
        cluster.start_member(VICTIM)

    died = die_after(cluster, VICTIM, kind, 1, again)
    assert finish(cluster, plan) == "finished"
    assert died
    said = trail(cluster, VICTIM, 1)
    assert said[-1] == "sat_out"
    assert not {"vote", "reveal"} & set(said)
    assert ("input" in said) == (kind == "input"), "its header is out only if it was before"


@pytest.mark.parametrize(
    ("kind", "private"),
    [("advert", False), ("shares", False), ("ack", False), ("dealers", True), ("input", False), ("input", True)],
)
def test_what_changed_while_its_member_was_down_holds_for_the_attempt_that_its_journal_has(
    kind: str, private: bool
) -> None:
    """Policy, masking rules or columns: nobody offers the run anew before an open attempt goes on."""
    plan = private_bytes(rounds=1) if private else plan_bytes(rounds=1)
    cluster, mind = minded(plan=plan)

    def again() -> None:
        mind.gone = True
        cluster.start_member(VICTIM)

    died = die_after(cluster, VICTIM, kind, 1, again)
    assert finish(cluster, plan) == "finished"
    assert died
    said, kept = trail(cluster, VICTIM, 1), journal(cluster, VICTIM).kept
    goes_on = kind == "input"  # its header was out before
    assert ("vote" in said, "sat_out" in said, "input" in said) == (goes_on, not goes_on, goes_on)
    assert bool(kept.spent) == goes_on
    assert bool(kept.ledger) == (goes_on and private), "what was not given is not charged"
    assert VICTIM in {upload[0] for upload in cluster.uploads} or not goes_on


@pytest.mark.parametrize("kind", ["offer", "advert", "dealers"])
def test_a_stricter_policy_after_a_restart_holds_for_the_cohort_of_the_open_attempt(kind: str) -> None:
    plan = plan_bytes(rounds=1)
    cluster, _ = minded(FIVE, plan)

    def again() -> None:
        cluster.members[VICTIM].limits = Limits(smallest_cohort=6)
        cluster.start_member(VICTIM)

    assert die_after(cluster, VICTIM, kind, 1, again) == []
    assert finish(cluster, plan) == "finished"
    assert trail(cluster, VICTIM, 1)[-1] == "sat_out"
    assert "policy_refused" in {record for record, _ in journal(cluster, VICTIM).records}, "it is on record"
    assert journal(cluster, VICTIM).stage is None


# --- holding back -----------------------------------------------------------------------------------------------------


def held_at(kind: str, code: str = "paused") -> tuple[Cluster, Mind]:
    """Inputs are held back in the moment in which the victim's journal says `kind` in round 1, until round 2 votes."""
    plan = plan_bytes(rounds=2)
    cluster, mind = minded(FOUR, plan)
    done: list[int] = []

    def saved(said: str, key: object) -> None:
        if said == kind and getattr(key, "round", 0) == 1 and not done:
            done.append(1)
            mind.held = code
            driver = cluster.members[VICTIM].driver
            assert driver is not None
            driver.call(driver.answers.refresh_hold)

    def resumed(said: str, key: object) -> None:
        if said == "vote" and getattr(key, "round", 0) == 2 and mind.held:
            mind.held = ""
            driver = cluster.members[VICTIM].driver
            assert driver is not None
            driver.call(driver.answers.refresh_hold)

    journal(cluster, VICTIM).on_save = saved  # type: ignore[assignment]
    journal(cluster, FIVE[0]).on_save = resumed  # type: ignore[assignment]
    assert finish(cluster, plan) == "finished"
    return cluster, mind


@pytest.mark.parametrize("kind", ["offer", "advert", "dealers"])
def test_paused_before_its_header_a_member_gives_no_input_and_comes_back(kind: str) -> None:
    cluster, _ = held_at(kind)
    assert not {"input", "vote"} & set(trail(cluster, VICTIM, 1) + trail(cluster, VICTIM, 2))
    assert "reveal" in trail(cluster, VICTIM, 3), "it came back"
    assert "paused" in answers(cluster)
    assert answers(cluster)[-1] == "accepted"


@pytest.mark.parametrize("kind", ["input", "vote"])
def test_paused_after_its_header_a_member_ends_the_round_that_it_is_in(kind: str) -> None:
    cluster, _ = held_at(kind)
    assert "reveal" in trail(cluster, VICTIM, 1)
    assert not {"input", "vote"} & set(trail(cluster, VICTIM, 2))
    assert "reveal" in trail(cluster, VICTIM, 3)


def test_out_of_hours_nothing_is_given_and_at_the_hour_it_goes_on_by_itself() -> None:
    plan = plan_bytes(rounds=1, min_participants=4, wait_s=100_000, hard_limit_s=100_000)
    cluster, mind = minded(plan=plan, mind=Mind(rule=HoursRules(tuple(range(7)), 23 * 60, 23 * 60 + 30, "UTC")))
    start = cluster.clock.wall_s()
    assert not hours.within(mind.rule, start)
    assert finish(cluster, plan) == "finished"
    assert answers(cluster) == ["outside_hours", "accepted"]
    assert hours.within(mind.rule, cluster.clock.wall_s())
    assert 0 < cluster.clock.wall_s() - start < 86_400


def test_leaving_finishes_the_open_attempt_and_joins_no_other() -> None:
    plan = plan_bytes(rounds=1)
    cluster, _ = minded(FOUR, plan)
    told: list[str] = []

    def saved(said: str, key: object) -> None:
        driver = cluster.members[VICTIM].driver
        assert driver is not None
        if said == "advert" and getattr(key, "round", 0) == 1 and not told:
            driver.listeners.append(lambda kind, facts: told.append(kind))
            driver.call(driver.answers.leave)

    journal(cluster, VICTIM).on_save = saved  # type: ignore[assignment]
    assert finish(cluster, plan) == "finished"
    assert "left" in told
    assert "reveal" in trail(cluster, VICTIM, 1)
    assert "input" not in trail(cluster, VICTIM, 2)


@pytest.mark.parametrize("code", ["paused", "outside_hours"])
def test_whoever_leaves_still_gives_no_input_while_inputs_are_held_back(code: str) -> None:
    plan = plan_bytes(rounds=1)
    cluster, mind = minded(FOUR, plan)
    told: list[str] = []

    def saved(said: str, key: object) -> None:
        driver = cluster.members[VICTIM].driver
        assert driver is not None
        if said == "advert" and getattr(key, "round", 0) == 1 and not told:
            driver.listeners.append(lambda kind, facts: told.append(kind))
            driver.call(driver.answers.leave)
            mind.held = code
            driver.call(driver.answers.refresh_hold)

    journal(cluster, VICTIM).on_save = saved  # type: ignore[assignment]
    assert finish(cluster, plan) == "finished"
    assert "left" in told
    assert "sat_out" in trail(cluster, VICTIM, 1)
    assert not {"input", "vote"} & set(trail(cluster, VICTIM))


# --- the policy against manifests -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("inside", "outside"),
    [
        (Limits(smallest_cohort=5), Limits(smallest_cohort=6)),
        (Limits(known=frozenset(FIVE), known_in_cohort=4), Limits(known=frozenset(FIVE), known_in_cohort=5)),
        (
            Limits(known=frozenset({*FIVE[:2], OrgId("zulu")}), known_in_cohort=2),
            Limits(known=frozenset({VICTIM, FIVE[0], OrgId("zulu")}), known_in_cohort=2),
        ),
        (Limits(input_bytes=10_000), Limits(input_bytes=1)),
    ],
    ids=["cohort", "known", "known by name", "bytes"],
)
def test_a_manifest_outside_of_the_policy_is_sat_out_before_anything_is_sent_for_it(
    inside: Limits, outside: Limits
) -> None:
    plan = plan_bytes(rounds=1)
    for limits, takes_part in ((inside, True), (outside, False)):
        cluster, _ = minded(FIVE, plan, limits)
        assert finish(cluster, plan) == "finished"
        assert bool(sent(cluster, AdvertMessage)) == takes_part
        refusals = {one.code for one in sent(cluster, Refusal) if isinstance(one, Refusal)}
        assert refusals == (set() if takes_part else {"policy_refused"})
        kinds = {kind for kind, _ in journal(cluster, VICTIM).records}
        assert ("policy_refused" in kinds) != takes_part, "it is on record"


@pytest.mark.parametrize(
    ("limits", "votes"),
    [
        (Limits(smallest_sum=4), True),
        (Limits(smallest_sum=5), False),
        (Limits(known=frozenset({FIVE[0], FIVE[1], FIVE[4]}), known_in_sum=2), True),
        (Limits(known=frozenset({FIVE[0], FIVE[1], FIVE[4]}), known_in_sum=3), False),
        (Limits(known=frozenset({VICTIM, FIVE[0]}), known_in_sum=2), False),
    ],
)
def test_no_vote_for_a_sum_without_enough_organisations_that_are_known(limits: Limits, votes: bool) -> None:
    """The last member of five falls silent: four are in the sum."""
    plan = plan_bytes(rounds=1)
    cluster, _ = minded(FIVE, plan, limits)
    die_after(cluster, FIVE[4], "dealers", 1)
    finish(cluster, plan)
    assert ("vote" in trail(cluster, VICTIM, 1)) == votes
    if not votes:
        assert "policy_refused" in {one.code for one in sent(cluster, Refusal) if isinstance(one, Refusal)}


def test_too_late_is_said_of_this_run_alone() -> None:
    cluster, _ = withdrawn_at("vote")
    driver = cluster.members[VICTIM].driver
    assert driver is not None
    assert withdrawing.too_late_for(driver.state, RunId("run-2")) is None


def test_a_manifest_of_a_run_that_is_closed_or_held_is_refused_by_its_code() -> None:
    plan = plan_bytes(rounds=1)
    cluster, _ = minded(FOUR, plan)
    assert finish(cluster, plan) == "finished"
    driver = cluster.members[VICTIM].driver
    assert driver is not None
    offer = next(said for said in map(parse, cluster.sent) if isinstance(said, Offer))
    manifest = manifest_of(offer.manifest)

    def refusal(**changes: object) -> list[str]:
        found = withdrawing.refusal_of(replace(driver.state, **changes), manifest)  # type: ignore[arg-type]
        return [one.message.code for one in found if isinstance(one, Send) and isinstance(one.message, Refusal)]

    assert refusal() == []
    assert refusal(closed={RUN: "consent_withdrawn"}) == ["consent_withdrawn"]
    assert refusal(closed={RunId("run-2"): "consent_withdrawn"}) == []
    assert refusal(held="paused") == ["paused"]


# --- rows, at each request --------------------------------------------------------------------------------------------


def test_rows_are_counted_for_the_answer_and_before_each_input() -> None:
    plan = private_bytes(rounds=3)
    for after, last in ((0, 0), (2, 2)):
        cluster, mind = minded(FIVE, plan, mind=Mind(rows=10_000 if not after else 1))

        def saved(said: str, key: object, mind: Mind = mind, after: int = after) -> None:
            if after and said == "done" and getattr(key, "round", 0) == after:
                mind.rows = 10_000

        journal(cluster, VICTIM).on_save = saved  # type: ignore[assignment]
        assert finish(cluster, plan) == "finished"
        done = [number for number in range(1, 4) if "input" in trail(cluster, VICTIM, number)]
        assert done == list(range(1, last + 1))
        codes = {one.code for one in sent(cluster, Refusal, PlanAnswer) if isinstance(one, Refusal | PlanAnswer)}
        assert "no_update" in codes
        assert codes <= {"", "no_update"}, "neither the rule nor the count"


def test_a_plain_run_is_what_it_was() -> None:
    plan = plan_bytes(rounds=1)
    assert run(federation(FIVE, plan=plan), plan) == "finished"
    assert (Limits().smallest_cohort, Limits().smallest_sum) == (0, 0), "without a policy the floors are the protocol's"
