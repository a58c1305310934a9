"""Which isolation there is on this machine, found by trying it: each level is made, and asked whether it holds.

Promise: a level counts only if a process in it, run by the organisation's own interpreter, got no environment, could
not read a file that everybody may read, could not make a socket of the network, and was not root. Without such a level
nothing is found, unless the organisation itself says `none`.
"""

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from fedveil_common.errors import PolicyRefusal

from fedveil_participant.isolation import interpreter, kernel, seccomp
from fedveil_participant.isolation.confine import Order
from fedveil_participant.isolation.levels import Confinement, Isolation
from fedveil_participant.isolation.other_user import unused_uid

PATIENCE_S = 120.0
HOLDS = "it holds"
_MIB = 1024 * 1024

_INSIDE = """
import os, socket, sys
sys.path[:] = [path for path in sys.path if path]
if os.getuid() == 0: sys.exit("runs as root")
if set(os.environ) - {"LC_CTYPE", "PWD"}: sys.exit("has an environment")
try: open(sys.argv[1]).close()
except OSError: pass
else: sys.exit("reads other files")
try: socket.socket(socket.AF_INET, socket.SOCK_DGRAM).close()
except OSError: pass
else: sys.exit("makes sockets of the network")
for name in sys.argv[2:]: __import__(name)
print("it holds")
"""


def find(
    python: str, hidden: Sequence[Path], *, none_allowed: bool, modules: Sequence[str] = ("numpy",)
) -> Confinement:
    """The best level for the interpreter `python`. `hidden`: files and folders that no trainer may reach.
    `none_allowed`: the organisation's own policy says that a trainer may run without. `modules`: what the interpreter
    must be able to import there.

    PolicyRefusal `isolation_missing` with each level's reason; ConfigError `trainer_python`.
    """
    parts = interpreter.look_at(python, hidden)
    why: list[tuple[Isolation, str]] = []
    uid = unused_uid() if os.getuid() == 0 else None
    for level in (Isolation.BWRAP, Isolation.LANDLOCK):
        found = Confinement(level, parts, uid, shutil.which("bwrap") or "", tuple(why))
        reason = try_out(found, modules)
        if not reason:
            return found
        why.append((level, reason))
    found = Confinement(Isolation.NONE, parts, passed_over=tuple(why))
    if none_allowed:
        return found
    raise PolicyRefusal(
        "isolation_missing",
        f"nothing on this machine keeps a trainer run by {python} apart: {found.why_not_better}",
        not_done="no trainer was started",
        next_step="install bubblewrap (Debian: apt-get install bubblewrap), or let the service run as a user of its own"
        " on a kernel with landlock; docs/trainer.md",
    )


def try_out(confinement: Confinement, modules: Sequence[str] = ()) -> str:
    """Empty if the level holds here, else why it does not, in words of this program or of what refused."""
    missing = _plainly_missing(confinement)
    if missing:
        return missing
    with tempfile.TemporaryDirectory(prefix="fedveil-probe-") as folder:
        work, other = Path(folder) / "work", Path(folder) / "other"
        work.mkdir()
        other.write_bytes(b"")
        Path(folder).chmod(0o755)
        other.chmod(0o644)
        if confinement.uid is not None:
            os.chown(work, confinement.uid, confinement.uid)
        python = confinement.interpreter
        order = Order(
            level=confinement.level.value,
            command=[python.python, "-I", "-c", _INSIDE, str(other), *modules],
            keep=[],
            shown=[*((root, root) for root in python.roots), *python.links],
            work=str(work),
            scratch_bytes=16 * _MIB,
            memory_bytes=8192 * _MIB,
            processes=64,
            cpu_s=int(PATIENCE_S),
            uid=confinement.uid,
            bwrap=confinement.bwrap,
        )
        try:
            done = subprocess.run(
                order.words(),
                stdin=subprocess.DEVNULL,
                capture_output=True,
                env={},
                cwd=folder,
                timeout=PATIENCE_S,
                check=False,
            )
        except subprocess.TimeoutExpired:
            return f"it did not answer within {PATIENCE_S:g} s"
    if done.returncode == 0 and done.stdout.decode("utf-8", "replace").strip() == HOLDS:
        return ""
    said = (done.stderr or done.stdout).decode("utf-8", "replace").strip().splitlines()
    return (
        said[-1].removeprefix("fedveil: the trainer was not started: ") if said else f"it ended with {done.returncode}"
    )


def _plainly_missing(confinement: Confinement) -> str:
    if not sys.platform.startswith("linux") or kernel.machine() not in seccomp.MACHINES:
        return f"there is no filter of system calls for {sys.platform} on {kernel.machine()}"
    if confinement.level is Isolation.BWRAP and not confinement.bwrap:
        return "there is no command bwrap"
    if confinement.level is Isolation.LANDLOCK and not kernel.landlock_version():
        return "the kernel has no landlock"
    return ""
