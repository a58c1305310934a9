"""What the coordinator signs of a model: parameters, plan and standardisation by their hashes, and their origin.

Promise: a manifest has one byte form, RFC 8785; `parse_manifest` refuses every other. No arithmetic is needed to read
one. Source: docs/protocol.md.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from fedveil_common import jcs
from fedveil_common.errors import PeerError
from fedveil_common.ids import FederationId, RunId, is_name

MAX_HEADER = 16 * 1024 * 1024
"""Bytes of what stands before the parameters of a model file."""

HASH_BYTES = 32


@dataclass(frozen=True, slots=True)
class Tensor:
    """One named parameter block; `shape` in rows of float32."""

    name: str
    shape: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class ModelManifest:
    """What the coordinator signs as SignedBlob type "model". Hashes of 32 bytes; `transcript`: T3 of the last sum."""

    federation_id: FederationId
    run_id: RunId
    round: int
    roster_version: int
    plan_hash: bytes
    standardisation_hash: bytes
    model_hash: bytes
    layout: tuple[Tensor, ...]
    transcript: bytes

    def to_bytes(self) -> bytes:
        """The RFC 8785 JSON body that is signed."""
        return jcs.dumps(
            {
                "federation_id": self.federation_id,
                "run_id": self.run_id,
                "round": self.round,
                "roster_version": self.roster_version,
                "plan_hash": self.plan_hash.hex(),
                "standardisation_hash": self.standardisation_hash.hex(),
                "model_hash": self.model_hash.hex(),
                "layout": [{"name": tensor.name, "shape": list(tensor.shape)} for tensor in self.layout],
                "transcript": self.transcript.hex(),
            }
        )


def parse_manifest(body: bytes) -> ModelManifest:
    """The manifest in a signed body. Raises PeerError `bad_model_file` unless `body` is its canonical form."""
    try:
        value = jcs.loads(body)
        if not isinstance(value, dict):
            raise TypeError("an object was expected")
        manifest = ModelManifest(
            federation_id=FederationId(name(value, "federation_id")),
            run_id=RunId(name(value, "run_id")),
            round=_count(value, "round"),
            roster_version=_count(value, "roster_version"),
            plan_hash=_hash(value, "plan_hash"),
            standardisation_hash=_hash(value, "standardisation_hash"),
            model_hash=_hash(value, "model_hash"),
            layout=_layout(value["layout"]),
            transcript=_hash(value, "transcript"),
        )
    except (ValueError, TypeError, KeyError):
        raise bad("its signed manifest cannot be read") from None
    if manifest.to_bytes() != body:
        raise bad("its signed manifest is not in canonical form")
    return manifest


def _layout(value: jcs.Json) -> tuple[Tensor, ...]:
    if not isinstance(value, list):
        raise TypeError("a list was expected")
    found: list[Tensor] = []
    for item in value:
        if not isinstance(item, dict) or not isinstance(shape := item["shape"], list):
            raise TypeError("a tensor is {name, shape}")
        found.append(Tensor(text(item, "name"), tuple(size for size in shape if isinstance(size, int))))
    return tuple(found)


def text(members: Mapping[str, jcs.Json], key: str) -> str:
    """A member that is text. KeyError, TypeError."""
    value = members[key]
    if not isinstance(value, str):
        raise TypeError(f"{key} is text")
    return value


def name(members: Mapping[str, jcs.Json], key: str) -> str:
    """A member that is an id. KeyError, TypeError, ValueError."""
    value = text(members, key)
    if not is_name(value):
        raise ValueError(f"{key} is an id")
    return value


def _count(members: Mapping[str, jcs.Json], key: str) -> int:
    value = members[key]
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= jcs.MAX_INTEGER:
        raise ValueError(f"{key} is a whole number")
    return value


def _hash(members: Mapping[str, jcs.Json], key: str) -> bytes:
    value = bytes.fromhex(text(members, key))
    if len(value) != HASH_BYTES:
        raise ValueError(f"{key} is 32 bytes")
    return value


def bad(why: str) -> PeerError:
    """`bad_model_file`."""
    return PeerError(
        "bad_model_file",
        f"this is not a Fedveil model file: {why}",
        not_done="the model was not loaded",
        next_step="fetch the file again from where it was published",
    )
