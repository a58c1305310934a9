"""Real processes ended by SIGKILL in every phase, restarted from their folders alone (rival R13, fault rows 1-10).

After each kill the run goes on in the same attempt, and every opened sum equals the integer sum of what the surviving
participants recorded themselves before masking. Nothing expected is computed from what the coordinator wrote.
"""

import json
import signal
from pathlib import Path

import numpy as np
import pytest
from fedveil_cli.world import SystemClock, SystemEntropy
from fedveil_coordinator import facts
from fedveil_coordinator.store import open_store as open_coordinator
from fedveil_participant.store import journal_key
from fedveil_participant.store import open_store as open_participant

from tests.processes import NAMES, House, house, plan_text

PARTICIPANT_PHASES = ("offer", "advert", "shares", "ack", "dealers", "input", "vote", "reveal")
COORDINATOR_FACTS = (
    "Offered",
    "AdvertAccepted",
    "KeySetFrozen",
    "SharesAccepted",
    "SharesDelivered",
    "AckAccepted",
    "DealersFrozen",
    "InputAccepted",
    "Proposed",
    "VoteAccepted",
    "Certified",
    "RevealAccepted",
    "OpeningStarted",
    "SumOpened",
    "SumApplied",
)
MODULE = "tests.recording_participant"


@pytest.fixture
def home(tmp_path: Path) -> House:  # type: ignore[misc]
    with house(tmp_path) as made:
        yield made


def begin(home: House, rounds: int, environments: dict[str, dict[str, str]]) -> tuple[str, str]:
    """A federation of three with recording participants and a run under way; (run id, plan hash)."""
    home.found()
    plan_hash = home.plan(plan_text(rounds=rounds))
    for name in NAMES:
        assert home.run("join", "-", stdin=home.invite(name), home=name).returncode == 0
        home.participate(name, plan_hash, environment=environments.get(name), module=MODULE)
    home.until(lambda: home.connected() == list(NAMES), "the organisations' connection")
    return plan_hash, ""


def start(home: House) -> str:
    started = home.json("run", "start", "plan.yaml", "--detach", "--governance-passphrase-file", "gov.txt")
    return str(started["run_id"])


def finish(home: House, run: str) -> dict[str, object]:
    home.until(lambda: home.json("run", "show", run)["status"] == "ended", "the run's end", 120)
    report: dict[str, object] = home.json("run", "show", run)
    for name in NAMES:
        home.until(lambda name=name: "run_ended" in home.err(name), f"the model at {name}")  # type: ignore[misc]
    for name in NAMES:
        home.end(name)
    home.end("coordinator")
    return report


def check_sums(home: House, run: str, report: dict[str, object], rounds: int) -> None:
    """Exact sums in the first attempt of every round, in every journal."""
    assert report["code"] == "finished"
    clock = SystemClock()
    store = open_coordinator(home.folder / "op", clock)
    try:
        opened = report["rounds"]
        assert isinstance(opened, list)
        assert [one["purpose"] for one in opened] == ["standardise", *["train"] * rounds, "evaluate"]
        for one in opened:
            step = {"standardise": 0, "evaluate": rounds}.get(one["purpose"], one["number"] - 2)
            recorded = [
                np.frombuffer((home.folder / name / "recorded" / f"{one['purpose']}-{step}.i64").read_bytes(), "<i8")
                for name in one["survivors"]
            ]
            expected = np.sum(np.stack(recorded), axis=0)
            found = store.journal.read_sum(run, one["number"])  # type: ignore[arg-type]
            assert np.array_equal(found, expected), one
            assert one["survivors"] == list(NAMES)
            assert one["attempt"] == 1
        offers = [kind for kind, _ in store.journal.facts(run) if kind == facts.Offered.__name__]  # type: ignore[arg-type]
        assert len(offers) == len(opened), "one attempt a round"
    finally:
        store.close()
    for name in NAMES:
        journal = open_participant(home.folder / name, journal_key(home.folder / name, None), clock, SystemEntropy())
        try:
            attempts = {row.key.attempt for row in journal.trail() if row.key is not None and row.key.run_id == run}
            votes = [row.key for row in journal.trail() if row.kind == "vote"]
        finally:
            journal.close()
        assert attempts == {1}
        assert len(votes) == len(set(votes)) == len(opened), "one vote a round"


def test_rival_R13_a_participant_killed_in_every_phase_goes_on_in_the_same_attempt(home: House) -> None:
    rounds = len(PARTICIPANT_PHASES)
    first, *later = [{"FEDVEIL_FAILPOINT": f"participant.after.{phase}:2"} for phase in PARTICIPANT_PHASES]
    plan_hash, _ = begin(home, rounds, {"borealis": first})
    run = start(home)
    for environment in [*later, {}]:
        process = home.running["borealis"]
        home.until(lambda process=process: process.poll() is not None, "the kill", 60)  # type: ignore[misc]
        assert process.returncode == -signal.SIGKILL
        home.participate("borealis", plan_hash, environment=environment, module=MODULE)
    check_sums(home, run, finish(home, run), rounds)


def test_rival_R13_the_coordinator_killed_in_every_phase_goes_on_in_the_same_attempt(home: House) -> None:
    rounds = len(COORDINATOR_FACTS) + 1
    begin(home, rounds, {})
    home.end("coordinator")
    environments = [{"FEDVEIL_FAILPOINT": f"coordinator.after.{fact}:2"} for fact in COORDINATOR_FACTS]
    home.serve(environments[0])
    home.until(lambda: home.connected() == list(NAMES), "the organisations' return")
    run = start(home)
    for environment in [*environments[1:], {}]:
        process = home.running["coordinator"]
        home.until(lambda process=process: process.poll() is not None, "the kill", 60)  # type: ignore[misc]
        assert process.returncode == -signal.SIGKILL
        home.serve(environment, answering=not environment)
    check_sums(home, run, finish(home, run), rounds)


def test_invariant_I8_no_plaintext_update_reaches_the_coordinators_disk_or_log(home: House) -> None:
    begin(home, 2, {})
    run = start(home)
    finish(home, run)
    canaries = [path.read_bytes() for name in NAMES for path in (home.folder / name / "recorded").iterdir()]
    assert len(canaries) == 3 * 4
    files = [path for path in (home.folder / "op").rglob("*") if path.is_file()]
    files += [home.folder / "coordinator.err", home.folder / "coordinator.out"]
    for path in files:
        data = path.read_bytes()
        for canary in canaries:
            assert canary[:40] not in data, path
    assert json.loads((home.folder / "op" / "federation.json").read_text())["version"] == 1
