"""The gRPC edge of the rounds: who is calling, what arrived, where it goes. No protocol in here.

Promise: every call is checked against the allow-list by its certificate's SAN URI, and again while it lives; bytes are
parsed inside the handler, so a malformed message is INVALID_ARGUMENT with the field path; no queue is unbounded; a call
is ended by `context.abort`, never by cancelling its task (a cancelled handler leaves the client hanging, grpc #29248).
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, Protocol

import grpc
import grpc.aio
import numpy as np
import structlog
from fedveil.v1 import rounds_pb2 as pb
from fedveil_common import limits, wire
from fedveil_common.errors import FedveilError, PeerError, PolicyRefusal, RoundAborted
from fedveil_common.grpc_errors import metadata_of, status_of
from fedveil_common.ids import AttemptKey, OrgId, RunId, is_name
from fedveil_common.masking import masks
from fedveil_common.messages import BlobType, CoordinatorMessage, Result, SignedBlob
from fedveil_common.transcript import LEAF_COORDINATES
from fedveil_common.wire import tables
from google.protobuf.message import DecodeError
from numpy.typing import NDArray

from fedveil_coordinator.allowlist import Identity
from fedveil_coordinator.driver import Driver
from fedveil_coordinator.intake import Intake

log = structlog.get_logger("fedveil.server")

SERVICE = "fedveil.v1.RoundsService"
OUTLET_BOUND = 1024
"""Messages queued for one session before it is closed (it reconnects and is told the state again)."""

CHUNK_TIMEOUT_S = 30.0
"""How long an upload may be silent."""

UPLOADS_AT_ONCE = 4
"""Uploads received at the same time; further ones wait, so that memory does not grow with the cohort."""

DOWNLOADS_AT_ONCE = 4
"""Sums sent at the same time; further ones wait."""

RECHECK_S = 30.0
"""How often a quiet session's certificate is looked at again."""

Identify = Callable[[bytes], Identity]
Handler = Callable[[Any, grpc.aio.ServicerContext[Any, Any], Identity], Awaitable[Any]]


class Spool(Protocol):
    """Where the leaves of one upload are written until it is complete."""

    def write(self, leaf_index: int, data: bytes) -> None:
        """One verified leaf."""
        ...

    def finish(self) -> None:
        """Make the whole durable, in its place."""
        ...

    def discard(self) -> None:
        """Forget it."""
        ...


OpenSpool = Callable[[AttemptKey, OrgId], Spool]


class SumReader(Protocol):
    """An opened sum, read piece by piece."""

    def read(self, start: int, count: int) -> NDArray[np.uint32]:
        """Coordinates start .. start+count."""
        ...

    def close(self) -> None:
        """Done with it."""
        ...


OpenSum = Callable[[RunId, int], SumReader]


class SessionOutlet:
    """The sending end of a session; `send` and `close` may be called from the driver's thread."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._queue: asyncio.Queue[bytes | str] = asyncio.Queue(OUTLET_BOUND + 1)

    def send(self, message: CoordinatorMessage) -> None:
        """Queue a message; a full queue ends the session."""
        data = wire.encode_coordinator(message)
        self._loop.call_soon_threadsafe(self._put, data)

    def close(self, code: str) -> None:
        """End the session with this code."""
        self._loop.call_soon_threadsafe(self._put, code)

    def _put(self, item: bytes | str) -> None:
        if self._queue.qsize() >= OUTLET_BOUND and isinstance(item, bytes):
            item = "session_too_slow"
        if not self._queue.full():
            self._queue.put_nowait(item)

    async def next(self, timeout_s: float) -> bytes | str | None:
        """The next message, the code the session ends with, or None after the timeout."""
        try:
            async with asyncio.timeout(timeout_s):
                return await self._queue.get()
        except TimeoutError:
            return None


def certificate_of(context: grpc.aio.ServicerContext[Any, Any]) -> bytes:
    """The caller's certificate, PEM."""
    found = list(context.auth_context().get("x509_pem_cert", []))
    if len(found) != 1:
        raise PolicyRefusal("not_enrolled", "the call carries no client certificate")
    return bytes(found[0])


def guarded(role: str, identify: Identify, handler: Handler) -> Callable[[Any, Any], Awaitable[Any]]:
    """A handler that first finds out who calls, and turns our errors into gRPC's."""

    async def call(request: Any, context: grpc.aio.ServicerContext[Any, Any]) -> Any:
        try:
            identity = identify(certificate_of(context))
            if identity.role != role:
                raise PolicyRefusal("wrong_role", f"this call is for role {role}, the certificate says {identity.role}")
            return await handler(request, context, identity)
        except FedveilError as error:
            log.warning("call.refused", code=error.code)
            await abort(context, error)

    return call


async def abort(context: grpc.aio.ServicerContext[Any, Any], error: FedveilError) -> None:
    """End the call with this error; never returns."""
    await context.abort(status_of(error), f"[{error.code}] {error.what}", metadata_of(error))


class RoundsEdge:
    """The handlers of RoundsService."""

    def __init__(self, driver: Driver, identify: Identify, open_spool: OpenSpool, open_sum: OpenSum) -> None:
        self._driver = driver
        self._identify = identify
        self._open_spool = open_spool
        self._open_sum = open_sum
        self._uploading: set[OrgId] = set()
        self._slots = asyncio.Semaphore(UPLOADS_AT_ONCE)
        self._downloads = asyncio.Semaphore(DOWNLOADS_AT_ONCE)

    def handlers(self) -> grpc.GenericRpcHandler:
        """For `server.add_generic_rpc_handlers`: raw bytes in and out."""
        methods: dict[str, Any] = {
            "Session": grpc.stream_stream_rpc_method_handler(guarded("participant", self._identify, self.session)),
            "SubmitInput": grpc.stream_unary_rpc_method_handler(guarded("participant", self._identify, self.submit)),
            "FetchSum": grpc.unary_stream_rpc_method_handler(guarded("participant", self._identify, self.fetch)),
        }
        return grpc.method_handlers_generic_handler(SERVICE, methods)

    async def session(
        self, requests: AsyncIterator[bytes], context: grpc.aio.ServicerContext[Any, Any], identity: Identity
    ) -> None:
        """Everything but bulk, both ways, until either side ends it."""
        outlet = SessionOutlet(asyncio.get_running_loop())
        failure: list[FedveilError] = []

        async def read() -> None:
            try:
                async for data in requests:
                    self._driver.received(identity.org_id, wire.parse_participant(data))
                outlet.close("")
            except PeerError as error:
                failure.append(error)
                outlet.close(error.code)

        self._driver.connected(identity.org_id, outlet)
        reader = asyncio.ensure_future(read())
        try:
            while True:
                item = await outlet.next(RECHECK_S)
                if isinstance(item, bytes):
                    await context.write(item)
                elif item is None:
                    self._identify(certificate_of(context))
                elif item == "":
                    return
                else:
                    raise failure[0] if failure else ended(item)
        finally:
            reader.cancel()
            self._driver.disconnected(identity.org_id, outlet)

    async def submit(
        self, requests: AsyncIterator[bytes], context: grpc.aio.ServicerContext[Any, Any], identity: Identity
    ) -> bytes:
        """A masked input: announced, leaf by leaf verified and spooled, receipted once the journal has it."""
        org = identity.org_id
        if org in self._uploading:
            raise RoundAborted("upload_in_progress", "another upload of this organisation is still going on")
        self._uploading.add(org)
        try:
            async with self._slots:
                return await self._receive(requests, context, org)
        finally:
            self._uploading.discard(org)

    async def _receive(
        self, requests: AsyncIterator[bytes], context: grpc.aio.ServicerContext[Any, Any], org: OrgId
    ) -> bytes:
        announcement = _frame(await _next(requests, org), "announcement").announcement
        header: SignedBlob = tables.BLOB.get(announcement, "header", "announcement.header")
        hashes = list(announcement.leaf_hashes)
        if not 1 <= len(hashes) <= limits.MAX_LEAVES or any(len(one) != 32 for one in hashes):
            raise wire.MalformedError("announcement.leaf_hashes", "not a list of 32-byte hashes")
        attempt, body = self._driver.expect_input(org, header)
        spool = self._open_spool(attempt.key, org)
        try:
            intake = Intake(body, hashes, spool.write)
            while (data := await _next(requests, org)) is not None:
                leaves = _frame(data, "leaves").leaves
                if not 1 <= len(leaves.leaves) <= limits.LEAVES_PER_FRAME:
                    raise wire.MalformedError("leaves", f"not 1 to {limits.LEAVES_PER_FRAME} leaves in a frame")
                await asyncio.to_thread(intake.take, leaves.first, list(leaves.leaves))
                self._identify(certificate_of(context))
                self._driver.input_progress(org)
            intake.complete()
            await asyncio.to_thread(spool.finish)
        except BaseException:
            spool.discard()
            raise
        receipt = await asyncio.wrap_future(self._driver.input_complete(org, header))
        answer = pb.SubmitInputResponse()
        tables.BLOB.put(answer, "receipt", receipt)
        return answer.SerializeToString()

    async def fetch(self, data: bytes, context: grpc.aio.ServicerContext[Any, Any], identity: Identity) -> None:
        """An opened sum: its signed blobs, then its leaves."""
        try:
            request = pb.FetchSumRequest.FromString(data)
        except DecodeError:
            raise wire.MalformedError("request", "does not parse as protocol buffers") from None
        if not is_name(request.run_id) or not 1 <= request.round <= limits.MAX_ROUND:
            raise wire.MalformedError("request", "run_id or round is not one")
        run_id = RunId(request.run_id)
        manifest, result = await asyncio.to_thread(self._driver.sums.source, run_id, request.round)
        first = pb.FetchSumResponse()
        tables.BLOB.put(first.announcement, "result", result)
        tables.BLOB.put(first.announcement, "manifest", manifest)
        await context.write(first.SerializeToString())
        body = wire.parse_body(BlobType.RESULT, result.body)
        assert isinstance(body, Result)
        async with self._downloads:
            reader = await asyncio.to_thread(self._open_sum, run_id, request.round)
            try:
                await self._send_sum(reader, body.length, context)
            finally:
                reader.close()

    async def _send_sum(self, reader: SumReader, length: int, context: grpc.aio.ServicerContext[Any, Any]) -> None:
        """Frame by frame, in the memory of one frame."""
        step = limits.LEAVES_PER_FRAME * LEAF_COORDINATES
        for start in range(0, length, step):
            piece = await asyncio.to_thread(reader.read, start, min(step, length - start))
            frame = pb.FetchSumResponse()
            frame.leaves.first = start // LEAF_COORDINATES
            frame.leaves.leaves.extend(bytes(leaf) for _, leaf in masks.leaves(piece))
            await context.write(frame.SerializeToString())


def ended(code: str) -> FedveilError:
    """Why the coordinator ends a session."""
    match code:
        case "certificate_revoked":
            return PolicyRefusal(code, "this organisation's membership was revoked", next_step="ask the operator")
        case "session_replaced":
            return RoundAborted(code, "a newer session of this organisation replaced this one")
        case "stopping":
            return RoundAborted(code, "the coordinator is stopping", next_step="the participant reconnects by itself")
        case _:
            return RoundAborted(code, "the coordinator ended this session")


async def _next(requests: AsyncIterator[bytes], org: OrgId) -> Any:
    try:
        async with asyncio.timeout(CHUNK_TIMEOUT_S):
            return await anext(requests)
    except StopAsyncIteration:
        return None
    except TimeoutError:
        raise PeerError("upload_too_slow", f"nothing came for {CHUNK_TIMEOUT_S:.0f} s", peer=org) from None


def _frame(data: bytes | None, expected: str) -> Any:
    if data is None:
        raise wire.MalformedError("frame", f"the stream ended before its {expected}")
    try:
        frame = pb.SubmitInputRequest.FromString(data)
    except DecodeError:
        raise wire.MalformedError("frame", "does not parse as protocol buffers") from None
    if frame.WhichOneof("frame") != expected:
        raise wire.MalformedError("frame", f"not the {expected} that is due")
    return frame


__all__ = ["Identify", "RoundsEdge", "abort", "certificate_of", "ended", "guarded"]
