"""A round's arithmetic under Paillier protection between parties in one place, for tests: no network, no state."""

from dataclasses import dataclass, field, replace

import numpy as np
from fedveil_common import transcript
from fedveil_common.crypto import signing
from fedveil_common.ids import OrgId
from fedveil_common.messages import CipherHeader, Noise
from fedveil_common.paillier import block_leaves, encryption, input_proof, lifting, opening, partial_proof
from fedveil_common.paillier.encoding import integer, number, shortest
from fedveil_common.paillier.group import product
from fedveil_common.paillier.holder_key import HolderKey
from fedveil_common.paillier.input_proof import Context
from fedveil_common.paillier.key_record import KeyRecord
from fedveil_common.paillier.partial_proof import PartialProof
from fedveil_common.paillier.root import Holders
from fedveil_common.paillier.round_shape import RoundShape, shape_of
from fedveil_common.paillier.shares import known_to
from fedveil_common.secret import PrivateKey
from fedveil_participant.answering import PartialParts, answer, certified_product
from fedveil_participant.encrypting import encrypted_input
from fedveil_participant.mask_source import MaskSource
from numpy.typing import NDArray

from tests.paillier_parties import NAMES, T0, T3, Parties, updates

T2 = b"\x22" * 32
LENGTH = 700
NOISE_CAP = 40


class Leaves:
    """A sink in memory: what was written, and how it ended."""

    def __init__(self) -> None:
        self.data: dict[int, bytes] = {}
        self.ended: list[str] = []

    def write(self, index: int, data: bytes | bytearray) -> None:
        assert index not in self.data
        self.data[index] = bytes(data)

    def finish(self, *, replace: bool = False) -> None:
        assert replace
        self.ended.append("finish")

    def discard(self) -> None:
        self.ended.append("discard")

    @property
    def durable(self) -> bool:
        return self.ended == ["finish", "discard"]

    def in_order(self) -> list[bytes]:
        return [self.data[index] for index in range(len(self.data))]


@dataclass
class FromTables:
    """Masks as a pool gives them, at most `left`."""

    all_of: Parties
    left: int = 10**6

    def take(self, count: int, width: int) -> list[encryption.Mask]:
        count = min(count, self.left)
        self.left -= count
        return self.all_of.encryptor.masks(count, width, self.all_of.entropy) if count else []


@dataclass
class Attempt:
    """`survivors`, `headers`: what a holder gets of each; `leaves`: what each uploaded."""

    all_of: Parties
    length: int = LENGTH
    t0: bytes = T0
    noise_cap: int = 0
    survivors: dict[OrgId, CipherHeader] = field(default_factory=dict)
    headers: dict[OrgId, list[int]] = field(default_factory=dict)
    leaves: dict[str, list[block_leaves.BlockLeaf]] = field(default_factory=dict)
    noise: tuple[Noise, list[int], Context] | None = None

    @property
    def shape(self) -> RoundShape:
        return shape_of(self.all_of.key.terms, self.length, 5, 16, self.noise_cap)

    def join(self, org: OrgId, integers: NDArray[np.int64], masks: MaskSource | None = None) -> None:
        sink, all_of, shape = Leaves(), self.all_of, self.shape
        source = masks or FromTables(all_of)
        place = (self.t0, T2, org, integers)
        parts, hashes = encrypted_input(all_of.key, source, shape, *place, all_of.own(), all_of.entropy, sink)
        assert sink.durable
        leaves = sink.in_order()
        assert hashes == tuple(transcript.input_leaf(T2, org, index, data) for index, data in enumerate(leaves))
        root = transcript.leaf_root(hashes)
        fields = {name: getattr(parts, name) for name in parts.__slots__}
        self.survivors[org] = CipherHeader(T2, org, all_of.key.fingerprint, self.length, leaf_root=root, **fields)
        self.leaves[org] = [block_leaves.read_block(data, shape) for data in leaves]
        self.headers[org] = [leaf.header for leaf in self.leaves[org]]

    def add_noise(self, integers: NDArray[np.int64]) -> None:
        all_of, shape = self.all_of, self.shape
        made = all_of.encryptor.encrypt(shape.slots.pack_noise(integers), shape.blocks, all_of.entropy)
        context = input_proof.noise_context("hospitals", "run", 1, 1, b"nonce", shape.blocks.count, shape.blocks.width)
        proof = input_proof.prove(all_of.encryptor, context, made, all_of.own(), all_of.entropy)
        numbers = (integer(one, shape.short_bytes) for one in (proof.commitment, proof.body_commitment))
        signed = Noise(
            b"nonce",
            all_of.key.fingerprint,
            shape.blocks.count,
            shape.blocks.width,
            block_leaves.headers_hash(proof.headers, shape),
            proof.bodies_hash,
            *numbers,
            shortest(proof.response),
            bytes(32),
        )
        self.noise = signed, list(proof.headers), context
        self.leaves["noise"] = [block_leaves.BlockLeaf(one.header, one.lift, one.bodies) for one in made]

    def sign(self, org: OrgId, **changes: object) -> None:
        """`org` signs another header than the honest one."""
        self.survivors[org] = replace(self.survivors[org], **changes)  # type: ignore[arg-type]

    def product(self) -> list[int]:
        return certified_product(self.all_of.key, self.shape, self.t0, self.survivors, self.headers, self.noise)

    def lifts(self) -> list[int]:
        """L_b, as an honest coordinator makes them."""
        cipher = self.all_of.group.cipher
        return [product((one[b].lift for one in self.leaves.values()), cipher) for b in range(self.shape.blocks.count)]

    def total(self) -> list[int]:
        bodies = [[body for leaf in one for body in leaf.bodies] for one in self.leaves.values()]
        cipher = self.all_of.group.cipher
        return [product(column, cipher) for column in zip(*bodies, strict=True)]

    def answer(self, index: int, quorum: tuple[int, ...], lifts: list[int] | None = None) -> "Answer":
        all_of, sink = self.all_of, Leaves()
        sent = self.lifts() if lifts is None else lifts
        asked = (self.shape, T3, quorum, self.product(), sent, all_of.own(), all_of.entropy)
        parts, hashes = answer(all_of.key, holder(all_of, index), *asked, sink)
        assert sink.durable
        leaves, me = sink.in_order(), all_of.key.terms.holders[index]
        assert hashes == tuple(transcript.partial_leaf(T3, me, quorum, b, data) for b, data in enumerate(leaves))
        return Answer(index, quorum, parts, [list(block_leaves.read_row(data, self.shape)) for data in leaves])

    def check(self, one: "Answer") -> None:
        """P3, as the coordinator checks it."""
        all_of, width = self.all_of, self.shape.blocks.width
        parts = one.parts
        proof = PartialProof(number(parts.commitment), number(parts.long_commitment), number(parts.response))
        context = partial_proof.partial_context(T3, one.quorum, one.index)
        columns = all_of.key.of_holder(one.index, one.quorum, width)
        bases = lifting.own_bases(all_of.group, self.product())
        place = (all_of.key, all_of.encryptor.short, context, one.index)
        partial_proof.check(*place, bases.lifts, one.rows, columns, proof, NAMES[one.index])

    def open(self, quorum: tuple[int, ...]) -> NDArray[np.int64]:
        answers = []
        for index in quorum:
            one = self.answer(index, quorum)
            self.check(one)
            answers.append([number for row in one.rows for number in row])
        plaintexts = opening.combine(self.all_of.group, self.total(), answers)
        return self.shape.slots.unpack(plaintexts, len(self.survivors))


@dataclass
class Answer:
    index: int
    quorum: tuple[int, ...]
    parts: PartialParts
    rows: list[list[int]]


def holder(all_of: Parties, index: int) -> HolderKey:
    terms = all_of.key.terms
    keys = tuple(signing.public_key(PrivateKey(bytes([1 + one]) * 32)) for one in range(len(terms.holders)))
    record = KeyRecord(Holders(terms, keys), all_of.key.epoch, {}, {})
    return HolderKey(index, {one: all_of.seeds[one] for one in known_to(index, terms.sets)}, record, all_of.key)


def attempt(all_of: Parties, count: int = 3, length: int = LENGTH, noise: NDArray[np.int64] | None = None) -> Attempt:
    """An attempt in which the first `count` of NAMES have sent their `updates`."""
    made = Attempt(all_of, length, noise_cap=0 if noise is None else NOISE_CAP)
    for org, one in zip(NAMES, updates(count, length), strict=False):
        made.join(org, one)
    if noise is not None:
        made.add_noise(noise)
    return made
