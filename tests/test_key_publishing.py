"""`fedveil key publish` and the runs that follow, as people type them: real processes, a key that its holders made."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from fedveil_cli import main

from tests.patience import LIMIT_S
from tests.processes import NAMES, House, house, plan_text

GOVERNANCE = ("--governance-passphrase-file", "gov.txt")


@pytest.fixture
def home(tmp_path: Path) -> Iterator[House]:
    with house(tmp_path) as made:
        yield made


def key(home: House, org: str, *arguments: object) -> None:
    """A command about keys in this process: it needs no coordinator."""
    assert main.main(["--home", str(home.folder / org), "key", *map(str, arguments)]) == 0


def ceremony(home: House) -> None:
    """The members' protocol keys are the operator's to read: nobody is listed before the first run."""
    listed = {one["org"]: one["protocol_key"] for one in home.json("status")["participants"]}
    holders = [word for org in NAMES for word in ("--holder", f"{org}={listed[org]}")]
    folder = home.folder
    key(home, "op", "adopt", "rsa-2048", "--out", folder / "modulus.json")
    terms = ("--modulus", folder / "modulus.json", "--id", "icu-1", "--out", folder / "terms.json")
    key(home, "op", "terms", *terms, *holders, "--threshold", 2, "--columns", 4)
    for org in NAMES:
        key(home, org, "holders", "start", folder / "terms.json", "--out", folder / "shared")
    for _ in range(6):
        for org in NAMES:
            key(home, org, "holders", "take", folder / "shared", "--out", folder / "shared")


def refused(home: House, *arguments: str) -> tuple[int, str]:
    done = home.run(*arguments, "--json")
    assert done.stdout == ""
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("{")]
    return done.returncode, json.loads(line)["error"]["code"]


def test_a_key_is_published_and_a_run_uses_its_epoch(home: House) -> None:
    home.found()
    for name in NAMES:
        assert home.run("join", "-", stdin=home.invite(name), home=name).returncode == 0
    ceremony(home)
    plan_hash = home.plan(plan_text(rounds=1).replace("kind: masked", "kind: paillier, key: icu-1"))
    start = ("run", "start", "plan.yaml", *GOVERNANCE)
    assert refused(home, *start) == (2, "no_such_key")
    assert home.json("run", "list")["runs"] == []
    record = "shared/icu-1.epoch-0.record"
    (home.folder / "cut.record").write_bytes((home.folder / record).read_bytes()[:-1])
    assert refused(home, "key", "publish", "terms.json", "cut.record") == (5, "bad_key_message")
    assert refused(home, "key", "publish", "terms.json", "terms.json") == (5, "bad_key_message")
    assert refused(home, "--home", "nowhere", "key", "publish", "terms.json", record)[0] == 2
    published = home.json("key", "publish", "terms.json", record)
    assert (published["id"], published["epoch"], published["threshold"]) == ("icu-1", 0, 2)
    assert published["holders"] == list(NAMES)
    assert home.json("key", "publish", "terms.json", record) == published
    assert home.json("status")["keys"] == [published]
    shown = home.run("status").stdout
    assert f"key icu-1, epoch 0: any 2 of {', '.join(NAMES)}" in shown
    for name in NAMES:
        key(home, name, "pin", home.folder / "terms.json", home.folder / record)
        home.participate(name, plan_hash, "--until-ended")
    home.until(lambda: home.connected() == list(NAMES), "the organisations' connection")
    done = home.run(*start, "--json")
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert [one["survivors"] for one in report["rounds"]] == [list(NAMES)] * 3
    for name in NAMES:
        assert home.running.pop(name).wait(timeout=LIMIT_S) == 0
        assert f"key id=icu-1 epoch=0 fingerprint={published['fingerprint']}" in home.err(name)
    home.plan(plan_text(rounds=1, seed=8).replace("kind: masked", "kind: paillier, key: icu-1"))
    assert refused(home, *start) == (2, "key_epoch_used")
    again = home.json(*start, "--reuse-key-epoch", "--detach")
    assert refused(home, *start) == (2, "key_epoch_used")  # the other one waits for the same epoch
    home.json("run", "abort", again["run_id"])
    assert len(home.json("run", "list")["runs"]) == 2
