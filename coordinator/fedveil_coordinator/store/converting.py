"""Giving every file of a coordinator's home another storage key, its first one, or none.

Promise: a file is there whole at every moment, in the old form or the new; the keys of both are durable before the
first file is touched and until the last is done, so that an interruption at any point is taken up by running it again.
Parts of inputs that were still arriving are removed: their senders begin again. Hold the `FolderLock`.
"""

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from fedveil_common import durable
from fedveil_common.blobs import BlobStore
from fedveil_common.errors import ConfigError, IntegrityError, SealedError, StorageError
from fedveil_common.leaffile import LeafFile, LeafWriter
from fedveil_common.leafform import LeafSeal
from fedveil_common.ports import Entropy, Failpoints
from fedveil_common.secret import Seed

from fedveil_coordinator.store.journal import INPUTS, SPOOL, SUMS
from fedveil_coordinator.store.storage import Storage

BLOBS = "blobs"
_PART = ".part"

SealOf = Callable[[Storage], LeafSeal]


@dataclass(frozen=True, slots=True)
class Converted:
    """How many files have the new form, and how many bytes they are."""

    files: int
    bytes: int


def check(home: Path, before: Seed | None, now: Seed | None, entropy: Entropy) -> None:
    """Returns if every file opens as `before` or `now` says, so that a conversion will not stop half-way in a home that
    is served until then. Whether each leaf opens shows only as it is rewritten. No file is changed.

    IntegrityError `ring_file_damaged`, `blob_damaged`, `not_sealed_at_rest`, SealedError `sealed_at_rest`: names a file
    that is in neither form. ConfigError `unknown_file`.
    """
    old, new = _storage(before, entropy), _storage(now, entropy)
    for path, seal in _leaf_files(home):
        with _stopping(path, "no file was changed"):
            _either(path, _applied(seal, old), _applied(seal, new))
    for digest, source, target in _blobs(home, old, new):
        with _stopping(target.path(digest), "no file was changed"):
            _either_blob(digest, source, target)


def convert(home: Path, before: Seed | None, now: Seed | None, entropy: Entropy, failpoints: Failpoints) -> Converted:
    """Every file is as `now` says. Those that are so already, from an interrupted run, are left alone.

    Errors as `check`: files before the one that is named have the new form, it and those after it are as they were.
    Once that one is restored or moved away, the same call goes on.
    """
    old, new = _storage(before, entropy), _storage(now, entropy)
    count = size = 0
    for path in (home / SPOOL).glob(f"*{_PART}"):
        durable.remove(path)
    for path, seal in _leaf_files(home):
        failpoints.hit("coordinator.before.convert")
        with _stopping(path):
            _convert(path, _applied(seal, old), _applied(seal, new))
        count, size = count + 1, size + path.stat().st_size
    failpoints.hit("coordinator.before.convert")
    for digest, source, target in _blobs(home, old, new):
        with _stopping(target.path(digest)):
            _convert_blob(digest, source, target)
        count, size = count + 1, size + target.path(digest).stat().st_size
    failpoints.hit("coordinator.after.convert")
    return Converted(count, size)


_AT_WORK = "it and what comes after it are as they were, and the home is not served until the order is finished"


@contextlib.contextmanager
def _stopping(path: Path, not_done: str = _AT_WORK) -> Iterator[None]:
    """An error of a file's content says what ends the stop: what its reader would say helps a round, not an order."""
    try:
        yield
    except StorageError as error:
        if error.code != "disk_failed" or not error.what.startswith(f"{path}: "):
            raise
        step = f"check the disk; if {path} cannot be read any more, move it away; then give the command again"
        raise StorageError(error.code, error.what, not_done=not_done, next_step=step) from error
    except (IntegrityError, SealedError) as error:
        away = f"move {path} away; then give the command again"
        steps = {
            "sealed_at_rest": f"put back the storage.key under which it was sealed, or {away}",
            "not_sealed_at_rest": f"{away}, put the file back and give `fedveil storage seal`",
        }
        next_step = steps.get(error.code, f"restore it from a copy, or {away}")
        raise type(error)(error.code, error.what, not_done=not_done, next_step=next_step) from error


def _either_blob(digest: bytes, source: BlobStore, target: BlobStore) -> None:
    try:
        target.get(digest)
    except (IntegrityError, SealedError):
        source.get(digest)


def _convert_blob(digest: bytes, source: BlobStore, target: BlobStore) -> None:
    try:
        target.get(digest)
    except (IntegrityError, SealedError):
        target.put(source.get(digest))


def _either(path: Path, before: LeafSeal | None, now: LeafSeal | None) -> None:
    try:
        LeafFile(path, now).close()
    except (IntegrityError, SealedError):
        LeafFile(path, before).close()


def _convert(path: Path, before: LeafSeal | None, now: LeafSeal | None) -> None:
    try:
        LeafFile(path, now).close()
    except (IntegrityError, SealedError):
        with LeafFile(path, before) as source:
            with durable.storing(path):
                written = path.stat().st_mtime_ns  # the oldest rounds are let go first
            writer = LeafWriter(path, source.shape, now)
            try:
                for index in range(source.leaves):
                    writer.write(index, source.packed(index))
                writer.finish(replace=True, modified_ns=written)
            finally:
                writer.discard()


def _leaf_files(home: Path) -> Iterator[tuple[Path, SealOf]]:
    """Every file of leaves that is whole, by folder and name."""
    for folder in (SPOOL, INPUTS, SUMS):
        durable.make_folder(home / folder)
        durable.sweep(home / folder)
        for path in sorted((home / folder).iterdir()):
            if folder == SPOOL and path.name.endswith(_PART):
                continue
            _check_own(path)
            try:
                yield path, _seal_of(folder, path.name)
            except ValueError:
                raise _unknown(path) from None


def _seal_of(folder: str, name: str) -> SealOf:
    """ValueError for a name that no file of the folder has."""
    if folder == SUMS:
        run_id, _, number = name.rpartition(".")
        return _sum(run_id, int(number))
    run_id, number, *_, who = name.rsplit(".", 3 if folder == SPOOL else 2)
    return _input(run_id, int(number), who)


def _blobs(home: Path, old: Storage | None, new: Storage | None) -> Iterator[tuple[bytes, BlobStore, BlobStore]]:
    """Each piece of evidence by its name, with the stores of both forms."""
    folder = home / BLOBS
    source = BlobStore(folder, None if old is None else old.records)
    target = BlobStore(folder, None if new is None else new.records)
    try:
        digests = source.digests()
    except ValueError:
        raise _unknown(folder) from None
    for digest in digests:
        _check_own(source.path(digest))
        yield digest, source, target


def _check_own(path: Path) -> None:
    """Returns for a file as the coordinator makes it: what a link leads to would stay as it is. ConfigError."""
    if path.is_symlink() or not path.is_file():
        raise _unknown(path)


def _unknown(path: Path) -> ConfigError:
    return ConfigError(
        "unknown_file",
        f"{path} is, or holds, a file that the coordinator did not put there",
        not_done="it and what comes after it were not touched",
        next_step="move it away, then give the command again",
    )


def _sum(run_id: str, round: int) -> SealOf:
    return lambda storage: storage.sum(run_id, round)


def _input(run_id: str, round: int, name: str) -> SealOf:
    return lambda storage: storage.input(run_id, round, name)


def _storage(key: Seed | None, entropy: Entropy) -> Storage | None:
    return None if key is None else Storage(key, entropy)


def _applied(seal: SealOf, storage: Storage | None) -> LeafSeal | None:
    return None if storage is None else seal(storage)
