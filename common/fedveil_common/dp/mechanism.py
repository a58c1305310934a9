"""A plan's figures as a mechanism on the integer grid: how far one record moves a sum, how much noise that asks for.

Promise: exact integers and rationals, so coordinator and participants find the same; the sensitivity is that of
integers clipped to integer caps (no norm is taken in floats after the rounding), and every variance is rounded up. The
noise of a sum has standard deviation z*C_int on every coordinate; a row that moves several blocks has the norm of all
their caps, so its noise multiplier is z/sqrt(1 + k/64) with the update and k further blocks of cap C/8, and 8z/sqrt(m)
with m such blocks and no update. A record stands for a person or a participant where the plan's unit says so.
Source: amendments D1, D5, D11, D14, D15 (docs/protocol.md).
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fractions import Fraction

import gmpy2

from fedveil_common.dp.ceiling import rounding_up
from fedveil_common.dp.charge import Rows
from fedveil_common.dp.slack import TAIL
from fedveil_common.errors import ConfigError

FURTHER = 8
"""Every block but the update has an eighth of the clip norm as its cap."""

_PER_ROOT = 8
"""C_int over sqrt(d), at least: rounding adds at most d/4 to a squared norm, so at most 0.2 % to the norm."""

LEAST_CLIP = 64
"""Grid units: below it an eighth of the clip norm has fewer than eight steps."""

LEAST_VARIANCE = 16
"""Of what one participant draws at a time, grid units squared: then sums of discrete Gaussians are as good as one."""

TRUNCATION = 14
"""The table sampler draws nothing beyond this many standard deviations; `gaussian.table` knows each bound exactly, and
they are between 12.5 and 13.2."""

_WIDEST = 32
"""Value bits that a hint may propose."""


@dataclass(frozen=True, slots=True)
class Block:
    """`length` coordinates named `name`: one record's part of them has an L2 norm of at most `cap`, in the units of the
    clip norm, and only records of `rows` have a part.
    """

    name: str
    length: int
    cap: float
    rows: Rows

    def __post_init__(self) -> None:
        if self.length < 1 or not 0 < self.cap < math.inf:
            raise ValueError(f"block {self.name} has no coordinate, or no cap")


@dataclass(frozen=True, slots=True)
class GridBlock:
    """A block with its cap in grid units, an integer: what records are clipped to after rounding."""

    name: str
    length: int
    cap: int
    rows: Rows


@dataclass(frozen=True, slots=True)
class Mechanism:
    """What is clipped to what, and the variance of the noise.

    `scale`: grid units per unit of the update; `clip`: C_int, the clip norm in grid units; `variance`: V, of the noise
    of an opened sum on each coordinate, at least (z*C_int)^2, grid units squared.
    """

    scale: float
    clip: int
    blocks: tuple[GridBlock, ...]
    variance: int

    @property
    def length(self) -> int:
        """d: coordinates of a sum."""
        return sum(block.length for block in self.blocks)

    def squared_sensitivity(self, rows: Rows) -> int:
        """Delta2^2 of a record of `rows`: the sum of the squared caps of the blocks it can move; grid units squared."""
        return sum(block.cap**2 for block in self.blocks if block.rows.meets(rows))

    def squared_shift(self, rows: Rows, organisations: int = 1) -> Fraction:
        """(k*Delta2)^2/V: what `rdp` accounts for a record that is in the data of k `organisations`, one by default.

        All k move the same sum, so their shifts add up before the noise is added: k^2 times the divergence without
        sampling, not k times. Where each samples for itself, what is shifted by Binomial(k, q) of them is never worse
        than all k at rate q: smaller in convex order, and the moments are convex in each shift.
        """
        return Fraction(organisations**2 * self.squared_sensitivity(rows), self.variance)


def mechanism(
    value_bits: int,
    update_norm: float,
    clip_norm: float,
    noise_multiplier: float,
    blocks: Sequence[Block],
    members: int,
) -> Mechanism:
    """The mechanism of a plan's figures for a cohort of N `members`.

    s = (2^(value_bits-1)-1)/update_norm, every cap floor(s*cap), V = ceil((z*C_int)^2). Raises ConfigError
    `noise_grid_too_coarse` unless C_int >= max(64, 8*sqrt(d), 4N/z), with what would make it so, and
    `block_cap_too_small` if a cap is less than one grid unit; ValueError for figures that no plan can have.
    """
    if value_bits < 2 or members < 1 or not blocks:
        raise ValueError("a mechanism has values, members and blocks")
    if not all(0 < figure < math.inf for figure in (update_norm, clip_norm, noise_multiplier)):
        raise ValueError("norms and the noise multiplier are positive and finite")
    z, length = Fraction(noise_multiplier), sum(block.length for block in blocks)
    largest = 2 ** (value_bits - 1) - 1
    clip = _units(clip_norm, largest, update_norm)
    least = least_clip(length, members, z)
    if clip < least:
        raise ConfigError(
            "noise_grid_too_coarse",
            f"a clip norm of {clip_norm:g} is {clip} units of the grid of {value_bits} bits for {update_norm:g};"
            f" {length} coordinates, {members} members and a noise multiplier of {noise_multiplier:g} need {least}",
            next_step=_finer(least, clip_norm, update_norm),
        )
    on_grid = tuple(GridBlock(b.name, b.length, _units(b.cap, largest, update_norm), b.rows) for b in blocks)
    for block in on_grid:
        if block.cap < 1:
            raise ConfigError(
                "block_cap_too_small",
                f"the cap of block {block.name} is less than one unit of the grid of {value_bits} bits",
                next_step="take more value_bits or a smaller update_norm",
            )
    return Mechanism(largest / update_norm, clip, on_grid, math.ceil((z * clip) ** 2))


def least_clip(length: int, members: int, noise_multiplier: Fraction) -> int:
    """max(64, 8*sqrt(d), 4N/z), rounded up: the least C_int, in grid units.

    4N/z: then each of N members, and the finest of the components that XNoise splits their noise into, has a standard
    deviation of 4 units.
    """
    root = math.isqrt(_PER_ROOT**2 * length - 1) + 1
    return max(LEAST_CLIP, root, math.ceil(4 * members / noise_multiplier))


def value_bits_for(clip: int, clip_norm: float, update_norm: float) -> int:
    """The fewest value_bits at which `clip_norm` is at least `clip` grid units."""
    largest = math.ceil(clip * Fraction(update_norm) / Fraction(clip_norm))
    return largest.bit_length() + 1  # 2^(b-1)-1 >= largest


def each_variance(variance: int, honest_survivors: int) -> int:
    """ceil(V/h): what each participant draws so that any h of them together have at least `variance`.

    `honest_survivors`: the fewest members of an opened sum that are not corrupt (min_survivors - c). Errors as
    `check_variance`.
    """
    if variance < 1 or honest_survivors < 1:
        raise ValueError("noise comes from at least one honest participant")
    each = -(-variance // honest_survivors)
    check_variance(each)
    return each


def check_variance(variance: int | Fraction) -> None:
    """Returns if a single draw of this variance (grid units squared) may be part of a sum; raises ConfigError
    `noise_component_too_small` below 16.
    """
    if variance < LEAST_VARIANCE:
        raise ConfigError(
            "noise_component_too_small",
            f"a participant's noise would have a variance of {float(variance):g} squared units of the grid at a time,"
            f" less than {LEAST_VARIANCE}",
            next_step="take more value_bits, a smaller update_norm, a larger noise multiplier or a smaller cohort",
        )


@dataclass(frozen=True, slots=True)
class Tail:
    """Bounds of the absolute value of noise on every coordinate, in grid units.

    `likely`: passed with probability beta' = 2^-64 at most; `hard`: never passed by draws of the table sampler.
    """

    likely: int
    hard: int

    @property
    def bound(self) -> int:
        """W: the smaller."""
        return min(self.likely, self.hard)


def tail(variances: Iterable[int], length: int) -> Tail:
    """The tail of the sum of independent discrete Gaussians of these `variances` on each of `length` coordinates.

    The moment generating function of a discrete Gaussian is at most the continuous one's, so a sum of them is
    sub-Gaussian with the sum of their variances: likely = sqrt(2 ln(2d/beta') * that), by a union bound over
    coordinates and signs. Source: amendment D15; Canonne, Kamath, Steinke 2020 (utility of the discrete Gaussian).
    """
    every = tuple(variances)
    if not every or min(every) < 1 or length < 1:
        raise ValueError("a tail is that of at least one draw and one coordinate")
    with rounding_up():
        kappa_squared = 2 * gmpy2.log(gmpy2.mpfr(2 * length / TAIL))
        likely = int(gmpy2.ceil(gmpy2.sqrt(kappa_squared * sum(every))))
    return Tail(likely, sum(math.isqrt(TRUNCATION**2 * variance - 1) + 1 for variance in every))


def _units(norm: float, largest: int, update_norm: float) -> int:
    """floor(norm * s), exactly."""
    return math.floor(Fraction(norm) * largest / Fraction(update_norm))


def _finer(least: int, clip_norm: float, update_norm: float) -> str:
    bits = value_bits_for(least, clip_norm, update_norm)
    finer = f"value_bits of {bits} or more, " if bits <= _WIDEST else ""
    return f"take {finer}an update_norm closer to the clip norm, a larger noise multiplier, a smaller model or cohort"
