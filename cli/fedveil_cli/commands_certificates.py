"""Commands about certificates and the ground they stand on, the same in an operator's and an organisation's home."""

from typing import Annotated

import typer
from fedveil_common.errors import ConfigError

from fedveil_cli.options import AsJson, Home, PassphraseFile, example, home_folder
from fedveil_cli.output import Output


def register(app: typer.Typer) -> None:
    """Adds the commands to `app`."""
    app.command(epilog=example("fedveil renew", "fedveil renew --offline"))(renew)
    app.command(epilog=example("fedveil doctor", "fedveil doctor --json"))(doctor)


def renew(
    offline: Annotated[
        bool,
        typer.Option(
            "--offline",
            help="Without the certificate in force: an organisation asks on the enrolment port with its protocol key; "
            "an operator opens the authority's key, with `serve` stopped.",
        ),
    ] = False,
    passphrase_file: PassphraseFile = None,
    home: Home = None,
    as_json: AsJson = False,
) -> None:
    """Renew this home's certificate now, with a new key. It happens by itself at two thirds of its life."""
    from fedveil_cli import renewing
    from fedveil_cli.passphrases import journal_passphrase, passphrase
    from fedveil_cli.service_commands import is_operator
    from fedveil_cli.world import real_world

    output, folder = Output(as_json), home_folder(home)
    if not is_operator(folder):
        given = journal_passphrase(folder, passphrase_file, output)
        output.report(renewing.renew_participant(folder, given, offline, real_world()))
    elif offline:
        authority = passphrase(passphrase_file, "passphrase", "--passphrase-file", output)
        output.report(renewing.renew_operator_offline(folder, authority, real_world()))
    else:
        output.report(renewing.renew_operator(folder, real_world()))


def doctor(passphrase_file: PassphraseFile = None, home: Home = None, as_json: AsJson = False) -> None:
    """Find what is wrong with this home or the way to the coordinator. Exit code 0: nothing; 2: it says how to mend."""
    from fedveil_cli import doctor as doctors
    from fedveil_cli.passphrases import given_passphrase, journal_passphrase
    from fedveil_cli.world import real_world

    output, folder = Output(as_json), home_folder(home)
    if (folder / "journal.key").exists():
        given = journal_passphrase(folder, passphrase_file, output)
    else:
        given = given_passphrase(passphrase_file, "passphrase", output)
    if not doctors.doctor(folder, given, real_world(), output):
        raise typer.Exit(ConfigError.exit_code)
