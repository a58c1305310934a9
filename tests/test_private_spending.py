"""The hard stops of each side, and what is charged when something breaks (D3, D6, D7, D8, D16, A8, A9).

Every claim is tried against the production machines: a coordinator that offers what it may not, a member killed between
its charge and its message, attempts that are aborted with and without a certificate.
"""

import math
from dataclasses import replace

import numpy as np
import pytest
from encrypted_federation import KEY_ID, encrypted_federation
from federation import FIVE, RUN, THREE, Killed, die_after, federation, journal, parse, plan_bytes
from fedveil_common import plan as plans
from fedveil_common import private_sum
from fedveil_common.dp import budget
from fedveil_common.ids import AttemptKey, OrgId, RunId
from fedveil_common.messages import AbortCertificate, AbortNotice, Offer, Refusal, RunEnded
from fedveil_coordinator.run import RunState
from fedveil_participant import spending
from fedveil_participant.events import Tick
from fedveil_participant.stages import AbortVoted, Idle, Inputting
from fedveil_participant.state import LifetimeLimit
from fedveil_simulation.cluster import Cluster
from private_federation import private_bytes, share
from rogue import Rogue

VICTIM = FIVE[2]
DELTA = 1e-5


def ledger_of(cluster: Cluster, org: OrgId) -> budget.Ledger:
    """The ledger that a restart would find."""
    return budget.fold(one.entry for one in cluster.members[org].memory.kept.ledger)


def standing(cluster: Cluster, org: OrgId, run_id: RunId = RUN) -> list[str]:
    """How the attempts of a run stand in a member's ledger, in order."""
    return [type(one).__name__ for one in ledger_of(cluster, org).account(run_id).attempts.values()]


def one_step(plan: bytes) -> float:
    """Epsilon of one opened sum of a plan."""
    parsed = plans.parse_canonical(plan)
    assert parsed.privacy is not None
    return private_sum.spent(parsed, parsed.privacy, 1)


def rogue_of(**settings: object) -> Rogue:
    """A coordinator that is a puppet, and a private plan."""
    return Rogue(plan=private_bytes(**settings))


def limited(rogue: Rogue, most: float, org: OrgId = VICTIM) -> None:
    """The owner of the data lets its records spend this much in all."""
    driver = rogue.cluster.members[org].driver
    assert driver is not None
    driver.state = replace(driver.state, lifetimes={"table": LifetimeLimit(most, DELTA)})


# --- the participant's own limit --------------------------------------------------------------------------------------


def test_a_lifetime_limit_refuses_before_any_key_leaves() -> None:
    rogue = rogue_of()
    cost = one_step(rogue.canonical)
    limited(rogue, cost / 2)
    outcome = rogue.say(VICTIM, Offer(rogue.offered))
    outcome.refused("budget_spent")
    assert not outcome.said, "no number, no name: here not even a word"
    assert rogue.cluster.members[VICTIM].memory.kept.ledger == ()
    assert isinstance(rogue.cluster.members[VICTIM].driver.state.stage, Idle)  # type: ignore[union-attr]
    limited(rogue, 10 * cost)
    rogue.say(VICTIM, Offer(rogue.offered)).accepted("offer")


def test_a_refusal_in_an_open_attempt_is_a_closed_code(monkeypatch: pytest.MonkeyPatch) -> None:
    """A second offer while one is open: what is said names the attempt and the code, and nothing of the figures."""
    rogue = rogue_of().reach("input")
    limited(rogue, one_step(rogue.canonical))
    later = rogue.manifest(key=AttemptKey(RUN, 2, 1), step=1, model_hash=b"\2" * 32)
    monkeypatch.setattr("fedveil_participant.checks.manifest_follows_plan", lambda *_: None)
    outcome = rogue.say(VICTIM, Offer(later))
    assert outcome.codes == ("budget_spent",)
    assert outcome.said == (Refusal(rogue.body.key, "budget_spent"),)
    assert standing(rogue.cluster, VICTIM) == ["Unsettled"]


def test_the_lifetime_counts_what_other_runs_have_spent() -> None:
    """Two runs of one plan, each within its own limit: the second passes the lifetime of one member and is refused."""
    plan = private_bytes(rounds=2)
    cluster = federation(plan=plan)
    cluster.start_run(RUN, plan)
    cluster.play(lambda: cluster.ended(RUN), 200_000.0)
    driver = cluster.members[VICTIM].driver
    assert driver is not None
    spent = ledger_of(cluster, VICTIM).lifetime().lifetime_epsilon(DELTA)
    driver.state = replace(driver.state, lifetimes={"table": LifetimeLimit(spent * 1.05, DELTA)})
    told: list[tuple[str, str]] = []
    driver.listeners.append(lambda kind, facts: told.append((kind, facts.get("code", ""))))
    second = RunId("run-2")
    cluster.start_run(second, plan)
    cluster.play(lambda: cluster.ended(second), 200_000.0)
    assert ("plan_declined", "budget_spent") in told, "before any round of it"
    assert standing(cluster, VICTIM, second) == []
    assert ledger_of(cluster, VICTIM).lifetime().lifetime_epsilon(DELTA) == spent
    assert not any(key.run_id == second for _, key, _ in journal(cluster, VICTIM).trail)


# --- the coordinator asks for more ------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["masked", "paillier"])
def test_one_round_more_than_the_plan_allows_is_refused_by_everyone(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    written = "masked" if kind == "masked" else f"paillier, key: {KEY_ID}"
    plan = private_bytes(rounds=50, most=8.0, kind=written)
    cluster = federation(plan=plan) if kind == "masked" else encrypted_federation(plan=plan)
    monkeypatch.setattr(RunState, "budget_spent", property(lambda self: False))
    cluster.start_run(RUN, plan)
    cluster.play(lambda: cluster.ended(RUN), 20_000.0)
    assert len(cluster.memory.sums) == 2
    for org in cluster.members:
        assert "budget_spent" in [dict(facts).get("code") for _, facts in journal(cluster, org).notes]
        assert standing(cluster, org) == ["Settled", "Settled"]
        assert not any(key.round > 2 for _, key, _ in journal(cluster, org).trail), "no state moved"
        assert ledger_of(cluster, org).spent(RUN).epsilon(DELTA) <= 8.0


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"noise": "none"}, "manifest_differs_from_plan"),
        ({"noise": "coordinator"}, "manifest_differs_from_plan"),
        ({"value_bits": 16}, "manifest_differs_from_plan"),
        ({"value_bits": 18, "ring_bits": 24}, "manifest_differs_from_plan"),
        ({"ring_bits": 64}, "manifest_differs_from_plan"),
        ({"ring_bits": 17}, "ring_would_wrap"),
        ({"update_norm": 1e6}, "manifest_differs_from_plan"),
        ({"dataset": "other"}, "manifest_differs_from_plan"),
        ({"plan_hash": bytes(32)}, "manifest_differs_from_plan"),
        ({"corrupt": 0}, "corrupt_bound_too_small"),
        ({"corrupt": 0, "quorum": 3, "threshold": 3}, "corrupt_bound_too_small"),
        ({"corrupt": 2}, "wrong_corrupt_bound"),
        ({"quorum": 3, "threshold": 3, "min_survivors": 3}, "wrong_quorum"),
        ({"quorum": 5, "threshold": 5, "min_survivors": 5}, "wrong_quorum"),
    ],
)
def test_a_manifest_that_would_change_the_noise_is_refused(change: dict[str, object], code: str) -> None:
    """Each field on which the share of noise, its room or its price depends."""
    rogue = rogue_of()
    outcome = rogue.say(VICTIM, Offer(rogue.manifest(**change)))
    outcome.refused(code)
    assert rogue.cluster.members[VICTIM].memory.kept.ledger == ()
    rogue.say(VICTIM, Offer(rogue.offered)).accepted("offer")


# --- killed between the charge and the message ------------------------------------------------------------------------


def test_a_restart_after_the_charge_sends_the_same_bytes_under_the_same_charge() -> None:
    plan = private_bytes(rounds=1)
    cluster = federation(plan=plan)
    kept: list[bytes] = []

    def again() -> None:
        memory = journal(cluster, VICTIM)
        assert standing(cluster, VICTIM) == ["Unsettled"], "charged, and nothing has left"
        assert not [one for one in cluster.uploads if one[0] == VICTIM]
        kept.extend(made.data for made in memory.inputs.values())
        cluster.start_member(VICTIM)

    died = die_after(cluster, VICTIM, "input", 1, again)
    cluster.start_run(RUN, plan)
    cluster.play(lambda: cluster.ended(RUN), 200_000.0)
    assert died
    (uploaded,) = [data for org, _, data in cluster.uploads if org == VICTIM]
    assert [uploaded] == kept
    assert standing(cluster, VICTIM) == ["Settled"]
    assert ledger_of(cluster, VICTIM).spent(RUN).epsilon(DELTA) == one_step(plan)


def test_a_restart_before_the_charge_makes_the_same_input_again() -> None:
    """Killed once its masked input is durable and before the record that charges it: the noise is not drawn anew."""
    plan = private_bytes(rounds=1)
    cluster = federation(plan=plan)
    memory, first = journal(cluster, VICTIM), []
    honest = memory.save

    def mortal(key: AttemptKey, stage: object, kind: str, *rest: object) -> None:
        if kind == "input" and not first:
            first.append(memory.inputs[key].data)
            raise Killed(VICTIM)
        honest(key, stage, kind, *rest)  # type: ignore[arg-type]

    memory.save = mortal  # type: ignore[method-assign]
    died: list[int] = []
    once = cluster._once

    def guarded() -> bool:
        try:
            return once()
        except Killed:
            died.append(1)
            assert standing(cluster, VICTIM) == []
            cluster.kill_member(VICTIM)
            memory.inputs.clear()
            cluster.start_member(VICTIM)
            return True

    cluster._once = guarded  # type: ignore[method-assign]
    cluster.start_run(RUN, plan)
    cluster.play(lambda: cluster.ended(RUN), 200_000.0)
    assert died == [1]
    (uploaded,) = [data for org, _, data in cluster.uploads if org == VICTIM]
    assert [uploaded] == first
    assert standing(cluster, VICTIM) == ["Settled"]


# --- aborts -----------------------------------------------------------------------------------------------------------


def aborted(rogue: Rogue) -> AbortCertificate:
    """Everyone agreed to abort after its input had left."""
    rogue.reach("input")
    assert all(standing(rogue.cluster, org) == ["Unsettled"] for org in FIVE)
    rogue.everyone(lambda org: rogue.abort_order())
    assert all(standing(rogue.cluster, org) == ["Unsettled"] for org in FIVE), "a vote alone gives nothing back"
    return rogue.abort_certificate(FIVE[:3])


def test_an_abort_certificate_gives_the_charge_back() -> None:
    rogue = rogue_of()
    certificate = aborted(rogue)
    rogue.say(VICTIM, AbortNotice(certificate)).accepted("aborted")
    assert standing(rogue.cluster, VICTIM) == ["Released"]
    assert ledger_of(rogue.cluster, VICTIM).spent(RUN).epsilon(DELTA) == 0


@pytest.mark.parametrize("forged", ["two votes", "another attempt", "one twice"])
def test_a_certificate_that_proves_nothing_gives_nothing_back(forged: str) -> None:
    rogue = rogue_of()
    certificate = aborted(rogue)
    votes = {
        "two votes": certificate.votes[:2],
        "one twice": (*certificate.votes[:2], certificate.votes[1]),
        "another attempt": certificate.votes,
    }[forged]
    t0 = bytes(32) if forged == "another attempt" else certificate.t0
    rogue.say(VICTIM, AbortNotice(AbortCertificate(t0, votes)))
    assert standing(rogue.cluster, VICTIM) == ["Unsettled"]


def test_an_attempt_left_without_a_certificate_stays_charged_and_is_not_opened_again() -> None:
    """D3: one sample, one opening. Certificates for attempts that this member never saw are not its own."""
    rogue = rogue_of().reach("input")
    later = rogue.manifest(key=AttemptKey(RUN, 1, 2), nonce=b"\1" * 32, abort_certificates=rogue.earlier(1))
    outcome = rogue.say(VICTIM, Offer(later))
    assert outcome.codes == ("model_spent",)
    assert outcome.uploads == 0
    assert standing(rogue.cluster, VICTIM) == ["Unsettled"]
    assert len(journal(rogue.cluster, VICTIM).encoded) == 1


@pytest.mark.parametrize("how", ["run ended", "limit"])
def test_what_ends_an_attempt_otherwise_keeps_the_charge(how: str) -> None:
    rogue = rogue_of().reach("input")
    if how == "run ended":
        rogue.say(VICTIM, RunEnded(RUN, rogue.body.plan_hash, "failed", (), ()))
    else:
        driver = rogue.cluster.members[VICTIM].driver
        assert driver is not None
        driver.post(Tick(1e6))
        rogue.cluster.settle()
        assert isinstance(driver.state.stage, AbortVoted)
    assert standing(rogue.cluster, VICTIM) == ["Unsettled"]
    assert ledger_of(rogue.cluster, VICTIM).spent(RUN).epsilon(DELTA) == one_step(rogue.canonical)


def test_an_attempt_retried_after_a_certificate_has_fresh_noise_over_the_same_sample() -> None:
    rogue = rogue_of(sample=0.5)
    certificate = aborted(rogue)
    memory = journal(rogue.cluster, VICTIM)
    (before,) = [made.values.copy() for made in memory.updates.values()]
    rogue.offered = rogue.manifest(key=AttemptKey(RUN, 1, 2), nonce=b"\1" * 32, abort_certificates=(certificate,))
    rogue.reach("input")
    (after,) = [made.values for made in memory.updates.values()]
    assert np.array_equal(before, after), "the sample is the one that no sum can have shown"
    first, second = memory.encoded.values()
    plan = plans.parse_canonical(rogue.canonical)
    whole = share(plan, rogue.body.quorum, rogue.body.corrupt)
    noises = [first - before, second - before]
    assert not np.any(noises[0] == noises[1])
    assert 0.2 < np.mean((noises[0] - noises[1]) ** 2) / (2 * whole) < 4
    assert standing(rogue.cluster, VICTIM) == ["Released", "Unsettled"]
    assert ledger_of(rogue.cluster, VICTIM).spent(RUN).epsilon(DELTA) == one_step(rogue.canonical)


def test_a_released_attempt_costs_nothing_of_the_runs_limit() -> None:
    """Where one step fits and two do not, the retry after a certificate fits; without one it does not."""
    cost = one_step(private_bytes())
    rogue = rogue_of(most=cost * 1.01)
    certificate = aborted(rogue)
    retry = rogue.manifest(key=AttemptKey(RUN, 1, 2), nonce=b"\1" * 32, abort_certificates=(certificate,))
    rogue.say(VICTIM, Offer(retry)).accepted("offer")
    other = rogue_of(most=cost * 1.01).reach("input")
    driver = other.cluster.members[VICTIM].driver
    assert driver is not None
    stage = driver.state.stage
    assert isinstance(stage, Inputting)
    frame = replace(stage.frame, t0=b"\1" * 32)
    with pytest.raises(Exception, match="above the limit of the plan") as caught:
        spending.check(driver.state, frame)
    assert getattr(caught.value, "code", "") == "budget_spent"


def test_a_member_whose_input_was_not_counted_pays_all_the_same() -> None:
    """Its header left; whether a sum with it can open is not for it to know."""
    plan = private_bytes(rounds=1)
    cluster = federation(plan=plan)
    died = die_after(cluster, VICTIM, "input", 1)
    cluster.start_run(RUN, plan)
    cluster.play(lambda: RUN in cluster.memory.runs and cluster.memory.runs[RUN][1] == "ended", 200_000.0)
    assert died
    assert len(cluster.memory.sums) == 1
    assert standing(cluster, VICTIM) == ["Unsettled"]
    assert ledger_of(cluster, VICTIM).spent(RUN).epsilon(DELTA) == one_step(plan)
    assert all(standing(cluster, org) == ["Settled"] for org in FIVE if org != VICTIM)


# --- D6, D8: nothing that the coordinator sees depends on the data ----------------------------------------------------

MORE = b"0.5,0.25,0.125,0.5,0.75,1\n"
"""One record more."""


def with_one_more(cluster: Cluster, org: OrgId) -> None:
    """The organisation's table gains a record while its process is restarted."""
    member = cluster.members[org]
    cluster.kill_member(org)
    member.data = {"table": member.data["table"] + MORE}
    cluster.start_member(org)
    cluster.settle()


def view(cluster: Cluster, org: OrgId) -> list[tuple[str, int]]:
    """What the coordinator sees of a member: kinds and sizes, in order. Contents are keys, masks and signatures."""
    return [
        (type(parse(one)).__name__, len(one.data)) for one in cluster.sent if one.org_id == org and not one.outward
    ] + [("upload", len(data)) for name, _, data in cluster.uploads if name == org]


@pytest.mark.parametrize("before", ["private", "exact"])
def test_d6_a_record_added_between_two_runs_changes_nothing_that_is_seen(before: str) -> None:
    """The first run private (the same plan), or without differential privacy and of the same first model."""
    plan = private_bytes(rounds=1)
    first = plan if before == "private" else plan_bytes(standardise="range", rounds=1)
    views = []
    for grows in (False, True):
        cluster = federation(plan=plan)
        for member in cluster.members.values():
            member.accepted = frozenset({plans.plan_hash(plan), plans.plan_hash(first)})
        for org in FIVE:
            cluster.kill_member(org)
            cluster.start_member(org)
        cluster.start_run(RUN, first)
        cluster.play(lambda cluster=cluster: cluster.ended(RUN), 200_000.0)  # type: ignore[misc]
        assert cluster.memory.runs[RUN][2] == "finished"
        if grows:
            with_one_more(cluster, VICTIM)
        else:
            cluster.kill_member(VICTIM)
            cluster.start_member(VICTIM)
            cluster.settle()
        second = RunId("run-2")
        cluster.start_run(second, plan)
        cluster.play(lambda cluster=cluster: cluster.ended(RunId("run-2")), 200_000.0)  # type: ignore[misc]
        assert cluster.memory.runs[second][2] == "finished"
        views.append(view(cluster, VICTIM))
        assert standing(cluster, VICTIM, second) == ["Settled"]
    assert views[0] == views[1]


def test_d8_a_record_added_within_a_run_changes_nothing_that_is_seen() -> None:
    plan = private_bytes(rounds=3)
    views = []
    for grows in (False, True):
        cluster = federation(plan=plan)

        def again(cluster: Cluster = cluster, grows: bool = grows) -> None:
            member = cluster.members[VICTIM]
            member.data = {"table": member.data["table"] + (MORE if grows else b"")}
            cluster.start_member(VICTIM)

        assert not die_after(cluster, VICTIM, "done", 1, again)
        cluster.start_run(RUN, plan)
        cluster.play(lambda cluster=cluster: cluster.ended(RUN), 200_000.0)  # type: ignore[misc]
        assert cluster.memory.runs[RUN][2] == "finished"
        views.append(view(cluster, VICTIM))
        assert standing(cluster, VICTIM) == ["Settled"] * 3
    assert views[0] == views[1]


def test_without_differential_privacy_data_that_changes_within_a_run_is_refused() -> None:
    """The control: there a run is over one version, and that it changed is said."""
    plan = plan_bytes(standardise="range", rounds=3)
    cluster = federation(plan=plan)

    def again() -> None:
        member = cluster.members[VICTIM]
        member.data = {"table": member.data["table"] + MORE}
        cluster.start_member(VICTIM)

    died = die_after(cluster, VICTIM, "done", 1, again)
    cluster.start_run(RUN, plan)
    cluster.play(lambda: cluster.ended(RUN), 20_000.0)
    assert died
    said = [parse(one) for one in cluster.sent if one.org_id == VICTIM and not one.outward]
    assert Refusal(AttemptKey(RUN, 2, 1), "data_changed") in said


# --- D2, D3: another run is another sample ----------------------------------------------------------------------------


def test_two_runs_of_one_plan_draw_two_samples_and_are_charged_twice() -> None:
    plan = private_bytes(rounds=1, sample=0.5, noise="noise_multiplier: 0.5")
    cluster = federation(names=THREE, plan=plan)
    samples = []
    for number in (1, 2):
        run_id = RunId(f"run-{number}")
        seen: dict[OrgId, np.ndarray] = {}

        def saved(kind: str, key: AttemptKey, seen: dict[OrgId, np.ndarray] = seen) -> None:
            if kind == "advert":
                (made,) = journal(cluster, VICTIM).updates.values()
                seen[VICTIM] = made.values.copy()

        journal(cluster, VICTIM).on_save = saved
        cluster.start_run(run_id, plan)
        cluster.play(lambda run_id=run_id: cluster.ended(run_id), 200_000.0)  # type: ignore[misc]
        samples.append(seen[VICTIM])
        assert not journal(cluster, VICTIM).updates, "what was opened is forgotten"
    assert not np.array_equal(*samples)
    ledger = ledger_of(cluster, VICTIM)
    assert ledger.spent(RunId("run-1")).curve.at(2) == ledger.spent(RunId("run-2")).curve.at(2)
    assert ledger.lifetime().curve.at(2) == pytest.approx(2 * ledger.spent(RUN).curve.at(2))
    assert math.isfinite(ledger.lifetime().lifetime_epsilon(DELTA))
