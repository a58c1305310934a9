"""What is said about a certificate on the enrolment port: a renewal by who is offline past its end, and a question.

Bodies are canonical JSON and hold public values only. The renewal is signed with the protocol key that the roster
lists, because the TLS key's certificate no longer opens a connection; the question is signed with the TLS key itself,
so that it can be asked with any certificate, whatever became of it.
"""

import enum
from dataclasses import dataclass

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec

from fedveil_common import jcs
from fedveil_common.crypto import signing
from fedveil_common.crypto.labels import labelled
from fedveil_common.errors import PeerError
from fedveil_common.ids import FederationId, OrgId
from fedveil_common.limits import MAX_DOCUMENT
from fedveil_common.pki import certificates, documents, invites
from fedveil_common.pki.bundle import MAX_BUNDLE
from fedveil_common.pki.joining import MAX_REQUEST
from fedveil_common.secret import PrivateKey

RENEW_LABEL = "fedveil/renew/v1"
STANDING_LABEL = "fedveil/standing/v1"
NONCE_BYTES = 32
OFFLINE_DAYS = 90
"""How long after its end a certificate may still be renewed with the protocol key."""

QUESTION_AGE_S = 120.0
"""How far a question's time may be from the coordinator's."""

MAX_ANSWER = 2 * MAX_DOCUMENT


class Standing(enum.StrEnum):
    """What the coordinator thinks of a certificate."""

    CURRENT = "current"
    OFFERED = "offered"  # signed, and not used yet
    SUPERSEDED = "superseded"  # its successor is in use
    WITHDRAWN = "withdrawn"  # another key was certified in its place before it was used
    EXPIRED = "expired"
    REVOKED = "revoked"
    FROZEN = "frozen"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class OfflineRenewal:
    """{CSR, nonce, federation id} of `org_id`, signed (64 bytes) with its protocol key. `csr` is DER."""

    federation_id: FederationId
    org_id: OrgId
    csr: bytes
    nonce: bytes
    sig: bytes

    def encode(self) -> bytes:
        """The body of `POST /renew`."""
        return jcs.dumps(
            {
                "csr": self.csr.hex(),
                "federation_id": self.federation_id,
                "nonce": self.nonce.hex(),
                "org_id": self.org_id,
                "sig": self.sig.hex(),
            }
        )

    @classmethod
    def decode(cls, data: bytes) -> "OfflineRenewal":
        """The request in a body; PeerError `bad_document`. The signature is not yet verified."""
        what = "renewal request"
        names = {"csr", "federation_id", "nonce", "org_id", "sig"}
        fields = documents.Fields(documents.canonical(data, what, MAX_REQUEST), what, names)
        text = fields.text("csr", 2 * certificates.MAX_CSR)
        return cls(
            FederationId(fields.name("federation_id")),
            OrgId(fields.name("org_id")),
            fields.hex("csr", len(text) // 2),
            fields.hex("nonce", NONCE_BYTES),
            fields.hex("sig", signing.SIGNATURE_BYTES),
        )

    def verify(self, protocol_key: bytes) -> None:
        """Returns if the holder of `protocol_key` asks for this; PeerError `bad_signature`."""
        fields = _renewal_fields(self.federation_id, self.org_id, self.csr, self.nonce)
        signing.verify_bytes(protocol_key, self.sig, RENEW_LABEL, *fields, peer=self.org_id)


def sign_renewal(
    federation_id: FederationId, org_id: OrgId, csr: bytes, nonce: bytes, protocol_key: PrivateKey
) -> OfflineRenewal:
    """The request for a certificate of the key in `csr`. `nonce`: 32 fresh random bytes."""
    fields = _renewal_fields(federation_id, org_id, csr, nonce)
    return OfflineRenewal(federation_id, org_id, csr, nonce, signing.sign_bytes(protocol_key, RENEW_LABEL, *fields))


def _renewal_fields(federation_id: FederationId, org_id: OrgId, csr: bytes, nonce: bytes) -> tuple[bytes, ...]:
    return federation_id.encode(), org_id.encode(), invites.csr_digest(csr), nonce


@dataclass(frozen=True, slots=True)
class RenewalAnswer:
    """The new certificate, the authorities in force (both PEM) and the trust chain that names them.

    Whoever gets it believes none of it before it has checked the chain against its fingerprint, the authorities against
    the chain, and the certificate against the authorities and its own key.
    """

    certificate: bytes
    authorities: bytes
    trust_chain: bytes

    def encode(self) -> bytes:
        """The body of the answer of `POST /renew`."""
        return jcs.dumps(
            {
                "authorities": self.authorities.decode("ascii"),
                "certificate": self.certificate.decode("ascii"),
                "trust_chain": self.trust_chain.decode("utf-8"),
            }
        )

    @classmethod
    def decode(cls, data: bytes) -> "RenewalAnswer":
        """The answer in a body; PeerError `bad_document`."""
        what = "renewal answer"
        names = {"authorities", "certificate", "trust_chain"}
        fields = documents.Fields(documents.canonical(data, what, MAX_ANSWER), what, names)
        return cls(
            fields.text("certificate", certificates.MAX_PEM).encode("utf-8"),
            fields.text("authorities", MAX_BUNDLE).encode("utf-8"),
            fields.text("trust_chain", MAX_DOCUMENT).encode("utf-8"),
        )


@dataclass(frozen=True, slots=True)
class StandingQuestion:
    """What does the coordinator think of this certificate (PEM)? Signed with its key, at `seconds` since 1970 on the
    coordinator's own clock (`GET /time`), so that neither a wrong clock nor an old recording is in the way.
    """

    federation_id: FederationId
    certificate: bytes
    seconds: int
    sig: bytes

    def encode(self) -> bytes:
        """The body of `POST /standing`."""
        return jcs.dumps(
            {
                "certificate": self.certificate.decode("ascii"),
                "federation_id": self.federation_id,
                "seconds": self.seconds,
                "sig": self.sig.hex(),
            }
        )

    @classmethod
    def decode(cls, data: bytes) -> "StandingQuestion":
        """The question in a body; PeerError `bad_document`. The signature is not yet verified."""
        what = "question"
        names = {"certificate", "federation_id", "seconds", "sig"}
        fields = documents.Fields(documents.canonical(data, what, MAX_REQUEST), what, names)
        text = fields.text("sig", 200)
        return cls(
            FederationId(fields.name("federation_id")),
            fields.text("certificate", certificates.MAX_PEM).encode("utf-8"),
            fields.integer("seconds"),
            fields.hex("sig", len(text) // 2),
        )

    def verify(self) -> x509.Certificate:
        """The certificate, if its own key signed the question; PeerError `bad_certificate`, `bad_signature`."""
        certificate = certificates.load_certificate(self.certificate)
        key = certificate.public_key()
        message = _question(self.federation_id, certificate, self.seconds)
        try:
            if isinstance(key, ec.EllipticCurvePublicKey):
                key.verify(self.sig, message, ec.ECDSA(hashes.SHA256()))
                return certificate
        except InvalidSignature:
            pass
        raise PeerError("bad_signature", "the question is not signed with the key of its certificate")


def ask_standing(
    federation_id: FederationId, certificate: bytes, key: ec.EllipticCurvePrivateKey, seconds: int
) -> StandingQuestion:
    """The question about one's own certificate (PEM)."""
    message = _question(federation_id, certificates.load_certificate(certificate), seconds)
    return StandingQuestion(federation_id, certificate, seconds, key.sign(message, ec.ECDSA(hashes.SHA256())))


def _question(federation_id: FederationId, certificate: x509.Certificate, seconds: int) -> bytes:
    serial = certificates.serial_text(certificate).encode()
    return labelled(STANDING_LABEL, federation_id.encode(), serial, str(seconds).encode())


def encode_standing(standing: Standing) -> bytes:
    """The body of the answer of `POST /standing`."""
    return jcs.dumps({"standing": standing.value})


def decode_standing(data: bytes) -> Standing:
    """The inverse of `encode_standing`; PeerError `bad_document`."""
    what = "answer about a certificate"
    text = documents.Fields(documents.canonical(data, what, MAX_REQUEST), what, {"standing"}).text("standing", 64)
    for standing in Standing:
        if standing.value == text:
            return standing
    raise documents.bad(what, "no such standing")
