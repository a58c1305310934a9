"""The answers of a statistics run for people: one table of figures, and one for each question about cells.

Every figure stands beside its noise (one standard deviation) where the plan has differential privacy.
"""

import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from fedveil_common.secret import Passphrase

from fedveil_cli.output import Output, TextTable

Answers = Sequence[Mapping[str, Any]]


def lines(answers: Answers) -> list[str | TextTable]:
    """The answers, as `statistics.answers.to_json` gives them."""
    figures = [one for one in answers if "value" in one]
    found: list[str | TextTable] = []
    if figures:
        rows = [(one["question"], number(one["value"]), noise(one), number(one["rows"])) for one in figures]
        found.append(TextTable(("question", "answer", "noise", "rows"), rows))
    for one in answers:
        if "value" not in one:
            found += ["", _heading(one), _cells(one)]
    return found


def _heading(one: Mapping[str, Any]) -> str:
    of = "noise on the rows below one" if "at" in one else "noise"
    shown = f", {of} {noise(one)}" if one["noise"] is not None else ""
    hidden = f", {one['suppressed']} not shown" if one.get("suppressed") else ""
    width = f", from cells of {one['cell_width']:g}" if "cell_width" in one else ""
    return f"{one['question']}: {number(one['rows'])} rows{width}{shown}{hidden}"


def _cells(one: Mapping[str, Any]) -> TextTable:
    if "at" in one:
        rows = [(f"{at:g}", number(value)) for at, value in zip(one["at"], one["values"], strict=True)]
        return TextTable(("quantile", "value"), rows)
    if "edges" in one:
        ends = zip(one["edges"], one["edges"][1:], one["counts"], strict=False)
        return TextTable(("from", "to", "rows"), [(f"{lo:g}", f"{hi:g}", number(count)) for lo, hi, count in ends])
    rows = [(value, number(count)) for value, count in zip(one["values"], one["counts"], strict=True)]
    return TextTable(("value", "rows"), rows)


def number(value: float | None) -> str:
    """A figure; what is not shown is a dash."""
    if value is None:
        return "-"
    return f"{value:.0f}" if float(value).is_integer() else f"{value:.6g}"


def noise(one: Mapping[str, Any]) -> str:
    """One standard deviation; nothing where there is none."""
    return "" if one["noise"] is None else f"+-{one['noise']:.3g}"


def show(home: pathlib.Path, run: str | None, passphrase: Passphrase | None, output: Output) -> None:
    """`answers`: of a run, by default the last that has some; on either side. ConfigError `unknown_answers`."""
    from fedveil_common.errors import ConfigError

    from fedveil_cli.service_commands import is_operator

    def none(run_id: str) -> ConfigError:
        named = f"run {run_id} has no answers" if run_id else "no run left answers here"
        return ConfigError("unknown_answers", named, next_step="fedveil run list, or fedveil model list")

    if is_operator(home):
        from fedveil_cli import run_commands

        admin = run_commands.connect(home)
        chosen = [run] if run is not None else [str(one["run_id"]) for one in reversed(admin.list_runs())]
        for run_id in chosen:
            report = admin.get_run(run_id)
            if report.get("answers") is not None:
                found = {"run_id": run_id, "plan": report["name"], "answers": report["answers"]}
                break
        else:
            raise none(run or "")
    else:
        from fedveil_participant.store import StatisticsFiles

        from fedveil_cli import data_home
        from fedveil_cli.world import real_world

        files = StatisticsFiles(home)
        with data_home.looking(home, passphrase, real_world()) as books:
            ends = books.ends()
        stored = [str(end.run_id) for end in reversed(ends) if files.path(end.run_id).exists()]
        if run is None and not stored:
            raise none("")
        found = files.get(run or stored[0])
    heading = f"run {found['run_id']}, plan {found['plan']}"
    output.result(dict(found), [heading, "", *lines(found["answers"])])
