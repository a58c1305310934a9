"""The status list: which released models are in force, as of when, signed by the coordinator in force.

Promise: whoever once took a list takes no older one (`place` grows with every list), none of a coordinator that was
replaced, and none in which a withdrawn model is no longer withdrawn. A list says until when it may be relied on.
A file of it carries the trust chain, so that the federation's fingerprint is all that its reader needs.
Invariant: a list whose place repeats is the same list. Source: docs/registry.md, section 4.
"""

import base64
import datetime
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from fedveil_common import jcs
from fedveil_common.crypto import signing
from fedveil_common.errors import PeerError, PolicyRefusal
from fedveil_common.ids import COORDINATOR, FederationId, RunId
from fedveil_common.limits import MAX_DOCUMENT, MAX_STATUS
from fedveil_common.pki import documents
from fedveil_common.pki.governance import Trust, verify_chain
from fedveil_common.registry.identity import MEMBERS, ModelRef
from fedveil_common.registry.stages import Stage
from fedveil_common.registry.statement import coordinator_at
from fedveil_common.secret import PrivateKey
from fedveil_common.succession import follow

WHAT = "status list"
_LABEL = "registry/status"

FILE = "status.json"
"""What the newest list of a home is called: the operator's own, or the highest that an organisation has seen."""

MAX_LISTED = 2048
"""Models that were ever released or withdrawn: with the longest ids, their list fits MAX_DOCUMENT."""

VALID_S = 30 * 24 * 3600
"""How long a list may be relied on: nobody signs one for longer, and nobody takes one that says so. Who may sign lists
for ever, or who once stole the key, cannot make one that never grows old.
"""

AHEAD_S = 24 * 3600
"""How far the coordinator's clock may be ahead of the reader's before a list says nothing of how old it is."""

RENEW_S = 24 * 3600
"""How old the newest list may be before whoever asks for one gets another."""

LISTED = frozenset({Stage.RELEASED, Stage.RETIRED, Stage.WITHDRAWN})


@dataclass(frozen=True, slots=True)
class Listed:
    """One model in force, or no longer in force. `since_s`: of its stage, seconds of the coordinator's wall clock."""

    model: ModelRef
    stage: Stage
    since_s: int


@dataclass(frozen=True, slots=True)
class StatusList:
    """What is in force as of `as_of_s`, until `not_after_s` at most (seconds since 1970, whole). `models`: sorted by
    model id. `statements`: how many stage statements there were, `head`: the digest of the last (empty: none yet).
    """

    federation_id: FederationId
    trust_sequence: int
    sequence: int
    as_of_s: int
    not_after_s: int
    statements: int
    head: bytes
    models: tuple[Listed, ...]

    def to_bytes(self) -> bytes:
        """The RFC 8785 JSON body that is signed."""
        return jcs.dumps(
            {
                "as_of_s": self.as_of_s,
                "federation_id": self.federation_id,
                "head": self.head.hex(),
                "models": [
                    {**one.model.to_json(), "since_s": one.since_s, "stage": one.stage.value} for one in self.models
                ],
                "not_after_s": self.not_after_s,
                "sequence": self.sequence,
                "statements": self.statements,
                "trust_sequence": self.trust_sequence,
            }
        )

    @property
    def place(self) -> tuple[int, int]:
        """Which of two lists is the later one. Governance comes first: a number that the key of a replaced coordinator
        signed, however high, holds up no list of the one that replaced it.
        """
        return self.trust_sequence, self.sequence

    def stage_of(self, model: ModelRef) -> Stage | None:
        """The stage of a model, or None if the list does not name it: it was never released.

        The same run and round, or the same parameters, count as the same model where one was withdrawn: who signed it
        again under another manifest does not bring it back.
        """
        for one in self.models:
            same = (one.model.run_id, one.model.round) == (model.run_id, model.round)
            if one.stage is Stage.WITHDRAWN and (same or one.model.model_hash == model.model_hash):
                return Stage.WITHDRAWN
        return next((one.stage for one in self.models if one.model == model), None)

    def withdraws(self, parameters: bytes) -> bool:
        """Whether a model with these parameters (their hash, 32 bytes) was withdrawn."""
        return any(one.stage is Stage.WITHDRAWN and one.model.model_hash == parameters for one in self.models)

    def withdrawn_of(self, runs: Iterable[str]) -> tuple[RunId, ...]:
        """Those of `runs` whose model was withdrawn, in their order. A run has one model that is decided about, and
        others go on from that one only: where nothing else of an earlier model is known, its run is enough.
        """
        gone = {one.model.run_id for one in self.models if one.stage is Stage.WITHDRAWN}
        return tuple(RunId(run) for run in runs if run in gone)

    def expired(self, now_s: float) -> bool:
        """Whether the list may no longer be relied on: too old, or of a time that is not yet, so that nobody can say
        how old it is.
        """
        return now_s > self.not_after_s or self.ahead(now_s)

    def ahead(self, now_s: float) -> bool:
        """Whether the list calls itself later than it can be."""
        return self.as_of_s > now_s + AHEAD_S


def to_file(status: StatusList, key: PrivateKey, trust_chain: bytes) -> bytes:
    """The list with the coordinator's signature, and the chain that names its key. PeerError `status_valid_too_long`
    for one that no reader would take.
    """
    _check_time(status)
    body = status.to_bytes()
    return jcs.dumps(
        {
            "sig": signing.sign_bytes(key, _LABEL, body).hex(),
            "status": body.decode(),
            "trust_chain": base64.b64encode(trust_chain).decode(),
        }
    )


def read(data: bytes, fingerprint: bytes, known: Sequence[Trust] = ()) -> StatusList:
    """The list in a file, if the coordinator in force signed it. `known`: chains of the same federation that the reader
    has from elsewhere (pinned, or in a model file): the longest says who is in force.

    PeerError `bad_document`, `wrong_federation`, `bad_signature`, `trust_fork`, those of `verify_chain`;
    `status_not_in_force` for the list of a coordinator that was replaced.
    """
    outer = _outer(data)
    try:
        text = outer.text("trust_chain", 2 * MAX_DOCUMENT)
        chain = base64.b64decode(text, validate=True)
    except ValueError:
        raise documents.bad(WHAT, "its trust chain is not base64") from None
    documents.must_equal(base64.b64encode(chain), text.encode(), WHAT)
    trust = verify_chain(chain, fingerprint)
    longest = trust
    for other in known:
        short, long = sorted((longest, other), key=lambda one: one.sequence)
        follow(short, long)
        longest = long
    body = outer.text("status", MAX_DOCUMENT).encode()
    status = _parse(body)
    check_federation(status, trust.federation_id)
    signer = coordinator_at(trust, status.trust_sequence, WHAT)
    signing.verify_bytes(signer, outer.hex("sig", 64), _LABEL, body, peer=COORDINATOR)
    if signer != longest.coordinator:
        raise PeerError(
            "status_not_in_force",
            f"status list {status.sequence} is of a coordinator that trust document {longest.sequence} replaced",
            not_done="the list was not used",
            next_step="fetch the list of the coordinator in force: GET /status of its enrolment port",
        )
    return status


def check_in_use(found: StatusList, model: ModelRef) -> None:
    """Returns unless the list says that the model was withdrawn. PolicyRefusal `model_withdrawn`."""
    if found.stage_of(model) is Stage.WITHDRAWN:
        raise withdrawn(f"the model of run {model.run_id}, round {model.round},", found)


def check_first_model(found: StatusList, runs: Sequence[str], initial: bytes) -> None:
    """Returns unless a new run would go on from what was withdrawn: from a model with these parameters (`initial`:
    their hash, 32 bytes), or through any of the `runs` that lead to it. PolicyRefusal `model_withdrawn`.
    """
    gone = found.withdrawn_of(runs)
    if gone or (runs and found.withdraws(initial)):
        raise withdrawn(
            f"the model of run {gone[0] if gone else runs[-1]}, from which the new run would descend,", found
        )


def check_federation(found: StatusList, federation_id: FederationId) -> None:
    """Returns if the list is of this federation. PeerError `wrong_federation`."""
    if found.federation_id != federation_id:
        raise PeerError("wrong_federation", f"the {WHAT} is of federation {found.federation_id}")


def withdrawn(model: str, found: StatusList) -> PolicyRefusal:
    """`model_withdrawn`, of a model that `found` names so; `model`: for people."""
    return PolicyRefusal(
        "model_withdrawn",
        f"{model} was withdrawn (status list {found.sequence}, as of {date(found.as_of_s)})",
        not_done="the model was not used, and nothing was written",
        next_step="ask the operator which release takes its place",
    )


def date(seconds: float) -> str:
    """A time of the coordinator's clock, for people; in seconds where no calendar has it: a list may say any."""
    try:
        return datetime.datetime.fromtimestamp(seconds, datetime.UTC).strftime("%Y-%m-%d %H:%M UTC")
    except (ValueError, OverflowError, OSError):
        return f"{seconds:.0f} s since 1970"


def contents(data: bytes) -> StatusList:
    """The list in a file of one's own: no signature is asked for. PeerError `bad_document`."""
    return _parse(_outer(data).text("status", MAX_DOCUMENT).encode())


def check_follows(pinned: StatusList, new: StatusList) -> None:
    """Returns if `new` may take the place of `pinned`: it is the same, or a later one that brings nothing back.

    PeerError `status_rollback`, `status_fork`, `withdrawal_undone`.
    """
    if new.place < pinned.place:
        raise PeerError(
            "status_rollback",
            f"status list {new.sequence} is offered, {pinned.sequence} is known",
            not_done="the list that is known stays",
            next_step="telephone the operator: it may serve an old copy",
        )
    if new.place == pinned.place:
        if new != pinned:
            raise PeerError(
                "status_fork",
                f"two different status lists call themselves number {new.sequence}",
                not_done="the list that is known stays",
                next_step="keep both and telephone the operator",
            )
        return
    for one in pinned.models:
        if one.stage is Stage.WITHDRAWN and new.stage_of(one.model) is not Stage.WITHDRAWN:
            raise PeerError(
                "withdrawal_undone",
                f"the model of run {one.model.run_id}, round {one.model.round}, was withdrawn, and status list "
                f"{new.sequence} does not say so",
                not_done="the list that is known stays",
                next_step="telephone the operator: its registry was replaced or restored from before the withdrawal",
            )


def _outer(data: bytes) -> documents.Fields:
    value = documents.canonical(data, WHAT, MAX_STATUS)
    return documents.Fields(value, WHAT, {"sig", "status", "trust_chain"})


def _parse(body: bytes) -> StatusList:
    names = {
        "as_of_s",
        "federation_id",
        "head",
        "models",
        "not_after_s",
        "sequence",
        "statements",
        "trust_sequence",
    }
    fields = documents.Fields(documents.canonical(body, WHAT), WHAT, names)
    found = StatusList(
        FederationId(fields.name("federation_id")),
        fields.integer("trust_sequence"),
        fields.integer("sequence"),
        fields.whole("as_of_s"),
        fields.whole("not_after_s"),
        fields.whole("statements"),
        fields.hex("head", 32) if fields.value("head") else b"",
        tuple(_listed(row) for row in fields.rows("models", MAX_LISTED)),
    )
    documents.must_equal(found.to_bytes(), body, WHAT)
    _check_time(found)
    ids = [one.model.model_id for one in found.models]
    if ids != sorted(set(ids)):
        raise documents.bad(WHAT, "its models are not sorted, or one stands twice")
    return found


def _check_time(found: StatusList) -> None:
    if found.not_after_s > found.as_of_s + VALID_S:
        raise PeerError(
            "status_valid_too_long",
            f"status list {found.sequence} calls itself good for {found.not_after_s - found.as_of_s} s, a list may be "
            f"for {VALID_S} at most",
            not_done="the list was not used",
            next_step="fetch the list of the coordinator in force: GET /status of its enrolment port",
        )


def _listed(row: jcs.Json) -> Listed:
    fields = documents.Fields(row, WHAT, {"since_s", "stage"} | MEMBERS)
    try:
        stage = Stage(fields.text("stage", 16))
    except ValueError:
        raise documents.bad(WHAT, "no such stage") from None
    if stage not in LISTED:
        raise documents.bad(WHAT, f"a list names no {stage} model")
    return Listed(ModelRef.from_fields(fields), stage, fields.whole("since_s"))
