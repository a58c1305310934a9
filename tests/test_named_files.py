"""Files that a person names and that are no files: a named pipe, a device, a folder, a socket."""

import contextlib
import json
import os
import pathlib
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator

import pytest
from fedveil_cli import main
from fedveil_cli.companions import companion
from fedveil_common import named_file
from fedveil_common.named_file import open_named
from fedveil_common.sealing import key_files
from test_sealing import ENTROPY

from tests import model_samples
from tests.model_samples import OURS
from tests.test_continuing import text

PLAN = model_samples.plan_for("logistic", "binary")
PRINT = ["--fingerprint", OURS.fingerprint.hex()]

COMMANDS = [
    "plan check X",
    "plan check plan.yaml --from X {print}",
    "plan check plan.yaml --from model {print} --status X",
    "plan explain X",
    "policy check plan.yaml --policy X",
    "predict --model X --data new.csv --out out {print}",
    "predict --model model --data new.csv --out out --status X {print}",
    "model verify X {print}",
    "model verify model --status X {print}",
    "model export X --out out {print}",
    "model export X --to csv --out out {print}",
    "model seal X --for me.pub --out out",
    "model seal model --for X --out out",
    "model open X --key me.key --out out {print}",
    "model open model --key X --out out {print}",
    "model rewrap X --key me.key --for me.pub --out out",
    "model card ./X --out out {print}",
    "model jws verify X model {print}",
    "model jws verify model X {print}",
    "model jwe wrap X --key me.key --for me.pub --out out",
    "model jwe open X model --key me.key --out out {print}",
    "data seal X --to me.pub --name n --out out",
    "data seal new.csv --to X --name n --out out",
    "data open X --key me.key --out out",
    "data show X",
    "data rewrap X --key me.key --to me.pub --out out",
    "data mask new.csv --rules X --out out",
    "simulate X --data folder",
    "key show X",
    "join ./X",
    "governance sign X {print}",
    "audit verify --file X",
    "predict --model model --data X --out out {print}",
]
"""Each with the file that is none at X, and everything before it readable."""


@pytest.fixture
def folder(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> pathlib.Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FEDVEIL_HOME", str(tmp_path / "none"))
    (tmp_path / "plan.yaml").write_bytes(text("{kind: fedavg}"))
    (tmp_path / "new.csv").write_text("a\n1\n")
    (tmp_path / "model").write_bytes(model_samples.signed_bytes(PLAN))
    key = key_files.new_x25519(ENTROPY)
    (tmp_path / "me.key").write_bytes(key_files.private_pem(key, None))
    (tmp_path / "me.pub").write_bytes(key_files.public_pem(key.public_key()))
    return tmp_path


@contextlib.contextmanager
def within(seconds: int) -> Iterator[None]:
    """What waits for longer is interrupted, and fails the test."""

    def late(*arguments: object) -> None:
        raise AssertionError("the command waits")

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def make(kind: str, path: pathlib.Path) -> None:
    match kind:
        case "pipe":
            os.mkfifo(path)
        case "folder":
            path.mkdir()
        case "socket":
            with socket.socket(socket.AF_UNIX) as made:
                made.bind(str(path.name))
        case "device":
            path.symlink_to("/dev/zero")


@pytest.mark.parametrize("kind", ["pipe", "folder", "socket", "device"])
@pytest.mark.parametrize("line", COMMANDS)
def test_what_is_no_file_is_refused_at_once(
    line: str, kind: str, folder: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """By name and with a typed error, and nothing is written."""
    make(kind, folder / "X")
    with within(30):
        code = main.main([*filled(line), "--json"])
    out, err = capsys.readouterr()
    error = json.loads(err.splitlines()[-1])["error"]
    assert (code, out) == (2, ""), error
    assert error["code"] in {"data_unreadable", "file_unreadable", "folder_empty", "policy_unreadable"}, error
    assert not (folder / "out").exists()


@pytest.mark.parametrize(
    "line", ["model verify model {print}", "predict --model model --data new.csv --out out {print}"]
)
def test_a_pipe_in_the_place_of_the_list_beside_a_model_keeps_nobody_waiting(
    line: str, folder: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Whoever may write beside a model could stop each command that looks for a list there."""
    os.mkfifo(companion(folder / "model"))
    with within(30):
        assert main.main([*filled(line), "--json"]) == 2
    assert json.loads(capsys.readouterr().err.splitlines()[-1])["error"]["code"] == "file_unreadable"


def test_an_open_pipe_is_read(folder: pathlib.Path) -> None:
    """What the shell hands over, on stdin or beside it; a terminal or a device on stdin is none."""
    environment = {**os.environ, "FEDVEIL_HOME": str(folder / "none")}
    command = f"{sys.executable} -m fedveil_cli model verify --json {' '.join(PRINT)}"

    def run(line: str) -> "subprocess.CompletedProcess[str]":
        words = ["/bin/bash", "-c", line]
        return subprocess.run(
            words, cwd=folder, env=environment, capture_output=True, text=True, timeout=60, check=False
        )

    for line in (f"cat model | {command} /dev/stdin", f"{command} <(cat model)", f"{command} /dev/stdin <model"):
        assert json.loads(run(line).stdout)["verified"], line
    done = run(f"{command} /dev/stdin </dev/zero")
    assert json.loads(done.stderr.splitlines()[-1])["error"]["code"] == "file_unreadable"


def test_a_file_that_is_exchanged_while_it_is_opened(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A regular file when it was looked at, a pipe when it was opened: nobody waits, and nothing is left open."""
    path = tmp_path / "x"
    path.write_bytes(b"1")
    real = os.stat

    def exchanged(*arguments: object, **named: object) -> os.stat_result:
        found = real(*arguments, **named)  # type: ignore[arg-type]
        path.unlink()
        os.mkfifo(path)
        return found

    before = len(os.listdir("/proc/self/fd"))
    with monkeypatch.context() as racing:
        racing.setattr(named_file.os, "stat", exchanged)
        with within(30), pytest.raises(OSError, match="no regular file"):
            open_named(path)
    assert len(os.listdir("/proc/self/fd")) == before
    link = tmp_path / "link"
    path.unlink()
    path.write_bytes(b"1")
    link.symlink_to(path)
    with open_named(link) as stream:
        assert stream.read() == b"1"
    with pytest.raises(OSError, match="symbolic links"):
        open_named(link, follow=False)


def filled(line: str) -> list[str]:
    return [word for part in line.split() for word in (PRINT if part == "{print}" else [part])]
