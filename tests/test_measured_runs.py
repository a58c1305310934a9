"""Whole private runs that measure their models: figures near the true ones, both ledgers, budgets, restarts; and what
opened, coordinate by coordinate, beside what was charged.
"""

from fractions import Fraction

import numpy as np
import pytest
from encrypted_federation import KEY_ID, encrypted_federation
from federation import FIVE, RUN, THREE, federation, journal
from fedveil_common import decode, layout, modelfile, prediction, private_sum, provenance
from fedveil_common import plan as plans
from fedveil_common.dp import budget
from fedveil_common.dp.charge import Rows
from fedveil_common.ids import OrgId
from fedveil_common.messages import Purpose
from fedveil_common.plan import Plan
from fedveil_coordinator import reporting
from fedveil_coordinator.run import RunState
from fedveil_participant import update
from fedveil_participant.data.csv_source import read_table
from fedveil_participant.data.in_memory import in_memory
from fedveil_participant.data.prepare import prepare
from fedveil_simulation.cluster import Cluster
from measuring_plans import measuring, privacy_of
from numpy.typing import NDArray
from private_federation import private_bytes, private_plan, settled_sum

ENCRYPTED = f"paillier, key: {KEY_ID}"

# --- whole runs -------------------------------------------------------------------------------------------------------


def survey(index: int, rows: int, persons: bool = False) -> dict[str, bytes]:
    """A table whose outcome follows its first column, with errors."""
    draw = np.random.default_rng(index)
    lines = [("who," if persons else "") + "f0,f1,f2,f3,f4,y"]
    for row in range(rows):
        values = draw.uniform(0, 1, 5)
        outcome = int(values[0] + 0.2 * draw.normal() > 0.5)
        who = f"p{index}-{row // 3}," if persons else ""
        lines.append(who + ",".join([*(f"{value:.4f}" for value in values), str(outcome)]))
    return {"table": ("\n".join(lines) + "\n").encode()}


def cluster_of(plan: Plan, rows: int, persons: bool = False) -> Cluster:
    canonical = plans.canonical(plan)
    cluster = encrypted_federation(plan=canonical) if plan.protection.key else federation(plan=canonical)
    for org, member in cluster.members.items():
        cluster.kill_member(org)
        member.data = survey(FIVE.index(org), rows, persons)
        cluster.start_member(org)
    cluster.settle()
    return cluster


def ended(cluster: Cluster, plan: Plan) -> str:
    cluster.start_run(RUN, plans.canonical(plan))
    cluster.play(lambda: cluster.ended(RUN), 400_000.0)
    return cluster.memory.runs[RUN][2]


def ledger_of(cluster: Cluster, org: OrgId) -> budget.Ledger:
    return budget.fold(one.entry for one in cluster.members[org].memory.kept.ledger)


def truth(
    cluster: Cluster, plan: Plan, model: NDArray[np.float32], lineage: provenance.Lineage
) -> tuple[float, float, float]:
    """Holdout units, accuracy and mean capped loss of a model over all members' tables, in clear; a unit's mean first.
    By the formulas of prediction, which are not those of `measured`.
    """
    units, right, loss = 0, 0.0, 0.0
    for org, member in cluster.members.items():
        source = read_table([in_memory(org, member.data["table"])], org, plan, bytes(32))
        rows = prepare(plan, source, lineage.standardisation).held_out
        scores = prediction.scores(plan, model, rows.inputs)
        is_right = prediction.right(plan, scores, rows.target)
        losses = np.minimum(prediction.losses(plan, model, rows.inputs, rows.target), plan.evaluation.loss_cap)
        for number in range(len(rows.units)):
            chosen, _ = rows.units.rows_of(np.array([number]))
            right += float(is_right[chosen].mean())
            loss += float(losses[chosen].mean())
        units += len(rows.units)
    return units, right / units, loss / units


@pytest.mark.parametrize("kind", ["masked", ENCRYPTED])
@pytest.mark.parametrize("persons", [False, True])
def test_a_whole_run_measures_its_models_and_charges_for_it(kind: str, persons: bool) -> None:
    """Each figure is within four of the deviations that are told beside it, and so is most of them within one; both
    ledgers have spent what the plan says, to the last bit.
    """
    plan = measuring(
        rounds=3,
        kind=kind,
        noise="noise_multiplier: 0.5",
        more=", loss_cap: 2.0",
        most=1000.0,
        rate=4.0,
        person="person: who" if persons else "",
    )
    cluster = cluster_of(plan, 300, persons)
    assert ended(cluster, plan) == "finished"
    state = cluster.coordinator.state_of(RUN)
    assert [record.purpose for record in state.records] == [Purpose.TRAIN] * 3 + [Purpose.EVALUATE]
    lineage, off = provenance.begin(plan, None), []
    for record in state.records:
        units, accuracy, loss = truth(cluster, plan, lineage.model, lineage)
        told = reporting.round_report(reporting.Prices(plan), record, None)["noise"]
        assert isinstance(told, dict)
        assert record.rows is not None
        assert record.accuracy is not None
        assert record.loss is not None
        off += [(record.rows - units) / told["rows"], (record.accuracy - accuracy) / told["accuracy"]]
        off.append((record.loss - loss) / told["loss"])
        if record.purpose is Purpose.TRAIN:
            lineage = provenance.advance(lineage, cluster.memory.read_sum(RUN, record.round))
    assert max(map(abs, off)) < 4
    assert 0.3 < np.mean(np.abs(off)) < 1.5
    last = state.records[-1]
    assert (last.accuracy or 0.0) > 0.6, "and the model has learned something"
    due = private_sum.spent(plan, privacy_of(plan), 4)
    report = reporting.privacy_report(state)
    assert isinstance(report, dict)
    assert report["epsilon"] == due
    for org in cluster.members:
        assert ledger_of(cluster, org).spent(RUN).epsilon(1e-5) == due
        assert len(ledger_of(cluster, org).account(RUN).attempts) == 4


def test_a_budget_ends_the_run_before_the_sum_that_only_holdout_records_would_pay_for() -> None:
    """The steps fit and the last measurement does not: the model of the last step is signed and stored, unmeasured."""
    whole = measuring(rounds=3, sample=0.001, noise="noise_multiplier: 1.0", most=1000.0)
    privacy = privacy_of(whole)
    most = (private_sum.spent(whole, privacy, 3) + private_sum.spent(whole, privacy, 4)) / 2
    plan = measuring(rounds=3, sample=0.001, noise="noise_multiplier: 1.0", most=most)
    assert private_sum.costs(plan, privacy_of(plan), 3)[0] < private_sum.costs(plan, privacy_of(plan), 3)[1]
    cluster = cluster_of(plan, 60)
    assert ended(cluster, plan) == "budget_spent"
    assert len(cluster.memory.sums) == 3
    for org, member in cluster.members.items():
        assert ledger_of(cluster, org).spent(RUN).epsilon(1e-5) == private_sum.spent(plan, privacy_of(plan), 3) <= most
        (end,) = member.memory.ends.values()
        assert modelfile.read_model(end[2]).model.any()


def test_a_coordinator_that_goes_on_measuring_is_refused_by_everyone(monkeypatch: pytest.MonkeyPatch) -> None:
    plan = measuring(rounds=20, sample=0.001, most=2.5)
    allowed = private_sum.sums_allowed(plan, privacy_of(plan))
    assert 0 < allowed < 20
    cluster = cluster_of(plan, 60)
    monkeypatch.setattr(RunState, "budget_spent", property(lambda self: False))
    cluster.start_run(RUN, plans.canonical(plan))
    cluster.play(lambda: cluster.ended(RUN), 20_000.0)
    assert len(cluster.memory.sums) == allowed
    for org in cluster.members:
        assert "budget_spent" in [dict(facts).get("code") for _, facts in journal(cluster, org).notes]
        assert ledger_of(cluster, org).spent(RUN).epsilon(1e-5) <= 2.5


def test_evaluating_more_rarely_leaves_more_steps() -> None:
    often, rarely = (measuring(rounds=40, every=every, sample=0.001, most=2.5) for every in (1, 10))
    assert private_sum.steps_allowed(often, privacy_of(often)) < 20
    assert private_sum.steps_allowed(rarely, privacy_of(rarely)) == 40


def test_a_run_goes_on_after_restarts_with_the_same_figures() -> None:
    """Coordinator and members die after each sum: what was measured, charged and opened is folded again."""
    plan = measuring(rounds=3, noise="noise_multiplier: 0.5", more=", loss_cap: 2.0", most=1000.0, rate=4.0)
    cluster = cluster_of(plan, 200)
    cluster.start_run(RUN, plans.canonical(plan))
    for number in range(1, 4):
        cluster.play(lambda number=number: len(cluster.memory.sums) >= number, 200_000.0)  # type: ignore[misc]
        before = cluster.coordinator.state_of(RUN)
        cluster.restart_coordinator()
        for org in THREE:
            cluster.kill_member(org)
            cluster.start_member(org)
        after = cluster.coordinator.state_of(RUN)
        assert (after.records, after.losses, after.best_loss) == (before.records, before.losses, before.best_loss)
    cluster.play(lambda: cluster.ended(RUN), 400_000.0)
    assert cluster.memory.runs[RUN][2] == "finished"
    for org in cluster.members:
        assert ledger_of(cluster, org).spent(RUN).epsilon(1e-5) == private_sum.spent(plan, privacy_of(plan), 4)


def test_the_stopping_rule_reads_noisy_losses_and_everyone_stops_with_the_same_model() -> None:
    """Post-processing: the losses are those in the sums; the best model is the final one at every participant."""
    plan = measuring(
        rounds=30,
        noise="noise_multiplier: 1.0",
        more=", loss_cap: 2.0, stop: {patience: 2, min_delta: 0.02}",
        most=1000.0,
        rate=2.0,
    )
    cluster = cluster_of(plan, 400)
    assert ended(cluster, plan) == "finished"
    state = cluster.coordinator.state_of(RUN)
    assert state.verdict.stopped
    assert len(state.records) < 31
    best = min(state.losses[: state.verdict.best], key=lambda one: one[1])[0] if state.verdict.best else 0
    assert best == state.verdict.best
    lineage = provenance.begin(plan, None)
    for number in range(1, best + 1):
        lineage = provenance.advance(lineage, settled_sum(cluster, plan, number))
    for org, member in cluster.members.items():
        (end,) = member.memory.ends.values()
        np.testing.assert_array_equal(modelfile.read_model(end[2]).model, lineage.model)
        spent = ledger_of(cluster, org).spent(RUN).epsilon(1e-5)
        assert spent == private_sum.spent(plan, privacy_of(plan), len(state.records))


# --- what opened, beside what was charged -----------------------------------------------------------------------------


def uncovered(cluster: Cluster, plan: Plan) -> list[str]:
    """Every opened coordinate of the run that no ledger entry covers, at the coordinator or at a participant.

    From what was interpreted at run time: block by block, against the entry of its very attempt.
    """
    state, found = cluster.coordinator.state_of(RUN), []
    ledgers = {org: ledger_of(cluster, org).account(RUN).attempts for org in cluster.members}
    for record in state.records:
        listed = reporting.round_report(reporting.Prices(plan), record, None)["opened"]
        assert isinstance(listed, list)
        if sum(one["coordinates"] for one in listed) != len(cluster.memory.read_sum(RUN, record.round)):
            found.append(f"round {record.round}: not every coordinate is listed")
        for one in listed:
            name = f"round {record.round}: {one['block']}"
            if not one["charged"]:
                found.append(name)
                continue
            for org, attempts in ledgers.items():
                (entry,) = [
                    standing
                    for key, standing in attempts.items()
                    if (key.attempt.round, key.attempt.attempt) == (record.round, record.attempt)
                ]
                assert isinstance(entry, budget.Settled)
                curve = {"training": entry.charged.training, "holdout": entry.charged.holdout}[one["records"]]
                if not all(rho > 0 for rho in curve.rho):
                    found.append(f"{name} at {org}")
    return found


@pytest.mark.parametrize(
    ("kind", "by"), [("masked", "participants"), (ENCRYPTED, "participants"), (ENCRYPTED, "coordinator")]
)
def test_every_opened_coordinate_has_its_entry_in_both_ledgers(kind: str, by: str) -> None:
    plan = measuring(rounds=3, every=2, kind=kind, by=by)
    cluster = cluster_of(plan, 60)
    assert ended(cluster, plan) == "finished"
    assert uncovered(cluster, plan) == []
    blocks = [[name for name, _ in record.opened] for record in cluster.coordinator.state_of(RUN).records]
    holdout = ["holdout", "correct", "neg", "pos", "loss"]
    assert blocks == [["update", *holdout], ["update"], ["update", *holdout], holdout]


def test_a_block_more_than_is_charged_shows_in_the_list(monkeypatch: pytest.MonkeyPatch) -> None:
    """The check of layouts is taken out, and one block more is laid out, summed, opened and interpreted."""
    monkeypatch.setattr(private_sum, "check_priced", lambda *_: None)
    honest = layout._layout

    def longer(plan: Plan, purpose: Purpose, step: int) -> layout.Layout:
        return layout.Layout((*honest(plan, purpose, step).blocks, layout.Block("minutes", 2, 1.0, 1.0)))

    monkeypatch.setattr(layout, "_layout", longer)
    contribution = update.contribution
    monkeypatch.setattr(update, "contribution", lambda *args: [*contribution(*args), np.zeros(2)])
    plan = measuring(rounds=1)
    cluster = cluster_of(plan, 60)
    assert ended(cluster, plan) == "finished"
    assert uncovered(cluster, plan) == ["round 1: minutes", "round 2: minutes"]


def test_a_coordinate_that_nobody_interprets_shows_too(monkeypatch: pytest.MonkeyPatch) -> None:
    plan = private_plan(rounds=1)
    honest = decode.decode

    def silent(shape: layout.Layout, sums: NDArray[np.int64], record: decode.Record | None = None) -> object:
        return honest(shape, sums, None)

    monkeypatch.setattr(decode, "decode", silent)
    cluster = cluster_of(plan, 60)
    assert ended(cluster, plan) == "finished"
    assert uncovered(cluster, plan) == ["round 1: not every coordinate is listed"]


def test_the_charge_of_a_sum_that_measures_names_no_more_than_it_covers() -> None:
    plan = measuring(every=2)
    holdout = dict.fromkeys(["holdout", "correct", "neg", "pos", "loss"], Rows.HOLDOUT)
    found = [
        private_sum.charged_blocks(plan, privacy_of(plan), purpose, step)
        for purpose, step in ((Purpose.TRAIN, 0), (Purpose.TRAIN, 1), (Purpose.EVALUATE, 3))
    ]
    assert found == [{"update": Rows.TRAINING, **holdout}, {"update": Rows.TRAINING}, holdout]
    one = private_sum.measure_cap(plan, privacy_of(plan))
    shift = private_sum.mechanism(plan, privacy_of(plan), Purpose.TRAIN, 0).squared_shift(Rows.HOLDOUT)
    assert shift == Fraction(4 * one**2, private_sum.grid(plan, privacy_of(plan)).variance)
    assert private_bytes(evaluation="evaluation: {holdout: 0.2}").count(b'"loss_cap":4') == 1
