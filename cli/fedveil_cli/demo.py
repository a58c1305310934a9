"""`fedveil demo`: five hospitals on this machine, real processes, enrolment, mutual TLS, one of them killed on the way.

Promise: nothing is staged. The coordinator and each hospital run as processes of their own, from the commands a person
would type; hospitals hold rows of their own; one is ended by SIGKILL in the middle of a round and comes back; the bytes
that the attack reads are those the coordinator's process received after TLS.
"""

import json
import os
import signal
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
from fedveil_common.errors import IntegrityError
from fedveil_common.messages import Purpose
from fedveil_common.plan import Plan
from fedveil_common.ports import Clock
from fedveil_participant import update as updates
from fedveil_participant.training import alone

from fedveil_cli import demo_attack, demo_split, scoring
from fedveil_cli.scoring import Score

KILLED = "lakeview"
"""The hospital that is killed, at its KILL_AT-th acknowledgement of shares: in the middle of a round."""

KILL_AT = 4
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
    from fedveil_common.initial import initial_model

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
