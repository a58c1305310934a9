"""What the round protocol needs to know of a key: which it is, who holds it, and how large its numbers are.

Pure facts, the same for everybody, small enough for journals; the key itself is found by its fingerprint.
Source: docs/paillier.md, section 6.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from fedveil_common.ids import OrgId
from fedveil_common.paillier.public_key import PublicKey, Terms


@dataclass(frozen=True, slots=True)
class KeyUse:
    """`holders`: sorted ids, whose places are the indices of quorums; `threshold`: t; `columns`: K."""

    key_id: str
    epoch: int
    fingerprint: bytes
    holders: tuple[OrgId, ...]
    threshold: int
    modulus_bits: int
    s: int
    columns: int

    def indices(self, members: Sequence[OrgId]) -> tuple[int, ...]:
        """Which of `members` are holders, by index, ascending."""
        return tuple(index for index, org in enumerate(self.holders) if org in members)

    def names(self, quorum: Sequence[int]) -> tuple[OrgId, ...]:
        """The holders with these indices."""
        return tuple(self.holders[index] for index in quorum)


def use_of(key: PublicKey) -> KeyUse:
    """The facts about a key that was verified."""
    return use_of_terms(key.terms, key.epoch, key.fingerprint)


def use_of_terms(terms: Terms, epoch: int, fingerprint: bytes) -> KeyUse:
    """The same, for who has the key's terms and knows its fingerprint to be good."""
    return KeyUse(
        terms.key_id,
        epoch,
        fingerprint,
        terms.holders,
        terms.threshold,
        int(terms.n).bit_length(),
        terms.s,
        terms.width,
    )
