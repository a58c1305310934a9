"""What a plan's privacy block means for one of its secure sums: the grid, each member's share of the noise, the cost.

Promise: exact (integers and fractions, no float), a pure function of the plan and the manifest's q and c, so that both
sides and every member find the same figures; whoever checks a manifest asks here. At least q - c of the shares in an
opened sum are of honest members (docs/protocol.md), and those alone add up to the whole variance, so what corrupt
members leave out or subtract costs nothing. A record moves the sum by at most `sensitivity` in L2 norm (D1).
Source: docs/privacy.md; Kairouz, Liu, Steinke 2021 (sums of discrete Gaussians).
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import cache, lru_cache
from math import ceil, floor, isqrt

from fedveil_common.dp import gaussian, rdp
from fedveil_common.dp.charge import Charge, Rows, Spent, of_run
from fedveil_common.dp.mechanism import LEAST_VARIANCE, least_clip
from fedveil_common.dp.slack import Slack
from fedveil_common.masking import quorum as quorums
from fedveil_common.plan import parameters
from fedveil_common.plan.spec import NoiseSource, Plan, PrivacySpec, Unit
from fedveil_common.statistics import vector


@dataclass(frozen=True, slots=True)
class Grid:
    """A record's bound and the noise, in steps of the grid. `squared`: of the bound; `variance`: of the whole noise
    that the accountant counts on.
    """

    squared: int
    variance: int

    @property
    def sensitivity(self) -> int:
        """C_int, rounded down where the bound is no whole number (that of a statistics sum: per_row sqrt(parts))."""
        return isqrt(self.squared)

    @property
    def squared_shift(self) -> Fraction:
        """(Delta2/sigma)^2 for `dp.rdp`."""
        return Fraction(self.squared, self.variance)


def grid(plan: Plan, privacy: PrivacySpec) -> Grid:
    """C_int = floor(s*clip_norm) with s = M/update_norm, in a statistics sum the square root of the squared caps of its
    parts, and the variance z^2 C_int^2, rounded up.
    """
    if plan.statistics is not None:
        squared = vector.squared_sensitivity(plan)
    else:
        scale = Fraction(plan.protection.max_value) / Fraction(plan.protection.update_norm)
        squared = floor(scale * Fraction(privacy.clip_norm)) ** 2
    return Grid(squared, ceil(Fraction(privacy.noise_multiplier) ** 2 * squared))


def coordinates(plan: Plan) -> int:
    """D of the sum that a record moves: the parameters of the model, or the figures and cells that are asked for."""
    return parameters.count(plan.model, plan.data) if plan.statistics is None else vector.length(plan)


def least_sensitivity(plan: Plan, privacy: PrivacySpec, members: int) -> int:
    """The smallest C_int at which rounding to the grid is small beside a record: max(64, 8 sqrt d, 4 N/z), D1."""
    return least_clip(coordinates(plan), members, Fraction(privacy.noise_multiplier))


def share_variance(plan: Plan, quorum: int, corrupt: int) -> int:
    """Of what every member adds to each coordinate: the whole over the q - c honest members that a sum holds at least,
    rounded up; 0 where members add none.
    """
    if plan.privacy is None or plan.privacy.noise is NoiseSource.COORDINATOR:
        return 0
    return max(LEAST_VARIANCE, -(-grid(plan, plan.privacy).variance // (quorum - corrupt)))


def share_cap(plan: Plan, quorum: int, corrupt: int) -> int:
    """The largest absolute value of one member's share in one coordinate."""
    return _cap(share_variance(plan, quorum, corrupt))


def coordinator_variance(plan: Plan) -> int:
    """Of the coordinator's noise on each coordinate; 0 where it adds none."""
    if plan.privacy is None or plan.privacy.noise is not NoiseSource.COORDINATOR:
        return 0
    return max(LEAST_VARIANCE, grid(plan, plan.privacy).variance)


def coordinator_cap(plan: Plan) -> int:
    """W_c: the largest absolute value that the coordinator's own noise adds to a coordinate, in steps of the grid."""
    return _cap(coordinator_variance(plan))


def _cap(variance: int) -> int:
    """Where the table of a draw ends: the largest that there is, not only the likely one. 0 for no noise."""
    return gaussian.table(variance).bound if variance else 0


def value_bits(plan: Plan, quorum: int, corrupt: int) -> int:
    """Signed bits of one coordinate of one input, its share of the noise included: what a manifest says."""
    return (plan.protection.max_value + share_cap(plan, quorum, corrupt)).bit_length() + 1


def expected_bits(plan: Plan, members: int) -> int:
    """`value_bits` of a sum of so many members, where nobody else stands in the roster: for what is made ready before
    there is a manifest.
    """
    corrupt = quorums.corrupt_bound(plan.cohort.max_corrupt, members)
    return value_bits(plan, quorums.quorum(members, corrupt), corrupt)


def noise_of(plan: Plan) -> str:
    """Who adds noise to the plan's sums, as a manifest says it."""
    return "none" if plan.privacy is None else plan.privacy.noise.value


_KEPT = 1024
"""Figures of plans that are remembered: a machine asks for them at every step."""

FINEST = 1000
"""Noise multipliers that are sought are whole multiples of 1/FINEST."""

MOST_MULTIPLIER = 10_000


@lru_cache(maxsize=_KEPT)
def charge(plan: Plan, privacy: PrivacySpec, organisations: int = 1) -> Charge:
    """What one train sum costs a record: Poisson sampling at q, Gaussian noise on the grid, drawn in at most MAX_COHORT
    shares from tables. One in the data of k `organisations` moves the sum k times as far (D5).
    """
    shift = organisations**2 * grid(plan, privacy).squared_shift
    length = coordinates(plan)
    single = rdp.sampled_gaussian(privacy.sample_rate, shift)
    curve = rdp.with_gap(single, _largest_gap(), length)
    return Charge.on(
        Rows.TRAINING if plan.statistics is None else Rows.BOTH, curve, Slack(draws=length * quorums.MAX_COHORT)
    )


@cache
def _largest_gap() -> float:
    """Between a sum of shares, the most and the smallest that there can be, and one Gaussian (D13)."""
    return rdp.sum_gap([LEAST_VARIANCE] * quorums.MAX_COHORT)


@lru_cache(maxsize=_KEPT)
def spent(plan: Plan, privacy: PrivacySpec, sums: int, organisations: int = 1) -> float:
    """Epsilon at the plan's delta after `sums` opened train sums: 0 for none; to the last bit what a ledger says."""
    return of_run([charge(plan, privacy, organisations)] * sums).epsilon(privacy.delta)


def model_noise(plan: Plan, privacy: PrivacySpec) -> float:
    """Standard deviation of the noise that the accountant counts on, in one coordinate of a step's mean."""
    record = privacy.unit is Unit.RECORD
    many = privacy.sample_rate * privacy.rows if record else plan.cohort.min_participants
    return privacy.noise_multiplier * privacy.clip_norm / many


@lru_cache(maxsize=_KEPT)
def steps_allowed(plan: Plan, privacy: PrivacySpec) -> int:
    """How many of the plan's steps fit below max_epsilon."""
    low, high = 0, plan.training.rounds
    while low < high:
        middle = (low + high + 1) // 2
        if _nearly_spent(plan, privacy, middle) <= privacy.max_epsilon:
            low = middle
        else:
            high = middle - 1
    while spent(plan, privacy, low) > privacy.max_epsilon:
        low -= 1
    return low


def _nearly_spent(plan: Plan, privacy: PrivacySpec, sums: int) -> float:
    """`spent` by multiplication, which is faster for many sums and may be smaller in the last bit: to search with."""
    one = charge(plan, privacy)
    return Spent(one.training.times(sums), Slack(one.slack.draws * sums)).epsilon(privacy.delta)


def multiplier_for(plan: Plan, privacy: PrivacySpec, target: float) -> float:
    """The smallest noise multiplier, in steps of 1/FINEST, with which all steps of the plan together cost at most
    `target`; 0 if none up to MOST_MULTIPLIER does. `privacy.noise_multiplier` is not looked at.
    """
    steps = plan.training.rounds

    def fits(thousandths: int, cost: Callable[[Plan, PrivacySpec, int], float]) -> bool:
        tried = replace(privacy, noise_multiplier=thousandths / FINEST)
        return grid(plan, tried).variance > 0 and cost(plan, tried, steps) <= target

    low, high = 0, MOST_MULTIPLIER * FINEST
    while low < high - 1:
        middle = (low + high) // 2
        low, high = (low, middle) if fits(middle, _nearly_spent) else (middle, high)
    return next((one / FINEST for one in (high, high + 1) if fits(one, spent)), 0.0)
