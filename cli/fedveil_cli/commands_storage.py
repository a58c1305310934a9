"""Commands about the coordinator's files at rest."""

import pathlib
from typing import Annotated

import typer
from fedveil_common.errors import ConfigError

from fedveil_cli.options import AsJson, Home, PassphraseFile, example, home_folder
from fedveil_cli.output import Output


def register(app: typer.Typer) -> None:
    """Adds the commands to `app`."""
    group = typer.Typer(help="The coordinator's files at rest.", epilog=example("fedveil storage show"))
    group.command("show", epilog=example("fedveil storage show --json"))(show)
    group.command("seal", epilog=example("fedveil storage seal --passphrase-file ca.txt"))(seal)
    group.command("rotate", epilog=example("fedveil storage rotate --passphrase-file ca.txt"))(rotate)
    group.command("open", epilog=example("fedveil storage open --passphrase-file ca.txt"))(open_)
    group.command("rewrap", epilog=example("fedveil storage rewrap --new-passphrase-file new.txt"))(rewrap)
    app.add_typer(group, name="storage")


def show(home: Home = None, as_json: AsJson = False) -> None:
    """Say whether the coordinator's files are sealed. Exit code 2: not as they must be for `serve`; it says why."""
    from fedveil_cli import storage_commands

    if not storage_commands.show(home_folder(home), Output(as_json)):
        raise typer.Exit(ConfigError.exit_code)


def seal(passphrase_file: PassphraseFile = None, home: Home = None, as_json: AsJson = False) -> None:
    """Seal opened sums, inputs and evidence at rest, now and from now on, under the passphrase of `serve`."""
    _order("seal", passphrase_file, home, as_json)


def rotate(passphrase_file: PassphraseFile = None, home: Home = None, as_json: AsJson = False) -> None:
    """Seal everything again under a new storage key."""
    _order("rotate", passphrase_file, home, as_json)


def open_(passphrase_file: PassphraseFile = None, home: Home = None, as_json: AsJson = False) -> None:
    """Put everything back into clear, and remove the storage key."""
    _order("open", passphrase_file, home, as_json)


def rewrap(
    new_passphrase_file: Annotated[
        pathlib.Path | None,
        typer.Option("--new-passphrase-file", metavar="FILE", help="The passphrase that opens the authority's key."),
    ] = None,
    passphrase_file: PassphraseFile = None,
    home: Home = None,
    as_json: AsJson = False,
) -> None:
    """Put the storage key under another passphrase, that of the authority in force: after `fedveil ca rotate`."""
    from fedveil_cli import storage_commands
    from fedveil_cli.passphrases import passphrase
    from fedveil_cli.world import real_world

    output = Output(as_json)
    old = passphrase(passphrase_file, "passphrase", "--passphrase-file", output)
    new = passphrase(new_passphrase_file, "new-passphrase", "--new-passphrase-file", output)
    storage_commands.rewrap(home_folder(home), old, new, real_world(), output)


def _order(name: str, passphrase_file: pathlib.Path | None, home: pathlib.Path | None, as_json: bool) -> None:
    from fedveil_coordinator import resting

    from fedveil_cli import storage_commands
    from fedveil_cli.passphrases import passphrase
    from fedveil_cli.world import real_world

    output = Output(as_json)
    orders = {"seal": resting.seal, "rotate": resting.rotate, "open": resting.unseal}
    given = passphrase(passphrase_file, "passphrase", "--passphrase-file", output)
    storage_commands.order(home_folder(home), orders[name], given, real_world(), output)
