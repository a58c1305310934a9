"""An organisation's home with a key in it, and trainers that try to get at it, at each level that this machine has."""

import ast
import contextlib
import functools
import os
import pathlib
import shutil
import sys
import tempfile
import textwrap
from collections.abc import Iterator
from dataclasses import replace

import pytest
from fedveil_common import initial
from fedveil_common.errors import LocalRefusal
from fedveil_participant.isolation import interpreter, other_user, probe
from fedveil_participant.isolation.levels import Confinement, Isolation
from fedveil_participant.training.own_trainer import OwnTrainer, TrainerConfig
from test_own_trainers import PLAN, LookedAt, children, rows

MIB = 1024 * 1024
LEVELS = [Isolation.BWRAP, Isolation.LANDLOCK]


@functools.cache
def reachable() -> str:
    """An interpreter that another user may run too: where the tests run as root, a trainer is such a user."""
    if os.getuid():
        return sys.executable
    for python in (sys.executable, "/usr/bin/python3"):
        at = Confinement(Isolation.LANDLOCK, interpreter.look_at(python), other_user.unused_uid())
        if not probe.try_out(at, ("numpy",)):
            return python
    return sys.executable


@functools.cache
def confinement(level: Isolation) -> tuple[Confinement, str]:
    """How a trainer is held at this level, and why it cannot be here (empty: it can)."""
    uid = other_user.unused_uid() if os.getuid() == 0 else None
    python = sys.executable if level is Isolation.BWRAP else reachable()
    held = Confinement(level, interpreter.look_at(python), uid, shutil.which("bwrap") or "")
    return held, probe.try_out(held, ("numpy",))


class House:
    """An organisation's home with a key in it, and a trainer that is written for one test."""

    def __init__(self, folder: pathlib.Path) -> None:
        self.home = folder / "home"
        self.home.mkdir(parents=True)
        self.key = self.home / "masking.key"
        self.key.write_text("the masking key")
        self.key.chmod(0o666)  # the modes of files are not what keeps it
        self.code = folder / "code"
        self.log = bytearray()

    def trainer(self, held: Confinement, body: str, *, memory_mib: int = 2048, scratch_mib: int = 16) -> OwnTrainer:
        """One whose `update` is `body`; `say` prints a value for `said`."""
        self.code.mkdir(exist_ok=True)
        lines = [
            "import ctypes, errno, os, signal, socket, stat, subprocess, sys, threading, time",
            "import numpy as np",
        ]
        lines += [f"KEY, HOME, ME = {str(self.key)!r}, {str(self.home)!r}, {os.getpid()}"]
        lines += ["def say(value):", "    os.write(1, (repr(value) + chr(10)).encode())", HOW]
        lines += ["class Own:", "    def update(self, job):", textwrap.indent(textwrap.dedent(body), "        ")]
        (self.code / "own.py").write_text("\n".join(lines) + "\n        return np.zeros(4)\n")
        config = TrainerConfig("risk", sys.executable, "own:Own", self.code, memory_mib * MIB)
        config = replace(config, scratch_bytes=scratch_mib * MIB)
        return OwnTrainer(config, held, lambda found: None, LookedAt(), self.log.extend)

    def said(self, held: Confinement, body: str, *, memory_mib: int = 2048, scratch_mib: int = 16) -> list[object]:
        """What it printed, after it ended well."""
        before = children()
        trainer = self.trainer(held, body, memory_mib=memory_mib, scratch_mib=scratch_mib)
        assert not trainer.update(PLAN, initial.initial_model(PLAN), rows(20)).any()
        assert children() == before
        return [ast.literal_eval(line) for line in self.log.decode().splitlines()]

    def ended(self, held: Confinement, body: str, *, memory_mib: int = 2048, scratch_mib: int = 16) -> str:
        """What it printed before it was ended for good reason, with all that it started."""
        before = children()
        trainer = self.trainer(held, body, memory_mib=memory_mib, scratch_mib=scratch_mib)
        with pytest.raises(LocalRefusal) as caught:
            trainer.update(PLAN, initial.initial_model(PLAN), rows(20))
        assert caught.value.code == "trainer_crashed"
        assert children() == before
        return self.log.decode()


HOW = '''
def how(work, *arguments):
    """What came of it: the name of the error, or "did it"."""
    try:
        work(*arguments)
    except OSError as error:
        return errno.errorcode[error.errno]
    except MemoryError:
        return "ENOMEM"
    return "did it"

libc = ctypes.CDLL(None, use_errno=True)

def call(number, *arguments):
    """How a system call by number ends."""
    made = [ctypes.c_long(one) if isinstance(one, int) else one for one in arguments]
    if libc.syscall(ctypes.c_long(number), *made) >= 0:
        return "did it"
    return errno.errorcode[ctypes.get_errno()]
'''


def one_that_holds(level: Isolation) -> Confinement:
    """This level, or the other one where it is not here, which `test_a_level_is_here_or_says_why` asserts."""
    found, why = confinement(level)
    if why:
        found, why = confinement(Isolation.BWRAP if level is Isolation.LANDLOCK else Isolation.LANDLOCK)
    if why:
        pytest.skip(f"nothing on this machine keeps a trainer apart ({why}); CI has one of them at least")
    return found


@contextlib.contextmanager
def open_to_everybody() -> Iterator[House]:
    """A house in which every user may look around, so that nothing but the isolation stands before the key."""
    folder = pathlib.Path(tempfile.mkdtemp(prefix="fedveil-house-"))
    folder.chmod(0o755)
    try:
        yield House(folder)
    finally:
        shutil.rmtree(folder)
