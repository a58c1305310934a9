"""A plan as text, as value and as canonical bytes; only the canonical bytes travel and are hashed.

Promise: `parse_canonical(canonical(p)) == p`, and `parse_canonical` accepts a byte string exactly when it is the
canonical form of a plan, so a hash approved by a person names one plan. The canonical form is RFC 8785 JSON with the
defaults of the plan's version written out and `model.initial` filled in; optional fields stand only when set;
features are a list, because their order is the order of the model's inputs. Nothing in it depends on the roster.
"""

import hashlib
from dataclasses import replace

from fedveil_common import initial, jcs
from fedveil_common.errors import ConfigError, PeerError
from fedveil_common.plan import parameters, spec, statistics_plans
from fedveil_common.plan.problems import NotInThisReleaseError, PlanError, printable
from fedveil_common.plan.reading import RELEASES, read_plan
from fedveil_common.plan.section import Findings
from fedveil_common.plan.yaml_tree import MAX_BYTES, json_tree, read_tree


def parse_plan(text: bytes, filename: str) -> spec.Plan:
    """The plan in a YAML file. `filename` is used in messages only.

    Raises PlanError (`bad_plan`, every problem with its line) if anything is wrong, else NotInThisReleaseError naming
    every field that this release lacks.
    """
    findings = Findings()
    root = read_tree(text, findings.problems)
    if root is None:
        raise PlanError(filename, tuple(findings.problems))
    plan = read_plan(root, findings)
    if findings.problems:
        raise PlanError(filename, (*findings.problems, *findings.later))
    if findings.later:
        named = tuple(f"line {p.line}: {p.path}" for p in findings.later)
        raise NotInThisReleaseError(named, tuple(RELEASES[p.path] for p in findings.later), filename)
    return plan


def parse_canonical(data: bytes) -> spec.Plan:
    """The plan in canonical bytes as they were received.

    Raises PeerError `bad_plan` unless `data` is the canonical form of a valid plan; NotInThisReleaseError if it asks
    for what this release lacks.
    """
    if len(data) > MAX_BYTES:
        raise _not_canonical(f"{len(data)} bytes; at most {MAX_BYTES} are possible")
    try:
        root = json_tree(jcs.loads(data))
    except ValueError as error:
        raise _not_canonical(f"not JSON of one meaning ({type(error).__name__})") from None
    findings = Findings()
    plan = read_plan(root, findings)
    if findings.problems:
        paths = ", ".join(sorted({printable(problem.path) for problem in findings.problems})[:20])
        raise _not_canonical(f"problems at {paths}")
    if findings.later:
        fields = tuple(problem.path for problem in findings.later)
        raise NotInThisReleaseError(fields, tuple(RELEASES[field] for field in fields))
    if canonical(plan) != data:
        raise _not_canonical("its bytes are not the canonical form of what they say")
    return plan


def canonical(plan: spec.Plan) -> bytes:
    """The canonical bytes of `plan`. Raises ConfigError `bad_plan` if `model.initial` is not its first model's hash; of
    a plan that continues runs only their sums can tell.
    """
    if (
        plan.statistics is None
        and not plan.continues
        and plan.model.initial != initial.initial_hash(plan.training.seed, parameters.layers(plan.model, plan.data))
    ):
        raise ConfigError("bad_plan", "model.initial is not the hash of the first model of this plan")
    return jcs.dumps(_plan(plan))


def plan_hash(canonical_plan: bytes) -> bytes:
    """SHA-256 of the canonical bytes: what organisations approve."""
    return hashlib.sha256(canonical_plan).digest()


def with_seed(plan: spec.Plan, seed: int) -> spec.Plan:
    """A training plan with another training.seed (0..2^53-1) and the first model that follows from it; it continues
    nothing.
    """
    first = initial.initial_hash(seed, parameters.layers(plan.model, plan.data))
    training, model = replace(plan.training, seed=seed), replace(plan.model, initial=first)
    return replace(plan, training=training, model=model, continues=())


def features(data: spec.DataSpec) -> list[jcs.Json]:
    """The features, in order, as they stand in the canonical plan."""
    return [_feature(feature) for feature in data.features]


def _plan(plan: spec.Plan) -> dict[str, jcs.Json]:
    data: dict[str, jcs.Json] = {
        "dataset": plan.data.dataset,
        "features": features(plan.data),
        "min_rows": plan.data.min_rows,
    }
    what: dict[str, jcs.Json]
    if plan.statistics is not None:
        what = {"statistics": statistics_plans.canonical(plan.statistics)}
    else:
        data |= {"target": _target(plan.data.target), "standardise": plan.data.standardise.value}
        what = {"model": _model(plan.model), "training": _training(plan), "strategy": _strategy(plan.strategy)}
    if plan.data.person is not None:
        data["person"] = plan.data.person
    members: dict[str, jcs.Json] = {
        "version": plan.version,
        "name": plan.name,
        "kind": plan.kind.value,
        "data": data,
        **what,
        "cohort": {
            "min_participants": plan.cohort.min_participants,
            "max_corrupt": plan.cohort.max_corrupt,
            "wait_s": plan.cohort.wait_s,
            "progress_s": plan.cohort.progress_s,
            "hard_limit_s": plan.cohort.hard_limit_s,
        },
        "protection": _protection(plan),
        "privacy": privacy(plan),
    }
    optional: dict[str, jcs.Json] = {
        "evaluation": _evaluation(plan.evaluation) if plan.evaluation.metrics else None,
        "purpose": plan.purpose,
        "controller": plan.controller,
        "legal_basis": plan.legal_basis,
        "contact": plan.contact,
        "retention_days": plan.retention_days,
    }
    if plan.continues:
        optional["continues"] = [{"run": leg.run, "steps": leg.steps} for leg in plan.continues]
    return members | {key: value for key, value in optional.items() if value is not None}


def _feature(feature: spec.Feature) -> dict[str, jcs.Json]:
    members: dict[str, jcs.Json]
    match feature:
        case spec.FloatFeature():
            members = {
                "name": feature.name,
                "type": "float",
                "range": [feature.lo, feature.hi],
                "clamp": feature.clamp,
            }
        case spec.CategoryFeature():
            members = {"name": feature.name, "type": "category", "values": list(feature.values)}
    match feature.missing:
        case spec.Missing.ERROR:
            pass
        case spec.Missing.VALUE:
            members["missing"] = feature.fill
        case spec.Missing.MEAN | spec.Missing.DROP:
            members["missing"] = feature.missing.value
    return members


def _target(target: spec.Target) -> dict[str, jcs.Json]:
    match target:
        case spec.BinaryTarget():
            return {"column": target.column, "type": "binary", "positive": target.positive}
        case spec.FloatTarget():
            return {"column": target.column, "type": "float", "range": [target.lo, target.hi]}
        case spec.CategoryTarget():
            return {"column": target.column, "type": "category", "values": list(target.values)}


def _model(model: spec.ModelSpec) -> dict[str, jcs.Json]:
    members: dict[str, jcs.Json] = {"kind": model.kind.value, "l2": model.l2, "initial": model.initial}
    if model.hidden:
        members["hidden"] = list(model.hidden)
    if model.kind is spec.ModelKind.TRAINER:
        del members["l2"]
        members |= {"name": model.trainer, "parameters": model.parameters}
    return members


def _training(plan: spec.Plan) -> dict[str, jcs.Json]:
    training = plan.training
    members: dict[str, jcs.Json] = {
        "rounds": training.rounds,
        "learning_rate": training.learning_rate,
        "seed": training.seed,
    }
    if plan.privacy is not None and plan.privacy.unit is spec.Unit.RECORD:  # a step is one sum, the rest means nothing
        return members
    members |= {
        "local_epochs": training.local_epochs,
        "batch_size": training.batch_size,
        "proximal_mu": training.proximal_mu,
    }
    if plan.privacy is not None:  # nobody's rows are counted
        return members
    return members | {"weight": training.weight.value, "weight_cap": training.weight_cap}


def privacy(plan: spec.Plan) -> jcs.Json:
    """The privacy block as it stands in the canonical plan."""
    privacy = plan.privacy
    if privacy is None:
        return "none"
    if plan.statistics is not None:
        laplace: dict[str, jcs.Json] = {"mechanism": privacy.mechanism.value}
        return (laplace if privacy.mechanism is spec.NoiseKind.LAPLACE else {}) | {
            "unit": privacy.unit.value,
            "rows": privacy.rows,
            "noise": privacy.noise.value,
            "noise_multiplier": privacy.noise_multiplier,
            "delta": privacy.delta,
            "max_epsilon": privacy.max_epsilon,
        }
    record: dict[str, jcs.Json] = {"rows": privacy.rows, "sample_rate": privacy.sample_rate}
    adaptive: dict[str, jcs.Json] = {}
    if privacy.adaptive is not None:
        adaptive["adaptive_clip"] = {"quantile": privacy.adaptive.quantile, "rate": privacy.adaptive.rate}
    return (record if privacy.unit is spec.Unit.RECORD else adaptive) | {
        "unit": privacy.unit.value,
        "noise": privacy.noise.value,
        "clip_norm": privacy.clip_norm,
        "noise_multiplier": privacy.noise_multiplier,
        "delta": privacy.delta,
        "max_epsilon": privacy.max_epsilon,
    }


def _evaluation(evaluation: spec.EvaluationSpec) -> dict[str, jcs.Json]:
    members: dict[str, jcs.Json] = {
        "every": evaluation.every,
        "metrics": [metric.value for metric in evaluation.metrics],
        "holdout": evaluation.holdout,
    }
    if evaluation.loss_cap:
        members["loss_cap"] = evaluation.loss_cap
    if evaluation.stop is not None:
        members["stop"] = {"patience": evaluation.stop.patience, "min_delta": evaluation.stop.min_delta}
    return members


def _protection(plan: spec.Plan) -> dict[str, jcs.Json]:
    protection = plan.protection
    members: dict[str, jcs.Json] = {"kind": protection.kind, "value_bits": protection.value_bits}
    if plan.statistics is None:
        members["update_norm"] = protection.update_norm
    return members | ({"key": protection.key} if protection.key else {})


def _strategy(strategy: spec.Strategy) -> dict[str, jcs.Json]:
    match strategy:
        case spec.StrategySpec(kind=kind):
            return {"kind": kind}
        case spec.MomentumSpec(kind=kind, learning_rate=rate, momentum=momentum):
            return {"kind": kind, "learning_rate": rate, "momentum": momentum}
        case spec.AdaptiveSpec(kind=kind, learning_rate=rate, beta1=beta1, beta2=beta2, tau=tau):
            members: dict[str, jcs.Json] = {"kind": kind, "learning_rate": rate, "beta1": beta1, "tau": tau}
            return members if beta2 is None else members | {"beta2": beta2}


def _not_canonical(why: str) -> PeerError:
    return PeerError(
        "bad_plan",
        f"the plan that was received is not in canonical form: {why}",
        not_done="the plan was not shown for approval and nothing was run",
        next_step="the sender must send the canonical bytes of a valid plan",
    )
