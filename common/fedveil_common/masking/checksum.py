"""The secret linear checksum of a sum: whoever opens it cannot alter it unseen, unless a member helps.

All dealers of an attempt hold one key that the coordinator does not. Each adds, beside its vector, one number: the sum
of its integers weighted by the key's stream, under masks of its own kind. The weighted sum of what was opened must be
the sum of those numbers. Invariant: a sum altered without the key passes with a probability of at most 2^-60, once (the
first signed Result wins); integers are bounded before the comparison, or adding 2^61-1 to a coordinate would pass.
It proves nothing against a coordinator that works together with one dealer: for that there is the audit.
Source: FLSA/1 section 4.1 with A4 (docs/protocol.md). Vectors: tests/vectors/checksum.json.
"""

import hmac
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from fedveil_common.crypto import agreement
from fedveil_common.crypto.kdf import derive
from fedveil_common.crypto.labels import h
from fedveil_common.crypto.prg import Streams, keystream
from fedveil_common.errors import PeerError
from fedveil_common.ids import OrgId
from fedveil_common.masking.ring import Signed
from fedveil_common.secret import PrivateKey, Seed

PRIME = (1 << 61) - 1
"""Weights, tags and their masks are numbers modulo this prime."""

TAG_BYTES = 8

LARGEST_SUM = 1 << 59
"""A coordinate of a sum lies below this in absolute value, or the sum carries no tag (A4)."""

_PIECE = 8192
_DIGIT_BITS = 22
"""Digit (22 bits) x limb of a weight (16 bits) x 2^13 coordinates < 2^53: sums of products are exact in float64."""


def usable(members: int, value_bits: int) -> bool:
    """Whether a sum of `members` values of `value_bits` stays small enough to be told from one altered by the prime."""
    return bound(members, value_bits) < LARGEST_SUM


def bound(members: int, value_bits: int) -> int:
    """The largest absolute value that a coordinate of an honest sum of `members` inputs can have."""
    largest: int = members * ((1 << (value_bits - 1)) - 1)
    return largest


def tag_key(t2: bytes, kappas: Sequence[Seed]) -> Seed:
    """K = H("mackey", T2, kappa_1, ..): `kappas` of all dealers in the order of their ids. For the dealers alone."""
    return Seed(h("mackey", t2, *[kappa.expose() for kappa in kappas]))


def weigh(key: Seed, start: int, values: Signed) -> int:
    """Sum of r_l * x_l modulo PRIME, for the integers x_l at coordinates l = start, start+1, ..; shape (d,), signed.

    r_l: the low 61 bits of the little-endian u64 at byte 8l of the key's stream. Parts of a vector add up to the whole.
    """
    if values.ndim != 1 or values.dtype.kind != "i":
        raise ValueError("a checksum is over a one-dimensional array of signed integers")
    streams = Streams([(key.expose(), False)], start, 8)
    total = 0
    for first in range(0, len(values), _PIECE):
        piece = values[first : first + _PIECE]
        weights = np.empty(len(piece), dtype="<u8")
        streams.fill(weights)
        weights &= np.uint64(PRIME)
        limbs = weights.view("<u2").reshape(len(piece), 4).astype(np.float64)
        for place, digit in enumerate(_digits(piece)):
            for limb, product in enumerate(digit @ limbs):
                total += int(product) << (_DIGIT_BITS * place + 16 * limb)
    return total % PRIME


def _digits(values: Signed) -> list[NDArray[np.float64]]:
    """The integers as digits in base 2^22, least first; all but the last are not negative."""
    digits: list[NDArray[np.float64]] = []
    rest: Signed = values
    while rest.size and (int(rest.max()) >= 1 << _DIGIT_BITS or int(rest.min()) < -(1 << _DIGIT_BITS)):
        wide = rest.astype(np.int64)
        digits.append((wide & ((1 << _DIGIT_BITS) - 1)).astype(np.float64))
        rest = wide >> _DIGIT_BITS
    return [*digits, rest.astype(np.float64)]


def tag_mask(t2: bytes, org: OrgId, own: PrivateKey, self_seed: Seed, keys: Mapping[OrgId, bytes]) -> int:
    """What `org` adds to its tag, modulo PRIME. `keys`: the public mask keys of all of U2. For `org` alone."""
    total = self_tag_mask(t2, self_seed, org)
    for other in keys:
        if other != org:
            mask = _pair(t2, org, own, keys[org], other, keys[other])
            total += -mask if other < org else mask
    return total % PRIME


def self_tag_mask(t2: bytes, seed: Seed, org: OrgId) -> int:
    """The dealer's own mask of its tag. Known to it, and once it survived to whoever has the reveals."""
    return _number(derive(t2, seed.expose(), "mask/self/tag", org.encode()))


def residual_tag_mask(
    t2: bytes, dropped: OrgId, recovered: PrivateKey, survivors: Mapping[OrgId, bytes], dropped_public: bytes
) -> int:
    """What the pairs with `dropped` left in the sum of the survivors' tags. PeerError `wrong_secret_dealt` (peer: the
    dropped dealer) if the key is not the advertised one.
    """
    if not hmac.compare_digest(agreement.public_key(recovered), dropped_public):
        raise PeerError(
            "wrong_secret_dealt", f"the shares of {dropped} give another key than it advertised", peer=dropped
        )
    total = 0
    for org, public in survivors.items():
        mask = _pair(t2, dropped, recovered, dropped_public, org, public)
        total += mask if org < dropped else -mask  # the lower id of a pair had added, the higher had subtracted
    return total % PRIME


def to_bytes(tag: int) -> bytes:
    """A tag as it travels: u64 little-endian, below PRIME."""
    return tag.to_bytes(TAG_BYTES, "little")


def from_bytes(data: bytes) -> int:
    """The tag behind 8 bytes. PeerError `bad_tag` for anything that `to_bytes` does not make."""
    value = int.from_bytes(data, "little")
    if len(data) != TAG_BYTES or value >= PRIME:
        raise PeerError("bad_tag", "a tag is 8 bytes, little-endian, below 2^61-1")
    return value


def _pair(t2: bytes, org: OrgId, own: PrivateKey, own_public: bytes, other: OrgId, other_public: bytes) -> int:
    (id_lo, key_lo), (id_hi, key_hi) = sorted([(org, own_public), (other, other_public)])
    secret = agreement.exchange(own, other_public)
    return _number(derive(t2, secret, "mask/pair/tag", id_lo.encode(), id_hi.encode(), key_lo, key_hi))


def _number(key: bytes) -> int:
    """16 bytes of the key's stream, little-endian, modulo PRIME: uniform up to 2^-67."""
    return int.from_bytes(keystream(key, 16), "little") % PRIME
