"""Commands about who is in the federation: looking at the roster, and confirming it for an organisation."""

from typing import Annotated

import typer

from fedveil_cli import options
from fedveil_cli.commands_consent import PolicyFile, Socket
from fedveil_cli.options import AsJson, Home, PassphraseFile, example
from fedveil_cli.output import Output


def register(app: typer.Typer) -> None:
    """Adds the commands to `app`."""
    group = typer.Typer(help="Who is in the federation, under which keys.", epilog=example("fedveil roster show"))
    group.command("show", epilog=example("fedveil roster show", "fedveil roster show --json"))(show)
    confirm_example = example('fedveil roster confirm --words "amber beach cedar delta ember fox"')
    group.command("confirm", epilog=confirm_example)(confirm)
    app.add_typer(group, name="roster")


def show(
    socket: Socket = None,
    policy: PolicyFile = None,
    passphrase_file: PassphraseFile = None,
    home: Home = None,
    as_json: AsJson = False,
) -> None:
    """Show every member with check words for the telephone; in an organisation's home also what awaits its word."""
    from fedveil_cli import roster_commands
    from fedveil_cli.consent_commands import House

    output, folder = Output(as_json), options.home_folder(home)
    roster_commands.show(House(folder, socket, policy, passphrase_file, output), output)


def confirm(
    words: Annotated[
        str, typer.Option("--words", metavar="WORDS", help="The roster's six words, as the operator read them out.")
    ],
    socket: Socket = None,
    policy: PolicyFile = None,
    passphrase_file: PassphraseFile = None,
    home: Home = None,
    as_json: AsJson = False,
) -> None:
    """Say that this organisation has heard of every member: under `roster: confirm` no input is given before."""
    from fedveil_cli import roster_commands
    from fedveil_cli.consent_commands import House

    output, folder = Output(as_json), options.home_folder(home)
    roster_commands.confirm(House(folder, socket, policy, passphrase_file, output), words, output)
