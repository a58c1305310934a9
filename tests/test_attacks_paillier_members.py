"""Members that encrypt or answer what they should not: named, left out, and the round goes on without them."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace

import gmpy2
import numpy as np
import pytest
from encrypted_attackers import (
    ChangeBlocks,
    ChangeRows,
    bend_answer,
    bend_input,
    facts_called,
    first_round,
    happened,
    listen,
    play,
    quorums,
)
from encrypted_federation import book_of, encrypted_federation, encrypted_plan, wide_plan
from federation import FIVE, RUN, THREE, body_of, expected_sum, parse, resigned, trail
from fedveil_common import transcript, wire
from fedveil_common.errors import PeerError
from fedveil_common.ids import OrgId
from fedveil_common.messages import BlobType, Partial, Proposal, SignedBlob
from fedveil_common.paillier import partial_proof
from fedveil_common.paillier.encryption import Block
from fedveil_common.paillier.public_key import PublicKey
from fedveil_coordinator import ciphers, facts
from fedveil_participant.mask_source import InlineMasks
from fedveil_simulation.cluster import Cluster
from fedveil_simulation.ports import SeededEntropy

CHEAT = FIVE[4]


def body(value: Callable[[PublicKey, int], int]) -> ChangeBlocks:
    """The first ciphertext becomes this."""

    def change(key: PublicKey, blocks: list[Block]) -> list[Block]:
        first = blocks[0]
        made = gmpy2.mpz(value(key, first.bodies[0]))
        return [replace(first, bodies=(made, *first.bodies[1:])), *blocks[1:]]

    return change


def of_another_key(key: PublicKey, blocks: list[Block]) -> list[Block]:
    """Well made, under a key of other seeds."""
    other = book_of(FIVE, FIVE[:4], 3).key
    (mask,) = InlineMasks(other, SeededEntropy(4, "another key")).take(1, len(blocks[0].bodies))
    return [Block(*mask.spend())]


BODIES: dict[str, tuple[ChangeBlocks, str]] = {
    "zero": (body(lambda key, one: 0), "bad_group_element"),
    "n": (body(lambda key, one: key.group.n), "bad_group_element"),
    "no unit": (body(lambda key, one: 7 * key.group.n), "bad_group_element"),
    "beyond n^2": (body(lambda key, one: key.group.cipher + 2), "bad_group_element"),
    "times a number": (body(lambda key, one: 5 * one % key.group.cipher), "bad_input_proof"),
    "of another key": (of_another_key, "bad_input_proof"),
}


@pytest.mark.parametrize("what", BODIES)
def test_attack_45_a_bad_ciphertext_is_named_and_the_others_go_on(monkeypatch: pytest.MonkeyPatch, what: str) -> None:
    """`ciphers.examine_input` on receipt: both equations of P1, canonical units; its sender is not in the proposal."""
    change, code = BODIES[what]
    cluster = encrypted_federation(FIVE, THREE, 2)
    told = listen(cluster)
    bend_input(monkeypatch, CHEAT, change)
    assert first_round(cluster, encrypted_plan()) == FIVE[:4]
    assert told.blamed == {CHEAT: code}
    proposed = [one for one in map(parse, cluster.sent) if isinstance(one, Proposal)]
    assert all(blob.signer_id != CHEAT for one in proposed for blob in one.headers)


def test_a_bad_ciphertext_without_the_check(monkeypatch: pytest.MonkeyPatch) -> None:
    """The twin: it is multiplied, nothing opens, every update of the round is spent and nobody is to blame."""
    cluster = encrypted_federation(FIVE, THREE, 2)
    told = listen(cluster)
    bend_input(monkeypatch, CHEAT, BODIES["times a number"][0])
    monkeypatch.setattr(ciphers.input_proof, "check_bodies", lambda *parts: None)
    assert first_round(cluster, encrypted_plan()) == ()
    assert [fact.reason for fact in facts_called(cluster, facts.AttemptDied)] == ["not_opened"]
    assert not told.blamed


def test_an_overflowing_slot_ends_the_attempt_and_blames_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    """P8: (1+n)^(2^2000) is a proper message; the sum is no sum of honest inputs, and nothing derives from it."""
    cluster = encrypted_federation(FIVE, THREE, 2)
    told = listen(cluster)
    bend_input(monkeypatch, CHEAT, body(lambda key, one: one * key.group.one_plus(1 << 2000) % key.group.cipher))
    assert first_round(cluster, encrypted_plan()) == ()
    assert [fact.reason for fact in facts_called(cluster, facts.AttemptDied)] == ["sum_out_of_range"]
    assert not told.blamed
    assert not facts_called(cluster, facts.Excluded)


def upload_first(cluster: Cluster, cheat: OrgId, kind: BlobType, lies: Sequence[Mapping[str, object]]) -> list[str]:
    """Before its own upload of this kind the cheat sends others, headers with lies over the same leaves: the codes."""
    honest, codes = cluster.upload, []

    def upload(org: OrgId, header: bytes, hashes: tuple[bytes, ...], leaves: Iterable[tuple[int, bytes]]) -> SignedBlob:
        kept, blob = list(leaves), wire.parse_blob(header)
        if org == cheat and blob.type is kind and not codes:
            for lie in lies:
                with pytest.raises(PeerError) as caught:
                    honest(org, wire.encode_blob(resigned(cluster.charter, blob, **lie)), hashes, kept)
                codes.append(caught.value.code)
        return honest(org, header, hashes, kept)

    cluster.upload = upload  # type: ignore[method-assign,assignment]
    return codes


def test_headers_of_another_vector_are_refused_before_any_leaf() -> None:
    """`_cipher_shape` and `Intake`: nothing is written under them; their sender is not out, and sends what is due."""
    cluster = encrypted_federation(THREE, THREE, 2)
    lies: dict[str, tuple[object, str]] = {
        "length": (11, "wrong_shape"),
        "blocks": (2, "wrong_shape"),
        "width": (2, "wrong_shape"),
        "fingerprint": (b"\1" * 32, "wrong_key"),
        "t2": (b"\2" * 32, "wrong_transcript"),
        "org_id": (THREE[0], "wrong_transcript"),
        "leaf_root": (b"\3" * 32, "wrong_leaf_root"),
    }
    sent = [{field: value} for field, (value, _) in lies.items()]
    codes = upload_first(cluster, THREE[2], BlobType.CIPHER_HEADER, sent)
    assert first_round(cluster, encrypted_plan()) == THREE
    assert codes == [code for _, code in lies.values()]


# --- answers ----------------------------------------------------------------------------------------------------------


def times_one_plus(key: PublicKey, rows: list[list[int]]) -> list[list[int]]:
    """The free check c = D mod n does not see it."""
    return [[rows[0][0] * key.group.one_plus(7) % key.group.cipher, *rows[0][1:]], *rows[1:]]


def offset(key: PublicKey, rows: list[list[int]]) -> list[list[int]]:
    """Two errors that cancel each other where both have the same weight."""
    plus, minus, cipher = key.group.one_plus(7), key.group.one_plus(-7), key.group.cipher
    return [[rows[0][0] * plus % cipher], [rows[1][0] * minus % cipher], *rows[2:]]


ANSWERS: dict[str, tuple[ChangeRows, str]] = {
    "times (1+n)^7": (times_one_plus, "bad_partial"),
    "two that cancel": (offset, "bad_partial"),
    "rows swapped": (lambda key, rows: [rows[1], rows[0], *rows[2:]], "bad_partial"),
    "zero": (lambda key, rows: [[gmpy2.mpz(0)], *rows[1:]], "bad_group_element"),
}


@pytest.mark.parametrize("what", ANSWERS)
def test_a_wrong_answer_is_named_and_another_holder_answers(monkeypatch: pytest.MonkeyPatch, what: str) -> None:
    """`ciphers.examine_partial` (P3, weights from a hash of the whole answer): excluded, replaced, the sum is exact."""
    plan, (change, code) = wide_plan(), ANSWERS[what]
    cluster = encrypted_federation(THREE, THREE, 2, plan=plan, columns=1)
    told = listen(cluster)
    bend_answer(monkeypatch, THREE[0], change)
    assert first_round(cluster, plan) == THREE
    assert told.blamed == {THREE[0]: code}
    assert quorums(cluster) == [(0, 1), (1, 2)]


def until_disputed(cluster: Cluster) -> None:
    """The coordinator signs a false sum: every member finds it, and the run is over there."""
    play(cluster, lambda: all("sum_disputed" in trail(cluster, org) for org in THREE))
    assert all("sum_disputed" in trail(cluster, org) for org in THREE)


def test_a_wrong_answer_without_the_check_is_found_by_everyone_else(monkeypatch: pytest.MonkeyPatch) -> None:
    """The twin: the coordinator opens a false sum; that is what every member's own audit of the answers is for."""
    cluster = encrypted_federation(THREE, THREE[:2], 2)
    bend_answer(monkeypatch, THREE[0], times_one_plus)
    monkeypatch.setattr(ciphers, "examine_partial", lambda *parts: None)
    cluster.start_run(RUN, encrypted_plan())
    play(cluster, lambda: happened(cluster, "SumOpened"))
    assert not np.array_equal(cluster.memory.read_sum(RUN, 1), expected_sum(cluster, 1))
    until_disputed(cluster)


def test_errors_that_cancel_need_weights_that_are_known(monkeypatch: pytest.MonkeyPatch) -> None:
    """The twin of `two that cancel`: with one weight for all blocks the proof holds and the sum is false."""
    plan = wide_plan()
    cluster = encrypted_federation(THREE, THREE[:2], 2, plan=plan, columns=1)
    told = listen(cluster)
    words = partial_proof.words
    monkeypatch.setattr(
        partial_proof, "words", lambda label, *rest: [1] * rest[1] if label == "partial/rho" else words(label, *rest)
    )
    bend_answer(monkeypatch, THREE[0], offset)
    cluster.start_run(RUN, plan)
    play(cluster, lambda: happened(cluster, "SumOpened", "AttemptDied"))
    assert happened(cluster, "SumOpened")
    assert not told.blamed
    assert not np.array_equal(cluster.memory.read_sum(RUN, 1), expected_sum(cluster, 1))


def test_answers_to_another_question_are_refused() -> None:
    """`_partial_shape`: another T3, another holder, quorums that were not called."""
    cluster = encrypted_federation(THREE, THREE, 2)
    lies = [{"t3": b"\3" * 32}, {"org_id": THREE[1]}, {"quorum": (0, 2)}, {"quorum": (1, 2)}]
    codes = upload_first(cluster, THREE[0], BlobType.PARTIAL, lies)
    assert first_round(cluster, encrypted_plan()) == THREE
    assert codes == ["wrong_transcript"] * 2 + ["answer_not_expected"] * 2


def test_a_second_answer_for_the_same_quorum_is_refused() -> None:
    """The spool: the first leaves stay, so a different second answer has none; the same bytes again are no offence."""
    cluster = encrypted_federation(THREE, THREE, 2)
    honest, codes = cluster.upload, []

    def upload(org: OrgId, header: bytes, hashes: tuple[bytes, ...], leaves: Iterable[tuple[int, bytes]]) -> SignedBlob:
        kept, blob = list(leaves), wire.parse_blob(header)
        receipt = honest(org, header, hashes, kept)
        if blob.type is BlobType.PARTIAL and org == THREE[0]:
            body, other = body_of(blob), [bytes(len(data)) for _, data in kept]
            assert isinstance(body, Partial)
            told = tuple(transcript.partial_leaf(body.t3, org, body.quorum, n, data) for n, data in enumerate(other))
            lie = resigned(cluster.charter, blob, leaf_root=transcript.leaf_root(told))
            with pytest.raises(PeerError) as caught:
                honest(org, wire.encode_blob(lie), told, enumerate(other))
            codes.append(caught.value.code)
            assert honest(org, header, hashes, kept) == receipt
        return receipt

    cluster.upload = upload  # type: ignore[method-assign,assignment]
    assert first_round(cluster, encrypted_plan()) == THREE
    assert codes == ["input_differs"]
