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
    durable.make_folder(home)
    durable.write_file(path, json.dumps(content).encode("ascii"))
    return key


def journal_key(home: Path, passphrase: Passphrase | None) -> Seed:
    """The journal key of `home`. SealedError `no_journal_key`, `passphrase_missing`, `passphrase_wrong`; ConfigError
    `key_file_exposed` if others may read it; StorageError `key_file_damaged`. The file is never changed.
    """
    path = home / FILE
    if not path.exists():
        raise SealedError(
            "no_journal_key",
            f"{path} does not exist",
            not_done="the journal was not opened and no attempt is joined",
            next_step="restore the file, or ask the operator for `fedveil invite ORG --rekey` and join again",
        )
    with durable.storing(path):
        mode, text = path.stat().st_mode & 0o077, path.read_bytes()
    if mode:
        raise ConfigError("key_file_exposed", f"others may read {path}", next_step=f"chmod 600 {path}")
    try:
        content = json.loads(text)
        if "key" in content:
            return Seed(bytes.fromhex(content["key"]))
        costs, sealed = content["scrypt"], bytes.fromhex(content["sealed"])
        salt, n, r, p = bytes.fromhex(costs["salt"]), int(costs["n"]), int(costs["r"]), int(costs["p"])
        if n > _LARGEST_N or r != SCRYPT_R or p != SCRYPT_P:
            raise ValueError("costs")
    except (ValueError, KeyError, TypeError) as error:
        raise StorageError("key_file_damaged", f"{path} is not a journal key", next_step="restore it") from error
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


def _stretch(passphrase: Passphrase, salt: bytes, n: int, r: int, p: int) -> bytes:
    return Scrypt(salt=salt, length=aead.KEY_BYTES, n=n, r=r, p=p).derive(passphrase.expose())
