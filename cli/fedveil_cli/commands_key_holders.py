"""Commands about keys that the holders make together: `fedveil key terms`, `key holders`, `key refresh`, `key pin`, and
`key publish` for the coordinator.
"""

import pathlib
from typing import Annotated

import typer

from fedveil_cli import options
from fedveil_cli.options import AsJson, Home, PassphraseFile, example
from fedveil_cli.output import Output

Folder = Annotated[
    pathlib.Path, typer.Option("--out", metavar="FOLDER", help="Where our messages are written, for all other holders.")
]
KeyId = Annotated[str | None, typer.Option("--id", metavar="KEY-ID", help="Which key, if this home has several.")]
Messages = Annotated[
    list[pathlib.Path] | None,
    typer.Argument(metavar="FILE_OR_FOLDER...", help="Messages of the others; a folder's .message files."),
]
Absent = Annotated[
    list[str] | None,
    typer.Option("--absent", metavar="ORG", help="A holder that does not take part this time; repeatable."),
]
TermsFile = Annotated[pathlib.Path, typer.Argument(metavar="TERMS", help="What `fedveil key terms` wrote.")]
RecordFile = Annotated[pathlib.Path, typer.Argument(metavar="RECORD", help="The record of the key in its epoch.")]
Root = Annotated[
    str | None,
    typer.Option("--root", metavar="HEX", help="The root as you compared it by telephone; another one is refused."),
]


def register(group: typer.Typer) -> None:
    """Adds the commands to the group `key`."""
    terms_example = example(
        "fedveil key terms --modulus modulus.json --id icu-1 --holder acme --holder borealis --out terms.json"
    )
    group.command("terms", epilog=terms_example)(terms)
    start_example = example("fedveil key holders start terms.json --out outbox/")
    holders = typer.Typer(help="Make a key together with the other holders, without a dealer.", epilog=start_example)
    holders.command("start", epilog=start_example)(start)
    holders.command("take", epilog=example("fedveil key holders take inbox/ --out outbox/"))(take)
    holders.command("show", epilog=example("fedveil key holders show --json"))(show)
    group.add_typer(holders, name="holders")
    refresh_example = example("fedveil key refresh start --out outbox/")
    refresh = typer.Typer(help="Move a key of holders on to its next epoch.", epilog=refresh_example)
    refresh.command("start", epilog=refresh_example)(start_refresh)
    refresh.command("take", epilog=example("fedveil key refresh take inbox/ --out outbox/"))(take_refresh)
    refresh.command("adopt", epilog=example("fedveil key refresh adopt icu-1.epoch-1.record"))(adopt)
    group.add_typer(refresh, name="refresh")
    publish_example = example("fedveil key publish terms.json icu-1.epoch-0.record")
    group.command("publish", epilog=publish_example)(publish)
    group.command("pin", epilog=example("fedveil key pin terms.json icu-1.epoch-0.record"))(pin)


def terms(
    modulus: Annotated[pathlib.Path, typer.Option("--modulus", metavar="FILE", help="The record of the modulus.")],
    key_id: Annotated[str, typer.Option("--id", metavar="KEY-ID", help="A name that no ceremony had before.")],
    holder: Annotated[
        list[str],
        typer.Option("--holder", metavar="ORG[=KEY]", help="A holder; its key is the roster's or KEY. Repeatable."),
    ],
    out: Annotated[pathlib.Path, typer.Option("--out", metavar="FILE", help="Where the terms are written.")],
    threshold: Annotated[
        int | None, typer.Option("--threshold", metavar="T", help="How many holders open a sum (else half of N + C).")
    ] = None,
    max_corrupt: Annotated[
        int, typer.Option("--max-corrupt", metavar="C", min=0, help="How many holders may be corrupt.")
    ] = 1,
    columns: Annotated[
        int, typer.Option("--columns", metavar="K", help="Ciphertexts under one header, 1 to 255.")
    ] = 32,
    federation: Annotated[
        str | None, typer.Option("--federation", metavar="ID", help="The federation (else that of the home).")
    ] = None,
    passphrase_file: PassphraseFile = None,
    home: Home = None,
    as_json: AsJson = False,
) -> None:
    """Write the terms of a key: modulus, holders, threshold. Everybody compares them before anything else."""
    from fedveil_cli import key_terms_commands
    from fedveil_cli.world import real_world

    key_terms_commands.terms(
        modulus,
        out,
        key_id,
        holder,
        threshold,
        max_corrupt,
        columns,
        federation,
        options.home_folder(home),
        passphrase_file,
        real_world(),
        Output(as_json),
    )


def start(
    terms_file: TermsFile,
    out: Folder,
    root: Root = None,
    passphrase_file: PassphraseFile = None,
    home: Home = None,
    as_json: AsJson = False,
) -> None:
    """Begin the ceremony of a key as one of its holders, and write our first message."""
    from fedveil_cli import key_holders_commands
    from fedveil_cli.world import real_world

    compared = None if root is None else options.fingerprint_bytes(root)
    folder = options.home_folder(home)
    key_holders_commands.start(folder, terms_file, out, compared, passphrase_file, real_world(), Output(as_json))


def take(
    out: Folder,
    messages: Messages = None,
    key_id: KeyId = None,
    passphrase_file: PassphraseFile = None,
    home: Home = None,
    as_json: AsJson = False,
) -> None:
    """Take the others' messages, in any order, and write ours; the last one makes key and record."""
    from fedveil_cli import key_holders_commands
    from fedveil_cli.world import real_world

    folder = options.home_folder(home)
    output = Output(as_json)
    key_holders_commands.take(folder, messages or [], out, key_id, passphrase_file, real_world(), output)


def show(
    key_id: KeyId = None, passphrase_file: PassphraseFile = None, home: Home = None, as_json: AsJson = False
) -> None:
    """Show the keys of this home: stage, who is awaited, and the root and fingerprint to compare by telephone."""
    from fedveil_cli import key_holders_commands
    from fedveil_cli.world import real_world

    folder = options.home_folder(home)
    key_holders_commands.show(folder, key_id, passphrase_file, real_world(), Output(as_json))


def start_refresh(
    out: Folder,
    absent: Absent = None,
    key_id: KeyId = None,
    passphrase_file: PassphraseFile = None,
    home: Home = None,
    as_json: AsJson = False,
) -> None:
    """Begin the next epoch of a key as one of its holders, and write our lists."""
    from fedveil_cli import key_holders_commands
    from fedveil_cli.world import real_world

    folder = options.home_folder(home)
    output = Output(as_json)
    key_holders_commands.start_refresh(folder, absent or [], out, key_id, passphrase_file, real_world(), output)


def take_refresh(
    out: Folder,
    messages: Messages = None,
    absent: Absent = None,
    key_id: KeyId = None,
    passphrase_file: PassphraseFile = None,
    home: Home = None,
    as_json: AsJson = False,
) -> None:
    """Take the others' messages of the next epoch and write ours; at the end the old seeds are erased."""
    from fedveil_cli import key_holders_commands
    from fedveil_cli.world import real_world

    folder = options.home_folder(home)
    key_holders_commands.take_refresh(
        folder, messages or [], absent or [], out, key_id, passphrase_file, real_world(), Output(as_json)
    )


def adopt(
    record: RecordFile, passphrase_file: PassphraseFile = None, home: Home = None, as_json: AsJson = False
) -> None:
    """Follow the others into the next epoch by their record, as a holder that was away."""
    from fedveil_cli import key_holders_commands
    from fedveil_cli.world import real_world

    folder = options.home_folder(home)
    key_holders_commands.adopt(folder, record, passphrase_file, real_world(), Output(as_json))


def publish(terms_file: TermsFile, record: RecordFile, home: Home = None, as_json: AsJson = False) -> None:
    """Hand a key that its holders made to the coordinator, as its operator: epoch 0 first, then one after the other."""
    from fedveil_cli import key_holders_commands

    key_holders_commands.publish(options.home_folder(home), terms_file, record, Output(as_json))


def pin(
    terms_file: TermsFile,
    record: RecordFile,
    root: Root = None,
    passphrase_file: PassphraseFile = None,
    home: Home = None,
    as_json: AsJson = False,
) -> None:
    """Pin the key of a record, under the root of its terms: epoch 0 first, then one after the other, never back."""
    from fedveil_cli import key_holders_commands
    from fedveil_cli.world import real_world

    compared = None if root is None else options.fingerprint_bytes(root)
    folder = options.home_folder(home)
    key_holders_commands.pin(folder, terms_file, record, compared, passphrase_file, real_world(), Output(as_json))
