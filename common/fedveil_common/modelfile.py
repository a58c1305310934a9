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
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fedveil_common import jcs, layout, standardisation, transcript
from fedveil_common.crypto import signing
from fedveil_common.errors import PeerError
from fedveil_common.ids import FederationId, OrgId, RunId, is_name
from fedveil_common.messages import BlobType, SignedBlob
from fedveil_common.plan import ModelKind, Plan, canonical, parameters, parse_canonical, plan_hash
from fedveil_common.standardisation import Standardisation

FORMAT = "fedveil/1"
MAX_HEADER = 16 * 1024 * 1024
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
    return model.astype("<f4").tobytes()


def model_from_bytes(plan: Plan, data: bytes) -> NDArray[np.float32]:
    """The inverse of `model_bytes`; raises PeerError `bad_model_file` for another length or values not finite."""
    expected = 4 * parameters.count(plan.model, plan.data)
    if len(data) != expected:
        raise _bad(f"{len(data)} bytes of parameters, the plan says {expected}")
    model = np.frombuffer(data, dtype="<f4").astype(np.float32)
    if not np.isfinite(model).all():
        raise _bad("it has values that are not finite")
    return model


def parse_manifest(body: bytes) -> ModelManifest:
    """The manifest in a signed body. Raises PeerError `bad_model_file` unless `body` is its canonical form."""
    try:
        value = jcs.loads(body)
        if not isinstance(value, dict):
            raise TypeError("an object was expected")
        manifest = ModelManifest(
            federation_id=FederationId(_name(value, "federation_id")),
            run_id=RunId(_name(value, "run_id")),
            round=_count(value, "round"),
            roster_version=_count(value, "roster_version"),
            plan_hash=_hash(value, "plan_hash"),
            standardisation_hash=_hash(value, "standardisation_hash"),
            model_hash=_hash(value, "model_hash"),
            layout=_layout(value["layout"]),
            transcript=_hash(value, "transcript"),
        )
    except (ValueError, TypeError, KeyError):
        raise _bad("its signed manifest cannot be read") from None
    if manifest.to_bytes() != body:
        raise _bad("its signed manifest is not in canonical form")
    return manifest


def write_model(file: ModelFile) -> bytes:
    """The file's bytes: a function of its contents alone."""
    data = model_bytes(file.model)
    if len(file.model) != parameters.count(file.plan.model, file.plan.data) or not np.isfinite(file.model).all():
        raise ValueError("the model does not fit its plan or is not finite")
    header: dict[str, jcs.Json] = {
        "__metadata__": {
            "format": FORMAT,
            "plan": canonical(file.plan).decode(),
            "standardisation": base64.b64encode(file.standardisation.to_bytes()).decode(),
            "lineage": file.lineage,
            "signatures": jcs.dumps([_blob_json(blob) for blob in file.signatures]).decode(),
            "trust_chain": file.trust_chain,
            "roster": file.roster,
        }
    }
    start = 0
    for tensor in tensors(file.plan):
        end = start + 4 * int(np.prod(tensor.shape))
        header[tensor.name] = {"dtype": "F32", "shape": list(tensor.shape), "data_offsets": [start, end]}
        start = end
    text = jcs.dumps(header)
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text + data


def read_model(data: bytes) -> ModelFile:
    """The contents of a model file; no signature is checked yet (`verify_model`).

    Raises PeerError `bad_model_file` unless `data` is byte for byte what `write_model` makes of the contents;
    NotInThisReleaseError if its plan is one of a later release.
    """
    size = int.from_bytes(data[:8], "little")
    if len(data) < 8 or not 2 <= size <= min(MAX_HEADER, len(data) - 8):
        raise _bad("it does not begin with a header")
    try:
        header = jcs.loads(data[8 : 8 + size].rstrip(b" "))
        if not isinstance(header, dict) or not isinstance(metadata := header.get("__metadata__"), dict):
            raise TypeError("no metadata")
        plan = _plan(_text(metadata, "plan"))
        scaling = standardisation.from_bytes(base64.b64decode(_text(metadata, "standardisation"), validate=True))
        if len(scaling.mean) != len(plan.data.float_features):
            raise ValueError("the standardisation does not fit the plan")
        file = ModelFile(
            plan=plan,
            model=model_from_bytes(plan, data[8 + size :]),
            standardisation=scaling,
            lineage=_text(metadata, "lineage"),
            signatures=_blobs(_text(metadata, "signatures")),
            trust_chain=_text(metadata, "trust_chain"),
            roster=_text(metadata, "roster"),
        )
        same = write_model(file) == data
    except (ValueError, TypeError, KeyError, binascii.Error):
        raise _bad("its header cannot be read") from None
    if not same:
        raise _bad("its header is not the one that Fedveil writes for these contents")
    return file


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
        model_hash=transcript.model_hash(model_bytes(file.model)),
        layout=tensors(file.plan),
        transcript=t3,
    )


def verify_model(file: ModelFile, coordinator_key: bytes) -> ModelManifest:
    """The manifest signed by the holder of `coordinator_key` (32 bytes, Ed25519), once it describes exactly this file.

    Raises PeerError: `bad_signature` or `wrong_type` for the signature, `model_mismatch` if a hash is not that of the
    contents, `bad_model_file` if there is no signature.
    """
    if not file.signatures:
        raise _bad("it carries no signature")
    signing.verify(file.signatures[0], coordinator_key, BlobType.MODEL)
    manifest = parse_manifest(file.signatures[0].body)
    actual = manifest_for(
        file, manifest.federation_id, manifest.run_id, manifest.round, manifest.roster_version, manifest.transcript
    )
    for field in ("model_hash", "layout", "plan_hash", "standardisation_hash"):
        if getattr(actual, field) != getattr(manifest, field):
            raise PeerError(
                "model_mismatch",
                f"the signed {field} is not that of this file",
                peer=file.signatures[0].signer_id,
                not_done="the model was not accepted",
                next_step="fetch the file again from the coordinator; if it stays so, tell the operator",
            )
    return manifest


def lineage_text(manifest: ModelManifest, steps: int) -> str:
    """The `lineage` of a model file: from which run and round it is, after how many model steps."""
    return jcs.dumps({"run_id": manifest.run_id, "round": manifest.round, "steps": steps}).decode()


def check_lineage(file: ModelFile, manifest: ModelManifest) -> int:
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
        raise _bad("its plan is not in canonical form") from None


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
                signer_id=OrgId(_name(item, "signer_id")),
                type=BlobType(_text(item, "type")),
                body=base64.b64decode(_text(item, "body"), validate=True),
                sig=base64.b64decode(_text(item, "sig"), validate=True),
            )
        )
    return tuple(blobs)


def _layout(value: jcs.Json) -> tuple[Tensor, ...]:
    if not isinstance(value, list):
        raise TypeError("a list was expected")
    found: list[Tensor] = []
    for item in value:
        if not isinstance(item, dict) or not isinstance(shape := item["shape"], list):
            raise TypeError("a tensor is {name, shape}")
        found.append(Tensor(_text(item, "name"), tuple(size for size in shape if isinstance(size, int))))
    return tuple(found)


def _text(members: Mapping[str, jcs.Json], key: str) -> str:
    value = members[key]
    if not isinstance(value, str):
        raise TypeError(f"{key} is text")
    return value


def _name(members: Mapping[str, jcs.Json], key: str) -> str:
    value = _text(members, key)
    if not is_name(value):
        raise ValueError(f"{key} is an id")
    return value


def _count(members: Mapping[str, jcs.Json], key: str) -> int:
    value = members[key]
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= jcs.MAX_INTEGER:
        raise ValueError(f"{key} is a whole number")
    return value


def _hash(members: Mapping[str, jcs.Json], key: str) -> bytes:
    value = bytes.fromhex(_text(members, key))
    if len(value) != HASH_BYTES:
        raise ValueError(f"{key} is 32 bytes")
    return value


def _bad(why: str) -> PeerError:
    return PeerError(
        "bad_model_file",
        f"this is not a Fedveil model file: {why}",
        not_done="the model was not loaded",
        next_step="fetch the file again from where it was published",
    )
