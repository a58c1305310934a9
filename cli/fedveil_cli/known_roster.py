"""How many participants a federation has, as far as the home of its operator tells.

Promise: what the running coordinator says comes first, because that is what the next `run start` signs; else the roster
that governance signed last. A home that is none, or knows of nobody yet, is no mistake: there is no figure then.
"""

import pathlib
from dataclasses import dataclass

from fedveil_common.errors import ConfigError, StorageError, Unreachable


@dataclass(frozen=True, slots=True)
class KnownRoster:
    """`size` participants, `origin` says where the figure is from; `asked`: a person gave it as an option."""

    size: int
    origin: str
    asked: bool = False


def known_roster(given: int | None, home: pathlib.Path) -> KnownRoster | None:
    """The size that a person gave, else that of the federation in `home`; None where neither is known."""
    if given is not None:
        return KnownRoster(given, "--roster-size", asked=True)
    from fedveil_coordinator import founding

    try:
        federation = founding.load_federation(home)
    except ConfigError:
        return None
    from fedveil_common.succession import roster_of_its_time

    from fedveil_cli import run_commands

    try:
        members = run_commands.connect(home).status()["participants"]
        size = sum(1 for one in members if one["state"] != "revoked")
        return KnownRoster(size, "the coordinator's members") if size else None
    except Unreachable:
        pass
    try:
        signed = federation.last_roster()
    except StorageError:  # the governance folder lies on another medium
        return None
    roster = roster_of_its_time(signed, federation.trust)
    size = len(roster.participants)
    return KnownRoster(size, f"roster version {roster.version}") if size else None
