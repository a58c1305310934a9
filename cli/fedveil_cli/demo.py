"""`fedveil demo`: five hospitals on this machine, real processes, enrolment, mutual TLS, one of them killed on the way.

Promise: nothing is staged. The coordinator and each hospital run as processes of their own, from the commands a person
would type; hospitals hold rows of their own; one is ended by SIGKILL in the middle of a round and comes back; the bytes
that the attack reads are those the coordinator's process received after TLS.
"""

import json
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
from typing import Any

import numpy as np
from fedveil_common import layout, modelfile
from fedveil_common import plan as plans
from fedveil_common.errors import IntegrityError, Unreachable
from fedveil_common.initial import initial_model
from fedveil_common.messages import Purpose
from fedveil_common.plan import Plan
from fedveil_common.ports import Clock
from fedveil_common.secret import Passphrase
from fedveil_participant import update as updates
from fedveil_participant.training import alone

from fedveil_cli import (
    demo_attack,
    demo_record,
    demo_split,
    identity_commands,
    run_commands,
    scoring,
    service_commands,
)
from fedveil_cli.admin_client import AdminClient
from fedveil_cli.scoring import Score
from fedveil_cli.world import FAILPOINT, real_world

KILLED = "lakeview"
"""The hospital that is killed, at its KILL_AT-th acknowledgement of shares: in the middle of a round."""

KILL_AT = 3
WATCHED = "northgate"
"""The hospital whose upload the curious coordinator tries to read."""

START_TIMEOUT_S = 60.0

Tell = Callable[[str, Mapping[str, str]], None]


@dataclass(frozen=True, slots=True)
class Attack:
    """What reading one upload as an update gives: correlation with the hospital's true update."""

    protected: float
    unprotected: float
    record_protected: float
    record_unprotected: float


@dataclass(frozen=True, slots=True)
class DemoResult:
    """Everything the demo prints."""

    federated: Score
    pooled: Score
    local: Mapping[str, Score]
    rounds: list[dict[str, Any]]
    attack: Attack
    first_round_s: float
    total_s: float
    model_file: bytes
    run_id: str

    def to_json(self) -> dict[str, Any]:
        """The keys of `--json`."""
        return {
            "accuracy": {
                "federated": self.federated.accuracy,
                "pooled": self.pooled.accuracy,
                "local": {name: score.accuracy for name, score in self.local.items()},
            },
            "log_loss": {
                "federated": self.federated.loss,
                "pooled": self.pooled.loss,
                "local": {name: score.loss for name, score in self.local.items()},
            },
            "rounds": self.rounds,
            "protection": "masked",
            "transport": "mtls",
            "attack": {
                "update_correlation": {"protected": self.attack.protected, "unprotected": self.attack.unprotected},
                "record_correlation": {
                    "protected": self.attack.record_protected,
                    "unprotected": self.attack.record_unprotected,
                },
            },
            "first_round_s": self.first_round_s,
            "total_s": self.total_s,
        }


@dataclass(slots=True)
class Processes:
    """The processes of the demo, each ended by its own id when the demo ends."""

    running: dict[str, "subprocess.Popen[bytes]"] = field(default_factory=dict)

    def start(self, name: str, arguments: list[str], log: Path, extra: Mapping[str, str] | None = None) -> None:
        """Run `fedveil ARGUMENTS`."""
        environment = {**os.environ, **(extra or {})}
        with log.open("ab") as sink:
            self.running[name] = subprocess.Popen(
                [sys.executable, "-m", *arguments],
                stdin=subprocess.DEVNULL,
                stdout=sink,
                stderr=sink,
                env=environment,
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


def rounds_of(report: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The rounds of a run report in the form of `--json`."""
    return [
        {
            "number": one["number"],
            "purpose": one["purpose"],
            "survivors": one["survivors"],
            "dropped": one["dropped"],
            "seconds": one["seconds"],
            "loss": one["loss"],
            "accuracy": one["accuracy"],
        }
        for one in report["rounds"]
    ]


def compare(
    plan: Plan, files: Mapping[str, bytes], test: bytes, model_file: bytes
) -> tuple[Score, Score, dict[str, Score]]:
    """(federated, pooled, each hospital alone) on the common test rows."""
    stored = modelfile.read_model(model_file)
    held_out = scoring.source_of(test, "test.csv", plan)
    sources = {name: scoring.source_of(data, f"{name}.csv", plan) for name, data in files.items()}
    federated = scoring.score(plan, stored.model, stored.standardisation, held_out)
    pooled = scoring.score(plan, *alone.fit(plan, list(sources.values())), held_out)
    local = {name: scoring.score(plan, *alone.fit(plan, [source]), held_out) for name, source in sources.items()}
    return federated, pooled, local


def attack_update(plan: Plan, data: bytes, upload: bytes, model_file: bytes) -> tuple[float, float]:
    """(protected, unprotected) correlation of what the coordinator can read with the hospital's true update.

    `upload`: the masked bytes of the first train round, as received after TLS. The unprotected upload is the same
    hospital's same update, encoded and not masked. The truth is computed here from the hospital's own rows.
    """
    shape = layout.layout_for(plan, Purpose.TRAIN, 0)
    stored = modelfile.read_model(model_file)
    source = scoring.source_of(data, "watched.csv", plan)
    blocks = updates.contribution(plan, Purpose.TRAIN, 0, source, initial_model(plan), stored.standardisation)
    plain = updates.encode(shape, blocks, bytes(32), plan.protection.value_bits).ring.astype("<u4").tobytes()
    truth = np.asarray(blocks[0]) / float(blocks[1][0])
    if len(plain) != len(upload):
        raise IntegrityError("demo_upload_differs", f"the upload has {len(upload)} bytes, the plain one {len(plain)}")
    return (
        demo_attack.correlation(demo_attack.read_update(upload, shape), truth),
        demo_attack.correlation(demo_attack.read_update(plain, shape), truth),
    )


def wait_until(
    condition: Callable[[], bool], clock: Clock, pause: threading.Event, what: str, timeout_s: float = START_TIMEOUT_S
) -> None:
    """Until `condition` holds. IntegrityError `demo_stuck` after the timeout."""
    end = clock.monotonic_s() + timeout_s
    while not condition():
        if clock.monotonic_s() > end:
            raise IntegrityError("demo_stuck", f"{what} did not happen within {timeout_s:.0f} s")
        pause.wait(0.05)


def write_inputs(folder: Path, seed: int) -> tuple[Plan, bytes, dict[str, bytes], bytes]:
    """(plan, canonical bytes, CSV per hospital, test CSV) for a seed; the plan and tables are written into `folder`."""
    plan = plans.parse_plan(demo_split.plan_text(), "demo_plan.yaml")
    if seed != plan.training.seed:
        plan = plans.with_seed(plan, seed)
    divided = demo_split.split(seed)
    files = {name: demo_split.rows_csv(rows) for name, rows in divided.hospitals.items()}
    for name, data in files.items():
        (folder / f"{name}.csv").write_bytes(data)
    return plan, plans.canonical(plan), files, demo_split.rows_csv(divided.test)


def temporary_folder() -> "tempfile.TemporaryDirectory[str]":
    """Where the demo's homes, keys and tables live until it ends."""
    return tempfile.TemporaryDirectory(prefix="fedveil-demo-")


def table_lines(result: DemoResult) -> list[tuple[str, str, str]]:
    """(who, accuracy, log-loss) rows of the closing table."""
    rows = [
        ("federated, nobody showed an update", result.federated),
        ("pooled, everyone shows everything", result.pooled),
    ]
    rows += [(f"{name} alone", score) for name, score in result.local.items()]
    return [(who, f"{100 * (score.accuracy or 0):.1f} %", f"{score.loss:.3f}") for who, score in rows]


def dump(result: DemoResult) -> str:
    """One line of JSON."""
    return json.dumps(result.to_json())


class Demo:
    """One demo from an empty folder to its closing table. `tell(kind, facts)` is called as things happen."""

    def __init__(self, folder: Path, seed: int, clock: Clock, tell: Tell) -> None:
        self._folder = folder
        self._seed = seed
        self._clock = clock
        self._tell = tell
        self._began = clock.monotonic_s()
        self._processes = Processes()
        self._pause = threading.Event()
        self._dead = threading.Event()
        self._opened_without = threading.Event()
        self._first_round: float | None = None

    def run(self) -> DemoResult:
        """Everything; every process is ended before this returns or raises."""
        try:
            return self._run()
        finally:
            self._processes.stop()

    def _run(self) -> DemoResult:
        plan, canonical, files, test = write_inputs(self._folder, self._seed)
        admin = self._found()
        self._enrol(admin, list(files), plans.plan_hash(canonical))
        run_id = self._train(admin, canonical, list(files))
        report = admin.get_run(run_id)
        if report["code"] != "finished":
            raise IntegrityError("demo_run_failed", f"the demo's run ended with {report['code']}")
        model_file = admin.export_model(run_id)
        federated, pooled, local = compare(plan, files, test, model_file)
        attack = self._attack(plan, files, model_file, report)
        return DemoResult(
            federated,
            pooled,
            local,
            rounds_of(report),
            attack,
            (self._first_round or self._clock.monotonic_s()) - self._began,
            self._clock.monotonic_s() - self._began,
            model_file,
            run_id,
        )

    def _found(self) -> AdminClient:
        """`init` and `serve`."""
        home = self._folder / "coordinator"
        world = real_world()
        entropy = world.entropy
        authority, governance = entropy.take(16).hex().encode(), entropy.take(16).hex().encode()
        secret = self._folder / "authority.txt"
        secret.touch(mode=0o600)
        secret.write_bytes(authority)
        self._governance = Passphrase(governance)
        port = free_port()
        identity_commands.run_init(
            home, "demo", f"127.0.0.1:{port}", Passphrase(authority), self._governance, None, world
        )
        self._tell("founded", {"address": f"127.0.0.1:{port}"})
        arguments = ["fedveil_cli.demo_coordinator", str(home), str(secret), str(self._folder / "received")]
        self._processes.start("coordinator", arguments, self._folder / "coordinator.log")
        wait_until(lambda: self._serving(home), self._clock, self._pause, "the coordinator's start")
        return run_commands.connect(home)

    def _serving(self, home: Path) -> bool:
        if self._processes.running["coordinator"].poll() is not None:
            raise IntegrityError("demo_coordinator_died", "the demo's coordinator ended before it served")
        try:
            service_commands.check_health(home)
        except Unreachable:
            return False
        return True

    def _enrol(self, admin: AdminClient, names: list[str], plan_hash: bytes) -> None:
        """`invite`, `join`, `participate` for each hospital."""
        world = real_world()
        for name in names:
            report = identity_commands.run_invite(
                self._folder / "coordinator", name, False, self._governance, admin, world
            )
            identity_commands.run_join(self._folder / name, str(report["token"]), None, world)
            extra = {FAILPOINT: f"participant.after.ack:{KILL_AT}"} if name == KILLED else {}
            self._participate(name, plan_hash, extra)
            self._tell("joined", {"hospital": name})
        wait_until(
            lambda: all(one["connected"] for one in admin.status()["participants"]),
            self._clock,
            self._pause,
            "the hospitals' connection",
        )

    def _participate(self, name: str, plan_hash: bytes, extra: Mapping[str, str]) -> None:
        arguments = [
            "fedveil_cli",
            "--home",
            str(self._folder / name),
            "participate",
            "--data",
            f"breast_cancer={self._folder / name}.csv",
            "--accept",
            plan_hash.hex(),
        ]
        self._processes.start(name, arguments, self._folder / f"{name}.log", extra)

    def _train(self, admin: AdminClient, canonical: bytes, names: list[str]) -> str:
        """`run start`, and the killed hospital's return."""
        identity_commands.publish_next_roster(self._folder / "coordinator", self._governance, admin)
        run_id = admin.start_run(canonical)
        plan_hash = plans.plan_hash(canonical)
        watcher = threading.Thread(target=self._bring_back, args=(plan_hash,), daemon=True)
        watcher.start()
        for _, kind, facts in admin.watch(run_id):
            if kind == "round" and facts.get("purpose") == "train" and self._first_round is None:
                self._first_round = self._clock.monotonic_s()
            if kind == "round" and self._dead.is_set():
                self._opened_without.set()
            self._tell(kind, facts)
        self._opened_without.set()
        watcher.join(START_TIMEOUT_S)
        wait_until(
            lambda: all(self._has_model(name) for name in names), self._clock, self._pause, "the models' arrival"
        )
        return run_id

    def _bring_back(self, plan_hash: bytes) -> None:
        """Wait for the failpoint to kill the one hospital, then start it again from its folder alone."""
        code = self._processes.running[KILLED].wait()
        if code == -signal.SIGKILL:
            self._dead.set()
            self._tell("killed", {"hospital": KILLED})
            self._opened_without.wait(START_TIMEOUT_S)  # the round goes on without it, then it comes back
            self._participate(KILLED, plan_hash, {})
            self._tell("back", {"hospital": KILLED})

    def _has_model(self, name: str) -> bool:
        return "run_ended" in (self._folder / f"{name}.log").read_text(errors="replace")

    def _attack(self, plan: Plan, files: Mapping[str, bytes], model_file: bytes, report: Mapping[str, Any]) -> Attack:
        first_train = next(one["number"] for one in report["rounds"] if one["purpose"] == Purpose.TRAIN.value)
        upload = (self._folder / "received" / f"{first_train}-{WATCHED}.u32").read_bytes()
        protected, unprotected = attack_update(plan, files[WATCHED], upload, model_file)
        record_protected, record_unprotected = demo_record.attack_record(plan, files, self._seed)
        return Attack(protected, unprotected, record_protected, record_unprotected)


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
