"""The data key of one sealed file, and that file's digest, as a JWE (RFC 7516) for one recipient.

Promise: the token never carries the model, and opens no other file than the one whose SHA-256 it names; the file's own
commitment and MAC are checked under the key as ever. Key management is ECDH-ES+A256KW over X25519 or RSA-OAEP-256 with
3072 bits and more, content is under A256GCM, and nothing else is read. Whoever has the recipient's public key can make
one: it proves no sender, and the manifest is verified after the file was opened.
"""

from dataclasses import dataclass

from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey, RSAPublicKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from fedveil_common import jcs
from fedveil_common.errors import PeerError, SealedError
from fedveil_common.exchange import formats, jose
from fedveil_common.ids import is_name
from fedveil_common.sealing.header import Subject
from fedveil_common.sealing.recipients import PrivateRecipient, PublicRecipient, check_public
from fedveil_common.secret import Seed

RSA, ECDH, CONTENT, TYPE = "RSA-OAEP-256", "ECDH-ES+A256KW", "A256GCM", "fedveil-sealed-key"
_NONCE, _TAG, _KEY, _WRAPPED = 12, 16, 32, 40
_MEMBERS = {"digest", "federation", "key", "kind", "object"}


@dataclass(frozen=True, slots=True)
class SealedKey:
    """What a token says: the data key, of which sealed file (SHA-256, 32 bytes), and what that file holds."""

    key: Seed
    digest: bytes
    subject: Subject


def wrap(sealed: SealedKey, recipient: PublicRecipient) -> bytes:
    """A token that `recipient` alone opens. ConfigError `recipient_key_weak`, `extra_missing`."""
    check_public(recipient)
    library = formats.library("joserfc.jwe", jose.WHAT)
    keys = formats.library("joserfc.jwk", jose.WHAT)
    jwk = jose.public_jwk(recipient)
    kind = keys.RSAKey if isinstance(recipient, RSAPublicKey) else keys.OKPKey
    algorithm = RSA if isinstance(recipient, RSAPublicKey) else ECDH
    payload = jcs.dumps(
        {
            "digest": sealed.digest.hex(),
            "federation": sealed.subject.federation_id,
            "key": jose.encode(sealed.key.expose()),
            "kind": sealed.subject.kind,
            "object": sealed.subject.object_id,
        }
    )
    header = {"alg": algorithm, "enc": CONTENT, "kid": jose.thumbprint(jwk), "typ": TYPE}
    token: str = library.encrypt_compact(header, payload, kind.import_key(dict(jwk)), algorithms=[algorithm, CONTENT])
    return token.encode("ascii")


def open_token(token: bytes, key: PrivateRecipient) -> SealedKey:
    """What a token for `key` says.

    PeerError `jose_malformed`, `jose_refused`, `jose_damaged`; SealedError `not_a_recipient`; ConfigError
    `recipient_key_weak`, `extra_missing`.
    """
    check_public(key.public_key())
    library = formats.library("joserfc.jwe", jose.WHAT)
    errors = formats.library("joserfc.errors", jose.WHAT)
    head, wrapped, nonce, text, tag = jose.parts(token, 5)
    algorithm = RSA if isinstance(key, RSAPrivateKey) else ECDH
    value = jose.header(head, {RSA: frozenset({"kid"}), ECDH: frozenset({"kid", "epk"})}, {"enc": CONTENT, "typ": TYPE})
    if value["kid"] != jose.thumbprint(jose.public_jwk(key.public_key())):
        raise SealedError(
            "not_a_recipient",
            "the token is for another key",
            not_done="nothing was opened",
            next_step="use the private key that it was made for",
        )
    if value["alg"] != algorithm:
        raise jose.refused(f"alg {value['alg']!r} does not go with this key: {algorithm} does")
    size = -(-key.key_size // 8) if isinstance(key, RSAPrivateKey) else _WRAPPED
    for part, what, length in ((wrapped, "key", size), (nonce, "nonce", _NONCE), (tag, "tag", _TAG)):
        if len(jose.decode(part, f"its {what}")) != length:
            raise jose.malformed(f"its {what} has not {length} bytes")
    jose.decode(text, "its ciphertext")
    if algorithm == ECDH:
        _check_ephemeral(value["epk"])
    try:
        payload = library.decrypt_compact(token, _private(key), algorithms=[algorithm, CONTENT]).plaintext
    except (errors.JoseError, ValueError):
        raise _damaged() from None
    return _parse(payload)


def _check_ephemeral(value: jcs.Json) -> None:
    if not isinstance(value, dict) or value.keys() != {"kty", "crv", "x"}:
        raise jose.malformed("its ephemeral key is not {kty, crv, x}")
    if (value["kty"], value["crv"]) != ("OKP", "X25519") or not isinstance(value["x"], str):
        raise jose.refused("its ephemeral key is not of X25519")
    if len(jose.decode(value["x"], "its ephemeral key")) != _KEY:
        raise jose.malformed(f"its ephemeral key has not {_KEY} bytes")


def _private(key: PrivateRecipient) -> object:
    keys = formats.library("joserfc.jwk", jose.WHAT)
    pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    kind = keys.RSAKey if isinstance(key, RSAPrivateKey) else keys.OKPKey
    return kind.import_key(pem)


def _parse(payload: bytes) -> SealedKey:
    value = jose.canonical(payload)
    texts = {name: one for name, one in value.items() if isinstance(one, str)}
    if texts.keys() != _MEMBERS or len(value) != len(_MEMBERS):
        raise jose.malformed(f"its payload has not the members {', '.join(sorted(_MEMBERS))}")
    if not all(is_name(texts[name]) for name in ("kind", "federation", "object")):
        raise jose.malformed("its payload names no sealed file")
    key = jose.decode(texts["key"], "its data key")
    try:
        digest = bytes.fromhex(texts["digest"])
    except ValueError:
        digest = b""
    if len(key) != _KEY or len(digest) != _KEY or digest.hex() != texts["digest"]:
        raise jose.malformed("its data key or digest has another length")
    return SealedKey(Seed(key), digest, Subject(texts["kind"], texts["federation"], texts["object"]))


def _damaged() -> PeerError:
    return PeerError(
        "jose_damaged",
        "the token does not open: it was changed, or made for another key",
        not_done="nothing was opened",
        next_step="take another copy of it",
    )
