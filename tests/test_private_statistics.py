"""Statistics with differential privacy: one joint vector a unit, exact bounds, noise as charged, answers kept.

The bound of the sum is exact because each unit's shares are rounded from words of their own, shortened in integers to
the cap of each part, and only then added up; as for gradients (test_clipped_gradients), neighbours are coupled so that
everybody else keeps the same words.
"""

import json
import math
from dataclasses import replace

import dp_accounting as dpa
import numpy as np
import pytest
from dp_accounting import rdp as oracle
from encrypted_federation import KEY_ID, book_of
from federation import FIVE, RUN, THREE, check_sums, die_after, run
from fedveil_common import layout, private_sum
from fedveil_common import plan as plans
from fedveil_common.crypto.kdf import derive
from fedveil_common.decode import decode
from fedveil_common.dp import budget, rdp
from fedveil_common.dp.charge import of_run
from fedveil_common.ids import OrgId, RunId
from fedveil_common.messages import Purpose
from fedveil_common.plan import NotInThisReleaseError, Plan, PlanError, PrivacySpec
from fedveil_common.secret import Seed
from fedveil_common.statistics import answers as reading
from fedveil_common.statistics import vector
from fedveil_common.table import Table
from fedveil_participant import tally
from fedveil_participant.data.csv_source import Source
from fedveil_participant.state import LifetimeLimit
from fedveil_simulation.cluster import Cluster
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from private_federation import said_of, settled_sum
from statistics_federation import accept, answers, asking, columns, private, statistics_plan

AGAIN = RunId("run-2")
CALM = settings(deadline=None, derandomize=True, max_examples=60, suppress_health_check=[HealthCheck.too_slow])


def noisy_plan(**changes: object) -> Plan:
    """The standard questions with noise."""
    return statistics_plan(**{"privacy": private(), **changes})


def bytes_of(plan: Plan) -> bytes:
    return plans.canonical(plan)


def privacy_of(plan: Plan) -> PrivacySpec:
    assert plan.privacy is not None
    return plan.privacy


def source_of(rows: list[tuple[float, float, int, int]]) -> Source:
    """(chol or NaN, age, diagnosis or -1, person) of each row."""
    chol, age, diagnosis, person = zip(*rows, strict=True) if rows else ((), (), (), ())
    table = Table(
        rows=len(rows),
        numbers={"chol": np.array(chol, dtype=np.float64), "age": np.array(age, dtype=np.float64)},
        codes={"diagnosis": np.array(diagnosis, dtype=np.int32)},
        target=None,
    )
    return Source(table, bytes(32), np.array(person, dtype=np.uint64))


def secret_of(number: int) -> Seed:
    return Seed(derive(b"", number.to_bytes(8, "big"), "test/tally"))


ROW = st.tuples(
    st.one_of(st.just(math.nan), st.floats(0, 500), st.sampled_from([0.0, 250.0, 500.0])),
    st.floats(0, 100),
    st.integers(-1, 2),
    st.integers(0, 3),
)


# --- what one unit moves ----------------------------------------------------------------------------------------------


def exact_square(values: NDArray[np.int64]) -> int:
    return sum(int(value) ** 2 for value in values)


def check_bound(plan: Plan, moved: NDArray[np.int64]) -> None:
    """Part by part at most the cap, and in all at most what is charged."""
    cap = vector.per_row(plan)
    for part, where in zip(vector.parts(plan), layout.first(plan).slices().values(), strict=True):
        assert exact_square(moved[where]) <= cap**2, part.name
    assert exact_square(moved) <= private_sum.grid(plan, privacy_of(plan)).squared


PLANS = {
    "rows": noisy_plan(),
    "persons": noisy_plan(person="person: person"),
    "persons, coarse": noisy_plan(person="person: person", max_rows=80_000),
}


@pytest.mark.parametrize("name", PLANS)
@given(rows=st.lists(ROW, min_size=1, max_size=12), number=st.integers(0, 2**32))
@CALM
def test_a_unit_alone_is_never_longer_than_its_caps(
    name: str, rows: list[tuple[float, float, int, int]], number: int
) -> None:
    plan = PLANS[name]
    mine = [(*row[:3], 7) for row in rows] if plan.data.person else rows[:1]
    check_bound(plan, tally.private_tally(plan, source_of(mine), secret_of(number)))


@pytest.mark.parametrize("name", PLANS)
@given(rows=st.lists(ROW, min_size=1, max_size=20), number=st.integers(0, 2**32))
@CALM
def test_neighbouring_tables_differ_by_one_unit(
    name: str, rows: list[tuple[float, float, int, int]], number: int
) -> None:
    """On values that lie on the grid no word decides anything, so that two neighbours can be compared as they are."""
    plan, cap = PLANS[name], vector.per_row(PLANS[name])

    def on_grid(value: float, lo: float, hi: float) -> float:
        half = (hi - lo) / 2
        return lo + half + half * round((value - lo - half) / half) if not math.isnan(value) else value

    rows = [(on_grid(chol, 0, 500), on_grid(age, 0, 100), code, who) for chol, age, code, who in rows]
    if plan.data.person:  # equal rows of a person: a mean of them is one of them
        first = {who: (chol, age, code) for chol, age, code, who in reversed(rows)}
        rows = [(*first[who], who) for *_, who in rows]
        fewer = [row for row in rows if row[3] != rows[0][3]]
    else:
        fewer = rows[1:]
    moved = tally.private_tally(plan, source_of(rows), secret_of(number)) - tally.private_tally(
        plan, source_of(fewer), secret_of(number + 1)
    )
    check_bound(plan, moved)
    assert moved[0] == cap, "one more is counted"


def test_without_the_joint_cap_a_person_moves_more(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shares of a person's rows among cells, each rounded up: longer than the cap. So `within` is at work."""
    plan = PLANS["persons, coarse"]
    rows = [(200.0, 15.0, 0, 1)] * 400 + [(200.0, 25.0, 1, 1)]
    cap, longest = vector.per_row(plan), 0
    where = layout.first(plan).slices()["cells:5"]
    for number in range(40):
        check_bound(plan, tally.private_tally(plan, source_of(rows), secret_of(number)))
    monkeypatch.setattr(tally, "within", lambda steps, owner, units, bound: steps)
    for number in range(40):
        longest = max(longest, exact_square(tally.private_tally(plan, source_of(rows), secret_of(number))[where]))
    assert longest > cap**2


def test_a_person_counts_once_with_the_mean_over_its_rows() -> None:
    plan, cap = PLANS["persons"], vector.per_row(PLANS["persons"])
    rows = [(500.0, 10.0, 0, 1), (math.nan, 30.0, 1, 1), (250.0, 30.0, 1, 1), (0.0, 99.0, 2, 2)]
    found = dict(
        zip(
            [part.name for part in vector.parts(plan)],
            np.split(
                tally.private_tally(plan, source_of(rows), secret_of(1)),
                np.cumsum([part.length for part in vector.parts(plan)])[:-1],
            ),
            strict=True,
        )
    )
    assert found["rows"] == found["present:chol"] == 2 * cap
    assert abs(found["sum:chol"][0] - (0.5 - 1.0) * cap) <= 2, "means 375 and 0 of 0 .. 500"
    ages = found["cells:5"]
    assert [abs(int(cell) - share * cap) <= 1 for cell, share in zip(ages[[1, 3, 9]], (1 / 3, 2 / 3, 1), strict=True)]
    assert ages[[0, 2, 4, 5, 6, 7, 8]].sum() == 0
    assert [abs(int(cell) - share * cap) <= 1 for cell, share in zip(found["cells:8"], (1 / 3, 2 / 3, 1), strict=True)]


def test_values_are_rounded_without_bias() -> None:
    plan = noisy_plan(queries="    - {sum: age}\n", max_rows=100_000)  # a row is 83 steps
    cap = vector.per_row(plan)
    value = 50 + 50 * 0.4567
    found = tally.private_tally(plan, source_of([(1.0, value, 0, 0)] * 20_000), secret_of(5))[1]
    exact = 20_000 * cap * 0.4567
    assert abs(found - exact) < 5 * math.sqrt(20_000 * 0.25)
    again = tally.private_tally(plan, source_of([(1.0, value, 0, 0)] * 20_000), secret_of(6))[1]
    assert again != found, "by the participant's own secret bytes"


def test_no_cell_is_left_out_before_the_noise() -> None:
    plan = noisy_plan(min_cell=50)
    found = tally.private_tally(plan, source_of([(200.0, 15.0, 2, 0)]), secret_of(1))
    assert found[0] == vector.per_row(plan)
    assert found[-1] == vector.per_row(plan), "one row, below the smallest cell"


def test_a_table_of_no_rows_gives_nothing() -> None:
    for plan in PLANS.values():
        assert not tally.private_tally(plan, source_of([]), secret_of(1)).any()


def test_counts_by_value_are_over_the_values_of_the_plan_alone() -> None:
    plan = noisy_plan(queries="    - {group_count: diagnosis}\n")
    block = layout.first(plan).blocks
    assert [(one.name, one.length) for one in block] == [("cells:1", 3)]
    source = source_of([(1.0, 1.0, code, 0) for code in (0, 2, 2, -1)])
    assert tally.private_tally(plan, source, secret_of(1)).tolist() == [vector.per_row(plan) * n for n in (1, 0, 2)]


# --- what it costs ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("z", [0.7, 1.0, 5.0])
def test_the_charge_is_that_of_the_oracle(z: float) -> None:
    plan = noisy_plan(privacy=private(f"noise_multiplier: {z}", most=1000.0))
    accountant = oracle.RdpAccountant(orders=list(rdp.ORDERS))
    accountant.compose(dpa.GaussianDpEvent(z))
    found = private_sum.spent(plan, privacy_of(plan), 1)
    assert found == pytest.approx(accountant.get_epsilon(1e-5), rel=1e-6)
    assert found >= accountant.get_epsilon(1e-5) * (1 - 1e-6)
    charge = private_sum.charge(plan, privacy_of(plan), Purpose.STATISTICS, 0)
    assert charge.training == charge.holdout, "every row is in it, whatever it is in another run"


@pytest.mark.parametrize("many", [1, 4])
def test_the_noise_is_that_of_the_sum_of_squared_caps(many: int) -> None:
    """`many` questions of one part each: the noise grows with the root of their number, the epsilon does not."""
    queries = ["{count: rows}", "{group_count: diagnosis}", "{histogram: age, bins: 3}", "{histogram: chol, bins: 3}"]
    plan = noisy_plan(queries="".join(f"    - {query}\n" for query in queries[:many]))
    grid, cap = private_sum.grid(plan, privacy_of(plan)), vector.per_row(plan)
    assert len(vector.parts(plan)) == many
    assert grid.squared == many * cap**2
    assert grid.variance == many * cap**2, "z = 1"
    assert private_sum.spent(plan, privacy_of(plan), 1) == private_sum.spent(noisy_plan(), privacy_of(noisy_plan()), 1)


def test_a_target_is_kept() -> None:
    plan = noisy_plan(privacy=private("target_epsilon: 2.0", most=2.5))
    assert private_sum.spent(plan, privacy_of(plan), 1) <= 2.0
    less = replace(privacy_of(plan), noise_multiplier=privacy_of(plan).noise_multiplier - 0.001)
    assert private_sum.spent(plan, less, 1) > 2.0
    assert "target_epsilon" not in bytes_of(plan).decode()
    assert plans.parse_canonical(bytes_of(plan)) == plan


def problems_of(**changes: object) -> set[tuple[str, str]]:
    with pytest.raises(PlanError) as caught:
        noisy_plan(**changes)
    return {(one.path, one.code) for one in caught.value.problems}


def test_what_a_private_statistics_plan_must_not_say() -> None:
    assert problems_of(privacy=private(more=", clip_norm: 1.0")) == {("privacy.clip_norm", "privacy_statistics")}
    assert problems_of(privacy=private(more=", sample_rate: 0.5")) == {("privacy.sample_rate", "privacy_statistics")}
    assert problems_of(max_rows=2_000_000) == {("statistics.max_rows", "privacy_grid")}
    assert problems_of(bits=", value_bits: 31", max_rows=10) == {("privacy.noise_multiplier", "privacy_grid")}
    assert problems_of(privacy=private(most=0.5)) == {("privacy.max_epsilon", "privacy_budget")}
    text = private().replace("1.0e-5", "1.0e-3")
    assert problems_of(privacy=text) == {("privacy.delta", "privacy_delta")}
    with pytest.raises(PlanError) as caught:
        plans.parse_plan(_text_without_clamp(), "x")
    assert {(one.path, one.code) for one in caught.value.problems} == {("data.features.age.clamp", "privacy_clamp")}


def _text_without_clamp() -> bytes:
    from statistics_federation import statistics_text

    text = statistics_text(privacy=private())
    assert text.count("range: [0, 100], clamp: true") == 1
    return text.replace("range: [0, 100], clamp: true", "range: [0, 100]").encode()


def test_what_a_later_release_brings_is_named() -> None:
    with pytest.raises(NotInThisReleaseError) as refused:
        noisy_plan(privacy=private().replace("unit: record, rows: 400", "unit: participant"))
    assert [one.partition(": ")[2] for one in refused.value.fields] == ["privacy.unit"]


def test_gaussian_noise_may_be_named() -> None:
    assert noisy_plan(privacy=private(more=", mechanism: gaussian")) == noisy_plan()


# --- whole runs -------------------------------------------------------------------------------------------------------


def ledger_of(cluster: Cluster, org: OrgId) -> budget.Ledger:
    return budget.fold(one.entry for one in cluster.members[org].memory.kept.ledger)


def exact_answers(plan: Plan, names: tuple[OrgId, ...]) -> list[dict[str, object]]:
    """The same questions without noise, over all rows of these members."""
    members = columns(names)
    codes = {"none": 0, "mild": 1, "severe": 2}
    labels = {
        who: number for number, who in enumerate(sorted({(i, p) for i, m in enumerate(members) for p in m.person}))
    }
    rows = [
        (chol, age, codes[one], labels[number, who])
        for number, member in enumerate(members)
        for chol, age, one, who in zip(member.chol, member.age, member.diagnosis, member.person, strict=True)
    ]
    steps = tally.private_tally(plan, source_of(rows), secret_of(0))
    decoded = decode(layout.first(plan), steps)
    return reading.to_json(plan, reading.answers(plan, decoded, 0))  # type: ignore[return-value]


@pytest.mark.parametrize("person", ["", "person: person"])
def test_noisy_answers_are_near_the_exact_ones(person: str) -> None:
    plan = noisy_plan(person=person, privacy=private("noise_multiplier: 0.6", most=500.0))
    cluster = asking(FIVE, canonical=bytes_of(plan))
    assert run(cluster, bytes_of(plan)) == "finished"
    found, exact = answers(cluster, RUN), exact_answers(plan, FIVE)
    assert found != exact
    for noisy, true in zip(found, exact, strict=True):
        sigma = noisy["noise"]
        assert isinstance(sigma, float)
        assert sigma > 0
        assert true["noise"] is None
        if "value" in noisy:
            assert abs(noisy["value"] - true["value"]) < 6 * sigma, noisy["question"]  # type: ignore[operator]
        elif "counts" in noisy:
            for one, other in zip(noisy["counts"], true["counts"], strict=True):  # type: ignore[call-overload]
                assert one is None or abs(one - other) < 6 * sigma
            assert noisy["suppressed"] == sum(one is None for one in noisy["counts"])  # type: ignore[attr-defined]
        else:
            for one, other in zip(noisy["values"], true["values"], strict=True):  # type: ignore[call-overload]
                assert abs(one - other) < 100, "with 64 cells of noise, and some 300 rows"
    rows = sum(len(one.age) for one in columns())
    persons = sum(len(set(one.person)) for one in columns())
    assert exact[0]["value"] == (persons if person else rows)
    shown = json.loads(json.dumps(found))
    assert all(json.loads(member.memory.statistics[RUN])["answers"] == shown for member in cluster.members.values())


def test_the_noise_in_the_sum_is_the_noise_that_is_told() -> None:
    plan = noisy_plan(queries="    - {quantiles: age, at: [0.5], resolution: 4096}\n")
    cluster = asking(FIVE, canonical=bytes_of(plan))
    assert run(cluster, bytes_of(plan)) == "finished"
    opened = settled_sum(cluster, plan, 1).astype(np.float64)
    values = np.concatenate([one.age for one in columns()])
    exact = np.histogram(values, bins=4096, range=(0, 100))[0] * vector.per_row(plan)
    variance = said_of(cluster, 1)[1].noise_left
    assert variance >= private_sum.grid(plan, privacy_of(plan)).variance
    assert abs((opened - exact).var() / variance - 1) < 0.12, "4096 squares: one standard deviation is 0.022"
    assert check_sums(cluster) == 1, "what the participants encoded, noise included"
    (answer,) = answers(cluster, RUN)
    assert answer["noise"] == pytest.approx(math.sqrt(variance * 4096) / vector.per_row(plan))


def test_both_ledgers_have_the_one_charge() -> None:
    plan = noisy_plan()
    cluster = asking(THREE, canonical=bytes_of(plan))
    assert run(cluster, bytes_of(plan)) == "finished"
    due = private_sum.spent(plan, privacy_of(plan), 1)
    for org in THREE:
        ledger = ledger_of(cluster, org)
        assert ledger.spent(RUN).epsilon(1e-5) == due
        assert [type(one) for one in ledger.account(RUN).attempts.values()] == [budget.Settled]
    state = cluster.coordinator.state_of(RUN)
    assert private_sum.spent(plan, privacy_of(plan), len(state.records)) == due


def test_an_answer_is_kept_whatever_becomes_of_the_data() -> None:
    """D6: whether the same question is answered again must not depend on the rows; only another asking is charged."""
    plan = noisy_plan()
    cluster = asking(THREE, canonical=bytes_of(plan))
    assert run(cluster, bytes_of(plan)) == "finished"
    for org in THREE:
        cluster.members[org].data = {"table": columns()[3].csv()}
    accept(cluster, bytes_of(plan))
    assert run(cluster, bytes_of(plan), AGAIN) == "finished"
    assert answers(cluster, AGAIN) == answers(cluster, RUN)
    assert all(len(ledger_of(cluster, org).runs) == 1 for org in THREE)


@pytest.mark.parametrize("changed", [False, True])
def test_another_asking_is_another_charge(changed: bool) -> None:
    """The same with the data of before and with other data: nobody says which."""
    cluster = asking(THREE, canonical=bytes_of(noisy_plan()))
    assert run(cluster, bytes_of(noisy_plan())) == "finished"
    if changed:
        cluster.members[THREE[0]].data = {"table": columns()[3].csv()}
    again = noisy_plan(refresh=1)
    accept(cluster, bytes_of(again))
    assert run(cluster, bytes_of(again), AGAIN) == "finished"
    assert answers(cluster, AGAIN) != answers(cluster, RUN)
    once = private_sum.spent(again, privacy_of(again), 1)
    for org in THREE:
        ledger = ledger_of(cluster, org)
        assert [ledger.spent(one).epsilon(1e-5) for one in (RUN, AGAIN)] == [once, once]


def test_more_rows_than_the_plan_counts_are_cut_off_and_not_declined() -> None:
    """D8: an answer of a participant that depends on its rows would tell about them; without noise it declines."""
    plan = noisy_plan(max_rows=50)
    cluster = asking(THREE, canonical=bytes_of(plan))
    assert run(cluster, bytes_of(plan)) == "finished"
    rows = answers(cluster, RUN)[0]
    counted = sum(min(50.0, len(one.age)) for one in columns(THREE))
    assert [len(one.age) for one in columns(THREE)] == [40, 53, 66]
    assert isinstance(rows["value"], float)
    assert abs(rows["value"] - counted) < 6 * rows["noise"] < 50  # type: ignore[operator]
    assert cluster.coordinator.state_of(RUN).records[0].survivors == THREE


def test_the_lifetime_limit_of_the_owners_ends_it() -> None:
    plan, again = noisy_plan(), noisy_plan(refresh=1)
    cluster = asking(THREE, canonical=bytes_of(plan))
    accept(cluster, bytes_of(again))
    once = of_run([private_sum.charge(plan, privacy_of(plan), Purpose.STATISTICS, 0)]).lifetime_epsilon(1e-5)
    for member in cluster.members.values():
        assert member.driver is not None
        limit = LifetimeLimit(1.01 * once, 1e-5)
        member.driver.state = replace(member.driver.state, lifetimes={"table": limit})
    assert run(cluster, bytes_of(plan)) == "finished"
    spent = ledger_of(cluster, THREE[0])
    assert spent.lifetime().lifetime_epsilon(1e-5) == once
    assert run(cluster, bytes_of(again), AGAIN) == "budget_spent"
    assert [run_id for run_id, _ in cluster.memory.sums] == [RUN]
    assert ledger_of(cluster, THREE[0]) == spent


@pytest.mark.parametrize("kind", ["offer", "input", "vote", "reveal"])
def test_a_member_that_is_started_again_is_charged_once(kind: str) -> None:
    plan, org = noisy_plan(), FIVE[1]
    cluster = asking(FIVE, canonical=bytes_of(plan))
    died = die_after(cluster, org, kind, 1, then=lambda: cluster.start_member(org))
    assert run(cluster, bytes_of(plan)) == "finished"
    assert died
    assert check_sums(cluster) == 1
    ledger = ledger_of(cluster, org)
    assert len(ledger.account(RUN).attempts) == 1
    assert ledger.spent(RUN).epsilon(1e-5) == private_sum.spent(plan, privacy_of(plan), 1)


@pytest.mark.parametrize("noise", ["participants", "coordinator"])
def test_under_paillier_too(noise: str) -> None:
    plan = noisy_plan(kind=f"paillier, key: {KEY_ID}", privacy=private(more=f", noise: {noise}"))
    cluster = asking(THREE, book=book_of(THREE, THREE, 2), canonical=bytes_of(plan))
    assert run_unchecked(cluster, bytes_of(plan)) == "finished"
    (rows, *_) = answers(cluster, RUN)
    exact = sum(len(one.age) for one in columns(THREE))
    assert isinstance(rows["value"], float)
    assert 0 < abs(rows["value"] - exact) < 6 * rows["noise"]  # type: ignore[operator]
    variance = private_sum.grid(plan, privacy_of(plan)).variance
    if noise == "coordinator":
        assert rows["noise"] == pytest.approx(math.sqrt(variance) / vector.per_row(plan)), "once, and not from each"
    assert all(json.loads(member.memory.statistics[RUN])["answers"] for member in cluster.members.values())


def run_unchecked(cluster: Cluster, plan: bytes) -> str:
    """A run whose sum may have the coordinator's noise in it, which no participant encoded."""
    cluster.start_run(RUN, plan)
    cluster.play(lambda: cluster.ended(RUN))
    return cluster.memory.runs[RUN][2]


# --- what is made of noisy figures ------------------------------------------------------------------------------------


def read(plan: Plan, rows: dict[str, list[float]], variance: int) -> list[dict[str, object]]:
    """The answers to a sum of these figures, in rows."""
    cap = vector.per_row(plan)
    values = np.concatenate([np.array(rows[part.name]) for part in vector.parts(plan)])
    decoded = decode(layout.layout_for(plan, Purpose.STATISTICS, 0), np.rint(values * cap).astype(np.int64))
    return reading.to_json(plan, reading.answers(plan, decoded, variance))  # type: ignore[return-value]


def test_what_is_below_the_smallest_cell_after_the_noise_is_not_shown() -> None:
    plan = noisy_plan(queries="    - {count: rows}\n    - {group_count: diagnosis}\n    - {mean: age}\n", min_cell=5)
    figures = {"rows": [4.0], "present:age": [4.99], "sum:age": [2.0], "cells:2": [-3.0, 4.9, 5.1]}
    rows, groups, mean = read(plan, figures, variance=10**6)
    assert rows["value"] is None
    assert groups["counts"] == [None, None, pytest.approx(5.1, abs=1e-3)]
    assert groups["suppressed"] == 2
    assert groups["rows"] == pytest.approx(7.0, abs=1e-3), "the noise of all cells, and no bias"
    assert mean["value"] is None
    assert mean["noise"] is None
    assert json.loads(json.dumps([rows, groups, mean], allow_nan=False))


def test_a_noisy_mean_and_variance_stay_within_the_range() -> None:
    queries = "    - {mean: age}\n    - {variance: age}\n    - {sum: age}\n"
    plan = noisy_plan(queries=queries)
    high = {"present:age": [10.0], "sum:age": [40.0], "squares:age": [-30.0]}
    mean, variance, total = read(plan, high, variance=10**6)
    assert mean["value"] == 100
    assert variance["value"] == 0
    assert total["value"] == pytest.approx(50 * 40 + 50 * 10)
    wide = {"present:age": [10.0], "sum:age": [0.0], "squares:age": [30.0]}
    assert read(plan, wide, variance=10**6)[1]["value"] == 50.0**2


@given(cells=st.lists(st.floats(-20, 50), min_size=8, max_size=8), variance=st.sampled_from([0, 10**4]))
@CALM
def test_quantiles_ascend_whatever_the_noise(cells: list[float], variance: int) -> None:
    at = [0.0, 0.1, 0.5, 0.9, 1.0]
    plan = noisy_plan(queries=f"    - {{quantiles: age, at: {at}, resolution: 8}}\n", min_cell=3)
    (answer,) = read(plan, {"cells:1": cells}, variance)
    values = answer["values"]
    assert isinstance(values, list)
    if values[0] is None:
        assert values == [None] * 5
        assert sum(cells) < 3.01 or max(cells) <= 0
        return
    assert values == sorted(values)
    assert 0 <= values[0] <= values[-1] <= 100
    held = [max(0.0, cell) for cell in cells]
    below = int(values[2] // 12.5)
    assert sum(held[:below]) <= sum(held) / 2 + 1e-2
    assert sum(held[: below + 1]) >= sum(held) / 2 - 1e-2 or values[2] % 12.5 == 0


def test_the_noise_of_a_figure_is_that_of_many_draws() -> None:
    """First order: told against the spread of the figure over noisy sums."""
    queries = "    - {mean: age}\n    - {variance: age}\n    - {sum: age}\n"
    plan = noisy_plan(queries=queries)
    draw, sigma = np.random.default_rng(3), 2.0
    true = np.array([400.0, -60.0, 100.0])
    found, told = [], []
    for _ in range(3000):
        noisy = true + draw.normal(0, sigma, 3)
        figures = {name: [value] for name, value in zip(("present:age", "sum:age", "squares:age"), noisy, strict=True)}
        one = read(plan, figures, round((sigma * vector.per_row(plan)) ** 2))
        found.append([answer["value"] for answer in one])
        told.append([answer["noise"] for answer in one])
    spread, noise = np.std(np.array(found), axis=0), np.mean(np.array(told), axis=0)
    np.testing.assert_allclose(noise, spread, rtol=0.06)


def test_a_sum_beyond_what_noise_does_is_rejected() -> None:
    plan = noisy_plan(queries="    - {count: rows}\n")
    cap, variance = vector.per_row(plan), 10**6
    noise = math.sqrt(variance) / cap
    shape = layout.first(plan)
    for rows in (-7.9 * noise, 5 * 1000 + 7.9 * noise):
        reading.check_sum(plan, decode(shape, np.array([round(rows * cap)], dtype=np.int64)), 5, variance)
    for rows in (-8.2 * noise, 5 * 1000 + 8.2 * noise):
        with pytest.raises(Exception, match="model_rejected"):
            reading.check_sum(plan, decode(shape, np.array([round(rows * cap)], dtype=np.int64)), 5, variance)
