"""Properties of the arithmetic: what holds for every drop set, every secret, every chunking."""

import itertools
import math

import numpy as np
import pytest
from fedveil_common import layout
from fedveil_common.crypto import agreement, prg, shamir
from fedveil_common.crypto.draws import Draws
from fedveil_common.errors import IntegrityError, PeerError, PolicyRefusal
from fedveil_common.ids import OrgId
from fedveil_common.masking import fixedpoint, masks, quorum, shares
from fedveil_common.masking.ring import Signed, residues, signed
from fedveil_common.secret import PrivateKey, Seed, Share
from fedveil_participant import update
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from tests import whole_vectors

steady = settings(derandomize=True, deadline=None, max_examples=25)
T0, T1, T2 = bytes([0] * 32), bytes([1] * 32), bytes([2] * 32)


def seed(number: int) -> Draws:
    """Draws that differ by `number`."""
    return Draws(Seed(number.to_bytes(32, "big")))


class Attempt:
    """`n` dealers with dealt shares and masked vectors, all from one number."""

    def __init__(self, n: int, threshold: int, number: int, length: int = 7) -> None:
        draws = seed(number)
        self.threshold = threshold
        self.orgs = [OrgId(f"org-{i:03d}") for i in range(n)]
        self.xs = {org: 1 + i for i, org in enumerate(self.orgs)}
        self.private = {org: draws.private_key("mask", org.encode()) for org in self.orgs}
        self.public = {org: agreement.public_key(key) for org, key in self.private.items()}
        self.seeds = {org: draws.seed("self", org.encode()) for org in self.orgs}
        channel = {org: draws.private_key("channel", org.encode()) for org in self.orgs}
        channel_public = {org: agreement.public_key(key) for org, key in channel.items()}
        kappa = {org: draws.seed("kappa", org.encode()) for org in self.orgs}
        self.vectors = {org: prg.words(draws.seed("x", org.encode()).expose(), 0, length) for org in self.orgs}
        self.held: dict[tuple[OrgId, OrgId], shares.OpenedShare] = {}
        for dealer in self.orgs:
            own = draws.seed("deal", dealer.encode())
            secrets = (self.private[dealer], self.seeds[dealer], kappa[dealer])
            dealt = shares.deal_to_all(
                T1, dealer, self.xs, channel[dealer], channel_public, *secrets, threshold, Draws(own)
            )
            self.held[dealer, dealer] = dealt.shares[dealer]
            commit = shares.kappa_commit(T0, dealer, kappa[dealer])
            for message in dealt.messages:
                to = message.recipient
                opened = shares.open_share(message, self.xs[to], channel[to], channel_public[dealer], commit, T0)
                self.held[dealer, to] = opened

    def masked(self, org: OrgId) -> NDArray[np.uint32]:
        """The masked input of `org`."""
        keys = masks.mask_keys(T2, org, self.private[org], self.seeds[org], self.public)
        return np.asarray(whole_vectors.masked(self.vectors[org], keys, T2, org)[0], dtype=np.uint32)

    def true_sum(self, survivors: list[OrgId]) -> list[int]:
        """The sum in Python integers."""
        columns = zip(*(self.vectors[org].tolist() for org in survivors), strict=True)
        return [sum(column) % 2**32 for column in columns]

    def recovered(self, dealer: OrgId, revealers: list[OrgId]) -> tuple[PrivateKey, Seed]:
        """Both secrets of `dealer` from the shares of `revealers`."""
        keys: dict[int, Share | bytes] = {self.xs[r]: self.held[dealer, r].key_share for r in revealers}
        selfs: dict[int, Share | bytes] = {self.xs[r]: self.held[dealer, r].self_share for r in revealers}
        key, own = shamir.reconstruct(keys, self.threshold), shamir.reconstruct(selfs, self.threshold)
        return PrivateKey(key), Seed(own)

    def opened(self, survivors: list[OrgId], revealers: list[OrgId]) -> NDArray[np.uint32]:
        """The sum over `survivors`, opened with what `revealers` hold."""
        acc = np.zeros(len(self.vectors[self.orgs[0]]), dtype=np.uint32)
        for org in survivors:
            acc += self.masked(org)
        own = [masks.self_key(T2, self.recovered(org, revealers)[1], org) for org in survivors]
        publics = {org: self.public[org] for org in survivors}
        residual = [
            mask
            for gone in set(self.orgs) - set(survivors)
            for mask in masks.residual_keys(T2, gone, self.recovered(gone, revealers)[0], publics, self.public[gone])
        ]
        whole_vectors.unmask(acc, own, residual)
        return acc


@pytest.mark.parametrize("n", [3, 4, 5, 6])
def test_masks_cancel_for_every_drop_set_above_the_threshold(n: int) -> None:
    q = quorum.quorum(n, 1)
    attempt = Attempt(n, q, number=n)
    for size in range(q, n + 1):
        for chosen in itertools.combinations(attempt.orgs, size):
            survivors = list(chosen)
            assert attempt.opened(survivors, survivors[-q:]).tolist() == attempt.true_sum(survivors)


@steady
@given(st.integers(7, 12), st.integers(0, 10**9), st.data())
def test_masks_cancel_for_sampled_drop_sets_and_revealers(n: int, number: int, data: st.DataObject) -> None:
    q = quorum.quorum(n, 1)
    attempt = Attempt(n, q, number)
    survivors = data.draw(st.permutations(attempt.orgs))[: data.draw(st.integers(q, n))]
    revealers = data.draw(st.permutations(survivors))[:q]
    assert attempt.opened(survivors, revealers).tolist() == attempt.true_sum(survivors)


def test_with_one_revealer_too_few_nothing_opens() -> None:
    attempt = Attempt(5, 4, number=5)
    with pytest.raises(IntegrityError) as refused:
        attempt.opened(attempt.orgs, attempt.orgs[:3])
    assert refused.value.code == "too_few_shares"


def test_a_view_with_another_t2_opens_to_noise() -> None:
    attempt = Attempt(3, 3, number=8, length=1000)
    odd = attempt.vectors[attempt.orgs[0]].copy()
    first = attempt.orgs[0]
    whole_vectors.apply(odd, masks.mask_keys(T0, first, attempt.private[first], attempt.seeds[first], attempt.public))
    acc = odd + attempt.masked(attempt.orgs[1]) + attempt.masked(attempt.orgs[2])
    own = [masks.self_key(T2 if i else T0, attempt.seeds[org], org) for i, org in enumerate(attempt.orgs)]
    whole_vectors.unmask(acc, own, [])
    assert np.count_nonzero(acc == np.array(attempt.true_sum(attempt.orgs), dtype=np.uint32)) == 0


@steady
@given(st.binary(min_size=32, max_size=32), st.integers(1, 12), st.integers(0, 6), st.integers(0, 10**9), st.data())
def test_any_threshold_shares_give_the_secret(
    secret: bytes, t: int, more: int, number: int, data: st.DataObject
) -> None:
    xs = data.draw(st.lists(st.integers(1, 65535), min_size=t + more, max_size=t + more, unique=True))
    dealt = shamir.deal(secret, t, xs, seed(number).below("c", shamir.PRIME, t - 1))
    chosen = data.draw(st.permutations(xs))
    for size in (t, t + more):
        assert shamir.reconstruct({x: dealt[x] for x in chosen[:size]}, t) == secret
    with pytest.raises(IntegrityError):
        shamir.reconstruct({x: dealt[x] for x in chosen[: t - 1]}, t)


@steady
@given(
    st.binary(min_size=32, max_size=32), st.binary(min_size=32, max_size=32), st.integers(2, 9), st.integers(0, 10**9)
)
def test_one_share_too_few_fits_every_secret(secret: bytes, candidate: bytes, t: int, number: int) -> None:
    """For any other secret there is a last share with which the same t-1 shares give that secret instead."""
    dealt = shamir.deal(secret, t, range(1, t + 1), seed(number).below("c", shamir.PRIME, t - 1))
    # A polynomial that is `difference` at 0 and 0 at 1 .. t-1, evaluated at t.
    difference = int.from_bytes(candidate, "big") - int.from_bytes(secret, "big")
    weight = math.prod(t - x for x in range(1, t)) * pow(math.prod(-x for x in range(1, t)), -1, shamir.PRIME)
    last = (int.from_bytes(dealt[t].expose(), "big") + difference * weight) % shamir.PRIME
    forged: dict[int, Share | bytes] = {**dealt, t: last.to_bytes(33, "big")}
    assert shamir.reconstruct(forged, t) == candidate


def test_t_minus_1_shares_in_a_small_field_are_uniform_whatever_the_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    """All polynomials over GF(11): two shares of a threshold of 3 take each pair of values once, for each secret."""
    monkeypatch.setattr(shamir, "PRIME", 11)
    for value in range(11):
        seen = set()
        for coefficients in itertools.product(range(11), repeat=2):
            dealt = shamir.deal(value.to_bytes(32, "big"), 3, [2, 5, 7], coefficients)
            seen.add((dealt[2].expose(), dealt[7].expose()))
        assert len(seen) == 121


@steady
@given(st.floats(-1000, 1000), st.integers(0, 2**40), st.integers(1, 2000))
def test_quantised_values_are_neighbours_of_the_scaled_one(value: float, start: int, limit: int) -> None:
    integers, clamps = fixedpoint.quantise(np.full(50, value), 1.0, limit, bytes(32), start)
    v = min(max(value, -limit), limit)
    assert set(integers.tolist()) <= {math.floor(v), math.ceil(v)}
    assert clamps == (50 if abs(value) > limit else 0)


@pytest.mark.parametrize("value", [0.5, -0.5, 0.1, -0.1, 3.999, -7.25, 1e-3])
def test_rounding_is_unbiased(value: float) -> None:
    """z-test at 5 standard errors: false alarm below 10^-6 a case, and the key is fixed anyway."""
    count = 200_000
    integers, _ = fixedpoint.quantise(np.full(count, value), 1.0, 1000, bytes(range(32)), 0)
    spread = math.sqrt((value % 1) * (1 - value % 1) / count)
    assert abs(float(integers.mean()) - value) < 5 * spread


@steady
@given(st.integers(1, 400), st.lists(st.integers(0, 400), max_size=4), st.integers(0, 2**34), st.integers(0, 10**9))
def test_chunked_equals_whole(length: int, cuts: list[int], start: int, number: int) -> None:
    key, other = seed(number).bytes("k", 32), seed(number).bytes("other", 32)
    edges = sorted({0, length, *[cut for cut in cuts if cut < length]})
    values = prg.words(other, 0, length).astype(np.float64) - 2.0**31
    whole, clamps = fixedpoint.quantise(values, 0.3, 2**28, key, start)
    ring = residues(whole, 32)
    whole_vectors.apply(ring, [masks.MaskKey(Seed(key), False), masks.MaskKey(Seed(other), True)], start)
    pieces, total = [], 0
    for low, high in itertools.pairwise(edges):
        part, count = fixedpoint.quantise(values[low:high], 0.3, 2**28, key, start + low)
        piece = residues(part, 32)
        whole_vectors.apply(piece, [masks.MaskKey(Seed(key), False), masks.MaskKey(Seed(other), True)], start + low)
        pieces.append(piece)
        total += count
    assert np.array_equal(np.concatenate(pieces), ring)
    assert total == clamps


STEPS = 2 * 32_768 + 17
"""A vector of three steps of the rounding, the last one short."""

EDGES = [0.0, -0.0, 0.5, -0.5, 1 - 2.0**-53, -(2.0**-60), 5e-324, -5e-324, 2.0**-1022, 3.0, -3.0, 2.0**46 + 0.25, 1e308]
WIDEST = 2.0**31 - 1
"""The largest limit that is rounded into int32."""


def rounded_plainly(
    values: NDArray[np.float64], scale: float, limit: int, key: bytes, start: int
) -> tuple[NDArray[np.int64], int]:
    """FLSA/1 2.5 word for word, over the whole vector, in int64 and without steps."""
    with np.errstate(over="ignore", under="ignore"):
        exact = values * scale
    v = np.clip(exact, -limit, limit)
    words = prg.words(key, 2 * start, 2 * len(values)).astype("<u4").view("<u8")
    u = (words >> np.uint64(11)).astype(np.float64) * 2.0**-53
    up = u < v - np.floor(v)
    return np.floor(v).astype(np.int64) + up, int(np.count_nonzero(np.abs(exact) > limit))


@steady
@given(
    st.lists(st.one_of(st.floats(-1e12, 1e12), st.floats(-3, 3), st.sampled_from(EDGES)), min_size=1, max_size=60),
    st.sampled_from([1.0, 0.3, 6553.4, 2.0**-40, 1e300]),
    st.sampled_from([1, 1000, 2**31 - 2, 2**31 - 1, 2**31, 2**40, 2**47 - 1]),
    st.integers(0, 2**34),
    st.sampled_from([1, 60, 32_767, 32_768, 32_769, STEPS]),
)
def test_every_coordinate_is_rounded_as_it_is_written(
    some: list[float], scale: float, limit: int, start: int, length: int
) -> None:
    values = np.resize(np.array(some), length)
    found, clamps = fixedpoint.quantise(values, scale, limit, bytes(range(32)), start)
    expected, moved = rounded_plainly(values, scale, limit, bytes(range(32)), start)
    assert found.dtype == (np.int32 if limit < 2**31 else np.int64)
    assert np.array_equal(found, expected)
    assert clamps == moved


@steady
@given(
    st.lists(st.one_of(st.floats(-WIDEST, WIDEST), st.sampled_from([WIDEST, -WIDEST, 0.5 - WIDEST])), min_size=1),
    st.integers(0, 2**34),
    st.sampled_from([1, 1000, STEPS]),
)
def test_int32_and_int64_are_rounded_alike(some: list[float], start: int, length: int) -> None:
    values, key = np.resize(np.array(some), length), bytes(range(32))
    narrow, wide = (fixedpoint.quantise(values, 1.0, limit, key, start) for limit in (2**31 - 1, 2**31))
    assert (narrow[0].dtype, wide[0].dtype) == (np.int32, np.int64)
    assert np.array_equal(narrow[0], wide[0])
    assert narrow[1] == wide[1] == 0
    for bits in (32, 40, 64):
        assert np.array_equal(residues(narrow[0], bits), residues(wide[0], bits))


SIGNALLING = np.array([0x7FF0_0000_0000_0001], dtype=np.uint64).view(np.float64)[0]
"""A NaN that makes arithmetic complain."""


@pytest.mark.parametrize("bad", [np.nan, -np.nan, np.inf, -np.inf, SIGNALLING])
@pytest.mark.parametrize("where", [0, 32_767, 32_768, 50_000, 65_536, STEPS - 1], ids=str)
@pytest.mark.parametrize("limit", [1000, 2**31])
@pytest.mark.parametrize("beside", [0.25, 1e308])
def test_what_is_no_number_is_noticed_in_any_step(bad: float, where: int, limit: int, beside: float) -> None:
    """Beside small values, and beside those that are clamped; the count is over the whole vector."""
    values = np.full(STEPS, beside)
    values[where] = bad
    values[STEPS // 3] = np.nan
    with pytest.raises(PolicyRefusal) as refused:
        fixedpoint.quantise(values, 64.0, limit, bytes(32), 0)
    assert refused.value.code == "update_not_finite"
    assert f"2 of {STEPS} coordinates of the update are NaN or infinite" in str(refused.value)


@pytest.mark.parametrize("where", [0, 32_767, 32_768, 50_000, 65_536, STEPS - 1], ids=str)
@pytest.mark.parametrize(("value", "scale"), [(1e308, 1e10), (-1e308, 1e10), (1e308, 1.0), (-1001.0, 1.0)])
@pytest.mark.parametrize("limit", [1000, 2**31 - 1, 2**31])
def test_what_is_too_large_is_clamped_in_any_step(where: int, value: float, scale: float, limit: int) -> None:
    """Also where the product is too large for a float."""
    values = np.full(STEPS, 0.0)
    values[where] = value
    integers, clamps = fixedpoint.quantise(values, scale, limit, bytes(32), 0)
    expected = max(-limit, min(value * scale, limit))
    assert integers[where] == expected
    assert np.count_nonzero(integers) == 1
    assert clamps == int(abs(value * scale) > limit)


def test_blocks_of_both_widths_become_one_vector() -> None:
    """A block whose limit needs int64 beside one that does not: the integers are those of each alone."""
    shape = layout.Layout((layout.Block(layout.UPDATE, 3, 2.0**39, 1.0), layout.Block(layout.WEIGHT, 2, 1.0, 1.0)))
    values, key = np.array([2.0**39 - 1, -(2.0**39), 0.5, 1.0, -1.0]), bytes(32)
    both: Signed = update.encode(shape, values, key, 48).integers
    assert both.dtype == np.int64
    parts = [update.encode(shape, values[piece], key, 48, piece.start).integers for piece in (slice(0, 3), slice(3, 5))]
    assert [part.dtype for part in parts] == [np.int64, np.int32]
    assert both.tolist() == [*parts[0].tolist(), *parts[1].tolist()]
    assert np.array_equal(residues(parts[1], 48), residues(both, 48)[3:])


@pytest.mark.parametrize("length", [0, 1, 32_767, 32_768, 32_769, 100_001])
@pytest.mark.parametrize("word_bytes", [4, 8])
def test_a_stream_fills_as_it_is_added_to_zeros(length: int, word_bytes: int) -> None:
    key, kind = bytes(range(32)), np.dtype(f"<u{word_bytes}")
    found, added = np.full(length, 7, dtype=kind), np.zeros(length, dtype=kind)
    streams = prg.Streams([(key, False)], 3, word_bytes)
    streams.fill(found[: length // 2])
    streams.fill(found[length // 2 :])
    prg.Streams([(key, False)], 3, word_bytes).apply(added)
    assert np.array_equal(found, added)


@pytest.mark.parametrize(
    ("keys", "part"),
    [
        ([], np.zeros(4, dtype="<u8")),
        ([(bytes(32), True)], np.zeros(4, dtype="<u8")),
        ([(bytes(32), False), (bytes(range(32)), False)], np.zeros(4, dtype="<u8")),
        ([(bytes(32), False)], np.zeros(4, dtype="<u4")),
        ([(bytes(32), False)], np.zeros(4, dtype=">u8")),
        ([(bytes(32), False)], np.zeros(4, dtype="<i8")),
        ([(bytes(32), False)], np.zeros((2, 2), dtype="<u8")),
        ([(bytes(32), False)], np.zeros(8, dtype="<u8")[::2]),
    ],
    ids=["none", "subtracted", "two", "narrow", "big-endian", "signed", "square", "gaps"],
)
def test_a_stream_fills_nothing_else(keys: list[tuple[bytes, bool]], part: NDArray[np.uint64]) -> None:
    with pytest.raises(ValueError, match="fills"):
        prg.Streams(keys, 0, 8).fill(part)
    assert not part.any()


@pytest.mark.parametrize("length", [65_535, 65_536, 65_537, 200_001])
def test_the_inner_chunks_of_a_stream_do_not_show(length: int) -> None:
    key = bytes(range(32))
    acc = np.arange(length, dtype=np.uint32)
    prg.add_stream(acc, key, 1)
    assert np.array_equal(acc, np.arange(length, dtype=np.uint32) + prg.words(key, 1, length))
    assert np.array_equal(prg.words(key, 1, length)[-5:], prg.words(key, length - 4, 5))
    prg.add_stream(acc, key, 1, subtract=True)
    assert np.array_equal(acc, np.arange(length, dtype=np.uint32))


@steady
@given(st.lists(st.integers(-(2**31), 2**31 - 1), max_size=20))
def test_ring_and_back(values: list[int]) -> None:
    integers = np.array(values, dtype=np.int64)
    ring = residues(integers, 32)
    assert ring.tolist() == [v % 2**32 for v in values]
    assert signed(ring, 32).tolist() == values


@pytest.mark.parametrize("value", [2**31, -(2**31) - 1, 2**40])
def test_what_does_not_fit_the_ring_is_refused(value: int) -> None:
    with pytest.raises(ValueError, match="ring"):
        residues(np.array([0, value], dtype=np.int64), 32)


@pytest.mark.parametrize("peak", [1e308, 1.0, 1e-300, 5e-324])
@pytest.mark.parametrize("norm", [1e-3, 1.0, 1e300])
def test_clip_scales_to_the_norm_or_leaves_alone(peak: float, norm: float) -> None:
    values = np.array([peak, -peak, 0.0, peak], dtype=np.float64)
    clipped = fixedpoint.clip_l2(values, norm)
    exact = peak * math.sqrt(3) if peak < 1e308 else math.inf
    if exact <= norm:
        assert np.array_equal(clipped, values)
    else:
        length = math.hypot(*clipped.tolist())
        assert length == pytest.approx(norm, rel=1e-12)
        assert np.array_equal(np.sign(clipped), np.sign(values))


@steady
@given(st.integers(3, 256), st.integers(1, 80))
def test_two_certificates_need_more_honest_votes_than_there_are(n: int, c: int) -> None:
    """2.7 lemma in its inequality form: each certificate takes at least q-c (a-c) honest votes, of at most n-c."""
    q, a = quorum.quorum(n, c), quorum.abort_threshold(n, c)
    if c < n:
        assert 2 * (q - c) > n - c
        assert (q - c) + (a - c) > n - c


@pytest.mark.parametrize(("stated", "roster", "bound"), [(0, 3, 1), (0, 10, 2), (3, 10, 3), (1, 256, 51), (0, 4, 1)])
def test_corrupt_bound(stated: int, roster: int, bound: int) -> None:
    assert quorum.corrupt_bound(stated, roster) == bound


def test_a_cohort_of_256_is_accepted() -> None:
    q = quorum.quorum(256, 51)
    quorum.check_parameters(256, 51, q, q, q, 51)


@pytest.mark.parametrize(("value_bits", "ring_bits"), [(1, 32), (33, 32), (8, 7), (8, 65), (0, 32)])
def test_widths_that_do_not_exist_are_refused(value_bits: int, ring_bits: int) -> None:
    with pytest.raises(PeerError) as refused:
        quorum.check_no_wrap(3, value_bits, ring_bits)
    assert refused.value.code == "bad_ring"


def test_noise_is_in_the_no_wrap_inequality() -> None:
    room = 2**31 - 1 - 10 * (2**19 - 1)
    quorum.check_no_wrap(10, 20, 32, noise_bound=room)
    with pytest.raises(PeerError) as refused:
        quorum.check_no_wrap(10, 20, 32, noise_bound=room + 1)
    assert refused.value.code == "ring_would_wrap"


@pytest.mark.parametrize("norm", [0.0, -1.0, math.inf, math.nan])
def test_a_norm_without_a_meaning_is_misuse(norm: float) -> None:
    with pytest.raises(ValueError, match="norm"):
        fixedpoint.clip_l2(np.ones(2), norm)


def test_only_ring_vectors_are_decoded() -> None:
    with pytest.raises(ValueError, match="uint32"):
        signed(np.zeros(2, dtype=np.uint64), 32)


def test_a_sum_is_opened_leaf_by_leaf_as_it_is_at_once() -> None:
    length = 2 * 16_384 + 7
    attempt = Attempt(4, 3, number=11, length=length)
    survivors, gone = attempt.orgs[:3], attempt.orgs[3]
    whole = np.zeros(length, dtype=np.uint32)
    for org in survivors:
        whole += attempt.masked(org)
    by_leaf = whole.copy()
    own = [masks.self_key(T2, attempt.seeds[org], org) for org in survivors]
    publics = {org: attempt.public[org] for org in survivors}
    residual = masks.residual_keys(T2, gone, attempt.private[gone], publics, attempt.public[gone])
    whole_vectors.unmask(whole, own, residual)
    for start in range(0, length, 16_384):
        whole_vectors.unmask(by_leaf[start : start + 16_384], own, residual, start)
    assert np.array_equal(by_leaf, whole)
    assert whole.tolist() == attempt.true_sum(survivors)


def test_the_two_secrets_of_a_dealer_are_shared_by_independent_polynomials() -> None:
    """With equal coefficients every recipient would hold the difference of mask key and self seed."""
    attempt = Attempt(5, 3, number=12)
    held = [attempt.held[attempt.orgs[0], org] for org in attempt.orgs]
    numbers = [
        (int.from_bytes(o.key_share.expose(), "big"), int.from_bytes(o.self_share.expose(), "big")) for o in held
    ]
    assert len({(a - b) % shamir.PRIME for a, b in numbers}) == len(held)


def test_whole_numbers_are_never_rounded_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """The comparison is strict: a uniform of exactly 0 leaves a fraction of 0 where it is, and lifts every other."""
    monkeypatch.setattr(fixedpoint.Streams, "fill", lambda self, part: part.fill(0))
    found, _ = fixedpoint.quantise(np.array([3.0, -3.0, 0.0, -0.0, 2.5, -2.5]), 1.0, 7, bytes(32), 0)
    assert found.tolist() == [3, -3, 0, 0, 3, -2]


@pytest.mark.parametrize(("min_honest", "accepted"), [(0, True), (5, True), (6, False)])
def test_the_policy_may_raise_the_honest_floor(min_honest: int, accepted: bool) -> None:
    """N = 10, c = 2 leaves q-c = 5 honest updates in a sum."""
    if accepted:
        quorum.check_parameters(10, 2, 7, 7, 7, 2, min_honest)
        return
    with pytest.raises(PeerError) as refused:
        quorum.check_parameters(10, 2, 7, 7, 7, 2, min_honest)
    assert refused.value.code == "cohort_too_small"


@pytest.mark.parametrize("min_honest", [-1, 0, 1, 2])
def test_the_policy_cannot_lower_the_honest_floor_below_two(min_honest: int) -> None:
    with pytest.raises(PeerError) as refused:
        quorum.check_parameters(3, 2, 3, 3, 3, 2, min_honest)
    assert refused.value.code == "cohort_too_small"


def test_shares_beyond_the_threshold_are_checked_but_not_used() -> None:
    dealt = shamir.deal(bytes(32), 2, [1, 2, 3], [5])
    false: dict[int, Share | bytes] = {1: dealt[1], 2: dealt[2], 9: bytes(33)}
    assert shamir.reconstruct(false, 2) == bytes(32)
    for x in (0, 65536):
        with pytest.raises(IntegrityError) as refused:
            shamir.reconstruct({1: dealt[1], 2: dealt[2], x: dealt[3]}, 2)
        assert refused.value.code == "bad_share"
