"""Does the demo's claim hold over seeds? Federated against pooled and against every hospital alone.

    python benchmarks/demo_accuracy.py [--seeds 20] [--json]

Each seed sets `training.seed` and the split with its 20 % common test set. Training runs over the in-memory federation:
the production machines, wire bytes, masks and integers. Goal: mean federated accuracy within one point of pooled, mean
log-loss below every hospital's own. Exit code 1 if the goal is missed.
"""

import argparse
import json
import logging
import statistics
import sys

from fedveil_cli import demo_split, scoring
from fedveil_cli.service_commands import configure_logging
from fedveil_cli.simulating import play_in_memory
from fedveil_cli.world import SystemClock
from fedveil_common import modelfile
from fedveil_common import plan as plans
from fedveil_participant.training import alone

FEDERATED, POOLED = "federated", "pooled"


def one_seed(seed: int) -> dict[str, scoring.Score]:
    """The scores of one seed on its common test set."""
    plan = plans.with_seed(plans.parse_plan(demo_split.plan_text(), "demo_plan.yaml"), seed)
    divided = demo_split.split(seed)
    tables = {name: demo_split.rows_csv(rows) for name, rows in divided.hospitals.items()}
    played = play_in_memory(plan, plans.canonical(plan), tables, seed, SystemClock())
    assert played.code == "finished"
    stored = modelfile.read_model(played.model_file)
    test = scoring.source_of(demo_split.rows_csv(divided.test), "test.csv", plan)
    sources = {name: scoring.source_of(data, f"{name}.csv", plan) for name, data in tables.items()}
    scores = {
        FEDERATED: scoring.score(plan, stored.model, stored.standardisation, test),
        POOLED: scoring.score(plan, *alone.fit(plan, list(sources.values())), test),
    }
    scores.update({name: scoring.score(plan, *alone.fit(plan, [source]), test) for name, source in sources.items()})
    return scores


def main() -> int:
    """Run, print, judge."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    configure_logging(logging.ERROR)
    runs = [one_seed(seed) for seed in range(arguments.seeds)]
    accuracy = {who: statistics.mean(run[who].accuracy or 0.0 for run in runs) for who in runs[0]}
    loss = {who: statistics.mean(run[who].loss for run in runs) for who in runs[0]}
    hospitals = [who for who in accuracy if who not in (FEDERATED, POOLED)]
    reached = accuracy[POOLED] - accuracy[FEDERATED] <= 0.01 and all(loss[FEDERATED] < loss[who] for who in hospitals)
    result = {"seeds": arguments.seeds, "accuracy": accuracy, "log_loss": loss, "reached": reached}
    if arguments.json:
        print(json.dumps(result))
    else:
        for who, right in accuracy.items():
            print(f"{who:<12} accuracy {100 * right:6.2f} %   log-loss {loss[who]:.4f}")
        print("goal reached" if reached else "GOAL MISSED")
    return 0 if reached else 1


if __name__ == "__main__":
    sys.exit(main())
