"""`roster show|confirm` with real processes: a member that nobody here confirmed gets no sum with this house in it."""

import json
from pathlib import Path

from tests.processes import NAMES, House, house, plan_text
from tests.test_rival_consent import EXACT_POLICY, begin, enrolled, sent_inputs, started, trail

WARY = NAMES[0]


def roster(home: House, name: str = "op") -> dict[str, object]:
    found = home.json("roster", "show", home=name)
    assert isinstance(found, dict)
    return found


def test_an_organisation_gives_no_input_under_a_roster_that_it_did_not_confirm(tmp_path: Path) -> None:
    with house(tmp_path) as home:
        enrolled(home, NAMES)
        first = home.plan(plan_text(rounds=1, progress_s=30))
        (home.folder / WARY / "policy.yaml").write_text(EXACT_POLICY + "roster: confirm\n")
        for name in NAMES:
            begin(home, name, "--accept", first)
        home.until(lambda: len(home.connected()) == 3, "three sessions")
        run = started(home)
        home.until(lambda: "code=roster_unconfirmed" in home.err(WARY), "that it is held back")
        here, there = roster(home, WARY), roster(home)
        assert (here["version"], here["words"], here["hash"]) == (there["version"], there["words"], there["hash"])
        assert (here["asked"], here["confirmed"]) == (True, False)
        text = home.run("roster", "show", home=WARY)
        assert text.returncode == 0
        assert "no input is given until" in text.stdout
        assert "not confirmed" in text.stdout
        assert "members wait to be confirmed" in home.run("pending", home=WARY).stdout

        other = home.run("roster", "confirm", "--words", "amber amber amber amber amber amber", "--json", home=WARY)
        assert (other.returncode, json.loads(other.stderr)["error"]["code"]) == (2, "roster_words_differ")
        assert sent_inputs(home, WARY) == 0
        assert "roster_unconfirmed" in json.dumps(home.json("run", "show", run)), "the coordinator hears the code"

        done = home.run("roster", "confirm", "--words", str(there["words"]).upper(), home=WARY)
        assert (done.returncode, done.stdout) == (0, f"roster version {there['version']} is confirmed\n")
        home.until(lambda: all(f"run_ended run={run}" in home.err(name) for name in NAMES), "the end of the run")
        assert sent_inputs(home, WARY) > 0, "it was in the sum"
        assert "roster_confirmed" in [kind for kind, _ in trail(home, WARY)]

        # where no participant runs, the same commands work in its home
        assert home.end(WARY) == 0
        assert home.json("roster", "confirm", "--words", str(there["words"]), home=WARY)["confirmed"] is True


def test_a_folder_that_is_no_home_shows_no_roster(tmp_path: Path) -> None:
    with house(tmp_path) as home:
        done = home.run("roster", "show", "--json", home="nowhere")
        assert (done.returncode, json.loads(done.stderr)["error"]["code"]) == (2, "not_initialised")
