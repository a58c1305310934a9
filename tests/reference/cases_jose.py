"""Tokens, most of them hostile, for `jose.json`: what each is, what a strict reader makes of it, and why it refuses.

In the manner of Wycheproof: a case is a whole token, its flaw in its name, and `code` is the refusal; those with `out`
are accepted. Whoever made the hostile ones knows everything that is public, and sometimes a key of its own.
"""

import base64
import hashlib
import zlib
from collections.abc import Iterator
from itertools import pairwise

from tests.reference import curves
from tests.reference.jose import (
    Header,
    Rsa,
    b64,
    concat_kdf,
    hs256,
    jwe,
    jws,
    key_wrap,
    oaep,
    okp,
    pkcs1,
    text,
    thumbprint,
)

Case = dict[str, object]

SIGNER, STRANGER = hashlib.sha256(b"jose/signer").digest(), hashlib.sha256(b"jose/stranger").digest()
SIGNER_KEY = curves.ed25519_public(SIGNER)
MANIFEST = b'{"federation_id":"hospitals","model_hash":"00ff","round":3,"run_id":"run-1"}'
HEADER: Header = {"alg": "Ed25519", "kid": thumbprint(okp("Ed25519", SIGNER_KEY)), "typ": "fedveil-manifest"}

READER = hashlib.sha256(b"jose/reader").digest()
READER_JWK = okp("X25519", curves.x25519_public(READER))
RSA = Rsa((b"p", 182), (b"q", 665), 192)
SHORT_RSA = Rsa((b"small p", 142), (b"small q", 5), 128)
DATA_KEY = hashlib.sha256(b"jose/data key").digest()
CONTENT_KEY, NONCE = hashlib.sha256(b"jose/content").digest(), hashlib.sha256(b"jose/nonce").digest()[:12]
EPHEMERAL, SEED = hashlib.sha256(b"jose/ephemeral").digest(), hashlib.sha256(b"jose/seed").digest()
PAYLOAD = (
    f'{{"digest":"{hashlib.sha256(b"jose/file").hexdigest()}","federation":"hospitals",'
    f'"key":"{b64(DATA_KEY)}","kind":"model","object":"run-1"}}'
).encode()
DEEP = b"[" * 700 + b"]" * 700
"""What a reader takes in and, by a recursion of its own, cannot write again."""

ECDH: Header = {
    "alg": "ECDH-ES+A256KW",
    "enc": "A256GCM",
    "epk": okp("X25519", curves.x25519_public(EPHEMERAL)),
    "kid": thumbprint(READER_JWK),
    "typ": "fedveil-sealed-key",
}
OAEP: Header = {"alg": "RSA-OAEP-256", "enc": "A256GCM", "kid": thumbprint(RSA.jwk), "typ": "fedveil-sealed-key"}


def keys() -> list[Case]:
    """The readers' keys, private ones too: they are nobody's."""
    made: list[Case] = [
        {"name": "signer", "public": SIGNER_KEY.hex(), "thumbprint": HEADER["kid"]},
        {"name": "x25519", "private": READER.hex(), "thumbprint": ECDH["kid"]},
    ]
    for name, key in (("rsa", RSA), ("short rsa", SHORT_RSA)):
        numbers = {"p": f"{key.p:x}", "q": f"{key.q:x}", "d": f"{key.d:x}", "n": f"{key.n:x}"}
        made.append({"name": name, **numbers, "thumbprint": thumbprint(key.jwk)})
    return made


# --- JWS --------------------------------------------------------------------------------------------------------------


def jws_cases() -> list[Case]:
    """For the signer's key."""
    good = jws(SIGNER, text(HEADER), MANIFEST)
    made: list[Case] = [
        _accepted("as written", good),
        _accepted("members in another order", jws(SIGNER, text(dict(reversed(HEADER.items()))), MANIFEST)),
        _accepted("blanks in the header", jws(SIGNER, text(HEADER).replace(b",", b" ,\n "), MANIFEST)),
    ]
    for code, cases in (
        ("jose_refused", _jws_refused()),
        ("jose_malformed", _jws_malformed(good)),
        ("bad_signature", _jws_unsigned(good)),
    ):
        made += [{"name": name, "token": token, "code": code} for name, token in cases]
    return made


def _accepted(name: str, token: str) -> Case:
    return {"name": name, "token": token, "out": MANIFEST.decode()}


def _with(header: Header, **changes: object) -> Header:
    """The header with members changed; None takes one away."""
    return {name: value for name, value in {**header, **changes}.items() if value is not None}


def _jws_refused() -> Iterator[tuple[str, str]]:
    def signed(**changes: object) -> str:
        return jws(SIGNER, text(_with(HEADER, **changes)), MANIFEST)

    bare = f"{b64(text(_with(HEADER, alg='none')))}.{b64(MANIFEST)}."
    yield "alg none without a signature", bare
    for name in ("none", "None", "nOnE", "NONE", "", "HS256", "HS512", "RS256", "PS256", "ES256", "ES256K", "EdDSA"):
        yield f"alg {name or 'of no letters'} over a good signature", signed(alg=name)
    yield "alg Ed448", signed(alg="Ed448")
    yield "alg in lower case", signed(alg="ed25519")
    yield "alg with a blank", signed(alg="Ed25519 ")
    yield "alg a number", signed(alg=1)
    yield "alg a list", signed(alg=["Ed25519"])
    yield "alg null", jws(SIGNER, text({**HEADER, "alg": None}), MANIFEST)
    yield "alg missing", signed(alg=None)
    jwk = b'{"kty":"OKP","crv":"Ed25519","x":"' + b64(SIGNER_KEY).encode() + b'"}'
    for name, secret in (
        ("bytes", SIGNER_KEY),
        ("base64url", b64(SIGNER_KEY).encode()),
        ("JWK", jwk),
        ("nothing", b""),
    ):
        yield f"HS256 with the public key as secret: {name}", hs256(secret, text(_with(HEADER, alg="HS256")), MANIFEST)
    stranger = okp("Ed25519", curves.ed25519_public(STRANGER))
    for name, value in (
        ("jwk", stranger),
        ("jku", "https://127.0.0.1/keys"),
        ("x5u", "https://127.0.0.1/chain"),
        ("x5c", ["MIIB"]),
        ("x5t", "AAAA"),
        ("x5t#S256", "AAAA"),
        ("crit", ["b64"]),
        ("crit", []),
        ("crit", ["exp"]),
        ("b64", True),
        ("b64", False),
        ("zip", "DEF"),
        ("cty", "json"),
        ("enc", "A256GCM"),
        ("exp", 1),
    ):
        header = text(_with(HEADER, **{name: value}))
        key = STRANGER if name == "jwk" else SIGNER
        yield f"{name} {str(value)[:12]}", jws(key, header, MANIFEST)
    header = text(_with(HEADER, b64=False, crit=["b64"]))
    part = f"{b64(header)}."
    raw = curves.ed25519_sign(SIGNER, part.encode() + MANIFEST)
    yield "unencoded payload of RFC 7797", f"{part}{b64(MANIFEST)}.{b64(raw)}"
    yield "kid of a stranger who signed", jws(STRANGER, text(_with(HEADER, kid=thumbprint(stranger))), MANIFEST)
    yield "kid missing", signed(kid=None)
    yield "kid a path", signed(kid="../../keys/other")
    yield "typ JWT", signed(typ="JWT")
    yield "typ of the other token", signed(typ="fedveil-sealed-key")
    yield "typ missing", signed(typ=None)


def _jws_malformed(good: str) -> Iterator[tuple[str, str]]:
    head, body, sig = good.split(".")
    yield "empty", ""
    yield "two parts", f"{head}.{body}"
    yield "four parts", f"{good}.{sig}"
    yield "an encrypted one", jwe(text(ECDH), bytes(40), NONCE, CONTENT_KEY, PAYLOAD)
    yield "JSON serialisation", f'{{"payload":"{body}","protected":"{head}","signature":"{sig}"}}'
    yield "a line feed behind it", f"{good}\n"
    yield "a blank in the payload", f"{head}.{body[:8]} {body[8:]}.{sig}"
    yield "padding", f"{head}.{body}{'=' * (-len(body) % 4)}=.{sig}"
    yield "stray bits at the end of the signature", f"{head}.{body}.{sig[:-1]}{_next(sig[-1])}"
    yield "the other alphabet", f"{head}.{body}.{sig.replace('-', '+').replace('_', '/')}"
    yield "header no base64", f"!{head}.{body}.{sig}"
    yield "header no JSON", jws(SIGNER, b"Ed25519", MANIFEST)
    yield "header a list", jws(SIGNER, text([HEADER]), MANIFEST)
    yield "header with a member twice", jws(SIGNER, b'{"alg":"none",' + text(HEADER)[1:], MANIFEST)
    yield "header not UTF-8", jws(SIGNER, text(HEADER)[:-1] + b',"x":"\xff"}', MANIFEST)
    yield "header nested deeply", jws(SIGNER, b"[" * 3000 + b"]" * 3000, MANIFEST)
    yield "signature missing", f"{head}.{body}."
    yield "signature cut", f"{head}.{body}.{b64(_raw(sig)[:-1])}"
    yield "signature longer", f"{head}.{body}.{b64(_raw(sig) + bytes(1))}"
    yield "signed payload with blanks", jws(SIGNER, text(HEADER), MANIFEST.replace(b",", b", "))
    yield "signed payload in another order", jws(SIGNER, text(HEADER), b'{"b":1,"a":2}')
    yield "signed payload with a member twice", jws(SIGNER, text(HEADER), b'{"a":1,"a":2}')
    yield "signed payload 1.0", jws(SIGNER, text(HEADER), b'{"a":1.0}')
    yield "signed payload with NaN", jws(SIGNER, text(HEADER), b'{"a":NaN}')
    yield "signed payload a list", jws(SIGNER, text(HEADER), b"[]")
    yield "signed payload nested deeply", jws(SIGNER, text(HEADER), b'{"a":' + DEEP + b"}")
    yield "stray bits at the end of the header", f"{head[:-1]}{_next(head[-1])}.{body}.{sig}"
    yield "padding of the header", f"{head}=.{body}.{sig}"
    yield "signed payload empty", jws(SIGNER, text(HEADER), b"")
    yield "signed payload with a byte order mark", jws(SIGNER, text(HEADER), b"\xef\xbb\xbf" + MANIFEST)
    yield "larger than what is read", f"{head}.{body}{'A' * 200_000}.{sig}"


def _jws_unsigned(good: str) -> Iterator[tuple[str, str]]:
    head, body, sig = good.split(".")
    raw = _raw(sig)
    other = b64(MANIFEST.replace(b'"round":3', b'"round":4'))
    yield "payload of another", f"{head}.{other}.{sig}"
    yield "header of another", f"{b64(text(dict(reversed(HEADER.items()))))}.{body}.{sig}"
    yield "a stranger's signature under the signer's kid", jws(STRANGER, text(HEADER), MANIFEST)
    for bit in (0, 255, 256, 511):
        changed = bytearray(raw)
        changed[bit // 8] ^= 1 << bit % 8
        yield f"bit {bit} of the signature", f"{head}.{body}.{b64(bytes(changed))}"
    s = int.from_bytes(raw[32:], "little")
    yield "S plus the order", f"{head}.{body}.{b64(raw[:32] + (s + curves.L).to_bytes(32, 'little'))}"
    yield "S is 0 and R the neutral element", f"{head}.{body}.{b64((1).to_bytes(32, 'little') + bytes(32))}"
    yield "all bits 0", f"{head}.{body}.{b64(bytes(64))}"
    yield "all bits 1", f"{head}.{body}.{b64(bytes([255]) * 64)}"
    yield "signed without the header", f"{head}.{body}.{b64(curves.ed25519_sign(SIGNER, body.encode()))}"
    yield "signed as bytes, not as base64", f"{head}.{body}.{b64(curves.ed25519_sign(SIGNER, MANIFEST))}"
    blob = b"".join(len(one).to_bytes(4, "big") + one for one in (b"FLSA/1/sig/model", b"coordinator", MANIFEST))
    yield "the signature of the model file", f"{head}.{body}.{b64(curves.ed25519_sign(SIGNER, blob))}"


def _raw(part: str) -> bytes:
    return base64.urlsafe_b64decode(part + "=" * (-len(part) % 4))


def _next(letter: str) -> str:
    """A letter whose last bits are not those of `letter`: the same bytes for a reader who does not look."""
    letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
    return dict(pairwise(letters))[letter]


# --- JWE --------------------------------------------------------------------------------------------------------------


def _agreed(z: bytes, name: str = "ECDH-ES+A256KW", bits: int = 256) -> bytes:
    return concat_kdf(z, name.encode(), b"", b"", bits)


def _shared() -> bytes:
    return curves.x25519(EPHEMERAL, curves.x25519_public(READER))


def _ecdh(payload: bytes = PAYLOAD, nonce: bytes = NONCE, z: bytes = b"", **changes: object) -> str:
    header = text(_with(ECDH, **changes))
    return jwe(header, key_wrap(_agreed(z or _shared()), CONTENT_KEY), nonce, CONTENT_KEY, payload)


def _rsa(block: bytes = b"", payload: bytes = PAYLOAD, **changes: object) -> str:
    wrapped = RSA.encrypt(block or oaep(CONTENT_KEY, RSA.octets, SEED))
    return jwe(text(_with(OAEP, **changes)), wrapped, NONCE, CONTENT_KEY, payload)


def jwe_cases() -> list[Case]:
    """For the reader's keys; `key` says for which."""
    out = {"key": DATA_KEY.hex(), "digest": hashlib.sha256(b"jose/file").hexdigest(), "object": "run-1"}
    made: list[Case] = [
        {"name": "as written", "key": "x25519", "token": _ecdh(), "out": out},
        {"name": "as written", "key": "rsa", "token": _rsa(), "out": out},
        {"name": "blanks in the header", "key": "x25519", "token": _blanks(), "out": out},
    ]
    for code, cases in (
        ("jose_refused", _jwe_refused()),
        ("jose_malformed", _jwe_malformed()),
        ("jose_damaged", _jwe_damaged()),
        ("not_a_recipient", _for_others()),
        ("recipient_key_weak", [("short rsa", "a key of 2048 bits", _short())]),
    ):
        made += [{"name": name, "key": key, "token": token, "code": code} for key, name, token in cases]
    return made


def _blanks() -> str:
    header = text(ECDH).replace(b":", b" : ")
    return jwe(header, key_wrap(_agreed(_shared()), CONTENT_KEY), NONCE, CONTENT_KEY, PAYLOAD)


def _short() -> str:
    wrapped = SHORT_RSA.encrypt(oaep(CONTENT_KEY, SHORT_RSA.octets, SEED))
    return jwe(text(_with(OAEP, kid=thumbprint(SHORT_RSA.jwk))), wrapped, NONCE, CONTENT_KEY, PAYLOAD)


def _jwe_refused() -> Iterator[tuple[str, str, str]]:
    z = _shared()
    direct = _agreed(z, "A256GCM")
    yield "x25519", "ECDH-ES without a wrapped key", jwe(text(_with(ECDH, alg="ECDH-ES")), b"", NONCE, direct, PAYLOAD)
    for name in ("ECDH-ES+A128KW", "ECDH-ES+A192KW", "A256KW", "A256GCMKW", "none", "HS256", "dir", "ECDH-1PU+A256KW"):
        yield "x25519", f"alg {name}", _ecdh(alg=name)
    yield "x25519", "alg missing", _ecdh(alg=None)
    yield "x25519", "alg a list", _ecdh(alg=["ECDH-ES+A256KW"])
    public = curves.x25519_public(READER)
    yield "x25519", "dir with the public key as secret", jwe(text(_with(ECDH, alg="dir")), b"", NONCE, public, PAYLOAD)
    pbes2 = _with(ECDH, alg="PBES2-HS512+A256KW", p2s="AAAAAAAAAAA", p2c=2_000_000_000)
    yield "x25519", "PBES2 with two thousand million rounds", jwe(text(pbes2), bytes(40), NONCE, CONTENT_KEY, PAYLOAD)
    for name in ("A128GCM", "A192GCM", "A128CBC-HS256", "A256CBC-HS512", "XC20P", ""):
        yield "x25519", f"enc {name or 'of no letters'}", _ecdh(enc=name)
        yield "rsa", f"enc {name or 'of no letters'}", _rsa(enc=name)
    packed = zlib.compress(PAYLOAD)[2:-4]
    bomb = zlib.compress(bytes(2_000_000))[2:-4]
    yield "x25519", "zip", _ecdh(packed, zip="DEF")
    yield "rsa", "zip of two million zeros", _rsa(payload=bomb, zip="DEF")
    for name, value in (
        ("crit", ["exp"]),
        ("jku", "https://127.0.0.1/keys"),
        ("jwk", READER_JWK),
        ("x5u", "https://127.0.0.1/chain"),
        ("x5c", ["MIIB"]),
        ("cty", "json"),
        ("b64", True),
        ("apu", "QWxpY2U"),
        ("apv", "Qm9i"),
        ("p2c", 1),
    ):
        yield "x25519", f"{name} {str(value)[:12]}", _ecdh(**{name: value})
        yield "rsa", f"{name} {str(value)[:12]}", _rsa(**{name: value})
    yield "x25519", "typ of the other token", _ecdh(typ="fedveil-manifest")
    yield "x25519", "typ missing", _ecdh(typ=None)
    yield "x25519", "kid missing", _ecdh(kid=None)
    yield "x25519", "no ephemeral key", _ecdh(epk=None)
    x = b64(curves.x25519_public(EPHEMERAL))
    yield "x25519", "ephemeral key of P-256", _ecdh(epk={"kty": "EC", "crv": "P-256", "x": x})
    yield "x25519", "ephemeral key of Ed25519", _ecdh(epk={"kty": "OKP", "crv": "Ed25519", "x": x})
    yield "x25519", "ephemeral key of X448", _ecdh(epk={"kty": "OKP", "crv": "X448", "x": x})
    yield "x25519", "RSA for a key that is none", _rsa(kid=ECDH["kid"])
    yield "rsa", "ECDH for a key that is none", _ecdh(kid=OAEP["kid"])
    yield "rsa", "RSA with an ephemeral key", _rsa(epk=ECDH["epk"])
    yield "rsa", "RSA1_5", _rsa(pkcs1(CONTENT_KEY, RSA.octets), alg="RSA1_5")
    yield "rsa", "RSA-OAEP with SHA-1", _rsa(oaep(CONTENT_KEY, RSA.octets, SEED, "sha1"), alg="RSA-OAEP")
    for name in ("RSA-OAEP-384", "RSA-OAEP-512"):
        yield "rsa", name, _rsa(alg=name)


def _jwe_malformed() -> Iterator[tuple[str, str, str]]:
    good = _ecdh()
    head, wrapped, nonce, body, tag = good.split(".")
    yield "x25519", "empty", ""
    yield "x25519", "four parts", f"{head}.{wrapped}.{nonce}.{body}"
    yield "x25519", "six parts", f"{good}.{tag}"
    yield "x25519", "a signed one", jws(SIGNER, text(HEADER), MANIFEST)
    yield "x25519", "tag of 12 bytes", f"{head}.{wrapped}.{nonce}.{body}.{b64(_raw(tag)[:12])}"
    yield "x25519", "tag of 4 bytes", f"{head}.{wrapped}.{nonce}.{body}.{b64(_raw(tag)[:4])}"
    yield "x25519", "no tag", f"{head}.{wrapped}.{nonce}.{body}."
    yield "x25519", "tag of 17 bytes", f"{head}.{wrapped}.{nonce}.{body}.{b64(_raw(tag) + bytes(1))}"
    yield "x25519", "nonce of 8 bytes", f"{head}.{wrapped}.{b64(_raw(nonce)[:8])}.{body}.{tag}"
    yield "x25519", "nonce of 16 bytes", f"{head}.{wrapped}.{b64(_raw(nonce) + bytes(4))}.{body}.{tag}"
    yield "x25519", "no nonce", f"{head}.{wrapped}..{body}.{tag}"
    yield "x25519", "no wrapped key", f"{head}..{nonce}.{body}.{tag}"
    yield "x25519", "wrapped key cut", f"{head}.{b64(_raw(wrapped)[:-8])}.{nonce}.{body}.{tag}"
    yield "x25519", "wrapped key longer", f"{head}.{b64(_raw(wrapped) + bytes(8))}.{nonce}.{body}.{tag}"
    loose, *others = jwe(text(ECDH) + b" ", _raw(wrapped), NONCE, CONTENT_KEY, PAYLOAD).split(
        "."
    )  # a length with bits over
    yield "x25519", "stray bits in the header", ".".join([f"{loose[:-1]}{_next(loose[-1])}", *others])
    yield "x25519", "stray bits", f"{head}.{wrapped[:-1]}{_next(wrapped[-1])}.{nonce}.{body}.{tag}"
    yield "x25519", "padding", f"{head}.{wrapped}.{nonce}.{body}=.{tag}"
    yield (
        "x25519",
        "header with a member twice",
        jwe(b'{"enc":"x",' + text(ECDH)[1:], bytes(40), NONCE, CONTENT_KEY, b""),
    )
    key = curves.x25519_public(EPHEMERAL)
    for name, epk in (
        ("a text", b64(key)),
        ("with a private part", {**okp("X25519", key), "d": b64(EPHEMERAL)}),
        ("without x", {"kty": "OKP", "crv": "X25519"}),
        ("of 31 bytes", okp("X25519", key[:31])),
        ("of 33 bytes", okp("X25519", key + bytes(1))),
        ("with padding", {"kty": "OKP", "crv": "X25519", "x": b64(key) + "="}),
    ):
        yield "x25519", f"ephemeral key {name}", _ecdh(epk=epk)
    for name, payload in (
        ("with blanks", PAYLOAD.replace(b",", b", ")),
        ("with a member twice", b'{"digest":"",' + PAYLOAD[1:]),
        ("nested deeply", b'{"digest":' + DEEP + b"}"),
        ("nested deeply in the key", PAYLOAD.replace(b64(DATA_KEY).encode().join([b'"', b'"']), DEEP)),
        ("with half a surrogate", PAYLOAD.replace(b'"run-1"', b'"\\ud800"')),
        ("no JSON", b"key"),
        ("a list", b"[]"),
        ("without the key", b'{"digest":"","federation":"f","kind":"model","object":"o"}'),
        ("with a member more", PAYLOAD[:-1] + b',"z":1}'),
        ("with a key of 16 bytes", PAYLOAD.replace(b64(DATA_KEY).encode(), b64(DATA_KEY[:16]).encode())),
        (
            "with a key of stray bits",
            PAYLOAD.replace(b64(DATA_KEY)[-5:].encode(), b64(DATA_KEY)[-5:-1].encode() + b"B"),
        ),
        ("with a digest in capitals", _capitals(PAYLOAD)),
        ("with a digest of 31 bytes", PAYLOAD.replace(_digest(), _digest()[2:])),
        ("of no object's name", PAYLOAD.replace(b'"run-1"', b'"../run"')),
        ("of a kind that is a number", PAYLOAD.replace(b'"model"', b"1")),
    ):
        yield "x25519", f"payload {name}", _ecdh(payload)
        yield "rsa", f"payload {name}", _rsa(payload=payload)
    head, wrapped, nonce, body, tag = _rsa().split(".")
    more = (int.from_bytes(_raw(wrapped), "big") + RSA.n).to_bytes(RSA.octets + 1, "big")
    yield "rsa", "wrapped key plus the modulus", f"{head}.{b64(more)}.{nonce}.{body}.{tag}"
    yield "rsa", "wrapped key cut", f"{head}.{b64(_raw(wrapped)[1:])}.{nonce}.{body}.{tag}"


def _digest() -> bytes:
    return hashlib.sha256(b"jose/file").hexdigest().encode()


def _capitals(payload: bytes) -> bytes:
    return payload.replace(_digest(), _digest().upper())


def _jwe_damaged() -> Iterator[tuple[str, str, str]]:
    for key, good in (("x25519", _ecdh()), ("rsa", _rsa())):
        parts = good.split(".")
        for number, what in ((1, "wrapped key"), (2, "nonce"), (3, "ciphertext"), (4, "tag")):
            raw = bytearray(_raw(parts[number]))
            raw[len(raw) // 2] ^= 1
            yield key, f"one bit of the {what}", ".".join([*parts[:number], b64(bytes(raw)), *parts[number + 1 :]])
        turned = text(dict(reversed((ECDH if key == "x25519" else OAEP).items())))
        yield key, "the header in another order", ".".join([b64(turned), *parts[1:]])
        yield key, "ciphertext cut", ".".join([*parts[:3], parts[3][:-4], parts[4]])
        yield key, "no ciphertext", ".".join([*parts[:3], "", parts[4]])
    for u in sorted(curves.low_order_u()):
        for point in curves.encodings_u(u):  # whoever sends it knows that all agree on 32 zeros
            name = f"ephemeral key of low order {point[:3].hex()}..{point[-1:].hex()}"
            yield "x25519", name, _ecdh(z=bytes(32), epk=okp("X25519", point))
    other = curves.x25519(EPHEMERAL, curves.x25519_public(hashlib.sha256(b"jose/other").digest()))
    yield "x25519", "made for another key under this kid", _ecdh(z=other)
    yield "x25519", "wrapped under the key of A128KW", _rewrapped(_agreed(_shared(), "ECDH-ES+A128KW"))
    yield "x25519", "wrapped under a key that is not derived", _rewrapped(_shared())
    blocks = {
        "OAEP with SHA-1": oaep(CONTENT_KEY, RSA.octets, SEED, "sha1"),
        "OAEP with MGF1 of SHA-1": oaep(CONTENT_KEY, RSA.octets, SEED, mask="sha1"),
        "OAEP with the label of a sealed file": oaep(CONTENT_KEY, RSA.octets, SEED, label=b"sealing/rsa-oaep-256"),
        "OAEP whose first octet is 1": oaep(CONTENT_KEY, RSA.octets, SEED, first=1),
        "padding of PKCS #1 v1.5": pkcs1(CONTENT_KEY, RSA.octets),
        "no padding at all": CONTENT_KEY.rjust(RSA.octets, b"\0"),
        "a key of 16 bytes": oaep(CONTENT_KEY[:16], RSA.octets, SEED),
        "a key of 33 bytes": oaep(CONTENT_KEY + b"\0", RSA.octets, SEED),
        "a key of no bytes": oaep(b"", RSA.octets, SEED),
    }
    for name, block in blocks.items():
        yield "rsa", name, _rsa(block)
    head, _, nonce, body, tag = _rsa().split(".")
    for name, number in (("0", 0), ("1", 1), ("the modulus less 1", RSA.n - 1), ("the modulus", RSA.n)):
        wrapped = b64(number.to_bytes(RSA.octets, "big"))
        yield "rsa", f"wrapped key {name}", ".".join([head, wrapped, nonce, body, tag])


def _rewrapped(kek: bytes) -> str:
    return jwe(text(ECDH), key_wrap(kek.ljust(32, b"\0"), CONTENT_KEY), NONCE, CONTENT_KEY, PAYLOAD)


def _for_others() -> Iterator[tuple[str, str, str]]:
    yield "x25519", "for RSA", _rsa()
    yield "rsa", "for X25519", _ecdh()
    stranger = okp("X25519", curves.x25519_public(hashlib.sha256(b"jose/other").digest()))
    yield "x25519", "for a stranger", _ecdh(kid=thumbprint(stranger))
    yield "x25519", "kid a number", _ecdh(kid=7)
