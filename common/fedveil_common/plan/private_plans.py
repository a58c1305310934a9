"""The privacy block of a plan, and what a plan with one must and must not say.

Promise: the noise multiplier that left here is written out (a plan that asks for a target gets the multiplier that
keeps it, rounded up), and nothing in the plan makes a sum depend on records in a way that the noise does not cover.
Source: the design of differential privacy, D1, D2, D8, D10; docs/privacy.md.
"""

from collections.abc import Callable
from dataclasses import replace
from math import ceil

from fedveil_common import private_sum
from fedveil_common.dp import gaussian, laplace
from fedveil_common.dp.distribution import DiscreteGaussian
from fedveil_common.plan import parameters, spec
from fedveil_common.plan.section import Section

NOTHING_MEASURED = spec.EvaluationSpec(every=1, metrics=(), holdout=0.0)
"""The evaluation of a plan that asks for none: every row trains."""

LATER = "a later release"

MAX_STEPS = 10_000
"""Model steps of a plan with differential privacy."""

MOST_EPSILON = 1000.0
LEAST_DELTA, MOST_DELTA = 1e-12, 0.01
MOST_ROWS = 10**9
MOST_BITS = 31

MOST_COUNTED = 2**46
"""Steps of the grid that all records together may count in an evaluation: with its noise an input then has at most 48
bits, and a float64 holds it exactly.
"""

LOSS_CAP, MOST_LOSS = 4.0, 16.0
"""Of one record: what counts if the plan does not say, and the most that it may say. 4 nats is a probability of 0.018
for what came true, and the largest squared error there is between two values on [-1, 1].
"""


def read(section: Section, statistics: bool = False) -> spec.PrivacySpec:
    """The block as it stands; `settled` looks at what it needs of the rest of the plan. In a statistics plan every
    record is in the one sum, and the ranges of the columns bound it.
    """
    if statistics:
        _not_in_statistics(section)
    unit = spec.Unit(section.choice("unit", ("record", "participant")))
    noise = section.choice("noise", ("participants", "coordinator"), default="participants")
    mechanism = spec.NoiseKind(_mechanism(section) if statistics else "gaussian")
    if mechanism is spec.NoiseKind.LAPLACE and noise != spec.NoiseSource.COORDINATOR:
        section.wrong(
            "mechanism",
            "privacy_statistics",
            "laplace takes noise: coordinator; shares of several participants do not add up to Laplace noise",
        )
    if section.has("target_epsilon") == section.has("noise_multiplier"):
        section.wrong(
            "noise_multiplier", "privacy_budget", "give either noise_multiplier or target_epsilon, and not both"
        )
    record = unit is spec.Unit.RECORD
    if record and section.has("adaptive_clip"):
        line = section.line_of("adaptive_clip")
        section.findings.not_yet(line, "privacy.adaptive_clip", "a clip norm that follows gradients of records", LATER)
        section.take("adaptive_clip", required=False)
    for key in ("rows", "sample_rate"):
        if not record and section.has(key):
            section.wrong(key, "privacy_unit", "has no meaning under unit participant; leave it out")
            section.take(key, required=False)
    found = spec.PrivacySpec(
        unit=unit,
        noise=spec.NoiseSource(noise),
        rows=section.integer("rows", 1, MOST_ROWS) if record else 0,
        clip_norm=1.0 if statistics else section.number("clip_norm", 0.0, 1e9, above=True),
        sample_rate=section.number("sample_rate", 0.0, 1.0, above=True) if record and not statistics else 1.0,
        noise_multiplier=_either(section, "noise_multiplier", private_sum.MOST_MULTIPLIER),
        target_epsilon=_either(section, "target_epsilon", MOST_EPSILON),
        delta=section.number("delta", LEAST_DELTA, MOST_DELTA),
        max_epsilon=section.number("max_epsilon", 0.0, MOST_EPSILON, above=True),
        adaptive=_adaptive(section.section("adaptive_clip")) if section.has("adaptive_clip") else None,
        mechanism=mechanism,
    )
    if found.target_epsilon > found.max_epsilon:
        section.wrong("target_epsilon", "privacy_budget", "the target lies above max_epsilon, where the run stops")
    section.close()
    return found


def _not_in_statistics(section: Section) -> None:
    for key, why in (("clip_norm", "the ranges of the columns bound a record"), ("sample_rate", "every record counts")):
        if section.has(key):
            section.wrong(key, "privacy_statistics", f"has no meaning in a statistics plan, where {why}; leave it out")
            section.take(key, required=False)


def _mechanism(section: Section) -> str:
    return section.choice("mechanism", ("gaussian", "laplace"), default="gaussian") or "gaussian"


def _adaptive(section: Section) -> spec.AdaptiveClip:
    found = spec.AdaptiveClip(
        quantile=section.number("quantile", 0.0, 0.99, above=True, default=0.5),
        rate=section.number("rate", 0.0, 1.0, above=True, default=0.2),
    )
    section.close()
    return found


MOST_SHARE_NOISE = 0.25
"""Standard deviation of the noise on the share of participants within the clip norm, at most: with more of it the norm
wanders, and follows nothing.
"""


def _either(section: Section, key: str, most: float) -> float:
    """One of two fields: 0 for the one that is left out."""
    return section.number(key, 0.0, most, above=True) if section.has(key) else 0.0


def loss_cap(section: Section) -> float:
    """Of the section evaluation: the largest loss of one record that counts."""
    return section.number("loss_cap", 0.0, MOST_LOSS, above=True, default=LOSS_CAP)


def training(section: Section, privacy: spec.PrivacySpec) -> spec.TrainingSpec:
    """Under unit record a step is one secure sum over one sample: `rounds` of them, and no field that would mean
    something else. Under unit participant training is local, as ever.
    """
    record = privacy.unit is spec.Unit.RECORD
    for key in (*(("local_epochs", "batch_size", "proximal_mu") if record else ()), "weight", "weight_cap"):
        if section.has(key):
            why = "a step is one sum" if record else "every participant weighs the same"
            section.wrong(
                key, "privacy_training", f"has no meaning under unit {privacy.unit}, where {why}; leave it out"
            )
            section.take(key, required=False)
    found = spec.TrainingSpec(
        rounds=section.integer("rounds", 1, MAX_STEPS),
        local_epochs=1 if record else section.integer("local_epochs", 1, 10_000, default=1),
        batch_size=1 if record else section.integer("batch_size", 1, 10_000_000, default=32),
        learning_rate=section.number("learning_rate", 0.0, 1e6, above=True),
        proximal_mu=0.0 if record else section.number("proximal_mu", 0.0, 1e6, default=0.0),
        seed=section.integer("seed", 0, default=0),
        weight=spec.Weight.UNIFORM,
        weight_cap=1,
    )
    section.close()
    return found


def settled(plan: spec.Plan, top: Section) -> spec.Plan:
    """`plan` with its noise multiplier written out, after recording every problem that its block brings."""
    privacy, findings = plan.privacy, top.findings
    if privacy is None:
        return plan

    def wrong(path: str, code: str, text: str) -> None:
        findings.wrong(top.line_of(path.partition(".")[0]), path, code, text)

    if plan.data.standardise is spec.Standardise.FEDERATED:
        wrong("data.standardise", "privacy_standardise", "federated opens exact sums; take range, which costs nothing")
    for feature in plan.data.float_features:
        if not feature.clamp:
            wrong(
                f"data.features.{feature.name}.clamp",
                "privacy_clamp",
                "clamp: true is required here, so that no"
                " value outside the range can end a run and so tell that it is there",
            )
    if plan.statistics is not None and privacy.unit is spec.Unit.PARTICIPANT:
        findings.not_yet(top.line_of("privacy"), "privacy.unit", "unit participant in a statistics plan", LATER)
    if plan.evaluation.metrics and privacy.unit is spec.Unit.PARTICIPANT:
        findings.not_yet(top.line_of("evaluation"), "evaluation", "an evaluation under unit participant", LATER)
    elif plan.evaluation.metrics and plan.model.kind is spec.ModelKind.TRAINER:
        findings.not_yet(top.line_of("evaluation"), "evaluation", "an evaluation of a trainer's model", LATER)
    if plan.continues:
        findings.not_yet(top.line_of("continues"), "continues", "going on from a run with differential privacy", LATER)
    if plan.protection.value_bits > MOST_BITS:
        wrong("protection.value_bits", "privacy_grid", f"at most {MOST_BITS} bits, so that squares of norms are exact")
    if privacy.clip_norm > plan.protection.update_norm:
        wrong(
            "privacy.clip_norm",
            "privacy_grid",
            f"one record's norm exceeds update_norm, {plan.protection.update_norm:g}, which bounds a coordinate of a"
            " whole input",
        )
    if findings.problems:
        return plan
    if privacy.delta * 10 * privacy.rows > 1:
        wrong(
            "privacy.delta",
            "privacy_delta",
            f"{privacy.delta:g} is not below 1/(10 rows) = {1 / (10 * privacy.rows):g}: a mechanism that publishes one"
            " whole record in ten runs would pass",
        )
    if findings.problems or findings.later:
        return plan
    if privacy.target_epsilon:
        found = private_sum.multiplier_for(plan, privacy, privacy.target_epsilon)
        if not found:
            sums = private_sum.sums_planned(plan)
            wrong("privacy.target_epsilon", "privacy_budget", f"no noise keeps the {sums} sums of the run below it")
        privacy = replace(privacy, noise_multiplier=found or 1.0, target_epsilon=0.0)
        plan = replace(plan, privacy=privacy)
    noise = 4 * privacy.noise_multiplier / plan.cohort.min_participants
    if privacy.adaptive is not None and noise > MOST_SHARE_NOISE:
        needed = ceil(4 * privacy.noise_multiplier / MOST_SHARE_NOISE)
        wrong(
            "privacy.adaptive_clip",
            "privacy_clip",
            f"the share of participants within the clip norm would have noise of {noise:.2g} (4 x"
            f" {privacy.noise_multiplier:g} / {plan.cohort.min_participants} participants), and at most"
            f" {MOST_SHARE_NOISE} follows anything: {needed} participants are needed, or a fixed clip_norm",
        )
    _check_grid(plan, privacy, wrong)
    if findings.problems:
        return plan  # a record of no step of the grid has no price
    if not private_sum.sums_allowed(plan, privacy):
        one = private_sum.spent(plan, privacy, 1)
        wrong("privacy.max_epsilon", "privacy_budget", f"one step costs {one:.3g} at this delta: not even one fits")
    return plan


def _check_grid(plan: spec.Plan, privacy: spec.PrivacySpec, wrong: Callable[[str, str, str], None]) -> None:
    """The grid is fine enough for a record, and the noise for the grid (D1)."""
    least = private_sum.least_sensitivity(plan, privacy, plan.cohort.min_participants)
    found = private_sum.grid(plan, privacy).sensitivity
    noise = private_sum.grid(plan, privacy).noise
    coarser = "update_norm" if plan.statistics is None else "max_rows"
    if not noise.drawable:
        of, most = (
            (noise.variance**0.5, gaussian.MAX_VARIANCE**0.5)
            if isinstance(noise, DiscreteGaussian)
            else (noise.scale, laplace.MAX_SCALE)
        )
        figure = "standard deviation" if isinstance(noise, DiscreteGaussian) else "scale"
        wrong(
            "privacy.noise_multiplier",
            "privacy_grid",
            f"the noise would have a {figure} of {of:.3g} steps of the grid, and at most {most:.3g} can be drawn:"
            f" lower value_bits, or raise {coarser}",
        )
    if found < least and plan.statistics is not None:
        wrong(
            "statistics.max_rows",
            "privacy_grid",
            f"a record is {found} steps of the grid, and {least} are needed beside"
            f" {private_sum.coordinates(plan)} figures and cells: raise value_bits, or lower max_rows",
        )
    elif found < least:
        wrong(
            "protection.update_norm",
            "privacy_grid",
            f"a record of norm {privacy.clip_norm:g} is {found} steps of the grid, and {least} are needed beside"
            f" {parameters.count(plan.model, plan.data)} parameters: raise value_bits, or lower update_norm",
        )
    widest = private_sum.widest(plan)
    if widest > MOST_COUNTED:
        wrong(
            "protection.value_bits",
            "privacy_grid",
            f"{privacy.rows} records of {private_sum.measure_cap(plan, privacy)} steps of the grid each are {widest}"
            f" steps, and at most {MOST_COUNTED} are counted: lower value_bits, or raise update_norm",
        )
