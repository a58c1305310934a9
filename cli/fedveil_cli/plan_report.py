"""`plan check`: what a plan says, its hash, and whether so many participants can ever open a sum under it.

The order is that of a person who must decide: protection and privacy first, then what is read, then the rest.
"""

import pathlib

from fedveil_common.errors import ConfigError, PeerError
from fedveil_common.jcs import Json
from fedveil_common.layout import parameter_count
from fedveil_common.masking import quorum
from fedveil_common.plan import (
    BinaryTarget,
    CategoryTarget,
    FloatFeature,
    FloatTarget,
    Plan,
    canonical,
    check_release,
    parse_plan,
    plan_hash,
)

from fedveil_cli.files import MAX_PLAN, read_file
from fedveil_cli.output import Output, TextTable

MIN_SURVIVORS = 3
"""A sum of fewer inputs is never opened (plan file, cohort.min_participants)."""


def check(path: pathlib.Path, participants: int | None, output: Output) -> None:
    """Prints the report on the plan in `path`.

    Raises PlanError (`bad_plan`) with every problem, NotInThisReleaseError, ConfigError `file_unreadable`; with
    `participants` also ConfigError `cohort_never_possible`, after the report.
    """
    plan = parse_plan(read_file(path, "the plan", MAX_PLAN), str(path))
    check_release(plan)
    figures = None if participants is None else _figures(plan, participants)
    output.result(_value(plan, figures), _text(plan, figures))
    if figures is not None and figures["can_start"] is False:
        raise ConfigError(
            "cohort_never_possible",
            f"with {participants} participants this plan can never open a sum: {figures['why_not']}",
            next_step="enrol more organisations, or change cohort.max_corrupt or cohort.min_participants",
        )


def _figures(plan: Plan, participants: int) -> dict[str, Json]:
    """c, quorum and the rest for a roster of `participants`, all of whom take part."""
    c = quorum.corrupt_bound(plan.cohort.max_corrupt, participants)
    least = smallest_cohort(plan, participants)
    why_not = None
    if least is None:
        fewer = participants < plan.cohort.min_participants
        needed = f"the plan asks for at least {plan.cohort.min_participants}"
        why_not = needed if fewer else _why_not(min(participants, quorum.MAX_COHORT), c)
    q = quorum.quorum(participants, c)
    return {
        "participants": participants,
        "max_corrupt": c,
        "quorum": q,
        "abort_threshold": quorum.abort_threshold(participants, c),
        "min_survivors": max(q, MIN_SURVIVORS),
        "tolerated_drops": max(participants - max(q, MIN_SURVIVORS), 0),
        "honest_in_sum": q - c,
        "smallest_cohort": least,
        "can_start": least is not None,
        "why_not": why_not,
    }


def smallest_cohort(plan: Plan, participants: int) -> int | None:
    """The fewest of a roster of `participants` who can open a sum under `plan`; None if no number of them can."""
    c = quorum.corrupt_bound(plan.cohort.max_corrupt, participants)
    possible = range(plan.cohort.min_participants, min(participants, quorum.MAX_COHORT) + 1)
    return next((n for n in possible if _why_not(n, c) is None), None)


def _why_not(n: int, c: int) -> str | None:
    """Why a cohort of `n` with bound `c` opens nothing; None if it does."""
    q = quorum.quorum(n, c)
    try:
        quorum.check_parameters(n, c, q, q, max(q, MIN_SURVIVORS), local_c=c)
    except PeerError as error:
        return error.what
    return None


def _value(plan: Plan, figures: dict[str, Json] | None) -> dict[str, Json]:
    value: dict[str, Json] = {
        "name": plan.name,
        "plan_hash": plan_hash(canonical(plan)).hex(),
        "kind": plan.kind.value,
        "protection": {
            "kind": plan.protection.kind,
            "value_bits": plan.protection.value_bits,
            "update_norm": plan.protection.update_norm,
        },
        "privacy": plan.privacy,
        "dataset": plan.data.dataset,
        "columns": [{"name": name, "use": use, "values": values} for name, use, values in _columns(plan)],
        "min_rows": plan.data.min_rows,
        "standardise": plan.data.standardise.value,
        "model": plan.model.kind.value,
        "parameters": parameter_count(plan),
        "strategy": plan.strategy.kind,
        "rounds": plan.training.rounds,
        "cohort": {
            "min_participants": plan.cohort.min_participants,
            "max_corrupt": plan.cohort.max_corrupt,
            "wait_s": plan.cohort.wait_s,
            "progress_s": plan.cohort.progress_s,
            "hard_limit_s": plan.cohort.hard_limit_s,
        },
    }
    statements = _statements(plan)
    return value | ({"statements": dict(statements)} if statements else {}) | ({"figures": figures} if figures else {})


def _text(plan: Plan, figures: dict[str, Json] | None) -> list[str | TextTable]:
    bits = plan.protection.value_bits
    lines: list[str | TextTable] = [
        f"plan        {plan.name}",
        f"plan hash   {plan_hash(canonical(plan)).hex()}",
        f"protection  {plan.protection.kind}: {bits} bits a value, update norm {plan.protection.update_norm:g}",
        f"privacy     {plan.privacy}: coordinator and participants see the exact sum of every round",
        f"rounds      {plan.training.rounds}, strategy {plan.strategy.kind}",
        f"model       {_model(plan)}, {parameter_count(plan)} parameters",
        f"data set    {plan.data.dataset}, at least {plan.data.min_rows} rows each, "
        f"standardise {plan.data.standardise.value}",
        f"cohort      at least {plan.cohort.min_participants}, {plan.cohort.max_corrupt} or more assumed corrupt",
    ]
    lines += [f"{name:<11} {text}" for name, text in _statements(plan).items()]
    if figures is not None:
        who = f"of {figures['participants']}"
        start = f"{figures['smallest_cohort']} can start" if figures["can_start"] else "can never start"
        lines.append(
            f"{who:<11} c {figures['max_corrupt']}, quorum {figures['quorum']}, at least {figures['min_survivors']} in "
            f"a sum, of whom {figures['honest_in_sum']} honest; {figures['tolerated_drops']} may drop; {start}"
        )
    return [*lines, "", TextTable(("column", "use", "values"), _columns(plan))]


def _model(plan: Plan) -> str:
    if plan.model.trainer:
        return f"trainer {plan.model.trainer}: each organisation's own code of that name"
    hidden = f" of {', '.join(map(str, plan.model.hidden))} hidden units" if plan.model.hidden else ""
    return plan.model.kind.value + hidden


def _columns(plan: Plan) -> list[tuple[str, str, str]]:
    """Everything that is read: (column, use, permitted values)."""
    rows: list[tuple[str, str, str]] = []
    for feature in plan.data.features:
        match feature:
            case FloatFeature(lo=lo, hi=hi):
                rows.append((feature.name, "feature", f"{lo:g} to {hi:g}{', clamped' if feature.clamp else ''}"))
            case _:
                rows.append((feature.name, "feature", ", ".join(feature.values)))
    match plan.data.target:
        case BinaryTarget(column=column, positive=positive):
            rows.append((column, "target", f"1 where {positive}"))
        case CategoryTarget(column=column, values=values):
            rows.append((column, "target", ", ".join(values)))
        case FloatTarget(column=column, lo=lo, hi=hi):
            rows.append((column, "target", f"{lo:g} to {hi:g}"))
    if plan.data.person is not None:
        rows.append((plan.data.person, "person", "splits the holdout; never trained on"))
    return rows


def _statements(plan: Plan) -> dict[str, Json]:
    """What the plan states for people and records, where it does."""
    stated: dict[str, Json] = {
        "purpose": plan.purpose,
        "controller": plan.controller,
        "legal_basis": plan.legal_basis,
        "contact": plan.contact,
        "retention_days": plan.retention_days,
    }
    return {name: value for name, value in stated.items() if value is not None}
