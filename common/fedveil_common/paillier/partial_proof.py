"""P3: a partial decryption is what the key says it is; one proof for all blocks and columns of a holder.

The check c = D mod n at the opening finds wrong residues, not a factor (1+n)^delta; this finds both and names the
holder. Squares are compared in both groups. Not constant-time for the prover. Source: docs/paillier.md (P3, G2, G5,
G11); Chaum, Pedersen (CRYPTO 1992), batched.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import gmpy2

from fedveil_common.errors import PeerError
from fedveil_common.paillier.encoding import hp, integer, words
from fedveil_common.paillier.encryption import nonce_bits
from fedveil_common.paillier.group import multi_power, multi_powers
from fedveil_common.paillier.lifting import CheckedBases
from fedveil_common.paillier.nonces import nonce
from fedveil_common.paillier.public_key import PublicKey
from fedveil_common.paillier.tables import ShortPowers
from fedveil_common.ports import Entropy
from fedveil_common.secret import Secret

Partial = Sequence[Sequence[int]]
"""D_b,k: blocks of columns."""


@dataclass(frozen=True, slots=True)
class PartialProof:
    """T1 mod n, T2 mod n^(s+1), z: public."""

    commitment: int
    long_commitment: int
    response: int


def partial_context(t3: bytes, quorum: Sequence[int], holder: int) -> bytes:
    """What a proof is bound to: this certificate, this quorum, this holder (by index)."""
    return hp("ctx/partial", t3, bytes(quorum), bytes([holder]))


def prove(
    key: PublicKey,
    short: ShortPowers,
    context: bytes,
    holder: int,
    bases: CheckedBases,
    answer: Partial,
    exponents: Sequence[int],
    own: Secret,
    entropy: Entropy,
) -> PartialProof:
    """For `answer` = `partial` of these bases and exponents. `short`: powers of g; `own`: a secret of this holder."""
    cipher = key.group.cipher
    seed, weights = _seed(key, context, holder, bases.lifts, answer)
    base = multi_power(bases.squares, weights, cipher)
    hidden = nonce(own, seed, nonce_bits(key.terms.bits), entropy)
    commitment, long_commitment = short.power(hidden), gmpy2.powmod(base, hidden, cipher)
    challenges = _challenges(key, seed, commitment, long_commitment, len(answer[0]))
    response = hidden + sum(e * x for e, x in zip(challenges, exponents, strict=False))
    return PartialProof(commitment, long_commitment, response)


def check(
    key: PublicKey,
    short: ShortPowers,
    context: bytes,
    holder: int,
    lifts: Sequence[int],
    answer: Partial,
    columns: Sequence[int],
    proof: PartialProof,
    peer: str,
) -> None:
    """Returns, or raises PeerError naming `peer`: `bad_partial`, `bad_group_element`. `columns`: `key.of_holder`.

    `lifts`: L_b, canonical units, of which the verifier knows what they are: it multiplied them itself, or checked them
    (`lifting.check_lifts`). They are squared here and raised to public numbers only, so no `CheckedBases` is needed.
    """
    group, width = key.group, len(columns)
    if len(answer) != len(lifts) or any(len(row) != width for row in answer):
        raise _bad_partial("not one number for each ciphertext", peer)
    group.check_long((one for row in answer for one in row), "partial decryption", peer)
    group.check_short((proof.commitment,), "commitment", peer)
    group.check_long((proof.long_commitment,), "commitment", peer)
    if not 0 <= proof.response < 1 << (nonce_bits(key.terms.bits) + 1):
        raise _bad_partial("its response is out of range", peer)
    seed, weights = _seed(key, context, holder, lifts, answer)
    challenges = _challenges(key, seed, proof.commitment, proof.long_commitment, width)
    left = short.power(proof.response)
    right = proof.commitment * multi_power(columns, challenges, group.n) % group.n
    if (left * left - right * right) % group.n:
        raise _bad_partial("another exponent than the key's was used", peer)
    sums = multi_powers([[row[k] for row in answer] for k in range(width)], weights, group.cipher)
    base = multi_power([one * one % group.cipher for one in lifts], weights, group.cipher)
    left = gmpy2.powmod(base, proof.response, group.cipher)
    right = proof.long_commitment * multi_power(sums, challenges, group.cipher) % group.cipher
    if (left * left - right * right) % group.cipher:
        raise _bad_partial("a number in it is not the power that it must be", peer)


def _seed(
    key: PublicKey, context: bytes, holder: int, lifts: Sequence[int], answer: Partial
) -> tuple[bytes, list[int]]:
    width = key.group.long_bytes
    digest = hashlib.sha256()
    for row in answer:
        for one in row:
            digest.update(integer(one, width))
    named = (integer(one, width) for one in lifts)
    seed = hp("partial", key.fingerprint, context, bytes([holder]), *named, digest.digest())
    return seed, words("partial/rho", seed, len(lifts))


def _challenges(key: PublicKey, seed: bytes, commitment: int, long_commitment: int, count: int) -> list[int]:
    short, long = key.group.short_bytes, key.group.long_bytes
    return words("partial/e", hp("partial/e", seed, integer(commitment, short), integer(long_commitment, long)), count)


def _bad_partial(what: str, peer: str) -> PeerError:
    return PeerError(
        "bad_partial",
        what,
        peer=peer,
        not_done="the partial decryption was not used",
        next_step="another holder answers",
    )
