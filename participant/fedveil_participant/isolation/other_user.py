"""A user id that nobody has: what a trainer runs as where the service is root.

A limit on processes is void for root, and a process of root's own id could signal those of root.
"""

import os
import pwd
from collections.abc import Iterator
from pathlib import Path

FIRST, LAST = 61184, 65519
"""Ids that are given to services for as long as they run (systemd's DynamicUser): never a person's."""


def unused_uid() -> int:
    """An id without a name and without a process. Another process of this machine takes another one, if it can."""
    span = LAST - FIRST + 1
    busy = set(_of_processes())
    for step in range(span):
        uid = FIRST + (os.getpid() + step) % span
        if uid not in busy and not _named(uid):
            return uid
    raise OSError("every user id for services is in use")


def tasks_of(uid: int) -> int:
    """Threads of all processes of a user, as far as they are seen: what RLIMIT_NPROC counts."""
    return sum(threads for owner, threads in _tasks() if owner == uid)


def _of_processes() -> Iterator[int]:
    return (owner for owner, _ in _tasks())


def _tasks() -> Iterator[tuple[int, int]]:
    """(real user id, threads) of each process."""
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                lines = (folder / "status").read_text().splitlines()
            except OSError:
                continue
            fields = dict(line.split(":", 1) for line in lines if ":" in line)
            yield int(fields["Uid"].split()[0]), int(fields["Threads"])


def _named(uid: int) -> bool:
    try:
        pwd.getpwuid(uid)
    except KeyError:
        return False
    return True
