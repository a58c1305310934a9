"""`plan explain`: who could learn what under a plan, with how many colluders, and who can stop it.

A table of the smallest sums for every size that a cohort may have, then the sentences of `explaining`. A plan that can
never start explains nothing: it is refused with the figures and with what would make it possible.
"""

import pathlib
from collections.abc import Sequence
from dataclasses import asdict

from fedveil_common.errors import ConfigError
from fedveil_common.jcs import Json
from fedveil_common.paillier.public_key import Terms
from fedveil_common.plan import Plan, canonical, check_release, parse_plan, plan_hash

from fedveil_cli import cohort_figures, explaining, exposure
from fedveil_cli.cohort_figures import CohortFigures
from fedveil_cli.files import MAX_PLAN, read_file
from fedveil_cli.known_roster import KnownRoster, known_roster
from fedveil_cli.output import Output, TextTable
from fedveil_cli.statement import Statement

SHOWN = 12
"""Cohort sizes in the table for people; --json has all."""


def explain(
    path: pathlib.Path,
    roster_size: int | None,
    home: pathlib.Path,
    output: Output,
    key_file: pathlib.Path | None = None,
) -> None:
    """Prints what holds for the plan in `path` and a roster of `roster_size` (else of `home`, else min_participants).
    `key_file`: the terms of the key that a paillier plan names.

    Raises what `plan check` raises; ConfigError `cohort_never_possible` also for a roster that only the home knows,
    `other_key` for terms of another key; those of `read_terms`.
    """
    plan = parse_plan(read_file(path, "the plan", MAX_PLAN), str(path))
    check_release(plan)
    terms = None if key_file is None else _terms_of(plan, key_file)
    fewest = KnownRoster(plan.cohort.min_participants, "cohort.min_participants: the fewest that can start")
    roster = known_roster(roster_size, home) or fewest
    cohort_figures.check_roster(plan, roster.size)
    cohorts = [cohort_figures.figures(plan, roster.size, n) for n in cohort_figures.possible_cohorts(plan, roster.size)]
    statements = explaining.statements(plan, cohorts, terms)
    value: dict[str, Json] = {
        "name": plan.name,
        "plan_hash": plan_hash(canonical(plan)).hex(),
        "participants": roster.size,
        "participants_from": roster.origin,
        "max_corrupt": cohorts[0].corrupt,
        "cohorts": [_cohort_value(figures, terms) for figures in cohorts],
        "statements": [asdict(one) for one in statements],
    }
    output.result(value, _lines(plan, roster, cohorts, statements, terms))


def _terms_of(plan: Plan, key_file: pathlib.Path) -> Terms:
    from fedveil_cli.key_terms_commands import read_terms

    terms = read_terms(key_file).terms
    if terms.key_id != plan.protection.key:
        named = f"the key {plan.protection.key}" if plan.protection.key else "no key: its protection is masked"
        raise ConfigError(
            "other_key",
            f"{str(key_file)!r} holds the terms of the key {terms.key_id}, and the plan names {named}",
            next_step="give the terms of the key in protection.key, or leave --key out",
        )
    return terms


def _cohort_value(figures: CohortFigures, terms: Terms | None) -> dict[str, Json]:
    told: list[Json] = [
        {
            "members": one.members,
            "coordinator": one.coordinator,
            "promised": one.within_bound,
            "group": one.group,
            "group_if_all_stay": one.full_group,
        }
        for one in exposure.telling(figures)
    ]
    return {
        "members": figures.members,
        "quorum": figures.quorum,
        "threshold": None if figures.encrypted else figures.threshold,
        "abort_threshold": figures.abort_threshold,
        "min_survivors": figures.min_survivors,
        "tolerated_drops": figures.may_drop,
        "openings_of_one_dealer": None if figures.encrypted else figures.openings,
        "ring_bits": figures.ring_bits,
        "single_update_from": exposure.single_from(figures, None if terms is None else terms.threshold),
        "coalitions": told,
    }


def _lines(
    plan: Plan,
    roster: KnownRoster,
    cohorts: Sequence[CohortFigures],
    statements: Sequence[Statement],
    terms: Terms | None,
) -> list[str | TextTable]:
    c = cohorts[0].corrupt
    columns = (
        "cohort",
        "in a sum",
        "may drop",
        "coordinator alone",
        f"and {c} member{'s' if c > 1 else ''}",
        "no promise from",
        "one update from",
        "one member alone",
    )
    shown = cohorts
    if len(cohorts) > SHOWN:
        last = len(cohorts) - 1
        shown = [cohorts[round(index * last / (SHOWN - 1))] for index in range(SHOWN)]
    rows = [
        (
            str(one.members),
            f"{one.min_survivors} or more",
            str(one.may_drop),
            f"sum of {exposure.coalition(one, 0, True).group}",
            f"sum of {exposure.coalition(one, c, True).group}",
            f"{c + 1} members",
            f"{exposure.single_from(one, None if terms is None else terms.threshold)} members",
            f"sum of {exposure.coalition(one, 1, False).group}",
        )
        for one in shown
    ]
    lines: list[str | TextTable] = [
        f"plan {plan.name}, {plan_hash(canonical(plan)).hex()}",
        f"for a roster of {roster.size} ({roster.origin}), c = {c}",
        "",
        "The smallest sums that somebody can come to know, for each size of a cohort:",
        "",
        TextTable(columns, rows),
    ]
    for topic, title in explaining.TOPICS.items():
        lines += ["", title, *(f"- {one.text}" for one in statements if one.topic == topic)]
    return lines
