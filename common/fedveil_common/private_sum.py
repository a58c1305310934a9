"""What a plan's privacy block means for one of its secure sums: the grid, each member's share of the noise, the cost.

Promise: exact (integers and fractions, no float), a pure function of the plan and the manifest's q and c, so that both
sides and every member find the same figures; whoever checks a manifest asks here. At least q - c of the shares in an
opened sum are of honest members (docs/protocol.md), and those alone add up to the whole variance, so what corrupt
members leave out or subtract costs nothing; how shares shrink where nobody drops out is `dp.xnoise`'s. A record moves
the sum by at most `sensitivity` in L2 norm (D1).
Source: docs/privacy.md; Kairouz, Liu, Steinke 2021 (sums of discrete Gaussians).
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import cache, lru_cache
from math import ceil, floor

from fedveil_common.dp import gaussian, rdp, xnoise
from fedveil_common.dp.charge import Charge, Rows, Spent, of_run
from fedveil_common.dp.mechanism import LEAST_VARIANCE, least_clip
from fedveil_common.dp.slack import Slack
from fedveil_common.masking import quorum as quorums
from fedveil_common.plan import parameters
from fedveil_common.plan.spec import PAILLIER, NoiseSource, Plan, PrivacySpec, Unit


@dataclass(frozen=True, slots=True)
class Grid:
    """A record's bound and the noise, in steps of the grid. `sensitivity`: C_int; `variance`: of the whole noise that
    the accountant counts on.
    """

    sensitivity: int
    variance: int

    @property
    def squared_shift(self) -> Fraction:
        """(Delta2/sigma)^2 for `dp.rdp`."""
        return Fraction(self.sensitivity**2, self.variance)


def grid(plan: Plan, privacy: PrivacySpec) -> Grid:
    """C_int = floor(s*clip_norm) with s = M/update_norm, and the variance z^2 C_int^2, rounded up."""
    scale = Fraction(plan.protection.max_value) / Fraction(plan.protection.update_norm)
    sensitivity = floor(scale * Fraction(privacy.clip_norm))
    return Grid(sensitivity, ceil((Fraction(privacy.noise_multiplier) * sensitivity) ** 2))


def least_sensitivity(plan: Plan, privacy: PrivacySpec, members: int) -> int:
    """The smallest C_int at which rounding to the grid is small beside a record: max(64, 8 sqrt d, 4 N/z), D1."""
    return least_clip(parameters.count(plan.model, plan.data), members, Fraction(privacy.noise_multiplier))


def shares(plan: Plan, dealers: int, quorum: int, corrupt: int) -> xnoise.WholeLevels | None:
    """Variances of what each of `dealers` (|U2|) adds to each coordinate, so that the q - c honest members that a sum
    holds at least have the whole; None where members add none. Under paillier nothing is taken back: one share, made
    for q survivors. ValueError for fewer dealers than the quorum.
    """
    if plan.privacy is None or plan.privacy.noise is NoiseSource.COORDINATOR:
        return None
    return _shares(grid(plan, plan.privacy).variance, dealers, quorum, corrupt, plan.protection.kind != PAILLIER)


@lru_cache(maxsize=1024)
def _shares(variance: int, dealers: int, quorum: int, corrupt: int, taken_back: bool) -> xnoise.WholeLevels:
    if taken_back:
        provided = xnoise.with_colluders(variance, quorum, corrupt)
        return xnoise.Levels(provided, dealers, dealers - quorum).whole()
    return xnoise.WholeLevels(max(LEAST_VARIANCE, -(-variance // (quorum - corrupt))), (), dealers, 0)


def share_cap(plan: Plan, members: int, quorum: int, corrupt: int) -> int:
    """The largest absolute value of all that one member of a cohort draws for one coordinate, however many of the
    cohort come to deal; 0 where members draw nothing.
    """
    if plan.privacy is None or plan.privacy.noise is NoiseSource.COORDINATOR:
        return 0
    return _share_cap(plan, members, quorum, corrupt)


@lru_cache(maxsize=1024)
def _share_cap(plan: Plan, members: int, quorum: int, corrupt: int) -> int:
    caps = []
    for dealers in range(quorum, members + 1):
        levels = shares(plan, dealers, quorum, corrupt)
        assert levels is not None, "asked for members' noise only"
        caps.append(sum(gaussian.most(variance) for variance in (levels.base, *levels.components)))
    return max(caps)


def coordinator_variance(plan: Plan) -> int:
    """Of the coordinator's noise on each coordinate; 0 where it adds none."""
    if plan.privacy is None or plan.privacy.noise is not NoiseSource.COORDINATOR:
        return 0
    return max(LEAST_VARIANCE, grid(plan, plan.privacy).variance)


def coordinator_cap(plan: Plan) -> int:
    """W_c: the largest absolute value that the coordinator's own noise adds to a coordinate, in steps of the grid."""
    variance = coordinator_variance(plan)
    return gaussian.table(variance).bound if variance else 0


def value_bits(plan: Plan, members: int, quorum: int, corrupt: int) -> int:
    """Signed bits of one coordinate of one input of a cohort of so many, its share of the noise included: what a
    manifest says.
    """
    return (plan.protection.max_value + share_cap(plan, members, quorum, corrupt)).bit_length() + 1


def expected_bits(plan: Plan, members: int) -> int:
    """`value_bits` of a sum of so many members, where nobody else stands in the roster: for what is made ready before
    there is a manifest.
    """
    corrupt = quorums.corrupt_bound(plan.cohort.max_corrupt, members)
    return value_bits(plan, members, quorums.quorum(members, corrupt), corrupt)


def noise_of(plan: Plan) -> str:
    """Who adds noise to the plan's sums, as a manifest says it."""
    return "none" if plan.privacy is None else plan.privacy.noise.value


_KEPT = 1024
"""Figures of plans that are remembered: a machine asks for them at every step."""

FINEST = 1000
"""Noise multipliers that are sought are whole multiples of 1/FINEST."""

MOST_MULTIPLIER = 10_000


MOST_PIECES = quorums.MAX_COHORT * (1 + xnoise.MOST_COMPONENTS)
"""Draws that one coordinate of a sum can hold."""


@lru_cache(maxsize=_KEPT)
def charge(plan: Plan, privacy: PrivacySpec, organisations: int = 1) -> Charge:
    """What one train sum costs a record: Poisson sampling at q, Gaussian noise on the grid, drawn in at most
    MOST_PIECES pieces from tables. One in the data of k `organisations` moves the sum k times as far (D5).
    """
    shift = organisations**2 * grid(plan, privacy).squared_shift
    length = parameters.count(plan.model, plan.data)
    single = rdp.sampled_gaussian(privacy.sample_rate, shift)
    curve = rdp.with_gap(single, _largest_gap(), length)
    return Charge.on(Rows.TRAINING, curve, Slack(draws=length * MOST_PIECES))


@cache
def _largest_gap() -> float:
    """Between a sum of pieces, the most and the smallest that there can be, and one Gaussian (D13)."""
    return rdp.sum_gap([LEAST_VARIANCE] * MOST_PIECES)


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
