"""The built-in trainer: mini-batch gradient descent on one participant's rows, for every kind of model.

Objective per batch: that of `gradient`, plus mu/2 * |parameters - those received|^2 with mu = `training.proximal_mu`
(FedProx, Li et al. 2020, "Federated Optimization in Heterogeneous Networks": it keeps participants whose data differ
from running apart). float64 throughout. The order of rows is a permutation per epoch, drawn from AES-256-CTR under
H("batch-order", u64be seed, model hash): the same plan, model and rows give the same update after a restart.
"""

from collections.abc import Sequence

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from fedveil_common import network, transcript
from fedveil_common.crypto.labels import h, u64
from fedveil_common.plan import Plan, parameters
from fedveil_common.secret import Seed
from numpy.typing import NDArray

from fedveil_participant.data.prepare import Rows
from fedveil_participant.training.gradient import gradient
from fedveil_participant.training.record_gradients import record_gradients
from fedveil_participant.training.trainer import Take


class GradientDescent:
    """The built-in trainer."""

    def update(self, plan: Plan, model: NDArray[np.float32], rows: Rows) -> NDArray[np.float64]:
        """See `Trainer.update`."""
        received = model.astype(np.float64)
        if not len(rows):
            return np.zeros_like(received)
        moved, layers = received.copy(), parameters.layers(plan.model, plan.data)
        rate, pull = plan.training.learning_rate, plan.training.proximal_mu
        order_key = h("batch-order", u64(plan.training.seed), transcript.model_hash(model.astype("<f4").tobytes()))
        orders = _permutations(order_key, len(rows), plan.training.local_epochs)
        size = plan.training.batch_size
        with np.errstate(over="ignore", invalid="ignore"):  # divergence shows as values that are not finite
            for order in orders:
                inputs, target = rows.inputs[order], rows.target[order]
                for start in range(0, len(rows), size):
                    batch = slice(start, start + size)
                    slope = gradient(plan, layers, moved, inputs[batch], target[batch])
                    if pull:
                        slope += pull * (moved - received)
                    moved -= rate * slope
        return moved - received

    def outputs(self, plan: Plan, model: NDArray[np.float32], inputs: NDArray[np.float64]) -> NDArray[np.float64]:
        """See `Trainer.outputs`."""
        return network.outputs(plan, model, inputs)

    def gradients(
        self,
        plan: Plan,
        model: NDArray[np.float32],
        rows: Rows,
        parts: Sequence[NDArray[np.intp]],
        secret: Seed,
        take: Take,
    ) -> None:
        """See `Trainer.gradients`; draws nothing."""
        flat, layers = model.astype(np.float64), parameters.layers(plan.model, plan.data)
        with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
            for part in parts:
                take(record_gradients(plan, layers, flat, rows.inputs[part], rows.target[part]))


def _permutations(key: bytes, rows: int, epochs: int) -> list[NDArray[np.intp]]:
    """One permutation of 0..rows-1 per epoch: the stable order of `rows` little-endian u64 words of the stream."""
    stream = Cipher(algorithms.AES(key), modes.CTR(bytes(16))).encryptor()
    return [
        np.argsort(np.frombuffer(stream.update(bytes(8 * rows)), dtype="<u8"), kind="stable") for _ in range(epochs)
    ]
