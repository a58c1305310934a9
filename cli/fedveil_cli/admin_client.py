"""The operator's client of a running coordinator: one method an operation, errors as the coordinator raised them."""

import json
from collections.abc import Iterator
from typing import Any

import grpc
from fedveil.v1 import admin_pb2 as pb
from fedveil.v1 import identity_pb2 as identity_pb
from fedveil_common.errors import PolicyRefusal
from fedveil_common.grpc_errors import error_of
from fedveil_common.pki.renewing import RenewalAnswer

from fedveil_cli.operator_line import OperatorLine

TIMEOUT_S = 30.0
_PATH = "/fedveil.v1.AdminService/"
_IDENTITY = "/fedveil.v1.IdentityService/"
RENEWED = frozenset({"certificate_superseded", "certificate_expired"})
"""How a call with a certificate that was renewed meanwhile ends."""


class AdminClient:
    """Calls with the operator's certificate over mutual TLS. Every method raises FedveilError."""

    def __init__(self, line: OperatorLine) -> None:
        self._line = line

    def _call(self, name: str, request: Any, answer: Any, path: str = _PATH) -> Any:
        try:
            return self._call_once(name, request, answer, path)
        except PolicyRefusal as error:
            if error.code not in RENEWED or not self._line.changed():
                raise
        return self._call_once(name, request, answer, path)  # it was refused: it was not carried out

    def _call_once(self, name: str, request: Any, answer: Any, path: str) -> Any:
        stub = self._line.channel().unary_unary(
            path + name, request_serializer=type(request).SerializeToString, response_deserializer=answer.FromString
        )
        try:
            return stub(request, timeout=TIMEOUT_S)
        except grpc.RpcError as error:
            raise _error(error) from None

    def _stream(self, name: str, request: Any, answer: Any) -> Iterator[Any]:
        stub = self._line.channel().unary_stream(
            _PATH + name, request_serializer=type(request).SerializeToString, response_deserializer=answer.FromString
        )
        try:
            yield from stub(request)
        except grpc.RpcError as error:
            raise _error(error) from None

    def status(self) -> dict[str, Any]:
        """Who is a member, who is here, which run waits for whom."""
        answer = self._call("GetStatus", pb.GetStatusRequest(), pb.GetStatusResponse)
        status: dict[str, Any] = json.loads(answer.status.json)
        return status

    def register_invite(self, invite: bytes) -> int:
        """Hand in a governance-signed invite; how many keys it replaces."""
        request = pb.RegisterInviteRequest(invite=invite)
        return int(self._call("RegisterInvite", request, pb.RegisterInviteResponse).replaces)

    def revoke(self, org: str, reason: str) -> tuple[int, int]:
        """Revoke a member; (live sessions ended, still open)."""
        answer = self._call("Revoke", pb.RevokeRequest(org_id=org, reason=reason), pb.RevokeResponse)
        return int(answer.ended), int(answer.open)

    def roster_draft(self) -> tuple[bytes, bytes, str, list[str]]:
        """(current signed roster, trust chain, members as JSON list, revoked ids)."""
        answer = self._call("GetRosterDraft", pb.GetRosterDraftRequest(), pb.GetRosterDraftResponse)
        return answer.current, answer.trust_chain, answer.joined, list(answer.revoked)

    def publish_roster(self, signed: bytes) -> int:
        """Make a signed roster current; its version."""
        request = pb.PublishRosterRequest(signed_roster=signed)
        return int(self._call("PublishRoster", request, pb.PublishRosterResponse).version)

    def publish_trust(self, chain: bytes) -> int:
        """Make a longer trust chain the one in force; its length."""
        request = pb.PublishTrustRequest(trust_chain=chain)
        return int(self._call("PublishTrust", request, pb.PublishTrustResponse).sequence)

    def publish_key(self, terms: bytes, record: bytes) -> dict[str, Any]:
        """Publish a key that its holders made; what is published now."""
        request = pb.PublishKeyRequest(terms=terms, record=record)
        key: dict[str, Any] = json.loads(self._call("PublishKey", request, pb.PublishKeyResponse).key.json)
        return key

    def start_run(self, canonical: bytes, reuse_key_epoch: bool = False) -> str:
        """Start a run; its id."""
        request = pb.StartRunRequest(canonical_plan=canonical, reuse_key_epoch=reuse_key_epoch)
        return str(self._call("StartRun", request, pb.StartRunResponse).run_id)

    def list_runs(self) -> list[dict[str, Any]]:
        """Every run, oldest first."""
        answer = self._call("ListRuns", pb.ListRunsRequest(), pb.ListRunsResponse)
        runs: list[dict[str, Any]] = json.loads(answer.runs.json)
        return runs

    def get_run(self, run_id: str) -> dict[str, Any]:
        """One run."""
        answer = self._call("GetRun", pb.GetRunRequest(run_id=run_id), pb.GetRunResponse)
        run: dict[str, Any] = json.loads(answer.run.json)
        return run

    def get_round(self, run_id: str, number: int) -> dict[str, Any]:
        """One round of a run."""
        answer = self._call("GetRound", pb.GetRoundRequest(run_id=run_id, round=number), pb.GetRoundResponse)
        found: dict[str, Any] = json.loads(answer.round.json)
        return found

    def spending_record(self, org: str) -> bytes:
        """What a member may have spent of differential privacy, signed by the coordinator."""
        request = pb.GetSpendingRequest(org_id=org)
        return bytes(self._call("GetSpending", request, pb.GetSpendingResponse).record)

    def abort_run(self, run_id: str) -> None:
        """End a run."""
        self._call("AbortRun", pb.AbortRunRequest(run_id=run_id), pb.AbortRunResponse)

    def watch(self, run_id: str, after: int = 0) -> Iterator[tuple[int, str, dict[str, str]]]:
        """(number, kind, facts) of each event of a run until it has ended."""
        while True:
            request = pb.WatchRunRequest(run_id=run_id, after=after)
            try:
                for event in self._stream("WatchRun", request, pb.WatchRunResponse):
                    after = event.number
                    yield event.number, event.kind, json.loads(event.facts)
                return
            except PolicyRefusal as error:  # the run outlasted the certificate with which the watching began
                if error.code not in RENEWED or not self._line.changed():
                    raise

    def list_models(self) -> list[dict[str, Any]]:
        """The final models of ended runs."""
        answer = self._call("ListModels", pb.ListModelsRequest(), pb.ListModelsResponse)
        models: list[dict[str, Any]] = json.loads(answer.models.json)
        return models

    def get_model(self, version: str) -> dict[str, Any]:
        """One version of a model."""
        answer = self._call("GetModel", pb.GetModelRequest(version=version), pb.GetModelResponse)
        model: dict[str, Any] = json.loads(answer.model.json)
        return model

    def decide_model(self, move: str, version: str, to: str, reason: str) -> dict[str, Any]:
        """Decide about a version; what it is afterwards."""
        request = pb.DecideModelRequest(move=move, version=version, to=to, reason=reason)
        model: dict[str, Any] = json.loads(self._call("DecideModel", request, pb.DecideModelResponse).model.json)
        return model

    def model_status(self) -> bytes:
        """The status list in force, as its file."""
        return bytes(self._call("GetModelStatus", pb.GetModelStatusRequest(), pb.GetModelStatusResponse).status)

    def export_model(self, version: str) -> bytes:
        """The model file of a version: RUN for the final one of a run, or RUN:ROUND."""
        request = pb.ExportModelRequest(version=version)
        return b"".join(piece.data for piece in self._stream("ExportModel", request, pb.ExportModelResponse))

    def renew(self, csr: bytes) -> RenewalAnswer:
        """A certificate for the key in `csr` (DER), as the coordinator hands it out."""
        made = self._call("Renew", identity_pb.RenewRequest(csr=csr), identity_pb.RenewResponse, _IDENTITY)
        return RenewalAnswer(made.certificate, made.authorities, made.trust_chain)

    def who_am_i(self) -> tuple[str, str, str]:
        """(name, role, serial) as the coordinator sees this certificate."""
        made = self._call("WhoAmI", identity_pb.WhoAmIRequest(), identity_pb.WhoAmIResponse, _IDENTITY)
        return made.org_id, made.role, made.serial

    def close(self) -> None:
        """Close the connection."""
        self._line.close()


def _error(error: Any) -> Exception:
    metadata = error.trailing_metadata() if hasattr(error, "trailing_metadata") else ()
    return error_of(error.code(), error.details(), list(metadata or ()))
