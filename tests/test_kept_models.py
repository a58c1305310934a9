"""Final models in an organisation's home: the first one stays, sealed as its run's, whoever looks beside."""

import hashlib
import pathlib
from collections.abc import Callable, Iterator

import pytest
from fedveil_common.durable import TemporaryFile
from fedveil_common.errors import ConfigError, IntegrityError
from fedveil_common.ids import RunId
from fedveil_participant.store import ParticipantStore, journal_key, make_journal_key, open_holdings, open_store, tables
from fedveil_participant.store.models import Models
from fedveil_simulation.ports import SeededEntropy, SimulatedClock

RUN = RunId("run-1")

Open = Callable[..., ParticipantStore]


@pytest.fixture
def home(tmp_path: pathlib.Path) -> pathlib.Path:
    return tmp_path / "home"


@pytest.fixture
def opened(home: pathlib.Path) -> Iterator[Open]:
    stores: list[ParticipantStore] = []
    takers = iter(range(1_000))  # a fresh stream per opening: salts must never repeat

    def make(*, create: bool = False) -> ParticipantStore:
        entropy = SeededEntropy(1, f"opening {next(takers)}")
        if create:
            make_journal_key(home, None, entropy)
        stores.append(open_store(home, journal_key(home, None), SimulatedClock(), entropy, create=create))
        return stores[-1]

    yield make
    for store in stores:
        store.close()


def reopen(store: ParticipantStore, opened: Open) -> ParticipantStore:
    store.close()
    return opened()


def test_the_first_end_of_a_run_stays(opened: Open, home: pathlib.Path) -> None:
    store = opened(create=True)
    store.save_end(RUN, b"p" * 32, "finished", b"a model file")
    store.save_end(RUN, b"p" * 32, "finished", b"another model file")
    store.save_end(RunId("run-2"), b"p" * 32, "model_spent", b"")
    store = reopen(store, opened)
    assert [(end.run_id, end.code, end.has_model) for end in store.ends()] == [
        (RUN, "finished", True),
        ("run-2", "model_spent", False),
    ]
    assert store.has_end(RUN)
    assert store.model(RUN) == b"a model file"
    assert len(list((home / "models").iterdir())) == 1
    for run in ("run-2", "run-3"):
        with pytest.raises(ConfigError) as caught:
            store.model(RunId(run))
        assert caught.value.code == "unknown_model"


@pytest.mark.parametrize("moment", ["before the file has its name", "before the row names the file"])
def test_a_look_at_the_models_takes_nothing_from_under_a_running_participant(
    opened: Open, home: pathlib.Path, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    store = opened(create=True)
    commit = TemporaryFile.commit

    def look() -> None:
        looking = open_holdings(home, journal_key(home, None), SimulatedClock(), SeededEntropy(1, "look"))
        assert looking.ends() == []

    def interrupted(file: TemporaryFile, name: str) -> pathlib.Path:
        if moment == "before the file has its name":
            look()
        path = commit(file, name)
        if moment == "before the row names the file":
            look()
        return path

    monkeypatch.setattr(TemporaryFile, "commit", interrupted)
    store.save_end(RUN, b"p" * 32, "completed", b"the model")
    assert store.model(RUN) == b"the model"


def test_a_model_without_a_row_is_gone_after_a_restart(opened: Open, home: pathlib.Path) -> None:
    store = opened(create=True)
    store.save_end(RUN, b"p" * 32, "completed", b"the model")
    models(home).put(RUN, b"its row was never written")
    (home / "models" / ".tmp-1-1").write_bytes(b"half")
    store = reopen(store, opened)
    assert store.model(RUN) == b"the model"
    assert len(list((home / "models").iterdir())) == 1


def models(home: pathlib.Path) -> Models:
    return Models(home, journal_key(home, None), SeededEntropy(1, "models"), sweep=False)


def test_models_rest_sealed_each_as_its_run_s(opened: Open, home: pathlib.Path) -> None:
    """So that who has the folder, and the passphrase of the journal key not, has no model."""
    store = opened(create=True)
    for run in (RUN, RunId("run-2")):
        store.save_end(run, b"p" * 32, "completed", b"the model of " + run.encode())
    paths = sorted((home / "models").iterdir())
    assert len(paths) == 2
    assert not any(b"the model" in path.read_bytes() for path in paths)
    first, second = (path.read_bytes() for path in paths)
    paths[0].write_bytes(second)
    paths[1].write_bytes(first)
    for run in (RUN, RunId("run-2")):
        with pytest.raises(IntegrityError) as caught:
            store.model(run)
        assert caught.value.code == "sealed_file_damaged"
    name = bytes.fromhex(paths[0].name)
    paths[0].write_bytes(first)
    with pytest.raises(IntegrityError) as caught:
        models(home).get(RunId("run-3"), name)
    assert caught.value.code == "aead_failed"


def test_models_of_an_earlier_release_are_sealed_where_they_lie(opened: Open, home: pathlib.Path) -> None:
    """It kept them in clear, named by their SHA-256. A reader beside the holder reads them as they are."""
    store = opened(create=True)
    for run in (RUN, RunId("run-2")):
        store.save_end(run, b"p" * 32, "completed", b"to be replaced")
        data = b"the model of " + run.encode()
        digest = hashlib.sha256(data).digest()
        (home / "models" / digest.hex()).write_bytes(data)
        with store._database.write() as connection:
            tables.ENDS.change(connection, {"run_id": run}, model=digest)
    looking = open_holdings(home, journal_key(home, None), SimulatedClock(), SeededEntropy(1, "look"))
    assert looking.model(RUN) == b"the model of run-1"
    put, calls = Models.put, []

    def killed(self: Models, run_id: RunId, model_file: bytes) -> bytes:
        calls.append(put(self, run_id, model_file))
        raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(Models, "put", killed)
        with pytest.raises(KeyboardInterrupt):
            reopen(store, opened)
    assert len(calls) == 1
    store = opened()
    for run in (RUN, RunId("run-2")):
        assert store.model(run) == b"the model of " + run.encode()
    assert len(list((home / "models").iterdir())) == 2
    assert not any(b"the model" in path.read_bytes() for path in (home / "models").iterdir())
