"""HPKE base mode, single shot (RFC 9180): DHKEM(X25519, HKDF-SHA256), HKDF-SHA256, AES-256-GCM; and what sealed files
put into `info`.
"""

import hashlib
import hmac

from tests.reference import aes, curves

KEM_ID, KDF_ID, AEAD_ID = 0x0020, 0x0001, 0x0002
_KEM = b"KEM" + KEM_ID.to_bytes(2, "big")
_SUITE = b"HPKE" + b"".join(one.to_bytes(2, "big") for one in (KEM_ID, KDF_ID, AEAD_ID))


def _extract(suite: bytes, salt: bytes, label: bytes, ikm: bytes) -> bytes:
    return hmac.digest(salt, b"HPKE-v1" + suite + label + ikm, "sha256")


def _expand(suite: bytes, prk: bytes, label: bytes, info: bytes, size: int) -> bytes:
    info = size.to_bytes(2, "big") + b"HPKE-v1" + suite + label + info
    made, block = b"", b""
    while len(made) < size:
        block = hmac.digest(prk, block + info + bytes([len(made) // 32 + 1]), "sha256")
        made += block
    return made[:size]


def seal(public: bytes, info: bytes, aad: bytes, text: bytes, ephemeral: bytes) -> bytes:
    """Section 6.1 with a given ephemeral key: enc and ciphertext, end to end."""
    enc = curves.x25519_public(ephemeral)
    prk = _extract(_KEM, b"", b"eae_prk", curves.x25519(ephemeral, public))
    shared = _expand(_KEM, prk, b"shared_secret", enc + public, 32)
    context = b"\0" + _extract(_SUITE, b"", b"psk_id_hash", b"") + _extract(_SUITE, b"", b"info_hash", info)
    secret = _extract(_SUITE, shared, b"secret", b"")
    key = _expand(_SUITE, secret, b"key", context, 32)
    nonce = _expand(_SUITE, secret, b"base_nonce", context, 12)
    return enc + aes.gcm_seal(key, nonce, text, aad)


def bound(way: str, kind: str, federation: str, name: str) -> bytes:
    """docs/sealing.md: the label, and kind, federation and object, each behind its length."""
    fields = (f"FLSA/1/sealing/{way}", kind, federation, name)
    return b"".join(len(one.encode()).to_bytes(4, "big") + one.encode() for one in fields)


def fingerprint_x25519(public: bytes) -> str:
    """SHA-256 of the SubjectPublicKeyInfo of RFC 8410."""
    return hashlib.sha256(bytes.fromhex("302a300506032b656e032100") + public).hexdigest()
