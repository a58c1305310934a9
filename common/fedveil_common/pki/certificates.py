"""X.509 for one federation: its certificate authority, the requests it answers, the leaves it signs, their checks.

Promise: a leaf carries exactly one extended key usage, that of its role, so that a participant's certificate can never
serve as the coordinator's and the coordinator's never call. Keys are P-256 from injected entropy.
Source: RFC 5280; RFC 2986 for requests. Times are seconds since 1970 UTC.
"""

import datetime
import hashlib
import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass, field

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.types import CertificatePublicKeyTypes
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from fedveil_common.errors import ConfigError, PeerError, PolicyRefusal
from fedveil_common.ids import FederationId
from fedveil_common.pki.invites import Role
from fedveil_common.pki.names import Subject, subject_of
from fedveil_common.ports import Entropy

AUTHORITY_DAYS = 3652
LEAF_DAYS = 7
RENEW_AT = 2 / 3
"""The part of its life after which a certificate is renewed."""

BACKDATE_S = 600
"""Certificates begin this long before they are made: clocks differ."""

MAX_CSR = 4096
MAX_PEM = 16 * 1024

_ORDER = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551  # of P-256
_USAGE = {
    Role.PARTICIPANT: ExtendedKeyUsageOID.CLIENT_AUTH,
    Role.OPERATOR: ExtendedKeyUsageOID.CLIENT_AUTH,
    Role.COORDINATOR: ExtendedKeyUsageOID.SERVER_AUTH,
}


@dataclass(frozen=True, slots=True)
class Authority:
    """A certificate authority with its key: whoever holds it can issue names, not members (see `roster`)."""

    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey = field(repr=False)

    @property
    def pem(self) -> bytes:
        """Its certificate."""
        return self.certificate.public_bytes(serialization.Encoding.PEM)


def new_key(entropy: Entropy) -> ec.EllipticCurvePrivateKey:
    """A P-256 key. 48 bytes are reduced to the range of scalars (FIPS 186-5, A.2.1: extra random bits)."""
    return ec.derive_private_key(int.from_bytes(entropy.take(48), "big") % (_ORDER - 1) + 1, ec.SECP256R1())


def key_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    """PKCS#8 in clear, for a file of mode 0600. Secret."""
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def load_key(pem: bytes) -> ec.EllipticCurvePrivateKey:
    """A P-256 key written by `key_pem`; ConfigError `bad_key_file`."""
    try:
        key = serialization.load_pem_private_key(pem, None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        key = None
    if not isinstance(key, ec.EllipticCurvePrivateKey) or not isinstance(key.curve, ec.SECP256R1):
        raise ConfigError("bad_key_file", "a key file does not hold a P-256 key", next_step="restore it or enrol anew")
    return key


def check_pair(certificate: x509.Certificate, key_pem: bytes) -> ec.EllipticCurvePrivateKey:
    """The key, if it is that of the certificate. ConfigError `bad_key_file`, `key_mismatch`."""
    key = load_key(key_pem)
    if key_hash(key.public_key()) != spki_hash(certificate):
        raise ConfigError(
            "key_mismatch",
            "the key file does not hold the key of the certificate beside it",
            next_step="put back the pair that belongs together, or make a new one (`fedveil doctor` says how)",
        )
    return key


def load_certificate(pem: bytes) -> x509.Certificate:
    """One certificate in PEM; PeerError `bad_certificate`."""
    if len(pem) <= MAX_PEM:
        try:
            return x509.load_pem_x509_certificate(pem)
        except (ValueError, x509.InvalidVersion):
            pass
    raise PeerError("bad_certificate", "a certificate cannot be read")


def certificate_pem(certificate: x509.Certificate) -> bytes:
    """PEM of a certificate."""
    return certificate.public_bytes(serialization.Encoding.PEM)


def certificate_der(certificate: x509.Certificate) -> bytes:
    """DER of a certificate."""
    return certificate.public_bytes(serialization.Encoding.DER)


def spki_hash(certificate: x509.Certificate | x509.CertificateSigningRequest) -> bytes:
    """SHA-256 of the SubjectPublicKeyInfo: which key, whatever the certificate around it."""
    return key_hash(certificate.public_key())


def key_hash(key: CertificatePublicKeyTypes) -> bytes:
    """SHA-256 of a public key's SubjectPublicKeyInfo."""
    der = key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    return hashlib.sha256(der).digest()


def serial_text(certificate: x509.Certificate) -> str:
    """The serial number in lower-case hex."""
    return f"{certificate.serial_number:x}"


def make_authority(federation_id: FederationId, now: float, entropy: Entropy) -> Authority:
    """A new authority of ten years that signs leaves only (path length 0)."""
    key = new_key(entropy)
    name = _name(federation_id, "certificate authority")
    builder = _dated(name, name, key.public_key(), now, AUTHORITY_DAYS, entropy)
    builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
    builder = builder.add_extension(_key_usage(sign_certificates=True), critical=True)
    builder = builder.add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    return Authority(builder.sign(key, hashes.SHA256()), key)


def issue(
    authority: Authority,
    public_key: ec.EllipticCurvePublicKey,
    subject: Subject,
    now: float,
    entropy: Entropy,
    *,
    hosts: Sequence[str] = (),
    days: float = LEAF_DAYS,
) -> x509.Certificate:
    """A leaf for `subject`. `hosts` (names or IP addresses) belong to the coordinator alone: ValueError otherwise."""
    if (subject.role is Role.COORDINATOR) != bool(hosts):
        raise ValueError("a coordinator's certificate, and no other, names hosts")
    issuer = authority.certificate.subject
    builder = _dated(_name(subject.federation_id, subject.org_id), issuer, public_key, now, days, entropy)
    names = [x509.UniformResourceIdentifier(subject.uri), *map(_host_name, hosts)]
    builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
    builder = builder.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
    builder = builder.add_extension(_key_usage(sign_certificates=False), critical=True)
    builder = builder.add_extension(x509.ExtendedKeyUsage([_USAGE[subject.role]]), critical=False)
    builder = builder.add_extension(
        x509.AuthorityKeyIdentifier.from_issuer_public_key(authority.key.public_key()), critical=False
    )
    return builder.sign(authority.key, hashes.SHA256())


def make_request(key: ec.EllipticCurvePrivateKey) -> bytes:
    """A certificate request (DER) that names nobody: the invite says the name, the request only proves the key."""
    builder = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([]))
    return builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.DER)


def read_request(der: bytes) -> x509.CertificateSigningRequest:
    """A request for a P-256 key, signed by that key; PeerError `bad_csr`. Names and extensions in it are ignored."""
    try:
        if len(der) <= MAX_CSR:
            request = x509.load_der_x509_csr(der)
            key = request.public_key()
            p256 = isinstance(key, ec.EllipticCurvePublicKey) and isinstance(key.curve, ec.SECP256R1)
            if p256 and request.is_signature_valid:
                return request
    except (ValueError, UnsupportedAlgorithm, x509.InvalidVersion):
        pass
    raise PeerError("bad_csr", "the certificate request is not one of a P-256 key signed by that key")


def check_leaf(certificate: x509.Certificate, authority: x509.Certificate, subject: Subject, now: float) -> None:
    """Returns if `authority` issued `certificate` to `subject` and it is valid at `now` for the subject's role.

    For one's own certificate before dialling, because a failed handshake says nothing. Raises PolicyRefusal
    `wrong_authority`, `certificate_not_yet_valid`, `certificate_expired`, `wrong_role`; PeerError
    `bad_certificate_name`, `wrong_name`.
    """
    try:
        certificate.verify_directly_issued_by(authority)
    except (ValueError, TypeError, InvalidSignature):
        raise PolicyRefusal(
            "wrong_authority",
            f"the certificate was issued by {certificate.issuer.rfc4514_string()}, this federation's authority is "
            f"{authority.subject.rfc4514_string()}",
            next_step="join this federation, or use the folder that belongs to it",
        ) from None
    begins, ends = validity(certificate)
    if now < begins:
        raise PolicyRefusal(
            "certificate_not_yet_valid",
            f"the certificate is valid in {begins - now:.0f} s only",
            next_step="set this machine's clock",
        )
    if now >= ends:
        raise PolicyRefusal(
            "certificate_expired",
            f"the certificate expired {(now - ends) / 3600:.1f} h ago",
            next_step="run `fedveil renew` (within 90 days of the expiry)",
        )
    found = subject_of(certificate)
    if found.role is not subject.role or usages(certificate) != [_USAGE[subject.role]]:
        raise PolicyRefusal("wrong_role", f"the certificate is of role {found.role.value}, not {subject.role.value}")
    if found != subject:
        raise PeerError("wrong_name", f"the certificate belongs to {found.uri}, not to {subject.uri}")


def validity(certificate: x509.Certificate) -> tuple[float, float]:
    """(first, last) second of validity since 1970."""
    return certificate.not_valid_before_utc.timestamp(), certificate.not_valid_after_utc.timestamp()


def renewal_due_s(certificate: x509.Certificate) -> float:
    """When a certificate is to be renewed: at two thirds of its life, in seconds since 1970."""
    begins, ends = validity(certificate)
    return begins + BACKDATE_S + (ends - begins - BACKDATE_S) * RENEW_AT


def usages(certificate: x509.Certificate) -> list[x509.ObjectIdentifier]:
    """The extended key usages; empty if the extension is missing."""
    try:
        return list(certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value)
    except (x509.ExtensionNotFound, x509.DuplicateExtension, ValueError):
        return []


def _dated(
    subject: x509.Name,
    issuer: x509.Name,
    public_key: ec.EllipticCurvePublicKey,
    now: float,
    days: float,
    entropy: Entropy,
) -> x509.CertificateBuilder:
    begins = datetime.datetime.fromtimestamp(int(now) - BACKDATE_S, datetime.UTC)
    ends = datetime.datetime.fromtimestamp(int(now), datetime.UTC) + datetime.timedelta(days=days)
    serial = int.from_bytes(entropy.take(16), "big") >> 1 | 1 << 126  # positive, never 0, 16 bytes
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(public_key)
        .serial_number(serial)
        .not_valid_before(begins)
        .not_valid_after(ends)
    )


def _name(federation_id: FederationId, common: str) -> x509.Name:
    return x509.Name(
        [
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, federation_id),
            x509.NameAttribute(NameOID.COMMON_NAME, common),
        ]
    )


def _host_name(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)


def _key_usage(*, sign_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not sign_certificates,
        key_cert_sign=sign_certificates,
        crl_sign=sign_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )
