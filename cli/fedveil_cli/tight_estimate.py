"""A second figure beside a plan's epsilon: an estimate by privacy loss distributions, with a library that is optional.

Promise: it stands in reports alone. Nothing stops, is charged or refused by it, since it is that of a continuous
Gaussian in floats, which is no proven bound of what runs; the library is imported when a report asks, and by nothing
else. Source: D13 (docs/privacy.md); Koskela, Jälkö, Honkela 2020; dp-accounting.
"""

import importlib
import math

from fedveil_common import private_sum
from fedveil_common.dp.charge import Rows
from fedveil_common.dp.distribution import DiscreteLaplace
from fedveil_common.messages import Purpose
from fedveil_common.plan import Plan, PrivacySpec, measures
from fedveil_common.statistics import vector

from fedveil_cli.statement import Statement

INTERVAL = 1e-3
"""Of the losses that are told apart: at 10^-3 a thousand sums take a second, and the figure has three digits."""


def available() -> bool:
    """Whether the library is there; importing it takes about a second."""
    try:
        importlib.import_module("dp_accounting.pld")
    except ImportError:
        return False
    return True


def gaussian(noise_multiplier: float, sample_rate: float, sums: int, delta: float) -> float:
    """Epsilon of so many sums with Poisson sampling at `sample_rate`. ImportError without the library."""
    events = importlib.import_module("dp_accounting")
    single = events.GaussianDpEvent(noise_multiplier)
    return _epsilon([(events.PoissonSampledDpEvent(sample_rate, single) if sample_rate < 1 else single, sums)], delta)


def of_run(plan: Plan, privacy: PrivacySpec, sums: int) -> float:
    """Epsilon at the plan's delta after the first `sums` sums of a run: of a record that trains, or of one that is held
    out, whichever is larger. ImportError without the library.
    """
    found = private_sum.grid(plan, privacy)
    if isinstance(found.noise, DiscreteLaplace):
        events = importlib.import_module("dp_accounting")
        return _epsilon([(events.LaplaceDpEvent(found.noise.scale / vector.l1_sensitivity(plan)), sums)], privacy.delta)
    purpose, step = private_sum.first_sum(plan)
    if plan.statistics is not None:
        return gaussian(1 / math.sqrt(found.squared_shift), 1.0, sums, privacy.delta)
    steps = min(sums, plan.training.rounds)
    due = [one for one in range(steps) if measures.due(plan, one)]
    shift = private_sum.mechanism(plan, privacy, purpose, step).squared_shift(Rows.TRAINING)
    training = gaussian(1 / math.sqrt(shift), privacy.sample_rate, steps, privacy.delta)
    measured = len(due) + sums - steps
    if not measured:
        return training
    shift = private_sum.mechanism(plan, privacy, Purpose.EVALUATE, steps).squared_shift(Rows.HOLDOUT)
    return max(training, gaussian(1 / math.sqrt(shift), 1.0, measured, privacy.delta))


def _epsilon(events: list[tuple[object, int]], delta: float) -> float:
    accountant = importlib.import_module("dp_accounting.pld").PLDAccountant(value_discretization_interval=INTERVAL)
    for event, count in events:
        accountant.compose(event, count)
    return float(accountant.get_epsilon(delta))


def statement(plan: Plan, privacy: PrivacySpec) -> Statement:
    """The line of `plan explain`: the estimate, or how to have it."""
    if not available():
        return Statement(
            "estimate",
            "sums",
            "A tighter estimate of epsilon, by privacy loss distributions, is shown where the package dp-accounting is "
            "installed: pip install 'fedveil[report]'.",
            {"epsilon_estimate": None},
        )
    found = of_run(plan, privacy, private_sum.sums_allowed(plan, privacy))
    return Statement(
        "estimate",
        "sums",
        f"Estimate by privacy loss distributions, for continuous noise: epsilon {found:.3g}. It is no proven bound, "
        "and nothing is charged or stopped by it.",
        {"epsilon_estimate": found},
    )
