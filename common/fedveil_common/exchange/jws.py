"""A signed manifest as a JWS (RFC 7515), for programs that read JOSE and not our model files.

Promise: the payload is the manifest that the coordinator signed into the model file, byte for byte; one algorithm,
Ed25519 (RFC 8037 under the name of RFC 9864), one type, and a `kid` that is the thumbprint of the coordinator's key.
A JWS signing input begins with "ey", a message signed elsewhere under the same key with a length below 2^24: neither is
ever the other (`crypto.labels`).
"""

from fedveil_common.crypto import signing
from fedveil_common.errors import PeerError
from fedveil_common.exchange import formats, jose
from fedveil_common.secret import PrivateKey

ALGORITHM, TYPE = "Ed25519", "fedveil-manifest"
_SIGNATURE = 64


def key_of(public: bytes) -> jose.Jwk:
    """The coordinator's key (32 bytes) as other programs take it."""
    return jose.okp("Ed25519", public)


def sign(manifest: bytes, key: PrivateKey) -> bytes:
    """`manifest` (RFC 8785 JSON) under the coordinator's protocol key. ConfigError `extra_missing`."""
    jose.canonical(manifest)
    library = formats.library("joserfc.jws", jose.WHAT)
    keys = formats.library("joserfc.jwk", jose.WHAT)
    public = key_of(signing.public_key(key))
    private = keys.OKPKey.import_key({**public, "d": jose.encode(key.expose())})
    header = {"alg": ALGORITHM, "kid": jose.thumbprint(public), "typ": TYPE}
    token: str = library.serialize_compact(header, manifest, private, algorithms=[ALGORITHM])
    return token.encode("ascii")


def verify(token: bytes, public: bytes) -> bytes:
    """The manifest in a token that the holder of `public` signed: 32 bytes, a key that a signed roster names.

    PeerError `jose_malformed`, `jose_refused`, `bad_signature`; ConfigError `extra_missing`.
    """
    library = formats.library("joserfc.jws", jose.WHAT)
    keys = formats.library("joserfc.jwk", jose.WHAT)
    errors = formats.library("joserfc.errors", jose.WHAT)
    head, body, sig = jose.parts(token, 3)
    key = key_of(public)
    jose.header(head, {ALGORITHM: frozenset()}, {"typ": TYPE, "kid": jose.thumbprint(key)})
    manifest = jose.decode(body, "its payload")
    if len(jose.decode(sig, "its signature")) != _SIGNATURE:
        raise jose.malformed(f"its signature has not {_SIGNATURE} bytes")
    try:
        read = library.deserialize_compact(token, keys.OKPKey.import_key(dict(key)), algorithms=[ALGORITHM])
    except (errors.JoseError, ValueError):
        raise PeerError(
            "bad_signature",
            "the token's signature does not verify under the coordinator's key",
            not_done="nothing was accepted",
        ) from None
    if read.payload != manifest:
        raise jose.malformed("its payload was read in two ways")
    jose.canonical(manifest)
    return manifest
