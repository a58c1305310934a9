"""Who holds the governance keys, and on whom membership rests because of it (FLSA/1 A7).

Promise: a key counts as a member's only if that member's own protocol key, the one the roster lists today, says so; a
name that somebody wrote beside a key counts for nothing. Every other key counts as the operator's.
"""

from collections import Counter

from fedveil_common.crypto import signing
from fedveil_common.errors import PeerError
from fedveil_common.ids import FederationId, OrgId
from fedveil_common.masking import quorum
from fedveil_common.pki.governance import Holder, Trust
from fedveil_common.roster import Roster
from fedveil_common.secret import PrivateKey

HOLDER_LABEL = "holder"
ON_THE_OPERATOR = "membership rests on the operator"


def attest(federation_id: FederationId, org_id: OrgId, key: bytes, protocol_key: PrivateKey) -> Holder:
    """`org_id`'s word, under its protocol key, that it holds the governance key `key` (32 bytes, public)."""
    return Holder(key, org_id, signing.sign_bytes(protocol_key, HOLDER_LABEL, *_fields(federation_id, org_id, key)))


def check_holder(holder: Holder, federation_id: FederationId, roster: Roster) -> None:
    """Returns if the member that `holder` names said so itself. PeerError `not_in_roster`, `bad_signature`."""
    fields = _fields(federation_id, holder.org_id, holder.key)
    key = roster.key_of(holder.org_id)
    signing.verify_bytes(key, holder.sig, HOLDER_LABEL, *fields, peer=holder.org_id)


def held_by_members(trust: Trust, roster: Roster) -> dict[bytes, OrgId]:
    """Governance key in force -> the member that holds it, by its own word."""
    found: dict[bytes, OrgId] = {}
    for holder in trust.last.holders:
        if holder.org_id not in roster.participants:
            continue
        try:
            check_holder(holder, trust.federation_id, roster)
        except PeerError:
            continue  # the member was keyed anew since, or never said it: the key counts as the operator's
        found[holder.key] = holder.org_id
    return found


def rests_on_members(trust: Trust, roster: Roster) -> bool:
    """Whether the operator and any c members together lack a key of the k that a roster needs.

    c = max(1, a fifth of the roster). With all keys at members that hold one each this is k > c (A7).
    """
    held = held_by_members(trust, roster)
    corrupt = quorum.corrupt_bound(1, len(roster.participants))
    worst = sum(count for _, count in Counter(held.values()).most_common(corrupt))
    return trust.governance.threshold > worst + len(trust.governance.keys) - len(held)


def membership_line(trust: Trust, roster: Roster) -> str:
    """What status and label say."""
    if not rests_on_members(trust, roster):
        return ON_THE_OPERATOR
    k, m = trust.governance.threshold, len(trust.governance.keys)
    names = ", ".join(sorted(set(held_by_members(trust, roster).values())))
    return f"membership rests on {k} of {m} governance keys, held by {names}"


def _fields(federation_id: FederationId, org_id: OrgId, key: bytes) -> tuple[bytes, bytes, bytes]:
    return federation_id.encode(), org_id.encode(), key
