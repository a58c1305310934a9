"""The processes of the demo: forked before anything else happens, so that the program is loaded once, not 13 times.

Promise: each is a process of its own, with an id, memory, files and connections of its own, that runs one command line
as `python ARGUMENTS` would. They are forked while this process has no key, no table, no connection and no thread of
its own, and then wait for their command. All of them end with the demo, however it ends: its end of their pipe closes.
"""

import contextlib
import gc
import json
import multiprocessing
import os
import runpy
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping
from importlib import import_module
from multiprocessing.connection import Connection
from multiprocessing.context import ForkProcess
from pathlib import Path
from types import TracebackType

from fedveil_cli import demo_unprotected
from fedveil_cli.local_federation import Process

COMMANDS = ("fedveil_cli.main", "fedveil_cli.serving", "fedveil_cli.participating", "fedveil_cli.identity_commands")
"""What a coordinator and a participant load."""


class Forked:
    """One of them, as `local_federation.Process`."""

    def __init__(self, process: ForkProcess, pid: int, tells: Connection) -> None:
        self._process = process
        self._pid = pid
        self._tells = tells  # open as long as we are there

    @property
    def pid(self) -> int:
        """Its id."""
        return self._pid

    def poll(self) -> int | None:
        """Its exit code, minus the number of the signal that ended it, or None."""
        return self._process.exitcode

    def wait(self, timeout: float | None = None) -> int:
        """Its exit code once it has ended. subprocess.TimeoutExpired."""
        self._process.join(timeout)
        code = self._process.exitcode
        if code is None:
            raise subprocess.TimeoutExpired("python", timeout or 0.0)
        return code

    def send_signal(self, sig: int) -> None:
        """Send it a signal, if it has not ended."""
        if self.poll() is None:
            os.kill(self._pid, sig)

    def kill(self) -> None:
        """SIGKILL."""
        self.send_signal(signal.SIGKILL)


class Prepared:
    """`count` processes that wait for a command. Make it before any thread, key or connection exists."""

    def __init__(self, count: int) -> None:
        for name in COMMANDS:
            import_module(name)
        sys.stdout.flush()
        sys.stderr.flush()
        gc.freeze()  # the collector of a child would otherwise copy every page that it looks at
        fork = multiprocessing.get_context("fork")
        pipes = [fork.Pipe(duplex=False) for _ in range(count)]
        self._waiting: list[tuple[ForkProcess, Connection]] = []
        for mine, (hears, tells) in enumerate(pipes):
            others = [end for number, pair in enumerate(pipes) for end in pair if number != mine or end is tells]
            process = fork.Process(target=_obey, args=(hears, others), daemon=True)
            process.start()
            self._waiting.append((process, tells))
        for hears, _ in pipes:
            hears.close()

    def __enter__(self) -> "Prepared":
        """The processes wait."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Those that were never needed end."""
        for _, tells in self._waiting:
            tells.close()
        for process, _ in self._waiting:
            process.join()
        self._waiting.clear()

    def launch(self, arguments: list[str], log: Path, extra: Mapping[str, str]) -> Process:
        """`local_federation.Launch`: the next one runs `python ARGUMENTS`; `arguments` begin with -m MODULE."""
        process, tells = self._waiting.pop(0)
        order = {"arguments": arguments, "log": str(log), "environment": dict(extra)}
        tells.send_bytes(json.dumps(order).encode())
        assert process.pid is not None  # it was started
        return Forked(process, process.pid, tells)


def _obey(hears: Connection, others: list[Connection]) -> None:
    """In the child: wait for the command, then be it."""
    for end in others:
        end.close()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # while it waits, the demo's end is its own
    try:
        order = json.loads(hears.recv_bytes())
    except EOFError:
        return
    threading.Thread(target=_end_with_the_demo, args=(hears,), name="fedveil-demo", daemon=True).start()
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for target, path, flags in (
        (0, os.devnull, os.O_RDONLY),
        (1, order["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND),
        (2, order["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND),
    ):
        opened = os.open(path, flags, 0o600)
        os.dup2(opened, target)
        os.close(opened)
    if order["environment"].pop(demo_unprotected.ORDER, None) is not None:
        demo_unprotected.remove_protection()
    os.environ.update(order["environment"])
    option, module, *arguments = order["arguments"]
    assert option == "-m"  # ours
    sys.argv = [module, *arguments]
    runpy.run_module(module, run_name="__main__", alter_sys=True)


def _end_with_the_demo(hears: Connection) -> None:
    """In the child: wait until the other end of the pipe is gone, then end as if asked to."""
    with contextlib.suppress(EOFError, OSError):
        hears.recv_bytes()
    os.kill(os.getpid(), signal.SIGTERM)
