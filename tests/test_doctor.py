"""`fedveil doctor`: each mistake is made in a real home, and found by its code."""

import contextlib
import http.server
import json
import pathlib
import shutil
import ssl
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest
from berths import free_port
from certificate_house import DAY, House, Member, open_house
from enrolment_office import CA, GOV, Clock, Entropy
from fedveil_cli import doctor, doctor_findings, doctor_home, doctor_isolation, main, renewing
from fedveil_cli.identity_commands import seal_journal_key
from fedveil_common import jcs
from fedveil_common.crypto import signing
from fedveil_common.ids import COORDINATOR, OrgId
from fedveil_common.pki import certificates, governance
from fedveil_common.pki.invites import Role
from fedveil_common.pki.names import Subject
from fedveil_common.secret import Passphrase, PrivateKey
from fedveil_common.succession import roster_of_its_time
from fedveil_coordinator import rotation
from fedveil_coordinator.succession import GRACE_S
from fedveil_participant.isolation import interpreter
from fedveil_participant.isolation.levels import Confinement, Isolation
from fedveil_participant.store import Books


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    with open_house(tmp_path_factory.mktemp("house")) as made:
        yield made


@pytest.fixture(autouse=True)
def isolation(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever this machine has: `test_isolation_on_record` looks at that."""
    held = Confinement(Isolation.LANDLOCK, interpreter.look_at(sys.executable))
    monkeypatch.setattr(doctor_isolation, "_here", lambda: held)


NAMES = iter(f"org{number}" for number in range(1000))


@pytest.fixture
def acme(house: House, tmp_path: pathlib.Path) -> Member:
    return house.member(tmp_path, next(NAMES), 1)


def problems(
    house: House, home: pathlib.Path, passphrase: Passphrase | None = None, clock: Clock | None = None
) -> list[str]:
    """The codes of the problems, in order."""
    report = doctor.examine(home, passphrase, replace(house.world, clock=clock or house.clock))
    for finding in report.findings:
        assert finding.mend, finding
        assert "{" not in finding.mend, finding
    return [finding.code for finding in report.findings if not finding.advice]


def test_a_sound_home_on_either_side(house: House, acme: Member) -> None:
    assert problems(house, acme.home) == []
    report = doctor.examine(acme.home, None, house.world)
    assert report.checked == [
        *("folder", "home", "trust chain", "authorities", "certificate", "key", "journal"),
        *("isolation", "name", "ports", "coordinator", "clock", "standing", "call"),
    ]
    found = doctor.examine(house.home, None, house.world)
    assert [(one.code, one.advice) for one in found.findings] == [("governance_key_beside_service", True)]
    assert found.sound
    assert {"standing", "call"} <= set(found.checked)


# --- a participant's home ---------------------------------------------------------------------------------------------


def test_a_look_leaves_nothing_open(house: House, acme: Member, monkeypatch: pytest.MonkeyPatch) -> None:
    opened, closed = [], []
    opens, closes = doctor_home.open_holdings, Books.close
    monkeypatch.setattr(doctor_home, "open_holdings", lambda *given: opened.append(opens(*given)) or opened[-1])
    monkeypatch.setattr(Books, "close", lambda books: closed.append(books) or closes(books))
    assert problems(house, acme.home) == []
    assert opened
    assert opened == closed


def write(name: str, data: bytes) -> Callable[[House, Member], None]:
    return lambda house, member: (member.home / name).write_bytes(data) and None


def put_certificate(house: House, member: Member, subject: Subject, *, at: float | None = None) -> None:
    """A certificate of the true authority for the member's own key, for whomever."""
    key = certificates.load_key(member.membership.key_pem())
    hosts = ("127.0.0.1",) if subject.role is Role.COORDINATOR else ()
    authority = house.federation.authority(CA)
    when = house.clock.now if at is None else at
    made = certificates.issue(authority, key.public_key(), subject, when, Entropy(5), hosts=hosts)
    (member.home / "certificate.pem").write_bytes(certificates.certificate_pem(made))


def foreign_authority(house: House, member: Member) -> None:
    other = certificates.make_authority(house.federation.federation_id, house.clock.now, Entropy(6))
    key = certificates.load_key(member.membership.key_pem())
    made = certificates.issue(other, key.public_key(), member.membership.subject, house.clock.now, Entropy(7))
    (member.home / "certificate.pem").write_bytes(certificates.certificate_pem(made))


def another_fingerprint(house: House, member: Member) -> None:
    path = member.home / "participant.json"
    value = json.loads(path.read_bytes())
    path.write_bytes(jcs.dumps({**value, "fingerprint": bytes(32).hex()}))


def another_address(address: str) -> Callable[[House, Member], None]:
    def change(house: House, member: Member) -> None:
        path = member.home / "participant.json"
        port = {"CLOSED": str(free_port()), "ENROLMENT": str(house.port + 1)}
        text = address
        for name, value in port.items():
            text = text.replace(name, value)
        path.write_bytes(jcs.dumps({**json.loads(path.read_bytes()), "address": text}))

    return change


MISTAKES: dict[str, tuple[Callable[[House, Member], object], list[str]]] = {
    "key of another certificate": (
        write("tls.key", certificates.key_pem(certificates.new_key(Entropy(1)))),
        ["key_mismatch"],
    ),
    "key is junk": (write("tls.key", b"-----BEGIN nothing"), ["bad_key_file"]),
    "key gone": (lambda house, member: (member.home / "tls.key").unlink(), ["key_missing"]),
    "key open to all": (lambda house, member: (member.home / "tls.key").chmod(0o644), ["key_exposed"]),
    "journal key open": (lambda house, member: (member.home / "journal.key").chmod(0o640), ["key_exposed"]),
    "home open": (lambda house, member: member.home.chmod(0o777), ["home_exposed"]),
    "certificate is junk": (write("certificate.pem", b"junk"), ["bad_certificate"]),
    "operator's certificate": (
        lambda house, member: put_certificate(
            house, member, Subject(house.federation.federation_id, Role.OPERATOR, OrgId("operator"))
        ),
        ["wrong_role", "serial_unknown"],
    ),
    "server's certificate": (
        lambda house, member: put_certificate(
            house, member, Subject(house.federation.federation_id, Role.COORDINATOR, COORDINATOR)
        ),
        ["wrong_role", "serial_unknown"],
    ),
    "another's certificate": (
        lambda house, member: put_certificate(
            house, member, Subject(house.federation.federation_id, Role.PARTICIPANT, OrgId("globex"))
        ),
        ["wrong_name", "serial_unknown"],
    ),
    "another authority's": (foreign_authority, ["wrong_authority", "serial_unknown"]),
    "expired": (
        lambda house, member: put_certificate(house, member, member.membership.subject, at=house.clock.now - 8 * DAY),
        ["certificate_expired", "serial_unknown"],
    ),
    "overdue": (
        lambda house, member: put_certificate(house, member, member.membership.subject, at=house.clock.now - 6 * DAY),
        ["renewal_overdue", "serial_unknown"],
    ),
    "authorities are junk": (write("ca.pem", b"junk"), ["bad_bundle"]),
    "an authority that nobody named": (
        write("ca.pem", certificates.make_authority(OrgId("x-0011"), 1e9, Entropy(2)).pem),  # type: ignore[arg-type]
        ["authority_mismatch"],
    ),
    "another federation's fingerprint": (another_fingerprint, ["fingerprint_mismatch", "fingerprint_mismatch"]),
    "the mark is damaged": (write("participant.json", b"{}"), ["own_file_damaged"]),
    "journal gone": (lambda house, member: (member.home / "journal.db").unlink(), ["journal_missing"]),
    "journal key gone": (lambda house, member: (member.home / "journal.key").unlink(), ["no_journal_key"]),
    "journal of another": (
        lambda house, member: (member.home / "journal.key").write_text('{"key": "' + "00" * 32 + '", "version": 1}'),
        ["journal_key_wrong"],
    ),
    "governance key": (write("governance.key", b"sealed"), ["governance_key_in_a_participants_home"]),
    "two roles": (write("federation.json", b"{}"), ["two_roles_in_one_home", "own_file_damaged"]),
    "nobody listens": (another_address("127.0.0.1:CLOSED"), ["port_unreachable", "enrolment_port_unreachable"]),
    "no such name": (another_address("nobody.invalid:7443"), ["dns_failed"]),
    "enrolment port as address": (
        another_address("127.0.0.1:ENROLMENT"),
        ["enrolment_port_unreachable", "port_mixed_up"],
    ),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_each_mistake_is_found(house: House, acme: Member, mistake: str) -> None:
    make, codes = MISTAKES[mistake]
    assert problems(house, acme.home) == []
    make(house, acme)
    assert problems(house, acme.home) == codes


MENDED = (
    *("key of another certificate", "key is junk", "key gone", "certificate is junk", "operator's certificate"),
    *("server's certificate", "another's certificate", "another authority's", "expired", "authorities are junk"),
)


@pytest.mark.parametrize("mistake", MENDED)
def test_the_mending_command_mends(house: House, acme: Member, mistake: str) -> None:
    house.next_roster()
    MISTAKES[mistake][0](house, acme)
    report = doctor.examine(acme.home, None, house.world)
    assert report.findings[0].mend.startswith("fedveil renew")
    world = replace(house.world, entropy=acme.entropy)
    report_of_renew = renewing.renew_participant(acme.home, None, False, world)
    assert report_of_renew["in_use"] is True
    assert problems(house, acme.home) == []


def test_what_the_coordinator_thinks_of_the_certificate(house: House, acme: Member, tmp_path: pathlib.Path) -> None:
    """A home that came back from a backup, and asking does not freeze it; a copied key; a revoked member."""
    shutil.copytree(acme.home, tmp_path / "restored")
    acme.renew()
    assert acme.who() == ""
    now = house.clock.now
    house.clock.now += GRACE_S + 1
    assert problems(house, tmp_path / "restored") == ["certificate_superseded"]
    assert problems(house, acme.home) == []  # the doctor's question froze nobody
    assert Member(house, tmp_path / "restored").who() == "identity_frozen"
    house.clock.now = now
    assert problems(house, acme.home) == ["identity_frozen"]
    house.revoke(acme.home.name, "left")
    assert problems(house, acme.home) == ["certificate_revoked"]


def test_a_withdrawn_certificate(house: House, acme: Member, tmp_path: pathlib.Path) -> None:
    shutil.copytree(acme.home, tmp_path / "copy")
    copy = Member(house, tmp_path / "copy")
    copy.entropy = Entropy(12345)
    copy.renew()
    acme.renew()
    assert problems(house, copy.home) == ["certificate_withdrawn"]


def test_a_clock_that_is_off(house: House, acme: Member) -> None:
    clock = Clock(house.clock.now + 90)
    assert problems(house, acme.home, clock=clock) == ["clock_differs"]
    clock.now = house.clock.now + 59
    assert problems(house, acme.home, clock=clock) == []
    clock.now = house.clock.now - 3 * DAY
    assert problems(house, acme.home, clock=clock) == ["certificate_not_yet_valid", "clock_differs"]


def test_a_sealed_key_without_its_passphrase_is_an_advice(house: House, acme: Member) -> None:
    passphrase = Passphrase(b"six words of acme")
    acme.membership.seal_key(passphrase, acme.entropy)
    seal_journal_key(acme.home, passphrase, acme.entropy)
    report = doctor.examine(acme.home, None, house.world)
    assert (report.sound, {one.code for one in report.findings}) == (True, {"passphrase_missing"})
    assert problems(house, acme.home, passphrase) == []
    assert set(problems(house, acme.home, Passphrase(b"another one"))) == {"passphrase_wrong"}


@contextlib.contextmanager
def stranger(house: House, port: int) -> Iterator[None]:
    """Somebody else's HTTPS server."""
    other = certificates.make_authority(house.federation.federation_id, house.clock.now, Entropy(60))
    key = certificates.new_key(Entropy(61))
    subject = Subject(house.federation.federation_id, Role.COORDINATOR, COORDINATOR)
    made = certificates.issue(other, key.public_key(), subject, house.clock.now, Entropy(62), hosts=("127.0.0.1",))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    rotation.load_into(context, certificates.certificate_pem(made), certificates.key_pem(key))

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b"[]")

        def log_message(self, *arguments: object) -> None:
            pass

    server = http.server.HTTPServer(("127.0.0.1", port), Handler)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()
        thread.join(5)


def test_a_stranger_at_the_coordinators_address(house: House, acme: Member) -> None:
    port = free_port()
    another_address(f"127.0.0.1:{port}")(house, acme)
    with stranger(house, port + 1):
        assert problems(house, acme.home) == ["port_unreachable", "not_the_coordinator"]


# --- the trust chain --------------------------------------------------------------------------------------------------


@pytest.fixture
def chains(house: House) -> Iterator[None]:
    """What is in force afterwards is what was in force before."""
    before, path = house.in_force._now, house.home / "trust.json"
    yield
    house.in_force._now = before
    path.write_bytes(before[0])


def longer(house: House, **changes: object) -> bytes:
    """A next trust document, by governance, in force at the coordinator; the chain."""
    trust, signed = house.federation.trust, house.federation.last_roster()
    roster = roster_of_its_time(signed, trust)
    named = {"roster_version": roster.version, "roster_hash": roster.hash}
    document = replace(trust.last, sequence=2, previous=trust.last.digest, **named, **changes)  # type: ignore[arg-type]
    link = governance.sign_trust(document, [house.federation.governance_key(GOV)])
    chain = governance.encode_chain([*governance.decode_chain(house.federation.trust_chain), link])
    house.in_force._now = chain, governance.verify_chain(chain, house.federation.fingerprint)
    return chain


@pytest.mark.usefixtures("chains")
def test_a_longer_chain_at_the_coordinator_is_an_advice(house: House, acme: Member) -> None:
    longer(house)
    report = doctor.examine(acme.home, None, house.world)
    assert [(one.code, one.advice) for one in report.findings] == [("trust_chain_behind", True)]
    assert report.sound
    assert "call" in report.checked


@pytest.mark.usefixtures("chains")
def test_a_shorter_chain_and_another_branch_at_the_coordinator(house: House, acme: Member) -> None:
    before = house.in_force._now
    (acme.home / "trust.json").write_bytes(longer(house))
    assert problems(house, acme.home) == []
    house.in_force._now = before
    assert problems(house, acme.home) == ["trust_rollback"]
    longer(house, holders=(governance.Holder(house.federation.trust.governance.keys[0], OrgId("acme"), bytes(64)),))
    assert problems(house, acme.home) == ["trust_fork"]


@pytest.mark.usefixtures("chains")
def test_a_coordinator_that_was_replaced(house: House, acme: Member) -> None:
    chain = longer(house, coordinator=signing.public_key(PrivateKey(bytes(31) + b"1")))
    report = doctor.examine(acme.home, None, house.world)
    assert [one.code for one in report.findings] == ["coordinator_replaced"]
    assert "governance follow" in report.findings[0].mend
    (house.home / "trust.json").write_bytes(chain)  # the old operator's home, which was told
    found = [one for one in doctor.examine(house.home, None, house.world).findings if not one.advice]
    assert [one.code for one in found] == ["coordinator_replaced"]
    assert "old operator" in found[0].mend


# --- an operator's home -----------------------------------------------------------------------------------------------


@pytest.fixture
def operator(house: House, tmp_path: pathlib.Path) -> pathlib.Path:
    """A copy of the operator's home: what is broken in it is asked about at the running coordinator."""
    shutil.copytree(house.home, tmp_path / "op")
    path = tmp_path / "op" / "federation.json"
    value = json.loads(path.read_bytes())
    path.write_bytes(jcs.dumps({**value, "governance_folder": str(tmp_path / "op" / "governance")}))
    return tmp_path / "op"


def server_for(house: House, home: pathlib.Path, subject: Subject, hosts: tuple[str, ...], at: float) -> None:
    key = certificates.new_key(Entropy(70))
    authority = house.federation.authority(CA)
    made = certificates.issue(authority, key.public_key(), subject, at, Entropy(71), hosts=hosts)
    rotation.server_files(home).replace(certificates.key_pem(key), certificates.certificate_pem(made))


OPERATORS: dict[str, tuple[Callable[[House, pathlib.Path], object], list[str]]] = {
    "server key open": (lambda house, home: (home / "coordinator" / "server.key").chmod(0o644), ["key_exposed"]),
    "server key gone": (lambda house, home: (home / "coordinator" / "server.key").unlink(), ["key_missing"]),
    "authority key open": (lambda house, home: (home / "authority" / "ca.key").chmod(0o604), ["key_exposed"]),
    "governance key open": (lambda house, home: (home / "governance" / "governance.key").chmod(0o604), ["key_exposed"]),
    "keys exchanged": (
        lambda house, home: shutil.copy(home / "operator" / "client.key", home / "coordinator" / "server.key"),
        ["key_mismatch"],
    ),
    "operator's certificate as the server's": (
        lambda house, home: [
            shutil.copy(home / "operator" / f"client.{end}", home / "coordinator" / f"server.{end}")
            for end in ("key", "pem")
        ],
        ["wrong_role", "host_not_in_certificate"],
    ),
    "another host": (
        lambda house, home: server_for(
            house,
            home,
            Subject(house.federation.federation_id, Role.COORDINATOR, COORDINATOR),
            ("fed.example.org",),
            house.clock.now,
        ),
        ["host_not_in_certificate"],
    ),
    "server's expired": (
        lambda house, home: server_for(
            house,
            home,
            Subject(house.federation.federation_id, Role.COORDINATOR, COORDINATOR),
            ("127.0.0.1",),
            house.clock.now - 8 * DAY,
        ),
        ["certificate_expired"],
    ),
    "database gone": (lambda house, home: (home / "coordinator.db").unlink(), ["database_missing"]),
    "mark damaged": (lambda house, home: (home / "federation.json").write_bytes(b"{}"), ["own_file_damaged"]),
}


@pytest.mark.parametrize("mistake", OPERATORS)
def test_each_mistake_of_an_operator_is_found(house: House, operator: pathlib.Path, mistake: str) -> None:
    make, codes = OPERATORS[mistake]
    assert problems(house, operator) == []
    make(house, operator)
    assert problems(house, operator) == codes


# --- the command ------------------------------------------------------------------------------------------------------


def test_exit_codes_and_json(house: House, acme: Member, capsys: pytest.CaptureFixture[str]) -> None:
    house.clock.now = time.time()  # the command has the machine's clock
    assert main.main(["--home", str(acme.home), "doctor", "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert (shown["sound"], shown["findings"]) == (True, [])
    (acme.home / "tls.key").chmod(0o644)
    assert main.main(["--home", str(acme.home), "doctor", "--json"]) == 2
    shown = json.loads(capsys.readouterr().out)
    assert [(one["code"], one["severity"]) for one in shown["findings"]] == [("key_exposed", "problem")]
    assert main.main(["--home", str(acme.home / "none"), "doctor"]) == 2
    assert "[no_home]" in capsys.readouterr().out


def test_every_code_of_the_doctor_is_documented() -> None:
    page = (pathlib.Path(__file__).parent.parent / "docs" / "doctor.md").read_text()
    assert {line.split("`")[1] for line in page.splitlines() if line.startswith("| `")} == set(doctor_findings.MENDS)
