"""An organisation's training code as one digest, and a private copy of it: what ran is what was digested.

Promise: the digest covers every regular file below the folder by its relative path and bytes, in byte order, and no
more (times, owners and modes do not count; `__pycache__` is passed over). Links and special files are refused. The copy
is read once, and the digest is that of the copy.
"""

import os
import stat
from collections.abc import Iterator
from pathlib import Path

from fedveil_common.crypto.labels import h, u64
from fedveil_common.errors import LocalRefusal

MAX_FILES = 10_000
MAX_BYTES = 256 * 1024 * 1024


def digest(folder: Path) -> bytes:
    """H("trainer-code", path, bytes, ...) over the tree: 32 bytes. LocalRefusal `trainer_code`."""
    parts: list[bytes] = []
    for name, data in _files(folder):
        parts += [os.fsencode(name), h("trainer-file", u64(len(data)), data)]
    return h("trainer-code", *parts)


def copy(folder: Path, target: Path) -> bytes:
    """Copies the tree into the new folder `target`, readable only, and gives the digest of the copy."""
    target.mkdir(mode=0o700)
    for name, data in _files(folder):
        path = target / name
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        path.touch(mode=0o600)
        path.write_bytes(data)
        path.chmod(0o400)
    return digest(target)


def _files(folder: Path) -> Iterator[tuple[str, bytes]]:
    """(path below `folder`, content) of each file, in byte order."""
    names: list[str] = []
    try:
        for place, folders, files in os.walk(folder, onerror=_raise):
            folders[:] = [name for name in folders if name != "__pycache__"]
            names += [os.path.relpath(os.path.join(place, name), folder) for name in (*files, *_links(place, folders))]
            if len(names) > MAX_FILES:
                raise _refused(folder, f"has more than {MAX_FILES} files")
        if not names:
            raise _refused(folder, "holds no file")
        total = 0
        for name in sorted(names, key=os.fsencode):
            with os.fdopen(os.open(folder / name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK), "rb") as stream:
                if not stat.S_ISREG(os.fstat(stream.fileno()).st_mode):
                    raise _refused(folder, f"holds {name!r}, which is no regular file")
                data = stream.read(MAX_BYTES + 1 - total)
            total += len(data)
            if total > MAX_BYTES:
                raise _refused(folder, f"has more than {MAX_BYTES >> 20} MiB")
            yield name, data
    except OSError as error:
        raise _refused(folder, f"cannot be read ({error.strerror}); links are not followed") from None


def _links(place: str, folders: list[str]) -> list[str]:
    """Links to folders: they are named, so that they are refused."""
    return [name for name in folders if os.path.islink(os.path.join(place, name))]


def _raise(error: OSError) -> None:
    raise error


def _refused(folder: Path, why: str) -> LocalRefusal:
    return LocalRefusal(
        "trainer_code",
        f"the trainer's code {folder} {why}",
        not_done="the trainer was not run",
        next_step="let `code` name a folder with the trainer's own files and nothing else",
    )
