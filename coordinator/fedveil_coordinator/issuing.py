"""The certificate authority with which a running coordinator signs: the first of those in force.

Promise: after `ca rotate` certificates come from the new authority without a restart, if its key lies under the
passphrase with which `serve` was started. Until then, and where the key cannot be opened, the authority before goes on;
it stays in force until `ca retire`. So that it can open a later key, the process keeps the passphrase, which opens
nothing that it does not hold open already.
"""

import structlog
from cryptography import x509
from fedveil_common.errors import FedveilError
from fedveil_common.pki.certificates import Authority
from fedveil_common.secret import Passphrase

from fedveil_coordinator.founding import Federation

log = structlog.get_logger("fedveil.issuing")


class Issuing:
    """One authority at a time. `follow` belongs to one thread, `current` to any."""

    def __init__(self, federation: Federation, passphrase: Passphrase) -> None:
        """Opens the key of the authority that issues. SealedError; ConfigError `bad_key_file`."""
        self._federation = federation
        self._passphrase = passphrase
        self._now = federation.authority(passphrase)
        self._refused: x509.Certificate | None = None

    def current(self) -> Authority:
        """The authority that signs now. Secret: its key."""
        return self._now

    def follow(self, first: x509.Certificate) -> None:
        """Sign with `first`, which the caller found in force, from now on. One whose key does not open is said once."""
        if first in (self._now.certificate, self._refused):
            return
        try:
            self._now = self._federation.authority_of(first, self._passphrase)
        except FedveilError as error:
            self._refused = first
            log.error("authority.not_opened", code=error.code, next="start `fedveil serve` again with its passphrase")
            return
        self._refused = None
        log.info("authority.changed", subject=first.subject.rfc4514_string())
