"""The command line of bubblewrap: a world with the interpreter, the code, and three small places to write to.

Promise: namespaces of every kind, no capability, no /proc of processes, no environment, no name of this machine;
everything is read-only but WORK, /tmp and /dev/shm, each of them sized. Pure. Source: bwrap(1); decision 0027.
"""

from collections.abc import Sequence

WORK, CODE, SHIM = "/trainer/work", "/trainer/code", "/trainer/shim"
INSIDE_UID = 65534
DEVICES = ("/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom")


def command(
    bwrap: str, shown: Sequence[tuple[str, str]], scratch_bytes: int, filter_fd: int, inner: Sequence[str]
) -> list[str]:
    """The words that run `inner`. `shown`: (source, place) of what is readable. `filter_fd`: holds the program of
    system calls. `scratch_bytes`: of each writable place.
    """
    words = [bwrap, "--unshare-all", "--cap-drop", "ALL", "--new-session", "--die-with-parent", "--clearenv"]
    words += ["--uid", str(INSIDE_UID), "--gid", str(INSIDE_UID), "--hostname", "trainer"]
    for place in ("/tmp", "/dev/shm", WORK):  # noqa: S108 - of a world of its own
        words += ["--size", str(scratch_bytes), "--tmpfs", place]
    for source, place in sorted(shown, key=lambda pair: len(pair[1])):
        words += ["--ro-bind", source, place]
    for device in DEVICES:
        words += ["--dev-bind", device, device]
    words += ["--remount-ro", "/", "--chdir", WORK, "--seccomp", str(filter_fd), "--"]
    return [*words, *inner]
