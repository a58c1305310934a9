"""Connections of the enrolment listener: anyone may open one, so one that asks for nothing is not kept.

Promise: a connection that has not sent a whole request head within REQUEST_TIMEOUT_S of its beginning, or of the end of
its last answer, is cut, however many bytes it sends meanwhile. So the places that uvicorn's `limit_concurrency` counts
come free again. How long a body may take is `enrollment_http`'s.
"""

import asyncio
from typing import Any

from uvicorn.protocols.http.h11_impl import H11Protocol

REQUEST_TIMEOUT_S = 10.0
"""How long a connection may be open without a request."""


class PromptConnection(H11Protocol):
    """uvicorn's connection with a deadline for each request head; for `uvicorn.Config(http=PromptConnection)`."""

    def __init__(self, *arguments: Any, **settings: Any) -> None:
        super().__init__(*arguments, **settings)
        self._deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """A connection stands; its first request is due."""
        super().connection_made(transport)
        self._arm()

    def connection_lost(self, exc: Exception | None) -> None:
        """It is gone."""
        self._disarm()
        super().connection_lost(exc)

    def handle_events(self) -> None:
        """What arrived: a new request ends the wait for it."""
        before = self.cycle
        super().handle_events()
        if self.cycle is not before:
            self._disarm()

    def on_response_complete(self) -> None:
        """An answer is out: the next request is due."""
        self._arm()
        super().on_response_complete()

    def _arm(self) -> None:
        self._disarm()
        self._deadline = self.loop.call_later(REQUEST_TIMEOUT_S, self._cut)

    def _disarm(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _cut(self) -> None:
        self.transport.abort()  # not `close`: TLS would wait for the other side to say goodbye
