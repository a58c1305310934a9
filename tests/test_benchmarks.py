"""Every benchmark still runs, at sizes at which it measures nothing: what it prints is complete and hangs together.

No figure of time is compared with anything. The one of Flower installs and downloads nothing here.
"""

import importlib.util
import json
import pathlib
import resource
import subprocess
import sys
from types import ModuleType

import numpy as np
import pytest
from fedveil_common import transcript
from fedveil_common.masking import packing

ROOT = pathlib.Path(__file__).parent.parent
FOLDER = ROOT / "benchmarks"
TIMEOUT_S = 240


def loaded(name: str, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """A benchmark as a module."""
    path = FOLDER / f"{name}.py"
    specification = importlib.util.spec_from_file_location(f"benchmark_{path.stem}", path)
    assert specification is not None
    assert specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    monkeypatch.setitem(sys.modules, specification.name, module)
    specification.loader.exec_module(module)
    return module


def script(name: str, *arguments: str, folder: pathlib.Path) -> subprocess.CompletedProcess[str]:
    """A benchmark as a person runs it; everything that it writes lies in `folder`."""
    environment = {"PATH": "/usr/bin:/bin", "TMPDIR": str(folder), "HOME": str(folder)}
    command = [sys.executable, str(FOLDER / f"{name}.py"), *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=TIMEOUT_S)


# --- masking ----------------------------------------------------------------------------------------------------------


def test_masking_measures_each_part(monkeypatch: pytest.MonkeyPatch) -> None:
    masking = loaded("masking", monkeypatch)
    d = 3 * transcript.LEAF_COORDINATES + 5
    monkeypatch.setattr(masking, "SMALL", 100)
    found = masking.measure(coordinates=d, peers=9, repeats=1)
    assert (found["ring_bits"], found["leaves"]) == (20, 4)
    lengths = [transcript.LEAF_COORDINATES] * 3 + [5]
    assert found["packed_bytes"] == sum(packing.size_bytes(length, 20) for length in lengths)
    assert set(found["wall_s"]) == set(found["cpu_s"])
    assert all(seconds > 0 for seconds in found["wall_s"].values())
    for name in ("expansion_of_limit", "expansion_small_of_limit", "protect_of_floor"):
        assert found[name] > 0


def test_the_bare_loops_do_the_same_work(monkeypatch: pytest.MonkeyPatch) -> None:
    """Less work than the product does would be no floor: same grid, same packed bytes. The leaf hash is put back."""
    masking = loaded("masking", monkeypatch)
    vector = masking.Vector(2 * transcript.LEAF_COORDINATES, 9)
    masking.bare_quantise(vector.values, vector.scale, vector.limit, vector.integers)
    scaled = vector.values * vector.scale
    assert np.all(np.abs(vector.integers - scaled) < 1)
    assert len(np.unique(vector.integers - np.floor(scaled))) == 2
    with masking.without_leaf_hash():
        vector.protect()
    assert masking.bare_pack(vector.integers.view(np.uint32)) == sum(len(leaf) for leaf in vector.leaves.values())
    assert masking.protecting.transcript is transcript


# --- idle participants ------------------------------------------------------------------------------------------------


def test_idle_participants_are_connected_and_counted(tmp_path: pathlib.Path) -> None:
    sizes = ("--participants", "5", "--drivers", "2", "--seconds", "0.05")
    done = script("idle", *sizes, "--json", folder=tmp_path)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert (found["participants"], found["drivers"]) == (5, 2)
    assert found["memory_mb"] >= found["memory_empty_mb"] > 10
    assert found["connects_per_s"] > 0
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith("fedveil-bench-")] == []


def test_too_few_open_files_are_said(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    idle = loaded("idle", monkeypatch)
    monkeypatch.setattr(resource, "getrlimit", lambda which: (256, 1000))
    monkeypatch.setattr(sys, "argv", ["idle.py", "--participants", "5000"])
    assert idle.main() == 2
    assert "[not_enough_files]" in capsys.readouterr().err
    idle.raise_file_limit(200)


# --- a round ----------------------------------------------------------------------------------------------------------


def test_a_masked_round_prints_times_bytes_and_memory(tmp_path: pathlib.Path) -> None:
    sizes = ("--participants", "4", "--parameters", "1000", "--rounds", "1", "--drop", "1")
    done = script("masked_round", *sizes, "--any-disk", "--json", folder=tmp_path)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert (found["participants"], found["dropped"], len(found["rounds_s"])) == (4, 1, 2)
    assert found["bound_mb"] == pytest.approx(64.012)
    assert 2 < found["bytes_per_parameter"] < 4
    assert found["coordinator_rounds_over_idle_mb"] > 0
    assert found["participant_of_bound"] == found["participant_rounds_over_idle_mb"] / found["bound_mb"]


@pytest.mark.parametrize(
    "arguments", [("--participants", "3", "--drop", "1"), ("--rounds", "0"), ("--unprotected", "--drop", "1")]
)
def test_a_round_that_cannot_be_measured_is_refused(arguments: tuple[str, ...], tmp_path: pathlib.Path) -> None:
    done = script("masked_round", "--parameters", "10", *arguments, folder=tmp_path)
    assert done.returncode != 0
    assert done.stdout == ""
    assert "Traceback" not in done.stderr


# --- a round under paillier -------------------------------------------------------------------------------------------


def test_a_round_under_paillier_prints_its_phases_and_goes_on_without_a_holder(tmp_path: pathlib.Path) -> None:
    sizes = ("--participants", "3", "--threshold", "2", "--parameters", "300", "--columns", "2", "--rounds", "1")
    done = script("paillier_round", *sizes, "--kill", "--any-disk", "--json", folder=tmp_path)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert (found["participants"], found["holders"], found["threshold"], found["blocks"]) == (3, 3, 2, 2)
    assert (len(found["rounds_s"]), len(found["masked_rounds_s"])) == (3, 2)
    assert found["kill_round_s"] == found["rounds_s"][-1]
    names = ["adverts", "inputs", "votes", "product", "answers", "opening"]
    assert list(found["phases"]) == list(found["kill_phases"]) == names
    assert found["ratio_to_masked"] == found["round_s"] / found["masked_round_s"]
    assert found["phe_over_round"] == found["phe_s"] / found["round_s"]
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith("fedveil-bench-")] == []


@pytest.mark.parametrize("arguments", [("--threshold", "4"), ("--kill",), ("--bits", "1024"), ("--rounds", "0")])
def test_a_round_under_paillier_that_cannot_be_is_refused(arguments: tuple[str, ...], tmp_path: pathlib.Path) -> None:
    done = script("paillier_round", "--parameters", "10", *arguments, folder=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert "Traceback" not in done.stderr


# --- privacy ----------------------------------------------------------------------------------------------------------


def test_noise_is_timed_beside_its_words(tmp_path: pathlib.Path) -> None:
    done = script("privacy", "samplers", "--draws", "2000", "--repeats", "1", "--json", folder=tmp_path)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    noise = {f"{name}-{scale}" for name in ("gaussian", "laplace", "skellam") for scale in (8, 64, 1000, 4000)}
    assert set(found["table_s"]) == noise
    assert set(found["draws_per_s"]) == set(found["of_limit"]) == noise | {"limit", "search", "exact-gaussian-8"}
    assert found["of_limit"]["limit"] == 1
    assert all(rate > 0 for rate in found["draws_per_s"].values())


@pytest.mark.parametrize("arguments", [("samplers", "--draws", "0"), ("samplers", "--repeats", "0"), ()])
def test_noise_that_cannot_be_timed_is_refused(arguments: tuple[str, ...], tmp_path: pathlib.Path) -> None:
    done = script("privacy", *arguments, folder=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert "Traceback" not in done.stderr


# --- beside Flower: arguments and the recipe of its environment, nothing is installed ---------------------------------


@pytest.mark.parametrize(
    "arguments",
    [
        ("--participants", "2"),
        ("--parameters", "0"),
        ("--shares", "3", "--threshold", "3"),
        ("--participants", "4", "--shares", "5"),
        ("--drop", "-1"),
        ("--cache", str(ROOT / "build")),
    ],
)
def test_a_comparison_that_cannot_be_made_is_refused(arguments: tuple[str, ...], tmp_path: pathlib.Path) -> None:
    done = script("peers/flower_secagg", *arguments, folder=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert "Traceback" not in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_shares_are_those_of_the_comparison(monkeypatch: pytest.MonkeyPatch) -> None:
    flower = loaded("peers/flower_secagg", monkeypatch)
    assert [flower.shares_for(n, None, None) for n in (4, 10, 20, 50)] == [(4, 3), (10, 6), (7, 4), (7, 4)]
    assert flower.shares_for(10, 7, None) == (7, 4)
    assert flower.shares_for(10, 9, 5) == (9, 5)


def test_flower_has_an_environment_of_its_own(monkeypatch: pytest.MonkeyPatch, tmp_path: pathlib.Path) -> None:
    """One for each version, made once: the second time no command runs. It lies where it is told to."""
    flower = loaded("peers/flower_secagg", monkeypatch)
    monkeypatch.setenv(flower.CACHE, str(tmp_path / "named"))
    assert flower.cache_folder(None) == tmp_path / "named"
    assert flower.cache_folder(str(tmp_path / "given")) == tmp_path / "given"
    monkeypatch.delenv(flower.CACHE)
    assert not flower.cache_folder(None).is_relative_to(ROOT)
    python, (making, installing) = flower.recipe(tmp_path, "flwr[simulation]==1.0")
    assert python.is_relative_to(tmp_path)
    assert making[0] == sys.executable
    assert making[-1] == str(python.parent.parent)
    assert installing[:4] == [str(python), "-m", "pip", "install"]
    assert installing[-1] == "flwr[simulation]==1.0"
    assert flower.recipe(tmp_path, "flwr[simulation]==2.0")[0] != python
    ran: list[list[str]] = []

    def run(command: list[str], **options: object) -> subprocess.CompletedProcess[str]:
        ran.append(command)
        python.parent.mkdir(parents=True, exist_ok=True)
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(flower.subprocess, "run", run)
    assert flower.environment(tmp_path, "flwr[simulation]==1.0") == python
    assert flower.environment(tmp_path, "flwr[simulation]==1.0") == python
    assert ran == [making, installing]


def test_an_index_that_is_not_reached_is_said(
    monkeypatch: pytest.MonkeyPatch, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flower = loaded("peers/flower_secagg", monkeypatch)
    failed = subprocess.CompletedProcess([], 1, "", "WARNING: retrying\nERROR: No matching distribution found\n")
    monkeypatch.setattr(flower.subprocess, "run", lambda command, **options: failed)
    monkeypatch.setattr(sys, "argv", ["flower_secagg.py", "--cache", str(tmp_path)])
    assert flower.main() == 69
    assert "[flower_not_installed]" in capsys.readouterr().err
    assert not list(tmp_path.rglob("complete"))


# --- sealing ----------------------------------------------------------------------------------------------------------


def test_sealing_measures_beside_a_copy(tmp_path: pathlib.Path) -> None:
    done = script("sealing", "--megabytes", "3", "--repeats", "2", "--json", "--folder", str(tmp_path), folder=tmp_path)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert all(found[name] > 0 for name in ("copy_mb_s", "seal_mb_s", "open_mb_s", "aes_gcm_mb_s", "seal_of_copy"))
    assert found["goals"] == {"seal_of_copy": 0.8}
    assert list(tmp_path.iterdir()) == [], "every file is removed"


def test_sealing_of_a_model_measures_the_commands_beside_a_copy(tmp_path: pathlib.Path) -> None:
    arguments = ("--megabytes", "1", "--repeats", "1", "--json", "--folder", str(tmp_path))
    done = script("model_sealing", *arguments, folder=tmp_path)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    for name in ("seal", "open"):
        assert all(found[f"{name}_{what}"] > 0 for what in ("start_s", "peak_mb", "start_peak_mb"))
        assert found[f"{name}_of_copy"] >= 0, "next to nothing: a megabyte is copied before a program has started"
    assert found["goals"] == {"seal_of_copy": 0.8}
    assert list(tmp_path.iterdir()) == [], "every file is removed"


# --- masking of tables ------------------------------------------------------------------------------------------------


def test_masking_of_tables_measures_beside_plain_parquet(tmp_path: pathlib.Path) -> None:
    arguments = ("--rows", "3000", "--distinct", "1000", "--repeats", "1", "--json", "--folder", str(tmp_path))
    done = script("table_masking", *arguments, folder=tmp_path)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert [(one["distinct"], one["ff1"]) for one in found["cases"]] == [
        (1000, False),
        (1000, True),
    ]
    for one in found["cases"]:
        assert one["masked_of_plain"] == pytest.approx(one["masked_s"] / one["plain_s"], rel=0.2)
        assert all(one[name] > 0 for name in ("plain_s", "masked_s", "rows_per_s", "k", "classes", "peak_mb"))
    assert found["goals"] == {"masked_of_plain_without_ff1": 20, "peak_mb": 2000}
    assert list(tmp_path.iterdir()) == [], "every file is removed"
