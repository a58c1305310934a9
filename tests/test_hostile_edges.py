"""Members that misuse the coordinator's connections, over real mutual TLS and HTTP on 127.0.0.1.

What counts as failure: a driver that stops, a queue that grows with what one member sends, another member that waits
for ever because of it.
"""

import asyncio
import contextlib
import http.client
import socket
import threading
from collections.abc import AsyncIterator, Callable, Iterator

import grpc
import pytest
import test_edges
import uvicorn
from cryptography import x509
from fedveil.v1 import rounds_pb2 as pb
from fedveil_cli import serving
from fedveil_cli.world import SystemEntropy
from fedveil_common import plan as plans
from fedveil_common import wire
from fedveil_common.errors import FedveilError, PeerError
from fedveil_common.grpc_errors import error_of
from fedveil_common.ids import OrgId, RunId
from fedveil_common.messages import ParticipantHello, ParticipantMessage, RosterNotice, RunEndedAck
from fedveil_common.pki import certificates
from fedveil_common.pki.invites import Role
from fedveil_common.ports import LeafSource
from fedveil_coordinator import enrollment_listener, server
from fedveil_coordinator.allowlist import Identity
from fedveil_coordinator.facts import Offered, SumOpened, decode
from hurried_loop import HurriedLoop
from patience import LIMIT_S, eventually
from starlette.applications import Starlette
from starlette.responses import Response
from starlette.routing import Route
from test_edges import (
    NAMES,
    PLAN,
    Served,
    announcement,
    collected,
    leaves_frame,
    start,
    submit,
    uploading,
)

served = test_edges.served
RUN = RunId("run-1")
SESSION, SUBMIT, FETCH = (f"/fedveil.v1.RoundsService/{name}" for name in ("Session", "SubmitInput", "FetchSum"))
# A reader whose window does not grow: gRPC's estimate of bandwidth x delay rises with a slow machine, up to whole sums.
NARROW = (("grpc.http2.bdp_probe", 0),)
HELLO = wire.encode_participant(ParticipantHello("test", (1,)))


def refusal(call: Callable[[], object]) -> FedveilError:
    with pytest.raises(grpc.RpcError) as caught:
        call()
    return error_of(caught.value.code(), caught.value.details(), list(caught.value.trailing_metadata() or ()))


class Talk:
    """The requests of a session: whatever is said, until `end`."""

    def __init__(self, *messages: bytes) -> None:
        self._messages, self.read, self._end = list(messages), 0, threading.Event()

    def __iter__(self) -> Iterator[bytes]:
        for message in self._messages:
            self.read += 1
            yield message
        self._end.wait(LIMIT_S)

    def end(self) -> None:
        self._end.set()


@contextlib.contextmanager
def held(served: Served) -> Iterator[None]:
    """The driver does nothing meanwhile."""
    reached, go_on = threading.Event(), threading.Event()

    def hold() -> None:
        reached.set()
        assert go_on.wait(LIMIT_S)

    served.driver.call(hold)
    assert reached.wait(LIMIT_S)
    try:
        yield
    finally:
        go_on.set()


def answers(served: Served) -> bool:
    """Whether the driver still works."""
    done = threading.Event()
    served.driver.call(done.set)
    return done.wait(LIMIT_S)


# --- uploads ----------------------------------------------------------------------------------------------------------


def test_an_upload_cancelled_while_its_receipt_is_due_stops_nothing(served: Served) -> None:
    """The driver sets what nobody waits for any more; the next upload of the same member waits for that."""
    channel, header, hashes, leaves, rest = uploading(served)
    eventually(lambda: len(collected(served)) == 2)
    frames = [announcement(header, hashes), leaves_frame(0, leaves)]
    stub = channel.stream_stream(SUBMIT)
    queued = served.driver._inbox.qsize
    with held(served):
        before = queued()
        call = stub(iter(frames))
        eventually(lambda: queued() >= before + 2)  # its leaves, and that it is complete
        call.cancel()
        eventually(lambda: submit(channel, frames).code == "upload_in_progress")
        eventually(lambda: not call.is_active())
        assert submit(channel, frames).code == "upload_in_progress", "until the driver has answered"
    assert answers(served)
    eventually(lambda: OrgId("acme") in dict(served.driver.active.attempt.stage.headers))  # type: ignore[union-attr]
    channel.close()
    for member in rest.members:
        member.stop()


# --- sessions ---------------------------------------------------------------------------------------------------------


class SlowDriver:
    """Takes a message of a session when the test says so."""

    members = frozenset({OrgId("acme")})

    def __init__(self) -> None:
        self.heard: list[ParticipantMessage] = []
        self.taken: list[Callable[[], None]] = []

    def connected(self, org: OrgId, outlet: server.SessionOutlet, taken: Callable[[], None]) -> None:
        self.outlet = outlet
        taken()

    def received(self, org: OrgId, message: ParticipantMessage, taken: Callable[[], None]) -> None:
        self.heard.append(message)
        self.taken.append(taken)

    def disconnected(self, org: OrgId, outlet: server.SessionOutlet) -> None:
        """Nothing is kept."""


def test_a_session_is_read_only_as_fast_as_the_driver_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    """However much a member says, one message of its session is in the driver's queue."""
    monkeypatch.setattr(server, "certificate_of", lambda context: b"")
    slow, acme = SlowDriver(), Identity(OrgId("acme"), Role.PARTICIPANT, "1")
    edge = server.RoundsEdge(slow, lambda pem: acme, None, None)  # type: ignore[arg-type]
    ack = wire.encode_participant(RunEndedAck(RUN))

    async def flood() -> AsyncIterator[bytes]:
        for _ in range(1000):
            yield ack

    async def turns() -> None:
        for _ in range(200):
            await asyncio.sleep(0)  # everything that can go on without the driver has gone on

    async def main() -> None:
        going = asyncio.ensure_future(edge.session(flood(), None, acme))  # type: ignore[arg-type]
        for count in range(1, 5):
            await turns()
            assert len(slow.heard) == count
            slow.taken[-1]()
        slow.outlet.close("")
        await going

    asyncio.run(main())


def test_sessions_of_one_organisation_are_counted(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "CALLS_OF_ONE", 2)
    talks = [Talk(HELLO) for _ in range(2)]
    with contextlib.closing(served.channel("acme")) as channel, held(served):
        stub = channel.stream_stream(SESSION)
        calls = [stub(iter(talk)) for talk in talks]
        eventually(lambda: served.driver._inbox.qsize() >= 2)
        assert refusal(lambda: list(stub(iter([HELLO])))).code == "too_many_calls"
        for talk, call in zip(talks, calls, strict=True):
            talk.end()
            call.cancel()
    assert answers(served)


# --- downloads --------------------------------------------------------------------------------------------------------


@pytest.fixture
def opened(served: Served, monkeypatch: pytest.MonkeyPatch) -> Served:
    """A coordinator with an opened sum, served as a far longer one: its end does not fit into any buffer."""
    canonical = plans.canonical(plans.parse_plan(PLAN, "plan.yaml"))
    members = [start(served, name, canonical) for name in NAMES]
    eventually(lambda: len(served.driver.connected_members) == 3)
    served.driver.call(lambda: served.driver.start_run(RUN, canonical))
    eventually(lambda: all(member.memory.has_end(RUN) for member in members))
    for member in members:
        member.stop()
    frame = bytes(4 * 1024 * 1024 - 1024)
    real = server.RoundsEdge._send_sum

    async def long(self: object, source: LeafSource, context: object, org: OrgId) -> None:
        if org == "acme":
            for _ in range(8):
                padding = pb.FetchSumResponse()
                padding.leaves.leaves.append(frame[: 1024 * 1024])
                await server.write(context, padding.SerializeToString(), org)  # type: ignore[arg-type]
        await real(self, source, context, org)  # type: ignore[arg-type]

    monkeypatch.setattr(server.RoundsEdge, "_send_sum", long)
    return served


def fetch(channel: grpc.Channel, round: int = 1) -> grpc.Call:
    return channel.unary_stream(FETCH)(pb.FetchSumRequest(run_id=RUN, round=round).SerializeToString(), timeout=LIMIT_S)


def test_who_does_not_read_a_download_holds_up_itself_alone(opened: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    """Four unread downloads of one member: others are served at once, and it is told why its own ended."""
    ended, real = list[str](), server.abort

    async def abort(context: object, error: FedveilError) -> None:
        ended.append(error.code)
        await real(context, error)  # type: ignore[arg-type]

    def one_ended() -> bool:
        opened.loop.hurry(server.WRITE_TIMEOUT_S)  # who is being written to has not read for so long
        return ended != []

    monkeypatch.setattr(server, "abort", abort)
    channels = [opened.channel("acme", options=NARROW) for _ in range(server.DOWNLOADS_AT_ONCE)]
    calls = [fetch(channels[0])]
    next(calls[0])  # type: ignore[call-overload]
    calls.extend(fetch(channel) for channel in channels[1:])
    with contextlib.closing(opened.channel("borealis")) as channel:
        assert len(list(fetch(channel))) == 2  # type: ignore[call-overload]
    assert ended == []
    eventually(one_ended)
    assert ended == ["reader_too_slow"]
    assert refusal(lambda: list(calls[0])).code == "reader_too_slow"  # type: ignore[call-overload]
    for call in calls:
        call.cancel()
    for channel in channels:
        channel.close()
    with contextlib.closing(opened.channel("acme")) as channel:
        assert len(list(fetch(channel))) == 10  # type: ignore[call-overload]


def test_a_joiner_in_no_roster_has_a_session_and_nothing_else(opened: Served) -> None:
    """It waits on its session for the roster that lists it; sums and uploads are for members."""
    with contextlib.closing(opened.channel("joiner")) as channel:
        assert refusal(lambda: list(fetch(channel))).code == "not_in_roster"  # type: ignore[call-overload]
        assert submit(channel, []).code == "not_in_roster"
        talk = Talk(HELLO)
        call = channel.stream_stream(SESSION)(iter(talk))
        hello, notice = next(call), next(call)
        assert isinstance(wire.parse_coordinator(notice), RosterNotice)
        assert wire.parse_coordinator(hello)
        talk.end()
        call.cancel()
    with contextlib.closing(opened.channel("borealis")) as channel:
        first, *_ = list(fetch(channel))  # type: ignore[call-overload]
    told = pb.FetchSumResponse.FromString(first).announcement
    recorded = [decode(kind, body) for kind, body in opened.memory.facts(RUN)]
    assert told.manifest.body == next(fact.manifest.body for fact in recorded if isinstance(fact, Offered))
    assert told.result.body == next(fact.result.body for fact in recorded if isinstance(fact, SumOpened))


# --- enrolment --------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def listener(limit: int, loop: HurriedLoop) -> Iterator[int]:
    """An HTTP listener with the production's connections, on this loop; its port."""

    async def healthz(request: object) -> Response:
        return Response(b"ok")

    config = uvicorn.Config(
        Starlette(routes=[Route("/healthz", healthz)]),
        host="127.0.0.1",
        port=0,
        log_config=None,
        access_log=False,
        timeout_keep_alive=5,
        limit_concurrency=limit,
        http=enrollment_listener.PromptConnection,
    )
    web = serving._Web(config)
    thread = threading.Thread(target=lambda: loop.run(web.serve()), daemon=True)
    thread.start()
    eventually(lambda: web.started)
    yield int(web.servers[0].sockets[0].getsockname()[1])
    web.should_exit = True
    thread.join(LIMIT_S)


def status(port: int) -> int:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=LIMIT_S)
    try:
        connection.request("GET", "/healthz")
        return connection.getresponse().status
    finally:
        connection.close()


HEAD = b"GET /healthz HTTP/1.1\r\nHost: x\r\n"


@pytest.mark.parametrize("said", [b"", HEAD, HEAD + b"\r\n"], ids=["nothing", "half", "one request"])
def test_silent_connections_make_room(said: bytes) -> None:
    """Connections that ask for nothing, for half of something, or for nothing after their first answer are cut."""
    loop = HurriedLoop()

    def cut() -> bool:
        loop.hurry(enrollment_listener.REQUEST_TIMEOUT_S)
        return status(port) == 200

    with listener(4, loop) as port:
        assert status(port) == 200
        silent = [socket.create_connection(("127.0.0.1", port)) for _ in range(4)]
        for one in silent:
            one.sendall(said)
        if not said.endswith(b"\r\n\r\n"):
            assert status(port) == 503
        eventually(cut)
        for one in silent:
            one.close()


def test_a_certificate_request_of_another_version_is_refused_by_its_code() -> None:
    made = certificates.make_request(certificates.new_key(SystemEntropy()))
    assert isinstance(certificates.read_request(made), x509.CertificateSigningRequest)
    with pytest.raises(PeerError) as caught:
        certificates.read_request(made.replace(b"\x02\x01\x00", b"\x02\x01\x05", 1))
    assert caught.value.code == "bad_csr"
