"""From a tree to a `Plan`: types, limits, defaults of version 1, and the relations between fields.

Promise: all problems at once; a field that belongs to a later release is named as such (`not_in_this_release`), never
ignored and never taken for a typing error. Source: the plan file's annotations, FLSA/1 2.5.5, A1, A2, A6, A17.
"""

import re
from collections.abc import Mapping
from dataclasses import replace

from fedveil_common import initial
from fedveil_common.plan import parameters, private_plans, spec, statistics_plans
from fedveil_common.plan.section import Findings, Section
from fedveil_common.plan.yaml_tree import Fields, Node, Scalar

MAX_FEATURES = 10_000
MAX_INPUTS = 1_000_000
MAX_CLASSES = 10_000
MAX_HIDDEN = (16, 100_000)
"""Hidden layers of a model, and units of one."""
MAX_PARAMETERS = 10_000_000
"""Parameters of a model: whoever reads a plan draws its first model."""
STRATEGIES = ("fedavg", "fedavgm", "fedadam", "fedyogi", "fedadagrad")
MIN_TAU = 1e-9
"""Its square must be a normal float32."""
MAX_LEGS = 64
"""Earlier runs that a plan goes on from: whoever takes part walks all their sums."""
MAX_COHORT = 256
MAX_VALUE_BITS = 48
"""With it 256 participants at full scale stay below 2^31: the ring of this release cannot wrap."""

RELEASES: Mapping[str, str] = {
    "version": "a later release",
    "kind": "a later release",
    "model.kind": "release 0.2",
    "strategy.kind": "a later release",
    "protection.kind": "a later release",
    "protection.value_bits": "a later release",
    "privacy.unit": "a later release",
    "privacy.noise": "a later release",
    "privacy.adaptive_clip": "a later release",
    "evaluation": "a later release",
    "continues": "a later release",
}
"""Field -> what brings the values of it that this release lacks, as for commands (`fedveil_cli.reserved`)."""


_HASH = re.compile(r"[0-9a-f]{64}\Z")


def read_plan(root: Node, findings: Findings) -> spec.Plan:
    """The plan in `root`; meaningful only if `findings` stayed empty."""
    top = Section(root, "", 1, findings)
    version = top.integer("version", 1)
    if version > 1:
        _not_yet(findings, top.line_of("version"), "version", f"version {version} of the plan file")
    name = top.name("name")
    kind = top.choice("kind", ("train", "statistics"))
    statistics = kind == "statistics"
    data = _data(top.section("data"), statistics)
    cohort = _cohort(top.section("cohort"))
    protection = _protection(top.section("protection"), _default_bits(top, statistics), statistics)
    privacy = _privacy(top, statistics)
    if statistics:
        plan = spec.Plan(
            version=1,
            name=name,
            kind=spec.Kind.STATISTICS,
            data=data,
            model=statistics_plans.NO_MODEL,
            training=statistics_plans.NO_TRAINING,
            strategy=statistics_plans.NO_STRATEGY,
            evaluation=statistics_plans.NO_EVALUATION,
            cohort=cohort,
            protection=protection,
            privacy=privacy,
            statistics=statistics_plans.read(top.section("statistics"), data, protection),
        )
        return private_plans.settled(_stated(top, plan), top)
    model, initial_line = _model(top.section("model"), data)
    training = _training(top.section("training"), protection, privacy)
    plan = spec.Plan(
        version=1,
        name=name,
        kind=spec.Kind.TRAIN,
        data=data,
        model=model,
        training=training,
        strategy=_strategy(top.section("strategy", required=False)),
        evaluation=_evaluation(top, data.target, privacy),
        cohort=cohort,
        protection=protection,
        privacy=privacy,
        continues=_continues(top),
    )
    plan = private_plans.settled(_stated(top, plan), top)
    if findings.problems or findings.later:
        return plan
    return _with_initial(plan, initial_line, findings)


def _stated(top: Section, plan: spec.Plan) -> spec.Plan:
    """`plan` with what it states for people and records. Nothing else is left in the file."""
    plan = replace(
        plan,
        purpose=top.prose("purpose"),
        controller=top.prose("controller"),
        legal_basis=top.prose("legal_basis"),
        contact=top.prose("contact"),
        retention_days=top.integer("retention_days", 1, 36_500) if top.has("retention_days") else None,
    )
    top.close()
    return plan


def _not_yet(findings: Findings, line: int, path: str, what: str) -> None:
    findings.not_yet(line, path, what, RELEASES[path])


def _with_initial(plan: spec.Plan, line: int, findings: Findings) -> spec.Plan:
    """`plan` with the hash of its first model; a value that a person wrote must be that hash.

    A plan that continues earlier runs must name it: it follows from their sums, which are not here.
    """
    if plan.continues:
        if not _HASH.match(plan.model.initial):
            findings.wrong(line, "model.initial", "initial_model", "a plan that continues runs names its first model")
        return plan
    expected = initial.initial_hash(plan.training.seed, parameters.layers(plan.model, plan.data))
    if plan.model.initial not in {"", expected}:
        findings.wrong(
            line, "model.initial", "initial_model", "not the hash of the first model of this plan; leave the field out"
        )
    return replace(plan, model=replace(plan.model, initial=expected))


def _continues(top: Section) -> tuple[spec.Leg, ...]:
    if not top.has("continues"):
        return ()
    line, legs = top.line_of("continues"), []
    for node in top.items("continues"):
        section = Section(node, "continues", line, top.findings)
        legs.append(spec.Leg(section.name("run"), section.integer("steps", 1, 100_000)))
        section.close()
    if not 1 <= len(legs) <= MAX_LEGS:
        top.findings.wrong(line, "continues", "range", f"{len(legs)} earlier runs; 1 to {MAX_LEGS} are possible")
    if len({leg.run for leg in legs}) != len(legs):
        top.findings.wrong(line, "continues", "value_twice", "a run is listed twice")
    return tuple(legs)


# --- data -------------------------------------------------------------------------------------------------------------


def _data(section: Section, statistics: bool) -> spec.DataSpec:
    findings = section.findings
    dataset = section.name("dataset")
    features = _features(section)
    target = statistics_plans.NO_TARGET if statistics else _target(section.section("target"))
    person = section.column("person", required=False)
    taken = {feature.name for feature in features}
    if target.column in taken:
        section.wrong("target", "column_twice", f"column {target.column!r} is the target and a feature")
    if person is not None and person in taken | {target.column}:
        section.wrong("person", "column_twice", f"column {person!r} names the person and cannot be read as data")
    data = spec.DataSpec(
        dataset=dataset,
        features=features,
        target=target,
        person=person,
        min_rows=section.integer("min_rows", 1),
        standardise=spec.Standardise.NONE if statistics else _standardise(section),
    )
    if data.inputs > MAX_INPUTS:
        findings.wrong(section.line, section.at("features"), "range", f"{data.inputs} inputs; at most {MAX_INPUTS}")
    section.close()
    return data


def _standardise(section: Section) -> spec.Standardise:
    return spec.Standardise(section.choice("standardise", ("federated", "range", "none")))


def _features(section: Section) -> tuple[spec.Feature, ...]:
    line = section.line_of("features")
    node = section.take("features", required=True)
    path = section.at("features")
    named: list[tuple[str, Node, int]] = []
    match node:
        case Fields():  # as a person writes it: a mapping, in order
            named = [(name, member, node.lines[name]) for name, member in node.members.items()]
        case None:
            return ()
        case Scalar(refused=True):
            return ()
        case Scalar():
            section.findings.wrong(node.line, path, "type", "expected a mapping of columns")
            return ()
        case _:  # as the canonical form writes it: a list, each with its name
            for item in node.items:
                if isinstance(item, Fields) and isinstance(item.members.get("name"), Scalar):
                    members = dict(item.members)
                    label = members.pop("name")
                    text = label.value if isinstance(label, Scalar) and isinstance(label.value, str) else ""
                    named.append((text, Fields(members, item.lines, item.line), item.line))
                else:
                    section.findings.wrong(item.line, path, "type", "expected {name: COLUMN, type: ...}")
    if not 1 <= len(named) <= MAX_FEATURES:
        section.findings.wrong(line, path, "range", f"{len(named)} features; 1 to {MAX_FEATURES} are possible")
    features: list[spec.Feature] = []
    for name, member, at in named:
        feature = Section(member, f"{path}.{name}", at, section.findings)
        holder = Section(Fields({}, {name: at}, at), path, at, section.findings)
        holder.check_column(name, name)
        if any(name == other.name for other in features):
            holder.wrong(name, "column_twice", "this column is named twice")
        features.append(_feature(name, feature))
    return tuple(features)


def _feature(name: str, section: Section) -> spec.Feature:
    if section.choice("type", ("float", "category")) == "category":
        return _category(name, section)
    lo, hi = _range(section)
    missing, fill = spec.Missing.ERROR, None
    node = section.take("missing", required=False)
    match node:
        case None:
            pass
        case Scalar(value="mean" | "drop"):
            missing = spec.Missing(str(node.value))
        case _:
            fill = section.as_number(node, "missing")
            missing = spec.Missing.VALUE
            if fill is not None and not lo <= fill <= hi:
                section.wrong("missing", "range", f"{fill:g} lies outside the range of the column")
    clamp = section.boolean("clamp", default=False)
    section.close()
    return spec.FloatFeature(name, lo, hi, missing, fill, clamp)


def _category(name: str, section: Section) -> spec.CategoryFeature:
    values = _values(section)
    missing, fill = spec.Missing.ERROR, None
    node = section.take("missing", required=False)
    match node:
        case None:
            pass
        case Scalar(value="drop"):
            missing = spec.Missing.DROP
        case Scalar(value="mean"):
            section.wrong("missing", "choice", "a category has no mean; write drop or one of its values")
        case _:
            fill = section.label(node, "missing")
            missing = spec.Missing.VALUE
            if fill not in values:
                section.wrong("missing", "choice", f"{fill!r} is not one of the values of the column")
    section.close()
    return spec.CategoryFeature(name, values, missing, fill)


def _values(section: Section) -> tuple[str, ...]:
    values = tuple(section.label(node, "values") for node in section.items("values"))
    if len(values) < 2:
        section.wrong("values", "range", "a category has at least 2 values")
    if len(set(values)) != len(values):
        section.wrong("values", "value_twice", "a value is listed twice")
    return values


def _range(section: Section) -> tuple[float, float]:
    items = section.items("range")
    ends = [section.as_number(item, "range") for item in items]
    if not items or None in ends:
        return 0.0, 1.0
    lo, hi = (ends[0] or 0.0, ends[-1] or 0.0)
    if len(ends) != 2 or not lo < hi:
        section.wrong("range", "range", "a range is [low, high] with low below high")
        return 0.0, 1.0
    if hi - lo == float("inf"):
        section.wrong("range", "range", "the range is wider than a double can say")
        return 0.0, 1.0
    return lo, hi


def _target(section: Section) -> spec.Target:
    column = section.column("column") or "\0target"
    kind = section.choice("type", ("binary", "float", "category"))
    if kind == "category":
        values = _values(section)
        if len(values) > MAX_CLASSES:
            section.wrong("values", "range", f"{len(values)} classes; at most {MAX_CLASSES} are possible")
        section.close()
        return spec.CategoryTarget(column, values)
    if kind == "float":
        lo, hi = _range(section)
        section.close()
        return spec.FloatTarget(column, lo, hi)
    node = section.take("positive", required=False)
    positive = "1" if node is None else section.label(node, "positive")
    section.close()
    return spec.BinaryTarget(column, positive)


# --- model and training -----------------------------------------------------------------------------------------------


def _model(section: Section, data: spec.DataSpec) -> tuple[spec.ModelSpec, int]:
    """The model and the line on which its first hash stands ("" if it was left out)."""
    kind = section.choice("kind", ("linear", "logistic", "softmax", "mlp", "trainer"), default=None)
    line = section.line_of("initial")
    wanted, named = _TARGET_OF[kind]
    if section.present and not isinstance(data.target, wanted) and not data.target.column.startswith("\0"):
        section.wrong("kind", "target_type", f"a {kind} model needs a target of type {named}")
    hidden = _hidden(section) if kind == "mlp" else ()
    own = kind == "trainer"
    trainer, many = (section.name("name"), section.integer("parameters", 1, MAX_PARAMETERS)) if own else ("", 0)
    l2 = 0.0 if own else section.number("l2", 0.0, 1e6, default=0.0)
    first = ""
    node = section.take("initial", required=False)
    if node is not None:
        if isinstance(node, Scalar) and isinstance(node.value, str) and len(node.value) == 64:
            first = node.value
        else:
            section.wrong("initial", "type", "expected 64 hex digits; leave the field out")
    section.close()
    model = spec.ModelSpec(spec.ModelKind(kind), l2, first, hidden, trainer, many)
    many = parameters.count(model, data)
    if many > MAX_PARAMETERS:
        section.wrong("kind", "range", f"the model has {many} parameters; at most {MAX_PARAMETERS} are possible")
    return model, line


_TARGET_OF: Mapping[str, tuple[type, str]] = {
    "logistic": (spec.BinaryTarget, "binary"),
    "linear": (spec.FloatTarget, "float"),
    "softmax": (spec.CategoryTarget, "category"),
    "mlp": (object, "any"),
    "trainer": (object, "any"),
}


def _hidden(section: Section) -> tuple[int, ...]:
    """Units of each hidden layer, from the inputs to the outputs."""
    deepest, widest = MAX_HIDDEN
    found: list[int] = []
    items = section.items("hidden")
    for node in items:
        value = node.value if isinstance(node, Scalar) else None
        if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= widest:
            section.wrong("hidden", "range", f"a hidden layer has 1 to {widest} units, as in hidden: [32, 16]")
        else:
            found.append(value)
    if not 1 <= len(items) <= deepest:
        section.wrong("hidden", "range", f"{len(items)} hidden layers; 1 to {deepest} are possible")
        return (1,)
    return tuple(found)


def _training(section: Section, protection: spec.ProtectionSpec, privacy: spec.PrivacySpec | None) -> spec.TrainingSpec:
    if privacy is not None:
        return private_plans.training(section, privacy)
    training = spec.TrainingSpec(
        rounds=section.integer("rounds", 1, 100_000),
        local_epochs=section.integer("local_epochs", 1, 10_000, default=1),
        batch_size=section.integer("batch_size", 1, 10_000_000, default=32),
        learning_rate=section.number("learning_rate", 0.0, 1e6, above=True),
        proximal_mu=section.number("proximal_mu", 0.0, 1e6, default=0.0),
        seed=section.integer("seed", 0, default=0),
        weight=spec.Weight(section.choice("weight", ("rows", "uniform"), default="rows")),
        weight_cap=section.integer("weight_cap", 1),
    )
    if training.weight_cap > protection.max_value:
        section.wrong(
            "weight_cap",
            "weight_cap",
            f"{training.weight_cap} rows cannot be counted in {protection.value_bits} bits;"
            f" at most {protection.max_value}",
        )
    section.close()
    return training


def _strategy(section: Section) -> spec.Strategy:
    """The defaults are those of the papers: momentum 0.9 (Hsu et al. 2019); beta1 0.9, but 0 for fedadagrad, beta2
    0.99, tau 0.001 (Reddi et al. 2021). The learning rate of the adaptive ones is tuned for each task: no default.
    """
    kind = section.choice("kind", STRATEGIES, default="fedavg")
    strategy: spec.Strategy
    match kind:
        case "fedavg":
            strategy = spec.StrategySpec()
        case "fedavgm":
            rate = section.number("learning_rate", 0.0, 1e6, above=True, default=1.0)
            strategy = spec.MomentumSpec(rate, _decay(section, "momentum", 0.9))
        case _:
            strategy = spec.AdaptiveSpec(
                kind=kind,
                learning_rate=section.number("learning_rate", 0.0, 1e6, above=True),
                beta1=_decay(section, "beta1", 0.0 if kind == "fedadagrad" else 0.9),
                beta2=None if kind == "fedadagrad" else _decay(section, "beta2", 0.99),
                tau=section.number("tau", MIN_TAU, 1e3, default=1e-3),
            )
    section.close()
    return strategy


def _decay(section: Section, key: str, default: float) -> float:
    """A weight of the past: within [0, 1)."""
    value = section.number(key, 0.0, 1.0, default=default)
    if value == 1.0:
        section.wrong(key, "range", "1 would never forget; at most just below 1")
    return value


def _evaluation(top: Section, target: spec.Target, privacy: spec.PrivacySpec | None) -> spec.EvaluationSpec:
    if privacy is not None and not top.has("evaluation"):
        return private_plans.NOTHING_MEASURED
    section = top.section("evaluation")
    possible = _METRICS_OF[type(target)]
    metrics = set(possible)
    if section.has("metrics"):
        metrics = set()
        for node in section.items("metrics"):
            text = node.value if isinstance(node, Scalar) else None
            if text not in set(spec.Metric):
                section.wrong("metrics", "choice", "metrics are loss, accuracy and auc")
            elif text not in possible:
                needed = "binary" if text == spec.Metric.AUC else "binary or category"
                section.wrong("metrics", "choice", f"{text} needs a target of type {needed}")
            elif spec.Metric(str(text)) in metrics:
                section.wrong("metrics", "value_twice", f"{text} is listed twice")
            else:
                metrics.add(spec.Metric(str(text)))
        if spec.Metric.LOSS not in metrics:
            section.wrong("metrics", "choice", "loss must be among the metrics: a new model is checked by it")
    evaluation = spec.EvaluationSpec(
        every=section.integer("every", 1, 100_000, default=1),
        metrics=tuple(metric for metric in spec.Metric if metric in metrics),
        holdout=section.number("holdout", 0.0, 0.9, above=True),
        stop=_stop(section.section("stop")) if section.has("stop") else None,
        loss_cap=0.0 if privacy is None else private_plans.loss_cap(section),
    )
    section.close()
    return evaluation


def _stop(section: Section) -> spec.StopSpec:
    stop = spec.StopSpec(
        patience=section.integer("patience", 1, 100_000), min_delta=section.number("min_delta", 0.0, 1e9, default=0.0)
    )
    section.close()
    return stop


_METRICS_OF: Mapping[type[spec.Target], tuple[spec.Metric, ...]] = {
    spec.BinaryTarget: tuple(spec.Metric),
    spec.CategoryTarget: (spec.Metric.LOSS, spec.Metric.ACCURACY),
    spec.FloatTarget: (spec.Metric.LOSS,),
}


# --- cohort, protection, privacy --------------------------------------------------------------------------------------


def _cohort(section: Section) -> spec.CohortSpec:
    cohort = spec.CohortSpec(
        min_participants=section.integer("min_participants", 3, MAX_COHORT),
        max_corrupt=section.integer("max_corrupt", 1, MAX_COHORT, default=1),
        wait_s=section.number("wait_s", 0.0, 1e9, above=True, default=600.0),
        progress_s=section.number("progress_s", 0.0, 1e9, above=True, default=60.0),
        hard_limit_s=section.number("hard_limit_s", 0.0, 1e9, above=True, default=86_400.0),
    )
    if cohort.min_participants < cohort.max_corrupt + 2:
        section.wrong(
            "min_participants",
            "cohort_too_small",
            f"with {cohort.max_corrupt} corrupt participants at least {cohort.max_corrupt + 2} must take part",
        )
    if cohort.hard_limit_s < cohort.progress_s:
        section.wrong("hard_limit_s", "range", "the hard limit is shorter than progress_s")
    section.close()
    return cohort


def _default_bits(top: Section, statistics: bool) -> int:
    """Of a coordinate."""
    if not statistics:
        return 16
    private = top.is_mapping("privacy")
    return statistics_plans.DEFAULT_PRIVATE_BITS if private else statistics_plans.DEFAULT_BITS


def _protection(section: Section, default_bits: int, statistics: bool) -> spec.ProtectionSpec:
    known = len(section.findings.problems)
    kind = section.choice("kind", (spec.MASKED, spec.PAILLIER))
    key = ""
    if kind == spec.PAILLIER:
        key = section.name("key")
    elif section.has("key"):
        if len(section.findings.problems) == known:  # else the kind is the mistake, and says nothing about the key
            section.wrong("key", "protection_key", "only kind paillier has a key; leave the field out")
        section.take("key", required=False)
    bits_line = section.line_of("value_bits")
    bits = section.integer("value_bits", 8, 64, default=default_bits)
    if bits > MAX_VALUE_BITS:
        _not_yet(
            section.findings, bits_line, section.at("value_bits"), f"more than {MAX_VALUE_BITS} bits (a wider ring)"
        )
    update_norm = statistics_plans.NO_NORM if statistics else section.number("update_norm", 0.0, 1e9, above=True)
    section.close()
    return spec.ProtectionSpec(kind, min(bits, MAX_VALUE_BITS), update_norm, key)


def _privacy(top: Section, statistics: bool) -> spec.PrivacySpec | None:
    if top.is_mapping("privacy"):
        return private_plans.read(top.section("privacy"), statistics)
    line = top.line_of("privacy")
    match top.take("privacy", required=True):
        case None | Scalar(value="none") | Scalar(refused=True):
            pass
        case _:
            top.findings.wrong(line, "privacy", "choice", "expected none, or a block {unit, noise, rows, ...}")
    return None
