"""A federation over registered data sets, in real processes: a source that changes, and a person who objects."""

import json
import sqlite3
from pathlib import Path

import pyarrow as pa
import pytest
from pyarrow import parquet

from tests.processes import NAMES, House, house, plan_text
from tests.processes import table as table_text


@pytest.fixture
def hospitals(tmp_path: Path) -> House:  # type: ignore[misc]
    with house(tmp_path) as made:
        yield made


def test_registered_sources_a_source_that_changes_in_the_middle_and_a_second_run(hospitals: House) -> None:
    """Three organisations: a CSV file, a Parquet file and a database. One is killed in the middle of the run, its file
    is another when it comes back, and the run ends as if nothing had been. Afterwards one person objects: the same plan
    is refused, since the difference of two exact sums would be that person.
    """
    hospitals.found()
    plan_hash = hospitals.plan(plan_text())
    folder = hospitals.folder
    for name in NAMES:
        joined = hospitals.run("join", "-", stdin=hospitals.invite(name), home=name)
        assert joined.returncode == 0, joined.stderr
    (folder / "acme.csv").write_text(table_text("acme"))
    header, *rows = [line.split(",") for line in table_text("borealis").splitlines()]
    parquet.write_table(
        pa.table({one: [row[i] or None for row in rows] for i, one in enumerate(header)}), folder / "b.pq"
    )
    with sqlite3.connect(folder / "c.db") as connection:
        header, *rows = [line.split(",") for line in table_text("cygnus").splitlines()]
        connection.execute(f"CREATE TABLE visits ({', '.join(header)})")
        connection.executemany("INSERT INTO visits VALUES (?, ?, ?, ?, ?)", rows)
    connection.close()
    sources = {"acme": ("acme.csv",), "borealis": ("b.pq",), "cygnus": ("sqlite:///c.db", "--table", "visits")}
    for name, source in sources.items():
        added = hospitals.json("data", "add", "visits", "--source", *source, home=name)
        assert (added["rows"], len(added["columns"])) == (40, 5)
        assert hospitals.json("data", "check", "visits", "--plan", "plan.yaml", home=name)["fulfils"] is True
        dying = {"FEDVEIL_FAILPOINT": "participant.before.input:2"} if name == "acme" else None
        hospitals.start(name, "participate", "--accept", plan_hash, home=name, environment=dying)
    hospitals.until(lambda: hospitals.connected() == list(NAMES), "the organisations' connection")
    assert (
        hospitals.run("run", "start", "plan.yaml", "--governance-passphrase-file", "gov.txt", "--detach").returncode
        == 0
    )
    hospitals.until(lambda: hospitals.running["acme"].poll() is not None, "the failpoint")
    hospitals.running.pop("acme").wait()
    assert len(list((folder / "acme" / "snapshots").iterdir())) == 1
    (folder / "acme.csv").write_text("ward\nnothing of what the plan reads\n")
    with sqlite3.connect(folder / "c.db") as connection:
        connection.execute("UPDATE visits SET age = 1")
    connection.close()
    hospitals.start("acme", "participate", home="acme")
    run = hospitals.json("run", "list")["runs"][0]["run_id"]
    watched = hospitals.run("run", "watch", run, "--json")
    assert watched.returncode == 0, watched.stderr + hospitals.err("acme")
    for one in hospitals.json("run", "show", run)["rounds"]:
        assert one["survivors"] == list(NAMES), "who was killed came back into the same attempt"
    for name in NAMES:
        hospitals.until(lambda name=name: "run_ended" in hospitals.err(name), f"the end at {name}")  # type: ignore[misc]
        assert "data_changed" not in hospitals.err(name)
        assert hospitals.end(name) == 0
        assert list((folder / name / "snapshots").iterdir()) == []
    (folder / "acme.csv").write_text(table_text("acme"))
    (folder / "ids.txt").write_text("acme-3\n")
    excluded = hospitals.json("data", "exclude", "visits", "--ids", "ids.txt", "--column", "ward", home="acme")
    assert (excluded["rows"], excluded["runs"]) == (1, [run])
    hospitals.start("acme", "participate", home="acme")
    hospitals.start("borealis", "participate", home="borealis")
    hospitals.start("cygnus", "participate", home="cygnus")
    hospitals.until(lambda: hospitals.connected() == list(NAMES), "the organisations' return")
    again = hospitals.run("run", "start", "plan.yaml", "--governance-passphrase-file", "gov.txt", "--detach")
    assert again.returncode == 0, again.stderr
    hospitals.until(lambda: "differs in 1 rows" in hospitals.err("acme"), "the refusal")
    assert "code=model_spent" in hospitals.err("acme")
    assert hospitals.end("acme") == 0
    receipt = hospitals.json("data", "forget", "visits", home="acme")["receipt"]
    remains = json.loads(receipt["statement"])["remains"]
    assert remains["spent"] > 0
    assert (remains["excluded"], remains["runs"]) == (1, 1)
