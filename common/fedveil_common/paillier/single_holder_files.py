"""The two files of an ordinary key pair: the public key in clear, the factors under a passphrase.

Promise: what is read is a key that passed its checks, or a typed error; the private file yields nothing without its
passphrase (format and cost: `pki.sealed_keys`, purpose "paillier"). In memory it is forgotten, not wiped: `dealing`.
Format of both: canonical JSON, {bits, format, n, s} in public, {format, p, q, s} inside the seal; numbers in hex.
"""

from fedveil_common import jcs
from fedveil_common.errors import ConfigError, FedveilError
from fedveil_common.paillier.encoding import integer, number
from fedveil_common.paillier.factors import Factor, FactorPair
from fedveil_common.paillier.modulus import MAX_BITS
from fedveil_common.paillier.single_holder import SingleHolderKey, SingleHolderPrivateKey
from fedveil_common.pki import documents, sealed_keys
from fedveil_common.ports import Entropy
from fedveil_common.secret import Passphrase

PUBLIC_FORMAT = "fedveil/paillier-public/v1"
PRIVATE_FORMAT = "fedveil/paillier-private/v1"
PURPOSE = "paillier"
MAX_FILE = 64 * 1024

_PUBLIC = "public key"


def encode_public(key: SingleHolderKey) -> bytes:
    """The public file."""
    group = key.group
    n = integer(group.n, group.short_bytes).hex()
    return jcs.dumps({"bits": key.bits, "format": PUBLIC_FORMAT, "n": n, "s": group.s})


def decode_public(data: bytes) -> SingleHolderKey:
    """The key in a public file. PeerError `bad_document`; ConfigError as `SingleHolderKey`."""
    value = documents.canonical(data.strip(), _PUBLIC, MAX_FILE)
    fields = documents.Fields(value, _PUBLIC, {"bits", "format", "n", "s"})
    bits = fields.integer("bits")
    if fields.value("format") != PUBLIC_FORMAT or bits > MAX_BITS:
        raise documents.bad(_PUBLIC, "its format or length is not one of ours")
    return SingleHolderKey(number(fields.hex("n", (bits + 7) // 8)), bits, fields.integer("s"))


def seal_private(key: SingleHolderPrivateKey, passphrase: Passphrase, entropy: Entropy) -> bytes:
    """The private file. ConfigError `weak_passphrase`."""
    inside = jcs.dumps(
        {
            "format": PRIVATE_FORMAT,
            "p": key.factors.p.expose().hex(),
            "q": key.factors.q.expose().hex(),
            "s": key.public.group.s,
        }
    )
    return sealed_keys.seal_key(inside, passphrase, PURPOSE, entropy)


def open_private(data: bytes, passphrase: Passphrase | None) -> SingleHolderPrivateKey:
    """The key in a private file. SealedError and ConfigError as `sealed_keys.open_key`; ConfigError as the key."""
    inside = sealed_keys.open_key(data, passphrase, PURPOSE)
    try:
        value = documents.canonical(inside, "private key", MAX_FILE)
        fields = documents.Fields(value, "private key", {"format", "p", "q", "s"})
        if fields.value("format") != PRIVATE_FORMAT:
            raise documents.bad("private key", "its format is not ours")
        p, q = (Factor(bytes.fromhex(fields.text(name, MAX_BITS))) for name in ("p", "q"))
        s = fields.integer("s")
    except (FedveilError, ValueError):
        raise ConfigError(  # "from" would keep what the file held beside the error
            "bad_key_file",
            "what the passphrase opened is no key of a single holder",
            next_step="restore it from a backup",
        ) from None
    return SingleHolderPrivateKey(FactorPair(p, q), s)
