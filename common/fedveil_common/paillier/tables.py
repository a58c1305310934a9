"""Powers of a fixed base by table look-up: no squarings, and half-size factors.

An entry t of a table mod n^(s+1) is kept as (a, l) with t = a (1+n)^l and a = t mod n. The product of entries is then
the product of the short a's times (1+n) to the sum of the l's: each step multiplies long by short, and a message rides
along in that sum for free. No factors of n are needed for it.
Not constant-time: which entries are read depends on the exponent, so whoever shares a processor cache with this process
may learn of it. Source: Brickell, Gordon, McCurley, Wilson 1992 (tables); docs/paillier.md, "short entries".
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from gmpy2 import mpz

from fedveil_common.paillier.group import Group, inverses
from fedveil_common.ports import Entropy

WINDOW = 6
"""Bits of a digit: 43 steps for 256 bits, 2.5 MB a base at 3072 bits."""

Digits = Sequence[int]
"""An exponent in base 2^WINDOW, least digit first."""


def digits_for(bits: int) -> int:
    """How many digits an exponent of `bits` bits has."""
    return -(-bits // WINDOW)


def draw_digits(entropy: Entropy, count: int, bits: int) -> list[list[int]]:
    """`count` exponents, uniform in [0, 2^(WINDOW * digits_for(bits))). Secret."""
    rows = digits_for(bits)
    drawn = np.frombuffer(entropy.take(count * rows), np.uint8).reshape(count, rows)
    found: list[list[int]] = (drawn & ((1 << WINDOW) - 1)).tolist()
    return found


def value_of(digits: Digits) -> int:
    """The exponent behind its digits. Secret."""
    return sum(int(digit) << (WINDOW * place) for place, digit in enumerate(digits))


class ShortPowers:
    """Powers of `base` mod n, for exponents below 2^bits."""

    def __init__(self, base: int, n: int, bits: int) -> None:
        self._n = mpz(n)
        self._bits = bits
        self._rows: list[list[Any]] = []
        step: Any = mpz(base)
        for _ in range(digits_for(bits)):
            row = [mpz(1)]
            for _ in range((1 << WINDOW) - 1):
                row.append(row[-1] * step % self._n)
            self._rows.append(row)
            step = row[-1] * step % self._n

    def power(self, exponent: int) -> int:
        """base^exponent mod n. ValueError for an exponent that is negative or too long."""
        rest = int(exponent)
        if rest < 0 or rest.bit_length() > self._bits:
            raise ValueError("an exponent outside the table")
        result: Any = mpz(1)
        for row in self._rows:
            if not rest:
                break
            digit = rest & ((1 << WINDOW) - 1)
            if digit:
                result = result * row[digit] % self._n
            rest >>= WINDOW
        return result  # type: ignore[no-any-return]


class LongPowers:
    """Powers of `base`, an n^s-th residue mod n^(s+1), for exponents of `bits` bits given by digits."""

    def __init__(self, base: int, group: Group, bits: int) -> None:
        self._group = group
        self._rows: list[list[tuple[Any, Any]]] = []
        step: Any = mpz(base)
        cipher = group.cipher
        for _ in range(digits_for(bits)):
            entries = [mpz(1)]
            for _ in range((1 << WINDOW) - 1):
                entries.append(entries[-1] * step % cipher)
            step = entries[-1] * step % cipher
            self._rows.append(_short_entries(entries, group))

    def power(self, digits: Digits, message: int = 0) -> int:
        """(1+n)^message * base^r mod n^(s+1), r by its digits: as many as `digits_for(bits)`."""
        rows = iter(zip(self._rows, digits, strict=True))
        row, digit = next(rows)
        result, exponent = row[digit]
        exponent += message
        cipher = self._group.cipher
        for row, digit in rows:
            factor, part = row[digit]
            result = result * factor % cipher
            exponent += part
        return times_one_plus(self._group, result, exponent)


def times_one_plus(group: Group, value: int, exponent: int) -> int:
    """The product of `value` and (1+n)^exponent mod n^(s+1)."""
    if group.s == 1:
        n = group.n
        return (value + n * (value % n * (exponent % n) % n)) % group.cipher
    return value * group.one_plus(exponent) % group.cipher


def _short_entries(entries: Sequence[int], group: Group) -> list[tuple[Any, Any]]:
    shorts = [entry % group.n for entry in entries]
    if group.s == 1:  # log(t / a) = ((t - a) / n) * a^-1 mod n
        found = inverses(shorts, group.n)
        return [
            (short, (entry - short) // group.n * inverse % group.n)
            for entry, short, inverse in zip(entries, shorts, found, strict=True)
        ]
    found = inverses(shorts, group.cipher)
    return [
        (short, group.log(entry * inverse % group.cipher))
        for entry, short, inverse in zip(entries, shorts, found, strict=True)
    ]
