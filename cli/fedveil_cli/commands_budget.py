"""Commands about what was spent of differential privacy, and the limits that an organisation sets on its data sets."""

import pathlib
from typing import Annotated

import typer

from fedveil_cli import options
from fedveil_cli.options import AsJson, Home, PassphraseFile, example
from fedveil_cli.output import Output

DataSet = Annotated[
    str | None,
    typer.Argument(metavar="[DATASET]", help="The data set (else all); in an operator's home a run's id."),
]


def register(app: typer.Typer) -> None:
    """Adds the commands to `app`."""
    budget = typer.Typer(help="What data sets have spent, and may spend.", epilog=example("fedveil budget show"))
    budget.command("show", epilog=example("fedveil budget show icu_stays"))(show)
    budget.command(
        "set",
        epilog=example(
            "fedveil budget set icu_stays --max-epsilon 8 --delta 1e-5",
            'fedveil budget set icu_stays --reason "journal lost, new roster key"',
        ),
    )(set_)
    budget.command("history", epilog=example("fedveil budget history icu_stays --json"))(history)
    budget.command("record", epilog=example("fedveil budget record acme --out acme-spent.json"))(record)
    budget.command("carry", epilog=example("fedveil budget carry icu_stays --record acme-spent.json"))(carry)
    app.add_typer(budget, name="budget")


def show(
    dataset: DataSet = None, passphrase_file: PassphraseFile = None, home: Home = None, as_json: AsJson = False
) -> None:
    """Show the epsilon that data sets have spent, in all and by run, and what is left of their limits."""
    from fedveil_cli import budget_commands
    from fedveil_cli.passphrases import journal_passphrase

    output, folder = Output(as_json), options.home_folder(home)
    budget_commands.show(folder, dataset, journal_passphrase(folder, passphrase_file, output), output)


def set_(
    dataset: Annotated[str, typer.Argument(metavar="DATASET", help="The data set.")],
    max_epsilon: Annotated[
        float | None,
        typer.Option("--max-epsilon", metavar="X", help="The most that its records may spend over all runs."),
    ] = None,
    delta: Annotated[
        float | None, typer.Option("--delta", metavar="D", help="At this delta: above 0, at most 0.01.")
    ] = None,
    reason: Annotated[
        str | None,
        typer.Option(
            "--reason",
            metavar="TEXT",
            help="For the record. Without a limit: what a re-key presumed spent of this data set is not.",
        ),
    ] = None,
    passphrase_file: PassphraseFile = None,
    home: Home = None,
    as_json: AsJson = False,
) -> None:
    """Limit what a data set may spend over all runs; or let it answer again after a re-key."""
    if (max_epsilon is None) != (delta is None):
        raise typer.BadParameter("a limit has both, --max-epsilon X and --delta D", param_hint="--max-epsilon")
    if max_epsilon is None and reason is None:
        raise typer.BadParameter("give --max-epsilon X with --delta D, or --reason TEXT", param_hint="--max-epsilon")
    from fedveil_cli import budget_commands
    from fedveil_cli.passphrases import journal_passphrase

    output, folder = Output(as_json), options.home_folder(home)
    given = journal_passphrase(folder, passphrase_file, output)
    if max_epsilon is None or delta is None:
        budget_commands.forgive(folder, dataset, reason or "", given, output)
    else:
        budget_commands.set_limit(folder, dataset, max_epsilon, delta, reason or "", given, output)


def history(
    dataset: Annotated[str | None, typer.Argument(metavar="[DATASET]", help="The data set (else all).")] = None,
    passphrase_file: PassphraseFile = None,
    home: Home = None,
    as_json: AsJson = False,
) -> None:
    """List what was reserved, settled and released, in order, and the limits that were set."""
    from fedveil_cli import budget_commands
    from fedveil_cli.passphrases import journal_passphrase

    output, folder = Output(as_json), options.home_folder(home)
    budget_commands.history(folder, dataset, journal_passphrase(folder, passphrase_file, output), output)


def record(
    org: Annotated[str, typer.Argument(metavar="ORG", help="The member.")],
    out: Annotated[pathlib.Path, typer.Option("--out", metavar="FILE", help="Where the record goes.")],
    home: Home = None,
    as_json: AsJson = False,
) -> None:
    """Operator: write what a member may have spent of privacy, signed, for one that lost its journal."""
    from fedveil_cli import carrying

    carrying.record(options.home_folder(home), org, out, Output(as_json))


def carry(
    dataset: Annotated[str, typer.Argument(metavar="DATASET", help="The data set.")],
    record: Annotated[
        pathlib.Path, typer.Option("--record", metavar="FILE", help="What the operator wrote with `budget record`.")
    ],
    passphrase_file: PassphraseFile = None,
    home: Home = None,
    as_json: AsJson = False,
) -> None:
    """Go on with a ledger that was lost with its journal: all that the coordinator knows of counts in full."""
    from fedveil_cli import carrying
    from fedveil_cli.passphrases import journal_passphrase

    output, folder = Output(as_json), options.home_folder(home)
    carrying.carry(folder, dataset, record, journal_passphrase(folder, passphrase_file, output), output)
