"""Identity at its edges: near-miss names, other key kinds, the last second, neighbours of a revoked member, reload."""

from concurrent.futures import ThreadPoolExecutor

import grpc
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ed25519
from enrolment_office import Entropy
from fedveil_common.crypto import signing
from fedveil_common.crypto.labels import h
from fedveil_common.errors import ConfigError, PeerError, PolicyRefusal
from fedveil_common.ids import COORDINATOR, FederationId, OrgId
from fedveil_common.pki import certificates, names, transport
from fedveil_common.pki.certificates import Authority
from fedveil_common.pki.governance import (
    GovernanceSet,
    Signed,
    TrustDocument,
    encode_chain,
    fingerprint,
    sign_trust,
    verify_chain,
)
from fedveil_common.pki.invites import Role
from fedveil_common.pki.names import Subject
from fedveil_common.secret import PrivateKey
from fedveil_coordinator.allowlist import AllowList
from fedveil_coordinator.enrollment import stored_certificate
from patience import LIMIT_S

FEDERATION = FederationId("hospitals-0123456789abcdef")
ISSUED, DAY = 1_700_000_000.0, 86_400.0
ENTROPY = Entropy(7)
AUTHORITY = certificates.make_authority(FEDERATION, ISSUED, ENTROPY)
OTHER = certificates.make_authority(FEDERATION, ISSUED, ENTROPY)
KEY = certificates.new_key(ENTROPY)
ACME = Subject(FEDERATION, Role.PARTICIPANT, OrgId("acme"))
GLOBEX = Subject(FEDERATION, Role.PARTICIPANT, OrgId("globex"))
SERVER = Subject(FEDERATION, Role.COORDINATOR, COORDINATOR)
OLD, NEW = PrivateKey(h("test-key", b"old")), PrivateKey(h("test-key", b"new"))


def leaf(subject: Subject = ACME, authority: Authority = AUTHORITY, days: float = 90) -> x509.Certificate:
    hosts = ("127.0.0.1", "fed.example.org") if subject.role is Role.COORDINATOR else ()
    return certificates.issue(authority, KEY.public_key(), subject, ISSUED, ENTROPY, hosts=hosts, days=days)


def pems(subject: Subject, authority: Authority = AUTHORITY) -> tuple[bytes, bytes]:
    """(certificate, key); a handshake looks at the machine's clock, hence the long life."""
    return certificates.certificate_pem(leaf(subject, authority, days=7300)), certificates.key_pem(KEY)


def test_a_retired_governance_set_does_not_come_back() -> None:
    old, new = (GovernanceSet(1, (signing.public_key(key),)) for key in (OLD, NEW))

    def link(sequence: int, chosen: GovernanceSet, *keys: PrivateKey, previous: bytes = b"") -> Signed:
        roster = (sequence, bytes(32)) if previous else (0, b"")
        return sign_trust(
            TrustDocument(FEDERATION, sequence, chosen, (bytes(32),), bytes(32), *roster, previous), list(keys)
        )

    first = link(1, old, OLD)
    second = link(2, new, OLD, NEW, previous=h("trust", first.body))
    chain = [first, second]
    own = fingerprint(FEDERATION, old)
    assert verify_chain(encode_chain(chain), own).governance == new
    with pytest.raises(PeerError) as refused:
        verify_chain(encode_chain([*chain, link(3, old, OLD, previous=h("trust", second.body))]), own)
    assert refused.value.code == "too_few_signatures"


@pytest.mark.parametrize(
    "uri",
    [
        ACME.uri + "/",
        ACME.uri + "?role=operator",
        ACME.uri + "#operator",
        ACME.uri.replace("acme", ".."),
        ACME.uri.replace("acme", "ac%6De"),
        ACME.uri.replace("participant", "Participant"),
        ACME.uri.replace("//", "//operator@"),
        ACME.uri.replace(FEDERATION, FEDERATION + ":443"),
        " " + ACME.uri,
        ACME.uri + "\n",
    ],
)
def test_a_uri_that_nearly_names_a_member_names_nobody(uri: str) -> None:
    assert names.read_uri(ACME.uri) == ACME
    with pytest.raises(PeerError) as refused:
        names.read_uri(uri)
    assert refused.value.code == "bad_certificate_name"


def test_an_ed25519_key_is_neither_requested_nor_loaded() -> None:
    other = ed25519.Ed25519PrivateKey.from_private_bytes(bytes(32))
    builder = x509.CertificateSigningRequestBuilder(subject_name=x509.Name([]))
    own = certificates.make_request(KEY)
    for der in (builder.sign(other, None).public_bytes(serialization.Encoding.DER), own + b"\0"):
        with pytest.raises(PeerError) as request:
            certificates.read_request(der)
        assert request.value.code == "bad_csr"
    pem = other.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    for data in (pem, b"", b"junk"):
        with pytest.raises(ConfigError) as key:
            certificates.load_key(data)
        assert key.value.code == "bad_key_file"
    assert certificates.key_pem(certificates.load_key(certificates.key_pem(KEY))) == certificates.key_pem(KEY)


def test_a_certificate_ends_with_its_last_second() -> None:
    made = leaf()
    allowed = AllowList(FEDERATION, [stored_certificate(made, ACME)])
    pem = certificates.certificate_pem(made)
    for at in (ISSUED - 600, ISSUED + 90 * DAY - 1):
        certificates.check_leaf(made, AUTHORITY.certificate, ACME, at)
        assert allowed.identify(pem, at).org_id == "acme"
    for at, code in ((ISSUED - 601, "certificate_not_yet_valid"), (ISSUED + 90 * DAY, "certificate_expired")):
        with pytest.raises(PolicyRefusal) as mine:
            certificates.check_leaf(made, AUTHORITY.certificate, ACME, at)
        with pytest.raises(PolicyRefusal) as theirs:
            allowed.identify(pem, at)
        assert (mine.value.code, theirs.value.code) == (code, code)


def test_serial_numbers_differ_and_an_address_is_no_dns_name() -> None:
    assert len({leaf().serial_number for _ in range(20)}) == 20
    found = leaf(SERVER).extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert [str(value) for value in found.get_values_for_type(x509.IPAddress)] == ["127.0.0.1"]
    assert found.get_values_for_type(x509.DNSName) == ["fed.example.org"]


def test_revocation_ends_one_member_and_no_other() -> None:
    mine, theirs = leaf(), leaf(GLOBEX)
    allowed = AllowList(FEDERATION, [stored_certificate(mine, ACME), stored_certificate(theirs, GLOBEX)])
    assert allowed.revoke(OrgId("acme"), ISSUED) == 1
    assert allowed.identify(certificates.certificate_pem(theirs), ISSUED).org_id == "globex"
    with pytest.raises(PolicyRefusal) as refused:
        allowed.identify(certificates.certificate_pem(mine), ISSUED)
    assert refused.value.code == "certificate_revoked"


def test_a_member_of_another_federation_is_not_enrolled_here_even_if_recorded() -> None:
    foreign = Subject(FederationId("banks-0123456789abcdef"), Role.PARTICIPANT, OrgId("acme"))
    made = leaf(foreign)
    with pytest.raises(PolicyRefusal) as refused:
        AllowList(FEDERATION, [stored_certificate(made, foreign)]).identify(certificates.certificate_pem(made), ISSUED)
    assert refused.value.code == "not_enrolled"


def test_a_new_server_certificate_serves_without_a_restart() -> None:
    current = [transport.server_configuration(*pems(SERVER, OTHER), AUTHORITY.pem)]
    credentials = transport.reloading_server_credentials(current[0], lambda: current[0])
    member = transport.channel_credentials(*pems(ACME), AUTHORITY.pem)
    echo = grpc.unary_unary_rpc_method_handler(lambda request, context: request)
    handler = grpc.method_handlers_generic_handler("x", {"y": echo})

    def call(port: int) -> object:
        with grpc.secure_channel(f"127.0.0.1:{port}", member, options=transport.CHANNEL_OPTIONS) as channel:
            return channel.unary_unary("/x/y")(b"hello", timeout=LIMIT_S)

    with ThreadPoolExecutor(1) as pool:
        server = grpc.server(pool, handlers=[handler], options=transport.SERVER_OPTIONS)
        port = server.add_secure_port("127.0.0.1:0", credentials)
        server.start()
        try:
            with pytest.raises(grpc.RpcError) as refused:
                call(port)
            assert refused.value.code() is grpc.StatusCode.UNAVAILABLE
            current[0] = transport.server_configuration(*pems(SERVER), AUTHORITY.pem)
            assert call(port) == b"hello"
        finally:
            server.stop(None).wait()
