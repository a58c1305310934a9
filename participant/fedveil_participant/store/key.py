"""The journal key: the one secret outside the journal, in a file for its owner alone, in clear or under a passphrase.

Promise: without this file the journal's secrets (stages, protocol key, updates) cannot be read; no journal key, no
protocol key, no attempt. A file that others may read is refused. Passphrase: scrypt (RFC 7914), then AES-256-GCM.
"""

import json
from pathlib import Path

from cryptography.hazmat.primitives.kdf.scrypt import Scrypt
from fedveil_common import durable
from fedveil_common.crypto import aead
from fedveil_common.crypto.labels import labelled
from fedveil_common.errors import ConfigError, IntegrityError, SealedError, StorageError
from fedveil_common.pki import sealed_keys
from fedveil_common.ports import Entropy
from fedveil_common.secret import Passphrase, Seed

FILE = "journal.key"
SCRYPT_N, SCRYPT_R, SCRYPT_P = 1 << 15, 8, 1
_LARGEST_N = 1 << 20
_NONCE = bytes(aead.NONCE_BYTES)  # the key is derived under a fresh salt, so it seals one message


def make_journal_key(home: Path, passphrase: Passphrase | None, entropy: Entropy) -> Seed:
    """A new journal key, durable in `home`. ConfigError `journal_key_exists`: an old key is never replaced."""
    path = home / FILE
    if path.exists():
        raise ConfigError("journal_key_exists", f"{path} exists already", next_step="use it, or another --home")
    key = Seed(entropy.take(32))
    durable.make_folder(home)
    _write(path, key, passphrase, entropy)
    return key


def seal_journal_key(home: Path, passphrase: Passphrase, entropy: Entropy) -> bool:
    """Puts the journal key of `home` under `passphrase` if it is in clear; whether it was. Errors as `journal_key`, and
    ConfigError `weak_passphrase`.

    The key stays the same: a copy of the file from before still opens the journal. Hold the `FolderLock` of `home`.
    """
    try:
        key = journal_key(home, None)
    except SealedError as error:
        if error.code == "passphrase_missing":
            return False
        raise
    if len(passphrase.expose()) < sealed_keys.MIN_PASSPHRASE:
        raise ConfigError(
            "weak_passphrase",
            f"the passphrase has fewer than {sealed_keys.MIN_PASSPHRASE} bytes",
            not_done=f"{home / FILE} is in clear as before",
            next_step="choose a longer one, for example six words",
        )
    _write(home / FILE, key, passphrase, entropy)
    return True


def _write(path: Path, key: Seed, passphrase: Passphrase | None, entropy: Entropy) -> None:
    if passphrase is None:
        content: dict[str, object] = {"version": 1, "key": key.expose().hex()}
    else:
        salt = entropy.take(32)
        wrapping = _stretch(passphrase, salt, SCRYPT_N, SCRYPT_R, SCRYPT_P)
        content = {
            "version": 1,
            "scrypt": {"n": SCRYPT_N, "r": SCRYPT_R, "p": SCRYPT_P, "salt": salt.hex()},
            "sealed": aead.seal(wrapping, _NONCE, key.expose(), labelled("journal/key")).hex(),
        }
    durable.write_file(path, json.dumps(content).encode("ascii"))


def journal_key(home: Path, passphrase: Passphrase | None) -> Seed:
    """The journal key of `home`. The file is never changed.

    SealedError `no_journal_key`, `passphrase_missing`, `passphrase_wrong`; ConfigError `key_file_exposed` if others may
    read it, `key_not_sealed` if it is in clear and a passphrase is given; StorageError `key_file_damaged`.
    """
    path = home / FILE
    if not path.exists():
        raise SealedError(
            "no_journal_key",
            f"{path} does not exist",
            not_done="the journal was not opened and no attempt is joined",
            next_step="ask the operator for `fedveil invite ORG --rekey`, then `fedveil join` with another --home",
        )
    with durable.storing(path):
        mode, text = path.stat().st_mode & 0o077, path.read_bytes()
    if mode:
        raise ConfigError("key_file_exposed", f"others may read {path}", next_step=f"chmod 600 {path}")
    try:
        content = json.loads(text)
        if "key" in content:
            return _in_clear(Seed(bytes.fromhex(content["key"])), path, passphrase)
        costs, sealed = content["scrypt"], bytes.fromhex(content["sealed"])
        salt, n, r, p = bytes.fromhex(costs["salt"]), int(costs["n"]), int(costs["r"]), int(costs["p"])
        if n > _LARGEST_N or r != SCRYPT_R or p != SCRYPT_P:
            raise ValueError("costs")
    except (ValueError, KeyError, TypeError) as error:
        raise StorageError(
            "key_file_damaged",
            f"{path} is not a journal key",
            next_step="ask the operator for `fedveil invite ORG --rekey`, then `fedveil join` with another --home",
        ) from error
    if passphrase is None:
        raise SealedError("passphrase_missing", f"{path} is under a passphrase", next_step="give --passphrase-file")
    try:
        return Seed(aead.open_sealed(_stretch(passphrase, salt, n, r, p), _NONCE, sealed, labelled("journal/key")))
    except IntegrityError as error:
        raise SealedError(
            "passphrase_wrong",
            f"the passphrase does not open {path}",
            not_done="the journal was not opened",
            next_step="try again; the file was not changed",
        ) from error


def _in_clear(key: Seed, path: Path, passphrase: Passphrase | None) -> Seed:
    if passphrase is not None:  # whoever gives one believes that the key is sealed
        raise ConfigError(
            "key_not_sealed",
            f"a passphrase was given and {path} is in clear",
            next_step="`fedveil participate --passphrase-file FILE` seals it; without a passphrase it opens as it is",
        )
    return key


def _stretch(passphrase: Passphrase, salt: bytes, n: int, r: int, p: int) -> bytes:
    return Scrypt(salt=salt, length=aead.KEY_BYTES, n=n, r=r, p=p).derive(passphrase.expose())
