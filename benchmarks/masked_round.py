"""One masked round over mutual TLS in real processes, from the persisted offer to the fsynced sum.

    python benchmarks/masked_round.py --participants 10 --parameters 1000000 [--drop K] [--rounds 5] [--sealed]
        [--unprotected] [--json]

What runs is the product: `serve` and `participate` in processes of their own, enrolment, mutual TLS, signatures,
votes, certificate, journal and fsync on both sides. Only the trainer is replaced: a participant's update is a fixed
vector, and a plan's model has as many inputs as asked (set in every process alike). Nothing is prepared before the
offer: keys, masks and encodings are made in the round; the model comes as the previous round's sum, downloaded in the
round. One warm-up round, then --rounds; `round_s` is the median of the coordinator's own times. `--drop K`: K
participants share and then send no input. Memory: the coordinator's VmHWM at the end minus its VmRSS before the offer;
and the same with VmHWM begun anew before the offer, without what opening the sealed key took at the start, which is
what the bound is for. The same of one participant that sends its input; its fixed vector (float64, 8 bytes a parameter)
is in its figure, as a trained one would be. Bounds: three times the model (4 bytes a parameter) and 64 MB.
`--sealed`: in a coordinator's home whose files rest sealed (`fedveil storage seal`).
`--unprotected`: float32 vectors over the same TLS, leaves, spool and fsync, without keys, shares, masks or votes.
"""

import argparse
import json
import logging
import os
import statistics
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

INPUTS = "FEDVEIL_BENCH_INPUTS"
DROPS = "FEDVEIL_BENCH_DROPS"
INITIAL = "FEDVEIL_BENCH_INITIAL"
SEALED = "FEDVEIL_BENCH_SEALED"
WARM_UP = 1
ROUNDS = 5
BOUND_MODELS, BOUND_MB = 3, 64


def enlarge() -> None:
    """Give every plan of this process as many inputs as the environment says."""
    from fedveil_common import initial
    from fedveil_common.plan import reading, spec

    inputs = int(os.environ[INPUTS])
    reading.MAX_INPUTS = max(reading.MAX_INPUTS, inputs)  # a plan of this release has a million at most
    reading.MAX_PARAMETERS = max(reading.MAX_PARAMETERS, inputs + 1)
    if (
        INITIAL in os.environ
    ):  # drawn once by the parent: each process would draw it again with each reading of the plan
        initial.initial_hash = lambda seed, weights: os.environ[INITIAL]
    spec.DataSpec.inputs = property(lambda self: inputs)  # type: ignore[assignment,method-assign]


def plan_text(participants: int, rounds: int = WARM_UP + ROUNDS, protection: str = "masked") -> bytes:
    """A plan whose only purpose is its size. `protection`: its kind, and what else belongs to it."""
    return f"""
version: 1
name: {protection.partition(",")[0]}-round
kind: train
data:
  dataset: fixed
  features:
    x: {{type: float, range: [-1, 1]}}
  target: {{column: y, type: float, range: [-1, 1]}}
  min_rows: 1
  standardise: none
model: {{kind: linear, l2: 0.0}}
training:
  {{rounds: {rounds}, local_epochs: 1, batch_size: 1, learning_rate: 0.1, seed: 7, weight: uniform, weight_cap: 1}}
strategy: {{kind: fedavg}}
evaluation: {{every: 1000, metrics: [loss], holdout: 0.5}}
cohort: {{min_participants: {max(3, participants)}, max_corrupt: 1, progress_s: 120}}
protection: {{kind: {protection}, value_bits: 16, update_norm: 5.0}}
privacy: none
""".encode()


def participant(train: Callable[[], None] = lambda: None) -> int:
    """`participate` with a bench whose update is fixed; `train` is called for each, where a model would be trained."""
    enlarge()
    from collections.abc import Mapping

    from fedveil_cli import participating
    from fedveil_cli.main import main
    from fedveil_common import layout
    from fedveil_common.errors import PolicyRefusal
    from fedveil_common.masking.ring import Signed
    from fedveil_common.messages import Manifest, Purpose
    from fedveil_common.plan import Plan
    from fedveil_common.provenance import Lineage
    from fedveil_common.secret import Seed
    from fedveil_participant.bench import TableBench
    from fedveil_participant.store import ParticipantStore
    from numpy.typing import NDArray

    class FixedBench(TableBench):
        def accept(self, plan: Plan) -> bytes:
            return plan.name.encode().ljust(32, b"\0")  # a version for each plan: an update of a version is made once

        def rows(self, plan: Plan, version: bytes) -> int:
            return 1

        def contribution(
            self, plan: Plan, version: bytes, purpose: Purpose, lineage: Lineage | None, fresh: Callable[[], Seed]
        ) -> list[NDArray[np.float64]]:
            train()
            step = 0 if lineage is None else lineage.step
            shape = layout.layout_for(plan, purpose, step)
            fixed = {layout.WEIGHT: 1.0, layout.HOLDOUT: 1.0, layout.LOSS: 0.5}
            values = np.arange(shape.length, dtype=np.float64)
            values %= 1009.0  # cheap to make: the training is not what is measured
            values -= 504.0
            values /= 504.0 * np.sqrt(shape.length)
            for name, where in shape.slices().items():
                if name in fixed:
                    values[where] = fixed[name]
            return [values]

        def encode(
            self, plan: Plan, manifest: Manifest, values: NDArray[np.float64], rounding: Seed, start: int
        ) -> Signed:
            if manifest.purpose is Purpose.TRAIN and DROPS in os.environ:
                raise PolicyRefusal("benchmark_drop", "this participant sends no input")
            return super().encode(plan, manifest, values, rounding, start)

    def fixed(datasets: Mapping[str, Path], store: ParticipantStore) -> FixedBench:
        return FixedBench(datasets, store.data_version_key(), Path.read_bytes)

    participating.table_bench = fixed
    return main(sys.argv[1:])


def coordinator() -> int:
    """`serve` with the enlarged plan."""
    enlarge()
    from fedveil_cli.main import main

    if os.environ.get(SEALED):
        seal_home(Path(sys.argv[sys.argv.index("--home") + 1]), Path(sys.argv[sys.argv.index("--passphrase-file") + 1]))

    return main(sys.argv[1:])


def seal_home(home: Path, secret: Path) -> None:
    """`storage seal`, without a word on stdout."""
    from fedveil_cli.world import real_world
    from fedveil_common.database import FolderLock
    from fedveil_common.secret import Passphrase
    from fedveil_coordinator import founding, resting

    world = real_world()
    with FolderLock(home):
        passphrase = Passphrase(secret.read_bytes().removesuffix(b"\n"))
        resting.seal(founding.load_federation(home), passphrase, world.clock, world.entropy, world.failpoints)


def memory_kb(pid: int, field: str) -> int:
    """VmRSS or VmHWM of a process."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(field + ":"):
            return int(line.split()[1])
    raise RuntimeError(f"no {field}")


def cpu_s(pid: int) -> float:
    """Seconds of processor time that a process has taken, in user and kernel mode."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def forget_peak(pid: int) -> None:
    """VmHWM begins anew: opening a sealed key at the start takes more memory than a small round."""
    Path(f"/proc/{pid}/clear_refs").write_text("5")


def on_tmpfs(folder: Path) -> bool:
    """Whether fsync would cost nothing here."""
    mounts = [line.split() for line in Path("/proc/mounts").read_text().splitlines()]
    holding = [entry for entry in mounts if folder.resolve().is_relative_to(entry[1])]
    return max(holding, key=lambda entry: len(entry[1]))[2] == "tmpfs"


def bound_mb(parameters: int) -> float:
    """What a coordinator and a participant may take above idle: three models of 4 bytes a parameter, and 64 MB."""
    return BOUND_MODELS * 4 * parameters / 1e6 + BOUND_MB


def over_idle(process: int, idle: int) -> float:
    """MB (10^6 bytes) of the peak of a process above `idle` KiB."""
    return (memory_kb(process, "VmHWM") - idle) * 1024 / 1e6


@dataclass(frozen=True, slots=True)
class Followed:
    """A run to its end, as this process saw it; CPU seconds a round after the warm-up, the participants' mean."""

    run_id: str
    report: dict[str, Any]
    idle: int
    peak_mb: float
    participant_peak_mb: float
    coordinator_cpu_s: float
    participant_cpu_s: float

    def times(self, count: int) -> list[float]:
        """The coordinator's own of each training round; SystemExit unless there are `count`."""
        times = [one["seconds"] for one in self.report["rounds"] if one["purpose"] == "train"]
        if self.report["code"] != "finished" or len(times) != count:
            raise SystemExit(f"the run ended with {self.report['code']} after {len(times)} rounds")
        return times


def follow(
    federation: Any, admin: Any, canonical: bytes, names: list[str], seen: Callable[[int], None] = lambda count: None
) -> Followed:
    """A run of `canonical`, measured. `names`: whose memory and CPU count; `seen` is called with the number of rounds
    that are over.
    """
    running = federation.processes.running
    pid, pids = running["coordinator"].pid, [running[one].pid for one in names]
    for process in (pid, *pids):
        forget_peak(process)
    idle = memory_kb(pid, "VmRSS")
    began = {process: memory_kb(process, "VmRSS") for process in pids}
    run_id = federation.start(admin, canonical)
    spent: list[dict[int, float]] = []
    for _, kind, _ in admin.watch(run_id):
        if kind == "round":
            spent.append({process: cpu_s(process) for process in (pid, *pids)})
            seen(len(spent))
    report = admin.get_run(run_id)
    if not spent:
        raise SystemExit(f"the run ended with {report['code']} before any round")
    took = {process: (spent[-1][process] - spent[0][process]) / max(1, len(spent) - 1) for process in spent[0]}
    return Followed(
        run_id=run_id,
        report=report,
        idle=idle,
        peak_mb=over_idle(pid, idle),
        participant_peak_mb=max(over_idle(process, rss) for process, rss in began.items()),
        coordinator_cpu_s=took[pid],
        participant_cpu_s=statistics.mean(took[process] for process in pids),
    )


def sent_bytes(home: Path, clock: Any) -> int:
    """What the participant of this home uploaded, by its own outbox."""
    from fedveil_cli.world import real_world
    from fedveil_participant.store import journal_key, open_store

    store = open_store(home, journal_key(home, None), clock, real_world().entropy)
    try:
        return sum(row.size_bytes for row in store.outbox() if row.kind == "SubmitInput")
    finally:
        store.close()


def coordinator_arguments(script: Path) -> Callable[[Path, Path], list[str]]:
    """`serve` by a benchmark."""
    return lambda home, secret: [
        str(script),
        "--coordinator",
        "--home",
        str(home),
        "serve",
        "--passphrase-file",
        str(secret),
    ]


def measure(
    participants: int,
    parameters: int,
    drop: int,
    rounds: int = ROUNDS,
    any_disk: bool = False,
    sealed: bool = False,
) -> dict[str, object]:
    """The protected round, `rounds` times after a warm-up."""
    os.environ[INPUTS] = str(parameters - 1)
    os.environ.pop(INITIAL, None)
    os.environ[SEALED] = "1" if sealed else ""
    enlarge()
    from fedveil_cli import cohort_figures
    from fedveil_cli.local_federation import LocalFederation
    from fedveil_cli.service_commands import configure_logging
    from fedveil_cli.world import SystemClock
    from fedveil_common import plan as plans

    configure_logging(logging.ERROR)
    clock = SystemClock()
    here = Path(__file__).resolve()
    names = [f"org-{index:03}" for index in range(participants)]
    count = WARM_UP + rounds
    plan = plans.parse_plan(plan_text(participants, count), "plan")
    os.environ[INITIAL] = plan.model.initial
    cohort_figures.check_roster(plan, participants)
    figures = cohort_figures.figures(plan, participants, participants)
    if drop > figures.may_drop:
        raise SystemExit(f"of {participants} participants {figures.may_drop} may drop, not {drop}: no sum would open")
    canonical = plans.canonical(plan)
    with tempfile.TemporaryDirectory(prefix="fedveil-bench-", dir=os.environ.get("FEDVEIL_BENCH_DIR")) as name:
        folder = Path(name)
        if on_tmpfs(folder) and not any_disk:
            raise SystemExit("the folder is on tmpfs, where fsync costs nothing: set FEDVEIL_BENCH_DIR to a disk")
        for one in names:
            (folder / f"{one}.csv").write_text("x,y\n0,0\n")
        federation = LocalFederation(folder, plan.data.dataset, clock, lambda kind, facts: None)
        federation.participant_command = [str(here), "--participant"]
        try:
            admin = federation.found(coordinator_arguments(here))
            dropping = {one: {DROPS: "1"} for one in names[:drop]}
            federation.enrol(admin, names, plans.plan_hash(canonical), dropping)
            pid = federation.processes.running["coordinator"].pid
            started = memory_kb(pid, "VmHWM")
            found = follow(federation, admin, canonical, names)
        finally:
            federation.processes.stop()
        times = found.times(count)
        sent = sent_bytes(folder / "homes" / names[-1], clock)
    return {
        "participants": participants,
        "parameters": parameters,
        "dropped": drop,
        "protection": "masked",
        "sealed_at_rest": sealed,
        "round_s": statistics.median(times[WARM_UP:]),
        "rounds_s": times,
        "coordinator_peak_over_idle_mb": max((started - found.idle) * 1024 / 1e6, found.peak_mb),
        "coordinator_rounds_over_idle_mb": found.peak_mb,
        "participant_rounds_over_idle_mb": found.participant_peak_mb,
        "coordinator_cpu_s": found.coordinator_cpu_s,
        "participant_cpu_s": found.participant_cpu_s,
        "bound_mb": bound_mb(parameters),
        "coordinator_of_bound": found.peak_mb / bound_mb(parameters),
        "participant_of_bound": found.participant_peak_mb / bound_mb(parameters),
        "bytes_per_parameter": sent / (count * parameters),
        "processes": participants + 1,
    }


def main() -> int:
    """Choose the role, run, print."""
    if "--participant" in sys.argv:
        sys.argv.remove("--participant")
        return participant()
    if "--coordinator" in sys.argv:
        sys.argv.remove("--coordinator")
        return coordinator()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--participants", type=int, default=10)
    parser.add_argument("--parameters", type=int, default=1_000_000)
    parser.add_argument("--drop", type=int, default=0)
    parser.add_argument("--rounds", type=int, default=ROUNDS, help="after one that is not counted")
    parser.add_argument("--sealed", action="store_true", help="the coordinator's files rest sealed")
    parser.add_argument("--unprotected", action="store_true")
    parser.add_argument("--any-disk", action="store_true", help="also where fsync costs nothing: to try it out")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    if arguments.participants < 3 or min(arguments.parameters, arguments.rounds) < 1 or arguments.drop < 0:
        parser.error("at least 3 participants, 1 parameter and 1 round; --drop is not negative")
    if arguments.unprotected:
        if arguments.drop or arguments.sealed or arguments.rounds != ROUNDS:
            parser.error("--unprotected knows no --drop, --sealed and --rounds")
        import unprotected_round

        result = unprotected_round.measure(arguments.participants, arguments.parameters)
    else:
        sizes = arguments.participants, arguments.parameters, arguments.drop, arguments.rounds
        result = measure(*sizes, arguments.any_disk, arguments.sealed)
    if arguments.json:
        print(json.dumps(result))
    else:
        for key, value in result.items():
            print(f"{key:<30} {value}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
