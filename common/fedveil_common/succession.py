"""What may follow what: a trust chain after the one pinned before, and each roster under the document of its time.

Promise: whoever once accepted a chain is never led to a shorter one or to another branch; a key that left the
governance set signs no roster of a later version; a coordinator that was replaced stands in no roster in force.
Invariant: a trust document names version and hash of the roster in force when it was made; rosters up to that version
belong to the documents before it, every later one to its own set and its own coordinator.
Source: FLSA/1 section 2.1, A7, A18 (docs/protocol.md).
"""

from fedveil_common.errors import PeerError
from fedveil_common.pki import invites
from fedveil_common.pki.governance import Signed, Trust, verify_body
from fedveil_common.roster import ROSTER_LABEL, Roster, accept_roster, claimed_version, read_roster

_TELEPHONE = "keep both and telephone the holders of the governance keys"


def follow(pinned: Trust, new: Trust, roster: Roster | None = None) -> Trust:
    """`new` (already verified) if it is the pinned chain or goes on from its end; `roster`: the one pinned with it.

    Raises PeerError `trust_fork` for two different documents of one number, or for a new one that names an older roster
    than the pinned one or another of its version; `trust_rollback` for a shorter chain.
    """
    for before, after in zip(pinned.documents, new.documents, strict=False):
        if before.digest != after.digest:
            raise PeerError(
                "trust_fork",
                f"two different trust documents call themselves number {before.sequence}",
                not_done="neither the chain nor a roster under it was accepted",
                next_step=_TELEPHONE,
            )
    if new.sequence < pinned.sequence:
        raise PeerError(
            "trust_rollback",
            f"a trust chain of {new.sequence} documents is offered, one of {pinned.sequence} is pinned",
            not_done="neither the chain nor a roster under it was accepted",
            next_step="telephone the operator: it may serve an old copy, or an older coordinator may have come back",
        )
    if roster is None:
        return new
    for link in new.documents[pinned.sequence :]:
        named = link.roster_version, link.roster_hash
        if link.roster_version < roster.version or (link.roster_version == roster.version and named[1] != roster.hash):
            raise PeerError(
                "trust_fork",
                f"trust document {link.sequence} follows on roster version {named[0]}, {roster.version} is pinned",
                not_done="neither the chain nor a roster under it was accepted",
                next_step=_TELEPHONE,
            )
    return new


def roster_of_its_time(signed: bytes, trust: Trust) -> Roster:
    """The roster in `signed` if the set that `trust` names for its version signed it: one pinned or used earlier.

    Raises what `roster.verify_roster` raises; PeerError `roster_fork` for another roster than the one that a trust
    document names, `coordinator_not_named` if it lists another coordinator's key than the document of its time.
    """
    document = Signed.decode(signed, "signed roster")
    version = claimed_version(document.body)
    at = trust.at_roster(version)
    verify_body(document, ROSTER_LABEL, at.governance, "roster")
    roster = read_roster(document.body, (trust.governance, *trust.earlier))
    check_federation(roster, trust)
    check_coordinator(roster, at.coordinator)
    check_named(roster, trust)
    return roster


def check_federation(roster: Roster, trust: Trust) -> None:
    """Returns if both are of one federation: the same keys may govern two. PeerError `wrong_federation`."""
    if roster.federation_id != trust.federation_id:
        raise PeerError("wrong_federation", f"the roster is of federation {roster.federation_id}")


def check_named(roster: Roster, trust: Trust) -> None:
    """Returns if no trust document names another roster of its version: keys that left could sign one anew. PeerError
    `roster_fork`.
    """
    for link in trust.documents[1:]:
        if link.roster_version == roster.version and link.roster_hash != roster.hash:
            raise PeerError(
                "roster_fork",
                f"roster version {roster.version} is not the one that trust document {link.sequence} names",
                next_step=_TELEPHONE,
            )


def roster_in_force(signed: bytes, trust: Trust) -> Roster:
    """The roster in `signed` if it may be the current one under `trust`.

    Raises as `roster_of_its_time`; PeerError `roster_rollback` for a version below the one that the chain names.
    """
    roster = roster_of_its_time(signed, trust)
    if roster.version < trust.last.roster_version:
        raise PeerError(
            "roster_rollback",
            f"roster version {roster.version} is offered, the trust chain names version {trust.last.roster_version}",
        )
    check_coordinator(roster, trust.coordinator)
    return roster


def check_coordinator(roster: Roster, named: bytes) -> None:
    """Returns if `roster` lists the coordinator under the key `named`; PeerError `coordinator_not_named`."""
    if roster.coordinator_key != named:
        raise PeerError(
            "coordinator_not_named",
            f"roster version {roster.version} lists coordinator key {roster.coordinator_key.hex()[:16]}, the trust "
            f"chain names {named.hex()[:16]}",
            next_step="only a trust document replaces a coordinator: telephone the holders of the governance keys",
        )


def check_next(current: Roster, following: Roster, trust: Trust) -> None:
    """Returns if `following` may be signed after `current`: whoever is new in it stands on an invite of today's set.

    Participants also take an entry on an invite of an earlier set, because old members have no other. Here, where it
    is decided who comes in, a key that left the set admits nobody. Raises what `accept_roster` and `read_roster` raise.
    """
    read_roster(following.body, (trust.governance, *trust.earlier))
    accept_roster(current, following)
    listed = set(current.members)
    for member in following.members:
        if member.invite is not None and member not in listed:
            try:
                invites.verify_invite(member.invite, (trust.governance,))
            except PeerError as error:
                raise PeerError(
                    error.code,
                    f"the invite of {member.org_id} was signed before the governance keys changed",
                    peer=member.org_id,
                    next_step=f"`fedveil revoke {member.org_id}`, then invite it again",
                ) from error
