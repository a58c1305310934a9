"""The public key of an epoch: what everybody encrypts under, and by whose exponents it can be opened.

Promise: every node derives base, lifts and column keys itself from the modulus and the holders' lists; nothing that can
be computed is received. The fingerprint says in one way what the key is. Public throughout.
Source: docs/paillier.md (B, G1, G11).
"""

import functools
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from fedveil_common.crypto.labels import u16, u32
from fedveil_common.errors import PeerError
from fedveil_common.ids import OrgId
from fedveil_common.paillier.encoding import PREFIX, hp, integer, number
from fedveil_common.paillier.group import Group, product
from fedveil_common.paillier.shares import EXPONENT_BITS, SeedSet, check_quorum, seed_sets, served_by

DEFAULT_WIDTH = 32
"""K: ciphertexts under one header."""

MAX_WIDTH = 255


@dataclass(frozen=True, slots=True)
class Terms:
    """What the holders agree on before any seed exists. `holders`: sorted ids. `width`: K. `bits`: of randomness."""

    federation: str
    key_id: str
    n: int
    s: int
    width: int
    bits: int
    holders: tuple[OrgId, ...]
    threshold: int

    def __post_init__(self) -> None:
        if list(self.holders) != sorted(set(self.holders)):
            raise ValueError("holders are sorted and distinct")
        if not 1 <= self.width <= MAX_WIDTH or not EXPONENT_BITS <= self.bits <= 8192 or self.bits % 8:
            raise ValueError("width or bits is out of range")
        if int(self.n).bit_length() % 8:
            raise ValueError("a modulus has whole bytes: else whole slots could reach beyond n^s")
        seed_sets(len(self.holders), self.threshold)

    @property
    def sets(self) -> tuple[SeedSet, ...]:
        """The seeds of this key, by who does not know them."""
        return seed_sets(len(self.holders), self.threshold)

    def fields(self) -> tuple[bytes, ...]:
        """The fields that begin the fingerprint and the root, base included."""
        group = Group(self.n, self.s)
        width = group.short_bytes
        return (
            self.federation.encode(),
            self.key_id.encode(),
            integer(self.n, width),
            bytes([self.s]),
            u16(self.width),
            u16(self.bits),
            bytes([len(self.holders)]),
            bytes([self.threshold]),
            *(org.encode() for org in self.holders),
            integer(base(group), width),
        )


def base(group: Group) -> int:
    """The generator g mod n: the square of a number that nobody chose."""
    width = group.short_bytes
    seed = (PREFIX + "base").encode("ascii") + integer(group.n, width)
    drawn = number(hashlib.shake_256(seed).digest(width + 16)) % group.n
    return drawn * drawn % group.n


def lifts_of(group: Group, columns: Sequence[int]) -> list[int]:
    """H_k = lift(h_k^2) mod n^(s+1) for these h_k: 15 to 150 ms each at 2048 bits."""
    return [group.lift(value * value % group.n) for value in columns]


class PublicKey:
    """`lists`: for each seed its h_A,k = g^(x_A,k) mod n, k < K, checked by `holder_lists` before they come here.

    PeerError `bad_key_list` unless there are exactly K for each set and all h_A,k, h_k and g are distinct and not 1,
    signs aside: masks are powers of squares. `bad_group_element`.
    """

    def __init__(self, terms: Terms, epoch: int, lists: Mapping[SeedSet, Sequence[int]]) -> None:
        self.terms = terms
        self.epoch = epoch
        self.group = Group(terms.n, terms.s)
        self.lists = {one: tuple(lists.get(one, ())) for one in terms.sets}
        if set(lists) != set(terms.sets) or any(len(found) != terms.width for found in self.lists.values()):
            raise PeerError("bad_key_list", "not one list of column keys for each seed")
        received = [value for found in self.lists.values() for value in found]
        self.group.check_short(received, "column key")
        self.g = base(self.group)
        columns = [product((found[k] for found in self.lists.values()), self.group.n) for k in range(terms.width)]
        every = [*received, *columns, self.g] if len(terms.sets) > 1 else [*received, self.g]
        unsigned = {min(value, self.group.n - value) for value in every}
        if len(unsigned) != len(every) or 1 in unsigned:
            raise PeerError("bad_key_list", "a column key occurs twice, or is 1")
        self.columns = tuple(columns)
        """h_k mod n, k < K."""
        self.fingerprint = self._fingerprint()

    @functools.cached_property
    def lifted(self) -> tuple[int, ...]:
        """H_k = lift(h_k^2) mod n^(s+1), k < K: the masks of the bodies are their powers."""
        return tuple(lifts_of(self.group, self.columns))

    def of_holder(self, holder: int, quorum: Sequence[int], width: int) -> list[int]:
        """h_j,k mod n, k < width: g to the exponents with which `holder` answers in `quorum`.

        ValueError if it is no quorum, or the holder not of it.
        """
        check_quorum(quorum, len(self.terms.holders), self.terms.threshold)
        if holder not in quorum:
            raise ValueError("not a member of this quorum")
        served = served_by(holder, quorum, self.terms.sets)
        return [product((self.lists[one][k] for one in served), self.group.n) for k in range(width)]

    def _fingerprint(self) -> bytes:
        width = self.group.short_bytes
        fields = [*self.terms.fields(), u32(self.epoch)]
        for one in self.terms.sets:
            fields.append(bytes(one))
            fields.extend(integer(value, width) for value in self.lists[one])
        return hp("key", *fields)
