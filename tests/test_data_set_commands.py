"""`fedveil data add|list|check|exclude|forget`: what is printed, what is refused, and what is left in the home."""

import io
import json
import os
import sqlite3
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow as pa
import pytest
from fedveil_cli import main, participating, processing_record
from fedveil_common import plan as plans
from fedveil_common.crypto import signing
from fedveil_common.database import FolderLock
from fedveil_common.errors import ConfigError, PeerError, StorageError
from fedveil_common.ids import AttemptKey, OrgId, RunId
from fedveil_common.messages import Purpose
from fedveil_common.secret import PrivateKey
from fedveil_participant import membership
from fedveil_participant.data.registration import (
    FileSource,
    Registration,
    Rules,
    SqlSource,
    decode,
    encode,
)
from fedveil_participant.data.sql_address import read_address
from fedveil_participant.data.sql_records import Selected
from fedveil_participant.events import Changes, SpentKey
from fedveil_participant.stages import Idle
from fedveil_participant.store import ParticipantStore, journal_key, make_journal_key, open_store, tables
from fedveil_simulation.ports import SeededEntropy, SimulatedClock
from pyarrow import parquet
from test_csv_source import TWO

CSV = "a,c,y,id,note\n" + "".join(
    f"{i % 10},{'FM'[i % 2]},{i % 2},p{i // 2},{'NA' if i % 3 else 'x'}\n" for i in range(40)
)
RUN = RunId("run-1")
SIGNING = PrivateKey(bytes(range(32)))
Capture = pytest.CaptureFixture[str]


def plan_file(folder: Path, *changes: tuple[str, str]) -> Path:
    """A plan over the data set `d`."""
    text = f"""\
version: 1
name: p
kind: train
data:
  dataset: d
  features: {TWO}
  target: {{column: y, type: binary}}
  person: id
  min_rows: 30
  standardise: range
model: {{kind: logistic}}
training: {{rounds: 2, learning_rate: 0.1, seed: 7, weight_cap: 100}}
evaluation: {{holdout: 0.25}}
cohort: {{min_participants: 3}}
protection: {{kind: masked, update_norm: 5}}
privacy: none
"""
    for old, new in changes:
        assert old in text
        text = text.replace(old, new)
    path = folder / "plan.yaml"
    path.write_text(text)
    return path


class Home:
    """A joined organisation's folder, and commands on it."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.home = folder, folder / "home"
        self.table = folder / "t.csv"
        self.table.write_text(CSV)

    def store(self, *, create: bool = False) -> ParticipantStore:
        entropy = SeededEntropy(2, "store")
        return open_store(self.home, journal_key(self.home, None), SimulatedClock(), entropy, create=create)

    def run(self, capsys: Capture, *words: object) -> tuple[int, str, str]:
        code = main.main(["data", *map(str, words), "--home", str(self.home)])
        return (code, *capsys.readouterr())

    def json(self, capsys: Capture, *words: object) -> dict[str, Any]:
        code, out, err = self.run(capsys, *words, "--json")
        assert code == 0, err
        assert out.count("\n") == 1
        return dict(json.loads(out))

    def refused(self, capsys: Capture, *words: object) -> tuple[int, str]:
        code, out, err = self.run(capsys, *words, "--json")
        assert out == "", "nothing is printed of a command that failed"
        return code, str(json.loads(err.splitlines()[-1])["error"]["code"])

    def open_run(self, person: bool = True) -> None:
        """A round of RUN over the data set began; it spent something."""
        plan = plans.parse_plan(plan_file(self.folder).read_bytes(), "plan.yaml")
        canonical = plans.canonical(plan)
        store = self.store()
        store.save_plan(RUN, plans.plan_hash(canonical), canonical, b"v" * 32)
        key = AttemptKey(RUN, 1, 1)
        spent = SpentKey("d", b"v" * 32, Purpose.TRAIN, b"m" * 32)
        store.save(key, Idle(), "test", (), Changes(high_water=key, spend=(spent,)))
        store.close()


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Home:
    monkeypatch.setattr(sys, "stdin", io.StringIO(""))
    member = SimpleNamespace(federation_id="hospitals-1", org_id=OrgId("acme"))
    monkeypatch.setattr(membership, "load_membership", lambda home: member)
    made = Home(tmp_path)
    make_journal_key(made.home, None, SeededEntropy(1, "key"))
    store = made.store(create=True)
    store.set_protocol_key(SIGNING)
    store.close()
    return made


# --- add and list -----------------------------------------------------------------------------------------------------


def test_a_file_is_registered_and_what_stands_in_it_is_said(home: Home, capsys: Capture) -> None:
    found = home.json(capsys, "add", "d", "--source", home.table)
    assert (found["dataset"], found["rows"], found["left_out"], found["sealed"]) == ("d", 40, 0, False)
    assert [(one["name"], one["kind"], one["missing"], one["constant"]) for one in found["columns"]] == [
        ("a", "number", 0, False),
        ("c", "text", 0, False),
        ("y", "number", 0, False),
        ("id", "text", 0, False),
        ("note", "text", 26, True),
    ]
    assert len(found["version"]) == 12
    code, out, _ = home.run(capsys, "list")
    assert code == 0
    assert str(home.table) in out
    listed = home.json(capsys, "list")["datasets"]
    assert [(one["dataset"], one["kind"], one["excluded"], one["open_runs"]) for one in listed] == [
        ("d", "file", 0, [])
    ]
    store = home.store()
    assert store.registrations() == {"d": Registration("d", FileSource(home.table))}
    assert [row.kind for row in store.trail()] == ["data_registered"]
    store.close()


def test_the_same_rows_have_the_same_version_wherever_they_lie(home: Home, capsys: Capture) -> None:
    columns = {
        name: [line.split(",")[i] for line in CSV.splitlines()[1:]]
        for i, name in enumerate(("a", "c", "y", "id", "note"))
    }
    typed = {name: [int(cell) for cell in cells] if name in "ay" else cells for name, cells in columns.items()}
    parquet.write_table(pa.table(typed), home.folder / "t.parquet")
    database = home.folder / "t.db"
    with sqlite3.connect(database) as connection:
        connection.execute("CREATE TABLE t (note, id, y, c, a)")
        rows = list(zip(*(typed[name] for name in ("note", "id", "y", "c", "a")), strict=True))
        connection.executemany("INSERT INTO t VALUES (?, ?, ?, ?, ?)", rows[::-1])
    connection.close()
    query = home.folder / "q.sql"
    query.write_text("SELECT * FROM t WHERE id <> 'nobody';\n")
    versions = [
        home.json(capsys, "add", f"d{number}", "--source", *source)["version"]
        for number, source in enumerate(
            (
                (home.table,),
                (home.folder / "t.parquet",),
                (f"sqlite:///{database}", "--table", "t"),
                (f"sqlite:///{database}", "--query-file", query),
                (f"sqlite:///{os.path.relpath(database)}", "--query", "SELECT a, c, y, id, note FROM t"),
            )
        )
    ]
    assert len(set(versions)) == 1


def test_rows_by_a_filter_and_what_is_left_out(home: Home, capsys: Capture) -> None:
    found = home.json(capsys, "add", "d", "--source", home.table, "--where", "c=F", "--where", "y=0")
    assert (found["rows"], found["left_out"]) == (20, 20)
    assert home.json(capsys, "list")["datasets"][0]["where"] == ["c=F", "y=0"]
    _, _, err = home.run(capsys, "add", "e", "--source", home.table, "--where", "c=X")
    assert "no row is left" in err
    assert home.refused(capsys, "add", "f", "--source", home.table, "--where", "gone=X") == (2, "bad_data")
    for wrong in (("--where", "c"), ("--where", "=F"), ("--where", "c=F", "--where", "c=M")):
        assert home.refused(capsys, "add", "f", "--source", home.table, *wrong) == (2, "bad_where")


def test_what_is_there_is_replaced_only_if_one_says_so(home: Home, capsys: Capture) -> None:
    home.json(capsys, "add", "d", "--source", home.table)
    other = home.folder / "other.csv"
    other.write_text("x\n1\n")
    assert home.refused(capsys, "add", "d", "--source", other) == (2, "dataset_exists")
    assert home.json(capsys, "list")["datasets"][0]["source"] == str(home.table)
    assert home.json(capsys, "add", "d", "--source", other, "--replace")["rows"] == 1
    assert home.json(capsys, "list")["datasets"][0]["source"] == str(other)


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (("D!", "--source", "{table}"), "bad_name"),
        (("d", "--source", "{folder}/nothing.csv"), "data_unreadable"),
        (("d", "--source", "{folder}/ragged.csv"), "bad_data"),
        (("d", "--source", "{table}", "--table", "t"), "source_options"),
        (("d", "--source", "{table}", "--password-file", "{table}"), "source_options"),
        (("d", "--source", "{table}", "--key-passphrase-file", "{table}"), "source_options"),
        (("d", "--source", "sqlite:///{folder}/t.db"), "source_options"),
        (("d", "--source", "sqlite:///{folder}/t.db", "--table", "t", "--query", "SELECT 1"), "source_options"),
        (("d", "--source", "sqlite:///{folder}/t.db", "--query", " ; "), "source_options"),
        (("d", "--source", "sqlite:///{folder}/t.db", "--table", "t", "--key", "{table}"), "source_options"),
        (("d", "--source", "sqlite:///{folder}/t.db", "--table", "t", "--where", "a=1"), "source_options"),
        (("d", "--source", "sqlite:///{folder}/t.db", "--table", "a.b.c"), "source_selection"),
        (("d", "--source", "sqlite:///{folder}/t.db", "--table", "t"), "database_unreachable"),
        (("d", "--source", "postgresql://me:hunter2@localhost/x", "--table", "t"), "source_password"),
        (("d", "--source", "postgresql://me@db.example.org/x", "--table", "t"), "source_unprotected"),
        (("d", "--source", "{table}", "--rules", "{folder}/nothing.yaml"), "file_unreadable"),
    ],
)
def test_what_is_not_registered(home: Home, capsys: Capture, words: tuple[str, ...], code: str) -> None:
    (home.folder / "ragged.csv").write_text("a,c\n1,2\n3\n")
    typed = [word.format(table=home.table, folder=home.folder) for word in words]
    exit_code, out, err = home.run(capsys, "add", *typed, "--json")
    assert (exit_code, out) == (2, "")
    assert json.loads(err.splitlines()[-1])["error"]["code"] == code
    assert "hunter2" not in err
    assert home.json(capsys, "list") == {"datasets": []}


def test_no_file_comes_past_rules_or_filters(home: Home, capsys: Capture) -> None:
    home.json(capsys, "add", "d", "--source", home.table, "--where", "c=F", "--replace")
    store = home.store()
    with pytest.raises(ConfigError) as caught:
        participating._named_once(store, {"d": home.table})
    assert caught.value.code == "dataset_guarded"
    link = home.folder / "link.csv"
    link.symlink_to(home.table)
    for path in (home.table, link):
        with pytest.raises(ConfigError) as caught:
            participating._named_once(store, {"e": path})
        assert caught.value.code == "dataset_guarded", "nor under another name"
    assert store.registrations().keys() == {"d"}
    store.close()


def test_a_file_named_at_a_start_is_for_that_start(home: Home, capsys: Capture) -> None:
    home.json(capsys, "add", "d", "--source", home.table)
    other = home.folder / "other.csv"
    store = home.store()
    assert participating._named_once(store, {"d": other, "new": other}) == {"d": other}
    assert store.registrations()["d"].source == FileSource(home.table)
    assert store.registrations()["new"].source == FileSource(other)
    assert store.datasets() == {"new": other}
    store.close()


def test_nothing_is_changed_beside_a_participant_that_runs(home: Home, capsys: Capture) -> None:
    home.json(capsys, "add", "d", "--source", home.table)
    ids = home.folder / "ids.txt"
    ids.write_text("p1\n")
    with FolderLock(home.home):
        for words in (
            ("add", "e", "--source", home.table),
            ("exclude", "d", "--ids", ids, "--column", "id"),
            ("forget", "d"),
        ):
            assert home.refused(capsys, *words) == (2, "data_folder_in_use")
        assert len(home.json(capsys, "list")["datasets"]) == 1
        home.json(capsys, "check", "d", "--plan", plan_file(home.folder))


def test_registrations_are_kept_as_they_were_given(home: Home) -> None:
    address = read_address("postgresql://reader@localhost/clinic?sslmode=prefer", home.folder)
    for one in (
        Registration(
            "d", FileSource(Path("/x"), Path("/k"), Path("/p")), Rules(Path("/r"), bytes(32), 16 * "a"), (("a", "b=c"),)
        ),
        Registration("d", FileSource(Path("/x")), Rules(Path("/r"), bytes(32))),
        Registration("d", SqlSource(address, Selected(query="SELECT 'é'"), Path("/p"))),
        Registration("d", SqlSource(address, Selected(table="a.b"))),
    ):
        assert decode("d", encode(one)) == one
    good = json.loads(encode(Registration("d", SqlSource(address, Selected(table="t")))))
    for spoil in (
        {"kind": "ftp"},
        {"dialect": "mysql"},
        {"where": [["a"]]},
        {"url": 7},
        {"rules": "/r", "rules_digest": "x"},
        {"rules": "/r", "rules_digest": 64 * "0", "masking_key": "x"},
    ):
        with pytest.raises(StorageError) as caught:
            decode("d", json.dumps({**good, **spoil}).encode())
        assert caught.value.code == "registration_damaged"
    with pytest.raises(StorageError):
        decode("d", b"[]")


# --- check ------------------------------------------------------------------------------------------------------------


def test_a_data_set_that_fulfils_a_plan(home: Home, capsys: Capture) -> None:
    home.json(capsys, "add", "d", "--source", home.table)
    found = home.json(capsys, "check", "d", "--plan", plan_file(home.folder))
    assert (found["fulfils"], found["usable"], found["min_rows"], found["findings"]) == (True, 40, 30, [])
    assert [one["name"] for one in found["columns"]] == ["a", "c", "y", "id"]
    store = home.store()
    plan = plans.parse_plan(plan_file(home.folder).read_bytes(), "p")
    version = participating.table_bench({}, store).accept(plan)
    assert version.hex().startswith(found["version"])
    store.close()


def test_everything_that_a_data_set_lacks_is_counted_and_named(home: Home, capsys: Capture) -> None:
    rows = ["a,c,y,id"] + ["5,F,1,p"] * 6 + ["11,F,1,p", "x,F,1,p", ",PatientName,1,p", "5,F,,p", "5,F,1,", "12,?,1,p"]
    home.table.write_text("\n".join(rows) + "\n")
    home.json(capsys, "add", "d", "--source", home.table)
    code, out, err = home.run(capsys, "check", "d", "--plan", plan_file(home.folder), "--json")
    assert code == 2
    assert json.loads(err)["error"]["code"] == "contract_unmet"
    found = json.loads(out)
    assert (found["fulfils"], found["rows"], found["failing"], found["usable"]) == (False, 12, 6, 6)
    assert {one["name"]: one["failing"] for one in found["columns"]} == {
        "a": {"missing": 1, "not_a_number": 1, "out_of_range": 2},
        "c": {"missing": 1, "unknown_category": 1},
        "y": {"missing": 1},
        "id": {"missing": 1},
    }
    assert [(one["code"], one["column"], one["refuses"]) for one in found["findings"]] == [
        ("bad_data", "", True),
        ("too_few_rows", "", True),
        ("constant_column", "a", False),
        ("constant_column", "c", False),
        ("class_missing", "y", False),
    ]
    assert found["problems"][0]["place"] == f"{home.table}:8"
    assert "PatientName" not in out + err
    _, text, _ = home.run(capsys, "check", "d", "--plan", home.folder / "plan.yaml")
    assert f"{home.table}:10: c: not one of" in text
    assert "class_missing y" in text


def test_rows_that_a_rule_drops_and_classes_that_are_missing(home: Home, capsys: Capture) -> None:
    home.table.write_text("a,c,y,id\n" + "".join(f"{'' if i % 2 else i % 9},F,k{i % 2 + 1},p{i}\n" for i in range(70)))
    home.json(capsys, "add", "d", "--source", home.table)
    plan = plan_file(
        home.folder,
        ("range: [0, 10]}", "range: [0, 10], missing: drop}"),
        ("{column: y, type: binary}", "{column: y, type: category, values: [k1, k2, k3]}"),
        ("kind: logistic", "kind: softmax"),
    )
    found = home.json(capsys, "check", "d", "--plan", plan)
    assert (found["rows"], found["dropped"], found["usable"]) == (70, 35, 35)
    assert [(one["code"], one["column"]) for one in found["findings"]] == [
        ("constant_column", "c"),
        ("class_missing", "y"),
    ]
    assert found["findings"][1]["text"].startswith("1 of 3 classes")


def test_no_row_after_filters_a_column_that_is_missing_and_other_plans(home: Home, capsys: Capture) -> None:
    home.json(capsys, "add", "d", "--source", home.table, "--where", "c=X")
    code, out, _ = home.run(capsys, "check", "d", "--plan", plan_file(home.folder), "--json")
    found = json.loads(out)
    assert code == 2
    assert found["left_out"] == 40
    assert [one["code"] for one in found["findings"]] == ["no_rows_left", "too_few_rows"]
    home.json(capsys, "add", "d", "--source", home.table, "--replace")
    home.table.write_text(CSV.replace("c,y", "k,y"))
    code, out, _ = home.run(capsys, "check", "d", "--plan", plan_file(home.folder), "--json")
    assert code == 2
    assert [(one["column"], one["code"]) for one in json.loads(out)["problems"]] == [("c", "column_missing")]
    other = plan_file(home.folder, ("dataset: d", "dataset: e"))
    assert home.refused(capsys, "check", "d", "--plan", other) == (2, "plan_of_other_data")
    assert home.refused(capsys, "check", "e", "--plan", other) == (2, "unknown_dataset")
    other.write_text("version: 7\n")
    assert home.refused(capsys, "check", "d", "--plan", other) == (2, "bad_plan")


# --- exclude ----------------------------------------------------------------------------------------------------------


def test_persons_who_objected_leave_a_digest_and_no_row(home: Home, capsys: Capture) -> None:
    home.json(capsys, "add", "d", "--source", home.table)
    ids = home.folder / "ids.txt"
    ids.write_text("\ufeffp3\r\n\n p7 \nnobody-here\n")
    found = home.json(capsys, "exclude", "d", "--ids", ids, "--column", "id")
    assert {name: found[name] for name in ("column", "persons", "changed", "rows", "excluded", "runs")} == {
        "column": "id",
        "persons": 3,
        "changed": 3,
        "rows": 4,
        "excluded": 3,
        "runs": [],
    }
    assert home.json(capsys, "exclude", "d", "--ids", ids)["changed"] == 0, "the column is the one used before"
    assert home.json(capsys, "exclude", "d", "--list") == {"dataset": "d", "excluded": {"id": 3}}
    assert home.json(capsys, "check", "d", "--plan", plan_file(home.folder))["left_out"] == 4
    assert home.json(capsys, "add", "d", "--source", home.table, "--replace")["rows"] == 36, (
        "it outlives the registration"
    )
    held = b"".join(path.read_bytes() for path in home.home.rglob("*") if path.is_file())
    assert b"nobody-here" not in held
    ids.write_text("p3\nnobody-here\n")
    undone = home.json(capsys, "exclude", "d", "--ids", ids, "--undo")
    assert (undone["changed"], undone["excluded"]) == (2, 1)
    assert home.json(capsys, "check", "d", "--plan", home.folder / "plan.yaml")["left_out"] == 2


def test_the_column_comes_from_the_plans_if_they_agree_and_earlier_runs_are_named(home: Home, capsys: Capture) -> None:
    home.json(capsys, "add", "d", "--source", home.table)
    ids = home.folder / "ids.txt"
    ids.write_text("p3\n")
    assert home.refused(capsys, "exclude", "d", "--ids", ids) == (2, "exclusion_column")
    home.open_run()
    code, out, err = home.run(capsys, "exclude", "d", "--ids", ids)
    assert code == 0
    assert "by id" in out
    assert str(RUN) in out
    assert "10 rows differ" in err


def test_objections_that_cannot_be_taken(home: Home, capsys: Capture) -> None:
    ids = home.folder / "ids.txt"
    ids.write_text("p3\n")
    assert home.refused(capsys, "exclude", "d", "--ids", ids, "--column", "id") == (2, "unknown_dataset")
    assert home.refused(capsys, "exclude", "d", "--list") == (2, "unknown_dataset")
    home.json(capsys, "add", "d", "--source", home.table)
    assert home.refused(capsys, "exclude", "d", "--ids", ids, "--column", "gone") == (2, "bad_data")
    for words in ((), ("--ids", ids, "--list"), ("--list", "--undo"), ("--list", "--column", "id")):
        assert home.refused(capsys, "exclude", "d", *words) == (2, "usage")
    ids.write_text("\n?\n NA \n")
    assert home.refused(capsys, "exclude", "d", "--ids", ids, "--column", "id") == (2, "ids_empty")
    ids.write_bytes(b"\xff\n")
    assert home.refused(capsys, "exclude", "d", "--ids", ids, "--column", "id") == (2, "ids_not_text")
    ids.write_text("p3\n")
    home.table.unlink()
    code, out, err = home.run(capsys, "exclude", "d", "--ids", ids, "--column", "id")
    assert code == 0, "who objects is not turned away because a disk is"
    assert "not known" in out
    assert "data_unreadable" in err


# --- forget -----------------------------------------------------------------------------------------------------------


def test_what_was_made_of_a_data_set_goes_and_what_was_spent_stays(home: Home, capsys: Capture) -> None:
    home.json(capsys, "add", "d", "--source", home.table)
    store = home.store()
    plan = plans.parse_plan(plan_file(home.folder).read_bytes(), "p")
    version = participating.table_bench({}, store).accept(plan)
    spent = SpentKey("d", version, Purpose.TRAIN, b"m" * 32)
    store.put_update(spent, b"h" * 32, [pa.array([1.0]).to_numpy()])
    store.put_update(SpentKey("e", version, Purpose.TRAIN, b"m" * 32), b"h" * 32, [pa.array([1.0]).to_numpy()])
    store.save(AttemptKey(RUN, 1, 1), Idle(), "test", (), Changes(spend=(spent,)))
    store.exclude("d", "id", [b"x" * 32])
    store.close()
    assert len(list((home.home / "snapshots").iterdir())) == 1
    assert len(list((home.home / "updates").iterdir())) == 2
    out = home.folder / "receipt.json"
    found = home.json(capsys, "forget", "d", "--out", out)
    receipt = json.loads(out.read_text())
    assert receipt == found["receipt"]
    statement = json.loads(receipt["statement"])
    assert statement["erased"] == {"registration": True, "snapshots": 1, "updates": 1}
    assert statement["remains"] == {"spent": 1, "ledger": 0, "excluded": 1, "runs": 0}
    assert (statement["dataset"], statement["org"], statement["federation"]) == ("d", "acme", "hospitals-1")
    public = signing.public_key(SIGNING)
    signed = (bytes.fromhex(receipt["sig"]), "data-forgotten", receipt["org"].encode())
    signing.verify_bytes(public, *signed, receipt["statement"].encode())
    with pytest.raises(PeerError):
        signing.verify_bytes(public, *signed, receipt["statement"].replace('"d"', '"e"').encode())
    assert list((home.home / "snapshots").iterdir()) == []
    assert len(list((home.home / "updates").iterdir())) == 1, "that of the other data set"
    assert home.json(capsys, "list") == {"datasets": []}
    assert home.table.exists()
    store = home.store()
    assert spent in store.standing().spent
    assert store.excluded("d") == {"id": frozenset({b"x" * 32})}
    assert [row.kind for row in store.trail()][-1] == "data_forgotten"
    store.close()
    assert home.refused(capsys, "forget", "d") == (2, "unknown_dataset")
    with pytest.raises(ConfigError):
        participating.table_bench({}, store).accept(plan)


def test_a_data_set_in_an_open_run_is_not_forgotten(home: Home, capsys: Capture) -> None:
    home.json(capsys, "add", "d", "--source", home.table)
    home.open_run()
    assert home.json(capsys, "list")["datasets"][0]["open_runs"] == [str(RUN)]
    assert home.refused(capsys, "forget", "d") == (4, "dataset_in_run")
    store = home.store()
    assert "d" in store.registrations()
    store.save_end(RUN, b"p" * 32, "finished", b"")
    store.close()
    assert home.json(capsys, "list")["datasets"][0]["open_runs"] == []
    assert json.loads(home.json(capsys, "forget", "d")["receipt"]["statement"])["remains"]["runs"] == 1


def test_the_path_that_a_start_named_is_forgotten_too(home: Home, capsys: Capture) -> None:
    store = home.store()
    store.save_dataset("d", home.table)
    store.close()
    assert json.loads(home.json(capsys, "forget", "d")["receipt"]["statement"])["erased"]["registration"] is True
    assert home.json(capsys, "list") == {"datasets": []}


def test_the_record_of_processing_has_what_was_registered_and_who_objected(home: Home, capsys: Capture) -> None:
    home.json(capsys, "add", "d", "--source", home.table)
    (home.folder / "ids.txt").write_text("p3\n")
    home.json(capsys, "exclude", "d", "--ids", home.folder / "ids.txt", "--column", "id")
    home.json(capsys, "exclude", "d", "--ids", home.folder / "ids.txt", "--column", "id", "--undo")
    books = home.store()
    assert processing_record._names(books, {}) == ["d"], "also what no plan read yet"
    found: Any = processing_record._data_set("d", books, {}, books.trail())
    assert found["source"] == str(home.table)
    assert [one["kind"] for one in found["registered"]] == ["data_registered"]
    assert [one["kind"] for one in found["masks_and_exclusions"]] == ["persons_excluded", "persons_admitted"]
    books.close()


def test_the_names_of_the_new_tables_are_all_verified_at_the_start() -> None:
    assert {one.name for one in tables.ALL} >= {"sources", "excluded", "sketches", "snapshots"}
