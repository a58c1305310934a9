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
from fedveil_common.gate import UNLABELLED, Label, Outbox, Outgoing, Part, Passage, Whole
from fedveil_common.grpc_errors import error_of
from fedveil_common.ids import AttemptKey, OrgId, RunId
from fedveil_common.messages import CoordinatorMessage, ParticipantMessage, SignedBlob
from fedveil_common.pki.renewing import RenewalAnswer
from fedveil_common.ports import LeafSource
from fedveil_common.published import LeafKind, PublishedRound
from fedveil_common.wire import tables
from fedveil_common.wire.published import LEAF_KINDS, parse_parts
from google.protobuf.message import DecodeError

from fedveil_participant import upload_frames
from fedveil_participant.checking import SumDownload
from fedveil_participant.labels import label_of_round, label_of_session
from fedveil_participant.line import Line
from fedveil_participant.reasons import reasoned

OUTGOING_BOUND = 1024
"""Messages queued on a session; more than this means that it is dead, and it is closed."""

SHORT_TIMEOUT_S = 30.0
"""How long a call about the certificate may take."""

DRAIN_S = 2.0
"""How long the coordinator may take to hear the last of a session that ends here."""

STALL_S = 120.0
"""How long an upload or download that has begun may stand still. There is no limit for the whole, which depends on the
model and on the line. A coordinator that is gone is noticed by the transport's keepalive, also while a transfer waits
for its turn.
"""


class CoordinatorLink:
    """The connection to one coordinator over one channel. Safe from any thread."""

    def __init__(self, channel: grpc.Channel, outbox: Outbox) -> None:
        self._outbox = outbox
        self._line = Line(channel, outbox)
        self._retired: list[Line] = []
        self._lock = threading.Lock()
        self._outgoing: queue.Queue[Whole | None] | None = None
        self._call: Any = None

    def open(self, on_message: Callable[[CoordinatorMessage], None], on_closed: Callable[[FedveilError], None]) -> None:
        """Begin a session; an older one ends. Its end, or its failure to begin, goes to `on_closed` once."""
        outgoing: queue.Queue[Whole | None] = queue.Queue(OUTGOING_BOUND)
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
        outgoing: "queue.Queue[Whole | None]",
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

    def send(self, message: ParticipantMessage, label: Label = UNLABELLED) -> None:
        """Queue a message on the session; dropped if there is none. It is said again at the next session. A code that
        is not in the closed list is sent as `no_update`.
        """
        with self._lock:
            outgoing = self._outgoing
        if outgoing is None:
            return
        try:
            outgoing.put_nowait(Whole(wire.encode_participant(reasoned(message)), label_of_session(message, label)))
        except queue.Full:
            with self._lock:
                if self._call is not None:
                    self._call.cancel()

    def submit_input(
        self, header: SignedBlob, leaf_hashes: tuple[bytes, ...], source: LeafSource, label: Label = UNLABELLED
    ) -> SignedBlob:
        """Upload a masked input, from the first leaf that the coordinator lacks; the signed receipt, unchecked.
        FedveilError if it was refused or the connection failed.
        """
        line = self._line
        with line.call():
            announced = upload_frames.announcement(header, leaf_hashes)
            whole = len(announced) + upload_frames.size(source.shape, 0)
            passage = line.begin_upload(announced, whole, label)
            try:
                return self._submit(line, announced, leaf_hashes, source, passage)
            finally:
                passage.end()

    def _submit(
        self, line: Line, announced: bytes, leaf_hashes: tuple[bytes, ...], source: LeafSource, passage: Passage
    ) -> SignedBlob:
        wanted: queue.SimpleQueue[int | None] = queue.SimpleQueue()
        movement = Movement()
        call = line.submit(_frames(announced, source, wanted.get, movement.moved, passage))
        try:
            first = _answer(line, call, "first_missing").first_missing
            if first > len(leaf_hashes):
                raise wire.MalformedError("first_missing", f"leaf {first} of {len(leaf_hashes)}")
            with movement.watched(call.cancel):
                wanted.put(first)
                answer = _answer(line, call, "receipt")
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
        line = self._line
        line.begin()
        try:
            return self._download(line, line.fetch(Whole(request.SerializeToString(), label_of_round(run_id, round))))
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
                return read(stub(Whole(data), timeout=SHORT_TIMEOUT_S))
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
        asked = Whole(request.SerializeToString(), label_of_round(run_id, round))
        return parse_parts(_parts(_stream(line, line.round, asked)))

    def fetch_headers(self, key: AttemptKey) -> Iterator[tuple[str, int, bytes]]:
        """Download the headers of the certified inputs of an attempt, and the lifts of their product. FedveilError."""
        request = pb.FetchHeadersRequest()
        tables.KEY_FIELD.put(request, "key", key)
        line = self._line
        for data in _stream(line, line.headers, Whole(request.SerializeToString(), Label(key=key))):
            try:
                frame = pb.FetchHeadersResponse.FromString(data)
            except DecodeError:
                raise wire.MalformedError("headers", "does not parse as protocol buffers") from None
            for index, one in enumerate(frame.numbers, frame.first):
                yield frame.org_id, index, one

    def fetch_leaves(
        self, run_id: RunId, round: int, leaves: Sequence[int], kind: LeafKind = LeafKind.INPUT
    ) -> Iterator[tuple[OrgId, int, bytes]]:
        """Download leaves of every survivor's input, or of the product or the answers, as they arrive. FedveilError."""
        for start in range(0, len(leaves), limits.LEAVES_PER_AUDIT):
            request = pb.FetchInputLeavesRequest(run_id=run_id, round=round, kind=LEAF_KINDS[kind])
            request.leaves.extend(leaves[start : start + limits.LEAVES_PER_AUDIT])
            line = self._line
            asked = Whole(request.SerializeToString(), label_of_round(run_id, round))
            for data in _stream(line, line.leaves, asked):
                try:
                    frame = pb.FetchInputLeavesResponse.FromString(data)
                except DecodeError:
                    raise wire.MalformedError("leaf", "does not parse as protocol buffers") from None
                for found in frame.leaves:
                    yield OrgId(found.org_id), found.leaf, found.data

    def close(self) -> None:
        """End the session and the channel. What was queued before (that the end of a run is stored here, for one) still
        leaves, if the coordinator takes it within DRAIN_S.
        """
        with self._lock:
            outgoing, call = self._outgoing, self._call
        if outgoing is not None:
            _end(outgoing)
        if call is not None:
            over = threading.Event()
            if call.add_callback(over.set):
                over.wait(DRAIN_S)
            call.cancel()
        for line in (*self._retired, self._line):
            line.close()


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


def _end(outgoing: "queue.Queue[Whole | None]") -> None:
    with contextlib.suppress(queue.Full):  # full: the call behind it is cancelled, nobody waits on it any more
        outgoing.put_nowait(None)


def _frames(
    announced: bytes,
    source: LeafSource,
    wanted: Callable[[], int | None],
    moved: Callable[[], object],
    passage: Passage,
) -> Iterator[Outgoing]:
    """The announcement; then, once it is said which leaf is missing first, the leaves from there on."""
    yield Part(announced, passage)
    first = wanted()
    if first is None:
        return
    passage.declare(len(announced) + upload_frames.size(source.shape, first))
    for start, stop in upload_frames.ranges(first, source.leaves):
        moved()
        yield Part(upload_frames.leaves(source, start, stop), passage)


def _stream(line: Line, stub: Any, data: Whole) -> Iterator[bytes]:
    """The answers of a download, watched from the first on; its line is in use until they have come."""
    movement = Movement()
    with line.call(), contextlib.ExitStack() as ending:
        call = stub(data)
        ending.callback(call.cancel)  # whoever stops reading in the middle ends the call
        watched = False
        while (answer := _next(line, call)) is not None:
            movement.moved()
            if not watched:
                watched = True
                ending.enter_context(movement.watched(call.cancel))
            yield answer


def _parts(frames: Iterator[bytes]) -> Iterator[bytes]:
    """The parts of a published round, one by one; nothing of them is checked yet."""
    for data in frames:
        try:
            frame = pb.FetchRoundResponse.FromString(data)
        except DecodeError:
            raise wire.MalformedError("parts", "does not parse as protocol buffers") from None
        for part in frame.parts:
            yield part.SerializeToString(deterministic=True)


def _next(line: Line, call: Any) -> bytes | None:
    """The next message of a call; None at its end."""
    try:
        data: bytes = next(call)
    except StopIteration:
        return None
    except grpc.RpcError as error:
        raise line.explain(rpc_error(error)) from None
    return data


def _answer(line: Line, call: Any, expected: str) -> Any:
    """The next frame that an upload is told; PeerError if it is not the one that is due."""
    data = _next(line, call)
    if data is None:
        raise wire.MalformedError("frame", f"the call ended before its {expected}")
    try:
        answer = pb.SubmitInputResponse.FromString(data)
    except DecodeError:
        raise wire.MalformedError("frame", "does not parse as protocol buffers") from None
    if answer.WhichOneof("frame") != expected:
        raise wire.MalformedError("frame", f"not the {expected} that is due")
    return answer


def _response(line: Line, call: Any) -> Any:
    data = _next(line, call)
    if data is None:
        return None
    try:
        return pb.FetchSumResponse.FromString(data)
    except DecodeError:
        raise wire.MalformedError("frame", "does not parse as protocol buffers") from None


def _leaves(line: Line, call: Any) -> Iterator[tuple[int, bytes]]:
    """(index, leaf) as they come; watched from the first on, which may have waited for its turn."""
    movement, begun = Movement(), False
    with contextlib.ExitStack() as ending:
        ending.callback(line.end)
        ending.callback(call.cancel)  # whoever stops reading in the middle ends the call
        while (frame := _response(line, call)) is not None:
            movement.moved()
            if not begun:
                begun = True
                ending.enter_context(movement.watched(call.cancel))
            if frame.WhichOneof("frame") != "leaves" or not 1 <= len(frame.leaves.leaves) <= limits.LEAVES_PER_FRAME:
                raise wire.MalformedError("frame", "not a frame of leaves")
            yield from enumerate(frame.leaves.leaves, frame.leaves.first)
