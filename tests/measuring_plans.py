"""Private plans that measure their models, and tables of holdout records: what tests of measures under noise share."""

from functools import cache

import numpy as np
from fedveil_common.crypto.kdf import derive
from fedveil_common.plan import Plan, PrivacySpec, parameters
from fedveil_common.secret import Seed
from fedveil_participant.data.prepare import Rows as Table
from numpy.typing import NDArray
from private_federation import private_plan

BINARY = "{column: y, type: binary}"
CATEGORY = "{column: y, type: category, values: [a, b, c]}"
FLOAT = "{column: y, type: float, range: [0, 1]}"
KINDS = {
    "logistic": ("{kind: logistic}", BINARY, "loss, accuracy, auc", 4),
    "mlp": ("{kind: mlp, hidden: [4]}", BINARY, "loss, accuracy", 3),
    "softmax": ("{kind: softmax}", CATEGORY, "loss, accuracy", 3),
    "linear": ("{kind: linear}", FLOAT, "loss", 2),
}
"""Model, target, metrics, and m: how many blocks a holdout record moves. Both histograms are one."""


def measuring(what: str = "logistic", every: int = 1, more: str = "", **options: object) -> Plan:
    """A private plan that measures all that its kind of model has."""
    model, target, metrics, _ = KINDS[what]
    written = f"evaluation: {{every: {every}, metrics: [{metrics}], holdout: 0.4{more}}}"
    return private_plan(**{"model": model, "target": target, "evaluation": written, **options})


def privacy_of(plan: Plan) -> PrivacySpec:
    assert plan.privacy is not None
    return plan.privacy


@cache
def plan_of(kind: str, persons: bool = False, bits: int = 16) -> Plan:
    return measuring(kind, person="person: who" if persons else "", bits=bits, more=", loss_cap: 2.0")


def table(kind: str, count: int, seed: int, persons: int = 0) -> Table:
    """`count` rows of plausible values; of `persons` persons, if that is not 0."""
    draw = np.random.default_rng(seed)
    classes = {"softmax": 3}.get(kind, 2)
    target = draw.uniform(-1, 1, count) if kind == "linear" else draw.integers(0, classes, count).astype(np.float64)
    labels = draw.integers(0, persons, count).astype(np.uint64) if persons else None
    return Table(draw.uniform(-1, 1, (count, 5)), target, labels)


def model_of(plan: Plan, seed: int, size: float = 1.0) -> NDArray[np.float32]:
    draw = np.random.default_rng(seed)
    return (draw.normal(size=parameters.count(plan.model, plan.data)) * size).astype(np.float32)


def secret_of(number: int) -> Seed:
    return Seed(derive(b"", number.to_bytes(8, "big"), "test/measured"))
