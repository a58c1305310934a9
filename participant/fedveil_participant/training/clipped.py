"""The sum of clipped gradients of a Poisson sample: what one participant's records are in one private step.

Promise: whoever is added to or taken from the rows (a record, or a person with all of its rows) moves the result by at
most the grid's `sensitivity` in L2 norm, exactly: each one's gradient is clipped, put on the grid by rounding without
bias, clipped once more in integers, and only then added up. No operation after the rounding looks at more than one of
them. Which are drawn and how they are rounded comes from 32 secret bytes. A gradient that is not finite counts as 0.
Source: D1, D2, D4, D8; Abadi et al. 2016 (clipping); docs/privacy.md. All arrays are the organisation's secret.
"""

from collections.abc import Iterator
from fractions import Fraction
from math import isqrt, sqrt

import numpy as np
from fedveil_common import private_sum
from fedveil_common.crypto.kdf import derive
from fedveil_common.crypto.prg import Streams
from fedveil_common.plan import Plan, PrivacySpec
from fedveil_common.secret import Seed
from numpy.typing import NDArray

from fedveil_participant.data.prepare import Rows
from fedveil_participant.data.units import Units
from fedveil_participant.training.descent import GradientDescent
from fedveil_participant.training.trainer import Trainer

AT_ONCE = 1 << 22
"""Gradient values in memory at once: 32 MiB of float64, and about as much again while they are rounded."""


_BUILT_IN = GradientDescent()


def clipped_sum(
    plan: Plan,
    privacy: PrivacySpec,
    model: NDArray[np.float32],
    rows: Rows,
    secret: Seed,
    trainer: Trainer = _BUILT_IN,
) -> NDArray[np.int64]:
    """Sum over the sample of each unit's clipped gradient, in steps of the grid: int64, shape of `model`; 0 without
    rows. `secret`: 32 bytes that nobody else knows and nothing else uses. `trainer`: whose gradients; what it says of a
    row is clipped here whatever it is.
    """
    length, bound = len(model), private_sum.grid(plan, privacy).sensitivity
    total = np.zeros(length, dtype=np.int64)
    rounding = derive(b"", secret.expose(), "dp/rounding")
    scale = plan.protection.max_value / plan.protection.update_norm
    units = rows.units
    drawn = np.flatnonzero(_sample(len(units), privacy.sample_rate, derive(b"", secret.expose(), "dp/sample")))
    parts = [units.rows_of(part) for part in _parts(units, drawn, length)]
    first = taken = 0

    def take(each: NDArray[np.float64]) -> None:
        nonlocal first, taken, total
        chosen, begins = parts[taken]
        if each.shape != (len(chosen), length) or each.dtype != np.float64:
            raise ValueError("a trainer returns float64, one gradient for each row")
        with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
            gradients = _of_units(each, begins)
            on_grid = rounded(_clipped(gradients, bound, scale), rounding, first)
        total += _within(on_grid, bound).sum(axis=0)
        first += on_grid.size
        taken += 1

    trainer.gradients(plan, model, rows, [chosen for chosen, _ in parts], secret, take)
    if taken != len(parts):
        raise ValueError("a trainer answers for every part")
    return total


def clipped_whole(plan: Plan, privacy: PrivacySpec, update: NDArray[np.float64], secret: Seed) -> NDArray[np.int64]:
    """One participant's whole update as one unit: clipped, on the grid, clipped in integers. An update that is not
    finite counts as 0. int64, shape of `update`, of L2 norm `sensitivity` at most.
    """
    bound = private_sum.grid(plan, privacy).sensitivity
    scale = plan.protection.max_value / plan.protection.update_norm
    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
        clipped = _clipped(update[np.newaxis], bound, scale)
    whole = _within(rounded(clipped, derive(b"", secret.expose(), "dp/rounding"), 0), bound)
    return np.ravel(whole)


def within_norm(privacy: PrivacySpec, update: NDArray[np.float64]) -> bool:
    """Whether a whole update is no longer than the clip norm; one that is not finite is not."""
    with np.errstate(over="ignore", invalid="ignore"):
        return bool(np.sqrt(np.sum(np.square(update))) <= privacy.clip_norm)


def _sample(count: int, rate: float, key: bytes) -> NDArray[np.bool_]:
    """Each of `count` independently with probability floor(rate*2^64)/2^64; all of them at rate 1."""
    if rate == 1.0 or not count:
        return np.ones(count, dtype=np.bool_)
    words = np.empty(count, dtype="<u8")
    Streams([(key, False)], 0, 8).fill(words)
    return words < np.uint64(int(Fraction(rate) * 2**64))


def _parts(units: Units, drawn: NDArray[np.intp], length: int) -> Iterator[NDArray[np.intp]]:
    """The drawn units, as many at a time as AT_ONCE allows: at least one."""
    sizes = units.sizes(drawn)
    room, start, held = max(1, AT_ONCE // length), 0, 0
    for at, size in enumerate(sizes):
        if at > start and held + size > room:
            yield drawn[start:at]
            start, held = at, 0
        held += int(size)
    if len(drawn) > start:
        yield drawn[start:]


def _of_units(each: NDArray[np.float64], begins: NDArray[np.intp]) -> NDArray[np.float64]:
    """The gradient of each unit, the sum over its rows, which follow each other: float64, shape (units, parameters)."""
    return each if len(each) == len(begins) else np.add.reduceat(each, begins, axis=0)


def _clipped(gradients: NDArray[np.float64], bound: int, scale: float) -> NDArray[np.float64]:
    """In steps of the grid, each row of norm at most sqrt(bound^2 - d/4): rounding adds d/4 to its square on average,
    so that the clip in integers has little left to do.
    """
    scaled = gradients * scale
    scaled[~np.isfinite(scaled).all(axis=1)] = 0.0
    norms = np.sqrt(np.einsum("ij,ij->i", scaled, scaled))
    scaled[~np.isfinite(norms)] = 0.0  # so large that its square is none
    target = sqrt(bound**2 - scaled.shape[1] / 4)
    scaled *= np.minimum(1.0, target / np.maximum(norms, 1e-300))[:, np.newaxis]
    return scaled


def rounded(scaled: NDArray[np.float64], key: bytes, first: int) -> NDArray[np.int64]:
    """floor(v) + [u < v - floor(v)], u of 53 bits: int64, the shape of `scaled`."""
    lower = np.floor(scaled)
    words = np.empty(scaled.size, dtype="<u8")
    Streams([(key, False)], first, 8).fill(words)
    uniform = (words >> np.uint64(11)).reshape(scaled.shape) * 2.0**-53
    return lower.astype(np.int64) + (uniform < scaled - lower)


def _within(integers: NDArray[np.int64], bound: int) -> NDArray[np.int64]:
    """`integers`, rows longer than `bound` shortened towards 0: the square of each norm is at most bound^2, exactly."""
    squares = np.einsum("ij,ij->i", integers, integers)
    for row in np.flatnonzero(squares > bound**2):
        norm = isqrt(int(squares[row])) + 1
        values = integers[row]
        integers[row] = np.sign(values) * (np.abs(values) * bound // norm)
    return integers
