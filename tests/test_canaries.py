"""Planted values: found in a run without protection, and nowhere in one with it.

A participant whose update IS a record of its table (the worst that training code could do) takes part in two runs of
the same federation of processes, one without masks. What the gate let through, the participant's output and logs, and
every byte of the coordinator's folder and logs are searched. The shortest canary has 8 bytes: in 100 MB of random bytes
one of the five appears by chance with a probability below 5 * 10^8 / 2^64 < 3 * 10^-11.
"""

from collections.abc import Mapping
from pathlib import Path

import pytest

from tests.patience import LIMIT_S
from tests.processes import NAMES, House, house, plan_text, table
from tests.tapped_command import BARE, LEAK, RECORD, TAP, planted

MODULE = "tests.tapped_command"
VICTIM = NAMES[0]
WARD = "canary-9f3c1b7e-Mrs.Example"


def leaking_plan(seed: int) -> str:
    """One sum, whose vector is long enough for a record; a ring of more than 32 bits."""
    text = plan_text(rounds=1, standardise="range", seed=seed)
    for before, now in (
        ("model: {kind: logistic, l2: 0.001}", "model: {kind: mlp, hidden: [16]}"),
        ("value_bits: 16", "value_bits: 40"),
    ):
        assert before in text
        text = text.replace(before, now)
    return text


def planted_table(name: str) -> str:
    """The usual table; the victim's first record is the canary."""
    text = table(name)
    if name != VICTIM:
        return text
    header, _, *rest = text.splitlines()
    assert header == "age,lactate,sex,died,ward"
    return "\n".join([header, f"83.0625,7.828125,F,1,{WARD}", *rest]) + "\n"


def leaking_run(folder: Path, bare: bool) -> None:
    """A federation whose first member hands over a record; nothing of it runs any more when this returns."""
    with house(folder) as made:
        _leaking_run(made, bare)


def _leaking_run(made: House, bare: bool) -> None:
    folder = made.folder
    bareness = {BARE: "1"} if bare else {}
    made.found(bareness, MODULE)
    plan_hash = made.plan(leaking_plan(7))
    for name in NAMES:
        (folder / f"{name}.csv").write_text(planted_table(name))
        joined = made.run("join", "-", stdin=made.invite(name), home=name)
        assert joined.returncode == 0, joined.stderr
        environment = {TAP: str(folder / f"{name}.tap"), LEAK: RECORD if name == VICTIM else name, **bareness}
        made.participate(name, plan_hash, "--until-ended", environment=environment, module=MODULE)
    made.until(lambda: made.connected() == list(NAMES), "the organisations' connection")
    started = made.run("run", "start", "plan.yaml", "--governance-passphrase-file", "gov.txt", "--json")
    (folder / "started").write_text(started.stdout + started.stderr)
    for name in NAMES:
        made.running.pop(name).wait(timeout=LIMIT_S)
    assert made.end("coordinator") == 0


def places(folder: Path) -> dict[str, bytes]:
    """Everything that left the victim, that it said, and that the coordinator has: name -> bytes."""
    found = {name: (folder / name).read_bytes() for name in (f"{VICTIM}.tap", f"{VICTIM}.out", f"{VICTIM}.err")}
    for path in [folder / "coordinator.out", folder / "coordinator.err", *sorted((folder / "op").rglob("*"))]:
        if path.is_file():
            found[str(path.relative_to(folder))] = path.read_bytes()
    return found


def sightings(where: Mapping[str, bytes], canaries: Mapping[str, bytes]) -> dict[str, set[str]]:
    """Canary -> the places in which it stands."""
    return {name: {place for place, data in where.items() if value in data} for name, value in canaries.items()}


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[bool, Path]:
    """Folder of the run with protection (True) and of the one without."""
    made = {}
    for protected in (False, True):
        folder = tmp_path_factory.mktemp("protected" if protected else "bare")
        leaking_run(folder, bare=not protected)
        made[protected] = folder
    return made


def test_without_protection_every_canary_is_found(runs: dict[bool, Path]) -> None:
    """The control: what is looked for does reach the gate and the coordinator's disk, if nothing hides it."""
    folder = runs[False]
    found = sightings(places(folder), planted(folder / f"{VICTIM}.csv"))
    for name, where in found.items():
        assert f"{VICTIM}.tap" in where, name
        assert any(place.startswith("op/") for place in where), name


def test_with_masks_no_canary_is_found_anywhere(runs: dict[bool, Path]) -> None:
    folder = runs[True]
    where = places(folder)
    canaries = planted(folder / f"{VICTIM}.csv")
    assert sightings(where, canaries) == {name: set() for name in canaries}
    assert len(where[f"{VICTIM}.tap"]) > 1000
    assert any(place.startswith("op/inputs/") and data for place, data in where.items()), "the input was kept there"
    assert any(place.startswith("op/sums/") and data for place, data in where.items()), "the sum was opened"
    assert min(map(len, canaries.values())) >= 8
    assert sum(map(len, where.values())) < 100_000_000, "the odds of a false alarm are said for 100 MB"
