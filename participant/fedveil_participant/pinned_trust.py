"""The trust chain that this organisation pinned, and what may take its place: a longer one of the same branch, only.

Promise: a roster is accepted under the chain that came with it, and that chain is durable before the roster is. A
shorter chain, another branch, or a chain that names another past for the pinned roster moves nothing and is an alarm.
Source: FLSA/1 section 2.1, A7 (docs/protocol.md).
"""

import pathlib
from collections.abc import Callable

from fedveil_common.messages import RosterNotice
from fedveil_common.pki.governance import Trust, verify_chain
from fedveil_common.roster import Roster, accept_roster
from fedveil_common.succession import follow, roster_in_force

from fedveil_participant.membership import Membership, save_trust

SaveTrust = Callable[[pathlib.Path, bytes, bytes], None]
"""(home, chain, signed roster that came with it)."""


class PinnedTrust:
    """What is pinned now. On the thread of whoever verifies rosters: the driver's."""

    def __init__(self, member: Membership, own_key: bytes, save: SaveTrust = save_trust) -> None:
        """`own_key`: this member's protocol key, 32 bytes."""
        self._member = member
        self._own_key = own_key
        self._save = save
        self.chain = member.trust_chain
        self.trust: Trust = member.trust

    def accept(self, notice: RosterNotice, before: Roster) -> Roster:
        """The roster of `notice`, to be pinned after `before`; a longer chain is pinned, durably, when this returns.

        Raises PeerError: those of `verify_chain`, `succession.follow`, `roster_in_force` and `accept_roster`; nothing
        has changed then.
        """
        new = follow(self.trust, verify_chain(notice.trust_chain, self._member.fingerprint), before)
        found = roster_in_force(notice.signed_roster, new)
        accept_roster(before, found, me=self._member.org_id, my_key=self._own_key)
        if new.sequence > self.trust.sequence:
            self._save(self._member.home, notice.trust_chain, notice.signed_roster)
            self.chain, self.trust = notice.trust_chain, new
        return found
