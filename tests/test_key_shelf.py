"""Published keys: checked as a participant checks them, kept epoch by epoch, one run for each."""

import contextlib
import pathlib
import sqlite3
from collections.abc import Callable, Iterator

import pytest
from enrolment_office import Office, join, open_office
from fedveil_common import plan as plans
from fedveil_common.errors import ConfigError, FedveilError, IntegrityError, PeerError
from fedveil_common.ids import OrgId, RunId
from fedveil_common.paillier import key_terms, modulus_record
from fedveil_common.paillier.holder_key import HolderKey
from fedveil_common.paillier.key_record import KeyRecord
from fedveil_common.paillier.key_terms import KeyTerms
from fedveil_common.paillier.key_use import use_of
from fedveil_coordinator import facts
from fedveil_coordinator.driver import Driver
from fedveil_coordinator.key_shelf import KeyShelf
from fedveil_coordinator.operations import Operations
from fedveil_coordinator.registry import Registry
from fedveil_coordinator.store import CoordinatorStore, open_store, tables
from fedveil_simulation.ports import SeededEntropy, SimulatedClock
from paillier_holders import Renewal, Table, holders_of, terms_of

from tests.processes import plan_text


@pytest.fixture(scope="module")
def keys() -> list[HolderKey]:
    """Epoch 0 of a key that any 2 of 3 use; what each holder keeps."""
    return Table(holders_of(terms_of(3, 2))).play().finished()


@pytest.fixture(scope="module")
def epochs(keys: list[HolderKey]) -> list[bytes]:
    """The records of three epochs."""
    one = list(Renewal(keys).play().refreshed().values())
    two = list(Renewal(one).play().refreshed().values())
    return [key.record.to_bytes() for key in (keys[0], one[0], two[0])]


@pytest.fixture
def store(tmp_path: pathlib.Path) -> Iterator[CoordinatorStore]:
    with contextlib.closing(open_store(tmp_path / "home", SimulatedClock(), create=True)) as made:
        yield made


def terms(keys: list[HolderKey]) -> bytes:
    return KeyTerms(modulus_record.adopt_rsa_2048(1), keys[0].holders).encode()


def members(keys: list[HolderKey]) -> set[tuple[OrgId, bytes]]:
    holders = keys[0].holders
    return set(zip(holders.terms.holders, holders.keys, strict=True))


def code_of(call: Callable[[], object], kind: type[FedveilError]) -> str:
    with pytest.raises(kind) as refused:
        call()
    assert refused.value.not_done
    return refused.value.code


def test_epochs_come_one_after_the_other(store: CoordinatorStore, keys: list[HolderKey], epochs: list[bytes]) -> None:
    shelf, document, known = KeyShelf(store.keys), terms(keys), members(keys)

    def publish(record: bytes) -> int:
        return shelf.publish(document, record, "fed", known).epoch

    assert code_of(lambda: shelf.current("key-1"), ConfigError) == "no_such_key"
    assert code_of(lambda: shelf.use("key-1"), ConfigError) == "no_such_key"
    assert code_of(lambda: shelf.public(bytes(32)), ConfigError) == "no_such_key"
    assert code_of(lambda: publish(epochs[1]), PeerError) == "wrong_key_epoch"
    assert (publish(epochs[0]), publish(epochs[0])) == (0, 0)
    assert code_of(lambda: publish(epochs[2]), PeerError) == "wrong_key_epoch"
    assert (publish(epochs[1]), publish(epochs[0])) == (1, 0)  # what is there already changes nothing
    assert shelf.current("key-1").epoch == 1
    fingerprint = keys[0].public.fingerprint
    for one in (shelf, KeyShelf(store.keys)):  # and after a restart
        assert one.use("key-1") == one.current("key-1").use
        assert one.current("key-1").record.to_bytes() == epochs[1]
        assert (one.at(fingerprint).epoch, one.at(fingerprint).use) == (0, use_of(keys[0].public))
        assert one.public(fingerprint).columns == keys[0].public.columns
        assert one.documents(fingerprint) == (document, epochs[0])
        assert [key.epoch for key in one.newest()] == [1]
    audit = [row for row in store.records.audit_rows() if row.what == "key.published"]
    assert [(row.detail["key"], row.detail["epoch"]) for row in audit] == [("key-1", "0"), ("key-1", "1")]
    assert audit[0].detail["fingerprint"] == fingerprint.hex()


def test_what_is_not_published(store: CoordinatorStore, keys: list[HolderKey], epochs: list[bytes]) -> None:
    shelf, document, known = KeyShelf(store.keys), terms(keys), members(keys)
    first = KeyRecord.from_bytes(epochs[0])
    few = KeyRecord(first.holders, 0, first.lists, dict(list(first.signatures.items())[:2])).to_bytes()
    swapped = dict(zip(first.signatures, reversed(first.signatures.values()), strict=True))
    forged = KeyRecord(first.holders, 0, first.lists, swapped).to_bytes()
    others = Table(holders_of(terms_of(3, 3))).play().finished()
    for record, code in (
        (few, "too_few_key_signatures"),
        (forged, "bad_signature"),
        (epochs[0][:-1], "bad_key_message"),
        (others[0].record.to_bytes(), "other_key_root"),
    ):
        assert code_of(lambda record=record: shelf.publish(document, record, "fed", known), PeerError) == code  # type: ignore[misc]
    assert code_of(lambda: shelf.publish(document[:-1], epochs[0], "fed", known), PeerError) == "bad_document"
    assert code_of(lambda: shelf.publish(document, epochs[0], "other", known), ConfigError) == "other_federation"
    with pytest.raises(ConfigError) as refused:  # a holder that joined again has another protocol key
        shelf.publish(document, epochs[0], "fed", {*sorted(known)[:2], (OrgId("holder-2"), bytes(32))})
    assert refused.value.code == "holder_not_listed"
    assert "holder-2" in refused.value.what
    assert "holder-1" not in refused.value.what
    assert store.keys.every() == []
    shelf.publish(document, epochs[0], "fed", known)
    again = others[0].record.to_bytes()
    assert code_of(lambda: shelf.publish(terms(others), again, "fed", members(others)), PeerError) == "other_key_root"


def test_a_stored_key_that_changed_is_not_used(
    store: CoordinatorStore, keys: list[HolderKey], epochs: list[bytes]
) -> None:
    shelf = KeyShelf(store.keys)
    shelf.publish(terms(keys), epochs[0], "fed", members(keys))
    (stored,) = store.keys.every()
    for change in ({"terms": stored.terms[:-1]}, {"record": stored.record[:-1]}, {"record": stored.record[:-1] + b"x"}):
        values = {"terms": stored.terms, "record": stored.record} | change
        with store.database.write() as connection:
            tables.KEYS.change(connection, {"key_id": "key-1"}, **values)
        damaged = KeyShelf(store.keys).current("key-1")
        assert code_of(lambda key=damaged: key.public, IntegrityError) == "published_key_damaged"  # type: ignore[misc]


def test_a_database_from_before_keys_were_published(tmp_path: pathlib.Path) -> None:
    open_store(tmp_path / "home", SimulatedClock(), create=True).close()
    with contextlib.closing(sqlite3.connect(tmp_path / "home" / "coordinator.db")) as database:
        for table in ("keys", "stages", "status", "countersignatures"):
            database.execute(f"DROP TABLE {table}")
        database.execute("UPDATE alembic_version SET version_num = 'renewals'")
        database.commit()
    with contextlib.closing(open_store(tmp_path / "home", SimulatedClock())) as store:
        assert KeyShelf(store.keys).newest() == []


# --- runs under a published key ----------


class Unread:
    """In the place of the class `KeyRecord`: reading gives one record, whatever the bytes."""

    def __init__(self, record: KeyRecord) -> None:
        self.from_bytes = lambda data: record


class Desk:
    """What `Operations` asks of a driver: work on its thread, and a new run."""

    active = None
    waiting: tuple[object, ...] = ()
    connected_members: tuple[OrgId, ...] = ()

    def __init__(self, store: CoordinatorStore) -> None:
        self._store = store

    def call(self, work: Callable[[], None]) -> None:
        work()

    def start_run(self, run_id: RunId, canonical: bytes) -> None:
        self._store.journal.create_run(run_id, canonical, 0.0)


@pytest.fixture
def office(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Office]:
    with open_office(tmp_path) as made:
        yield made


def operations_of(office: Office) -> Operations:
    driver: Driver = Desk(office.store)  # type: ignore[assignment]
    shelf = KeyShelf(office.store.keys)
    registry: Registry = None  # type: ignore[assignment]  # no model is asked for here
    entropy = SeededEntropy(1, "ops")
    return Operations(
        driver, office.store, office.in_force, office.allowed, office.clock, entropy, "x", shelf, registry
    )


def plan_under(key_id: str, seed: int = 7) -> bytes:
    text = plan_text(seed=seed).replace("kind: masked", f"kind: paillier, key: {key_id}")
    return plans.canonical(plans.parse_plan(text.encode(), "plan.yaml"))


def holders_that_join(office: Office, folder: pathlib.Path) -> KeyTerms:
    """Two organisations join; the terms of a key of theirs, which nobody makes."""
    for number, org in enumerate(("acme", "borealis")):
        join(office, folder / org, office.invite(org), seed=10 + number)
    return terms_of_members(office)


def terms_of_members(office: Office) -> KeyTerms:
    keys = {row.org_id: row.protocol_key for row in office.store.members.members() if row.role == "participant"}
    return key_terms.agree(modulus_record.adopt_rsa_2048(1), office.federation.federation_id, "icu-1", keys, 2, 2)


def test_one_epoch_serves_one_run(
    office: Office, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, keys: list[HolderKey]
) -> None:
    agreed = holders_that_join(office, tmp_path)
    operations = operations_of(office)
    assert code_of(lambda: operations.start_run(plan_under("icu-1")), ConfigError) == "no_such_key"
    assert operations.start_run(plans.canonical(plans.parse_plan(plan_text().encode(), "plan.yaml")))
    monkeypatch.setattr("fedveil_common.paillier.key_record.verify", lambda record, root: keys[0].public)
    made = KeyRecord(
        agreed.holders, 0, keys[0].record.lists, keys[0].record.signatures
    )  # nobody made a key of these holders
    monkeypatch.setattr("fedveil_coordinator.key_shelf.KeyRecord", Unread(made))
    assert operations.publish_key(agreed.encode(), b"record")["epoch"] == 0
    (shown,) = operations.status()["keys"]
    assert (shown["id"], shown["threshold"], shown["holders"]) == ("icu-1", 2, ["acme", "borealis"])
    assert code_of(lambda: operations.start_run(plan_under("icu-1")), ConfigError) == "holder_not_listed"
    office.next_roster()
    first = operations.start_run(plan_under("icu-1"))

    def second() -> str:
        return code_of(lambda: operations.start_run(plan_under("icu-1", 8)), ConfigError)

    assert second() == "key_epoch_used"  # the first one waits for it
    use = use_of(keys[0].public)
    opened = facts.RunOpened(plan_under("icu-1"), (), (use,))
    office.store.journal.append(first, [(facts.kind_of(opened), facts.encode(opened))])
    office.store.journal.set_status(first, "ended", "finished")
    assert second() == "key_epoch_used"  # and used it
    consented = operations.start_run(plan_under("icu-1", 8), reuse_key_epoch=True)
    office.store.journal.set_status(consented, "ended", "aborted_by_operator")  # it was never opened
    monkeypatch.setattr(operations._shelf.current("icu-1"), "fingerprint", bytes(32))  # as of the next epoch
    assert operations.start_run(plan_under("icu-1", 9))


def test_who_joined_again_or_was_revoked_holds_no_key(office: Office, tmp_path: pathlib.Path) -> None:
    agreed = holders_that_join(office, tmp_path)
    operations = operations_of(office)
    known = set(zip(agreed.terms.holders, agreed.holders.keys, strict=True))
    assert operations._members(operations._roster()) == known  # before the first roster that lists them
    office.next_roster()
    assert operations._members(operations._roster()) == known
    office.store.members.revoke(OrgId("acme"), "left", 1.0)
    assert operations._members(operations._roster()) == {one for one in known if one[0] != "acme"}
    join(office, tmp_path / "again", office.invite("borealis", rekey=True), seed=20)
    ((org, key),) = operations._members(operations._roster())
    assert (org, (org, key) in known) == ("borealis", False)
