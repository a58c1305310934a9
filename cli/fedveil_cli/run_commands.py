"""Commands about runs and rounds, as an operator sees them: what they print, and with which code they end."""

import pathlib
from typing import Any

from fedveil_common import modelfile
from fedveil_common.pki.governance import fingerprint_text
from fedveil_common.secret import Passphrase
from fedveil_coordinator import founding

from fedveil_cli import answers_report, operating
from fedveil_cli.admin_client import AdminClient
from fedveil_cli.files import MAX_PLAN, read_file
from fedveil_cli.operator_line import OperatorLine
from fedveil_cli.output import Output, TextTable


def connect(home: pathlib.Path) -> AdminClient:
    """The operator's client of the coordinator of `home`. ConfigError `not_initialised`."""
    return AdminClient(OperatorLine(founding.load_federation(home)))


def start(
    home: pathlib.Path,
    plan: pathlib.Path,
    governance: Passphrase | None,
    detach: bool,
    output: Output,
    continued: str | None = None,
    reuse_key_epoch: bool = False,
) -> None:
    """`run start`: sign the next roster if anybody joined, start, follow to the end. `continued`: go on from it.

    PolicyRefusal `model_withdrawn` for what is not to be gone on from, before anything is signed.
    """
    from fedveil_cli import identity_commands

    text = read_file(plan, "the plan", MAX_PLAN)
    canonical, digest = operating.prepare_plan(text, str(plan))
    admin = connect(home)
    if continued is not None:
        earlier = modelfile.read_model(admin.export_model(continued))
        _check_in_use(home, earlier, admin, output)
        canonical, digest = operating.prepare_plan(text, str(plan), earlier)
    signed = identity_commands.publish_next_roster(home, governance, admin)
    participants = signed["participants"]
    assert isinstance(participants, list)
    if signed["added"] or signed["removed"]:
        output.note(f"roster version {signed['version']}: added {signed['added']}, removed {signed['removed']}")
    operating.check_cohort(canonical, len(participants))
    run_id = admin.start_run(canonical, reuse_key_epoch)
    output.note(f"run {run_id} of plan {digest.hex()}")
    if detach:
        output.result({"run_id": run_id, "plan_hash": digest.hex()}, [f"run {run_id}", f"plan {digest.hex()}"])
        return
    _follow(admin, run_id, output)


def _check_in_use(home: pathlib.Path, earlier: modelfile.ModelFile, admin: AdminClient, output: Output) -> None:
    """Returns if a run may go on from a model of this home's coordinator. PolicyRefusal `model_withdrawn`: it, or one
    that led to it, was withdrawn.
    """
    from fedveil_cli import model_files, model_status

    near = model_status.Nearby(handed=admin.model_status())
    expected, asked = model_files.expected_fingerprint(None, home), model_files.Asked.now(home)
    _, standing = model_files.usable(earlier.head, lambda: modelfile.hash_of(earlier), near, expected, asked)
    model_status.check_ancestry(standing)
    model_status.warn(standing, output)


def _follow(admin: AdminClient, run_id: str, output: Output) -> None:
    try:
        report = operating.follow(admin, run_id, lambda event: output.note(operating.event_line(event)))
    except KeyboardInterrupt:
        output.note(
            f"run {run_id} goes on; `fedveil run watch {run_id}` follows it, `fedveil run abort {run_id}` ends it"
        )
        raise
    error = operating.end_error(str(report["code"]), run_id)
    if error is not None:
        raise error
    output.result(report, _report_lines(report))


def watch(home: pathlib.Path, run_id: str, output: Output) -> None:
    """`run watch`: follow a run to its end and exit with its code."""
    _follow(connect(home), run_id, output)


def list_runs(home: pathlib.Path, output: Output) -> None:
    """`run list`."""
    runs = connect(home).list_runs()
    rows = [(run["run_id"], run["name"], run["status"], run["code"], run["plan_hash"][:16]) for run in runs]
    output.result({"runs": runs}, [TextTable(("run", "plan", "status", "end", "plan hash"), rows)])


def show(home: pathlib.Path, run_id: str, output: Output, opened: bool = False) -> None:
    """`run show`. `opened`: every block that its sums opened, beside what the ledger charged; --json has it anyway."""
    report = connect(home).get_run(run_id)
    output.result(report, [*_report_lines(report), *(_opened_lines(report) if opened else [])])


def show_budget(home: pathlib.Path, run_id: str | None, output: Output) -> None:
    """`budget show` on the operator's side: what runs (by default all) cost by the coordinator's ledger."""
    admin = connect(home)
    runs = [str(one["run_id"]) for one in admin.list_runs()] if run_id is None else [run_id]
    reports = [admin.get_run(one) for one in runs]
    value = [{"run_id": one["run_id"], "status": one["status"], "privacy": one["privacy"]} for one in reports]
    lines = [f"run {one['run_id']} ({one['status']}): {privacy_text(one['privacy'])}" for one in reports]
    output.result({"runs": value}, lines or ["no run was started here"])


def abort(home: pathlib.Path, run_id: str, output: Output) -> None:
    """`run abort`."""
    connect(home).abort_run(run_id)
    output.result({"run_id": run_id, "code": "aborted_by_operator"}, [f"run {run_id} is ended"])


def show_round(home: pathlib.Path, run_id: str, number: int, output: Output) -> None:
    """`round show`."""
    report = connect(home).get_round(run_id, number)
    apart = {"waiting", "opened", "noise"}
    lines: list[str | TextTable] = [f"{name}: {_shown(value)}" for name, value in report.items() if name not in apart]
    lines.extend(f"noise of {name}: {_shown(value)}" for name, value in (report.get("noise") or {}).items())
    lines.extend(f"opened: {one['block']}, {one['coordinates']}" for one in report.get("opened", ()))
    output.result(report, [*lines, *_waiting_lines(report.get("waiting"))])


def status(home: pathlib.Path, output: Output) -> None:
    """`status` on the operator's side: members, sessions, and for whom each wait waits and until when."""
    report = connect(home).status()
    rows = [
        (one["org"], one["state"], "yes" if one["in_roster"] else "no", "yes" if one["connected"] else "no")
        for one in report["participants"]
    ]
    lines: list[str | TextTable] = [
        f"federation {report['federation_id']}, roster version {report['roster_version']}, {report['membership']}",
        TextTable(("organisation", "state", "in roster", "connected"), rows),
    ]
    lines.extend(f"ALARM [{one['code']}] {one['role']} {one['org']}: {one['next']}" for one in report["alarms"])
    lines.extend(
        f"key {one['id']}, epoch {one['epoch']}: any {one['threshold']} of {', '.join(one['holders'])}; fingerprint "
        f"{fingerprint_text(bytes.fromhex(one['fingerprint']))}"
        for one in report.get("keys", ())
    )
    run = report["run"]
    if run is None:
        lines.append("no run is active")
    else:
        lines.append(f"run {run['run_id']}: step {run['steps']} of {run['steps_planned']}")
        lines.extend(_waiting_lines(run["waiting"]))
    if report["queued"]:
        lines.append(f"queued: {', '.join(report['queued'])}")
    output.result(report, lines)


def _report_lines(report: dict[str, Any]) -> list[str | TextTable]:
    lines: list[str | TextTable] = [f"run {report['run_id']}: {report['status']} {report['code']}".rstrip()]
    if report.get("privacy"):
        lines.append(f"privacy: {privacy_text(report['privacy'])}")
    for org, answer in (report.get("missing") or {}).items():
        lines.append(f"missing: {org}" + (f", which declined the plan: {answer}" if answer else ""))
    rows = [
        (
            str(one["number"]),
            one["purpose"],
            ", ".join(one["survivors"]),
            ", ".join(one["dropped"]),
            _measured(one, "loss"),
            _measured(one, "accuracy"),
            _shown(one["auc"]),
            _shown(one["seconds"]),
        )
        for one in report["rounds"]
    ]
    if rows:
        columns = ("round", "purpose", "in the sum", "dropped", "loss", "accuracy", "auc", "seconds")
        lines.append(TextTable(columns, rows))
    if report.get("model"):
        lines.append(f"model {report['model']}")
    if report.get("answers"):
        lines += ["", *answers_report.lines(report["answers"])]
    return [*lines, *_waiting_lines(report.get("waiting"))]


def _measured(one: dict[str, Any], name: str) -> str:
    """A figure of a round, with one standard deviation of its noise."""
    noise = (one.get("noise") or {}).get(name)
    return _shown(one[name]) + ("" if noise is None else f" +-{noise:.2g}")


def _opened_lines(report: dict[str, Any]) -> list[str | TextTable]:
    """Each block of each opened sum, and the ledger's entry that covers it: of exact sums there is none."""
    rows = [
        (
            str(one["number"]),
            str(one["attempt"]),
            one["purpose"],
            block["block"],
            str(block["coordinates"]),
            block.get("records") or "",
            _charge_text(one["epsilon"], block.get("charged")),
        )
        for one in report["rounds"]
        for block in one["opened"]
    ]
    columns = ("round", "attempt", "purpose", "block", "coordinates", "of records in", "epsilon of the sum")
    return [TextTable(columns, rows)] if rows else ["no sum has opened"]


def _charge_text(epsilon: float | None, charged: bool | None) -> str:
    if epsilon is None:
        return "none: exact"
    return f"{epsilon:.4g}" if charged else "NOT CHARGED"


def privacy_text(block: Any) -> str:
    """The block `privacy` of a run's report, in words."""
    if isinstance(block, str):
        return f"{block}, coordinator and participants see the exact sum of every round"
    by = block["noise"]
    alone = block["rests_on"] == "coordinator"
    why = (
        "which sees the exact sum; integrity and privacy rest on the coordinator" if alone else "which can subtract it"
    )
    coordinator = f"; none against the coordinator, {why}" if by == "coordinator" else ""
    return (
        f"epsilon {block['epsilon']:.4g} of at most {block['max_epsilon']:g} at delta {block['delta']:g} for each "
        f"{block['unit']}, noise by the {by}{coordinator}"
    )


def _waiting_lines(waiting: dict[str, Any] | None) -> list[str]:
    if not waiting:
        return []
    until = waiting.get("until_s")
    text = f"waiting in phase {waiting['phase']} for {_awaited(waiting)}"
    lines = [text if until is None else f"{text}, at most {until:.0f} s more"]
    if waiting.get("holders"):
        lines.append(f"the key needs more of its holders: {', '.join(waiting['holders'])} are not there")
    if waiting.get("reason") == "too_few_holders":
        lines.append("fewer holders are there than open a sum")
    if waiting.get("overdue"):
        lines.append(f"overdue: {', '.join(waiting['overdue'])}")
    lines.extend(f"{org} declined the plan: {code}" for org, code in (waiting.get("declined") or {}).items())
    return lines


def _awaited(waiting: dict[str, Any]) -> str:
    names = ", ".join(waiting.get("for") or [])
    lacking = waiting.get("needed", 0) - len(waiting.get("present") or [])
    if waiting["phase"] != "cohort" or lacking <= 0:
        return names or "nobody"
    more = f"{lacking} more participant{'' if lacking == 1 else 's'} that accepted the plan"
    return f"{more}, of {names}" if names else f"{more}; all of the roster have"


def _shown(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:.4f}"
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)
