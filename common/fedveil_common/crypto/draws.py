"""Everything random in one event, expanded from one recorded seed.

A state machine is pure: the edge draws 32 bytes for an event, journals them with it, and the machine expands them here.
Invariant: equal seed, kind, label, size and fields give equal bytes (so a replay repeats every key and nonce); any
difference gives independent ones. Source: HKDF-SHA256 (RFC 5869) into AES-256-CTR.
"""

from fedveil_common.crypto.kdf import derive
from fedveil_common.crypto.labels import u64
from fedveil_common.crypto.prg import keystream
from fedveil_common.secret import PrivateKey, Seed

_Bytes = bytes
"""The type; inside the class `bytes` names the method."""


class Draws:
    """The draws of one event. Whoever holds the event's seed knows them all."""

    __slots__ = ("_seed",)

    def __init__(self, seed: Seed) -> None:
        self._seed = seed

    def bytes(self, label: str, size: int, *fields: _Bytes) -> _Bytes:
        """`size` uniform bytes for `label` and `fields`."""
        return keystream(self._key("bytes", label, u64(size), *fields), size)

    def seed(self, label: str, *fields: _Bytes) -> Seed:
        """A uniform seed."""
        return Seed(self._key("seed", label, *fields))

    def private_key(self, label: str, *fields: _Bytes) -> PrivateKey:
        """A private key for X25519 or Ed25519 (both take any 32 bytes)."""
        return PrivateKey(self._key("key", label, *fields))

    def below(self, label: str, bound: int, count: int, *fields: _Bytes) -> list[int]:
        """`count` integers, each exactly uniform on 0 .. bound-1 (rejection, never a remainder)."""
        if bound < 1 or count < 0:
            raise ValueError("draws need a positive bound and a count >= 0")
        bits = (bound - 1).bit_length()
        width = (bits + 7) // 8
        encoded = bound.to_bytes(width + 1, "big")
        drawn: list[int] = []
        block = 0
        while len(drawn) < count:
            # A bound just above a power of two rejects every second candidate: ask for twice what is missing.
            candidates = 2 * (count - len(drawn)) + 8
            stream = keystream(self._key("below", label, encoded, u64(count), u64(block), *fields), candidates * width)
            for at in range(0, len(stream), width) if width else range(candidates):
                value = int.from_bytes(stream[at : at + width], "big") & ((1 << bits) - 1)
                if value < bound and len(drawn) < count:
                    drawn.append(value)
            block += 1
        return drawn

    def _key(self, kind: str, label: str, *fields: _Bytes) -> _Bytes:
        return derive(b"", self._seed.expose(), "draw", kind.encode(), label.encode(), *fields)
