"""Logistic regression as an organisation's own trainer: the built-in model once more, in numpy alone.

The plan's `parameters` are the weights, one per input, then the bias: inputs + 1. With the same plan values it comes to
the built-in model but for the order of rows, which here is drawn by numpy from the plan's seed and the model.
"""

import hashlib

import numpy as np


class Regression:
    """Made anew for each call; nothing is kept from one round to the next."""

    def update(self, job):
        """What training changes: shape (parameters,)."""
        received = job.model.astype(np.float64)
        moved = received.copy()
        rate, size = job.training["learning_rate"], job.training["batch_size"]
        draw = np.random.default_rng(seed_of(job))
        for _ in range(job.training["local_epochs"]):
            order = draw.permutation(len(job.target))
            for start in range(0, len(order), size):
                batch = order[start : start + size]
                inputs = job.inputs[batch]
                error = probability(inputs @ moved[:-1] + moved[-1]) - job.target[batch]
                moved[:-1] -= rate * (error @ inputs) / len(batch)
                moved[-1] -= rate * error.mean()
            job.progress()
        return moved - received

    def outputs(self, job):
        """The logit of each row: shape (rows, 1)."""
        model = job.model.astype(np.float64)
        return (job.inputs @ model[:-1] + model[-1])[:, np.newaxis]

    def gradients(self, job):
        """The slope of each row's log-loss, for plans that protect single records: shape (rows, parameters).

        einsum and not @: a row's last bit is then the same whatever rows stand beside it.
        """
        model = job.model.astype(np.float64)
        logit = np.einsum("ij,kj->ik", job.inputs, model[np.newaxis, :-1])[:, 0] + model[-1]
        error = probability(logit) - job.target
        return np.concatenate([error[:, np.newaxis] * job.inputs, error[:, np.newaxis]], axis=1)


def probability(logit):
    """1/(1+exp(-t)) without overflow."""
    falling = np.exp(-np.abs(logit))
    return np.where(logit >= 0, 1.0, falling) / (1.0 + falling)


def seed_of(job):
    """Another order each round, the same when a round is repeated after a crash."""
    digest = hashlib.sha256(str(job.training["seed"]).encode() + job.model.tobytes()).digest()
    return int.from_bytes(digest[:8], "big")
