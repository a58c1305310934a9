"""The ordinary key pair: one holder has the factors and opens everything. For one operator, tests, interoperability.

Promise: with s = 1 a ciphertext is one of Paillier's under n, and any implementation with the same key opens it and
adds to it. Invariant: c = (1+n)^m * h^r mod n^(s+1), h an n^s-th residue that nobody chose and a square, r fresh and of
256 bits (or |n|/2). No threshold and no certificate: the holder reads each single ciphertext that it is given.
Source: Paillier 1999; Damgard, Jurik 2001; Damgard, Jurik, Nielsen 2010 (short randomness); docs/paillier.md.
Nothing here takes constant time: whoever can measure the process that encrypts or decrypts may learn of r or p, q.
"""

from collections.abc import Iterable
from typing import NoReturn

import gmpy2

from fedveil_common.paillier.encoding import hp, integer, number
from fedveil_common.paillier.factors import FactorPair
from fedveil_common.paillier.group import Group, product
from fedveil_common.paillier.modulus import check_shape
from fedveil_common.paillier.modulus_record import check_exponent
from fedveil_common.paillier.public_key import base
from fedveil_common.ports import Entropy

SHORT_BITS = 256
"""Of the randomness r; needs the assumption that h^r with short r looks like any residue. |n|/2 needs less."""


class SingleHolderKey:
    """The public half: whoever has it can encrypt and add, and nobody can open with it. Public.

    `bits`: of n, exactly. `randomness`: bits of r, a multiple of 8 from 256 to |n|/2. ConfigError as `check_shape`, and
    `bad_exponent`; ValueError for the randomness. That n has no divisor in common with phi(n) only the holder knows.
    """

    def __init__(self, n: int, bits: int, s: int = 1, randomness: int = SHORT_BITS) -> None:
        check_shape(n, bits)
        check_exponent(s)
        if randomness % 8 or not SHORT_BITS <= randomness <= bits // 2:
            raise ValueError(f"randomness has {SHORT_BITS} to {bits // 2} bits, in whole bytes")
        self.group = Group(n, s)
        self.bits = bits
        self._randomness = randomness
        self._h = self.group.lift(base(self.group))

    @property
    def fingerprint(self) -> bytes:
        """32 bytes to compare: of n and s."""
        return hp("single-holder", integer(self.group.n, self.group.short_bytes), bytes([self.group.s]))

    def encrypt(self, message: int, entropy: Entropy) -> int:
        """A fresh ciphertext of `message`, 0 <= message < n^s (else ValueError). Whoever sees the draw can open it."""
        if not 0 <= message < self.group.plain:
            raise ValueError("a plaintext is below n^s and not negative")
        drawn = number(entropy.take(self._randomness // 8))
        mask = gmpy2.powmod(self._h, drawn, self.group.cipher)
        return self.group.one_plus(message) * mask % self.group.cipher  # type: ignore[no-any-return]

    def add(self, ciphertexts: Iterable[int]) -> int:
        """A ciphertext of the sum of their plaintexts mod n^s; not re-randomised. PeerError `bad_group_element`."""
        found = tuple(ciphertexts)
        if not found:
            raise ValueError("a sum of nothing has no ciphertext")
        self.check(found)
        return product(found, self.group.cipher)

    def check(self, ciphertexts: Iterable[int], peer: str = "") -> None:
        """Each is canonical, above 1 and a unit mod n^(s+1). PeerError `bad_group_element`, before any arithmetic."""
        self.group.check_long(ciphertexts, "ciphertext", peer)


class SingleHolderPrivateKey:
    """The private half: opens everything under `public`. Its holder alone; it shows no factor and cannot be pickled.

    ConfigError as `SingleHolderKey` and `FactorPair`.
    """

    __slots__ = ("_halves", "_inverse", "factors", "public")

    def __init__(self, factors: FactorPair, s: int = 1, randomness: int = SHORT_BITS) -> None:
        self.factors = factors
        self.public = SingleHolderKey(factors.n, int(factors.n).bit_length(), s, randomness)
        p, q = factors.p.expose_number(), factors.q.expose_number()
        self._halves = (_Half(p, self.public.group), _Half(q, self.public.group))
        self._inverse = gmpy2.invert(p**s, q**s)

    def decrypt(self, ciphertext: int) -> int:
        """The plaintext, 0 <= m < n^s, for the holder. PeerError `bad_group_element` if it is no ciphertext.

        Two powers with exponents of half the length of n (Chinese remainders), about 4 times cheaper than one.
        """
        self.public.check([ciphertext])
        first, second = self._halves
        m_p, m_q = first.open(ciphertext), second.open(ciphertext)
        return m_p + first.plain * ((m_q - m_p) * self._inverse % second.plain)  # type: ignore[no-any-return]

    def __repr__(self) -> str:
        return f"{type(self).__name__}(<redacted>)"

    def __reduce__(self) -> NoReturn:
        raise TypeError("a private key refuses pickling")


class _Half:
    """Decryption modulo p^(s+1). Secret.

    c^(p-1) is (1+n)^(m(p-1)), because an n^s-th residue to the (p-1) is 1; the p-adic logarithm is additive, so that
    log c^(p-1) / log (1+n)^(p-1) is m mod p^s. The series ends after s terms: p divides its argument, and s < p.
    """

    __slots__ = ("_digits", "_inverse", "_modulus", "_p", "plain")

    def __init__(self, p: int, group: Group) -> None:
        self._p, self._digits = p, group.s
        self.plain = p**group.s
        self._modulus = self.plain * p
        self._inverse = gmpy2.invert(self._log(1 + group.n), self.plain)

    def open(self, ciphertext: int) -> int:
        """The plaintext mod p^s."""
        return self._log(ciphertext) * self._inverse % self.plain  # type: ignore[no-any-return]

    def __repr__(self) -> str:
        return f"{type(self).__name__}(<redacted>)"

    def _log(self, value: int) -> int:
        """log(value^(p-1)) / p mod p^s."""
        argument = gmpy2.powmod(value, self._p - 1, self._modulus) - 1
        total, power = argument, argument
        for index in range(2, self._digits + 1):
            power = -power * argument % self._modulus
            total += power * gmpy2.invert(index, self._modulus)
        return total % self._modulus // self._p  # type: ignore[no-any-return]
