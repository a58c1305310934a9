"""Attacks on the arithmetic, by their numbers in FLSA/1 section 5: 14, 32, 33, 34.

Each is run three times: with an honest value, which passes; as an attack, which the one named check stops; and again
with exactly that check replaced, where the attack must succeed. So no test passes because of something else.
"""

from collections.abc import Callable

import numpy as np
import pytest
from fedveil_common.crypto import agreement, prg, shamir
from fedveil_common.crypto.draws import Draws
from fedveil_common.errors import FedveilError, IntegrityError, PeerError, PolicyRefusal
from fedveil_common.ids import OrgId
from fedveil_common.masking import fixedpoint, masks, quorum, shares
from fedveil_common.masking.ring import Signed, residues, signed, zeros
from fedveil_common.messages import ShareMsg
from fedveil_common.secret import Secret, Seed, Share
from numpy.typing import NDArray

from tests import whole_vectors

SECRET = bytes(range(32))
DEALT = shamir.deal(SECRET, 3, [1, 2, 3, 4], [7, 11])
GOOD: dict[int, Share | bytes] = {1: DEALT[1], 2: DEALT[2], 3: DEALT[3]}


def refused(action: Callable[[], object], code: str) -> FedveilError:
    """The error with which `action` is refused; it must carry `code`."""
    with pytest.raises(FedveilError) as caught:
        action()
    assert caught.value.code == code
    return caught.value


# --- 14: malformed shares ---------------------------------------------------------------------------------------------


class AnyLength(Secret):
    """What a share would be without its checks."""

    __slots__ = ()


ALIAS = (int.from_bytes(DEALT[1].expose(), "big") + shamir.PRIME).to_bytes(33, "big")
MALFORMED = {
    "share plus p, the same share in other bytes": (ALIAS, SECRET),
    "34 bytes, the same share in other bytes": (b"\0" + DEALT[1].expose(), SECRET),
    "32 bytes, its top byte lost": (DEALT[4].expose()[1:], None),
}


@pytest.mark.parametrize(("bad", "gives"), MALFORMED.values(), ids=MALFORMED)
def test_attack_14_malformed_share(bad: bytes, gives: bytes | None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stopped by `shamir.check_share`."""
    attack = {**GOOD, 1: bad}
    assert shamir.reconstruct(GOOD, 3) == SECRET
    assert isinstance(refused(lambda: shamir.reconstruct(attack, 3), "bad_share"), IntegrityError)
    monkeypatch.setattr(shamir, "check_share", AnyLength)
    value = shamir.reconstruct(attack, 3)  # an unchecked value comes out, well-formed in every respect
    assert len(value) == 32
    assert value == gives if gives else value != SECRET


def test_attack_14_share_at_x_zero_sets_the_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    """Stopped by `shamir.check_coordinates`."""
    chosen = bytes([0xAB]) * 32
    attack: dict[int, Share | bytes] = {0: b"\0" + chosen, 2: DEALT[2], 3: DEALT[3]}
    assert shamir.reconstruct(GOOD, 3) == SECRET
    refused(lambda: shamir.reconstruct(attack, 3), "bad_share")
    monkeypatch.setattr(shamir, "check_coordinates", lambda xs: None)
    assert shamir.reconstruct(attack, 3) == chosen


def test_attack_14_the_same_x_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    """Stopped by `shamir.check_coordinates`: with a repeated x the interpolation silently yields another value."""

    def combine(xs: list[int]) -> int:
        weights = shamir.lagrange_at_zero(xs)
        values = [int.from_bytes(DEALT[x].expose(), "big") for x in xs]
        return sum(w * y for w, y in zip(weights, values, strict=True)) % shamir.PRIME

    assert combine([1, 2, 3]) == int.from_bytes(SECRET, "big")
    refused(lambda: combine([1, 2, 2]), "bad_share")
    monkeypatch.setattr(shamir, "check_coordinates", lambda xs: None)
    assert combine([1, 2, 2]) != int.from_bytes(SECRET, "big")


def test_attack_14_a_share_that_is_not_the_dealt_one_is_caught_by_its_commitment(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Stopped by `shares._same`: Shamir alone returns a wrong secret for a false but well-formed share."""
    dealer, revealer = OrgId("org-001"), OrgId("org-002")
    t1, share, false = bytes(32), DEALT[1], bytes(33)
    commits = (
        shares.key_share_commit(t1, dealer, revealer, share),
        shares.self_share_commit(t1, dealer, revealer, share),
    )
    message = ShareMsg(t1, dealer, revealer, *commits, nonce=b"", ciphertext=b"")
    for check in (shares.check_revealed_key_share, shares.check_revealed_self_share):
        assert check(message, share.expose()) == share
        error = refused(lambda check=check: check(message, false), "bad_share")  # type: ignore[misc]
        assert isinstance(error, PeerError)
        assert error.peer == revealer
    monkeypatch.setattr(shares, "_same", lambda computed, committed: None)
    accepted = shares.check_revealed_key_share(message, false)
    assert shamir.reconstruct({**GOOD, 1: accepted}, 3) != SECRET


# --- 32: updates that are not numbers ---------------------------------------------------------------------------------


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_attack_32_not_a_number_in_the_update(bad: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stopped by `fixedpoint.check_finite`, in the clip and again in the rounding."""
    honest, attack = np.array([0.5, -0.25, 1.0]), np.array([0.5, bad, 1.0])

    def encode(values: NDArray[np.float64]) -> Signed:
        return fixedpoint.quantise(values, 64.0, 1000, bytes(32), 0)[0]

    assert encode(fixedpoint.clip_l2(honest, 10.0)).tolist() == [32, -16, 64]
    for action in (lambda: fixedpoint.clip_l2(attack, 10.0), lambda: encode(attack)):
        assert isinstance(refused(action, "update_not_finite"), PolicyRefusal)
    monkeypatch.setattr(fixedpoint, "check_finite", lambda values: None)
    with np.errstate(invalid="ignore"):
        value = int(encode(attack)[1])
    assert abs(value) >= 1000  # a number that training never produced, ready to be masked and sent


@pytest.mark.parametrize(
    ("values", "integers"),
    [
        ([-0.0, 0.0], [0, 0]),
        ([1e308, -1e308], [1000, -1000]),
        ([2.0**-1022, 2.0, -2.0], [0, 128, -128]),
        ([], []),
    ],
    ids=["signed zeros", "largest floats", "denormal border", "empty"],
)
def test_attack_32_odd_but_finite_updates_are_encoded_right(values: list[float], integers: list[int]) -> None:
    found, clamps = fixedpoint.quantise(np.array(values, dtype=np.float64), 64.0, 1000, bytes(range(32)), 0)
    assert found.tolist() == integers
    assert clamps == sum(abs(v) > 1000 / 64 for v in values)
    assert len(fixedpoint.clip_l2(np.array(values, dtype=np.float64), 1.0)) == len(values)


@pytest.mark.parametrize("values", [np.zeros((2, 2)), np.zeros(3, dtype=np.float32), np.array(1.0)])
def test_attack_32_other_shapes_and_types_are_misuse(values: NDArray[np.float64]) -> None:
    for action in (lambda: fixedpoint.quantise(values, 1.0, 7, bytes(32), 0), lambda: fixedpoint.clip_l2(values, 1.0)):
        with pytest.raises(ValueError, match="float64"):
            action()


@pytest.mark.parametrize(("scale", "limit"), [(0.0, 7), (np.inf, 7), (np.nan, 7), (1.0, 0), (1.0, 2**47)])
def test_attack_32_no_scale_or_limit_without_a_meaning(scale: float, limit: int) -> None:
    with pytest.raises(ValueError, match=r"scale|limit"):
        fixedpoint.quantise(np.zeros(1), scale, limit, bytes(32), 0)


# --- 33: wraparound ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sign", [1, -1])
def test_attack_33_wraparound_at_the_limit_and_one_beyond(sign: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stopped by `quorum.check_no_wrap`: 256 values of 24 bits fit 32 bits exactly, 257 do not."""
    bits = 24
    extreme = sign * (2 ** (bits - 1) - 1)

    def total(members: int) -> int:
        quorum.check_no_wrap(members, bits, 32)
        acc = zeros(1, 32)
        for _ in range(members):
            values = np.full(1, float(sign))
            acc += residues(fixedpoint.quantise(values, float(abs(extreme)), abs(extreme), bytes(32), 0)[0], 32)
        return int(signed(acc, 32)[0])

    assert total(256) == 256 * extreme
    assert isinstance(refused(lambda: total(257), "ring_would_wrap"), PeerError)
    monkeypatch.setattr(quorum, "check_no_wrap", lambda n, value_bits, ring_bits: None)
    assert total(257) == 257 * extreme - sign * 2**32  # the sum of equal signs comes out with the other sign


@pytest.mark.parametrize(("n", "value_bits"), [(10, 28), (50, 26), (200, 24), (256, 24)])
def test_attack_33_the_widths_that_a_ring_of_32_bits_permits(n: int, value_bits: int) -> None:
    quorum.check_no_wrap(n, value_bits, 32)
    with pytest.raises(PeerError):
        quorum.check_no_wrap(n, value_bits + (2 if n == 10 else 1), 32)


# --- 34: masks that do not hide ---------------------------------------------------------------------------------------

LENGTH = 1 << 16


def masked(number: int, vector: NDArray[np.uint32]) -> NDArray[np.uint32]:
    """`vector` as the middle one of three dealers sends it."""
    draws = Draws(Seed(number.to_bytes(32, "big")))
    private = {OrgId(i): draws.private_key("mask", i.encode()) for i in ("a", "b", "c")}
    public = {org: agreement.public_key(key) for org, key in private.items()}
    me = OrgId("b")
    keys = masks.mask_keys(bytes(32), me, private[me], draws.seed("self"), public)
    return np.asarray(whole_vectors.masked(vector, keys, bytes(32), me)[0], dtype=np.uint32)


def chi_square(ring: NDArray[np.uint32]) -> float:
    """Standardised chi-square of all bytes over 256 cells: about N(0, 1) if they are uniform."""
    counts = np.bincount(ring.view(np.uint8), minlength=256)
    expected = ring.size * 4 / 256
    statistic = float((((counts - expected) ** 2) / expected).sum())
    return (statistic - 255) / float(np.sqrt(2 * 255))


def looks_uniform(ring: NDArray[np.uint32]) -> bool:
    """|z| < 5: false alarm below 10^-5, on keys that are fixed."""
    return abs(chi_square(ring)) < 5


def test_attack_34_reading_a_masked_zero_vector(monkeypatch: pytest.MonkeyPatch) -> None:
    """Stopped by the streams of `masks.streams`: without them the vector is there to read."""
    zeros = np.zeros(LENGTH, dtype=np.uint32)
    ring = masked(1, zeros)
    assert looks_uniform(ring)
    assert np.count_nonzero(ring == 0) < 10
    monkeypatch.setattr(masks, "streams", lambda keys, start_word, bits: prg.Streams((), start_word))
    assert np.array_equal(masked(1, zeros), zeros)
    assert not looks_uniform(masked(1, zeros))


def test_attack_34_a_weak_stream_is_noticed_by_the_same_test(monkeypatch: pytest.MonkeyPatch) -> None:
    """A stream of 31-bit words (as of a generator that never yields its top values) fails the chi-square."""

    def weak(streams: prg.Streams, part: NDArray[np.uint32]) -> None:
        strong(streams, part)
        part &= np.uint32(0x7FFFFFFF)

    strong = prg.Streams.apply
    zeros = np.zeros(LENGTH, dtype=np.uint32)
    assert looks_uniform(masked(2, zeros))
    monkeypatch.setattr(prg.Streams, "apply", weak)
    assert not looks_uniform(masked(2, zeros))


@pytest.mark.parametrize("start", [16_384, 2 * 16_384, 2**30 - 4, 2**32 - 4, 2**34 - 4, 2**34 - 3])
def test_attack_34_no_seek_repeats_or_skips_a_word(start: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stopped by the full-width counter of `prg._context`: one of 32 bits reuses the first words after 2^32 blocks."""
    key = bytes(range(32))
    whole = prg.words(key, start - 5, 30)
    for offset in range(30):
        assert np.array_equal(prg.words(key, start - 5 + offset, 30 - offset), whole[offset:])
    assert not np.isin(whole, prg.words(key, 0, 4096)).any()
    context = prg._context
    monkeypatch.setattr(prg, "_context", lambda key, block: context(key, block % 2**32))
    reused = np.array_equal(prg.words(key, 2**34 + 3, 8), prg.words(key, 3, 8))
    assert reused
