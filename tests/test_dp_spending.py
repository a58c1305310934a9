"""What a run and a lifetime spend: the slack of D15, the rows of D11, at every order.

A test named after an amendment also computes the figure that the amendment replaced, and shows that it claims less.
"""

import math
from collections.abc import Callable
from fractions import Fraction

import pytest
from fedveil_common.dp import charge, rdp, slack
from fedveil_common.dp.charge import Charge, Rows, Spent
from fedveil_common.dp.rdp import ORDERS, Curve
from fedveil_common.dp.slack import Slack
from hypothesis import given, settings
from hypothesis import strategies as st

DELTA = 1e-5

multipliers = st.floats(0.4, 20)
deltas = st.floats(1e-9, 1e-2)


# --- slack ------------------------------------------------------------------------------------------------------------


@settings(max_examples=50)
@given(multipliers, st.integers(1, 200), deltas, st.integers(0, 10**15), st.integers(0, 10**6))
def test_d15_delta_pays_for_the_slack(z: float, count: int, delta: float, draws: int, attempts: int) -> None:
    """The result is checked in the words of the amendment; the naive figure forgets the slack."""
    curve, counted = rdp.gaussian(rdp.shift_of(z)).times(count), Slack(draws, attempts)
    found, naive = slack.epsilon(curve, counted, delta), rdp.epsilon(curve, delta)
    assert found >= naive
    gamma = draws * Fraction(1, 2**107) + attempts * Fraction(1, 2**64)
    if found < math.inf:
        left = Fraction(delta) - (1 + Fraction(math.exp(found))) * gamma
        assert rdp.epsilon(curve, left) <= found * (1 + 1e-11)
    else:
        assert (1 + math.exp(min(naive, 600))) * gamma > Fraction(delta) / 1000
    if not gamma:
        assert found == naive


def test_d15_slack_matters_where_epsilon_is_large() -> None:
    curve = rdp.gaussian(Fraction(1)).times(14)  # 24.1 without slack
    naive = rdp.epsilon(curve, DELTA)
    some = slack.epsilon(curve, Slack(attempts=1000), DELTA)
    assert naive == pytest.approx(24.1266, abs=1e-4)
    assert naive + 0.2 < some < naive + 0.3
    assert naive < slack.epsilon(curve, Slack(draws=10**15), DELTA) < some
    assert slack.lifetime_epsilon(curve, Slack(attempts=1000), DELTA) > rdp.lifetime_epsilon(curve, DELTA) + 1e-3
    assert slack.epsilon(curve, Slack(attempts=10**6), DELTA) == math.inf


def test_d15_one_tested_attempt_leaves_no_epsilon_above_33() -> None:
    for steps, finite in ((21, True), (23, False), (50, False), (400, False)):
        curve = rdp.gaussian(Fraction(1)).times(steps)  # steps + 10.13 at order 2
        assert (slack.epsilon(curve, Slack(attempts=1), DELTA) < math.inf) is finite
        assert slack.epsilon(curve, slack.EXACT, DELTA) == rdp.epsilon(curve, DELTA)


def test_an_epsilon_between_two_that_hold_is_found_from_below() -> None:
    """As delta runs out the iteration takes more steps, and still ends in a figure that holds."""
    curve = rdp.gaussian(Fraction(1)).times(14)
    finite = [slack.epsilon(curve, Slack(attempts=attempts), DELTA) for attempts in range(1000, 1501, 20)]
    assert finite == sorted(finite)
    assert finite[0] < math.inf == finite[-1]


def test_an_iteration_that_does_not_settle_says_infinity(monkeypatch: pytest.MonkeyPatch) -> None:
    curve = rdp.gaussian(Fraction(1)).times(14)
    monkeypatch.setattr(slack, "_TRIES", 1)
    assert slack.epsilon(curve, Slack(attempts=1000), DELTA) == math.inf


# --- runs and rows ----------------------------------------------------------------------------------------------------


def test_d11_a_row_trains_or_is_held_out_within_a_run() -> None:
    """Naive: both are charged to everyone (too much), or the training alone is (too little)."""
    training, holdout = rdp.sampled_gaussian(0.1, rdp.shift_of(2.0)), rdp.gaussian(Fraction(3, 64 * 4))
    sums = [Charge(training, holdout)] * 5 + [Charge.on(Rows.TRAINING, training)] * 45
    spent = charge.of_run(sums)
    for order in ORDERS:
        both = 50 * training.at(order), 5 * holdout.at(order)
        assert spent.curve.at(order) == pytest.approx(max(both), rel=1e-14)
    everyone = Charge.on(Rows.BOTH, rdp.gaussian(Fraction(1, 9)))
    assert charge.of_run([*sums, everyone]).curve.at(2) == pytest.approx(
        max(50 * training.at(2), 5 * holdout.at(2)) + 1 / 9, rel=1e-14
    )


def test_d11_the_larger_is_taken_at_each_order_and_not_of_epsilons() -> None:
    low, high = [1.0] * len(ORDERS), [1.0] * len(ORDERS)
    low[0], high[-1] = 30.0, 30.0
    either = charge.of_run([Charge(Curve(tuple(low)), Curve(tuple(high)))])
    assert either.curve.at(2) == 30.0 == either.curve.at(512)
    assert either.curve.at(3) == 1.0


def test_d11_what_a_row_was_in_one_run_says_nothing_of_the_next() -> None:
    run = charge.of_run([Charge.on(Rows.TRAINING, rdp.gaussian(Fraction(1)))])
    other = charge.of_run([Charge.on(Rows.HOLDOUT, rdp.gaussian(Fraction(1)), Slack(3, 1))])
    both = charge.of_runs([run, other])
    assert both.curve.at(2) == pytest.approx(2.0, rel=1e-15)  # naive: max over all runs, 1.0
    assert both.slack == Slack(3, 1)
    assert charge.of_runs([]) == Spent() == charge.of_run([])


@pytest.mark.parametrize(
    "call",
    [
        lambda: Slack(-1),
        lambda: Slack(0, -1),
        lambda: slack.epsilon(rdp.NOTHING, slack.EXACT, 0.0),
    ],
)
def test_figures_that_mean_nothing_are_refused(call: Callable[[], object]) -> None:
    with pytest.raises(ValueError, match=r"[a-z]"):
        call()
