"""`fedveil demo --json`, once, as typed: what it prints, who was dropped and came back, what was seen, what stays.

It runs in a network namespace of its own, in which there is nothing but the loopback device (rival R23). What the
demo's coordinator wrote down, and the tables, are copied before the demo removes its folder, so that each claim about
them is computed here again from the files.

The bounds on correlations: the attacker compares 31 (update) and 30 (record) numbers; unrelated ones correlate by about
0.18, so 0.75 is more than four standard deviations.
"""

import contextlib
import csv
import hashlib
import io
import json
import os
import select
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fedveil_cli import demo_record, demo_split
from fedveil_cli.world import SystemClock, process_started_s
from fedveil_common import layout
from fedveil_common import plan as plans
from fedveil_common.masking import packing, ring
from fedveil_common.messages import Purpose
from numpy.typing import NDArray
from patience import LIMIT_S
from test_simulate import check_shape

HOSPITALS = {"northgate", "riverside", "hillcrest", "lakeview", "st-anna"}
MARK = "FEDVEIL_TEST_MARK"
TICK_S = 0.02
"""The kernel counts the start of a process in ticks of 10 ms."""

OFFLINE = """
import fcntl, os, socket, struct, sys
with socket.socket() as probe:  # the loopback device of a new namespace is down
    name = b"lo".ljust(16, bytes(1))
    (flags,) = struct.unpack_from("H", fcntl.ioctl(probe, 0x8913, name + bytes(24)), 16)
    fcntl.ioctl(probe, 0x8914, name + struct.pack("H", flags | 1) + bytes(22))
assert [name for _, name in socket.if_nameindex()] == ["lo"], socket.if_nameindex()
os.execv(sys.executable, [sys.executable, *sys.argv[1:]])
"""


KEEPING = """
import json, os, pathlib, shutil, sys, tempfile, time
began = time.monotonic()
from fedveil_cli import demo, demo_command, main
kept = pathlib.Path(os.environ["FEDVEIL_TEST_KEPT"])
class Folder(tempfile.TemporaryDirectory):
    def cleanup(self):
        for path in [*pathlib.Path(self.name).glob("*.csv"), *pathlib.Path(self.name).glob("received/*")]:
            shutil.copy(path, kept)
        super().cleanup()
demo_command.temporary_folder = lambda: Folder(prefix="fedveil-")
counted = demo.Demo._since_start
readings = []
def counting(self):
    before = time.monotonic()
    seconds = counted(self)
    readings.append((seconds, before, time.monotonic()))
    return seconds
demo.Demo._since_start = counting
code = main.main(sys.argv[1:])
(kept / "clock.json").write_text(json.dumps({"began": began, "readings": readings}))
sys.exit(code)
"""
"""The command, with copies of its files, and each of its readings of the clock between two of ours."""


@dataclass(frozen=True)
class Shown:
    """What the demo printed and left: its JSON, processes and files left over, the copies, when we started it."""

    value: dict[str, Any]
    processes: list[int]
    files: list[str]
    kept: Path
    started: float

    def upload(self, how: str, which: int) -> Path:
        """The copy of the upload that was read for the update (0) or the record (1)."""
        digest = self.value["attack"]["uploads_sha256"][how][which]
        (found,) = [
            path for path in self.kept.glob("*.packed") if hashlib.sha256(path.read_bytes()).hexdigest() == digest
        ]
        return found


def integers(demo: Shown, how: str, which: int) -> NDArray[np.int64]:
    """What an upload says as it is: values of 16 bits in the smallest ring for five."""
    plan = plans.parse_plan(demo_split.plan_text(), "demo_plan.yaml")
    length = layout.layout_for(demo_record.one_record(plan, 7) if which else plan, Purpose.TRAIN, 0).length
    bits = ring.smallest(len(HOSPITALS), 16)
    return ring.signed(packing.unpack(demo.upload(how, which).read_bytes(), length, bits), bits).astype(np.int64)


def isolated() -> bool:
    """Whether this machine lets us make network namespaces."""
    try:
        return (
            subprocess.run(["unshare", "-rn", "true"], capture_output=True, timeout=LIMIT_S, check=False).returncode
            == 0
        )
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


def play(tmp_path_factory: pytest.TempPathFactory, *options: str) -> Shown:
    """The demo, run with these options."""
    folder, kept = tmp_path_factory.mktemp("demo"), tmp_path_factory.mktemp("kept")
    mark = f"{os.getpid()}-demo"
    inside = ["unshare", "-rn", sys.executable, "-c", OFFLINE] if ISOLATED else [sys.executable]
    started = time.monotonic()
    process = subprocess.Popen(
        [*inside, "-c", KEEPING, "--home", str(folder / "home"), "demo", "--json", *options],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd=folder,
        env={**os.environ, MARK: mark, "TMPDIR": str(folder), "FEDVEIL_TEST_KEPT": str(kept)},
    )
    try:
        out, err = process.communicate(timeout=LIMIT_S)
        left = marked(mark)
    finally:
        for pid in marked(mark):
            os.kill(pid, signal.SIGKILL)
    assert process.returncode == 0, err.decode()
    assert out.count(b"\n") == 1
    return Shown(json.loads(out), left, sorted(path.name for path in folder.iterdir()), kept, started)


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Shown:
    """The demo, run once."""
    return play(tmp_path_factory)


@pytest.mark.skipif(not ISOLATED, reason="this machine allows no network namespaces")
def test_rival_R23_the_demo_needs_no_network(demo: Shown) -> None:
    """The fixture's demo ran beside nothing but a loopback device, with protection and mutual TLS on."""
    assert demo.value["protection"] == "masked"
    assert demo.value["transport"] == "mtls"
    outside = "import socket\nsocket.create_connection(('192.0.2.1', 80), 5)"
    probe = ["unshare", "-rn", sys.executable, "-c", OFFLINE, "-c", outside]
    tried = subprocess.run(probe, capture_output=True, text=True, timeout=LIMIT_S, check=False)
    assert "Network is unreachable" in tried.stderr, "nothing outside can be reached from such a namespace"


def test_keys_and_types(demo: Shown) -> None:
    value = demo.value
    check_shape(value, "mtls")
    assert set(value["accuracy"]["local"]) == HOSPITALS


def test_one_round_went_on_without_the_killed_hospital_and_it_came_back(
    demo: Shown,
) -> None:
    """The plan wants all five at the start of each round, so the one after it has the hospital again."""
    rounds = demo.value["rounds"]
    assert all(set(one["survivors"]) | set(one["dropped"]) == HOSPITALS for one in rounds)
    without = [index for index, one in enumerate(rounds) if "lakeview" in one["dropped"]]
    assert len(without) == 1
    assert 0 < without[0] < len(rounds) - 1
    assert len(rounds[without[0]]["survivors"]) == len(HOSPITALS) - 1


def test_the_attack_reads_everything_without_protection_and_nothing_with_it(
    demo: Shown,
) -> None:
    for name in ("update_correlation", "record_correlation"):
        one = demo.value["attack"][name]
        assert one["unprotected"] > 0.9999
        assert abs(one["protected"]) < 0.75
    for name, column in demo.value["attack"]["record"].items():
        assert column["unprotected"] == pytest.approx(column["true"], rel=0.02), name
    assert set(demo_record.SHOWN) < set(demo.value["attack"]["record"])


def test_what_is_attacked_is_what_the_coordinator_received_in_four_runs(demo: Shown) -> None:
    """Uploads of one hospital, each of another run; every hospital sent one of the same size in the same round."""
    watched = demo.value["attack"]["hospital"]
    attacked = [demo.upload(how, which) for how in ("protected", "unprotected") for which in (0, 1)]
    runs = [path.name.split(".")[0] for path in attacked]
    assert len(set(runs)) == 4
    received = {path.name.split(".")[0] for path in demo.kept.glob("*.packed")}
    assert set(runs) < received
    assert len(received) == 5, "the fifth is the private training, which nobody attacks here"
    for path in attacked:
        run, number, org, _ = path.name.split(".")
        assert org == watched
        sizes = {other: (demo.kept / f"{run}.{number}.{other}.packed").stat().st_size for other in HOSPITALS}
        assert set(sizes.values()) == {path.stat().st_size}


def test_only_the_masked_uploads_are_masked(demo: Shown) -> None:
    """A quantised coordinate has 16 bits; of residues modulo 2^19 that are uniform, seven in eight have more."""
    for which in (0, 1):
        masked, plain = (np.abs(integers(demo, how, which)) for how in ("protected", "unprotected"))
        assert (plain < 2**15).all()
        assert np.count_nonzero(masked >= 2**15) > len(masked) / 2


def test_the_record_is_read_from_those_bytes(demo: Shown) -> None:
    """Computed again without the demo's attack: weights by bias, scaled back with the hospitals' means.

    Both readings are mean + std * x with the x of their upload, which gives mean and std: those of the tables.
    """
    record_plan = demo_record.one_record(plans.parse_plan(demo_split.plan_text(), "demo_plan.yaml"), 7)
    where = layout.layout_for(record_plan, Purpose.TRAIN, 0).slices()[layout.UPDATE]
    x = {}
    for how in ("protected", "unprotected"):
        update = integers(demo, how, 1)[where].astype(np.float64)
        x[how] = update[:-1] / update[-1]
    tables = {}
    for name in HOSPITALS:
        text = (demo.kept / f"{name}.{demo_record.DATASET}.csv").read_text()
        tables[name] = list(csv.DictReader(io.StringIO(text)))
    (single,) = tables[demo.value["attack"]["hospital"]]
    assert all(len(rows) > 20 for rows in tables.values() if rows != [single])
    for index, (name, column) in enumerate(demo.value["attack"]["record"].items()):
        assert column["true"] == float(single[name])
        std = (column["protected"] - column["unprotected"]) / (x["protected"][index] - x["unprotected"][index])
        mean = column["unprotected"] - std * x["unprotected"][index]
        each = [
            np.array([float(row[name]) for row in rows]) for rows in tables.values()
        ]  # weight_cap 1: all count alike
        expected = np.mean([values.mean() for values in each])
        deviation = np.sqrt(np.mean([(values**2).mean() for values in each]) - expected**2)
        assert mean == pytest.approx(expected, abs=0.02 * deviation), name
        assert std == pytest.approx(deviation, rel=0.02), name


def test_seconds_count_from_the_start_of_the_process(demo: Shown) -> None:
    """Not from when the program was loaded: the clock's zero lies between our start of it and its first line."""
    clock = json.loads((demo.kept / "clock.json").read_text())
    seconds = [reading for reading, _, _ in clock["readings"]]
    assert demo.value["first_round_s"] in seconds
    assert demo.value["total_s"] == max(seconds)
    for reading, before, after in clock["readings"]:
        assert after - reading >= demo.started - TICK_S
        assert before - reading <= clock["began"]


def test_where_the_kernel_does_not_say_when_we_began_it_is_the_import(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = SystemClock()
    started = process_started_s(clock)
    now = clock.monotonic_s()
    assert started <= now

    def missing(self: Path, encoding: str | None = None, errors: str | None = None) -> str:
        raise FileNotFoundError(str(self))

    monkeypatch.setattr(Path, "read_text", missing)
    assert started <= process_started_s(clock) <= now


PREPARED = """
import os, pathlib, sys
from fedveil_cli.demo_processes import Prepared
folder = pathlib.Path(sys.argv[1])
with Prepared(4) as prepared:
    shown = prepared.launch(["-m", "fedveil_cli", "version"], folder / "shown.log", {})
    wrong = prepared.launch(["-m", "fedveil_cli", "no-such-command"], folder / "wrong.log", {})
    print(shown.wait(60), wrong.wait(60), len({os.getpid(), shown.pid, wrong.pid}))
try:
    print(os.waitpid(-1, 0))
except ChildProcessError:
    print("nobody left")
"""


def test_prepared_processes_run_a_command_each_and_the_others_end(tmp_path: Path) -> None:
    command = [sys.executable, "-c", PREPARED, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT_S, check=False)
    assert done.stdout.splitlines() == ["0 2 3", "nobody left"], done.stderr
    assert (tmp_path / "shown.log").read_text().startswith("fedveil ")
    assert "[usage]" in (tmp_path / "wrong.log").read_text()
    assert done.stderr == "", "they write to their own logs only"


ORPHANS = """
import pathlib, sys
from fedveil_cli.demo_processes import Prepared
with Prepared(2) as prepared:
    running = prepared.launch(["-m", "http.server", "0"], pathlib.Path(sys.argv[1]) / "log", {})
    waiting = prepared._waiting[0][0]
    print(running.pid, waiting.pid, flush=True)
    sys.stdin.read()
"""


def test_a_killed_demo_leaves_no_process(tmp_path: Path) -> None:
    """Neither the ones at work nor those that still wait for a command."""
    command = [sys.executable, "-c", ORPHANS, str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        ends = [os.pidfd_open(int(pid)) for pid in parent.stdout.readline().split()]
        try:
            assert select.select(ends, [], [], 0)[0] == []
            parent.kill()
            for end in ends:
                assert select.select([end], [], [], LIMIT_S)[0] == [end], "it has ended"
        finally:
            for end in ends:
                with contextlib.suppress(ProcessLookupError):
                    signal.pidfd_send_signal(end, signal.SIGKILL)
                os.close(end)
    assert parent.returncode == -signal.SIGKILL


def test_protection_is_left_out_by_nothing_but_the_demo() -> None:
    """No other module of the product knows the one that removes it, and no environment variable reaches it."""
    root = Path(__file__).parent.parent
    packages = ("common", "coordinator", "participant", "simulation", "cli")
    sources = [path for name in packages for path in (root / name).rglob("*.py")]
    knowing = {path.name for path in sources if "demo_unprotected" in path.read_text()}
    assert knowing == {"demo.py", "demo_processes.py"}
    assert "import os" not in (root / "cli" / "fedveil_cli" / "demo_unprotected.py").read_text()


def test_the_private_training_keeps_its_epsilon_and_learns(demo: Shown) -> None:
    private = demo.value["privacy"]
    assert (private["unit"], private["noise"], private["delta"]) == ("record", "participants", 1e-5)
    assert 1.9 < private["epsilon"] <= private["max_epsilon"] == 2.0
    assert private["steps"] == 8
    assert private["accuracy"] > 0.85, "20 seeds: 0.90 at least (benchmarks/privacy.py)"


def test_federated_is_as_good_as_pooled_here(demo: Shown) -> None:
    value = demo.value
    assert value["accuracy"]["federated"] > 0.9
    assert value["accuracy"]["federated"] >= value["accuracy"]["pooled"] - 0.03


def test_nothing_is_left(demo: Shown) -> None:
    assert demo.processes == []
    assert demo.files == []
