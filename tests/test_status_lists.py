"""The status list: made anew, kept by participants, told by the coordinator; and a member that is asked first."""

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from federation import FIVE, RUN
from fedveil_common import jcs, wire
from fedveil_common.crypto import signing
from fedveil_common.errors import ConfigError, FedveilError, IntegrityError, PeerError
from fedveil_common.ids import FederationId, RunId
from fedveil_common.limits import MAX_DOCUMENT, MAX_STATUS
from fedveil_common.messages import BlobType, RunEndedAck, StatusNotice
from fedveil_common.pki.governance import decode_chain, encode_chain, sign_trust, verify_chain
from fedveil_common.registry import status
from fedveil_common.registry.identity import ModelRef
from fedveil_common.registry.stages import Stage
from fedveil_common.secret import PrivateKey
from fedveil_coordinator.store import open_store, stages
from fedveil_participant.kept_status import KeptStatus
from fedveil_participant.run_results import RunResults
from fedveil_participant.store.countersignatures import CountersignatureFiles

from tests.release_office import DAY, OPERATOR, ReleaseOffice, release_office, with_stray_bits

OTHER = RunId("run-2")


@pytest.fixture(scope="module")
def ended(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ReleaseOffice]:
    """One federation for all tests; each test opens a database of its own."""
    with release_office(tmp_path_factory.mktemp("status")) as office:
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


def test_a_list_is_made_anew_after_a_day_and_when_the_trust_grows(office: ReleaseOffice) -> None:
    first = office.registry.status()
    assert office.registry.status() == first
    office.clock.now += DAY - 2
    assert office.registry.status() == first
    office.clock.now += 3
    second = office.list()
    assert second.sequence > status.contents(first).sequence
    assert second.not_after_s - second.as_of_s == 30 * DAY
    assert not second.expired(second.as_of_s + 30 * DAY)
    assert second.expired(second.as_of_s + 30 * DAY + 1)
    assert office.published[-1] == office.registry.status()
    after = office.handed_over()
    third = status.read(after.registry.status(), office.fingerprint)
    assert (third.trust_sequence, third.sequence) == (2, second.sequence + 1)


def test_a_restored_database_goes_on_above_what_was_seen(office: ReleaseOffice, tmp_path: Path) -> None:
    """The number is the time: a copy of the database from before signs no list that members would refuse."""
    seen = [office.list().sequence]
    for _ in range(3):
        office.clock.now += 2 * DAY
        seen.append(office.list().sequence)
    empty = open_store(tmp_path / "copy", office.clock, create=True)
    office.clock.now += 60
    restored = ReleaseOffice(office.cluster, empty, office.trust, office.key, office.clock)
    assert restored.list().sequence > max(seen)
    office.clock.now -= 30 * DAY
    before = office.list().sequence
    office.registry.promote(RUN, Stage.CANDIDATE, OPERATOR, "")
    assert office.list().sequence == before + 1, "nor one that goes back with the clock"
    empty.close()


def kept_by(office: ReleaseOffice, folder: Path) -> KeptStatus:
    folder.mkdir()
    return KeptStatus(folder, lambda: office.trust.trust)


def rewritten(document: bytes, office: ReleaseOffice, **changes: object) -> bytes:
    """The list in force with changes, signed by the coordinator."""
    made = replace(status.contents(document), **changes)  # type: ignore[arg-type]
    return status.to_file(made, office.key, office.trust.trust_chain)


def test_a_participant_keeps_the_highest_list(office: ReleaseOffice, tmp_path: Path) -> None:
    kept = kept_by(office, tmp_path / "acme")
    ref = ModelRef.of(office.released().manifest)
    old = office.registry.status()
    assert kept.take(old).stage_of(ref) is Stage.RELEASED
    office.registry.withdraw(RUN, OPERATOR, "wrong units")
    new = office.registry.status()
    assert kept.take(new).stage_of(ref) is Stage.WITHDRAWN
    assert kept.take(new) == status.contents(new), "the same again"
    higher = status.contents(new).sequence + 1
    refused = {
        "status_rollback": old,
        "status_fork": rewritten(new, office, statements=1),
        "withdrawal_undone": rewritten(new, office, sequence=higher, models=()),
        "wrong_federation": rewritten(new, office, federation_id="another", sequence=higher),
        "trust_document_missing": rewritten(new, office, trust_sequence=2, sequence=higher),
        "bad_document": new[:-1] + b" }",
    }
    for wanted, document in refused.items():
        assert code(lambda document=document: kept.take(document)) == wanted, wanted  # type: ignore[misc]
    stolen = office.cluster.charter.member_keys[FIVE[0]]
    made = status.to_file(status.contents(new), stolen, office.trust.trust_chain)
    assert code(lambda: kept.take(made)) == "bad_signature"
    assert kept.document() == new
    back = rewritten(new, office, sequence=higher)
    assert kept.take(back).sequence == higher
    other = office.cluster.charter.fingerprint[::-1]
    assert code(lambda: status.read(new, other)) == "fingerprint_mismatch"


def test_a_list_of_a_coordinator_that_was_replaced_is_kept_by_nobody_who_knows(
    office: ReleaseOffice, tmp_path: Path
) -> None:
    """The list carries the older chain; the participant has pinned the longer one."""
    old, after = office.registry.status(), office.handed_over()
    kept = kept_by(after, tmp_path / "acme")
    assert code(lambda: kept.take(old)) == "status_not_in_force"
    assert kept.document() == b""
    assert kept.take(after.registry.status()).trust_sequence == 2
    unknowing = kept_by(office, tmp_path / "borealis")
    assert unknowing.take(old).trust_sequence == 1


def test_a_kept_list_that_was_damaged_is_an_alarm_of_its_own(office: ReleaseOffice, tmp_path: Path) -> None:
    """Not the coordinator's fault, and no reason to take whatever comes: it may be from before a withdrawal."""
    kept, told = kept_by(office, tmp_path / "acme"), []
    results = RunResults(None, None, lambda kind, facts: told.append((kind, facts.get("code"))))  # type: ignore[arg-type]
    results.take_status = kept.take
    good = office.registry.status()
    for damaged in (b"{}", good[:-9], b"["):
        (tmp_path / "acme" / status.FILE).write_bytes(damaged)
        assert code(lambda: kept.take(good), IntegrityError) == "kept_status_damaged"
        results.status(StatusNotice(good))
        assert told.pop() == ("alarm", "kept_status_damaged")
        assert kept.document() == damaged
    (tmp_path / "acme" / status.FILE).unlink()
    results.status(StatusNotice(good))
    assert [kind for kind, _ in told] == ["status"]
    assert kept.document() == good


def test_the_longest_list_fits_and_a_longer_one_is_not_made(
    office: ReleaseOffice, monkeypatch: pytest.MonkeyPatch
) -> None:
    key, now = PrivateKey(b"k" * 32), 2**53 - 1
    models = tuple(
        status.Listed(ModelRef(number.to_bytes(32, "big"), RunId("r" * 64), now, b"h" * 32), Stage.WITHDRAWN, now)
        for number in range(status.MAX_LISTED)
    )
    longest = status.StatusList(FederationId("f" * 64), now, now, now, now, now, b"h" * 32, models)
    document = status.to_file(longest, key, bytes(MAX_DOCUMENT))
    assert len(longest.to_bytes()) <= MAX_DOCUMENT
    assert len(document) <= MAX_STATUS
    assert status.contents(document) == longest
    monkeypatch.setattr(status, "MAX_LISTED", 0)
    office.candidate()
    office.countersign(*FIVE)
    call = lambda: office.registry.promote(RUN, Stage.RELEASED, OPERATOR, "")  # noqa: E731
    assert code(call, ConfigError) == "registry_full"
    assert len(office.store.stages.statements()) == 1


def test_lists_that_do_not_parse_are_refused(office: ReleaseOffice) -> None:
    office.released()
    document = office.registry.status()
    outer = json.loads(document)
    inner = json.loads(outer["status"])

    def verdict(**changes: object) -> str:
        body = jcs.dumps({**inner, **changes})
        sig = signing.sign_bytes(office.key, "registry/status", body).hex()
        text = jcs.dumps({**outer, "status": body.decode(), "sig": sig})
        return code(lambda: status.read(text, office.fingerprint))

    (model,) = inner["models"]
    assert verdict(models=[model, model]) == "bad_document"
    assert verdict(models=[{**model, "stage": "draft"}]) == "bad_document"
    assert verdict(models=[{**model, "stage": "gone"}]) == "bad_document"
    assert verdict(models=[{**model, "more": 1}]) == "bad_document"
    assert verdict(sequence=0) == "bad_document"
    assert verdict(not_after_s=-1) == "bad_document"
    assert verdict(more=1) == "bad_document"
    as_of = inner["as_of_s"]
    assert verdict(not_after_s=as_of + status.VALID_S + 1) == "status_valid_too_long"
    bad = jcs.dumps({**outer, "trust_chain": "?"})
    assert code(lambda: status.read(bad, office.fingerprint)) == "bad_document"
    assert code(lambda: status.read(b" " * (3 * 1024 * 1024 + 1), office.fingerprint)) == "bad_document"


def test_the_highest_number_of_a_stolen_key_holds_up_no_later_coordinator(
    office: ReleaseOffice, tmp_path: Path
) -> None:
    """Whoever had the key could number a list so high that none could follow it: participants would have refused every
    list of the coordinator that governance named next, and gone on with what that withdrew.
    """
    kept = kept_by(office, tmp_path / "acme")
    office.released()
    kept.take(office.registry.status())
    highest = rewritten(office.registry.status(), office, sequence=jcs.MAX_INTEGER)
    kept.take(highest)
    assert code(lambda: kept.take(office.registry.status())) == "status_rollback", "who has the key is believed"
    office.store.stages.renew(stages.KeptStatus(jcs.MAX_INTEGER, highest))  # it had the database too
    after = office.handed_over()
    later = KeptStatus(tmp_path / "acme", lambda: after.trust.trust)
    after.registry.withdraw(RUN, OPERATOR, "wrong units")
    found = later.take(after.registry.status())
    assert found.sequence < jcs.MAX_INTEGER
    assert [one.stage for one in found.models] == [Stage.WITHDRAWN]
    assert code(lambda: later.take(highest)) == "status_not_in_force"
    assert code(lambda: status.check_follows(found, status.contents(highest))) == "status_rollback"


def test_no_list_is_signed_or_kept_that_is_good_for_longer(
    office: ReleaseOffice, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither by a coordinator that counts otherwise, nor by a participant that is sent one: what is kept stays."""
    kept = kept_by(office, tmp_path / "acme")
    kept.take(office.registry.status())
    before = kept.document()
    longer = replace(status.contents(before), sequence=office.list().sequence + 1, not_after_s=2**52)
    assert code(lambda: status.to_file(longer, office.key, office.trust.trust_chain)) == "status_valid_too_long"
    with monkeypatch.context() as careless:
        careless.setattr(status, "VALID_S", 2**52)
        document = status.to_file(longer, office.key, office.trust.trust_chain)
        status.read(document, office.fingerprint)
    assert code(lambda: kept.take(document)) == "status_valid_too_long"
    assert kept.document() == before


def test_two_branches_of_trust_are_a_fork(office: ReleaseOffice) -> None:
    one = office.handed_over()
    key = office.cluster.charter.member_keys[FIVE[1]]
    before = one.trust.trust.last
    branch = replace(before, coordinator=signing.public_key(key))
    first = decode_chain(office.trust.trust_chain)
    chain = encode_chain([*first, sign_trust(branch, [office.cluster.charter.governance_key])])
    other = verify_chain(chain, office.fingerprint)
    assert code(lambda: status.read(one.registry.status(), office.fingerprint, [other])) == "trust_fork"


def test_a_chain_has_one_text(office: ReleaseOffice) -> None:
    """Base64 leaves bits over at its end, and a reader that does not look takes four texts for one chain."""
    outer = json.loads(office.handed_over().registry.status())
    outer["trust_chain"] = with_stray_bits(outer["trust_chain"])
    assert code(lambda: status.read(jcs.dumps(outer), office.fingerprint)) == "bad_document"


def test_members_are_told_when_they_connect_and_after_a_decision(office: ReleaseOffice, tmp_path: Path) -> None:
    cluster, acme = office.cluster, FIVE[0]
    member = cluster.members[acme]
    assert member.driver is not None
    kept = kept_by(office, tmp_path / "acme")
    told: list[tuple[str, dict[str, str]]] = []
    member.driver.listeners.append(lambda kind, facts: told.append((kind, dict(facts))))
    member.driver.results.take_status = kept.take
    office.clock.now += DAY
    cluster.coordinator.publish_status()
    cluster.settle()
    assert status.contents(kept.document()) == office.list()
    old = office.registry.status()
    office.registry.withdraw(RUN, OPERATOR, "wrong units")
    cluster.coordinator.publish_status()
    cluster.settle()
    assert ("status", {"sequence": str(office.list().sequence), "withdrawn": RUN}) in told
    member.driver._message(member.driver._session, StatusNotice(old))
    assert ("alarm", "status_rollback") in [(kind, facts.get("code")) for kind, facts in told]
    assert status.contents(kept.document()) == office.list()
    sent = len(cluster.sent)
    member.driver.reopen_session()
    cluster.settle()
    notices = [wire.parse_coordinator(one.data) for one in cluster.sent[sent:] if one.outward and one.org_id == acme]
    assert [one for one in notices if isinstance(one, StatusNotice)] == [StatusNotice(office.registry.status())]


def test_a_member_is_asked_before_it_vouches(tmp_path: Path) -> None:
    """The end of the run is told again at each session until the owner has decided."""
    files, said, told = CountersignatureFiles(tmp_path), [], []
    key = PrivateKey(b"k" * 32)
    blob = signing.sign(key, FIVE[0], BlobType.COUNTERSIGNATURE, b"{}")

    class Journal:
        put_countersignature = staticmethod(files.put)
        countersignature = staticmethod(files.get)
        countersignature_held = staticmethod(files.held)

    class Link:
        send = staticmethod(said.append)

    results = RunResults(Journal(), Link(), lambda kind, facts: told.append(kind))  # type: ignore[arg-type]
    files.put(RUN, blob, held=True)
    results.acknowledge(RUN)
    assert (said, told, files.waiting()) == ([], ["countersign_asks"], [RUN])
    files.decide(RUN, sign=True)
    assert code(lambda: files.decide(RUN, sign=True), ConfigError) == "not_held"
    files.put(RUN, blob, held=True)
    results.acknowledge(RUN)
    assert said == [blob, RunEndedAck(RUN)]
    files.put(OTHER, blob, held=True)
    files.put(OTHER, blob, held=False)  # its owner is not asked any more
    assert {path.name for path in (tmp_path / "countersignatures").iterdir()} == {
        f"{OTHER}.signed",
        f"{RUN}.signed",
    }
    assert (files.waiting(), files.get(OTHER)) == ([], (blob,))
    (tmp_path / "countersignatures" / f"{OTHER}.held").write_bytes(b"left by a crash")
    assert files.waiting() == []
    files.put(OTHER, blob, held=True)
    assert not (tmp_path / "countersignatures" / f"{OTHER}.held").exists()
    (tmp_path / "countersignatures" / f"{OTHER}.signed").unlink()
    files.put(OTHER, blob, held=True)
    files.decide(OTHER, sign=False)
    results.acknowledge(OTHER)
    assert said[2:] == [RunEndedAck(OTHER)], "declined: nothing but the acknowledgement"
    assert code(lambda: files.held(RunId("../x")), ConfigError) == "bad_name"
