"""The built-in models a second time, number by number: outputs, objective, and descent along measured slopes.

A slope here is a central difference of the objective; no derivative is written down. Rows are (inputs, target), the
parameters a flat list in plan order: per layer the weights of each output, then the biases.
"""

import math
from collections.abc import Sequence

Row = tuple[Sequence[float], float]
Sizes = Sequence[int]


def outputs(sizes: Sizes, flat: Sequence[float], inputs: Sequence[float]) -> list[float]:
    """The raw outputs of one row; `sizes`: inputs, hidden units, outputs."""
    values, at = list(inputs), 0
    for number in range(1, len(sizes)):
        came, width = len(values), sizes[number]
        biases = at + came * width
        raw = [
            sum(flat[at + unit * came + i] * values[i] for i in range(came)) + flat[biases + unit]
            for unit in range(width)
        ]
        values = raw if number == len(sizes) - 1 else [max(0.0, one) for one in raw]
        at = biases + width
    assert at == len(flat)
    return values


def loss(target: str, raw: Sequence[float], truth: float) -> float:
    """What training minimises for one row; target: binary, category or float."""
    if target == "float":
        return (raw[0] - truth) ** 2 / 2
    if target == "binary":
        p = 1 / (1 + math.exp(-raw[0]))
        return -math.log(p if truth else 1 - p)
    total = sum(math.exp(one) for one in raw)
    return -math.log(math.exp(raw[int(truth)]) / total)


def is_weight(sizes: Sizes) -> list[bool]:
    """Which parameters are weights, and not biases."""
    marks: list[bool] = []
    for number in range(1, len(sizes)):
        marks += [True] * (sizes[number - 1] * sizes[number]) + [False] * sizes[number]
    return marks


def objective(
    target: str,
    sizes: Sizes,
    flat: Sequence[float],
    rows: Sequence[Row],
    l2: float,
    mu: float,
    received: Sequence[float],
) -> float:
    """Mean loss, ridge penalty of the weights, proximal term of all parameters."""
    mean = sum(loss(target, outputs(sizes, flat, inputs), truth) for inputs, truth in rows) / len(rows)
    ridge = sum(value * value for value, weight in zip(flat, is_weight(sizes), strict=True) if weight)
    near = sum((value - other) ** 2 for value, other in zip(flat, received, strict=True))
    return mean + l2 / 2 * ridge + mu / 2 * near


def slope(
    target: str,
    sizes: Sizes,
    flat: Sequence[float],
    rows: Sequence[Row],
    l2: float,
    mu: float,
    received: Sequence[float],
) -> list[float]:
    """The slope at `flat` by central differences."""
    found = []
    for index in range(len(flat)):
        ends = []
        for step in (1e-5, -1e-5):
            moved = list(flat)
            moved[index] += step
            ends.append(objective(target, sizes, moved, rows, l2, mu, received))
        found.append((ends[0] - ends[1]) / 2e-5)
    return found


def descend(
    target: str,
    sizes: Sizes,
    received: Sequence[float],
    rows: Sequence[Row],
    l2: float,
    mu: float,
    rate: float,
    steps: int,
) -> list[float]:
    """So many steps over all rows at once, from the parameters received."""
    flat = list(received)
    for _ in range(steps):
        found = slope(target, sizes, flat, rows, l2, mu, received)
        flat = [value - rate * one for value, one in zip(flat, found, strict=True)]
    return flat
