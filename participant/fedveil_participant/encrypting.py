"""From encoded integers to a durable encrypted input: pack, mask, prove (P1), write, hash.

Promise: every mask is used for one block, whether it was made ahead of time or here; what is written is one leaf a
block, and its hashes and the proof are bound to this attempt and sender. A second call encrypts the same integers under
other masks: other bytes, and no harm; whoever has sent one header must not send another.
The work is products in one thread, which gives way to others between any two. Its memory is the ciphertexts of the
whole vector: s + 1 times n's bytes a plaintext, 60 MB for ten million coordinates at 2048 bits. Not constant-time: see
`encryption`. Source: docs/paillier.md, section 3 (B, P1, P6).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from fedveil_common import transcript
from fedveil_common.ids import OrgId
from fedveil_common.paillier import block_leaves, input_proof
from fedveil_common.paillier.block_leaves import BlockLeaf
from fedveil_common.paillier.encoding import integer, shortest
from fedveil_common.paillier.encryption import BaseTable, Block, encrypt_with
from fedveil_common.paillier.packing import Blocks
from fedveil_common.paillier.public_key import PublicKey
from fedveil_common.paillier.round_shape import RoundShape
from fedveil_common.ports import Entropy, LeafSink
from fedveil_common.secret import Seed
from numpy.typing import NDArray

from fedveil_participant.mask_source import InlineMasks, MaskSource

PIECE_BLOCKS = 256
"""Blocks whose masks are asked for at once."""

MISSING_BLOCKS = 8
"""Blocks whose masks are made here before the source is asked again: it may have some by then."""


@dataclass(frozen=True, slots=True)
class EncryptedParts:
    """Of a signed header what encrypting gives: the fields of `CipherHeader` by their names. Public."""

    blocks: int
    width: int
    headers_hash: bytes
    bodies_hash: bytes
    commitment: bytes
    body_commitment: bytes
    response: bytes


def encrypted_input(
    key: PublicKey,
    masks: MaskSource,
    shape: RoundShape,
    t0: bytes,
    t2: bytes,
    me: OrgId,
    integers: NDArray[np.int64],
    own: Seed,
    entropy: Entropy,
    sink: LeafSink,
) -> tuple[EncryptedParts, tuple[bytes, ...]]:
    """The header's fields and the leaf hashes of `integers` (signed, shape (length,), this organisation's secret) under
    `key`; the leaves are durable then, in place of any that were there.

    `masks`: of this key; what it lacks is made here. `own`: a secret of this participant, for the proof's nonce.
    PolicyRefusal `slot_overflow` for an integer beyond its slot; then nothing is encrypted. StorageError of the sink.
    """
    try:
        plaintexts = shape.blocks.pad(shape.slots.pack(integers))
        made = _blocks(key, masks, shape.blocks, plaintexts, entropy)
        context = input_proof.input_context(t0, me, shape.slots.length, shape.blocks.count, shape.blocks.width)
        proof = input_proof.prove(BaseTable(key), context, made, own, entropy)
        hashes = []
        for index, block in enumerate(made):
            data = block_leaves.write_block(BlockLeaf(block.header, block.lift, block.bodies), shape)
            hashes.append(transcript.input_leaf(t2, me, index, data))
            sink.write(index, data)
        sink.finish(replace=True)
    finally:
        sink.discard()
    parts = EncryptedParts(
        blocks=shape.blocks.count,
        width=shape.blocks.width,
        headers_hash=block_leaves.headers_hash(proof.headers, shape),
        bodies_hash=proof.bodies_hash,
        commitment=integer(proof.commitment, shape.short_bytes),
        body_commitment=integer(proof.body_commitment, shape.short_bytes),
        response=shortest(proof.response),
    )
    return parts, tuple(hashes)


def _blocks(
    key: PublicKey, masks: MaskSource, blocks: Blocks, plaintexts: Sequence[int], entropy: Entropy
) -> list[Block]:
    """The blocks of `plaintexts`, as many as are asked for. Their exponents are secret."""
    here, width = InlineMasks(key, entropy), blocks.width
    made: list[Block] = []
    while len(made) < blocks.count:
        wanted = blocks.count - len(made)
        taken = masks.take(min(wanted, PIECE_BLOCKS), width) or here.take(min(wanted, MISSING_BLOCKS), width)
        piece = Blocks(len(taken), width)
        start = len(made) * width
        made += encrypt_with(key, taken, plaintexts[start : start + len(taken) * width], piece)
    return made
