"""`storage.key`: the key under which the coordinator's files rest, itself sealed under the passphrase of `serve`.

Promise: the file is replaced in one step and holds, while files are given another key, both: a conversion that was
interrupted is finished by the same command, and until then nothing is served. No file: nothing is sealed. Which key it
must be is on record in the database: a home whose file is gone, or is an earlier one, is not served.
"""

import pathlib
from dataclasses import dataclass

from fedveil_common import durable, jcs
from fedveil_common.crypto.kdf import derive
from fedveil_common.errors import ConfigError, SealedError
from fedveil_common.pki import sealed_keys
from fedveil_common.ports import Entropy
from fedveil_common.secret import Passphrase, Seed

FILE = "storage.key"
PURPOSE = "storage"


@dataclass(frozen=True, slots=True)
class StorageKeys:
    """`now`: under which files are to be (None: in clear). `converting`: some may still be as `before` says."""

    now: Seed | None
    before: Seed | None = None
    converting: bool = False


def exists(home: pathlib.Path) -> bool:
    """Whether anything in `home` is sealed."""
    return (home / FILE).exists()


def lying(home: pathlib.Path) -> bytes | None:
    """The file as it lies in `home`, sealed; None if there is none. StorageError."""
    with durable.storing(home / FILE):
        return (home / FILE).read_bytes() if exists(home) else None


def read(home: pathlib.Path, passphrase: Passphrase | None) -> StorageKeys:
    """The keys of `home`; those of a home without the file: none. Secret.

    SealedError `passphrase_missing`, `passphrase_wrong`; ConfigError `key_exposed`, `bad_key_file`.
    """
    if not exists(home):
        return StorageKeys(None)
    sealed = sealed_keys.read_private(home / FILE)
    try:
        secret = sealed_keys.open_key(sealed, passphrase, PURPOSE)
    except SealedError as error:
        if error.code != "passphrase_wrong":
            raise
        raise SealedError(
            error.code,
            error.what,
            not_done="nothing was opened, and its file is untouched",
            next_step="after `fedveil ca rotate` under another passphrase: `fedveil storage rewrap`, with the old one",
        ) from None
    try:
        members = jcs.loads(secret)
        if not isinstance(members, dict):
            raise TypeError
        return StorageKeys(_seed(members["now"]), _seed(members["before"]), members["converting"] is True)
    except (KeyError, TypeError, ValueError):
        raise ConfigError("bad_key_file", "storage.key holds no storage keys", not_done="nothing was opened") from None


def sealed(keys: StorageKeys, passphrase: Passphrase, entropy: Entropy) -> bytes | None:
    """The file of `keys` under `passphrase`; none at all: None, for no file. ConfigError `weak_passphrase`."""
    if keys == StorageKeys(None):
        return None
    secret = jcs.dumps({"before": _hex(keys.before), "converting": keys.converting, "now": _hex(keys.now)})
    return sealed_keys.seal_key(secret, passphrase, PURPOSE, entropy)


def put(home: pathlib.Path, file: bytes | None) -> None:
    """The file that `sealed` made is durable in its place, or there is none."""
    if file is None:
        durable.remove(home / FILE)
    else:
        durable.write_file(home / FILE, file)


def key_in_force(home: pathlib.Path, passphrase: Passphrase | None) -> Seed | None:
    """Under which the files of `home` are, all of them; None: in clear. Secret. Errors as `read`; ConfigError
    `storage_unfinished` while some are still otherwise.
    """
    keys = read(home, passphrase)
    if keys.converting:
        raise ConfigError(
            "storage_unfinished",
            "the files of this home are partly sealed: a `fedveil storage` command was interrupted",
            not_done="the coordinator did not start",
            next_step="give it again: that finishes it (`fedveil storage show` names it)",
        )
    return keys.now


def fingerprint(key: Seed | None) -> str:
    """By which a record names the key: 16 hex digits, of which nobody learns more than whether it is this one; empty
    for none.
    """
    return "" if key is None else derive(b"", key.expose(), "storage/key-name").hex()[:16]


def check_recorded(key: Seed | None, recorded: str) -> None:
    """Returns if `key` is the one that the record names: else files would be written in clear, or under a key that was
    given up, without anybody's word. ConfigError `storage_key_replaced`.
    """
    if fingerprint(key) != recorded:
        found = "the home has no storage.key" if key is None else f"storage.key holds {fingerprint(key)}"
        expected = f"files are sealed under the storage key {recorded}" if recorded else "files are in clear"
        raise ConfigError(
            "storage_key_replaced",
            f"on record, this home's {expected}, and {found}",
            not_done="the coordinator did not start",
            next_step="put the storage.key back that belongs to this database; if what lies here is right, "
            "`fedveil storage seal` puts it on record",
        )


def _hex(key: Seed | None) -> str:
    return "" if key is None else key.expose().hex()


def _seed(value: jcs.Json) -> Seed | None:
    if not isinstance(value, str):
        raise TypeError
    return Seed(bytes.fromhex(value)) if value else None
