"""Keys and ciphertexts as the command line of python-paillier (`pheutil`) writes and reads them.

Promise: a key that came in passed our own checks; a private one goes out in clear, because the format knows no seal.
Ciphertexts are mod n^2, so that s = 1. Members that the format does not have are refused, `kid` (a comment) is ignored.

Format: JSON in the form of a JWK. Public {kty: "DAJ", alg: "PAI-GN1", key_ops: ["encrypt"], n, kid}; private {kty:
"DAJ", key_ops: ["decrypt"], p, q, pub, kid} with the public one as `pub`; numbers big-endian without leading zeros, in
base64url without padding. Ciphertext {v, e}: v in decimal; the number encrypted is the plaintext times 16^e.
Source: python-paillier 1.5, command_line.py.
"""

import base64
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

from gmpy2 import mpz

from fedveil_common import jcs
from fedveil_common.errors import ConfigError
from fedveil_common.paillier.encoding import number
from fedveil_common.paillier.factors import Factor, FactorPair
from fedveil_common.paillier.modulus import MAX_BITS
from fedveil_common.paillier.single_holder import SingleHolderKey, SingleHolderPrivateKey

MAX_KEY = 64 * 1024
MAX_CIPHERTEXT = 16 * 1024
MAX_EXPONENT = 2**20
"""Either way; phe itself stays far below."""

_KIND, _ALGORITHM = "DAJ", "PAI-GN1"
_KID = "Paillier key of Fedveil"
_BASE64URL = re.compile(r"[A-Za-z0-9_-]+\Z")
_DECIMAL = re.compile(r"[1-9][0-9]*\Z")


def decode_key(data: bytes) -> SingleHolderKey | SingleHolderPrivateKey:
    """The key in a file of pheutil, public or private; s = 1. Secret if it is private.

    ConfigError `bad_phe_key`, `factors_of_another` (p*q is not the n beside them), and as the keys themselves.
    """
    members = _members(data)
    if "pub" not in members:
        return _public(members)
    _check(members, {"kty", "key_ops", "p", "q", "pub"}, "decrypt")
    outer = members["pub"]
    if not isinstance(outer, Mapping):
        raise _bad("pub is no object")
    public = _public(outer)
    p, q = Factor(_bytes(members, "p")), Factor(_bytes(members, "q"))
    if p.expose_number() * q.expose_number() != public.group.n:
        raise ConfigError(
            "factors_of_another",
            "the private factors are not those of the public modulus beside them",
            not_done="the key was not used",
            next_step="restore the file from where it was made",
        )
    return SingleHolderPrivateKey(FactorPair(p, q))


def encode_public(key: SingleHolderKey) -> bytes:
    """The public file of pheutil. ConfigError `phe_needs_s_1`."""
    return jcs.dumps(_public_members(key)) + b"\n"


def encode_private(key: SingleHolderPrivateKey) -> bytes:
    """The private file of pheutil, which holds the factors in clear. Secret. ConfigError `phe_needs_s_1`."""
    factors = key.factors
    members: dict[str, jcs.Json] = {
        "key_ops": ["decrypt"],
        "kid": _KID,
        "kty": _KIND,
        "p": _text(factors.p.expose()),
        "pub": _public_members(key.public),
        "q": _text(factors.q.expose()),
    }
    return jcs.dumps(members) + b"\n"


@dataclass(frozen=True, slots=True)
class PheCiphertext:
    """`value`: the ciphertext mod n^2, for `SingleHolderKey.check` to judge. `exponent`: the plaintext is m * 16^e.

    Add only ciphertexts of one exponent. A plaintext of n - n//3 + 1 or more stands for itself less n (a negative).
    """

    value: int
    exponent: int

    def encode(self) -> bytes:
        """The file."""
        return jcs.dumps({"e": self.exponent, "v": str(mpz(self.value))}) + b"\n"

    @classmethod
    def decode(cls, data: bytes) -> Self:
        """The ciphertext in a file of pheutil. ConfigError `bad_phe_ciphertext`."""
        value = _json(data, MAX_CIPHERTEXT)
        digits, exponent = (value.get("v"), value.get("e")) if isinstance(value, Mapping) else (None, None)
        if (
            not isinstance(digits, str)
            or not _DECIMAL.match(digits)
            or not isinstance(exponent, int)
            or isinstance(exponent, bool)
            or abs(exponent) > MAX_EXPONENT
        ):
            raise ConfigError(
                "bad_phe_ciphertext",
                "the file is no ciphertext of pheutil: {v: decimal digits, e: exponent}",
                next_step="take the file that `pheutil encrypt` wrote",
            )
        return cls(mpz(digits), exponent)  # mpz reads any length; int() stops at 4300 digits


def _public(members: Mapping[str, jcs.Json]) -> SingleHolderKey:
    _check(members, {"kty", "alg", "key_ops", "n"}, "encrypt")
    if members["alg"] != _ALGORITHM:
        raise _bad(f"alg is not {_ALGORITHM}")
    n = number(_bytes(members, "n"))
    return SingleHolderKey(n, int(n).bit_length())


def _public_members(key: SingleHolderKey) -> dict[str, jcs.Json]:
    if key.group.s != 1:
        raise ConfigError(
            "phe_needs_s_1",
            f"python-paillier knows s = 1 only, and this key has s = {key.group.s}",
            not_done="nothing was written",
            next_step="make a pair with `fedveil key pair --s 1`",
        )
    n = int(key.group.n).to_bytes(key.group.short_bytes, "big")
    return {"alg": _ALGORITHM, "key_ops": ["encrypt"], "kid": _KID, "kty": _KIND, "n": _text(n)}


def _members(data: bytes) -> Mapping[str, jcs.Json]:
    value = _json(data, MAX_KEY)
    if not isinstance(value, Mapping):
        raise _bad("it is no JSON object")
    return value


def _json(data: bytes, limit: int) -> jcs.Json:
    try:
        return jcs.loads(data) if len(data) <= limit else None
    except ValueError:
        return None


def _check(members: Mapping[str, jcs.Json], names: set[str], use: str) -> None:
    if set(members) - {"kid"} != names:
        raise _bad(f"it has not exactly the members {', '.join(sorted(names))}")
    if members["kty"] != _KIND or members["key_ops"] != [use]:
        raise _bad(f"kty is not {_KIND}, or key_ops is not {use}")


def _bytes(members: Mapping[str, jcs.Json], name: str) -> bytes:
    value = members[name]
    if (
        not isinstance(value, str)
        or not _BASE64URL.match(value)
        or len(value) > MAX_BITS // 6 + 1
        or len(value) % 4 == 1
    ):
        raise _bad(f"{name} is no number of at most {MAX_BITS} bits in base64url")
    return base64.urlsafe_b64decode(value + "=" * (-len(value) % 4))


def _text(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def _bad(why: str) -> ConfigError:
    return ConfigError(
        "bad_phe_key",
        f"the file is no key of pheutil: {why}",
        not_done="no key was read",
        next_step="take the file that `pheutil genpkey` or `pheutil extract` wrote",
    )
