"""The coordinator's certificates and authorities rotate while it runs, on both ports; a bad file changes nothing."""

import pathlib
import socket
import ssl
from collections.abc import Iterator

import grpc
import pytest
from certificate_house import DAY, House, Outbox, code_of_call, open_house
from cryptography import x509
from enrolment_office import CA, GOV, Entropy
from fedveil_cli import renewing
from fedveil_common.errors import FedveilError
from fedveil_common.ids import COORDINATOR, OrgId
from fedveil_common.pki import bundle, certificates, governance, transport
from fedveil_common.pki.certificates import Authority
from fedveil_common.pki.governance import TrustDocument
from fedveil_common.pki.invites import Role
from fedveil_common.pki.names import Subject
from fedveil_coordinator import rotation
from fedveil_coordinator.enrollment import stored_certificate
from fedveil_participant import renewal
from fedveil_participant.client import CoordinatorLink
from fedveil_participant.renewal_client import RemoteOffice


@pytest.fixture
def house(tmp_path: pathlib.Path) -> Iterator[House]:
    with open_house(tmp_path) as made:
        yield made


def served_serials(house: House) -> set[str]:
    """What both listeners offer to a new connection."""
    return {certificates.serial_text(_peer(house.port + offset)) for offset in (0, 1)}


def _peer(port: int) -> x509.Certificate:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.set_alpn_protocols(["h2", "http/1.1"])
    with (
        socket.create_connection(("127.0.0.1", port), 10) as stream,
        context.wrap_socket(stream, server_hostname="127.0.0.1") as secured,
    ):
        der = secured.getpeercert(binary_form=True)
    assert der is not None
    return x509.load_der_x509_certificate(der)


def own_serial(house: House) -> str:
    pem = rotation.server_files(house.home).certificate()
    return certificates.serial_text(certificates.load_certificate(pem))


def put_server(house: House, authority: Authority, at: float, days: float = 7) -> bytes:
    """Another pair in the coordinator's folder, as a person would put it there; its certificate."""
    key = certificates.new_key(house.entropy)
    subject = Subject(house.federation.federation_id, Role.COORDINATOR, COORDINATOR)
    made = certificates.issue(
        authority, key.public_key(), subject, at, house.entropy, hosts=("127.0.0.1", "localhost"), days=days
    )
    rotation.server_files(house.home).replace(certificates.key_pem(key), certificates.certificate_pem(made))
    return certificates.certificate_pem(made)


def test_the_server_renews_its_own_certificate_at_two_thirds(house: House, tmp_path: pathlib.Path) -> None:
    acme = house.member(tmp_path, "acme", 1)
    look = house.desk.rotation.look
    first = own_serial(house)
    assert served_serials(house) == {first}
    with acme.link() as before:
        assert code_of_call(before) == ""
        house.clock.now += 4.6 * DAY
        look()
        assert own_serial(house) == first
        house.clock.now += 0.1 * DAY
        look()
        second = own_serial(house)
        assert second != first
        assert served_serials(house) == {second}
        house.clock.now -= 4.7 * DAY
        assert code_of_call(before) == ""  # open connections go on
    made = certificates.load_certificate(rotation.server_files(house.home).certificate())
    assert set(rotation.hosts_of(made)) == {"127.0.0.1", "localhost"}
    assert house.desk.rotation.failures == 0


def test_a_new_pair_is_taken_up_and_a_bad_one_keeps_the_old(house: House, tmp_path: pathlib.Path) -> None:
    acme = house.member(tmp_path, "acme", 1)
    now, authority, turning = house.clock.now, house.federation.authority(CA), house.desk.rotation
    good = own_serial(house)
    files = rotation.server_files(house.home)
    key, certificate = files.key(), files.certificate()
    alien = certificates.make_authority(house.federation.federation_id, now, house.entropy)

    def broken(what: str) -> None:
        match what:
            case "junk":
                files.replace(key, b"junk")
            case "key of another":
                files.replace(certificates.key_pem(certificates.new_key(house.entropy)), certificate)
            case "expired":
                put_server(house, authority, now - 9 * DAY)
            case "another authority's":
                put_server(house, alien, now)
            case "a participant's":
                files.replace(acme.membership.key_pem(), acme.membership.certificate_pem)
            case "open to all":
                files.replace(key, certificate)
                files.key_path.chmod(0o644)
            case _:
                files.certificate_path.unlink()

    for count, what in enumerate(
        ("junk", "key of another", "a participant's", "open to all", "gone"), turning.failures + 1
    ):
        broken(what)
        before = turning.failures
        turning.look()
        assert turning.failures > before, what
        assert served_serials(house) == {good}, what
        assert acme.who() == "", (count, what)
        files.replace(key, certificate)
    for what in ("expired", "another authority's"):  # the authority's key is at hand: these are mended at once
        broken(what)
        failures = turning.failures
        turning.look()
        assert turning.failures == failures
        assert served_serials(house) == {own_serial(house)}
        assert acme.who() == "", what
    put_server(house, authority, now)
    turning.look()
    assert served_serials(house) == {own_serial(house)} != {good}


# --- a new certificate authority --------------------------------------------------------------------------------------


def introduce(house: House) -> Authority:
    """The next trust document, by governance, names a second authority; the home's files say so."""
    old = house.federation.authority(CA)
    new = certificates.make_authority(house.federation.federation_id, house.clock.now, Entropy(55))
    trust = house.federation.trust
    digests = tuple(governance.authority_digest(certificates.certificate_der(one.certificate)) for one in (old, new))
    document = TrustDocument(trust.federation_id, 2, trust.governance, digests)
    signed = governance.sign_trust(document, [house.federation.governance_key(GOV)])
    first = governance.Signed.from_json(governance.documents.canonical(house.federation.trust_chain, "x")[0])  # type: ignore[index]
    (house.home / "trust.json").write_bytes(governance.encode_chain([first, signed]))
    (house.home / "authority" / "bundle.pem").write_bytes(bundle.bundle_pem((old.certificate, new.certificate)))
    return new


def of_new_authority(house: House, new: Authority, name: str) -> Iterator[tuple[bytes, bytes]]:
    key = certificates.new_key(Entropy(56))
    subject = Subject(house.federation.federation_id, Role.PARTICIPANT, OrgId(name))
    made = certificates.issue(new, key.public_key(), subject, house.clock.now, Entropy(57))
    house.allowed.add(stored_certificate(made, subject))
    yield certificates.certificate_pem(made), certificates.key_pem(key)


def call_as(house: House, certificate: bytes, key: bytes, authorities: bytes) -> str:
    credentials = transport.channel_credentials(certificate, key, authorities)
    channel = grpc.secure_channel(f"127.0.0.1:{house.port}", credentials, options=transport.CHANNEL_OPTIONS)
    link = CoordinatorLink(channel, Outbox())
    try:
        return code_of_call(link)
    finally:
        link.close()


def test_a_running_coordinator_takes_up_a_second_authority(house: House, tmp_path: pathlib.Path) -> None:
    acme = house.member(tmp_path, "acme", 1)
    new = introduce(house)
    ((certificate, key),) = of_new_authority(house, new, "borealis")
    assert call_as(house, certificate, key, house.federation.authority_pem) == "unreachable"
    house.desk.rotation.look()
    assert call_as(house, certificate, key, house.federation.authority_pem) == ""
    assert acme.who() == ""
    assert house.desk.rotation.failures == 0


def test_an_authority_that_governance_did_not_name_is_not_taken_up(house: House) -> None:
    alien = certificates.make_authority(house.federation.federation_id, house.clock.now, Entropy(58))
    old = house.federation.authority(CA)
    (house.home / "authority" / "bundle.pem").write_bytes(bundle.bundle_pem((old.certificate, alien.certificate)))
    ((certificate, key),) = of_new_authority(house, alien, "borealis")
    house.desk.rotation.look()
    assert house.desk.rotation.failures == 1
    assert call_as(house, certificate, key, old.pem) == "unreachable"


def test_a_participant_learns_of_it_at_its_renewal_and_from_its_files(house: House, tmp_path: pathlib.Path) -> None:
    acme, borealis = house.member(tmp_path, "acme", 5), house.member(tmp_path, "borealis", 1)
    introduce(house)
    house.desk.rotation.look()
    acme.renew()
    both = (house.home / "authority" / "bundle.pem").read_bytes()
    assert acme.membership.authority_pem == both
    assert acme.membership.trust_chain == (house.home / "trust.json").read_bytes()
    assert acme.who() == ""
    # borealis gets the files by hand while it runs
    told, taken = list[tuple[str, str]](), list[bytes]()
    with borealis.store() as store, borealis.link() as link:
        office = RemoteOffice(link, borealis.membership, store)
        hands = renewal.Hands(office, store.protocol_key(), None, house.clock, borealis.entropy, house.world.failpoints)

        def take(member: renewal.Membership) -> None:
            taken.append(member.authority_pem)
            link.exchange(renewing.channel(member, None))

        renewer = renewal.Renewer(
            borealis.home, hands, take, lambda kind, facts: told.append((kind, facts.get("code", "")))
        )
        renewer.tick()
        (borealis.home / "ca.pem").write_bytes(both)  # without the chain that names it
        house.clock.now += renewal.LOOK_S
        renewer.tick()
        house.clock.now += renewal.LOOK_S
        renewer.tick()
        assert (told, taken, renewer.failures) == ([("alarm", "authority_mismatch")], [], 1)
        (borealis.home / "trust.json").write_bytes((house.home / "trust.json").read_bytes())
        house.clock.now += renewal.LOOK_S
        renewer.tick()
        assert (told[1:], taken) == ([("authorities_changed", "")], [both])
        assert code_of_call(link) == ""


def test_an_older_trust_chain_is_not_taken(house: House, tmp_path: pathlib.Path) -> None:
    acme = house.member(tmp_path, "acme", 5)
    introduce(house)
    older = house.desk.rotation.trust_chain
    (acme.home / "trust.json").write_bytes((house.home / "trust.json").read_bytes())
    assert older != acme.membership.trust_chain
    with pytest.raises(FedveilError) as refused:
        acme.renew()
    assert refused.value.code == "trust_rolled_back"
    house.desk.rotation.look()
    acme.renew()
