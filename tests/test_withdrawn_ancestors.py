"""A model that goes on from one that was withdrawn, two runs back: who is told, and what may not begin with it."""

import json
import pathlib
from collections.abc import Iterator

import pytest
from federation import RUN, THREE, journal, parse, run
from fedveil_cli import identity_commands, main, model_cards, model_files, plan_report, registry_commands, run_commands
from fedveil_cli.model_files import Asked
from fedveil_cli.output import Output
from fedveil_common import plan as plans
from fedveil_common.errors import PolicyRefusal
from fedveil_common.ids import RunId
from fedveil_common.messages import PlanAnswer, RunEnded, SignedBlob
from fedveil_common.registry import status
from fedveil_common.registry.stages import Stage
from fedveil_coordinator.model_operations import ModelOperations
from fedveil_participant.finish import Results
from fedveil_participant.run_results import RunResults

from tests.release_office import OPERATOR, START_S, ReleaseOffice, office_of
from tests.test_continuing import NEXT, THIRD, accept, further, ran, text
from tests.test_status_lists import kept_by

FOURTH = RunId("run-4")


@pytest.fixture(scope="module")
def chain(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ReleaseOffice]:
    """Three runs, each going on from the one before. The second is released, retired; then the first is withdrawn."""
    cluster = ran()
    for before, run_id in ((RUN, NEXT), (NEXT, THIRD)):
        plan = further(cluster, run_id=before)
        accept(cluster, plan)
        assert run(cluster, plan, run_id) == "finished"
    with office_of(cluster, tmp_path_factory.mktemp("chain")) as office:
        for run_id in (NEXT, THIRD):
            office.countersign(*THREE, run_id=run_id)
            office.candidate(run_id)
        office.registry.promote(NEXT, Stage.RELEASED, OPERATOR, "")
        office.registry.retire(NEXT, OPERATOR, "for now")
        office.before = office.registry.status()  # type: ignore[attr-defined]
        office.clock.now += 10
        office.registry.withdraw(RUN, OPERATOR, "wrong units")
        yield office


def before(office: ReleaseOffice) -> bytes:
    """The list from before the withdrawal."""
    found = office.before  # type: ignore[attr-defined]
    assert isinstance(found, bytes)
    return found


def written(office: ReleaseOffice, folder: pathlib.Path, run_id: RunId) -> pathlib.Path:
    path = folder / "model.safetensors"
    path.write_bytes(journal(office.cluster, THREE[0]).ends[run_id][2])
    return path


@pytest.mark.parametrize("run_id", [NEXT, THIRD])
def test_whoever_uses_a_descendant_is_told(
    run_id: RunId, chain: ReleaseOffice, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """By the list that names the first run alone; the list from before says nothing."""
    model, listed = written(chain, tmp_path, run_id), tmp_path / "listed"
    for document, descends in ((before(chain), []), (chain.registry.status(), [RUN])):
        listed.write_bytes(document)
        for as_json in (True, False):
            asked = Asked(tmp_path / "none", START_S, listed)
            model_files.verify(model, chain.fingerprint, Output(as_json), asked)
            out, err = capsys.readouterr()
            if as_json:
                assert json.loads(out)["status"]["descends_from_withdrawn"] == descends
            else:
                assert (f"descends from run {RUN}, withdrawn" in out) is bool(descends)
            assert (f"goes on from run {RUN}, whose model was withdrawn" in err) is bool(descends)
            model_cards.of_file(model, tmp_path / "card.md", chain.fingerprint, Output(as_json), asked)
            shown = (tmp_path / "card.md").read_text()
            assert ("whose model was withdrawn" in shown) is bool(descends)
            capsys.readouterr()


def test_no_run_goes_on_from_a_descendant(chain: ReleaseOffice, tmp_path: pathlib.Path) -> None:
    """The coordinator starts none; and where it does, everyone who has its list says no."""
    cluster = chain.cluster
    plan = further(cluster, run_id=THIRD)
    assert plans.parse_canonical(plan).earlier_runs == (RUN, NEXT, THIRD)
    accept(cluster, plan)
    with pytest.raises(PolicyRefusal, match="model_withdrawn"):
        cluster.coordinator.start_run(FOURTH, plan)
    office, cluster.coordinator.registry = cluster.coordinator.registry, None
    try:
        for org in THREE:
            kept = kept_by(chain, tmp_path / org)
            kept.take(before(chain))
            kept.check_first_model(plans.parse_canonical(plan))
            kept.take(chain.registry.status())
            driver = cluster.members[org].driver
            assert driver is not None
            driver.answers.check_first_model = kept.check_first_model
        assert run(cluster, plan, FOURTH) == "not_enough_participants"
    finally:
        cluster.coordinator.registry = office
    said = [parse(packet) for packet in cluster.sent if not packet.outward]
    answers = {one.code for one in said if isinstance(one, PlanAnswer) and one.plan_hash == plans.plan_hash(plan)}
    assert "model_withdrawn" in answers


def test_no_command_begins_anything_with_a_descendant(
    chain: ReleaseOffice,
    tmp_path: pathlib.Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """`plan check --from FILE` and `run start --from RUN`, the latter before anything is signed."""
    model, path, listed = written(chain, tmp_path, THIRD), tmp_path / "plan.yaml", tmp_path / "listed"
    path.write_bytes(text("{kind: fedavg}", rounds=3))
    words = ["plan", "check", str(path), "--from", str(model), "--home", str(tmp_path / "none"), "--json"]
    words += ["--fingerprint", chain.fingerprint.hex(), "--status", str(listed)]
    document = before(chain)

    class Admin:
        def export_model(self, run_id: str) -> bytes:
            return model.read_bytes()

        def model_status(self) -> bytes:
            return document

        def start_run(self, canonical: bytes, reuse_key_epoch: bool = False) -> str:
            return "run-4"

    signed: list[object] = []

    def publish(*arguments: object) -> dict[str, object]:
        signed.append(arguments)
        return {"version": 1, "added": [], "removed": [], "participants": list(THREE)}

    monkeypatch.setattr(run_commands, "connect", lambda home: Admin())
    monkeypatch.setattr(model_files, "expected_fingerprint", lambda given, home: chain.fingerprint)
    monkeypatch.setattr(identity_commands, "publish_next_roster", publish)
    listed.write_bytes(document)
    asked = Asked(tmp_path / "none", START_S, listed)
    plan_report.check(path, None, tmp_path, Output(True), plan_report.GoesOn(model, chain.fingerprint, asked))
    run_commands.start(tmp_path, path, None, True, Output(True), THIRD)
    assert len(signed) == 1
    document = chain.registry.status()
    listed.write_bytes(document)
    capsys.readouterr()
    assert main.main(words) == 4
    assert json.loads(capsys.readouterr().err.splitlines()[-1])["error"]["code"] == "model_withdrawn"
    with pytest.raises(PolicyRefusal, match="model_withdrawn"):
        run_commands.start(tmp_path, path, None, True, Output(True), THIRD)
    assert len(signed) == 1


def test_no_member_that_knows_of_it_countersigns_a_descendant(chain: ReleaseOffice, tmp_path: pathlib.Path) -> None:
    """A run that was under way when its beginning was withdrawn ends, and finds no quorum even where the coordinator
    skips its own check; who has no list yet, or an older one, cannot know.
    """
    cluster, org = chain.cluster, THREE[0]
    kept = kept_by(chain, tmp_path / org)
    file = journal(cluster, org).ends[THIRD][2]
    (blob,) = journal(cluster, org).countersignature(THIRD)
    told: list[str] = []
    put: list[RunId] = []

    class Journal:
        def put_countersignature(self, run_id: RunId, blob: SignedBlob, *, held: bool) -> None:
            put.append(run_id)

        def save_end(self, *arguments: object) -> None: ...

    results = RunResults(Journal(), None, lambda kind, facts: told.append(facts["code"]))  # type: ignore[arg-type]
    results.check_ancestry = kept.check_ancestry
    left = Results(file, countersignature=(blob,))
    ended = RunEnded(THIRD, b"p" * 32, "finished", (), ())
    results.store(ended, left)
    kept.take(before(chain))
    results.store(ended, left)
    assert (put, told) == ([THIRD, THIRD], [])
    kept.take(chain.registry.status())
    assert results.store(ended, left), "the model is kept all the same"
    results.store(ended, Results(journal(cluster, org).ends[RUN][2], countersignature=(blob,)))
    assert (put, told) == ([THIRD, THIRD, THIRD], ["model_withdrawn"]), "a run that goes on from nothing asks nobody"


def test_no_descendant_is_released(chain: ReleaseOffice) -> None:
    """Not the candidate two runs on, and the retired one does not come back."""
    registry = chain.registry
    for decide in (
        lambda: registry.promote(THIRD, Stage.RELEASED, OPERATOR, ""),
        lambda: registry.rollback(NEXT, OPERATOR, "the later one drifts"),
    ):
        with pytest.raises(PolicyRefusal) as caught:
            decide()
        assert caught.value.code == "descends_from_withdrawn"
    stages = {one.model.run_id: one.stage for one in status.contents(registry.status()).models}
    assert stages == {RUN: Stage.WITHDRAWN, NEXT: Stage.RETIRED}


def test_the_operator_who_withdraws_is_told_what_goes_on_from_it(
    chain: ReleaseOffice, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each model behind it that is not withdrawn itself, with its stage."""
    coordinator = chain.cluster.coordinator

    class Bell:
        def publish_status(self) -> None: ...

    class Runs:
        journal = chain.cluster.memory

    operations = ModelOperations(lambda work: work(), Bell(), chain.registry, Runs(), chain.trust)  # type: ignore[arg-type]
    listing = [{"run_id": run_id, "stage": str(chain.registry.stage(b""))} for run_id in (RUN, NEXT, THIRD)]
    monkeypatch.setattr(operations, "_list", lambda: listing)
    assert coordinator.registry is chain.registry
    monkeypatch.setattr(chain.registry, "withdraw", lambda name, who, reason: chain.registry.version(name))
    monkeypatch.setattr(registry_commands, "_admin", lambda home: operations_admin(operations))
    registry_commands.decide(tmp_path, "withdraw", RUN, "", "wrong units", Output(True))
    out, err = capsys.readouterr()
    assert [one["run_id"] for one in json.loads(out)["descend"]] == [NEXT, THIRD]
    assert err.count("goes on from it and is not withdrawn") == 2


def operations_admin(operations: ModelOperations) -> object:
    """The operator's client, without the wire between."""

    class Admin:
        def decide_model(self, move: str, name: str, to: str, reason: str) -> object:
            return operations.decide(move, name, to, reason, OPERATOR)

    return Admin()
