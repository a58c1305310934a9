"""Packed sums under a threshold key: exact for every quorum, every exponent s, and whatever the last block holds."""

import itertools

import gmpy2
import numpy as np
import pytest
from fedveil_common.errors import IntegrityError, PolicyRefusal
from fedveil_common.paillier import encryption, opening, partial, shares, tables
from fedveil_common.paillier.group import Group, inverses, multi_power, multi_powers
from fedveil_common.paillier.lifting import CheckedBases
from fedveil_common.paillier.packing import Blocks, Slots

from tests.paillier_parties import NAMES, flat, parties, updates


@pytest.mark.parametrize("s", [1, 2, 3])
@pytest.mark.parametrize("length", [1, 85, 700])
def test_the_sum_is_exact(s: int, length: int) -> None:
    all_of = parties(s)
    slots = all_of.slots(length)
    vectors = updates(3, length)
    inputs = [all_of.input(org, slots.pack(one), length) for org, one in zip(NAMES, vectors, strict=False)]
    for one in inputs:
        all_of.check(one)
    opened = slots.unpack(all_of.open(inputs, (0, 2)), len(inputs))
    assert np.array_equal(opened, sum(vectors))


@pytest.mark.parametrize(("holders", "threshold"), [(2, 2), (3, 2), (3, 3), (4, 3), (5, 4)])
def test_every_quorum_opens_and_no_smaller_one(holders: int, threshold: int) -> None:
    all_of = parties(1, 2, holders, threshold)
    slots, vectors = all_of.slots(90), updates(2, 90)
    inputs = [all_of.input(org, slots.pack(one), 90) for org, one in zip(NAMES, vectors, strict=False)]
    for quorum in all_of.quorums():
        assert np.array_equal(slots.unpack(all_of.open(inputs, quorum), 2), sum(vectors))
    quorum, bases, width = all_of.quorums()[-1], all_of.bases(inputs), len(inputs[0].blocks[0].bodies)
    answers = [flat(all_of.answer(holder, quorum, bases, width)[0]) for holder in quorum[:-1]]
    if answers:
        with pytest.raises(IntegrityError, match="not_opened"):
            opening.combine(all_of.group, all_of.total(inputs), answers)


def test_masks_made_before_give_the_same_kind_of_ciphertext() -> None:
    all_of = parties()
    slots, vectors = all_of.slots(300), updates(2, 300)
    blocks = Blocks.of(slots.plaintexts, all_of.key.terms.width)
    masks = all_of.encryptor.masks(blocks.count, blocks.width, all_of.entropy)
    made = encryption.encrypt_with(all_of.key, masks, slots.pack(vectors[0]), blocks)
    inputs = [all_of.proven(NAMES[0], made, 300), all_of.input(NAMES[1], slots.pack(vectors[1]), 300)]
    for one in inputs:
        all_of.check(one)
    assert np.array_equal(slots.unpack(all_of.open(inputs, (1, 2)), 2), sum(vectors))


def test_a_mask_is_spent_once() -> None:
    all_of = parties()
    blocks = Blocks(1, 3)
    (mask,) = all_of.encryptor.masks(1, 3, all_of.entropy)
    first = encryption.encrypt_with(all_of.key, [mask], [gmpy2.mpz(1000)], blocks)
    with pytest.raises(ValueError, match="unused masks"):
        encryption.encrypt_with(all_of.key, [mask], [gmpy2.mpz(1)], blocks)
    with pytest.raises(ValueError, match="was used"):
        mask.spend()
    fresh = all_of.encryptor.masks(1, 3, all_of.entropy)
    with pytest.raises(ValueError, match="unused masks"):
        encryption.encrypt_with(all_of.key, [*fresh, mask], [gmpy2.mpz(1)] * 6, Blocks(2, 3))
    with pytest.raises(ValueError, match="unused masks"):
        encryption.encrypt_with(all_of.key, fresh * 2, [gmpy2.mpz(1)] * 6, Blocks(2, 3))
    assert fresh[0].width == 3  # none was spent
    with pytest.raises(ValueError, match="7 plaintexts"):
        encryption.encrypt_with(all_of.key, fresh, [gmpy2.mpz(1)] * 7, Blocks(1, 3))
    # what a second use would show, to anybody: the difference of the messages
    n, cipher = all_of.group.n, all_of.group.cipher
    again = first[0].bodies[0] * all_of.group.one_plus(58) % cipher
    assert (again * gmpy2.invert(first[0].bodies[0], cipher) % cipher - 1) // n == 58


def test_ciphertexts_differ_though_the_update_is_the_same() -> None:
    all_of = parties()
    slots, (vector,) = all_of.slots(50), updates(1, 50)
    first, second = (all_of.input(NAMES[0], slots.pack(vector), 50) for _ in range(2))
    assert not set(first.bodies) & set(second.bodies)
    assert not set(first.header.headers) & set(second.header.headers)


@pytest.mark.parametrize("s", [1, 2, 3])
def test_tables_are_powers(s: int) -> None:
    all_of = parties(s)
    group, column = all_of.group, all_of.key.lifted[0]
    table = tables.LongPowers(column, group, 40)
    for digits in tables.draw_digits(all_of.entropy, 5, 40):
        power = gmpy2.powmod(column, tables.value_of(digits), group.cipher)
        assert table.power(digits, 12345) == power * gmpy2.powmod(1 + group.n, 12345, group.cipher) % group.cipher
    short = tables.ShortPowers(all_of.key.g, group.n, 40)
    assert short.power(2**40 - 1) == gmpy2.powmod(all_of.key.g, 2**40 - 1, group.n)
    assert short.power(0) == 1
    for wrong in (-1, 2**40):
        with pytest.raises(ValueError, match="outside"):
            short.power(wrong)


@pytest.mark.parametrize("s", [1, 2, 3])
def test_powers_of_one_plus_n(s: int) -> None:
    group = Group(parties(s).group.n, s)
    for message in (0, 1, group.n - 1, group.plain - 1, -7):
        value = group.one_plus(message)
        assert value == gmpy2.powmod(1 + group.n, message, group.cipher)
        assert group.log(value) == message % group.plain
    with pytest.raises(ValueError, match="not a power"):
        group.log(gmpy2.mpz(2))


def test_products_of_powers_and_inverses() -> None:
    group = parties().group
    bases = [gmpy2.mpz(3 + 2 * index) for index in range(500)]
    exponents = [gmpy2.mpz(index) ** 31 for index in range(250)]
    for count in (0, 1, 6, 7, 37, 40, 250):  # one by one, in groups, in buckets
        rows = [bases[:count], bases[250 : 250 + count]]
        plain = [gmpy2.mpz(1), gmpy2.mpz(1)]
        for index, row in enumerate(rows):
            for base, exponent in zip(row, exponents[:count], strict=True):
                plain[index] = plain[index] * gmpy2.powmod(base, exponent, group.n) % group.n
        assert multi_powers(rows, exponents[:count], group.n) == plain
        assert multi_power(rows[0], exponents[:count], group.n) == plain[0]
    nothing = [0] * 37
    assert multi_powers([bases[:37]], nothing, group.n) == [1]
    with pytest.raises(ValueError, match="as many bases"):
        multi_powers([bases[:7], bases[:8]], exponents[:7], group.n)
    assert all(a * b % group.n == 1 for a, b in zip(bases, inverses(bases, group.n), strict=True))


@pytest.mark.parametrize("count", [1, 5, 6, 7, 13])
def test_a_partial_decryption_is_one_power_for_each_exponent(count: int) -> None:
    all_of = parties()
    slots = all_of.slots(10)
    bases: CheckedBases = all_of.bases([all_of.input(NAMES[0], slots.pack(updates(1, 10)[0]), 10)])
    exponents = [gmpy2.mpz(1) << (17 * index) | index for index in range(count)]
    (row,) = partial.partial(all_of.group, bases, partial.plan(exponents))
    assert row == [gmpy2.powmod(bases.squares[0], one, all_of.group.cipher) for one in exponents]


# --- packing ----------------------------------------------------------------------------------------------------------


def test_slots_are_as_small_as_sums_permit() -> None:
    assert Slots(2048, 10, 256, 32_767).slot_bytes == 3  # 256 * 65,534 < 2^24
    assert Slots(2048, 10, 257, 32_767).slot_bytes == 4
    assert Slots(2048, 10, 3, 100, noise_cap=0, coordinator_cap=2**30).slot_bytes == 4
    assert [Slots(2048 * s, 10, 9, 32_767).per_plaintext for s in (1, 2, 3)] == [85, 170, 255]
    with pytest.raises(ValueError, match="no slot"):
        Slots(2048, 10, 2, 2**62)
    with pytest.raises(ValueError, match="whole bytes"):
        Slots(2047, 10, 2, 32_767)


def test_blocks_have_one_width_and_little_padding() -> None:
    for plaintexts, columns in itertools.product(range(1, 70), (1, 4, 32)):
        blocks = Blocks.of(plaintexts, columns)
        assert blocks.count == -(-plaintexts // columns)
        assert 0 <= blocks.count * blocks.width - plaintexts < blocks.count
        assert blocks.width <= columns


def test_caps_and_their_negatives_survive_the_sum_of_all_members() -> None:
    slots = Slots(2048, 4, 256, 32_767)
    values = np.array([32_767, -32_767, 0, 1], np.int64)
    total = [256 * one for one in slots.pack(values)]
    assert slots.unpack(total, 256).tolist() == (256 * values).tolist()


def test_noise_within_its_bound_is_kept_and_beyond_it_nothing_is_sent() -> None:
    slots = Slots(2048, 3, 4, 100, noise_cap=50, coordinator_cap=9)
    sums = [
        a + b for a, b in zip(slots.pack(np.array([150, -150, 0])), slots.pack_noise(np.array([9, -9, 1])), strict=True)
    ]
    assert slots.unpack(sums, 1).tolist() == [159, -159, 1]
    for wrong in (151, -151):
        with pytest.raises(PolicyRefusal, match="slot_overflow"):
            slots.pack(np.array([0, wrong, 0]))
    with pytest.raises(PolicyRefusal, match="slot_overflow"):
        slots.pack_noise(np.array([0, 10, 0]))


@pytest.mark.parametrize("what", ["minus one", "slot over its bound", "padding slot", "padding block", "top bits"])
def test_a_sum_that_no_honest_inputs_make_is_refused(what: str) -> None:
    all_of = parties()
    slots = all_of.slots(100, members=3)  # two plaintexts, the second with 15 of 85 slots
    plaintexts = Blocks.of(2, 3).pad(slots.pack(updates(1, 100)[0]))
    plaintexts.append(gmpy2.mpz(0))
    size = 8 * slots.slot_bytes
    match what:
        case "minus one":
            plaintexts[0] = all_of.group.plain - 1
        case "slot over its bound":
            plaintexts[0] += gmpy2.mpz(slots.largest(1) + 1)
        case "padding slot":
            plaintexts[1] += gmpy2.mpz(1) << (size * 15)
        case "padding block":
            plaintexts[-1] = gmpy2.mpz(1)
        case "top bits":
            plaintexts[0] += gmpy2.mpz(1) << (size * 85)
    with pytest.raises(IntegrityError, match="sum_out_of_range"):
        slots.unpack(plaintexts, 1)


def test_the_key_in_pieces() -> None:
    assert len(shares.seed_sets(5, 4)) == 10
    assert len(shares.seed_sets(12, 7)) == 924
    for holders, threshold in ((1, 1), (3, 1), (2, 3), (13, 2)):
        with pytest.raises(ValueError, match="threshold"):
            shares.seed_sets(holders, threshold)
    sets = shares.seed_sets(5, 3)
    for quorum in itertools.combinations(range(5), 3):
        served = [one for holder in quorum for one in shares.served_by(holder, quorum, sets)]
        assert sorted(served) == sorted(sets)  # each by exactly one
        assert all(holder not in one for holder in quorum for one in shares.served_by(holder, quorum, sets))
    for missing in itertools.combinations(range(5), 2):  # two holders lack exactly one seed
        known = set(shares.known_to(missing[0], sets)) | set(shares.known_to(missing[1], sets))
        assert set(sets) - known == {missing}
    for wrong in ((0, 1), (0, 1, 1), (1, 0, 2), (0, 1, 5), (0, 1, 2, 3)):
        with pytest.raises(ValueError, match="quorum"):
            shares.check_quorum(wrong, 5, 3)
    shares.check_quorum((0, 2, 4), 5, 3)
