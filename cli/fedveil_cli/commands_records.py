"""Commands about what an organisation has on record: what left it, what happened in it, and for whom it is written."""

import pathlib
from typing import Annotated

import typer

from fedveil_cli import options
from fedveil_cli.options import AsJson, Home, PassphraseFile, example
from fedveil_cli.output import Output

Run = Annotated[str | None, typer.Option("--run", metavar="RUN", help="Only what belongs to this run.")]


def register(app: typer.Typer) -> None:
    """Adds the commands to `app`."""
    app.command(epilog=example("fedveil outbox --run run-1 --round 2", "fedveil outbox --verify"))(outbox)
    audit = typer.Typer(help="The organisation's own records.", epilog=example("fedveil audit show"))
    audit.command("show", epilog=example("fedveil audit show --kind data_read"))(show)
    audit.command("verify", epilog=example("fedveil audit verify", "fedveil audit verify --file records.jsonl"))(verify)
    audit.command("export", epilog=example("fedveil audit export --out records.jsonl", "fedveil audit export --dpo"))(
        export
    )
    app.add_typer(audit, name="audit")


def outbox(
    run: Run = None,
    round: Annotated[
        int | None, typer.Option("--round", metavar="N", min=1, help="Only this round (of the run, or of all).")
    ] = None,
    verify: Annotated[
        bool, typer.Option("--verify", help="Fail with exit code 5 if a receipt does not verify; names the message.")
    ] = False,
    passphrase_file: PassphraseFile = None,
    home: Home = None,
    as_json: AsJson = False,
) -> None:
    """List everything that left this organisation, with the coordinator's signed receipts."""
    from fedveil_cli import outbox_commands
    from fedveil_cli.passphrases import journal_passphrase

    output, folder = Output(as_json), options.home_folder(home)
    given = journal_passphrase(folder, passphrase_file, output)
    outbox_commands.show(folder, outbox_commands.Wanted(run, round), verify, given, output)


def show(
    run: Run = None,
    kind: Annotated[str | None, typer.Option("--kind", metavar="KIND", help="Only rows of this kind.")] = None,
    passphrase_file: PassphraseFile = None,
    home: Home = None,
    as_json: AsJson = False,
) -> None:
    """List what happened here: plans answered, data read, inputs, reveals, refusals. Operator: orders given."""
    from fedveil_cli import audit_commands
    from fedveil_cli.passphrases import journal_passphrase

    output, folder = Output(as_json), options.home_folder(home)
    given = None if audit_commands.is_operator(folder) else journal_passphrase(folder, passphrase_file, output)
    audit_commands.show(folder, run, kind, given, output)


def verify(
    file: Annotated[
        pathlib.Path | None,
        typer.Option("--file", metavar="FILE", help="Check an export instead of a home: no home, no key is needed."),
    ] = None,
    against: Annotated[
        pathlib.Path | None,
        typer.Option("--against", metavar="FILE", help="The home must go on from this earlier export of it."),
    ] = None,
    passphrase_file: PassphraseFile = None,
    home: Home = None,
    as_json: AsJson = False,
) -> None:
    """Check that the records are whole and unchanged: numbers, digests, chains, signed checkpoints. Offline."""
    if file is not None and against is not None:
        raise typer.BadParameter("give --file or --against, not both", param_hint="--file")
    from fedveil_cli import audit_commands
    from fedveil_cli.passphrases import journal_passphrase

    output = Output(as_json)
    if file is not None:
        audit_commands.verify_file(file, output)
        return
    folder = options.home_folder(home)
    given = None if audit_commands.is_operator(folder) else journal_passphrase(folder, passphrase_file, output)
    audit_commands.verify(folder, against, given, output)


def export(
    out: Annotated[
        pathlib.Path | None, typer.Option("--out", metavar="FILE", help="Where it goes (else stdout).")
    ] = None,
    dpo: Annotated[
        bool,
        typer.Option("--dpo", help="The record of processing (GDPR Art. 30): text, or JSON with --json or to a .json."),
    ] = False,
    passphrase_file: PassphraseFile = None,
    home: Home = None,
    as_json: AsJson = False,
) -> None:
    """Write the records as lines of JSON with a signed head; or, for the data protection officer, what is processed."""
    from fedveil_cli import audit_commands
    from fedveil_cli.passphrases import journal_passphrase

    output, folder = Output(as_json), options.home_folder(home)
    given = journal_passphrase(folder, passphrase_file, output)
    if dpo:
        audit_commands.export_processing(folder, out, given, output)
    else:
        audit_commands.export(folder, out, given, output)
