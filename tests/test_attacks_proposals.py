"""Attacks on the set of inputs that is opened, by their numbers in FLSA/1 section 5: 17, 18, 22, 23."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from federation import FIVE, body_of, journal, signed
from fedveil_common import transcript
from fedveil_common.crypto import shamir
from fedveil_common.ids import OrgId
from fedveil_common.masking import masks
from fedveil_common.masking.ring import Ring, zeros
from fedveil_common.messages import (
    BlobType,
    Certificate,
    Reveal,
    RevealMessage,
    ShareSet,
    Vote,
    VoteMessage,
)
from fedveil_common.secret import PrivateKey, Seed
from fedveil_participant import checks
from fedveil_participant.stages import Inputting
from numpy.typing import NDArray
from rogue import Rogue
from test_attacks_round import Message, attack, nothing, stage_of, tampered, unchecked_advert

from tests import whole_vectors

VICTIM, PEER, OTHER = FIVE[2], FIVE[3], FIVE[4]

# --- 18: both secrets of one peer -------------------------------------------------------------------------------------


def forget_the_vote(rogue: Rogue, org: OrgId) -> None:
    """What the one vote per attempt prevents: the member goes back to the stage before it, as from an old disk."""
    driver = rogue.cluster.members[org].driver
    assert driver is not None
    driver.state = replace(driver.state, stage=stage_of(rogue, org, "input"))


def seeds_of(rogue: Rogue, helpers: tuple[OrgId, ...], kind: str) -> dict[int, bytes]:
    """The shares of the peer's secret of one kind that these revealed, by x."""
    found = {}
    for org in helpers:
        for message in rogue.said(org, RevealMessage):
            assert isinstance(message, RevealMessage)
            body = body_of(message.reveal)
            assert isinstance(body, Reveal)
            shares = dict(body.self_shares if kind == "self" else body.key_shares)
            if PEER in shares:
                found[FIVE.index(org) + 1] = shares[PEER]
    return found


def test_attack_18_two_proposals(monkeypatch: pytest.MonkeyPatch) -> None:
    """The coordinator proposes the peer as survivor, then as dropped, to have both of its secrets. Stopped by the stage
    `Voted`: a second vote is refused and stays in the journal as a refusal. Replaced here by members that forget
    their vote: then both secrets are interpolated and the peer's update is read from its masked input.
    """
    helpers = tuple(org for org in FIVE if org != PEER)
    rogue = Rogue().reach("reveal")
    second = rogue.proposal(helpers)
    voted = Rogue().reach("vote")
    voted.say(VICTIM, voted.proposal(helpers)).refused("second_vote")
    assert journal(voted.cluster, VICTIM).notes[-1][1][0] == ("code", "second_vote")
    assert rogue.say(VICTIM, second).said == (), "after the reveal it is late: nothing at all"
    assert len(seeds_of(rogue, helpers, "self")) == len(helpers)
    assert seeds_of(rogue, helpers, "key") == {}
    for org in helpers:
        forget_the_vote(rogue, org)
        rogue.say(org, second).accepted("vote")
    for org in helpers:
        rogue.say(org, rogue.certificate(helpers, rogue.t3(helpers))).accepted("reveal")
    threshold = rogue.body.threshold
    seed = Seed(shamir.reconstruct(seeds_of(rogue, helpers, "self"), threshold))
    key = PrivateKey(shamir.reconstruct(seeds_of(rogue, helpers, "key"), threshold))
    public = {org: unchecked_advert(rogue.advert(org), None).mask_key for org in FIVE}
    stolen = rogue.masked(PEER)
    for one in masks.mask_keys(rogue.t2, PEER, key, seed, public):
        whole_vectors.apply(stolen, [replace(one, subtract=not one.subtract)])
    np.testing.assert_array_equal(rogue.read(stolen), rogue.truth(PEER))


def one_vote_short(rogue: Rogue) -> Certificate:
    return rogue.certificate(FIVE[: rogue.body.quorum - 1])


def a_vote_twice(rogue: Rogue) -> Certificate:
    good = one_vote_short(rogue)
    return replace(good, votes=tuple(sorted((*good.votes, good.votes[0]), key=lambda vote: vote.signer_id)))


def by_a_stranger(rogue: Rogue) -> Certificate:
    good = one_vote_short(rogue)
    return replace(good, votes=(*good.votes, replace(good.votes[0], signer_id=OrgId("zeta"))))


def over_another_set(rogue: Rogue) -> Certificate:
    return replace(rogue.certificate(), t3=b"\x09" * 32)


def a_vote_for_another_set(rogue: Rogue) -> Certificate:
    good = one_vote_short(rogue)
    return replace(good, votes=(*good.votes, signed(rogue.charter, OTHER, BlobType.VOTE, Vote(b"\x09" * 32))))


def a_vote_unsigned(rogue: Rogue) -> Certificate:
    good = one_vote_short(rogue)
    return replace(good, votes=(*good.votes, replace(rogue.vote(OTHER), sig=bytes(64))))


@pytest.mark.parametrize(
    ("forge", "code"),
    [
        (one_vote_short, "certificate_too_small"),
        (a_vote_twice, "duplicate_signer"),
        (by_a_stranger, "not_a_member"),
        (over_another_set, "wrong_transcript"),
        (a_vote_for_another_set, "wrong_transcript"),
        (a_vote_unsigned, "bad_signature"),
    ],
)
def test_attack_18_forged_certificate(
    forge: Callable[[Rogue], Certificate], code: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stopped by `checks.vote_certificate`; with it replaced, the secret shares are out."""
    _, outcome = attack("vote", forge, code, "vote_certificate", monkeypatch, "reveal", lambda r: r.certificate())
    assert any(isinstance(one, RevealMessage) for one in outcome.said)


# --- 22, 23: the proposal ---------------------------------------------------------------------------------------------


def opened_sum(rogue: Rogue, survivors: tuple[OrgId, ...], masked: Ring) -> NDArray[np.int64]:
    """What the coordinator opens from the survivors' masked inputs (added up: `masked`) and everyone's reveals."""
    public = {org: unchecked_advert(rogue.advert(org), None).mask_key for org in FIVE}
    reveals = {}
    for org in FIVE:
        body = body_of(rogue.reveal(org))
        assert isinstance(body, Reveal)
        reveals[org] = body
    residual: list[masks.MaskKey] = []
    for org in set(FIVE) - set(survivors):
        found = {FIVE.index(one) + 1: dict(body.key_shares)[org] for one, body in reveals.items() if one != org}
        key = PrivateKey(shamir.reconstruct(found, rogue.body.threshold))
        residual.extend(masks.residual_keys(rogue.t2, org, key, {one: public[one] for one in survivors}, public[org]))
    total = masked.copy()
    own = [masks.self_key(rogue.t2, Seed(reveals[org].self_seed), org) for org in survivors]
    whole_vectors.unmask(total, own, residual)
    return rogue.read(total)


def added(rogue: Rogue, orgs: tuple[OrgId, ...]) -> Ring:
    """The masked inputs of these, added up."""
    total = zeros(rogue.body.length, rogue.body.ring_bits)
    for org in orgs:
        total += rogue.masked(org)  # type: ignore[arg-type]
    return total


def test_attack_22_everyone_dropped_but_a_few(monkeypatch: pytest.MonkeyPatch) -> None:
    """Stopped by `checks.enough_survivors`: two inputs of five, of which one colludes, are under the quorum of four.

    Without it the members vote for a sum of the victim and one colluder: that sum less the colluder's is its update.
    """
    pair = (VICTIM, OTHER)
    control = Rogue().reach("reveal")
    truth = sum((control.truth(org) for org in FIVE), np.zeros(control.body.length, dtype=np.int64))
    np.testing.assert_array_equal(opened_sum(control, FIVE, added(control, FIVE)), truth)
    rogue, outcome = attack(
        "input",
        lambda r: r.proposal(pair),
        "too_few_survivors",
        "enough_survivors",
        monkeypatch,
        "vote",
        lambda r: r.proposal(),
    )
    assert any(isinstance(one, VoteMessage) for one in outcome.said)
    rogue.everyone(lambda org: rogue.proposal(pair), but=(VICTIM,))
    rogue.everyone(lambda org: rogue.certificate(t3=rogue.t3(pair)))
    read = opened_sum(rogue, pair, added(rogue, pair)) - rogue.truth(OTHER)
    np.testing.assert_array_equal(read, rogue.truth(VICTIM))


def header_changed(org: OrgId) -> Message:
    return lambda r: r.proposal(replaced={org: tampered(r.header(org), leaf_root=b"\x04" * 32)})


def test_attack_23_header_of_another_altered(monkeypatch: pytest.MonkeyPatch) -> None:
    """Stopped by `checks.header_of`: a vote would cover an input that its owner never sent.

    Without it the coordinator adds what it likes to the input of a member, and the members open that as the sum. (PEER
    sees that its own header was altered and does not vote: four votes do.)
    """
    rogue, _ = attack(
        "input", header_changed(PEER), "bad_signature", "header_of", monkeypatch, "vote", lambda r: r.proposal()
    )
    bits, changed = rogue.body.ring_bits, rogue.masked(PEER)
    changed[0] += changed.dtype.type(12_345)
    root = transcript.leaf_root(whole_vectors.leaf_hashes(rogue.t2, PEER, changed, bits))
    forged = rogue.proposal(replaced={PEER: tampered(rogue.header(PEER), leaf_root=root)})
    t3 = transcript.t3(rogue.t2, {blob.signer_id: blob.body for blob in forged.headers})
    rogue = Rogue().reach("input")
    voters = tuple(org for org in FIVE if org != PEER)
    rogue.everyone(lambda org: forged)
    rogue.everyone(lambda org: rogue.certificate(voters, t3), but=(PEER,))
    seeds: dict[int, bytes] = {}
    truth = np.zeros(rogue.body.length, dtype=np.int64)
    own = []
    for org in FIVE:
        truth += rogue.truth(org)
        if org != PEER:
            body = body_of(rogue.reveal(org))
            assert isinstance(body, Reveal)
            assert body.t3 == t3
            own.append(masks.self_key(rogue.t2, Seed(body.self_seed), org))
            seeds[FIVE.index(org) + 1] = dict(body.self_shares)[PEER]
    own.append(masks.self_key(rogue.t2, Seed(shamir.reconstruct(seeds, rogue.body.threshold)), PEER))
    total = added(rogue, FIVE)
    total[0] += total.dtype.type(12_345)
    whole_vectors.unmask(total, own, ())
    truth[0] += 12_345
    np.testing.assert_array_equal(rogue.read(total), truth)


def test_attack_23_header_under_another_shape(monkeypatch: pytest.MonkeyPatch) -> None:
    """A corrupt member signs a header of another length. Stopped by `checks.header_of`."""
    attack(
        "input",
        lambda r: r.proposal(replaced={PEER: r.again(r.header(PEER), length=1)}),
        "wrong_shape",
        "header_of",
        monkeypatch,
        "vote",
        lambda r: r.proposal(),
    )


def test_attack_23_own_header_altered(monkeypatch: pytest.MonkeyPatch) -> None:
    """Stopped twice: `checks.header_of` (the signature) and, without it, `checks.own_header`."""
    rogue = Rogue().reach("input")
    rogue.say(VICTIM, header_changed(VICTIM)(rogue)).refused("bad_signature")
    monkeypatch.setattr(checks, "header_of", nothing)
    rogue.say(VICTIM, header_changed(VICTIM)(rogue)).refused("own_header_altered")
    monkeypatch.setattr(checks, "own_header", nothing)
    rogue.say(VICTIM, header_changed(VICTIM)(rogue)).accepted("vote")


def test_attack_23_header_missing_makes_a_witness() -> None:
    """A member left out of U3 may vote as a witness: it then reveals its peers' shares and no seed of its own (A9)."""
    rest = tuple(org for org in FIVE if org != VICTIM)
    rogue = Rogue().reach("input")
    assert isinstance(stage_of(rogue, VICTIM, "input"), Inputting)
    for org in FIVE:
        rogue.say(org, rogue.proposal(rest)).accepted("vote")
    rogue.say(VICTIM, rogue.certificate(rest, rogue.t3(rest))).accepted("reveal")
    body = body_of(rogue.reveal(VICTIM))
    assert isinstance(body, Reveal)
    assert body.self_seed == b""
    assert {org for org, _ in body.self_shares} == set(rest)
    assert body.key_shares == ()


def test_attack_17_dealers_below_the_quorum(monkeypatch: pytest.MonkeyPatch) -> None:
    """Stopped by `checks.dealers`; without it the victim masks towards two peers only."""
    attack(
        "ack",
        lambda r: ShareSet(r.t1, FIVE[:3], ()),
        "below_quorum",
        "dealers",
        monkeypatch,
        "dealers",
        lambda r: r.share_set(),
    )


def test_attack_17_dealers_without_me() -> None:
    """Stopped by `checks.dealers`. (Without it the machine has no own key in the set and cannot mask at all.)"""
    rogue = Rogue().reach("ack")
    rogue.say(VICTIM, rogue.share_set(tuple(org for org in FIVE if org != VICTIM))).refused("wrong_dealers")
