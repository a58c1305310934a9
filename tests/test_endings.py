"""How runs end, and with which model, over the in-memory federation: poisoned sums, spent models, newcomers, reused
answers, a member whose data fails. The models are compared with a walk made here from the participants' own inputs.
"""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from fedveil_common import modelfile, provenance, sanity
from fedveil_common import plan as plans
from fedveil_common.decode import Readings
from fedveil_common.errors import IntegrityError, PolicyRefusal
from fedveil_common.ids import OrgId, RunId
from fedveil_common.layout import HOLDOUT, UPDATE, layout_for
from fedveil_common.messages import Purpose, RunEnded
from fedveil_common.plan import Metric, Plan
from fedveil_common.provenance import Lineage
from fedveil_common.secret import Seed
from fedveil_coordinator import facts
from fedveil_coordinator.reporting import run_report
from fedveil_participant.bench import TableBench
from fedveil_simulation.cluster import Cluster
from numpy.typing import NDArray

from tests.federation import FIVE, RUN, THREE, expected_sum, federation, journal, parse, plan_bytes, run, state, trail

AGAIN = RunId("run-2")
Contribution = Callable[[OrgId, Plan, Purpose, int, NDArray[np.float64]], NDArray[np.float64]]


def bent(monkeypatch: pytest.MonkeyPatch, change: Contribution) -> None:
    """Each member's contribution passes through `change(member, plan, purpose, step, values)` before it is encoded."""
    made = TableBench.contribution

    def contribution(
        self: TableBench,
        plan: Plan,
        version: bytes,
        purpose: Purpose,
        lineage: Lineage | None,
        fresh: Callable[[], Seed],
    ) -> list[NDArray[np.float64]]:
        values = np.concatenate(made(self, plan, version, purpose, lineage, fresh))
        org = OrgId(next(iter(self._datasets.values())).parts[0])
        return [change(org, plan, purpose, 0 if lineage is None else lineage.step, values)]

    monkeypatch.setattr(TableBench, "contribution", contribution)


def poisoned(orgs: tuple[OrgId, ...], at: int) -> Contribution:
    """From model step `at` on, these members put the largest value into every coordinate of their update."""

    def change(org: OrgId, plan: Plan, purpose: Purpose, step: int, values: NDArray[np.float64]) -> NDArray[np.float64]:
        if org in orgs and purpose is Purpose.TRAIN and step == at:
            values = values.copy()
            values[layout_for(plan, purpose, step).slices()[UPDATE]] = -plan.protection.update_norm
        return values

    return change


def model_after(cluster: Cluster, canonical: bytes, rounds: list[int], run_id: RunId = RUN) -> NDArray[np.float32]:
    """The model that the sums of these train rounds lead to; sums of the participants' own inputs."""
    lineage = provenance.begin(plans.parse_canonical(canonical), None)
    for number in rounds:
        lineage = provenance.advance(lineage, expected_sum(cluster, number, run_id))
    return lineage.model


def stored(cluster: Cluster, org: OrgId, run_id: RunId = RUN) -> modelfile.ModelFile:
    """The model file that a member keeps, its signature verified."""
    file = modelfile.read_model(cluster.members[org].memory.ends[run_id][2])
    modelfile.verify_model(file, cluster.charter.roster.coordinator_key)
    return file


def verdicts(cluster: Cluster) -> list[str]:
    """What was wrong with each opened sum of the run, in order; an empty word for nothing."""
    applied = [facts.decode(kind, body) for kind, body in cluster.memory.facts(RUN) if kind == "SumApplied"]
    return [fact.rejected for fact in applied if isinstance(fact, facts.SumApplied)]


@pytest.mark.parametrize(
    ("liars", "check", "rejected", "measured"),
    [(THREE[:2], "check_norm", "norm", 2), (THREE[:1], "check_loss", "loss", 3)],
)
def test_a_poisoned_sum_ends_the_run_with_the_model_before_it(
    liars: tuple[OrgId, ...], check: str, rejected: str, measured: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two liars of three exceed what honest norms can give, at once; one alone is seen in the loss, one sum later."""
    canonical = plan_bytes(rounds=4)
    honest = federation(THREE, plan=canonical)
    assert run(honest, canonical) == "finished"
    assert verdicts(honest) == [""] * 5

    bent(monkeypatch, poisoned(liars, 1))
    cluster = federation(THREE, plan=canonical)
    assert run(cluster, canonical) == "model_rejected"
    assert verdicts(cluster) == [""] * (measured - 1) + [rejected]
    current = model_after(cluster, canonical, [1])
    for org in THREE:
        file = stored(cluster, org)
        np.testing.assert_array_equal(file.model, current)
        assert cluster.members[org].memory.ends[RUN][1] == "model_rejected"
        # the model that led here is spent, on every side: the same plan cannot be summed again
    assert run(cluster, canonical, AGAIN) == "model_spent"
    for org in THREE:
        assert {key.run_id for _, key, _ in journal(cluster, org).trail} == {RUN}

    monkeypatch.setattr(sanity, check, lambda *arguments: None)
    cluster = federation(THREE, plan=canonical)
    run(cluster, canonical)
    assert rejected not in verdicts(cluster)
    assert len(state(cluster).records) > measured


def test_the_last_model_is_measured_before_it_is_signed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Poison in the last train sum: only the sum of purpose evaluate can tell; the run ends with the model before."""
    canonical = plan_bytes(rounds=2)
    bent(monkeypatch, poisoned(THREE[:1], 1))
    cluster = federation(THREE, plan=canonical)
    assert run(cluster, canonical) == "model_rejected"
    assert [record.purpose for record in state(cluster).records] == [Purpose.TRAIN, Purpose.TRAIN, Purpose.EVALUATE]
    assert verdicts(cluster) == ["", "", "loss"]
    np.testing.assert_array_equal(stored(cluster, THREE[1]).model, model_after(cluster, canonical, [1]))


def test_one_members_failing_update_stops_that_member_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    def change(org: OrgId, plan: Plan, purpose: Purpose, step: int, values: NDArray[np.float64]) -> NDArray[np.float64]:
        if org == FIVE[1] and step == 1:
            raise PolicyRefusal("update_not_finite", "the update holds values that are not numbers")
        return values

    canonical = plan_bytes(rounds=3)
    bent(monkeypatch, change)
    cluster = federation(plan=canonical)
    assert run(cluster, canonical) == "finished"
    records = state(cluster).records
    survivors = {record.round: set(record.survivors) for record in records if record.purpose is Purpose.TRAIN}
    assert survivors[1] == set(FIVE)
    assert survivors[2] == set(FIVE) - {FIVE[1]}
    assert "update_failed" in trail(cluster, FIVE[1], 2)
    assert not {"advert", "shares", "input"} & set(trail(cluster, FIVE[1], 2)), "nothing left its house"
    np.testing.assert_array_equal(stored(cluster, FIVE[1]).model, stored(cluster, FIVE[0]).model)


def test_a_newcomer_derives_every_model_before_it_trains() -> None:
    """It accepts no model from anyone: it downloads the signed sums and walks from the seed."""
    canonical = plan_bytes(rounds=4)
    cluster = federation(plan=canonical, start=False)
    late = FIVE[4]
    for org in FIVE[:4]:
        cluster.start_member(org)
    cluster.settle()
    fetched: list[int] = []
    download = cluster.download
    cluster.download = lambda run_id, number: (fetched.append(number), download(run_id, number))[1]  # type: ignore[method-assign]
    cluster.start_run(RUN, canonical)
    opened = lambda: sum(kind == "SumApplied" for kind, _ in cluster.memory.facts(RUN)) >= 2  # noqa: E731
    once = cluster._once
    while not opened():
        assert once() or cluster.pass_time()
    fetched.clear()
    cluster.start_member(late)
    cluster.play(lambda: cluster.ended(RUN))
    joined = [record.round for record in state(cluster).records if late in record.survivors]
    assert joined
    assert joined[0] > 2
    assert {1, 2} <= set(fetched)
    np.testing.assert_array_equal(stored(cluster, late).model, model_after(cluster, canonical, [1, 2, 3, 4]))


def test_a_second_run_reuses_the_answer_to_the_same_question() -> None:
    """Means and deviations are opened once for a data version (A1, A2); the next run names that sum and uses it."""
    first, second = plan_bytes(rounds=1, standardise="federated"), plan_bytes(rounds=1, standardise="federated", seed=8)
    cluster = federation(THREE, plan=first)
    for member in cluster.members.values():
        cluster.members[member.org_id] = replace(member, accepted=frozenset(map(plans.plan_hash, (first, second))))
    for org in THREE:
        cluster.kill_member(org)
        cluster.start_member(org)
    assert run(cluster, first) == "finished"
    assert run(cluster, second, AGAIN) == "finished"
    purposes = {name: [record.purpose for record in state(cluster, name).records] for name in (RUN, AGAIN)}
    assert purposes == {
        RUN: [Purpose.STANDARDISE, Purpose.TRAIN, Purpose.EVALUATE],
        AGAIN: [Purpose.TRAIN, Purpose.EVALUATE],
    }
    one, other = (stored(cluster, THREE[0], name) for name in (RUN, AGAIN))
    np.testing.assert_array_equal(one.standardisation.mean, other.standardisation.mean)
    assert one.standardisation.mean.any()
    assert not np.array_equal(one.model, other.model)


@pytest.mark.parametrize("members", [THREE, FIVE])
def test_a_run_that_wants_more_members_than_there_are_waits_and_says_so(members: tuple[OrgId, ...]) -> None:
    canonical = plan_bytes(min_participants=20, wait_s=60)
    cluster = federation(members, plan=canonical)
    assert run(cluster, canonical) == "not_enough_participants"
    assert cluster.clock.monotonic_s() >= 60
    assert not cluster.memory.sums
    ends = [parse(packet) for packet in cluster.sent if packet.outward]
    assert {end.code for end in ends if isinstance(end, RunEnded)} == {"not_enough_participants"}
    for org in members:
        assert cluster.members[org].memory.ends[RUN][1:] == ("not_enough_participants", b"")


def test_a_rejected_model_gives_way_to_the_last_one_that_was_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    """Evaluation is due every third step: the model before the rejected one was never measured, so it is not signed."""
    bent(monkeypatch, poisoned(THREE[:1], 1))
    canonical = plan_bytes(rounds=7, every=3)
    cluster = federation(THREE, plan=canonical)
    assert run(cluster, canonical) == "model_rejected"
    assert verdicts(cluster)[-1] == "loss"
    assert state(cluster).step == 3
    assert {journal(cluster, org).ends[RUN][2] for org in THREE} == {b""}, "the first model is the last good one"
    monkeypatch.undo()
    bent(monkeypatch, poisoned(THREE[:1], 4))
    cluster = federation(THREE, plan=canonical)
    assert run(cluster, canonical) == "model_rejected"
    np.testing.assert_array_equal(stored(cluster, THREE[0]).model, model_after(cluster, canonical, [1, 2, 3]))


def hiding(at: int) -> Contribution:
    """From step `at` on the first member poisons its update, and takes everyone's holdout rows off the sum."""

    def change(org: OrgId, plan: Plan, purpose: Purpose, step: int, values: NDArray[np.float64]) -> NDArray[np.float64]:
        values = poisoned(THREE[:1], at)(org, plan, purpose, step, values).copy()
        where = layout_for(plan, purpose, step).slices()
        if org == THREE[0] and HOLDOUT in where and step > at:
            values[where[HOLDOUT]] = -float(plan.training.weight_cap)
        return values

    return change


def test_taking_holdout_rows_off_does_not_switch_the_loss_check_off(monkeypatch: pytest.MonkeyPatch) -> None:
    """Stopped by `sanity.check_measures` (nothing can be held out a negative number of times) and by
    `sanity.check_still_measured`; with both replaced the poisoned model is signed as finished.
    """
    canonical = plan_bytes(rounds=4)
    bent(monkeypatch, hiding(1))
    cluster = federation(THREE, plan=canonical)
    assert run(cluster, canonical) == "model_rejected"
    np.testing.assert_array_equal(stored(cluster, THREE[0]).model, model_after(cluster, canonical, [1]))
    monkeypatch.setattr(sanity, "check_measures", lambda *arguments: None)
    cluster = federation(THREE, plan=canonical)
    assert run(cluster, canonical) == "model_rejected"
    monkeypatch.setattr(sanity, "check_still_measured", lambda *arguments: None)
    cluster = federation(THREE, plan=canonical)
    assert run(cluster, canonical) == "finished"


@pytest.mark.parametrize(
    ("name", "value"),
    [("holdout", -1.0), ("holdout", 1e6), ("correct", 1e6), ("neg", -50.0), ("loss", -5.0), ("loss", 1e9)],
)
def test_measures_that_no_rows_can_give(name: str, value: float) -> None:
    plan = plans.parse_canonical(plan_bytes())
    plan = replace(plan, evaluation=replace(plan.evaluation, metrics=(Metric.LOSS, Metric.ACCURACY, Metric.AUC)))
    blocks = layout_for(plan, Purpose.EVALUATE, plan.training.rounds).blocks
    values = {block.name: np.zeros(block.length) for block in blocks}
    values |= {"holdout": np.array([30.0]), "correct": np.array([20.0]), "loss": np.array([21.0])}
    values["neg"][3], values["pos"][40] = 10.0, 20.0

    def opened() -> dict[str, Readings]:
        return {name: Readings(one, 1.0) for name, one in values.items()}  # type: ignore[arg-type]

    sanity.check_measures(plan, opened(), 3)
    values[name][0] = value
    with pytest.raises(IntegrityError) as caught:
        sanity.check_measures(plan, opened(), 3)
    assert caught.value.code == "model_rejected"


def test_a_run_that_waited_in_vain_says_who_was_missing_also_after_a_restart() -> None:
    canonical = plan_bytes(min_participants=4, wait_s=60)
    cluster = federation(FIVE[:4], plan=canonical, start=False)
    for org in FIVE[:2]:
        cluster.start_member(org)
    cluster.members[FIVE[2]].accepted = frozenset()
    cluster.start_member(FIVE[2])
    cluster.settle()
    assert run(cluster, canonical) == "not_enough_participants"
    for _ in range(2):
        report = run_report(state(cluster), "ended", cluster.clock.monotonic_s(), {})
        assert report["missing"] == {FIVE[2]: "consent_pending", FIVE[3]: ""}
        cluster.restart_coordinator()
