"""Commands about who decides: governance keys, their signatures, the certificate authority, a new coordinator."""

import pathlib
import sys
from typing import Annotated

import typer

from fedveil_cli.options import AsJson, GovernancePassphraseFile, Home, PassphraseFile, example, home_folder
from fedveil_cli.output import Output

Out = Annotated[pathlib.Path | None, typer.Option("--out", metavar="FILE", help="Where the file is written.")]
Files = Annotated[list[pathlib.Path], typer.Argument(metavar="FILE...", help="Signed copies of one proposal.")]
Fingerprint = Annotated[
    str | None,
    typer.Option("--fingerprint", metavar="HEX", help="The federation's, by telephone; needed the first time only."),
]


def register(app: typer.Typer) -> None:
    """Adds the commands to `app`."""
    group = typer.Typer(help="Who decides: governance keys and signatures.", epilog=example("fedveil governance show"))
    group.command("key", epilog=example("fedveil governance key --out acme.card"))(key)
    group.command("show", epilog=example("fedveil governance show --json"))(show)
    group.command(
        "propose", epilog=example("fedveil governance propose roster", "fedveil governance propose invite acme")
    )(propose)
    group.command("sign", epilog=example("fedveil governance sign roster-5.proposal"))(sign)
    group.command("publish", epilog=example("fedveil governance publish roster-5.proposal"))(publish)
    rotate_example = example("fedveil governance rotate --add acme.card --add globex.card --threshold 2")
    group.command("rotate", epilog=rotate_example)(rotate)
    group.command("follow", epilog=example("fedveil governance follow", "fedveil governance follow trust-3.proposal"))(
        follow
    )
    app.add_typer(group, name="governance")
    authority = typer.Typer(help="The certificate authority.", epilog=example("fedveil ca rotate"))
    authority.command("rotate", epilog=example("fedveil ca rotate --passphrase-file ca.txt"))(ca_rotate)
    authority.command("retire", epilog=example("fedveil ca retire 9f2c41ab77d01e35"))(ca_retire)
    app.add_typer(authority, name="ca")


def key(
    out: Out = None,
    passphrase_file: PassphraseFile = None,
    governance_passphrase_file: GovernancePassphraseFile = None,
    home: Home = None,
    as_json: AsJson = False,
) -> None:
    """Make a governance key in this home, and a card to hand over; an organisation's card says whose key it is."""
    from fedveil_cli import governance_commands
    from fedveil_cli.passphrases import governance_passphrase, journal_passphrase

    output, folder = Output(as_json), home_folder(home)
    journal = journal_passphrase(folder, passphrase_file, output) if governance_commands.is_member(folder) else None
    given = governance_passphrase(governance_passphrase_file, output, confirm=True)
    governance_commands.key(folder, out, journal, given, output)


def show(fingerprint: Fingerprint = None, home: Home = None, as_json: AsJson = False) -> None:
    """Show the governance keys, authorities and coordinator in force, with check words for the telephone."""
    from fedveil_cli import governance_commands

    governance_commands.show(home_folder(home), fingerprint, Output(as_json))


def propose(
    what: Annotated[str, typer.Argument(metavar="roster|invite|coordinator", help="What is proposed.")],
    organisation: Annotated[str | None, typer.Argument(metavar="[ORG]", help="For an invite: whom.")] = None,
    rekey: Annotated[bool, typer.Option("--rekey", help="Invite a member that lost its keys.")] = False,
    address: Annotated[
        str | None, typer.Option("--address", metavar="HOST[:PORT]", help="Where the new coordinator is reached.")
    ] = None,
    out: Out = None,
    passphrase_file: PassphraseFile = None,
    home: Home = None,
    as_json: AsJson = False,
) -> None:
    """Write a proposal for the holders of the governance keys to sign."""
    from fedveil_cli import governance_commands
    from fedveil_cli.passphrases import passphrase

    output = Output(as_json)
    given = None
    if what == "coordinator":
        given = passphrase(passphrase_file, "passphrase", "--passphrase-file", output)
    governance_commands.propose(home_folder(home), what, organisation, rekey, address, given, out, output)


def sign(
    file: Annotated[pathlib.Path, typer.Argument(metavar="FILE", help="The proposal; signatures are added to it.")],
    fingerprint: Fingerprint = None,
    yes: Annotated[
        bool, typer.Option("--yes", help="Sign without being asked: what it changes was read before.")
    ] = False,
    again: Annotated[
        bool, typer.Option("--again", help="Sign although another of this number was signed here.")
    ] = False,
    out: Out = None,
    governance_passphrase_file: GovernancePassphraseFile = None,
    home: Home = None,
    as_json: AsJson = False,
) -> None:
    """Show all of what a proposal changes, and sign it with this home's governance key."""
    from fedveil_cli import governance_commands

    output = Output(as_json)
    ask = None if yes else _confirmed
    governance_commands.sign(home_folder(home), file, out, fingerprint, again, ask, governance_passphrase_file, output)


def publish(
    files: Files,
    passphrase_file: PassphraseFile = None,
    home: Home = None,
    as_json: AsJson = False,
) -> None:
    """Combine the signed copies of a proposal, check them, and put it into force."""
    from fedveil_cli import governance_commands

    governance_commands.publish(home_folder(home), files, passphrase_file, Output(as_json))


def rotate(
    add: Annotated[
        list[str] | None, typer.Option("--add", metavar="CARD", help="A card of `governance key`; repeatable.")
    ] = None,
    remove: Annotated[
        list[str] | None, typer.Option("--remove", metavar="KEY", help="A key in hex, 16 digits or more; repeatable.")
    ] = None,
    threshold: Annotated[
        int | None, typer.Option("--threshold", metavar="K", help="How many keys decide together.")
    ] = None,
    out: Out = None,
    governance_passphrase_file: GovernancePassphraseFile = None,
    home: Home = None,
    as_json: AsJson = False,
) -> None:
    """Change the governance set: keys added, removed, another k. Signed by k of the old set and k of the new one."""
    from fedveil_cli import governance_commands

    governance_commands.rotate(
        home_folder(home), add or [], remove or [], threshold, out, governance_passphrase_file, Output(as_json)
    )


def follow(
    files: Annotated[
        list[pathlib.Path] | None, typer.Argument(metavar="[FILE...]", help="Signed copies of the proposal.")
    ] = None,
    address: Annotated[
        str | None, typer.Option("--address", metavar="HOST:PORT", help="Where the coordinator is reached now.")
    ] = None,
    home: Home = None,
    as_json: AsJson = False,
) -> None:
    """Take a longer trust chain, from the coordinator or from files. In an organisation's home; stop `participate`."""
    from fedveil_cli import governance_commands

    governance_commands.follow(home_folder(home), files or [], address, Output(as_json))


def ca_rotate(
    out: Out = None,
    passphrase_file: PassphraseFile = None,
    governance_passphrase_file: GovernancePassphraseFile = None,
    home: Home = None,
    as_json: AsJson = False,
) -> None:
    """Make a new certificate authority, in force beside the old one until that is retired."""
    from fedveil_cli import governance_commands
    from fedveil_cli.passphrases import passphrase

    output = Output(as_json)
    given = passphrase(passphrase_file, "passphrase", "--passphrase-file", output, confirm=True)
    governance_commands.ca_rotate(home_folder(home), given, out, governance_passphrase_file, output)


def ca_retire(
    old: Annotated[str, typer.Argument(metavar="OLD", help="Its digest in hex, 16 digits or more.")],
    out: Out = None,
    passphrase_file: PassphraseFile = None,
    governance_passphrase_file: GovernancePassphraseFile = None,
    home: Home = None,
    as_json: AsJson = False,
) -> None:
    """End an old certificate authority, once nobody calls with a certificate of it. `serve` is stopped for it."""
    from fedveil_cli import governance_commands

    governance_commands.ca_retire(
        home_folder(home), old, out, passphrase_file, governance_passphrase_file, Output(as_json)
    )


def _confirmed() -> bool:
    """What a person answers at the terminal; where there is none, no."""
    return sys.stdin.isatty() and typer.confirm("sign this?", err=True)
