"""Processes that need not load the program again: forked, one for each order, from one that has loaded it.

What a test starts is a real process, with an id, memory, files and connections of its own; it can be stopped or killed
like any other and runs `python -m MODULE ARGUMENTS` in the folder and the environment that the order names. Only
processor time is saved: a second for the imports, a third of one for those that a command makes when it comes to need
them, an eighth for the tree of commands (`main.commands`), and the cost of scrypt (`passphrase_costs`). What a new
interpreter shows that a forked one cannot (an import that is missing) is shown by `House.cold` and by
`test_command_line`.

One nursery for each process of the tests; it ends with it, and everything that it started ends with the nursery.
"""

import atexit
import contextlib
import gc
import json
import os
import pkgutil
import runpy
import select
import signal
import socket
import struct
import subprocess
import sys
import threading
import traceback
from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import NoReturn

from typer.core import TyperGroup

ROOT = Path(__file__).parent.parent
LONGEST_ORDER = 1 << 17
LATE = (
    "alembic.command",
    "alembic.config",
    "anyio._backends._asyncio",
    "encodings.idna",
    "grpc._channel",
    "grpc.experimental",
    "pydantic.dataclasses",
    "sqlalchemy.dialects.sqlite",
    "typer._adapters",
    "uvicorn.lifespan.on",
    "uvicorn.loops.auto",
)
"""What commands import when they come to need it."""


class Child:
    """One of them, with the part of `subprocess.Popen` that tests use."""

    def __init__(self, pid: int, status: int) -> None:
        self.pid = pid
        self.returncode: int | None = None
        self._status = status

    def poll(self) -> int | None:
        """Its exit code, minus the number of the signal that ended it; None while it runs."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.wait(0.0)
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """Its exit code once it has ended. subprocess.TimeoutExpired after `timeout` seconds."""
        if self.returncode is None:
            if not select.select([self._status], [], [], timeout)[0]:
                raise subprocess.TimeoutExpired("python", timeout or 0.0)
            told = os.read(self._status, 4)
            os.close(self._status)
            assert len(told) == 4, "the nursery is gone"
            self.returncode = os.waitstatus_to_exitcode(struct.unpack("=i", told)[0])
        return self.returncode

    def send_signal(self, number: int) -> None:
        """Send it a signal, if it has not ended."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        """SIGKILL."""
        self.send_signal(signal.SIGKILL)


class Nursery:
    """The process that has everything loaded, and the socket on which it takes orders."""

    def __init__(self) -> None:
        mine, its = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._socket = mine
        self._lock = threading.Lock()
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.nursery", str(its.fileno())],
            stdin=subprocess.DEVNULL,
            cwd=ROOT,
            pass_fds=(its.fileno(),),
        )
        its.close()
        atexit.register(self.close)

    def start(
        self,
        module: str,
        arguments: Sequence[str],
        folder: Path,
        environment: Mapping[str, str],
        streams: tuple[int, int, int],
    ) -> Child:
        """`python -m MODULE ARGUMENTS` in `folder`, running. `streams`: its stdin, stdout and stderr."""
        order = {"module": module, "arguments": [*arguments], "folder": str(folder), "environment": dict(environment)}
        status, told = os.pipe()
        try:
            with self._lock:
                socket.send_fds(self._socket, [json.dumps(order).encode()], [*streams, told])
                answer = self._socket.recv(4)
        finally:
            os.close(told)
        assert len(answer) == 4, "the nursery is gone"
        return Child(struct.unpack("=i", answer)[0], status)

    def close(self) -> None:
        """It ends, and what it started."""
        self._socket.close()
        self._process.wait()


_nurseries: dict[int, Nursery] = {}
_making = threading.Lock()


def nursery() -> Nursery:
    """The one of this process, made when the first order comes."""
    with _making:
        return _nurseries.get(os.getpid()) or _nurseries.setdefault(os.getpid(), Nursery())


# --- inside ---------------------------------------------------------------------------------------------------------


def load() -> None:
    """Everything that a command may need, without a thread, a key or a connection."""
    import fedveil_cli

    for found in pkgutil.iter_modules(fedveil_cli.__path__, "fedveil_cli."):
        if not found.name.endswith(".__main__"):
            import_module(found.name)
    build(fedveil_cli.main.commands())
    for late in LATE:
        import_module(late)
    import_module("tests.passphrase_costs").lower()
    import_module("tests.patience").lengthen()
    gc.collect()
    gc.freeze()  # the collector of a child would otherwise copy every page that it looks at


def build(group: TyperGroup) -> None:
    """Every command under `group`."""
    for command in group.commands.values():
        if isinstance(command, TyperGroup):
            build(command)


def serve(orders: socket.socket) -> dict[str, object]:
    """Fork one child for each order and say how each ends. Returns only in a child, with what it is to run; SystemExit
    when the tests are gone.
    """
    waiting: dict[int, tuple[int, int]] = {}
    watch = select.poll()
    watch.register(orders, select.POLLIN)
    while True:
        for ready, _ in watch.poll():
            if ready != orders.fileno():
                pid, told = waiting.pop(ready)
                watch.unregister(ready)
                os.close(ready)
                with contextlib.suppress(BrokenPipeError):
                    os.write(told, struct.pack("=i", os.waitpid(pid, 0)[1]))
                os.close(told)
                continue
            text, given, _, _ = socket.recv_fds(orders, LONGEST_ORDER, 4)
            if not text:
                _end(waiting)
            *streams, told = given
            pid = os.fork()
            if pid == 0:
                for stream, number in zip(streams, (0, 1, 2), strict=True):
                    os.dup2(stream, number)
                for descriptor in (*given, *waiting, *(one for _, one in waiting.values())):
                    os.close(descriptor)
                orders.close()
                order: dict[str, object] = json.loads(text)
                return order
            for stream in streams:
                os.close(stream)
            handle = os.pidfd_open(pid)
            waiting[handle] = (pid, told)
            watch.register(handle, select.POLLIN)
            orders.send(struct.pack("=i", pid))


def _end(waiting: Mapping[int, tuple[int, int]]) -> NoReturn:
    for pid, _ in waiting.values():
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    raise SystemExit


def become(order: Mapping[str, object]) -> None:
    """In a child: be the command. It ends as any interpreter does."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    environment, arguments, module, folder = (order[key] for key in ("environment", "arguments", "module", "folder"))
    assert isinstance(environment, dict)
    assert isinstance(arguments, list)
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(str(folder))
    sys.path[0] = str(folder)
    sys.path.insert(1, str(ROOT))
    sys.argv = [str(module), *arguments]
    code = 1
    try:
        runpy.run_module(str(module), run_name="__main__", alter_sys=True)
        code = 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:  # noqa: BLE001 - what an interpreter does with it
        traceback.print_exc()
    # the end of an interpreter, without taking apart what the nursery loaded
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    os._exit(code)


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # an interrupt of the tests closes the socket
    load()
    become(serve(socket.socket(fileno=int(sys.argv[1]))))
