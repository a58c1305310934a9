"""The process that makes a participant's masks ahead of time: how it is started, and what it is.

Promise: it has no environment but where this code lies, no argument, no descriptor but its two pipes, and nothing that
it says reaches a log; it leaves no core, and lets everything else on this machine go first. Run as a module it is that
process. Source: docs/paillier.md, section 3 (G10).
"""

import os
import resource
import subprocess
import sys
from pathlib import Path

import fedveil_common
import fedveil_participant
from fedveil_participant.mask_worker import serve

import fedveil_cli
from fedveil_cli.world import SystemEntropy

NICENESS = 10

_ENVIRONMENT = {"LC_ALL": "C.UTF-8", "MALLOC_ARENA_MAX": "1", "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}


def start() -> "subprocess.Popen[bytes]":
    """Such a process, for `MaskPool`. OSError if there is none."""
    roots = dict.fromkeys(_root(package.__file__) for package in (fedveil_common, fedveil_participant, fedveil_cli))
    return subprocess.Popen(
        [sys.executable, "-P", "-s", "-B", "-m", "fedveil_cli.mask_process"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,  # a traceback may quote a value
        env={**_ENVIRONMENT, "PYTHONPATH": os.pathsep.join(roots)},
        cwd="/",
        close_fds=True,
        start_new_session=True,  # a signal to the participant's terminal is the participant's to act on
    )


def _root(file: str | None) -> str:
    """The folder on the path of Python in which the package of this file lies: the same code runs there as here."""
    assert file is not None
    return str(Path(file).resolve().parent.parent)


def main() -> None:
    """The whole process: does not return."""
    code = 70
    try:
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        os.nice(NICENESS)
        serve(sys.stdin.buffer, sys.stdout.buffer, SystemEntropy(), lambda: os._exit(0))
    except (OSError, EOFError):
        code = 0  # whoever wanted masks is gone
    finally:
        os._exit(code)  # at once: a thread is still waiting for the end of the input


if __name__ == "__main__":
    main()
