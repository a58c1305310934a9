"""A federation made up for a simulation: governance, coordinator and members, with the real roster and trust chain.

All keys follow from one seed, so a simulation repeats byte for byte; whoever knows the seed knows every key.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from fedveil_common.crypto import signing
from fedveil_common.crypto.draws import Draws
from fedveil_common.crypto.labels import h, u64
from fedveil_common.ids import COORDINATOR, FederationId, OrgId
from fedveil_common.messages import RosterNotice
from fedveil_common.pki import invites
from fedveil_common.pki.governance import (
    GovernanceSet,
    TrustDocument,
    encode_chain,
    fingerprint,
    sign_trust,
    verify_chain,
)
from fedveil_common.pki.invites import Invite, Role
from fedveil_common.roster import Member, Roster, accept_roster, sign_roster
from fedveil_common.secret import PrivateKey, Seed
from fedveil_common.succession import roster_in_force, roster_of_its_time

FEDERATION = FederationId("simulation-0000000000000000")
EXPIRES_S = 4_102_444_800


@dataclass(frozen=True, slots=True)
class Charter:
    """Who the federation is. The governance key stays here so that a test can sign another roster."""

    roster: Roster
    notice: RosterNotice
    fingerprint: bytes
    governance_key: PrivateKey
    coordinator_key: PrivateKey
    member_keys: Mapping[OrgId, PrivateKey]

    def past_roster(self, signed: bytes) -> Roster:
        """The roster that governance signed, of whatever version."""
        trust = verify_chain(self.notice.trust_chain, self.fingerprint)
        return roster_of_its_time(signed, trust)

    def verifier(self, org_id: OrgId) -> Callable[[RosterNotice, Roster], Roster]:
        """How `org_id` checks a roster notice: trust chain, governance signatures, every join, succession."""
        key = signing.public_key(self.member_keys[org_id])

        def verify(notice: RosterNotice, pinned: Roster) -> Roster:
            trust = verify_chain(notice.trust_chain, self.fingerprint)
            return accept_roster(pinned, roster_in_force(notice.signed_roster, trust), me=org_id, my_key=key)

        return verify


def make_charter(names: Sequence[str], seed: int, version: int = 1) -> Charter:
    """A federation of these members (ids), entirely determined by `seed` and `version`."""
    draws = Draws(Seed(h("simulation/charter", u64(seed))))
    governance_key = draws.private_key("governance")
    coordinator_key = draws.private_key("coordinator")
    members = {OrgId(name): draws.private_key("member", name.encode()) for name in sorted(names)}
    governance = GovernanceSet(1, (signing.public_key(governance_key),))
    entries = [Member(COORDINATOR, Role.COORDINATOR, signing.public_key(coordinator_key))]
    for org, key in members.items():
        invite_key = draws.private_key("invite", org.encode())
        invite = Invite(
            FEDERATION,
            draws.bytes("token", 16, org.encode()),
            org,
            Role.PARTICIPANT,
            signing.public_key(invite_key),
            EXPIRES_S,
            b"",
        )
        proof = invites.make_proof(FEDERATION, invite.token_id, b"no request: " + org.encode(), invite_key, key)
        blob = invites.sign_invite(invite, [governance_key])
        entries.append(Member(org, Role.PARTICIPANT, signing.public_key(key), blob, proof))
    roster = Roster(FEDERATION, version, tuple(entries))
    first = TrustDocument(FEDERATION, 1, governance, (bytes(32),), signing.public_key(coordinator_key))
    chain = encode_chain([sign_trust(first, [governance_key])])
    signed = sign_roster(roster, [governance_key]).encode()
    return Charter(
        roster,
        RosterNotice(signed, chain),
        fingerprint(FEDERATION, governance),
        governance_key,
        coordinator_key,
        members,
    )
