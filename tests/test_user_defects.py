"""What people ran into: each test is one thing that a user did and that went wrong."""

import io
import json
import os
import pathlib
import re
import signal
import socket
import stat
import sys
import threading
from collections.abc import Iterator

import pytest
from berths import free_port
from enrolment_office import GOV, Clock, Entropy, Office, code_of, join, open_office
from fedveil_cli import (
    files,
    main,
    operating,
    passphrases,
    run_commands,
    service_commands,
)
from fedveil_cli.output import Output
from fedveil_common import plan as plans
from fedveil_common.database import FolderLock
from fedveil_common.errors import ConfigError, SealedError, StorageError
from fedveil_common.pki import invites
from fedveil_common.plan import NotInThisReleaseError, PlanError
from fedveil_common.plan.reading import RELEASES
from fedveil_coordinator import founding
from fedveil_participant.membership import load_membership
from fedveil_participant.store import journal_key, make_journal_key, open_store

from tests.patience import LIMIT_S
from tests.processes import NAMES, House, house, plan_text
from tests.test_command_line import error_of


@pytest.fixture
def office(tmp_path: pathlib.Path) -> Iterator[Office]:
    with open_office(tmp_path) as made:
        yield made


@pytest.fixture
def home(tmp_path: pathlib.Path) -> Iterator[House]:
    with house(tmp_path) as made:
        yield made


# --- ports ------------------------------------------------------------------------------------------------------------


def founded(home: House, address: str) -> None:
    """`init`, nothing running."""
    for name, words in (("ca", "certificate authority"), ("gov", "governance passphrase")):
        (home.folder / f"{name}.txt").write_text(words)
        (home.folder / f"{name}.txt").chmod(0o600)
    given = ("--passphrase-file", "ca.txt", "--governance-passphrase-file", "gov.txt")
    assert home.run("init", "hospitals", "--address", address, *given).returncode == 0


@pytest.mark.parametrize("further", [0, 1])
def test_a_port_that_is_taken_is_named(home: House, further: int) -> None:
    port = free_port()
    founded(home, f"127.0.0.1:{port}")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", port + further))
        taken.listen()
        done = home.run("serve", "--passphrase-file", "ca.txt", "--json")
        assert (done.returncode, done.stdout) == (2, "")
        error = error_of(done.stderr.splitlines()[-1] + "\n")
        assert (error["code"], str(port + further) in error["what"]) == ("port_in_use", True)
        assert "Traceback" not in done.stderr
        assert home.run("serve", "--passphrase-file", "ca.txt").returncode == 2


def test_an_ipv6_address_is_listened_on(home: House) -> None:
    port = free_port()
    founded(home, f"[::1]:{port}")
    home.serve()
    for family, host in ((socket.AF_INET6, "::1"), (socket.AF_INET, "127.0.0.1")):
        for number in (port, port + 1):
            with socket.socket(family) as line:
                assert (line.connect_ex((host, number)) == 0) is (host == "::1")
    assert home.json("status")["participants"] == []
    assert home.run("join", "-", stdin=home.invite("acme"), home="acme").returncode == 0


@pytest.mark.parametrize(
    ("address", "listen", "dial"),
    [
        ("[::1]:7443", ("::1", 7443), "[::1]:7443"),
        ("[2001:db8::7]:7443", ("::", 7443), "[::1]:7443"),
        ("10.0.0.7:7443", ("0.0.0.0", 7443), "127.0.0.1:7443"),
        ("localhost:7443", ("127.0.0.1", 7443), "127.0.0.1:7443"),
    ],
)
def test_the_family_of_the_address_is_that_of_the_listener(
    address: str, listen: tuple[str, int], dial: str, tmp_path: pathlib.Path
) -> None:
    federation = founding.Federation(tmp_path, "f", address, tmp_path, b"", b"")  # type: ignore[arg-type]
    assert (federation.listen, federation.admin_address) == (listen, dial)


def test_a_stop_with_participants_connected_is_quick_and_quiet(home: House) -> None:
    """It ends the calls under way and does not wait for their grace, which is an hour here."""
    home.found(module="tests.graceful_coordinator")
    plan_hash = home.plan(plan_text())
    word = ("--passphrase-file", "ca.txt")
    for name, at_join, later in zip(NAMES, (word, (), ()), (word, word, ()), strict=True):
        assert home.run("join", "-", *at_join, stdin=home.invite(name), home=name).returncode == 0
        home.participate(name, plan_hash, *later)
    home.until(lambda: home.connected() == list(NAMES), "the organisations' connection")
    for name, clear in zip(NAMES, (False, False, True), strict=True):  # and each speaks with a key that it could open
        assert (b"PRIVATE KEY" in (home.folder / name / "tls.key").read_bytes()) is clear
        assert ("fedveil: sealed files=journal.key,tls.key" in home.err(name)) is (name == NAMES[1])
    process = home.running.pop("coordinator")
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=LIMIT_S) == 0
    assert "Traceback" not in home.err("coordinator")
    assert "CancelledError" not in home.err("coordinator")
    # 16: the participants go on, and a look at their home says which of the two is missing
    down = home.run("health", "--json", home="acme")
    assert (down.returncode, error_of(down.stderr)["code"]) == (69, "unreachable")
    home.serve()
    home.until(lambda: home.run("health", home="acme").returncode == 0, "health")
    assert home.json("health", home="acme")["running"] is True
    assert home.end("acme") == 0
    gone = home.run("health", "--json", home="acme")
    assert (gone.returncode, error_of(gone.stderr)["code"]) == (69, "participant_not_running")


def test_a_lock_is_seen_only_while_it_is_held(tmp_path: pathlib.Path) -> None:
    assert not service_commands.is_held(tmp_path)
    with FolderLock(tmp_path):
        assert service_commands.is_held(tmp_path)
    assert not service_commands.is_held(tmp_path)
    (tmp_path / "lock").write_text("4194999999\n")
    assert not service_commands.is_held(tmp_path)


# --- files that are named for output ----------------------------------------------------------------------------------


def test_output_to_a_device_a_pipe_or_a_link_leaves_it_what_it_is(tmp_path: pathlib.Path) -> None:
    before = os.stat("/dev/null")
    files.write_file(pathlib.Path("/dev/null"), "it", b"x" * 100)
    assert stat.S_ISCHR(os.stat("/dev/null").st_mode)
    assert os.stat("/dev/null").st_ino == before.st_ino

    pipe, read = tmp_path / "pipe", []
    os.mkfifo(pipe)
    reader = threading.Thread(target=lambda: read.append(pipe.read_bytes()))
    reader.start()
    files.write_file(pipe, "it", b"y" * 200_000)
    reader.join(10)
    assert read == [b"y" * 200_000]
    assert stat.S_ISFIFO(pipe.stat().st_mode)

    real, link = tmp_path / "deep" / "real", tmp_path / "link"
    real.parent.mkdir()
    link.symlink_to(real)
    for words in (b"made", b"replaced"):
        files.write_file(link, "it", words)
        assert (link.is_symlink(), real.read_bytes()) == (True, words)
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["deep", "link", "pipe", "real"]
    with pytest.raises(StorageError) as refused:
        files.write_file(tmp_path / "deep", "it", b"")
    assert code_of(refused) == ("file_unwritable", 74)


def test_a_link_to_a_device_is_written_through(tmp_path: pathlib.Path) -> None:
    link = tmp_path / "null"
    link.symlink_to("/dev/null")
    files.write_file(link, "it", b"x")
    assert link.is_symlink()
    assert stat.S_ISCHR(os.stat("/dev/null").st_mode)
    full = tmp_path / "full"
    full.symlink_to("/dev/full")
    with pytest.raises(StorageError) as refused:
        files.write_file(full, "it", b"x")
    assert code_of(refused) == ("file_unwritable", 74)
    assert full.is_symlink()
    assert stat.S_ISCHR(os.stat("/dev/full").st_mode)


WRITE_TO_STDOUT = (
    "import pathlib, sys; from fedveil_cli.files import write_file; print('before'); "
    "write_file(pathlib.Path(sys.argv[1]), 'it', b'data\\n'); print('after')"
)


def test_output_to_stdout_keeps_the_order(home: House) -> None:
    import subprocess

    link, target = home.folder / "out", home.folder / "target"
    link.symlink_to("/proc/self/fd/1")
    command = [sys.executable, "-c", WRITE_TO_STDOUT, str(link)]
    piped = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT_S, check=True)
    assert piped.stdout == "before\ndata\nafter\n"
    with target.open("w") as stream:
        subprocess.run(command, stdout=stream, timeout=LIMIT_S, check=True)
    assert target.read_text() == "before\ndata\nafter\n"
    assert link.is_symlink()


@pytest.mark.parametrize("redirection", [">&-", ">/dev/full", "2>&- >&-"])
def test_a_result_that_cannot_be_printed_says_that_the_work_is_done(redirection: str) -> None:
    import subprocess

    line = f"exec {sys.executable} -m fedveil_cli version {redirection}"
    done = subprocess.run(["/bin/sh", "-c", line], capture_output=True, text=True, timeout=LIMIT_S, check=False)
    assert (done.returncode, done.stdout) == (74, "")
    if "2>" not in redirection:
        assert re.search(r"\[(output_lost|disk_full)\]", done.stderr)
        assert "what was done is kept; only the output is missing" in done.stderr
    assert "defect" not in done.stderr


# --- revoke -----------------------------------------------------------------------------------------------------------


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    monkeypatch.setattr(sys, "stdin", Terminal())
    monkeypatch.delenv(passphrases.CREDENTIALS, raising=False)
    return monkeypatch


def test_revoke_asks_at_a_terminal(
    office: Office, tmp_path: pathlib.Path, terminal: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    typed = iter((GOV.expose().decode(), ""))
    terminal.setattr(passphrases.getpass, "getpass", lambda prompt: next(typed))
    terminal.setattr(run_commands, "connect", lambda home: office)
    for seed, org in ((2, "acme"), (3, "borealis")):
        join(office, tmp_path / org, office.invite(org), seed=seed)
    office.next_roster()
    assert main.main(["revoke", "acme", "--reason", "left", "--home", str(office.home)]) == 0
    out, err = capsys.readouterr()
    assert "roster version 3" in out
    assert err == ""
    assert main.main(["revoke", "borealis", "--reason", "left", "--home", str(office.home)]) == 0
    out, err = capsys.readouterr()
    assert "roster still lists borealis" in out
    assert "warning" in err
    assert office.ended == ["acme", "borealis"]


def test_revoke_wants_a_reason(office: Office, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]) -> None:
    join(office, tmp_path / "acme", office.invite("acme"))
    assert main.main(["revoke", "acme", "--reason", " ", "--home", str(office.home), "--json"]) == 2
    assert error_of(capsys.readouterr().err)["code"] == "reason_missing"
    assert office.ended == []


# --- how runs end -----------------------------------------------------------------------------------------------------


def test_the_exit_code_of_each_end_is_the_one_in_the_table() -> None:
    page = (pathlib.Path(__file__).parent.parent / "docs" / "errors" / "README.md").read_text()
    section = page.partition("## How a run ends")[2].partition("\n## ")[0]
    rows = dict(re.findall(r"(?m)^\| `([a-z_]+)` \| ([0-9]+) \|", section))
    expected = {
        "finished": 0,
        "not_enough_participants": 75,
        "too_many_attempts": 75,
        "aborted_by_operator": 75,
        "model_spent": 4,
        "model_rejected": 5,
    }
    assert {code: int(number) for code, number in rows.items()} == expected
    for code, number in {**expected, "not_in_this_release": 2, "bad_plan": 2}.items():
        error = operating.end_error(code, "run-1")
        assert (0 if error is None else error.exit_code) == number, code
        assert error is None or error.code == code


def test_whoever_waits_for_more_members_than_there_are_is_told_so() -> None:
    waiting = {"phase": "cohort", "for": [], "present": ["a", "b", "c"], "needed": 4, "until_s": 9.0}
    (line,) = run_commands._waiting_lines(waiting)
    assert "nobody" not in line
    assert "1 more participant that accepted the plan" in line
    (line,) = run_commands._waiting_lines({**waiting, "for": ["d", "e"], "needed": 5})
    assert "2 more participants that accepted the plan, of d, e" in line
    (line,) = run_commands._waiting_lines({"phase": "opening", "for": [], "until_s": None})
    assert line == "waiting in phase opening for nobody"


def test_an_interrupted_run_start_says_that_the_run_goes_on(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    class Admin:
        def watch(self, run_id: str, after: int = 0) -> Iterator[operating.Event]:
            raise KeyboardInterrupt

    monkeypatch.setattr(run_commands, "connect", lambda home: Admin())
    assert main.main(["run", "watch", "run-1", "--home", "/nowhere"]) == 130
    err = capsys.readouterr().err
    assert "run-1 goes on" in err
    assert "fedveil run abort run-1" in err


# --- plans ------------------------------------------------------------------------------------------------------------


def test_each_lacking_field_says_which_release_brings_it() -> None:
    changes = {
        "version: 1": ("version: 2", "version", "a later release"),
    }
    for old, (new, field, release) in changes.items():
        assert RELEASES[field] == release
        with pytest.raises(NotInThisReleaseError) as refused:
            plans.parse_plan(plan_text().replace(old, new).encode(), "plan.yaml")
        assert f"{field} (comes with {release})" in refused.value.what


def test_beside_mistakes_the_lacking_fields_are_listed_too() -> None:
    text = plan_text().replace("version: 1", "version: 2").replace("min_rows: 5", "min_rows: x")
    with pytest.raises(PlanError) as refused:
        plans.parse_plan(text.encode(), "plan.yaml")
    assert code_of(refused) == ("bad_plan", 2)
    assert "min_rows" in refused.value.what
    assert "version 2 of the plan file comes with a later release" in refused.value.what


# --- data sets --------------------------------------------------------------------------------------------------------


def test_budget_set_knows_its_data_sets(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO(""))
    from fedveil_participant import membership

    monkeypatch.setattr(membership, "load_membership", lambda home: None)
    key = make_journal_key(tmp_path, None, Entropy(1))
    store = open_store(tmp_path, key, Clock(), Entropy(2), create=True)
    store.save_dataset("visits", tmp_path / "visits.csv")
    store.close()

    def run(*words: str) -> tuple[int, str]:
        code = main.main(["budget", "set", *words, "--home", str(tmp_path), "--json"])
        out, err = capsys.readouterr()
        return code, out if code == 0 else error_of(err)["code"]

    assert run("visit", "--reason", "r") == (2, "unknown_dataset")
    assert run("../x", "--reason", "r") == (2, "bad_name")
    assert run("visits", "--reason", "") == (2, "reason_missing")
    code, out = run("visits", "--reason", "r")
    assert (code, json.loads(out)["freed"]) == (0, False)
    store = open_store(tmp_path, key, Clock(), Entropy(2))
    assert [row.kind for row in store.trail()] == ["data_registered"]
    store.mark_rekeyed()
    store.close()
    for freed in (True, False):
        assert json.loads(run("visits", "--reason", "r")[1])["freed"] is freed


def test_each_problem_of_a_table_is_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    what = "[bad_data] 2 problems in the data\na.csv:2: age: too high\na.csv:3: age: too low\n; no row was used"
    lines = service_commands.told_lines("plan_declined", {"code": "bad_data", "empty": "", "what": what})
    assert lines[0].startswith("plan_declined code=bad_data what=[bad_data] 2 problems")
    assert lines[1:] == ["  a.csv:2: age: too high", "  a.csv:3: age: too low", "  no row was used"]
    for line in lines:
        Output(as_json=False).note(line)
    assert "\\n" not in capsys.readouterr().err


# --- homes ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("line", ["status", "serve", "fingerprint", "participate", "run list", "health"])
def test_a_home_that_is_a_file_is_the_persons_mistake(
    line: str, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO(""))
    file, word = tmp_path / "home", tmp_path / "word"
    for path in (file, word):
        path.write_text("certificate authority")
        path.chmod(0o600)
    given = ["--passphrase-file", str(word)] if line in {"serve", "participate"} else []
    for home in (file, file / "below"):
        assert main.main([*line.split(), "--home", str(home), "--json", *given]) == 2
        assert error_of(capsys.readouterr().err)["code"] == "home_unusable"


def test_a_home_that_may_not_be_written_is_said_before_anything_is_done(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "access", lambda path, mode: pathlib.Path(path) != tmp_path)
    with pytest.raises(ConfigError) as refused:
        files.check_writable(tmp_path / "a" / "b")
    assert code_of(refused) == ("home_unusable", 2)
    monkeypatch.undo()
    files.check_writable(tmp_path / "a" / "b")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("text", [b"", b"{}", b'{"a":', b"\xff", b"[]"])
def test_a_damaged_file_of_our_own_is_nobody_elses_fault(tmp_path: pathlib.Path, text: bytes) -> None:
    for name, load in (("federation.json", founding.load_federation), ("participant.json", load_membership)):
        (tmp_path / name).write_bytes(text)
        with pytest.raises(StorageError) as refused:
            load(tmp_path)
        assert code_of(refused) == ("own_file_damaged", 74)
        assert name in refused.value.what


def test_nobody_is_told_to_restore_a_journal(tmp_path: pathlib.Path) -> None:
    make_journal_key(tmp_path, None, Entropy(1))
    hints = []
    for spoil in (b"", b"damaged" * 100, None):
        path = tmp_path / "journal.db"
        path.unlink(missing_ok=True)
        if spoil is not None:
            path.write_bytes(spoil)
        with pytest.raises(StorageError) as refused:
            open_store(tmp_path, journal_key(tmp_path, None), Clock(), Entropy(2))
        hints.append(refused.value.next_step)
    (tmp_path / "journal.key").unlink()
    with pytest.raises(SealedError) as missing:
        journal_key(tmp_path, None)
    hints.append(missing.value.next_step)
    for hint in hints:
        assert "invite ORG --rekey" in hint
        assert "restore the" not in hint


def test_a_join_is_logged_with_who_and_with_which_token(home: House) -> None:
    home.found()
    token = home.invite("acme")
    assert home.run("join", "-", stdin=token, home="acme").returncode == 0
    assert home.run("join", "-", stdin=token, home="thief").returncode == 5
    rows = [json.loads(line) for line in home.err("coordinator").splitlines() if '"join.' in line]
    token_id = invites.parse_token(token).token_id.hex()
    assert [(row["event"], row["org"], row["token_id"]) for row in rows] == [
        ("join.admitted", "acme", token_id),
        ("join.refused", "acme", token_id),
    ]
