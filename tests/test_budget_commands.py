"""`fedveil budget`: what is printed of ledgers and limits, what is refused, and with which code it ends."""

import io
import json
import math
import sys
from pathlib import Path
from typing import Any

import pytest
from fedveil_cli import main, run_commands
from fedveil_common import plan as plans
from fedveil_common import private_sum
from fedveil_common.database import FolderLock
from fedveil_common.dp import budget
from fedveil_common.ids import AttemptKey, RunId
from fedveil_common.messages import AbortCertificate, Purpose
from fedveil_participant import membership
from fedveil_participant.events import Changes, LedgerEntry, OpenedSum
from fedveil_participant.stages import Idle
from fedveil_participant.store import ParticipantStore, journal_key, make_journal_key, open_store
from fedveil_simulation.ports import SeededEntropy, SimulatedClock
from patience import LIMIT_S
from private_federation import private_plan
from processes import NAMES, PRIVATE, House, house, plan_text

SHARED, ENCRYPTED, EXACT = RunId("shared-1"), RunId("encrypted-2"), RunId("exact-3")
PLANS = {
    SHARED: private_plan(),
    ENCRYPTED: private_plan(kind="paillier, key: icu", by="coordinator", noise="noise_multiplier: 4.0"),
}


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> "Home":
    """A home with two data sets; `table` has a settled, a reserved and a released attempt."""
    monkeypatch.setattr(sys, "stdin", io.StringIO(""))
    monkeypatch.setattr(membership, "load_membership", lambda home: None)
    made = Home(tmp_path)
    make_journal_key(tmp_path, None, SeededEntropy(1, "key"))
    store = made.store(create=True)
    store.save_dataset("table", tmp_path / "table.csv")
    store.save_dataset("unused", tmp_path / "unused.csv")
    for run, plan in PLANS.items():
        canonical = plans.canonical(plan)
        store.save_plan(run, plans.plan_hash(canonical), canonical, b"v" * 32)
    made.save(store, SHARED, 1, reserve(SHARED, 1))
    made.save(store, SHARED, 1, settle(SHARED, 1))
    made.save(store, SHARED, 2, reserve(SHARED, 2))
    made.save(store, SHARED, 2, budget.Release(key(SHARED, 2), AbortCertificate(t0(SHARED, 2), ())))
    made.save(store, SHARED, 3, reserve(SHARED, 3))
    store.close()
    return made


def t0(run: RunId, number: int) -> bytes:
    return f"{run}/{number}".ljust(32).encode()


def key(run: RunId, number: int) -> budget.ChargeKey:
    return budget.ChargeKey(AttemptKey(run, number, 1), t0(run, number))


def reserve(run: RunId, number: int) -> budget.Reserve:
    plan = PLANS[run]
    assert plan.privacy is not None
    return budget.Reserve(key(run, number), private_sum.charge(plan, plan.privacy, Purpose.TRAIN, 0))


def settle(run: RunId, number: int) -> budget.Settle:
    return budget.Settle(key(run, number), reserve(run, number).charge)


def cost(run: RunId, sums: int) -> float:
    plan = PLANS[run]
    assert plan.privacy is not None
    return private_sum.spent(plan, plan.privacy, sums)


class Home:
    """The folder, its store, and commands on it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def store(self, *, create: bool = False) -> ParticipantStore:
        entropy = SeededEntropy(2, "store")
        return open_store(self.folder, journal_key(self.folder, None), SimulatedClock(), entropy, create=create)

    def save(self, store: ParticipantStore, run: RunId, number: int, entry: budget.Entry) -> None:
        store.save(AttemptKey(run, number, 1), Idle(), "test", (), Changes(ledger=(LedgerEntry("table", entry),)))

    def run(self, capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
        code = main.main(["budget", *words, "--home", str(self.folder)])
        out, err = capsys.readouterr()
        return code, out, err

    def json(self, capsys: pytest.CaptureFixture[str], *words: str) -> dict[str, Any]:
        code, out, err = self.run(capsys, *words, "--json")
        assert code == 0, err
        assert out.count("\n") == 1
        return dict(json.loads(out))

    def refused(self, capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str]:
        code, out, err = self.run(capsys, *words, "--json")
        assert out == ""
        return code, str(json.loads(err.splitlines()[-1])["error"]["code"])


Capture = pytest.CaptureFixture[str]

# --- show -------------------------------------------------------------------------------------------------------------


def test_show_says_what_the_ledger_says(home: Home, capsys: Capture) -> None:
    table, unused = home.json(capsys, "show")["datasets"]
    assert (table["dataset"], unused["dataset"]) == ("table", "unused")
    (run,) = table["runs"]
    assert run == {
        "run_id": SHARED,
        "plan": "private",
        "unit": "record",
        "noise": "participants",
        "epsilon": cost(SHARED, 2),
        "epsilon_against_coordinator": cost(SHARED, 2),
        "delta": 1e-5,
        "max_epsilon": 100.0,
        "settled": 1,
        "reserved": 1,
        "released": 1,
    }
    lifetime = table["lifetime"]
    assert lifetime["epsilon"] == lifetime["epsilon_against_coordinator"] > run["epsilon"], "fixed orders cost more"
    assert (lifetime["delta"], lifetime["limit_is_set"], lifetime["max_epsilon"], lifetime["left"]) == (
        1e-5,
        False,
        None,
        None,
    )
    assert unused["lifetime"]["epsilon"] == 0.0
    assert unused["runs"] == unused["runs_with_exact_sums"] == []


def test_show_in_words(home: Home, capsys: Capture) -> None:
    code, out, err = home.run(capsys, "show", "table")
    assert (code, err) == (0, "")
    first, second, *_ = out.splitlines()
    assert first == "data set table"
    assert second.startswith("lifetime: epsilon ")
    assert second.endswith(" at delta 1e-05, the default: no limit is set")
    assert "unused" not in out
    row = next(line for line in out.splitlines() if line.startswith(SHARED))
    assert row.split() == [SHARED, "private", *[f"{cost(SHARED, 2):.4g}"] * 2, "100", "1e-05", "1", "1", "1"]
    assert home.run(capsys, "set", "table", "--max-epsilon", "50", "--delta", "1e-6")[0] == 0
    second = home.run(capsys, "show", "table")[1].splitlines()[1]
    assert " of at most 50 at delta 1e-06, " in second
    assert second.endswith(" left")


def test_d19_the_coordinators_noise_has_two_figures(home: Home, capsys: Capture) -> None:
    store = home.store()
    home.save(store, ENCRYPTED, 1, reserve(ENCRYPTED, 1))
    store.close()
    (table,) = home.json(capsys, "show", "table")["datasets"]
    shared, encrypted = table["runs"]
    assert shared["epsilon_against_coordinator"] == shared["epsilon"]
    assert (encrypted["noise"], encrypted["epsilon"]) == ("coordinator", cost(ENCRYPTED, 1))
    assert encrypted["epsilon_against_coordinator"] is None
    assert table["lifetime"]["epsilon"] > 0
    assert table["lifetime"]["epsilon_against_coordinator"] is None
    out = home.run(capsys, "show", "table")[1]
    assert f"against the coordinator: none, it can subtract the noise of run {ENCRYPTED}" in out
    row = next(line for line in out.splitlines() if line.startswith(ENCRYPTED))
    assert row.split()[2:4] == [f"{cost(ENCRYPTED, 1):.4g}", "none"]


def test_exact_sums_are_not_passed_over(home: Home, capsys: Capture) -> None:
    plan = plans.parse_plan(plan_text().replace("visits", "table").encode(), "plan.yaml")
    store = home.store()
    store.save_plan(EXACT, b"h" * 32, plans.canonical(plan), b"v" * 32)
    assert home.json(capsys, "show", "table")["datasets"][0]["runs_with_exact_sums"] == [], "none was opened yet"
    opened = Changes(opened=(OpenedSum(EXACT, 1, b"t" * 32),))
    store.save(AttemptKey(EXACT, 1, 1), Idle(), "test", (), opened)
    store.close()
    assert home.json(capsys, "show", "table")["datasets"][0]["runs_with_exact_sums"] == [EXACT]
    assert f"no epsilon covers the exact sums (privacy: none) of run {EXACT}" in home.run(capsys, "show")[1]


def test_an_infinite_epsilon_is_null_and_none(home: Home, capsys: Capture) -> None:
    """A delta that the slack of the samplers eats up."""
    assert home.run(capsys, "set", "table", "--max-epsilon", "5", "--delta", "1e-40")[0] == 0
    (table,) = home.json(capsys, "show", "table")["datasets"]
    assert (table["lifetime"]["epsilon"], table["lifetime"]["left"]) == (None, 0.0)
    assert "lifetime: epsilon none of at most 5" in home.run(capsys, "show", "table")[1]


def test_looking_does_not_wait_for_a_participant_that_runs(home: Home, capsys: Capture) -> None:
    with FolderLock(home.folder):
        assert home.json(capsys, "show", "table")["datasets"]
        assert home.json(capsys, "history")["entries"]
        refused = home.refused(capsys, "set", "table", "--max-epsilon", "5", "--delta", "1e-5")
    assert refused == (2, "data_folder_in_use")
    assert home.json(capsys, "show", "table")["datasets"][0]["lifetime"]["limit_is_set"] is False


def test_an_unknown_data_set(home: Home, capsys: Capture) -> None:
    for words in (("show", "tabel"), ("history", "tabel"), ("set", "tabel", "--max-epsilon", "5", "--delta", "1e-5")):
        assert home.refused(capsys, *words) == (2, "unknown_dataset")


def test_an_operators_home_shows_the_coordinators_ledger(
    home: Home, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    privacy = {
        "unit": "record",
        "noise": "coordinator",
        "rests_on": "members",
        "epsilon": 1.2345678,
        "delta": 1e-5,
        "max_epsilon": 2.0,
    }

    class Coordinator:
        def list_runs(self) -> list[dict[str, object]]:
            return [{"run_id": SHARED}, {"run_id": EXACT}]

        def get_run(self, run: str) -> dict[str, object]:
            return {"run_id": run, "status": "ended", "privacy": privacy if run == SHARED else "none"}

    (home.folder / "federation.json").write_text("{}")
    monkeypatch.setattr(run_commands, "connect", lambda home: Coordinator())
    assert home.json(capsys, "show", SHARED) == {"runs": [{"run_id": SHARED, "status": "ended", "privacy": privacy}]}
    code, out, _ = home.run(capsys, "show")
    assert code == 0
    assert out.splitlines() == [
        f"run {SHARED} (ended): epsilon 1.235 of at most 2 at delta 1e-05 for each record, noise by the coordinator; "
        "none against the coordinator, which can subtract it",
        f"run {EXACT} (ended): none, coordinator and participants see the exact sum of every round",
    ]


# --- set --------------------------------------------------------------------------------------------------------------


def test_a_limit_is_set_raised_and_lowered_on_the_record(home: Home, capsys: Capture) -> None:
    first = home.json(capsys, "set", "table", "--max-epsilon", "60", "--delta", "1e-6")
    spent = home.json(capsys, "show", "table")["datasets"][0]["lifetime"]["epsilon"]
    assert first == {
        "dataset": "table",
        "max_epsilon": 60.0,
        "delta": 1e-6,
        "before": None,
        "epsilon": spent,
        "left": 60.0 - spent,
        "reason": "",
    }
    code, out, err = home.run(
        capsys, "set", "table", "--max-epsilon", "80", "--delta", "1e-5", "--reason", "board, 3 May"
    )
    assert (code, err) == (0, "")
    assert out.splitlines()[0] == (
        "table: at most epsilon 80 at delta 1e-05 over all runs, before: epsilon 60 at delta 1e-06"
    )
    assert out.splitlines()[1].endswith(" left; it holds from the next start of `fedveil participate` on")
    assert home.run(capsys, "set", "table", "--max-epsilon", "70", "--delta", "1e-5")[0] == 0
    store = home.store()
    rows = [row for row in store.trail() if row.kind == "limit_set"]
    assert [dict(row.facts)["after"] for row in rows] == ["60.0 at 1e-06", "80.0 at 1e-05", "70.0 at 1e-05"]
    limit = store.standing().lifetimes["table"]
    assert (limit.max_epsilon, limit.delta) == (70.0, 1e-5), "what the next participant starts with"
    store.close()
    limits = home.json(capsys, "history", "table")["limits"]
    assert [one["before"] for one in limits] == [
        None,
        {"max_epsilon": 60.0, "delta": 1e-6},
        {"max_epsilon": 80.0, "delta": 1e-5},
    ]
    assert limits[1]["reason"] == "board, 3 May"
    assert home.json(capsys, "history", "unused") == {"entries": [], "limits": []}


def test_a_limit_below_what_is_spent_is_set_and_said_to_stop(home: Home, capsys: Capture) -> None:
    code, out, err = home.run(capsys, "set", "table", "--max-epsilon", "2", "--delta", "1e-5")
    assert code == 0
    assert "0 left" in out
    assert err.startswith("fedveil: warning: epsilon ")
    assert err.endswith(" is spent already, more than this limit: table takes part in no further private sum\n")
    store = home.store()
    limit, ledger = store.standing().lifetimes["table"], budget.fold(one.entry for one in store.standing().ledger)
    store.close()
    assert not ledger.fits_lifetime(reserve(SHARED, 4), limit.max_epsilon, limit.delta).fits


def test_a_limit_that_no_sum_fits_is_said_to_be_one(home: Home, capsys: Capture) -> None:
    code, _, err = home.run(capsys, "set", "unused", "--max-epsilon", "0.01", "--delta", "1e-5")
    assert code == 0
    assert "no sum costs less than epsilon 0.1" in err
    assert home.run(capsys, "set", "unused", "--max-epsilon", "1", "--delta", "1e-5")[2] == ""


@pytest.mark.parametrize("value", ["nan", "0", "-0.0", "-1", "inf", "-inf", "1e999"])
def test_what_limits_nothing_is_no_limit(home: Home, capsys: Capture, value: str) -> None:
    words = ("set", "table", f"--max-epsilon={value}", "--delta", "1e-5")
    assert home.refused(capsys, *words) == (2, "bad_limit")
    assert home.json(capsys, "show", "table")["datasets"][0]["lifetime"]["limit_is_set"] is False


@pytest.mark.parametrize("value", ["nan", "0", "-1e-5", "inf", "0.011", "1"])
def test_a_delta_is_small_and_positive(home: Home, capsys: Capture, value: str) -> None:
    assert home.refused(capsys, "set", "table", "--max-epsilon", "5", f"--delta={value}") == (2, "bad_limit")


def test_the_largest_delta(home: Home, capsys: Capture) -> None:
    assert home.json(capsys, "set", "unused", "--max-epsilon", "5", "--delta", "0.01")["delta"] == 0.01


@pytest.mark.parametrize(
    "words",
    [
        ("set", "table"),
        ("set", "table", "--max-epsilon", "5"),
        ("set", "table", "--delta", "1e-5"),
        ("set", "table", "--max-epsilon", "five", "--delta", "1e-5"),
        ("set", "--max-epsilon", "5", "--delta", "1e-5"),
        ("show", "table", "unused"),
    ],
)
def test_half_a_limit_is_a_line_that_cannot_be_understood(home: Home, capsys: Capture, words: tuple[str, ...]) -> None:
    assert home.refused(capsys, *words) == (2, "usage")


def test_a_reason_with_a_limit_frees_nothing(home: Home, capsys: Capture) -> None:
    store = home.store()
    store.mark_rekeyed()
    store.close()
    home.json(capsys, "set", "table", "--max-epsilon", "50", "--delta", "1e-5", "--reason", "the board said so")
    store = home.store()
    assert store.presumes_spent("table")
    store.close()
    assert home.json(capsys, "set", "table", "--reason", "never summed")["freed"] is True
    assert home.json(capsys, "show", "table")["datasets"][0]["lifetime"]["epsilon"] > 0, "the ledger stays"


# --- history ----------------------------------------------------------------------------------------------------------


def test_history_is_the_ledger_in_order(home: Home, capsys: Capture) -> None:
    found = home.json(capsys, "history", "table")
    assert found["limits"] == []
    rows = found["entries"]
    assert [(one["round"], one["kind"]) for one in rows] == [
        (1, "reserve"),
        (1, "settle"),
        (2, "reserve"),
        (2, "release"),
        (3, "reserve"),
    ]
    assert [one["seq"] for one in rows] == [1, 2, 3, 4, 5]
    alone = cost(SHARED, 1)
    assert [one["epsilon"] for one in rows] == [alone, alone, alone, 0.0, alone]
    assert {one["dataset"] for one in rows} == {"table"}
    assert {(one["run_id"], one["attempt"], one["delta"]) for one in rows} == {(SHARED, 1, 1e-5)}
    assert all(one["at"].endswith("+00:00") for one in rows)
    assert 0 < alone < cost(SHARED, 2) < math.inf


def test_history_in_words(home: Home, capsys: Capture) -> None:
    home.run(capsys, "set", "table", "--max-epsilon", "50", "--delta", "1e-5", "--reason", "why\x1b[2J")
    code, out, err = home.run(capsys, "history")
    assert (code, err) == (0, "")
    lines = out.splitlines()
    assert lines[0] == "5 entries"
    (row,) = (line.split() for line in lines if "settle" in line)
    assert row[1:] == ["table", SHARED, "1", "1", "settle", f"{cost(SHARED, 1):.4g}", "1e-05"]
    assert lines[-1].endswith("limit of table: epsilon 50 at delta 1e-05, before: none (why\\x1b[2J)")


# --- a federation that runs -------------------------------------------------------------------------------------------


@pytest.fixture
def federation(tmp_path: Path) -> House:  # type: ignore[misc]
    with house(tmp_path) as made:
        yield made


def test_a_spent_budget_ends_run_start_with_4_and_keeps_the_model(federation: House) -> None:
    """Twice: by the plan's max_epsilon after two steps, and by the owners' limits before the first of another run."""
    plan = plans.parse_plan(PRIVATE.encode(), "plan.yaml")
    assert plan.privacy is not None
    steps = private_sum.steps_allowed(plan, plan.privacy)
    spent = private_sum.spent(plan, plan.privacy, steps)
    assert 1 <= steps < 5
    federation.found()
    plan_hash = federation.plan(PRIVATE)
    for name in NAMES:
        joined = federation.run("join", "-", stdin=federation.invite(name), home=name)
        assert joined.returncode == 0, joined.stderr
        federation.participate(name, plan_hash, "--until-ended")
    federation.until(lambda: federation.connected() == list(NAMES), "the organisations' connection")
    started = federation.run("run", "start", "plan.yaml", "--governance-passphrase-file", "gov.txt")
    assert (started.returncode, started.stdout) == (4, "")
    assert "[budget_spent]" in started.stderr
    (ended,) = federation.json("run", "list")["runs"]
    run = str(ended["run_id"])
    assert ended["code"] == "budget_spent"
    assert federation.run("model", "list").stdout.splitlines()[-1].split() == [run, "budget_spent", "yes", "draft"]
    shown = federation.run("run", "show", run, "--opened").stdout
    opened = [line.split()[2:6] for line in shown.splitlines() if " update " in line]
    assert opened == [["train", "update", "3", "training"]] * steps
    assert f"privacy: epsilon {spent:.4g} of at most 4 at delta 1e-05 for each record, noise by the part" in shown
    assert federation.json("budget", "show", run)["runs"][0]["privacy"]["epsilon"] == spent
    models = set()
    for name in (*NAMES, "op"):
        if name in federation.running:
            assert federation.running.pop(name).wait(timeout=LIMIT_S) == 0
        federation.json("model", "export", "--out", f"{name}.safetensors", home=name)
        models.add((federation.folder / f"{name}.safetensors").read_bytes())
    assert len(models) == 1
    for name in NAMES:
        (visits,) = federation.json("budget", "show", home=name)["datasets"]
        (one,) = visits["runs"]
        assert (one["run_id"], one["epsilon"], one["settled"], one["reserved"]) == (run, spent, steps, 0)
        set_ = federation.run("budget", "set", "visits", "--max-epsilon", "3", "--delta", "1e-5", home=name)
        assert set_.returncode == 0
        assert "is spent already, more than this limit" in set_.stderr
        federation.participate(name, plan_hash)
    federation.until(lambda: federation.connected() == list(NAMES), "the organisations' return")
    again = federation.run("run", "start", "plan.yaml", "--governance-passphrase-file", "gov.txt")
    assert again.returncode == 4
    assert "[budget_spent]" in again.stderr
    assert federation.json("budget", "show")["runs"][1]["privacy"]["epsilon"] == 0.0
    assert "data_folder_in_use" in federation.run("budget", "set", "visits", "--reason", "r", home="acme").stderr
