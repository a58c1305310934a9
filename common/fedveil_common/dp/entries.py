"""Ledger entries as JSON values and back, without the loss of a bit.

Promise: `decode(encode(entry)) == entry` for every entry; floats travel as hexadecimal text (`float.hex`), so no reader
rounds them, counts as decimal text, so none of them is too large for a JSON number, bytes as hexadecimal text. A value
that is not exactly what `encode` writes is refused.
"""

from collections.abc import Mapping, Sequence
from typing import assert_never

from fedveil_common.bodies import AbortCertificate, BlobType, SignedBlob
from fedveil_common.dp import budget
from fedveil_common.dp.charge import Charge
from fedveil_common.dp.rdp import Curve
from fedveil_common.dp.slack import Slack
from fedveil_common.errors import IntegrityError
from fedveil_common.ids import AttemptKey, OrgId, RunId
from fedveil_common.jcs import Json

_RESERVE, _SETTLE, _RELEASE = "reserve", "settle", "release"


def encode(entry: budget.Entry) -> dict[str, Json]:
    """The entry as a JSON object of texts, numbers below 2^53 and lists."""
    key = entry.key.attempt
    common: dict[str, Json] = {
        "run": key.run_id,
        "round": key.round,
        "attempt": key.attempt,
        "t0": entry.key.t0.hex(),
    }
    match entry:
        case budget.Reserve(charge=charge):
            return {"entry": _RESERVE, **common, **_charge(charge)}
        case budget.Settle(charge=charge):
            return {"entry": _SETTLE, **common, **_charge(charge)}
        case budget.Release(certificate=certificate):
            votes: list[Json] = [
                {"signer": vote.signer_id, "type": vote.type.value, "body": vote.body.hex(), "sig": vote.sig.hex()}
                for vote in certificate.votes
            ]
            return {"entry": _RELEASE, **common, "votes": votes}
        case _ as never:
            assert_never(never)


def decode(value: Json) -> budget.Entry:
    """The entry that `encode` wrote; IntegrityError `ledger_damaged` if it wrote no such thing."""
    try:
        entry = _entry(_members(value))
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise IntegrityError(
            "ledger_damaged",
            "a ledger entry does not parse",
            not_done="no privacy was spent on the data source of this ledger",
            next_step="restore the journal; a ledger is never started anew",
        ) from error
    if encode(entry) != value:
        raise IntegrityError("ledger_damaged", "a ledger entry says more, or says it otherwise, than Fedveil writes it")
    return entry


def _entry(members: Mapping[str, Json]) -> budget.Entry:
    attempt = AttemptKey(RunId(_text(members["run"])), _number(members["round"]), _number(members["attempt"]))
    key = budget.ChargeKey(attempt, bytes.fromhex(_text(members["t0"])))
    match members["entry"]:
        case "reserve":
            return budget.Reserve(key, _read_charge(members))
        case "settle":
            return budget.Settle(key, _read_charge(members))
        case "release":
            votes = tuple(map(_read_vote, _list(members["votes"])))
            return budget.Release(key, AbortCertificate(key.t0, votes))
        case other:
            raise ValueError(other)


def _charge(charge: Charge) -> dict[str, Json]:
    return {
        "training": [rho.hex() for rho in charge.training.rho],
        "holdout": [rho.hex() for rho in charge.holdout.rho],
        "draws": str(charge.slack.draws),
        "tested": str(charge.slack.attempts),
    }


def _read_charge(members: Mapping[str, Json]) -> Charge:
    slack = Slack(int(_text(members["draws"])), int(_text(members["tested"])))
    return Charge(_read_curve(members["training"]), _read_curve(members["holdout"]), slack)


def _read_curve(value: Json) -> Curve:
    return Curve(tuple(float.fromhex(_text(one)) for one in _list(value)))


def _read_vote(value: Json) -> SignedBlob:
    members = _members(value)
    body, sig = bytes.fromhex(_text(members["body"])), bytes.fromhex(_text(members["sig"]))
    return SignedBlob(OrgId(_text(members["signer"])), BlobType(_text(members["type"])), body, sig)


def _members(value: Json) -> Mapping[str, Json]:
    if not isinstance(value, Mapping):
        raise TypeError("an object was expected")
    return value


def _list(value: Json) -> Sequence[Json]:
    if isinstance(value, str) or not isinstance(value, Sequence):
        raise TypeError("a list was expected")
    return value


def _text(value: Json) -> str:
    if not isinstance(value, str):
        raise TypeError("a text was expected")
    return value


def _number(value: Json) -> int:
    if not isinstance(value, int) or isinstance(value, bool):
        raise TypeError("a whole number was expected")
    return value
