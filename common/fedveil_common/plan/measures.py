"""What a plan measures of a model: the blocks of its evaluation by name, how long each is, and when it is due.

Promise: a function of the plan alone, below everything that lays out, prices or interprets a sum, so that all of them
speak of the same blocks. A metric that the plan does not ask for has no block. Source: A17 (docs/protocol.md).
"""

from fedveil_common.plan import spec

SCORE_BINS = 64
"""Equal bins of a probability on [0, 1]; a score of 1 falls into the last."""

UPDATE, WEIGHT, CLIPPED = "update", "weight", "clipped"
HOLDOUT, CORRECT, NEGATIVE, POSITIVE, LOSS = "holdout", "correct", "neg", "pos", "loss"


def blocks(plan: spec.Plan) -> tuple[tuple[str, int], ...]:
    """(name, coordinates) of each evaluation block, in the order in which they stand in a sum; none without metrics."""
    metrics = plan.evaluation.metrics
    if not metrics:
        return ()
    found = [(HOLDOUT, 1)]
    if spec.Metric.ACCURACY in metrics:
        found.append((CORRECT, 1))
    if spec.Metric.AUC in metrics:
        found += [(NEGATIVE, SCORE_BINS), (POSITIVE, SCORE_BINS)]
    return (*found, (LOSS, 1))


def due(plan: spec.Plan, step: int) -> bool:
    """Whether the train sum after `step` model steps also measures the model received (the first model included).

    Not the first model of a plan that continues a run: that run has measured it, and a second sum of the same counts
    over other survivors would show the difference.
    """
    return bool(plan.evaluation.metrics) and step % plan.evaluation.every == 0 and not (plan.continues and not step)
