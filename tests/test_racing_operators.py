"""Two operators, or two terminals of one, who decide about the same model at the same moment: commands of real
processes on one home. One decision is taken, or both in an order that the rules allow; log, list and stage agree.
"""

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier

from fedveil_common.registry import status
from fedveil_common.registry.stages import Stage

from tests.processes import NAMES, House, house, plan_text
from tests.test_release_processes import countersigned, fetched, stage

ROUNDS = 3
REASON = ("--reason", "both at once")


def race(home: House, *commands: tuple[str, ...]) -> list[str]:
    """What each of the commands, started together, ended with: "done", or the code of its refusal."""
    together = Barrier(len(commands))

    def one(command: tuple[str, ...]) -> str:
        together.wait()
        done = home.run("model", *command, "--json")
        if done.returncode == 0:
            return "done"
        assert done.stdout == ""
        return str(json.loads(done.stderr.strip().splitlines()[-1])["error"]["code"])

    with ThreadPoolExecutor(len(commands)) as pool:
        return list(pool.map(one, commands))


def decided(home: House, run: str) -> list[tuple[str, str]]:
    """(before, after) of each decision, oldest first: a chain from draft to the stage that the list names."""
    shown = home.json("model", "show", run)
    chain = [(str(one["from"]), str(one["to"])) for one in shown["decisions"]]
    assert [one["number"] for one in shown["decisions"]] == list(range(1, len(chain) + 1))
    assert [before for before, _ in chain] == ["draft", *(after for _, after in chain)][: len(chain)]
    assert shown["stage"] == (chain[-1][1] if chain else "draft")
    (home.folder / "list.json").write_bytes(fetched(home))
    listed = {one.model.run_id: one.stage for one in status.contents((home.folder / "list.json").read_bytes()).models}
    assert str(listed.get(run, shown["stage"])) == shown["stage"]
    return chain


def test_of_two_decisions_at_once_one_is_taken_or_both_in_turn(tmp_path: Path) -> None:
    with house(tmp_path) as home:
        home.found()
        plan_hash = home.plan(plan_text(standardise="range"))
        for name in NAMES:
            assert home.run("join", "-", stdin=home.invite(name), home=name).returncode == 0
            home.participate(name, plan_hash)
        home.until(lambda: home.connected() == list(NAMES), "the organisations' connection")
        run = str(home.json("run", "start", "plan.yaml", "--governance-passphrase-file", "gov.txt")["run_id"])
        home.until(lambda: countersigned(home, run) == list(NAMES), "the countersignatures")

        one = ("promote", run, "--to", "candidate")
        assert sorted(race(home, one, one, one)) == ["done", "stage_jump", "stage_jump"]
        one = ("promote", run, "--to", "released")
        assert sorted(race(home, one, one, one)) == ["done", "stage_jump", "stage_jump"]
        for _ in range(ROUNDS):
            for one in (("retire", run, *REASON), ("rollback", run, *REASON)):
                assert sorted(race(home, one, one)) == ["done", "stage_jump"]
        assert len(decided(home, run)) == 2 + 2 * ROUNDS

        ends = race(home, ("retire", run, *REASON), ("withdraw", run, *REASON), ("withdraw", run, *REASON))
        assert sorted(ends[1:]) == ["done", "stage_jump"]
        assert ends[0] in {"done", "stage_jump"}
        chain = decided(home, run)
        assert chain[-1][1] == str(Stage.WITHDRAWN)
        assert (chain[-2] == ("released", "retired")) is (ends[0] == "done"), (
            "retired before it was withdrawn, or not at all"
        )
        assert race(home, ("rollback", run, *REASON), ("promote", run, "--to", "released")) == ["stage_jump"] * 2
        home.end("coordinator")
        home.serve()
        assert decided(home, run) == chain, "the log that was written is whole"
        assert stage(home, run) == "withdrawn"
