"""Commands that mask an organisation's tables: `fedveil data mask|preview|check|unmask|masking-key`. With --rules they
need no home.
"""

import pathlib
from typing import TYPE_CHECKING, Annotated

import typer

from fedveil_cli import options
from fedveil_cli.options import AsJson, Home, PassphraseFile, example
from fedveil_cli.output import Output

if TYPE_CHECKING:
    from fedveil_cli.masking_commands import Subject

Source = Annotated[
    str,
    typer.Argument(
        metavar="SOURCE", help="A registered data set by its name, or (with --rules) a CSV or Parquet file or folder."
    ),
]
RulesFile = Annotated[
    pathlib.Path | None,
    typer.Option("--rules", metavar="FILE", help="The masking rules (YAML); left out: those that were registered."),
]
Report = Annotated[
    pathlib.Path | None, typer.Option("--report", metavar="FILE", help="Where the risk report is written (JSON).")
]
DataKey = Annotated[
    pathlib.Path | None, typer.Option("--data-key", metavar="PRIVATE", help="The private key that opens sealed data.")
]
DataPassphrase = Annotated[
    pathlib.Path | None,
    typer.Option("--data-passphrase-file", metavar="FILE", help="Holds the passphrase of --data-key."),
]


def register(group: typer.Typer) -> None:
    """Adds the commands to the group `data`."""
    mask_example = example("fedveil data mask visits.csv --rules masking.yaml --out masked.parquet --report risk.json")
    group.command("mask", epilog=mask_example)(mask)
    group.command("preview", epilog=example("fedveil data preview visits.csv --rules masking.yaml"))(preview)
    check_example = example(
        "fedveil data check visits.csv --rules masking.yaml --report risk.json",
        "fedveil data check icu_stays --plan sepsis.yaml",
    )
    group.command("check", epilog=check_example)(check)
    unmask_example = example("fedveil data unmask masked.parquet --rules masking.yaml --out clear.parquet")
    group.command("unmask", epilog=unmask_example)(unmask)
    group.command("masking-key", epilog=example("fedveil data masking-key --out masking.key"))(masking_key)


def mask(
    source: Source,
    out: Annotated[pathlib.Path, typer.Option("--out", metavar="FILE", help="Where the masked table is written.")],
    format_: Annotated[
        str | None, typer.Option("--format", metavar="FORMAT", help="csv or parquet (else by the end of --out).")
    ] = None,
    rules: RulesFile = None,
    report: Report = None,
    data_key: DataKey = None,
    data_passphrase_file: DataPassphrase = None,
    passphrase_file: PassphraseFile = None,
    home: Home = None,
    as_json: AsJson = False,
) -> None:
    """Write a table masked by its rules, if it meets their thresholds; else nothing, with exit code 4."""
    from fedveil_cli import masking_commands

    output = Output(as_json)
    what = _subject(source, rules, data_key, data_passphrase_file, passphrase_file, home, output)
    masking_commands.mask(what, out, format_, report, output)


def preview(
    source: Source,
    rules: RulesFile = None,
    data_key: DataKey = None,
    data_passphrase_file: DataPassphrase = None,
    passphrase_file: PassphraseFile = None,
    home: Home = None,
    as_json: AsJson = False,
) -> None:
    """Show the first five rows as they would be masked."""
    from fedveil_cli import masking_commands

    output = Output(as_json)
    what = _subject(source, rules, data_key, data_passphrase_file, passphrase_file, home, output)
    masking_commands.preview(what, output)


def check(
    source: Source,
    rules: RulesFile = None,
    plan: Annotated[
        pathlib.Path | None,
        typer.Option("--plan", metavar="PLAN", help="A plan file: what of it a registered data set fulfils."),
    ] = None,
    report: Report = None,
    data_key: DataKey = None,
    data_passphrase_file: DataPassphrase = None,
    passphrase_file: PassphraseFile = None,
    home: Home = None,
    as_json: AsJson = False,
) -> None:
    """Show the risk report of a table under its masking rules (exit code 4 below their thresholds), or, with --plan,
    what of a plan a registered data set fulfils: failing rows and columns, counted. Nothing of it is sent.
    """
    from fedveil_common.errors import ConfigError

    output = Output(as_json)
    if plan is not None:
        from fedveil_cli import contract_commands
        from fedveil_cli.passphrases import journal_passphrase

        if rules is not None or report is not None or data_key is not None:
            raise ConfigError(
                "usage",
                "--plan is about a registered data set, with its own rules and key",
                next_step="leave out --rules, --report and --data-key",
            )
        folder = options.home_folder(home)
        contract_commands.check_plan(folder, source, plan, journal_passphrase(folder, passphrase_file, output), output)
        return
    from fedveil_cli import masking_commands

    what = _subject(source, rules, data_key, data_passphrase_file, passphrase_file, home, output)
    masking_commands.check(what, report, output)


def unmask(
    source: Annotated[
        str, typer.Argument(metavar="FILE", help="The masked table: a CSV or Parquet file, or a folder.")
    ],
    rules: Annotated[pathlib.Path, typer.Option("--rules", metavar="FILE", help="The masking rules (YAML).")],
    out: Annotated[pathlib.Path, typer.Option("--out", metavar="FILE", help="Where the table is written.")],
    format_: Annotated[
        str | None, typer.Option("--format", metavar="FORMAT", help="csv or parquet (else by the end of --out).")
    ] = None,
    data_key: DataKey = None,
    data_passphrase_file: DataPassphrase = None,
    as_json: AsJson = False,
) -> None:
    """Undo the format-preserving encryption of a masked table, with the masking key. Other masks cannot be undone."""
    from fedveil_cli import masking_commands

    output = Output(as_json)
    what = masking_commands.subject(source, rules, data_key, data_passphrase_file, output)
    masking_commands.unmask(what, out, format_, output)


def masking_key(
    out: Annotated[pathlib.Path, typer.Option("--out", metavar="FILE", help="Where the key is written (0600).")],
    as_json: AsJson = False,
) -> None:
    """Make a masking key: a secret of 32 random bytes, which `key_ref` of the rules names."""
    from fedveil_cli import masking_keys

    masking_keys.make_key(out, Output(as_json))


def _subject(
    source: str,
    rules: pathlib.Path | None,
    data_key: pathlib.Path | None,
    data_passphrase_file: pathlib.Path | None,
    passphrase_file: pathlib.Path | None,
    home: pathlib.Path | None,
    output: Output,
) -> "Subject":
    """A path with --rules, a registered name without."""
    from fedveil_common.errors import ConfigError

    from fedveil_cli import masking_commands
    from fedveil_cli.passphrases import journal_passphrase

    if rules is not None:
        return masking_commands.subject(source, rules, data_key, data_passphrase_file, output)
    if data_key is not None:
        raise ConfigError(
            "usage", "a registered data set has its key with it", next_step="leave out --data-key, or give --rules FILE"
        )
    folder = options.home_folder(home)
    return masking_commands.registered_subject(
        folder, source, journal_passphrase(folder, passphrase_file, output), output
    )
