"""Rings of every width: the smallest that does not wrap, packed leaves, and whole sums through masks and back.

Known answers for the packed form come from tests/reference; sums are compared with plain integers.
"""

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from fedveil_common import transcript
from fedveil_common.crypto import agreement
from fedveil_common.crypto.draws import Draws
from fedveil_common.errors import PeerError
from fedveil_common.ids import OrgId
from fedveil_common.masking import masks, packing, quorum, ring
from fedveil_common.masking.opening import Unmasking
from fedveil_common.ringfile import leaf_count, leaf_length
from fedveil_common.secret import Seed
from fedveil_coordinator.opening import open_leaves
from fedveil_participant.protecting import protect
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from tests import whole_vectors
from tests.test_vectors_masking import cases

LEAF = transcript.LEAF_COORDINATES
BITS = (8, 20, 24, 32, 33, 64)


# --- the packed form --------------------------------------------------------------------------------------------------


@cases("packing", "packing")
def test_packed_as_the_reference_packs(case: dict[str, Any]) -> None:
    bits, count = case["in"]["bits"], case["in"]["count"]
    residues = np.array(case["in"]["residues"], dtype=ring.word(bits))
    packed = bytes.fromhex(case["out"]["packed"])
    assert packing.pack(residues, bits) == packed
    assert packing.size_bytes(count, bits) == len(packed)
    assert np.array_equal(packing.unpack(packed, count, bits), residues)
    if bits not in (32, 64):  # what stands above the ring does not travel
        above = residues | (~ring.zeros(count, bits) << ring.word(bits)(bits))
        assert packing.pack(above, bits) == packed


@cases("packing", "packing", failing=True)
def test_what_is_no_packed_leaf_is_refused(case: dict[str, Any]) -> None:
    with pytest.raises(PeerError) as refused:
        packing.unpack(bytes.fromhex(case["in"]["packed"]), case["in"]["count"], case["in"]["bits"])
    assert refused.value.code == case["fails_at"]


@given(st.integers(8, 64), st.integers(1, 70), st.integers(0, 2**64 - 1))
def test_every_width_comes_back(bits: int, count: int, start: int) -> None:
    drawn = np.random.default_rng(start).integers(0, 2**bits, count, dtype=np.uint64, endpoint=False)
    residues = drawn.astype(ring.word(bits))
    assert np.array_equal(packing.unpack(packing.pack(residues, bits), count, bits), residues)


def test_bytes_a_coordinate() -> None:
    """16-bit values: 2.5 bytes up to 16 members, 3 up to 256."""
    for members, least in ((3, 2.25), (16, 2.5), (256, 3.0)):
        assert packing.size_bytes(LEAF, ring.smallest(members, 16)) <= least * LEAF


def test_misuse_of_packing() -> None:
    with pytest.raises(ValueError, match="cannot take"):
        packing.pack_into(ring.zeros(4, 20), 20, memoryview(bytearray(9)))
    with pytest.raises(ValueError, match="cannot take"):
        packing.pack(ring.zeros(4, 40), 20)
    for bits in (7, 65):
        with pytest.raises(ValueError, match="8 to 64"):
            packing.size_bytes(1, bits)


# --- the smallest ring ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("members", [2, 3, 4, 10, 16, 17, 255, 256])
@pytest.mark.parametrize("value_bits", [2, 8, 16, 24, 31, 32, 48])
def test_the_smallest_ring_does_not_wrap_and_the_one_below_would(members: int, value_bits: int) -> None:
    bits = ring.smallest(members, value_bits)
    quorum.check_no_wrap(members, value_bits, bits)
    most = members * (2 ** (value_bits - 1) - 1)
    for total in (most, -most):
        wrapped = np.array([total % 2**64], dtype=np.uint64).astype(ring.word(bits))
        assert ring.signed(wrapped, bits).tolist() == [total]
    if bits > max(8, value_bits):
        with pytest.raises(PeerError) as refused:
            quorum.check_no_wrap(members, value_bits, bits - 1)
        assert refused.value.code == "ring_would_wrap"


def test_noise_widens_the_ring_and_more_than_64_bits_do_not_exist() -> None:
    assert ring.smallest(10, 16, noise_bound=2**40) == 42
    with pytest.raises(PeerError) as refused:
        ring.smallest(256, 60)
    assert refused.value.code == "ring_would_wrap"


@pytest.mark.parametrize("bits", BITS)
def test_residues_and_their_ends(bits: int) -> None:
    ends = [-(2 ** (bits - 1)), -1, 0, 1, 2 ** (bits - 1) - 1]
    residues = ring.residues(np.array(ends, dtype=np.int64), bits)
    assert residues.dtype == ring.word(bits)
    assert ring.signed(residues, bits).tolist() == ends
    if bits < 64:
        for beyond in (ends[0] - 1, ends[-1] + 1):
            with pytest.raises(ValueError, match="fit"):
                ring.residues(np.array([beyond], dtype=np.int64), bits)
    with pytest.raises(ValueError, match="one-dimensional"):
        ring.signed(np.zeros(2, dtype=np.uint64 if bits <= 32 else np.uint32), bits)


# --- a whole sum ------------------------------------------------------------------------------------------------------


class Sum:
    """Members of one attempt, their vectors, and what they would upload; `dropped` uploads nothing."""

    def __init__(self, members: int, length: int, bits: int, dropped: int = 0) -> None:
        draws = Draws(Seed(b"\5" * 32))
        self.t2, self.bits, self.length = b"\7" * 32, bits, length
        self.orgs = tuple(OrgId(f"org-{index:03}") for index in range(members))
        self.survivors = self.orgs[dropped:]
        self.private = {org: draws.private_key("mask", org.encode()) for org in self.orgs}
        self.public = {org: agreement.public_key(self.private[org]) for org in self.orgs}
        self.seeds = {org: draws.seed("self", org.encode()) for org in self.orgs}
        most = (2 ** (bits - 1) - 1) // members
        self.vectors = {
            org: np.random.default_rng(index).integers(-most, most, length, dtype=np.int64, endpoint=True)
            for index, org in enumerate(self.orgs)
        }

    def upload(self, org: OrgId, pool: ThreadPoolExecutor | None = None) -> tuple[list[bytes], tuple[bytes, ...]]:
        """(packed leaves, their hashes)."""
        made: dict[int, bytes] = {}
        hashes = protect(
            self.length,
            self.bits,
            lambda start, count: self.vectors[org][start : start + count],
            masks.mask_keys(self.t2, org, self.private[org], self.seeds[org], self.public),
            self.t2,
            org,
            lambda index, leaf: made.update({index: bytes(leaf)}),
            pool,
        )
        return [made[index] for index in range(leaf_count(self.length))], hashes

    def open(self, uploads: dict[OrgId, list[bytes]], pool: ThreadPoolExecutor | None = None) -> NDArray[np.int64]:
        """As the coordinator opens it."""
        own = [masks.self_key(self.t2, self.seeds[org], org) for org in self.survivors]
        kept = {org: self.public[org] for org in self.survivors}
        residual = [
            one
            for org in self.orgs
            if org not in self.survivors
            for one in masks.residual_keys(self.t2, org, self.private[org], kept, self.public[org])
        ]
        keys = masks.opening_keys(own, residual)
        opened: dict[int, bytes] = {}
        hashes = open_leaves(
            Unmasking(b"\3" * 32, self.length, self.bits, self.survivors, keys),
            lambda org, index: packing.unpack(uploads[org][index], leaf_length(self.length, index), self.bits),
            lambda index, leaf: opened.update({index: bytes(leaf)}),
            pool,
        )
        assert hashes == [transcript.sum_leaf(b"\3" * 32, index, opened[index]) for index in sorted(opened)]
        pieces: list[Any] = [
            packing.unpack(leaf, leaf_length(self.length, index), self.bits) for index, leaf in sorted(opened.items())
        ]
        return ring.signed(np.concatenate(pieces), self.bits).astype(np.int64)

    def check(self, pool: ThreadPoolExecutor | None = None) -> None:
        """The opened sum is the integer sum of the survivors' vectors; hashes are those of the leaves."""
        uploads = {}
        for org in self.survivors:
            leaves, hashes = self.upload(org, pool)
            assert hashes == tuple(transcript.input_leaf(self.t2, org, at, leaf) for at, leaf in enumerate(leaves))
            uploads[org] = leaves
        expected = sum((self.vectors[org] for org in self.survivors), np.zeros(self.length, dtype=np.int64))
        assert np.array_equal(self.open(uploads, pool), expected)


@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("length", [1, 7, LEAF - 1, LEAF, LEAF + 1, 4 * LEAF - 1, 4 * LEAF + 9])
def test_a_sum_is_exact_in_every_ring_and_length(bits: int, length: int) -> None:
    Sum(3, length, bits).check()
    Sum(4, length, bits, dropped=1).check()


@pytest.mark.parametrize("members", [3, 4, 256])
def test_a_sum_of_few_and_of_the_largest_cohort(members: int) -> None:
    Sum(members, 9, ring.smallest(members, 16), dropped=members // 8).check()


def test_threads_change_nothing() -> None:
    """129 leaves are three stretches and a short one for the masks, and more for the opening."""
    made = Sum(3, 128 * LEAF + 5, 20, dropped=0)
    with ThreadPoolExecutor(2) as pool:
        assert made.upload(made.orgs[1], pool) == made.upload(made.orgs[1])
        made.check(pool)


def test_an_error_in_one_stretch_is_the_error_of_the_whole() -> None:
    made = Sum(3, 130 * LEAF, 20)
    written: list[int] = []

    def encode(start: int, count: int) -> NDArray[np.int64]:
        if start >= 100 * LEAF:
            raise PeerError("update_not_finite", "here")
        return np.zeros(count, dtype=np.int64)

    keys = masks.mask_keys(made.t2, made.orgs[0], made.private[made.orgs[0]], made.seeds[made.orgs[0]], made.public)
    with ThreadPoolExecutor(2) as pool, pytest.raises(PeerError) as refused:
        protect(made.length, 20, encode, keys, made.t2, made.orgs[0], lambda index, leaf: written.append(index), pool)
    assert refused.value.code == "update_not_finite"
    assert len(written) < 130


def test_a_stream_of_64_bit_words_is_the_same_bytes() -> None:
    key = Seed(b"\1" * 32)
    wide, narrow = ring.zeros(6, 64), ring.zeros(12, 32)
    whole_vectors.apply(wide, [masks.MaskKey(key, subtract=False)], 5)
    whole_vectors.apply(narrow, [masks.MaskKey(key, subtract=False)], 10)
    assert wide.astype("<u8").tobytes() == narrow.astype("<u4").tobytes()
