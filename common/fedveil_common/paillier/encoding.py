"""How integers and fields enter a hash or the wire: two implementations that follow this write the same bytes.

Source: docs/paillier.md, "encodings" (G11). A label names one use; two uses never share one.
"""

import hashlib

import gmpy2

from fedveil_common.crypto.labels import lp

PREFIX = "fedveil/paillier/"

WORD_BYTES = 16
"""Challenges and weights have 128 bits."""


def integer(value: int, width: int) -> bytes:
    """I(v): big-endian, exactly `width` bytes. OverflowError if the value does not fit."""
    return int(value).to_bytes(width, "big")


def shortest(value: int) -> bytes:
    """Big-endian without leading zeros, one byte at least: numbers whose length says nothing. ValueError below 0."""
    if value < 0:
        raise ValueError("a number below zero has no such bytes")
    return int(value).to_bytes((int(value).bit_length() + 7) // 8 or 1, "big")


def number(data: bytes | memoryview) -> int:
    """The integer behind I(v)."""
    return gmpy2.mpz(int.from_bytes(data, "big"))  # type: ignore[no-any-return]


def hp(label: str, *fields: bytes) -> bytes:
    """Hp(label, f..) = SHA-256(LP("fedveil/paillier/" + label) || LP(f)...): 32 bytes, injective in all of it."""
    digest = hashlib.sha256(lp((PREFIX + label).encode("ascii")))
    for field in fields:
        digest.update(len(field).to_bytes(4, "big"))
        digest.update(field)
    return digest.digest()


def words(label: str, seed: bytes, count: int) -> list[int]:
    """XOF(label, seed, count): `count` integers of 128 bits, big-endian words of SHAKE256(LP(label) || LP(seed))."""
    stream = hashlib.shake_256(lp((PREFIX + label).encode("ascii")) + lp(seed)).digest(WORD_BYTES * count)
    return [number(stream[start : start + WORD_BYTES]) for start in range(0, len(stream), WORD_BYTES)]
