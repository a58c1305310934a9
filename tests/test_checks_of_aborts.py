"""What a participant checks before an attempt ends for it, and what that frees, asked of the pure machine."""

from collections.abc import Callable
from dataclasses import fields, replace

import pytest
from federation import FIVE, RUN, signed
from fedveil_common.errors import FedveilError
from fedveil_common.ids import COORDINATOR, AttemptKey, OrgId
from fedveil_common.masking import quorum
from fedveil_common.messages import (
    AbortCertificate,
    AbortMessage,
    AbortNotice,
    AbortOrder,
    AbortRequest,
    AbortVote,
    BlobType,
    Offer,
    SignedBlob,
    Vote,
)
from fedveil_participant import checks
from fedveil_participant.events import (
    DiscardInput,
    Persist,
)
from fedveil_participant.stages import (
    AbortVoted,
    Idle,
    Preparing,
    Revealed,
)
from rogue import Rogue
from test_checks_of_participants import (
    ELSE,
    at,
    frame_of,
    kinds,
    nothing,
    of_four,
    refused,
    sent,
    state_of,
    stopped,
    told,
)

VICTIM, PEER, OTHER = FIVE[2], FIVE[3], FIVE[4]

# --- abort certificates -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("attempt", "carried", "complete"),
    [
        (1, (), True),
        (1, (1,), False),
        (2, (), False),
        (2, (1,), True),
        (2, (1, 2), False),
        (3, (1,), False),
        (3, (1, 1), False),
        (3, (1, 2), True),
    ],
)
def test_one_abort_certificate_for_each_earlier_attempt(
    attempt: int, carried: tuple[int, ...], complete: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stopped by `checks.abort_certificates_complete`: as many as there were attempts, over as many T0s."""
    rogue = at("idle")
    key = AttemptKey(RUN, 1, attempt)
    offer = Offer(rogue.manifest(key=key, abort_certificates=rogue.earlier(*carried)))
    if not complete:
        refused(state_of(rogue), offer, "abort_certificate_missing")
        monkeypatch.setattr(checks, "abort_certificates_complete", nothing)
    assert kinds(told(state_of(rogue), offer)) == ["offer"]


def abort_votes(
    rogue: Rogue, orgs: tuple[OrgId, ...], t0: bytes | None = None, attempt: int = 1
) -> tuple[SignedBlob, ...]:
    """What these would sign; the default is an abort vote over the offered attempt."""
    body = AbortVote(rogue.t0 if t0 is None else t0, attempt)
    return tuple(signed(rogue.charter, org, BlobType.ABORT, body) for org in orgs)


def two_and(rogue: Rogue, *more: SignedBlob) -> AbortNotice:
    """A certificate one vote short of the threshold of three, and one vote more."""
    return AbortNotice(AbortCertificate(rogue.t0, (*abort_votes(rogue, FIVE[:2]), *more)))


FALSE_ABORTS: dict[str, tuple[Callable[[Rogue], AbortNotice], str]] = {
    "one short": (two_and, "abort_certificate_too_small"),
    "one twice": (lambda r: two_and(r, *abort_votes(r, FIVE[:1])), "duplicate_signer"),
    "one over another T0": (lambda r: two_and(r, *abort_votes(r, FIVE[3:4], t0=ELSE)), "wrong_transcript"),
    "one over another attempt": (lambda r: two_and(r, *abort_votes(r, FIVE[3:4], attempt=2)), "wrong_transcript"),
    "one outside the cohort": (lambda r: two_and(r, *abort_votes(r, (OTHER,))), "not_a_member"),
    "one unsigned": (
        lambda r: two_and(r, replace(abort_votes(r, FIVE[3:4])[0], sig=bytes(64))),
        "bad_signature",
    ),
    "one a vote to open": (lambda r: two_and(r, signed(r.charter, FIVE[3], BlobType.VOTE, Vote(r.t0))), "wrong_type"),
}


@pytest.mark.parametrize(("forge", "code"), FALSE_ABORTS.values(), ids=FALSE_ABORTS)
def test_a_false_abort_certificate(
    forge: Callable[[Rogue], AbortNotice], code: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stopped by `checks.abort_certificate` (N = 4, c = 1: three abort votes). Without it the attempt is left."""
    rogue = of_four()
    honest = two_and(rogue, *abort_votes(rogue, FIVE[3:4]))
    state = state_of(rogue)
    after = stopped(state, honest, forge(rogue), code, "abort_certificate", "aborted", monkeypatch)
    assert isinstance(after.stage, Idle)


def test_a_false_abort_certificate_would_free_a_spent_update(monkeypatch: pytest.MonkeyPatch) -> None:
    """After the input a second sum over the same update needs the certificate: two votes of the three are none."""
    rogue = at("input")
    state = state_of(rogue)
    assert set(frame_of(state).spends) <= state.spent
    short = AbortNotice(AbortCertificate(rogue.t0, abort_votes(rogue, FIVE[:2])))
    full = AbortNotice(AbortCertificate(rogue.t0, abort_votes(rogue, FIVE[:3])))
    assert quorum.abort_threshold(5, 1) == 3
    assert not told(state, full)[0].spent
    after = stopped(state, full, short, "abort_certificate_too_small", "abort_certificate", "aborted", monkeypatch)
    assert not after.spent


def test_an_abort_certificate_over_another_t0() -> None:
    """As a notice it is not about me; where it is about to be believed `checks.abort_certificate` refuses it."""
    rogue = at("advert")
    state = state_of(rogue)
    other = AbortCertificate(ELSE, abort_votes(rogue, FIVE[:3], t0=ELSE))
    assert told(state, AbortNotice(other)) == (state, ())
    for certificate in (other, replace(other, votes=abort_votes(rogue, FIVE[:3]))):
        with pytest.raises(FedveilError) as caught:
            checks.abort_certificate(certificate, frame_of(state), state.roster)
        assert caught.value.code == "wrong_transcript"
    assert told(state_of(at("idle")), AbortNotice(other))[1] == ()


def next_attempt(rogue: Rogue, certificate: AbortCertificate) -> Offer:
    return Offer(rogue.manifest(key=AttemptKey(RUN, 1, 2), abort_certificates=(certificate,), nonce=b"\2" * 32))


def test_an_attempt_is_left_for_a_newer_one_and_frees_only_under_a_certificate(monkeypatch: pytest.MonkeyPatch) -> None:
    """`round._leave`. Stopped by `checks.abort_certificate` (a false one) and by the spent table (one over another T0,
    which proves nothing about mine).
    """
    rogue = at("input")
    state = state_of(rogue)
    spends = frame_of(state).spends
    good = AbortCertificate(rogue.t0, abort_votes(rogue, FIVE[:3]))
    after, actions = told(state, next_attempt(rogue, good))
    (persist, *rest) = actions
    assert isinstance(persist, Persist)
    assert persist.changes.free == spends
    assert not after.spent
    assert DiscardInput(frame_of(state).key) in rest
    assert isinstance(after.stage, Preparing)
    assert after.stage.frame.key.attempt == 2
    refused(state, next_attempt(rogue, rogue.earlier(1)[0]), "model_spent")
    short = AbortCertificate(rogue.t0, abort_votes(rogue, FIVE[:2]))
    refused(state, next_attempt(rogue, short), "abort_certificate_too_small")
    monkeypatch.setattr(checks, "abort_certificate", nothing)
    assert not told(state, next_attempt(rogue, short))[0].spent


def test_before_its_input_an_attempt_is_left_without_proof_and_its_keys_are_gone() -> None:
    rogue = at("shares")
    after, actions = told(state_of(rogue), next_attempt(rogue, rogue.earlier(1)[0]))
    persist = actions[0]
    assert isinstance(persist, Persist)
    assert persist.changes.free == ()
    assert isinstance(after.stage, Preparing)
    assert [field.name for field in fields(after.stage)] == ["frame"]
    assert DiscardInput(frame_of(state_of(rogue)).key) in actions


def test_who_revealed_frees_nothing_for_an_abort_certificate() -> None:
    """A certificate to open exists: an abort certificate beside it is the work of more than c corrupt members."""
    rogue = at("reveal")
    state = state_of(rogue)
    assert isinstance(state.stage, Revealed)
    good = AbortCertificate(rogue.t0, abort_votes(rogue, FIVE[:4]))
    assert told(state, AbortNotice(good)) == (state, ())
    refused(state, next_attempt(rogue, good), "model_spent")
    voted = state_of(at("vote"))
    assert not told(voted, AbortNotice(good))[0].spent, "who only voted believes it"


# --- the coordinator's wish to end ------------------------------------------------------------------------------------


def request(rogue: Rogue, signer: OrgId = COORDINATOR, **changes: object) -> AbortOrder:
    body = AbortRequest(rogue.t0, 1, "test")
    return AbortOrder(signed(rogue.charter, signer, BlobType.ABORT_REQUEST, replace(body, **changes)))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("forge", "code"),
    [
        (lambda r: request(r, t0=ELSE), "wrong_transcript"),
        (lambda r: request(r, attempt=2), "wrong_transcript"),
        (lambda r: request(r, FIVE[0]), "wrong_signer"),
        (lambda r: AbortOrder(replace(request(r).request, sig=bytes(64))), "bad_signature"),
        (lambda r: AbortOrder(r.offered), "wrong_type"),
    ],
    ids=["another T0", "another attempt", "of a member", "unsigned", "another type"],
)
def test_a_wish_to_end_that_is_not_the_coordinators_about_this_attempt(
    forge: Callable[[Rogue], AbortOrder], code: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stopped by `checks.abort_request`. Without it the attempt of anybody is ended by anybody."""
    rogue = at("ack")

    def obeyed(blob: SignedBlob, *arguments: object) -> AbortRequest:
        return AbortRequest(rogue.t0, 1, "test")

    state = state_of(rogue)
    after = stopped(state, request(rogue), forge(rogue), code, "abort_request", "abort_vote", monkeypatch, obeyed)
    assert isinstance(after.stage, AbortVoted)


@pytest.mark.parametrize("stage", ["advert", "shares", "ack", "input"])
def test_before_a_vote_the_wish_to_end_is_agreed_to_once(stage: str) -> None:
    rogue = at(stage)
    state = state_of(rogue)
    after, actions = told(state, request(rogue))
    assert isinstance(after.stage, AbortVoted)
    assert after.stage.spent == (stage == "input")
    assert after.spent == state.spent
    assert sent(actions) == [AbortMessage(abort_votes(rogue, (VICTIM,))[0])]
    assert isinstance(actions[0], Persist)
    assert told(after, request(rogue)) == (after, ())


@pytest.mark.parametrize("stage", ["idle", "vote", "reveal"])
def test_without_an_attempt_and_after_a_vote_the_wish_to_end_is_ignored(stage: str) -> None:
    rogue = at(stage)
    state = state_of(rogue)
    assert told(state, request(rogue)) == (state, ())
