"""A sealed file of leaves, written from docs/storage.md alone: HKDF and AES-GCM from their specifications."""

import struct
import zlib

from tests.reference.aes import gcm_seal
from tests.reference.flsa import kdf


def made(salt: bytes, key: bytes, context: list[bytes], trailer: bytes, leaves: list[bytes]) -> bytes:
    """The bytes of the file; `trailer`: the 20 bytes of the shape."""
    own = kdf(salt, key, "storage/leaves", *context)
    checks = b"".join(struct.pack("<I", zlib.crc32(leaf)) for leaf in leaves)
    nonces = [bytes(4) + struct.pack(">Q", index) for index in range(len(leaves) + 1)]
    sealed = [gcm_seal(own, nonce, text, trailer) for nonce, text in zip(nonces, [*leaves, checks], strict=True)]
    return salt + b"".join(sealed) + trailer + b"FVREST01"
