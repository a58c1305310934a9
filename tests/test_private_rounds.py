"""Private rounds end to end: the noise is in the sum, the model follows from it alone, the budget ends the run."""

import math

import numpy as np
import pytest
from encrypted_federation import KEY_ID, encrypted_federation
from federation import FIVE, RUN, check_sums, federation, journal
from fedveil_common import modelfile, private_sum, provenance
from fedveil_common import plan as plans
from fedveil_common.dp import budget
from fedveil_common.ids import OrgId
from fedveil_common.plan import NotInThisReleaseError, PlanError
from fedveil_common.secret import Seed
from fedveil_participant.training import clipped
from fedveil_simulation.cluster import Cluster
from numpy.typing import NDArray
from private_federation import (
    PLAN,
    SETTINGS,
    private_bytes,
    private_plan,
    settled_sum,
    share,
    whole_plan,
    whole_text,
)


def ended(cluster: Cluster, plan: bytes) -> str:
    cluster.start_run(RUN, plan)
    cluster.play(lambda: cluster.memory.runs[RUN][1] == "ended", 400_000.0)
    return cluster.memory.runs[RUN][2]


def ledger_of(cluster: Cluster, org: OrgId) -> budget.Ledger:
    entries = cluster.members[org].memory.kept.ledger
    assert all(one.dataset == "table" for one in entries)
    return budget.fold(one.entry for one in entries)


def test_a_private_run_under_masks() -> None:
    plan = private_bytes()
    cluster = federation(plan=plan)
    assert ended(cluster, plan) == "finished"
    assert check_sums(cluster) == 3, "each sum is that of what the participants encoded, noise included"


def test_both_ledgers_say_what_the_plan_says() -> None:
    plan = private_bytes(rounds=4)
    cluster = federation(plan=plan)
    assert ended(cluster, plan) == "finished"
    parsed = plans.parse_canonical(plan)
    assert parsed.privacy is not None
    due = private_sum.spent(parsed, parsed.privacy, 4)
    assert 0 < due < math.inf
    for org in cluster.members:
        ledger = ledger_of(cluster, org)
        assert ledger.spent(RUN).epsilon(1e-5) == due
        attempts = ledger.account(RUN).attempts
        assert len(attempts) == 4
        assert all(isinstance(one, budget.Settled) for one in attempts.values())


@pytest.mark.parametrize(("most", "steps"), [(8.0, 2), (5.0, 1)])
def test_the_run_ends_before_the_step_that_would_cost_too_much(most: float, steps: int) -> None:
    plan = private_plan(rounds=50, most=most)
    assert plan.privacy is not None
    allowed = private_sum.steps_allowed(plan, plan.privacy)
    assert private_sum.spent(plan, plan.privacy, allowed) <= most < private_sum.spent(plan, plan.privacy, allowed + 1)
    cluster = federation(plan=plans.canonical(plan))
    assert ended(cluster, plans.canonical(plan)) == "budget_spent"
    assert len(cluster.memory.sums) == allowed == steps
    for org, member in cluster.members.items():
        assert ledger_of(cluster, org).spent(RUN).epsilon(plan.privacy.delta) <= most
        (end,) = member.memory.ends.values()
        assert end[1] == "budget_spent"
        assert end[2], "the model of the last step is signed, derived again and stored"


def test_the_noise_in_the_sum_is_that_of_the_plan() -> None:
    """Same data, no gradient: what is left is noise, whose variance is each member's over q - c times the members, and
    once the sum is settled over q - c times the quorum.
    """
    plan = private_plan(
        rounds=8, rate=1e-9, noise="noise_multiplier: 3.0", most=1000.0, model="{kind: mlp, hidden: [64]}"
    )
    assert plan.privacy is not None
    cluster = federation(names=FIVE, plan=plans.canonical(plan))
    assert ended(cluster, plans.canonical(plan)) == "finished"
    raw = np.stack([cluster.memory.read_sum(RUN, number).astype(np.float64) for number in range(1, 9)])
    sums = np.stack([settled_sum(cluster, plan, number).astype(np.float64) for number in range(1, 9)])
    least = private_sum.grid(plan, plan.privacy).variance / 3
    assert least <= share(plan) < least + 2
    for found, times in ((raw, 5), (sums, 4)):  # the model hardly moves: every sum has the same gradient in it
        variance = found.var(axis=0, ddof=1).mean()
        assert abs(variance / (times * least) - 1) < 0.12, "449*7 squares: one standard deviation is 0.025"


@pytest.mark.parametrize("strategy", ["{kind: fedavg}", "{kind: fedavgm}", "{kind: fedadam, learning_rate: 0.1}"])
@pytest.mark.parametrize("model", ["{kind: logistic}", "{kind: mlp, hidden: [4], l2: 0.01}"])
def test_every_participant_derives_the_model_from_the_noisy_sums(strategy: str, model: str) -> None:
    plan = private_plan(strategy=strategy, model=model)
    cluster = federation(plan=plans.canonical(plan))
    assert ended(cluster, plans.canonical(plan)) == "finished"
    lineage = provenance.begin(plan, None)
    for number in range(1, 4):
        lineage = provenance.advance(lineage, settled_sum(cluster, plan, number))
    for member in cluster.members.values():
        (end,) = member.memory.ends.values()
        np.testing.assert_array_equal(modelfile.read_model(end[2]).model, lineage.model)


def test_the_coordinators_noise_under_encryption() -> None:
    """The founding sentence: encrypted updates are added as ciphertexts, with noise committed to in the offer. What the
    opened sums hold beside the participants' own integers is the plan's noise, and no participant added any.
    """
    plan = private_plan(kind=f"paillier, key: {KEY_ID}", by="coordinator", rounds=2, model="{kind: mlp, hidden: [64]}")
    cluster = encrypted_federation(plan=plans.canonical(plan))
    assert ended(cluster, plans.canonical(plan)) == "finished"
    assert plan.privacy is not None
    added = np.concatenate([cluster.memory.read_sum(RUN, number) - put_in(cluster, number) for number in (1, 2)])
    found = float((added.astype(np.float64) ** 2).mean()) / private_sum.grid(plan, plan.privacy).variance
    assert abs(found - 1) < 0.3, "898 squares: one standard deviation is 0.047"
    for org in cluster.members:
        assert ledger_of(cluster, org).spent(RUN).epsilon(1e-5) == private_sum.spent(plan, plan.privacy, 2)


def put_in(cluster: Cluster, number: int) -> NDArray[np.int64]:
    """The sum of what the participants encoded, by their own journals; nobody was lost."""
    found = [
        vector
        for org in cluster.members
        for (key, _), vector in journal(cluster, org).encoded.items()
        if (key.run_id, key.round) == (RUN, number)
    ]
    assert len(found) == len(cluster.members)
    return np.asarray(np.sum(np.stack(found), axis=0))


def test_the_participants_noise_under_encryption() -> None:
    """The opened sum is that of the inputs; each input of a plan with noise far above its gradients is mostly noise."""
    plan = private_plan(
        kind=f"paillier, key: {KEY_ID}", rounds=2, noise="noise_multiplier: 30.0", model="{kind: mlp, hidden: [64]}"
    )
    cluster = encrypted_federation(plan=plans.canonical(plan))
    assert ended(cluster, plans.canonical(plan)) == "finished"
    for number in (1, 2):
        opened = cluster.memory.read_sum(RUN, number)
        np.testing.assert_array_equal(opened, put_in(cluster, number))
        found = float((opened.astype(np.float64) ** 2).mean()) / (3 * share(plan, 3, 1, 3))
        assert abs(found - 1) < 0.4, "449 squares: one standard deviation is 0.067"


@pytest.mark.parametrize("kind", ["masked", f"paillier, key: {KEY_ID}"])
def test_a_run_that_protects_whole_participants(kind: str) -> None:
    plan = whole_plan(kind=kind, rounds=2)
    assert plan.privacy is not None
    data = plans.canonical(plan)
    assert plans.parse_canonical(data) == plan
    cluster = federation(plan=data) if kind == "masked" else encrypted_federation(plan=data)
    assert ended(cluster, data) == "finished"
    for org in cluster.members:
        assert ledger_of(cluster, org).spent(RUN).epsilon(1e-5) == private_sum.spent(plan, plan.privacy, 2)


def test_a_whole_update_is_clipped_exactly_whatever_its_size() -> None:
    plan = whole_plan(clip=2.0)
    assert plan.privacy is not None
    bound = private_sum.grid(plan, plan.privacy).sensitivity
    rng = np.random.default_rng(5)
    for size in (1e-3, 1.0, 2.0, 1e9, 1e200, np.inf, np.nan):
        for key in range(8):
            update = rng.normal(size=6) * size
            found = clipped.clipped_whole(plan, plan.privacy, update, Seed(bytes([key]) * 32))
            assert sum(int(one) ** 2 for one in found) <= bound**2
            assert found.any() or not np.isfinite(size) or size == 1e200


@pytest.mark.parametrize(
    ("old", "new", "path"),
    [
        ("unit: participant", "unit: participant, rows: 100", "privacy.rows"),
        ("unit: participant", "unit: participant, sample_rate: 0.5", "privacy.sample_rate"),
        ("learning_rate: 1.0", "learning_rate: 1.0, weight: rows", "training.weight"),
        ("max_epsilon: 100.0", "max_epsilon: 0.1", "privacy.max_epsilon"),
    ],
)
def test_what_a_plan_for_whole_participants_may_not_say(old: str, new: str, path: str) -> None:
    text = whole_text()
    assert old in text
    with pytest.raises(PlanError) as caught:
        plans.parse_plan(text.replace(old, new).encode(), "whole.yaml")
    assert [one.path for one in caught.value.problems] == [path]


@pytest.mark.parametrize(
    ("old", "new", "field"),
    [
        ("privacy: {", "privacy: {adaptive_clip: {quantile: 0.5}, ", "privacy.adaptive_clip"),
        ("cohort:", "continues: [{run: r-1, steps: 3}]\ncohort:", "continues"),
    ],
)
def test_what_this_release_lacks_of_privacy_is_named(old: str, new: str, field: str) -> None:
    text = PLAN.format(**SETTINGS)
    assert old in text
    with pytest.raises(NotInThisReleaseError) as caught:
        plans.parse_plan(text.replace(old, new).encode(), "private.yaml")
    assert [one.rpartition(" ")[2] for one in caught.value.fields] == [field]


def test_an_evaluation_of_whole_participants_is_not_in_this_release() -> None:
    with pytest.raises(NotInThisReleaseError) as caught:
        whole_plan(evaluation="evaluation: {holdout: 0.2}")
    assert [one.rpartition(" ")[2] for one in caught.value.fields] == ["evaluation"]
