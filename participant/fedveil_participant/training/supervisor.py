"""Ends everything that a trainer started, whatever it did to get away; the program between us and the trainer.

Run as `python -I -m fedveil_participant.training.supervisor LIFE MEMORY SCRATCH DISK COMMAND...`: starts COMMAND in a
process group of its own. When COMMAND ends, or the other end of the descriptor LIFE is closed (also because its holder
died), or all that it started holds more than MEMORY bytes, or DISK bytes below the folder SCRATCH (empty: not looked
at), every process below this one is killed: it is a subreaper (prctl(2), PR_SET_CHILD_SUBREAPER), so what was orphaned
or took a session of its own becomes its child. Its exit code is COMMAND's (128 plus the signal if one ended it).
"""

import contextlib
import ctypes
import os
import select
import signal
import subprocess
import sys
from pathlib import Path

from fedveil_participant.isolation.consumption import ENTRIES, descendants, disk_held, memory_held

MODULE = "fedveil_participant.training.supervisor"
PR_SET_CHILD_SUBREAPER = 36
PAUSE_S = 0.002
LOOK_S = 0.1
"""How often it is looked at what the trainer holds."""

_MIB = 1024 * 1024


def main(arguments: list[str]) -> None:
    """The whole program."""
    life, memory, scratch, disk, command = int(arguments[0]), int(arguments[1]), *arguments[2:4], arguments[4:]
    os.set_inheritable(life, False)
    if ctypes.CDLL(None, use_errno=True).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0):
        os._exit(70)
    others = [int(name) for name in os.listdir("/proc/self/fd") if int(name) > 2 and int(name) != life]
    passed = [fd for fd in others if _is_open(fd)]
    trainer = subprocess.Popen(command, pass_fds=passed, start_new_session=True)
    for descriptor in passed:
        os.close(descriptor)  # only the trainer holds them: an answer ends when it does
    ended = os.pidfd_open(trainer.pid)
    while not select.select([life, ended], [], [], LOOK_S)[0]:
        why = _too_much(memory, scratch, int(disk))
        if why:
            print(f"fedveil: the trainer was ended: {why}", file=sys.stderr, flush=True)
            break
    with contextlib.suppress(ProcessLookupError):
        os.killpg(trainer.pid, signal.SIGKILL)  # not yet waited for, so the id is still its own
    code = trainer.wait()
    while _kill_children():
        pass
    os._exit(code if code >= 0 else 128 - code)


def _too_much(memory: int, scratch: str, disk: int) -> str:
    """Why the trainer must end; empty if it need not."""
    below = descendants(os.getpid())
    held = memory_held(below, memory)
    if held > memory:
        return f"its {len(below)} processes hold {held // _MIB} MiB in memory, and may hold {memory // _MIB}"
    if scratch:
        held, entries = disk_held(below, Path(scratch))
        if held > disk or entries > ENTRIES:
            return f"its working folder holds {held // _MIB} MiB in {entries} files, and may hold {disk // _MIB}"
    return ""


def _is_open(descriptor: int) -> bool:
    try:
        os.fstat(descriptor)
    except OSError:
        return False  # the listing's own
    return True


def _kill_children() -> bool:
    """Kill every child and collect one that has ended; False once there is none. Its children become ours, the next."""
    for pid in _children():
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    try:
        if os.waitpid(-1, os.WNOHANG) == (0, 0):
            select.select([], [], [], PAUSE_S)
    except ChildProcessError:
        return False
    return True


def _children() -> list[int]:
    """Processes whose parent this one is, from the fourth field of /proc/PID/stat."""
    me, found = str(os.getpid()), []
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            with contextlib.suppress(OSError):
                if (folder / "stat").read_text().rpartition(")")[2].split()[1] == me:
                    found.append(int(folder.name))
    return found


if __name__ == "__main__":
    main(sys.argv[1:])
