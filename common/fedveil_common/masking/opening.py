"""From a certificate and its reveals to what takes the masks off: the same for who opens a sum and for who audits it.

Promise: for each dealer exactly one of its two secrets is recovered (the self seed of a survivor, the mask key of a
dropped one), and a secret that does not match what the dealer committed to convicts the dealer. Pure.
Source: FLSA/1 sections 2.3, 2.9, 4 (docs/protocol.md).
"""

from collections.abc import Mapping
from dataclasses import dataclass

from fedveil_common.crypto import shamir
from fedveil_common.errors import FedveilError, PeerError
from fedveil_common.ids import OrgId
from fedveil_common.masking import checksum, masks, shares
from fedveil_common.messages import Advert, Manifest, Reveal
from fedveil_common.secret import PrivateKey, Seed


@dataclass(frozen=True, slots=True)
class Unmasking:
    """Everything needed to take the masks off: stream keys, and what the masks add to the sum of the tags. Known to the
    coordinator after a certificate, and to whoever has the reveals.
    """

    t3: bytes
    length: int
    bits: int
    survivors: tuple[OrgId, ...]
    keys: tuple[masks.MaskKey, ...]
    tag_mask: int = 0


def recover(
    manifest: Manifest,
    t0: bytes,
    t2: bytes,
    t3: bytes,
    adverts: Mapping[OrgId, Advert],
    survivors: tuple[OrgId, ...],
    reveals: Mapping[OrgId, Reveal],
) -> Unmasking:
    """What opens the sum over `survivors` (sorted). `adverts`: of every dealer (U2), the others are dropped.

    Raises PeerError `wrong_secret_dealt` (peer: the dealer) if its shares interpolate to another secret than the
    advert's; IntegrityError `too_few_shares` below the threshold.
    """
    x_of = {org: index + 1 for index, org in enumerate(manifest.cohort)}

    def interpolate(dealer: OrgId, shares_of: dict[int, bytes]) -> bytes:
        try:
            return shamir.reconstruct(dict(sorted(shares_of.items())[: manifest.threshold]), manifest.threshold)
        except FedveilError as error:
            if error.code == "not_a_secret":
                raise PeerError("wrong_secret_dealt", f"the shares of {dealer} hide no secret", peer=dealer) from error
            raise

    self_keys, tag_mask = [], 0
    for org in survivors:
        if org in reveals and reveals[org].self_seed:
            seed = Seed(reveals[org].self_seed)
        else:
            held = {x_of[r]: found[org] for r, one in reveals.items() if org in (found := dict(one.self_shares))}
            seed = Seed(interpolate(org, held))
        shares.check_self_seed(t0, org, seed, adverts[org].selfseed_commit)
        self_keys.append(masks.self_key(t2, seed, org))
        tag_mask += checksum.self_tag_mask(t2, seed, org)
    residual: list[masks.MaskKey] = []
    public = {org: adverts[org].mask_key for org in survivors}
    for org in sorted(set(adverts) - set(survivors)):
        held = {x_of[r]: found[org] for r, one in reveals.items() if org in (found := dict(one.key_shares))}
        recovered = PrivateKey(interpolate(org, held))
        residual.extend(masks.residual_keys(t2, org, recovered, public, adverts[org].mask_key))
        tag_mask += checksum.residual_tag_mask(t2, org, recovered, public, adverts[org].mask_key)
    keys = masks.opening_keys(self_keys, residual)
    return Unmasking(t3, manifest.length, manifest.ring_bits, survivors, keys, tag_mask % checksum.PRIME)


def sum_of_tags(headers: Mapping[OrgId, tuple[bool, bytes]], unmasking: Unmasking) -> bytes:
    """The opened tag of the sum, from (tag_ok, masked tag) of every survivor's header; empty if one of them says that
    it carries none, which voids the tag (A4).
    """
    if not all(ok for ok, _ in headers.values()):
        return b""
    total = sum(checksum.from_bytes(masked) for _, masked in headers.values())
    return checksum.to_bytes((total - unmasking.tag_mask) % checksum.PRIME)
