"""Blocks of ciphertexts as leaves: how an input, the product and a partial decryption lie on the wire and on the disk.

An input's leaf b is I(c_b) || I(C_b) || I(body_b1) .. I(body_bw); the product's is the same of the products (c*_b, L_b,
bodies); a partial decryption's is I(D_b1) .. I(D_bw). Invariant: reading gives integers of the right number and width;
whether they are canonical units is checked where they are computed with. Public. Source: docs/paillier.md, section 6.
"""

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from fedveil_common.messages import CipherHeader, Noise
from fedveil_common.paillier.encoding import integer, number
from fedveil_common.paillier.input_proof import InputHeader
from fedveil_common.paillier.round_shape import RoundShape


@dataclass(frozen=True, slots=True)
class BlockLeaf:
    """One block as it travels."""

    header: int
    lift: int
    bodies: tuple[int, ...]


def write_block(block: BlockLeaf, shape: RoundShape) -> bytes:
    """The bytes of a block. OverflowError for a number that does not fit."""
    long = shape.long_bytes
    parts = [integer(block.header, shape.short_bytes), integer(block.lift, long)]
    parts.extend(integer(body, long) for body in block.bodies)
    return b"".join(parts)


def read_block(data: bytes | bytearray | memoryview, shape: RoundShape) -> BlockLeaf:
    """The block behind `input_leaf_bytes` bytes; ValueError for another size."""
    if len(data) != shape.input_leaf_bytes:
        raise ValueError(f"a block has {shape.input_leaf_bytes} bytes, not {len(data)}")
    view, short, long = memoryview(data), shape.short_bytes, shape.long_bytes
    numbers = [number(view[at : at + long]) for at in range(short, len(view), long)]
    return BlockLeaf(number(view[:short]), numbers[0], tuple(numbers[1:]))


def read_header(data: bytes | bytearray | memoryview, shape: RoundShape) -> bytes:
    """I(c_b) of a block, as it stands there."""
    return bytes(memoryview(data)[: shape.short_bytes])


def read_lift(data: bytes | bytearray | memoryview, shape: RoundShape) -> bytes:
    """I(C_b), or I(L_b), of a block."""
    return bytes(memoryview(data)[shape.short_bytes : shape.short_bytes + shape.long_bytes])


def write_row(row: Sequence[int], shape: RoundShape) -> bytes:
    """The bytes of one block of a partial decryption."""
    return b"".join(integer(one, shape.long_bytes) for one in row)


def read_row(data: bytes | bytearray | memoryview, shape: RoundShape) -> tuple[int, ...]:
    """D_b1 .. D_bw behind `partial_leaf_bytes` bytes; ValueError for another size."""
    if len(data) != shape.partial_leaf_bytes:
        raise ValueError(f"a block of a partial decryption has {shape.partial_leaf_bytes} bytes, not {len(data)}")
    view, long = memoryview(data), shape.long_bytes
    return tuple(number(view[at : at + long]) for at in range(0, len(view), long))


def headers_hash(headers: Iterable[int], shape: RoundShape) -> bytes:
    """SHA-256 over I(c_1) .. I(c_B): what a signed header says of them."""
    digest = hashlib.sha256()
    for header in headers:
        digest.update(integer(header, shape.short_bytes))
    return digest.digest()


def proof_in(signed: CipherHeader | Noise, headers: Sequence[int]) -> InputHeader:
    """The proof P1 that a signed header holds, with the headers that belong to it."""
    return InputHeader(
        tuple(headers),
        signed.width,
        signed.bodies_hash,
        number(signed.commitment),
        number(signed.body_commitment),
        number(signed.response),
    )
