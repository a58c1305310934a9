"""`plan check` and `predict`: what they print and write, and what they refuse."""

import base64
import csv
import dataclasses
import json
import pathlib

import numpy as np
import pytest
from fedveil_cli import cohort_figures, demo_split, main, operating
from fedveil_common import initial, prediction, standardisation
from fedveil_common.crypto import signing
from fedveil_common.errors import ConfigError
from fedveil_common.ids import COORDINATOR, FederationId, RunId
from fedveil_common.masking import quorum
from fedveil_common.messages import BlobType
from fedveil_common.modelfile import ModelFile, lineage_text, manifest_for, read_model, write_model
from fedveil_common.pki import governance
from fedveil_common.plan import canonical, parse_plan, plan_hash
from fedveil_common.roster import Member, Role, Roster, sign_roster
from fedveil_common.secret import PrivateKey
from fedveil_participant.data.csv_source import read_features

PLAN_FILE = pathlib.Path(str(demo_split.__file__)).with_name("demo_plan.yaml")
PLAN = parse_plan(demo_split.plan_text(), "demo_plan.yaml")


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, dict[str, object], str]:
    """Exit code, the JSON object on stdout ({} if none), and the code of the error on stderr ("" if none)."""
    exit_code = main.main([*arguments, "--json"])
    out, err = capsys.readouterr()
    assert len(out.splitlines()) <= 1
    errors = [json.loads(line)["error"]["code"] for line in err.splitlines() if line.startswith("{")]
    return exit_code, json.loads(out) if out else {}, errors[0] if errors else ""


def test_plan_check_prints_the_hash_and_all_that_is_read(capsys: pytest.CaptureFixture[str]) -> None:
    code, value, _ = run(capsys, "plan", "check", str(PLAN_FILE))
    assert code == 0
    assert value["plan_hash"] == plan_hash(canonical(PLAN)).hex()
    assert (value["name"], value["rounds"], value["privacy"]) == ("breast-cancer", 8, "none")
    assert value["protection"] == {"kind": "masked", "value_bits": 16, "update_norm": 5.0}
    columns = value["columns"]
    assert isinstance(columns, list)
    read = [column["name"] for column in columns]
    assert read == [*(feature.name for feature in PLAN.data.features), "malignant"]
    assert "figures" not in value


def test_plan_check_for_people_shows_the_same(capsys: pytest.CaptureFixture[str]) -> None:
    assert main.main(["plan", "check", str(PLAN_FILE), "--participants", "5"]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    lines = out.splitlines()
    order = [
        next(i for i, line in enumerate(lines) if line.startswith(start))
        for start in ("plan hash", "protection", "privacy", "rounds", "model")
    ]
    assert order == sorted(order)
    for wanted in (plan_hash(canonical(PLAN)).hex(), "c 1, quorum 4", "mean_radius", "malignant"):
        assert wanted in out


@pytest.mark.parametrize(
    ("participants", "c", "q", "smallest"), [(3, 1, 3, 3), (5, 1, 4, 3), (10, 2, 7, 4), (40, 8, 25, 10)]
)
def test_plan_check_computes_c_and_quorum_for_a_roster(
    participants: int, c: int, q: int, smallest: int, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    three = tmp_path / "plan.yaml"
    three.write_text(PLAN_FILE.read_text().replace("min_participants: 5", "min_participants: 3"))
    code, value, _ = run(capsys, "plan", "check", str(three), "--participants", str(participants))
    figures = value["figures"]
    assert code == 0
    assert isinstance(figures, dict)
    assert (figures["max_corrupt"], figures["quorum"], figures["smallest_cohort"]) == (c, q, smallest)
    assert figures["min_survivors"] == max(q, 3)
    assert figures["tolerated_drops"] == participants - max(q, 3)
    assert (figures["can_start"], figures["why_not"]) == (True, None)
    q_smallest = quorum.quorum(smallest, c)
    quorum.check_parameters(smallest, c, q_smallest, q_smallest, max(q_smallest, 3), c)


@pytest.mark.parametrize("participants", ["1", "2", "1279", "2000", "100000000"])
def test_a_plan_that_can_never_start_is_shown_and_refused(
    participants: str, capsys: pytest.CaptureFixture[str]
) -> None:
    code, value, error = run(capsys, "plan", "check", str(PLAN_FILE), "--participants", participants)
    assert (code, error) == (2, "cohort_never_possible")
    figures = value["figures"]
    assert isinstance(figures, dict)
    assert figures["can_start"] is False
    assert figures["why_not"]


def test_run_start_and_plan_check_agree_on_what_can_start() -> None:
    for stated in (1, 3):
        text = PLAN_FILE.read_text().replace("max_corrupt: 1", f"max_corrupt: {stated}")
        plan = parse_plan(text.encode(), "plan.yaml")
        for participants in (1, 4, 5, 6, 40, 255, 256, 257, 1274, 1275, 1280, 2000):
            smallest = cohort_figures.smallest_cohort(plan, participants)
            if smallest is None:
                with pytest.raises(ConfigError) as caught:
                    operating.check_cohort(canonical(plan), participants)
                assert caught.value.code == "cohort_never_possible"
                assert participants < 5 or participants > 1274, participants
            else:
                operating.check_cohort(canonical(plan), participants)
                assert 5 <= smallest <= min(participants, quorum.MAX_COHORT)
                assert participants <= 1274


def test_plan_check_refuses_what_this_release_lacks(tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]) -> None:
    later = tmp_path / "later.yaml"
    later.write_text(PLAN_FILE.read_text().replace("version: 1", "version: 2"))
    assert run(capsys, "plan", "check", str(later)) == (2, {}, "not_in_this_release")
    assert run(capsys, "plan", "check", str(tmp_path)) == (2, {}, "file_unreadable")


# --- a federation that signs ----------


class Federation:
    """The keys and documents of a federation, enough to sign a model."""

    def __init__(self, name: str, key: bytes) -> None:
        self.id = FederationId(name)
        self.governance_key, self.coordinator_key = PrivateKey(key * 32), PrivateKey(key.swapcase() * 32)
        self.governance = governance.GovernanceSet(1, (signing.public_key(self.governance_key),))
        self.fingerprint = governance.fingerprint(self.id, self.governance)
        document = governance.TrustDocument(
            self.id, 1, self.governance, (b"a" * 32,), signing.public_key(self.coordinator_key)
        )
        self.chain = governance.encode_chain([governance.sign_trust(document, [self.governance_key])])

    def roster(self, version: int, federation_id: FederationId | None = None) -> bytes:
        head = Member(COORDINATOR, Role.COORDINATOR, signing.public_key(self.coordinator_key))
        return sign_roster(Roster(federation_id or self.id, version, (head,)), [self.governance_key]).encode()

    def sign(self, file: ModelFile, federation_id: FederationId, roster_version: int, roster: bytes) -> ModelFile:
        manifest = manifest_for(file, federation_id, RunId("run-1"), 8, roster_version, b"t" * 32)
        blob = signing.sign(self.coordinator_key, COORDINATOR, BlobType.MODEL, manifest.to_bytes())
        return dataclasses.replace(
            file,
            lineage=lineage_text(manifest, manifest.round),
            signatures=(blob,),
            trust_chain=base64.b64encode(self.chain).decode(),
            roster=base64.b64encode(roster).decode(),
        )


OURS = Federation("hospitals", b"g")
THEIRS = Federation("hospitals", b"h")


# --- predict ----------


@pytest.fixture
def model(tmp_path: pathlib.Path) -> pathlib.Path:
    """A model file with parameters that are not all zero, signed by our coordinator."""
    values = np.linspace(-1, 1, PLAN.data.inputs + 1).astype(np.float32)
    assert values.shape == initial.initial_model(PLAN).shape
    path = tmp_path / "model.safetensors"
    file = ModelFile(PLAN, values, standardisation.by_range(PLAN), "{}", (), "", "")
    path.write_bytes(write_model(OURS.sign(file, OURS.id, 2, OURS.roster(2))))
    return path


@pytest.fixture
def data(tmp_path: pathlib.Path) -> pathlib.Path:
    path = tmp_path / "rows.csv"
    path.write_bytes(demo_split.rows_csv(range(20)))
    return path


def predicted(
    capsys: pytest.CaptureFixture[str], model: pathlib.Path, data: pathlib.Path, out: pathlib.Path
) -> tuple[int, dict[str, object], str]:
    files = ("--model", str(model), "--data", str(data), "--out", str(out))
    return run(capsys, "predict", *files, "--fingerprint", OURS.fingerprint.hex())


def test_predict_writes_one_line_per_row(
    model: pathlib.Path, data: pathlib.Path, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "scores.csv"
    code, value, _ = predicted(capsys, model, data, out)
    assert (code, value["run_id"], value["federation_id"]) == (0, "run-1", "hospitals")
    assert (code, value["rows"], value["missing"], value["out"]) == (0, 20, 0, str(out))
    assert value["plan_hash"] == plan_hash(canonical(PLAN)).hex()
    with data.open("rb") as stream:
        table = read_features(stream, "rows.csv", PLAN)
    values = np.linspace(-1, 1, PLAN.data.inputs + 1).astype(np.float32)
    expected = prediction.predict(PLAN, values, standardisation.by_range(PLAN), table)
    with out.open(newline="") as stream_out:
        header, *rows = list(csv.reader(stream_out))
    assert header == ["row", "prediction"]
    assert [int(row) for row, _ in rows] == list(range(1, 21))
    assert [float(value) for _, value in rows] == list(expected)


def test_predict_refuses_and_leaves_the_output_alone(
    model: pathlib.Path, data: pathlib.Path, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "scores.csv"
    out.write_text("before")

    def predict(model: pathlib.Path = model, data: pathlib.Path = data, out: pathlib.Path = out) -> tuple[int, str]:
        code, value, error = predicted(capsys, model, data, out)
        assert value == {}
        return code, error

    bad = tmp_path / "bad.csv"
    bad.write_bytes(data.read_bytes().replace(b"mean_radius", b"x", 1))
    assert predict(data=bad) == (2, "bad_data")
    assert predict(data=tmp_path / "none.csv") == (2, "file_unreadable")
    assert predict(model=data) == (5, "bad_model_file")
    assert predict(model=tmp_path / "none") == (2, "file_unreadable")
    assert predict(out=data) == (2, "same_file")
    assert predict(out=model) == (2, "same_file")
    assert predict(out=tmp_path / "no" / "scores.csv") == (74, "file_unwritable")
    assert out.read_text() == "before"


def test_nothing_is_predicted_with_a_model_that_does_not_verify(
    model: pathlib.Path, data: pathlib.Path, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = read_model(model.read_bytes())
    unsigned, changed, out = tmp_path / "unsigned", tmp_path / "changed", tmp_path / "scores.csv"
    unsigned.write_bytes(write_model(dataclasses.replace(file, signatures=(), trust_chain="", roster="")))
    changed.write_bytes(write_model(dataclasses.replace(file, model=file.model * 2)))
    assert predicted(capsys, unsigned, data, out) == (5, {}, "bad_model_file")
    assert predicted(capsys, changed, data, out) == (5, {}, "model_mismatch")
    files = ("--model", str(model), "--data", str(data), "--out", str(out))
    foreign = run(capsys, "predict", *files, "--fingerprint", THEIRS.fingerprint.hex())
    assert foreign == (5, {}, "fingerprint_mismatch")
    nobody = run(capsys, "predict", *files, "--home", str(tmp_path / "none"))
    assert nobody == (2, {}, "fingerprint_missing")
    assert not out.exists()


# --- model verify ----------


def verified(
    capsys: pytest.CaptureFixture[str], tmp_path: pathlib.Path, file: ModelFile, fingerprint: bytes = OURS.fingerprint
) -> tuple[int, dict[str, object], str]:
    path = tmp_path / "signed.safetensors"
    path.write_bytes(write_model(file))
    return run(capsys, "model", "verify", str(path), "--fingerprint", governance.fingerprint_text(fingerprint))


def test_a_model_is_verified_from_the_fingerprint_alone(
    model: pathlib.Path, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    good = read_model(model.read_bytes())
    code, value, _ = verified(capsys, tmp_path, good)
    assert (code, value["verified"], value["federation_id"], value["run_id"]) == (0, True, "hospitals", "run-1")
    assert (value["plan"], value["round"], value["roster_version"]) == ("breast-cancer", 8, 2)
    assert value["fingerprint"] == OURS.fingerprint.hex()


def test_a_model_of_others_or_changed_is_refused(
    model: pathlib.Path, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = read_model(model.read_bytes())
    good = OURS.sign(file, OURS.id, 2, OURS.roster(2))
    other = FederationId("others")
    changed = dataclasses.replace(good, model=np.zeros_like(file.model))
    theirs = THEIRS.sign(file, OURS.id, 2, OURS.roster(2))
    cases = {
        "fingerprint_mismatch": THEIRS.sign(file, OURS.id, 2, THEIRS.roster(2)),
        "not_governance": dataclasses.replace(good, roster=base64.b64encode(THEIRS.roster(2)).decode()),
        "bad_signature": dataclasses.replace(good, signatures=theirs.signatures),
        "model_mismatch": changed,
        "wrong_roster": OURS.sign(file, OURS.id, 3, OURS.roster(2)),
        "wrong_federation": OURS.sign(file, other, 2, OURS.roster(2)),
        "bad_model_file": dataclasses.replace(good, roster="!"),
    }
    for expected, bad in cases.items():
        assert verified(capsys, tmp_path, bad) == (5, {}, expected)
    assert verified(capsys, tmp_path, OURS.sign(file, OURS.id, 2, OURS.roster(2, other)))[2] == "wrong_federation"
    bare = dataclasses.replace(file, signatures=(), trust_chain="", roster="")
    assert verified(capsys, tmp_path, bare)[2] == "bad_model_file"
    assert verified(capsys, tmp_path, good, THEIRS.fingerprint)[2] == "fingerprint_mismatch"


def test_without_a_whole_fingerprint_nothing_is_verified(
    model: pathlib.Path, capsys: pytest.CaptureFixture[str], tmp_path: pathlib.Path
) -> None:
    line = ("model", "verify", str(model), "--home", str(tmp_path / "none"))
    assert run(capsys, *line) == (2, {}, "fingerprint_missing")
    assert run(capsys, *line, "--fingerprint", OURS.fingerprint.hex()[:32]) == (2, {}, "bad_fingerprint")
