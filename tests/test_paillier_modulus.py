"""Which moduli are taken, and each refusal: with the check taken away the same number passes."""

import hashlib
from dataclasses import replace

import gmpy2
import pytest
from fedveil_common.errors import ConfigError
from fedveil_common.paillier import dealing, modulus, rsa_2048
from fedveil_common.paillier.factors import Factor
from fedveil_common.paillier.modulus import CheckedModulus, Origin, check_shape, root_bases
from gmpy2 import mpz
from paillier_numbers import DIVIDED, DIVIDING, PRIME, P, Q

DEALT = dealing.deal(Factor.of(P), Factor.of(Q), 2048)
N = P * Q
COFACTOR = int(gmpy2.next_prime(mpz(3 << 2046) // 65537))


def code_of(n: int, bits: int, roots: tuple[int, ...] = ()) -> str:
    """With which code the modulus is refused."""
    with pytest.raises(ConfigError) as refused:
        CheckedModulus(n, bits, roots)
    assert str(N)[:40] not in str(refused.value)
    return refused.value.code


def test_a_dealt_modulus_and_the_challenge_number_pass() -> None:
    assert (DEALT.n, DEALT.bits, DEALT.origin) == (N, 2048, Origin.DEALT)
    challenge = CheckedModulus(rsa_2048.N, 2048)
    assert challenge.origin is Origin.RSA_2048
    assert replace(challenge) == challenge


def test_the_challenge_number_is_the_published_one() -> None:
    assert hashlib.sha256(int(rsa_2048.N).to_bytes(256, "big")).digest() == rsa_2048.SHA256
    assert rsa_2048.SHA256.hex() == "6ae9d033c1d76c4f535b5ad5c0073933a0b375b4120a75fbb66be814eab1a9ce"
    text = str(rsa_2048.N)
    assert (len(text), text[:20], text[-10:]) == (617, "25195908475657893494", "2120720357")
    assert rsa_2048.N % 3 == 2


def test_roots_are_those_of_numbers_that_nobody_chose() -> None:
    """The derivation again, as the page of the protocol says it."""
    width = 256
    for index, (root, base) in enumerate(zip(DEALT.roots, root_bases(N), strict=True)):
        start = b"fedveil/paillier/modulus" + N.to_bytes(width, "big") + bytes([index])
        expected = int.from_bytes(hashlib.shake_256(start + b"\0").digest(width + 16), "big") % N
        assert base == expected
        assert pow(int(root), N, N) == expected


def test_a_candidate_that_shares_a_factor_is_passed_over() -> None:
    """Real moduli never show it: with a product of small primes in the place of n many candidates are no units."""
    n = 3 * 5 * 7 * 11 * 13
    for index, base in enumerate(root_bases(n)):
        start = b"fedveil/paillier/modulus" + n.to_bytes(2, "big") + bytes([index])
        drawn = (int.from_bytes(hashlib.shake_256(start + bytes([j])).digest(18), "big") % n for j in range(256))
        assert base == next(value for value in drawn if gmpy2.gcd(value, n) == 1)


# --- length and shape ----------


@pytest.mark.parametrize(
    ("n", "bits", "code"),
    [
        ((1 << 2046) + 1, 2047, "modulus_too_short"),
        (N, 1024, "modulus_too_short"),
        (N, 0, "modulus_too_short"),
        (N, 8193, "modulus_too_long"),
        (N, 2049, "modulus_wrong_length"),
        (N, 3072, "modulus_wrong_length"),
        (N >> 1, 2048, "modulus_wrong_length"),
        (0, 2048, "modulus_wrong_length"),
        (-N, 2048, "modulus_wrong_length"),
        (N + 1, 2048, "modulus_even"),
        (65537 * COFACTOR, 2048, "modulus_small_factor"),
        (P * P, 2048, "modulus_power"),
        (PRIME, 2048, "modulus_prime"),
    ],
    ids=lambda value: "" if isinstance(value, int) and value > 1 << 64 else None,
)
def test_shapes_that_are_refused(n: int, bits: int, code: str) -> None:
    assert code_of(n, bits, DEALT.roots) == code
    with pytest.raises(ConfigError) as refused:
        check_shape(n, bits)
    assert refused.value.code == code


def test_the_smallest_factor_that_is_tried_is_65537() -> None:
    """3 and 65537 are found; the next prime, 65539, is not, and would be if more were tried."""
    for factor, found in ((3, True), (65537, True), (65539, False)):
        n = factor * int(gmpy2.next_prime(mpz(3 << 2046) // factor))
        if found:
            assert code_of(n, 2048, DEALT.roots) == "modulus_small_factor"
        else:
            check_shape(n, 2048)


def test_nothing_else_stops_a_small_factor(monkeypatch: pytest.MonkeyPatch) -> None:
    """65537 times a prime has its 8 roots: whoever does not try small primes takes it."""
    n = 65537 * COFACTOR
    inverse = gmpy2.invert(n, 65536 * (COFACTOR - 1))
    roots = tuple(gmpy2.powmod(base, inverse, n) for base in root_bases(n))
    assert code_of(n, 2048, roots) == "modulus_small_factor"
    monkeypatch.setattr(modulus, "_small_primes", lambda: 1)
    assert CheckedModulus(n, 2048, roots).n == n


# --- roots ----------


@pytest.mark.parametrize("count", [1, 7, 9])
def test_another_number_of_roots(count: int) -> None:
    assert code_of(N, 2048, (*DEALT.roots, DEALT.roots[0])[:count]) == "modulus_wrong_roots"


@pytest.mark.parametrize("index", range(8))
def test_each_root_is_checked(index: int) -> None:
    for wrong in (DEALT.roots[index] + 1, DEALT.roots[index] + N, DEALT.roots[index] - N, 0, N - DEALT.roots[index]):
        roots = (*DEALT.roots[:index], wrong, *DEALT.roots[index + 1 :])
        assert code_of(N, 2048, roots) == "modulus_wrong_roots"


def test_roots_of_another_modulus() -> None:
    assert code_of(rsa_2048.N, 2048, DEALT.roots) == "modulus_wrong_roots"


def test_no_roots_exist_where_one_factor_divides_the_other_less_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever has the factors of such a modulus tries his best: he inverts n in the part of the exponents where he can.

    With the check of the roots taken away it passes: nothing else stops it.
    """
    n = DIVIDING * DIVIDED
    bits = n.bit_length()
    totient = (DIVIDING - 1) * (DIVIDED - 1)
    assert gmpy2.gcd(n, totient) == DIVIDING
    best = gmpy2.invert(n, totient // DIVIDING)
    roots = tuple(gmpy2.powmod(base, best, n) for base in root_bases(n))
    right = [gmpy2.powmod(root, n, n) == base for root, base in zip(roots, root_bases(n), strict=True)]
    assert right == [False] * 8
    with pytest.raises(ZeroDivisionError):
        gmpy2.invert(n, totient)
    assert code_of(n, bits, roots) == "modulus_wrong_roots"
    check_shape(n, bits)
    monkeypatch.setattr(modulus, "_check_roots", lambda *_: None)
    assert CheckedModulus(n, bits, roots).n == n


# --- the pinned number ----------


def test_only_the_pinned_number_needs_no_roots(monkeypatch: pytest.MonkeyPatch) -> None:
    assert code_of(N, 2048) == "modulus_without_roots"
    assert code_of(rsa_2048.N + 2, 2048) in {"modulus_without_roots", "modulus_small_factor"}
    monkeypatch.setattr(rsa_2048, "SHA256", hashlib.sha256(b"another").digest())
    assert code_of(rsa_2048.N, 2048) == "modulus_without_roots"
    monkeypatch.setattr(rsa_2048, "SHA256", hashlib.sha256(N.to_bytes(256, "big")).digest())
    assert CheckedModulus(N, 2048).n == N
