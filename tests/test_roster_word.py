"""`roster: confirm`: no input under a roster with a member, or a member's key, that nobody here confirmed (A7)."""

from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
from fedveil_cli import roster_commands
from fedveil_cli.output import Output
from fedveil_common import jcs
from fedveil_common.errors import FedveilError
from fedveil_common.ids import COORDINATOR, FederationId, OrgId
from fedveil_common.messages import AdvertMessage, Refusal
from fedveil_common.pki.words import check_words
from fedveil_common.roster import MAX_ENTRIES, Member, Role, Roster
from fedveil_participant.approval import frames, roster_word
from fedveil_participant.approval.desk import ConsentDesk
from fedveil_participant.approval.orders import Orders
from fedveil_participant.approval.roster_word import UNCONFIRMED, Confirmed, Difference, RosterWord, difference
from fedveil_participant.policy import policy_digest
from fedveil_simulation.charter import make_charter
from fedveil_simulation.cluster import Cluster

from tests.consent_house import ALICE, MALLORY, MEMBERS, OWNER, STEWARD, ConsentHouse, Live, house
from tests.federation import FIVE, die_after, journal, plan_bytes, trail
from tests.test_consent_rounds import VICTIM, Mind, answers, finish, minded, sent

ME = MEMBERS.participants[0]
KEYS = {member.org_id: member.protocol_key for member in MEMBERS.members}
DELTA = Member(OrgId("delta"), Role.PARTICIPANT, bytes([77]) * 32)
ASKED = "roster: confirm\n"


def changed(*more: Member, without: str = "", other_key: str = "", version: int = 2) -> Roster:
    kept = [one for one in MEMBERS.members if one.org_id != without]
    keyed = [replace(one, protocol_key=bytes([88]) * 32) if one.org_id == other_key else one for one in kept]
    return replace(MEMBERS, version=version, members=(*keyed, *more))


def words(roster: Roster) -> str:
    return check_words(roster.hash)


def confirm(home: ConsentHouse, roster: Roster) -> None:
    home.roster = roster
    home.orders.carry_out({"order": "confirm_roster", "words": words(roster)}, OWNER)


def hold(home: ConsentHouse, roster: Roster) -> str:
    return home.desk.hold(0.0, roster)


# --- what differs ---------


def test_a_new_member_and_a_new_key_need_a_word_and_a_member_that_left_none() -> None:
    assert difference(KEYS, MEMBERS, ME) == Difference()
    new = difference(KEYS, changed(DELTA), ME)
    assert (new, new.needs_word) == (Difference(added=(DELTA.org_id,)), True)
    keyed = difference(KEYS, changed(other_key="borealis"), ME)
    assert (keyed, keyed.needs_word) == (Difference(rekeyed=(OrgId("borealis"),)), True)
    left = difference(KEYS, changed(without="borealis"), ME)
    assert (left, left.needs_word) == (Difference(gone=(OrgId("borealis"),)), False)


def test_a_new_coordinator_key_needs_a_word_and_my_own_does_not() -> None:
    assert difference(KEYS, changed(other_key=COORDINATOR), ME).rekeyed == (COORDINATOR,)
    assert difference(KEYS, changed(other_key=ME), ME) == Difference()
    without_me = {name: key for name, key in KEYS.items() if name != ME}
    assert difference(without_me, MEMBERS, ME) == Difference(), "that I am listed need not be confirmed"


# --- what a house holds back ----------


def test_nothing_is_given_until_somebody_has_confirmed_the_first_roster(tmp_path: Path) -> None:
    with house(tmp_path, ASKED, Live()) as home:
        assert hold(home, MEMBERS) == UNCONFIRMED
        assert home.orders.carry_out({"order": "pending"}, OWNER)["roster_waits"] is True
        confirm(home, MEMBERS)
        assert home.orders.carry_out({"order": "pending"}, OWNER)["roster_waits"] is False
        assert hold(home, MEMBERS) == ""
        assert home.live is not None
        assert home.live.told == [("hold", "")], "the participant that runs hears of it"
    with house(tmp_path, ASKED) as home:
        assert hold(home, MEMBERS) == "", "also after a restart"
        assert hold(home, changed(DELTA)) == UNCONFIRMED
        assert hold(home, changed(other_key="borealis")) == UNCONFIRMED


def test_without_the_rule_every_roster_that_governance_signed_holds(tmp_path: Path) -> None:
    for index, policy in enumerate(("", "min_cell: 5\n", "roster: operator\n")):
        (tmp_path / str(index)).mkdir()
        with house(tmp_path / str(index), policy) as home:
            assert hold(home, changed(DELTA)) == ""


def test_who_left_is_confirmed_anew_also_after_a_restart_and_under_the_same_key(tmp_path: Path) -> None:
    with house(tmp_path, ASKED) as home:
        confirm(home, MEMBERS)
        assert hold(home, changed(without="borealis")) == ""
        assert hold(home, changed(version=3)) == UNCONFIRMED
    with house(tmp_path, ASKED) as home:
        assert hold(home, changed(version=3)) == UNCONFIRMED
        found = home.desk.roster_word.of(changed(version=3))
        assert found.added == (OrgId("borealis"),)


def test_who_left_while_the_policy_did_not_ask_is_confirmed_anew(tmp_path: Path) -> None:
    with house(tmp_path, ASKED) as home:
        confirm(home, MEMBERS)
    with house(tmp_path, "need: 1\n") as home:
        assert hold(home, changed(without="borealis")) == ""
    with house(tmp_path, ASKED) as home:
        assert hold(home, changed(version=3)) == UNCONFIRMED


def test_a_roster_that_came_between_its_words_and_the_confirmation_is_the_one_that_counts(tmp_path: Path) -> None:
    """The thread of orders read a roster; the driver's has taken a newer one before it confirms."""
    with house(tmp_path, ASKED) as home:
        confirm(home, MEMBERS)
        home.roster = MEMBERS
        assert hold(home, changed(without="borealis")) == ""
        with pytest.raises(FedveilError) as caught:
            home.orders.carry_out({"order": "confirm_roster", "words": words(MEMBERS)}, OWNER)
        assert caught.value.code == "roster_words_differ"
        assert hold(home, changed(version=3)) == UNCONFIRMED


def test_what_was_confirmed_is_answered_though_a_newer_roster_came_since(tmp_path: Path) -> None:
    with house(tmp_path, ASKED) as home:
        rosters = [MEMBERS, changed(DELTA)]
        orders = Orders(home.desk, home.store, Live(), lambda: rosters.pop(0), home.clock, 990)
        found = orders.carry_out({"order": "confirm_roster", "words": words(MEMBERS)}, OWNER)
        assert (found["version"], found["confirmed"]) == (1, True)


def test_an_attempt_under_an_earlier_roster_is_asked_about_and_nothing_is_forgotten_by_it(tmp_path: Path) -> None:
    with house(tmp_path, ASKED) as home:
        newest = changed(DELTA, without="borealis")
        confirm(home, newest)
        assert hold(home, newest) == ""
        assert home.desk.unconfirmed(MEMBERS) == UNCONFIRMED
        assert hold(home, newest) == ""


def test_a_pause_and_the_hours_are_said_first(tmp_path: Path) -> None:
    with house(tmp_path, ASKED) as home:
        home.orders.carry_out({"order": "pause"}, OWNER)
        assert hold(home, MEMBERS) == "paused"
        home.orders.carry_out({"order": "resume"}, OWNER)
        assert hold(home, MEMBERS) == UNCONFIRMED


def test_the_rule_changes_the_digest_of_a_policy_and_its_absence_does_not(tmp_path: Path) -> None:
    digests = []
    for index, policy in enumerate(("need: 1\n", "roster: operator\n", ASKED)):
        (tmp_path / str(index)).mkdir()
        with house(tmp_path / str(index), policy) as home:
            digests.append(policy_digest(home.policy))
    assert digests[0] == digests[1] != digests[2], "approvals of before stay good"


# --- who says so, and how ----------


@pytest.mark.parametrize("given", ["", "amber", words(changed(DELTA)), words(MEMBERS)[:-1], None, 7, "\udcff"])
def test_other_words_confirm_nothing(tmp_path: Path, given: object) -> None:
    with house(tmp_path, ASKED, Live()) as home:
        with pytest.raises(FedveilError) as caught:
            home.orders.carry_out({"order": "confirm_roster", "words": given}, OWNER)  # type: ignore[dict-item]
        assert caught.value.code == "roster_words_differ"
        assert caught.value.not_done
        assert hold(home, MEMBERS) == UNCONFIRMED
        assert home.live is not None
        assert home.live.told == []
        assert "roster_confirmed" not in home.notes()


def test_words_are_read_as_people_write_them(tmp_path: Path) -> None:
    with house(tmp_path, ASKED) as home:
        spoken = "  " + words(MEMBERS).upper().replace(" ", "  \t")
        home.orders.carry_out({"order": "confirm_roster", "words": spoken}, OWNER)
        assert hold(home, MEMBERS) == ""


def test_a_roster_that_came_meanwhile_is_not_confirmed_with_the_words_of_the_one_before(tmp_path: Path) -> None:
    with house(tmp_path, ASKED) as home:
        home.roster = changed(DELTA)
        with pytest.raises(FedveilError) as caught:
            home.orders.carry_out({"order": "confirm_roster", "words": words(MEMBERS)}, OWNER)
        assert caught.value.code == "roster_words_differ"
        assert "version 2" in caught.value.what


def test_approvers_confirm_where_the_policy_names_them_and_nobody_else(tmp_path: Path) -> None:
    with house(tmp_path, ASKED + "approvers: [{user: alice}]\n") as home:
        for caller in (OWNER, MALLORY):
            with pytest.raises(FedveilError) as caught:
                home.orders.carry_out({"order": "confirm_roster", "words": words(MEMBERS)}, caller)
            assert caught.value.code == "not_an_approver"
        home.orders.carry_out({"order": "confirm_roster", "words": words(MEMBERS)}, ALICE)
        assert hold(home, MEMBERS) == ""
        row = next(row for row in home.store.trail() if row.kind == "roster_confirmed")
        facts = dict(row.facts)
        assert (facts["name"], facts["version"], facts["words"]) == ("alice", "1", words(MEMBERS))
        assert facts["roster"] == MEMBERS.hash.hex()


def test_another_policy_lets_nobody_confirm_for_those_whom_the_policy_names(tmp_path: Path) -> None:
    """Where nothing runs, whoever opens the home names the policy: `roster confirm --policy FILE`."""
    named = ASKED + "approvers: [{user: alice}, {group: data-stewards}]\n"
    with house(tmp_path, ASKED) as home:
        confirm(home, MEMBERS)
    with house(tmp_path, named) as home:
        assert hold(home, MEMBERS) == UNCONFIRMED
        assert hold(home, changed(without="cygnus")) == UNCONFIRMED
    with house(tmp_path, ASKED) as home:
        assert hold(home, changed(without="cygnus", version=3)) == "", "nothing is lost by a look"
        assert hold(home, changed(version=4)) == UNCONFIRMED, "who left is forgotten under whatever policy"
    with house(tmp_path, named) as home:
        home.orders.carry_out({"order": "confirm_roster", "words": words(MEMBERS)}, STEWARD)
    with house(tmp_path, ASKED + "approvers: [{group: data-stewards}, {user: alice}]\nneed: 2\n") as home:
        assert hold(home, MEMBERS) == "", "the same people in another order"


def test_what_is_shown_says_of_each_member_what_is_not_confirmed(tmp_path: Path) -> None:
    with house(tmp_path, ASKED) as home:
        confirm(home, MEMBERS)
        home.roster = changed(DELTA, without="cygnus", other_key="borealis")
        found = home.orders.carry_out({"order": "roster"}, MALLORY)
        members = found["members"]
        assert isinstance(members, list)
        states = {str(one["name"]): one["state"] for one in members if isinstance(one, dict)}
        assert states == {
            "acme": "this organisation",
            "borealis": "another key",
            "coordinator": "confirmed",
            "delta": "not confirmed",
        }
        assert (found["gone"], found["confirmed"], found["asked"]) == (["cygnus"], False, True)
        assert found["words"] == words(home.roster)


def test_a_roster_as_large_as_can_be_fits_the_consent_socket(tmp_path: Path) -> None:
    with house(tmp_path, ASKED) as home:
        keys = [index.to_bytes(32, "big") for index in range(1, MAX_ENTRIES + 1)]
        head = Member(COORDINATOR, Role.COORDINATOR, keys[0])
        others = [Member(OrgId(f"{index:04}{'x' * 59}"), Role.PARTICIPANT, key) for index, key in enumerate(keys[1:])]
        home.roster = Roster(FederationId("north"), 2, (head, *others))
        found = home.orders.carry_out({"order": "confirm_roster", "words": words(home.roster)}, OWNER)
        members = found["members"]
        assert isinstance(members, list)
        assert len(members) == MAX_ENTRIES
        assert len(jcs.dumps({"ok": found})) < frames.MAX_ANSWER
        assert hold(home, home.roster) == ""


def test_words_that_no_frame_can_carry_are_other_words() -> None:
    asked: list[object] = []

    class Asked:
        def order(self, name: str, **fields: object) -> dict[str, object]:
            asked.append(jcs.dumps({"order": name, **fields}))  # type: ignore[dict-item]
            return {"asked": True, "version": 1}

    roster_commands.confirm(Asked(), "amber \udcff", Output(as_json=True))  # type: ignore[arg-type]
    assert asked == [b'{"order":"confirm_roster","words":"amber ?"}']


# --- in the rounds ----------

FOUR, NEWER = make_charter(FIVE[:4], 1), make_charter(FIVE, 1, version=2)


class Kept:
    """A store in which these members were confirmed."""

    def __init__(self, members: dict[OrgId, bytes]) -> None:
        self.members = members

    def confirmed_members(self) -> Confirmed:
        return Confirmed(self.members)

    def keep_confirmed(self, confirmed: object) -> None:
        raise AssertionError("nobody left")

    def confirm_roster(self, roster: object, words: str, person: object, approvers: object) -> None:
        raise AssertionError("nobody confirms")


@dataclass
class Wary(Mind):
    """A mind that gives inputs under these members (name -> key), by default those of the first roster."""

    listed: dict[OrgId, bytes] = field(
        default_factory=lambda: {member.org_id: member.protocol_key for member in FOUR.roster.members}
    )

    def unconfirmed(self, roster: Roster) -> str:
        return self.hold(0.0, roster)

    def hold(self, wall_s: float, roster: Roster) -> str:
        return RosterWord(VICTIM, True, Kept(self.listed)).hold(roster)


def told_at(kind: str) -> Cluster:
    """The newer roster comes in the moment in which the victim's journal says `kind` in round 1."""
    plan = plan_bytes(rounds=1)
    cluster, _ = minded(plan=plan, mind=Wary())
    done: list[int] = []

    def saved(said: str, key: object) -> None:
        driver = cluster.members[VICTIM].driver
        if said == kind and not done and driver is not None:
            done.append(1)
            driver.call(lambda: driver._roster(NEWER.notice))

    journal(cluster, VICTIM).on_save = saved  # type: ignore[assignment]
    assert finish(cluster, plan) == "finished"
    assert done, f"there was no {kind}"
    return cluster


@pytest.mark.parametrize("kind", ["offer", "advert", "shares", "ack", "dealers"])
def test_attack_A7_a_member_that_nobody_confirmed_gets_no_input(kind: str) -> None:
    cluster = told_at(kind)
    said = trail(cluster, VICTIM, 1)
    assert "sat_out" in said
    assert not {"input", "vote", "reveal"} & set(said)
    assert any(isinstance(one, Refusal) and one.code == UNCONFIRMED for one in sent(cluster, Refusal))
    assert not [upload for upload in cluster.uploads if upload[0] == VICTIM]


def test_attack_A7_falls_for_it_without_the_rule(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(roster_word, "difference", lambda confirmed, roster, me: Difference())
    assert "reveal" in trail(told_at("dealers"), VICTIM, 1)


def test_an_input_whose_header_is_out_is_given_under_the_roster_of_its_attempt() -> None:
    said = trail(told_at("input"), VICTIM, 1)
    assert {"input", "vote", "reveal"} <= set(said)


@pytest.mark.parametrize("kind", ["offer", "advert", "shares", "ack", "dealers", "input"])
def test_a_policy_that_asks_since_the_restart_holds_for_the_roster_of_the_open_attempt(kind: str) -> None:
    """The newest roster may have been confirmed, and the attempt that the journal holds be under the one before."""
    plan = plan_bytes(rounds=1)
    cluster, mind = minded(plan=plan)

    def again() -> None:
        mind.strange = UNCONFIRMED
        cluster.start_member(VICTIM)

    died = die_after(cluster, VICTIM, kind, 1, again)
    assert finish(cluster, plan) == "finished"
    assert died
    said, goes_on = trail(cluster, VICTIM, 1), kind == "input"  # its header was out before
    assert ("vote" in said, "sat_out" in said, "input" in said) == (goes_on, not goes_on, goes_on)


def test_a_participant_that_starts_under_an_unconfirmed_roster_makes_no_advert() -> None:
    plan = plan_bytes(rounds=1)
    cluster, _ = minded(plan=plan, mind=Wary(listed={}))
    assert finish(cluster, plan) == "finished"
    assert answers(cluster) == [UNCONFIRMED]
    assert not sent(cluster, AdvertMessage)
    confirmed, _ = minded(plan=plan, mind=Wary())
    assert finish(confirmed, plan) == "finished"
    assert sent(confirmed, AdvertMessage)


def test_the_desk_asks_only_where_the_policy_says_so(tmp_path: Path) -> None:
    with house(tmp_path, ASKED) as home:
        assert home.desk.roster_word.asked
        assert not ConsentDesk(ME, None, home.store, home.bindings, home.clock).roster_word.asked
