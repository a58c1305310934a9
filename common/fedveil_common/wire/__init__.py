"""The door: bytes become checked values, values become bytes. Only this package and the gRPC edges know protobuf.

Promise: `parse_*` returns a value whose every field is of the right size, range and order, or raises MalformedError
(a PeerError with code `malformed` and the path of the field); no byte string makes it raise anything else. What was
parsed has exactly one encoding: unknown fields, other field orders and trailing bytes are refused, because encoding the
parsed value again must give the bytes that arrived.
"""

from typing import Any

from fedveil.v1 import rounds_pb2 as pb
from google.protobuf.message import DecodeError

from fedveil_common import limits
from fedveil_common.messages import BlobType, Body, CoordinatorMessage, ParticipantMessage, SignedBlob
from fedveil_common.wire import tables
from fedveil_common.wire.fields import MalformedError

_OUTWARD_NAMES = {kind: name for name, (kind, _) in tables.OUTWARD.items()}
_INWARD_NAMES = {kind: name for name, (kind, _) in tables.INWARD.items()}


def encode_body(body: Body) -> bytes:
    """The one encoding of a body: what is signed and hashed."""
    for message_class, kind, table in tables.BODIES.values():
        if type(body) is kind:
            message = message_class()
            tables.writer(table)(message, body)
            data: bytes = message.SerializeToString(deterministic=True)
            return data
    raise TypeError(f"{type(body).__name__} is no body")


def parse_body(type: BlobType, data: bytes) -> Body:
    """The body of a signed blob of this type. MalformedError; also for the types whose bodies are JSON."""
    if type not in tables.BODIES:
        raise MalformedError("type", f"a body of type {type} is not protobuf")
    message_class, kind, table = tables.BODIES[type]
    body: Body = tables.reader(kind, table)(_decode(message_class, data, limits.MAX_BODY, type.value), type.value)
    if encode_body(body) != data:
        raise MalformedError(type.value, "not the canonical encoding, or unknown fields")
    return body


def encode_blob(blob: SignedBlob) -> bytes:
    """A signed blob by itself, as journals and files keep it."""
    message = pb.SignedBlob()
    tables.BLOB.write(message, blob)
    return message.SerializeToString(deterministic=True)


def parse_blob(data: bytes) -> SignedBlob:
    """The inverse of `encode_blob`."""
    blob: SignedBlob = tables.BLOB.read(_decode(pb.SignedBlob, data, limits.MAX_MESSAGE, "blob"), "blob")
    if encode_blob(blob) != data:
        raise MalformedError("blob", "not the canonical encoding, or unknown fields")
    return blob


def encode_coordinator(message: CoordinatorMessage) -> bytes:
    """One SessionResponse."""
    return _encode(pb.SessionResponse(), _OUTWARD_NAMES[type(message)], tables.OUTWARD, message)


def parse_coordinator(data: bytes) -> CoordinatorMessage:
    """One SessionResponse, checked."""
    parsed: CoordinatorMessage = _parse(pb.SessionResponse, data, tables.OUTWARD)
    if encode_coordinator(parsed) != data:
        raise MalformedError("message", "not the canonical encoding, or unknown fields")
    return parsed


def encode_participant(message: ParticipantMessage) -> bytes:
    """One SessionRequest."""
    return _encode(pb.SessionRequest(), _INWARD_NAMES[type(message)], tables.INWARD, message)


def parse_participant(data: bytes) -> ParticipantMessage:
    """One SessionRequest, checked."""
    parsed: ParticipantMessage = _parse(pb.SessionRequest, data, tables.INWARD)
    if encode_participant(parsed) != data:
        raise MalformedError("message", "not the canonical encoding, or unknown fields")
    return parsed


def _encode(envelope: Any, name: str, cases: dict[str, tuple[type[Any], tables.Table]], value: object) -> bytes:
    tables.writer(cases[name][1])(getattr(envelope, name), value)
    data: bytes = envelope.SerializeToString(deterministic=True)
    return data


def _parse(envelope_class: Any, data: bytes, cases: dict[str, tuple[type[Any], tables.Table]]) -> Any:
    envelope = _decode(envelope_class, data, limits.MAX_MESSAGE, "message")
    name = envelope.WhichOneof("message")
    if name not in cases:
        raise MalformedError("message", "no known message")
    kind, table = cases[name]
    return tables.reader(kind, table)(getattr(envelope, name), name)


def _decode(message_class: Any, data: bytes, most: int, path: str) -> Any:
    if len(data) > most:
        raise MalformedError(path, f"{len(data)} bytes, at most {most}")
    try:
        return message_class.FromString(data)
    except DecodeError:
        raise MalformedError(path, "does not parse as protocol buffers") from None


__all__ = [
    "MalformedError",
    "encode_blob",
    "encode_body",
    "encode_coordinator",
    "encode_participant",
    "parse_blob",
    "parse_body",
    "parse_coordinator",
    "parse_participant",
]
