"""A participant whose certificate has expired renews with its protocol key; who may not, and the signed question."""

import pathlib
from collections.abc import Iterator
from dataclasses import replace

import pytest
from certificate_house import DAY, House, Member, open_house
from enrolment_office import CA, Entropy, join
from fedveil_cli import renewing
from fedveil_cli.unrecorded import Unrecorded
from fedveil_common.errors import FedveilError, PeerError, PolicyRefusal
from fedveil_common.ids import FederationId, OrgId
from fedveil_common.pki import certificates
from fedveil_common.pki.renewing import (
    OfflineRenewal,
    RenewalAnswer,
    Standing,
    StandingQuestion,
    ask_standing,
    decode_standing,
    encode_standing,
    sign_renewal,
)
from fedveil_common.secret import PrivateKey
from fedveil_coordinator import renewal_http
from fedveil_participant import renewal
from fedveil_participant.renewal_client import standing_of


@pytest.fixture
def house(tmp_path: pathlib.Path) -> Iterator[House]:
    with open_house(tmp_path) as made:
        yield made


def request_of(member: Member, key: PrivateKey | None = None, **changes: object) -> OfflineRenewal:
    with member.store() as store:
        own = store.protocol_key()
    made = member.membership
    csr = certificates.make_request(certificates.new_key(Entropy(31)))
    federation = changes.get("federation_id", made.federation_id)
    assert isinstance(federation, str)
    return sign_renewal(FederationId(federation), made.org_id, csr, bytes(32), key or own)


def refusal(house: House, request: OfflineRenewal) -> str:
    """The code that the office refuses with; empty if it signs."""
    try:
        house.desk.office.renew_offline(request)
    except FedveilError as error:
        return error.code
    return ""


def test_a_node_that_was_away_renews_over_the_enrolment_port(house: House, tmp_path: pathlib.Path) -> None:
    acme = house.member(tmp_path, "acme", 9, listed=True)
    assert (acme.why(), acme.who()) == ("certificate_expired", "unreachable")
    first = acme.serial
    acme.renew()
    assert acme.serial != first
    assert (acme.why(), acme.who()) == ("", "")
    with acme.store() as store:
        sent = [(sent.kind, sent.size_bytes > 0) for sent in store.outbox()]
        assert sent == [("Join", True), ("Trust", False), ("Authorities", False), ("RenewOffline", True)]


def test_participate_mends_an_expired_or_broken_pair_before_it_dials(house: House, tmp_path: pathlib.Path) -> None:
    acme = house.member(tmp_path, "acme", 9, listed=True)
    world = replace(house.world, entropy=acme.entropy)
    told: list[str] = []
    with acme.store() as store:
        renewing.usable_membership(acme.home, store, None, world, lambda kind, facts: told.append(facts["why"]))
        assert acme.who() == ""
        (acme.home / "tls.key").write_bytes(certificates.key_pem(certificates.new_key(Entropy(3))))
        renewing.usable_membership(acme.home, store, None, world, lambda kind, facts: told.append(facts["why"]))
        assert acme.who() == ""
        (acme.home / "tls.key").unlink()
        renewing.usable_membership(acme.home, store, None, world, lambda kind, facts: told.append(facts["why"]))
        assert acme.who() == ""
        renewing.usable_membership(acme.home, store, None, world, lambda kind, facts: told.append(facts["why"]))
    assert told == ["certificate_expired", "key_mismatch", "key_missing"]


def test_only_the_listed_unrevoked_key_renews_and_for_ninety_days(house: House, tmp_path: pathlib.Path) -> None:
    acme = house.member(tmp_path, "acme", 9)
    asked = request_of(acme)
    assert refusal(house, asked) == "not_in_roster"
    house.next_roster()
    assert refusal(house, request_of(acme, federation_id="banks-0011223344556677")) == "wrong_federation"
    assert refusal(house, request_of(acme, key=PrivateKey(bytes(31) + b"\1"))) == "bad_signature"
    assert refusal(house, replace(asked, nonce=bytes(31) + b"\1")) == "bad_signature"
    now = house.clock.now
    house.clock.now = now + 88 * DAY - 1  # it expired two days ago
    assert refusal(house, asked) == ""
    assert refusal(house, asked) == ""  # the same key again: a lost answer
    house.clock.now = now + 88 * DAY + 1
    assert refusal(house, asked) == "renewal_too_late"
    house.clock.now = now
    assert refusal(house, request_of(acme)) == ""


def test_a_forged_request_is_stopped_by_its_signature(
    house: House, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    acme = house.member(tmp_path, "acme", 9, listed=True)
    forged = request_of(acme, key=PrivateKey(bytes(31) + b"\2"))
    assert refusal(house, request_of(acme)) == ""
    assert refusal(house, forged) == "bad_signature"
    monkeypatch.setattr(OfflineRenewal, "verify", lambda self, key: None)
    assert refusal(house, forged) == ""


def test_a_revoked_a_rekeyed_and_a_frozen_member_get_nothing(house: House, tmp_path: pathlib.Path) -> None:
    acme = house.member(tmp_path, "acme", 9, listed=True)
    borealis = house.member(tmp_path, "borealis", 9, listed=True)
    old, theirs = request_of(acme), request_of(borealis)
    known = next(item for item in house.allowed.certificates() if item.org_id == "borealis")
    house.allowed._freeze(known, house.clock.now)
    assert refusal(house, theirs) == "identity_frozen"
    token = house.invite("acme", rekey=True)
    (tmp_path / "acme-anew").mkdir()
    join(house, tmp_path / "acme-anew", token, seed=99)
    assert refusal(house, old) == "member_revoked"  # the roster still lists the old key
    assert refusal(house, request_of(Member(house, tmp_path / "acme-anew"))) == "bad_signature"
    house.next_roster()
    assert refusal(house, old) == "bad_signature"
    assert refusal(house, request_of(Member(house, tmp_path / "acme-anew"))) == ""
    house.revoke("acme", "left")
    assert refusal(house, request_of(Member(house, tmp_path / "acme-anew"))) == "member_revoked"


def test_what_comes_back_is_not_believed(house: House, tmp_path: pathlib.Path) -> None:
    """A coordinator, or who sits on its port, that answers with something else changes nothing."""
    acme, borealis = house.member(tmp_path, "acme", 5), house.member(tmp_path, "borealis", 5)
    foreign = certificates.make_authority(house.federation.federation_id, house.clock.now, Entropy(8))
    first = acme.serial

    class Lying:
        def __init__(self, change: str) -> None:
            self.change = change

        def renew(self, csr: bytes) -> RenewalAnswer:
            with acme.link() as link:
                answer = link.renew(csr)
            key = certificates.read_request(csr).public_key()
            forged = certificates.issue(foreign, key, acme.membership.subject, house.clock.now, Entropy(9))  # type: ignore[arg-type]
            match self.change:
                case "name":
                    with borealis.link() as other:
                        return other.renew(certificates.make_request(certificates.new_key(Entropy(10))))
                case "authority":
                    return replace(answer, certificate=certificates.certificate_pem(forged))
                case "bundle":
                    pem = certificates.certificate_pem(forged)
                    return replace(answer, certificate=pem, authorities=foreign.pem + answer.authorities)
                case "key":
                    with acme.link() as link:
                        return link.renew(certificates.make_request(certificates.new_key(Entropy(11))))
                case "chain":
                    return replace(answer, trust_chain=b"[]")
                case _:
                    return answer

        def renew_offline(self, request: object) -> RenewalAnswer:
            raise AssertionError

    for change, code in (
        ("name", "wrong_name"),
        ("authority", "wrong_authority"),
        ("bundle", "authority_mismatch"),
        ("key", "wrong_name"),
        ("chain", "bad_document"),
    ):
        with pytest.raises(FedveilError) as refused:
            acme.renew(office=Lying(change))
        assert (refused.value.code, acme.serial) == (code, first), change
        assert acme.membership.authority_pem == house.federation.authority_pem
    acme.renew(office=Lying(""))
    assert acme.serial != first


# --- the signed question ----------------------------------------------------------------------------------------------


def test_the_coordinator_says_what_it_thinks_of_a_certificate(house: House, tmp_path: pathlib.Path) -> None:
    acme = house.member(tmp_path, "acme", 9)
    made = acme.membership
    key = certificates.load_key(made.key_pem())

    def standing() -> Standing:
        return standing_of(made, made.federation_id, made.certificate_pem, key, Unrecorded())

    assert standing() is Standing.EXPIRED
    house.revoke("acme", "left")
    assert standing() is Standing.REVOKED
    alien = certificates.issue(
        house.federation.authority(CA), key.public_key(), made.subject, house.clock.now, Entropy(1)
    )
    pem = certificates.certificate_pem(alien)  # the authority's, and never recorded
    assert standing_of(made, made.federation_id, pem, key, Unrecorded()) is Standing.UNKNOWN
    assert not house.allowed.frozen()


def test_a_question_needs_the_key_and_the_coordinators_time(house: House, tmp_path: pathlib.Path) -> None:
    acme = house.member(tmp_path, "acme", 1)
    made, now = acme.membership, int(house.clock.now)
    key = certificates.load_key(made.key_pem())

    def code(question: StandingQuestion) -> str:
        try:
            found = renewal_http.answer_question(question, made.federation_id, house.allowed, house.clock.now)
        except PeerError as error:
            return error.code
        return found.value

    honest = ask_standing(made.federation_id, made.certificate_pem, key, now)
    assert StandingQuestion.decode(honest.encode()) == honest
    assert code(honest) == "current"
    other = certificates.new_key(Entropy(3))
    assert code(ask_standing(made.federation_id, made.certificate_pem, other, now)) == "bad_signature"
    assert code(replace(honest, seconds=now + 1)) == "bad_signature"
    assert code(ask_standing(made.federation_id, made.certificate_pem, key, now - 122)) == "question_out_of_time"
    assert code(ask_standing(FederationId("banks-00"), made.certificate_pem, key, now)) == "wrong_federation"
    assert code(replace(honest, certificate=b"junk")) == "bad_certificate"
    assert [decode_standing(encode_standing(one)) for one in Standing] == list(Standing)
    with pytest.raises(PeerError):
        decode_standing(b'{"standing":"king"}')


def test_requests_are_read_strictly(house: House, tmp_path: pathlib.Path) -> None:
    asked = request_of(house.member(tmp_path, "acme", 1))
    assert OfflineRenewal.decode(asked.encode()) == asked
    answer = RenewalAnswer(b"pem", b"more", b"[]")
    assert RenewalAnswer.decode(answer.encode()) == answer
    for bad in (b"", b"{}", asked.encode() + b" ", asked.encode().replace(b'"nonce"', b'"Nonce"')):
        with pytest.raises(PeerError) as refused:
            OfflineRenewal.decode(bad)
        assert refused.value.code == "bad_document"


def test_a_pair_that_no_renewal_mends_is_named(house: House, tmp_path: pathlib.Path) -> None:
    acme = house.member(tmp_path, "acme", 1)
    made = acme.membership
    with pytest.raises(PolicyRefusal) as early:
        renewal.why_offline(made, None, house.clock.now - 3 * DAY)
    assert early.value.code == "certificate_not_yet_valid"
    assert OrgId("acme") == made.org_id
