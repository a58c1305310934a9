"""The gRPC edge of the rounds: who is calling, what arrived, where it goes. No protocol in here.

Promise: every call is checked against the allow-list by its certificate's SAN URI, and again while it lives; bytes are
parsed inside the handler, so a malformed message is INVALID_ARGUMENT with the field path; no queue is unbounded: the
next message of a session is read once the driver has taken the last; who does not read is not waited for; a call is
ended by `context.abort`, never by cancelling its task (a cancelled handler leaves the client hanging, grpc #29248).
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator
from concurrent.futures import Future
from functools import partial
from typing import Any

import grpc
import grpc.aio
import structlog
from fedveil.v1 import rounds_pb2 as pb
from fedveil_common import limits, wire
from fedveil_common.errors import FedveilError, PeerError, PolicyRefusal, RoundAborted
from fedveil_common.grpc_errors import metadata_of, status_of
from fedveil_common.ids import AttemptKey, OrgId, RunId, is_name
from fedveil_common.leafspool import Announced
from fedveil_common.messages import CoordinatorMessage, SignedBlob
from fedveil_common.ports import LeafSource, LeafSpool
from fedveil_common.roster import Role
from fedveil_common.wire import tables
from google.protobuf.message import DecodeError

from fedveil_coordinator.allowlist import Identity
from fedveil_coordinator.driver import Driver
from fedveil_coordinator.intake import UPLOADS_AT_ONCE, Intake
from fedveil_coordinator.live_calls import LiveCalls

log = structlog.get_logger("fedveil.server")

SERVICE = "fedveil.v1.RoundsService"
OUTLET_BOUND = 1024
"""Messages queued for one session before it is closed (it reconnects and is told the state again)."""

CHUNK_TIMEOUT_S = 30.0
"""How long an upload may be silent."""

WRITE_TIMEOUT_S = 30.0
"""How long one message or frame may take to be read by the other side."""

LAST_WRITE_S = 1.0
"""How long the message that is on its way may delay the end of a call."""

WAIT_REPORT_S = 1.0
"""How often the driver hears that an upload still waits for its turn."""

DOWNLOADS_AT_ONCE = 4
"""Sums sent at the same time, one to an organisation; further ones wait."""

CALLS_OF_ONE = 8
"""Sessions, and downloads, that one organisation may have begun and not ended: the connection of an older one may be
dead and not yet known to be."""

RECHECK_S = 30.0
"""How often a quiet session's certificate is looked at again, where no `LiveCalls` does."""

Identify = Callable[[bytes], Identity]
Handler = Callable[[Any, grpc.aio.ServicerContext[Any, Any], Identity], Coroutine[Any, Any, Any]]


OpenSpool = Callable[[AttemptKey, OrgId, tuple[int, ...], Announced], LeafSpool]
"""(attempt, organisation, quorum of the answer that comes or () for an input, what is announced) -> where its leaves
are written, and which of them are there already."""

OpenSum = Callable[[RunId, int], LeafSource]


class SessionOutlet:
    """The sending end of a session; `send` and `close` may be called from the driver's thread."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._queue: asyncio.Queue[bytes | str] = asyncio.Queue(OUTLET_BOUND + 1)

    def send(self, message: CoordinatorMessage) -> None:
        """Queue a message; a full queue ends the session."""
        data = wire.encode_coordinator(message)
        with contextlib.suppress(RuntimeError):  # the loop is closed: so is the session
            self._loop.call_soon_threadsafe(self._put, data)

    def close(self, code: str) -> None:
        """End the session with this code."""
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self._put, code)

    def _put(self, item: bytes | str) -> None:
        if self._queue.qsize() >= OUTLET_BOUND and isinstance(item, bytes):
            item = "session_too_slow"
        if not self._queue.full():
            self._queue.put_nowait(item)

    async def next(self, timeout_s: float | None) -> bytes | str | None:
        """The next message, the code the session ends with, or None after the timeout, if there is one."""
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


def guarded(
    role: str | None, identify: Identify, handler: Handler, live: LiveCalls | None = None
) -> Callable[[Any, Any], Awaitable[Any]]:
    """A handler that first finds out who calls (None: any role), and turns our errors into gRPC's. With `live` the call
    ends with its certificate, and with its identity's right to speak.
    """

    async def call(request: Any, context: grpc.aio.ServicerContext[Any, Any]) -> Any:
        try:
            identity = identify(certificate_of(context))
            if role is not None and identity.role != role:
                raise PolicyRefusal("wrong_role", f"this call is for role {role}, the certificate says {identity.role}")
            work = handler(request, context, identity)
            return await (work if live is None else live.run(identity, work))
        except FedveilError as error:
            log.warning("call.refused", code=error.code)
            await abort(context, error)

    return call


async def abort(context: grpc.aio.ServicerContext[Any, Any], error: FedveilError) -> None:
    """End the call with this error; never returns."""
    await context.abort(status_of(error), f"[{error.code}] {error.what}", metadata_of(error))


async def taken(post: Callable[[Callable[[], None]], None]) -> None:
    """Hand something to the driver and wait until it has left the driver's queue."""
    loop = asyncio.get_running_loop()
    done: asyncio.Future[None] = loop.create_future()

    def mark() -> None:
        if not done.done():
            done.set_result(None)

    def tell() -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
            loop.call_soon_threadsafe(mark)

    post(tell)
    await done


async def write(context: grpc.aio.ServicerContext[Any, Any], data: bytes, org: OrgId) -> None:
    """One message or frame. PeerError `reader_too_slow` if the other side does not read."""
    sending = asyncio.ensure_future(context.write(data))
    try:
        async with asyncio.timeout(WRITE_TIMEOUT_S):
            await asyncio.shield(sending)
    except asyncio.CancelledError:  # whoever ends the call cannot while a message of it is on its way
        await asyncio.wait((sending,), timeout=LAST_WRITE_S)
        raise
    except TimeoutError:
        raise PeerError("reader_too_slow", f"nothing was read for {WRITE_TIMEOUT_S:.0f} s", peer=org) from None


class Turns:
    """The calls of one kind that each organisation has begun and not ended."""

    def __init__(self) -> None:
        self._open: dict[OrgId, int] = {}

    @contextlib.contextmanager
    def one(self, org: OrgId) -> Iterator[None]:
        """One more call of `org`; RoundAborted `too_many_calls`."""
        if self._open.get(org, 0) >= CALLS_OF_ONE:
            raise RoundAborted("too_many_calls", f"{CALLS_OF_ONE} calls of this kind by this organisation are open")
        self._open[org] = self._open.get(org, 0) + 1
        try:
            yield
        finally:
            self._open[org] -= 1
            if not self._open[org]:
                del self._open[org]

    def within(self, handler: Handler) -> Handler:
        """The handler as one of those calls; a call that is refused counts until the refusal has been read."""

        async def call(request: Any, context: grpc.aio.ServicerContext[Any, Any], identity: Identity) -> Any:
            with self.one(identity.org_id):
                try:
                    return await handler(request, context, identity)
                except FedveilError as error:
                    log.warning("call.refused", org=identity.org_id, code=error.code)
                    await abort(context, error)

        return call


def check_listed(org: OrgId, listed: Callable[[OrgId], bool]) -> None:
    """PolicyRefusal unless `org` is a member of the current roster."""
    if not listed(org):
        raise PolicyRefusal(
            "not_in_roster",
            f"{org} is enrolled and in no roster yet",
            not_done="the call was refused",
            next_step="wait until the operator has signed the next roster (`fedveil run start` does)",
        )


def check_reader(identity: Identity, listed: Callable[[OrgId], bool]) -> None:
    """Opened rounds are for members of the roster and for the operator. PolicyRefusal for anyone else."""
    if identity.role == Role.PARTICIPANT:
        check_listed(identity.org_id, listed)
    elif identity.role != Role.OPERATOR:
        raise PolicyRefusal("wrong_role", f"opened rounds are not for role {identity.role}")


class RoundsEdge:
    """The handlers of RoundsService."""

    def __init__(
        self,
        driver: Driver,
        identify: Identify,
        open_spool: OpenSpool,
        open_sum: OpenSum,
        recheck: Identify | None = None,
        live: LiveCalls | None = None,
    ) -> None:
        """`recheck`: whether a call that began before may go on (else `identify` is asked again)."""
        self._driver = driver
        self._identify = identify
        self._recheck = identify if recheck is None else recheck
        self._live = live
        self._open_spool = open_spool
        self._open_sum = open_sum
        self._uploading: set[OrgId] = set()
        self._slots = asyncio.Semaphore(UPLOADS_AT_ONCE)
        self._downloads = asyncio.Semaphore(DOWNLOADS_AT_ONCE)
        self._download_of: dict[OrgId, asyncio.Lock] = {}

    def handlers(self) -> grpc.GenericRpcHandler:
        """For `server.add_generic_rpc_handlers`: raw bytes in and out."""
        methods: dict[str, Any] = {
            "Session": grpc.stream_stream_rpc_method_handler(
                guarded("participant", self._identify, Turns().within(self.session), self._live)
            ),
            "SubmitInput": grpc.stream_stream_rpc_method_handler(
                guarded("participant", self._identify, self.submit, self._live)
            ),
            "FetchSum": grpc.unary_stream_rpc_method_handler(
                guarded(None, self._identify, Turns().within(self.fetch), self._live)
            ),
            "FetchHeaders": grpc.unary_stream_rpc_method_handler(
                guarded("participant", self._identify, Turns().within(self.headers), self._live)
            ),
        }
        return grpc.method_handlers_generic_handler(SERVICE, methods)

    async def session(
        self, requests: AsyncIterator[bytes], context: grpc.aio.ServicerContext[Any, Any], identity: Identity
    ) -> None:
        """Everything but bulk, both ways, until either side ends it. An organisation that governance has not listed yet
        has one too: on it, it learns of the roster that lists it.
        """
        org = identity.org_id
        outlet = SessionOutlet(asyncio.get_running_loop())
        failure: list[FedveilError] = []

        async def read() -> None:
            try:
                async for data in requests:
                    message = wire.parse_participant(data)
                    await taken(partial(self._driver.received, org, message))
                outlet.close("")
            except PeerError as error:
                failure.append(error)
                outlet.close(error.code)

        reader: asyncio.Future[None] | None = None
        try:
            await taken(partial(self._driver.connected, org, outlet))
            reader = asyncio.ensure_future(read())
            while True:
                item = await outlet.next(RECHECK_S if self._live is None else None)
                if isinstance(item, bytes):
                    await write(context, item, org)
                elif item is None:
                    self._recheck(certificate_of(context))
                elif item == "":
                    return
                else:
                    raise failure[0] if failure else ended(item)
        finally:
            if reader is not None:
                reader.cancel()
            self._driver.disconnected(org, outlet)

    async def submit(
        self, requests: AsyncIterator[bytes], context: grpc.aio.ServicerContext[Any, Any], identity: Identity
    ) -> None:
        """An input, or a holder's answer: announced, asked for from its first missing leaf on, each leaf verified and
        spooled; receipted once the journal has it.
        """
        org = identity.org_id
        self._check_listed(org)
        if org in self._uploading:
            raise RoundAborted("upload_in_progress", "another upload of this organisation is still going on")
        self._uploading.add(org)
        accepted: Future[SignedBlob] | None = None
        try:
            await self._slot(org)
            try:
                header = await self._receive(requests, context, org)
            finally:
                self._slots.release()
            accepted = self._driver.input_complete(org, header)
            receipt = await asyncio.wrap_future(accepted)
        finally:
            self._end_upload(org, accepted)
        answer = pb.SubmitInputResponse()
        tables.BLOB.put(answer, "receipt", receipt)
        await write(context, answer.SerializeToString(), org)

    async def _slot(self, org: OrgId) -> None:
        """Wait for a free upload slot; the driver hears of it meanwhile."""
        while True:
            try:
                async with asyncio.timeout(WAIT_REPORT_S):
                    await self._slots.acquire()
                return
            except TimeoutError:
                self._driver.input_progress(org, 0)

    def _end_upload(self, org: OrgId, accepted: "Future[SignedBlob] | None") -> None:
        """The next upload may begin once the driver has answered this one, whether its caller is still there or not."""
        if accepted is None or accepted.done():
            self._uploading.discard(org)
            return
        loop = asyncio.get_running_loop()

        def answered(future: "Future[SignedBlob]") -> None:
            with contextlib.suppress(RuntimeError):  # the loop is closed: there are no more uploads
                loop.call_soon_threadsafe(self._uploading.discard, org)

        accepted.add_done_callback(answered)

    def _check_listed(self, org: OrgId) -> None:
        """PolicyRefusal unless `org` is a member of the current roster."""
        check_listed(org, lambda one: one in self._driver.members)

    async def _receive(
        self, requests: AsyncIterator[bytes], context: grpc.aio.ServicerContext[Any, Any], org: OrgId
    ) -> SignedBlob:
        announcement = _frame(await _next(requests, org), "announcement").announcement
        header: SignedBlob = tables.BLOB.get(announcement, "header", "announcement.header")
        hashes = list(announcement.leaf_hashes)
        if not 1 <= len(hashes) <= limits.MAX_LEAVES or any(len(one) != 32 for one in hashes):
            raise wire.MalformedError("announcement.leaf_hashes", "not a list of 32-byte hashes")
        upload = self._driver.expect_upload(org, header)
        intake = Intake(upload.due, hashes)
        place = (upload.attempt.key, org, upload.due.quorum, intake.announced(header))
        opening = asyncio.ensure_future(asyncio.to_thread(self._open_spool, *place))
        try:
            spool = await asyncio.shield(opening)
        except asyncio.CancelledError:
            (await opening).close()  # its thread goes on, and until it is done no other upload of this member may begin
            raise
        try:
            intake.begin(spool.first_missing, spool.write)
            await write(context, pb.SubmitInputResponse(first_missing=spool.first_missing).SerializeToString(), org)
            while (data := await _next(requests, org)) is not None:
                leaves = _frame(data, "leaves").leaves
                if not 1 <= len(leaves.leaves) <= limits.LEAVES_PER_FRAME:
                    raise wire.MalformedError("leaves", f"not 1 to {limits.LEAVES_PER_FRAME} leaves in a frame")
                await asyncio.to_thread(intake.take, leaves.first, list(leaves.leaves))
                self._recheck(certificate_of(context))
                self._driver.input_progress(org, leaves.first + len(leaves.leaves))
            intake.complete()
            await asyncio.to_thread(spool.finish)
            await asyncio.to_thread(self._driver.examine, org, upload)
        finally:
            await asyncio.shield(asyncio.to_thread(spool.close))
        return header

    async def fetch(self, data: bytes, context: grpc.aio.ServicerContext[Any, Any], identity: Identity) -> None:
        """An opened sum: its signed blobs, then its leaves. One at a time for each organisation."""
        org = identity.org_id
        check_reader(identity, lambda one: one in self._driver.members)
        lock = self._download_of.setdefault(org, asyncio.Lock())
        async with lock:
            try:
                await self._fetch(data, context, org)
            except FedveilError as error:
                log.warning("call.refused", org=org, code=error.code)
                await abort(context, error)  # inside the lock: who does not read the refusal waits for itself alone

    async def headers(self, data: bytes, context: grpc.aio.ServicerContext[Any, Any], identity: Identity) -> None:
        """Under paillier: the headers of the certified inputs and the lifts of their product, for a holder."""
        org = identity.org_id
        self._check_listed(org)
        try:
            request = pb.FetchHeadersRequest.FromString(data)
        except DecodeError:
            raise wire.MalformedError("request", "does not parse as protocol buffers") from None
        key = tables.KEY_FIELD.get(request, "key", "request.key")
        async with self._download_of.setdefault(org, asyncio.Lock()), self._downloads:
            found = await asyncio.to_thread(self._driver.headers, org, key)
            while (piece := await asyncio.to_thread(next, found, None)) is not None:
                name, first, numbers = piece
                frame = pb.FetchHeadersResponse(org_id=name, first=first, numbers=numbers)
                await write(context, frame.SerializeToString(), org)

    async def _fetch(self, data: bytes, context: grpc.aio.ServicerContext[Any, Any], org: OrgId) -> None:
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
        await write(context, first.SerializeToString(), org)
        async with self._downloads:
            reader = await asyncio.to_thread(self._open_sum, run_id, request.round)
            try:
                await self._send_sum(reader, context, org)
            finally:
                reader.close()

    async def _send_sum(self, source: LeafSource, context: grpc.aio.ServicerContext[Any, Any], org: OrgId) -> None:
        """Frame by frame, in the memory of one frame."""

        def read(first: int, last: int) -> bytes:
            frame = pb.FetchSumResponse()
            frame.leaves.first = first
            frame.leaves.leaves.extend(bytes(source.packed(index)) for index in range(first, last))
            return frame.SerializeToString()

        count, step = source.leaves, limits.LEAVES_PER_FRAME
        for first in range(0, count, step):
            await write(context, await asyncio.to_thread(read, first, min(first + step, count)), org)


def ended(code: str) -> FedveilError:
    """Why the coordinator ends a session."""
    match code:
        case "certificate_revoked":
            return PolicyRefusal(code, "this organisation's membership was revoked", next_step="ask the operator")
        case "identity_frozen":
            return PolicyRefusal(
                code,
                "this identity is frozen: a certificate was used after its successor",
                next_step="telephone the operator: somebody else may hold this key",
            )
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
