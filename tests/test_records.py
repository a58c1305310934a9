"""What an organisation has on record after a real run: outbox, receipts, audit, export, record of processing.

One federation of processes is run once; each test works on a copy of a home. One of the organisations runs in a network
namespace of its own, where the kernel counts what it really sends.
"""

import json
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.confined_participant import Outside
from tests.patience import LIMIT_S
from tests.processes import NAMES, House, house, plan_text, table

ACME, CONFINED = NAMES[0], NAMES[2]
RUN_ROUNDS = 2
PURPOSE = """purpose: "Early warning | of [bold]sepsis[/bold]"
controller: Northgate Trust
legal_basis: GDPR Art. 9(2)(j)
contact: dpo@northgate.example
retention_days: 365
"""


def namespaces_allowed() -> bool:
    """Whether this machine lets us make network namespaces."""
    try:
        return (
            subprocess.run(["unshare", "-rn", "true"], capture_output=True, timeout=LIMIT_S, check=False).returncode
            == 0
        )
    except OSError:
        return False


ISOLATED = namespaces_allowed()


def a_run(made: House) -> None:
    """A federation from `init` to the end of its first run; nothing of it runs any more when this returns."""
    folder = made.folder
    made.found()
    plan_hash = made.plan(plan_text(rounds=RUN_ROUNDS) + PURPOSE)
    port = int(json.loads((folder / "op" / "federation.json").read_text())["address"].rpartition(":")[2])
    (folder / "doors").mkdir()
    outside = Outside(folder / "doors", (port, port + 1))
    for name in NAMES:
        joined = made.run("join", "-", stdin=made.invite(name), home=name)
        assert joined.returncode == 0, joined.stderr
        if name == CONFINED and ISOLATED:
            (folder / f"{name}.csv").write_text(table(name))
            arguments = ["--data", f"visits={folder / name}.csv", "--accept", plan_hash, "--until-ended"]
            words = [
                str(port),
                str(folder / "doors"),
                str(folder / "counts"),
                "--home",
                str(folder / name),
                "participate",
            ]
            with (folder / f"{name}.err").open("ab") as log:
                made.running[name] = subprocess.Popen(
                    ["unshare", "-rn", sys.executable, "-m", "tests.confined_participant", *words, *arguments],
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    cwd=Path(__file__).parent.parent,
                )
        else:
            made.participate(name, plan_hash, "--until-ended")
    made.until(lambda: made.connected() == list(NAMES), "the organisations' connection")
    started = made.run("run", "start", "plan.yaml", "--governance-passphrase-file", "gov.txt", "--json")
    assert started.returncode == 0, started.stderr
    (folder / "run_id").write_text(json.loads(started.stdout)["run_id"])
    (folder / "plan_hash").write_text(plan_hash)
    for name in NAMES:
        assert made.running.pop(name).wait(timeout=LIMIT_S) == 0, made.err(name)
    outside.close()
    assert made.end("coordinator") == 0


@pytest.fixture(scope="module")
def ended(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The folder of the run."""
    with house(tmp_path_factory.mktemp("run")) as made:
        a_run(made)
        yield made.folder


@pytest.fixture
def home(ended: Path, tmp_path: Path) -> Iterator[House]:
    """A copy of the homes of the operator and of the first organisation."""
    for name in ("op", ACME):
        shutil.copytree(ended / name, tmp_path / name, ignore=shutil.ignore_patterns("*.sock"))
    with house(tmp_path) as made:
        yield made


@pytest.fixture
def run_id(ended: Path) -> str:
    return (ended / "run_id").read_text()


def rewrite(home: House, change: Callable[[sqlite3.Connection], None]) -> None:
    """What an intruder could do who may write the file: the triggers go first."""
    with sqlite3.connect(home.folder / ACME / "journal.db") as connection:
        for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'trigger'").fetchall():
            connection.execute(f"DROP TRIGGER {name}")
        change(connection)
    connection.close()


def refused(home: House, *arguments: str, code: str, exit_code: int) -> str:
    done = home.run(*arguments, "--json", home=ACME)
    error = json.loads(done.stderr.splitlines()[-1])["error"] if done.stderr else {}
    assert (done.returncode, error.get("code"), done.stdout) == (exit_code, code, ""), done.stderr
    return str(error["what"])


def outbox(home: House, *arguments: str) -> Any:
    return home.json("outbox", *arguments, home=ACME)


# --- the outbox -------------------------------------------------------------------------------------------------------


def test_the_outbox_lists_each_message_once_with_its_receipt(home: House, run_id: str) -> None:
    listed = outbox(home)
    sums = 2 + RUN_ROUNDS  # standardise and evaluate are sums too
    uploads = [one for one in listed["messages"] if one["kind"] == "SubmitInput"]
    reveals = [one for one in listed["messages"] if one["what"] == "reveal"]
    assert [(one["what"], one["run"], one["round"], one["receipt"]) for one in uploads] == [
        ("input", run_id, number + 1, "verified") for number in range(sums)
    ]
    assert [(one["round"], one["receipt"]) for one in reveals] == [(n + 1, "verified") for n in range(sums)]
    others = [one for one in listed["messages"] if one["what"] not in {"input", "reveal"}]
    assert {one["receipt"] for one in others} == {""}
    whats = {one["what"] for one in others if one["kind"] == "Session"}
    assert {"participant_hello", "plan_answer", "advert", "shares", "ack", "vote", "run_ended_ack"} <= whats
    assert {one["kind"] for one in listed["messages"]} <= {"Join", "Session", "SubmitInput", *FETCHES}
    assert listed["false_receipts"] == 0
    (total,) = [one for one in listed["totals"] if one["run"] == run_id]
    mine = [one for one in listed["messages"] if one["run"] == run_id]
    assert total["bytes"] == sum(one["bytes"] for one in mine) > 0
    assert (total["messages"], total["verified"], total["awaited"]) == (len(mine), 2 * sums, 0)
    assert outbox(home, "--verify") == listed
    second = outbox(home, "--run", run_id, "--round", "2")["messages"]
    assert second == [one for one in mine if one["round"] == 2]
    text = home.run("outbox", "--run", run_id, home=ACME)
    assert text.returncode == 0
    assert text.stdout.count("verified") == 2 * sums + 1
    refused(home, "outbox", "--run", "run-of-others", code="unknown_run", exit_code=2)


FETCHES = ("FetchSum", "FetchRound", "FetchInputLeaves", "Trust", "Authorities")


def re_digested(connection: sqlite3.Connection, table: str, where: str, **changes: object) -> None:
    """Changes rows and makes their digests and the whole chain anew, as an intruder who read the source would."""
    from fedveil_common.rows import row_digest, row_link

    connection.row_factory = sqlite3.Row
    columns = {row[1] for row in connection.execute(f"PRAGMA table_info({table})")}
    for name, value in changes.items():
        connection.execute(f"UPDATE {table} SET {name} = ? WHERE {where}", (value,))
    order = TABLE_COLUMNS[table]
    assert columns == {*order, "digest", "chain"}
    chain = b""
    for row in connection.execute(f"SELECT * FROM {table} ORDER BY seq").fetchall():
        digest = row_digest(table, order, {name: row[name] for name in order})
        chain = row_link(table, chain, row["seq"], digest)
        connection.execute(f"UPDATE {table} SET digest = ?, chain = ? WHERE seq = ?", (digest, chain, row["seq"]))


TABLE_COLUMNS = {
    "outbox": [
        "seq",
        "wall_s",
        "kind",
        "what",
        "run_id",
        "round",
        "attempt",
        "size_bytes",
        "content",
        "awaits",
        "amends",
    ],
    "receipts": ["seq", "wall_s", "message", "signer_id", "signer_key", "body", "sig"],
    "checkpoints": ["seq", "wall_s", "statement", "sig"],
}


@pytest.mark.parametrize("what", ["signature", "another key", "what it acknowledges", "nothing due"])
def test_a_receipt_that_does_not_verify_is_named(home: House, what: str) -> None:
    """The key of an intruder is no key of the coordinator, whatever stands beside the receipt."""
    from fedveil_common.crypto import signing
    from fedveil_common.ids import COORDINATOR
    from fedveil_common.messages import BlobType
    from fedveil_common.secret import PrivateKey

    def change(connection: sqlite3.Connection) -> None:
        (message, body) = connection.execute("SELECT message, body FROM receipts WHERE seq = 2").fetchone()
        key = PrivateKey(bytes(range(32)))
        made = signing.sign(key, COORDINATOR, BlobType.RECEIPT, body)
        match what:
            case "signature":
                re_digested(connection, "receipts", "seq = 2", sig=made.sig)
            case "another key":
                re_digested(connection, "receipts", "seq = 2", sig=made.sig, signer_key=signing.public_key(key))
            case "nothing due":
                re_digested(connection, "outbox", f"seq = {message}", awaits=b"")
            case _:
                (awaits,) = connection.execute(
                    "SELECT awaits FROM outbox WHERE awaits NOT IN (x'', ?) LIMIT 1", (body,)
                ).fetchone()
                re_digested(connection, "outbox", f"seq = {message}", awaits=awaits)

    rewrite(home, change)
    with sqlite3.connect(home.folder / ACME / "journal.db") as connection:
        (number,) = connection.execute("SELECT message FROM receipts WHERE seq = 2").fetchone()
    connection.close()
    said = refused(home, "outbox", "--verify", code="receipt_false", exit_code=5)
    assert said.startswith("1 receipts")
    assert f"message {number} (" in said
    shown = home.run("outbox", home=ACME)
    assert shown.returncode == 0
    assert "FALSE" in shown.stdout
    assert f"the receipt for message {number} does not verify" in shown.stderr


def test_a_changed_row_is_found(home: House) -> None:
    def change(connection: sqlite3.Connection) -> None:
        connection.execute("UPDATE outbox SET size_bytes = 1 WHERE seq = 4")

    rewrite(home, change)
    refused(home, "outbox", code="database_damaged", exit_code=74)
    refused(home, "audit", "verify", code="database_damaged", exit_code=74)


@pytest.mark.skipif(not ISOLATED, reason="this machine allows no network namespaces")
def test_the_kernel_counts_no_more_than_the_outbox(ended: Path) -> None:
    """Every byte that the participant's sockets sent is accounted for, and all connections led to the coordinator."""
    with house(ended) as made:
        listed = made.json("outbox", home=CONFINED)["messages"]
    counts = json.loads((ended / "counts").read_text())
    sent = [number for numbers in counts["received"].values() for number in numbers]
    assert counts["begun"] == len(sent) > 0, "no connection but those through the two doors was even tried"
    assert counts["datagrams"] == 0
    recorded = sum(one["bytes"] for one in listed if one["kind"] != "Join")  # it joined before it was confined
    assert recorded < sum(sent) <= recorded * 1.1 + 65_536 * len(sent)


# --- the audit --------------------------------------------------------------------------------------------------------


def test_the_trail_says_what_was_read_and_answered(home: House, run_id: str, ended: Path) -> None:
    plan_hash = (ended / "plan_hash").read_text()
    rows = home.json("audit", "show", home=ACME)["rows"]
    assert [row["number"] for row in rows] == list(range(1, len(rows) + 1))
    (registered,) = [row["facts"] for row in rows if row["kind"] == "data_registered"]
    assert (registered["dataset"], Path(registered["path"]).name) == ("visits", f"{ACME}.csv")
    (answered,) = [row["facts"] for row in rows if row["kind"] == "plan_answered"]
    assert answered == {"plan": plan_hash, "code": "accepted"}
    reads = home.json("audit", "show", "--kind", "data_read", "--run", run_id, home=ACME)["rows"]
    assert [row["facts"]["why"] for row in reads] == ["accept", "standardise", "train", "train", "evaluate"]
    assert {(row["facts"]["rows"], row["facts"]["dataset"], row["run"]) for row in reads} == {("40", "visits", run_id)}
    (over,) = [row["facts"] for row in rows if row["kind"] == "run_ended"]
    assert over == {"run": run_id, "code": "finished", "model": "True"}
    assert home.run("audit", "show", "--kind", "nothing", home=ACME).stdout == "nothing of that is on record\n"
    orders = home.json("audit", "show", "--run", run_id)["rows"]  # the operator's
    assert [row["kind"] for row in orders] == ["run.created", "run.running", "run.ended"]


def test_the_records_verify_and_a_rewritten_row_is_found(home: House) -> None:
    checked = home.json("audit", "verify", home=ACME)
    assert checked["checkpoints"] >= 2, "at the start and at the end"
    assert checked["uncovered"] == 0
    assert all(checked["rows"][name] > 0 for name in ("trail", "outbox", "receipts"))
    assert home.json("audit", "verify")["rows"]["audit"] > 0  # the coordinator's
    rewrite(home, lambda connection: re_digested(connection, "outbox", "seq = 4", size_bytes=1))
    said = refused(home, "audit", "verify", code="records_rewritten", exit_code=70)
    assert "outbox" in said


def test_a_checkpoint_under_another_key_is_none(home: House) -> None:
    rewrite(home, lambda connection: re_digested(connection, "checkpoints", "seq = 1", sig=bytes(64)))
    refused(home, "audit", "verify", code="head_not_signed", exit_code=70)


def test_rows_that_are_cut_off_with_their_checkpoints_are_seen_against_an_earlier_export(home: House) -> None:
    exported = home.json("audit", "export", "--out", "earlier.jsonl", home=ACME)
    assert exported["rows"] > 0
    assert home.json("audit", "verify", "--against", "earlier.jsonl", home=ACME)["uncovered"] == 0

    def cut(connection: sqlite3.Connection) -> None:
        connection.execute("DELETE FROM outbox WHERE seq > 3")
        connection.execute("DELETE FROM receipts")
        connection.execute("DELETE FROM checkpoints")

    rewrite(home, cut)
    assert home.json("audit", "verify", home=ACME)["checkpoints"] == 0  # by itself it cannot know
    refused(home, "audit", "verify", "--against", "earlier.jsonl", code="records_rewritten", exit_code=70)


def test_an_export_verifies_by_itself_and_by_a_second_implementation(home: House) -> None:
    home.json("audit", "export", "--out", "records.jsonl", home=ACME)
    file = home.folder / "records.jsonl"
    found = home.json("audit", "verify", "--file", "records.jsonl", home="nobody")
    assert found["organisation"] == ACME
    assert found["rows"]["outbox"] == len({one["number"] for one in outbox(home)["messages"]}) + amendments(home)
    script = Path(__file__).parent.parent / "examples" / "verify_audit" / "verify_audit.py"

    def second(path: Path) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            [sys.executable, script, path], capture_output=True, text=True, timeout=LIMIT_S, check=False
        )

    done = second(file)
    assert (done.returncode, done.stderr) == (0, "")
    assert f"signed under {found['protocol_key']}" in done.stdout
    printed = home.run("audit", "export", home=ACME).stdout.splitlines()
    assert printed[:-1] == file.read_text().splitlines()[:-1], "the head is signed at another second"
    lines = file.read_bytes().splitlines(keepends=True)
    outboxes = next(index for index, line in enumerate(lines) if b'"table":"outbox"' in line)
    for story, changed in {
        "changed": [
            line.replace(b'"kind":"', b'"kind":"x', 1) if index == outboxes else line
            for index, line in enumerate(lines)
        ],
        "left out": [line for index, line in enumerate(lines) if index != outboxes],
        "cut": lines[:-1],
        "twice": [*lines[: outboxes + 1], *lines[outboxes:]],
        "behind": [*lines, lines[outboxes]],
        "no file of records": [b"{}\n"],
        "empty": [],
        "another organisation": [line.replace(b'"organisation":"acme"', b'"organisation":"axme"', 1) for line in lines],
    }.items():
        file.write_bytes(b"".join(changed))
        error = json.loads(home.run("audit", "verify", "--file", "records.jsonl", "--json", home="nobody").stderr)[
            "error"
        ]
        assert error["code"] in {"records_damaged", "head_not_signed"}, story
        assert second(file).returncode == 1, story


def amendments(home: House) -> int:
    with sqlite3.connect(home.folder / ACME / "journal.db") as connection:
        found = int(connection.execute("SELECT count(*) FROM outbox WHERE amends != 0").fetchone()[0])
    connection.close()
    return found


def test_an_export_of_another_home_is_refused(home: House, ended: Path) -> None:
    with house(ended) as made:
        made.json("audit", "export", "--out", str(home.folder / "other.jsonl"), home=NAMES[1])
    refused(home, "audit", "verify", "--against", "other.jsonl", code="other_records", exit_code=2)


# --- the record of processing -----------------------------------------------------------------------------------------


def test_the_record_of_processing(home: House, run_id: str, ended: Path) -> None:
    record = home.json("audit", "export", "--dpo", home=ACME)
    (processing,) = record["processings"]
    assert processing["plan_hash"] == (ended / "plan_hash").read_text()
    assert processing["purpose"] == "Early warning | of [bold]sepsis[/bold]"
    assert (processing["controller"], processing["retention_days"]) == ("Northgate Trust", 365)
    assert (processing["legal_basis"], processing["contact"]) == ("GDPR Art. 9(2)(j)", "dpo@northgate.example")
    assert processing["columns"] == ["age", "lactate", "sex", "died"]
    assert [(one["kind"], one["facts"]["by"]) for one in processing["approvals"]] == [("plan_accepted", "--accept")]
    (run,) = processing["runs"]
    assert (run["run"], run["how"], run["rounds_with_an_input"]) == (run_id, "finished", 2 + RUN_ROUNDS)
    assert {read["rows"] for read in run["reads"]} == {"40"}
    (total,) = [one for one in outbox(home)["totals"] if one["run"] == run_id]
    assert run["bytes_sent"] == total["bytes"]
    assert record["recipients"]["participants_of_sums_and_models"] == sorted(set(NAMES) - {ACME})
    (data,) = record["data_sets"]
    assert (data["name"], data["runs_with_exact_sums"]) == ("visits", [run_id])
    assert len(record["retention"]) > 10
    text = home.run("audit", "export", "--dpo", home=ACME).stdout
    assert "- purpose: Early warning \\| of [bold]sepsis[/bold]" in text
    assert f"| {run_id} |" in text
    home.json("audit", "export", "--dpo", "--out", "dpo.json", home=ACME)
    assert json.loads((home.folder / "dpo.json").read_text())["processings"] == record["processings"]
    home.json("audit", "export", "--dpo", home=ACME)


def test_the_retention_table_of_the_page_is_that_of_the_program() -> None:
    from fedveil_participant.retention import RETENTION, WHY_FOR_GOOD
    from fedveil_participant.store import tables

    page = (Path(__file__).parent.parent / "docs" / "audit.md").read_text()
    for one in RETENTION:
        where, _, rest = one.where.partition(": ")
        place = f"`{where}`: {rest}" if rest else f"`{where}`"
        assert f"| {place} | {one.what} | {one.until} |" in page
    assert WHY_FOR_GOOD in page
    named = " ".join(one.where for one in RETENTION).replace(",", "").split()
    missing = {table.name for table in tables.ALL} - set(named)
    assert missing == {"presumed_spent", "forgiven", "disputed", "marks", "updates", "snapshots", "ends"}, (
        "a table nobody accounts for"
    )
