"""The five commands of the README, typed literally by a test in separate folders, and what goes wrong around them."""

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.patience import LIMIT_S
from tests.processes import NAMES, House, house, plan_text, table


@pytest.fixture
def home(tmp_path: Path) -> House:  # type: ignore[misc]
    with house(tmp_path) as made:
        yield made


@pytest.fixture
def cold(tmp_path: Path) -> House:  # type: ignore[misc]
    """Each command begins once in an interpreter of its own, as a person's shell begins it."""
    with house(tmp_path, cold=True) as made:
        yield made


def test_rival_R15_the_five_commands_end_with_a_model_that_everyone_verifies(cold: House) -> None:
    home = cold
    home.found()
    plan_hash = home.plan(plan_text())
    for name in NAMES:
        joined = home.run("join", "-", stdin=home.invite(name), home=name)
        assert joined.returncode == 0, joined.stderr
        home.participate(name, plan_hash, "--until-ended")
    home.until(lambda: home.connected() == list(NAMES), "the organisations' connection")
    started = home.run("run", "start", "plan.yaml", "--governance-passphrase-file", "gov.txt", "--json")
    assert started.returncode == 0, started.stderr
    report = json.loads(started.stdout)
    assert [one["purpose"] for one in report["rounds"]] == ["standardise", "train", "train", "evaluate"]
    assert all(one["survivors"] == list(NAMES) and one["dropped"] == [] for one in report["rounds"])
    fingerprint = home.json("fingerprint")["fingerprint_hex"]
    models = set()
    for name in NAMES:
        assert home.running.pop(name).wait(timeout=LIMIT_S) == 0  # --until-ended
        exported = home.json("model", "export", "--out", f"{name}.safetensors", home=name)
        assert exported["run_id"] == report["run_id"]
        models.add((home.folder / f"{name}.safetensors").read_bytes())
        assert home.json("model", "verify", f"{name}.safetensors", home=name)["verified"] is True
        assert home.json("model", "verify", f"{name}.safetensors", "--fingerprint", fingerprint, home="nobody")
        rows = home.json(
            "predict", "--model", f"{name}.safetensors", "--data", f"{name}.csv", "--out", f"{name}.out.csv", home=name
        )["rows"]
        lines = (home.folder / f"{name}.out.csv").read_text().splitlines()
        assert lines[0] == "row,prediction"
        assert len(lines) == rows + 1 == 41
    home.json("model", "export", "--out", "operator.safetensors")
    models.add((home.folder / "operator.safetensors").read_bytes())
    assert len(models) == 1, "the operator and every organisation hold the same bytes"
    wrong = "0" * 64
    refused = home.run("model", "verify", "acme.safetensors", "--fingerprint", wrong, home="nobody")
    assert refused.returncode == 5
    assert "[fingerprint_mismatch]" in refused.stderr
    # what an operator looks at
    assert home.json("run", "list")["runs"][0]["code"] == "finished"
    assert home.json("run", "show", report["run_id"])["model"] == report["model"]
    shown = home.json("round", "show", report["run_id"], "2")
    assert shown["survivors"] == list(NAMES)
    assert home.json("health")["serving"] is True
    verified_by_all(home, str(report["run_id"]), fingerprint)
    # the same plan again on the same data: every organisation says that it is spent
    for name in NAMES:
        home.participate(name, plan_hash)
    home.until(lambda: home.connected() == list(NAMES), "the organisations' return")
    again = home.run("run", "start", "plan.yaml", "--governance-passphrase-file", "gov.txt")
    assert again.returncode == 4
    assert "[model_spent]" in again.stderr
    for name in NAMES:
        assert home.end(name) == 0
    assert home.end("coordinator") == 0
    secrets = [path for path in home.folder.rglob("*.err") if "PRIVATE KEY" in path.read_text()]
    assert secrets == []
    for name in NAMES:  # R15: private keys never leave their machine
        key = (home.folder / name / "tls.key").read_bytes().splitlines()[1]
        assert len(key) > 40
        holders = {path for path in home.folder.rglob("*") if path.is_file() and key in path.read_bytes()}
        assert {path.parts[len(home.folder.parts)] for path in holders} == {name}


def verified_by_all(home: House, run: str, fingerprint: str) -> None:
    """The sums are made again by the operator, by an organisation, from a folder, and without Fedveil."""
    for number in ("1", "4"):
        for who in ("op", "acme"):
            found = home.json("verify", run, number, home=who)
            assert found["survivors"] == list(NAMES)
            assert found["leaves_checked"] == found["leaves"] == 1
    home.json("verify", run, "2", "--export", "round2", home="borealis")
    assert home.json("verify", run, "2", "--from", "round2", "--fingerprint", fingerprint, home="nobody")["verified"]
    script = Path(__file__).parents[1] / "examples" / "verify_round" / "verify_round.py"
    command = [sys.executable, str(script), str(home.folder / "round2"), fingerprint]
    assert subprocess.run(command, capture_output=True, check=False).returncode == 0
    sums = home.folder / "round2" / "sum.bin"
    sums.write_bytes(bytes([sums.read_bytes()[0] ^ 1]) + sums.read_bytes()[1:])
    assert subprocess.run(command, capture_output=True, check=False).returncode == 1
    for arguments, code, exit_code in (
        (("2", "--from", "round2", "--fingerprint", fingerprint), "round_not_proved", 5),
        (("3", "--from", "round2", "--fingerprint", fingerprint), "round_not_proved", 5),
        (("9",), "unknown_round", 2),
        (("2", "--export", "round2"), "folder_not_empty", 2),
    ):
        refused = home.run("verify", run, *arguments, home="acme")
        assert f"[{code}]" in refused.stderr
        assert refused.returncode == exit_code


def test_what_a_coordinator_refuses(home: House) -> None:
    home.found()
    second = home.run("serve", "--passphrase-file", "ca.txt")
    assert second.returncode == 2
    assert "[data_folder_in_use]" in second.stderr
    port = home.json("status")["software"]  # it still serves
    assert port.startswith("fedveil/")
    address = json.loads((home.folder / "op" / "federation.json").read_text())["address"]
    for name, passphrase in (("ca2", "other authority"), ("gov2", "other governance")):
        (home.folder / f"{name}.txt").write_text(passphrase)
    other = ("--passphrase-file", "ca2.txt", "--governance-passphrase-file", "gov2.txt")
    assert home.run("init", "other", "--address", address, *other, home="op2").returncode == 0
    taken = home.run("serve", "--passphrase-file", "ca2.txt", home="op2")
    assert taken.returncode == 2
    assert "[port_in_use]" in taken.stderr
    for arguments, code in (
        (("serve",), "passphrase_missing"),
        (("serve", "--passphrase-file", "gov2.txt"), "passphrase_wrong"),
        (("invite", "acme", "--governance-passphrase-file", "ca2.txt"), "passphrase_wrong"),
    ):
        failed = home.run(*arguments, home="op2" if arguments[0] == "serve" else "op")
        assert failed.returncode == 3, arguments
        assert f"[{code}]" in failed.stderr
    home.plan(plan_text())
    early = home.run("run", "start", "plan.yaml", "--governance-passphrase-file", "gov.txt")
    assert early.returncode == 2
    assert "[cohort_never_possible]" in early.stderr
    (home.folder / "dp.yaml").write_text(plan_text().replace("version: 1", "version: 2"))
    later = home.run("run", "start", "dp.yaml", "--governance-passphrase-file", "gov.txt")
    assert later.returncode == 2
    assert "[not_in_this_release]" in later.stderr
    (home.folder / "bad.yaml").write_text(
        plan_text().replace("min_rows: 5", "min_rows: -5").replace("seed: 7", "sed: 7")
    )
    bad = home.run("run", "start", "bad.yaml", "--governance-passphrase-file", "gov.txt")
    assert bad.returncode == 2
    assert bad.stderr.count("bad.yaml:") >= 2, "every problem, with file and line"


def test_tokens_members_and_revocation(home: House) -> None:
    home.found()
    token = home.invite("acme")
    altered = token[:-2] + ("A" if token[-2] != "A" else "B") + token[-1]
    assert "[token_" in home.run("join", "-", stdin=altered, home="acme").stderr
    assert home.run("join", "-", stdin=token, home="acme").returncode == 0
    reused = home.run("join", "-", stdin=token, home="thief")
    assert reused.returncode == 5
    assert "[token_used]" in reused.stderr
    plan_hash = home.plan(plan_text())
    for name in NAMES[1:]:
        assert home.run("join", "-", stdin=home.invite(name), home=name).returncode == 0
    for name in NAMES:
        home.participate(name, plan_hash)
    home.until(lambda: home.connected() == list(NAMES), "the organisations' connection")
    started = home.run("run", "start", "plan.yaml", "--governance-passphrase-file", "gov.txt", "--json")
    assert started.returncode == 0, started.stderr
    # revocation: the live session ends within a second, and the next roster lacks the member
    began = time.monotonic()
    revoked = home.json("revoke", "acme", "--reason", "left", "--governance-passphrase-file", "gov.txt")
    assert (revoked["ended"], revoked["open"]) == (1, 0)
    home.until(lambda: "certificate_revoked" in home.err("acme"), "the end of the revoked session", 5)
    assert time.monotonic() - began < 30  # with the start of a process; test_edges has the promise of a second
    states = {one["org"]: (one["state"], one["in_roster"]) for one in home.json("status")["participants"]}
    assert states["acme"] == ("revoked", False)
    assert states["borealis"] == ("active", True)
    # a member that lost its journal: re-key, join again; its data count as spent until its own operator says otherwise
    home.end("borealis")
    for path in (home.folder / "borealis").iterdir():
        if path.is_file():
            path.unlink()
    fresh = home.invite("borealis", "--rekey")
    joined = home.run("join", "-", stdin=fresh, home="borealis-2")
    assert joined.returncode == 0, joined.stderr
    path = home.folder / "borealis.csv"
    arguments = ("participate", "--data", f"visits={path}", "--accept")
    home.plan(plan_text(seed=8))
    other_hash = home.json("plan", "check", "plan.yaml")["plan_hash"]
    home.start("borealis-2", *arguments, other_hash, home="borealis-2")
    delta = home.run("join", "-", stdin=home.invite("delta"), home="delta")
    assert delta.returncode == 0
    home.end("cygnus")
    home.participate("cygnus", other_hash)
    home.participate("delta", other_hash)
    home.until(lambda: home.connected() == ["borealis", "cygnus", "delta"], "the three")
    run = home.json("run", "start", "plan.yaml", "--detach", "--governance-passphrase-file", "gov.txt")["run_id"]
    home.until(lambda: "version_presumed_spent" in home.err("borealis-2"), "the refusal after the re-key")
    waiting = home.json("run", "show", run)["waiting"]
    assert waiting["phase"] == "cohort"
    assert waiting["declined"] == {"borealis": "version_presumed_spent"}
    home.end("borealis-2")
    done = home.run("budget", "set", "visits", "--reason", "these rows were never summed", home="borealis-2")
    assert done.returncode == 0, done.stderr
    home.start("borealis-2", *arguments, other_hash, home="borealis-2")
    home.until(lambda: home.json("run", "show", run)["status"] == "ended", "the run's end")
    assert home.json("run", "show", run)["code"] == "finished"


def test_bad_rows_are_named_at_home_and_only_a_code_leaves(home: House) -> None:
    home.found()
    plan_hash = home.plan(plan_text())
    for name in NAMES:
        assert home.run("join", "-", stdin=home.invite(name), home=name).returncode == 0
    rows = table("acme").replace("\n27,", "\n270,").replace(",F,", ",X,", 1)
    (home.folder / "acme.csv").write_text(rows)
    for name in NAMES:
        home.participate(name, plan_hash)
    home.until(lambda: home.connected() == list(NAMES), "the organisations' connection")
    run = home.json("run", "start", "plan.yaml", "--detach", "--governance-passphrase-file", "gov.txt")["run_id"]
    home.until(lambda: "bad_data" in home.err("acme"), "the refusal")
    assert home.err("acme").count("acme.csv:") >= 1
    waiting = home.json("run", "show", run)["waiting"]
    assert waiting["declined"] == {"acme": "bad_data"}
    assert "acme" in waiting["for"]
    assert "270" not in home.err("coordinator"), "what is wrong with a row stays in its own house"
    assert home.run("run", "abort", run).returncode == 0
    assert home.json("run", "show", run)["code"] == "aborted_by_operator"
