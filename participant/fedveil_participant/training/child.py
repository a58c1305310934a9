"""One call of an organisation's trainer, in processes of its own that all end with the call.

Promise: the trainer gets the job, the rows (a sealed file in memory, without a name) and its code, and nothing else:
no environment, no descriptor of ours, no argument that says more. How far it is kept from the rest of the machine says
its `Confinement`. Whatever it does, this call ends: when an answer is complete, when it says nothing for `silence_s`,
after `limit_s`, when it dies, or when it holds more memory or disk than it may; then every process that it started is
killed (`supervisor`) and its folder is removed. What it prints goes to `log` and nowhere else, at most LOG_BYTES of it.
"""

import contextlib
import fcntl
import json
import math
import os
import selectors
import struct
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from fedveil_common.errors import LocalRefusal
from fedveil_common.jcs import Json
from fedveil_common.ports import Clock
from numpy.typing import NDArray

from fedveil_participant.isolation import bubblewrap
from fedveil_participant.isolation.confine import Order
from fedveil_participant.isolation.levels import Confinement, Isolation
from fedveil_participant.training import scratch, supervisor
from fedveil_participant.training.answer import MAX_HEADER, Answer, Answers

LOG_BYTES = 1024 * 1024
SLICE_S = 0.1
"""How often the clock is looked at while nothing comes."""

_PIECE = 1024 * 1024
_SEALS = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE | fcntl.F_SEAL_SEAL
SHIM = Path(__file__).with_name("shim")
"""The folder of the program that runs in a trainer's process."""

PROCESSES = 256
"""Processes of a trainer at a time, with their threads."""


@dataclass(frozen=True, slots=True)
class Patience:
    """How long a trainer may be silent, and how long a call may take: seconds on the monotonic clock."""

    silence_s: float
    limit_s: float


@dataclass(frozen=True, slots=True)
class Program:
    """What is run: how and by which interpreter, a private copy of the code in a folder of its own, the memory it gets
    (address space of a process, and what all hold together), and the room to write.
    """

    confinement: Confinement
    code: Path
    memory_bytes: int
    scratch_bytes: int


def call(
    program: Program,
    job: Mapping[str, Json],
    model: NDArray[np.float32],
    rows: Sequence[NDArray[np.float64]],
    answer: Answer | Answers,
    patience: Patience,
    clock: Clock,
    log: Callable[[bytes], None],
) -> None:
    """Returns once `answer` is complete. What is in it is the organisation's secret.

    `rows`: arrays that follow each other in the file of rows. LocalRefusal `trainer_*`, all for this operator's eyes.
    """
    header = json.dumps(job).encode()
    if len(header) > MAX_HEADER:
        raise LocalRefusal(
            "trainer_job",
            f"the names of the plan's inputs take {len(header)} bytes and a trainer's job {MAX_HEADER} at most",
            not_done="the trainer was not run",
            next_step="ask for a plan with fewer features or categories",
        )
    data = struct.pack(">I", len(header)) + header + model.astype("<f4").tobytes()
    with contextlib.ExitStack() as stack:
        folder = stack.enter_context(scratch.scratch_folder())
        ours, theirs = _pipes(stack)
        table = _sealed(stack, rows)
        order = _order(program, folder, [theirs.job.fd, theirs.answer.fd, table], patience)
        disk = "" if program.confinement.level is Isolation.BWRAP else order.work
        watched = [str(theirs.life), str(program.memory_bytes), disk, str(program.scratch_bytes)]
        process = subprocess.Popen(
            [sys.executable, "-I", "-m", supervisor.MODULE, *watched, *order.words()],
            stdin=subprocess.DEVNULL,
            stdout=theirs.log.fd,
            stderr=theirs.log.fd,
            env={},
            cwd=folder,
            pass_fds=(theirs.life.fd, theirs.job.fd, theirs.answer.fd, table),
            start_new_session=True,
        )
        kept = _Log(log)
        try:
            theirs.close()
            _Conversation(ours, data, answer, kept).run(patience, clock)
        finally:
            ours.life.close()  # the supervisor kills all that is left
            process.wait()
            kept.rest(ours.log)


def _order(program: Program, folder: Path, keep: list[int], patience: Patience) -> Order:
    """What becomes the trainer. Makes in `folder` what it works in, and a copy of our part, for whoever it runs as."""
    held = program.confinement
    work, shim = folder / "work", folder / "shim"
    work.mkdir(mode=0o700)
    scratch.copy_program(SHIM, shim)
    if held.uid is not None:
        for place in (folder, program.code.parent):
            scratch.give(place, held.uid)
    ours = [(str(shim), bubblewrap.SHIM), (str(program.code), bubblewrap.CODE)]
    places = [place if held.level is Isolation.BWRAP else source for source, place in ours]
    python = held.interpreter
    inside = PROCESSES if held.level is Isolation.BWRAP else 0  # elsewhere others of this user count too: `Order`
    words = [python.python, "-I", "-u", f"{places[0]}/main.py", *map(str, keep), places[1], str(inside)]
    return Order(
        level=held.level.value,
        command=words,
        keep=keep,
        shown=[*((root, root) for root in python.roots), *python.links, *ours],
        work=str(work),
        scratch_bytes=program.scratch_bytes,
        memory_bytes=program.memory_bytes,
        processes=PROCESSES,
        cpu_s=math.ceil(patience.limit_s) * (os.cpu_count() or 1),
        uid=held.uid,
        bwrap=held.bwrap,
    )


@dataclass(frozen=True, slots=True)
class _End:
    """A descriptor, closed once."""

    fd: int
    held: list[int]

    def close(self) -> None:
        while self.held:
            os.close(self.held.pop())

    def __str__(self) -> str:
        return str(self.fd)


@dataclass(frozen=True, slots=True)
class _Ends:
    """The descriptors of one side."""

    life: _End
    job: _End
    answer: _End
    log: _End

    def close(self) -> None:
        for end in (self.life, self.job, self.answer, self.log):
            end.close()


def _pipes(stack: contextlib.ExitStack) -> tuple[_Ends, _Ends]:
    """Our ends, which never wait, and those of the trainer. Both are closed with the stack."""
    pairs = [os.pipe() for _ in range(4)]
    ends = [(_End(read, [read]), _End(write, [write])) for read, write in pairs]
    (life, their_life), (their_job, job), (answer, their_answer), (log, their_log) = [
        (write, read) if number == 0 else (read, write) for number, (read, write) in enumerate(ends)
    ]
    ours, theirs = _Ends(life, job, answer, log), _Ends(their_life, their_job, their_answer, their_log)
    stack.callback(ours.close)
    stack.callback(theirs.close)
    for end in (job, answer, log):
        os.set_blocking(end.fd, False)
    return ours, theirs


def _sealed(stack: contextlib.ExitStack, arrays: Sequence[NDArray[np.float64]]) -> int:
    """A file in memory with the arrays end to end, float64 little-endian, that nobody can change any more."""
    file = os.memfd_create("rows", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    stack.callback(os.close, file)
    for array in arrays:
        view = np.ascontiguousarray(array, dtype="<f8").reshape(-1).view(np.uint8).data
        while view:
            view = view[os.write(file, view) :]
    fcntl.fcntl(file, fcntl.F_ADD_SEALS, _SEALS)
    return file


class _Log:
    """What the trainer prints, up to LOG_BYTES; what is more is read and dropped: the trainer is not held up."""

    def __init__(self, write: Callable[[bytes], None]) -> None:
        self._write, self._room = write, LOG_BYTES

    def take(self, data: bytes) -> None:
        kept = data[: self._room]
        self._room -= len(kept)
        if kept:
            self._write(kept)

    def rest(self, end: _End) -> None:
        """What is still in the pipe, of which nobody holds the other end any more."""
        while data := os.read(end.fd, _PIECE):
            self.take(data)


class _Conversation:
    """Job out, answer and log in, until the answer is complete."""

    def __init__(self, ours: _Ends, job: bytes, answer: Answer | Answers, log: _Log) -> None:
        self._ours, self._job, self._answer, self._log = ours, memoryview(job), answer, log

    def run(self, patience: Patience, clock: Clock) -> None:
        began = heard = clock.monotonic_s()
        signs = 0
        with selectors.DefaultSelector() as waiting:
            waiting.register(self._ours.job.fd, selectors.EVENT_WRITE, self._send)
            waiting.register(self._ours.answer.fd, selectors.EVENT_READ, self._read)
            waiting.register(self._ours.log.fd, selectors.EVENT_READ, self._print)
            while not self._answer.complete:
                for key, _ in waiting.select(SLICE_S):
                    if not key.data():
                        waiting.unregister(key.fd)
                now = clock.monotonic_s()
                if self._answer.signs != signs:
                    signs, heard = self._answer.signs, now
                if not self._answer.complete and now - heard > patience.silence_s:
                    raise LocalRefusal(
                        "trainer_silent",
                        f"the trainer {self._answer.trainer} said nothing for {patience.silence_s:g} s",
                        not_done="it was ended and no update was made",
                        next_step="call job.progress() more often than cohort.progress_s of the plan",
                    )
                if not self._answer.complete and now - began > patience.limit_s:
                    raise LocalRefusal(
                        "trainer_too_slow",
                        f"the trainer {self._answer.trainer} took more than {patience.limit_s:g} s",
                        not_done="it was ended and no update was made",
                        next_step="cohort.hard_limit_s of the plan bounds a round",
                    )

    def _send(self) -> bool:
        """More of the job; False when all of it is out, or the trainer does not want it."""
        try:
            self._job = self._job[os.write(self._ours.job.fd, self._job[:_PIECE]) :]
        except BrokenPipeError:
            return False  # why, the answer's end will tell
        if not self._job:
            self._ours.job.close()
        return bool(self._job)

    def _read(self) -> bool:
        """More of the answer."""
        data = os.read(self._ours.answer.fd, min(self._answer.wanted, _PIECE))
        if not data:
            raise LocalRefusal(
                "trainer_crashed",
                f"the trainer {self._answer.trainer} ended without an answer to {self._answer.name}",
                not_done="no update was made",
                next_step="its log in this home has what it printed; look for a lack of memory",
            )
        self._answer.take(data)
        return True

    def _print(self) -> bool:
        """More of what it prints; False at its end."""
        data = os.read(self._ours.log.fd, _PIECE)
        self._log.take(data)
        return bool(data)
