"""`fedveil demo --json`, once, as typed: what it prints, who was dropped and came back, what was seen, what stays.

The bounds on correlations: the attacker compares 31 (update) and 30 (record) numbers; unrelated ones correlate by about
0.18, so 0.75 is more than four standard deviations.
"""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from test_simulate import check_shape

HOSPITALS = {"northgate", "riverside", "hillcrest", "lakeview", "st-anna"}
MARK = "FEDVEIL_TEST_MARK"


def marked(mark: str) -> list[int]:
    """Processes that carry our mark in their environment: the demo and everything it started, however re-parented."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            try:
                environment = (entry / "environ").read_bytes()
            except OSError:
                continue
            if f"{MARK}={mark}".encode() in environment.split(b"\0"):
                found.append(int(entry.name))
    return found


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], list[int], list[str]]:
    """(the JSON line, processes left, files left in the folder for temporary files)."""
    folder = tmp_path_factory.mktemp("demo")
    mark = f"{os.getpid()}-demo"
    process = subprocess.Popen(
        [sys.executable, "-m", "fedveil_cli", "--home", str(folder / "home"), "demo", "--json"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd=folder,
        env={**os.environ, MARK: mark, "TMPDIR": str(folder)},
    )
    try:
        out, err = process.communicate(timeout=120)
        left = marked(mark)
    finally:
        for pid in marked(mark):
            os.kill(pid, signal.SIGKILL)
    assert process.returncode == 0, err.decode()
    assert out.count(b"\n") == 1
    return json.loads(out), left, sorted(path.name for path in folder.iterdir())


def test_keys_and_types(demo: tuple[dict[str, Any], list[int], list[str]]) -> None:
    value = demo[0]
    check_shape(value, "mtls")
    assert set(value["accuracy"]["local"]) == HOSPITALS


def test_one_round_went_on_without_the_killed_hospital_and_it_came_back(
    demo: tuple[dict[str, Any], list[int], list[str]],
) -> None:
    rounds = demo[0]["rounds"]
    without = [one["number"] for one in rounds if one["dropped"]]
    assert len(without) == 1
    at = rounds[without[0] - 1]
    assert at["dropped"] == ["lakeview"]
    assert set(at["survivors"]) == HOSPITALS - {"lakeview"}
    assert any("lakeview" in one["survivors"] for one in rounds[: without[0] - 1])
    assert any("lakeview" in one["survivors"] for one in rounds[without[0] :])


def test_the_attack_reads_everything_without_protection_and_nothing_with_it(
    demo: tuple[dict[str, Any], list[int], list[str]],
) -> None:
    for one in demo[0]["attack"].values():
        assert one["unprotected"] > 0.999
        assert abs(one["protected"]) < 0.75


def test_federated_is_as_good_as_pooled_here(demo: tuple[dict[str, Any], list[int], list[str]]) -> None:
    value = demo[0]
    assert value["accuracy"]["federated"] > 0.9
    assert value["accuracy"]["federated"] >= value["accuracy"]["pooled"] - 0.03


def test_nothing_is_left(demo: tuple[dict[str, Any], list[int], list[str]]) -> None:
    _, processes, files = demo
    assert processes == []
    assert files == []
