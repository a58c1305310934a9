"""What the operator decides about membership: invites and the next roster. Pure; runs in the operator's process.

Promise: the next version holds exactly the members whose chain governance -> invite -> protocol key checks out here,
whatever the coordinator's draft says; a member leaves by revocation and changes its key by a re-key invite only.
"""

import base64
import binascii
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from fedveil_common import jcs
from fedveil_common.crypto import signing
from fedveil_common.errors import ConfigError, PeerError
from fedveil_common.ids import OrgId, check_name
from fedveil_common.limits import MAX_DOCUMENT
from fedveil_common.pki import documents, invites
from fedveil_common.pki.governance import GovernanceSet, Signed, Trust
from fedveil_common.pki.invites import Invite, Role, Token
from fedveil_common.pki.joining import decode_proof, read_role
from fedveil_common.ports import Clock, Entropy
from fedveil_common.roster import MAX_ENTRIES, Member, Roster, sign_roster
from fedveil_common.secret import PrivateKey
from fedveil_common.succession import check_next, roster_in_force

INVITE_S = 24 * 3600
"""How long an invite may be used."""


@dataclass(frozen=True, slots=True)
class NewInvite:
    """`token` goes to the organisation (secret: it holds the invite's private key), `signed` to the coordinator.

    `signed` carries the signatures of the keys that were given: with k > 1 others have to sign it before it counts.
    """

    token: str
    signed: Signed
    expires: int

    def __repr__(self) -> str:
        return f"NewInvite(<redacted>, expires={self.expires})"


def make_invite(
    trust: Trust,
    address: str,
    org: str,
    governance_keys: Sequence[PrivateKey],
    clock: Clock,
    entropy: Entropy,
    *,
    replaces: bytes = b"",
    role: Role = Role.PARTICIPANT,
) -> NewInvite:
    """An invite for `org`, signed with these governance keys; the invite's key pair is made here.

    `address`: HOST:PORT of the coordinator. `replaces`: the protocol key (32 bytes) that a re-key retires.
    Raises ConfigError `bad_name`, `reserved_name`, `bad_address`, `not_a_governance_key`.
    """
    org_id = OrgId(check_name(org, "the organisation"))
    if org_id in invites.RESERVED:
        raise ConfigError("reserved_name", f"{org_id} is a name of the federation itself", next_step="choose another")
    invites.split_address(address)
    for key in governance_keys:
        check_key(trust.governance, key)
    token_key = PrivateKey(entropy.take(32))
    token_id = entropy.take(invites.TOKEN_ID_BYTES)
    expires = int(clock.wall_s()) + INVITE_S
    old = invites.key_digest(replaces) if replaces else b""
    invite = Invite(trust.federation_id, token_id, org_id, role, signing.public_key(token_key), expires, old)
    token = Token(address, trust.fingerprint, token_id, token_key)
    return NewInvite(invites.format_token(token), invites.sign_invite(invite, governance_keys), expires)


def next_roster(
    current: Roster,
    joined: Sequence[Member],
    revoked: Iterable[OrgId] = (),
    void: Iterable[bytes] = (),
) -> Roster:
    """The version after `current`: without `revoked`, with `joined`; `current` itself if nothing changes.

    `joined` comes from the coordinator and is not believed: a listed member changes its key only on an invite that
    names the old one, and no invite in `void` (token ids of members removed earlier) counts again.
    Raises PeerError `rekey_mismatch`, `invite_void`, `bad_roster`.
    """
    gone, dead = set(revoked), set(void)
    kept = {member.org_id: member for member in current.members if member.org_id not in gone}
    for member in joined:
        if member.org_id in gone or kept.get(member.org_id) == member:
            continue
        if member.invite is None or member.role is Role.COORDINATOR:
            raise PeerError("bad_roster", f"{member.org_id} joined without an invite", peer=member.org_id)
        invite = invites.parse_invite(member.invite.body)
        if invite.token_id in dead:
            raise PeerError("invite_void", f"the invite of {member.org_id} was void before", peer=member.org_id)
        before = kept.get(member.org_id)
        if before is not None and invite.replaces != invites.key_digest(before.protocol_key):
            raise PeerError(
                "rekey_mismatch",
                f"{member.org_id} is listed under another key and its invite does not replace that key",
                peer=member.org_id,
                next_step=f"`fedveil invite {member.org_id} --rekey`, after a telephone call",
            )
        kept[member.org_id] = member
    members = tuple(sorted(kept.values(), key=lambda member: member.org_id))
    if members == current.members:
        return current
    try:
        return Roster(current.federation_id, current.version + 1, members)
    except ValueError as error:
        raise PeerError("bad_roster", str(error)) from error


def read_draft(text: str) -> tuple[Member, ...]:
    """The members of a coordinator's roster draft (`Operations.roster_draft`), believed in nothing yet.

    A JSON list of {org, role, protocol_key (hex), invite, proof (base64)}. PeerError `bad_document`, `malformed`.
    """
    what = "roster draft"
    try:
        rows = documents.rows(jcs.loads(text.encode("utf-8")), what, MAX_ENTRIES)
    except ValueError as error:
        raise documents.bad(what, "it is not JSON") from error
    members = []
    for row in rows:
        fields = documents.Fields(row, what, {"invite", "org", "proof", "protocol_key", "role"})
        members.append(
            Member(
                OrgId(fields.name("org")),
                read_role(fields.text("role", 64), what),
                fields.hex("protocol_key", 32),
                Signed.decode(_base64(fields.text("invite", MAX_DOCUMENT), what), "invite"),
                decode_proof(_base64(fields.text("proof", MAX_DOCUMENT), what)),
            )
        )
    return tuple(members)


def _base64(text: str, what: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise documents.bad(what, "a field is not base64") from error


def sign_next(current: Roster, following: Roster, trust: Trust, keys: Sequence[PrivateKey]) -> bytes:
    """`following` signed by governance, checked as every participant will check it before it is handed out.

    Raises what `check_next` and `succession.roster_in_force` raise; ConfigError `not_a_governance_key`.
    """
    for key in keys:
        check_key(trust.governance, key)
    check_next(current, following, trust)
    signed = sign_roster(following, keys).encode()
    roster_in_force(signed, trust)
    return signed


def void_tokens(current: Roster, following: Roster) -> tuple[bytes, ...]:
    """Token ids of entries of `current` that `following` no longer holds: their invites never count again."""
    kept = {member.invite.body for member in following.members if member.invite is not None}
    gone = [m.invite.body for m in current.members if m.invite is not None and m.invite.body not in kept]
    return tuple(sorted(invites.parse_invite(body).token_id for body in gone))


def check_key(governance: GovernanceSet, key: PrivateKey) -> None:
    """Returns if `key` is of the set; ConfigError `not_a_governance_key`."""
    if signing.public_key(key) not in governance.keys:
        raise ConfigError(
            "not_a_governance_key",
            "the governance key in this folder is not one of the federation's",
            next_step="use the folder that `fedveil init` made",
        )
