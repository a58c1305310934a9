"""What `model verify` and `predict` make of releases and status lists: files on the machine of somebody else."""

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from federation import FIVE, RUN, federation
from fedveil_cli import model_files, service_commands
from fedveil_cli.model_files import Asked
from fedveil_cli.model_status import companion
from fedveil_cli.output import Output
from fedveil_common import modelfile
from fedveil_common import plan as plans
from fedveil_common.errors import FedveilError, PeerError, PolicyRefusal
from fedveil_common.modelfile import ModelFile
from fedveil_common.registry import statement, status
from fedveil_common.registry.stages import Stage
from private_federation import private_plan

from tests.release_office import DAY, OPERATOR, START_S, ReleaseOffice, office_of, release_office, with_stray_bits


@pytest.fixture(scope="module")
def ended(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ReleaseOffice]:
    """A model that was released, retired, brought back, and withdrawn; each list is kept in `published`."""
    with release_office(tmp_path_factory.mktemp("status")) as office:
        office.registry.status()
        office.clock.now += 10
        office.released()
        office.registry.retire(RUN, OPERATOR, "a later one")
        office.registry.rollback(RUN, OPERATOR, "it drifts")
        office.registry.withdraw(RUN, OPERATOR, "wrong units")
        yield office


EMPTY, CANDIDATE, RELEASED, RETIRED, BACK, WITHDRAWN = range(6)


class Desk:
    """A person with a model file and perhaps some lists, and nothing else but the fingerprint."""

    def __init__(self, folder: Path, office: ReleaseOffice, capsys: pytest.CaptureFixture[str]) -> None:
        self.folder, self.office, self.capsys = folder, office, capsys
        self.model = folder / "model.safetensors"
        self.put(office.file(office.registry.version(RUN)))
        rows = ["f0,f1,f2,f3,f4", "0.1,0.2,0.3,0.4,0.5"]
        (folder / "new.csv").write_text("\n".join(rows) + "\n")

    def put(self, file: ModelFile) -> None:
        self.model.write_bytes(modelfile.write_model(file))

    def beside(self, number: int) -> None:
        companion(self.model).write_bytes(self.office.published[number])

    def list(self, number: int) -> Path:
        path = self.folder / f"list-{number}.json"
        path.write_bytes(self.office.published[number])
        return path

    def asked(self, now_s: float, given: Path | None, *, accept: bool = False) -> Asked:
        return Asked(self.folder / "no-home", now_s, given, accept)

    def verify(self, now_s: float = START_S, given: Path | None = None, *, accept: bool = False) -> tuple[dict, str]:  # type: ignore[type-arg]
        """(result, warnings)."""
        asked = self.asked(now_s, given, accept=accept)
        model_files.verify(self.model, self.office.fingerprint, Output(True), asked)
        out, err = self.capsys.readouterr()
        return json.loads(out), err

    def predict(self, now_s: float = START_S, given: Path | None = None) -> str:
        out = self.folder / "out.csv"
        paths = (self.model, self.folder / "new.csv", out)
        model_files.predict(*paths, self.office.fingerprint, Output(True), self.asked(now_s, given))
        assert out.read_text().startswith("row,prediction\n1,")
        out.unlink()
        return self.capsys.readouterr().err


@pytest.fixture
def desk(ended: ReleaseOffice, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Desk:
    assert len(ended.published) == 6
    return Desk(tmp_path, ended, capsys)


def code(call: object, kind: type[FedveilError]) -> str:
    with pytest.raises(kind) as caught:
        call()  # type: ignore[operator]
    return caught.value.code


def refusals(data: bytes, step: int, read: Callable[[bytes], object]) -> set[str]:
    """The codes with which a document is refused of which one bit was changed, in every `step`th byte."""
    read(data)
    codes = set()
    for at in range(0, len(data), step):
        with pytest.raises(PeerError) as caught:
            read(data[:at] + bytes([data[at] ^ 1 << at % 7]) + data[at + 1 :])
        codes.add(caught.value.code)
    return codes


def test_no_bit_of_a_released_file_or_of_a_list_can_be_changed(desk: Desk) -> None:
    """The lineage, which no signature covers, and everything that stands beside the signatures too."""
    data = desk.model.read_bytes()
    said = refusals(data, 127, lambda one: model_files.check_origin(modelfile.read_model(one), desk.office.fingerprint))
    assert {"bad_model_file", "model_mismatch"} < said
    file = modelfile.read_model(data)
    for at in range(len(file.lineage)):
        bent = replace(file, lineage=file.lineage[:at] + chr(ord(file.lineage[at]) ^ 1) + file.lineage[at + 1 :])
        with pytest.raises(PeerError) as caught:
            model_files.check_origin(bent, desk.office.fingerprint)
        assert caught.value.code == "lineage_mismatch"
    bent = replace(file, roster=with_stray_bits(file.roster))
    with pytest.raises(PeerError, match="no roster"):
        model_files.check_origin(bent, desk.office.fingerprint)
    for number in (EMPTY, WITHDRAWN):
        said = refusals(desk.office.published[number], 7, lambda one: status.read(one, desk.office.fingerprint))
        assert {"bad_document", "bad_signature"} < said


def test_without_a_list_nobody_knows(desk: Desk) -> None:
    value, err = desk.verify()
    assert value["status"] is None
    assert value["release"]["countersigned"] == list(FIVE)
    model_files.verify(desk.model, desk.office.fingerprint, Output(False), desk.asked(START_S, None))
    assert "status       not known: no status list is here (--status FILE)" in desk.capsys.readouterr().out
    assert (err, desk.predict()) == ("", "")


def test_the_list_beside_the_model_counts(desk: Desk) -> None:
    desk.beside(BACK)
    value, err = desk.verify()
    assert (value["status"]["stage"], value["status"]["expired"], err) == ("released", False, "")
    desk.beside(RETIRED)
    assert "retired" in desk.predict()
    desk.beside(WITHDRAWN)
    assert code(desk.verify, PolicyRefusal) == "model_withdrawn"
    assert code(desk.predict, PolicyRefusal) == "model_withdrawn"
    assert not (desk.folder / "out.csv").exists()


def test_the_list_of_the_home_and_the_one_beside_must_fit_together(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    home = desk.folder / "no-home"
    home.mkdir()
    (home / status.FILE).write_bytes(desk.office.published[WITHDRAWN])
    desk.beside(BACK)
    assert desk.verify()[0]["status"]["stage"] == "released", "the list of a home that belongs to no federation is none"
    monkeypatch.setattr(service_commands, "home_fingerprint", lambda home: desk.office.fingerprint[::-1])
    assert desk.verify()[0]["status"]["stage"] == "released", "nor is that of another federation"
    monkeypatch.setattr(service_commands, "home_fingerprint", lambda home: desk.office.fingerprint)
    assert code(desk.verify, PolicyRefusal) == "model_withdrawn"
    assert code(lambda: desk.verify(given=desk.list(BACK)), PeerError) == "status_rollback"
    newest = status.contents(desk.office.published[WITHDRAWN])
    for sequence, wanted in ((newest.sequence, "status_fork"), (newest.sequence + 1, "withdrawal_undone")):
        back = replace(status.contents(desk.office.published[BACK]), sequence=sequence)
        document = status.to_file(back, desk.office.key, desk.office.trust.trust_chain)
        companion(desk.model).write_bytes(document)
        assert code(desk.verify, PeerError) == wanted
        assert code(desk.predict, PeerError) == wanted


def test_an_expired_list_is_a_warning(desk: Desk) -> None:
    late = START_S + 10 + 30 * DAY
    assert desk.predict(late, desk.list(RELEASED)) == ""
    assert "expired" in desk.predict(late + 1, desk.list(RELEASED))
    value, err = desk.verify(late + 1, desk.list(RELEASED))
    assert value["status"]["expired"]
    assert "expired" in err


def test_a_release_that_a_later_list_does_not_know(desk: Desk) -> None:
    """A list from before the release says nothing of it; one from after it that leaves it out convicts the file."""
    value, _ = desk.verify(given=desk.list(EMPTY))
    assert value["status"]["stage"] is None
    after = status.contents(desk.office.published[BACK])
    made = status.to_file(replace(after, models=()), desk.office.key, desk.office.trust.trust_chain)
    path = desk.folder / "without.json"
    path.write_bytes(made)
    assert code(lambda: desk.verify(given=path), PeerError) == "release_not_listed"
    desk.put(desk.office.model())
    value, _ = desk.verify(given=path)
    assert value["release"] is None, "the model of a run claims no release"


def test_a_time_that_no_calendar_has_is_shown_as_it_stands(desk: Desk) -> None:
    """Whoever holds the coordinator's key can sign any number; nobody's command ends in a defect over it."""
    late = 2**53 - 1
    contents = replace(status.contents(desk.office.published[BACK]), as_of_s=late, not_after_s=late)
    path = desk.folder / "late.json"
    path.write_bytes(status.to_file(contents, desk.office.key, desk.office.trust.trust_chain))
    asked = desk.asked(START_S, path)
    model_files.verify(desk.model, desk.office.fingerprint, Output(False), asked)
    assert f"released, as of {late} s" in desk.capsys.readouterr().out


def test_a_list_of_somebody_else_is_no_list(desk: Desk) -> None:
    path = desk.folder / "forged.json"
    key = desk.office.cluster.charter.member_keys[FIVE[0]]
    contents = status.contents(desk.office.published[BACK])
    path.write_bytes(status.to_file(contents, key, desk.office.trust.trust_chain))
    assert code(lambda: desk.verify(given=path), PeerError) == "bad_signature"
    assert code(lambda: desk.predict(given=path), PeerError) == "bad_signature"


def test_a_file_with_half_a_quorum_predicts_nothing(desk: Desk) -> None:
    file = desk.office.file(desk.office.registry.version(RUN))
    desk.put(replace(file, signatures=file.signatures[:5]))
    assert code(desk.verify, PeerError) == "no_quorum"
    assert code(desk.predict, PeerError) == "no_quorum"


def test_a_release_with_the_coordinators_noise_must_be_accepted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Under masked the coordinator alone saw the exact sums: nobody countersigns, and the release says so."""
    plan = private_plan(by="coordinator", rounds=2)
    cluster = federation(plan=plans.canonical(plan))
    cluster.start_run(RUN, plans.canonical(plan))
    cluster.play(lambda: cluster.memory.runs[RUN][1] == "ended", 400_000.0)
    assert all(not member.memory.countersignatures for member in cluster.members.values())
    with office_of(cluster, tmp_path) as office:
        office.candidate()
        version = office.registry.promote(RUN, Stage.RELEASED, OPERATOR, "")
        desk = Desk(tmp_path, office, capsys)
        capsys.readouterr()  # what the simulation logged
        assert code(desk.verify, PolicyRefusal) == "operator_signed_only"
        value, _ = desk.verify(accept=True)
        assert value["release"]["rests_on"] == "operator-signed only"
        assert value["release"]["facts"]["epsilon"] == pytest.approx(office.registry.facts(version).epsilon)
        assert value["release"]["facts"]["epsilon"] > 0
        model_files.verify(desk.model, office.fingerprint, Output(False), desk.asked(START_S, None, accept=True))
        assert "release      operator-signed only, by operator" in capsys.readouterr().out
        assert code(lambda: office.registry.due(RUN), PeerError) == "countersignature_not_due"
        file = office.file(version)
        said = statement.parse(file.signatures[1].body)
        (facts,) = said.release
        lied = statement.sign(replace(said, release=(replace(facts, rests_on=statement.QUORUM),)), office.key)
        desk.put(replace(file, signatures=(file.signatures[0], lied)))
        assert code(lambda: desk.verify(accept=True), PeerError) == "not_released_here"
        vouched = (*file.signatures, replace(file.signatures[1], signer_id=FIVE[0]))
        desk.put(replace(file, signatures=vouched))
        assert code(lambda: desk.verify(accept=True), PeerError) == "not_released_here"
