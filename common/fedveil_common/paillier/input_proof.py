"""P1: whoever sends headers knows their exponents, and every body lies under its header; one proof for a whole input.

Without it a participant sends the inverse of another's header, or another's own, and the sum opens one victim.
Checked by the coordinator on receipt (both equations, and the lifts) and by every holder for every survivor (the first
equation), before anything is decrypted. Squares are compared, so a sign proves nothing and spoils nothing.
Soundness: strong RSA and low order assumptions in the random oracle model, knowledge error B * 2^-128; hiding by more
than 2^-146 at 256-bit exponents. Not constant-time for the prover: see `tables`. Source: docs/paillier.md (P1, G2, G5,
G9, G11); Camenisch, Shoup 2003; batching: Bellare, Garay, Rabin (EUROCRYPT 1998).
"""

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

import gmpy2

from fedveil_common.crypto.labels import u32, u64
from fedveil_common.errors import PeerError
from fedveil_common.ids import OrgId
from fedveil_common.paillier.encoding import hp, integer, words
from fedveil_common.paillier.encryption import Block, exponent_value, nonce_bits
from fedveil_common.paillier.group import multi_power, multi_powers
from fedveil_common.paillier.nonces import nonce
from fedveil_common.paillier.public_key import PublicKey
from fedveil_common.paillier.tables import ShortPowers
from fedveil_common.ports import Entropy
from fedveil_common.secret import Secret


class BasePowers(Protocol):
    """A key with powers of its g: all that a proof needs. A `BaseTable`, or the `Encryptor` that made the blocks."""

    @property
    def key(self) -> PublicKey: ...  # noqa: D102
    @property
    def short(self) -> ShortPowers: ...  # noqa: D102


@dataclass(frozen=True, slots=True)
class InputHeader:
    """What a participant signs of its input, and holders fetch: public. `headers` c_b and the proof's T, T' mod n; z;
    the hash of the bodies.
    """

    headers: tuple[int, ...]
    width: int
    bodies_hash: bytes
    commitment: int
    body_commitment: int
    response: int


@dataclass(frozen=True, slots=True)
class Context:
    """What a proof is bound to, and the shape that an input must have there."""

    digest: bytes
    blocks: int
    width: int


def input_context(t0: bytes, org: OrgId, length: int, blocks: int, width: int) -> Context:
    """This attempt, this sender, this shape."""
    digest = hp("ctx/input", t0, org.encode(), u64(length), u32(blocks), u32(width))
    return Context(digest, blocks, width)


def noise_context(
    federation: str, run_id: str, round: int, attempt: int, offer_nonce: bytes, blocks: int, width: int
) -> Context:
    """The same for the coordinator's own noise, which is encrypted before any input exists (P5): bound to one offer."""
    place = (federation.encode(), run_id.encode(), u32(round), u32(attempt), offer_nonce)
    return Context(hp("noise", *place, u32(blocks), u32(width)), blocks, width)


def bodies_hash(blocks: Iterable[Sequence[int]], long_bytes: int) -> bytes:
    """SHA-256 over the bodies, block after block."""
    digest = hashlib.sha256()
    for bodies in blocks:
        for body in bodies:
            digest.update(integer(body, long_bytes))
    return digest.digest()


def prove(powers: BasePowers, context: Context, blocks: Sequence[Block], own: Secret, entropy: Entropy) -> InputHeader:
    """The signed part of an input. `own`: a secret of this participant, for the nonce."""
    key = powers.key
    n, width = key.group.n, len(blocks[0].bodies)
    headers = tuple(block.header for block in blocks)
    digest = bodies_hash((block.bodies for block in blocks), key.group.long_bytes)
    seed = _seed(key, context, headers, digest)
    base = _body_base(key, seed, width)
    hidden = nonce(own, seed, nonce_bits(key.terms.bits), entropy)
    commitment, body_commitment = powers.short.power(hidden), gmpy2.powmod(base, hidden, n)
    challenges = _challenges(key, seed, commitment, body_commitment, len(blocks))
    response = hidden + sum(e * exponent_value(block.exponent) for e, block in zip(challenges, blocks, strict=True))
    return InputHeader(headers, width, digest, commitment, body_commitment, response)


def check_header(key: PublicKey, short: ShortPowers, context: Context, header: InputHeader, peer: OrgId) -> None:
    """The first equation: the sender knows every exponent. Returns, or raises PeerError naming `peer`:
    `bad_group_element`, `header_repeated`, `bad_input_proof`. `short`: powers of g.
    """
    n = key.group.n
    seed, challenges = _opened(key, context, header, peer)
    del seed
    left = short.power(header.response)
    right = header.commitment * multi_power(header.headers, challenges, n) % n
    if (left * left - right * right) % n:
        raise _not_proved("the exponents of its headers are not known to its sender", peer)


def check_bodies(
    key: PublicKey, context: Context, header: InputHeader, blocks: Sequence[Sequence[int]], peer: OrgId
) -> None:
    """The second equation: every body is a ciphertext under its own header. Call `check_header` too. PeerError naming
    `peer`: `bad_group_element`, `bad_bodies` for another number or hash of them, `bad_input_proof`.
    """
    n = key.group.n
    if len(blocks) != len(header.headers) or any(len(bodies) != header.width for bodies in blocks):
        raise PeerError("bad_bodies", "not as many ciphertexts as were announced", peer=peer)
    key.group.check_long((body for bodies in blocks for body in bodies), "ciphertext", peer)
    if bodies_hash(blocks, key.group.long_bytes) != header.bodies_hash:
        raise PeerError("bad_bodies", "the ciphertexts are not those that were announced", peer=peer)
    seed, challenges = _opened(key, context, header, peer)
    columns = multi_powers([[bodies[k] % n for bodies in blocks] for k in range(header.width)], challenges, n)
    left = gmpy2.powmod(_body_base(key, seed, header.width), header.response, n)
    right = header.body_commitment * multi_power(columns, words("input/sigma", seed, header.width), n) % n
    if (left * left - right * right) % n:
        raise _not_proved("a ciphertext does not lie under its header", peer)


def _opened(key: PublicKey, context: Context, header: InputHeader, peer: OrgId) -> tuple[bytes, list[int]]:
    """(seed, challenges) of a header whose elements are what they must be."""
    key.group.check_short((*header.headers, header.commitment, header.body_commitment), "header", peer)
    if len(set(header.headers)) != len(header.headers):
        raise PeerError("header_repeated", "a header occurs twice in one input", peer=peer)
    if (len(header.headers), header.width) != (context.blocks, context.width):
        raise PeerError("bad_bodies", "not the shape that an input of this attempt has", peer=peer)
    if not 1 <= header.width <= key.terms.width or not header.headers:
        raise PeerError(
            "bad_bodies", f"blocks of {header.width} ciphertexts under a key of {key.terms.width}", peer=peer
        )
    if not 0 <= header.response < 1 << (nonce_bits(key.terms.bits) + 1):
        raise _not_proved("its response is out of range", peer)
    seed = _seed(key, context, header.headers, header.bodies_hash)
    return seed, _challenges(key, seed, header.commitment, header.body_commitment, len(header.headers))


def _seed(key: PublicKey, context: Context, headers: Sequence[int], digest: bytes) -> bytes:
    width = key.group.short_bytes
    return hp("input", key.fingerprint, context.digest, *(integer(one, width) for one in headers), digest)


def _challenges(key: PublicKey, seed: bytes, commitment: int, body_commitment: int, count: int) -> list[int]:
    width = key.group.short_bytes
    bound = hp("input/e", seed, integer(commitment, width), integer(body_commitment, width))
    return words("input/e", bound, count)


def _body_base(key: PublicKey, seed: bytes, width: int) -> int:
    """P: the product of (H_k mod n)^(sigma_k), as one power: H_k is h_k^2 to the n^s mod n, for every k."""
    n = key.group.n
    root = multi_power(key.columns[:width], words("input/sigma", seed, width), n)
    return gmpy2.powmod(root * root % n, key.group.plain, n)  # type: ignore[no-any-return]


def _not_proved(what: str, peer: str) -> PeerError:
    return PeerError(
        "bad_input_proof", what, peer=peer, not_done="the input was not accepted and nothing was added to any sum"
    )
