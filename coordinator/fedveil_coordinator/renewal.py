"""The office that renews certificates: the same identity, a new key, for whoever proves the old one.

Promise: a certificate is signed for the identity of the calling certificate and for no other, or, on the enrolment
port, for the organisation whose listed protocol key signed the request. The same key again gets the same certificate,
so that an answer may be lost; a key that ever had another certificate gets none. Nothing is signed without being
recorded first. Invariant: at most one successor of a certificate may come into use (see `succession`).
"""

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from cryptography.hazmat.primitives.asymmetric import ec
from fedveil_common.errors import PeerError, PolicyRefusal, RoundAborted
from fedveil_common.ids import FederationId
from fedveil_common.pki import certificates
from fedveil_common.pki.invites import Role
from fedveil_common.pki.names import Subject
from fedveil_common.pki.renewing import OFFLINE_DAYS, OfflineRenewal, RenewalAnswer
from fedveil_common.ports import Clock, Entropy
from fedveil_common.roster import Roster

from fedveil_coordinator.allowlist import AllowList, Identity
from fedveil_coordinator.enrollment import stored_certificate
from fedveil_coordinator.store.members import Certificate, Member
from fedveil_coordinator.succession import Place

RENEWALS_A_DAY = 24
"""New certificates of one identity within 24 hours; a mistake in a loop must not fill the disk."""

DAY_S = 86_400.0
_NOTHING = "no certificate was signed"


class RenewalStore(Protocol):
    """Where renewals become durable; `store.Renewals` is it."""

    def record_renewal(
        self, certificate: Certificate, predecessor: str, withdrawn: Sequence[str], at_s: float, who: str
    ) -> None:
        """A certificate signed to succeed `predecessor`. StorageError."""
        ...


class Publishing(Protocol):
    """What goes with a certificate: the authorities in force (PEM) and the trust chain that names them;
    `trust.TrustInForce` is it.
    """

    @property
    def authority_pem(self) -> bytes:
        """As `/ca.pem` serves them."""
        ...

    @property
    def trust_chain(self) -> bytes:
        """As `/trust` serves it."""
        ...


@dataclass(frozen=True, slots=True)
class Decision:
    """`again`: the certificate that this key has got already; else a new one is signed and `withdrawn` never count."""

    again: Certificate | None
    withdrawn: tuple[str, ...]


def decide(
    key_hash: bytes, predecessor: str, known: Sequence[tuple[Certificate, Place]], identity: tuple[str, str], now: float
) -> Decision:
    """What a request for the key with this SPKI hash, by the holder of `predecessor`, gets. Pure.

    `known`: every certificate with its place; `identity`: (role, org). Raises PeerError `key_in_use` if the key has, or
    had, another certificate; RoundAborted `too_many_renewals`.
    """
    own = [(item, place) for item, place in known if (item.role, item.org_id) == identity]
    waiting = [
        item
        for item, place in own
        if place.predecessor == predecessor and not place.used and place.ended_s is None and item.revoked_s is None
    ]
    for item in waiting:
        if item.spki_hash == key_hash and now < certificates.renewal_due_s(certificates.load_certificate(item.pem)):
            return Decision(item, ())
    if any(item.spki_hash == key_hash and item not in waiting for item, _ in known):
        raise PeerError(
            "key_in_use",
            "the key in the request has, or had, a certificate already",
            not_done=_NOTHING,
            next_step="`fedveil renew` makes a new key",
        )
    if sum(place.made_s > now - DAY_S for _, place in own) >= RENEWALS_A_DAY:
        raise RoundAborted(
            "too_many_renewals",
            f"{identity[1]} got {RENEWALS_A_DAY} certificates within a day",
            not_done=_NOTHING,
            next_step="find out what asks for them; the certificate in force stays in force",
        )
    return Decision(None, tuple(item.serial for item in waiting))


def check_offline(
    request: OfflineRenewal,
    federation_id: FederationId,
    roster: Roster,
    members: Sequence[Member],
    last: Certificate | None,
    now: float,
) -> Certificate:
    """The certificate to succeed, if the holder of a listed, unrevoked protocol key asks in time. Pure.

    Raises PeerError `wrong_federation`, `bad_signature`; PolicyRefusal `not_in_roster`, `member_revoked`,
    `renewal_too_late`.
    """
    org_id = request.org_id
    if request.federation_id != federation_id:
        raise PeerError("wrong_federation", f"the request is for {request.federation_id}", not_done=_NOTHING)
    if org_id not in roster.participants:
        raise PolicyRefusal(
            "not_in_roster",
            f"the roster does not list {org_id}",
            not_done=_NOTHING,
            next_step="wait until the operator has signed the next roster (`fedveil run start` does)",
        )
    request.verify(roster.key_of(org_id))
    known = next((member for member in members if member.org_id == org_id), None)
    if known is None or known.revoked_s is not None or known.protocol_key != roster.key_of(org_id) or last is None:
        raise PolicyRefusal(
            "member_revoked",
            f"{org_id} was revoked or has another key by now",
            not_done=_NOTHING,
            next_step="ask the operator for a new invite",
        )
    if now > last.not_after_s + OFFLINE_DAYS * DAY_S:
        raise PolicyRefusal(
            "renewal_too_late",
            f"the certificate of {org_id} expired {(now - last.not_after_s) / DAY_S:.0f} days ago; it can be renewed "
            f"for {OFFLINE_DAYS}",
            not_done=_NOTHING,
            next_step=f"the operator runs `fedveil invite {org_id} --rekey` and the organisation joins again",
        )
    return last


class RenewalOffice:
    """Signs successors. Any thread; holds the authority's key."""

    def __init__(
        self,
        federation_id: FederationId,
        authority: Callable[[], certificates.Authority],
        store: RenewalStore,
        allowed: AllowList,
        publishing: Publishing,
        roster: Callable[[], Roster],
        members: Callable[[], Sequence[Member]],
        clock: Clock,
        entropy: Entropy,
    ) -> None:
        """`authority`: the one that issues now. `roster`: the one in force, verified."""
        self._federation_id = federation_id
        self._authority = authority
        self._store = store
        self._allowed = allowed
        self._publishing = publishing
        self._roster = roster
        self._members = members
        self._clock = clock
        self._entropy = entropy
        self._lock = threading.Lock()

    def renew(self, identity: Identity, csr: bytes) -> RenewalAnswer:
        """A successor of the calling certificate. PeerError `bad_csr`, `key_in_use`; RoundAborted `too_many_renewals`;
        PolicyRefusal `certificate_superseded`; StorageError.
        """
        with self._lock:
            if self._allowed.place(identity.serial).ended_s is not None:  # since the call was let in
                raise PolicyRefusal(
                    "certificate_superseded", "the calling certificate has a successor in use", not_done=_NOTHING
                )
            return self._sign(identity.role, identity.org_id, identity.serial, csr)

    def renew_offline(self, request: OfflineRenewal) -> RenewalAnswer:
        """A successor of the organisation's last certificate, whether that has expired or not. What `check_offline`
        raises; PolicyRefusal `identity_frozen`; and as `renew`.
        """
        with self._lock:
            now = self._clock.wall_s()
            last = self._allowed.in_force(Role.PARTICIPANT, request.org_id)
            last = check_offline(request, self._federation_id, self._roster(), self._members(), last, now)
            if any((item.role, item.org_id) == (last.role, last.org_id) for item in self._allowed.frozen()):
                raise PolicyRefusal(
                    "identity_frozen",
                    f"{last.org_id} is frozen: a certificate was used after its successor",
                    not_done=_NOTHING,
                    next_step=f"the operator runs `fedveil invite {last.org_id} --rekey`, then join again",
                )
            return self._sign(Role.PARTICIPANT, request.org_id, last.serial, request.csr)

    def _sign(self, role: Role, org_id: str, predecessor: str, csr: bytes) -> RenewalAnswer:
        now = self._clock.wall_s()
        request = certificates.read_request(csr)
        key = request.public_key()
        if not isinstance(key, ec.EllipticCurvePublicKey):
            raise TypeError("read_request lets only P-256 keys pass")
        known = [(item, self._allowed.place(item.serial)) for item in self._allowed.certificates()]
        subject = Subject(self._federation_id, role, next(i.org_id for i, _ in known if i.serial == predecessor))
        made = decide(certificates.spki_hash(request), predecessor, known, (role.value, org_id), now)
        certificate = made.again
        if certificate is None:
            issued = certificates.issue(self._authority(), key, subject, now, self._entropy)
            certificate = stored_certificate(issued, subject)
            self._store.record_renewal(certificate, predecessor, made.withdrawn, now, org_id)
            self._allowed.succeed(certificate, predecessor, made.withdrawn, now)
        return RenewalAnswer(certificate.pem, self._publishing.authority_pem, self._publishing.trust_chain)
