"""Inputs, their product and holders' answers at rest: spooled, kept and let go together.

Durability is that of `test_leaf_files`; here it is where the journals of both sides put them, and for how long.
"""

import contextlib
import hashlib
import os
import pathlib

import pytest
from fedveil_common.errors import PeerError, StorageError
from fedveil_common.ids import AttemptKey, OrgId, RunId
from fedveil_common.leafshape import BlockShape, RingShape
from fedveil_common.leafspool import Announced
from fedveil_coordinator.store import open_store
from fedveil_participant.events import Changes
from fedveil_participant.store import ParticipantStore
from fedveil_simulation.journals import CoordinatorMemory, ParticipantMemory
from fedveil_simulation.ports import SimulatedClock

from tests.test_coordinator_store import (
    ACME,
    BETA,
    KEY,
    LEAF,
    OTHER,
    RUN,
    Open,
    content,
    fill,
    has_input,
    opened,
    reopen,
    spool,
    write,
)
from tests.test_participant_store import KEY as TWO
from tests.test_participant_store import PREPARING, home
from tests.test_participant_store import Open as OpenMember
from tests.test_participant_store import opened as member
from tests.test_participant_store import reopen as reopen_member

__all__ = ["home", "member", "opened"]


def of_blocks(shape: BlockShape, identity: bytes) -> Announced:
    """A commitment that any bytes fulfil."""
    return Announced(shape, hashlib.sha256(identity).digest(), lambda index, data: True)


# --- the coordinator --------------------------------------------------------------------------------------------------


def test_inputs_of_opened_rounds_are_kept_until_they_are_too_many(tmp_path: pathlib.Path) -> None:
    """Whole rounds go, the oldest first, never the last; other attempts and other runs are left alone."""
    size = len(LEAF) + 4 + 20
    store = open_store(tmp_path / "home", SimulatedClock(), create=True, keep_bytes=4 * size)
    with contextlib.closing(store):
        for number in (1, 2, 3):
            for org in (ACME, BETA):
                spool(store, AttemptKey(RUN, number, 2), org, LEAF)
            spool(store, AttemptKey(RUN, number, 1), ACME, LEAF)
            store.journal.keep_inputs(AttemptKey(RUN, number, 2), (ACME, BETA))
            store.journal.keep_inputs(AttemptKey(RUN, number, 2), (ACME, BETA))  # said again after a restart
            os.utime(tmp_path / "home" / "inputs" / f"{RUN}.{number}.{ACME}", ns=(number, number))
            os.utime(tmp_path / "home" / "inputs" / f"{RUN}.{number}.{BETA}", ns=(number, number))
        kept = [name.name for name in sorted((tmp_path / "home" / "inputs").iterdir())]
        assert kept == [f"{RUN}.{number}.{org}" for number in (2, 3) for org in (ACME, BETA)]
        with contextlib.closing(store.journal.kept_input(RUN, 3, BETA)) as source:
            assert bytes(source.packed(0)) == LEAF
        with pytest.raises(StorageError) as caught:
            store.journal.kept_input(RUN, 1, BETA)
        assert caught.value.code == "ring_file_missing"
        assert has_input(store, AttemptKey(RUN, 3, 1), ACME), "another attempt is not touched"
    store = open_store(tmp_path / "home", SimulatedClock(), keep_bytes=0)
    with contextlib.closing(store):
        spool(store, AttemptKey(OTHER, 1, 1), ACME, LEAF)
        store.journal.keep_inputs(AttemptKey(OTHER, 1, 1), (ACME,))
        assert [name.name for name in (tmp_path / "home" / "inputs").iterdir()] == [f"{OTHER}.1.{ACME}"]


def test_what_opened_a_round_is_kept_with_its_inputs_and_goes_with_them(tmp_path: pathlib.Path) -> None:
    """The answers of the quorum that opened, and no others; whole rounds go, product and answers counted."""
    shape, quorum, holders = BlockShape(2, 50), (0, 2), (ACME, BETA)
    block = bytes(50)
    size = 2 * (50 + 4) + 20
    store = open_store(tmp_path / "home", SimulatedClock(), create=True, keep_bytes=2 * 5 * size)
    journal, kept = store.journal, tmp_path / "home" / "inputs"
    with contextlib.closing(store):
        for number in (1, 2, 3):
            key = AttemptKey(RUN, number, 1)
            for org in holders:
                fill(journal.spool(key, org, of_blocks(shape, b"input")), block, block)
                fill(journal.spool_answer(key, org, quorum, of_blocks(shape, b"answer")), block, block)
            fill(journal.spool_answer(key, ACME, (0, 1), of_blocks(shape, b"other")), block, block)
            write(journal.new_product(key, shape), block, block)
            assert content(journal.open_product(key)) == (shape, block, block)
            assert content(journal.open_answer(key, ACME, (0, 1))) == (shape, block, block)
            for _ in range(2):  # said again after a restart
                journal.keep_inputs(key, holders, quorum, holders)
            for path in kept.glob(f"{RUN}.{number}.*"):
                os.utime(path, ns=(number, number))
            assert list((tmp_path / "home" / "spool").iterdir()) == []
        names = ("+product", ACME, f"{ACME}+answer", BETA, f"{BETA}+answer")
        assert sorted(path.name for path in kept.iterdir()) == [f"{RUN}.{n}.{name}" for n in (2, 3) for name in names]
        assert content(journal.kept_product(RUN, 3)) == content(journal.kept_answer(RUN, 3, BETA))
        for gone in (lambda: journal.kept_product(RUN, 1), lambda: journal.kept_answer(RUN, 1, ACME)):
            with pytest.raises(StorageError) as caught:
                gone()
            assert caught.value.code == "ring_file_missing"


@pytest.mark.parametrize("first", ["inputs", "product", "answers"])
def test_a_crash_while_inputs_are_kept_loses_none_of_them(opened: Open, first: str, tmp_path: pathlib.Path) -> None:
    """Whatever was moved before it, saying it again moves the rest."""
    store, shape, block = opened(create=True), BlockShape(1, 8), b"8 bytes."
    fill(store.journal.spool(KEY, ACME, of_blocks(shape, b"input")), block)
    fill(store.journal.spool_answer(KEY, BETA, (1, 2), of_blocks(shape, b"answer")), block)
    write(store.journal.new_product(KEY, shape), block)
    spooled, kept = tmp_path / "home" / "spool", tmp_path / "home" / "inputs"
    moved = {"inputs": ("acme", "acme"), "product": ("+product",) * 2, "answers": ("beta+answer-1-2", "beta+answer")}
    (spooled / f"{RUN}.1.1.{moved[first][0]}").rename(kept / f"{RUN}.1.{moved[first][1]}")
    journal = reopen(store, opened).journal
    journal.keep_inputs(KEY, (ACME,), (1, 2), (BETA,))
    for source in (journal.kept_input(RUN, 1, ACME), journal.kept_product(RUN, 1), journal.kept_answer(RUN, 1, BETA)):
        assert content(source) == (shape, block)


def test_answers_arrive_as_inputs_do(opened: Open, tmp_path: pathlib.Path) -> None:
    """Resumed after a crash, the first one stays, in a place of its own; gone with the attempt."""
    store, shape, longest = opened(create=True), BlockShape(3, 1000), tuple(range(12))
    leaves = [bytes([number]) * 1000 for number in range(3)]
    key = AttemptKey(RunId("r" * 64), 2**32 - 1, 2**16)
    org = OrgId("o" * 64)
    committed = Announced(shape, b"i" * 32, lambda index, data: data == leaves[index])
    writer = store.journal.spool_answer(key, org, longest, committed)
    writer.write(0, leaves[0])
    with pytest.raises(ValueError, match="cannot have"):
        writer.write(1, leaves[1][1:])
    writer.write(1, leaves[1])
    writer.close()
    store = reopen(store, opened)
    with pytest.raises(PeerError) as caught:
        store.journal.spool_answer(key, org, longest, of_blocks(shape, b"another"))
    assert caught.value.code == "input_differs"
    assert "another answer" in caught.value.what
    store.journal.spool_answer(key, org, longest[:3], of_blocks(shape, b"another")).close()
    store.journal.spool(key, org, of_blocks(shape, b"another")).close()
    again = store.journal.spool_answer(key, org, longest, committed)
    assert again.first_missing == 2
    fill(again, *leaves)
    assert content(store.journal.open_answer(key, org, longest)) == (shape, *leaves)
    late = store.journal.spool_answer(key, org, longest[:3], of_blocks(shape, b"another"))
    store.journal.discard_inputs(key)
    for leaf, index in ((leaves[0], 0), (leaves[1], 1), (leaves[2], 2)):
        late.write(index, leaf)
    with pytest.raises(PeerError) as caught:
        late.finish()
    late.close()
    assert caught.value.code == "input_not_expected"
    assert list((tmp_path / "home" / "spool").iterdir()) == []


def test_a_product_is_made_once_unless_it_is_replaced(opened: Open) -> None:
    for journal in (opened(create=True).journal, CoordinatorMemory()):
        for source in (lambda: journal.open_product(KEY), lambda: journal.open_answer(KEY, ACME, (0, 1))):  # noqa: B023
            with pytest.raises(StorageError) as missing:
                source()
            assert missing.value.code == "ring_file_missing"
        write(journal.new_product(KEY, BlockShape(1, 4)), b"1234")
        write(journal.new_product(KEY, BlockShape(1, 4)), b"1234")
        with pytest.raises(PeerError) as caught:
            write(journal.new_product(KEY, BlockShape(1, 4)), b"1235")
        assert caught.value.code == "input_differs"
        with pytest.raises(PeerError) as caught:  # the same bytes as ring elements are another product
            write(journal.new_product(KEY, RingShape(1, 32)), b"1234")
        assert caught.value.code == "input_differs"
        write(journal.new_product(KEY, BlockShape(1, 4)), b"1235", replace=True)
        assert content(journal.open_product(KEY)) == (BlockShape(1, 4), b"1235")


# --- a participant ----------------------------------------------------------------------------------------------------


BLOCKS, TWO_BLOCKS = (b"a" * 300, b"b" * 300), BlockShape(2, 300)
QUORUMS = ((0, 1), (0, 11))


def write_encrypted(store: ParticipantStore | ParticipantMemory, key: AttemptKey) -> None:
    """An input of blocks, and an answer for each quorum."""
    write(store.new_blocks(key, TWO_BLOCKS), *BLOCKS, replace=True)
    for quorum in QUORUMS:
        write(store.new_answer(key, quorum, TWO_BLOCKS), *BLOCKS, replace=True)


def check_encrypted(store: ParticipantStore | ParticipantMemory, key: AttemptKey) -> None:
    """They are there until they are discarded."""
    for source in (store.open_input(key), *(store.open_answer(key, quorum) for quorum in QUORUMS)):
        with contextlib.closing(source):
            assert source.shape == TWO_BLOCKS
            assert tuple(bytes(source.packed(index)) for index in range(source.leaves)) == BLOCKS
    with pytest.raises(StorageError) as never:
        store.open_answer(key, (0, 2))
    assert never.value.code == "answer_gone"
    store.discard_input(key)
    store.discard_input(key)
    check_gone(store, key)


def check_gone(store: ParticipantStore | ParticipantMemory, key: AttemptKey) -> None:
    with pytest.raises(StorageError) as caught:
        store.open_input(key)
    assert caught.value.code == "input_gone"
    for quorum in QUORUMS:
        with pytest.raises(StorageError) as caught:
            store.open_answer(key, quorum)
        assert caught.value.code == "answer_gone"


def test_an_encrypted_input_and_the_answers_stay_until_they_are_discarded(member: OpenMember) -> None:
    """Those of the open attempt also over a restart, which sweeps the others. The twin in memory does the same."""
    other, twin = AttemptKey(RUN, 2, 11), ParticipantMemory()
    write_encrypted(twin, TWO)
    check_encrypted(twin, TWO)
    store = member(create=True)
    store.save(TWO, PREPARING, "dealers", (), Changes())
    write_encrypted(store, TWO)
    write_encrypted(store, other)
    store = reopen_member(store, member)
    check_gone(store, other)
    check_encrypted(store, TWO)


def test_discarding_an_input_leaves_the_answers_of_other_attempts(member: OpenMember, tmp_path: pathlib.Path) -> None:
    store = member(create=True)
    for attempt in (1, 11):
        write(store.new_answer(AttemptKey(RUN, 2, attempt), (0, 1), BlockShape(1, 4)), b"1234", replace=True)
    store.discard_input(AttemptKey(RUN, 2, 1))
    assert [path.name for path in (tmp_path / "home" / "inputs").iterdir()] == [f"{RUN}.2.11+answer-0-1"]
