"""The system calls that Python has no function for: landlock, seccomp, and a mount namespace of one's own.

Each either does what it says for this process (its only thread) and all that it starts, or raises OSError. Nothing is
undone: they are for the program that becomes a trainer's (`confine`). Source: landlock(7), seccomp(2), prctl(2).
"""

import ctypes
import os
import platform
from collections.abc import Iterable

_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446
_VERSION = 1
_PATH_BENEATH = 1
PR_SET_PDEATHSIG, PR_SET_NO_NEW_PRIVS, PR_SET_SECCOMP = 1, 38, 22
PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL = 47, 4
SECCOMP_MODE_FILTER = 2
CLONE_NEWNS = 0x0002_0000
MS_NOSUID, MS_NODEV, MS_BIND, MS_REC, MS_PRIVATE = 2, 4, 4096, 16384, 1 << 18

EXECUTE, WRITE_FILE, READ_FILE, READ_DIR = 1 << 0, 1 << 1, 1 << 2, 1 << 3
_REMOVE_DIR, _REMOVE_FILE, _MAKE_CHAR, _MAKE_DIR, _MAKE_REG = 1 << 4, 1 << 5, 1 << 6, 1 << 7, 1 << 8
_MAKE_SOCK, _MAKE_FIFO, _MAKE_BLOCK, _MAKE_SYM = 1 << 9, 1 << 10, 1 << 11, 1 << 12
_REFER, _TRUNCATE, _IOCTL_DEV = 1 << 13, 1 << 14, 1 << 15
FILES_BY_ABI = ((1, (1 << 13) - 1), (2, _REFER), (3, _TRUNCATE), (5, _IOCTL_DEV))
"""What is governed from which version of the interface on."""

READ = EXECUTE | READ_FILE | READ_DIR
SCRATCH = WRITE_FILE | READ_FILE | READ_DIR | _REMOVE_DIR | _REMOVE_FILE | _MAKE_DIR | _MAKE_REG | _MAKE_SYM
SCRATCH |= _MAKE_FIFO | _REFER | _TRUNCATE
_OF_FILES = EXECUTE | WRITE_FILE | READ_FILE | _TRUNCATE | _IOCTL_DEV
_TCP = 0b11
"""LANDLOCK_ACCESS_NET_BIND_TCP, CONNECT_TCP, from version 4 on: handled, and never allowed."""

_SCOPES = 0b11
"""LANDLOCK_SCOPE_ABSTRACT_UNIX_SOCKET, SIGNAL, from version 6 on."""

SIGNALS_FROM = 6
"""From this version on landlock keeps signals inside."""

_libc = ctypes.CDLL(None, use_errno=True)


class _Ruleset(ctypes.Structure):
    _fields_ = (("files", ctypes.c_uint64), ("net", ctypes.c_uint64), ("scoped", ctypes.c_uint64))


class _Beneath(ctypes.Structure):
    _pack_ = 1
    _fields_ = (("allowed", ctypes.c_uint64), ("parent", ctypes.c_int32))


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_uint16), ("code", ctypes.c_char_p))


def machine() -> str:
    """As `seccomp.MACHINES` names it, if it is there."""
    return platform.machine()


def landlock_version() -> int:
    """Of the kernel's landlock; 0 where there is none."""
    return max(int(_libc.syscall(_CREATE_RULESET, None, ctypes.c_size_t(0), _VERSION)), 0)


def no_new_privileges() -> None:
    """No program that this process starts has more rights than it."""
    _checked(_libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), "no_new_privs")


def end_with_parent() -> None:
    """SIGKILL for this process when its parent ends."""
    _checked(_libc.prctl(PR_SET_PDEATHSIG, 9, 0, 0, 0), "pdeathsig")


def restrict_files(allowed: Iterable[tuple[str, int]], version: int) -> None:
    """Opens nothing but what lies at or below `allowed` (path, rights), as landlock of this `version` can. After
    `no_new_privileges`. A path that is not there is passed over.
    """
    handled = sum(rights for since, rights in FILES_BY_ABI if version >= since)
    rules = _Ruleset(handled, _TCP if version >= 4 else 0, _SCOPES if version >= SIGNALS_FROM else 0)
    size = ctypes.c_size_t(ctypes.sizeof(rules))
    ruleset = _checked(_libc.syscall(_CREATE_RULESET, ctypes.byref(rules), size, 0), "landlock_create_ruleset")
    for path, rights in allowed:
        try:
            place = os.open(path, os.O_PATH | os.O_CLOEXEC)
        except FileNotFoundError:
            continue
        kept = rights & handled if os.path.isdir(path) else rights & handled & _OF_FILES
        rule = _Beneath(kept, place)
        _checked(_libc.syscall(_ADD_RULE, ruleset, _PATH_BENEATH, ctypes.byref(rule), 0), "landlock_add_rule")
        os.close(place)
    _checked(_libc.syscall(_RESTRICT_SELF, ruleset, 0), "landlock_restrict_self")
    os.close(ruleset)


def restrict_calls(program: bytes) -> None:
    """The filter of `seccomp.program`. After `no_new_privileges`."""
    held = _Program(len(program) // 8, program)
    _checked(_libc.prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, ctypes.byref(held), 0, 0), "seccomp")


def own_mounts() -> None:
    """A mount namespace of this process's own: what it mounts, nobody else sees. Needs CAP_SYS_ADMIN."""
    _checked(_libc.unshare(CLONE_NEWNS), "unshare")
    _checked(_libc.mount(None, b"/", None, MS_REC | MS_PRIVATE, None), "mount private")


def mount_empty(folder: str) -> None:
    """An empty file system over `folder`, which everybody may read. After `own_mounts`."""
    _checked(_libc.mount(b"tmpfs", folder.encode(), b"tmpfs", MS_NOSUID | MS_NODEV, b"mode=755,size=1m"), folder)


def mount_at(source: str, place: str) -> None:
    """What lies at `source`, with all that is mounted below it, also at `place`, which is there. After `own_mounts`."""
    _checked(_libc.mount(os.fsencode(source), os.fsencode(place), None, MS_BIND | MS_REC, None), place)


def no_ambient_capabilities() -> None:
    """What this process starts next has no capability, unless it is root."""
    _checked(_libc.prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0), "ambient capabilities")


def _checked(result: int, what: str) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")
    return result
