"""From a certificate and its reveals to the opened sum: recover the seeds, then add and unmask chunk by chunk.

Promise: for each dealer exactly one of its two secrets is recovered (the self seed of a survivor, the mask key of a
dropped one); a secret that does not match what the dealer committed to convicts the dealer; memory is a few chunks plus
the sum itself. Pure: inputs in, value out. Source: FLSA/1 sections 2.3, 2.9, 2.10 (docs/protocol.md).
"""

from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future
from dataclasses import dataclass

import numpy as np
from fedveil_common import transcript, wire
from fedveil_common.crypto import shamir
from fedveil_common.errors import FedveilError, PeerError
from fedveil_common.ids import OrgId
from fedveil_common.masking import masks, shares
from fedveil_common.messages import BlobType, Reveal
from fedveil_common.secret import PrivateKey, Seed
from numpy.typing import NDArray

from fedveil_coordinator.attempt import Frame, Revealing, advert_body

CHUNK_LEAVES = 4
"""Leaves worked on at once by one worker: 4 x 64 KiB of each input stay in cache while masks are taken off."""

IN_FLIGHT = 4
"""Pieces submitted to the pool and not yet yielded: bounds the memory beside the sum."""

ReadInput = Callable[[OrgId, int, int], NDArray[np.uint32]]
"""(survivor, first coordinate, count) -> that piece of its spooled masked input, uint32, shape (count,)."""


@dataclass(frozen=True, slots=True)
class Unmasking:
    """Everything needed to take the masks off: stream keys only. Known to the coordinator after a certificate."""

    t3: bytes
    length: int
    survivors: tuple[OrgId, ...]
    self_keys: tuple[bytes, ...]
    residual: tuple[masks.MaskKey, ...]


Piece = tuple[int, NDArray[np.uint32], list[bytes]]
"""First coordinate, opened coordinates, leaf hashes of one piece of a sum."""

Pieces = Iterator[NDArray[np.uint32]]
"""Consecutive pieces of an opened sum."""


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
    return Unmasking(stage.t3, manifest.length, survivors, tuple(self_keys), tuple(residual))


def _reveal(stage: Revealing, org: OrgId) -> Reveal:
    body = wire.parse_body(BlobType.REVEAL, stage.reveals[org].body)
    assert isinstance(body, Reveal)
    return body


def open_chunks(unmasking: Unmasking, read: ReadInput, pool: Executor | None = None) -> Iterator[Piece]:
    """(first coordinate, opened piece, its leaf hashes) for consecutive pieces of the sum.

    With a pool, pieces are computed in parallel and yielded in order, at most IN_FLIGHT of them at a time.
    """
    size = CHUNK_LEAVES * transcript.LEAF_COORDINATES

    def piece(start: int) -> Piece:
        count = min(size, unmasking.length - start)
        total = np.zeros(count, dtype=np.uint32)
        for org in unmasking.survivors:
            total += read(org, start, count)
        masks.unmask_in_place(total, unmasking.self_keys, unmasking.residual, start)
        first_leaf = start // transcript.LEAF_COORDINATES
        hashes = [transcript.sum_leaf(unmasking.t3, first_leaf + index, data) for index, data in masks.leaves(total)]
        return start, total, hashes

    starts = range(0, unmasking.length, size)
    if pool is None:
        yield from map(piece, starts)
        return
    pending: deque[Future[Piece]] = deque()
    for start in starts:
        pending.append(pool.submit(piece, start))
        if len(pending) >= IN_FLIGHT:
            yield pending.popleft().result()
    while pending:
        yield pending.popleft().result()


def collect(pieces: Iterator[Piece], hashes: list[bytes]) -> Pieces:
    """The pieces themselves, in order; their leaf hashes are appended to `hashes` on the way."""
    for _, values, leaf_hashes in pieces:
        hashes.extend(leaf_hashes)
        yield values
