"""One round under paillier over mutual TLS in real processes, from the persisted offer to the fsynced sum.

    python benchmarks/paillier_round.py [--participants 5] [--holders 3] [--threshold 3] [--parameters 100000]
        [--bits 2048] [--columns 32] [--rounds 5] [--kill] [--json]

What runs is the product, as in `masked_round.py`: `serve`, `participate`, enrolment, mutual TLS, journal and fsync; and
before it the ceremony of the key (`key_s`), its pins and its publication. RSA-2048 is the modulus of 2048 bits, another
is dealt. Replaced are the trainer (an update is a fixed vector), and when masks are made ahead: in the training
of the warm-up round, for all rounds, and then the processes that make them are stopped. In use they work while a model
is trained; here there is no training, and five of them would share the cores with the round. What a mask costs is
printed (`mask_cpu_s`). A masked run of as many rounds comes first, in the same processes.

- `round_s`: median of the coordinator's own times, after one warm-up round. From the second round on this holds, as in
  masked rounds, the download and the audit of the previous sum by every participant before its advert; that phase is
  `phases.adverts`, and `round_without_audit_s` is the rest, with the adverts of the warm-up of the masked run.
- `phases`: medians from fact to fact in the coordinator's journal.
- `phe_s`: python-paillier with gmpy2, one number in a ciphertext, extrapolated from PHE_OPERATIONS encryptions,
  additions and decryptions in CPU time of one core: n inputs of d numbers, added and decrypted by the key's owner.
- `kill_round_s` (--kill): one more round, in which the second holder is killed (SIGKILL) when its journal says that it
  was called, and another one takes its place. It needs a spare holder.
"""

import argparse
import contextlib
import io
import itertools
import json
import logging
import os
import secrets
import signal
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import masked_round
from masked_round import WARM_UP

STAMPS = "FEDVEIL_BENCH_STAMPS"
MASKS = "FEDVEIL_BENCH_MASKS"
TABLES = "FEDVEIL_BENCH_TABLES"
KEY = "bench"
PHE_OPERATIONS = 200
ROUNDS = 5
PHASES = (
    ("adverts", "Offered", "KeySetFrozen"),
    ("inputs", "KeySetFrozen", "InputAccepted"),
    ("votes", "InputAccepted", "Certified"),
    ("product", "Certified", "ProductMade"),
    ("answers", "ProductMade", "RevealAccepted"),
    ("opening", "RevealAccepted", "SumOpened"),
)
"""Name, and the last facts of which kinds it lies between."""


def participant() -> int:
    """`participate` with a fixed update, and masks for all rounds before the second one begins."""
    from fedveil_cli import mask_process, participating
    from fedveil_common.paillier.public_key import PublicKey
    from fedveil_common.paillier.round_shape import RoundShape
    from fedveil_common.ports import Entropy
    from fedveil_participant.mask_pool import MaskPool
    from fedveil_participant.mask_source import MaskSource

    rounds, pools, made = int(os.environ[MASKS]), [], []

    def start() -> Any:
        made.append(mask_process.start())
        return made[-1]

    def make_masks(entropy: Entropy, key: PublicKey, shape: RoundShape) -> MaskSource:
        pools.append(MaskPool(key, shape.blocks.width, rounds * shape.blocks.count, start))
        return pools[-1]

    def ready() -> None:
        if not pools:
            return
        pool, pause = pools.pop(), threading.Event()
        while not pool.ready():
            pause.wait(0.05)
        worker = made[-1].pid
        os.kill(worker, signal.SIGSTOP)
        figures = {
            "pid": worker,
            "cpu_s": masked_round.cpu_s(worker),
            "kb": masked_round.memory_kb(worker, "VmHWM"),
        }
        home = Path(sys.argv[sys.argv.index("--home") + 1])
        (Path(os.environ[TABLES]) / home.name).write_text(json.dumps(figures))

    if rounds:
        participating.make_masks = make_masks
    return masked_round.participant(ready)


def coordinator() -> int:
    """`serve`, with the time of every fact of a run in a file."""
    from fedveil_common.ids import RunId
    from fedveil_coordinator.store.journal import CoordinatorJournal

    append = CoordinatorJournal.append

    def stamped(self: CoordinatorJournal, run_id: RunId, records: list[tuple[str, bytes]]) -> None:
        append(self, run_id, records)
        with Path(os.environ[STAMPS]).open("a") as file:
            file.writelines(f"{run_id} {kind} {time.monotonic()}\n" for kind, _ in records)

    CoordinatorJournal.append = stamped  # type: ignore[method-assign]
    return masked_round.coordinator()


def phases_of(stamps: Path, run_id: str) -> list[dict[str, float]]:
    """Of each round of a run: name -> seconds, from the last fact of one kind to the last of another."""
    found: list[dict[str, float]] = []
    last: dict[str, float] = {}
    for line in stamps.read_text().splitlines():
        run, kind, at = line.split()
        if run != run_id:
            continue
        if kind == "Offered":
            last = {}
        last[kind] = float(at)
        if kind == "SumOpened":
            found.append({name: last[end] - last[begin] for name, begin, end in PHASES if {begin, end} <= set(last)})
    return found


def medians(rows: Iterable[dict[str, float]]) -> dict[str, float]:
    """Name by name."""
    listed = list(rows)
    return {name: statistics.median(row[name] for row in listed) for name in listed[0]} if listed else {}


def deal(folder: Path, bits: int) -> None:
    """Keys of this process have a dealt modulus of so many bits: there is no other beside RSA-2048."""
    from fedveil_cli import key_commands, local_key
    from fedveil_cli.output import Output
    from fedveil_cli.world import real_world
    from fedveil_common.paillier.modulus_record import ModulusRecord

    out = folder / "modulus.json"
    with contextlib.redirect_stdout(io.StringIO()):
        key_commands.deal(out, bits, 1, "bench", None, None, real_world(), Output(True))
    record = ModulusRecord.decode(out.read_bytes())
    local_key.adopt_rsa_2048 = lambda s: record  # type: ignore[assignment]


def phe_seconds(bits: int) -> dict[str, float]:
    """CPU seconds of one operation of python-paillier, with a key of `bits` bits."""
    import phe
    from paillier import cpu, prime

    factors = prime(bits // 2), prime(bits // 2)
    public = phe.PaillierPublicKey(factors[0] * factors[1])
    private = phe.PaillierPrivateKey(public, *factors)
    numbers, made, found = [secrets.randbits(16) for _ in range(PHE_OPERATIONS)], [], []
    cost = {"encrypt": cpu(lambda: made.extend(public.raw_encrypt(one) for one in numbers), PHE_OPERATIONS)}
    wrapped = [phe.EncryptedNumber(public, one) for one in made]
    cost["add"] = cpu(lambda: [a._add_encrypted(b) for a, b in itertools.pairwise(wrapped)], PHE_OPERATIONS - 1)
    cost["decrypt"] = cpu(lambda: found.extend(private.raw_decrypt(one) for one in made), PHE_OPERATIONS)
    if found != numbers:
        raise SystemExit("phe decrypts otherwise: no measurement")
    return cost


def measure(arguments: argparse.Namespace) -> dict[str, object]:
    """A masked run, then one under paillier, in one federation."""
    participants, parameters, count = arguments.participants, arguments.parameters, WARM_UP + arguments.rounds
    os.environ[masked_round.INPUTS] = str(parameters - 1)
    os.environ.pop(masked_round.INITIAL, None)
    masked_round.enlarge()
    from fedveil_cli.local_federation import LocalFederation
    from fedveil_cli.local_key import Choice
    from fedveil_cli.service_commands import configure_logging
    from fedveil_cli.world import FAILPOINT, SystemClock
    from fedveil_common import plan as plans
    from fedveil_common.ids import OrgId
    from fedveil_common.paillier.key_use import use_of
    from fedveil_common.paillier.round_shape import shape_of_plan

    configure_logging(logging.ERROR)
    clock, here = SystemClock(), Path(__file__).resolve()
    names = [f"org-{index:03}" for index in range(participants)]
    holders, spare = names[: arguments.holders], arguments.holders - arguments.threshold
    masked = plans.parse_plan(masked_round.plan_text(participants, count), "plan")
    os.environ[masked_round.INITIAL] = masked.model.initial
    total = count + arguments.kill
    encrypted = plans.parse_plan(masked_round.plan_text(participants, total, f"paillier, key: {KEY}"), "plan")
    with tempfile.TemporaryDirectory(prefix="fedveil-bench-", dir=os.environ.get("FEDVEIL_BENCH_DIR")) as name:
        folder = Path(name)
        if masked_round.on_tmpfs(folder) and not arguments.any_disk:
            raise SystemExit("the folder is on tmpfs, where fsync costs nothing: set FEDVEIL_BENCH_DIR to a disk")
        (folder / "masks").mkdir()
        os.environ |= {STAMPS: str(folder / "stamps"), TABLES: str(folder / "masks"), MASKS: str(total)}
        for one in names:
            (folder / f"{one}.csv").write_text("x,y\n0,0\n")
        federation = LocalFederation(folder, masked.data.dataset, clock, lambda kind, facts: None)
        federation.participant_command = [str(here), "--participant"]
        canonical = {plan: plans.canonical(plan) for plan in (masked, encrypted)}
        federation.more_plans = (plans.plan_hash(canonical[encrypted]),)
        killed = holders[1] if arguments.kill else ""
        try:
            admin = federation.found(masked_round.coordinator_arguments(here))
            if arguments.bits != 2048:
                deal(folder, arguments.bits)
            choice = Choice(KEY, tuple(OrgId(one) for one in holders), arguments.threshold, arguments.columns)
            dying = {killed: {FAILPOINT: f"participant.after.called:{total}"}}
            (key,) = federation.enrol(admin, names, plans.plan_hash(canonical[masked]), dying, [choice])
            staying = [one for one in names if one != killed]
            before = masked_round.follow(federation, admin, canonical[masked], staying)
            sent = {one: masked_round.sent_bytes(federation.home_of(one), clock) for one in (names[0], names[-1])}

            def back(rounds: int) -> None:
                if killed and rounds == total:  # its death is over, and the run still has an evaluation before it
                    assert federation.processes.running[killed].wait(60) == -signal.SIGKILL
                    federation.participate(killed, plans.plan_hash(canonical[masked]), {MASKS: "0"})

            found = masked_round.follow(federation, admin, canonical[encrypted], staying, back)
        finally:
            federation.processes.stop()
            for made in (folder / "masks").iterdir():  # stopped ones end once they see that their participant has
                with contextlib.suppress(ProcessLookupError):
                    os.kill(json.loads(made.read_text())["pid"], signal.SIGCONT)
        times, masked_times = found.times(total), before.times(count)
        sent = {one: masked_round.sent_bytes(federation.home_of(one), clock) - bytes_ for one, bytes_ in sent.items()}
        stamps = folder / "stamps"
        phases, masked_phases = phases_of(stamps, found.run_id), phases_of(stamps, before.run_id)
        masks = [json.loads(path.read_text()) for path in sorted((folder / "masks").iterdir())]
        blocks = shape_of_plan(use_of(key.public), encrypted, participants).blocks.count
    middle = medians(phases[WARM_UP:count])
    round_s, masked_s = statistics.median(times[WARM_UP:count]), statistics.median(masked_times[WARM_UP:])
    without = statistics.median(
        seconds - phase["adverts"] + masked_phases[0]["adverts"]
        for seconds, phase in zip(times[WARM_UP:count], phases[WARM_UP:count], strict=True)
    )
    cost = phe_seconds(arguments.bits)
    phe_s = parameters * (participants * cost["encrypt"] + (participants - 1) * cost["add"] + cost["decrypt"])
    result = {
        "participants": participants,
        "holders": arguments.holders,
        "threshold": arguments.threshold,
        "parameters": parameters,
        "bits": arguments.bits,
        "blocks": blocks,
        "key_s": key.seconds,
        "round_s": round_s,
        "rounds_s": times,
        "round_without_audit_s": without,
        "phases": middle,
        "masked_round_s": masked_s,
        "masked_rounds_s": masked_times,
        "masked_phases": medians(masked_phases[WARM_UP:]),
        "ratio_to_masked": round_s / masked_s,
        "phe_s": phe_s,
        "phe_over_round": phe_s / round_s,
        "phe_over_round_without_audit": phe_s / without,
        "bytes_per_parameter_of_a_holder": sent[names[0]] / (total * parameters),
        "coordinator_rounds_over_idle_mb": found.peak_mb,
        "participant_rounds_over_idle_mb": found.participant_peak_mb,
        "coordinator_cpu_s": found.coordinator_cpu_s,
        "participant_cpu_s": found.participant_cpu_s,
        "mask_cpu_s": statistics.mean(one["cpu_s"] for one in masks) / (total * blocks),
        "mask_process_mb": max(one["kb"] for one in masks) * 1024 / 1e6,
        "load": os.getloadavg()[0],
    }
    if arguments.threshold < participants and not arguments.kill:
        result["bytes_per_parameter"] = sent[names[-1]] / (total * parameters)
    if arguments.kill:
        result |= {"kill_round_s": times[-1], "kill_phases": phases[total - 1], "spare_holders": spare}
    return result


def main() -> int:
    """Choose the role, run, print."""
    roles: dict[str, Callable[[], int]] = {"--participant": participant, "--coordinator": coordinator}
    for role, act in roles.items():
        if role in sys.argv:
            sys.argv.remove(role)
            return act()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--participants", type=int, default=5)
    parser.add_argument("--holders", type=int, default=3)
    parser.add_argument("--threshold", type=int, default=3)
    parser.add_argument("--parameters", type=int, default=100_000)
    parser.add_argument("--bits", type=int, default=2048)
    parser.add_argument("--columns", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=ROUNDS, help="after one that is not counted")
    parser.add_argument("--kill", action="store_true", help="one more round, in which a holder is killed")
    parser.add_argument("--any-disk", action="store_true", help="also where fsync costs nothing: to try it out")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    if arguments.participants < 3 or min(arguments.parameters, arguments.rounds, arguments.columns) < 1:
        parser.error("at least 3 participants, 1 parameter, 1 column and 1 round")
    if not 2 <= arguments.threshold <= arguments.holders <= arguments.participants or arguments.bits < 2048:
        parser.error("2 <= threshold <= holders <= participants, and at least 2048 bits")
    if arguments.kill and arguments.threshold == arguments.holders:
        parser.error("--kill needs a holder more than the threshold")
    result = measure(arguments)
    if arguments.json:
        print(json.dumps(result))
        return 0
    for key, value in result.items():
        text = f"{value:.3f}" if isinstance(value, float) else str(value)
        if isinstance(value, dict):
            text = "  ".join(f"{name} {seconds:.3f}" for name, seconds in value.items())
        if isinstance(value, list):
            text = "  ".join(f"{one:.3f}" for one in value)
        print(f"{key:<34} {text}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
