"""What the coordinator keeps: round trips, one transaction an effect, kills, damage.

Rows 3, 4, 15, 18, 19, 20 and 55 of the fault list, as far as the storage alone answers for them.
"""

import contextlib
import hashlib
import os
import pathlib
import signal
import sqlite3
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import sqlalchemy as sa
from fedveil_common.errors import ConfigError, FedveilError, PeerError, StorageError
from fedveil_common.ids import AttemptKey, OrgId, RunId
from fedveil_common.leafshape import RingShape
from fedveil_common.leafspool import Announced
from fedveil_common.masking.ring import Ring
from fedveil_common.messages import SumRef
from fedveil_common.ports import LeafSink, LeafSource, LeafSpool
from fedveil_common.ringfile import residues
from fedveil_coordinator.enrollment import EnrolmentStore
from fedveil_coordinator.ports import Journal
from fedveil_coordinator.store import CoordinatorStore, open_store
from fedveil_coordinator.store.journal import CoordinatorJournal
from fedveil_coordinator.store.members import Certificate, Invite
from fedveil_simulation.journals import CoordinatorMemory
from fedveil_simulation.ports import SimulatedClock
from hypothesis import given, settings
from hypothesis import strategies as st

RUN, OTHER = RunId("run-1"), RunId("run-2")
ACME, BETA = OrgId("acme"), OrgId("beta")
KEY = AttemptKey(RUN, 1, 1)
LEAF = bytes(range(256)) * 256

Open = Callable[..., CoordinatorStore]


@pytest.fixture
def opened(tmp_path: pathlib.Path) -> Iterator[Open]:
    stores: list[CoordinatorStore] = []

    def make(*, create: bool = False) -> CoordinatorStore:
        stores.append(open_store(tmp_path / "home", SimulatedClock(), create=create))
        return stores[-1]

    yield make
    for store in stores:
        store.close()


def reopen(store: CoordinatorStore, opened: Open) -> CoordinatorStore:
    store.close()
    return opened()


def spool(store: CoordinatorStore, key: AttemptKey, org: OrgId, *leaves: bytes) -> None:
    spool_into(store.journal, key, org, *leaves)


def spool_into(journal: CoordinatorJournal | CoordinatorMemory, key: AttemptKey, org: OrgId, *leaves: bytes) -> None:
    fill(journal.spool(key, org, announced(*leaves)), *leaves)


def fill(writer: LeafSpool, *leaves: bytes) -> None:
    """What is missing of a spool arrives."""
    with contextlib.closing(writer):
        for index, leaf in enumerate(leaves):
            if index >= writer.first_missing:
                writer.write(index, leaf)
        writer.finish()


def announced(*leaves: bytes, identity: bytes = b"") -> Announced:
    """A sender's commitment to these leaves."""
    digest = hashlib.sha256(identity + b"".join(leaves)).digest()
    return Announced(RingShape(sum(map(len, leaves)) // 4, 32), digest, lambda index, data: data == leaves[index])


def whole_input(journal: Journal, key: AttemptKey, org: OrgId) -> Ring:
    with contextlib.closing(journal.open_input(key, org)) as source:
        leaves: list[Any] = [residues(source, index) for index in range(source.leaves)]
        return np.concatenate(leaves)


def has_input(store: CoordinatorStore, key: AttemptKey, org: OrgId) -> bool:
    return store.journal.spool_path(key, org).exists()


def certificate(serial: str, org: OrgId = ACME) -> Certificate:
    return Certificate(serial, org, "participant", b"spki" + serial.encode(), b"pem" + serial.encode(), 2e9)


def invite(token: bytes, org: OrgId = ACME) -> Invite:
    return Invite(token, org, "participant", 2e9, b"signed" + token)


# --- the journal ------------------------------------------------------------------------------------------------------


def test_the_stores_are_what_driver_and_enrolment_ask_for(opened: Open) -> None:
    store = opened(create=True)
    journal: Journal = store.journal
    members: EnrolmentStore = store.members
    assert journal.facts(RUN) == []
    assert list(members.members()) == []


def test_facts_come_back_in_order_by_run(opened: Open) -> None:
    store = opened(create=True)
    store.journal.append(RUN, [("Offered", b"1"), ("Advert", b"2")])
    store.journal.append(OTHER, [("Offered", b"x")])
    store.journal.append(RUN, [])
    store.journal.append(RUN, [("Ended", b"\x00\xff")])
    store = reopen(store, opened)
    assert store.journal.facts(RUN) == [("Offered", b"1"), ("Advert", b"2"), ("Ended", b"\x00\xff")]
    assert store.journal.facts(OTHER) == [("Offered", b"x")]


def test_runs_deliveries_and_answers(opened: Open) -> None:
    store = opened(create=True)
    store.journal.create_run(OTHER, b"plan b", 5.0, who="alice")
    store.journal.create_run(RUN, b"plan a", 6)
    with pytest.raises(ConfigError) as caught:
        store.journal.create_run(RUN, b"plan c", 7.0)
    assert caught.value.code == "run_exists"
    assert store.journal.unfinished() == [(OTHER, b"plan b"), (RUN, b"plan a")]
    store.journal.set_status(OTHER, "running", "")
    store.journal.set_status(OTHER, "ended", "finished")
    store.journal.owe(OTHER, (ACME, BETA))
    store.journal.owe(OTHER, (ACME,))
    store.journal.delivered(OTHER, BETA)
    store.journal.save_answer(b"q" * 32, SumRef(RUN, 1, b"h" * 32))
    store.journal.save_answer(b"q" * 32, SumRef(OTHER, 9, b"z" * 32))
    store = reopen(store, opened)
    assert store.journal.unfinished() == [(RUN, b"plan a")]
    run = store.journal.run(OTHER)
    assert (run.canonical_plan, run.created_s, run.status, run.code) == (b"plan b", 5.0, "ended", "finished")
    assert [row.run_id for row in store.journal.runs()] == [OTHER, RUN]
    assert (store.journal.owed(ACME), store.journal.owed(BETA)) == ([OTHER], [])
    assert store.journal.answer(b"q" * 32) == SumRef(RUN, 1, b"h" * 32)
    assert store.journal.answer(b"r" * 32) is None
    for call in (
        lambda: store.journal.run(RunId("none")),
        lambda: store.journal.set_status(RunId("none"), "ended", ""),
    ):
        with pytest.raises(ConfigError) as caught:
            call()
        assert caught.value.code == "unknown_run"


def test_inputs_and_sums(opened: Open) -> None:
    store = opened(create=True)
    tail = np.arange(3, dtype="<u4").tobytes()
    spool(store, KEY, ACME, LEAF, tail)
    spool(store, KEY, BETA, tail)
    spool(store, AttemptKey(RUN, 1, 11), ACME, tail)
    expected = np.frombuffer(LEAF + tail, dtype="<u4")
    total = store.journal.new_sum(RUN, 1, len(expected), 32)
    total.write(1, tail)
    total.write(0, LEAF)
    total.finish(replace=True)
    store = reopen(store, opened)
    journal = store.journal
    assert np.array_equal(whole_input(journal, KEY, ACME), expected)
    assert np.array_equal(journal.read_sum(RUN, 1), expected.view("<i4"))
    assert has_input(store, KEY, BETA)
    journal.discard_inputs(KEY)
    journal.discard_inputs(KEY)
    assert [has_input(store, KEY, org) for org in (ACME, BETA)] == [False, False]
    assert has_input(store, AttemptKey(RUN, 1, 11), ACME)
    with pytest.raises(StorageError) as caught:
        journal.open_input(KEY, ACME)
    assert caught.value.code == "ring_file_missing"


RUNS, ORGS = st.sampled_from([RUN, OTHER]), st.sampled_from([ACME, BETA])
KEYS = st.builds(AttemptKey, RUNS, st.integers(1, 2), st.integers(1, 2))
DIGESTS = st.sampled_from([b"q" * 32, b"r" * 32])
QUORUMS = st.sampled_from([(0, 1), (0, 2)])
SOME_ORGS = st.lists(ORGS, max_size=2, unique=True).map(tuple)
BODIES = st.sampled_from([b"\x01\x00\x00\x00", b"\xff" * 12, LEAF, LEAF + b"\x07\x00\x00\x00"])

# (method of the journal, its arguments); `write_...` stands for a vector that is made and finished
OPERATIONS = st.one_of(
    st.tuples(
        st.just("append"),
        st.tuples(RUNS, st.lists(st.tuples(st.sampled_from(["ab", "c"]), st.binary(max_size=3)), max_size=3)),
    ),
    st.tuples(st.just("set_status"), st.tuples(RUNS, st.sampled_from(["waiting", "running"]), st.just(""))),
    st.tuples(st.just("set_status"), st.tuples(st.just(OTHER), st.just("ended"), st.just("finished"))),
    st.tuples(st.just("owe"), st.tuples(RUNS, st.lists(ORGS, max_size=3).map(tuple))),
    st.tuples(st.just("delivered"), st.tuples(RUNS, ORGS)),
    st.tuples(st.just("save_answer"), st.tuples(DIGESTS, st.builds(SumRef, RUNS, st.integers(1, 2), DIGESTS))),
    st.tuples(st.just("write_sum"), st.tuples(RUNS, st.integers(1, 2), BODIES)),
    st.tuples(st.just("write_input"), st.tuples(KEYS, ORGS, BODIES)),
    st.tuples(st.just("write_answer"), st.tuples(KEYS, ORGS, QUORUMS, BODIES)),
    st.tuples(st.just("write_product"), st.tuples(KEYS, BODIES)),
    st.tuples(st.just("discard_inputs"), st.tuples(KEYS)),
    st.tuples(st.just("keep_inputs"), st.tuples(KEYS, SOME_ORGS)),
    st.tuples(st.just("keep_inputs"), st.tuples(KEYS, SOME_ORGS, QUORUMS, SOME_ORGS)),
)


def outcome(store: CoordinatorStore | CoordinatorMemory, name: str, arguments: tuple[Any, ...]) -> object:
    """What the caller of one operation sees: a value, or the code of a refusal."""
    journal = store.journal if isinstance(store, CoordinatorStore) else store
    try:
        if name.startswith("write_"):
            *place, body = arguments
            leaves = [body[at : at + len(LEAF)] for at in range(0, len(body), len(LEAF))]
            if name == "write_input":
                return spool_into(journal, *place, *leaves)
            if name == "write_answer":
                return fill(journal.spool_answer(*place, announced(*leaves)), *leaves)
            if name == "write_sum":
                return write(journal.new_sum(*place, len(body) // 4, 32), *leaves, replace=True)
            return write(journal.new_product(*place, RingShape(len(body) // 4, 32)), *leaves)
        return getattr(journal, name)(*arguments)
    except FedveilError as error:
        return error.code


def write(sink: LeafSink, *leaves: bytes, replace: bool = False) -> None:
    for index, leaf in enumerate(leaves):
        sink.write(index, leaf)
    sink.finish(replace=replace)


def content(source: LeafSource) -> tuple[object, ...]:
    """The shape of a vector, and its leaves."""
    with contextlib.closing(source):
        return source.shape, *(bytes(source.packed(index)) for index in range(source.leaves))


def held(store: CoordinatorStore | CoordinatorMemory, memory: CoordinatorMemory) -> dict[str, object]:
    """Everything that a restart would find; files are looked for where `memory` has them. The inputs of a run that
    ended are left out: the durable journal removes them at once.
    """
    journal = store.journal if isinstance(store, CoordinatorStore) else store
    unfinished = journal.unfinished()
    running = {run for run, _ in unfinished}
    return {
        "facts": [journal.facts(run) for run in (RUN, OTHER)],
        "unfinished": unfinished,
        "owed": [journal.owed(org) for org in (ACME, BETA)],
        "answer": [journal.answer(digest) for digest in (b"q" * 32, b"r" * 32)],
        "sums": {place: journal.read_sum(*place).tobytes() for place in memory.sums},
        "inputs": {
            (key, org): whole_input(journal, key, org).tobytes() for key, org in memory.inputs if key.run_id in running
        },
        "products": {key: content(journal.open_product(key)) for key in memory.products if key.run_id in running},
        "answers": {
            place: content(journal.open_answer(*place)) for place in memory.decryptions if place[0].run_id in running
        },
        "kept": [
            {place: content(journal.kept_input(*place)) for place in memory.kept},
            {place: content(journal.kept_product(*place)) for place in memory.kept_products},
            {place: content(journal.kept_answer(*place)) for place in memory.kept_decryptions},
        ],
    }


@settings(max_examples=100)
@given(operations=st.lists(OPERATIONS, max_size=12))
def test_the_journal_does_what_its_twin_in_memory_does(
    tmp_path_factory: pytest.TempPathFactory, operations: list[tuple[str, tuple[Any, ...]]]
) -> None:
    home, twin = tmp_path_factory.mktemp("twin"), CoordinatorMemory()
    store = open_store(home, SimulatedClock(), create=True)
    for journal in (store.journal, twin):
        for run in (OTHER, RUN):
            journal.create_run(run, b"plan of " + run.encode(), 1.0)
    over = False
    for name, arguments in operations:
        if over and OTHER in (arguments[0], getattr(arguments[0], "run_id", "")):
            continue  # nothing speaks of a run after its end
        assert outcome(store, name, arguments) == outcome(twin, name, arguments)
        over = over or (name == "set_status" and arguments[1] == "ended")
    assert held(store, twin) == held(twin, twin)
    expected = {
        **{(key, org): str(org) for key, org in twin.inputs},
        **{(key,): "+product" for key in twin.products},
        **{place: f"{place[1]}+answer-{place[2][0]}-{place[2][1]}" for place in twin.decryptions},
    }
    assert {path.name for path in (home / "spool").iterdir()} == {
        f"{key.run_id}.{key.round}.{key.attempt}.{name}"
        for (key, *_), name in expected.items()
        if not (over and key.run_id == OTHER)
    }
    kept = [
        *(f"{run}.{number}.{org}" for run, number, org in twin.kept),
        *(f"{run}.{number}.+product" for run, number in twin.kept_products),
        *(f"{run}.{number}.{org}+answer" for run, number, org in twin.kept_decryptions),
    ]
    assert sorted(path.name for path in (home / "inputs").iterdir()) == sorted(kept)
    store.close()
    again = open_store(home, SimulatedClock())
    assert held(again, twin) == held(twin, twin)
    again.close()


def test_a_second_input_cannot_replace_the_first(opened: Open) -> None:
    store = opened(create=True)
    spool(store, KEY, ACME, b"1234")
    spool(store, KEY, ACME, b"1234")
    with pytest.raises(PeerError) as caught:
        spool(store, KEY, ACME, b"4321")
    assert caught.value.code == "input_differs"
    assert whole_input(store.journal, KEY, ACME).tobytes() == b"1234"


def test_the_end_of_a_run_removes_its_inputs_and_no_others(opened: Open) -> None:
    store = opened(create=True)
    for run in (RUN, OTHER):
        store.journal.create_run(run, b"plan", 1.0)
        spool(store, AttemptKey(run, 2, 1), ACME, b"1234")
    store.journal.set_status(RUN, "ended", "model_spent")
    assert not has_input(store, AttemptKey(RUN, 2, 1), ACME)
    assert has_input(store, AttemptKey(OTHER, 2, 1), ACME)


# --- kills ------------------------------------------------------------------------------------------------------------


def killed(work: Callable[[], None]) -> None:
    """Runs `work` in a forked process, which must end by SIGKILL."""
    pid = os.fork()
    if pid == 0:
        try:
            work()
        finally:
            os._exit(1)
    assert os.WTERMSIG(os.waitpid(pid, 0)[1]) == signal.SIGKILL


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def die_at_commit(store: CoordinatorStore, number: int) -> None:
    """SIGKILL when write transaction `number` (from 1) is about to be committed."""
    seen = 0

    def commit(connection: sa.Connection) -> None:
        nonlocal seen
        seen += not connection.get_execution_options().get("fedveil_read_only", False)
        if seen == number:
            die()

    sa.event.listen(store.database.engine, "commit", commit)


EFFECTS: list[Callable[[CoordinatorStore], object]] = [
    lambda store: store.journal.create_run(RUN, b"plan", 1.0),
    lambda store: store.journal.append(RUN, [("a", b"1"), ("b", b"2")]),
    lambda store: store.journal.set_status(RUN, "running", ""),
    lambda store: store.members.register_invite(invite(b"t")),
    lambda store: store.members.record_join(b"t", b"key", b"proof", certificate("01")),
    lambda store: store.records.save_roster(1, b"roster"),
    lambda store: store.records.record_evidence(RUN, ACME, "bad", [b"blob"]),
    lambda store: store.members.revoke(ACME, "left", 5.0),
]
"""One write transaction each, in an order that makes sense."""


def seen_state(store: CoordinatorStore) -> list[object]:
    return [
        store.journal.runs(),
        store.journal.facts(RUN),
        store.members.invites(),
        store.members.members(),
        store.members.certificates(),
        store.records.rosters(),
        store.records.evidence(RUN),
        store.records.audit_rows(),
    ]


@pytest.mark.parametrize("moment", ["before commit", "after commit"])
@pytest.mark.parametrize("number", range(1, len(EFFECTS) + 1))
def test_a_kill_at_any_effect_keeps_it_whole_or_not_at_all(
    tmp_path: pathlib.Path, opened: Open, number: int, moment: str
) -> None:
    opened(create=True).close()
    complete = number - 1 if moment == "before commit" else number
    control = open_store(tmp_path / "control", SimulatedClock(), create=True)
    for effect in EFFECTS[:complete]:
        effect(control)
    expected = seen_state(control)
    control.close()

    def work() -> None:
        store = opened()
        if moment == "before commit":
            die_at_commit(store, number)
        for effect in EFFECTS[:number]:
            effect(store)
        die()

    killed(work)
    assert seen_state(opened()) == expected


def test_a_kill_while_a_sum_is_written_leaves_none(opened: Open) -> None:
    opened(create=True).close()

    def work() -> None:
        sink = opened().journal.new_sum(RUN, 1, 40_000, 32)
        sink.write(0, LEAF)
        die()

    killed(work)
    store = opened()
    with pytest.raises(StorageError) as caught:
        store.journal.read_sum(RUN, 1)
    assert caught.value.code == "ring_file_missing"
    sink = store.journal.new_sum(RUN, 1, 5, 32)
    sink.write(0, np.ones(5, dtype="<u4").tobytes())
    sink.finish(replace=True)
    assert store.journal.read_sum(RUN, 1).tolist() == [1] * 5


# --- members ----------------------------------------------------------------------------------------------------------


def test_an_invite_buys_one_membership(opened: Open) -> None:
    store = opened(create=True)
    store.members.register_invite(invite(b"t1"))
    with pytest.raises(ConfigError) as known:
        store.members.register_invite(invite(b"t1"))
    assert known.value.code == "invite_exists"
    first = store.members.record_join(b"t1", b"key1", b"proof", certificate("01"))
    store = reopen(store, opened)
    assert store.members.record_join(b"t1", b"key1", b"proof", certificate("02")) == first
    assert [one.serial for one in store.members.certificates()] == ["01"]
    for token, key, code in ((b"t1", b"key2", "token_used"), (b"t9", b"key2", "token_unknown")):
        with pytest.raises(PeerError) as caught:
            store.members.record_join(token, key, b"proof", certificate("03"))
        assert caught.value.code == code
    store.members.register_invite(invite(b"t2"))
    with pytest.raises(PeerError) as caught:
        store.members.record_join(b"t2", b"key2", b"proof", certificate("03"))
    assert caught.value.code == "already_member"
    assert [(one.org_id, one.protocol_key) for one in store.members.members()] == [(ACME, b"key1")]
    used = store.members.invite(b"t1")
    assert used is not None
    assert (used.used_by, used.serial) == (b"key1", "01")


def test_a_rekey_replaces_key_and_certificate(opened: Open) -> None:
    store = opened(create=True)
    for token in (b"t1", b"t2"):
        store.members.register_invite(invite(token))
    store.members.record_join(b"t1", b"key1", b"proof1", certificate("01"))
    store.members.record_join(b"t2", b"key2", b"proof2", certificate("02"), rekey=True)
    store = reopen(store, opened)
    (member,) = store.members.members()
    assert (member.protocol_key, member.proof, member.token_id, member.revoked_s) == (b"key2", b"proof2", b"t2", None)
    assert [one.revoked_s is None for one in store.members.certificates()] == [False, True]


def test_revocation_ends_the_certificates_once(opened: Open) -> None:
    store = opened(create=True)
    store.members.register_invite(invite(b"t1"))
    store.members.record_join(b"t1", b"key1", b"proof", certificate("01"))
    store.members.add_certificate(certificate("ff", OrgId("operator")))
    assert store.members.revoke(ACME, "left", 5.0) == ["01"]
    assert store.members.revoke(ACME, "again", 6.0) == []
    store = reopen(store, opened)
    (member,) = store.members.members()
    assert (member.revoked_s, member.reason) == (5.0, "left")
    assert {one.serial: one.revoked_s for one in store.members.certificates()} == {"01": 5.0, "ff": None}
    with pytest.raises(ConfigError) as caught:
        store.members.revoke(BETA, "who", 7.0)
    assert caught.value.code == "unknown_member"


# --- records ----------------------------------------------------------------------------------------------------------


def test_rosters_and_trust(opened: Open) -> None:
    store = opened(create=True)
    assert store.records.latest_roster() is None
    store.records.save_roster(1, b"one")
    store.records.save_roster(3, b"three")
    with pytest.raises(ConfigError) as caught:
        store.records.save_roster(3, b"another three")
    assert caught.value.code == "roster_not_newer"
    for document in (b"first", b"second"):
        store.records.save_trust(document)
    store = reopen(store, opened)
    assert store.records.latest_roster() == (3, b"three")
    assert store.records.rosters() == {1: b"one", 3: b"three"}
    assert store.records.trust_chain() == [b"first", b"second"]


def test_evidence_is_kept_with_its_blobs(opened: Open) -> None:
    store = opened(create=True)
    store.records.record_evidence(RUN, ACME, "equivocation", [b"one vote", b"another vote"])
    store = reopen(store, opened)
    (found,) = store.records.evidence(RUN)
    assert (found.org_id, found.code) == (ACME, "equivocation")
    assert [store.records.blob(digest) for digest in found.blobs] == [b"one vote", b"another vote"]
    assert store.records.evidence(OTHER) == []


def test_every_effect_has_its_audit_row(opened: Open) -> None:
    store = opened(create=True)
    for effect in EFFECTS:
        effect(store)
    store.records.audit("operator", "fingerprint", shown="yes")
    rows = reopen(store, opened).records.audit_rows()
    assert [row.what for row in rows] == [
        "run.created",
        "run.running",
        "invite",
        "join",
        "roster",
        "evidence",
        "revoke",
        "fingerprint",
    ]
    assert [row.seq for row in rows] == list(range(1, 9))
    assert (rows[3].who, rows[3].detail["serial"]) == (ACME, "01")
    assert (rows[7].who, rows[7].detail) == ("operator", {"shown": "yes"})


AUDITED = [effect for number, effect in enumerate(EFFECTS) if number != 1]  # facts are a log themselves


@pytest.mark.parametrize("number", range(len(AUDITED)))
def test_no_effect_without_its_audit_row(opened: Open, number: int) -> None:
    """An audit log that cannot be written stops the effect."""
    store = opened(create=True)
    for effect in AUDITED[:number]:
        effect(store)
    before = seen_state(store)
    with store.database.write() as connection:
        connection.exec_driver_sql(
            "CREATE TRIGGER audit_is_full BEFORE INSERT ON audit BEGIN SELECT RAISE(ABORT, 'full'); END"
        )
    with pytest.raises(sa.exc.IntegrityError):
        AUDITED[number](store)
    assert seen_state(store) == before


@pytest.mark.parametrize("table", ["facts", "audit", "evidence"])
@pytest.mark.parametrize("statement", ["UPDATE {} SET seq = seq + 100", "DELETE FROM {}"])
def test_the_past_cannot_be_changed(opened: Open, tmp_path: pathlib.Path, table: str, statement: str) -> None:
    """Not even by another program that opens the file."""
    store = opened(create=True)
    for effect in EFFECTS:
        effect(store)
    store.close()
    connection = sqlite3.connect(tmp_path / "home/coordinator.db")
    with pytest.raises(sqlite3.IntegrityError, match="append-only"):
        connection.execute(statement.format(table))
    connection.close()


def test_a_lost_database_beside_its_blobs_is_not_a_new_one(opened: Open, tmp_path: pathlib.Path) -> None:
    store = opened(create=True)
    store.records.record_evidence(RUN, ACME, "bad", [b"blob"])
    store.close()
    (tmp_path / "home/coordinator.db").unlink()
    with pytest.raises(FedveilError) as caught:
        opened()
    assert caught.value.code == "database_missing"
    assert caught.value.exit_code == 74


def test_damage_to_a_fact_is_found_at_start(opened: Open, tmp_path: pathlib.Path) -> None:
    store = opened(create=True)
    store.journal.append(RUN, [("kind", b"a body that is easily found")])
    store.close()
    path = tmp_path / "home/coordinator.db"
    path.write_bytes(path.read_bytes().replace(b"a body that is easily found", b"a body that is easily fOund"))
    with pytest.raises(StorageError) as caught:
        opened()
    assert caught.value.code == "database_damaged"
    assert "coordinator.db" in caught.value.what
