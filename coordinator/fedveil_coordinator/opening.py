"""From a certificate and its reveals to the opened sum: recover the seeds, then add and unmask leaf by leaf.

Promise: what is recovered is what `masking.opening` lets be recovered; memory is a few leaves. Pure: inputs in, value
out. Source: FLSA/1 sections 2.3, 2.9, 2.10 (docs/protocol.md).
"""

from collections.abc import Callable
from concurrent.futures import Executor

import numpy as np
from fedveil_common import transcript, wire
from fedveil_common.ids import OrgId
from fedveil_common.masking import masks, opening
from fedveil_common.masking.opening import Unmasking
from fedveil_common.masking.packing import pack
from fedveil_common.masking.ring import Ring, residues, zeros
from fedveil_common.member_noise import Piece
from fedveil_common.messages import BlobType, Header, Reveal, SignedBlob
from fedveil_common.ringfile import leaf_count, leaf_length
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


def recover(frame: Frame, stage: Revealing) -> Unmasking:
    """What takes the masks off the sum of the survivors. Errors as `masking.opening.recover`."""
    adverts = {org: advert_body(stage.adverts[org]) for org in stage.shares}
    reveals = {org: reveal_of(blob) for org, blob in stage.reveals.items()}
    survivors = tuple(sorted(stage.headers))
    return opening.recover(frame.manifest, frame.t0, stage.t2, stage.t3, adverts, survivors, reveals)


def tag_of(stage: Revealing, unmasking: Unmasking) -> bytes:
    """The opened tag of the sum; empty if a survivor's header carries none."""
    headers = {org: _header(stage, org) for org in stage.headers}
    return opening.sum_of_tags({org: (one.tag_ok, one.masked_tag) for org, one in headers.items()}, unmasking)


def reveal_of(blob: SignedBlob) -> Reveal:
    """What an accepted reveal says."""
    body = wire.parse_body(BlobType.REVEAL, blob.body)
    assert isinstance(body, Reveal)
    return body


def _header(stage: Revealing, org: OrgId) -> Header:
    body = wire.parse_body(BlobType.HEADER, stage.headers[org].body)
    assert isinstance(body, Header)
    return body


def open_leaves(
    unmasking: Unmasking, read: ReadInput, write: WriteSum, pool: Executor | None = None, noise: Piece | None = None
) -> list[bytes]:
    """Opens the sum: adds the inputs, takes the masks off, packs, hashes, writes, leaf by leaf; its leaf hashes. With
    `noise`, the coordinator's own, that is added before a leaf is packed: no exact one is ever written.

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
            if noise is not None:
                drawn = np.zeros(len(total), np.int64)
                noise.add_to(drawn, index * LEAF_COORDINATES)
                total += residues(drawn, bits)
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
