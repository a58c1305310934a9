"""Who can open a sealed file: the data key, wrapped for public keys, or for one passphrase and nobody else.

Promise: a wrapped key opens for this kind, federation and object alone: all three are bound into it. RSA-OAEP with
SHA-256 and keys of 3072 bits or more (RFC 8017); HPKE base mode, X25519, HKDF-SHA256, AES-256-GCM (RFC 9180); scrypt
with N = 2^17, r = 8, p = 1 (RFC 7914), whose parameters are refused above 2^18 before anything is derived. Wrapping
proves no sender: whoever has a public key can seal for it. Source: docs/sealing.md.
"""

import hashlib
from collections.abc import Sequence

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey, RSAPublicKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.hpke import AEAD, KDF, KEM, Suite
from cryptography.hazmat.primitives.kdf.scrypt import Scrypt
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from fedveil_common.crypto import aead
from fedveil_common.crypto.labels import labelled
from fedveil_common.errors import ConfigError, IntegrityError, PeerError, SealedError
from fedveil_common.ports import Entropy
from fedveil_common.sealing.header import Header, Slot, Subject
from fedveil_common.secret import Passphrase, Seed

RSA, HPKE, PASSPHRASE = "rsa-oaep-256", "hpke-x25519", "scrypt"
LEAST_RSA_BITS = 3072
LOG_N, MOST_LOG_N = 17, 18
_SALT_BYTES = 16

PublicRecipient = RSAPublicKey | X25519PublicKey
PrivateRecipient = RSAPrivateKey | X25519PrivateKey

_ANY = X25519PrivateKey.from_private_bytes(bytes([9]) * 32)
"""Agrees with every key that is somebody's. No secret."""

_SUITE = Suite(KEM.X25519, KDF.HKDF_SHA256, AEAD.AES_256_GCM)


def fingerprint(key: PublicRecipient) -> str:
    """SHA-256 of the key's SubjectPublicKeyInfo (DER), in hex: how a file names its recipient."""
    return hashlib.sha256(key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)).hexdigest()


def wrap_for(keys: Sequence[PublicRecipient], data_key: Seed, subject: Subject) -> tuple[Slot, ...]:
    """A slot for each key, which may stand there once. ConfigError `recipient_key_weak`, `recipient_twice`."""
    slots = tuple(_wrap(key, data_key, subject) for key in keys)
    if len({one.recipient for one in slots}) < len(slots):
        raise ConfigError("recipient_twice", "a recipient is named twice", next_step="name each key once")
    return slots


def wrap_passphrase(passphrase: Passphrase, data_key: Seed, subject: Subject, entropy: Entropy) -> tuple[Slot, ...]:
    """The only slot of a file that a passphrase opens."""
    salt = entropy.take(_SALT_BYTES)
    key = _scrypt(passphrase, salt, LOG_N)
    nonce = bytes(aead.NONCE_BYTES)  # the key is of this salt alone
    wrapped = aead.seal(key, nonce, data_key.expose(), _bound(PASSPHRASE, subject))
    return (Slot(PASSPHRASE, f"{LOG_N}/{salt.hex()}", wrapped),)


def unwrap(header: Header, key: PrivateRecipient) -> Seed:
    """The data key of a file, which `key` is a recipient of, once the header has passed its checks.

    SealedError `not_a_recipient`; PeerError `sealed_header_damaged`.
    """
    mine = fingerprint(key.public_key())
    slot = next((one for one in header.slots if one.recipient == mine and one.way == _way(key.public_key())), None)
    if slot is None:
        ways = "a passphrase" if header.slots[0].way == PASSPHRASE else "other keys"
        raise SealedError(
            "not_a_recipient",
            f"the file is sealed for {ways}, not for {mine[:16]}",
            not_done="nothing was opened",
            next_step="use the private key of one of its recipients; `fedveil data show` lists them",
        )
    return _checked(header, _open(key, slot, header.subject))


def unwrap_passphrase(header: Header, passphrase: Passphrase) -> Seed:
    """The data key of a file that a passphrase opens, once the header has passed its checks.

    SealedError `not_a_recipient`, `passphrase_wrong`; PeerError `sealed_header_damaged`.
    """
    slot = header.slots[0]
    if len(header.slots) != 1 or slot.way != PASSPHRASE:
        raise SealedError(
            "not_a_recipient",
            "the file is sealed for keys, not for a passphrase",
            not_done="nothing was opened",
            next_step="use the private key of one of its recipients: --key FILE",
        )
    log_n, salt = _parameters(slot)
    try:
        opened = aead.open_sealed(
            _scrypt(passphrase, salt, log_n), bytes(aead.NONCE_BYTES), slot.wrapped, _bound(PASSPHRASE, header.subject)
        )
    except IntegrityError:
        raise SealedError(
            "passphrase_wrong",
            "the passphrase does not open this file, or the file was changed",
            not_done="nothing was opened",
        ) from None
    return _checked(header, _data_key(opened))


def check_public(key: PublicRecipient) -> None:
    """ConfigError `recipient_key_weak` for RSA below LEAST_RSA_BITS or with an even modulus, and for a point of X25519
    whose order is low: whatever is agreed with that one, everybody knows.
    """
    if isinstance(key, RSAPublicKey):
        why = "" if key.public_numbers().n & 1 else "an RSA key with an even modulus is nobody's"
        if key.key_size < LEAST_RSA_BITS:
            why = f"an RSA key of {key.key_size} bits is too short, {LEAST_RSA_BITS} are needed"
    else:
        why = "" if _agrees(key) else "a public key of X25519 that is a point of low order is nobody's"
    if why:
        raise ConfigError(
            "recipient_key_weak",
            f"the public key protects nothing: {why}",
            not_done="nothing was sealed",
            next_step="make another: fedveil data key --out NAME",
        )


def _agrees(key: X25519PublicKey) -> bool:
    """Whether what is agreed with a key is anybody's secret: with a point of low order all agree on 32 zeros."""
    try:
        _ANY.exchange(key)
    except ValueError:
        return False
    return True


def _checked(header: Header, data_key: Seed) -> Seed:
    header.check(data_key)
    return data_key


def _way(key: PublicRecipient) -> str:
    return RSA if isinstance(key, RSAPublicKey) else HPKE


def _wrap(key: PublicRecipient, data_key: Seed, subject: Subject) -> Slot:
    check_public(key)
    way = _way(key)
    if isinstance(key, RSAPublicKey):
        wrapped = key.encrypt(data_key.expose(), _oaep(subject))
    else:
        wrapped = _SUITE.encrypt(data_key.expose(), key, info=_bound(HPKE, subject))
    return Slot(way, fingerprint(key), wrapped)


def _open(key: PrivateRecipient, slot: Slot, subject: Subject) -> Seed:
    try:
        if isinstance(key, RSAPrivateKey):
            return _data_key(key.decrypt(slot.wrapped, _oaep(subject)))
        return _data_key(_SUITE.decrypt(slot.wrapped, key, info=_bound(HPKE, subject)))
    except (ValueError, InvalidTag) as error:
        raise _unopened() from error


def _data_key(opened: bytes) -> Seed:
    if len(opened) != aead.KEY_BYTES:
        raise _unopened()
    return Seed(opened)


def _unopened() -> PeerError:
    return PeerError(
        "sealed_header_damaged",
        "the wrapped key does not open: it was changed, or made for another file",
        not_done="nothing was opened",
        next_step="take another copy of the file",
    )


def _oaep(subject: Subject) -> padding.OAEP:
    return padding.OAEP(padding.MGF1(hashes.SHA256()), hashes.SHA256(), _bound(RSA, subject))


def _bound(way: str, subject: Subject) -> bytes:
    return labelled(f"sealing/{way}", *subject.fields)


def _parameters(slot: Slot) -> tuple[int, bytes]:
    """Refused before anything is derived: a file must not cost its reader gigabytes."""
    log_n, _, salt = slot.recipient.partition("/")
    try:
        found, given = int(log_n), bytes.fromhex(salt)
    except ValueError:
        raise _unopened() from None
    if not 10 <= found <= MOST_LOG_N or len(given) != _SALT_BYTES or slot.recipient != f"{found}/{given.hex()}":
        raise PeerError(
            "sealed_parameters",
            f"the passphrase of the file is derived with parameters outside what is allowed (N = 2^{found})",
            not_done="nothing was derived or opened",
        )
    return found, given


def _scrypt(passphrase: Passphrase, salt: bytes, log_n: int) -> bytes:
    return Scrypt(salt=salt, length=aead.KEY_BYTES, n=1 << log_n, r=8, p=1).derive(passphrase.expose())
