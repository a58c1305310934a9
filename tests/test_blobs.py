"""Files beside the databases: blobs, vectors of ring elements. Rows 15 and 18 of the fault list."""

import errno
import os
import pathlib

import numpy as np
import pytest
from fedveil_common import durable
from fedveil_common.blobs import BlobStore
from fedveil_common.errors import FedveilError, IntegrityError, PeerError, SealedError, StorageError
from fedveil_common.masking.packing import pack
from fedveil_common.masking.ring import Ring, signed, word
from fedveil_common.ringfile import RingFile, RingWriter, leaf_count, read_signed
from fedveil_common.sealer import Sealer
from fedveil_common.secret import Seed
from fedveil_common.transcript import LEAF_COORDINATES
from fedveil_simulation.ports import SeededEntropy

from tests import whole_vectors


def flip(path: pathlib.Path, position: int) -> None:
    data = bytearray(path.read_bytes())
    data[position] ^= 1
    path.write_bytes(data)


# --- blobs ------------------------------------------------------------------------------------------------------------


def test_a_blob_is_what_was_written_and_named_by_its_content(tmp_path: pathlib.Path) -> None:
    store = BlobStore(tmp_path)
    digest = store.put(b"abc")
    assert digest.hex() == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"  # FIPS 180-4, "abc"
    assert store.get(digest) == b"abc"
    assert store.put(b"abc") == digest
    assert [path.name for path in tmp_path.iterdir()] == [digest.hex()]
    assert store.path(digest).stat().st_mode & 0o777 == 0o600
    store.delete(digest)
    store.delete(digest)
    assert list(tmp_path.iterdir()) == []


def test_a_turned_bit_anywhere_in_a_blob_is_found(tmp_path: pathlib.Path) -> None:
    store = BlobStore(tmp_path)
    digest = store.put(b"some bytes")
    for position in range(10):
        flip(store.path(digest), position)
        with pytest.raises(IntegrityError) as caught:
            store.get(digest)
        assert caught.value.code == "blob_damaged"
        assert str(store.path(digest)) in caught.value.what
        flip(store.path(digest), position)
    assert store.get(digest) == b"some bytes"


def test_a_sealed_blob_opens_under_its_key_and_name_alone(tmp_path: pathlib.Path) -> None:
    sealer = Sealer(Seed(bytes(32)), SeededEntropy(1, "blobs"))
    store, in_clear = BlobStore(tmp_path, sealer), BlobStore(tmp_path)
    digest = store.put(b"some bytes")
    path = store.path(digest)
    assert store.get(digest) == b"some bytes"
    assert b"some bytes" not in path.read_bytes()
    with pytest.raises(SealedError) as refusal:
        in_clear.get(digest)
    assert refusal.value.code == "sealed_at_rest"
    for position in range(path.stat().st_size):
        flip(path, position)
        assert damaged(store, digest) == "blob_damaged"
        flip(path, position)
    assert damaged(BlobStore(tmp_path, Sealer(Seed(b"1" * 32), SeededEntropy(1, "blobs"))), digest) == "blob_damaged"
    other = store.put(b"other bytes")
    path.write_bytes(store.path(other).read_bytes())
    assert damaged(store, digest) == "blob_damaged"
    path.write_bytes(b"some bytes")
    assert damaged(store, digest) == "not_sealed_at_rest"


def damaged(store: BlobStore, digest: bytes) -> str:
    with pytest.raises(IntegrityError) as caught:
        store.get(digest)
    assert str(store.path(digest)) in caught.value.what
    return caught.value.code


def test_a_missing_blob_has_a_code_of_its_own(tmp_path: pathlib.Path) -> None:
    with pytest.raises(StorageError) as caught:
        BlobStore(tmp_path).get(bytes(32))
    assert caught.value.code == "blob_missing"


def test_a_full_disk_leaves_no_blob(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = BlobStore(tmp_path)
    real, calls = os.pwrite, 0

    def fail_later(descriptor: int, data: bytes, offset: int) -> int:
        nonlocal calls
        calls += 1
        if calls > 2:
            raise OSError(errno.ENOSPC, "simulated")
        return real(descriptor, bytes(data)[:1], offset)

    monkeypatch.setattr(os, "pwrite", fail_later)
    with pytest.raises(StorageError) as caught:
        store.put(b"123")
    assert caught.value.code == "disk_full"
    assert list(tmp_path.iterdir()) == []
    monkeypatch.undo()
    assert store.get(store.put(b"123")) == b"123"


def test_a_short_write_is_continued(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """pwrite may write less than it was given."""
    real = os.pwrite
    monkeypatch.setattr(os, "pwrite", lambda descriptor, data, offset: real(descriptor, bytes(data)[:3], offset))
    store = BlobStore(tmp_path)
    assert store.get(store.put(b"0123456789")) == b"0123456789"


def test_what_a_crash_left_is_swept(tmp_path: pathlib.Path) -> None:
    store = BlobStore(tmp_path)
    kept, other = store.put(b"kept"), store.put(b"other")
    durable.TemporaryFile(tmp_path).write(b"half of a blob", 0)
    assert len(list(tmp_path.iterdir())) == 3
    again = BlobStore(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {kept.hex(), other.hex()}
    assert again.digests() == sorted((kept, other))


def test_a_discarded_file_takes_no_more_bytes(tmp_path: pathlib.Path) -> None:
    """A late write must not reach a descriptor whose number is another file's by now."""
    file = durable.TemporaryFile(tmp_path)
    file.discard()
    other = durable.TemporaryFile(tmp_path)
    with pytest.raises(ValueError, match="closed"):
        file.write(b"late", 0)
    assert other.commit("other").read_bytes() == b""


def test_a_large_file_goes_to_the_disk_while_it_is_written(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced, real = [], os.fdatasync
    monkeypatch.setattr(durable, "SYNC_BYTES", 100)
    monkeypatch.setattr(durable.os, "fdatasync", lambda number: (synced.append(number), real(number)))
    file = durable.LargeFile(tmp_path)
    parts = [bytes([index]) * 70 for index in range(20)]
    for part in parts:
        file.append(part)
    assert list(tmp_path.iterdir()) == [], "no name before the end"
    assert file.commit("large").read_bytes() == b"".join(parts)
    assert synced
    file.discard()
    assert [path.name for path in tmp_path.iterdir()] == ["large"]
    dropped = durable.LargeFile(tmp_path)
    dropped.append(b"x" * 1000)
    dropped.discard()
    assert [path.name for path in tmp_path.iterdir()] == ["large"]


def test_a_disk_that_failed_on_the_way_fails_the_large_file(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The error is reported once: the last fsync would not see it again."""

    def failed(number: int) -> None:
        raise OSError(errno.EIO, "the disk is gone")

    monkeypatch.setattr(durable, "SYNC_BYTES", 100)
    monkeypatch.setattr(durable.os, "fdatasync", failed)
    file = durable.LargeFile(tmp_path)
    file.append(b"x" * 150)
    with pytest.raises(StorageError, match="disk_failed"):
        file.commit("large")
    file.discard()
    assert list(tmp_path.iterdir()) == []


# --- ring files -------------------------------------------------------------------------------------------------------


def ramp(length: int, bits: int = 32) -> Ring:
    values = np.arange(length, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    return (values >> np.uint64(64 - bits)).astype(word(bits))


@pytest.mark.parametrize("length", [1, LEAF_COORDINATES - 1, LEAF_COORDINATES, LEAF_COORDINATES + 1, 50_000])
@pytest.mark.parametrize("bits", [8, 20, 32, 33, 64])
def test_a_vector_comes_back_leaf_by_leaf(tmp_path: pathlib.Path, length: int, bits: int) -> None:
    values = ramp(length, bits)
    whole_vectors.store(tmp_path / "v", values, bits)
    with RingFile(tmp_path / "v") as file:
        assert (file.length, file.bits, file.leaves) == (length, bits, leaf_count(length))
        assert np.array_equal(file.whole(), values)
        for index in range(file.leaves):
            piece = values[index * LEAF_COORDINATES : (index + 1) * LEAF_COORDINATES]
            assert np.array_equal(file.leaf(index), piece)
            assert file.packed(index) == pack(piece, bits)
        with pytest.raises(ValueError, match="not in a file"):
            file.packed(file.leaves)
    assert np.array_equal(read_signed(tmp_path / "v"), signed(values, bits))


def test_a_turned_bit_in_a_vector_is_found_when_its_leaf_is_read(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "run.1.1.acme"
    whole_vectors.store(path, ramp(50_000), 32)
    flip(path, 4 * LEAF_COORDINATES + 5)
    with RingFile(path) as file:
        assert len(file.leaf(0)) == LEAF_COORDINATES
        with pytest.raises(IntegrityError) as caught:
            file.leaf(1)
    assert caught.value.code == "ring_file_damaged"
    assert "run.1.1.acme" in caught.value.what
    assert "leaf 1" in caught.value.what


@pytest.mark.parametrize("bits", [20, 32])
def test_no_byte_of_a_vector_file_may_change_or_be_missing(tmp_path: pathlib.Path, bits: int) -> None:
    path = tmp_path / "v"
    whole_vectors.store(path, ramp(20, bits), bits)
    good = path.read_bytes()
    for position in range(len(good)):
        for bad in (good[:position] + bytes([good[position] ^ 4]) + good[position + 1 :], good[:position]):
            path.write_bytes(bad)
            with pytest.raises(IntegrityError) as caught:
                read_signed(path)
            assert caught.value.code == "ring_file_damaged"


def test_leaves_come_in_any_order_each_once_and_whole(tmp_path: pathlib.Path) -> None:
    leaf = pack(ramp(LEAF_COORDINATES), 32)
    writer = RingWriter(tmp_path / "v", LEAF_COORDINATES + 2, 32)
    for index, data in ((2, leaf), (-1, leaf), (0, b""), (0, leaf[:-1]), (0, leaf + b"1234"), (1, leaf)):
        with pytest.raises(ValueError, match=f"leaf {index}"):
            writer.write(index, data)
    writer.write(1, leaf[:8])
    writer.write(0, leaf)
    for index, data in ((0, leaf), (1, leaf[:8])):
        with pytest.raises(ValueError, match="twice"):
            writer.write(index, data)
    assert list(tmp_path.glob("v")) == []
    writer.finish()
    assert len(read_signed(tmp_path / "v")) == LEAF_COORDINATES + 2
    half = RingWriter(tmp_path / "w", LEAF_COORDINATES + 2, 32)
    half.write(1, leaf[:8])
    with pytest.raises(ValueError, match="leaf 0 is missing"):
        half.finish()
    assert [path.name for path in tmp_path.iterdir()] == ["v"]


def test_the_first_input_stays(tmp_path: pathlib.Path) -> None:
    def send(data: bytes, bits: int = 32) -> None:
        writer = RingWriter(tmp_path / "v", len(data) * 8 // bits, bits)
        writer.write(0, data)
        writer.finish()

    send(b"1234")
    send(b"1234")
    for data, bits in ((b"1235", 32), (b"12341234", 32), (b"1234", 16)):
        with pytest.raises(PeerError) as caught:
            send(data, bits)
        assert caught.value.code == "input_differs"
    with RingFile(tmp_path / "v") as file:
        assert file.packed(0) == b"1234"
    assert [path.name for path in tmp_path.iterdir()] == ["v"]


def test_an_empty_vector_and_a_missing_one(tmp_path: pathlib.Path) -> None:
    with pytest.raises(ValueError, match="at least one"):
        RingWriter(tmp_path / "v", 0, 32)
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(FedveilError) as caught:
        read_signed(tmp_path / "v")
    assert caught.value.code == "ring_file_missing"
