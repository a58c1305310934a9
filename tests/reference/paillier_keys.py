"""Keys of Paillier protection from docs/paillier-keys.md alone: hashes, derivations, record, the proof of a list."""

import hashlib
from collections.abc import Iterator

from tests.reference.flsa import hkdf, lp

Set = tuple[int, ...]


class Text:
    """The terms as a person would write them down. `names` sorted, `keys` in their order."""

    def __init__(
        self, federation: str, key_id: str, n: int, s: int, width: int, bits: int, names: list[str], threshold: int
    ) -> None:
        self.n, self.width, self.bits, self.count, self.threshold = n, width, bits, len(names), threshold
        self.federation, self.key_id = federation.encode(), key_id.encode()
        self.octets = -(-n.bit_length() // 8)
        drawn = hashlib.shake_256(b"fedveil/paillier/base" + self.i(n)).digest(self.octets + 16)
        self.g = int.from_bytes(drawn, "big") ** 2 % n
        self.fields = [self.federation, self.key_id, self.i(n), bytes([s]), u(2, width), u(2, bits)]
        self.fields += [bytes([self.count]), bytes([threshold]), *(name.encode() for name in names), self.i(self.g)]
        self.head = lp(self.federation) + lp(self.key_id) + lp(self.i(n)) + bytes([s]) + u(2, width) + u(2, bits)
        self.head += bytes([self.count, threshold]) + b"".join(lp(name.encode()) for name in names)

    def i(self, value: int) -> bytes:
        """I(v)."""
        return value.to_bytes(self.octets, "big")

    def root(self, keys: list[bytes]) -> bytes:
        return hp("root", *self.fields, *keys)

    def fingerprint(self, epoch: int, lists: dict[Set, list[int]]) -> bytes:
        values = [part for one in sorted(lists) for part in (bytes(one), *map(self.i, lists[one]))]
        return hp("key", *self.fields, u(4, epoch), *values)

    def exponent(self, seed: bytes, epoch: int, one: Set, k: int) -> int:
        return int.from_bytes(hkdf(b"", seed, self._info("x", epoch, one) + u(4, k), 32), "big")

    def next_seed(self, seed: bytes, epoch: int, one: Set) -> bytes:
        return hkdf(b"", seed, self._info("next", epoch, one), 32)

    def list_of(self, seed: bytes, epoch: int, one: Set) -> list[int]:
        return [pow(self.g, self.exponent(seed, epoch, one, k), self.n) for k in range(self.width)]

    def proof_holds(self, root: bytes, epoch: int, one: Set, values: list[int], t: int, z: int) -> bool:
        """The equation of section 3; ranges are not looked at."""
        ctx = hp("ctx/holderkey", self.federation, self.key_id, u(4, epoch), bytes(one))
        digest = hp("holderkey", root, ctx, *map(self.i, values))
        seed = hp("holderkey/e", root, ctx, digest, self.i(t))
        stream = hashlib.shake_256(lp(b"fedveil/paillier/holderkey/e") + lp(seed)).digest(16 * self.width)
        right = t
        for k, value in enumerate(values):
            right = right * pow(value, int.from_bytes(stream[16 * k : 16 * k + 16], "big"), self.n) % self.n
        return pow(self.g, 2 * z, self.n) == right * right % self.n

    def proven_list(self, data: Iterator[int]) -> tuple[list[int], int, int]:
        """A list, T and z from the wire."""
        values = [take(data, self.octets) for _ in range(self.width)]
        return values, take(data, self.octets), take(data, (max(self.bits, 272) + 288 + 1 + 7) // 8)

    def _info(self, use: str, epoch: int, one: Set) -> bytes:
        label = f"fedveil/paillier/{use}".encode()
        return lp(label) + lp(self.federation) + lp(self.key_id) + u(4, epoch) + lp(bytes(one))


def u(size: int, value: int) -> bytes:
    return value.to_bytes(size, "big")


def take(data: Iterator[int], size: int) -> int:
    return int.from_bytes(bytes(next(data) for _ in range(size)), "big")


def hp(label: str, *fields: bytes) -> bytes:
    """Hp(label, fields)."""
    return hashlib.sha256(lp(f"fedveil/paillier/{label}".encode()) + b"".join(map(lp, fields))).digest()


def follows(root: bytes, bodies: list[list[bytes]]) -> list[bytes]:
    """What the bodies of each phase begin with, and one more; `bodies`: by phase, in the holders' order."""
    found = [hp("ceremony", root)]
    for kind, phase in enumerate(bodies, 1):
        found.append(hp("ceremony/transcript", found[-1], bytes([kind]), *phase))
    return found
