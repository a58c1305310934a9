"""The roster: who is a member, under which protocol key, and the proof of it, in one signed document.

Promise: a participant that pinned the governance set can check every entry's chain governance -> invite -> protocol
key; neither the coordinator nor the certificate authority can add, replace or remove an entry.
Invariant: entries are sorted by id; no two share an id, a protocol key, a token or an invite key.
Source: FLSA/1 sections 2.1, A7, A18 (docs/protocol.md): roster_hash = H("roster", body), signatures beside the body.
"""

import functools
from collections.abc import Sequence
from dataclasses import dataclass

from fedveil_common import jcs
from fedveil_common.crypto.labels import h
from fedveil_common.errors import PeerError
from fedveil_common.ids import COORDINATOR, FederationId, OrgId
from fedveil_common.pki import documents, invites
from fedveil_common.pki.governance import GovernanceSet, Signed, sign_body, verify_body
from fedveil_common.pki.invites import JoinProof, Role
from fedveil_common.secret import PrivateKey

__all__ = ["JoinProof", "Member", "Role", "Roster", "SignedRoster", "accept_roster", "sign_roster", "verify_roster"]

ROSTER_LABEL = "roster/sig"
MAX_ENTRIES = 1024
"""Entries of a roster (a cohort is smaller: limits.MAX_MEMBERS)."""

SignedRoster = Signed
"""A roster body as received, the governance signatures beside it; `encode()` and `decode(bytes)`."""


@dataclass(frozen=True, slots=True)
class Member:
    """One entry. `protocol_key`: 32-byte Ed25519 public key; invite and proof are None for the coordinator only."""

    org_id: OrgId
    role: Role
    protocol_key: bytes
    invite: Signed | None = None
    joined: JoinProof | None = None


@dataclass(frozen=True, slots=True)
class Roster:
    """One version of the membership, version counting from 1. Public to every member.

    Construction sorts the entries and raises ValueError for repeated ids or keys or a missing coordinator; it checks
    no signature: whatever comes from outside goes through `verify_roster`.
    """

    federation_id: FederationId
    version: int
    members: tuple[Member, ...]

    def __post_init__(self) -> None:
        """One name, one key, one coordinator."""
        object.__setattr__(self, "members", tuple(sorted(self.members, key=lambda member: member.org_id)))
        if self.version < 1:
            raise ValueError("roster versions count from 1")
        if len({member.org_id for member in self.members}) != len(self.members):
            raise ValueError("a roster names a member twice")
        if len({member.protocol_key for member in self.members}) != len(self.members):
            raise ValueError("two members of a roster share a protocol key")
        if any(len(member.protocol_key) != 32 for member in self.members):
            raise ValueError("a protocol key is 32 bytes")
        heads = [member.org_id for member in self.members if member.role is Role.COORDINATOR]
        if heads != [COORDINATOR] or len(self.members) > MAX_ENTRIES:
            raise ValueError(f"a roster has one coordinator, named so, and at most {MAX_ENTRIES} entries")

    @property
    def body(self) -> bytes:
        """The canonical bytes that governance signs."""
        return _body(self)

    @property
    def hash(self) -> bytes:
        """H("roster", body), 32 bytes: what a manifest binds."""
        return h("roster", _body(self))

    @property
    def participants(self) -> tuple[OrgId, ...]:
        """The organisations, byte-sorted."""
        return tuple(member.org_id for member in self.members if member.role is Role.PARTICIPANT)

    @property
    def coordinator_key(self) -> bytes:
        """The coordinator's Ed25519 protocol key."""
        return self.key_of(COORDINATOR)

    def key_of(self, org_id: OrgId) -> bytes:
        """The protocol key (32 bytes) of a member; PeerError `not_in_roster` for anybody else."""
        for member in self.members:
            if member.org_id == org_id:
                return member.protocol_key
        raise PeerError("not_in_roster", f"{org_id} is not in roster version {self.version}", peer=org_id)


@functools.lru_cache(maxsize=32)
def _body(roster: Roster) -> bytes:
    return jcs.dumps(
        {
            "federation_id": roster.federation_id,
            "members": [_member_json(member) for member in roster.members],
            "version": roster.version,
        }
    )


def sign_roster(roster: Roster, keys: Sequence[PrivateKey]) -> SignedRoster:
    """`roster` under these governance keys. Runs in the operator's process, never in the coordinator's."""
    return sign_body(roster.body, ROSTER_LABEL, keys)


def verify_roster(signed: bytes, trust: GovernanceSet, earlier: Sequence[GovernanceSet] = ()) -> Roster:
    """The roster in `signed` if `trust` signed it and every entry's chain holds.

    `trust` is the governance set in force; an invite may also come from a set in force before (`earlier`). Whoever has
    a trust chain asks `succession`, which knows the set of each version.
    Raises PeerError `bad_document`, `not_governance`, `too_few_signatures`, `bad_signature`, and those of
    `read_roster`.
    """
    document = Signed.decode(signed, "signed roster")
    verify_body(document, ROSTER_LABEL, trust, "roster")
    return read_roster(document.body, (trust, *earlier))


def read_roster(body: bytes, sets: Sequence[GovernanceSet]) -> Roster:
    """The roster in `body` if every entry's chain holds; who signed the roster itself is not asked.

    Raises PeerError `bad_document`, `bad_roster`, `invite_not_governance`, `invite_reused`, `bad_join_proof`,
    `wrong_federation`.
    """
    roster = _parse(body)
    tokens: set[bytes] = set()
    invite_keys: set[bytes] = set()
    for member in roster.members:
        if member.role is Role.COORDINATOR:
            continue
        invite = _check_chain(member, roster.federation_id, sets)
        if invite.token_id in tokens or invite.invite_key in invite_keys:
            raise PeerError("invite_reused", f"the invite of {member.org_id} also stands in another entry")
        tokens.add(invite.token_id)
        invite_keys.add(invite.invite_key)
    return roster


def claimed_version(body: bytes) -> int:
    """The version that a body claims: which set must have signed it. Nothing is verified. PeerError `bad_document`."""
    fields = documents.Fields(documents.canonical(body, "roster"), "roster", {"federation_id", "members", "version"})
    return fields.integer("version")


def accept_roster(
    pinned: Roster | None,
    new: Roster,
    *,
    federation_id: FederationId | None = None,
    me: OrgId | None = None,
    my_key: bytes | None = None,
) -> Roster:
    """`new` (already verified) if it may follow `pinned`: same federation, no rollback, no second body of one version.

    `me` and `my_key`: a roster that lists me under another key is refused: someone acts in my name. Only the key under
    which `pinned` lists me may stand there still: I have joined anew, and no roster says so yet. A roster without me is
    accepted (I was revoked, or am not yet listed). A member once listed keeps its key under its invite: the invite is
    void for another.
    Raises PeerError `wrong_federation`, `roster_rollback`, `roster_fork`, `roster_lists_other_key`, `invite_reused`.
    """
    expected = pinned.federation_id if pinned is not None else federation_id
    if expected is not None and new.federation_id != expected:
        raise PeerError("wrong_federation", f"the roster belongs to {new.federation_id}, mine to {expected}")
    if pinned is not None:
        _check_succession(pinned, new)
    mine = {my_key, *(member.protocol_key for member in (pinned.members if pinned else ()) if member.org_id == me)}
    for member in new.members:
        if me is not None and my_key is not None and member.org_id == me and member.protocol_key not in mine:
            raise PeerError(
                "roster_lists_other_key",
                f"roster version {new.version} lists {me} under another key than mine",
                next_step="telephone the operator: someone may have joined in your name",
            )
    return new


def _check_succession(pinned: Roster, new: Roster) -> None:
    if new.version < pinned.version:
        raise PeerError("roster_rollback", f"roster version {new.version} is offered, {pinned.version} is pinned")
    if new.version == pinned.version and new.hash != pinned.hash:
        raise PeerError(
            "roster_fork",
            f"two different rosters call themselves version {new.version}",
            next_step="keep both and telephone the operator",
        )
    spent = {_token_id(member): member.protocol_key for member in pinned.members if member.invite is not None}
    for member in new.members:
        if member.invite is not None and spent.get(_token_id(member), member.protocol_key) != member.protocol_key:
            raise PeerError("invite_reused", f"{member.org_id} stands under a new key with an invite already used")


def _token_id(member: Member) -> bytes:
    return invites.parse_invite(member.invite.body).token_id if member.invite is not None else b""


def _check_chain(member: Member, federation_id: FederationId, sets: Sequence[GovernanceSet]) -> invites.Invite:
    if member.invite is None or member.joined is None:
        raise PeerError("bad_roster", f"{member.org_id} stands in the roster without invite and join proof")
    invite = invites.verify_invite(member.invite, sets)
    if invite.federation_id != federation_id:
        raise PeerError("wrong_federation", f"the invite of {member.org_id} is of federation {invite.federation_id}")
    if (invite.org_id, invite.role) != (member.org_id, member.role):
        raise PeerError("bad_roster", f"{member.org_id} ({member.role.value}) stands on the invite of {invite.org_id}")
    invites.verify_proof(member.joined, invite, member.protocol_key)
    return invite


# --- JSON -------------------------------------------------------------------------------------------------------------


def _member_json(member: Member) -> jcs.Json:
    invite, joined = member.invite, member.joined
    return {
        "invite": None if invite is None else invite.to_json(),
        "joined": None
        if joined is None
        else {
            "csr_digest": joined.csr_digest.hex(),
            "invite_sig": joined.invite_sig.hex(),
            "key_sig": joined.key_sig.hex(),
        },
        "org_id": member.org_id,
        "protocol_key": member.protocol_key.hex(),
        "role": member.role.value,
    }


def _parse(body: bytes) -> Roster:
    what = "roster"
    fields = documents.Fields(documents.canonical(body, what), what, {"federation_id", "members", "version"})
    members = tuple(_parse_member(row) for row in fields.rows("members", MAX_ENTRIES))
    try:
        roster = Roster(FederationId(fields.name("federation_id")), fields.integer("version"), members)
    except ValueError as error:
        raise PeerError("bad_roster", str(error)) from error
    documents.must_equal(roster.body, body, what)  # unsorted members end here
    return roster


def _parse_member(row: jcs.Json) -> Member:
    what = "roster entry"
    fields = documents.Fields(row, what, {"invite", "joined", "org_id", "protocol_key", "role"})
    try:
        role = Role(fields.text("role", 64))
    except ValueError as error:
        raise documents.bad(what, "no such role") from error
    invite = None if fields.value("invite") is None else Signed.from_json(fields.value("invite"), "invite")
    joined: JoinProof | None = None
    if fields.value("joined") is not None:
        parts = documents.Fields(fields.value("joined"), what, {"csr_digest", "invite_sig", "key_sig"})
        joined = JoinProof(parts.hex("csr_digest", 32), parts.hex("invite_sig", 64), parts.hex("key_sig", 64))
    return Member(OrgId(fields.name("org_id")), role, fields.hex("protocol_key", 32), invite, joined)
