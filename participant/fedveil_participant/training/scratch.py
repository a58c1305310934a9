"""The folder that one call of a trainer works in: made for it, and removed whatever is in it then.

Promise: what a trainer left there (folders without rights, or nested deeper than a path can say) does not keep it, and
no link in it is followed. Only for folders in which nobody works any more.
"""

import contextlib
import itertools
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path


@contextlib.contextmanager
def scratch_folder() -> Iterator[Path]:
    """A new folder (0700), gone at the end."""
    folder = Path(tempfile.mkdtemp(prefix="fedveil-trainer-"))
    try:
        yield folder
    finally:
        remove(folder)


def remove(folder: Path) -> None:
    """The folder and all in it. What cannot be removed stays, without an error: the disk may have failed."""
    numbers = itertools.count()
    moved = True
    while moved:  # each time one layer of folders goes, and the next is where it was
        moved = False
        for entry in _entries(folder):
            if _is_folder(entry):
                for inner in _entries(Path(entry.path)):
                    if _is_folder(inner):
                        moved |= _done(os.rename, inner.path, folder / f".lifted-{next(numbers)}")
                    else:
                        _done(os.unlink, inner.path)
                moved |= _done(os.rmdir, entry.path)
            else:
                _done(os.unlink, entry.path)
    _done(os.rmdir, folder)


def give(folder: Path, uid: int) -> None:
    """To another user, with all in it."""
    for place, folders, files in os.walk(folder):
        for name in (".", *folders, *files):
            os.chown(os.path.join(place, name), uid, uid, follow_symlinks=False)


def copy_program(source: Path, target: Path) -> None:
    """The modules of `source` in a new folder `target`, without what was compiled of them."""
    shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__"))


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as found:
            return list(found)
    except OSError:
        return []


def _is_folder(entry: os.DirEntry[str]) -> bool:
    """And if so, one that may be emptied and moved."""
    with contextlib.suppress(OSError):
        if entry.is_dir(follow_symlinks=False):
            os.chmod(entry.path, 0o700)
            return True
    return False


def _done(work: Callable[..., None], *paths: str | Path) -> bool:
    try:
        work(*paths)
    except OSError:
        return False
    return True
