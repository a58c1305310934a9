"""Numbers that are only ever rounded upwards, so that no privacy figure is below the truth.

Promise: what is computed under `rounding_up` from non-negative terms, by sums, products, quotients by exact numbers and
increasing functions, is an upper bound of the exact value (MPFR rounds each operation correctly in the direction asked
for, and 256 bits make the bound tight); `least_float` carries that bound into a float, `plus` adds floats. Nothing here
is a tolerance that somebody measured: a stop that rests on these numbers is never late.
Source: IEEE 754-2019 section 4.3.2 (directed rounding); MPFR manual, "Rounding".
"""

import math
from collections.abc import Iterable
from contextlib import AbstractContextManager
from fractions import Fraction

import gmpy2

PRECISION = 256
"""Bits of the numbers between exact input and float result."""


def rounding_up() -> AbstractContextManager[object]:
    """The arithmetic of `gmpy2.mpfr` within the `with`: 256 bits, every operation rounded towards plus infinity."""
    context: AbstractContextManager[object] = gmpy2.context(precision=PRECISION, round=gmpy2.RoundUp)
    return context


def rounding_down() -> AbstractContextManager[object]:
    """As `rounding_up`, towards minus infinity: for what enters with a minus sign."""
    context: AbstractContextManager[object] = gmpy2.context(precision=PRECISION, round=gmpy2.RoundDown)
    return context


def least_float(value: "Fraction | int | gmpy2.mpfr") -> float:
    """The least float that is not below `value`; infinity beyond the floats. ValueError for NaN."""
    try:
        near = float(value)
    except OverflowError:
        return math.inf if value > 0 else -math.inf
    if math.isnan(near):
        raise ValueError("a bound is a number")
    return near if near >= value else math.nextafter(near, math.inf)


def plus(values: Iterable[float]) -> float:
    """The least float that is not below the sum of non-negative floats: the same in any order."""
    terms = [value for value in values if value]
    try:
        near = math.fsum(terms)  # the exact sum, rounded once
    except OverflowError:
        return math.inf
    if near == math.inf:
        return near
    return math.nextafter(near, math.inf) if math.fsum((*terms, -near)) > 0 else near
