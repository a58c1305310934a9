"""The trust chain that this organisation pinned, and what may take its place: a longer one of the same branch, only.

Promise: whoever brings a chain (the session, a renewal, a question on the enrolment port, a file) brings it here; a
roster is accepted under the chain that came with it, and that chain is durable before the roster is. A shorter chain,
another branch, or a chain that names another past for the pinned roster moves nothing and is an alarm.
Source: FLSA/1 section 2.1, A7 (docs/protocol.md).
"""

import pathlib
import threading
from collections.abc import Callable

from fedveil_common.errors import ConfigError
from fedveil_common.messages import RosterNotice
from fedveil_common.pki.governance import Trust, verify_chain
from fedveil_common.roster import Roster, accept_roster
from fedveil_common.succession import follow, roster_in_force, roster_of_its_time

from fedveil_participant.membership import Membership, save_trust

SaveTrust = Callable[[pathlib.Path, bytes, bytes], None]
"""(home, chain, signed roster that came with it)."""

Longer = Callable[[Trust, Trust], None]
"""(the chain before, the chain now) -> None. Called on the thread of whoever brought it."""


class PinnedTrust:
    """What is pinned now. Any thread: the driver's verifies rosters, the renewer's takes what a renewal answers."""

    def __init__(
        self, member: Membership, own_key: bytes, save: SaveTrust = save_trust, signed_roster: bytes = b""
    ) -> None:
        """`own_key`: this member's protocol key, 32 bytes. `signed_roster`: the newest in the journal, if open."""
        self._member = member
        self._own_key = own_key
        self._save = save
        self._lock = threading.Lock()
        self._last: tuple[bytes, Trust, Roster] | None = None
        self._now = member.trust_chain, member.trust
        pinned = [self.roster(signed) for signed in (signed_roster, member.signed_roster) if signed]
        self._roster = max(pinned, key=lambda roster: roster.version, default=None)
        self.listeners: list[Longer] = []

    @property
    def chain(self) -> bytes:
        """The pinned chain as it came."""
        return self._now[0]

    @property
    def trust(self) -> Trust:
        """What it establishes."""
        return self._now[1]

    def roster(self, signed: bytes) -> Roster:
        """A roster of whatever version, if governance signed it in its time. Errors of `roster_of_its_time`."""
        trust, last = self.trust, self._last
        if last is not None and last[0] == signed and last[1] is trust:
            return last[2]  # every round names one, and the same for months
        found = roster_of_its_time(signed, trust)
        self._last = signed, trust, found
        return found

    def accept(self, notice: RosterNotice, before: Roster) -> Roster:
        """The roster of `notice`, to be pinned after `before`; a longer chain is pinned, durably, when this returns.

        Raises PeerError: those of `verify_chain`, `succession.follow`, `roster_in_force` and `accept_roster`; nothing
        has changed then.
        """
        with self._lock:
            new = follow(self.trust, verify_chain(notice.trust_chain, self._member.fingerprint), before)
            found = roster_in_force(notice.signed_roster, new)
            accept_roster(before, found, me=self._member.org_id, my_key=self._own_key)
            self._pin(notice.trust_chain, new, notice.signed_roster)
            self._roster = found
        return found

    def check(self, chain: bytes) -> Trust:
        """What `chain` establishes, if it is the pinned one or goes on from it under the same coordinator.

        Raises PeerError: those of `verify_chain` and `succession.follow`; ConfigError `roster_needed` if it names
        another coordinator: only a roster that lists that one makes it believed.
        """
        pinned = self.trust
        new = follow(pinned, verify_chain(chain, self._member.fingerprint), self._roster)
        if new.coordinator != pinned.coordinator:
            raise ConfigError(
                "roster_needed",
                "the chain names another coordinator, and the roster that lists it is not there",
                not_done="the pinned chain stays",
                next_step="`fedveil governance follow FILE` with the signed proposal of the handover",
            )
        return new

    def take(self, chain: bytes) -> Trust:
        """As `check`; the chain is pinned, durably, when this returns."""
        with self._lock:
            new = self.check(chain)
            self._pin(chain, new, b"")
        return new

    def _pin(self, chain: bytes, new: Trust, signed_roster: bytes) -> None:
        before = self.trust
        if new.sequence <= before.sequence:
            return
        self._save(self._member.home, chain, signed_roster)
        self._now = chain, new
        for listener in self.listeners:
            listener(before, new)
