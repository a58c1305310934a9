"""What one holder keeps of a key: its seeds in one epoch, and the public record they belong to.

Promise: a value of `HolderKey` fits together: the record verifies under its own root, and every seed gives its list.
Bytes at rest are a `Secret`, for the store to seal; reading them checks everything again. Whoever reads the bytes of a
threshold of holders opens everything encrypted in that epoch and in all that follow.
Source: docs/paillier-keys.md, "At rest".
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Self

from fedveil_common.errors import PeerError, StorageError
from fedveil_common.paillier import holder_lists, key_record
from fedveil_common.paillier.key_record import KeyRecord
from fedveil_common.paillier.octets import Octets
from fedveil_common.paillier.public_key import PublicKey
from fedveil_common.paillier.root import Holders
from fedveil_common.paillier.shares import SeedSet, check_quorum, holder_exponents, known_to, served_by
from fedveil_common.secret import Secret, Seed

_VERSION = 1


class StoredState(Secret):
    """A holder's secret state in canonical bytes. Only sealed does it go to a disk."""

    __slots__ = ()


@dataclass(frozen=True, slots=True, eq=False)
class HolderKey:
    """`index`: which holder. `seeds`: of the sets that do not contain it, in this epoch. Secret but for `record`."""

    index: int
    seeds: Mapping[SeedSet, Seed]
    record: KeyRecord
    public: PublicKey

    @property
    def holders(self) -> Holders:
        """The terms and the holders' protocol keys."""
        return self.record.holders

    def exponents(self, quorum: Sequence[int], width: int) -> list[int]:
        """x_j,k for k < width: what this holder raises to as a member of `quorum`. Secret. ValueError if it is none."""
        terms = self.holders.terms
        check_quorum(quorum, len(terms.holders), terms.threshold)
        if self.index not in quorum:
            raise ValueError("not a member of this quorum")
        served = served_by(self.index, quorum, terms.sets)
        secret = {a: holder_lists.exponents(terms, self.record.epoch, a, self.seeds[a]) for a in served}
        return holder_exponents(secret, served, width)

    def to_bytes(self) -> StoredState:
        """u8 1 || u8 index || u16 number of seeds || the seeds, sets in lexicographic order || the record."""
        known = known_to(self.index, self.holders.terms.sets)
        seeds = b"".join(self.seeds[absent].expose() for absent in known)
        return StoredState(
            bytes([_VERSION, self.index]) + len(known).to_bytes(2, "big") + seeds + self.record.to_bytes()
        )

    @classmethod
    def from_bytes(cls, state: StoredState) -> Self:
        """What `to_bytes` wrote. StorageError `holder_key_damaged` for anything else: nothing is half-restored."""
        try:
            octets = Octets(state.expose(), "holder's key")
            version, index = octets.take(2)
            seeds = [Seed(octets.take(32)) for _ in range(octets.unsigned(2))]
            record = KeyRecord.from_bytes(octets.rest())
            known = known_to(index, record.holders.terms.sets)
            if version != _VERSION or index >= len(record.holders.keys) or len(seeds) != len(known):
                raise octets.refused("version, index or number of seeds")
            return cls.over(index, dict(zip(known, seeds, strict=True)), record, record.root)
        except PeerError as error:
            raise StorageError(
                "holder_key_damaged",
                f"a stored holder's key is not one ({error.code})",
                not_done="no share was applied",
                next_step="restore it from a copy of the same epoch, or make a new key with the other holders",
            ) from error

    @classmethod
    def over(cls, index: int, seeds: Mapping[SeedSet, Seed], record: KeyRecord, root: bytes) -> Self:
        """A holder's key under `root`, checked: PeerError as `key_record.verify`, and `key_list_differs` if a seed
        gives another list than the record has.
        """
        public = key_record.verify(record, root)
        terms = record.holders.terms
        for absent, seed in seeds.items():
            secret = holder_lists.exponents(terms, record.epoch, absent, seed)
            if holder_lists.column_keys(terms, secret) != public.lists[absent]:
                raise PeerError(
                    "key_list_differs",
                    f"the record's list of the set {list(absent)} is not the one that this holder's seed gives",
                    not_done="the record was not accepted",
                    next_step="compare records with the other holders; if theirs agree, make a new key",
                )
        return cls(index, dict(seeds), record, public)
