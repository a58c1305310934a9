"""What a trainer cannot do, at each level that this machine has: tried by real trainers, each in a process of its own.

A level that is not here shows in the first test, which asserts why; its other tests then try nothing.
"""

import os
import pathlib
import shutil
import socket
import stat
import subprocess
import sys
import tempfile
import textwrap
from collections.abc import Iterator
from dataclasses import replace

import pytest
from fedveil_common import initial
from fedveil_common.errors import ConfigError, PolicyRefusal
from fedveil_participant.isolation import interpreter, kernel, other_user, probe
from fedveil_participant.isolation.levels import Confinement, Isolation
from fedveil_participant.training import child
from patience import LIMIT_S
from test_own_trainers import PLAN, rows
from trainer_house import LEVELS, House, confinement, one_that_holds, open_to_everybody, reachable


@pytest.fixture(params=LEVELS, ids=lambda level: level.value)
def held(request: pytest.FixtureRequest) -> Confinement:
    """Each level that is here."""
    return one_that_holds(request.param)


@pytest.fixture
def house() -> Iterator[House]:
    with open_to_everybody() as made:
        yield made


# --- which level there is ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("level", LEVELS, ids=lambda level: level.value)
def test_a_level_is_here_or_says_why(level: Isolation) -> None:
    _, why = confinement(level)
    if level is Isolation.BWRAP:
        assert bool(why) == (not shutil.which("bwrap") or "bwrap" in why or "Permission" in why), why
    else:
        assert bool(why) == (not kernel.landlock_version() or "/" in why), why


def test_the_best_level_is_taken_and_the_next_one_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    one_that_holds(Isolation.BWRAP)
    best = probe.find(reachable(), (), none_allowed=False)
    assert best.level is (Isolation.LANDLOCK if confinement(Isolation.BWRAP)[1] else Isolation.BWRAP)
    monkeypatch.setattr(shutil, "which", lambda name: None)
    if not confinement(Isolation.LANDLOCK)[1]:
        second = probe.find(reachable(), (), none_allowed=False)
        assert (second.level, second.why_not_better) == (Isolation.LANDLOCK, "bwrap: there is no command bwrap")
    monkeypatch.setattr(kernel, "landlock_version", lambda: 0)
    with pytest.raises(PolicyRefusal) as caught:
        probe.find(reachable(), (), none_allowed=False)
    assert (caught.value.code, caught.value.exit_code) == ("isolation_missing", 4)
    assert "there is no command bwrap; landlock: the kernel has no landlock" in str(caught.value)
    allowed = probe.find(reachable(), (), none_allowed=True)
    assert (allowed.level, allowed.uid) == (Isolation.NONE, None)
    assert allowed.why_not_better == "bwrap: there is no command bwrap; landlock: the kernel has no landlock"


@pytest.mark.parametrize(
    ("broken", "why"),
    [
        ("reads", "reads other files"),
        ("sockets", "makes sockets of the network"),
        ("machine", "there is no filter of system calls"),
        ("numpy", "No module named 'no_such_module'"),
    ],
)
def test_a_level_that_does_not_hold_is_not_taken(broken: str, why: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The probe looks at what it found inside, and does not believe that a command that ran has isolated."""
    found = one_that_holds(Isolation.LANDLOCK)
    modules = ("no_such_module",) if broken == "numpy" else ("numpy",)
    if broken == "machine":
        monkeypatch.setattr(kernel, "machine", lambda: "riscv64")
    if broken in {"reads", "sockets"}:
        found = replace(found, level=Isolation.NONE)  # another user at most, and nothing else
        if broken == "sockets":
            monkeypatch.setattr(probe, "_INSIDE", probe._INSIDE.replace("open(sys.argv[1])", "open('/no/such/file')"))
    said = probe.try_out(found, modules)
    if found.level is Isolation.NONE and "Permission denied" in said:  # nor does that user reach this interpreter
        assert found.interpreter.python in said
        return
    assert why in said


# --- the interpreter --------------------------------------------------------------------------------------------------


def test_an_interpreter_is_its_folders_its_links_and_the_libraries(tmp_path: pathlib.Path) -> None:
    """A link from elsewhere, as `python` of a virtual environment is, is followed to the end."""
    found = interpreter.look_at(sys.executable)
    for path in (sys.prefix, sys.base_prefix, os.path.realpath(sys.executable), "/usr/lib"):
        assert any(os.path.normpath(path) == root or path.startswith(root + "/") for root in found.roots), path
    assert found.python == os.path.normpath(sys.executable)
    outside = tmp_path / "python"
    outside.symlink_to(os.path.realpath(sys.executable))
    assert interpreter.look_at(str(outside)).python == os.path.realpath(sys.executable)
    assert not [root for root in found.roots if root in {"/", "/tmp", "/root", "/home", "/etc"}]


@pytest.mark.parametrize("where", ["in the prefix", "is the prefix", "by a link"])
def test_an_interpreter_around_what_is_hidden_is_refused(tmp_path: pathlib.Path, where: str) -> None:
    hidden = {"in the prefix": pathlib.Path(sys.prefix) / "home", "is the prefix": pathlib.Path(sys.prefix)}
    (tmp_path / "link").symlink_to(pathlib.Path(sys.prefix) / "lib")
    with pytest.raises(ConfigError) as caught:
        interpreter.look_at(sys.executable, [hidden.get(where, tmp_path / "link")])
    assert caught.value.code == "trainer_python"
    assert interpreter.look_at(sys.executable, [tmp_path / "home"])


@pytest.mark.parametrize(
    ("script", "why"),
    [
        ("exit 1", "no Python interpreter"),
        ("echo '['", "no Python interpreter"),
        ('echo \'["/", "/usr"]\'', "is installed in /"),
        ("echo '[\"/tmp\"]'", "is installed in /tmp"),
    ],
)
def test_what_is_no_interpreter_is_refused(tmp_path: pathlib.Path, script: str, why: str) -> None:
    python = tmp_path / "python"
    python.write_text(f"#!/bin/sh\n{script}\n")
    python.chmod(0o755)
    with pytest.raises(ConfigError, match="trainer_python") as caught:
        interpreter.look_at(str(python))
    assert why in caught.value.what


# --- what is not there ------------------------------------------------------------------------------------------------


def test_it_reads_no_key_and_sees_no_home(held: Confinement, house: House) -> None:
    house.trainer(replace(held, level=Isolation.NONE, uid=None), "say(open(KEY).read())").update(
        PLAN, initial.initial_model(PLAN), rows(20)
    )
    assert b"the masking key" in house.log  # without isolation it does
    house.log.clear()
    found = house.said(
        held,
        """
        say(how(open, KEY))
        say(how(os.listdir, HOME))
        say(how(open, KEY, "w"))
        say(how(os.open, KEY, os.O_PATH))
        say(how(os.truncate, KEY, 0))
        say(how(os.unlink, KEY))
        say(how(os.rename, KEY, "mine"))
        say(how(os.link, KEY, "mine"))
        say(how(os.chmod, KEY, 0))
        say(how(os.utime, KEY, (1, 1)))
        say(how(os.setxattr, KEY, "user.a", b"b"))
        os.symlink(KEY, "link")
        say(how(open, "link"))
        for folder in ("/", "/etc", "/home", "/root", "/var", "/proc", "/sys", "/run", os.path.dirname(HOME)):
            try:
                names = os.listdir(folder)
            except OSError:
                continue
            say([folder, [name for name in names if "fedveil-house" in name or name in ("passwd", "shadow", "1")]])
        """,
    )
    assert house.key.read_text() == "the masking key"
    assert stat.S_IMODE(house.key.stat().st_mode) == 0o666
    refused = {"ENOENT"} if held.level is Isolation.BWRAP else {"EACCES", "EPERM", "EXDEV"}
    opened = "did it" if held.level is Isolation.LANDLOCK else "ENOENT"  # O_PATH is a name and no more
    assert found[3] == opened
    assert {str(one) for number, one in enumerate(found[:12]) if number != 3} <= refused
    assert not [names for _, names in found[12:] if names]  # type: ignore[misc]


def test_it_has_no_environment_and_no_capability(
    held: Confinement, house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FEDVEIL_SECRET", "hush")
    body = """
    say(dict(os.environ))
    libc.environ = ctypes.POINTER(ctypes.c_char_p).in_dll(libc, "environ")
    say([name for name in iter_environment() if b"hush" in name])
    say((os.getuid() != 0, os.geteuid() != 0, os.getgroups()))
    header, data = (ctypes.c_uint32 * 2)(0x20080522, 0), (ctypes.c_uint32 * 6)()
    libc.capget(header, data)
    say(list(data))
    say(libc.prctl(39, 0, 0, 0, 0))
    say(how(os.setuid, 0))
    say(socket.gethostname() == HOST)
    """
    body = body.replace("iter_environment()", "iter(lambda i=iter(range(10**6)): libc.environ[next(i)], None)")
    found = house.said(held, f"HOST = {socket.gethostname()!r}\n" + textwrap.dedent(body))
    assert found[:2] == [{}, []]
    user = found[2]
    assert isinstance(user, tuple)
    assert user[:2] == (True, True)
    assert set(user[2]) <= {65534, *(os.getgroups() if os.getuid() else ())}  # none of root's
    assert found[3] == [0] * 6
    assert found[4] == 1  # no new privileges
    assert found[5] == ("EINVAL" if held.level is Isolation.BWRAP else "EPERM")
    assert found[6] is (held.level is not Isolation.BWRAP)


def test_it_makes_no_socket_of_any_network(held: Confinement, house: House) -> None:
    """By socket(2) alone: nothing is connected, here or there."""
    found = house.said(
        held,
        """
        for family in (socket.AF_INET, socket.AF_INET6, 16, 17, 40, 31, 38, 44):  # NETLINK PACKET VSOCK ...
            for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM, socket.SOCK_RAW):
                say(how(socket.socket, family, kind))
        say(how(socket.socket, socket.AF_UNIX))
        say(how(socket.socketpair))
        say(call(425, 8, 0))
        """,
    )
    assert set(found[:24]) == {"EAFNOSUPPORT"}
    assert found[24:] == ["did it" if held.level is Isolation.BWRAP else "EAFNOSUPPORT", "did it", "ENOSYS"]


X86 = {"mount": 165, "umount2": 166, "unshare": 272, "setns": 308, "ptrace": 101, "process_vm_readv": 310, "bpf": 321}
X86 |= {"keyctl": 250, "add_key": 248, "userfaultfd": 323, "perf_event_open": 298, "memfd_create": 319, "shmget": 29}
X86 |= {"mq_open": 240, "clone3": 435, "open_tree": 428, "fsopen": 430, "pidfd_send_signal": 424, "landlock": 444}
X86 |= {"chroot": 161, "pivot_root": 155, "name_to_handle_at": 303}
NOT_HERE = {"memfd_create", "shmget", "mq_open", "clone3", "open_tree", "fsopen", "pidfd_send_signal", "landlock"}


@pytest.mark.skipif(kernel.machine() != "x86_64", reason="the numbers below are those of x86_64")
def test_the_calls_that_lead_out_are_refused(held: Confinement, house: House) -> None:
    """By number, with arguments that a kernel would find wrong (EFAULT, EINVAL ...): the filter answers first."""
    lines = "\n".join(f"say(call({number}, 0, 0, 0, 0, 0))" for number in X86.values())
    clone = "\n".join(f"say(call(56, {flag} | 17, 0, 0, 0, 0))" for flag in (0x10000000, 0x20000, 0x40000000))
    found = house.said(held, f"{lines}\n{clone}")
    expected = {name: "ENOSYS" if name in NOT_HERE else "EPERM" for name in X86}
    assert dict(zip(X86, found, strict=False)) == expected
    assert found[len(X86) :] == ["EPERM"] * 3


@pytest.mark.skipif(kernel.machine() != "x86_64", reason="x86_64 alone has other architectures in it")
@pytest.mark.parametrize("way", ["i386", "x32"])
def test_a_call_of_another_architecture_ends_it(held: Confinement, house: House, way: str) -> None:
    body = {
        # mov eax, 20 (getpid of i386); int 0x80; ret
        "i386": """
        import mmap
        page = mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
        page.write(bytes([0xB8, 20, 0, 0, 0, 0xCD, 0x80, 0xC3]))
        say("before")
        ctypes.CFUNCTYPE(ctypes.c_int)(ctypes.addressof(ctypes.c_char.from_buffer(page)))()
        say("after")
        """,
        "x32": 'say("before")\nlibc.syscall(ctypes.c_long(0x40000000 + 39))\nsay("after")',
    }[way]
    assert house.ended(held, body) == "'before'\n"


def test_it_cannot_touch_the_participant_or_see_others(held: Confinement, house: House) -> None:
    found = house.said(
        held,
        """
        say(how(os.kill, ME, 0))
        say(how(os.kill, ME, signal.SIGKILL))
        say(how(os.kill, os.getppid() or 1, signal.SIGKILL))
        say(how(os.kill, -1, 0))
        say(how(signal.pidfd_send_signal, 0, 0))
        say(os.listdir("/proc") if os.access("/proc", os.R_OK) and how(os.listdir, "/proc") == "did it" else [])
        for name in ("environ", "cmdline", "mem", "maps", "fd/0", "root"):
            say(how(open, f"/proc/{ME}/{name}"))
        import resource
        say(how(resource.prlimit, ME, resource.RLIMIT_NOFILE, (1, 1)))
        say(how(os.sched_setaffinity, ME, {0}))
        say(how(os.setpriority, os.PRIO_PROCESS, ME, 19))
        child = os.fork()
        if not child:
            time.sleep(100)
        say(how(os.kill, child, signal.SIGKILL))
        say(os.WTERMSIG(os.waitpid(child, 0)[1]))
        """,
    )
    gone = {"ESRCH"} if held.level is Isolation.BWRAP else {"EPERM", "ESRCH"}
    assert set(found[:2]) <= gone
    assert found[2] in {"did it", "EPERM"}  # the first of its own namespace takes no signal
    assert found[3] in {"did it", "ESRCH", "EPERM"}
    assert found[4] == "ENOSYS"
    assert found[5] in ([], ["cpuinfo"])
    assert set(found[6:12]) <= {"ENOENT", "EACCES"}
    assert set(found[12:15]) <= gone | {"EACCES"}
    assert found[15:] == ["did it", 9]


def test_it_remounts_nothing_and_writes_only_where_it_may(held: Confinement, house: House) -> None:
    found = house.said(
        held,
        """
        work = os.getcwd()
        def attempt(folder):
            with open(os.path.join(folder, "written"), "w") as stream:
                stream.write("x")
            os.unlink(os.path.join(folder, "written"))
        say(how(os.mkdir, "/mounted"))
        writable = []
        for folder in [work, "/tmp", "/dev/shm", "/", "/dev", "/etc", "/usr", "/usr/lib", "/root", "/home", "/var/tmp",
                       "/trainer", sys.prefix, sys.base_prefix, HOME, os.path.dirname(os.path.abspath(__file__)),
                       os.path.dirname(np.__file__), os.path.dirname(HOME)]:
            if how(attempt, folder) == "did it":
                writable.append(folder.replace(work, "work"))
        say(writable)
        for mode in ("w", "a", "r+"):
            say(how(open, __file__, mode))
            say(how(open, np.__file__, mode))
        say(how(os.open, __file__, os.O_RDONLY | os.O_TRUNC))
        say(len(open(__file__).read()) > 100)
        """,
    )
    expected = [["work", "/tmp", "/dev/shm"]] if held.level is Isolation.BWRAP else [["work"]]
    assert found[0] in {"EROFS", "EACCES"}
    assert found[1:2] == expected
    assert set(found[2:9]) <= {"EROFS", "EACCES", "EPERM"}
    assert found[9] is True


# --- as an ordinary user, and without ---------------------------------------------------------------------------------


AS_USER = """
import os, pathlib, shutil, tempfile
os.setgroups([]); os.setresgid(UID, UID, UID); os.setresuid(UID, UID, UID)
tempfile.tempdir = FOLDER
from trainer_house import House, probe
for level in ("bwrap", "landlock"):
    if level == "landlock":
        shutil.which = lambda name: None
    held = probe.find("/usr/bin/python3", (), none_allowed=False)
    house = House(pathlib.Path(FOLDER) / level)
    print(held.level.value, held.uid, house.said(held, BODY))
"""
TRIED = """
say(how(open, KEY))
say(how(os.kill, ME, 9))
say(how(os.kill, os.getppid() or 1, 0))
import resource
say(how(resource.prlimit, ME, resource.RLIMIT_NOFILE, (1, 1)))
say(how(os.chmod, HOME, 0))
"""


def open_to_all(path: pathlib.Path) -> bool:
    """Whether every user may look into this folder."""
    return all(one.stat().st_mode & 0o005 == 0o005 for one in (path, *path.parents))


def test_an_ordinary_user_is_isolated_too() -> None:
    """The usual case: the trainer has the participant's own user id. Where the tests run as such a user they all are
    this test; as root another user is made of a process, with an interpreter that it can reach.
    """
    here = pathlib.Path(__file__).parent
    if os.getuid() or reachable() != "/usr/bin/python3" or not open_to_all(here):
        return
    uid = other_user.unused_uid()
    folder = tempfile.mkdtemp(prefix="fedveil-user-")
    try:
        venv = pathlib.Path(folder) / "venv"
        subprocess.run(["/usr/bin/python3", "-m", "venv", "--without-pip", str(venv)], check=True)
        (site,) = venv.glob("lib/python*/site-packages")
        (site / "tests.pth").write_text("\n".join([str(here), *(path for path in sys.path if os.path.isdir(path))]))
        os.chown(folder, uid, uid)
        text = AS_USER.replace("UID", str(uid)).replace("FOLDER", repr(folder)).replace("BODY", repr(TRIED))
        command = [str(venv / "bin" / "python"), "-I", "-c", text]
        done = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT_S, cwd="/", check=False)
    finally:
        shutil.rmtree(folder)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    if not confinement(Isolation.BWRAP)[1]:
        assert lines[0] == "bwrap None ['ENOENT', 'ESRCH', 'did it', 'ESRCH', 'ENOENT']"
    if not confinement(Isolation.LANDLOCK)[1]:
        assert lines[1] == "landlock None ['EACCES', 'EPERM', 'EPERM', 'EPERM', 'EPERM']"


def test_an_older_landlock_lets_no_signal_out_either(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before version 6 landlock knows no signals: the filter then lets it signal itself alone. Before version 3 it
    knows no emptying of files.
    """
    found, why = confinement(Isolation.LANDLOCK)
    if why:
        one_that_holds(Isolation.BWRAP)
        return
    made = child._order

    def older(*arguments: object) -> object:
        return replace(made(*arguments), abi=1)  # type: ignore[arg-type]

    monkeypatch.setattr(child, "_order", older)
    said = house.said(
        found,
        """
        say(how(open, KEY))
        say(how(os.kill, os.getppid(), 0))
        say(how(os.kill, os.getpid(), 0))
        child = os.fork()
        if not child:
            os._exit(0)
        say(how(os.kill, child, 0))
        say(how(os.truncate, __file__, 0))
        say(how(os.open, __file__, os.O_RDONLY | os.O_TRUNC))
        with open("mine", "w") as stream:
            stream.write("x")
        with open("mine", "w") as stream:
            pass
        say(os.path.getsize("mine"))
        """,
    )
    assert said == ["EACCES", "EPERM", "did it", "EPERM", "EPERM", "EPERM", 0]
