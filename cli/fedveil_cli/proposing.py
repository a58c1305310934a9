"""Proposals that the operator writes: the next roster, an invite, another governance set, other authorities.

Each returns a proposal that was examined as every holder will examine it, and that nobody has signed yet. Promise: what
is proposed follows on the roster and the trust document in force here; nothing secret is in it.
"""

import pathlib
from collections.abc import Sequence
from dataclasses import dataclass, replace

from fedveil_common.errors import ConfigError
from fedveil_common.ids import COORDINATOR, OrgId, check_name
from fedveil_common.pki import proposals
from fedveil_common.pki.governance import GovernanceSet, Signed, TrustDocument
from fedveil_common.pki.proposals import Examined, Item, Kind, Proposal
from fedveil_common.roster import Member, Role, Roster
from fedveil_common.succession import roster_in_force
from fedveil_coordinator import founding, membership

from fedveil_cli.governing import Card
from fedveil_cli.identity_commands import AdminClient, held_key, next_draft
from fedveil_cli.world import World

MIN_PREFIX = 16
"""Hex digits by which a key or an authority may be named, at least."""


@dataclass(frozen=True, slots=True)
class InviteProposal:
    """`token` goes to the organisation, once the proposal is published. Secret: it holds the invite's private key."""

    examined: Examined
    token: str

    def __repr__(self) -> str:
        return "InviteProposal(<redacted>)"


def propose_roster(federation: founding.Federation, admin: AdminClient) -> Examined:
    """The next roster. ConfigError `nothing_to_sign` if nobody joined or left since the last."""
    draft = next_draft(federation, admin)
    if draft.lost:
        admin.publish_roster(draft.current_signed)
    if draft.following is draft.current:
        raise ConfigError(
            "nothing_to_sign",
            f"roster version {draft.current.version} is up to date",
            next_step="`fedveil status` shows who has joined",
        )
    item = Item(Kind.ROSTER, Signed(draft.following.body, ()))
    return _examined(federation, Proposal(federation.trust_chain, draft.current_signed, (item,)))


def propose_invite(
    federation: founding.Federation, org: str, admin: AdminClient, world: World, *, rekey: bool
) -> InviteProposal:
    """An invite for `org`, and its token. ConfigError `bad_name`, `reserved_name`, `unknown_member`."""
    org_id = OrgId(check_name(org, "the organisation"))
    replaces = held_key(org_id, admin) if rekey else b""
    trust, address = federation.trust, federation.address
    made = membership.make_invite(trust, address, org, [], world.clock, world.entropy, replaces=replaces)
    item = Item(Kind.INVITE, made.signed)
    examined = _examined(federation, Proposal(federation.trust_chain, federation.last_roster(), (item,)))
    return InviteProposal(examined, made.token)


def propose_set(
    federation: founding.Federation, add: Sequence[Card], remove: Sequence[str], threshold: int | None
) -> Examined:
    """Another governance set: `add` comes, `remove` (keys in hex, or their first 16 digits or more) goes.

    ConfigError `unknown_key`, `bad_threshold`, `nothing_to_sign`.
    """
    before = federation.trust.last
    gone = {named(text, before.governance.keys, "governance key") for text in remove}
    keys = [key for key in before.governance.keys if key not in gone]
    keys += [card.key for card in add if card.key not in keys]
    k = before.governance.threshold if threshold is None else threshold
    try:
        chosen = GovernanceSet(k, tuple(keys))
    except ValueError as error:
        raise ConfigError(
            "bad_threshold", f"no governance set: {error}", next_step="--threshold K, at most the number of keys"
        ) from error
    said = {item.key: item for item in before.holders if item.key in chosen.keys}
    said |= {card.key: card.holder for card in add if card.holder is not None}
    link = replace(_next(federation), governance=chosen, holders=tuple(said[key] for key in sorted(said)))
    if (chosen, link.holders) == (before.governance, before.holders):
        raise ConfigError("nothing_to_sign", "this is the governance set in force", next_step="fedveil governance show")
    return propose_link(federation, link)


def propose_link(
    federation: founding.Federation,
    link: TrustDocument,
    *,
    authorities: bytes = b"",
    following: Roster | None = None,
) -> Examined:
    """A trust document; `authorities`: PEM if they change; `following`: the roster that goes with it."""
    items = [Item(Kind.TRUST, Signed(link.body, ()))]
    if following is not None:
        items.append(Item(Kind.ROSTER, Signed(following.body, ())))
    return _examined(federation, Proposal(federation.trust_chain, federation.last_roster(), tuple(items), authorities))


def propose_authorities(federation: founding.Federation, digests: tuple[bytes, ...], pem: bytes) -> Examined:
    """Other certificate authorities, the one that issues first; `pem`: their certificates."""
    return propose_link(federation, replace(_next(federation), authorities=digests), authorities=pem)


def propose_coordinator(federation: founding.Federation, key: bytes) -> Examined:
    """Another coordinator's protocol key (32 bytes, public), and the roster that lists it."""
    current = roster_in_force(federation.last_roster(), federation.trust)
    others = tuple(member for member in current.members if member.org_id != COORDINATOR)
    head = Member(COORDINATOR, Role.COORDINATOR, key)
    following = Roster(current.federation_id, current.version + 1, (head, *others))
    return propose_link(federation, replace(_next(federation), coordinator=key), following=following)


def named(text: str, known: Sequence[bytes], what: str) -> bytes:
    """The one of `known` whose hex begins with `text` (16 digits or more). ConfigError `unknown_key`."""
    digits = "".join(text.split()).lower()
    found = [item for item in known if item.hex().startswith(digits)]
    if len(digits) < MIN_PREFIX or len(found) != 1:
        raise ConfigError(
            "unknown_key",
            f"{text!r} names no {what} in force",
            next_step=f"give its first {MIN_PREFIX} hex digits or more; `fedveil governance show` lists them",
        )
    return found[0]


def _next(federation: founding.Federation) -> TrustDocument:
    """The document after the one in force that changes nothing yet."""
    last, current = federation.trust.last, roster_in_force(federation.last_roster(), federation.trust)
    return replace(
        last,
        sequence=last.sequence + 1,
        previous=last.digest,
        roster_version=current.version,
        roster_hash=current.hash,
    )


def _examined(federation: founding.Federation, proposal: Proposal) -> Examined:
    return proposals.examine(proposal, federation.fingerprint, federation.trust)


def proposal_name(examined: Examined) -> pathlib.Path:
    """What the file is called if the person named none."""
    parts = [f"{kind}-{number}" for kind, number, _ in examined.numbers()]
    parts += [f"invite-{examined.invite.org_id}"] if examined.invite is not None else []
    return pathlib.Path("-".join(parts) + ".proposal")
