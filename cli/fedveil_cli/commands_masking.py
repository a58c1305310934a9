"""Commands that mask tables: `fedveil data mask|preview|check|unmask|masking-key`. These need no home."""

import pathlib
from typing import Annotated

import typer

from fedveil_cli.options import AsJson, example
from fedveil_cli.output import Output

Source = Annotated[str, typer.Argument(metavar="SOURCE", help="A CSV or Parquet file, or a folder of them.")]
RulesFile = Annotated[pathlib.Path, typer.Option("--rules", metavar="FILE", help="The masking rules (YAML).")]
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
    check_example = example("fedveil data check visits.csv --rules masking.yaml --report risk.json")
    group.command("check", epilog=check_example)(check)
    unmask_example = example("fedveil data unmask masked.parquet --rules masking.yaml --out clear.parquet")
    group.command("unmask", epilog=unmask_example)(unmask)
    group.command("masking-key", epilog=example("fedveil data masking-key --out masking.key"))(masking_key)


def mask(
    source: Source,
    rules: RulesFile,
    out: Annotated[pathlib.Path, typer.Option("--out", metavar="FILE", help="Where the masked table is written.")],
    format_: Annotated[
        str | None, typer.Option("--format", metavar="FORMAT", help="csv or parquet (else by the end of --out).")
    ] = None,
    report: Report = None,
    data_key: DataKey = None,
    data_passphrase_file: DataPassphrase = None,
    as_json: AsJson = False,
) -> None:
    """Write a table masked by its rules, if it meets their thresholds; else nothing, with exit code 4."""
    from fedveil_cli import masking_commands

    output = Output(as_json)
    what = masking_commands.subject(source, rules, data_key, data_passphrase_file, output)
    masking_commands.mask(what, out, format_, report, output)


def preview(
    source: Source,
    rules: RulesFile,
    data_key: DataKey = None,
    data_passphrase_file: DataPassphrase = None,
    as_json: AsJson = False,
) -> None:
    """Show the first five rows as they would be masked."""
    from fedveil_cli import masking_commands

    output = Output(as_json)
    masking_commands.preview(masking_commands.subject(source, rules, data_key, data_passphrase_file, output), output)


def check(
    source: Source,
    rules: RulesFile,
    report: Report = None,
    data_key: DataKey = None,
    data_passphrase_file: DataPassphrase = None,
    as_json: AsJson = False,
) -> None:
    """Show the risk report of a table under its rules; exit code 4 below their thresholds."""
    from fedveil_cli import masking_commands

    output = Output(as_json)
    what = masking_commands.subject(source, rules, data_key, data_passphrase_file, output)
    masking_commands.check(what, report, output)


def unmask(
    source: Source,
    rules: RulesFile,
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
