"""Sealed files: what comes back is what was written under that name, or an error; memory is a chunk."""

import pathlib
import tracemalloc
from collections.abc import Callable

import numpy as np
import pytest
from fedveil_common import sealedfile
from fedveil_common.errors import IntegrityError, StorageError
from fedveil_common.sealedfile import CHUNK_BYTES, SALT_BYTES, SealedFiles
from fedveil_common.secret import Seed
from fedveil_simulation.ports import SeededEntropy
from hypothesis import given
from hypothesis import strategies as st

KEY = Seed(bytes(range(32)))
HEAD = 8 + SALT_BYTES
SEALED_CHUNK = CHUNK_BYTES + 16


def files(folder: pathlib.Path, key: Seed = KEY, taker: str = "sealed") -> SealedFiles:
    return SealedFiles(folder, key, SeededEntropy(1, taker))


def put(folder: pathlib.Path, data: bytes, *context: bytes) -> bytes:
    return files(folder).write([memoryview(data)], len(data), *context)


def whole(folder: pathlib.Path, name: bytes, *context: bytes, key: Seed = KEY) -> bytes:
    with files(folder, key).open(name, *context) as file:
        return file.read(0, file.length)


@given(sizes=st.lists(st.integers(0, 700_000), max_size=5), cuts=st.tuples(st.floats(0, 1), st.floats(0, 1)))
def test_a_file_comes_back_however_it_was_cut_and_wherever_it_is_read(
    tmp_path_factory: pytest.TempPathFactory, sizes: list[int], cuts: tuple[float, float]
) -> None:
    folder = tmp_path_factory.mktemp("sealed")
    parts = [bytes([index + 1]) * size for index, size in enumerate(sizes)]
    data = b"".join(parts)
    name = files(folder).write(map(memoryview, parts), len(data), b"it")
    start, stop = sorted(int(cut * len(data)) for cut in cuts)
    with files(folder).open(name, b"it") as file:
        assert file.length == len(data)
        assert file.read(0, len(data)) == data
        assert file.read(start, stop - start) == data[start:stop]


@pytest.mark.parametrize("size", [0, 1, CHUNK_BYTES - 1, CHUNK_BYTES, CHUNK_BYTES + 1, 2 * CHUNK_BYTES])
def test_sealed_files_at_the_edges_of_chunks(tmp_path: pathlib.Path, size: int) -> None:
    data = (b"0123456789abcdef" * (size // 16 + 1))[:size]
    name = put(tmp_path, data)
    assert whole(tmp_path, name) == data
    assert (tmp_path / name.hex()).stat().st_size == HEAD + size + 16 * max(1, -(-size // CHUNK_BYTES))


def test_the_plaintext_is_in_no_file_and_equal_ones_look_different(tmp_path: pathlib.Path) -> None:
    secret = b"the update of one organisation" * 3
    store = files(tmp_path)
    names = [store.write([memoryview(secret)], len(secret)) for _ in range(2)]
    first, second = ((tmp_path / name.hex()).read_bytes() for name in names)
    assert secret[:16] not in first + second
    assert first[HEAD:] != second[HEAD:]
    assert [whole(tmp_path, name) for name in names] == [secret, secret]


@pytest.mark.parametrize(
    ("change", "code"),
    [
        pytest.param(lambda s: s[: HEAD + SEALED_CHUNK], "aead_failed", id="cut after the first chunk"),
        pytest.param(lambda s: s[: HEAD + 2 * SEALED_CHUNK], "aead_failed", id="cut after the second chunk"),
        pytest.param(lambda s: s[:-1], "aead_failed", id="last byte cut"),
        pytest.param(lambda s: s[:HEAD], "sealed_file_damaged", id="all chunks cut"),
        pytest.param(lambda s: s[:7], "sealed_file_damaged", id="head cut"),
        pytest.param(lambda _: b"", "sealed_file_damaged", id="nothing left"),
        pytest.param(lambda s: s + s[-26:], "aead_failed", id="last chunk twice"),
        pytest.param(lambda s: s + bytes(16), "aead_failed", id="something added"),
        pytest.param(lambda s: s[:8] + bytes([s[8] ^ 1]) + s[9:], "sealed_file_damaged", id="salt changed"),
        pytest.param(lambda s: s[:-1] + bytes([s[-1] ^ 1]), "aead_failed", id="tag changed"),
        pytest.param(lambda s: s[:HEAD] + bytes([s[HEAD] ^ 1]) + s[HEAD + 1 :], "aead_failed", id="first bit turned"),
        pytest.param(
            lambda s: (
                s[:HEAD]
                + s[HEAD + SEALED_CHUNK : HEAD + 2 * SEALED_CHUNK]
                + s[HEAD : HEAD + SEALED_CHUNK]
                + s[HEAD + 2 * SEALED_CHUNK :]
            ),
            "aead_failed",
            id="two chunks exchanged",
        ),
    ],
)
def test_a_sealed_file_cannot_be_cut_moved_or_changed(
    tmp_path: pathlib.Path, change: Callable[[bytes], bytes], code: str
) -> None:
    data = bytes(CHUNK_BYTES) + b"1" * CHUNK_BYTES + b"0123456789"
    name = put(tmp_path, data)
    path = tmp_path / name.hex()
    honest = path.read_bytes()
    path.write_bytes(honest)
    assert whole(tmp_path, name) == data  # control
    path.write_bytes(change(honest))
    with pytest.raises(IntegrityError) as caught:
        whole(tmp_path, name)
    assert caught.value.code == code


def test_the_length_in_the_associated_data_is_what_stops_a_cut(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without it, a file cut between chunks is a shorter file that opens."""
    weaker = lambda index, length: index.to_bytes(8, "big")  # noqa: E731
    monkeypatch.setattr(sealedfile, "_associated", weaker)
    name = put(tmp_path, bytes(CHUNK_BYTES) + b"rest")
    path = tmp_path / name.hex()
    path.write_bytes(path.read_bytes()[: HEAD + SEALED_CHUNK])
    assert whole(tmp_path, name) == bytes(CHUNK_BYTES)


def test_a_chunk_of_another_file_does_not_fit(tmp_path: pathlib.Path) -> None:
    data = bytes(2 * CHUNK_BYTES)
    store = files(tmp_path)
    first, second = (store.write([memoryview(data)], len(data), b"same") for _ in range(2))
    mine, theirs = (tmp_path / name.hex() for name in (first, second))
    mixed = bytearray(mine.read_bytes())
    mixed[HEAD + SEALED_CHUNK :] = theirs.read_bytes()[HEAD + SEALED_CHUNK :]
    mine.write_bytes(mixed)
    with files(tmp_path).open(first, b"same") as file:
        assert file.read(0, CHUNK_BYTES) == bytes(CHUNK_BYTES)
        with pytest.raises(IntegrityError) as caught:
            file.read(CHUNK_BYTES, CHUNK_BYTES)
    assert caught.value.code == "aead_failed"


def test_another_key_and_another_context_open_nothing(tmp_path: pathlib.Path) -> None:
    name = put(tmp_path, b"x", b"context")
    assert whole(tmp_path, name, b"context") == b"x"
    for context, key in ((b"context", Seed(bytes(32))), (b"other", KEY)):
        with pytest.raises(IntegrityError) as caught:
            whole(tmp_path, name, context, key=key)
        assert caught.value.code == "aead_failed"


def test_no_name_and_no_content_beyond_the_end(tmp_path: pathlib.Path) -> None:
    with pytest.raises(StorageError) as missing:
        files(tmp_path).open(b"n" * 32)
    assert missing.value.code == "sealed_file_missing"
    name = put(tmp_path, b"0123")
    with files(tmp_path).open(name) as file:
        for start, size in ((0, 5), (5, 0), (-1, 1), (3, 2)):
            with pytest.raises(IntegrityError) as beyond:
                file.read(start, size)
            assert beyond.value.code == "sealed_file_damaged"


def test_a_wrong_length_leaves_nothing_and_leftovers_are_removed(tmp_path: pathlib.Path) -> None:
    store = files(tmp_path)
    for announced in (3, 5):
        with pytest.raises(ValueError, match="announced"):
            store.write([memoryview(b"0123")], announced)
    assert list(tmp_path.iterdir()) == []
    kept, orphan = (store.write([memoryview(data)], 1) for data in (b"a", b"b"))
    assert store.keep_only(frozenset({kept})) == 1
    store.delete(orphan)
    assert [path.name for path in tmp_path.iterdir()] == [kept.hex()]


def test_writing_and_reading_take_the_memory_of_some_chunks(tmp_path: pathlib.Path) -> None:
    values = np.ones(40 * CHUNK_BYTES // 8 + 5)
    odd = memoryview(values[:3])  # so that no chunk lies in one part
    tracemalloc.start()
    try:
        name = files(tmp_path).write([odd, memoryview(values)], 24 + values.nbytes)
        with files(tmp_path).open(name) as file:
            for start in range(0, file.length - CHUNK_BYTES, CHUNK_BYTES):
                file.read(start, CHUNK_BYTES)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 6 * CHUNK_BYTES
