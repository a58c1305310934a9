"""`fedveil simulate`: a plan on one machine, with the machines, wire bytes and checks of production.

Promise: in memory, one seed fixes every byte (and every key: a seeded simulation is not private); with `--processes`
the same plan runs as real processes over mutual TLS. What is compared (pooled, each organisation alone) is trained
here in clear, which only a simulation can do.
"""

import logging
import pathlib
from collections.abc import Mapping
from dataclasses import replace

import numpy as np
from fedveil_common import modelfile, private_sum
from fedveil_common import plan as plans
from fedveil_common.errors import ConfigError
from fedveil_common.ids import OrgId, RunId, check_name
from fedveil_common.jcs import Json
from fedveil_common.noise import rests_on
from fedveil_common.plan import PAILLIER, ModelKind, Plan
from fedveil_common.ports import Clock
from fedveil_common.standardisation import Standardisation
from fedveil_participant.data import holdout
from fedveil_participant.data.csv_source import Source
from fedveil_participant.data.in_memory import PARQUET_START
from fedveil_participant.data.prepare import check_rows
from fedveil_participant.isolation import probe
from fedveil_participant.training import alone
from fedveil_participant.training.own_trainer import BUILT_IN, MemoryApprovals, Trainers
from fedveil_participant.training.trainer import Trainer
from fedveil_participant.training.trainer_config import read_config
from fedveil_simulation.charter import Charter, make_charter
from fedveil_simulation.cluster import Cluster
from fedveil_simulation.key_book import KeyBook, make_key
from numpy.typing import NDArray

from fedveil_cli import answers_report, local_federation, local_key, operating, run_commands, scoring, spending_report
from fedveil_cli.files import MAX_PLAN, read_file
from fedveil_cli.local_federation import Played
from fedveil_cli.output import Output, TextTable
from fedveil_cli.scoring import Score
from fedveil_cli.service_commands import configure_logging
from fedveil_cli.world import process_started_s, real_world

MAX_TABLE = 4 * 1024 * 1024 * 1024
TABLES = (".csv", ".parquet")
RUN = RunId("simulation")


def simulate(
    plan_file: pathlib.Path,
    folder: pathlib.Path,
    test: pathlib.Path | None,
    processes: bool,
    seed: int | None,
    output: Output,
    own: Mapping[str, tuple[pathlib.Path, bytes | None]] | None = None,
    isolation_none: bool = False,
) -> None:
    """`fedveil simulate`. `own`: trainers of the organisations, by name, the same for all; `isolation_none`: they may
    run where nothing keeps them apart.
    """
    configure_logging(logging.ERROR)
    canonical, _ = operating.prepare_plan(read_file(plan_file, "the plan", MAX_PLAN), str(plan_file))
    plan = plans.parse_canonical(canonical)
    tables = read_tables(folder, test)
    if test is not None and holds(folder, test):
        output.note(f"{test} is the test file and no organisation: its rows are left out of the training")
    sources = {
        name: scoring.source_of(data, str(folder / f"{name}{_suffix(data)}"), plan) for name, data in tables.items()
    }
    held_out = (
        None if test is None else scoring.source_of(read_file(test, "the test table", MAX_TABLE), str(test), plan)
    )
    if plan.statistics is not None and test is not None:
        raise ConfigError("no_model", "a statistics plan trains no model to test", next_step="leave --test out")
    operating.check_cohort(canonical, len(tables))
    world = real_world()
    began = process_started_s(world.clock)
    trainers, arguments = _trainers(own or {}, isolation_none, folder, world.clock, output)
    trainers.accept(plan)
    trainer = trainers.trainer(plan)
    if plan.statistics is not None:
        for source in sources.values():
            check_rows(plan, source)
    if plan.model.kind is ModelKind.TRAINER:  # what is wrong with it shows here, and not as a member that dropped out
        alone.fit(replace(plan, training=replace(plan.training, rounds=1)), [next(iter(sources.values()))], trainer)
    if seed is not None:
        output.warn("a seed fixes every key and mask: this simulation is not private")
    if processes:
        played = local_federation.play(plan, canonical, tables, world, began, arguments)
    else:
        chosen = int.from_bytes(world.entropy.take(6), "big") if seed is None else seed
        played = play_in_memory(plan, canonical, tables, chosen, world.clock, began, trainers)
    error = operating.end_error(played.code, RUN)
    if error is not None:
        raise error
    if plan.statistics is not None:
        show_answers(plan, played, output, not_private(played, seed))
        return
    show(plan, sources, held_out, played, output, trainer, not_private(played, seed))


def not_private(played: Played, seed: int | None) -> str:
    """Why the result is not private, whatever its plan says; empty if its noise is that of a real run (D4)."""
    if seed is not None:
        return "the seed fixes every key, mask and draw of noise"
    return "one process held all records and drew all noise" if played.transport == "memory" else ""


def privacy_report(plan: Plan, played: Played) -> Json:
    """What the opened sums cost a record by both ledgers; "none" for exact sums."""
    privacy = plan.privacy
    if privacy is None:
        return "none"
    return {
        "unit": spending_report.unit(plan),
        "noise": privacy.noise.value,
        "rests_on": rests_on(plan),
        "epsilon": private_sum.spent(plan, privacy, len(played.rounds)),
        "delta": privacy.delta,
        "max_epsilon": privacy.max_epsilon,
    }


def _trainers(
    own: Mapping[str, tuple[pathlib.Path, bytes | None]],
    isolation_none: bool,
    folder: pathlib.Path,
    clock: Clock,
    output: Output,
) -> tuple[Trainers, list[str]]:
    """The trainers named on the command line, and how a participant's process is told of them."""

    def printed(name: str, data: bytes) -> None:
        for line in data.decode("utf-8", "replace").splitlines():
            output.note(f"{name}: {line}")

    configs = {}
    for name, (path, _) in own.items():
        config = read_config(name, path)
        configs[name] = config, probe.find(config.python, (folder,), none_allowed=isolation_none)
        output.note(f"{name}: isolation {configs[name][1].level.value}")
    arguments = ["--isolation", "none"] if isolation_none else []
    arguments += [part for name, (path, _) in own.items() for part in ("--trainer", f"{name}={path.absolute()}")]
    return Trainers(configs, MemoryApprovals(), clock, printed), arguments


def _suffix(data: bytes) -> str:
    return ".parquet" if data.startswith(PARQUET_START) else ".csv"


def holds(folder: pathlib.Path, test: pathlib.Path) -> bool:
    """Whether the test file is one of the tables in `folder`, by whatever path it was named."""
    return any(path.suffix in TABLES and path.resolve() == test.resolve() for path in folder.iterdir())


def read_tables(folder: pathlib.Path, test: pathlib.Path | None) -> dict[str, bytes]:
    """NAME.csv or NAME.parquet for each organisation in `folder`, the test file left out.

    ConfigError `no_tables`, `table_twice`, `bad_name`.
    """
    if not folder.is_dir():
        raise ConfigError("no_tables", f"{folder} is no folder", next_step="--data FOLDER with one NAME.csv each")
    found: dict[str, bytes] = {}
    for path in sorted(folder.iterdir()):
        if path.suffix in TABLES and (test is None or path.resolve() != test.resolve()):
            if check_name(path.stem, "the organisation") in found:
                raise ConfigError("table_twice", f"{path.stem} has two tables in {folder}", next_step="leave one there")
            found[path.stem] = read_file(path, "a table", MAX_TABLE)
    if not found:
        raise ConfigError(
            "no_tables", f"{folder} holds no NAME.csv and no NAME.parquet", next_step="one table per organisation"
        )
    return found


def play_in_memory(
    plan: Plan,
    canonical: bytes,
    tables: Mapping[str, bytes],
    seed: int,
    clock: Clock,
    began: float | None = None,
    trainers: Trainers = BUILT_IN,
) -> Played:
    """The run over the in-memory network; simulated time does not count, the clock's does.

    `began`: when the command did, on `clock.monotonic_s`; by default now.
    """
    called = clock.monotonic_s()
    before = 0.0 if began is None else called - began
    members = {OrgId(name): {plan.data.dataset: data} for name, data in tables.items()}
    charter = make_charter(list(tables), seed)
    book = _key_book(plan, charter, seed)
    made = clock.monotonic_s() - called
    cluster = Cluster(charter, seed, members, canonical, dict.fromkeys(members, trainers), book)
    first: list[float] = []

    def heard(run_id: RunId, event: object) -> None:
        if getattr(event, "kind", "") == "round":
            first.append(clock.monotonic_s() - called)

    cluster.coordinator.listeners.append(heard)
    for org in members:
        cluster.start_member(org)
    cluster.settle()
    cluster.start_run(RUN, canonical)
    cluster.play(lambda: cluster.ended(RUN))
    state = cluster.coordinator.state_of(RUN)
    seconds = [b - a for a, b in zip([made, *first], first, strict=False)]
    rounds: list[dict[str, object]] = [
        {
            "number": record.round,
            "purpose": record.purpose.value,
            "survivors": list(record.survivors),
            "dropped": list(record.dropped),
            "seconds": took,
            "loss": record.loss,
            "accuracy": record.accuracy,
        }
        for record, took in zip(state.records, seconds, strict=True)
    ]
    code = state.ended.code if state.ended is not None else "stuck"
    ends = [member.memory.ends[RUN][2] for member in cluster.members.values() if RUN in member.memory.ends]
    model = next((data for data in ends if data), b"")
    trained = local_federation.trained_rounds(plan)
    total = clock.monotonic_s() - called
    first_round = first[trained] if len(first) > trained else total
    keys = () if book is None else (local_key.of_book(book, made),)
    answered = plan.statistics is not None and bool(state.standardise) and not state.rejected
    answers = tuple(cluster.coordinator.sums.answers(state)) if answered else ()
    return Played(code, model, rounds, before + first_round, before + total, "memory", keys, answers)


def _key_book(plan: Plan, charter: Charter, seed: int) -> KeyBook | None:
    """The key of a plan under paillier, made by the members that `local_key.choose` names; None under masked."""
    if plan.protection.kind != PAILLIER:
        return None
    choice = local_key.choose(plan, list(charter.member_keys))
    holders = {org: charter.member_keys[org] for org in choice.holders}
    federation = charter.roster.federation_id
    return make_key(federation, holders, choice.threshold, seed, choice.columns, choice.key_id)


def show(
    plan: Plan,
    sources: Mapping[str, Source],
    held_out: Source | None,
    played: Played,
    output: Output,
    trainer: Trainer | None = None,
    why_not_private: str = "",
) -> None:
    """The result: accuracy on the test file, else on everyone's own holdout rows put together; where the plan holds out
    none, on the rows that trained.
    """
    stored = modelfile.read_model(played.model_file)
    measured = [held_out] if held_out is not None else list(sources.values())
    everything = held_out is not None or not plan.evaluation.holdout

    def rate(model: NDArray[np.float32], scaling: Standardisation) -> Score:
        return scoring.together(
            [
                scoring.score(plan, model, scaling, source, None if everything else _held(plan, source), trainer)
                for source in measured
            ]
        )

    federated = rate(stored.model, stored.standardisation)
    pooled = rate(*alone.fit(plan, list(sources.values()), trainer))
    local = {name: rate(*alone.fit(plan, [source], trainer)) for name, source in sources.items()}
    on = "holdout rows" if not everything else "training rows" if held_out is None else "test file"
    privacy = privacy_report(plan, played)
    value = {
        "accuracy": {
            "federated": federated.accuracy,
            "pooled": pooled.accuracy,
            "local": {name: score.accuracy for name, score in local.items()},
        },
        "log_loss": {
            "federated": federated.loss,
            "pooled": pooled.loss,
            "local": {name: score.loss for name, score in local.items()},
        },
        "measured_on": on,
        "rounds": played.rounds,
        "protection": plan.protection.kind,
        "privacy": privacy,
        "not_private": why_not_private or None,
        "transport": played.transport,
        "first_round_s": played.first_round_s,
        "total_s": played.total_s,
    }
    if played.keys:
        value["keys"] = [key.to_json() for key in played.keys]
    rows = [("federated", federated), ("pooled", pooled), *((f"{name} alone", one) for name, one in local.items())]
    table = [
        (who, "" if one.accuracy is None else f"{100 * one.accuracy:.1f} %", f"{one.loss:.4f}") for who, one in rows
    ]
    lines: list[str | TextTable] = [
        TextTable(("model", "accuracy", "loss"), table),
        f"measured on {on}; {len(played.rounds)} secure sums over {played.transport}, {played.total_s:.1f} s",
        f"privacy: {run_commands.privacy_text(privacy)}",
        *([f"not private: {why_not_private}"] if why_not_private else []),
        *(line for key in played.keys for line in (*key.lines(), local_key.EPHEMERAL)),
    ]
    output.result(value, lines)


def show_answers(plan: Plan, played: Played, output: Output, why_not_private: str = "") -> None:
    """The answers of a statistics plan."""
    privacy = privacy_report(plan, played)
    value: dict[str, object] = {
        "answers": list(played.answers),
        "rounds": played.rounds,
        "protection": plan.protection.kind,
        "privacy": privacy,
        "not_private": why_not_private or None,
        "transport": played.transport,
        "total_s": played.total_s,
    }
    if played.keys:
        value["keys"] = [key.to_json() for key in played.keys]
    lines: list[str | TextTable] = [
        *answers_report.lines(played.answers),
        "",
        f"{len(played.rounds)} secure sum over {played.transport}, {played.total_s:.1f} s",
        f"privacy: {run_commands.privacy_text(privacy)}",
        *([f"not private: {why_not_private}"] if why_not_private else []),
        *(line for key in played.keys for line in (*key.lines(), local_key.EPHEMERAL)),
    ]
    output.result(value, lines)


def _held(plan: Plan, source: Source) -> NDArray[np.bool_]:
    return holdout.held_out(source.positions, plan.evaluation.holdout)
