"""What the outbox says of a message beside its bytes: which one it is, of which attempt, and which receipt is due.

The receipt is known beforehand: its body is T0, what it acknowledges, and a digest of what was sent. Source: FLSA/1,
A19 (docs/protocol.md).
"""

import hashlib
import re

from fedveil_common import wire
from fedveil_common.gate import Label
from fedveil_common.ids import AttemptKey, RunId
from fedveil_common.messages import (
    BlobType,
    CipherHeader,
    Header,
    Partial,
    ParticipantHello,
    ParticipantMessage,
    PlanAnswer,
    Progress,
    Receipt,
    ReceiptKind,
    Refusal,
    RevealMessage,
    RunEndedAck,
    SignedBlob,
)

from fedveil_participant.events import UploadInput
from fedveil_participant.stages import Idle, Stage

INPUT, ANSWER = "input", "answer"
"""What an upload holds: a protected input, or a holder's partial decryptions."""


def label_of_session(message: ParticipantMessage, label: Label) -> Label:
    """The label of a message of the session: its name, and the attempt that it or `label` names."""
    what = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", type(message).__name__).lower().removesuffix("_message")
    match message:
        case ParticipantHello() | PlanAnswer():
            return Label(what)
        case Progress() | Refusal():
            return Label(what, message.key)
        case RunEndedAck():
            return Label(what, AttemptKey(message.run_id, 0, 0))
        case _:
            return Label(what, label.key, label.awaits)


def label_of_round(run_id: RunId, round: int) -> Label:
    """The label of a question about an opened round."""
    return Label(key=AttemptKey(run_id, round, 0))


def label_of_message(message: ParticipantMessage, stage: Stage, key: AttemptKey) -> Label:
    """The label of what the round machine sends in `stage`, of the attempt `key`."""
    if isinstance(message, RevealMessage) and not isinstance(stage, Idle):
        return Label(key=key, awaits=_due(stage.frame.t0, ReceiptKind.REVEAL, message.reveal.body))
    return Label(key=key)


def label_of_upload(action: UploadInput, stage: Stage) -> Label:
    """The label of an upload, which `stage` asks for."""
    what = ANSWER if action.quorum else INPUT
    if isinstance(stage, Idle) or stage.frame.key != action.key:
        return Label(what, action.key)
    return Label(what, action.key, due_for_upload(stage.frame.t0, action.header))


def due_for_upload(t0: bytes, header: SignedBlob) -> bytes:
    """The body of the receipt over an upload under this header."""
    kind = ReceiptKind.REVEAL if header.type is BlobType.PARTIAL else ReceiptKind.INPUT
    body = wire.parse_body(header.type, header.body)
    assert isinstance(body, Header | CipherHeader | Partial), "no other header is uploaded under"
    return _due(t0, kind, body.leaf_root)


def _due(t0: bytes, kind: ReceiptKind, acknowledged: bytes) -> bytes:
    return wire.encode_body(Receipt(t0, kind, hashlib.sha256(acknowledged).digest()))
