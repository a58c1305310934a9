"""`fedveil demo --json`, once, as typed: what it prints, who was dropped and came back, what was seen, what stays.

It runs in a network namespace of its own, in which there is nothing but the loopback device (rival R23).

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


OFFLINE = """
import fcntl, os, socket, struct, sys
with socket.socket() as probe:  # the loopback device of a new namespace is down
    name = b"lo".ljust(16, bytes(1))
    (flags,) = struct.unpack_from("H", fcntl.ioctl(probe, 0x8913, name + bytes(24)), 16)
    fcntl.ioctl(probe, 0x8914, name + struct.pack("H", flags | 1) + bytes(22))
assert [name for _, name in socket.if_nameindex()] == ["lo"], socket.if_nameindex()
os.execv(sys.executable, [sys.executable, *sys.argv[1:]])
"""


def isolated() -> bool:
    """Whether this machine lets us make network namespaces."""
    try:
        return subprocess.run(["unshare", "-rn", "true"], capture_output=True, timeout=30, check=False).returncode == 0
    except OSError:
        return False


ISOLATED = isolated()


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
    inside = ["unshare", "-rn", sys.executable, "-c", OFFLINE] if ISOLATED else [sys.executable]
    process = subprocess.Popen(
        [*inside, "-m", "fedveil_cli", "--home", str(folder / "home"), "demo", "--json"],
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


@pytest.mark.skipif(not ISOLATED, reason="this machine allows no network namespaces")
def test_rival_R23_the_demo_needs_no_network(demo: tuple[dict[str, Any], list[int], list[str]]) -> None:
    """The fixture's demo ran beside nothing but a loopback device, with protection and mutual TLS on."""
    assert demo[0]["protection"] == "masked"
    assert demo[0]["transport"] == "mtls"
    outside = "import socket\nsocket.create_connection(('192.0.2.1', 80), 5)"
    probe = ["unshare", "-rn", sys.executable, "-c", OFFLINE, "-c", outside]
    tried = subprocess.run(probe, capture_output=True, text=True, timeout=30, check=False)
    assert "Network is unreachable" in tried.stderr, "nothing outside can be reached from such a namespace"


def test_keys_and_types(demo: tuple[dict[str, Any], list[int], list[str]]) -> None:
    value = demo[0]
    check_shape(value, "mtls")
    assert set(value["accuracy"]["local"]) == HOSPITALS


def test_one_round_went_on_without_the_killed_hospital_and_it_came_back(
    demo: tuple[dict[str, Any], list[int], list[str]],
) -> None:
    """The plan wants all five at the start of each round, so the one after it has the hospital again."""
    rounds = demo[0]["rounds"]
    assert all(set(one["survivors"]) | set(one["dropped"]) == HOSPITALS for one in rounds)
    without = [index for index, one in enumerate(rounds) if "lakeview" in one["dropped"]]
    assert len(without) == 1
    assert 0 < without[0] < len(rounds) - 1
    assert len(rounds[without[0]]["survivors"]) == len(HOSPITALS) - 1


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
