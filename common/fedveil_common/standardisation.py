"""Mean and standard deviation per float feature: from the securely summed moments, or from the declared ranges.

Promise: the same opened sum gives the same bits on every machine; its hash stands in the signed model manifest, so that
a prediction uses exactly what training used. Natural units throughout. Source: FLSA/1 A17, A2.
"""

import hashlib
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fedveil_common.decode import Decoded
from fedveil_common.plan import Plan, Standardise

MIN_STD = 2.0**-6
"""Smallest standard deviation on the scale where the declared range is [-1, 1]: below it a feature is as good as
constant, and its summed moments drown in quantisation."""


@dataclass(frozen=True, slots=True, eq=False)
class Standardisation:
    """`mean` and `std`: float64, shape (float features,), plan order, natural units, std > 0. As public as the sum."""

    mean: NDArray[np.float64]
    std: NDArray[np.float64]

    def to_bytes(self) -> bytes:
        """All means, then all standard deviations, float64 little-endian (wire)."""
        return self.mean.astype("<f8").tobytes() + self.std.astype("<f8").tobytes()

    @property
    def hash(self) -> bytes:
        """SHA-256 of `to_bytes()`."""
        return hashlib.sha256(self.to_bytes()).digest()

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Standardisation) and self.to_bytes() == other.to_bytes()

    def __hash__(self) -> int:
        return hash(self.to_bytes())


def from_bytes(data: bytes) -> Standardisation:
    """The inverse of `to_bytes`; raises ValueError unless all values are finite and every std is positive."""
    if len(data) % 16:
        raise ValueError("a standardisation is two equally long lists of float64")
    mean, std = np.frombuffer(data, dtype="<f8").astype(np.float64).reshape(2, -1)
    if not (np.isfinite(mean).all() and np.isfinite(std).all() and (std > 0).all()):
        raise ValueError("a standardisation is finite and its deviations are positive")
    return Standardisation(mean, std)


def from_sum(plan: Plan, decoded: Decoded) -> Standardisation:
    """The federation's moments from the opened sum of purpose standardise.

    A feature that nobody has gets the middle and the half-width of its range; a standard deviation below MIN_STD (of
    the range scaled to [-1, 1]) is raised to it.
    """
    lo, half = _ranges(plan)
    features = plan.data.float_features
    moments = [[decoded[f"{kind}:{f.name}"].only for f in features] for kind in ("present", "sum", "squares")]
    present, total, squares = (np.array(column, dtype=np.float64) for column in moments)
    known = present >= 0.5
    rows = np.where(known, present, 1.0)
    mean = np.where(known, np.clip(total / rows, -1.0, 1.0), 0.0)
    variance = np.where(known, np.clip(squares / rows - mean * mean, MIN_STD**2, 1.0), 1.0)
    return Standardisation(lo + (mean + 1.0) * half, np.sqrt(variance) * half)


def by_range(plan: Plan) -> Standardisation:
    """The declared ranges mapped to [-1, 1]."""
    lo, half = _ranges(plan)
    return Standardisation(lo + half, half)


def identity(plan: Plan) -> Standardisation:
    """Natural units left as they are."""
    count = len(plan.data.float_features)
    return Standardisation(np.zeros(count), np.ones(count))


def without_sum(plan: Plan) -> Standardisation:
    """What a plan that needs no sum of purpose standardise uses; ValueError if it needs one."""
    match plan.data.standardise:
        case Standardise.RANGE:
            return by_range(plan)
        case Standardise.NONE:
            return identity(plan)
        case Standardise.FEDERATED if not plan.data.float_features:
            return identity(plan)
        case Standardise.FEDERATED:
            raise ValueError("this plan standardises by a secure sum")


def scaled(plan: Plan, natural: NDArray[np.float64]) -> NDArray[np.float64]:
    """Columns as z = 2(x-lo)/(hi-lo)-1, in plan order: float64, shape (rows, float features), NaN kept."""
    lo, half = _ranges(plan)
    return (natural - lo) / half - 1.0


def _ranges(plan: Plan) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    lo = np.array([feature.lo for feature in plan.data.float_features], dtype=np.float64)
    hi = np.array([feature.hi for feature in plan.data.float_features], dtype=np.float64)
    return lo, (hi - lo) / 2.0
