"""A key of Paillier protection among the organisations of a federation on this machine, for the demo and simulations.

Promise: a real key: the modulus RSA-2048, without a dealer, and the ceremony of `paillier.ceremony` between all
holders, every message signed and checked, each under its own protocol key and randomness. What is staged is the place:
one process speaks for all holders, so whoever reads this process has every seed.
"""

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from fedveil_common.crypto import signing
from fedveil_common.errors import ConfigError
from fedveil_common.ids import OrgId
from fedveil_common.jcs import Json
from fedveil_common.layout import layout_for, sums
from fedveil_common.masking import quorum
from fedveil_common.paillier.key_record import KeyRecord
from fedveil_common.paillier.key_terms import KeyTerms, agree, usual_threshold
from fedveil_common.paillier.modulus_record import adopt_rsa_2048
from fedveil_common.paillier.packing import Slots
from fedveil_common.paillier.public_key import PublicKey
from fedveil_common.paillier.shares import MAX_HOLDERS
from fedveil_common.pki.governance import fingerprint_text
from fedveil_common.plan import Plan
from fedveil_common.private_sum import expected_bits
from fedveil_participant import key_pins, key_seat
from fedveil_simulation.key_book import KeyBook, hold

from fedveil_cli.key_home import open_key_home
from fedveil_cli.output import Output
from fedveil_cli.world import World

USUAL_HOLDERS = 7
"""A key of more holders takes long to make; those that the threshold needs are holders in any case."""

MOST_COLUMNS = 16
"""Ciphertexts under one header, for a vector that needs so many: more make an upload little smaller."""

EPHEMERAL = "the key was made for this run alone and is gone; one process made it, so it protected nobody"


@dataclass(frozen=True, slots=True)
class Choice:
    """What such a key is to be: `threshold` of the `holders` open a sum, with `columns` ciphertexts to a header."""

    key_id: str
    holders: tuple[OrgId, ...]
    threshold: int
    columns: int


@dataclass(frozen=True, slots=True)
class LocalKey:
    """A key that was made, without its secrets. `seconds`: that the making took."""

    terms: KeyTerms
    record: KeyRecord
    public: PublicKey
    seconds: float

    @property
    def holders(self) -> tuple[OrgId, ...]:
        """Who holds it, by index."""
        return self.terms.terms.holders

    def to_json(self) -> dict[str, Json]:
        """For `--json`."""
        terms = self.terms.terms
        return {
            "id": terms.key_id,
            "epoch": self.public.epoch,
            "fingerprint": self.public.fingerprint.hex(),
            "modulus": self.terms.modulus.modulus.origin.value,
            "bits": int(terms.n).bit_length(),
            "columns": terms.width,
            "holders": [str(org) for org in terms.holders],
            "threshold": terms.threshold,
            "seconds": self.seconds,
        }

    def lines(self) -> list[str]:
        """For a person."""
        terms, dealer = self.terms.terms, self.terms.modulus.dealer
        origin = "no dealer" if dealer is None else f"dealt by {dealer.name}"
        return [
            f"key {terms.key_id}, {fingerprint_text(self.public.fingerprint)}: any {terms.threshold} of "
            f"{', '.join(terms.holders)} together open a sum",
            f"modulus {self.terms.modulus.modulus.origin.value} of {int(terms.n).bit_length()} bits, {origin}; made in "
            f"{self.seconds:.1f} s by all {len(terms.holders)} holders",
        ]


def choose(plan: Plan, names: Sequence[str]) -> Choice:
    """The key for a plan among these organisations: all of them up to USUAL_HOLDERS, or as many as it takes.

    ConfigError `bad_key_terms` if that is more than a key can have.
    """
    corrupt = quorum.corrupt_bound(plan.cohort.max_corrupt, len(names))
    count = min(len(names), max(USUAL_HOLDERS, corrupt + 2))
    threshold = usual_threshold(count, corrupt)
    if count > MAX_HOLDERS or threshold > count:
        raise ConfigError(
            "bad_key_terms",
            f"no key of at most {MAX_HOLDERS} holders is safe from {corrupt} corrupt members of {len(names)}",
            not_done="no key was made and nothing was run",
            next_step="a smaller roster, or cohort.max_corrupt, or protection masked",
        )
    holders = tuple(OrgId(name) for name in sorted(names)[:count])
    return Choice(plan.protection.key, holders, threshold, _columns(plan, len(names)))


def _columns(plan: Plan, members: int) -> int:
    """As many as the largest sum has ciphertexts: then one header is enough for all of them."""
    length = max(layout_for(plan, purpose, step).length for purpose, step in sums(plan))
    largest = (1 << (expected_bits(plan, members) - 1)) - 1
    bits = int(adopt_rsa_2048(1).modulus.n).bit_length()
    return min(MOST_COLUMNS, Slots(bits, length, members, largest).plaintexts)


def of_book(book: KeyBook, seconds: float) -> LocalKey:
    """The key of a simulation in memory."""
    held = next(iter(book.held.values()))
    return LocalKey(book.terms, held.record, held.public, seconds)


def make(choice: Choice, federation: str, homes: Mapping[OrgId, Path], world: World, output: Output) -> LocalKey:
    """The ceremony between the homes of the holders, whose participants do not run: each holder's seeds are in its home
    then, and the key is pinned in every home. Errors as `open_key_home`, `agree`.
    """
    began = world.clock.monotonic_s()
    with contextlib.ExitStack() as stack:
        seats = {org: stack.enter_context(open_key_home(home, None, world, output)).seat for org, home in homes.items()}
        keys = {org: signing.public_key(seats[org].private) for org in choice.holders}
        terms = agree(adopt_rsa_2048(1), federation, choice.key_id, keys, choice.threshold, choice.columns)
        held = hold([seats[org].party(terms) for org in choice.holders])
        for org, (key, said) in zip(choice.holders, held, strict=True):
            key_seat.save_key(seats[org], terms, key, said)
        first = held[0][0]
        for seat in seats.values():
            key_pins.pin(seat.files, terms, first.record)
    return LocalKey(terms, first.record, first.public, world.clock.monotonic_s() - began)
