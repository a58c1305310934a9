"""The command `fedveil`: one name per thing a person does, and the one place where every failure ends.

Promise: results on stdout, everything else on stderr; the exit code says whose move it is (`fedveil_common.errors`).
A defect of ours ends with exit code 70 and without a traceback (set FEDVEIL_TRACEBACK=1 for one), because what a
traceback quotes is not ours to show.

A command loads what it needs and nothing else, or starting would cost more than sealing a model: CONTENTS says which
module registers which name, only that one is loaded (`command_tree`), and it imports what does the work inside the
functions that are the commands. tests/test_start.py says what they must not load.
"""

import atexit
import errno
import functools
import gc
import importlib
import os
import pathlib
import sys
import traceback
from collections.abc import Sequence
from typing import TextIO

import typer
from fedveil_common.errors import ConfigError, FedveilError
from typer.core import TyperGroup

from fedveil_cli import command_tree
from fedveil_cli.options import RootHome, RootJson, example
from fedveil_cli.output import output_lost, print_error

TRACEBACK = "FEDVEIL_TRACEBACK"
INTERRUPTED = 130
FULL_OR_FAILING = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EIO})

CONTENTS = (
    ("commands_anyone", "version predict verify answers demo simulate"),
    ("commands_operator", "init serve invite revoke fingerprint status health"),
    ("commands_organisation", "join participate"),
    ("commands_consent", "pending show approve deny pause resume leave"),
    ("commands_records", "outbox"),
    ("commands_certificates", "renew doctor"),
    ("reserved", "report export unseal backup"),
    ("commands_anyone", "plan model"),
    ("commands_consent", "policy"),
    ("commands_budget", "budget"),
    ("commands_records", "audit"),
    ("commands_roster", "roster"),
    ("commands_run", "run round"),
    ("commands_data", "data"),
    ("commands_governance", "governance ca"),
    ("commands_key", "key"),
    ("commands_storage", "storage"),
)
"""Which module registers which names, in the order in which `--help` lists them."""

app = typer.Typer(
    name="fedveil",
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    add_completion=False,
    epilog=example("fedveil demo"),
)


@app.callback()
def fedveil(home: RootHome = None, as_json: RootJson = False) -> None:
    """Federated learning in which nobody, the coordinator included, sees any organisation's update."""


@functools.cache
def commands() -> TyperGroup:
    """Every command, each loaded and built when it is first asked for; once in a process."""
    return command_tree.tree(
        app, {name: functools.partial(registered_by, module) for module, names in CONTENTS for name in names.split()}
    )


def registered_by(module: str) -> typer.Typer:
    """What one of the modules in CONTENTS registers."""
    found = typer.Typer()
    importlib.import_module(f"fedveil_cli.{module}").register(found)
    return found


atexit.register(gc.freeze)  # a process that ends gives its memory back whole: to look for garbage first takes 0.1 s


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command (by default the one this process was started with) and returns its exit code."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    for stream in (sys.stdout, sys.stderr):
        _escape_what_cannot_be_encoded(stream)
    error = _failure(given)
    if isinstance(error, int):
        return error
    print_error(error.code, error.what, error.not_done, error.next_step, as_json=_wants_json(given))
    return error.exit_code


def _failure(arguments: list[str]) -> FedveilError | int:
    """Runs the command: the error it ended with, or its exit code. The last resort of the whole program."""
    try:
        code = commands().main(arguments, prog_name="fedveil", standalone_mode=False)
    except FedveilError as error:
        return error
    except typer.TyperException as error:
        return _usage(error)
    except typer.Abort:
        return INTERRUPTED
    except UnicodeEncodeError as error:
        return _usage_of_bytes(arguments) or _defect(error)
    except OSError as error:
        if error.errno == errno.EPIPE:
            return output_lost(error)  # of --help: results say so themselves
        if error.errno in FULL_OR_FAILING:
            from fedveil_common.durable import storage_error

            return storage_error(error, pathlib.Path(error.filename or "the output"))
        return _defect(error)
    except Exception as error:  # noqa: BLE001 - the one handler of defects
        return _defect(error)
    return code if isinstance(code, int) else 0


def _defect(error: Exception) -> FedveilError:
    """What nobody expected. Its words are not shown: they may quote what is not ours to show."""
    if os.environ.get(TRACEBACK) == "1":
        traceback.print_exception(error)
    return FedveilError(
        "defect",
        f"an unexpected {type(error).__name__} ended the command: this is a defect of Fedveil",
        not_done="what was done before it is kept",
        next_step=f"report it with the output of `fedveil version` and of the same command under {TRACEBACK}=1, "
        "once you have read that it shows nothing private",
    )


def _usage(error: typer.TyperException) -> ConfigError:
    """A command line that cannot be understood."""
    context = getattr(error, "ctx", None)
    path = getattr(context, "command_path", "fedveil")
    return ConfigError("usage", error.format_message().rstrip("."), next_step=f"`{path} --help`")


def _usage_of_bytes(arguments: Sequence[str]) -> ConfigError | None:
    """`usage`, if a word of the command line is no UTF-8: such bytes name files, and can be said to nobody."""
    for word in arguments:
        if any("\ud800" <= character <= "\udfff" for character in word):
            return ConfigError("usage", f"{word!r} is not text in UTF-8", next_step="`fedveil COMMAND --help`")
    return None


def _wants_json(arguments: Sequence[str]) -> bool:
    """Whether errors are JSON too. Read from the words, because the line may be one that cannot be parsed."""
    words = arguments[: arguments.index("--")] if "--" in arguments else arguments
    return "--json" in words


def _escape_what_cannot_be_encoded(stream: TextIO) -> None:
    reconfigure = getattr(stream, "reconfigure", None)
    if reconfigure is not None:
        reconfigure(errors="backslashreplace")
