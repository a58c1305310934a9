"""The gRPC edge of who one is: IdentityService over `renewal`. Participants and operators; no decision in here."""

import asyncio
from typing import Any

import grpc
import grpc.aio
import structlog
from fedveil.v1 import identity_pb2 as pb
from fedveil_common import wire
from fedveil_common.pki.certificates import MAX_CSR
from google.protobuf.message import DecodeError

from fedveil_coordinator.allowlist import Identity
from fedveil_coordinator.live_calls import LiveCalls
from fedveil_coordinator.renewal import RenewalOffice
from fedveil_coordinator.server import Identify, guarded

SERVICE = "fedveil.v1.IdentityService"

log = structlog.get_logger("fedveil.identity")


class IdentityEdge:
    """The handlers of IdentityService."""

    def __init__(self, office: RenewalOffice, identify: Identify, live: LiveCalls | None = None) -> None:
        self._office = office
        self._identify = identify
        self._live = live

    def handlers(self) -> grpc.GenericRpcHandler:
        """For `server.add_generic_rpc_handlers`: raw bytes in and out."""
        methods: dict[str, Any] = {
            "Renew": grpc.unary_unary_rpc_method_handler(guarded(None, self._identify, self.renew, self._live)),
            "WhoAmI": grpc.unary_unary_rpc_method_handler(guarded(None, self._identify, self.who, self._live)),
        }
        return grpc.method_handlers_generic_handler(SERVICE, methods)

    async def renew(self, data: bytes, context: object, identity: Identity) -> bytes:
        """A successor of the certificate that calls."""
        try:
            request = pb.RenewRequest.FromString(data)
        except DecodeError:
            raise wire.MalformedError("request", "does not parse as protocol buffers") from None
        if not 1 <= len(request.csr) <= MAX_CSR:
            raise wire.MalformedError("request.csr", f"not 1 to {MAX_CSR} bytes")
        answer = await asyncio.to_thread(self._office.renew, identity, request.csr)
        log.info("certificate.renewed", org=identity.org_id, role=identity.role.value, predecessor=identity.serial)
        return pb.RenewResponse(
            certificate=answer.certificate, authorities=answer.authorities, trust_chain=answer.trust_chain
        ).SerializeToString()

    async def who(self, data: bytes, context: object, identity: Identity) -> bytes:
        """Who calls."""
        try:
            pb.WhoAmIRequest.FromString(data)
        except DecodeError:
            raise wire.MalformedError("request", "does not parse as protocol buffers") from None
        return pb.WhoAmIResponse(
            org_id=identity.org_id, role=identity.role.value, serial=identity.serial
        ).SerializeToString()
