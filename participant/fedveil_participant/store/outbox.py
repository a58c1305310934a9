"""The outbox of an organisation: one row for every message that leaves, and the receipts that came for them.

Promise: a message is on record before its first byte leaves, with the bytes that it has; where an upload turned out
shorter (the coordinator had part of it already, or the line broke) a further row says so, and none is changed. A
receipt is kept beside the message that awaits it, with the key that was pinned when it came, also a false one.
"""

from dataclasses import dataclass

from fedveil_common.database import Database
from fedveil_common.gate import UNLABELLED, Label
from fedveil_common.ids import AttemptKey, OrgId, RunId
from fedveil_common.messages import BlobType, SignedBlob
from fedveil_common.ports import Clock
from fedveil_common.rows import Row, Value

from fedveil_participant.store import tables


@dataclass(frozen=True, slots=True)
class StoredReceipt:
    """A receipt as it came, unchecked. `signer_key`: the coordinator's protocol key that was pinned then."""

    wall_s: float
    signer_key: bytes
    receipt: SignedBlob


@dataclass(frozen=True, slots=True)
class Sent:
    """One message that left. `size_bytes`: what really did; `what` and `key` as in its label (None: no run); `awaits`:
    the body of the receipt that is due, empty if none is; `receipt`: the one that came.
    """

    seq: int
    wall_s: float
    kind: str
    size_bytes: int
    digest: bytes
    what: str = ""
    key: AttemptKey | None = None
    awaits: bytes = b""
    receipt: StoredReceipt | None = None


class OutboxRows:
    """Any thread. Every method may raise StorageError."""

    def __init__(self, database: Database, clock: Clock) -> None:
        self._database = database
        self._clock = clock

    def record(self, kind: str, size_bytes: int, digest: bytes, label: Label = UNLABELLED) -> int:
        """A message is about to leave: on record before it does, so that what cannot be recorded is not sent. The row
        outlives this process at once, and a power cut from the next stage of the round on.
        """
        key = label.key
        row: dict[str, Value] = {
            "wall_s": self._clock.wall_s(),
            "kind": kind,
            "what": label.what,
            "run_id": "" if key is None else key.run_id,
            "round": 0 if key is None else key.round,
            "attempt": 0 if key is None else key.attempt,
            "size_bytes": size_bytes,
            "content": digest,
            "awaits": label.awaits,
            "amends": 0,
        }
        return self._append(row)

    def amend(self, number: int, size_bytes: int) -> None:
        """Of the message in row `number` so many bytes leave, or left."""
        row: dict[str, Value] = {
            "wall_s": self._clock.wall_s(),
            "kind": "",
            "what": "",
            "run_id": "",
            "round": 0,
            "attempt": 0,
            "size_bytes": size_bytes,
            "content": b"",
            "awaits": b"",
            "amends": number,
        }
        self._append(row)

    def _append(self, row: dict[str, Value]) -> int:
        with self._database.write_soon() as connection:
            tables.OUTBOX.append(connection, [row])
            return tables.OUTBOX.head(connection).seq

    def keep_receipt(self, receipt: SignedBlob, key: bytes, due: bytes) -> bool:
        """A receipt is durable beside the newest message that awaits the body `due` and has none; whether there was
        one. `key`: the coordinator's protocol key that is pinned now.
        """
        with self._database.write() as connection:
            for row in reversed(tables.OUTBOX.select(connection, awaits=due) if due else []):
                number = row.integer("seq")
                if tables.RECEIPTS.one(connection, message=number) is None:
                    kept: dict[str, Value] = {
                        "wall_s": self._clock.wall_s(),
                        "message": number,
                        "signer_id": receipt.signer_id,
                        "signer_key": key,
                        "body": receipt.body,
                        "sig": receipt.sig,
                    }
                    tables.RECEIPTS.append(connection, [kept])
                    return True
        return False

    def outbox(self) -> list[Sent]:
        """Everything that left, oldest first, each with the bytes that did and the receipt that came."""
        with self._database.read() as connection:
            rows = tables.OUTBOX.select(connection)
            found = tables.RECEIPTS.select(connection)
        receipts = {row.integer("message"): _receipt(row) for row in found}
        sizes = {row.integer("amends"): row.integer("size_bytes") for row in rows}  # the last amendment holds
        return [_sent(row, sizes, receipts) for row in rows if not row.integer("amends")]


def _sent(row: Row, sizes: dict[int, int], receipts: dict[int, StoredReceipt]) -> Sent:
    number, run_id = row.integer("seq"), row.text("run_id")
    return Sent(
        number,
        row.real("wall_s"),
        row.text("kind"),
        sizes.get(number, row.integer("size_bytes")),
        row.blob("content"),
        row.text("what"),
        AttemptKey(RunId(run_id), row.integer("round"), row.integer("attempt")) if run_id else None,
        row.blob("awaits"),
        receipts.get(number),
    )


def _receipt(row: Row) -> StoredReceipt:
    blob = SignedBlob(OrgId(row.text("signer_id")), BlobType.RECEIPT, row.blob("body"), row.blob("sig"))
    return StoredReceipt(row.real("wall_s"), row.blob("signer_key"), blob)
