"""Masks made ahead of time: each given out once, by a process that ends when it must and whose death stops nothing."""

import contextlib
import io
import os
import select
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import IO

import gmpy2
import numpy as np
import pytest
from fedveil_cli import mask_process
from fedveil_common.paillier import encryption
from fedveil_participant.mask_frames import Request
from fedveil_participant.mask_pool import RESTARTS, MaskPool, Worker
from fedveil_participant.mask_worker import BATCH, serve
from fedveil_simulation.ports import SeededEntropy

from tests.paillier_parties import NAMES, Parties, parties, updates
from tests.paillier_round import Attempt

LIMIT_S = 60.0
"""After so long a test that waits for another process fails."""


def key_of_two() -> Parties:
    return parties(1, 2)


def frames(count: int, seed: int = 0) -> bytes:
    all_of = key_of_two()
    request, entropy = Request.of(all_of.key, 2), SeededEntropy(seed, "masks")
    return b"".join(request.write_mask(one) for one in all_of.encryptor.masks(count, 2, entropy))


@dataclass
class Said:
    """A worker that said `data` and died. `kills`, `waits`: how often it was ended and collected."""

    data: bytes
    kills: int = 0
    waits: int = 0
    stdin: IO[bytes] = field(default_factory=io.BytesIO)
    stdout: IO[bytes] = field(default_factory=io.BytesIO)

    def __post_init__(self) -> None:
        self.stdout = io.BytesIO(self.data)

    def kill(self) -> None:
        self.kills += 1

    def wait(self) -> int:
        self.waits += 1
        return -9


@dataclass
class Starts:
    """Each start is the next of `said`, or no process at all; then there is none any more."""

    said: list[bytes | None]
    made: list[Said] = field(default_factory=list)
    asked: int = 0

    def __call__(self) -> Worker:
        self.asked += 1
        data = self.said[self.asked - 1] if self.asked <= len(self.said) else None
        if data is None:
            raise BlockingIOError("no more processes")
        self.made.append(Said(data))
        return self.made[-1]


def until(pool: MaskPool, true: Callable[[], bool]) -> None:
    with pool._changed:
        assert pool._changed.wait_for(true, LIMIT_S)


def headers(masks: list[encryption.Mask]) -> list[int]:
    return [int(one.spend()[1]) for one in masks]


# --- what waits -------------------------------------------------------------------------------------------------------


def test_no_more_wait_than_shall_and_each_is_given_out_once() -> None:
    starts = Starts([frames(9)])
    pool = MaskPool(key_of_two().key, 2, 3, starts, restarts=0)
    until(pool, pool.ready)
    assert len(pool._waiting) == 3
    assert starts.made[0].stdin.getvalue() == Request.of(key_of_two().key, 2).to_bytes()  # type: ignore[attr-defined]
    given = []
    while len(given) < 9:
        until(pool, lambda: bool(pool._waiting))
        taken = pool.take(2, 2)
        assert len(pool._waiting) <= 3
        given += taken
    until(pool, lambda: pool.ended)
    assert not pool.ready()
    assert pool.take(5, 2) == []
    assert [one.width for one in given] == [2] * 9
    assert len(set(headers(given))) == 9
    with pytest.raises(ValueError, match="was used"):
        given[0].spend()
    pool.close()


def test_wide_masks_serve_narrow_blocks_and_narrow_ones_no_wide_blocks() -> None:
    pool = MaskPool(key_of_two().key, 1, 2, Starts([]), restarts=0)
    assert pool.take(1, 2) == []
    pool.close()
    pool = MaskPool(key_of_two().key, 2, 2, Starts([frames(2)]), restarts=0)
    until(pool, pool.ready)
    before = list(pool._waiting)
    given = pool.take(2, 1)
    assert [one.width for one in given] == [1, 1]
    assert [one.width for one in before] == [0, 0]  # spent by the narrow ones
    pool.close()


def test_a_pool_is_of_its_key() -> None:
    key = key_of_two().key
    for width, target, what in ((0, 1, "columns"), (3, 1, "columns"), (2, 0, "at least one")):
        with pytest.raises(ValueError, match=what):
            MaskPool(key, width, target, Starts([]))


def test_a_forked_process_gets_none_and_ends_nobody_s_worker() -> None:
    starts = Starts([frames(3)])
    pool = MaskPool(key_of_two().key, 2, 2, starts, restarts=0)
    until(pool, pool.ready)
    inherited = list(pool._waiting)
    pid = os.fork()
    if pid == 0:
        with contextlib.suppress(BaseException):
            pool.close()
            nothing = pool.take(2, 2) == [] and not pool.ready() and pool.ended
            kept = starts.made[0].kills == 0 and not any(one.width for one in inherited)
            os._exit(0 if nothing and kept else 1)
        os._exit(2)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert len(pool.take(2, 2)) == 2
    pool.close()


# --- workers that die -------------------------------------------------------------------------------------------------


def test_a_worker_that_died_is_replaced_and_collected() -> None:
    starts = Starts([frames(1), None, frames(2, 1)[:-1], frames(2, 2)])
    pool = MaskPool(key_of_two().key, 2, 9, starts)
    until(pool, lambda: pool.ended)
    assert starts.asked == 1 + RESTARTS
    assert [(one.kills, one.waits) for one in starts.made] == [(1, 1)] * 3
    assert all(pipe.closed for one in starts.made for pipe in (one.stdin, one.stdout))
    assert len(set(headers(pool.take(9, 2)))) == 4  # all that were whole
    pool.close()
    assert [(one.kills, one.waits) for one in starts.made] == [(1, 1)] * 3


@pytest.mark.parametrize("data", [b"\0\0\0\1x", b"\0\0\0\0", b"\xff\xff\xff\xff", b"Traceback (most recent"])
def test_a_worker_that_says_something_else_is_ended(data: bytes) -> None:
    starts = Starts([data, frames(1)])
    pool = MaskPool(key_of_two().key, 2, 1, starts)
    until(pool, pool.ready)
    assert (starts.made[0].kills, starts.made[0].waits) == (1, 1)
    pool.close()


def test_without_any_worker_an_input_is_encrypted_all_the_same() -> None:
    all_of = key_of_two()
    pool = MaskPool(all_of.key, 2, 4, Starts([frames(1)]))
    until(pool, lambda: pool.ended)
    round, vectors = Attempt(all_of, 300), updates(2, 300)
    for org, one in zip(NAMES, vectors, strict=False):  # the first block of the first with the one mask that there is
        round.join(org, one, pool)
    assert np.array_equal(round.open((0, 1)), sum(vectors))
    pool.close()


# --- the worker's side ------------------------------------------------------------------------------------------------


class Limited(io.BytesIO):
    """A pipe whose reader goes after `limit` masks."""

    limit = 3

    def write(self, data: object) -> int:
        self.limit -= 1
        if self.limit < 0:
            raise BrokenPipeError
        return super().write(data)  # type: ignore[arg-type]


def test_masks_are_written_until_nobody_reads_and_the_end_of_the_input_is_seen() -> None:
    all_of, ended, out = key_of_two(), [], Limited()
    out.limit = BATCH + 1
    request = Request.of(all_of.key, 2)
    with pytest.raises(BrokenPipeError):
        serve(io.BytesIO(request.to_bytes()), out, SeededEntropy(3, "worker"), lambda: ended.append(1))
    assert ended == [1]
    said = io.BytesIO(out.getvalue())
    key, group, seen = all_of.key, all_of.group, set()
    for _ in range(BATCH + 1):
        exponent, header, lift, powers = request.read_mask(said).spend()
        r = encryption.exponent_value(exponent)
        assert header == gmpy2.powmod(key.g, r, group.n)
        assert lift == group.lift(header)
        assert powers == tuple(gmpy2.powmod(one, r, group.cipher) for one in key.lifted)
        seen.add(int(r))
    assert len(seen) == BATCH + 1
    with pytest.raises(EOFError):
        request.read_mask(said)


@pytest.mark.parametrize("s", [1, 2, 3])
def test_a_request_arrives_as_it_was_sent(s: int) -> None:
    key = parties(s).key
    request = Request.of(key, 2)
    data = request.to_bytes()
    told = Request.read_from(io.BytesIO(data))
    assert (told.group.n, told.group.s) == (key.group.n, s)
    assert (told.bits, told.g, told.columns) == (256, key.g, key.columns[:2])
    assert told.to_bytes() == data
    with pytest.raises(EOFError):
        Request.read_from(io.BytesIO(data[:-1]))
    with pytest.raises(ValueError, match="a request of"):
        Request.read_from(io.BytesIO(len(data[4:-1]).to_bytes(4, "big") + data[4:-1]))
    with pytest.raises(ValueError, match="a request of"):
        Request.read_from(io.BytesIO(b"\0\0\0\7abcdefg"))


# --- real processes ---------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def closing(*pools: MaskPool) -> object:  # type: ignore[misc]
    try:
        yield pools
    finally:
        for pool in pools:
            pool.close()


def pid_of(pool: MaskPool) -> int:
    worker = pool._worker
    assert isinstance(worker, subprocess.Popen)
    return worker.pid


def gone(pid: int) -> bool:
    """Ended, and collected."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return False


def test_a_process_makes_masks_apart_from_everything_and_is_gone_at_the_end() -> None:
    all_of = key_of_two()
    pools = [MaskPool(all_of.key, 2, 5, mask_process.start) for _ in range(2)]
    with closing(*pools):
        for pool in pools:
            until(pool, pool.ready)
        pids = [pid_of(pool) for pool in pools]
        own = [f"/proc/{pid}" for pid in pids]
        for folder in own:
            with open(f"{folder}/environ", "rb") as stream:
                names = {entry.partition(b"=")[0] for entry in stream.read().split(b"\0") if entry}
            assert names <= {b"LC_ALL", b"MALLOC_ARENA_MAX", b"OMP_NUM_THREADS", b"OPENBLAS_NUM_THREADS", b"PYTHONPATH"}
            with open(f"{folder}/cmdline", "rb") as stream:
                assert stream.read().split(b"\0")[1:-1] == [b"-P", b"-s", b"-B", b"-m", b"fedveil_cli.mask_process"]
            opened = {os.readlink(f"{folder}/fd/{name}") for name in os.listdir(f"{folder}/fd")}
            assert {one.partition(":")[0] for one in opened} == {"pipe", "/dev/null"}
            with open(f"{folder}/limits", encoding="ascii") as stream:
                assert [line.split()[4:6] for line in stream if line.startswith("Max core")] == [["0", "0"]]
            assert os.getpriority(os.PRIO_PROCESS, int(folder.rpartition("/")[2])) == 10
        given = [one for pool in pools for one in pool.take(5, 2)]
        assert len(set(headers(given))) == 10
        until(pools[0], pools[0].ready)  # more were made in their place
        round, vectors = Attempt(all_of, 300), updates(2, 300)
        for org, one, pool in zip(NAMES, vectors, pools, strict=False):
            round.join(org, one, pool)
        assert np.array_equal(round.open((0, 1)), sum(vectors))
    assert all(gone(pid) for pid in pids)
    assert all(pool.ended and pool.take(1, 2) == [] for pool in pools)
    pools[0].close()


def test_a_process_that_is_killed_is_replaced() -> None:
    with closing(pool := MaskPool(key_of_two().key, 2, 2, mask_process.start)):
        until(pool, pool.ready)
        first = pid_of(pool)
        os.kill(first, signal.SIGKILL)
        given = pool.take(2, 2)
        while len(given) < 40:  # more than the pipe and the dead one's last batch hold
            until(pool, lambda: bool(pool._waiting))
            given += pool.take(9, 2)
        second = pid_of(pool)
        assert second != first
        assert gone(first)
        assert len(set(headers(given))) == len(given)
    assert gone(second)


def test_close_at_once_and_while_it_fills() -> None:
    pool = MaskPool(key_of_two().key, 2, 1000, mask_process.start)
    pool.close()
    assert pool._worker is None
    pool = MaskPool(key_of_two().key, 2, 10**6, mask_process.start)
    until(pool, lambda: len(pool._waiting) > 20)
    pid = pid_of(pool)
    pool.close()
    assert gone(pid)
    assert not pool._waiting
    assert not pool._thread.is_alive()


PARENT = """
import os, sys
from tests.test_mask_pool import MaskPool, key_of_two, mask_process, pid_of, until
pool = MaskPool(key_of_two().key, 2, int(sys.argv[1]), mask_process.start)
if len(sys.argv) > 2:
    until(pool, pool.ready)
else:
    until(pool, lambda: pool._worker is not None)
print(pid_of(pool), flush=True)
sys.stdin.read()
"""


@pytest.mark.parametrize("arguments", [("2", "full"), ("1000000",)])
def test_it_ends_when_the_participant_dies(arguments: tuple[str, ...]) -> None:
    """Held up by a full pipe, or in the midst of its work."""
    path = os.pathsep.join([*sys.path, os.path.dirname(os.path.dirname(os.path.abspath(__file__)))])
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT, *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": path},
        text=True,
    )
    try:
        assert parent.stdin is not None
        assert parent.stdout is not None
        line = parent.stdout.readline()
        assert line
        worker = os.pidfd_open(int(line))
        try:
            assert select.select([worker], [], [], 0)[0] == []
            parent.kill()
            assert select.select([worker], [], [], LIMIT_S)[0] == [worker]
        finally:
            os.close(worker)
    finally:
        parent.kill()
        parent.communicate()
