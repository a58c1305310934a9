"""What a policy says to a plan, rule by rule. Pure.

Promise: every rule of a policy has its place here, and is either decided or said to be decided later: in each round,
against the manifest, before anything is sent for it (`checks`), or once the data was read. A refusal's words are this
organisation's own; the coordinator hears `policy_refused` and nothing else.
"""

import enum
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from fedveil_common import layout, noise, private_sum
from fedveil_common import plan as plans
from fedveil_common.errors import LocalRefusal, PeerError
from fedveil_common.ids import OrgId
from fedveil_common.masking import quorum, ring
from fedveil_common.messages import Purpose
from fedveil_common.plan import Count, Plan

from fedveil_participant.policy import hours, imprint
from fedveil_participant.policy.rules import Policy

SAID = "policy_refused"
"""All that the coordinator hears of a refusal."""

MONTH_SPENT = "month_spent"
"""The rule over a month: the only one that depends on what other runs did."""


@dataclass(frozen=True, slots=True)
class Facts:
    """What is known beside the plan, all of it this organisation's own; None: not known yet. `members`: who is in the
    roster, this organisation `me` among them. `rows`: what is left of the data set after all filters. `month_epsilon`:
    what the other runs of this month may spend of the data set. `input_bytes`: of the largest input of the plan.
    """

    me: OrgId | None = None
    members: tuple[OrgId, ...] | None = None
    rows: int | None = None
    month_epsilon: float | None = None
    input_bytes: int | None = None
    wall_s: float | None = None


class Verdict(enum.StrEnum):
    """What comes of a rule."""

    ALLOWED = "allowed"
    REFUSED = "refused"
    LATER = "later"


@dataclass(frozen=True, slots=True)
class Finding:
    """What one rule says: `asked` by the plan, `allowed` by the policy. `code` is stable."""

    code: str
    rule: str
    verdict: Verdict
    asked: str
    allowed: str


@dataclass(frozen=True, slots=True)
class Refusal:
    """A rule that the plan does not keep."""

    code: str
    rule: str
    asked: str
    allowed: str


def judge(policy: Policy, plan: Plan, facts: Facts) -> tuple[Refusal, ...]:
    """Every rule that the plan breaks; empty if it may be taken part in, as far as `facts` tell."""
    return tuple(
        Refusal(one.code, one.rule, one.asked, one.allowed)
        for one in examine(policy, plan, facts)
        if one.verdict is Verdict.REFUSED
    )


def refused(refusals: tuple[Refusal, ...]) -> LocalRefusal:
    """The refusals as one error, for this organisation's people."""
    listing = "\n".join(f"{one.rule}: the plan asks for {one.asked}, allowed is {one.allowed}" for one in refusals)
    count = "1 rule" if len(refusals) == 1 else f"{len(refusals)} rules"
    return LocalRefusal(
        "policy_refused",
        f"{count} of the policy refuse the plan\n{listing}\n",
        not_done="this organisation does not take part",
        next_step="`fedveil policy check PLAN` shows every rule; the policy is the organisation's own",
    )


def matches(pattern_hash: str, name: str, kind: str, plan: Plan, plan_hash: bytes) -> bool:
    """Whether a plan is one of those that a pattern names."""
    if pattern_hash:
        return pattern_hash == plan_hash.hex()
    return name in {"", plan.name} and kind in {"", str(plan.kind)}


def examine(policy: Policy, plan: Plan, facts: Facts) -> tuple[Finding, ...]:
    """What every rule that concerns this plan says, in the order of docs/policy.md."""
    return (
        *_plan(policy, plan),
        *_cohort(policy, plan, facts),
        *_privacy(policy, plan, facts),
        *_data(policy, plan, facts),
        *_model(policy, plan),
        *_resources(policy, plan, facts),
        *_hours(policy, facts),
    )


def input_bytes(plan: Plan, members: int) -> int | None:
    """Bytes of the largest masked input of the plan in a cohort of `members`; None under paillier, where the key says
    it, and where no ring is wide enough.
    """
    if plan.protection.key or members < 2:
        return None
    c = quorum.corrupt_bound(plan.cohort.max_corrupt, members)
    kinds = {
        (purpose, purpose is not Purpose.TRAIN or layout.evaluation_due(plan, step)): step
        for purpose, step in layout.sums(plan)
    }
    length = max(layout.layout_for(plan, purpose, step).length for (purpose, _), step in kinds.items())
    try:
        bits = private_sum.value_bits(plan, members, quorum.quorum(members, c), c)
        return -(-length * ring.smallest(members, bits, noise.coordinator_cap(plan)) // 8)
    except PeerError:
        return None


def _finding(code: str, rule: str, fits: bool | None, asked: str, allowed: str) -> Finding:
    verdict = Verdict.LATER if fits is None else Verdict.ALLOWED if fits else Verdict.REFUSED
    return Finding(code, rule, verdict, asked, allowed)


def _listed(names: Iterable[str]) -> str:
    return ", ".join(names) or "none"


def _plan(policy: Policy, plan: Plan) -> Iterator[Finding]:
    digest = plans.plan_hash(plans.canonical(plan))
    if policy.plans:
        fits = any(matches(one.hash, one.name, one.kind, plan, digest) for one in policy.plans)
        named = (one.hash or " ".join(filter(None, (one.kind, one.name))) for one in policy.plans)
        asked = f"the {plan.kind} plan {plan.name} ({digest.hex()})"
        yield _finding("plan_not_allowed", "plans", fits, asked, _listed(named))
    kind = plan.protection.kind
    fits = kind in policy.protections
    yield _finding("protection_not_allowed", "protections", fits, kind, _listed(policy.protections))


def _cohort(policy: Policy, plan: Plan, facts: Facts) -> Iterator[Finding]:
    rules = policy.cohort
    roster = None if facts.members is None else len(facts.members)
    enough = None if roster is None or roster >= rules.min_members else False
    sure = plan.cohort.min_participants
    yield _finding(
        "cohort_below_policy",
        "cohort.min_members",
        True if sure >= rules.min_members else enough,
        f"at least {sure} participants",
        f"at least {rules.min_members}",
    )
    yield _finding(
        "sum_below_policy",
        "cohort.min_survivors",
        None if roster is None or roster >= rules.min_survivors else False,
        "what a sum has",
        f"at least {rules.min_survivors} organisations",
    )
    corrupt = plan.cohort.max_corrupt
    if roster is not None:
        corrupt = quorum.corrupt_bound(corrupt, roster)
    fits = True if corrupt >= rules.corrupt else None if roster is None else False
    yield _finding("corrupt_below_policy", "cohort.corrupt", fits, f"{corrupt} corrupt", f"at least {rules.corrupt}")
    if rules.known:
        beside = None if facts.members is None else len(set(rules.known) & set(facts.members) - {facts.me})
        for code, rule, least in (
            ("too_few_known", "cohort.min_known", rules.min_known),
            ("too_few_known_in_sum", "cohort.min_known_survivors", rules.min_known_survivors),
        ):
            asked = "who is invited" if beside is None else f"{beside} of them in the roster"
            fits = False if beside is not None and beside < least else None
            yield _finding(code, rule, fits, asked, f"at least {least} of {_listed(rules.known)}")


def _privacy(policy: Policy, plan: Plan, facts: Facts) -> Iterator[Finding]:
    rules, privacy = policy.privacy, plan.privacy
    if privacy is None:
        allowed = "exact sums" if rules.exact_sums else "differential privacy only"
        yield _finding("exact_sums_refused", "privacy.exact_sums", rules.exact_sums, "exact sums", allowed)
        return
    yield _finding(
        "epsilon_above_policy",
        "privacy.max_epsilon",
        privacy.max_epsilon <= rules.max_epsilon,
        f"epsilon {privacy.max_epsilon:g}",
        f"at most {rules.max_epsilon:g}",
    )
    yield _finding(
        "delta_above_policy",
        "privacy.max_delta",
        privacy.delta <= rules.max_delta,
        f"delta {privacy.delta:g}",
        f"at most {rules.max_delta:g}",
    )
    fits = str(privacy.unit) in rules.units
    yield _finding("unit_not_allowed", "privacy.units", fits, str(privacy.unit), _listed(rules.units))
    fits = str(privacy.noise) in rules.noise
    yield _finding("noise_not_allowed", "privacy.noise", fits, f"noise of {privacy.noise}", _listed(rules.noise))
    data = policy.data.get(plan.data.dataset)
    if data is not None and data.epsilon_per_month is not None:
        spent, most = facts.month_epsilon, data.epsilon_per_month
        after = None if spent is None else spent + privacy.max_epsilon
        beside = "" if spent is None else f" beside {spent:g} of other runs of this month"
        yield _finding(
            MONTH_SPENT,
            f"data.{plan.data.dataset}.epsilon_per_month",
            after <= most if after is not None else None,
            f"epsilon {privacy.max_epsilon:g}{beside}",
            f"at most {most:g}",
        )


def _data(policy: Policy, plan: Plan, facts: Facts) -> Iterator[Finding]:
    name = plan.data.dataset
    rules = policy.data.get(name)
    yield _finding("dataset_not_allowed", "data", rules is not None, name, _listed(policy.data))
    if rules is None:
        return
    read = [feature.name for feature in plan.data.features]
    asked: list[tuple[str, str, tuple[str, ...] | None, list[str]]] = []
    if plan.statistics is None:
        asked.append(("feature_not_allowed", "features", rules.features, read))
        asked.append(("target_not_allowed", "targets", rules.targets, [plan.data.target.column]))
    else:
        about = [query.column for query in plan.statistics.queries if not isinstance(query, Count)]
        asked.append(("query_not_allowed", "queries", rules.queries, sorted({*about, *read})))
    if plan.data.person is not None:
        asked.append(("person_not_allowed", "persons", rules.persons, [plan.data.person]))
    for code, key, allowed, columns in asked:
        missing = [] if allowed is None else [column for column in columns if column not in allowed]
        yield _finding(
            code,
            f"data.{name}.{key}",
            not missing,
            f"the columns {_listed(missing or columns)}",
            "all columns" if allowed is None else _listed(allowed),
        )
    if plan.statistics is not None and plan.privacy is None:
        least = plan.statistics.min_cell
        fits = least >= policy.min_cell
        yield _finding(
            "min_cell_below_policy", "min_cell", fits, f"cells of {least} rows", f"at least {policy.min_cell}"
        )
    yield _finding(
        "rows_below_policy",
        f"data.{name}.min_rows",
        None if facts.rows is None else facts.rows >= rules.min_rows,
        "the rows after all filters" if facts.rows is None else f"{facts.rows} rows",
        f"at least {rules.min_rows}",
    )


def _model(policy: Policy, plan: Plan) -> Iterator[Finding]:
    if plan.statistics is not None:
        return
    rules, model = policy.models, plan.model
    fits = str(model.kind) in rules.kinds
    yield _finding("model_not_allowed", "models.kinds", fits, str(model.kind), _listed(rules.kinds))
    if model.trainer:
        fits = model.trainer in rules.trainers
        yield _finding("trainer_not_allowed", "models.trainers", fits, model.trainer, _listed(rules.trainers))
    many = layout.parameter_count(plan)
    yield _finding(
        "model_too_large",
        "models.max_parameters",
        many <= rules.max_parameters,
        f"{many} parameters",
        f"at most {rules.max_parameters}",
    )
    deep = len(model.hidden)
    yield _finding(
        "too_many_layers",
        "models.max_hidden_layers",
        deep <= rules.max_hidden_layers,
        f"{deep} hidden layers",
        f"at most {rules.max_hidden_layers}",
    )
    data = policy.data.get(plan.data.dataset)
    sure = max(plan.data.min_rows, 0 if data is None else data.min_rows)
    wide = imprint.too_wide(plan, rules, sure)
    units, most = wide or (model.hidden[0] if model.hidden else 0, 0)
    yield _finding(
        "imprint_layer",
        "models.first_layer",
        wide is None,
        f"a first hidden layer of {units} units" if units else "no hidden layer",
        f"at most {most} units over {plan.data.inputs} inputs and {sure} rows" if wide else str(rules.first_layer),
    )


def _resources(policy: Policy, plan: Plan, facts: Facts) -> Iterator[Finding]:
    rules, rounds = policy.resources, rounds_of(plan)
    if rules.max_rounds is not None:
        fits = rounds <= rules.max_rounds
        yield _finding("too_many_rounds", "resources.max_rounds", fits, f"{rounds}", f"at most {rules.max_rounds}")
    if rules.max_bytes_per_round is not None:
        size = facts.input_bytes
        yield _finding(
            "too_many_bytes",
            "resources.max_bytes_per_round",
            None if size is None else size <= rules.max_bytes_per_round,
            "the size of an input" if size is None else f"an input of {size} bytes",
            f"at most {rules.max_bytes_per_round}",
        )
    if rules.max_seconds_per_round is not None:
        limit = plan.cohort.hard_limit_s
        fits = limit <= rules.max_seconds_per_round
        allowed = f"at most {rules.max_seconds_per_round:g} s"
        yield _finding("round_too_long", "resources.max_seconds_per_round", fits, f"{limit:g} s", allowed)


def _hours(policy: Policy, facts: Facts) -> Iterator[Finding]:
    """Outside of the hours a plan waits; it is not refused."""
    rules = policy.hours
    if rules is not None:
        now = facts.wall_s is not None and hours.within(rules, facts.wall_s)
        span = f"{hours.clock_text(rules.start)} to {hours.clock_text(rules.end)} {rules.zone}"
        yield _finding("outside_hours", "hours", now or None, "inputs at any time", span)


def rounds_of(plan: Plan) -> int:
    """How many sums a run of the plan opens at most."""
    return len(layout.sums(plan)) + layout.needs_standardise(plan)
