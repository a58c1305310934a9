"""Signed integers in the slots of plaintexts: many coordinates in one ciphertext, sums without carries.

A slot of whole bytes holds v + V + W for a value |v| <= V and noise within W, so that nothing is negative; a sum of so
many members fits because the slot was chosen for it. Whoever encrypts may lie: the sum is checked when it opens, and
nobody can be blamed for one that is out of range. Noise is never clipped to fit.
Source: docs/paillier.md (3.1 with G3, G4, P8).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from gmpy2 import mpz
from numpy.typing import NDArray

from fedveil_common.errors import IntegrityError, PolicyRefusal

MAX_SLOT_BYTES = 8
_WORD = 8


@dataclass(frozen=True, slots=True)
class Slots:
    """How a vector of `length` coordinates lies in plaintexts. `value_cap` V, `noise_cap` W, `coordinator_cap` W_c (0
    without noise by the coordinator), `members`: how many inputs a sum has at most. ValueError if nothing fits.
    """

    plain_bits: int
    """s * |n|: bits of the modulus of plaintexts."""
    length: int
    members: int
    value_cap: int
    noise_cap: int = 0
    coordinator_cap: int = 0

    def __post_init__(self) -> None:
        if self.length < 1 or self.members < 1 or self.value_cap < 1 or min(self.noise_cap, self.coordinator_cap) < 0:
            raise ValueError("a length, members and a value cap are positive, noise caps not negative")
        if self.plain_bits % 8:
            raise ValueError("a modulus has whole bytes: else whole slots could reach beyond n^s")
        if self.largest(self.members) >= 1 << (8 * MAX_SLOT_BYTES - 1):
            raise ValueError("no slot is large enough for such sums")
        if self.per_plaintext < 1:
            raise ValueError("a slot is larger than a plaintext")

    @property
    def offset(self) -> int:
        """V + W: added to every coordinate of an input."""
        return self.value_cap + self.noise_cap

    def largest(self, members: int) -> int:
        """The largest number in a slot of an honest sum of so many inputs."""
        return members * 2 * self.offset + 2 * self.coordinator_cap

    @property
    def slot_bytes(self) -> int:
        """The smallest whole number of bytes in which no honest sum carries into the next slot."""
        return (self.largest(self.members).bit_length() + 7) // 8

    @property
    def per_plaintext(self) -> int:
        """Slots of a plaintext: its value stays below n^s."""
        return (self.plain_bits - 1) // (8 * self.slot_bytes)

    @property
    def plaintexts(self) -> int:
        """How many plaintexts a vector takes, without padding to whole blocks."""
        return -(-self.length // self.per_plaintext)

    def pack(self, values: NDArray[np.int64]) -> list[int]:
        """Signed values, shape (length,), with their noise: |v| <= V + W. The plaintexts, secret like the values.

        PolicyRefusal `slot_overflow` with the count alone if a coordinate lies beyond: it is not clipped.
        """
        return self._pack(values, self.offset)

    def pack_noise(self, values: NDArray[np.int64]) -> list[int]:
        """The coordinator's own noise, |v| <= W_c. As `pack`."""
        return self._pack(values, self.coordinator_cap)

    def _pack(self, values: NDArray[np.int64], offset: int) -> list[int]:
        if values.shape != (self.length,) or values.dtype != np.int64:
            raise ValueError("not an int64 vector of this length")
        beyond = int(np.count_nonzero((values > offset) | (values < -offset)))
        if beyond:
            raise PolicyRefusal(
                "slot_overflow",
                f"{beyond} of {self.length} coordinates lie beyond what a slot was made for",
                not_done="nothing was encrypted",
                next_step="try again: noise so large has a probability of 2^-64",
            )
        size = self.slot_bytes
        slots = np.zeros((self.plaintexts * self.per_plaintext, size), np.uint8)
        numbers = (values + np.int64(offset)).astype("<u8")
        slots[: self.length] = numbers.view(np.uint8).reshape(-1, _WORD)[:, :size]
        data, width = slots.tobytes(), self.per_plaintext * size
        return [mpz(int.from_bytes(data[at : at + width], "little")) for at in range(0, len(data), width)]

    def unpack(self, plaintexts: Sequence[int], survivors: int) -> NDArray[np.int64]:
        """The sum of the survivors' values (and noise): int64, shape (length,). Further plaintexts must be padding: 0.

        IntegrityError `sum_out_of_range` if any number is one that no honest inputs add up to.
        """
        if len(plaintexts) < self.plaintexts:
            raise ValueError("not the plaintexts of this vector")
        return self.unpack_part(0, plaintexts, survivors)

    def unpack_part(self, start: int, plaintexts: Sequence[int], survivors: int) -> NDArray[np.int64]:
        """The same of some plaintexts in a row, the first being plaintext `start` of the vector: the sums of their
        coordinates, int64, from coordinate start * per_plaintext on. Beyond the vector's plaintexts there is padding.
        """
        if start < 0 or not 1 <= survivors <= self.members:
            raise ValueError("no place in this vector, or more survivors than members")
        size, each = self.slot_bytes, self.per_plaintext
        width = each * size
        count = max(0, min(len(plaintexts), self.plaintexts - start))
        if any(plaintexts[count:]) or any(not 0 <= one < 1 << (8 * width) for one in plaintexts):
            raise _out_of_range()
        data = b"".join(int(one).to_bytes(width, "little") for one in plaintexts[:count])
        words = np.zeros((count * each, _WORD), np.uint8)
        words[:, :size] = np.frombuffer(data, np.uint8).reshape(-1, size)
        numbers = words.view("<u8").reshape(-1)
        held = min(count * each, max(0, self.length - start * each))
        if numbers[held:].any() or int(numbers[:held].max(initial=0)) > self.largest(survivors):
            raise _out_of_range()
        return numbers[:held].astype(np.int64) - np.int64(survivors * self.offset + self.coordinator_cap)


def _out_of_range() -> IntegrityError:
    return IntegrityError(
        "sum_out_of_range",
        "the opened sum holds numbers that no honest inputs add up to",
        not_done="nothing was derived from it",
        next_step="one of the inputs was not what its sender promised; which one cannot be said",
    )


@dataclass(frozen=True, slots=True)
class Blocks:
    """How ciphertexts lie under headers: `count` blocks (B), all of `width` ciphertexts, the last ones padding."""

    count: int
    width: int

    @classmethod
    def of(cls, plaintexts: int, columns: int) -> "Blocks":
        """For so many plaintexts and K columns of the key: as few headers as can be, then as little padding."""
        if plaintexts < 1 or columns < 1:
            raise ValueError("no blocks without plaintexts and columns")
        count = -(-plaintexts // columns)
        return cls(count, -(-plaintexts // count))

    def pad(self, plaintexts: Sequence[int]) -> list[int]:
        """The plaintexts followed by zeros: count * width of them. ValueError for more than that."""
        if len(plaintexts) > self.count * self.width:
            raise ValueError(f"{len(plaintexts)} plaintexts for {self.count * self.width} ciphertexts")
        return [*plaintexts, *[mpz(0)] * (self.count * self.width - len(plaintexts))]
