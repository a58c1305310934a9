"""`model show|diff|promote|retire|withdraw|rollback|countersign`: what they print, and with which code they end.

An operator's home asks the coordinator; an organisation's home knows the models that it derived itself, and of their
stages what its newest status list says.
"""

import dataclasses
import os
import pathlib
from collections.abc import Callable, Mapping
from typing import Any

from fedveil_common.errors import ConfigError
from fedveil_common.ids import RunId
from fedveil_common.modelfile import ModelFile, read_model
from fedveil_common.registry import comparison, status
from fedveil_common.registry.identity import ModelRef
from fedveil_common.registry.stages import Stage
from fedveil_common.secret import Passphrase

from fedveil_cli import model_files
from fedveil_cli.admin_client import AdminClient
from fedveil_cli.files import MAX_MODEL, read_file
from fedveil_cli.model_files import Asked
from fedveil_cli.model_status import Nearby, Standing
from fedveil_cli.output import Output, TextTable
from fedveil_cli.service_commands import is_operator
from fedveil_cli.world import real_world

HASH_SHOWN = 16
"""Digits of a hash in tables; --json has all."""


def show(home: pathlib.Path, version: str, passphrase: Passphrase | None, output: Output) -> None:
    """`model show`."""
    if is_operator(home):
        report = _admin(home).get_model(version)
        output.result(report, _shown(report))
        return
    file = stored_model(home, version, passphrase)
    report = _own_report(home, version, file)
    facts = [f"{name.replace('_', ' ')}: {value}" for name, value in report.items()]
    output.result(report, facts)


def stored_model(home: pathlib.Path, version: str, passphrase: Passphrase | None) -> ModelFile:
    """The final model of a run that this organisation derived. ConfigError `unknown_model`, `not_joined`."""
    from fedveil_cli import data_home

    with data_home.looking(home, passphrase, real_world()) as books:
        return read_model(books.model(RunId(version)))


def _own_report(home: pathlib.Path, version: str, file: ModelFile) -> dict[str, object]:
    """What an organisation can say of a model of its own: what it derived, and what its status list says."""
    expected = model_files.expected_fingerprint(None, home)
    origin = model_files.check_origin(file, expected)
    standing = Asked.now(home).look(Nearby(), expected, origin)
    return {
        "version": version,
        **ModelRef.of(origin.manifest).to_json(),
        "plan": file.plan.name,
        "plan_hash": origin.manifest.plan_hash.hex(),
        "roster_version": origin.manifest.roster_version,
        "transcript": origin.manifest.transcript.hex(),
        "stage": _stage(standing),
        "as_of": standing.as_of if standing is not None else None,
        "expired": standing is not None and standing.expired,
    }


def _stage(standing: Standing | None) -> str | None:
    return standing.stage.value if standing is not None and standing.stage is not None else None


def _shown(report: Mapping[str, Any]) -> list[str | TextTable]:
    facts = report["facts"]
    lines: list[str | TextTable] = [
        f"{report['version']}: {report['stage']}",
        f"plan         {report['plan']}, hash {facts['plan_hash']}",
        f"model        {report['model_id']} (parameters {report['model_hash']})",
        f"from         round {report['round']}, {facts['steps']} steps, roster version {report['roster_version']}",
        f"metrics      {_metrics(facts['metrics'])}",
        f"epsilon      {_epsilon(facts)}",
        f"rests on     {facts['rests_on']}",
    ]
    if report["countersignatures_needed"] is not None:
        names = ", ".join(report["countersigned"]) or "nobody"
        lines.append(f"countersigned by {names}; a release needs {report['countersignatures_needed']}")
    if report["decisions"]:
        rows = [
            (
                str(one["number"]),
                status.date(one["made_s"]),
                one["who"],
                f"{one['from']} -> {one['to']}",
                one["reason"],
            )
            for one in report["decisions"]
        ]
        lines.append(TextTable(("number", "when", "who", "decision", "reason"), rows))
    rounds = [(str(one["round"]), one["purpose"], ", ".join(one["survivors"])) for one in report["lineage"]]
    lines.append(TextTable(("round", "sum", "of"), rounds))
    versions = [
        (one["version"], str(one["steps"]), one["model_hash"][:HASH_SHOWN], _metrics(one["metrics"]))
        for one in report["versions"]
    ]
    lines.append(TextTable(("version", "steps", "parameters", "metrics"), versions))
    return lines


def _metrics(values: Mapping[str, float]) -> str:
    return ", ".join(f"{name} {value:.4g}" for name, value in sorted(values.items())) or "not measured"


def _epsilon(facts: Mapping[str, Any]) -> str:
    if facts["epsilon"] is None:
        return "no differential privacy: the sums are exact"
    return f"{facts['epsilon']:.4g} at delta {facts['delta']:.3g}"


def diff(
    home: pathlib.Path,
    first: str,
    second: str,
    passphrase: Callable[[], Passphrase | None],
    output: Output,
) -> None:
    """`model diff`. A name that is a file here is that file; its signatures are checked like `model verify` does."""
    (one, said), (other, told) = (_named(home, name, passphrase) for name in (first, second))
    plans = comparison.plan_differences(one, other)
    apart = comparison.distances(one, other)
    same_data = one.plan.data == other.plan.data
    value = {
        "first": {"name": first, **said},
        "second": {"name": second, **told},
        "same_data": same_data,
        "plan": [{"field": field, "first": before, "second": after} for field, before, after in plans],
        "distance": [dataclasses.asdict(block) for block in apart],
    }
    lines: list[str | TextTable] = [f"A {first}: {said['model_hash']}", f"B {second}: {told['model_hash']}"]
    lines.append("the plans describe the same data" if same_data else "the plans describe other data")
    if plans:
        lines.append(
            TextTable(("plan", "A", "B"), [(field, before or "", after or "") for field, before, after in plans])
        )
    else:
        lines.append("the plans are the same")
    facts = [(name, _fact(said.get(name)), _fact(told.get(name))) for name in ("metrics", "epsilon", "delta", "steps")]
    facts.append(("stage, as it is known here", str(said["stage"] or "not known"), str(told["stage"] or "not known")))
    lines.append(TextTable(("signed", "A", "B"), facts))
    if apart:
        rows = [
            (
                one.name,
                str(one.parameters),
                f"{one.l2:.6g}",
                "" if one.relative is None else f"{one.relative:.3g}",
                f"{one.largest:.6g}",
            )
            for one in apart
        ]
        lines.append(TextTable(("parameters", "count", "L2 of B - A", "by L2 of A", "largest"), rows))
    else:
        lines.append("the parameters have other shapes: no distance")
    output.result(value, lines)
    for name, known in ((first, said), (second, told)):
        if known["stage"] == Stage.WITHDRAWN:
            output.warn(f"{name} was withdrawn: nobody is to use it")


def _fact(value: object) -> str:
    if isinstance(value, Mapping):
        return _metrics(value)
    return "not in the file" if value is None else str(value)


def _named(
    home: pathlib.Path, name: str, passphrase: Callable[[], Passphrase | None]
) -> tuple[ModelFile, dict[str, object]]:
    """A model and what is known of it by signatures: from a file, the coordinator, or the organisation's own store.

    Whatever its stage: who compares does not predict.
    """
    path = pathlib.Path(name)
    if os.path.isfile(path):  # False for a name that is too long
        file = read_model(read_file(path, "the model", MAX_MODEL))
        expected = model_files.expected_fingerprint(None, home)
        origin = model_files.check_origin(file, expected)
        standing = Asked.now(home).look(Nearby(path), expected, origin)
        facts = origin.release.facts.to_json() if origin.release is not None else {}
        assert isinstance(facts, Mapping)
        return file, {**facts, **ModelRef.of(origin.manifest).to_json(), "stage": _stage(standing)}
    if is_operator(home):
        admin = _admin(home)
        file, report = read_model(admin.export_model(name)), admin.get_model(name)
        known = {field: report[field] for field in ("model_hash", "run_id", "stage")}
        return file, {**report["facts"], **known}
    file = stored_model(home, name, passphrase())
    own = _own_report(home, name, file)
    return file, {field: own[field] for field in ("model_id", "run_id", "round", "model_hash", "stage")}


def decide(home: pathlib.Path, move: str, version: str, to: str, reason: str, output: Output) -> None:
    """`model promote|retire|withdraw|rollback`: in the operator's home. ConfigError `not_initialised`."""
    report = _admin(home).decide_model(move, version, to, reason)
    lines = [f"{report['version']} is {report['stage']}"]
    if report["retired"]:
        lines.append(f"retired: {', '.join(report['retired'])}")
    if report["stage"] == "released":
        lines.append(
            f"`fedveil model export --run {report['version']} --out FILE` writes it with its countersignatures"
        )
    output.result(report, lines)
    for one in report.get("descend", []):
        output.warn(
            f"the model of run {one['run_id']} ({one['stage']}) goes on from it and is not withdrawn: who uses that is "
            f"warned; `fedveil model withdraw {one['run_id']}` if what was wrong is wrong there too"
        )


def countersign(home: pathlib.Path, run: str | None, decline: bool, output: Output) -> None:
    """`model countersign`. ConfigError `not_joined`, `not_held`, `run_missing`."""
    from fedveil_participant import membership
    from fedveil_participant.store.countersignatures import CountersignatureFiles

    membership.load_membership(home)
    files = CountersignatureFiles(home)
    if run is None:
        if decline:
            raise ConfigError("run_missing", "which run is declined must be said", next_step="--decline RUN")
        waiting = files.waiting()
        output.result({"waiting": waiting}, waiting or ["no countersignature waits"])
        return
    files.decide(RunId(run), sign=not decline)
    said = "declined" if decline else "goes to the coordinator at the participant's next connection"
    output.result({"run_id": run, "countersigned": not decline}, [f"{run}: {said}"])


def _admin(home: pathlib.Path) -> AdminClient:
    from fedveil_cli import run_commands

    return run_commands.connect(home)
