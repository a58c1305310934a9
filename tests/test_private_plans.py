"""Plans with differential privacy: what is read, what survives its canonical form, what is refused and where."""

import dataclasses

import pytest
from fedveil_common.errors import PeerError
from fedveil_common.plan import (
    FloatFeature,
    NoiseSource,
    NotInThisReleaseError,
    Plan,
    PrivacySpec,
    Standardise,
    Unit,
    Weight,
    canonical,
    parse_canonical,
)
from fedveil_common.plan.private_plans import LOSS_CAP, NOTHING_MEASURED
from hypothesis import given, settings
from hypothesis import strategies as st
from test_plan import CALM, TEXT, plan_of, plans, problems_of, survives


@st.composite
def private_plans(draw: st.DrawFn) -> Plan:
    """A plan with a privacy block: what it may not say is left out, its grid is fine enough for what is drawn."""
    plan = draw(plans())
    features = tuple(
        dataclasses.replace(one, clamp=True) if isinstance(one, FloatFeature) else one for one in plan.data.features
    )
    rows = draw(st.integers(1, 10**6))
    bits = draw(st.integers(17, 24))
    encrypted = plan.protection.kind == "paillier"
    measured = dataclasses.replace(plan.evaluation, loss_cap=draw(st.floats(1e-3, 16.0)))
    privacy = PrivacySpec(
        unit=Unit.RECORD,
        noise=draw(st.sampled_from(NoiseSource)) if encrypted else NoiseSource.PARTICIPANTS,
        rows=rows,
        clip_norm=plan.protection.update_norm * draw(st.floats(0.5, 1.0)),
        sample_rate=draw(st.floats(1e-6, 1.0)),
        noise_multiplier=draw(st.floats(0.5, 1.0)),
        target_epsilon=0.0,
        delta=draw(st.floats(1e-12, min(0.01, 0.09 / rows))),
        max_epsilon=draw(st.floats(100, 1000)),
    )
    return dataclasses.replace(
        plan,
        data=dataclasses.replace(
            plan.data, features=features, standardise=draw(st.sampled_from([Standardise.RANGE, Standardise.NONE]))
        ),
        training=dataclasses.replace(
            plan.training,
            local_epochs=1,
            batch_size=1,
            proximal_mu=0.0,
            weight=Weight.UNIFORM,
            weight_cap=1,
            rounds=draw(st.integers(1, 300)),
        ),
        evaluation=draw(st.sampled_from([NOTHING_MEASURED, measured])),
        protection=dataclasses.replace(plan.protection, value_bits=bits),
        privacy=privacy,
    )


@settings(CALM, max_examples=25)
@given(private_plans())
def test_a_plan_with_a_privacy_block_survives_it_too(plan: Plan) -> None:
    assert plan.privacy is not None
    survives(plan)


PRIVATE = (
    TEXT.replace("standardise: federated", "standardise: range")
    .replace("[0, 120]}", "[0, 120], clamp: true}")
    .replace("missing: mean}", "missing: mean, clamp: true}")
    .replace(", weight_cap: 1000}", "}")
    .replace("evaluation: {holdout: 0.2}\n", "")
    .replace(
        "privacy: none",
        """privacy:
  unit: record
  noise: participants
  rows: 5000
  clip_norm: 1.0
  sample_rate: 0.1
  noise_multiplier: 1.0
  delta: 1e-6
  max_epsilon: 20""",
    )
)


def test_a_private_plan_is_read_and_survives_its_canonical_form() -> None:
    plan = plan_of(PRIVATE)
    assert plan.privacy is not None
    assert parse_canonical(canonical(plan)) == plan


def test_a_loss_cap_means_something_under_noise_alone() -> None:
    plan = plan_of(PRIVATE.replace("privacy:\n", "evaluation: {holdout: 0.2}\nprivacy:\n"))
    assert plan.evaluation.loss_cap == LOSS_CAP
    assert parse_canonical(canonical(plan)) == plan
    assert plan_of().evaluation.loss_cap == 0
    exact = TEXT.replace("holdout: 0.2", "holdout: 0.2, loss_cap: 4")
    assert [code for _, code in problems_of(exact)] == ["unknown_field"]


NO_FIGURES = (
    *(".nan", "nan", "NaN", ".inf", "-.inf", "-1", "0", "-0.0", "1e400", "1e-400", "0x10", "9" * 400),
    *("many", "'1.0'", "true", "null", "[1]", "{a: 1}", "", None),
)


@pytest.mark.parametrize("field", ["rows", "clip_norm", "sample_rate", "noise_multiplier", "delta", "max_epsilon"])
@pytest.mark.parametrize("value", NO_FIGURES)
def test_a_figure_that_means_nothing_is_a_problem_with_its_line(field: str, value: str | None) -> None:
    """Never another exception, and never a plan: a figure that reads as no noise at all would be the worst."""
    lines = PRIVATE.splitlines()
    (at,) = (number for number, line in enumerate(lines) if line.startswith(f"  {field}:"))
    if value is None:
        del lines[at]
    else:
        lines[at] = f"  {field}: {value}"
    found = problems_of("\n".join(lines) + "\n")
    assert any(abs(line - (at + 1)) <= (at if value is None else 0) for line, _ in found), found


@pytest.mark.parametrize(
    ("change", "code"),
    [
        (("noise_multiplier: 1.0", "noise_multiplier: 1.0\n  target_epsilon: 3"), "privacy_budget"),
        (("noise_multiplier: 1.0", "target_epsilon: 30"), "privacy_budget"),
        (("noise_multiplier: 1.0", "target_epsilon: 1e-12"), "privacy_budget"),
        (("max_epsilon: 20", "max_epsilon: 0.001"), "privacy_budget"),
        (("delta: 1e-6", "delta: 0.001"), "privacy_delta"),
        (("clip_norm: 1.0", "clip_norm: 5.1"), "privacy_grid"),
        (("clip_norm: 1.0", "clip_norm: 1e-9"), "privacy_grid"),
        (("noise_multiplier: 1.0", "noise_multiplier: 1e-9"), "privacy_grid"),
        (("noise_multiplier: 1.0", "noise_multiplier: 9999"), "privacy_grid"),
        (("update_norm: 5.0", "update_norm: 5.0, value_bits: 32"), "privacy_grid"),
        (("[0, 120], clamp: true}", "[0, 120]}"), "privacy_clamp"),
        (("standardise: range", "standardise: federated"), "privacy_standardise"),
        (("rounds: 20,", "rounds: 20, local_epochs: 2,"), "privacy_training"),
        (("rounds: 20,", "rounds: 20, weight_cap: 5,"), "privacy_training"),
        (("  rows: 5000", "  rows: 5000\n  seed: 1"), "unknown_field"),
        (("privacy:\n", "evaluation: {holdout: 0.2, loss_cap: 0}\nprivacy:\n"), "range"),
        (("privacy:\n", "evaluation: {holdout: 0.2, loss_cap: 16.5}\nprivacy:\n"), "range"),
        (("privacy:\n", "evaluation: {holdout: 0.2, loss_cap: .nan}\nprivacy:\n"), "not_finite"),
        (("noise: participants", "noise: nobody"), "choice"),
    ],
)
def test_a_privacy_block_that_does_not_hold_is_refused(change: tuple[str, str], code: str) -> None:
    assert change[0] in PRIVATE
    assert code in [found for _, found in problems_of(PRIVATE.replace(*change))]


@settings(CALM, max_examples=200)
@given(st.data())
def test_mutated_canonical_bytes_of_a_private_plan_never_pass_as_the_same_plan(data: st.DataObject) -> None:
    good = canonical(plan_of(PRIVATE))
    begin = good.index(b'"privacy"')
    at = data.draw(st.integers(begin, begin + 200))
    cut = data.draw(st.integers(0, 3))
    bad = (
        good[:at] + data.draw(st.binary(max_size=3) | st.sampled_from([b"0", b"1e9", b"-", b"NaN"])) + good[at + cut :]
    )
    if bad == good:
        return
    try:
        other = parse_canonical(bad)
    except (PeerError, NotInThisReleaseError):
        return
    assert canonical(other) == bad
    assert other != plan_of(PRIVATE)
