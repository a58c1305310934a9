"""A whole federation as real processes on this machine: for the demo and for `simulate --processes`.

Promise: the commands a person would type, with enrolment over HTTPS and mutual TLS on the loopback address; every key,
table and home lies in one temporary folder; every process is ended by its own id when the federation ends.
"""

import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from fedveil_common import layout
from fedveil_common import plan as plans
from fedveil_common.errors import IntegrityError, Unreachable
from fedveil_common.messages import Purpose
from fedveil_common.plan import Plan
from fedveil_common.ports import Clock
from fedveil_common.secret import Passphrase

from fedveil_cli import identity_commands, run_commands, service_commands
from fedveil_cli.admin_client import AdminClient
from fedveil_cli.world import World, real_world

START_TIMEOUT_S = 60.0
RUN_TIMEOUT_S = 3600.0

Tell = Callable[[str, Mapping[str, str]], None]
CoordinatorArguments = Callable[[Path, Path], list[str]]
"""(home, passphrase file) -> what to run as `python ...`."""


def serve_arguments(home: Path, passphrase: Path) -> list[str]:
    """`fedveil serve`."""
    return ["-m", "fedveil_cli", "--home", str(home), "serve", "--passphrase-file", str(passphrase)]


@dataclass(slots=True)
class Processes:
    """Running processes by name."""

    running: dict[str, "subprocess.Popen[bytes]"] = field(default_factory=dict)

    def start(self, name: str, arguments: list[str], log: Path, extra: Mapping[str, str] | None = None) -> None:
        """Run `python ARGUMENTS`, output to `log`."""
        with log.open("ab") as sink:
            self.running[name] = subprocess.Popen(
                [sys.executable, *arguments],
                stdin=subprocess.DEVNULL,
                stdout=sink,
                stderr=sink,
                env={**os.environ, **(extra or {})},
            )

    def stop(self) -> None:
        """SIGTERM to each, SIGKILL to those that do not go."""
        for process in self.running.values():
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
        for process in self.running.values():
            try:
                process.wait(timeout=10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


class LocalFederation:
    """A coordinator and its organisations in `folder`, each with the table `folder/NAME.csv` as `dataset`."""

    def __init__(self, folder: Path, dataset: str, clock: Clock, tell: Tell) -> None:
        self.folder = folder
        self.processes = Processes()
        self.participant_command = ["-m", "fedveil_cli"]
        self.pause = threading.Event()
        self._dataset = dataset
        self._clock = clock
        self._tell = tell
        self._governance = Passphrase(b"")

    @property
    def home(self) -> Path:
        """The coordinator's."""
        return self.folder / "coordinator"

    def found(self, arguments: CoordinatorArguments = serve_arguments) -> AdminClient:
        """`init` and `serve`; the operator's client."""
        world = real_world()
        authority, governance = (world.entropy.take(16).hex().encode() for _ in range(2))
        secret = self.folder / "authority.txt"
        secret.touch(mode=0o600)
        secret.write_bytes(authority)
        self._governance = Passphrase(governance)
        address = f"127.0.0.1:{free_port()}"
        identity_commands.run_init(self.home, "local", address, Passphrase(authority), self._governance, None, world)
        self._tell("founded", {"address": address})
        self.processes.start("coordinator", arguments(self.home, secret), self.folder / "coordinator.log")
        self.wait_until(self._serving, "the coordinator's start")
        return run_commands.connect(self.home)

    def _serving(self) -> bool:
        if self.processes.running["coordinator"].poll() is not None:
            raise IntegrityError("local_coordinator_died", "the coordinator ended before it served")
        try:
            service_commands.check_health(self.home)
        except Unreachable:
            return False
        return True

    def enrol(
        self, admin: AdminClient, names: list[str], plan_hash: bytes, extra: Mapping[str, Mapping[str, str]]
    ) -> None:
        """`invite`, `join`, `participate` for each; `extra`: environment of single ones."""
        world = real_world()
        for name in names:
            report = identity_commands.run_invite(self.home, name, False, self._governance, admin, world)
            identity_commands.run_join(self.folder / "homes" / name, str(report["token"]), None, world)
            self.participate(name, plan_hash, extra.get(name, {}))
            self._tell("joined", {"organisation": name})
        self.wait_until(
            lambda: all(one["connected"] for one in admin.status()["participants"]), "the organisations' connection"
        )

    def participate(self, name: str, plan_hash: bytes, extra: Mapping[str, str]) -> None:
        """`participate`, for the first time or again."""
        arguments = [
            *self.participant_command,
            "--home",
            str(self.folder / "homes" / name),
            "participate",
            "--data",
            f"{self._dataset}={self.folder / name}.csv",
            "--accept",
            plan_hash.hex(),
        ]
        self.processes.start(name, arguments, self.log_of(name), extra)

    def log_of(self, name: str) -> Path:
        """What a participant printed."""
        return self.folder / f"{name}.log"

    def start(self, admin: AdminClient, canonical: bytes) -> str:
        """`run start --detach`."""
        identity_commands.publish_next_roster(self.home, self._governance, admin)
        return admin.start_run(canonical)

    def await_models(self, names: list[str]) -> None:
        """Until every organisation has verified and stored the end of the run."""
        self.wait_until(
            lambda: all("run_ended" in self.log_of(name).read_text(errors="replace") for name in names),
            "the models' arrival",
        )

    def wait_until(self, condition: Callable[[], bool], what: str) -> None:
        """Until `condition` holds. IntegrityError `local_stuck` after START_TIMEOUT_S."""
        end = self._clock.monotonic_s() + START_TIMEOUT_S
        while not condition():
            if self._clock.monotonic_s() > end:
                raise IntegrityError("local_stuck", f"{what} did not happen within {START_TIMEOUT_S:.0f} s")
            self.pause.wait(0.05)


@dataclass(frozen=True, slots=True)
class Played:
    """What a run of a plan came to."""

    code: str
    model_file: bytes
    rounds: list[dict[str, object]]
    first_round_s: float
    total_s: float
    transport: str


def play(plan: Plan, canonical: bytes, tables: Mapping[str, bytes], world: World) -> Played:
    """The run over mutual TLS, one process each."""
    began = world.clock.monotonic_s()
    names = sorted(tables)
    with temporary_folder() as folder:
        federation = LocalFederation(Path(folder), plan.data.dataset, world.clock, lambda kind, facts: None)
        for name, data in tables.items():
            (Path(folder) / f"{name}.csv").write_bytes(data)
        try:
            admin = federation.found()
            federation.enrol(admin, names, plans.plan_hash(canonical), {})
            run_id = federation.start(admin, canonical)
            first = None
            for _, kind, facts in admin.watch(run_id):
                if kind == "round" and facts.get("purpose") == Purpose.TRAIN.value and first is None:
                    first = world.clock.monotonic_s() - began
            report = admin.get_run(run_id)
            model = b""
            if report["model"]:
                federation.await_models(names)
                model = admin.export_model(run_id)
        finally:
            federation.processes.stop()
    total = world.clock.monotonic_s() - began
    return Played(str(report["code"]), model, rounds_of(report), first or total, total, "mtls")


def rounds_of(report: Mapping[str, list[dict[str, object]]]) -> list[dict[str, object]]:
    """The rounds of a run report in the form of `--json`."""
    keys = ("number", "purpose", "survivors", "dropped", "seconds", "loss", "accuracy")
    return [{key: one[key] for key in keys} for one in report["rounds"]]


def trained_rounds(plan: Plan) -> int:
    """How many secure sums come before the first model."""
    return 1 if layout.needs_standardise(plan) else 0


def temporary_folder() -> "tempfile.TemporaryDirectory[str]":
    """Where everything lives until it ends."""
    return tempfile.TemporaryDirectory(prefix="fedveil-")


def free_port() -> int:
    """A port of which the next one is free too (enrolment listens there), on the loopback address."""
    while True:
        with socket.socket() as first:
            first.bind(("127.0.0.1", 0))
            port: int = first.getsockname()[1]
            with socket.socket() as second:
                try:
                    second.bind(("127.0.0.1", port + 1))
                except OSError:
                    continue
                return port
