"""Which status list says what may be used here: the one that was given, the one beside the model, the home's.

Promise: of the lists that are here the newest counts, and it must follow on the others; nothing withdrawn passes.
A list that was named on the command line and is older than the home's is refused.
"""

import datetime
import itertools
import os
import pathlib
from dataclasses import dataclass

from fedveil_common.errors import PeerError, PolicyRefusal
from fedveil_common.limits import MAX_STATUS
from fedveil_common.pki.governance import Trust
from fedveil_common.registry import status
from fedveil_common.registry.identity import ModelRef
from fedveil_common.registry.release import Release
from fedveil_common.registry.stages import Stage
from fedveil_common.registry.status import StatusList

from fedveil_cli.files import read_file

COMPANION = ".status.json"
"""What the list beside a model file is called: the model's name and this."""


@dataclass(frozen=True, slots=True)
class Standing:
    """What a list says of one model. `stage`: None if it was never released."""

    found: StatusList
    stage: Stage | None
    expired: bool

    @property
    def as_of(self) -> str:
        """The date of the list."""
        return date(self.found.as_of_s)


def companion(model: pathlib.Path) -> pathlib.Path:
    """Where the list beside a model file stands."""
    return model.with_name(model.name + COMPANION)


def date(seconds: float) -> str:
    """A time of the coordinator's clock, for people: as it stands where no calendar has it, since others signed it."""
    try:
        return datetime.datetime.fromtimestamp(seconds, datetime.UTC).strftime("%Y-%m-%d %H:%M UTC")
    except (ValueError, OverflowError, OSError):
        return f"{seconds:.0f} s"


def newest(
    model: pathlib.Path, given: pathlib.Path | None, home: pathlib.Path, expected: bytes, known: Trust
) -> StatusList | None:
    """The list that counts; None if there is none. `expected`: the fingerprint, 32 bytes; `known`: the model's chain.

    ConfigError `file_unreadable`, `file_too_large`; PeerError: those of `status.read`, `status.check_follows`.
    """

    def read(path: pathlib.Path) -> StatusList:
        return status.read(read_file(path, "the status list", MAX_STATUS), expected, [known])

    pinned = read(home / status.FILE) if (home / status.FILE).exists() and _of_federation(home, expected) else None
    if given is not None:
        named = read(given)
        if pinned is not None:
            status.check_follows(pinned, named)
        return named
    beside = read(companion(model)) if os.path.exists(companion(model)) else None  # False for a name that is too long
    found = sorted((one for one in (pinned, beside) if one is not None), key=lambda one: one.sequence)
    for before, after in itertools.pairwise(found):
        status.check_follows(before, after)
    return found[-1] if found else None


def _of_federation(home: pathlib.Path, expected: bytes) -> bool:
    """Whether the home pins this federation: the list of another one says nothing here."""
    from fedveil_cli.service_commands import home_fingerprint

    return home_fingerprint(home) == expected


def check(found: StatusList | None, model: ModelRef, release: Release | None, now_s: float) -> Standing | None:
    """What `found` says of the model. PolicyRefusal `model_withdrawn`; PeerError `release_not_listed` if the file says
    that it was released, and the list, which is later, does not.
    """
    if found is None:
        return None
    stage = found.stage_of(model)
    if stage is Stage.WITHDRAWN:
        raise PolicyRefusal(
            "model_withdrawn",
            f"the model of run {model.run_id}, round {model.round}, was withdrawn (status list {found.sequence}, as of "
            f"{date(found.as_of_s)})",
            not_done="the model was not used",
            next_step="ask the operator which release takes its place",
        )
    if release is not None and stage is None and found.statements >= release.statement.number:
        raise PeerError(
            "release_not_listed",
            f"the file says that the model was released, and status list {found.sequence} knows no such release",
            not_done="the model was not accepted",
            next_step="telephone the operator: somebody else may hold the coordinator's key",
        )
    return Standing(found, stage, found.expired(now_s))


def warning(standing: Standing | None) -> str:
    """What a person should not miss about a model that may be used; empty if there is nothing."""
    if standing is None:
        return ""
    if standing.expired:
        return (
            f"the status list is of {standing.as_of} and expired {date(standing.found.not_after_s)}: whether the model "
            "was withdrawn since is not known; fetch a new one (GET /status of the coordinator's enrolment port)"
        )
    if standing.stage is Stage.RETIRED:
        return f"the model is retired (as of {standing.as_of}): the operator has a later one"
    return ""
