"""Commands of an organisation: join a federation and take part with its own data, under its own consent."""

import pathlib
from typing import Annotated

import typer

from fedveil_cli import options
from fedveil_cli.options import AsJson, Home, PassphraseFile, example
from fedveil_cli.output import Output


def register(app: typer.Typer) -> None:
    """Adds the commands to `app`."""
    app.command(epilog=example("fedveil join", "fedveil join - < token.txt"))(join)
    app.command(epilog=example("fedveil participate --data icu_stays=icu.csv --accept PLAN_HASH"))(participate)


def join(
    token: Annotated[
        str | None,
        typer.Argument(metavar="[TOKEN|-|FILE]", help="The token; - reads it from stdin. Asked for if absent."),
    ] = None,
    passphrase_file: PassphraseFile = None,
    home: Home = None,
    as_json: AsJson = False,
) -> None:
    """Join a federation with an invitation's token. The keys are made here and stay here."""
    from fedveil_cli import identity_commands
    from fedveil_cli.passphrases import given_passphrase
    from fedveil_cli.world import real_world

    output = Output(as_json)
    given = given_passphrase(passphrase_file, "passphrase", output)
    secret = options.token_text(token, output)
    folder = options.home_folder(home)
    report = identity_commands.run_join(folder, secret.expose().decode(), given, real_world())
    output.report(report)
    output.note("telephone the operator: the fingerprint must be theirs, and they may ask for the check words")
    if not report["in_roster"]:
        output.note("the roster lists you from the operator's next `fedveil run start` on; `fedveil participate` waits")


def participate(
    data: Annotated[
        list[str] | None,
        typer.Option("--data", metavar="NAME=FILE", help="A data set: CSV, Parquet, or a folder of one kind."),
    ] = None,
    accept: Annotated[
        list[str] | None,
        typer.Option("--accept", metavar="PLAN_HASH", help="A plan that may run here: 64 hex digits; repeatable."),
    ] = None,
    trainer: Annotated[
        list[str] | None,
        typer.Option("--trainer", metavar="NAME=CONFIG", help="Own training code, described in TOML; repeatable."),
    ] = None,
    isolation: options.NoIsolation = None,
    data_key: Annotated[
        pathlib.Path | None,
        typer.Option("--data-key", metavar="PRIVATE", help="The private key (PEM) that sealed data is for."),
    ] = None,
    data_passphrase_file: Annotated[
        pathlib.Path | None,
        typer.Option("--data-passphrase-file", metavar="FILE", help="Holds the passphrase of that key, if it has one."),
    ] = None,
    until_ended: Annotated[
        bool, typer.Option("--until-ended", help="Leave when the first accepted run has ended and its model is stored.")
    ] = False,
    reuse_key_epoch: Annotated[
        bool,
        typer.Option("--reuse-key-epoch", help="Consent to several runs under one epoch of a Paillier key."),
    ] = False,
    countersign: Annotated[
        str, typer.Option("--countersign", metavar="auto|ask", help="Vouch for models derived here, or ask first.")
    ] = "auto",
    policy: Annotated[
        pathlib.Path | None,
        typer.Option("--policy", metavar="FILE", help="The organisation's policy (else policy.yaml in the home)."),
    ] = None,
    consent_socket: Annotated[
        pathlib.Path | None,
        typer.Option("--consent-socket", metavar="PATH", help="Where approvers reach it (else in the home)."),
    ] = None,
    passphrase_file: PassphraseFile = None,
    home: Home = None,
    as_json: AsJson = False,
) -> None:
    """Take part, in the plans that the organisation consented to and in no other. Outbound connections only."""
    if countersign not in {"auto", "ask"}:
        raise typer.BadParameter(f"{countersign!r} is neither auto nor ask", param_hint="--countersign")
    from fedveil_cli import service_commands
    from fedveil_cli.passphrases import given_passphrase, journal_passphrase

    output, folder = Output(as_json), options.home_folder(home)
    service_commands.participate(
        folder,
        options.dataset_files(data or []),
        options.plan_hashes(accept or []),
        journal_passphrase(folder, passphrase_file, output),
        until_ended,
        output,
        options.trainer_files(trainer or []),
        reuse_key_epoch,
        None if data_key is None else (data_key, given_passphrase(data_passphrase_file, "data-passphrase", output)),
        options.without_isolation(isolation),
        countersign == "ask",
        policy,
        consent_socket,
    )
