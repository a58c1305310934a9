"""What a holder of a governance key does at its own desk: make the key, look at what is in force, sign a proposal.

Promise: the key is opened here, in the holder's own process, after the proposal was checked against what this holder
pinned, and after the person has been shown all of what it changes; nothing is signed that goes back behind it.
A desk stands in the operator's home, in an organisation's, or in a folder of its own.
"""

import pathlib
from collections.abc import Mapping
from dataclasses import dataclass

from fedveil_common import jcs
from fedveil_common.errors import ConfigError, FedveilError, SealedError
from fedveil_common.ids import OrgId
from fedveil_common.pki import holders, proposals
from fedveil_common.pki.documents import Fields, canonical
from fedveil_common.pki.governance import GovernanceSet, Holder, Trust, fingerprint_text, verify_chain
from fedveil_common.pki.governance_folder import GovernanceFolder, Pinned
from fedveil_common.pki.proposals import Examined, Proposal
from fedveil_common.pki.reading_proposals import describe, key_text, missing_lines
from fedveil_common.pki.words import check_words
from fedveil_common.roster import Roster
from fedveil_common.secret import Passphrase
from fedveil_common.succession import follow, roster_of_its_time
from fedveil_coordinator import founding
from fedveil_participant.membership import has_membership, load_membership

from fedveil_cli.world import World

Report = dict[str, object]
MAX_CARD = 4096


@dataclass(frozen=True, slots=True)
class Card:
    """The public half of a governance key, as its holder hands it over; `holder` if a member says it is its own."""

    key: bytes
    holder: Holder | None = None

    def encode(self) -> bytes:
        """The file, canonical JSON."""
        item = self.holder
        said = {"org_id": "", "sig": ""} if item is None else {"org_id": item.org_id, "sig": item.sig.hex()}
        return jcs.dumps({"key": self.key.hex(), **said})

    @classmethod
    def decode(cls, data: bytes) -> "Card":
        """The card in a file; PeerError `bad_document`."""
        fields = Fields(canonical(data.strip(), "key card", MAX_CARD), "key card", {"key", "org_id", "sig"})
        key = fields.hex("key", 32)
        if not fields.value("org_id"):
            return cls(key)
        return cls(key, Holder(key, OrgId(fields.name("org_id")), fields.hex("sig", 64)))


@dataclass(frozen=True, slots=True)
class Desk:
    """A holder's folder and what it pinned; `chain` and `roster` are None at a desk that never saw a proposal."""

    folder: GovernanceFolder
    fingerprint: bytes
    chain: bytes | None = None
    roster: bytes | None = None

    @property
    def trust(self) -> Trust | None:
        """The verified chain that is pinned."""
        return None if self.chain is None else verify_chain(self.chain, self.fingerprint)

    @property
    def pinned_roster(self) -> Roster | None:
        """The verified roster that is pinned."""
        trust = self.trust
        return None if trust is None or self.roster is None else roster_of_its_time(self.roster, trust)


def governance_folder(home: pathlib.Path) -> GovernanceFolder:
    """Where the governance keys of `home` are."""
    if (home / "federation.json").exists():
        return founding.load_federation(home).governing
    return GovernanceFolder(home / "governance")


def open_desk(home: pathlib.Path, fingerprint: bytes | None = None) -> Desk:
    """The desk in `home`. `fingerprint`: as heard on the telephone, for a desk that does not know the federation yet.

    ConfigError `fingerprint_missing`; PeerError `fingerprint_mismatch`, `trust_fork`.
    """
    folder = governance_folder(home)
    known = [desk for desk in (_of_home(home, folder), _of_folder(folder)) if desk is not None]
    if not known:
        if fingerprint is None:
            raise ConfigError(
                "fingerprint_missing",
                f"{home} does not know the federation yet",
                next_step="--fingerprint HEX, as the operator's `fedveil fingerprint` shows it, by telephone",
            )
        return Desk(folder, fingerprint)
    if any(desk.fingerprint != (fingerprint or desk.fingerprint) for desk in known):
        raise ConfigError(
            "other_federation",
            f"{home} belongs to the federation with fingerprint {fingerprint_text(known[0].fingerprint)}",
            next_step="use another --home for another federation",
        )
    return _newest(known)


def _newest(known: list[Desk]) -> Desk:
    """The desk with the longest chain and the newest roster of all that this home remembers."""
    best = known[0]
    for desk in known[1:]:
        ours, theirs = best.trust, desk.trust
        if ours is None or theirs is None:
            raise TypeError("what a home remembers has a chain")
        longer, shorter = (desk, best) if theirs.sequence > ours.sequence else (best, desk)
        trust = longer.trust
        assert trust is not None
        follow(verify_chain(shorter.chain or b"", shorter.fingerprint), trust)
        rosters = [one.roster for one in (best, desk) if one.roster is not None]
        newest = max(rosters, key=lambda signed: roster_of_its_time(signed, trust).version)
        best = Desk(best.folder, best.fingerprint, longer.chain, newest)
    return best


def _of_home(home: pathlib.Path, folder: GovernanceFolder) -> Desk | None:
    if (home / "federation.json").exists():
        federation = founding.load_federation(home)
        return Desk(folder, federation.fingerprint, federation.trust_chain, federation.last_roster())
    if has_membership(home):
        member = load_membership(home)
        return Desk(folder, member.fingerprint, member.trust_chain, member.signed_roster)
    return None


def _of_folder(folder: GovernanceFolder) -> Desk | None:
    pinned = folder.pinned()
    return None if pinned is None else Desk(folder, pinned.fingerprint, pinned.chain, pinned.roster)


# --- the acts ---------------------------------------------------------------------------------------------------------


def make_key(folder: GovernanceFolder, passphrase: Passphrase, world: World) -> Card:
    """A new governance key in `folder`. Nobody counts it before a trust document names it."""
    return Card(folder.make_key(passphrase, world.entropy))


def show(desk: Desk) -> tuple[Report, list[str]]:
    """What is in force as far as this desk knows. ConfigError `fingerprint_missing`."""
    trust, roster = desk.trust, desk.pinned_roster
    own = desk.folder.public_keys()
    if trust is None or roster is None:
        lines = [f"key {key_text(key)}: in this folder" for key in own]
        return {"keys_here": [key.hex() for key in own]}, [*lines, "no proposal was signed here yet"]
    chosen, held = trust.governance, holders.held_by_members(trust, roster)
    rows = [
        {"key": key.hex(), "words": check_words(key), "holder": held.get(key, ""), "here": key in own}
        for key in chosen.keys
    ]
    report: Report = {
        "federation_id": trust.federation_id,
        "fingerprint": fingerprint_text(trust.fingerprint),
        "trust_sequence": trust.sequence,
        "trust_words": check_words(trust.last.digest),
        "roster_version": roster.version,
        "threshold": chosen.threshold,
        "keys": rows,
        "authorities": [digest.hex() for digest in trust.authorities],
        "coordinator": trust.coordinator.hex(),
        "membership": holders.membership_line(trust, roster),
    }
    lines = [f"federation {trust.federation_id}, fingerprint {fingerprint_text(trust.fingerprint)}"]
    lines.append(f"trust document {trust.sequence} ({check_words(trust.last.digest)}), roster version {roster.version}")
    lines.append(f"governance: {chosen.threshold} of {len(chosen.keys)} keys")
    for row in rows:
        text = f"  {row['key']} ({row['words']})"
        text += f", member {row['holder']}" if row["holder"] else ""
        lines.append(text + (", in this folder" if row["here"] else ""))
    lines.extend(f"authority {fingerprint_text(digest)}" for digest in trust.authorities)
    lines.append(f"coordinator {key_text(trust.coordinator)}")
    lines.append(str(report["membership"]))
    return report, lines


def look(desk: Desk, proposal: Proposal) -> Examined:
    """The proposal, checked against what this desk pinned. Raises what `proposals.examine` raises."""
    return proposals.examine(proposal, desk.fingerprint, desk.trust, desk.pinned_roster)


def sign(desk: Desk, examined: Examined, passphrase: Passphrase | None, *, again: bool = False) -> Proposal:
    """The proposal with the signatures of this desk's keys. What it follows on is pinned before, durably.

    A folder with two keys that both may sign (a key that replaces another) signs with each that the passphrase opens.
    ConfigError `not_a_governance_key`, `signed_another`; SealedError if no key could be opened.
    """
    wanted = {key for item in examined.proposal.items for one in examined.sets(item.kind) for key in one.keys}
    mine = [key for key in desk.folder.public_keys() if key in wanted]
    if not mine:
        raise ConfigError(
            "not_a_governance_key",
            f"{desk.folder.path} holds no key that may sign this proposal",
            not_done="nothing was signed",
            next_step="`fedveil governance show` lists the keys in force",
        )
    opened, refused = [], []
    for key in mine:
        try:
            opened.append(desk.folder.open_key(GovernanceSet(1, (key,)), passphrase))
        except SealedError as error:
            refused.append(error)
    if not opened:
        raise refused[0]
    proposal = examined.proposal
    desk.folder.pin(Pinned(desk.fingerprint, proposal.chain, proposal.roster))
    for kind, number, digest in examined.numbers():
        desk.folder.remember_signing(kind, number, digest, again=again)
    for private in opened:
        proposal = proposals.sign(proposals.examine(proposal, desk.fingerprint), private)
    return proposal


def lines_of(examined: Examined) -> list[str]:
    """All of what the proposal changes, and whose signatures it lacks."""
    return [*describe(examined), *missing_lines(examined)]


def trust_facts(before: Trust, after: Trust) -> Mapping[str, str]:
    """What a longer chain changed, for the participant's log."""
    old, new = before.governance, after.governance
    facts = {"sequence": str(after.sequence), "governance": f"{new.threshold} of {len(new.keys)}"}
    facts["keys_added"] = ",".join(sorted(key.hex()[:16] for key in set(new.keys) - set(old.keys)))
    facts["keys_removed"] = ",".join(sorted(key.hex()[:16] for key in set(old.keys) - set(new.keys)))
    if before.coordinator != after.coordinator:
        facts["coordinator"] = after.coordinator.hex()[:16]
    if before.authorities != after.authorities:
        facts["authorities"] = ",".join(digest.hex()[:16] for digest in after.authorities)
    return facts


def read_proposal(data: bytes, path: pathlib.Path) -> Proposal:
    """The proposal in a file that a person named. ConfigError `bad_proposal_file`."""
    try:
        return Proposal.decode(data)
    except FedveilError as error:
        raise ConfigError(
            "bad_proposal_file",
            f"{str(path)!r} is no proposal: {error.what}",
            next_step="give the file that `fedveil governance propose` wrote, unchanged",
        ) from None
