"""An opened round under protection paillier as it is published, and the proof that it is the round that was certified.

Promise: what `verify` returns follows from signatures of the roster's members: adverts, headers and votes as under
masked; the key, whose terms and record verify and whose holders are organisations of the roster; and the answers of one
quorum of them, by whose signed leaf roots every number that opened the sum is bound. That these numbers are right, and
the sum with them, is for `cipher_audit`, which needs the leaves. Public to the federation's members.
Source: FLSA/1 sections 2.2, 4.2 (docs/protocol.md); docs/paillier.md, section 6.
"""

import functools
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass

from fedveil_common import transcript
from fedveil_common.crypto import signing
from fedveil_common.ids import COORDINATOR, OrgId
from fedveil_common.masking import ring
from fedveil_common.messages import (
    BlobType,
    CipherHeader,
    Encryption,
    KeyAdvert,
    Manifest,
    Noise,
    Partial,
    Result,
)
from fedveil_common.paillier import key_record
from fedveil_common.paillier.key_record import KeyRecord
from fedveil_common.paillier.key_terms import KeyTerms
from fedveil_common.paillier.public_key import PublicKey
from fedveil_common.paillier.root import Holders
from fedveil_common.paillier.round_shape import RoundShape, shape_of_manifest
from fedveil_common.published import (
    PublishedRound,
    agreed,
    body_of,
    certified,
    not_proved,
    proving,
    signed_by,
)
from fedveil_common.roster import Roster


@dataclass(frozen=True, slots=True)
class ProvenCipher:
    """A published round under paillier that was verified. `quorum`: who answered, by index; `partials`: their signed
    answers; `leaf_hashes`: of each survivor's input, and of the noise under "coordinator", if there is any.
    """

    manifest: Manifest
    result: Result
    t2: bytes
    key: PublicKey
    shape: RoundShape
    survivors: tuple[OrgId, ...]
    quorum: tuple[int, ...]
    partials: Mapping[OrgId, Partial]
    leaf_hashes: Mapping[OrgId, tuple[bytes, ...]]
    product_hashes: tuple[bytes, ...]
    partial_hashes: Mapping[OrgId, tuple[bytes, ...]]

    def input_leaf(self, org: OrgId, index: int, data: bytes) -> bytes:
        """The hash of a leaf of an input, or of the noise."""
        if org == COORDINATOR:
            return transcript.noise_leaf(self.manifest.nonce, index, data)
        return transcript.input_leaf(self.t2, org, index, data)


@functools.lru_cache(maxsize=2)
def read_key(terms: bytes, record: bytes) -> tuple[Holders, PublicKey]:
    """The holders and the key of a published record, verified under the root of the published terms. PeerError,
    ConfigError. Remembered, because every round of a run shows the same two and a key of many holders has many proofs.
    """
    agreed_terms = KeyTerms.decode(terms)
    return agreed_terms.holders, key_record.verify(KeyRecord.from_bytes(record), agreed_terms.holders.root)


def verify(published: PublishedRound, roster: Roster, stated_corrupt: int = 1) -> ProvenCipher:
    """The round, if every part of it is proved by the members of `roster`, the version that the manifest binds. Cohort
    and quorum are held to the same formulas as under masked (`published.verify`). PeerError `round_not_proved`.
    """
    with proving():
        return _verify(published, roster, stated_corrupt)


def _verify(published: PublishedRound, roster: Roster, stated_corrupt: int) -> ProvenCipher:
    manifest, result = agreed(published, "paillier", roster, stated_corrupt)
    if len(manifest.encryption) != 1:
        raise not_proved("its manifest names no key")
    named = manifest.encryption[0]
    key = _key(published, manifest, roster)
    shape = shape_of_manifest(key.terms, manifest)
    if manifest.ring_bits != ring.smallest(len(manifest.cohort), manifest.value_bits, named.noise_cap):
        raise not_proved(f"a ring of {manifest.ring_bits} bits is not the one of such sums")
    t0 = transcript.t0(published.manifest.body)
    adverts = signed_by(published.adverts, BlobType.KEY_ADVERT, KeyAdvert, roster, manifest.cohort)
    if any(one != KeyAdvert(t0, org, named.fingerprint) for org, one in adverts.items()):
        raise not_proved("an advert is of another attempt, member or key")
    members = tuple(sorted(adverts))
    if published.dealers != members:
        raise not_proved("the members are not the signers of the adverts")
    t1 = transcript.t1(t0, {blob.signer_id: blob.body for blob in published.adverts})
    t2 = transcript.t2(t1, members)
    headers = signed_by(published.headers, BlobType.CIPHER_HEADER, CipherHeader, roster, members)
    due = (t2, named.fingerprint, manifest.length, shape.blocks.count, shape.blocks.width)
    for org, header in headers.items():
        made = (header.t2, header.fingerprint, header.length, header.blocks, header.width)
        if header.org_id != org or made != due:
            raise not_proved(f"the header of {org} is of another attempt, key or shape")
        _check_root(published.leaf_hashes, org, shape, header.leaf_root)
    t3 = certified(published, manifest, result, t2, roster, members)
    noise = _noise(published, manifest, shape, roster)
    if set(published.leaf_hashes) != {*headers, *([COORDINATOR] if noise else [])}:
        raise not_proved("the leaf hashes are not those of the inputs that were certified")
    if len(published.product_hashes) != shape.blocks.count:
        raise not_proved("not one leaf hash for each block of the product")
    if result.tag_sum or transcript.leaf_root(published.product_hashes) != result.product_root:
        raise not_proved("the product is not the one whose root the coordinator signed")
    partials = _partials(published, key, shape, t3, roster)
    return ProvenCipher(
        manifest,
        result,
        t2,
        key,
        shape,
        tuple(sorted(headers)),
        next(iter(partials.values())).quorum,
        partials,
        dict(published.leaf_hashes),
        published.product_hashes,
        dict(published.partial_hashes),
    )


def _key(published: PublishedRound, manifest: Manifest, roster: Roster) -> PublicKey:
    """The key that the manifest names: verified, of this federation, held by organisations of the roster."""
    named: Encryption = manifest.encryption[0]
    holders, key = read_key(published.key_terms, published.key_record)
    if (key.terms.key_id, key.epoch, key.fingerprint) != (named.key_id, named.epoch, named.fingerprint):
        raise not_proved("the published key is not the one that the manifest names")
    if key.terms.federation != manifest.federation_id:
        raise not_proved("the key is of another federation")
    for org, own in zip(key.terms.holders, holders.keys, strict=True):
        if org not in roster.participants or roster.key_of(org) != own:
            raise not_proved(f"the holder {org} of the key is not the organisation of that name in the roster")
    return key


def _noise(published: PublishedRound, manifest: Manifest, shape: RoundShape, roster: Roster) -> Noise | None:
    """The coordinator's noise exactly as the manifest commits to it (P5); None if it commits to none."""
    named = manifest.encryption[0]
    if not named.noise:
        if published.noise or named.noise_cap:
            raise not_proved("there is noise that the manifest does not commit to")
        return None
    if len(published.noise) != 1 or hashlib.sha256(published.noise[0].body).digest() != named.noise:
        raise not_proved("the noise is not the one that the manifest commits to")
    blob = published.noise[0]
    signing.verify(blob, roster.coordinator_key, BlobType.NOISE)
    noise = body_of(blob, BlobType.NOISE, Noise)
    due = (manifest.nonce, named.fingerprint, shape.blocks.count, shape.blocks.width)
    if blob.signer_id != COORDINATOR or (noise.nonce, noise.fingerprint, noise.blocks, noise.width) != due:
        raise not_proved("the noise is of another offer, key or shape")
    _check_root(published.leaf_hashes, COORDINATOR, shape, noise.leaf_root)
    return noise


def _partials(
    published: PublishedRound, key: PublicKey, shape: RoundShape, t3: bytes, roster: Roster
) -> dict[OrgId, Partial]:
    """The answers of exactly one quorum, each signed by its holder for this set of inputs."""
    terms = key.terms
    partials = signed_by(published.reveals, BlobType.PARTIAL, Partial, roster, terms.holders)
    quorums = {one.quorum for one in partials.values()}
    if len(quorums) != 1:
        raise not_proved("the answers are not those of one quorum")
    (quorum,) = quorums
    if len(quorum) != terms.threshold or quorum[-1] >= len(terms.holders):
        raise not_proved(f"{len(quorum)} holders answered together, {terms.threshold} are a quorum of this key")
    if set(partials) != {terms.holders[index] for index in quorum} or set(published.partial_hashes) != set(partials):
        raise not_proved("not one answer of each holder of the quorum")
    for org, partial in partials.items():
        if (partial.t3, partial.org_id) != (t3, org):
            raise not_proved(f"the answer of {org} is of another holder or for another set of inputs")
        _check_root(published.partial_hashes, org, shape, partial.leaf_root)
    return {org: partials[org] for org in sorted(partials)}


def _check_root(hashes: Mapping[OrgId, tuple[bytes, ...]], org: OrgId, shape: RoundShape, root: bytes) -> None:
    found = hashes.get(org, ())
    if len(found) != shape.blocks.count or transcript.leaf_root(found) != root:
        raise not_proved(f"the leaf hashes of {org} are not those that it signed")
