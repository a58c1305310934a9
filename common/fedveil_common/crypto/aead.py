"""Authenticated encryption: AES-256-GCM. Either the exact plaintext comes out or an error does.

Invariant: a key belongs to one message (it is derived under a transcript hash and both names), so a nonce cannot repeat
under it. Source: NIST SP 800-38D; FLSA/1 section 2.3, M3 (docs/protocol.md).
"""

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from fedveil_common.errors import IntegrityError

KEY_BYTES = 32
NONCE_BYTES = 12
TAG_BYTES = 16


def seal(key: bytes, nonce: bytes, plaintext: bytes | bytearray | memoryview, aad: bytes) -> bytes:
    """Ciphertext followed by the 16-byte tag. 32-byte key, 12-byte nonce; ValueError otherwise."""
    _check_key(key)
    if len(nonce) != NONCE_BYTES:
        raise ValueError(f"a nonce is {NONCE_BYTES} bytes, not {len(nonce)}")
    return AESGCM(key).encrypt(nonce, plaintext, aad)


def open_sealed(key: bytes, nonce: bytes, ciphertext: bytes, aad: bytes) -> bytes:
    """The plaintext; raises IntegrityError `aead_failed` for a wrong key, nonce, ciphertext or associated data."""
    _check_key(key)
    if len(nonce) != NONCE_BYTES or len(ciphertext) < TAG_BYTES:  # both come from outside
        raise IntegrityError(
            "aead_failed", f"{len(nonce)} bytes of nonce and {len(ciphertext)} of ciphertext cannot open"
        )
    try:
        return AESGCM(key).decrypt(nonce, ciphertext, aad)
    except InvalidTag as error:
        raise IntegrityError("aead_failed", "a ciphertext does not authenticate") from error


def _check_key(key: bytes) -> None:
    if len(key) != KEY_BYTES:  # AESGCM would also take AES-128 keys
        raise ValueError(f"a key is {KEY_BYTES} bytes, not {len(key)}")
