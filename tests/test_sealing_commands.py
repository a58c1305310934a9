"""`fedveil data key|seal|open|rewrap|show`: what is written and printed, what is refused, and with which code."""

import json
import os
from pathlib import Path
from typing import Any

import pytest
from fedveil_cli import main

Capture = pytest.CaptureFixture[str]


def run(capsys: Capture, *words: object) -> tuple[int, str, str]:
    code = main.main(["data", *map(str, words)])
    out, err = capsys.readouterr()
    return code, out, err


def value(capsys: Capture, *words: object) -> dict[str, Any]:
    code, out, err = run(capsys, *words, "--json")
    assert code == 0, err
    return dict(json.loads(out))


def refused(capsys: Capture, *words: object) -> tuple[int, str]:
    code, out, err = run(capsys, *words, "--json")
    assert out == ""
    return code, str(json.loads(err.splitlines()[-1])["error"]["code"])


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "visits.csv").write_text("a,b\n1,2\n")
    (tmp_path / "word").write_text("a long passphrase\n")
    (tmp_path / "word").chmod(0o600)
    for words in (("--out", "ann"), ("--rsa", "--out", "bob"), ("--out", "locked", "--passphrase-file", "word")):
        assert run(capsys, "key", *words)[0] == 0
    return tmp_path


def test_a_file_goes_from_one_to_another(place: Path, capsys: Capture) -> None:
    made = value(capsys, "seal", "visits.csv", "--to", "ann.pub", "--to", "bob.pub", "--out", "visits.sealed")
    assert (made["object"], made["federation"], made["kind"], made["size_bytes"]) == ("visits", "local", "data", 8)
    assert [one["way"] for one in made["recipients"]] == ["hpke-x25519", "rsa-oaep-256"]
    shown = value(capsys, "show", "visits.sealed")
    assert shown["recipients"] == made["recipients"]
    for key in ("ann.key", "bob.key"):
        assert value(capsys, "open", "visits.sealed", "--key", key, "--out", "again.csv")["size_bytes"] == 8
        assert Path("again.csv").read_text() == "a,b\n1,2\n"
        Path("again.csv").unlink()
    assert refused(
        capsys, "open", "visits.sealed", "--key", "locked.key", "--passphrase-file", "word", "--out", "x"
    ) == (
        3,
        "not_a_recipient",
    )
    code, out, err = run(
        capsys, "rewrap", "visits.sealed", "--key", "ann.key", "--to", "locked.pub", "--out", "b.sealed"
    )
    assert code == 0
    assert "still can" in err
    assert "other recipients" in out
    words = ("open", "b.sealed", "--key", "locked.key", "--passphrase-file", "word", "--out", "again.csv")
    assert value(capsys, *words)["object"] == "visits"
    anew = ("rewrap", "b.sealed", "--key", "locked.key", "--passphrase-file", "word", "--to", "ann.pub", "--reencrypt")
    assert value(capsys, *anew, "--out", "c.sealed")["size_bytes"] == 8
    assert refused(capsys, "open", "c.sealed", "--key", "bob.key", "--out", "x")[1] == "not_a_recipient"
    assert not Path("x").exists()


def test_a_passphrase_alone(place: Path, capsys: Capture) -> None:
    sealed = ("seal", "visits.csv", "--passphrase-file", "word", "--name", "v1", "--federation", "fed-1", "--out", "s")
    made = value(capsys, *sealed)
    assert made["recipients"] == [{"way": "scrypt", "recipient": ""}]
    assert value(capsys, "open", "s", "--passphrase-file", "word", "--out", "o")["federation"] == "fed-1"
    Path("other").write_text("another one")
    assert refused(capsys, "open", "s", "--passphrase-file", "other", "--out", "x") == (3, "passphrase_wrong")
    assert refused(capsys, "open", "s", "--key", "ann.key", "--out", "x") == (3, "not_a_recipient")
    for option in (("--name", "v2"), ("--federation", "fed-2")):
        words = ("open", "s", "--passphrase-file", "word", *option, "--out", "x")
        assert (
            refused(capsys, *words) == (70, "sealed_for_another") or refused(capsys, *words)[1] == "sealed_for_another"
        )


def test_keys_are_for_their_owner_and_never_overwritten(place: Path, capsys: Capture) -> None:
    assert Path("ann.key").stat().st_mode & 0o777 == 0o600
    assert b"ENCRYPTED" in Path("locked.key").read_bytes()
    before = Path("ann.key").read_bytes()
    assert refused(capsys, "key", "--out", "ann") == (2, "file_exists")
    assert Path("ann.key").read_bytes() == before
    code, _, err = run(capsys, "key", "--out", "eve")
    assert code == 0
    assert "in clear" in err


@pytest.mark.parametrize("out", ["none/x", "visits.csv/x"])
def test_a_key_that_cannot_be_written_is_said_to_be_none(place: Path, capsys: Capture, out: str) -> None:
    before = sorted(os.listdir("."))
    assert refused(capsys, "key", "--out", out) == (74, "file_unwritable")
    assert sorted(os.listdir(".")) == before


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (("seal", "none.csv", "--to", "ann.pub", "--out", "x"), "file_unreadable"),
        (("seal", ".", "--to", "ann.pub", "--out", "x", "--name", "n"), "file_unreadable"),
        (("seal", "visits.csv", "--to", "none.pub", "--out", "x"), "file_unreadable"),
        (("seal", "visits.csv", "--to", "visits.csv", "--out", "x"), "bad_key_file"),
        (("seal", "visits.csv", "--to", "ann.key", "--out", "x"), "bad_key_file"),
        (("seal", "visits.csv", "--to", "ann.pub", "--to", "ann.pub", "--out", "x"), "recipient_twice"),
        (("seal", "visits.csv", "--to", "ann.pub", "--passphrase-file", "word", "--out", "x"), "recipient_mixed"),
        (("seal", "visits.csv", "--to", "ann.pub", "--name", "No Name", "--out", "x"), "bad_name"),
        (("seal", "visits.csv", "--to", "ann.pub", "--federation", "A/B", "--out", "x"), "bad_name"),
        (("seal", "visits.csv", "--to", "ann.pub", "--out", "visits.csv"), "output_refused"),
        (("seal", "visits.csv", "--to", "ann.pub", "--out", "none/x"), "output_refused"),
        (("seal", "visits.csv", "--to", "ann.pub", "--out", "/dev/null"), "output_refused"),
        (("seal", "visits.csv", "--to", "ann.pub", "--out", "ann.pub"), "same_file"),
        (("seal", "visits.csv", "--passphrase-file", "word", "--out", "word"), "same_file"),
        (("open", "visits.csv", "--key", "ann.key", "--out", "ann.key"), "same_file"),
        (("open", "visits.csv", "--passphrase-file", "word", "--out", "word"), "same_file"),
        (("rewrap", "visits.csv", "--key", "ann.key", "--to", "bob.pub", "--out", "bob.pub"), "same_file"),
        (("seal", "visits.csv", "--out", "x"), "passphrase_missing"),
        (("open", "visits.csv", "--key", "ann.key", "--out", "x"), "not_sealed"),
        (("open", "visits.csv", "--key", "locked.key", "--out", "x"), "passphrase_missing"),
        (("open", "visits.csv", "--key", "ann.pub", "--out", "x"), "bad_key_file"),
        (("show", "visits.csv"), "not_sealed"),
        (("rewrap", "visits.csv", "--key", "ann.key", "--out", "x"), "recipient_missing"),
    ],
)
def test_what_is_refused_leaves_no_file(place: Path, capsys: Capture, words: tuple[str, ...], code: str) -> None:
    before = {name: Path(name).read_bytes() for name in os.listdir(".")}
    exit_code, found = refused(capsys, *words)
    assert found == code
    assert exit_code in {2, 3}
    assert {name: Path(name).read_bytes() for name in os.listdir(".")} == before


def test_a_damaged_chunk_is_named_and_nothing_is_kept(place: Path, capsys: Capture) -> None:
    Path("big").write_bytes(bytes(3 << 20))
    value(capsys, "seal", "big", "--to", "ann.pub", "--out", "big.sealed")
    data = bytearray(Path("big.sealed").read_bytes())
    data[-100] ^= 1
    Path("big.sealed").write_bytes(data)
    code, out, err = run(capsys, "open", "big.sealed", "--key", "ann.key", "--out", "x")
    assert (code, out) == (5, "")
    assert "chunk 2 of 3" in err
    assert not Path("x").exists()
    assert not list(Path().glob(".tmp-*"))
