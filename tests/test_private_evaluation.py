"""What evaluation under differential privacy costs: a sum has two prices, and what has no price has no layout (D11).

A record trains or is held out, so a run costs the larger of both at each order.
"""

import dataclasses
import math

import dp_accounting as dpa
import pytest
from absl import logging as absl_logging
from dp_accounting import rdp as oracle_rdp
from fedveil_common import layout, private_sum
from fedveil_common.dp import rdp
from fedveil_common.dp.charge import Charge, of_run
from fedveil_common.errors import IntegrityError
from fedveil_common.messages import Purpose
from measuring_plans import KINDS, measuring, privacy_of
from private_federation import private_plan

ORDERS = rdp.ORDERS

absl_logging.set_verbosity(absl_logging.ERROR)  # it says of fractional orders that they did not converge


# --- the price --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", sorted(KINDS))
@pytest.mark.parametrize("noise", [1.0, 2.5])
def test_a_holdout_record_pays_for_its_blocks_as_the_oracle_says(kind: str, noise: float) -> None:
    """8z/sqrt(m) at q = 1, by dp-accounting; the caps are whole steps, so ours is at most that and hardly below."""
    blocks = KINDS[kind][3]
    plan = measuring(kind, noise=f"noise_multiplier: {noise}", bits=24)
    for purpose in (Purpose.TRAIN, Purpose.EVALUATE):
        holdout = private_sum.charge(plan, privacy_of(plan), purpose, 0).holdout
        accountant = oracle_rdp.RdpAccountant(ORDERS)
        accountant.compose(dpa.GaussianDpEvent(8 * noise / math.sqrt(blocks)), 20)
        assert rdp.epsilon(holdout.times(20), 1e-5) == pytest.approx(accountant.get_epsilon(1e-5), rel=1e-4)


def test_d11_a_training_record_pays_the_same_whether_others_are_measured() -> None:
    """No further block moves with a training row: z, and not z/sqrt(1 + m/64), which charging one price would take."""
    plain, measuring_ = private_plan(sample=0.1), measuring(sample=0.1)
    charged = [private_sum.charge(one, privacy_of(one), Purpose.TRAIN, 0) for one in (plain, measuring_)]
    assert charged[0].holdout == rdp.NOTHING
    for order in ORDERS:
        assert charged[1].training.at(order) == pytest.approx(charged[0].training.at(order), rel=1e-12)
    last = private_sum.charge(measuring_, privacy_of(measuring_), Purpose.EVALUATE, 3)
    assert last.training == rdp.NOTHING
    between = measuring(every=2)
    assert private_sum.charge(between, privacy_of(between), Purpose.TRAIN, 1).holdout == rdp.NOTHING


@pytest.mark.parametrize(("sample", "larger"), [(1.0, 0), (0.01, 1)])
def test_d11_a_run_costs_the_larger_of_both(sample: float, larger: int) -> None:
    """Were both added up, or charged to everyone, it would cost more; were the other left out, too little."""
    plan = measuring(rounds=20, sample=sample)
    privacy, sums = privacy_of(plan), private_sum.sums_planned(plan)
    assert sums == 21
    training, holdout = private_sum.costs(plan, privacy, sums)
    spent = private_sum.spent(plan, privacy, sums)
    assert max(training, holdout) <= spent <= max(training, holdout) * (1 + 1e-9)
    assert (training < holdout) == bool(larger)
    every = [
        *(private_sum.charge(plan, privacy, Purpose.TRAIN, step) for step in range(20)),
        private_sum.charge(plan, privacy, Purpose.EVALUATE, 20),
    ]
    assert spent == of_run(every).epsilon(privacy.delta)
    both = [Charge(one.training + one.holdout, one.training + one.holdout, one.slack) for one in every]
    assert of_run(both).epsilon(privacy.delta) > 1.001 * spent, "the price without D11"


@pytest.mark.parametrize("every", [1, 3, 10])
def test_a_target_covers_every_sum_and_no_thousandth_less_noise_would(every: int) -> None:
    plan = measuring(rounds=10, every=every, sample=0.1, noise="target_epsilon: 3.0", bits=20)
    privacy, sums = privacy_of(plan), private_sum.sums_planned(plan)
    assert sums == 11
    assert private_sum.spent(plan, privacy, sums) <= 3.0
    less = dataclasses.replace(privacy, noise_multiplier=round(privacy.noise_multiplier - 1 / private_sum.FINEST, 3))
    assert private_sum.spent(plan, less, sums) > 3.0
    assert private_sum.spent(plan, privacy, 0) == 0.0


def test_no_noise_keeps_an_epsilon_below_what_the_largest_order_gives() -> None:
    plan = measuring()
    assert private_sum.multiplier_for(plan, privacy_of(plan), 0.005) == 0.0


@pytest.mark.parametrize("every", [1, 4])
@pytest.mark.parametrize("sample", [1.0, 0.01])
def test_the_sums_that_fit_are_the_last_number_that_does(every: int, sample: float) -> None:
    plan = measuring(rounds=40, every=every, sample=sample, most=9.0)
    privacy = privacy_of(plan)
    allowed = private_sum.sums_allowed(plan, privacy)
    assert 0 < allowed <= 41
    assert private_sum.spent(plan, privacy, allowed) <= 9.0
    assert allowed == 41 or private_sum.spent(plan, privacy, allowed + 1) > 9.0
    assert private_sum.steps_allowed(plan, privacy) == min(allowed, 40)


def test_a_run_has_no_more_sums_than_its_plan() -> None:
    plan = measuring(rounds=2)
    with pytest.raises(ValueError, match="3 sums"):
        private_sum.spent(plan, privacy_of(plan), 4)
    for purpose in (Purpose.STANDARDISE, Purpose.STATISTICS):
        with pytest.raises(ValueError, match=purpose.value):
            private_sum.charge(plan, privacy_of(plan), purpose, 0)
        with pytest.raises(ValueError, match=purpose.value):
            private_sum.mechanism(plan, privacy_of(plan), purpose, 0)


def test_long_plans_are_priced_in_no_time() -> None:
    """10,000 steps have three kinds of sum: what is kept is by kind, not by step."""
    plan = measuring(rounds=10_000, every=100, sample=0.01, noise="noise_multiplier: 4.0", bits=20)
    private_sum._charge.cache_clear()
    assert private_sum.sums_allowed(plan, privacy_of(plan)) == 10_001
    assert private_sum._charge.cache_info().misses <= 3


# --- a block without a price ------------------------------------------------------------------------------------------


def test_a_block_without_a_price_has_no_layout(monkeypatch: pytest.MonkeyPatch) -> None:
    """One block more than is charged, one coordinate more, or one less: nobody derives a layout, so nobody sends."""
    plan, honest = measuring(), layout._noisy_evaluation
    changed = {
        "block": lambda plan, privacy: (*honest(plan, privacy), layout.Block("minutes", 1, 1.0, 1.0)),
        "longer": lambda plan, privacy: (
            dataclasses.replace(honest(plan, privacy)[0], length=2),
            *honest(plan, privacy)[1:],
        ),
        "missing": lambda plan, privacy: honest(plan, privacy)[1:],
    }
    for change in changed.values():
        monkeypatch.setattr(layout, "_noisy_evaluation", change)
        for purpose in (Purpose.TRAIN, Purpose.EVALUATE):
            with pytest.raises(IntegrityError) as caught:
                layout.layout_for(plan, purpose, 0)
            assert caught.value.code == "uncharged_block"
    assert layout.layout_for(measuring(every=2), Purpose.TRAIN, 1).blocks[-1].name == layout.UPDATE
