"""Shamir secret sharing of 32 bytes over the field of p = 2^256 + 297, the smallest prime above 2^256.

Invariant: any `threshold` shares give back the secret, fewer say nothing about it, and `reconstruct` returns 32 bytes
or raises. It cannot know that a well-formed share is false: callers check each share against its dealer's commitment
first and the recovered secret against its public key or seed commitment afterwards.
Source: Shamir 1979; FLSA/1 section 2.3, M3 (docs/protocol.md).
"""

from collections.abc import Mapping, Sequence
from functools import lru_cache

from fedveil_common.errors import IntegrityError
from fedveil_common.secret import Share

PRIME = 2**256 + 297
SECRET_BYTES = 32
SHARE_BYTES = 33
MAX_X = 65_535
"""x-coordinates travel as u16 and 0 would be the secret itself."""


def deal(secret: bytes, threshold: int, xs: Sequence[int], coefficients: Sequence[int]) -> dict[int, Share]:
    """Shares of a 32-byte secret by x-coordinate: the polynomial secret + c1 x + ... at every x of `xs`.

    `coefficients`: exactly threshold-1 integers, uniform in [0, p) and used once. Each share is for the organisation at
    its x only. Misuse raises ValueError.
    """
    if len(secret) != SECRET_BYTES:
        raise ValueError(f"a dealt secret is {SECRET_BYTES} bytes, not {len(secret)}")
    if not 1 <= threshold <= len(xs):
        raise ValueError(f"a threshold of {threshold} does not fit {len(xs)} shares")
    if len(coefficients) != threshold - 1 or not all(0 <= c < PRIME for c in coefficients):
        raise ValueError(f"a threshold of {threshold} takes {threshold - 1} coefficients in [0, p)")
    if len(set(xs)) != len(xs) or not all(1 <= x <= MAX_X for x in xs):
        raise ValueError(f"x-coordinates are distinct and within 1 .. {MAX_X}")
    constant = int.from_bytes(secret, "big")
    descending = tuple(reversed(coefficients))
    shares = {}
    for x in xs:
        y = 0
        for c in descending:
            y = (y + c) * x % PRIME
        shares[x] = Share(((y + constant) % PRIME).to_bytes(SHARE_BYTES, "big"))
    return shares


def check_share(value: bytes) -> Share:
    """`value` as a share if it is 33 bytes of an integer below p; raises IntegrityError `bad_share`."""
    if len(value) != SHARE_BYTES:
        raise IntegrityError("bad_share", f"a share has {len(value)} bytes instead of {SHARE_BYTES}")
    if int.from_bytes(value, "big") >= PRIME:
        raise IntegrityError("bad_share", "a share is not below the field's prime")
    return Share(value)


def check_coordinates(xs: Sequence[int]) -> None:
    """Returns if `xs` are distinct and within 1 .. 65535; raises IntegrityError `bad_share`.

    A share at x = 0 would be the secret itself, and the interpolation would return it whatever the others say.
    """
    if len(set(xs)) != len(xs) or not all(1 <= x <= MAX_X for x in xs):
        raise IntegrityError("bad_share", f"x-coordinates must be distinct and within 1 .. {MAX_X}")


def lagrange_at_zero(xs: Sequence[int]) -> list[int]:
    """Weights w with secret = sum w_k y_k mod p for shares y at `xs`, in the order of `xs`; public values.

    Remembered per set of xs, so that the many secrets of a round share one computation. Raises IntegrityError
    `bad_share` for an x of zero, out of range, or given twice.
    """
    check_coordinates(xs)
    return list(_lagrange(tuple(xs)))


def reconstruct(shares: Mapping[int, Share | bytes], threshold: int) -> bytes:
    """The 32-byte secret behind `shares`, taken at the `threshold` smallest x-coordinates; all shares are checked.

    Raises IntegrityError `too_few_shares`, `bad_share` (wrong length, not below p, x of zero) or `not_a_secret` (the
    polynomial's value at zero is no 32-byte string: some share was false). Whoever calls this learns the secret.
    """
    if threshold < 1:
        raise ValueError("a threshold is at least 1")
    if len(shares) < threshold:
        raise IntegrityError("too_few_shares", f"{len(shares)} shares are here and {threshold} are needed")
    checked = {x: check_share(s.expose() if isinstance(s, Share) else s) for x, s in shares.items()}
    check_coordinates(list(checked))
    xs = sorted(checked)[:threshold]
    value = 0
    for x, weight in zip(xs, lagrange_at_zero(xs), strict=True):
        value += weight * int.from_bytes(checked[x].expose(), "big")
    value %= PRIME
    if value >= 1 << (8 * SECRET_BYTES):
        raise IntegrityError("not_a_secret", "the shares do not lie on a polynomial of a 32-byte secret")
    return value.to_bytes(SECRET_BYTES, "big")


@lru_cache(maxsize=16)
def _lagrange(xs: tuple[int, ...]) -> tuple[int, ...]:
    weights = []
    for x in xs:
        numerator = denominator = 1
        for other in xs:
            if other != x:
                numerator = numerator * other % PRIME
                denominator = denominator * (other - x) % PRIME
        weights.append(numerator * pow(denominator, -1, PRIME) % PRIME)
    return tuple(weights)
