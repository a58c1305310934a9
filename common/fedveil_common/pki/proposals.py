"""A proposal: documents that wait for the signatures of governance, in one file that goes from holder to holder.

Promise: whoever signs has checked, with what it pinned itself, that the documents may follow what is in force, and has
been shown all of what they change; a signature is added here and nowhere else, each holder with its own key. A proposal
that is altered on its way verifies no longer; one that is incomplete publishes nothing.
The file is canonical JSON and holds nothing secret: the chain and roster it follows on, new authorities in PEM, and per
document its kind, body and signatures.
"""

import enum
from collections.abc import Sequence
from dataclasses import dataclass, replace

from fedveil_common import jcs
from fedveil_common.crypto import signing
from fedveil_common.errors import ConfigError, PeerError
from fedveil_common.ids import OrgId
from fedveil_common.limits import MAX_DOCUMENT
from fedveil_common.pki import bundle, certificates, documents, invites
from fedveil_common.pki.governance import (
    TRUST_LABEL,
    GovernanceSet,
    Signed,
    Trust,
    TrustDocument,
    authority_digest,
    check_link,
    decode_chain,
    encode_chain,
    link_signers,
    parse_trust,
    sign_body,
    signers,
    verify_chain,
    verify_signatures,
)
from fedveil_common.pki.invites import INVITE_LABEL, Invite
from fedveil_common.roster import ROSTER_LABEL, Roster, accept_roster, claimed_version, read_roster
from fedveil_common.secret import PrivateKey
from fedveil_common.succession import check_coordinator, check_next, follow, roster_in_force

FORMAT = "fedveil/proposal/v1"
MAX_PROPOSAL = 4 * MAX_DOCUMENT
MAX_ITEMS = 3


class Kind(enum.Enum):
    """What a document of a proposal is; its value is the label under which it is signed."""

    TRUST = TRUST_LABEL
    ROSTER = ROSTER_LABEL
    INVITE = INVITE_LABEL


@dataclass(frozen=True, slots=True)
class Item:
    """One document and the signatures that it has so far."""

    kind: Kind
    signed: Signed


@dataclass(frozen=True, slots=True)
class Proposal:
    """`chain` and `roster`: what is in force, as signed bytes; `authorities`: PEM, where they change."""

    chain: bytes
    roster: bytes
    items: tuple[Item, ...]
    authorities: bytes = b""

    def encode(self) -> bytes:
        """The file."""
        rows: list[jcs.Json] = [{"kind": item.kind.value, "signed": item.signed.to_json()} for item in self.items]
        return jcs.dumps(
            {
                "authorities": self.authorities.decode("ascii"),
                "chain": self.chain.decode("utf-8"),
                "documents": rows,
                "format": FORMAT,
                "roster": self.roster.decode("utf-8"),
            }
        )

    @classmethod
    def decode(cls, data: bytes) -> "Proposal":
        """The proposal in a file; PeerError `bad_document`. Nothing of it is believed yet."""
        what = "proposal"
        names = {"authorities", "chain", "documents", "format", "roster"}
        fields = documents.Fields(documents.canonical(data, what, MAX_PROPOSAL), what, names)
        if fields.text("format", 64) != FORMAT:
            raise documents.bad(what, f"it is not of format {FORMAT}")
        items: list[Item] = []
        for row in fields.rows("documents", MAX_ITEMS):
            parts = documents.Fields(row, what, {"kind", "signed"})
            kind = next((one for one in Kind if one.value == parts.value("kind")), None)
            if kind is None or kind in [item.kind for item in items]:
                raise documents.bad(what, "its documents are not one trust document, one roster, one invite at most")
            items.append(Item(kind, Signed.from_json(parts.value("signed"), what)))
        if not items:
            raise documents.bad(what, "it holds no document")
        text = fields.text("authorities", bundle.MAX_BUNDLE)
        if not text.isascii():
            raise documents.bad(what, "its authorities are not PEM")
        return cls(
            fields.text("chain", MAX_DOCUMENT).encode("utf-8"),
            fields.text("roster", MAX_DOCUMENT).encode("utf-8"),
            tuple(items),
            text.encode("ascii"),
        )

    def item(self, kind: Kind) -> Signed | None:
        """The document of this kind, if there is one."""
        return next((item.signed for item in self.items if item.kind is kind), None)


@dataclass(frozen=True, slots=True)
class Need:
    """What one document still lacks of one set. `present` and `open`: keys that signed, keys that may still."""

    kind: Kind
    threshold: int
    present: tuple[bytes, ...]
    open: tuple[bytes, ...]

    @property
    def missing(self) -> int:
        """How many more signatures."""
        return max(0, self.threshold - len(self.present))


@dataclass(frozen=True, slots=True)
class Examined:
    """A proposal whose documents may follow what is in force. `after`: the trust once it is published.

    `link`, `following`, `invite`: what it changes, None where it does not.
    """

    proposal: Proposal
    before: Trust
    after: Trust
    current: Roster
    link: TrustDocument | None
    following: Roster | None
    invite: Invite | None

    def sets(self, kind: Kind) -> tuple[GovernanceSet, ...]:
        """The sets of which k each must sign the document of this kind."""
        if kind is Kind.TRUST:
            return link_signers(self.after.last, self.before.last)
        return (self.after.governance,)

    def needs(self) -> tuple[Need, ...]:
        """Per document and set, who signed and who may still."""
        found = []
        for item in self.proposal.items:
            have = signers(item.signed)
            for chosen in self.sets(item.kind):
                present = tuple(key for key in chosen.keys if key in have)
                rest = tuple(key for key in chosen.keys if key not in have)
                found.append(Need(item.kind, chosen.threshold, present, rest))
        return tuple(found)

    @property
    def complete(self) -> bool:
        """Whether it may be published."""
        return all(not need.missing for need in self.needs())

    def numbers(self) -> tuple[tuple[str, int, bytes], ...]:
        """(kind, number, digest) of each document that has a number: two of one number would split the federation."""
        found: list[tuple[str, int, bytes]] = []
        if self.link is not None:
            found.append(("trust", self.link.sequence, self.link.digest))
        if self.following is not None:
            found.append(("roster", self.following.version, self.following.hash))
        return tuple(found)


def examine(
    proposal: Proposal,
    fingerprint: bytes,
    pinned: Trust | None = None,
    roster: Roster | None = None,
) -> Examined:
    """The proposal, once every check that a participant will make has been made, signatures that are missing apart.

    `pinned`, `roster`: what this holder accepted last. Raises PeerError: those of `verify_chain`, `follow`,
    `roster_in_force`, `accept_roster`, `check_next`, `broken_chain`, `trust_fork`, `authority_mismatch`,
    `not_governance`, `bad_signature`, `bad_document`.
    """
    before = verify_chain(proposal.chain, fingerprint)
    if pinned is not None:
        follow(pinned, before)
    current = roster_in_force(proposal.roster, before)
    if roster is not None:
        accept_roster(roster, current)
    after, link = _examine_trust(proposal, before, current)
    following = _examine_roster(proposal, current, after)
    invite = _examine_invite(proposal, after)
    found = Examined(proposal, before, after, current, link, following, invite)
    for item in proposal.items:
        verify_signatures(item.signed, item.kind.value, found.sets(item.kind), "proposal")
    return found


def _examine_trust(proposal: Proposal, before: Trust, current: Roster) -> tuple[Trust, TrustDocument | None]:
    signed = proposal.item(Kind.TRUST)
    if signed is None:
        return before, None
    link = parse_trust(signed.body)
    check_link(link, before.last, before.federation_id)
    if (link.roster_version, link.roster_hash) != (current.version, current.hash):
        raise PeerError("trust_fork", "the trust document does not follow on the roster in force")
    if set(link.authorities) - set(before.authorities):
        named = bundle.check_bundle(proposal.authorities, link.authorities)
        shown = {authority_digest(certificates.certificate_der(one)) for one in named}
        if shown != set(link.authorities):
            raise PeerError("authority_mismatch", "the proposal does not show every authority that it names")
    return Trust(before.federation_id, before.fingerprint, (*before.documents, link)), link


def _examine_roster(proposal: Proposal, current: Roster, after: Trust) -> Roster | None:
    signed = proposal.item(Kind.ROSTER)
    if signed is None:
        if current.coordinator_key != after.coordinator:
            raise PeerError("coordinator_not_named", "another coordinator is named, and no roster lists it")
        return None
    following = read_roster(signed.body, (after.governance, *after.earlier))
    if claimed_version(signed.body) <= current.version:
        raise PeerError("roster_rollback", f"roster version {following.version} does not follow {current.version}")
    check_coordinator(following, after.coordinator)
    check_next(current, following, after)
    return following


def _examine_invite(proposal: Proposal, after: Trust) -> Invite | None:
    signed = proposal.item(Kind.INVITE)
    if signed is None:
        return None
    invite = invites.parse_invite(signed.body)
    if invite.federation_id != after.federation_id:
        raise PeerError("wrong_federation", f"the invite is of federation {invite.federation_id}")
    return invite


def sign(examined: Examined, key: PrivateKey) -> Proposal:
    """The proposal with this key's signature on every document that it may sign. ConfigError `not_a_governance_key`."""
    public = signing.public_key(key)
    if not any(public in chosen.keys for item in examined.proposal.items for chosen in examined.sets(item.kind)):
        raise ConfigError(
            "not_a_governance_key",
            f"the key {public.hex()[:16]} may sign nothing in this proposal",
            not_done="nothing was signed",
            next_step="`fedveil governance show` lists the keys in force",
        )
    items = []
    for item in examined.proposal.items:
        may = any(public in chosen.keys for chosen in examined.sets(item.kind))
        made = sign_body(item.signed.body, item.kind.value, [key]).signatures if may else ()
        items.append(Item(item.kind, _united(item.signed.body, (item.signed, Signed(item.signed.body, made)))))
    return replace(examined.proposal, items=tuple(items))


def unite(copies: Sequence[Proposal]) -> Proposal:
    """One proposal with the signatures of all `copies`. ConfigError `proposals_differ` if they are not of one text."""
    first = copies[0]
    texts = {
        (one.chain, one.roster, one.authorities, tuple((i.kind, i.signed.body) for i in one.items)) for one in copies
    }
    if len(texts) != 1:
        raise ConfigError(
            "proposals_differ",
            "the files are not signed copies of one proposal",
            next_step="give the copies that went out from one `fedveil governance propose`",
        )
    items = [
        Item(item.kind, _united(item.signed.body, [one.items[at].signed for one in copies]))
        for at, item in enumerate(first.items)
    ]
    return replace(first, items=tuple(items))


def _united(body: bytes, copies: Sequence[Signed]) -> Signed:
    by_key = {item.key: item for one in copies for item in one.signatures}
    return Signed(body, tuple(by_key[key] for key in sorted(by_key)))


def next_chain(examined: Examined) -> bytes:
    """The chain with the proposal's trust document at its end, verified as every participant will verify it.

    PeerError `too_few_signatures` and what else `verify_chain` raises.
    """
    signed = examined.proposal.item(Kind.TRUST)
    links = decode_chain(examined.proposal.chain)
    chain = encode_chain(links if signed is None else [*links, signed])
    verify_chain(chain, examined.before.fingerprint)
    return chain


def next_roster(examined: Examined) -> bytes | None:
    """The signed roster, verified likewise; None if the proposal has none."""
    signed = examined.proposal.item(Kind.ROSTER)
    if signed is None:
        return None
    roster_in_force(signed.encode(), verify_chain(next_chain(examined), examined.before.fingerprint))
    return signed.encode()


def next_invite(examined: Examined) -> bytes | None:
    """The signed invite, verified likewise; None if the proposal has none."""
    signed = examined.proposal.item(Kind.INVITE)
    if signed is None:
        return None
    invites.verify_invite(signed, (examined.after.governance,))
    return signed.encode()


def removed_members(examined: Examined) -> tuple[OrgId, ...]:
    """Participants of the roster in force that the following one does not list."""
    if examined.following is None:
        return ()
    return tuple(sorted(set(examined.current.participants) - set(examined.following.participants)))
