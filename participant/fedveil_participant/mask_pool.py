"""Masks made ahead of time by another process while a model is trained: encrypting is then one short product each.

Promise: a mask is given out once; masks are in memory only, and what waits here is not there in a process that was
forked. Whatever happens to the other process, nothing here fails: there are fewer masks, and `encrypting` makes the
rest. The other process is started again at most `restarts` times, ends with `close`, and ends by itself when this
process does (its input ends then). Source: docs/paillier.md, section 3 (P6, G10).
At 2048 bits, s = 1 and 32 columns the other process takes 120 MB, builds its tables in 3 s of its processor and then
makes 100 masks a second, enough for 270,000 coordinates of 3 bytes; a mask that waits takes 17 KB here.
"""

import contextlib
import os
from collections import deque
from collections.abc import Callable
from threading import Condition, Thread
from typing import IO, Protocol

from fedveil_common.paillier.encryption import Mask
from fedveil_common.paillier.public_key import PublicKey

from fedveil_participant.mask_frames import Request

RESTARTS = 3


class Worker(Protocol):
    """A running process that does the work of `mask_worker`; `subprocess.Popen` with two pipes is one."""

    @property
    def stdin(self) -> IO[bytes] | None: ...  # noqa: D102
    @property
    def stdout(self) -> IO[bytes] | None: ...  # noqa: D102

    def kill(self) -> None:
        """SIGKILL to this one; nothing if it has ended."""
        ...

    def wait(self) -> int:
        """Collect it once it has ended."""
        ...


Start = Callable[[], Worker]
"""A new worker. OSError if there is none."""


class MaskPool:
    """Masks of one key in one epoch, for blocks of up to `width` ciphertexts; `target` of them wait here at most.

    One thread reads, for as long as fewer wait; a pipe that is full holds up the other process. Any thread may call.
    """

    def __init__(self, key: PublicKey, width: int, target: int, start: Start, restarts: int = RESTARTS) -> None:
        """Starts at once; `close` ends it. ValueError for a width that the key does not have, or no target."""
        if target < 1:
            raise ValueError("a pool holds at least one mask")
        self._request, self._width, self._target = Request.of(key, width), width, target
        self._start, self._starts = start, 1 + restarts
        self._waiting: deque[Mask] = deque()
        self._worker: Worker | None = None
        self._closed = self._ended = False
        self._changed = Condition()
        self._process = os.getpid()
        self._thread = Thread(target=self._fill, name="masks", daemon=True)
        self._thread.start()

    def take(self, count: int, width: int) -> list[Mask]:
        """Up to `count` masks for blocks of `width` ciphertexts: those that wait. None in a process that was forked,
        and none wider than the pool's. More are made in their place.
        """
        if not self._mine or width > self._width:
            return []
        with self._changed:
            taken = [self._waiting.popleft() for _ in range(min(count, len(self._waiting)))]
            self._changed.notify_all()
        return [mask.narrowed(width) for mask in taken]

    def ready(self) -> bool:
        """Whether as many wait as shall."""
        return self._mine and len(self._waiting) >= self._target

    @property
    def ended(self) -> bool:
        """Whether no more will come: closed, or the other process died too often. What waits can still be taken."""
        return self._ended or not self._mine

    def close(self) -> None:
        """The other process is gone and collected, what waited is dropped. May be called again."""
        if not self._mine:
            return  # a fork: the other process is its parent's
        with self._changed:
            self._closed = True
            self._waiting.clear()
            worker = self._worker
            self._changed.notify_all()
        if worker is not None:
            worker.kill()
        self._thread.join()

    @property
    def _mine(self) -> bool:
        return os.getpid() == self._process

    def _fill(self) -> None:
        """The reading thread: one worker after the other."""
        for _ in range(self._starts):
            with self._changed:
                if self._closed:
                    break
                try:
                    self._worker = worker = self._start()
                except OSError:
                    continue
            with contextlib.suppress(OSError, EOFError, ValueError):
                self._read(worker)
            self._collect(worker)
        with self._changed:
            self._ended = True
            self._changed.notify_all()

    def _read(self, worker: Worker) -> None:
        """This worker's masks until it dies (EOFError, OSError), says something else (ValueError), or all is closed."""
        assert worker.stdin is not None
        assert worker.stdout is not None
        worker.stdin.write(self._request.to_bytes())
        worker.stdin.flush()
        while True:
            mask = self._request.read_mask(worker.stdout)
            with self._changed:
                self._changed.wait_for(lambda: self._closed or len(self._waiting) < self._target)
                if self._closed:
                    return
                self._waiting.append(mask)
                self._changed.notify_all()

    def _collect(self, worker: Worker) -> None:
        """The worker is gone: no zombie, no descriptor."""
        with self._changed:
            self._worker = None
        worker.kill()
        worker.wait()
        for pipe in (worker.stdin, worker.stdout):
            if pipe is not None:
                with contextlib.suppress(OSError):
                    pipe.close()
