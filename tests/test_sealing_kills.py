"""Sealing, opening and both rotations by processes that are killed before each of their writes."""

import io
import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
from fedveil_common.sealing import files
from fedveil_common.sealing.header import CHUNK, Subject

from tests.test_sealing import ENTROPY, OTHER, OURS, anything, by, content, for_keys, opened, sealed

CALLS = ("open", "pwrite", "fsync", "link", "rename")
"""By which something comes into a folder."""


def killed_at(number: int, work: Callable[[], object]) -> int:
    """Does `work` in a process of its own, which is killed before this one of its CALLS; how it ended: -9, or 0."""
    child = os.fork()
    if child:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    left = [number]

    def dying(call: Callable[..., object]) -> Callable[..., object]:
        def counted(*arguments: object, **named: object) -> object:
            left[0] -= 1
            if not left[0]:
                os.kill(os.getpid(), signal.SIGKILL)
            return call(*arguments, **named)

        return counted

    try:
        for name in CALLS:
            setattr(os, name, dying(getattr(os, name)))
        work()
        os._exit(0)
    finally:
        os._exit(1)


OWN = Subject("model", "hospitals", "run-1")


def do(what: str, source: bytes, out: Path) -> None:
    own = for_keys(OTHER.public_key(), subject=OWN)
    match what:
        case "seal":
            files.seal(io.BytesIO(source), len(source), out, OWN, own, ENTROPY)
        case "open":
            files.unseal(io.BytesIO(source), out, by(OURS), anything)
        case "rewrap":
            files.rewrap(io.BytesIO(source), out, by(OURS), own)
        case "reencrypt":
            files.reencrypt(io.BytesIO(source), out, by(OURS), own, ENTROPY)


@pytest.mark.parametrize("before", [b"", b"what was here"], ids=["new", "replacing"])
@pytest.mark.parametrize("what", ["seal", "open", "rewrap", "reencrypt"])
def test_a_kill_at_any_write_leaves_what_was_or_what_was_to_be(what: str, before: bytes, tmp_path: Path) -> None:
    """Of sealing, opening and both rotations: nothing half-sealed, nothing half-open, and no temporary file but for the
    instant in which a whole file takes the place of another.
    """
    plain = content(CHUNK + 9)
    source = plain if what == "seal" else sealed(tmp_path, plain, for_keys(OURS.public_key(), subject=OWN), OWN)
    (tmp_path / "sealed").unlink(missing_ok=True)
    out, number, ends, kept, beside = tmp_path / "out", 0, [], [], []
    while not ends or ends[-1]:
        number += 1
        if before:
            out.write_bytes(before)
        else:
            out.unlink(missing_ok=True)
        ends.append(killed_at(number, lambda: do(what, source, out)))
        found = out.read_bytes() if out.exists() else b""
        if found != before:
            assert (found if what == "open" else opened(tmp_path, found, by(OTHER))) == plain
            (tmp_path / "opened").unlink(missing_ok=True)
        kept.append(found == before)
        for path in tmp_path.iterdir():
            if path != out:
                assert path.name.startswith(".tmp-")
                beside.append(path.read_bytes())
                path.unlink()
    assert ends == [-signal.SIGKILL] * (number - 1) + [0]
    assert number > 6
    assert kept == sorted(kept, reverse=True), "first what was, then what was to be"
    assert (kept[0], kept[-1]) == (True, False)
    assert len(beside) == (1 if before else 0)
    for whole in beside:
        assert (whole if what == "open" else opened(tmp_path, whole, by(OTHER))) == plain
