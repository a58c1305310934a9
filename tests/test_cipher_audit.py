"""The audit of a round under paillier: each lie about product, answers, noise or sum is disputed or proves nothing."""

import functools
from collections.abc import Callable
from dataclasses import replace

import gmpy2
import numpy as np
import pytest
from fedveil_common import audit, cipher_audit
from fedveil_common.errors import PeerError
from fedveil_common.ids import COORDINATOR, OrgId
from fedveil_common.masking.packing import unpack
from fedveil_common.masking.ring import signed
from fedveil_common.messages import BlobType, Result, Vote
from fedveil_common.paillier.block_leaves import read_block, write_block
from fedveil_common.published import LeafKind, PublishedRound
from fedveil_common.ringfile import leaf_length
from fedveil_common.wire import parse_body
from fedveil_common.wire.published import encode_parts, parse_parts
from fedveil_participant import checking
from fedveil_participant.checking import Checker, DownloadedSum
from fedveil_participant.events import OpenedSum
from fedveil_simulation.ports import SeededEntropy

from tests.cipher_rounds import (
    RUN,
    SEED,
    Game,
    Played,
    Stored,
    answer,
    audited,
    code_of,
    house,
    play,
    sum_hashes,
    verified,
)

LENGTH = 17_000


OTHER = bytes(31) + b"\x01"


@pytest.fixture(scope="module")
def played() -> Played:
    """Two leaves of the sum across many blocks, one member dropped, noise of the coordinator."""
    return play(Game(house(), LENGTH, noisy=True))


@pytest.fixture(scope="module")
def small() -> Game:
    """An attempt of a few blocks, for lies that need a round of their own."""
    return Game(house(), 700)


# --- what a coordinator can lie about ---------------------------------------------------------------------------------


def other_body(game: Game, product: Stored, value: Callable[[int], int]) -> Stored:
    block = read_block(product.packed(0), game.shape)
    return Stored(
        [write_block(replace(block, bodies=(value(block.bodies[0]), *block.bodies[1:])), game.shape), *product.all[1:]]
    )


def test_a_false_product_is_disputed(small: Game) -> None:
    """The coordinator adds 1 to a coordinate of the product that it signs: what opened is not what it shows."""
    group = small.home.all_of.group
    audited(play(small))
    lie = play(
        small, bend_product=lambda product: other_body(small, product, lambda c: c * (1 + group.n) % group.cipher)
    )
    proven = verified(lie)
    answered = cipher_audit.download(proven, lie.leaves)
    cipher_audit.check_partials(answered, SEED)
    assert code_of(lambda: cipher_audit.audit_product(answered, [0], lie.leaves)) == "sum_disputed"
    assert code_of(lambda: cipher_audit.audit_sum(answered, sum_hashes(lie))) == "sum_disputed"
    cipher_audit.audit_product(answered, [1, 2], lie.leaves)  # these blocks are right


def test_a_product_that_leaves_an_input_out_is_disputed(small: Game) -> None:
    """Holders who work together with the coordinator answer to the product of three inputs; the sum is of three."""
    lie = play(small, multiplied=lambda inputs: list(inputs.values())[:3])
    answered = cipher_audit.download(verified(lie), lie.leaves)
    cipher_audit.check_partials(answered, SEED)
    assert code_of(lambda: cipher_audit.audit_product(answered, [2], lie.leaves)) == "sum_disputed"
    twice = play(small, multiplied=lambda inputs: [*list(inputs.values())[:3], next(iter(inputs.values()))])
    answered = cipher_audit.download(verified(twice), twice.leaves)
    assert code_of(lambda: cipher_audit.audit_product(answered, [0], twice.leaves)) == "sum_disputed"


def test_noise_left_out_of_the_product_is_disputed() -> None:
    game = Game(house(), 90, noisy=True)
    audited(play(game))
    lie = play(game, multiplied=lambda inputs: [one for org, one in inputs.items() if org != COORDINATOR])
    answered = cipher_audit.download(verified(lie), lie.leaves)
    cipher_audit.check_partials(answered, SEED)
    assert code_of(lambda: cipher_audit.audit_product(answered, [0], lie.leaves)) == "sum_disputed"


def test_a_false_sum_is_disputed(small: Game) -> None:
    lie = play(small, bend_sum=lambda leaves: [bytes([leaves[0][0] ^ 1]) + leaves[0][1:], *leaves[1:]])
    answered = cipher_audit.download(verified(lie), lie.leaves)
    cipher_audit.check_partials(answered, SEED)
    cipher_audit.audit_product(answered, [0, 1, 2], lie.leaves)
    assert code_of(lambda: cipher_audit.audit_sum(answered, sum_hashes(lie))) == "sum_disputed"


def test_holders_who_add_to_the_sum_are_seen(small: Game) -> None:
    """A quorum that works together with the coordinator multiplies its answers by powers of 1+n: the sum that opens is
    another one, and only the proofs show it.
    """
    group = small.home.all_of.group

    def adding(game: Game, t3: bytes, product: Stored, holder: int, quorum: tuple[int, ...]) -> object:
        def change(rows: list[list[int]]) -> list[list[int]]:
            first = list(rows[0])
            first[0] = first[0] * group.one_plus(5 if holder == quorum[0] else 0) % group.cipher
            return [first, *rows[1:]]

        return answer(game, t3, product, holder, quorum, change=change)

    lie = play(small, answered=adding)  # type: ignore[arg-type]
    answered = cipher_audit.download(verified(lie), lie.leaves)
    cipher_audit.audit_product(answered, [0, 1, 2], lie.leaves)
    cipher_audit.audit_sum(answered, sum_hashes(lie))  # without the proofs the lie passes
    with pytest.raises(PeerError) as caught:
        cipher_audit.check_partials(answered, SEED)
    assert caught.value.code == "sum_disputed"
    assert "acme" in caught.value.what


def test_a_lift_that_is_none_is_seen(small: Game) -> None:
    """Product, lifts and answers agree with each other, and a lift has a power of 1+n in it: P2 finds it."""
    group = small.home.all_of.group

    def bent(product: Stored) -> Stored:
        block = read_block(product.packed(1), small.shape)
        false = replace(block, lift=block.lift * (1 + group.n) % group.cipher)
        return Stored([product.packed(0), write_block(false, small.shape), product.packed(2)])

    lie = play(small, bend_product=bent)
    answered = cipher_audit.download(verified(lie), lie.leaves)
    assert code_of(lambda: cipher_audit.check_partials(answered, SEED)) == "sum_disputed"
    for value in (gmpy2.mpz(0), group.n, gmpy2.mpz(1)):
        none = play(small, bend_product=functools.partial(other_lift, small, value))
        answered = cipher_audit.download(verified(none), none.leaves)
        assert code_of(functools.partial(cipher_audit.check_partials, answered, SEED)) == "sum_disputed"
    zero = play(small, bend_product=lambda product: other_body(small, product, lambda c: gmpy2.mpz(0)))
    answered = cipher_audit.download(verified(zero), zero.leaves)
    assert code_of(lambda: cipher_audit.audit_sum(answered, sum_hashes(zero))) == "sum_disputed"


def other_lift(game: Game, value: int, product: Stored) -> Stored:
    block = read_block(product.packed(0), game.shape)
    return Stored([write_block(replace(block, lift=value), game.shape), *product.all[1:]])


@pytest.mark.parametrize("kind", list(LeafKind))
@pytest.mark.parametrize("alter", ["bit", "short", "missing", "swapped", "of another"])
def test_a_leaf_that_is_not_the_signed_one_is_named(played: Played, kind: LeafKind, alter: str) -> None:
    proven = verified(played)
    answered = cipher_audit.download(proven, played.leaves)

    def bent(asked: LeafKind, wanted: object) -> list[tuple[OrgId, int, bytes]]:
        found = played.leaves(asked, wanted)  # type: ignore[arg-type]
        if asked is not kind:
            return found
        org, index, data = found[1]
        match alter:
            case "bit":
                found[1] = (org, index, data[:-1] + bytes([data[-1] ^ 1]))
            case "short":
                found[1] = (org, index, data[:-1])
            case "missing":
                del found[1]
            case "swapped":
                found[0], found[1] = found[1], found[0]
            case _:
                found[1] = (org, index, found[0][2])
        return found

    def act() -> None:
        cipher_audit.audit_product(cipher_audit.download(proven, bent), [0, 1], bent)

    cipher_audit.audit_product(answered, [0, 1], played.leaves)
    with pytest.raises(PeerError) as caught:
        act()
    assert caught.value.code == "round_not_proved"
    assert kind.value in caught.value.what


# --- a participant ----------------------------------------------------------------------------------------------------


class Source:
    """A coordinator that shows what it likes."""

    def __init__(self, one: Played, record: PublishedRound | None = None) -> None:
        self.one, self.record = one, one.record if record is None else record
        self.asked: dict[LeafKind, int] = {}

    def fetch_sum(self, run_id: object, round: int) -> checking.SumDownload:
        raise AssertionError("the sum is there already")

    def fetch_round(self, run_id: object, round: int) -> PublishedRound:
        return parse_parts(encode_parts(self.record))

    def fetch_leaves(
        self, run_id: object, round: int, leaves: object, kind: LeafKind = LeafKind.INPUT
    ) -> list[tuple[OrgId, int, bytes]]:
        found = self.one.leaves(kind, leaves)  # type: ignore[arg-type]
        self.asked[kind] = self.asked.get(kind, 0) + len(found)
        return found


def check(one: Played, record: PublishedRound | None = None, *, audited: bool = True) -> Source:
    source = Source(one, record)
    charter, bits = one.game.home.charter, one.game.manifest.ring_bits
    result = parse_body(BlobType.RESULT, one.record.result.body)
    assert isinstance(result, Result)
    ring = [unpack(leaf, leaf_length(one.game.length, index), bits) for index, leaf in enumerate(one.sums)]
    values = np.concatenate([signed(one_leaf, bits) for one_leaf in ring])
    hashes = tuple(sum_hashes(one).values())
    downloaded = DownloadedSum(one.record.manifest, one.record.result, result, values, values, hashes, 1 << 40, 1)
    checker = Checker(source, SeededEntropy(3, "auditor"), charter.past_roster)
    checker.check(downloaded, OpenedSum(RUN, 1, one.t3), None, audited=audited)
    return source


def test_a_participant_checks_every_answer_and_as_many_blocks_as_the_rule_says(played: Played) -> None:
    blocks = played.game.shape.blocks.count
    asked = check(played).asked
    assert asked[LeafKind.PRODUCT] == blocks
    assert asked[LeafKind.PARTIAL] == 2 * blocks
    assert asked[LeafKind.INPUT] == 5 * audit.thorough_share(3, blocks)
    assert check(played, audited=False).asked == {}


def test_a_participant_refuses_what_an_auditor_refuses(small: Game, played: Played) -> None:
    group = small.home.all_of.group
    check(play(small))
    for lie in (
        play(
            small, bend_product=lambda product: other_body(small, product, lambda c: c * (1 + group.n) % group.cipher)
        ),
        play(small, bend_sum=lambda leaves: [bytes([leaves[0][0] ^ 1]) + leaves[0][1:]]),
        play(small, multiplied=lambda inputs: list(inputs.values())[:3]),
    ):
        assert code_of(lambda lie=lie: check(lie)) == "sum_disputed"  # type: ignore[misc]
    record = played.record
    for forged in (
        replace(record, reveals=record.reveals[:1]),
        replace(record, noise=()),
        replace(record, key_record=b"", key_terms=b""),
        replace(record, result=played.game.home.sign(COORDINATOR, BlobType.RESULT, Vote(OTHER))),
        replace(record, signed_roster=b"{}"),
    ):
        assert code_of(lambda forged=forged: check(played, forged)) == "round_not_proved"  # type: ignore[misc]
