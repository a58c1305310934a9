"""What an organisation may have spent, as the coordinator's journal knows it: signed, for a member that lost its own.

Promise: `reservations` counts every attempt of a private sum that the organisation was invited to and that was not
certified as aborted, whether or not its input ever came: the worst case that the coordinator can know of. It is worth
what the coordinator's word is worth; a coordinator that leaves an attempt out makes a ledger too small. A record is of
one organisation and one federation, and a member believes it only under the key that its roster names.
Nothing in it is more than the coordinator knows. Source: D7; the design of re-keying (docs/privacy.md, section 5).
"""

from collections.abc import Mapping
from dataclasses import dataclass

from fedveil_common import jcs, private_sum
from fedveil_common import plan as plans
from fedveil_common.crypto import signing
from fedveil_common.dp import budget
from fedveil_common.errors import FedveilError, PeerError
from fedveil_common.ids import COORDINATOR, AttemptKey, FederationId, OrgId, RunId
from fedveil_common.messages import Purpose
from fedveil_common.secret import PrivateKey

_LABEL = "spending-record"


@dataclass(frozen=True, slots=True)
class Attempted:
    """One attempt at a private sum: its numbers, its T0 (32 bytes), what it summed, after how many model steps."""

    round: int
    attempt: int
    t0: bytes
    purpose: Purpose
    step: int


@dataclass(frozen=True, slots=True)
class RecordedRun:
    """A run with differential privacy, its canonical plan, and the attempts that count."""

    run_id: RunId
    canonical: bytes
    attempts: tuple[Attempted, ...]


@dataclass(frozen=True, slots=True)
class SpendingRecord:
    """All such runs of a federation that `org_id` was invited to. `as_of_s`: on the coordinator's wall clock."""

    federation_id: FederationId
    org_id: OrgId
    as_of_s: float
    runs: tuple[RecordedRun, ...]


def to_file(record: SpendingRecord, key: PrivateKey) -> bytes:
    """The record with the coordinator's signature over its text."""
    runs: list[jcs.Json] = [
        {
            "run": run.run_id,
            "plan": run.canonical.decode(),
            "attempts": [[one.round, one.attempt, one.t0.hex(), one.purpose.value, one.step] for one in run.attempts],
        }
        for run in record.runs
    ]
    body = jcs.dumps(
        {"federation": record.federation_id, "org": record.org_id, "as_of_s": record.as_of_s, "runs": runs}
    )
    return jcs.dumps({"record": body.decode(), "sig": signing.sign_bytes(key, _LABEL, body).hex()})


def read(data: bytes, coordinator_key: bytes, federation: FederationId, org: OrgId) -> SpendingRecord:
    """The record in a file, if the coordinator signed it for this organisation. PeerError `bad_spending_record`."""
    try:
        outer = _object(jcs.loads(data))
        body = _text(outer["record"]).encode()
        signing.verify_bytes(coordinator_key, bytes.fromhex(_text(outer["sig"])), _LABEL, body, peer=COORDINATOR)
        found = _record(_object(jcs.loads(body)))
    except (FedveilError, KeyError, TypeError, ValueError) as error:
        raise _bad("it is not one that this federation's coordinator signed") from error
    if (found.federation_id, found.org_id) != (federation, org):
        raise _bad(f"it is of {found.org_id} in {found.federation_id}")
    return found


def reservations(record: SpendingRecord, dataset: str) -> tuple[budget.Reserve, ...]:
    """What the record says of one data set, as entries of its ledger: each attempt at its full price."""
    found = []
    for run in record.runs:
        plan = plans.parse_canonical(run.canonical)
        if plan.data.dataset != dataset or plan.privacy is None:
            continue
        for one in run.attempts:
            key = budget.ChargeKey(AttemptKey(run.run_id, one.round, one.attempt), one.t0)
            found.append(budget.Reserve(key, private_sum.charge(plan, plan.privacy, one.purpose, one.step)))
    return tuple(found)


def _record(members: Mapping[str, jcs.Json]) -> SpendingRecord:
    runs = []
    for run in map(_object, _list(members["runs"])):
        attempts = []
        for one in map(_list, _list(run["attempts"])):
            round_, attempt, t0, purpose, step = one
            attempts.append(
                Attempted(
                    _number(round_), _number(attempt), bytes.fromhex(_text(t0)), Purpose(_text(purpose)), _number(step)
                )
            )
        runs.append(RecordedRun(RunId(_text(run["run"])), _text(run["plan"]).encode(), tuple(attempts)))
    as_of = members["as_of_s"]
    if not isinstance(as_of, int | float) or isinstance(as_of, bool):
        raise TypeError("a time was expected")
    return SpendingRecord(
        FederationId(_text(members["federation"])), OrgId(_text(members["org"])), float(as_of), tuple(runs)
    )


def _object(value: jcs.Json) -> Mapping[str, jcs.Json]:
    if not isinstance(value, dict):
        raise TypeError("an object was expected")
    return value


def _list(value: jcs.Json) -> list[jcs.Json]:
    if not isinstance(value, list):
        raise TypeError("a list was expected")
    return value


def _text(value: jcs.Json) -> str:
    if not isinstance(value, str):
        raise TypeError("a text was expected")
    return value


def _number(value: jcs.Json) -> int:
    if not isinstance(value, int) or isinstance(value, bool):
        raise TypeError("a whole number was expected")
    return value


def _bad(why: str) -> PeerError:
    return PeerError(
        "bad_spending_record",
        f"this is no record of what this organisation spent: {why}",
        not_done="nothing was taken into a ledger",
        next_step="ask the operator for `fedveil budget record ORG --out FILE`",
    )
