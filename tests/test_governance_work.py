"""k-of-m governance at work: keys at their holders' desks, proposals that travel, another authority, another operator.

The coordinator is the office of the identity tests; each desk is a folder of its own.
"""

import pathlib
from collections.abc import Iterator
from dataclasses import replace

import pytest
from fedveil_cli import following, governing, identity_commands, proposing, publishing, succeeding
from fedveil_cli.governing import Card
from fedveil_cli.serving import check_own_key
from fedveil_common import durable
from fedveil_common.crypto import signing
from fedveil_common.errors import ConfigError, PeerError, SealedError
from fedveil_common.ids import OrgId
from fedveil_common.pki import holders
from fedveil_common.pki.governance_folder import GovernanceFolder
from fedveil_common.pki.proposals import Examined, Proposal
from fedveil_common.pki.reading_proposals import describe
from fedveil_common.secret import Passphrase
from fedveil_common.succession import roster_in_force
from fedveil_coordinator import authorities, founding
from fedveil_participant.membership import load_membership
from fedveil_participant.pinned_trust import PinnedTrust
from fedveil_participant.store import journal_key, open_store

from tests.enrolment_office import CA, GOV, Office, join, open_office

ORGS = ("acme", "borealis", "cygnus")
HOLDER = Passphrase(b"a holder's passphrase")


@pytest.fixture
def office(tmp_path: pathlib.Path) -> Iterator[Office]:
    with open_office(tmp_path) as office:
        for number, org in enumerate(ORGS):
            join(office, tmp_path / org, office.invite(org), seed=10 + number)
        office.next_roster()
        yield office


def federation_of(office: Office) -> founding.Federation:
    return founding.load_federation(office.home)


def card_of(office: Office, home: pathlib.Path) -> Card:
    """A governance key in an organisation's home, with its word for it."""
    card = governing.make_key(GovernanceFolder(home / "governance"), HOLDER, office.world)
    member = load_membership(home)
    store = open_store(home, journal_key(home, None), office.clock, office.entropy)
    try:
        said = holders.attest(member.federation_id, member.org_id, card.key, store.protocol_key())
    finally:
        store.close()
    return Card.decode(Card(card.key, said).encode())


def sign_at(
    home: pathlib.Path, proposal: Proposal, passphrase: Passphrase = HOLDER, *, again: bool = False
) -> Proposal:
    """What `governance sign` does at this home: the file is read anew, as it travelled."""
    desk = governing.open_desk(home)
    read = Proposal.decode(proposal.encode())
    return governing.sign(desk, governing.look(desk, read), passphrase, again=again)


def publish(office: Office, *copies: Proposal) -> identity_commands.Report:
    federation = federation_of(office)
    examined = publishing.examine_copies(federation, copies)
    return succeeding.publish(federation, examined, CA, office, office.world)


def to_members(office: Office, tmp_path: pathlib.Path, threshold: int = 2) -> Examined:
    """The operator's key goes, each member's comes."""
    cards = [card_of(office, tmp_path / org) for org in ORGS]
    federation = federation_of(office)
    return proposing.propose_set(federation, cards, [federation.trust.governance.keys[0].hex()], threshold)


def governed_by_members(office: Office, tmp_path: pathlib.Path) -> None:
    proposal = to_members(office, tmp_path).proposal
    copies = [sign_at(office.home, proposal, GOV), *(sign_at(tmp_path / org, proposal) for org in ORGS[:2])]
    publish(office, *copies)


# --- k of m -----------------------------------------------------------------------------------------------------------


def test_signatures_are_collected_and_the_new_set_decides(office: Office, tmp_path: pathlib.Path) -> None:
    examined = to_members(office, tmp_path)
    text = "\n".join(describe(examined))
    assert text.count("KEY ADDED") == 3
    assert text.count("KEY REMOVED") == 1
    assert text.count("by its own word") == 3
    assert "afterwards: membership rests on 2 of 3 governance keys, held by acme, borealis, cygnus" in text
    own, one = sign_at(office.home, examined.proposal, GOV), sign_at(tmp_path / "acme", examined.proposal)
    with pytest.raises(ConfigError) as few:
        publish(office, own, one)
    assert few.value.code == "signatures_missing"
    assert office.in_force.trust.sequence == 1
    report = publish(office, own, one, sign_at(tmp_path / "cygnus", examined.proposal))
    assert report["trust_sequence"] == 2
    assert office.in_force.trust.sequence == federation_of(office).trust.sequence == 2
    publish(office, own, one, sign_at(tmp_path / "cygnus", examined.proposal))  # repeated: nothing changes
    assert office.in_force.trust.sequence == 2


def test_the_operator_alone_signs_nothing_any_more(office: Office, tmp_path: pathlib.Path) -> None:
    governed_by_members(office, tmp_path)
    assert not identity_commands.governs_alone(office.home)
    with pytest.raises(ConfigError) as invited:
        office.invite("dorado")
    assert invited.value.code == "signatures_missing"
    assert office.next_roster()["added"] == []  # nothing to sign: a run starts without a key
    made = proposing.propose_invite(federation_of(office), "dorado", office, office.world, rekey=False)
    assert made.token not in made.examined.proposal.encode().decode()
    one = sign_at(tmp_path / "acme", made.examined.proposal)
    with pytest.raises(PeerError) as unknown:
        join(office, tmp_path / "dorado", made.token, seed=20)
    assert unknown.value.code == "token_unknown"
    publish(office, one, sign_at(tmp_path / "borealis", made.examined.proposal))
    join(office, tmp_path / "dorado", made.token, seed=21)
    with pytest.raises(ConfigError) as missing:
        office.next_roster()
    assert missing.value.code == "signatures_missing"
    draft = proposing.propose_roster(federation_of(office), office)
    assert "MEMBER ADDED: dorado" in "\n".join(describe(draft))
    publish(office, sign_at(tmp_path / "cygnus", draft.proposal), sign_at(tmp_path / "borealis", draft.proposal))
    newest = office.store.records.latest_roster()
    assert newest is not None
    assert "dorado" in roster_in_force(newest[1], office.in_force.trust).participants


def test_a_desk_signs_nothing_that_goes_back(office: Office, tmp_path: pathlib.Path) -> None:
    stale = to_members(office, tmp_path, threshold=1).proposal
    signed = sign_at(tmp_path / "acme", stale)
    again = proposing.propose_set(
        federation_of(office),
        [Card(key) for key in GovernanceFolder(tmp_path / "acme" / "governance").public_keys()],
        [],
        1,
    ).proposal
    with pytest.raises(ConfigError) as another:
        sign_at(tmp_path / "acme", again)
    assert another.value.code == "signed_another"
    publish(office, sign_at(office.home, again, GOV), sign_at(tmp_path / "acme", again, again=True))
    with pytest.raises(PeerError) as back:
        publish(office, signed, sign_at(tmp_path / "borealis", stale))
    assert back.value.code in {"trust_rollback", "trust_fork"}
    with pytest.raises(SealedError) as sealed:
        sign_at(tmp_path / "acme", stale, Passphrase(b"not the passphrase"), again=True)
    assert sealed.value.code == "passphrase_wrong"


def test_a_desk_of_its_own_needs_the_fingerprint(office: Office, tmp_path: pathlib.Path) -> None:
    home = tmp_path / "notary"
    card = governing.make_key(GovernanceFolder(home / "governance"), HOLDER, office.world)
    federation = federation_of(office)
    proposal = proposing.propose_set(federation, [card], [], 2).proposal
    with pytest.raises(ConfigError) as unknown:
        governing.open_desk(home)
    assert unknown.value.code == "fingerprint_missing"
    stranger = governing.open_desk(home, bytes(32))
    with pytest.raises(PeerError) as other:
        governing.look(stranger, proposal)
    assert other.value.code == "fingerprint_mismatch"
    desk = governing.open_desk(home, federation.fingerprint)
    copy = governing.sign(desk, governing.look(desk, proposal), HOLDER)
    publish(office, copy, sign_at(office.home, proposal, GOV))
    assert governing.open_desk(home).chain is not None  # remembered
    lines = governing.show(governing.open_desk(office.home))[1]
    assert "governance: 2 of 2 keys" in lines
    assert lines[-1] == holders.ON_THE_OPERATOR


def test_a_lost_key_is_replaced_by_those_that_are_left(office: Office, tmp_path: pathlib.Path) -> None:
    governed_by_members(office, tmp_path)
    lost = next(iter(GovernanceFolder(tmp_path / "cygnus" / "governance").public_keys()))
    card = card_of(office, tmp_path / "cygnus")  # a second key in the same folder
    examined = proposing.propose_set(federation_of(office), [card], [lost.hex()[:16]], None)
    publish(office, sign_at(tmp_path / "acme", examined.proposal), sign_at(tmp_path / "borealis", examined.proposal))
    trust = office.in_force.trust
    assert lost not in trust.governance.keys
    assert card.key in trust.governance.keys
    with pytest.raises(ConfigError) as unknown:
        proposing.propose_set(federation_of(office), [], [lost.hex()], None)
    assert unknown.value.code == "unknown_key"
    with pytest.raises(ConfigError) as many:
        proposing.propose_set(federation_of(office), [], [], 4)
    assert many.value.code == "bad_threshold"


# --- authorities ------------------------------------------------------------------------------------------------------


def next_authority(office: Office) -> tuple[bytes, bytes]:
    """(digest of the new authority, of the old one); both are in force when this returns."""
    federation = federation_of(office)
    digests, pem = succeeding.next_authority(federation, CA, office.world)
    examined = proposing.propose_authorities(federation, digests, pem)
    assert "AUTHORITY ADDED" in "\n".join(describe(examined))
    publish(office, sign_at(office.home, examined.proposal, GOV))
    return digests[0], digests[1]


def test_a_new_authority_issues_and_the_old_one_is_retired_when_nobody_uses_it(
    office: Office, tmp_path: pathlib.Path
) -> None:
    new, old = next_authority(office)
    federation = federation_of(office)
    assert authorities.digest_of(federation.authority(CA).certificate) == new
    assert federation.authority_pem.count(b"BEGIN CERTIFICATE") == 2
    left = tuple(one for one in federation.trust.authorities if one != old)
    retire = proposing.propose_authorities(federation, left, b"")
    copy = sign_at(office.home, retire.proposal, GOV)
    office.store.close()  # `serve` is stopped
    with pytest.raises(ConfigError) as used:
        publish(office, copy)
    assert used.value.code == "authority_in_use"
    assert federation_of(office).trust.sequence == 2
    office.clock.now += 91 * 86400  # the members' certificates have run out
    publish(office, copy)
    after = federation_of(office)
    assert after.trust.authorities == (new,)
    assert after.authority_pem.count(b"BEGIN CERTIFICATE") == 1
    assert not (office.home / "authority" / "ca.key").exists()
    server = authorities.certificates.load_certificate(after.server_certificate_file.read_bytes())
    assert authorities.bundle.issued_by(server, after.authority(CA).certificate)


def test_members_take_the_chain_and_the_authorities_that_it_names(office: Office, tmp_path: pathlib.Path) -> None:
    home = tmp_path / "acme"
    assert following.run_follow(home, [], None)["trust_sequence"] == 1
    new, old = next_authority(office)
    assert following.run_follow(home, [], None)["trust_sequence"] == 2
    member = load_membership(home)
    assert [authorities.digest_of(one) for one in member.authorities] == [new, old]
    member.check_certificate(office.clock.now)
    retired = replace(office.in_force.trust.last, authorities=(old,))
    assert member.trust.authorities != retired.authorities
    office.in_force._now = (office.federation.trust_chain, office.federation.trust)  # the chain of before is served
    with pytest.raises(PeerError) as back:
        following.run_follow(home, [], None)
    assert back.value.code == "trust_rollback"
    assert load_membership(home).trust.sequence == 2


# --- another operator -------------------------------------------------------------------------------------------------


class Crash(Exception):
    """At a write to the disk, before it."""


def follow_through_crashes(home: pathlib.Path, copies: list[Proposal]) -> list[int]:
    """Dies before each write of `follow` in turn; how long the chain was that the home had then. A home that died holds
    the roster before with the chain before, or a roster in force under the chain that is new.
    """
    real, lengths = durable.write_file, []
    for writes in range(10):
        left = [writes]

        def write(path: pathlib.Path, data: bytes, left: list[int] = left) -> None:
            if not left[0]:
                raise Crash
            left[0] -= 1
            real(path, data)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(durable, "write_file", write)
            try:
                following.run_follow(home, copies, None)
                return lengths
            except Crash:
                pass
        member = load_membership(home)
        PinnedTrust(member, b"")  # what every start does
        lengths.append(member.trust.sequence)
        roster_in_force(member.signed_roster, member.trust)
    raise AssertionError("it never came through")


def test_a_new_operator_takes_over_and_the_old_coordinator_is_refused(office: Office, tmp_path: pathlib.Path) -> None:
    governed_by_members(office, tmp_path)
    office.store.close()
    import shutil

    home = tmp_path / "successor"
    shutil.copytree(office.home, home, ignore=shutil.ignore_patterns("governance"))
    text = (home / "federation.json").read_text().replace(str(office.home / "governance"), "/nowhere/governance")
    (home / "federation.json").write_text(text)
    federation, own = succeeding.prepare_handover(founding.load_federation(home), CA, "127.0.0.1:9443", office.world)
    examined = proposing.propose_coordinator(federation, own)
    assert "COORDINATOR REPLACED" in "\n".join(describe(examined))
    copies = [sign_at(tmp_path / org, examined.proposal) for org in ORGS[:2]]
    with pytest.raises(ConfigError) as elsewhere:
        publish(office, *copies)  # the old operator's home has no such key
    assert elsewhere.value.code == "handover_missing"
    before = (home / "operator" / "client.pem").read_bytes()
    examined = publishing.examine_copies(federation, copies)
    for _ in range(2):  # a publication that broke off is repeated
        succeeding.publish(founding.load_federation(home), examined, None, office, office.world)
    after = founding.load_federation(home)
    assert (after.address, after.trust.sequence) == ("127.0.0.1:9443", 3)
    assert signing.public_key(after.protocol_key()) == after.trust.coordinator == own
    assert (home / "operator" / "client.pem").read_bytes() != before
    assert not (home / "handover").exists()
    check_own_key(after, roster_in_force(after.last_roster(), after.trust))
    with pytest.raises(ConfigError) as replaced:
        check_own_key(office.federation, roster_in_force(after.last_roster(), after.trust))
    assert replaced.value.code == "coordinator_replaced"
    member = tmp_path / "acme"
    report = following.run_follow(member, copies, "127.0.0.1:9443")
    assert (report["trust_sequence"], load_membership(member).address) == (3, "127.0.0.1:9443")
    following.run_follow(member, copies, None)
    pinned = load_membership(member)
    assert roster_in_force(pinned.signed_roster, pinned.trust).coordinator_key == own
    lengths = follow_through_crashes(tmp_path / "borealis", copies)
    assert set(lengths) == {1, 3}, "both sides of the write that pins"
    settled = load_membership(tmp_path / "borealis")
    assert roster_in_force(settled.signed_roster, settled.trust).coordinator_key == own
    with pytest.raises(PeerError) as few:
        following.run_follow(tmp_path / "cygnus", copies[:1], None)
    assert few.value.code == "too_few_signatures"
    assert load_membership(tmp_path / "cygnus").trust.sequence == 1


def test_org_ids_in_cards_are_ids() -> None:
    with pytest.raises(PeerError):
        Card.decode(b'{"key":"' + b"00" * 32 + b'","org_id":"\\u001b[2J","sig":"' + b"00" * 64 + b'"}')
    assert Card.decode(Card(bytes(32)).encode()) == Card(bytes(32))
    assert OrgId("acme") in ORGS
