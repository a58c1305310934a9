"""A coordinator under paillier that is a puppet, and a member that works for it: what they make holders decrypt.

As `rogue`: the other members are the production drivers with their journals and their parts of a real key. The puppet
checks nothing, serves what a test wants (`serve`), and opens what holders answer (`opened`). The insider, the last
member, says nothing by itself after its advert: the test encrypts, proves, signs and votes with its keys.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from types import MappingProxyType, SimpleNamespace
from typing import cast

import numpy as np
from encrypted_federation import encrypted_federation, encrypted_plan
from federation import RUN, THREE, body_of, journal, signed
from fedveil_common.ids import COORDINATOR, AttemptKey, OrgId
from fedveil_common.masking import ring
from fedveil_common.messages import (
    AdvertMessage,
    BlobType,
    CipherHeader,
    CoordinatorMessage,
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
from fedveil_common.paillier import sum_leaves
from fedveil_common.paillier.block_leaves import BlockLeaf, read_block, read_row
from fedveil_common.paillier.encryption import Block
from fedveil_common.paillier.key_use import use_of
from fedveil_common.paillier.public_key import PublicKey
from fedveil_common.paillier.round_shape import RoundShape, shape_in_use
from fedveil_coordinator import driver as coordinator
from fedveil_coordinator import run as runs
from fedveil_coordinator.intake import due
from fedveil_participant.stages import Decrypting
from fedveil_simulation.cluster import Cluster
from fedveil_simulation.ports import SeededEntropy
from numpy.typing import NDArray
from paillier_forge import Forge, Input, Served, numbers, product_of
from rogue import HARMLESS, Blobs, Puppet, Rogue


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
                self.put(self.forge.make())
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

    @property
    def forge(self) -> Forge:
        """Of the insider, in the attempt that was offered."""
        t2 = self.t2 if all(self.said(org, AdvertMessage) for org in self.names) else b""
        return Forge(self.key, self.shape, self.body, self.t0, t2, self.insider, self.entropy)

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

    # --- what the coordinator serves, and what comes of it ------------------------------------------------------------

    def product(self, orgs: Sequence[OrgId] | None = None) -> list[BlockLeaf]:
        """Of these members' inputs."""
        return product_of(self.key, [self.blocks(org) for org in (orgs or self.survivors)])

    def numbers(self, name: str, values: Sequence[int]) -> Served:
        return numbers(self.shape, name, values)

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

    def noise(self, made: Sequence[Block]) -> SignedBlob:
        """A message of coordinator's noise, of these blocks."""
        return signed(self.charter, COORDINATOR, BlobType.NOISE, self.forge.noise(made))
