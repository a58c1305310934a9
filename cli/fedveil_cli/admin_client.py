"""The operator's client of a running coordinator: one method an operation, errors as the coordinator raised them."""

import json
from collections.abc import Iterator
from typing import Any

import grpc
from fedveil.v1 import admin_pb2 as pb
from fedveil_common.grpc_errors import error_of

TIMEOUT_S = 30.0
_PATH = "/fedveil.v1.AdminService/"


class AdminClient:
    """Calls with the operator's certificate over mutual TLS. Every method raises FedveilError."""

    def __init__(self, channel: grpc.Channel) -> None:
        self._channel = channel

    def _call(self, name: str, request: Any, answer: Any) -> Any:
        stub = self._channel.unary_unary(
            _PATH + name, request_serializer=type(request).SerializeToString, response_deserializer=answer.FromString
        )
        try:
            return stub(request, timeout=TIMEOUT_S)
        except grpc.RpcError as error:
            raise _error(error) from None

    def _stream(self, name: str, request: Any, answer: Any) -> Iterator[Any]:
        stub = self._channel.unary_stream(
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

    def start_run(self, canonical: bytes) -> str:
        """Start a run; its id."""
        request = pb.StartRunRequest(canonical_plan=canonical)
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

    def abort_run(self, run_id: str) -> None:
        """End a run."""
        self._call("AbortRun", pb.AbortRunRequest(run_id=run_id), pb.AbortRunResponse)

    def watch(self, run_id: str, after: int = 0) -> Iterator[tuple[int, str, dict[str, str]]]:
        """(number, kind, facts) of each event of a run until it has ended."""
        request = pb.WatchRunRequest(run_id=run_id, after=after)
        for event in self._stream("WatchRun", request, pb.WatchRunResponse):
            yield event.number, event.kind, json.loads(event.facts)

    def export_model(self, run_id: str) -> bytes:
        """The model file of an ended run."""
        request = pb.ExportModelRequest(run_id=run_id)
        return b"".join(piece.data for piece in self._stream("ExportModel", request, pb.ExportModelResponse))

    def close(self) -> None:
        """Close the channel."""
        self._channel.close()


def _error(error: Any) -> Exception:
    metadata = error.trailing_metadata() if hasattr(error, "trailing_metadata") else ()
    return error_of(error.code(), error.details(), list(metadata or ()))
