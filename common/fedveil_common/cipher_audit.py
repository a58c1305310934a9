"""The audit of a sum opened under protection paillier: product and sum are made again, answers checked by their proofs.

Every input is bound by the header its member signed, the product by the Result, every answer by the leaf root that its
holder signed. So whoever is shown the leaves can multiply the inputs again, check that each holder of the quorum
answered with its share of the key and with nothing else (P3, over the lifts of the product, P2), and open the sum. It
holds whoever works together with the coordinator, up to all holders: what opens is the sum of the inputs in the
product. Memory: the product and all answers once, as they travel. Source: docs/paillier.md, section 4 (P2, P3, P8).
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from fedveil_common import transcript
from fedveil_common.audit import disputed
from fedveil_common.crypto.draws import Draws
from fedveil_common.errors import FedveilError, PeerError
from fedveil_common.ids import COORDINATOR, OrgId
from fedveil_common.paillier import lifting, opening, partial_proof, sum_leaves
from fedveil_common.paillier.block_leaves import BlockLeaf, read_block, read_row, write_block
from fedveil_common.paillier.encoding import number
from fedveil_common.paillier.encryption import short_powers
from fedveil_common.paillier.partial_proof import PartialProof
from fedveil_common.published import LeafKind
from fedveil_common.published_cipher import ProvenCipher
from fedveil_common.ringfile import leaf_count, leaf_length
from fedveil_common.secret import Seed
from fedveil_common.transcript import LEAF_COORDINATES

FetchBlocks = Callable[[LeafKind, Sequence[int]], Iterable[tuple[OrgId, int, bytes]]]
"""(of what, block indices) -> (whose, index, leaf): leaf after leaf in the order asked for, of each those who have one
of this kind in the order of their ids."""


@dataclass(frozen=True, slots=True)
class Answered:
    """The product and the answers of a round, every leaf the one whose root was signed, and nothing yet computed."""

    proven: ProvenCipher
    product: tuple[bytes, ...]
    answers: Mapping[OrgId, tuple[bytes, ...]]

    def block(self, index: int) -> BlockLeaf:
        """A block of the product."""
        return read_block(self.product[index], self.proven.shape)

    def rows(self, index: int) -> list[tuple[int, ...]]:
        """What each holder of the quorum answered to this block."""
        return [read_row(leaves[index], self.proven.shape) for leaves in self.answers.values()]


def download(proven: ProvenCipher, fetch: FetchBlocks) -> Answered:
    """All leaves of product and answers. PeerError `round_not_proved` for one that is not what was signed."""
    blocks = range(proven.shape.blocks.count)
    product = tuple(leaves[COORDINATOR] for _, leaves in _sets(proven, LeafKind.PRODUCT, blocks, fetch))
    answers: dict[OrgId, list[bytes]] = {org: [] for org in proven.partials}
    for _, leaves in _sets(proven, LeafKind.PARTIAL, blocks, fetch):
        for org, data in leaves.items():
            answers[org].append(data)
    return Answered(proven, product, {org: tuple(held) for org, held in answers.items()})


class _Coins:
    """What an auditor draws from its one seed for a single check."""

    def __init__(self, seed: Seed) -> None:
        self._draws = Draws(seed)

    def take(self, size: int) -> bytes:
        """`size` bytes."""
        return self._draws.bytes("audit/lifts", size)


def check_partials(answered: Answered, seed: Seed) -> None:
    """Returns if the lifts in the product are those of its headers (P2), and every holder of the quorum answered with
    its share of the key, in every block (P3). PeerError `sum_disputed`: the coordinator signed a sum opened by others.

    `seed`: 32 fresh random bytes of the auditor. 0.3 ms for each ciphertext and holder at 2048 bits.
    """
    proven = answered.proven
    key, group, width = proven.key, proven.key.group, proven.shape.blocks.width
    short = short_powers(key.g, group, key.terms.bits)
    blocks = [answered.block(index) for index in range(len(answered.product))]
    lifts = [one.lift for one in blocks]
    try:
        lifting.check_lifts(group, [one.header for one in blocks], lifts, _Coins(seed))
        for holder in proven.quorum:
            org = key.terms.holders[holder]
            body, leaves = proven.partials[org], answered.answers[org]
            proof = PartialProof(number(body.commitment), number(body.long_commitment), number(body.response))
            context = partial_proof.partial_context(proven.result.t3, proven.quorum, holder)
            rows = [read_row(data, proven.shape) for data in leaves]
            columns = key.of_holder(holder, proven.quorum, width)
            partial_proof.check(key, short, context, holder, lifts, rows, columns, proof, org)
    except PeerError as error:
        raise disputed(
            f"what opened it was not what the key gives: {error.what} ({error.code}, {error.peer})"
        ) from error


def audit_product(answered: Answered, blocks: Sequence[int], fetch: FetchBlocks) -> None:
    """Makes these blocks of the product again, from the inputs and the noise.

    PeerError `sum_disputed` if one differs: the coordinator signed a product of other inputs; `round_not_proved` if
    what is published as an input is not what its member's header commits to.
    """
    proven = answered.proven
    n, cipher = proven.key.group.n, proven.key.group.cipher
    for index, leaves in _sets(proven, LeafKind.INPUT, blocks, fetch):
        header, lift, bodies = 1, 1, [1] * proven.shape.blocks.width
        for data in leaves.values():
            one = read_block(data, proven.shape)
            header, lift = header * one.header % n, lift * one.lift % cipher
            bodies = opening.add(bodies, one.bodies, cipher)
        if write_block(BlockLeaf(header, lift, tuple(bodies)), proven.shape) != answered.product[index]:
            raise disputed(f"block {index} of {len(answered.product)} is not the product of the inputs")


def audit_sum(answered: Answered, sum_leaves_: Mapping[int, bytes]) -> None:
    """Opens leaves of the sum again, from the product and the answers. `sum_leaves_`: which, and their hashes under T3.

    To be called after `check_partials`. PeerError `sum_disputed` if one differs, or does not open.
    """
    proven = answered.proven
    for index, signed in sorted(sum_leaves_.items()):
        try:
            packed = _sum_leaf(answered, index)
        except FedveilError as error:
            raise disputed(f"leaf {index} does not open: {error.what} ({error.code})") from error
        if transcript.sum_leaf(proven.result.t3, index, packed) != signed:
            raise disputed(f"leaf {index} of {leaf_count(proven.manifest.length)} is not what the holders opened")


def _sum_leaf(answered: Answered, index: int) -> bytearray:
    """A leaf of the sum, from the blocks in which its coordinates lie."""
    proven = answered.proven
    group, shape = proven.key.group, proven.shape
    covering = sum_leaves.covering(shape, index)
    parts = []
    for block in covering:
        bodies = answered.block(block).bodies
        group.check_long(bodies, "ciphertext of the product", COORDINATOR)
        rows = answered.rows(block)
        parts.append(sum_leaves.open_block(group, shape, block, bodies, rows, len(proven.survivors)))
    start = index * LEAF_COORDINATES - covering.start * sum_leaves.block_coordinates(shape)
    count = leaf_length(shape.slots.length, index)
    return sum_leaves.packed_leaf(np.concatenate(parts)[start : start + count], proven.manifest.ring_bits)


def _sets(
    proven: ProvenCipher, kind: LeafKind, wanted: Sequence[int], fetch: FetchBlocks
) -> Iterable[tuple[int, dict[OrgId, bytes]]]:
    """(index, {whose: leaf}) of each that is wanted, every leaf checked against the hash under a signed root."""
    arrived = iter(fetch(kind, wanted))
    size = proven.shape.partial_leaf_bytes if kind is LeafKind.PARTIAL else proven.shape.input_leaf_bytes
    hashes = _hashes(proven, kind)
    for index in wanted:
        leaves: dict[OrgId, bytes] = {}
        for org in sorted(hashes):
            place = next(arrived, None)
            if place is None or place[:2] != (org, index):
                raise _bad_leaf(kind, org, index, "is missing or out of order")
            data = place[2]
            if len(data) != size or _hash(proven, kind, org, index, data) != hashes[org][index]:
                raise _bad_leaf(kind, org, index, "is not the one whose hash was signed")
            leaves[org] = data
        yield index, leaves


def _hashes(proven: ProvenCipher, kind: LeafKind) -> Mapping[OrgId, tuple[bytes, ...]]:
    match kind:
        case LeafKind.INPUT:
            return proven.leaf_hashes
        case LeafKind.PRODUCT:
            return {COORDINATOR: proven.product_hashes}
        case LeafKind.PARTIAL:
            return proven.partial_hashes


def _hash(proven: ProvenCipher, kind: LeafKind, org: OrgId, index: int, data: bytes) -> bytes:
    match kind:
        case LeafKind.INPUT:
            return proven.input_leaf(org, index, data)
        case LeafKind.PRODUCT:
            return transcript.product_leaf(proven.result.t3, index, data)
        case LeafKind.PARTIAL:
            return transcript.partial_leaf(proven.result.t3, org, proven.quorum, index, data)


def _bad_leaf(kind: LeafKind, org: OrgId, index: int, why: str) -> PeerError:
    return PeerError(
        "round_not_proved",
        f"leaf {index} of {org} ({kind.value}), as the coordinator publishes it, {why}",
        peer=COORDINATOR,
        not_done="the sum was not accepted",
        next_step="try again; if it stays so, call the operator and the other organisations",
    )
