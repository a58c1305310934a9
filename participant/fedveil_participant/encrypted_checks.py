"""What a participant insists on under protection paillier beside `checks`: one function a rule.

Each returns what it established or raises a typed error: then nothing was sent and no key share was used.
Source: docs/paillier.md, section 6 (P4, P5, G8).
"""

import hashlib
from collections.abc import Sequence

from fedveil_common import wire
from fedveil_common.errors import PeerError, PolicyRefusal
from fedveil_common.ids import OrgId
from fedveil_common.messages import BlobType, CipherHeader, KeyAdvert, Manifest, Noise, QuorumCall, SignedBlob
from fedveil_common.paillier.key_use import KeyUse
from fedveil_common.paillier.round_shape import shape_in_use
from fedveil_common.roster import Roster

from fedveil_participant.checks import coordinator_signature, member_signature
from fedveil_participant.stages import Decrypting, Frame

NOTHING = "nothing was decrypted"

MAX_FAILURES = 8
"""How often a holder looks at lifts that are wrong before it leaves the attempt to the others (G2)."""


def manifest_key(manifest: Manifest, keys: Sequence[KeyUse], noise_cap: int) -> None:
    """The manifest names exactly the key that this organisation pinned for the plan, and a vector that fits it.
    `noise_cap`: of the noise that the plan lets the coordinator add.
    """
    if len(manifest.encryption) != 1 or len(keys) != 1:
        raise PeerError("wrong_key", "the manifest names no key, or the plan is not under paillier")
    named, use = manifest.encryption[0], keys[0]
    if (named.key_id, named.epoch, named.fingerprint) != (use.key_id, use.epoch, use.fingerprint):
        raise PeerError(
            "wrong_key",
            f"the manifest names key {named.key_id} of epoch {named.epoch}, pinned is {use.key_id} of {use.epoch}",
            not_done="nothing was encrypted",
            next_step="compare the fingerprints of both by telephone: `fedveil key show`",
        )
    if (bool(named.noise), named.noise_cap) != (noise_cap > 0, noise_cap):
        raise PeerError("manifest_differs_from_plan", "the manifest adds another noise than the plan says")
    shape_in_use(use, manifest)


def pinned_key(manifest: Manifest, keys: Sequence[KeyUse]) -> KeyUse:
    """The key of an attempt, of those pinned for its plan now: since the offer a pin can have moved on, or gone."""
    for use in keys:
        if use.fingerprint == manifest.encryption[0].fingerprint:
            return use
    raise PolicyRefusal(
        "key_not_pinned",
        f"the key that round {manifest.key.round} is encrypted under is not the one pinned here",
        not_done="nothing was encrypted or decrypted",
        next_step="fedveil key pin TERMS RECORD",
    )


def key_opens_only_together(use: KeyUse, corrupt: int) -> None:
    """The corrupt members that the plan reckons with cannot open anything by themselves."""
    if use.threshold <= corrupt:
        raise PolicyRefusal(
            "key_threshold_too_small",
            f"{use.threshold} holders open what is encrypted, and {corrupt} members may be corrupt",
            not_done="the plan was not accepted",
            next_step="make a key with a larger threshold, or a plan with a smaller cohort.max_corrupt",
        )


def key_advert(blob: SignedBlob, frame: Frame, roster: Roster) -> KeyAdvert:
    """An advert of a cohort member for my attempt, under the key of the manifest."""
    member_signature(blob, roster, frame.manifest.cohort, BlobType.KEY_ADVERT)
    body = wire.parse_body(BlobType.KEY_ADVERT, blob.body)
    assert isinstance(body, KeyAdvert)
    if body.t0 != frame.t0:
        raise PeerError("wrong_transcript", "an advert is for another attempt", peer=blob.signer_id)
    if body.org_id != blob.signer_id:
        raise PeerError(
            "wrong_signer", f"an advert of {body.org_id} is signed by {blob.signer_id}", peer=blob.signer_id
        )
    if body.fingerprint != frame.manifest.encryption[0].fingerprint:
        raise PeerError("wrong_key", "an advert names another key than the manifest", peer=blob.signer_id)
    return body


def cipher_header(
    blob: SignedBlob, t2: bytes, members: Sequence[OrgId], manifest: Manifest, use: KeyUse, roster: Roster
) -> CipherHeader:
    """A survivor's header: signed by it, under my T2 and my key, of exactly the agreed shape."""
    member_signature(blob, roster, members, BlobType.CIPHER_HEADER)
    body = wire.parse_body(BlobType.CIPHER_HEADER, blob.body)
    assert isinstance(body, CipherHeader)
    if body.t2 != t2 or body.org_id != blob.signer_id:
        raise PeerError("wrong_transcript", "a header is of another attempt or of another member", peer=blob.signer_id)
    if body.fingerprint != use.fingerprint:
        raise PeerError("wrong_key", "a header is of ciphertexts under another key", peer=blob.signer_id)
    shape = shape_in_use(use, manifest)
    if (body.length, body.blocks, body.width) != (manifest.length, shape.blocks.count, shape.blocks.width):
        raise PeerError("wrong_shape", "a header announces another vector than the manifest", peer=blob.signer_id)
    return body


def quorum_call(call: QuorumCall, stage: Decrypting, use: KeyUse, me: OrgId, roster: Roster) -> None:
    """P4: the certified set and no other, a quorum with me in it, no more quorums than holders, the noise agreed to."""
    if call.t3 != stage.t3:
        raise PeerError("wrong_transcript", "a quorum is called for another set of inputs", not_done=NOTHING)
    if len(call.quorum) != use.threshold or call.quorum[-1] >= len(use.holders) or me not in use.names(call.quorum):
        raise PeerError("wrong_quorum", f"not {use.threshold} holders of the key with me among them", not_done=NOTHING)
    known = stage.quorums  # answered or not: what is computed for a quorum may still be asked for
    if call.quorum not in known and len(known) >= len(use.holders):
        raise PeerError("too_many_quorums", f"{len(known)} quorums were called for one set of inputs", not_done=NOTHING)
    if stage.failures >= MAX_FAILURES:
        raise PeerError(
            "too_many_failures", f"what was to be opened was wrong {stage.failures} times", not_done=NOTHING
        )
    agreed_noise(call.noise, stage.frame.manifest, roster)


def agreed_noise(blobs: Sequence[SignedBlob], manifest: Manifest, roster: Roster) -> Noise | None:
    """P5: the coordinator's noise exactly as the manifest commits to it, made for this offer; None if there is none."""
    committed = manifest.encryption[0].noise
    if len(blobs) != bool(committed):
        raise PeerError("wrong_noise", "not the noise that the manifest commits to", not_done=NOTHING)
    for blob in blobs:
        coordinator_signature(blob, roster, BlobType.NOISE)
        body = wire.parse_body(BlobType.NOISE, blob.body)
        assert isinstance(body, Noise)
        named = (body.nonce, body.fingerprint) == (manifest.nonce, manifest.encryption[0].fingerprint)
        if hashlib.sha256(blob.body).digest() != committed or not named:
            raise PeerError(
                "wrong_noise", "the noise is not what the manifest commits to", not_done="nothing was decrypted"
            )
        return body
    return None
