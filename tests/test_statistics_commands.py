"""Statistics from the command line: what a plan is said to open, what `simulate`, `run show` and `answers` print."""

import json
import pathlib
from collections.abc import Iterator
from typing import Any

import pytest
from federation import THREE
from fedveil_cli import answers_report, explaining_statistics, main
from fedveil_cli.local_federation import LocalFederation
from fedveil_cli.world import real_world
from fedveil_common import layout, private_sum
from fedveil_common import plan as plans
from fedveil_common.masking import quorum
from fedveil_common.messages import Purpose
from fedveil_common.statistics import vector
from private_federation import share
from statistics_federation import (
    Column,
    check_exact,
    columns,
    private,
    statistics_bytes,
    statistics_plan,
    statistics_text,
)


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, dict[str, Any], dict[str, str]]:
    """Exit code, the JSON object on stdout ({} if none), and the error on stderr ({} if none)."""
    exit_code = main.main([*arguments, "--json"])
    out, err = capsys.readouterr()
    errors = [json.loads(line)["error"] for line in err.splitlines() if line.startswith("{")]
    return exit_code, json.loads(out) if out else {}, errors[0] if errors else {}


@pytest.fixture
def place(tmp_path: pathlib.Path) -> pathlib.Path:
    """plan.yaml and hospitals/NAME.csv for three organisations."""
    (tmp_path / "plan.yaml").write_text(statistics_text())
    (tmp_path / "hospitals").mkdir()
    for index, name in enumerate(THREE):
        (tmp_path / "hospitals" / f"{name}.csv").write_bytes(Column(index).csv())
    return tmp_path


def test_plan_check_says_what_is_asked(place: pathlib.Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, value, _ = run(capsys, "plan", "check", str(place / "plan.yaml"), "--participants", "5")
    plan = statistics_plan()
    assert code == 0
    assert value["plan_hash"] == plans.plan_hash(statistics_bytes()).hex()
    assert value["kind"] == "statistics"
    assert value["questions"][:4] == ["rows", "sum of chol", "mean of chol", "variance of chol"]
    assert value["coordinates"] == layout.layout_for(plan, Purpose.STATISTICS, 0).length
    assert value["query"] == layout.query_digest(plan).hex()
    assert not {"model", "rounds", "strategy", "standardise", "first_model"} & value.keys()
    assert {one["use"] for one in value["columns"]} == {"asked about"}
    assert main.main(["plan", "check", str(place / "plan.yaml"), "--participants", "5"]) == 0
    text = capsys.readouterr().out
    assert "questions   rows" in text
    assert "quantiles of chol" in text
    assert f"one sum of {value['coordinates']} figures and cells; cells below 1 rows are not shown" in text
    assert "the sum " in text
    assert "train" not in text


def test_plan_explain_says_what_opens_and_what_bounds_differences(
    place: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, value, _ = run(capsys, "plan", "explain", str(place / "plan.yaml"), "--roster-size", "5")
    assert code == 0
    told = {one["id"]: one for one in value["statements"]}
    assert told["exact_answers"]["figures"] == {"sums": 1, "coordinates": 84, "questions": 8}
    assert "answered once for a version of the data" in told["asked_once"]["text"]
    assert told["smallest_cells"]["figures"]["min_cell"] == 1
    assert told["bytes"]["text"].startswith("The sum takes each participant")
    assert not {"exact_sums", "training_rows", "holdout_rows", "noisy_answers"} & told.keys()


def test_explain_says_the_noise_and_what_it_costs(place: pathlib.Path, capsys: pytest.CaptureFixture[str]) -> None:
    (place / "plan.yaml").write_text(statistics_text(privacy=private(), person="person: person"))
    code, value, _ = run(capsys, "plan", "explain", str(place / "plan.yaml"), "--roster-size", "5")
    assert code == 0
    plan = statistics_plan(privacy=private(), person="person: person")
    assert plan.privacy is not None
    told = {one["id"]: one for one in value["statements"]}
    assert told["noisy_answers"]["figures"]["epsilon"] == private_sum.spent(plan, plan.privacy, 1)
    assert "person (column person), who counts once" in told["noisy_answers"]["text"]
    assert told["noise_of_answers"]["figures"] == {
        "noise_rows": explaining_statistics.row_noise(plan, plan.privacy),
        "parts": 8,
    }
    assert told["noise_of_answers"]["figures"]["noise_rows"] == pytest.approx(8**0.5, rel=1e-6), "z sqrt(parts)"
    assert told["same_person"]["figures"]["epsilon_of_two"] > told["noisy_answers"]["figures"]["epsilon"]
    assert told["noisy_answers"]["figures"]["against_coordinator"] is True
    assert "the coordinator and every member included" in told["noisy_answers"]["text"]
    assert {"asked_again", "not_covered"} <= told.keys()
    assert not {"exact_answers", "asked_once", "noisy_sums"} & told.keys()
    assert main.main(["plan", "check", str(place / "plan.yaml")]) == 0
    assert "noise 1 x the bound of one by the participants" in capsys.readouterr().out


def test_explain_promises_nothing_against_a_coordinator_that_adds_the_noise(
    place: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = statistics_text(kind="paillier, key: k", privacy=private(more=", noise: coordinator"))
    (place / "plan.yaml").write_text(text)
    code, value, _ = run(capsys, "plan", "explain", str(place / "plan.yaml"))
    assert code == 0
    told = {one["id"]: one for one in value["statements"]}
    assert told["noisy_answers"]["figures"]["against_coordinator"] is False
    assert (
        "against the coordinator, which adds the noise and can take it off again, there is none"
        in (told["noisy_answers"]["text"])
    )
    assert "included" not in told["noisy_answers"]["text"]
    assert "among the c" not in told["not_covered"]["text"]
    assert "train" not in told["bytes"]["text"]


def test_simulate_shows_the_answers(place: pathlib.Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ("simulate", str(place / "plan.yaml"), "--data", str(place / "hospitals"), "--seed", "3")
    code, value, _ = run(capsys, *command)
    assert code == 0
    check_exact(value["answers"], THREE)
    assert [one["purpose"] for one in value["rounds"]] == ["statistics"]
    assert "accuracy" not in value
    assert main.main([*command]) == 0
    text = capsys.readouterr().out
    rows = sum(len(one.age) for one in columns(THREE))
    assert f"rows {rows} {rows}" in " ".join(text.split())
    assert "quantiles of chol" in text
    assert "1 secure sum over memory" in text
    code, _, error = run(capsys, *command, "--test", str(place / "hospitals" / f"{THREE[0]}.csv"))
    assert (code, error["code"]) == (2, "no_model")


def test_simulate_shows_the_noise_and_what_it_cost(place: pathlib.Path, capsys: pytest.CaptureFixture[str]) -> None:
    plan = statistics_plan(privacy=private(), min_cell=5)
    assert plan.privacy is not None
    (place / "plan.yaml").write_text(statistics_text(privacy=private(), min_cell=5))
    command = ("simulate", str(place / "plan.yaml"), "--data", str(place / "hospitals"), "--seed", "4")
    code, value, _ = run(capsys, *command)
    assert code == 0
    rows, _, mean, *_, ages, _, _, groups = value["answers"]
    exact = sum(len(one.age) for one in columns(THREE))
    variance = 3 * share(plan, quorum.quorum(3, 1), 1, 3)
    assert rows["noise"] == groups["noise"] == pytest.approx(variance**0.5 / vector.per_row(plan))
    assert 0 < abs(rows["value"] - exact) < 6 * rows["noise"]
    assert mean["noise"] > 0
    assert ages["suppressed"] == sum(count is None for count in ages["counts"]) > 0, "below 5 after the noise"
    assert value["privacy"]["epsilon"] == private_sum.spent(plan, plan.privacy, 1)
    assert "seed" in value["not_private"]
    assert main.main([*command]) == 0
    text = capsys.readouterr().out
    assert f"+-{rows['noise']:.3g}" in text
    assert f"histogram of age: {answers_report.number(ages['rows'])} rows" in text
    assert f"{ages['suppressed']} not shown" in text
    assert f"privacy: epsilon {value['privacy']['epsilon']:.4g} of at most 100" in text


def test_simulate_says_why_a_table_is_none_of_the_plan(place: pathlib.Path, capsys: pytest.CaptureFixture[str]) -> None:
    (place / "plan.yaml").write_text(statistics_text(max_rows=50))
    code, _, error = run(capsys, "simulate", str(place / "plan.yaml"), "--data", str(place / "hospitals"))
    assert (code, error["code"]) == (4, "too_many_rows")


# --- real processes ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[LocalFederation, str]]:
    """A federation of real processes that has answered the questions, still up; the run's id."""
    folder = tmp_path_factory.mktemp("statistics")
    canonical = statistics_bytes()
    for index, name in enumerate(THREE):
        (folder / f"{name}.csv").write_bytes(Column(index).csv())
    federation = LocalFederation(folder, "table", real_world().clock, lambda kind, facts: None)
    try:
        admin = federation.found()
        federation.enrol(admin, list(THREE), plans.plan_hash(canonical), {})
        run_id = federation.start(admin, canonical)
        for _ in admin.watch(run_id):
            pass
        federation.await_models(list(THREE), run_id)
        yield federation, run_id
    finally:
        federation.processes.stop()


def test_the_operator_and_every_participant_have_the_answers(
    served: tuple[LocalFederation, str], capsys: pytest.CaptureFixture[str]
) -> None:
    federation, run_id = served
    code, report, _ = run(capsys, "--home", str(federation.home), "run", "show", run_id)
    assert code == 0
    check_exact(report["answers"], THREE)
    assert (report["code"], report["model"], report["steps"]) == ("finished", None, 1)
    code, shown, _ = run(capsys, "--home", str(federation.home), "answers")
    assert (code, shown["answers"]) == (0, report["answers"])
    for name in THREE:
        home = federation.home_of(name)
        code, shown, _ = run(capsys, "--home", str(home), "answers")
        assert (code, shown["run_id"], shown["answers"]) == (0, run_id, report["answers"])
        file = home / "statistics" / f"{run_id}.json"
        assert json.loads(file.read_bytes())["answers"] == report["answers"]
        assert file.stat().st_mode & 0o777 == 0o600
        assert run(capsys, "--home", str(home), "answers", run_id)[1] == shown
    for home in (federation.home, federation.home_of(THREE[0])):  # the run has ended, and there is no model
        assert run(capsys, "--home", str(home), "model", "list")[0] == 0
        assert main.main(["--home", str(home), "model", "list"]) == 0
        assert "yes" not in capsys.readouterr().out
        code, _, error = run(capsys, "--home", str(home), "model", "export", "--out", str(federation.folder / "m"))
        assert (code, error["code"]) == (2, "no_model")
    assert main.main(["--home", str(federation.home), "run", "show", run_id]) == 0
    text = capsys.readouterr().out
    assert "mean of chol" in text
    assert "histogram of age" in text


def test_the_round_of_the_answers_is_verified_as_any_other(
    served: tuple[LocalFederation, str], capsys: pytest.CaptureFixture[str]
) -> None:
    federation, run_id = served
    code, value, _ = run(capsys, "--home", str(federation.home_of(THREE[0])), "verify", run_id, "1")
    assert code == 0, value
    code, shown, _ = run(capsys, "--home", str(federation.home), "round", "show", run_id, "1")
    assert (code, shown["purpose"], shown["survivors"]) == (0, "statistics", list(THREE))


def test_a_run_without_answers_has_none(
    served: tuple[LocalFederation, str], capsys: pytest.CaptureFixture[str]
) -> None:
    federation, _ = served
    for home in (federation.home, federation.home_of(THREE[0])):
        code, _, error = run(capsys, "--home", str(home), "answers", "other-run")
        assert code == 2
        assert error["code"] in {"unknown_run", "unknown_answers"}


def test_explain_says_what_laplace_noise_is_worth(place: pathlib.Path, capsys: pytest.CaptureFixture[str]) -> None:
    block = private("noise_multiplier: 2.0", more=", mechanism: laplace, noise: coordinator")
    (place / "plan.yaml").write_text(statistics_text(privacy=block))
    code, value, _ = run(capsys, "plan", "explain", str(place / "plan.yaml"))
    assert code == 0
    told = {one["id"]: one for one in value["statements"]}
    assert told["laplace_noise"]["figures"]["pure_epsilon"] == pytest.approx(0.5, rel=1e-4)
    assert told["noise_of_answers"]["figures"]["noise_rows"] == pytest.approx(2**0.5 * 2 * 8, rel=1e-4)
    assert told["noisy_answers"]["figures"]["against_coordinator"] is False
    assert main.main(["plan", "check", str(place / "plan.yaml")]) == 0
    assert "Laplace noise of scale 2 x the bound of one by the coordinator" in capsys.readouterr().out
