"""Keys of recipients as files: PEM, as OpenSSL writes them, so that a key made elsewhere serves too.

Promise: private keys are PKCS #8, sealed under a passphrase if one is given, and leave this module for a file of their
owner alone; a public key is a SubjectPublicKeyInfo. X25519, or RSA of 3072 bits and more. Source: RFC 5958, RFC 8410.
"""

from cryptography.exceptions import InternalError, UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey, RSAPublicKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey

from fedveil_common.errors import ConfigError, SealedError
from fedveil_common.ports import Entropy
from fedveil_common.sealing.recipients import LEAST_RSA_BITS, PrivateRecipient, PublicRecipient, check_public
from fedveil_common.secret import Passphrase

_UNREADABLE = (ValueError, UnsupportedAlgorithm, InternalError)
"""InternalError: OpenSSL's word for a key of another curve's length."""

_NEXT = "make one: fedveil data key --out NAME"


def new_x25519(entropy: Entropy) -> X25519PrivateKey:
    """From 32 fresh bytes."""
    return X25519PrivateKey.from_private_bytes(entropy.take(32))


def new_rsa(bits: int = LEAST_RSA_BITS) -> RSAPrivateKey:
    """By OpenSSL, from the operating system's generator. Takes up to a second."""
    return rsa.generate_private_key(65_537, bits)


def private_pem(key: PrivateRecipient, passphrase: Passphrase | None) -> bytes:
    """PKCS #8, encrypted if there is a passphrase. Secret otherwise."""
    sealed = (
        serialization.NoEncryption()
        if passphrase is None
        else serialization.BestAvailableEncryption(passphrase.expose())
    )
    return key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, sealed)


def public_pem(key: PublicRecipient) -> bytes:
    """What others seal for."""
    return key.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)


def read_public(pem: bytes, where: str) -> PublicRecipient:
    """ConfigError `bad_key_file`, `recipient_key_weak`."""
    try:
        key = serialization.load_pem_public_key(pem)
    except _UNREADABLE as error:
        raise _bad(where, "holds no public key in PEM") from error
    if not isinstance(key, RSAPublicKey | X25519PublicKey):
        raise _bad(where, "holds a public key that is neither X25519 nor RSA")
    check_public(key)
    return key


def read_private(pem: bytes, where: str, passphrase: Passphrase | None) -> PrivateRecipient:
    """ConfigError `bad_key_file`; SealedError `passphrase_missing`, `passphrase_wrong`."""
    try:
        key = serialization.load_pem_private_key(pem, None if passphrase is None else passphrase.expose())
    except TypeError as error:
        if passphrase is not None:  # given for a key in clear: nothing is wrong with the key
            return read_private(pem, where, None)
        raise SealedError(
            "passphrase_missing",
            f"the private key in {where} is under a passphrase",
            not_done="nothing was opened",
            next_step="--passphrase-file FILE",
        ) from error
    except _UNREADABLE as error:
        if passphrase is not None and b"ENCRYPTED" in pem:
            raise SealedError(
                "passphrase_wrong", f"the passphrase does not open the key in {where}", not_done="nothing was opened"
            ) from error
        raise _bad(where, "holds no private key in PEM") from error
    if not isinstance(key, RSAPrivateKey | X25519PrivateKey):
        raise _bad(where, "holds a private key that is neither X25519 nor RSA")
    return key


def _bad(where: str, why: str) -> ConfigError:
    return ConfigError("bad_key_file", f"{where} {why}", not_done="nothing was sealed or opened", next_step=_NEXT)
