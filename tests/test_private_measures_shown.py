"""What people see of measures under noise: their price in `plan explain`, their deviation, and what opened beside what
was charged in `run show --opened`.
"""

import json
import pathlib

import pytest
from federation import RUN, federation
from fedveil_cli import main, run_commands
from fedveil_common import plan as plans
from fedveil_common import private_sum
from fedveil_common.messages import Purpose
from fedveil_common.plan import Plan
from fedveil_coordinator import reporting
from fedveil_simulation.cluster import Cluster
from private_federation import PLAN, SETTINGS

MEASURED = "evaluation: {every: 1, metrics: [loss, accuracy], holdout: 0.4, loss_cap: 2.0}"


def text_of(**settings: object) -> str:
    return PLAN.format(**{**SETTINGS, "evaluation": MEASURED, **settings})


def plan_of(text: str) -> Plan:
    return plans.parse_plan(text.encode(), "plan.yaml")


def said(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, object]:
    assert main.main([*arguments, "--json"]) == 0
    value = json.loads(capsys.readouterr().out)
    assert isinstance(value, dict)
    return value


@pytest.mark.parametrize(
    ("settings", "verdict"),
    [
        ({"rounds": 10, "sample": 1.0}, "Training is what costs more here"),
        ({"rounds": 10, "sample": 0.01}, "with a larger evaluation.every it costs less"),
    ],
)
def test_plan_explain_prints_both_prices_and_which_is_larger(
    settings: dict[str, object], verdict: str, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "plan.yaml"
    file.write_text(text_of(**settings))
    plan = plan_of(file.read_text())
    assert plan.privacy is not None
    training, holdout = private_sum.costs(plan, plan.privacy, 11)
    statements = said(capsys, "plan", "explain", str(file))["statements"]
    assert isinstance(statements, list)
    told = {one["id"]: one for one in statements}
    price = told["price_of_measuring"]
    assert price["figures"] == {
        "epsilon_of_training": training,
        "epsilon_of_holdout": holdout,
        "sums_that_measure": 11,
    }
    assert verdict in price["text"]
    assert f"{training:.3g}" in price["text"]
    assert f"{holdout:.3g}" in price["text"]
    assert told["noisy_sums"]["figures"]["sums"] == 11
    assert told["noisy_sums"]["figures"]["epsilon"] == private_sum.spent(plan, plan.privacy, 11)
    noise = told["noise_on_measures"]["figures"]
    assert noise["noise_of_a_count"] == pytest.approx(8.0, rel=0.01)
    assert noise["holdout_expected"] == 400
    checked = said(capsys, "plan", "check", str(file))["privacy"]
    assert isinstance(checked, dict)
    assert (checked["sums_allowed"], checked["epsilon_of_holdout"]) == (11, holdout)


def test_plan_explain_says_when_so_few_are_held_out_that_nothing_is_measured(
    tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "plan.yaml"
    file.write_text(text_of(rows=70))
    assert main.main(["plan", "explain", str(file)]) == 0
    assert "below 32" in capsys.readouterr().out


class Admin:
    """The coordinator of a cluster as `run show` asks it."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster

    def get_run(self, run_id: str) -> dict[str, object]:
        state = self._cluster.coordinator.state_of(RUN)
        return json.loads(json.dumps(reporting.run_report(state, "ended", 0.0, {})))  # type: ignore[no-any-return]

    def get_round(self, run_id: str, number: int) -> dict[str, object]:
        rounds = self.get_run(run_id)["rounds"]
        assert isinstance(rounds, list)
        return rounds[number - 1]  # type: ignore[no-any-return]


def shown(plan: bytes, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    cluster = federation(plan=plan)
    cluster.start_run(RUN, plan)
    cluster.play(lambda: cluster.ended(RUN), 200_000.0)
    monkeypatch.setattr(run_commands, "connect", lambda home: Admin(cluster))
    assert main.main([*arguments]) == 0
    return capsys.readouterr().out


def test_run_show_lists_what_opened_beside_its_entry(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    plan = plan_of(text_of(rounds=1, noise="noise_multiplier: 0.3", most=1000.0, rows=200))
    assert plan.privacy is not None
    out = shown(plans.canonical(plan), monkeypatch, capsys, "run", "show", RUN, "--opened")
    sums = ((Purpose.TRAIN, 0), (Purpose.EVALUATE, 1))
    charged = [f"{private_sum.cost_of_sum(plan, plan.privacy, purpose, step):.4g}" for purpose, step in sums]
    listed = [line.split() for line in out.splitlines() if line.split()[2:3] in (["train"], ["evaluate"])]
    opened = [words for words in listed if words[1] == "1" and len(words) == 7]
    assert [tuple(words) for words in opened] == [
        ("1", "1", "train", "update", "6", "training", charged[0]),
        ("1", "1", "train", "holdout", "1", "holdout", charged[0]),
        ("1", "1", "train", "correct", "1", "holdout", charged[0]),
        ("1", "1", "train", "loss", "1", "holdout", charged[0]),
        ("2", "1", "evaluate", "holdout", "1", "holdout", charged[1]),
        ("2", "1", "evaluate", "correct", "1", "holdout", charged[1]),
        ("2", "1", "evaluate", "loss", "1", "holdout", charged[1]),
    ]
    assert "NOT CHARGED" not in out
    assert "+-" in out, "each figure with its deviation"


def test_a_block_without_an_entry_is_said_loudly_and_exact_sums_have_none() -> None:
    block = {"block": "minutes", "coordinates": 1, "records": None, "charged": False}
    report = {"rounds": [{"number": 1, "attempt": 1, "purpose": "train", "epsilon": 0.5, "opened": [block]}]}
    assert "NOT CHARGED" in str(run_commands._opened_lines(report))
    exact = {"rounds": [{**report["rounds"][0], "epsilon": None, "opened": [{"block": "update", "coordinates": 1}]}]}
    assert "none: exact" in str(run_commands._opened_lines(exact))


def test_round_show_says_what_opened_and_its_noise(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    plan = plan_of(text_of(rounds=1, noise="noise_multiplier: 0.3", most=1000.0, rows=200))
    out = shown(plans.canonical(plan), monkeypatch, capsys, "round", "show", RUN, "1")
    assert "opened: update, 6" in out
    assert "noise of loss:" in out
