"""The gate: the one place through which a participant's bytes leave, and where each message is written down.

Promise: every outgoing message of a participant passes here, over gRPC (the stubs of `Gate`) or HTTPS (`https`); its
kind is in a closed list; and kind, size and digest are on record before its first byte leaves. An upload travels in
frames under one row, which says how many bytes they have together: a frame beyond that is not sent. A call that is not
listed here cannot be made.
"""

from __future__ import annotations  # gRPC's classes are generic in the stubs only

import hashlib
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, assert_never

import grpc

from fedveil_common.ids import AttemptKey

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
_REQUESTS = {
    "Trust": ("GET", "/trust"),
    "Authorities": ("GET", "/ca.pem"),
    "Time": ("GET", "/time"),
    "Standing": ("POST", "/standing"),
    "Join": ("POST", "/join"),
    "RenewOffline": ("POST", "/renew"),
}
CALLS = frozenset(_SERVICES)
"""Every gRPC call a participant may make, by its method name."""

REQUESTS = frozenset(_REQUESTS)
"""Every HTTPS request a participant may make of the enrolment port."""

KINDS = CALLS | REQUESTS
"""Everything that may leave."""


@dataclass(frozen=True, slots=True)
class Label:
    """What is written down about a message beside its bytes. `what`: which message of a session, or what an upload
    holds; `key`: the attempt it belongs to (round and attempt 0: the run, or a round as a whole); `awaits`: the body of
    the receipt that the coordinator owes for it, empty if none is due.
    """

    what: str = ""
    key: AttemptKey | None = None
    awaits: bytes = b""


UNLABELLED = Label()


class Outbox(Protocol):
    """Where outgoing messages are written down."""

    def record(self, kind: str, size_bytes: int, digest: bytes, label: Label = UNLABELLED) -> int:
        """One message is about to leave: `digest` is its SHA-256 (of an upload: of the announcement, which holds the
        hash of every leaf). Returns the number of its row.
        """
        ...

    def amend(self, number: int, size_bytes: int) -> None:
        """Of the message in row `number` so many bytes leave, or left, and not what was written there."""
        ...


class Bare:
    """The outbox of who has no journal yet, or none open: a question without a body passes, nothing else does."""

    def record(self, kind: str, size_bytes: int, digest: bytes, label: Label = UNLABELLED) -> int:
        """ValueError for a message that says anything."""
        if size_bytes:
            raise ValueError(f"{kind} has {size_bytes} bytes and no outbox to be written into")
        return 0

    def amend(self, number: int, size_bytes: int) -> None:
        """There is nothing to amend."""
        raise ValueError("a question without a body is not amended")


class Passage:
    """One upload on its way through the gate, from `Gate.upload`. Safe from any thread."""

    def __init__(self, outbox: Outbox, kind: str, number: int, declared: int) -> None:
        self.kind = kind
        self._outbox = outbox
        self._number = number
        self._declared = declared
        self._passed = 0
        self._over = False
        self._lock = threading.Lock()

    def declare(self, size_bytes: int) -> None:
        """All frames have so many bytes together, those that have passed included. On record when this returns."""
        with self._lock:
            if size_bytes != self._declared:
                self._outbox.amend(self._number, size_bytes)
                self._declared = size_bytes

    def take(self, size_bytes: int) -> None:
        """One frame passes. ValueError if it is more than is on record: it must not be sent."""
        with self._lock:
            if self._over or self._passed + size_bytes > self._declared:
                raise ValueError(f"a frame of {size_bytes} bytes is more than is on record of this upload")
            self._passed += size_bytes

    def end(self) -> None:
        """No further frame passes; if fewer did than was declared, that is put on record."""
        with self._lock:
            if not self._over and self._passed != self._declared:
                self._outbox.amend(self._number, self._passed)
            self._over = True


@dataclass(frozen=True, slots=True)
class Whole:
    """A message in one piece."""

    data: bytes
    label: Label = UNLABELLED


@dataclass(frozen=True, slots=True)
class Part:
    """A frame of an upload."""

    data: bytes
    passage: Passage


Outgoing = Whole | Part


class Gate:
    """Makes the stubs of one channel. Requests are `Outgoing`, responses raw bytes; `wire` gives them meaning."""

    def __init__(self, channel: grpc.Channel, outbox: Outbox) -> None:
        self._channel = channel
        self._outbox = outbox

    def unary_unary(self, kind: str) -> grpc.UnaryUnaryMultiCallable[Outgoing, bytes]:
        """A stub with one request and one response."""
        return self._channel.unary_unary(_path(kind), self._pass(kind), None)

    def stream_stream(self, kind: str) -> grpc.StreamStreamMultiCallable[Outgoing, bytes]:
        """A stub whose requests and responses are both streams."""
        return self._channel.stream_stream(_path(kind), self._pass(kind), None)

    def unary_stream(self, kind: str) -> grpc.UnaryStreamMultiCallable[Outgoing, bytes]:
        """A stub whose responses are a stream."""
        return self._channel.unary_stream(_path(kind), self._pass(kind), None)

    def upload(self, kind: str, announcement: bytes, declared: int, label: Label) -> Passage:
        """The one row of an upload, of `declared` bytes with its announcement; its frames go as `Part` of what this
        returns. ValueError for a kind that is none.
        """
        _path(kind)
        number = self._outbox.record(kind, declared, hashlib.sha256(announcement).digest(), label)
        return Passage(self._outbox, kind, number, declared)

    def _pass(self, kind: str) -> Callable[[Outgoing], bytes]:
        def serialise(message: Outgoing) -> bytes:
            match message:
                case Whole(data, label):
                    self._outbox.record(kind, len(data), hashlib.sha256(data).digest(), label)
                case Part(data, passage):
                    if passage.kind != kind:
                        raise ValueError(f"a frame of {passage.kind} does not leave as {kind}")
                    passage.take(len(data))
                case _:
                    assert_never(message)
            return data

        return serialise


def https(outbox: Outbox, kind: str, body: bytes) -> tuple[str, str]:
    """(method, path) of a request that is on record when this returns. ValueError for one that is not listed, and for
    a question that carries a body.
    """
    if kind not in REQUESTS:
        raise ValueError(f"{kind} is not a request that a participant makes")
    method, path = _REQUESTS[kind]
    if method == "GET" and body:
        raise ValueError(f"{kind} is a question without a body")
    outbox.record(kind, len(body), hashlib.sha256(body).digest())
    return method, path


def _path(kind: str) -> str:
    if kind not in CALLS:
        raise ValueError(f"{kind} is not a call that a participant makes")
    return _SERVICES[kind] + kind
