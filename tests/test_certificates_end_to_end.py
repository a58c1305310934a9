"""Certificates in real processes: renewed in the middle of a run, killed during a renewal, and what `doctor` says."""

import json
import shutil
import signal
from pathlib import Path

import pytest

from tests.patience import LIMIT_S
from tests.processes import NAMES, House, house, plan_text


@pytest.fixture
def home(tmp_path: Path) -> House:  # type: ignore[misc]
    with house(tmp_path) as made:
        yield made


def test_certificates_are_renewed_in_the_middle_of_a_run(home: House) -> None:
    home.found()
    plan_hash = home.plan(plan_text(rounds=8, progress_s=120))
    for name in NAMES:
        assert home.run("join", "-", stdin=home.invite(name), home=name).returncode == 0
        home.participate(name, plan_hash, "--until-ended")
    home.until(lambda: home.connected() == list(NAMES), "the organisations' connection")
    before = home.folder / "before"
    shutil.copytree(home.folder / "acme", before, ignore=shutil.ignore_patterns("lock", "*.sock"))
    home.start("run", "run", "start", "plan.yaml", "--governance-passphrase-file", "gov.txt", "--json", home="op")
    home.until(lambda: "round" in home.err("run"), "the first round")
    home.running["borealis"].send_signal(signal.SIGSTOP)  # the run goes on, and cannot end before the renewal
    assert "asked" in home.json("renew", home="acme")
    assert home.json("renew")["in_use"] is True  # the operator's, while `run start` follows the run
    home.until(lambda: "certificate_renewed" in home.err("acme"), "acme's renewal")
    home.running["borealis"].send_signal(signal.SIGCONT)
    for name in NAMES:
        assert home.running.pop(name).wait(timeout=LIMIT_S) == 0, home.err(name)
    assert home.running.pop("run").wait(timeout=LIMIT_S) == 0, home.err("run")
    report = json.loads((home.folder / "run.out").read_text())
    assert len(report["rounds"]) == 10
    assert all(one["survivors"] == list(NAMES) and one["dropped"] == [] for one in report["rounds"])
    assert home.json("status")["alarms"] == []
    assert home.json("doctor")["sound"] is True
    assert home.json("doctor", home="acme")["sound"] is True
    restored = home.run("doctor", "--json", home="before")
    assert restored.returncode == 2
    problems = [one["code"] for one in json.loads(restored.stdout)["findings"] if one["severity"] == "problem"]
    assert problems == ["certificate_superseded"]
    assert home.json("status")["alarms"] == []  # a doctor freezes nobody


@pytest.mark.parametrize("step", ["renewal.after.ask", "renewal.after.commit"])
def test_a_killed_renewal_is_finished_by_the_next(home: House, step: str) -> None:
    home.found()
    assert home.run("join", "-", stdin=home.invite("acme"), home="acme").returncode == 0
    home.start("renew", "renew", home="acme", environment={"FEDVEIL_FAILPOINT": step})
    assert home.running.pop("renew").wait(timeout=LIMIT_S) == -signal.SIGKILL
    assert home.json("doctor", home="acme")["sound"] is True
    renewed = home.json("renew", home="acme")
    assert renewed["in_use"] is True
    assert not list((home.folder / "acme").glob("*.next"))
    assert home.json("status")["alarms"] == []
