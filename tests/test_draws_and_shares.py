"""Draws from one event seed, sealing, openings, and what secrets show of themselves."""

import dataclasses
import pickle

import numpy as np
import pytest
from fedveil_common.crypto import aead, agreement, prg, shamir
from fedveil_common.crypto.draws import Draws
from fedveil_common.errors import IntegrityError, PeerError
from fedveil_common.ids import OrgId
from fedveil_common.masking import masks, shares
from fedveil_common.messages import ShareMsg, ShareOpening
from fedveil_common.secret import Seed, Share
from hypothesis import given, settings
from hypothesis import strategies as st

DRAWS = Draws(Seed(bytes(range(32))))
A, B, C = OrgId("a"), OrgId("b"), OrgId("c")


def test_equal_draws_are_equal_and_any_difference_makes_them_independent() -> None:
    again = Draws(Seed(bytes(range(32))))
    assert again.bytes("x", 40, b"f") == DRAWS.bytes("x", 40, b"f")
    assert again.seed("x", b"f") == DRAWS.seed("x", b"f")
    assert again.private_key("x") == DRAWS.private_key("x")
    assert again.below("x", 1000, 9) == DRAWS.below("x", 1000, 9)
    starts = [
        DRAWS.bytes("x", 32, b"f"),
        DRAWS.bytes("x", 33, b"f"),
        DRAWS.bytes("x", 32, b"", b"f"),
        DRAWS.bytes("y", 32, b"f"),
        DRAWS.bytes("x", 32),
        DRAWS.seed("x", b"f").expose(),
        DRAWS.private_key("x", b"f").expose(),
        Draws(Seed(bytes(32))).bytes("x", 32, b"f"),
    ]
    assert len({start[:8] for start in starts}) == len(starts)


@pytest.mark.parametrize("bound", [1, 2, 3, 10, 255, 256, 257, 2**16 + 1])
def test_below_is_uniform(bound: int) -> None:
    count = 20_000
    drawn = DRAWS.below("uniform", bound, count)
    assert len(drawn) == count
    assert 0 <= min(drawn) <= max(drawn) < bound
    cells = min(bound, 8)
    counts = np.bincount([d * cells // bound for d in drawn], minlength=cells)
    sizes = np.bincount([v * cells // bound for v in range(bound)], minlength=cells)
    expected = count * sizes / bound
    assert float(((counts - expected) ** 2 / expected).sum()) < 40  # at most 7 degrees of freedom: below 10^-5


def test_below_the_prime_of_shamir() -> None:
    drawn = DRAWS.below("p", shamir.PRIME, 500)
    assert len(set(drawn)) == 500
    assert all(0 <= d < shamir.PRIME for d in drawn)
    assert 180 < sum(d > shamir.PRIME // 2 for d in drawn) < 320


@pytest.mark.parametrize(("bound", "count"), [(0, 1), (-1, 1), (5, -1)])
def test_below_refuses_what_cannot_be_drawn(bound: int, count: int) -> None:
    with pytest.raises(ValueError, match="bound"):
        DRAWS.below("x", bound, count)
    assert DRAWS.below("x", 5, 0) == []


def test_sealed_bytes_open_only_as_they_were() -> None:
    key, nonce = bytes(32), bytes(12)
    sealed = aead.seal(key, nonce, b"text", b"aad")
    assert aead.open_sealed(key, nonce, sealed, b"aad") == b"text"
    flipped = sealed[:-1] + bytes([sealed[-1] ^ 1])
    for attack in (
        (bytes([1]) * 32, nonce, sealed, b"aad"),
        (key, bytes([1]) * 12, sealed, b"aad"),
        (key, nonce, flipped, b"aad"),
        (key, nonce, sealed, b"aae"),
        (key, nonce, sealed[:-1], b"aad"),
        (key, nonce, b"", b"aad"),
        (key, b"", sealed, b"aad"),
    ):
        with pytest.raises(IntegrityError) as refused:
            aead.open_sealed(*attack)
        assert refused.value.code == "aead_failed"


def test_misuse_of_the_primitives_is_a_value_error() -> None:
    zeros = np.zeros(4, dtype=np.uint32)
    for action in (
        lambda: aead.seal(bytes(16), bytes(12), b"", b""),
        lambda: aead.open_sealed(bytes(16), bytes(12), bytes(16), b""),
        lambda: aead.seal(bytes(32), bytes(11), b"", b""),
        lambda: prg.words(bytes(16), 0, 1),
        lambda: prg.words(bytes(32), -1, 1),
        lambda: prg.words(bytes(32), 0, -1),
        lambda: prg.add_stream(zeros.astype(np.int64), bytes(32)),
        lambda: prg.add_stream(zeros.reshape(2, 2), bytes(32)),
        lambda: shamir.deal(bytes(31), 1, [1], []),
        lambda: shamir.deal(bytes(32), 0, [1], []),
        lambda: shamir.deal(bytes(32), 2, [1], [1]),
        lambda: shamir.deal(bytes(32), 2, [1, 2], []),
        lambda: shamir.deal(bytes(32), 2, [1, 2], [shamir.PRIME]),
        lambda: shamir.deal(bytes(32), 1, [0], []),
        lambda: shamir.deal(bytes(32), 1, [3, 3], []),
        lambda: shamir.deal(bytes(32), 1, [65536], []),
        lambda: shamir.reconstruct({1: bytes(33)}, 0),
    ):
        with pytest.raises(ValueError, match=r"\w"):
            action()


def test_a_memory_mapped_or_sliced_accumulator_is_changed_in_place() -> None:
    acc = np.zeros(10, dtype=np.uint32)
    prg.add_stream(acc[2:6], bytes(32), 2)
    assert acc.tolist() == [0, 0, *prg.words(bytes(32), 2, 4).tolist(), 0, 0, 0, 0]


def dealt() -> tuple[shares.Dealt, dict[OrgId, bytes]]:
    """The work of dealer A for A, B, C."""
    channel = {org: DRAWS.private_key("channel", org.encode()) for org in (A, B, C)}
    public = {org: agreement.public_key(key) for org, key in channel.items()}
    secrets = (DRAWS.private_key("mask"), DRAWS.seed("self"), DRAWS.seed("kappa"))
    xs = {A: 1, B: 2, C: 4}  # x counts the cohort: a member that never advertised leaves a gap
    return shares.deal_to_all(bytes(32), A, xs, channel[A], public, *secrets, 2, DRAWS), public


def test_dealing_twice_from_one_seed_repeats_the_same_bytes() -> None:
    work, _ = dealt()
    assert [message.recipient for message in work.messages] == [B, C]
    assert dealt()[0].messages == work.messages
    assert work.messages[0].nonce != work.messages[1].nonce


def opening_of(message: ShareMsg) -> tuple[ShareOpening, shares.OpenedShare]:
    """The honest public answer to a complaint about `message`, and what it opens."""
    _, public = dealt()
    private = DRAWS.private_key("channel", message.recipient.encode())
    commit = shares.kappa_commit(bytes(32), A, DRAWS.seed("kappa"))
    opened = shares.open_share(message, {B: 2, C: 4}[message.recipient], private, public[A], commit, bytes(32))
    answer = ShareOpening(message.t1, A, message.recipient, opened.key_share.expose(), opened.self_share.expose())
    return answer, opened


def test_an_opening_must_match_the_dealers_own_commitments() -> None:
    message, other = dealt()[0].messages
    answer, opened = opening_of(message)
    assert shares.check_opening(answer, message) == (opened.key_share, opened.self_share)
    too_big = shamir.PRIME.to_bytes(33, "big")
    for attack, against in (
        (answer, other),
        (dataclasses.replace(answer, t1=bytes([1]) * 32), message),
        (dataclasses.replace(answer, dealer=B), message),
        (dataclasses.replace(answer, recipient=C), message),
        (dataclasses.replace(answer, key_share=answer.self_share), message),
        (dataclasses.replace(answer, self_share=bytes(33)), message),
        (dataclasses.replace(answer, key_share=too_big), message),
        (dataclasses.replace(answer, self_share=b""), message),
    ):
        with pytest.raises(PeerError) as refused:
            shares.check_opening(attack, against)
        assert (refused.value.code, refused.value.peer) == ("bad_opening", A)


def test_a_revealed_share_of_one_kind_does_not_pass_as_the_other() -> None:
    message = dealt()[0].messages[0]
    _, opened = opening_of(message)
    assert shares.check_revealed_key_share(message, opened.key_share.expose()) == opened.key_share
    assert shares.check_revealed_self_share(message, opened.self_share.expose()) == opened.self_share
    for check, wrong in (
        (shares.check_revealed_key_share, opened.self_share.expose()),
        (shares.check_revealed_self_share, opened.key_share.expose()),
        (shares.check_revealed_self_share, b"short"),
    ):
        with pytest.raises(PeerError) as refused:
            check(message, wrong)
        assert (refused.value.code, refused.value.peer) == ("bad_share", B)


def test_mask_keys_insist_on_our_own_key_and_survivors_are_never_opened() -> None:
    private = DRAWS.private_key("mask")
    keys = {A: agreement.public_key(private), B: agreement.public_key(DRAWS.private_key("mask-b"))}
    for wrong in ({B: keys[B]}, {A: keys[B], B: keys[B]}):
        with pytest.raises(ValueError, match="public key"):
            masks.mask_keys(bytes(32), A, private, DRAWS.seed("self"), wrong)
    with pytest.raises(ValueError, match="survivor"):
        masks.residual_keys(bytes(32), A, private, keys, keys[A])


def test_values_that_hold_secrets_show_and_pickle_nothing() -> None:
    work, _ = dealt()
    mask = masks.MaskKey(Seed(bytes([0xEE]) * 32), subtract=False)
    for value in (mask, work.shares[A], Share(bytes([0xEE]) * 33)):
        assert "redacted" in repr(value)
        assert "ee" not in repr(value).replace("Seed", "").replace("redacted", "").lower()
        with pytest.raises(TypeError):
            pickle.dumps(value)


garbage = st.binary(max_size=200)


@settings(derandomize=True, deadline=None, max_examples=200)
@given(t1=garbage, key_commit=garbage, self_commit=garbage, nonce=garbage, text=garbage, public=garbage, commit=garbage)
def test_no_message_makes_open_share_raise_anything_but_a_bad_share(
    t1: bytes, key_commit: bytes, self_commit: bytes, nonce: bytes, text: bytes, public: bytes, commit: bytes
) -> None:
    message = ShareMsg(t1, A, B, key_commit, self_commit, nonce, text)
    good = dealt()[0].messages[0]
    keep_length = dataclasses.replace(good, ciphertext=(text + good.ciphertext)[: len(good.ciphertext)], t1=t1)
    for attack, key in ((message, public), (keep_length, agreement.public_key(DRAWS.private_key("channel", b"a")))):
        with pytest.raises(PeerError) as refused:
            shares.open_share(attack, 2, DRAWS.private_key("channel", b"b"), key, commit, bytes(32))
        assert (refused.value.code, refused.value.peer) == ("bad_share", A)
