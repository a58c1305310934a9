"""Enrolment over HTTPS, without client certificates: who is not yet a member has none. No decision in here.

GET /ca.pem, GET /trust, GET /time, GET /healthz, POST /join, and what `renewal_http` and `status_http` add. Everything
served is public; what is posted is public too (the invite's private key stays with the joiner). Bodies are bounded
before they are read, in size and in time.
"""

import asyncio
from collections.abc import Callable, Sequence
from typing import Protocol

import structlog
from fedveil_common import jcs
from fedveil_common.errors import FedveilError, PeerError, PolicyRefusal
from fedveil_common.ids import OrgId
from fedveil_common.pki import invites
from fedveil_common.pki.certificates import Authority
from fedveil_common.pki.governance import Trust
from fedveil_common.pki.joining import MAX_REQUEST, JoinAnswer, JoinRequest, encode_refusal
from fedveil_common.ports import Clock, Entropy
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route

from fedveil_coordinator.allowlist import AllowList
from fedveil_coordinator.enrollment import Enrolment, EnrolmentStore
from fedveil_coordinator.store.members import Certificate

log = structlog.get_logger("fedveil.enrolment")

ALARMING = frozenset({"token_used", "rekey_mismatch", "key_in_use"})
"""Refusals of requests made with a genuine invite key: somebody else may have the token. They go into the audit log."""

BODY_TIMEOUT_S = 10.0
"""How long a join request may take to arrive."""


class Records(Protocol):
    """Where the current roster and the audit log stand; `store.Records` is it."""

    def audit(self, who: str, what: str, **detail: str) -> None:
        """One row of the audit log."""
        ...

    def latest_roster(self) -> tuple[int, bytes] | None:
        """(version, signed bytes) of the newest roster."""
        ...


class Founded(Protocol):
    """What a federation publishes; `trust.TrustInForce` is it, and `founding.Federation` while nothing changes."""

    @property
    def trust_chain(self) -> bytes:
        """As `/trust` serves it."""
        ...

    @property
    def trust(self) -> Trust:
        """The verified chain."""
        ...

    @property
    def authority_pem(self) -> bytes:
        """The certificates of the authorities in force."""
        ...


def application(
    federation: Founded,
    store: EnrolmentStore,
    allowed: AllowList,
    authority: Callable[[], Authority],
    clock: Clock,
    entropy: Entropy,
    records: Records,
    further: Sequence[Route] = (),
) -> Starlette:
    """The ASGI application of the enrolment listener; it runs under the coordinator's server certificate. `authority`:
    the one that issues now.
    """

    def signed_roster() -> bytes:
        newest = records.latest_roster()
        if newest is None:
            raise PolicyRefusal("no_roster", "the federation has no roster yet")
        return newest[1]

    def admitted(org_id: OrgId, certificate: Certificate, rekey: bool) -> None:
        if rekey:
            allowed.replace(org_id, certificate, clock.wall_s())
        else:
            allowed.add(certificate)

    office = Enrolment(lambda: federation.trust, authority, store, clock, entropy, signed_roster, admitted)

    def answer_to(asked: JoinRequest) -> JoinAnswer:
        try:
            return office.join(asked)
        except PeerError as error:
            if error.code in ALARMING:
                records.audit(error.peer or "unknown", "join_refused", code=error.code, token=asked.token_id.hex())
            raise

    async def ca(request: Request) -> Response:
        return Response(federation.authority_pem, media_type="application/x-pem-file")

    async def trust(request: Request) -> Response:
        return Response(federation.trust_chain, media_type="application/json")

    async def time(request: Request) -> Response:
        return Response(jcs.dumps({"seconds": clock.wall_s()}), media_type="application/json")

    async def healthz(request: Request) -> Response:
        return Response(b'{"serving":true}', media_type="application/json")

    async def join(request: Request) -> Response:
        token_id = ""
        try:
            asked = JoinRequest.decode(await read_posted(request))
            token_id = asked.token_id.hex()
            answer = await run_in_threadpool(answer_to, asked)
        except FedveilError as error:
            log.warning("join.refused", code=error.code, org=getattr(error, "peer", ""), token_id=token_id)
            return refusal(error)
        log.info("join.admitted", org=invites.parse_invite(answer.invite.body).org_id, token_id=token_id)
        return Response(answer.encode(), media_type="application/json")

    return Starlette(
        routes=[
            Route("/ca.pem", ca),
            Route("/trust", trust),
            Route("/time", time),
            Route("/healthz", healthz),
            Route("/join", join, methods=["POST"]),
            *further,
        ]
    )


async def read_posted(request: Request) -> bytes:
    """The body of a request, bounded in size and time. PeerError `too_large`, `too_slow`, `bad_document`."""
    try:
        async with asyncio.timeout(BODY_TIMEOUT_S):
            return await _body(request)
    except TimeoutError:
        raise PeerError("too_slow", f"the request did not arrive within {BODY_TIMEOUT_S:.0f} s") from None


async def _body(request: Request) -> bytes:
    """At most MAX_REQUEST bytes, whatever the length that was announced. PeerError `too_large`, `bad_document`."""
    body = bytearray()
    try:
        async for piece in request.stream():
            body += piece
            if len(body) > MAX_REQUEST:
                raise PeerError("too_large", f"a join request has at most {MAX_REQUEST} bytes")
    except ClientDisconnect:
        raise PeerError("bad_document", "the request ended before it was complete") from None
    return bytes(body)


_STATUS = {"too_large": 413, "too_slow": 408}


def refusal(error: FedveilError) -> Response:
    """The typed error as JSON; the joiner raises it again (see `fedveil_common.pki.joining`)."""
    status = _STATUS.get(error.code, 403 if error.exit_code in {4, 5} else 500)
    body = encode_refusal(error)
    return Response(body, status_code=status, media_type="application/json")
