"""Our masked round beside Flower's SecAgg+ workflow in Flower's simulation engine: same machine, same N and D, one run.

    python benchmarks/peers/flower_secagg.py --participants 10 --parameters 1000000 [--drop K] [--rounds 5]
        [--shares S --threshold T] [--cache DIR] [--json]

Flower cannot share our environment, so this makes one of its own with pip, once, in --cache (else
FEDVEIL_FLOWER_CACHE, else a folder of the system's for temporary files), which may not lie in the repository. Nothing
of Flower is in ours.

What is timed. Flower: one call of its SecAggPlusWorkflow, from `configure_fit` (the offer) to the aggregated parameters
in the strategy, all four stages, the participants in Ray actors on this machine; no TLS, no disk, no signatures, no
votes.
Ours (`masked_round.py`): from the persisted offer to the fsynced sum, mutual TLS, one process a participant,
signatures, votes, certificate, journals. On both sides a participant's update is a fixed float vector that takes no
training, and the round begins with the model at the coordinator. One warm-up round each, then the median of
--rounds. Drop-outs: K participants deal their shares and then send no vector, in every round.

Shares and threshold of Flower: 10 and 6 at n = 10 (all, six tenths), 7 and 4 above, unless they are given. Memory is
what the coordinating process took at its peak above what it had before the first round; Flower's actors are not in
it, but its message store is. Bytes are those of a participant's masked vector, as sent.

Exit codes: 0; 2 arguments; 69 Flower could not be installed (no index reached, no such version); 70 Flower did not
finish.
"""

import argparse
import hashlib
import importlib.util
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve()
REPOSITORY = HERE.parent.parent.parent
CACHE = "FEDVEIL_FLOWER_CACHE"
REQUIREMENT = "flwr[simulation]==1.42.0"
WARM_UP = 1
COLLECT = 2
"""The stage, counted from 0, in which masked vectors come."""

INSTALL_TIMEOUT_S, RUN_TIMEOUT_S = 1800.0, 7200.0
QUIET = {"FLWR_TELEMETRY_ENABLED": "0", "RAY_USAGE_STATS_ENABLED": "0", "RAY_DEDUP_LOGS": "0"}


class RefusedError(Exception):
    """Why there is no comparison: a stable code, the exit code, what happened, what to do."""

    def __init__(self, code: str, exit_code: int, what: str, next_step: str) -> None:
        super().__init__(f"[{code}] {what}; nothing was compared. Next: {next_step}")
        self.code, self.exit_code = code, exit_code


# --- Flower's environment ---


def cache_folder(given: str | None) -> Path:
    """Where Flower's environment lies: the option, else the environment variable, else a temporary folder."""
    named = given or os.environ.get(CACHE)
    folder = Path(named) if named else Path(tempfile.gettempdir()) / "fedveil-flower"
    folder = folder.expanduser().resolve()
    if folder.is_relative_to(REPOSITORY):
        raise RefusedError("cache_in_repository", 2, f"{folder} lies in the repository", "choose another --cache")
    return folder


def recipe(folder: Path, requirement: str) -> tuple[Path, list[list[str]]]:
    """(its Python, the commands that make the environment): one environment for each requirement and Python."""
    label = hashlib.sha256(f"{requirement} {sys.version}".encode()).hexdigest()[:12]
    home = folder / f"venv-{label}"
    python = home / "bin" / "python"
    tool = "venv" if importlib.util.find_spec("ensurepip") else "virtualenv"
    pip = [str(python), "-m", "pip", "install", "--disable-pip-version-check", "--no-input", "--quiet", requirement]
    return python, [[sys.executable, "-m", tool, str(home)], pip]


def environment(folder: Path, requirement: str) -> Path:
    """The Python of an environment that holds Flower, made if it is not there. RefusedError `flower_not_installed`."""
    python, commands = recipe(folder, requirement)
    made = python.parent.parent / "complete"
    if made.exists():
        return python
    folder.mkdir(parents=True, exist_ok=True)
    for command in commands:
        print(f"flower_secagg.py: {' '.join(command[1:3])} for {requirement}", file=sys.stderr)
        try:
            done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=INSTALL_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            raise _not_installed(requirement, f"no answer for {INSTALL_TIMEOUT_S:.0f} s") from None
        if done.returncode:
            lines = [line for line in done.stderr.splitlines() if line.startswith("ERROR")] or done.stderr.splitlines()
            raise _not_installed(requirement, lines[-1] if lines else f"exit code {done.returncode}")
    made.touch()
    return python


def _not_installed(requirement: str, reason: str) -> RefusedError:
    return RefusedError(
        "flower_not_installed",
        69,
        f"{requirement} could not be installed: {reason}",
        "let pip reach an index (its configuration says which), or name another version with --flower",
    )


# --- inside Flower's environment ---


def memory_kb(field: str) -> int:
    """VmRSS or VmHWM of this process."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field + ":"):
            return int(line.split()[1])
    raise RuntimeError(f"no {field}")


def inside(task: dict[str, Any]) -> dict[str, Any]:
    """All rounds in Flower's simulation engine."""
    import flwr
    import numpy as np
    from flwr.client import ClientApp, NumPyClient
    from flwr.client.mod import secaggplus_mod
    from flwr.common import ndarrays_to_parameters, parameters_to_ndarrays
    from flwr.server import LegacyContext, ServerApp, ServerConfig
    from flwr.server.strategy import FedAvg
    from flwr.server.workflow import DefaultWorkflow, SecAggPlusWorkflow
    from flwr.simulation import run_simulation

    participants, parameters, drop = task["participants"], task["parameters"], task["drop"]
    seen: dict[str, Any] = {"times": [], "sent": [], "sums": 0, "error": 0.0}

    def fixed() -> Any:
        values = np.arange(parameters, dtype=np.float64)
        np.sin(values, out=values)
        values /= np.sqrt(parameters)
        return values.astype(np.float32)

    class Fixed(NumPyClient):  # type: ignore[misc]
        """Its update is given; whoever drops does so where the vector would leave."""

        def __init__(self, number: int) -> None:
            self.number = number

        def fit(self, received: list[Any], config: dict[str, Any]) -> tuple[list[Any], int, dict[str, Any]]:
            if self.number < drop:
                raise RuntimeError("this participant drops")
            return [fixed()], 1, {}

    class Average(FedAvg):  # type: ignore[misc]
        """Counts the rounds that came to a sum, and how far it is from the average that it must be."""

        def aggregate_fit(self, server_round: int, results: Any, failures: Any) -> Any:
            aggregated, metrics = super().aggregate_fit(server_round, results, failures)
            (vector,) = parameters_to_ndarrays(aggregated)
            seen["sums"] += 1
            seen["error"] = max(seen["error"], float(np.max(np.abs(vector - fixed()))))
            return aggregated, metrics

    class Counting:
        """The grid of a round, and how many bytes came back through it, stage by stage."""

        def __init__(self, grid: Any) -> None:
            self._grid, self.stages = grid, []  # type: ignore[var-annotated]

        def __getattr__(self, name: str) -> Any:
            return getattr(self._grid, name)

        def send_and_receive(self, messages: Any, **options: Any) -> Any:
            replies = list(self._grid.send_and_receive(messages, **options))
            self.stages.append([payload(reply.content) for reply in replies if not reply.has_error()])
            return replies

    def payload(content: Any) -> int:
        """Bytes in the lists of a reply: everything else in it is a few numbers."""
        values = [value for record in content.config_records.values() for value in record.values()]
        return sum(
            len(part) for value in values if isinstance(value, list) for part in value if isinstance(part, bytes)
        )

    class Timed(SecAggPlusWorkflow):  # type: ignore[misc]
        def __call__(self, grid: Any, context: Any) -> None:
            counting = Counting(grid)
            if not seen["times"]:
                Path("/proc/self/clear_refs").write_text("5")
                seen["idle"] = memory_kb("VmRSS")
            began = time.perf_counter()
            super().__call__(counting, context)
            seen["times"].append(time.perf_counter() - began)
            seen["sent"].append(max(counting.stages[COLLECT], default=0) if len(counting.stages) > COLLECT else 0)
            seen["peak"] = memory_kb("VmHWM")

    server = ServerApp()

    @server.main()  # type: ignore[untyped-decorator]
    def play(grid: Any, context: Any) -> None:
        strategy = Average(
            fraction_fit=1.0,
            fraction_evaluate=0.0,
            min_fit_clients=participants,
            min_available_clients=participants,
            initial_parameters=ndarrays_to_parameters([np.zeros(parameters, dtype=np.float32)]),
        )
        rounds = ServerConfig(num_rounds=WARM_UP + task["rounds"])
        secagg = Timed(task["shares"], task["threshold"], max_weight=1.0)
        legacy = LegacyContext(context=context, config=rounds, strategy=strategy)
        DefaultWorkflow(fit_workflow=secagg)(grid, legacy)

    def client(context: Any) -> Any:
        return Fixed(int(context.node_config["partition-id"])).to_client()

    run_simulation(
        server_app=server,
        client_app=ClientApp(client_fn=client, mods=[secaggplus_mod]),
        num_supernodes=participants,
        backend_config={
            "client_resources": {"num_cpus": 1, "num_gpus": 0.0},
            "init_args": {"include_dashboard": False, "logging_level": "ERROR", "log_to_driver": False},
        },
    )
    return seen | {"version": flwr.__version__}


# --- the comparison ---


def flower_round(python: Path, task: dict[str, Any]) -> dict[str, Any]:
    """What Flower's rounds took. RefusedError `flower_failed` if not every round came to its sum."""
    with tempfile.TemporaryDirectory(prefix="fedveil-flower-") as name:
        folder, log = Path(name), Path(name) / "flower.log"
        (folder / "task.json").write_text(json.dumps(task | {"answer": str(folder / "answer.json")}))
        command = [str(python), str(HERE), "--inside", str(folder / "task.json")]
        clean = {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")}
        with log.open("wb") as sink:
            try:
                code = subprocess.run(
                    command, env=clean | QUIET, stdout=sink, stderr=sink, check=False, timeout=RUN_TIMEOUT_S
                ).returncode
            except subprocess.TimeoutExpired:
                code = -1
        answer = folder / "answer.json"
        found: dict[str, Any] = json.loads(answer.read_text()) if code == 0 and answer.exists() else {"sums": 0}
        wanted = WARM_UP + task["rounds"]
        if found["sums"] != wanted:
            last = log.read_text(errors="replace")[-1500:]
            raise RefusedError(
                "flower_failed",
                70,
                f"{found['sums']} of {wanted} of Flower's rounds came to a sum:\n{last}\n",
                "fewer --drop, or other --shares and --threshold, if too many neighbours were gone",
            )
    return {
        "version": found["version"],
        "round_s": statistics.median(found["times"][WARM_UP:]),
        "rounds_s": found["times"],
        "coordinator_rounds_over_idle_mb": (found["peak"] - found["idle"]) * 1024 / 1e6,
        "bytes_per_parameter": max(found["sent"]) / task["parameters"],
        "largest_error": found["error"],
    }


def shares_for(participants: int, shares: int | None, threshold: int | None) -> tuple[int, int]:
    """(shares, threshold) of SecAgg+: all and six tenths up to 10 participants, 7 and 4 above."""
    chosen = shares or (participants if participants <= 10 else 7)
    return chosen, threshold or (4 if chosen == 7 else max(2, -(-6 * chosen // 10)))


def compare(arguments: argparse.Namespace) -> dict[str, Any]:
    """Flower's rounds, then ours."""
    sys.path.insert(0, str(HERE.parent.parent))
    shares, threshold = shares_for(arguments.participants, arguments.shares, arguments.threshold)
    task = {
        "participants": arguments.participants,
        "parameters": arguments.parameters,
        "drop": arguments.drop,
        "rounds": arguments.rounds,
        "shares": shares,
        "threshold": threshold,
    }
    python = environment(cache_folder(arguments.cache), arguments.flower)
    flower = flower_round(python, task)
    import masked_round

    sizes = arguments.participants, arguments.parameters, arguments.drop, arguments.rounds
    ours = masked_round.measure(*sizes, arguments.any_disk)
    kept = ("round_s", "rounds_s", "coordinator_rounds_over_idle_mb", "bytes_per_parameter")
    names = {"round": "round_s", "memory": "coordinator_rounds_over_idle_mb", "bytes": "bytes_per_parameter"}
    return {
        **task,
        "flower": flower,
        "fedveil": {name: ours[name] for name in kept},
        "fedveil_of_flower": {short: float(str(ours[name])) / flower[name] for short, name in names.items()},
    }


def main() -> int:
    """Choose the role, run, print."""
    if "--inside" in sys.argv:
        task = json.loads(Path(sys.argv[sys.argv.index("--inside") + 1]).read_text())
        Path(task["answer"]).write_text(json.dumps(inside(task)))
        return 0
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--participants", type=int, default=10)
    parser.add_argument("--parameters", type=int, default=1_000_000)
    parser.add_argument("--drop", type=int, default=0)
    parser.add_argument("--rounds", type=int, default=5, help="after one that is not counted")
    parser.add_argument("--shares", type=int)
    parser.add_argument("--threshold", type=int)
    parser.add_argument("--cache", metavar="DIR", help=f"where Flower's environment lies (else {CACHE})")
    parser.add_argument("--flower", metavar="REQUIREMENT", default=REQUIREMENT)
    parser.add_argument("--any-disk", action="store_true", help="also where fsync costs nothing: to try it out")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    shares, threshold = shares_for(arguments.participants, arguments.shares, arguments.threshold)
    if arguments.participants < 3 or min(arguments.parameters, arguments.rounds) < 1 or arguments.drop < 0:
        parser.error("at least 3 participants, 1 parameter and 1 round; --drop is not negative")
    if not 2 <= threshold < shares <= arguments.participants:
        parser.error(f"{shares} shares with threshold {threshold}: 2 <= threshold < shares <= participants")
    try:
        found = compare(arguments)
    except RefusedError as error:
        print(f"flower_secagg.py: error: {error}", file=sys.stderr)
        return error.exit_code
    if arguments.json:
        print(json.dumps(found))
        return 0
    for name, value in found.items():
        for part, figure in value.items() if isinstance(value, dict) else (("", value),):
            shown = f"{figure:.4g}" if isinstance(figure, float) else figure
            print(f"{f'{name} {part}'.strip():<46} {shown}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
