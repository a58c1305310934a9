"""The work of `fedveil key holders`, `key refresh` and `key pin`: keys that nobody dealt, made and kept in homes.

Promise: a message is in no file before what it follows from is durable in the home; a message that is refused moves
nothing and its error names holder and file; what is printed is public.
"""

import pathlib
from collections.abc import Sequence

from fedveil_common import limits
from fedveil_common.errors import ConfigError, PeerError, PolicyRefusal
from fedveil_common.ids import OrgId, check_name
from fedveil_common.paillier.key_record import KeyRecord
from fedveil_common.paillier.key_terms import KeyTerms
from fedveil_common.pki.governance import fingerprint_text
from fedveil_participant import key_ceremonies, key_pins, key_refreshes
from fedveil_participant.key_ring import KeyRing
from fedveil_participant.key_seat import MADE, Progress, Reader, Seat
from fedveil_participant.store.holder_files import Thing

from fedveil_cli.files import read_file
from fedveil_cli.key_home import KeyHome, open_key_home
from fedveil_cli.key_message_files import read_told, write_said
from fedveil_cli.key_record_report import MAX_KEY_RECORD
from fedveil_cli.key_terms_commands import read_terms, refuse_single_holder
from fedveil_cli.output import Output
from fedveil_cli.world import World


def start(
    home: pathlib.Path,
    terms_file: pathlib.Path,
    out: pathlib.Path,
    root: bytes | None,
    passphrase_file: pathlib.Path | None,
    world: World,
    output: Output,
) -> None:
    """`key holders start`."""
    terms = read_terms(terms_file)
    _check_root(terms, root)
    with open_key_home(home, passphrase_file, world, output) as opened:
        _tell_unlisted(opened, terms, output)
        _tell_out(key_ceremonies.start(opened.seat, terms), out, output)
    output.note("compare the root and the modulus with every holder by telephone before you take their messages")


def take(
    home: pathlib.Path,
    paths: Sequence[pathlib.Path],
    out: pathlib.Path,
    key_id: str | None,
    passphrase_file: pathlib.Path | None,
    world: World,
    output: Output,
) -> None:
    """`key holders take`."""
    with open_key_home(home, passphrase_file, world, output) as opened:
        _tell_out(key_ceremonies.take(opened.seat, key_id, _reader(paths)), out, output)


def show(
    home: pathlib.Path, key_id: str | None, passphrase_file: pathlib.Path | None, world: World, output: Output
) -> None:
    """`key holders show`."""
    with open_key_home(home, passphrase_file, world, output) as opened:
        files = opened.seat.files
        ids = sorted({*files.ids(Thing.CEREMONY), *files.ids(Thing.KEY), *files.ids(Thing.PIN)})
        shown = [_of_id(opened.seat, one) for one in ids if key_id in {None, one}]
    if not shown and key_id is not None:
        raise ConfigError("no_key_here", f"this home knows no key {key_id!r}", next_step="check --home and --id")
    lines = [line for _, text in shown for line in text] or ["no key here"]
    output.result({"keys": [value for value, _ in shown]}, lines)


def start_refresh(
    home: pathlib.Path,
    absent: Sequence[str],
    out: pathlib.Path,
    key_id: str | None,
    passphrase_file: pathlib.Path | None,
    world: World,
    output: Output,
) -> None:
    """`key refresh start`."""
    left_out = _names(absent)
    with open_key_home(home, passphrase_file, world, output) as opened:
        _tell_out(key_refreshes.start(opened.seat, key_id, left_out), out, output)
    if left_out:
        output.note(
            "all who are present must leave out the same holders; those take the record with `key refresh adopt`"
        )


def take_refresh(
    home: pathlib.Path,
    paths: Sequence[pathlib.Path],
    absent: Sequence[str],
    out: pathlib.Path,
    key_id: str | None,
    passphrase_file: pathlib.Path | None,
    world: World,
    output: Output,
) -> None:
    """`key refresh take`."""
    with open_key_home(home, passphrase_file, world, output) as opened:
        progress = key_refreshes.take(opened.seat, key_id, _reader(paths), _names(absent) if absent else None)
        _tell_out(progress, out, output)


def adopt(
    home: pathlib.Path,
    record_file: pathlib.Path,
    passphrase_file: pathlib.Path | None,
    world: World,
    output: Output,
) -> None:
    """`key refresh adopt`."""
    record = read_key_record(record_file)
    with open_key_home(home, passphrase_file, world, output) as opened:
        progress = key_refreshes.adopt(opened.seat, record)
    output.result(_value(progress), _lines(progress))


def pin(
    home: pathlib.Path,
    terms_file: pathlib.Path,
    record_file: pathlib.Path,
    root: bytes | None,
    passphrase_file: pathlib.Path | None,
    world: World,
    output: Output,
) -> None:
    """`key pin`."""
    terms, record = read_terms(terms_file), read_key_record(record_file)
    _check_root(terms, root)
    with open_key_home(home, passphrase_file, world, output) as opened:
        _tell_unlisted(opened, terms, output)
        before = key_pins.load_pin(opened.seat.files, terms.terms.key_id)
        after = key_pins.pin(opened.seat.files, terms, record)
    value = {
        "id": terms.terms.key_id,
        "epoch": after.epoch,
        "root": after.root.hex(),
        "fingerprint": after.fingerprint.hex(),
        "modulus": terms.modulus.fingerprint.hex(),
        "origin": terms.modulus.modulus.origin.value,
        "changed": before is None or before[1] != after,
    }
    lines = [f"key {terms.terms.key_id} is pinned at epoch {after.epoch}", *_compare(terms, after.fingerprint)]
    output.result(value, lines)
    if before is None and root is None:
        output.note("compare root and modulus with the holders by telephone: only epochs of this root follow")


def publish(home: pathlib.Path, terms_file: pathlib.Path, record_file: pathlib.Path, output: Output) -> None:
    """`key publish`: what is wrong with a file is said here, the rest by the coordinator."""
    from fedveil_cli import run_commands

    terms, record = read_terms(terms_file), read_key_record(record_file, limits.MAX_KEY_RECORD)
    key = run_commands.connect(home).publish_key(terms.encode(), record.to_bytes())
    lines = [
        f"key {key['id']} is published at epoch {key['epoch']}",
        *_compare(terms, bytes.fromhex(key["fingerprint"])),
    ]
    output.result(key, lines)


def read_key_record(path: pathlib.Path, most: int = MAX_KEY_RECORD) -> KeyRecord:
    """The record in a file, not verified. ConfigError `file_unreadable`,
    `file_too_large` for more than `most` bytes; PeerError `bad_key_message` names the file;
    PolicyRefusal `single_holder_key`.
    """
    data = read_file(path, "the record of the key", most)
    refuse_single_holder(path, data)
    try:
        return KeyRecord.from_bytes(data)
    except PeerError as error:
        raise PeerError(
            error.code,
            f"the file {str(path)!r} is no record of a key: {error.what}",
            not_done="nothing was taken",
            next_step="it may have been cut on its way: ask a holder for `KEY-ID.epoch-N.record` again",
        ) from error


def _reader(paths: Sequence[pathlib.Path]) -> Reader:
    return lambda key_id, epoch: read_told(paths, key_id, epoch)


def _names(texts: Sequence[str]) -> frozenset[OrgId]:
    return frozenset(OrgId(check_name(text, "the absent holder")) for text in texts)


def _check_root(terms: KeyTerms, root: bytes | None) -> None:
    if root not in {None, terms.holders.root}:
        raise PeerError(
            "other_key_root",
            "the terms have another root than --root",
            not_done="nothing was begun or pinned",
            next_step="compare terms and root with the holders by telephone",
        )


def _tell_unlisted(opened: KeyHome, terms: KeyTerms, output: Output) -> None:
    unlisted = opened.check(terms)
    if unlisted:
        output.warn(
            f"the roster of this home does not list these holders under the keys of the terms: {', '.join(unlisted)}"
        )


def _tell_out(progress: Progress, out: pathlib.Path, output: Output) -> None:
    """Writes what we said, then says what came of it."""
    paths = [str(path) for path in write_said(out, progress)]
    for error in progress.refused:
        output.warn(f"an approval was not counted: {error.peer}: {error.what} [{error.code}]")
    record = paths[-1] if progress.record is not None else None
    lines = _lines(progress)
    lines.append(f"wrote {len(paths)} files into {out}: send them to every other holder")
    output.result(_value(progress) | {"files": paths, "record": record}, lines)


def _of_id(seat: Seat, key_id: str) -> tuple[dict[str, object], list[str]]:
    """All that this home knows about one key: our part in it, if we have one, and the pin."""
    value: dict[str, object] = {"id": key_id}
    lines: list[str] = []
    if key_id in {*seat.files.ids(Thing.CEREMONY), *seat.files.ids(Thing.KEY)}:
        progress = key_ceremonies.progress(seat, key_id)
        value, lines = _value(progress), _lines(progress)
        following = key_refreshes.progress(seat, key_id)
        if following is not None:
            value["refresh"] = _value(following)
            lines += ["the next epoch is under way:", *_lines(following)]
    pinned = key_pins.load_pin(seat.files, key_id)
    if pinned is not None:
        after = pinned[1]
        has_record = _has_record(seat, key_id)
        value["pin"] = {
            "epoch": after.epoch,
            "root": after.root.hex(),
            "fingerprint": after.fingerprint.hex(),
            "record": has_record,
        }
        lines += [f"key {key_id} is pinned at epoch {after.epoch}", *_compare(pinned[0], after.fingerprint)]
        if not has_record:
            lines.append("its record is not here, and no run can use it: pin it again with `fedveil key pin`")
    return value, lines


def _has_record(seat: Seat, key_id: str) -> bool:
    try:
        KeyRing(seat.files).accepted(key_id)
    except PolicyRefusal:
        return False
    return True


def _value(progress: Progress) -> dict[str, object]:
    terms, fingerprint = progress.terms, progress.fingerprint
    return {
        "id": terms.terms.key_id,
        "federation": terms.terms.federation,
        "org": terms.holders.name(progress.index),
        "epoch": progress.epoch,
        "stage": progress.stage,
        "made": progress.stage == MADE,
        "awaited": list(progress.awaited),
        "root": terms.holders.root.hex(),
        "modulus": terms.modulus.fingerprint.hex(),
        "fingerprint": None if fingerprint is None else fingerprint.hex(),
        "signers": [] if progress.record is None else [terms.holders.name(one) for one in progress.record.signatures],
        "refused": [{"holder": error.peer, "code": error.code} for error in progress.refused],
    }


def _lines(progress: Progress) -> list[str]:
    terms = progress.terms
    lines = [
        f"key {terms.terms.key_id}, epoch {progress.epoch}, as holder {terms.holders.name(progress.index)}; "
        f"any {terms.terms.threshold} of {len(terms.terms.holders)} open a sum"
    ]
    if progress.stage == MADE:
        lines.append("made: the key is in this home")
    elif progress.awaited:
        lines.append(f"awaited: {progress.stage.replace('_', ' ')} of {', '.join(progress.awaited)}")
    else:
        lines.append("everything is here: the next `take` ends it")
    return [*lines, *_compare(terms, progress.fingerprint)]


def _compare(terms: KeyTerms, fingerprint: bytes | None) -> list[str]:
    """What people read to each other by telephone."""
    lines = [f"root {fingerprint_text(terms.holders.root)}"]
    lines.append(f"modulus {fingerprint_text(terms.modulus.fingerprint)} ({terms.modulus.modulus.origin.value})")
    return lines if fingerprint is None else [*lines, f"fingerprint {fingerprint_text(fingerprint)}"]
