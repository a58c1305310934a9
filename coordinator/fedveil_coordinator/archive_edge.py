"""The gRPC edge of the archive: what proves an opened round, and leaves of its inputs. No protocol in here.

Promise: as for the rounds (`server`): every call is checked against the allow-list, one of a kind at a time for each
organisation, and who does not read is not waited for.
"""

import asyncio
import itertools
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, TypeVar

import grpc
import grpc.aio
from fedveil.v1 import rounds_pb2 as pb
from fedveil_common import limits, wire
from fedveil_common.errors import FedveilError
from fedveil_common.ids import OrgId, RunId, is_name
from fedveil_common.wire.published import LEAF_KINDS, encode_parts
from google.protobuf.message import DecodeError

from fedveil_coordinator.allowlist import Identity
from fedveil_coordinator.archive import Archive
from fedveil_coordinator.live_calls import LiveCalls
from fedveil_coordinator.server import SERVICE, Identify, Turns, abort, check_reader, guarded, write

READERS_AT_ONCE = 4
"""Calls that read kept inputs at the same time; further ones wait."""

FRAME_BYTES = 1024 * 1024
"""Of a frame of several parts or leaves."""

T = TypeVar("T")


class ArchiveEdge:
    """The handlers of FetchRound and FetchInputLeaves."""

    def __init__(
        self,
        archive: Archive,
        identify: Identify,
        listed: Callable[[OrgId], bool],
        live: LiveCalls | None = None,
    ) -> None:
        """`listed`: whether an organisation is in the current roster; `live`: as for the rounds."""
        self._archive = archive
        self._live = live
        self._identify = identify
        self._listed = listed
        self._readers = asyncio.Semaphore(READERS_AT_ONCE)
        self._call_of: dict[OrgId, asyncio.Lock] = {}

    def handlers(self) -> grpc.GenericRpcHandler:
        """For `server.add_generic_rpc_handlers`: raw bytes in and out."""
        methods: dict[str, Any] = {
            name: grpc.unary_stream_rpc_method_handler(
                guarded(None, self._identify, Turns().within(partial(self._serve, answer)), self._live)
            )
            for name, answer in (("FetchRound", self._round), ("FetchInputLeaves", self._leaves))
        }
        return grpc.method_handlers_generic_handler(SERVICE, methods)

    async def _serve(
        self,
        answer: Callable[[bytes], Iterator[bytes]],
        data: bytes,
        context: grpc.aio.ServicerContext[Any, Any],
        identity: Identity,
    ) -> None:
        org = identity.org_id
        check_reader(identity, self._listed)
        async with self._call_of.setdefault(org, asyncio.Lock()):
            try:
                async with self._readers:
                    parts = await asyncio.to_thread(answer, data)
                    while (part := await asyncio.to_thread(next, parts, None)) is not None:
                        await write(context, part, org)
            except FedveilError as error:
                await abort(context, error)

    def _round(self, data: bytes) -> Iterator[bytes]:
        request = _request(pb.FetchRoundRequest, data)
        parts = encode_parts(self._archive.round(RunId(request.run_id), request.round))
        frame, size = pb.FetchRoundResponse(), 0
        for part in parts:
            if len(frame.parts) == limits.PARTS_PER_FRAME or (size and size + len(part) > FRAME_BYTES):
                yield frame.SerializeToString()
                frame, size = pb.FetchRoundResponse(), 0
            frame.parts.append(pb.RoundPart.FromString(part))
            size += len(part)
        yield frame.SerializeToString()

    def _leaves(self, data: bytes) -> Iterator[bytes]:
        request = _request(pb.FetchInputLeavesRequest, data)
        wanted = list(request.leaves)
        kind = next((kind for kind, number in LEAF_KINDS.items() if number == request.kind), None)
        if kind is None:
            raise wire.MalformedError("kind", "there are no leaves of this kind")
        published = self._archive.round(RunId(request.run_id), request.round)
        _check_leaves(wanted, len(next(iter(published.hashes(kind).values()), ())))
        found = self._archive.leaves(RunId(request.run_id), request.round, wanted, kind)
        frame, size = pb.FetchInputLeavesResponse(), 0
        for org, index, leaf in found:
            if len(frame.leaves) == limits.LEAVES_PER_FRAME or (size and size + len(leaf) > FRAME_BYTES):
                yield frame.SerializeToString()
                frame, size = pb.FetchInputLeavesResponse(), 0
            frame.leaves.add(org_id=org, leaf=index, data=leaf)
            size += len(leaf)
        yield frame.SerializeToString()


def _request(kind: type[T], data: bytes) -> Any:
    try:
        request: Any = kind.FromString(data)  # type: ignore[attr-defined]
    except DecodeError:
        raise wire.MalformedError("request", "does not parse as protocol buffers") from None
    if not is_name(request.run_id) or not 1 <= request.round <= limits.MAX_ROUND:
        raise wire.MalformedError("request", "run_id or round is not one")
    return request


def _check_leaves(wanted: Sequence[int], count: int) -> None:
    ascending = all(one < other for one, other in itertools.pairwise(wanted))
    if not 1 <= len(wanted) <= limits.LEAVES_PER_AUDIT or not ascending or wanted[-1] >= count:
        raise wire.MalformedError("leaves", f"not 1 to {limits.LEAVES_PER_AUDIT} leaves below {count}, ascending")
