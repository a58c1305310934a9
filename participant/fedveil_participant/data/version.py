"""The version of a data set: a keyed digest of its rows that does not depend on their order or on the file's format.

Promise: the same multiset of typed rows under the same key gives the same 32 bytes, whatever the order of rows and
columns; any other multiset a different one. Rows are taken BEFORE masking, clamping, filling and dropping. The key
stays on this machine and so does the version: it keys the record of what was already opened over these rows (FLSA/1
A2). With it comes a sketch (`difference`), by which two versions that differ in few rows are told.
Source: multiset hash by addition of keyed digests modulo 2^256 (Clarke et al. 2003, MSet-Add-Hash).
"""

import hashlib
import hmac

from fedveil_participant.data.difference import SketchSums

MODULUS = 2**256


class VersionDigest:
    """Accumulates rows; O(1) memory."""

    def __init__(self, key: bytes) -> None:
        if len(key) != 32:
            raise ValueError("the version key is 32 bytes")
        self._keyed = hmac.new(key, digestmod=hashlib.sha256)
        self._total = 0
        self._sketch = SketchSums()

    def add(self, row: bytes) -> None:
        """One row as the RFC 8785 JSON object {column: value}: every column of the table, whatever a plan reads."""
        keyed = self._keyed.copy()
        keyed.update(row)
        digest = keyed.digest()
        self._total = (self._total + int.from_bytes(digest, "big")) % MODULUS
        self._sketch.add(digest)

    def digest(self) -> bytes:
        """The version so far: 32 bytes. Never leaves this machine."""
        return self._total.to_bytes(32, "big")

    def sketch(self) -> bytes:
        """The sketch so far. Never leaves this machine."""
        return self._sketch.sketch()
