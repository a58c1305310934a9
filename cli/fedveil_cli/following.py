"""`governance follow`: an organisation takes a trust chain from another way than its running session.

For one that was away while authorities changed, or whose coordinator was replaced by one that it cannot reach yet. The
same rules hold as for what a coordinator says: the chain goes on from the pinned one, each link signed.
"""

import pathlib
from collections.abc import Sequence
from dataclasses import replace

from fedveil_common.database import FolderLock
from fedveil_common.gate import Bare
from fedveil_common.pki import bundle, invites, proposals
from fedveil_common.pki.proposals import Proposal
from fedveil_common.succession import follow, roster_of_its_time
from fedveil_participant import membership
from fedveil_participant.enrolment_client import fetch_authorities, fetch_chain
from fedveil_participant.membership import Membership, load_membership
from fedveil_participant.pinned_trust import PinnedTrust

from fedveil_cli.identity_commands import Report


def run_follow(home: pathlib.Path, copies: Sequence[Proposal], address: str | None) -> Report:
    """Pin the chain of the signed `copies`, or else the one that the coordinator serves; at `address`, if it moved.

    Hold no lock: it is taken here, so `participate` must not run. Raises PeerError: `trust_rollback`, `trust_fork`,
    those of `examine` and `verify_chain`; ConfigError `roster_needed`, `bad_address`; Unreachable.
    """
    if address is not None:
        invites.split_address(address)
    with FolderLock(home):
        member = load_membership(home)
        member = member if address is None else replace(member, address=address)
        if copies:
            membership.save_trust(home, *_from_copies(member, copies))
        else:
            pin = PinnedTrust(member, b"")  # no roster is accepted here
            chain, _ = fetch_chain(member, Bare())
            served = fetch_authorities(member, pin.check(chain), Bare())
            pin.take(chain)
            membership.save_authorities(home, bundle.bundle_pem(served))
        if address is not None:
            membership.save_address(member, address)
        now = load_membership(home).trust
    return {"federation_id": member.federation_id, "trust_sequence": now.sequence, "address": member.address}


def _from_copies(member: Membership, copies: Sequence[Proposal]) -> tuple[bytes, bytes]:
    """The chain of a complete proposal, and its roster if it has one; its authorities are in the folder when this
    returns.
    """
    pinned = member.trust
    examined = proposals.examine(proposals.unite(copies), member.fingerprint)
    chain = proposals.next_chain(examined)
    mine = roster_of_its_time(member.signed_roster, pinned)
    if examined.before.sequence < pinned.sequence:  # our own chain may already hold this link
        follow(examined.after, pinned)
        return member.trust_chain, b""
    follow(pinned, examined.after, mine)
    roster = proposals.next_roster(examined)
    if roster is None:
        PinnedTrust(member, b"").check(chain)
    shown = examined.proposal.authorities
    if shown:
        membership.save_authorities(
            member.home, bundle.bundle_pem(bundle.check_bundle(shown, examined.after.authorities))
        )
    return chain, roster or b""
