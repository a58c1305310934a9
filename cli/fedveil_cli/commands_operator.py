"""Commands of the operator: make a federation, serve it, say who belongs to it."""

import pathlib
from typing import Annotated

import typer

from fedveil_cli import reserved
from fedveil_cli.options import AsJson, GovernancePassphraseFile, Home, PassphraseFile, example, home_folder
from fedveil_cli.output import Output

Organisation = Annotated[str, typer.Argument(metavar="ORG", help="The organisation's name: a-z, 0-9, - and _.")]


def register(app: typer.Typer) -> None:
    """Adds the commands to `app`."""
    app.command(epilog=example("fedveil init hospitals --address fed.example.org"))(init)
    app.command(epilog=example("fedveil serve --passphrase-file ca.txt"))(serve)
    app.command(epilog=example("fedveil invite acme"))(invite)
    app.command(epilog=example('fedveil revoke acme --reason "left the study"'))(revoke)
    app.command(epilog=example("fedveil fingerprint"))(fingerprint)
    app.command(epilog=example("fedveil status --json"))(status)
    app.command(epilog=example("fedveil health"))(health)


def init(
    name: Annotated[str, typer.Argument(metavar="NAME", help="The federation's name: a-z, 0-9, - and _.")],
    address: Annotated[
        str,
        typer.Option("--address", metavar="HOST[:PORT]", help="Where participants reach it (port 7443; enrolment +1)."),
    ],
    governance_dir: Annotated[
        pathlib.Path | None,
        typer.Option("--governance-dir", metavar="DIR", help="Where the governance key goes: another medium."),
    ] = None,
    passphrase_file: PassphraseFile = None,
    governance_passphrase_file: GovernancePassphraseFile = None,
    recover: Annotated[bool, typer.Option("--recover", hidden=True)] = False,
    home: Home = None,
    as_json: AsJson = False,
) -> None:
    """Make a federation: certificate authority, governance key, operator's certificate. Prints the fingerprint."""
    if recover:
        raise reserved.not_in_this_release("`fedveil init --recover`", "0.2")
    from fedveil_cli import identity_commands
    from fedveil_cli.passphrases import governance_passphrase, passphrase
    from fedveil_cli.world import real_world

    output = Output(as_json)
    authority = passphrase(passphrase_file, "passphrase", "--passphrase-file", output, confirm=True)
    governance = governance_passphrase(governance_passphrase_file, output, confirm=True)
    report = identity_commands.run_init(
        home_folder(home), name, address, authority, governance, governance_dir, real_world()
    )
    output.report(report)


def serve(
    keep_inputs: Annotated[
        int | None,
        typer.Option("--keep-inputs", metavar="MIB", min=0, help="Masked inputs kept for audits (else 2048)."),
    ] = None,
    passphrase_file: PassphraseFile = None,
    home: Home = None,
    as_json: AsJson = False,
) -> None:
    """Run the coordinator. Opens the key of the certificate authority, never the governance key."""
    from fedveil_cli import service_commands
    from fedveil_cli.passphrases import passphrase

    output = Output(as_json)
    given = passphrase(passphrase_file, "passphrase", "--passphrase-file", output)
    keep_bytes = None if keep_inputs is None else keep_inputs * 1024**2
    service_commands.serve(home_folder(home), given, keep_bytes, output)


def invite(
    organisation: Organisation,
    rekey: Annotated[bool, typer.Option("--rekey", help="For a member that lost its keys or its journal.")] = False,
    governance_passphrase_file: GovernancePassphraseFile = None,
    confirm: Annotated[bool, typer.Option("--confirm", hidden=True)] = False,
    home: Home = None,
    as_json: AsJson = False,
) -> None:
    """Print a token that lets one organisation join: once, within 24 hours. Opens the governance key."""
    if confirm:
        raise reserved.not_in_this_release("`fedveil invite --confirm`", "0.2")
    from fedveil_cli import identity_commands, run_commands
    from fedveil_cli.passphrases import governance_passphrase
    from fedveil_cli.world import real_world

    output = Output(as_json)
    folder = home_folder(home)
    admin = run_commands.connect(folder)
    alone = identity_commands.governs_alone(folder)
    governance = governance_passphrase(governance_passphrase_file, output) if alone else None
    report = identity_commands.run_invite(folder, organisation, rekey, governance, admin, real_world())
    output.note(f"give this token to {organisation}; it works once, within 24 hours")
    output.result(dict(report), [str(report["token"])])


def revoke(
    organisation: Organisation,
    reason: Annotated[str, typer.Option("--reason", metavar="TEXT", help="For the record.")],
    governance_passphrase_file: GovernancePassphraseFile = None,
    home: Home = None,
    as_json: AsJson = False,
) -> None:
    """End an organisation's membership at once. Opens the governance key to sign the next roster."""
    from fedveil_cli import identity_commands, run_commands
    from fedveil_cli.passphrases import governance_passphrase_if_any

    output = Output(as_json)
    folder = home_folder(home)
    identity_commands.check_reason(reason)
    admin = run_commands.connect(folder)
    alone = identity_commands.governs_alone(folder)
    governance = governance_passphrase_if_any(governance_passphrase_file, output) if alone else None
    report = identity_commands.run_revoke(folder, organisation, reason, governance, admin)
    lines = [f"{report['ended']} live sessions ended, {report['open']} still open"]
    output.result(dict(report), [*lines, str(report.get("warning", f"roster version {report['roster_version']}"))])


def fingerprint(home: Home = None, as_json: AsJson = False) -> None:
    """Print the federation's fingerprint, to be compared by telephone."""
    from fedveil_cli import identity_commands

    Output(as_json).report(identity_commands.run_fingerprint(home_folder(home)))


def status(home: Home = None, as_json: AsJson = False) -> None:
    """Show who is there, what runs, and for whom each wait waits and until when."""
    from fedveil_cli import service_commands

    service_commands.status(home_folder(home), Output(as_json))


def health(home: Home = None, as_json: AsJson = False) -> None:
    """Tell whether this home's coordinator or participant is up (exit code 0) or not (69)."""
    from fedveil_cli import service_commands

    service_commands.health(home_folder(home), Output(as_json))
