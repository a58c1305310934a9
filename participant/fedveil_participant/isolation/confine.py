"""Becomes a trainer's process: the program between the supervisor and the organisation's interpreter.

Run as `python -I -m fedveil_participant.isolation.confine ORDER`, where ORDER is the JSON of an `Order`. It takes every
right away that the level says and then executes the interpreter in its own place; if any step fails it ends (code 71)
and nothing was executed. It has one thread and no secret: what it knows stands in ORDER.
"""

import dataclasses
import json
import os
import resource
import sys
from dataclasses import dataclass

from fedveil_participant.isolation import bubblewrap, kernel, other_user, seccomp
from fedveil_participant.isolation.levels import Isolation

FAILED = 71
OPEN_FILES = 1024
MODULE = "fedveil_participant.isolation.confine"


@dataclass(frozen=True, slots=True)
class Order:
    """What is executed, and within which limits.

    `keep`: descriptors that stay open beside 0, 1, 2. `shown`: (source, place) of files and folders that are readable;
    places other than the source exist only where a level has mounts of its own. `work`: the folder to write to, there.
    `scratch_bytes`: of each writable place. `memory_bytes`: address space of a process. `processes`: with threads.
    `cpu_s`: processor time of a process. `uid`: see `Confinement`. `abi`: landlock's version, for tests of older ones.
    """

    level: str
    command: list[str]
    keep: list[int]
    shown: list[tuple[str, str]]
    work: str
    scratch_bytes: int
    memory_bytes: int
    processes: int
    cpu_s: int
    uid: int | None = None
    bwrap: str = ""
    abi: int | None = None

    def words(self) -> list[str]:
        """The command that carries it out."""
        return [sys.executable, "-I", "-m", MODULE, json.dumps(dataclasses.asdict(self))]


def main(arguments: list[str]) -> None:
    """The whole program."""
    try:
        become(Order(**json.loads(arguments[0])))
    except Exception as error:  # noqa: BLE001 - the last resort of this process: it must not go on
        print(f"fedveil: the trainer was not started: {error}", file=sys.stderr, flush=True)
    os._exit(FAILED)


def become(order: Order) -> None:
    """Does not return. OSError, ValueError."""
    level = Isolation(order.level)
    os.umask(0o077)
    _close_others(order.keep)
    kernel.end_with_parent()
    if level is Isolation.BWRAP:
        _bwrap(order)
    os.chdir(order.work)
    _change_user(order.uid)
    _limit(order)
    kernel.end_with_parent()  # a change of user takes it back
    if level is Isolation.LANDLOCK:
        _landlock(order)
    os.execve(order.command[0], order.command, {})  # noqa: S606 - no shell, and no name that is looked up


def _bwrap(order: Order) -> None:
    filter_fd = os.memfd_create("filter", 0)
    os.write(filter_fd, seccomp.program(kernel.machine(), seccomp.ALWAYS))
    os.lseek(filter_fd, 0, os.SEEK_SET)
    shown = order.shown if order.uid is None else _staged(order.shown)
    words = bubblewrap.command(order.bwrap, shown, order.scratch_bytes, filter_fd, order.command)
    _change_user(order.uid)
    _limit(order)
    kernel.end_with_parent()
    os.execve(order.bwrap, words, {})  # noqa: S606 - no shell, and no name that is looked up


def _staged(shown: list[tuple[str, str]]) -> list[tuple[str, str]]:
    """The same, each from a place that another user reaches too, whatever folders it lies in."""
    kernel.own_mounts()
    held = [(os.open(source, os.O_PATH), place) for source, place in shown]  # before the stage covers some of them
    stage = "/tmp"  # noqa: S108 - of a mount namespace of its own
    kernel.mount_empty(stage)
    found: list[tuple[str, str]] = []
    for number, (descriptor, place) in enumerate(held):
        here = f"{stage}/{number}"
        if os.path.isdir(f"/proc/self/fd/{descriptor}"):
            os.mkdir(here, 0o755)
        else:
            os.close(os.open(here, os.O_WRONLY | os.O_CREAT, 0o644))
        kernel.mount_at(f"/proc/self/fd/{descriptor}", here)
        os.close(descriptor)
        found.append((here, place))
    return found


def _landlock(order: Order) -> None:
    if os.getuid() == 0:
        raise OSError("landlock alone does not hold root")
    version = kernel.landlock_version() if order.abi is None else min(order.abi, kernel.landlock_version())
    if not version:
        raise OSError("this kernel has no landlock")
    rules = seccomp.CONFINED_BY_FILES + seccomp.ALWAYS
    if version < kernel.SIGNALS_FROM:
        rules += seccomp.own_signals_only(os.getpid())  # execve keeps the number
    kernel.no_ambient_capabilities()
    kernel.no_new_privileges()
    devices = [(path, kernel.READ | kernel.WRITE_FILE) for path in bubblewrap.DEVICES]
    read = [(source, kernel.READ) for source, _ in order.shown]
    kernel.restrict_files([*read, *devices, (order.work, kernel.SCRATCH)], version)
    kernel.restrict_calls(seccomp.program(kernel.machine(), rules))


def _change_user(uid: int | None) -> None:
    if uid is not None:
        os.setgroups([])
        os.setresgid(uid, uid, uid)
        os.setresuid(uid, uid, uid)


def _limit(order: Order) -> None:
    limits = {
        resource.RLIMIT_AS: order.memory_bytes,
        resource.RLIMIT_CORE: 0,
        resource.RLIMIT_CPU: order.cpu_s,
        resource.RLIMIT_FSIZE: order.scratch_bytes,
        resource.RLIMIT_NOFILE: OPEN_FILES,
        resource.RLIMIT_MSGQUEUE: 0,
        # of all processes of this user, those that are there already among them; void for root
        resource.RLIMIT_NPROC: other_user.tasks_of(os.getuid()) + order.processes,
    }
    for limit, wanted in limits.items():
        most = resource.getrlimit(limit)[1]
        value = wanted if most == resource.RLIM_INFINITY else min(wanted, most)
        resource.setrlimit(limit, (value, value))


def _close_others(keep: list[int]) -> None:
    for name in os.listdir("/proc/self/fd"):
        if int(name) > 2 and int(name) not in keep:
            try:
                os.close(int(name))
            except OSError:
                continue  # the listing's own


if __name__ == "__main__":
    main(sys.argv[1:])
