"""What a sealed model file is called, read from the model file without reading its parameters.

Promise: a file of any size costs the memory of its header. Nothing is verified here: who opens a sealed model verifies
it, before it gets a name, and `check_subject` then holds the manifest against what the sealed file said of itself.
"""

import base64
from typing import BinaryIO

from fedveil_common import jcs
from fedveil_common.errors import PeerError
from fedveil_common.modelmanifest import MAX_HEADER, ModelManifest, Tensor, parse_manifest
from fedveil_common.sealing.header import Subject

KIND = "model"


def manifest_of(stream: BinaryIO, size: int) -> ModelManifest:
    """The manifest in the model file in `stream`, which has `size` bytes and is at its start.

    PeerError `bad_model_file`: it begins with no header of a signed model, or has another length than that says.
    """
    start = stream.read(8)
    length = int.from_bytes(start, "little")
    if len(start) < 8 or not 2 <= length <= MAX_HEADER:
        raise _bad("it does not begin with a header")
    manifest = _manifest(stream.read(length))
    parameters = sum(_parameters(tensor, size) for tensor in manifest.layout)
    if size != 8 + length + 4 * parameters:
        raise _bad(f"it has {size} bytes, which is not what its manifest says")
    return manifest


def check_subject(subject: Subject, manifest: ModelManifest) -> None:
    """Returns if a sealed file that called itself `subject` held the model of this verified manifest.

    PeerError `sealed_model_mismatch`.
    """
    if subject != subject_of(manifest):
        raise PeerError(
            "sealed_model_mismatch",
            f"the sealed file says {subject.federation_id} {subject.object_id}, and holds a model of run "
            f"{manifest.run_id} of {manifest.federation_id}",
            not_done="nothing was written",
            next_step="ask who sealed it",
        )


def _parameters(tensor: Tensor, size: int) -> int:
    """How many a block has, in a file of `size` bytes: nobody verified the shape, and its product may know no end."""
    count = 1
    for side in tensor.shape:
        count *= side
        if not 0 <= count <= size:
            raise _bad(f"it has {size} bytes, and its manifest names a block that does not fit")
    return count


def subject_of(manifest: ModelManifest) -> Subject:
    """What a sealed model is called: its federation and run."""
    return Subject(KIND, manifest.federation_id, manifest.run_id)


def _manifest(header: bytes) -> ModelManifest:
    try:
        value = jcs.loads(header.rstrip(b" "))
        signatures = value["__metadata__"]["signatures"]  # type: ignore[call-overload,index]  # TypeError is caught
        body = jcs.loads(signatures.encode())[0]["body"]  # type: ignore[call-overload,index,union-attr]
        return parse_manifest(base64.b64decode(body, validate=True))  # type: ignore[arg-type]
    except (ValueError, TypeError, KeyError, IndexError, AttributeError):
        raise _bad("its header is none of a signed model") from None


def _bad(why: str) -> PeerError:
    return PeerError(
        "bad_model_file",
        f"this is not a Fedveil model file: {why}",
        not_done="nothing was sealed",
        next_step="name a file from `fedveil model export`",
    )
