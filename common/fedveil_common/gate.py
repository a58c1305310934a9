"""The gate: the one place through which a participant's bytes leave, and where each message is written down.

Promise: every outgoing message of a participant is serialised by a stub of this factory, its kind is in a closed list,
and it is recorded (kind, size, digest) before it is sent. A remote call that is not listed here cannot be made.
"""

from __future__ import annotations  # gRPC's classes are generic in the stubs only

import hashlib
from collections.abc import Callable
from typing import Protocol

import grpc

ROUNDS = "/fedveil.v1.RoundsService/"
IDENTITY = "/fedveil.v1.IdentityService/"
_SERVICES = {
    "Session": ROUNDS,
    "SubmitInput": ROUNDS,
    "FetchSum": ROUNDS,
    "FetchRound": ROUNDS,
    "FetchInputLeaves": ROUNDS,
    "FetchHeaders": ROUNDS,
    "Renew": IDENTITY,
    "WhoAmI": IDENTITY,
}
KINDS = frozenset(_SERVICES)
"""Every call a participant may make, by its method name."""


class Outbox(Protocol):
    """Where outgoing messages are written down."""

    def record(self, kind: str, size_bytes: int, digest: bytes) -> None:
        """One message is about to leave: `digest` is its SHA-256."""
        ...


class Gate:
    """Makes the stubs of one channel. Requests and responses are raw bytes; `wire` gives them meaning."""

    def __init__(self, channel: grpc.Channel, outbox: Outbox) -> None:
        self._channel = channel
        self._outbox = outbox

    def unary_unary(self, kind: str) -> grpc.UnaryUnaryMultiCallable[bytes, bytes]:
        """A stub with one request and one response."""
        return self._channel.unary_unary(_path(kind), self._pass(kind), None)

    def stream_stream(self, kind: str) -> grpc.StreamStreamMultiCallable[bytes, bytes]:
        """A stub whose requests and responses are both streams."""
        return self._channel.stream_stream(_path(kind), self._pass(kind), None)

    def stream_unary(self, kind: str) -> grpc.StreamUnaryMultiCallable[bytes, bytes]:
        """A stub whose requests are a stream."""
        return self._channel.stream_unary(_path(kind), self._pass(kind), None)

    def unary_stream(self, kind: str) -> grpc.UnaryStreamMultiCallable[bytes, bytes]:
        """A stub whose responses are a stream."""
        return self._channel.unary_stream(_path(kind), self._pass(kind), None)

    def _pass(self, kind: str) -> Callable[[bytes], bytes]:
        def serialise(data: bytes) -> bytes:
            self._outbox.record(kind, len(data), hashlib.sha256(data).digest())
            return data

        return serialise


def _path(kind: str) -> str:
    if kind not in KINDS:
        raise ValueError(f"{kind} is not a call that a participant makes")
    return _SERVICES[kind] + kind
