"""A coordinator under paillier that is a puppet, and a member that works for it: what they make holders decrypt.

As `rogue`: the other members are the production drivers with their journals and their parts of a real key. The puppet
checks nothing, serves what a test wants (`serve`), and opens what holders answer (`opened`). The insider, the last
member, says nothing by itself after its advert: the test encrypts, proves, signs and votes with its keys.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType, SimpleNamespace
from typing import cast

import gmpy2
import numpy as np
from encrypted_federation import encrypted_federation, encrypted_plan
from federation import RUN, THREE, body_of, journal, signed
from fedveil_common import transcript
from fedveil_common.ids import COORDINATOR, AttemptKey, OrgId
from fedveil_common.masking import ring
from fedveil_common.messages import (
    BlobType,
    CipherHeader,
    CoordinatorMessage,
    Noise,
    Offer,
    Partial,
    PlanOffer,
    Proposal,
    QuorumCall,
    Refusal,
    SignedBlob,
    Vote,
    VoteMessage,
)
from fedveil_common.paillier import input_proof, sum_leaves
from fedveil_common.paillier.block_leaves import BlockLeaf, headers_hash, read_block, read_row, write_block
from fedveil_common.paillier.encoding import integer, shortest
from fedveil_common.paillier.encryption import BaseTable, Block, encrypt_with, masks_without_tables
from fedveil_common.paillier.input_proof import Context
from fedveil_common.paillier.key_use import use_of
from fedveil_common.paillier.public_key import PublicKey
from fedveil_common.paillier.round_shape import RoundShape, shape_in_use
from fedveil_common.secret import Seed
from fedveil_coordinator import driver as coordinator
from fedveil_coordinator import run as runs
from fedveil_coordinator.intake import due
from fedveil_participant.stages import Decrypting
from fedveil_simulation.cluster import Cluster
from fedveil_simulation.ports import SeededEntropy
from numpy.typing import NDArray
from rogue import HARMLESS, Blobs, Puppet, Rogue

Served = list[tuple[str, int, bytes]]
"""(whose, block, number) as a holder fetches them; "" for the lifts."""


class EncryptedPuppet(Puppet):
    """Takes ciphertexts and answers without looking at them."""

    shape: RoundShape | None = None
    serve: Callable[[], Served] = list

    def expect_upload(self, org_id: OrgId, blob: SignedBlob) -> object:
        body = body_of(blob)
        assert isinstance(body, CipherHeader | Partial)
        place = body.t2 if isinstance(body, CipherHeader) else body.t3
        return SimpleNamespace(attempt=SimpleNamespace(key=place), due=due(body, self.shape))

    def headers(self, org_id: OrgId, key: AttemptKey) -> Iterator[tuple[str, int, list[bytes]]]:
        for name, block, data in self.serve():
            yield name, block, [data]


class EncryptedRogueCluster(Cluster):
    """A cluster whose coordinator is such a puppet."""

    def _new_coordinator(self) -> coordinator.Driver:
        return cast(coordinator.Driver, EncryptedPuppet(self.charter))


@dataclass(frozen=True)
class Input:
    """What the insider sends."""

    blocks: list[BlockLeaf]
    header: CipherHeader


class EncryptedRogue(Rogue):
    """The puppet's hand: one attempt at a time against honest members, the first of whom hold the key."""

    def __init__(
        self,
        names: Sequence[OrgId] = THREE,
        holders: Sequence[OrgId] = THREE[:2],
        threshold: int = 2,
        *,
        plan: bytes | None = None,
        columns: int = 2,
    ) -> None:
        self.canonical = plan or encrypted_plan()
        self.cluster = encrypted_federation(
            names, holders, threshold, plan=self.canonical, cls=EncryptedRogueCluster, columns=columns
        )
        self.charter, self.names, self.insider = self.cluster.charter, tuple(names), names[-1]
        self.survivors = self.names
        self.puppet = cast(EncryptedPuppet, self.cluster.coordinator)
        assert self.cluster.book is not None
        self.key: PublicKey = self.cluster.book.key
        self.entropy = SeededEntropy(77, "insider")
        for name in names:
            self.whisper(name, PlanOffer(RUN, self.canonical))
        self.cluster.settle()
        self.offered = self.manifest()
        self.inputs: dict[OrgId, list[BlockLeaf]] = {}
        self.crafted: dict[OrgId, SignedBlob] = {}
        self.shape = shape_in_use(use_of(self.key), self.body)
        self.puppet.shape, self.puppet.serve = self.shape, self.served

    @property
    def honest(self) -> tuple[OrgId, ...]:
        return tuple(org for org in self.names if org != self.insider)

    def manifest(self, **changes: object) -> SignedBlob:
        keys = (use_of(self.key),)
        state, _ = runs.open_run(
            RUN, self.canonical, runs.Office(self.charter.coordinator_key), self.charter.roster, (), 0.0, keys
        )
        state = replace(state, connected=frozenset(self.names), answers=dict.fromkeys(self.names, ""))
        made = runs.manifest_of(state, bytes(32))
        changes = {"ring_bits": ring.smallest(len(made.cohort), made.value_bits), **changes}
        return signed(self.charter, COORDINATOR, BlobType.MANIFEST, replace(made, **changes))  # type: ignore[arg-type]

    # --- the course ---------------------------------------------------------------------------------------------------

    def header(self, org: OrgId) -> SignedBlob:
        if org in self.crafted:
            return self.crafted[org]
        return [blob for blob in self.puppet.taken[org] if blob.type is BlobType.CIPHER_HEADER][-1]

    def proposal(self, orgs: Sequence[OrgId] | None = None, replaced: Blobs = MappingProxyType({})) -> Proposal:
        return super().proposal(orgs or self.survivors, replaced)

    def t3(self, orgs: Sequence[OrgId] | None = None) -> bytes:
        return super().t3(orgs or self.survivors)

    def vote(self, org: OrgId) -> SignedBlob:
        if org == self.insider:
            return signed(self.charter, org, BlobType.VOTE, Vote(self.t3()))
        return super().vote(org)

    def said_votes(self, org: OrgId) -> list[Vote]:
        return [cast(Vote, body_of(cast(VoteMessage, one).vote)) for one in self.said(org, VoteMessage)]

    def reach(self, stage: str, but: Sequence[OrgId] = ()) -> "EncryptedRogue":
        """Play until the honest members but `but` did `stage`; the insider follows with `put` before the votes."""
        steps: dict[str, Callable[[OrgId], CoordinatorMessage]] = {
            "advert": lambda org: Offer(self.offered),
            "input": lambda org: self.keyset(),
            "vote": lambda org: self.proposal(),
            "certificate": lambda org: self.certificate(),
        }
        for name, made in steps.items():
            out = [*(but if name == stage else ()), *([self.insider] if name != "advert" else [])]
            if name == "vote" and self.insider not in self.inputs:
                self.put(self.make())
            self.everyone(made, out)
            if name == stage:
                break
        return self

    def reach_vote(self) -> None:
        """The honest members vote for what `survivors` says."""
        self.everyone(lambda org: self.proposal(), [self.insider])

    def call(self, org: OrgId, quorum: tuple[int, ...] = (0, 1), noise: tuple[SignedBlob, ...] = ()) -> str:
        """Call a holder; the code with which it refused, "" if it answered. Refused means: nothing left it."""
        memory, heard, uploads = journal(self.cluster, org), len(self.puppet.heard), len(self.cluster.uploads)
        notes = len(memory.notes)
        self.whisper(org, QuorumCall(self.t3(), quorum, noise))
        self.cluster.settle()
        said = [one for name, one in self.puppet.heard[heard:] if name == org]
        codes = [one.code for one in said if isinstance(one, Refusal)]
        answered = [header for name, header, _ in self.cluster.uploads[uploads:] if name == org]
        assert all(isinstance(one, HARMLESS) for one in said), said
        assert len(codes) + len(answered) == 1, (codes, len(answered), memory.notes[notes:])
        if codes:
            assert isinstance(memory.load(), Decrypting)
            assert not any(one.quorum == quorum for one in cast(Decrypting, memory.load()).answers)
        return codes[0] if codes else ""

    # --- what the insider sends ---------------------------------------------------------------------------------------

    def made(self, values: NDArray[np.int64] | None = None) -> list[Block]:
        """Proper blocks of these values; else of plaintexts that are 0, without any offset."""
        blocks = self.shape.blocks
        lifts = self.key.lifted[: blocks.width]
        masks = list(masks_without_tables(self.key, lifts, blocks.count, self.entropy))
        zeros = [gmpy2.mpz(0)] * (blocks.count * blocks.width)
        plain = zeros if values is None else self.shape.slots.pack(values)
        return encrypt_with(self.key, masks, plain, blocks)

    def context(self, org: OrgId | None = None, t0: bytes | None = None) -> Context:
        blocks = self.shape.blocks
        who = self.insider if org is None else org
        return input_proof.input_context(t0 or self.t0, who, self.body.length, blocks.count, blocks.width)

    def make(self, made: Sequence[Block] | None = None, context: Context | None = None) -> Input:
        """The input of these blocks, and the best proof that can be made of what is known of them."""
        blocks = list(made or self.made())
        proof = input_proof.prove(
            BaseTable(self.key), context or self.context(), blocks, Seed(b"\x09" * 32), self.entropy
        )
        leaves = [BlockLeaf(one.header, one.lift, one.bodies) for one in blocks]
        return self.claim(leaves, proof.commitment, proof.body_commitment, proof.response)

    def claim(self, leaves: list[BlockLeaf], commitment: int, body_commitment: int, response: int) -> Input:
        """The input of these leaves with these numbers as its proof, whatever they are."""
        shape = self.shape
        hashes = [
            transcript.input_leaf(self.t2, self.insider, index, write_block(one, shape))
            for index, one in enumerate(leaves)
        ]
        header = CipherHeader(
            self.t2,
            self.insider,
            self.key.fingerprint,
            self.body.length,
            shape.blocks.count,
            shape.blocks.width,
            headers_hash([one.header for one in leaves], shape),
            input_proof.bodies_hash([one.bodies for one in leaves], shape.long_bytes),
            integer(commitment, shape.short_bytes),
            integer(body_commitment, shape.short_bytes),
            shortest(response),
            transcript.leaf_root(hashes),
        )
        return Input(leaves, header)

    def put(self, made: Input) -> None:
        """The insider's input of this attempt, taken without a look."""
        self.inputs[self.insider] = made.blocks
        self.crafted[self.insider] = signed(self.charter, self.insider, BlobType.CIPHER_HEADER, made.header)

    def blocks(self, org: OrgId) -> list[BlockLeaf]:
        """What a member sent, as the coordinator sees it."""
        if org in self.inputs:
            return self.inputs[org]
        kept = self.cluster.memory.inputs[self.t2, org]  # type: ignore[index]
        return [read_block(kept.packed(index), self.shape) for index in range(kept.leaves)]

    def inverse(self, victims: Sequence[OrgId], made: Sequence[Block] | None = None) -> list[Block]:
        """Blocks of zeros, times the inverses of everything that these members sent."""
        group, out = self.key.group, []
        for index, one in enumerate(made or self.made()):
            header, lift, bodies = one.header, one.lift, list(one.bodies)
            for org in victims:
                theirs = self.blocks(org)[index]
                header = header * gmpy2.invert(theirs.header, group.n) % group.n
                lift = lift * gmpy2.invert(theirs.lift, group.cipher) % group.cipher
                bodies = [
                    body * gmpy2.invert(other, group.cipher) % group.cipher
                    for body, other in zip(bodies, theirs.bodies, strict=True)
                ]
            out.append(replace(one, header=header, lift=lift, bodies=tuple(bodies)))
        return out

    # --- what the coordinator serves, and what comes of it ------------------------------------------------------------

    def product(self, orgs: Sequence[OrgId] | None = None) -> list[BlockLeaf]:
        """Of these members' inputs."""
        n, cipher = self.key.group.n, self.key.group.cipher
        total: list[BlockLeaf] = []
        for each in zip(*(self.blocks(org) for org in (orgs or self.survivors)), strict=True):
            header, lift, bodies = gmpy2.mpz(1), gmpy2.mpz(1), [gmpy2.mpz(1)] * len(each[0].bodies)
            for one in each:
                header, lift = header * one.header % n, lift * one.lift % cipher
                bodies = [body * other % cipher for body, other in zip(bodies, one.bodies, strict=True)]
            total.append(BlockLeaf(header, lift, tuple(bodies)))
        return total

    def numbers(self, name: str, values: Sequence[int]) -> Served:
        width = self.shape.short_bytes if name else self.shape.long_bytes
        return [(name, index, integer(one, width)) for index, one in enumerate(values)]

    def served(self) -> Served:
        """What an honest coordinator serves."""
        found: Served = []
        for org in self.survivors:
            found += self.numbers(org, [one.header for one in self.blocks(org)])
        return found + self.numbers("", [one.lift for one in self.product()])

    def rows(self, org: OrgId, quorum: tuple[int, ...] = (0, 1)) -> list[tuple[int, ...]]:
        """What a holder answered."""
        kept = self.cluster.memory.decryptions[self.t3(), org, quorum]  # type: ignore[index]
        return [read_row(kept.packed(index), self.shape) for index in range(kept.leaves)]

    def exponents(self, org: OrgId, quorum: tuple[int, ...] = (0, 1)) -> list[int]:
        """The secret exponents of a holder: to compare with what an attack found."""
        assert self.cluster.book is not None
        return [int(one) for one in self.cluster.book.held[org].exponents(quorum, self.shape.blocks.width)]

    def opened(
        self, product: Sequence[BlockLeaf], survivors: int, quorum: tuple[int, ...] = (0, 1)
    ) -> NDArray[np.int64]:
        """What the answers of a quorum make of this product."""
        answers = [self.rows(self.key.terms.holders[index], quorum) for index in quorum]
        parts = [
            sum_leaves.open_block(
                self.key.group, self.shape, index, one.bodies, [rows[index] for rows in answers], survivors
            )
            for index, one in enumerate(product)
        ]
        return np.concatenate(parts)

    @property
    def values(self) -> dict[OrgId, NDArray[np.int64]]:
        """What honest members encrypted in this attempt, from their own journals."""
        return {org: journal(self.cluster, org).encoded[self.body.key, self.t2] for org in self.honest}

    def noise(self, made: Sequence[Block], nonce: bytes) -> SignedBlob:
        """A message of coordinator's noise, of these blocks."""
        shape = self.shape
        blocks = shape.blocks
        key = self.body.key
        place = (self.body.federation_id, key.run_id, key.round, key.attempt, nonce)
        context = input_proof.noise_context(*place, blocks.count, blocks.width)
        proof = input_proof.prove(BaseTable(self.key), context, list(made), Seed(b"\x0a" * 32), self.entropy)
        body = Noise(
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
        return signed(self.charter, COORDINATOR, BlobType.NOISE, body)
