"""Rivals R18 and R19 with real processes: no run without its organisation's consent, rows counted at every request.

R18: a run reaches every connected organisation and none takes part before its people said so; the policy decides over
them; those who agree go on without the others. R19: what is left after filters is counted when a plan is answered.
"""

import json
import sqlite3
from pathlib import Path

import pytest

from tests.processes import NAMES, House, house, plan_text, table

DELTA = "delta"
EXACT_POLICY = """
version: 1
privacy: {exact_sums: allow, max_epsilon: 1, max_delta: 1.0e-5}
data:
  visits: {features: all, targets: [died], min_rows: 39}
"""


def enrolled(home: House, names: tuple[str, ...]) -> None:
    home.found()
    for name in names:
        token = home.invite(name)
        done = home.run("join", "-", stdin=token, home=name)
        assert done.returncode == 0, done.stderr
        (home.folder / f"{name}.csv").write_text(table(name))


def begin(home: House, name: str, *extra: str, environment: dict[str, str] | None = None) -> None:
    home.start(name, "participate", "--data", f"visits={name}.csv", *extra, home=name, environment=environment)


def started(home: House) -> str:
    found = home.json("run", "start", "plan.yaml", "--detach", "--governance-passphrase-file", "gov.txt")
    return str(found["run_id"])


def sent_inputs(home: House, name: str) -> int:
    """Uploads on record in the home's outbox."""
    with sqlite3.connect(f"file:{home.folder / name / 'journal.db'}?mode=ro", uri=True) as connection:
        (found,) = connection.execute("SELECT count(*) FROM outbox WHERE kind = 'SubmitInput'").fetchone()
    return int(found)


def trail(home: House, name: str) -> list[tuple[str, dict[str, str]]]:
    with sqlite3.connect(f"file:{home.folder / name / 'journal.db'}?mode=ro", uri=True) as connection:
        found = connection.execute("SELECT kind, facts FROM trail ORDER BY seq").fetchall()
    return [(kind, dict(json.loads(facts))) for kind, facts in found]


def test_rival_R18_no_run_without_the_organisations_consent(tmp_path: Path) -> None:
    with house(tmp_path) as home:
        enrolled(home, (*NAMES, DELTA))
        digest = home.plan(plan_text(rounds=1, progress_s=30))
        (home.folder / DELTA / "policy.yaml").write_text(EXACT_POLICY.replace("allow", "refuse"))
        for name in (*NAMES[:2], DELTA):
            begin(home, name)
        killed = {"FEDVEIL_FAILPOINT": "participant.before.advert"}
        begin(home, NAMES[2], environment=killed)
        home.until(lambda: len(home.connected()) == 4, "four sessions")
        run = started(home)
        home.until(lambda: all("code=consent_pending" in home.err(name) for name in NAMES), "three that wait")
        home.until(lambda: "code=policy_refused" in home.err(DELTA), "the policy's refusal")
        shown = home.json("run", "show", run)
        assert shown["rounds"] == [], "nobody was made to take part"

        # the policy decides: nobody can approve what it refuses
        checked = home.run("policy", "check", "plan.yaml", home=DELTA)
        assert checked.returncode == 4
        assert "privacy.exact_sums" in checked.stdout
        refused = home.run("approve", digest, "--json", home=DELTA)
        assert refused.returncode in {2, 4}

        # by hash, and by nothing less
        for bad in (digest[:-1], digest + "0", "triage", "z" * 64):
            done = home.run("approve", bad, "--json", home=NAMES[0])
            assert (done.returncode, json.loads(done.stderr)["error"]["code"]) == (2, "bad_plan_hash")
        unknown = home.run("approve", "0" * 64, "--json", home=NAMES[0])
        assert json.loads(unknown.stderr)["error"]["code"] == "unknown_plan"

        pending = home.json("pending", home=NAMES[0])["pending"]
        assert [(one["run"], one["plan_hash"]) for one in pending] == [(run, digest)]
        text = home.run("show", digest, home=NAMES[0]).stdout.splitlines()
        assert [line.partition(":")[0] for line in text[1:3]] == ["protection", "epsilon"]

        # two agree, the third is killed between its approval and its first advert
        for name in NAMES:
            assert home.json("approve", digest, home=name)["complete"] is True
        home.until(lambda: home.running[NAMES[2]].poll() is not None, "the kill")
        home.end(NAMES[2])
        assert sent_inputs(home, NAMES[2]) == 0
        begin(home, NAMES[2])
        home.until(lambda: all("run_ended" in home.err(name) for name in NAMES), "the end")
        for name in NAMES:
            assert "code=finished model=True" in home.err(name)
            assert sent_inputs(home, name) > 0
        assert sent_inputs(home, DELTA) == 0, "and delta gave nothing"

        kinds = [kind for kind, _ in trail(home, NAMES[0])]
        assert kinds.index("consent_pending") < kinds.index("consent_given") < kinds.index("advert")
        given = next(facts for kind, facts in trail(home, NAMES[0]) if kind == "consent_given")
        assert given["plan"] == digest
        assert given["uid"].isdigit()
        assert "protection: masked" in given["shown"]
        adverts = [facts for kind, facts in trail(home, NAMES[0]) if kind == "advert"]
        assert {one["approved_by"] for one in adverts} == {"approval 1"}
        assert ("policy_refused", "exact_sums_refused") in [
            (kind, facts.get("rules", "")) for kind, facts in trail(home, DELTA)
        ]
        coordinator = home.err("coordinator")
        for secret in ("exact_sums", "rows_below", "approval 1", "nobody has approved"):
            assert secret not in coordinator, "the coordinator hears closed codes"

        # a second run of the same plan waits again; no input is given while it waits, is denied or paused
        before = sent_inputs(home, NAMES[0])
        second = started(home)
        home.until(
            lambda: [one["run"] for one in home.json("pending", home=NAMES[0])["pending"]] == [second], "the second"
        )
        denied = home.json("deny", digest, "--reason", "not again \udcff", home=NAMES[0])
        assert denied["withdrawn_from"] == []
        home.until(lambda: "code=consent_denied" in home.err(NAMES[0]), "the answer to the second")
        assert home.json("pause", home=NAMES[0]) == {"paused": True}
        assert home.json("pending", home=NAMES[0])["paused"] is True
        assert home.json("resume", home=NAMES[0]) == {"paused": False}
        assert home.json("leave", home=NAMES[0]) == {"leaving": True}
        home.until(lambda: home.running[NAMES[0]].poll() is not None, "its end")
        assert home.end(NAMES[0]) == 0
        assert sent_inputs(home, NAMES[0]) == before
        assert "not again" not in home.err("coordinator")

        # without a participant that runs, the same commands work in its home
        assert home.run("leave", "--json", home=NAMES[0]).returncode == 69
        (row,) = home.json("pending", home=NAMES[0])["pending"]
        assert row["state"] == "denied by root"
        assert home.json("approve", digest, home=NAMES[0])["run"] == second
        assert home.json("pending", home=NAMES[0])["pending"][0]["state"].startswith("approved")


@pytest.mark.parametrize("rows", [39, 38])
def test_rival_R19_minimum_rows_are_counted_per_request_after_filters(tmp_path: Path, rows: int) -> None:
    """A row with a missing lactate is dropped by the plan's own rule; what is left must be 39 or more."""
    with house(tmp_path) as home:
        enrolled(home, NAMES)
        digest = home.plan(plan_text(rounds=1, progress_s=30).replace("missing: mean", "missing: drop"))
        lines = table(NAMES[0], 80).splitlines()
        kept = [line for line in lines[1:] if line.split(",")[1]]
        dropped = [line for line in lines[1:] if not line.split(",")[1]]
        assert dropped
        (home.folder / f"{NAMES[0]}.csv").write_text("\n".join([lines[0], *kept[:rows], *dropped]) + "\n")
        (home.folder / NAMES[0] / "policy.yaml").write_text(EXACT_POLICY)
        for name in NAMES:
            begin(home, name, "--accept", digest, "--until-ended")
        home.until(lambda: len(home.connected()) == 3, "three sessions")
        run = started(home)
        if rows == 39:
            home.until(lambda: all("run_ended" in home.err(name) for name in NAMES), "the end")
            assert "code=finished" in home.err(NAMES[0])
            return
        home.until(lambda: "code=no_update" in home.err(NAMES[0]), "the refusal")
        assert "38 rows, allowed is at least 39" in home.err(NAMES[0])
        assert sent_inputs(home, NAMES[0]) == 0
        assert "38" not in json.dumps(home.json("run", "show", run)["missing"])
        assert ("policy_refused", "rows_below_policy") in [
            (kind, facts.get("rules", "")) for kind, facts in trail(home, NAMES[0])
        ]


def test_a_policy_that_cannot_be_read_starts_nothing(tmp_path: Path) -> None:
    with house(tmp_path) as home:
        enrolled(home, NAMES[:1])
        path = home.folder / NAMES[0] / "policy.yaml"
        command = ("participate", "--data", f"visits={NAMES[0]}.csv", "--json")
        for text, code, exit_code in (
            ("version: 1\n", "bad_policy", 2),
            (EXACT_POLICY + "approvers: [{user: root}]\n", "policy_writable", 4),
        ):
            path.write_text(text)
            done = home.run(*command, home=NAMES[0])
            assert (done.returncode, json.loads(done.stderr.splitlines()[-1])["error"]["code"]) == (exit_code, code)
        path.unlink()
        done = home.run(*command, "--policy", "elsewhere.yaml", home=NAMES[0])
        assert json.loads(done.stderr.splitlines()[-1])["error"]["code"] == "policy_missing"
