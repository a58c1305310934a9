"""Commands about governance as a person sees them: what they print, which file they write, how they end.

A proposal that one key of this home may sign alone is published at once; else it becomes a file and the command says
whose signatures it lacks.
"""

import pathlib
from collections.abc import Callable, Sequence

from fedveil_common.errors import ConfigError, SealedError
from fedveil_common.pki import holders
from fedveil_common.pki.proposals import MAX_PROPOSAL, Examined, Proposal
from fedveil_common.pki.reading_proposals import key_text, missing_lines
from fedveil_common.secret import Passphrase
from fedveil_coordinator import founding
from fedveil_participant.membership import has_membership, load_membership
from fedveil_participant.store import journal_key, open_store

from fedveil_cli import following, governing, proposing, publishing, run_commands, succeeding
from fedveil_cli.files import read_file, write_file
from fedveil_cli.governing import MAX_CARD, Card
from fedveil_cli.options import fingerprint_bytes
from fedveil_cli.output import Output
from fedveil_cli.passphrases import governance_passphrase, passphrase
from fedveil_cli.world import World, real_world

Report = dict[str, object]


def is_member(home: pathlib.Path) -> bool:
    """Whether `home` is an organisation's."""
    return has_membership(home)


def key(
    home: pathlib.Path, out: pathlib.Path | None, journal: Passphrase | None, given: Passphrase, output: Output
) -> None:
    """`governance key`: a key in this home, and its card."""
    world = real_world()
    card = governing.make_key(governing.governance_folder(home), given, world)
    if is_member(home):
        card = _attested(home, card, journal, world)
    holder = "" if card.holder is None else str(card.holder.org_id)
    if out is not None:
        write_file(out, "the key card", card.encode())
    lines = [f"key {key_text(card.key)}", f"card {card.encode().decode()}" if out is None else f"card written to {out}"]
    lines.append(f"member {holder} says that it is its own" if holder else "no member stands for it")
    output.result({"key": card.key.hex(), "holder": holder, "card": card.encode().decode()}, lines)
    output.note("hand the card to the operator; it counts for nothing before `fedveil governance rotate` names it")


def _attested(home: pathlib.Path, card: Card, journal: Passphrase | None, world: World) -> Card:
    """The card with the word of the organisation whose home this is, under its protocol key."""
    from fedveil_common.database import FolderLock

    member = load_membership(home)
    with FolderLock(home):
        store = open_store(home, journal_key(home, journal), world.clock, world.entropy)
        try:
            said = holders.attest(member.federation_id, member.org_id, card.key, store.protocol_key())
        finally:
            store.close()
    return Card(card.key, said)


def show(home: pathlib.Path, fingerprint: str | None, output: Output) -> None:
    """`governance show`."""
    known = None if fingerprint is None else fingerprint_bytes(fingerprint)
    output.result(*governing.show(governing.open_desk(home, known)))


def propose(
    home: pathlib.Path,
    what: str,
    organisation: str | None,
    rekey: bool,
    address: str | None,
    given: Passphrase | None,
    out: pathlib.Path | None,
    output: Output,
) -> None:
    """`governance propose`: the file, unsigned."""
    federation, world = founding.load_federation(home), real_world()
    token = ""
    match what, organisation:
        case "roster", None:
            examined = proposing.propose_roster(federation, run_commands.connect(home))
        case "invite", str(org):
            made = proposing.propose_invite(federation, org, run_commands.connect(home), world, rekey=rekey)
            examined, token = made.examined, made.token
        case "coordinator", None:
            federation, own = succeeding.prepare_handover(federation, given, address, world)
            examined = proposing.propose_coordinator(federation, own)
        case _:
            raise ConfigError(
                "usage",
                f"`fedveil governance propose {what}` is none of: roster, invite ORG, coordinator",
                next_step="`fedveil governance propose --help`",
            )
    report, lines = _written(examined, examined.proposal, out)
    if token:
        output.note("the token works once the proposal is published; give it to the organisation then")
        report["token"] = token
        lines.append(token)
    _tell(examined, output)
    output.result(report, lines)


def sign(
    home: pathlib.Path,
    file: pathlib.Path,
    out: pathlib.Path | None,
    fingerprint: str | None,
    again: bool,
    ask: Callable[[], bool] | None,
    passphrase_file: pathlib.Path | None,
    output: Output,
) -> None:
    """`governance sign`: what it changes on stderr, then the signature into the file."""
    known = None if fingerprint is None else fingerprint_bytes(fingerprint)
    desk = governing.open_desk(home, known)
    examined = governing.look(desk, _read(file))
    _tell(examined, output)
    if ask is not None and not ask():
        raise ConfigError(
            "not_confirmed",
            "the proposal was not confirmed",
            not_done="nothing was signed",
            next_step="read what it changes; at a terminal answer y, elsewhere give --yes",
        )
    signed = governing.sign(desk, examined, governance_passphrase(passphrase_file, output), again=again)
    now = governing.look(desk, signed)
    report, lines = _written(now, signed, out or file)
    output.result(report, [*lines, *missing_lines(now)])


def publish(
    home: pathlib.Path, files: Sequence[pathlib.Path], passphrase_file: pathlib.Path | None, output: Output
) -> None:
    """`governance publish`."""
    federation = founding.load_federation(home)
    examined = publishing.examine_copies(federation, [_read(path) for path in files])
    _tell(examined, output)
    _publish(federation, examined, passphrase_file, output)


def rotate(
    home: pathlib.Path,
    add: Sequence[str],
    remove: Sequence[str],
    threshold: int | None,
    out: pathlib.Path | None,
    passphrase_file: pathlib.Path | None,
    output: Output,
) -> None:
    """`governance rotate`."""
    federation = founding.load_federation(home)
    cards = [Card.decode(_card_text(text)) for text in add]
    examined = proposing.propose_set(federation, cards, remove, threshold)
    _finish(home, federation, examined, out, passphrase_file, None, output)


def ca_rotate(
    home: pathlib.Path, given: Passphrase, out: pathlib.Path | None, file: pathlib.Path | None, output: Output
) -> None:
    """`ca rotate`: `given` seals the new authority's key."""
    federation = founding.load_federation(home)
    digests, pem = succeeding.next_authority(federation, given, real_world())
    examined = proposing.propose_authorities(federation, digests, pem)
    _finish(home, federation, examined, out, file, None, output)


def ca_retire(
    home: pathlib.Path,
    old: str,
    out: pathlib.Path | None,
    passphrase_file: pathlib.Path | None,
    governance_file: pathlib.Path | None,
    output: Output,
) -> None:
    """`ca retire`."""
    federation = founding.load_federation(home)
    gone = proposing.named(old, federation.trust.authorities, "certificate authority")
    left = tuple(digest for digest in federation.trust.authorities if digest != gone)
    if not left:
        raise ConfigError(
            "authority_in_use",
            "this is the only certificate authority in force",
            not_done="it stays in force",
            next_step="`fedveil ca rotate` makes a new one first",
        )
    examined = proposing.propose_authorities(federation, left, b"")
    _finish(home, federation, examined, out, governance_file, passphrase_file, output)


def follow(home: pathlib.Path, files: Sequence[pathlib.Path], address: str | None, output: Output) -> None:
    """`governance follow`."""
    output.report(following.run_follow(home, [_read(path) for path in files], address))


def _finish(
    home: pathlib.Path,
    federation: founding.Federation,
    examined: Examined,
    out: pathlib.Path | None,
    governance_file: pathlib.Path | None,
    authority_file: pathlib.Path | None,
    output: Output,
) -> None:
    """Sign with what this home holds; publish if that is enough, else write the file and say what is missing."""
    _tell(examined, output)
    desk, proposal = governing.open_desk(home), examined.proposal
    mine = desk.folder.public_keys()
    if any(need.missing and mine.keys() & set(need.open) for need in examined.needs()):
        try:
            proposal = governing.sign(desk, examined, governance_passphrase(governance_file, output), again=True)
        except SealedError as error:
            if federation.governs_alone:
                raise
            output.warn(f"{error.what}: the file is without this home's signature")
    now = governing.look(desk, proposal)
    if now.complete:
        _publish(federation, publishing.examine_copies(federation, [proposal]), authority_file, output)
        return
    report, lines = _written(now, proposal, out)
    lines.append("each holder runs `fedveil governance sign FILE`; then `fedveil governance publish FILE`")
    output.result(report, [*lines, *missing_lines(now)])


def _publish(
    federation: founding.Federation, examined: Examined, passphrase_file: pathlib.Path | None, output: Output
) -> None:
    given = None
    if succeeding.needs_authority(federation, examined):
        given = passphrase(passphrase_file, "passphrase", "--passphrase-file", output)
    admin = run_commands.connect(federation.home)
    report = succeeding.publish(federation, examined, given, admin, real_world())
    notes = report.pop("notes", [])
    for note in notes if isinstance(notes, list) else []:
        output.note(str(note))
    line = ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in report.items())
    output.result({"published": True, **report}, [f"published: {line}"])


def _tell(examined: Examined, output: Output) -> None:
    for line in governing.lines_of(examined):
        output.note(line)


def _written(examined: Examined, proposal: Proposal, out: pathlib.Path | None) -> tuple[Report, list[str]]:
    path = out or proposing.proposal_name(examined)
    write_file(path, "the proposal", proposal.encode())
    needs = [
        {"document": need.kind.value, "needed": need.threshold, "present": len(need.present), "missing": need.missing}
        for need in examined.needs()
    ]
    return {"file": str(path), "published": False, "signatures": needs}, [f"proposal written to {path}"]


def _read(path: pathlib.Path) -> Proposal:
    return governing.read_proposal(read_file(path, "the proposal", MAX_PROPOSAL), path)


def _card_text(text: str) -> bytes:
    """A card from its file, or the card itself as it was pasted."""
    return text.encode() if text.lstrip().startswith("{") else read_file(pathlib.Path(text), "the key card", MAX_CARD)
