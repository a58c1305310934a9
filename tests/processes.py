"""Real processes for end-to-end tests: the command line, as a person would type it, in folders of the test's own.

Every process is ended by its own id when the test ends; network traffic stays on the loopback address; waiting is
polling with a stated limit, because real processes have no clock of ours. They are forked from `nursery`, which has the
program loaded; a `cold` house begins each command once in an interpreter of its own.
"""

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from fedveil_cli.local_federation import Process

from tests.berths import free_port
from tests.nursery import nursery
from tests.patience import LIMIT_S

NAMES = ("acme", "borealis", "cygnus")
GROUPS = (
    *("audit", "budget", "ca", "data", "governance", "key", "model", "plan", "policy"),
    *("roster", "round", "run", "storage"),
)
"""Commands whose second word says which."""

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
training: {rounds: 40, learning_rate: 1.0, seed: 7}
strategy: {kind: fedavg}
cohort: {min_participants: 3, max_corrupt: 1, progress_s: 20, wait_s: 60}
protection: {kind: masked, value_bits: 20, update_norm: 64.0}
privacy: {unit: record, rows: 120, clip_norm: 2.0, sample_rate: 1.0, noise_multiplier: 2.0, delta: 1.0e-5,
  max_epsilon: 4.0}
"""
"""A plan with differential privacy, whose budget ends the run long before its rounds do."""


def plan_text(rounds: int = 2, progress_s: float = 20, seed: int = 7, standardise: str = "federated") -> str:
    """A small plan."""
    return f"""
version: 1
name: triage
kind: train
data:
  dataset: visits
  features:
    age: {{type: float, range: [0, 120]}}
    lactate: {{type: float, range: [0, 30], missing: mean}}
    sex: {{type: category, values: [F, M]}}
  target: {{column: died, type: binary}}
  min_rows: 5
  standardise: {standardise}
model: {{kind: logistic, l2: 0.001}}
training:
  {{rounds: {rounds}, local_epochs: 1, batch_size: 8, learning_rate: 0.2, seed: {seed}, weight: rows, weight_cap: 50}}
strategy: {{kind: fedavg}}
evaluation: {{every: 1, metrics: [loss, accuracy, auc], holdout: 0.3}}
cohort: {{min_participants: 3, max_corrupt: 1, progress_s: {progress_s}, wait_s: 60}}
protection: {{kind: masked, value_bits: 16, update_norm: 5.0}}
privacy: none
"""


def table(name: str, rows: int = 40) -> str:
    """A deterministic table, another for each name."""
    lines = ["age,lactate,sex,died,ward"]
    shift = sum(name.encode()) % 17
    for row in range(rows):
        age, lactate = 20 + (row * 7 + shift) % 80, ((row * 13 + shift) % 120) / 10
        died = int(age / 100 + lactate / 12 > 1.0)
        lines.append(f"{age},{lactate if row % 11 else ''},{'FM'[row % 2]},{died},{name}-{row}")
    return "\n".join(lines) + "\n"


def completed(
    launch: Callable[[Sequence[IO[bytes]]], Process],
    arguments: Sequence[str],
    stdin: str = "",
    limit_s: float = LIMIT_S,
) -> "subprocess.CompletedProcess[str]":
    """A process to its end, with what it printed. `launch`: starts it with these as stdin, stdout and stderr."""
    with contextlib.ExitStack() as files:
        given, out, err = (files.enter_context(tempfile.TemporaryFile()) for _ in range(3))
        given.write(stdin.encode())
        given.seek(0)
        process = launch((given, out, err))
        try:
            code = process.wait(timeout=limit_s)
        finally:
            process.kill()
        texts = []
        for file in (out, err):
            file.seek(0)
            texts.append(file.read().decode())
    return subprocess.CompletedProcess(arguments, code, *texts)


def forked(folder: Path, *arguments: str, limit_s: float = LIMIT_S) -> "subprocess.CompletedProcess[str]":
    """`fedveil ARGUMENTS` in `folder`, forked from the nursery."""

    def launch(streams: Sequence[IO[bytes]]) -> Process:
        given, out, err = (one.fileno() for one in streams)
        return nursery().start("fedveil_cli", arguments, folder, os.environ, (given, out, err))

    return completed(launch, arguments, limit_s=limit_s)


@dataclass
class House:
    """One test's folder, with everything that runs in it."""

    folder: Path
    running: dict[str, Process] = field(default_factory=dict)
    pause: threading.Event = field(default_factory=threading.Event)
    cold: bool = False
    _begun: set[tuple[str, ...]] = field(default_factory=set)

    def run(
        self, *arguments: str, stdin: str = "", home: str = "op", environment: Mapping[str, str] | None = None
    ) -> "subprocess.CompletedProcess[str]":
        """`fedveil --home HOME ARGUMENTS`, to its end. `environment`: beside that of the tests."""
        around = {**os.environ, **(environment or {})}
        return completed(
            lambda streams: self._launch("fedveil_cli", arguments, home, around, streams), arguments, stdin
        )

    def json(self, *arguments: str, home: str = "op", stdin: str = "") -> Any:
        """The result of a command that must succeed, from --json."""
        done = self.run(*arguments, "--json", home=home, stdin=stdin)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    def start(
        self, name: str, *arguments: str, home: str, environment: Mapping[str, str] | None = None, module: str = ""
    ) -> None:
        """Start a process; its output goes to NAME.out and NAME.err."""
        with (self.folder / f"{name}.out").open("ab") as out, (self.folder / f"{name}.err").open("ab") as err:
            where = {**os.environ, "PYTHONPATH": str(Path(__file__).parent.parent), **(environment or {})}
            with open(os.devnull, "rb") as nothing:
                self.running[name] = self._launch(module or "fedveil_cli", arguments, home, where, (nothing, out, err))

    def _launch(
        self,
        module: str,
        arguments: Sequence[str],
        home: str,
        environment: Mapping[str, str],
        streams: Sequence[IO[bytes]],
    ) -> Process:
        words = ["--home", str(self.folder / home), *arguments]
        command = tuple(arguments[: 2 if arguments[0] in GROUPS else 1])
        if self.cold and command not in self._begun:
            self._begun.add(command)
            given, out, err = streams
            return subprocess.Popen(
                [sys.executable, "-m", module, *words],
                stdin=given,
                stdout=out,
                stderr=err,
                cwd=self.folder,
                env=environment,
            )
        given, out, err = (one.fileno() for one in streams)
        return nursery().start(module, words, self.folder, environment, (given, out, err))

    def err(self, name: str) -> str:
        """What a process printed on stderr so far."""
        return (self.folder / f"{name}.err").read_text(errors="replace")

    def until(self, condition: Callable[[], bool], what: str, limit_s: float = LIMIT_S) -> None:
        """Poll until the condition holds."""
        end = time.monotonic() + limit_s
        while not condition():
            assert time.monotonic() < end, f"{what} did not happen"
            self.pause.wait(0.05)

    def end(self, name: str, number: int = signal.SIGTERM) -> int:
        """Signal a process and wait for it; its exit code."""
        process = self.running.pop(name)
        if process.poll() is None:
            process.send_signal(number)
        return process.wait(timeout=LIMIT_S)

    def close(self) -> None:
        """End everything that still runs."""
        for process in self.running.values():
            process.kill()
            process.wait()

    # --- the usual steps ----------------------------------------------------------------------------------------------

    def found(self, environment: Mapping[str, str] | None = None, module: str = "") -> None:
        """`init` and `serve`."""
        (self.folder / "ca.txt").write_text("certificate authority")
        (self.folder / "gov.txt").write_text("governance passphrase")
        done = self.run(
            "init",
            "hospitals",
            "--address",
            f"127.0.0.1:{free_port()}",
            "--passphrase-file",
            "ca.txt",
            "--governance-passphrase-file",
            "gov.txt",
        )
        assert done.returncode == 0, done.stderr
        self.serve(environment, module=module)

    def serve(self, environment: Mapping[str, str] | None = None, answering: bool = True, module: str = "") -> None:
        """`serve`, until it answers; at once where it may be killed before it ever does."""
        arguments = ("serve", "--passphrase-file", "ca.txt")
        self.start("coordinator", *arguments, home="op", environment=environment, module=module)
        if answering:
            self.until(lambda: self.run("health").returncode == 0, "the coordinator's start")

    def invite(self, name: str, *extra: str) -> str:
        """`invite`: the token."""
        done = self.run("invite", name, "--governance-passphrase-file", "gov.txt", *extra)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    def participate(
        self,
        name: str,
        plan_hash: str,
        *extra: str,
        environment: Mapping[str, str] | None = None,
        module: str = "",
    ) -> None:
        """`participate` with the organisation's table."""
        path = self.folder / f"{name}.csv"
        if not path.exists():
            path.write_text(table(name))
        arguments = ("participate", "--data", f"visits={path}", "--accept", plan_hash, *extra)
        self.start(name, *arguments, home=name, environment=environment, module=module)

    def connected(self) -> list[str]:
        """Who has a session."""
        return [one["org"] for one in self.json("status")["participants"] if one["connected"]]

    def plan(self, text: str) -> str:
        """Write plan.yaml; its hash."""
        (self.folder / "plan.yaml").write_text(text)
        return str(self.json("plan", "check", "plan.yaml")["plan_hash"])


@contextmanager
def house(folder: Path, cold: bool = False) -> Iterator[House]:
    """A house that is empty of processes when the test ends."""
    made = House(folder, cold=cold)
    try:
        yield made
    finally:
        made.close()
