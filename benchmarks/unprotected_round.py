"""The yardstick of `masked_round.py --unprotected`: float32 vectors instead of masked integers, on the same road.

Not in the product, which cannot do this. Kept: enrolled processes, mutual TLS and allow-list, the product's session,
upload and download calls with leaves and leaf hashes, the spool, an fsynced journal line per offer, input and sum, the
participant's fsynced copy of its vector, the download of the previous sum in the round. Left out: keys, shares, masks,
votes, certificate, signatures. The time goes from the persisted offer to the fsynced sum, as in the protected round.
"""

import asyncio
import json
import os
import queue
import statistics
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

HERE = Path(__file__).resolve()
ROUNDS = 6
RUN = "unprotected"
ZERO = bytes(32)
TIMEOUT_S = 300.0


def append(path: Path, line: str) -> None:
    """A durable journal line."""
    with path.open("a") as file:
        file.write(line + "\n")
        file.flush()
        os.fsync(file.fileno())


def coordinator(home: Path, out: Path, participants: int, parameters: int) -> None:
    """Offer, receive, add up, six times; the times and the memory go to `out`."""
    import grpc.aio
    from fedveil.v1 import rounds_pb2 as pb
    from fedveil_cli.serving import bind
    from fedveil_cli.world import SystemClock
    from fedveil_common import limits, wire
    from fedveil_common.ids import COORDINATOR, AttemptKey, OrgId, RunId
    from fedveil_common.messages import BlobType, Header, RosterNotice, SignedBlob
    from fedveil_common.pki import transport
    from fedveil_common.ringfile import RingFile, leaf_count, leaf_length, residues
    from fedveil_common.wire import tables
    from fedveil_coordinator import founding
    from fedveil_coordinator.allowlist import AllowList
    from fedveil_coordinator.intake import due
    from fedveil_coordinator.server import RoundsEdge
    from fedveil_coordinator.store import open_store
    from masked_round import memory_kb

    clock = SystemClock()
    federation = founding.load_federation(home)
    store = open_store(home, clock)
    journal, lines = store.journal, home / "unprotected.log"
    blank = SignedBlob(COORDINATOR, BlobType.RESULT, b"none", bytes(64))

    class Rounds:
        """What the edge asks of a driver."""

        def __init__(self) -> None:
            self.key = AttemptKey(RunId(RUN), 1, 1)
            self.outlets: dict[OrgId, Any] = {}
            self.arrived: queue.Queue[OrgId] = queue.Queue()
            self.lock = threading.Lock()
            self.members = frozenset(certificate.org_id for certificate in store.members.certificates())

        def connected(self, org: OrgId, outlet: Any, taken: Callable[[], None]) -> None:
            taken()
            self.outlets[org] = outlet

        def disconnected(self, org: OrgId, outlet: Any) -> None:
            self.outlets.pop(org, None)

        def input_progress(self, org: OrgId, leaves: int) -> None:
            pass

        def expect_upload(self, org: OrgId, header: SignedBlob) -> Any:
            body = wire.parse_body(BlobType.HEADER, header.body)
            assert isinstance(body, Header)
            return SimpleNamespace(attempt=SimpleNamespace(key=self.key), due=due(body, None))

        def examine(self, org: OrgId, upload: Any) -> None:
            pass

        def input_complete(self, org: OrgId, header: SignedBlob) -> "Future[SignedBlob]":
            done: Future[SignedBlob] = Future()
            with self.lock:
                append(lines, f"input {self.key.round} {org}")
            self.arrived.put(org)
            done.set_result(blank)
            return done

        def play(self) -> None:
            """All rounds, from another thread than the edge's."""
            pause = threading.Event()
            while len(self.outlets) < participants:
                pause.wait(0.05)
            idle, times = memory_kb(os.getpid(), "VmRSS"), []
            for number in range(1, ROUNDS + 1):
                self.key = AttemptKey(RunId(RUN), number, 1)
                append(lines, f"offer {number}")
                began = clock.monotonic_s()
                for outlet in list(self.outlets.values()):
                    outlet.send(RosterNotice(b"offer", str(number).encode()))
                members = [self.arrived.get(timeout=TIMEOUT_S) for _ in range(participants)]
                self.add_up(number, members)
                append(lines, f"sum {number}")
                times.append(clock.monotonic_s() - began)
                journal.discard_inputs(self.key)
            peak = memory_kb(os.getpid(), "VmHWM")
            out.write_text(json.dumps({"times": times, "over_idle_kb": peak - idle}))

        def add_up(self, number: int, members: list[OrgId]) -> None:
            sink = journal.new_sum(self.key.run_id, number, parameters, 32)
            inputs = [journal.open_input(self.key, org) for org in members]
            for index in range(leaf_count(parameters)):
                total = np.zeros(leaf_length(parameters, index), dtype=np.float32)
                for source in inputs:
                    total += residues(source, index).view(np.float32)
                sink.write(index, total.tobytes())
            sink.finish(replace=True)
            for source in inputs:
                source.close()

    class Edge(RoundsEdge):
        """Sends unsigned sums: there is no certificate behind them."""

        async def fetch(self, data: bytes, context: Any, identity: Any) -> None:
            request = pb.FetchSumRequest.FromString(data)
            first = pb.FetchSumResponse()
            tables.BLOB.put(first.announcement, "result", blank)
            tables.BLOB.put(first.announcement, "manifest", blank)
            await context.write(first.SerializeToString())
            with RingFile(journal.sum_path(RunId(RUN), request.round)) as file:
                for start in range(0, file.leaves, limits.LEAVES_PER_FRAME):
                    frame = pb.FetchSumResponse()
                    frame.leaves.first = start
                    for index in range(start, min(start + limits.LEAVES_PER_FRAME, file.leaves)):
                        frame.leaves.leaves.append(bytes(await asyncio.to_thread(file.packed, index)))
                    await context.write(frame.SerializeToString())

    async def serve() -> None:
        allowed = AllowList(federation.federation_id, store.members.certificates())
        rounds = Rounds()
        edge: Any = Edge
        server = grpc.aio.server(options=transport.SERVER_OPTIONS)
        spool = lambda key, org, quorum, announced: journal.spool(key, org, announced)  # noqa: E731
        handlers = edge(rounds, lambda pem: allowed.identify(pem, clock.wall_s()), spool, None).handlers()
        server.add_generic_rpc_handlers((handlers,))
        host, port = federation.listen
        bind(server, host, port, federation.server_credentials())
        await server.start()
        (home / "listening").touch()
        await asyncio.to_thread(rounds.play)
        await server.stop(1.0)

    asyncio.run(serve())


def participant(home: Path, parameters: int) -> None:
    """Wait for offers; download, add a fixed vector, keep it, send it."""
    import grpc
    from fedveil_cli.world import SystemClock, real_world
    from fedveil_common import transcript, wire
    from fedveil_common.ids import OrgId, RunId
    from fedveil_common.masking import masks
    from fedveil_common.messages import BlobType, Header, SignedBlob
    from fedveil_common.pki import transport
    from fedveil_common.ringfile import RingFile, RingWriter
    from fedveil_participant import membership
    from fedveil_participant.client import CoordinatorLink
    from fedveil_participant.store import journal_key, open_store

    member = membership.load_membership(home)
    store = open_store(home, journal_key(home, None), SystemClock(), real_world().entropy)
    credentials = transport.channel_credentials(member.certificate_pem, member.key_pem(), member.authority_pem)
    link = CoordinatorLink(grpc.secure_channel(member.address, credentials, options=transport.CHANNEL_OPTIONS), store)
    org = OrgId(member.org_id)
    inbox: queue.Queue[Any] = queue.Queue()
    link.open(inbox.put, lambda error: inbox.put(None))
    model = np.zeros(parameters, dtype=np.float32)
    for _ in range(ROUNDS):
        message = inbox.get(timeout=TIMEOUT_S)
        if message is None:
            raise SystemExit("the session broke")
        number = int(message.trust_chain)
        if number > 1:
            leaves = link.fetch_sum(RunId(RUN), number - 1).leaves
            model += np.frombuffer(b"".join(data for _, data in leaves), dtype=np.float32)
        update = (np.sin(np.arange(parameters, dtype=np.float64)) / np.sqrt(parameters)).astype(np.float32)
        ring = update.view(np.uint32)
        kept = home / "vector.f32"
        writer, hashed = RingWriter(kept, parameters, 32), []
        for index, leaf in masks.leaves(ring, 32):
            writer.write(index, leaf)
            hashed.append(transcript.input_leaf(ZERO, org, index, leaf))
        writer.finish(replace=True)
        hashes = tuple(hashed)
        root = transcript.leaf_root(hashes)
        header = Header(ZERO, org, parameters, 32, len(hashes), root, False, b"")
        with RingFile(kept) as source:
            link.submit_input(SignedBlob(org, BlobType.HEADER, wire.encode_body(header), bytes(64)), hashes, source)
    inbox.get(timeout=TIMEOUT_S)  # until the coordinator goes
    link.close()
    store.close()


def measure(participants: int, parameters: int) -> dict[str, object]:
    """The unprotected round, with the identities of a real enrolment."""
    import logging

    from fedveil_cli import identity_commands
    from fedveil_cli.local_federation import LocalFederation
    from fedveil_cli.service_commands import configure_logging
    from fedveil_cli.world import SystemClock, real_world
    from fedveil_participant.store import journal_key, open_store
    from masked_round import on_tmpfs

    configure_logging(logging.ERROR)
    names = [f"org-{index:03}" for index in range(participants)]
    world = real_world()
    with tempfile.TemporaryDirectory(prefix="fedveil-bench-", dir=os.environ.get("FEDVEIL_BENCH_DIR")) as name:
        folder = Path(name)
        if on_tmpfs(folder):
            raise SystemExit("the folder is on tmpfs, where fsync costs nothing: set FEDVEIL_BENCH_DIR to a disk")
        federation = LocalFederation(folder, "fixed", SystemClock(), lambda kind, facts: None)
        running, out = federation.processes, folder / "out.json"
        try:
            admin = federation.found()
            for one in names:
                made = identity_commands.run_invite(federation.home, one, False, federation._governance, admin, world)
                identity_commands.run_join(folder / "homes" / one, str(made["token"]), None, world)
            running.stop()
            size = str(parameters)
            arguments = [str(HERE), "coordinator", str(federation.home), str(out), str(participants), size]
            running.start("coordinator", arguments, folder / "coordinator.log")
            federation.wait_until((federation.home / "listening").exists, "the coordinator's start")
            for one in names:
                arguments = [str(HERE), "participant", str(folder / "homes" / one), size]
                running.start(one, arguments, folder / f"{one}.log")
            try:
                code = running.running["coordinator"].wait(timeout=TIMEOUT_S)
            except subprocess.TimeoutExpired:
                code = None
            if code != 0:
                raise SystemExit(f"no measurement: {(folder / 'coordinator.log').read_text()[-2000:]}")
        finally:
            running.stop()
        seen = json.loads(out.read_text())
        home = folder / "homes" / names[-1]
        store = open_store(home, journal_key(home, None), SystemClock(), world.entropy)
        sent = sum(row.size_bytes for row in store.outbox() if row.kind == "SubmitInput")
        store.close()
    return {
        "participants": participants,
        "parameters": parameters,
        "dropped": 0,
        "protection": "none",
        "round_s": statistics.median(seen["times"][1:]),
        "rounds_s": seen["times"],
        "coordinator_peak_over_idle_mb": seen["over_idle_kb"] / 1024,
        "bytes_per_parameter": sent / (ROUNDS * parameters),
        "processes": participants + 1,
    }


if __name__ == "__main__":
    role, folder_name, *rest = sys.argv[1:]
    if role == "coordinator":
        coordinator(Path(folder_name), Path(rest[0]), int(rest[1]), int(rest[2]))
    else:
        participant(Path(folder_name), int(rest[0]))
