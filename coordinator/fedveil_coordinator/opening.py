"""From a certificate and its reveals to the opened sum: recover the seeds, then add and unmask leaf by leaf.

Promise: for each dealer exactly one of its two secrets is recovered (the self seed of a survivor, the mask key of a
dropped one); a secret that does not match what the dealer committed to convicts the dealer; memory is a few leaves.
Pure: inputs in, value out. Source: FLSA/1 sections 2.3, 2.9, 2.10 (docs/protocol.md).
"""

from collections.abc import Callable
from concurrent.futures import Executor
from dataclasses import dataclass

from fedveil_common import transcript, wire
from fedveil_common.crypto import shamir
from fedveil_common.errors import FedveilError, PeerError
from fedveil_common.ids import OrgId
from fedveil_common.masking import masks, shares
from fedveil_common.masking.packing import pack
from fedveil_common.masking.ring import Ring, zeros
from fedveil_common.messages import BlobType, Reveal
from fedveil_common.ringfile import leaf_count, leaf_length
from fedveil_common.secret import PrivateKey, Seed
from fedveil_common.transcript import LEAF_COORDINATES

from fedveil_coordinator.attempt import Frame, Revealing, advert_body

STRETCH_LEAVES = 16
"""Leaves of one job at least: the ciphers of all streams are set up once a job."""

STRETCHES = 2
"""Jobs that a vector is cut into: as many as the pool has threads."""

ReadInput = Callable[[OrgId, int], Ring]
"""(survivor, leaf index) -> the residues of that leaf of its spooled masked input."""

WriteSum = Callable[[int, bytearray], None]
"""(leaf index, packed leaf of the opened sum): called from the pool's threads, in no order."""


@dataclass(frozen=True, slots=True)
class Unmasking:
    """Everything needed to take the masks off: stream keys only. Known to the coordinator after a certificate."""

    t3: bytes
    length: int
    bits: int
    survivors: tuple[OrgId, ...]
    keys: tuple[masks.MaskKey, ...]


def recover(frame: Frame, stage: Revealing) -> Unmasking:
    """The stream keys to remove. Raises PeerError `wrong_secret_dealt` (peer: the dealer) if shares that match their
    commitments interpolate to another secret than the advert's; IntegrityError `too_few_shares` below the threshold.
    """
    manifest = frame.manifest
    x_of = {org: index + 1 for index, org in enumerate(manifest.cohort)}
    reveals = {org: _reveal(stage, org) for org in stage.reveals}
    adverts = {org: advert_body(stage.adverts[org]) for org in stage.shares}
    survivors, dropped = tuple(sorted(stage.headers)), tuple(sorted(set(stage.shares) - set(stage.headers)))

    def interpolate(dealer: OrgId, shares_of: dict[int, bytes]) -> bytes:
        try:
            return shamir.reconstruct(dict(sorted(shares_of.items())[: manifest.threshold]), manifest.threshold)
        except FedveilError as error:
            if error.code == "not_a_secret":
                raise PeerError("wrong_secret_dealt", f"the shares of {dealer} hide no secret", peer=dealer) from error
            raise

    self_keys = []
    for org in survivors:
        if org in reveals:
            seed = Seed(reveals[org].self_seed)
        else:
            held = {x_of[r]: dict(reveal.self_shares)[org] for r, reveal in reveals.items() if r != org}
            seed = Seed(interpolate(org, held))
        shares.check_self_seed(frame.t0, org, seed, adverts[org].selfseed_commit)
        self_keys.append(masks.self_key(stage.t2, seed, org))
    residual: list[masks.MaskKey] = []
    public = {org: adverts[org].mask_key for org in survivors}
    for org in dropped:
        held = {x_of[r]: dict(reveal.key_shares)[org] for r, reveal in reveals.items() if r != org}
        recovered = PrivateKey(interpolate(org, held))
        residual.extend(masks.residual_keys(stage.t2, org, recovered, public, adverts[org].mask_key))
    keys = masks.opening_keys(self_keys, residual)
    return Unmasking(stage.t3, manifest.length, manifest.ring_bits, survivors, keys)


def _reveal(stage: Revealing, org: OrgId) -> Reveal:
    body = wire.parse_body(BlobType.REVEAL, stage.reveals[org].body)
    assert isinstance(body, Reveal)
    return body


def open_leaves(unmasking: Unmasking, read: ReadInput, write: WriteSum, pool: Executor | None = None) -> list[bytes]:
    """Opens the sum: adds the inputs, takes the masks off, packs, hashes, writes, leaf by leaf; its leaf hashes.

    With a pool, stretches of the vector are opened side by side. The first error of one is raised once all have ended.
    """
    bits = unmasking.bits
    count = leaf_count(unmasking.length)
    hashes: list[bytes] = [b""] * count

    def stretch(first: int, last: int) -> None:
        streams = masks.streams(unmasking.keys, first * LEAF_COORDINATES, bits)
        for index in range(first, last):
            total = zeros(leaf_length(unmasking.length, index), bits)
            for org in unmasking.survivors:
                total += read(org, index)
            streams.apply(total)
            packed = pack(total, bits)
            hashes[index] = transcript.sum_leaf(unmasking.t3, index, packed)
            write(index, packed)

    if pool is None:
        stretch(0, count)
        return hashes
    size = max(STRETCH_LEAVES, -(-count // STRETCHES))
    running = [pool.submit(stretch, first, min(first + size, count)) for first in range(0, count, size)]
    errors = [error for one in running if (error := one.exception()) is not None]
    if errors:
        raise errors[0]
    return hashes
