"""Models as large as they come: what commands hold of them in memory, and what is on the disk of one that is opened."""

import io
import os
import subprocess
import sys
from pathlib import Path

import pytest
from fedveil_cli import model_opening, model_reading
from fedveil_cli.model_files import Asked
from fedveil_cli.output import Output
from fedveil_common import modelfile
from fedveil_common.errors import FedveilError, PeerError
from fedveil_common.plan import reading
from fedveil_common.sealing import files, key_files
from fedveil_common.sealing.header import Subject

from tests import model_samples
from tests.model_samples import OURS, THEIRS
from tests.test_plan_and_model_commands import Federation
from tests.test_sealing import ENTROPY, for_keys
from tests.test_sealing import OURS as KEY
from tests.test_sealing_kills import killed_at

MIB = 1024 * 1024
CHILD = """
import sys
from fedveil_cli import main
code = main.main(sys.argv[1:])
print(open("/proc/self/status").read().split("VmHWM:")[1].split()[0], file=sys.stderr)
sys.exit(code)
"""


def of(parameters: int, monkeypatch: pytest.MonkeyPatch, federation: Federation = OURS) -> bytes:
    """A signed model of so many parameters, of somebody's own trainer."""
    kind = ("trainer", "binary")
    monkeypatch.setitem(model_samples.MODELS, kind, f"kind: trainer, name: risk, parameters: {parameters}")
    return model_samples.signed_bytes(model_samples.plan_for(*kind), federation)


def peak(folder: Path, *words: str) -> int:
    """Bytes of memory that one command took at most."""
    line = [sys.executable, "-c", CHILD, *words, "--fingerprint", OURS.fingerprint.hex()]
    environment = {**os.environ, "FEDVEIL_HOME": str(folder / "none")}
    done = subprocess.run(line, cwd=folder, env=environment, capture_output=True, text=True, check=True)
    return 1024 * int(done.stderr.splitlines()[-1])


def test_the_memory_of_a_command_is_that_of_the_model_once_or_of_none_of_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The largest model that a plan may have, beside one of seven numbers: verifying and opening keep nothing of it,
    and an export keeps its bytes.
    """
    sizes = {}
    for name, parameters in (("small", 7), ("large", reading.MAX_PARAMETERS)):
        data = of(parameters, monkeypatch)
        sizes[name] = len(data)
        (tmp_path / name).write_bytes(data)
        subject = Subject("model", OURS.id, "run-1")
        wrap = for_keys(KEY.public_key(), subject=subject)
        files.seal(io.BytesIO(data), len(data), tmp_path / f"{name}.sealed", subject, wrap, ENTROPY)
    (tmp_path / "key").write_bytes(key_files.private_pem(KEY, None))
    assert sizes["large"] > 38 * MIB
    commands = {
        ("model", "verify", "{}"): 0.5,
        ("model", "open", "{}.sealed", "--key", "key", "--out", "opened"): 0.8,  # some chunks, and what hashes them
        ("model", "export", "{}", "--out", "exported"): 1.5,
    }
    for words, most in commands.items():
        small, large = (peak(tmp_path, *(word.format(name) for word in words)) for name in sizes)
        assert large - small < most * sizes["large"], (words, small, large)
    for made in ("opened", "exported"):
        assert (tmp_path / made).read_bytes() == (tmp_path / "large").read_bytes()


@pytest.mark.parametrize("piece", [1000, MIB])
def test_a_model_that_is_loaded_is_the_one_that_is_looked_through(
    piece: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever the pieces; and what is refused is refused by both."""
    monkeypatch.setattr(model_reading, "PIECE", piece)
    data = of(40_000, monkeypatch)
    path = tmp_path / "model"
    path.write_bytes(data)
    file, model_hash = model_reading.load(path)
    whole = modelfile.read_model(data)
    seen = model_reading.look_through(path)
    assert (file.head, model_hash) == (whole.head, modelfile.hash_of(whole)) == (seen.head, seen.model_hash)
    assert (file.model == whole.model).all()
    for bad in (data[:-4], data[:-1], data + b"\0\0\0\0", data[:-4] + b"\0\0\xc0\x7f", data[:100], data[:7], b""):
        path.write_bytes(bad)
        for read in (model_reading.load, model_reading.look_through):
            with pytest.raises(PeerError) as caught:
                read(path)
            assert caught.value.code == "bad_model_file"
    monkeypatch.setattr(model_reading, "MAX_MODEL", len(data) - 1)
    path.write_bytes(data)
    for read in (model_reading.load, model_reading.look_through):
        with pytest.raises(FedveilError) as refused:
            read(path)
        assert refused.value.code == "file_too_large"


def test_a_plan_of_many_parameters_in_a_short_file_gets_no_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Room is made for what the file has, not for what its plan says."""
    data = of(reading.MAX_PARAMETERS, monkeypatch)
    path = tmp_path / "model"
    path.write_bytes(data[: modelfile.head_size(data) + 400])
    made: list[object] = []
    real = model_reading.model_stream.np.empty
    monkeypatch.setattr(
        model_reading.model_stream.np, "empty", lambda *given, **named: made.append(given) or real(*given, **named)
    )
    with pytest.raises(PeerError, match="400 bytes of parameters"):
        model_reading.load(path)
    assert made == []


@pytest.mark.parametrize("before", [b"", b"what was here"], ids=["new", "replacing"])
@pytest.mark.parametrize("whose", ["ours", "theirs"])
def test_a_kill_while_a_model_is_opened_leaves_nothing_that_was_not_verified(
    whose: str, before: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed at any write, after the whole of it was written without a name too: no file of another federation's model
    is ever in the folder, and of ours only whole ones.
    """
    folder, out = tmp_path / "here", tmp_path / "here" / "out"
    folder.mkdir()
    data = of(MIB // 2, monkeypatch, OURS if whose == "ours" else THEIRS)
    subject = Subject("model", OURS.id, "run-1")
    sealed, key = tmp_path / "sealed", tmp_path / "key"
    files.seal(io.BytesIO(data), len(data), sealed, subject, for_keys(KEY.public_key(), subject=subject), ENTROPY)
    key.write_bytes(key_files.private_pem(KEY, None))
    asked = Asked(tmp_path / "none", 0.0)

    def work() -> None:
        sys.stdout = sys.stderr = open(os.devnull, "w")  # noqa: SIM115
        try:
            model_opening.open_file(sealed, out, key, OURS.fingerprint, None, Output(True), asked)
        except PeerError:
            os._exit(5)

    number, ends = 0, []
    while not ends or ends[-1] < 0:
        number += 1
        out.unlink(missing_ok=True)
        if before:
            out.write_bytes(before)
        ends.append(killed_at(number, work))
        allowed = {before, data} if whose == "ours" else {before}
        assert (out.read_bytes() if out.exists() else b"") in allowed
        for path in folder.iterdir():
            if path != out:
                assert whose == "ours"
                assert path.read_bytes() == data
                path.unlink()
    assert ends[-1] == (0 if whose == "ours" else 5)
    assert len(ends) > 4, "it was killed in the middle of its writes"
