"""What a holder opens at all (P4), and under which key: certificates, quorums, a second set, noise, pins, mixed rounds.

As `test_attacks_paillier_openings`: refused by the production driver with its code, and a twin without the check.
"""

import hashlib
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from encrypted_federation import encrypted_plan
from encrypted_rogue import EncryptedRogue
from federation import FIVE, THREE, journal, resigned, signed
from fedveil_common import wire
from fedveil_common.errors import PeerError
from fedveil_common.ids import COORDINATOR, OrgId
from fedveil_common.messages import (
    Advert,
    BlobType,
    Certificate,
    KeyAdvert,
    Offer,
    PlanAnswer,
    QuorumCall,
    Refusal,
    Result,
    ResultNotice,
    SignedBlob,
    Vote,
)
from fedveil_participant import answering, checks, encrypted_checks
from fedveil_participant.stages import Decrypting, Idle
from rogue import HARMLESS

VICTIM, OTHER, INSIDER = THREE
ELSE = b"\x07" * 32


# --- certificates -----------------------------------------------------------------------------------------------------


def test_a_certificate_with_too_few_votes_is_refused() -> None:
    """`vote_certificate`: q votes of distinct members over the very T3 that this holder voted for."""
    rogue = EncryptedRogue().reach("vote")
    honest, t3 = rogue.certificate(), rogue.t3()
    insider = rogue.vote(INSIDER)
    other_set = signed(rogue.charter, INSIDER, BlobType.VOTE, Vote(ELSE))
    stranger = signed(rogue.charter, COORDINATOR, BlobType.VOTE, Vote(t3))
    lies = [
        (Certificate(t3, honest.votes[:2]), "certificate_too_small"),
        (Certificate(t3, (*honest.votes[:2], honest.votes[1])), "duplicate_signer"),
        (Certificate(t3, (*honest.votes[:2], other_set)), "wrong_transcript"),
        (Certificate(ELSE, (other_set,) * 3), "wrong_transcript"),
        (Certificate(t3, (*honest.votes[:2], stranger)), "not_a_member"),
        (Certificate(t3, (*honest.votes[:2], replace(insider, signer_id=OTHER))), None),
    ]
    for lie, code in lies:
        outcome = rogue.say(VICTIM, lie)
        outcome.refused(code or outcome.codes[0])
    rogue.say(VICTIM, honest).accepted("certificate")


def test_a_set_that_nobody_voted_for_would_be_opened(monkeypatch: pytest.MonkeyPatch) -> None:
    """The twin: one vote is enough, and what is opened need not be what the others agreed to."""
    monkeypatch.setattr(checks, "vote_certificate", lambda *parts: None)
    rogue = EncryptedRogue().reach("vote")
    rogue.say(VICTIM, Certificate(rogue.t3(), (rogue.vote(INSIDER),))).accepted("certificate")
    assert rogue.call(VICTIM) == ""


def test_a_quorum_before_a_certificate_is_refused() -> None:
    rogue = EncryptedRogue().reach("vote")
    rogue.say(VICTIM, QuorumCall(rogue.t3(), (0, 1), ())).refused("no_certificate")


@pytest.mark.parametrize("stage", ["advert", "input"])
def test_certificates_and_calls_in_a_stage_before_the_vote_decrypt_nothing(stage: str) -> None:
    rogue = EncryptedRogue().reach(stage)
    t3 = ELSE
    vote = signed(rogue.charter, INSIDER, BlobType.VOTE, Vote(t3))
    for message in (Certificate(t3, (vote,) * 3), QuorumCall(t3, (0, 1), ())):
        outcome = rogue.say(VICTIM, message)
        assert outcome.stage_kept
        assert (outcome.uploads, outcome.trail) == (0, ())
        assert all(isinstance(one, HARMLESS) for one in outcome.said)


def test_after_an_abort_vote_nothing_is_decrypted() -> None:
    """P4: the stage after an abort vote knows no set at all; the insider and the other holder went on without it."""
    rogue = EncryptedRogue().reach("input")
    rogue.say(VICTIM, rogue.abort_order()).accepted("abort_vote")
    rogue.put(rogue.forge.make())
    rogue.whisper(OTHER, rogue.proposal())
    rogue.cluster.settle()
    t3 = rogue.t3()
    votes = (signed(rogue.charter, VICTIM, BlobType.VOTE, Vote(t3)), rogue.vote(OTHER), rogue.vote(INSIDER))
    rogue.say(VICTIM, Certificate(t3, votes)).refused("abort_voted")
    outcome = rogue.say(VICTIM, QuorumCall(t3, (0, 1), ()))
    assert (outcome.said, outcome.uploads, outcome.stage_kept) == ((), 0, True)


# --- a second set -----------------------------------------------------------------------------------------------------


def restart(rogue: EncryptedRogue, org: OrgId) -> None:
    rogue.cluster.kill_member(org)
    rogue.cluster.start_member(org)
    rogue.cluster.settle()


def test_a_second_set_in_an_attempt_is_refused_also_after_a_restart() -> None:
    """One T3 for an attempt, durable before the vote leaves and before anything is decrypted."""
    rogue = EncryptedRogue().reach("vote")
    first, certificate = rogue.t3(), rogue.certificate()
    rogue.put(rogue.forge.make())
    second = rogue.proposal()
    assert rogue.t3() != first
    rogue.say(VICTIM, second).refused("second_vote")
    restart(rogue, VICTIM)
    rogue.say(VICTIM, second).refused("second_vote")
    rogue.say(VICTIM, certificate).accepted("certificate")
    rogue.say(VICTIM, QuorumCall(rogue.t3(), (0, 1), ())).refused("wrong_transcript")
    restart(rogue, VICTIM)
    rogue.say(VICTIM, QuorumCall(rogue.t3(), (0, 1), ())).refused("wrong_transcript")
    other = tuple(signed(rogue.charter, org, BlobType.VOTE, Vote(rogue.t3())) for org in THREE)
    rogue.say(VICTIM, Certificate(rogue.t3(), other)).refused("wrong_transcript")


def test_a_second_set_would_tell_one_update_by_the_difference() -> None:
    """The twin: journals that were put back to before the vote (A3 is why a restored journal takes part in nothing)."""
    rogue = EncryptedRogue(FIVE, FIVE[:3], 2).reach("input")
    before = {org: journal(rogue.cluster, org).stage for org in rogue.honest}
    sets = [FIVE, tuple(org for org in FIVE if org != "delta")]
    sums = []
    rogue.put(rogue.forge.make())
    for members in sets:
        for org in rogue.honest:
            if rogue.cluster.members[org].memory.stage != before[org]:
                journal(rogue.cluster, org).stage = before[org]
                restart(rogue, org)
        rogue.survivors = members
        rogue.reach_vote()
        rogue.everyone(lambda org: rogue.certificate(), [rogue.insider])
        assert [rogue.call(org) for org in FIVE[:2]] == ["", ""]
        sums.append(rogue.opened(rogue.product(members), len(members)))
    assert np.array_equal(sums[0] - sums[1], rogue.values[FIVE[3]])


# --- quorums ----------------------------------------------------------------------------------------------------------


def test_a_quorum_that_is_none_is_refused() -> None:
    """G8: exactly t holders, ascending, this one among them."""
    rogue = EncryptedRogue(THREE, THREE, 2).reach("certificate")
    for quorum in ((1, 2), (0, 1, 2), (0, 3), (0, 11)):
        rogue.say(VICTIM, QuorumCall(rogue.t3(), quorum, ())).refused("wrong_quorum")
    for quorum in ((0,), (), (1, 0), (0, 0), (0, 12)):
        with pytest.raises(PeerError, match="malformed"):
            wire.parse_coordinator(wire.encode_coordinator(QuorumCall(rogue.t3(), quorum, ())))
    assert rogue.call(VICTIM, (0, 2)) == ""


def test_who_holds_nothing_answers_nothing() -> None:
    rogue = EncryptedRogue(FIVE, FIVE[:3], 2).reach("certificate")
    rogue.say(FIVE[3], QuorumCall(rogue.t3(), (0, 1), ())).refused("wrong_quorum")


QUORUMS = ((0, 1, 2), (0, 1, 3), (0, 1, 4), (0, 2, 3), (0, 2, 4), (0, 3, 4))


@pytest.mark.parametrize("at_once", [False, True], ids=["one by one", "before any is answered"])
def test_more_quorums_than_holders_are_refused(at_once: bool) -> None:
    """G8, `Decrypting.quorums`: all that were ever called count, also those that another call overtook."""
    rogue = EncryptedRogue(FIVE, FIVE, 3).reach("certificate")
    for quorum in QUORUMS:
        rogue.whisper(VICTIM, QuorumCall(rogue.t3(), quorum, ()))
        if not at_once:
            rogue.cluster.settle()
    rogue.cluster.settle()
    stage = journal(rogue.cluster, VICTIM).load()
    assert isinstance(stage, Decrypting)
    assert {one.quorum for one in stage.answers} == set(QUORUMS[:5])
    assert [one.code for one in rogue.said(VICTIM, Refusal) if isinstance(one, Refusal)] == ["too_many_quorums"]
    for quorum in QUORUMS[:5]:
        assert rogue.call(VICTIM, quorum) == ""
    rogue.say(VICTIM, QuorumCall(rogue.t3(), QUORUMS[5], ())).refused("too_many_quorums")
    assert len(journal(rogue.cluster, VICTIM).answers) == 5


def test_calls_in_turn_are_computed_once_each(monkeypatch: pytest.MonkeyPatch) -> None:
    """A coordinator that calls two quorums in turn, again and again, makes a holder work twice, not for ever."""
    rogue = EncryptedRogue(THREE, THREE, 2).reach("certificate")
    driver = rogue.cluster.members[VICTIM].driver
    assert driver is not None
    honest, worked = driver._protection.answer, []

    def answer(*parts: Any) -> Any:
        worked.append(1)
        return honest(*parts)

    monkeypatch.setattr(driver._protection, "answer", answer)
    for _ in range(10):
        for quorum in ((0, 1), (0, 2)):
            rogue.whisper(VICTIM, QuorumCall(rogue.t3(), quorum, ()))
    rogue.cluster.settle()
    assert len(worked) == 2


# --- noise ------------------------------------------------------------------------------------------------------------


def test_noise_that_the_plan_does_not_have_is_refused() -> None:
    """P5: not in a manifest, and not beside a call."""
    rogue = EncryptedRogue()
    named = rogue.body.encryption[0]
    for changes in ({"noise": ELSE}, {"noise_cap": 9}):
        lie = rogue.manifest(encryption=(replace(named, **changes),))  # type: ignore[arg-type]
        rogue.say(VICTIM, Offer(lie)).refused("manifest_differs_from_plan")
    rogue.reach("certificate")
    noise = rogue.noise(rogue.forge.made())
    rogue.say(VICTIM, QuorumCall(rogue.t3(), (0, 1), (noise,))).refused("wrong_noise")
    with pytest.raises(PeerError, match="malformed"):
        wire.parse_coordinator(wire.encode_coordinator(QuorumCall(rogue.t3(), (0, 1), (noise, noise))))


def noisy(patch: pytest.MonkeyPatch, *, old: bool = False) -> tuple[EncryptedRogue, SignedBlob]:
    """A release that had noise: the manifest commits to it. `old`: it is made of what the victim sent before."""
    patch.setattr(encrypted_checks, "manifest_key", lambda *parts: None)
    rogue = EncryptedRogue()
    made = rogue.forge.made()
    if old:
        rogue.reach("input")
        theirs = rogue.blocks(VICTIM)
        made = [replace(one, header=two.header, bodies=two.bodies) for one, two in zip(made, theirs, strict=True)]
        rogue.everyone(lambda org: rogue.abort_order(), [INSIDER])
        changes = {"key": replace(rogue.body.key, attempt=2)}
        changes |= {"abort_certificates": (rogue.abort_certificate(rogue.honest),)}
        rogue.offered = rogue.manifest(**changes)
    else:
        changes = {}
    blob = rogue.noise(made)
    named = replace(rogue.body.encryption[0], noise=hashlib.sha256(blob.body).digest())
    rogue.offered = rogue.manifest(**changes, encryption=(named,))
    served = rogue.numbers(COORDINATOR, [one.header for one in made])
    rogue.puppet.serve = lambda: [*rogue.served(), *served]
    return rogue, blob


def test_noise_must_be_what_was_committed_to(monkeypatch: pytest.MonkeyPatch) -> None:
    """`agreed_noise`: exactly that one, always, made for this offer."""
    rogue, blob = noisy(monkeypatch)
    rogue.reach("certificate")
    for noise in ((), (rogue.noise(rogue.forge.made()),), (resigned(rogue.charter, blob, nonce=ELSE),)):
        rogue.say(VICTIM, QuorumCall(rogue.t3(), (0, 1), noise)).refused("wrong_noise")
    forged = signed(rogue.charter, INSIDER, BlobType.NOISE, wire.parse_body(BlobType.NOISE, blob.body))
    rogue.say(VICTIM, QuorumCall(rogue.t3(), (0, 1), (forged,))).refused("wrong_signer")
    assert rogue.call(VICTIM, noise=(blob,)) == ""


def test_noise_made_of_an_old_ciphertext_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """P5: noise has a proof like every input; the coordinator does not know the exponents of a member's header."""
    rogue, blob = noisy(monkeypatch, old=True)
    rogue.reach("certificate")
    assert rogue.call(VICTIM, noise=(blob,)) == "bad_input_proof"


def test_noise_made_of_an_old_ciphertext_would_be_opened(monkeypatch: pytest.MonkeyPatch) -> None:
    rogue, blob = noisy(monkeypatch, old=True)
    rogue.reach("certificate")
    monkeypatch.setattr(answering.input_proof, "check_header", lambda *parts: None)
    assert [rogue.call(org, noise=(blob,)) for org in (VICTIM, OTHER)] == ["", ""]


# --- keys -------------------------------------------------------------------------------------------------------------


def test_another_key_in_a_manifest_is_refused() -> None:
    rogue = EncryptedRogue()
    named = rogue.body.encryption[0]
    for lie in (replace(named, fingerprint=ELSE), replace(named, epoch=1), replace(named, key_id="another")):
        rogue.say(VICTIM, Offer(rogue.manifest(encryption=(lie,)))).refused("wrong_key")
    rogue.say(VICTIM, Offer(rogue.manifest(encryption=()))).refused("wrong_key")
    masked = {"encryption": (), "graph": "complete", "prg": "AES256CTR"}
    rogue.say(VICTIM, Offer(rogue.manifest(**masked))).refused("manifest_differs_from_plan")


def test_another_key_in_an_advert_or_a_header_is_refused() -> None:
    rogue = EncryptedRogue().reach("advert")
    lie = signed(rogue.charter, INSIDER, BlobType.KEY_ADVERT, KeyAdvert(rogue.t0, INSIDER, ELSE))
    rogue.say(VICTIM, rogue.keyset(replaced={INSIDER: lie})).refused("wrong_key")
    rogue.reach("input")
    rogue.put(rogue.forge.make())
    mine = rogue.header(INSIDER)
    cases = [("fingerprint", ELSE, "wrong_key"), ("width", 2, "wrong_shape"), ("blocks", 2, "wrong_shape")]
    cases += [("length", 11, "wrong_shape"), ("t2", ELSE, "wrong_transcript"), ("org_id", OTHER, "wrong_transcript")]
    for field, value, code in cases:
        bent = resigned(rogue.charter, mine, **{field: value})
        rogue.say(VICTIM, rogue.proposal(replaced={INSIDER: bent})).refused(code)
    other = resigned(rogue.charter, rogue.header(VICTIM), response=b"\x05")
    rogue.say(VICTIM, rogue.proposal(replaced={VICTIM: other})).refused("own_header_altered")
    rogue.say(VICTIM, rogue.proposal([VICTIM, OTHER])).refused("too_few_survivors")


def test_messages_of_a_masked_round_have_no_place_in_an_encrypted_one() -> None:
    rogue = EncryptedRogue().reach("advert")
    masked = Advert(rogue.t0, INSIDER, b"\1" * 32, b"\2" * 32, bytes(32), bytes(32), bytes(32))
    lie = signed(rogue.charter, INSIDER, BlobType.ADVERT, masked)
    outcome = rogue.say(VICTIM, rogue.keyset(replaced={INSIDER: lie}))
    outcome.refused(outcome.codes[0])


def test_a_run_under_paillier_is_never_masked_instead() -> None:
    """Started again without its pin, a member must not take a manifest that names no key for one under masked."""
    rogue = EncryptedRogue()
    book = rogue.cluster.book
    rogue.cluster.book = None
    restart(rogue, VICTIM)
    rogue.cluster.book = book
    masked = rogue.manifest(encryption=(), graph="complete", prg="AES256CTR")
    outcome = rogue.say(VICTIM, Offer(masked))
    outcome.refused("wrong_key")
    assert isinstance(journal(rogue.cluster, VICTIM).load(), Idle)


def answers(rogue: EncryptedRogue, org: OrgId) -> list[str]:
    return [one.code for one in rogue.said(org, PlanAnswer) if isinstance(one, PlanAnswer)]


def test_a_plan_whose_key_is_not_pinned_or_opens_for_the_corrupt_is_refused() -> None:
    plan = encrypted_plan(max_corrupt=2, min_participants=4)
    assert set(answers(EncryptedRogue(FIVE, FIVE[:3], 2, plan=plan), FIVE[0])) == {"key_threshold_too_small"}
    assert set(answers(EncryptedRogue(FIVE, FIVE[:3], 3, plan=plan), FIVE[0])) == {""}
    missing = encrypted_plan().replace(b"sim-key", b"no-key")
    assert set(answers(EncryptedRogue(plan=missing), VICTIM)) == {"key_not_pinned"}


# --- ends -------------------------------------------------------------------------------------------------------------


def test_a_result_of_another_set_closes_nothing() -> None:
    rogue = EncryptedRogue().reach("certificate")
    made = Result(rogue.t3(), 3, rogue.body.length, ELSE, b"", 0.0, ELSE)
    for changes in ({"t3": ELSE}, {"survivors": 2}, {"length": 11}):
        blob = signed(rogue.charter, COORDINATOR, BlobType.RESULT, replace(made, **changes))  # type: ignore[arg-type]
        rogue.say(VICTIM, ResultNotice(rogue.body.key, blob)).refused("wrong_transcript")
    forged = signed(rogue.charter, INSIDER, BlobType.RESULT, made)
    outcome = rogue.say(VICTIM, ResultNotice(rogue.body.key, forged))
    outcome.refused(outcome.codes[0])
    assert rogue.call(VICTIM) == ""
