"""Certificates, the allow-list, and what gRPC's mutual TLS really does with them, on real sockets."""

import concurrent.futures
import contextlib
import datetime
import ipaddress
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import grpc
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID
from enrolment_office import Entropy
from fedveil_common.errors import FedveilError, PeerError, PolicyRefusal
from fedveil_common.ids import COORDINATOR, FederationId, OrgId
from fedveil_common.pki import certificates, names, transport
from fedveil_common.pki.certificates import Authority
from fedveil_common.pki.invites import OPERATOR, Role
from fedveil_common.pki.names import Subject
from fedveil_coordinator.allowlist import AllowList
from fedveil_coordinator.enrollment import stored_certificate
from patience import LIMIT_S

FEDERATION = FederationId("hospitals-0011223344556677")
DAY = 86_400.0
ENTROPY = Entropy(3)
NOW = time.time()
AUTHORITY = certificates.make_authority(FEDERATION, NOW, ENTROPY)
OTHER = certificates.make_authority(FEDERATION, NOW, ENTROPY)  # the same name, another key
ACME = Subject(FEDERATION, Role.PARTICIPANT, OrgId("acme"))
HEAD = Subject(FEDERATION, Role.COORDINATOR, COORDINATOR)
ADMIN = Subject(FEDERATION, Role.OPERATOR, OPERATOR)


@dataclass(frozen=True, slots=True)
class Leaf:
    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey

    @property
    def pem(self) -> bytes:
        return certificates.certificate_pem(self.certificate)

    @property
    def key_pem(self) -> bytes:
        return certificates.key_pem(self.key)


def leaf(subject: Subject, *, authority: Authority = AUTHORITY, at: float = NOW, days: float = 90) -> Leaf:
    key = certificates.new_key(ENTROPY)
    hosts = ("127.0.0.1", "localhost", "fed.example.org") if subject.role is Role.COORDINATOR else ()
    return Leaf(certificates.issue(authority, key.public_key(), subject, at, ENTROPY, hosts=hosts, days=days), key)


def custom(alternatives: list[x509.GeneralName], usage: x509.ObjectIdentifier | None) -> Leaf:
    """A leaf of the true authority with whatever names and usage."""
    key = certificates.new_key(ENTROPY)
    now = datetime.datetime.fromtimestamp(NOW, datetime.UTC)
    builder = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([]))
        .issuer_name(AUTHORITY.certificate.subject)
        .public_key(key.public_key())
        .serial_number(int.from_bytes(ENTROPY.take(8), "big") + 1)
        .not_valid_before(now - datetime.timedelta(minutes=10))
        .not_valid_after(now + datetime.timedelta(days=1))
    )
    if alternatives:
        builder = builder.add_extension(x509.SubjectAlternativeName(alternatives), critical=False)
    if usage is not None:
        builder = builder.add_extension(x509.ExtendedKeyUsage([usage]), critical=False)
    return Leaf(builder.sign(AUTHORITY.key, hashes.SHA256()), key)


# --- certificates -----------------------------------------------------------------------------------------------------


def test_what_the_authority_is() -> None:
    begins, ends = certificates.validity(AUTHORITY.certificate)
    assert 3650 < (ends - begins) / DAY < 3654
    basic = AUTHORITY.certificate.extensions.get_extension_for_class(x509.BasicConstraints)
    assert (basic.critical, basic.value.ca, basic.value.path_length) == (True, True, 0)


@pytest.mark.parametrize("subject", [ACME, HEAD, ADMIN])
def test_what_a_leaf_is(subject: Subject) -> None:
    made = leaf(subject).certificate
    begins, ends = certificates.validity(made)
    assert int(NOW) - begins == 600
    assert ends - int(NOW) == 90 * DAY
    wanted = ExtendedKeyUsageOID.SERVER_AUTH if subject is HEAD else ExtendedKeyUsageOID.CLIENT_AUTH
    assert certificates.usages(made) == [wanted]
    assert names.subject_of(made) == subject
    assert made.extensions.get_extension_for_class(x509.BasicConstraints).value.ca is False
    alternative = made.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    dns = alternative.get_values_for_type(x509.DNSName)
    assert dns == (["localhost", "fed.example.org"] if subject is HEAD else [])
    assert isinstance(made.public_key(), ec.EllipticCurvePublicKey)
    certificates.check_leaf(made, AUTHORITY.certificate, subject, NOW)


def test_hosts_belong_to_the_coordinator_alone() -> None:
    key = certificates.new_key(ENTROPY).public_key()
    with pytest.raises(ValueError, match="hosts"):
        certificates.issue(AUTHORITY, key, ACME, NOW, ENTROPY, hosts=("acme.example",))
    with pytest.raises(ValueError, match="hosts"):
        certificates.issue(AUTHORITY, key, HEAD, NOW, ENTROPY)


@pytest.mark.parametrize(
    ("made", "subject", "code"),
    [
        (leaf(ACME, authority=OTHER), ACME, "wrong_authority"),
        (leaf(ACME, at=NOW - 100 * DAY), ACME, "certificate_expired"),
        (leaf(ACME, at=NOW + DAY), ACME, "certificate_not_yet_valid"),
        (leaf(HEAD), ACME, "wrong_role"),
        (leaf(ADMIN), ACME, "wrong_role"),
        (leaf(Subject(FEDERATION, Role.PARTICIPANT, OrgId("borealis"))), ACME, "wrong_name"),
        (leaf(Subject(FederationId("other-00"), Role.PARTICIPANT, OrgId("acme"))), ACME, "wrong_name"),
        (custom([x509.UniformResourceIdentifier(ACME.uri)], ExtendedKeyUsageOID.SERVER_AUTH), ACME, "wrong_role"),
        (custom([x509.UniformResourceIdentifier(ACME.uri)], None), ACME, "wrong_role"),
        (custom([x509.DNSName(ACME.uri)], ExtendedKeyUsageOID.CLIENT_AUTH), ACME, "bad_certificate_name"),
    ],
)
def test_ones_own_certificate_is_checked_before_dialling(made: Leaf, subject: Subject, code: str) -> None:
    with pytest.raises(FedveilError) as refused:
        certificates.check_leaf(made.certificate, AUTHORITY.certificate, subject, NOW)
    assert refused.value.code == code


@pytest.mark.parametrize(
    "alternatives",
    [
        [],
        [x509.DNSName(ACME.uri)],
        [x509.DNSName("acme"), x509.RFC822Name("acme@example.org")],
        [x509.UniformResourceIdentifier(ACME.uri), x509.UniformResourceIdentifier(ADMIN.uri)],
        [x509.UniformResourceIdentifier("https://acme.example")],
        [x509.UniformResourceIdentifier(ACME.uri + "/more")],
        [x509.UniformResourceIdentifier(ACME.uri.replace("participant", "king"))],
        [x509.UniformResourceIdentifier(ACME.uri.upper())],
        [x509.UniformResourceIdentifier(f"spiffe://{FEDERATION}/participant/")],
    ],
)
def test_only_one_well_formed_uri_is_an_identity(alternatives: list[x509.GeneralName]) -> None:
    with pytest.raises(PeerError) as refused:
        names.subject_of(custom(alternatives, ExtendedKeyUsageOID.CLIENT_AUTH).certificate)
    assert refused.value.code == "bad_certificate_name"


def test_a_dns_name_beside_the_uri_does_not_matter() -> None:
    both: list[x509.GeneralName] = [x509.DNSName(ADMIN.uri), x509.UniformResourceIdentifier(ACME.uri)]
    assert names.subject_of(custom(both, ExtendedKeyUsageOID.CLIENT_AUTH).certificate) == ACME


def test_requests() -> None:
    key = certificates.new_key(ENTROPY)
    der = certificates.make_request(key)
    assert certificates.spki_hash(certificates.read_request(der)) == certificates.key_hash(key.public_key())
    builder = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([]))
    strong = ec.generate_private_key(ec.SECP384R1())
    long = rsa.generate_private_key(65537, 2048)
    for bad in (
        b"",
        b"junk",
        der[:-1],
        der[:-1] + bytes([der[-1] ^ 1]),
        der + bytes(5000),
        builder.sign(strong, hashes.SHA256()).public_bytes(Encoding.DER),
        builder.sign(long, hashes.SHA256()).public_bytes(Encoding.DER),
    ):
        with pytest.raises(PeerError) as refused:
            certificates.read_request(bad)
        assert refused.value.code == "bad_csr"


def test_a_request_cannot_name_itself() -> None:
    """Names in a request are ignored: the certificate says what the invite says."""
    key = certificates.new_key(ENTROPY)
    alternative = x509.SubjectAlternativeName([x509.UniformResourceIdentifier(ADMIN.uri)])
    builder = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([])).add_extension(alternative, False)
    request = certificates.read_request(builder.sign(key, hashes.SHA256()).public_bytes(Encoding.DER))
    public = request.public_key()
    assert isinstance(public, ec.EllipticCurvePublicKey)
    assert names.subject_of(certificates.issue(AUTHORITY, public, ACME, NOW, ENTROPY)) == ACME


def test_a_private_key_does_not_show() -> None:
    assert "PRIVATE" not in repr(AUTHORITY)
    assert f"{AUTHORITY.key.private_numbers().private_value:x}" not in repr(AUTHORITY)


# --- the allow-list ---------------------------------------------------------------------------------------------------


def allowed(*leaves: tuple[Leaf, Subject]) -> AllowList:
    return AllowList(FEDERATION, [stored_certificate(one.certificate, subject) for one, subject in leaves])


def code_of(allow: AllowList, pem: bytes, now: float = NOW, role: Role | None = None) -> str:
    try:
        allow.identify(pem, now, role)
    except PolicyRefusal as error:
        return error.code
    return ""


def test_the_allow_list_knows_what_was_issued_and_nothing_else() -> None:
    mine, admin = leaf(ACME), leaf(ADMIN)
    allow = allowed((mine, ACME), (admin, ADMIN))
    assert allow.identify(mine.pem, NOW).org_id == "acme"
    assert allow.identify(admin.pem, NOW, Role.OPERATOR).role is Role.OPERATOR
    assert code_of(allow, leaf(ACME).pem) == "not_enrolled"  # the authority's, never recorded
    assert code_of(allow, leaf(ACME, authority=OTHER).pem) == "not_enrolled"
    assert code_of(allow, b"junk") == "not_enrolled"
    assert code_of(allow, mine.pem, role=Role.OPERATOR) == "wrong_role"
    assert code_of(allow, admin.pem, role=Role.PARTICIPANT) == "wrong_role"
    assert code_of(allow, mine.pem, NOW + 91 * DAY) == "certificate_expired"
    assert code_of(allow, mine.pem, NOW - DAY) == "certificate_not_yet_valid"
    dns = custom([x509.DNSName(ACME.uri)], ExtendedKeyUsageOID.CLIENT_AUTH)
    assert code_of(allowed((dns, ACME)), dns.pem) == "not_enrolled"
    assert code_of(allowed((admin, ACME)), admin.pem) == "not_enrolled"  # recorded for another name and role


def test_the_same_serial_with_another_key_is_unknown() -> None:
    mine, other = leaf(ACME), leaf(ACME)
    record = stored_certificate(mine.certificate, ACME)
    swapped = stored_certificate(other.certificate, ACME)
    allow = AllowList(FEDERATION, [replace(record, spki_hash=swapped.spki_hash)])
    assert code_of(allow, mine.pem) == "not_enrolled"


def test_revocation_is_told_before_revoke_returns() -> None:
    mine = leaf(ACME)
    allow = allowed((mine, ACME))
    told: list[tuple[str, str]] = []
    stop = allow.listen(lambda org, code: told.append((org, code_of(allow, mine.pem))))
    assert allow.revoke(OrgId("acme")) == 1
    assert told == [("acme", "certificate_revoked")]  # by then the certificate is already refused
    assert allow.revoke(OrgId("acme")) == 0
    stop()
    newer = leaf(ACME)
    allow.replace(OrgId("acme"), stored_certificate(newer.certificate, ACME), NOW)
    assert code_of(allow, newer.pem) == ""
    assert code_of(allow, mine.pem) == "certificate_revoked"
    assert len(told) == 1


# --- gRPC on real sockets ---------------------------------------------------------------------------------------------


def who(request: bytes, context: grpc.ServicerContext) -> bytes:
    pem = context.auth_context()["x509_pem_cert"][0]
    return str(names.subject_of(certificates.load_certificate(bytes(pem))).org_id).encode()


ECHO = grpc.method_handlers_generic_handler("x", {"y": grpc.unary_unary_rpc_method_handler(who)})


@contextlib.contextmanager
def serving(own: Leaf) -> Iterator[int]:
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        server = grpc.server(pool, handlers=[ECHO], options=transport.SERVER_OPTIONS)
        port = server.add_secure_port("127.0.0.1:0", transport.server_credentials(own.pem, own.key_pem, AUTHORITY.pem))
        server.start()
        try:
            yield port
        finally:
            server.stop(None).wait()


def call(port: int, credentials: grpc.ChannelCredentials) -> bytes:
    with grpc.secure_channel(f"127.0.0.1:{port}", credentials, options=transport.CHANNEL_OPTIONS) as channel:
        stub = channel.unary_unary("/x/y", request_serializer=None, response_deserializer=None)
        answer: bytes = stub(b"", timeout=LIMIT_S)
        return answer


def refused(port: int, credentials: grpc.ChannelCredentials) -> bool:
    with pytest.raises(grpc.RpcError) as error:
        call(port, credentials)
    return bool(error.value.code() is grpc.StatusCode.UNAVAILABLE)  # type: ignore[attr-defined]


def of(one: Leaf, authority: Authority = AUTHORITY) -> grpc.ChannelCredentials:
    return transport.channel_credentials(one.pem, one.key_pem, authority.pem)


def test_mutual_tls_lets_the_right_ones_talk_and_no_others() -> None:
    with serving(leaf(HEAD)) as port:
        assert call(port, of(leaf(ACME))) == b"acme"
        assert call(port, of(leaf(ADMIN))) == b"operator"
        strangers = {
            "server usage only": of(leaf(HEAD)),
            "another authority": of(leaf(ACME, authority=OTHER)),
            "expired": of(leaf(ACME, at=NOW - 100 * DAY)),
            "not yet valid": of(leaf(ACME, at=NOW + DAY)),
            "no certificate": grpc.ssl_channel_credentials(AUTHORITY.pem),
            "the server is another authority's": of(leaf(ACME), OTHER),
        }
        for name, credentials in strangers.items():
            assert refused(port, credentials), name
        assert call(port, of(leaf(ACME))) == b"acme"


def test_a_participants_certificate_cannot_serve() -> None:
    hosts: list[x509.GeneralName] = [
        x509.UniformResourceIdentifier(ACME.uri),
        x509.DNSName("localhost"),
        x509.IPAddress(ipaddress.ip_address("127.0.0.1")),
    ]
    with serving(custom(hosts, ExtendedKeyUsageOID.CLIENT_AUTH)) as port:  # even with the right host names
        assert refused(port, of(leaf(ACME)))
    with serving(custom(hosts, ExtendedKeyUsageOID.SERVER_AUTH)) as port:  # control: it is the usage that stops it
        assert call(port, of(leaf(ACME))) == b"acme"


def test_a_second_server_on_the_port_fails() -> None:
    own = leaf(HEAD)
    with serving(own) as port, concurrent.futures.ThreadPoolExecutor(1) as pool:
        second = grpc.server(pool, options=transport.SERVER_OPTIONS)
        credentials = transport.server_credentials(own.pem, own.key_pem, AUTHORITY.pem)
        with pytest.raises(RuntimeError, match="bind"):
            second.add_secure_port(f"127.0.0.1:{port}", credentials)
        second.stop(None)


def test_a_crowd_that_connects_at_once_does_not_end_the_server() -> None:
    """gRPC ends the process if it is handed a configuration at each of many handshakes at one time."""
    size, here = 512, Path(__file__).parent
    done = subprocess.run(
        [sys.executable, "-m", "tests.crowd", str(size)],
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
        check=False,
        env={**os.environ, "PYTHONPATH": f"{here.parent}:{here}"},
    )
    assert (done.returncode, done.stdout.strip()) == (0, str(size)), done.stderr[-2000:]


def test_grpc_is_handed_a_configuration_only_when_it_changed(monkeypatch: pytest.MonkeyPatch) -> None:
    handed: list[Callable[[], object]] = []

    def credentials(first: object, fetch: Callable[[], object], *, require_client_authentication: bool) -> object:
        assert require_client_authentication
        handed.append(fetch)
        return first

    monkeypatch.setattr(grpc, "dynamic_ssl_server_credentials", credentials)
    one, two = object(), object()
    now = [one]
    transport.reloading_server_credentials(one, lambda: now[0])  # type: ignore[arg-type, return-value]
    (fetch,) = handed
    assert fetch() is None
    now[0] = two
    assert fetch() is two
    assert fetch() is None
