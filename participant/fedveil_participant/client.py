"""The gRPC edge of a participant: one session, uploads and downloads, all through the gate. No protocol in here.

Outbound connections only. Synchronous gRPC on its own threads; what arrives is parsed and handed to the driver.
"""

import contextlib
import queue
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import grpc
from fedveil.v1 import identity_pb2 as identity_pb
from fedveil.v1 import rounds_pb2 as pb
from fedveil_common import limits, wire
from fedveil_common.errors import FedveilError, PeerError, Unreachable
from fedveil_common.gate import Outbox
from fedveil_common.grpc_errors import error_of
from fedveil_common.ids import OrgId, RunId
from fedveil_common.messages import CoordinatorMessage, ParticipantMessage, SignedBlob
from fedveil_common.pki.renewing import RenewalAnswer
from fedveil_common.ports import LeafSource
from fedveil_common.published import PublishedRound
from fedveil_common.wire import tables
from fedveil_common.wire.published import parse_parts
from google.protobuf.message import DecodeError

from fedveil_participant.checking import SumDownload
from fedveil_participant.line import Line

OUTGOING_BOUND = 1024
"""Messages queued on a session; more than this means that it is dead, and it is closed."""

SHORT_TIMEOUT_S = 30.0
"""How long a call about the certificate may take."""

CALL_TIMEOUT_S = 600.0
"""How long one upload or download may take as a whole."""


class CoordinatorLink:
    """The connection to one coordinator over one channel. Safe from any thread."""

    def __init__(self, channel: grpc.Channel, outbox: Outbox) -> None:
        self._outbox = outbox
        self._line = Line(channel, outbox)
        self._retired: list[Line] = []
        self._lock = threading.Lock()
        self._outgoing: queue.Queue[bytes | None] | None = None
        self._call: Any = None

    def open(self, on_message: Callable[[CoordinatorMessage], None], on_closed: Callable[[FedveilError], None]) -> None:
        """Begin a session; an older one ends. Its end, or its failure to begin, goes to `on_closed` once."""
        outgoing: queue.Queue[bytes | None] = queue.Queue(OUTGOING_BOUND)
        with self._lock:
            previous, self._outgoing = self._outgoing, outgoing
            if self._call is not None:
                self._call.cancel()
            line = self._line
            line.begin()
            self._call = call = line.session(iter(outgoing.get, None))
        if previous is not None:
            _end(previous)
        threading.Thread(
            target=self._read, args=(line, call, outgoing, on_message, on_closed), daemon=True, name="fedveil-session"
        ).start()

    def _read(
        self,
        line: Line,
        call: Any,
        outgoing: "queue.Queue[bytes | None]",
        on_message: Callable[[CoordinatorMessage], None],
        on_closed: Callable[[FedveilError], None],
    ) -> None:
        failure: FedveilError
        try:
            for data in call:
                on_message(wire.parse_coordinator(data))
            failure = Unreachable("session_ended", "the coordinator ended the session")
        except grpc.RpcError as error:
            failure = line.explain(rpc_error(error))
        except PeerError as error:
            call.cancel()
            failure = error
        line.end()
        _end(outgoing)
        on_closed(failure)

    def send(self, message: ParticipantMessage) -> None:
        """Queue a message on the session; dropped if there is none. It is said again at the next session."""
        with self._lock:
            outgoing = self._outgoing
        if outgoing is None:
            return
        try:
            outgoing.put_nowait(wire.encode_participant(message))
        except queue.Full:
            with self._lock:
                if self._call is not None:
                    self._call.cancel()

    def submit_input(self, header: SignedBlob, leaf_hashes: tuple[bytes, ...], source: LeafSource) -> SignedBlob:
        """Upload a masked input; the signed receipt. FedveilError if it was refused or the connection failed."""
        line = self._line
        try:
            with line.call():
                data = line.submit(_frames(header, leaf_hashes, source), timeout=CALL_TIMEOUT_S)
        except grpc.RpcError as error:
            raise line.explain(rpc_error(error)) from None
        try:
            answer = pb.SubmitInputResponse.FromString(data)
        except DecodeError:
            raise wire.MalformedError("receipt", "does not parse as protocol buffers") from None
        receipt: SignedBlob = tables.BLOB.get(answer, "receipt", "receipt")
        return receipt

    def fetch_sum(self, run_id: RunId, round: int) -> SumDownload:
        """Download an opened sum; its leaves come as they arrive. FedveilError."""
        request = pb.FetchSumRequest(run_id=run_id, round=round)
        line = self._line
        line.begin()
        try:
            call = line.fetch(request.SerializeToString(), timeout=CALL_TIMEOUT_S)
            return self._download(line, call)
        except BaseException:
            line.end()
            raise

    def _download(self, line: Line, call: Any) -> SumDownload:
        """What a download begins with; its line is in use until its leaves have come."""
        first = _response(line, call)
        if first is None or first.WhichOneof("frame") != "announcement":
            raise wire.MalformedError("frame", "the download does not begin with its announcement")
        result: SignedBlob = tables.BLOB.get(first.announcement, "result", "announcement.result")
        manifest: SignedBlob = tables.BLOB.get(first.announcement, "manifest", "announcement.manifest")
        return SumDownload(result, manifest, _leaves(line, call))

    # --- the certificate ----------------------------------------------------------------------------------------------

    def renew(self, csr: bytes) -> RenewalAnswer:
        """A certificate for the key in `csr` (DER), asked for with the one in force. Nothing of it is checked yet.
        FedveilError.
        """
        request = identity_pb.RenewRequest(csr=csr)
        answer = identity_pb.RenewResponse.FromString
        made = self._ask(self._line.renew, request.SerializeToString(), answer)
        return RenewalAnswer(made.certificate, made.authorities, made.trust_chain)

    def who_am_i(self) -> tuple[str, str, str]:
        """(organisation, role, serial) as the coordinator sees this certificate: the shortest call there is."""
        answer = identity_pb.WhoAmIResponse.FromString
        made = self._ask(self._line.who, identity_pb.WhoAmIRequest().SerializeToString(), answer)
        return made.org_id, made.role, made.serial

    def _ask(self, stub: Any, data: bytes, read: Callable[[bytes], Any]) -> Any:
        line = self._line
        try:
            with line.call():
                return read(stub(data, timeout=SHORT_TIMEOUT_S))
        except grpc.RpcError as error:
            raise line.explain(rpc_error(error)) from None
        except DecodeError:
            raise wire.MalformedError("answer", "does not parse as protocol buffers") from None

    def exchange(self, channel: grpc.Channel) -> None:
        """Everything that begins from now on goes over `channel`; the one before closes when its calls have ended. The
        session has to be opened again.
        """
        with self._lock:
            before, self._line = self._line, Line(channel, self._outbox)
            self._retired.append(before)
        before.retire()

    def fetch_round(self, run_id: RunId, round: int) -> PublishedRound:
        """Download what was published of an opened round. FedveilError."""
        request = pb.FetchRoundRequest(run_id=run_id, round=round)
        line = self._line
        return parse_parts(_stream(line, line.round, request.SerializeToString()))

    def fetch_leaves(self, run_id: RunId, round: int, leaves: Sequence[int]) -> Iterator[tuple[OrgId, int, bytes]]:
        """Download leaves of every survivor's masked input, as they arrive. FedveilError."""
        for start in range(0, len(leaves), limits.LEAVES_PER_AUDIT):
            request = pb.FetchInputLeavesRequest(run_id=run_id, round=round)
            request.leaves.extend(leaves[start : start + limits.LEAVES_PER_AUDIT])
            line = self._line
            for data in _stream(line, line.leaves, request.SerializeToString()):
                try:
                    found = pb.FetchInputLeavesResponse.FromString(data)
                except DecodeError:
                    raise wire.MalformedError("leaf", "does not parse as protocol buffers") from None
                yield OrgId(found.org_id), found.leaf, found.data

    def close(self) -> None:
        """End the session and the channel."""
        with self._lock:
            if self._outgoing is not None:
                _end(self._outgoing)
            if self._call is not None:
                self._call.cancel()
        for line in (*self._retired, self._line):
            line.close()


def rpc_error(error: Any) -> FedveilError:
    """Our error behind a failed call."""
    metadata = error.trailing_metadata() if hasattr(error, "trailing_metadata") else ()
    return error_of(error.code(), error.details(), list(metadata or ()))


def _end(outgoing: "queue.Queue[bytes | None]") -> None:
    with contextlib.suppress(queue.Full):  # full: the call behind it is cancelled, nobody waits on it any more
        outgoing.put_nowait(None)


def _frames(header: SignedBlob, leaf_hashes: tuple[bytes, ...], source: LeafSource) -> Iterator[bytes]:
    first = pb.SubmitInputRequest()
    tables.BLOB.put(first.announcement, "header", header)
    first.announcement.leaf_hashes.extend(leaf_hashes)
    yield first.SerializeToString()
    for start in range(0, len(leaf_hashes), limits.LEAVES_PER_FRAME):
        frame = pb.SubmitInputRequest()
        frame.leaves.first = start
        stop = min(start + limits.LEAVES_PER_FRAME, len(leaf_hashes))
        frame.leaves.leaves.extend(bytes(source.packed(index)) for index in range(start, stop))
        yield frame.SerializeToString()


def _stream(line: Line, stub: Any, data: bytes) -> Iterator[bytes]:
    """The answers of a download; its line is in use until they have come."""
    with line.call():
        try:
            yield from stub(data, timeout=CALL_TIMEOUT_S)
        except grpc.RpcError as error:
            raise line.explain(rpc_error(error)) from None


def _response(line: Line, call: Any) -> Any:
    try:
        data = next(call)
    except StopIteration:
        return None
    except grpc.RpcError as error:
        raise line.explain(rpc_error(error)) from None
    try:
        return pb.FetchSumResponse.FromString(data)
    except DecodeError:
        raise wire.MalformedError("frame", "does not parse as protocol buffers") from None


def _leaves(line: Line, call: Any) -> Iterator[tuple[int, bytes]]:
    try:
        while (frame := _response(line, call)) is not None:
            if frame.WhichOneof("frame") != "leaves" or not 1 <= len(frame.leaves.leaves) <= limits.LEAVES_PER_FRAME:
                raise wire.MalformedError("frame", "not a frame of leaves")
            yield from enumerate(frame.leaves.leaves, frame.leaves.first)
    finally:
        line.end()
