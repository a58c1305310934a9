"""Masked inputs on their way in at the coordinator: what came stays, is believed only as far as it matches, and is
replaced by nobody.
"""

import contextlib
import dataclasses
import errno
import os
import pathlib

import pytest
from fedveil_common.errors import IntegrityError, PeerError, StorageError
from fedveil_common.ids import OrgId
from fedveil_common.leafspool import LeafSpool
from fedveil_common.ringfile import residues
from fedveil_coordinator.store import CoordinatorStore

from tests.test_coordinator_store import ACME, KEY, LEAF, Open, announced, has_input, opened, reopen, spool, whole_input

__all__ = ["opened"]


def begun(store: CoordinatorStore, *leaves: bytes) -> LeafSpool:
    """An input of `leaves` and one more, of which `leaves` have arrived."""
    writer = store.journal.spool(KEY, ACME, announced(*leaves, b"last"))
    for index, leaf in enumerate(leaves):
        writer.write(index, leaf)
    return writer


def part_of(home: pathlib.Path) -> pathlib.Path:
    (part,) = (home / "spool").iterdir()
    assert part.name.endswith(".part")
    return part


@pytest.mark.parametrize("restart", [False, True])
def test_a_half_received_input_goes_on_from_its_first_missing_leaf(
    opened: Open, tmp_path: pathlib.Path, restart: bool
) -> None:
    store = opened(create=True)
    begun(store, LEAF, LEAF[::-1]).close()
    if restart:
        store = reopen(store, opened)
    assert not has_input(store, KEY, ACME)
    again = store.journal.spool(KEY, ACME, announced(LEAF, LEAF[::-1], b"last"))
    assert again.first_missing == 2
    for index in (0, 1, 3):
        with pytest.raises(ValueError, match="missing"):
            again.write(index, b"last")
    again.write(2, b"last")
    again.finish()
    again.close()
    assert whole_input(store.journal, KEY, ACME).tobytes() == LEAF + LEAF[::-1] + b"last"
    assert [path.name for path in (tmp_path / "home/spool").iterdir()] == ["run-1.1.1.acme"]


def test_only_leaves_that_still_match_are_believed_after_a_restart(opened: Open, tmp_path: pathlib.Path) -> None:
    """A torn last leaf, a changed one, and what stands behind it are asked for again; what is stored ends there."""
    for change, believed in (
        (lambda data: data, 3),
        (lambda data: data[:-1], 2),
        (lambda data: data[:70_000] + bytes([data[70_000] ^ 1]) + data[70_001:], 1),
        (lambda data: b"", 0),
        (lambda data: data + b"lost footer", 3),
    ):
        store = opened(create=not (tmp_path / "home").exists())
        begun(store, LEAF, LEAF, LEAF).close()
        part = part_of(tmp_path / "home")
        part.write_bytes(change(part.read_bytes()))
        store = reopen(store, opened)
        again = store.journal.spool(KEY, ACME, announced(LEAF, LEAF, LEAF, b"last"))
        assert again.first_missing == believed
        assert part.stat().st_size == believed * len(LEAF)
        again.close()
        store.journal.discard_inputs(KEY)
        assert list((tmp_path / "home/spool").iterdir()) == []
        store.close()


def test_another_header_cannot_take_the_place_of_a_half_received_input(opened: Open, tmp_path: pathlib.Path) -> None:
    """Nor can one member fill the disk with parts. The identity in the name is what stops it."""
    store = opened(create=True)
    begun(store, LEAF).close()
    before = part_of(tmp_path / "home").read_bytes()
    for attack in (announced(LEAF[::-1], b"last"), announced(LEAF, b"last", identity=b"other")):
        with pytest.raises(PeerError) as caught:
            store.journal.spool(KEY, ACME, attack)
        assert caught.value.code == "input_differs"
        assert part_of(tmp_path / "home").read_bytes() == before
    other = store.journal.spool(KEY, OrgId("borealis"), announced(LEAF[::-1], b"last"))  # its own place
    assert other.first_missing == 0
    other.close()
    # with that check replaced, the other vector is taken and the verified leaf is gone
    store.journal._checks.clear()
    same = dataclasses.replace(announced(LEAF[::-1], b"last"), identity=announced(LEAF, b"last").identity)
    again = store.journal.spool(KEY, ACME, same)
    assert again.first_missing == 0
    again.close()


def test_a_closed_spool_takes_no_leaf_and_one_whose_attempt_is_over_is_not_finished(opened: Open) -> None:
    store = opened(create=True)
    spooling = begun(store, LEAF)
    spooling.close()
    spooling.close()
    with pytest.raises(ValueError, match="closed"):
        spooling.write(1, b"last")
    again = store.journal.spool(KEY, ACME, announced(LEAF, b"last"))
    with pytest.raises(ValueError, match="missing"):
        again.finish()
    store.journal.discard_inputs(KEY)
    again.write(1, b"last")
    with pytest.raises(PeerError) as caught:
        again.finish()
    again.close()
    assert caught.value.code == "input_not_expected"
    assert not has_input(store, KEY, ACME)


def test_a_disk_that_is_full_keeps_the_leaves_that_came(opened: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    store = opened(create=True)
    spooling = begun(store, LEAF)

    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, "no space")

    with monkeypatch.context() as patched:
        patched.setattr(os, "pwrite", full)
        with pytest.raises(StorageError) as caught:
            spooling.write(1, b"last")
    assert caught.value.code == "disk_full"
    assert spooling.first_missing == 1
    spooling.write(1, b"last")
    spooling.finish()
    spooling.close()


def test_a_turned_bit_in_a_spooled_input_names_run_and_member(opened: Open) -> None:
    store = opened(create=True)
    spool(store, KEY, ACME, LEAF, LEAF)
    path = store.journal.spool_path(KEY, ACME)
    data = bytearray(path.read_bytes())
    data[70_000] ^= 1
    path.write_bytes(data)
    with contextlib.closing(store.journal.open_input(KEY, ACME)) as source:
        assert len(residues(source, 0)) == 16_384  # the leaf before it is whole
        with pytest.raises(IntegrityError) as caught:
            residues(source, 1)
    assert caught.value.code == "ring_file_damaged"
    assert "run-1.1.1.acme" in caught.value.what
