"""Commands about runs and rounds: start one, follow it, look at it, end it."""

from typing import Annotated

import typer

from fedveil_cli import reserved
from fedveil_cli.commands_anyone import PlanFile
from fedveil_cli.options import AsJson, GovernancePassphraseFile, Home, example

Run = Annotated[str, typer.Argument(metavar="RUN", help="The run's id.")]


def register(app: typer.Typer) -> None:
    """Adds the commands to `app`."""
    run = typer.Typer(help="Executions of a plan.", epilog=example("fedveil run start sepsis.yaml"))
    run.command("start", epilog=example("fedveil run start sepsis.yaml", "fedveil run start sepsis.yaml --detach"))(
        start
    )
    run.command("list", epilog=example("fedveil run list --json"))(list_)
    run.command("show", epilog=example("fedveil run show RUN"))(show)
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
    detach: Annotated[bool, typer.Option("--detach", help="Return once the run has begun.")] = False,
    governance_passphrase_file: GovernancePassphraseFile = None,
    home: Home = None,
    as_json: AsJson = False,
) -> None:
    """Start a run, follow it to its end and exit with its code. Opens the governance key to sign the roster."""
    raise reserved.unfinished("run start")


def list_(home: Home = None, as_json: AsJson = False) -> None:
    """List the runs."""
    raise reserved.unfinished("run list")


def show(run: Run, home: Home = None, as_json: AsJson = False) -> None:
    """Show one run: its state, its rounds, why it ended."""
    raise reserved.unfinished("run show")


def watch(run: Run, home: Home = None, as_json: AsJson = False) -> None:
    """Follow a run to its end and exit with its code."""
    raise reserved.unfinished("run watch")


def abort(run: Run, home: Home = None, as_json: AsJson = False) -> None:
    """End a run: the attempt under way is aborted by vote, the current model stays."""
    raise reserved.unfinished("run abort")


def round_show(
    run: Run,
    number: Annotated[int, typer.Argument(metavar="N", min=1, help="The round, from 1.")],
    home: Home = None,
    as_json: AsJson = False,
) -> None:
    """Show one round: who was in the sum, who was missing, and what was measured."""
    raise reserved.unfinished("round show")
