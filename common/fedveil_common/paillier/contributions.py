"""What each holder adds to a seed: committed to first, then sealed end to end for the others who may know the seed.

Promise: a seed is as random as the best contribution in it; nobody chose a contribution after seeing another; neither
the transport nor a holder of the set that must not know the seed can open one. Whatever a dealer did, the outcome is a
PeerError that names it. Source: docs/paillier-keys.md (P-K, G6); the sealing follows FLSA/1 M3 (docs/protocol.md).
"""

import hmac
from collections.abc import Mapping

from fedveil_common.crypto import aead, agreement
from fedveil_common.crypto.kdf import derive
from fedveil_common.errors import FedveilError, PeerError
from fedveil_common.paillier.encoding import hp
from fedveil_common.paillier.root import Holders
from fedveil_common.paillier.shares import SeedSet
from fedveil_common.secret import PrivateKey, Seed

SEALED_BYTES = 32 + aead.TAG_BYTES
_NONCE = bytes(aead.NONCE_BYTES)
# The key comes from the commitments' transcript, which fixes the contribution: it can seal no second message.


def channel_key(channel: PrivateKey) -> bytes:
    """The public half of a holder's X25519 key for one ceremony."""
    return agreement.public_key(channel)


def commitment(follows: bytes, absent: SeedSet, dealer: int, contribution: Seed) -> bytes:
    """Hp("ceremony/commit", transcript of the channel keys, A, u8 dealer, contribution): it binds, and hides."""
    return hp("ceremony/commit", follows, bytes(absent), bytes([dealer]), contribution.expose())


def seal(
    holders: Holders,
    follows: bytes,
    absent: SeedSet,
    dealer: int,
    recipient: int,
    channel: PrivateKey,
    recipient_key: bytes,
    contribution: Seed,
) -> bytes:
    """48 bytes that `recipient` alone can open. `follows`: the transcript of all commitments."""
    key = _key(follows, absent, dealer, recipient, channel, recipient_key)
    return aead.seal(key, _NONCE, contribution.expose(), _associated(holders, absent, dealer, recipient))


def open_contribution(
    holders: Holders,
    follows: bytes,
    absent: SeedSet,
    dealer: int,
    recipient: int,
    channel: PrivateKey,
    dealer_key: bytes,
    sealed: bytes,
    committed: bytes,
    committed_under: bytes,
) -> Seed:
    """What `dealer` gave us, `recipient`. `committed`: its commitment, made under the transcript `committed_under`.

    PeerError `bad_contribution`, peer = the dealer, for every defect.
    """
    name = holders.name(dealer)
    try:
        key = _key(follows, absent, dealer, recipient, channel, dealer_key)
        contribution = Seed(aead.open_sealed(key, _NONCE, sealed, _associated(holders, absent, dealer, recipient)))
    except (FedveilError, ValueError) as error:  # ValueError: authentic, but not 32 bytes
        raise _bad(f"that of {name} to the set {list(absent)} does not open", name) from error
    if not hmac.compare_digest(commitment(committed_under, absent, dealer, contribution), committed):
        raise _bad(f"{name} opened another for the set {list(absent)} than it committed to", name)
    return contribution


def joint_seed(holders: Holders, follows: bytes, absent: SeedSet, contributions: Mapping[int, Seed]) -> Seed:
    """seed_A of epoch 0: HKDF over the contributions of all holders outside A, ascending. For those holders alone."""
    outside = [index for index in range(len(holders.terms.holders)) if index not in absent]
    if sorted(contributions) != outside:
        raise ValueError("one contribution of each holder outside the set")
    joined = b"".join(contributions[index].expose() for index in outside)
    return Seed(derive(follows, joined, "paillier/seed", holders.root, bytes(absent)))


def _key(follows: bytes, absent: SeedSet, dealer: int, recipient: int, private: PrivateKey, public: bytes) -> bytes:
    """Directional, and one for each set."""
    secret = agreement.exchange(private, public)
    return derive(follows, secret, "paillier/contribution", bytes(absent), bytes([dealer]), bytes([recipient]))


def _associated(holders: Holders, absent: SeedSet, dealer: int, recipient: int) -> bytes:
    return hp("ceremony/aad", holders.root, bytes(absent), bytes([dealer]), bytes([recipient]))


def _bad(what: str, peer: str) -> PeerError:
    return PeerError(
        "bad_contribution",
        f"a contribution is none: {what}",
        peer=peer,
        not_done="no seed was made",
        next_step="begin anew without that holder",
    )
