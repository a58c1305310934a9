"""The filter of system calls, run by an interpreter of classic BPF that is written here, on both machines.

The kernel is the other judge, on the machine that the tests run on: tests/test_isolation.py.
"""

import errno
import struct

import pytest
from fedveil_participant.isolation import seccomp

ALLOW, KILL = 0x7FFF0000, 0x80000000
X86_64, AARCH64, I386, ARM = 0xC000003E, 0xC00000B7, 0x40000003, 0x40000028


def run(program: bytes, arch: int, number: int, arguments: tuple[int, ...] = ()) -> int:
    """What the program returns for a call. Source: the BSD paper's machine, as linux/filter.h numbers it."""
    data = struct.pack("<IIQ6Q", number, arch, 0, *(*arguments, *(6 - len(arguments)) * (0,)))
    code = [struct.unpack_from("=HBBI", program, at) for at in range(0, len(program), 8)]
    accumulator = at = 0
    while True:
        operation, yes, no, value = code[at]
        at += 1
        if operation == 0x20:  # BPF_LD | BPF_W | BPF_ABS
            accumulator = struct.unpack_from("<I", data, value)[0]
        elif operation == 0x54:  # BPF_ALU | BPF_AND | BPF_K
            accumulator &= value
        elif operation == 0x15:  # BPF_JMP | BPF_JEQ | BPF_K
            at += yes if accumulator == value else no
        elif operation == 0x35:  # BPF_JGE
            at += yes if accumulator >= value else no
        elif operation == 0x45:  # BPF_JSET
            at += yes if accumulator & value else no
        else:
            assert operation == 0x06, hex(operation)  # BPF_RET
            return int(value)


def error(number: int) -> int:
    return 0x00050000 | number


MACHINES = {"x86_64": X86_64, "aarch64": AARCH64}
# from asm/unistd_64.h and asm-generic/unistd.h
NUMBERS = {
    "read": (0, 63),
    "write": (1, 64),
    "mmap": (9, 222),
    "exit_group": (231, 94),
    "execve": (59, 221),
    "socket": (41, 198),
    "connect": (42, 203),
    "socketpair": (53, 199),
    "clone": (56, 220),
    "unshare": (272, 97),
    "ptrace": (101, 117),
    "mount": (165, 40),
    "keyctl": (250, 219),
    "bpf": (321, 280),
    "prctl": (157, 167),
    "ioctl": (16, 29),
    "openat": (257, 56),
    "fchmodat": (268, 53),
    "truncate": (76, 45),
    "prlimit64": (302, 261),
    "kill": (62, 129),
    "tgkill": (234, 131),
    "memfd_create": (319, 279),
    "io_uring_setup": (425, 425),
    "clone3": (435, 435),
    "openat2": (437, 437),
    "close_range": (436, 436),
    "futex_waitv": (449, 449),
    "not_yet": (700, 700),
}
EPERM, ENOSYS, FAMILY = error(errno.EPERM), error(errno.ENOSYS), error(errno.EAFNOSUPPORT)
HIGH = 0xFFFFFFFF_00000000
CASES: list[tuple[str, tuple[int, ...], int, int]] = [
    # call, arguments, what comes of it with namespaces, and without
    ("read", (3,), ALLOW, ALLOW),
    ("write", (3,), ALLOW, ALLOW),
    ("mmap", (0, 4096, 7), ALLOW, ALLOW),
    ("execve", (), ALLOW, ALLOW),
    ("exit_group", (), ALLOW, ALLOW),
    ("socket", (1, 1), ALLOW, FAMILY),
    ("socket", (HIGH | 1, 1), ALLOW, FAMILY),
    ("socket", (2, 1), FAMILY, FAMILY),
    ("socket", (HIGH | 2, 1), FAMILY, FAMILY),
    ("socket", (0, 1), FAMILY, FAMILY),
    ("socket", (40, 1), FAMILY, FAMILY),
    ("socketpair", (1, 1), ALLOW, ALLOW),
    ("socketpair", (30, 1), FAMILY, FAMILY),
    ("clone", (0x3D0F00,), ALLOW, ALLOW),  # a thread
    ("clone", (17,), ALLOW, ALLOW),
    ("clone", (0x1000_0011,), EPERM, EPERM),
    ("clone", (0x0002_0011,), EPERM, EPERM),
    ("clone", (0x0200_0011,), EPERM, EPERM),
    ("clone", (0x4000_0000,), EPERM, EPERM),
    ("clone", (0x2000_0000,), EPERM, EPERM),
    ("unshare", (0,), EPERM, EPERM),
    ("ptrace", (0,), EPERM, EPERM),
    ("mount", (), EPERM, EPERM),
    ("keyctl", (), EPERM, EPERM),
    ("bpf", (), EPERM, EPERM),
    ("prctl", (4, 0), EPERM, EPERM),
    ("prctl", (15, 0), ALLOW, ALLOW),
    ("ioctl", (0, 0x5412), EPERM, EPERM),
    ("ioctl", (0, 0x541C), EPERM, EPERM),
    ("ioctl", (0, 0x5401), ALLOW, ALLOW),
    ("openat", (0, 0, 0o1000), ALLOW, EPERM),
    ("openat", (0, 0, 0o1003), ALLOW, EPERM),
    ("openat", (0, 0, 0o1001), ALLOW, ALLOW),
    ("openat", (0, 0, 0o1102), ALLOW, ALLOW),
    ("openat", (0, 0, 0), ALLOW, ALLOW),
    ("fchmodat", (), ALLOW, EPERM),
    ("truncate", (), ALLOW, EPERM),
    ("prlimit64", (0, 7), ALLOW, ALLOW),
    ("prlimit64", (1, 7), ALLOW, EPERM),
    ("kill", (1, 9), ALLOW, ALLOW),
    ("memfd_create", (), ENOSYS, ENOSYS),
    ("io_uring_setup", (), ENOSYS, ENOSYS),
    ("clone3", (), ENOSYS, ENOSYS),
    ("openat2", (), ENOSYS, ENOSYS),
    ("close_range", (), ALLOW, ALLOW),
    ("futex_waitv", (), ALLOW, ALLOW),
    ("not_yet", (), ENOSYS, ENOSYS),
]


@pytest.mark.parametrize("machine", MACHINES)
@pytest.mark.parametrize("confined", [False, True], ids=["namespaces", "files"])
def test_each_call_has_its_answer(machine: str, confined: bool) -> None:
    rules = seccomp.CONFINED_BY_FILES + seccomp.ALWAYS if confined else seccomp.ALWAYS
    program = seccomp.program(machine, rules)
    column = list(MACHINES).index(machine)
    for name, arguments, with_namespaces, without in CASES:
        found = run(program, MACHINES[machine], NUMBERS[name][column], arguments)
        assert found == (without if confined else with_namespaces), (name, arguments)
    assert len(program) % 8 == 0
    assert len(program) // 8 < 4096, "BPF_MAXINSNS"


@pytest.mark.parametrize("machine", MACHINES)
def test_every_rule_refuses_what_it_names(machine: str) -> None:
    """Each rule without arguments, by the number that the table has for it."""
    program = seccomp.program(machine, seccomp.CONFINED_BY_FILES + seccomp.ALWAYS)
    column = list(MACHINES).index(machine)
    tried = 0
    for rule in seccomp.CONFINED_BY_FILES + seccomp.ALWAYS:
        number = seccomp.NUMBERS[rule.name][column]
        if rule.argument is None and number is not None and rule.name != "socket":
            assert run(program, MACHINES[machine], number) == error(rule.error), rule.name
            tried += 1
    assert tried > 60
    given = [numbers[column] for numbers in seccomp.NUMBERS.values() if numbers[column] is not None]
    assert len(given) == len(set(given)), "two names have one number"


def test_another_architecture_and_x32_end_the_process() -> None:
    for machine, arch in MACHINES.items():
        program = seccomp.program(machine, seccomp.ALWAYS)
        for other in {X86_64, AARCH64, I386, ARM} - {arch}:
            for number in (0, 1, 20, 63, 435):
                assert run(program, other, number) == KILL
    program = seccomp.program("x86_64", seccomp.ALWAYS)
    assert run(program, X86_64, 0x40000000) == KILL
    assert run(program, X86_64, 0x40000000 | 41, (1, 1)) == KILL
    assert run(program, X86_64, 0x3FFFFFFF) == ENOSYS


def test_where_landlock_knows_no_signals_only_its_own_process_is_reached() -> None:
    for machine, arch in MACHINES.items():
        program = seccomp.program(machine, seccomp.ALWAYS + seccomp.own_signals_only(4711))
        for name in ("kill", "tgkill"):
            number = NUMBERS[name][list(MACHINES).index(machine)]
            assert run(program, arch, number, (4711, 4711, 9)) == ALLOW
            assert run(program, arch, number, (0, 0, 9)) == ALLOW
            for pid in (1, 4710, 0xFFFFFFFF, HIGH | 1):
                assert run(program, arch, number, (pid, pid, 9)) == EPERM


def test_a_machine_without_numbers_has_no_filter() -> None:
    with pytest.raises(ValueError, match="riscv64"):
        seccomp.program("riscv64", seccomp.ALWAYS)
