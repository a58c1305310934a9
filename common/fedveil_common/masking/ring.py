"""The ring Z_2^b of a secure sum, b in 8..64: which width a sum needs, and how residues stand in machine words.

Invariant: arithmetic runs in words of 32 bits for b <= 32 and of 64 bits above, and wraps there; since 2^b divides the
word, the low b bits are the residue whatever stands above them. Only the low b bits travel (`packing`), and a sum is
read as signed from bit b-1. Source: FLSA/1 section 2.5 with A14 (docs/protocol.md).
"""

import numpy as np
from numpy.typing import NDArray

from fedveil_common.errors import PeerError

MIN_BITS, MAX_BITS = 8, 64

Ring = NDArray[np.uint32] | NDArray[np.uint64]
"""A vector of residues modulo 2^b, one-dimensional: uint32 for b <= 32, uint64 above."""

Signed = NDArray[np.int32] | NDArray[np.int64]
"""Signed integers, one-dimensional: a vector before it enters the ring, or what an opened sum says (`signed`)."""


def word(bits: int) -> type[np.uint32] | type[np.uint64]:
    """The dtype in which residues modulo 2^bits are computed. ValueError for a ring that does not exist."""
    if not MIN_BITS <= bits <= MAX_BITS:
        raise ValueError(f"a ring has {MIN_BITS} to {MAX_BITS} bits, not {bits}")
    return np.uint32 if bits <= 32 else np.uint64


def zeros(count: int, bits: int) -> Ring:
    """`count` residues of zero, in the ring's words."""
    return np.zeros(count, dtype=np.uint32) if word(bits) is np.uint32 else np.zeros(count, dtype=np.uint64)


def signed_zeros(count: int, bits: int) -> Signed:
    """`count` zeros in the integers that `signed` gives for this ring."""
    return np.zeros(count, dtype=np.int32) if word(bits) is np.uint32 else np.zeros(count, dtype=np.int64)


def smallest(members: int, value_bits: int, noise_bound: int = 0) -> int:
    """The smallest b in which the sum of `members` signed values of `value_bits`, plus noise up to `noise_bound` in
    absolute value, does not wrap: N*(2^(value_bits-1)-1) + noise < 2^(b-1). PeerError `ring_would_wrap` above 64 bits.
    """
    largest: int = members * ((1 << (value_bits - 1)) - 1) + noise_bound
    bits = max(MIN_BITS, value_bits, largest.bit_length() + 1)
    if bits > MAX_BITS:
        raise PeerError(
            "ring_would_wrap",
            f"{members} values of {value_bits} bits need a ring of {bits} bits, and the widest has {MAX_BITS}",
        )
    return bits


def residues(integers: Signed, bits: int) -> Ring:
    """Two's complement residues of signed integers, shape (d,), in fresh memory. ValueError for a value outside `bits`
    signed bits.
    """
    bound = 1 << (bits - 1)
    if integers.size and (int(integers.min()) < -bound or int(integers.max()) >= bound):
        raise ValueError(f"a value does not fit the ring of {bits} bits")
    return integers.astype(np.uint32) if word(bits) is np.uint32 else integers.astype(np.uint64)  # both wrap


def signed(ring: Ring, bits: int) -> Signed:
    """The signed integers behind residues modulo 2^bits, within -2^(bits-1) .. 2^(bits-1)-1: shape (d,), int32 for
    b <= 32, int64 above; in fresh memory unless bits fill the word. Bits above the ring are ignored.

    ValueError for an array in other words than the ring's.
    """
    if ring.dtype != word(bits) or ring.ndim != 1:
        raise ValueError(f"residues modulo 2^{bits} are a one-dimensional {word(bits).__name__} array")
    if ring.dtype == np.uint32:
        unused = 32 - bits
        narrow = ring.view(np.int32)
        return (narrow << np.int32(unused)) >> np.int32(unused) if unused else narrow
    unused = 64 - bits
    wide = ring.view(np.int64)
    return (wide << np.int64(unused)) >> np.int64(unused) if unused else wide
