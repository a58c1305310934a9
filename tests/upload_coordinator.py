"""A coordinator that only takes uploads: `python -m tests.upload_coordinator FOLDER PORT`, for tests that kill it.

The edge, the verification, the store and mutual TLS are the product's; only the driver is a stand-in, which expects an
input of any member and signs nothing. Certificates come from FOLDER; PORT is fixed, so that a second one takes over.
"""

import asyncio
import sys
from concurrent.futures import Future
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import grpc.aio
from fedveil_cli.world import SystemClock
from fedveil_common import wire
from fedveil_common.ids import COORDINATOR, AttemptKey, OrgId, RunId
from fedveil_common.leafspool import Announced, LeafSpool
from fedveil_common.messages import BlobType, Header, SignedBlob
from fedveil_common.pki import certificates, names, transport
from fedveil_coordinator.allowlist import Identity
from fedveil_coordinator.intake import due
from fedveil_coordinator.server import RoundsEdge
from fedveil_coordinator.store import open_store

from tests import patience

KEY = AttemptKey(RunId("run-1"), 1, 1)
MEMBERS = (OrgId("acme"), OrgId("borealis"))


class StandIn:
    """What the edge asks of a driver during an upload."""

    members = frozenset(MEMBERS)

    def expect_upload(self, org: OrgId, header: SignedBlob) -> Any:
        body = wire.parse_body(BlobType.HEADER, header.body)
        assert isinstance(body, Header)
        return SimpleNamespace(attempt=SimpleNamespace(key=KEY), due=due(body, None))

    def examine(self, org: OrgId, upload: Any) -> None:
        pass

    def input_progress(self, org: OrgId, leaves: int) -> None:
        pass

    def input_complete(self, org: OrgId, header: SignedBlob) -> "Future[SignedBlob]":
        done: Future[SignedBlob] = Future()
        done.set_result(SignedBlob(COORDINATOR, BlobType.RECEIPT, b"receipt", bytes(64)))
        return done


def identify(pem: bytes) -> Identity:
    """Whoever the certificate names; the handshake has checked who issued it."""
    subject = names.subject_of(certificates.load_certificate(pem))
    return Identity(subject.org_id, subject.role, "")


async def serve(folder: Path, port: int) -> None:
    """Until killed."""
    store = open_store(folder / "home", SystemClock(), create=not (folder / "home").exists())

    def spool(key: AttemptKey, org: OrgId, quorum: tuple[int, ...], announced: Announced) -> LeafSpool:
        return store.journal.spool(key, org, announced)

    edge = RoundsEdge(StandIn(), identify, spool, None)  # type: ignore[arg-type]
    server = grpc.aio.server(options=transport.SERVER_OPTIONS)
    server.add_generic_rpc_handlers((edge.handlers(),))
    pem = [(folder / name).read_bytes() for name in ("server.crt", "server.key", "authority.crt")]
    server.add_secure_port(f"127.0.0.1:{port}", transport.server_credentials(*pem))
    await server.start()
    await server.wait_for_termination()


if __name__ == "__main__":
    patience.lengthen()
    asyncio.run(serve(Path(sys.argv[1]), int(sys.argv[2])))
