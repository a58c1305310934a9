"""One gRPC channel to the coordinator and the calls on it. A channel's certificate never changes: for a renewed one
there is a new line, and this one is retired.

Promise: no call begins on a retired line that did not begin before; the channel closes with the last of its calls.
"""

import contextlib
import threading
from collections.abc import Iterator

import grpc
from fedveil_common.errors import FedveilError, Unreachable
from fedveil_common.gate import Gate, Label, Outbox, Passage


class Line:
    """Safe from any thread."""

    def __init__(self, channel: grpc.Channel, outbox: Outbox) -> None:
        gate = Gate(channel, outbox)
        self.session = gate.stream_stream("Session")
        self.submit = gate.stream_stream("SubmitInput")
        self.fetch = gate.unary_stream("FetchSum")
        self.round = gate.unary_stream("FetchRound")
        self.headers = gate.unary_stream("FetchHeaders")
        self.leaves = gate.unary_stream("FetchInputLeaves")
        self.renew = gate.unary_unary("Renew")
        self.who = gate.unary_unary("WhoAmI")
        self._gate = gate
        self._channel = channel
        self._lock = threading.Lock()
        self._calls = 0
        self._retired = False

    def begin_upload(self, announcement: bytes, declared: int, label: Label) -> Passage:
        """An upload of `declared` bytes is on record; its frames pass with what this returns."""
        return self._gate.upload("SubmitInput", announcement, declared, label)

    @contextlib.contextmanager
    def call(self) -> Iterator[None]:
        """A call from its beginning to its end."""
        self.begin()
        try:
            yield
        finally:
            self.end()

    def begin(self) -> None:
        """One more call."""
        with self._lock:
            self._calls += 1

    def end(self) -> None:
        """One call fewer."""
        with self._lock:
            self._calls -= 1
            last = self._retired and self._calls == 0
        if last:
            self._channel.close()

    def retire(self) -> None:
        """Another line has taken over: the channel closes once its calls have ended."""
        with self._lock:
            self._retired = True
            idle = self._calls == 0
        if idle:
            self._channel.close()

    def close(self) -> None:
        """The channel and its calls end now."""
        self._channel.close()

    def explain(self, failure: FedveilError) -> FedveilError:
        """A call that was on its way over this line when another one took over is refused for its older certificate. It
        is none of the caller's business: the call is repeated over the new line.
        """
        if failure.code == "certificate_superseded" and self._retired:
            return Unreachable(
                "line_replaced", "the call was overtaken by the renewal of this participant's certificate"
            )
        return failure
