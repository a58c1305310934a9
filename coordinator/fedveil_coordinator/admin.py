"""The gRPC edge of the operator: AdminService over `operations`. Role operator only; no decision in here."""

import asyncio
import json
from collections.abc import Awaitable, Callable
from typing import Any

import grpc
import grpc.aio
from fedveil.v1 import admin_pb2 as pb
from fedveil_common import limits, wire
from google.protobuf.message import DecodeError, Message

from fedveil_coordinator.allowlist import Identity
from fedveil_coordinator.live_calls import LiveCalls
from fedveil_coordinator.operations import Operations, iterate
from fedveil_coordinator.server import Identify, guarded
from fedveil_coordinator.watched import Watched

SERVICE = "fedveil.v1.AdminService"
FRAME = 1024 * 1024
WATCH_BOUND = 4096


class AdminEdge:
    """The handlers of AdminService."""

    def __init__(self, operations: Operations, identify: Identify, live: LiveCalls | None = None) -> None:
        self._operations = operations
        self._identify = identify
        self._live = live

    def handlers(self) -> grpc.GenericRpcHandler:
        """For `server.add_generic_rpc_handlers`: raw bytes in and out."""
        ops = self._operations
        unary: dict[str, tuple[type[Message], Callable[[Any], Message]]] = {
            "GetStatus": (pb.GetStatusRequest, lambda r: pb.GetStatusResponse(status=_document(ops.status()))),
            "RegisterInvite": (
                pb.RegisterInviteRequest,
                lambda r: pb.RegisterInviteResponse(replaces=ops.register_invite(r.invite)),
            ),
            "Revoke": (pb.RevokeRequest, self._revoke),
            "GetRosterDraft": (pb.GetRosterDraftRequest, self._draft),
            "PublishRoster": (
                pb.PublishRosterRequest,
                lambda r: pb.PublishRosterResponse(version=ops.publish_roster(r.signed_roster)),
            ),
            "PublishTrust": (
                pb.PublishTrustRequest,
                lambda r: pb.PublishTrustResponse(sequence=ops.publish_trust(r.trust_chain)),
            ),
            "PublishKey": (
                pb.PublishKeyRequest,
                lambda r: pb.PublishKeyResponse(key=_document(ops.publish_key(r.terms, r.record))),
            ),
            "StartRun": (
                pb.StartRunRequest,
                lambda r: pb.StartRunResponse(run_id=ops.start_run(r.canonical_plan, r.reuse_key_epoch)),
            ),
            "ListRuns": (pb.ListRunsRequest, lambda r: pb.ListRunsResponse(runs=_document(ops.list_runs()))),
            "GetRun": (pb.GetRunRequest, lambda r: pb.GetRunResponse(run=_document(ops.get_run(r.run_id)))),
            "GetRound": (
                pb.GetRoundRequest,
                lambda r: pb.GetRoundResponse(round=_document(ops.get_round(r.run_id, r.round))),
            ),
            "GetSpending": (
                pb.GetSpendingRequest,
                lambda r: pb.GetSpendingResponse(record=ops.spending_record(r.org_id)),
            ),
            "AbortRun": (pb.AbortRunRequest, self._abort),
            "ListModels": (
                pb.ListModelsRequest,
                lambda r: pb.ListModelsResponse(models=_document(ops.models.list_models())),
            ),
            "GetModel": (
                pb.GetModelRequest,
                lambda r: pb.GetModelResponse(model=_document(ops.models.get_model(r.version))),
            ),
            "GetModelStatus": (
                pb.GetModelStatusRequest,
                lambda r: pb.GetModelStatusResponse(status=ops.models.status()),
            ),
        }
        methods: dict[str, Any] = {
            name: grpc.unary_unary_rpc_method_handler(self._unary(*entry)) for name, entry in unary.items()
        }
        methods["DecideModel"] = grpc.unary_unary_rpc_method_handler(
            guarded("operator", self._identify, self.decide, self._live)
        )
        methods["WatchRun"] = grpc.unary_stream_rpc_method_handler(
            guarded("operator", self._identify, self.watch, self._live)
        )
        methods["ExportModel"] = grpc.unary_stream_rpc_method_handler(
            guarded("operator", self._identify, self.export, self._live)
        )
        return grpc.method_handlers_generic_handler(SERVICE, methods)

    def _unary(self, kind: type[Message], work: Callable[[Any], Message]) -> Callable[[Any, Any], Awaitable[Any]]:
        async def handle(data: bytes, context: object, identity: Identity) -> bytes:
            request = _parse(kind, data)
            answer = await asyncio.to_thread(work, request)
            return answer.SerializeToString()

        return guarded("operator", self._identify, handle, self._live)

    def _revoke(self, request: Any) -> Message:
        if not 1 <= len(request.reason) <= 500:
            raise wire.MalformedError("reason", "not 1 to 500 characters")
        ended, still_open = self._operations.revoke(request.org_id, request.reason)
        return pb.RevokeResponse(ended=ended, open=still_open)

    def _draft(self, request: Any) -> Message:
        current, chain, joined, revoked = self._operations.roster_draft()
        return pb.GetRosterDraftResponse(current=current, trust_chain=chain, joined=joined, revoked=revoked)

    def _abort(self, request: Any) -> Message:
        self._operations.abort_run(request.run_id)
        return pb.AbortRunResponse()

    async def decide(self, data: bytes, context: object, identity: Identity) -> bytes:
        """A decision about a model, in the name of the certificate that asks for it."""
        request: Any = _parse(pb.DecideModelRequest, data)
        asked = (request.move, request.version, request.to, request.reason, identity.org_id)
        model = await asyncio.to_thread(self._operations.models.decide, *asked)
        return pb.DecideModelResponse(model=_document(model)).SerializeToString()

    async def watch(self, data: bytes, context: grpc.aio.ServicerContext[Any, Any], identity: Identity) -> None:
        """Every event of a run until it has ended."""
        request: Any = _parse(pb.WatchRunRequest, data)
        loop = asyncio.get_running_loop()
        events: asyncio.Queue[Watched] = asyncio.Queue(WATCH_BOUND)

        def push(event: Watched) -> None:
            if not events.full():
                events.put_nowait(event)

        def watcher(event: Watched) -> None:
            loop.call_soon_threadsafe(push, event)

        told, stop = await asyncio.to_thread(self._operations.watch, request.run_id, watcher)
        try:
            for event in told:
                if event.number > request.after:
                    await context.write(_event(event))
                if event.kind == "ended":
                    return
            while True:
                event = await events.get()
                if not told or event.number > told[-1].number:
                    await context.write(_event(event))
                if event.kind == "ended":
                    return
        finally:
            stop()

    async def export(self, data: bytes, context: grpc.aio.ServicerContext[Any, Any], identity: Identity) -> None:
        """The model file of a version."""
        request: Any = _parse(pb.ExportModelRequest, data)
        model = await asyncio.to_thread(self._operations.models.export, request.version)
        for piece in iterate(model, FRAME):
            await context.write(pb.ExportModelResponse(data=piece).SerializeToString())


def _event(event: Watched) -> bytes:
    return pb.WatchRunResponse(
        number=event.number, kind=event.kind, facts=json.dumps(dict(event.facts))
    ).SerializeToString()


def _document(value: object) -> pb.Document:
    return pb.Document(json=json.dumps(value))


def _parse(kind: type[Message], data: bytes) -> Message:
    if len(data) > limits.MAX_MESSAGE:
        raise wire.MalformedError("request", f"{len(data)} bytes, at most {limits.MAX_MESSAGE}")
    try:
        return kind.FromString(data)
    except DecodeError:
        raise wire.MalformedError("request", "does not parse as protocol buffers") from None
