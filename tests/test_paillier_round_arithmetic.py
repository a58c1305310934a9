"""A participant's arithmetic under Paillier protection: its input, its product of headers, its answer as a holder."""

from collections.abc import Callable
from dataclasses import replace

import gmpy2
import numpy as np
import pytest
from fedveil_common.errors import PeerError, PolicyRefusal
from fedveil_common.ids import OrgId
from fedveil_common.paillier import block_leaves, encryption, input_proof, lifting
from fedveil_common.paillier.encoding import shortest
from fedveil_participant import encrypting, mask_source
from fedveil_participant.answering import COORDINATOR, answer
from fedveil_participant.mask_source import InlineMasks

from tests.paillier_parties import NAMES, T0, T3, parties, updates
from tests.paillier_round import LENGTH, NOISE_CAP, T2, Attempt, FromTables, Leaves, attempt, holder

ACME, BOREALIS, CYGNUS = NAMES[:3]


# --- the sum ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("s", [1, 2, 3])
def test_the_sum_of_what_was_encrypted_opens_and_is_exact(s: int) -> None:
    round = attempt(parties(s))
    for org in round.survivors:  # as the coordinator checks it
        signed, leaves = round.survivors[org], round.leaves[org]
        header = block_leaves.proof_in(signed, round.headers[org])
        shape, key = round.shape, round.all_of.key
        context = input_proof.input_context(T0, org, LENGTH, shape.blocks.count, shape.blocks.width)
        input_proof.check_header(key, round.all_of.encryptor.short, context, header, org)
        input_proof.check_bodies(key, context, header, [leaf.bodies for leaf in leaves], org)
        lifting.check_lifts(key.group, round.headers[org], [leaf.lift for leaf in leaves], round.all_of.entropy, org)
    assert np.array_equal(round.open((0, 2)), sum(updates(3, LENGTH)))


@pytest.mark.parametrize(("holders", "threshold"), [(2, 2), (3, 2), (3, 3), (4, 3), (5, 4)])
def test_every_quorum_opens_the_same_sum(holders: int, threshold: int) -> None:
    round = attempt(parties(1, 2, holders, threshold), 2, 300)
    for quorum in round.all_of.quorums():
        assert np.array_equal(round.open(quorum), sum(updates(2, 300)))


@pytest.mark.parametrize("length", [1, 85, 86])
def test_one_and_two_blocks_are_lifted_here_whatever_lifts_were_sent(length: int) -> None:
    round = attempt(parties(1, 1), 2, length)
    nonsense = [gmpy2.mpz(2)] * round.shape.blocks.count
    assert round.answer(0, (0, 1), nonsense).rows == round.answer(0, (0, 1)).rows
    assert np.array_equal(round.open((0, 1)), sum(updates(2, length)))


def test_noise_is_multiplied_in_once_and_is_no_survivor() -> None:
    noise = np.arange(LENGTH, dtype=np.int64) % (2 * NOISE_CAP + 1) - NOISE_CAP
    round = attempt(parties(), 2, noise=noise)
    assert round.noise is not None
    inputs = [*round.headers.values(), round.noise[1]]
    assert round.product() == lifting.product_of_headers(inputs, round.all_of.group.n)
    assert np.array_equal(round.open((0, 1)), sum(updates(2, LENGTH)) + noise)


def test_the_same_question_has_the_same_answer_with_another_proof() -> None:
    round = attempt(parties())
    first, again = round.answer(1, (1, 2)), round.answer(1, (1, 2))
    assert first.rows == again.rows
    assert first.parts.commitment != again.parts.commitment
    other = round.answer(1, (0, 1))
    round.check(other)
    assert other.rows != first.rows


# --- an input ---------------------------------------------------------------------------------------------------------


class Nothing:
    """A source that has nothing; `asked`: how often."""

    asked = 0

    def take(self, count: int, width: int) -> list[encryption.Mask]:
        self.asked += 1
        return []


@pytest.mark.parametrize("what", ["nothing", "some", "inline", "later"])
def test_masks_that_are_lacking_are_made_here(what: str) -> None:
    all_of = parties()
    round = Attempt(all_of, length=2400)  # ten blocks

    class Later:
        """Empty at first, as a pool whose process has just begun."""

        asked = 0

        def take(self, count: int, width: int) -> list[encryption.Mask]:
            self.asked += 1
            return FromTables(all_of).take(count, width) if self.asked == 2 else []

    later, nothing = Later(), Nothing()
    sources = {
        "nothing": nothing,
        "some": FromTables(all_of, 4),
        "inline": InlineMasks(all_of.key, all_of.entropy),
        "later": later,
    }
    assert round.shape.blocks.count == 10
    vectors = updates(2, 2400)
    round.join(ACME, vectors[0], sources[what])
    round.join(BOREALIS, vectors[1])
    assert np.array_equal(round.open((0, 1)), sum(vectors))
    assert nothing.asked == (2 if what == "nothing" else 0)
    assert later.asked == (2 if what == "later" else 0)


def test_a_second_input_of_the_same_integers_is_another() -> None:
    all_of, (vector,) = parties(), updates(1, LENGTH)
    first, again = Attempt(all_of), Attempt(all_of)
    for one in (first, again):
        one.join(ACME, vector)
    assert not set(first.headers[ACME]) & set(again.headers[ACME])


def test_inline_masks_build_tables_once_they_pay(monkeypatch: pytest.MonkeyPatch) -> None:
    all_of, built = parties(), []
    true = mask_source.Encryptor

    def counted(key: object, columns: int) -> encryption.Encryptor:
        built.append(columns)
        return true(key, columns)  # type: ignore[arg-type]

    monkeypatch.setattr(mask_source, "Encryptor", counted)
    monkeypatch.setattr(mask_source, "WITHOUT_TABLES", 3)
    masks = InlineMasks(all_of.key, all_of.entropy)
    given = [*masks.take(0, 1), *masks.take(1, 2), *masks.take(2, 1)]
    assert not built
    given += masks.take(1, 2)
    given += masks.take(5, 1)
    assert built == [2]  # as wide as the blocks
    given += masks.take(1, 3)
    assert built == [2, 3]
    assert [one.width for one in given] == [2, 1, 1, 2, 1, 1, 1, 1, 1, 3]
    assert len({one.spend()[1] for one in given}) == len(given)
    for width in (0, 4):
        with pytest.raises(ValueError, match="columns"):
            masks.take(1, width)


@pytest.mark.parametrize("s", [1, 2])
def test_a_mask_without_tables_is_one_of_the_key(s: int) -> None:
    all_of = parties(s)
    key, group = all_of.key, all_of.group
    (mask,) = encryption.masks_without_tables(key, key.lifted[:2], 1, all_of.entropy)
    exponent, header, lift, powers = mask.spend()
    r = encryption.exponent_value(exponent)
    assert header == gmpy2.powmod(key.g, r, group.n)
    assert lift == group.lift(header)
    assert powers == tuple(gmpy2.powmod(one, r, group.cipher) for one in key.lifted[:2])


def test_an_integer_beyond_its_slot_is_not_encrypted_and_nothing_remains() -> None:
    all_of, sink = parties(), Leaves()
    shape, (vector,) = Attempt(all_of).shape, updates(1, LENGTH)
    vector[7] = 32_768
    nothing = Nothing()
    with pytest.raises(PolicyRefusal, match="slot_overflow"):
        encrypting.encrypted_input(all_of.key, nothing, shape, T0, T2, ACME, vector, all_of.own(), all_of.entropy, sink)
    assert (sink.data, sink.ended, nothing.asked) == ({}, ["discard"], 0)


# --- the product: what a coordinator or a survivor can send wrong -----------------------------------------------------


def other_order(round: Attempt) -> None:
    round.headers[BOREALIS].reverse()


def one_fewer(round: Attempt) -> None:
    round.headers[BOREALIS].pop()


def one_more(round: Attempt) -> None:
    round.headers[BOREALIS].append(round.headers[ACME][0])


def wrong_hash(round: Attempt) -> None:
    round.sign(BOREALIS, headers_hash=bytes(32))


def too_large(round: Attempt) -> None:
    round.headers[BOREALIS][0] = gmpy2.mpz(1) << 2048


def negative(round: Attempt) -> None:
    round.headers[BOREALIS][0] = gmpy2.mpz(-5)


def missing(round: Attempt) -> None:
    del round.headers[BOREALIS]


def surplus(round: Attempt) -> None:
    round.headers[OrgId("delta")] = round.headers[BOREALIS]


def swapped(round: Attempt) -> None:
    round.headers[ACME], round.headers[BOREALIS] = round.headers[BOREALIS], round.headers[ACME]


def signs(round: Attempt, headers: list[int], org: OrgId = BOREALIS) -> None:
    """`org` signs these headers, and they are sent."""
    round.headers[org] = headers
    round.sign(org, headers_hash=block_leaves.headers_hash(headers, round.shape))


def copied(round: Attempt) -> None:
    round.survivors[BOREALIS] = replace(round.survivors[ACME], org_id=BOREALIS)
    round.headers[BOREALIS] = list(round.headers[ACME])


def copied_one(round: Attempt) -> None:
    signs(round, [round.headers[ACME][0], *round.headers[BOREALIS][1:]])


def inverse(round: Attempt) -> None:
    n = round.all_of.group.n
    signs(round, [gmpy2.invert(one, n) for one in round.headers[ACME]])


def other_attempt(round: Attempt) -> None:
    other = Attempt(round.all_of, t0=b"\x11" * 32)
    other.join(BOREALIS, updates(1, LENGTH)[0])
    round.survivors[BOREALIS], round.headers[BOREALIS] = other.survivors[BOREALIS], other.headers[BOREALIS]


def signed_order(round: Attempt) -> None:
    signs(round, round.headers[BOREALIS][::-1])


def repeated_inside(round: Attempt) -> None:
    first, _, last = round.headers[BOREALIS]
    signs(round, [first, first, last])


def beyond_n(round: Attempt) -> None:
    signs(round, [round.all_of.group.n + 2, *round.headers[BOREALIS][1:]])


def zero(round: Attempt) -> None:
    signs(round, [gmpy2.mpz(0), *round.headers[BOREALIS][1:]])


def no_commitment(round: Attempt) -> None:
    round.sign(BOREALIS, commitment=bytes(256))


def long_response(round: Attempt) -> None:
    round.sign(BOREALIS, response=shortest(1 << 561))


def other_response(round: Attempt) -> None:
    round.sign(BOREALIS, response=shortest(12345))


def other_bodies(round: Attempt) -> None:
    round.sign(BOREALIS, bodies_hash=bytes(32))


def other_key(round: Attempt) -> None:
    round.sign(BOREALIS, fingerprint=bytes(32))


def other_length(round: Attempt) -> None:
    round.sign(BOREALIS, length=LENGTH - 1)


def other_blocks(round: Attempt) -> None:
    round.sign(BOREALIS, blocks=4)


def other_width(round: Attempt) -> None:
    round.sign(BOREALIS, width=2)


def other_name(round: Attempt) -> None:
    round.sign(BOREALIS, org_id=CYGNUS)


@pytest.mark.parametrize(
    ("lie", "code", "peer"),
    [
        *((lie, "headers_differ", COORDINATOR) for lie in (other_order, one_fewer, one_more, wrong_hash, too_large)),
        *((lie, "headers_differ", COORDINATOR) for lie in (negative, missing, surplus, swapped)),
        *((lie, "bad_input_proof", BOREALIS) for lie in (copied, copied_one, inverse, other_attempt, signed_order)),
        *((lie, "bad_input_proof", BOREALIS) for lie in (long_response, other_response, other_bodies)),
        *((lie, "bad_group_element", BOREALIS) for lie in (beyond_n, zero, no_commitment)),
        *((lie, "wrong_shape", BOREALIS) for lie in (other_length, other_blocks, other_width, other_name)),
        (other_key, "wrong_key", BOREALIS),
        (repeated_inside, "header_repeated", BOREALIS),
    ],
)
def test_what_is_wrong_with_a_header_is_said_by_code_and_name(
    lie: Callable[[Attempt], None], code: str, peer: str
) -> None:
    round = attempt(parties())
    round.product()
    lie(round)
    with pytest.raises(PeerError) as caught:
        round.product()
    assert (caught.value.code, caught.value.peer) == (code, peer)
    assert caught.value.not_done == "no key share was used"


def test_two_who_share_an_exponent_are_both_named() -> None:
    """Each proves it knows the exponent, so both do: their header would count twice."""
    round = Attempt(parties())
    all_of, shape = round.all_of, round.shape

    class Recorded:
        """The same masks twice: as only two who work together can have them."""

        drawn = all_of.encryptor.masks(shape.blocks.count, shape.blocks.width, all_of.entropy)
        parts = tuple(one.spend() for one in drawn)

        def take(self, count: int, width: int) -> list[encryption.Mask]:
            return [encryption.Mask(*one) for one in self.parts[:count]]

    for org, one in zip((ACME, BOREALIS), updates(2, LENGTH), strict=True):
        round.join(org, one, Recorded())
    with pytest.raises(PeerError, match="acme and borealis") as caught:
        round.product()
    assert (caught.value.code, caught.value.peer) == ("header_repeated", BOREALIS)
    assert caught.value.not_done == "no key share was used"


@pytest.mark.parametrize(
    ("lie", "code"),
    [
        ("headers", "headers_differ"),
        ("fewer", "headers_differ"),
        ("key", "wrong_key"),
        ("shape", "wrong_shape"),
        ("offer", "bad_input_proof"),
        ("an input", "bad_input_proof"),
    ],
)
def test_noise_of_every_wrong_kind_is_the_coordinator_s(lie: str, code: str) -> None:
    round = attempt(parties(), 2, noise=np.zeros(LENGTH, np.int64))
    assert round.noise is not None
    signed, headers, context = round.noise
    shape = round.shape
    match lie:
        case "headers":
            headers = headers[::-1]
        case "fewer":
            headers = headers[:-1]
        case "key":
            signed = replace(signed, fingerprint=bytes(32))
        case "shape":
            signed = replace(signed, width=2)
        case "offer":
            place = ("hospitals", "run", 1, 1, b"another")
            context = input_proof.noise_context(*place, shape.blocks.count, shape.blocks.width)
        case "an input":  # a survivor's own, a second time
            theirs = round.survivors[ACME]
            copied = {name: getattr(theirs, name) for name in signed.__slots__ if hasattr(theirs, name)}
            signed, headers = replace(signed, **copied), round.headers[ACME]
    round.noise = signed, headers, context
    with pytest.raises(PeerError) as caught:
        round.product()
    assert (caught.value.code, caught.value.peer) == (code, COORDINATOR)
    assert caught.value.not_done == "no key share was used"


def test_a_sum_of_nobody_is_not_opened() -> None:
    with pytest.raises(ValueError, match="nobody"):
        Attempt(parties()).product()


# --- the answer -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("what", ["one plus n", "another's", "fewer", "more", "swapped", "zero", "beyond"])
def test_wrong_lifts_are_never_raised_to_a_share(what: str, monkeypatch: pytest.MonkeyPatch) -> None:
    round = attempt(parties())
    group, good = round.all_of.group, round.lifts()
    wrong, code = {
        "one plus n": ([good[0] * group.one_plus(1) % group.cipher, *good[1:]], "bad_lift"),
        "another's": ([round.leaves[ACME][0].lift, *good[1:]], "bad_lift"),
        "fewer": (good[:-1], "bad_lift"),
        "more": ([*good, good[0]], "bad_lift"),
        "swapped": ([good[1], good[0], good[2]], "bad_lift"),
        "zero": ([gmpy2.mpz(0), *good[1:]], "bad_group_element"),
        "beyond": ([good[0] + group.cipher, *good[1:]], "bad_group_element"),
    }[what]
    monkeypatch.setattr("fedveil_common.paillier.holder_key.holder_exponents", None)  # whoever uses the key fails
    with pytest.raises(PeerError) as caught:
        round.answer(0, (0, 1), wrong)
    assert (caught.value.code, caught.value.peer) == (code, COORDINATOR)
    assert caught.value.not_done == "no key share was used"


@pytest.mark.parametrize("quorum", [(), (0,), (0, 1, 2), (1, 0), (0, 0), (0, 3), (-1, 0), (0, 300), (1, 2)])
def test_a_wrong_quorum_is_the_coordinator_s(quorum: tuple[int, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    round = attempt(parties())
    monkeypatch.setattr("fedveil_common.paillier.holder_key.holder_exponents", None)
    with pytest.raises(PeerError) as caught:
        round.answer(0, quorum)  # (1, 2): holder 0 is not of it
    assert (caught.value.code, caught.value.peer) == ("wrong_quorum", COORDINATOR)
    assert caught.value.not_done == "no key share was used"


def test_products_without_an_inverse_are_refused() -> None:
    round = attempt(parties(1, 3), 2, 85)
    all_of, sink = round.all_of, Leaves()
    rest = (round.lifts(), all_of.own(), all_of.entropy, sink)
    with pytest.raises(PeerError, match="bad_group_element") as caught:
        answer(all_of.key, holder(all_of, 0), round.shape, T3, (0, 1), [gmpy2.mpz(1)], *rest)
    assert caught.value.peer == COORDINATOR
    assert (sink.data, sink.ended) == ({}, ["discard"])


def test_another_key_or_shape_is_this_side_s_own_mistake() -> None:
    round, others = attempt(parties()), parties(1, 3, 3, 3)
    all_of = round.all_of
    for key, products in ((others.key, round.product()), (all_of.key, round.product()[1:])):
        rest = (round.lifts(), all_of.own(), all_of.entropy, Leaves())
        with pytest.raises(ValueError, match="another key"):
            answer(key, holder(all_of, 0), round.shape, T3, (0, 1), products, *rest)


def test_what_was_refused_leaves_nothing_and_a_full_disk_is_told() -> None:
    round = attempt(parties())

    class Full(Leaves):
        def write(self, index: int, data: bytes | bytearray) -> None:
            raise OSError("no space left")

    sink, all_of = Full(), round.all_of
    rest = (round.product(), round.lifts(), all_of.own(), all_of.entropy, sink)
    with pytest.raises(OSError, match="no space"):
        answer(all_of.key, holder(all_of, 0), round.shape, T3, (0, 1), *rest)
    assert sink.ended == ["discard"]
