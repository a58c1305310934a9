"""Orders about files at rest that were interrupted: finished once by the same command, seen without the passphrase, and
stopped by a damaged file only until that is moved away. Killed by SIGKILL before any of their writes.

`FEDVEIL_SWEEP=1` kills before every write of every order, and once more while it is finished; else before a few.
"""

import contextlib
import errno
import json
import os
import pathlib
import shutil
import signal
from collections.abc import Callable

import pytest
from fedveil_cli import doctor_home, main
from fedveil_cli.doctor_findings import Report
from fedveil_common import durable
from fedveil_common.database import FolderLock
from fedveil_common.errors import FedveilError, IntegrityError, StorageError
from fedveil_common.pki import sealed_keys
from fedveil_common.ports import Failpoints, NoFailpoints
from fedveil_coordinator import founding, resting
from fedveil_coordinator.founding import Federation
from fedveil_coordinator.resting import Done
from fedveil_coordinator.store import storage_key, storage_state
from fedveil_coordinator.store.storage_state import State
from fedveil_simulation.ports import SimulatedClock

from tests.test_storage_at_rest import (
    OTHER,
    SERVE,
    KillAt,
    Killed,
    check_content,
    entropy,
    files,
    founded,
    in_clear,
    opened,
)

ORDERS = {"seal": resting.seal, "rotate": resting.rotate, "unseal": resting.unseal}
COMMANDS = {"seal": "seal", "rotate": "rotate", "unseal": "open"}
CALLS = ("open", "pwrite", "ftruncate", "utime", "fsync", "link", "rename", "unlink")
"""By which something comes into a folder, changes there or goes."""
EVERYTHING = bool(os.environ.get("FEDVEIL_SWEEP"))


@pytest.fixture
def federation(tmp_path: pathlib.Path) -> Federation:
    return founded(tmp_path / "op")


def give(order: str, federation: Federation, name: str, failpoints: Failpoints | None = None) -> Done:
    return ORDERS[order](federation, SERVE, SimulatedClock(), entropy(name), failpoints or NoFailpoints())


def interrupt(order: str, federation: Federation, count: int = 5) -> None:
    if order != "seal":
        give("seal", federation, "sealed first")
    with pytest.raises(Killed):
        give(order, federation, "killed", KillAt(count))


def record(federation: Federation) -> list[tuple[str, str]]:
    with contextlib.closing(opened(federation.home, None)) as store:
        return [(row.what.removeprefix("storage."), row.order) for row in store.records.storage_rows()]


def move_authority(federation: Federation) -> None:
    """To another passphrase, as `ca rotate` would."""
    path, purpose = federation.home / "authority" / "ca.key", founding.AUTHORITY_PURPOSE
    key = sealed_keys.open_key(path.read_bytes(), SERVE, purpose)
    path.write_bytes(sealed_keys.seal_key(key, OTHER, purpose, entropy("authority")))


# --- finished once ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("order", list(ORDERS))
def test_the_same_command_finishes_it_and_does_nothing_else(federation: Federation, order: str) -> None:
    interrupt(order, federation)
    made = storage_key.read(federation.home, SERVE).now
    begun = record(federation)
    assert give(order, federation, "again") == Done(11, size_of(federation.home), order, anew=False)
    assert storage_key.read(federation.home, SERVE).now == made
    assert record(federation)[len(begun) :] == [("unsealed" if order == "unseal" else "sealed", order)]
    check_content(federation.home, made)


def size_of(home: pathlib.Path) -> int:
    return sum(len(data) for data in files(home).values())


def test_seal_has_nothing_left_to_do_after_an_interrupted_rotation(federation: Federation) -> None:
    interrupt("rotate", federation)
    made = storage_key.read(federation.home, SERVE).now
    done = give("seal", federation, "again")
    assert (done.finished, done.anew) == ("rotate", False)
    assert storage_key.read(federation.home, SERVE).now == made


@pytest.mark.parametrize(("first", "second"), [("seal", "rotate"), ("rotate", "unseal"), ("unseal", "seal")])
def test_another_command_is_carried_out_after_it(federation: Federation, first: str, second: str) -> None:
    interrupt(first, federation)
    pending = storage_key.read(federation.home, SERVE).now
    done = give(second, federation, "then")
    assert (done.finished, done.anew) == (first, True)
    key = storage_key.key_in_force(federation.home, SERVE)
    assert (key is None) is (second == "unseal")
    assert key is None or key != pending
    check_content(federation.home, key)


def test_a_rotation_that_came_with_the_home_leaves_the_old_operator_no_key(federation: Federation) -> None:
    """Who handed the home over began it, and knows its key: finishing it would not be a rotation."""
    interrupt("rotate", federation)
    known = storage_key.read(federation.home, SERVE)
    move_authority(federation)
    resting.rewrap(federation, SERVE, OTHER, SimulatedClock(), entropy("rewrapped"))
    assert storage_state.look(federation.home).order == "rotate"
    done = resting.rotate(federation, OTHER, SimulatedClock(), entropy("own"), NoFailpoints())
    assert (done.finished, done.anew) == ("rotate", True)
    key = storage_key.key_in_force(federation.home, OTHER)
    assert key not in (known.now, known.before, None)
    check_content(federation.home, key)


def test_the_command_says_what_it_finished(
    federation: Federation, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "ca.txt").write_bytes(SERVE.expose())
    (tmp_path / "ca.txt").chmod(0o600)
    command = ("--home", str(federation.home), "storage", "rotate", "--passphrase-file", str(tmp_path / "ca.txt"))
    interrupt("rotate", federation)
    assert main.main([*command, "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert (shown["sealed"], shown["files"], shown["finished"], shown["anew"]) == (True, 11, "rotate", False)
    assert main.main([*command, "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert (shown["finished"], shown["anew"]) == ("", True)


# --- what shows without the passphrase --------------------------------------------------------------------------------


def shown(federation: Federation, capsys: pytest.CaptureFixture[str]) -> tuple[int, str, str, bool]:
    """(exit code, state, order, sealed) of `storage show`; `doctor` says the same."""
    code = main.main(["--home", str(federation.home), "storage", "show", "--json"])
    value = json.loads(capsys.readouterr().out)
    report = Report({"home": str(federation.home)})
    doctor_home.check_storage(federation.home, report)
    found = {one.code for one in report.findings}
    codes = {"unfinished": {"storage_unfinished"}, "clear": set(), "sealed": set()}
    assert found == codes.get(value["state"], {"storage_key_replaced"})
    return code, value["state"], value.get("order", ""), value["sealed"]


def test_show_tells_every_state_without_the_passphrase(
    federation: Federation, capsys: pytest.CaptureFixture[str]
) -> None:
    path = federation.home / storage_key.FILE
    assert shown(federation, capsys) == (0, "clear", "", False)
    give("seal", federation, "1")
    first = path.read_bytes()
    assert shown(federation, capsys) == (0, "sealed", "", True)
    path.unlink()
    assert shown(federation, capsys) == (2, "key missing", "", False)
    durable.write_file(path, first)
    give("rotate", federation, "2")
    second = path.read_bytes()
    assert shown(federation, capsys) == (0, "sealed", "", True)
    durable.write_file(path, first)
    assert shown(federation, capsys) == (2, "key exchanged", "", False)
    durable.write_file(path, b"")
    assert shown(federation, capsys) == (2, "key exchanged", "", False)
    foreign = storage_key.sealed(storage_key.StorageKeys(None, None, True), SERVE, entropy("foreign"))
    assert foreign is not None
    durable.write_file(path, foreign)
    assert shown(federation, capsys) == (2, "key exchanged", "", False)
    durable.write_file(path, second)
    move_authority(federation)
    resting.rewrap(federation, SERVE, OTHER, SimulatedClock(), entropy("3"))
    assert shown(federation, capsys) == (0, "sealed", "", True)
    durable.write_file(path, second)  # the same key under the earlier passphrase
    assert shown(federation, capsys) == (0, "sealed", "", True)
    assert storage_key.key_in_force(federation.home, SERVE) is not None


@pytest.mark.parametrize("order", list(ORDERS))
def test_show_tells_an_unfinished_order(federation: Federation, order: str, capsys: pytest.CaptureFixture[str]) -> None:
    interrupt(order, federation)
    assert shown(federation, capsys) == (2, "unfinished", COMMANDS[order], False)
    begun = (federation.home / storage_key.FILE).read_bytes()
    give(order, federation, "again")
    after = (0, "clear", "", False) if order == "unseal" else (0, "sealed", "", True)
    assert shown(federation, capsys) == after
    durable.write_file(federation.home / storage_key.FILE, begun)  # `serve` refuses that one too
    assert shown(federation, capsys) == (2, "unfinished", COMMANDS[order], False)


def test_an_order_that_was_finished_is_not_finished_again(
    federation: Federation, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its storage.key, put back after a later rotation: a key that was given up would be in force again."""
    path = federation.home / storage_key.FILE
    interrupt("rotate", federation)
    begun = path.read_bytes()
    give("rotate", federation, "again")
    give("rotate", federation, "another")
    last, key, before = path.read_bytes(), storage_key.key_in_force(federation.home, SERVE), files(federation.home)
    durable.write_file(path, begun)
    assert shown(federation, capsys)[:2] == (2, "key exchanged")
    for order in ORDERS:
        with pytest.raises(FedveilError) as caught:
            give(order, federation, "once more")
        assert (caught.value.code, files(federation.home)) == ("storage_key_replaced", before)
    durable.write_file(path, last)
    check_content(federation.home, key)


def test_show_disturbs_nobody(federation: Federation, capsys: pytest.CaptureFixture[str]) -> None:
    """Beside a coordinator that holds the lock and writes; what that has half-written stays."""
    give("seal", federation, "1")
    half = federation.home / "spool" / ".tmp-1-1"
    half.write_bytes(b"half")
    with FolderLock(federation.home), contextlib.closing(opened(federation.home, None)) as store:
        half.write_bytes(b"half")
        with store.database.write():
            assert shown(federation, capsys) == (0, "sealed", "", True)
    assert half.exists()


def test_show_without_a_database_says_so(federation: Federation, capsys: pytest.CaptureFixture[str]) -> None:
    (federation.home / "coordinator.db").unlink()
    assert main.main(["--home", str(federation.home), "storage", "show"]) == 74
    assert "[database_missing]" in capsys.readouterr().err
    assert not (federation.home / "coordinator.db").exists()


# --- damage that shows only as a leaf is read -------------------------------------------------------------------------


@pytest.mark.parametrize("order", list(ORDERS))
def test_a_damaged_leaf_is_named_with_what_ends_the_stop(federation: Federation, order: str) -> None:
    home = federation.home
    if order != "seal":
        give("seal", federation, "sealed first")
    path = home / "inputs" / "run.1.1.beta"
    whole = path.read_bytes()
    path.write_bytes(whole[:40] + b"!" + whole[41:])
    for _ in range(2):  # and the second time as the first
        with pytest.raises(IntegrityError) as caught:
            give(order, federation, "stopped")
        error = caught.value
        assert (error.code, str(path) in error.what) == ("ring_file_damaged", True)
        assert f"move {path} away; then give the command again" in error.next_step
        assert "not served" in error.not_done
        with pytest.raises(FedveilError) as unfinished:
            storage_key.key_in_force(home, SERVE)
        assert unfinished.value.code == "storage_unfinished"
    path.write_bytes(whole)
    give(order, federation, "restored")
    check_content(home, storage_key.key_in_force(home, SERVE))


def test_a_leaf_that_the_disk_does_not_give_is_named_too(
    federation: Federation, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = os.preadv

    def failing(descriptor: int, *rest: object) -> int:
        if os.readlink(f"/proc/self/fd/{descriptor}").endswith("run.1.1.beta"):
            raise OSError(errno.EIO, "Input/output error")
        return int(read(descriptor, *rest))  # type: ignore[arg-type]

    monkeypatch.setattr(os, "preadv", failing)
    with pytest.raises(StorageError) as caught:
        give("seal", federation, "stopped")
    path = federation.home / "inputs" / "run.1.1.beta"
    assert (caught.value.code, f"if {path} cannot be read" in caught.value.next_step) == ("disk_failed", True)


@pytest.mark.parametrize("name", ["sums/run.1.1", "blobs"])
def test_a_link_is_not_converted(federation: Federation, name: str) -> None:
    """What it leads to would stay in clear, where nobody looks for it."""
    path, away = federation.home / name, federation.home.parent / "away"
    if path.is_dir():
        (path,) = path.iterdir()
    path.rename(away)
    path.symlink_to(away)
    clear = away.read_bytes()
    with pytest.raises(FedveilError) as caught:
        give("seal", federation, "stopped")
    assert (caught.value.code, str(path) in caught.value.what) == ("unknown_file", True)
    assert (away.read_bytes(), storage_key.exists(federation.home)) == (clear, False)
    path.unlink()
    away.rename(path)
    give("seal", federation, "again")
    assert in_clear(federation.home) == set()


def test_once_the_damaged_file_is_away_the_order_is_finished(federation: Federation) -> None:
    path = federation.home / "sums" / "run.1.1"
    path.write_bytes(b"!" + path.read_bytes()[1:])
    with pytest.raises(IntegrityError):
        give("seal", federation, "stopped")
    path.rename(federation.home.parent / "away")
    assert give("seal", federation, "again").files == 10
    assert in_clear(federation.home) == set()


def test_what_came_back_in_clear_during_a_rotation_is_sealed_after_it(federation: Federation) -> None:
    home = federation.home
    path, away = home / "sums" / "run.1.1", home.parent / "away"
    clear = path.read_bytes()
    interrupt("rotate", federation)
    path.write_bytes(clear)
    for order in ("rotate", "seal"):
        with pytest.raises(IntegrityError) as caught:
            give(order, federation, "stopped")
        assert (caught.value.code, "storage seal" in caught.value.next_step) == ("not_sealed_at_rest", True)
    path.rename(away)
    give("rotate", federation, "again")
    away.rename(path)
    give("seal", federation, "then")
    check_content(home, storage_key.key_in_force(home, SERVE))


# --- killed before any write ------------------------------------------------------------------------------------------


class Dying:
    """Failpoints and calls of the operating system that end this process before the `deadly`-th of them."""

    def __init__(self, deadly: int) -> None:
        self._deadly, self.count = deadly, 0

    def hit(self, name: str = "") -> None:
        self.count += 1
        if self.count == self._deadly:
            os.kill(os.getpid(), signal.SIGKILL)

    def before(self, call: Callable[..., object]) -> Callable[..., object]:
        def counted(*arguments: object, **named: object) -> object:
            self.hit()
            return call(*arguments, **named)

        return counted


def killed_at(number: int, order: str, home: pathlib.Path) -> int:
    """The order in a process of its own, killed before its `number`-th write, if there are so many (0: not at all). How
    many there were.
    """
    ours, its = os.pipe()
    child = os.fork()
    if not child:
        try:
            dying = Dying(number)
            for name in CALLS:
                setattr(os, name, dying.before(getattr(os, name)))
            give(order, founding.load_federation(home), f"killed at {number}", dying)
            os.write(its, str(dying.count).encode())
            os._exit(0)
        finally:
            os._exit(1)
    os.close(its)
    with os.fdopen(ours) as told:
        count = int(told.read() or number)
    ended = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert ended == (-signal.SIGKILL if number and count == number else 0)
    return count


def times(home: pathlib.Path) -> dict[str, int]:
    return {path.name: path.stat().st_mtime_ns for path in (home / "inputs").iterdir() if path.name[0] != "."}


def check_killed(order: str, home: pathlib.Path, written: dict[str, int]) -> bool:
    """What must hold wherever it was killed; whether the order had begun, and had not ended."""
    assert times(home) == written, "rounds would be let go in another order"
    if order == "rotate":
        assert in_clear(home) == set(), "half-written files included"
    seen = storage_state.look(home)
    if seen.state is State.UNFINISHED:
        assert seen.order == order
        with pytest.raises(FedveilError) as caught:
            storage_key.key_in_force(home, SERVE)
        assert caught.value.code == "storage_unfinished"
        return True
    key = storage_key.key_in_force(home, SERVE)
    assert seen.state is (State.CLEAR if key is None else State.SEALED)
    with contextlib.closing(opened(home, key)) as store:
        storage_key.check_recorded(key, store.records.storage_on_record())
    check_content(home, key)
    return False


@pytest.mark.parametrize("order", list(ORDERS))
def test_killed_before_any_write_it_is_finished_by_the_same_command(tmp_path: pathlib.Path, order: str) -> None:
    home, start = tmp_path / "op", tmp_path / "start"
    federation = founded(home)
    if order != "seal":
        give("seal", federation, "sealed first")
    for number, path in enumerate(sorted((home / "inputs").iterdir())):
        os.utime(path, (1000 + number, 1000 + number))
    written = times(home)
    home.rename(start)

    def fresh() -> None:
        shutil.rmtree(home, ignore_errors=True)
        shutil.copytree(start, home)

    fresh()
    writes = killed_at(0, order, home)
    assert writes > 11 * 5
    begun = []
    for number in range(1, writes + 1, 1 if EVERYTHING else writes // 8):
        fresh()
        killed_at(number, order, home)
        begun.append(check_killed(order, home, written))
        if not begun[-1]:
            continue
        made = storage_key.read(home, SERVE).now
        if EVERYTHING:
            killed_at(1 + number * 7 % 40, order, home)
            if not check_killed(order, home, written):
                continue
        done = give(order, federation, "again")
        assert (done.files, done.finished, done.anew) == (11, order, False)
        key = storage_key.key_in_force(home, SERVE)
        assert key == made
        check_content(home, key)
        assert times(home) == written
        assert in_clear(home) == (set(files(home)) if order == "unseal" else set())
    assert set(begun) == {True, False}
