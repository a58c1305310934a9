"""`model jws` and `model jwe`: a signed manifest, and the key of a sealed model, for programs that speak JOSE.

Promise: no token is an argument or is printed; what a token opens is verified as by `model open`, and a manifest is
signed or accepted for a model that was not withdrawn.
"""

import functools
import hashlib
import pathlib
from typing import BinaryIO

from fedveil_common.crypto import signing
from fedveil_common.errors import ConfigError, PeerError
from fedveil_common.exchange import jose, jwe, jws, sealed_model
from fedveil_common.exchange.jwe import SealedKey
from fedveil_common.sealing import files, header
from fedveil_common.sealing.header import Header
from fedveil_common.secret import Seed

from fedveil_cli import model_files, model_opening, model_reading, model_status
from fedveil_cli.companions import check_places, companion
from fedveil_cli.files import check_not_read, read_file, write_file
from fedveil_cli.model_files import Asked
from fedveil_cli.model_status import Nearby
from fedveil_cli.output import Output
from fedveil_cli.sealing_commands import check_out, private_key, public_keys, reading, unwrapping


def jws_sign(model: pathlib.Path, out: pathlib.Path, output: Output, asked: Asked) -> None:
    """`model jws sign`, in the operator's home.

    ConfigError `not_initialised`, `not_the_coordinators_key`, `extra_missing`; as `model verify`.
    """
    from fedveil_coordinator import founding

    check_not_read(out, model, companion(model), asked.status)
    federation = founding.load_federation(asked.home)
    seen = model_reading.look_through(model)
    origin, standing = model_files.usable(
        seen.head, lambda: seen.model_hash, Nearby(model), federation.fingerprint, asked
    )
    manifest, roster = origin.manifest, origin.roster
    key = federation.protocol_key()
    if signing.public_key(key) != roster.coordinator_key:
        raise ConfigError(
            "not_the_coordinators_key",
            f"the roster of version {roster.version} that the model carries names another coordinator's key",
            not_done="no token was made",
            next_step="only the coordinator that signed the model can sign its manifest again",
        )
    token = jws.sign(seen.head.signatures[0].body, key)
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
    seen = model_reading.look_through(model)
    origin, standing = model_files.usable(seen.head, lambda: seen.model_hash, Nearby(model), expected, asked)
    manifest, roster = origin.manifest, origin.roster
    body = jws.verify(_token(token), roster.coordinator_key)
    if body != seen.head.signatures[0].body:
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
    check_not_read(out, sealed, recipient, key, passphrase_file)
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
    check_places(out, sealed, token, key, passphrase_file)
    check_not_read(out, asked.status)
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
        unwrap, near = functools.partial(_by_token, said), Nearby(sealed, out=out)
        model_opening.open_into(source, unwrap, near, out, expected, output, asked)


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
