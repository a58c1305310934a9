"""A holder's answer to a certificate: the product of the certified headers, and its powers of it, with a proof.

Promise: the holder multiplies headers itself, each exactly once, and only those whose sender signed them for this
attempt and knows their exponents (P1); it raises only what it has checked to be the lift of that product (P2). What is
refused is refused before any share of a key is used. Which certificate it may answer at all is not decided here (P4).
Answers say no more than the sum: the same question in any quorum may be answered again.
The work is in one thread; others run between any two products, a lift alone takes up to 150 ms at 2048 bits and s = 3.
Not constant-time: see `partial`. Source: docs/paillier.md, section 4 (P1 to P3).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from fedveil_common import transcript
from fedveil_common.errors import PeerError
from fedveil_common.ids import OrgId
from fedveil_common.messages import CipherHeader, Noise
from fedveil_common.paillier import block_leaves, input_proof, lifting, partial, partial_proof
from fedveil_common.paillier.encoding import integer, shortest
from fedveil_common.paillier.encryption import BaseTable
from fedveil_common.paillier.holder_key import HolderKey
from fedveil_common.paillier.input_proof import Context
from fedveil_common.paillier.public_key import PublicKey
from fedveil_common.paillier.round_shape import RoundShape
from fedveil_common.paillier.shares import check_quorum
from fedveil_common.paillier.tables import ShortPowers
from fedveil_common.ports import Entropy, LeafSink
from fedveil_common.secret import Seed

COORDINATOR = "coordinator"
_NOT_DONE = "no key share was used"


@dataclass(frozen=True, slots=True)
class PartialParts:
    """Of a signed answer what computing it gives: the fields of `Partial` by their names. For the coordinator."""

    commitment: bytes
    long_commitment: bytes
    response: bytes


def certified_product(
    key: PublicKey,
    shape: RoundShape,
    t0: bytes,
    survivors: Mapping[OrgId, CipherHeader],
    headers: Mapping[OrgId, Sequence[int]],
    noise: tuple[Noise, Sequence[int], Context] | None,
) -> list[int]:
    """c*_b mod n, block after block: the product of all survivors' headers, and of the noise's, each once. Public.

    `survivors`: their signed headers, signatures checked; `headers`: c_1..c_B of each, as the coordinator sent them;
    `noise`: the coordinator's, with its headers and what its proof is bound to. PeerError naming who is to blame:
    `headers_differ` (the coordinator's headers are not those that were signed), `wrong_shape`, `wrong_key`,
    `bad_group_element`, `header_repeated`, `bad_bodies`, `bad_input_proof`. ValueError without survivors.
    """
    if not survivors:
        raise ValueError("a sum of nobody's inputs is not opened")
    if set(headers) != set(survivors):
        raise _headers_differ(f"headers of {len(headers)} senders for {len(survivors)} survivors, or of others")
    short = BaseTable(key).short
    checked: dict[str, Sequence[int]] = {}
    for org in sorted(survivors):
        signed = survivors[org]
        if signed.org_id != org or signed.length != shape.slots.length:
            raise _wrong_shape(f"{signed.length} coordinates", org)
        blocks = shape.blocks
        context = input_proof.input_context(t0, org, shape.slots.length, blocks.count, blocks.width)
        _check(key, short, shape, context, signed, headers[org], org)
        checked[org] = headers[org]
    if noise is not None:
        _check(key, short, shape, noise[2], noise[0], noise[1], COORDINATOR)
        checked["the noise"] = noise[1]
    _refuse_repeated(checked)
    return lifting.product_of_headers(list(checked.values()), key.group.n)


def answer(
    key: PublicKey,
    holder: HolderKey,
    shape: RoundShape,
    t3: bytes,
    quorum: Sequence[int],
    products: Sequence[int],
    lifts: Sequence[int],
    own: Seed,
    entropy: Entropy,
    sink: LeafSink,
) -> tuple[PartialParts, tuple[bytes, ...]]:
    """The proof and the leaf hashes of this holder's partial decryptions in `quorum` (indices, as the coordinator sent
    them) of `products` (`certified_product`); the leaves are durable then, in place of any that were there.

    `lifts`: L_b as the coordinator sent them; `own`: a secret of this holder, for the proof's nonce; `entropy`: also
    the coins of the check of lifts. PeerError naming the coordinator, before the key is used: `wrong_quorum`,
    `bad_lift`, `bad_group_element`. ValueError if `holder` holds another key, or for a product of another shape.
    """
    try:
        if holder.public.fingerprint != key.fingerprint or len(products) != shape.blocks.count:
            raise ValueError("another key than this holder's, or not as many products as there are blocks")
        _check_quorum(key, holder.index, quorum)
        bases = _checked_bases(key, products, lifts, entropy)
        exponents = holder.exponents(quorum, shape.blocks.width)
        me = key.terms.holders[holder.index]
        found: list[list[int]] = []
        hashes = []
        for index, row in enumerate(partial.rows(key.group, bases, partial.plan(exponents))):
            data = block_leaves.write_row(row, shape)
            hashes.append(transcript.partial_leaf(t3, me, quorum, index, data))
            sink.write(index, data)
            found.append(row)
        context = partial_proof.partial_context(t3, quorum, holder.index)
        short = BaseTable(key).short
        proof = partial_proof.prove(key, short, context, holder.index, bases, found, exponents, own, entropy)
        sink.finish(replace=True)
    finally:
        sink.discard()
    parts = PartialParts(
        commitment=integer(proof.commitment, shape.short_bytes),
        long_commitment=integer(proof.long_commitment, shape.long_bytes),
        response=shortest(proof.response),
    )
    return parts, tuple(hashes)


def _check(
    key: PublicKey,
    short: ShortPowers,
    shape: RoundShape,
    context: Context,
    signed: CipherHeader | Noise,
    headers: Sequence[int],
    peer: str,
) -> None:
    """One input: made under this key, in this shape, by somebody who knows its exponents."""
    if signed.fingerprint != key.fingerprint:
        raise PeerError("wrong_key", "an input under another key than this attempt's", peer=peer, not_done=_NOT_DONE)
    if (signed.blocks, signed.width) != (shape.blocks.count, shape.blocks.width):
        raise _wrong_shape(f"{signed.blocks} blocks of {signed.width} ciphertexts", peer)
    if len(headers) != signed.blocks or not all(0 <= one >> (8 * shape.short_bytes) < 1 for one in headers):
        raise _headers_differ(f"{len(headers)} numbers for the {signed.blocks} headers of {peer}, or one too large")
    if block_leaves.headers_hash(headers, shape) != signed.headers_hash:
        raise _headers_differ(f"the headers sent as those of {peer} are not those that were signed")
    try:
        input_proof.check_header(key, short, context, block_leaves.proof_in(signed, headers), OrgId(peer))
    except PeerError as error:
        error.not_done = _NOT_DONE
        raise


def _refuse_repeated(inputs: Mapping[str, Sequence[int]]) -> None:
    """Within one input a header was found to occur once; here among all of them."""
    seen: dict[int, str] = {}
    for sender, headers in inputs.items():
        for one in headers:
            if one in seen:
                what = f"{seen[one]} and {sender} sent the same header"
                raise PeerError("header_repeated", what, peer=sender, not_done=_NOT_DONE)
            seen[one] = sender


def _check_quorum(key: PublicKey, me: int, quorum: Sequence[int]) -> None:
    try:
        check_quorum(quorum, len(key.terms.holders), key.terms.threshold)
    except ValueError as error:
        raise _wrong_quorum(f"{list(quorum)} is no quorum of this key: {error}") from error
    if me not in quorum:
        raise _wrong_quorum(f"holder {me} is asked and not in the quorum {list(quorum)}")


def _checked_bases(
    key: PublicKey, products: Sequence[int], lifts: Sequence[int], entropy: Entropy
) -> lifting.CheckedBases:
    try:
        return lifting.checked_bases(key.group, products, lifts, entropy)
    except PeerError as error:
        error.peer, error.not_done = COORDINATOR, _NOT_DONE
        raise


def _headers_differ(what: str) -> PeerError:
    return PeerError(
        "headers_differ",
        what,
        peer=COORDINATOR,
        not_done=_NOT_DONE,
        next_step="the coordinator must send the headers that the survivors signed",
    )


def _wrong_shape(what: str, peer: str) -> PeerError:
    return PeerError("wrong_shape", f"{what}, not an input of this attempt", peer=peer, not_done=_NOT_DONE)


def _wrong_quorum(what: str) -> PeerError:
    return PeerError("wrong_quorum", what, peer=COORDINATOR, not_done=_NOT_DONE)
