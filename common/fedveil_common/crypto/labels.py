"""Every label that enters a hash, a key derivation or a signature, and the two encodings that carry them.

Source: FLSA/1 section 2.1 (docs/protocol.md). A label names one use; two uses never share one.
`LP(b) = u32be(len b) || b`; `H(label, f1..fk) = SHA-256(LP("FLSA/1/"+label) || LP(f1) || .. || LP(fk))`.
"""

import hashlib

PREFIX = "FLSA/1/"


def lp(data: bytes) -> bytes:
    """Length-prefixed bytes: u32 big-endian length, then the bytes."""
    return len(data).to_bytes(4, "big") + data


def u16(value: int) -> bytes:
    """u16 big-endian."""
    return value.to_bytes(2, "big")


def u32(value: int) -> bytes:
    """u32 big-endian."""
    return value.to_bytes(4, "big")


def u64(value: int) -> bytes:
    """u64 big-endian."""
    return value.to_bytes(8, "big")


def labelled(label: str, *fields: bytes) -> bytes:
    """LP("FLSA/1/"+label) || LP(f1) || ...: injective in label and fields."""
    return lp((PREFIX + label).encode("ascii")) + b"".join(lp(field) for field in fields)


def h(label: str, *fields: bytes | bytearray | memoryview) -> bytes:
    """H(label, fields): 32 bytes. The fields are hashed where they lie; a memoryview is one of bytes."""
    digest = hashlib.sha256(lp((PREFIX + label).encode("ascii")))
    for field in fields:
        digest.update(len(field).to_bytes(4, "big"))
        digest.update(field)
    return digest.digest()
