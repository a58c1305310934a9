"""A malicious coordinator behind real mutual TLS, for holders that are real processes: the edge is the product's.

It says what a test wants on their sessions, takes their uploads without a look, and serves any headers and lifts.
"""

import asyncio
import contextlib
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from types import SimpleNamespace
from typing import Any, TypeVar

import grpc.aio
from federation import body_of
from fedveil_common.crypto import signing
from fedveil_common.ids import COORDINATOR, AttemptKey, OrgId
from fedveil_common.messages import (
    BlobType,
    CipherHeader,
    CoordinatorHello,
    CoordinatorMessage,
    Partial,
    ParticipantHello,
    ParticipantMessage,
    Receipt,
    ReceiptKind,
    RosterNotice,
    SignedBlob,
)
from fedveil_common.paillier.round_shape import RoundShape
from fedveil_common.pki import certificates, names, transport
from fedveil_common.secret import PrivateKey
from fedveil_common.wire import encode_body
from fedveil_coordinator.allowlist import Identity
from fedveil_coordinator.founding import Federation
from fedveil_coordinator.intake import due
from fedveil_coordinator.server import RoundsEdge
from fedveil_simulation.journals import CoordinatorMemory
from paillier_forge import Served
from patience import LIMIT_S

Found = TypeVar("Found")


class RogueDriver:
    """What the edge asks of a driver."""

    def __init__(self, key: PrivateKey, notice: RosterNotice, federation_id: str, members: frozenset[OrgId]) -> None:
        self._key, self._notice, self._federation_id, self.members = key, notice, federation_id, members
        self.memory = CoordinatorMemory()
        self.shape: RoundShape | None = None
        self.serve: dict[OrgId, Served] = {}
        self._outlets: dict[OrgId, Any] = {}
        self._heard: list[tuple[OrgId, ParticipantMessage | SignedBlob]] = []
        self._changed = threading.Condition()

    def sign(self, type: BlobType, body: Any) -> SignedBlob:
        return signing.sign(self._key, COORDINATOR, type, encode_body(body))

    def say(self, org: OrgId, message: CoordinatorMessage) -> None:
        self._outlets[org].send(message)

    def heard(self, org: OrgId, kind: type[Found]) -> list[Found]:
        """What a member said of this kind, or the signed headers of its uploads (`SignedBlob`)."""
        return [one for name, one in list(self._heard) if name == org and isinstance(one, kind)]

    def next(self, org: OrgId, kind: type[Found], known: int = 0) -> Found:
        """The first thing of this kind after `known` others, once it has come."""
        with self._changed:
            assert self._changed.wait_for(lambda: len(self.heard(org, kind)) > known, LIMIT_S), f"{org}: {kind}"
        return self.heard(org, kind)[known]

    def wait_for(self, *orgs: OrgId) -> None:
        """Until these have a session."""
        with self._changed:
            assert self._changed.wait_for(lambda: set(orgs) <= self._outlets.keys(), LIMIT_S)

    def _note(self, org: OrgId, what: ParticipantMessage | SignedBlob) -> None:
        with self._changed:
            self._heard.append((org, what))
            self._changed.notify_all()

    # --- the edge -----------------------------------------------------------------------------------------------------

    def connected(self, org: OrgId, outlet: Any, taken: Callable[[], None]) -> None:
        taken()
        outlet.send(CoordinatorHello("rogue", (1,), self._federation_id))
        outlet.send(self._notice)
        with self._changed:
            self._outlets[org] = outlet
            self._changed.notify_all()

    def disconnected(self, org: OrgId, outlet: Any) -> None:
        """Nobody is missed."""

    def received(self, org: OrgId, message: ParticipantMessage, taken: Callable[[], None]) -> None:
        taken()
        if not isinstance(message, ParticipantHello):
            self._note(org, message)

    def input_progress(self, org: OrgId, leaves: int) -> None:
        """Nobody is waited for."""

    def expect_upload(self, org: OrgId, header: SignedBlob) -> Any:
        body = body_of(header)
        assert isinstance(body, CipherHeader | Partial)
        place = body.t2 if isinstance(body, CipherHeader) else body.t3
        return SimpleNamespace(attempt=SimpleNamespace(key=place), due=due(body, self.shape))

    def examine(self, org: OrgId, upload: Any) -> None:
        """Its checks are off."""

    def input_complete(self, org: OrgId, header: SignedBlob) -> "Future[SignedBlob]":
        done: Future[SignedBlob] = Future()
        done.set_result(self.sign(BlobType.RECEIPT, Receipt(bytes(32), ReceiptKind.INPUT, bytes(32))))
        self._note(org, header)
        return done

    def headers(self, org: OrgId, key: AttemptKey) -> Iterator[tuple[str, int, list[bytes]]]:
        return iter([(name, block, [data]) for name, block, data in self.serve[org]])


def _identify(pem: bytes) -> Identity:
    subject = names.subject_of(certificates.load_certificate(pem))
    return Identity(subject.org_id, subject.role, "")


@contextlib.contextmanager
def listening(federation: Federation, driver: RogueDriver) -> Iterator[None]:
    """The driver behind the federation's own address and certificate."""
    ready, held = threading.Event(), {}

    def spool(key: Any, org: OrgId, quorum: tuple[int, ...], announced: Any) -> Any:
        if quorum:
            return driver.memory.spool_answer(key, org, quorum, announced)
        return driver.memory.spool(key, org, announced)

    async def main() -> None:
        server = grpc.aio.server(options=transport.SERVER_OPTIONS)
        edge = RoundsEdge(driver, _identify, spool, None)  # type: ignore[arg-type]
        server.add_generic_rpc_handlers((edge.handlers(),))
        host, port = federation.listen
        server.add_secure_port(f"{host}:{port}", federation.server_credentials())
        held["stop"], held["loop"] = asyncio.Event(), asyncio.get_running_loop()
        await server.start()
        ready.set()
        await held["stop"].wait()
        await server.stop(0.2)

    thread = threading.Thread(target=lambda: asyncio.run(main()), daemon=True)
    thread.start()
    assert ready.wait(LIMIT_S)
    try:
        yield
    finally:
        held["loop"].call_soon_threadsafe(held["stop"].set)
        thread.join(10)
