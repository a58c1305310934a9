"""The home of a holder or participant as the commands about its keys of Paillier protection open it.

Promise: whoever has a `KeyHome` holds the `FolderLock` of the home; a participant that runs there is told by
`data_folder_in_use`, and nothing is touched.
"""

import contextlib
import pathlib
from collections.abc import Iterator
from dataclasses import dataclass

from fedveil_common.database import FolderLock
from fedveil_common.errors import ConfigError
from fedveil_common.paillier.key_terms import KeyTerms
from fedveil_common.roster import Roster
from fedveil_common.succession import roster_of_its_time
from fedveil_participant import membership
from fedveil_participant.key_seat import Seat
from fedveil_participant.membership import Membership
from fedveil_participant.store import journal_key, open_holdings, open_store
from fedveil_participant.store.holder_files import HolderFiles
from fedveil_participant.store.holdings import Holdings

from fedveil_cli.output import Output
from fedveil_cli.passphrases import journal_passphrase
from fedveil_cli.world import World


@dataclass(frozen=True, slots=True)
class KeyHome:
    """`roster`: the newest that this home pinned. `seat` is secret."""

    member: Membership
    roster: Roster | None
    seat: Seat

    def check(self, terms: KeyTerms) -> tuple[str, ...]:
        """The holders whom the pinned roster does not list under the key that the terms give them. ConfigError
        `other_federation`.
        """
        if terms.terms.federation != self.member.federation_id:
            raise other_federation(terms.terms.federation, self.member.federation_id)
        if self.roster is None:
            return ()
        listed = {(member.org_id, member.protocol_key) for member in self.roster.members}
        pairs = zip(terms.terms.holders, terms.holders.keys, strict=True)
        return tuple(str(org) for org, key in pairs if (org, key) not in listed)


@contextlib.contextmanager
def open_key_home(
    home: pathlib.Path, passphrase_file: pathlib.Path | None, world: World, output: Output
) -> Iterator[KeyHome]:
    """The home, locked. ConfigError `not_joined`, `data_folder_in_use`; SealedError `passphrase_missing`,
    `passphrase_wrong`, `no_protocol_key`; StorageError.
    """
    member = membership.load_membership(home)
    passphrase = journal_passphrase(home, passphrase_file, output)
    with FolderLock(home):
        key = journal_key(home, passphrase)
        with contextlib.closing(open_store(home, key, world.clock, world.entropy)) as store:
            files = HolderFiles(home, key, world.entropy)
            seat = Seat(files, store.protocol_key(), world.entropy, world.failpoints)
            yield KeyHome(member, newest_roster(member, store), seat)


def pinned_roster(
    home: pathlib.Path, passphrase_file: pathlib.Path | None, world: World, output: Output
) -> Roster | None:
    """The newest roster that an organisation's home pinned, also while its participant runs. Errors as above."""
    member = membership.load_membership(home)
    key = journal_key(home, journal_passphrase(home, passphrase_file, output))
    with contextlib.closing(open_holdings(home, key, world.clock, world.entropy)) as books:
        return newest_roster(member, books)


def newest_roster(member: Membership, holdings: Holdings) -> Roster | None:
    """The newest roster in the home that its pinned chain vouches for."""
    trust = member.trust
    signed = [holdings.newer_roster() or holdings.roster(), member.signed_roster]
    return max((roster_of_its_time(one, trust) for one in signed if one), key=lambda one: one.version, default=None)


def other_federation(named: str, own: str) -> ConfigError:
    """The terms are not for this home."""
    return ConfigError(
        "other_federation",
        f"the terms are of federation {named}, and this home belongs to {own}",
        next_step="is this the right --home?",
    )
