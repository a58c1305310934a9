"""Names that later releases fill: each says which release brings it, and none does anything before.

Promise: a reserved command ends with `not_in_this_release` and exit code 2, whatever arguments follow it.
"""

from collections.abc import Mapping

import typer
from fedveil_common.errors import ConfigError

COMMANDS: Mapping[str, str] = {
    "run pause": "0.2",
    "run resume": "0.2",
    "round close": "0.2",
    "report": "0.4",
    "export": "0.6",
    "unseal": "0.6",
    "backup": "0.6",
}
"""Command -> release. A name without a blank may have commands of its own: they are reserved with it."""


def not_in_this_release(what: str, release: str) -> ConfigError:
    """The refusal of a command or option that belongs to `release`."""
    return ConfigError(
        "not_in_this_release",
        f"{what} comes with release {release}",
        next_step="`fedveil --help` lists what this release has",
    )


def register(group: typer.Typer, prefix: str = "") -> None:
    """Reserves, in `group`, the commands under `prefix` ("" for the top)."""
    for command, release in COMMANDS.items():
        before, _, name = command.rpartition(" ")
        if before == prefix:
            _reserve(group, command, name, release)


def _reserve(group: typer.Typer, command: str, name: str, release: str) -> None:
    def refuse() -> None:
        raise not_in_this_release(f"`fedveil {command}`", release)

    group.command(
        name,
        help=f"Reserved: comes with release {release}.",
        epilog=f"Example: fedveil {command}",
        short_help=f"(release {release})",
        hidden=True,
        context_settings={"ignore_unknown_options": True, "allow_extra_args": True},
    )(refuse)
