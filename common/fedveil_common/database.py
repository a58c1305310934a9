"""One SQLite file per side, set up so that an acknowledged transaction survives a kill and a power cut.

Promise: WAL with synchronous=FULL (a commit returns after fsync), one writer at a time (BEGIN IMMEDIATE), foreign keys
on, deleted content overwritten, the file readable by its owner alone, checked when it is opened, and upgraded in one
transaction after a copy was made. Invariant: after a failed write of the disk nothing more is written, because a failed
fsync cannot be repeated. Source: sqlite.org/wal.html, sqlite.org/pragma.html; SQLAlchemy, "SQLite transactions".
"""

import contextlib
import fcntl
import importlib
import os
import sqlite3
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import sqlalchemy as sa
from sqlalchemy import event, exc

from fedveil_common import durable
from fedveil_common.errors import ConfigError, StorageError

BUSY_TIMEOUT_MS = 10_000
_READ_ONLY = "fedveil_read_only"
_DAMAGED = {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB}
_FULL = {sqlite3.SQLITE_FULL}
_BUSY = {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED}
_MIGRATING = threading.Lock()
"""Alembic keeps what it works on in globals of the process: one upgrade at a time."""


class FolderLock:
    """Held while a process uses a data folder; the kernel releases it when the process dies, however it dies."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / "lock"
        self._descriptor: int | None = None

    def __enter__(self) -> "FolderLock":
        """Take it. ConfigError `data_folder_in_use` naming the holder's pid if another process has it."""
        with durable.storing(self._path):
            descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            holder = os.pread(descriptor, 32, 0).decode("ascii", "replace").strip() or "unknown"
            os.close(descriptor)
            raise ConfigError(
                "data_folder_in_use",
                f"the data folder {self._path.parent} is in use by process {holder}",
                next_step=f"stop process {holder} or choose another --home",
            ) from error
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{os.getpid()}\n".encode("ascii"), 0)
        self._descriptor = descriptor
        return self

    def __exit__(self, *_: object) -> None:
        """Give it back. The file stays: removing it would let two processes lock two files of one name."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None


class Database:
    """An open, checked and current database. `write` and `read` may be used from any thread."""

    def __init__(self, path: Path, engine: sa.Engine, unsynced: sa.Engine) -> None:
        """`unsynced`: the same file, whose commits do not wait for the disk."""
        self.path = path
        self.engine = engine
        self._unsynced = unsynced
        self._readers = engine.execution_options(**{_READ_ONLY: True})
        self._writing = threading.RLock()
        self._failure: StorageError | None = None

    @contextlib.contextmanager
    def write(self) -> Iterator[sa.Connection]:
        """One transaction, durable when the block is left without an error, undone otherwise.

        StorageError `disk_full` (undone, try again), `disk_failed` (from then on every call), `database_damaged`,
        `database_busy`.
        """
        with self._writing, self._translated():
            if self._failure is not None:
                raise self._failure
            with self.engine.begin() as connection:
                yield connection

    @contextlib.contextmanager
    def write_soon(self) -> Iterator[sa.Connection]:
        """As `write`, for what must outlive this process and not a power cut: the disk has it with the next `write` at
        the latest, in the same order.
        """
        with self._writing, self._translated():
            if self._failure is not None:
                raise self._failure
            with self._unsynced.begin() as connection:
                yield connection

    @contextlib.contextmanager
    def read(self) -> Iterator[sa.Connection]:
        """One consistent snapshot; never waits for the writer. StorageError as for `write`."""
        with self._translated(), self._readers.begin() as connection:
            yield connection

    def erase_history(self) -> None:
        """Moves every page from the write-ahead log into the file and empties the log: what a transaction overwrote
        (secure_delete) is then in neither. StorageError.
        """
        with self._writing, self._translated():
            connection = self.engine.raw_connection()
            try:
                cursor = connection.cursor()
                cursor.execute("PRAGMA wal_checkpoint(TRUNCATE)")
                busy = cursor.fetchone()
                cursor.close()
            finally:
                connection.close()
            if busy is not None and busy[0]:
                raise StorageError("database_busy", f"{self.path}: a reader kept the log from being emptied")

    def close(self) -> None:
        """Every connection is closed."""
        self.engine.dispose()
        self._unsynced.dispose()

    @contextlib.contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except (exc.DBAPIError, sqlite3.Error) as error:
            found = _typed(error.orig if isinstance(error, exc.DBAPIError) else error, self.path)
            if found is None:
                raise
            if found.code == "disk_failed":
                self._failure = found
            raise found from error


def _typed(error: BaseException | None, path: Path) -> StorageError | None:
    """The StorageError that an SQLite error stands for; None if it is a defect of ours (a constraint, bad SQL)."""
    if not isinstance(error, sqlite3.Error):
        return None
    code: int | None = getattr(error, "sqlite_errorcode", None)
    if code is None:  # from the Python module itself: a TEXT value that is no UTF-8
        return damaged(path, "a text cannot be decoded") if isinstance(error, sqlite3.OperationalError) else None
    primary = code & 0xFF
    if primary in _FULL:
        return StorageError(
            "disk_full",
            f"no space is left for {path}",
            not_done="the transaction was undone and nothing acknowledged",
            next_step="free some space and try again",
        )
    if primary in _DAMAGED:
        return damaged(path, "SQLite reports a malformed file")
    if primary in _BUSY:
        return StorageError("database_busy", f"{path} is locked by another process", next_step="close that process")
    if isinstance(error, sqlite3.OperationalError) and primary != sqlite3.SQLITE_ERROR:
        return StorageError(
            "disk_failed",
            f"{path}: SQLite could not read or write it ({getattr(error, 'sqlite_errorname', 'unknown')})",
            not_done="the transaction was not acknowledged",
            next_step="check the disk, then restart: a failed fsync cannot be repeated",
        )
    return None


def damaged(path: Path, what: str) -> StorageError:
    """StorageError `database_damaged` naming the file."""
    return StorageError(
        "database_damaged",
        f"{path}: {what}",
        not_done="the database was not used",
        next_step="keep the file. A coordinator's: restore it from a backup. A participant's: never restore a journal, "
        "ask the operator for `fedveil invite ORG --rekey`, then `fedveil join` with another --home",
    )


def open_database(
    path: Path, migrations: str, *, create: bool = False, keep_copy: bool = True, check: Callable[[sa.Connection], None]
) -> Database:
    """The database at `path`, checked and at the head of the alembic scripts in the package `migrations`.

    `create` permits a new file; without it a missing file is StorageError `database_missing`, so that a folder that
    lost its database is never taken for a new one. Before a pending upgrade a copy is made beside the file
    (`NAME.before-REVISION`); `keep_copy=False` removes it after success (a participant's journal must not exist twice).
    `check` looks through the rows (`rows.verify`) once the schema is current.
    StorageError `database_damaged`, `disk_full`, `disk_failed`; ConfigError `database_newer`. Hold the FolderLock.
    """
    if not path.exists():
        if not create or path.with_name(path.name + "-wal").exists():
            raise _missing(path)
        durable.make_folder(path.parent)
        durable.write_file(path, b"")
    with durable.storing(path):
        path.chmod(0o600)
    database = Database(path, _engine(path), _engine(path, synchronous="NORMAL"))
    try:
        with database.read() as connection:
            found = connection.exec_driver_sql("PRAGMA quick_check(1)").scalar()
        if found != "ok":
            raise damaged(path, "its integrity check fails")
        with _MIGRATING:
            _upgrade(database, migrations, keep_copy, create)
        with database.read() as connection:
            check(connection)
    except exc.DBAPIError as error:
        database.close()
        raise damaged(path, "its schema is not the one that its version names") from error
    except BaseException:
        database.close()
        raise
    return database


def _missing(path: Path) -> StorageError:
    return StorageError(
        "database_missing",
        f"{path} does not exist",
        next_step="a coordinator's: restore it from a backup. A participant's: never restore a journal, ask "
        "the operator for `fedveil invite ORG --rekey`, then `fedveil join`",
    )


@contextlib.contextmanager
def glance(path: Path) -> Iterator[sa.Connection]:
    """One snapshot of the database at `path` as it is: without the FolderLock, neither checked nor upgraded.

    StorageError `database_missing`, `database_damaged`, `database_busy`, `disk_failed`.
    """
    if not path.exists():
        raise _missing(path)
    database = Database(path, _engine(path), _engine(path))
    with contextlib.closing(database), database.read() as connection:
        try:
            yield connection
        except exc.DBAPIError as error:
            raise _typed(error.orig, path) or damaged(path, "it has not the tables of this release") from error


def _engine(path: Path, synchronous: str = "FULL") -> sa.Engine:
    engine = sa.create_engine(sa.URL.create("sqlite", database=str(path)))

    @event.listens_for(engine, "connect")
    def connect(connection: sqlite3.Connection, _: object) -> None:
        connection.isolation_level = None  # no implicit BEGIN or COMMIT by the driver: `begin` below is the only one
        for pragma in (
            f"busy_timeout={BUSY_TIMEOUT_MS}",
            "journal_mode=WAL",
            f"synchronous={synchronous}",  # WAL with NORMAL syncs at checkpoints only, and stays consistent
            "foreign_keys=ON",
            "secure_delete=ON",
            "temp_store=MEMORY",
            "trusted_schema=OFF",
        ):
            connection.execute(f"PRAGMA {pragma}")

    @event.listens_for(engine, "begin")
    def begin(connection: sa.Connection) -> None:
        read_only = connection.get_execution_options().get(_READ_ONLY, False)
        connection.exec_driver_sql("BEGIN" if read_only else "BEGIN IMMEDIATE")

    return engine


# --- migrations -------------------------------------------------------------------------------------------------------


def _upgrade(database: Database, migrations: str, keep_copy: bool, create: bool) -> None:
    """Alembic to the head in one transaction. Alembic itself is loaded only if something is pending."""
    package = importlib.import_module(migrations)
    head: str = package.HEAD
    with database.read() as connection:
        current = _revision(connection)
    if current is None and not create:
        raise damaged(database.path, "it is empty")  # an emptied file must not pass for a new one
    if current == head:
        return
    from alembic.config import Config
    from alembic.script import ScriptDirectory

    config = Config()
    config.set_main_option("script_location", str(Path(str(package.__file__)).parent).replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    known = {script.revision for script in ScriptDirectory.from_config(config).walk_revisions()}
    if current is not None and current not in known:
        raise ConfigError(
            "database_newer",
            f"{database.path} was written by a newer fedveil (schema {current}, this one knows {head})",
            not_done="the database was not touched",
            next_step="install the newer release",
        )
    copy = None if current is None else _copy(database, current)
    from alembic import command

    with database.write() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, "head")
    if copy is not None and not keep_copy:
        durable.remove(copy)


def run_migrations() -> None:
    """What a migrations package calls in its env.py: upgrade on the connection that `open_database` handed over."""
    from alembic import context

    context.configure(connection=context.config.attributes["connection"], render_as_batch=True)
    with context.begin_transaction():
        context.run_migrations()


def _revision(connection: sa.Connection) -> str | None:
    tables = connection.exec_driver_sql("SELECT 1 FROM sqlite_master WHERE name = 'alembic_version'").scalar()
    if tables is None:
        return None
    found = connection.exec_driver_sql("SELECT version_num FROM alembic_version").scalar()
    return None if found is None else str(found)


def _copy(database: Database, revision: str) -> Path:
    """A consistent copy of the file as it is now, durable before the upgrade begins."""
    final = database.path.with_name(f"{database.path.name}.before-{revision}")
    partial = final.with_name(f".tmp-{final.name}")
    durable.remove(partial)
    with durable.storing(partial):
        os.close(os.open(partial, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
    source = database.engine.raw_connection()
    try:
        target = sqlite3.connect(partial)
        try:
            driver = source.driver_connection
            assert isinstance(driver, sqlite3.Connection)
            driver.backup(target)
        except sqlite3.Error as error:
            raise _typed(error, partial) or damaged(database.path, "it cannot be copied") from error
        finally:
            target.close()
    finally:
        source.close()
    with durable.storing(final):
        descriptor = os.open(partial, os.O_RDWR)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        partial.rename(final)
    durable.sync_folder(final.parent)
    return final
