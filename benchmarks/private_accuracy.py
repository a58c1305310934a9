"""What differential privacy costs in accuracy on the demo's data; a part of `privacy.py`.

The plan is the demo's private one, each seed with another split and another first model. Training runs over the
in-memory federation: the production machines, wire bytes, masks, integers and noise.

- `distributed`: as in the demo, each hospital adds its share of the noise.
- `local`: each hospital adds the whole noise, as where nobody can add without seeing: the same epsilon, sqrt(n) times
  the noise on the sum.
- `participant`: the same epsilon for each whole hospital: its update after as many rounds of local training is clipped,
  and noise hides it. Five cannot be hidden at an epsilon like this; the row shows what that costs.
- `no_noise`: the same steps over all rows together, clipped, without noise.
- `exact`: the demo's plan without differential privacy, over the federation.

Goal: `distributed` within two points of `no_noise`, in the mean over the seeds.
"""

import logging
import math
import statistics
from dataclasses import replace

from fedveil_cli import demo, demo_split, scoring
from fedveil_cli.service_commands import configure_logging
from fedveil_cli.simulating import play_in_memory
from fedveil_cli.world import SystemClock
from fedveil_common import modelfile, private_sum
from fedveil_common import plan as plans
from fedveil_common.masking import quorum
from fedveil_common.plan import NoiseSource, Plan, Unit
from fedveil_participant.training import alone

GOAL = 0.02


def local_noise(plan: Plan) -> Plan:
    """The plan under which each hospital's share is the whole noise: its multiplier times the root of q - c."""
    privacy, members = plan.privacy, plan.cohort.min_participants
    assert privacy is not None
    corrupt = quorum.corrupt_bound(plan.cohort.max_corrupt, members)
    factor = math.sqrt(quorum.quorum(members, corrupt) - corrupt)
    return replace(plan, privacy=replace(privacy, noise_multiplier=privacy.noise_multiplier * factor))


def whole_participants(plan: Plan) -> Plan:
    """The plan with unit participant at the epsilon that `plan` costs."""
    privacy = plan.privacy
    assert privacy is not None
    target = private_sum.spent(plan, privacy, plan.training.rounds)
    whole = replace(privacy, unit=Unit.PARTICIPANT, rows=0, sample_rate=1.0)
    found = replace(plan, privacy=whole, training=replace(plan.training, batch_size=32))
    multiplier = private_sum.multiplier_for(found, whole, target)
    return plans.parse_canonical(plans.canonical(replace(found, privacy=replace(whole, noise_multiplier=multiplier))))


def federated(plan: Plan, tables: dict[str, bytes], test: bytes, seed: int) -> scoring.Score:
    """The score of the model of a whole run."""
    played = play_in_memory(plan, plans.canonical(plan), tables, seed, SystemClock())
    assert played.code == "finished"
    stored = modelfile.read_model(played.model_file)
    return scoring.score(plan, stored.model, stored.standardisation, scoring.source_of(test, "test.csv", plan))


def one_seed(seed: int) -> dict[str, scoring.Score]:
    """The scores of one seed on its common test set."""
    private = plans.with_seed(demo.private_plan(NoiseSource.PARTICIPANTS), seed)
    exact = plans.with_seed(plans.parse_plan(demo_split.plan_text(), "demo_plan.yaml"), seed)
    divided = demo_split.split(seed)
    tables = {name: demo_split.rows_csv(rows) for name, rows in divided.hospitals.items()}
    test = demo_split.rows_csv(divided.test)
    sources = [scoring.source_of(data, f"{name}.csv", private) for name, data in tables.items()]
    pooled = scoring.score(private, *alone.fit(private, sources), scoring.source_of(test, "test.csv", private))
    return {
        "distributed": federated(private, tables, test, seed),
        "local": federated(local_noise(private), tables, test, seed),
        "participant": federated(whole_participants(private), tables, test, seed),
        "no_noise": pooled,
        "exact": federated(exact, tables, test, seed),
    }


def measure(seeds: int) -> dict[str, object]:
    """Mean accuracy and log-loss over the seeds, the lowest accuracy, and the epsilon of the private runs."""
    configure_logging(logging.ERROR)
    plan = demo.private_plan(NoiseSource.PARTICIPANTS)
    assert plan.privacy is not None
    runs = [one_seed(seed) for seed in range(seeds)]
    accuracy = {who: statistics.mean(run[who].accuracy or 0.0 for run in runs) for who in runs[0]}
    return {
        "seeds": seeds,
        "epsilon": private_sum.spent(plan, plan.privacy, plan.training.rounds),
        "delta": plan.privacy.delta,
        "accuracy": accuracy,
        "lowest": {who: min(run[who].accuracy or 0.0 for run in runs) for who in runs[0]},
        "log_loss": {who: statistics.mean(run[who].loss for run in runs) for who in runs[0]},
        "reached": accuracy["no_noise"] - accuracy["distributed"] <= GOAL,
    }
