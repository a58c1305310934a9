"""The coordinator's certificates and authorities rotate while it runs, on both ports; a bad file changes nothing."""

import pathlib
import socket
import ssl
from collections.abc import Iterator, Mapping

import grpc
import pytest
from certificate_house import DAY, House, Member, Outbox, code_of_call, open_house
from cryptography import x509
from enrolment_office import CA, GOV, Entropy
from fedveil_cli import governing, proposing, publishing, renewing, succeeding
from fedveil_common.errors import FedveilError
from fedveil_common.ids import COORDINATOR, OrgId
from fedveil_common.pki import bundle, certificates, proposals, transport
from fedveil_common.pki.certificates import Authority
from fedveil_common.pki.invites import Role
from fedveil_common.pki.names import Subject
from fedveil_common.secret import Passphrase
from fedveil_coordinator import founding, rotation
from fedveil_coordinator.enrollment import stored_certificate
from fedveil_coordinator.issuing import Issuing
from fedveil_participant import renewal
from fedveil_participant.client import CoordinatorLink
from fedveil_participant.renewal_client import RemoteOffice
from fedveil_participant.store import ParticipantStore


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
    """`ca rotate`: the next trust document, by governance, names a second authority, which issues from now on."""
    federation = founding.load_federation(house.home)
    digests, pem = succeeding.next_authority(federation, CA, house.world)
    publish(house, proposing.propose_authorities(federation, digests, pem))
    return founding.load_federation(house.home).authority(CA)


def publish(house: House, examined: proposals.Examined) -> None:
    federation = founding.load_federation(house.home)
    signed = governing.sign(governing.open_desk(house.home), examined, GOV)
    complete = publishing.examine_copies(federation, [signed])
    succeeding.publish(federation, complete, CA, house, house.world)


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


def test_certificates_come_from_the_new_authority_and_the_old_ones_go_on(house: House, tmp_path: pathlib.Path) -> None:
    acme, borealis = house.member(tmp_path, "acme", 5), house.member(tmp_path, "borealis", 1)
    old, server = house.federation.authority(CA), own_serial(house)
    new = introduce(house)
    house.desk.rotation.look()
    acme.renew()
    renewed = certificates.load_certificate(acme.membership.certificate_pem)
    assert bundle.issued_by(renewed, new.certificate)
    assert (acme.who(), borealis.who()) == ("", "")
    made = certificates.load_certificate(house.member(tmp_path, "cygnus", 0).membership.certificate_pem)
    assert bundle.issued_by(made, new.certificate)
    assert own_serial(house) == server  # who was away knows the old authority alone
    house.clock.now += 4.8 * DAY
    house.desk.rotation.look()
    pem = rotation.server_files(house.home).certificate()
    assert bundle.issued_by(certificates.load_certificate(pem), new.certificate)
    assert not bundle.issued_by(certificates.load_certificate(pem), old.certificate)
    assert house.desk.rotation.failures == 0


def test_an_authority_under_another_passphrase_waits_for_the_next_start(house: House, tmp_path: pathlib.Path) -> None:
    federation, another = founding.load_federation(house.home), Passphrase(b"another passphrase")
    old = federation.authority(CA)
    digests, pem = succeeding.next_authority(federation, another, house.world)
    publish(house, proposing.propose_authorities(federation, digests, pem))
    for _ in range(2):
        house.desk.rotation.look()
    assert house.issuing.current().certificate == old.certificate
    acme = house.member(tmp_path, "acme", 0)
    assert acme.who() == ""
    restarted = Issuing(founding.load_federation(house.home), another)
    assert restarted.current().certificate != old.certificate
    assert house.desk.rotation.failures == 0


def test_an_authority_that_governance_did_not_name_is_not_taken_up(house: House) -> None:
    alien = certificates.make_authority(house.federation.federation_id, house.clock.now, Entropy(58))
    old = house.federation.authority(CA)
    for pem in ((old.certificate, alien.certificate), (alien.certificate, old.certificate)):
        (house.home / "authority" / "ca.pem").write_bytes(bundle.bundle_pem(pem))
        house.desk.rotation.look()
        assert house.in_force.authority_pem == old.pem
        assert house.issuing.current().certificate == old.certificate
    ((certificate, key),) = of_new_authority(house, alien, "borealis")
    assert call_as(house, certificate, key, old.pem) == "unreachable"
    (house.home / "authority" / "ca.pem").write_bytes(alien.pem)
    house.desk.rotation.look()
    assert house.desk.rotation.failures > 0
    assert call_as(house, certificate, key, old.pem) == "unreachable"


class Running:
    """A member's renewer, with what it told and which authorities its channels had."""

    def __init__(self, house: House, member: Member, store: ParticipantStore, link: CoordinatorLink) -> None:
        self.house, self.link = house, link
        self.told: list[tuple[str, str]] = []
        self.taken: list[bytes] = []
        self.pin = renewing.pinned_trust(member.membership, store)
        office = RemoteOffice(link, member.membership, store)
        clock, points = house.clock, house.world.failpoints
        hands = renewal.Hands(office, self.pin, store.protocol_key(), None, clock, member.entropy, points)
        self.renewer = renewal.Renewer(member.home, hands, self.take, self.tell)

    def take(self, member: renewal.Membership) -> None:
        self.taken.append(member.authority_pem)
        self.link.exchange(renewing.channel(member, None))

    def tell(self, kind: str, facts: Mapping[str, str]) -> None:
        self.told.append((kind, facts.get("code", "")))

    def look(self, after: float = renewal.LOOK_S) -> None:
        self.house.clock.now += after
        self.renewer.tick()


def test_a_participant_learns_of_it_at_its_renewal(house: House, tmp_path: pathlib.Path) -> None:
    acme = house.member(tmp_path, "acme", 5)
    introduce(house)
    house.desk.rotation.look()
    acme.renew()
    both = (house.home / "authority" / "ca.pem").read_bytes()
    assert acme.membership.authority_pem == both
    assert acme.membership.trust_chain == (house.home / "trust.json").read_bytes()
    assert acme.who() == ""


def test_a_running_participant_fetches_what_the_pinned_chain_names(house: House, tmp_path: pathlib.Path) -> None:
    acme = house.member(tmp_path, "acme", 1)
    with acme.store() as store, acme.link() as link:
        running = Running(house, acme, store, link)
        running.look(0)
        own = acme.membership.authority_pem
        introduce(house)
        both = (house.home / "authority" / "ca.pem").read_bytes()
        acme.home.joinpath("ca.pem").write_bytes(both)  # by hand: the pinned chain names one of them
        running.look()
        assert (running.told, running.taken, acme.membership.authority_pem) == ([], [], own)
        running.pin.take((house.home / "trust.json").read_bytes())
        running.look()
        assert (running.told, running.taken) == ([("authorities_changed", "")], [both])
        assert code_of_call(link) == ""


def test_who_was_away_asks_for_the_chain_when_no_session_opens(house: House, tmp_path: pathlib.Path) -> None:
    acme = house.member(tmp_path, "acme", 1)
    put_server(house, introduce(house), house.clock.now)  # as after five days: acme does not know this authority
    house.desk.rotation.look()
    assert acme.who() == "unreachable"
    with acme.store() as store, acme.link() as link:
        running = Running(house, acme, store, link)
        running.look()
        assert running.taken == []  # nobody asks while a session stands
        running.renewer.lost()
        running.look()
        assert running.told == [("authorities_changed", "")]
        assert running.taken == [(house.home / "authority" / "ca.pem").read_bytes()]
        assert running.pin.trust.sequence == 2
        assert code_of_call(link) == ""


def test_an_older_trust_chain_is_not_taken(house: House, tmp_path: pathlib.Path) -> None:
    acme = house.member(tmp_path, "acme", 5)
    older = house.in_force._now
    introduce(house)
    (acme.home / "trust.json").write_bytes((house.home / "trust.json").read_bytes())
    newer, house.in_force._now = house.in_force._now, older
    with pytest.raises(FedveilError) as refused:
        acme.renew()
    assert refused.value.code == "trust_rollback"
    house.in_force._now = newer
    acme.renew()
