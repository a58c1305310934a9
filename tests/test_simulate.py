"""`fedveil simulate`: what it prints, that a seed fixes everything, that real processes agree, what it refuses.

Most tests run the command as typed; model bytes are compared through `play_in_memory`, which the command calls.
"""

import json
import math
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fedveil_cli import demo_split, local_federation, local_key
from fedveil_cli.simulating import play_in_memory
from fedveil_cli.world import SystemClock, real_world
from fedveil_common import modelfile, private_sum
from fedveil_common import plan as plans
from fedveil_common.errors import ConfigError
from processes import LIMIT_S, NAMES, forked, plan_text, table

KEYS = {"accuracy", "rounds", "protection", "transport", "first_round_s", "total_s"}


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """plan.yaml and hospitals/NAME.csv for three organisations."""
    (tmp_path / "plan.yaml").write_text(plan_text(rounds=1))
    (tmp_path / "hospitals").mkdir()
    for name in NAMES:
        (tmp_path / "hospitals" / f"{name}.csv").write_text(table(name))
    return tmp_path


def simulate(place: Path, *extra: str) -> "subprocess.CompletedProcess[str]":
    """The command, to its end."""
    return forked(place, "simulate", "plan.yaml", "--data", "hospitals", *extra, limit_s=LIMIT_S)


def result(place: Path, *extra: str) -> dict[str, Any]:
    """The JSON line, which is all of stdout."""
    done = simulate(place, "--json", *extra)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("\n") == 1
    return dict(json.loads(done.stdout))


def refused(place: Path, *extra: str) -> tuple[int, dict[str, str]]:
    """(exit code, error) of a command that must print nothing on stdout."""
    done = simulate(place, "--json", *extra)
    assert done.stdout == ""
    return done.returncode, json.loads(done.stderr.splitlines()[-1])["error"]


def check_shape(value: dict[str, Any], transport: str, protection: str = "masked") -> None:
    """Keys and types that `demo` and `simulate` share."""
    assert value.keys() >= KEYS
    assert value["protection"] == protection
    assert value["transport"] == transport
    rates = [value["accuracy"]["federated"], value["accuracy"]["pooled"], *value["accuracy"]["local"].values()]
    assert all(isinstance(rate, float) and 0 <= rate <= 1 for rate in rates)
    assert [one["number"] for one in value["rounds"]] == list(range(1, len(value["rounds"]) + 1))
    for one in value["rounds"]:
        assert isinstance(one["survivors"], list)
        assert isinstance(one["dropped"], list)
        assert math.isfinite(one["seconds"])
        assert one["seconds"] >= 0
    assert 0 < value["first_round_s"] <= value["total_s"]


def test_json_keys_and_types_and_the_same_seed_again(place: Path) -> None:
    first, second = result(place, "--seed", "5"), result(place, "--seed", "5")
    check_shape(first, "memory")
    assert set(first["accuracy"]["local"]) == set(NAMES)
    assert [one["survivors"] for one in first["rounds"]] == [list(NAMES)] * len(first["rounds"])
    assert not any(one["dropped"] for one in first["rounds"])
    assert first["accuracy"] == second["accuracy"]
    assert first["log_loss"] == second["log_loss"]


def test_a_seed_is_said_to_be_not_private_and_no_seed_is_silent(place: Path) -> None:
    assert "not private" in simulate(place, "--seed", "5").stderr
    assert simulate(place).stderr == ""


def test_one_seed_one_model_file_and_another_seed_another() -> None:
    plan = plans.parse_plan(plan_text(rounds=1).encode(), "plan.yaml")
    tables = {name: table(name).encode() for name in NAMES}

    def model(seed: int) -> bytes:
        played = play_in_memory(plan, plans.canonical(plan), tables, seed, SystemClock())
        assert played.code == "finished"
        return played.model_file

    assert model(5) == model(5)
    assert model(5) != model(6)


def test_a_test_file_is_what_accuracy_is_measured_on(place: Path) -> None:
    lines = table("acme").splitlines()
    flipped = [lines[0], *(",".join([*(p := line.split(","))[:3], str(1 - int(p[3])), p[4]]) for line in lines[1:])]
    (place / "right.csv").write_text("\n".join([*lines, ""]))
    (place / "wrong.csv").write_text("\n".join([*flipped, ""]))
    right = result(place, "--seed", "5", "--test", "right.csv")
    wrong = result(place, "--seed", "5", "--test", "wrong.csv")
    assert right["measured_on"] == "test file"
    assert right["accuracy"]["federated"] == pytest.approx(1 - wrong["accuracy"]["federated"])
    assert result(place, "--seed", "5")["measured_on"] == "holdout rows"


@pytest.mark.parametrize("link", [False, True])
def test_a_test_file_among_the_tables_is_no_organisation(place: Path, link: bool) -> None:
    """By whatever name it is given; it is said, and it changes nothing else."""
    beside, inside = place / "test.csv", place / "hospitals" / "test.csv"
    beside.write_text(table("acme"))
    without = result(place, "--seed", "5", "--test", "test.csv")
    beside.rename(inside)
    if link:
        beside.symlink_to(inside)
    done = simulate(place, "--json", "--seed", "5", "--test", "test.csv" if link else "hospitals/../hospitals/test.csv")
    assert done.returncode == 0, done.stderr
    value = json.loads(done.stdout)
    assert set(value["accuracy"]["local"]) == set(NAMES)
    assert (value["accuracy"], value["log_loss"]) == (without["accuracy"], without["log_loss"])
    assert "test.csv is the test file and no organisation" in done.stderr


def test_seconds_count_from_the_start_of_the_command(place: Path) -> None:
    """Reading the tables and loading the program included: `play_in_memory` is told when the command began."""
    plan = plans.parse_plan(plan_text(rounds=1).encode(), "plan.yaml")
    tables = {name: table(name).encode() for name in NAMES}
    clock = SystemClock()
    began = clock.monotonic_s() - 1000.0
    played = play_in_memory(plan, plans.canonical(plan), tables, 5, clock, began)
    assert 1000.0 < played.first_round_s <= played.total_s <= clock.monotonic_s() - began
    assert sum(float(str(one["seconds"])) for one in played.rounds) < 1000.0


def under_paillier(place: Path) -> None:
    """The plan names a key."""
    text = (place / "plan.yaml").read_text()
    changed = text.replace("kind: masked", "kind: paillier, key: trial")
    assert changed != text
    (place / "plan.yaml").write_text(changed)


def test_a_plan_under_paillier_gets_a_key_of_all_members(place: Path) -> None:
    """The sums are exact under both protections: only what is rounded by chance differs."""
    masked = result(place, "--seed", "5")
    under_paillier(place)
    value = result(place, "--seed", "5")
    check_shape(value, "memory", "paillier")
    (key,) = value["keys"]
    assert (key["id"], key["holders"], key["threshold"], key["modulus"]) == ("trial", sorted(NAMES), 3, "rsa-2048")
    assert key == result(place, "--seed", "5")["keys"][0] | {"seconds": key["seconds"]}
    assert value["accuracy"]["pooled"] == masked["accuracy"]["pooled"]
    assert value["log_loss"]["federated"] == pytest.approx(masked["log_loss"]["federated"], abs=0.002)
    assert "keys" not in masked


PRIVATE = """
version: 1
name: triage
kind: train
data:
  dataset: visits
  features:
    age: {type: float, range: [0, 120], clamp: true}
    lactate: {type: float, range: [0, 30], missing: mean, clamp: true}
  target: {column: died, type: binary}
  min_rows: 5
  standardise: range
model: {kind: logistic}
training: {rounds: 3, learning_rate: 2.0, seed: 7}
strategy: {kind: fedavg}
cohort: {min_participants: 3, max_corrupt: 1, progress_s: 20, wait_s: 60}
protection: {kind: masked, value_bits: 20, update_norm: 64.0}
privacy: {unit: record, rows: 120, clip_norm: 2.0, sample_rate: 0.5, noise_multiplier: 2.0, delta: 1.0e-5,
  max_epsilon: 100.0}
"""


def test_a_private_plan_says_what_it_cost_and_that_a_seed_is_not_private(place: Path) -> None:
    (place / "plan.yaml").write_text(PRIVATE)
    plan = plans.parse_plan(PRIVATE.encode(), "plan.yaml")
    assert plan.privacy is not None
    value = result(place, "--seed", "5")
    check_shape(value, "memory")
    epsilon = private_sum.spent(plan, plan.privacy, 3)
    assert value["privacy"] == {
        "unit": "record",
        "noise": "participants",
        "epsilon": epsilon,
        "delta": 1e-5,
        "rests_on": "members",
        "max_epsilon": 100.0,
    }
    assert value["not_private"] == "the seed fixes every key, mask and draw of noise"
    assert value["measured_on"] == "training rows", "the plan holds out none"
    assert value["log_loss"]["federated"] == result(place, "--seed", "5")["log_loss"]["federated"]
    done = simulate(place)
    assert f"privacy: epsilon {epsilon:.4g} of at most 100 at delta 1e-05 for each record" in done.stdout
    assert "not private: one process held all records and drew all noise" in done.stdout
    exact = PRIVATE.replace("clamp: true", "clamp: false").partition("privacy:")[0] + "privacy: none\n"
    exact = exact.replace("seed: 7}", "seed: 7, local_epochs: 1, batch_size: 8, weight: rows, weight_cap: 50}")
    (place / "plan.yaml").write_text(exact + "evaluation: {every: 1, metrics: [loss], holdout: 0.3}\n")
    value = result(place, "--seed", "5")
    assert (value["privacy"], value["measured_on"]) == ("none", "holdout rows")
    assert value["not_private"]


def test_privacy_of_participants_is_compared_with_training_as_ever(place: Path) -> None:
    text = (
        PRIVATE.replace("unit: record", "unit: participant")
        .replace("rows: 120, ", "")
        .replace("sample_rate: 0.5, ", "")
    )
    (place / "plan.yaml").write_text(text.replace("learning_rate: 2.0", "learning_rate: 0.5"))
    value = result(place, "--seed", "5")
    assert value["privacy"]["unit"] == "participant"
    assert value["log_loss"]["pooled"] < 1.0, "one step of it would be the sum of all gradients"


def test_processes_hold_the_key_themselves(place: Path) -> None:
    under_paillier(place)
    done = simulate(place, "--processes")
    assert done.returncode == 0, done.stderr
    assert "any 3 of acme, borealis, cygnus together open a sum" in done.stdout
    assert "the key was made for this run alone" in done.stdout


@pytest.mark.parametrize(("members", "holders", "threshold"), [(3, 3, 3), (5, 5, 4), (9, 7, 5), (45, 11, 11)])
def test_who_holds_the_key_of_a_simulation(members: int, holders: int, threshold: int) -> None:
    """Up to seven; more where so many of a large roster may be corrupt."""
    plan = plans.parse_plan(plan_text(rounds=1).encode(), "plan.yaml")
    chosen = local_key.choose(plan, [f"org-{number:02}" for number in range(members)])
    assert (len(chosen.holders), chosen.threshold) == (holders, threshold)
    assert chosen.columns == 2, "a train sum, with the histograms of the metric auc, takes two ciphertexts"


def test_a_roster_for_which_no_key_is_safe() -> None:
    plan = plans.parse_plan(plan_text(rounds=1).encode(), "plan.yaml")
    with pytest.raises(ConfigError) as caught:
        local_key.choose(plan, [f"org-{number:02}" for number in range(60)])
    assert caught.value.code == "bad_key_terms"


def test_real_processes_come_to_the_same_model(place: Path) -> None:
    (place / "held_out.csv").write_text(table("acme"))
    value = result(place, "--processes", "--test", "held_out.csv")
    check_shape(value, "mtls")
    memory = result(place, "--seed", "5", "--test", "held_out.csv")
    assert value["accuracy"]["federated"] == pytest.approx(memory["accuracy"]["federated"], abs=0.03)
    assert value["log_loss"]["federated"] == pytest.approx(memory["log_loss"]["federated"], abs=0.01)
    assert value["accuracy"]["pooled"] == memory["accuracy"]["pooled"]


def test_too_few_organisations(place: Path) -> None:
    (place / "hospitals" / "acme.csv").unlink()
    code, error = refused(place)
    assert (code, error["code"]) == (2, "cohort_never_possible")


def test_a_name_that_is_none(place: Path) -> None:
    (place / "hospitals" / "Not A Name.csv").write_text(table("acme"))
    code, error = refused(place)
    assert (code, error["code"]) == (2, "bad_name")


@pytest.mark.parametrize("folder_exists", [True, False])
def test_no_tables(place: Path, folder_exists: bool) -> None:
    for path in (place / "hospitals").iterdir():
        path.unlink()
    if not folder_exists:
        (place / "hospitals").rmdir()
    code, error = refused(place)
    assert (code, error["code"]) == (2, "no_tables")


def test_a_missing_column_names_file_and_line(place: Path) -> None:
    path = place / "hospitals" / "cygnus.csv"
    path.write_text(path.read_text().replace("lactate", "lactose", 1))
    code, error = refused(place)
    assert code == 2
    assert "cygnus.csv" in error["what"]
    assert "lactate" in error["what"]


def test_a_bad_cell_names_file_and_line(place: Path) -> None:
    path = place / "hospitals" / "borealis.csv"
    lines = path.read_text().splitlines()
    lines[4] = "x" + lines[4]
    path.write_text("\n".join([*lines, ""]))
    code, error = refused(place)
    assert code == 2
    assert "borealis.csv:5" in error["what"]


def test_a_seed_for_real_processes_is_refused_not_ignored(place: Path) -> None:
    done = simulate(place, "--processes", "--seed", "5")
    assert (done.returncode, done.stdout) == (2, "")


def test_no_process_is_left_when_a_run_of_processes_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[subprocess.Popen[bytes]] = []

    def fail(self: local_federation.LocalFederation, *arguments: object) -> str:
        started.extend(self.processes.running.values())
        raise RuntimeError("stop here")

    monkeypatch.setattr(local_federation.LocalFederation, "enrol", fail)
    plan = plans.parse_plan(plan_text(rounds=1).encode(), "plan.yaml")
    with pytest.raises(RuntimeError):
        local_federation.play(plan, plans.canonical(plan), {name: b"" for name in NAMES}, real_world(), 0.0)
    assert [process.poll() is not None for process in started] == [True]


def test_the_demo_over_memory_is_as_good_as_pooled() -> None:
    plan = plans.parse_plan(demo_split.plan_text(), "demo_plan.yaml")
    tables = {name: demo_split.rows_csv(rows) for name, rows in demo_split.split(7).hospitals.items()}
    played = play_in_memory(plan, plans.canonical(plan), tables, 1, SystemClock())
    assert len(played.rounds) == plan.training.rounds + local_federation.trained_rounds(plan) + 1
    assert np.isfinite(modelfile.read_model(played.model_file).model).all()


def test_a_simulation_that_is_told_to_end_leaves_nothing(place: Path, tmp_path: Path) -> None:
    """SIGTERM while its processes run: they end with it, and the copies of the tables are gone."""
    (place / "plan.yaml").write_text(plan_text(rounds=1000))  # it does not end by itself before it is told to
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    command = [sys.executable, "-m", "fedveil_cli", "simulate", "plan.yaml", "--data", "hospitals", "--processes"]
    process = subprocess.Popen(
        command, cwd=place, env={**os.environ, "TMPDIR": str(scratch)}, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    try:
        while not list(scratch.glob("fedveil-*/homes/*/journal.db")):
            assert process.poll() is None
            pause.wait(0.05)
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=LIMIT_S)
    finally:
        process.kill()
    assert process.returncode == 128 + signal.SIGTERM
    assert list(scratch.iterdir()) == []
    assert not [entry for entry in Path("/proc").glob("[0-9]*/cmdline") if str(scratch).encode() in read(entry)]


pause = threading.Event()


def read(path: Path) -> bytes:
    """What stands there, nothing if it went away."""
    try:
        return path.read_bytes()
    except OSError:
        return b""
