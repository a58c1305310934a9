"""A federation with several governance keys, made of nothing but keys by name: for the tests of who may decide."""

import pathlib
from collections.abc import Sequence
from dataclasses import replace

from fedveil_common.crypto import signing
from fedveil_common.crypto.labels import h
from fedveil_common.ids import COORDINATOR, FederationId, OrgId
from fedveil_common.messages import RosterNotice
from fedveil_common.pki import governance, holders, invites
from fedveil_common.pki.governance import GovernanceSet, Signed, Trust, TrustDocument
from fedveil_common.pki.invites import Invite, Role
from fedveil_common.roster import Member, Roster, sign_roster
from fedveil_common.secret import PrivateKey
from fedveil_participant.membership import Membership
from fedveil_participant.pinned_trust import PinnedTrust

FEDERATION = FederationId("hospitals-0123456789abcdef")
BANKS = FederationId("banks-0123456789abcdef")
ORGS = ("acme", "borealis", "cygnus")
CA = (h("test-authority", b"first"),)


def key(name: str) -> PrivateKey:
    return PrivateKey(h("test-key", name.encode()))


def public(name: str) -> bytes:
    return signing.public_key(key(name))


def keys(names: str) -> list[PrivateKey]:
    """The keys of names with blanks between."""
    return [key(name) for name in names.split()]


def chosen(k: int, names: str) -> GovernanceSet:
    return GovernanceSet(k, tuple(public(name) for name in names.split()))


def head(name: str = "coordinator") -> Member:
    return Member(COORDINATOR, Role.COORDINATOR, public(name))


def member(org: str, signers: str = "g1 g2", federation: FederationId = FEDERATION, token: str = "") -> Member:
    token = token or org
    invite = Invite(
        federation,
        h("test-token", token.encode())[:16],
        OrgId(org),
        Role.PARTICIPANT,
        public(f"invite {token}"),
        2**40,
        b"",
    )
    proof = invites.make_proof(federation, invite.token_id, b"request", key(f"invite {token}"), key(f"protocol {org}"))
    blob = invites.sign_invite(invite, keys(signers))
    return Member(OrgId(org), Role.PARTICIPANT, public(f"protocol {org}"), blob, proof)


def roster(version: int, *extra: Member, coordinator: str = "coordinator", orgs: Sequence[str] = ORGS) -> Roster:
    return Roster(FEDERATION, version, (head(coordinator), *(member(org) for org in orgs), *extra))


def signed(it: Roster, names: str) -> bytes:
    return sign_roster(it, keys(names)).encode()


FIRST = TrustDocument(FEDERATION, 1, chosen(2, "g1 g2 g3"), CA, public("coordinator"))
PRINT = governance.fingerprint(FEDERATION, FIRST.governance)
FIRST_LINK = governance.sign_trust(FIRST, keys("g1 g2"))
ROSTER = roster(1)


def after(document: TrustDocument, pinned: Roster = ROSTER, **changes: object) -> TrustDocument:
    """The document that follows, `changes` apart the same."""
    following = replace(
        document,
        sequence=document.sequence + 1,
        previous=document.digest,
        roster_version=pinned.version,
        roster_hash=pinned.hash,
    )
    return replace(following, **changes)  # type: ignore[arg-type]


def links(*pairs: tuple[TrustDocument, str]) -> list[Signed]:
    """The first link, and these behind it."""
    return [FIRST_LINK, *(governance.sign_trust(document, keys(names)) for document, names in pairs)]


def chain(*pairs: tuple[TrustDocument, str]) -> bytes:
    return governance.encode_chain(links(*pairs))


def trust(*pairs: tuple[TrustDocument, str]) -> Trust:
    return governance.verify_chain(chain(*pairs), PRINT)


def holder(org: str, name: str, federation: FederationId = FEDERATION) -> governance.Holder:
    return holders.attest(federation, OrgId(org), public(name), key(f"protocol {org}"))


class Participant:
    """acme, with what it pinned; `saved` are the chains that it wrote to its disk."""

    def __init__(self, pinned_chain: bytes | None = None, pinned: Roster = ROSTER) -> None:
        self.saved: list[bytes] = []
        membership = Membership(
            pathlib.Path("/nowhere"),
            FEDERATION,
            OrgId("acme"),
            Role.PARTICIPANT,
            "127.0.0.1:1",
            PRINT,
            b"",
            b"",
            chain() if pinned_chain is None else pinned_chain,
            b"",
        )
        self.pin = PinnedTrust(membership, public("protocol acme"), lambda home, data, roster: self.saved.append(data))
        self.roster = pinned

    def told(self, signed_roster: bytes, trust_chain: bytes) -> Roster:
        self.roster = self.pin.accept(RosterNotice(signed_roster, trust_chain), self.roster)
        return self.roster
