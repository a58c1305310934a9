"""A whole federation as real processes on this machine: for the demo and for `simulate --processes`.

Promise: the commands a person would type, with enrolment over HTTPS and mutual TLS on the loopback address; every key,
table and home lies in one temporary folder; every process is ended by its own id when the federation ends.
"""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from fedveil_common import layout
from fedveil_common import plan as plans
from fedveil_common.errors import IntegrityError, Unreachable
from fedveil_common.ids import OrgId
from fedveil_common.messages import Purpose
from fedveil_common.plan import PAILLIER, Plan
from fedveil_common.ports import Clock
from fedveil_common.secret import Passphrase
from fedveil_coordinator import founding
from fedveil_participant.data.in_memory import PARQUET_START

from fedveil_cli import identity_commands, local_key, run_commands, service_commands
from fedveil_cli.admin_client import AdminClient
from fedveil_cli.identity_commands import OpenedGovernance
from fedveil_cli.local_key import Choice, LocalKey
from fedveil_cli.output import Output
from fedveil_cli.world import World, real_world

COORDINATOR = "coordinator"
JOINING = 2
"""Organisations that join at the same time."""

START_TIMEOUT_S = 60.0
STOP_TIMEOUT_S = 10.0
RUN_TIMEOUT_S = 3600.0

Tell = Callable[[str, Mapping[str, str]], None]
CoordinatorArguments = Callable[[Path, Path], list[str]]
"""(home, passphrase file) -> what to run as `python ...`."""


def serve_arguments(home: Path, passphrase: Path) -> list[str]:
    """`fedveil serve`."""
    return ["-m", "fedveil_cli", "--home", str(home), "serve", "--passphrase-file", str(passphrase)]


class Process(Protocol):
    """A process of ours; `subprocess.Popen` is one."""

    @property
    def pid(self) -> int:
        """Its id."""
        ...

    def poll(self) -> int | None:
        """Its exit code (minus the signal's number if a signal ended it); None while it runs."""
        ...

    def wait(self, timeout: float | None = None) -> int:
        """Its exit code once it has ended. subprocess.TimeoutExpired after `timeout` seconds."""
        ...

    def send_signal(self, sig: int) -> None:
        """Send it a signal."""
        ...

    def kill(self) -> None:
        """SIGKILL."""
        ...


Launch = Callable[[list[str], Path, Mapping[str, str]], Process]
"""(arguments, log, more environment) -> `python ARGUMENTS`, running, its output going to the end of `log`."""


def launch_python(arguments: list[str], log: Path, extra: Mapping[str, str]) -> Process:
    """A new interpreter."""
    with log.open("ab") as sink:
        return subprocess.Popen(
            [sys.executable, *arguments],
            stdin=subprocess.DEVNULL,
            stdout=sink,
            stderr=sink,
            env={**os.environ, **extra},
        )


@dataclass(slots=True)
class Processes:
    """Running processes by name."""

    launch: Launch = launch_python
    running: dict[str, Process] = field(default_factory=dict)

    def start(self, name: str, arguments: list[str], log: Path, extra: Mapping[str, str] | None = None) -> None:
        """Run `python ARGUMENTS`, output to `log`."""
        self.running[name] = self.launch(arguments, log, extra or {})

    def stop(self) -> None:
        """SIGTERM to each, SIGKILL to those that do not go; the coordinator last, when nobody is connected any more."""
        self._stop([process for name, process in self.running.items() if name != COORDINATOR])
        self._stop([process for name, process in self.running.items() if name == COORDINATOR])

    def _stop(self, processes: Sequence[Process]) -> None:
        for process in processes:
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
        for process in processes:
            try:
                process.wait(timeout=STOP_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


class LocalFederation:
    """A coordinator and its organisations in `folder`, each with `folder/NAME.csv` (or .parquet) as its `dataset`.

    `more_data`: further data sets of each, `folder/NAME.DATASET.csv`; `more_plans`: hashes of further plans that all
    accept from the beginning; `more_arguments`: of each `participate`.
    """

    def __init__(self, folder: Path, dataset: str, clock: Clock, tell: Tell, launch: Launch = launch_python) -> None:
        self.folder = folder
        self.processes = Processes(launch)
        self.participant_command = ["-m", "fedveil_cli"]
        self.pause = threading.Event()
        self.more_data: tuple[str, ...] = ()
        self.more_plans: tuple[bytes, ...] = ()
        self.more_arguments: tuple[str, ...] = ()
        self._dataset = dataset
        self._clock = clock
        self._tell = tell
        self._governance = Passphrase(b"")
        self._opened: OpenedGovernance | None = None

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
        with reserved_ports() as port:
            address = f"127.0.0.1:{port}"
            identity_commands.run_init(
                self.home, "local", address, Passphrase(authority), self._governance, None, world
            )
            self._tell("founded", {"address": address})
            return self.serve(arguments)

    def serve(
        self, arguments: CoordinatorArguments = serve_arguments, extra: Mapping[str, str] | None = None
    ) -> AdminClient:
        """`serve`, for the first time or again; the operator's client."""
        command = arguments(self.home, self.folder / "authority.txt")
        self.processes.start(COORDINATOR, command, self.folder / "coordinator.log", extra)
        self._governance_key()  # scrypt takes its time: meanwhile the coordinator starts
        self.wait_until(self._serving, "the coordinator's start")
        return run_commands.connect(self.home)

    def _governance_key(self) -> OpenedGovernance:
        """The governance key, opened once for all that the operator does here."""
        if self._opened is None:
            self._opened = identity_commands.open_governance(self.home, self._governance)
        return self._opened

    def _serving(self) -> bool:
        if self.processes.running[COORDINATOR].poll() is not None:
            raise IntegrityError("local_coordinator_died", "the coordinator ended before it served")
        try:
            service_commands.check_health(self.home)
        except Unreachable:
            return False
        return True

    def enrol(
        self,
        admin: AdminClient,
        names: list[str],
        plan_hash: bytes,
        extra: Mapping[str, Mapping[str, str]],
        choices: Sequence[Choice] = (),
    ) -> list[LocalKey]:
        """`invite`, `join`, `participate` for each; `extra`: environment of single ones. `choices`: of the keys that
        they make in between, and that are published; they are returned.

        Two join at a time, and if there is no key to be made each takes part at once while the next ones join.
        """
        world = real_world()
        governance = self._governance_key()

        def join(name: str) -> None:
            report = governance.invite(name, False, admin, world)
            identity_commands.run_join(self.home_of(name), str(report["token"]), None, world)
            if not choices:
                self.participate(name, plan_hash, extra.get(name, {}))
            self._tell("joined", {"organisation": name})

        with ThreadPoolExecutor(JOINING, thread_name_prefix="fedveil-join") as pool:
            for joined in [pool.submit(join, name) for name in names]:
                joined.result()
        keys = [self._make_key(admin, names, choice, world) for choice in choices]
        for name in names if choices else ():
            self.participate(name, plan_hash, extra.get(name, {}))
        self.await_connected(admin, names)
        return keys

    def _make_key(self, admin: AdminClient, names: list[str], choice: Choice, world: World) -> LocalKey:
        """`key terms`, `key holders`, `key pin` in every home, `key publish`."""
        homes = {OrgId(name): self.home_of(name) for name in names}
        key = local_key.make(choice, founding.load_federation(self.home).federation_id, homes, world, Output(False))
        admin.publish_key(key.terms.encode(), key.record.to_bytes())
        self._tell("key", {"id": choice.key_id, "seconds": f"{key.seconds:.1f}"})
        return key

    def home_of(self, name: str) -> Path:
        """Of an organisation."""
        return self.folder / "homes" / name

    def await_connected(self, admin: AdminClient, names: list[str]) -> None:
        """Until each of them is connected."""

        def all_here() -> bool:
            connected = {one["org"] for one in admin.status()["participants"] if one["connected"]}
            return connected >= set(names)

        self.wait_until(all_here, "the organisations' connection")

    def participate(self, name: str, plan_hash: bytes, extra: Mapping[str, str]) -> None:
        """`participate`, for the first time or again."""
        arguments = [
            *self.participant_command,
            "--home",
            str(self.home_of(name)),
            "participate",
            "--data",
            f"{self._dataset}={self._table_of(name)}",
        ]
        for dataset in self.more_data:
            arguments += ["--data", f"{dataset}={self.folder / name}.{dataset}.csv"]
        for accepted in (plan_hash, *self.more_plans):
            arguments += ["--accept", accepted.hex()]
        self.processes.start(name, [*arguments, *self.more_arguments], self.log_of(name), extra)

    def _table_of(self, name: str) -> Path:
        parquet = self.folder / f"{name}.parquet"
        return parquet if parquet.exists() else self.folder / f"{name}.csv"

    def log_of(self, name: str) -> Path:
        """What a participant printed."""
        return self.folder / f"{name}.log"

    def start(self, admin: AdminClient, canonical: bytes) -> str:
        """`run start --detach`."""
        self._governance_key().publish_next_roster(admin)
        return admin.start_run(canonical)

    def await_models(self, names: list[str], run_id: str) -> None:
        """Until every organisation has verified and stored the end of the run."""
        told = f"run_ended run={run_id} "
        self.wait_until(
            lambda: all(told in self.log_of(name).read_text(errors="replace") for name in names),
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
    """What a run of a plan came to. `keys`: that were made for it. `answers`: of a statistics plan."""

    code: str
    model_file: bytes
    rounds: list[dict[str, object]]
    first_round_s: float
    total_s: float
    transport: str
    keys: tuple[LocalKey, ...] = ()
    answers: tuple[Mapping[str, object], ...] = ()


def play(
    plan: Plan,
    canonical: bytes,
    tables: Mapping[str, bytes],
    world: World,
    began: float,
    more_arguments: Sequence[str] = (),
) -> Played:
    """The run over mutual TLS, one process each. `began`: when the command did, on `world.clock.monotonic_s`."""
    names = sorted(tables)
    with temporary_folder() as folder:
        federation = LocalFederation(Path(folder), plan.data.dataset, world.clock, lambda kind, facts: None)
        federation.more_arguments = tuple(more_arguments)
        for name, data in tables.items():
            suffix = "parquet" if data.startswith(PARQUET_START) else "csv"
            (Path(folder) / f"{name}.{suffix}").write_bytes(data)
        try:
            admin = federation.found()
            choices = [local_key.choose(plan, names)] if plan.protection.kind == PAILLIER else []
            keys = federation.enrol(admin, names, plans.plan_hash(canonical), {}, choices)
            run_id = federation.start(admin, canonical)
            first = None
            for _, kind, facts in admin.watch(run_id):
                if kind == "round" and facts.get("purpose") == Purpose.TRAIN.value and first is None:
                    first = world.clock.monotonic_s() - began
            report = admin.get_run(run_id)
            model = b""
            if report.get("answers"):
                federation.await_models(names, run_id)
            if report["model"]:
                federation.await_models(names, run_id)
                model = admin.export_model(run_id)
        finally:
            federation.processes.stop()
    total = world.clock.monotonic_s() - began
    answers = tuple(report.get("answers") or ())
    return Played(str(report["code"]), model, rounds_of(report), first or total, total, "mtls", tuple(keys), answers)


def rounds_of(report: Mapping[str, list[dict[str, object]]]) -> list[dict[str, object]]:
    """The rounds of a run report in the form of `--json`."""
    keys = ("number", "purpose", "survivors", "dropped", "seconds", "loss", "accuracy")
    return [{key: one[key] for key in keys} for one in report["rounds"]]


def trained_rounds(plan: Plan) -> int:
    """How many secure sums come before the first model."""
    return 1 if layout.needs_standardise(plan) else 0


@contextlib.contextmanager
def temporary_folder() -> Iterator[str]:
    """Where everything lives until it ends. SIGTERM ends it as an interrupt does: no process and no copy is left."""

    def unwind(number: int, frame: object) -> None:
        raise SystemExit(128 + number)

    main = threading.current_thread() is threading.main_thread()
    before = signal.signal(signal.SIGTERM, unwind) if main else None
    try:
        with tempfile.TemporaryDirectory(prefix="fedveil-") as name:
            yield name
    finally:
        if before is not None:
            signal.signal(signal.SIGTERM, before)


@contextlib.contextmanager
def reserved_ports() -> Iterator[int]:
    """A port of the loopback address that the kernel gives to nobody else meanwhile, nor the next one, for enrolment.
    Both are bound, not listened on: who listens with SO_REUSEADDR, as a coordinator does, may take them.
    """
    while True:
        with socket.socket() as first, socket.socket() as second:
            for one in (first, second):
                one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            first.bind(("127.0.0.1", 0))
            port: int = first.getsockname()[1]
            try:
                second.bind(("127.0.0.1", port + 1))
            except (OSError, OverflowError):
                continue
            yield port
            return
