"""`model open`: a sealed model on the machine of the one it is for.

Promise: what is opened gets a name only after every signature from the federation's fingerprint down to the parameters
was checked, after it was found to be what the sealed file said of itself, and unless it was withdrawn; nothing of it is
on a disk before. Memory: a few chunks. The sealed file is read twice, once to verify it and once to write.
"""

import pathlib
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import BinaryIO

from fedveil_common.durable import LargeFile
from fedveil_common.errors import ConfigError
from fedveil_common.exchange import model_stream, sealed_model
from fedveil_common.modelfile import ModelManifest
from fedveil_common.plan import Plan, check_release
from fedveil_common.sealing import files

from fedveil_cli import model_files, model_status
from fedveil_cli.files import MAX_MODEL
from fedveil_cli.model_files import Asked
from fedveil_cli.model_status import Nearby, Standing
from fedveil_cli.output import Output
from fedveil_cli.sealing_commands import check_out, reading, real_path, unwrapping
from fedveil_cli.world import real_world

THREADS = 2
"""That hash at a time: parts of a model do not depend on each other."""


def open_file(
    file: pathlib.Path,
    out: pathlib.Path,
    key: pathlib.Path | None,
    expected: bytes,
    passphrase_file: pathlib.Path | None,
    output: Output,
    asked: Asked,
) -> None:
    """`model open`. `expected`: the federation's fingerprint. Raises as `data open` and `model verify`."""
    with reading(file) as source:
        check_out(source, out, key, passphrase_file, asked.status)
        near = Nearby(file, out=out)
        found = reveal(source, unwrapping(key, passphrase_file, output), near, expected, asked)
        keep(found, out, output)


@dataclass(frozen=True, slots=True)
class Revealed:
    """A verified model file in a sealed one, to be read again, and what the newest list says of it."""

    chunks: files.ReadTwice
    size_bytes: int
    plan: Plan
    manifest: ModelManifest
    standing: Standing | None


def reveal(source: BinaryIO, unwrap: files.Unwrap, near: Nearby, expected: bytes, asked: Asked) -> Revealed:
    """What is in a sealed file, if it may be used; nothing of it is on a disk."""
    opened = files.Opened(source, unwrap, files.expect(sealed_model.KIND, None, None))
    if opened.header.length > MAX_MODEL:
        raise ConfigError(
            "file_too_large",
            f"the sealed model has {opened.header.length} bytes, at most {MAX_MODEL} are read",
            not_done="nothing was opened",
        )
    chunks = files.ReadTwice(opened, real_world().entropy)
    with ThreadPoolExecutor(THREADS) as pool:
        head, model_hash = model_stream.read(chunks.first(), pool)
    check_release(head.plan)
    origin = model_files.check_head(head, lambda: model_hash, expected)
    sealed_model.check_subject(opened.header.subject, origin.manifest)
    standing = asked.check(near, expected, origin)
    return Revealed(chunks, opened.header.length, head.plan, origin.manifest, standing)


def keep(found: Revealed, out: pathlib.Path, output: Output) -> None:
    """Writes what was revealed, while its sealed file is still open, and says what it is.

    Raises as `ReadTwice.again`; StorageError.
    """
    manifest, standing, place = found.manifest, found.standing, real_path(out)
    written = LargeFile(place.parent)
    try:
        for chunk in found.chunks.again():
            written.append(chunk)
        written.commit(place.name)
    finally:
        written.discard()
    listed = model_status.keep_beside(out, standing)
    value = {
        "file": str(out),
        "verified": True,
        "federation_id": manifest.federation_id,
        "run_id": manifest.run_id,
        "plan": found.plan.name,
        "model_hash": manifest.model_hash.hex(),
        "size_bytes": found.size_bytes,
        "status": model_status.value(standing),
        "status_file": str(listed) if listed else None,
    }
    lines = [
        f"{out}: opened and verified, {found.size_bytes} bytes",
        f"signed by the coordinator of {manifest.federation_id}: run {manifest.run_id}, plan {found.plan.name}",
        f"model hash   {manifest.model_hash.hex()}",
        model_status.line(standing),
    ]
    output.result(value, lines)
    model_status.warn(standing, output)
