"""Accepted data: sealed in the home, read by every round, gone at its end; and what a few new rows may not do."""

import io
import stat
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from fedveil_cli import main, participating
from fedveil_common import plan as plans
from fedveil_common.errors import ConfigError, FedveilError, IntegrityError
from fedveil_common.ids import RunId
from fedveil_common.messages import Purpose
from fedveil_common.plan import Plan
from fedveil_common.sealing import key_files
from fedveil_common.secret import Passphrase, Seed
from fedveil_participant import membership
from fedveil_participant.bench import TableBench
from fedveil_participant.data import snapshot
from fedveil_participant.data.csv_source import Source, read_source
from fedveil_participant.data.in_memory import in_memory
from fedveil_participant.data.registration import FileSource, Registration, SqlSource
from fedveil_participant.data.sql_address import read_address
from fedveil_participant.data.sql_records import Selected
from fedveil_participant.store import ParticipantStore, journal_key, make_journal_key, open_store
from fedveil_simulation.ports import SeededEntropy, SimulatedClock
from postgres_server import server
from statistics_federation import accept as accept_plan
from test_csv_source import KEY, TWO, plan_with

from tests.federation import RUN, THREE, federation, journal, plan_bytes, run
from tests.federation import table as member_table

PLAN = plan_with(TWO)
PRIVATE = plans.parse_plan(
    b"""version: 1
name: p
kind: train
data:
  dataset: d
  features: {a: {type: float, range: [0, 10], clamp: true}}
  target: {column: y, type: binary}
  min_rows: 3
  standardise: range
model: {kind: logistic}
training: {rounds: 2, learning_rate: 0.1, seed: 7}
evaluation: {holdout: 0.25}
cohort: {min_participants: 3}
protection: {kind: masked, value_bits: 20, update_norm: 64}
privacy: {unit: record, rows: 1000, clip_norm: 2.0, sample_rate: 1.0, noise_multiplier: 2.0, delta: 1.0e-5,
  max_epsilon: 100}
""",
    "private.yaml",
)
ROWS = "a,c,y,id\n" + "".join(f"{i % 10}.5,{'FM'[i % 2]},{i % 2},secret-person-{i}\n" for i in range(9))
CHANGED = ROWS.replace("1.5", "2.5")
AFTER = RunId("run-2")


def source_of(text: str, plan: Plan = PLAN) -> Source:
    return read_source(io.BytesIO(text.encode()), "t.csv", plan, KEY)


def same(one: Source, other: Source) -> bool:
    assert list(one.table.numbers) == list(other.table.numbers)
    assert list(one.table.codes) == list(other.table.codes)
    arrays = [
        (first, second)
        for mine, theirs in ((one.table.numbers, other.table.numbers), (one.table.codes, other.table.codes))
        for first, second in zip(mine.values(), theirs.values(), strict=True)
    ]
    arrays.append((one.positions, other.positions))
    if one.table.target is not None and other.table.target is not None:
        arrays.append((one.table.target, other.table.target))
    equal = all(a.dtype == b.dtype and a.tobytes() == b.tobytes() for a, b in arrays)
    facts = (one.version, one.sketch, one.table.rows, one.table.target is None)
    return equal and facts == (other.version, other.sketch, other.table.rows, other.table.target is None)


@pytest.fixture
def opened(tmp_path: Path) -> Callable[..., ParticipantStore]:
    home = tmp_path / "home"
    make_journal_key(home, None, SeededEntropy(1, "key"))
    draws = iter(range(100))

    def open_it(*, create: bool = False) -> ParticipantStore:
        entropy = SeededEntropy(next(draws), "store")
        return open_store(home, journal_key(home, None), SimulatedClock(), entropy, create=create)

    open_it(create=True).close()
    return open_it


def bench_of(store: ParticipantStore, path: Path, **how: object) -> TableBench:
    return TableBench({"d": path}, Seed(KEY), shelf=store.shelf, excluded=store.excluded, **how)  # type: ignore[arg-type]


def contribution(bench: TableBench, plan: Plan, version: bytes) -> bytes:
    """Of the sum that standardises, or of statistics: it needs no model."""
    blocks = bench.contribution(plan, version, Purpose.STANDARDISE, None, lambda: Seed(bytes(32)))
    return b"".join(np.asarray(one).tobytes() for one in blocks)


# --- the form ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "features",
    [
        TWO,
        "{a: {type: float, range: [0, 10], missing: mean}, b: {type: float, range: [0, 1], missing: mean}}",
        "{c: {type: category, values: [F, M]}}",
    ],
)
def test_what_is_packed_comes_back_to_the_last_bit(features: str, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = plan_with(features)
    found = source_of(
        "a,b,c,y\n" + "".join(f"{i / 7:.9f},{'' if i % 2 else 0.25},{'FM'[i % 2]},{i % 2}\n" for i in range(50)), plan
    )
    content = b"".join(snapshot.pack(found))
    monkeypatch.setattr(snapshot, "_PIECE", 24)
    sizes: list[int] = []

    def read(start: int, size: int) -> bytes:
        sizes.append(size)
        return content[start : start + size]

    assert same(snapshot.unpack(read, len(content), found.version), found)
    assert max(sizes[2:]) <= 24, "piece by piece"
    for wrong in (content[:-8], content + b"x", content.replace(b'"rows":50', b'"rows":-1'), b"\0\0\0\2{}", b""):
        with pytest.raises((IntegrityError, ValueError)) as caught:
            snapshot.unpack(lambda start, size, data=wrong: data[start : start + size], len(wrong), found.version)  # type: ignore[misc]
        assert getattr(caught.value, "code", "") == "snapshot_damaged"


def test_a_table_without_rows_of_its_own_is_packed_too() -> None:
    plan = plan_with("{a: {type: float, range: [0, 10], missing: drop}}")
    found = source_of("a,y\n,1\n,0\n", plan)
    content = b"".join(snapshot.pack(found))
    assert found.table.rows == 0
    assert same(snapshot.unpack(lambda start, size: content[start : start + size], len(content), found.version), found)


# --- in the home ------------------------------------------------------------------------------------------------------


def test_a_snapshot_is_sealed_for_its_plan_and_version(opened: Callable[..., ParticipantStore], tmp_path: Path) -> None:
    store, found = opened(), source_of(ROWS)
    store.shelf.put("d", b"p" * 32, found)
    (path,) = (tmp_path / "home" / "snapshots").iterdir()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    held = path.read_bytes()
    assert np.asarray(found.table.numbers["a"]).tobytes()[:16] not in held
    assert b"numbers" not in held
    store.close()
    store = opened()
    kept = store.shelf.get(b"p" * 32, found.version)
    assert kept is not None
    assert same(kept, found)
    assert store.shelf.get(b"q" * 32, found.version) is None
    assert store.shelf.get(b"p" * 32, bytes(32)) is None
    store.shelf.put("d", b"p" * 32, found)
    assert len(list(path.parent.iterdir())) == 1, "it takes the place of the one before"
    (path,) = path.parent.iterdir()
    spoilt = bytearray(path.read_bytes())
    spoilt[-1] ^= 1
    path.write_bytes(bytes(spoilt))
    with pytest.raises(IntegrityError) as caught:
        store.shelf.get(b"p" * 32, found.version)
    assert caught.value.code == "aead_failed"
    path.unlink()
    assert store.shelf.get(b"p" * 32, found.version) is None
    store.close()


def test_snapshots_are_kept_for_open_runs_and_erased_for_others(
    opened: Callable[..., ParticipantStore], tmp_path: Path
) -> None:
    store, one, two = opened(), source_of(ROWS), source_of(CHANGED)
    folder = tmp_path / "home" / "snapshots"
    for plan_hash, found, name in ((b"p" * 32, one, "d"), (b"p" * 32, two, "d"), (b"q" * 32, one, "e")):
        store.shelf.put(name, plan_hash, found)
    store.keep_snapshots([(b"p" * 32, two.version), (b"q" * 32, one.version)])
    assert store.shelf.get(b"p" * 32, one.version) is None
    assert store.shelf.get(b"p" * 32, two.version) is not None
    assert store.shelf.forget("e") == 1
    assert len(list(folder.iterdir())) == 1
    (folder / ("00" * 32)).write_bytes(b"left by a crash")
    store.close()
    store = opened()
    assert len(list(folder.iterdir())) == 1
    store.keep_snapshots([])
    assert list(folder.iterdir()) == []
    store.close()


# --- the bench --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fate", ["another version", "gone", "no table"])
def test_a_source_that_changes_after_acceptance_does_not_enter_the_run(
    opened: Callable[..., ParticipantStore], tmp_path: Path, fate: str
) -> None:
    plan = plans.parse_canonical(plan_bytes(standardise="federated"))
    path = tmp_path / "t.csv"
    path.write_bytes(member_table(1)["table"])
    store = opened()
    bench = TableBench({"table": path}, Seed(KEY), shelf=store.shelf)
    version = bench.accept(plan)
    before = contribution(bench, plan, version)
    store.close()
    if fate == "gone":
        path.unlink()
    else:
        path.write_bytes(member_table(2)["table"] if fate == "another version" else b"PAR1 no more")
    store = opened()
    again = TableBench({"table": path}, Seed(KEY), shelf=store.shelf)
    assert contribution(again, plan, version) == before
    # without a snapshot, the version that was accepted or nothing
    for file in (tmp_path / "home" / "snapshots").iterdir():
        file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(FedveilError) as caught:
        contribution(TableBench({"table": path}, Seed(KEY), shelf=store.shelf), plan, version)
    assert caught.value.code == {"another version": "data_changed", "gone": "data_unreadable"}.get(fate, "bad_data")
    path.write_bytes(member_table(1)["table"])
    assert contribution(TableBench({"table": path}, Seed(KEY), shelf=store.shelf), plan, version) == before
    store.close()


def test_two_runs_of_one_plan_have_each_what_was_accepted_for_it(
    opened: Callable[..., ParticipantStore], tmp_path: Path
) -> None:
    plan = plans.parse_canonical(plan_bytes(standardise="federated"))
    path, store, made = tmp_path / "t.csv", opened(), []
    bench = TableBench({"table": path}, Seed(KEY), shelf=store.shelf)
    for index in (1, 2):
        path.write_bytes(member_table(index)["table"])
        version = bench.accept(plan)
        made.append((version, contribution(bench, plan, version)))
    assert made[0][1] != made[1][1]
    for version, before in made:
        assert contribution(bench, plan, version) == before
    store.close()


def test_with_differential_privacy_nothing_depends_on_what_became_of_the_source(
    opened: Callable[..., ParticipantStore], tmp_path: Path
) -> None:
    """With the snapshot the accepted rows, without it those that are there now: no refusal for the version (D8)."""
    path = tmp_path / "t.csv"
    path.write_text(ROWS)
    store = opened()
    bench = bench_of(store, path)
    version = bench.accept(PRIVATE)
    path.write_text(CHANGED)
    assert bench._accepted(PRIVATE, version).version == version
    store.keep_snapshots([])
    fresh = bench_of(store, path)
    found = fresh._accepted(PRIVATE, version)
    assert found.version == source_of(CHANGED, PRIVATE).version
    store.close()


def test_who_objected_is_not_in_what_is_accepted(opened: Callable[..., ParticipantStore], tmp_path: Path) -> None:
    from fedveil_participant.data.selection import PersonDigests

    path, store = tmp_path / "t.csv", opened()
    path.write_text(ROWS)
    before = bench_of(store, path).accept(PLAN)
    digests = PersonDigests(Seed(KEY))
    store.exclude("d", "id", [digests.of("secret-person-3")])
    after = bench_of(store, path).accept(PLAN)
    left = "".join(line for line in ROWS.splitlines(keepends=True) if "person-3" not in line)
    assert after == source_of(left).version != before
    store.readmit("d", "id", [digests.of("secret-person-3")])
    assert bench_of(store, path).accept(PLAN) == before
    store.close()


def test_registered_files_keys_and_databases_are_opened_with_their_secrets(
    opened: Callable[..., ParticipantStore], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Member:
        federation_id = "hospitals-1"

    monkeypatch.setattr(membership, "load_membership", lambda home: Member())
    (tmp_path / "t.csv").write_text(ROWS)
    key = X25519PrivateKey.from_private_bytes(b"\1" * 32)
    (tmp_path / "own.key").write_bytes(key_files.private_pem(key, Passphrase(b"six words")))
    (tmp_path / "own.pub").write_bytes(key_files.public_pem(key.public_key()))
    (tmp_path / "words").write_bytes(b"six words\n")
    sealed = tmp_path / "t.csv.sealed"
    words = ["data", "seal", str(tmp_path / "t.csv"), "--to", str(tmp_path / "own.pub"), "--out", str(sealed)]
    assert main.main(words) == 0
    store = opened()
    store.register(Registration("d", FileSource(sealed, tmp_path / "own.key", tmp_path / "words")))
    version = participating.table_bench({}, store).accept(PLAN)
    store.register(Registration("d", FileSource(tmp_path / "t.csv")))
    assert participating.table_bench({}, store).accept(PLAN) == version
    store.register(Registration("d", FileSource(sealed)))
    with pytest.raises(FedveilError) as caught:
        participating.table_bench({}, store).accept(PLAN)
    assert caught.value.code == "data_key_missing"
    with server() as running:
        with running.admin() as admin:
            admin.execute("CREATE ROLE reader LOGIN PASSWORD 'a''b'")
            admin.execute("CREATE TABLE t (id text, y int, c text, a numeric)")
            with admin.cursor().copy("COPY t (a, c, y, id) FROM STDIN (FORMAT csv, HEADER)") as copy:
                copy.write(ROWS)
            admin.execute("GRANT SELECT ON t TO reader")
        (tmp_path / "password").write_bytes(b"a'b\n")
        address = read_address(running.url("reader", "postgres", tcp=True), tmp_path)
        store.register(Registration("d", SqlSource(address, Selected(table="public.t"), tmp_path / "password")))
        assert participating.table_bench({}, store).accept(PLAN) == version
        (tmp_path / "password").unlink()
        with pytest.raises(ConfigError) as missing:
            participating.table_bench({}, store).accept(PLAN)
        assert missing.value.code == "file_unreadable"
    store.close()
    held = b"".join(path.read_bytes() for path in (tmp_path / "home").rglob("*") if path.is_file())
    for secret in (b"a'b", b"six words", b"secret-person"):
        assert secret not in held


# --- in a simulated federation ----------------------------------------------------------------------------------------


def rows_without(data: bytes, gone: int) -> bytes:
    lines = data.splitlines(keepends=True)
    return b"".join([lines[0], *lines[1 + gone :]])


@pytest.mark.parametrize(("gone", "code"), [(1, "model_spent"), (9, "model_spent"), (10, "finished")])
@pytest.mark.parametrize("standardise", ["none", "federated"])
def test_the_same_plan_over_almost_the_same_rows_is_not_summed_again(gone: int, code: str, standardise: str) -> None:
    """One organisation leaves out some rows and the others add nothing to hide it: stopped by `checks.not_spent`."""
    plan = plan_bytes(standardise=standardise)
    cluster = federation(THREE, plan=plan)
    for org in THREE:
        cluster.members[org].data = {"table": member_table(3)["table"]}
        restart(cluster, org)
    assert run(cluster, plan) == "finished"
    for org in THREE:
        cluster.members[org].data = {"table": rows_without(member_table(3)["table"], gone)}
        restart(cluster, org)
    cluster.memory.answers.clear()  # a coordinator that asks again for what was answered
    assert run(cluster, plan, AFTER) == code
    summed = {run_id for run_id, _ in cluster.memory.sums}
    assert summed == ({RUN, AFTER} if code == "finished" else {RUN})


def test_an_offer_over_almost_the_same_rows_is_refused_by_the_machine() -> None:
    """A plan that differs in its seed asks the same standardising question: a member says so at the offer."""
    first, second = plan_bytes(standardise="federated"), plan_bytes(standardise="federated", seed=8)
    cluster = federation(THREE, plan=first)
    assert run(cluster, first) == "finished"
    accept_plan(cluster, second)
    victim = THREE[0]
    cluster.members[victim].data = {"table": rows_without(member_table(0)["table"], 1)}
    restart(cluster, victim)
    cluster.memory.answers.clear()
    cluster.start_run(AFTER, second)

    def said() -> bool:
        return any(dict(facts).get("code") == "model_spent" for _, facts in journal(cluster, victim).notes)

    cluster.play(lambda: said() or cluster.ended(AFTER), 5_000)
    assert said()
    assert AFTER not in {run_id for run_id, _ in cluster.memory.sums}


def restart(cluster: object, org: object) -> None:
    cluster.kill_member(org)  # type: ignore[attr-defined]
    cluster.start_member(org)  # type: ignore[attr-defined]
    cluster.settle()  # type: ignore[attr-defined]


def test_sketches_outlive_the_process(opened: Callable[..., ParticipantStore]) -> None:
    store, found = opened(), source_of(ROWS)
    store.save_sketch(found.version, found.sketch)
    store.close()
    store = opened()
    assert store.standing().sketches == {found.version: found.sketch}
    store.close()
    bench = TableBench({"d": Path("t")}, Seed(KEY), lambda path: [in_memory("t", ROWS.encode())])
    assert bench.sketch(bench.accept(PLAN)) == found.sketch
    assert bench.sketch(bytes(32)) == b""
