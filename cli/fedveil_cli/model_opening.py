"""`model open`: a sealed model on the machine of the one it is for.

Promise: what is opened gets a name only after every signature from the federation's fingerprint down to the parameters
was checked, after it was found to be what the sealed file said of itself, and unless it was withdrawn; before that it
is in no folder, however this process ends. Memory: a few chunks. Where the file system has files without a name, one is
written while its content is hashed, and is given its name once that was verified. Elsewhere the sealed file is read
twice, once to verify it and once to write.
"""

import pathlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import BinaryIO

from fedveil_common.durable import LargeFile
from fedveil_common.errors import ConfigError
from fedveil_common.exchange import model_stream, sealed_model
from fedveil_common.plan import Plan, check_release
from fedveil_common.sealing import files

from fedveil_cli import model_files, model_status
from fedveil_cli.companions import check_places
from fedveil_cli.files import MAX_MODEL
from fedveil_cli.model_files import Asked, Origin
from fedveil_cli.model_reading import THREADS
from fedveil_cli.model_status import Nearby, Standing
from fedveil_cli.output import Output
from fedveil_cli.sealing_commands import check_out, reading, real_path, unwrapping
from fedveil_cli.world import real_world


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
    check_places(out, file, key, passphrase_file)
    with reading(file) as source:
        check_out(source, out, key, passphrase_file, asked.status)
        near = Nearby(file, out=out)
        open_into(source, unwrapping(key, passphrase_file, output), near, out, expected, output, asked)


def open_into(
    source: BinaryIO,
    unwrap: files.Unwrap,
    near: Nearby,
    out: pathlib.Path,
    expected: bytes,
    output: Output,
    asked: Asked,
) -> None:
    """Writes what is in a sealed file to `out`, if it may be used, and says what it is.

    Raises as `files.Opened`, `model verify`, `ReadTwice.again`; StorageError.
    """
    opened = files.Opened(source, unwrap, files.expect(sealed_model.KIND, None, None))
    if opened.header.length > MAX_MODEL:
        raise ConfigError(
            "file_too_large",
            f"the sealed model has {opened.header.length} bytes, at most {MAX_MODEL} are read",
            not_done="nothing was opened",
        )
    place = real_path(out)
    written = LargeFile(place.parent)
    try:
        if written.nameless:
            plan, origin, standing = _verified(opened, _through(opened.all(), written), near, expected, asked)
        else:
            twice = files.ReadTwice(opened, real_world().entropy)
            plan, origin, standing = _verified(opened, twice.first(), near, expected, asked)
            for chunk in twice.again():
                written.append(chunk)
        written.commit(place.name)
    finally:
        written.discard()
    _say(plan, origin, standing, opened.header.length, out, output)


def _through(chunks: Iterator[bytes], written: LargeFile) -> Iterator[bytes]:
    for chunk in chunks:
        written.append(chunk)
        yield chunk


def _verified(
    opened: files.Opened, chunks: Iterator[bytes], near: Nearby, expected: bytes, asked: Asked
) -> tuple[Plan, Origin, Standing | None]:
    """What the model file that `chunks` are is, and what is known of it, if it may be used."""
    with ThreadPoolExecutor(THREADS) as pool:
        head, model_hash = model_stream.read(chunks, pool)
    check_release(head.plan)
    origin = model_files.check_head(head, lambda: model_hash, expected)
    sealed_model.check_subject(opened.header.subject, origin.manifest)
    return head.plan, origin, asked.check(near, expected, origin)


def _say(
    plan: Plan, origin: Origin, standing: Standing | None, size_bytes: int, out: pathlib.Path, output: Output
) -> None:
    manifest, listed = origin.manifest, model_status.keep_beside(out, standing)
    value = {
        "file": str(out),
        "verified": True,
        "federation_id": manifest.federation_id,
        "run_id": manifest.run_id,
        "plan": plan.name,
        "model_hash": manifest.model_hash.hex(),
        "size_bytes": size_bytes,
        "status": model_status.value(standing),
        "status_file": str(listed) if listed else None,
    }
    lines = [
        f"{out}: opened and verified, {size_bytes} bytes",
        f"signed by the coordinator of {manifest.federation_id}: run {manifest.run_id}, plan {plan.name}",
        f"model hash   {manifest.model_hash.hex()}",
        model_status.line(standing),
    ]
    output.result(value, lines)
    model_status.warn(standing, output)
