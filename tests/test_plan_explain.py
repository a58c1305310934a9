"""`plan check` and `plan explain` as a person sees them: figures, remedies that hold, sentences on figures."""

import json
import pathlib
import re
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import asdict

import numpy as np
import pytest
from enrolment_office import Office, join, open_office
from federation import FIVE, RUN, federation, parse, plan_bytes
from fedveil_cli import cohort_figures, demo_split, exposure, known_roster, main, operating, run_commands
from fedveil_cli.cipher_traffic import traffic
from fedveil_common import layout
from fedveil_common import plan as plans
from fedveil_common.errors import ConfigError, Unreachable
from fedveil_common.ids import OrgId
from fedveil_common.masking import fixedpoint, quorum
from fedveil_common.messages import CoordinatorHello, ParticipantHello, PlanAnswer, PlanOffer, RosterNotice
from fedveil_common.paillier import modulus_record
from fedveil_common.paillier.key_terms import KeyTerms
from fedveil_simulation.cluster import Packet
from paillier_holders import holders_of, terms_of

PLAN_FILE = pathlib.Path(str(demo_split.__file__)).with_name("demo_plan.yaml")
PLAN_TEXT = PLAN_FILE.read_text()
PLAN_PROTECTION = {"value_bits": 16, "update_norm": plans.parse_plan(PLAN_FILE.read_bytes(), "").protection.update_norm}


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, dict[str, object], dict[str, str]]:
    """Exit code, the JSON object on stdout ({} if none), and the error on stderr ({} if none)."""
    exit_code = main.main([*arguments, "--json"])
    out, err = capsys.readouterr()
    errors = [json.loads(line)["error"] for line in err.splitlines() if line.startswith("{")]
    return exit_code, json.loads(out) if out else {}, errors[0] if errors else {}


def plan_file(folder: pathlib.Path, protection: str = "masked", **changes: str) -> pathlib.Path:
    """The demo's plan with other values of a few fields."""
    text = PLAN_TEXT
    for name, value in changes.items():
        text, count = re.subn(rf"\b{name}: (\[[^\]]*\]|[^,}}\n]+)", f"{name}: {value}", text)
        assert count == 1, name
    path = folder / "plan.yaml"
    path.write_text(text.replace("kind: masked", f"kind: {protection}"))
    return path


def told(value: dict[str, object]) -> dict[str, dict[str, object]]:
    """The statements' figures by id."""
    statements = value["statements"]
    assert isinstance(statements, list)
    return {one["id"]: one["figures"] for one in statements}


# --- why a plan can never start ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("roster", "changes"),
    [
        (4, {}),
        (1, {}),
        (6, {"min_participants": "7", "max_corrupt": "3"}),
        (4, {"min_participants": "9", "max_corrupt": "7"}),
        (2, {"min_participants": "3"}),
        (1275, {}),
        (5000, {}),
    ],
)
def test_each_remedy_that_is_named_makes_it_possible(
    roster: int, changes: dict[str, str], tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = plan_file(tmp_path, **changes)
    plan = plans.parse_plan(path.read_bytes(), "plan.yaml")
    found = cohort_figures.impossible(plan, roster)
    assert found is not None
    code, value, error = run(capsys, "plan", "check", str(path), "--roster-size", str(roster))
    assert (code, error["code"]) == (2, "cohort_never_possible")
    figures = value["figures"]
    assert isinstance(figures, dict)
    members = min(roster, quorum.MAX_COHORT)
    c = max(plan.cohort.max_corrupt, roster // 5, 1)
    q = (members + c) // 2 + 1
    assert (figures["cohort"], figures["max_corrupt"], figures["quorum"], figures["threshold"]) == (members, c, q, q)
    assert figures["would_do"] == list(found.remedies) != []
    assert error["next"] == "; or ".join(found.remedies)
    drops, ring = figures["tolerated_drops"], figures["ring_bits"]
    for told_of in (
        f"N = {members}",
        f"roster of {roster}",
        f"c = {c}",
        f"t = {q}",
        f"so {drops} may",
        f"of {ring} bits",
    ):
        assert told_of in error["what"]
    for bytes_of in (figures["bytes_up"], figures["bytes_down"]):
        assert str(bytes_of["vector"] + bytes_of["messages_about"]) in error["what"]
    assert run(capsys, "plan", "explain", str(path), "--roster-size", str(roster))[2]["code"] == error["code"]
    for remedy in found.remedies:
        words = remedy.replace("(", " ").replace(",", " ").split()
        numbers = [int(word) for word in words if word.isdigit()]
        if remedy.startswith("enrol"):
            assert numbers[1] == roster + numbers[0]
            assert operating.check_cohort(plans.canonical(plan), numbers[1]) is None
            with pytest.raises(ConfigError):
                operating.check_cohort(plans.canonical(plan), numbers[1] - 1)
        elif remedy.startswith("have at most"):
            operating.check_cohort(plans.canonical(plan), numbers[0])
            with pytest.raises(ConfigError):
                operating.check_cohort(plans.canonical(plan), numbers[0] + 1)
        else:
            fields = {word.removeprefix("cohort."): words[at + 1] for at, word in enumerate(words) if "cohort." in word}
            changed = plan_file(tmp_path, **{**changes, **fields})
            assert run(capsys, "plan", "check", str(changed), "--roster-size", str(roster))[0] == 0


def test_run_start_refuses_with_the_same_figures() -> None:
    with pytest.raises(ConfigError) as caught:
        operating.check_cohort(plans.canonical(plans.parse_plan(PLAN_FILE.read_bytes(), "plan.yaml")), 4)
    assert caught.value.code == "cohort_never_possible"
    assert caught.value.not_done == "no run was started"
    assert "(5 in all)" in caught.value.next_step


def test_two_names_of_one_option(capsys: pytest.CaptureFixture[str]) -> None:
    first = run(capsys, "plan", "check", str(PLAN_FILE), "--participants", "7")
    assert first == run(capsys, "plan", "check", str(PLAN_FILE), "--roster-size", "7")
    assert first[0] == 0


# --- the figures are those of a real round ----------------------------------------------------------------------------


@pytest.mark.parametrize("members", [3, 5])
def test_bytes_are_those_that_travel(members: int) -> None:
    plan = plans.parse_canonical(plan_bytes(rounds=2))
    shown = cohort_figures.figures(plan, members, members)
    cluster = federation(FIVE[:members], plan=plan_bytes(rounds=2), start=False)
    sent: dict[tuple[OrgId, bool], int] = defaultdict(int)
    dispatch, apart = cluster.dispatch, (RosterNotice, PlanOffer, PlanAnswer, ParticipantHello, CoordinatorHello)

    def counting(packet: Packet) -> None:
        if not isinstance(parse(packet), apart):
            sent[packet.org_id, packet.outward] += len(packet.data)
        dispatch(packet)

    cluster.dispatch = counting  # type: ignore[method-assign]
    for org in cluster.members:
        cluster.start_member(org)
    cluster.settle()
    cluster.start_run(RUN, plan_bytes(rounds=2))
    cluster.play(lambda: cluster.ended(RUN), 200_000.0)
    attempts = 3  # two train sums and the one that measures the last model
    up, down = (sent[FIVE[0], outward] / attempts for outward in (False, True))
    assert 0.6 * shown.messages_up < up < 1.2 * shown.messages_up
    assert 0.6 * shown.messages_down < down < 1.2 * shown.messages_down
    vectors = {len(data) for _, _, data in cluster.uploads}
    assert shown.vector_down in vectors
    assert shown.vector_up == shown.vector_down + 32


def test_ring_and_openings_are_those_of_the_manifest() -> None:
    plan = plans.parse_plan(PLAN_FILE.read_bytes(), "plan.yaml")
    for members, bits in ((5, 19), (16, 20), (17, 21), (256, 24)):
        shown = cohort_figures.figures(plan, members, members)
        quorum.check_no_wrap(members, 16, shown.ring_bits)
        assert shown.ring_bits == bits
        assert shown.openings == min(shown.corrupt, shown.threshold - 1 - shown.corrupt) >= 1


# --- explain ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("roster", "stated"), [(5, 1), (8, 1), (12, 3), (23, 1)])
def test_explain_tells_the_figures_of_each_cohort(
    roster: int, stated: int, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = plan_file(tmp_path, max_corrupt=str(stated))
    plan = plans.parse_plan(path.read_bytes(), "plan.yaml")
    code, value, _ = run(capsys, "plan", "explain", str(path), "--roster-size", str(roster))
    assert (code, value["participants"], value["participants_from"]) == (0, roster, "--roster-size")
    cohorts = value["cohorts"]
    assert isinstance(cohorts, list)
    sizes = [one["members"] for one in cohorts]
    assert sizes == cohort_figures.possible_cohorts(plan, roster)
    c = quorum.corrupt_bound(stated, roster)
    for one in cohorts:
        n, least = one["members"], max(quorum.quorum(one["members"], c), 3)
        quorum.check_parameters(n, c, one["quorum"], one["threshold"], one["min_survivors"], c)
        with_coordinator = {each["members"]: each for each in one["coalitions"] if each["coordinator"]}
        assert {0, c, c + 1, n - 2, n - 1} == set(with_coordinator)
        for k, each in with_coordinator.items():
            assert each["promised"] == (k <= c)
            assert each["group"] == (least - k if k <= c else None)
            assert each["group_if_all_stay"] == n - k
        alone = {each["members"]: each for each in one["coalitions"] if not each["coordinator"]}
        assert (alone[n - 1]["group"], alone[1]["group"]) == (1, least - 1)
        assert c < one["single_update_from"] <= least - 1
    small, large = sizes[0], sizes[-1]
    figures = told(value)
    least = max(quorum.quorum(small, c), 3)
    assert figures["coordinator_alone"] == {"cohort": small, "colluders": 0, "group": least}
    assert figures["coordinator_with_c"] == {"cohort": small, "colluders": c, "group": least - c}
    assert figures["coordinator_with_more"]["colluders"] == c + 1
    assert figures["one_member"]["group"] == least - 1
    assert figures["all_but_one"]["colluders"] == large - 1
    assert figures["stopped_by_members"] == {"roster": roster, "members": roster - small + 1}


def test_explain_without_a_roster_takes_the_fewest_that_can_start(
    tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, value, _ = run(capsys, "--home", str(tmp_path / "none"), "plan", "explain", str(PLAN_FILE))
    cohorts = value["cohorts"]
    assert isinstance(cohorts, list)
    assert (code, value["participants"], [one["members"] for one in cohorts]) == (0, 5, [5])


def test_every_figure_of_a_statement_stands_in_its_text(capsys: pytest.CaptureFixture[str]) -> None:
    _, value, _ = run(capsys, "plan", "explain", str(PLAN_FILE), "--roster-size", "11")
    statements = value["statements"]
    assert isinstance(statements, list)
    silent = {"group", "colluders", "cohort", "evaluate", "standardise", "roster", "rows_within"}
    for one in statements:
        numbers = [
            str(figure) for name, figure in one["figures"].items() if isinstance(figure, int) if name not in silent
        ]
        missing = [number for number in numbers if number not in one["text"].replace("Nobody", "0")]
        assert missing in ([], ["0"]), one["id"]
    assert main.main(["plan", "explain", str(PLAN_FILE), "--roster-size", "11"]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    for one in statements:
        assert f"- {one['text']}\n" in out


def test_what_the_sums_say_follows_the_plan(tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]) -> None:
    def shown(**changes: str) -> dict[str, dict[str, object]]:
        return told(run(capsys, "plan", "explain", str(plan_file(tmp_path, **changes)), "--roster-size", "5")[1])

    plan = plans.parse_plan(PLAN_FILE.read_bytes(), "plan.yaml")
    every = shown()
    steps = plan.training.rounds
    blocks = [layout.layout_for(plan, layout.Purpose.TRAIN, step).slices() for step in range(steps)]
    assert every["exact_sums"]["sums"] == steps + 2
    assert every["holdout_rows"]["sums"] == sum(layout.HOLDOUT in one for one in blocks) + 1
    assert every["training_rows"]["sums"] == sum(layout.WEIGHT in one for one in blocks)
    cells = [one for one in blocks[0] if one in (layout.NEGATIVE, layout.POSITIVE)]
    assert every["histogram_cells"]["cells"] == sum(blocks[0][name].stop - blocks[0][name].start for name in cells)
    assert "training_rows" not in shown(weight="uniform")
    assert "histogram_cells" not in shown(metrics="[loss]")
    assert shown(standardise="range")["exact_sums"]["sums"] == steps + 1


def test_categories_and_columns_that_may_be_empty_are_named(
    tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    line = next(one for one in PLAN_TEXT.split("\n") if "mean_radius:" in one)
    more = "    sex: {type: category, values: [F, M, X]}\n    lactate: {type: float, range: [0, 30], missing: mean}\n"
    path = tmp_path / "plan.yaml"
    path.write_text(PLAN_TEXT.replace(line, more + line))
    figures = told(run(capsys, "plan", "explain", str(path))[1])["single_organisation"]
    plan = plans.parse_plan(path.read_bytes(), "plan.yaml")
    without = plans.parse_plan(PLAN_FILE.read_bytes(), "plan.yaml")
    assert figures == {"categories": ["sex"], "one_value_inputs": 2, "may_be_empty": ["lactate"]}
    assert plan.data.inputs - without.data.inputs == 2 + 1


def test_row_counts_are_as_near_as_said(capsys: pytest.CaptureFixture[str]) -> None:
    """With the product's own quantiser: the difference of two sums of weights, over many roundings."""
    plan = plans.parse_plan(PLAN_FILE.read_bytes(), "plan.yaml")
    figures = told(run(capsys, "plan", "explain", str(PLAN_FILE), "--roster-size", "9")[1])["training_rows"]
    within, cap = figures["rows_within"], plan.training.weight_cap
    assert isinstance(within, float)
    (block,) = (b for b in layout.layout_for(plan, layout.Purpose.TRAIN, 0).blocks if b.name == layout.WEIGHT)
    rows = np.array([17.0, 33.0, 58.0, 71.0, 90.0, 111.0, 133.0, 150.0, 171.0])
    worst = 0.0
    for trial in range(200):
        sums = []
        for stay, key in ((9, 2 * trial), (8, 2 * trial + 1)):
            weights = rows[:stay] / cap
            made, _ = fixedpoint.quantise(weights, block.scale, block.limit, key.to_bytes(32, "big"), 0)
            sums.append(int(made.sum()) / block.scale * cap)
        worst = max(worst, abs(sums[0] - sums[1] - rows[8]))
    assert within / 20 < worst <= within < 0.5


# --- under the key of holders ---------------------------------------------------------------------------------------


def terms_file(folder: pathlib.Path) -> pathlib.Path:
    """Of a key that any 4 of 5 holders use together."""
    path = folder / "terms.json"
    path.write_bytes(KeyTerms(modulus_record.adopt_rsa_2048(1), holders_of(terms_of(5, 4))).encode())
    return path


def test_explain_says_what_holders_of_the_key_could_learn(
    tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, terms = plan_file(tmp_path, "paillier, key: key-1"), terms_file(tmp_path)
    code, value, _ = run(capsys, "plan", "explain", str(path), "--roster-size", "11", "--key", str(terms))
    figures = told(value)
    assert code == 0
    assert figures["holders_together"] == {"holders": 5, "threshold": 4}
    assert figures["holders_below"] == {"below": 3}
    assert figures["factors"] == {"bits": 2048}
    assert figures["drop_outs"]["holders_needed"] == 4
    assert "threshold" not in figures["drop_outs"]
    assert "dead_from" not in figures["aborted"]
    plan = plans.parse_plan(path.read_bytes(), "plan.yaml")
    assert figures["bytes"] == {"cohort": 11} | asdict(
        traffic(plan, cohort_figures.figures(plan, 11, 11), terms_of(5, 4))
    )
    cohorts, statements = value["cohorts"], value["statements"]
    assert isinstance(cohorts, list)
    assert isinstance(statements, list)
    for one in cohorts:
        assert (one["threshold"], one["openings_of_one_dealer"]) == (None, None)
        assert one["single_update_from"] == min(one["min_survivors"] - 1, 4, max(2 * one["quorum"] - one["members"], 0))
    for one in statements:
        silent = {"group", "colluders", "cohort", "evaluate", "standardise", "roster", "rows_within"}
        numbers = [str(n) for name, n in one["figures"].items() if isinstance(n, int) and name not in silent]
        missing = [number for number in numbers if number not in one["text"].replace("Nobody", "0")]
        assert missing in ([], ["0"]), one["id"]


def test_explain_without_the_terms_says_it_in_words(tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = plan_file(tmp_path, "paillier, key: key-1")
    assert main.main(["plan", "explain", str(path), "--roster-size", "5"]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    assert "How many bytes a train sum takes is the choice of the key key-1" in out
    for words in ("A threshold of the holders of the key key-1", "post-quantum", "the encrypted updates"):
        assert words in out
    for masked in ("masked", "false shares", "checksum"):
        assert masked not in out


def test_terms_of_another_key_are_no_answer(tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]) -> None:
    terms = str(terms_file(tmp_path))
    for protection in ("paillier, key: key-2", "masked"):
        found = run(capsys, "plan", "explain", str(plan_file(tmp_path, protection)), "--key", terms)
        assert (found[0], found[1], found[2]["code"]) == (2, {}, "other_key")


def test_check_shows_the_key_and_no_figures_of_masks(
    tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = plan_file(tmp_path, "paillier, key: key-1")
    code, value, _ = run(capsys, "plan", "check", str(path), "--roster-size", "5")
    assert (code, value["protection"]) == (0, {**PLAN_PROTECTION, "kind": "paillier", "key": "key-1"})
    figures = value["figures"]
    assert isinstance(figures, dict)
    assert {figures[name] for name in ("threshold", "openings_of_one_dealer", "bytes_up", "bytes_down")} == {None}
    assert main.main(["plan", "check", str(path), "--roster-size", "5"]) == 0
    assert ", key key-1\n" in capsys.readouterr().out
    code, value, error = run(capsys, "plan", "check", str(path), "--roster-size", "4")
    assert (code, error["code"]) == (2, "cohort_never_possible")
    assert "bytes" not in error["what"]


# --- the roster that a home knows -------------------------------------------------------------------------------------


class Live:
    """What a running coordinator answers."""

    def __init__(self, *states: str) -> None:
        self._states = states

    def status(self) -> dict[str, object]:
        return {"participants": [{"org": f"o{at}", "state": state} for at, state in enumerate(self._states)]}


def unreachable(home: pathlib.Path) -> Live:
    raise Unreachable("coordinator_unreachable", "nobody listens")


@pytest.fixture
def office(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Office]:
    with open_office(tmp_path) as made:
        for number, org in enumerate(("acme", "borealis", "cygnus")):
            join(made, tmp_path / org, made.invite(org), seed=10 + number)
        yield made


def test_the_roster_of_a_home(
    office: Office, monkeypatch: pytest.MonkeyPatch, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(run_commands, "connect", unreachable)
    assert known_roster.known_roster(None, office.home) is None  # nobody was listed yet, which says nothing
    office.next_roster()
    found = known_roster.known_roster(None, office.home)
    assert found == known_roster.KnownRoster(3, "roster version 2")
    path = plan_file(tmp_path)
    assert (
        main.main(["--home", str(office.home), "plan", "check", str(path), "--json"]) == 0
    )  # a warning: more may join
    out, err = capsys.readouterr()
    figures = json.loads(out)["figures"]
    assert (figures["participants"], figures["can_start"]) == (3, False)
    assert "warning" in err
    assert "(5 in all)" in err
    assert run(capsys, "--home", str(office.home), "plan", "explain", str(path))[2]["code"] == "cohort_never_possible"
    states = ("active",) * 4 + ("pending", "pending", "revoked")
    monkeypatch.setattr(run_commands, "connect", lambda home: Live(*states))
    value = run(capsys, "--home", str(office.home), "plan", "explain", str(path))[1]
    assert (value["participants"], value["participants_from"]) == (6, "the coordinator's members")
    assert run(capsys, "--home", str(office.home), "plan", "explain", str(path), "--roster-size", "9")[1][
        "participants"
    ] == 9  # fmt: skip
    monkeypatch.setattr(run_commands, "connect", unreachable)
    (office.home / "governance").rename(tmp_path / "elsewhere")
    assert known_roster.known_roster(None, office.home) is None
    assert exposure.stopped_by_absence(6, 5) == 2
