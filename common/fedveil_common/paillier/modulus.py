"""The checks of a modulus before anything is encrypted under it: every process runs them whenever it loads a key.

Promise: a `CheckedModulus` exists only where every check held; a federation's `Group` and keys are made from its n.
What is caught are mistakes and moduli that are not what they claim: with gcd(n, phi(n)) = 1, which the roots show with
an error below 2^-128, n is square-free and (1+n)^m is all of the plaintext. What no check catches is a dealer who kept
the factors: he reads everything. Only RSA-2048 has no dealer.

rho_i is SHAKE256("fedveil/paillier/modulus" || I(n) || u8 i || u8 j), read as a big-endian integer of |n| in bytes and
16 more, mod n, for the first j from 0 on for which it is prime to n; y_i is its n-th root mod n, i = 0..7.
Source: Goldberg, Reyzin, Sagga, Baldimtsi, "Efficient noninteractive certification of RSA moduli and beyond"
(ASIACRYPT 2019, ePrint 2018/057): that x -> x^n permutes Z*_n, every prime up to 65537 tried; docs/paillier.md (D).
Public throughout.
"""

import enum
import functools
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import gmpy2
from gmpy2 import mpz

from fedveil_common.errors import ConfigError
from fedveil_common.paillier import rsa_2048
from fedveil_common.paillier.encoding import PREFIX, integer, number

MIN_BITS = 2048
"""The floor: about 112 bits of security."""

MAX_BITS = 8192
"""So that a hostile file costs seconds, not hours."""

ROOTS = 8
"""16 bits of certainty each, because no factor is 65537 or below."""

TRIED = 65537
"""Every prime up to and with this one is tried."""

_UNUSED = "nothing was encrypted under it"
_ASK = "ask whoever made it; a modulus from `fedveil key deal` or `fedveil key adopt rsa-2048` passes"


class Origin(enum.Enum):
    """Where a modulus comes from, and so who may know its factors."""

    DEALT = "dealt"
    """A dealer made it: he knew the factors, and says that he erased them."""

    RSA_2048 = rsa_2048.NAME
    """The challenge number: whoever made it in 2001 knew them."""


@dataclass(frozen=True, slots=True)
class CheckedModulus:
    """A modulus of exactly `bits` bits that passed every check; making one is checking it.

    `roots`: the dealer's y_0..y_7, each 0 < y < n; none for RSA-2048, which is known by its SHA-256 instead.
    ConfigError `modulus_too_short`, `modulus_too_long`, `modulus_wrong_length`, `modulus_even`, `modulus_small_factor`,
    `modulus_prime`, `modulus_power`, `modulus_without_roots` (another number than RSA-2048, and no roots),
    `modulus_wrong_roots`. 30 ms at 2048 bits, 80 ms at 3072.
    """

    n: int
    bits: int
    roots: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "n", mpz(self.n))
        check_shape(self.n, self.bits)
        if self.roots:
            _check_roots(self.n, self.roots)
        elif hashlib.sha256(integer(self.n, _width(self.n))).digest() != rsa_2048.SHA256:
            raise ConfigError(
                "modulus_without_roots",
                "the modulus is not RSA-2048, and without roots nothing says how it was made",
                not_done=_UNUSED,
                next_step="take the record that its dealer wrote, or `fedveil key adopt rsa-2048`",
            )

    @property
    def origin(self) -> Origin:
        """Who may know the factors."""
        return Origin.DEALT if self.roots else Origin.RSA_2048


def check_shape(n: int, bits: int) -> None:
    """What can be said of any modulus without roots: exactly `bits` bits, 2048 to 8192 of them, odd, no prime, no
    power, no prime factor up to 65537. Also for keys of a single holder, who has the factors and needs no roots.

    The ConfigErrors of `CheckedModulus` but the last two.
    """
    check_length(bits)
    found = int(n).bit_length() if n > 0 else 0
    if found != bits:
        what = f"the modulus has {found} bits and should have {bits}"
        raise ConfigError("modulus_wrong_length", what, not_done=_UNUSED, next_step=_ASK)
    if n % 2 == 0:
        raise ConfigError("modulus_even", "the modulus is even", not_done=_UNUSED, next_step=_ASK)
    if gmpy2.gcd(n, _small_primes()) != 1:
        what = f"the modulus has a prime factor of at most {TRIED}"
        raise ConfigError("modulus_small_factor", what, not_done=_UNUSED, next_step=_ASK)
    if gmpy2.is_power(n):
        what = "the modulus is a power of another number"
        raise ConfigError("modulus_power", what, not_done=_UNUSED, next_step=_ASK)
    if gmpy2.is_prime(n):
        what = "the modulus is a prime: everybody could open everything"
        raise ConfigError("modulus_prime", what, not_done=_UNUSED, next_step=_ASK)


def check_length(bits: int) -> None:
    """Returns for 2048 to 8192 bits. ConfigError `modulus_too_short`, `modulus_too_long`."""
    if bits < MIN_BITS:
        raise ConfigError(
            "modulus_too_short",
            f"a modulus of {bits} bits; {MIN_BITS} are the least",
            not_done=_UNUSED,
            next_step="take a longer one: `fedveil key deal --bits 3072`",
        )
    if bits > MAX_BITS:
        raise ConfigError(
            "modulus_too_long",
            f"a modulus of {bits} bits; {MAX_BITS} are the most",
            not_done=_UNUSED,
            next_step="take a shorter one: `fedveil key deal --bits 3072`",
        )


def root_bases(n: int) -> tuple[int, ...]:
    """rho_0..rho_7: units mod n that nobody chose. For an odd n without prime factors up to 65537."""
    return tuple(_root_base(n, index) for index in range(ROOTS))


def _root_base(n: int, index: int) -> int:
    width = _width(n)
    start = PREFIX.encode("ascii") + b"modulus" + integer(n, width) + bytes([index])
    # n has at most 512 prime factors above 2^16: that all 256 candidates share one with it does not happen
    drawn = (number(hashlib.shake_256(start + bytes([j])).digest(width + 16)) % n for j in range(256))
    return next(value for value in drawn if gmpy2.gcd(value, n) == 1)


def _check_roots(n: int, roots: Sequence[int]) -> None:
    wrong = [
        index
        for index, (root, base) in enumerate(zip(roots, root_bases(n), strict=False))
        if not 0 < root < n or gmpy2.powmod(root, n, n) != base
    ]
    if len(roots) != ROOTS or wrong:
        raise ConfigError(
            "modulus_wrong_roots",
            f"{len(roots)} roots, {len(wrong)} of them wrong; {ROOTS} right ones are needed",
            not_done=_UNUSED,
            next_step="ask the dealer for the record as he wrote it; if this is it, the modulus is unfit: deal another",
        )


def _width(n: int) -> int:
    return (int(n).bit_length() + 7) // 8


@functools.cache
def _small_primes() -> int:
    """The product of all primes up to 65537."""
    return gmpy2.primorial(TRIED)  # type: ignore[no-any-return]
