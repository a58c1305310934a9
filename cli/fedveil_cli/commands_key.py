"""Commands about moduli and key pairs of Paillier encryption: `fedveil key`. These need no home."""

import enum
import pathlib
from typing import Annotated

import typer

from fedveil_cli import commands_key_holders
from fedveil_cli.options import AsJson, PassphraseFile, example
from fedveil_cli.output import Output


class Number(enum.Enum):
    """What `key adopt` knows."""

    RSA_2048 = "rsa-2048"


Bits = Annotated[
    int, typer.Option("--bits", metavar="N", help="Bits of the modulus: a multiple of 16 from 2048 to 8192.")
]
Exponent = Annotated[
    int | None,
    typer.Option("--s", metavar="S", help="Plaintexts of S times as many bits, 1 to 3 (else 1; 2 from 3072 bits)."),
]
Out = Annotated[pathlib.Path, typer.Option("--out", metavar="FILE", help="Where the file is written.")]
OutPublic = Annotated[
    pathlib.Path, typer.Option("--out-public", metavar="FILE", help="Where the public key is written.")
]


def register(app: typer.Typer) -> None:
    """Adds the commands to `app`."""
    group = typer.Typer(help="Moduli and keys of Paillier encryption.", epilog=example("fedveil key show modulus.json"))
    group.command("deal", epilog=example("fedveil key deal --bits 3072 --dealer notary --out modulus.json"))(deal)
    group.command("adopt", epilog=example("fedveil key adopt rsa-2048 --out modulus.json"))(adopt)
    group.command("show", epilog=example("fedveil key show modulus.json --json"))(show)
    pair_example = example("fedveil key pair --bits 3072 --out-private own.key --out-public own.pub")
    group.command("pair", epilog=pair_example)(pair)
    import_example = example("fedveil key import-phe phe.json --out-private own.key --out-public own.pub")
    group.command("import-phe", epilog=import_example)(import_phe)
    export_example = example(
        "fedveil key export-phe own.pub --out phe.json", "fedveil key export-phe own.key --private --out phe.json"
    )
    group.command("export-phe", epilog=export_example)(export_phe)
    commands_key_holders.register(group)
    app.add_typer(group, name="key")


def deal(
    out: Out,
    bits: Bits = 3072,
    s: Exponent = None,
    dealer: Annotated[
        str, typer.Option("--dealer", metavar="NAME", help="Who deals: a name of a-z, 0-9, - and _.")
    ] = "unnamed",
    signing_key: Annotated[
        pathlib.Path | None,
        typer.Option(
            "--signing-key", metavar="FILE", help="An Ed25519 key, PEM, mode 0600 (else one made for this record)."
        ),
    ] = None,
    passphrase_file: PassphraseFile = None,
    as_json: AsJson = False,
) -> None:
    """Deal a modulus: two safe primes, their product and its roots. Writes the signed record, never the primes."""
    from fedveil_cli import key_commands
    from fedveil_cli.world import real_world

    _check_halves(bits)
    key_commands.deal(out, bits, s, dealer, signing_key, passphrase_file, real_world(), Output(as_json))


def adopt(
    number: Annotated[Number, typer.Argument(metavar="rsa-2048", help="The challenge number of 2001.")],
    out: Out,
    s: Exponent = None,
    as_json: AsJson = False,
) -> None:
    """Write the record of a modulus that has no dealer, the same bytes for everybody."""
    from fedveil_cli import key_commands

    del number  # there is one
    key_commands.adopt(out, s, Output(as_json))


def show(
    file: Annotated[
        pathlib.Path, typer.Argument(metavar="FILE", help="A record of a modulus or key, terms, or a public key.")
    ],
    as_json: AsJson = False,
) -> None:
    """Check a record, terms or a public key, and show its length, s, where it comes from, and what to compare."""
    from fedveil_cli import key_commands

    key_commands.show(file, Output(as_json))


def pair(
    out_public: OutPublic,
    out_private: Annotated[
        pathlib.Path, typer.Option("--out-private", metavar="FILE", help="Where the sealed private key is written.")
    ],
    bits: Bits = 3072,
    s: Exponent = None,
    passphrase_file: PassphraseFile = None,
    as_json: AsJson = False,
) -> None:
    """Make an ordinary key pair: whoever holds the private key opens everything alone. For one operator and tests."""
    from fedveil_cli import key_commands
    from fedveil_cli.world import real_world

    _check_halves(bits)
    key_commands.pair(out_private, out_public, bits, s, passphrase_file, real_world(), Output(as_json))


def import_phe(
    file: Annotated[pathlib.Path, typer.Argument(metavar="FILE", help="A key that pheutil wrote.")],
    out_public: OutPublic,
    out_private: Annotated[
        pathlib.Path | None,
        typer.Option("--out-private", metavar="FILE", help="Where the sealed private key is written, if FILE is one."),
    ] = None,
    passphrase_file: PassphraseFile = None,
    as_json: AsJson = False,
) -> None:
    """Take over a key of python-paillier, public or private."""
    from fedveil_cli import key_commands
    from fedveil_cli.world import real_world

    key_commands.import_phe(file, out_private, out_public, passphrase_file, real_world(), Output(as_json))


def export_phe(
    file: Annotated[pathlib.Path, typer.Argument(metavar="FILE", help="A public key, or a private one.")],
    out: Out,
    private: Annotated[
        bool, typer.Option("--private", help="FILE is the private key; its factors are written in clear.")
    ] = False,
    passphrase_file: PassphraseFile = None,
    as_json: AsJson = False,
) -> None:
    """Write a key as python-paillier reads it."""
    from fedveil_cli import key_commands

    key_commands.export_phe(file, out, private, passphrase_file, Output(as_json))


def _check_halves(bits: int) -> None:
    if bits % 16:
        raise typer.BadParameter(f"{bits} is no multiple of 16: both primes have whole bytes", param_hint="--bits")
