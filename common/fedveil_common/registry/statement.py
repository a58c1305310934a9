"""A stage change as the coordinator signs it: which versions, from which stage to which, who decided and why.

Promise: statements are numbered without a gap and each names the one before, so a log with one left out or changed is
told from a whole one. A statement that releases a model says on what the release rests and which facts of its run were
known then. Signed by the coordinator that trust document `trust_sequence` names. Source: docs/registry.md, section 2.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from fedveil_common import jcs
from fedveil_common.crypto import signing
from fedveil_common.crypto.labels import h
from fedveil_common.errors import PeerError
from fedveil_common.ids import COORDINATOR, FederationId
from fedveil_common.messages import BlobType, SignedBlob
from fedveil_common.pki import documents
from fedveil_common.pki.governance import Trust
from fedveil_common.registry.identity import MEMBERS, ModelRef
from fedveil_common.registry.stages import Move, Stage, allowed
from fedveil_common.secret import PrivateKey

WHAT = "stage statement"
MAX_CHANGES = 64
MAX_REASON = 500

QUORUM, OPERATOR_ONLY = "quorum", "operator-signed only"
"""What a release rests on: members that derived the same model, or the coordinator alone (it alone saw the sums)."""


@dataclass(frozen=True, slots=True)
class Change:
    """One version goes from one stage to another."""

    model: ModelRef
    before: Stage
    after: Stage


@dataclass(frozen=True, slots=True)
class ReleaseFacts:
    """What a release says of its model. `rests_on`: QUORUM or OPERATOR_ONLY. `steps`: model steps; `state_hash`: of the
    strategy's moments beside it, empty for one without; `lineage_hash`: H("registry/lineage", T3 of each train round).
    `metrics`: of exactly this model, as the sums measured it; `epsilon`, `delta`: spent up to it, None for exact sums.
    """

    rests_on: str
    plan_hash: bytes
    steps: int
    state_hash: bytes
    lineage_hash: bytes
    metrics: Mapping[str, float]
    epsilon: float | None
    delta: float | None

    def to_json(self) -> jcs.Json:
        """The members as they are signed."""
        return {
            "delta": self.delta,
            "epsilon": self.epsilon,
            "lineage_hash": self.lineage_hash.hex(),
            "metrics": dict(self.metrics),
            "plan_hash": self.plan_hash.hex(),
            "rests_on": self.rests_on,
            "state_hash": self.state_hash.hex(),
            "steps": self.steps,
        }


@dataclass(frozen=True, slots=True)
class Statement:
    """One decision. `number` from 1; `previous`: H("registry/statement", body before), empty for the first; `made_s`:
    seconds of the coordinator's wall clock; `who`: the operator's name in its certificate; `reason`: may be empty.
    """

    federation_id: FederationId
    trust_sequence: int
    number: int
    previous: bytes
    made_s: int
    who: str
    move: Move
    reason: str
    changes: tuple[Change, ...]
    release: tuple[ReleaseFacts, ...] = ()

    def to_bytes(self) -> bytes:
        """The RFC 8785 JSON body."""
        return jcs.dumps(
            {
                "changes": [
                    {**change.model.to_json(), "from": change.before.value, "to": change.after.value}
                    for change in self.changes
                ],
                "federation_id": self.federation_id,
                "made_s": self.made_s,
                "move": self.move.value,
                "number": self.number,
                "previous": self.previous.hex(),
                "reason": self.reason,
                "release": [facts.to_json() for facts in self.release],
                "trust_sequence": self.trust_sequence,
                "who": self.who,
            }
        )

    @property
    def digest(self) -> bytes:
        """How the next statement names this one."""
        return digest(self.to_bytes())

    def releases(self, model_id: bytes) -> bool:
        """Whether this statement makes the model a released one."""
        return any(one.model.model_id == model_id and one.after is Stage.RELEASED for one in self.changes)


def digest(body: bytes) -> bytes:
    """H("registry/statement", body): 32 bytes."""
    return h("registry/statement", body)


def sign(statement: Statement, key: PrivateKey) -> SignedBlob:
    """The statement under the coordinator's protocol key.

    ValueError for one that `parse` would not read: a log in which it stood could never be opened again.
    """
    body = statement.to_bytes()
    try:
        parse(body)
    except PeerError as error:
        raise ValueError("nobody could read this statement") from error
    return signing.sign(key, COORDINATOR, BlobType.STAGE, body)


def parse(body: bytes) -> Statement:
    """The statement in a body. PeerError `bad_document`; no signature is asked for."""
    names = {
        "changes",
        "federation_id",
        "made_s",
        "move",
        "number",
        "previous",
        "reason",
        "release",
        "trust_sequence",
        "who",
    }
    fields = documents.Fields(documents.canonical(body, WHAT), WHAT, names)
    try:
        move = Move(fields.text("move", 16))
        changes = tuple(_change(row, move) for row in fields.rows("changes", MAX_CHANGES))
    except ValueError as error:
        raise documents.bad(WHAT, "no such stage or decision") from error
    found = Statement(
        FederationId(fields.name("federation_id")),
        fields.integer("trust_sequence"),
        fields.integer("number"),
        fields.hex("previous", 32) if fields.value("previous") else b"",
        fields.whole("made_s"),
        fields.text("who", 64),
        move,
        fields.text("reason", MAX_REASON),
        changes,
        tuple(_facts(row) for row in fields.rows("release", 1)),
    )
    documents.must_equal(found.to_bytes(), body, WHAT)
    return found


def verify(blob: SignedBlob, trust: Trust) -> Statement:
    """The statement in `blob`, if the coordinator of its time signed it.

    PeerError `bad_document`, `wrong_federation`, `trust_document_missing`, `bad_signature`, `wrong_type`.
    """
    statement = parse(blob.body)
    if statement.federation_id != trust.federation_id:
        raise PeerError("wrong_federation", f"the {WHAT} is of federation {statement.federation_id}")
    signing.verify(blob, coordinator_at(trust, statement.trust_sequence, WHAT), BlobType.STAGE)
    return statement


def coordinator_at(trust: Trust, sequence: int, what: str) -> bytes:
    """The coordinator's key that trust document `sequence` names. PeerError `trust_document_missing`."""
    if not 1 <= sequence <= trust.sequence:
        raise PeerError(
            "trust_document_missing",
            f"the {what} stands under trust document {sequence}, the chain has {trust.sequence}",
            next_step="fetch it again, with the trust chain of the same time",
        )
    return trust.documents[sequence - 1].coordinator


def fold(statements: Sequence[Statement]) -> dict[bytes, Change]:
    """The last change of every model that a whole log of statements speaks of, by model id.

    PeerError `broken_log` if numbers, links or stages of the log do not fit together.
    """
    found: dict[bytes, Change] = {}
    previous = b""
    for number, statement in enumerate(statements, start=1):
        if (statement.number, statement.previous) != (number, previous):
            raise _broken(f"statement {number} does not follow the one before it")
        for change in statement.changes:
            known = found.get(change.model.model_id)
            if change.before is not (known.after if known else Stage.DRAFT):
                raise _broken(f"statement {number} speaks of another stage of {change.model.run_id}")
            found[change.model.model_id] = change
        previous = statement.digest
    return found


def _broken(why: str) -> PeerError:
    return PeerError("broken_log", f"the log of stages is not whole: {why}", next_step="restore a whole backup")


def _change(row: jcs.Json, move: Move) -> Change:
    fields = documents.Fields(row, WHAT, {"from", "to"} | MEMBERS)
    change = Change(ModelRef.from_fields(fields), Stage(fields.text("from", 16)), Stage(fields.text("to", 16)))
    if not allowed(move, change.before, change.after):
        raise documents.bad(WHAT, f"{move} does not lead from {change.before} to {change.after}")
    return change


def _facts(row: jcs.Json) -> ReleaseFacts:
    names = {"delta", "epsilon", "lineage_hash", "metrics", "plan_hash", "rests_on", "state_hash", "steps"}
    fields = documents.Fields(row, WHAT, names)
    metrics = fields.value("metrics")
    if not isinstance(metrics, Mapping) or fields.value("rests_on") not in (QUORUM, OPERATOR_ONLY):
        raise documents.bad(WHAT, "the facts of its release do not fit")
    return ReleaseFacts(
        fields.text("rests_on", 32),
        fields.hex("plan_hash", 32),
        fields.integer("steps"),
        fields.hex("state_hash", 32) if fields.value("state_hash") else b"",
        fields.hex("lineage_hash", 32),
        {name: _number(value) for name, value in metrics.items()},
        _optional(fields.value("epsilon")),
        _optional(fields.value("delta")),
    )


def _optional(value: jcs.Json) -> float | None:
    return None if value is None else _number(value)


def _number(value: jcs.Json) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise documents.bad(WHAT, "a number was expected")
    return float(value)
