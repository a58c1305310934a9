"""A clip norm that follows the updates (D18): priced, opened with noise, the same everywhere, where it makes sense."""

import math
from dataclasses import replace
from fractions import Fraction

import dp_accounting as dpa
import numpy as np
import pytest
from dp_accounting import rdp as oracle
from federation import FIVE, RUN, check_sums, federation
from fedveil_common import adaptive_clip, decode, layout, modelfile, private_sum, provenance
from fedveil_common import plan as plans
from fedveil_common.dp import rdp
from fedveil_common.layout import UPDATE
from fedveil_common.messages import Purpose
from fedveil_common.plan import NotInThisReleaseError, Plan, PlanError, PrivacySpec
from fedveil_common.secret import Seed
from fedveil_participant import update as updates
from fedveil_participant.training import clipped
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from private_federation import PLAN, SETTINGS, settled_sum, whole_text


def adapting(members: int = 5, **changes: object) -> Plan:
    """Of whole participants, with so little noise that few of them do; not a plan that anybody should run."""
    text = whole_text(**{"noise": "noise_multiplier: 0.3", "most": 999.0, "bits": 24, "delta": 0.01, **changes})
    text = text.replace("unit: participant", "unit: participant, adaptive_clip: {quantile: 0.5, rate: 0.2}")
    return plans.parse_plan(
        text.replace("min_participants: 3", f"min_participants: {members}").encode(), "adapting.yaml"
    )


def privacy_of(plan: Plan) -> PrivacySpec:
    assert plan.privacy is not None
    return plan.privacy


def test_the_plan_survives_its_canonical_form_and_only_it_has_the_field() -> None:
    plan = adapting()
    assert plans.parse_canonical(plans.canonical(plan)) == plan
    assert b'"adaptive_clip":{"quantile":0.5,"rate":0.2}' in plans.canonical(plan)
    fixed = plans.parse_plan(whole_text().encode(), "whole.yaml")
    assert b"adaptive_clip" not in plans.canonical(fixed)
    assert layout.layout_for(fixed, Purpose.TRAIN, 0).blocks[-1].name == UPDATE


def test_too_few_participants_are_refused_with_the_figures() -> None:
    with pytest.raises(PlanError) as caught:
        adapting(members=10, noise="noise_multiplier: 1.0")
    (problem,) = caught.value.problems
    assert (problem.path, problem.code) == ("privacy.adaptive_clip", "privacy_clip")
    assert "0.4" in problem.text
    assert "16 participants are needed" in problem.text
    assert adapting(members=16, noise="noise_multiplier: 1.0")


@pytest.mark.parametrize("value", ["{quantile: 0}", "{quantile: 1}", "{rate: 0}", "{rate: 2}", "{speed: 1}", "yes"])
def test_values_that_mean_nothing_are_refused(value: str) -> None:
    text = whole_text().replace("unit: participant", f"unit: participant, adaptive_clip: {value}")
    with pytest.raises(PlanError):
        plans.parse_plan(text.encode(), "adapting.yaml")


def test_under_unit_record_it_is_named_as_later() -> None:
    text = PLAN.format(**SETTINGS).replace("privacy: {", "privacy: {adaptive_clip: {quantile: 0.5}, ")
    with pytest.raises(NotInThisReleaseError):
        plans.parse_plan(text.encode(), "records.yaml")


@pytest.mark.parametrize("z", [0.5, 1.0, 5.0])
def test_a_step_costs_what_the_block_more_makes_it_cost(z: float) -> None:
    """The oracle's Gaussian at z / sqrt(1 + 1/64): without the block's price it would be cheaper."""
    plan = adapting(members=100, noise=f"noise_multiplier: {z}")
    curve = private_sum.charge(plan, privacy_of(plan), Purpose.TRAIN, 0).training
    grid, cap = private_sum.grid(plan, privacy_of(plan)), private_sum.measure_cap(plan, privacy_of(plan))
    multiplier = math.sqrt(Fraction(grid.variance, grid.sensitivity**2 + cap**2))
    accountant = oracle.RdpAccountant(rdp.ORDERS)
    accountant.compose(dpa.GaussianDpEvent(multiplier))
    assert rdp.epsilon(curve, 1e-5) == pytest.approx(accountant.get_epsilon(1e-5), rel=1e-9)
    assert multiplier == pytest.approx(z / math.sqrt(1 + 1 / 64), rel=1e-3)


@given(st.lists(st.floats(-1e6, 1e6), min_size=6, max_size=6), st.floats(2.0**-20, 2.0**20), st.integers(0, 2**32))
@settings(max_examples=150, deadline=None)
def test_one_participant_moves_a_sum_by_no_more_than_is_charged(values: list[float], ratio: float, key: int) -> None:
    plan = adapting()
    update = np.array(values)

    class Made:
        def update(self, plan: Plan, model: object, rows: object) -> NDArray[np.float64]:
            return update.copy()

    made = updates._private(
        plan, privacy_of(plan), np.zeros(6, np.float32), None, Made(), Seed(key.to_bytes(32)), ratio
    )  # type: ignore[arg-type]
    grid, cap = private_sum.grid(plan, privacy_of(plan)), private_sum.measure_cap(plan, privacy_of(plan))
    assert sum(int(one) ** 2 for one in made[0]) <= grid.squared
    assert made[1].tolist() in ([cap], [-cap])
    norm = float(np.sqrt(np.sum((update / ratio) ** 2)))
    assert bool(made[1][0] > 0) == (norm <= privacy_of(plan).clip_norm)


def test_what_is_not_finite_is_not_within_the_norm() -> None:
    privacy = privacy_of(adapting())
    for bad in (np.nan, np.inf, 1e200):
        assert not clipped.within_norm(privacy, np.array([bad, 0.0]))


def test_the_norm_goes_towards_the_quantile() -> None:
    plan = adapting()

    def opened(share: float) -> decode.Decoded:
        shape = layout.layout_for(plan, Purpose.TRAIN, 0)
        values = np.zeros(shape.length, np.int64)
        values[-1] = round((share - 0.5) * 5 * 2 * private_sum.measure_cap(plan, privacy_of(plan)))
        return decode.decode(shape, values)

    assert adaptive_clip.following(plan, 1.0, opened(0.5)) == pytest.approx(1.0, abs=1e-6)
    assert adaptive_clip.following(plan, 1.0, opened(1.0)) == pytest.approx(math.exp(-0.1), rel=1e-6)
    assert adaptive_clip.following(plan, 1.0, opened(0.0)) == pytest.approx(math.exp(0.1), rel=1e-6)
    for share in (-50.0, 50.0):  # what noise or a liar adds moves it by a factor of e^0.1 at most
        assert abs(math.log(adaptive_clip.following(plan, 1.0, opened(share)))) <= 0.1 + 1e-9
    assert adaptive_clip.following(plan, adaptive_clip.MOST, opened(0.0)) == adaptive_clip.MOST
    assert adaptive_clip.following(plan, adaptive_clip.LEAST, opened(1.0)) == adaptive_clip.LEAST
    fixed = plans.parse_plan(whole_text().encode(), "whole.yaml")
    assert adaptive_clip.following(fixed, 1.0, {}) == 1.0


def test_a_run_moves_its_clip_norm_and_everyone_has_the_same_model() -> None:
    """The updates are far shorter than the clip norm: it shrinks, step by step, and the sums mean what they say."""
    plan = adapting(rounds=3, clip=8.0, rate=0.05)
    cluster = federation(FIVE, plan=plans.canonical(plan))
    cluster.start_run(RUN, plans.canonical(plan))
    cluster.play(lambda: cluster.memory.runs[RUN][1] == "ended", 400_000.0)
    assert cluster.memory.runs[RUN][2] == "finished"
    assert check_sums(cluster) == 3
    lineage = provenance.begin(plan, None)
    norms = [lineage.clip]
    for number in range(1, 4):
        lineage = provenance.advance(lineage, settled_sum(cluster, plan, number))
        norms.append(lineage.clip)
    assert norms == sorted(norms, reverse=True)
    assert norms[-1] < math.exp(-0.2), "nearly all are within it in every step"
    for member in cluster.members.values():
        (end,) = member.memory.ends.values()
        np.testing.assert_array_equal(modelfile.read_model(end[2]).model, lineage.model)


def test_without_the_scale_the_model_would_be_another() -> None:
    plan = adapting()
    shape = layout.layout_for(plan, Purpose.TRAIN, 0)
    values = np.arange(shape.length, dtype=np.int64) * 1000
    start = provenance.begin(plan, None)
    one = provenance.advance(replace(start, clip=0.5), values)
    two = provenance.advance(replace(start, clip=0.25), values)
    moved = [lineage.model.astype(np.float64) - start.model for lineage in (one, two)]
    np.testing.assert_allclose(moved[0], 2 * moved[1], rtol=1e-4, atol=1e-9)
