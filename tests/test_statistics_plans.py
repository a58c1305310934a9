"""The block `statistics` of a plan: one meaning, every problem with its line, one canonical form, one question each."""

import json
import pathlib
import re
import textwrap
from dataclasses import replace

import pytest
from federation import RUN, plan_bytes
from fedveil_common import jcs, layout, wire
from fedveil_common.errors import FedveilError, PeerError
from fedveil_common.ids import AttemptKey, RunId
from fedveil_common.messages import BlobType, Manifest, Purpose
from fedveil_common.plan import (
    Count,
    Figure,
    GroupCount,
    Histogram,
    Kind,
    Moment,
    NotInThisReleaseError,
    Plan,
    PlanError,
    Quantiles,
    canonical,
    check_release,
    parse_canonical,
    parse_plan,
    plan_hash,
)
from fedveil_common.statistics import vector
from fedveil_participant import checks
from fedveil_participant.checks import AcceptedPlan
from hypothesis import given, settings
from hypothesis import strategies as st
from statistics_federation import private, statistics_bytes, statistics_plan, statistics_text


def problems_of(text: str) -> list[tuple[int, str, str]]:
    with pytest.raises(PlanError) as caught:
        parse_plan(text.encode(), "asked.yaml")
    return [(problem.line, problem.path, problem.code) for problem in caught.value.problems]


def line_of(text: str, part: str) -> int:
    """The only line of the file in which `part` stands."""
    (line,) = [number for number, line in enumerate(text.splitlines(), 1) if part in line]
    return line


def test_the_questions_are_read_in_order_with_their_defaults() -> None:
    plan = statistics_plan()
    assert plan.kind is Kind.STATISTICS
    assert plan.statistics is not None
    rows, total, mean, variance, ages, parts, quantiles, groups = plan.statistics.queries
    assert rows == Count()
    assert [total, mean, variance] == [Moment(figure, "chol") for figure in Figure]
    assert ages == Histogram("age", tuple(float(edge) for edge in range(0, 101, 10)))
    assert parts == Histogram("chol", (150.0, 200.0, 240.0, 300.0))
    assert quantiles == Quantiles("chol", (0.25, 0.5, 0.75), 64)
    assert groups == GroupCount("diagnosis")
    short = statistics_text().replace("  min_cell: 1\n  refresh: 0\n", "")
    assert parse_plan(short.encode(), "x").statistics == replace(plan.statistics, min_cell=5)
    assert plan.protection.value_bits == 40
    check_release(plan)


def test_the_canonical_form_says_what_was_asked_and_nothing_of_a_model() -> None:
    data = canonical(statistics_plan())
    said = json.loads(data)
    assert set(said) == {"version", "name", "kind", "data", "statistics", "cohort", "protection", "privacy"}
    assert said["protection"] == {"kind": "masked", "value_bits": 40}
    assert set(said["data"]) == {"dataset", "features", "min_rows"}
    assert said["statistics"]["queries"][3:6] == [
        {"variance": "chol"},
        {"histogram": "age", "edges": list(range(0, 101, 10))},
        {"histogram": "chol", "edges": [150, 200, 240, 300]},
    ]
    assert parse_canonical(data) == statistics_plan()
    # A change here changes approved hashes: it needs a new plan version.
    assert plan_hash(data).hex() == "c2fad7511d8a496edb2be09cff8c482bf36551b6627d57abc809b4ed290156fc"


def test_equal_bins_and_their_edges_are_one_plan() -> None:
    edges = statistics_text().replace("bins: 10", f"edges: [{', '.join(map(str, range(0, 101, 10)))}]")
    assert canonical(parse_plan(edges.encode(), "x")) == statistics_bytes()


def test_the_plan_of_the_page_is_one_and_its_defaults_hold() -> None:
    page = (pathlib.Path(__file__).parents[1] / "docs" / "plan.md").read_text().partition("## Statistics")[2]
    block = textwrap.dedent(re.findall(r"(?m)((?:^    .*\n)+)", page)[0]).replace("kind: statistics\n", "")
    head, _, rest = statistics_text().partition("statistics:\n  max_rows")
    text = head + block + rest[rest.index("cohort:") :]
    plan = parse_plan(text.encode(), "page")
    assert plan.statistics is not None
    assert [type(query) for query in plan.statistics.queries] == [
        *[Count, Moment, Moment, Moment],
        *[Histogram, Histogram, Quantiles, GroupCount],
    ]
    told = dict(re.findall(r"^\| `(\w+)` \| (\w+) \|", page, re.M))
    bare = text.replace("  min_cell: 5\n", "")
    assert parse_plan(bare.encode(), "page") == plan
    assert told == {"max_rows": "none", "min_cell": "5", "refresh": "0"}
    assert re.findall(r"`protection.value_bits` is (\d+) where it is left out, (\d+) with", page) == [("40", "24")]
    assert plan.protection.value_bits == 40
    assert statistics_plan(privacy=private()).protection.value_bits == 24


BAD = {
    "an unknown column": ("{mean: chol}", "{mean: cholesterol}", "column_unknown"),
    "a category where a number is asked for": ("{sum: chol}", "{sum: diagnosis}", "column_type"),
    "a number where values are asked for": ("{group_count: diagnosis}", "{group_count: age}", "column_type"),
    "no bins": ("bins: 10", "bins: 0", "range"),
    "bins and edges": ("bins: 10", "bins: 10, edges: [0, 50, 100]", "query_cells"),
    "neither bins nor edges": (", bins: 10", "", "query_cells"),
    "edges that do not ascend": ("[150, 200, 240, 300]", "[150, 200, 200, 300]", "range"),
    "edges beyond the range": ("[150, 200, 240, 300]", "[150, 200, 240, 501]", "range"),
    "one edge": ("[150, 200, 240, 300]", "[150]", "range"),
    "an edge that is no number": ("[150, 200, 240, 300]", "[150, high]", "type"),
    "a quantile above 1": ("[0.25, 0.5, 0.75]", "[0.25, 1.5]", "range"),
    "quantiles that do not ascend": ("[0.25, 0.5, 0.75]", "[0.5, 0.25]", "range"),
    "no quantile": ("[0.25, 0.5, 0.75]", "[]", "range"),
    "no resolution": (", resolution: 64", "", "missing"),
    "too fine a resolution": ("resolution: 64", "resolution: 4097", "range"),
    "another kind of question": ("{mean: chol}", "{median: chol}", "query_kind"),
    "two questions in one": ("{mean: chol}", "{mean: chol, sum: age}", "query_kind"),
    "a field too many": ("{mean: chol}", "{mean: chol, of: women}", "unknown_field"),
    "something else to count": ("{count: rows}", "{count: persons}", "choice"),
    "the same twice": ("{mean: chol}", "{sum: chol}", "value_twice"),
    "a smallest cell of nothing": ("min_cell: 1", "min_cell: 0", "range"),
    "more rows than bits": ("max_rows: 1000", "max_rows: 600000000000", "range"),
}


@pytest.mark.parametrize(("before", "after", "code"), BAD.values(), ids=BAD)
def test_a_bad_question_is_told_with_its_line(before: str, after: str, code: str) -> None:
    text = statistics_text()
    assert text.count(before) == 1
    changed = text.replace(before, after)
    found = problems_of(changed)
    assert {line for line, _, _ in found} == {line_of(text, before)}
    assert code in {one for _, _, one in found}
    assert all(path.startswith("statistics") for _, path, _ in found)


def test_a_count_of_rows_fits_the_bits() -> None:
    text = statistics_text(bits=", value_bits: 9")
    assert problems_of(text) == [(line_of(text, "max_rows"), "statistics.max_rows", "max_rows")]


@pytest.mark.parametrize(
    ("more", "path"),
    [
        ("model: {kind: linear}\n", "model"),
        ("training: {rounds: 1}\n", "training"),
        ("evaluation: {holdout: 0.2}\n", "evaluation"),
        ("strategy: {kind: fedavg}\n", "strategy"),
    ],
)
def test_what_is_of_a_training_plan_is_no_field_of_it(more: str, path: str) -> None:
    text = statistics_text() + more
    assert problems_of(text) == [(len(text.splitlines()), path, "unknown_field")]


def test_questions_are_no_field_of_a_training_plan() -> None:
    said = json.loads(plan_bytes())
    said["statistics"] = json.loads(statistics_bytes())["statistics"]
    with pytest.raises(PeerError) as refused:
        parse_canonical(jcs.dumps(said))
    assert refused.value.code == "bad_plan"
    text = statistics_text().replace("kind: statistics", "kind: train")
    assert {("statistics", "unknown_field"), ("model", "missing")} <= {(p, c) for _, p, c in problems_of(text)}
    without = statistics_text().partition("statistics:\n  max")[0]
    assert ("statistics", "missing") in {(p, c) for _, p, c in problems_of(without)}


def test_a_plan_composed_in_code_is_one_kind_or_the_other() -> None:
    for wrong in (replace(statistics_plan(), statistics=None), replace(statistics_plan(), kind=Kind.TRAIN)):
        with pytest.raises(NotInThisReleaseError):
            check_release(wrong)


# --- the question -----------------------------------------------------------------------------------------------------


def test_what_is_asked_twice_is_summed_once_and_every_part_has_one_scale() -> None:
    plan = statistics_plan()
    names = [(block.name, block.length) for block in layout.layout_for(plan, Purpose.STATISTICS, 0).blocks]
    assert names == [
        ("rows", 1),
        ("present:chol", 1),
        ("sum:chol", 1),
        ("squares:chol", 1),
        ("cells:5", 10),
        ("cells:6", 3),
        ("cells:7", 64),
        ("cells:8", 3),
    ]
    m = plan.protection.max_value
    for block in layout.layout_for(plan, Purpose.STATISTICS, 0).blocks:
        assert (block.cap, block.scale) == (1000.0, m // 1000)
        assert block.limit <= m
    only = statistics_plan(queries="    - {mean: age}\n")
    assert [part.name for part in vector.parts(only)] == ["present:age", "sum:age"]


def question(**changes: object) -> bytes:
    return layout.query_digest(statistics_plan(**changes))


def test_a_question_is_known_by_all_that_determines_its_answer() -> None:
    plan = statistics_plan()
    renamed = replace(plan, name="other", data=replace(plan.data, dataset="x", min_rows=9), purpose="p")
    assert layout.query_digest(renamed) == question() == question(refresh=3)
    cohort = replace(plan, cohort=replace(plan.cohort, wait_s=7.0))
    assert layout.query_digest(cohort) == question()
    others = [
        question(min_cell=2),
        question(max_rows=999),
        question(queries="    - {mean: age}\n"),
        question(missing="drop"),
        question(kind="masked, value_bits: 30"),
        question(privacy=private(), kind="masked, value_bits: 24"),
        question(privacy=private(), kind="masked, value_bits: 24", person="person: person"),
        question(privacy=private("noise_multiplier: 2.0"), kind="masked, value_bits: 24"),
    ]
    assert len({question(), *others}) == len(others) + 1
    assert question(person="person: person") == question(), "without privacy nobody counts persons"


def test_an_answer_is_kept_for_its_asking() -> None:
    digests = [layout.answer_digest(statistics_plan(refresh=number)) for number in range(3)]
    assert len(set(digests)) == 3
    assert digests[0] == question()


def test_no_training_plan_has_such_a_sum() -> None:
    with pytest.raises(ValueError, match="statistics"):
        layout.layout_for(parse_canonical(plan_bytes()), Purpose.STATISTICS, 0)


# --- what a participant insists on ------------------------------------------------------------------------------------


def offered(plan: Plan) -> Manifest:
    """A manifest that the place of the only sum of `plan` asks for."""
    from federation import THREE
    from fedveil_coordinator import run as runs
    from fedveil_simulation.charter import make_charter

    charter = make_charter(THREE, 1)
    state, _ = runs.open_run(RUN, canonical(plan), runs.Office(charter.coordinator_key), charter.roster, (), 0.0)
    willing = replace(state, connected=frozenset(THREE), answers=dict.fromkeys(THREE, ""))
    return runs.manifest_of(willing, bytes(32))


def test_the_only_sum_is_that_of_the_plan() -> None:
    plan = statistics_plan()
    manifest = offered(plan)
    accepted = AcceptedPlan(plan, plan_hash(canonical(plan)), b"v" * 32)
    checks.manifest_follows_plan(manifest, accepted)
    assert wire.parse_body(BlobType.MANIFEST, wire.encode_body(manifest)) == manifest
    assert checks.spent_key(manifest, accepted).subject == layout.query_digest(plan)
    assert checks.spent_key(manifest, accepted).purpose is Purpose.STATISTICS
    wrong = {
        "a train sum": replace(manifest, purpose=Purpose.TRAIN),
        "a standardise sum": replace(manifest, purpose=Purpose.STANDARDISE),
        "a second round": replace(manifest, key=AttemptKey(RunId(RUN), 2, 1)),
        "a later step": replace(manifest, step=1),
        "another question": replace(manifest, query_digest=b"q" * 32),
        "a model": replace(manifest, model_hash=b"m" * 32),
        "more coordinates": replace(manifest, length=manifest.length + 1),
        "another layout": replace(manifest, layout_hash=b"l" * 32),
    }
    for name, one in wrong.items():
        with pytest.raises(FedveilError) as refused:
            checks.manifest_follows_plan(one, accepted)
        assert refused.value.code == "manifest_differs_from_plan", name
    training = parse_canonical(plan_bytes())
    asked = replace(offered(training), purpose=Purpose.STATISTICS)
    with pytest.raises(PeerError) as refused:
        checks.manifest_follows_plan(asked, AcceptedPlan(training, plan_hash(plan_bytes()), b"v" * 32))
    assert refused.value.code == "manifest_differs_from_plan"


def test_no_model_is_trained_or_measured_under_it() -> None:
    plan = statistics_plan()
    for purpose, step in ((Purpose.TRAIN, 0), (Purpose.EVALUATE, 1)):
        key = AttemptKey(RunId(RUN), step + 1, 1)
        one = replace(offered(plan), purpose=purpose, step=step, key=key, model_hash=b"m" * 32, query_digest=b"")
        with pytest.raises(PeerError):
            checks.manifest_place_in_plan(one, plan)


QUERY = st.one_of(
    st.just("{count: rows}"),
    st.builds("{{{}: {}}}".format, st.sampled_from(list(Figure)), st.sampled_from(["chol", "age"])),
    st.builds("{{histogram: {}, bins: {}}}".format, st.sampled_from(["chol", "age"]), st.integers(1, 64)),
    st.builds(
        "{{quantiles: {}, at: [{}], resolution: {}}}".format, st.just("age"), st.floats(0, 1), st.integers(2, 99)
    ),
    st.just("{group_count: diagnosis}"),
)


@settings(deadline=None, derandomize=True)
@given(st.lists(QUERY, min_size=1, max_size=8, unique=True))
def test_every_plan_is_what_its_canonical_bytes_say(queries: list[str]) -> None:
    text = statistics_text(queries="".join(f"    - {query}\n" for query in queries))
    try:
        plan = parse_plan(text.encode(), "x")
    except PlanError:
        assert {code for _, _, code in problems_of(text)} == {"value_twice"}, "two spellings of one question"
        return
    assert parse_canonical(canonical(plan)) == plan
    assert len(vector.parts(plan)) >= 1
    assert sum(part.length for part in vector.parts(plan)) == layout.first(plan).length
