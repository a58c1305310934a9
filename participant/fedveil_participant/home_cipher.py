"""Encryption and partial decryption with the keys of one home: what `encrypting` and `answering` do, under which key.

Promise: only the pinned key is encrypted under, and only seeds of exactly that epoch answer; masks are made ahead of
time as soon as a plan is accepted. Any thread. Source: docs/paillier.md, section 6.
"""

import threading
from collections.abc import Callable, Sequence
from dataclasses import astuple
from typing import Protocol

import numpy as np
from fedveil_common import wire
from fedveil_common.errors import PeerError, PolicyRefusal
from fedveil_common.ids import COORDINATOR, OrgId, RunId
from fedveil_common.messages import BlobType, CipherHeader, Manifest, Noise, SignedBlob
from fedveil_common.paillier.holder_key import HolderKey
from fedveil_common.paillier.input_proof import Context, noise_context
from fedveil_common.paillier.key_use import KeyUse
from fedveil_common.paillier.public_key import PublicKey
from fedveil_common.paillier.round_shape import RoundShape, shape_in_use
from fedveil_common.ports import Entropy, LeafSink
from numpy.typing import NDArray

from fedveil_participant.answering import answer, certified_product
from fedveil_participant.certified_headers import CertifiedHeaders
from fedveil_participant.encrypting import encrypted_input
from fedveil_participant.events import AnswerQuorum, EncryptUpdate, ProvenAnswer, ProvenInput
from fedveil_participant.mask_source import MaskSource


class Keys(Protocol):
    """What this organisation pinned, and what it holds."""

    def use(self, key_id: str) -> KeyUse:
        """The pinned key. PolicyRefusal `key_not_pinned`."""
        ...

    def public(self, key_id: str) -> PublicKey:
        """The same, verified, to encrypt under."""
        ...

    def holding(self, key_id: str, me: OrgId) -> HolderKey | None:
        """The seeds of `me` in the pinned epoch; None if it holds none. Secret."""
        ...

    def claim(self, key_id: str, epoch: int, run_id: RunId) -> None:
        """This epoch serves this run. PolicyRefusal `key_epoch_used`."""
        ...


MakeMasks = Callable[[PublicKey, RoundShape], MaskSource]
"""(key, shape of what will be encrypted) -> masks for it, made ahead of time or not."""


class HomeCipher:
    """The keys of one home at work."""

    def __init__(self, keys: Keys, entropy: Entropy, make_masks: MakeMasks) -> None:
        self._keys = keys
        self._entropy = entropy
        self._make_masks = make_masks
        self._lock = threading.Lock()
        self._masks: dict[bytes, MaskSource] = {}

    def accepted(self, key_id: str) -> KeyUse:
        """The pinned key. PolicyRefusal `key_not_pinned`."""
        return self._keys.use(key_id)

    def claim(self, use: KeyUse, run_id: RunId) -> None:
        """This epoch of the key serves this run. PolicyRefusal `key_epoch_used`."""
        self._keys.claim(use.key_id, use.epoch, run_id)

    def prepare(self, use: KeyUse, shape: RoundShape) -> None:
        """Begin to make masks for inputs of this shape, if none are being made for the key."""
        self._masks_of(self._public(use), shape)

    def encrypt(
        self, action: EncryptUpdate, use: KeyUse, me: OrgId, integers: NDArray[np.int64], sink: LeafSink
    ) -> tuple[ProvenInput, tuple[bytes, ...]]:
        """What the header says, and the leaf hashes. Errors as `encrypted_input`."""
        key, shape = self._public(use), shape_in_use(use, action.manifest)
        masks = self._masks_of(key, shape)
        made = encrypted_input(key, masks, shape, action.t0, action.t2, me, integers, action.own, self._entropy, sink)
        return ProvenInput(*astuple(made[0])), made[1]

    def answer(
        self, action: AnswerQuorum, use: KeyUse, me: OrgId, fetched: CertifiedHeaders, sink: LeafSink
    ) -> tuple[ProvenAnswer, tuple[bytes, ...]]:
        """The proof and the leaf hashes of this holder's answer. Errors as `certified_product` and `answer`."""
        key, shape = self._public(use), shape_in_use(use, action.manifest)
        holder = self._keys.holding(use.key_id, me)
        if holder is None:
            raise PeerError("wrong_quorum", "this organisation holds no part of the key", peer=COORDINATOR)
        survivors = {blob.signer_id: _header(blob) for blob in action.headers}
        noise = _noise(action.noise, action.manifest, shape, fetched.noise)
        products = certified_product(key, shape, action.t0, survivors, fetched.headers, noise)
        made = answer(
            key, holder, shape, action.t3, action.quorum, products, fetched.lifts, action.own, self._entropy, sink
        )
        return ProvenAnswer(*astuple(made[0])), made[1]

    def close(self) -> None:
        """Nothing is made ahead of time any more."""
        with self._lock:
            sources, self._masks = list(self._masks.values()), {}
        for source in sources:
            end = getattr(source, "close", None)
            if end is not None:
                end()

    def _public(self, use: KeyUse) -> PublicKey:
        key = self._keys.public(use.key_id)
        if key.fingerprint != use.fingerprint:
            raise PolicyRefusal(
                "key_not_pinned",
                f"another epoch of the key {use.key_id} is pinned than this run uses",
                not_done="nothing was encrypted or decrypted",
                next_step="wait for the end of the run before the next epoch is pinned",
            )
        return key

    def _masks_of(self, key: PublicKey, shape: RoundShape) -> MaskSource:
        with self._lock:
            if key.fingerprint not in self._masks:
                self._masks[key.fingerprint] = self._make_masks(key, shape)
            return self._masks[key.fingerprint]


def _header(blob: SignedBlob) -> CipherHeader:
    body = wire.parse_body(BlobType.CIPHER_HEADER, blob.body)
    assert isinstance(body, CipherHeader)
    return body


def _noise(
    blobs: Sequence[SignedBlob], manifest: Manifest, shape: RoundShape, headers: Sequence[int]
) -> tuple[Noise, Sequence[int], Context] | None:
    for blob in blobs:
        body = wire.parse_body(BlobType.NOISE, blob.body)
        assert isinstance(body, Noise)
        key, blocks = manifest.key, shape.blocks
        place = (manifest.federation_id, key.run_id, key.round, key.attempt, manifest.nonce)
        return body, headers, noise_context(*place, blocks.count, blocks.width)
    return None
