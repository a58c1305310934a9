"""What `plan explain` says of a statistics plan: what opens, to whom, with how much noise, and what differences show.

Promise: that of `explaining`: every figure comes from the functions that participants refuse by.
"""

import math

from fedveil_common import private_sum
from fedveil_common.dp.distribution import DiscreteLaplace
from fedveil_common.plan import CategoryFeature, NoiseSource, Plan, PrivacySpec, StatisticsSpec
from fedveil_common.statistics import vector

from fedveil_cli import tight_estimate
from fedveil_cli.cohort_figures import CohortFigures
from fedveil_cli.statement import Statement


def sums(plan: Plan, statistics: StatisticsSpec, large: CohortFigures) -> list[Statement]:
    """What the one sum of the plan says."""
    if plan.privacy is not None:
        return [*_noisy(plan, plan.privacy, statistics, large), _cells(plan, statistics)]
    return [*_exact(plan, statistics), _cells(plan, statistics)]


def _exact(plan: Plan, statistics: StatisticsSpec) -> list[Statement]:
    length, questions = vector.length(plan), len(statistics.queries)
    return [
        Statement(
            "exact_answers",
            "sums",
            f"privacy: none. One sum of {length} figures and cells opens, exactly, for the coordinator and every "
            f"member: the answers to {questions} question{'s' if questions > 1 else ''}, and what they are made from. "
            "No answer is chosen from data: ranges, cells and values are the plan's.",
            {"sums": 1, "coordinates": length, "questions": questions},
        ),
        Statement(
            "asked_once",
            "sums",
            "The same questions are answered once for a version of the data; a second run of them shows the answer of "
            "the first. Without differential privacy that is all that bounds what differences show: other questions "
            "over the same rows, or the same after a row has come or gone, or with another cohort, open again, and "
            "the difference of two answers is about the rows in which they differ.",
            {},
        ),
    ]


def _noisy(plan: Plan, privacy: PrivacySpec, statistics: StatisticsSpec, large: CohortFigures) -> list[Statement]:
    epsilon, twice = private_sum.spent(plan, privacy, 1), private_sum.spent(plan, privacy, 1, organisations=2)
    person = plan.data.person
    unit = f"person (column {person}), who counts once, with the mean over its rows" if person else "record (one row)"
    rows = "" if person else " Several rows of one person add up; name data.person to protect the person."
    parts, sigma = len(vector.parts(plan)), row_noise(plan, privacy)
    shared = privacy.noise is NoiseSource.PARTICIPANTS
    against = (
        f"everyone, the coordinator and every member included, while at most c = {large.corrupt} of them collude and "
        "however many drop out"
        if shared
        else "members and the public, while none of them is in league with the coordinator; against the coordinator, "
        "which adds the noise and can take it off again, there is none"
    )
    return [
        Statement(
            "noisy_answers",
            "sums",
            f"One sum of {vector.length(plan)} noisy figures and cells opens, nothing else; the protection is of each "
            f"{unit}, at epsilon {epsilon:.3g} and delta {privacy.delta:g}, against {against}.{rows}",
            {"sums": 1, "epsilon": epsilon, "delta": privacy.delta, "against_coordinator": shared},
        ),
        Statement(
            "noise_of_answers",
            "sums",
            f"Every count and every cell has noise of {sigma:.3g} rows (one standard deviation) at least: a row moves "
            f"{parts} part{'s' if parts > 1 else ''} of the sum, each as much as the next. Fewer questions have less "
            "noise at the same epsilon.",
            {"noise_rows": sigma, "parts": parts},
        ),
        *_laplace(plan, privacy),
        tight_estimate.statement(plan, privacy),
        Statement(
            "same_person",
            "sums",
            f"One who is in the data of two organisations has epsilon {twice:.3g}: both move the same sum.",
            {"epsilon_of_two": twice},
        ),
        Statement(
            "asked_again",
            "sums",
            "The answer is kept, and served to every later run of the same questions without a new charge, whatever "
            "became of the data. Another statistics.refresh asks anew, and costs as much again.",
            {"refresh": statistics.refresh},
        ),
        Statement(
            "not_covered",
            "sums",
            "Not covered: that an organisation takes part, min_rows, when and how long it works"
            + ("; a member that adds no noise of its own is counted among the c." if shared else "."),
            {},
        ),
    ]


def _laplace(plan: Plan, privacy: PrivacySpec) -> list[Statement]:
    """What holds of Laplace noise alone."""
    noise = private_sum.grid(plan, privacy).noise
    if not isinstance(noise, DiscreteLaplace):
        return []
    pure = vector.l1_sensitivity(plan) / noise.scale
    return [
        Statement(
            "laplace_noise",
            "sums",
            f"The noise is discrete Laplace, all of it drawn by the coordinator: the sum is {pure:.3g}-differentially "
            "private with no delta, but for 2^-107 for each draw from a table. The ledger charges its Renyi "
            f"divergence, which at delta {privacy.delta:g} may come to less, or to a little more.",
            {"pure_epsilon": pure, "scale": noise.scale},
        )
    ]


def row_noise(plan: Plan, privacy: PrivacySpec) -> float:
    """Standard deviation, in rows, of the noise that the accountant counts on in one count or cell."""
    return math.sqrt(private_sum.grid(plan, privacy).variance) / vector.per_row(plan)


def _cells(plan: Plan, statistics: StatisticsSpec) -> Statement:
    categories = [feature.name for feature in plan.data.features if isinstance(feature, CategoryFeature)]
    least = statistics.min_cell
    if plan.privacy is None:
        text = (
            f"Every participant sends a cell, or a column's figures, of fewer than {least} of its own rows as 0, and "
            "nobody learns that it did: a count may be too small by what is missing. A cell that one organisation "
            "alone fills is opened as it is."
        )
    else:
        text = f"A cell or figure whose noisy count is below {least} is not shown; that is decided on the opened sum."
    return Statement("smallest_cells", "sums", text, {"min_cell": least, "categories": list(categories)})
