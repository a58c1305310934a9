"""Attack 31 on the disk: no damaged upload changes a byte of what the coordinator keeps, and the leaf is named.

The streams are those of `test_attacks_members`, three leaves each, through the production intake into the production
store, as the edge does it; beside them lies another member's whole input, from which the sum will be made. The hash
over every file of the folder is the same before and after; then the honest upload is taken, and changes it.
"""

import contextlib
import hashlib
from collections.abc import Iterator
from pathlib import Path

import pytest
from federation import FIVE
from fedveil_common.errors import PeerError
from fedveil_common.ids import AttemptKey, RunId
from fedveil_common.leafshape import RingShape
from fedveil_common.leafspool import Announced
from fedveil_common.messages import BlobType, SignedBlob
from fedveil_coordinator.intake import Intake, due
from fedveil_coordinator.store import CoordinatorStore, open_store
from fedveil_simulation.ports import SimulatedClock
from test_attacks_members import BAD, BITS, HASHES, LEAVES, LENGTH, STREAMS, header

KEY = AttemptKey(RunId("run-1"), 1, 1)
OTHER = FIVE[0]


@pytest.fixture
def store(tmp_path: Path) -> Iterator[CoordinatorStore]:
    made = open_store(tmp_path, SimulatedClock(), create=True)
    writer = made.journal.spool(KEY, OTHER, Announced(RingShape(LENGTH, BITS), bytes(32), lambda index, data: True))
    for index, leaf in enumerate(LEAVES):
        writer.write(index, leaf)
    writer.finish()
    writer.close()
    yield made
    made.close()


def digest(folder: Path) -> bytes:
    """Over the names and contents of all files but parts, of which the next upload of the same input goes on."""
    made = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        if path.is_file() and path.suffix != ".part":
            made.update(str(path.relative_to(folder)).encode() + b"\0" + path.read_bytes())
    return made.digest()


def upload(store: CoordinatorStore, stream: list[tuple[int, bytes]], *, whole: bool = False) -> None:
    """What the edge does with an upload: each leaf checked and written, then in its place. `whole`: all of the stream
    is sent, and not only what is missing.
    """
    blob = SignedBlob(BAD, BlobType.HEADER, b"the header", bytes(64))
    intake = Intake(due(header(), None), HASHES)
    spool = store.journal.spool(KEY, BAD, intake.announced(blob))
    try:
        first = spool.first_missing
        intake.begin(first, spool.write)
        for index, leaf in stream:
            if whole or index >= first:
                intake.take(index, [leaf])
        intake.complete()
        spool.finish()
    finally:
        spool.close()


def part_of(folder: Path) -> bytes:
    """What of the input of BAD has come."""
    return b"".join(path.read_bytes() for path in (folder / "spool").glob("*.part"))


def summed(store: CoordinatorStore) -> list[bytes]:
    """The leaves from which the other member's part of the sum is made."""
    with contextlib.closing(store.journal.open_input(KEY, OTHER)) as source:
        return [source.packed(index) for index in range(len(LEAVES))]


@pytest.mark.parametrize(("stream", "code", "leaf"), STREAMS.values(), ids=STREAMS)
def test_attack_31_a_damaged_upload_changes_no_byte_on_disk(
    store: CoordinatorStore, tmp_path: Path, stream: list[tuple[int, bytes]], code: str, leaf: str
) -> None:
    before = digest(tmp_path)
    with pytest.raises(PeerError) as caught:
        upload(store, stream, whole=True)
    assert (caught.value.code, caught.value.peer) == (code, BAD)
    assert f"leaf {leaf}" in caught.value.what
    assert digest(tmp_path) == before
    assert b"".join(map(bytes, LEAVES)).startswith(part_of(tmp_path)), "only leaves that are right are there"
    assert summed(store) == LEAVES
    upload(store, [*enumerate(LEAVES)])
    assert digest(tmp_path) != before, "the honest one is kept"
    assert store.journal.spool_path(KEY, BAD).exists()
    again = digest(tmp_path)
    upload(store, [*enumerate(LEAVES)])
    assert digest(tmp_path) == again, "the same once more changes nothing"
    assert summed(store) == LEAVES
