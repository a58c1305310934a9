"""The calls that are going on: each ends when its certificate does, or the moment its identity may no longer speak.

Promise: a stream does not outlive its certificate, however busy it is; a revocation or a freeze ends it within a
second; thousands of parked calls cost nothing but one look at their dates a second. Invariant: the handler's own task
is never what ends a call. gRPC leaves the client of a cancelled handler hanging (grpc #29248), so the work runs in a
task of its own, and the handler ends the call with `context.abort`.
"""

import asyncio
import contextlib
from collections.abc import Callable, Coroutine
from typing import Any

from fedveil_common.ids import OrgId

from fedveil_coordinator.allowlist import Identity

CHECK_S = 1.0
"""How often the ends of all certificates are looked at: they are on the wall clock, which may be set."""

Check = Callable[[Identity], None]
"""Returns if a call that this identity began may go on; raises what it ends with. `AllowList.still` is it."""


class LiveCalls:
    """Calls by identity. `look` may be called from any thread; `run` belongs to the event loop."""

    def __init__(self, check: Check, now: Callable[[], float]) -> None:
        """`now`: the wall clock, seconds since 1970."""
        self._check = check
        self._now = now
        self._calls: set[_Call] = set()
        self._ticking: asyncio.Task[None] | None = None

    def look(self, org_id: OrgId | None = None, code: str = "") -> None:
        """Check the calls of `org_id` (None: all) now. A listener of `AllowList` (which has a code to tell)."""
        for call in list(self._calls):
            if org_id is None or call.identity.org_id == org_id:
                call.wake()

    def count(self, org_id: OrgId) -> int:
        """How many calls of `org_id` are going on."""
        return sum(call.identity.org_id == org_id for call in list(self._calls))

    async def run(self, identity: Identity, work: Coroutine[Any, Any, Any]) -> Any:
        """What `work` returns or raises; or what `check` raises, once the work has been cancelled and is over."""
        call = _Call(identity)
        self._calls.add(call)
        if self._ticking is None or self._ticking.done():
            self._ticking = asyncio.ensure_future(self._tick())
        task = asyncio.ensure_future(work)
        try:
            self._check(identity)  # what ended since the caller was identified told nobody of this call
            while not await call.over(task):
                self._check(identity)
            return task.result()
        finally:
            self._calls.discard(call)
            await _end(task)

    async def _tick(self) -> None:
        """While there are calls: wake those whose certificate has ended."""
        while self._calls:
            await asyncio.sleep(CHECK_S)
            now = self._now()
            for call in list(self._calls):
                if now >= call.identity.until_s:
                    call.wake()


async def _end(task: "asyncio.Future[Any]") -> None:
    """The task is done, cancelled if need be; what it raises then is of no interest."""
    if not task.done():
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError, Exception):
            await task


class _Call:
    """One call, and whether it is to be looked at."""

    def __init__(self, identity: Identity) -> None:
        self.identity = identity
        self._loop = asyncio.get_running_loop()
        self._woken = asyncio.Event()

    def wake(self) -> None:
        """From any thread."""
        with contextlib.suppress(RuntimeError):  # the loop is closed: so is the call
            self._loop.call_soon_threadsafe(self._woken.set)

    async def over(self, task: "asyncio.Future[Any]") -> bool:
        """Whether the task is done; waits until it is, or until it is to be looked at."""
        waking = asyncio.ensure_future(self._woken.wait())
        try:
            await asyncio.wait((task, waking), return_when=asyncio.FIRST_COMPLETED)
        finally:
            waking.cancel()
        self._woken.clear()
        return task.done()
