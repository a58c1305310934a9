"""Attacks on secrets across sets, attempts and time, by their numbers in FLSA/1 section 5: 20, 21, 24, 25, 26, 39."""

import itertools
from collections import Counter
from collections.abc import Iterator
from dataclasses import fields, replace

import numpy as np
import pytest
from federation import FIVE, RUN, body_of, journal
from fedveil_common import layout
from fedveil_common.crypto import shamir
from fedveil_common.errors import FedveilError
from fedveil_common.ids import AttemptKey, OrgId
from fedveil_common.masking import masks
from fedveil_common.messages import (
    AbortMessage,
    Certificate,
    Purpose,
    Refusal,
    Reveal,
    RevealMessage,
    VoteMessage,
)
from fedveil_common.secret import PrivateKey, Seed
from fedveil_participant import checks
from fedveil_participant import round as participant_round
from fedveil_participant.events import Resumed, Send, Tick
from fedveil_participant.stages import AbortVoted, Idle, Revealed, Voted
from fedveil_participant.state import sign
from numpy.typing import NDArray
from rogue import Rogue
from test_attacks_arithmetic import looks_uniform
from test_attacks_round import stage_of
from test_attacks_second_sums import Liar, nothing

from tests import whole_vectors

VICTIM = FIVE[2]
OTHERS = tuple(org for org in FIVE if org != VICTIM)

# --- 20: one share too few --------------------------------------------------------------------------------------------


@pytest.fixture
def small_field(monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    """The product's own code over GF(7); what it remembers about another field is forgotten before and after."""
    shamir._lagrange.cache_clear()
    monkeypatch.setattr(shamir, "PRIME", 7)
    yield 7
    shamir._lagrange.cache_clear()


@pytest.mark.parametrize("t", [2, 3, 4])
def test_attack_20_one_share_too_few_fits_every_secret_equally(t: int, small_field: int) -> None:
    """All polynomials: any t - 1 shares take each value equally often whatever the secret; any t give it. Stopped by
    the t - 1 uniform coefficients: with the last one fixed to zero t - 1 shares have the secret.
    """
    xs = list(range(1, t + 2))

    def seen(secret: int, colluders: tuple[int, ...], last: range) -> Counter[tuple[bytes, ...]]:
        found: Counter[tuple[bytes, ...]] = Counter()
        for coefficients in itertools.product(*[range(small_field)] * (t - 2), last):
            dealt = shamir.deal(secret.to_bytes(32, "big"), t, xs, coefficients)
            found[tuple(dealt[x].expose() for x in colluders)] += 1
            if colluders[0] == 1:
                for enough in itertools.combinations(xs, t):
                    assert shamir.reconstruct({x: dealt[x] for x in enough}, t)[-1] == secret
        return found

    for colluders in itertools.combinations(xs, t - 1):
        views = [seen(secret, colluders, range(small_field)) for secret in range(small_field)]
        assert all(view == views[0] for view in views)
        assert set(views[0].values()) == {1}
        assert len(views[0]) == small_field ** (t - 1)
        weak = [set(seen(secret, colluders, range(1))) for secret in range(small_field)]
        assert all(not one & other for one, other in itertools.combinations(weak, 2)), "a lower degree tells it"


# --- 21: a survivor declared dropped ----------------------------------------------------------------------------------


def revealed(rogue: Rogue, orgs: tuple[OrgId, ...]) -> dict[OrgId, Reveal]:
    """What these revealed."""
    found = {}
    for org in orgs:
        body = body_of(rogue.reveal(org))
        assert isinstance(body, Reveal)
        found[org] = body
    return found


def without_pair_masks(rogue: Rogue, reveals: dict[OrgId, Reveal]) -> tuple[NDArray[np.generic], PrivateKey]:
    """The victim's late vector without its pair masks: its mask key is put together, as that of one who dropped."""
    shares = {FIVE.index(org) + 1: dict(body.key_shares)[VICTIM] for org, body in reveals.items() if org != VICTIM}
    key = PrivateKey(shamir.reconstruct(shares, rogue.body.threshold))  # type: ignore[arg-type]
    public = {org: body_of(rogue.advert(org)).mask_key for org in FIVE}  # type: ignore[union-attr]
    stolen = rogue.masked(VICTIM)
    for one in masks.mask_keys(rogue.t2, VICTIM, key, Seed(bytes(32)), public)[1:]:  # the first is the own mask
        whole_vectors.apply(stolen, [replace(one, subtract=not one.subtract)])
    return stolen, key


def test_attack_21_a_survivor_falsely_declared_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    """The coordinator has the victim's vector and leaves it out, so that its mask key is recovered. Stopped by what a
    reveal holds (`round._reveal`, computed from T3): nobody gives anything of the self seed of one outside U3, not even
    the victim. With members that give it, the update is read.
    """

    def play() -> tuple[Rogue, dict[OrgId, Reveal]]:
        rogue = Rogue().reach("input")
        rogue.everyone(lambda org: rogue.proposal(OTHERS))
        votes = tuple(rogue.vote(org) for org in FIVE[: rogue.body.quorum])
        rogue.everyone(lambda org: Certificate(rogue.t3(OTHERS), votes))
        return rogue, revealed(rogue, FIVE)

    rogue, reveals = play()
    assert all(VICTIM not in dict(body.self_shares) for body in reveals.values())
    assert reveals[VICTIM].self_seed == b""
    left, key = without_pair_masks(rogue, reveals)
    truth = stage_of(rogue, VICTIM, "advert")
    assert key == truth.mask_key, "the pair masks are really gone"  # type: ignore[union-attr]
    assert not np.any(rogue.read(left) == rogue.truth(VICTIM))  # type: ignore[arg-type]
    self_key = masks.MaskKey(Seed(masks.self_key(rogue.t2, truth.self_seed, VICTIM)), subtract=False)  # type: ignore[union-attr]
    cover = np.zeros(1 << 16, dtype=np.uint32)
    whole_vectors.apply(cover, [self_key])
    assert looks_uniform(cover), "what stands between is a stream"

    honest = participant_round._reveal

    def generous(
        state: participant_round.State, stage: Voted, message: Certificate, at: float
    ) -> participant_round.Step:
        after, actions = honest(state, stage, message, at)
        (sent,) = [one for one in actions if isinstance(one, Send)]
        assert isinstance(sent.message, RevealMessage)
        body = body_of(sent.message.reveal)
        assert isinstance(body, Reveal)
        more = tuple((one.dealer, one.self_share.expose()) for one in stage.held)
        blob = sign(state, sent.message.reveal.type, replace(body, self_shares=more))
        return after, tuple(Send(RevealMessage(blob)) if one is sent else one for one in actions)

    monkeypatch.setattr(participant_round, "_reveal", generous)
    rogue, reveals = play()
    left, _ = without_pair_masks(rogue, reveals)
    shares = {FIVE.index(org) + 1: dict(body.self_shares)[VICTIM] for org, body in reveals.items() if org != VICTIM}
    seed = Seed(shamir.reconstruct(shares, rogue.body.threshold))  # type: ignore[arg-type]
    whole_vectors.unmask(left, [masks.self_key(rogue.t2, seed, VICTIM)], [])  # type: ignore[arg-type]
    np.testing.assert_array_equal(rogue.read(left), rogue.truth(VICTIM))  # type: ignore[arg-type]


# --- 24, 25: two sums over one update ---------------------------------------------------------------------------------


def summed_once() -> tuple[Liar, NDArray[np.int64]]:
    """Round 1 is summed over all five."""
    liar = Liar()
    liar.offer()
    t3, ring = liar.play(FIVE)
    notice = liar.publish(t3, ring)
    liar.everyone(lambda org: notice)
    return liar, ring


def refused_with(liar: Liar, **changes: object) -> str:
    """The code with which the victim refuses this offer."""
    notes = len(journal(liar.cluster, VICTIM).notes)
    liar.offer(**changes)
    (note,) = journal(liar.cluster, VICTIM).notes[notes:]
    assert not [one for one in liar.said(VICTIM, Refusal) if isinstance(one, Refusal)], "no attempt was open"
    return dict(note[1])["code"]


def difference_is_the_victims(liar: Liar, first: NDArray[np.int64]) -> None:
    """Played without the victim, the offered attempt gives its update as a difference of two sums, up to rounding."""
    _, second = liar.play(OTHERS)
    found = first - second
    truth = next(vector for (key, _), vector in journal(liar.cluster, VICTIM).encoded.items() if key.attempt == 1)
    error = np.abs(found - truth)
    where = layout.layout_for(liar.parsed, Purpose.TRAIN, 0).slices()[layout.UPDATE]
    assert np.abs(truth[where]).max() > 50
    assert error.max() <= len(FIVE), "each of five rounds anew, by one at most"


def test_attack_24_a_second_attempt_over_a_summed_update(monkeypatch: pytest.MonkeyPatch) -> None:
    """Stopped by `checks.abort_certificates_complete` (no certificate), then by `checks.not_spent` (one over another
    attempt frees nothing). With the second replaced, the difference of two sums is the victim's update.

    With a true certificate of the first attempt the update may be used again: `test_dropouts`; certificates that are
    too small or hold a vote of one who voted: `test_checks_of_aborts`.
    """
    liar, first = summed_once()
    again: dict[str, object] = {"key": AttemptKey(RUN, 1, 2), "nonce": b"\2" * 32}
    assert refused_with(liar, **again) == "abort_certificate_missing"
    again["abort_certificates"] = liar.earlier(1)
    assert refused_with(liar, **again) == "model_spent"
    monkeypatch.setattr(checks, "not_spent", nothing)
    liar.offer(**again)
    difference_is_the_victims(liar, first)


def test_attack_25_another_round_over_the_same_model(monkeypatch: pytest.MonkeyPatch) -> None:
    """Stopped twice: the step has one round (`checks.manifest_place_in_plan`), and the model was summed
    (`checks.not_spent`). With both replaced, the difference of two sums is the victim's update.
    """
    liar, first = summed_once()
    again: dict[str, object] = {"key": AttemptKey(RUN, 2, 1), "nonce": b"\2" * 32}
    assert refused_with(liar, **again) == "manifest_differs_from_plan"
    monkeypatch.setattr(checks, "manifest_place_in_plan", nothing)
    assert refused_with(liar, **again) == "model_spent"
    monkeypatch.setattr(checks, "not_spent", nothing)
    liar.offer(**again)
    difference_is_the_victims(liar, first)


# --- 26, 39: reveals again, late, and never ---------------------------------------------------------------------------


def reveals_of(rogue: Rogue) -> list[bytes]:
    """The reveals that the victim sent, as bytes."""
    found = [one.reveal for one in rogue.said(VICTIM, RevealMessage) if isinstance(one, RevealMessage)]
    return [blob.body + blob.sig for blob in found]


def test_attack_26_a_reveal_asked_for_again_is_the_same_and_none_comes_after_the_result() -> None:
    """A new session, a restart and the same certificate bring the same bytes or nothing. After the attempt the keys are
    gone with the stage (`round._close`): there is nothing left that a replaced check could give away.
    """
    rogue = Rogue().reach("reveal")
    stage = rogue.cluster.members[VICTIM].memory.load()
    assert isinstance(stage, Revealed)
    assert rogue.say(VICTIM, rogue.certificate()).said == ()
    for _ in range(2):
        rogue.cluster.kill_member(VICTIM)
        rogue.cluster.start_member(VICTIM)
        rogue.cluster.settle()
    found = reveals_of(rogue)
    assert len(found) == 3
    assert len(set(found)) == 1
    liar, _ = summed_once()
    before = len(reveals_of(liar))
    assert isinstance(liar.cluster.members[VICTIM].memory.load(), Idle)
    assert not {field.name for field in fields(Revealed)} & {"self_seed", "held", "mask_key", "channel_key"}
    assert liar.cluster.members[VICTIM].memory.stage is None, "the journal holds no stage, hence no key"
    t3 = liar.t3()
    liar.say(VICTIM, Certificate(t3, tuple(liar.vote(org) for org in FIVE[: liar.body.quorum])))
    liar.say(VICTIM, liar.proposal())
    assert len(reveals_of(liar)) == before


def test_attack_39_a_deadline_between_vote_and_reveal_changes_nothing_and_before_the_vote_it_ends_the_attempt() -> None:
    """Stopped by the stages: who voted answers a certificate however late; who abort-voted at its hard limit refuses
    any (`abort_voted`) and has no key any more. Another's clock moves neither: only the own monotonic one counts.
    """
    rogue = Rogue().reach("vote")
    driver = rogue.cluster.members[VICTIM].driver
    assert driver is not None
    voted = driver.state
    assert isinstance(voted.stage, Voted)
    limit = voted.stage.frame.received_at + rogue.body.hard_limit_s
    for late in (limit, limit + 30 * 86_400.0):
        after, actions = participant_round.step(voted, Tick(late))
        assert after.stage == voted.stage
        assert not [
            one for one in actions if isinstance(one, Send) and isinstance(one.message, VoteMessage | AbortMessage)
        ]
    rogue.cluster.clock.advance_to(limit + 30 * 86_400.0)
    driver.tick()
    rogue.say(VICTIM, rogue.certificate()).accepted("reveal")

    rogue = Rogue().reach("vote", but=(VICTIM,))
    driver = rogue.cluster.members[VICTIM].driver
    assert driver is not None
    resumed, _ = participant_round.step(driver.state, Resumed(-1e6))  # a clock that began anew, far back
    assert type(resumed.stage) is type(driver.state.stage)
    rogue.cluster.clock.advance_to(limit)
    driver.tick()
    rogue.cluster.settle()
    stage = rogue.cluster.members[VICTIM].memory.load()
    assert isinstance(stage, AbortVoted)
    assert {field.name for field in fields(stage)} == {"frame", "vote", "spent"}
    voters = tuple(org for org in FIVE if org != VICTIM)
    rogue.say(VICTIM, rogue.certificate(voters)).refused("abort_voted")
    rogue.say(VICTIM, rogue.proposal())
    assert reveals_of(rogue) == []
    assert not rogue.said(VICTIM, VoteMessage)
    with pytest.raises(FedveilError):
        checks.vote_certificate(rogue.certificate(voters[:2]), rogue.t3(), FIVE, rogue.body, rogue.charter.roster)
