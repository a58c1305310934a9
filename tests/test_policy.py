"""An organisation's policy: read strictly, every rule with a plan just inside and one just outside, clocks and months.

The imprint rule is tested against the attack that it bounds, carried out on a planted layer by other code than ours.
"""

import re
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest
from fedveil_common import jcs
from fedveil_common import plan as plans
from fedveil_common.errors import ConfigError, PolicyRefusal
from fedveil_common.ids import OrgId
from fedveil_participant import policy as policies
from fedveil_participant.policy import Facts, Policy, Verdict, hours, imprint
from fedveil_participant.policy.automatic import LetIn, approved_by, month_epsilon
from fedveil_participant.policy.judging import input_bytes
from fedveil_participant.policy.policy_file import check_rules_unwritable, check_unwritable, load_policy, may_write_as
from fedveil_participant.policy.rules import Approver, FirstLayer, HoursRules, ModelRules

from tests.processes import PRIVATE, plan_text

EXACT = plans.parse_plan(plan_text(rounds=4).encode(), "plan.yaml")
NOISY = plans.parse_plan(PRIVATE.encode(), "plan.yaml")
MLP = plans.parse_plan(
    plan_text().replace("{kind: logistic, l2: 0.001}", "{kind: mlp, hidden: [9, 4]}").encode(), "plan.yaml"
)
ASKED_TEXT = b"""
version: 1
name: counts
kind: statistics
data:
  dataset: visits
  features: {age: {type: float, range: [0, 120]}}
  person: ward
  min_rows: 5
statistics: {queries: [{mean: age}], max_rows: 1000, min_cell: 5}
cohort: {min_participants: 3}
protection: {kind: masked}
privacy: none
"""
ASKED = plans.parse_plan(ASKED_TEXT, "plan.yaml")
SHORT = """
version: 1
privacy: {exact_sums: allow, max_epsilon: 4, max_delta: 1.0e-5}
data:
  visits: {features: [age, lactate, sex], targets: [died], min_rows: 20}
"""
ACME, BOREALIS, CYGNUS = (OrgId(name) for name in ("acme", "borealis", "cygnus"))
ROSTER = (ACME, BOREALIS, CYGNUS)


def read(text: str) -> Policy:
    return policies.parse_policy(text.encode(), "policy.yaml")


def problems(text: str) -> dict[str, int]:
    """Path -> line of everything that is wrong."""
    with pytest.raises(policies.PolicyError) as caught:
        read(text)
    assert caught.value.code == "bad_policy"
    assert caught.value.exit_code == 2
    return {one.path: one.line for one in caught.value.problems}


# --- reading ----------------------------------------------------------------------------------------------------------


def example() -> str:
    """The complete policy of docs/policy.md."""
    page = (Path(__file__).parent.parent / "docs" / "policy.md").read_text()
    return re.findall(r"```yaml\n(.*?)```", page, re.S)[0]


def test_the_example_of_the_page_is_complete_and_reads() -> None:
    found = read(example())
    stated = jcs.loads(policies.canonical(found))
    assert isinstance(stated, dict)
    full = {one for one in found.__dataclass_fields__}
    assert set(stated) == full, "the example writes every key"
    written = set(re.findall(r"(?m)^([a-z_]+):", example()))
    assert written == (full - {"zone"}) | {"timezone"}


def test_defaults_are_written_into_the_canonical_form() -> None:
    short = read(SHORT)
    long = read(
        SHORT
        + """
protections: [paillier, masked]
cohort: {min_members: 3, min_survivors: 3, corrupt: 1}
models: {kinds: [mlp, linear, logistic, softmax], first_layer: guarded, units_per_input: 8, rows_per_unit: 4}
min_cell: 1
min_changed_rows: 10
timezone: UTC
isolation: landlock
"""
    )
    assert short == long
    assert policies.policy_digest(short) == policies.policy_digest(long)
    assert policies.policy_digest(None) == bytes(32)
    assert short.min_changed_rows == 10
    assert short.cohort.min_members == 3


@pytest.mark.parametrize(
    "line",
    [
        "protections: [masked]",
        "cohort: {corrupt: 2}",
        "min_cell: 3",
        "min_changed_rows: 11",
        "need: 2\napprovers: [{user: alice}, {user: bob}]",
        "training_release: true",
        "countersign: ask",
        "isolation: none",
        "roster: confirm",
        "timezone: Europe/Berlin",
        "resources: {max_rounds: 3}",
        'hours: {from: "08:00", to: "18:00", timezone: UTC}',
        "plans: [{name: triage}]",
        "approve: [{dataset: visits, privacy: differential, runs: 1, rounds: 50, epsilon: 4}]",
    ],
)
def test_every_key_changes_the_digest(line: str) -> None:
    assert policies.policy_digest(read(SHORT + line)) != policies.policy_digest(read(SHORT))


WRONG = """
version
surprise
privacy.exact_sums
privacy.max_epsilon
privacy.max_delta
data
data.Visits.features
data.Visits.min_rows
data.Visits.secret
approvers[0]
approvers[1]
approvers[2].user
need
hours.days
hours.from
hours.to
hours.timezone
cohort.min_known
cohort.min_members
models.kinds
models.trainers
plans[0].hash
plans[1]
plans[2].hash
approve[0].epsilon
approve[0].plans
approve[0].dataset
"""


def test_everything_that_is_wrong_is_named_at_once() -> None:
    found = problems(
        """version: 2
surprise: 1
privacy: {exact_sums: perhaps, max_epsilon: -1}
data:
  Visits: {features: 3, min_rows: 0, secret: 1}
approvers: [{user: alice, group: stewards}, {}, {user: "a b"}]
need: 3
hours: {days: [someday], from: 08:00, to: "25:00", timezone: Mars/Olympus}
cohort: {known_organisations: [borealis], min_known: 2, min_members: 2}
models: {kinds: [forest], trainers: [risk]}
plans: [{hash: abc}, {}, {hash: 0, name: x}]
approve: [{dataset: other, privacy: none, runs: 1, rounds: 1, epsilon: 3}]
"""
    )
    for path in WRONG.split():
        assert path in found, path
    assert found["surprise"] == 2
    assert found["need"] == 7


@pytest.mark.parametrize(
    "text",
    ["", "[]", "x", SHORT + SHORT, SHORT + "min_cell: 0x10", SHORT + "min_cell: &a 3", b"\xff".decode("latin1") * 3],
)
def test_what_is_no_policy_is_refused(text: str) -> None:
    assert problems(text) is not None


def test_what_a_policy_says_is_escaped_in_errors() -> None:
    with pytest.raises(policies.PolicyError) as caught:
        read(SHORT + '"\\x1b[2Jq": 1\n')
    assert "\x1b" not in str(caught.value)


def test_no_file_is_no_policy_and_an_unreadable_one_is_an_error(tmp_path: Path) -> None:
    assert load_policy(tmp_path / "policy.yaml") is None
    (tmp_path / "policy.yaml").mkdir()
    with pytest.raises(ConfigError) as caught:
        load_policy(tmp_path / "policy.yaml")
    assert caught.value.code == "policy_unreadable"


# --- who may write it -------------------------------------------------------------------------------------------------


def test_with_approvers_the_participants_account_must_not_be_able_to_write_the_policy(tmp_path: Path) -> None:
    path, folder = tmp_path / "a" / "policy.yaml", tmp_path / "a"
    folder.mkdir()
    path.write_text(SHORT)
    named = replace(read(SHORT), approvers=(Approver(user="alice"),))

    def refused(*writable: Path, uid: int = 990) -> bool:
        try:
            check_unwritable(named, path, uid, lambda one: one in writable)
        except PolicyRefusal as error:
            return error.code == "policy_writable"
        return False

    assert not refused()
    assert refused(path)
    assert refused(folder), "another file could be put in its place"
    assert refused(tmp_path.parent)
    assert refused(uid=0), "root may write everything"
    link = tmp_path / "link.yaml"
    link.symlink_to(path)
    with pytest.raises(PolicyRefusal):
        check_unwritable(named, link, 990, lambda one: one == folder)
    check_unwritable(read(SHORT), path, 0, lambda one: True)  # nobody is named: its owner approves


def test_the_masking_rules_are_as_far_out_of_reach_as_the_policy(tmp_path: Path) -> None:
    path, folder = tmp_path / "a" / "masking.yaml", tmp_path / "a"
    named = replace(read(SHORT), approvers=(Approver(user="alice"),))

    def refused(*writable: Path, uid: int = 990) -> bool:
        try:
            check_rules_unwritable(named, "visits", path, uid, lambda one: one in writable)
        except PolicyRefusal as error:
            return (error.code, "visits" in error.what) == ("rules_writable", True)
        return False

    assert (refused(), refused(tmp_path)) == (False, True), "where there is no file, one can be put"
    folder.mkdir()
    path.write_text("")
    assert [refused(), refused(path), refused(folder), refused(uid=0)] == [False, True, True, True]
    check_rules_unwritable(read(SHORT), "visits", path, 0, lambda one: True)  # nobody is named


def test_what_an_account_owns_it_may_write(tmp_path: Path) -> None:
    path = tmp_path / "policy.yaml"
    path.write_text(SHORT)
    path.chmod(0o400)
    assert may_write_as(path.stat().st_uid)(path)


# --- rules, just inside and just outside ------------------------------------------------------------------------------


def codes(found: Policy, plan: plans.Plan, facts: Facts | None = None) -> set[str]:
    return {one.code for one in policies.judge(found, plan, facts or Facts(ACME, ROSTER))}


def with_(text: str, **changes: object) -> Policy:
    return replace(read(text), **changes)  # type: ignore[arg-type]


SIZE = input_bytes(EXACT, 3)
assert SIZE is not None
HASH = plans.plan_hash(plans.canonical(EXACT)).hex()
DATA = "visits: {features: [age, lactate, sex], targets: [died], min_rows: 20"

PAIRS = [
    ("plan_not_allowed", EXACT, f"plans: [{{hash: {HASH}}}]", f"plans: [{{hash: {HASH[::-1]}}}]"),
    ("plan_not_allowed", EXACT, "plans: [{name: triage}]", "plans: [{name: triage2}]"),
    ("plan_not_allowed", EXACT, "plans: [{kind: train, name: triage}]", "plans: [{kind: statistics, name: triage}]"),
    ("protection_not_allowed", EXACT, "protections: [masked]", "protections: [paillier]"),
    ("cohort_below_policy", EXACT, "cohort: {min_members: 3}", "cohort: {min_members: 4}"),
    ("sum_below_policy", EXACT, "cohort: {min_survivors: 3}", "cohort: {min_survivors: 4}"),
    ("corrupt_below_policy", EXACT, "cohort: {corrupt: 1}", "cohort: {corrupt: 2}"),
    (
        "too_few_known",
        EXACT,
        "cohort: {known_organisations: [acme, borealis, cygnus, delta], min_known: 2}",
        "cohort: {known_organisations: [acme, borealis, delta, echo], min_known: 2, min_known_survivors: 1}",
    ),
    (
        "too_few_known_in_sum",
        EXACT,
        "cohort: {known_organisations: [borealis, cygnus], min_known: 0, min_known_survivors: 2}",
        "cohort: {known_organisations: [acme, borealis], min_known: 0, min_known_survivors: 2}",
    ),
    ("model_not_allowed", EXACT, "models: {kinds: [logistic]}", "models: {kinds: [linear, mlp]}"),
    ("model_too_large", EXACT, "models: {max_parameters: 4}", "models: {max_parameters: 3}"),
    ("too_many_layers", MLP, "models: {max_hidden_layers: 2, first_layer: any}", "models: {max_hidden_layers: 1}"),
    (
        "imprint_layer",
        MLP,
        "models: {units_per_input: 3, rows_per_unit: 2.2}",
        "models: {units_per_input: 2.9, rows_per_unit: 2.2}",
    ),
    (
        "imprint_layer",
        MLP,
        "models: {units_per_input: 3, rows_per_unit: 2.2}",
        "models: {units_per_input: 3, rows_per_unit: 2.3}",
    ),
    ("too_many_rounds", EXACT, "resources: {max_rounds: 6}", "resources: {max_rounds: 5}"),
    (
        "too_many_bytes",
        EXACT,
        f"resources: {{max_bytes_per_round: {SIZE}}}",
        f"resources: {{max_bytes_per_round: {SIZE - 1}}}",
    ),
    (
        "round_too_long",
        EXACT,
        "resources: {max_seconds_per_round: 86400}",
        "resources: {max_seconds_per_round: 86399}",
    ),
]


@pytest.mark.parametrize(("code", "plan", "inside", "outside"), PAIRS)
def test_a_rule_lets_what_is_just_inside_through_and_nothing_else(
    code: str, plan: plans.Plan, inside: str, outside: str
) -> None:
    facts = Facts(ACME, ROSTER, input_bytes=SIZE)
    assert codes(read(SHORT + inside), plan, facts) == set()
    assert code in codes(read(SHORT + outside), plan, facts)


def test_exact_statistics_about_few_rows_are_refused() -> None:
    """Under differential privacy a true count decides nothing, and the rule does not apply."""
    for most, found in (("5", set()), ("6", {"min_cell_below_policy"})):
        assert codes(read(SHORT + f"min_cell: {most}"), ASKED, Facts(ACME, ROSTER)) & {"min_cell_below_policy"} == found
    noise = b"privacy: {unit: record, rows: 1000, noise_multiplier: 9, delta: 1.0e-5, max_epsilon: 4}"
    noisy = plans.parse_plan(
        ASKED_TEXT.replace(b"privacy: none", noise).replace(b"range: [0, 120]", b"range: [0, 120], clamp: true"),
        "plan.yaml",
    )
    assert "min_cell_below_policy" not in codes(read(SHORT + "min_cell: 999"), noisy, Facts(ACME, ROSTER))


@pytest.mark.parametrize(
    ("code", "plan", "inside", "outside"),
    [
        ("epsilon_above_policy", NOISY, "max_epsilon: 4", "max_epsilon: 3.999"),
        ("delta_above_policy", NOISY, "max_delta: 1.0e-5", "max_delta: 0.99e-5"),
        ("exact_sums_refused", EXACT, "exact_sums: allow", "exact_sums: refuse"),
        ("unit_not_allowed", NOISY, "units: [record]", "units: [participant]"),
        ("noise_not_allowed", NOISY, "noise: [participants]", "noise: [coordinator]"),
    ],
)
def test_limits_of_privacy(code: str, plan: plans.Plan, inside: str, outside: str) -> None:
    def policy(part: str) -> Policy:
        key = part.partition(":")[0]
        base = {"exact_sums": "allow", "max_epsilon": "4", "max_delta": "1.0e-5"}
        listed = ", ".join(f"{name}: {value}" for name, value in base.items() if name != key)
        return read(SHORT.replace("exact_sums: allow, max_epsilon: 4, max_delta: 1.0e-5", f"{part}, {listed}"))

    assert codes(policy(inside), plan) == set()
    assert codes(policy(outside), plan) == {code}


@pytest.mark.parametrize(
    ("code", "plan", "inside", "outside"),
    [
        ("dataset_not_allowed", EXACT, DATA + "}", DATA.replace("visits", "other") + "}"),
        ("feature_not_allowed", EXACT, DATA + "}", DATA.replace("lactate, ", "") + "}"),
        ("target_not_allowed", EXACT, DATA + "}", DATA.replace("died", "age") + "}"),
        ("query_not_allowed", ASKED, DATA + ", queries: [age], persons: all}", DATA + ", persons: all}"),
        ("person_not_allowed", ASKED, DATA + ", queries: all, persons: [ward]}", DATA + ", queries: all}"),
    ],
)
def test_columns(code: str, plan: plans.Plan, inside: str, outside: str) -> None:
    assert codes(read(SHORT.replace(DATA + "}", inside)), plan) == set()
    assert codes(read(SHORT.replace(DATA + "}", outside)), plan) == {code}


def test_rows_and_the_month_are_judged_once_they_are_known() -> None:
    policy = read(SHORT.replace("min_rows: 20", "min_rows: 20, epsilon_per_month: 7.5"))
    facts = Facts(ACME, ROSTER, rows=20, month_epsilon=3.5)
    assert codes(policy, NOISY, facts) == set()
    assert codes(policy, NOISY, replace(facts, rows=19)) == {"rows_below_policy"}
    assert codes(policy, NOISY, replace(facts, month_epsilon=3.6)) == {"month_spent"}
    assert codes(policy, EXACT, replace(facts, month_epsilon=99.0)) == set(), "exact sums have no epsilon"
    later = {one.code for one in policies.examine(policy, NOISY, Facts()) if one.verdict is Verdict.LATER}
    assert {"rows_below_policy", "month_spent"} <= later


def test_own_trainers_are_named_or_refused() -> None:
    text = plan_text().replace("{kind: logistic, l2: 0.001}", "{kind: trainer, name: risk, parameters: 9}")
    plan = plans.parse_plan(text.encode(), "plan.yaml")
    assert codes(read(SHORT), plan) == {"model_not_allowed", "trainer_not_allowed"}
    assert codes(read(SHORT + "models: {kinds: [trainer], trainers: [risk]}"), plan) == set()
    assert codes(read(SHORT + "models: {kinds: [trainer], trainers: [other]}"), plan) == {"trainer_not_allowed"}


def test_a_refusal_says_what_is_asked_and_what_is_allowed() -> None:
    (found,) = policies.judge(read(SHORT + "protections: [paillier]"), EXACT, Facts())
    assert (found.rule, found.asked, found.allowed) == ("protections", "masked", "paillier")
    error = policies.refused((found,))
    assert error.code == "policy_refused"
    assert error.exit_code == 4


# --- the shape that copies records ------------------------------------------------------------------------------------


def singled_out(units: int, rows: int, seed: int) -> int:
    """How many of `rows` records the differences of neighbouring units of a planted layer give back exactly. Unit j
    sees a record if the record's brightness is above threshold j; its gradient is the sum of the records that it sees.
    """
    draw = np.random.Generator(np.random.PCG64(seed))
    records = draw.normal(size=(rows, 6))
    bright = records.mean(axis=1)
    thresholds = np.quantile(bright, np.linspace(0, 1, units, endpoint=False))
    seen = (bright[:, None] > thresholds[None, :]).astype(float)
    gradient, bias = seen.T @ records, seen.sum(axis=0)
    cells = np.vstack([gradient[:-1] - gradient[1:], gradient[-1:]])
    many = np.append(bias[:-1] - bias[1:], bias[-1])
    alone = cells[many == 1] / 1.0
    return sum(bool(np.isclose(records, one).all(axis=1).any()) for one in alone)


def test_a_wide_planted_layer_copies_records_and_the_rule_bounds_how_many() -> None:
    rows = 64
    assert singled_out(512, rows, 1) >= rows - 2, "the attack works where nothing stops it"
    models = ModelRules()
    wide = replace(MLP, model=replace(MLP.model, hidden=(512,)))
    found = imprint.too_wide(wide, models, rows)
    assert found is not None
    units, most = found
    assert units == 512
    assert most == int(rows / models.rows_per_unit) == 16
    assert max(singled_out(most, rows, seed) for seed in range(20)) <= most / 4, "and a quarter of those at most"


def test_the_width_is_also_measured_by_the_inputs() -> None:
    models = ModelRules()
    inputs = MLP.data.inputs
    fits, wide = (replace(MLP, model=replace(MLP.model, hidden=(8 * inputs + more,))) for more in (0, 1))
    assert imprint.too_wide(fits, models, 10**6) is None
    assert imprint.too_wide(wide, models, 10**6) == (8 * inputs + 1, 8 * inputs)
    assert imprint.too_wide(wide, replace(models, first_layer=FirstLayer.ANY), 10**6) is None
    assert imprint.too_wide(replace(wide, privacy=NOISY.privacy), models, 1) is None, "noise covers every record"


def test_rows_that_are_sure_are_the_larger_of_plan_and_policy() -> None:
    sure = {one.code for one in policies.judge(read(SHORT.replace("min_rows: 20", "min_rows: 36")), MLP, Facts())}
    few = {one.code for one in policies.judge(read(SHORT.replace("min_rows: 20", "min_rows: 35")), MLP, Facts())}
    assert ("imprint_layer" in sure, "imprint_layer" in few) == (False, True)


# --- clocks -----------------------------------------------------------------------------------------------------------


def at(text: str) -> float:
    return datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp()


def test_hours_over_summer_time_and_midnight() -> None:
    berlin = HoursRules((0, 1, 2, 3, 4, 5, 6), 2 * 60, 3 * 60, "Europe/Berlin")
    # 2026-03-29: 02:00 to 03:00 does not exist; 2026-10-25: it comes twice
    spring = [hours.within(berlin, at("2026-03-29T00:00:00") + 60 * minute) for minute in range(180)]
    assert not any(spring)
    autumn = [hours.within(berlin, at("2026-10-25T00:00:00") + 60 * minute) for minute in range(180)]
    assert autumn == [True] * 120 + [False] * 60
    night = HoursRules((4,), 22 * 60, 6 * 60, "UTC")  # the night from Friday to Saturday
    friday = at("2026-11-27T00:00:00")
    assert not hours.within(night, friday + 5 * 3600), "the night before began on Thursday"
    assert not hours.within(night, friday + 22 * 3600 - 1)
    assert hours.within(night, friday + 22 * 3600)
    assert hours.within(night, friday + 30 * 3600 - 1)
    assert not hours.within(night, friday + 30 * 3600)
    assert hours.within(None, 0.0)


def test_the_whole_day_is_from_midnight_to_midnight() -> None:
    day = HoursRules((4,), 0, 0, "UTC")
    friday = datetime(2026, 11, 27, tzinfo=UTC)
    assert hours.within(day, friday.timestamp())
    assert hours.within(day, (friday + timedelta(hours=23, minutes=59)).timestamp())
    assert not hours.within(day, (friday - timedelta(seconds=1)).timestamp())


def test_months_change_on_the_clocks_of_the_place() -> None:
    last = at("2026-10-31T23:30:00")
    assert hours.month_of(last, "UTC") == "2026-10"
    assert hours.month_of(last, "Europe/Berlin") == "2026-11"
    assert hours.month_of(at("2027-01-01T00:00:00"), "America/New_York") == "2026-12"


# --- automatic approval -----------------------------------------------------------------------------------------------

RULE = "approve: [{dataset: visits, privacy: differential, runs: 2, rounds: 120, epsilon: 8}]"
NOVEMBER, DECEMBER = at("2026-11-27T12:00:00"), at("2026-12-01T00:00:00")


def let_in(run: str, by: str = "approve[0]", wall_s: float = NOVEMBER, **changes: object) -> LetIn:
    made = LetIn(run, b"p" * 32, "visits", by, 40, 4.0, wall_s)
    return replace(made, **changes)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("rule", "before", "expected"),
    [
        (RULE, (), "approve[0]"),
        (RULE, (let_in("r1"),), "approve[0]"),
        (RULE, (let_in("r1"), let_in("r2")), ""),
        (RULE.replace("runs: 2", "runs: 9"), (let_in("r1", rounds=80),), "approve[0]"),
        (RULE.replace("runs: 2", "runs: 9"), (let_in("r1", rounds=81),), ""),
        (RULE.replace("runs: 2", "runs: 9"), (let_in("r1", epsilon=4.1),), ""),
        (RULE, (let_in("r1"), let_in("r2", wall_s=DECEMBER)), "approve[0]"),
        (RULE, (let_in("r1"), let_in("r2", by="approval 1")), "approve[0]"),
        (RULE, (let_in("r1"), let_in("r2", dataset="other")), "approve[0]"),
        (RULE, (let_in("r1"), let_in("now")), "approve[0]"),
        (RULE.replace("visits", "other"), (), ""),
        (RULE.replace("runs: 2", "plans: [{name: triage}], runs: 2"), (), "approve[0]"),
        (RULE.replace("runs: 2", "plans: [{name: other}], runs: 2"), (), ""),
    ],
)
def test_a_rule_lets_in_up_to_its_caps(rule: str, before: tuple[LetIn, ...], expected: str) -> None:
    policy = read(SHORT.replace("data:", "data:\n  other: {min_rows: 1}") + rule)
    assert approved_by(policy, NOISY, "now", before, NOVEMBER) == expected


def test_a_run_of_last_month_is_not_shut_out_by_the_runs_of_this_one() -> None:
    policy = read(SHORT + RULE)
    before = (let_in("old"), let_in("r1", wall_s=DECEMBER), let_in("r2", wall_s=DECEMBER))
    assert approved_by(policy, NOISY, "old", before, DECEMBER) == "approve[0]"
    assert approved_by(policy, NOISY, "new", before, DECEMBER) == ""
    assert approved_by(policy, NOISY, "new", before, NOVEMBER) == "approve[0]"
    crowd = (*before, let_in("r3"), let_in("r4"))
    assert approved_by(policy, NOISY, "old", crowd, DECEMBER) == "", "a smaller cap holds for its own month"


def test_exact_sums_are_let_in_only_where_they_are_written_out() -> None:
    assert approved_by(read(SHORT + RULE), EXACT, "now", (), NOVEMBER) == ""
    exact = "approve: [{dataset: visits, privacy: none, plans: [{name: triage}], runs: 1, rounds: 6}]"
    assert approved_by(read(SHORT + exact), EXACT, "now", (), NOVEMBER) == "approve[0]"
    assert approved_by(read(SHORT + exact.replace("rounds: 6", "rounds: 5")), EXACT, "now", (), NOVEMBER) == ""
    assert approved_by(read(SHORT + exact), NOISY, "now", (), NOVEMBER) == ""


def test_the_number_of_rows_is_not_found_by_offers_that_no_person_sees() -> None:
    """Ten plans that differ in `min_rows` alone found 137 rows: the answer was yes, or too few rows."""
    policy = read(SHORT + RULE)
    least = policy.data["visits"].min_rows
    for rows, name in ((least, "approve[0]"), (least + 1, "")):
        asking = PRIVATE.replace("min_rows: 5", f"min_rows: {rows}")
        assert approved_by(policy, plans.parse_plan(asking.encode(), "p"), "now", (), NOVEMBER) == name


def test_the_month_counts_what_runs_may_spend() -> None:
    policy = read(SHORT)
    before = (let_in("r1"), let_in("r2", by="accept"), let_in("r3", wall_s=DECEMBER), let_in("now"))
    assert month_epsilon(policy, "visits", "now", before, NOVEMBER) == 8.0
    assert month_epsilon(policy, "visits", "new", before, DECEMBER) == 4.0
    assert month_epsilon(policy, "visits", "now", before, DECEMBER) == 8.0, "let in in November, it counts there"
    assert month_epsilon(policy, "other", "now", before, NOVEMBER) == 0.0


def test_input_bytes_are_those_of_the_widest_sum() -> None:
    mapping: Mapping[int, int | None] = {members: input_bytes(EXACT, members) for members in (3, 100)}
    assert mapping[3] is not None
    assert mapping[100] is not None
    assert mapping[100] > mapping[3], "more members need a wider ring"
