"""The isolation of own trainers as the organisation sees it: told at start, noted in the journal, shown by `doctor`.

Refused where there is none, unless the organisation itself says so; the description of a trainer cannot.
"""

import json
import pathlib
import shutil
import time
from collections.abc import Iterator, Mapping

import pytest
from certificate_house import House, Member, open_house
from fedveil_cli import doctor_isolation, main, participating
from fedveil_common.database import FolderLock
from fedveil_common.errors import LocalRefusal, PolicyRefusal
from fedveil_participant.isolation import kernel
from fedveil_participant.isolation.levels import Isolation
from fedveil_participant.policy import parse_policy
from fedveil_participant.store import IsolationNote, ParticipantStore, journal_key, open_store
from test_own_trainers import config_file
from trainer_house import one_that_holds

MISSING = "bwrap: there is no command bwrap; landlock: the kernel has no landlock"


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    with open_house(tmp_path_factory.mktemp("house")) as made:
        yield made


@pytest.fixture
def acme(house: House, tmp_path: pathlib.Path) -> Member:
    return house.member(tmp_path, f"acme-{abs(hash(tmp_path)) % 10**6}", 1)


@pytest.fixture
def nothing_here(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A machine without bubblewrap and without landlock."""
    monkeypatch.setattr(shutil, "which", lambda name: None)
    monkeypatch.setattr(kernel, "landlock_version", lambda: 0)
    doctor_isolation._here.cache_clear()
    yield
    doctor_isolation._here.cache_clear()


def described(folder: pathlib.Path) -> pathlib.Path:
    (folder / "code").mkdir()
    (folder / "code" / "own.py").write_text("class Own: pass\n")
    return config_file(folder)


def opened(house: House, acme: Member) -> ParticipantStore:
    return open_store(acme.home, journal_key(acme.home, None), house.clock, house.world.entropy)


def start(
    house: House, acme: Member, config: pathlib.Path, *, none: bool
) -> tuple[list[Mapping[str, str]], list[IsolationNote]]:
    """What a start tells and notes; it raises what the start does, after it was noted."""
    told: list[Mapping[str, str]] = []
    bench = participating.bench_with(
        acme.home,
        {"risk": (config, None)},
        frozenset(),
        house.clock,
        lambda kind, facts: told.append(facts),
        isolation_none=none,
    )
    with FolderLock(acme.home):
        store = opened(house, acme)
        try:
            bench.admit(store)
            return told, store.isolation_notes()
        finally:
            store.close()


def shown(acme: Member, capsys: pytest.CaptureFixture[str]) -> dict[str, object]:
    main.main(["--home", str(acme.home), "doctor", "--json"])
    found = json.loads(capsys.readouterr().out)
    return {**found["isolation"], "codes": [one["code"] for one in found["findings"]]}


def test_the_level_is_told_noted_and_shown(
    house: House, acme: Member, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    one_that_holds(Isolation.BWRAP)
    house.clock.now = time.time()  # the command has the machine's clock
    (told,), (note,) = start(house, acme, described(tmp_path), none=False)
    assert told["isolation"] in {"bwrap", "landlock"}
    assert (note.trainer, note.level, note.why) == ("risk", told["isolation"], told["no_better"])
    found = shown(acme, capsys)
    assert found["level"] in {"bwrap", "landlock"}
    assert found["trainers"] == [{"name": "risk", "level": note.level, "why": note.why, "at_s": note.wall_s}]
    assert found["codes"] == []
    assert main.main(["--home", str(acme.home), "doctor"]) == 0
    assert f"isolation of own trainers on this machine: {found['level']}" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("approvers", "way"),
    [("", "--accept PLAN_HASH --trainer NAME=CONFIG@DIGEST"), ("approvers: [{user: alice}]", "fedveil approve")],
)
def test_whose_word_another_trainer_needs_is_said(
    house: House, acme: Member, tmp_path: pathlib.Path, approvers: str, way: str
) -> None:
    text = "version: 1\nprivacy: {exact_sums: allow, max_epsilon: 4, max_delta: 1.0e-5}\ndata: {d: {min_rows: 1}}\n"
    policy = parse_policy((text + "isolation: none\n" + approvers).encode(), "policy.yaml")
    named = {"risk": (described(tmp_path), bytes(32))}
    with pytest.raises(LocalRefusal) as caught:
        participating.bench_with(acme.home, named, frozenset(), house.clock, lambda kind, facts: None, policy=policy)
    assert caught.value.code == "trainer_changed"
    assert way in caught.value.next_step


@pytest.mark.usefixtures("nothing_here")
def test_without_isolation_nothing_starts_and_that_is_noted(
    house: House, acme: Member, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    house.clock.now = time.time()
    config = described(tmp_path)
    table = tmp_path / "table.csv"
    table.write_text("a\n")
    arguments = ["participate", "--data", f"visits={table}", "--accept", 64 * "a", "--trainer", f"risk={config}"]
    assert main.main(["--home", str(acme.home), *arguments]) == 4
    said = capsys.readouterr()
    assert "[isolation_missing]" in said.err
    assert MISSING in said.err.replace("\n", " ")
    assert said.out == ""
    with FolderLock(acme.home):
        store = opened(house, acme)
        assert (store.datasets(), store.accepted()) == ({}, frozenset())  # nothing was registered, nothing accepted
        (note,) = store.isolation_notes()
        store.close()
    assert (note.trainer, note.level) == ("risk", "refused")
    assert MISSING in note.why
    found = shown(acme, capsys)
    assert (found["level"], found["codes"]) == (None, ["isolation_missing"])
    with pytest.raises(PolicyRefusal, match="isolation_missing"):
        start(house, acme, config, none=False)


@pytest.mark.usefixtures("nothing_here")
def test_only_the_organisation_itself_says_none(house: House, acme: Member, tmp_path: pathlib.Path) -> None:
    (told,), (note,) = start(house, acme, described(tmp_path), none=True)
    assert (told["isolation"], told["no_better"]) == ("none", MISSING)
    assert (note.level, note.why) == ("none", MISSING)


def test_none_that_is_allowed_is_not_taken_where_there_is_better(
    house: House, acme: Member, tmp_path: pathlib.Path
) -> None:
    one_that_holds(Isolation.BWRAP)
    (told,), _ = start(house, acme, described(tmp_path), none=True)
    assert told["isolation"] in {"bwrap", "landlock"}


@pytest.mark.parametrize("word", ["landlock", "bwrap", "", "NONE"])
def test_a_level_is_not_chosen(acme: Member, capsys: pytest.CaptureFixture[str], word: str) -> None:
    assert main.main(["--home", str(acme.home), "participate", "--isolation", word]) == 2
    assert "[bad_isolation]" in capsys.readouterr().err


def test_an_interpreter_around_the_home_is_refused(
    house: House, acme: Member, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """What the interpreter's folder holds is shown to the trainer: it must not hold the home, or the data."""
    config = described(tmp_path)
    python = tmp_path / "python"
    python.write_text(f"#!/bin/sh\necho '[\"{tmp_path}\"]'\n")
    python.chmod(0o755)
    config.write_text(config.read_text() + f'python = "{python}"\n')
    assert main.main(["--home", str(acme.home), "participate", "--trainer", f"risk={config}"]) == 2
    said = capsys.readouterr().err
    assert "[trainer_python]" in said
    assert "which no trainer may read" in said.replace("\n", " ")
