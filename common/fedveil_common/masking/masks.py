"""Masks: what is added to an update so that only the sum over the survivors can be read.

Each pair of dealers shares a stream that the lower id adds and the higher id subtracts; each dealer adds a stream of
its own. Invariant: over all of U2 the pair masks cancel exactly; for a dropped dealer, what remains is removed with its
recovered key; the self masks go with the revealed seeds. All keys are derived under T2, so parties with different views
get a random vector instead of a sum. A key masks one vector, ever: never two under one T2.
Source: Bonawitz et al. 2017 section 4; FLSA/1 section 2.3 (docs/protocol.md). Vectors: tests/vectors/masking.json.
"""

import hmac
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from fedveil_common.crypto import agreement
from fedveil_common.crypto.kdf import derive
from fedveil_common.crypto.prg import Streams
from fedveil_common.errors import PeerError
from fedveil_common.ids import OrgId
from fedveil_common.masking.packing import pack
from fedveil_common.masking.ring import Ring, word
from fedveil_common.secret import PrivateKey, Seed
from fedveil_common.transcript import LEAF_COORDINATES


@dataclass(frozen=True, slots=True)
class MaskKey:
    """One stream and whether it is subtracted (True) or added (False)."""

    key: Seed
    subtract: bool


def pair_key(
    t2: bytes, private: PrivateKey, peer_public: bytes, id_lo: OrgId, id_hi: OrgId, key_lo: bytes, key_hi: bytes
) -> bytes:
    """The 32-byte stream key of a pair, the same from either side: `lo` and `hi` by id order, with their public keys.

    Known to the two dealers, and to the coordinator once one of them dropped and its key was recovered.
    """
    secret = agreement.exchange(private, peer_public)
    return derive(t2, secret, "mask/pair/vec", id_lo.encode(), id_hi.encode(), key_lo, key_hi)


def self_key(t2: bytes, seed: Seed, org: OrgId) -> bytes:
    """The 32-byte stream key of a dealer's own mask. Known to it, and to the coordinator once it survived."""
    return derive(t2, seed.expose(), "mask/self/vec", org.encode())


def mask_keys(
    t2: bytes, org: OrgId, own: PrivateKey, self_seed: Seed, keys: Mapping[OrgId, bytes]
) -> tuple[MaskKey, ...]:
    """Every stream that `org` puts on its vector. `keys`: the public mask keys of all of U2, `org` included.

    ValueError if `keys` does not hold `org` under the public key of `own`. For `org` alone.
    """
    if org not in keys or keys[org] != agreement.public_key(own):
        raise ValueError("the mask keys of U2 do not hold our own public key")
    pairs = (
        MaskKey(_pair(t2, org, own, keys[org], other, keys[other]), subtract=other < org)
        for other in sorted(keys)
        if other != org
    )
    return (MaskKey(Seed(self_key(t2, self_seed, org)), subtract=False), *pairs)


def residual_keys(
    t2: bytes, dropped: OrgId, recovered: PrivateKey, survivors: Mapping[OrgId, bytes], dropped_public: bytes
) -> tuple[MaskKey, ...]:
    """The streams that cancel what `dropped` left in the survivors' masked inputs, with the sign that removes them.

    `recovered` is the dropped dealer's private mask key, rebuilt from shares; `survivors`: public mask keys of U3.
    Raises PeerError `wrong_secret_dealt`, peer = `dropped`, if the key is not the one advertised (all shares
    having matched their commitments, the dealer is at fault). ValueError if `dropped` is among the survivors.
    """
    if dropped in survivors:
        raise ValueError("a survivor's pair masks are never opened")
    if not hmac.compare_digest(agreement.public_key(recovered), dropped_public):
        raise PeerError(
            "wrong_secret_dealt", f"the shares of {dropped} give another key than it advertised", peer=dropped
        )
    return tuple(
        # A survivor below the dropped dealer had added the pair's stream; one above it had subtracted it.
        MaskKey(
            _pair(t2, dropped, recovered, dropped_public, survivor, survivors[survivor]), subtract=survivor < dropped
        )
        for survivor in sorted(survivors)
    )


def streams(keys: Iterable[MaskKey], start_word: int, bits: int) -> Streams:
    """The streams of `keys` from coordinate `start_word` on, for vectors in the ring 2^bits."""
    word_bytes = np.dtype(word(bits)).itemsize
    return Streams([(mask.key.expose(), mask.subtract) for mask in keys], start_word, word_bytes)


def opening_keys(self_keys: Iterable[bytes], dropped_pair_keys: Iterable[MaskKey]) -> tuple[MaskKey, ...]:
    """The streams that open a sum of masked inputs: every survivor's self mask off, what the dropped left off.

    `self_keys`: `self_key` of each survivor; `dropped_pair_keys`: `residual_keys` of each dealer in U2 but not in U3.
    """
    return (*(MaskKey(Seed(key), subtract=True) for key in self_keys), *dropped_pair_keys)


def leaves(ring: Ring, bits: int) -> Iterator[tuple[int, bytes]]:
    """(index, packed bytes) of each leaf: 16,384 coordinates in the ring 2^bits, the last shorter."""
    for index, start in enumerate(range(0, len(ring), LEAF_COORDINATES)):
        yield index, bytes(pack(ring[start : start + LEAF_COORDINATES], bits))


def _pair(t2: bytes, org: OrgId, own: PrivateKey, own_public: bytes, other: OrgId, other_public: bytes) -> Seed:
    (id_lo, key_lo), (id_hi, key_hi) = sorted([(org, own_public), (other, other_public)])
    return Seed(pair_key(t2, own, other_public, id_lo, id_hi, key_lo, key_hi))
