"""A round under paillier played by hand, for tests: real key, proofs and signatures, every part of it can be bent."""

import functools
import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import pytest
from fedveil_common import cipher_audit, published_cipher, transcript
from fedveil_common.crypto import signing
from fedveil_common.crypto.draws import Draws
from fedveil_common.errors import FedveilError
from fedveil_common.ids import COORDINATOR, AttemptKey, OrgId, RunId
from fedveil_common.leafshape import BlockShape, Shape
from fedveil_common.masking import ring
from fedveil_common.messages import (
    BlobType,
    Body,
    CipherHeader,
    Encryption,
    KeyAdvert,
    Manifest,
    Noise,
    Partial,
    Purpose,
    Result,
    SignedBlob,
    Vote,
)
from fedveil_common.paillier import block_leaves, holder_lists, input_proof, lifting, partial, partial_proof
from fedveil_common.paillier.block_leaves import BlockLeaf, headers_hash, write_block, write_row
from fedveil_common.paillier.encryption import Block
from fedveil_common.paillier.input_proof import Context, InputHeader
from fedveil_common.paillier.key_record import KeyRecord, sign_key
from fedveil_common.paillier.key_terms import KeyTerms
from fedveil_common.paillier.modulus_record import adopt_rsa_2048
from fedveil_common.paillier.partial_proof import PartialProof
from fedveil_common.paillier.root import Holders
from fedveil_common.paillier.round_shape import RoundShape, shape_of_manifest
from fedveil_common.published import LeafKind, PublishedRound
from fedveil_common.secret import PrivateKey, Seed
from fedveil_common.wire import encode_body
from fedveil_coordinator import ciphers
from fedveil_simulation.charter import FEDERATION, Charter, make_charter
from numpy.typing import NDArray

from tests.paillier_parties import NAMES, VALUE_CAP, Parties, parties

RUN = RunId("run-1")
QUORUM = (0, 2)
NONCE = b"\x4e" * 32
VALUE_BITS = 16
NOISE_CAP = 999
SEED = Seed(bytes(range(32)))


class Stored:
    """Leaves in memory: a source and a sink."""

    def __init__(self, leaves: Sequence[bytes] = ()) -> None:
        self._held = {index: bytes(leaf) for index, leaf in enumerate(leaves)}

    @property
    def shape(self) -> Shape:
        return BlockShape(self.leaves, len(self._held[0]))

    @property
    def leaves(self) -> int:
        return len(self._held)

    @property
    def all(self) -> list[bytes]:
        return [self._held[index] for index in sorted(self._held)]

    def packed(self, index: int) -> bytes:
        return self._held[index]

    def write(self, index: int, data: bytes | bytearray) -> None:
        self._held[index] = bytes(data)

    def close(self) -> None:
        """Nothing to close."""


@dataclass
class House:
    """Federation and key: holders are the first members."""

    charter: Charter
    all_of: Parties
    key_terms: bytes
    key_record: bytes

    def sign(self, org: OrgId, kind: BlobType, body: Body) -> SignedBlob:
        return signing.sign(self.private(org), org, kind, encode_body(body))

    def private(self, org: OrgId) -> PrivateKey:
        return self.charter.coordinator_key if org == COORDINATOR else self.charter.member_keys[org]


@functools.cache
def house(s: int = 1, width: int = 3, holders: int = 3, threshold: int = 2, seed: int = 1) -> House:
    """`seed`: of the members' own keys."""
    charter = make_charter(NAMES, seed)
    all_of = parties(s, width, holders, threshold, federation=FEDERATION)
    terms = all_of.key.terms
    keys = tuple(signing.public_key(charter.member_keys[org]) for org in terms.holders)
    made = Holders(terms, keys)
    lists = holder_lists.proven_lists(made, 0, all_of.seeds, Draws(Seed(b"\x05" * 32)))
    signatures = {
        index: sign_key(charter.member_keys[org], made, index, all_of.key) for index, org in enumerate(terms.holders)
    }
    record = KeyRecord(made, 0, lists, signatures)
    return House(charter, all_of, KeyTerms(adopt_rsa_2048(s), made).encode(), record.to_bytes())


def values_of(org: OrgId, length: int) -> NDArray[np.int64]:
    step = 7919 + 104_729 * NAMES.index(org)
    values: NDArray[np.int64] = (np.arange(length, dtype=np.int64) * step) % (2 * VALUE_CAP + 1) - VALUE_CAP
    values[:2] = (VALUE_CAP, -VALUE_CAP)[: min(2, length)]
    return values


def block_leaf(block: Block) -> BlockLeaf:
    return BlockLeaf(block.header, block.lift, block.bodies)


@dataclass
class Sent:
    """What one member, or the coordinator for its noise, sends: leaves and the parts of its signed header."""

    org: OrgId
    context: Context
    blocks: list[BlockLeaf]
    proof: InputHeader

    def leaves(self, shape: RoundShape) -> Stored:
        return Stored([write_block(block, shape) for block in self.blocks])


def numbered(value: int) -> bytes:
    return int(value).to_bytes((int(value).bit_length() + 7) // 8 or 1, "big")


@dataclass
class Game:
    """An attempt: manifest, key adverts and T0..T2, so that inputs can be made for it."""

    home: House
    length: int
    noisy: bool = False
    survivors: tuple[OrgId, ...] = NAMES[:4]
    manifest_change: Mapping[str, object] = field(default_factory=dict)
    noise: Sent | None = None
    noise_values: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64))
    noise_blob: SignedBlob | None = None

    def __post_init__(self) -> None:
        key = self.home.all_of.key
        self.key = AttemptKey(RUN, 1, 1)
        plain = Encryption(key.terms.key_id, key.epoch, key.fingerprint, b"", NOISE_CAP if self.noisy else 0)
        self.manifest = Manifest(
            federation_id=FEDERATION,
            key=self.key,
            purpose=Purpose.TRAIN,
            protection="paillier",
            plan_hash=bytes(32),
            previous_manifest_hash=b"",
            roster_version=self.home.charter.roster.version,
            roster_hash=self.home.charter.roster.hash,
            cohort=NAMES,
            corrupt=1,
            quorum=4,
            threshold=4,
            min_survivors=4,
            graph="none",
            length=self.length,
            ring_bits=ring.smallest(len(NAMES), VALUE_BITS, NOISE_CAP if self.noisy else 0),
            value_bits=VALUE_BITS,
            update_norm=1.0,
            leaf_coordinates=transcript.LEAF_COORDINATES,
            prg="none",
            noise="none",
            layout_hash=bytes(32),
            dataset="data",
            model_hash=bytes(32),
            query_digest=b"",
            step=0,
            standardise=(),
            previous=(),
            progress_s=1.0,
            hard_limit_s=60.0,
            nonce=NONCE,
            abort_certificates=(),
            encryption=(plain,),
        )
        self.shape = shape_of_manifest(key.terms, self.manifest)
        if self.noisy:
            self._make_noise(plain)
        self.manifest = replace(self.manifest, **self.manifest_change)  # type: ignore[arg-type]
        self.manifest_blob = self.home.sign(COORDINATOR, BlobType.MANIFEST, self.manifest)
        self.t0 = transcript.t0(self.manifest_blob.body)
        self.adverts = tuple(
            self.home.sign(org, BlobType.KEY_ADVERT, KeyAdvert(self.t0, org, key.fingerprint)) for org in NAMES
        )
        t1 = transcript.t1(self.t0, {blob.signer_id: blob.body for blob in self.adverts})
        self.t2 = transcript.t2(t1, NAMES)

    def context(self, org: OrgId) -> Context:
        blocks = self.shape.blocks
        return input_proof.input_context(self.t0, org, self.length, blocks.count, blocks.width)

    def noise_context(self) -> Context:
        blocks = self.shape.blocks
        return input_proof.noise_context(FEDERATION, RUN, 1, 1, NONCE, blocks.count, blocks.width)

    def _make_noise(self, plain: Encryption) -> None:
        all_of = self.home.all_of
        self.noise_values = np.arange(self.length, dtype=np.int64) % (2 * NOISE_CAP + 1) - NOISE_CAP
        packed = self.shape.slots.pack_noise(self.noise_values)
        made = all_of.encryptor.encrypt(packed, self.shape.blocks, all_of.entropy)
        self.noise = self.proven(COORDINATOR, self.noise_context(), made)
        body = self.noise_body(self.noise)
        self.noise_blob = self.home.sign(COORDINATOR, BlobType.NOISE, body)
        digest = hashlib.sha256(self.noise_blob.body).digest()
        self.manifest = replace(self.manifest, encryption=(replace(plain, noise=digest),))

    def proven(self, org: OrgId, context: Context, made: list[Block]) -> Sent:
        all_of = self.home.all_of
        proof = input_proof.prove(all_of.encryptor, context, made, all_of.own(), all_of.entropy)
        return Sent(org, context, [block_leaf(block) for block in made], proof)

    def encrypted(self, org: OrgId) -> list[Block]:
        all_of = self.home.all_of
        packed = self.shape.slots.pack(values_of(org, self.length))
        return all_of.encryptor.encrypt(packed, self.shape.blocks, all_of.entropy)

    def sent(self, org: OrgId) -> Sent:
        return self.proven(org, self.context(org), self.encrypted(org))

    def header(self, sent: Sent, hashes: Sequence[bytes]) -> CipherHeader:
        proof, key = sent.proof, self.home.all_of.key
        return CipherHeader(
            self.t2,
            sent.org,
            key.fingerprint,
            self.length,
            self.shape.blocks.count,
            self.shape.blocks.width,
            headers_hash(proof.headers, self.shape),
            proof.bodies_hash,
            numbered(proof.commitment),
            numbered(proof.body_commitment),
            numbered(proof.response),
            transcript.leaf_root(hashes),
        )

    def noise_body(self, sent: Sent) -> Noise:
        proof, key = sent.proof, self.home.all_of.key
        hashes = [transcript.noise_leaf(NONCE, index, leaf) for index, leaf in enumerate(sent.leaves(self.shape).all)]
        return Noise(
            NONCE,
            key.fingerprint,
            self.shape.blocks.count,
            self.shape.blocks.width,
            headers_hash(proof.headers, self.shape),
            proof.bodies_hash,
            numbered(proof.commitment),
            numbered(proof.body_commitment),
            numbered(proof.response),
            transcript.leaf_root(hashes),
        )

    def input_hashes(self, org: OrgId, leaves: Stored) -> tuple[bytes, ...]:
        return tuple(transcript.input_leaf(self.t2, org, index, leaf) for index, leaf in enumerate(leaves.all))

    def examine(self, sent: Sent, leaves: Stored | None = None, header: CipherHeader | None = None) -> None:
        """What the coordinator makes of an input on receipt."""
        stored = sent.leaves(self.shape) if leaves is None else leaves
        signed = self.header(sent, self.input_hashes(sent.org, stored)) if header is None else header
        all_of = self.home.all_of
        ciphers.examine_input(
            all_of.key, all_of.encryptor.short, self.shape, sent.context, signed, sent.org, stored, all_of.entropy
        )


@dataclass
class Answer:
    """What one holder sends."""

    org: OrgId
    holder: int
    body: Partial
    leaves: Stored


def answer(
    game: Game,
    t3: bytes,
    product: Stored,
    holder: int,
    quorum: tuple[int, ...] = QUORUM,
    change: Callable[[list[list[int]]], list[list[int]]] = lambda rows: rows,
    exponents_of: int | None = None,
) -> Answer:
    """A holder's answer; `change`d before the proof is made; `exponents_of`: another holder whose it uses."""
    all_of, shape = game.home.all_of, game.shape
    blocks = [block_leaves.read_block(leaf, shape) for leaf in product.all]
    bases = lifting.checked_bases(
        all_of.group, [one.header for one in blocks], [one.lift for one in blocks], all_of.entropy
    )
    exponents = all_of.exponents(holder if exponents_of is None else exponents_of, quorum, shape.blocks.width)
    rows = change(partial.partial(all_of.group, bases, partial.plan(exponents)))
    context = partial_proof.partial_context(t3, quorum, holder)
    proof = partial_proof.prove(
        all_of.key, all_of.encryptor.short, context, holder, bases, rows, exponents, all_of.own(), all_of.entropy
    )
    return signed_answer(game, t3, holder, quorum, Stored([write_row(row, shape) for row in rows]), proof)


def signed_answer(
    game: Game, t3: bytes, holder: int, quorum: tuple[int, ...], leaves: Stored, proof: PartialProof
) -> Answer:
    org = game.home.all_of.key.terms.holders[holder]
    root = transcript.leaf_root(partial_hashes(t3, org, quorum, leaves))
    numbers = (numbered(proof.commitment), numbered(proof.long_commitment), numbered(proof.response))
    return Answer(org, holder, Partial(t3, org, quorum, *numbers, root), leaves)


def partial_hashes(t3: bytes, org: OrgId, quorum: tuple[int, ...], leaves: Stored) -> tuple[bytes, ...]:
    return tuple(transcript.partial_leaf(t3, org, quorum, index, leaf) for index, leaf in enumerate(leaves.all))


def examine_answer(game: Game, t3: bytes, one: Answer, product: Stored, holder: int | None = None) -> None:
    all_of = game.home.all_of
    who = one.holder if holder is None else holder
    ciphers.examine_partial(all_of.key, all_of.encryptor.short, game.shape, t3, one.body, who, one.leaves, product)


@dataclass
class Played:
    """A round that was opened, its leaves, and what is published of it."""

    game: Game
    t3: bytes
    inputs: dict[OrgId, Stored]
    product: Stored
    answers: dict[OrgId, Stored]
    sums: list[bytes]
    record: PublishedRound

    def leaves(self, kind: LeafKind, wanted: Sequence[int]) -> list[tuple[OrgId, int, bytes]]:
        """As the archive serves them."""
        sources = {
            LeafKind.INPUT: self.inputs,
            LeafKind.PRODUCT: {COORDINATOR: self.product},
            LeafKind.PARTIAL: self.answers,
        }[kind]
        return [(org, index, sources[org].packed(index)) for index in wanted for org in sorted(sources)]


def play(
    game: Game,
    *,
    quorum: tuple[int, ...] = QUORUM,
    bend_product: Callable[[Stored], Stored] = lambda product: product,
    bend_sum: Callable[[list[bytes]], list[bytes]] = lambda leaves: leaves,
    answered: Callable[[Game, bytes, Stored, int, tuple[int, ...]], Answer] = answer,
    multiplied: Callable[[dict[OrgId, Stored]], list[Stored]] = lambda inputs: list(inputs.values()),
) -> Played:
    """All of a round. The last arguments are the coordinator's lies: `multiplied`: what it multiplies; `bend_product`:
    after the holders answered to the true one; `bend_sum`: what it signs as the sum; `answered`: what holders answer.
    """
    home, shape, key = game.home, game.shape, game.home.all_of.key
    inputs: dict[OrgId, Stored] = {}
    headers = []
    for org in game.survivors:
        sent = game.sent(org)
        inputs[org] = sent.leaves(shape)
        header = game.header(sent, game.input_hashes(org, inputs[org]))
        headers.append(home.sign(org, BlobType.CIPHER_HEADER, header))
    t3 = transcript.t3(game.t2, {blob.signer_id: blob.body for blob in headers})
    hashes = {org: game.input_hashes(org, leaves) for org, leaves in inputs.items()}
    if game.noise is not None:
        inputs[COORDINATOR] = game.noise.leaves(shape)
        noise_leaves = enumerate(inputs[COORDINATOR].all)
        hashes[COORDINATOR] = tuple(transcript.noise_leaf(NONCE, index, leaf) for index, leaf in noise_leaves)
    product = Stored()
    ciphers.multiply(key, shape, t3, multiplied(inputs), product)
    answers = {one.org: one for one in (answered(game, t3, product, holder, quorum) for holder in quorum)}
    sums: dict[int, bytes] = {}
    sources = [one.leaves for one in answers.values()]
    ciphers.open_sum(
        key,
        shape,
        t3,
        len(headers),
        product,
        sources,
        game.manifest.ring_bits,
        lambda index, data: sums.__setitem__(index, bytes(data)),
    )
    told = bend_sum([sums[index] for index in sorted(sums)])
    shown = bend_product(product)
    product_hashes = tuple(transcript.product_leaf(t3, index, leaf) for index, leaf in enumerate(shown.all))
    result = Result(
        t3,
        len(headers),
        game.length,
        transcript.leaf_root([transcript.sum_leaf(t3, index, leaf) for index, leaf in enumerate(told)]),
        b"",
        0.0,
        transcript.leaf_root(product_hashes),
    )
    record = PublishedRound(
        game.manifest_blob,
        home.sign(COORDINATOR, BlobType.RESULT, result),
        home.charter.notice.signed_roster,
        game.adverts,
        NAMES,
        tuple(headers),
        tuple(home.sign(org, BlobType.VOTE, Vote(t3)) for org in NAMES[:4]),
        tuple(home.sign(org, BlobType.PARTIAL, one.body) for org, one in sorted(answers.items())),
        hashes,
        product_hashes,
        {org: partial_hashes(t3, org, one.body.quorum, one.leaves) for org, one in answers.items()},
        home.key_terms,
        home.key_record,
        () if game.noise_blob is None else (game.noise_blob,),
    )
    held = {org: one.leaves for org, one in answers.items()}
    return Played(game, t3, inputs, shown, held, told, record)


def verified(one: Played, record: PublishedRound | None = None) -> published_cipher.ProvenCipher:
    return published_cipher.verify(one.record if record is None else record, one.game.home.charter.roster)


def sum_hashes(one: Played) -> dict[int, bytes]:
    return {index: transcript.sum_leaf(one.t3, index, leaf) for index, leaf in enumerate(one.sums)}


def audited(one: Played) -> None:
    """Everything that an auditor does."""
    proven = verified(one)
    answered = cipher_audit.download(proven, one.leaves)
    cipher_audit.check_partials(answered, SEED)
    cipher_audit.audit_sum(answered, sum_hashes(one))
    cipher_audit.audit_product(answered, range(proven.shape.blocks.count), one.leaves)


def code_of(act: Callable[[], object]) -> str:
    with pytest.raises(FedveilError) as caught:
        act()
    return caught.value.code
