"""Two models side by side: what their plans differ in, and how far apart their parameters lie.

Promise: nothing here is more than the two signed files say. Norms are of the difference of the float32 parameters,
computed in float64 in plan order. Pure. Source: docs/registry.md, section 5.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from fedveil_common.modelfile import ModelFile, tensors
from fedveil_common.plan import canonical


@dataclass(frozen=True, slots=True)
class Distance:
    """Between two blocks of parameters of one shape. `l2`: of the difference; `relative`: by the norm of the first
    block, None where that is 0; `largest`: the largest absolute difference of one parameter.
    """

    name: str
    parameters: int
    l2: float
    relative: float | None
    largest: float


def plan_differences(first: ModelFile, second: ModelFile) -> list[tuple[str, str | None, str | None]]:
    """(path of the field, value in the first plan, value in the second), as JSON text; None where a plan lacks it."""
    before, after = (dict(_leaves(json.loads(canonical(file.plan)), "")) for file in (first, second))
    return [
        (path, before.get(path), after.get(path))
        for path in sorted(before.keys() | after.keys())
        if before.get(path) != after.get(path)
    ]


def distances(first: ModelFile, second: ModelFile) -> tuple[Distance, ...]:
    """Of each block, and of all together (named "all"); empty if the two models have other shapes."""
    blocks = tensors(first.plan)
    if blocks != tensors(second.plan):
        return ()
    before, after = first.model.astype(np.float64), second.model.astype(np.float64)
    found, start = [], 0
    for block in blocks:
        end = start + int(np.prod(block.shape))
        found.append(_distance(block.name, before[start:end], after[start:end]))
        start = end
    return (*found, _distance("all", before, after))


def _distance(name: str, before: np.ndarray, after: np.ndarray) -> Distance:
    norm, moved = float(np.linalg.norm(before)), after - before
    length = float(np.linalg.norm(moved))
    return Distance(name, len(moved), length, length / norm if norm else None, float(np.abs(moved).max()))


def _leaves(value: object, path: str) -> Iterator[tuple[str, str]]:
    if isinstance(value, dict) and value:
        for name, inner in value.items():
            yield from _leaves(inner, f"{path}.{name}" if path else name)
    else:
        yield path, json.dumps(value, sort_keys=True)
