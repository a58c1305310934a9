"""A model from its run to its withdrawal, by the commands of real processes: mutual TLS, kill -9 between, and a
coordinator whose files rest sealed.
"""

import json
import shutil
import ssl
import urllib.request
from pathlib import Path

from fedveil_common.pki.invites import split_address
from fedveil_common.registry import status

from tests.patience import LIMIT_S
from tests.processes import NAMES, House, house, plan_text

CA = ("--passphrase-file", "ca.txt")
SEAL, UNSEAL = ("storage", "seal", *CA), ("storage", "open", *CA)
QUESTIONS = """
version: 1
name: asked
kind: statistics
data:
  dataset: visits
  features:
    age: {type: float, range: [0, 120], clamp: true}
    sex: {type: category, values: [F, M]}
  min_rows: 5
statistics:
  max_rows: 1000
  min_cell: 1
  refresh: 0
  queries:
    - {count: rows}
    - {mean: age}
    - {group_count: sex}
cohort: {min_participants: 3, max_corrupt: 1, progress_s: 20, wait_s: 60}
protection: {kind: masked}
privacy: none
"""
REASON = "the units of one table were wrong"


def refused(home: House, *arguments: str, at: str = "op") -> tuple[int, str]:
    """(exit code, error code) of a command that must not succeed, and prints nothing on stdout."""
    done = home.run(*arguments, "--json", home=at)
    assert (done.returncode != 0, done.stdout) == (True, ""), done
    return done.returncode, json.loads(done.stderr.strip().splitlines()[-1])["error"]["code"]


def stage(home: House, run: str) -> str:
    return str(home.json("model", "show", run)["stage"])


def countersigned(home: House, run: str) -> list[str]:
    return list(home.json("model", "show", run)["countersigned"])


def test_a_release_from_its_run_to_its_withdrawal(tmp_path: Path) -> None:
    with house(tmp_path) as home:
        home.found()
        assert refused(home, *SEAL) == (2, "data_folder_in_use")
        home.end("coordinator")
        assert home.json(*SEAL)["sealed"] is True
        home.serve()
        plan_hash = home.plan(plan_text(standardise="range"))
        for name in NAMES:
            assert home.run("join", "-", stdin=home.invite(name), home=name).returncode == 0
            home.participate(name, plan_hash, *(("--countersign", "ask") if name == NAMES[0] else ()))
        home.until(lambda: home.connected() == list(NAMES), "the organisations' connection")
        run = str(home.json("run", "start", "plan.yaml", "--governance-passphrase-file", "gov.txt")["run_id"])

        home.until(lambda: countersigned(home, run) == list(NAMES[1:]), "two countersignatures")
        assert stage(home, run) == "draft"
        assert refused(home, "model", "promote", run, "--to", "released") == (2, "stage_jump")
        assert refused(home, "model", "promote", f"{run}:1", "--to", "candidate") == (2, "not_final_model")
        assert refused(home, "model", "withdraw", run, "--reason", " ") == (2, "reason_missing")
        promoted = home.json("model", "promote", run, "--to", "candidate", "--reason", "looks good")
        assert (promoted["stage"], promoted["decisions"][0]["who"]) == ("candidate", "operator")
        assert refused(home, "model", "promote", run, "--to", "released") == (4, "release_without_quorum")

        acme = NAMES[0]
        home.until((home.folder / acme / "countersignatures" / f"{run}.held").exists, "a question")
        assert home.json("model", "countersign", home=acme) == {"waiting": [run]}
        assert home.json("model", "countersign", run, home=acme) == {"run_id": run, "countersigned": True}
        home.end(acme)
        home.participate(acme, plan_hash)
        home.until(lambda: countersigned(home, run) == list(NAMES), "the last countersignature")

        home.end("coordinator")
        sums = {path.name: path.read_bytes() for path in (home.folder / "op" / "sums").iterdir()}
        assert len(sums) == 3
        assert all(data.endswith(b"FVREST01") for data in sums.values())
        killed = home.run("storage", "rotate", *CA, environment={"FEDVEIL_FAILPOINT": "coordinator.before.convert:3"})
        assert (killed.returncode, killed.stdout) == (-9, "")
        assert refused(home, "serve", *CA) == (2, "storage_unfinished")
        assert home.json("storage", "rotate", *CA)["files"] >= len(sums)
        for name, data in sums.items():
            assert (home.folder / "op" / "sums" / name).read_bytes() != data
        for point, left in (("coordinator.before.stage", "candidate"), ("coordinator.after.stage", "released")):
            home.serve(environment={"FEDVEIL_FAILPOINT": point})
            assert home.run("model", "promote", run, "--to", "released").returncode != 0
            assert home.running.pop("coordinator").wait(timeout=LIMIT_S) == -9
            home.serve()
            assert stage(home, run) == left
            home.end("coordinator")
        home.serve()

        out = home.json("model", "export", "--run", run, "--out", "model.safetensors")
        fingerprint = str(home.json("fingerprint")["fingerprint_hex"])
        outside = ("model.safetensors", "--fingerprint", fingerprint)
        verified = home.json("model", "verify", *outside, home="nobody")
        assert verified["release"]["countersigned"] == list(NAMES)
        assert (verified["release"]["quorum"], verified["release"]["released_by"]) == (3, "operator")
        assert verified["status"]["stage"] == "released"
        shown = home.run("model", "verify", *outside, home="nobody").stdout
        assert "countersigned by 3 of 3, 3 must: acme, borealis, cygnus" in shown
        assert "released, as of 20" in shown
        listed = json.loads(home.run("model", "list", "--json").stdout)["models"]
        assert [(one["run_id"], one["stage"]) for one in listed] == [(run, "released")]
        differed = home.json("model", "diff", f"{run}:1", run)
        assert (differed["same_data"], differed["plan"]) == (True, [])
        assert differed["distance"][-1]["l2"] > 0
        assert differed["second"]["steps"] == 2

        what_else_reads_files_at_rest(home, run)
        for name in ("coordinator", acme):
            limits = Path(f"/proc/{home.running[name].pid}/limits").read_text().splitlines()
            assert [line.split()[4:6] for line in limits if "core file" in line] == [["0", "0"]]

        old = home.folder / "old.json"
        shutil.copy(home.folder / out["status_file"], old)
        assert home.json("model", "withdraw", run, "--reason", REASON)["stage"] == "withdrawn"
        kept = home.folder / acme / status.FILE
        home.until(lambda: '\\"withdrawn\\"' in kept.read_text(), "the list at a participant")
        prediction = ("predict", "--model", "model.safetensors", "--data", f"{acme}.csv", "--out", "scores.csv")
        assert refused(home, *prediction, at=acme) == (4, "model_withdrawn")
        assert refused(home, *prediction, "--status", "old.json", at=acme) == (5, "status_rollback")
        assert refused(home, "model", "verify", "model.safetensors", at=acme) == (4, "model_withdrawn")
        for at in (acme, "op"):  # of their own stores: the home's list, and the coordinator's own
            assert refused(home, "model", "export", "--run", run, "--out", "again", at=at) == (4, "model_withdrawn")
        assert not (home.folder / "again").exists()
        assert not (home.folder / "scores.csv").exists()
        answered = fetched(home)
        assert status.read(answered, bytes.fromhex(fingerprint)) == status.contents(kept.read_bytes())
        home.json("model", "verify", *outside, home="nobody")  # its list is the old one: it cannot know
        (home.folder / "new.json").write_bytes(answered)
        assert refused(home, "model", "verify", *outside, "--status", "new.json", at="nobody") == (4, "model_withdrawn")
        assert refused(home, "model", "rollback", run, "--reason", "no") == (2, "stage_jump")
        said = home.run("model", "show", run).stdout
        assert "released -> withdrawn" in said
        assert REASON in said
        check_nothing_in_clear(home)


def agreed(home: House, *start: str) -> str:
    """A run that every organisation consents to, at its end."""
    begun = home.json("run", "start", *start, "--detach", "--governance-passphrase-file", "gov.txt")
    for name in NAMES:
        approve = ("approve", begun["plan_hash"])
        home.until(lambda: home.run(*approve, home=name).returncode == 0, f"the plan at {name}")  # noqa: B023
    assert home.json("run", "watch", begun["run_id"])["code"] == "finished"
    return str(begun["run_id"])


def what_else_reads_files_at_rest(home: House, run: str) -> None:
    """A run that goes on from another, statistics, an audit's export, a model sealed for somebody, an order."""
    (home.folder / "next.yaml").write_text(plan_text(rounds=1, standardise="range"))
    further = agreed(home, "next.yaml", "--from", run)
    assert home.json("model", "promote", further, "--to", "candidate")["stage"] == "candidate"
    home.json("data", "key", "--out", "clinic", home="nobody")
    home.json("model", "export", "--run", further, "--out", "further.safetensors")
    home.json("model", "seal", "further.safetensors", "--for", "clinic.pub", "--out", "further.sealed")
    key = ("--key", "clinic.key", "--fingerprint", str(home.json("fingerprint")["fingerprint_hex"]))
    assert home.json("model", "open", "further.sealed", *key, "--out", "got", home="nobody")["run_id"] == further
    assert (home.folder / "got").read_bytes() == (home.folder / "further.safetensors").read_bytes()
    assert home.json("verify", further, "1", "--export", "audited")["verified"] is True
    (home.folder / "questions.yaml").write_text(QUESTIONS)
    asked = agreed(home, "questions.yaml")
    assert home.json("answers", asked)["answers"] == home.json("answers", asked, home=NAMES[1])["answers"]
    assert home.json("storage", "show")["state"] == "sealed"


def check_nothing_in_clear(home: House) -> None:
    """Every file beside the database is sealed, and what is in a sum stands nowhere in the home."""
    home.end("coordinator")
    op = home.folder / "op"
    kept = [path for name in ("sums", "inputs", "spool") for path in (op / name).iterdir()]
    assert len([path for path in kept if path.parent.name == "sums"]) == 3 + 2 + 1
    assert len([path for path in kept if path.parent.name == "inputs"]) >= 3 * len(NAMES)
    assert all(path.read_bytes().endswith(b"FVREST01") for path in kept)
    assert home.json(*UNSEAL)["sealed"] is False
    opened = [path.read_bytes()[:256] for path in (op / "sums").iterdir()]
    assert home.json(*SEAL)["sealed"] is True
    everywhere = [path.read_bytes() for path in [*op.rglob("*"), *home.folder.glob("coordinator.*")] if path.is_file()]
    assert opened
    for begin in opened:
        assert not any(begin[:24] in data for data in everywhere)


def fetched(home: House) -> bytes:
    """GET /status of the enrolment port, its authority pinned."""
    member = json.loads((home.folder / NAMES[0] / "participant.json").read_text())
    host, port = split_address(member["address"])
    context = ssl.create_default_context(cadata=(home.folder / NAMES[0] / "ca.pem").read_text())
    with urllib.request.urlopen(f"https://{host}:{port + 1}/status", context=context, timeout=LIMIT_S) as answer:
        return bytes(answer.read())
