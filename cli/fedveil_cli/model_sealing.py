"""`model seal|open|rewrap`, `model jws` and `model jwe`: a model on its way to somebody else's machine.

Promise: what is opened gets a name only after every signature from the federation's fingerprint down to the parameters
was checked, after it was found to be what the sealed file said of itself, and unless it was withdrawn; no token is an
argument or is printed. The status list travels in clear beside the sealed file: it is signed, and no secret.
Sealing and opening need the memory of a few chunks: a sealed model is read twice, once to verify it and once to write.
"""

import functools
import hashlib
import os
import pathlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import BinaryIO

from fedveil_common.crypto import signing
from fedveil_common.durable import TemporaryFile
from fedveil_common.errors import ConfigError, PeerError
from fedveil_common.exchange import jose, jwe, jws, model_stream, sealed_model
from fedveil_common.exchange.jwe import SealedKey
from fedveil_common.modelfile import ModelManifest
from fedveil_common.plan import Plan, check_release
from fedveil_common.registry import status
from fedveil_common.registry.identity import ModelRef
from fedveil_common.sealing import files, header
from fedveil_common.sealing.header import Header
from fedveil_common.secret import Seed

from fedveil_cli import model_files, model_status, sealing_commands
from fedveil_cli.files import MAX_MODEL, read_file, write_file
from fedveil_cli.model_files import Asked
from fedveil_cli.model_status import Nearby, Standing
from fedveil_cli.output import Output
from fedveil_cli.sealing_commands import check_out, private_key, public_keys, reading, real_path, unwrapping, wrapping
from fedveil_cli.world import real_world

THREADS = 2
"""That hash at a time: parts of a model do not depend on each other."""


def seal(
    file: pathlib.Path,
    out: pathlib.Path,
    to: Sequence[pathlib.Path],
    passphrase_file: pathlib.Path | None,
    output: Output,
) -> None:
    """`model seal`, with a copy of the status list that stands beside the model.

    PeerError `bad_model_file`, `bad_document`, `wrong_federation`; PolicyRefusal `model_withdrawn` by that list, whose
    signature is not checked either: who changes it can only keep this copy from being made. Those of `data seal`.
    """
    with reading(file) as source:
        check_out(source, out)
        length = os.fstat(source.fileno()).st_size
        manifest = sealed_model.manifest_of(source, length)
        listed = model_status.carried(file)
        if listed is not None:
            status.check_federation(listed.contents, manifest.federation_id)
            status.check_in_use(listed.contents, ModelRef.of(manifest))
        source.seek(0)
        subject = sealed_model.subject_of(manifest)
        wrap = wrapping(to, passphrase_file, subject, output)
        made = files.seal(source, length, real_path(out), subject, wrap, real_world().entropy)
    beside = model_status.carry(listed, out)
    what = f"sealed {length} bytes of {file.name}; its signatures were not checked"
    sealing_commands.say(made, out, what, output, {"status_file": str(beside) if beside else None})


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
        check_out(source, out)
        near = Nearby(file, out=out)
        found = _revealed(source, unwrapping(key, passphrase_file, output), near, expected, asked)
        _keep(found, out, output)


def rewrap(
    file: pathlib.Path,
    out: pathlib.Path,
    to: Sequence[pathlib.Path],
    key: pathlib.Path | None,
    reencrypt: bool,
    passphrase_file: pathlib.Path | None,
    output: Output,
) -> None:
    """`model rewrap`: as `data rewrap`, for sealed models; the status list goes along. Which model of a run is in the
    file, only who opens it knows: no stage is asked for here.
    """
    listed = model_status.carried(file)
    sealing_commands.rewrap(file, out, to, key, reencrypt, passphrase_file, output, sealed_model.KIND)
    model_status.carry(listed, out)


# --- JOSE -------------------------------------------------------------------------------------------------------------


def jws_sign(model: pathlib.Path, out: pathlib.Path, output: Output, asked: Asked) -> None:
    """`model jws sign`, in the operator's home.

    ConfigError `not_initialised`, `not_the_coordinators_key`, `extra_missing`; as `model verify`.
    """
    from fedveil_coordinator import founding

    federation = founding.load_federation(asked.home)
    file = model_files.load(model)
    origin, standing = model_files.usable(file, Nearby(model), federation.fingerprint, asked)
    manifest, roster = origin.manifest, origin.roster
    key = federation.protocol_key()
    if signing.public_key(key) != roster.coordinator_key:
        raise ConfigError(
            "not_the_coordinators_key",
            f"the roster of version {roster.version} that the model carries names another coordinator's key",
            not_done="no token was made",
            next_step="only the coordinator that signed the model can sign its manifest again",
        )
    token = jws.sign(file.signatures[0].body, key)
    write_file(out, "the token", token)
    jwk = jws.key_of(roster.coordinator_key)
    value = {
        "token": str(out),
        "kid": jose.thumbprint(jwk),
        "jwk": jwk,
        "run_id": manifest.run_id,
        "status": model_status.value(standing),
    }
    lines = [f"token {out}: the signed manifest of run {manifest.run_id}", *(f"{name} {jwk[name]}" for name in jwk)]
    output.result(value, [*lines, f"kid {jose.thumbprint(jwk)}", model_status.line(standing)])
    model_status.warn(standing, output)


def jws_verify(token: pathlib.Path, model: pathlib.Path, expected: bytes, output: Output, asked: Asked) -> None:
    """`model jws verify`: a token against the model file whose manifest it must be.

    PeerError `jose_*`, `bad_signature`; as `model verify`.
    """
    file = model_files.load(model)
    origin, standing = model_files.usable(file, Nearby(model), expected, asked)
    manifest, roster = origin.manifest, origin.roster
    body = jws.verify(_token(token), roster.coordinator_key)
    if body != file.signatures[0].body:
        raise PeerError(
            "jose_mismatch",
            "the token's manifest is signed by the coordinator, and is that of another model",
            not_done="nothing was accepted",
            next_step="take the token that was made for this file",
        )
    value = {
        "verified": True,
        "federation_id": manifest.federation_id,
        "run_id": manifest.run_id,
        "model_hash": manifest.model_hash.hex(),
        "jwk": jws.key_of(roster.coordinator_key),
        "status": model_status.value(standing),
    }
    lines = [
        f"verified: the coordinator of {manifest.federation_id} signed it, and the model file is that of its manifest",
        f"run          {manifest.run_id}, round {manifest.round}",
        f"model hash   {manifest.model_hash.hex()}",
        model_status.line(standing),
    ]
    output.result(value, lines)
    model_status.warn(standing, output)


def jwe_wrap(
    sealed: pathlib.Path,
    out: pathlib.Path,
    recipient: pathlib.Path,
    key: pathlib.Path | None,
    passphrase_file: pathlib.Path | None,
    output: Output,
) -> None:
    """`model jwe wrap`: the data key of a sealed model, and the file's digest, for one recipient more."""
    (public,) = public_keys([recipient])
    unwrap = unwrapping(key, passphrase_file, output)
    with reading(sealed) as source:
        digest = _digest(source)
        found, _ = header.parse(source)
        files.expect(sealed_model.KIND, None, None)(found.subject)
        token = jwe.wrap(SealedKey(unwrap(found), digest, found.subject), public)
    write_file(out, "the token", token)
    kid = jose.thumbprint(jose.public_jwk(public))
    value = {"token": str(out), "kid": kid, "file_sha256": digest.hex(), "object": found.subject.object_id}
    output.result(value, [f"token {out}: opens {sealed} for {kid}", f"file SHA-256 {digest.hex()}"])
    output.note("who has the token's key can open this file for ever: `model rewrap --reencrypt` makes another")


def jwe_open(
    token: pathlib.Path,
    sealed: pathlib.Path,
    out: pathlib.Path,
    key: pathlib.Path,
    expected: bytes,
    passphrase_file: pathlib.Path | None,
    output: Output,
    asked: Asked,
) -> None:
    """`model jwe open`: a sealed model by the key in a token. PeerError `jose_*`; as `model open`."""
    said = jwe.open_token(_token(token), private_key(key, passphrase_file, output))
    with reading(sealed) as source:
        check_out(source, out)
        if _digest(source) != said.digest:
            raise PeerError(
                "jose_mismatch",
                "the token is for another sealed file: the SHA-256 is not the one that it names",
                not_done="nothing was opened",
                next_step="take the file that it was made for; rewrapping makes another file",
            )
        found = _revealed(source, functools.partial(_by_token, said), Nearby(sealed, out=out), expected, asked)
        _keep(found, out, output)


def _by_token(said: SealedKey, found: Header) -> Seed:
    """The data key, once the file's header has passed its checks under it."""
    if found.subject != said.subject:
        raise PeerError(
            "jose_mismatch",
            "the token and the sealed file say different things of what the file holds",
            not_done="nothing was opened",
        )
    found.check(said.key)
    return said.key


def _digest(source: BinaryIO) -> bytes:
    """SHA-256 of all of a file, which is then at its start again."""
    digest = hashlib.sha256()
    while part := source.read(header.CHUNK):
        digest.update(part)
    source.seek(0)
    return digest.digest()


def _token(path: pathlib.Path) -> bytes:
    """A token as it stands in a file; one line end behind it is the editor's."""
    data = read_file(path, "the token", jose.MOST_TOKEN + 2)
    return data.removesuffix(b"\n").removesuffix(b"\r")


# --- what opening ends with -------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Revealed:
    """A verified model file in a sealed one, to be read again, and what the newest list says of it."""

    chunks: files.ReadTwice
    size_bytes: int
    plan: Plan
    manifest: ModelManifest
    standing: Standing | None


def _revealed(source: BinaryIO, unwrap: files.Unwrap, near: Nearby, expected: bytes, asked: Asked) -> _Revealed:
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
    return _Revealed(chunks, opened.header.length, head.plan, origin.manifest, standing)


def _keep(found: _Revealed, out: pathlib.Path, output: Output) -> None:
    manifest, standing, place = found.manifest, found.standing, real_path(out)
    written = TemporaryFile(place.parent, unnamed=True)
    try:
        for index, chunk in enumerate(found.chunks.again()):
            written.write(chunk, index * header.CHUNK)
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
