"""`fedveil demo`: five hospitals on this machine, real processes, enrolment, mutual TLS, one of them killed on the way.

Promise: nothing is staged. The coordinator and each hospital run as processes of their own, with the commands that
a person would type; hospitals hold rows of their own; one is ended by SIGKILL in the middle of a round and comes back.
The attack reads only what the coordinator's process wrote down of what came out of TLS: in this training, in a run
where one hospital trains on one record, and in both again after a restart in which the protection is left out.
A second training of the same model is under differential privacy, with its epsilon accounted and enforced by both
sides. Under protection paillier the hospitals hold the keys themselves, one for each run, made without a dealer.
"""

import signal
import threading
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from fedveil_common import modelfile, private_sum
from fedveil_common import plan as plans
from fedveil_common.errors import IntegrityError
from fedveil_common.masking import packing, ring
from fedveil_common.messages import Purpose
from fedveil_common.plan import MASKED, PAILLIER, NoiseSource, Plan
from fedveil_common.ports import Clock
from fedveil_participant.training import alone

from fedveil_cli import demo_attack, demo_cipher, demo_record, demo_split, demo_unprotected, local_key, scoring
from fedveil_cli.admin_client import AdminClient
from fedveil_cli.demo_attack import Captured, Record
from fedveil_cli.demo_cipher import Uploads
from fedveil_cli.demo_coordinator import Copy
from fedveil_cli.local_federation import START_TIMEOUT_S, Launch, LocalFederation, Tell, rounds_of
from fedveil_cli.local_key import Choice, LocalKey
from fedveil_cli.scoring import Score
from fedveil_cli.world import FAILPOINT, real_world

KILLED = "lakeview"
"""The hospital that is killed, in the middle of the third round: others rely on it, and it has uploaded nothing."""

KILL_AT = {MASKED: "participant.after.ack:3", PAILLIER: "participant.after.key_set:3"}
WATCHED = "northgate"
"""The hospital whose upload the curious coordinator tries to read."""

DATASET = "breast_cancer"
KEYS = ("demo", "demo-record", "demo-private")
"""Under paillier: the keys of the training, of the run on one record, of the private one; an epoch serves one run."""

PROCESSES = 13
"""The coordinator and five hospitals, the killed one again, and all six again without protection."""


@dataclass(frozen=True, slots=True)
class Attack:
    """What the attack makes of one hospital's uploads: correlation with its true update; the record it trained on."""

    update: float
    record: Record
    uploads: tuple[str, str]
    """SHA-256 of the two uploads that were read, for the update and for the record."""

    guessed: bool
    """Under paillier: whether the randomness of both was found by trying."""


@dataclass(frozen=True, slots=True)
class Encrypted:
    """What there is to say of a demo under paillier. `opened_by`: of each round of the training, whose answers;
    `tried_bits`: randomness of so many bits the attack finds.
    """

    keys: tuple[LocalKey, ...]
    uploads: Uploads
    opened_by: Mapping[int, tuple[str, ...]]
    tried_bits: int = demo_unprotected.FEW_BITS


@dataclass(frozen=True, slots=True)
class Private:
    """What came of the private training: the model's score, and what its sums cost by the coordinator's ledger."""

    score: Score
    steps: int
    ledger: Mapping[str, Any]

    def to_json(self) -> dict[str, Any]:
        """The key `privacy` of `--json`."""
        return {**self.ledger, "steps": self.steps, "accuracy": self.score.accuracy, "log_loss": self.score.loss}


@dataclass(frozen=True, slots=True)
class DemoResult:
    """Everything the demo prints."""

    federated: Score
    pooled: Score
    local: Mapping[str, Score]
    rounds: list[dict[str, object]]
    protected: Attack
    unprotected: Attack
    private: Private
    first_round_s: float
    total_s: float
    model_file: bytes
    run_id: str
    encrypted: Encrypted | None = None

    @property
    def protection(self) -> str:
        """Of the plan."""
        return MASKED if self.encrypted is None else PAILLIER

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
            "protection": self.protection,
            "privacy": self.private.to_json(),
            "transport": "mtls",
            "attack": self._attack_json(),
            "first_round_s": self.first_round_s,
            "total_s": self.total_s,
        } | self._encrypted_json()

    def _encrypted_json(self) -> dict[str, Any]:
        if self.encrypted is None:
            return {}
        opened_by = {int(str(number)): list(orgs) for number, orgs in self.encrypted.opened_by.items()}
        return {
            "rounds": [{**one, "opened_by": opened_by[int(str(one["number"]))]} for one in self.rounds],
            "keys": [key.to_json() for key in self.encrypted.keys],
            "uploads": self.encrypted.uploads.to_json(),
        }

    def _attack_json(self) -> dict[str, Any]:
        both = {"protected": self.protected, "unprotected": self.unprotected}
        record = {
            name: {"true": true, **{how: one.record.read[name] for how, one in both.items()}}
            for name, true in self.protected.record.true.items()
        }
        found = {how: one.guessed for how, one in both.items()}
        tried = self.encrypted
        guessed = {} if tried is None else {"randomness_bits_tried": tried.tried_bits, "randomness_found": found}
        return guessed | {
            "hospital": WATCHED,
            "update_correlation": {how: one.update for how, one in both.items()},
            "record_correlation": {how: one.record.correlation for how, one in both.items()},
            "record": record,
            "uploads_sha256": {how: list(one.uploads) for how, one in both.items()},
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


@dataclass(frozen=True, slots=True)
class Inputs:
    """The plans, and the tables: per hospital, the common test set, and the watched hospital's one record.

    `private`: of the training under differential privacy. `again`: what runs without protection, for the update and for
    the record.
    """

    plan: Plan
    one_record: Plan
    private: Plan
    again: tuple[Plan, Plan]
    files: Mapping[str, bytes]
    test: bytes
    record: bytes


def write_inputs(folder: Path, seed: int, protection: str, noise: NoiseSource) -> Inputs:
    """The inputs for a seed; the tables are written into `folder`, where the hospitals find them."""
    plan = plans.parse_plan(demo_split.plan_text(), "demo_plan.yaml")
    private = private_plan(noise)
    if protection == PAILLIER:
        plan, private = _under(plan, KEYS[0]), _under(private, KEYS[2])
    if seed != plan.training.seed:
        plan, private = plans.with_seed(plan, seed), plans.with_seed(private, seed)
    divided = demo_split.split(seed)
    files = {name: demo_split.rows_csv(rows) for name, rows in divided.hospitals.items()}
    record_plan, again_record = (demo_record.one_record(plan, one) for one in (seed, seed ^ 1))
    if protection == PAILLIER:
        record_plan, again_record = (_under(one, KEYS[1]) for one in (record_plan, again_record))
    again = demo_record.one_round(plan, seed ^ 1), again_record
    record = demo_record.training_row(record_plan, files[WATCHED])
    for name, data in files.items():
        (folder / f"{name}.csv").write_bytes(data)
        single = record if name == WATCHED else demo_record.without_last_rows(data)
        (folder / f"{name}.{demo_record.DATASET}.csv").write_bytes(single)
    return Inputs(plan, record_plan, private, again, files, demo_split.rows_csv(divided.test), record)


def private_plan(noise: NoiseSource) -> Plan:
    """The plan of the private training, under masks, with its noise from there."""
    plan = plans.parse_plan(demo_split.private_plan_text(), "demo_private_plan.yaml")
    assert plan.privacy is not None, "the file has a privacy block"
    return replace(plan, privacy=replace(plan.privacy, noise=noise))


def _under(plan: Plan, key_id: str) -> Plan:
    """The plan under paillier."""
    return replace(plan, protection=replace(plan.protection, kind=PAILLIER, key=key_id))


def table_lines(result: DemoResult) -> list[tuple[str, str, str]]:
    """(who, accuracy, log-loss) rows of the closing table."""
    rows = [
        ("federated, nobody showed an update", result.federated),
        (f"federated, epsilon {result.private.ledger['epsilon']:.2f} for each record", result.private.score),
        ("pooled, everyone shows everything", result.pooled),
    ]
    rows += [(f"{name} alone", score) for name, score in result.local.items()]
    return [(who, f"{100 * (score.accuracy or 0):.1f} %", f"{score.loss:.3f}") for who, score in rows]


class Demo:
    """One demo from an empty folder to its closing table. `tell(kind, facts)` is called as things happen.

    `began`: when the command did, on `clock.monotonic_s`. `launch`: see `local_federation`.
    """

    def __init__(
        self,
        folder: Path,
        seed: int,
        protection: str,
        noise: NoiseSource,
        clock: Clock,
        began: float,
        tell: Tell,
        launch: Launch,
    ) -> None:
        self._folder = folder
        self._inputs = write_inputs(folder, seed, protection, noise)
        self._protection = protection
        self._keys: list[LocalKey] = []
        self._clock = clock
        self._tell = tell
        self._began = began
        self._federation = LocalFederation(folder, DATASET, clock, tell, launch)
        self._federation.more_data = (demo_record.DATASET,)
        self._federation.more_plans = tuple(
            plans.plan_hash(plans.canonical(plan))
            for plan in (self._inputs.one_record, self._inputs.private, *self._inputs.again)
        )
        self._hash = plans.plan_hash(plans.canonical(self._inputs.plan))
        self._names = list(self._inputs.files)
        self._dead = threading.Event()
        self._opened_without = threading.Event()
        self._first_round: float | None = None

    def run(self) -> DemoResult:
        """Everything; every process is ended before this returns or raises."""
        inputs = self._inputs
        comparing = ThreadPoolExecutor(1, thread_name_prefix="fedveil-compare")
        try:
            admin = self._federation.found(self._watching_coordinator)
            failpoint = {KILLED: {FAILPOINT: KILL_AT[self._protection]}}
            self._keys = self._federation.enrol(admin, self._names, self._hash, failpoint, self._choices())
            run_id = self._train(admin)
            report, trained = self._captured(admin, run_id, inputs.plan)
            compared = comparing.submit(compare, inputs.plan, inputs.files, inputs.test, trained.model_file)
            looked = comparing.submit(self._encrypted, report, run_id)
            protected = self._attack(trained, self._side_run(admin, inputs.one_record, self._protection))
            private = self._private_run(admin)
            encrypted = looked.result()
            admin.close()
            admin = self._restart_unprotected()
            unprotected = self._attack(*[self._side_run(admin, plan, "none") for plan in inputs.again])
            admin.close()
        finally:
            self._federation.processes.stop()
            comparing.shutdown()
        federated, pooled, local = compared.result()
        return DemoResult(
            federated,
            pooled,
            local,
            rounds_of(report),
            protected,
            unprotected,
            private,
            self._since_start() if self._first_round is None else self._first_round,
            self._since_start(),
            trained.model_file,
            run_id,
            encrypted,
        )

    def _choices(self) -> list[Choice]:
        """The keys to be made."""
        if self._protection == MASKED:
            return []
        chosen = (self._inputs.plan, self._inputs.one_record, self._inputs.private)
        return [local_key.choose(plan, self._names) for plan in chosen]

    def _encrypted(self, report: Mapping[str, Any], run_id: str) -> Encrypted | None:
        """What was received, and who opened the sums, in a training under paillier."""
        if not self._keys:
            return None
        purposes = {int(one["number"]): Purpose(one["purpose"]) for one in report["rounds"]}
        received = self._folder / "received"
        uploads = demo_cipher.uploads(received, self._inputs.plan, self._keys[0].public, run_id, purposes)
        opened_by = demo_cipher.opened_by(self._federation.home, run_id, list(purposes), real_world())
        return Encrypted(tuple(self._keys), uploads, opened_by)

    def _since_start(self) -> float:
        return self._clock.monotonic_s() - self._began

    def _watching_coordinator(self, home: Path, passphrase: Path) -> list[str]:
        return ["-m", "fedveil_cli.demo_coordinator", str(home), str(passphrase), str(self._folder / "received")]

    def _train(self, admin: AdminClient) -> str:
        """`run start`, and the killed hospital's return."""
        watcher = threading.Thread(target=self._bring_back, daemon=True)
        watcher.start()
        run_id = self._federation.start(admin, plans.canonical(self._inputs.plan))
        for _, kind, facts in admin.watch(run_id):
            if kind == "round" and facts.get("purpose") == Purpose.TRAIN.value and self._first_round is None:
                self._first_round = self._since_start()
            if kind == "round" and self._dead.is_set():
                self._opened_without.set()
            self._tell(kind, facts)
        self._opened_without.set()
        watcher.join(START_TIMEOUT_S)
        return run_id

    def _bring_back(self) -> None:
        """Wait for the failpoint to kill the one hospital, then start it again from its folder alone."""
        code = self._federation.processes.running[KILLED].wait()
        if code == -signal.SIGKILL:
            self._dead.set()
            self._tell("killed", {"hospital": KILLED})
            self._opened_without.wait(START_TIMEOUT_S)  # the round goes on without it, then it comes back
            self._federation.participate(KILLED, self._hash, {})
            self._tell("back", {"hospital": KILLED})

    def _restart_unprotected(self) -> AdminClient:
        """Everybody again from their folders, in processes that leave the protection out. What is not encrypted wears
        no key out: all consent to the same epochs again.
        """
        self._federation.processes.stop()
        if self._keys:
            self._federation.more_arguments = ("--reuse-key-epoch",)
        without = {demo_unprotected.ORDER: "1"}
        admin = self._federation.serve(self._watching_coordinator, without)
        for name in self._names:
            self._federation.participate(name, self._hash, without)
        self._federation.await_connected(admin, self._names)
        return admin

    def _private_run(self, admin: AdminClient) -> Private:
        """The training under differential privacy, to its end."""
        plan = self._inputs.private
        assert plan.privacy is not None, "it is the private one"
        self._tell("private_run", {"plan": plan.name, "noise": plan.privacy.noise.value})
        run_id = admin.start_run(plans.canonical(plan), False)
        for _, kind, facts in admin.watch(run_id):
            if kind == "round":
                self._tell(kind, facts)
        report = _finished(admin, run_id)
        stored = modelfile.read_model(admin.export_model(run_id))
        test = scoring.source_of(self._inputs.test, "test.csv", plan)
        score = scoring.score(plan, stored.model, stored.standardisation, test)
        return Private(score, int(report["steps"]), report["privacy"])

    def _side_run(self, admin: AdminClient, plan: Plan, protection: str) -> Captured:
        """A run that is there for the attack only."""
        self._tell("attack_run", {"plan": plan.name, "protection": protection})
        run_id = admin.start_run(plans.canonical(plan), bool(self._keys) and protection == "none")
        for _ in admin.watch(run_id):
            pass
        return self._captured(admin, run_id, plan)[1]

    def _captured(self, admin: AdminClient, run_id: str, plan: Plan) -> tuple[Mapping[str, Any], Captured]:
        """The report of a run that has ended, and what the attack needs of it."""
        report = _finished(admin, run_id)
        self._federation.await_models(self._names, run_id)
        first = next(one for one in report["rounds"] if one["purpose"] == Purpose.TRAIN.value)
        copy = Copy(run_id, first["number"], first["attempt"], WATCHED)
        upload = (self._folder / "received" / copy.name).read_bytes()
        members = len(first["survivors"]) + len(first["dropped"])
        return report, self._read(plan, upload, members, admin.export_model(run_id))

    def _read(self, plan: Plan, upload: bytes, members: int, model_file: bytes) -> Captured:
        """The upload as what it would be if nothing protected it."""
        if self._keys:
            key = next(one.public for one in self._keys if one.terms.terms.key_id == plan.protection.key)
            reading = demo_cipher.read(upload, plan, key, demo_unprotected.FEW_BITS)
            return Captured(plan, upload, reading.integers, model_file, reading.guessed)
        bits = ring.smallest(members, private_sum.expected_bits(plan, members))
        length = demo_attack.train_layout(plan).length
        plain = packing.size_bytes(length, bits)
        if len(upload) != plain:
            raise IntegrityError("demo_upload_differs", f"the upload has {len(upload)} bytes, the plain one {plain}")
        return Captured(plan, upload, demo_attack.read_packed(upload, length, bits), model_file)

    def _attack(self, trained: Captured, single: Captured) -> Attack:
        """The same code for protected and unprotected uploads."""
        return Attack(
            demo_attack.attack_update(trained, self._inputs.files[WATCHED]),
            demo_attack.attack_record(single, self._inputs.record),
            (trained.digest, single.digest),
            trained.guessed and single.guessed,
        )


def _finished(admin: AdminClient, run_id: str) -> Mapping[str, Any]:
    """The report of a run that has ended as it should. IntegrityError `demo_run_failed`."""
    report = admin.get_run(run_id)
    if report["code"] != "finished":
        raise IntegrityError("demo_run_failed", f"the demo's run ended with {report['code']}")
    return report
