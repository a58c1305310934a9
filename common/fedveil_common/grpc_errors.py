"""Our errors across gRPC and back: the status says how to treat it, the trailing metadata says what it was.

The metadata key `fedveil-error-bin` holds a JSON object {kind, code, what, not_done, next}; a peer that does not know
us still sees a sensible status and text. Nothing else of an exception crosses the wire.
"""

import json
from collections.abc import Sequence
from typing import Any

import grpc

from fedveil_common.errors import (
    ConfigError,
    FedveilError,
    IntegrityError,
    PeerError,
    PolicyRefusal,
    RoundAborted,
    SealedError,
    StorageError,
    Unreachable,
)

KEY = "fedveil-error-bin"

_KINDS: dict[str, type[FedveilError]] = {
    cls.__name__: cls
    for cls in (
        ConfigError,
        SealedError,
        PolicyRefusal,
        PeerError,
        Unreachable,
        IntegrityError,
        StorageError,
        RoundAborted,
    )
}


def status_of(error: FedveilError) -> grpc.StatusCode:
    """How a caller that knows only gRPC should treat the error."""
    if error.code == "malformed":
        return grpc.StatusCode.INVALID_ARGUMENT
    match error:
        case PolicyRefusal():
            return grpc.StatusCode.PERMISSION_DENIED
        case StorageError():
            return grpc.StatusCode.RESOURCE_EXHAUSTED
        case RoundAborted():
            return grpc.StatusCode.ABORTED
        case Unreachable():
            return grpc.StatusCode.UNAVAILABLE
        case IntegrityError():
            return grpc.StatusCode.INTERNAL
        case _:
            return grpc.StatusCode.FAILED_PRECONDITION


def metadata_of(error: FedveilError) -> tuple[tuple[str, bytes], ...]:
    """The trailing metadata that lets our client build the same error again."""
    kind = next((name for name, cls in _KINDS.items() if isinstance(error, cls)), "IntegrityError")
    body = {
        "kind": kind,
        "code": error.code,
        "what": error.what,
        "not_done": error.not_done,
        "next": error.next_step,
    }
    return ((KEY, json.dumps(body).encode()),)


def error_of(status: grpc.StatusCode | None, details: str | None, metadata: Sequence[tuple[str, Any]]) -> FedveilError:
    """The error behind a failed call: rebuilt if the other side is ours, else `unreachable` or `call_failed`."""
    for key, value in metadata:
        if key == KEY and isinstance(value, bytes):
            try:
                body = json.loads(value)
                kind = _KINDS[str(body["kind"])]
                return kind(
                    str(body["code"])[:64],
                    str(body["what"])[:2000],
                    not_done=str(body["not_done"])[:500],
                    next_step=str(body["next"])[:500],
                )
            except (ValueError, KeyError, TypeError):
                break
    if status in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED, grpc.StatusCode.DEADLINE_EXCEEDED):
        return Unreachable(
            "unreachable",
            f"the coordinator cannot be reached ({details or status.name})",
            next_step="check the address, the network and this certificate with `fedveil health`",
        )
    name = status.name if status is not None else "no status"
    return PeerError("call_failed", f"the call failed: {name}: {details or ''}"[:500])
