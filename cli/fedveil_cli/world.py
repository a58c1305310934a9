"""The real world behind the ports: the machine's clocks, the operating system's entropy, and a way to die on request.

Promise: the only module of the product that reads a clock or draws random bytes. Everything else is given a `World`.
Failpoints exist only in a process whose environment asks for one (FEDVEIL_FAILPOINT=NAME or NAME:COUNT): at the
COUNT-th hit of NAME the process ends as by `kill -9`. That is how tests show that a restart continues correctly.
"""

import os
import pathlib
import re
import signal
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass

from fedveil_common.errors import ConfigError
from fedveil_common.ports import Clock, Entropy, Failpoints, NoFailpoints

FAILPOINT = "FEDVEIL_FAILPOINT"
_START_TIME = 19
"""proc(5), /proc/[pid]/stat: field 22, counted from behind the name of the program (field 3 is the first)."""

_IMPORTED_S = time.monotonic()
_FAILPOINT_FORM = re.compile(r"([A-Za-z0-9_.-]{1,100})(?::([1-9][0-9]{0,8}))?\Z")


class SystemClock:
    """`ports.Clock` on the machine's clocks."""

    def monotonic_s(self) -> float:
        """Seconds on a clock that never goes back."""
        return time.monotonic()

    def wall_s(self) -> float:
        """Seconds since 1970-01-01 UTC, as this machine believes."""
        return time.time()


def process_started_s(clock: Clock) -> float:
    """When this process began, on `clock.monotonic_s`: what a command needs to count from its own start.

    Linux: from /proc, 10 ms exact. A shell that replaces itself (`exec fedveil ...`) gives the command its own start.
    Elsewhere: when this module was imported.
    """
    try:
        fields = (
            pathlib.Path("/proc/self/stat").read_text(encoding="ascii", errors="replace").rpartition(")")[2].split()
        )
        age = time.clock_gettime(time.CLOCK_BOOTTIME) - int(fields[_START_TIME]) / os.sysconf("SC_CLK_TCK")
    except (OSError, AttributeError, ValueError, IndexError):
        return _IMPORTED_S
    return clock.monotonic_s() - age if age >= 0 else _IMPORTED_S


class SystemEntropy:
    """`ports.Entropy` on the operating system's CSPRNG."""

    def take(self, size: int) -> bytes:
        """`size` unpredictable bytes."""
        return os.urandom(size)


class KillFailpoints:
    """`ports.Failpoints` that end this process by SIGKILL at the `count`-th hit of `name`; any thread may hit."""

    def __init__(self, name: str, count: int) -> None:
        self._name = name
        self._left = count
        self._lock = threading.Lock()

    def hit(self, name: str) -> None:
        """Returns, or the process is gone: no handler runs, no buffer is written."""
        if name != self._name:
            return
        with self._lock:
            self._left -= 1
            if self._left == 0:
                os.kill(os.getpid(), signal.SIGKILL)


def failpoints(environment: Mapping[str, str]) -> Failpoints:
    """The failpoints that `environment` asks for; none without FEDVEIL_FAILPOINT.

    Raises ConfigError `bad_failpoint` for a value that is not NAME or NAME:COUNT with COUNT from 1.
    """
    wanted = environment.get(FAILPOINT)
    if wanted is None:
        return NoFailpoints()
    form = _FAILPOINT_FORM.match(wanted)
    if form is None:
        raise ConfigError(
            "bad_failpoint",
            f"{FAILPOINT} is not NAME or NAME:COUNT",
            next_step=f"unset {FAILPOINT}: it exists for tests and kills the process",
        )
    return KillFailpoints(form[1], int(form[2] or 1))


@dataclass(frozen=True, slots=True)
class World:
    """What the edges are built from; see `fedveil_common.ports`."""

    clock: Clock
    entropy: Entropy
    failpoints: Failpoints


def real_world() -> World:
    """The world of a command. Raises ConfigError `bad_failpoint`."""
    return World(SystemClock(), SystemEntropy(), failpoints(os.environ))
