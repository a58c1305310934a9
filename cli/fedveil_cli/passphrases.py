"""Where a passphrase comes from: a file, a systemd credential, or a person at a terminal; never an argument.

Promise: no passphrase is echoed, printed or put into an error; what is returned is a `Passphrase`.
"""

import getpass
import os
import pathlib
import stat
import sys

from fedveil_common.errors import FedveilError, SealedError
from fedveil_common.secret import Passphrase

from fedveil_cli.files import read_file
from fedveil_cli.output import Output

MAX_PASSPHRASE = 4096
"""Bytes; a longer file is some other file."""

CREDENTIALS = "CREDENTIALS_DIRECTORY"
"""Where systemd puts what LoadCredential= names."""


def passphrase(
    file: pathlib.Path | None, name: str, option: str, output: Output, *, confirm: bool = False
) -> Passphrase:
    """The passphrase from `file`, else from the credential `name`, else typed (twice with `confirm`).

    Raises SealedError `passphrase_missing` where nobody can be asked, `passphrase_unequal` if the two typed differ,
    `passphrase_not_text`; ConfigError `file_unreadable`.
    """
    found = given_passphrase(file, name, output)
    if found is not None:
        return found
    if not sys.stdin.isatty():
        raise _missing(f"no {name} was given and there is no terminal to ask at", option)
    return _typed(name, option, confirm=confirm)


def _typed(name: str, option: str, *, confirm: bool) -> Passphrase:
    typed = getpass.getpass(f"{name}: ")
    if confirm and getpass.getpass(f"{name} again: ") != typed:
        raise SealedError("passphrase_unequal", f"the two entries of the {name} differ", next_step="try again")
    return _passphrase(typed.encode("utf-8", "surrogateescape"), name, option)


def governance_passphrase(file: pathlib.Path | None, output: Output, *, confirm: bool = False) -> Passphrase:
    """The passphrase of the governance key, as `passphrase`."""
    return passphrase(file, "governance-passphrase", "--governance-passphrase-file", output, confirm=confirm)


def governance_passphrase_if_any(file: pathlib.Path | None, output: Output) -> Passphrase | None:
    """The passphrase of the governance key: given, or typed at a terminal, where nothing may be typed (None).

    None without a warning where nobody can be asked.
    """
    found = given_passphrase(file, "governance-passphrase", output)
    if found is not None or not sys.stdin.isatty():
        return found
    typed = getpass.getpass("governance-passphrase (empty: revoke at the coordinator only): ")
    if typed:
        option = "--governance-passphrase-file"
        return _passphrase(typed.encode("utf-8", "surrogateescape"), "governance-passphrase", option)
    output.warn("without the governance key the roster is not changed: the coordinator alone ends the membership")
    return None


def journal_passphrase(home: pathlib.Path, file: pathlib.Path | None, output: Output) -> Passphrase | None:
    """The passphrase of an organisation's journal key: given, or typed if the key in `home` is sealed under one.

    None where the key needs none, or nobody can be asked: opening the journal then says what is missing.
    """
    found = given_passphrase(file, "passphrase", output)
    if found is not None or not sys.stdin.isatty():
        return found
    from fedveil_participant.store import journal_key

    try:
        journal_key(home, None)
    except FedveilError as error:
        if error.code == "passphrase_missing":
            return _typed("passphrase", "--passphrase-file", confirm=False)
    return None


def given_passphrase(file: pathlib.Path | None, name: str, output: Output) -> Passphrase | None:
    """The passphrase from `file` or the credential `name`; None where neither was given. Nobody is asked."""
    folder = os.environ.get(CREDENTIALS)
    if file is None and folder:
        credential = pathlib.Path(folder, name)
        file = credential if credential.exists() else None
    if file is None:
        return None
    data = read_file(file, f"the {name} file", MAX_PASSPHRASE)
    status = file.stat()
    if stat.S_ISREG(status.st_mode) and status.st_mode & stat.S_IROTH:
        output.warn(f"every user of this machine may read the {name} file {str(file)!r}: chmod 600")
    return _passphrase(data.removesuffix(b"\n").removesuffix(b"\r"), name, f"a file with the {name}")


def _passphrase(data: bytes, name: str, option: str) -> Passphrase:
    if not data:
        raise _missing(f"the {name} is empty", option)
    try:
        data.decode()
    except UnicodeDecodeError:
        raise SealedError(
            "passphrase_not_text", f"the {name} is not UTF-8 text", next_step="give the file that holds the passphrase"
        ) from None
    return Passphrase(data)


def _missing(what: str, option: str) -> SealedError:
    return SealedError("passphrase_missing", what, next_step=f"give {option}")
