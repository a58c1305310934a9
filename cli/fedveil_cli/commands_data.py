"""Commands about an organisation's data at rest: `fedveil data`. These need no home."""

import pathlib
from typing import Annotated

import typer

from fedveil_cli import commands_masking, reserved
from fedveil_cli.options import AsJson, PassphraseFile, example
from fedveil_cli.output import Output

File = Annotated[pathlib.Path, typer.Argument(metavar="FILE", help="The file.")]
SealedFile = Annotated[pathlib.Path, typer.Argument(metavar="FILE", help="The sealed file.")]
Out = Annotated[pathlib.Path, typer.Option("--out", metavar="FILE", help="Where it is written.")]
To = Annotated[
    list[pathlib.Path] | None,
    typer.Option("--to", metavar="PUBLIC", help="A recipient's public key (PEM: X25519, or RSA from 3072 bits)."),
]
Key = Annotated[
    pathlib.Path | None, typer.Option("--key", metavar="PRIVATE", help="The private key of one recipient (PEM).")
]
Name = Annotated[
    str | None, typer.Option("--name", metavar="NAME", help="What the file holds: a name of a-z, 0-9, - and _.")
]
Federation = Annotated[
    str | None, typer.Option("--federation", metavar="ID", help="The federation that it belongs to (else: local).")
]


def register(app: typer.Typer) -> None:
    """Adds the commands to `app`."""
    seal_example = example("fedveil data seal visits.csv --to analyst.pub --name visits --out visits.sealed")
    group = typer.Typer(help="Data at rest, sealed for its recipients.", epilog=seal_example)
    group.command("key", epilog=example("fedveil data key --out analyst", "fedveil data key --rsa --out analyst"))(key)
    group.command("seal", epilog=seal_example)(seal)
    group.command("open", epilog=example("fedveil data open visits.sealed --key analyst.key --out visits.csv"))(open_)
    rewrap_example = example(
        "fedveil data rewrap visits.sealed --key analyst.key --to auditor.pub --out for-audit.sealed"
    )
    group.command("rewrap", epilog=rewrap_example)(rewrap)
    group.command("show", epilog=example("fedveil data show visits.sealed"))(show)
    commands_masking.register(group)
    reserved.register(group, "data")
    app.add_typer(group, name="data")


def key(
    out: Annotated[pathlib.Path, typer.Option("--out", metavar="NAME", help="Written: NAME.key and NAME.pub.")],
    rsa: Annotated[bool, typer.Option("--rsa", help="RSA of 3072 bits instead of X25519.")] = False,
    passphrase_file: PassphraseFile = None,
    as_json: AsJson = False,
) -> None:
    """Make a recipient's pair of keys: the public one is for those who seal, the private one opens."""
    from fedveil_cli import sealing_commands

    sealing_commands.make_key(out, rsa, passphrase_file, Output(as_json))


def seal(
    file: File,
    out: Out,
    to: To = None,
    name: Name = None,
    federation: Federation = None,
    passphrase_file: PassphraseFile = None,
    as_json: AsJson = False,
) -> None:
    """Seal a file for recipients, or, without --to, under a passphrase that alone opens it."""
    from fedveil_cli import sealing_commands

    sealing_commands.seal(file, out, to or [], name, federation, passphrase_file, Output(as_json))


def open_(
    file: SealedFile,
    out: Out,
    key: Key = None,
    name: Name = None,
    federation: Federation = None,
    passphrase_file: PassphraseFile = None,
    as_json: AsJson = False,
) -> None:
    """Open a sealed file. It is written whole, after its last byte was verified, or not at all."""
    from fedveil_cli import sealing_commands

    sealing_commands.open_file(file, out, key, name, federation, passphrase_file, Output(as_json))


def rewrap(
    file: SealedFile,
    out: Out,
    to: To = None,
    key: Key = None,
    reencrypt: Annotated[
        bool, typer.Option("--reencrypt", help="Under a new data key: earlier recipients cannot open the new file.")
    ] = False,
    passphrase_file: PassphraseFile = None,
    as_json: AsJson = False,
) -> None:
    """Give a sealed file other recipients; nothing of it is written in clear."""
    from fedveil_cli import sealing_commands

    sealing_commands.rewrap(file, out, to or [], key, reencrypt, passphrase_file, Output(as_json))


def show(file: SealedFile, as_json: AsJson = False) -> None:
    """Show what a sealed file says that it holds, and for whom it is sealed. Nothing is verified without a key."""
    from fedveil_cli import sealing_commands

    sealing_commands.show(file, Output(as_json))
