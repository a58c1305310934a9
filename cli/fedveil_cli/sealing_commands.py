"""`data key|seal|open|rewrap|show`: sealed files from the command line.

Promise: no secret is an argument, printed or in an error; an output file is written whole or not at all, and never over
the file that is read. What a sealed file says of itself is shown as its word until a key has opened it.
"""

import contextlib
import functools
import os
import pathlib
import stat
from collections.abc import Iterator, Mapping, Sequence
from typing import BinaryIO

from fedveil_common.errors import ConfigError, StorageError
from fedveil_common.ids import check_name
from fedveil_common.named_file import open_named
from fedveil_common.sealing import files, header, key_files, recipients
from fedveil_common.sealing.header import Header, Subject
from fedveil_common.secret import Passphrase, Seed

from fedveil_cli.files import check_not_read, read_file, unreadable, write_file
from fedveil_cli.output import Output, TextTable
from fedveil_cli.passphrases import given_passphrase, passphrase
from fedveil_cli.world import real_world

KIND = "data"
LOCAL = "local"
"""The federation of a file that belongs to none."""

MAX_KEY = 64 * 1024


def make_key(out: pathlib.Path, rsa: bool, passphrase_file: pathlib.Path | None, output: Output) -> None:
    """`data key`. ConfigError `file_exists`: a private key is never overwritten."""
    private, public = (out.with_name(out.name + suffix) for suffix in (".key", ".pub"))
    for path in (private, public):
        if path.exists():
            raise ConfigError(
                "file_exists", f"{path} exists", not_done="no key was made", next_step="name another --out"
            )
    given = given_passphrase(passphrase_file, "passphrase", output)
    made = key_files.new_rsa() if rsa else key_files.new_x25519(real_world().entropy)
    _write_new(private, key_files.private_pem(made, given))
    write_file(public, "the public key", key_files.public_pem(made.public_key()))
    mark = recipients.fingerprint(made.public_key())
    output.result(
        {"private": str(private), "public": str(public), "fingerprint": mark, "sealed": given is not None},
        [
            f"private key {private}: keep it",
            f"public key {public}: give it to those who seal for you",
            f"fingerprint {mark}",
        ],
    )
    if given is None:
        output.warn(f"{private} is in clear; --passphrase-file seals it")


def _write_new(path: pathlib.Path, data: bytes) -> None:
    """A file of its owner alone that was not there before, durably. StorageError `file_unwritable`."""
    try:
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
    except OSError as error:
        raise StorageError(
            "file_unwritable",
            f"the private key {str(path)!r} cannot be written: {error.strerror or type(error).__name__}",
            not_done="no key was made",
            next_step="check the folder, who may write there, and free space",
        ) from None


def seal(
    file: pathlib.Path,
    out: pathlib.Path,
    to: Sequence[pathlib.Path],
    name: str | None,
    federation: str | None,
    passphrase_file: pathlib.Path | None,
    output: Output,
) -> None:
    """`data seal`. ConfigError `file_unreadable`, `file_changed`, `bad_name`, `recipient_*`, `recipient_mixed`."""
    subject = _subject(file, name, federation)
    wrap = wrapping(to, passphrase_file, subject, output)
    with reading(file) as source:
        check_out(source, out, *to, passphrase_file)
        length = os.fstat(source.fileno()).st_size
        made = files.seal(source, length, real_path(out), subject, wrap, real_world().entropy)
    say(made, out, f"sealed {length} bytes of {file.name}", output)


def open_file(
    file: pathlib.Path,
    out: pathlib.Path,
    key: pathlib.Path | None,
    name: str | None,
    federation: str | None,
    passphrase_file: pathlib.Path | None,
    output: Output,
) -> None:
    """`data open`. PeerError and SealedError as `files.unseal`."""
    expected = files.expect(KIND, federation, name)
    with reading(file) as source:
        check_out(source, out, key, passphrase_file)
        made = files.unseal(source, real_path(out), unwrapping(key, passphrase_file, output), expected)
    say(made, out, f"opened {made.length} bytes", output)


def rewrap(
    file: pathlib.Path,
    out: pathlib.Path,
    to: Sequence[pathlib.Path],
    key: pathlib.Path | None,
    reencrypt: bool,
    passphrase_file: pathlib.Path | None,
    output: Output,
    kind: str = KIND,
) -> None:
    """`data rewrap`, `model rewrap`: for public keys alone. Errors as `open_file`."""
    if not to:
        raise ConfigError("recipient_missing", "nobody to seal for was named", next_step="--to PUBLIC.pem")
    unwrap = unwrapping(key, passphrase_file, output)
    with reading(file) as source:
        check_out(source, out, *to, key, passphrase_file)
        subject = header.parse(source)[0].subject
        files.expect(kind, None, None)(subject)
        source.seek(0)
        wrap = wrapping(to, None, subject, output)
        if reencrypt:
            made = files.reencrypt(source, real_path(out), unwrap, wrap, real_world().entropy)
        else:
            made = files.rewrap(source, real_path(out), unwrap, wrap)
    say(made, out, "sealed under a new data key" if reencrypt else "the same data key, other recipients", output)
    if not reencrypt:
        output.note("who could open the file before still can: --reencrypt makes one that they cannot")


def show(file: pathlib.Path, output: Output) -> None:
    """`data show`."""
    with reading(file) as source:
        found, _ = header.parse(source)
    say(found, file, "not verified: only a recipient's key can", output)


def say(found: Header, path: pathlib.Path, what: str, output: Output, more: Mapping[str, object] | None = None) -> None:
    """What a sealed file holds and who opens it; `what`: what was done with it, `more`: of it under --json."""
    listed = [
        {"way": one.way, "recipient": one.recipient if one.way != recipients.PASSPHRASE else ""} for one in found.slots
    ]
    subject = found.subject
    output.result(
        {
            "file": str(path),
            "kind": subject.kind,
            "federation": subject.federation_id,
            "object": subject.object_id,
            "size_bytes": found.length,
            "recipients": [dict(one) for one in listed],
            **(more or {}),
        },
        [
            f"{path}: {what}",
            f"{subject.kind} {subject.object_id}, federation {subject.federation_id}, {found.length} bytes in clear",
            TextTable(("opened by", "fingerprint"), [(one["way"], one["recipient"]) for one in listed]),
        ],
    )


def _subject(file: pathlib.Path, name: str | None, federation: str | None) -> Subject:
    object_id = check_name(file.stem.lower() if name is None else name, "the name of what is sealed (--name)")
    return Subject(KIND, check_name(LOCAL if federation is None else federation, "the federation"), object_id)


def wrapping(
    to: Sequence[pathlib.Path], passphrase_file: pathlib.Path | None, subject: Subject, output: Output
) -> files.Wrap:
    """How the data key of `subject` is wrapped: for the public keys `to`, or, without, under a passphrase."""
    if to and passphrase_file is not None:
        raise ConfigError(
            "recipient_mixed",
            "a file is sealed for keys or under a passphrase, not both",
            not_done="nothing was sealed",
            next_step="leave out --to or --passphrase-file",
        )
    if to:
        keys = public_keys(to)
        return lambda data_key: recipients.wrap_for(keys, data_key, subject)
    given = passphrase(passphrase_file, "passphrase", "--to PUBLIC.pem, or --passphrase-file", output, confirm=True)
    return lambda data_key: recipients.wrap_passphrase(given, data_key, subject, real_world().entropy)


def unwrapping(key: pathlib.Path | None, passphrase_file: pathlib.Path | None, output: Output) -> files.Unwrap:
    """How a data key is found: by the private key in the file `key`, or, without, by a passphrase."""
    if key is None:
        given = passphrase(passphrase_file, "passphrase", "--key PRIVATE.pem, or --passphrase-file", output)
        return functools.partial(_with_passphrase, given)
    private = private_key(key, passphrase_file, output)
    return lambda found_header: recipients.unwrap(found_header, private)


def private_key(key: pathlib.Path, passphrase_file: pathlib.Path | None, output: Output) -> recipients.PrivateRecipient:
    """The private key in the file `key`, which may be under a passphrase."""
    found = given_passphrase(passphrase_file, "passphrase", output)
    return key_files.read_private(read_file(key, "the private key", MAX_KEY), str(key), found)


def public_keys(to: Sequence[pathlib.Path]) -> list[recipients.PublicRecipient]:
    """The recipients in the files `to`."""
    return [key_files.read_public(read_file(path, "the public key", MAX_KEY), str(path)) for path in to]


def _with_passphrase(given: Passphrase, found: Header) -> Seed:
    return recipients.unwrap_passphrase(found, given)


@contextlib.contextmanager
def reading(path: pathlib.Path) -> Iterator[BinaryIO]:
    """A regular file, open at its start. ConfigError `file_unreadable`."""
    try:
        stream = open_named(path)
    except OSError as error:
        raise unreadable(path, "the file", error) from None
    with stream:
        yield stream


def check_out(source: BinaryIO, out: pathlib.Path, *read: pathlib.Path | None) -> None:
    """ConfigError `output_refused` for a place that must not be replaced; `same_file` for one of `read`, the files that
    the command reads beside `source`.
    """
    check_not_read(out, *read)
    why = ""
    try:
        found = out.stat()
    except FileNotFoundError:
        why = "" if real_path(out).parent.is_dir() else "its folder does not exist"
    except OSError as error:
        why = error.strerror or type(error).__name__
    else:
        if os.path.samestat(found, os.fstat(source.fileno())):
            why = "it is the file that is read"
        elif not stat.S_ISREG(found.st_mode):
            why = "it is no regular file"
    if why:
        raise ConfigError(
            "output_refused",
            f"{out} cannot be written: {why}",
            not_done="nothing was written",
            next_step="name another --out",
        )


def real_path(out: pathlib.Path) -> pathlib.Path:
    """Where `out` really is: a symbolic link stays."""
    return pathlib.Path(os.path.realpath(out))
