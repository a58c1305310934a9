"""`outbox`: everything that left an organisation, and whether the coordinator's receipts hold.

Promise: looking needs no network and works beside a participant that runs. A receipt counts if it says what was sent,
under the key that was pinned when it came, and a trust document of the pinned chain names that key: so receipts outlive
a change of the coordinator's key, and one under any other key does not count.
"""

import enum
import pathlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from fedveil_common.errors import ConfigError, PeerError
from fedveil_common.ids import COORDINATOR
from fedveil_common.jcs import Json
from fedveil_common.secret import Passphrase
from fedveil_participant import membership, receipts
from fedveil_participant.store import Sent

from fedveil_cli import data_home
from fedveil_cli.output import Output, TextTable
from fedveil_cli.spending_report import timestamp
from fedveil_cli.world import real_world


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which messages are asked for; None: all."""

    run: str | None = None
    round: int | None = None

    def fits(self, sent: Sent) -> bool:
        """Whether this one is."""
        run, number = ("", 0) if sent.key is None else (sent.key.run_id, sent.key.round)
        return self.run in {None, run} and self.round in {None, number}


class ReceiptState(enum.StrEnum):
    """What there is of the receipt for a message."""

    NONE_DUE = ""
    AWAITED = "awaited"
    VERIFIED = "verified"
    FALSE = "FALSE"


@dataclass(frozen=True, slots=True)
class Listed:
    """One message and the state of its receipt; `why`: what is wrong with a false one."""

    sent: Sent
    state: ReceiptState
    why: str = ""


def show(home: pathlib.Path, wanted: Wanted, verify: bool, passphrase: Passphrase | None, output: Output) -> None:
    """The command. ConfigError `unknown_run`; with `verify` PeerError `receipt_false` naming each such message."""
    member = membership.load_membership(home)
    keys = frozenset(document.coordinator for document in member.trust.documents)
    with data_home.looking(home, passphrase, real_world()) as books:
        everything = books.outbox()
    if wanted.run is not None and not any(Wanted(wanted.run).fits(sent) for sent in everything):
        raise ConfigError(
            "unknown_run", f"nothing left this organisation for a run {wanted.run}", next_step="fedveil outbox"
        )
    listed = [examined(sent, keys) for sent in everything if wanted.fits(sent)]
    false = [one for one in listed if one.state is ReceiptState.FALSE]
    if verify and false:
        raise _false(false)
    totals = totals_of(listed)
    rows = [_row(one) for one in listed]
    columns = ("number", "time", "kind", "what", "run", "round", "attempt", "bytes", "digest", "receipt")
    tallies = [tuple(str(value) for value in total.values()) for total in totals]
    lines: list[str | TextTable] = [TextTable(columns, rows)] if rows else ["nothing has left this organisation"]
    if tallies:
        heads = ("run", "messages", "bytes", "receipts verified", "awaited", "FALSE")
        lines += ["", TextTable(heads, tallies)]
    value = {"messages": [_message(one) for one in listed], "totals": totals, "false_receipts": len(false)}
    output.result(value, lines)
    for one in false:
        output.warn(f"the receipt for message {one.sent.seq} does not verify: {one.why}")


def examined(sent: Sent, keys: Iterable[bytes]) -> Listed:
    """A message, its receipt checked. `keys`: the coordinator's, of all times that the pinned chain knows."""
    if sent.receipt is None:
        return Listed(sent, ReceiptState.AWAITED if sent.awaits else ReceiptState.NONE_DUE)
    if not sent.awaits:
        return Listed(sent, ReceiptState.FALSE, "it lies beside a message for which none is due")
    try:
        receipts.check(sent.receipt.receipt, sent.receipt.signer_key, sent.awaits)
    except PeerError as error:
        return Listed(sent, ReceiptState.FALSE, error.what)
    if sent.receipt.signer_key not in keys:
        return Listed(sent, ReceiptState.FALSE, "it is under a key that no trust document gives to the coordinator")
    return Listed(sent, ReceiptState.VERIFIED)


def totals_of(listed: Sequence[Listed]) -> list[dict[str, Json]]:
    """Messages, bytes and receipts by run, in the order in which the runs first appear; run "" is what has none."""
    runs = dict.fromkeys("" if one.sent.key is None else one.sent.key.run_id for one in listed)
    return [_total(run, [one for one in listed if _run(one) == run]) for run in runs]


def _total(run: str, listed: Sequence[Listed]) -> dict[str, Json]:
    states = [one.state for one in listed]
    return {
        "run": run,
        "messages": len(listed),
        "bytes": sum(one.sent.size_bytes for one in listed),
        "verified": states.count(ReceiptState.VERIFIED),
        "awaited": states.count(ReceiptState.AWAITED),
        "false": states.count(ReceiptState.FALSE),
    }


def _run(one: Listed) -> str:
    return "" if one.sent.key is None else one.sent.key.run_id


def _message(one: Listed) -> dict[str, Json]:
    sent = one.sent
    return {
        "number": sent.seq,
        "time": timestamp(sent.wall_s),
        "kind": sent.kind,
        "what": sent.what,
        "run": _run(one),
        "round": 0 if sent.key is None else sent.key.round,
        "attempt": 0 if sent.key is None else sent.key.attempt,
        "bytes": sent.size_bytes,
        "digest": sent.digest.hex(),
        "receipt": one.state.value,
    }


def _row(one: Listed) -> tuple[str, ...]:
    message = _message(one)
    message["digest"] = one.sent.digest.hex()[:16]
    return tuple("" if value == 0 and name in {"round", "attempt"} else str(value) for name, value in message.items())


def _false(false: Sequence[Listed]) -> PeerError:
    named = "\n".join(f"message {one.sent.seq} ({one.sent.kind}, run {_run(one)}): {one.why}" for one in false)
    return PeerError(
        "receipt_false",
        f"{len(false)} receipts of the coordinator do not verify\n{named}",
        peer=COORDINATOR,
        not_done="nothing was changed",
        next_step="keep the folder and ask the operator: a receipt is proof only if it verifies",
    )
