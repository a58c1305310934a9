"""A holder's partial decryption: every checked base to every one of its exponents, with the squarings shared.

All columns of a block have one base, so the powers base^(2^i) are made once; exponents in groups of six pick, bit by
bit, into which of 64 buckets a power goes, and the buckets are added up into the six results.
Not constant-time: which buckets are filled depends on the exponents, whose owner's process can be observed by another
tenant of its machine. Source: docs/paillier.md, "fixed-exponent plan"; Pippenger 1976.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from gmpy2 import mpz

from fedveil_common.paillier.group import Group
from fedveil_common.paillier.lifting import CheckedBases

_TOGETHER = 6


@dataclass(frozen=True, slots=True)
class Plan:
    """The exponents of a holder, laid out for `partial`. Secret."""

    length: int
    patterns: tuple[tuple[int, tuple[int, ...]], ...]
    """For each group: how many exponents, and for each bit which of them have it set."""

    def __repr__(self) -> str:
        return "Plan(<redacted>)"


def plan(exponents: Sequence[int]) -> Plan:
    """For these exponents x_j,k, k < width. Secret."""
    length = max(int(one).bit_length() for one in exponents)
    groups = -(-len(exponents) // _TOGETHER)
    sizes = [len(exponents) // groups + (index < len(exponents) % groups) for index in range(groups)]
    patterns, at = [], 0
    for size in sizes:
        members = [int(one) for one in exponents[at : at + size]]
        at += size
        bits = tuple(sum(((one >> bit) & 1) << place for place, one in enumerate(members)) for bit in range(length))
        patterns.append((size, bits))
    return Plan(length, tuple(patterns))


def partial(group: Group, bases: CheckedBases, exponents: Plan) -> list[list[int]]:
    """D_b,k = (L_b^2)^(x_j,k) mod n^(s+1): for each block as many as there are exponents. For the coordinator."""
    return list(rows(group, bases, exponents))


def rows(group: Group, bases: CheckedBases, exponents: Plan) -> Iterator[list[int]]:
    """`partial`, block after block as it is made."""
    return (_powers(base, exponents, group.cipher) for base in bases.squares)


def _powers(base: int, exponents: Plan, modulus: int) -> list[int]:
    doublings: list[Any] = [base]
    for _ in range(exponents.length - 1):
        doublings.append(doublings[-1] * doublings[-1] % modulus)
    results: list[int] = []
    for size, patterns in exponents.patterns:
        buckets: list[Any] = [None] * (1 << size)
        for pattern, power in zip(patterns, doublings, strict=True):
            if pattern:
                held = buckets[pattern]
                buckets[pattern] = power if held is None else held * power % modulus
        results.extend(_from_buckets(buckets, size, modulus))
    return results


def _from_buckets(buckets: list[Any], size: int, modulus: int) -> list[int]:
    """Result j: the product of all buckets whose number has bit j. The top half folds into the lower."""
    results: list[Any] = [mpz(1)] * size
    for place in range(size - 1, -1, -1):
        half = 1 << place
        total: Any = None
        for number in range(half, 2 * half):
            held = buckets[number]
            if held is None:
                continue
            total = held if total is None else total * held % modulus
            if number > half:
                below = buckets[number - half]
                buckets[number - half] = held if below is None else below * held % modulus
        if total is not None:
            results[place] = total
    return results
