"""A corrupt member of a private round that adds no noise, or far more than its share may be: what that costs.

Nothing proves to the others what a member added (docs/privacy.md). So the noise that the accountant counts on is that
of q - c honest members, and a member that adds none takes nothing off it. One that adds too much is any poisoned input:
it costs the sum and not the records of the others, whose noise is still in it; the check of the norm bounds it.
"""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from federation import FIVE, RUN, federation, state
from fedveil_common import member_noise, modelfile, private_sum, provenance
from fedveil_common import plan as plans
from fedveil_common.dp import budget
from fedveil_common.ids import OrgId
from fedveil_common.masking.ring import Signed
from fedveil_common.messages import Manifest
from fedveil_common.noise_links import Coins
from fedveil_common.plan import Plan
from fedveil_participant.bench import TableBench
from fedveil_simulation.cluster import Cluster
from numpy.typing import NDArray
from private_federation import private_plan, said_of, settled_sum

QUORUM, CORRUPT = 4, 1
"""Of five members with one that may be corrupt."""
STEPS = 8

Encoder = Callable[[Plan, Manifest, NDArray[np.float64], Coins, int], Signed]


def corrupted(
    plan: Plan, orgs: tuple[OrgId, ...], encode: Callable[[NDArray[np.float64], Signed], Signed]
) -> tuple[Cluster, str]:
    """A run to its end in which each of `orgs` encodes so."""
    canonical = plans.canonical(plan)
    cluster = federation(plan=canonical)
    for org in orgs:
        driver = cluster.members[org].driver
        assert driver is not None
        bench = driver._bench
        assert isinstance(bench, TableBench)

        def lying(
            plan: Plan,
            manifest: Manifest,
            values: NDArray[np.float64],
            coins: Coins,
            start: int,
            honest: Encoder = bench.encode,
        ) -> Signed:
            return encode(values, honest(plan, manifest, values, coins, start))

        bench.encode = lying  # type: ignore[method-assign]
    cluster.start_run(RUN, canonical)
    cluster.play(lambda: cluster.ended(RUN), 400_000.0)
    return cluster, cluster.memory.runs[RUN][2]


def without_noise(values: NDArray[np.float64], honest: Signed) -> Signed:
    return np.rint(values).astype(honest.dtype)


def still_plan(noise: float = 3.0) -> Plan:
    """A plan whose model hardly moves: what varies between its sums is the noise."""
    return private_plan(
        rounds=STEPS, rate=1e-9, noise=f"noise_multiplier: {noise}", most=1000.0, model="{kind: mlp, hidden: [64]}"
    )


def variance(cluster: Cluster, plan: Plan, silent: tuple[OrgId, ...]) -> float:
    """Of the noise in one coordinate of the opened sums, once all that is public is taken off: what the honest members
    showed. (The silent ones' links lead to noise that they never added, which everybody can take off too.)
    """
    sums = []
    for number in range(1, STEPS + 1):
        manifest, result = said_of(cluster, number)
        (one,) = result.removal
        honest = replace(one, links=tuple(pair for pair in one.links if pair[0] not in silent))
        opened = cluster.memory.read_sum(RUN, number)
        sums.append(member_noise.settled(plan, manifest, replace(result, removal=(honest,)), opened).astype(np.float64))
    return float(np.stack(sums).var(axis=0, ddof=1).mean())


@pytest.mark.parametrize("silent", [1, 3])
def test_a_member_that_adds_no_noise_is_one_that_c_accounts_for(silent: int) -> None:
    """One takes nothing off the noise that is charged; three, more than the plan names, would."""
    plan = still_plan()
    assert plan.privacy is not None
    cluster, code = corrupted(plan, FIVE[:silent], without_noise)
    assert code == "finished", "nobody can see it, and nobody is left out"
    levels, whole = private_sum.shares(plan, 5, QUORUM, CORRUPT), private_sum.grid(plan, plan.privacy).variance
    assert levels is not None
    found = variance(cluster, plan, FIVE[:silent])
    assert abs(found / ((5 - silent) * levels.base) - 1) < 0.15, "449*7 squares: one standard deviation is 0.025"
    assert (5 - CORRUPT) * levels.base > whole, "16/15 of it"
    assert ((5 - silent) * levels.base > whole) is (silent <= CORRUPT)
    for member in cluster.members.values():
        ledger = budget.fold(one.entry for one in member.memory.kept.ledger)
        assert ledger.spent(RUN).epsilon(1e-5) == private_sum.spent(plan, plan.privacy, STEPS)


def test_a_share_far_beyond_its_cap_ends_the_run_and_uncovers_nobody() -> None:
    """The sum is refused by its norm, the model before it stays; the noise of the honest is in what was opened."""
    plan = private_plan(rounds=2, model="{kind: mlp, hidden: [64]}", noise="noise_multiplier: 3.0", most=1000.0)
    assert plan.privacy is not None
    shift = 6 * private_sum.share_cap(
        plan, len(FIVE), QUORUM, CORRUPT
    )  # a quarter of the ring: more wraps, and is as wrong
    cluster, code = corrupted(plan, FIVE[:1], lambda values, honest: (honest + shift).astype(honest.dtype))
    assert code == "model_rejected"
    assert state(cluster).rejected == "norm"
    for member in cluster.members.values():
        (end,) = member.memory.ends.values()
        assert end[1] == "model_rejected"
        ledger = budget.fold(one.entry for one in member.memory.kept.ledger)
        (one,) = ledger.account(RUN).attempts.values()
        assert isinstance(one, budget.Settled), "the sum was opened: it is paid for"
    opened = cluster.memory.read_sum(RUN, 1).astype(np.float64)
    noise = opened - np.median(opened)
    whole = private_sum.grid(plan, plan.privacy).variance
    assert noise.var() > whole, "the shift is what the corrupt member knows; the rest it cannot take off"


def test_a_share_beyond_its_cap_that_passes_moves_the_model_by_that_much() -> None:
    """Three caps more in a single coordinate: the model moves by it, over the nominal rows, and nowhere else."""
    plan = private_plan(rounds=1, noise="noise_multiplier: 3.0")
    beyond = 3 * private_sum.share_cap(plan, len(FIVE), QUORUM, CORRUPT)

    def more(values: NDArray[np.float64], honest: Signed) -> Signed:
        made = honest.copy()
        made[2] += beyond
        return made

    models = []
    for encode in (lambda values, honest: honest, more):
        cluster, code = corrupted(plan, FIVE[:1], encode)
        assert code == "finished"
        found = {end[2] for member in cluster.members.values() for end in member.memory.ends.values()}
        (file,) = found
        models.append(modelfile.read_model(file).model)
        lineage = provenance.advance(provenance.begin(plan, None), settled_sum(cluster, plan, 1))
        np.testing.assert_array_equal(models[-1], lineage.model)
    moved = models[1].astype(np.float64) - models[0]
    assert plan.privacy is not None
    scale = plan.protection.max_value / plan.protection.update_norm
    step = plan.training.learning_rate * beyond / scale / plan.privacy.rows
    assert abs(abs(moved[2]) - step) < 1e-6
    assert np.all(np.delete(moved, 2) == 0.0)
