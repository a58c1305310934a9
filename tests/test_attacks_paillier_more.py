"""Further attacks on the Paillier engine and its keys: across processes, signs, epochs, participants and moduli.

Each test fails the attacker; together with `test_attacks_paillier` every check of the engine has one that needs it.
"""

import os
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import gmpy2
import numpy as np
import pytest
from fedveil_common.errors import PeerError
from fedveil_common.paillier import (
    ceremony,
    contributions,
    encryption,
    epochs,
    holder_lists,
    input_proof,
    key_record,
    lifting,
    list_proof,
    nonces,
    partial,
    partial_proof,
    refresh,
)
from fedveil_common.paillier.ceremony_messages import Kind, SignedMessage
from fedveil_common.paillier.group import Group
from fedveil_common.paillier.key_record import KeyRecord
from fedveil_common.paillier.packing import Blocks
from fedveil_common.paillier.public_key import PublicKey, base
from fedveil_common.secret import Seed
from gmpy2 import mpz
from paillier_holders import RSA_2048, Renewal, Table, holders_of, made, terms_of
from paillier_holders import party as seat
from paillier_numbers import PRIME

from tests.paillier_parties import NAMES, Input, Parties, parties, updates

LENGTH = 700  # nine plaintexts, three blocks
QUORUM = (0, 1)
ALL = frozenset({0, 1, 2})
FIRST = made(3, 2)
HOLDERS = FIRST[0].holders


def refused(code: str) -> Any:
    return pytest.raises(PeerError, match=rf"\[?{code}")


def honest(all_of: Parties, count: int = 3) -> list[Input]:
    slots = all_of.slots(LENGTH)
    return [all_of.input(org, slots.pack(one), LENGTH) for org, one in zip(NAMES, updates(count, LENGTH), strict=False)]


# --- masks: once, and in one process ----------------------------------------------------------------------------------


def test_a_mask_does_not_survive_a_fork() -> None:
    """Two messages under one mask show their difference to everybody: body / body' = (1+n)^(m - m')."""
    all_of = parties()
    (mask,) = all_of.encryptor.masks(1, 3, all_of.entropy)
    child = os.fork()
    if child == 0:
        status = 1
        try:
            encryption.encrypt_with(all_of.key, [mask], [mpz(9)] * 3, Blocks(1, 3))
        except ValueError:
            status = 0 if mask.width == 0 else 2
        finally:
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert mask.width == 3
    encryption.encrypt_with(all_of.key, [mask], [mpz(5)] * 3, Blocks(1, 3))
    with pytest.raises(ValueError, match="used"):
        mask.spend()


# --- participants -----------------------------------------------------------------------------------------------------


def test_one_participant_listed_twice_is_not_two() -> None:
    """Otherwise a coordinator passes every smallest cohort with one input and halves what opens."""
    all_of = parties()
    one, other = honest(all_of, 2)
    with refused("header_repeated"):
        all_of.bases([one, one])
    half = [replace(other.header, headers=(*other.header.headers[:2], one.header.headers[2])), one.header]
    with refused("header_repeated"):
        lifting.product_of_headers([header.headers for header in half], all_of.group.n)
    assert np.array_equal(all_of.slots(LENGTH).unpack(all_of.open([one, other], QUORUM), 2), sum(updates(2, LENGTH)))


@pytest.mark.parametrize("wrong", [0, -5, 1])
def test_a_holder_lifts_units_only(wrong: int) -> None:
    """One or two blocks are lifted without the check of a coordinator's lifts, but not without that of elements."""
    all_of = parties()
    with refused("bad_group_element"):
        lifting.checked_bases(all_of.group, [mpz(4), mpz(wrong)], [], all_of.entropy)


@pytest.mark.parametrize("quorum", [(), (0,), (0, 0), (1, 0), (0, 3), (0, 1, 2), (1, 2)])
def test_columns_are_of_a_member_of_a_quorum(quorum: tuple[int, ...]) -> None:
    """For who is no member they would be 1, and an answer of ones be proven."""
    with pytest.raises(ValueError, match="quorum"):
        parties().key.of_holder(0, quorum, 3)


# --- column keys: signs are no difference, for masks are powers of squares --------------------------------------------


def column(all_of: Parties, target: int) -> PublicKey:
    """The key with another first element in one list, so that the first column is `target`."""
    n, lists = all_of.group.n, {one: list(found) for one, found in all_of.key.lists.items()}
    lists[(0,)][0] = target * gmpy2.invert(lists[(1,)][0] * lists[(2,)][0], n) % n
    return PublicKey(all_of.key.terms, 0, lists)


def test_two_columns_with_one_mask_are_refused() -> None:
    all_of = parties()
    for same in (all_of.key.columns[1], all_of.group.n - all_of.key.columns[1]):
        with refused("bad_key_list"):
            column(all_of, same)


def test_a_column_without_a_mask_is_refused() -> None:
    all_of = parties()
    for one in (mpz(1), all_of.group.n - 1):
        with refused("bad_key_list"):
            column(all_of, one)


@pytest.mark.parametrize("what", ["minus one", "another's negative", "the base's negative"])
def test_a_list_with_an_element_that_differs_in_its_sign_is_refused(what: str) -> None:
    all_of = parties()
    n, lists = all_of.group.n, {one: list(found) for one, found in all_of.key.lists.items()}
    lists[(0,)][0] = {
        "minus one": n - 1,
        "another's negative": n - lists[(1,)][1],
        "the base's negative": n - all_of.key.g,
    }[what]
    with refused("bad_key_list"):
        PublicKey(all_of.key.terms, 0, lists)


# --- whoever carries messages accuses nobody --------------------------------------------------------------------------


@pytest.mark.parametrize("after", [False, True])
def test_an_old_message_played_again_accuses_nobody(after: bool) -> None:
    """A transport keeps the lists of one refresh and plays them into the next one."""
    renewal = Renewal(FIRST).play()
    second = renewal.refreshed()
    old = next(message for message in renewal.sent if message.kind is Kind.LISTS and message.sender == 1)
    state, _ = refresh.start(seat(HOLDERS, 0, "refresh 1"), second[0], ALL)
    _, (real,) = refresh.start(seat(HOLDERS, 1, "refresh 1"), second[1], ALL)
    if after:
        state, _ = refresh.step(state, real)
    with refused("key_views_differ") as caught:
        refresh.step(state, old)
    assert caught.value.peer == ""
    if not after:
        state, _ = refresh.step(state, real)
    assert set(state.heard.of(Kind.LISTS)) == {0, 1}


def test_a_holder_that_goes_on_to_the_next_epoch_early_is_not_accused() -> None:
    """It has all approvals and begins a refresh; its own approval reaches the others after its new lists."""
    late: list[SignedMessage] = []

    def lie(message: SignedMessage) -> Iterable[SignedMessage]:
        if message.kind is Kind.APPROVAL and message.sender == 2:
            late.append(message)
            return ()
        return (message,)

    table = Table(HOLDERS, lie).play()
    done = table.states[2].stage
    assert isinstance(done, ceremony.Made)
    _, (early,) = refresh.start(seat(HOLDERS, 2, "refresh 0"), done.key, ALL)
    with refused("bad_key_message") as caught:
        ceremony.step(table.states[0], early)
    assert caught.value.peer == ""
    state, _ = ceremony.step(table.states[0], late[0])
    assert isinstance(state.stage, ceremony.Made)


# --- records ----------------------------------------------------------------------------------------------------------


def test_a_signer_counts_once() -> None:
    record = Renewal(FIRST).play().refreshed()[0].record
    signature = record.signatures[0]
    for other in (-3, 3, 255):
        with refused("bad_key_message"):
            key_record.verify(replace(record, signatures={0: signature, other: signature}), HOLDERS.root)


@pytest.mark.parametrize("n", [PRIME, (int(gmpy2.next_prime(3 << 1022))) ** 2])
def test_a_modulus_that_everybody_can_open_makes_no_key(n: int) -> None:
    """All holders signed it and a person compared the root: still nobody encrypts under it."""
    table = Table(holders_of(replace(terms_of(3, 2), n=n))).play()
    stage = table.states[0].stage
    assert isinstance(stage, ceremony.Made)
    record = KeyRecord.from_bytes(stage.key.record.to_bytes())
    with refused("bad_key_modulus"):
        epochs.accept_first(record.root, record)


# --- what only a prover who follows the text but for one thing gets to ------------------------------------------------


def header_of(all_of: Parties, one: Input, header: input_proof.InputHeader) -> None:
    input_proof.check_header(all_of.key, all_of.encryptor.short, one.context, header, one.org)


def short_by_sign(value: int, modulus: int) -> int:
    """Of v and -v the one below half of the modulus, so that v + modulus still fits its bytes."""
    return min(value, modulus - value)


@pytest.mark.parametrize("bits", [561, 567])
def test_a_response_beyond_its_range_is_refused_though_its_equations_hold(
    monkeypatch: pytest.MonkeyPatch, bits: int
) -> None:
    all_of = parties()
    monkeypatch.setattr(input_proof, "nonce", lambda own, seed, count, entropy: mpz(1) << bits)
    monkeypatch.setattr(partial_proof, "nonce", lambda own, seed, count, entropy: mpz(1) << bits)
    inputs = honest(all_of, 2)
    with refused("bad_input_proof"):
        header_of(all_of, inputs[0], inputs[0].header)
    bases = all_of.bases(inputs)
    found, proof = all_of.answer(0, QUORUM, bases, 3)
    with refused("bad_partial"):
        all_of.check_answer(0, QUORUM, bases, found, proof)
    terms, seed = HOLDERS.terms, FIRST[0].seeds[(1,)]
    secret = holder_lists.exponents(terms, 0, (1,), seed)
    values = holder_lists.column_keys(terms, secret)
    statement = list_proof.Statement(terms, HOLDERS.root, 0, (1,), values)
    monkeypatch.setattr(list_proof, "_nonce", lambda *ignored: mpz(1) << bits)
    with refused("bad_list_proof"):
        list_proof.check(statement, list_proof.prove(statement, secret, seed, bytes(64)))


@pytest.mark.parametrize("field", ["headers", "commitment", "body_commitment"])
@pytest.mark.parametrize("wrong", [-1, 0, 1, 1 << 3000])
def test_numbers_that_fit_no_encoding_are_refused_by_type(field: str, wrong: int) -> None:
    all_of = parties()
    one = honest(all_of, 1)[0]
    value: Any = (*one.header.headers[:2], mpz(wrong)) if field == "headers" else mpz(wrong)
    with refused("bad_group_element") as caught:
        header_of(all_of, one, replace(one.header, **{field: value}))
    assert caught.value.peer == one.org


def test_a_body_in_another_encoding_is_refused_though_its_equation_holds() -> None:
    all_of = parties()
    one, cipher = honest(all_of, 1)[0], all_of.group.cipher
    block = one.blocks[0]
    longer = short_by_sign(block.bodies[0], cipher) + cipher
    made = [replace(block, bodies=(longer, *block.bodies[1:])), *one.blocks[1:]]
    with refused("bad_group_element"):
        all_of.check(all_of.proven(one.org, made, LENGTH))


def test_bodies_moved_from_block_to_block_are_refused_though_their_hash_is_the_same() -> None:
    all_of = parties()
    one = honest(all_of, 1)[0]
    rows = [list(block.bodies) for block in one.blocks]
    for short, long in ((0, 1), (1, 0)):
        moved = [list(row) for row in rows]
        moved[long].insert(0 if long else 3, moved[short].pop(-1 if long else 0))
        assert [body for row in moved for body in row] == one.bodies
        with refused("bad_bodies"):
            input_proof.check_bodies(all_of.key, one.context, one.header, moved, one.org)


@pytest.mark.parametrize("what", ["fewer blocks", "a narrow block", "beyond", "huge", "z", "T1", "T2", "T2 beyond"])
def test_answers_that_are_proven_and_wrong_in_form(monkeypatch: pytest.MonkeyPatch, what: str) -> None:
    all_of = parties()
    cipher, bases, exponents = all_of.group.cipher, all_of.bases(honest(all_of)), all_of.exponents(0, QUORUM, 3)
    found, proof = all_of.answer(0, QUORUM, bases, 3)
    if what == "fewer blocks":
        found = found[:-1]
        proof = all_of.prove(0, QUORUM, bases, found, exponents)
    if what == "a narrow block":
        found[2].pop()
        proof = all_of.prove(0, QUORUM, bases, found, exponents)
    if what == "beyond":
        found[0][0] = short_by_sign(found[0][0], cipher) + cipher
        proof = all_of.prove(0, QUORUM, bases, found, exponents)
    if what == "huge":
        found[0][0] = mpz(1) << 5000
    if what == "z":
        proof = replace(proof, response=mpz(-1))
    if what == "T1":
        proof = replace(proof, commitment=mpz(1) << 3000)
    if what == "T2":
        proof = replace(proof, long_commitment=mpz(1) << 5000)
    if what == "T2 beyond":
        real = gmpy2.powmod
        beyond = lambda b, e, m: short_by_sign(real(b, e, m), m) + m if m == cipher else real(b, e, m)  # noqa: E731
        with monkeypatch.context() as patched:
            patched.setattr(partial_proof.gmpy2, "powmod", beyond)
            patched.setattr(partial_proof, "multi_power", multi_power_by_hand)
            proof = all_of.prove(0, QUORUM, bases, found, exponents)
        assert proof.long_commitment > cipher
    with refused("bad_partial" if what in {"fewer blocks", "a narrow block", "z"} else "bad_group_element"):
        all_of.check_answer(0, QUORUM, bases, found, proof)


def test_an_answer_with_other_exponents_is_refused_though_it_is_proven() -> None:
    """It would spoil the sum, and the opening could name nobody: both equations have the same z."""
    all_of = parties()
    bases = all_of.bases(honest(all_of))
    others = [one + 1 for one in all_of.exponents(0, QUORUM, 3)]
    found = partial.partial(all_of.group, bases, partial.plan(others))
    with refused("bad_partial") as caught:
        all_of.check_answer(0, QUORUM, bases, found, all_of.prove(0, QUORUM, bases, found, others))
    assert caught.value.peer == NAMES[0]


def test_a_turned_answer_or_body_passes_whatever_the_challenges_are() -> None:
    all_of = parties()
    inputs, cipher = honest(all_of), all_of.group.cipher
    bases, exponents = all_of.bases(inputs), all_of.exponents(0, QUORUM, 3)
    for place in range(3):
        found, _ = all_of.answer(0, QUORUM, bases, 3)
        for block in range(place + 1):
            found[block][place] = cipher - found[block][place]
        for _ in range(3):
            proof = all_of.prove(0, QUORUM, bases, found, exponents)
            all_of.check_answer(0, QUORUM, bases, found, proof)
        block = inputs[0].blocks[place]
        bodies = (*block.bodies[:place], cipher - block.bodies[place], *block.bodies[place + 1 :])
        turned = replace(block, header=all_of.group.n - block.header, bodies=bodies)
        for _ in range(3):
            made = [turned if at == place else one for at, one in enumerate(inputs[0].blocks)]
            all_of.check(all_of.proven(inputs[0].org, made, LENGTH))


def multi_power_by_hand(bases: Any, exponents: Any, modulus: int) -> int:
    result = mpz(1)
    for one, exponent in zip(bases, exponents, strict=True):
        result = result * mpz(pow(int(one), int(exponent), int(modulus))) % modulus
    return result


def test_a_turned_lift_passes_whatever_the_weights_are() -> None:
    """Under an odd weight as under an even one: squares are compared."""
    all_of = parties()
    inputs, group = honest(all_of), all_of.group
    products = lifting.product_of_headers([one.header.headers for one in inputs], group.n)
    lifts = [group.lift(one) for one in products]
    for odd in (0, 1):
        weights = bytes(15) + bytes([odd]) + bytes(15) + b"\2" + bytes(15) + b"\3"
        lifting.check_lifts(group, products, [group.cipher - lifts[0], *lifts[1:]], Fixed(weights))


class Fixed:
    """`ports.Entropy` that gives one answer."""

    def __init__(self, drawn: bytes) -> None:
        self._drawn = drawn

    def take(self, size: int) -> bytes:
        assert size == len(self._drawn)
        return self._drawn


# --- nonces, masks, logarithms ----------------------------------------------------------------------------------------


def test_a_nonce_depends_on_secret_statement_and_draw() -> None:
    """A bad source of randomness alone, or a repeated statement alone, gives no two responses to one nonce."""
    one = nonces.nonce(Seed(bytes(32)), b"statement", 560, Fixed(bytes(64)))
    others = [
        nonces.nonce(Seed(b"\1" * 32), b"statement", 560, Fixed(bytes(64))),
        nonces.nonce(Seed(bytes(32)), b"another", 560, Fixed(bytes(64))),
        nonces.nonce(Seed(bytes(32)), b"statement", 560, Fixed(b"\1" * 64)),
    ]
    assert len({one, *others}) == 4
    assert all(500 < value.bit_length() <= 560 for value in (one, *others))


def test_masks_that_do_not_fit_are_not_spent() -> None:
    all_of = parties()
    narrow, wide = (all_of.encryptor.masks(1, width, all_of.entropy)[0] for width in (2, 3))
    for masks in ([wide], [wide, narrow], [narrow, wide]):
        with pytest.raises(ValueError, match="unused masks"):
            encryption.encrypt_with(all_of.key, masks, [mpz(1)] * 6, Blocks(2, 3))
    assert (narrow.width, wide.width) == (2, 3)


@pytest.mark.parametrize("s", [1, 2])
def test_only_a_power_of_one_plus_n_has_a_logarithm(s: int) -> None:
    group = Group(RSA_2048, s)
    assert group.log(group.one_plus(77)) == 77
    for value in (mpz(2), group.one_plus(77) * 2 % group.cipher, group.cipher - group.one_plus(77), mpz(0)):
        with pytest.raises(ValueError, match="power"):
            group.log(value)


@pytest.mark.parametrize("change", [lambda found: found[:-1], lambda found: [*found, found[0] + 1]])
def test_a_key_has_one_list_of_its_width_for_each_seed(change: Any) -> None:
    key = parties().key
    for one in key.terms.sets:
        with refused("bad_key_list"):
            PublicKey(key.terms, 0, {**key.lists, one: change(list(key.lists[one]))})


def test_equal_lists_in_another_epoch_are_another_key() -> None:
    key = parties().key
    assert PublicKey(key.terms, 0, key.lists).fingerprint == key.fingerprint
    assert PublicKey(key.terms, 1, key.lists).fingerprint != key.fingerprint


# --- proofs of lists --------------------------------------------------------------------------------------------------


def statement_of(width: int) -> tuple[list_proof.Statement, list[int], Seed]:
    seed = FIRST[0].seeds[(1,)]
    secret = holder_lists.exponents(HOLDERS.terms, 0, (1,), seed)[:width]
    values = holder_lists.column_keys(HOLDERS.terms, secret)
    return list_proof.Statement(HOLDERS.terms, HOLDERS.root, 0, (1,), values), secret, seed


def test_a_short_list_with_its_own_proof_is_refused() -> None:
    statement, secret, seed = statement_of(1)
    with refused("bad_list_proof"):
        list_proof.check(statement, list_proof.prove(statement, secret, seed, bytes(64)))


def test_a_commitment_made_after_the_challenges_proves_nothing() -> None:
    """T = g^z / prod h^e satisfies the equation for any z, without an exponent: hence e depends on T."""
    statement, _, _ = statement_of(2)
    g, n = base(Group(RSA_2048, 1)), RSA_2048
    weights = list_proof._challenges(statement, g)
    z = mpz(1) << 500
    others = mpz(1)
    for value, weight in zip(statement.values, weights, strict=True):
        others = others * gmpy2.powmod(value, weight, n) % n
    commitment = gmpy2.powmod(g, z, n) * gmpy2.invert(others, n) % n
    with refused("bad_list_proof"):
        list_proof.check(statement, list_proof.ListProof(commitment, z))


def test_a_negative_response_is_refused_though_its_equation_holds() -> None:
    statement, secret, _ = statement_of(2)
    nonce = -(mpz(1) << 500)
    commitment = gmpy2.powmod(base(Group(RSA_2048, 1)), nonce, RSA_2048)
    weights = list_proof._challenges(statement, commitment)
    response = nonce + sum(e * x for e, x in zip(weights, secret, strict=True))
    assert response < 0
    with refused("bad_list_proof"):
        list_proof.check(statement, list_proof.ListProof(commitment, response))


# --- encodings of records and commitments -----------------------------------------------------------------------------


@pytest.mark.parametrize("signers", [(0, 0, 1), (1, 0, 2), (0, 1, 3), (0, 1, 255)])
def test_signers_of_a_record_ascend_and_are_holders(signers: tuple[int, ...]) -> None:
    record = FIRST[0].record
    head = record.to_bytes()[: -3 * 65]
    signatures = [record.signatures[index % 3] for index in signers]
    tail = b"".join(bytes([index]) + one for index, one in zip(signers, signatures, strict=True))
    with refused("bad_key_message"):
        KeyRecord.from_bytes(head + tail)


def test_a_commitment_and_its_seal_are_of_one_set_dealer_and_recipient() -> None:
    seed, follows = Seed(bytes(32)), bytes(32)
    committed = [contributions.commitment(follows, (a,), d, seed) for a in (0, 1) for d in (1, 2)]
    assert len(set(committed)) == 4
    places = [((0,), 1, 2), ((1,), 1, 2), ((0,), 2, 1), ((0,), 1, 0)]
    assert len({contributions._associated(HOLDERS, *place) for place in places}) == 4
