"""Files that are wholly there after a crash, or not at all.

Promise: a name appears in a folder only after its bytes are on the disk (temporary file, fsync, rename, fsync of the
folder), whole or not at all. Invariant: a failure of the disk is a `StorageError` naming the path, and nothing counts
as stored until `commit` has returned.
Leftover temporary files are swept when the folder is opened. Source: fsync(2), rename(2).
"""

import contextlib
import errno
import itertools
import os
import threading
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from fedveil_common.errors import StorageError

_TEMPORARY = ".tmp-"
_NUMBERS = itertools.count()


def storage_error(error: OSError, path: Path) -> StorageError:
    """The typed form of an OSError on `path`: `disk_full` (resumes when space returns) or `disk_failed` (stop)."""
    if error.errno in {errno.ENOSPC, errno.EDQUOT}:
        return StorageError(
            "disk_full",
            f"no space is left for {path}",
            not_done="nothing was stored and nothing acknowledged",
            next_step="free some space and try again",
        )
    return StorageError(
        "disk_failed",
        f"{path}: {error.strerror or type(error).__name__}",
        not_done="what was being written was not acknowledged",
        next_step="check the disk; a failed fsync cannot be repeated, so the process must be restarted",
    )


@contextlib.contextmanager
def storing(path: Path) -> Iterator[None]:
    """Turns an OSError inside into the `StorageError` that names `path`."""
    try:
        yield
    except OSError as error:
        raise storage_error(error, path) from error


def make_folder(folder: Path) -> None:
    """The folder exists, for its owner alone (0700); its parent knows it durably. StorageError if not possible."""
    with storing(folder):
        if not folder.is_dir():
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            _sync(folder.parent)


def sync_folder(folder: Path) -> None:
    """Names created, renamed or removed in `folder` are durable. StorageError otherwise."""
    with storing(folder):
        _sync(folder)


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sweep(folder: Path) -> None:
    """Removes what a crash left half-written in `folder`. Hold the folder's lock: nobody else may write there."""
    with storing(folder):
        for path in folder.glob(f"{_TEMPORARY}*"):
            path.unlink(missing_ok=True)


def remove(path: Path) -> None:
    """The file is gone, durably; no error if it was not there."""
    with storing(path):
        path.unlink(missing_ok=True)
        _sync(path.parent)


def _unnamed(folder: Path) -> int | None:
    """A descriptor of a new file (0600) in `folder` that has no name; None where there are no such files."""
    try:
        return os.open(folder, os.O_RDWR | os.O_TMPFILE, 0o600)
    except OSError as error:
        if error.errno in {errno.EOPNOTSUPP, errno.EISDIR, errno.EINVAL}:
            return None
        raise


def _give_name(descriptor: int, path: Path) -> None:
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:  # with a folder's descriptor it is linkat(2), which follows the link that stands in /proc
        os.link(f"/proc/self/fd/{descriptor}", path.name, dst_dir_fd=folder, follow_symlinks=True)
    finally:
        os.close(folder)


class TemporaryFile:
    """A file (0600) on its way into `folder`. Ends with one of `commit` and `discard`; a failure discards it.

    A `discard` from another thread waits for a `write` that is under way: a closed descriptor's number may already be
    another file's.
    """

    def __init__(self, folder: Path, *, unnamed: bool = False) -> None:
        """`unnamed`: without a name until it is whole, where the file system can do that, so that a crash leaves
        nothing of it, or, where it was to replace another file, all of it under its temporary name.
        """
        self._path = folder / f"{_TEMPORARY}{os.getpid()}-{next(_NUMBERS)}"
        self._open = True
        self._lock = threading.RLock()
        with storing(self._path):
            made = _unnamed(folder) if unnamed else None
            self._named = made is None
            if made is None:
                made = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
            self._descriptor = made

    @property
    def nameless(self) -> bool:
        """Whether it has no name yet, so that the system takes it away when its process ends."""
        return not self._named

    def write(self, data: bytes | bytearray | memoryview, offset: int) -> None:
        """All of `data` at `offset`."""
        with self._or_discard():
            view = memoryview(data)
            while view:
                written = os.pwrite(self._descriptor, view, offset)
                view, offset = view[written:], offset + written

    def sync(self) -> None:
        """What was written so far is on the disk; from any thread, and writing goes on meanwhile.

        StorageError, once: who asks must hand it on before `commit`, whose own fsync would not see the failure again.
        """
        with self._lock:
            if not self._open:
                return
            descriptor = os.dup(self._descriptor)  # ours, whatever a `discard` closes meanwhile
        try:
            with storing(self._path):
                os.fdatasync(descriptor)
        finally:
            os.close(descriptor)

    def commit(self, name: str, modified_ns: int | None = None) -> Path:
        """The file is durable under `name`, replacing an older file of that name in one step. `modified_ns`: as if it
        had been written then (None: now); it never stands under its name with another time.
        """
        final = self._path.parent / name
        with self._or_discard():
            if modified_ns is not None:
                os.utime(self._descriptor, ns=(modified_ns, modified_ns))
            os.fsync(self._descriptor)
            if self._named or not self._becomes(final):
                self._path.rename(final)
            _sync(final.parent)
            self._close()
        return final

    def _becomes(self, final: Path) -> bool:
        """Whether a file without a name got this one, which nothing has yet. Else it has its temporary name now: only a
        rename takes a name from another file.
        """
        with contextlib.suppress(FileExistsError):
            _give_name(self._descriptor, final)
            return True
        _give_name(self._descriptor, self._path)
        self._named = True
        return False

    def discard(self) -> None:
        """The file is gone. Does nothing after `commit` or an earlier `discard`."""
        with self._lock:
            if self._open:
                self._close()
                with contextlib.suppress(OSError):  # the next sweep takes what cannot be removed now
                    self._path.unlink(missing_ok=True)

    @contextlib.contextmanager
    def _or_discard(self) -> Iterator[None]:
        with self._lock:
            if not self._open:
                raise ValueError("the temporary file is already closed")
            try:
                with storing(self._path):
                    yield
            except StorageError:
                self.discard()
                raise

    def _close(self) -> None:
        self._open = False
        os.close(self._descriptor)


SYNC_BYTES = 16 * 1024 * 1024
"""So much of a large file goes to the disk at a time."""


class LargeFile:
    """A file (0600) on its way into `folder`, written from its beginning to its end: what is there goes to the disk
    while the rest is made, so that `commit` has little left to wait for. Without a name until it is whole, where the
    file system can do that. Ends with one of `commit` and `discard`. For one thread.
    """

    def __init__(self, folder: Path) -> None:
        self._file = TemporaryFile(folder, unnamed=True)
        self._disk = ThreadPoolExecutor(1, thread_name_prefix="fedveil-disk")
        self._under_way: Future[None] | None = None
        self._at = self._synced = 0

    @property
    def nameless(self) -> bool:
        """Whether nothing of it is in a folder before `commit`, however its process ends: what must not be found half
        checked may be written to it.
        """
        return self._file.nameless

    def append(self, data: bytes | bytearray | memoryview) -> None:
        """All of `data`, behind what was written before. StorageError, of what was written before too."""
        self._file.write(data, self._at)
        self._at += len(data)
        if self._at - self._synced >= SYNC_BYTES and (self._under_way is None or self._under_way.done()):
            self._settle()
            self._under_way, self._synced = self._disk.submit(self._file.sync), self._at

    def commit(self, name: str) -> Path:
        """See `TemporaryFile.commit`."""
        try:
            self._settle()
            return self._file.commit(name)
        finally:
            self._disk.shutdown()

    def discard(self) -> None:
        """See `TemporaryFile.discard`."""
        self._disk.shutdown()
        self._file.discard()

    def _settle(self) -> None:
        under_way, self._under_way = self._under_way, None
        if under_way is not None:
            under_way.result()


def write_file(path: Path, data: bytes) -> None:
    """`path` holds `data` durably (0600), or still what it held before. StorageError."""
    file = TemporaryFile(path.parent)
    file.write(data, 0)
    file.commit(path.name)
