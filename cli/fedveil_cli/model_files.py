"""`predict` and `model verify`: model files on anyone's machine.

Promise: nothing is said about a model, and nothing is predicted with it, before every signature from the federation's
fingerprint down to the parameters has been checked, and nothing is made of a model that was withdrawn (`usable`, which
every command asks that writes something of a model or goes on from it).
"""

import base64
import csv
import io
import pathlib
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from fedveil_common import modelfile, prediction
from fedveil_common.errors import ConfigError, PeerError
from fedveil_common.modelfile import ModelFile, ModelHead, ModelManifest, check_lineage, verify_head
from fedveil_common.pki.governance import Trust, fingerprint_text, verify_chain
from fedveil_common.plan import CategoryTarget, Plan
from fedveil_common.registry import status
from fedveil_common.registry.identity import ModelRef
from fedveil_common.registry.release import Release, accept_operator_only, read_release
from fedveil_common.roster import Roster
from fedveil_common.succession import roster_of_its_time
from numpy.typing import NDArray

from fedveil_cli import model_reading, model_status
from fedveil_cli.companions import companion
from fedveil_cli.files import check_not_read, unreadable, write_file
from fedveil_cli.model_status import Nearby, Standing
from fedveil_cli.options import fingerprint_bytes
from fedveil_cli.output import Output
from fedveil_cli.service_commands import home_fingerprint
from fedveil_cli.world import real_world


@dataclass(frozen=True, slots=True)
class Asked:
    """What a person asked for beside the file: another status list than those at hand, a release that only the operator
    signed. `home`: where the organisation's own list is; `now_s`: the time, for lists that expire.
    """

    home: pathlib.Path
    now_s: float
    status: pathlib.Path | None = None
    accept_operator_only: bool = False

    @classmethod
    def now(cls, home: pathlib.Path, status: pathlib.Path | None = None, accept_operator_only: bool = False) -> "Asked":
        """What was asked for at this moment."""
        return cls(home, real_world().clock.wall_s(), status, accept_operator_only)

    def look(self, near: Nearby, expected: bytes, origin: "Origin") -> Standing | None:
        """What the newest list says of a model, whatever that is: for those who only tell of it. Raises as
        `model_status.newest` and `look`.
        """
        return model_status.look(self._newest(near, expected, origin), *self._of(origin))

    def check(self, near: Nearby, expected: bytes, origin: "Origin") -> Standing | None:
        """The same of a model that is to be used. Raises as `model_status.newest` and `check`."""
        return model_status.check(self._newest(near, expected, origin), *self._of(origin))

    def _newest(self, near: Nearby, expected: bytes, origin: "Origin") -> model_status.Found | None:
        return model_status.newest(near, self.status, self.home, expected, [origin.trust])

    def _of(self, origin: "Origin") -> tuple[ModelRef, tuple[str, ...], Release | None, float]:
        return ModelRef.of(origin.manifest), origin.earlier, origin.release, self.now_s


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a model file comes from, proved: what the coordinator signed, the runs that its plan goes on from, roster
    and trust chain, and the release that the file proves (None: it is the model of a run).
    """

    manifest: ModelManifest
    earlier: tuple[str, ...]
    roster: Roster
    trust: Trust
    release: Release | None


def check_origin(file: ModelFile, fingerprint: bytes) -> Origin:
    """What the coordinator of the federation with this fingerprint (32 bytes) signed, and what was released of it.

    Raises as `check_head`.
    """
    return check_head(file.head, lambda: modelfile.hash_of(file), fingerprint)


def check_head(file: ModelHead, model_hash: Callable[[], bytes], fingerprint: bytes) -> Origin:
    """The same of a file whose parameters have the hash that `model_hash` gives.

    Fingerprint -> trust chain -> governance set -> roster -> coordinator's key -> manifest -> this file, each step by a
    signature or hash; nothing in the file is believed before. Raises PeerError: those of `verify_chain`,
    `roster_of_its_time` and `verify_head`, `bad_model_file` where the file lacks one of these, `wrong_federation`,
    `wrong_roster`, and those of `check_lineage` and `read_release`.
    """
    trust = verify_chain(_carried(file.trust_chain, "trust chain"), fingerprint)
    roster = roster_of_its_time(_carried(file.roster, "roster"), trust)
    manifest = verify_head(file, roster.coordinator_key, model_hash)
    for said, found in ((roster.federation_id, trust.federation_id), (manifest.federation_id, trust.federation_id)):
        if said != found:
            raise PeerError("wrong_federation", f"part of the file is of {said}, the fingerprint is that of {found}")
    if manifest.roster_version > roster.version:  # a later roster names the same coordinator, an earlier one may not
        raise PeerError(
            "wrong_roster",
            f"the model was signed under roster {manifest.roster_version}, the file has {roster.version}",
        )
    check_lineage(file, manifest)
    return Origin(manifest, file.plan.earlier_runs, roster, trust, read_release(file, manifest, roster, trust))


def usable(
    file: ModelHead, model_hash: Callable[[], bytes], near: Nearby, expected: bytes, asked: Asked
) -> tuple[Origin, Standing | None]:
    """Where a model that is to be used comes from, and what the newest list says of it.

    Raises as `check_head`, `model_status.newest` and `model_status.check`: PolicyRefusal `model_withdrawn`.
    """
    origin = check_head(file, model_hash, expected)
    return origin, asked.check(near, expected, origin)


def expected_fingerprint(given: str | None, home: pathlib.Path) -> bytes:
    """The fingerprint (32 bytes) a model must come from: the one given, else the one this home pins.

    Raises ConfigError `bad_fingerprint`; `fingerprint_missing` where neither exists.
    """
    if given is not None:
        return fingerprint_bytes(given)
    pinned = home_fingerprint(home)
    if pinned is None:
        raise ConfigError(
            "fingerprint_missing",
            f"{home} belongs to no federation, and without a fingerprint nobody can say whose model this is",
            next_step="--fingerprint HEX, as the operator's `fedveil fingerprint` prints it",
        )
    return pinned


def verify(path: pathlib.Path, expected: bytes, output: Output, asked: Asked) -> None:
    """Prints whose model this is, and whether it may be used; `expected` is the federation's fingerprint.

    Raises as `model_reading.look_through` and `usable`; PolicyRefusal `operator_signed_only`.
    """
    seen = model_reading.look_through(path)
    file = seen.head
    origin, standing = usable(file, lambda: seen.model_hash, Nearby(path), expected, asked)
    accept_operator_only(origin.release, asked.accept_operator_only)
    manifest, roster = origin.manifest, origin.roster
    same = roster.version == manifest.roster_version  # only that roster names those who were members at the signing
    people = list(roster.participants) if same else []
    members = ", ".join(people) if same else f"(the file carries version {roster.version}: its names are not shown)"
    output.result(
        {
            "verified": True,
            "federation_id": manifest.federation_id,
            "fingerprint": expected.hex(),
            "run_id": manifest.run_id,
            "round": manifest.round,
            "plan": file.plan.name,
            "plan_hash": manifest.plan_hash.hex(),
            "model_hash": manifest.model_hash.hex(),
            "roster_version": manifest.roster_version,
            "participants": people,
            "release": _release_value(origin.release),
            "status": model_status.value(standing),
        },
        [
            f"verified: signed by the coordinator of {manifest.federation_id}",
            f"fingerprint  {fingerprint_text(expected)}",
            f"run          {manifest.run_id}, round {manifest.round}",
            f"plan         {file.plan.name}, hash {manifest.plan_hash.hex()}",
            f"model hash   {manifest.model_hash.hex()}",
            f"roster       version {manifest.roster_version}: {members}",
            f"release      {_release_text(origin.release)}",
            model_status.line(standing),
        ],
    )
    model_status.warn(standing, output)


def _release_value(release: Release | None) -> dict[str, object] | None:
    if release is None:
        return None
    return {
        "rests_on": release.facts.rests_on,
        "countersigned": list(release.countersigned),
        "cohort": list(release.cohort),
        "quorum": release.quorum,
        "released_by": release.statement.who,
        "released_s": release.statement.made_s,
        "facts": release.facts.to_json(),
    }


def _release_text(release: Release | None) -> str:
    if release is None:
        return "none in this file: it is the model of a run"
    by = f"by {release.statement.who}, {status.date(release.statement.made_s)}"
    if release.operator_only:
        return f"{release.facts.rests_on}, {by}"
    many, of = len(release.countersigned), len(release.cohort)
    names = ", ".join(release.countersigned)
    return f"{by}; countersigned by {many} of {of}, {release.quorum} must: {names}"


def _carried(text: str, what: str) -> bytes:
    """A signed document that the model file carries as base64, in its one form: bits that nobody reads are 0."""
    try:
        data = base64.b64decode(text, validate=True)
    except ValueError:
        data = b""
    if not data or base64.b64encode(data).decode() != text:
        raise PeerError(
            "bad_model_file",
            f"the model file carries no {what}",
            not_done="the model was not accepted",
            next_step="export it again with `fedveil model export`",
        )
    return data


def predict(
    model: pathlib.Path, data: pathlib.Path, out: pathlib.Path, expected: bytes, output: Output, asked: Asked
) -> None:
    """Writes `out`: `row,prediction` with rows from 1; the prediction is empty where the row lacks a value.

    A probability of the positive class, or a value in natural units; the shortest decimal that is the same double. For
    a category the likeliest class, then `probability:CLASS` of each.
    `expected` is the fingerprint of the federation whose model this must be. Raises as `model_reading.load` and
    `usable`, before the data is read; DataError (`bad_data`), ConfigError, StorageError `file_unwritable`.
    """
    from fedveil_participant.data.csv_source import read_feature_table
    from fedveil_participant.data.folder import table_files

    check_not_read(out, model, data, asked.status, companion(model))
    file, model_hash = model_reading.load(model)
    origin, standing = usable(file.head, lambda: model_hash, Nearby(model), expected, asked)
    manifest = origin.manifest
    model_status.warn(standing, output)
    try:
        table = read_feature_table(table_files(data), str(data), file.plan)
    except OSError as error:
        raise unreadable(data, "the data", error) from None
    values = prediction.predict(file.plan, file.model, file.standardisation, table)
    write_file(out, "the predictions", prediction_table(file.plan, values))
    missing = int(np.isnan(values).reshape(len(values), -1).any(axis=1).sum())
    output.result(
        {
            "rows": len(values),
            "missing": missing,
            "out": str(out),
            "federation_id": manifest.federation_id,
            "run_id": manifest.run_id,
            "model_hash": manifest.model_hash.hex(),
            "plan_hash": manifest.plan_hash.hex(),
            "status": model_status.value(standing),
        },
        [
            f"{len(values)} rows predicted, {missing} of them empty for want of a value: {out}",
            model_status.line(standing),
        ],
    )


def prediction_table(plan: Plan, values: NDArray[np.float64]) -> bytes:
    """What `predict` writes: CSV with the header `row,prediction`, and for a category one column per class after it.

    `values` as `prediction.predict` gives them. Class names are quoted where CSV asks for it.
    """
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    match plan.data.target:
        case CategoryTarget(values=classes):
            table.writerow(["row", "prediction", *(f"probability:{name}" for name in classes)])
            for row, one in enumerate(values, start=1):
                best = "" if np.isnan(one).any() else classes[int(one.argmax())]
                table.writerow([row, best, *map(_shortest, one)])
        case _:
            table.writerow(["row", "prediction"])
            table.writerows([row, _shortest(value)] for row, value in enumerate(values, start=1))
    return text.getvalue().encode()


def _shortest(value: np.float64) -> str:
    return "" if np.isnan(value) else repr(float(value))
