"""Commands that need no federation: version, the check of a plan, model files, and one-machine runs."""

import pathlib
from typing import Annotated

import typer
from fedveil_common.exchange.format_names import Format

from fedveil_cli import commands_exchange, commands_models, options, reserved
from fedveil_cli.options import AsJson, Home, PassphraseFile, StatusFile, example, home_folder
from fedveil_cli.output import Output

Fingerprint = Annotated[
    str | None, typer.Option("--fingerprint", metavar="HEX", help="The federation's (else that of the home).")
]
PlanFile = Annotated[pathlib.Path, typer.Argument(metavar="PLAN", help="The plan, a YAML file.")]

MAX_SEED = 2**53 - 1
"""As in a plan: every JSON reader holds it exactly."""


def register(app: typer.Typer) -> None:
    """Adds the commands to `app`."""
    app.command(epilog=example("fedveil version --json"))(version)
    app.command(epilog=example("fedveil predict --model sepsis.safetensors --data new.csv --out scores.csv"))(predict)
    app.command(epilog=example("fedveil verify RUN 3", "fedveil verify RUN 3 --from round3/"))(verify)
    app.command(epilog=example("fedveil answers", "fedveil answers RUN --json"))(answers)
    app.command(epilog=example("fedveil demo"))(demo)
    app.command(epilog=example("fedveil simulate sepsis.yaml --data hospitals/ --test held_out.csv"))(simulate)
    plan = typer.Typer(help="Look at a plan before anything starts.", epilog=example("fedveil plan check sepsis.yaml"))
    plan.command("check", epilog=example("fedveil plan check sepsis.yaml --participants 5"))(plan_check)
    plan.command("explain", epilog=example("fedveil plan explain sepsis.yaml --roster-size 5"))(plan_explain)
    reserved.register(plan, "plan")
    app.add_typer(plan, name="plan")
    model = typer.Typer(help="Finished models.", epilog=example("fedveil model verify sepsis.safetensors"))
    model.command("verify", epilog=example("fedveil model verify sepsis.safetensors --fingerprint 9f2c..."))(
        model_verify
    )
    model.command(
        "export",
        epilog=example(
            "fedveil model export --out sepsis.safetensors",
            "fedveil model export sepsis.safetensors --to onnx --out sepsis.onnx",
        ),
    )(model_export)
    model.command("list", epilog=example("fedveil model list --json"))(model_list)
    commands_models.register(model)
    commands_exchange.register(model)
    reserved.register(model, "model")
    app.add_typer(model, name="model")


def version(as_json: AsJson = False) -> None:
    """Print the version of Fedveil and of the protocol it speaks."""
    import importlib.metadata
    import platform

    number = importlib.metadata.version("fedveil")
    python = platform.python_version()
    Output(as_json).result(
        {"version": number, "protocol": "FLSA/1", "python": python},
        [f"fedveil {number}", f"protocol FLSA/1, Python {python}"],
    )


def plan_check(
    plan: PlanFile,
    participants: Annotated[
        int | None,
        typer.Option(
            "--participants",
            "--roster-size",
            metavar="N",
            min=1,
            help="Also the figures for a roster of N (else of the coordinator's home, if there is one).",
        ),
    ] = None,
    continued: Annotated[
        pathlib.Path | None,
        typer.Option("--from", metavar="FILE", help="The plan as it goes on from the model of an earlier run of it."),
    ] = None,
    status: StatusFile = None,
    fingerprint: Fingerprint = None,
    home: Home = None,
    as_json: AsJson = False,
) -> None:
    """Check a plan and print the hash that organisations accept, with what the plan reads and what it opens."""
    from fedveil_cli import plan_report

    folder, goes_on = home_folder(home), None
    if continued is not None:
        from fedveil_cli import model_files
        from fedveil_cli.service_commands import home_fingerprint

        named = fingerprint is not None or status is not None or home_fingerprint(folder) is not None
        expected = model_files.expected_fingerprint(fingerprint, folder) if named else None
        goes_on = plan_report.GoesOn(continued, expected, model_files.Asked.now(folder, status))
    elif status is not None or fingerprint is not None:
        raise typer.BadParameter("it says something of the model that the plan goes on from: --from FILE")
    plan_report.check(plan, participants, folder, Output(as_json), goes_on)


def plan_explain(
    plan: PlanFile,
    roster_size: Annotated[
        int | None,
        typer.Option(
            "--roster-size",
            metavar="N",
            min=1,
            help="Participants in the roster (else in that of the coordinator's home, else cohort.min_participants).",
        ),
    ] = None,
    key: Annotated[
        pathlib.Path | None,
        typer.Option("--key", metavar="TERMS", help="The terms of the key that a paillier plan names, for figures."),
    ] = None,
    home: Home = None,
    as_json: AsJson = False,
) -> None:
    """Say who could learn what under a plan, with how many colluders, and who can stop it."""
    from fedveil_cli import plan_explain as explaining

    explaining.explain(plan, roster_size, home_folder(home), Output(as_json), key)


def predict(
    model: Annotated[pathlib.Path, typer.Option("--model", metavar="FILE", help="The model file.")],
    data: Annotated[
        pathlib.Path, typer.Option("--data", metavar="FILE", help="CSV, Parquet or a folder: the plan's features.")
    ],
    out: Annotated[pathlib.Path, typer.Option("--out", metavar="CSV", help="Where the predictions go.")],
    status: StatusFile = None,
    fingerprint: Fingerprint = None,
    home: Home = None,
    as_json: AsJson = False,
) -> None:
    """Predict with a model that verifies: one line per row, in the order of the rows."""
    from fedveil_cli import model_files

    folder = home_folder(home)
    expected = model_files.expected_fingerprint(fingerprint, folder)
    model_files.predict(model, data, out, expected, Output(as_json), model_files.Asked.now(folder, status))


def model_verify(
    file: Annotated[pathlib.Path, typer.Argument(metavar="FILE", help="The model file.")],
    status: StatusFile = None,
    accept_operator_only: Annotated[
        bool,
        typer.Option("--accept-operator-only", help="Take a release that no participant could check."),
    ] = False,
    fingerprint: Fingerprint = None,
    home: Home = None,
    as_json: AsJson = False,
) -> None:
    """Verify that a model file is what the federation signed, released or not, and that it was not withdrawn."""
    from fedveil_cli import model_files

    folder = home_folder(home)
    expected = model_files.expected_fingerprint(fingerprint, folder)
    asked = model_files.Asked.now(folder, status, accept_operator_only)
    model_files.verify(file, expected, Output(as_json), asked)


def verify(
    run: Annotated[str, typer.Argument(metavar="RUN", help="The run.")],
    number: Annotated[int, typer.Argument(metavar="ROUND", min=1, max=2**32 - 1, help="The round.")],
    leaves: Annotated[
        int | None, typer.Option("--leaves", metavar="N", min=1, help="Only N leaves, drawn here (else all).")
    ] = None,
    export: Annotated[
        pathlib.Path | None, typer.Option("--export", metavar="FOLDER", help="Also keep everything, for an auditor.")
    ] = None,
    from_folder: Annotated[
        pathlib.Path | None,
        typer.Option("--from", metavar="FOLDER", help="An exported round; nobody is asked."),
    ] = None,
    fingerprint: Fingerprint = None,
    passphrase_file: PassphraseFile = None,
    home: Home = None,
    as_json: AsJson = False,
) -> None:
    """Make the sum of an opened round again from its masked inputs, and compare it with what was signed."""
    from fedveil_common.secret import Seed

    from fedveil_cli import model_files, verifying
    from fedveil_cli.passphrases import journal_passphrase
    from fedveil_cli.world import real_world

    output, folder, world = Output(as_json), home_folder(home), real_world()
    if from_folder is not None:
        if export is not None:
            raise typer.BadParameter("what comes from a folder is in a folder already", param_hint="--export")
        expected = model_files.expected_fingerprint(fingerprint, folder)
        seed = Seed(world.entropy.take(32))
        verifying.verify_folder(from_folder, run, number, leaves, expected, seed, output)
        return
    if fingerprint is not None:
        raise typer.BadParameter("the home pins the fingerprint; --fingerprint goes with --from")
    passphrase = journal_passphrase(folder, passphrase_file, output)
    verifying.verify(folder, run, number, leaves, export, passphrase, world, output)


def model_export(
    out: Annotated[pathlib.Path, typer.Option("--out", metavar="FILE", help="Where the model goes.")],
    file: Annotated[
        pathlib.Path | None, typer.Argument(metavar="[FILE]", help="A model file (else a model of this home).")
    ] = None,
    run: Annotated[str | None, typer.Option("--run", metavar="RUN", help="Of which run (else the last).")] = None,
    to: Annotated[
        Format, typer.Option("--to", metavar="FORMAT", help="safetensors (the signed file), onnx, sklearn, torch, csv.")
    ] = Format.SAFETENSORS,
    status: StatusFile = None,
    fingerprint: Fingerprint = None,
    passphrase_file: PassphraseFile = None,
    home: Home = None,
    as_json: AsJson = False,
) -> None:
    """Write a model to a file: as it was signed, a released one with its countersignatures and the status list beside
    it, or for another program. Not one that was withdrawn.
    """
    from fedveil_cli import model_exporting, model_files, service_commands
    from fedveil_cli.companions import check_places
    from fedveil_cli.files import check_not_read
    from fedveil_cli.model_status import Nearby
    from fedveil_cli.passphrases import journal_passphrase

    output, folder = Output(as_json), home_folder(home)
    if file is not None and run is not None:
        raise typer.BadParameter("a model file is of one run", param_hint="--run")
    if file is None:
        _, data, handed = service_commands.final_model(folder, run, journal_passphrase(folder, passphrase_file, output))
        near = Nearby(handed=handed)
    else:
        check_places(out, file)
        check_not_read(out, file, status)
        data, near = model_exporting.read(file), Nearby(file)
    expected = model_files.expected_fingerprint(fingerprint, folder)
    asked = model_files.Asked.now(folder, status)
    model_exporting.export(data, near, to, out, expected, output, asked)


def model_list(passphrase_file: PassphraseFile = None, home: Home = None, as_json: AsJson = False) -> None:
    """List the finished models of this home."""
    from fedveil_cli import service_commands
    from fedveil_cli.passphrases import journal_passphrase

    output, folder = Output(as_json), home_folder(home)
    service_commands.model_list(folder, journal_passphrase(folder, passphrase_file, output), output)


def answers(
    run: Annotated[str | None, typer.Argument(metavar="RUN", help="A run's id (else the last with answers).")] = None,
    passphrase_file: PassphraseFile = None,
    home: Home = None,
    as_json: AsJson = False,
) -> None:
    """Show the answers of a statistics run, as this home's coordinator or participant has them."""
    from fedveil_cli import answers_report
    from fedveil_cli.passphrases import journal_passphrase

    output, folder = Output(as_json), home_folder(home)
    answers_report.show(folder, run, journal_passphrase(folder, passphrase_file, output), output)


def demo(
    protection: Annotated[str, typer.Option("--protection", metavar="P", help="masked or paillier.")] = "masked",
    noise: Annotated[
        str,
        typer.Option("--noise", metavar="N", help="Of the private training: by participants, or by the coordinator."),
    ] = "participants",
    seed: Annotated[
        int, typer.Option("--seed", metavar="N", min=0, max=MAX_SEED, help="Another split and another first model.")
    ] = 7,
    as_json: AsJson = False,
) -> None:
    """Let five hospitals train one model on this machine, nobody showing an update."""
    if protection not in {"masked", "paillier"}:
        raise typer.BadParameter(f"{protection!r} is no protection; masked and paillier are", param_hint="--protection")
    if noise not in {"participants", "coordinator"}:
        raise typer.BadParameter(f"{noise!r} adds no noise; participants and coordinator do", param_hint="--noise")
    if noise == "coordinator" and protection != "paillier":
        raise typer.BadParameter(
            "the coordinator adds noise under encryption: --protection paillier", param_hint="--noise"
        )
    from fedveil_cli import demo_command

    demo_command.run(seed, Output(as_json), protection, noise)


def simulate(
    plan: PlanFile,
    data: Annotated[
        pathlib.Path, typer.Option("--data", metavar="FOLDER", help="One NAME.csv or NAME.parquet per organisation.")
    ],
    test: Annotated[
        pathlib.Path | None, typer.Option("--test", metavar="FILE", help="Rows on which accuracy is measured.")
    ] = None,
    processes: Annotated[bool, typer.Option("--processes", help="Real processes over mutual TLS.")] = False,
    seed: Annotated[
        int | None,
        typer.Option(
            "--seed", metavar="N", min=0, max=MAX_SEED, help="Repeatable, and NOT private: it fixes every key."
        ),
    ] = None,
    trainer: Annotated[
        list[str] | None,
        typer.Option("--trainer", metavar="NAME=CONFIG", help="Own training code, the same for all organisations."),
    ] = None,
    isolation: options.NoIsolation = None,
    as_json: AsJson = False,
) -> None:
    """Run a plan on one machine with the same round as in production."""
    if processes and seed is not None:
        raise typer.BadParameter("real processes draw their keys themselves, no seed fixes them", param_hint="--seed")
    from fedveil_cli import simulating

    own, unconfined = options.trainer_files(trainer or []), options.without_isolation(isolation)
    simulating.simulate(plan, data, test, processes, seed, Output(as_json), own, unconfined)
