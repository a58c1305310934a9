"""Commands about an organisation's data: `fedveil data`. Those about sealed files need no home."""

import pathlib
from typing import Annotated

import typer

from fedveil_cli import commands_masking, options, reserved
from fedveil_cli.options import AsJson, Home, PassphraseFile, example
from fedveil_cli.output import Output

DataSet = Annotated[str, typer.Argument(metavar="NAME", help="The data set, by the name that plans use.")]
File = Annotated[pathlib.Path, typer.Argument(metavar="FILE", help="The file.")]
SealedFile = Annotated[pathlib.Path, typer.Argument(metavar="FILE", help="The sealed file.")]
Out = Annotated[pathlib.Path, typer.Option("--out", metavar="FILE", help="Where it is written.")]
To = Annotated[
    list[pathlib.Path] | None,
    typer.Option("--to", metavar="PUBLIC", help="A recipient's public key (PEM: X25519, or RSA from 3072 bits)."),
]
Key = Annotated[
    pathlib.Path | None, typer.Option("--key", metavar="PRIVATE", help="The private key of one recipient (PEM).")
]
Name = Annotated[
    str | None, typer.Option("--name", metavar="NAME", help="What the file holds: a name of a-z, 0-9, - and _.")
]
Federation = Annotated[
    str | None, typer.Option("--federation", metavar="ID", help="The federation that it belongs to (else: local).")
]


def register(app: typer.Typer) -> None:
    """Adds the commands to `app`."""
    seal_example = example("fedveil data seal visits.csv --to analyst.pub --name visits --out visits.sealed")
    group = typer.Typer(help="An organisation's data sets, and files sealed for recipients.", epilog=seal_example)
    group.command(
        "add",
        epilog=example(
            "fedveil data add icu_stays --source icu.parquet",
            "fedveil data add icu_stays --source postgresql://reader@localhost/clinic --table icu.stays "
            "--password-file db.txt",
        ),
    )(add)
    group.command("list", epilog=example("fedveil data list --json"))(list_)
    group.command(
        "exclude",
        epilog=example(
            "fedveil data exclude icu_stays --ids objected.txt --column patient_id",
            "fedveil data exclude icu_stays --list",
        ),
    )(exclude)
    group.command("forget", epilog=example("fedveil data forget icu_stays --out receipt.json"))(forget)
    group.command("key", epilog=example("fedveil data key --out analyst", "fedveil data key --rsa --out analyst"))(key)
    group.command("seal", epilog=seal_example)(seal)
    group.command("open", epilog=example("fedveil data open visits.sealed --key analyst.key --out visits.csv"))(open_)
    rewrap_example = example(
        "fedveil data rewrap visits.sealed --key analyst.key --to auditor.pub --out for-audit.sealed"
    )
    group.command("rewrap", epilog=rewrap_example)(rewrap)
    group.command("show", epilog=example("fedveil data show visits.sealed"))(show)
    commands_masking.register(group)
    reserved.register(group, "data")
    app.add_typer(group, name="data")


def add(
    name: DataSet,
    source: Annotated[
        str, typer.Option("--source", metavar="PATH|URL", help="A file, a folder of files, or a database's URL.")
    ],
    table: Annotated[
        str | None, typer.Option("--table", metavar="TABLE", help="The table of the database: NAME or SCHEMA.NAME.")
    ] = None,
    query: Annotated[
        str | None, typer.Option("--query", metavar="SQL", help="Your own query, which reads: filters are yours.")
    ] = None,
    query_file: Annotated[
        pathlib.Path | None, typer.Option("--query-file", metavar="FILE", help="Holds the query.")
    ] = None,
    password_file: Annotated[
        pathlib.Path | None,
        typer.Option("--password-file", metavar="FILE", help="Holds the database's password; read at every start."),
    ] = None,
    key: Annotated[
        pathlib.Path | None,
        typer.Option("--key", metavar="PRIVATE", help="The private key (PEM) that sealed files are for."),
    ] = None,
    key_passphrase_file: Annotated[
        pathlib.Path | None,
        typer.Option("--key-passphrase-file", metavar="FILE", help="Holds the passphrase of that key, if it has one."),
    ] = None,
    rules: Annotated[
        pathlib.Path | None,
        typer.Option("--rules", metavar="FILE", help="Masking rules: the data is used masked by them, or not at all."),
    ] = None,
    where: Annotated[
        list[str] | None,
        typer.Option("--where", metavar="COLUMN=VALUE", help="Use only rows with this value, of files; repeatable."),
    ] = None,
    replace: Annotated[
        bool, typer.Option("--replace", help="Put this in the place of an earlier registration.")
    ] = False,
    passphrase_file: PassphraseFile = None,
    home: Home = None,
    as_json: AsJson = False,
) -> None:
    """Register a data set under a name: `participate` then needs no --data. It is read once, to the end."""
    from fedveil_cli import data_commands
    from fedveil_cli.passphrases import journal_passphrase

    output, folder = Output(as_json), options.home_folder(home)
    given = data_commands.Given(
        source, table, query, query_file, password_file, key, key_passphrase_file, rules, where or []
    )
    data_commands.add(folder, name, given, replace, journal_passphrase(folder, passphrase_file, output), output)


def list_(passphrase_file: PassphraseFile = None, home: Home = None, as_json: AsJson = False) -> None:
    """List the data sets that are registered, where they lie, what masks them, and which runs are open over them."""
    from fedveil_cli import data_commands
    from fedveil_cli.passphrases import journal_passphrase

    output, folder = Output(as_json), options.home_folder(home)
    data_commands.list_(folder, journal_passphrase(folder, passphrase_file, output), output)


def exclude(
    name: DataSet,
    ids: Annotated[
        pathlib.Path | None, typer.Option("--ids", metavar="FILE", help="The persons' ids, one on each line.")
    ] = None,
    column: Annotated[
        str | None,
        typer.Option("--column", metavar="COLUMN", help="Which column holds them (else the one used before)."),
    ] = None,
    undo: Annotated[bool, typer.Option("--undo", help="Take these persons in again.")] = False,
    listed: Annotated[bool, typer.Option("--list", help="Show how many are excluded, and nothing else.")] = False,
    passphrase_file: PassphraseFile = None,
    home: Home = None,
    as_json: AsJson = False,
) -> None:
    """Leave persons who objected out of every later run. Only keyed digests of their ids are kept."""
    from fedveil_common.errors import ConfigError

    from fedveil_cli import exclusion_commands
    from fedveil_cli.passphrases import journal_passphrase

    output, folder = Output(as_json), options.home_folder(home)
    if listed == (ids is not None) or (listed and (undo or column is not None)):
        raise ConfigError(
            "usage",
            "give --ids FILE, with --column or --undo where needed, or --list alone",
            next_step="--ids objected.txt",
        )
    passphrase = journal_passphrase(folder, passphrase_file, output)
    if ids is None:
        exclusion_commands.show(folder, name, passphrase, output)
        return
    exclusion_commands.exclude(folder, name, ids, column, undo, passphrase, output)


def forget(
    name: DataSet,
    out: Annotated[
        pathlib.Path | None, typer.Option("--out", metavar="FILE", help="Where the receipt is written too.")
    ] = None,
    passphrase_file: PassphraseFile = None,
    home: Home = None,
    as_json: AsJson = False,
) -> None:
    """Erase a data set's registration and all that was made from its rows; a signed receipt says what remains."""
    from fedveil_cli import forgetting_commands
    from fedveil_cli.passphrases import journal_passphrase

    output, folder = Output(as_json), options.home_folder(home)
    forgetting_commands.forget(folder, name, out, journal_passphrase(folder, passphrase_file, output), output)


def key(
    out: Annotated[pathlib.Path, typer.Option("--out", metavar="NAME", help="Written: NAME.key and NAME.pub.")],
    rsa: Annotated[bool, typer.Option("--rsa", help="RSA of 3072 bits instead of X25519.")] = False,
    passphrase_file: PassphraseFile = None,
    as_json: AsJson = False,
) -> None:
    """Make a recipient's pair of keys: the public one is for those who seal, the private one opens."""
    from fedveil_cli import sealing_commands

    sealing_commands.make_key(out, rsa, passphrase_file, Output(as_json))


def seal(
    file: File,
    out: Out,
    to: To = None,
    name: Name = None,
    federation: Federation = None,
    passphrase_file: PassphraseFile = None,
    as_json: AsJson = False,
) -> None:
    """Seal a file for recipients, or, without --to, under a passphrase that alone opens it."""
    from fedveil_cli import sealing_commands

    sealing_commands.seal(file, out, to or [], name, federation, passphrase_file, Output(as_json))


def open_(
    file: SealedFile,
    out: Out,
    key: Key = None,
    name: Name = None,
    federation: Federation = None,
    passphrase_file: PassphraseFile = None,
    as_json: AsJson = False,
) -> None:
    """Open a sealed file. It is written whole, after its last byte was verified, or not at all."""
    from fedveil_cli import sealing_commands

    sealing_commands.open_file(file, out, key, name, federation, passphrase_file, Output(as_json))


def rewrap(
    file: SealedFile,
    out: Out,
    to: To = None,
    key: Key = None,
    reencrypt: Annotated[
        bool, typer.Option("--reencrypt", help="Under a new data key: earlier recipients cannot open the new file.")
    ] = False,
    passphrase_file: PassphraseFile = None,
    as_json: AsJson = False,
) -> None:
    """Give a sealed file other recipients; nothing of it is written in clear."""
    from fedveil_cli import sealing_commands

    sealing_commands.rewrap(file, out, to or [], key, reencrypt, passphrase_file, Output(as_json))


def show(file: SealedFile, as_json: AsJson = False) -> None:
    """Show what a sealed file says that it holds, and for whom it is sealed. Nothing is verified without a key."""
    from fedveil_cli import sealing_commands

    sealing_commands.show(file, Output(as_json))
