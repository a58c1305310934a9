"""The dealer's ceremony: two safe primes, the modulus and its roots, and nothing of the primes in what leaves.

Promise: `deal` returns public numbers that pass every check of `modulus`; the primes it was given are in no error and
no result. What erasing means here: the caller drops its last reference and the process ends. Python and GMP do not wipe
the memory of a number, and copies may lie in the pipe's buffer, in swap or in a core dump until they are overwritten.
Hence the ceremony belongs on a machine without network and swap, before witnesses, that is powered off afterwards.
Source: docs/paillier.md (D, "Dealer").
"""

import gmpy2

from fedveil_common.errors import IntegrityError
from fedveil_common.paillier.factors import TESTS, Factor, FactorPair
from fedveil_common.paillier.modulus import CheckedModulus, root_bases

APART = 100
"""p and q differ by more than 2^(|n|/2 - 100): Fermat's method finds what lies closer."""


def check_safe_prime(factor: Factor, bits: int) -> None:
    """Returns if `factor` is a safe prime of exactly `bits` bits whose top two bits are set: p and (p-1)/2 are prime.

    So that two of them make a modulus of exactly 2*bits bits. IntegrityError `bad_safe_prime`; it quotes no number.
    """
    value = factor.expose_number()
    if int(value).bit_length() != bits or not gmpy2.bit_test(value, bits - 2):
        raise _bad(f"it has not {bits} bits with the top two set")
    if not gmpy2.is_prime(value, TESTS) or not gmpy2.is_prime(value // 2, TESTS):
        raise _bad("it, or half of it, is composite")


def check_apart(p: Factor, q: Factor, bits: int) -> None:
    """Returns if two factors of `bits` bits are no near neighbours. IntegrityError `factors_too_close`."""
    if abs(p.expose_number() - q.expose_number()) <= 1 << (bits - APART):
        raise IntegrityError(
            "factors_too_close",
            "the two primes are equal in about their first 100 bits: the source of randomness is broken",
            not_done="both were dropped and nothing was written",
            next_step="do not use this machine; deal on another one",
        )


def safe_pair(p: Factor, q: Factor, bits: int) -> FactorPair:
    """`p` and `q` as the factors of a modulus of exactly `bits` bits, an even number. For whoever makes a key.

    IntegrityError `bad_safe_prime`, `factors_too_close`; ConfigError as `check_shape`.
    """
    for factor in (p, q):
        check_safe_prime(factor, bits // 2)
    check_apart(p, q, bits // 2)
    return FactorPair(p, q)


def deal(p: Factor, q: Factor, bits: int) -> CheckedModulus:
    """The modulus of `bits` bits from two fresh safe primes, with the roots that let everybody check it. Public.

    The caller drops the primes then. Errors as `safe_pair`. The powers do not take constant time: deal alone.
    """
    pair = safe_pair(p, q, bits)
    totient = (p.expose_number() - 1) * (q.expose_number() - 1)
    exponent = gmpy2.invert(pair.n, totient)
    roots = tuple(gmpy2.powmod(base, exponent, pair.n) for base in root_bases(pair.n))
    return CheckedModulus(pair.n, bits, roots)


def _bad(why: str) -> IntegrityError:
    return IntegrityError(
        "bad_safe_prime",
        f"a number that should be a safe prime is none: {why}",
        not_done="it was dropped and nothing was written",
        next_step="check `openssl version`, and deal again",
    )
