"""Attacks on the offer, by their numbers in FLSA/1 section 5: 1 to 8.

Each is run three times: with an honest message, which passes; as an attack, which the one named check stops; and again
with exactly that check replaced, where the attack must succeed. Here a member "falls for" an offer when it makes keys
under it and advertises them, which promises its update to an attempt of that shape.
"""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from federation import (
    FIVE,
    PLAN,
    RUN,
    SETTINGS,
    THREE,
    body_of,
    federation,
    journal,
    plan_bytes,
    run,
    state,
    trail,
)
from fedveil_common import plan as plans
from fedveil_common import transcript
from fedveil_common.crypto import signing
from fedveil_common.errors import FedveilError
from fedveil_common.ids import COORDINATOR, AttemptKey, OrgId, RunId
from fedveil_common.masking import masks, quorum
from fedveil_common.masking.ring import zeros
from fedveil_common.messages import (
    Advert,
    AdvertMessage,
    BlobType,
    Manifest,
    Offer,
    Reveal,
    ShareSet,
    SignedBlob,
)
from fedveil_common.secret import PrivateKey, Seed, Share
from fedveil_coordinator import run as runs
from fedveil_participant import checking, checks, lineage, round
from fedveil_participant.events import Received
from fedveil_participant.stages import Encoding, Held, Revealed
from fedveil_simulation import charter as charters
from fedveil_simulation.charter import make_charter
from numpy.typing import NDArray
from rogue import Rogue

from tests import whole_vectors

VICTIM = FIVE[2]


def nothing(*arguments: object, **named: object) -> None:
    """A check that is not there."""


def falls_for(rogue: Rogue, blob: SignedBlob, victim: OrgId = VICTIM) -> bool:
    """Whether the member advertises keys under exactly this manifest."""
    outcome = rogue.say(victim, Offer(blob))
    adverts = [body_of(one.advert) for one in outcome.said if isinstance(one, AdvertMessage)]
    return any(isinstance(one, Advert) and one.t0 == transcript.t0(blob.body) for one in adverts)


def offer_attack(
    forge: Callable[[Rogue], SignedBlob],
    code: str,
    check: tuple[object, str],
    monkeypatch: pytest.MonkeyPatch,
    honest: Callable[[Rogue], SignedBlob] = lambda rogue: rogue.offered,
) -> None:
    """The three runs. `check`: the module and the name of the one function that stops it."""
    control = Rogue()
    assert falls_for(control, honest(control))
    rogue = Rogue()
    rogue.say(VICTIM, Offer(forge(rogue))).refused(code)
    assert falls_for(rogue, honest(rogue)), "a refused offer leaves no trace: the honest one is still taken"
    open_door = Rogue()
    monkeypatch.setattr(*check, nothing)
    assert falls_for(open_door, forge(open_door))


# --- 1: who signed ----------------------------------------------------------------------------------------------------


def by_stranger(rogue: Rogue) -> SignedBlob:
    return signing.sign(PrivateKey(b"\7" * 32), COORDINATOR, BlobType.MANIFEST, rogue.offered.body)


def by_member(rogue: Rogue) -> SignedBlob:
    return signing.sign(rogue.charter.member_keys[FIVE[0]], FIVE[0], BlobType.MANIFEST, rogue.offered.body)


def by_member_as_coordinator(rogue: Rogue) -> SignedBlob:
    return signing.sign(rogue.charter.member_keys[FIVE[0]], COORDINATOR, BlobType.MANIFEST, rogue.offered.body)


@pytest.mark.parametrize(
    ("forge", "code"),
    [(by_stranger, "bad_signature"), (by_member, "wrong_signer"), (by_member_as_coordinator, "bad_signature")],
)
def test_attack_01_manifest_by_another_key(
    forge: Callable[[Rogue], SignedBlob], code: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stopped by `checks.coordinator_signature`."""
    offer_attack(forge, code, (checks, "coordinator_signature"), monkeypatch)


# --- 2: replay --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("restart", [False, True], ids=["running", "restarted"])
@pytest.mark.parametrize("seen", [1, 2], ids=["same attempt", "lower attempt"])
def test_attack_02_replayed_manifest(seen: int, restart: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stopped by `checks.manifest_is_newer`, from the journal's high-water mark.

    The second manifest of one (round, attempt) differs in its nonce only: without the check one member advertises two
    key sets for one attempt. It is not stopped by the spent table, because no input was sent yet.
    """

    def manifest(rogue: Rogue, attempt: int, nonce: int) -> SignedBlob:
        earlier = rogue.earlier(*range(1, attempt))
        key = AttemptKey(rogue.body.key.run_id, 1, attempt)
        return rogue.manifest(key=key, abort_certificates=earlier, nonce=bytes([nonce]) * 32)

    def scene() -> tuple[Rogue, SignedBlob, SignedBlob]:
        rogue = Rogue()
        first, again = manifest(rogue, seen, 9), manifest(rogue, 1, 1)
        rogue.say(VICTIM, Offer(first)).accepted("advert")
        if restart:
            rogue.cluster.kill_member(VICTIM)
            rogue.cluster.start_member(VICTIM)
            rogue.cluster.settle()
        return rogue, first, again

    rogue, first, again = scene()
    rogue.say(VICTIM, Offer(again)).refused("replayed_manifest")
    later = manifest(rogue, 3, 2)
    assert falls_for(rogue, later), "a newer one passes"
    rogue, first, again = scene()
    monkeypatch.setattr(checks, "manifest_is_newer", nothing)
    assert falls_for(rogue, again)
    t0s = {body_of(m.advert).t0 for m in rogue.said(VICTIM, AdvertMessage) if isinstance(m, AdvertMessage)}  # type: ignore[union-attr]
    assert t0s == {transcript.t0(first.body), transcript.t0(again.body)}


# --- 3: who takes part ------------------------------------------------------------------------------------------------


def with_sybil(rogue: Rogue) -> SignedBlob:
    q = quorum.quorum(6, 1)
    return rogue.manifest(cohort=(*FIVE, OrgId("zeta")), quorum=q, threshold=q, min_survivors=q)


def other_roster(rogue: Rogue) -> SignedBlob:
    return rogue.manifest(roster_hash=b"\5" * 32)


def older_roster(rogue: Rogue) -> SignedBlob:
    return rogue.manifest(roster_version=rogue.charter.roster.version + 1)


def without_me(rogue: Rogue) -> SignedBlob:
    cohort = tuple(org for org in FIVE if org != VICTIM)
    q = quorum.quorum(4, 1)
    return rogue.manifest(cohort=cohort, quorum=q, threshold=q, min_survivors=q)


@pytest.mark.parametrize(
    ("forge", "code"),
    [
        (with_sybil, "not_in_roster"),
        (other_roster, "wrong_roster"),
        (older_roster, "wrong_roster"),
        (without_me, "not_in_cohort"),
    ],
)
def test_attack_03_cohort_outside_the_pinned_roster(
    forge: Callable[[Rogue], SignedBlob], code: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stopped by `checks.manifest_roster`."""
    offer_attack(forge, code, (checks, "manifest_roster"), monkeypatch)


def test_attack_03_roster_version_rolled_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """Stopped by `roster.accept_roster`: a version below the pinned one, signed by governance in its day."""
    newer, older = make_charter(FIVE, 1, version=2), make_charter(FIVE, 1, version=1)

    def offered(charter: charters.Charter) -> tuple[list[str], int]:
        cluster = federation(charter=newer)
        driver = cluster.members[VICTIM].driver
        assert driver is not None
        told: list[str] = []
        driver.listeners.append(lambda kind, facts: told.append(facts.get("code", kind)))
        driver.call(lambda: driver._roster(charter.notice))
        cluster.settle()
        return told, driver.state.roster.version

    assert offered(make_charter(FIVE, 1, version=3)) == (["roster"], 3)
    told, version = offered(older)
    assert (told, version) == (["roster_rollback"], 2)
    monkeypatch.setattr(charters, "accept_roster", lambda pinned, roster, me, my_key: roster)
    assert offered(older)[1] == 1


# --- 4, 5: figures ----------------------------------------------------------------------------------------------------


FIGURES: dict[str, tuple[dict[str, object], str]] = {
    "q one lower": ({"quorum": 3, "threshold": 3, "min_survivors": 3}, "wrong_quorum"),
    "t one lower": ({"threshold": 3}, "wrong_threshold"),
    "t of one": ({"threshold": 1}, "wrong_threshold"),
    "t of none": ({"threshold": 0}, "wrong_threshold"),
    "t over N": ({"threshold": 6}, "wrong_threshold"),
    "survivors below q": ({"min_survivors": 3}, "wrong_min_survivors"),
}


@pytest.mark.parametrize(("changes", "code"), FIGURES.values(), ids=FIGURES)
def test_attack_04_quorum_and_threshold(changes: dict[str, object], code: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stopped by `quorum.check_parameters`."""
    offer_attack(lambda rogue: rogue.manifest(**changes), code, (quorum, "check_parameters"), monkeypatch)


def test_attack_04_corrupt_bound_below_mine(monkeypatch: pytest.MonkeyPatch) -> None:
    """Stopped twice, both replaced below: by `quorum.check_parameters` (the manifest's c is consistent in itself, but
    below the plan's) and by `checks.manifest_corrupt` (it is not what plan and roster give).
    """
    plan = plan_bytes(max_corrupt=2, min_participants=4)
    q1, q2 = quorum.quorum(5, 1), quorum.quorum(5, 2)
    lower = {"corrupt": 1, "quorum": q1, "threshold": q1, "min_survivors": q1}
    rogue = Rogue(plan=plan)
    assert (rogue.body.corrupt, rogue.body.quorum) == (2, q2)
    rogue.say(VICTIM, Offer(rogue.manifest(**lower))).refused("corrupt_bound_too_small")
    assert falls_for(rogue, rogue.offered)
    rogue = Rogue(plan=plan)
    monkeypatch.setattr(quorum, "check_parameters", nothing)
    rogue.say(VICTIM, Offer(rogue.manifest(**lower))).refused("wrong_corrupt_bound")
    monkeypatch.setattr(checks, "manifest_corrupt", nothing)
    assert falls_for(rogue, rogue.manifest(**lower))


def test_attack_04_threshold_of_one_gives_every_member_the_secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    """Stopped by `quorum.check_parameters`. With t = 1 each share IS the secret: one corrupt member has them all."""
    made = runs.manifest_of
    monkeypatch.setattr(runs, "manifest_of", lambda state, nonce: replace(made(state, nonce), threshold=1))
    cluster = federation()
    cluster.start_run(RUN, plan_bytes())
    cluster.settle()
    assert {dict(facts)["code"] for org in FIVE for _, facts in journal(cluster, org).notes} == {"wrong_threshold"}
    monkeypatch.setattr(quorum, "check_parameters", nothing)
    cluster = federation()
    assert run(cluster) == "finished"
    mine = journal(cluster, VICTIM)
    seeds = [stage.self_seed.expose() for kind, stage in mine.stages if kind == "dealers"]  # type: ignore[union-attr]
    colluder = [stage.held for kind, stage in journal(cluster, FIVE[0]).stages if kind == "dealers"]  # type: ignore[union-attr]
    leaked = [one.self_share.expose()[1:] for one in colluder[0] if one.dealer == VICTIM]
    assert leaked == seeds[:1]


def test_attack_05_two_members(monkeypatch: pytest.MonkeyPatch) -> None:
    """Stopped three times over, all replaced below: `quorum.check_parameters` (q - c >= 2 honest updates), the
    organisation's own least number of survivors (in `checks.manifest_quorum`, which calls the former), and
    `checks.manifest_cohort_size` (the plan that was agreed to).
    """
    pair = {"cohort": (FIVE[0], VICTIM), "quorum": 2, "threshold": 2, "min_survivors": 2}

    def refused_by(rogue: Rogue) -> str:
        """The function that raised: all three say the same code."""
        driver = rogue.cluster.members[VICTIM].driver
        assert driver is not None
        with pytest.raises(FedveilError) as caught:
            round.step(driver.state, Received(Offer(rogue.manifest(**pair)), 1.0, Seed(bytes(32))))
        assert caught.value.code == "cohort_too_small"
        return caught.traceback[-1].name

    rogue = Rogue()
    rogue.say(VICTIM, Offer(rogue.manifest(**pair))).refused("cohort_too_small")
    assert refused_by(rogue) == "check_parameters"
    with monkeypatch.context() as one:
        one.setattr(quorum, "check_parameters", nothing)
        assert refused_by(rogue) == "manifest_quorum"
    with monkeypatch.context() as two:
        two.setattr(checks, "manifest_quorum", nothing)
        assert refused_by(rogue) == "manifest_cohort_size"
    assert falls_for(rogue, rogue.offered)
    monkeypatch.setattr(checks, "manifest_quorum", nothing)
    monkeypatch.setattr(checks, "manifest_cohort_size", nothing)
    monkeypatch.setattr(checks, "enough_survivors", nothing)  # the same limit again, at the vote
    rogue = Rogue()
    rogue.offered, rogue.names = rogue.manifest(**pair), (FIVE[0], VICTIM)
    rogue.reach("reveal")
    colluder = rogue.truth(FIVE[0])
    assert opened(rogue) is not None
    np.testing.assert_array_equal(opened(rogue) - colluder, rogue.truth(VICTIM))  # one organisation's update in clear


def test_attack_05_three_members_of_which_two_may_be_corrupt(monkeypatch: pytest.MonkeyPatch) -> None:
    """Stopped by `quorum.check_parameters` (N < c + 2): the sum minus the colluders' would be one update. (No plan can
    ask for this c with three members, so `checks.manifest_corrupt` is out of the way from the beginning.)
    """
    monkeypatch.setattr(checks, "manifest_corrupt", nothing)
    c = 2
    q = quorum.quorum(3, c)
    small = {"cohort": THREE, "corrupt": c, "quorum": q, "threshold": q, "min_survivors": 3}
    offer_attack(lambda rogue: rogue.manifest(**small), "cohort_too_small", (quorum, "check_parameters"), monkeypatch)


def opened(rogue: Rogue) -> NDArray[np.int64]:
    """What the coordinator opens from the masked inputs and the reveals of all members."""
    total = zeros(rogue.body.length, rogue.body.ring_bits)
    keys = []
    for org in rogue.names:
        total += rogue.masked(org)
        body = body_of(rogue.reveal(org))
        assert isinstance(body, Reveal)
        keys.append(masks.self_key(rogue.t2, Seed(body.self_seed), org))
    whole_vectors.unmask(total, keys, ())
    return rogue.read(total)


# --- 6, 7, 8: which model ---------------------------------------------------------------------------------------------


def one_bit(blob: bytes) -> bytes:
    return bytes([blob[0] ^ 1]) + blob[1:]


def with_bins() -> bytes:
    """The small plan with an auc, whose 128 bins make a vector long enough for statistics."""
    text = PLAN.format(**SETTINGS).replace("[loss, accuracy]", "[loss, accuracy, auc]")
    return plans.canonical(plans.parse_plan(text.encode(), "small.yaml"))


def chi_square(integers: NDArray[np.int64]) -> float:
    """Of the half bytes of the low 16 bits, against the uniform distribution: 15 degrees of freedom."""
    bytes_ = (integers & 0xFFFF).astype("<u2").view(np.uint8)
    halves = np.concatenate([bytes_ & 15, bytes_ >> 4])
    counts = np.bincount(halves, minlength=16)
    return float(((counts - len(halves) / 16) ** 2).sum() / (len(halves) / 16))


def test_attack_06_two_models(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two members are told another model than three. Stopped by `checks.derived_model` at those two (attack 7). With it
    replaced, stopped by the view checks at everyone: `checks.advert_of` (an advert under another T0) and
    `checks.received_share` (a share under another T1). With these replaced too nobody learns anything: each pair key
    depends on the member's own view, so that what is opened is noise, whatever self seeds are revealed.
    """
    others = FIVE[3:]

    def told(rogue: Rogue, two: bool) -> dict[OrgId, SignedBlob]:
        other = rogue.manifest(model_hash=one_bit(rogue.body.model_hash))
        return {org: other if two and org in others else rogue.offered for org in FIVE}

    def advertised(two: bool) -> tuple[Rogue, dict[OrgId, SignedBlob]]:
        rogue = Rogue(plan=with_bins())
        views = told(rogue, two)
        for org in FIVE:
            rogue.say(org, Offer(views[org]))
        return rogue, views

    def opened_sum(two: bool) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """What the coordinator opens with every self seed in hand, and the truth."""
        rogue, views = advertised(two)
        t0s = {org: transcript.t0(views[org].body) for org in FIVE}
        bodies = {org: rogue.advert(org).body for org in FIVE}
        t1s = {org: transcript.t1(t0s[org], bodies) for org in FIVE}
        for org in FIVE:
            rogue.say(org, replace(rogue.keyset(), t0=t0s[org])).accepted("shares")
        for org in FIVE:
            rogue.say(org, replace(rogue.delivery(org), t1=t1s[org])).accepted("ack")
        for org in FIVE:
            rogue.say(org, ShareSet(t1s[org], FIVE, ())).accepted("input")
        total = zeros(rogue.body.length, rogue.body.ring_bits)
        truth = np.zeros(rogue.body.length, np.int64)
        for org in FIVE:
            stage = next(stage for kind, stage in journal(rogue.cluster, org).stages if kind == "dealers")
            assert isinstance(stage, Encoding)
            total += rogue.masked(org)
            whole_vectors.unmask(total, [masks.self_key(stage.t2, stage.self_seed, org)], ())
            truth += rogue.truth(org)
        return rogue.read(total), truth

    rogue, _ = advertised(two=True)
    assert {org for org in FIVE if rogue.said(org, AdvertMessage)} == set(FIVE[:3])
    total, truth = opened_sum(two=False)
    np.testing.assert_array_equal(total, truth)
    assert chi_square(total - truth) > 500, "the statistic finds what is not uniform"
    monkeypatch.setattr(checks, "derived_model", nothing)
    rogue, _ = advertised(two=True)
    rogue.say(VICTIM, rogue.keyset()).refused("wrong_transcript")
    monkeypatch.setattr(checks, "advert_of", lambda blob, frame: body_of(blob))
    monkeypatch.setattr(
        checks, "received_share", lambda blob, *rest: Held(blob.signer_id, Share(bytes(33)), Share(bytes(33)))
    )
    total, truth = opened_sum(two=True)
    assert len(total) > 128
    assert not np.any(total == truth), "no coordinate of the truth appears"
    assert chi_square(total - truth) < 37.7, "uniform at the level of one in a thousand"


def test_attack_07_model_hash_of_another_model(monkeypatch: pytest.MonkeyPatch) -> None:
    """Stopped by `checks.derived_model`, before any key is made: the member re-derives its model and compares."""

    def forge(rogue: Rogue) -> SignedBlob:
        return rogue.manifest(model_hash=one_bit(rogue.body.model_hash))

    control = Rogue()
    assert falls_for(control, control.offered)
    rogue = Rogue()
    outcome = rogue.say(VICTIM, Offer(forge(rogue)))
    assert [type(one).__name__ for one in outcome.said] == ["Refusal"]
    assert outcome.said[0].code == "model_not_derived"  # type: ignore[union-attr]
    assert outcome.trail == ("offer", "update_failed")  # trained nothing, made no key
    assert not journal(rogue.cluster, VICTIM).updates
    assert journal(rogue.cluster, VICTIM).stage is None
    rogue = Rogue()
    monkeypatch.setattr(checks, "derived_model", nothing)
    assert falls_for(rogue, forge(rogue))


def test_attack_08_model_not_from_the_last_sum(monkeypatch: pytest.MonkeyPatch) -> None:
    """The coordinator names another model than the opened sums give for round 2. Stopped by `checks.derived_model`."""
    made = runs.manifest_of
    plan = plan_bytes(rounds=2)

    def swapped(run_state: runs.RunState, nonce: bytes) -> Manifest:
        manifest = made(run_state, nonce)
        return replace(manifest, model_hash=one_bit(manifest.model_hash)) if run_state.step == 1 else manifest

    honest = federation(plan=plan)
    assert run(honest, plan) == "finished"
    assert len(state(honest).records) == 3
    monkeypatch.setattr(runs, "manifest_of", swapped)
    cluster = federation(plan=plan)
    assert run(cluster, plan) == "not_enough_participants"
    assert len(state(cluster).records) == 1
    for org in FIVE:
        kinds = [kind for kind, key, _ in journal(cluster, org).trail if key.round == 2]
        assert not {"advert", "shares", "input", "reveal"} & set(kinds)
    monkeypatch.setattr(checks, "derived_model", nothing)
    cluster = federation(plan=plan)
    run(cluster, plan, limit_s=30)
    assert [stage for kind, stage in journal(cluster, VICTIM).stages if isinstance(stage, Revealed)][1:], (
        "round 2 opened"
    )


def last_bit(leaf: bytes) -> bytes:
    """The lowest bit of the last of ten coordinates: their low 16 bits come first in a packed leaf."""
    return leaf[:18] + bytes([leaf[18] ^ 1]) + leaf[19:]


def same(leaf: bytes) -> bytes:
    return leaf


def test_attack_08_a_sum_under_another_result(monkeypatch: pytest.MonkeyPatch) -> None:
    """A leaf of the sum that members download is altered, in the measured loss, of which no model depends: so the hash
    of the model in the next manifest does not tell. Stopped by `lineage.sum_is_signed`. An altered update is stopped by
    `checks.derived_model` as well.
    """
    plan = plan_bytes(rounds=2)

    def play(alter: Callable[[bytes], bytes]) -> tuple[str, int]:
        cluster = federation(plan=plan)
        download = cluster.download

        def altered(run_id: RunId, round: int) -> checking.SumDownload:
            got = download(run_id, round)
            return replace(got, leaves=((index, alter(data)) for index, data in got.leaves))

        cluster.download = altered  # type: ignore[method-assign]
        cluster.start_run(RUN, plan)
        cluster.play(lambda: cluster.ended(RUN), 30)
        code = cluster.memory.runs[RUN][2] if cluster.memory.runs[RUN][1] == "ended" else "waiting"
        return code, sum(trail(cluster, org, 2).count("advert") for org in FIVE)

    assert play(same) == ("finished", 5)
    assert play(last_bit)[1] == 0, "nobody advertises in round 2"
    assert play(one_bit)[1] == 0
    monkeypatch.setattr(checking.Checker, "check", nothing)  # it would find the altered leaf as well
    assert play(last_bit)[1] == 0
    monkeypatch.setattr(lineage, "sum_is_signed", nothing)
    assert play(last_bit)[1] == 5
    assert play(one_bit)[1] == 0, "the second, independent line: the hash in the manifest"
