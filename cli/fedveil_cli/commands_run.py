"""Commands about runs and rounds: start one, follow it, look at it, end it."""

from typing import Annotated

import typer

from fedveil_cli import reserved
from fedveil_cli.commands_anyone import PlanFile
from fedveil_cli.options import AsJson, GovernancePassphraseFile, Home, example, home_folder
from fedveil_cli.output import Output

Run = Annotated[str, typer.Argument(metavar="RUN", help="The run's id.")]


def register(app: typer.Typer) -> None:
    """Adds the commands to `app`."""
    run = typer.Typer(help="Executions of a plan.", epilog=example("fedveil run start sepsis.yaml"))
    run.command("start", epilog=example("fedveil run start sepsis.yaml", "fedveil run start sepsis.yaml --detach"))(
        start
    )
    run.command("list", epilog=example("fedveil run list --json"))(list_)
    run.command("show", epilog=example("fedveil run show RUN", "fedveil run show RUN --opened"))(show)
    run.command("watch", epilog=example("fedveil run watch RUN"))(watch)
    run.command("abort", epilog=example("fedveil run abort RUN"))(abort)
    reserved.register(run, "run")
    app.add_typer(run, name="run")
    rounds = typer.Typer(help="Secure sums and model steps of a run.", epilog=example("fedveil round show RUN 3"))
    rounds.command("show", epilog=example("fedveil round show RUN 3 --json"))(round_show)
    reserved.register(rounds, "round")
    app.add_typer(rounds, name="round")


def start(
    plan: PlanFile,
    continued: Annotated[
        str | None, typer.Option("--from", metavar="RUN", help="Go on from this run, for the plan's rounds more.")
    ] = None,
    detach: Annotated[bool, typer.Option("--detach", help="Return once the run has begun.")] = False,
    reuse_key_epoch: Annotated[
        bool,
        typer.Option("--reuse-key-epoch", help="Consent to a second run under one epoch of a Paillier key."),
    ] = False,
    governance_passphrase_file: GovernancePassphraseFile = None,
    home: Home = None,
    as_json: AsJson = False,
) -> None:
    """Start a run, follow it to its end and exit with its code. Opens the governance key to sign the roster."""
    from fedveil_cli import identity_commands, run_commands
    from fedveil_cli.passphrases import governance_passphrase

    output = Output(as_json)
    folder = home_folder(home)
    alone = identity_commands.governs_alone(folder)
    governance = governance_passphrase(governance_passphrase_file, output) if alone else None
    run_commands.start(folder, plan, governance, detach, output, continued, reuse_key_epoch)


def list_(home: Home = None, as_json: AsJson = False) -> None:
    """List the runs."""
    from fedveil_cli import run_commands

    run_commands.list_runs(home_folder(home), Output(as_json))


def show(
    run: Run,
    opened: Annotated[
        bool, typer.Option("--opened", help="List every block that its sums opened, beside what was charged for it.")
    ] = False,
    home: Home = None,
    as_json: AsJson = False,
) -> None:
    """Show one run: its state, its rounds, why it ended."""
    from fedveil_cli import run_commands

    run_commands.show(home_folder(home), run, Output(as_json), opened)


def watch(run: Run, home: Home = None, as_json: AsJson = False) -> None:
    """Follow a run to its end and exit with its code."""
    from fedveil_cli import run_commands

    run_commands.watch(home_folder(home), run, Output(as_json))


def abort(run: Run, home: Home = None, as_json: AsJson = False) -> None:
    """End a run: the attempt under way is aborted by vote, the current model stays."""
    from fedveil_cli import run_commands

    run_commands.abort(home_folder(home), run, Output(as_json))


def round_show(
    run: Run,
    number: Annotated[int, typer.Argument(metavar="N", min=1, help="The round, from 1.")],
    home: Home = None,
    as_json: AsJson = False,
) -> None:
    """Show one round: who was in the sum, who was missing, and what was measured."""
    from fedveil_cli import run_commands

    run_commands.show_round(home_folder(home), run, number, Output(as_json))
