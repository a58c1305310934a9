"""Ports to listen on that nobody else takes between the choice and the listening.

The kernel gives connections and `bind(0)` a port of its own range, so one chosen by `bind(0)` can be gone before
the coordinator listens on it: the tests beside this one make thousands of short connections. These ports lie below that
range. Each process of the tests takes a block of them, held by a socket whose name only one process of the machine can
have, and hands out each pair once.
"""

import contextlib
import functools
import os
import socket
from collections.abc import Iterator
from pathlib import Path

BLOCK = 64
LOWEST = 12_000
USUAL = 32_768


def _highest() -> int:
    """The port after the last one that the kernel never gives by itself; where it gives away all of them (nobody ships
    that), one in the usual place.
    """
    lowest_given = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    return lowest_given if lowest_given >= LOWEST + BLOCK else USUAL


def _pairs() -> Iterator[int]:
    held = []
    count = (_highest() - LOWEST) // BLOCK
    for step in range(count):
        block = (os.getpid() + step) % count
        claim = socket.socket(socket.AF_UNIX)
        try:
            claim.bind(f"\0fedveil-tests-ports-{block}")
        except OSError:  # another process of the tests has it
            claim.close()
            continue
        held.append(claim)
        for port in range(LOWEST + block * BLOCK, LOWEST + (block + 1) * BLOCK, 2):
            with contextlib.suppress(OSError), contextlib.ExitStack() as open_:
                for number in (port, port + 1):
                    probe = open_.enter_context(socket.socket())
                    probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                    probe.bind(("", number))
                open_.close()
                yield port
    raise AssertionError("no free ports")


@functools.cache
def _of_process(process: int) -> Iterator[int]:
    return _pairs()


def free_port() -> int:
    """A free port of which the next one is free too (enrolment listens there)."""
    return next(_of_process(os.getpid()))
