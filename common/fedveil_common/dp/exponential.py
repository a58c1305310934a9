"""e^-x in integers, with a proven error: what the weights of a noise distribution are made of.

Invariant: integers only, so the result is the same on every platform and never depends on a floating-point unit.
"""

from fractions import Fraction

_GUARD = 64
"""Bits beyond those asked for, in which the rounding of the series and of the squarings disappears."""

MAX_EXPONENT = 2**32
"""Largest x: at most 32 squarings."""

MAX_BITS = 2**20


def exp_minus(x: Fraction, bits: int) -> int:
    """The n of n <= e^-x * 2^bits <= n + 2, for 0 <= x <= 2^32 and 1 <= bits <= 2^20; ValueError outside.

    Proof. With u = 2^-(bits+64) and x halved h <= 32 times to y <= 1, term k of e^y is stored in units of u, rounded
    down from its stored predecessor: it lacks at most 2 units (its predecessor's lack, halved or, for k = 1, none,
    and less than one of its own). Terms vanish by k = K <= bits + 66, and those after K are together below 2 units, so
    the sum lacks at most 2K + 2 <= s; the divisions of 1 by sum + s and by sum enclose e^-y, at most s + 1 apart since
    the sum is at least 1. A squaring rounded down takes a lack of e units to at most 2e + 2: after h of them it is
    below 2^32 (s + 3) <= 2^56, and the shift by 64 leaves less than one unit of 2^-bits, and adds less than one.
    """
    if not (0 <= x <= MAX_EXPONENT and 1 <= bits <= MAX_BITS):
        raise ValueError(f"an exponent is within 0 .. {MAX_EXPONENT}, a precision within 1 .. {MAX_BITS} bits")
    halvings = 0
    while x > 1:
        x /= 2
        halvings += 1
    one = 1 << (bits + _GUARD)
    term = total = one
    k = 0
    while term:
        k += 1
        term = term * x.numerator // (x.denominator * k)
        total += term
    power = one * one // (total + 2 * k + 2)
    for _ in range(halvings):
        power = power * power // one
    return power >> _GUARD
