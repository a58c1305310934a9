"""Noise by its definition: each weight on its own from series, edges by exact division, and both words of every draw.

A table has P(x) for |x| <= bound, normalised; edge x is floor(2^128 F(x) + 1/2) for x < 0 and 2^128 minus its mirror
image for x >= 0. Coordinate i of lane L has U = 2^64 * word(L, i) + word(L + 1, i), where word(L, i) is 64-bit word
L * 2^60 + i of the key's AES-CTR stream; its value is the number of edges <= U, counted from -bound.
"""

from collections.abc import Callable
from fractions import Fraction
from math import isqrt

from tests.reference import aes

ONE = 1 << 640
Half = list[int]
"""Weights of 0, 1, .. bound in some unit."""


def exp_minus(x: Fraction) -> int:
    """e^-x in units of 2^-640, some 600 bits of them right: the series at the fraction, a power for the integer."""

    def series(y: Fraction) -> int:
        total, term, k = ONE, ONE, 0
        while term:
            k += 1
            term = term * y.numerator // (y.denominator * k)
            total += -term if k % 2 else term
        return total

    result, power, n = series(x % 1), series(Fraction(1)), int(x)
    while n:
        if n % 2:
            result = result * power // ONE
        power, n = power * power // ONE, n // 2
    return result


def least(enough: Callable[[int], bool]) -> int:
    """The least integer >= 1 that is enough."""
    bound = 1
    while not enough(bound):
        bound += 1
    return bound


def gaussian(v: Fraction) -> Half:
    """e^(-x^2 / 2v), as far as 12.5 sigma."""
    return [exp_minus(x * x / (2 * v)) for x in range(least(lambda b: 4 * b * b >= 625 * v) + 1)]


def laplace(scale: Fraction) -> Half:
    """e^(-x / scale), as far as 75 scales."""
    return [exp_minus(x / scale) for x in range(least(lambda b: b >= 75 * scale) + 1)]


def remainders(scale: Fraction, m: int) -> Half:
    """The difference of two variables on 0 .. m-1 with weights e^(-b / scale), by the sum over all pairs."""
    q = [exp_minus(b / scale) for b in range(m)]
    return [sum(q[b] * q[b + d] for b in range(m - d)) for d in range(m)]


def skellam(v: Fraction) -> Half:
    """Sum over j of l^j / j! * l^(j+k) / (j+k)! with l = v/2, as far as Bernstein's inequality asks."""
    mean, weights, first = v / 2, [], ONE
    for k in range(least(lambda b: 3 * b * b - 152 * b >= 456 * v) + 1):
        first = first * mean.numerator // (mean.denominator * k) if k else ONE
        total, term, j = 0, first, 0
        while term:
            total, j = total + term, j + 1
            term = term * mean.numerator**2 // (mean.denominator**2 * j * (j + k))
        weights.append(total)
    return weights


def edges(half: Half) -> list[int]:
    """The edges of -bound .. bound-1."""
    total = 2 * sum(half) - half[0]
    lower = [(2**129 * sum(half[x:]) + total) // (2 * total) for x in range(len(half) - 1, 0, -1)]
    return lower + [2**128 - edge for edge in reversed(lower)]


def word(key: bytes, lane: int, coordinate: int) -> int:
    """A 64-bit word of a lane."""
    low, high = aes.words(key, 2 * (lane * 2**60 + coordinate), 2)
    return high << 32 | low


def draw(table: list[int], key: bytes, start: int, count: int, lane: int = 0) -> list[int]:
    """The values of coordinates start .. start+count: counted from the middle of the table, without a search tree."""
    values = []
    for coordinate in range(start, start + count):
        u = word(key, lane, coordinate) << 64 | word(key, lane + 1, coordinate)
        first, last = 0, len(table)
        while first < last:
            middle = (first + last) // 2
            first, last = (middle + 1, last) if table[middle] <= u else (first, middle)
        values.append(first - len(table) // 2)
    return values


def two(factor: int, coarse: Half, fine: Half, key: bytes, start: int, count: int) -> list[int]:
    """The draws of factor * coarse + fine: lanes 0 and 1, lanes 2 and 3."""
    pairs = zip(draw(edges(coarse), key, start, count), draw(edges(fine), key, start, count, 2), strict=True)
    return [factor * a + b for a, b in pairs]


def wide_gaussian(v: Fraction) -> tuple[int, Half, Half]:
    """Factor, coarse and fine part above sigma = 2^10."""
    factor = 2 * isqrt(isqrt(int(v))) // 3
    coarse = v // factor**2 - 5
    return factor, gaussian(Fraction(coarse)), gaussian(v - factor**2 * coarse)


def wide_laplace(scale: Fraction) -> tuple[int, Half, Half]:
    """Factor, coarse and fine part above scale 64."""
    factor = isqrt(64 * int(scale))
    return factor, laplace(scale / factor), remainders(scale, factor)
