"""The roster: nobody but governance makes a member, and nobody rolls the membership back (FLSA/1 A7, A18)."""

import dataclasses
from collections.abc import Callable

import pytest
from fedveil_common import jcs
from fedveil_common.crypto import signing
from fedveil_common.crypto.labels import h
from fedveil_common.errors import ConfigError, PeerError
from fedveil_common.ids import COORDINATOR, FederationId, OrgId
from fedveil_common.pki import invites
from fedveil_common.pki.governance import GovernanceSet, Signed, Trust, TrustDocument, fingerprint, sign_body
from fedveil_common.pki.invites import Invite, JoinProof, Role
from fedveil_common.roster import ROSTER_LABEL, Member, Roster, accept_roster, sign_roster, verify_roster
from fedveil_common.secret import PrivateKey
from fedveil_coordinator.membership import next_roster, sign_next, void_tokens

FEDERATION = FederationId("hospitals-0123456789abcdef")
EXPIRES = 1_800_000_000


def key(name: str) -> PrivateKey:
    return PrivateKey(h("test-key", name.encode()))


def public(name: str) -> bytes:
    return signing.public_key(key(name))


GOVERNORS = ("governor one", "governor two", "governor three")
GOVERNANCE = GovernanceSet(1, (public(GOVERNORS[0]),))
COORDINATOR_ENTRY = Member(COORDINATOR, Role.COORDINATOR, public("coordinator"))


def invite_for(
    org: str,
    token: str = "",
    *,
    federation: FederationId = FEDERATION,
    role: Role = Role.PARTICIPANT,
    replaces: bytes = b"",
) -> Invite:
    token = token or org
    token_id = h("test-token", token.encode())[:16]
    return Invite(federation, token_id, OrgId(org), role, public(f"invite {token}"), EXPIRES, replaces)


def member(
    org: str,
    invite: Invite | None = None,
    *,
    protocol: str = "",
    token: str = "",
    signer: str = GOVERNORS[0],
    prover: str = "",
) -> Member:
    """A member with a whole chain; each keyword breaks one link of it."""
    invite = invite or invite_for(org, token)
    protocol = protocol or f"protocol {org}"
    prover = prover or f"invite {token or org}"
    proof = invites.make_proof(invite.federation_id, invite.token_id, b"request", key(prover), key(protocol))
    return Member(
        OrgId(org),
        invite.role,
        public(protocol),
        invites.sign_invite(invite, [key(name) for name in signer.split("+")]),
        proof,
    )


def roster(*members: Member, version: int = 1, federation: FederationId = FEDERATION) -> Roster:
    return Roster(federation, version, (COORDINATOR_ENTRY, *members))


def signed(it: Roster, *names: str) -> bytes:
    return sign_roster(it, [key(name) for name in names or GOVERNORS[:1]]).encode()


def refused(data: bytes, governance: GovernanceSet = GOVERNANCE) -> str:
    with pytest.raises(PeerError) as caught:
        verify_roster(data, governance)
    return caught.value.code


# --- what governance signed comes back --------------------------------------------------------------------------------


def test_a_signed_roster_comes_back_whole() -> None:
    made = roster(member("globex"), member("acme"))
    found = verify_roster(signed(made), GOVERNANCE)
    assert found == made
    assert found.hash == h("roster", made.body)
    assert found.participants == ("acme", "globex")
    assert found.key_of(OrgId("acme")) == public("protocol acme")
    assert found.coordinator_key == public("coordinator")
    with pytest.raises(PeerError) as caught:
        found.key_of(OrgId("initech"))
    assert caught.value.code == "not_in_roster"


def test_the_body_does_not_depend_on_the_order_of_entries() -> None:
    assert roster(member("acme"), member("globex")).hash == roster(member("globex"), member("acme")).hash


def test_every_entry_is_bound_by_the_hash() -> None:
    one = roster(member("acme"))
    others = [
        roster(member("acme"), version=2),
        roster(),
        roster(member("acme", protocol="another")),
        roster(member("acme", token="another")),
        Roster(FEDERATION, 1, (Member(COORDINATOR, Role.COORDINATOR, public("another")), member("acme"))),
    ]
    assert len({one.hash, *(other.hash for other in others)}) == len(others) + 1


# --- forgeries --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["coordinator", "protocol acme", "invite acme", "somebody"])
def test_a_roster_signed_by_another_key_is_refused(name: str) -> None:
    assert refused(signed(roster(member("acme")), name)) == "not_governance"


def test_a_signature_beside_the_right_one_spoils_the_roster() -> None:
    assert refused(signed(roster(member("acme")), GOVERNORS[0], "coordinator")) == "not_governance"


def test_a_signature_under_another_label_is_none() -> None:
    body = roster(member("acme")).body
    made = signing.sign_bytes(key(GOVERNORS[0]), "trust", body)
    right = Signed.decode(signed(roster(member("acme"))))
    data = dataclasses.replace(right, signatures=(dataclasses.replace(right.signatures[0], sig=made),)).encode()
    assert refused(data) == "bad_signature"


def test_k_distinct_governors_are_needed() -> None:
    governance = GovernanceSet(2, tuple(public(name) for name in GOVERNORS))
    made = roster(member("acme", signer=f"{GOVERNORS[0]}+{GOVERNORS[2]}"))
    assert refused(signed(made, GOVERNORS[0]), governance) == "too_few_signatures"
    assert refused(signed(made, GOVERNORS[0], GOVERNORS[0]), governance) == "too_few_signatures"
    assert refused(dataclasses.replace(Signed.decode(signed(made)), signatures=()).encode(), governance) == (
        "too_few_signatures"
    )
    assert verify_roster(signed(made, GOVERNORS[1], GOVERNORS[2]), governance) == made
    for few in (GOVERNORS[0], f"{GOVERNORS[0]}+{GOVERNORS[0]}"):
        by_one = signed(roster(member("acme", signer=few)), GOVERNORS[1], GOVERNORS[2])
        assert refused(by_one, governance) == "invite_not_governance"


def test_a_changed_body_is_refused() -> None:
    right = Signed.decode(signed(roster(member("acme"))))
    changed = dataclasses.replace(right, body=right.body.replace(b'"version":1', b'"version":2'))
    assert refused(changed.encode()) == "bad_signature"


@pytest.mark.parametrize("signer", ["coordinator", "invite acme", "somebody"])
def test_an_invite_that_governance_did_not_sign_makes_no_member(signer: str) -> None:
    assert refused(signed(roster(member("acme", signer=signer)))) == "invite_not_governance"


@pytest.mark.parametrize("prover", ["coordinator", "protocol acme", "invite globex", GOVERNORS[0]])
def test_a_proof_by_another_key_makes_no_member(prover: str) -> None:
    assert refused(signed(roster(member("acme", prover=prover)))) == "bad_join_proof"


def test_a_protocol_key_that_the_joiner_does_not_hold_makes_no_member() -> None:
    """The coordinator puts its own key into an honest member's entry."""
    honest = member("acme")
    assert refused(signed(roster(dataclasses.replace(honest, protocol_key=public("mallory"))))) == "bad_join_proof"
    assert honest.joined is not None
    invite = invite_for("acme")
    fields = (FEDERATION.encode(), invite.token_id, honest.joined.csr_digest, public("mallory"))
    own = signing.sign_bytes(key("mallory"), invites.JOIN_LABEL, *fields)
    half = JoinProof(honest.joined.csr_digest, honest.joined.invite_sig, own)
    entry = dataclasses.replace(honest, protocol_key=public("mallory"), joined=half)
    assert refused(signed(roster(entry))) == "bad_join_proof"


@pytest.mark.parametrize("field", ["csr_digest", "invite_sig", "key_sig"])
def test_a_changed_proof_is_refused(field: str) -> None:
    honest = member("acme")
    assert honest.joined is not None
    spoilt = bytes([getattr(honest.joined, field)[0] ^ 1]) + getattr(honest.joined, field)[1:]
    changed = dataclasses.replace(honest.joined, **{field: spoilt})
    assert refused(signed(roster(dataclasses.replace(honest, joined=changed)))) == "bad_join_proof"


def test_one_invite_makes_one_member() -> None:
    one = member("acme")
    two = member("globex", invite_for("globex", "acme"), token="acme")  # the same token id and invite key
    assert refused(signed(roster(one, two))) == "invite_reused"
    same_key = dataclasses.replace(invite_for("globex"), invite_key=public("invite acme"))
    assert refused(signed(roster(one, member("globex", same_key, prover="invite acme")))) == "invite_reused"


def test_an_entry_stands_on_the_invite_of_its_own_name_role_and_federation() -> None:
    entry = member("acme")
    assert refused(signed(roster(dataclasses.replace(entry, org_id=OrgId("globex"))))) == "bad_roster"
    assert refused(signed(roster(dataclasses.replace(entry, role=Role.OPERATOR)))) == "bad_roster"
    foreign = member("acme", invite_for("acme", federation=FederationId("banks-0123456789abcdef")))
    assert refused(signed(roster(foreign))) == "wrong_federation"


@pytest.mark.parametrize("missing", ["invite", "joined"])
def test_an_entry_without_its_proof_is_refused(missing: str) -> None:
    entry = dataclasses.replace(member("acme"), **{missing: None})
    assert refused(signed(roster(entry))) == "bad_roster"


def test_no_invite_names_the_federations_own_roles() -> None:
    body = dataclasses.replace(invite_for("acme"), org_id=OrgId("coordinator")).body
    blob = sign_body(body, invites.INVITE_LABEL, [key(GOVERNORS[0])])
    with pytest.raises(PeerError) as caught:
        invites.verify_invite(blob, (GOVERNANCE,))
    assert caught.value.code == "bad_document"


def test_an_earlier_governance_set_vouches_for_invites_but_not_for_rosters() -> None:
    now = GovernanceSet(1, (public(GOVERNORS[1]),))
    made = roster(member("acme", signer=GOVERNORS[0]))
    assert verify_roster(signed(made, GOVERNORS[1]), now, (GOVERNANCE,)) == made
    assert refused(signed(made, GOVERNORS[1]), now) == "invite_not_governance"
    with pytest.raises(PeerError) as caught:
        verify_roster(signed(made, GOVERNORS[0]), now, (GOVERNANCE,))
    assert caught.value.code == "not_governance"


# --- form -------------------------------------------------------------------------------------------------------------


def forged(change: Callable[[dict[str, jcs.Json]], None], *, canonical: bool = True) -> bytes:
    """A body changed before governance signs it: only the reader's own checks stand in its way."""
    value = jcs.loads(roster(member("acme"), member("globex")).body)
    assert isinstance(value, dict)
    change(value)
    body = jcs.dumps(value) if canonical else jcs.dumps(value) + b" "
    return sign_body(body, ROSTER_LABEL, [key(GOVERNORS[0])]).encode()


def entries(value: dict[str, jcs.Json]) -> list[jcs.Json]:
    found = value["members"]
    assert isinstance(found, list)
    return found


def entry_of(value: dict[str, jcs.Json], index: int) -> dict[str, jcs.Json]:
    found = entries(value)[index]
    assert isinstance(found, dict)
    return found


FORMS: dict[str, tuple[Callable[[dict[str, jcs.Json]], None], str]] = {
    "unsorted": (lambda value: entries(value).reverse(), "bad_document"),
    "twice the same name": (lambda value: entries(value).append(entries(value)[0]), "bad_roster"),
    "one key for two": (
        lambda value: entry_of(value, 2).update(protocol_key=entry_of(value, 0)["protocol_key"]),
        "bad_roster",
    ),
    "no coordinator": (lambda value: entries(value).pop(1), "bad_roster"),
    "version 0": (lambda value: value.update(version=0), "bad_document"),
    "version of text": (lambda value: value.update(version="1"), "bad_document"),
    "an unknown field": (lambda value: value.update(more=1), "bad_document"),
    "no members": (lambda value: value.update(members=None), "bad_document"),
    "unknown role": (lambda value: entry_of(value, 0).update(role="auditor"), "bad_document"),
    "a bad name": (lambda value: entry_of(value, 0).update(org_id="../acme"), "bad_document"),
    "a short key": (lambda value: entry_of(value, 0).update(protocol_key="00" * 31), "bad_document"),
    "upper-case hex": (lambda value: entry_of(value, 0).update(protocol_key="AB" * 32), "bad_document"),
}


@pytest.mark.parametrize("name", FORMS)
def test_a_body_in_any_other_form_is_refused_even_if_signed(name: str) -> None:
    change, code = FORMS[name]
    assert refused(forged(change)) == code


def test_a_body_that_is_not_canonical_is_refused_even_if_signed() -> None:
    assert verify_roster(forged(lambda value: None), GOVERNANCE).version == 1  # the forger's tool itself is sound
    assert refused(forged(lambda value: None, canonical=False)) == "bad_document"


@pytest.mark.parametrize("data", [b"", b"{}", b"[]", b"\xff", b'{"body":"{}","signatures":[]}', b"[" * 100_000])
def test_junk_is_no_roster(data: bytes) -> None:
    assert refused(data) in {"bad_document", "too_few_signatures"}


# --- succession -------------------------------------------------------------------------------------------------------


def not_accepted(pinned: Roster | None, new: Roster, me: str | None = None, my_key: bytes | None = None) -> str:
    with pytest.raises(PeerError) as caught:
        accept_roster(pinned, new, me=None if me is None else OrgId(me), my_key=my_key)
    return caught.value.code


def test_no_rollback_no_fork_no_other_federation() -> None:
    two = roster(member("acme"), version=2)
    assert not_accepted(two, roster(member("acme"))) == "roster_rollback"
    assert not_accepted(two, roster(version=2)) == "roster_fork"
    other = roster(version=3, federation=FederationId("banks-0123456789abcdef"))
    assert not_accepted(two, other) == "wrong_federation"
    with pytest.raises(PeerError) as caught:
        accept_roster(None, other, federation_id=FEDERATION)
    assert caught.value.code == "wrong_federation"
    assert accept_roster(two, two) is two
    three = roster(version=3)
    assert accept_roster(two, three, me=OrgId("acme"), my_key=public("protocol acme")) is three  # I was revoked
    assert accept_roster(None, two) is two


def test_a_roster_that_lists_me_under_another_key_is_refused() -> None:
    new = roster(member("acme"))
    assert not_accepted(None, new, "acme", public("another")) == "roster_lists_other_key"
    assert accept_roster(None, new, me=OrgId("acme"), my_key=public("protocol acme")) is new


def test_a_listed_members_invite_is_void_for_another_key() -> None:
    again = member("acme", protocol="stolen")
    assert not_accepted(roster(member("acme")), roster(again, version=2)) == "invite_reused"


# --- the operator's next version --------------------------------------------------------------------------------------


def test_the_next_version_adds_the_joined_and_drops_the_revoked() -> None:
    one = roster()
    two = next_roster(one, [member("acme"), member("globex")])
    assert (two.version, two.participants) == (2, ("acme", "globex"))
    assert next_roster(two, [member("acme")]) is two  # nothing changed: no new version
    three = next_roster(two, [member("acme"), member("globex")], [OrgId("acme")])
    assert (three.version, three.participants) == (3, ("globex",))
    dead = void_tokens(two, three)
    assert dead == (invite_for("acme").token_id,)
    with pytest.raises(PeerError) as caught:
        next_roster(three, [member("acme")], (), dead)
    assert caught.value.code == "invite_void"


def test_a_key_is_replaced_only_by_an_invite_that_names_it() -> None:
    two = next_roster(roster(), [member("acme")])
    for replaces in (b"", invites.key_digest(public("another"))):
        new = member("acme", invite_for("acme", "second", replaces=replaces), protocol="new", token="second")
        with pytest.raises(PeerError) as caught:
            next_roster(two, [new])
        assert caught.value.code == "rekey_mismatch"
    right = invite_for("acme", "second", replaces=invites.key_digest(public("protocol acme")))
    three = next_roster(two, [member("acme", right, protocol="new", token="second")])
    assert three.key_of(OrgId("acme")) == public("new")
    assert accept_roster(two, verify_roster(signed(three), GOVERNANCE)) == three


def test_the_operator_signs_only_what_participants_will_accept() -> None:
    first = TrustDocument(FEDERATION, 1, GOVERNANCE, (bytes(32),), public("coordinator"))
    trust = Trust(FEDERATION, fingerprint(FEDERATION, GOVERNANCE), (first,))
    one = roster()
    two = next_roster(one, [member("acme")])
    assert verify_roster(sign_next(one, two, trust, [key(GOVERNORS[0])]), GOVERNANCE) == two
    with pytest.raises(ConfigError) as wrong:
        sign_next(one, two, trust, [key("coordinator")])
    assert wrong.value.code == "not_a_governance_key"
    with pytest.raises(PeerError) as unproven:
        sign_next(one, next_roster(one, [member("acme", prover="coordinator")]), trust, [key(GOVERNORS[0])])
    assert unproven.value.code == "bad_join_proof"
    with pytest.raises(PeerError) as back:
        sign_next(two, one, trust, [key(GOVERNORS[0])])
    assert back.value.code == "roster_rollback"
