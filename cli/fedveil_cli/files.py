"""Files that a person named on the command line: read whole or written whole, with errors a person can act on."""

import os
import pathlib

from fedveil_common.errors import ConfigError, StorageError

MAX_PLAN = 4 * 1024 * 1024
MAX_MODEL = 1024 * 1024 * 1024


def read_file(path: pathlib.Path, what: str, most: int) -> bytes:
    """The bytes of `path`, at most `most` of them. Raises ConfigError `file_unreadable` or `file_too_large`."""
    try:
        with path.open("rb") as stream:
            data = stream.read(most + 1)
    except OSError as error:
        raise unreadable(path, what, error) from None
    if len(data) > most:
        raise ConfigError(
            "file_too_large", f"{what} {str(path)!r} has more than {most} bytes", next_step="name the right file"
        )
    return data


def unreadable(path: pathlib.Path, what: str, error: OSError) -> ConfigError:
    """`file_unreadable`: the operating system's reason, and which file it was."""
    return ConfigError(
        "file_unreadable",
        f"{what} {str(path)!r} cannot be read: {error.strerror or type(error).__name__}",
        next_step="check the path and who may read the file",
    )


def write_file(path: pathlib.Path, what: str, data: bytes) -> None:
    """`path` holds `data`, durably, or what it held before. Raises StorageError `file_unwritable`."""
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        try:
            with part.open("xb") as stream:
                stream.write(data)
                stream.flush()
                os.fsync(stream.fileno())
            part.replace(path)
        finally:
            part.unlink(missing_ok=True)
    except OSError as error:
        raise StorageError(
            "file_unwritable",
            f"{what} {str(path)!r} cannot be written: {error.strerror or type(error).__name__}",
            not_done="the file is as it was before",
            next_step="check the folder, who may write there, and free space",
        ) from None
