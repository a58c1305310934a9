"""The holders' messages as files: any channel may carry them, for what must stay secret in them is sealed.

A message of the key icu-1 from acme is `icu-1.epoch-0.acme.1-channel-key.message`; the record at the end is
`icu-1.epoch-0.record`. Promise: the name of a file is for people and decides nothing but which files of a folder are
looked at; who said what is decided by the signature. Every file here is public.
"""

import pathlib
import re
from collections.abc import Sequence

from fedveil_common import durable
from fedveil_common.errors import PeerError
from fedveil_common.paillier.ceremony_messages import SignedMessage
from fedveil_participant.key_seat import MAX_FILE, Progress, Told

from fedveil_cli.files import read_file, unreadable, write_file

SUFFIX = ".message"
_NAME = re.compile(r"([a-z0-9_-]{1,64})\.epoch-([0-9]{1,10})\.")


def write_said(folder: pathlib.Path, progress: Progress) -> list[pathlib.Path]:
    """Everything that we said, and the record once there is one, in `folder`; the paths. Repeated, it writes the same
    bytes. StorageError `file_unwritable`.
    """
    durable.make_folder(folder)
    start = f"{progress.terms.terms.key_id}.epoch-{progress.epoch}"
    paths = []
    for message in progress.said:
        kind = message.kind.name.lower().replace("_", "-")
        sender = progress.terms.holders.name(message.sender)
        path = folder / f"{start}.{sender}.{message.kind.value}-{kind}{SUFFIX}"
        write_file(path, "the message", message.to_bytes())
        paths.append(path)
    if progress.record is not None:
        path = folder / f"{start}.record"
        write_file(path, "the record", progress.record.to_bytes())
        paths.append(path)
    return paths


def read_told(paths: Sequence[pathlib.Path], key_id: str, epoch: int) -> list[Told]:
    """The messages in the files that were named, and in the `.message` files of folders that were named, but for those
    that are called after another key or epoch.

    ConfigError `file_unreadable`, `file_too_large`; PeerError `bad_key_message`, naming the file.
    """
    found = []
    for path in paths:
        for file in _in_folder(path, key_id, epoch) if path.is_dir() else [path]:
            data = read_file(file, "the message", MAX_FILE)
            try:
                found.append(Told(SignedMessage.from_bytes(data), str(file)))
            except PeerError as error:
                raise _no_message(file, error) from error
    return found


def _in_folder(folder: pathlib.Path, key_id: str, epoch: int) -> list[pathlib.Path]:
    try:
        files = sorted(path for path in folder.iterdir() if path.name.endswith(SUFFIX) and path.is_file())
    except OSError as error:
        raise unreadable(folder, "the folder of messages", error) from None
    return [path for path in files if _about(path) in {None, (key_id, epoch)}]


def _about(path: pathlib.Path) -> tuple[str, int] | None:
    """Which key and epoch a file is called after; None for a name that somebody else chose."""
    match = _NAME.match(path.name)
    return None if match is None else (match[1], int(match[2]))


def _no_message(file: pathlib.Path, error: PeerError) -> PeerError:
    """Nobody signed what cannot be read: the file is named, and the holder only as the name says it."""
    said = file.name.removesuffix(SUFFIX).split(".")
    whose = f", which is called after {said[2]}," if _about(file) is not None and len(said) > 3 else ""
    return PeerError(
        error.code,
        f"the file {str(file)!r}{whose} is no message: {error.what}",
        not_done="nothing of what was given was taken, and nothing was written",
        next_step="it may have been cut on its way: ask for it again, or name the right files",
    )
