"""Blocks of ciphertexts under one header each: (1+n)^m_bk * H_k^r_b, header g^r_b mod n, its lift G^r_b.

Promise: every exponent r is drawn once and used for one block: a `Mask` is spent by the block that is made of it.
Invariant: headers live in Z*_n, where no power of 1+n can hide in them; holders exponentiate only what they have
checked to be the lift of their own product of headers. The exponents are the organisation's secret; tables are read at
secret places (see `tables`). Source: docs/paillier.md (B, G5, P6).
"""

import functools
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import gmpy2
from gmpy2 import mpz

from fedveil_common.paillier.encoding import shortest
from fedveil_common.paillier.group import Group
from fedveil_common.paillier.packing import Blocks
from fedveil_common.paillier.public_key import PublicKey, lifts_of
from fedveil_common.paillier.tables import Digits, LongPowers, ShortPowers, draw_digits, times_one_plus, value_of
from fedveil_common.ports import Entropy
from fedveil_common.secret import Secret

PROOF_MARGIN = 16


def nonce_bits(bits: int) -> int:
    """Bits of a proof's nonce over exponents of `bits` bits: hides them by 2^-128 and more (G5)."""
    return max(bits, 272) + 288


class Exponent(Secret):
    """r of one block, big-endian."""

    __slots__ = ()


@dataclass(frozen=True, slots=True)
class Block:
    """One header with its ciphertexts. `header` mod n, `lift` and `bodies` mod n^(s+1): what is sent. `exponent`: r,
    which the proof needs and nobody else may see.
    """

    exponent: Exponent
    header: int
    lift: int
    bodies: tuple[int, ...]


class Mask:
    """A block before its message: header, lift and H_k^r for all k. Made ahead of time, used once, never stored.

    A process that was forked has none: parent and child would use the same one.
    """

    __slots__ = ("_parts", "_process")

    def __init__(self, exponent: Exponent, header: int, lift: int, masks: tuple[int, ...]) -> None:
        self._parts = [(exponent, header, lift, masks)]
        self._process = os.getpid()

    @property
    def width(self) -> int:
        """How many ciphertexts it is for; 0 once it was used, and in another process."""
        return len(self._parts[0][3]) if self._parts and self._process == os.getpid() else 0

    def spend(self) -> tuple[Exponent, int, int, tuple[int, ...]]:
        """(exponent, header, lift, masks), once. ValueError the second time, and in a process that was forked: two
        messages under one mask show their difference to everybody.
        """
        if not self.width:
            raise ValueError("this mask was used, or belongs to another process")
        return self._parts.pop()  # one step: of two threads one gets it

    def narrowed(self, width: int) -> "Mask":
        """This mask for a block of `width` ciphertexts, or fewer if it is for fewer; this one is spent by it."""
        exponent, header, lift, masks = self.spend()
        return Mask(exponent, header, lift, masks[:width])

    def __repr__(self) -> str:
        return "Mask(<redacted>)"

    def __reduce__(self) -> str:
        raise TypeError("a mask refuses pickling")


class BaseTable:
    """The table of powers of a key's g alone, for proofs: 20 ms to build, 2 MB at 2048 bits. Public."""

    def __init__(self, key: PublicKey) -> None:
        self.key = key
        self.short = short_powers(key.g, key.group, key.terms.bits)


class MaskTables:
    """The tables that masks are made with: some seconds to build, some ten to hundred MB; for one epoch."""

    def __init__(self, group: Group, bits: int, g: int, columns: Sequence[int]) -> None:
        """`bits` of randomness, the base `g` and the `columns` h_k that are needed: mod n, of one public key."""
        self._bits = bits
        self.short = short_powers(g, group, bits)
        self._lift = LongPowers(group.lift(g), group, bits)
        self._columns = [LongPowers(value, group, bits) for value in lifts_of(group, columns)]

    @property
    def width(self) -> int:
        """The widest block that there are tables for."""
        return len(self._columns)

    def masks(self, count: int, width: int, entropy: Entropy) -> list[Mask]:
        """`count` masks for blocks of `width` ciphertexts."""
        drawn = draw_digits(entropy, count, self._bits)
        return [Mask(*parts) for parts in self._blocks(drawn, [[0] * width] * count)]

    def _blocks(
        self, drawn: Sequence[Digits], rows: Sequence[Sequence[int]]
    ) -> Iterator[tuple[Exponent, int, int, tuple[int, ...]]]:
        """Column after column over all blocks: the table of one column stays in the cache meanwhile."""
        if any(len(row) > len(self._columns) for row in rows):
            raise ValueError(f"blocks wider than the {len(self._columns)} columns that there are tables for")
        columns = [
            [table.power(digits, row[k]) for digits, row in zip(drawn, rows, strict=True)]
            for k, table in enumerate(self._columns[: len(rows[0])])
        ]
        for digits, bodies in zip(drawn, zip(*columns, strict=True), strict=True):
            exponent = value_of(digits)
            yield _exponent(exponent), self.short.power(exponent), self._lift.power(digits), bodies


class Encryptor(MaskTables):
    """The tables of one public key, or of its first `columns` columns: as wide as a block is."""

    def __init__(self, key: PublicKey, columns: int | None = None) -> None:
        super().__init__(key.group, key.terms.bits, key.g, key.columns[:columns])
        self.key = key

    def encrypt(self, plaintexts: Sequence[int], blocks: Blocks, entropy: Entropy) -> list[Block]:
        """Fresh ciphertexts of the plaintexts, padded to whole blocks."""
        padded, drawn = blocks.pad(plaintexts), draw_digits(entropy, blocks.count, self._bits)
        rows = [padded[index * blocks.width : (index + 1) * blocks.width] for index in range(blocks.count)]
        return [Block(*parts) for parts in self._blocks(drawn, rows)]


def masks_without_tables(key: PublicKey, lifts: Sequence[int], count: int, entropy: Entropy) -> Iterator[Mask]:
    """`count` masks for blocks as wide as `lifts` (the first of `key.lifted`) are many: cheaper than tables for a few
    of them. One power takes 2 to 6 ms at 2048 bits, and nothing else in this process runs meanwhile.
    """
    g, group = key.g, key.group
    lift, cipher = group.lift(g), group.cipher
    for digits in draw_digits(entropy, count, key.terms.bits):
        exponent = value_of(digits)
        powers = tuple(gmpy2.powmod(one, exponent, cipher) for one in lifts)
        yield Mask(
            _exponent(exponent), gmpy2.powmod(g, exponent, group.n), gmpy2.powmod(lift, exponent, cipher), powers
        )


def short_powers(g: int, group: Group, bits: int) -> ShortPowers:
    """Powers of g mod n, for exponents as long as a response to a proof over exponents of `bits` bits. The tables of
    the keys used last stay: g is public, and every round would build them anew.
    """
    return _short_powers(g, group.n, nonce_bits(bits) + PROOF_MARGIN)


@functools.lru_cache(maxsize=2)
def _short_powers(g: int, n: int, bits: int) -> ShortPowers:
    return ShortPowers(g, n, bits)


def encrypt_with(key: PublicKey, masks: Sequence[Mask], plaintexts: Sequence[int], blocks: Blocks) -> list[Block]:
    """As `Encryptor.encrypt`, from masks made before: one short product a ciphertext. ValueError for masks that are
    too few, too narrow or used; then none is spent.
    """
    used = masks[: blocks.count]
    if len({id(mask) for mask in used}) < blocks.count or any(mask.width != blocks.width for mask in used):
        raise ValueError(f"{blocks.count} unused masks of width {blocks.width} are needed")
    padded, made = blocks.pad(plaintexts), []
    for index, mask in zip(range(blocks.count), masks, strict=False):
        exponent, header, lift, powers = mask.spend()
        messages = padded[index * blocks.width : (index + 1) * blocks.width]
        bodies = tuple(
            times_one_plus(key.group, power, message) for power, message in zip(powers, messages, strict=True)
        )
        made.append(Block(exponent, header, lift, bodies))
    return made


def _exponent(value: int) -> Exponent:
    return Exponent(shortest(value))


def exponent_value(exponent: Exponent) -> int:
    """The exponent as an integer. Secret."""
    return mpz(int.from_bytes(exponent.expose(), "big"))  # type: ignore[no-any-return]
