"""Ed25519 signatures over labelled bytes: who said exactly this, as exactly this kind of message.

Invariant: the type and the signer are part of what is signed, so a vote never verifies as an abort vote and a message
of one organisation never as one of another. Verified over the bytes as received; a body is parsed only afterwards.
A public key under which anybody can sign is nobody's: nothing verifies under it.
Source: FLSA/1 section 2.1 (docs/protocol.md); RFC 8032.
"""

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from fedveil_common.crypto.labels import labelled
from fedveil_common.errors import PeerError
from fedveil_common.ids import OrgId
from fedveil_common.messages import BlobType, SignedBlob
from fedveil_common.secret import PrivateKey

PUBLIC_KEY_BYTES = 32
SIGNATURE_BYTES = 64

_BLOB_PREFIX = "sig/"

_FIELD = 2**255 - 19
# The y-coordinates of the points whose order divides 8. Under such a key R = S B verifies for a fixed share of all
# messages, or for all of them, and who made the key cannot be told from who did not. OpenSSL takes them.
_LOW_ORDER = frozenset(
    {
        0,
        1,
        _FIELD - 1,
        2707385501144840649318225287225658788936804267575313519463743609750303402022,
        55188659117513257062467267217118295137698188065244968500265048394206261417927,
    }
)


def public_key(private: PrivateKey) -> bytes:
    """The 32-byte public key of an Ed25519 private key."""
    return Ed25519PrivateKey.from_private_bytes(private.expose()).public_key().public_bytes_raw()


def sign(private: PrivateKey, signer_id: OrgId, type: BlobType, body: bytes) -> SignedBlob:
    """`body` signed by `signer_id` as a message of `type`. Deterministic: equal inputs give an equal signature."""
    sig = _sign(private, labelled(_BLOB_PREFIX + type.value, signer_id.encode(), body))
    return SignedBlob(signer_id=signer_id, type=type, body=body, sig=sig)


def verify(blob: SignedBlob, public_key: bytes, expected: BlobType) -> None:
    """Returns if `blob` is of type `expected` and signed by the holder of `public_key` under its signer's name.

    Raises PeerError `wrong_type` or `bad_signature`; `peer` is the claimed signer.
    """
    if blob.type is not expected:
        raise PeerError(
            "wrong_type",
            f"a message of type {blob.type.value} stands where {expected.value} belongs",
            peer=blob.signer_id,
        )
    _verify(
        public_key,
        blob.sig,
        labelled(_BLOB_PREFIX + expected.value, blob.signer_id.encode(), blob.body),
        blob.signer_id,
    )


def sign_bytes(private: PrivateKey, label: str, *fields: bytes) -> bytes:
    """A signature over LP("FLSA/1/"+label) || LP(f1) || ...: for what is not a `SignedBlob`. 64 bytes.

    Labels beginning with "sig/" belong to `sign`: ValueError.
    """
    return _sign(private, _own_label(label, fields))


def verify_bytes(public_key: bytes, signature: bytes, label: str, *fields: bytes, peer: str = "") -> None:
    """Returns if `signature` is the holder's of `public_key` over these fields; raises PeerError `bad_signature`."""
    _verify(public_key, signature, _own_label(label, fields), peer)


def _own_label(label: str, fields: tuple[bytes, ...]) -> bytes:
    if label.startswith(_BLOB_PREFIX):  # otherwise a signature over fields could be passed off as a signed message
        raise ValueError(f"labels beginning with {_BLOB_PREFIX} belong to signed blobs")
    return labelled(label, *fields)


def _sign(private: PrivateKey, message: bytes) -> bytes:
    return Ed25519PrivateKey.from_private_bytes(private.expose()).sign(message)


def _verify(public_key: bytes, signature: bytes, message: bytes, peer: str) -> None:
    try:
        Ed25519PublicKey.from_public_bytes(public_key).verify(signature, message)
    except (InvalidSignature, ValueError) as error:  # ValueError: the key is not 32 bytes
        raise PeerError("bad_signature", "a signature does not verify", peer=peer) from error
    y = int.from_bytes(public_key, "little") & (2**255 - 1)
    if y >= _FIELD or y in _LOW_ORDER:
        raise PeerError("bad_signature", "a signature does not verify", peer=peer)  # anybody can sign under such a key
