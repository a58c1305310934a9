"""The gRPC edges over real mutual TLS on 127.0.0.1: a whole run, hostile uploads, malformed bytes, revocation."""

import asyncio
import contextlib
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import grpc
import grpc.aio
import pytest
from fedveil.v1 import rounds_pb2 as pb
from fedveil_cli.workers import CoordinatorWorkers, ParticipantWorkers
from fedveil_cli.world import SystemClock, SystemEntropy
from fedveil_common import plan as plans
from fedveil_common import published, transcript, wire
from fedveil_common.errors import FedveilError, Unreachable
from fedveil_common.gate import UNLABELLED, Label
from fedveil_common.grpc_errors import KEY, error_of
from fedveil_common.ids import OrgId, RunId
from fedveil_common.messages import PlanAnswer
from fedveil_common.pki import certificates, transport
from fedveil_common.pki.invites import Role
from fedveil_common.pki.names import Subject
from fedveil_common.ports import LeafSource, NoFailpoints
from fedveil_common.secret import Seed
from fedveil_common.wire.published import parse_parts
from fedveil_coordinator import attempt as attempts
from fedveil_coordinator.allowlist import AllowList
from fedveil_coordinator.archive import Archive
from fedveil_coordinator.archive_edge import ArchiveEdge
from fedveil_coordinator.driver import Driver
from fedveil_coordinator.enrollment import stored_certificate
from fedveil_coordinator.run import Office
from fedveil_coordinator.server import RoundsEdge
from fedveil_participant import driver as participant
from fedveil_participant import round as participant_round
from fedveil_participant.bench import TableBench
from fedveil_participant.client import CoordinatorLink
from fedveil_participant.consent import Consent
from fedveil_participant.data.in_memory import in_memory
from fedveil_participant.home_cipher import HomeCipher
from fedveil_participant.mask_source import InlineMasks
from fedveil_simulation.charter import FEDERATION, Charter, make_charter
from fedveil_simulation.journals import CoordinatorMemory, ParticipantMemory
from fedveil_simulation.key_book import NO_KEYS, MemberKeys
from hurried_loop import HurriedLoop
from patience import LIMIT_S, eventually

NAMES = ("acme", "borealis", "cygnus")
PLAN = b"""
version: 1
name: edges
kind: train
data:
  dataset: table
  features:
    x: {type: float, range: [-10, 10]}
    z: {type: float, range: [-10, 10]}
  target: {column: y, type: binary}
  min_rows: 2
  standardise: range
model: {kind: logistic, l2: 0.0}
training: {rounds: 2, local_epochs: 1, batch_size: 4, learning_rate: 0.1, seed: 7, weight: rows, weight_cap: 20}
strategy: {kind: fedavg}
evaluation: {every: 1, metrics: [loss], holdout: 0.3}
cohort: {min_participants: 3, max_corrupt: 1, progress_s: 20}
protection: {kind: masked, value_bits: 16, update_norm: 5.0}
privacy: none
"""
ROWS = b"x,z,y\n" + b"".join(b"%d,%d,%d\n" % (i, (i * 7) % 5 - 2, i % 2) for i in range(-9, 10))


@dataclass
class Served:
    """A coordinator behind real mutual TLS."""

    charter: Charter
    memory: CoordinatorMemory
    driver: Driver
    allowed: AllowList
    authority: certificates.Authority
    port: int
    clock: SystemClock
    loop: HurriedLoop

    def credentials(
        self, name: str, role: Role = Role.PARTICIPANT, *, listed: bool = True, now: float | None = None
    ) -> grpc.ChannelCredentials:
        key = certificates.new_key(SystemEntropy())
        subject = Subject(FEDERATION, role, OrgId(name))
        made = certificates.issue(
            self.authority, key.public_key(), subject, self.clock.wall_s() if now is None else now, SystemEntropy()
        )
        if listed:
            self.allowed.add(stored_certificate(made, subject))
        return transport.channel_credentials(
            certificates.certificate_pem(made),
            certificates.key_pem(key),
            certificates.certificate_pem(self.authority.certificate),
        )

    def channel(
        self,
        name: str,
        role: Role = Role.PARTICIPANT,
        *,
        listed: bool = True,
        options: tuple[transport.Option, ...] = (),
    ) -> grpc.Channel:
        credentials = self.credentials(name, role, listed=listed)
        options = (*transport.CHANNEL_OPTIONS, *options)
        return grpc.secure_channel(f"127.0.0.1:{self.port}", credentials, options=options)


@pytest.fixture
def served() -> Iterator[Served]:
    charter = make_charter(NAMES, 5)
    clock, entropy = SystemClock(), SystemEntropy()
    authority = certificates.make_authority(FEDERATION, clock.wall_s(), entropy)
    key = certificates.new_key(entropy)
    server_certificate = certificates.issue(
        authority,
        key.public_key(),
        Subject(FEDERATION, Role.COORDINATOR, OrgId("coordinator")),
        clock.wall_s(),
        entropy,
        hosts=("127.0.0.1",),
    )
    memory = CoordinatorMemory()
    driver = Driver(
        Office(charter.coordinator_key),
        {1: charter.roster},
        charter.notice,
        "test",
        memory,
        CoordinatorWorkers(),
        clock,
        entropy,
        NoFailpoints(),
        NO_KEYS,
    )
    allowed = AllowList(FEDERATION)
    allowed.listen(lambda org, code: driver.call(lambda: driver.end_session(org, code)))
    started = threading.Event()
    held: dict[str, object] = {}
    loop = HurriedLoop()

    async def main() -> None:
        server = grpc.aio.server(options=transport.SERVER_OPTIONS)
        edge = RoundsEdge(
            driver,
            lambda pem: allowed.identify(pem, clock.wall_s()),
            lambda key, org, quorum, announced: memory.spool(key, org, announced),
            memory.open_sum,
        )
        archive = Archive(memory, lambda version: charter.notice.signed_roster)
        public = ArchiveEdge(
            archive, lambda pem: allowed.identify(pem, clock.wall_s()), lambda org: org in driver.members
        )
        server.add_generic_rpc_handlers((edge.handlers(), public.handlers()))
        held["port"] = server.add_secure_port(
            "127.0.0.1:0",
            transport.server_credentials(
                certificates.certificate_pem(server_certificate),
                certificates.key_pem(key),
                certificates.certificate_pem(authority.certificate),
            ),
        )
        held["stop"] = asyncio.Event()
        await server.start()
        started.set()
        await held["stop"].wait()  # type: ignore[attr-defined]
        await server.stop(0.2)

    thread = threading.Thread(target=lambda: loop.run(main()))
    loop_thread = threading.Thread(target=driver.serve, daemon=True)
    thread.start()
    assert started.wait(LIMIT_S)
    driver.resume()
    loop_thread.start()
    yield Served(charter, memory, driver, allowed, authority, int(held["port"]), clock, loop)  # type: ignore[call-overload]
    loop.call_soon_threadsafe(held["stop"].set)  # type: ignore[attr-defined]
    thread.join(LIMIT_S)
    driver.stop()
    loop_thread.join(LIMIT_S)
    assert not thread.is_alive()


class Outbox:
    def __init__(self) -> None:
        self.rows: list[tuple[str, int, bytes]] = []
        self.labels: list[Label] = []

    def record(self, kind: str, size_bytes: int, digest: bytes, label: Label = UNLABELLED) -> int:
        self.rows.append((kind, size_bytes, digest))
        self.labels.append(label)
        return len(self.rows)

    def amend(self, number: int, size_bytes: int) -> None:
        kind, _, digest = self.rows[number - 1]
        self.rows[number - 1] = kind, size_bytes, digest


@dataclass
class Running:
    driver: participant.Driver
    link: CoordinatorLink
    memory: ParticipantMemory
    outbox: Outbox
    thread: threading.Thread
    told: list[tuple[str, dict[str, str]]]

    def heard(self, wanted: str) -> list[str]:
        """The codes of what it was told of this kind so far."""
        return [facts.get("code", "") for kind, facts in self.told if kind == wanted]

    def stop(self) -> None:
        self.driver.stop()
        self.thread.join(LIMIT_S)
        self.link.close()


def start(served: Served, name: str, canonical: bytes) -> Running:
    org, memory, outbox = OrgId(name), ParticipantMemory(), Outbox()
    link = CoordinatorLink(served.channel(name), outbox)
    state = participant_round.State(org, served.charter.member_keys[org], served.charter.roster)
    made = participant.Driver(
        state,
        Consent(frozenset({plans.plan_hash(canonical)})),
        served.charter.verifier(org),
        served.charter.notice.trust_chain,
        served.charter.past_roster,
        "test",
        memory,
        TableBench({"table": Path("table.csv")}, Seed(bytes(32)), lambda path: [in_memory("table.csv", ROWS)]),
        link,
        ParticipantWorkers(),
        served.clock,
        SystemEntropy(),
        NoFailpoints(),
        HomeCipher(MemberKeys(None, org), SystemEntropy(), lambda key, shape: InlineMasks(key, SystemEntropy())),
    )
    told: list[tuple[str, dict[str, str]]] = []
    made.listeners.append(lambda kind, facts: told.append((kind, dict(facts))))

    def drive() -> None:
        made.start()
        made.serve()

    thread = threading.Thread(target=drive, daemon=True)
    thread.start()
    return Running(made, link, memory, outbox, thread, told)


def test_a_run_over_mutual_tls_ends_with_the_same_verified_model_everywhere(served: Served) -> None:
    canonical = plans.canonical(plans.parse_plan(PLAN, "plan.yaml"))
    members = [start(served, name, canonical) for name in NAMES]
    eventually(lambda: len(served.driver.connected_members) == 3)
    served.driver.call(lambda: served.driver.start_run(RunId("run-1"), canonical))
    eventually(lambda: all(member.memory.has_end(RunId("run-1")) for member in members))
    ends = [member.memory.ends[RunId("run-1")] for member in members]
    assert [end[1] for end in ends] == ["finished"] * 3
    assert len({end[2] for end in ends}) == 1
    assert ends[0][2]
    sent = {kind for member in members for kind, _, _ in member.outbox.rows}
    assert sent == {"Session", "SubmitInput", "FetchSum", "FetchRound", "FetchInputLeaves"}
    with contextlib.closing(served.channel("acme")) as channel:
        product, partial, unknown = pb.LEAF_KIND_PRODUCT, pb.LEAF_KIND_PARTIAL, 3
        asked = (
            (1, [1], 0),
            (1, [], 0),
            (1, [0, 0], 0),
            (0, [0], 0),
            *((1, [0], one) for one in (product, partial, unknown)),
        )
        for number, wanted, kind in asked:
            stub = channel.unary_stream("/fedveil.v1.RoundsService/FetchInputLeaves")
            request = pb.FetchInputLeavesRequest(run_id="run-1", round=number, leaves=wanted, kind=kind)  # type: ignore[arg-type]
            with pytest.raises(grpc.RpcError) as caught:
                list(stub(request.SerializeToString(), timeout=LIMIT_S))
            assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    with contextlib.closing(served.channel("stranger")) as channel:
        stub = channel.unary_stream("/fedveil.v1.RoundsService/FetchRound")
        with pytest.raises(grpc.RpcError) as caught:
            list(stub(pb.FetchRoundRequest(run_id="run-1", round=1).SerializeToString(), timeout=LIMIT_S))
        assert caught.value.code() is grpc.StatusCode.PERMISSION_DENIED
    with contextlib.closing(served.channel("boss", Role.OPERATOR)) as channel:
        stub = channel.unary_stream("/fedveil.v1.RoundsService/FetchRound")
        frames = stub(pb.FetchRoundRequest(run_id="run-1", round=1).SerializeToString(), timeout=LIMIT_S)
        parts = [part for data in frames for part in pb.FetchRoundResponse.FromString(data).parts]
        record = parse_parts(part.SerializeToString(deterministic=True) for part in parts)
        assert published.verify(record, served.charter.roster).tag_sum
    for member in members:
        member.stop()


def submit(channel: grpc.Channel, frames: list[bytes]) -> FedveilError:
    stub = channel.stream_stream("/fedveil.v1.RoundsService/SubmitInput")
    with pytest.raises(grpc.RpcError) as caught:
        list(stub(iter(frames), timeout=LIMIT_S))
    return error_of(caught.value.code(), caught.value.details(), list(caught.value.trailing_metadata() or ()))


def test_a_malformed_message_is_invalid_argument_with_the_field_path(served: Served) -> None:
    with contextlib.closing(served.channel("acme")) as channel:
        stub = channel.stream_stream("/fedveil.v1.RoundsService/Session")
        bad = pb.SessionRequest()
        bad.plan_answer.plan_hash = b"short"
        call = stub(iter([bad.SerializeToString()]))
        with pytest.raises(grpc.RpcError) as caught:
            list(call)
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert "plan_answer.plan_hash" in caught.value.details()
    assert KEY in dict(caught.value.trailing_metadata())


def test_bytes_that_are_no_protobuf_are_invalid_argument(served: Served) -> None:
    with contextlib.closing(served.channel("acme")) as channel:
        call = channel.stream_stream("/fedveil.v1.RoundsService/Session")(iter([b"\xff\xff\xff"]))
        with pytest.raises(grpc.RpcError) as caught:
            list(call)
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT


@pytest.mark.parametrize(
    ("name", "role", "listed", "code"),
    [("acme", Role.PARTICIPANT, False, "not_enrolled"), ("acme", Role.OPERATOR, True, "wrong_role")],
)
def test_a_caller_that_may_not_call_is_told_why(served: Served, name: str, role: Role, listed: bool, code: str) -> None:
    with contextlib.closing(served.channel(name, role, listed=listed)) as channel:
        stub = channel.stream_stream("/fedveil.v1.RoundsService/Session")
        with pytest.raises(grpc.RpcError) as caught:
            list(stub(iter([wire.encode_participant(PlanAnswer(bytes(32), False, "no"))])))
    assert caught.value.code() is grpc.StatusCode.PERMISSION_DENIED
    rebuilt = error_of(caught.value.code(), caught.value.details(), list(caught.value.trailing_metadata()))
    assert rebuilt.code == code


def test_an_expired_certificate_never_gets_through_the_handshake(served: Served) -> None:
    credentials = served.credentials("acme", now=served.clock.wall_s() - 200 * 86_400)
    channel = grpc.secure_channel(f"127.0.0.1:{served.port}", credentials, options=transport.CHANNEL_OPTIONS)
    with contextlib.closing(channel):
        stub = channel.stream_stream("/fedveil.v1.RoundsService/Session")
        with pytest.raises(grpc.RpcError) as caught:
            list(stub(iter([]), timeout=LIMIT_S))
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE


def test_rival_R14_a_revoked_participants_stream_ends_within_a_second(served: Served) -> None:
    canonical = plans.canonical(plans.parse_plan(PLAN, "plan.yaml"))
    members = [start(served, name, canonical) for name in NAMES]
    eventually(lambda: served.driver.connected_members == NAMES)
    took = []
    for name, member in zip(NAMES, members, strict=True):
        eventually(lambda member=member: member.heard("connected"))  # type: ignore[misc]
        before = time.monotonic()
        served.allowed.revoke(OrgId(name))
        eventually(lambda member=member: member.heard("disconnected"))  # type: ignore[misc]
        took.append(time.monotonic() - before)
        assert member.heard("disconnected")[0] == "certificate_revoked"
    assert min(took) < 1.0, "a machine that stands still does so for one of them, or two"
    assert served.driver.connected_members == ()
    for member in members:
        eventually(lambda member=member: len(member.heard("disconnected")) >= 2)  # type: ignore[misc] # it tries again
        assert set(member.heard("disconnected")) == {"certificate_revoked"}
        member.stop()


def uploading(served: Served) -> tuple[grpc.Channel, bytes, list[bytes], list[bytes], SimpleNamespace]:
    """A coordinator that waits for the input of acme, and everything for an upload that would be accepted."""
    canonical = plans.canonical(plans.parse_plan(PLAN, "plan.yaml"))
    members = [start(served, name, canonical) for name in NAMES]
    held: list[tuple[object, tuple[bytes, ...], bytes | bytearray]] = []
    ready = threading.Event()

    def hold(header: object, hashes: tuple[bytes, ...], source: LeafSource, label: object) -> object:
        held.append((header, hashes, source.packed(0)))
        ready.set()
        raise Unreachable("held", "this test uploads by hand")

    members[0].link.submit_input = hold  # type: ignore[method-assign,assignment]
    eventually(lambda: len(served.driver.connected_members) == 3)
    served.driver.call(lambda: served.driver.start_run(RunId("run-1"), canonical))
    assert ready.wait(LIMIT_S)
    header, hashes, leaf = held[0]
    leaves = [bytes(leaf)]
    channel = served.channel("acme")
    return channel, wire.encode_blob(header), list(hashes), leaves, SimpleNamespace(members=members)  # type: ignore[arg-type]


def announcement(header: bytes, hashes: list[bytes]) -> bytes:
    frame = pb.SubmitInputRequest()
    frame.announcement.header.ParseFromString(header)
    frame.announcement.leaf_hashes.extend(hashes)
    return frame.SerializeToString()


def leaves_frame(first: int, leaves: list[bytes]) -> bytes:
    frame = pb.SubmitInputRequest()
    frame.leaves.first = first
    frame.leaves.leaves.extend(leaves)
    return frame.SerializeToString()


def collected(served: Served) -> dict[OrgId, object]:
    state = served.driver.active
    assert state is not None
    assert state.attempt is not None
    assert isinstance(state.attempt.stage, attempts.Collecting)
    return dict(state.attempt.stage.headers)


def test_attack_31_hostile_uploads_name_the_leaf_and_change_nothing(served: Served) -> None:
    channel, header, hashes, leaves, rest = uploading(served)
    eventually(lambda: len(collected(served)) == 2)
    before = collected(served)
    flipped = bytes([leaves[0][0] ^ 1]) + leaves[0][1:]
    stories: list[tuple[str, list[bytes]]] = [
        ("bad_leaf", [announcement(header, hashes), leaves_frame(0, [flipped])]),
        ("bad_leaf", [announcement(header, hashes), leaves_frame(0, [leaves[0][:-4]])]),
        ("missing_leaf", [announcement(header, hashes)]),
        ("leaf_out_of_order", [announcement(header, hashes * 2), leaves_frame(1, leaves)]),
        ("wrong_leaf_root", [announcement(header, [transcript.leaf_root(hashes)]), leaves_frame(0, leaves)]),
        ("malformed", []),
        ("malformed", [leaves_frame(0, leaves)]),
        ("malformed", [b"\xff\xff"]),
        ("extra_leaf", [announcement(header, hashes), leaves_frame(0, [*leaves, leaves[0]])]),
        ("duplicate_leaf", [announcement(header, hashes), leaves_frame(0, leaves)]),  # it is there since the last
    ]
    for code, frames in stories:
        found = submit(channel, frames)
        if code == "leaf_out_of_order":
            assert found.code == "wrong_leaf_root"  # a longer hash list has another root, so it is found first
        else:
            assert found.code == code
        assert collected(served) == before
    # the honest control: the same announcement, its true leaf being there, is accepted and receipted
    stub = channel.stream_stream("/fedveil.v1.RoundsService/SubmitInput")
    answers = [pb.SubmitInputResponse.FromString(data) for data in stub(iter([announcement(header, hashes)]))]
    assert [answer.WhichOneof("frame") for answer in answers] == ["first_missing", "receipt"]
    assert answers[0].first_missing == 1
    assert answers[1].receipt.signer_id == "coordinator"
    eventually(lambda: not isinstance(served.driver.active and served.driver.active.attempt, attempts.Collecting))
    channel.close()
    for member in rest.members:
        member.stop()


def test_the_input_of_another_member_is_refused(served: Served) -> None:
    channel, header, hashes, leaves, rest = uploading(served)
    eventually(lambda: len(collected(served)) == 2)  # so that no upload of borealis' own is still going on
    channel.close()
    with contextlib.closing(served.channel("borealis")) as other:
        assert submit(other, [announcement(header, hashes), leaves_frame(0, leaves)]).code == "wrong_signer"
    for member in rest.members:
        member.stop()


def test_a_second_server_on_the_same_port_is_refused(served: Served) -> None:
    async def second() -> int:
        server = grpc.aio.server(options=transport.SERVER_OPTIONS)
        key = certificates.new_key(SystemEntropy())
        pem = certificates.certificate_pem(served.authority.certificate)
        made = certificates.issue(
            served.authority,
            key.public_key(),
            Subject(FEDERATION, Role.COORDINATOR, OrgId("coordinator")),
            served.clock.wall_s(),
            SystemEntropy(),
            hosts=("127.0.0.1",),
        )
        credentials = transport.server_credentials(certificates.certificate_pem(made), certificates.key_pem(key), pem)
        return server.add_secure_port(f"127.0.0.1:{served.port}", credentials)

    with ThreadPoolExecutor(1) as pool, pytest.raises(RuntimeError):
        pool.submit(lambda: asyncio.run(second())).result(LIMIT_S)
