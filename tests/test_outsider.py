"""A finished run's model goes by file to a machine that belongs to nobody, and says the same there by two ways.

Real processes, real enrolment; the outsider has an empty home, the fingerprint, and a private key of its own.
"""

import csv
import json
from pathlib import Path

import numpy as np
import onnxruntime
import pytest

from tests.patience import LIMIT_S
from tests.processes import NAMES, House, house, plan_text


@pytest.fixture
def home(tmp_path: Path) -> House:  # type: ignore[misc]
    with house(tmp_path) as made:
        yield made


def finished(home: House) -> str:
    """A run to its end; its id."""
    home.found()
    plan_hash = home.plan(plan_text())
    for name in NAMES:
        assert home.run("join", "-", stdin=home.invite(name), home=name).returncode == 0
        home.participate(name, plan_hash, "--until-ended")
    home.until(lambda: home.connected() == list(NAMES), "the organisations' connection")
    started = home.run("run", "start", "plan.yaml", "--governance-passphrase-file", "gov.txt", "--json")
    assert started.returncode == 0, started.stderr
    for name in NAMES:
        assert home.running.pop(name).wait(timeout=LIMIT_S) == 0
    return str(json.loads(started.stdout)["run_id"])


def test_a_model_opens_and_predicts_at_an_outsider_s(home: House) -> None:
    run = finished(home)
    fingerprint = home.json("fingerprint")["fingerprint_hex"]
    # the outsider makes a key and sends the public half; so does a second one, later
    home.json("data", "key", "--out", "clinic", home="nobody")
    home.json("data", "key", "--out", "lab", home="nobody")
    # the operator exports, seals, signs
    home.json("model", "export", "--out", "model.safetensors")
    home.json("model", "seal", "model.safetensors", "--for", "clinic.pub", "--out", "model.sealed")
    home.json("model", "jws", "sign", "model.safetensors", "--out", "model.jws")
    carded = home.json("model", "card", run, "--out", "card.md")
    assert carded["record"]["end"] == "finished"
    assert [one["in_the_sum"] for one in carded["record"]["rounds"]] == [list(NAMES)] * 4
    assert carded["members"] == list(NAMES)
    home.json("model", "export", "--run", run, "--to", "csv", "--out", "model.csv")
    (home.folder / "sent.safetensors").write_bytes((home.folder / "model.safetensors").read_bytes())
    (home.folder / "model.safetensors").unlink()
    assert home.end("coordinator") == 0, "nobody is asked from here on"
    # the outsider: an empty home, the fingerprint, its key
    pinned = ("--fingerprint", fingerprint)
    opened = home.json(
        "model", "open", "model.sealed", "--key", "clinic.key", *pinned, "--out", "got.safetensors", home="nobody"
    )
    assert opened["run_id"] == run
    assert (home.folder / "got.safetensors").read_bytes() == (home.folder / "sent.safetensors").read_bytes()
    assert home.json("model", "verify", "got.safetensors", *pinned, home="nobody")["verified"] is True
    assert home.json("model", "jws", "verify", "model.jws", "got.safetensors", *pinned, home="nobody")["verified"]
    home.json("model", "jwe", "wrap", "model.sealed", "--key", "clinic.key", "--for", "lab.pub", "--out", "lab.jwe")
    again = ("model", "jwe", "open", "lab.jwe", "model.sealed", "--key", "lab.key", *pinned, "--out", "lab.safetensors")
    assert home.json(*again, home="nobody")["model_hash"] == opened["model_hash"]
    home.json(
        "predict", "--model", "got.safetensors", "--data", "acme.csv", "--out", "scores.csv", *pinned, home="nobody"
    )
    home.json("model", "export", "got.safetensors", "--to", "onnx", *pinned, "--out", "model.onnx", home="nobody")
    home.json("model", "card", "got.safetensors", *pinned, "--out", "outside.md", home="nobody")
    assert not (home.folder / "nobody").exists(), "no home was made"
    compared = compare(home.folder)
    assert compared[0] == 40
    assert compared[1] <= 1e-6


def compare(folder: Path) -> tuple[int, float]:
    """(rows, largest difference) between `predict` and ONNX, the cells going to the latter as they stand."""
    with (folder / "acme.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    feeds = {
        name: np.array([[float(row[name]) if row[name] else float("nan")] for row in rows])
        for name in ("age", "lactate")
    }
    feeds["sex"] = np.array([[row["sex"]] for row in rows], dtype=object)
    runner = onnxruntime.InferenceSession((folder / "model.onnx").read_bytes(), providers=["CPUExecutionProvider"])
    probability = runner.run(["probability"], feeds)[0].ravel()
    with (folder / "scores.csv").open(newline="") as stream:
        predicted = np.array([float(row["prediction"]) for row in csv.DictReader(stream)])
    assert np.isnan(feeds["lactate"]).any(), "a missing value is among them"
    assert predicted.std() > 0, "not one answer for all"
    return len(predicted), float(np.abs(probability - predicted).max())
