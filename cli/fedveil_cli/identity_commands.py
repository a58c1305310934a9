"""What `init`, `invite`, `join`, `fingerprint` and `revoke` do, as functions on plain values; `run start` signs rosters
with `publish_next_roster`.

Promise: the governance key is opened here, in the operator's own process, used, and forgotten with the command; it is
never handed to a function of the coordinator's service. What is returned may be printed; only `invite` returns a secret
(the token).
"""

import pathlib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol

from fedveil_common import durable
from fedveil_common.database import FolderLock
from fedveil_common.errors import ConfigError
from fedveil_common.ids import OrgId, check_name
from fedveil_common.pki import governance, invites
from fedveil_common.roster import Member, Roster, accept_roster
from fedveil_common.secret import Passphrase, PrivateKey
from fedveil_common.succession import roster_in_force
from fedveil_coordinator import founding, membership
from fedveil_coordinator.store import FILE as COORDINATOR_DATABASE
from fedveil_participant import enrolment
from fedveil_participant.membership import load_membership
from fedveil_participant.store import FILE as JOURNAL
from fedveil_participant.store import ParticipantStore, journal_key, make_journal_key, open_store, seal_journal_key
from fedveil_participant.store.key import FILE as JOURNAL_KEY

from fedveil_cli.files import check_writable
from fedveil_cli.world import World

Report = dict[str, object]


class AdminClient(Protocol):
    """What these commands ask of a running coordinator; `admin_client.AdminClient` is it."""

    def register_invite(self, invite: bytes) -> int:
        """Hand in a governance-signed invite; how many keys it replaces."""
        ...

    def revoke(self, org: str, reason: str) -> tuple[int, int]:
        """(live sessions ended, still open)."""
        ...

    def roster_draft(self) -> tuple[bytes, bytes, str, list[str]]:
        """(current signed roster, trust chain, members as JSON list, revoked ids)."""
        ...

    def publish_roster(self, signed: bytes) -> int:
        """Make a signed roster current; its version."""
        ...

    def publish_trust(self, chain: bytes) -> int:
        """Make a longer trust chain the one in force; its length."""
        ...


def run_init(
    home: pathlib.Path,
    name: str,
    address: str,
    ca_passphrase: Passphrase,
    governance_passphrase: Passphrase,
    governance_dir: pathlib.Path | None,
    world: World,
) -> Report:
    """Found a federation. Raises what `founding.init` raises; ConfigError `data_folder_in_use`."""
    check_writable(home)
    durable.make_folder(home)
    with FolderLock(home):
        made = founding.init(
            home, name, address, ca_passphrase, governance_passphrase, governance_dir, world.entropy, world.clock
        )
    return {
        "federation_id": made.federation_id,
        "fingerprint": governance.fingerprint_text(made.fingerprint),
        "address": made.address,
        "membership": "membership rests on the operator",
    }


def run_fingerprint(home: pathlib.Path) -> Report:
    """The federation's fingerprint, from either side's folder. ConfigError `not_initialised`."""
    if (home / "participant.json").exists():
        member = load_membership(home)
        return _fingerprint(member.federation_id, member.fingerprint)
    federation = founding.load_federation(home)
    return _fingerprint(federation.federation_id, federation.trust.fingerprint)


class OpenedGovernance:
    """The governance key of one federation, opened once for several acts of one command, and gone with this object.

    `key` is None where this home cannot sign alone: then an act that needs a signature says how to collect them.
    """

    def __init__(self, federation: founding.Federation, key: PrivateKey | None) -> None:
        self._federation = federation
        self._key = key

    def invite(self, org: str, rekey: bool, admin: AdminClient, world: World) -> Report:
        """As `run_invite`."""
        org_id = OrgId(check_name(org, "the organisation"))
        if self._key is None:
            raise signatures_missing(self._federation, f"an invite for {org_id}", f"invite {org_id}")
        replaces = held_key(org_id, admin) if rekey else b""
        trust, address = self._federation.trust, self._federation.address
        made = membership.make_invite(trust, address, org, [self._key], world.clock, world.entropy, replaces=replaces)
        replaced = admin.register_invite(made.signed.encode())
        return {"org": org_id, "token": made.token, "expires": made.expires, "rekey": bool(replaced)}

    def publish_next_roster(self, admin: AdminClient) -> Report:
        """As `publish_next_roster`."""
        roster, added, removed = _publish(self._federation, self._key, admin)
        participants = list(roster.participants)
        return {"version": roster.version, "added": added, "removed": removed, "participants": participants}


def open_governance(home: pathlib.Path, governance_passphrase: Passphrase | None) -> OpenedGovernance:
    """The governance key of the federation in `home`, if it signs alone. SealedError `passphrase_missing`,
    `passphrase_wrong`.
    """
    federation = founding.load_federation(home)
    key = federation.governance_key(governance_passphrase) if federation.governs_alone else None
    return OpenedGovernance(federation, key)


def governs_alone(home: pathlib.Path) -> bool:
    """Whether the key in this home signs alone; True too where there is no federation, for the command to say so."""
    try:
        return founding.load_federation(home).governs_alone
    except ConfigError:
        return True


def signatures_missing(federation: founding.Federation, what: str, propose: str) -> ConfigError:
    """What needs more signatures than this home can give, and how to collect them."""
    chosen = federation.trust.governance
    return ConfigError(
        "signatures_missing",
        f"{what} needs {chosen.threshold} of {len(chosen.keys)} governance signatures",
        next_step=f"`fedveil governance propose {propose}` writes a file; each holder runs `fedveil governance sign "
        "FILE`, and you `fedveil governance publish FILE`",
    )


def run_invite(
    home: pathlib.Path,
    org: str,
    rekey: bool,
    governance_passphrase: Passphrase | None,
    admin: AdminClient,
    world: World,
) -> Report:
    """A token for one organisation; it is returned only after the coordinator has the signed invite.

    Raises ConfigError `bad_name`, `reserved_name`, `already_member`, `unknown_member`, `signatures_missing`;
    SealedError; Unreachable.
    """
    check_name(org, "the organisation")  # before the passphrase is tried
    return open_governance(home, governance_passphrase).invite(org, rekey, admin, world)


def run_join(home: pathlib.Path, token: str, passphrase: Passphrase | None, world: World) -> Report:
    """Join a federation with a pasted token; makes journal and keys. Raises what `enrolment.meet` and `join` raise."""
    invites.parse_token(token)  # a mistyped token leaves no folder behind
    if (home / COORDINATOR_DATABASE).exists():
        raise ConfigError("home_in_use", f"{home} is the folder of a coordinator", next_step="join with another --home")
    check_writable(home)
    met = enrolment.meet(home, token, passphrase)
    durable.make_folder(home)
    with FolderLock(home):
        store = _store_to_join(home, passphrase, world)
        try:
            made = enrolment.join(home, met, store, passphrase, world.clock, world.entropy)
        finally:
            store.close()
    return {
        "federation_id": made.federation_id,
        "org": made.org_id,
        "fingerprint": governance.fingerprint_text(made.fingerprint),
        "check_words": made.words,
        "roster_version": made.roster_version,
        "in_roster": made.listed,
        "rekeyed": made.rekeyed,
    }


def _store_to_join(home: pathlib.Path, passphrase: Passphrase | None, world: World) -> ParticipantStore:
    """The store of `home`, or a new one. A journal key in clear is put under the passphrase, if there is one."""
    if (home / JOURNAL_KEY).exists() or (home / JOURNAL).exists():
        if passphrase is not None:
            seal_journal_key(home, passphrase, world.entropy)
        key = journal_key(home, passphrase)
    else:
        key = make_journal_key(home, passphrase, world.entropy)
    return open_store(home, key, world.clock, world.entropy, create=not (home / JOURNAL).exists())


def check_reason(reason: str) -> None:
    """ConfigError `reason_missing` for an empty one."""
    if not reason.strip():
        raise ConfigError("reason_missing", "a reason must be given", next_step="--reason TEXT")


def run_revoke(
    home: pathlib.Path,
    org: str,
    reason: str,
    governance_passphrase: Passphrase | None,
    admin: AdminClient,
) -> Report:
    """End a membership: at the coordinator at once, in the next roster version if the governance key can be opened.

    Raises ConfigError `reason_missing`, SealedError `passphrase_wrong` before anything is done; ConfigError
    `unknown_member`; Unreachable.
    """
    check_reason(reason)
    federation = founding.load_federation(home)
    org_id = OrgId(check_name(org, "the organisation"))
    alone = governance_passphrase is not None and federation.governs_alone
    key = federation.governance_key(governance_passphrase) if alone else None
    _, _, joined, _ = admin.roster_draft()
    ended, still_open = admin.revoke(org_id, reason)
    federation.add_void_tokens(_tokens(member for member in membership.read_draft(joined) if member.org_id == org_id))
    report: Report = {"org": org_id, "ended": ended, "open": still_open}
    if key is None:
        version = roster_in_force(federation.last_roster(), federation.trust).version
        warning = f"roster still lists {org_id}"
        if not federation.governs_alone:
            warning += "; `fedveil governance propose roster` and the holders' signatures end that"
        return report | {"roster_version": version, "warning": warning}
    return report | {"roster_version": _publish(federation, key, admin)[0].version}


def publish_next_roster(home: pathlib.Path, governance_passphrase: Passphrase | None, admin: AdminClient) -> Report:
    """Sign and publish the next roster version if anybody joined or was revoked since the last; for `run start`.

    Raises SealedError; ConfigError `signatures_missing` if this home cannot sign alone and there is something to sign;
    PeerError if the coordinator's draft does not prove its members; Unreachable.
    """
    return open_governance(home, governance_passphrase).publish_next_roster(admin)


@dataclass(frozen=True, slots=True)
class Draft:
    """What the next roster would be. `following` is `current` if nothing changes; `lost`: signed, and not published."""

    current_signed: bytes
    current: Roster
    following: Roster
    lost: bool


def next_draft(federation: founding.Federation, admin: AdminClient) -> Draft:
    """The next roster from what the coordinator drafts and what the operator remembers. PeerError; Unreachable."""
    trust = federation.trust
    shown, _, joined, revoked = admin.roster_draft()
    theirs = roster_in_force(shown, trust)
    mine_signed = federation.last_roster()
    mine = roster_in_force(mine_signed, trust)
    older, current = sorted((mine, theirs), key=lambda roster: roster.version)
    accept_roster(older, current)
    following = membership.next_roster(
        current, membership.read_draft(joined), [OrgId(name) for name in revoked], federation.void_tokens()
    )
    return Draft(mine_signed if current is mine else shown, current, following, theirs.version < mine.version)


def _publish(
    federation: founding.Federation, key: PrivateKey | None, admin: AdminClient
) -> tuple[Roster, list[str], list[str]]:
    """(roster in force, added or re-keyed, removed). ConfigError `signatures_missing`."""
    draft = next_draft(federation, admin)
    current, following = draft.current, draft.following
    if draft.lost:
        admin.publish_roster(draft.current_signed)
    if following is current:
        return current, [], []
    if key is None:
        raise signatures_missing(federation, f"roster version {following.version}", "roster")
    signed = membership.sign_next(current, following, federation.trust, [key])
    federation.add_void_tokens(membership.void_tokens(current, following))
    federation.save_last_roster(signed)
    admin.publish_roster(signed)
    return following, *roster_changes(current, following)


def roster_changes(current: Roster, following: Roster) -> tuple[list[str], list[str]]:
    """(added or re-keyed, removed)."""
    before = {member.org_id: member for member in current.members}
    after = {member.org_id: member for member in following.members}
    added = sorted(name for name, member in after.items() if before.get(name) != member)
    return list(added), list(sorted(set(before) - set(after)))


def held_key(org_id: OrgId, admin: AdminClient) -> bytes:
    """The protocol key that a re-key replaces: the one the member joined with last."""
    _, _, joined, _ = admin.roster_draft()
    for member in membership.read_draft(joined):
        if member.org_id == org_id:
            return member.protocol_key
    raise ConfigError(
        "unknown_member", f"{org_id} is not a member", next_step=f"`fedveil invite {org_id}` without --rekey"
    )


def _tokens(members: Iterable[Member]) -> tuple[bytes, ...]:
    blobs = [member.invite for member in members if member.invite is not None]
    return tuple(invites.parse_invite(blob.body).token_id for blob in blobs)


def _fingerprint(federation_id: str, digest: bytes) -> Report:
    return {
        "federation_id": federation_id,
        "fingerprint": governance.fingerprint_text(digest),
        "fingerprint_hex": digest.hex(),
    }
