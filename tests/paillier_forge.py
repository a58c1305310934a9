"""What a member, or the coordinator for its noise, can make of its own ciphertexts and proofs in one attempt."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import gmpy2
import numpy as np
from fedveil_common import transcript
from fedveil_common.ids import OrgId
from fedveil_common.messages import CipherHeader, Manifest, Noise
from fedveil_common.paillier import input_proof
from fedveil_common.paillier.block_leaves import BlockLeaf, headers_hash, write_block
from fedveil_common.paillier.encoding import integer, number, shortest
from fedveil_common.paillier.encryption import BaseTable, Block, encrypt_with, masks_without_tables
from fedveil_common.paillier.input_proof import Context
from fedveil_common.paillier.public_key import PublicKey
from fedveil_common.paillier.round_shape import RoundShape
from fedveil_common.ports import Entropy
from fedveil_common.secret import Seed
from numpy.typing import NDArray


@dataclass(frozen=True)
class Input:
    """What is sent: blocks, and the header to be signed."""

    blocks: list[BlockLeaf]
    header: CipherHeader

    @property
    def proof(self) -> tuple[int, int, int]:
        return proof_of(self.header)


def proof_of(header: CipherHeader) -> tuple[int, int, int]:
    """The numbers of a proof, to be put under something else."""
    return number(header.commitment), number(header.body_commitment), number(header.response)


@dataclass(frozen=True)
class Forge:
    """For one attempt: `org` is who sends."""

    key: PublicKey
    shape: RoundShape
    manifest: Manifest
    t0: bytes
    t2: bytes
    org: OrgId
    entropy: Entropy

    def made(self, values: NDArray[np.int64] | None = None) -> list[Block]:
        """Proper blocks of these values; else of plaintexts that are 0, without any offset."""
        blocks = self.shape.blocks
        masks = list(masks_without_tables(self.key, self.key.lifted[: blocks.width], blocks.count, self.entropy))
        zeros = [gmpy2.mpz(0)] * (blocks.count * blocks.width)
        return encrypt_with(self.key, masks, zeros if values is None else self.shape.slots.pack(values), blocks)

    def inverse(self, others: Sequence[Sequence[BlockLeaf]]) -> list[Block]:
        """Blocks of zeros, times the inverses of everything that these others sent."""
        group, out = self.key.group, []
        for index, one in enumerate(self.made()):
            header, lift, bodies = one.header, one.lift, list(one.bodies)
            for theirs in (blocks[index] for blocks in others):
                header = header * gmpy2.invert(theirs.header, group.n) % group.n
                lift = lift * gmpy2.invert(theirs.lift, group.cipher) % group.cipher
                inverses = [gmpy2.invert(body, group.cipher) for body in theirs.bodies]
                bodies = [body * other % group.cipher for body, other in zip(bodies, inverses, strict=True)]
            out.append(replace(one, header=header, lift=lift, bodies=tuple(bodies)))
        return out

    def context(self, org: OrgId | None = None, t0: bytes | None = None) -> Context:
        """What a proof is bound to here; or, as a lie, elsewhere."""
        blocks = self.shape.blocks
        return input_proof.input_context(
            t0 or self.t0, org or self.org, self.manifest.length, blocks.count, blocks.width
        )

    def make(self, made: Sequence[Block] | None = None, context: Context | None = None) -> Input:
        """The input of these blocks, and the best proof that can be made of what is known of them."""
        blocks = list(made or self.made())
        own = Seed(b"\x09" * 32)
        proof = input_proof.prove(BaseTable(self.key), context or self.context(), blocks, own, self.entropy)
        leaves = [BlockLeaf(one.header, one.lift, one.bodies) for one in blocks]
        return self.claim(leaves, (proof.commitment, proof.body_commitment, proof.response))

    def claim(self, leaves: list[BlockLeaf], proof: tuple[int, int, int]) -> Input:
        """The input of these leaves with these numbers as its proof, whatever they are."""
        shape = self.shape
        data = [write_block(one, shape) for one in leaves]
        hashes = [transcript.input_leaf(self.t2, self.org, index, one) for index, one in enumerate(data)]
        header = CipherHeader(
            self.t2,
            self.org,
            self.key.fingerprint,
            self.manifest.length,
            shape.blocks.count,
            shape.blocks.width,
            headers_hash([one.header for one in leaves], shape),
            input_proof.bodies_hash([one.bodies for one in leaves], shape.long_bytes),
            integer(proof[0], shape.short_bytes),
            integer(proof[1], shape.short_bytes),
            shortest(proof[2]),
            transcript.leaf_root(hashes),
        )
        return Input(leaves, header)

    def noise(self, made: Sequence[Block]) -> Noise:
        """A message of coordinator's noise, of these blocks."""
        shape, key, nonce = self.shape, self.manifest.key, self.manifest.nonce
        blocks = shape.blocks
        place = (self.manifest.federation_id, key.run_id, key.round, key.attempt, nonce)
        context = input_proof.noise_context(*place, blocks.count, blocks.width)
        proof = input_proof.prove(BaseTable(self.key), context, list(made), Seed(b"\x0a" * 32), self.entropy)
        return Noise(
            nonce,
            self.key.fingerprint,
            blocks.count,
            blocks.width,
            headers_hash(proof.headers, shape),
            proof.bodies_hash,
            integer(proof.commitment, shape.short_bytes),
            integer(proof.body_commitment, shape.short_bytes),
            shortest(proof.response),
            bytes(32),
        )


def product_of(key: PublicKey, inputs: Sequence[Sequence[BlockLeaf]]) -> list[BlockLeaf]:
    """Block by block, what a coordinator makes of these inputs."""
    n, cipher = key.group.n, key.group.cipher
    total: list[BlockLeaf] = []
    for each in zip(*inputs, strict=True):
        header, lift, bodies = gmpy2.mpz(1), gmpy2.mpz(1), [gmpy2.mpz(1)] * len(each[0].bodies)
        for one in each:
            header, lift = header * one.header % n, lift * one.lift % cipher
            bodies = [body * other % cipher for body, other in zip(bodies, one.bodies, strict=True)]
        total.append(BlockLeaf(header, lift, tuple(bodies)))
    return total


Served = list[tuple[str, int, bytes]]
"""(whose, block, number) as a holder fetches them; "" for the lifts."""


def numbers(shape: RoundShape, name: str, values: Sequence[int]) -> Served:
    """Of one sender, as they are served."""
    width = shape.short_bytes if name else shape.long_bytes
    return [(name, index, integer(one, width)) for index, one in enumerate(values)]
