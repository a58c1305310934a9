"""Early stopping: the rule, the end of a run under it, and who may say that a run has ended, and with which model."""

import json
from dataclasses import replace

import pytest
from federation import PLAN, RUN, SETTINGS, THREE, check_sums, federation, journal, run, state, trail
from fedveil_common import modelfile, provenance, stopping
from fedveil_common import plan as plans
from fedveil_common.messages import SignedBlob
from fedveil_common.plan import PlanError, StopSpec
from fedveil_coordinator import run as runs
from fedveil_participant import checks
from fedveil_simulation.cluster import Cluster


def nothing(*arguments: object) -> None:
    """A check that is not there."""


def text(stop: str, **settings: object) -> str:
    written = PLAN.format(**{**SETTINGS, "rounds": 8, **settings})
    return written.replace("holdout: 0.2}", f"holdout: 0.2, stop: {stop}}}")


def plan_with(stop: str, **settings: object) -> bytes:
    return plans.canonical(plans.parse_plan(text(stop, **settings).encode(), "p"))


# --- the rule ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("losses", "stopped", "best"),
    [
        ([], False, 0),
        ([0.9], False, 1),
        ([0.9, 0.8, 0.7, 0.6], False, 4),
        ([0.9, 0.8, 0.81, 0.82], True, 2),
        ([0.9, 0.8, 0.81, 0.73, 0.80], False, 4),
        ([0.9, 0.8, 0.75, 0.79], True, 2),  # 0.05 is not more than min_delta
        ([0.9, 0.8, 0.78, 0.73, 0.60, 0.1], False, 6),
        ([0.9, 0.8, 0.81, 0.82, 0.1], True, 2),  # what comes after the end does not count
        ([0.9, 0.9, 0.9], True, 1),
    ],
)
def test_the_rule(losses: list[float], stopped: bool, best: int) -> None:
    found = stopping.verdict(StopSpec(2, 0.0625), list(enumerate(losses, start=1)))
    assert found == stopping.Verdict(stopped, best)


def test_without_a_rule_nothing_stops_and_steps_need_not_be_consecutive() -> None:
    worse = [(3, 0.5), (6, 0.6), (9, 0.7), (12, 0.8)]
    assert stopping.verdict(None, worse) == stopping.Verdict(False, 3)
    assert stopping.verdict(StopSpec(3, 0.0), worse) == stopping.Verdict(True, 3)


@pytest.mark.parametrize(
    ("stop", "code"),
    [
        ("{patience: 0}", "range"),
        ("{min_delta: 0.1}", "missing"),
        ("{patience: 2, min_delta: -1}", "range"),
        ("{patience: 2, metric: auc}", "unknown_field"),
        ("5", "type"),
    ],
)
def test_what_the_section_may_not_say(stop: str, code: str) -> None:
    with pytest.raises(PlanError) as caught:
        plans.parse_plan(text(stop).encode(), "p")
    assert code in {problem.code for problem in caught.value.problems}


def test_the_rule_is_in_the_plan_hash_only_where_there_is_one() -> None:
    canonical = plan_with("{patience: 2}")
    assert json.loads(canonical)["evaluation"]["stop"] == {"patience": 2, "min_delta": 0}
    plan = plans.parse_canonical(canonical)
    assert plans.canonical(plan) == canonical
    without = replace(plan, evaluation=replace(plan.evaluation, stop=None))
    assert "stop" not in json.loads(plans.canonical(without))["evaluation"]


# --- runs under it ----------------------------------------------------------------------------------------------------

SOON = plan_with("{patience: 2, min_delta: 0.5}")
"""No loss is half a nat below the first: the run stops when the model after step 3 is measured, in round 4."""


def derived(cluster: Cluster, step: int) -> bytes:
    lineage = provenance.begin(plans.parse_canonical(SOON), None)
    for number in range(1, step + 1):
        lineage = provenance.advance(lineage, cluster.memory.read_sum(RUN, number))
    return lineage.model_hash


def test_a_run_stops_and_ends_with_its_best_model() -> None:
    """The coordinator and a member are restarted on the way: the losses are folded and walked again."""
    cluster = federation(THREE, plan=SOON)
    cluster.start_run(RUN, SOON)
    once: list[int] = []

    def restart(kind: str, key: object) -> None:
        if kind == "vote" and getattr(key, "round", 0) == 3 and not once:
            once.append(1)

    journal(cluster, THREE[1]).on_save = restart
    while not once and cluster._once():
        pass
    assert once
    cluster.restart_coordinator()
    cluster.kill_member(THREE[0])
    cluster.start_member(THREE[0])
    cluster.play(lambda: cluster.ended(RUN))
    assert cluster.memory.runs[RUN][2] == "finished"
    assert check_sums(cluster) == 4
    found = state(cluster)
    assert [step for step, _ in found.losses] == [1, 2, 3]
    assert found.verdict == stopping.Verdict(True, 1)
    for org in THREE:
        file = modelfile.read_model(journal(cluster, org).ends[RUN][2])
        assert modelfile.parse_manifest(file.signatures[0].body).model_hash == derived(cluster, 1)
        assert json.loads(file.lineage)["steps"] == 1


def test_a_rule_that_never_stops_changes_nothing() -> None:
    patient = plan_with("{patience: 50}", rounds=3)
    cluster = federation(THREE, plan=patient)
    assert run(cluster, patient) == "finished"
    assert check_sums(cluster) == 4
    file = modelfile.read_model(journal(cluster, THREE[0]).ends[RUN][2])
    assert json.loads(file.lineage)["steps"] == 3


def test_a_coordinator_cannot_go_on_past_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """It offers the round after the rule has stopped the run. Stopped by `checks.not_stopped`."""
    going_on = property(lambda run_state: stopping.Verdict(False, 1))
    monkeypatch.setattr(runs.RunState, "verdict", going_on)
    cluster = federation(THREE, plan=SOON)
    run(cluster, SOON, limit_s=30)
    assert all("offer" in trail(cluster, org, 5) for org in THREE)
    assert not any({"advert", "input"} & set(trail(cluster, org, 5)) for org in THREE)
    monkeypatch.setattr(checks, "not_stopped", nothing)
    monkeypatch.setattr(provenance.Lineage, "verdict", going_on)
    cluster = federation(THREE, plan=SOON)
    assert run(cluster, SOON) == "finished"
    assert all("input" in trail(cluster, org, 5) for org in THREE)


def test_a_coordinator_cannot_choose_the_final_model(monkeypatch: pytest.MonkeyPatch) -> None:
    """It signs a model that does follow from the sums, but is not the one that the rule names, or ends a run before its
    last step and calls it finished. Stopped by `checks.final_step`.
    """
    made = runs.sign_model

    def other(run_state: runs.RunState, version: runs.ModelVersion) -> SignedBlob:
        return made(run_state, run_state.versions[1])  # of step 2

    def play(plan: bytes) -> list[bytes]:
        cluster = federation(THREE, plan=plan)
        cluster.start_run(RUN, plan)
        cluster.play(lambda: cluster.ended(RUN), 300)
        assert cluster.memory.runs[RUN][1:] == ("ended", "finished")
        return [journal(cluster, org).ends[RUN][2] if RUN in journal(cluster, org).ends else b"" for org in THREE]

    whole = plan_with("{patience: 50}", rounds=3)
    assert all(play(SOON))
    assert all(play(whole))
    monkeypatch.setattr(runs, "sign_model", other)
    assert not any(play(SOON))
    assert not any(play(whole))
    monkeypatch.setattr(checks, "final_step", nothing)
    assert all(play(SOON))
    assert all(play(whole))
