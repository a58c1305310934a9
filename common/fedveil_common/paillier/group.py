"""Arithmetic modulo n and n^(s+1) for an n whose factors nobody knows: lifts, powers of 1+n, products of powers.

Invariant: an element of Z*_{n^(s+1)} is, in one way, an n^s-th residue times (1+n)^m; `lift` makes the residue that a
number mod n stands for, `log` reads m. The plaintext lives in (1+n)^m, and whatever holders exponentiate has none.
Nothing here takes constant time: whoever can measure the process that raises to a secret exponent (another tenant of
its processor, never the network alone) may learn of it. Source: Damgard, Jurik 2001, section 3; docs/paillier.md.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import gmpy2
from gmpy2 import mpz

from fedveil_common.errors import PeerError

MAX_S = 3
"""Plaintexts have s times as many bits as n; a larger s makes ciphertexts smaller and tables larger."""

_FEW = 6
"""Up to so many powers are computed one by one; beyond, together."""


@dataclass(frozen=True, slots=True, eq=False)
class Group:
    """Z*_n and Z*_{n^(s+1)}; `n` was checked by `modulus`. Functions return canonical elements: 0 <= v < modulus."""

    n: int
    s: int
    powers: tuple[int, ...] = field(init=False, repr=False)
    """n^0 .. n^(s+1)."""

    def __post_init__(self) -> None:
        if not 1 <= self.s <= MAX_S:
            raise ValueError(f"s is 1 to {MAX_S}")
        object.__setattr__(self, "n", mpz(self.n))
        object.__setattr__(self, "powers", tuple(mpz(self.n) ** exponent for exponent in range(self.s + 2)))

    @property
    def plain(self) -> int:
        """n^s: plaintexts are integers below it."""
        return self.powers[self.s]

    @property
    def cipher(self) -> int:
        """n^(s+1): ciphertexts are units below it."""
        return self.powers[self.s + 1]

    @property
    def short_bytes(self) -> int:
        """Bytes of an element mod n."""
        return (int(self.n).bit_length() + 7) // 8

    @property
    def long_bytes(self) -> int:
        """Bytes of an element mod n^(s+1)."""
        return self.short_bytes * (self.s + 1)

    def lift(self, value: int) -> int:
        """value^(n^s) mod n^(s+1): depends on value mod n alone, is multiplicative, and has no power of 1+n in it."""
        return gmpy2.powmod(value, self.plain, self.cipher)  # type: ignore[no-any-return]

    def one_plus(self, exponent: int) -> int:
        """(1+n)^exponent mod n^(s+1), by the binomial series; any integer exponent."""
        reduced = mpz(exponent) % self.plain
        total, binomial = 1 + reduced * self.n, reduced
        for index in range(2, self.s + 1):
            binomial = binomial * (reduced - index + 1) // index
            total += binomial % self.powers[self.s + 1 - index] * self.powers[index]
        return total % self.cipher  # type: ignore[no-any-return]

    def log(self, value: int) -> int:
        """The m with (1+n)^m = value mod n^(s+1), 0 <= m < n^s. ValueError if value is no power of 1+n."""
        if value % self.n != 1:
            raise ValueError("not a power of 1+n")
        found = mpz(0)
        for digits in range(1, self.s + 1):
            modulus = self.powers[digits]
            left = (value % self.powers[digits + 1] - 1) // self.n
            term, factorial, falling = found, 1, found
            for index in range(2, digits + 1):
                falling -= 1
                factorial *= index
                term = term * falling % modulus
                left = (left - term * self.powers[index - 1] * gmpy2.invert(factorial, modulus)) % modulus
            found = left % modulus
        return found  # type: ignore[no-any-return]

    def check_short(self, values: Iterable[int], what: str, peer: str = "") -> None:
        """Every value is canonical mod n, above 1, a unit. PeerError `bad_group_element` says which `what` is not."""
        self._check(values, self.n, what, peer)

    def check_long(self, values: Iterable[int], what: str, peer: str = "") -> None:
        """Every value is canonical mod n^(s+1), above 1 and a unit. PeerError `bad_group_element`."""
        self._check(values, self.cipher, what, peer)

    def _check(self, values: Iterable[int], modulus: int, what: str, peer: str) -> None:
        product: Any = mpz(1)
        for index, value in enumerate(values):
            if not 1 < value < modulus:
                raise _bad_element(f"{what} {index} is not between 1 and the modulus", peer)
            product = product * value % self.n
        if gmpy2.gcd(product, self.n) != 1:
            raise _bad_element(f"one of the {what}s has no inverse", peer)


def _bad_element(what: str, peer: str) -> PeerError:
    return PeerError("bad_group_element", what, peer=peer, not_done="nothing was computed with it")


def product(values: Iterable[int], modulus: int) -> int:
    """The product mod `modulus`; 1 of nothing."""
    result: Any = mpz(1)
    for value in values:
        result = result * value % modulus
    return result  # type: ignore[no-any-return]


def inverses(values: Sequence[int], modulus: int) -> list[int]:
    """The inverse of each value mod `modulus`, for one inversion and three products each (Montgomery).

    ZeroDivisionError if one has none: check them first.
    """
    before: list[Any] = [mpz(1)]
    for value in values:
        before.append(before[-1] * value % modulus)
    inverse: Any = gmpy2.invert(before[-1], modulus)
    found: list[int] = [mpz(0)] * len(values)
    for index in range(len(values) - 1, -1, -1):
        found[index] = inverse * before[index] % modulus
        inverse = inverse * values[index] % modulus
    return found


def multi_power(bases: Sequence[int], exponents: Sequence[int], modulus: int) -> int:
    """The product of bases[i]^exponents[i] mod `modulus`, for exponents >= 0 of similar length; 1 of nothing.

    For public exponents: which products are taken shows them.
    """
    return multi_powers([bases], exponents, modulus)[0]


def multi_powers(rows: Sequence[Sequence[int]], exponents: Sequence[int], modulus: int) -> list[int]:
    """`multi_power` of each row of bases, all to the same exponents.

    Some bases (37 in a vector of 100,000 numbers) are put together in groups, of which every product is made before
    (Straus 1964); many fall into buckets, digit by digit (Pippenger 1976): what takes fewer products.
    """
    if any(len(bases) != len(exponents) for bases in rows):
        raise ValueError("as many bases as exponents")
    if len(exponents) <= _FEW:
        few = [zip(bases, exponents, strict=True) for bases in rows]
        return [product((gmpy2.powmod(b, e, modulus) for b, e in pairs), modulus) for pairs in few]
    numbers = [int(exponent) for exponent in exponents]
    length = max(number.bit_length() for number in numbers)
    fewest = -(-len(numbers) // _GROUP)
    groups = min(range(fewest, len(numbers) + 1), key=lambda count: _grouped(numbers, length, count))
    width = min(range(2, 11), key=lambda bits: _bucketed(numbers, length, bits))
    if _grouped(numbers, length, groups) < _CACHED * _bucketed(numbers, length, width):
        patterns = _patterns(numbers, length, groups)
        return [_in_groups(bases, patterns, groups, modulus) for bases in rows]
    return [_in_buckets(bases, numbers, length, width, modulus) for bases in rows]


_GROUP = 8
"""At most so many bases in a group: 247 products are made of them before."""

_CACHED = 0.85
"""The products of many groups are too large for a processor's cache."""


def _grouped(numbers: Sequence[int], length: int, groups: int) -> float:
    """Products that `_in_groups` takes, nearly."""
    return groups * (2 ** (len(numbers) / groups) - len(numbers) / groups + length) + length


def _bucketed(numbers: Sequence[int], length: int, width: int) -> float:
    """Products that `_in_buckets` takes, nearly."""
    return -(-length // width) * (len(numbers) + (1 << width)) + length


def _patterns(numbers: Sequence[int], length: int, groups: int) -> list[tuple[int, ...]]:
    """For each bit, the highest first, and each group: which exponents of the group have it set. Group i has the
    numbers i, i + groups, i + 2 groups ..
    """
    members = [numbers[first::groups] for first in range(groups)]
    return [
        tuple(sum(((number >> bit) & 1) << place for place, number in enumerate(group)) for group in members)
        for bit in range(length - 1, -1, -1)
    ]


def _in_groups(bases: Sequence[int], patterns: Sequence[tuple[int, ...]], groups: int, modulus: int) -> int:
    tables = [_products(bases[first::groups], modulus) for first in range(groups)]
    result: Any = mpz(1)
    for chosen in patterns:
        result = result * result % modulus
        for table, pattern in zip(tables, chosen, strict=True):
            if pattern:
                result = result * table[pattern] % modulus
    return result  # type: ignore[no-any-return]


def _products(bases: Sequence[int], modulus: int) -> list[Any]:
    """The product of each subset of `bases`, by the number whose bits say which are in it."""
    table: list[Any] = [mpz(1)]
    for base in bases:
        table += [base, *(one * base % modulus for one in table[1:])]
    return table


def _in_buckets(bases: Sequence[int], numbers: Sequence[int], length: int, width: int, modulus: int) -> int:
    result: Any = mpz(1)
    for position in range(-(-length // width) - 1, -1, -1):
        if result != 1:
            result = gmpy2.powmod(result, 1 << width, modulus)
        result = result * _digit_product(bases, numbers, width * position, width, modulus) % modulus
    return result  # type: ignore[no-any-return]


def _digit_product(bases: Sequence[int], numbers: Sequence[int], shift: int, width: int, modulus: int) -> int:
    """The product of bases[i]^(digit i): each base falls into the bucket of its digit, summed from the top."""
    buckets: list[Any] = [None] * (1 << width)
    mask = (1 << width) - 1
    for base, number in zip(bases, numbers, strict=True):
        digit = (number >> shift) & mask
        if digit:
            held = buckets[digit]
            buckets[digit] = base if held is None else held * base % modulus
    running: Any = None
    total: Any = mpz(1)
    for held in reversed(buckets[1:]):
        if held is not None:
            running = held if running is None else running * held % modulus
        if running is not None:
            total = total * running % modulus
    return total  # type: ignore[no-any-return]
