"""Who may call, now: the certificates that the store holds, in memory, asked again at every call.

Promise: a certificate that the store does not hold is refused even if the authority signed it; a revoked one is refused
from the moment `revoke` returns, and every listener has been told by then, so that live streams end within a second.
gRPC in Python knows no revocation list, and an open channel outlives its certificate: this map is the revocation.
"""

import functools
import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

from cryptography import x509
from fedveil_common.errors import PeerError, PolicyRefusal
from fedveil_common.ids import FederationId, OrgId
from fedveil_common.pki import certificates, names
from fedveil_common.pki.invites import Role

from fedveil_coordinator.store.members import Certificate

Listener = Callable[[OrgId, str], None]
"""(who, code) -> None. Called on the revoking thread; must not block."""


@dataclass(frozen=True, slots=True)
class Identity:
    """Who calls: taken from the certificate's SAN URI and equal to what the store recorded for its key and serial."""

    org_id: OrgId
    role: Role
    serial: str


class AllowList:
    """The map from (public key, serial) to identity. Any thread."""

    def __init__(self, federation_id: FederationId, issued: Iterable[Certificate] = ()) -> None:
        self._federation_id = federation_id
        self._lock = threading.Lock()
        self._known: dict[tuple[bytes, str], Certificate] = {}
        self._listeners: list[Listener] = []
        for certificate in issued:
            self.add(certificate)

    def add(self, certificate: Certificate) -> None:
        """A certificate that the store has recorded; one already known is replaced."""
        with self._lock:
            self._known[certificate.spki_hash, certificate.serial] = certificate

    def replace(self, org_id: OrgId, certificate: Certificate, at_s: float) -> None:
        """A re-key: the organisation's earlier certificates end, this one begins."""
        self.revoke(org_id, at_s)
        self.add(certificate)

    def revoke(self, org_id: OrgId, at_s: float = 0.0) -> int:
        """Every certificate of `org_id` ends now; how many ended. Listeners have been told when this returns."""
        with self._lock:
            live = [key for key, item in self._known.items() if item.org_id == org_id and item.revoked_s is None]
            for key in live:
                self._known[key] = replace(self._known[key], revoked_s=at_s)
            listeners = list(self._listeners)
        if live:
            for listener in listeners:
                listener(org_id, "certificate_revoked")
        return len(live)

    def listen(self, listener: Listener) -> Callable[[], None]:
        """Be told of every revocation; the answer stops it."""
        with self._lock:
            self._listeners.append(listener)

        def stop() -> None:
            with self._lock:
                if listener in self._listeners:
                    self._listeners.remove(listener)

        return stop

    def identify(self, pem: bytes, now: float, role: Role | None = None) -> Identity:
        """Who holds this certificate, if it may call at `now` (seconds since 1970) and has `role` (None: any).

        Raises PolicyRefusal `not_enrolled`, `certificate_revoked`, `certificate_not_yet_valid`, `certificate_expired`,
        `wrong_role`.
        """
        try:
            certificate, subject, spki, serial = _read(pem)
        except PeerError as error:
            raise _not_enrolled(error.what) from error
        with self._lock:
            known = self._known.get((spki, serial))
        if known is None:
            raise _not_enrolled(f"no certificate with serial {serial} was issued here")
        if subject != names.Subject(self._federation_id, Role(known.role), known.org_id):
            raise _not_enrolled(f"serial {serial} was issued to {known.org_id}, not to {subject.uri}")
        if known.revoked_s is not None:
            raise PolicyRefusal(
                "certificate_revoked",
                f"the certificate of {known.org_id} with serial {serial} was revoked or replaced",
                not_done="the call was refused",
                next_step="ask the operator of the federation",
            )
        begins, ends = certificates.validity(certificate)
        if now < begins:
            raise PolicyRefusal("certificate_not_yet_valid", f"the certificate of {known.org_id} is not valid yet")
        if now >= min(ends, known.not_after_s):
            raise PolicyRefusal(
                "certificate_expired",
                f"the certificate of {known.org_id} has expired",
                not_done="the call was refused",
                next_step="the operator runs `fedveil invite ORG --rekey` and the organisation joins again",
            )
        if role is not None and subject.role is not role:
            raise PolicyRefusal(
                "wrong_role", f"this call is for role {role.value}, the certificate says {subject.role.value}"
            )
        return Identity(known.org_id, subject.role, serial)


@functools.lru_cache(maxsize=1024)
def _read(pem: bytes) -> tuple[x509.Certificate, names.Subject, bytes, str]:
    """What a certificate says, parsed once: it is looked at with every frame of an upload."""
    certificate = certificates.load_certificate(pem)
    return (
        certificate,
        names.subject_of(certificate),
        certificates.spki_hash(certificate),
        certificates.serial_text(certificate),
    )


def _not_enrolled(why: str) -> PolicyRefusal:
    return PolicyRefusal("not_enrolled", why, not_done="the call was refused", next_step="run `fedveil join` first")
