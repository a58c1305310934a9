"""`fedveil demo`: five hospitals on this machine, real processes, enrolment, mutual TLS, one of them killed on the way.

Promise: nothing is staged. The coordinator and each hospital run as processes of their own, from the commands a person
would type; hospitals hold rows of their own; one is ended by SIGKILL in the middle of a round and comes back; the bytes
that the attack reads are those the coordinator's process received after TLS.
"""

import signal
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from fedveil_common import layout, modelfile
from fedveil_common import plan as plans
from fedveil_common.errors import IntegrityError
from fedveil_common.initial import initial_model
from fedveil_common.messages import Purpose
from fedveil_common.plan import Plan
from fedveil_common.ports import Clock
from fedveil_participant import update as updates
from fedveil_participant.training import alone

from fedveil_cli import demo_attack, demo_record, demo_split, scoring
from fedveil_cli.admin_client import AdminClient
from fedveil_cli.local_federation import START_TIMEOUT_S, LocalFederation, Tell, rounds_of
from fedveil_cli.scoring import Score
from fedveil_cli.world import FAILPOINT

KILLED = "lakeview"
"""The hospital that is killed, at its KILL_AT-th acknowledgement of shares: in the middle of a round."""

KILL_AT = 3
WATCHED = "northgate"
"""The hospital whose upload the curious coordinator tries to read."""

DATASET = "breast_cancer"


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
    rounds: list[dict[str, object]]
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


def table_lines(result: DemoResult) -> list[tuple[str, str, str]]:
    """(who, accuracy, log-loss) rows of the closing table."""
    rows = [
        ("federated, nobody showed an update", result.federated),
        ("pooled, everyone shows everything", result.pooled),
    ]
    rows += [(f"{name} alone", score) for name, score in result.local.items()]
    return [(who, f"{100 * (score.accuracy or 0):.1f} %", f"{score.loss:.3f}") for who, score in rows]


class Demo:
    """One demo from an empty folder to its closing table. `tell(kind, facts)` is called as things happen."""

    def __init__(self, folder: Path, seed: int, clock: Clock, tell: Tell) -> None:
        self._folder = folder
        self._seed = seed
        self._clock = clock
        self._tell = tell
        self._began = clock.monotonic_s()
        self._federation = LocalFederation(folder, DATASET, clock, tell)
        self._dead = threading.Event()
        self._opened_without = threading.Event()
        self._first_round: float | None = None

    def run(self) -> DemoResult:
        """Everything; every process is ended before this returns or raises."""
        try:
            return self._run()
        finally:
            self._federation.processes.stop()

    def _run(self) -> DemoResult:
        plan, canonical, files, test = write_inputs(self._folder, self._seed)
        admin = self._federation.found(self._watching_coordinator)
        failpoint = {KILLED: {FAILPOINT: f"participant.after.ack:{KILL_AT}"}}
        self._federation.enrol(admin, list(files), plans.plan_hash(canonical), failpoint)
        run_id = self._train(admin, canonical, list(files))
        report = admin.get_run(run_id)
        if report["code"] != "finished":
            raise IntegrityError("demo_run_failed", f"the demo's run ended with {report['code']}")
        model_file = admin.export_model(run_id)
        federated, pooled, local = compare(plan, files, test, model_file)
        attack = self._attack(plan, files, model_file, report)
        total = self._clock.monotonic_s() - self._began
        first = total if self._first_round is None else self._first_round - self._began
        return DemoResult(federated, pooled, local, rounds_of(report), attack, first, total, model_file, run_id)

    def _watching_coordinator(self, home: Path, passphrase: Path) -> list[str]:
        return ["-m", "fedveil_cli.demo_coordinator", str(home), str(passphrase), str(self._folder / "received")]

    def _train(self, admin: AdminClient, canonical: bytes, names: list[str]) -> str:
        """`run start`, and the killed hospital's return."""
        plan_hash = plans.plan_hash(canonical)
        watcher = threading.Thread(target=self._bring_back, args=(plan_hash,), daemon=True)
        watcher.start()
        run_id = self._federation.start(admin, canonical)
        for _, kind, facts in admin.watch(run_id):
            if kind == "round" and facts.get("purpose") == Purpose.TRAIN.value and self._first_round is None:
                self._first_round = self._clock.monotonic_s()
            if kind == "round" and self._dead.is_set():
                self._opened_without.set()
            self._tell(kind, facts)
        self._opened_without.set()
        watcher.join(START_TIMEOUT_S)
        self._federation.await_models(names)
        return run_id

    def _bring_back(self, plan_hash: bytes) -> None:
        """Wait for the failpoint to kill the one hospital, then start it again from its folder alone."""
        code = self._federation.processes.running[KILLED].wait()
        if code == -signal.SIGKILL:
            self._dead.set()
            self._tell("killed", {"hospital": KILLED})
            self._opened_without.wait(START_TIMEOUT_S)  # the round goes on without it, then it comes back
            self._federation.participate(KILLED, plan_hash, {})
            self._tell("back", {"hospital": KILLED})

    def _attack(self, plan: Plan, files: Mapping[str, bytes], model_file: bytes, report: Mapping[str, Any]) -> Attack:
        first_train = next(one["number"] for one in report["rounds"] if one["purpose"] == Purpose.TRAIN.value)
        upload = (self._folder / "received" / f"{first_train}-{WATCHED}.u32").read_bytes()
        protected, unprotected = attack_update(plan, files[WATCHED], upload, model_file)
        record_protected, record_unprotected = demo_record.attack_record(plan, files, self._seed)
        return Attack(protected, unprotected, record_protected, record_unprotected)
