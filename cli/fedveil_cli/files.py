"""Files that a person named on the command line: read whole or written whole, with errors a person can act on."""

import io
import os
import pathlib
import stat
import sys

from fedveil_common.errors import ConfigError, StorageError
from fedveil_common.named_file import open_named

MAX_PLAN = 4 * 1024 * 1024
MAX_MODEL = 1024 * 1024 * 1024
STDOUT = 1


def read_file(path: pathlib.Path, what: str, most: int) -> bytes:
    """The bytes of `path`, at most `most` of them. Raises ConfigError `file_unreadable`, also for what is neither a
    regular file nor an open pipe, or `file_too_large`.
    """
    try:
        with open_named(path, pipe=True) as stream:
            data = stream.read(most + 1)
    except OSError as error:
        raise unreadable(path, what, error) from None
    check_size(path, what, data, most)
    return data


def check_size(path: pathlib.Path, what: str, data: bytes, most: int) -> None:
    """Returns for at most `most` bytes. ConfigError `file_too_large`."""
    if len(data) > most:
        raise too_large(path, what, most)


def too_large(path: pathlib.Path, what: str, most: int) -> ConfigError:
    """`file_too_large`."""
    return ConfigError(
        "file_too_large", f"{what} {str(path)!r} has more than {most} bytes", next_step="name the right file"
    )


def unreadable(path: pathlib.Path, what: str, error: OSError) -> ConfigError:
    """`file_unreadable`: the operating system's reason, and which file it was."""
    return ConfigError(
        "file_unreadable",
        f"{what} {str(path)!r} cannot be read: {error.strerror or type(error).__name__}",
        next_step="check the path and who may read the file",
    )


def check_home(home: pathlib.Path) -> None:
    """ConfigError `home_unusable` if `home` is there and is no folder, or cannot be looked at."""
    try:
        found = _status(home)
    except OSError as error:
        raise _unusable(home, error.strerror or type(error).__name__) from None
    if found is not None and not stat.S_ISDIR(found.st_mode):
        raise _unusable(home, "it is no folder")


def check_writable(home: pathlib.Path) -> None:
    """ConfigError `home_unusable` if this user may not write into `home`, or not make it. Before anything is done."""
    check_home(home)
    nearest = next((folder for folder in (home, *home.absolute().parents) if folder.exists()), home)
    if not os.access(nearest, os.W_OK | os.X_OK):
        raise _unusable(home, f"this user may not write into {nearest}")


def _unusable(home: pathlib.Path, why: str) -> ConfigError:
    return ConfigError(
        "home_unusable", f"the home {str(home)!r} cannot be used: {why}", next_step="choose another --home"
    )


def check_not_read(out: pathlib.Path, *read: pathlib.Path | None) -> None:
    """Returns if `out` is none of the files that the same command reads, under whatever name: a key that is overwritten
    by what it opened opens nothing again. ConfigError `same_file`.
    """
    for given in read:
        if given is not None and os.path.exists(out) and os.path.exists(given) and os.path.samefile(out, given):
            raise ConfigError("same_file", f"--out is the file {str(given)!r} that is read", next_step="choose another")


def write_file(path: pathlib.Path, what: str, data: bytes) -> None:
    """`path` holds `data`, durably, or what it held before. Raises StorageError `file_unwritable`.

    A symbolic link stays, and the file that it names is written. What is no regular file (a pipe, a device), and the
    file that is this process's stdout, is written through and never replaced.
    """
    not_done = "the file is as it was before"
    try:
        found = _status(path)
        if found is not None and (_is_stdout(found) or not stat.S_ISREG(found.st_mode)):
            not_done = "what was written before the error may have arrived"
            _write_through(path, found, data)
        else:
            _replace(pathlib.Path(os.path.realpath(path)), data)
    except OSError as error:
        raise StorageError(
            "file_unwritable",
            f"{what} {str(path)!r} cannot be written: {error.strerror or type(error).__name__}",
            not_done=not_done,
            next_step="check the folder, who may write there, and free space",
        ) from None


def _status(path: pathlib.Path) -> os.stat_result | None:
    try:
        return path.stat()
    except FileNotFoundError:
        return None


def _is_stdout(found: os.stat_result) -> bool:
    try:
        return os.path.samestat(found, os.fstat(STDOUT))
    except OSError:
        return False


def _write_through(path: pathlib.Path, found: os.stat_result, data: bytes) -> None:
    if _is_stdout(found):  # opened anew, a file would be emptied and written from its beginning by two
        if sys.stdout is not None:
            sys.stdout.flush()
        with os.fdopen(os.dup(STDOUT), "wb", buffering=0) as stream:
            _write_all(stream, data)
        return
    with path.open("wb", buffering=0) as stream:
        _write_all(stream, data)


def _write_all(stream: io.FileIO, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[stream.write(view) :]


def _replace(path: pathlib.Path, data: bytes) -> None:
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with part.open("xb") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)
