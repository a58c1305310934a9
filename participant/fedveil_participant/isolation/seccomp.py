"""Which system calls a trainer may make, as a program for the kernel: classic BPF over `struct seccomp_data`.

Promise: no socket of the network, of a virtual machine's host, or of the kernel (socket(2) for AF_UNIX at most); no
tracing, no keyring, no mount, no namespace, no other path into the kernel that has been an escape (io_uring, bpf,
userfaultfd, perf); no memory that no limit counts (memfd, System V, POSIX queues); none of the numbers that were given
out after this was written but those listed. A call of another architecture, or of x32, ends the process.
`CONFINED_BY_FILES` adds what landlock does not govern, for a level without namespaces of its own.
Pure: bytes out. Source: seccomp(2); linux/filter.h; the kernel's tables of numbers for x86_64 and arm64.
"""

import errno
import struct
from dataclasses import dataclass

ALLOW, KILL, ERRNO = 0x7FFF_0000, 0x8000_0000, 0x0005_0000
"""What a filter returns: SECCOMP_RET_ALLOW, SECCOMP_RET_KILL_PROCESS, SECCOMP_RET_ERRNO with the error in it."""

MACHINES = {"x86_64": 0xC000_003E, "aarch64": 0xC000_00B7}
"""AUDIT_ARCH_* of the machines that there are numbers for."""

X32 = 0x4000_0000
FIRST_COMMON = 424
"""From this number on the machines number alike."""

_NUMBER, _ARCH, _ARGUMENTS = 0, 4, 16
_LOAD, _AND, _EQUAL, _AT_LEAST, _SETS, _RETURN = 0x20, 0x54, 0x15, 0x35, 0x45, 0x06
_NEW_NAMESPACES = 0x7E02_0000
"""CLONE_NEWNS, NEWCGROUP, NEWUTS, NEWIPC, NEWUSER, NEWPID, NEWNET. CLONE_NEWTIME is no flag of clone(2)."""

_O_TRUNC, _O_ACCMODE = 0o1000, 0o3
_PR_SET_DUMPABLE, _TIOCSTI, _TIOCLINUX = 4, 0x5412, 0x541C
_AF_UNIX = 1


@dataclass(frozen=True, slots=True)
class Rule:
    """A call by name fails with `error`; with `argument`, only where its low half has any of `bits`, or (its low half &
    `mask`) is one of `values`, or is none of them if `unless`.
    """

    name: str
    error: int = errno.EPERM
    argument: int | None = None
    mask: int = 0xFFFF_FFFF
    values: tuple[int, ...] = ()
    unless: bool = False
    bits: int = 0


def _each(names: str, error: int = errno.EPERM) -> tuple[Rule, ...]:
    return tuple(Rule(name, error) for name in names.split())


ALWAYS: tuple[Rule, ...] = (
    Rule("socket", errno.EAFNOSUPPORT, 0, values=(_AF_UNIX,), unless=True),
    Rule("socketpair", errno.EAFNOSUPPORT, 0, values=(_AF_UNIX,), unless=True),
    *_each("io_uring_setup io_uring_enter io_uring_register", errno.ENOSYS),
    *_each("ptrace process_vm_readv process_vm_writev kcmp"),
    *_each("add_key request_key keyctl bpf userfaultfd perf_event_open"),
    *_each("mount umount2 pivot_root chroot unshare setns swapon swapoff acct quotactl reboot"),
    *_each("init_module finit_module delete_module kexec_load kexec_file_load"),
    *_each("open_by_handle_at name_to_handle_at fanotify_init lookup_dcookie syslog"),
    *_each("clock_settime clock_adjtime settimeofday adjtimex sethostname setdomainname"),
    *_each("iopl ioperm modify_ldt vmsplice move_pages migrate_pages"),
    *_each("memfd_create shmget shmat msgget semget mq_open", errno.ENOSYS),
    Rule("clone", errno.EPERM, 0, bits=_NEW_NAMESPACES),
    Rule("clone3", errno.ENOSYS),  # its flags are behind a pointer; the C library then falls back to clone
    Rule("prctl", errno.EPERM, 0, values=(_PR_SET_DUMPABLE,)),  # what it holds open stays to be counted
    Rule("ioctl", errno.EPERM, 1, values=(_TIOCSTI, _TIOCLINUX)),
)
"""At every level."""

CONFINED_BY_FILES: tuple[Rule, ...] = (
    # a socket with a path reaches whatever listens for this user, and landlock does not stand in between
    Rule("socket", errno.EAFNOSUPPORT),
    # changes of what is not opened; landlock governs opening
    *_each("chmod fchmod fchmodat chown lchown fchown fchownat utime utimes futimesat utimensat"),
    *_each("setxattr lsetxattr fsetxattr removexattr lremovexattr fremovexattr mknod mknodat truncate creat"),
    *_each("inotify_init inotify_init1"),
    # reading only, and emptying all the same
    Rule("open", errno.EPERM, 1, _O_TRUNC | _O_ACCMODE, (_O_TRUNC, _O_TRUNC | 3)),
    Rule("openat", errno.EPERM, 2, _O_TRUNC | _O_ACCMODE, (_O_TRUNC, _O_TRUNC | 3)),
    # settings of other processes of the same user
    Rule("prlimit64", errno.EPERM, 0, values=(0,), unless=True),
    Rule("sched_setaffinity", errno.EPERM, 0, values=(0,), unless=True),
    Rule("sched_setscheduler", errno.EPERM, 0, values=(0,), unless=True),
    Rule("sched_setparam", errno.EPERM, 0, values=(0,), unless=True),
    Rule("sched_setattr", errno.EPERM, 0, values=(0,), unless=True),
    *_each("setpriority ioprio_set"),
)
"""Where landlock alone stands between the trainer and this machine's files."""


def own_signals_only(pid: int) -> tuple[Rule, ...]:
    """Signals to the process `pid` and its group only, where landlock is too old to stop others."""
    return (
        *(Rule(name, errno.EPERM, 0, values=(0, pid), unless=True) for name in ("kill", "tgkill", "tkill")),
        *_each("rt_sigqueueinfo rt_tgsigqueueinfo"),
    )


_NEWER_ALLOWED = ("pidfd_open", "close_range", "faccessat2", "epoll_pwait2", "futex_waitv", "mseal")
"""Of the numbers from FIRST_COMMON on; the others are answered as by a kernel that has not got them."""

NUMBERS: dict[str, tuple[int | None, int | None]] = {
    "socket": (41, 198),
    "socketpair": (53, 199),
    "ptrace": (101, 117),
    "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271),
    "kcmp": (312, 272),
    "add_key": (248, 217),
    "request_key": (249, 218),
    "keyctl": (250, 219),
    "bpf": (321, 280),
    "userfaultfd": (323, 282),
    "perf_event_open": (298, 241),
    "mount": (165, 40),
    "umount2": (166, 39),
    "pivot_root": (155, 41),
    "chroot": (161, 51),
    "unshare": (272, 97),
    "setns": (308, 268),
    "swapon": (167, 224),
    "swapoff": (168, 225),
    "acct": (163, 89),
    "quotactl": (179, 60),
    "reboot": (169, 142),
    "init_module": (175, 105),
    "finit_module": (313, 273),
    "delete_module": (176, 106),
    "kexec_load": (246, 104),
    "kexec_file_load": (320, 294),
    "open_by_handle_at": (304, 265),
    "name_to_handle_at": (303, 264),
    "fanotify_init": (300, 262),
    "lookup_dcookie": (212, 18),
    "syslog": (103, 116),
    "clock_settime": (227, 112),
    "clock_adjtime": (305, 266),
    "settimeofday": (164, 170),
    "adjtimex": (159, 171),
    "sethostname": (170, 161),
    "setdomainname": (171, 162),
    "iopl": (172, None),
    "ioperm": (173, None),
    "modify_ldt": (154, None),
    "vmsplice": (278, 75),
    "move_pages": (279, 239),
    "migrate_pages": (256, 238),
    "memfd_create": (319, 279),
    "shmget": (29, 194),
    "shmat": (30, 196),
    "msgget": (68, 186),
    "semget": (64, 190),
    "mq_open": (240, 180),
    "clone": (56, 220),
    "prctl": (157, 167),
    "ioctl": (16, 29),
    "chmod": (90, None),
    "fchmod": (91, 52),
    "fchmodat": (268, 53),
    "chown": (92, None),
    "lchown": (94, None),
    "fchown": (93, 55),
    "fchownat": (260, 54),
    "utime": (132, None),
    "utimes": (235, None),
    "futimesat": (261, None),
    "utimensat": (280, 88),
    "setxattr": (188, 5),
    "lsetxattr": (189, 6),
    "fsetxattr": (190, 7),
    "removexattr": (197, 14),
    "lremovexattr": (198, 15),
    "fremovexattr": (199, 16),
    "mknod": (133, None),
    "mknodat": (259, 33),
    "truncate": (76, 45),
    "creat": (85, None),
    "inotify_init": (253, None),
    "inotify_init1": (294, 26),
    "open": (2, None),
    "openat": (257, 56),
    "prlimit64": (302, 261),
    "sched_setaffinity": (203, 122),
    "sched_setscheduler": (144, 119),
    "sched_setparam": (142, 118),
    "sched_setattr": (314, 274),
    "setpriority": (141, 140),
    "ioprio_set": (251, 30),
    "kill": (62, 129),
    "tgkill": (234, 131),
    "tkill": (200, 130),
    "rt_sigqueueinfo": (129, 138),
    "rt_tgsigqueueinfo": (297, 240),
    "io_uring_setup": (425, 425),
    "io_uring_enter": (426, 426),
    "io_uring_register": (427, 427),
    "pidfd_open": (434, 434),
    "clone3": (435, 435),
    "close_range": (436, 436),
    "faccessat2": (439, 439),
    "epoll_pwait2": (441, 441),
    "futex_waitv": (449, 449),
    "mseal": (462, 462),
}
"""Name -> number on x86_64 and on aarch64; None where there is no such call."""


def program(machine: str, rules: tuple[Rule, ...]) -> bytes:
    """The filter: 8 bytes an instruction (struct sock_filter). ValueError for a machine without numbers here.

    Of several rules for a call the first that applies decides.
    """
    if machine not in MACHINES:
        raise ValueError(f"no numbers of system calls for {machine}")
    column = list(MACHINES).index(machine)
    code = [_op(_LOAD, _ARCH), _op(_EQUAL, MACHINES[machine], 1, 0), _op(_RETURN, KILL), _op(_LOAD, _NUMBER)]
    if machine == "x86_64":
        code += [_op(_AT_LEAST, X32, 0, 1), _op(_RETURN, KILL)]
    for rule in rules:
        number = NUMBERS[rule.name][column]
        if number is not None:
            block = _block(rule)
            code += [_op(_EQUAL, number, 0, len(block)), *block]
    for name in _NEWER_ALLOWED:
        number = NUMBERS[name][column]
        assert number is not None, "the newer numbers are those of every machine"
        code += [_op(_EQUAL, number, 0, 1), _op(_RETURN, ALLOW)]
    code += [_op(_AT_LEAST, FIRST_COMMON, 0, 1), _op(_RETURN, ERRNO | errno.ENOSYS), _op(_RETURN, ALLOW)]
    return b"".join(code)


def _block(rule: Rule) -> list[bytes]:
    """What is done for a call of this rule; where it does not apply, the number is loaded again for the next."""
    refuse, again = _op(_RETURN, ERRNO | rule.error), _op(_LOAD, _NUMBER)
    if rule.argument is None:
        return [refuse]
    load = _op(_LOAD, _ARGUMENTS + 8 * rule.argument)  # the low half: both machines are little-endian
    if rule.bits:
        return [load, _op(_SETS, rule.bits, 0, 1), refuse, again]
    masked = [load, _op(_AND, rule.mask)]
    left = range(len(rule.values) - 1, -1, -1)  # comparisons behind this one
    if rule.unless:  # a value that is among them jumps over the refusal
        compared = [_op(_EQUAL, value, more + 1, 0) for value, more in zip(rule.values, left, strict=True)]
    else:  # it jumps to it, and the last one over it if it is not
        compared = [_op(_EQUAL, value, more, int(not more)) for value, more in zip(rule.values, left, strict=True)]
    return [*masked, *compared, refuse, again]


def _op(code: int, value: int, yes: int = 0, no: int = 0) -> bytes:
    """One instruction: code, jumps over so many if true and if false, value."""
    return struct.pack("=HBBI", code, yes, no, value)
