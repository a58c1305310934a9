"""What commands that take a model make of releases and status lists: files on the machine of somebody else."""

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from federation import FIVE, RUN, federation
from fedveil_cli import (
    main,
    model_cards,
    model_exporting,
    model_files,
    model_opening,
    model_sealing,
    model_tokens,
    registry_commands,
    service_commands,
)
from fedveil_cli.companions import companion
from fedveil_cli.model_files import Asked
from fedveil_cli.model_status import Nearby
from fedveil_cli.output import Output
from fedveil_cli.world import SystemEntropy
from fedveil_common import modelfile
from fedveil_common import plan as plans
from fedveil_common.errors import FedveilError, PeerError, PolicyRefusal
from fedveil_common.exchange import jws
from fedveil_common.exchange.format_names import Format
from fedveil_common.modelfile import ModelFile
from fedveil_common.registry import statement, status
from fedveil_common.registry.stages import Stage
from fedveil_common.sealing import key_files
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


def test_a_list_of_a_time_that_is_not_yet_says_nothing_of_its_age(desk: Desk) -> None:
    """Else a list that was signed for the next century would stay fresh until then. A day is left to the clocks."""
    for ahead, told in ((DAY, False), (DAY + 1, True)):
        as_of = int(START_S) + ahead
        contents = replace(
            status.contents(desk.office.published[RELEASED]), as_of_s=as_of, not_after_s=as_of + status.VALID_S
        )
        path = desk.folder / "ahead.json"
        path.write_bytes(status.to_file(contents, desk.office.key, desk.office.trust.trust_chain))
        value, err = desk.verify(given=path)
        assert (value["status"]["stage"], value["status"]["expired"]) == ("released", told)
        assert ("which is not yet" in err) is told


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


# --- every command that makes something of a model --------------------------------------------------------------------


class Reader(Desk):
    """The same person with the model in every form in which it comes, and without a list as yet."""

    def __init__(self, folder: Path, office: ReleaseOffice, capsys: pytest.CaptureFixture[str]) -> None:
        super().__init__(folder, office, capsys)
        self.home, self.out = folder / "home", folder / "out"
        self.home.mkdir()
        key = key_files.new_x25519(SystemEntropy())
        self.key, self.public = folder / "me.key", folder / "me.pub"
        self.key.write_bytes(key_files.private_pem(key, None))
        self.public.write_bytes(key_files.public_pem(key.public_key()))
        self.sealed, self.jwe, self.jws = folder / "model.sealed", folder / "model.jwe", folder / "model.jws"
        model_sealing.seal(self.model, self.sealed, [self.public], None, Output(True))
        model_tokens.jwe_wrap(self.sealed, self.jwe, self.public, self.key, None, Output(True))
        manifest = modelfile.read_model(self.model.read_bytes()).signatures[0].body
        self.jws.write_bytes(jws.sign(manifest, office.key))
        capsys.readouterr()

    def kept(self, number: int) -> None:
        """The home of the federation has seen this list."""
        (self.home / status.FILE).write_bytes(self.office.published[number])

    def beside(self, number: int) -> None:
        for path in (self.model, self.sealed):
            companion(path).write_bytes(self.office.published[number])

    def does(self, use: str, given: Path | None = None, now_s: float = START_S, *, as_json: bool = True) -> str:
        """One command; what it printed."""
        USES[use](self, Output(as_json), Asked(self.home, now_s, given))
        return self.capsys.readouterr().out

    def says(self, use: str, given: Path | None = None, now_s: float = START_S) -> tuple[dict, str]:  # type: ignore[type-arg]
        """(`status` of the result, warnings); what was written is gone again."""
        USES[use](self, Output(True), Asked(self.home, now_s, given))
        out, err = self.capsys.readouterr()
        for path in (self.out, companion(self.out)):
            path.unlink(missing_ok=True)
        return json.loads(out)["status"], err

    def refused(self, use: str, given: Path | None = None) -> str:
        """The code of the refusal: nothing was printed as a result, no file came, went or changed."""
        before = {path: path.read_bytes() for path in self.folder.iterdir() if path.is_file()}
        with pytest.raises(FedveilError) as caught:
            self.does(use, given)
        assert {path: path.read_bytes() for path in self.folder.iterdir() if path.is_file()} == before
        assert self.capsys.readouterr().out == ""
        return caught.value.code

    def exported(self, wanted: Format, output: Output, asked: Asked) -> None:
        data, near = self.model.read_bytes(), Nearby(self.model)
        model_exporting.export(data, near, wanted, self.out, self.office.fingerprint, output, asked)


USES: dict[str, Callable[[Reader, Output, Asked], None]] = {
    "predict": lambda me, output, asked: model_files.predict(
        me.model, me.folder / "new.csv", me.out, me.office.fingerprint, output, asked
    ),
    "verify": lambda me, output, asked: model_files.verify(me.model, me.office.fingerprint, output, asked),
    "export": lambda me, output, asked: me.exported(Format.SAFETENSORS, output, asked),
    "export --to csv": lambda me, output, asked: me.exported(Format.CSV, output, asked),
    "open": lambda me, output, asked: model_opening.open_file(
        me.sealed, me.out, me.key, me.office.fingerprint, None, output, asked
    ),
    "jwe open": lambda me, output, asked: model_tokens.jwe_open(
        me.jwe, me.sealed, me.out, me.key, me.office.fingerprint, None, output, asked
    ),
    "jws verify": lambda me, output, asked: model_tokens.jws_verify(
        me.jws, me.model, me.office.fingerprint, output, asked
    ),
}


@pytest.fixture
def reader(ended: ReleaseOffice, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Reader:
    return Reader(tmp_path, ended, capsys)


@pytest.fixture
def member(reader: Reader, monkeypatch: pytest.MonkeyPatch) -> Reader:
    """A reader whose home belongs to the federation."""
    for module in (service_commands, model_files):
        monkeypatch.setattr(module, "home_fingerprint", lambda home: reader.office.fingerprint)
    return reader


EACH = pytest.mark.parametrize("use", USES)


@EACH
def test_nothing_is_made_of_a_model_that_was_withdrawn(use: str, member: Reader) -> None:
    """By the list beside it, by one that was named, and by the home's, whatever lies beside."""
    assert member.refused(use, member.list(WITHDRAWN)) == "model_withdrawn"
    member.beside(WITHDRAWN)
    assert member.refused(use) == "model_withdrawn"
    member.beside(BACK)
    member.kept(WITHDRAWN)
    assert member.refused(use) == "model_withdrawn"


@EACH
def test_no_older_list_than_the_home_s_is_taken(use: str, member: Reader) -> None:
    member.kept(BACK)
    assert member.refused(use, member.list(RELEASED)) == "status_rollback"
    member.beside(RELEASED)
    said, _ = member.says(use)
    assert said["sequence"] == status.contents(member.office.published[BACK]).sequence


@EACH
def test_what_a_list_says_is_told(use: str, reader: Reader) -> None:
    """Without a list, with one in force, of a retired model, and with one that expired."""
    said, err = reader.says(use)
    assert (said, "warning" in err) == (None, False)
    assert "status       not known: no status list is here (--status FILE)" in reader.does(use, as_json=False)
    assert not companion(reader.out).exists()
    said, err = reader.says(use, reader.list(RELEASED))
    assert (said["stage"], said["expired"]) == ("released", False)
    assert "warning" not in err
    assert f"as of {status.date(said['as_of_s'])}" in reader.does(use, reader.list(RELEASED), as_json=False)
    reader.beside(RETIRED)
    said, err = reader.says(use)
    assert said["stage"] == "retired"
    assert "warning: the model is retired" in err
    said, err = reader.says(use, now_s=START_S + 31 * DAY)
    assert said["expired"]
    assert "whether the model was withdrawn since is not known" in err


def test_the_list_goes_with_the_model(reader: Reader, capsys: pytest.CaptureFixture[str]) -> None:
    """From the model to the sealed file, to one for other recipients, and to the model that comes out of it."""
    reader.beside(RELEASED)
    again, more = reader.folder / "again.sealed", reader.folder / "more.sealed"
    model_sealing.seal(reader.model, again, [reader.public], None, Output(True))
    assert json.loads(capsys.readouterr().out)["status_file"] == str(companion(again))
    model_sealing.rewrap(again, more, [reader.public], reader.key, False, None, Output(True))
    model_opening.open_file(
        more, reader.out, reader.key, reader.office.fingerprint, None, Output(True), reader.asked(START_S, None)
    )
    assert reader.out.read_bytes() == reader.model.read_bytes()
    copies = [companion(path).read_bytes() for path in (again, more, reader.out)]
    assert copies == [reader.office.published[RELEASED]] * 3
    companion(reader.out).unlink()
    reader.does("export")
    assert companion(reader.out).read_bytes() == reader.office.published[RELEASED]
    companion(reader.out).unlink()
    reader.does("export --to csv")
    assert not companion(reader.out).exists(), "no program that reads it asks for a list"


def test_a_list_that_is_there_already_is_not_put_back_behind(reader: Reader) -> None:
    """A later list at the place of the output counts, and stays; what is no list there is replaced."""
    published = reader.office.published
    reader.beside(RELEASED)
    companion(reader.out).write_bytes(published[BACK])
    for use in ("open", "export"):
        assert json.loads(reader.does(use))["status"]["sequence"] == status.contents(published[BACK]).sequence
        assert companion(reader.out).read_bytes() == published[BACK]
    companion(reader.out).write_bytes(published[WITHDRAWN])
    assert reader.refused("open") == "model_withdrawn"
    for left in (b"not a list", published[EMPTY]):
        companion(reader.out).write_bytes(left)
        reader.does("open")
        assert companion(reader.out).read_bytes() == published[RELEASED]
        companion(reader.out).write_bytes(left)
        model_sealing.seal(reader.model, reader.out, [reader.public], None, Output(True))
        assert companion(reader.out).read_bytes() == published[RELEASED]
        reader.out.unlink()
    companion(reader.out).write_bytes(published[BACK])
    model_sealing.seal(reader.model, reader.out, [reader.public], None, Output(True))
    assert companion(reader.out).read_bytes() == published[BACK]


def test_a_withdrawn_model_is_not_sealed_for_anybody(reader: Reader) -> None:
    """By the list beside it, which nobody verifies here; a list that is none, or of others, ends it too."""
    USES["seal"] = lambda me, output, asked: model_sealing.seal(me.model, me.out, [me.public], None, output)
    try:
        reader.beside(WITHDRAWN)
        assert reader.refused("seal") == "model_withdrawn"
        companion(reader.model).write_bytes(b"{}")
        assert reader.refused("seal") == "bad_document"
        listed = replace(status.contents(reader.office.published[BACK]), federation_id="others")  # type: ignore[arg-type]
        companion(reader.model).write_bytes(status.to_file(listed, reader.office.key, b"chain"))
        assert reader.refused("seal") == "wrong_federation"
    finally:
        del USES["seal"]


def test_who_only_looks_is_told(member: Reader, capsys: pytest.CaptureFixture[str]) -> None:
    """A card and a comparison of a withdrawn model say what it is."""
    member.beside(WITHDRAWN)
    asked = Asked(member.home, START_S)
    model_cards.of_file(member.model, member.out, member.office.fingerprint, Output(True), asked)
    out, err = capsys.readouterr()
    assert json.loads(out)["status"]["stage"] == "withdrawn"
    assert "was withdrawn" in err
    assert "nobody is to use this model any more" in member.out.read_text()
    companion(member.model).unlink()
    model_cards.of_file(member.model, member.out, member.office.fingerprint, Output(True), asked)
    assert "stage: not known" in member.out.read_text()
    other = member.folder / "other.safetensors"
    other.write_bytes(member.model.read_bytes())
    companion(other).write_bytes(member.office.published[WITHDRAWN])
    capsys.readouterr()
    registry_commands.diff(member.home, str(member.model), str(other), lambda: None, Output(True))
    out, err = capsys.readouterr()
    found = json.loads(out)
    assert (found["first"]["stage"], found["second"]["stage"]) == (None, "withdrawn")
    assert "other.safetensors was withdrawn" in err


# --- what stands where the list will be written -----------------------------------------------------------------------


def test_no_list_is_written_over_a_file_that_is_read(reader: Reader) -> None:
    """A private key that happened to be called as the list beside the output was replaced by it; and the list beside a
    model by a copy of the model.
    """
    reader.beside(RELEASED)
    key = companion(reader.out)
    key.write_bytes(reader.key.read_bytes())
    reader.key = key
    assert reader.refused("open") == "same_file"
    assert reader.refused("jwe open") == "same_file"
    key.unlink()
    reader.key = reader.folder / "me.key"
    reader.out = companion(reader.model)
    for words in (
        ["export", str(reader.model), "--out", str(reader.out)],
        ["export", str(reader.model), "--to", "csv", "--out", str(reader.out)],
        ["card", str(reader.model), "--out", str(reader.out)],
        ["seal", str(reader.model), "--for", str(reader.public), "--out", str(reader.out)],
    ):
        before = reader.out.read_bytes()
        asked = [] if words[0] == "seal" else ["--fingerprint", reader.office.fingerprint.hex()]
        assert main.main(["model", *words, *asked, "--json"]) == 2
        assert json.loads(reader.capsys.readouterr().err.splitlines()[-1])["error"]["code"] == "same_file"
        assert reader.out.read_bytes() == before


def test_where_no_list_can_stand_no_model_is_written(reader: Reader) -> None:
    """A folder of the list's name kept the list away from the model, which was written all the same."""
    reader.beside(RELEASED)
    companion(reader.out).mkdir()
    for use in ("open", "jwe open"):
        assert reader.refused(use) == "output_refused"
    for words in (
        ["seal", str(reader.model), "--for", str(reader.public)],
        ["rewrap", str(reader.sealed), "--key", str(reader.key), "--for", str(reader.public)],
        ["export", str(reader.model), "--fingerprint", reader.office.fingerprint.hex()],
    ):
        assert main.main(["model", *words, "--out", str(reader.out), "--json"]) == 2
        assert json.loads(reader.capsys.readouterr().err.splitlines()[-1])["error"]["code"] == "output_refused"
    assert not reader.out.exists()
