"""`model export --to FORMAT`: a model for other programs, from this home's run or from a model file.

Promise: nothing is written of a model that does not verify from the federation's fingerprint down, or that was
withdrawn; `safetensors` is the signed file itself, byte for byte, with the status list beside it, and every other
format says that it is not what was signed.
"""

import pathlib
from dataclasses import replace
from typing import assert_never

from fedveil_common.exchange import arrays, formats, onnx_graph
from fedveil_common.exchange.format_names import Format
from fedveil_common.modelfile import ModelFile, hash_of, read_model
from fedveil_common.plan import check_release

from fedveil_cli import model_files, model_status
from fedveil_cli.files import MAX_MODEL, read_file, write_file
from fedveil_cli.model_files import Asked
from fedveil_cli.model_status import Nearby
from fedveil_cli.output import Output


def export(
    data: bytes, near: Nearby, wanted: Format, out: pathlib.Path, expected: bytes, output: Output, asked: Asked
) -> None:
    """Writes the model file `data` as `wanted` to `out`; beside a model file the list that counted.

    `expected`: the federation's fingerprint. Raises as `model verify`; ConfigError `format_cannot_say`,
    `extra_missing`; StorageError `file_unwritable`.
    """
    file = read_model(data)
    check_release(file.plan)
    whole = wanted is Format.SAFETENSORS
    origin, standing = model_files.usable(
        file.head, lambda: hash_of(file), replace(near, out=out if whole else None), expected, asked
    )
    manifest = origin.manifest
    made = written(file, data, wanted)
    write_file(out, "the exported model", made)
    listed = model_status.keep_beside(out, standing) if whole else None
    value = {
        "run_id": manifest.run_id,
        "round": manifest.round,
        "file": str(out),
        "format": wanted.value,
        "size_bytes": len(made),
        "model_hash": manifest.model_hash.hex(),
        "status": model_status.value(standing),
        "status_file": str(listed) if listed else None,
    }
    lines = [f"{out}: model of run {manifest.run_id} as {wanted}, {len(made)} bytes", model_status.line(standing)]
    output.result(value, [*lines, *([f"{listed}: the status list"] if listed else [])])
    model_status.warn(standing, output)
    if wanted is not Format.SAFETENSORS:
        output.note("no signature covers this file: keep the model file, which `fedveil model verify` takes")


def read(path: pathlib.Path) -> bytes:
    """A model file that a person named."""
    return read_file(path, "the model", MAX_MODEL)


def written(file: ModelFile, data: bytes, wanted: Format) -> bytes:
    """A verified model, whose file is `data`, as `wanted`. ConfigError `format_cannot_say`, `extra_missing`."""
    formats.check_says(file.plan, wanted)
    stamp = formats.stamp(file, data)
    match wanted:
        case Format.SAFETENSORS:
            return data
        case Format.ONNX:
            return onnx_graph.to_onnx(file, stamp)
        case Format.SKLEARN:
            return arrays.to_sklearn(file, stamp)
        case Format.TORCH:
            return arrays.to_torch(file, stamp)
        case Format.CSV:
            return arrays.to_csv(file)
        case _:
            assert_never(wanted)
