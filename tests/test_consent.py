"""Consent as it is kept and decided: what an approval is bound to, who may give it, and the socket it comes over."""

import math
from dataclasses import replace
from pathlib import Path

import pytest
from fedveil_cli.consent_commands import _end_of_day
from fedveil_common import plan as plans
from fedveil_common.errors import ConfigError, FedveilError, PolicyRefusal, Unreachable
from fedveil_common.ids import AttemptKey, RunId
from fedveil_common.plan import Plan
from fedveil_participant.approval import people, report
from fedveil_participant.approval.binding import LocalDigests
from fedveil_participant.approval.decisions import Person
from fedveil_participant.approval.difference import changes
from fedveil_participant.approval.orders import LAST_S, MAX_REASON
from fedveil_participant.approval.people import Caller, MachineAccounts
from fedveil_participant.approval.report import lines
from fedveil_participant.events import Changes
from fedveil_participant.stages import Idle

from tests.consent_house import (
    ALICE,
    BOB,
    EXACT,
    MALLORY,
    MEMBERS,
    NOISY,
    OWNER,
    STEWARD,
    Live,
    digest,
    house,
    renamed,
)

TWO = "approvers: [{user: alice}, {user: bob}, {group: data-stewards}]\nneed: 2"
LATER = 1_000_000.0


def code_of(work: object, *arguments: object, **named: object) -> str:
    with pytest.raises(FedveilError) as caught:
        work(*arguments, **named)  # type: ignore[operator]
    return caught.value.code


# --- waiting and approving --------------------------------------------------------------------------------------------


def test_a_plan_waits_is_approved_and_lets_in_one_run(tmp_path: Path) -> None:
    with house(tmp_path) as home:
        word = home.offer("r1")
        assert (word.code, word.said) == ("consent_pending", "consent_pending")
        (row,) = home.orders.pending(OWNER)["pending"]  # type: ignore[misc]
        assert (row["run"], row["plan_hash"], row["epsilon"]) == ("r1", digest(), None)  # type: ignore[index, call-overload]
        found = home.orders.approve(OWNER, plan_hash=digest())
        assert (found["run"], found["complete"], found["approvers"]) == ("r1", True, ["owner"])
        assert home.offer("r1").code == ""
        home.admit("r1")
        assert home.offer("r2").code == "consent_pending", "an approval is for one run"
        assert [row["run"] for row in home.orders.pending(OWNER)["pending"]] == ["r2"]  # type: ignore[union-attr, index, call-overload]
    with house(tmp_path) as home:
        assert home.offer("r1").code == "", "also after a restart"
        assert home.notes()[:3] == ["consent_pending", "consent_given", "consent_applies"]


def test_pending_keeps_the_canonical_bytes_and_the_first_time(tmp_path: Path) -> None:
    with house(tmp_path) as home:
        home.offer("r1")
        home.clock.advance_to(home.clock.monotonic_s() + 100)
        home.offer("r1")
        (offer,) = home.store.waiting()
        assert offer.canonical == EXACT
        assert home.notes() == ["consent_pending"], "on record once"
        first = offer.wall_s
        assert first < home.clock.wall_s()


@pytest.mark.parametrize("part", ["masking", "trainer", "schema"])
def test_whatever_changed_after_the_approval_makes_it_wait_again(tmp_path: Path, part: str) -> None:
    with house(tmp_path) as home:
        home.offer("r1")
        home.orders.approve(OWNER, plan_hash=digest())
        home.admit("r1")
        home.bindings.local = replace(LocalDigests(), **{part: b"\1" * 32})
        word = home.offer("r1")
        assert word.code == "consent_pending"
        assert part in word.what
        assert code_of(home.admit, "r1") == "approval_gone"
        home.orders.approve(OWNER, plan_hash=digest())
        assert home.offer("r1").code == ""
        home.admit("r1")


@pytest.mark.parametrize("by", ["--accept", "a rule", "approvers"])
def test_another_trainer_is_approved_by_people_whoever_let_the_plan_in(tmp_path: Path, by: str) -> None:
    """Nobody looks at a trainer where a plan is let in without asking: there a changed one waits for a person."""
    rule = "approve: [{dataset: visits, privacy: none, plans: [{name: triage}], runs: 9, rounds: 9000}]"
    policy = {"--accept": "", "a rule": rule, "approvers": TWO}[by]
    old, new = b"\1" * 32, b"\2" * 32
    who = (ALICE, BOB) if by == "approvers" else (OWNER,)
    with house(tmp_path, policy) as home:
        home.bindings.local = LocalDigests(trainer=old)
        if by == "--accept":
            home.store.accept_plan(plans.plan_hash(EXACT))
        if by == "approvers":
            home.offer("r1")
            for one in who:
                home.orders.approve(one, plan_hash=digest())
        assert home.offer("r1").code == ""
        home.bindings.approvals[plans.plan_hash(EXACT)] = old  # as the first acceptance has it
        home.admit("r1")
        home.bindings.local = LocalDigests(trainer=new)
        word = home.offer("r1")
        assert (word.code, "trainer" in word.what) == ("consent_pending", True)
        assert code_of(home.admit, "r1") == "approval_gone"
        assert home.bindings.approvals == {plans.plan_hash(EXACT): old}
        for one in who:
            assert home.offer("r1").code == "consent_pending"
            home.orders.approve(one, plan_hash=digest())
        assert home.offer("r1").code == ""
        home.admit("r1")
        assert home.bindings.approvals == {plans.plan_hash(EXACT): new}, "and it runs with no other"


def test_nothing_is_approved_that_would_not_be_for_the_code_that_runs(tmp_path: Path) -> None:
    """Where no participant runs, nothing says which trainer a plan would run with."""
    text = (Path(__file__).parent.parent / "examples" / "trainer" / "plan.yaml").read_bytes()
    canonical = plans.canonical(plans.parse_plan(text, "plan.yaml"))
    with house(tmp_path) as home:
        home.offer("r1", canonical)
        with pytest.raises(FedveilError) as caught:
            home.orders.approve(OWNER, plan_hash=digest(canonical))
        assert caught.value.code == "trainer_missing"
        assert "approve while it runs" in caught.value.next_step
        home.bindings.local = LocalDigests(trainer=b"\1" * 32)
        home.orders.approve(OWNER, plan_hash=digest(canonical))
        assert home.offer("r1", canonical).code == ""


def test_a_changed_policy_makes_an_approved_plan_wait_again(tmp_path: Path) -> None:
    with house(tmp_path, "min_cell: 2") as home:
        home.offer("r1")
        home.orders.approve(OWNER, plan_hash=digest())
        assert home.offer("r1").code == ""
    with house(tmp_path, "min_cell: 3") as home:
        word = home.offer("r1")
        assert (word.code, "policy" in word.what) == ("consent_pending", True)
        (row,) = home.orders.pending(OWNER)["pending"]  # type: ignore[misc]
        assert "policy" in str(row["state"])  # type: ignore[index, call-overload]
    with house(tmp_path, "min_cell: 2   # the same") as home:
        assert home.offer("r1").code == "", "what means the same has the same digest"


def test_an_admission_is_looked_at_again_in_the_transaction_that_writes_the_advert(tmp_path: Path) -> None:
    with house(tmp_path) as home:
        home.offer("r1")
        home.orders.approve(OWNER, plan_hash=digest())
        plan = plans.parse_canonical(EXACT)
        admission = home.desk.admission(RunId("r1"), plan, plans.plan_hash(EXACT))
        assert admission is not None
        key = AttemptKey(RunId("r1"), 1, 1)

        def advert(**other: object) -> None:
            changed = Changes(high_water=key, admission=replace(admission, **other))  # type: ignore[type-var, arg-type]
            home.store.save(key, Idle(), "advert", (), changed)

        assert code_of(advert, run_id=RunId("r2")) == "approval_gone"
        assert code_of(advert, number=7) == "approval_gone"
        assert code_of(advert, binding=replace(admission.binding, masking=b"\2" * 32)) == "approval_gone"
        assert code_of(advert, binding=replace(admission.binding, plan_hash=b"\2" * 32)) == "approval_gone"
        assert code_of(advert, number=0, approved_by="accept") == "approval_gone"
        home.store.deny(plans.plan_hash(EXACT), Person(1, "x"), "")
        assert code_of(advert) == "approval_gone"
        home.store.accept_plan(plans.plan_hash(EXACT))
        assert code_of(advert, number=0, approved_by="accept") == "approval_gone", "a denial outweighs the command line"
        assert home.store.standing().high_water == {}, "nothing of the step was written"
        home.orders.approve(OWNER, plan_hash=digest())
        assert code_of(advert) == "approval_gone", "an ended approval does not come back"


def test_the_number_of_runs_is_counted_in_the_transaction_too(tmp_path: Path) -> None:
    with house(tmp_path) as home:
        home.offer("r1", NOISY)
        home.orders.approve(OWNER, plan_hash=digest(NOISY), runs=1, until_s=home.clock.wall_s() + LATER)
        plan = plans.parse_canonical(NOISY)
        first, second = (home.desk.admission(RunId(run), plan, plans.plan_hash(NOISY)) for run in ("r1", "r2"))
        for admission, run in ((first, "r1"), (first, "r1")):
            home.store.save(AttemptKey(RunId(run), 1, 1), Idle(), "advert", (), Changes(admission=admission))
        key = AttemptKey(RunId("r2"), 1, 1)
        assert code_of(home.store.save, key, Idle(), "advert", (), Changes(admission=second)) == "approval_gone"


@pytest.mark.parametrize("day", ["2027-02-28", "9999-12-31"])
def test_a_day_ends_with_its_last_second_the_last_day_of_all_too(tmp_path: Path, day: str) -> None:
    end = _end_of_day(day)
    assert end is not None
    assert report.instant(end) == f"{day}T23:59:59Z"
    with house(tmp_path) as home:
        home.offer("r1")
        assert home.orders.approve(OWNER, plan_hash=digest(), runs=2, until_s=end)["until"] == report.instant(end)
        assert code_of(home.orders.approve, OWNER, plan_hash=digest(), runs=2, until_s=LAST_S + 1) == "bad_term"


def test_several_runs_until_a_day(tmp_path: Path) -> None:
    with house(tmp_path) as home:
        home.offer("r1", NOISY)
        until = home.clock.wall_s() + LATER
        home.orders.approve(OWNER, plan_hash=digest(NOISY), runs=2, until_s=until)
        for run, code in (("r1", ""), ("r2", ""), ("r3", "consent_pending")):
            assert home.offer(run, NOISY).code == code
            if not code:
                home.admit(run, NOISY)
        assert code_of(home.admit, "r3", NOISY) == "approval_gone"
        home.clock.advance_to(home.clock.monotonic_s() + LATER)
        assert home.offer("r1", NOISY).code == "", "the last instant counts"
        home.clock.advance_to(home.clock.monotonic_s() + LATER + 1)
        assert home.offer("r1", NOISY).code == "consent_pending"
        assert code_of(home.admit, "r1", NOISY) == "approval_gone"


def test_without_differential_privacy_a_standing_approval_needs_changed_rows(tmp_path: Path) -> None:
    with house(tmp_path) as home:
        home.offer("r1")
        home.orders.approve(OWNER, plan_hash=digest(), runs=9, until_s=home.clock.wall_s() + LATER)
        home.admit("r1")
        assert home.offer("r2").code == "consent_pending", "it is not known how many rows changed"
        home.bindings.changed = {"r1": 9}
        assert home.offer("r2").code == "consent_pending"
        home.bindings.changed = {"r1": 10}
        assert home.offer("r2").code == ""
        home.bindings.changed = {}
        home.orders.approve(OWNER, plan_hash=digest(), run="r2")
        assert home.offer("r2").code == "", "a person's own word for that very run"
    with house(
        tmp_path,
        "min_changed_rows: 50\n"
        "approve: [{dataset: visits, privacy: none, plans: [{name: triage}], runs: 9, rounds: 99}]",
    ) as home:
        assert home.offer("r5").code == "consent_pending", "r1 was of this plan too"
        home.bindings.changed = {"r1": 50}
        assert home.offer("r5").code == ""
        home.admit("r5")
        home.bindings.changed = {"r1": 50, "r5": 49}
        assert home.offer("r6").code == "consent_pending"
        home.bindings.changed = {"r1": 50, "r5": 50}
        assert home.offer("r6").code == ""


def test_the_command_line_accepts_for_any_number_of_runs_unless_the_policy_names_approvers(tmp_path: Path) -> None:
    with house(tmp_path) as home:
        home.store.accept_plan(plans.plan_hash(EXACT))
        for run in ("r1", "r2", "r3"):
            assert home.offer(run).code == ""
            home.admit(run)
    with house(tmp_path, TWO) as home:
        assert home.offer("r4").code == "consent_pending"


def test_which_run_is_asked_where_several_wait(tmp_path: Path) -> None:
    with house(tmp_path) as home:
        assert code_of(home.orders.approve, OWNER, plan_hash=digest()) == "unknown_plan"
        home.offer("r1")
        home.offer("r2")
        assert code_of(home.orders.approve, OWNER, plan_hash=digest()) == "which_run"
        assert code_of(home.orders.approve, OWNER, plan_hash=digest(), run="r3") == "unknown_offer"
        assert code_of(home.orders.approve, OWNER, plan_hash=digest(), runs=2) == "bad_term"
        assert code_of(home.orders.approve, OWNER, plan_hash=digest(), runs=0, until_s=LATER * 1e6) == "bad_term"
        assert code_of(home.orders.approve, OWNER, plan_hash=digest(), runs=True, until_s=LATER * 1e6) == "bad_term"
        past = home.clock.wall_s()
        assert code_of(home.orders.approve, OWNER, plan_hash=digest(), runs=1, until_s=past) == "bad_term"
        home.orders.approve(OWNER, plan_hash=digest(), run="r2")
        assert (home.offer("r1").code, home.offer("r2").code) == ("consent_pending", "")


# --- denying ----------------------------------------------------------------------------------------------------------


def test_a_denial_outweighs_everything_before_it_and_its_reason_stays_here(tmp_path: Path) -> None:
    live = Live(late={RunId("r1"): 3})
    with house(tmp_path, live=live) as home:
        home.store.accept_plan(plans.plan_hash(EXACT))
        home.offer("r1")
        home.admit("r1")
        found = home.orders.deny(OWNER, plan_hash=digest(), reason="the board has not met")
        assert found["withdrawn_from"] == ["r1"]
        assert found["too_late"] == [{"run": "r1", "round": 3}]
        assert live.told == [("withdraw", "consent_withdrawn"), ("reconsider", digest())]
        for run, said in (("r1", "consent_withdrawn"), ("r2", "consent_denied")):
            word = home.offer(run)
            assert (word.code, word.said) == (said, said)
            assert "board" not in word.said + word.what
        row = next(row for row in home.store.trail() if row.kind == "consent_withdrawn")
        assert dict(row.facts)["reason"] == "the board has not met"
        assert dict(row.facts)["name"] == "owner"
    with house(tmp_path) as home:
        home.store.accept_plan(plans.plan_hash(EXACT))
        assert home.offer("r1").code == "consent_withdrawn", "the same command line again is no new word"
        assert code_of(home.orders.approve, OWNER, plan_hash=digest()) == "which_run", "that which went on, or r2"
        home.orders.approve(OWNER, plan_hash=digest(), run="r1")
        assert home.offer("r1").code == ""
        assert home.offer("r2").code == "consent_pending", "the word on the command line was before the denial"


def test_an_approval_after_a_denial_revives_no_earlier_word(tmp_path: Path) -> None:
    with house(tmp_path) as home:
        home.store.accept_plan(plans.plan_hash(EXACT))
        assert home.offer("r1").code == ""
        home.orders.deny(OWNER, plan_hash=digest())
        home.offer("r1")
        home.orders.approve(OWNER, plan_hash=digest())
        assert [home.offer(run).code for run in ("r1", "r2")] == ["", "consent_pending"]
    with house(tmp_path) as home:  # a service starts anew with the same command line
        assert not home.store.accept_plan(plans.plan_hash(EXACT))
        assert [home.offer(run).code for run in ("r1", "r2")] == ["", "consent_pending"]


def test_no_rule_overrules_a_denial_either(tmp_path: Path) -> None:
    rule = "approve: [{dataset: visits, privacy: differential, runs: 9, rounds: 9000, epsilon: 90}]"
    with house(tmp_path, rule) as home:
        assert [home.offer(run, NOISY).code for run in ("r1", "r2")] == ["", ""]
        admission = home.desk.admission(RunId("r2"), plans.parse_canonical(NOISY), bytes.fromhex(digest(NOISY)))
        home.orders.deny(OWNER, plan_hash=digest(NOISY))
        home.offer("r1", NOISY)
        home.orders.approve(OWNER, plan_hash=digest(NOISY), run="r1")
        assert home.offer("r1", NOISY).code == ""
        word = home.offer("r2", NOISY)
        assert (word.code, "denied before" in word.what) == ("consent_pending", True)
        with pytest.raises(PolicyRefusal):  # it was let in by the rule just before the denial
            home.store.save(AttemptKey(RunId("r2"), 1, 1), Idle(), "advert", (), Changes(admission=admission))


def test_who_approves_once_more_what_goes_on_lets_in_no_other_run(tmp_path: Path) -> None:
    with house(tmp_path) as home:
        home.offer("r1", NOISY)
        home.orders.approve(OWNER, plan_hash=digest(NOISY))
        home.admit("r1", NOISY)
        assert code_of(home.orders.approve, OWNER, plan_hash=digest(NOISY)) == "unknown_offer"
        assert home.offer("r2", NOISY).code == "consent_pending"
        home.orders.deny(OWNER, plan_hash=digest(NOISY))
        home.orders.approve(OWNER, plan_hash=digest(NOISY), run="r1")
        assert home.offer("r1", NOISY).code == "", "a withdrawal is taken back for the run that it was about"


def test_one_plan_that_cannot_be_looked_at_hides_no_other(tmp_path: Path) -> None:
    with house(tmp_path) as home:
        home.offer("r1")
        home.offer("r2", NOISY)
        of = home.bindings.of

        def gone(plan: Plan) -> LocalDigests:
            if plan.privacy is not None:
                raise ConfigError("dataset_missing", "it is gone")
            return of(plan)

        home.bindings.of = gone  # type: ignore[method-assign]
        states = [row["state"] for row in home.orders.pending(OWNER)["pending"]]  # type: ignore[union-attr, index, call-overload]
        assert states == ["pending: nobody has approved this plan", "not possible here: it is gone"]


def test_a_policy_that_changed_holds_for_a_run_that_is_offered_no_more(tmp_path: Path) -> None:
    with house(tmp_path) as home:
        home.store.accept_plan(plans.plan_hash(EXACT))
        home.offer("r1")
        home.admit("r1")
    with house(tmp_path, "min_cell: 1\nprotections: [paillier]\n") as home:
        assert code_of(home.admit, "r1") == "policy_refused", "whatever the command line accepted"
        assert "policy_refused" in home.notes()


def test_what_is_no_plan_hash_or_no_reason(tmp_path: Path) -> None:
    with house(tmp_path) as home:
        for bad in ("", digest()[:63], digest() + "0", digest()[:-1] + "g", 7, None):
            assert code_of(home.orders.deny, OWNER, plan_hash=bad) == "bad_plan_hash"
        assert code_of(home.orders.deny, OWNER, plan_hash=digest(), reason="x" * (MAX_REASON + 1)) == "bad_request"
        assert code_of(home.orders.deny, OWNER, plan_hash=digest(), reason=["x"]) == "bad_request"


# --- who may say it ---------------------------------------------------------------------------------------------------


def test_two_different_people_where_two_are_needed(tmp_path: Path) -> None:
    live = Live()
    with house(tmp_path, TWO, live) as home:
        home.offer("r1")
        for nobody in (OWNER, MALLORY, Caller(Person(0, "root"))):
            assert code_of(home.orders.approve, nobody, plan_hash=digest()) == "not_an_approver"
            assert code_of(home.orders.deny, nobody, plan_hash=digest()) == "not_an_approver"
        assert home.orders.approve(ALICE, plan_hash=digest())["complete"] is False
        assert home.orders.approve(ALICE, plan_hash=digest())["complete"] is False, "twice the same person"
        assert home.orders.approve(Caller(Person(ALICE.person.uid, "bob")), plan_hash=digest())["complete"] is False
        assert home.offer("r1").code == "consent_pending"
        assert code_of(home.admit, "r1") == "approval_gone"
        assert live.told == []
        found = home.orders.approve(STEWARD, plan_hash=digest())
        assert found["complete"] is True
        assert live.told == [("reconsider", digest())]
        assert home.offer("r1").code == ""
        home.admit("r1")
        home.orders.deny(BOB, plan_hash=digest())
        assert home.offer("r1").code == "consent_withdrawn", "one person may take it back"
        assert home.orders.approve(ALICE, plan_hash=digest())["complete"] is False
        assert home.offer("r1").code == "consent_withdrawn", "and one alone does not lift it"


def test_a_second_person_who_approves_something_else_does_not_complete_it(tmp_path: Path) -> None:
    with house(tmp_path, TWO) as home:
        home.offer("r1")
        home.orders.approve(ALICE, plan_hash=digest())
        home.bindings.local = LocalDigests(masking=b"\1" * 32)
        assert home.orders.approve(BOB, plan_hash=digest())["complete"] is False
        assert (
            home.orders.approve(BOB, plan_hash=digest(), runs=1, until_s=home.clock.wall_s() + LATER)["complete"]
            is False
        )
        assert home.offer("r1").code == "consent_pending"


def test_who_may_pause_and_end(tmp_path: Path) -> None:
    live = Live()
    with house(tmp_path, TWO, live) as home:
        assert code_of(home.orders.pause, MALLORY) == "not_an_approver"
        assert code_of(home.orders.leave, MALLORY) == "not_an_approver"
        for someone in (OWNER, ALICE, Caller(Person(0, "root"))):
            home.orders.pause(someone)
        assert home.desk.hold(0.0, MEMBERS) == "paused"
    with house(tmp_path, TWO, live) as home:
        assert home.desk.hold(0.0, MEMBERS) == "paused", "also over a restart"
        home.orders.resume(OWNER)
        assert home.desk.hold(0.0, MEMBERS) == ""
        home.orders.leave(OWNER)
        assert live.told[-1] == ("leave", "")
    with house(tmp_path) as home:
        with pytest.raises(Unreachable) as caught:
            home.orders.leave(OWNER)
        assert caught.value.code == "participant_not_running"


def test_what_the_policy_refuses_nobody_can_approve(tmp_path: Path) -> None:
    with house(tmp_path) as home:
        home.offer("r1")
        home.store.accept_plan(plans.plan_hash(EXACT))
    with house(tmp_path, "protections: [paillier]") as home:
        word = home.offer("r1")
        assert (word.code, word.said) == ("protection_not_allowed", "policy_refused")
        assert "masked" in word.what
        assert code_of(home.orders.approve, OWNER, plan_hash=digest()) == "policy_refused"
        row = next(row for row in home.store.trail() if row.kind == "policy_refused")
        assert dict(row.facts)["rules"] == "protection_not_allowed"


def test_the_month_of_the_policy_counts_runs_that_were_let_in(tmp_path: Path) -> None:
    with house(tmp_path, "min_cell: 1") as home:
        home.store.accept_plan(plans.plan_hash(NOISY))
        assert home.policy is not None
        data = {"visits": replace(home.policy.data["visits"], epsilon_per_month=8.0)}
        home.desk.policy = replace(home.policy, data=data)
        for run, code in (("r1", ""), ("r2", ""), ("r3", "month_spent")):
            assert home.offer(run, NOISY).code == code
            if not code:
                home.admit(run, NOISY)
        assert home.offer("r2", NOISY).code == "", "a run does not stand in its own way"
        home.clock.advance_to(home.clock.monotonic_s() + 32 * 86_400)
        for run, code in (("r3", ""), ("r4", ""), ("r5", "month_spent")):
            assert home.offer(run, NOISY).code == code
            if not code:
                home.admit(run, NOISY)
        assert home.offer("r1", NOISY).code == "", "a run of last month counts there"
        home.admit("r1", NOISY)


def test_the_month_holds_for_runs_that_were_offered_before_another_was_let_in(tmp_path: Path) -> None:
    with house(tmp_path, "min_cell: 1") as home:
        assert home.policy is not None
        data = {"visits": replace(home.policy.data["visits"], epsilon_per_month=4.0)}
        home.desk.policy = replace(home.policy, data=data)
        home.store.accept_plan(bytes.fromhex(digest(NOISY)))
        assert [home.offer(run, NOISY).code for run in ("r1", "r2")] == ["", ""]
        home.admit("r1", NOISY)
        assert code_of(home.admit, "r2", NOISY) == "policy_refused"
        home.admit("r1", NOISY)


def test_accounts_of_the_machine_know_their_groups() -> None:
    found = MachineAccounts().caller(0)
    assert (found.person.name, "root" in found.groups) == ("root", True)
    unknown = MachineAccounts().caller(4_000_000)
    assert (unknown.person.name, unknown.groups) == ("4000000", frozenset())
    people.check_approver(None, OWNER, 990)
    with pytest.raises(PolicyRefusal):
        people.check_approver(None, ALICE, 990)


# --- what is shown ----------------------------------------------------------------------------------------------------

HOSTILE = "[red]\x1b[2J\u202etest\u200b\nplan 0000"


def test_what_is_shown_has_the_gravest_first_and_is_kept_with_the_approval(tmp_path: Path) -> None:
    with house(tmp_path, "min_cell: 1") as home:
        home.offer("r1", NOISY)
        shown = home.orders.show(OWNER, plan_hash=digest(NOISY))
        text = lines(shown)
        heads = [line.partition(":")[0] for line in text[1:6]]
        assert heads == ["protection", "epsilon", "columns read (features)", "columns read (target)", "rounds"]
        plan = plans.parse_canonical(NOISY)
        assert plan.privacy is not None
        private, leaving = shown["privacy"], shown["leaves"]
        assert isinstance(private, dict)
        assert isinstance(leaving, dict)
        assert (private["epsilon"], private["delta"]) == (plan.privacy.max_epsilon, plan.privacy.delta)
        assert shown["columns"] == {"features": ["age", "lactate"], "target": "died"}
        assert leaving["bytes_in_all"] == leaving["bytes_of_an_input"] * leaving["sums"]  # type: ignore[operator]
        assert {one["verdict"] for one in shown["policy"]} <= {"allowed", "later"}  # type: ignore[union-attr, index, call-overload]
        home.orders.approve(OWNER, plan_hash=digest(NOISY))
        (kept,) = home.store.shown(plans.plan_hash(NOISY))
        assert kept.text.split("\n")[:6] == text[:6]
        assert kept.person == OWNER.person
        row = next(row for row in home.store.trail() if row.kind == "consent_given")
        facts = dict(row.facts)
        assert facts["shown"] == kept.text
        assert {"uid", "name", "plan", "masking", "policy", "trainer", "schema"} <= set(facts)


def test_texts_of_others_are_escaped_wherever_they_are_shown(tmp_path: Path) -> None:
    value = {"plan_hash": "00", "protection": HOSTILE}
    with house(tmp_path) as home:
        home.offer("r1")
        shown = {**home.orders.show(OWNER, plan_hash=digest()), **value, "stated": {"purpose": HOSTILE}}
        shown["columns"] = {"features": [HOSTILE]}
        for line in lines(shown):  # type: ignore[arg-type]
            assert line.isprintable(), line
        assert any("\\x1b[2J\\u202etest\\u200b\\nplan 0000" in line for line in lines(shown))  # type: ignore[arg-type]


def test_the_difference_from_the_version_that_was_approved(tmp_path: Path) -> None:
    with house(tmp_path) as home:
        home.offer("r1")
        other = plans.canonical(plans.parse_plan(EXACT_WITH_MORE.encode(), "plan.yaml"))
        home.offer("r2", other)
        assert home.orders.show(OWNER, plan_hash=digest(other))["earlier"] is None
        home.orders.approve(OWNER, plan_hash=digest())
        earlier = home.orders.show(OWNER, plan_hash=digest(other))["earlier"]
        assert isinstance(earlier, dict)
        assert earlier["plan_hash"] == digest()
        named = {one["field"]: (one["before"], one["after"]) for one in earlier["changes"]}  # type: ignore[union-attr, index, call-overload]
        assert named["training.rounds"] == ("2", "9")
        assert named["data.features[age].range"] == ("[0,120]", "[0,99]")
        text = lines(home.orders.show(OWNER, plan_hash=digest(other)))
        assert any("training.rounds: 2 -> 9" in line for line in text)


EXACT_WITH_MORE = ""


def _more() -> str:
    from tests.processes import plan_text

    return plan_text(rounds=9).replace("[0, 120]", "[0, 99]")


EXACT_WITH_MORE = _more()


def test_changes_name_what_is_new_and_what_is_gone() -> None:
    before, after = (
        b'{"a":{"b":1},"list":[{"name":"x","v":1}]}',
        b'{"a":{"c":2},"list":[{"name":"x","v":2},{"name":"y"}]}',
    )
    assert [(one.field, one.before, one.after) for one in changes(before, after)] == [
        ("a.b", "1", ""),
        ("a.c", "", "2"),
        ("list[x].v", "1", "2"),
        ("list[y].name", "", '"y"'),
    ]


def test_infinity_stands_in_the_store_for_no_end(tmp_path: Path) -> None:
    with house(tmp_path) as home:
        home.offer("r1")
        home.orders.approve(OWNER, plan_hash=digest())
        (approval,) = home.store.standing_consents().approvals
        assert math.isinf(approval.until_s)
        assert renamed(EXACT, name="other") != EXACT
