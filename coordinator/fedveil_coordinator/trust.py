"""The trust chain that a running coordinator serves: read at start, replaced while it runs by a longer one only.

Any thread. Invariant: what is served verifies from the federation's fingerprint, and the current roster, and the key
with which this coordinator signs, stand under its last document.
"""

import threading
from collections.abc import Callable

from fedveil_common.pki import bundle
from fedveil_common.pki.governance import Trust, verify_chain
from fedveil_common.roster import Roster
from fedveil_common.succession import follow, roster_in_force


class TrustInForce:
    """One chain and what it establishes."""

    def __init__(self, chain: bytes, fingerprint: bytes, authorities: Callable[[], bytes] = bytes) -> None:
        """`authorities`: the bundle in the home, as it is now. PeerError as `verify_chain`."""
        self._authorities = authorities
        self._lock = threading.Lock()
        self._fingerprint = fingerprint
        self._now = chain, verify_chain(chain, fingerprint)

    @property
    def trust_chain(self) -> bytes:
        """As `/trust` serves it."""
        with self._lock:
            return self._now[0]

    @property
    def trust(self) -> Trust:
        """The verified chain."""
        with self._lock:
            return self._now[1]

    @property
    def authority_pem(self) -> bytes:
        """The authorities in force, as `/ca.pem` serves them, the one that issues first: those of the home's bundle
        that the chain names. StorageError; PeerError `bad_bundle`, `authority_mismatch`.
        """
        return bundle.bundle_pem(bundle.named_in(self._authorities(), self.trust.authorities))

    def advance(self, chain: bytes, signed_roster: bytes) -> Roster:
        """Take `chain` if it goes on from the one in force and `signed_roster` stands under it; that roster.

        Raises what `verify_chain`, `follow` and `roster_in_force` raise; nothing has changed then.
        """
        new = verify_chain(chain, self._fingerprint)
        with self._lock:
            follow(self._now[1], new)
            roster = roster_in_force(signed_roster, new)
            self._now = chain, new
        return roster
