"""What a person is shown who must decide about a plan: everything that follows from it, the gravest first.

Promise: nothing is left out or cut. Protection, epsilon, columns and rounds come first. What a text of somebody else
says (names, purposes) is escaped: it can neither hide nor move what a person decides upon. Every figure comes from the
functions that the rounds refuse by.
"""

from collections.abc import Sequence
from datetime import UTC, datetime

from fedveil_common import layout, private_sum
from fedveil_common import plan as plans
from fedveil_common.dp import budget
from fedveil_common.jcs import Json
from fedveil_common.plan import Count, Plan
from fedveil_common.plan.problems import printable

from fedveil_participant.approval.binding import Binding
from fedveil_participant.approval.difference import Change
from fedveil_participant.policy import Finding
from fedveil_participant.policy.judging import rounds_of
from fedveil_participant.state import LifetimeLimit

_STATED = ("purpose", "controller", "legal_basis", "contact", "retention_days")


def protection(plan: Plan) -> str:
    """How an input is hidden."""
    key = plan.protection.key
    return f"paillier, key {key}" if key else "masked"


def privacy(plan: Plan) -> dict[str, Json]:
    """What differential privacy there is."""
    found = plan.privacy
    if found is None:
        return {"kind": "none", "epsilon": None}
    person = f" (column {plan.data.person})" if plan.data.person is not None else ""
    return {
        "kind": "differential",
        "epsilon": found.max_epsilon,
        "epsilon_of_first_sum": private_sum.spent(plan, found, 1),
        "delta": found.delta,
        "unit": f"{found.unit}{person}",
        "noise": str(found.noise),
    }


def columns(plan: Plan) -> dict[str, Json]:
    """Which columns are read, and as what; nothing else of the table is."""
    read: dict[str, Json] = {"features": [feature.name for feature in plan.data.features]}
    if plan.statistics is None:
        read["target"] = plan.data.target.column
    else:
        asked = [query.column for query in plan.statistics.queries if not isinstance(query, Count)]
        read["queries"] = sorted(set(asked))
    if plan.data.person is not None:
        read["person"] = plan.data.person
    return read


def leaves(plan: Plan, input_bytes: int | None) -> dict[str, Json]:
    """What leaves this organisation, and how much of it."""
    sums = rounds_of(plan)
    if plan.privacy is not None:
        sums = min(sums, private_sum.sums_allowed(plan, plan.privacy) + layout.needs_standardise(plan))
    what = "answers to the questions" if plan.statistics is not None else "an update of the model, with measures"
    return {
        "what": f"{what}, as one vector of {_length(plan)} numbers that only a sum over the cohort opens",
        "sums": sums,
        "bytes_of_an_input": input_bytes,
        "bytes_in_all": None if input_bytes is None else input_bytes * sums,
    }


def left(ledger: budget.Ledger, limit: LifetimeLimit | None) -> dict[str, Json]:
    """What is left of the data set's own limit over all runs."""
    if limit is None:
        return {"limit": None, "spent": None, "left": None}
    spent = ledger.lifetime().lifetime_epsilon(limit.delta)
    return {
        "limit": limit.max_epsilon,
        "delta": limit.delta,
        "spent": spent,
        "left": max(0.0, limit.max_epsilon - spent),
    }


def value(
    canonical: bytes,
    plan: Plan,
    binding: Binding,
    runs: Sequence[dict[str, Json]],
    findings: Sequence[Finding],
    input_bytes: int | None,
    budget_left: dict[str, Json],
    earlier: tuple[str, Sequence[Change]] | None,
    said: Sequence[str],
) -> dict[str, Json]:
    """All that is shown about a plan. `earlier`: the hash of the version before, and what changed. `said`: what people
    have said to it so far.
    """
    stated: dict[str, Json] = {name: getattr(plan, name) for name in _STATED if getattr(plan, name) is not None}
    rounds = rounds_of(plan)
    return {
        "plan_hash": plans.plan_hash(canonical).hex(),
        "protection": protection(plan),
        "privacy": privacy(plan),
        "columns": columns(plan),
        "rounds": rounds,
        "name": plan.name,
        "kind": str(plan.kind),
        "dataset": plan.data.dataset,
        "min_rows": plan.data.min_rows,
        "model": None if plan.statistics is not None else _model(plan),
        "cohort": {"min_participants": plan.cohort.min_participants, "max_corrupt": plan.cohort.max_corrupt},
        "leaves": leaves(plan, input_bytes),
        "lasts": {"seconds_of_a_round_at_most": plan.cohort.hard_limit_s, "rounds": rounds},
        "budget": budget_left,
        "stated": stated,
        "policy": [
            {
                "rule": one.rule,
                "code": one.code,
                "verdict": str(one.verdict),
                "asked": one.asked,
                "allowed": one.allowed,
            }
            for one in findings
        ],
        "runs": list(runs),
        "said": list(said),
        "earlier": None
        if earlier is None
        else {
            "plan_hash": earlier[0],
            "changes": [{"field": one.field, "before": one.before, "after": one.after} for one in earlier[1]],
        },
        "bound_to": dict(binding.facts()),
    }


def lines(shown: dict[str, Json]) -> list[str]:
    """The same for people: one line each, and nothing in it that a terminal would obey."""
    found = [f"plan {shown['plan_hash']}", f"protection: {shown['protection']}"]
    private = _mapping(shown["privacy"])
    if private["kind"] == "none":
        found.append("epsilon: none, the sums are exact: no differential privacy")
    else:
        found.append(
            f"epsilon: {private['epsilon']:g} at delta {private['delta']:g}, of each {private['unit']}; "
            f"{private['epsilon_of_first_sum']:.3g} for the first sum; noise by {private['noise']}"
        )
    read = _mapping(shown["columns"])
    for name, columns_read in read.items():
        names = columns_read if isinstance(columns_read, list) else [columns_read]
        found.append(f"columns read ({name}): {', '.join(map(str, names)) or 'none'}")
    found.append(f"rounds: {shown['rounds']}")
    found.append(
        f"name: {shown['name']} ({shown['kind']}), data set {shown['dataset']}, {shown['min_rows']} rows or more"
    )
    if shown["model"] is not None:
        found.append(f"model: {shown['model']}")
    cohort, leaving, lasting = (_mapping(shown[key]) for key in ("cohort", "leaves", "lasts"))
    found.append(f"cohort: {cohort['min_participants']} or more, {cohort['max_corrupt']} of them corrupt at most")
    size = leaving["bytes_of_an_input"]
    many = (
        "how many bytes is the key's choice" if size is None else f"{size} bytes each, {leaving['bytes_in_all']} in all"
    )
    found.append(f"leaves: {leaving['what']}; up to {leaving['sums']} times, {many}")
    found.append(f"lasts: {lasting['rounds']} rounds of at most {lasting['seconds_of_a_round_at_most']:g} s each")
    spent = _mapping(shown["budget"])
    if spent["limit"] is None:
        found.append(f"budget: no limit is set for {shown['dataset']} (fedveil budget set)")
    else:
        found.append(f"budget: {spent['left']:.4g} left of {spent['limit']:g} at delta {spent['delta']:g}")
    found += [f"stated {name.replace('_', ' ')}: {text}" for name, text in _mapping(shown["stated"]).items()]
    found += [
        f"policy {one['verdict']}: {one['rule']}: asked {one['asked']}; allowed {one['allowed']}"
        for one in _mappings(shown["policy"])
    ]
    if not shown["policy"]:
        found.append("policy: none; every plan waits for a person")
    found += [f"run {one['run']}: {one['state']}, offered {one['since']}" for one in _mappings(shown["runs"])]
    found += [str(one) for one in _list(shown["said"])]
    if shown["earlier"] is None:
        found.append("no earlier version of a plan of this name was approved or run here")
    else:
        earlier = _mapping(shown["earlier"])
        found.append(f"against the earlier version {earlier['plan_hash']}:")
        found += [
            f"  {one['field']}: {one['before'] or 'not there'} -> {one['after'] or 'not there'}"
            for one in _mappings(earlier["changes"])
        ]
    found += [f"bound to {name}: {digest}" for name, digest in _mapping(shown["bound_to"]).items()]
    return [printable(line) for line in found]


def instant(wall_s: float) -> str:
    """An instant for people, in UTC."""
    return datetime.fromtimestamp(wall_s, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _length(plan: Plan) -> int:
    return layout.first(plan).length


def _model(plan: Plan) -> str:
    model = plan.model
    if model.trainer:
        return f"own trainer {model.trainer}, {model.parameters} parameters"
    hidden = f", hidden layers {', '.join(map(str, model.hidden))}" if model.hidden else ""
    return f"{model.kind}{hidden}, {layout.parameter_count(plan)} parameters"


def _mapping(found: Json) -> dict[str, Json]:
    assert isinstance(found, dict), "made by `value`"
    return found


def _list(found: Json) -> list[Json]:
    assert isinstance(found, list), "made by `value`"
    return found


def _mappings(found: Json) -> list[dict[str, Json]]:
    return [_mapping(one) for one in _list(found)]
