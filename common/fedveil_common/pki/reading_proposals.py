"""A proposal in words: everything that a signature on it changes, for the person who signs.

Promise: what is not in these lines is not changed by the proposal. Names and keys come from strangers: whoever prints
the lines escapes them. Check words stand beside each key, to be read out over the telephone.
"""

from collections.abc import Iterator

from fedveil_common.errors import PeerError
from fedveil_common.pki import invites
from fedveil_common.pki.governance import fingerprint_text
from fedveil_common.pki.holders import check_holder, membership_line
from fedveil_common.pki.proposals import Examined, Kind
from fedveil_common.pki.words import check_words
from fedveil_common.roster import Member

_NAMES = {Kind.TRUST: "trust document", Kind.ROSTER: "roster", Kind.INVITE: "invite"}


def describe(examined: Examined) -> list[str]:
    """The lines, what changes trust first."""
    head = f"federation {examined.before.federation_id}, fingerprint {fingerprint_text(examined.before.fingerprint)}"
    return [head, *_trust_lines(examined), *_roster_lines(examined), *_invite_lines(examined)]


def missing_lines(examined: Examined) -> list[str]:
    """Per document, how many signatures of how many it has, and which keys may still sign."""
    lines = []
    both = len(examined.sets(Kind.TRUST)) > 1
    kept = set(examined.after.governance.keys)
    for need in examined.needs():
        name = _NAMES[need.kind]
        if both and need.kind is Kind.TRUST:
            name += ", the new set" if {*need.present, *need.open} == kept else ", the set before"
        text = f"{name}: {len(need.present)} of {need.threshold} signatures"
        if need.missing:
            text += f"; {need.missing} more of: {', '.join(key.hex()[:16] for key in need.open)}"
        lines.append(text)
    return lines


def key_text(key: bytes) -> str:
    """A key for the eye and for the telephone."""
    return f"{key.hex()} ({check_words(key)})"


def _trust_lines(examined: Examined) -> Iterator[str]:
    link, before = examined.link, examined.before.last
    if link is None:
        return
    yield f"trust document {link.sequence}, after roster version {link.roster_version}"
    old, new = before.governance, link.governance
    if old == new:
        yield f"  governance as before: {new.threshold} of {len(new.keys)} keys"
    else:
        yield f"  governance: {new.threshold} of {len(new.keys)} keys, before {old.threshold} of {len(old.keys)}"
    names = {item.key: item for item in link.holders}
    for key in new.keys:
        verb = "key kept" if key in old.keys else "KEY ADDED"
        holder = names.get(key)
        text = "nobody's by name"
        if holder is not None:
            text = f"held by member {holder.org_id}, by its own word"
            try:
                check_holder(holder, examined.after.federation_id, examined.following or examined.current)
            except PeerError as error:
                text = f"claims to be {holder.org_id}'s, WITHOUT that member's signature ({error.code})"
        yield f"  {verb}: {key_text(key)}, {text}"
    for key in sorted(set(old.keys) - set(new.keys)):
        yield f"  KEY REMOVED: {key_text(key)}"
    for digest in link.authorities:
        verb = "authority kept" if digest in before.authorities else "AUTHORITY ADDED"
        yield f"  {verb}: {fingerprint_text(digest)}"
    for digest in sorted(set(before.authorities) - set(link.authorities)):
        yield f"  AUTHORITY REMOVED: {fingerprint_text(digest)}"
    if link.coordinator == before.coordinator:
        yield f"  coordinator key as before: {key_text(link.coordinator)}"
    else:
        yield f"  COORDINATOR REPLACED: {key_text(link.coordinator)}, before {key_text(before.coordinator)}"
    yield f"  afterwards: {membership_line(examined.after, examined.following or examined.current)}"


def _roster_lines(examined: Examined) -> Iterator[str]:
    following = examined.following
    if following is None:
        return
    yield f"roster version {following.version}, after version {examined.current.version}"
    before = {member.org_id: member for member in examined.current.members}
    after = {member.org_id: member for member in following.members}
    for name, member in sorted(after.items()):
        earlier = before.get(name)
        if earlier is None:
            yield f"  MEMBER ADDED: {name}, key {key_text(member.protocol_key)}"
        elif earlier.protocol_key != member.protocol_key:
            before_text = key_text(earlier.protocol_key)
            yield f"  {_rekeyed(member)}: {name}, key {key_text(member.protocol_key)}, before {before_text}"
        elif earlier != member:
            yield f"  entry changed: {name}, same key"
    for name in sorted(set(before) - set(after)):
        yield f"  MEMBER REMOVED: {name}, key {key_text(before[name].protocol_key)}"
    names = ", ".join(following.participants) or "nobody"
    yield f"  {len(following.participants)} participants afterwards: {names}"


def _rekeyed(member: Member) -> str:
    return "MEMBER RE-KEYED" if member.invite is not None else "COORDINATOR RE-KEYED"


def _invite_lines(examined: Examined) -> Iterator[str]:
    invite = examined.invite
    if invite is None:
        return
    yield f"invite for {invite.org_id} as {invite.role.value}, until {invite.expires} s since 1970 UTC"
    if invite.replaces:
        held = {invites.key_digest(one.protocol_key): one.org_id for one in examined.current.members}
        yield f"  REPLACES the key that {held.get(invite.replaces, 'nobody in the roster')} holds now"
