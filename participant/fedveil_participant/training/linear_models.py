"""Linear and logistic regression by mini-batch gradient descent.

Objective per batch: mean loss + l2/2 * |weights|^2; the loss is log-loss in nats, or half the squared error on the
scaled target; the bias is not penalised. float64 throughout. The order of rows is a permutation per epoch, drawn from
AES-256-CTR under H("batch-order", u64be seed, model hash): the same plan, model and rows give the same update after a
restart.
"""

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from fedveil_common import prediction, transcript
from fedveil_common.crypto.labels import h, u64
from fedveil_common.plan import Plan
from numpy.typing import NDArray

from fedveil_participant.data.prepare import Rows


class LinearModels:
    """The built-in trainer for the model kinds `linear` and `logistic`."""

    def update(self, plan: Plan, model: NDArray[np.float32], rows: Rows) -> NDArray[np.float64]:
        """See `Trainer.update`."""
        received = model.astype(np.float64)
        if not len(rows):
            return np.zeros_like(received)
        parameters = received.copy()
        weights = parameters[:-1]  # a view: the steps below move `parameters`
        rate, decay = plan.training.learning_rate, plan.model.l2
        order_key = h("batch-order", u64(plan.training.seed), transcript.model_hash(model.astype("<f4").tobytes()))
        orders = _permutations(order_key, len(rows), plan.training.local_epochs)
        size = plan.training.batch_size
        with np.errstate(over="ignore", invalid="ignore"):  # divergence shows as values that are not finite
            for order in orders:
                inputs, target = rows.inputs[order], rows.target[order]
                for start in range(0, len(rows), size):
                    batch = inputs[start : start + size]
                    error = prediction.scores(plan, parameters, batch) - target[start : start + size]
                    slope = error @ batch / len(batch) + decay * weights
                    parameters[-1] -= rate * error.mean()
                    weights -= rate * slope
        return parameters - received


def _permutations(key: bytes, rows: int, epochs: int) -> list[NDArray[np.intp]]:
    """One permutation of 0..rows-1 per epoch: the stable order of `rows` little-endian u64 words of the stream."""
    stream = Cipher(algorithms.AES(key), modes.CTR(bytes(16))).encryptor()
    return [
        np.argsort(np.frombuffer(stream.update(bytes(8 * rows)), dtype="<u8"), kind="stable") for _ in range(epochs)
    ]
