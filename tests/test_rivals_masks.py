"""What other systems' masks got wrong (R1, R6), as tests of ours. Statistics are on fixed keys: no test is random."""

import itertools

import numpy as np
import pytest
from fedveil_common.crypto import agreement, prg
from fedveil_common.crypto.draws import Draws
from fedveil_common.ids import OrgId
from fedveil_common.masking import masks
from fedveil_common.masking.ring import signed
from fedveil_common.secret import PrivateKey, Seed
from numpy.typing import NDArray

from tests import whole_vectors

LENGTH = 100_000
ORGS = [OrgId(f"org-{i}") for i in range(1, 6)]


def keys_of(attempt: int) -> tuple[dict[OrgId, PrivateKey], dict[OrgId, Seed], dict[OrgId, bytes]]:
    """Fresh keys of an attempt: (private, self seeds, public)."""
    draws = Draws(Seed(bytes([attempt]) * 32))
    private = {org: draws.private_key("mask", org.encode()) for org in ORGS}
    public = {org: agreement.public_key(key) for org, key in private.items()}
    return private, {org: draws.seed("self", org.encode()) for org in ORGS}, public


def masked(values: NDArray[np.uint32], org: OrgId, t2: bytes, attempt: int = 1) -> NDArray[np.uint32]:
    """`values` as `org` sends them."""
    private, seeds, public = keys_of(attempt)
    keys = masks.mask_keys(t2, org, private[org], seeds[org], public)
    return np.asarray(whole_vectors.masked(values, keys, t2, org)[0], dtype=np.uint32)


def correlation(a: NDArray[np.uint32], b: NDArray[np.uint32]) -> float:
    """Pearson's coefficient of the signed values; standard error LENGTH**-0.5 if independent."""
    return float(np.corrcoef(signed(a, 32), signed(b, 32))[0, 1])


PLAIN = (np.sin(np.arange(LENGTH) / 500) * 2**30).astype(np.int32).view(np.uint32)


def test_rival_R1_masked_words_do_not_correlate_with_the_plain_ones() -> None:
    bound = 5 / LENGTH**0.5
    assert correlation(PLAIN, PLAIN) == pytest.approx(1)
    for org in ORGS:
        ring = masked(PLAIN, org, bytes(32))
        assert abs(correlation(PLAIN, ring)) < bound
        assert abs(correlation(PLAIN, ring - np.roll(ring, 1))) < bound  # differences show no pad that repeats


def test_rival_R1_masked_words_pass_chi_square_in_every_byte() -> None:
    for place in range(4):
        counts = np.bincount(masked(PLAIN, ORGS[2], bytes(32)).view(np.uint8)[place::4], minlength=256)
        z = ((((counts - LENGTH / 256) ** 2) / (LENGTH / 256)).sum() - 255) / 510**0.5
        assert abs(z) < 5
    plain_counts = np.bincount(PLAIN.view(np.uint8)[3::4], minlength=256)
    assert plain_counts.min() == 0  # the same count on the plain vector is far from uniform


def test_rival_R1_the_same_input_twice_differs() -> None:
    first = masked(PLAIN, ORGS[0], bytes(32), attempt=1)
    for again in (masked(PLAIN, ORGS[0], bytes([1]) * 32, attempt=1), masked(PLAIN, ORGS[0], bytes(32), attempt=2)):
        assert np.count_nonzero(first == again) < 5
        assert abs(correlation(first, again)) < 5 / LENGTH**0.5
        assert len(np.unique(first - again)) > LENGTH - 100  # no constant offset either


def test_rival_R1_all_256_bits_of_a_seed_reach_the_stream() -> None:
    """Seeds with equal XOR folds gave equal masks elsewhere: here each bit and each fold makes a new stream."""
    seeds = [bytes(32)] + [(1 << bit).to_bytes(32, "big") for bit in range(256)]
    seeds += [bytes([7, 0, 0, 0] * 2 + [0] * 24), bytes([9, 9, 9, 9] * 2 + [0] * 24), bytes([1] * 32)]
    keys = [masks.self_key(bytes(32), Seed(seed), ORGS[0]) for seed in seeds]
    starts = np.array([prg.words(key, 0, 8) for key in keys])
    assert len({row.tobytes() for row in starts}) == len(seeds)
    assert len(np.unique(starts)) > starts.size - 3


def streams(t2: bytes, attempt: int) -> dict[tuple[OrgId, ...], set[bytes]]:
    """Every stream key of an attempt, by the dealers that know it."""
    private, seeds, public = keys_of(attempt)
    found: dict[tuple[OrgId, ...], set[bytes]] = {}
    for org in ORGS:
        own, *pairs = masks.mask_keys(t2, org, private[org], seeds[org], public)
        found.setdefault((org,), set()).add(own.key.expose())
        for other, mask in zip([o for o in ORGS if o != org], pairs, strict=True):
            assert mask.subtract == (other < org)
            found.setdefault(tuple(sorted((org, other))), set()).add(mask.key.expose())
    return found


def test_rival_R6_one_stream_per_transcript_and_holder_never_reused() -> None:
    attempts = [(bytes([t]) * 32, keys) for t, keys in itertools.product((1, 2, 3), (1, 2))]
    tables = [streams(t2, keys) for t2, keys in attempts]
    for table in tables:
        assert len(table) == 5 + 10
        assert all(len(keys) == 1 for keys in table.values())  # both sides of a pair derive the same key
    everything = [key for table in tables for keys in table.values() for key in keys]
    assert len(set(everything)) == len(everything) == 6 * 15
    starts = {prg.words(key, 0, 4).tobytes() for key in everything}
    assert len(starts) == len(everything)


def test_rival_R6_blocks_of_one_vector_lie_apart_in_its_stream() -> None:
    """Update, weight and counts are one vector under one stream: their pads are disjoint words of it."""
    zeros = np.zeros(3000, dtype=np.uint32)
    ring = masked(zeros, ORGS[1], bytes(32))
    blocks = [ring[:1000], ring[1000:2000], ring[2000:]]
    for a, b in itertools.combinations(blocks, 2):
        assert np.count_nonzero(a == b) == 0
        assert len(np.unique(a - b)) == 1000


def test_rival_R6_a_pad_does_depend_on_what_it_is_derived_under() -> None:
    """The control: with the transcript left out, two attempts under the same keys would leak their difference."""
    other = PLAIN + np.uint32(5)
    first, second = masked(PLAIN, ORGS[0], bytes(32)), masked(other, ORGS[0], bytes(32))
    assert set((second - first).tolist()) == {5}
    assert len(np.unique(masked(other, ORGS[0], bytes([1]) * 32) - first)) > LENGTH - 100
