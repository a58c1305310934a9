"""`governance publish`: signed copies of one proposal become what is in force.

Promise: nothing is published that a participant would refuse, and each step may be repeated: what was signed is durable
here before the coordinator is told, and a publication that broke off is finished by the same command.
"""

from collections.abc import Callable, Sequence

from fedveil_common.errors import ConfigError, Unreachable
from fedveil_common.pki import proposals
from fedveil_common.pki.governance import Signed, decode_chain, verify_chain
from fedveil_common.pki.proposals import Examined, Kind, Proposal
from fedveil_common.pki.reading_proposals import missing_lines
from fedveil_common.succession import roster_of_its_time
from fedveil_coordinator import founding, membership

from fedveil_cli.identity_commands import AdminClient, Report

Install = Callable[[Examined], Sequence[str]]
"""What a change of authorities or of the coordinator does in this home; the notes for the person."""


def examine_copies(federation: founding.Federation, copies: Sequence[Proposal]) -> Examined:
    """The united proposal, complete, and checked against what is in force here; also one that was published in part.

    ConfigError `proposals_differ`, `signatures_missing`; PeerError as `proposals.examine`.
    """
    united = proposals.unite(copies)
    trust, roster = federation.trust, None
    if _begun(federation, united):
        trust = verify_chain(united.chain, federation.fingerprint)
    elif united.item(Kind.TRUST) is not None or united.item(Kind.ROSTER) is not None:
        roster = roster_of_its_time(federation.last_roster(), trust)  # one that was overtaken is refused
    examined = proposals.examine(united, federation.fingerprint, trust, roster)
    if not examined.complete:
        raise ConfigError(
            "signatures_missing",
            "signatures are missing\n" + "\n".join(missing_lines(examined)),
            not_done="nothing was published",
            next_step="each holder runs `fedveil governance sign FILE`; give all the signed copies",
        )
    proposals.next_chain(examined)
    proposals.next_roster(examined)
    proposals.next_invite(examined)
    return examined


def _begun(federation: founding.Federation, proposal: Proposal) -> bool:
    """Whether an earlier publication of this proposal got as far as this home's chain or roster."""
    link, roster = proposal.item(Kind.TRUST), proposal.item(Kind.ROSTER)
    if link is not None:
        bodies = [*(one.body for one in decode_chain(proposal.chain)), link.body]
        return [one.body for one in decode_chain(federation.trust_chain)] == bodies
    return roster is not None and Signed.decode(federation.last_roster()).body == roster.body


def publish(federation: founding.Federation, examined: Examined, admin: AdminClient, install: Install) -> Report:
    """Put a complete proposal into force: here first, then at the coordinator.

    Raises Unreachable if a roster or an invite could not be handed to the coordinator: the command is repeated then.
    """
    notes = list(install(examined))
    report: Report = {}
    replaced = examined.after.coordinator != examined.before.coordinator
    if examined.link is not None:
        chain = proposals.next_chain(examined)
        federation.save_trust(chain)
        report["trust_sequence"] = examined.link.sequence
        if not replaced:
            notes.extend(_hand_over_chain(chain, admin))
    signed = proposals.next_roster(examined)
    if signed is not None and examined.following is not None:
        report["roster_version"] = examined.following.version
        federation.add_void_tokens(membership.void_tokens(examined.current, examined.following))
        _save_roster(federation, examined, signed)
        if not replaced:
            admin.publish_roster(signed)
    invite = proposals.next_invite(examined)
    if invite is not None and examined.invite is not None:
        admin.register_invite(invite)
        report["org"] = examined.invite.org_id
    report["notes"] = notes
    return report


def _save_roster(federation: founding.Federation, examined: Examined, signed: bytes) -> None:
    known = roster_of_its_time(federation.last_roster(), examined.after)
    if examined.following is not None and known.version < examined.following.version:
        federation.save_last_roster(signed)


def _hand_over_chain(chain: bytes, admin: AdminClient) -> list[str]:
    try:
        admin.publish_trust(chain)
    except Unreachable:
        return ["the coordinator does not run: it serves the longer chain from its next start on"]
    return []
