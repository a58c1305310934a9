"""Leaf files of both shapes, in clear and sealed: the same promises for packed residues and for blocks of ciphertexts.

The bytes of ring files are those of the release that knew no other shape; the fixtures were written by it.
"""

import contextlib
import hashlib
import os
import pathlib

import numpy as np
import pytest
from fedveil_common import limits
from fedveil_common.errors import FedveilError, IntegrityError, PeerError
from fedveil_common.leaffile import LeafFile, LeafWriter
from fedveil_common.leafform import LeafSeal
from fedveil_common.leafshape import BlockShape, RingShape, Shape, shape_of
from fedveil_common.leafspool import Announced, LeafSpool
from fedveil_common.masking import masks
from fedveil_common.masking.ring import Ring, word
from fedveil_common.ringfile import RingFile, read_signed, residues
from fedveil_common.secret import Seed
from fedveil_common.transcript import LEAF_COORDINATES
from fedveil_simulation.ports import SeededEntropy
from hypothesis import given
from hypothesis import strategies as st

from tests.reference import sealed_leaves

RINGS = {
    (1, 8): "008def02d2010000000000000008000000465652494e473032",
    (3, 32): "00000000b979379e72f36e3c4faf701e030000000000000020000000465652494e473032",
    (9, 20): ("000077e3efc666aade8d5671cd544538bc1bf009030d07010b05aa69d940090000000000000014000000465652494e473032"),
    (2, 64): "0000000000000000157c4a7fb979379ee9dc839a020000000000000040000000465652494e473032",
}
LONG_RINGS = {
    (16_389, 33): "419445636a0853d6ccb7c5be2b6a68bbf465e82a82a75e983b281895ab8a9743",
    (50_000, 20): "83374488e84478fdf623bab6ea29fa5318a0dfb610305d0b45771f7bcb93d38e",
}
BLOCKS = "616263646566c241243561e1c40c0200000000000000030000004656424c434b3031"

SMALL: list[Shape] = [RingShape(20, 20), RingShape(5, 32), BlockShape(3, 7), BlockShape(1, 1)]
LARGE: list[Shape] = [RingShape(2 * LEAF_COORDINATES + 5, 20), BlockShape(3, 50_000)]

SHAPES = st.one_of(
    st.builds(RingShape, st.integers(1, limits.MAX_LENGTH), st.integers(8, 64)),
    st.builds(BlockShape, st.integers(1, limits.MAX_LEAVES), st.integers(1, limits.MAX_LEAF)),
)


def a_seal(*context: bytes, key: int = 7) -> LeafSeal:
    return LeafSeal(Seed(bytes([key]) * 32), SeededEntropy(1, "seals"), context or (b"v",))


class _Now:
    """How files are kept in this test."""

    seal: LeafSeal | None = None


@pytest.fixture(params=[False, True], ids=["in clear", "sealed"])
def at_rest(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> LeafSeal | None:
    """The test runs twice."""
    monkeypatch.setattr(_Now, "seal", a_seal() if request.param else None)
    return _Now.seal


def ramp(length: int, bits: int) -> Ring:
    values = np.arange(length, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    return (values >> np.uint64(64 - bits)).astype(word(bits))


def leaves_of(shape: Shape, seed: int = 1) -> list[bytes]:
    """Some leaves of that shape."""
    if isinstance(shape, RingShape):
        values = np.random.default_rng(seed).integers(0, 2**shape.bits, shape.length, dtype=np.uint64)
        return [bytes(leaf) for _, leaf in masks.leaves(values.astype(word(shape.bits)), shape.bits)]
    return [np.random.default_rng((seed, index)).bytes(shape.size(index)) for index in range(shape.leaves)]


def write(path: pathlib.Path, shape: Shape, leaves: list[bytes], *, replace: bool = False) -> None:
    writer = LeafWriter(path, shape, _Now.seal)
    for index, leaf in enumerate(leaves):
        writer.write(index, leaf)
    writer.finish(replace=replace)


def spool(path: pathlib.Path, shape: Shape, leaves: list[bytes], upto: int | None = None) -> list[int]:
    """What is missing arrives, before leaf `upto` only if it is given; which leaves came."""
    with contextlib.closing(LeafSpool(path, committed(shape, leaves), [], seal=_Now.seal)) as spooling:
        came = list(range(spooling.first_missing, len(leaves) if upto is None else upto))
        for index in came:
            spooling.write(index, leaves[index])
        if upto is None:
            spooling.finish()
    return came


def committed(shape: Shape, leaves: list[bytes]) -> Announced:
    identity = hashlib.sha256(shape.trailer + b"".join(leaves)).digest()
    return Announced(shape, identity, lambda index, data: data == leaves[index])


def read(path: pathlib.Path) -> tuple[Shape, list[bytes]]:
    with LeafFile(path, _Now.seal) as file:
        return file.shape, [bytes(file.packed(index)) for index in range(file.leaves)]


# --- the bytes --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("length", "bits"), RINGS)
def test_ring_files_have_the_bytes_that_they_always_had(tmp_path: pathlib.Path, length: int, bits: int) -> None:
    leaves = [bytes(leaf) for _, leaf in masks.leaves(ramp(length, bits), bits)]
    write(tmp_path / "written", RingShape(length, bits), leaves)
    spool(tmp_path / "spooled", RingShape(length, bits), leaves)
    before = bytes.fromhex(RINGS[length, bits])
    assert (tmp_path / "written").read_bytes() == (tmp_path / "spooled").read_bytes() == before
    (tmp_path / "old").write_bytes(before)
    with RingFile(tmp_path / "old") as file:
        assert (file.length, file.bits, file.leaves) == (length, bits, 1)
        assert np.array_equal(file.whole(), ramp(length, bits))


@pytest.mark.parametrize(("length", "bits"), LONG_RINGS)
def test_long_ring_files_too(tmp_path: pathlib.Path, length: int, bits: int) -> None:
    leaves = [bytes(leaf) for _, leaf in masks.leaves(ramp(length, bits), bits)]
    write(tmp_path / "written", RingShape(length, bits), leaves)
    spool(tmp_path / "spooled", RingShape(length, bits), leaves)
    for path in tmp_path.iterdir():
        assert hashlib.sha256(path.read_bytes()).hexdigest() == LONG_RINGS[length, bits]


def test_the_bytes_of_a_file_of_blocks(tmp_path: pathlib.Path) -> None:
    write(tmp_path / "v", BlockShape(2, 3), [b"abc", b"def"])
    assert (tmp_path / "v").read_bytes().hex() == BLOCKS


# --- shapes -----------------------------------------------------------------------------------------------------------


@given(shape=SHAPES, data=st.data())
def test_a_shape_says_where_its_leaves_are_and_is_read_back(shape: Shape, data: st.DataObject) -> None:
    index = data.draw(st.integers(0, shape.leaves - 1))
    assert 1 <= shape.leaves <= limits.MAX_LEAVES
    assert shape.offset(0) == 0
    assert 1 <= shape.size(index) == shape.offset(index + 1) - shape.offset(index) <= limits.MAX_LEAF
    assert len(shape.trailer) == 20
    assert shape_of(shape.trailer) == shape


@pytest.mark.parametrize(
    ("count", "leaf_bytes"), [(0, 1), (limits.MAX_LEAVES + 1, 1), (1, 0), (1, limits.MAX_LEAF + 1), (-1, -1)]
)
def test_blocks_beyond_the_limits(count: int, leaf_bytes: int, tmp_path: pathlib.Path) -> None:
    with pytest.raises(ValueError, match="limits"):
        BlockShape(count, leaf_bytes)
    if count >= 0:  # nor are they read: the figures of a file are not believed
        figures = count.to_bytes(8, "little") + leaf_bytes.to_bytes(4, "little")
        (tmp_path / "v").write_bytes(bytes((leaf_bytes + 4) * count) + figures + b"FVBLCK01")
        assert refused(tmp_path / "v") == "ring_file_damaged"


@pytest.mark.parametrize(("length", "bits"), [(0, 32), (-1, 32), (1, 7), (1, 65)])
def test_rings_that_do_not_exist(length: int, bits: int) -> None:
    with pytest.raises(ValueError, match=r"element|bits"):
        RingShape(length, bits)


def refused(path: pathlib.Path) -> str:
    with pytest.raises(FedveilError) as caught:
        LeafFile(path, _Now.seal).close()
    return caught.value.code


# --- files of both shapes ---------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("at_rest")
@pytest.mark.parametrize("shape", [*SMALL, *LARGE], ids=str)
def test_leaves_come_back(tmp_path: pathlib.Path, shape: Shape) -> None:
    leaves = leaves_of(shape)
    assert [len(leaf) for leaf in leaves] == [shape.size(index) for index in range(shape.leaves)]
    write(tmp_path / "v", shape, leaves)
    assert read(tmp_path / "v") == (shape, leaves)
    sealed = 32 + 16 * (shape.leaves + 1) + 8 if _Now.seal else 0
    assert (tmp_path / "v").stat().st_size == sum(map(len, leaves)) + 4 * shape.leaves + 20 + sealed


@pytest.mark.usefixtures("at_rest")
@pytest.mark.parametrize("shape", SMALL, ids=str)
def test_no_byte_may_change_or_be_missing(tmp_path: pathlib.Path, shape: Shape) -> None:
    path = tmp_path / "v"
    write(path, shape, leaves_of(shape))
    good = path.read_bytes()
    for position in range(len(good)):
        for bad in (
            *(good[:position] + bytes([good[position] ^ 1 << bit]) + good[position + 1 :] for bit in range(8)),
            good[:position],
        ):
            path.write_bytes(bad)
            with pytest.raises(IntegrityError) as caught:
                read(path)
            assert caught.value.code == "ring_file_damaged" or (
                _Now.seal is not None and bad == good[:-8] and caught.value.code == "not_sealed_at_rest"
            )
    path.write_bytes(good + b"\0")
    assert refused(path) == "ring_file_damaged"


@pytest.mark.parametrize("shape", [*SMALL, *LARGE], ids=str)
def test_the_check_sums_tell_content_apart(tmp_path: pathlib.Path, shape: Shape) -> None:
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        write(tmp_path / name, shape, leaves_of(shape, seed))
    with LeafFile(tmp_path / "a") as a, LeafFile(tmp_path / "b") as b, LeafFile(tmp_path / "c") as c:
        assert (a.shape, a.checks) == (b.shape, b.checks)
        assert a.checks != c.checks


@pytest.mark.usefixtures("at_rest")
def test_equal_bytes_of_another_shape_are_another_vector(tmp_path: pathlib.Path) -> None:
    """The first one stays, whatever announces itself with its bytes."""
    ring, blocks = RingShape(2, 32), BlockShape(1, 8)
    for first, second in ((ring, blocks), (blocks, ring)):
        path = tmp_path / type(first).__name__
        write(path, first, [b"8 bytes."])
        with pytest.raises(PeerError) as caught:
            write(path, second, [b"8 bytes."])
        assert caught.value.code == "input_differs"
        with pytest.raises(PeerError) as caught:
            LeafSpool(path, committed(second, [b"8 bytes."]), [], seal=_Now.seal)
        assert caught.value.code == "input_differs"
        assert spool(path, first, [b"8 bytes."]) == []
        assert read(path) == (first, [b"8 bytes."])
        write(path, second, [b"8 bytes."], replace=True)
        assert read(path) == (second, [b"8 bytes."])


@pytest.mark.usefixtures("at_rest")
def test_blocks_are_not_read_as_residues(tmp_path: pathlib.Path) -> None:
    write(tmp_path / "v", BlockShape(1, 8), [b"8 bytes."])
    for reader in (RingFile, read_signed):
        with pytest.raises(IntegrityError) as caught:
            reader(tmp_path / "v", _Now.seal)
        assert caught.value.code == "ring_file_damaged"
        assert "no ring elements" in caught.value.what
    with LeafFile(tmp_path / "v", _Now.seal) as file, pytest.raises(ValueError, match="no residues"):
        residues(file, 0)


@pytest.mark.usefixtures("at_rest")
@pytest.mark.parametrize("shape", LARGE, ids=str)
def test_leaves_come_in_any_order_each_once_and_whole(tmp_path: pathlib.Path, shape: Shape) -> None:
    leaves = leaves_of(shape)
    writer = LeafWriter(tmp_path / "v", shape, _Now.seal)
    for index, data in ((3, leaves[0]), (-1, leaves[0]), (0, b""), (1, leaves[1][1:]), (2, leaves[2] + b"\0")):
        with pytest.raises(ValueError, match=f"leaf {index}"):
            writer.write(index, data)
    for index in (2, 0, 1):
        writer.write(index, leaves[index])
        with pytest.raises(ValueError, match="twice"):
            writer.write(index, leaves[index])
    writer.finish()
    assert read(tmp_path / "v") == (shape, leaves)
    half = LeafWriter(tmp_path / "w", shape, _Now.seal)
    half.write(1, leaves[1])
    with pytest.raises(ValueError, match="leaf 0 is missing"):
        half.finish()
    assert [path.name for path in tmp_path.iterdir()] == ["v"]


# --- spools of both shapes --------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("at_rest")
@pytest.mark.parametrize("shape", LARGE, ids=str)
def test_what_arrived_is_believed_as_far_as_it_matches(tmp_path: pathlib.Path, shape: Shape) -> None:
    """After a crash: a torn leaf, a changed one and what stands behind it are asked for again."""
    leaves = leaves_of(shape)
    for upto in range(shape.leaves + 1):
        for change, lost in (
            (lambda data: data, 0),
            (lambda data: data + b"lost footer", 0),
            (lambda data: data[:-1], 1),
            (lambda data: data[:-1] + bytes([data[-1] ^ 1]) if data else data, 1),
            (lambda data: bytes([data[0] ^ 1]) + data[1:] if data else data, upto),
            (lambda data: bytes(32) + data[32:], upto),  # a power cut kept what came later, and not the beginning
        ):
            spool(tmp_path / "v", shape, leaves, upto)
            (part,) = tmp_path.iterdir()
            part.write_bytes(change(part.read_bytes()))
            believed = max(upto - lost, 0)
            assert spool(tmp_path / "v", shape, leaves, believed) == []
            sealed = 32 + 16 * believed if _Now.seal else 0
            assert part.stat().st_size == shape.offset(believed) + sealed
            assert part.read_bytes()[:32] != bytes(32)
            assert spool(tmp_path / "v", shape, leaves) == list(range(believed, shape.leaves))
            assert read(tmp_path / "v") == (shape, leaves)
            (tmp_path / "v").unlink()


@pytest.mark.usefixtures("at_rest")
@pytest.mark.parametrize("shape", LARGE, ids=str)
def test_a_second_announcement_is_refused(tmp_path: pathlib.Path, shape: Shape) -> None:
    leaves, others = leaves_of(shape), leaves_of(shape, 2)
    spool(tmp_path / "v", shape, leaves, 2)
    for done in (False, True):
        for identity in (committed(shape, others), committed(BlockShape(1, 1), [b"1"])):
            with pytest.raises(PeerError) as caught:
                LeafSpool(tmp_path / "v", identity, [], seal=_Now.seal)
            assert caught.value.code == "input_differs"
        if not done:
            assert spool(tmp_path / "v", shape, leaves) == [2]
    assert [path.name for path in tmp_path.iterdir()] == ["v"]
    assert read(tmp_path / "v") == (shape, leaves)


@pytest.mark.usefixtures("at_rest")
@pytest.mark.parametrize("shape", LARGE, ids=str)
def test_a_spool_takes_leaves_of_its_shape_only(tmp_path: pathlib.Path, shape: Shape) -> None:
    leaves = leaves_of(shape)
    with contextlib.closing(LeafSpool(tmp_path / "v", committed(shape, leaves), [], seal=_Now.seal)) as spooling:
        for data in (b"", leaves[0][1:], leaves[0] + b"\0"):
            with pytest.raises(ValueError, match="leaf 0"):
                spooling.write(0, data)
        assert spooling.first_missing == 0


@pytest.mark.usefixtures("at_rest")
def test_a_disk_that_takes_a_part_of_each_write(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As one that is nearly full does: the salt and the end of a file are written as whole as its leaves."""
    shape = BlockShape(3, 50)
    leaves, pwrite = leaves_of(shape), os.pwrite
    with monkeypatch.context() as patched:
        patched.setattr(os, "pwrite", lambda file, data, offset: pwrite(file, data[:7], offset))
        spool(tmp_path / "v", shape, leaves)
        write(tmp_path / "w", shape, leaves)
    assert read(tmp_path / "v") == read(tmp_path / "w") == (shape, leaves)


# --- sealed files -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", SMALL, ids=str)
def test_a_sealed_file_is_what_another_implementation_writes(tmp_path: pathlib.Path, shape: Shape) -> None:
    """HKDF and AES-GCM from their specifications, by `tests/reference`; nothing of a leaf shows."""
    leaves = leaves_of(shape)
    written_as(tmp_path / "v", shape, a_seal(b"input", b"run-1"), leaves)
    data = (tmp_path / "v").read_bytes()
    assert data == sealed_leaves.made(data[:32], bytes([7]) * 32, [b"input", b"run-1"], shape.trailer, leaves)
    assert not any(leaf in data for leaf in leaves if len(leaf) > 3)


def test_a_sealed_file_opens_as_itself_alone(tmp_path: pathlib.Path) -> None:
    shape, leaves = BlockShape(3, 7), leaves_of(BlockShape(3, 7))
    path = tmp_path / "v"
    written_as(path, shape, a_seal(b"input", b"run-1"), leaves)
    for other in (a_seal(b"input", b"run-2"), a_seal(b"inputrun-1"), a_seal(b"input", b"run-1", key=8)):
        with pytest.raises(IntegrityError) as caught:
            LeafFile(path, other).close()
        assert (caught.value.code, "storage key" in caught.value.what) == ("ring_file_damaged", True)
    with pytest.raises(FedveilError) as refusal:
        LeafFile(path).close()
    assert (refusal.value.code, refusal.value.exit_code) == ("sealed_at_rest", 3)
    written_as(tmp_path / "clear", shape, None, leaves)
    with pytest.raises(IntegrityError) as caught:
        LeafFile(tmp_path / "clear", a_seal(b"input", b"run-1")).close()
    assert caught.value.code == "not_sealed_at_rest"


def test_leaves_of_a_sealed_file_cannot_change_places(tmp_path: pathlib.Path) -> None:
    """Nor stand in another file that was sealed as the same: the salts differ."""
    shape, leaves = BlockShape(3, 7), leaves_of(BlockShape(3, 7))
    seal = a_seal()
    for name in ("a", "b"):
        written_as(tmp_path / name, shape, seal, leaves)
    first, second = (tmp_path / "a").read_bytes(), (tmp_path / "b").read_bytes()
    assert first[:32] != second[:32]
    stored = [slice(32 + 23 * index, 55 + 23 * index) for index in range(3)]
    swapped = first[:32] + first[stored[1]] + first[stored[0]] + first[78:]
    mixed = first[:32] + second[stored[0]] + first[55:]
    for bad, leaf in ((swapped, 0), (swapped, 1), (mixed, 0)):
        (tmp_path / "v").write_bytes(bad)
        with LeafFile(tmp_path / "v", a_seal()) as file, pytest.raises(IntegrityError) as caught:
            file.packed(leaf)
        assert f"leaf {leaf} does not open" in caught.value.what


def written_as(path: pathlib.Path, shape: Shape, seal: LeafSeal | None, leaves: list[bytes]) -> None:
    writer = LeafWriter(path, shape, seal)
    for index, leaf in enumerate(leaves):
        writer.write(index, leaf)
    writer.finish()
