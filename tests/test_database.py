"""The database under both sides: what a kill, a full disk, a turned bit and a second process may do to it.

Rows 3, 4, 13, 14, 16, 17, 19, 20 and 53 of the fault list, as far as the storage alone answers for them.
"""

import errno
import os
import pathlib
import signal
import sqlite3
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator

import pytest
import sqlalchemy as sa
from fedveil_common import durable
from fedveil_common.database import Database, FolderLock, open_database
from fedveil_common.errors import ConfigError, FedveilError, StorageError
from fedveil_common.rows import AppendOnlyTable, CheckedTable, verify
from patience import LIMIT_S

LOG = AppendOnlyTable("log", "name", "body")
THINGS = CheckedTable("things", "name", "size", "weight", "body")
FIRST = """
    from alembic import op
    revision, down_revision = "1", None
    def upgrade():
        op.execute("CREATE TABLE log (seq INTEGER PRIMARY KEY, name TEXT NOT NULL, body BLOB NOT NULL, "
                   "digest BLOB NOT NULL, chain BLOB NOT NULL) STRICT")
        op.execute("CREATE TABLE things (name TEXT PRIMARY KEY, size INTEGER NOT NULL, weight REAL, body BLOB, "
                   "digest BLOB NOT NULL) STRICT")
        op.execute("CREATE TRIGGER log_refuses_update BEFORE UPDATE ON log BEGIN SELECT RAISE(ABORT, 'no'); END")
        op.execute("CREATE TRIGGER log_refuses_delete BEFORE DELETE ON log BEGIN SELECT RAISE(ABORT, 'no'); END")
"""
SECOND = """
    import os, signal
    from alembic import op
    revision, down_revision = "2", "1"
    def upgrade():
        op.execute("CREATE TABLE later (name TEXT PRIMARY KEY) STRICT")
        if os.environ.get("TEST_KILL_MIGRATION"):
            os.kill(os.getpid(), signal.SIGKILL)
        op.execute("CREATE TABLE last (name TEXT PRIMARY KEY) STRICT")
"""
ENV = "from fedveil_common.database import run_migrations\nrun_migrations()\n"

Open = Callable[..., Database]


def steps(folder: pathlib.Path, head: str, *sources: str) -> None:
    (folder / "versions").mkdir(parents=True, exist_ok=True)
    (folder / "__init__.py").write_text(f"HEAD = {head!r}\n")
    (folder / "env.py").write_text(ENV)
    for number, source in enumerate(sources, 1):
        (folder / "versions" / f"step{number}.py").write_text(textwrap.dedent(source))


@pytest.fixture
def opened(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Open]:
    """Opens `tmp_path/home/test.db` with the migrations of this file; closes whatever is left open."""
    for name, head, sources in (("one_step", "1", (FIRST,)), ("two_steps", "2", (FIRST, SECOND))):
        steps(tmp_path / "packages" / name, head, *sources)
    monkeypatch.syspath_prepend(str(tmp_path / "packages"))
    databases: list[Database] = []

    def make(migrations: str = "one_step", **options: bool) -> Database:
        path = tmp_path / "home" / "test.db"
        databases.append(open_database(path, migrations, check=verify(path, [LOG, THINGS]), **options))
        return databases[-1]

    yield make
    for database in databases:
        database.close()
    for name in ("one_step", "two_steps"):
        sys.modules.pop(name, None)


def child(work: Callable[[], None]) -> int:
    """Runs `work` in a forked process; returns its wait status."""
    pid = os.fork()
    if pid == 0:
        try:
            work()
            os._exit(0)
        finally:
            os._exit(1)
    return os.waitpid(pid, 0)[1]


def append(database: Database, *names: str) -> None:
    with database.write() as connection:
        LOG.append(connection, [{"name": name, "body": name.encode() * 50} for name in names])


def names(database: Database) -> list[str]:
    with database.read() as connection:
        return [row.text("name") for row in LOG.select(connection)]


def kill_before_commit(database: Database, number: int) -> None:
    """SIGKILL to this process when write transaction `number` (from 1) is about to be committed."""
    seen = 0

    def commit(connection: sa.Connection) -> None:
        nonlocal seen
        seen += not connection.get_execution_options().get("fedveil_read_only", False)
        if seen == number:
            os.kill(os.getpid(), signal.SIGKILL)

    sa.event.listen(database.engine, "commit", commit)


# --- settings ---------------------------------------------------------------------------------------------------------


def test_the_settings_that_durability_rests_on(opened: Open) -> None:
    database = opened(create=True)
    with database.read() as connection:
        found = {
            name: connection.exec_driver_sql(f"PRAGMA {name}").scalar()
            for name in ("journal_mode", "synchronous", "foreign_keys", "secure_delete", "busy_timeout")
        }
    assert found == {
        "journal_mode": "wal",
        "synchronous": 2,
        "foreign_keys": 1,
        "secure_delete": 1,
        "busy_timeout": 10_000,
    }


def test_every_file_of_the_database_is_for_its_owner_alone(opened: Open) -> None:
    database = opened(create=True)
    append(database, "a")
    modes = {path.name: path.stat().st_mode & 0o777 for path in database.path.parent.iterdir()}
    assert modes == {"test.db": 0o600, "test.db-wal": 0o600, "test.db-shm": 0o600}


def test_a_write_takes_the_lock_when_it_begins(opened: Open) -> None:
    """BEGIN IMMEDIATE: another process's write is refused at once, not when it would commit."""
    database = opened(create=True)
    other = sqlite3.connect(database.path, timeout=0, isolation_level=None)
    with database.write(), pytest.raises(sqlite3.OperationalError):
        other.execute("BEGIN IMMEDIATE")
    with database.read():
        other.execute("BEGIN IMMEDIATE")
    other.close()


def test_an_error_inside_undoes_the_whole_transaction(opened: Open) -> None:
    database = opened(create=True)
    append(database, "a")

    def fail() -> None:
        with database.write() as connection:
            LOG.append(connection, [{"name": "b", "body": b""}])
            THINGS.insert(connection, name="t", size=1, weight=0.5, body=None)
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert names(database) == ["a"]
    with database.read() as connection:
        assert THINGS.select(connection) == []


# --- kills ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [1, 2, 3, 4])
@pytest.mark.parametrize("moment", ["before commit", "after commit"])
def test_a_kill_at_any_append_loses_nothing_acknowledged(
    opened: Open, tmp_path: pathlib.Path, number: int, moment: str
) -> None:
    opened(create=True).close()
    acknowledged = tmp_path / "acknowledged"
    acknowledged.write_bytes(b"")

    def work() -> None:
        database = opened()
        if moment == "before commit":
            kill_before_commit(database, number)
        for batch in range(1, 5):
            append(database, f"{batch}a", f"{batch}b")
            if moment == "after commit" and batch == number:
                os.kill(os.getpid(), signal.SIGKILL)
            with acknowledged.open("ab") as file:
                file.write(b".")

    assert os.WTERMSIG(child(work)) == signal.SIGKILL
    kept = names(opened())
    batches = len(acknowledged.read_bytes())
    assert batches == number - 1
    expected = batches if moment == "before commit" else batches + 1
    assert kept == [f"{batch}{half}" for batch in range(1, expected + 1) for half in "ab"]


def test_a_torn_log_ends_at_a_whole_transaction(opened: Open, tmp_path: pathlib.Path) -> None:
    """What a power cut may leave of an unsynced tail: the write-ahead log cut anywhere."""
    home = tmp_path / "home"
    opened(create=True).close()

    def work() -> None:
        database = opened()
        for batch in range(1, 4):
            append(database, f"{batch}a", f"{batch}b")
        os.kill(os.getpid(), signal.SIGKILL)

    child(work)
    log = (home / "test.db-wal").read_bytes()
    whole = (home / "test.db").read_bytes()
    seen = set()
    for cut in range(len(log), 0, -777):
        (home / "test.db").write_bytes(whole)
        (home / "test.db-wal").write_bytes(log[:cut])
        (home / "test.db-shm").unlink(missing_ok=True)
        database = opened()
        kept = names(database)
        database.close()
        assert kept in [[f"{batch}{half}" for batch in range(1, n + 1) for half in "ab"] for n in range(4)], cut
        seen.add(len(kept))
    assert {2, 4, 6} <= seen


# --- damage -----------------------------------------------------------------------------------------------------------


def filled(opened: Open) -> pathlib.Path:
    """The closed file of a database with some rows."""
    database = opened(create=True)
    append(database, *(f"name{number}" for number in range(20)))
    with database.write() as connection:
        THINGS.insert(connection, name="thing", size=7, weight=0.5, body=b"content of a thing")
    database.close()
    return database.path


def contents(database: Database) -> tuple[list[object], list[object]]:
    with database.read() as connection:
        log = [dict(row.values) for row in LOG.select(connection)]
        return log, [dict(row.values) for row in THINGS.select(connection)]


def test_a_turned_bit_is_found_or_changes_nothing(opened: Open) -> None:
    """Every 61st byte of the whole file, schema and free space included."""
    path = filled(opened)
    good = path.read_bytes()
    expected = contents(opened())
    found = 0
    for position in range(0, len(good), 61):
        path.write_bytes(good[:position] + bytes([good[position] ^ 0x10]) + good[position + 1 :])
        for extra in ("-wal", "-shm"):
            path.with_name(path.name + extra).unlink(missing_ok=True)
        refused = None
        try:
            database = opened()
            after = contents(database)
            database.close()
        except FedveilError as error:
            refused, after = error, expected
            found += 1
        assert after == expected, position
        assert refused is None or refused.code in {"database_damaged", "database_newer"}, position
        assert refused is None or str(path) in str(refused)
    assert found > 50


@pytest.mark.parametrize("text", [b"name7", b"content of a thing"])
def test_a_turned_bit_inside_a_value_is_found(opened: Open, text: bytes) -> None:
    path = filled(opened)
    data = path.read_bytes()
    assert text in data
    path.write_bytes(data.replace(text, text[:-1] + bytes([text[-1] ^ 1])))
    with pytest.raises(StorageError) as caught:
        opened()
    assert caught.value.code == "database_damaged"
    assert str(path) in caught.value.what


@pytest.mark.parametrize("keep", [0, 1, 100, 4096, 5000])
def test_a_truncated_file_is_not_opened(opened: Open, keep: int) -> None:
    path = filled(opened)
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(FedveilError) as caught:
        opened()
    assert caught.value.code == "database_damaged"


@pytest.mark.parametrize(
    "statement",
    [
        "DELETE FROM log WHERE seq = 3",
        "DELETE FROM log WHERE seq = 1",
        "UPDATE log SET seq = 99 WHERE seq = 20",
        "UPDATE log SET name = 'other' WHERE seq = 5",
        "UPDATE log SET chain = digest WHERE seq = 5",
        "UPDATE things SET size = 8",
        "UPDATE things SET weight = 0.25",
        "UPDATE things SET body = NULL",
    ],
)
def test_a_row_that_was_changed_or_removed_is_found(opened: Open, statement: str) -> None:
    """Behind the triggers' back, as only damage can."""
    path = filled(opened)
    connection = sqlite3.connect(path)
    for what in ("update", "delete"):
        connection.execute(f"DROP TRIGGER log_refuses_{what}")
    assert connection.execute(statement).rowcount == 1
    connection.commit()
    connection.close()
    with pytest.raises(StorageError) as caught:
        opened()
    assert caught.value.code == "database_damaged"


def test_a_row_that_is_right_by_itself_but_not_in_its_place_is_found(opened: Open) -> None:
    """The chain: another row's content under this number, with the digest that goes with it."""
    path = filled(opened)
    values = {"seq": 5, "name": "forged", "body": b"forged"}
    connection = sqlite3.connect(path)
    connection.execute("DROP TRIGGER log_refuses_update")
    digest = LOG._digest(values)
    connection.execute("UPDATE log SET name = 'forged', body = ?, digest = ? WHERE seq = 5", (b"forged", digest))
    connection.commit()
    connection.close()
    with pytest.raises(StorageError) as caught:
        opened()
    assert caught.value.code == "database_damaged"


@pytest.mark.parametrize("statement", ["UPDATE log SET name = 'x'", "DELETE FROM log", "DELETE FROM log WHERE seq = 2"])
def test_triggers_refuse_to_change_the_past(opened: Open, statement: str) -> None:
    database = opened(create=True)
    append(database, "a", "b")
    with pytest.raises(sa.exc.IntegrityError), database.write() as connection:
        connection.exec_driver_sql(statement)
    assert names(database) == ["a", "b"]


def test_a_missing_database_is_never_taken_for_a_new_one(opened: Open) -> None:
    with pytest.raises(StorageError) as caught:
        opened()
    assert caught.value.code == "database_missing"
    path = filled(opened)
    path.rename(path.with_name("away"))
    path.with_name("test.db-wal").write_bytes(b"a log without its database")
    with pytest.raises(StorageError) as caught:
        opened(create=True)
    assert caught.value.code == "database_missing"


# --- full and failing disks -------------------------------------------------------------------------------------------


def test_a_full_disk_refuses_the_write_and_the_next_one_works(opened: Open) -> None:
    """SQLite's own limit of pages gives the same SQLITE_FULL as ENOSPC does."""
    database = opened(create=True)
    append(database, "a")
    with database.read() as connection:
        pages = connection.exec_driver_sql("PRAGMA page_count").scalar()

    def limit(connection: sqlite3.Connection, _: object) -> None:
        connection.execute(f"PRAGMA max_page_count={pages}")

    database.engine.dispose()
    sa.event.listen(database.engine, "connect", limit)
    with pytest.raises(StorageError) as caught, database.write() as connection:
        LOG.append(connection, [{"name": "b", "body": bytes(100_000)}])
    assert caught.value.code == "disk_full"
    assert caught.value.exit_code == 74
    assert str(database.path) in caught.value.what
    assert names(database) == ["a"]
    sa.event.remove(database.engine, "connect", limit)
    database.engine.dispose()
    append(database, "c")
    assert names(database) == ["a", "c"]


def test_a_failed_fsync_ends_all_writing(opened: Open) -> None:
    database = opened(create=True)
    append(database, "a")

    def fail(connection: sa.Connection) -> None:
        error = sqlite3.OperationalError("disk I/O error")
        error.sqlite_errorcode = sqlite3.SQLITE_IOERR_FSYNC
        raise error

    sa.event.listen(database.engine, "commit", fail)
    with pytest.raises(StorageError) as caught, database.write() as connection:
        LOG.append(connection, [{"name": "b", "body": b""}])
    sa.event.remove(database.engine, "commit", fail)
    assert caught.value.code == "disk_failed"
    with pytest.raises(StorageError) as again:
        append(database, "c")
    assert again.value.code == "disk_failed"
    database.close()
    assert names(opened()) == ["a"]


@pytest.mark.parametrize(
    ("call", "number", "code"),
    [
        ("pwrite", errno.ENOSPC, "disk_full"),
        ("pwrite", errno.EDQUOT, "disk_full"),
        ("fsync", errno.EIO, "disk_failed"),
        ("fsync", errno.ENOSPC, "disk_full"),
    ],
)
def test_a_file_that_cannot_be_written_is_not_there(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, call: str, number: int, code: str
) -> None:
    durable.write_file(tmp_path / "x", b"before")

    def fail(*_: object) -> int:
        raise OSError(number, "simulated")

    monkeypatch.setattr(os, call, fail)
    with pytest.raises(StorageError) as caught:
        durable.write_file(tmp_path / "x", b"after")
    monkeypatch.undo()
    assert caught.value.code == code
    assert [path.name for path in tmp_path.iterdir()] == ["x"]
    assert (tmp_path / "x").read_bytes() == b"before"


# --- the lock ---------------------------------------------------------------------------------------------------------


def test_a_second_process_is_refused_and_told_who(tmp_path: pathlib.Path) -> None:
    code = (
        "import pathlib, sys\n"
        "from fedveil_common.database import FolderLock\n"
        "from fedveil_common.errors import FedveilError\n"
        "try:\n    FolderLock(pathlib.Path(sys.argv[1])).__enter__()\n"
        "except FedveilError as error:\n    print(error.code, error.what)\n    sys.exit(error.exit_code)\n"
    )
    command = [sys.executable, "-c", code, str(tmp_path)]
    with FolderLock(tmp_path):
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=LIMIT_S)
    assert done.returncode == 2
    assert done.stdout.startswith("data_folder_in_use")
    assert str(os.getpid()) in done.stdout
    assert subprocess.run(command, capture_output=True, check=False, timeout=LIMIT_S).returncode == 0


def test_the_lock_of_a_killed_process_is_free(tmp_path: pathlib.Path) -> None:
    def work() -> None:
        FolderLock(tmp_path).__enter__()
        os.kill(os.getpid(), signal.SIGKILL)

    child(work)
    with FolderLock(tmp_path), pytest.raises(ConfigError) as caught:
        FolderLock(tmp_path).__enter__()
    assert caught.value.code == "data_folder_in_use"


# --- migrations -------------------------------------------------------------------------------------------------------


def tables_of(path: pathlib.Path) -> set[str]:
    connection = sqlite3.connect(path)
    found = {name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
    connection.close()
    return found


@pytest.mark.parametrize("keep", [True, False])
def test_a_copy_is_made_before_an_upgrade(opened: Open, keep: bool) -> None:
    path = filled(opened)
    database = opened("two_steps", keep_copy=keep)
    assert {"later", "last"} <= tables_of(path)
    assert len(names(database)) == 20
    copy = path.with_name("test.db.before-1")
    assert copy.exists() is keep
    if keep:
        assert tables_of(copy) == {"log", "things", "alembic_version"}
        assert copy.stat().st_mode & 0o777 == 0o600


def test_a_killed_upgrade_leaves_the_old_version_and_then_completes(
    opened: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = filled(opened)
    monkeypatch.setenv("TEST_KILL_MIGRATION", "1")
    assert os.WTERMSIG(child(lambda: opened("two_steps").close())) == signal.SIGKILL
    monkeypatch.delenv("TEST_KILL_MIGRATION")
    assert tables_of(path) == {"log", "things", "alembic_version"}
    assert tables_of(path.with_name("test.db.before-1")) == {"log", "things", "alembic_version"}
    assert len(names(opened("two_steps"))) == 20
    assert {"later", "last"} <= tables_of(path)


def test_a_database_of_a_newer_release_is_refused(opened: Open) -> None:
    path = filled(opened)
    opened("two_steps").close()
    before = path.read_bytes()
    with pytest.raises(ConfigError) as caught:
        opened("one_step")
    assert caught.value.code == "database_newer"
    assert path.read_bytes() == before


def test_nothing_pending_loads_no_alembic(tmp_path: pathlib.Path) -> None:
    """Starting a command must not pay for what it does not use."""
    code = (
        "import sys, pathlib\n"
        "from fedveil_coordinator.store import open_store\n"
        "from fedveil_simulation.ports import SimulatedClock\n"
        "open_store(pathlib.Path(sys.argv[1]), SimulatedClock(), create=len(sys.argv) > 2).close()\n"
        "print('alembic' in sys.modules)\n"
    )
    runs = [
        subprocess.run(
            [sys.executable, "-c", code, str(tmp_path / "home"), *extra], capture_output=True, text=True, check=False
        )
        for extra in (["create"], [])
    ]
    assert [run.stdout.strip() for run in runs] == ["True", "False"], runs


@pytest.mark.parametrize("side", ["coordinator", "participant"])
def test_the_head_is_the_newest_step(side: str) -> None:
    import importlib

    from alembic.config import Config
    from alembic.script import ScriptDirectory

    package = importlib.import_module(f"fedveil_{side}.store.migrations")
    config = Config()
    config.set_main_option("script_location", str(pathlib.Path(str(package.__file__)).parent))
    config.set_main_option("path_separator", "os")
    assert ScriptDirectory.from_config(config).get_current_head() == package.HEAD
