"""`model card`: what is known of a model, from its signed file and, in the operator's home, from the run's record."""

import pathlib
from collections.abc import Mapping
from typing import Any

from fedveil_common.exchange import card
from fedveil_common.ids import is_name
from fedveil_common.jcs import Json
from fedveil_common.modelfile import read_model
from fedveil_common.plan import check_release
from fedveil_common.secret import Passphrase

from fedveil_cli import model_files, model_status, service_commands
from fedveil_cli.companions import companion
from fedveil_cli.files import MAX_MODEL, check_not_read, read_file, write_file
from fedveil_cli.model_files import Asked
from fedveil_cli.model_status import Nearby
from fedveil_cli.output import Output

RECORD = "the coordinator's own record of the run: not signed, and not in the model file"


def is_run(given: str) -> bool:
    """Whether a word on the command line is a run's id and no file."""
    return is_name(given) and not pathlib.Path(given).exists()


def of_file(path: pathlib.Path, out: pathlib.Path, expected: bytes, output: Output, asked: Asked) -> None:
    """`model card FILE`. Raises as `model verify`, but for a model that was withdrawn: its card says so. ConfigError
    `same_file`; StorageError `file_unwritable`.
    """
    check_not_read(out, path, companion(path), asked.status)
    _write(read_file(path, "the model", MAX_MODEL), None, Nearby(path), out, expected, output, asked)


def of_run(
    run: str, out: pathlib.Path, expected: bytes, passphrase: Passphrase | None, output: Output, asked: Asked
) -> None:
    """`model card RUN`: with the run's record in the operator's home. ConfigError `no_model`, `unknown_run`."""
    home = asked.home
    chosen, data, handed = service_commands.final_model(home, run, passphrase)
    record: Mapping[str, Json] | None = None
    if service_commands.is_operator(home):
        from fedveil_cli import run_commands

        record = record_of(run_commands.connect(home).get_run(chosen))
    _write(data, record, Nearby(handed=handed), out, expected, output, asked)


def record_of(report: Mapping[str, Any]) -> dict[str, Json]:
    """What of a run's report belongs into a card: its end, its steps, who was in each sum, figures, epsilon."""
    privacy = report.get("privacy")
    return {
        "source": RECORD,
        "end": report["code"],
        "steps": report["steps"],
        "epsilon_spent": privacy["epsilon"] if isinstance(privacy, Mapping) else None,
        "rounds": [
            {
                "round": one["number"],
                "purpose": one["purpose"],
                "in_the_sum": list(one["survivors"]),
                **{name: one[name] for name in ("loss", "accuracy", "auc") if one.get(name) is not None},
            }
            for one in report["rounds"]
        ],
    }


def _write(
    data: bytes,
    record: Mapping[str, Json] | None,
    near: Nearby,
    out: pathlib.Path,
    expected: bytes,
    output: Output,
    asked: Asked,
) -> None:
    file = read_model(data)
    check_release(file.plan)
    origin = model_files.check_origin(file, expected)
    manifest, roster = origin.manifest, origin.roster
    standing = asked.look(near, expected, origin)
    found = card.facts(file, manifest, roster, card.Origin(data, expected), record, model_status.value(standing))
    write_file(out, "the model card", card.markdown(found).encode())
    lines = [f"{out}: card of run {manifest.run_id}, plan {file.plan.name}", model_status.line(standing)]
    output.result({"card": str(out), **found}, lines)
    model_status.warn(standing, output)
