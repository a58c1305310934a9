"""The distributions drawn exactly, from fair bits, in rational arithmetic: slow, and plain enough to check by hand.

Promise: what these functions return has exactly the named distribution if the bits are independent and fair; no float,
no table, no approximation. The tables are tested against them. How many bits are read depends on the values, so there
is no seeking. Source: Canonne, Kamath, Steinke, "The Discrete Gaussian for Differential Privacy" (NeurIPS 2020),
algorithms 1 to 3, whose letters are used. Not constant-time.
"""

from collections.abc import Iterator
from fractions import Fraction
from math import isqrt

import numpy as np

from fedveil_common.crypto.prg import Streams

_WORDS_AT_ONCE = 512


def bits(key: bytes) -> Iterator[int]:
    """The bits of the key's stream without end, each 64-bit word from its lowest on: 0 or 1, fair without the key."""
    stream, words = Streams([(key, False)], 0, 8), np.empty(_WORDS_AT_ONCE, dtype="<u8")
    while True:
        stream.fill(words)
        yield from np.unpackbits(words.view(np.uint8), bitorder="little").tolist()


def below(bound: int, source: Iterator[int]) -> int:
    """Uniform on 0 .. bound-1, by rejection; ValueError for a bound below 1."""
    if bound < 1:
        raise ValueError("a uniform draw needs a bound of one or more")
    width = (bound - 1).bit_length()
    while True:
        value = 0
        for _ in range(width):
            value = 2 * value + next(source)
        if value < bound:
            return value


def bernoulli(p: Fraction, source: Iterator[int]) -> bool:
    """True with probability p; ValueError unless 0 <= p <= 1."""
    if not 0 <= p <= 1:
        raise ValueError("a probability is within 0 .. 1")
    return below(p.denominator, source) < p.numerator


def bernoulli_exp(gamma: Fraction, source: Iterator[int]) -> bool:
    """True with probability e^-gamma, gamma >= 0: algorithm 1; ValueError for gamma below 0."""
    if gamma < 0:
        raise ValueError("an exponent is 0 or more")
    for _ in range(int(gamma)):
        if not _bernoulli_exp_fraction(Fraction(1), source):
            return False
    return _bernoulli_exp_fraction(gamma - int(gamma), source)


def _bernoulli_exp_fraction(gamma: Fraction, source: Iterator[int]) -> bool:
    """Algorithm 1 for gamma within 0 .. 1: the number of successes at gamma, gamma/2, gamma/3, .. is even."""
    k = 1
    while bernoulli(gamma / k, source):
        k += 1
    return k % 2 == 1


def laplace(scale: Fraction, source: Iterator[int]) -> int:
    """An x with probability proportional to exp(-|x| / scale), scale = t/s: algorithm 2; ValueError for scale <= 0."""
    if scale <= 0:
        raise ValueError("a scale is positive")
    t, s = scale.numerator, scale.denominator
    while True:
        u = below(t, source)
        if not bernoulli_exp(Fraction(u, t), source):
            continue
        v = 0
        while bernoulli_exp(Fraction(1), source):
            v += 1
        y = (u + t * v) // s
        negative = next(source) == 1
        if not (negative and y == 0):
            return -y if negative else y


def gaussian(variance: Fraction, source: Iterator[int]) -> int:
    """An x with probability proportional to exp(-x^2 / 2 variance): algorithm 3; ValueError for variance <= 0."""
    if variance <= 0:
        raise ValueError("a variance is positive")
    t = isqrt(int(variance)) + 1
    while True:
        y = laplace(Fraction(t), source)
        if bernoulli_exp((abs(y) - variance / t) ** 2 / (2 * variance), source):
            return y
