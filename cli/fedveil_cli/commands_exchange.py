"""Commands that take a model to somebody else: `model seal|open|rewrap|card`, `model jws`, `model jwe`."""

import pathlib
from typing import Annotated

import typer

from fedveil_cli.options import AsJson, Home, PassphraseFile, StatusFile, example, home_folder
from fedveil_cli.output import Output

ModelFile = Annotated[pathlib.Path, typer.Argument(metavar="FILE", help="The model file.")]
SealedFile = Annotated[pathlib.Path, typer.Argument(metavar="SEALED", help="The sealed model.")]
TokenFile = Annotated[pathlib.Path, typer.Argument(metavar="TOKEN", help="The file that holds the token.")]
Out = Annotated[pathlib.Path, typer.Option("--out", metavar="FILE", help="Where it is written.")]
For = Annotated[
    list[pathlib.Path] | None,
    typer.Option("--for", metavar="PUBLIC", help="A recipient's public key (PEM: X25519, or RSA from 3072 bits)."),
]
Key = Annotated[
    pathlib.Path | None, typer.Option("--key", metavar="PRIVATE", help="The private key of one recipient (PEM).")
]
Fingerprint = Annotated[
    str | None, typer.Option("--fingerprint", metavar="HEX", help="The federation's (else that of the home).")
]


def register(group: typer.Typer) -> None:
    """Adds the commands to the group `model`."""
    seal_example = example("fedveil model seal sepsis.safetensors --for clinic.pub --out sepsis.sealed")
    group.command("seal", epilog=seal_example)(seal)
    open_example = example(
        "fedveil model open sepsis.sealed --key clinic.key --fingerprint 9f2c... --out sepsis.safetensors"
    )
    group.command("open", epilog=open_example)(open_)
    rewrap_example = example("fedveil model rewrap sepsis.sealed --key clinic.key --for lab.pub --out for-lab.sealed")
    group.command("rewrap", epilog=rewrap_example)(rewrap)
    group.command("card", epilog=example("fedveil model card sepsis.safetensors --out card.md"))(card)
    sign_example = example("fedveil model jws sign sepsis.safetensors --out sepsis.jws")
    jws = typer.Typer(help="The signed manifest as a JWS (RFC 7515).", epilog=sign_example)
    jws.command("sign", epilog=sign_example)(jws_sign)
    jws.command("verify", epilog=example("fedveil model jws verify sepsis.jws sepsis.safetensors"))(jws_verify)
    group.add_typer(jws, name="jws")
    wrap_example = example("fedveil model jwe wrap sepsis.sealed --key clinic.key --for lab.pub --out lab.jwe")
    jwe = typer.Typer(help="The key of a sealed model as a JWE (RFC 7516).", epilog=wrap_example)
    jwe.command("wrap", epilog=wrap_example)(jwe_wrap)
    jwe_example = example("fedveil model jwe open lab.jwe sepsis.sealed --key lab.key --out sepsis.safetensors")
    jwe.command("open", epilog=jwe_example)(jwe_open)
    group.add_typer(jwe, name="jwe")


def seal(
    file: ModelFile, out: Out, to: For = None, passphrase_file: PassphraseFile = None, as_json: AsJson = False
) -> None:
    """Seal a model file for recipients, or, without --for, under a passphrase that alone opens it."""
    from fedveil_cli import model_sealing

    model_sealing.seal(file, out, to or [], passphrase_file, Output(as_json))


def open_(
    file: SealedFile,
    out: Out,
    key: Key = None,
    status: StatusFile = None,
    fingerprint: Fingerprint = None,
    passphrase_file: PassphraseFile = None,
    home: Home = None,
    as_json: AsJson = False,
) -> None:
    """Open a sealed model. It is written if its signatures verify and it was not withdrawn, or not at all."""
    from fedveil_cli import model_files, model_opening

    folder = home_folder(home)
    expected = model_files.expected_fingerprint(fingerprint, folder)
    asked = model_files.Asked.now(folder, status)
    model_opening.open_file(file, out, key, expected, passphrase_file, Output(as_json), asked)


def rewrap(
    file: SealedFile,
    out: Out,
    to: For = None,
    key: Key = None,
    reencrypt: Annotated[
        bool, typer.Option("--reencrypt", help="Under a new data key: earlier recipients cannot open the new file.")
    ] = False,
    passphrase_file: PassphraseFile = None,
    as_json: AsJson = False,
) -> None:
    """Give a sealed model other recipients; nothing of it is written in clear."""
    from fedveil_cli import model_sealing

    model_sealing.rewrap(file, out, to or [], key, reencrypt, passphrase_file, Output(as_json))


def card(
    model: Annotated[str, typer.Argument(metavar="FILE|RUN", help="A model file, or a run of this home.")],
    out: Annotated[pathlib.Path, typer.Option("--out", metavar="FILE", help="Where the card (Markdown) goes.")],
    status: StatusFile = None,
    fingerprint: Fingerprint = None,
    passphrase_file: PassphraseFile = None,
    home: Home = None,
    as_json: AsJson = False,
) -> None:
    """Write a model card from the signed file; of a run in the operator's home, with the run's record beside."""
    from fedveil_cli import model_cards, model_files
    from fedveil_cli.passphrases import journal_passphrase

    output, folder = Output(as_json), home_folder(home)
    expected = model_files.expected_fingerprint(fingerprint, folder)
    asked = model_files.Asked.now(folder, status)
    if not model_cards.is_run(model):
        model_cards.of_file(pathlib.Path(model), out, expected, output, asked)
        return
    passphrase = journal_passphrase(folder, passphrase_file, output)
    model_cards.of_run(model, out, expected, passphrase, output, asked)


def jws_sign(file: ModelFile, out: Out, status: StatusFile = None, home: Home = None, as_json: AsJson = False) -> None:
    """Sign a model's manifest as a JWS, in the home of the operator whose coordinator signed the model."""
    from fedveil_cli import model_files, model_tokens

    model_tokens.jws_sign(file, out, Output(as_json), model_files.Asked.now(home_folder(home), status))


def jws_verify(
    token: TokenFile,
    file: ModelFile,
    status: StatusFile = None,
    fingerprint: Fingerprint = None,
    home: Home = None,
    as_json: AsJson = False,
) -> None:
    """Verify a JWS against the model file whose manifest it carries, both from the fingerprint on."""
    from fedveil_cli import model_files, model_tokens

    folder = home_folder(home)
    expected = model_files.expected_fingerprint(fingerprint, folder)
    model_tokens.jws_verify(token, file, expected, Output(as_json), model_files.Asked.now(folder, status))


def jwe_wrap(
    file: SealedFile,
    to: Annotated[
        pathlib.Path, typer.Option("--for", metavar="PUBLIC", help="The recipient's public key (PEM, as of `seal`).")
    ],
    out: Out,
    key: Key = None,
    passphrase_file: PassphraseFile = None,
    as_json: AsJson = False,
) -> None:
    """Wrap the key of a sealed model, and the file's digest, in a JWE for one more recipient."""
    from fedveil_cli import model_tokens

    model_tokens.jwe_wrap(file, out, to, key, passphrase_file, Output(as_json))


def jwe_open(
    token: TokenFile,
    file: SealedFile,
    key: Annotated[pathlib.Path, typer.Option("--key", metavar="PRIVATE", help="The recipient's private key (PEM).")],
    out: Out,
    status: StatusFile = None,
    fingerprint: Fingerprint = None,
    passphrase_file: PassphraseFile = None,
    home: Home = None,
    as_json: AsJson = False,
) -> None:
    """Open a sealed model by the key in a JWE, as `model open` does."""
    from fedveil_cli import model_files, model_tokens

    folder = home_folder(home)
    expected = model_files.expected_fingerprint(fingerprint, folder)
    asked = model_files.Asked.now(folder, status)
    model_tokens.jwe_open(token, file, out, key, expected, passphrase_file, Output(as_json), asked)
