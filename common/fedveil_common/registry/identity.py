"""Which model is meant: a version by its run and round for people, by the hash of its signed manifest for machines.

Promise: one model id, one signed manifest: parameters, layout, plan, standardisation, federation, run, round,
transcript and roster version are all in what is hashed. Source: docs/registry.md, section 1.
"""

from dataclasses import dataclass

from fedveil_common import jcs
from fedveil_common.crypto.labels import h
from fedveil_common.ids import RunId
from fedveil_common.modelmanifest import ModelManifest
from fedveil_common.pki import documents


def model_id(manifest: ModelManifest) -> bytes:
    """H("model/id", body of the signed manifest): 32 bytes."""
    return h("model/id", manifest.to_bytes())


@dataclass(frozen=True, slots=True)
class ModelRef:
    """A model as statements and lists name it. `model_id`, `model_hash`: 32 bytes; the latter of the parameters."""

    model_id: bytes
    run_id: RunId
    round: int
    model_hash: bytes

    @classmethod
    def of(cls, manifest: ModelManifest) -> "ModelRef":
        """The model that a manifest describes."""
        return cls(model_id(manifest), manifest.run_id, manifest.round, manifest.model_hash)

    def to_json(self) -> dict[str, jcs.Json]:
        """The members by which it stands in a signed body."""
        return {
            "model_id": self.model_id.hex(),
            "run_id": self.run_id,
            "round": self.round,
            "model_hash": self.model_hash.hex(),
        }

    @classmethod
    def from_fields(cls, fields: documents.Fields) -> "ModelRef":
        """The inverse of `to_json`. PeerError `bad_document`."""
        return cls(
            fields.hex("model_id", 32),
            RunId(fields.name("run_id")),
            fields.integer("round"),
            fields.hex("model_hash", 32),
        )


MEMBERS = frozenset({"model_id", "run_id", "round", "model_hash"})
"""The names in `ModelRef.to_json`."""
