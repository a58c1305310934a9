"""The holders' lists of column keys: made from seeds, proven, and held against what others say.

Promise: a list that comes through here is the one that this holder derives, or, where it does not know the seed, comes
with a proof that somebody knows its exponents and agrees with what every other sender says. Who deviates is named.
Source: docs/paillier-keys.md (P-K, G6).
"""

from collections.abc import Mapping
from dataclasses import dataclass

import gmpy2

from fedveil_common.crypto.draws import Draws
from fedveil_common.crypto.labels import u32
from fedveil_common.errors import PeerError
from fedveil_common.paillier import list_proof
from fedveil_common.paillier.encoding import hp, integer
from fedveil_common.paillier.group import Group
from fedveil_common.paillier.list_proof import ListProof, Statement
from fedveil_common.paillier.public_key import Terms, base
from fedveil_common.paillier.root import Holders
from fedveil_common.paillier.shares import SeedSet, exponent
from fedveil_common.secret import Seed


@dataclass(frozen=True, slots=True)
class ProvenList:
    """h_A,k for k < K, and a proof that somebody knows the exponents. Public."""

    values: tuple[int, ...]
    proof: ListProof


Lists = Mapping[SeedSet, ProvenList]


def exponents(terms: Terms, epoch: int, absent: SeedSet, seed: Seed) -> list[int]:
    """x_A,k for k < K. Secret: for those who know the seed."""
    return [exponent(seed, terms.federation, terms.key_id, epoch, absent, k) for k in range(terms.width)]


def column_keys(terms: Terms, secret: list[int]) -> tuple[int, ...]:
    """h_A,k = g^(x_A,k) mod n. Public once it is time; the power takes constant time in GMP."""
    group = Group(terms.n, terms.s)
    generator = base(group)
    return tuple(gmpy2.powmod_sec(generator, x, group.n) for x in secret)


def proven_lists(
    holders: Holders, epoch: int, seeds: Mapping[SeedSet, Seed], draws: Draws
) -> dict[SeedSet, ProvenList]:
    """The list of each seed that a holder knows, with its own proof; all randomness comes from `draws`."""
    made: dict[SeedSet, ProvenList] = {}
    for absent, seed in seeds.items():
        secret = exponents(holders.terms, epoch, absent, seed)
        statement = Statement(holders.terms, holders.root, epoch, absent, column_keys(holders.terms, secret))
        fresh = draws.bytes("paillier/proof", list_proof.FRESH_BYTES, statement.digest())
        made[absent] = ProvenList(statement.values, list_proof.prove(statement, secret, seed, fresh))
    return made


def list_hash(holders: Holders, epoch: int, absent: SeedSet, values: tuple[int, ...]) -> bytes:
    """Hp("ceremony/list", root, u32 epoch, A, I(h_A,0), ..): what a holder signs before any list is seen."""
    width = Group(holders.terms.n, holders.terms.s).short_bytes
    fields = (integer(value, width) for value in values)
    return hp("ceremony/list", holders.root, u32(epoch), bytes(absent), *fields)


def check_proofs(holders: Holders, epoch: int, lists: Lists, peer: str = "") -> None:
    """Returns if every list carries a proof that holds. PeerError as `list_proof.check`, naming `peer`."""
    for absent, one in lists.items():
        list_proof.check(Statement(holders.terms, holders.root, epoch, absent, one.values), one.proof, peer)


def check_same(holders: Holders, sender: int, said: Mapping[SeedSet, object], mine: Mapping[SeedSet, object]) -> None:
    """Returns if what `sender` says of the sets in `mine`, whose seeds we know ourselves, is what we derive.

    Lists or their hashes. PeerError `key_list_differs`, peer = the sender.
    """
    for absent in said.keys() & mine.keys():
        if said[absent] != mine[absent]:
            raise PeerError(
                "key_list_differs",
                f"the list of the set {list(absent)} by {holders.name(sender)} is not the one that its seed gives",
                peer=holders.name(sender),
                not_done="nothing was signed",
            )


def check_agreed(holders: Holders, said: Mapping[int, Mapping[SeedSet, object]]) -> None:
    """Returns if all senders say the same of each set. PeerError `key_list_differs`; it names both and blames neither.

    For sets whose seed we do not know: one of the two is at fault, and whoever knows the seed as well can say which.
    """
    first: dict[SeedSet, tuple[int, object]] = {}
    for sender, lists in sorted(said.items()):
        for absent, value in lists.items():
            other, earlier = first.setdefault(absent, (sender, value))
            if earlier != value:
                raise PeerError(
                    "key_list_differs",
                    f"{holders.name(other)} and {holders.name(sender)} give different lists for {list(absent)}",
                    not_done="nothing was signed",
                    next_step="another holder of that seed names the one who is wrong",
                )


def check_announced(
    holders: Holders, sender: int, shown: Mapping[SeedSet, bytes], announced: Mapping[SeedSet, bytes]
) -> None:
    """Returns if the hashes of the lists that `sender` shows are those that it signed before it saw any list.

    PeerError `key_list_not_announced`, peer = the sender.
    """
    for absent, value in shown.items():
        if value != announced[absent]:
            raise PeerError(
                "key_list_not_announced",
                f"{holders.name(sender)} shows another list for {list(absent)} than it announced",
                peer=holders.name(sender),
                not_done="nothing was signed",
                next_step="begin anew without that holder",
            )


def gather(shown: Mapping[int, Lists], first: int | None = None) -> dict[SeedSet, ProvenList]:
    """One list and proof for each set: those of the lowest sender that has one, or of `first` where it has one."""
    gathered: dict[SeedSet, ProvenList] = {}
    for sender in sorted(shown, key=lambda index: (index != first, index)):
        for absent, one in shown[sender].items():
            gathered.setdefault(absent, one)
    return gathered


def values_of(lists: Lists) -> dict[SeedSet, tuple[int, ...]]:
    """The lists without their proofs."""
    return {absent: one.values for absent, one in lists.items()}
