"""Models that an earlier release kept in clear: sealed at a start where they can be, and in nobody's way otherwise."""

import hashlib
import pathlib
from collections.abc import Callable, Iterator
from types import SimpleNamespace

import pytest
from fedveil_common.durable import TemporaryFile
from fedveil_common.errors import FedveilError, StorageError
from fedveil_common.ids import RunId
from fedveil_participant.store import ParticipantStore, journal_key, make_journal_key, open_holdings, open_store, tables
from fedveil_participant.store import models as store_models
from fedveil_participant.store.models import Models
from fedveil_simulation.ports import SeededEntropy, SimulatedClock

RUN = RunId("run-1")

Open = Callable[[], ParticipantStore]
"""Opens the journal; what was opened before is closed first, as by a restart."""


@pytest.fixture
def home(tmp_path: pathlib.Path) -> pathlib.Path:
    make_journal_key(tmp_path, None, SeededEntropy(1, "key"))
    return tmp_path


@pytest.fixture
def opened(home: pathlib.Path) -> Iterator[Open]:
    stores: list[ParticipantStore] = []

    def start() -> ParticipantStore:
        for store in stores:
            store.close()
        entropy = SeededEntropy(1, f"store {len(stores)}")
        key = journal_key(home, None)
        stores.append(open_store(home, key, SimulatedClock(), entropy, create=not stores))
        return stores[-1]

    yield start
    stores[-1].close()


def models(home: pathlib.Path) -> Models:
    return Models(home, journal_key(home, None), SeededEntropy(1, "models"), sweep=False)


def as_an_earlier_release(store: ParticipantStore, home: pathlib.Path, run: RunId, data: bytes) -> pathlib.Path:
    """A model in clear, where that release kept it."""
    store.save_end(run, b"p" * 32, "completed", b"to be replaced")
    digest = hashlib.sha256(data).digest()
    (home / "models" / digest.hex()).write_bytes(data)
    with store._database.write() as connection:
        tables.ENDS.change(connection, {"run_id": run}, model=digest)
    return home / "models" / digest.hex()


@pytest.mark.parametrize("trouble", ["unreadable", "gone", "damaged"])
def test_a_model_that_cannot_be_sealed_keeps_nobody_from_starting(
    opened: Open, home: pathlib.Path, trouble: str
) -> None:
    store = opened()
    path = as_an_earlier_release(store, home, RUN, b"the model")
    good = as_an_earlier_release(store, home, RunId("run-2"), b"a good one")
    path.unlink()
    if trouble == "unreadable":
        path.mkdir()  # any error of the file system but that it is missing
    elif trouble == "damaged":
        path.write_bytes(b"the modem")
    store = opened()
    assert (store.model(RunId("run-2")), good.exists()) == (b"a good one", False)
    codes = {"unreadable": "disk_failed", "gone": "sealed_file_missing", "damaged": "sealed_file_damaged"}
    with pytest.raises(FedveilError) as caught:
        store.model(RUN)
    assert caught.value.code == codes[trouble]


def test_a_model_in_clear_stays_while_there_is_no_room_to_seal_it(
    opened: Open, home: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = opened()
    path = as_an_earlier_release(store, home, RUN, b"the model")

    def full(file: TemporaryFile, *_: object) -> None:
        file.discard()
        raise StorageError("disk_full", "no space is left")

    with monkeypatch.context() as patched:
        patched.setattr(TemporaryFile, "write", full)
        store = opened()
    assert (store.model(RUN), path.exists()) == (b"the model", True)
    store = opened()
    assert (store.model(RUN), path.exists()) == (b"the model", False)


def test_a_reader_follows_a_model_that_is_sealed_under_its_eyes(
    opened: Open, home: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = opened()
    as_an_earlier_release(store, home, RUN, b"the model")
    looking = open_holdings(home, journal_key(home, None), SimulatedClock(), SeededEntropy(1, "look"))
    get, calls = Models.get, []

    def later(self: Models, run_id: RunId, name: bytes) -> bytes:
        if not calls:
            models(home).seal_what_is_in_clear(store._database)
        calls.append(name)
        return get(self, run_id, name)

    monkeypatch.setattr(Models, "get", later)
    assert looking.model(RUN) == b"the model"
    assert len(calls) == 2


def test_a_start_does_not_read_through_sealed_models(
    opened: Open, home: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = opened()
    store.save_end(RUN, b"p" * 32, "completed", b"the model")
    hashed: list[bytes] = []

    def sha256(data: bytes) -> object:
        hashed.append(data)
        return hashlib.sha256(data)

    monkeypatch.setattr(store_models, "hashlib", SimpleNamespace(sha256=sha256))
    assert opened().model(RUN) == b"the model"
    assert hashed == []
