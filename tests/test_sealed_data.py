"""Tables that are sealed: read like the same tables in clear, with nothing of them on the disk."""

import io
import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from fedveil_cli.data_keys import reveal_with
from fedveil_common.errors import FedveilError, SealedError
from fedveil_common.ids import FederationId
from fedveil_common.sealing import files, header, key_files, recipients
from fedveil_common.secret import Passphrase
from fedveil_participant.data.csv_source import Source, read_table
from fedveil_participant.data.folder import Reveal, table_files
from fedveil_participant.data.problems import DataError
from fedveil_simulation.ports import SeededEntropy
from patience import LIMIT_S
from processes import NAMES, House, house, plan_text, table
from test_csv_source import KEY, TWO, plan_with
from test_parquet_source import write

PLAN = plan_with(TWO)
OURS, OTHER = X25519PrivateKey.from_private_bytes(b"\1" * 32), X25519PrivateKey.from_private_bytes(b"\2" * 32)
FEDERATION = FederationId("hospitals-1")
NOTE = b"n" * 1000
CSV = b"a,c,y,note\n" + b"".join(
    b"%d,%s,%d,%s\n" % (row % 10, b"MF"[row % 2 : row % 2 + 1], row % 2, NOTE) for row in range(1_100)
)


def seal(data: bytes, out: Path, federation: str = "local", kind: str = "data") -> Path:
    subject = header.Subject(kind, federation, "table")

    def wrap(key: files.Seed) -> tuple[header.Slot, ...]:
        return recipients.wrap_for([OURS.public_key()], key, subject)

    files.seal(io.BytesIO(data), len(data), out, subject, wrap, SeededEntropy(len(data), str(out)))
    return out


def revealing(folder: Path, key: X25519PrivateKey = OURS) -> Reveal:
    path = folder.parent / "own.key"
    path.write_bytes(key_files.private_pem(key, None))
    return reveal_with(path, None, FEDERATION)


def read(path: Path, reveal: Reveal | None = None) -> Source:
    found = table_files(path) if reveal is None else table_files(path, reveal)
    return read_table(found, str(path), PLAN, KEY)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "data").mkdir()
    return tmp_path / "data"


def test_a_sealed_csv_is_the_table_that_was_sealed(folder: Path) -> None:
    """Of two chunks; version and rows are those of the file in clear."""
    (folder / "clear.csv").write_bytes(CSV)
    before = read(folder / "clear.csv")
    (folder / "clear.csv").unlink()
    sealed = seal(CSV, folder / "t.csv.sealed")
    assert len(CSV) > header.CHUNK
    found = read(sealed, revealing(folder))
    assert found.version == before.version
    assert found.table.numbers["a"].tolist() == before.table.numbers["a"].tolist()
    assert sorted(path.name for path in folder.iterdir()) == ["t.csv.sealed"]


def test_a_sealed_parquet_file_is_decoded_from_memory(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clear = write(folder / "t.parquet", {"a": [1.0, 2.0] * 5_000, "c": ["F", "M"] * 5_000, "y": [1, 0] * 5_000})
    before = read(clear).version
    sealed = seal(clear.read_bytes(), folder / "t.parquet.sealed")
    clear.unlink()
    opened: list[os.stat_result] = []
    real = os.fdopen

    def watched(descriptor: int, *arguments: str) -> object:
        opened.append(os.fstat(descriptor))
        return real(descriptor, *arguments)

    monkeypatch.setattr(os, "fdopen", watched)
    assert read(sealed, revealing(folder)).version == before
    kinds = [(stat.S_ISREG(one.st_mode), one.st_nlink) for one in opened]
    assert (True, 0) in kinds, "the descriptor that the decoder reads has no name anywhere"
    assert sorted(path.name for path in folder.iterdir()) == ["t.parquet.sealed"]


def test_a_folder_may_hold_sealed_and_clear_files(folder: Path) -> None:
    (folder / "a.csv").write_text("a,c,y\n1,F,1\n")
    (folder / "b.csv").write_text("a,c,y\n2,M,0\n")
    before = read(folder).version
    seal((folder / "b.csv").read_bytes(), folder / "b.csv.sealed")
    (folder / "b.csv").unlink()
    assert read(folder, revealing(folder)).version == before
    with pytest.raises(SealedError) as caught:
        read(folder)
    assert caught.value.code == "data_key_missing"


@pytest.mark.parametrize(
    ("how", "code"),
    [
        ("other key", "not_a_recipient"),
        ("other federation", "sealed_for_another"),
        ("a model", "sealed_for_another"),
        ("not sealed", "not_sealed"),
        ("damaged", "sealed_chunk_damaged"),
        ("cut", "sealed_chunk_damaged"),
    ],
)
def test_what_is_no_data_of_ours_is_not_read(how: str, code: str, folder: Path) -> None:
    path = folder / "t.csv.sealed"
    seal(CSV, path, "elsewhere-2" if how == "other federation" else "local", "model" if how == "a model" else "data")
    data = path.read_bytes()
    if how == "not sealed":
        path.write_bytes(CSV)
    elif how == "damaged":
        path.write_bytes(data[:-40] + bytes([data[-40] ^ 1]) + data[-39:])
    elif how == "cut":
        path.write_bytes(data[: -header.CHUNK // 2])
    with pytest.raises(FedveilError) as caught:
        read(path, revealing(folder, OTHER if how == "other key" else OURS))
    assert caught.value.code == code
    assert not isinstance(caught.value, DataError)


def test_data_of_this_federation_is_read(folder: Path) -> None:
    assert read(seal(CSV, folder / "t.csv.sealed", FEDERATION), revealing(folder)).table.rows == 1_100


def test_a_key_under_a_passphrase_and_none(tmp_path: Path) -> None:
    path = tmp_path / "locked.key"
    path.write_bytes(key_files.private_pem(OURS, Passphrase(b"word")))
    reveal_with(path, Passphrase(b"word"), FEDERATION)
    for word, code in ((None, "passphrase_missing"), (Passphrase(b"x"), "passphrase_wrong")):
        with pytest.raises(SealedError) as caught:
            reveal_with(path, word, FEDERATION)
        assert caught.value.code == code


@pytest.fixture
def federation(tmp_path: Path) -> Iterator[House]:
    with house(tmp_path) as made:
        yield made


def test_a_participant_trains_from_sealed_data(federation: House) -> None:
    """Real processes: a member's table is sealed by the command, and its clear file is gone before it takes part."""
    federation.found()
    plan_hash = federation.plan(plan_text(rounds=1))
    for name in NAMES:
        joined = federation.run("join", "-", stdin=federation.invite(name), home=name)
        assert joined.returncode == 0, joined.stderr
        if name != "acme":
            federation.participate(name, plan_hash, "--until-ended")
    (federation.folder / "acme.csv").write_text(table("acme"))
    assert federation.run("data", "key", "--out", "own", home="acme").returncode == 0
    sealed = ("data", "seal", "acme.csv", "--to", "own.pub", "--name", "visits", "--out", "acme.csv.sealed")
    assert federation.run(*sealed, home="acme").returncode == 0
    (federation.folder / "acme.csv").unlink()
    words = ("--data", "visits=acme.csv.sealed", "--data-key", "own.key", "--accept", plan_hash, "--until-ended")
    federation.start("acme", "participate", *words, home="acme")
    federation.until(lambda: federation.connected() == list(NAMES), "the organisations' connection")
    started = federation.run("run", "start", "plan.yaml", "--governance-passphrase-file", "gov.txt")
    assert started.returncode == 0, started.stderr
    (run,) = federation.json("run", "list")["runs"]
    shown = federation.json("run", "show", run["run_id"])
    assert all(one["survivors"] == list(NAMES) for one in shown["rounds"])
    for name in NAMES:
        assert federation.running.pop(name).wait(timeout=LIMIT_S) == 0
    assert not (federation.folder / "acme.csv").exists()
    needle = table("acme").splitlines()[3].encode()
    for path in federation.folder.rglob("*"):
        if path.is_file() and "borealis" not in path.parts and "cygnus" not in path.parts:
            assert needle not in path.read_bytes() or path.name in {"borealis.csv", "cygnus.csv"}, path
