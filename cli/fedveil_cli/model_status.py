"""Which status list says what may be used here: the one that was given, the one beside the model, the home's.

Promise: of the lists that are here the newest counts, and it must follow on the others; nothing withdrawn passes.
A list that was named on the command line and is older than the home's is refused. Where a model is written on, the list
that counted goes with it.
"""

import contextlib
import itertools
import os
import pathlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from fedveil_common.errors import FedveilError, PeerError
from fedveil_common.ids import RunId
from fedveil_common.jcs import Json
from fedveil_common.limits import MAX_STATUS
from fedveil_common.modelmanifest import ModelManifest
from fedveil_common.pki.governance import Trust
from fedveil_common.registry import status
from fedveil_common.registry.identity import ModelRef
from fedveil_common.registry.stages import Stage
from fedveil_common.registry.status import StatusList

from fedveil_cli.companions import companion
from fedveil_cli.files import read_file, write_file
from fedveil_cli.output import Output

if TYPE_CHECKING:
    from fedveil_common.registry.release import Release

WHAT = "the status list"


@dataclass(frozen=True, slots=True)
class Nearby:
    """Lists that came with a model, beside those of the home and the command line. `beside`: the file that is read,
    next to which one may stand; `handed`: what the coordinator handed over with it; `out`: the file that will be
    written, next to which one may stand from before (it counts if it verifies, and is replaced if it does not).
    """

    beside: pathlib.Path | None = None
    handed: bytes = b""
    out: pathlib.Path | None = None


@dataclass(frozen=True, slots=True)
class Found:
    """A list that verified, and the bytes of its file."""

    contents: StatusList
    document: bytes


@dataclass(frozen=True, slots=True)
class Standing:
    """What a list says of one model. `stage`: None if it was never released. `descends`: the withdrawn runs among those
    that it goes on from.
    """

    found: Found
    stage: Stage | None
    expired: bool
    ahead: bool
    descends: tuple[RunId, ...] = ()

    @property
    def as_of(self) -> str:
        """The date of the list."""
        return status.date(self.found.contents.as_of_s)


def newest(
    near: Nearby, given: pathlib.Path | None, home: pathlib.Path, expected: bytes, known: Sequence[Trust]
) -> Found | None:
    """The list that counts; None if there is none. `expected`: the fingerprint, 32 bytes; `known`: the model's chain.

    ConfigError `file_unreadable`, `file_too_large`; PeerError: those of `status.read`, `status.check_follows`.
    """

    def read(document: bytes) -> Found:
        return Found(status.read(document, expected, known), document)

    own = home / status.FILE
    here = [read(_document(own))] if own.exists() and _of_federation(home, expected) else []
    here += [read(near.handed)] if near.handed else []
    here += _left(near.out, expected, known)
    if given is None and near.beside is not None and os.path.exists(companion(near.beside)):  # no name is too long
        here.append(read(_document(companion(near.beside))))
    here.sort(key=lambda one: one.contents.place)
    if given is not None:
        here.append(read(_document(given)))  # last, whatever its number: it must follow on all that is known here
    for before, after in itertools.pairwise(here):
        status.check_follows(before.contents, after.contents)
    return here[-1] if here else None


def _document(path: pathlib.Path) -> bytes:
    return read_file(path, WHAT, MAX_STATUS)


def _left(out: pathlib.Path | None, expected: bytes, known: Sequence[Trust]) -> list[Found]:
    """The list next to a file that will be replaced, if it is one: what is written there goes back behind none."""
    if out is None or not os.path.exists(companion(out)):  # also where nobody may look: writing there says why
        return []
    try:
        document = _document(companion(out))
        return [Found(status.read(document, expected, known), document)]
    except FedveilError:
        return []


def _of_federation(home: pathlib.Path, expected: bytes) -> bool:
    """Whether the home pins this federation: the list of another one says nothing here."""
    from fedveil_cli.service_commands import home_fingerprint

    return home_fingerprint(home) == expected


def look(
    found: Found | None, model: ModelRef, earlier: Sequence[str], release: "Release | None", now_s: float
) -> Standing | None:
    """What `found` says of the model, whatever that is. `earlier`: the runs that its plan goes on from.

    PeerError `release_not_listed` if the file says that it was released, and the list, which is later, does not.
    """
    if found is None:
        return None
    listed = found.contents
    stage = listed.stage_of(model)
    if release is not None and stage is None and listed.statements >= release.statement.number:
        raise PeerError(
            "release_not_listed",
            f"the file says that the model was released, and status list {listed.sequence} knows no such release",
            not_done="the model was not accepted",
            next_step="telephone the operator: somebody else may hold the coordinator's key",
        )
    return Standing(found, stage, listed.expired(now_s), listed.ahead(now_s), listed.withdrawn_of(earlier))


def check(
    found: Found | None, model: ModelRef, earlier: Sequence[str], release: "Release | None", now_s: float
) -> Standing | None:
    """What `found` says of a model that is to be used. PolicyRefusal `model_withdrawn`; PeerError as `look`."""
    if found is not None:
        status.check_in_use(found.contents, model)
    return look(found, model, earlier, release, now_s)


def check_ancestry(standing: Standing | None) -> None:
    """Returns if something new may begin with a model of which this is said. PolicyRefusal `model_withdrawn`."""
    if standing is not None and standing.descends:
        run = standing.descends[0]
        raise status.withdrawn(f"the model of run {run}, from which this one descends,", standing.found.contents)


# --- the list goes with the model -------------------------------------------------------------------------------------


def keep_beside(out: pathlib.Path, standing: Standing | None) -> pathlib.Path | None:
    """Where the list that counted stands now: next to the model file that was written to `out`, if it is a file.

    StorageError `file_unwritable`.
    """
    if standing is None or not out.is_file():  # not beside a pipe or a device
        return None
    write_file(companion(out), WHAT, standing.found.document)
    return companion(out)


def carried(model: pathlib.Path) -> Found:
    """The list next to a model file, as it stands there: no signature was checked. PeerError `bad_document`."""
    document = _document(companion(model))
    return Found(status.contents(document), document)


def check_carried(listed: Found, manifest: ModelManifest) -> None:
    """Returns unless an unverified list is another federation's or withdraws the model of an unverified manifest.

    PeerError `wrong_federation`; PolicyRefusal `model_withdrawn`.
    """
    status.check_federation(listed.contents, manifest.federation_id)
    status.check_in_use(listed.contents, ModelRef.of(manifest))


def carry(listed: Found, out: pathlib.Path) -> pathlib.Path:
    """Where an unverified list stands now: next to `out`, unless a later one of the federation stands there already.

    StorageError `file_unwritable`.
    """
    mine = theirs = listed.contents
    if companion(out).exists():
        with contextlib.suppress(FedveilError):  # what is no list is replaced
            theirs = carried(out).contents
    if theirs.federation_id != mine.federation_id or theirs.place <= mine.place:
        write_file(companion(out), WHAT, listed.document)
    return companion(out)


# --- what a person is told --------------------------------------------------------------------------------------------


def value(standing: Standing | None) -> dict[str, Json] | None:
    """`status` in JSON."""
    if standing is None:
        return None
    listed = standing.found.contents
    return {
        "sequence": listed.sequence,
        "as_of_s": listed.as_of_s,
        "not_after_s": listed.not_after_s,
        "expired": standing.expired,
        "stage": standing.stage.value if standing.stage is not None else None,
        "descends_from_withdrawn": list(standing.descends),
    }


def line(standing: Standing | None) -> str:
    """The same on one line, for people."""
    if standing is None:
        return "status       not known: no status list is here (--status FILE)"
    listed = standing.found.contents
    stage = standing.stage.value if standing.stage is not None else "not released"
    until = status.date(listed.not_after_s)
    said = f"status       {stage}, as of {standing.as_of} (list {listed.sequence}, good until {until})"
    return f"{said}; descends from run {', '.join(standing.descends)}, withdrawn" if standing.descends else said


def warn(standing: Standing | None, output: Output) -> None:
    """Says what a person should not miss about a model, if there is something."""
    if standing is None:
        return
    if standing.descends:
        output.warn(
            f"the model goes on from run {', '.join(standing.descends)}, whose model was withdrawn (as of "
            f"{standing.as_of}): what was wrong there may be wrong here; ask the operator before it is used"
        )
    if standing.stage is Stage.WITHDRAWN:
        output.warn(f"the model was withdrawn (as of {standing.as_of}): nobody is to use it")
    elif standing.ahead:
        output.warn(
            f"the status list calls itself of {standing.as_of}, which is not yet: how old it is, and whether the model "
            "was withdrawn since, is not known; look at this machine's clock, and fetch a new list"
        )
    elif standing.expired:
        output.warn(
            f"the status list is of {standing.as_of} and expired {status.date(standing.found.contents.not_after_s)}: "
            "whether the model was withdrawn since is not known; fetch a new one (GET /status of the coordinator's "
            "enrolment port)"
        )
    elif standing.stage is Stage.RETIRED:
        output.warn(f"the model is retired (as of {standing.as_of}): the operator has a later one")
