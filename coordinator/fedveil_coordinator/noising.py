"""The coordinator's own noise as ciphertexts, made before its offer and bound to it (P5).

Promise: what is added is fixed by the manifest, by hash, before any input exists; holders multiply it in exactly once.
Whoever knows the values can take them off the opened sum: the coordinator can. Source: docs/paillier.md, section 6.
"""

from typing import Protocol

import numpy as np
from fedveil_common import private_sum, transcript
from fedveil_common.leafshape import BlockShape
from fedveil_common.messages import Manifest, Noise
from fedveil_common.paillier import input_proof
from fedveil_common.paillier.block_leaves import BlockLeaf, headers_hash, write_block
from fedveil_common.paillier.encoding import integer, shortest
from fedveil_common.paillier.encryption import BaseTable, encrypt_with, masks_without_tables
from fedveil_common.paillier.input_proof import noise_context
from fedveil_common.paillier.public_key import PublicKey, lifts_of
from fedveil_common.paillier.round_shape import RoundShape
from fedveil_common.plan import Plan
from fedveil_common.ports import Entropy
from fedveil_common.secret import Seed
from numpy.typing import NDArray

from fedveil_coordinator.ports import Journal


class NoiseSource(Protocol):
    """Where the values come from: a mechanism of differential privacy, or a fixed vector in tests."""

    def draw(self, manifest: Manifest) -> NDArray[np.int64]:
        """Signed values, shape (length,), each within W_c of the manifest's encryption. The coordinator's secret."""
        ...


class PlannedNoise:
    """What a plan with differential privacy and `noise: coordinator` asks for, from 32 bytes that are forgotten."""

    def __init__(self, plan: Plan, entropy: Entropy) -> None:
        self._plan, self._entropy = plan, entropy

    def draw(self, manifest: Manifest) -> NDArray[np.int64]:
        """What the plan's mechanism draws, on every coordinate. ValueError for a plan that asks for none."""
        noise = private_sum.coordinator_noise(self._plan)
        if noise is None:
            raise ValueError("this plan asks for no noise of the coordinator")
        return noise.sampler.draw(self._entropy.take(32), 0, manifest.length)


def make_noise(
    key: PublicKey, shape: RoundShape, draft: Manifest, source: NoiseSource, journal: Journal, entropy: Entropy
) -> Noise:
    """The noise of the offer that `draft` is of, encrypted and durable as the input of "coordinator".

    `draft`: the manifest but for the noise's hash. PolicyRefusal `slot_overflow` for a draw beyond W_c: never clipped.
    """
    blocks, group = shape.blocks, key.group
    plaintexts = blocks.pad(shape.slots.pack_noise(source.draw(draft)))
    lifts = lifts_of(group, key.columns[: blocks.width])
    made = encrypt_with(key, list(masks_without_tables(key, lifts, blocks.count, entropy)), plaintexts, blocks)
    place = (draft.federation_id, draft.key.run_id, draft.key.round, draft.key.attempt, draft.nonce)
    context = noise_context(*place, blocks.count, blocks.width)
    proof = input_proof.prove(BaseTable(key), context, made, Seed(entropy.take(32)), entropy)
    sink = journal.new_noise(draft.key, BlockShape(blocks.count, shape.input_leaf_bytes))
    hashes = []
    try:
        for index, block in enumerate(made):
            data = write_block(BlockLeaf(block.header, block.lift, block.bodies), shape)
            hashes.append(transcript.noise_leaf(draft.nonce, index, data))
            sink.write(index, data)
        sink.finish(replace=True)
    finally:
        sink.discard()
    return Noise(
        nonce=draft.nonce,
        fingerprint=key.fingerprint,
        blocks=blocks.count,
        width=blocks.width,
        headers_hash=headers_hash(proof.headers, shape),
        bodies_hash=proof.bodies_hash,
        commitment=integer(proof.commitment, shape.short_bytes),
        body_commitment=integer(proof.body_commitment, shape.short_bytes),
        response=shortest(proof.response),
        leaf_root=transcript.leaf_root(hashes),
    )
