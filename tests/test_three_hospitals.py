"""The guide of `examples/three_hospitals`, typed literally: masking, policy, consent, a private run, what is left."""

import json
import re
import shutil
from pathlib import Path

import pyarrow.csv
import pytest
from berths import free_port

from tests.processes import House, house

GUIDE = Path(__file__).parents[1] / "examples" / "three_hospitals"
NAMES = ("acme", "borealis", "cygnus")
PASSPHRASES = {
    "init": ("--passphrase-file", "ca.txt", "--governance-passphrase-file", "gov.txt"),
    "serve": ("--passphrase-file", "ca.txt"),
    "invite": ("--governance-passphrase-file", "gov.txt"),
    "run start": ("--governance-passphrase-file", "gov.txt"),
    "join": ("-",),
}
"""In the place of what a person types at the prompts."""

DIRECT = re.compile(r"Albers|Brandt|Costa|Demir|Eriksen|Fontana|Garnier|Horvat|Ivanova|Jansen|\+49 30 \d{7}")
"""Names and telephone numbers of the invented patients."""


def commands() -> list[tuple[str, list[str]]]:
    """Who types what, in the order of the guide."""
    lines = re.findall(r"(?m)^    (\w+)\$ +fedveil (.+)$", (GUIDE / "README.md").read_text())
    return [(who, words.split()) for who, words in lines]


@pytest.fixture
def hospitals(tmp_path: Path) -> House:  # type: ignore[misc]
    shutil.copytree(GUIDE, tmp_path, dirs_exist_ok=True, ignore=shutil.ignore_patterns("masking.key", "home"))
    (tmp_path / "ca.txt").write_text("certificate authority")
    (tmp_path / "gov.txt").write_text("governance passphrase")
    (tmp_path / "home").mkdir()
    with house(tmp_path) as made:
        yield made


def test_the_guide_of_the_three_hospitals(hospitals: House) -> None:
    said: dict[tuple[str, str], str] = {}
    values = {"PLAN_HASH": "", "RUN": "", "127.0.0.1:7443": f"127.0.0.1:{free_port()}"}
    token = ""
    for who, written in commands():
        words = [values.get(word, word) for word in written]
        home = "home/op" if who == "operator" else f"home/{who}"
        what = " ".join(words[:2]) if words[0] in {"run", "plan", "data", "policy", "model", "audit"} else words[0]
        extra = PASSPHRASES.get(what, ())
        if what == "serve":
            hospitals.start("coordinator", *words, *extra, home=home)
            hospitals.until(lambda: hospitals.run("health", home="home/op").returncode == 0, "the coordinator's start")
            continue
        if what == "participate":
            hospitals.start(who, *words, home=home)
            if who == NAMES[-1]:
                hospitals.until(lambda: connected(hospitals) == list(NAMES), "the hospitals' connection")
            continue
        if what == "pending":
            hospitals.until(lambda: values["PLAN_HASH"] in hospitals.run("pending", home="home/acme").stdout, "a plan")
            assert waiting(hospitals) == "offering", "nobody has agreed: no round begins"
        if what == "approve":  # the offer reaches each hospital by itself
            hospitals.until(
                lambda home=home: values["PLAN_HASH"] in hospitals.run("pending", home=home).stdout,  # type: ignore[misc]
                "the plan",
            )
        done = hospitals.run(*words, *extra, home=home, stdin=token if what == "join" else "")
        assert done.returncode == 0, (who, words, done.stderr)
        said[who, what] = done.stdout + done.stderr
        if what == "invite":
            token = done.stdout.strip()
        if what == "plan check":
            values["PLAN_HASH"] = re.findall(r"\b[0-9a-f]{64}\b", done.stdout)[0]
        if what == "run start":
            values["RUN"] = str(hospitals.json("run", "list", home="home/op")["runs"][0]["run_id"])

    preview, show = said["acme", "data preview"], said["acme", "show"]
    assert "[phone]" in preview or "************" in preview
    assert not DIRECT.search(preview)
    assert (
        "thresholds for release are met" in said["acme", "data check"]
        or "fulfils the plan" in said["acme", "data check"]
    )
    for fact in ("epsilon", "3", "age", "lactate", "sofa", "sex", "died", "patient_id", "masked"):
        assert fact in show
    for name in NAMES:
        hospitals.until(lambda name=name: "run_ended" in hospitals.err(name), f"the end at {name}")  # type: ignore[misc]
    run = hospitals.json("run", "show", values["RUN"], home="home/op")
    assert run["code"] == "finished"
    assert all(one["survivors"] == list(NAMES) for one in run["rounds"])

    masked = pyarrow.csv.read_csv(hospitals.folder / "masked.csv")
    assert {"name", "birth_date"} & set(masked.column_names) == set()
    assert set(masked["age"].to_pylist()) <= {45, 55, 65, 75, 85}
    assert not DIRECT.search((hospitals.folder / "masked.csv").read_text())
    risk = json.loads((hospitals.folder / "risk.json").read_text())
    assert risk["k"] >= 5
    record = (hospitals.folder / "processing.md").read_text()
    for fact in ("icu_stays", "patient_id", "pseudonym", values["PLAN_HASH"][:12], "epsilon"):
        assert fact in record, fact
    nobody_else_knows(hospitals)


def connected(home: House) -> list[str]:
    return [one["org"] for one in home.json("status", home="home/op")["participants"] if one["connected"]]


def waiting(home: House) -> str:
    """In which phase the run is: `offering` while it waits for its members."""
    run = home.json("run", "list", home="home/op")["runs"][0]
    assert home.json("run", "show", run["run_id"], home="home/op")["rounds"] == []
    return "offering"


def nobody_else_knows(home: House) -> None:
    """No direct identifier, masked or not, is in the operator's home or in what the operator's programs printed."""
    rows = pyarrow.csv.read_csv(home.folder / "acme" / "icu.csv")
    numbers = {str(one).encode() for one in rows["insurance_no"].to_pylist()}
    files = [path for path in (home.folder / "home" / "op").rglob("*") if path.is_file()]
    assert len(files) > 5
    for path in [*files, home.folder / "coordinator.err", home.folder / "coordinator.out"]:
        data = path.read_bytes()
        assert not DIRECT.search(data.decode("latin-1")), path
        assert not any(number in data for number in numbers), path
