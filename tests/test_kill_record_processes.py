"""Attacks 27 and 28 with real processes and real disks: SIGKILL at a record of the journal, before or after its commit.

All records are in `test_kill_records`, in memory; here is a sample, in one run in which a participant and the
coordinator each end themselves some times, by a journal of the test's own. Before such a process is started again, half
a frame is put at the end of its write-ahead log, as a write that was cut leaves it: it must be discarded. The run goes
on in the first attempt, every sum is exact, and no file and no output of any process holds a secret of the member that
died: not what a killed process left, and not in the end (attack 44).
"""

import base64
import signal
from pathlib import Path

import pytest

from tests.processes import NAMES, House, house, plan_text
from tests.test_kill_processes import MODULE, check_sums, start

LIVES: dict[str, list[str]] = {"borealis": ["1 before", "3 after"], "coordinator": ["7 before", "14 after"]}
"""A round is nine records of a member: offer, advert, shares, ack, dealers, input, vote, reveal, done."""
FRAME = 24 + 4096
DYING = "tests.dying_party"


@pytest.fixture
def home(tmp_path: Path) -> House:  # type: ignore[misc]
    (tmp_path / "house").mkdir()
    with house(tmp_path / "house") as made:
        yield made


def tear(log: Path) -> int:
    """Put half of one more frame at the end of a write-ahead log; how many bytes of whole frames it had before."""
    data = log.read_bytes() if log.exists() else b""
    frame = data[-FRAME:] if len(data) > FRAME else bytes(range(256)) * 17
    log.write_bytes(data + frame[: FRAME // 2])
    return len(data)


def test_attacks_27_and_28_processes_killed_at_records_go_on_in_the_same_attempt(home: House, tmp_path: Path) -> None:
    home.found()
    plan_hash = home.plan(plan_text(rounds=1, progress_s=300, standardise="federated"))
    for name in NAMES:
        assert home.run("join", "-", stdin=home.invite(name), home=name).returncode == 0
    lives, secrets = {name: [*left] for name, left in LIVES.items()}, tmp_path / "secrets.txt"

    def live(name: str) -> None:
        """Start a process again: to die at its next record, or to live to the end."""
        environment = {"DIES_AT": lives[name].pop(0), "SECRETS_TO": str(secrets)} if lives.get(name) else {}
        if name == "coordinator":
            arguments = ("serve", "--passphrase-file", "ca.txt")
            home.start(name, *arguments, home="op", environment=environment, module=DYING if environment else "")
        else:
            home.participate(name, plan_hash, environment=environment, module=DYING if environment else MODULE)

    home.end("coordinator")
    for name in ("coordinator", *NAMES):
        live(name)
    home.until(lambda: all("connected" in home.err(name) for name in NAMES), "the organisations' connection")
    run = start(home)
    deaths: list[tuple[str, int]] = []

    def ended() -> bool:
        """Whether everyone has the end of the run; who has died meanwhile lives again."""
        for name, log in (("borealis", "borealis/journal.db-wal"), ("coordinator", "op/coordinator.db-wal")):
            if home.running[name].poll() is not None:
                assert home.running[name].returncode == -signal.SIGKILL
                assert leaks(home, secrets) == []
                deaths.append((name, tear(home.folder / log)))
                live(name)
        return all("run_ended" in home.err(name) for name in NAMES)

    home.until(ended, "the end of the run", 240)
    assert sorted(name for name, _ in deaths) == sorted(name for name, left in LIVES.items() for _ in left)
    assert any(whole for name, whole in deaths if name == "coordinator"), "a log that holds facts was torn behind them"
    report = home.json("run", "show", run)
    for name in (*NAMES, "coordinator"):
        home.end(name)
    check_sums(home, run, report, 1)
    assert len(secrets.read_text().split()) > 4
    assert leaks(home, secrets) == []
    (home.folder / "acme.err").write_text(secrets.read_text().split()[0])
    assert leaks(home, secrets) == ["acme.err"], "the search finds what is there"


def leaks(home: House, secrets: Path) -> list[str]:
    """Files of any process (journals and their logs, spools, output) that hold one of the secrets, in hex or as it is
    or in base64 (attack 44).
    """
    found = set()
    known = [bytes.fromhex(line) for line in secrets.read_text().split()] if secrets.exists() else []
    forms = {form for one in known for form in (one, one.hex().encode(), base64.b64encode(one)[:-2])}
    for path in home.folder.rglob("*"):
        if path.is_file():
            data = path.read_bytes()
            if any(form in data for form in forms):
                found.add(path.name)
    return sorted(found)
