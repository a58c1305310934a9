"""Opening a file that a person named: a regular one, or nothing.

Promise: opening neither waits nor disturbs. A named pipe would keep a command waiting for whoever writes to it, a
device may do something when it is opened or never end, a folder has no bytes: each is an OSError, which every reader
turns into its own typed error. What a shell hands over as an open pipe (`<(command)`, `/dev/stdin`) has a writer
already and is read, where the reader allows it. Source: open(2), fifo(7).
"""

import errno
import os
import re
import stat
from pathlib import Path
from typing import BinaryIO

_GIVEN = re.compile(r"/dev/stdin|/dev/fd/[0-9]+|/proc/self/fd/[0-9]+")
"""Names of descriptors that this process was started with."""


def open_named(path: Path, *, follow: bool = True, pipe: bool = False) -> BinaryIO:
    """The file, open at its start. `follow`: a link at `path` is followed. `pipe`: an open pipe may stand in its place.

    OSError: it cannot be opened, or is no regular file.
    """
    return os.fdopen(descriptor(path, follow=follow, pipe=pipe), "rb")


def descriptor(path: Path, *, follow: bool = True, pipe: bool = False) -> int:
    """The same as a descriptor, for its caller to close. OSError as `open_named`."""
    if pipe and _is_given_pipe(path):
        return os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    _check(os.stat(path, follow_symlinks=follow), path)  # before it is opened: a device may not like that
    flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | (0 if follow else os.O_NOFOLLOW)
    opened = os.open(path, flags)
    try:
        _check(os.fstat(opened), path)  # after it: another one may have come since
    except OSError:
        os.close(opened)
        raise
    return opened


def _is_given_pipe(path: Path) -> bool:
    """Whether `path` names an open pipe: one without a name of its own, so that opening it again waits for nobody."""
    text = str(path)
    if not _GIVEN.fullmatch(text):
        return False
    number = 0 if text == "/dev/stdin" else int(path.name)
    return os.readlink(f"/proc/self/fd/{number}").startswith("pipe:")


def _check(found: os.stat_result, path: Path) -> None:
    if stat.S_ISDIR(found.st_mode):
        raise IsADirectoryError(errno.EISDIR, "it is a folder", str(path))
    if stat.S_ISLNK(found.st_mode):
        raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), str(path))
    if not stat.S_ISREG(found.st_mode):
        raise OSError(errno.EINVAL, "it is no regular file", str(path))
