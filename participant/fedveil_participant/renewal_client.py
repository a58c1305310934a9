"""What a participant asks about its certificate: over the link with the certificate in force, or on the enrolment port.

Every request is written into the outbox before it leaves, also one that says nothing.
"""

from typing import Protocol

from cryptography.hazmat.primitives.asymmetric import ec
from fedveil_common.gate import Outbox
from fedveil_common.ids import FederationId
from fedveil_common.pki import bundle
from fedveil_common.pki.governance import Trust
from fedveil_common.pki.joining import MAX_REQUEST
from fedveil_common.pki.renewing import (
    MAX_ANSWER,
    OfflineRenewal,
    RenewalAnswer,
    Standing,
    ask_standing,
    decode_standing,
)

from fedveil_participant.enrolment_client import Contact, fetch_authorities, fetch_chain, fetch_time, post


class Online(Protocol):
    """A connection with the certificate in force; `CoordinatorLink` is it."""

    def renew(self, csr: bytes) -> RenewalAnswer:
        """A certificate for the key in `csr`. FedveilError."""
        ...


class RemoteOffice:
    """`renewal.Office` over the network."""

    def __init__(self, link: Online, contact: Contact, outbox: Outbox) -> None:
        self._link = link
        self._contact = contact
        self._outbox = outbox

    def renew(self, csr: bytes) -> RenewalAnswer:
        """With the certificate in force."""
        return self._link.renew(csr)

    def renew_offline(self, request: OfflineRenewal) -> RenewalAnswer:
        """On the enrolment port."""
        return RenewalAnswer.decode(post(self._contact, self._outbox, "RenewOffline", request.encode(), MAX_ANSWER))

    def trust_chain(self) -> bytes:
        """On the enrolment port. A question that says nothing."""
        return fetch_chain(self._contact, self._outbox)[0]

    def authorities(self, trust: Trust) -> bytes:
        """On the enrolment port. A question that says nothing."""
        return bundle.bundle_pem(fetch_authorities(self._contact, trust, self._outbox))


def standing_of(
    contact: Contact,
    federation_id: FederationId,
    certificate: bytes,
    key: ec.EllipticCurvePrivateKey,
    outbox: Outbox,
) -> Standing:
    """What the coordinator thinks of this certificate (PEM), asked with its key: no use of it. FedveilError."""
    question = ask_standing(federation_id, certificate, key, int(fetch_time(contact, outbox)))
    return decode_standing(post(contact, outbox, "Standing", question.encode(), MAX_REQUEST))
