"""The masking key: made, and found where the rules say (`key_ref`).

Promise: the key is printed nowhere; a file that others may read is refused; a variable of the environment is deleted
when it was read, so that no process started from here inherits it, and a person is told to use a file or credential.
"""

import os
import pathlib
import stat

from fedveil_common.errors import ConfigError, StorageError
from fedveil_common.ports import Entropy
from fedveil_participant.masking import KeyReference, MaskingKey, parse_key_reference
from fedveil_participant.masking.keys import MAX_KEY_BYTES

from fedveil_cli.files import read_file
from fedveil_cli.output import Output
from fedveil_cli.passphrases import CREDENTIALS
from fedveil_cli.world import real_world

KEY_BYTES = 32


def find_key(key_ref: str | None, rules_file: pathlib.Path, output: Output) -> MaskingKey | None:
    """The key that `key_ref` names; None without one. A path is relative to the folder of the rules.

    ConfigError `masking_key_missing`, `masking_key_exposed`, `masking_key_short`, `masking_key_weak`,
    `file_unreadable`.
    """
    if key_ref is None:
        return None
    reference = parse_key_reference(key_ref)
    match reference.kind:
        case "env":
            return _from_environment(reference, output)
        case "file":
            return _from_file(rules_file.parent / reference.name)
        case _:
            folder = os.environ.get(CREDENTIALS)
            if not folder:
                raise missing(f"no credentials were given to this process ({CREDENTIALS} is not set)")
            return _from_file(pathlib.Path(folder, reference.name))


def _from_environment(reference: KeyReference, output: Output) -> MaskingKey:
    value = os.environb.pop(os.fsencode(reference.name), None)
    if value is None:
        raise missing(f"the environment has no {reference.name}")
    output.warn(
        f"the masking key came from the environment ({reference.name}): it was deleted there, but other programs of "
        "this user could read it; use file: or credential:"
    )
    return MaskingKey(_without_line_end(value))


def _from_file(path: pathlib.Path) -> MaskingKey:
    data = read_file(path, "the masking key", MAX_KEY_BYTES + 2)
    found = path.stat()
    if not stat.S_ISREG(found.st_mode) or found.st_mode & (stat.S_IRWXG | stat.S_IRWXO):
        raise ConfigError(
            "masking_key_exposed",
            f"the masking key {str(path)!r} is open to others than its owner",
            not_done="nothing was masked",
            next_step="chmod 600; if others may have read it, make another one",
        )
    return MaskingKey(_without_line_end(data))


def _without_line_end(data: bytes) -> bytes:
    """A text file ends in a line end that is no part of the key; random bytes may end in one that is."""
    return data.rstrip(b"\r\n") if data.isascii() and data.rstrip(b"\r\n").decode().isprintable() else data


def missing(what: str) -> ConfigError:
    """`masking_key_missing`: `what` says where it was looked for."""
    return ConfigError(
        "masking_key_missing",
        what,
        not_done="nothing was masked",
        next_step="put the key where `key_ref` of the rules says; `fedveil data masking-key --out FILE` makes one",
    )


def make_key(out: pathlib.Path, output: Output) -> None:
    """`data masking-key`: 64 hex digits in a file of its owner alone. ConfigError `file_exists`; StorageError."""
    made = _new_key(real_world().entropy)
    try:
        with os.fdopen(os.open(out, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as stream:
            stream.write(made + b"\n")
            stream.flush()
            os.fsync(stream.fileno())
    except FileExistsError:
        raise ConfigError(
            "file_exists", f"{out} exists", not_done="no key was made", next_step="name another --out"
        ) from None
    except OSError as error:
        raise StorageError(
            "file_unwritable",
            f"the masking key {str(out)!r} cannot be written: {error.strerror or type(error).__name__}",
            not_done="no key was made",
            next_step="check the folder, who may write there, and free space",
        ) from None
    key_id = MaskingKey(made).key_id
    output.result(
        {"key": str(out), "key_id": key_id}, [f"masking key {out}: keep it and back it up", f"key id {key_id}"]
    )


def _new_key(entropy: Entropy) -> bytes:
    return entropy.take(KEY_BYTES).hex().encode()
