"""What the enrolment port answers about certificates: POST /renew (offline past its end) and POST /standing.

Both requests are signed; neither needs a client certificate, because who asks may have none that still opens a
connection. No decision in here.
"""

from collections.abc import Callable
from typing import Any

import structlog
from fedveil_common.errors import FedveilError, PeerError
from fedveil_common.ids import FederationId
from fedveil_common.pki.renewing import QUESTION_AGE_S, OfflineRenewal, Standing, StandingQuestion, encode_standing
from fedveil_common.ports import Clock
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from fedveil_coordinator.allowlist import AllowList
from fedveil_coordinator.enrollment_http import read_posted, refusal
from fedveil_coordinator.renewal import RenewalOffice

log = structlog.get_logger("fedveil.renewal")


def routes(office: RenewalOffice, federation_id: FederationId, allowed: AllowList, clock: Clock) -> list[Route]:
    """For `enrollment_http.application`."""

    def renew(body: bytes) -> bytes:
        asked = OfflineRenewal.decode(body)
        answer = office.renew_offline(asked)
        log.info("certificate.renewed_offline", org=asked.org_id)
        return answer.encode()

    def standing(body: bytes) -> bytes:
        return encode_standing(answer_question(StandingQuestion.decode(body), federation_id, allowed, clock.wall_s()))

    return [
        Route("/renew", _endpoint("renew.refused", renew), methods=["POST"]),
        Route("/standing", _endpoint("standing.refused", standing), methods=["POST"]),
    ]


def answer_question(
    question: StandingQuestion, federation_id: FederationId, allowed: AllowList, now: float
) -> Standing:
    """What is thought of the certificate whose holder asks. Asking is no use of it.

    PeerError `wrong_federation`, `bad_certificate`, `bad_signature`, `question_out_of_time`.
    """
    if question.federation_id != federation_id:
        raise PeerError("wrong_federation", f"the question is for {question.federation_id}")
    certificate = question.verify()
    if abs(now - question.seconds) > QUESTION_AGE_S:
        raise PeerError(
            "question_out_of_time",
            f"the question was asked {now - question.seconds:.0f} s ago on the coordinator's clock",
            next_step="ask GET /time first, then at once",
        )
    return allowed.standing(certificate, now)


def _endpoint(event: str, answer: Callable[[bytes], bytes]) -> Any:
    async def handle(request: Request) -> Response:
        try:
            body = await read_posted(request)
            made = await run_in_threadpool(answer, body)
        except FedveilError as error:
            log.warning(event, code=error.code, org=getattr(error, "peer", ""))
            return refusal(error)
        return Response(made, media_type="application/json")

    return handle
