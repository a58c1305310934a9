"""What a participant keeps: one sealed stage that replaces the one before, secrets that are gone when they must be.

Rows 16, 19, 20, 29 and 54 of the fault list, as far as the storage alone answers for them; FLSA/1 2.9 with A3 and A10.
"""

import base64
import contextlib
import json
import os
import pathlib
import signal
import sqlite3
from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np
import pytest
import sqlalchemy as sa
from fedveil_common.errors import ConfigError, FedveilError, IntegrityError, PolicyRefusal, SealedError, StorageError
from fedveil_common.gate import Outbox
from fedveil_common.ids import COORDINATOR, AttemptKey, FederationId, OrgId, RunId
from fedveil_common.masking import masks
from fedveil_common.masking.ring import Ring
from fedveil_common.messages import BlobType, Manifest, Purpose, SignedBlob
from fedveil_common.ringfile import residues
from fedveil_common.secret import Passphrase, PrivateKey, Seed
from fedveil_participant.events import Changes, OpenedSum, SpentKey
from fedveil_participant.ports import Journal
from fedveil_participant.stages import Advertised, Frame, Idle, Preparing, Revealed
from fedveil_participant.store import ParticipantStore, journal_key, make_journal_key, open_store, tables
from fedveil_simulation.journals import ParticipantMemory
from fedveil_simulation.ports import SeededEntropy, SimulatedClock

from tests import passphrase_costs

RUN = RunId("run-1")
KEY = AttemptKey(RUN, 2, 1)
SPENT = SpentKey("icu", b"v" * 32, Purpose.TRAIN, b"m" * 32)
OTHER = replace(SPENT, subject=b"n" * 32)
SECRETS = {
    name: bytes([number]) + b"-a-secret-of-this-attempt-12345"
    for number, name in enumerate(("mask", "channel", "self", "kappa"), 65)
}
assert all(len(secret) == 32 for secret in SECRETS.values())

MANIFEST = Manifest(
    federation_id=FederationId("test-0000000000000000"),
    key=KEY,
    purpose=Purpose.TRAIN,
    protection="masked",
    plan_hash=b"p" * 32,
    previous_manifest_hash=b"",
    roster_version=1,
    roster_hash=b"r" * 32,
    cohort=(OrgId("a"), OrgId("b"), OrgId("c")),
    corrupt=1,
    quorum=3,
    threshold=3,
    min_survivors=3,
    graph="complete",
    length=5,
    ring_bits=32,
    value_bits=16,
    update_norm=5.0,
    leaf_coordinates=16_384,
    prg="AES256CTR",
    noise="none",
    layout_hash=b"l" * 32,
    dataset="icu",
    model_hash=b"m" * 32,
    query_digest=b"",
    step=0,
    standardise=(),
    previous=(),
    progress_s=60.0,
    hard_limit_s=86_400.0,
    nonce=b"n" * 32,
    abort_certificates=(),
)
BLOB = SignedBlob(COORDINATOR, BlobType.MANIFEST, b"body", b"s" * 64)
FRAME = Frame(BLOB, MANIFEST, b"0" * 32, SPENT, replace(SPENT, subject=b"step" * 8), 1.5)
PREPARING = Preparing(FRAME)
ADVERTISED = Advertised(
    FRAME,
    BLOB,
    PrivateKey(SECRETS["mask"]),
    PrivateKey(SECRETS["channel"]),
    Seed(SECRETS["self"]),
    Seed(SECRETS["kappa"]),
)
REVEALED = Revealed(FRAME, b"3" * 32, (OrgId("a"), OrgId("b")), (Seed(b"4" * 32),), BLOB, 9.0)

Open = Callable[..., ParticipantStore]


@pytest.fixture
def home(tmp_path: pathlib.Path) -> pathlib.Path:
    return tmp_path / "home"


@pytest.fixture
def opened(home: pathlib.Path) -> Iterator[Open]:
    stores: list[ParticipantStore] = []
    takers = iter(range(1_000))  # a fresh stream per opening: salts must never repeat

    def make(*, key: Seed | None = None, create: bool = False) -> ParticipantStore:
        entropy = SeededEntropy(1, f"opening {next(takers)}")
        if create:
            make_journal_key(home, None, entropy)
        found = key if key is not None else journal_key(home, None)
        stores.append(open_store(home, found, SimulatedClock(), entropy, create=create))
        return stores[-1]

    yield make
    for store in stores:
        store.close()


def reopen(store: ParticipantStore, opened: Open) -> ParticipantStore:
    store.close()
    return opened()


def found_in(folder: pathlib.Path, secret: bytes) -> list[str]:
    """Files of the folder that hold `secret` as it is, in hex or in base64."""
    encoded = base64.b64encode(secret).rstrip(b"=")[:-1]
    forms = (secret, secret.hex().encode(), encoded)
    files = [path for path in folder.rglob("*") if path.is_file()]
    return sorted(path.name for path in files if any(form in path.read_bytes() for form in forms))


# --- stages and standing facts ----------------------------------------------------------------------------------------


def test_the_store_is_what_driver_and_gate_ask_for(opened: Open) -> None:
    store = opened(create=True)
    journal: Journal = store
    outbox: Outbox = store
    assert not journal.has_end(RUN)
    outbox.record("Session", 3, b"d" * 32)


def test_the_stage_of_a_restart_is_the_last_one_saved(opened: Open) -> None:
    store = opened(create=True)
    assert store.load() == Idle()
    for stage in (PREPARING, ADVERTISED, REVEALED):
        store.save(KEY, stage, "kind", (), Changes())
        store = reopen(store, opened)
        assert store.load() == stage
    store.save(KEY, Idle(), "done", (), Changes())
    assert reopen(store, opened).load() == Idle()


def test_changes_and_trail_are_kept(opened: Open) -> None:
    store = opened(create=True)
    opening = OpenedSum(RUN, 2, b"3" * 32)
    store.save(KEY, PREPARING, "offer", (("t0", "00"),), Changes(high_water=KEY, spend=(SPENT, OTHER)))
    store.save(KEY, PREPARING, "input", (), Changes(spend=(SPENT,)))
    store.save(AttemptKey(RUN, 3, 4), Idle(), "aborted", (), Changes(free=(OTHER,), opened=(opening, opening)))
    store.note("refused", (("code", "x"),))
    store = reopen(store, opened)
    standing = store.standing()
    assert dict(standing.high_water) == {RUN: (2, 1)}
    assert standing.spent == {SPENT}
    assert standing.opened == {opening}
    assert [(row.key, row.kind, row.facts) for row in store.trail()] == [
        (KEY, "offer", (("t0", "00"),)),
        (KEY, "input", ()),
        (AttemptKey(RUN, 3, 4), "aborted", ()),
        (None, "refused", (("code", "x"),)),
    ]


STEPS: list[Callable[[ParticipantStore], object]] = [
    lambda store: store.save(KEY, PREPARING, "offer", (), Changes(high_water=KEY)),
    lambda store: store.save(KEY, ADVERTISED, "advert", (), Changes()),
    lambda store: store.save(KEY, ADVERTISED, "input", (), Changes(spend=(SPENT,))),
    lambda store: store.save(KEY, REVEALED, "reveal", (), Changes(opened=(OpenedSum(RUN, 2, b"3" * 32),))),
    lambda store: store.save(KEY, Idle(), "done", (), Changes()),
]


@pytest.mark.parametrize("moment", ["before commit", "after commit", "before the log is emptied"])
@pytest.mark.parametrize("number", range(1, len(STEPS) + 1))
def test_a_kill_at_any_save_keeps_stage_facts_and_trail_together(
    opened: Open, tmp_path: pathlib.Path, number: int, moment: str
) -> None:
    opened(create=True).close()
    complete = number - 1 if moment == "before commit" else number
    entropy = SeededEntropy(2, "control")
    control = open_store(tmp_path / "control", Seed(bytes(32)), SimulatedClock(), entropy, create=True)
    for step in STEPS[:complete]:
        step(control)
    expected = control.load(), control.standing(), control.trail()
    control.close()

    def die(*_: object) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    pid = os.fork()
    if pid == 0:
        try:
            store = opened()
            for step in STEPS[: number - 1]:
                step(store)
            if moment == "before commit":
                sa.event.listen(store._database.engine, "commit", die)
            if moment == "before the log is emptied":
                store._database.erase_history = die  # type: ignore[method-assign]
            STEPS[number - 1](store)
            die()
        finally:
            os._exit(1)
    assert os.WTERMSIG(os.waitpid(pid, 0)[1]) == signal.SIGKILL
    store = opened()
    assert (store.load(), store.standing(), store.trail()) == expected


# --- secrets ----------------------------------------------------------------------------------------------------------


def test_no_secret_is_in_clear_in_any_file_at_any_time(opened: Open, home: pathlib.Path) -> None:
    store = opened(create=True)
    protocol = PrivateKey(b"the protocol key, 32 bytes long!")
    store.set_protocol_key(protocol)
    values = np.frombuffer(b"an update: thirty-two bytes long", dtype="<f8")
    store.put_update(SPENT, b"m" * 32, [values])
    version_key = store.data_version_key()
    secrets = [*SECRETS.values(), protocol.expose(), values.tobytes(), version_key.expose()]
    for step in STEPS:
        step(store)
        assert [found_in(home, secret) for secret in secrets] == [[] for _ in secrets]
    store.close()
    assert [found_in(home, secret) for secret in secrets] == [[] for _ in secrets]
    store = opened()
    assert store.protocol_key() == protocol
    assert store.data_version_key() == version_key


def test_the_search_for_secrets_finds_what_is_there(opened: Open, home: pathlib.Path) -> None:
    """The control of the test above."""
    store = opened(create=True)
    for number, form in enumerate((bytes, lambda s: s.hex().encode(), base64.b64encode)):
        store.note("leak", (("form", form(SECRETS["mask"]).decode()),))
        assert found_in(home, SECRETS["mask"]), number
    key = journal_key(home, None)
    assert found_in(home, key.expose()) == ["journal.key"]


@pytest.mark.parametrize("after", [REVEALED, Idle()], ids=["moved on", "ended"])
def test_what_a_stage_overwrote_is_in_no_file(opened: Open, home: pathlib.Path, after: Revealed | Idle) -> None:
    """Not even sealed: whoever gets the journal key later finds nothing to open."""
    store = opened(create=True)
    store.save(KEY, ADVERTISED, "advert", (), Changes())
    connection = sqlite3.connect(home / "journal.db")
    (sealed,) = connection.execute("SELECT sealed FROM stage").fetchone()
    connection.close()
    pieces = [sealed[start : start + 24] for start in range(0, len(sealed) - 24, 200)]
    assert any(found_in(home, piece) for piece in pieces)  # control: it is there while the stage is
    store.save(KEY, after, "next", (), Changes())
    assert [found_in(home, piece) for piece in pieces] == [[] for _ in pieces]
    assert (home / "journal.db-wal").stat().st_size == 0


def test_an_earlier_protocol_key_is_erased(opened: Open) -> None:
    store = opened(create=True)
    with pytest.raises(SealedError) as caught:
        store.protocol_key()
    assert caught.value.code == "no_protocol_key"
    for key in (PrivateKey(b"1" * 32), PrivateKey(b"2" * 32)):
        store.set_protocol_key(key)
    assert reopen(store, opened).protocol_key() == PrivateKey(b"2" * 32)


def test_a_sealed_record_cannot_stand_in_for_another(opened: Open, home: pathlib.Path) -> None:
    """The attempt is bound: a stage of one attempt is not believed as that of the next."""

    store = opened(create=True)
    store.save(KEY, ADVERTISED, "advert", (), Changes())
    with store._database.write() as connection:
        tables.STAGE.change(connection, {"one": 1}, attempt=2)
    with pytest.raises(IntegrityError) as caught:
        store.load()
    assert caught.value.code == "aead_failed"
    with store._database.write() as connection:
        tables.STAGE.change(connection, {"one": 1}, attempt=1)
    assert store.load() == ADVERTISED  # control


# --- the journal key --------------------------------------------------------------------------------------------------


def test_the_journal_key_is_made_once_and_for_its_owner_alone(home: pathlib.Path) -> None:
    entropy = SeededEntropy(1, "key")
    key = make_journal_key(home, None, entropy)
    assert journal_key(home, None) == key
    assert (home / "journal.key").stat().st_mode & 0o777 == 0o600
    with pytest.raises(ConfigError) as caught:
        make_journal_key(home, None, entropy)
    assert caught.value.code == "journal_key_exists"
    (home / "journal.key").chmod(0o640)
    with pytest.raises(ConfigError) as caught:
        journal_key(home, None)
    assert caught.value.code == "key_file_exposed"


def test_the_journal_key_under_a_passphrase(home: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    passphrase_costs.restore(monkeypatch)
    key = make_journal_key(home, Passphrase(b"open sesame"), SeededEntropy(1, "key"))
    before = (home / "journal.key").read_bytes()
    assert found_in(home, key.expose()) == []
    assert journal_key(home, Passphrase(b"open sesame")) == key
    for passphrase, code in ((None, "passphrase_missing"), (Passphrase(b"open"), "passphrase_wrong")):
        with pytest.raises(SealedError) as caught:
            journal_key(home, passphrase)
        assert caught.value.code == code
        assert caught.value.exit_code == 3
    assert (home / "journal.key").read_bytes() == before
    assert json.loads(before)["scrypt"] == {"n": 2**15, "r": 8, "p": 1, "salt": json.loads(before)["scrypt"]["salt"]}


@pytest.mark.parametrize(
    "content",
    [b"", b"{}", b"[]", b"nonsense", b'{"key": "00"}', b'{"key": 7}', b'{"scrypt": {}, "sealed": ""}', b"\xff"],
)
def test_a_damaged_key_file_is_told_as_such(home: pathlib.Path, content: bytes) -> None:
    make_journal_key(home, None, SeededEntropy(1, "key"))
    (home / "journal.key").write_bytes(content)
    with pytest.raises(StorageError) as caught:
        journal_key(home, Passphrase(b"x"))
    assert caught.value.code == "key_file_damaged"


def test_without_its_key_a_journal_stays_closed(opened: Open, home: pathlib.Path) -> None:
    store = opened(create=True)
    store.save(KEY, ADVERTISED, "advert", (), Changes())
    store.close()
    with pytest.raises(SealedError) as wrong:
        opened(key=Seed(bytes(32)))
    assert wrong.value.code == "journal_key_wrong"
    (home / "journal.key").rename(home / "away")
    with pytest.raises(SealedError) as missing:
        opened()
    assert missing.value.code == "no_journal_key"
    (home / "away").rename(home / "journal.key")
    assert opened().load() == ADVERTISED


@pytest.mark.parametrize("damage", ["missing", "empty"])
def test_a_lost_journal_is_not_a_new_one(opened: Open, home: pathlib.Path, damage: str) -> None:
    opened(create=True).close()
    path = home / "journal.db"
    path.unlink()
    if damage == "empty":
        path.write_bytes(b"")
    with pytest.raises(StorageError) as caught:
        opened()
    assert caught.value.code == {"missing": "database_missing", "empty": "database_damaged"}[damage]


def test_a_spent_key_that_a_turned_bit_would_free_is_found(opened: Open, home: pathlib.Path) -> None:
    store = opened(create=True)
    store.save(KEY, Idle(), "input", (), Changes(spend=(SPENT,)))
    store.close()
    data = (home / "journal.db").read_bytes()
    assert SPENT.version in data
    (home / "journal.db").write_bytes(data.replace(SPENT.version, b"w" + SPENT.version[1:]))
    with pytest.raises(FedveilError) as caught:
        opened()
    assert caught.value.code == "database_damaged"


def kept(store: ParticipantStore, key: SpentKey) -> tuple[bytes, list[float]] | None:
    """(hash of the model, values) of the update kept under `key`."""
    found = store.open_update(key)
    if found is None:
        return None
    with contextlib.closing(found):
        return found.model_hash, found.read(0, found.length).tolist()


# --- inputs and updates -----------------------------------------------------------------------------------------------


def write_input(store: ParticipantStore | ParticipantMemory, key: AttemptKey, ring: Ring) -> None:
    sink = store.new_input(key, len(ring), 32)
    for index, leaf in masks.leaves(ring, 32):
        sink.write(index, leaf)
    sink.finish(replace=True)


def test_the_masked_input_stays_until_it_is_discarded(opened: Open) -> None:
    store = opened(create=True)
    ring = np.arange(20_000, dtype=np.uint32) * 3
    store.save(KEY, PREPARING, "dealers", (), Changes())
    write_input(store, KEY, ring)
    write_input(store, AttemptKey(RUN, 9, 9), ring)
    store = reopen(store, opened)
    with contextlib.closing(store.open_input(KEY)) as source:
        assert np.array_equal(np.concatenate([residues(source, 0), residues(source, 1)]), ring)
    with pytest.raises(StorageError) as other:  # of no open attempt: swept at start
        store.open_input(AttemptKey(RUN, 9, 9))
    assert other.value.code == "input_gone"
    store.discard_input(KEY)
    store.discard_input(KEY)
    with pytest.raises(StorageError) as caught:
        store.open_input(KEY)
    assert caught.value.code == "input_gone"


def test_updates_are_cached_by_spent_key(opened: Open, home: pathlib.Path) -> None:
    store = opened(create=True)
    values = np.array([0.1, -2.5, 1e300])
    store.put_update(SPENT, b"a" * 32, [np.zeros(3)])
    store.put_update(SPENT, b"b" * 32, [values[:2], values[2:]])
    store.put_update(OTHER, b"c" * 32, [np.ones(2)])
    store = reopen(store, opened)
    assert kept(store, SPENT) == (b"b" * 32, values.tolist())
    assert len(list((home / "updates").iterdir())) == 2
    store.drop_update(SPENT)
    store.drop_update(SPENT)
    assert kept(store, SPENT) is None
    assert kept(store, OTHER) == (b"c" * 32, [1.0, 1.0])
    assert len(list((home / "updates").iterdir())) == 1


def test_a_turned_bit_in_a_cached_update_is_found(opened: Open, home: pathlib.Path) -> None:
    store = opened(create=True)
    store.put_update(SPENT, b"a" * 32, [np.zeros(3)])
    (path,) = (home / "updates").iterdir()
    data = bytearray(path.read_bytes())
    data[40] ^= 1
    path.write_bytes(data)
    with pytest.raises(IntegrityError) as caught:
        kept(store, SPENT)
    assert caught.value.code == "aead_failed"


# --- holdings ---------------------------------------------------------------------------------------------------------


def test_data_sets_plans_and_roster(opened: Open) -> None:
    store = opened(create=True)
    assert store.roster() == b""
    store.save_dataset("icu", pathlib.Path("old.csv"))
    store.save_dataset("icu", pathlib.Path("new.csv"))
    store.accept_plan(b"p" * 32)
    store.accept_plan(b"p" * 32)
    store.save_plan(RUN, b"p" * 32, b"canonical", b"v" * 32)
    store.save_roster(b"one")
    store.save_roster(b"two")
    store = reopen(store, opened)
    assert store.datasets() == {"icu": pathlib.Path("new.csv")}
    assert store.accepted() == {b"p" * 32}
    assert [(plan.run_id, plan.plan_hash, plan.canonical, plan.version) for plan in store.plans()] == [
        (RUN, b"p" * 32, b"canonical", b"v" * 32)
    ]
    assert store.roster() == b"two"


def test_the_outbox_has_one_row_a_message_and_no_way_back(opened: Open, home: pathlib.Path) -> None:
    store = opened(create=True)
    for size in (1, 22, 333):
        store.record("Session", size, bytes([size % 256]) * 32)
    store = reopen(store, opened)
    assert [(sent.seq, sent.kind, sent.size_bytes, sent.digest[0]) for sent in store.outbox()] == [
        (1, "Session", 1, 1),
        (2, "Session", 22, 22),
        (3, "Session", 333, 77),
    ]
    store.close()
    connection = sqlite3.connect(home / "journal.db")
    for table in ("outbox", "trail"):
        connection.execute("INSERT INTO trail SELECT 1, 0.0, '', 0, 0, '', '', x'', x'' WHERE 'trail' = ?", (table,))
        for statement in (f"UPDATE {table} SET kind = 'x'", f"DELETE FROM {table}"):
            with pytest.raises(sqlite3.IntegrityError, match="append-only"):
                connection.execute(statement)
    connection.close()


# --- after a re-key ---------------------------------------------------------------------------------------------------


def refused(store: ParticipantStore, dataset: str, version: bytes) -> bool:
    code = ""
    try:
        store.admit_version(dataset, version)
    except PolicyRefusal as error:
        code = error.code
    assert code in {"", "version_presumed_spent"}
    return bool(code)


def test_without_a_rekey_every_version_is_admitted(opened: Open) -> None:
    store = opened(create=True)
    assert not refused(store, "icu", b"1" * 32)


def test_after_a_rekey_no_version_is_admitted_before_the_operator_says_so(opened: Open) -> None:
    """Which versions were present is lost with the journal: a file changed and changed back must not slip through."""
    store = opened(create=True)
    store.mark_rekeyed()
    store = reopen(store, opened)
    assert [refused(store, "icu", bytes([version]) * 32) for version in b"1213"] == [True] * 4
    assert refused(store, "labs", b"1" * 32)
    store.forgive_spent("icu", "the journal was lost before the first round")
    store = reopen(store, opened)
    assert not refused(store, "icu", b"1" * 32)
    assert refused(store, "labs", b"1" * 32)
    last = store.trail()[-1]
    assert (last.kind, dict(last.facts)["reason"]) == ("budget_set", "the journal was lost before the first round")


def test_named_versions_count_as_spent_until_forgiven(opened: Open) -> None:
    store = opened(create=True)
    store.spent_all("icu", [b"1" * 32, b"2" * 32])
    assert [refused(store, "icu", bytes([version]) * 32) for version in b"123"] == [True, True, False]
    with pytest.raises(ConfigError) as caught:
        store.forgive_spent("icu", "  ")
    assert caught.value.code == "reason_missing"
    assert refused(store, "icu", b"1" * 32)


def test_forgiving_frees_nothing_that_was_really_spent(opened: Open) -> None:
    store = opened(create=True)
    store.save(KEY, Idle(), "input", (), Changes(spend=(SPENT,)))
    store.forgive_spent(SPENT.dataset, "because")
    assert store.standing().spent == {SPENT}
