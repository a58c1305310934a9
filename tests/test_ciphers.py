"""The coordinator's arithmetic on ciphertexts: what is honest passes and is opened exactly, what is not is named."""

from collections.abc import Callable
from dataclasses import replace

import gmpy2
import numpy as np
import pytest
from fedveil_common import transcript
from fedveil_common.errors import FedveilError, IntegrityError, PeerError
from fedveil_common.ids import COORDINATOR, OrgId
from fedveil_common.masking.packing import unpack
from fedveil_common.masking.ring import signed
from fedveil_common.paillier import input_proof
from fedveil_common.paillier.block_leaves import BlockLeaf, read_block, read_row, write_block, write_row
from fedveil_common.paillier.encryption import Block
from fedveil_common.paillier.input_proof import input_context
from fedveil_common.paillier.partial_proof import PartialProof
from fedveil_common.paillier.sum_leaves import covering
from fedveil_common.ringfile import leaf_length
from fedveil_coordinator import ciphers
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.cipher_rounds import (
    QUORUM,
    Answer,
    Game,
    Sent,
    Stored,
    answer,
    examine_answer,
    house,
    signed_answer,
    values_of,
)
from tests.paillier_parties import NAMES, parties

T3 = b"\x33" * 32
LENGTH = 700


@pytest.fixture(scope="module")
def game() -> Game:
    return Game(house(), LENGTH)


@pytest.fixture(scope="module")
def sent(game: Game) -> dict[OrgId, Sent]:
    return {org: game.sent(org) for org in NAMES[:4]}


def refused(check: Callable[[], object]) -> tuple[str, str]:
    with pytest.raises(PeerError) as caught:
        check()
    return caught.value.code, caught.value.peer


def product_of(game: Game, sources: list[Stored]) -> Stored:
    product = Stored()
    hashes = ciphers.multiply(game.home.all_of.key, game.shape, T3, sources, product)
    assert list(hashes) == [transcript.product_leaf(T3, index, leaf) for index, leaf in enumerate(product.all)]
    return product


def opened(game: Game, product: Stored, answers: list[Answer], survivors: int, bits: int | None = None) -> list[int]:
    """The sum, read back from its leaves."""
    leaves: dict[int, bytes] = {}
    width = game.manifest.ring_bits if bits is None else bits
    sources = [one.leaves for one in answers]
    key = game.home.all_of.key
    hashes = ciphers.open_sum(
        key, game.shape, T3, survivors, product, sources, width, lambda i, data: leaves.__setitem__(i, bytes(data))
    )
    assert hashes == [transcript.sum_leaf(T3, index, leaves[index]) for index in sorted(leaves)]
    found: list[int] = []
    for index in sorted(leaves):
        found += signed(unpack(leaves[index], leaf_length(game.length, index), width), width).tolist()
    return found


# --- what is honest ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("noisy", [False, True])
@pytest.mark.parametrize(("s", "length"), [(1, 1), (1, 700), (1, 16_385), (2, 1000)])
def test_an_honest_round_opens_to_the_sum(s: int, length: int, noisy: bool) -> None:
    one = Game(house(s), length, noisy)
    inputs = {org: one.sent(org) for org in one.survivors}
    for each in inputs.values():
        one.examine(each)
    sources = [each.leaves(one.shape) for each in inputs.values()]
    seen: dict[bytes, OrgId] = {}
    for org, source in zip(inputs, sources, strict=True):
        ciphers.check_distinct(seen, org, ciphers.read_headers(one.shape, source))
    total = sum(values_of(org, length) for org in one.survivors)
    if one.noise is not None:
        all_of = one.home.all_of
        ciphers.examine_input(
            all_of.key,
            all_of.encryptor.short,
            one.shape,
            one.noise_context(),
            one.noise_body(one.noise),
            COORDINATOR,
            one.noise.leaves(one.shape),
            all_of.entropy,
        )
        sources.append(one.noise.leaves(one.shape))
        total = total + one.noise_values
    product = product_of(one, sources)
    answers = [answer(one, T3, product, holder) for holder in QUORUM]
    for each_answer in answers:
        examine_answer(one, T3, each_answer, product)
    assert np.array_equal(opened(one, product, answers, len(inputs)), total)


def test_every_coordinate_of_a_leaf_lies_in_the_blocks_that_cover_it(game: Game) -> None:
    for length in (1, 255, 256, 16_384, 16_385, 40_000):
        shape = Game(game.home, length).shape
        each = shape.blocks.width * shape.slots.per_plaintext
        for leaf in range(-(-length // 16_384)):
            blocks = covering(shape, leaf)
            first, last = leaf * 16_384, min(length, (leaf + 1) * 16_384) - 1
            assert blocks == range(first // each, last // each + 1)
            assert blocks.stop <= shape.blocks.count


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_parts_of_a_sum_unpack_as_the_whole(data: st.DataObject) -> None:
    length = data.draw(st.integers(1, 400))
    slots = parties().slots(length)
    values = np.array(data.draw(st.lists(st.integers(-9, 9), min_size=length, max_size=length)), np.int64)
    plaintexts = [*slots.pack(values), gmpy2.mpz(0)]
    whole = slots.unpack(plaintexts, 1)
    assert np.array_equal(whole, values)
    cut = data.draw(st.integers(0, len(plaintexts)))
    parts = [slots.unpack_part(0, plaintexts[:cut], 1), slots.unpack_part(cut, plaintexts[cut:], 1)]
    assert np.array_equal(np.concatenate(parts), whole)


def test_padding_that_is_not_zero_is_out_of_range_wherever_it_lies() -> None:
    slots = parties().slots(10)
    plain = slots.pack(np.zeros(10, np.int64))
    top = gmpy2.mpz(1) << (8 * slots.slot_bytes * 10)  # the eleventh slot
    for start, bad in (
        (0, [plain[0] + top]),
        (1, [gmpy2.mpz(1)]),
        (0, [plain[0], gmpy2.mpz(1)]),
        (0, [plain[0] - 2**300]),
    ):
        with pytest.raises(IntegrityError) as caught:
            slots.unpack_part(start, bad, 1)
        assert caught.value.code == "sum_out_of_range"
    assert slots.unpack_part(5, [gmpy2.mpz(0)], 1).size == 0
    for start, survivors in ((-1, 1), (0, 0), (0, 6)):
        with pytest.raises(ValueError, match="no place"):
            slots.unpack_part(start, plain, survivors)


# --- hostile inputs ---------------------------------------------------------------------------------------------------


def changed(sent: Sent, index: int, **fields: object) -> list[BlockLeaf]:
    blocks = list(sent.blocks)
    blocks[index] = replace(blocks[index], **fields)  # type: ignore[arg-type]
    return blocks


def announced(game: Game, sent: Sent, blocks: list[BlockLeaf]) -> Sent:
    """The same proof numbers over other blocks, every hash of them right."""
    digest = input_proof.bodies_hash([one.bodies for one in blocks], game.shape.long_bytes)
    proof = replace(sent.proof, headers=tuple(one.header for one in blocks), bodies_hash=digest)
    return Sent(sent.org, sent.context, blocks, proof)


def proved_anew(game: Game, sent: Sent, made: list[Block]) -> Sent:
    """A liar that knows its own exponents proves what it likes."""
    return game.proven(sent.org, sent.context, made)


def test_crafted_inputs_are_named(game: Game, sent: dict[OrgId, Sent]) -> None:
    acme, other = sent[NAMES[0]], sent[NAMES[1]]
    n, cipher = game.home.all_of.group.n, game.home.all_of.group.cipher
    game.examine(acme)  # the positive control of all that follows
    first = acme.blocks[0]
    one_plus = 1 + n
    cases: dict[str, tuple[list[BlockLeaf], str]] = {
        "another's header": (changed(acme, 0, header=other.blocks[0].header), "bad_input_proof"),
        "the inverse of another's header": (
            changed(acme, 0, header=gmpy2.invert(other.blocks[0].header, n)),
            "bad_input_proof",
        ),
        "a header times a small number": (changed(acme, 0, header=first.header * 3 % n), "bad_input_proof"),
        "header zero": (changed(acme, 0, header=gmpy2.mpz(0)), "bad_group_element"),
        "header one": (changed(acme, 0, header=gmpy2.mpz(1)), "bad_group_element"),
        "header n": (changed(acme, 0, header=n), "bad_group_element"),
        "a header twice": (changed(acme, 0, header=acme.blocks[1].header), "header_repeated"),
        "blocks in another order": ([acme.blocks[1], acme.blocks[0], *acme.blocks[2:]], "bad_input_proof"),
        "lift times 1+n": (changed(acme, 0, lift=first.lift * one_plus % cipher), "bad_lift"),
        "lift of another block": (changed(acme, 0, lift=acme.blocks[1].lift), "bad_lift"),
        "lift zero": (changed(acme, 0, lift=gmpy2.mpz(0)), "bad_group_element"),
    }
    for name, (blocks, code) in cases.items():
        lie = announced(game, acme, blocks)
        found = refused(lambda lie=lie: game.examine(lie))  # type: ignore[misc]
        assert found == (code, "acme"), (name, found)


def test_crafted_bodies_are_named_though_their_sender_proves_them(game: Game, sent: dict[OrgId, Sent]) -> None:
    """The liar knows its exponents and makes a proof over what it sends: the second equation is what stops it."""
    acme, group = sent[NAMES[0]], game.home.all_of.group
    n, cipher, made = group.n, group.cipher, game.encrypted(NAMES[0])
    game.examine(proved_anew(game, acme, made))
    first = made[0].bodies
    cases: dict[str, tuple[int, str]] = {
        "zero": (gmpy2.mpz(0), "bad_group_element"),
        "one": (gmpy2.mpz(1), "bad_group_element"),
        "n": (n, "bad_group_element"),
        "no unit": (7 * n, "bad_group_element"),
        "beyond n^2": (cipher + 2, "bad_group_element"),
        "of another block": (made[1].bodies[0], "bad_input_proof"),
        "of another column": (first[1], "bad_input_proof"),
        "of another member": (sent[NAMES[1]].blocks[0].bodies[0], "bad_input_proof"),
        "times a number": (first[0] * 5 % cipher, "bad_input_proof"),
        "a power of 1+n alone": (group.one_plus(12_345), "bad_input_proof"),
    }
    for name, (value, code) in cases.items():
        bent = [replace(made[0], bodies=(value, *first[1:])), *made[1:]]
        lie = proved_anew(game, acme, bent)
        assert refused(lambda lie=lie: game.examine(lie)) == (code, "acme"), name  # type: ignore[misc]
    other_order = [replace(made[0], bodies=(first[1], first[0], *first[2:])), *made[1:]]
    assert refused(lambda: game.examine(proved_anew(game, acme, other_order))) == ("bad_input_proof", "acme")


def test_a_ciphertext_of_another_key_is_named(game: Game, sent: dict[OrgId, Sent]) -> None:
    """Same modulus, other holders' seeds: every column key is another one."""
    stranger = parties(1, 3, 4, 3)
    packed = game.shape.slots.pack(values_of(NAMES[0], LENGTH))
    made = stranger.encryptor.encrypt(packed, game.shape.blocks, stranger.entropy)
    proof = input_proof.prove(stranger.encryptor, game.context(NAMES[0]), made, stranger.own(), stranger.entropy)
    blocks = [BlockLeaf(one.header, one.lift, one.bodies) for one in made]
    lie = Sent(NAMES[0], game.context(NAMES[0]), blocks, proof)
    assert refused(lambda: game.examine(lie)) == ("bad_input_proof", "acme")
    assert refused(lambda: game.examine(proved_anew(game, sent[NAMES[0]], made))) == ("bad_input_proof", "acme")
    mine = game.home.all_of.encryptor.encrypt(packed, game.shape.blocks, game.home.all_of.entropy)
    game.examine(proved_anew(game, sent[NAMES[0]], mine))


def test_what_was_announced_is_what_comes(game: Game, sent: dict[OrgId, Sent]) -> None:
    acme = sent[NAMES[0]]
    leaves = acme.leaves(game.shape)
    header = game.header(acme, game.input_hashes(NAMES[0], leaves))
    game.examine(acme, leaves, header)
    for lie in (
        replace(header, headers_hash=bytes(32)),
        replace(header, width=header.width - 1),
    ):
        assert refused(lambda lie=lie: game.examine(acme, leaves, lie)) == ("bad_bodies", "acme")  # type: ignore[misc]
    other = replace(header, bodies_hash=bytes(32))
    assert refused(lambda: game.examine(acme, leaves, other)) == ("bad_input_proof", "acme")
    short = Stored([leaves.packed(0)[:-1], *leaves.all[1:]])
    assert refused(lambda: game.examine(acme, short, header)) == ("bad_bodies", "acme")
    for number in ("commitment", "body_commitment", "response"):
        lie = replace(header, **{number: getattr(header, number)[:-1] + b"\x01"})
        assert refused(lambda lie=lie: game.examine(acme, leaves, lie))[0] == "bad_input_proof"  # type: ignore[misc]
    long = replace(header, response=b"\xff" * 100)
    assert refused(lambda: game.examine(acme, leaves, long)) == ("bad_input_proof", "acme")


def test_a_proof_is_of_one_attempt_and_sender(game: Game, sent: dict[OrgId, Sent]) -> None:
    acme, blocks = sent[NAMES[0]], game.shape.blocks
    for context in (
        game.context(NAMES[1]),
        input_context(b"\x77" * 32, NAMES[0], LENGTH, blocks.count, blocks.width),
        input_context(game.t0, NAMES[0], LENGTH + 1, blocks.count, blocks.width),
    ):
        lie = Sent(acme.org, context, acme.blocks, acme.proof)
        assert refused(lambda lie=lie: game.examine(lie)) == ("bad_input_proof", "acme")  # type: ignore[misc]


def test_a_sign_changes_nothing(game: Game, sent: dict[OrgId, Sent]) -> None:
    """-body, -header and -lift pass, and the sum is exact: squares are compared, and the opening undoes a sign."""
    n, cipher = game.home.all_of.group.n, game.home.all_of.group.cipher
    made = game.encrypted(NAMES[0])
    made[0] = replace(made[0], bodies=(cipher - made[0].bodies[0], *made[0].bodies[1:]))
    made[1] = replace(made[1], lift=cipher - made[1].lift)
    made[2] = replace(made[2], header=n - made[2].header)
    turned = proved_anew(game, sent[NAMES[0]], made)
    game.examine(turned)
    sources = [turned.leaves(game.shape), *(sent[org].leaves(game.shape) for org in NAMES[1:4])]
    product = product_of(game, sources)
    answers = [answer(game, T3, product, holder) for holder in QUORUM]
    for one in answers:
        examine_answer(game, T3, one, product)
    assert np.array_equal(opened(game, product, answers, 4), sum(values_of(org, LENGTH) for org in NAMES[:4]))


def test_two_members_with_one_exponent_are_seen(game: Game, sent: dict[OrgId, Sent]) -> None:
    """Both know the exponent, so both proofs hold; every holder would refuse the set."""
    seen: dict[bytes, OrgId] = {}

    def check(org: OrgId, source: Stored) -> None:
        ciphers.check_distinct(seen, org, ciphers.read_headers(game.shape, source))

    for org in (*NAMES[:3], NAMES[0]):  # the same member again is no other
        check(org, sent[org].leaves(game.shape))
    made = game.encrypted(NAMES[3])
    game.examine(twin := game.proven(NAMES[3], game.context(NAMES[3]), made))
    game.examine(again := game.proven(NAMES[4], game.context(NAMES[4]), [*made[1:], made[0]]))
    check(NAMES[3], twin.leaves(game.shape))
    assert refused(lambda: check(NAMES[4], again.leaves(game.shape))) == ("header_repeated", "echo")


def test_noise_of_another_offer_is_the_coordinators_fault() -> None:
    one = Game(house(), 90, noisy=True)
    assert one.noise is not None
    all_of = one.home.all_of
    leaves, body = one.noise.leaves(one.shape), one.noise_body(one.noise)
    blocks = one.shape.blocks
    right = one.noise_context()
    wrong = input_proof.noise_context(
        "simulation-0000000000000000", "run-1", 1, 2, body.nonce, blocks.count, blocks.width
    )

    def examine(context: input_proof.Context) -> None:
        short = all_of.encryptor.short
        ciphers.examine_input(all_of.key, short, one.shape, context, body, COORDINATOR, leaves, all_of.entropy)

    examine(right)
    assert refused(lambda: examine(wrong)) == ("bad_input_proof", COORDINATOR)
    assert refused(lambda: examine(one.context(NAMES[0]))) == ("bad_input_proof", COORDINATOR)


# --- answers ----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def product(game: Game, sent: dict[OrgId, Sent]) -> Stored:
    return product_of(game, [one.leaves(game.shape) for one in sent.values()])


def entry(value: Callable[[int], int], b: int = 1, k: int = 0) -> Callable[[list[list[int]]], list[list[int]]]:
    def change(rows: list[list[int]]) -> list[list[int]]:
        rows[b] = list(rows[b])
        rows[b][k] = value(rows[b][k])
        return rows

    return change


def test_wrong_answers_of_every_kind_are_named(game: Game, product: Stored) -> None:
    group = game.home.all_of.group
    n, cipher = group.n, group.cipher
    for holder in QUORUM:
        examine_answer(game, T3, answer(game, T3, product, holder), product)  # the positive control
    changes: dict[str, tuple[Callable[[list[list[int]]], list[list[int]]], str]] = {
        "a power of 1+n": (entry(lambda value: value * (1 + n) ** 7 % cipher), "bad_partial"),
        "times a number": (entry(lambda value: value * 3 % cipher), "bad_partial"),
        "its inverse": (entry(lambda value: gmpy2.invert(value, cipher)), "bad_partial"),
        "zero": (entry(lambda value: gmpy2.mpz(0)), "bad_group_element"),
        "one": (entry(lambda value: gmpy2.mpz(1)), "bad_group_element"),
        "n": (entry(lambda value: n), "bad_group_element"),
        "no unit": (entry(lambda value: 5 * n), "bad_group_element"),
        "two columns swapped": (lambda rows: [[row[1], row[0], *row[2:]] for row in rows], "bad_partial"),
        "two blocks swapped": (lambda rows: [rows[1], rows[0], *rows[2:]], "bad_partial"),
    }
    for name, (change, code) in changes.items():
        lie = answer(game, T3, product, QUORUM[1], change=change)
        found = refused(lambda lie=lie: examine_answer(game, T3, lie, product))  # type: ignore[misc]
        assert found == (code, NAMES[QUORUM[1]]), (name, found)


def test_answers_of_others_and_elsewhere_are_named(game: Game, product: Stored, sent: dict[OrgId, Sent]) -> None:
    other = product_of(game, [one.leaves(game.shape) for one in list(sent.values())[:3]])
    good = answer(game, T3, product, 2)
    lies = {
        "another holder's exponents": answer(game, T3, product, 2, exponents_of=0),
        "another quorum's": answer(game, T3, product, 2, quorum=(1, 2)),
        "another certificate's": answer(game, b"\x44" * 32, product, 2),
        "another product's": answer(game, T3, other, 2),
    }
    lies["another quorum's"] = replace(
        lies["another quorum's"], body=replace(lies["another quorum's"].body, quorum=QUORUM)
    )
    for name, lie in lies.items():
        assert refused(lambda lie=lie: examine_answer(game, T3, lie, product)) == ("bad_partial", "cygnus"), name  # type: ignore[misc]
    as_another = replace(good, body=replace(good.body, org_id=NAMES[0]))
    assert refused(lambda: examine_answer(game, T3, as_another, product, holder=0)) == ("bad_partial", "acme")
    for quorum in ((0, 1), (0,), (0, 1, 2), (0, 7)):
        lie = replace(good, body=replace(good.body, quorum=quorum))
        assert refused(lambda lie=lie: examine_answer(game, T3, lie, product)) == ("bad_partial", "cygnus")  # type: ignore[misc]
    short = replace(good, leaves=Stored([good.leaves.packed(0)[:-1], *good.leaves.all[1:]]))
    assert refused(lambda: examine_answer(game, T3, short, product)) == ("bad_partial", "cygnus")
    for number in ("commitment", "long_commitment", "response"):
        lie = replace(good, body=replace(good.body, **{number: getattr(good.body, number)[:-1] + b"\x01"}))
        assert refused(lambda lie=lie: examine_answer(game, T3, lie, product)) == ("bad_partial", "cygnus")  # type: ignore[misc]
    examine_answer(game, T3, good, product)


def test_minus_an_answer_passes_and_the_sum_is_exact(game: Game, product: Stored) -> None:
    cipher = game.home.all_of.group.cipher
    answers = [answer(game, T3, product, 0), answer(game, T3, product, 2, change=entry(lambda value: cipher - value))]
    for one in answers:
        examine_answer(game, T3, one, product)
    assert np.array_equal(opened(game, product, answers, 4), sum(values_of(org, LENGTH) for org in NAMES[:4]))


# --- the opening ------------------------------------------------------------------------------------------------------


def code_of(act: Callable[[], object]) -> str:
    with pytest.raises(FedveilError) as caught:
        act()
    return caught.value.code


def test_what_does_not_fit_together_does_not_open(game: Game, product: Stored) -> None:
    first, second = (answer(game, T3, product, holder) for holder in QUORUM)
    mixed = answer(game, T3, product, 2, quorum=(1, 2))
    assert opened(game, product, [first, second], 4)
    assert code_of(lambda: opened(game, product, [first], 4)) == "not_opened"  # t-1
    assert code_of(lambda: opened(game, product, [first, mixed], 4)) == "not_opened"  # two quorums
    assert code_of(lambda: opened(game, product, [first, first], 4)) == "not_opened"


def test_a_false_product_or_count_of_survivors_does_not_open(game: Game, product: Stored) -> None:
    answers = [answer(game, T3, product, holder) for holder in QUORUM]
    shape, group = game.shape, game.home.all_of.group

    def bent(value: Callable[[int], int]) -> Stored:
        block = read_block(product.packed(0), shape)
        false = replace(block, bodies=(value(block.bodies[0]), *block.bodies[1:]))
        return Stored([write_block(false, shape), *product.all[1:]])

    assert code_of(lambda: opened(game, bent(lambda c: c * 3 % group.cipher), answers, 4)) == "not_opened"
    high = 1 << (8 * shape.slots.slot_bytes * shape.slots.per_plaintext)
    above = bent(lambda c: c * group.one_plus(high) % group.cipher)
    assert code_of(lambda: opened(game, above, answers, 4)) == "sum_out_of_range"
    assert code_of(lambda: opened(game, product, answers, 2)) == "sum_out_of_range"
    assert code_of(lambda: opened(game, product, answers, 4, bits=8)) == "sum_out_of_range"  # a ring too narrow
    assert opened(game, product, answers, 4)


def test_signed_answers_hold_what_they_say(game: Game, product: Stored) -> None:
    good = answer(game, T3, product, 2)
    row = read_row(good.leaves.packed(0), game.shape)
    assert write_row(row, game.shape) == good.leaves.packed(0)
    again = signed_answer(game, T3, 2, QUORUM, good.leaves, proof_of(good))
    assert again.body == good.body


def proof_of(one: Answer) -> PartialProof:
    numbers = (int.from_bytes(getattr(one.body, name)) for name in ("commitment", "long_commitment", "response"))
    return PartialProof(*numbers)
