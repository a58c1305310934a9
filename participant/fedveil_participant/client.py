"""The gRPC edge of a participant: one session, uploads and downloads, all through the gate. No protocol in here.

Outbound connections only. Synchronous gRPC on its own threads; what arrives is parsed and handed to the driver.
"""

import contextlib
import queue
import threading
from collections.abc import Callable, Iterator
from typing import Any

import grpc
from fedveil.v1 import rounds_pb2 as pb
from fedveil_common import limits, wire
from fedveil_common.errors import FedveilError, PeerError, Unreachable
from fedveil_common.gate import Gate, Outbox
from fedveil_common.grpc_errors import error_of
from fedveil_common.ids import RunId
from fedveil_common.messages import CoordinatorMessage, ParticipantMessage, SignedBlob
from fedveil_common.ports import LeafSource
from fedveil_common.wire import tables
from google.protobuf.message import DecodeError

from fedveil_participant.lineage import SumDownload

OUTGOING_BOUND = 1024
"""Messages queued on a session; more than this means that it is dead, and it is closed."""

STALL_S = 120.0
"""How long an upload or download that has begun may stand still. There is no limit for the whole, which depends on the
model and on the line. A coordinator that is gone is noticed by the transport's keepalive, also while a transfer waits
for its turn.
"""


class CoordinatorLink:
    """The connection to one coordinator over one channel. Safe from any thread."""

    def __init__(self, channel: grpc.Channel, outbox: Outbox) -> None:
        gate = Gate(channel, outbox)
        self._session_stub = gate.stream_stream("Session")
        self._submit_stub = gate.stream_stream("SubmitInput")
        self._fetch_stub = gate.unary_stream("FetchSum")
        self._channel = channel
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
            self._call = call = self._session_stub(iter(outgoing.get, None))
        if previous is not None:
            _end(previous)
        threading.Thread(
            target=self._read, args=(call, outgoing, on_message, on_closed), daemon=True, name="fedveil-session"
        ).start()

    def _read(
        self,
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
            failure = rpc_error(error)
        except PeerError as error:
            call.cancel()
            failure = error
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
        """Upload a masked input, from the first leaf that the coordinator lacks; the signed receipt. FedveilError if it
        was refused or the connection failed.
        """
        wanted: queue.SimpleQueue[int | None] = queue.SimpleQueue()
        movement = Movement()
        call = self._submit_stub(_frames(header, leaf_hashes, source, wanted.get, movement.moved))
        try:
            first = _answer(call, "first_missing").first_missing
            if first > len(leaf_hashes):
                raise wire.MalformedError("first_missing", f"leaf {first} of {len(leaf_hashes)}")
            with movement.watched(call.cancel):
                wanted.put(first)
                answer = _answer(call, "receipt")
        except BaseException:
            call.cancel()
            raise
        finally:
            wanted.put(None)
        receipt: SignedBlob = tables.BLOB.get(answer, "receipt", "receipt")
        return receipt

    def fetch_sum(self, run_id: RunId, round: int) -> SumDownload:
        """Download an opened sum; its leaves come as they arrive. FedveilError."""
        request = pb.FetchSumRequest(run_id=run_id, round=round)
        call = self._fetch_stub(request.SerializeToString())
        first = _response(call)
        if first is None or first.WhichOneof("frame") != "announcement":
            raise wire.MalformedError("frame", "the download does not begin with its announcement")
        result: SignedBlob = tables.BLOB.get(first.announcement, "result", "announcement.result")
        manifest: SignedBlob = tables.BLOB.get(first.announcement, "manifest", "announcement.manifest")
        return SumDownload(result, manifest, _leaves(call))

    def close(self) -> None:
        """End the session and the channel."""
        with self._lock:
            if self._outgoing is not None:
                _end(self._outgoing)
            if self._call is not None:
                self._call.cancel()
        self._channel.close()


class Movement:
    """Whether a transfer stands still. `moved` is called by the one thread that moves it."""

    def __init__(self) -> None:
        self._count = 0

    def moved(self) -> None:
        """Something was sent, or came."""
        self._count += 1

    def stalls(self, over: Callable[[float], bool]) -> bool:
        """True once nothing has moved for STALL_S (at the latest after twice that); False if it is over before.
        `over(seconds)` waits that long, or until it is over, and says whether it is.
        """
        before = -1
        while before != self._count:
            before = self._count
            if over(STALL_S):
                return False
        return True

    @contextlib.contextmanager
    def watched(self, cancel: Callable[[], object]) -> Iterator[None]:
        """Calls `cancel` if the transfer stalls."""
        over = threading.Event()

        def watch() -> None:
            if self.stalls(over.wait):
                cancel()

        threading.Thread(target=watch, daemon=True, name="fedveil-stall").start()
        try:
            yield
        finally:
            over.set()


def rpc_error(error: Any) -> FedveilError:
    """Our error behind a failed call."""
    metadata = error.trailing_metadata() if hasattr(error, "trailing_metadata") else ()
    return error_of(error.code(), error.details(), list(metadata or ()))


def _end(outgoing: "queue.Queue[bytes | None]") -> None:
    with contextlib.suppress(queue.Full):  # full: the call behind it is cancelled, nobody waits on it any more
        outgoing.put_nowait(None)


def _frames(
    header: SignedBlob,
    leaf_hashes: tuple[bytes, ...],
    source: LeafSource,
    wanted: Callable[[], int | None],
    moved: Callable[[], object],
) -> Iterator[bytes]:
    """The announcement; then, once it is said which leaf is missing first, the leaves from there on."""
    announcement = pb.SubmitInputRequest()
    tables.BLOB.put(announcement.announcement, "header", header)
    announcement.announcement.leaf_hashes.extend(leaf_hashes)
    yield announcement.SerializeToString()
    first = wanted()
    if first is None:
        return
    for start in range(first, len(leaf_hashes), limits.LEAVES_PER_FRAME):
        moved()
        frame = pb.SubmitInputRequest()
        frame.leaves.first = start
        stop = min(start + limits.LEAVES_PER_FRAME, len(leaf_hashes))
        frame.leaves.leaves.extend(bytes(source.packed(index)) for index in range(start, stop))
        yield frame.SerializeToString()


def _answer(call: Any, expected: str) -> Any:
    """The next frame that an upload is told; PeerError if it is not the one that is due."""
    try:
        answer = pb.SubmitInputResponse.FromString(next(call))
    except StopIteration:
        raise wire.MalformedError("frame", f"the call ended before its {expected}") from None
    except grpc.RpcError as error:
        raise rpc_error(error) from None
    except DecodeError:
        raise wire.MalformedError("frame", "does not parse as protocol buffers") from None
    if answer.WhichOneof("frame") != expected:
        raise wire.MalformedError("frame", f"not the {expected} that is due")
    return answer


def _response(call: Any) -> Any:
    try:
        data = next(call)
    except StopIteration:
        return None
    except grpc.RpcError as error:
        raise rpc_error(error) from None
    try:
        return pb.FetchSumResponse.FromString(data)
    except DecodeError:
        raise wire.MalformedError("frame", "does not parse as protocol buffers") from None


def _leaves(call: Any) -> Iterator[tuple[int, bytes]]:
    """(index, leaf) as they come; watched from the first on, which may have waited for its turn."""
    movement, begun = Movement(), False
    with contextlib.ExitStack() as ending:
        ending.callback(call.cancel)  # whoever stops reading in the middle ends the call
        while (frame := _response(call)) is not None:
            movement.moved()
            if not begun:
                begun = True
                ending.enter_context(movement.watched(call.cancel))
            if frame.WhichOneof("frame") != "leaves" or not 1 <= len(frame.leaves.leaves) <= limits.LEAVES_PER_FRAME:
                raise wire.MalformedError("frame", "not a frame of leaves")
            yield from enumerate(frame.leaves.leaves, frame.leaves.first)
