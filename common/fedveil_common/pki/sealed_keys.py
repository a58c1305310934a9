"""Keys at rest under a passphrase, and files of mode 0600.

Promise: without the passphrase a sealed file yields nothing and is not touched; a file that others may read is refused
before it is used. Format: JSON {format, kdf, n, r, p, salt, nonce, ciphertext}; scrypt (RFC 7914) with n = 2^17, r = 8,
p = 1 (128 MB, about 0.4 s) and AES-256-GCM over the PKCS#8 or raw key, with the format and the file's purpose as
associated data. Parameters beyond 2^18 are refused before deriving.
"""

import os
import pathlib
import stat

from cryptography.hazmat.primitives.kdf.scrypt import Scrypt

from fedveil_common import jcs
from fedveil_common.crypto import aead
from fedveil_common.crypto.labels import labelled
from fedveil_common.errors import ConfigError, FedveilError, IntegrityError, SealedError
from fedveil_common.named_file import descriptor
from fedveil_common.pki import documents
from fedveil_common.ports import Entropy
from fedveil_common.secret import Passphrase

FORMAT = "fedveil/sealed-key/v1"
COST = 2**17
MAX_COST = 2**18
MAX_SEALED = 64 * 1024
MIN_PASSPHRASE = 8
"""Bytes of a passphrase, at least."""


def seal_key(secret: bytes, passphrase: Passphrase, purpose: str, entropy: Entropy) -> bytes:
    """The sealed file's bytes. `purpose` ("authority", "governance") keeps one file from standing for another.

    Raises ConfigError `weak_passphrase` below 8 bytes.
    """
    check_passphrase(passphrase, purpose)
    salt, nonce = entropy.take(16), entropy.take(aead.NONCE_BYTES)
    key = _derive(passphrase, salt, COST)
    return jcs.dumps(
        {
            "ciphertext": aead.seal(key, nonce, secret, _aad(purpose)).hex(),
            "format": FORMAT,
            "kdf": "scrypt",
            "n": COST,
            "nonce": nonce.hex(),
            "p": 1,
            "r": 8,
            "salt": salt.hex(),
        }
    )


def check_passphrase(passphrase: Passphrase, purpose: str) -> None:
    """Returns if the passphrase is long enough to seal with; ConfigError `weak_passphrase` below 8 bytes."""
    if len(passphrase.expose()) < MIN_PASSPHRASE:
        raise ConfigError(
            "weak_passphrase",
            f"the {purpose} passphrase has fewer than {MIN_PASSPHRASE} bytes",
            next_step="choose a longer one, for example six words",
        )


def open_key(sealed: bytes, passphrase: Passphrase | None, purpose: str) -> bytes:
    """The key in a sealed file. Secret.

    Raises SealedError `passphrase_missing`, `passphrase_wrong` (or the file was altered: the two cannot be told apart);
    ConfigError `bad_key_file`. The file is not changed by any of them.
    """
    if passphrase is None or not passphrase.expose():
        raise SealedError(
            "passphrase_missing",
            f"the {purpose} key is sealed and no passphrase was given",
            not_done="the key stays sealed and nothing was started",
            next_step="give --passphrase-file or --governance-passphrase-file",
        )
    salt, nonce, ciphertext, cost = _parse(sealed, purpose)
    try:
        return aead.open_sealed(_derive(passphrase, salt, cost), nonce, ciphertext, _aad(purpose))
    except IntegrityError:
        raise SealedError(
            "passphrase_wrong",
            f"the passphrase does not open the {purpose} key, or its file was altered",
            not_done="the key stays sealed and its file is untouched",
            next_step="try the other passphrase; the authority and governance have one each",
        ) from None


def read_private(path: pathlib.Path, most: int = 1024 * 1024) -> bytes:
    """The bytes (at most `most`) of a file that only its owner may read.

    Raises ConfigError `key_missing` (no such file), `key_exposed` (others may read or write it), `key_unreadable`.
    """
    try:
        handle = descriptor(path, follow=False)
    except FileNotFoundError:
        raise ConfigError("key_missing", f"{path} does not exist", next_step="is this the right --home?") from None
    except OSError as error:
        raise ConfigError("key_unreadable", f"{path} cannot be read: {error.strerror}") from error
    with os.fdopen(handle, "rb") as file:
        mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
        if mode & 0o077:
            raise ConfigError(
                "key_exposed",
                f"{path} has mode {mode:04o}: others on this machine may have read it",
                next_step=f"chmod 600 {path}, and make a new key if anybody could",
            )
        return file.read(most)


def _parse(sealed: bytes, purpose: str) -> tuple[bytes, bytes, bytes, int]:
    """(salt, nonce, ciphertext, n); ConfigError `bad_key_file`."""
    names = {"ciphertext", "format", "kdf", "n", "nonce", "p", "r", "salt"}
    try:
        fields = documents.Fields(documents.canonical(sealed, "sealed key", MAX_SEALED), "sealed key", names)
        cost = fields.integer("n")
        known = (fields.value("format"), fields.value("kdf"), fields.value("r"), fields.value("p"))
        if known != (FORMAT, "scrypt", 8, 1) or not 2**10 <= cost <= MAX_COST or cost & (cost - 1):
            raise documents.bad("sealed key", "its parameters are not ours")
        ciphertext = bytes.fromhex(fields.text("ciphertext", MAX_SEALED))
        return fields.hex("salt", 16), fields.hex("nonce", aead.NONCE_BYTES), ciphertext, cost
    except (FedveilError, ValueError) as error:
        raise ConfigError(
            "bad_key_file", f"the {purpose} key file is not a sealed key", next_step="restore it from a backup"
        ) from error


def _derive(passphrase: Passphrase, salt: bytes, cost: int) -> bytes:
    return Scrypt(salt=salt, length=aead.KEY_BYTES, n=cost, r=8, p=1).derive(passphrase.expose())


def _aad(purpose: str) -> bytes:
    return labelled("sealed-key", FORMAT.encode(), purpose.encode())
