"""Names of things: the typed identifiers that every other module speaks in.

Invariant: an id that reached a `NewType` here was checked by `check_name` or came from bytes whose signature was
verified; it is 1..64 characters of [a-z0-9_-], so it can stand in a file name, a SAN URI and a log line as it is.
"""

import re
from dataclasses import dataclass
from typing import NewType

from fedveil_common.errors import ConfigError

FederationId = NewType("FederationId", str)
OrgId = NewType("OrgId", str)
RunId = NewType("RunId", str)

COORDINATOR = OrgId("coordinator")
"""The roster name of the coordinator; no organisation may be invited under it."""

_NAME = re.compile(r"[a-z0-9_-]{1,64}\Z")


def is_name(text: str) -> bool:
    """Whether `text` is 1..64 characters of [a-z0-9_-]."""
    return _NAME.match(text) is not None


def check_name(text: str, what: str) -> str:
    """`text` itself if it is a legal id; raises ConfigError `bad_name` naming `what` otherwise."""
    if not is_name(text):
        raise ConfigError(
            "bad_name",
            f"{what} {text!r} is not 1 to 64 characters of a-z, 0-9, - and _",
            not_done="nothing was changed",
            next_step="choose a name of that form",
        )
    return text


@dataclass(frozen=True, slots=True, order=True)
class AttemptKey:
    """Which try at which secure sum of which run. `round` and `attempt` count from 1."""

    run_id: RunId
    round: int
    attempt: int
