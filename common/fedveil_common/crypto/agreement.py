"""X25519: two organisations agree on a secret that the coordinator, who carries their keys, does not learn.

Invariant: no secret is ever derived from a point of low order, and one point has one accepted encoding, so that "all
keys are distinct" compares bytes. Source: RFC 7748 sections 5 and 6.1; FLSA/1 section 2.6 (docs/protocol.md).
"""

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey

from fedveil_common.errors import PeerError
from fedveil_common.secret import PrivateKey

PUBLIC_KEY_BYTES = 32

_FIELD = 2**255 - 19
# The u-coordinates of order 1, 2, 4 and 8 on the curve and on its twist, in canonical form; every other encoding of
# them is at least the field's prime and falls to the canonicity check.
_LOW_ORDER = frozenset(
    {
        0,
        1,
        _FIELD - 1,
        325606250916557431795983626356110631294008115727848805560023387167927233504,
        39382357235489614581723060781553021112529911719440698176882885853963445705823,
    }
)


def public_key(private: PrivateKey) -> bytes:
    """The 32-byte public key of an X25519 private key."""
    return X25519PrivateKey.from_private_bytes(private.expose()).public_key().public_bytes_raw()


def check_public_key(key: bytes) -> None:
    """Returns if `key` may be used: 32 bytes, canonical (below 2^255 - 19), not of low order.

    Raises PeerError `bad_public_key`.
    """
    if len(key) != PUBLIC_KEY_BYTES:
        raise PeerError("bad_public_key", f"an X25519 public key has {len(key)} bytes instead of {PUBLIC_KEY_BYTES}")
    u = int.from_bytes(key, "little")
    if u >= _FIELD:
        raise PeerError("bad_public_key", "an X25519 public key is not in canonical form")
    if u in _LOW_ORDER:
        raise PeerError("bad_public_key", "an X25519 public key is a point of low order")


def exchange(private: PrivateKey, peer_public: bytes) -> bytes:
    """The raw 32-byte X25519 output: input to a key derivation, never a key itself.

    Raises PeerError `bad_public_key` for a wrong length and `low_order_key` for an all-zero output.
    """
    if len(peer_public) != PUBLIC_KEY_BYTES:
        raise PeerError("bad_public_key", f"an X25519 public key has {len(peer_public)} bytes instead of 32")
    own = X25519PrivateKey.from_private_bytes(private.expose())
    try:
        return own.exchange(X25519PublicKey.from_public_bytes(peer_public))
    except ValueError as error:  # the only cause left is the all-zero output
        raise PeerError("low_order_key", "an X25519 exchange gave the all-zero secret") from error
