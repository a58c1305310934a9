"""Statistics under Laplace noise of the coordinator's: the bound in L1 norm, the price, and the noise that is told.

What differs from `test_private_statistics`: a unit is bounded in L1 norm, part by part and in all, one draw of a
discrete Laplace stands on every coordinate, and the price is that of this distribution (D9).
"""

import math
from dataclasses import replace

import dp_accounting as dpa
import numpy as np
import pytest
from dp_accounting import dp_event
from dp_accounting import pld as oracle_pld
from dp_accounting import rdp as oracle
from encrypted_federation import KEY_ID, book_of
from federation import FIVE, RUN, THREE
from fedveil_common import layout, private_sum, published
from fedveil_common import noise as noises
from fedveil_common import plan as plans
from fedveil_common.decode import decode
from fedveil_common.dp import laplace, rdp
from fedveil_common.dp.distribution import DiscreteGaussian, DiscreteLaplace
from fedveil_common.messages import BlobType, Purpose, Result
from fedveil_common.plan import NoiseKind, Plan
from fedveil_common.statistics import answers as reading
from fedveil_common.statistics import vector
from fedveil_coordinator.noising import PlannedNoise
from fedveil_participant import tally
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from statistics_federation import answers, asking, columns, private
from test_private_statistics import (
    CALM,
    ROW,
    bytes_of,
    ledger_of,
    noisy_plan,
    privacy_of,
    problems_of,
    run_unchecked,
    secret_of,
    source_of,
)

LAPLACE = ", mechanism: laplace, noise: coordinator"


def laplace_plan(noise: str = "noise_multiplier: 1.0", most: float = 100.0, **changes: object) -> Plan:
    return noisy_plan(privacy=private(noise, most, LAPLACE), **changes)


def scale_of(plan: Plan) -> int:
    noise = private_sum.grid(plan, privacy_of(plan)).noise
    assert isinstance(noise, DiscreteLaplace)
    return noise.scale


# --- what one unit moves ----------------------------------------------------------------------------------------------

PLANS = {
    "rows": laplace_plan(),
    "persons": laplace_plan(person="person: person"),
    "persons, coarse": laplace_plan(person="person: person", max_rows=80_000),
}


def check_bound(plan: Plan, moved: NDArray[np.int64]) -> None:
    """Part by part at most the cap in L1 norm, and in all at most what is charged."""
    for part, where in zip(vector.parts(plan), layout.first(plan).slices().values(), strict=True):
        assert np.abs(moved[where]).sum() <= vector.per_row(plan), part.name
    assert np.abs(moved).sum() <= vector.l1_sensitivity(plan)


@pytest.mark.parametrize("name", PLANS)
@given(rows=st.lists(ROW, min_size=1, max_size=12), number=st.integers(0, 2**32))
@CALM
def test_a_unit_alone_is_never_longer_than_its_caps(
    name: str, rows: list[tuple[float, float, int, int]], number: int
) -> None:
    plan = PLANS[name]
    mine = [(*row[:3], 7) for row in rows] if plan.data.person else rows[:1]
    check_bound(plan, tally.private_tally(plan, source_of(mine), secret_of(number)))


def test_a_person_who_is_shared_among_cells_is_shortened(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ten shares that do not lie on the grid, each rounded at random. Without the bound in L1 norm some persons add up
    to more than the cap, also under the bound in L2 norm that Gaussian noise takes: it does not reach.
    """
    plan = PLANS["persons, coarse"]
    rows = [(200.0, 5.0 + 10 * (number % 10), 0, 1) for number in range(11)]
    where, cap = layout.first(plan).slices()["cells:5"], vector.per_row(plan)

    def longest() -> int:
        tallies = [tally.private_tally(plan, source_of(rows), secret_of(number)) for number in range(60)]
        return max(int(np.abs(one[where]).sum()) for one in tallies)

    assert longest() <= cap
    monkeypatch.setattr(tally, "within_sum", tally.within)
    assert longest() > cap


def test_many_persons_add_up_and_only_the_range_cuts() -> None:
    plan = PLANS["persons"]
    rows = [(250.0, 50.0, number % 3, number) for number in range(30)]
    found = tally.private_tally(plan, source_of(rows), secret_of(1))
    assert found[0] == 30 * vector.per_row(plan)


# --- what it costs ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("z", [0.4, 1.0, 3.0])
def test_the_charge_is_that_of_the_oracle(z: float) -> None:
    """The grid is so fine that the discrete Laplace costs what the continuous one does."""
    plan = laplace_plan(f"noise_multiplier: {z}")
    accountant = oracle.RdpAccountant(orders=list(rdp.ORDERS))
    pure = vector.l1_sensitivity(plan) / scale_of(plan)
    assert pure <= 1 / z < pure * 1.001
    accountant.compose(dpa.LaplaceDpEvent(1 / pure))
    found, due = private_sum.spent(plan, privacy_of(plan), 1), accountant.get_epsilon(1e-5)
    assert found == pytest.approx(due, rel=1e-6)
    charge = private_sum.charge(plan, privacy_of(plan), Purpose.STATISTICS, 0)
    assert charge.training == charge.holdout
    assert charge.slack.draws == vector.length(plan), "one draw a coordinate, by one drawer"
    for order in rdp.ORDERS:
        assert charge.training.at(order) <= min(pure, order * pure**2 / 2) * (1 + 1e-12), "Bun, Steinke 2016"


@pytest.mark.parametrize(("scale", "shift"), [(1, 1), (2, 1), (2, 3), (5, 4), (40, 7)])
def test_a_discrete_laplace_costs_more_than_the_continuous_one(scale: int, shift: int) -> None:
    """A shift of a continuous Laplace has a loss between both ends wherever it falls in between, so its divergence is
    smaller: to charge the continuous one would be to charge too little. PLD has the discrete one by itself.
    """
    ours, continuous = rdp.discrete_laplace(scale, shift), rdp.laplace(scale, shift)
    assert continuous.within(ours)
    assert ours.at(2) > continuous.at(2) * (1 + 1 / (10 * scale * scale))
    assert all(rho <= shift / scale * (1 + 1e-15) for rho in ours.rho)
    accountant = oracle_pld.PLDAccountant(value_discretization_interval=1e-3)
    accountant.compose(dp_event.DiscreteLaplaceDpEvent(1 / scale, shift), 4)
    assert accountant.get_epsilon(1e-5) <= rdp.epsilon(ours.times(4), 1e-5) + 4e-3


def test_a_shift_over_several_coordinates_costs_no_more_than_in_one() -> None:
    one = [rdp.discrete_laplace(7, shift) for shift in range(1, 9)]
    for first in range(1, 8):
        assert (one[first - 1] + one[8 - first - 1]).within(one[7])


def test_one_in_two_organisations_moves_the_sum_twice_as_far() -> None:
    plan = laplace_plan()
    twice = private_sum.charge(plan, privacy_of(plan), Purpose.STATISTICS, 0, organisations=2)
    assert twice.training == rdp.discrete_laplace(scale_of(plan), 2 * vector.l1_sensitivity(plan))


def test_a_target_is_kept() -> None:
    plan = laplace_plan("target_epsilon: 1.0", 1.5)
    privacy = privacy_of(plan)
    assert private_sum.spent(plan, privacy, 1) <= 1.0
    assert private_sum.spent(plan, replace(privacy, noise_multiplier=privacy.noise_multiplier - 0.001), 1) > 1.0


@pytest.mark.parametrize("many", [1, 4])
def test_the_scale_is_that_of_the_sum_of_the_caps(many: int) -> None:
    queries = ["{count: rows}", "{group_count: diagnosis}", "{histogram: age, bins: 3}", "{histogram: chol, bins: 3}"]
    plan = laplace_plan(queries="".join(f"    - {query}\n" for query in queries[:many]))
    assert scale_of(plan) == many * vector.per_row(plan)


def test_one_count_is_better_than_under_a_gaussian() -> None:
    """What it is for."""
    one, target = "    - {count: rows}\n", "target_epsilon: 1.0"
    found = laplace_plan(target, 1.0, queries=one)
    gaussian = noisy_plan(privacy=private(target, 1.0), queries=one)
    theirs = private_sum.grid(gaussian, privacy_of(gaussian)).variance
    assert private_sum.grid(found, privacy_of(found)).variance < theirs / 3


# --- plans ------------------------------------------------------------------------------------------------------------


def test_the_canonical_plan_names_it_and_no_other_plan_changes() -> None:
    plan = laplace_plan()
    assert privacy_of(plan).mechanism is NoiseKind.LAPLACE
    assert plans.parse_canonical(bytes_of(plan)) == plan
    assert b'"mechanism":"laplace"' in bytes_of(plan)
    gaussian = noisy_plan(privacy=private(more=", noise: coordinator"))
    assert b"mechanism" not in bytes_of(gaussian)
    assert layout.query_digest(gaussian) != layout.query_digest(plan), "it is another answer"


def test_only_the_coordinator_draws_it_and_only_what_a_table_holds() -> None:
    assert problems_of(privacy=private(more=", mechanism: laplace")) == {("privacy.mechanism", "privacy_statistics")}
    fine = {"bits": ", value_bits: 31", "max_rows": 10}
    assert problems_of(privacy=private(more=LAPLACE), **fine) == {("privacy.noise_multiplier", "privacy_grid")}


# --- the noise --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scale", [1, 2, 7])
def test_the_variance_that_is_told_is_no_smaller_and_nearly_the_same(scale: int) -> None:
    exact = 1 / (math.cosh(1 / scale) - 1)
    assert exact <= DiscreteLaplace(scale).variance < exact + 1 / 6


def test_what_is_unlikely_is_so() -> None:
    assert math.exp(-DiscreteLaplace(9).unlikely * math.sqrt(2)) < 1e-15
    assert math.erfc(DiscreteGaussian(9).unlikely / math.sqrt(2)) < 2e-15
    assert math.exp(-DiscreteGaussian(9).unlikely * math.sqrt(2)) > 1e-6, "so eight are too few for a Laplace"


def test_a_draw_of_long_tails_is_no_false_sum() -> None:
    plan = laplace_plan(queries="    - {count: rows}\n")
    variance, shape = private_sum.grid(plan, privacy_of(plan)).variance, layout.first(plan)
    deviation = math.sqrt(variance)
    reading.check_sum(plan, decode(shape, np.array([round(-20 * deviation)], dtype=np.int64)), 5, variance)
    with pytest.raises(Exception, match="model_rejected"):
        reading.check_sum(plan, decode(shape, np.array([round(-26 * deviation)], dtype=np.int64)), 5, variance)


class Bytes:
    """Entropy of a test."""

    def take(self, count: int) -> bytes:
        return bytes(range(count))


def test_the_coordinator_draws_the_plans_laplace() -> None:
    """Of a Laplace the mean absolute value is the scale, and the variance twice its square; of a Gaussian of the same
    variance it would be 1.13 scales.
    """
    plan = laplace_plan(queries="    - {quantiles: age, at: [0.5], resolution: 4096}\n")
    manifest = type("Offer", (), {"length": 4096})()
    drawn = PlannedNoise(plan, Bytes()).draw(manifest).astype(np.float64)
    scale = scale_of(plan)
    assert abs(np.abs(drawn).mean() / scale - 1) < 0.08, "one standard deviation is 0.016"
    assert abs(drawn.var() / private_sum.grid(plan, privacy_of(plan)).variance - 1) < 0.2
    assert np.abs(drawn).max() <= noises.coordinator_cap(plan) == laplace.table(scale).bound


# --- whole runs -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["masked", "paillier"])
def test_whole_runs(kind: str) -> None:
    encrypted = kind == "paillier"
    members = THREE if encrypted else FIVE
    plan = laplace_plan(kind=f"paillier, key: {KEY_ID}" if encrypted else kind)
    book = book_of(THREE, THREE, 2) if encrypted else None
    cluster = asking(members, book=book, canonical=bytes_of(plan))
    assert run_unchecked(cluster, bytes_of(plan)) == "finished"
    (rows, *_) = answers(cluster, RUN)
    exact = sum(len(one.age) for one in columns(members))
    variance = 2 * scale_of(plan) ** 2
    _, signed = cluster.coordinator.sums.source(RUN, 1)
    assert published.body_of(signed, BlobType.RESULT, Result).noise_left == variance
    assert isinstance(rows["value"], float)
    assert isinstance(rows["noise"], float)
    assert rows["noise"] == pytest.approx(math.sqrt(variance) / vector.per_row(plan))
    assert 0 < abs(rows["value"] - exact) < 15 * rows["noise"]
    due = private_sum.spent(plan, privacy_of(plan), 1)
    assert [ledger_of(cluster, org).spent(RUN).epsilon(1e-5) for org in members] == [due] * len(members)
