"""The model file: one safetensors file that carries a model, how it was made, and the signatures over that.

Promise: a file has exactly one byte form. `read_model` refuses every file whose header is not byte for byte the one
`write_model` makes, and every value that is not finite; so what other safetensors readers tolerate (duplicate keys,
unknown fields, trailing blanks) is no way to show two people two models. Signatures cover the manifest, not the file;
the manifest names the tensors, the plan and the standardisation by their hashes. Layout of the file: u64 little-endian
header length; RFC 8785 JSON header, padded with blanks to a multiple of 8; tensors float32 little-endian in plan order
(`tensors`).
"""

import base64
import binascii
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fedveil_common import jcs, layout, modelmanifest, standardisation, transcript
from fedveil_common.crypto import signing
from fedveil_common.errors import PeerError
from fedveil_common.ids import FederationId, OrgId, RunId
from fedveil_common.messages import BlobType, SignedBlob
from fedveil_common.modelmanifest import MAX_HEADER, ModelManifest, Tensor, parse_manifest
from fedveil_common.plan import ModelKind, Plan, canonical, parameters, parse_canonical, plan_hash
from fedveil_common.standardisation import Standardisation

__all__ = ["ModelManifest", "parse_manifest"]
"""Of `modelmanifest`, for those who read the file too; what is made here needs no listing."""

FORMAT = "fedveil/1"

CHECKED_AT_ONCE = 1_000_000
"""Parameters: what says of each whether it is finite takes a quarter of their memory."""


@dataclass(frozen=True, slots=True, eq=False)
class ModelFile:
    """A model file: `model` float32, shape (parameters,), plan order; `lineage`: see `lineage_text`; `trust_chain`,
    `roster`: text that this module carries and does not interpret. `signatures`: the coordinator's first.
    """

    plan: Plan
    model: NDArray[np.float32]
    standardisation: Standardisation
    lineage: str
    signatures: tuple[SignedBlob, ...]
    trust_chain: str
    roster: str

    @property
    def head(self) -> "ModelHead":
        """The file without its parameters."""
        carried = self.signatures, self.trust_chain, self.roster
        return ModelHead(self.plan, self.standardisation, self.lineage, *carried)


@dataclass(frozen=True, slots=True)
class ModelHead:
    """All of a model file but its parameters: what stands before them, and alone says how that is written."""

    plan: Plan
    standardisation: Standardisation
    lineage: str
    signatures: tuple[SignedBlob, ...]
    trust_chain: str
    roster: str


def tensors(plan: Plan) -> tuple[Tensor, ...]:
    """The named blocks of a model under `plan`, in plan order: weight and bias, of each layer if there are several.

    A trainer's model is one block: what stands in it, the trainer says.
    """
    if plan.model.kind is ModelKind.TRAINER:
        return (Tensor("parameters", (plan.model.parameters,)),)
    layers = parameters.layers(plan.model, plan.data)
    found: list[Tensor] = []
    for number, layer in enumerate(layers, start=1):
        prefix = "" if len(layers) == 1 else f"layer{number}."
        flat = plan.model.kind in {ModelKind.LINEAR, ModelKind.LOGISTIC}  # one output: a list of weights
        weights = (layer.inputs,) if flat else (layer.outputs, layer.inputs)
        found += [Tensor(f"{prefix}weight", weights), Tensor(f"{prefix}bias", (layer.outputs,))]
    return tuple(found)


def model_bytes(model: NDArray[np.float32]) -> bytes:
    """A model on the wire, in `model_hash` and at rest: float32 little-endian, plan order."""
    return model.astype("<f4", copy=False).tobytes()


def model_from_bytes(plan: Plan, data: bytes | memoryview) -> NDArray[np.float32]:
    """The inverse of `model_bytes`, a view of `data` where the machine reads it as it stands.

    PeerError `bad_model_file` for another length or values not finite.
    """
    check_length(plan, len(data))
    model = np.frombuffer(data, dtype="<f4").astype(np.float32, copy=False)
    _check_finite(model)
    return model


def check_length(plan: Plan, length: int) -> None:
    """Returns if a model under `plan` has so many bytes of parameters. PeerError `bad_model_file`."""
    expected = 4 * parameters.count(plan.model, plan.data)
    if length != expected:
        raise modelmanifest.bad(f"{length} bytes of parameters, the plan says {expected}")


def part_leaves(part: bytes | memoryview, first: int) -> list[bytes]:
    """`transcript.model_leaves` of a part of a model's bytes, of whole parameters. PeerError `bad_model_file` for
    values not finite.
    """
    _check_finite(np.frombuffer(part, dtype="<f4"))
    return transcript.model_leaves(part, first)


def _check_finite(model: NDArray[np.float32]) -> None:
    for start in range(0, len(model), CHECKED_AT_ONCE):
        if not np.isfinite(model[start : start + CHECKED_AT_ONCE]).all():
            raise modelmanifest.bad("it has values that are not finite")


def write_model(file: ModelFile) -> bytes:
    """The file's bytes: a function of its contents alone."""
    data = model_bytes(file.model)
    if len(file.model) != parameters.count(file.plan.model, file.plan.data) or not np.isfinite(file.model).all():
        raise ValueError("the model does not fit its plan or is not finite")
    return _head_bytes(file.head) + data


def _head_bytes(head: ModelHead) -> bytes:
    """What stands before the parameters: length, header, padding."""
    header: dict[str, jcs.Json] = {
        "__metadata__": {
            "format": FORMAT,
            "plan": canonical(head.plan).decode(),
            "standardisation": base64.b64encode(head.standardisation.to_bytes()).decode(),
            "lineage": head.lineage,
            "signatures": jcs.dumps([_blob_json(blob) for blob in head.signatures]).decode(),
            "trust_chain": head.trust_chain,
            "roster": head.roster,
        }
    }
    start = 0
    for tensor in tensors(head.plan):
        end = start + 4 * int(np.prod(tensor.shape))
        header[tensor.name] = {"dtype": "F32", "shape": list(tensor.shape), "data_offsets": [start, end]}
        start = end
    text = jcs.dumps(header)
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def head_size(start: bytes) -> int:
    """Where the parameters begin in a file that begins with `start`, 8 bytes at least. PeerError `bad_model_file`."""
    size = int.from_bytes(start[:8], "little")
    if len(start) < 8 or not 2 <= size <= MAX_HEADER:
        raise modelmanifest.bad("it does not begin with a header")
    return 8 + size


def read_head(data: bytes) -> ModelHead:
    """What stands before the parameters of a model file: `data` is the file up to `head_size`. No signature is checked
    yet (`verify_head`).

    Raises PeerError `bad_model_file` unless `data` is byte for byte what `write_model` makes of the contents;
    NotInThisReleaseError if the plan is one of a later release.
    """
    if len(data) != head_size(data):
        raise modelmanifest.bad("it does not begin with a header")
    try:
        header = jcs.loads(data[8:].rstrip(b" "))
        if not isinstance(header, dict) or not isinstance(metadata := header.get("__metadata__"), dict):
            raise TypeError("no metadata")
        plan = _plan(modelmanifest.text(metadata, "plan"))
        moments = modelmanifest.text(metadata, "standardisation")
        scaling = standardisation.from_bytes(base64.b64decode(moments, validate=True))
        if len(scaling.mean) != len(plan.data.float_features):
            raise ValueError("the standardisation does not fit the plan")
        head = ModelHead(
            plan=plan,
            standardisation=scaling,
            lineage=modelmanifest.text(metadata, "lineage"),
            signatures=_blobs(modelmanifest.text(metadata, "signatures")),
            trust_chain=modelmanifest.text(metadata, "trust_chain"),
            roster=modelmanifest.text(metadata, "roster"),
        )
        same = _head_bytes(head) == data
    except (ValueError, TypeError, KeyError, binascii.Error):
        raise modelmanifest.bad("its header cannot be read") from None
    if not same:
        raise modelmanifest.bad("its header is not the one that Fedveil writes for these contents")
    return head


def read_model(data: bytes) -> ModelFile:
    """The contents of a model file; no signature is checked yet (`verify_model`).

    Raises PeerError `bad_model_file` unless `data` is byte for byte what `write_model` makes of the contents;
    NotInThisReleaseError if its plan is one of a later release.
    """
    start = head_size(data)
    head = read_head(data[:start])
    return whole(head, model_from_bytes(head.plan, memoryview(data)[start:]))


def whole(head: ModelHead, model: NDArray[np.float32]) -> ModelFile:
    """The file with this head and these parameters."""
    return ModelFile(
        plan=head.plan,
        model=model,
        standardisation=head.standardisation,
        lineage=head.lineage,
        signatures=head.signatures,
        trust_chain=head.trust_chain,
        roster=head.roster,
    )


def manifest_for(
    file: ModelFile, federation_id: FederationId, run_id: RunId, round: int, roster_version: int, t3: bytes
) -> ModelManifest:
    """The manifest that describes `file`: what the coordinator signs."""
    return ModelManifest(
        federation_id=federation_id,
        run_id=run_id,
        round=round,
        roster_version=roster_version,
        plan_hash=plan_hash(canonical(file.plan)),
        standardisation_hash=file.standardisation.hash,
        model_hash=hash_of(file),
        layout=tensors(file.plan),
        transcript=t3,
    )


def hash_of(file: ModelFile) -> bytes:
    """The hash of a file's parameters, 32 bytes."""
    return transcript.model_hash(np.ascontiguousarray(file.model, dtype="<f4").data)


def verify_model(file: ModelFile, coordinator_key: bytes) -> ModelManifest:
    """The manifest signed by the holder of `coordinator_key` (32 bytes, Ed25519), once it describes exactly this file.

    Raises as `verify_head`.
    """
    return verify_head(file.head, coordinator_key, lambda: hash_of(file))


def verify_head(head: ModelHead, coordinator_key: bytes, model_hash: Callable[[], bytes]) -> ModelManifest:
    """The same of a file whose parameters have the hash that `model_hash` gives, once it is asked.

    Raises PeerError: `bad_signature` or `wrong_type` for the signature, `model_mismatch` if a hash is not that of the
    contents, `bad_model_file` if there is no signature.
    """
    if not head.signatures:
        raise modelmanifest.bad("it carries no signature")
    signing.verify(head.signatures[0], coordinator_key, BlobType.MODEL)
    manifest = parse_manifest(head.signatures[0].body)
    actual = {
        "model_hash": model_hash(),
        "layout": tensors(head.plan),
        "plan_hash": plan_hash(canonical(head.plan)),
        "standardisation_hash": head.standardisation.hash,
    }
    for field, found in actual.items():
        if found != getattr(manifest, field):
            raise PeerError(
                "model_mismatch",
                f"the signed {field} is not that of this file",
                peer=head.signatures[0].signer_id,
                not_done="the model was not accepted",
                next_step="fetch the file again from the coordinator; if it stays so, tell the operator",
            )
    return manifest


def lineage_text(manifest: ModelManifest, steps: int) -> str:
    """The `lineage` of a model file: from which run and round it is, after how many model steps."""
    return jcs.dumps({"run_id": manifest.run_id, "round": manifest.round, "steps": steps}).decode()


def check_lineage(file: ModelHead, manifest: ModelManifest) -> int:
    """The model steps that a verified file names, if its `lineage`, which no signature covers, says what the manifest
    says and steps that can be: each round is one, but for the standardise sum where the run made its own.

    PeerError `lineage_mismatch`.
    """
    earlier = 1 if layout.needs_standardise(file.plan) else 0
    for steps in range(manifest.round, manifest.round - earlier - 1, -1):
        if steps >= 1 and file.lineage == lineage_text(manifest, steps):
            return steps
    raise PeerError(
        "lineage_mismatch",
        f"the file says that it comes from another run, round or step than the signed one: round {manifest.round} of "
        f"{manifest.run_id}",
        not_done="the model was not accepted",
        next_step="fetch the file again from where it was published",
    )


def _plan(text: str) -> Plan:
    try:
        return parse_canonical(text.encode())
    except PeerError:
        raise modelmanifest.bad("its plan is not in canonical form") from None


def _blob_json(blob: SignedBlob) -> jcs.Json:
    return {
        "signer_id": blob.signer_id,
        "type": blob.type.value,
        "body": base64.b64encode(blob.body).decode(),
        "sig": base64.b64encode(blob.sig).decode(),
    }


def _blobs(text: str) -> tuple[SignedBlob, ...]:
    items = jcs.loads(text.encode())
    if not isinstance(items, list):
        raise TypeError("a list of signatures was expected")
    blobs: list[SignedBlob] = []
    for item in items:
        if not isinstance(item, dict):
            raise TypeError("a signature is an object")
        blobs.append(
            SignedBlob(
                signer_id=OrgId(modelmanifest.name(item, "signer_id")),
                type=BlobType(modelmanifest.text(item, "type")),
                body=base64.b64decode(modelmanifest.text(item, "body"), validate=True),
                sig=base64.b64decode(modelmanifest.text(item, "sig"), validate=True),
            )
        )
    return tuple(blobs)
