"""What an attacker learns of a record, and whether the mechanism costs what the accountant says (D20).

First the attack succeeds where nothing protects, so that its failure means something. Then the statistical audit: many
draws of one coordinate through the real path (clip, rounding, share of noise, as a participant runs it), with and
without one record, bounded from below by Clopper and Pearson at 99 %. A mechanism that is as good as its word stays
below the accountant's epsilon; each of four faults does not. All keys are fixed: the same draws every time.
"""

import math

import numpy as np
import pytest
from federation import FIVE, RUN, federation, journal
from fedveil_common import plan as plans
from fedveil_common import private_sum
from fedveil_common.crypto.kdf import derive
from fedveil_common.ids import AttemptKey, OrgId
from fedveil_common.plan import Plan, PrivacySpec, parameters
from fedveil_common.secret import Seed
from fedveil_participant import update
from fedveil_participant.data.prepare import Rows
from fedveil_participant.training import clipped
from fedveil_participant.training.clipped import clipped_sum
from fedveil_participant.training.record_gradients import record_gradients
from numpy.typing import NDArray
from private_federation import own_noise, private_plan, share
from scipy import stats

Vector = NDArray[np.float64]

QUORUM, CORRUPT = 4, 1
"""Of five members with one that may be corrupt: what their manifests say."""

# --- gradient leakage -------------------------------------------------------------------------------------------------


def cosine(one: Vector, other: Vector) -> float:
    return float(abs(one @ other) / max(np.linalg.norm(one) * np.linalg.norm(other), 1e-300))


def reconstruct(slope: Vector) -> Vector:
    """The input of a single record from the slopes of a single linear layer: those of the weights over the bias's."""
    return slope[:-1] / slope[-1]


def parts(**settings: object) -> tuple[Plan, PrivacySpec]:
    plan = private_plan(**settings)
    assert plan.privacy is not None
    return plan, plan.privacy


def record(seed: int) -> Rows:
    draw = np.random.default_rng(seed)
    return Rows(draw.uniform(-1, 1, (1, 5)), draw.integers(0, 2, 1).astype(np.float64))


def test_without_protection_one_gradient_is_the_record() -> None:
    plan, _ = parts()
    layers = parameters.layers(plan.model, plan.data)
    for seed in range(50):
        rows, flat = record(seed), np.random.default_rng(seed).normal(size=6)
        slope = record_gradients(plan, layers, flat, rows.inputs, rows.target)[0]
        assert np.abs(reconstruct(slope) - rows.inputs[0]).max() < 1e-12
        coarse = reconstruct(slope.astype(np.float32).astype(np.float64))
        assert np.abs(coarse - rows.inputs[0]).max() < 1e-5


@pytest.mark.parametrize("noise", [0.0, 1.0])
def test_with_the_noise_of_the_plan_it_is_not(noise: float) -> None:
    """The coordinator's best case: every other record is known and taken off, and so are the corrupt one's shares.
    Clipping and rounding alone hide nothing (the control); with the noise the direction is that of a random vector.
    """
    plan, privacy = parts()
    found, random = [], []
    for seed in range(300):
        rows, model = record(seed), np.random.default_rng(seed).normal(size=6).astype(np.float32)
        key = derive(b"", seed.to_bytes(8, "big"), "test/leak")
        total = clipped_sum(plan, privacy, model, rows, Seed(key)).astype(np.float64)
        for honest in range(QUORUM - CORRUPT if noise else 0):
            total += update.noisy(plan, np.zeros(6), own_noise(plan, derive(b"", key, f"test/share/{honest}")))
        found.append(cosine(reconstruct(total), rows.inputs[0]))
        random.append(cosine(np.random.default_rng(seed + 10**6).normal(size=5), rows.inputs[0]))
    if not noise:
        assert np.mean(found) > 0.999
    else:
        assert np.mean(random) == pytest.approx(0.39, abs=0.05)
        assert np.mean(found) < np.mean(random) + 0.15
        assert np.mean(found) < 0.55


def test_what_the_coordinator_receives_of_a_private_run_is_uniform() -> None:
    """Every byte of the uploaded inputs of a real masked run, and the same data in two runs has nothing in common."""
    plan = plans.canonical(
        private_plan(rounds=2, model="{kind: mlp, hidden: [200]}", bits=24, noise="noise_multiplier: 2.0")
    )
    cluster = federation(plan=plan)
    cluster.start_run(RUN, plan)
    cluster.play(lambda: cluster.ended(RUN), 200_000.0)
    assert cluster.memory.runs[RUN][2] == "finished"
    uploads = [np.frombuffer(data, np.uint8) for _, _, data in cluster.uploads]
    assert len(uploads) == 10
    whole = np.concatenate([one[: len(one) // 8 * 8] for one in uploads])
    assert stats.chisquare(np.bincount(whole, minlength=256)).pvalue > 1e-4
    for org in FIVE:
        first, second = (np.frombuffer(data, np.uint8) for name, _, data in cluster.uploads if name == org)
        assert np.mean(first == second) < 3 / 256


# --- the audit --------------------------------------------------------------------------------------------------------

DRAWS = 20_000
DELTA = 1e-5


def canary_plan() -> tuple[Plan, PrivacySpec]:
    """Shift over sigma is 1. The clip norm is a tenth of the canary's slope."""
    return parts(clip=0.1, norm=1.6, bits=16)


def canary(plan: Plan, privacy: PrivacySpec) -> Vector:
    """What the canary adds to its coordinate (the bias; its inputs are 0), per draw: the product's own sum over a table
    of it alone. 200 different secrets, in turn.
    """
    rows = Rows(np.zeros((1, 5)), np.zeros(1))
    model = np.array([0, 0, 0, 0, 0, 5], dtype=np.float32)  # the slope is 0.993
    keys = (Seed(derive(b"", number.to_bytes(8, "big"), "test/canary")) for number in range(200))
    sums = [clipped_sum(plan, privacy, model, rows, key)[-1] for key in keys]
    return np.tile(np.array(sums, dtype=np.float64), DRAWS // len(sums))


def shares(plan: Plan, factor: float, name: str) -> Vector:
    """The noise of the honest members that a sum holds at least, per draw: corrupt ones take theirs off, and as many
    dropped out as may. Variances times `factor`.
    """
    total = np.zeros(DRAWS)
    for honest in range(QUORUM - CORRUPT):
        key = derive(b"", f"{name}/{honest}".encode(), "test/audit")
        total += update.noisy(plan, np.zeros(DRAWS), own_noise(plan, key, factor))
    return total


def gaussian_epsilon(mu: float, delta: float) -> float:
    """The exact epsilon of a Gaussian mechanism with shift mu (Balle, Wang 2018), by bisection."""

    def spends(epsilon: float) -> float:
        far = stats.norm.logcdf(-mu / 2 - epsilon / mu)
        return float(stats.norm.cdf(mu / 2 - epsilon / mu) - math.exp(epsilon + far))

    low, high = 0.0, 300.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if spends(middle) > delta else (low, middle)
    return high


def lower_bound(without: Vector, with_one: Vector, middle: float) -> float:
    """Of epsilon, 99 % sure: both error rates of the test "above `middle`", each bounded at 99.5 % after Clopper and
    Pearson, and the Gaussian that has them.
    """
    alarms, misses = int(np.sum(without > middle)), int(np.sum(with_one <= middle))
    alarm, miss = (float(stats.beta.ppf(0.995, hits + 1, len(without) - hits)) for hits in (alarms, misses))
    mu = float(-stats.norm.ppf(alarm) - stats.norm.ppf(miss))
    return gaussian_epsilon(mu, DELTA) if mu > 0 else 0.0


def claimed(plan: Plan, privacy: PrivacySpec) -> float:
    """The epsilon of one sum by the plan's own grid, as tight as it gets; what the ledger says lies above."""
    exact = gaussian_epsilon(math.sqrt(private_sum.grid(plan, privacy).squared_shift), DELTA)
    assert exact <= private_sum.spent(plan, privacy, 1)
    return exact


def test_d20_the_real_path_costs_no_more_than_is_claimed_and_hardly_less() -> None:
    plan, privacy = canary_plan()
    middle = private_sum.grid(plan, privacy).sensitivity / 2
    moved = canary(plan, privacy)
    for number in range(5):
        found = lower_bound(shares(plan, 1.0, f"a{number}"), shares(plan, 1.0, f"b{number}") + moved, middle)
        assert 0.9 * claimed(plan, privacy) < found <= claimed(plan, privacy)
    assert claimed(plan, privacy) == pytest.approx(4.38, abs=0.01)


@pytest.mark.parametrize("number", range(5))
def test_d20_alarm_at_a_tenth_of_the_noise_missing(number: int) -> None:
    plan, privacy = canary_plan()
    middle = private_sum.grid(plan, privacy).sensitivity / 2
    weak, moved = 0.81, canary(plan, privacy)
    found = lower_bound(shares(plan, weak, f"a{number}"), shares(plan, weak, f"b{number}") + moved, middle)
    assert found > claimed(plan, privacy)


def test_d20_alarm_at_no_clip(monkeypatch: pytest.MonkeyPatch) -> None:
    plan, privacy = canary_plan()
    middle = private_sum.grid(plan, privacy).sensitivity / 2
    monkeypatch.setattr(clipped, "_clipped", lambda gradients, bound, scale: gradients * scale)
    monkeypatch.setattr(clipped, "_within", lambda integers, bound: integers)
    found = lower_bound(shares(plan, 1.0, "a"), shares(plan, 1.0, "b") + canary(plan, privacy), middle)
    assert found > claimed(plan, privacy)


@pytest.mark.parametrize("number", range(5))
def test_d20_alarm_at_shares_that_forget_the_corrupt_members(number: int) -> None:
    """The whole variance over q instead of q - c: what is left without the corrupt one's share is too little."""
    plan, privacy = canary_plan()
    middle = private_sum.grid(plan, privacy).sensitivity / 2
    naive = private_sum.grid(plan, privacy).variance / QUORUM / share(plan)
    assert naive == pytest.approx((QUORUM - CORRUPT) / QUORUM, abs=1e-4)
    noises = [shares(plan, naive, f"{name}{number}") for name in "ab"]
    assert lower_bound(noises[0], noises[1] + canary(plan, privacy), middle) > claimed(plan, privacy)


def test_d20_alarm_at_noise_that_is_used_twice() -> None:
    """Two sums, of which the canary is in the second alone: their difference is looked at."""
    plan, privacy = canary_plan()
    middle = private_sum.grid(plan, privacy).sensitivity / 2
    moved = canary(plan, privacy)
    first, second, fresh = (shares(plan, 1.0, name) for name in "abc")
    assert lower_bound(second - first, fresh - first + moved, middle) < claimed(plan, privacy)
    assert lower_bound(first - first, first + moved - first, middle) > claimed(plan, privacy)


def test_the_noise_of_a_real_run_is_drawn_anew_for_every_member_and_round() -> None:
    """What was encoded less what was made: no two vectors of noise of a run have anything in common."""
    plan = private_plan(rounds=3, model="{kind: mlp, hidden: [16]}")
    canonical = plans.canonical(plan)
    cluster = federation(plan=canonical)
    made: dict[tuple[OrgId, int], Vector] = {}

    def watch(org: OrgId) -> None:
        def saved(kind: str, key: AttemptKey) -> None:
            if kind == "dealers":
                (kept,) = journal(cluster, org).updates.values()
                made[org, key.round] = kept.values.copy()

        journal(cluster, org).on_save = saved

    for org in FIVE:
        watch(org)
    cluster.start_run(RUN, canonical)
    cluster.play(lambda: cluster.ended(RUN), 200_000.0)
    noises = [
        vector - made[org, key.round] for org in FIVE for (key, _), vector in journal(cluster, org).encoded.items()
    ]
    assert len(noises) == 15
    whole = share(plan)
    for number, one in enumerate(noises):
        assert 0.5 < np.mean(one**2) / whole < 1.7
        assert all(cosine(one, other) < 0.45 for other in noises[:number]), "113 coordinates: 4.8 standard deviations"
