"""From a stored update to a durable masked input, in one pass.

Promise: the same action gives the same bytes, so a restart may do it again. Source: FLSA/1 sections 2.3, 2.10, 4.1
(docs/protocol.md).
"""

from concurrent.futures import Executor

import numpy as np
from fedveil_common.ids import OrgId
from fedveil_common.masking import checksum, masks
from fedveil_common.masking.ring import Signed
from fedveil_common.noise_links import Coins
from fedveil_common.plan import Plan
from numpy.typing import NDArray

from fedveil_participant.events import EncryptUpdate, ProtectUpdate
from fedveil_participant.ports import Bench, Journal, StoredUpdate
from fedveil_participant.protecting import protect
from fedveil_participant.tagging import Tag

PIECE = 1 << 20
"""Coordinates that are encoded at once."""


def encoded(action: EncryptUpdate, plan: Plan, me: OrgId, update: StoredUpdate, bench: Bench) -> NDArray[np.int64]:
    """The stored update as signed integers, shape (d,): the organisation's secret, before it is encrypted."""
    manifest = action.manifest
    coins = Coins(action.rounding, action.t2, me, len(manifest.cohort))  # of whom does not matter: one share, no links
    whole = np.empty(manifest.length, np.int64)
    for start in range(0, manifest.length, PIECE):
        values = update.read(start, min(PIECE, manifest.length - start))
        made = bench.encode(plan, manifest, values, coins, start)
        whole[start : start + len(values)] = made
    return whole


def masked_input(
    action: ProtectUpdate,
    plan: Plan,
    me: OrgId,
    update: StoredUpdate,
    bench: Bench,
    journal: Journal,
    pool: Executor | None,
) -> tuple[tuple[bytes, ...], bytes]:
    """The leaf hashes of the masked input, which is durable then, and its masked tag."""
    manifest = action.manifest
    secrets = (action.t2, me, action.mask_key, action.self_seed, dict(action.keys))
    coins = Coins(action.rounding, action.t2, me, len(secrets[-1].keys() | {me}))
    keys, mask = masks.mask_keys(*secrets), checksum.tag_mask(*secrets)

    def encode(start: int, count: int) -> Signed:
        values = update.read(start, count)
        return bench.encode(plan, manifest, values, coins, start)

    tag = Tag(encode, action.tag_key)
    sink = journal.new_input(manifest.key, manifest.length, manifest.ring_bits)
    try:
        hashes = protect(manifest.length, manifest.ring_bits, tag.encode, keys, action.t2, me, sink.write, pool)
        sink.finish(replace=True)
    finally:
        sink.discard()
    return hashes, tag.masked(mask)
