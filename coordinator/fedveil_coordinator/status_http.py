"""What the enrolment port answers about models: GET /status, the signed status list in force. It is public."""

from typing import Protocol

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route


class StatusSource(Protocol):
    """Where the list is; `registry.Registry` is it."""

    def status(self) -> bytes:
        """Its file. Any thread."""
        ...


def route(source: StatusSource) -> Route:
    """For `enrollment_http.application`."""

    async def status(request: Request) -> Response:
        return Response(await run_in_threadpool(source.status), media_type="application/json")

    return Route("/status", status)
