"""The plan file: one meaning, all problems at once with their lines, one canonical form."""

import dataclasses
import hashlib
import json
import math

import pytest
from fedveil_common import initial, jcs
from fedveil_common.errors import ConfigError, PeerError
from fedveil_common.plan import (
    BinaryTarget,
    CategoryFeature,
    CohortSpec,
    DataSpec,
    EvaluationSpec,
    Feature,
    FloatFeature,
    FloatTarget,
    Kind,
    Metric,
    Missing,
    ModelKind,
    ModelSpec,
    NotInThisReleaseError,
    Plan,
    PlanError,
    ProtectionSpec,
    Standardise,
    StrategySpec,
    TrainingSpec,
    Weight,
    canonical,
    check_release,
    parse_canonical,
    parse_plan,
    plan_hash,
    with_seed,
)
from fedveil_common.plan.parameters import Layer
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

CALM = settings(deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])

TEXT = """\
version: 1
name: sepsis-risk
kind: train
data:
  dataset: icu_stays
  features:
    age:     {type: float, range: [0, 120]}
    lactate: {type: float, range: [0, 30], missing: mean}
    sex:     {type: category, values: [F, M]}
  target: {column: died, type: binary}
  person: patient_id
  min_rows: 30
  standardise: federated
model: {kind: logistic, l2: 0.001}
training: {rounds: 20, learning_rate: 1e-1, weight_cap: 1000}
evaluation: {holdout: 0.2}
cohort: {min_participants: 3}
protection: {kind: masked, update_norm: 5.0}
privacy: none
"""


def plan_of(text: str = TEXT) -> Plan:
    return parse_plan(text.encode(), "plan.yaml")


def problems_of(text: str | bytes) -> list[tuple[int, str]]:
    with pytest.raises(PlanError) as caught:
        parse_plan(text if isinstance(text, bytes) else text.encode(), "plan.yaml")
    assert caught.value.code == "bad_plan"
    assert caught.value.exit_code == 2
    for problem in caught.value.problems:
        assert f"plan.yaml:{problem.line}: " in str(caught.value)
    return [(problem.line, problem.code) for problem in caught.value.problems]


def test_the_annotated_plan_is_read_with_its_defaults() -> None:
    plan = plan_of()
    assert plan.training == TrainingSpec(20, 1, 32, 0.1, 0.0, 0, Weight.ROWS, 1000)
    assert plan.cohort == CohortSpec(3, 1, 600.0, 60.0, 86_400.0)
    assert plan.protection == ProtectionSpec("masked", 16, 5.0)
    assert plan.evaluation == EvaluationSpec(1, (Metric.LOSS, Metric.ACCURACY, Metric.AUC), 0.2)
    assert [feature.name for feature in plan.data.features] == ["age", "lactate", "sex"]
    assert plan.data.inputs == 3
    assert plan.strategy == StrategySpec("fedavg")
    assert plan.model.initial == initial.initial_hash(0, (Layer(3, 1),))


def test_the_canonical_form_is_what_it_was() -> None:
    # A change here changes every approved hash: it needs a new plan version.
    data = canonical(plan_of())
    assert json.loads(data)["data"]["features"][1] == {
        "clamp": False,
        "missing": "mean",
        "name": "lactate",
        "range": [0, 30],
        "type": "float",
    }
    assert "purpose" not in json.loads(data)
    assert plan_hash(data) == hashlib.sha256(data).digest()
    assert plan_hash(data).hex() == "77d79370dd1f72f6ca3e308d7868521a54319cb7da9d8f3b19dcca7c07d7ebd9"


def test_the_form_of_the_file_does_not_matter_but_the_order_of_features_does() -> None:
    other = (
        TEXT.replace("1e-1", "0.10")
        .replace("5.0", "5")
        .replace("{type: float, range: [0, 120]}", "{range: [-0.0, 120.0], type: float}")
    )
    assert canonical(plan_of(other)) == canonical(plan_of())
    lines = TEXT.splitlines(keepends=True)
    lines[6], lines[7] = lines[7], lines[6]
    assert canonical(plan_of("".join(lines))) != canonical(plan_of())


def test_optional_fields_stand_only_when_set() -> None:
    plan = plan_of(TEXT + "purpose: research\nretention_days: 30\n")
    assert json.loads(canonical(plan))["retention_days"] == 30
    assert parse_canonical(canonical(plan)) == plan


def test_all_problems_come_at_once_with_their_lines() -> None:
    text = TEXT.replace("version: 1", "version: one").replace("[0, 30]", "[30, 0]").replace("[F, M]", "[F, F]")
    text = text.replace("learning_rate: 1e-1", "learning_rate: fast").replace("holdout: 0.2", "holdout: 0.2, extra: 1")
    assert problems_of(text) == [
        (1, "type"),
        (8, "range"),
        (9, "value_twice"),
        (15, "type"),
        (16, "unknown_field"),
    ]


@pytest.mark.parametrize(
    ("old", "new", "code"),
    [
        ("name: sepsis-risk", "name: Sepsis", "name"),
        ("name: sepsis-risk", "name: 2026-01-01", "date"),
        ("name: sepsis-risk", "name: !!str x", "tag"),
        ("name: sepsis-risk", "name: &a x", "anchor"),
        ("name: sepsis-risk", "name: *a", "alias"),
        ("name: sepsis-risk", "name: x\nname: y", "duplicate_key"),
        ("name: sepsis-risk", "name: x\n<<: {kind: train}", "merge"),
        ("min_rows: 30", "min_rows: 030", "octal"),
        ("min_rows: 30", "min_rows: 0o30", "octal"),
        ("min_rows: 30", "min_rows: 0x30", "radix"),
        ("min_rows: 30", "min_rows: 1:30", "sexagesimal"),
        ("min_rows: 30", "min_rows: 1_000", "number_form"),
        ("min_rows: 30", "min_rows: 30.0", "type"),
        ("min_rows: 30", "min_rows: '30'", "type"),
        ("min_rows: 30", "min_rows: true", "type"),
        ("min_rows: 30", "min_rows: 0", "range"),
        ("update_norm: 5.0", "update_norm: .inf", "not_finite"),
        ("update_norm: 5.0", "update_norm: .nan", "not_finite"),
        ("update_norm: 5.0", "update_norm: 1e999", "not_finite"),
        ("update_norm: 5.0", "update_norm: 0", "range"),
        ("missing: mean", "missing: mean, clamp: yes", "type"),
        ("missing: mean", "missing: 31", "range"),
        ("values: [F, M]", "values: [F]", "range"),
        ("values: [F, M]", "values: [F, NA]", "missing_mark"),
        ("values: [F, M]", "values: [F, true]", "type"),
        ("values: [F, M]", "values: [F, M], missing: mean", "choice"),
        ("age: ", '"a\\u202ege": ', "column_name"),
        ("age: ", '"a\\u0308ge": ', "column_name"),
        ("age: ", "died: ", "column_twice"),
        ("person: patient_id", "person: age", "column_twice"),
        ("kind: logistic", "kind: linear", "target_type"),
        ("kind: logistic", "kind: logistic, initial: '00'", "type"),
        ("kind: logistic", f"kind: logistic, initial: '{'0' * 64}'", "initial_model"),
        ("weight_cap: 1000", "weight_cap: 32768", "weight_cap"),
        ("weight_cap: 1000", "seed: 1", "missing"),
        ("holdout: 0.2", "holdout: 0", "range"),
        ("holdout: 0.2", "holdout: 0.2, metrics: [auc]", "choice"),
        ("min_participants: 3", "min_participants: 3, max_corrupt: 2", "cohort_too_small"),
        ("min_participants: 3", "min_participants: 2", "range"),
        ("privacy: none", "privacy: nonne", "choice"),
        ("privacy: none", "", "missing"),
        ("privacy: none", "privacy: none\nsecret: 1", "unknown_field"),
        ("privacy: none", "privacy: none\n---\nversion: 1", "documents"),
        ("version: 1", "%YAML 1.1\n---\nversion: 1", "directive"),
        ("version: 1", "version: [", "yaml_syntax"),
        ("version: 1", "version:", "type"),
        ("version: 1", "version: &v 1\n? {a: b}\n: 1", "key"),
        ("version: 1", "version: 1\n'': 2", "key"),
        ("version: 1", "version: 1\n!x y: 2", "tag"),
        ("version: 1", "version: 1\npurpose: 3", "type"),
        ("version: 1", 'version: 1\npurpose: "a\\u202eb"', "text"),
        ("name: sepsis-risk", "name: [x]", "type"),
        ("person: patient_id", "person: 3", "type"),
        ("person: patient_id", 'person: " patient"', "column_name"),
        ("person: patient_id", "person: ''", "column_name"),
        ("model: {kind: logistic, l2: 0.001}", "model: logistic", "type"),
        ("kind: logistic", "kind: [logistic]", "type"),
        ("kind: logistic", "kind: logit", "choice"),
        ("l2: 0.001", "l2: tiny", "type"),
        ("l2: 0.001", "l2: -1", "range"),
        ("[0, 120]", "0 to 120", "type"),
        ("[0, 120]", "[0, 60, 120]", "range"),
        ("[0, 120]", "[0, x]", "type"),
        ("[0, 120]", "[-1.7e308, 1.7e308]", "range"),
        ("values: [F, M]", "values: ['F ', M]", "text"),
        ("values: [F, M]", 'values: ["e\\u0301", M]', "text"),
        ("values: [F, M]", "values: [F, M], missing: X", "choice"),
        ("holdout: 0.2", "holdout: 0.2, metrics: [loss, loss]", "value_twice"),
        ("holdout: 0.2", "holdout: 0.2, metrics: [loss, mae]", "choice"),
        ("min_participants: 3", "min_participants: 3, progress_s: 10, hard_limit_s: 5", "range"),
    ],
)
def test_what_is_refused(old: str, new: str, code: str) -> None:
    assert old in TEXT
    found = problems_of(TEXT.replace(old, new, 1))
    assert code in {c for _, c in found}, found


@pytest.mark.parametrize("features", ["3", "{}", "[1, 2]", "[]", "[{name: a}]", "*x"])
def test_features_that_are_none(features: str) -> None:
    head, _, tail = TEXT.partition("  features:")
    assert problems_of(head + f"  features: {features}\n" + tail[tail.index("  target:") :])


def test_a_linear_model_needs_a_float_target_and_has_a_loss_only() -> None:
    text = TEXT.replace("type: binary", "type: float, range: [0, 9]").replace("kind: logistic", "kind: linear")
    plan = plan_of(text)
    assert plan.data.target == FloatTarget("died", 0.0, 9.0)
    assert plan.evaluation.metrics == (Metric.LOSS,)
    assert (16, "choice") in problems_of(text.replace("holdout: 0.2", "holdout: 0.2, metrics: [loss, auc]"))


def test_fixed_fills_and_positives_are_read() -> None:
    text = TEXT.replace("missing: mean", "missing: 4").replace("[F, M]", "[F, M], missing: M")
    plan = plan_of(text.replace("type: binary", "type: binary, positive: 2.0"))
    lactate, sex = plan.data.features[1:]
    assert (lactate.missing, lactate.fill) == (Missing.VALUE, 4.0)
    assert (sex.missing, sex.fill) == (Missing.VALUE, "M")
    assert plan.data.target == BinaryTarget("died", "2")
    assert parse_canonical(canonical(plan)) == plan


def test_bytes_beyond_the_limit_are_refused_unread() -> None:
    with pytest.raises(PeerError):
        parse_canonical(b" " * 300_000)


def test_words_that_yaml_would_bend_stay_text() -> None:
    plan = plan_of(TEXT.replace("values: [F, M]", "values: [N, NO, yes, 'true', 1, 1.50]"))
    feature = plan.data.features[2]
    assert isinstance(feature, CategoryFeature)
    assert feature.values == ("N", "NO", "yes", "true", "1", "1.5")


@pytest.mark.parametrize(
    "bomb",
    [
        b"a: &a [x,x,x,x,x,x,x,x,x]\n"
        + b"".join(b"%c: &%c [%s]\n" % (98 + i, 98 + i, b",".join([b"*%c" % (97 + i)] * 9)) for i in range(9)),
        b"[" * 100_000,
        b"{a: " * 50_000,
        b"- " * 50_000,
        b"x" * 300_000,
        b"\xff\xfe",
        b"",
        b"\x00",
        b"? [a]\n: b\n",
        b"!!python/object/apply:os.system [id]",
        b"a: " + b"9" * 100_000,
    ],
)
def test_bombs_end_quickly_in_a_plan_error(bomb: bytes) -> None:
    assert problems_of(bomb)


@CALM
@given(st.binary(max_size=200) | st.text("[]{}:,-&*!|>'\"\n ab1#%@`?", max_size=80).map(str.encode))
def test_no_text_raises_anything_else(text: bytes) -> None:
    with pytest.raises(ConfigError):
        parse_plan(text, "plan.yaml")


@pytest.mark.parametrize(
    ("old", "new", "field"),
    [
        ("update_norm: 5.0", "update_norm: 5.0, value_bits: 49", "protection.value_bits"),
        ("kind: masked", "kind: paillier, key: icu-1, value_bits: 49", "protection.value_bits"),
        ("version: 1", "version: 2", "version"),
    ],
)
def test_what_this_release_lacks_is_named_not_ignored(old: str, new: str, field: str) -> None:
    with pytest.raises(NotInThisReleaseError) as caught:
        parse_plan(TEXT.replace(old, new, 1).encode(), "plan.yaml")
    assert caught.value.code == "not_in_this_release"
    assert caught.value.exit_code == 2
    assert any(name.endswith(": " + field) for name in caught.value.fields)


PAILLIER = "protection: {kind: paillier, key: icu-1, update_norm: 5.0, value_bits: 20}"
MASKED = "protection: {kind: masked, update_norm: 5.0}"


def test_a_plan_under_the_key_of_holders() -> None:
    plan = plan_of(TEXT.replace(MASKED, PAILLIER))
    assert plan.protection == ProtectionSpec("paillier", 20, 5.0, "icu-1")
    check_release(plan)
    members = json.loads(canonical(plan))["protection"]
    assert members == {"kind": "paillier", "key": "icu-1", "value_bits": 20, "update_norm": 5}
    assert json.loads(canonical(plan_of()))["protection"] == {"kind": "masked", "value_bits": 16, "update_norm": 5}


@pytest.mark.parametrize(
    ("written", "path", "code"),
    [
        ("{kind: paillier, update_norm: 5}", "protection.key", "missing"),
        ("{kind: paillier, key: Icu 1, update_norm: 5}", "protection.key", "name"),
        ("{kind: paillier, key: 7, update_norm: 5}", "protection.key", "type"),
        ("{kind: masked, key: icu-1, update_norm: 5}", "protection.key", "protection_key"),
        ("{kind: plain, key: icu-1, update_norm: 5}", "protection.kind", "choice"),
        ("{kind: paillier, key: icu-1, s: 1, update_norm: 5}", "protection.s", "unknown_field"),
    ],
)
def test_a_key_belongs_to_paillier_and_only_there(written: str, path: str, code: str) -> None:
    text = TEXT.replace(MASKED, f"protection: {written}")
    with pytest.raises(PlanError) as refused:
        parse_plan(text.encode(), "plan.yaml")
    line = text.split("\n").index(f"protection: {written}") + 1
    assert [(one.line, one.path, one.code) for one in refused.value.problems] == [(line, path, code)]


def test_canonical_bytes_with_a_key_in_the_wrong_place_are_refused() -> None:
    for text, change in ((TEXT, {"key": "k"}), (TEXT.replace(MASKED, PAILLIER), {"key": ""}), (TEXT, {"key": ""})):
        members = json.loads(canonical(plan_of(text)))
        members["protection"] |= change
        with pytest.raises(PeerError) as refused:
            parse_canonical(jcs.dumps(members))
        assert refused.value.code == "bad_plan"
    for kind, key in (("masked", "k"), ("paillier", "")):
        with pytest.raises(ValueError, match="has a key"):
            ProtectionSpec(kind, 16, 5.0, key)


def test_the_hash_of_a_masked_plan_is_what_it_always_was() -> None:
    found = hashlib.sha256(canonical(plan_of())).hexdigest()
    assert found == "77d79370dd1f72f6ca3e308d7868521a54319cb7da9d8f3b19dcca7c07d7ebd9"


def test_everything_lacking_is_named_at_once_and_beside_the_problems() -> None:
    text = TEXT.replace("version: 1", "version: 2").replace("update_norm: 5.0", "update_norm: 5.0, value_bits: 49")
    with pytest.raises(NotInThisReleaseError) as caught:
        plan_of(text)
    assert len(caught.value.fields) == 2
    assert [code for _, code in problems_of(text.replace("min_rows: 30", "min_rows: x"))] == [
        "not_in_this_release",
        "type",
        "not_in_this_release",
    ]


def test_received_bytes_with_later_fields_are_refused_as_such() -> None:
    members = json.loads(canonical(plan_of()))
    with pytest.raises(NotInThisReleaseError) as caught:
        parse_canonical(jcs.dumps({**members, "version": 2}))
    assert caught.value.fields == ("version",)


@pytest.mark.parametrize(
    ("field", "change"),
    [
        (
            "protection.kind",
            lambda p: dataclasses.replace(p, protection=dataclasses.replace(p.protection, kind="plain")),
        ),
        ("strategy.kind", lambda p: dataclasses.replace(p, strategy=StrategySpec("fedsgd"))),
    ],
)
def test_check_release_looks_at_values_too(field: str, change) -> None:  # type: ignore[no-untyped-def]
    check_release(plan_of())
    with pytest.raises(NotInThisReleaseError) as caught:
        check_release(change(plan_of()))
    assert caught.value.fields == (field,)


def test_another_seed_is_another_first_model_and_another_hash() -> None:
    plan = plan_of()
    other = with_seed(plan, 8)
    assert other.model.initial != plan.model.initial
    assert parse_canonical(canonical(other)) == other
    stale = dataclasses.replace(plan, training=dataclasses.replace(plan.training, seed=8))
    with pytest.raises(ConfigError):
        canonical(stale)


# --- canonical form, as a property ---

names = st.from_regex(r"[a-z][a-z0-9_]{0,8}", fullmatch=True)
texts = st.text(st.characters(min_codepoint=0x21, max_codepoint=0x7E), min_size=1, max_size=6).filter(
    lambda t: t not in {"?", "NA"}
)
finite = st.floats(-1e9, 1e9).map(lambda x: x + 0.0)
ranges = st.tuples(finite, finite).filter(lambda r: r[0] < r[1])


@st.composite
def float_features(draw: st.DrawFn, name: str) -> Feature:
    lo, hi = draw(ranges)
    missing = draw(st.sampled_from(Missing))
    fill = draw(st.floats(lo, hi)) + 0.0 if missing is Missing.VALUE else None
    return FloatFeature(name, lo, hi, missing, fill, draw(st.booleans()))


@st.composite
def category_features(draw: st.DrawFn, name: str) -> Feature:
    values = tuple(
        draw(st.lists(texts.filter(lambda t: t not in {"mean", "drop"}), min_size=2, max_size=4, unique=True))
    )
    missing = draw(st.sampled_from([Missing.ERROR, Missing.DROP, Missing.VALUE]))
    return CategoryFeature(name, values, missing, draw(st.sampled_from(values)) if missing is Missing.VALUE else None)


@st.composite
def plans(draw: st.DrawFn) -> Plan:
    columns = draw(st.lists(names, min_size=3, max_size=6, unique=True))
    features = tuple(draw(st.one_of(float_features(name), category_features(name))) for name in columns[2:])
    binary = draw(st.booleans())
    lo, hi = draw(ranges)
    data = DataSpec(
        dataset=draw(names),
        features=features,
        target=BinaryTarget(columns[0], draw(texts)) if binary else FloatTarget(columns[0], lo, hi),
        person=draw(st.none() | st.just(columns[1])),
        min_rows=draw(st.integers(1, 10**6)),
        standardise=draw(st.sampled_from(Standardise)),
    )
    bits = draw(st.integers(8, 24))
    seed = draw(st.integers(0, 2**53 - 1))
    positive = st.floats(1e-6, 1e6)
    corrupt = draw(st.integers(1, 50))
    progress = draw(st.floats(0.1, 1e4))
    metrics = [Metric.LOSS, *(m for m in (Metric.ACCURACY, Metric.AUC) if binary and draw(st.booleans()))]
    return Plan(
        version=1,
        name=draw(names),
        kind=Kind.TRAIN,
        data=data,
        model=ModelSpec(
            ModelKind.LOGISTIC if binary else ModelKind.LINEAR,
            draw(st.floats(0, 10)) + 0.0,
            initial.initial_hash(seed, (Layer(data.inputs, 1),)),
        ),
        training=TrainingSpec(
            draw(st.integers(1, 1000)),
            draw(st.integers(1, 100)),
            draw(st.integers(1, 1000)),
            draw(positive),
            0.0,
            seed,
            draw(st.sampled_from(Weight)),
            draw(st.integers(1, 2 ** (bits - 1) - 1)),
        ),
        strategy=StrategySpec("fedavg"),
        evaluation=EvaluationSpec(draw(st.integers(1, 100)), tuple(metrics), draw(st.floats(0.01, 0.9))),
        cohort=CohortSpec(
            draw(st.integers(corrupt + 2, 256)), corrupt, draw(positive), progress, progress + draw(positive)
        ),
        protection=draw(
            st.builds(ProtectionSpec, st.just("masked"), st.just(bits), positive)
            | st.builds(ProtectionSpec, st.just("paillier"), st.just(bits), positive, names)
        ),
        privacy=None,
        purpose=draw(st.none() | texts),
        retention_days=draw(st.none() | st.integers(1, 36_500)),
    )


@CALM
@given(plans())
def test_a_plan_survives_its_canonical_form(plan: Plan) -> None:
    survives(plan)


def survives(plan: Plan) -> None:
    data = canonical(plan)
    assert parse_canonical(data) == plan
    assert jcs.dumps(jcs.loads(data)) == data
    # JSON is (nearly) YAML: the canonical bytes read as a plan file mean the same plan
    if not any(mark in data for mark in (b"e+", b"e-", b"\\", b"\x7f")):
        assert parse_plan(data, "plan.json") == plan


@settings(CALM, max_examples=300)
@given(st.data())
def test_mutated_canonical_bytes_never_pass_as_the_same_plan(data: st.DataObject) -> None:
    good = canonical(plan_of())
    at = data.draw(st.integers(0, len(good) - 1))
    cut = data.draw(st.integers(0, 3))
    bad = good[:at] + data.draw(st.binary(max_size=3)) + good[at + cut :]
    if bad == good:
        return
    try:
        other = parse_canonical(bad)
    except (PeerError, NotInThisReleaseError):
        return
    assert canonical(other) == bad
    assert other != plan_of()


@pytest.mark.parametrize(
    "change",
    [
        lambda b: b + b" ",
        lambda b: b.replace(b":5,", b":5.0,"),
        lambda b: b.replace(b'"l2":0.001', b'"l2":1e-3'),
        lambda b: b.replace(b'"version":1', b'"version":1,"version":1'),
        lambda b: b.replace(b'"version":1', b'"version":1,"zz":1'),
        lambda b: b.replace(b'"proximal_mu":0,', b""),
        lambda b: b.replace(b'"proximal_mu":0', b'"proximal_mu":-0'),
        lambda b: b.replace(b'["loss","accuracy","auc"]', b'["loss","auc","accuracy"]'),
        lambda b: json.dumps(json.loads(b)).encode(),
        lambda b: b"[" * 100_000,
        lambda b: b'{"a":' * 400 + b"1" + b"}" * 400,
        lambda b: b"[" * 400 + b"]" * 400,
        lambda b: b.replace(b'"age"', '"a\u202e\nge"'.encode()),
        lambda b: b"null",
        lambda b: b"\xff",
    ],
)
def test_bytes_that_are_not_canonical_are_the_peers_fault(change) -> None:  # type: ignore[no-untyped-def]
    good = canonical(plan_of())
    parse_canonical(good)
    bad = change(good)
    assert bad != good
    with pytest.raises(PeerError) as caught:
        parse_canonical(bad)
    assert caught.value.code == "bad_plan"
    assert str(caught.value).isprintable()


def test_a_wrong_first_model_is_refused_in_received_bytes() -> None:
    members = json.loads(canonical(plan_of()))
    members["model"]["initial"] = "0" * 64
    with pytest.raises(PeerError):
        parse_canonical(jcs.dumps(members))


def test_large_numbers_do_not_upset_the_reader() -> None:
    members = json.loads(canonical(plan_of()))
    for value in (2**60, 10**400, -1, 1e300):
        text = jcs.dumps(members).replace(
            b'"seed":0', b'"seed":' + (str(value) if isinstance(value, int) else repr(value)).encode()
        )
        with pytest.raises(PeerError):
            parse_canonical(text)
    assert math.isfinite(plan_of().protection.update_norm)
