"""Deadlines, restarts and work that comes back, asked of the pure machine of a participant."""

from collections.abc import Mapping
from dataclasses import fields, replace
from pathlib import Path
from types import MappingProxyType

import pytest
from federation import FIVE, RUN, body_of, die_after, journal, table
from fedveil_common import plan as plans
from fedveil_common import transcript
from fedveil_common.errors import PolicyRefusal
from fedveil_common.ids import COORDINATOR, AttemptKey, RunId
from fedveil_common.messages import (
    AbortMessage,
    AbortVote,
    AckMessage,
    AdvertMessage,
    Header,
    Offer,
    Openings,
    Phase,
    PlanOffer,
    Progress,
    Purpose,
    Refusal,
    RevealMessage,
    RunEnded,
    Shares,
    VoteMessage,
)
from fedveil_common.secret import Seed
from fedveil_participant import round
from fedveil_participant.bench import TableBench
from fedveil_participant.data.in_memory import in_memory
from fedveil_participant.events import (
    Connected,
    DiscardInput,
    EndStored,
    InputReady,
    Note,
    Persist,
    PrepareUpdate,
    ProtectUpdate,
    Resumed,
    Send,
    Tick,
    UpdateFailed,
    UpdateReady,
    UploadInput,
)
from fedveil_participant.round import State
from fedveil_participant.stages import (
    AbortVoted,
    Encoding,
    Idle,
    OpenStage,
    Revealed,
)
from rogue import Rogue
from test_checks_of_aborts import request
from test_checks_of_participants import ELSE, at, frame_of, kinds, refused, sent, state_of, told
from test_checks_of_shares import asked, complained, encoding

VICTIM, PEER, OTHER = FIVE[2], FIVE[3], FIVE[4]

# --- time and restarts ------------------------------------------------------------------------------------------------

STAGES: Mapping[str, Phase] = MappingProxyType(
    {
        "preparing": Phase.TRAINING,
        "advert": Phase.ADVERTISED,
        "shares": Phase.SHARED,
        "ack": Phase.SHARED,
        "encoding": Phase.INPUT,
        "input": Phase.INPUT,
        "vote": Phase.VOTED,
        "abort vote": Phase.VOTED,
        "reveal": Phase.REVEALED,
    }
)
BEFORE_A_VOTE = ("preparing", "advert", "shares", "ack", "encoding", "input")


def standing(stage: str, began: float = 100.0) -> State:
    """The victim at this stage of an attempt whose offer came at `began`, or which it revealed in then."""
    if stage == "preparing":
        state = told(state_of(at("idle")), Offer(at("idle").offered))[0]
    elif stage == "encoding":
        state = encoding(at("ack"))
    elif stage == "abort vote":
        state = told(state_of(at("ack")), request(at("ack")))[0]
    else:
        state = state_of(at(stage))
    open_stage = state.stage
    assert not isinstance(open_stage, Idle)
    moved: OpenStage = replace(open_stage, frame=replace(open_stage.frame, received_at=began))
    if isinstance(moved, Revealed):
        moved = replace(moved, revealed_at=began)
    return replace(state, stage=moved, progress_at=began)


@pytest.mark.parametrize("stage", STAGES)
def test_progress_is_reported_every_third_of_progress_s(stage: str) -> None:
    state = standing(stage)
    assert round.deadline(state) == 100.0
    assert round.step(state, Tick(99.9)) == (state, ())
    after, actions = round.step(state, Tick(100.0))
    assert sent(actions) == [Progress(frame_of(state).key, STAGES[stage])]
    assert len(actions) == 1
    assert frame_of(state).manifest.progress_s == 3.0
    assert after == replace(state, progress_at=101.0)
    assert round.deadline(after) == 101.0
    assert round.step(after, Tick(100.9)) == (after, ())


@pytest.mark.parametrize("stage", STAGES)
def test_the_hard_limit_ends_what_has_not_voted_and_nothing_else(stage: str) -> None:
    state = replace(standing(stage), progress_at=1e9)
    limit = 100.0 + frame_of(state).manifest.hard_limit_s
    assert limit == 220.0
    assert round.step(state, Tick(limit - 0.1)) == (state, ())
    after, actions = round.step(state, Tick(limit))
    if stage not in BEFORE_A_VOTE:
        assert (after, actions) == (state, ())
        return
    assert round.deadline(state) == limit
    assert isinstance(after.stage, AbortVoted)
    assert after.stage.spent == (stage == "input")
    persist, *rest = actions
    assert isinstance(persist, Persist)
    assert (persist.kind, dict(persist.trail)["reason"]) == ("abort_vote", "hard_limit")
    assert rest == [Send(AbortMessage(after.stage.vote)), DiscardInput(frame_of(state).key)]
    assert body_of(after.stage.vote) == AbortVote(frame_of(state).t0, 1)
    names = {field.name for field in fields(after.stage)}
    assert names == {"frame", "vote", "spent"}, "all keys are gone"


def test_a_reveal_is_kept_for_seven_days() -> None:
    state = replace(standing("reveal"), progress_at=1e9)
    last = 100.0 + 7 * 86_400
    assert round.deadline(state) == last
    assert round.step(state, Tick(last - 1)) == (state, ())
    after, actions = round.step(state, Tick(last))
    assert isinstance(after.stage, Idle)
    assert after.spent == state.spent, "what was summed stays spent"
    assert kinds((after, actions)) == ["expired"]
    assert [action.code for action in actions if isinstance(action, Note)] == ["expired"]
    assert not sent(actions)
    assert round.step(after, Tick(last + 1)) == (after, ())
    assert round.deadline(after) is None


@pytest.mark.parametrize("stage", STAGES)
def test_a_restart_begins_the_clocks_anew_and_takes_unfinished_work_up(stage: str) -> None:
    """The new process counts from its own clock: nothing is overdue, and nothing expires, because of the old one's."""
    state = standing(stage, began=5_000_000.0)
    after, actions = round.step(state, Resumed(7.0))
    assert after.progress_at == 7.0
    assert not isinstance(after.stage, Idle)
    if isinstance(after.stage, Revealed):
        assert after.stage.revealed_at == 7.0
        assert after.stage.frame == frame_of(state)
    else:
        assert after.stage.frame == replace(frame_of(state), received_at=7.0)
    work = {"preparing": [PrepareUpdate], "encoding": [ProtectUpdate]}.get(stage, [])
    assert [type(action) for action in actions] == work
    expected = standing(stage, began=7.0)
    if stage == "reveal":
        expected = replace(expected, stage=replace(after.stage))
    assert after == expected


@pytest.mark.parametrize("stage", STAGES)
def test_a_restart_goes_on_with_nothing_that_would_not_be_begun_now(stage: str) -> None:
    """Until a header is out. From then on what is given is given, and what it opens is said at the vote."""
    state = standing(stage)
    strict = replace(state, limits=replace(state.limits, smallest_cohort=99))
    for now, event, code in (
        (state, Resumed(7.0, "approval_gone"), "approval_gone"),
        (strict, Resumed(7.0), "policy_refused"),
    ):
        after, actions = round.step(now, event)
        if stage not in {"preparing", "advert", "shares", "ack", "encoding"}:
            assert (type(after.stage), sent(actions)) == (type(state.stage), [])
            continue
        assert isinstance(after.stage, Idle)
        assert kinds((after, actions)) == ["sat_out"]
        assert sent(actions) == [Refusal(frame_of(state).key, code)]
        assert DiscardInput(frame_of(state).key) in actions
        assert (after.spent, after.ledgers) == (state.spent, state.ledgers)


def test_a_restart_masks_with_the_same_keys_again() -> None:
    state = encoding(at("ack"))
    (first,) = [
        action for action in told(state_of(at("ack")), at("ack").share_set())[1] if isinstance(action, ProtectUpdate)
    ]
    assert round.step(state, Resumed(7.0))[1] == (first,)


def test_a_restart_without_an_attempt() -> None:
    state = state_of(at("idle"))
    assert round.step(state, Resumed(7.0)) == (state, ())
    assert round.deadline(state) is None
    assert round.outstanding(state) == ()
    assert round.attempt_of(state) is None
    assert round.step(state, EndStored(RUN)) == (state, ())
    assert round.refusal(state, PolicyRefusal("test", "test")) is None


SAID_AGAIN: dict[str, type | None] = {
    "preparing": None,
    "advert": AdvertMessage,
    "shares": Shares,
    "ack": AckMessage,
    "encoding": None,
    "input": None,
    "vote": VoteMessage,
    "abort vote": AbortMessage,
    "reveal": RevealMessage,
}


@pytest.mark.parametrize("stage", SAID_AGAIN)
def test_at_every_connection_the_same_is_said_again(stage: str) -> None:
    state = standing(stage)
    after, actions = round.step(state, Connected(150.0))
    assert after == replace(state, progress_at=150.0)
    kind = SAID_AGAIN[stage]
    assert [type(message) for message in sent(actions)] == ([] if kind is None else [kind])
    work = {"preparing": [PrepareUpdate], "input": [UploadInput]}.get(stage, [])
    assert [type(action) for action in actions if not isinstance(action, Send)] == work
    offer = Offer(frame_of(state).manifest_blob)
    assert told(state, offer) == (state, actions), "the same manifest again asks the same"
    assert round.attempt_of(state) == frame_of(state).key
    assert round.refusal(state, PolicyRefusal("test", "test")) == Send(Refusal(frame_of(state).key, "test"))


def test_openings_are_said_again_with_the_ack() -> None:
    rogue = complained()
    answered, actions = told(state_of(rogue), asked(rogue, rogue.ack(FIVE[0])))
    assert [type(message) for message in sent(round.outstanding(answered))] == [AckMessage, Openings]
    assert sent(round.outstanding(answered))[1:] == sent(actions)


# --- work that comes back, and ends -----------------------------------------------------------------------------------


def test_work_for_another_attempt_or_stage_changes_nothing() -> None:
    key, other = AttemptKey(RUN, 1, 1), AttemptKey(RUN, 1, 2)
    ready = UpdateReady(key, at("idle").body.model_hash, 1.0, Seed(bytes(32)))
    preparing, encodes = standing("preparing"), standing("encoding")
    assert isinstance(encodes.stage, Encoding)
    masked = InputReady(key, encodes.stage.t2, (ELSE,), bytes(8), 1.0)
    assert kinds(round.step(preparing, ready)) == ["advert"]
    assert kinds(round.step(encodes, masked)) == ["input"]
    for state, event in [
        (preparing, replace(ready, key=other)),
        (standing("advert"), ready),
        (preparing, UpdateFailed(other, "x", 1.0)),
        (standing("shares"), UpdateFailed(key, "x", 1.0)),
        (encodes, replace(masked, t2=ELSE)),
        (standing("input"), masked),
    ]:
        assert round.step(state, event) == (state, ())


def test_an_input_that_is_written_after_its_attempt_was_over_is_deleted() -> None:
    """The attempt deleted its files when it ended; the thread that masked had not finished then."""
    encodes = standing("encoding")
    assert isinstance(encodes.stage, Encoding)
    key = encodes.stage.frame.key
    masked = InputReady(key, encodes.stage.t2, (ELSE,), bytes(8), 1.0)
    ended, _ = round.step(encodes, EndStored(RUN))
    voted, _ = round.step(encodes, Tick(encodes.stage.frame.manifest.hard_limit_s + 1e6))
    assert (type(ended.stage), type(voted.stage)) == (Idle, AbortVoted)
    for state in (ended, voted):
        assert round.step(state, masked) == (state, (DiscardInput(key),))
    late = replace(masked, key=AttemptKey(RUN, 1, 9))
    assert round.step(encodes, late) == (encodes, (DiscardInput(late.key),)), "and nothing of the open one"


@pytest.mark.parametrize("stage", ["idle", "advert", "reveal"])
def test_what_is_the_drivers_moves_no_attempt(stage: str) -> None:
    state = state_of(at(stage))
    assert told(state, PlanOffer(RUN, at(stage).canonical)) == (state, ())


@pytest.mark.parametrize("stage", ["preparing", "encoding"])
def test_an_update_that_failed_ends_this_members_attempt(stage: str) -> None:
    state = standing(stage)
    after, actions = round.step(state, UpdateFailed(AttemptKey(RUN, 1, 1), "update_not_finite", 1.0))
    assert isinstance(after.stage, Idle)
    assert kinds((after, actions)) == ["update_failed"]
    assert sent(actions) == [Refusal(AttemptKey(RUN, 1, 1), "update_not_finite")]
    assert [action.code for action in actions if isinstance(action, Note)] == ["update_not_finite"]


def test_an_input_spends_both_keys_before_its_header_leaves() -> None:
    state = standing("encoding")
    assert isinstance(state.stage, Encoding)
    after, actions = round.step(state, InputReady(AttemptKey(RUN, 1, 1), state.stage.t2, (ELSE,), bytes(8), 1.0))
    persist, upload = actions
    assert isinstance(persist, Persist)
    assert isinstance(upload, UploadInput)
    assert persist.changes.spend == frame_of(state).spends
    assert set(frame_of(state).spends) <= after.spent
    assert not set(frame_of(state).spends) & state.spent
    header = body_of(upload.header)
    assert isinstance(header, Header)
    assert header.leaf_root == transcript.leaf_root([ELSE])


@pytest.mark.parametrize("stage", STAGES)
def test_the_end_of_the_run(stage: str) -> None:
    """It ends an open attempt of that run, except one that waits for its Result; what was sent stays spent."""
    state = standing(stage)
    ended = RunEnded(RUN, ELSE, "operator", (), ())
    assert told(state, replace(ended, run_id=RunId("run-2"))) == (state, ())
    after, actions = told(state, ended)
    if stage == "reveal":
        assert (after, actions) == (state, ())
    else:
        assert isinstance(after.stage, Idle)
        assert kinds((after, actions)) == ["run_ended"]
        assert after.spent == state.spent
    assert round.step(state, EndStored(RunId("run-2"))) == (state, ())
    stored, actions = round.step(state, EndStored(RUN))
    assert isinstance(stored.stage, Idle)
    assert kinds((stored, actions)) == ["run_ended"]
    assert told(state_of(at("idle")), ended)[1] == ()


def test_a_newer_roster_waits_for_the_end_of_the_attempt() -> None:
    idle, state = state_of(at("idle")), standing("input")
    newer = replace(idle.roster, version=idle.roster.version + 1)
    pinned = round.pin(idle, newer)
    assert (pinned.roster, pinned.newer) == (newer, None)
    waiting = round.pin(state, newer)
    assert (waiting.roster, waiting.newer) == (state.roster, newer)
    closed = round.step(waiting, EndStored(RUN))[0]
    assert (closed.roster, closed.newer) == (newer, None)


def test_an_offer_under_the_newer_roster_leaves_the_attempt_under_the_old_one() -> None:
    rogue = at("shares")
    newer = replace(state_of(rogue).roster, version=state_of(rogue).roster.version + 1)
    waiting = round.pin(state_of(rogue), newer)
    key, before = AttemptKey(RUN, 1, 2), rogue.earlier(1)
    offer = Offer(
        rogue.manifest(key=key, abort_certificates=before, roster_version=newer.version, roster_hash=newer.hash)
    )
    refused(state_of(rogue), offer, "wrong_roster")
    after = told(waiting, offer)[0]
    assert (after.roster, after.newer) == (newer, None)


@pytest.mark.parametrize("stage", ["shares", "input", "vote", "reveal"])
def test_no_attempt_begins_under_the_roster_before_the_newest(stage: str) -> None:
    """Also while another one is open under it: what this organisation holds back, it holds back for the newest."""
    rogue = at(stage)
    state = state_of(rogue)
    offer = Offer(rogue.manifest(key=AttemptKey(RUN, 1, 2), abort_certificates=rogue.earlier(1)))
    if stage == "shares":
        assert told(state, offer)[0].stage != state.stage
    else:
        refused(state, offer, "model_spent")  # a later check than that of the roster
    newer = replace(state.roster, version=state.roster.version + 1)
    refused(round.pin(state, newer), offer, "wrong_roster")
    again = Offer(rogue.offered)
    assert told(round.pin(state, newer), again)[1] == told(state, again)[1], "the open one goes on"


@pytest.mark.parametrize("stage", ["shares", "reveal"])
def test_a_coordinator_that_was_replaced_begins_no_attempt(stage: str) -> None:
    """Its key stands in the roster of the open attempt alone; the roster that its offer names is the newest."""
    rogue = at(stage)
    state = state_of(rogue)
    members = tuple(
        replace(one, protocol_key=bytes([7]) * 32) if one.org_id == COORDINATOR else one for one in state.roster.members
    )
    newer = replace(state.roster, version=state.roster.version + 1, members=members)
    binds = {"roster_version": newer.version, "roster_hash": newer.hash}
    offer = Offer(rogue.manifest(key=AttemptKey(RUN, 1, 2), abort_certificates=rogue.earlier(1), **binds))
    refused(round.pin(state, newer), offer, "bad_signature")
    again = Offer(rogue.offered)
    assert told(round.pin(state, newer), again)[1] == told(state, again)[1], "the open one goes on"


def test_the_data_changed_since_the_plan_was_accepted() -> None:
    """Stopped by `TableBench.contribution`. The member refuses, makes no key and no update."""
    rogue = Rogue()
    died = die_after(rogue.cluster, VICTIM, "offer", 1)
    rogue.say(VICTIM, Offer(rogue.offered))
    assert died == [1]
    member = rogue.cluster.members[VICTIM]
    member.data = table(FIVE.index(VICTIM) + 1)
    rogue.cluster.start_member(VICTIM)
    rogue.cluster.settle()
    assert [one.code for one in rogue.said(VICTIM, Refusal) if isinstance(one, Refusal)] == ["data_changed"]
    assert not rogue.said(VICTIM, AdvertMessage)
    assert not journal(rogue.cluster, VICTIM).updates
    plan = plans.parse_canonical(rogue.canonical)
    files, key = {"table": Path("table.csv")}, Seed(bytes(32))
    before = TableBench(files, key, lambda path: [in_memory("t", table(2)["table"])])
    version = before.accept(plan)
    assert len(before.contribution(plan, version, Purpose.STANDARDISE, None, lambda: Seed(bytes(32)))) > 0
    with pytest.raises(PolicyRefusal) as caught:
        TableBench(files, key, lambda path: [in_memory("t", table(3)["table"])]).contribution(
            plan, version, Purpose.STANDARDISE, None, lambda: Seed(bytes(32))
        )
    assert caught.value.code == "data_changed"
