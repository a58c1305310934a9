"""What a participant checks before it deals, acknowledges, opens and masks, asked of the pure machine."""

import functools
from collections.abc import Callable
from dataclasses import replace

import pytest
from federation import FIVE, body_of, signed
from fedveil_common.errors import FedveilError
from fedveil_common.ids import OrgId
from fedveil_common.masking import quorum
from fedveil_common.masking import shares as sealing
from fedveil_common.messages import (
    AckMessage,
    BlobType,
    KeySet,
    OpeningRequest,
    Openings,
    ShareAck,
    ShareDelivery,
    ShareMsg,
    ShareOpening,
    ShareSet,
    SignedBlob,
)
from fedveil_common.secret import Share
from fedveil_participant import checks, round
from fedveil_participant.round import State, Step
from fedveil_participant.stages import (
    Acked,
    Advertised,
    Encoding,
    Held,
    PeerKeys,
    Shared,
)
from rogue import Rogue
from test_checks_of_participants import (
    ELSE,
    FOUR,
    advert_of,
    at,
    kinds,
    nothing,
    of_four,
    refused,
    sent,
    stage_of,
    state_of,
    stopped,
    told,
)

VICTIM, PEER, OTHER = FIVE[2], FIVE[3], FIVE[4]

# --- the key set ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("key", "code"),
    [
        (lambda r: bytes(32), "bad_public_key"),
        (lambda r: (2**255 - 19 + 9).to_bytes(32, "little"), "bad_public_key"),
        (lambda r: advert_of(r, OTHER).channel_key, "key_reused"),
        (lambda r: advert_of(r, OTHER).mask_key, "key_reused"),
    ],
    ids=["low order", "not canonical", "channel key of another", "mask key of another"],
)
def test_a_channel_key_that_is_not_fresh(
    key: Callable[[Rogue], bytes], code: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stopped by `checks.fresh_keys`, which looks at both keys of an advert."""
    rogue = at("advert")
    forged = rogue.keyset(replaced={PEER: rogue.again(rogue.advert(PEER), channel_key=key(rogue))})
    state, honest = state_of(rogue), rogue.keyset()
    assert kinds(told(state, honest)) == ["shares"]
    refused(state, forged, code)
    monkeypatch.setattr(checks, "fresh_keys", nothing)
    if key(rogue) == bytes(32):  # the second, independent line: the exchange itself
        refused(state, forged, "low_order_key")
    else:
        assert kinds(told(state, forged)) == ["shares"]


def test_a_key_set_of_three_of_the_four_that_the_quorum_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Stopped by `checks.enough`; a key set of exactly four passes."""
    rogue = at("advert")
    assert rogue.body.quorum == 4
    four = tuple(org for org in FIVE if org != OTHER)
    three = rogue.keyset((FIVE[0], VICTIM, PEER))
    monkeypatch.setattr(
        sealing.shamir, "deal", lambda secret, threshold, xs, coefficients: dict.fromkeys(xs, Share(bytes(33)))
    )
    stopped(state_of(rogue), rogue.keyset(four), three, "below_quorum", "enough", "shares", monkeypatch)


def test_an_advert_of_a_member_of_the_roster_who_is_not_in_the_cohort(monkeypatch: pytest.MonkeyPatch) -> None:
    """Stopped by `checks.advert_signature`. It is signed under the key that the roster has for its sender."""
    rogue = of_four()
    theirs = replace(advert_of(rogue, PEER), org_id=OTHER)
    blob = signed(rogue.charter, OTHER, BlobType.ADVERT, theirs)
    forged = KeySet(rogue.t0, (*rogue.keyset(FIVE[:3]).adverts, blob))
    state = state_of(rogue)
    assert kinds(told(state, rogue.keyset())) == ["shares"]
    refused(state, forged, "not_a_member")
    monkeypatch.setattr(checks, "advert_signature", nothing)
    assert kinds(told(state, forged)) == ["shares"]


@pytest.mark.parametrize("stage", ["shares", "ack"])
def test_a_second_key_set_is_called_what_it_is(stage: str) -> None:
    rogue = at(stage)
    state = state_of(rogue)
    four = tuple(org for org in FIVE if org != OTHER)
    refused(state, rogue.keyset(four), "equivocation")
    assert told(state, rogue.keyset()) == (state, ()), "the same again is late"
    assert told(state, replace(rogue.keyset(four), t0=ELSE)) == (state, ()), "of another attempt: late"


# --- shares -----------------------------------------------------------------------------------------------------------


def sealed(rogue: Rogue, recipient: OrgId = VICTIM, dealer: OrgId = PEER, **changes: object) -> SignedBlob:
    """A share of PEER that VICTIM can open, whatever names and T1 stand in it; signed by PEER."""
    keys, shared = stage_of(rogue, PEER, "advert"), stage_of(rogue, PEER, "shares")
    assert isinstance(keys, Advertised)
    assert isinstance(shared, Shared)
    dealt = next(one for one in shared.dealt if one.recipient == VICTIM)
    t1 = changes.get("t1", rogue.t1)
    assert isinstance(t1, bytes)
    body = sealing.seal_share(
        t1,
        dealer,
        recipient,
        FIVE.index(VICTIM) + 1,
        keys.channel_key,
        advert_of(rogue, VICTIM).channel_key,
        dealt.key_share,
        dealt.self_share,
        keys.kappa,
        bytes(12),
    )
    return signed(rogue.charter, PEER, BlobType.SHARE, body)


def complaints_of(step: Step) -> tuple[OrgId, ...]:
    (message,) = sent(step[1])
    assert isinstance(message, AckMessage)
    body = body_of(message.ack)
    assert isinstance(body, ShareAck)
    return body.bad_dealers


def kept_of(step: Step) -> set[OrgId]:
    assert isinstance(step[0].stage, Acked)
    return {one.dealer for one in step[0].stage.held}


@pytest.mark.parametrize(
    "changes", [{"recipient": OTHER}, {"dealer": OTHER}, {"t1": ELSE}], ids=["recipient", "dealer", "T1"]
)
def test_a_share_that_opens_and_says_another_name(changes: dict[str, object], monkeypatch: pytest.MonkeyPatch) -> None:
    """Stopped by `checks.received_share`: what it commits to would bind nobody when the victim reveals it. (In the name
    of another it opens only if PEER's advert was made for it: the commitment to kappa holds a name, too.)
    """
    rogue = at("shares")
    state = state_of(rogue)
    honest = told(state, rogue.delivery(VICTIM, {PEER: sealed(rogue)}))
    assert (complaints_of(honest), kept_of(honest)) == ((), {*FIVE} - {VICTIM})
    if changes.get("dealer") == OTHER:
        assert isinstance(state.stage, Shared)
        keys = stage_of(rogue, PEER, "advert")
        assert isinstance(keys, Advertised)
        commit = sealing.kappa_commit(rogue.t0, OTHER, keys.kappa)
        peers = tuple(replace(one, kappa_commit=commit) if one.org_id == PEER else one for one in state.stage.peers)
        state = replace(state, stage=replace(state.stage, peers=peers))
    forged = rogue.delivery(VICTIM, {PEER: sealed(rogue, **changes)})  # type: ignore[arg-type]
    step = told(state, forged)
    assert (complaints_of(step), kept_of(step)) == ((PEER,), {*FIVE} - {VICTIM, PEER})

    def trusting(blob: SignedBlob, t1: bytes, t0: bytes, me: OrgId, x: int, *rest: object) -> Held:
        body, (key, dealer, _) = body_of(blob), rest
        assert isinstance(body, ShareMsg)
        assert isinstance(dealer, PeerKeys)
        opened = sealing.open_share(body, x, key, dealer.channel_key, dealer.kappa_commit, t0)  # type: ignore[arg-type]
        return Held(dealer.org_id, opened.key_share, opened.self_share, (opened.kappa,))

    monkeypatch.setattr(checks, "received_share", trusting)
    step = told(state, forged)
    assert (complaints_of(step), kept_of(step)) == ((), {*FIVE} - {VICTIM})


def test_a_share_signed_by_another_than_its_dealer() -> None:
    """The machine looks the dealer up by the signer; the check does not rely on it."""
    rogue = at("shares")
    stage = state_of(rogue).stage
    assert isinstance(stage, Shared)
    roster = state_of(rogue).roster
    peer = next(one for one in stage.peers if one.org_id == PEER)
    x = FIVE.index(VICTIM) + 1
    good = rogue.shares(PEER)[VICTIM]
    known = (stage.t1, rogue.t0, VICTIM, x, stage.channel_key, peer, roster)
    assert checks.received_share(good, *known).dealer == PEER
    theirs = signed(rogue.charter, OTHER, BlobType.SHARE, body_of(good))
    with pytest.raises(FedveilError) as caught:
        checks.received_share(theirs, *known)
    assert caught.value.code == "wrong_signer"


def test_a_delivery_of_another_key_set_or_of_a_stranger() -> None:
    rogue, four = at("shares"), of_four()
    state = state_of(rogue)
    delivery = rogue.delivery(VICTIM)
    refused(state, replace(delivery, t1=ELSE), "wrong_transcript")
    refused(state_of(at("advert")), delivery, "wrong_transcript")
    shared = told(state_of(four), four.keyset())[0]
    assert isinstance(shared.stage, Shared)
    blob = signed(
        four.charter, OTHER, BlobType.SHARE, replace(body_of(rogue.shares(OTHER)[VICTIM]), t1=shared.stage.t1)
    )  # type: ignore[call-arg]
    refused(shared, ShareDelivery(shared.stage.t1, (blob,)), "not_a_member")
    assert told(state_of(at("ack")), delivery)[1] == (), "late"


# --- complaints and openings ------------------------------------------------------------------------------------------


@functools.cache
def complained() -> Rogue:
    """Two members could not use the victim's shares and say so; the victim could not use PEER's."""
    rogue = Rogue().reach("shares")
    for org in FIVE[:2]:
        rogue.say(org, rogue.delivery(org, {VICTIM: replace(rogue.shares(VICTIM)[org], sig=bytes(64))}))
    rogue.say(VICTIM, rogue.delivery(VICTIM, {PEER: replace(rogue.shares(PEER)[VICTIM], sig=bytes(64))}))
    for org in FIVE[3:]:
        rogue.say(org, rogue.delivery(org))
    return rogue


def asked(rogue: Rogue, *acks: SignedBlob) -> OpeningRequest:
    return OpeningRequest(rogue.t1, acks)


def ack_by(rogue: Rogue, signer: OrgId, **changes: object) -> SignedBlob:
    body = ShareAck(rogue.t1, signer, (VICTIM,))
    return signed(rogue.charter, signer, BlobType.SHARE_ACK, replace(body, **changes))  # type: ignore[arg-type]


@functools.cache
def without_other() -> Rogue:
    """Everyone has acknowledged a key set without OTHER, who is in the cohort."""
    rogue = Rogue().reach("advert")
    rogue.names = FOUR
    rogue.everyone(lambda org: rogue.keyset())
    rogue.everyone(rogue.delivery)
    return rogue


def believed(blob: SignedBlob, *arguments: object) -> OrgId:
    return blob.signer_id


@pytest.mark.parametrize(
    "changes",
    [{"bad_dealers": (OTHER,)}, {"bad_dealers": ()}, {"t1": ELSE}, {"org_id": OTHER}],
    ids=["about another", "about nobody", "another T1", "in another's name"],
)
def test_a_complaint_that_is_not_about_me(changes: dict[str, object], monkeypatch: pytest.MonkeyPatch) -> None:
    """Stopped by `checks.complaint`. Without it shares are opened in public that nobody complained about."""
    rogue = complained()
    forged = asked(rogue, ack_by(rogue, FIVE[0], **changes))
    honest = asked(rogue, rogue.ack(FIVE[0]))
    state, code = state_of(rogue), "wrong_transcript"
    after = stopped(state, honest, forged, code, "complaint", "openings", monkeypatch, believed)
    assert isinstance(after.stage, Acked)
    assert [round.opening_recipient(blob) for blob in after.stage.openings] == [FIVE[0]]


def test_a_complaint_of_one_outside_the_key_set(monkeypatch: pytest.MonkeyPatch) -> None:
    """Stopped by `checks.complaint`: OTHER is in the cohort and the roster, and not in this key set."""
    rogue = without_other()
    state = state_of(rogue)
    forged = asked(rogue, ack_by(rogue, OTHER))
    refused(state, forged, "not_a_member")
    assert kinds(told(state, asked(rogue, ack_by(rogue, FIVE[0])))) == ["openings"]


def test_more_complaints_than_may_be_opened(monkeypatch: pytest.MonkeyPatch) -> None:
    """N = 5, c = 1: one opening in all. Stopped by `checks.openings_bounded`, also if they come one after the other."""
    rogue = complained()
    state = state_of(rogue)
    one, two = asked(rogue, rogue.ack(FIVE[0])), asked(rogue, rogue.ack(FIVE[0]), rogue.ack(FIVE[1]))
    other = asked(rogue, rogue.ack(FIVE[1]))
    assert quorum.opening_bound(5, 1) == 1
    answered, actions = told(state, one)
    refused(answered, other, "too_many_complaints")
    assert kinds(told(state, other)) == ["openings"]
    again, repeated = told(answered, one)
    assert (again, sent(repeated)) == (answered, sent(actions)), "the same bytes again"
    after = stopped(state, one, two, "too_many_complaints", "openings_bounded", "openings", monkeypatch)
    assert isinstance(after.stage, Acked)
    assert [round.opening_recipient(blob) for blob in after.stage.openings] == list(FIVE[:2])


@pytest.mark.parametrize(("n", "c"), [(7, 2), (20, 4)])
def test_exactly_as_many_openings_as_the_bound(n: int, c: int) -> None:
    bound = quorum.opening_bound(n, c)
    assert bound > 1
    manifest = replace(at("idle").body, cohort=tuple(OrgId(f"m{index:02}") for index in range(n)), corrupt=c)
    checks.openings_bounded(manifest.cohort[:bound], manifest)
    with pytest.raises(FedveilError) as caught:
        checks.openings_bounded(manifest.cohort[: bound + 1], manifest)
    assert caught.value.code == "too_many_complaints"


def test_before_its_own_ack_a_member_opens_nothing() -> None:
    rogue, there = complained(), at("shares")
    state = state_of(there)
    assert isinstance(state.stage, Shared)
    assert told(state, replace(asked(rogue, rogue.ack(FIVE[0])), t1=state.stage.t1)) == (state, ())


@functools.cache
def opening() -> SignedBlob:
    """PEER's answer to the victim's complaint."""
    rogue = complained()
    (message,) = sent(told(state_of(rogue, PEER), asked(rogue, rogue.ack(VICTIM)))[1])
    assert isinstance(message, Openings)
    (blob,) = message.openings
    return blob


BAD_OPENINGS: dict[str, tuple[Callable[[Rogue], tuple[SignedBlob, ...]], str]] = {
    "none": (lambda r: (), "share_missing"),
    "of one whose share is usable": (
        lambda r: (signed(r.charter, OTHER, BlobType.SHARE_OPENING, replace(body_of(opening()), dealer=OTHER)),),  # type: ignore[call-arg]
        "share_missing",
    ),
    "unsigned": (lambda r: (replace(opening(), sig=bytes(64)),), "bad_signature"),
    "for another": (lambda r: (r.again(opening(), recipient=OTHER),), "wrong_transcript"),
    "of another dealer": (lambda r: (r.again(opening(), dealer=OTHER),), "wrong_transcript"),
    "under another T1": (lambda r: (r.again(opening(), t1=ELSE),), "wrong_transcript"),
    "of another key share": (lambda r: (r.again(opening(), key_share=bytes(33)),), "bad_opening"),
    "of another self share": (lambda r: (r.again(opening(), self_share=bytes(33)),), "bad_opening"),
}


@pytest.mark.parametrize(("openings", "code"), BAD_OPENINGS.values(), ids=BAD_OPENINGS)
def test_an_answer_to_my_complaint_that_is_none(
    openings: Callable[[Rogue], tuple[SignedBlob, ...]], code: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stopped by `checks.opening_answers`; without any answer by `checks.dealers`: a share is missing."""
    rogue = complained()
    state = state_of(rogue)
    honest = told(state, rogue.share_set(openings=(opening(),)))
    assert kinds(honest) == ["dealers"]
    assert isinstance(honest[0].stage, Encoding)
    body = body_of(opening())
    assert isinstance(body, ShareOpening)
    assert Held(PEER, Share(body.key_share), Share(body.self_share)) in honest[0].stage.held
    forged = rogue.share_set(openings=openings(rogue))
    refused(state, forged, code)
    without = tuple(org for org in FIVE if org != PEER)
    assert kinds(told(state, rogue.share_set(without))) == ["dealers"], "without that dealer it goes on"
    if code != "share_missing":
        false = Held(PEER, Share(bytes(33)), Share(bytes(33)))
        monkeypatch.setattr(checks, "opening_answers", lambda *arguments: false)
        fallen = told(state, forged)[0].stage
        assert isinstance(fallen, Encoding)
        assert false in fallen.held


def test_an_opening_signed_by_another_than_the_dealer() -> None:
    """The machine looks the message up by the signer; the check does not rely on it."""
    rogue = complained()
    known = (rogue.shares(PEER)[VICTIM], rogue.t1, VICTIM, state_of(rogue).roster)
    assert checks.opening_answers(opening(), *known).dealer == PEER
    with pytest.raises(FedveilError) as caught:
        checks.opening_answers(replace(opening(), signer_id=OTHER), *known)
    assert caught.value.code in {"bad_signature", "wrong_transcript"}


def test_a_dealer_from_outside_the_key_set(monkeypatch: pytest.MonkeyPatch) -> None:
    """Stopped by `checks.dealers`: four advertised, five are named."""
    rogue = without_other()
    state = state_of(rogue)
    refused(state, ShareSet(rogue.t1, FIVE, ()), "wrong_dealers")
    refused(state, ShareSet(rogue.t1, tuple(org for org in FIVE if org != VICTIM), ()), "wrong_dealers")
    assert kinds(told(state, ShareSet(rogue.t1, FOUR, ()))) == ["dealers"]


def test_exactly_a_quorum_of_dealers() -> None:
    rogue = at("ack")
    state = state_of(rogue)
    assert kinds(told(state, rogue.share_set(FOUR))) == ["dealers"]
    refused(state, rogue.share_set(FIVE[:3]), "below_quorum")


def encoding(rogue: Rogue) -> State:
    """The victim while its masked input is being written."""
    after = told(state_of(rogue), rogue.share_set())[0]
    assert isinstance(after.stage, Encoding)
    return after


def test_a_second_dealer_set_is_called_what_it_is() -> None:
    rogue = at("ack")
    state = encoding(rogue)
    refused(state, rogue.share_set(FOUR), "equivocation")
    assert told(state, rogue.share_set()) == (state, ()), "the same again is late"
    assert told(state, replace(rogue.share_set(FOUR), t1=ELSE)) == (state, ()), "of another attempt: late"
