"""Who is in the federation, in the word of this organisation's people (`roster: confirm` in the policy).

Promise: governance signs who is a member, and this house can insist that somebody here has heard of each of them:
under such a policy no input is made while the newest roster has a member, or a key of one, that nobody here confirmed.
Whoever left must be confirmed anew. Nothing that comes from outside confirms anything.
Source: FLSA/1 A7 (docs/protocol.md), docs/consent.md.
"""

import threading
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Protocol

from fedveil_common.errors import ConfigError
from fedveil_common.ids import OrgId
from fedveil_common.pki.words import check_words
from fedveil_common.roster import Roster

from fedveil_participant.approval.decisions import Person

UNCONFIRMED = "roster_unconfirmed"
"""What the coordinator hears while somebody's word is awaited: not of whom."""


@dataclass(frozen=True, slots=True)
class Confirmed:
    """`members`: name -> protocol key (32 bytes). `approvers`: whom the policy named when somebody confirmed them
    (`people.named`). It counts under no other: whoever opens a home where nothing runs says which policy it is under.
    """

    members: Mapping[OrgId, bytes] = field(default_factory=dict)
    approvers: tuple[str, ...] = ()


class RosterStore(Protocol):
    """Where confirmed members are kept; `store.ParticipantStore` in production."""

    def confirmed_members(self) -> Confirmed: ...  # noqa: D102
    def keep_confirmed(self, confirmed: Confirmed) -> None: ...  # noqa: D102
    def confirm_roster(  # noqa: D102
        self, roster: Roster, words: str, person: Person, approvers: tuple[str, ...]
    ) -> None: ...


@dataclass(frozen=True, slots=True)
class Difference:
    """How a roster differs from the members that were confirmed: who is new, who has another key, who is gone."""

    added: tuple[OrgId, ...] = ()
    rekeyed: tuple[OrgId, ...] = ()
    gone: tuple[OrgId, ...] = ()

    @property
    def needs_word(self) -> bool:
        """Whether somebody must confirm it: that a member is gone need not be confirmed."""
        return bool(self.added or self.rekeyed)


def difference(confirmed: Mapping[OrgId, bytes], roster: Roster, me: OrgId) -> Difference:
    """`confirmed`: name -> protocol key (32 bytes). My own entry is not looked at: no roster is accepted that lists me
    under a key which is not mine, now or before I joined anew (`roster.accept_roster`).
    """
    listed = {member.org_id: member.protocol_key for member in roster.members if member.org_id != me}
    return Difference(
        tuple(name for name in listed if name not in confirmed),
        tuple(name for name, key in listed.items() if confirmed.get(name, key) != key),
        tuple(sorted(name for name in confirmed if name not in listed and name != me)),
    )


def words_differ(version: int) -> ConfigError:
    """`roster_words_differ`: what was said is not of the newest roster, whose version this is."""
    return ConfigError(
        "roster_words_differ",
        f"these are not the words of roster version {version}, the newest that this home knows",
        not_done="nothing was confirmed",
        next_step="`fedveil roster show` here and at the operator's; if they differ, confirm nothing",
    )


class RosterWord:
    """`asked`: whether the policy wants members confirmed. `approvers`: whom it names to say so, as `Confirmed` has it.
    The driver's thread and those of orders.
    """

    def __init__(self, me: OrgId, asked: bool, store: RosterStore, approvers: tuple[str, ...] = ()) -> None:
        self._me = me
        self._store = store
        self._approvers = approvers
        self._confirmed = store.confirmed_members()
        self._newest = 0
        self._changing = threading.Lock()
        self.asked = asked

    def of(self, roster: Roster) -> Difference:
        """What is not confirmed of `roster`, whether the policy asks or not."""
        confirmed = self._confirmed
        return difference(confirmed.members if confirmed.approvers == self._approvers else {}, roster, self._me)

    def unconfirmed(self, roster: Roster) -> str:
        """Why no input is made in an attempt under `roster`, the newest or an earlier one; "" if one may be."""
        return UNCONFIRMED if self.asked and self.of(roster).needs_word else ""

    def hold(self, roster: Roster) -> str:
        """As `unconfirmed`, of the newest roster. Who left is forgotten here, durably, whether the policy asks or not:
        another start may ask when they are back.
        """
        with self._changing:
            self._newest = max(self._newest, roster.version)
            before = self._confirmed
            gone = difference(before.members, roster, self._me).gone
            if gone:
                kept = {name: key for name, key in before.members.items() if name not in gone}
                self._confirmed = replace(before, members=kept)
                self._store.keep_confirmed(self._confirmed)
        return self.unconfirmed(roster)

    def confirm(self, roster: Roster, person: Person) -> None:
        """`person` has heard of every member of `roster`, and of the key of each.

        ConfigError `roster_words_differ` if a newer one came since it was read: whoever left in that one would be
        confirmed once more.
        """
        with self._changing:
            if roster.version < self._newest:
                raise words_differ(self._newest)
            self._store.confirm_roster(roster, check_words(roster.hash), person, self._approvers)
            self._confirmed = self._store.confirmed_members()
