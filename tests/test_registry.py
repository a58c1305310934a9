"""The registry of models: stages, countersignatures, releases and status lists, over a simulated federation."""

import dataclasses
import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from federation import FIVE, RUN, plan_bytes, run, signed
from fedveil_common import modelfile, wire
from fedveil_common import plan as plans
from fedveil_common.crypto import signing
from fedveil_common.errors import ConfigError, FedveilError, IntegrityError, PeerError, PolicyRefusal
from fedveil_common.ids import COORDINATOR, FederationId, OrgId, RunId
from fedveil_common.masking import quorum
from fedveil_common.messages import BlobType, RunEndedAck, SignedBlob, Vote
from fedveil_common.modelfile import ModelFile
from fedveil_common.registry import comparison, countersignature, release, statement, status
from fedveil_common.registry.countersignature import Countersigned
from fedveil_common.registry.identity import ModelRef
from fedveil_common.registry.release import Release
from fedveil_common.registry.stages import Move, Stage, allowed
from fedveil_coordinator.store import open_store
from fedveil_participant.consent import Consent

from tests.release_office import DAY, OPERATOR, ReleaseOffice, release_office

OTHER = RunId("run-2")


@pytest.fixture(scope="module")
def ended(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ReleaseOffice]:
    """One federation for all tests; each test opens a database of its own."""
    with release_office(tmp_path_factory.mktemp("registry"), rounds=2) as office:
        yield office


@pytest.fixture
def office(ended: ReleaseOffice, tmp_path: Path) -> Iterator[ReleaseOffice]:
    store = open_store(tmp_path / "op", ended.clock, create=True)
    yield ReleaseOffice(ended.cluster, store, ended.trust, ended.key)
    store.close()


def code(call: Callable[[], object], kind: type[FedveilError] = PeerError) -> str:
    with pytest.raises(kind) as caught:
        call()
    return caught.value.code


# --- stages -----------------------------------------------------------------------------------------------------------


def test_only_these_stages_follow_each_other() -> None:
    d, c, r, t, w = Stage
    steps = {
        (move, before, after) for move in Move for before in Stage for after in Stage if allowed(move, before, after)
    }
    assert steps == {
        (Move.PROMOTE, d, c),
        (Move.PROMOTE, c, r),
        (Move.RETIRE, r, t),
        (Move.WITHDRAW, d, w),
        (Move.WITHDRAW, c, w),
        (Move.WITHDRAW, r, w),
        (Move.WITHDRAW, t, w),
        (Move.ROLLBACK, t, r),
        (Move.ROLLBACK, r, t),
    }


def test_stage_jumps_are_refused_and_move_nothing(office: ReleaseOffice) -> None:
    registry = office.registry
    office.countersign(*FIVE)
    before = registry.status()
    for call in (
        lambda: registry.promote(RUN, Stage.RELEASED, OPERATOR, ""),
        lambda: registry.promote(RUN, Stage.RETIRED, OPERATOR, ""),
        lambda: registry.promote(RUN, Stage.DRAFT, OPERATOR, ""),
        lambda: registry.retire(RUN, OPERATOR, "no"),
        lambda: registry.rollback(RUN, OPERATOR, "no"),
    ):
        assert code(call, ConfigError) == "stage_jump"
    assert registry.status() == before
    assert office.store.stages.statements() == []
    registry.withdraw(RUN, OPERATOR, "wrong units")
    for call in (
        lambda: registry.promote(RUN, Stage.CANDIDATE, OPERATOR, ""),
        lambda: registry.withdraw(RUN, OPERATOR, "again"),
        lambda: registry.rollback(RUN, OPERATOR, "no"),
    ):
        assert code(call, ConfigError) == "stage_jump"
    assert len(office.store.stages.statements()) == 1


def test_each_rounds_model_is_a_version_and_only_the_final_one_is_decided_about(office: ReleaseOffice) -> None:
    registry = office.registry
    state = office.cluster.coordinator.state_of(RUN)
    first, last = (registry.version(f"{RUN}:{one.round}") for one in state.versions)
    assert (first.final, first.step, first.manifest.model_hash) == (False, 1, state.versions[0].model_hash)
    assert last == registry.version(RUN), "the last round's model is the run's"
    assert signing.verify(first.blob, office.roster.coordinator_key, BlobType.MODEL) is None
    assert registry.version(f"{RUN}:1").blob == first.blob, "signed the same whenever it is asked for"
    assert registry.derive(first).model_hash == first.manifest.model_hash
    assert code(lambda: registry.promote(f"{RUN}:1", Stage.CANDIDATE, OPERATOR, ""), ConfigError) == "not_final_model"
    assert code(lambda: registry.version(f"{RUN}:9"), ConfigError) == "unknown_version"
    assert code(lambda: registry.version("nobody"), ConfigError) == "unknown_run"


def test_a_sum_that_changed_on_the_disk_is_promoted_by_nobody(
    office: ReleaseOffice, monkeypatch: pytest.MonkeyPatch
) -> None:
    honest = office.cluster.coordinator.sums.lineage_to
    monkeypatch.setattr(office.cluster.coordinator.sums, "lineage_to", lambda state, step: honest(state, step - 1))
    assert code(office.candidate, IntegrityError) == "registry_damaged"
    assert office.store.stages.statements() == []


# --- countersignatures ------------------------------------------------------------------------------------------------


def test_every_member_countersigns_what_it_derived(ended: ReleaseOffice) -> None:
    """Before its acknowledgement, over the bytes that all of them sign."""
    bodies = {ended.countersignature(org).body for org in FIVE}
    assert len(bodies) == 1
    said = json.loads(bodies.pop())
    manifest = modelfile.parse_manifest(ended.model().signatures[0].body)
    assert said["cohort"] == list(FIVE)
    assert (said["quorum"], said["corrupt"]) == (quorum.quorum(5, 1), 1)
    assert (said["model_hash"], said["run_id"], said["round"]) == (manifest.model_hash.hex(), RUN, 2)
    for org in FIVE:
        sent = [
            wire.parse_participant(packet.data)
            for packet in ended.cluster.sent
            if packet.org_id == org and not packet.outward
        ]
        kinds = [type(one) for one in sent if isinstance(one, SignedBlob | RunEndedAck)]
        assert kinds == [SignedBlob, RunEndedAck]


def expected(office: ReleaseOffice) -> Countersigned:
    return office.registry.due(RUN)[0]


def forged(office: ReleaseOffice, org: OrgId, body: bytes | None = None, **changes: object) -> SignedBlob:
    """A countersignature of `org` over the expected body with these changes."""
    made = replace(expected(office), **changes).to_bytes() if body is None else body  # type: ignore[arg-type]
    return signing.sign(office.cluster.charter.member_keys[org], org, BlobType.COUNTERSIGNATURE, made)


def test_what_is_no_countersignature_is_kept_by_nobody(office: ReleaseOffice) -> None:
    registry, acme, borealis = office.registry, *FIVE[:2]
    good = office.countersignature(acme)
    refused = {
        "wrong_sender": lambda: registry.countersigned(borealis, good),
        "wrong_countersignature": lambda: registry.countersigned(acme, forged(office, acme, quorum=2)),
        "bad_document": lambda: registry.countersigned(acme, forged(office, acme, body=good.body + b" ")),
        "bad_signature": lambda: registry.countersigned(acme, replace(good, sig=bytes(64))),
        "wrong_type": lambda: registry.countersigned(acme, replace(good, type=BlobType.VOTE)),
    }
    for wanted, call in refused.items():
        assert code(call) == wanted
    other = replace(expected(office).model, model_hash=bytes(32))
    call = lambda: registry.countersigned(acme, forged(office, acme, model=other))  # noqa: E731
    assert code(call) == "wrong_countersignature"
    unknown = replace(expected(office).model, run_id=RunId("run-9"))
    call = lambda: registry.countersigned(acme, forged(office, acme, model=unknown))  # noqa: E731
    assert code(call, ConfigError) == "unknown_run"
    assert registry.countersigners(RUN) == ()
    registry.countersigned(acme, good)
    registry.countersigned(acme, good)
    assert registry.countersigners(RUN) == (good,), "twice is once"


def test_a_member_of_the_roster_outside_the_cohort_is_a_stranger(office: ReleaseOffice) -> None:
    small = replace(expected(office), cohort=FIVE[:4], quorum=quorum.quorum(4, 1))
    blob = forged(office, FIVE[4], body=small.to_bytes())
    assert code(lambda: countersignature.check(blob, small, office.roster)) == "countersigned_by_stranger"
    stranger = OrgId("nobody")
    outside = replace(expected(office), cohort=(*FIVE, stranger))
    blob = signing.sign(office.key, stranger, BlobType.COUNTERSIGNATURE, outside.to_bytes())
    assert code(lambda: countersignature.check(blob, outside, office.roster)) == "not_in_roster"


def test_a_model_is_countersigned_with_the_round_that_led_to_it(office: ReleaseOffice) -> None:
    manifest = modelfile.parse_manifest(office.model().signatures[0].body)
    last = office.registry._manifest(RUN, 2)
    assert countersignature.of_round(manifest, last) == expected(office)
    for other in (
        office.registry._manifest(RUN, 1),
        replace(last, key=replace(last.key, run_id=OTHER)),
        replace(last, federation_id=FederationId("others")),
    ):
        assert code(lambda other=other: countersignature.of_round(manifest, other)) == "wrong_transcript"  # type: ignore[misc]


def test_the_driver_counts_what_does_not_fit_as_refused(office: ReleaseOffice) -> None:
    driver, acme = office.cluster.coordinator, FIVE[0]
    driver.received(acme, replace(office.countersignature(acme), sig=bytes(64)))
    driver.received(acme, signed(office.cluster.charter, acme, BlobType.VOTE, Vote(bytes(32))))
    driver.pump()
    assert driver._refused[acme] == 2
    assert office.registry.countersigners(RUN) == ()
    driver.received(acme, office.countersignature(acme))
    driver.pump()
    assert [blob.signer_id for blob in office.registry.countersigners(RUN)] == [acme]


# --- releases ---------------------------------------------------------------------------------------------------------


def test_a_release_needs_its_quorum(office: ReleaseOffice) -> None:
    office.candidate()
    needed = quorum.quorum(5, 1)
    office.countersign(*FIVE[: needed - 1])
    with pytest.raises(PolicyRefusal) as caught:
        office.registry.promote(RUN, Stage.RELEASED, OPERATOR, "")
    assert caught.value.code == "release_without_quorum"
    assert "delta" in caught.value.what
    assert office.registry.version(RUN)
    assert [one.to_bytes() for one in office.registry.decisions(expected(office).model.model_id)] != []
    assert office.registry.stage(expected(office).model.model_id) is Stage.CANDIDATE
    office.countersign(FIVE[needed - 1])
    version = office.registry.promote(RUN, Stage.RELEASED, OPERATOR, "approved")
    found = office.verified(office.file(version))
    assert found is not None
    assert (found.countersigned, found.quorum, found.cohort) == (FIVE[:needed], needed, FIVE)
    assert (found.statement.who, found.statement.reason, found.operator_only) == (OPERATOR, "approved", False)
    assert found.facts.metrics.keys() == {"loss", "accuracy", "rows"}
    assert found.facts.lineage_hash != bytes(32)
    assert (found.facts.steps, found.facts.epsilon) == (2, None)


def changed(file: ModelFile, *signatures: SignedBlob) -> ModelFile:
    return replace(file, signatures=signatures)


def test_signatures_that_do_not_belong_spoil_a_release(office: ReleaseOffice) -> None:
    file = office.file(office.released())
    model, said, *blobs = file.signatures
    needed = quorum.quorum(5, 1)
    assert office.verified(file) is not None
    assert office.verified(changed(file, model)) is None, "the model of a run"
    spoiled = {
        "no_quorum": [model, said, *blobs[: needed - 1]],
        "countersigned_twice": [model, said, *blobs[: needed - 1], blobs[0]],
        "not_released_here": [model, *blobs],
        "bad_signature": [model, said, *blobs[:-1], replace(blobs[-1], sig=bytes(64))],
        "wrong_type": [model, said, *blobs[:-1], replace(blobs[-1], type=BlobType.VOTE)],
        "wrong_countersignature": [model, said, *blobs[:-1], forged(office, FIVE[4], quorum=5)],
    }
    for wanted, signatures in spoiled.items():
        assert code(lambda signatures=signatures: office.verified(changed(file, *signatures))) == wanted, wanted  # type: ignore[misc]
    assert code(lambda: office.verified(changed(file, model, said))) == "no_quorum"
    other = replace(expected(office).model, model_id=bytes(32))
    over = [forged(office, org, model=other) for org in FIVE]
    assert code(lambda: office.verified(changed(file, model, said, *over))) == "not_released_here"
    # a roster of later, under which other members may sign than those of the model's time
    later = replace(office.roster, version=office.roster.version + 1)
    agreed = changed(file, model, said, *(forged(office, org, roster_version=later.version) for org in FIVE))
    manifest = modelfile.verify_model(agreed, office.roster.coordinator_key)
    for roster in (office.roster, later):
        call = lambda roster=roster: release.read_release(agreed, manifest, roster, office.trust.trust)  # noqa: E731
        assert code(call) == "not_released_here"


def test_a_cohort_that_was_made_small_makes_no_quorum(office: ReleaseOffice) -> None:
    """A coordinator and colluding members cannot agree on fewer corrupt members than plan and roster ask for."""
    file = office.file(office.released())
    model, said, *_ = file.signatures
    for wanted, changes in {
        "wrong_quorum": {"quorum": 2},
        "bad_document": {"corrupt": 0, "quorum": quorum.quorum(5, 0)},
        "cohort_too_small": {"cohort": FIVE[:2], "quorum": quorum.quorum(2, 1)},
    }.items():
        agreed = [forged(office, org, **changes) for org in FIVE]
        assert code(lambda agreed=agreed: office.verified(changed(file, model, said, *agreed))) == wanted  # type: ignore[misc]
    plan = office.model().plan
    body = expected(office)
    assert countersignature.needed(body, plan, office.roster) == body.quorum
    many = replace(plan, cohort=dataclasses.replace(plan.cohort, max_corrupt=2))
    assert code(lambda: countersignature.needed(body, many, office.roster)) == "corrupt_bound_too_small"
    older = replace(office.roster, version=office.roster.version + 1)
    assert code(lambda: countersignature.needed(body, plan, older)) == "wrong_roster"


def test_a_roster_that_grew_asks_for_more(office: ReleaseOffice, monkeypatch: pytest.MonkeyPatch) -> None:
    """Fifteen members make c = 3 likely: q of five for c = 1 would be too few to outvote them."""
    plan, body = office.model().plan, expected(office)
    monkeypatch.setattr(type(office.roster), "participants", property(lambda self: tuple(range(15))))
    assert countersignature.needed(body, plan, office.roster) == quorum.quorum(5, 3) == 5


def test_a_statement_of_another_model_or_signer_releases_nothing(office: ReleaseOffice) -> None:
    file = office.file(office.released())
    model, said, *blobs = file.signatures
    honest = statement.parse(said.body)

    def verdict(key: object = office.key, **changes: object) -> str:
        body = replace(honest, **changes).to_bytes()  # type: ignore[arg-type]
        made = signing.sign(key, COORDINATOR, BlobType.STAGE, body)  # type: ignore[arg-type]
        return code(lambda: office.verified(changed(file, model, made, *blobs)))

    (change,), (facts,) = honest.changes, honest.release
    another = replace(change, model=replace(change.model, model_id=bytes(32)))
    assert verdict(changes=(another,)) == "not_released_here"
    assert verdict(release=()) == "not_released_here"
    assert verdict(release=(replace(facts, plan_hash=bytes(32)),)) == "not_released_here"
    assert verdict(release=(replace(facts, rests_on=statement.OPERATOR_ONLY),)) == "not_released_here"
    assert verdict(release=(replace(facts, steps=1),)) == "not_released_here"
    assert verdict(release=(facts, facts)) == "bad_document"
    assert verdict(trust_sequence=2) == "trust_document_missing"
    assert verdict(federation_id="another") == "wrong_federation"
    assert verdict(key=office.cluster.charter.member_keys[FIVE[0]]) == "bad_signature"
    jump = replace(change, before=Stage.DRAFT)
    assert verdict(changes=(jump,)) == "bad_document"
    candidate = office.store.stages.statements()[0]
    assert code(lambda: office.verified(changed(file, model, candidate, *blobs))) == "not_released_here"


def test_a_released_file_has_one_byte_form(office: ReleaseOffice) -> None:
    file = office.file(office.released())
    data = modelfile.write_model(file)
    assert modelfile.write_model(modelfile.read_model(data)) == data
    swapped = changed(file, file.signatures[0], file.signatures[1], *reversed(file.signatures[2:]))
    assert office.verified(swapped) is not None, "the order of countersigners says nothing"
    assert [blob.signer_id for blob in file.signatures[2:]] == sorted(FIVE)


def test_after_a_handover_what_was_trained_before_is_released(office: ReleaseOffice) -> None:
    """The model was signed by the coordinator that is gone, the release and the list are by the new one."""
    office.countersign(*FIVE)
    office.candidate()
    old = office.registry.status()
    after = office.handed_over()
    version = after.registry.promote(RUN, Stage.RELEASED, OPERATOR, "")
    file = after.file(version)
    assert after.verified(file) is not None
    assert code(lambda: after.verified(file, office.trust.trust)) == "trust_document_missing"
    listed = status.read(after.registry.status(), office.fingerprint, [office.trust.trust])
    assert listed.trust_sequence == 2
    assert listed.stage_of(ModelRef.of(version.manifest)) is Stage.RELEASED
    assert code(lambda: status.read(old, office.fingerprint, [after.trust.trust])) == "status_not_in_force"
    office.clock.now += 40 * DAY
    assert (
        code(lambda: status.read(office.registry.status(), office.fingerprint, [after.trust.trust]))
        == "status_not_in_force"
    )


def test_a_coordinators_noise_is_released_by_the_operator_alone() -> None:
    alone = Release(None, statement.ReleaseFacts(statement.OPERATOR_ONLY, b"", 1, b"", b"", {}, 1.0, 1e-5), (), (), 0)  # type: ignore[arg-type]
    with pytest.raises(PolicyRefusal, match="operator_signed_only"):
        release.accept_operator_only(alone, accepted=False)
    release.accept_operator_only(alone, accepted=True)
    release.accept_operator_only(None, accepted=False)


# --- the life of a release --------------------------------------------------------------------------------------------


def test_retire_and_roll_back_are_later_statements(office: ReleaseOffice) -> None:
    version = office.released()
    ref = ModelRef.of(version.manifest)
    released = office.list()
    office.registry.retire(RUN, OPERATOR, "a later one")
    retired = office.list()
    office.registry.rollback(RUN, OPERATOR, "the later one drifts")
    back = office.list()
    assert [one.stage_of(ref) for one in (released, retired, back)] == [Stage.RELEASED, Stage.RETIRED, Stage.RELEASED]
    assert released.sequence < retired.sequence < back.sequence
    status.check_follows(released, retired)
    status.check_follows(retired, back)
    assert code(lambda: status.check_follows(back, retired)) == "status_rollback"
    assert [one.move for one in office.registry.decisions(ref.model_id)] == [
        Move.PROMOTE,
        Move.PROMOTE,
        Move.RETIRE,
        Move.ROLLBACK,
    ]
    assert office.verified(office.file(version)) is not None
    again = office.open()
    assert again.stage(ref.model_id) is Stage.RELEASED, "read again from the database"


def with_another_run(ended: ReleaseOffice, office: ReleaseOffice) -> None:
    """A second run of a plan of the same name has ended too."""
    if OTHER not in ended.cluster.memory.runs:
        again = plan_bytes(rounds=2, seed=8)
        for member in ended.cluster.members.values():
            assert member.driver is not None
            member.driver.answers.consent = Consent(frozenset({plans.plan_hash(again)}))
        ended.cluster.coordinator.registry = None
        assert run(ended.cluster, again, OTHER) == "finished"
        office.registry = office.open()


def test_what_belongs_to_another_run_releases_nothing(ended: ReleaseOffice, office: ReleaseOffice) -> None:
    """Everything in these files is genuine: the same members, the same coordinator, and the wrong run."""
    with_another_run(ended, office)
    one, other = office.file(office.released()), office.file(office.released(OTHER))
    model, said, *blobs = one.signatures
    _, their_said, *their_blobs = other.signatures
    assert office.verified(one) is not None
    for wanted, signatures in {
        "not_released_here": [model, their_said, *blobs],
        "wrong_countersignature": [model, said, *blobs[:-1], their_blobs[-1]],
    }.items():
        assert code(lambda signatures=signatures: office.verified(changed(one, *signatures))) == wanted  # type: ignore[misc]
    assert code(lambda: office.verified(changed(one, model, said, *their_blobs))) == "not_released_here"
    assert code(lambda: office.verified(changed(other, *one.signatures))) == "model_mismatch"
    acme = FIVE[0]
    office.registry.countersigned(acme, their_blobs[0])
    assert len(office.registry.countersigners(RUN)) == 5, "it counts for its own run, where it is already"


def test_a_roll_back_that_no_statement_can_say_is_refused(
    ended: ReleaseOffice, office: ReleaseOffice, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A statement has room for 64 changes; one with more would be signed, and never be read again."""
    with_another_run(ended, office)
    office.released()
    office.registry.retire(RUN, OPERATOR, "replaced")
    office.released(OTHER)
    monkeypatch.setattr(statement, "MAX_CHANGES", 1)
    before = office.store.stages.statements()
    assert code(lambda: office.registry.rollback(RUN, OPERATOR, "no"), ConfigError) == "too_many_released"
    assert office.store.stages.statements() == before
    monkeypatch.setattr(statement, "MAX_CHANGES", 2)
    assert office.registry.rollback(RUN, OPERATOR, "it fits")[1] == (OTHER,)
    assert office.open()


def test_no_statement_is_signed_that_nobody_could_read(office: ReleaseOffice) -> None:
    """It would stand in the log, and the coordinator never start again."""
    for who, reason in (("w" * 65, ""), (OPERATOR, "r" * 501), (OPERATOR, "\ud800")):
        with pytest.raises(ValueError, match=r"read|surrogate"):
            office.registry.promote(RUN, Stage.CANDIDATE, who, reason)
    assert office.store.stages.statements() == []
    office.registry.promote(RUN, Stage.CANDIDATE, "w" * 64, "\x1b[8m\n\0\u202e" + 490 * "\U0001f600")
    assert len(office.open().decisions(expected(office).model.model_id)) == 1


def test_what_is_released_makes_room_for_what_comes_back(ended: ReleaseOffice, office: ReleaseOffice) -> None:
    with_another_run(ended, office)
    first = ModelRef.of(office.released().manifest)
    office.registry.retire(RUN, OPERATOR, "replaced")
    second = ModelRef.of(office.released(OTHER).manifest)
    version, retired = office.registry.rollback(RUN, OPERATOR, "OTHER drifts")
    assert (version.manifest.run_id, retired) == (RUN, (OTHER,))
    listed = office.list()
    assert (listed.stage_of(first), listed.stage_of(second)) == (Stage.RELEASED, Stage.RETIRED)
    assert len(office.store.stages.statements()) == 6, "one statement for both"
    one, other = office.model(RUN), office.model(OTHER)
    assert ("training.seed", "7", "8") in comparison.plan_differences(one, other)
    assert {field for field, _, _ in comparison.plan_differences(one, other)} == {"model.initial", "training.seed"}
    assert comparison.plan_differences(one, one) == []
    *blocks, every = comparison.distances(one, other)
    moved = other.model.astype(float) - one.model.astype(float)
    assert every.l2 == pytest.approx(np.sqrt((moved**2).sum()))
    assert every.l2 == pytest.approx(np.sqrt(sum(block.l2**2 for block in blocks)))
    assert every.largest == pytest.approx(np.abs(moved).max())
    assert [block.name for block in blocks] == ["weight", "bias"]


def test_the_same_parameters_are_not_released_under_another_name(office: ReleaseOffice) -> None:
    version = office.released()
    ref = ModelRef.of(version.manifest)
    office.registry.withdraw(RUN, OPERATOR, "wrong units")
    twin = replace(ref, model_id=b"x" * 32, run_id=RunId("run-7"))
    assert office.list().stage_of(twin) is Stage.WITHDRAWN
    assert office.list().stage_of(replace(twin, model_hash=bytes(32))) is None
    resigned = replace(ref, model_id=b"x" * 32, model_hash=bytes(32))
    assert office.list().stage_of(resigned) is Stage.WITHDRAWN, "the same run and round, signed anew"
    with pytest.raises(PolicyRefusal, match="parameters_withdrawn"):
        office.registry._check_release(version, office.registry.facts(version))


# --- the log ----------------------------------------------------------------------------------------------------------


def test_a_log_with_a_gap_or_a_change_is_no_log(office: ReleaseOffice) -> None:
    office.released()
    office.registry.retire(RUN, OPERATOR, "replaced")
    log = [statement.parse(blob.body) for blob in office.store.stages.statements()]
    assert len(statement.fold(log)) == 1
    renumbered = replace(log[0], number=2)
    assert code(lambda: statement.fold([renumbered])) == "broken_log", "though it names what is before it"
    for broken in (log[1:], log[:1] + log[2:], [log[1], log[0], log[2]], [replace(log[0], reason="x"), *log[1:]]):
        assert code(lambda broken=broken: statement.fold(broken)) == "broken_log"  # type: ignore[misc]
    jumped = replace(log[2], previous=log[1].digest, changes=log[1].changes, move=Move.PROMOTE)
    assert code(lambda: statement.fold([*log[:2], jumped])) == "broken_log"
    office.key = office.cluster.charter.member_keys[FIVE[0]]
    forged_log = [statement.sign(one, office.key) for one in log]
    office.store.stages.statements = lambda: forged_log  # type: ignore[method-assign]
    assert code(office.open, IntegrityError) == "registry_damaged"


class Stop(Exception):
    """The process is gone."""


@dataclasses.dataclass
class StopAt:
    name: str

    def hit(self, name: str) -> None:
        if name == self.name:
            raise Stop


def test_a_crash_leaves_the_stage_before_or_the_one_after(office: ReleaseOffice) -> None:
    identity = expected(office).model.model_id
    for name, stage in (("coordinator.before.stage", Stage.DRAFT), ("coordinator.after.stage", Stage.CANDIDATE)):
        office.failpoints = StopAt(name)
        with pytest.raises(Stop):
            office.open().promote(RUN, Stage.CANDIDATE, OPERATOR, "")
        office.failpoints = StopAt("")
        again = office.open()
        assert again.stage(identity) is stage
        listed = status.read(again.status(), office.fingerprint)
        assert listed.statements == len(office.store.stages.statements())
    rows = [row.what for row in office.store.records.audit_rows()]
    assert rows.count("stage") == 1


def test_two_decisions_at_once_are_not_both_taken(office: ReleaseOffice) -> None:
    first, second = office.open(), office.open()
    first.promote(RUN, Stage.CANDIDATE, OPERATOR, "")
    assert code(lambda: second.promote(RUN, Stage.CANDIDATE, OPERATOR, ""), ConfigError) == "stage_changed"
