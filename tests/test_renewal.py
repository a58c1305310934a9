"""Certificates renew with a new key over mutual TLS; lost answers, crashes, honest races and copied keys."""

import contextlib
import pathlib
import sqlite3
from collections.abc import Iterator
from dataclasses import replace

import pytest
from certificate_house import DAY, House, Member, code_of_call, open_house
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding
from enrolment_office import CA, GOV, Clock, Entropy
from fedveil_cli import identity_commands, renewing, run_commands
from fedveil_cli.unrecorded import Unrecorded
from fedveil_cli.world import World
from fedveil_common.errors import FedveilError, PeerError, PolicyRefusal, Unreachable
from fedveil_common.ids import OrgId
from fedveil_common.pki import certificates, names
from fedveil_common.pki.invites import Role
from fedveil_common.pki.renewing import RenewalAnswer, Standing
from fedveil_common.ports import NoFailpoints
from fedveil_common.secret import Passphrase
from fedveil_coordinator import allowlist, reporting, rotation, succession
from fedveil_coordinator.allowlist import Identity
from fedveil_coordinator.store import open_store
from fedveil_coordinator.store.renewals import Renewal
from fedveil_coordinator.succession import GRACE_S, Use
from fedveil_participant import membership, renewal
from fedveil_participant.renewal_client import standing_of
from patience import eventually


@pytest.fixture
def house(tmp_path: pathlib.Path) -> Iterator[House]:
    with open_house(tmp_path) as made:
        yield made


def standing(member: Member) -> Standing:
    certificate = member.membership
    key = certificates.load_key(certificate.key_pem())
    return standing_of(certificate, certificate.federation_id, certificate.certificate_pem, key, Unrecorded())


# --- the ordinary way -------------------------------------------------------------------------------------------------


def test_a_certificate_is_renewed_with_a_new_key_and_the_old_one_ends(house: House, tmp_path: pathlib.Path) -> None:
    acme = house.member(tmp_path, "acme", 5)
    before, old_key = acme.membership, acme.membership.key_pem()
    begins, ends = certificates.validity(certificates.load_certificate(before.certificate_pem))
    assert ends - begins == 7 * DAY + certificates.BACKDATE_S
    assert acme.who() == ""
    with acme.link(member=before) as old:
        after = acme.renew()
        made = certificates.load_certificate(after.certificate_pem)
        assert names.subject_of(made) == before.subject
        assert after.key_pem() != old_key
        assert (code_of_call(old), standing(acme)) == ("", Standing.OFFERED)  # nothing ended yet
        assert acme.who() == ""
        assert standing(acme) is Standing.CURRENT
        assert code_of_call(old) == "certificate_superseded"
    rows = [(row.what, row.detail.get("serial") or row.detail.get("by")) for row in house.store.records.audit_rows()]
    assert rows[-2:] == [("renew", acme.serial), ("superseded", acme.serial)]


def test_what_the_store_remembers_is_what_the_map_knew(house: House, tmp_path: pathlib.Path) -> None:
    """After a restart of the coordinator the same certificates are refused."""
    acme = house.member(tmp_path, "acme", 5)
    before = acme.membership
    acme.renew()
    acme.who()
    renewals = house.store.renewals
    again = allowlist.AllowList(
        house.federation.federation_id,
        house.store.members.certificates(),
        renewals.renewals(),
        renewals.freezes(),
        renewals,
    )
    with pytest.raises(PolicyRefusal) as late:
        again.identify(before.certificate_pem, house.clock.now)
    assert late.value.code == "certificate_superseded"
    assert again.identify(acme.membership.certificate_pem, house.clock.now).serial == acme.serial
    with pytest.raises(PolicyRefusal) as clone:
        again.identify(before.certificate_pem, house.clock.now + GRACE_S + 1)
    assert clone.value.code == "identity_frozen"
    assert [item.org_id for item in renewals.freezes()] == ["acme"]


def test_nobody_gets_a_certificate_for_another_identity_or_an_old_key(house: House, tmp_path: pathlib.Path) -> None:
    acme, borealis = house.member(tmp_path, "acme", 5), house.member(tmp_path, "borealis", 5)
    key = certificates.new_key(Entropy(77))
    alternative = x509.SubjectAlternativeName([x509.UniformResourceIdentifier(borealis.membership.subject.uri)])
    builder = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([])).add_extension(alternative, False)
    with acme.link() as link:
        answer = link.renew(builder.sign(key, hashes.SHA256()).public_bytes(Encoding.DER))
        assert names.subject_of(certificates.load_certificate(answer.certificate)).org_id == "acme"
        for member in (acme, borealis):
            own = certificates.load_key(member.membership.key_pem())
            with pytest.raises(PeerError) as refused:
                link.renew(certificates.make_request(own))
            assert refused.value.code == "key_in_use"
        for junk in (b"", b"junk", bytes(5000)):
            with pytest.raises(PeerError) as refused:
                link.renew(junk)
            assert refused.value.code in {"malformed", "bad_csr"}


def test_a_loop_of_renewals_is_bounded(house: House, tmp_path: pathlib.Path) -> None:
    acme = house.member(tmp_path, "acme", 5)
    entropy = Entropy(78)
    with acme.link() as link:
        for _ in range(24):
            link.renew(certificates.make_request(certificates.new_key(entropy)))
        with pytest.raises(FedveilError) as refused:
            link.renew(certificates.make_request(certificates.new_key(entropy)))
        assert refused.value.code == "too_many_renewals"
        house.clock.now += DAY + 1
        link.renew(certificates.make_request(certificates.new_key(entropy)))


def test_the_new_key_is_sealed_like_the_old_one(house: House, tmp_path: pathlib.Path) -> None:
    passphrase = Passphrase(b"six words of acme")
    acme = house.member(tmp_path, "acme", 5)
    with acme.store():
        pass
    membership.load_membership(acme.home).seal_key(passphrase, acme.entropy)
    identity_commands.seal_journal_key(acme.home, passphrase, acme.entropy)
    acme.renew(passphrase=passphrase)
    files = membership.tls_files(acme.home)
    assert not membership.is_clear(files.key())
    certificates.check_pair(
        certificates.load_certificate(acme.membership.certificate_pem), acme.membership.key_pem(passphrase)
    )
    for path in acme.home.iterdir():
        if path.is_file():
            assert b"PRIVATE KEY" not in path.read_bytes(), path


# --- answers that are lost, and crashes -------------------------------------------------------------------------------


class LostAnswer:
    """The coordinator signs, and nobody hears of it."""

    def __init__(self, member: Member) -> None:
        self._member = member

    def renew(self, csr: bytes) -> RenewalAnswer:
        with self._member.link() as link:
            self.answer = link.renew(csr)
        raise Unreachable("unreachable", "the answer was lost")

    def renew_offline(self, request: object) -> RenewalAnswer:
        raise AssertionError


def test_a_lost_answer_locks_nobody_out(house: House, tmp_path: pathlib.Path) -> None:
    acme = house.member(tmp_path, "acme", 5)
    lost = LostAnswer(acme)
    with pytest.raises(Unreachable):
        acme.renew(office=lost)
    house.clock.now += 2 * GRACE_S
    assert acme.who() == ""  # the successor was never used: the old one is in force for as long as it lasts
    again = acme.renew()
    assert again.certificate_pem == lost.answer.certificate
    assert acme.who() == ""
    assert not house.allowed.frozen()
    assert len(house.store.renewals.renewals()) == 1


class Killed(Exception):
    pass


class KillAt:
    def __init__(self, at: int) -> None:
        self.at, self.hits = at, list[str]()

    def hit(self, name: str) -> None:
        self.hits.append(name)
        if len(self.hits) == self.at:
            raise Killed(name)


STEPS = (
    "renewal.after.key_made",
    "renewal.before.ask",
    "renewal.after.ask",
    "renewal.before.commit",
    "renewal.after.commit",
    "renewal.after.key",
    "renewal.after.certificate",
)


def test_a_kill_between_any_two_steps_leaves_a_pair_that_fits(house: House, tmp_path: pathlib.Path) -> None:
    seen = []
    for at, step in enumerate(STEPS, 1):
        acme = house.member(tmp_path, f"acme{at}", 5)
        first, killed = acme.serial, KillAt(at)
        with pytest.raises(Killed):
            acme.renew(failpoints=killed)
        seen.append(killed.hits[-1])
        member = acme.membership  # read as it lies there, before anything is mended
        certificates.check_pair(certificates.load_certificate(member.certificate_pem), member.key_pem())
        assert (acme.serial != first) is (at >= 5), step
        house.clock.now += 2 * GRACE_S
        assert acme.who() == "", step
        house.clock.now -= 2 * GRACE_S  # what is signed now must be valid on the machine's clock
        acme.renew()
        assert acme.who() == "", step
        assert not list(acme.home.glob("*.next")), step
        # the keys made before the kill were used again: one certificate for each key, none in vain
        made = [item for item in house.allowed.certificates() if item.org_id == f"acme{at}"]
        assert len(made) == (2 if at < 5 else 3), step
    assert tuple(seen) == STEPS
    assert not house.allowed.frozen()


# --- honest races and copied keys -------------------------------------------------------------------------------------


def test_the_rule_in_numbers() -> None:
    found = succession.places([Renewal("b", "a", 10.0), Renewal("c", "a", 20.0, 100.0), Renewal("d", "c", 200.0)])
    found["b"] = succession.withdrawn(found["b"], 20.0)
    for serial, now, use in (
        ("a", 100.0 + GRACE_S, Use.LATE),
        ("a", 100.1 + GRACE_S, Use.CLONE),
        ("a", 90.0, Use.LATE),  # the coordinator's clock was set back
        ("b", 20.0, Use.LATE),
        ("b", 21.0 + GRACE_S, Use.CLONE),
        ("c", 1e9, Use.ORDINARY),  # its successor was never used
        ("d", 1e9, Use.FIRST),
    ):
        assert succession.judge(found[serial], now) is use, (serial, now)


def test_the_old_line_drains_while_the_new_one_is_used(house: House, tmp_path: pathlib.Path) -> None:
    acme = house.member(tmp_path, "acme", 5)
    closed: list[str] = []
    with acme.link() as link:
        link.open(lambda message: None, lambda error: closed.append(error.code))
        eventually(lambda: house.desk.live.count(OrgId("acme")) == 1)
        before = link._line
        after = acme.renew()
        link.exchange(renewing.channel(after, None))
        assert code_of_call(link) == ""  # the successor is in use; the session goes on over the old line
        assert standing(acme) is Standing.CURRENT
        house.clock.now += 2 * GRACE_S
        house.desk.live.look()
        assert code_of_call(link) == ""
        assert (closed, house.desk.live.count(OrgId("acme"))) == ([], 1)
        link.open(lambda message: None, lambda error: closed.append(error.code))  # the driver opens it again
        eventually(lambda: len(closed) == 1 and before._calls == 0)
        eventually(lambda: "acme" in house.driver.connected_members)
    assert not house.allowed.frozen()


def test_a_call_that_was_overtaken_is_repeated_and_raises_no_alarm(house: House, tmp_path: pathlib.Path) -> None:
    acme = house.member(tmp_path, "acme", 5)
    closed: list[str] = []
    with acme.link() as old:
        old.open(lambda message: None, lambda error: closed.append(error.code))
        eventually(lambda: house.desk.live.count(OrgId("acme")) == 1)
        acme.renew()
        assert acme.who() == ""
        assert code_of_call(old) == "certificate_superseded"
        old._line.retire()  # it stays open for its session
        house.clock.now += GRACE_S - 1
        assert code_of_call(old) == "line_replaced"  # Unreachable: the driver repeats it over the new line
        assert not house.allowed.frozen()
        house.clock.now += 2  # the other side of the rule: nobody honest is on his way for so long
        assert code_of_call(old) == "identity_frozen"
        eventually(lambda: closed == ["identity_frozen"])
    assert (acme.who(), standing(acme)) == ("identity_frozen", Standing.FROZEN)


def steal(member: Member, folder: pathlib.Path) -> Member:
    """A copy of the pair and what belongs to it, in the hands of somebody else."""
    folder.mkdir()
    for path in member.home.iterdir():
        if path.is_file() and path.name != "lock":
            (folder / path.name).write_bytes(path.read_bytes())
            (folder / path.name).chmod(0o600)
    return Member(member.house, folder)


def test_a_copied_key_is_found_out_by_the_next_renewal(house: House, tmp_path: pathlib.Path) -> None:
    acme = house.member(tmp_path, "acme", 5)
    thief = steal(acme, tmp_path / "thief")
    assert thief.who() == ""  # a copied key is a key: nobody can tell, until one of the two renews
    acme.renew()
    assert acme.who() == ""
    house.clock.now += GRACE_S + 1
    assert thief.who() == "identity_frozen"
    assert acme.who() == "identity_frozen"
    alarm = reporting.alarms(house.allowed.frozen(), house.clock.now)
    assert [(one["code"], one["org"], one["role"]) for one in alarm] == [("identity_frozen", "acme", "participant")]
    with pytest.raises(PolicyRefusal) as refused:
        acme.renew()
    assert refused.value.code == "identity_frozen"
    identity_commands.run_join(acme.home, house.invite("acme", rekey=True), None, house.world)
    assert (acme.who(), house.allowed.frozen(), house.store.renewals.freezes()) == ("", (), [])
    assert thief.who() == "certificate_revoked"


def test_a_thief_that_renews_first_is_found_out_by_the_owner(house: House, tmp_path: pathlib.Path) -> None:
    acme = house.member(tmp_path, "acme", 5)
    thief = steal(acme, tmp_path / "thief")
    thief.renew()
    assert thief.who() == ""
    house.clock.now += GRACE_S + 1
    assert acme.who() == "identity_frozen"
    assert thief.who() == "identity_frozen"


def test_without_the_rule_the_thief_stays(
    house: House, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Control: it is `succession.judge` that stops it."""
    monkeypatch.setattr(succession, "judge", lambda place, now: Use.ORDINARY if place.used else Use.FIRST)
    acme = house.member(tmp_path, "acme", 5)
    thief = steal(acme, tmp_path / "thief")
    acme.renew()
    assert acme.who() == ""
    house.clock.now += GRACE_S + 1
    assert (thief.who(), acme.who(), house.allowed.frozen()) == ("", "", ())


def test_two_successors_of_one_certificate_never_both_count(house: House, tmp_path: pathlib.Path) -> None:
    """Thief and owner ask before either uses what it got: the later request withdraws the earlier certificate."""
    acme = house.member(tmp_path, "acme", 5)
    thief = steal(acme, tmp_path / "thief")
    thief.entropy = Entropy(4711)
    thief.renew()
    acme.renew()
    assert standing(thief) is Standing.WITHDRAWN
    assert (acme.who(), thief.who()) == ("", "certificate_superseded")
    house.clock.now += GRACE_S + 1
    assert thief.who() == "identity_frozen"


def test_a_pending_key_that_was_withdrawn_is_not_asked_for_again(house: House, tmp_path: pathlib.Path) -> None:
    acme = house.member(tmp_path, "acme", 5)
    with pytest.raises(Unreachable):
        acme.renew(office=LostAnswer(acme))
    with acme.link() as link:  # the key was lost with its file, say, and another one was certified
        link.renew(certificates.make_request(certificates.new_key(Entropy(5))))
    acme.renew()
    assert acme.who() == ""
    assert len(house.store.renewals.renewals()) == 3


# --- calls that go on -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["certificate_expired", "certificate_revoked", "identity_frozen"])
def test_a_live_stream_ends_with_its_certificate_or_its_identity(
    house: House, tmp_path: pathlib.Path, how: str
) -> None:
    acme, borealis = house.member(tmp_path, "acme", 5), house.member(tmp_path, "borealis", 1)
    closed: dict[str, str] = {}
    with acme.link() as link, borealis.link() as other:
        link.open(lambda message: None, lambda error: closed.setdefault("acme", error.code))
        other.open(lambda message: None, lambda error: closed.setdefault("borealis", error.code))
        eventually(lambda: set(house.driver.connected_members) == {"acme", "borealis"})
        house.desk.live.look()
        assert code_of_call(link) == ""  # answered by the same loop, after it looked
        if how == "certificate_expired":
            house.clock.now += 2 * DAY + 1  # nobody is told to look: the calls see it by themselves
        elif how == "certificate_revoked":
            house.revoke("acme", "left")
        else:
            house.allowed._freeze(house.allowed.certificates()[1], house.clock.now)
            house.allowed._tell(OrgId("acme"), "identity_frozen")
        eventually(lambda: "acme" in closed)
        assert closed == {"acme": how}
        assert code_of_call(link) == how
        assert code_of_call(other) == ""


# --- by itself --------------------------------------------------------------------------------------------------------


def test_a_running_participant_renews_by_itself(house: House, tmp_path: pathlib.Path) -> None:
    acme = house.member(tmp_path, "acme", 4.6655)
    first, told, renewed = acme.serial, list[tuple[str, str]](), list[str]()
    with acme.store() as store, acme.link() as link:

        class Office:
            reachable = False

            def renew(self, csr: bytes) -> RenewalAnswer:
                if not self.reachable:
                    raise Unreachable("unreachable", "no network")
                return link.renew(csr)

            def renew_offline(self, request: object) -> RenewalAnswer:
                raise AssertionError

        def take(member: membership.Membership) -> None:
            renewed.append(acme.serial)
            link.exchange(renewing.channel(member, None))

        office = Office()
        pin, key = renewing.pinned_trust(acme.membership, store), store.protocol_key()
        hands = renewal.Hands(office, pin, key, None, house.clock, acme.entropy, house.world.failpoints)  # type: ignore[arg-type]
        renewer = renewal.Renewer(
            acme.home, hands, take, lambda kind, facts: told.append((kind, facts.get("code", "")))
        )
        renewer.tick()
        assert (told, acme.serial) == ([], first)  # 4.6655 of 7 days: below two thirds
        house.clock.now += 0.002 * DAY
        renewer.tick()
        assert told == [("renewal_failed", "unreachable")]
        house.clock.now += 59
        renewer.tick()
        assert len(told) == 1  # not before a minute has passed
        house.clock.now += 2
        renewer.tick()
        house.clock.now += 119
        renewer.tick()
        assert (len(told), renewer.failures) == (2, 2)  # the pause doubles
        office.reachable = True
        house.clock.now += 2
        renewer.tick()
        assert told[2:] == [("certificate_renewed", "")]
        assert renewed == [acme.serial] != [first]
        assert code_of_call(link) == ""
        renewer.tick()
        assert len(told) == 3
        (acme.home / renewal.REQUEST).write_bytes(b"")  # `fedveil renew` while this participant runs
        house.clock.now += renewal.LOOK_S
        renewer.tick()
        assert told[3:] == [("certificate_renewed", "")]
        assert not (acme.home / renewal.REQUEST).exists()
        assert code_of_call(link) == ""
    assert not house.allowed.frozen()


# --- the operator -----------------------------------------------------------------------------------------------------


def test_the_operators_certificate_renews_and_a_command_under_way_goes_on(house: House) -> None:
    admin = run_commands.connect(house.home)
    assert admin.who_am_i()[:2] == ("operator", "operator")
    first = admin.who_am_i()[2]
    report = renewing.renew_operator(house.home, house.world)
    assert report["in_use"] is True
    assert report["serial"] == admin.who_am_i()[2] != first  # the same client, over a new channel
    house.clock.now += 5 * DAY
    office, allowed = house.desk.office, house.allowed
    house.desk.rotation.look(office, allowed)
    renewed = allowed.in_force(Role.OPERATOR, OrgId("operator"))
    assert renewed is not None
    assert renewed.serial == report["serial"]  # signed, and not used yet
    house.clock.now -= 5 * DAY  # TLS looks at the machine's clock
    files = rotation.operator_files(house.home)
    assert certificates.serial_text(certificates.load_certificate(files.certificate())) != report["serial"]
    admin.close()


def test_a_frozen_operator_is_made_anew_with_the_authoritys_key(house: House) -> None:
    known = house.allowed.in_force(Role.OPERATOR, OrgId("operator"))
    assert known is not None
    house.allowed._freeze(known, house.clock.now)
    admin = run_commands.connect(house.home)
    with pytest.raises(PolicyRefusal) as refused:
        admin.who_am_i()
    assert refused.value.code == "identity_frozen"
    admin.close()
    before = rotation.server_files(house.home).certificate()
    renewing.renew_operator_offline(house.home, CA, house.world)
    store = house.store
    again = allowlist.AllowList(
        house.federation.federation_id, store.members.certificates(), (), store.renewals.freezes(), store.renewals
    )
    mine = rotation.operator_files(house.home).certificate()
    assert again.identify(mine, house.clock.now).role is Role.OPERATOR
    with pytest.raises(PolicyRefusal) as old:
        again.identify(known.pem, house.clock.now)
    assert old.value.code == "certificate_revoked"
    assert rotation.server_files(house.home).certificate() != before


def test_an_identity_that_is_superseded_meanwhile_gets_nothing(house: House, tmp_path: pathlib.Path) -> None:
    """The call was let in before its certificate's successor was used: decided again where it is signed."""
    acme = house.member(tmp_path, "acme", 5)
    stale = Identity(OrgId("acme"), Role.PARTICIPANT, acme.serial)
    acme.renew()
    acme.who()
    with pytest.raises(PolicyRefusal) as refused:
        house.desk.office.renew(stale, certificates.make_request(certificates.new_key(Entropy(6))))
    assert refused.value.code == "certificate_superseded"


# --- a federation that is older than renewal --------------------------------------------------------------------------


def test_a_database_of_before_is_taken_over(tmp_path: pathlib.Path) -> None:
    clock = Clock()
    world = World(clock, Entropy(1), NoFailpoints())
    identity_commands.run_init(tmp_path / "op", "hospitals", "127.0.0.1:7443", CA, GOV, None, world)
    with contextlib.closing(sqlite3.connect(tmp_path / "op" / "coordinator.db")) as database:
        database.execute("DROP TABLE renewals")
        database.execute("DROP TABLE freezes")
        for later in ("keys", "stages", "status", "countersignatures"):
            database.execute(f"DROP TABLE {later}")
        database.execute("UPDATE alembic_version SET version_num = '0001'")
        database.commit()
    with contextlib.closing(open_store(tmp_path / "op", clock)) as store:
        (operator,) = store.members.certificates()
        assert (store.renewals.renewals(), store.renewals.freezes()) == ([], [])
        store.renewals.record_renewal(
            replace(operator, serial="ab", spki_hash=bytes(32)), operator.serial, (), 1.0, "x"
        )
        store.renewals.mark_used("ab", 2.0)
    with contextlib.closing(open_store(tmp_path / "op", clock)) as store:
        assert store.renewals.renewals() == [Renewal("ab", operator.serial, 1.0, 2.0)]
