"""What a person writes on the command line, where passphrases come from, and the world behind the ports."""

import io
import json
import os
import pathlib
import signal
import subprocess
import sys
from collections.abc import Callable

import pytest
from fedveil_cli import files, options, passphrases, world
from fedveil_cli.output import Output
from fedveil_common.errors import FedveilError
from fedveil_common.ports import NoFailpoints
from fedveil_common.secret import Passphrase
from fedveil_participant.store import journal_key
from fedveil_participant.store.key import make_journal_key
from patience import LIMIT_S

QUIET = Output(as_json=False)


def code_of(call: Callable[[], object]) -> str:
    with pytest.raises(FedveilError) as caught:
        call()
    return f"{caught.value.code} {caught.value.exit_code}"


@pytest.fixture(autouse=True)
def no_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO(""))
    monkeypatch.delenv(passphrases.CREDENTIALS, raising=False)


# --- data sets, hashes, tokens ----------


def test_data_sets_have_names_and_files() -> None:
    assert options.dataset_files(["icu_stays=a/b=c.csv", "other=x"]) == {
        "icu_stays": pathlib.Path("a/b=c.csv"),
        "other": pathlib.Path("x"),
    }


@pytest.mark.parametrize("texts", [["icu.csv"], ["icu="], ["a=x", "a=y"]])
def test_data_that_is_not_a_name_and_a_file_is_refused(texts: list[str]) -> None:
    assert code_of(lambda: options.dataset_files(texts)) == "bad_data_option 2"


def test_a_data_set_has_a_legal_name() -> None:
    assert code_of(lambda: options.dataset_files(["../x=y"])) == "bad_name 2"


def test_a_plan_is_accepted_by_its_whole_hash() -> None:
    assert options.plan_hashes(["ab" * 32, "AB" * 32, "00" * 32]) == {b"\xab" * 32, b"\0" * 32}


@pytest.mark.parametrize(
    "text", ["", "ab" * 31, "ab" * 33, "ab" * 32 + "\n", "0x" + "ab" * 31, "g" * 64, "sepsis", "ab " * 32]
)
def test_anything_else_than_64_hex_digits_accepts_no_plan(text: str) -> None:
    assert code_of(lambda: options.plan_hashes(["ab" * 32, text])) == "bad_plan_hash 2"


def test_a_fingerprint_is_read_as_it_is_printed() -> None:
    groups = " ".join(["ab12"] * 16)
    assert options.fingerprint_bytes(groups) == options.fingerprint_bytes("AB:12:" * 15 + "ab12") == b"\xab\x12" * 16
    for bad in ("", "ab12", groups + " ab", groups.replace("ab", "xy", 1)):
        assert code_of(lambda bad=bad: options.fingerprint_bytes(bad)) == "bad_fingerprint 2"


def test_a_token_from_stdin_and_file_is_not_echoed(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "token"
    file.write_text("fv1_secretsecret\n")
    monkeypatch.setattr(sys, "stdin", io.StringIO(" fv1_secretsecret\n"))
    assert options.token_text("-", QUIET).expose() == b"fv1_secretsecret"
    assert options.token_text(str(file), QUIET).expose() == b"fv1_secretsecret"
    assert capsys.readouterr() == ("", "")


def test_a_token_on_the_command_line_is_taken_with_a_warning(capsys: pytest.CaptureFixture[str]) -> None:
    assert options.token_text("fv1_secretsecret", QUIET).expose() == b"fv1_secretsecret"
    out, err = capsys.readouterr()
    assert out == ""
    assert "history" in err
    assert "secretsecret" not in err


def test_no_token_no_terminal() -> None:
    assert code_of(lambda: options.token_text(None, QUIET)) == "token_missing 2"
    assert code_of(lambda: options.token_text("-", QUIET)) == "token_missing 2"
    assert code_of(lambda: options.token_text("no/such/file", QUIET)) == "file_unreadable 2"


def test_a_token_is_asked_for_at_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.stdin, "isatty", lambda: True)
    monkeypatch.setattr("getpass.getpass", lambda prompt: "fv1_pasted")
    assert options.token_text(None, QUIET).expose() == b"fv1_pasted"


# --- passphrases ----------


def test_a_passphrase_file_loses_one_line_end(tmp_path: pathlib.Path) -> None:
    file = tmp_path / "pass"
    for content, wanted in (
        (b"word\n", b"word"),
        (b"word\r\n", b"word"),
        (b" word \n\n", b" word \n"),
        (b"w\xc3\xb6", b"w\xc3\xb6"),
    ):
        file.write_bytes(content)
        assert passphrases.passphrase(file, "passphrase", "--passphrase-file", QUIET).expose() == wanted


def test_a_credential_stands_in_for_the_file(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "passphrase").write_text("from systemd")
    (tmp_path / "file").write_text("from file")
    monkeypatch.setenv(passphrases.CREDENTIALS, str(tmp_path))
    assert passphrases.passphrase(None, "passphrase", "--p", QUIET).expose() == b"from systemd"
    assert passphrases.passphrase(tmp_path / "file", "passphrase", "--p", QUIET).expose() == b"from file"
    assert (
        code_of(lambda: passphrases.passphrase(None, "governance-passphrase", "--g", QUIET)) == "passphrase_missing 3"
    )


def test_nobody_is_asked_without_a_terminal(tmp_path: pathlib.Path) -> None:
    assert code_of(lambda: passphrases.passphrase(None, "passphrase", "--p", QUIET)) == "passphrase_missing 3"
    assert passphrases.given_passphrase(None, "passphrase", QUIET) is None
    empty = tmp_path / "empty"
    empty.write_text("\n")
    assert code_of(lambda: passphrases.passphrase(empty, "passphrase", "--p", QUIET)) == "passphrase_missing 3"
    assert code_of(lambda: passphrases.passphrase(tmp_path / "no", "passphrase", "--p", QUIET)) == "file_unreadable 2"


def test_what_is_no_text_is_no_passphrase_and_is_not_quoted(tmp_path: pathlib.Path) -> None:
    file = tmp_path / "binary"
    file.write_bytes(b"secret\xff")
    with pytest.raises(FedveilError) as caught:
        passphrases.passphrase(file, "passphrase", "--p", QUIET)
    assert (caught.value.code, caught.value.exit_code) == ("passphrase_not_text", 3)
    assert "secret" not in str(caught.value)
    file.write_bytes(b"x" * 5000)
    assert code_of(lambda: passphrases.passphrase(file, "passphrase", "--p", QUIET)) == "file_too_large 2"


def test_a_new_passphrase_is_typed_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.stdin, "isatty", lambda: True)
    typed = iter(["one", "one", "one", "two", "one"])
    monkeypatch.setattr("getpass.getpass", lambda prompt: next(typed))
    assert passphrases.passphrase(None, "passphrase", "--p", QUIET, confirm=True).expose() == b"one"
    assert (
        code_of(lambda: passphrases.passphrase(None, "passphrase", "--p", QUIET, confirm=True))
        == "passphrase_unequal 3"
    )
    assert passphrases.passphrase(None, "passphrase", "--p", QUIET).expose() == b"one"


def test_a_sealed_journal_asks_at_a_terminal_and_an_open_one_does_not(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []

    def typed_at(prompt: str) -> str:
        asked.append(prompt)
        return "one"

    monkeypatch.setattr("getpass.getpass", typed_at)
    sealed, plain = tmp_path / "sealed", tmp_path / "plain"
    for folder, given in ((sealed, Passphrase(b"one")), (plain, None)):
        folder.mkdir()
        make_journal_key(folder, given, world.SystemEntropy())
    assert passphrases.journal_passphrase(sealed, None, QUIET) is None, "nobody can be asked"
    assert code_of(lambda: journal_key(sealed, None)) == "passphrase_missing 3"
    monkeypatch.setattr(sys.stdin, "isatty", lambda: True)
    typed = passphrases.journal_passphrase(sealed, None, QUIET)
    assert typed is not None
    assert journal_key(sealed, typed).expose() == journal_key(sealed, Passphrase(b"one")).expose()
    assert passphrases.journal_passphrase(plain, None, QUIET) is None
    assert passphrases.journal_passphrase(tmp_path / "none", None, QUIET) is None
    assert asked == ["passphrase: "]


def test_a_passphrase_that_all_may_read_is_warned_about(
    tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "pass"
    file.write_text("secretsecret")
    for mode, warned in ((0o600, False), (0o640, False), (0o644, True)):
        file.chmod(mode)
        passphrases.passphrase(file, "passphrase", "--p", QUIET)
        err = capsys.readouterr().err
        assert ("warning" in err) is warned
        assert "secretsecret" not in err


# --- files ----------


def test_a_file_is_written_whole_or_not_at_all(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "out.csv"
    files.write_file(file, "it", b"first")
    files.write_file(file, "it", b"second")
    assert file.read_bytes() == b"second"

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    assert code_of(lambda: files.write_file(file, "it", b"third")) == "file_unwritable 74"
    assert file.read_bytes() == b"second"
    assert [path.name for path in tmp_path.iterdir()] == ["out.csv"]
    assert code_of(lambda: files.write_file(tmp_path / "no" / "x", "it", b"")) == "file_unwritable 74"


# --- the world ----------


def test_the_real_world_is_the_machines() -> None:
    real = world.real_world()
    assert real.clock.monotonic_s() <= real.clock.monotonic_s()
    assert real.clock.wall_s() > 1_700_000_000
    first, second = real.entropy.take(32), real.entropy.take(32)
    assert len(first) == 32
    assert first != second


def test_there_are_no_failpoints_unless_asked_for() -> None:
    assert isinstance(world.failpoints({}), NoFailpoints)
    for bad in ("", "x:0", "x:-1", "x:y", ":3", "a b", "x:1:2"):
        assert code_of(lambda bad=bad: world.failpoints({world.FAILPOINT: bad})) == "bad_failpoint 2"


HITS = """
import sys
from fedveil_cli.world import failpoints
points = failpoints({"FEDVEIL_FAILPOINT": sys.argv[1]})
for number in range(1, 4):
    for name in ("before", "after"):
        print(name, number, flush=True)
        points.hit(name)
"""


@pytest.mark.parametrize(
    ("wanted", "last", "code"),
    [
        ("after", "after 1", -signal.SIGKILL),
        ("before:3", "before 3", -signal.SIGKILL),
        ("after:4", "after 3", 0),
        ("x", "after 3", 0),
    ],
)
def test_a_failpoint_kills_at_that_hit(wanted: str, last: str, code: int) -> None:
    done = subprocess.run(
        [sys.executable, "-c", HITS, wanted], capture_output=True, text=True, check=False, timeout=LIMIT_S
    )
    assert done.stdout.splitlines()[-1] == last
    assert done.returncode == code


DEFECT = """
import sys, threading
from fedveil_cli.service_commands import configure_logging
from fedveil_cli.workers import CoordinatorWorkers, ParticipantWorkers
from fedveil_common.errors import StorageError
configure_logging()
def fail():
    raise KeyError("the-secret-value") if sys.argv[2] == "defect" else StorageError("disk_failed", "no space")
if sys.argv[1] == "coordinator":
    CoordinatorWorkers().submit(fail, print)
else:
    ParticipantWorkers().submit(fail)
threading.Event().wait(60)
"""


@pytest.mark.parametrize("side", ["coordinator", "participant"])
@pytest.mark.parametrize(("kind", "exit_code", "said"), [("defect", 70, "KeyError"), ("storage", 74, "disk_failed")])
def test_work_that_fails_is_logged_once_and_ends_the_process(side: str, kind: str, exit_code: int, said: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", DEFECT, side, kind], capture_output=True, text=True, check=False, timeout=LIMIT_S
    )
    assert (done.returncode, done.stdout) == (exit_code, "")
    (line,) = done.stderr.splitlines()
    assert json.loads(line)["code"] == said
    assert "the-secret-value" not in line


SHUT = """
import io, sys, structlog
from fedveil_cli.service_commands import configure_logging
configure_logging()
log = structlog.get_logger()
real = sys.stderr
sys.stderr = io.StringIO()
log.info("first")
first = sys.stderr.getvalue()
sys.stderr.close()
log.info("nobody hears this")
sys.stderr = open("/dev/full", "w")
log.info("nobody hears this either")
sys.stderr = real
log.info("last")
print(first, end="")
"""


def test_a_log_that_cannot_be_written_stops_nothing() -> None:
    done = subprocess.run([sys.executable, "-c", SHUT], capture_output=True, text=True, check=False, timeout=LIMIT_S)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["event"] == "first"
    assert json.loads(done.stderr.splitlines()[0])["event"] == "last"
    assert "nobody" not in done.stdout + done.stderr
