"""What an interpreter consists of on the disk: all that a trainer may read beside its code.

Promise: it is the interpreter's own word (`sys.prefix`, `sys.base_prefix`, `sys.path`), the links that lead to it (the
python of a virtual environment is a link out of it), the system's libraries, and which processor this is; nothing that
holds, or lies in, a folder that must stay hidden. All that is run here is the organisation's own interpreter, without
any code of a trainer.
"""

import json
import os
import pwd
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from fedveil_common.errors import ConfigError

PATIENCE_S = 60.0
LIBRARIES = (
    "/usr/lib",
    "/usr/lib32",
    "/usr/lib64",
    "/usr/local/lib",
    "/lib",
    "/lib64",
    "/etc/ld.so.cache",
    "/etc/alternatives",
    "/usr/share/zoneinfo",
    "/nix/store",
    "/gnu/store",
)
"""Where shared libraries lie; what is not there is passed over."""

MACHINE = (
    "/proc/cpuinfo",
    "/sys/devices/system/cpu/online",
    "/sys/devices/system/cpu/possible",
    "/sys/devices/system/cpu/present",
)
"""What numeric libraries ask about the processor; single files, and nothing else of /proc and /sys."""

_NEVER = ("/", "/etc", "/home", "/root", "/var", "/tmp", "/run", "/srv", "/proc", "/sys", "/dev")  # noqa: S108
_QUESTION = "import json, sys; print(json.dumps([sys.prefix, sys.base_prefix, sys.exec_prefix, *sys.path]))"


@dataclass(frozen=True, slots=True)
class Interpreter:
    """`python`: what is run. `roots`: files and folders that are readable at their own path. `links`: (file, place)
    where a link outside them leads to one.
    """

    python: str
    roots: tuple[str, ...]
    links: tuple[tuple[str, str], ...] = ()


def look_at(python: str, hidden: Sequence[Path] = ()) -> Interpreter:
    """The parts of `python` (a whole path). `hidden`: files and folders that no trainer may reach.

    ConfigError `trainer_python`: it does not run, or one of its folders could only be shown together with what must
    stay hidden, or is not one that programs are kept in.
    """
    try:
        done = subprocess.run(
            [python, "-I", "-c", _QUESTION],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            env={},
            cwd="/",
            timeout=PATIENCE_S,
            check=False,
        )
        named: list[str] = json.loads(done.stdout)
    except (OSError, ValueError, subprocess.TimeoutExpired):
        raise _refused(python, "is no Python interpreter that runs") from None
    own = [os.path.normpath(path) for path in named if os.path.isabs(path) and os.path.exists(path)]
    roots = _outermost([path for one in own for path in (one, os.path.realpath(one))])
    _check(python, roots, [*hidden, *_home_of_user()])
    roots = _outermost([*roots, *(path for path in LIBRARIES + MACHINE if os.path.exists(path))])
    chain = _chain(os.path.normpath(python))
    run = chain[0] if _below(chain[0], own) else chain[-1]
    if not _below(chain[-1], roots):
        roots = [*roots, chain[-1]]
    links = [(chain[-1], place) for place in chain[:-1] if not _below(place, roots)] if run == chain[0] else []
    return Interpreter(run, tuple(roots), tuple(links))


def _home_of_user() -> tuple[Path, ...]:
    """What else this user keeps is no part of an interpreter either."""
    try:
        return tuple(Path(home) for home in (pwd.getpwuid(os.getuid()).pw_dir,) if os.path.isdir(home) and home != "/")
    except KeyError:
        return ()


def _check(python: str, roots: Sequence[str], hidden: Sequence[Path]) -> None:
    for root in roots:
        if root in _NEVER:
            raise _refused(python, f"is installed in {root}, where other things than programs lie")
        for path in hidden:
            for one in {os.path.abspath(path), os.path.realpath(path)}:
                if _below(one, [root]):
                    raise _refused(python, f"reads {root}, and {one} lies in it, which no trainer may read")


def _outermost(paths: Sequence[str]) -> list[str]:
    """Without those that lie below another one."""
    found: list[str] = []
    for path in sorted(set(paths), key=len):
        if not _below(path, found):
            found.append(path)
    return found


def _below(path: str, roots: Sequence[str]) -> bool:
    return any(path == root or path.startswith(root.rstrip("/") + "/") for root in roots)


def _chain(path: str) -> list[str]:
    """The path, and where each link leads, up to a file that is none. The folders on the way may be links."""
    found = [path]
    while os.path.islink(found[-1]) and len(found) < 40:
        found.append(os.path.normpath(os.path.join(os.path.dirname(found[-1]), os.readlink(found[-1]))))
    real = os.path.realpath(path)
    return found if found[-1] == real else [*found, real]


def _refused(python: str, why: str) -> ConfigError:
    return ConfigError(
        "trainer_python",
        f"{python} {why}",
        not_done="no trainer was started",
        next_step="let `python` of the trainer's description name an interpreter in a folder of its own, for example a"
        " virtual environment in /opt/models/venv",
    )
