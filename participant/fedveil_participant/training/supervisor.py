"""Ends everything that a trainer started, whatever it did to get away; the program between us and the trainer.

Run as `python -I FILE LIFE COMMAND...`: starts COMMAND in a process group of its own. When COMMAND ends, or the other
end of the descriptor LIFE is closed (also because its holder died), every process below this one is killed: it is
a subreaper (prctl(2), PR_SET_CHILD_SUBREAPER), so what was orphaned or took a session of its own becomes its child.
Its exit code is COMMAND's (128 plus the signal if one ended it). It needs no library and imports nothing of Fedveil.
"""

import contextlib
import ctypes
import os
import select
import signal
import subprocess
import sys
from pathlib import Path

PR_SET_CHILD_SUBREAPER = 36
PAUSE_S = 0.002


def main(arguments: list[str]) -> None:
    """The whole program."""
    life, command = int(arguments[0]), arguments[1:]
    os.set_inheritable(life, False)
    if ctypes.CDLL(None, use_errno=True).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0):
        os._exit(70)
    others = [int(name) for name in os.listdir("/proc/self/fd") if int(name) > 2 and int(name) != life]
    passed = [fd for fd in others if _is_open(fd)]
    trainer = subprocess.Popen(command, pass_fds=passed, start_new_session=True)
    for descriptor in passed:
        os.close(descriptor)  # only the trainer holds them: an answer ends when it does
    ended = os.pidfd_open(trainer.pid)
    select.select([life, ended], [], [])
    with contextlib.suppress(ProcessLookupError):
        os.killpg(trainer.pid, signal.SIGKILL)  # not yet waited for, so the id is still its own
    code = trainer.wait()
    while _kill_children():
        pass
    os._exit(code if code >= 0 else 128 - code)


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
