"""Attacks on the Paillier engine (docs/paillier.md): each is refused, and succeeds once its check is taken away."""

from dataclasses import replace
from typing import Any

import gmpy2
import numpy as np
import pytest
from fedveil_common.errors import IntegrityError, PeerError
from fedveil_common.paillier import encryption, input_proof, lifting, opening, partial, partial_proof, shares
from fedveil_common.paillier.encoding import words
from fedveil_common.paillier.lifting import CheckedBases
from fedveil_common.paillier.packing import Blocks

from tests.paillier_parties import NAMES, T0, T3, Input, Parties, flat, parties, updates

LENGTH = 700  # nine plaintexts, three blocks
QUORUM = (0, 1)


def honest(all_of: Parties, count: int = 3) -> list[Input]:
    slots = all_of.slots(LENGTH)
    return [all_of.input(org, slots.pack(one), LENGTH) for org, one in zip(NAMES, updates(count, LENGTH), strict=False)]


def opened(all_of: Parties, inputs: list[Input], bodies: list[int] | None = None) -> Any:
    return all_of.slots(LENGTH).unpack(all_of.open(inputs, QUORUM, bodies), len(inputs))


def refused(code: str) -> Any:
    return pytest.raises(PeerError, match=code)


def unchecked(lifts: list[int], all_of: Parties) -> CheckedBases:
    """A holder without its defence: it raises whatever it is sent."""
    return CheckedBases(lifts, all_of.group, lifting._MADE_HERE)


def again(one: Input, header: input_proof.InputHeader) -> Input:
    return Input(one.org, one.context, one.blocks, header)


# --- what a coordinator sends to holders ------------------------------------------------------------------------------


def test_a_power_of_one_plus_n_in_a_lift_would_give_the_holder_s_key_and_is_refused() -> None:
    all_of = parties()
    inputs, group = honest(all_of), all_of.group
    products = lifting.product_of_headers([one.header.headers for one in inputs], group.n)
    good = [group.lift(one) for one in products]
    bad = [good[0] * group.one_plus(1) % group.cipher, *good[1:]]
    exponents = all_of.exponents(0, QUORUM, 3)
    # without the check: the difference of two answers is (1+n)^(2x)
    plan = partial.plan(exponents)
    told = partial.partial(group, unchecked(bad, all_of), plan)[0]
    known = partial.partial(group, unchecked(good, all_of), plan)[0]
    leaks = [group.log(a * gmpy2.invert(b, group.cipher) % group.cipher) for a, b in zip(told, known, strict=True)]
    assert leaks == [2 * one for one in exponents]
    for _ in range(5):
        with refused("bad_lift"):
            all_of.bases(inputs, bad)


def test_a_bare_power_of_one_plus_n_as_lift() -> None:
    all_of = parties()
    group = all_of.group
    base = group.one_plus(1)
    plan = partial.plan(all_of.exponents(0, QUORUM, 3))
    told = partial.partial(group, unchecked([base] * 3, all_of), plan)[0]
    assert [group.log(one) for one in told] == [2 * one for one in all_of.exponents(0, QUORUM, 3)]
    with refused("bad_lift"):
        all_of.bases(honest(all_of), [base] * 3)


def test_minus_one_and_other_small_orders_show_nothing() -> None:
    all_of = parties()
    group = all_of.group
    minus_one = group.cipher - 1
    assert group.lift(group.n - 1) == minus_one
    with refused("bad_lift"):
        all_of.bases(honest(all_of), [minus_one] * 3)
    # headers that multiply to -1: their lift is checked, and its square is 1
    bases = lifting.checked_bases(group, [group.n - 1] * 3, [minus_one] * 3, all_of.entropy)
    assert flat(partial.partial(group, bases, partial.plan(all_of.exponents(0, QUORUM, 3)))) == [1] * 9


def test_bases_cannot_be_made_elsewhere() -> None:
    all_of = parties()
    with pytest.raises(TypeError, match="made by"):
        CheckedBases([gmpy2.mpz(4)], all_of.group, object())


@pytest.mark.parametrize("what", ["too few", "another's", "zero", "beyond", "one", "swapped"])
def test_lifts_of_every_wrong_kind(what: str) -> None:
    all_of = parties()
    inputs, group = honest(all_of), all_of.group
    products = lifting.product_of_headers([one.header.headers for one in inputs], group.n)
    good = [group.lift(one) for one in products]
    wrong = {
        "too few": good[:-1],
        "another's": [*good[:2], inputs[0].blocks[2].lift],
        "zero": [gmpy2.mpz(0), *good[1:]],
        "beyond": [good[0] + group.cipher, *good[1:]],
        "one": [gmpy2.mpz(1), *good[1:]],
        "swapped": [good[1], good[0], good[2]],
    }[what]
    with refused("bad_lift|bad_group_element"):
        all_of.bases(inputs, wrong)
    assert all_of.bases(inputs, good).lifts == tuple(good)


def test_one_or_two_blocks_are_lifted_by_the_holder_itself() -> None:
    all_of = parties()
    slots = all_of.slots(100)
    inputs = [all_of.input(NAMES[0], slots.pack(updates(1, 100)[0]), 100)]
    bases = all_of.bases(inputs, [all_of.group.one_plus(1)])
    assert bases.lifts == tuple(all_of.group.lift(one) for one in inputs[0].header.headers)


# --- headers ----------------------------------------------------------------------------------------------------------


def test_a_power_of_one_plus_n_vanishes_from_a_header() -> None:
    all_of = parties()
    header, n = honest(all_of, 1)[0].header.headers[0], all_of.group.n
    poisoned = header * all_of.group.one_plus(2**500) % all_of.group.cipher
    assert poisoned % n == header  # in Z*_n nothing of it is left
    assert all_of.group.lift(poisoned) == all_of.group.lift(header)
    one = honest(all_of, 1)[0]
    long = replace(one.header, headers=(poisoned, *one.header.headers[1:]))
    with refused("bad_group_element"):
        input_proof.check_header(all_of.key, all_of.encryptor.short, one.context, long, one.org)


def cancelling(all_of: Parties, others: list[Input], org: str) -> Input:
    """What opens the first victim alone: the inverses of all other inputs, times fresh zeros."""
    blocks = Blocks(len(others[0].blocks), len(others[0].blocks[0].bodies))
    group, made = all_of.group, []
    zeros = all_of.encryptor.encrypt([gmpy2.mpz(0)] * (blocks.count * blocks.width), blocks, all_of.entropy)
    for index, block in enumerate(zeros):
        header, lift, bodies = block.header, block.lift, list(block.bodies)
        for one in others:
            theirs = one.blocks[index]
            header = header * gmpy2.invert(theirs.header, group.n) % group.n
            lift = lift * gmpy2.invert(theirs.lift, group.cipher) % group.cipher
            bodies = [
                body * gmpy2.invert(other, group.cipher) % group.cipher
                for body, other in zip(bodies, theirs.bodies, strict=True)
            ]
        made.append(replace(block, header=header, lift=lift, bodies=tuple(bodies)))
    return all_of.proven(org, made, LENGTH)  # type: ignore[arg-type]  # the best proof it can make: of r alone


def test_a_cancelling_header_would_open_one_victim_and_is_refused() -> None:
    all_of = parties()
    inputs = honest(all_of)
    crafted = cancelling(all_of, inputs[1:], "delta")
    # without the proof: the "sum of four" is the first input alone
    alone = all_of.slots(LENGTH).unpack(all_of.open([*inputs, crafted], QUORUM), 1)
    assert np.array_equal(alone, updates(1, LENGTH)[0])
    with refused("bad_input_proof") as caught:
        input_proof.check_header(all_of.key, all_of.encryptor.short, crafted.context, crafted.header, crafted.org)
    assert caught.value.peer == "delta"


def test_another_s_header_and_an_old_one_are_refused() -> None:
    all_of = parties()
    one = honest(all_of, 1)[0]
    check = input_proof.check_header
    for org, t0, length in (("delta", T0, LENGTH), (one.org, b"\x11" * 32, LENGTH), (one.org, T0, LENGTH - 1)):
        context = input_proof.input_context(t0, org, length, 3, 3)  # type: ignore[arg-type]
        with refused("bad_input_proof"):
            check(all_of.key, all_of.encryptor.short, context, one.header, one.org)
    check(all_of.key, all_of.encryptor.short, one.context, one.header, one.org)


def test_a_header_under_another_key_is_refused() -> None:
    all_of, others = parties(), parties(1, 3, 3, 3)
    one = honest(all_of, 1)[0]
    with refused("bad_input_proof"):
        input_proof.check_header(others.key, others.encryptor.short, one.context, one.header, one.org)


@pytest.mark.parametrize(
    "change",
    [
        lambda h, n: replace(h, headers=(h.headers[0], h.headers[0], h.headers[2])),
        lambda h, n: replace(h, headers=(gmpy2.mpz(0), *h.headers[1:])),
        lambda h, n: replace(h, headers=(n, *h.headers[1:])),
        lambda h, n: replace(h, headers=(gmpy2.mpz(1), *h.headers[1:])),
        lambda h, n: replace(h, headers=h.headers[:-1]),
        lambda h, n: replace(h, headers=()),
        lambda h, n: replace(h, commitment=gmpy2.mpz(1)),
        lambda h, n: replace(h, body_commitment=n),
        lambda h, n: replace(h, response=-1),
        lambda h, n: replace(h, response=h.response + 1),
        lambda h, n: replace(h, response=h.response + (1 << 561)),
        lambda h, n: replace(h, bodies_hash=bytes(32)),
        lambda h, n: replace(h, width=0),
        lambda h, n: replace(h, width=4),
        lambda h, n: replace(h, width=2),
    ],
)
def test_headers_of_every_wrong_kind(change: Any) -> None:
    all_of = parties()
    one = honest(all_of, 1)[0]
    with refused("bad_input_proof|bad_group_element|header_repeated|bad_bodies") as caught:
        wrong = change(one.header, all_of.group.n)
        input_proof.check_header(all_of.key, all_of.encryptor.short, one.context, wrong, one.org)
    assert caught.value.peer == one.org


# --- bodies -----------------------------------------------------------------------------------------------------------


def malformed(all_of: Parties, org: str = "borealis") -> Input:
    """An input of which one body has another mask than its header says; its sender proves what it can."""
    slots = all_of.slots(LENGTH)
    plaintexts = slots.pack(updates(1, LENGTH)[0])
    made = all_of.encryptor.encrypt(plaintexts, Blocks.of(len(plaintexts), 3), all_of.entropy)
    bodies = list(made[1].bodies)
    bodies[2] = bodies[2] * 5 % all_of.group.cipher
    return all_of.proven(org, [made[0], replace(made[1], bodies=tuple(bodies)), made[2]], LENGTH)  # type: ignore[arg-type]


def test_a_body_under_another_mask_would_spoil_the_sum_and_is_traced() -> None:
    all_of = parties()
    bad = malformed(all_of)
    input_proof.check_header(all_of.key, all_of.encryptor.short, bad.context, bad.header, bad.org)
    with pytest.raises(IntegrityError, match="not_opened"):  # unchecked: no sum, and nobody to blame
        all_of.open([honest(all_of, 1)[0], bad], QUORUM)
    with refused("bad_input_proof") as caught:
        all_of.check(bad)
    assert caught.value.peer == "borealis"


@pytest.mark.parametrize("what", ["one fewer", "one more", "zero", "n", "beyond", "another", "swapped"])
def test_bodies_of_every_wrong_kind(what: str) -> None:
    all_of = parties()
    one = honest(all_of, 1)[0]
    rows = [list(block.bodies) for block in one.blocks]
    match what:
        case "one fewer":
            rows[0].pop()
        case "one more":
            rows.append(rows[0])
        case "zero":
            rows[0][0] = gmpy2.mpz(0)
        case "n":
            rows[0][0] = all_of.group.n
        case "beyond":
            rows[0][0] += all_of.group.cipher
        case "another":
            rows[0][0] = honest(all_of, 1)[0].blocks[0].bodies[0]
        case "swapped":
            rows[0], rows[1] = rows[1], rows[0]
    with refused("bad_bodies|bad_group_element") as caught:
        input_proof.check_bodies(all_of.key, one.context, one.header, rows, one.org)
    assert caught.value.peer == one.org


def test_a_wrong_lift_of_a_sender_is_refused() -> None:
    all_of = parties()
    one = honest(all_of, 1)[0]
    blocks = [replace(one.blocks[0], lift=one.blocks[0].lift * all_of.group.one_plus(3) % all_of.group.cipher)]
    with refused("bad_lift") as caught:
        all_of.check(Input(one.org, one.context, [*blocks, *one.blocks[1:]], one.header))
    assert caught.value.peer == one.org


# --- signs: nobody gains by one, and nobody spoils the sum with it (G2) -----------------------------------------------


@pytest.mark.parametrize("what", ["body", "answer", "lift", "header"])
def test_a_flipped_sign_leaves_the_sum_exact(what: str) -> None:
    all_of = parties()
    inputs, group = honest(all_of), all_of.group
    if what == "header":  # with the lift of the unflipped one, and an honest proof
        made = [replace(inputs[0].blocks[0], header=group.n - inputs[0].blocks[0].header), *inputs[0].blocks[1:]]
        inputs[0] = all_of.proven(inputs[0].org, made, LENGTH)
        all_of.check(inputs[0])
    if what == "body":
        block = inputs[0].blocks[0]
        made = [replace(block, bodies=(group.cipher - block.bodies[0], *block.bodies[1:])), *inputs[0].blocks[1:]]
        inputs[0] = all_of.proven(inputs[0].org, made, LENGTH)
        all_of.check(inputs[0])
    products = lifting.product_of_headers([one.header.headers for one in inputs], group.n)
    lifts = [group.lift(one) for one in products]
    if what == "lift":
        lifts[0] = group.cipher - lifts[0]
    bases = all_of.bases(inputs, lifts)
    answers = []
    for holder in QUORUM:
        found, proof = all_of.answer(holder, QUORUM, bases, 3)
        if what == "answer" and holder == 0:
            found[0][0] = group.cipher - found[0][0]
            proof = all_of.prove(holder, QUORUM, bases, found, all_of.exponents(holder, QUORUM, 3))
        all_of.check_answer(holder, QUORUM, bases, found, proof)
        answers.append(flat(found))
    plaintexts = opening.combine(group, all_of.total(inputs), answers)
    assert np.array_equal(all_of.slots(LENGTH).unpack(plaintexts, 3), sum(updates(3, LENGTH)))


# --- partial decryptions ----------------------------------------------------------------------------------------------


def test_a_power_of_one_plus_n_in_an_answer_would_move_the_sum_and_is_traced() -> None:
    all_of = parties()
    inputs, group = honest(all_of), all_of.group
    bases = all_of.bases(inputs)
    answers = [all_of.answer(holder, QUORUM, bases, 3) for holder in QUORUM]
    wrong = [list(row) for row in answers[0][0]]
    wrong[0][0] = wrong[0][0] * group.one_plus(7) % group.cipher
    bodies = all_of.total(inputs)
    right = opening.combine(group, bodies, [flat(found) for found, _ in answers])
    moved = opening.combine(group, bodies, [flat(wrong), flat(answers[1][0])])  # unchecked: the mask still fits
    assert right[0] - moved[0] == 7
    exponents = all_of.exponents(0, QUORUM, 3)
    for proof in (answers[0][1], all_of.prove(0, QUORUM, bases, wrong, exponents)):
        with refused("bad_partial") as caught:
            all_of.check_answer(0, QUORUM, bases, wrong, proof)
        assert caught.value.peer == NAMES[0]


def test_offsets_along_weights_known_in_advance_are_refused() -> None:
    all_of = parties()
    inputs, group = honest(all_of), all_of.group
    bases = all_of.bases(inputs)
    found, _ = all_of.answer(0, QUORUM, bases, 3)
    context = partial_proof.partial_context(T3, QUORUM, 0)
    seed, weights = partial_proof._seed(all_of.key, context, 0, bases.lifts, found)
    assert weights == words("partial/rho", seed, 3)
    wrong = [list(row) for row in found]  # rho_0 * d_0 + rho_1 * d_1 = 0 under the weights of the honest answer
    wrong[0][0] = wrong[0][0] * group.one_plus(weights[1] * 1000) % group.cipher
    wrong[1][0] = wrong[1][0] * group.one_plus(-weights[0] * 1000) % group.cipher
    # had the weights not depended on the answer, its column would look right
    columns = [[row[0] for row in rows] for rows in (found, wrong)]
    products = [
        gmpy2.powmod(one[0], weights[0], group.cipher) * gmpy2.powmod(one[1], weights[1], group.cipher) % group.cipher
        for one in columns
    ]
    assert products[0] == products[1]
    with refused("bad_partial"):
        all_of.check_answer(
            0, QUORUM, bases, wrong, all_of.prove(0, QUORUM, bases, wrong, all_of.exponents(0, QUORUM, 3))
        )


@pytest.mark.parametrize("what", ["another quorum", "another holder", "another T3", "z", "T1", "T2", "shape", "zero"])
def test_answers_of_every_wrong_kind(what: str) -> None:
    all_of = parties(1, 3, 3, 2)
    bases = all_of.bases(honest(all_of))
    found, proof = all_of.answer(0, QUORUM, bases, 3)
    quorum, holder, context = QUORUM, 0, partial_proof.partial_context(T3, QUORUM, 0)
    rows = [list(row) for row in found]
    match what:
        case "another quorum":
            quorum = (0, 2)
            context = partial_proof.partial_context(T3, quorum, 0)
        case "another holder":
            holder = 1
            context = partial_proof.partial_context(T3, QUORUM, 1)
        case "another T3":
            context = partial_proof.partial_context(b"\x44" * 32, QUORUM, 0)
        case "z":
            proof = replace(proof, response=proof.response + (1 << 561))
        case "T1":
            proof = replace(proof, commitment=gmpy2.mpz(1))
        case "T2":
            proof = replace(proof, long_commitment=all_of.group.cipher - 2)
        case "shape":
            rows.pop()
        case "zero":
            rows[0][0] = gmpy2.mpz(0)
    columns, key, short = all_of.key.of_holder(holder, quorum, 3), all_of.key, all_of.encryptor.short
    with refused("bad_partial|bad_group_element"):
        partial_proof.check(key, short, context, holder, bases.lifts, rows, columns, proof, "acme")
    all_of.check_answer(0, QUORUM, bases, found, all_of.answer(0, QUORUM, bases, 3)[1])


def test_an_answer_says_no_more_than_the_sum_does() -> None:
    """What t-1 holders and the opened sum give: exactly the honest holder's answer, so it is no new knowledge."""
    all_of = parties(1, 3, 5, 3)
    inputs, group, cipher = honest(all_of), all_of.group, all_of.group.cipher
    bases, quorum, corrupt = all_of.bases(inputs), (0, 2, 4), (0, 1)
    answers = {holder: all_of.answer(holder, quorum, bases, 3)[0] for holder in quorum}
    base = bases.squares[0]
    masks = [gmpy2.mpz(1)] * 3
    for found in answers.values():
        masks = [mask * one % cipher for mask, one in zip(masks, found[0], strict=True)]

    def exponent(one: shares.SeedSet, k: int) -> int:
        return shares.exponent(all_of.seeds[one], "hospitals", "key-1", 0, one, k)

    for holder in quorum:
        served = shares.served_by(holder, quorum, all_of.key.terms.sets)
        for k in range(3):
            made = gmpy2.powmod(base, sum(exponent(one, k) for one in served if one != corrupt), cipher)
            if corrupt in served:  # the one seed that these two do not know: from the opened mask and all others
                others = sum(exponent(one, k) for one in all_of.seeds if one != corrupt)
                made = made * masks[k] * gmpy2.invert(gmpy2.powmod(base, others, cipher), cipher) % cipher
            assert made == answers[holder][0][k]
    assert group.s == 1


def test_an_old_input_in_a_later_round() -> None:
    all_of = parties()
    old, fresh = honest(all_of, 1)[0], honest(all_of)
    # unchecked: the later sum holds the old input once more
    total = all_of.slots(LENGTH).unpack(all_of.open([*fresh, old], QUORUM), 4)
    assert np.array_equal(total, sum(updates(3, LENGTH)) + updates(1, LENGTH)[0])
    with refused("bad_input_proof"):
        later = input_proof.input_context(b"\x12" * 32, old.org, LENGTH, 3, 3)
        input_proof.check_header(all_of.key, all_of.encryptor.short, later, old.header, old.org)


def test_a_repeat_of_an_exponent_is_noticed_within_an_input() -> None:
    all_of = parties()
    slots = all_of.slots(LENGTH)
    plaintexts = slots.pack(updates(1, LENGTH)[0])
    made = all_of.encryptor.encrypt(plaintexts, Blocks.of(len(plaintexts), 3), all_of.entropy)
    bad = all_of.proven(NAMES[0], [made[0], replace(made[1], header=made[0].header), made[2]], LENGTH)
    with refused("header_repeated"):
        input_proof.check_header(all_of.key, all_of.encryptor.short, bad.context, bad.header, bad.org)


def test_nothing_secret_is_shown() -> None:
    all_of = parties()
    (mask,) = all_of.encryptor.masks(1, 3, all_of.entropy)
    assert repr(mask) == "Mask(<redacted>)"
    assert repr(partial.plan([gmpy2.mpz(77)])) == "Plan(<redacted>)"
    block = honest(all_of, 1)[0].blocks[0]
    assert str(encryption.exponent_value(block.exponent)) not in repr(block)


def noise_of(all_of: Parties, slots: Any, noise: Any, nonce: bytes) -> Input:
    """The coordinator's noise, encrypted before any input exists."""
    plaintexts = slots.pack_noise(noise)
    blocks = Blocks.of(len(plaintexts), 3)
    made = all_of.encryptor.encrypt(plaintexts, blocks, all_of.entropy)
    context = input_proof.noise_context("hospitals", "run-1", 1, 1, nonce, blocks.count, blocks.width)
    header = input_proof.prove(all_of.encryptor, context, made, all_of.own(), all_of.entropy)
    return Input("coordinator", context, made, header)  # type: ignore[arg-type]


def test_noise_of_the_coordinator_is_added_like_an_input() -> None:
    all_of = parties()
    slots = all_of.slots(LENGTH, members=3, coordinator_cap=1000)
    vectors, noise = updates(3, LENGTH), (np.arange(LENGTH, dtype=np.int64) % 2001) - 1000
    inputs = [all_of.input(org, slots.pack(one), LENGTH) for org, one in zip(NAMES, vectors, strict=False)]
    added = noise_of(all_of, slots, noise, b"\x05" * 32)
    all_of.check(added)
    opened_with = slots.unpack(all_of.open([*inputs, added], QUORUM), 3)
    assert np.array_equal(opened_with, sum(vectors) + noise)


def test_noise_made_of_old_headers_and_of_another_offer_is_refused() -> None:
    all_of = parties()
    old = honest(all_of, 1)[0]
    context = input_proof.noise_context("hospitals", "run-1", 1, 1, b"\x05" * 32, 3, 3)
    with refused("bad_input_proof"):
        input_proof.check_header(all_of.key, all_of.encryptor.short, context, old.header, "coordinator")  # type: ignore[arg-type]
    added = noise_of(all_of, all_of.slots(LENGTH, coordinator_cap=9), np.zeros(LENGTH, np.int64), b"\x05" * 32)
    for place in (("run-2", 1, 1, b"\x05" * 32), ("run-1", 2, 1, b"\x05" * 32), ("run-1", 1, 1, b"\x06" * 32)):
        other = input_proof.noise_context("hospitals", *place, 3, 3)
        with refused("bad_input_proof"):
            input_proof.check_header(all_of.key, all_of.encryptor.short, other, added.header, "coordinator")  # type: ignore[arg-type]
