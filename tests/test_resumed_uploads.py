"""Uploads over mutual TLS that break: the connection at a leaf, or the coordinator itself, by SIGKILL. What was
verified is kept, so the second stream carries only what is missing; the bytes of both are counted as they leave.
"""

import contextlib
import os
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import grpc
import numpy as np
import pytest
from berths import free_port
from fedveil_cli.world import SystemClock, SystemEntropy
from fedveil_common import limits, transcript, wire
from fedveil_common.errors import FedveilError, PeerError, Unreachable
from fedveil_common.gate import UNLABELLED, Label
from fedveil_common.ids import OrgId
from fedveil_common.messages import BlobType, Header, SignedBlob
from fedveil_common.pki import certificates, transport
from fedveil_common.pki.invites import Role
from fedveil_common.pki.names import Subject
from fedveil_common.ringfile import RingFile
from fedveil_participant import upload_frames
from fedveil_participant.client import STALL_S, CoordinatorLink, Movement
from fedveil_simulation.charter import FEDERATION
from fedveil_simulation.journals import PackedMemory, packed
from patience import LIMIT_S, eventually

from tests.nursery import Child, nursery
from tests.upload_coordinator import MEMBERS

BITS, LENGTH = 20, 70 * transcript.LEAF_COORDINATES + 5
LEAVES = 71
FRAME = limits.LEAVES_PER_FRAME
CUT = 3 * FRAME
"""The leaf at which an upload breaks, once all before it are on the coordinator's disk."""


class Line:
    """A line to the coordinator that can be cut: forwards bytes both ways."""

    def __init__(self, port: int) -> None:
        self._to = port
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listening.getsockname()[1])
        self._open: list[socket.socket] = []
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                near = self._listening.accept()[0]
                try:
                    far = socket.create_connection(("127.0.0.1", self._to))
                except OSError:  # the coordinator is down
                    near.close()
                    continue
                self._open += [near, far]
                for source, sink in ((near, far), (far, near)):
                    threading.Thread(target=self._forward, args=(source, sink), daemon=True).start()

    def _forward(self, source: socket.socket, sink: socket.socket) -> None:
        with source, contextlib.suppress(OSError):
            while data := source.recv(65_536):
                sink.sendall(data)
        with contextlib.suppress(OSError):
            sink.shutdown(socket.SHUT_RDWR)

    def cut(self) -> None:
        """Every connection breaks; new ones are accepted."""
        while self._open:
            with contextlib.suppress(OSError):
                self._open.pop().shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        self._listening.close()
        self.cut()


class Outbox:
    """The bytes of each upload: as they were declared before the first left, and as they stand at last."""

    def __init__(self) -> None:
        self.declared: list[int] = []
        self.sent: list[int] = []

    def record(self, kind: str, size_bytes: int, digest: bytes, label: Label = UNLABELLED) -> int:
        assert kind == "SubmitInput"
        self.declared.append(size_bytes)
        self.sent.append(size_bytes)
        return len(self.sent)

    def amend(self, number: int, size_bytes: int) -> None:
        self.sent[number - 1] = size_bytes

    def leaves(self) -> int:
        """The bytes of frames with leaves: each upload has one announcement beside them."""
        announced = len(upload_frames.announcement(*an_input()[:2]))
        return sum(max(0, size - announced) for size in self.sent)


class Watched:
    """A masked input that notes what is read of it, and calls `at_cut` when that is leaf CUT."""

    def __init__(self, inner: PackedMemory, at_cut: Callable[[], None] = lambda: None) -> None:
        self._inner, self._at_cut = inner, at_cut
        self.shape, self.leaves = inner.shape, inner.leaves
        self.read: list[int] = []

    def packed(self, index: int) -> bytes:
        if index == CUT:
            self._at_cut()
        self.read.append(index)
        return self._inner.packed(index)


class Bench:
    """A coordinator process, a line to it, and a member with something to upload."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.port = folder, free_port()
        entropy, now = SystemEntropy(), SystemClock().wall_s()
        authority = certificates.make_authority(FEDERATION, now, entropy)
        server = certificates.new_key(entropy)
        made = certificates.issue(
            authority,
            server.public_key(),
            Subject(FEDERATION, Role.COORDINATOR, OrgId("coordinator")),
            now,
            entropy,
            hosts=("127.0.0.1",),
        )
        self._authority = certificates.certificate_pem(authority.certificate)
        (folder / "server.crt").write_bytes(certificates.certificate_pem(made))
        (folder / "server.key").write_bytes(certificates.key_pem(server))
        (folder / "authority.crt").write_bytes(self._authority)
        self._members = {}
        for name in MEMBERS:
            key = certificates.new_key(entropy)
            subject = Subject(FEDERATION, Role.PARTICIPANT, name)
            issued = certificates.issue(authority, key.public_key(), subject, now, entropy)
            self._members[name] = (certificates.certificate_pem(issued), certificates.key_pem(key))
        self.line = Line(self.port)
        self.links: list[CoordinatorLink] = []
        self.process = self._start()

    def _start(self) -> Child:
        with (self.folder / "log").open("ab") as log, open(os.devnull, "rb") as nothing:
            words, streams = (str(self.folder), str(self.port)), (nothing.fileno(), log.fileno(), log.fileno())
            process = nursery().start("tests.upload_coordinator", words, self.folder, os.environ, streams)
        eventually(self._answers)
        return process

    def _answers(self) -> bool:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), timeout=LIMIT_S):
            return True
        return False

    def link(self, name: OrgId = MEMBERS[0], outbox: Outbox | None = None) -> CoordinatorLink:
        certificate, key = self._members[name]
        credentials = transport.channel_credentials(certificate, key, self._authority)
        options = (*transport.CHANNEL_OPTIONS, ("grpc.initial_reconnect_backoff_ms", 100))
        self.links.append(
            CoordinatorLink(
                grpc.secure_channel(f"127.0.0.1:{self.line.port}", credentials, options=options), outbox or Outbox()
            )
        )
        return self.links[-1]

    def spooled(self) -> dict[str, int]:
        """The files of the spool and their sizes."""
        return {path.name: path.stat().st_size for path in (self.folder / "home/spool").iterdir()}

    def wait_for_leaves(self, count: int) -> None:
        """So many leaves of one input are on the coordinator's disk."""
        eventually(lambda: list(self.spooled().values()) == [count * LEAF_BYTES])

    def kill(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()

    def restart(self) -> None:
        self.process = self._start()

    def close(self) -> None:
        for link in self.links:
            link.close()
        self.line.close()
        if self.process.poll() is None:
            self.kill()


LEAF_BYTES = 16_384 * BITS // 8


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    made = Bench(tmp_path)
    yield made
    made.close()


def an_input(name: OrgId = MEMBERS[0], seed: int = 1) -> tuple[SignedBlob, tuple[bytes, ...], PackedMemory]:
    """(header, leaf hashes, leaves) of a masked input."""
    ring = np.random.default_rng(seed).integers(0, 2**BITS, LENGTH, dtype=np.uint32)
    source, t2 = packed(ring, BITS), bytes(32)
    hashes = tuple(transcript.input_leaf(t2, name, index, source.packed(index)) for index in range(LEAVES))
    header = Header(t2, name, LENGTH, BITS, LEAVES, transcript.leaf_root(hashes), False, b"")
    return SignedBlob(name, BlobType.HEADER, wire.encode_body(header), bytes(64)), hashes, source


def leaf_bytes(source: PackedMemory, first: int = 0) -> int:
    return sum(len(source.packed(index)) for index in range(first, LEAVES))


def stored(bench: Bench, source: PackedMemory) -> None:
    """The input is whole under its name, and nothing else is left."""
    assert list(bench.spooled()) == ["run-1.1.1.acme"]
    with RingFile(bench.folder / "home/spool/run-1.1.1.acme") as file:
        assert all(file.packed(index) == source.packed(index) for index in range(LEAVES))


def broken(
    bench: Bench, action: Callable[[], None]
) -> tuple[CoordinatorLink, SignedBlob, tuple[bytes, ...], PackedMemory]:
    """An upload that broke at leaf CUT by `action`; its input, to be sent again."""
    outbox = Outbox()
    link = bench.link(outbox=outbox)
    header, hashes, source = an_input()

    def at_cut() -> None:
        bench.wait_for_leaves(CUT)
        action()

    with pytest.raises(Unreachable):
        link.submit_input(header, hashes, Watched(source, at_cut))  # type: ignore[arg-type]
    bench.wait_for_leaves(CUT)
    assert outbox.leaves() >= CUT * LEAF_BYTES
    return link, header, hashes, source


def again(link: CoordinatorLink, *arguments: object) -> SignedBlob:
    """As the driver does: tried until the connection stands again and the coordinator has seen the old one break."""
    for _ in range(600):
        try:
            return link.submit_input(*arguments)  # type: ignore[arg-type]
        except FedveilError as error:
            if error.code not in {"unreachable", "upload_in_progress"}:
                raise
            threading.Event().wait(0.05)
    raise AssertionError("the upload never went through")


@pytest.mark.parametrize("how", ["the connection", "the coordinator"])
def test_an_upload_goes_on_from_the_leaf_at_which_it_broke(bench: Bench, how: str) -> None:
    _, header, hashes, source = broken(bench, bench.line.cut if how == "the connection" else bench.kill)
    if how == "the coordinator":
        bench.restart()
    outbox, second = Outbox(), Watched(source)
    link = bench.link(outbox=outbox)
    receipt = again(link, header, hashes, second)
    assert receipt.type is BlobType.RECEIPT
    assert second.read == list(range(CUT, LEAVES)), "no leaf twice, none left out"
    sent = outbox.leaves()
    assert 0 <= sent - leaf_bytes(source, CUT) < 1000, "the missing leaves and their frames"
    stored(bench, source)
    # once more, as after a lost receipt: nothing but the announcement leaves
    third = Watched(source)
    assert again(link, header, hashes, third) == receipt
    assert third.read == []
    assert outbox.leaves() == sent


def test_leaves_that_the_disk_changed_are_asked_for_again(bench: Bench) -> None:
    link, header, hashes, source = broken(bench, bench.kill)
    (part,) = (bench.folder / "home/spool").iterdir()
    data = bytearray(part.read_bytes())
    data[20 * LEAF_BYTES + 7] ^= 1
    part.write_bytes(data)
    bench.restart()
    second = Watched(source)
    again(link, header, hashes, second)
    assert second.read == list(range(20, LEAVES))
    stored(bench, source)


def test_what_is_stored_withstands_another_header_and_wrong_leaves(bench: Bench) -> None:
    """The first announcement of an attempt stays, whoever of the same name sends another; each wrong leaf is named."""
    link, header, hashes, source = broken(bench, bench.line.cut)
    before = bench.spooled()
    other = an_input(seed=2)
    with pytest.raises(PeerError) as differs:
        again(link, *other)
    assert differs.value.code == "input_differs"
    assert bench.spooled() == before
    with pytest.raises(PeerError) as named:
        again(link, header, hashes, other[2])
    assert (named.value.code, f"leaf {CUT}" in named.value.what) == ("bad_leaf", True)
    assert bench.spooled() == before
    # another member's input has a place of its own
    theirs = an_input(MEMBERS[1], seed=3)
    again(bench.link(MEMBERS[1]), *theirs)
    assert bench.spooled() == {**before, "run-1.1.1.borealis": bench.spooled()["run-1.1.1.borealis"]}
    again(link, header, hashes, source)
    with RingFile(bench.folder / "home/spool/run-1.1.1.acme") as file:
        assert file.packed(CUT) == source.packed(CUT)


def test_a_transfer_that_stands_still_is_noticed_and_one_that_moves_is_not() -> None:
    movement, waits = Movement(), []

    def period(seconds: float) -> bool:
        """One period in which something moves, ten times; then one in which nothing does."""
        waits.append(seconds)
        if len(waits) <= 10:
            movement.moved()
        return False

    assert movement.stalls(period)
    assert waits == [STALL_S] * 11
    assert not movement.stalls(lambda seconds: True), "over before"


def test_a_stalled_transfer_is_cancelled(monkeypatch: pytest.MonkeyPatch) -> None:
    cancelled = threading.Event()
    monkeypatch.setattr("fedveil_participant.client.STALL_S", 0.001)
    with Movement().watched(cancelled.set):
        assert cancelled.wait(LIMIT_S)
