"""The key in replicated pieces: one seed for each set of t-1 holders, known to every holder outside that set.

Promise: any t holders have every seed between them, any t-1 lack one; a seed's exponents are 256 bits and never leave
the holders. Invariant: the replies of a quorum can be computed from the opened sum and any t-1 holders' seeds, so that
repeating them, or answering in another quorum, tells nobody anything new. Not constant-time where it is raised to (see
`partial`). Source: Ito, Saito, Nishizeki 1987; Cramer, Damgard, Ishai (TCC 2005); docs/paillier.md (G6, G8, G11).
"""

import itertools
from collections.abc import Mapping, Sequence

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from fedveil_common.crypto.labels import lp, u32
from fedveil_common.paillier.encoding import PREFIX, number
from fedveil_common.secret import Seed

MAX_HOLDERS = 12
EXPONENT_BITS = 256
"""Of one seed's exponent; a holder's own is a sum of at most 924 of them."""

SeedSet = tuple[int, ...]
"""t-1 holders by index, ascending: those who do NOT know the seed."""


def seed_sets(holders: int, threshold: int) -> tuple[SeedSet, ...]:
    """Every set of threshold-1 of the holders 0..holders-1, lexicographically. ValueError outside 2..12 holders."""
    if not 2 <= threshold <= holders <= MAX_HOLDERS:
        raise ValueError(f"2 <= threshold <= holders <= {MAX_HOLDERS}")
    return tuple(itertools.combinations(range(holders), threshold - 1))


def known_to(holder: int, sets: Sequence[SeedSet]) -> tuple[SeedSet, ...]:
    """The sets whose seed `holder` knows."""
    return tuple(one for one in sets if holder not in one)


def server_of(absent: SeedSet, quorum: Sequence[int]) -> int:
    """Which holder of `quorum` raises to the exponents of this seed: the lowest index outside the set."""
    return min(holder for holder in quorum if holder not in absent)


def served_by(holder: int, quorum: Sequence[int], sets: Sequence[SeedSet]) -> tuple[SeedSet, ...]:
    """The sets that `holder` serves in `quorum`."""
    return tuple(one for one in sets if server_of(one, quorum) == holder)


def check_quorum(quorum: Sequence[int], holders: int, threshold: int) -> None:
    """Returns for exactly `threshold` ascending indices below `holders`; ValueError otherwise."""
    if len(quorum) != threshold or list(quorum) != sorted(set(quorum)) or not 0 <= quorum[0] <= quorum[-1] < holders:
        raise ValueError(f"a quorum is {threshold} ascending indices of {holders} holders")


def exponent(seed: Seed, federation: str, key_id: str, epoch: int, absent: SeedSet, index: int) -> int:
    """x_A,k of an epoch: 256 bits, for the holders of this seed alone. `index`: k, the place in a block."""
    return number(_derive(seed, "x", federation, key_id, epoch, absent, u32(index)))


def next_seed(seed: Seed, federation: str, key_id: str, epoch: int, absent: SeedSet) -> Seed:
    """The seed of epoch + 1. The one of `epoch` is erased once it is durable: what was encrypted before stays shut."""
    return Seed(_derive(seed, "next", federation, key_id, epoch, absent, b""))


def _derive(seed: Seed, use: str, federation: str, key_id: str, epoch: int, absent: SeedSet, rest: bytes) -> bytes:
    info = lp((PREFIX + use).encode("ascii")) + lp(federation.encode()) + lp(key_id.encode()) + u32(epoch)
    info += lp(bytes(absent)) + rest
    return HKDF(algorithm=hashes.SHA256(), length=32, salt=None, info=info).derive(seed.expose())


def holder_exponents(exponents: Mapping[SeedSet, Sequence[int]], served: Sequence[SeedSet], width: int) -> list[int]:
    """x_j,k for k < width: the sums over the sets that a holder serves. Secret."""
    return [sum(exponents[one][index] for one in served) for index in range(width)]
