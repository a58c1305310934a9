"""The options that commands share, and what their values mean.

Promise: `--home` and `--json` may stand before or after the command; the home is `--home`, else FEDVEIL_HOME, else
~/.fedveil. What a person writes as NAME=FILE, PLAN_HASH or TOKEN is either understood completely or refused.
"""

import getpass
import os
import pathlib
import re
import sys
from typing import Annotated

import typer
from fedveil_common.errors import ConfigError
from fedveil_common.ids import check_name
from fedveil_common.secret import Secret

from fedveil_cli.files import check_home, read_file
from fedveil_cli.output import Output

HOME = "FEDVEIL_HOME"
TOKEN_START = "fv1_"  # noqa: S105 - how a token begins, not a token
MAX_TOKEN = 4096
_HASH = re.compile(r"[0-9a-fA-F]{64}\Z")


def example(*lines: str) -> str:
    """The end of a command's help."""
    return "Example: " + "; ".join(lines)


def _json(context: typer.Context, value: bool) -> bool:
    return value or bool(context.find_root().params.get("as_json"))


def _home(context: typer.Context, value: pathlib.Path | None) -> pathlib.Path:
    named = value or context.find_root().params.get("home") or os.environ.get(HOME)
    return pathlib.Path(named) if named else pathlib.Path.home() / ".fedveil"


_JSON_HELP = "Print the result as one line of JSON on stdout."
_HOME_HELP = f"The folder that holds all state (else {HOME}, else ~/.fedveil)."

RootJson = Annotated[bool, typer.Option("--json", help=_JSON_HELP)]
RootHome = Annotated[pathlib.Path | None, typer.Option("--home", metavar="DIR", help=_HOME_HELP)]
AsJson = Annotated[bool, typer.Option("--json", callback=_json, help=_JSON_HELP)]
Home = Annotated[pathlib.Path | None, typer.Option("--home", metavar="DIR", callback=_home, help=_HOME_HELP)]
PassphraseFile = Annotated[
    pathlib.Path | None,
    typer.Option("--passphrase-file", metavar="FILE", help="Holds the passphrase (else credential or prompt)."),
]
GovernancePassphraseFile = Annotated[
    pathlib.Path | None,
    typer.Option(
        "--governance-passphrase-file", metavar="FILE", help="Holds the governance key's passphrase (else as above)."
    ),
]
StatusFile = Annotated[
    pathlib.Path | None,
    typer.Option("--status", metavar="FILE", help="The status list (else beside the model, or that of the home)."),
]


def home_folder(home: pathlib.Path | None) -> pathlib.Path:
    """What the callback of `Home` made of the option: always a folder's path, which need not exist.

    ConfigError `home_unusable` if something else than a folder is there.
    """
    if home is None:
        raise TypeError("the option --home lost its callback")
    check_home(home)
    return home


def dataset_files(texts: list[str]) -> dict[str, pathlib.Path]:
    """Data set name -> file, from NAME=FILE. Raises ConfigError `bad_data_option`, or `bad_name`."""
    found: dict[str, pathlib.Path] = {}
    for text in texts:
        name, equals, file = text.partition("=")
        if not equals or not file:
            raise ConfigError(
                "bad_data_option", f"--data {text!r} is not NAME=FILE", next_step="--data icu_stays=icu.csv"
            )
        if check_name(name, "the data set") in found:
            raise ConfigError(
                "bad_data_option", f"--data names {name!r} twice", next_step="give each data set one file"
            )
        found[name] = pathlib.Path(file)
    return found


def trainer_files(texts: list[str]) -> dict[str, tuple[pathlib.Path, bytes | None]]:
    """Trainer name -> its description and the digest that is approved, from NAME=CONFIG or NAME=CONFIG@DIGEST.

    ConfigError `bad_trainer_option`, or `bad_name`.
    """
    found: dict[str, tuple[pathlib.Path, bytes | None]] = {}
    for text in texts:
        name, equals, rest = text.partition("=")
        file, at, digest = rest.rpartition("@")
        approved = bytes.fromhex(digest) if at and _HASH.match(digest) else None
        path = file if approved is not None else rest
        if not equals or not path or check_name(name, "the trainer") in found:
            raise ConfigError(
                "bad_trainer_option",
                f"--trainer {text!r} is not NAME=CONFIG or NAME=CONFIG@DIGEST, or names a trainer twice",
                next_step="--trainer risk=trainer.toml",
            )
        found[name] = (pathlib.Path(path), approved)
    return found


NoIsolation = Annotated[
    str | None,
    typer.Option("--isolation", metavar="none", help="Let own trainers run where nothing keeps them apart."),
]


def without_isolation(text: str | None) -> bool:
    """Whether trainers may run without isolation: only by the word `none`. ConfigError `bad_isolation`."""
    if text not in {None, "none"}:
        raise ConfigError(
            "bad_isolation",
            f"--isolation {text!r} is not `none`: the best level there is, is found at start",
            next_step="leave --isolation out",
        )
    return text == "none"


def plan_hashes(texts: list[str]) -> frozenset[bytes]:
    """The 32 bytes of each plan hash. Raises ConfigError `bad_plan_hash` unless each is 64 hex digits."""
    for text in texts:
        if not _HASH.match(text):
            raise ConfigError(
                "bad_plan_hash",
                f"{text!r} is not the hash of a plan: 64 hex digits, all of them",
                not_done="no plan was accepted",
                next_step="`fedveil plan check PLAN` prints the hash; compare it with what the operator told you",
            )
    return frozenset(bytes.fromhex(text) for text in texts)


def fingerprint_bytes(text: str) -> bytes:
    """The 32 bytes of a fingerprint as `fedveil fingerprint` prints it: 64 hex digits, blanks and colons between them.

    Raises ConfigError `bad_fingerprint`: a part of a fingerprint is none.
    """
    digits = re.sub(r"[\s:]", "", text)
    if not _HASH.match(digits):
        raise ConfigError(
            "bad_fingerprint",
            f"{text!r} is not a fingerprint: 64 hex digits",
            next_step="ask the operator for all of what `fedveil fingerprint` prints",
        )
    return bytes.fromhex(digits)


def token_text(argument: str | None, output: Output) -> Secret:
    """The invitation's token: the argument itself, stdin for "-", a file, or what is pasted at a prompt.

    Raises ConfigError `token_missing` where there is none; whether it is a token is checked by who reads it.
    """
    if argument is None:
        if not sys.stdin.isatty():
            raise _no_token("no token was given and there is no terminal to ask at")
        text = getpass.getpass("token (fv1_..., not shown): ")
    elif argument == "-":
        text = sys.stdin.read(MAX_TOKEN)
    elif argument.startswith(TOKEN_START):
        output.warn(
            "the token now stands in the shell's history and in the list of processes; `fedveil join` asks for it"
        )
        text = argument
    else:
        text = read_file(pathlib.Path(argument), "the token file", MAX_TOKEN).decode("utf-8", "replace")
    if not text.strip():
        raise _no_token("the token is empty")
    return Secret(text.strip().encode("utf-8", "replace"))


def _no_token(what: str) -> ConfigError:
    return ConfigError(
        "token_missing",
        what,
        not_done="nothing was sent",
        next_step="`fedveil join` asks for the token, `fedveil join -` reads it from stdin, `join FILE` from a file",
    )
