"""What a participant checks before it votes, reveals and believes a result, asked of the pure machine."""

from collections.abc import Callable
from dataclasses import replace

import pytest
from federation import FIVE, RUN, body_of, signed
from fedveil_common import transcript
from fedveil_common.ids import COORDINATOR, AttemptKey, OrgId
from fedveil_common.messages import (
    BlobType,
    Certificate,
    Proposal,
    Result,
    ResultNotice,
    Vote,
)
from fedveil_participant import checks
from fedveil_participant.checks import Limits
from fedveil_participant.stages import (
    Encoding,
    Inputting,
    Voted,
)
from rogue import Rogue
from test_checks_of_aborts import request
from test_checks_of_participants import ELSE, FOUR, at, kinds, refused, state_of, stopped, told
from test_checks_of_shares import encoding

VICTIM, PEER, OTHER = FIVE[2], FIVE[3], FIVE[4]

# --- proposal, certificate, result ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"length": 1}, "wrong_shape"),
        ({"ring_bits": 33}, "wrong_shape"),
        ({"leaf_count": 2}, "wrong_shape"),
        ({"t2": ELSE}, "wrong_transcript"),
        ({"org_id": OTHER}, "wrong_transcript"),
    ],
    ids=["length", "ring", "leaves", "T2", "name"],
)
def test_a_header_that_differs_in_one_field(
    changes: dict[str, object], code: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stopped by `checks.header_of`. A corrupt member signs it itself."""
    rogue = at("input")
    forged = rogue.proposal(replaced={PEER: rogue.again(rogue.header(PEER), **changes)})
    after = stopped(state_of(rogue), rogue.proposal(), forged, code, "header_of", "vote", monkeypatch)
    assert isinstance(after.stage, Voted)
    assert after.stage.t3 != rogue.t3()


def test_a_header_of_one_who_did_not_deal(monkeypatch: pytest.MonkeyPatch) -> None:
    """Stopped by `checks.header_of`: OTHER is in the cohort and not among the dealers."""
    rogue = Rogue().reach("ack")
    rogue.everyone(lambda org: rogue.share_set(FOUR))
    stage = state_of(rogue).stage
    assert isinstance(stage, Inputting)
    theirs = replace(body_of(rogue.header(PEER)), org_id=OTHER)  # type: ignore[call-arg]
    stranger = signed(rogue.charter, OTHER, BlobType.HEADER, theirs)
    honest = Proposal(stage.t2, tuple(rogue.header(org) for org in FOUR))
    forged = Proposal(stage.t2, (*honest.headers, stranger))
    stopped(state_of(rogue), honest, forged, "not_a_member", "header_of", "vote", monkeypatch)


def test_a_header_of_mine_that_i_never_sent() -> None:
    """Stopped by `checks.own_header`: whoever has no header of its own and is counted nevertheless."""
    rogue = at("input")
    headers = {org: rogue.header(org) for org in FIVE}
    checks.own_header(headers, VICTIM, rogue.header(VICTIM))
    checks.own_header({org: blob for org, blob in headers.items() if org != VICTIM}, VICTIM, None)
    state = encoding(at("ack"))
    assert isinstance(state.stage, Encoding)
    assert state.stage.t2 == rogue.t2
    refused(state, rogue.proposal(), "own_header_altered")
    rest = tuple(org for org in FIVE if org != VICTIM)
    witness = told(state, rogue.proposal(rest))
    assert kinds(witness) == ["vote"]
    assert isinstance(witness[0].stage, Voted)
    assert witness[0].stage.self_seed == ()
    refused(state, replace(rogue.proposal(rest), t2=ELSE), "wrong_transcript")
    refused(state_of(rogue), replace(rogue.proposal(), t2=ELSE), "wrong_transcript")


@pytest.mark.parametrize("by", ["quorum", "manifest", "organisation"])
def test_too_few_survivors_by_each_of_the_three_figures(by: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stopped by `checks.enough_survivors`: four are the quorum; five if manifest or organisation ask for five."""
    if by == "manifest":
        rogue = Rogue()
        rogue.offered = rogue.manifest(min_survivors=5)
        rogue.reach("input")
    else:
        rogue = at("input")
    state = state_of(rogue)
    if by == "organisation":
        state = replace(state, limits=Limits(min_survivors=5))
    few = 3 if by == "quorum" else 4
    honest, forged = rogue.proposal(FIVE[: few + 1]), rogue.proposal(FIVE[:few])
    stopped(state, honest, forged, "too_few_survivors", "enough_survivors", "vote", monkeypatch)


def test_a_certificate_with_the_vote_of_one_who_did_not_deal(monkeypatch: pytest.MonkeyPatch) -> None:
    """Stopped by `checks.vote_certificate`: OTHER is in the cohort and not among the dealers."""
    rogue = Rogue().reach("ack")
    rogue.everyone(lambda org: rogue.share_set(FOUR))
    stage = state_of(rogue).stage
    assert isinstance(stage, Inputting)
    proposal = Proposal(stage.t2, tuple(rogue.header(org) for org in FOUR))
    t3 = transcript.t3(stage.t2, {blob.signer_id: blob.body for blob in proposal.headers})
    state = told(state_of(rogue), proposal)[0]
    votes = {org: signed(rogue.charter, org, BlobType.VOTE, Vote(t3)) for org in FIVE}
    honest = Certificate(t3, tuple(votes[org] for org in FOUR))
    forged = Certificate(t3, tuple(votes[org] for org in (*FIVE[:3], OTHER)))
    stopped(state, honest, forged, "not_a_member", "vote_certificate", "reveal", monkeypatch)


def test_a_certificate_that_cannot_be_for_me_reveals_nothing() -> None:
    """After an abort vote, before a proposal, over another set: each is refused under its own code."""
    rogue, voted = at("input"), at("vote")
    certificate = voted.certificate()
    aborted = told(state_of(rogue), request(rogue))[0]
    refused(aborted, certificate, "abort_voted")
    refused(state_of(rogue), certificate, "no_proposal")
    refused(encoding(at("ack")), certificate, "no_proposal")
    assert kinds(told(state_of(voted), certificate)) == ["reveal"]
    revealed = state_of(at("reveal"))
    refused(revealed, replace(certificate, t3=ELSE), "wrong_transcript")
    assert told(revealed, certificate) == (revealed, ()), "the same again is late"
    assert told(state_of(at("advert")), certificate)[1] == ()


def test_after_a_vote_another_proposal_is_refused_and_the_same_is_late() -> None:
    rogue = at("vote")
    state = state_of(rogue)
    refused(state, rogue.proposal(FOUR), "second_vote")
    assert told(state, rogue.proposal()) == (state, ())
    assert told(state, replace(rogue.proposal(FOUR), t2=ELSE)) == (state, ())


def result(rogue: Rogue, signer: OrgId = COORDINATOR, **changes: object) -> ResultNotice:
    body = Result(rogue.t3(), 5, rogue.body.length, ELSE, b"", 0.0)
    blob = signed(rogue.charter, signer, BlobType.RESULT, replace(body, **changes))  # type: ignore[arg-type]
    return ResultNotice(rogue.body.key, blob)


@pytest.mark.parametrize(
    ("forge", "code"),
    [
        (lambda r: result(r, t3=ELSE), "wrong_transcript"),
        (lambda r: result(r, survivors=4), "wrong_transcript"),
        (lambda r: result(r, length=r.body.length + 1), "wrong_transcript"),
        (lambda r: result(r, FIVE[0]), "wrong_signer"),
        (lambda r: replace(result(r), result=r.offered), "wrong_type"),
    ],
    ids=["T3", "survivors", "length", "of a member", "another type"],
)
def test_a_result_that_is_not_about_what_i_revealed_for(
    forge: Callable[[Rogue], ResultNotice], code: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stopped by `checks.result_of`. Without it that Result is pinned as the only one of this round."""
    rogue = at("reveal")
    forged = forge(rogue)
    after = stopped(state_of(rogue), result(rogue), forged, code, "result_of", "done", monkeypatch)
    (pinned,) = after.opened - state_of(rogue).opened
    assert pinned.result == transcript.result_hash(forged.result.body)
    assert pinned.t3 == rogue.t3()


def test_a_result_of_another_round_is_not_mine() -> None:
    rogue = at("reveal")
    state = state_of(rogue)
    other = replace(result(rogue, t3=ELSE), key=AttemptKey(RUN, 2, 1))
    assert told(state, other) == (state, ())
    assert told(state_of(at("vote")), result(rogue))[1] == ()
