"""Commands of an organisation's consent: what waits, approving and denying it, its policy, holding inputs back."""

import pathlib
from typing import Annotated

import typer

from fedveil_cli import options
from fedveil_cli.options import AsJson, Home, PassphraseFile, example
from fedveil_cli.output import Output

PlanHash = Annotated[str, typer.Argument(metavar="PLAN_HASH", help="The plan: 64 hex digits, all of them.")]
Socket = Annotated[
    pathlib.Path | None,
    typer.Option("--socket", metavar="PATH", help="The consent socket of the participant (else in the home)."),
]
PolicyFile = Annotated[
    pathlib.Path | None,
    typer.Option("--policy", metavar="FILE", help="The policy (else policy.yaml in the home)."),
]


def register(app: typer.Typer) -> None:
    """Adds the commands to `app`."""
    app.command(epilog=example("fedveil pending", "fedveil pending --json"))(pending)
    app.command(epilog=example("fedveil show PLAN_HASH"))(show)
    app.command(epilog=example("fedveil approve PLAN_HASH", "fedveil approve PLAN_HASH --runs 4 --until 2027-03-31"))(
        approve
    )
    app.command(epilog=example('fedveil deny PLAN_HASH --reason "the ethics board has not met"'))(deny)
    app.command(epilog=example("fedveil pause"))(pause)
    app.command(epilog=example("fedveil resume"))(resume)
    app.command(epilog=example("fedveil leave"))(leave)
    check_example = example("fedveil policy check sepsis.yaml", "fedveil policy check sepsis.yaml --policy policy.yaml")
    policy = typer.Typer(help="The organisation's policy.", epilog=check_example)
    policy.command("check", epilog=check_example)(check)
    app.add_typer(policy, name="policy")


def pending(
    socket: Socket = None,
    policy: PolicyFile = None,
    passphrase_file: PassphraseFile = None,
    home: Home = None,
    as_json: AsJson = False,
) -> None:
    """List the plans that wait for this organisation's word."""
    from fedveil_cli import consent_commands

    output = Output(as_json)
    house = consent_commands.House(options.home_folder(home), socket, policy, passphrase_file, output)
    consent_commands.pending(house, output)


def show(
    plan_hash: PlanHash,
    socket: Socket = None,
    policy: PolicyFile = None,
    passphrase_file: PassphraseFile = None,
    home: Home = None,
    as_json: AsJson = False,
) -> None:
    """Show all that follows from a plan: what it reads, what leaves, for how long, at which epsilon."""
    from fedveil_cli import consent_commands

    output = Output(as_json)
    house = consent_commands.House(options.home_folder(home), socket, policy, passphrase_file, output)
    consent_commands.show(house, plan_hash, output)


def approve(
    plan_hash: PlanHash,
    run: Annotated[
        str | None, typer.Option("--run", metavar="RUN", help="For this run, where several of the plan wait.")
    ] = None,
    runs: Annotated[
        int | None, typer.Option("--runs", metavar="N", min=1, help="For up to so many runs; with --until.")
    ] = None,
    until: Annotated[
        str | None,
        typer.Option("--until", metavar="DATE", help="The last day (UTC) on which inputs are given, as in 2027-03-31."),
    ] = None,
    socket: Socket = None,
    policy: PolicyFile = None,
    passphrase_file: PassphraseFile = None,
    home: Home = None,
    as_json: AsJson = False,
) -> None:
    """Consent to a plan as it was offered and as this house is today: to one run, or to several until a day."""
    if run is not None and (runs is not None or until is not None):
        raise typer.BadParameter("give --run RUN, or --runs N with --until DATE", param_hint="--run")
    if (runs is None) != (until is None):
        raise typer.BadParameter("give both, --runs N and --until DATE", param_hint="--runs")
    from fedveil_cli import consent_commands

    output = Output(as_json)
    house = consent_commands.House(options.home_folder(home), socket, policy, passphrase_file, output)
    consent_commands.approve(house, plan_hash, run, runs, until, output)


def deny(
    plan_hash: PlanHash,
    reason: Annotated[
        str, typer.Option("--reason", metavar="TEXT", help="For this organisation's record; it is not sent.")
    ] = "",
    socket: Socket = None,
    policy: PolicyFile = None,
    passphrase_file: PassphraseFile = None,
    home: Home = None,
    as_json: AsJson = False,
) -> None:
    """Say no to a plan, or withdraw what was approved: it holds before the next input."""
    from fedveil_cli import consent_commands

    output = Output(as_json)
    house = consent_commands.House(options.home_folder(home), socket, policy, passphrase_file, output)
    consent_commands.deny(house, plan_hash, reason, output)


def pause(
    socket: Socket = None,
    policy: PolicyFile = None,
    passphrase_file: PassphraseFile = None,
    home: Home = None,
    as_json: AsJson = False,
) -> None:
    """Give no new input, in any run, until `fedveil resume`."""
    from fedveil_cli import consent_commands

    output = Output(as_json)
    house = consent_commands.House(options.home_folder(home), socket, policy, passphrase_file, output)
    consent_commands.hold(house, "pause", output)


def resume(
    socket: Socket = None,
    policy: PolicyFile = None,
    passphrase_file: PassphraseFile = None,
    home: Home = None,
    as_json: AsJson = False,
) -> None:
    """Give inputs again after `fedveil pause`."""
    from fedveil_cli import consent_commands

    output = Output(as_json)
    house = consent_commands.House(options.home_folder(home), socket, policy, passphrase_file, output)
    consent_commands.hold(house, "resume", output)


def leave(
    socket: Socket = None,
    home: Home = None,
    as_json: AsJson = False,
) -> None:
    """Let the participant that runs finish its open attempt, join no other, and end."""
    from fedveil_cli import consent_commands

    output = Output(as_json)
    house = consent_commands.House(options.home_folder(home), socket, None, None, output)
    consent_commands.leave(house, output)


def check(
    plan: Annotated[pathlib.Path, typer.Argument(metavar="PLAN", help="The plan file.")],
    policy: PolicyFile = None,
    roster_size: Annotated[
        int | None,
        typer.Option("--roster-size", metavar="N", min=3, help="For a federation of so many (else the home's own)."),
    ] = None,
    home: Home = None,
    as_json: AsJson = False,
) -> None:
    """Say what the policy says to a plan, rule by rule. Exit code 4 if it refuses it."""
    from fedveil_cli import consent_commands

    if not consent_commands.check(options.home_folder(home), plan, policy, roster_size, Output(as_json)):
        raise typer.Exit(4)
