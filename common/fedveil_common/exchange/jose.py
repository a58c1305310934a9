"""JOSE tokens in compact form, read strictly: what both kinds share.

Promise: a token has one meaning and no way to choose how it is checked. The algorithms are the reader's, a header has
exactly the members that are listed, and none of those that fetch a key (`jku`, `jwk`, `x5u`, `x5c`), compress (`zip`),
change the rules (`crit`, `b64`) or name another algorithm is read at all. Base64url is canonical: no padding, no
stray bits. Nothing of a token is believed before its signature or tag was verified. Source: RFC 7515, 7516, 7518, 7638,
8037, 8725, 9864.
"""

import base64
import hashlib
from collections.abc import Mapping

from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PublicKey

from fedveil_common import jcs
from fedveil_common.errors import PeerError

MOST_TOKEN = 192 * 1024
"""Bytes of a token; the library's own limits are below it."""

WHAT = "JOSE"
"""What the library `joserfc` is needed for."""

Jwk = dict[str, str]


def encode(data: bytes) -> str:
    """Base64url without padding."""
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode("ascii")


def decode(text: bytes | str, what: str) -> bytes:
    """The inverse of `encode`, of exactly what it gives. PeerError `jose_malformed`."""
    given = text.encode("utf-8", "replace") if isinstance(text, str) else text
    try:
        data = base64.b64decode(given + b"=" * (-len(given) % 4), b"-_", validate=True)
    except ValueError:
        raise malformed(f"{what} is not base64url") from None
    if encode(data).encode() != given:
        raise malformed(f"{what} is not in the one form of base64url")
    return data


def parts(token: bytes, count: int) -> tuple[bytes, ...]:
    """The `count` parts between the dots. PeerError `jose_malformed`."""
    if len(token) > MOST_TOKEN:
        raise malformed(f"it has more than {MOST_TOKEN} bytes")
    found = tuple(token.split(b"."))
    if len(found) != count:
        raise malformed(f"it has {len(found)} parts, and {count} belong there")
    return found


def header(part: bytes, algorithms: Mapping[str, frozenset[str]], fixed: Mapping[str, str]) -> Mapping[str, jcs.Json]:
    """A protected header: one of `algorithms` with its further members, each member of `fixed` with its one value, and
    nothing else.

    PeerError `jose_malformed`, or `jose_refused` naming the algorithm or member that is not permitted.
    """
    try:
        value = jcs.loads(decode(part, "its header"))
    except ValueError:
        raise malformed("its header is not JSON, or names a member twice") from None
    if not isinstance(value, dict):
        raise malformed("its header is no object")
    algorithm = value.get("alg")
    if not isinstance(algorithm, str) or algorithm not in algorithms:
        raise refused(f"alg {algorithm!r} is not permitted: {' or '.join(algorithms)} is")
    expected = {"alg"} | algorithms[algorithm] | fixed.keys()
    for name in sorted(value.keys() ^ expected):
        raise refused(f"the header member {name!r} is {'missing' if name in expected else 'not permitted'}")
    for name, only in fixed.items():
        if value[name] != only:
            raise refused(f"{name} {value[name]!r} is not permitted: {only} is")
    return value


def okp(curve: str, public: bytes) -> Jwk:
    """The JWK of a public key of 32 bytes; `curve`: Ed25519 or X25519 (RFC 8037)."""
    return {"kty": "OKP", "crv": curve, "x": encode(public)}


def public_jwk(key: RSAPublicKey | X25519PublicKey) -> Jwk:
    """The JWK of a recipient."""
    if isinstance(key, X25519PublicKey):
        return okp("X25519", key.public_bytes_raw())
    numbers = key.public_numbers()
    return {"kty": "RSA", "n": _unsigned(numbers.n), "e": _unsigned(numbers.e)}


def thumbprint(key: Jwk) -> str:
    """RFC 7638, SHA-256: how a token names a key."""
    return encode(hashlib.sha256(jcs.dumps(key)).digest())


def canonical(payload: bytes) -> Mapping[str, jcs.Json]:
    """The object in a payload, which must be its RFC 8785 form byte for byte. PeerError `jose_malformed`."""
    try:
        value = jcs.loads(payload)
        same = jcs.dumps(value) == payload
    except ValueError:
        raise malformed("its payload is not JSON") from None
    if not same or not isinstance(value, dict):
        raise malformed("its payload is not an object in canonical form")
    return value


def malformed(why: str) -> PeerError:
    """A token that cannot be read, ready to raise."""
    return PeerError("jose_malformed", f"this is no token that Fedveil reads: {why}", not_done="nothing was accepted")


def refused(why: str) -> PeerError:
    """A token that asks for something that is not permitted, ready to raise."""
    return PeerError(
        "jose_refused",
        f"the token is refused unread: {why}",
        not_done="nothing was accepted, and no key was used",
        next_step="ask its maker for one as docs/models.md describes",
    )


def _unsigned(number: int) -> str:
    return encode(number.to_bytes(-(-number.bit_length() // 8), "big"))
