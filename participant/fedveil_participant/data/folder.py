"""What stands at the path of a data set: one file, or a folder whose files are together one table.

Promise: `.parquet` and `.pq` are Parquet, any other file named by itself is CSV. In a folder every entry is a regular
`.csv` or `.parquet`/`.pq` file, all of one kind, read in the byte order of their names; names that begin with a dot,
and the marks that other tools leave (MARKS), are passed over; anything else, a sub-folder among them, refuses the whole
folder, so that no row is left out in silence. A file may be sealed (`.csv.sealed`, `.parquet.sealed`): nothing of it is
written in clear. A link may lead to a file inside the same folder, never out of it, and no
file counts twice.
"""

import contextlib
import os
import shutil
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from fedveil_common.errors import ConfigError, SealedError
from fedveil_common.named_file import open_named

from fedveil_participant.data.csv_records import CsvRecords
from fedveil_participant.data.parquet_records import parquet_records
from fedveil_participant.data.records import Records, TableFile

PARQUET = frozenset({".parquet", ".pq"})
CSV = frozenset({".csv"})
SEALED = ".sealed"
MARKS = frozenset({"_SUCCESS", "_metadata", "_common_metadata"})
MAX_FILES = 100_000

_NOT_DONE, _NEXT = "no file of it was read", "move away what is no part of the table"


Reveal = Callable[[BinaryIO], BinaryIO]
"""A sealed file, open at its start -> its plaintext as a seekable stream; raises FedveilError."""


def _no_key(stream: BinaryIO) -> BinaryIO:
    raise SealedError(
        "data_key_missing",
        "the data is sealed, and no key to open it was given",
        not_done="no file of it was read",
        next_step="--data-key PRIVATE",
    )


def table_files(path: Path, reveal: Reveal = _no_key) -> tuple[TableFile, ...]:
    """The files of the table at `path`, in order; `reveal` opens those that are sealed. Nothing is opened yet.

    ConfigError `folder_empty`, `folder_mixed`, `folder_entry`, `folder_link`, `folder_twice`, `data_unreadable`.
    """
    try:
        if not path.is_dir():
            return (_file(path, path, reveal),)
        return _folder(path, reveal)
    except OSError as error:
        raise unreadable(path, error) from None


def unreadable(path: Path, error: OSError) -> ConfigError:
    """`data_unreadable`: the operating system's reason."""
    return ConfigError(
        "data_unreadable",
        f"{path} cannot be read ({error.strerror or type(error).__name__})",
        next_step="check the path and who may read it",
    )


def _folder(folder: Path, reveal: Reveal) -> tuple[TableFile, ...]:
    names = [name for name in os.listdir(folder) if not name.startswith(".") and name not in MARKS]
    names.sort(key=os.fsencode)
    root = folder.resolve(strict=True)
    found: list[TableFile] = []
    seen: set[tuple[int, int]] = set()
    kinds: set[bool] = set()
    if not 1 <= len(names) <= MAX_FILES:
        raise ConfigError(
            "folder_empty",
            f"{folder} holds {len(names)} files of a table; 1 to {MAX_FILES} are possible",
            next_step="name a folder of .csv or of .parquet files",
        )
    for name in names:
        entry = folder / name
        target = entry.resolve(strict=True)
        if not target.is_relative_to(root):
            raise ConfigError(
                "folder_link", f"{folder}: {name!r} is a link out of the folder", not_done=_NOT_DONE, next_step=_NEXT
            )
        status = target.stat()
        suffix = _suffix(entry)
        if not stat.S_ISREG(status.st_mode) or suffix not in PARQUET | CSV:
            raise ConfigError(
                "folder_entry",
                f"{folder}: {name!r} is neither a .csv nor a .parquet file",
                not_done=_NOT_DONE,
                next_step=_NEXT,
            )
        if (status.st_dev, status.st_ino) in seen:
            raise ConfigError(
                "folder_twice",
                f"{folder}: {name!r} is a file of the folder under a second name",
                not_done=_NOT_DONE,
                next_step=_NEXT,
            )
        seen.add((status.st_dev, status.st_ino))
        kinds.add(suffix in PARQUET)
        found.append(_file(target, entry, reveal))
    if len(kinds) > 1:
        raise ConfigError(
            "folder_mixed",
            f"{folder} holds CSV and Parquet files",
            not_done=_NOT_DONE,
            next_step=_NEXT,
        )
    return tuple(found)


def _suffix(path: Path) -> str:
    """What kind of table it is, sealed or not."""
    return (path.with_suffix("") if path.suffix.lower() == SEALED else path).suffix.lower()


def _file(path: Path, shown: Path, reveal: Reveal) -> TableFile:
    """`path` is what is opened: a link that appears there after it was looked at is not followed."""
    parquet, sealed = _suffix(shown) in PARQUET, shown.suffix.lower() == SEALED

    @contextmanager
    def opened(names: tuple[str, ...]) -> Iterator[Records]:
        with open_named(path, follow=path is shown, pipe=path is shown) as stream:
            plain = reveal(stream) if sealed else stream
            if not parquet:
                yield CsvRecords(plain)
                return
            with contextlib.ExitStack() as stack:
                if sealed:
                    plain = stack.enter_context(_in_memory(plain))
                yield stack.enter_context(parquet_records(plain, names))

    return TableFile(str(shown), opened)


@contextmanager
def _in_memory(plain: BinaryIO) -> Iterator[BinaryIO]:
    """A file without a name and without a disk: the decoder is another process and needs a descriptor. Takes as much
    memory as the file has bytes.
    """
    with os.fdopen(os.memfd_create("sealed", os.MFD_CLOEXEC), "w+b") as held:
        shutil.copyfileobj(plain, held, 1 << 20)
        held.flush()
        held.seek(0)
        yield held
