"""Who may call, now: the certificates that the store holds, in memory, asked again at every call.

Promise: a certificate that the store does not hold is refused even if the authority signed it; a revoked one is refused
from the moment `revoke` returns, and every listener has been told by then, so that live streams end within a second;
one that was superseded is refused, and its use freezes the identity (see `succession`). gRPC in Python knows no
revocation list, and an open channel outlives its certificate: this map is the revocation.
"""

import functools
import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Protocol

from cryptography import x509
from fedveil_common.errors import PeerError, PolicyRefusal
from fedveil_common.ids import FederationId, OrgId
from fedveil_common.pki import certificates, names
from fedveil_common.pki.invites import Role
from fedveil_common.pki.renewing import Standing

from fedveil_coordinator import succession
from fedveil_coordinator.store.members import Certificate
from fedveil_coordinator.store.renewals import Freeze, Renewal
from fedveil_coordinator.succession import Place, Use

Listener = Callable[[OrgId, str], None]
"""(who, code) -> None. Called on the revoking thread; must not block."""

_REFUSED = "the call was refused"


@dataclass(frozen=True, slots=True)
class Identity:
    """Who calls: taken from the certificate's SAN URI and equal to what the store recorded for its key and serial.

    `until_s`: when the certificate ends, in seconds since 1970.
    """

    org_id: OrgId
    role: Role
    serial: str
    until_s: float = float("inf")


class Keeper(Protocol):
    """Where first uses and freezes become durable; `store.Renewals` is it. May raise StorageError."""

    def mark_used(self, serial: str, at_s: float) -> None:
        """The first call with `serial`."""
        ...

    def freeze(self, freeze: Freeze) -> None:
        """Nobody speaks for this identity any more."""
        ...


class _Nowhere:
    """For who keeps nothing: a first use and a freeze last as long as the map."""

    def mark_used(self, serial: str, at_s: float) -> None: ...

    def freeze(self, freeze: Freeze) -> None: ...


class AllowList:
    """The map from (public key, serial) to identity. Any thread."""

    def __init__(
        self,
        federation_id: FederationId,
        issued: Iterable[Certificate] = (),
        renewals: Iterable[Renewal] = (),
        freezes: Iterable[Freeze] = (),
        keeper: Keeper | None = None,
    ) -> None:
        self._federation_id = federation_id
        self._lock = threading.RLock()
        self._known: dict[tuple[bytes, str], Certificate] = {}
        self._by_serial: dict[str, Certificate] = {}
        self._places: dict[str, Place] = succession.places(renewals)
        self._frozen: dict[tuple[str, OrgId], Freeze] = {(item.role, item.org_id): item for item in freezes}
        self._keeper = keeper or _Nowhere()
        self._listeners: list[Listener] = []
        for certificate in issued:
            self.add(certificate)

    def add(self, certificate: Certificate) -> None:
        """A certificate that the store has recorded; one already known is replaced."""
        with self._lock:
            self._known[certificate.spki_hash, certificate.serial] = certificate
            self._by_serial[certificate.serial] = certificate

    def succeed(self, certificate: Certificate, predecessor: str, withdrawn: Iterable[str], at_s: float) -> None:
        """A certificate that the store has recorded as the successor of `predecessor`."""
        with self._lock:
            for serial in withdrawn:
                self._places[serial] = succession.withdrawn(self._places[serial], at_s)
            self._places[certificate.serial] = Place(predecessor, at_s, used=False)
            self.add(certificate)

    def replace(self, org_id: OrgId, certificate: Certificate, at_s: float) -> None:
        """A re-key: the organisation's earlier certificates end, this one begins, and nothing of it is frozen."""
        self.revoke(org_id, at_s)
        with self._lock:
            self._frozen.pop((certificate.role, org_id), None)
            self.add(certificate)

    def revoke(self, org_id: OrgId, at_s: float = 0.0) -> int:
        """Every certificate of `org_id` ends now; how many ended. Listeners have been told when this returns."""
        with self._lock:
            live = [key for key, item in self._known.items() if item.org_id == org_id and item.revoked_s is None]
            for key in live:
                self.add(replace(self._known[key], revoked_s=at_s))
        if live:
            self._tell(org_id, "certificate_revoked")
        return len(live)

    def listen(self, listener: Listener) -> Callable[[], None]:
        """Be told of every revocation and freeze; the answer stops it."""
        with self._lock:
            self._listeners.append(listener)

        def stop() -> None:
            with self._lock:
                if listener in self._listeners:
                    self._listeners.remove(listener)

        return stop

    def _tell(self, org_id: OrgId, code: str) -> None:
        with self._lock:
            listeners = list(self._listeners)
        for listener in listeners:
            listener(org_id, code)

    # --- what is known ------------------------------------------------------------------------------------------------

    def certificates(self) -> tuple[Certificate, ...]:
        """Every certificate, oldest first; revoked ones included."""
        with self._lock:
            return tuple(self._known.values())

    def place(self, serial: str) -> Place:
        """Where a certificate stands in its succession."""
        with self._lock:
            return self._places.get(serial, succession.FIRST_OF_ALL)

    def frozen(self) -> tuple[Freeze, ...]:
        """Who is frozen, by name."""
        with self._lock:
            return tuple(sorted(self._frozen.values(), key=lambda item: (item.org_id, item.role)))

    def in_force(self, role: Role, org_id: OrgId) -> Certificate | None:
        """The certificate that the identity uses now: neither revoked nor superseded nor only offered; it may have
        expired.
        """
        with self._lock:
            found = [
                item
                for item in self._known.values()
                if (item.role, item.org_id) == (role.value, org_id) and item.revoked_s is None
            ]
            used = [item for item in found if self.place(item.serial).used and self.place(item.serial).ended_s is None]
        return used[-1] if used else None

    def standing(self, certificate: x509.Certificate, now: float) -> Standing:
        """What is thought of a certificate. Asking is no use of it."""
        serial = certificates.serial_text(certificate)
        with self._lock:
            known = self._known.get((certificates.spki_hash(certificate), serial))
            place = self.place(serial)
            if known is None:
                return Standing.UNKNOWN
            if known.revoked_s is not None:
                return Standing.REVOKED
            if (known.role, known.org_id) in self._frozen:
                return Standing.FROZEN
        if place.withdrawn:
            return Standing.WITHDRAWN
        if place.ended_s is not None:
            return Standing.SUPERSEDED
        if now >= known.not_after_s:
            return Standing.EXPIRED
        return Standing.CURRENT if place.used else Standing.OFFERED

    # --- who calls ----------------------------------------------------------------------------------------------------

    def identify(self, pem: bytes, now: float, role: Role | None = None) -> Identity:
        """Who begins a call with this certificate, if it may at `now` (seconds since 1970) and has `role` (None: any).

        The first call with a successor is durable as such when this returns. Raises PolicyRefusal `not_enrolled`,
        `certificate_revoked`, `identity_frozen`, `certificate_superseded`, `certificate_not_yet_valid`,
        `certificate_expired`, `wrong_role`; StorageError.
        """
        certificate, known = self._look_up(pem)
        with self._lock:
            self._check_frozen(known)
            use = succession.judge(self.place(known.serial), now)
            if use is Use.CLONE:
                self._freeze(known, now)
        if use is Use.CLONE:
            self._tell(known.org_id, "identity_frozen")
            raise _frozen(known)
        if use is Use.LATE:
            raise PolicyRefusal(
                "certificate_superseded",
                f"the certificate of {known.org_id} with serial {known.serial} has a successor that is in use",
                not_done=_REFUSED,
                next_step="call with the newer certificate; `fedveil doctor` says which one this home has",
            )
        identity = _valid(certificate, known, now, role)
        if use is Use.FIRST:
            self._use(known.serial, now)
        return identity

    def recheck(self, pem: bytes, now: float, role: Role | None = None) -> Identity:
        """Whether a call that began before may go on. As `identify`, but for the succession: a call that began with a
        certificate may end with it.
        """
        certificate, known = self._look_up(pem)
        with self._lock:
            self._check_frozen(known)
        return _valid(certificate, known, now, role)

    def still(self, identity: Identity, now: float) -> None:
        """Returns if a call that `identity` began may go on at `now`. As `recheck`, by the serial number alone."""
        with self._lock:
            known = self._by_serial.get(identity.serial)
            if known is None:
                raise _not_enrolled(f"no certificate with serial {identity.serial} was issued here")
            if known.revoked_s is not None:
                raise _revoked(known)
            self._check_frozen(known)
        if now >= identity.until_s:
            raise _expired(known)

    def _look_up(self, pem: bytes) -> tuple[x509.Certificate, Certificate]:
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
            raise _revoked(known)
        return certificate, known

    def _check_frozen(self, known: Certificate) -> None:
        if (known.role, known.org_id) in self._frozen:
            raise _frozen(known)

    def _use(self, serial: str, now: float) -> None:
        with self._lock:
            if not self.place(serial).used:
                self._keeper.mark_used(serial, now)  # before anything that follows from it is answered
                succession.used(self._places, serial, now)

    def _freeze(self, known: Certificate, now: float) -> None:
        found = Freeze(known.role, known.org_id, known.serial, now)
        self._keeper.freeze(found)
        self._frozen[known.role, known.org_id] = found


def _valid(certificate: x509.Certificate, known: Certificate, now: float, role: Role | None) -> Identity:
    """The identity, if the certificate is valid at `now` and of `role`."""
    begins, ends = certificates.validity(certificate)
    until = min(ends, known.not_after_s)
    if now < begins:
        raise PolicyRefusal("certificate_not_yet_valid", f"the certificate of {known.org_id} is not valid yet")
    if now >= until:
        raise _expired(known)
    found = Role(known.role)
    if role is not None and found is not role:
        raise PolicyRefusal("wrong_role", f"this call is for role {role.value}, the certificate says {found.value}")
    return Identity(known.org_id, found, known.serial, until)


def _revoked(known: Certificate) -> PolicyRefusal:
    return PolicyRefusal(
        "certificate_revoked",
        f"the certificate of {known.org_id} with serial {known.serial} was revoked or replaced",
        not_done=_REFUSED,
        next_step="ask the operator of the federation",
    )


def _expired(known: Certificate) -> PolicyRefusal:
    return PolicyRefusal(
        "certificate_expired",
        f"the certificate of {known.org_id} has expired",
        not_done=_REFUSED,
        next_step="run `fedveil renew` (within 90 days of the expiry)",
    )


def _frozen(known: Certificate) -> PolicyRefusal:
    anew = f"`fedveil invite {known.org_id} --rekey` and join again"
    if known.role == Role.OPERATOR:
        anew = "stop `fedveil serve` and run `fedveil renew --offline`"
    return PolicyRefusal(
        "identity_frozen",
        f"{known.role} {known.org_id} is frozen: a certificate was used after its successor, as a copied key would be",
        not_done=_REFUSED,
        next_step=f"find the second holder of the key; then {anew}",
    )


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
    return PolicyRefusal("not_enrolled", why, not_done=_REFUSED, next_step="run `fedveil join` first")
