"""Proof that somebody knows every exponent behind one seed's list of column keys, all columns in one proof (P-K).

Promise: whoever passes the check knows all x_A,k with h_A,k = g^(x_A,k) mod n up to sign, for exactly this key, epoch
and set, so that no list can be made out of other people's lists; the proof tells nothing else (its response hides the
exponents by at least 2^-150). A proof for one root, epoch or set is none for another.
Error 2^-128 a column in the random oracle model, under strong RSA and low order. Source: docs/paillier-keys.md (P-K, P1
without bodies, G5, G9, G11).
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import gmpy2

from fedveil_common.crypto.labels import lp, u32
from fedveil_common.errors import PeerError
from fedveil_common.paillier.encoding import PREFIX, hp, integer, number, words
from fedveil_common.paillier.encryption import nonce_bits
from fedveil_common.paillier.group import Group, multi_power
from fedveil_common.paillier.public_key import Terms, base
from fedveil_common.paillier.shares import SeedSet
from fedveil_common.secret import Seed

FRESH_BYTES = 64
"""Of fresh randomness in each nonce."""

_LABEL = "holderkey"


@dataclass(frozen=True, slots=True)
class Statement:
    """What is proven: a list h_A,k, k < K, under a root, in an epoch, for the set of those who do not know the seed."""

    terms: Terms
    root: bytes
    epoch: int
    absent: SeedSet
    values: tuple[int, ...]

    def context(self) -> bytes:
        """Ctx = Hp("ctx/holderkey", federation, key id, u32 epoch, A)."""
        terms = self.terms
        names = (terms.federation.encode(), terms.key_id.encode())
        return hp("ctx/" + _LABEL, *names, u32(self.epoch), bytes(self.absent))

    def digest(self) -> bytes:
        """Hp("holderkey", root, ctx, I(h_A,0), .., I(h_A,K-1))."""
        width = Group(self.terms.n, self.terms.s).short_bytes
        return hp(_LABEL, self.root, self.context(), *(integer(value, width) for value in self.values))


@dataclass(frozen=True, slots=True)
class ListProof:
    """`commitment`: T mod n. `response`: z. Public."""

    commitment: int
    response: int


def response_bytes(bits: int) -> int:
    """Bytes of z on the wire."""
    return (nonce_bits(bits) + 1 + 7) // 8


def prove(statement: Statement, exponents: Sequence[int], secret: Seed, fresh: bytes) -> ListProof:
    """The proof by who knows the exponents x_A,k, 256 bits each.

    `secret`: any secret of the prover, the set's seed for example; `fresh`: 64 random bytes, kept to nobody. The nonce
    depends on both and on the statement: neither a bad source of randomness nor a repeated draw gives two responses to
    one nonce. Whoever learns the nonce learns the exponents. Powers with secret exponents take constant time in GMP.
    """
    if len(fresh) != FRESH_BYTES or len(exponents) != len(statement.values):
        raise ValueError("64 fresh bytes, and one exponent for each column")
    terms, group = statement.terms, Group(statement.terms.n, statement.terms.s)
    nonce = _nonce(statement.digest(), secret, fresh, nonce_bits(terms.bits))
    commitment = gmpy2.powmod_sec(base(group), nonce, group.n)
    weights = _challenges(statement, commitment)
    return ListProof(commitment, nonce + sum(e * x for e, x in zip(weights, exponents, strict=True)))


def check(statement: Statement, proof: ListProof, peer: str = "") -> None:
    """Returns if the proof holds: (g^z)^2 = (T prod h_A,k^(e_k))^2 mod n. Squares, because signs prove nothing.

    `peer`: whose proof it is. PeerError `bad_group_element` for a list or T that is not canonical, above 1 and a unit;
    `bad_list_proof` for a list of another length, z out of range, or an equation that fails.
    """
    terms, group = statement.terms, Group(statement.terms.n, statement.terms.s)
    if len(statement.values) != terms.width:
        raise _bad(f"{len(statement.values)} column keys instead of {terms.width}", peer)
    group.check_short((*statement.values, proof.commitment), "column key or commitment", peer)
    if not 0 <= proof.response < 1 << (nonce_bits(terms.bits) + 1):
        raise _bad("the response is out of range", peer)
    weights = _challenges(statement, proof.commitment)
    left = gmpy2.powmod(base(group), 2 * proof.response, group.n)
    right = proof.commitment * multi_power(statement.values, weights, group.n) % group.n
    if left != right * right % group.n:
        raise _bad(f"the exponents behind that of the set {list(statement.absent)} are not shown", peer)


def _challenges(statement: Statement, commitment: int) -> list[int]:
    """e_k = XOF("holderkey/e", Hp("holderkey/e", root, ctx, digest, I(T)), K)."""
    width = Group(statement.terms.n, statement.terms.s).short_bytes
    fields = (statement.root, statement.context(), statement.digest(), integer(commitment, width))
    return words(_LABEL + "/e", hp(_LABEL + "/e", *fields), len(statement.values))


def _nonce(digest: bytes, secret: Seed, fresh: bytes, bits: int) -> int:
    stream = hashlib.shake_256(lp((PREFIX + _LABEL + "/nonce").encode("ascii")))
    for part in (secret.expose(), digest, fresh):
        stream.update(lp(part))
    return number(stream.digest((bits + 7) // 8)) >> (-bits % 8)


def _bad(what: str, peer: str) -> PeerError:
    return PeerError(
        "bad_list_proof", f"a list of column keys is not proven: {what}", peer=peer, not_done="the key was not accepted"
    )
