"""The two primes of a modulus: whoever has them opens everything under it.

Promise: a `Factor` shows itself nowhere (see `secret`); a `FactorPair` is two different primes of like length whose
product shares no factor with its own totient, so that plaintexts and randomness never mix.
Python can forget a number but not wipe it: see `dealing`. Source: Paillier 1999; Damgard, Jurik 2001, section 3.
"""

from dataclasses import dataclass, field
from typing import Self

import gmpy2

from fedveil_common.errors import ConfigError
from fedveil_common.paillier.encoding import number
from fedveil_common.paillier.modulus import check_length, check_shape
from fedveil_common.secret import Secret

TESTS = 64
"""Of primality: Baillie-PSW, then Miller-Rabin to random bases."""


class Factor(Secret):
    """A secret prime, big-endian without leading zeros."""

    __slots__ = ()

    @classmethod
    def of(cls, value: int) -> Self:
        """The factor `value` > 0."""
        return cls(int(value).to_bytes((int(value).bit_length() + 7) // 8, "big"))

    def expose_number(self) -> int:
        """The prime itself. Every call site is a place where a factor is used."""
        return number(self.expose())


@dataclass(frozen=True, slots=True)
class FactorPair:
    """`p` and `q` of one modulus `n`, which is public. ConfigError `bad_factors`, and those of `check_shape`."""

    p: Factor
    q: Factor
    n: int = field(init=False)

    def __post_init__(self) -> None:
        p, q = self.p.expose_number(), self.q.expose_number()
        n = p * q
        object.__setattr__(self, "n", n)
        check_length(int(n).bit_length())  # first: primality of long numbers takes long
        if not (p > 2 and q > 2 and gmpy2.is_prime(p, TESTS) and gmpy2.is_prime(q, TESTS)):
            raise _bad("a factor is no odd prime")
        if p == q:
            raise _bad("the two factors are equal")
        lengths = sorted((int(p).bit_length(), int(q).bit_length()))
        if lengths[1] - lengths[0] > 1:
            raise _bad("one factor is shorter than the other by more than a bit")
        if gmpy2.gcd(n, (p - 1) * (q - 1)) != 1:
            raise _bad("one factor divides the other less one")
        check_shape(n, int(n).bit_length())


def _bad(why: str) -> ConfigError:
    return ConfigError(
        "bad_factors",
        f"these are not the factors of a key: {why}",
        not_done="the key was not used",
        next_step="restore the file from where it was made, or make another key",
    )
