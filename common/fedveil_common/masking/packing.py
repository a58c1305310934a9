"""Residues as they travel and rest: the low b bits of each, and nothing else.

Format of a leaf of n residues modulo 2^b: b is split into powers of two, the largest first (20 = 16 + 4). Each part of
w bits takes the next w bits of every residue, from the low end. w >= 8: n little-endian words of w bits. w < 8: the n
parts, zero-padded to n' = 8*ceil(n/8), in s = n'*w/8 bytes; byte m holds parts m, m+s, m+2s, ... from its low end.
Invariant: one sequence of residues has one packed form: padding that is not zero is refused. A ring of 32 bits packs
to little-endian u32. Source: FLSA/1 A14 (docs/protocol.md). Vectors: tests/vectors/packing.json.
"""

import numpy as np
from numpy.typing import NDArray

from fedveil_common.errors import PeerError
from fedveil_common.masking.ring import Ring, word, zeros

_WORDS: dict[int, np.dtype[np.unsignedinteger]] = {
    64: np.dtype("<u8"),
    32: np.dtype("<u4"),
    16: np.dtype("<u2"),
    8: np.dtype("u1"),
}
_PARTS = (64, 32, 16, 8, 4, 2, 1)


def size_bytes(count: int, bits: int) -> int:
    """How many bytes `count` residues modulo 2^bits take."""
    word(bits)
    return sum(_part_bytes(count, width) for width in _PARTS if bits & width)


def pack(ring: Ring, bits: int) -> bytearray:
    """The packed form of `ring` (shape (n,), the ring's words); bits above the ring do not matter."""
    out = bytearray(size_bytes(len(ring), bits))
    pack_into(ring, bits, memoryview(out))
    return out


def pack_into(ring: Ring, bits: int, out: memoryview) -> None:
    """As `pack`, into exactly `size_bytes(n, bits)` writable bytes."""
    count, taken, at = len(ring), 0, 0
    if ring.dtype != word(bits) or len(out) != size_bytes(count, bits):
        raise ValueError(f"{len(out)} bytes cannot take {count} residues of {ring.dtype} modulo 2^{bits}")
    buffer = np.frombuffer(out, dtype=np.uint8)
    for width in _PARTS:
        if not bits & width:
            continue
        size = _part_bytes(count, width)
        rest = ring >> ring.dtype.type(taken) if taken else ring
        if width >= 8:
            np.copyto(buffer[at : at + size].view(_WORDS[width]), rest, casting="unsafe")
        else:
            _pack_small(rest, width, buffer[at : at + size])
        taken, at = taken + width, at + size


def unpack(data: bytes | bytearray | memoryview, count: int, bits: int) -> Ring:
    """The residues in a packed leaf: shape (count,), each below 2^bits, in fresh memory.

    PeerError `bad_leaf` for another size than `size_bytes(count, bits)` or padding that is not zero.
    """
    if len(data) != size_bytes(count, bits):
        raise PeerError("bad_leaf", f"{count} residues modulo 2^{bits} take {size_bytes(count, bits)} bytes")
    buffer = np.frombuffer(data, dtype=np.uint8)
    ring = zeros(count, bits)
    taken, at = 0, 0
    for width in _PARTS:
        if not bits & width:
            continue
        size = _part_bytes(count, width)
        piece = buffer[at : at + size]
        part = piece.view(_WORDS[width]) if width >= 8 else _unpack_small(piece, width, count)
        if taken:
            wide = zeros(count, bits)
            np.copyto(wide, part, casting="unsafe")
            wide <<= ring.dtype.type(taken)
            ring |= wide
        else:
            np.copyto(ring, part, casting="unsafe")
        taken, at = taken + width, at + size
    return ring


def _part_bytes(count: int, width: int) -> int:
    return count * width // 8 if width >= 8 else -(-count // 8) * width


def _pack_small(rest: Ring, width: int, out: NDArray[np.uint8]) -> None:
    """Parts of fewer than 8 bits: neighbours in a byte lie `len(out)` apart in the vector, so each step is a slice."""
    parts = np.zeros(len(out) * (8 // width), dtype=np.uint8)
    np.copyto(parts[: len(rest)], rest, casting="unsafe")
    parts &= np.uint8((1 << width) - 1)
    groups = parts.reshape(8 // width, len(out))
    np.copyto(out, groups[0])
    for index in range(1, 8 // width):
        out |= groups[index] << np.uint8(width * index)


def _unpack_small(piece: NDArray[np.uint8], width: int, count: int) -> NDArray[np.uint8]:
    groups = np.empty((8 // width, len(piece)), dtype=np.uint8)
    low = np.uint8((1 << width) - 1)
    for index in range(8 // width):
        np.bitwise_and(piece >> np.uint8(width * index), low, out=groups[index])
    parts = groups.reshape(-1)
    if parts[count:].any():
        raise PeerError("bad_leaf", "the padding of a packed leaf is not zero")
    return parts[:count]
