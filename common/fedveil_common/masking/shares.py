"""Dealt shares on their way: sealed for one recipient, committed to in the clear, opened with every check.

Invariant: what `open_share` returns matches the dealer's signed commitments, so whoever later reveals something else is
at fault; and whatever a dealer or the coordinator did to a message, the outcome is a PeerError and nothing else.
Source: FLSA/1 sections 2.3 (M1, M3, M4, M9), 2.9, A11, A12 (docs/protocol.md). Vectors: tests/vectors/shares.json.
"""

import hmac
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from fedveil_common.crypto import agreement, shamir
from fedveil_common.crypto.aead import NONCE_BYTES, TAG_BYTES, open_sealed, seal
from fedveil_common.crypto.draws import Draws
from fedveil_common.crypto.kdf import derive
from fedveil_common.crypto.labels import h, u16
from fedveil_common.errors import FedveilError, IntegrityError, PeerError
from fedveil_common.ids import OrgId
from fedveil_common.messages import ShareMsg, ShareOpening
from fedveil_common.secret import PrivateKey, Seed, Share

_VERSION = b"\x01"
_KEY_SHARE = 3
_SELF_SHARE = _KEY_SHARE + shamir.SHARE_BYTES
_KAPPA = _SELF_SHARE + shamir.SHARE_BYTES
_PLAINTEXT_BYTES = _KAPPA + 32
CIPHERTEXT_BYTES = _PLAINTEXT_BYTES + TAG_BYTES


@dataclass(frozen=True, slots=True)
class OpenedShare:
    """What one dealer gave to one recipient: a share of its mask key, one of its self seed, its part of the tag key."""

    key_share: Share
    self_share: Share
    kappa: Seed


@dataclass(frozen=True, slots=True)
class Dealt:
    """A dealer's whole work: one sealed message per other member of U1, and the shares of every member, its own too."""

    messages: tuple[ShareMsg, ...]
    shares: Mapping[OrgId, OpenedShare]


def selfseed_commit(t0: bytes, org: OrgId, seed: Seed) -> bytes:
    """What an advert says about the self seed: H("selfseed", T0, org, seed)."""
    return h("selfseed", t0, org.encode(), seed.expose())


def kappa_commit(t0: bytes, org: OrgId, kappa: Seed) -> bytes:
    """What an advert says about the tag key part: H("kappa", T0, org, kappa)."""
    return h("kappa", t0, org.encode(), kappa.expose())


def key_share_commit(t1: bytes, dealer: OrgId, recipient: OrgId, share: Share) -> bytes:
    """cs: the commitment to a share of the dealer's mask key."""
    return h("sharecommit/s", t1, dealer.encode(), recipient.encode(), share.expose())


def self_share_commit(t1: bytes, dealer: OrgId, recipient: OrgId, share: Share) -> bytes:
    """cb: the commitment to a share of the dealer's self seed."""
    return h("sharecommit/b", t1, dealer.encode(), recipient.encode(), share.expose())


def deal_to_all(
    t1: bytes,
    dealer: OrgId,
    xs: Mapping[OrgId, int],
    channel_private: PrivateKey,
    channel_keys: Mapping[OrgId, bytes],
    mask_private: PrivateKey,
    self_seed: Seed,
    kappa: Seed,
    threshold: int,
    draws: Draws,
) -> Dealt:
    """Shares both secrets of `dealer` among all of U1 (the keys of `channel_keys`, `dealer` included).

    `xs`: x-coordinates, 1 + index in the byte-sorted cohort. All coefficients and nonces come from `draws`, under T1: a
    replay repeats the same messages. Raises PeerError `low_order_key` for a channel key that `check_public_key`
    refuses.
    """
    members = sorted(channel_keys)
    at = [xs[org] for org in members]
    key_coefficients = draws.below("shamir/key", shamir.PRIME, threshold - 1, t1)
    self_coefficients = draws.below("shamir/self", shamir.PRIME, threshold - 1, t1)
    key_shares = shamir.deal(mask_private.expose(), threshold, at, key_coefficients)
    self_shares = shamir.deal(self_seed.expose(), threshold, at, self_coefficients)
    messages = tuple(
        seal_share(
            t1,
            dealer,
            recipient,
            xs[recipient],
            channel_private,
            channel_keys[recipient],
            key_shares[xs[recipient]],
            self_shares[xs[recipient]],
            kappa,
            draws.bytes("share/nonce", NONCE_BYTES, t1, recipient.encode()),
        )
        for recipient in members
        if recipient != dealer
    )
    return Dealt(messages, {org: OpenedShare(key_shares[xs[org]], self_shares[xs[org]], kappa) for org in members})


def seal_share(
    t1: bytes,
    dealer: OrgId,
    recipient: OrgId,
    x: int,
    channel_private: PrivateKey,
    recipient_channel_key: bytes,
    key_share: Share,
    self_share: Share,
    kappa: Seed,
    nonce: bytes,
) -> ShareMsg:
    """M3 from `dealer` to `recipient`, whose x-coordinate is `x`: only the holder of its channel key can open it."""
    plaintext = _VERSION + u16(x) + key_share.expose() + self_share.expose() + kappa.expose()
    key = _channel(t1, dealer, recipient, channel_private, recipient_channel_key)
    return ShareMsg(
        t1=t1,
        dealer=dealer,
        recipient=recipient,
        key_share_commit=key_share_commit(t1, dealer, recipient, key_share),
        self_share_commit=self_share_commit(t1, dealer, recipient, self_share),
        nonce=nonce,
        ciphertext=seal(key, nonce, plaintext, h("share/aad", t1, dealer.encode(), recipient.encode())),
    )


def open_share(
    message: ShareMsg, x: int, channel_private: PrivateKey, dealer_channel_key: bytes, kappa_commit: bytes, t0: bytes
) -> OpenedShare:
    """What `message.dealer` dealt to us, at our x-coordinate `x`. Call after signature, T1 and recipient were checked.

    `kappa_commit` and `dealer_channel_key` come from the dealer's advert under `t0`. Raises PeerError `bad_share` with
    the dealer as peer for every defect, and no other exception.
    """
    try:
        return _open(message, x, channel_private, dealer_channel_key, kappa_commit, t0)
    except FedveilError as error:
        raise PeerError(
            "bad_share",
            f"the share dealt by {message.dealer} is unusable ({error.code})",
            peer=message.dealer,
            not_done="the share was not kept",
            next_step="a complaint goes out; the dealer may answer it by opening the share",
        ) from error


def check_opening(opening: ShareOpening, message: ShareMsg) -> tuple[Share, Share]:
    """(key share, self share) if the dealer's public answer to a complaint matches its own signed commitments.

    Raises PeerError `bad_opening`, peer = the dealer: an answer that does not match is none.
    """
    same = (opening.t1, opening.dealer, opening.recipient) == (message.t1, message.dealer, message.recipient)
    try:
        if not same:
            raise IntegrityError("bad_share", "the opening answers another message")
        return _committed_key_share(message, opening.key_share), _committed_self_share(message, opening.self_share)
    except IntegrityError as error:
        raise PeerError(
            "bad_opening", f"the opening by {message.dealer} does not match", peer=message.dealer
        ) from error


def check_revealed_key_share(message: ShareMsg, revealed: bytes) -> Share:
    """The share of `message.dealer`'s mask key that `message.recipient` reveals, if it is the one it was dealt.

    Raises PeerError `bad_share`, peer = the revealer (the message's recipient).
    """
    return _revealed(message, _committed_key_share, revealed)


def check_revealed_self_share(message: ShareMsg, revealed: bytes) -> Share:
    """The same for a share of `message.dealer`'s self seed."""
    return _revealed(message, _committed_self_share, revealed)


def check_self_seed(t0: bytes, org: OrgId, seed: Seed, commit: bytes) -> None:
    """Returns if `seed`, revealed by `org` or rebuilt from shares, is the one its advert committed to.

    Raises PeerError `wrong_secret_dealt`, peer = `org`.
    """
    if not hmac.compare_digest(selfseed_commit(t0, org, seed), commit):
        raise PeerError("wrong_secret_dealt", f"the self seed of {org} is not the one it committed to", peer=org)


def _channel(t1: bytes, dealer: OrgId, recipient: OrgId, private: PrivateKey, peer_public: bytes) -> bytes:
    """Directional: the key from i to j is not the key from j to i."""
    secret = agreement.exchange(private, peer_public)
    return derive(t1, secret, "share/key", dealer.encode(), recipient.encode())


def _open(
    message: ShareMsg, x: int, channel_private: PrivateKey, dealer_channel_key: bytes, commit: bytes, t0: bytes
) -> OpenedShare:
    dealer, recipient = message.dealer, message.recipient
    if len(message.ciphertext) != CIPHERTEXT_BYTES:
        raise IntegrityError("bad_length", f"{len(message.ciphertext)} bytes of ciphertext, not {CIPHERTEXT_BYTES}")
    key = _channel(message.t1, dealer, recipient, channel_private, dealer_channel_key)
    aad = h("share/aad", message.t1, dealer.encode(), recipient.encode())
    plaintext = open_sealed(key, message.nonce, message.ciphertext, aad)
    if plaintext[:_KEY_SHARE] != _VERSION + u16(x):
        raise IntegrityError("wrong_x", "the share is for another version or x-coordinate")
    key_share = _committed_key_share(message, plaintext[_KEY_SHARE:_SELF_SHARE])
    self_share = _committed_self_share(message, plaintext[_SELF_SHARE:_KAPPA])
    kappa = Seed(plaintext[_KAPPA:])
    if not hmac.compare_digest(kappa_commit(t0, dealer, kappa), commit):
        raise IntegrityError("wrong_kappa", "the tag key part is not the one committed to")
    return OpenedShare(key_share, self_share, kappa)


def _committed_key_share(message: ShareMsg, value: bytes) -> Share:
    share = shamir.check_share(value)
    _same(key_share_commit(message.t1, message.dealer, message.recipient, share), message.key_share_commit)
    return share


def _committed_self_share(message: ShareMsg, value: bytes) -> Share:
    share = shamir.check_share(value)
    _same(self_share_commit(message.t1, message.dealer, message.recipient, share), message.self_share_commit)
    return share


def _same(computed: bytes, committed: bytes) -> None:
    if not hmac.compare_digest(computed, committed):
        raise IntegrityError("wrong_commitment", "the share is not the one committed to")


def _revealed(message: ShareMsg, committed: Callable[[ShareMsg, bytes], Share], revealed: bytes) -> Share:
    try:
        return committed(message, revealed)
    except IntegrityError as error:
        raise PeerError(
            "bad_share",
            f"{message.recipient} revealed another share of {message.dealer} than it was dealt",
            peer=message.recipient,
        ) from error
