"""Commands about the life of a model: look at versions, compare them, decide about them."""

import pathlib
from typing import TYPE_CHECKING, Annotated

import typer

from fedveil_cli.options import AsJson, Home, PassphraseFile, example, home_folder
from fedveil_cli.output import Output

if TYPE_CHECKING:
    from fedveil_common.secret import Passphrase

Version = Annotated[
    str, typer.Argument(metavar="VERSION", help="RUN (its final model) or RUN:ROUND (what that round led to).")
]
Reason = Annotated[str, typer.Option("--reason", metavar="TEXT", help="Signed, kept, and shown to everybody.")]


def register(model: typer.Typer) -> None:
    """Adds the commands to the group `model`."""
    model.command("show", epilog=example("fedveil model show RUN", "fedveil model show RUN:3"))(show)
    model.command("diff", epilog=example("fedveil model diff RUN OTHER", "fedveil model diff a.safetensors RUN"))(diff)
    model.command(
        "promote",
        epilog=example("fedveil model promote RUN --to candidate", "fedveil model promote RUN --to released"),
    )(promote)
    model.command("retire", epilog=example('fedveil model retire RUN --reason "a better one is released"'))(retire)
    model.command("withdraw", epilog=example('fedveil model withdraw RUN --reason "wrong units in 2 tables"'))(withdraw)
    model.command("rollback", epilog=example('fedveil model rollback RUN --reason "the later one drifts"'))(rollback)
    model.command("countersign", epilog=example("fedveil model countersign", "fedveil model countersign RUN"))(
        countersign
    )


def show(
    version: Version,
    passphrase_file: PassphraseFile = None,
    home: Home = None,
    as_json: AsJson = False,
) -> None:
    """Show one version: its stage, what was decided, what is known of it, and where it comes from."""
    from fedveil_cli import registry_commands

    output, folder = Output(as_json), home_folder(home)
    registry_commands.show(folder, version, _passphrase(folder, passphrase_file, output), output)


def diff(
    first: Annotated[str, typer.Argument(metavar="A", help="A version, or a model file.")],
    second: Annotated[str, typer.Argument(metavar="B", help="A version, or a model file.")],
    passphrase_file: PassphraseFile = None,
    home: Home = None,
    as_json: AsJson = False,
) -> None:
    """Compare two models by what was signed of them: plan, metrics, epsilon, distance of the parameters."""
    from fedveil_cli import registry_commands

    output, folder = Output(as_json), home_folder(home)
    registry_commands.diff(folder, first, second, lambda: _passphrase(folder, passphrase_file, output), output)


def promote(
    version: Version,
    to: Annotated[str, typer.Option("--to", metavar="STAGE", help="candidate or released.")],
    reason: Annotated[str, typer.Option("--reason", metavar="TEXT", help="Signed and kept.")] = "",
    home: Home = None,
    as_json: AsJson = False,
) -> None:
    """Promote a version: draft -> candidate -> released. A release needs a quorum of countersignatures."""
    _decide("promote", version, to, reason, home, as_json)


def retire(version: Version, reason: Reason, home: Home = None, as_json: AsJson = False) -> None:
    """Retire a released version: a later one takes its place."""
    _decide("retire", version, "", reason, home, as_json)


def withdraw(version: Version, reason: Reason, home: Home = None, as_json: AsJson = False) -> None:
    """Withdraw a version for good: nobody is to use it any more."""
    _decide("withdraw", version, "", reason, home, as_json)


def rollback(version: Version, reason: Reason, home: Home = None, as_json: AsJson = False) -> None:
    """Release a retired version again, and retire what is released of the same plan name."""
    _decide("rollback", version, "", reason, home, as_json)


def countersign(
    run: Annotated[str | None, typer.Argument(metavar="RUN", help="Whose model (else: list what waits).")] = None,
    decline: Annotated[bool, typer.Option("--decline", help="Do not vouch for it.")] = False,
    home: Home = None,
    as_json: AsJson = False,
) -> None:
    """Let the countersignature of a run's model go to the coordinator, where `participate` was told to ask first."""
    from fedveil_cli import registry_commands

    registry_commands.countersign(home_folder(home), run, decline, Output(as_json))


def _decide(move: str, version: str, to: str, reason: str, home: pathlib.Path | None, as_json: bool) -> None:
    from fedveil_cli import registry_commands

    registry_commands.decide(home_folder(home), move, version, to, reason, Output(as_json))


def _passphrase(folder: pathlib.Path, passphrase_file: pathlib.Path | None, output: Output) -> "Passphrase | None":
    from fedveil_cli.passphrases import journal_passphrase

    return journal_passphrase(folder, passphrase_file, output)
