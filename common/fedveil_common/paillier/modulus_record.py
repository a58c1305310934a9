"""The public record of a modulus: which number, how it is used, where it comes from; one file, one fingerprint.

Promise: a `ModulusRecord` that was read passed every check of `modulus`, and the dealer's signature verified. The
fingerprint covers everything but the signature; whoever relies on a modulus compares it with the dealer, because the
key that signed stands in the record itself and proves only that nobody changed it since. The record of RSA-2048 holds
nothing but the number and s: everybody who adopts it writes the same bytes. Public throughout.

Format: canonical JSON {bits, format, n, origin, s}, and for origin "dealt" also {at, dealer, key, roots, sig}; n and
roots in hex of |n| bits; `sig` is Ed25519 under the label "paillier/modulus" over the canonical form without `sig`.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

from fedveil_common import jcs
from fedveil_common.crypto import signing
from fedveil_common.errors import ConfigError
from fedveil_common.ids import check_name
from fedveil_common.paillier import rsa_2048
from fedveil_common.paillier.encoding import hp, integer, number
from fedveil_common.paillier.group import MAX_S
from fedveil_common.paillier.modulus import MAX_BITS, ROOTS, CheckedModulus, Origin
from fedveil_common.pki import documents
from fedveil_common.secret import PrivateKey

FORMAT = "fedveil/paillier-modulus/v1"
LABEL = "paillier/modulus"
MAX_RECORD = 64 * 1024
MAX_TIME = 253402300799
"""The end of the year 9999."""

_WHAT = "record of a modulus"
_COMMON = {"bits", "format", "n", "origin", "s"}
_DEALT = {"at", "dealer", "key", "roots", "sig"}


@dataclass(frozen=True, slots=True)
class Dealer:
    """Who says that he dealt the modulus and erased its factors, when, and the key that signed the record.

    `name`: an id of his own choice, unchecked. `at_s`: seconds since 1970-01-01 UTC by his clock. `key`, `sig`: 32 and
    64 bytes.
    """

    name: str
    at_s: int
    key: bytes
    sig: bytes


@dataclass(frozen=True, slots=True)
class ModulusRecord:
    """A checked modulus with the s it is used with, and its dealer; RSA-2048 has none. Making one verifies it.

    ConfigError `bad_exponent`, `bad_name`; PeerError `bad_signature`.
    """

    modulus: CheckedModulus
    s: int
    dealer: Dealer | None

    def __post_init__(self) -> None:
        check_exponent(self.s)
        if (self.dealer is None) != (self.modulus.origin is Origin.RSA_2048):
            raise ValueError("a dealt modulus has a dealer and RSA-2048 has none")
        if self.dealer is not None:
            check_name(self.dealer.name, "the dealer")
            signing.verify_bytes(self.dealer.key, self.dealer.sig, LABEL, self._body())

    @property
    def fingerprint(self) -> bytes:
        """32 bytes to compare: everything but the signature."""
        return hp("record", self._body())

    def encode(self) -> bytes:
        """The file."""
        fields = self._fields()
        return jcs.dumps(fields if self.dealer is None else fields | {"sig": self.dealer.sig.hex()})

    @classmethod
    def decode(cls, data: bytes) -> Self:
        """The record in a file. PeerError `bad_document`, and everything that a modulus or the record can lack."""
        value = documents.canonical(data.strip(), _WHAT, MAX_RECORD)
        dealt = isinstance(value, Mapping) and value.get("origin") == Origin.DEALT.value
        fields = documents.Fields(value, _WHAT, _COMMON | _DEALT if dealt else _COMMON)
        if fields.value("format") != FORMAT or (not dealt and fields.value("origin") != Origin.RSA_2048.value):
            raise documents.bad(_WHAT, "its format or origin is not one of ours")
        bits = fields.integer("bits")
        if bits > MAX_BITS:  # before anything of that length is read
            raise documents.bad(_WHAT, f"bits is above {MAX_BITS}")
        width = (bits + 7) // 8
        roots = tuple(number(root) for root in fields.hexes("roots", width, ROOTS)) if dealt else ()
        if dealt and not roots:
            raise documents.bad(_WHAT, "a dealt modulus has roots")
        modulus = CheckedModulus(number(fields.hex("n", width)), bits, roots)
        dealer = None
        if dealt:
            if fields.integer("at") > MAX_TIME:
                raise documents.bad(_WHAT, "at is beyond the year 9999")
            dealer = Dealer(fields.name("dealer"), fields.integer("at"), fields.hex("key", 32), fields.hex("sig", 64))
        return cls(modulus, fields.integer("s"), dealer)

    def _body(self) -> bytes:
        return jcs.dumps(self._fields())

    def _fields(self) -> dict[str, jcs.Json]:
        dealer = self.dealer
        return _fields_of(self.modulus, self.s, None if dealer is None else (dealer.name, dealer.at_s, dealer.key))


def sign_record(modulus: CheckedModulus, s: int, name: str, at_s: int, private: PrivateKey) -> ModulusRecord:
    """The record of a dealt modulus, signed by the dealer. `name`: an id; `at_s`: now. Errors as `ModulusRecord`."""
    check_exponent(s)
    key = signing.public_key(private)
    body = jcs.dumps(_fields_of(modulus, s, (name, at_s, key)))
    return ModulusRecord(modulus, s, Dealer(name, at_s, key, signing.sign_bytes(private, LABEL, body)))


def adopt_rsa_2048(s: int) -> ModulusRecord:
    """The record of RSA-2048, the same for everybody. ConfigError `bad_exponent`."""
    return ModulusRecord(CheckedModulus(rsa_2048.N, 2048), s, None)


def check_exponent(s: int) -> None:
    """Returns for an s of 1 to 3. ConfigError `bad_exponent`."""
    if not 1 <= s <= MAX_S:
        raise ConfigError(
            "bad_exponent",
            f"s is {s}; a plaintext may have 1 to {MAX_S} times the bits of n",
            next_step="leave --s out, or give 1, 2 or 3",
        )


def default_exponent(bits: int) -> int:
    """What s is where nobody chose it: 2 from 3072 bits on, where it saves a quarter of the bytes, else 1."""
    return 2 if bits >= 3072 else 1


def _fields_of(modulus: CheckedModulus, s: int, dealer: tuple[str, int, bytes] | None) -> dict[str, jcs.Json]:
    width = (modulus.bits + 7) // 8
    fields: dict[str, jcs.Json] = {
        "bits": modulus.bits,
        "format": FORMAT,
        "n": integer(modulus.n, width).hex(),
        "origin": modulus.origin.value,
        "s": s,
    }
    if dealer is None:
        return fields
    name, at_s, key = dealer
    roots = [integer(root, width).hex() for root in modulus.roots]
    return fields | {"at": at_s, "dealer": name, "key": key.hex(), "roots": roots}
