"""Key derivation: one secret in, one 32-byte key out, for exactly one named use.

Invariant: label and fields enter `info` injectively, so keys of two uses are independent. No default salt, no default
info. Source: FLSA/1 section 2.1 (docs/protocol.md); HKDF-SHA256 of RFC 5869.
"""

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from fedveil_common.crypto.labels import labelled

KEY_BYTES = 32


def derive(salt: bytes, secret: bytes, label: str, *fields: bytes) -> bytes:
    """KDF(salt, secret, label, fields): HKDF-SHA256 to 32 bytes with info = LP("FLSA/1/"+label) || LP(f1) || ...

    `salt` is public (a transcript hash), `secret` may be non-uniform (an X25519 output). The key is for the holder of
    `secret` only.
    """
    kdf = HKDF(algorithm=hashes.SHA256(), length=KEY_BYTES, salt=salt, info=labelled(label, *fields))
    return kdf.derive(secret)
