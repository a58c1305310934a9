"""The coordinator's arithmetic on ciphertexts: inputs and answers are examined, inputs multiplied, the sum opened.

Promise: an input or an answer passes only with everything proved that its receiver can see (P1 in both equations and
the lifts, P3), and whoever sent one that does not is named; what is opened is the sum of what was multiplied. Pure but
for its sources and sinks; nothing of the round is decided here. Holders check headers and lifts themselves and rely on
none of this. Memory: one input or answer while it is examined, one block while inputs are multiplied or a sum is
opened. Source: docs/paillier.md, sections 3 and 4 (P1, P2, P3, P8, G7).
"""

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Protocol

import numpy as np
from fedveil_common import transcript
from fedveil_common.errors import PeerError
from fedveil_common.ids import OrgId
from fedveil_common.messages import CipherHeader, Noise, Partial
from fedveil_common.paillier import input_proof, lifting, opening, partial_proof, sum_leaves
from fedveil_common.paillier.block_leaves import (
    BlockLeaf,
    headers_hash,
    proof_in,
    read_block,
    read_header,
    read_lift,
    read_row,
    write_block,
)
from fedveil_common.paillier.encoding import number
from fedveil_common.paillier.input_proof import Context, InputHeader
from fedveil_common.paillier.partial_proof import PartialProof
from fedveil_common.paillier.public_key import PublicKey
from fedveil_common.paillier.round_shape import RoundShape
from fedveil_common.paillier.tables import ShortPowers
from fedveil_common.ports import Entropy
from fedveil_common.transcript import LEAF_COORDINATES
from numpy.typing import NDArray


class Leaves(Protocol):
    """Blocks at rest: an input, the product or an answer. A `LeafSource` is one."""

    def packed(self, index: int) -> bytes | bytearray:
        """Leaf `index` as it travels."""
        ...


class Sink(Protocol):
    """Where blocks go. A `LeafSink` is one."""

    def write(self, index: int, data: bytes | bytearray) -> None:
        """Leaf `index` as it travels."""
        ...


WriteSum = Callable[[int, bytearray], None]
"""(leaf index, packed leaf of the opened sum), in order."""


def examine_input(
    key: PublicKey,
    short: ShortPowers,
    shape: RoundShape,
    context: Context,
    signed: CipherHeader | Noise,
    org: OrgId,
    source: Leaves,
    entropy: Entropy,
) -> InputHeader:
    """Returns what was proved if every block of `source` is what `signed` says and the proof P1 shows; else PeerError
    naming `org`: `bad_bodies`, `bad_group_element`, `header_repeated`, `bad_input_proof`, `bad_lift`.

    `context`: `input_context` of this attempt and sender, or `noise_context`, of this shape. `short`: powers of g.
    `entropy`: coins for the lifts, after they arrived. That the signature and T2 are right, and the leaves those under
    the signed root, is for the caller to see.
    """
    blocks = [_block(source, index, shape, org) for index in range(shape.blocks.count)]
    headers = [block.header for block in blocks]
    if headers_hash(headers, shape) != signed.headers_hash:
        raise PeerError("bad_bodies", "the headers are not those that were announced", peer=org)
    proof = proof_in(signed, headers)
    input_proof.check_header(key, short, context, proof, org)
    input_proof.check_bodies(key, context, proof, [block.bodies for block in blocks], org)
    lifting.check_lifts(key.group, headers, [block.lift for block in blocks], entropy, org)
    return proof


def check_distinct(seen: dict[bytes, OrgId], org: OrgId, headers: Iterable[bytes]) -> None:
    """Adds the headers of `org` to those that were `seen`; PeerError `header_repeated` if one is another member's.

    Those two share an exponent, and every holder refuses to open a set with both (`lifting.product_of_headers`): the
    later one must not be proposed. Of a header its digest is kept.
    """
    mine = [hashlib.sha256(one).digest()[:16] for one in headers]
    if any(seen.get(one, org) != org for one in mine):
        raise PeerError(
            "header_repeated",
            f"a header of {org} is one of another member's input too",
            peer=org,
            not_done="the input was not counted",
        )
    seen.update(dict.fromkeys(mine, org))


def read_headers(shape: RoundShape, source: Leaves) -> Iterator[bytes]:
    """I(c_b) of every block of an input."""
    return (read_header(source.packed(index), shape) for index in range(shape.blocks.count))


def multiply(key: PublicKey, shape: RoundShape, t3: bytes, sources: Sequence[Leaves], sink: Sink) -> tuple[bytes, ...]:
    """The product of all inputs, and of the noise if it is among `sources`: each once, block by block; leaf hashes.

    `sources`: examined, at least one. The product hides the sum of their plaintexts, whatever their order.
    """
    n, cipher = key.group.n, key.group.cipher
    hashes: list[bytes] = []
    for index in range(shape.blocks.count):
        total = read_block(sources[0].packed(index), shape)
        for source in sources[1:]:
            one = read_block(source.packed(index), shape)
            bodies = tuple(opening.add(total.bodies, one.bodies, cipher))
            total = BlockLeaf(total.header * one.header % n, total.lift * one.lift % cipher, bodies)
        data = write_block(total, shape)
        sink.write(index, data)
        hashes.append(transcript.product_leaf(t3, index, data))
    return tuple(hashes)


def examine_partial(
    key: PublicKey,
    short: ShortPowers,
    shape: RoundShape,
    t3: bytes,
    body: Partial,
    holder: int,
    source: Leaves,
    product: Leaves,
) -> None:
    """Returns if the blocks of `source` are the answer of `holder` (by index) to `product` in the quorum that `body`
    names (P3); else PeerError naming the holder: `bad_partial`, `bad_group_element`.

    `product`: as `multiply` made it here. That the quorum is the one that was called, and signature and leaf root are
    right, is for the caller to see.
    """
    org = key.terms.holders[holder]
    rows = [_row(source, index, shape, org) for index in range(shape.blocks.count)]
    try:
        columns = key.of_holder(holder, body.quorum, shape.blocks.width)
    except ValueError as error:
        raise PeerError("bad_partial", f"its quorum is none: {error}", peer=org) from error
    proof = PartialProof(number(body.commitment), number(body.long_commitment), number(body.response))
    context = partial_proof.partial_context(t3, body.quorum, holder)
    partial_proof.check(key, short, context, holder, read_lifts(shape, product), rows, columns, proof, org)


def open_sum(
    key: PublicKey,
    shape: RoundShape,
    t3: bytes,
    survivors: int,
    product: Leaves,
    answers: Sequence[Leaves],
    bits: int,
    write: WriteSum,
) -> list[bytes]:
    """Opens the product with the examined `answers` of one quorum and writes the sum as leaves modulo 2^bits, the
    first to the last; their hashes. `survivors`: inputs in the product, noise not counted.

    IntegrityError `not_opened`, `sum_out_of_range`: what was written before it is of no use.
    """
    hashes: list[bytes] = []
    for index, values in enumerate(_leaves(_opened(key, shape, survivors, product, answers), shape.slots.length)):
        packed = sum_leaves.packed_leaf(values, bits)
        write(index, packed)
        hashes.append(transcript.sum_leaf(t3, index, packed))
    return hashes


def read_lifts(shape: RoundShape, product: Leaves) -> list[int]:
    """L_b mod n^(s+1) of every block: what holders raise to their exponents, once they have checked it."""
    return [number(read_lift(product.packed(index), shape)) for index in range(shape.blocks.count)]


def _opened(
    key: PublicKey, shape: RoundShape, survivors: int, product: Leaves, answers: Sequence[Leaves]
) -> Iterator[NDArray[np.int64]]:
    for index in range(shape.blocks.count):
        bodies = read_block(product.packed(index), shape).bodies
        rows = [read_row(answer.packed(index), shape) for answer in answers]
        yield sum_leaves.open_block(key.group, shape, index, bodies, rows, survivors)


def _leaves(pieces: Iterator[NDArray[np.int64]], length: int) -> Iterator[NDArray[np.int64]]:
    """The vector of `length` coordinates that arrives in pieces, cut into leaves."""
    held: list[NDArray[np.int64]] = []
    count = given = 0
    for piece in pieces:
        held.append(piece)
        count += len(piece)
        while count >= LEAF_COORDINATES or (count and given + count == length):
            whole = np.concatenate(held)
            yield whole[:LEAF_COORDINATES]
            rest = whole[LEAF_COORDINATES:]
            given += len(whole) - len(rest)
            held, count = [rest], len(rest)


def _block(source: Leaves, index: int, shape: RoundShape, peer: OrgId) -> BlockLeaf:
    try:
        return read_block(source.packed(index), shape)
    except ValueError as error:
        raise PeerError("bad_bodies", f"block {index}: {error}", peer=peer) from error


def _row(source: Leaves, index: int, shape: RoundShape, peer: OrgId) -> tuple[int, ...]:
    try:
        return read_row(source.packed(index), shape)
    except ValueError as error:
        raise PeerError("bad_partial", f"block {index}: {error}", peer=peer) from error
