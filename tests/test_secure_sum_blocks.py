"""Layout, encoding, decoding, strategy, measurement, public checks: what one coordinate of a sum means, end to end."""

import dataclasses
import hashlib
import io
import math

import numpy as np
import pytest
from fedveil_common import decode, evaluation, initial, layout, sanity, standardisation, strategies, transcript
from fedveil_common.errors import IntegrityError, PolicyRefusal, RoundAborted
from fedveil_common.messages import Purpose
from fedveil_common.plan import Plan, parse_plan, with_seed
from fedveil_common.plan.parameters import Layer
from fedveil_participant.data.csv_source import Source, read_source
from fedveil_participant.data.prepare import Rows
from fedveil_participant.update import contribution, encode
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from sklearn.metrics import roc_auc_score

CALM = settings(deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])

KEY = b"r" * 32


def plan_text(
    target: str = "{column: y, type: binary}", model: str = "logistic", more: str = "", cap: int = 100, bits: int = 16
) -> bytes:
    return f"""\
version: 1
name: p
kind: train
data:
  dataset: d
  features:
    a: {{type: float, range: [0, 10], missing: mean}}
    c: {{type: category, values: [x, y, z]}}
    b: {{type: float, range: [-1, 1]}}
  target: {target}
  min_rows: 3
  standardise: federated
model: {{kind: {model}, l2: 0.001}}
training: {{rounds: 4, learning_rate: 0.1, seed: 7, weight_cap: {cap}}}
evaluation: {{every: 2, holdout: 0.3{more}}}
cohort: {{min_participants: 3}}
protection: {{kind: masked, update_norm: 5, value_bits: {bits}}}
privacy: none
""".encode()


PLAN = parse_plan(plan_text(), "p")
LINEAR = parse_plan(plan_text("{column: y, type: float, range: [-10, 10]}", "linear"), "p")


def source(rows: int, seed: int = 0, plan: Plan = PLAN) -> Source:
    draw = np.random.default_rng(seed)
    a, b, c = draw.uniform(0, 10, rows), draw.uniform(-1, 1, rows), draw.integers(0, 3, rows)
    y = a + 2 * b - 5 + draw.normal(0, 1, rows)
    target = np.clip(y, -10, 10) if plan is LINEAR else (y > 0).astype(int)
    lines = [
        f"{p!r},{'xyz'[k]},{q!r},{t!r}" for p, k, q, t in zip(a.tolist(), c, b.tolist(), target.tolist(), strict=True)
    ]
    return read_source(io.BytesIO(("a,c,b,y\n" + "\n".join(lines)).encode()), "s", plan, KEY)


def names(plan: Plan, purpose: Purpose, step: int = 0) -> list[tuple[str, int]]:
    return [(block.name, block.length) for block in layout.layout_for(plan, purpose, step).blocks]


EVALUATION = [("holdout", 1), ("correct", 1), ("neg", 64), ("pos", 64), ("loss", 1)]


def test_the_blocks_of_each_purpose() -> None:
    assert names(PLAN, Purpose.TRAIN, 0) == [("update", 5), ("weight", 1), *EVALUATION]
    assert names(PLAN, Purpose.TRAIN, 1) == [("update", 5), ("weight", 1)]
    assert names(PLAN, Purpose.TRAIN, 2) == [("update", 5), ("weight", 1), *EVALUATION]
    assert names(PLAN, Purpose.EVALUATE, 4) == EVALUATION
    moments = [("rows", 1), *[(f"{kind}:{f}", 1) for f in "ab" for kind in ("present", "sum", "squares")]]
    assert names(PLAN, Purpose.STANDARDISE) == moments
    assert names(LINEAR, Purpose.EVALUATE) == [("holdout", 1), ("loss", 1)]
    only_loss = parse_plan(plan_text(more=", metrics: [loss]"), "p")
    assert names(only_loss, Purpose.EVALUATE) == [("holdout", 1), ("loss", 1)]  # what is not asked for does not open


def test_scales_and_caps_are_those_of_a17() -> None:
    m = 2**15 - 1
    blocks = {block.name: block for block in layout.layout_for(PLAN, Purpose.TRAIN, 0).blocks}
    assert (blocks["update"].cap, blocks["update"].scale) == (5.0, m / 5.0)
    assert (blocks["weight"].cap, blocks["weight"].scale) == (1.0, m)
    for name in ("holdout", "correct", "neg", "pos"):
        assert (blocks[name].cap, blocks[name].scale) == (100.0, m // 100)
    assert (blocks["loss"].cap, blocks["loss"].scale) == (1600.0, m / 1600)
    moments = layout.layout_for(PLAN, Purpose.STANDARDISE, 0).blocks
    assert {(block.cap, block.scale) for block in moments} == {(100.0, m / 100)}


def test_the_layout_hash_is_what_it_was() -> None:
    # Wire: a change here makes every participant refuse every manifest of an older coordinator.
    known = "9d60eebdd71e51eaf9a8b9df8591af20aade26605db3a13895618d2b6c3c8fa8"
    assert layout.layout_for(PLAN, Purpose.TRAIN, 1).hash.hex() == known
    text = b'[{"cap":5,"length":5,"name":"update","scale":6553.4},{"cap":1,"length":1,"name":"weight","scale":32767}]'
    label = b"FLSA/1/layout"
    digest = hashlib.sha256(len(label).to_bytes(4, "big") + label + len(text).to_bytes(4, "big") + text)
    assert layout.layout_for(PLAN, Purpose.TRAIN, 1).hash == digest.digest()


@CALM
@given(st.integers(8, 24), st.integers(1, 127), st.floats(1e-3, 1e3))
def test_a_cap_never_exceeds_the_largest_value(bits: int, cap: int, norm: float) -> None:
    plan = dataclasses.replace(
        PLAN,
        protection=dataclasses.replace(PLAN.protection, value_bits=bits, update_norm=norm),
        training=dataclasses.replace(PLAN.training, weight_cap=cap),
    )
    for purpose in (Purpose.TRAIN, Purpose.STANDARDISE):
        made = layout.layout_for(plan, purpose, 0)
        assert made.length == sum(part.stop - part.start for part in made.slices().values())
        for block in made.blocks:
            assert 1 <= block.limit <= plan.protection.max_value


def test_the_query_digest_names_the_question_and_nothing_else() -> None:
    same = [
        with_seed(PLAN, 8),
        dataclasses.replace(PLAN, training=dataclasses.replace(PLAN.training, rounds=9)),
        dataclasses.replace(PLAN, data=dataclasses.replace(PLAN.data, dataset="e", person="who")),
    ]
    other = [
        dataclasses.replace(PLAN, training=dataclasses.replace(PLAN.training, weight_cap=99)),
        dataclasses.replace(PLAN, data=dataclasses.replace(PLAN.data, features=PLAN.data.features[::-1])),
    ]
    assert {layout.query_digest(plan) for plan in same} == {layout.query_digest(PLAN)}
    assert len({layout.query_digest(plan) for plan in [PLAN, *other]}) == 3


def test_the_first_model_is_the_one_of_the_specification() -> None:
    from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

    label, seed = b"FLSA/1/init-model", (7).to_bytes(8, "big")
    key = hashlib.sha256(len(label).to_bytes(4, "big") + label + len(seed).to_bytes(4, "big") + seed).digest()
    stream = Cipher(algorithms.AES(key), modes.CTR(bytes(16))).encryptor().update(bytes(8 * 12 * 4))
    expected = []
    for weight in range(4):
        total = 0.0
        for word in range(12):
            at = 8 * (12 * weight + word)
            total += (int.from_bytes(stream[at : at + 8], "little") >> 11) * 2.0**-53
        expected.append(np.float32(0.01 * (total - 6.0)))
    model = initial.initial_model(PLAN)
    assert model.dtype == np.float32
    assert model.tolist() == [*map(float, expected), 0.0]
    assert PLAN.model.initial == transcript.model_hash(model.tobytes()).hex()
    many = initial.draw(1, (Layer(20_000, 1),))[:-1].astype(np.float64)
    assert abs(many.mean()) < 5 * 0.01 / math.sqrt(20_000)
    assert abs(many.std() - 0.01) < 5 * 0.01 / math.sqrt(40_000)


def encoded(made: layout.Layout, blocks: list[np.ndarray], key: bytes, value_bits: int = 16) -> np.ndarray:
    """The signed integers of one input."""
    return encode(made, np.concatenate(blocks), key, value_bits).integers


@CALM
@given(st.lists(st.floats(-5, 5), min_size=5, max_size=5), st.integers(0, 2**32 - 1), st.integers(1, 8))
def test_decoding_what_was_encoded_errs_by_less_than_a_grid_step_each(
    values: list[float], key: int, count: int
) -> None:
    made = layout.layout_for(PLAN, Purpose.TRAIN, 1)
    blocks = [np.array(values), np.array([0.5])]
    total = np.zeros(made.length, dtype=np.int32)
    for member in range(count):
        total += encoded(made, blocks, hashlib.sha256(f"{key}/{member}".encode()).digest())
    decoded = decode.decode(made, total)
    for block, sent in zip(made.blocks, blocks, strict=True):
        # one grid step for rounding, and one where the cap of the block cuts the last fraction of a step
        assert np.abs(decoded[block.name].at() - count * sent).max() <= count * (2.0 / block.scale)


def test_every_block_is_capped_in_integers_and_clamps_are_counted() -> None:
    made = layout.layout_for(PLAN, Purpose.TRAIN, 0)
    wild = [np.full(block.length, sign * 1e300) for block, sign in zip(made.blocks, [1, -1] * 4, strict=False)]
    made_integers = encode(made, np.concatenate(wild), KEY, 16)
    assert made_integers.clamps == made.length
    values = made_integers.integers
    for block, where in zip(made.blocks, made.slices().values(), strict=True):
        assert set(np.abs(values[where]).tolist()) == {block.limit}
    for start in (1, -1, made.length):
        with pytest.raises(ValueError, match="fit the layout"):
            encode(made, np.concatenate(wild), KEY, 16, start)


@CALM
@given(st.integers(0, 135), st.integers(1, 140))
def test_a_piece_of_a_vector_is_encoded_as_in_the_whole(start: int, count: int) -> None:
    made = layout.layout_for(PLAN, Purpose.TRAIN, 0)
    values = np.random.default_rng(3).normal(size=made.length)
    whole = encode(made, values, KEY, 16)
    count = min(count, made.length - start)
    piece = encode(made, values[start : start + count], KEY, 16, start)
    assert piece.integers.tolist() == whole.integers[start : start + count].tolist()


def test_decode_refuses_vectors_of_another_shape_or_type() -> None:
    made = layout.layout_for(PLAN, Purpose.TRAIN, 1)
    for bad in (np.zeros(5, np.int32), np.zeros(6, np.uint32), np.zeros(6, np.float64)):
        with pytest.raises(ValueError, match="signed integers"):
            decode.decode(made, bad)  # type: ignore[arg-type]


# --- strategy ---


def opened(update: object, weight: float) -> dict[str, decode.Readings]:
    """An opened sum with these values as they are."""
    return {"update": reading(np.array(update, dtype=np.float64)), "weight": reading(np.array([weight]))}


def reading(values: np.ndarray) -> decode.Readings:
    """A block that reads as these values."""
    return decode.Readings(values, 1.0)


def test_federated_averaging_is_the_weighted_mean() -> None:
    model = np.array([1.0, 2.0], dtype=np.float32)
    stepped = strategies.apply(PLAN, strategies.start(PLAN, model), opened([0.5, -1.0], 2.0)).model
    assert stepped.dtype == np.float32
    assert stepped.tolist() == [1.25, 1.5]


def test_no_weight_aborts_the_round_and_infinity_is_rejected() -> None:
    model = np.ones(2, dtype=np.float32)
    with pytest.raises(RoundAborted) as aborted:
        strategies.apply(PLAN, strategies.start(PLAN, model), opened([0.0, 0.0], 0.0))
    assert aborted.value.code == "no_weight"
    with pytest.raises(IntegrityError) as rejected:
        strategies.apply(PLAN, strategies.start(PLAN, model), opened([1e300, 0.0], 1.0))
    assert rejected.value.code == "model_rejected"


def test_a_long_model_is_stepped_as_a_short_one() -> None:
    draw = np.random.default_rng(0)
    model = draw.normal(size=40_000).astype(np.float32)
    update = draw.normal(size=40_000)
    whole = strategies.apply(PLAN, strategies.start(PLAN, model), opened(update, 3.0)).model
    parts = [
        strategies.apply(PLAN, strategies.start(PLAN, model[i : i + 7]), opened(update[i : i + 7], 3.0)).model
        for i in range(0, 40_000, 7)
    ]
    assert (whole == np.concatenate(parts)).all()


# --- what a participant contributes ---


def sum_of(plan: Plan, purpose: Purpose, step: int, sources: list[Source], model=None, scaling=None):  # type: ignore[no-untyped-def]
    made = layout.layout_for(plan, purpose, step)
    total = np.zeros(made.length, dtype=np.int32)
    for index, member in enumerate(sources):
        blocks = contribution(plan, purpose, step, member, model, scaling)
        total += encoded(made, blocks, hashlib.sha256(bytes([index])).digest(), plan.protection.value_bits)
    return decode.decode(made, total)


def test_summed_moments_are_those_of_all_rows() -> None:
    sources = [source(60, 1), source(80, 2), source(40, 3)]
    scaling = standardisation.from_sum(PLAN, sum_of(PLAN, Purpose.STANDARDISE, 0, sources))
    for index, (name, half) in enumerate([("a", 5.0), ("b", 1.0)]):
        pooled = np.concatenate([member.table.numbers[name] for member in sources])
        assert scaling.mean[index] == pytest.approx(pooled.mean(), abs=0.002 * half)
        assert scaling.std[index] == pytest.approx(pooled.std(), abs=0.002 * half)
    assert standardisation.from_bytes(scaling.to_bytes()) == scaling
    assert scaling.hash == hashlib.sha256(scaling.to_bytes()).digest()


def test_constant_and_unknown_features_do_not_divide_by_zero() -> None:
    text = "a,c,b,y\n" + "?,x,0.25,1\n" * 5
    only = read_source(io.BytesIO(text.encode()), "s", PLAN, KEY)
    scaling = standardisation.from_sum(PLAN, sum_of(PLAN, Purpose.STANDARDISE, 0, [only]))
    assert scaling.mean[0] == 5.0
    assert scaling.std[0] == 5.0
    assert scaling.mean[1] == pytest.approx(0.25, abs=0.02)
    assert scaling.std[1] >= standardisation.MIN_STD
    assert standardisation.by_range(PLAN).mean.tolist() == [5.0, 0.0]
    with pytest.raises(ValueError, match="secure sum"):
        standardisation.without_sum(PLAN)


@pytest.mark.parametrize("data", [b"x", np.array([0.0, 0.0]).tobytes(), np.array([np.nan, 1.0]).tobytes()])
def test_a_standardisation_is_finite_and_positive(data: bytes) -> None:
    with pytest.raises(ValueError, match="standardisation"):
        standardisation.from_bytes(data)


class Fixed:
    """A trainer that returns what it was given."""

    def __init__(self, value: NDArray[np.float64]) -> None:
        self.value = value

    def update(self, plan: Plan, model: NDArray[np.float32], rows: Rows) -> NDArray[np.float64]:
        return self.value


MODEL = initial.initial_model(PLAN)
SCALING = standardisation.by_range(PLAN)


def test_an_update_is_clipped_and_weighed_by_training_rows() -> None:
    member = source(50)
    held = int((member.positions < np.uint64(int(0.3 * 2**64))).sum())
    assert 0 < held < 50
    blocks = contribution(PLAN, Purpose.TRAIN, 1, member, MODEL, SCALING, Fixed(np.full(5, 1e6)))
    weight = (50 - held) / 100
    assert blocks[1].tolist() == [weight]
    assert np.linalg.norm(blocks[0]) == pytest.approx(5 * weight)
    large = contribution(PLAN, Purpose.TRAIN, 1, source(400), MODEL, SCALING, Fixed(np.zeros(5)))
    assert large[1].tolist() == [1.0]


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_an_update_that_is_not_finite_stops_here(value: float) -> None:
    update = np.zeros(5)
    update[3] = value
    with pytest.raises(PolicyRefusal) as caught:
        contribution(PLAN, Purpose.TRAIN, 1, source(20), MODEL, SCALING, Fixed(update))
    assert caught.value.code == "update_not_finite"
    made = layout.layout_for(PLAN, Purpose.TRAIN, 1)
    with pytest.raises(PolicyRefusal) as caught:
        encode(made, np.append(update, 1.0), KEY, 16)
    assert caught.value.code == "update_not_finite"
    broken = MODEL.copy()
    broken[0] = value
    with pytest.raises(PolicyRefusal), np.errstate(invalid="ignore"):
        contribution(PLAN, Purpose.EVALUATE, 0, source(20), broken, SCALING)


def test_the_same_inputs_give_the_same_update() -> None:
    first = contribution(PLAN, Purpose.TRAIN, 0, source(50), MODEL, SCALING)
    again = contribution(PLAN, Purpose.TRAIN, 0, source(50), MODEL, SCALING)
    assert all((a == b).all() for a, b in zip(first, again, strict=True))


def test_a_trainer_that_returns_another_shape_is_misuse() -> None:
    with pytest.raises(ValueError, match="trainer"):
        contribution(PLAN, Purpose.TRAIN, 1, source(20), MODEL, SCALING, Fixed(np.zeros(4)))
    with pytest.raises(ValueError, match="shape"):
        strategies.apply(PLAN, strategies.start(PLAN, MODEL), opened([0.0] * 4, 1.0))
    with pytest.raises(ValueError, match="statistics"):
        layout.layout_for(PLAN, Purpose.STATISTICS, 0)


def test_purposes_that_lack_something_are_misuse() -> None:
    for purpose, model in ((Purpose.STATISTICS, MODEL), (Purpose.TRAIN, None)):
        with pytest.raises(ValueError, match="model"):
            contribution(PLAN, purpose, 0, source(20), model, SCALING)


# --- measurement ---


@settings(CALM, max_examples=20)
@given(st.integers(0, 1000))
def test_summed_metrics_are_those_of_all_holdout_rows(seed: int) -> None:
    sources = [source(60, seed), source(70, seed + 1), source(50, seed + 2)]
    model = np.array([1.5, 0.1, -0.1, 0.8, 0.1], dtype=np.float32)
    decoded = sum_of(PLAN, Purpose.EVALUATE, 0, sources, model, SCALING)
    found = evaluation.metrics(PLAN, decoded)
    scores, labels = [], []
    for member in sources:
        from fedveil_common import prediction

        out = member.positions < np.uint64(int(0.3 * 2**64))
        scores.append(prediction.predict(PLAN, model, SCALING, member.table)[out])
        assert member.table.target is not None
        labels.append(member.table.target[out])
    p, y = np.concatenate(scores), np.concatenate(labels)
    assert found.rows == len(y)
    assert found.accuracy == pytest.approx(((p >= 0.5) == y).mean())
    assert found.loss == pytest.approx(-(y * np.log(p) + (1 - y) * np.log(1 - p)).mean(), abs=3 / 20 / len(y))
    if 0 < y.sum() < len(y):
        bins = np.minimum((p * 64).astype(int), 63)
        ties = (bins[y == 1][:, None] == bins[y == 0][None, :]).mean()
        assert found.auc is not None
        assert abs(found.auc - roc_auc_score(y, p)) <= ties / 2 + 1e-12
        assert found.auc == pytest.approx(roc_auc_score(y, bins))


def test_large_holdouts_are_weighed_down_to_the_cap() -> None:
    plan = parse_plan(plan_text(cap=10), "p")
    decoded = sum_of(plan, Purpose.EVALUATE, 0, [source(200)], MODEL, SCALING)
    assert decoded["holdout"].only == pytest.approx(10)
    assert evaluation.metrics(plan, decoded).rows == pytest.approx(10)
    assert decoded["neg"].at().sum() + decoded["pos"].at().sum() == pytest.approx(10, abs=128 / (32767 // 10))


def test_a_holdout_without_rows_or_classes() -> None:
    blocks = layout.layout_for(PLAN, Purpose.EVALUATE, 0).blocks
    zero = {block.name: reading(np.zeros(block.length)) for block in blocks}
    with pytest.raises(RoundAborted) as caught:
        evaluation.metrics(PLAN, zero)
    assert caught.value.code == "no_holdout_rows"
    three = reading(np.array([3.0]))
    one = {**zero, "holdout": three, "correct": three, "neg": reading(np.eye(64)[0] * 3)}
    assert evaluation.metrics(PLAN, one) == evaluation.Metrics(0.0, 1.0, None, 3.0)
    with pytest.raises(ValueError, match="evaluation"):
        evaluation.metrics(PLAN, {"update": reading(np.zeros(1))})


def test_linear_losses_are_squared_errors_on_the_scaled_target() -> None:
    member = source(80, plan=LINEAR)
    decoded = sum_of(LINEAR, Purpose.EVALUATE, 0, [member], np.zeros(5, np.float32), SCALING)
    found = evaluation.metrics(LINEAR, decoded)
    out = member.positions < np.uint64(int(0.3 * 2**64))
    assert member.table.target is not None
    assert found.loss == pytest.approx(np.mean((member.table.target[out] / 10) ** 2), abs=1 / 20 / out.sum())
    assert found.accuracy is None
    assert found.auc is None


# --- public checks ---


def test_a_sum_of_honest_updates_passes_and_a_poisoned_one_does_not() -> None:
    made = layout.layout_for(PLAN, Purpose.TRAIN, 1)
    honest = np.zeros(5)
    honest[0] = 5.0  # as long as an honest update can be
    total = sum(encoded(made, [honest, np.ones(1)], bytes([i]) * 32) for i in range(3))
    sanity.check_norm(PLAN, decode.decode(made, np.asarray(total, dtype=np.int32)), 3)
    evil = encoded(made, [np.full(5, 1e9), np.ones(1)], KEY)  # every coordinate at its cap
    poisoned = decode.decode(made, np.asarray(total + 2 * evil, dtype=np.int32))
    with pytest.raises(IntegrityError) as caught:
        sanity.check_norm(PLAN, poisoned, 5)
    assert caught.value.code == "model_rejected"


@pytest.mark.parametrize(("update", "weight"), [(np.nan, 1.0), (np.inf, 1.0), (0.0, 4.0), (0.0, -1.0), (0.0, np.nan)])
def test_sums_that_no_honest_cohort_makes(update: float, weight: float) -> None:
    with pytest.raises(IntegrityError):
        sanity.check_norm(PLAN, opened([update] * 5, weight), 3)


def test_a_new_model_may_not_be_twice_as_bad_as_the_best() -> None:
    sanity.check_loss(None, 16.0)
    sanity.check_loss(0.5, 1.0)
    sanity.check_loss(0.0, 0.001)
    for best, loss in ((0.5, 1.0001), (None, math.nan), (0.5, math.inf), (0.0, 0.1)):
        with pytest.raises(IntegrityError) as caught:
            sanity.check_loss(best, loss)
        assert caught.value.code == "model_rejected"
