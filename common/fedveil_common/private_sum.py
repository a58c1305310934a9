"""What a plan's privacy block means for one of its secure sums: the grid, each member's share of the noise, the cost.

Promise: exact (integers and fractions, no float), a pure function of the plan and the manifest's q and c, so that both
sides and every member find the same figures; whoever checks a manifest asks here. At least q - c of the shares in an
opened sum are of honest members (docs/protocol.md), and those alone add up to the whole variance, so what corrupt
members leave out or subtract costs nothing; how shares shrink where nobody drops out is `dp.xnoise`'s. A record that
trains moves the sum by at most `sensitivity` in L2 norm; one that is held out by at most `measure_cap` in each
evaluation block, so by the root of the sum of their squares in all (D1, A6). A record is one or the other, so a sum has
two prices (D11). What has no price has no layout.
Source: docs/privacy.md; Kairouz, Liu, Steinke 2021 (sums of discrete Gaussians).
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import cache, lru_cache
from math import ceil, floor, isqrt, sqrt

from fedveil_common.dp import gaussian, laplace, rdp, xnoise
from fedveil_common.dp.charge import Charge, Rows, Spent, of_run
from fedveil_common.dp.distribution import DiscreteGaussian, DiscreteLaplace, Distribution
from fedveil_common.dp.mechanism import FURTHER, LEAST_VARIANCE, GridBlock, Mechanism, least_clip
from fedveil_common.dp.slack import Slack
from fedveil_common.errors import IntegrityError
from fedveil_common.masking import quorum as quorums
from fedveil_common.messages import Purpose
from fedveil_common.plan import measures, parameters
from fedveil_common.plan.spec import PAILLIER, NoiseKind, NoiseSource, Plan, PrivacySpec, Unit
from fedveil_common.statistics import vector


@dataclass(frozen=True, slots=True)
class Grid:
    """A record's bound and the noise, in steps of the grid. `squared`: of the bound in L2 norm; `noise`: the whole that
    the accountant counts on.
    """

    squared: int
    noise: Distribution

    @property
    def variance(self) -> int:
        """Of the noise on a coordinate."""
        return self.noise.variance

    @property
    def sensitivity(self) -> int:
        """C_int, rounded down where the bound is no whole number (that of a statistics sum: per_row sqrt(parts))."""
        return isqrt(self.squared)

    @property
    def squared_shift(self) -> Fraction:
        """(Delta2/sigma)^2 for `dp.rdp`: what a Gaussian is priced by."""
        return Fraction(self.squared, self.variance)


def grid(plan: Plan, privacy: PrivacySpec) -> Grid:
    """C_int = floor(s*clip_norm) with s = M/update_norm, in a statistics sum the square root of the squared caps of its
    parts, and the variance z^2 C_int^2, rounded up. Under Laplace the scale z Delta1, rounded up, with Delta1 the sum
    of the caps of the parts, which bound each part in L1 norm too.
    """
    if plan.statistics is not None:
        squared = vector.squared_sensitivity(plan)
    else:
        scale = Fraction(plan.protection.max_value) / Fraction(plan.protection.update_norm)
        squared = floor(scale * Fraction(privacy.clip_norm)) ** 2
    multiplier = Fraction(privacy.noise_multiplier)
    if privacy.mechanism is NoiseKind.LAPLACE:
        return Grid(squared, DiscreteLaplace(ceil(multiplier * vector.l1_sensitivity(plan))))
    return Grid(squared, DiscreteGaussian(ceil(multiplier**2 * squared)))


def coordinates(plan: Plan) -> int:
    """D of the sum that a record moves: the parameters of the model, or the figures and cells that are asked for."""
    return parameters.count(plan.model, plan.data) if plan.statistics is None else vector.length(plan)


def least_sensitivity(plan: Plan, privacy: PrivacySpec, members: int) -> int:
    """The smallest C_int at which rounding to the grid is small beside a record: max(64, 8 sqrt d, 4 N/z), D1."""
    return least_clip(coordinates(plan), members, Fraction(privacy.noise_multiplier))


def measure_cap(plan: Plan, privacy: PrivacySpec) -> int:
    """Steps of the grid that one record (person) is in an evaluation block, at most, in L2 norm: C_int/8 (A6)."""
    return grid(plan, privacy).sensitivity // FURTHER


def measure_range(plan: Plan, privacy: PrivacySpec) -> int:
    """R_l of the evaluation blocks: the largest value that one participant's holdout gives a coordinate (D1)."""
    return measure_cap(plan, privacy) * privacy.rows


def widest(plan: Plan) -> int:
    """The largest absolute value of a coordinate of one input before its noise, over all blocks and sums of the plan:
    one figure, so that all its sums have values of the same width.
    """
    if plan.privacy is None or not plan.evaluation.metrics:
        return plan.protection.max_value
    return max(plan.protection.max_value, measure_range(plan, plan.privacy))


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


def coordinator_noise(plan: Plan) -> Distribution | None:
    """The coordinator's noise on each coordinate; None where it adds none."""
    if plan.privacy is None or plan.privacy.noise is not NoiseSource.COORDINATOR:
        return None
    noise = grid(plan, plan.privacy).noise
    return noise if isinstance(noise, DiscreteLaplace) else DiscreteGaussian(max(LEAST_VARIANCE, noise.variance))


def coordinator_cap(plan: Plan) -> int:
    """W_c: the largest absolute value that the coordinator's own noise adds to a coordinate, in steps of the grid."""
    noise = coordinator_noise(plan)
    return 0 if noise is None else noise.sampler.bound


def value_bits(plan: Plan, members: int, quorum: int, corrupt: int) -> int:
    """Signed bits of one coordinate of one input of a cohort of so many, its share of the noise included: what a
    manifest says.
    """
    return (widest(plan) + share_cap(plan, members, quorum, corrupt)).bit_length() + 1


def expected_bits(plan: Plan, members: int) -> int:
    """`value_bits` of a sum of so many members, where nobody else stands in the roster: for what is made ready before
    there is a manifest.
    """
    corrupt = quorums.corrupt_bound(plan.cohort.max_corrupt, members)
    return value_bits(plan, members, quorums.quorum(members, corrupt), corrupt)


def noise_of(plan: Plan) -> str:
    """Who adds noise to the plan's sums, as a manifest says it."""
    return "none" if plan.privacy is None else plan.privacy.noise.value


def count_deviation(plan: Plan, variance: float) -> float:
    """Standard deviation of the noise on an opened count, in records (persons), from the `variance` that is left in its
    sum (`Result.noise_left`, which is checked); 0 for exact sums.
    """
    if plan.privacy is None:
        return 0.0
    return sqrt(variance) / measure_cap(plan, plan.privacy)


LEAST_DEVIATIONS = 4
"""A noisy number of holdout records below so many standard deviations measures nothing."""


def least_count(plan: Plan, privacy: PrivacySpec) -> float:
    """The smallest noisy number of holdout records over which a mean is formed: of the plan alone, so that both sides
    find the same.
    """
    found = grid(plan, privacy)
    return LEAST_DEVIATIONS * sqrt(found.variance) / measure_cap(plan, privacy)


# --- what is priced ---------------------------------------------------------------------------------------------------

_SCORES = "scores"
"""Both score histograms: a record is in one cell of one of them, so together they are one block of its contribution."""

_GROUP = {measures.NEGATIVE: _SCORES, measures.POSITIVE: _SCORES}


def mechanism(plan: Plan, privacy: PrivacySpec, purpose: Purpose, step: int) -> Mechanism:
    """What is clipped to what in a sum, and the noise on it: what is priced, block by block, whatever the layout says.

    ValueError for a purpose that a private plan has no sum for.
    """
    _check_purpose(plan, purpose)
    return _mechanism(plan, privacy, *_kind(plan, purpose, step))


def first_sum(plan: Plan) -> tuple[Purpose, int]:
    """What the first private sum of a run is for, and after how many steps."""
    return (Purpose.TRAIN if plan.statistics is None else Purpose.STATISTICS), 0


def _check_purpose(plan: Plan, purpose: Purpose) -> None:
    if purpose not in ({Purpose.TRAIN, Purpose.EVALUATE} if plan.statistics is None else {Purpose.STATISTICS}):
        raise ValueError(f"this private plan has no sum of purpose {purpose.value}")


def _kind(plan: Plan, purpose: Purpose, step: int) -> tuple[bool, bool]:
    """Whether a sum trains, and whether it measures."""
    return purpose is Purpose.TRAIN, purpose is Purpose.EVALUATE or measures.due(plan, step)


def _mechanism(plan: Plan, privacy: PrivacySpec, trains: bool, measured: bool) -> Mechanism:
    found = grid(plan, privacy)
    if plan.statistics is not None:
        caps = tuple(GridBlock(one.name, one.length, vector.per_row(plan), Rows.BOTH) for one in vector.parts(plan))
        return Mechanism(float(vector.per_row(plan)), found.sensitivity, caps, found.variance)
    length, cap = parameters.count(plan.model, plan.data), measure_cap(plan, privacy)
    priced = [GridBlock(measures.UPDATE, length, found.sensitivity, Rows.TRAINING)] if trains else []
    if trains and privacy.adaptive is not None:
        priced.append(GridBlock(measures.CLIPPED, 1, cap, Rows.TRAINING))
    lengths: dict[str, int] = {}
    for name, count in measures.blocks(plan) if measured else ():
        lengths[_GROUP.get(name, name)] = lengths.get(_GROUP.get(name, name), 0) + count
    priced += [GridBlock(name, count, cap, Rows.HOLDOUT) for name, count in lengths.items()]
    scale = plan.protection.max_value / plan.protection.update_norm
    return Mechanism(scale, found.sensitivity, tuple(priced), found.variance)


def charged_blocks(plan: Plan, privacy: PrivacySpec, purpose: Purpose, step: int) -> dict[str, Rows]:
    """The blocks that the charge of a sum covers, by name, and which records each is made of."""
    priced = {one.name: one.rows for one in mechanism(plan, privacy, purpose, step).blocks}
    names = [measures.UPDATE, *(name for name, _ in measures.blocks(plan))]
    return {name: priced[_GROUP.get(name, name)] for name in names if _GROUP.get(name, name) in priced}


def check_priced(plan: Plan, privacy: PrivacySpec, purpose: Purpose, step: int, lengths: Mapping[str, int]) -> None:
    """Every coordinate of a sum with blocks of these `lengths` is one that is priced, and none is missing.

    IntegrityError `uncharged_block`: the sum would open something that nobody pays for.
    """
    found: dict[str, int] = {}
    for name, length in lengths.items():
        found[_GROUP.get(name, name)] = found.get(_GROUP.get(name, name), 0) + length
    priced = {one.name: one.length for one in mechanism(plan, privacy, purpose, step).blocks}
    wrong = sorted(name for name in found.keys() | priced.keys() if found.get(name) != priced.get(name))
    if wrong:
        raise IntegrityError(
            "uncharged_block",
            f"the {purpose.value} sum after {step} steps would open {', '.join(wrong)} otherwise than it is charged",
            not_done="nothing was trained, charged or sent",
            next_step="report it: this is a defect of the software, and no sum of this plan may open",
        )


# --- what it costs ----------------------------------------------------------------------------------------------------

_KEPT = 1024
"""Figures of plans that are remembered: a machine asks for them at every step."""

FINEST = 1000
"""Noise multipliers that are sought are whole multiples of 1/FINEST."""

MOST_MULTIPLIER = 10_000


MOST_PIECES = quorums.MAX_COHORT * (1 + xnoise.MOST_COMPONENTS)
"""Draws that one coordinate of a sum can hold."""


def charge(plan: Plan, privacy: PrivacySpec, purpose: Purpose, step: int, organisations: int = 1) -> Charge:
    """What the sum of `purpose` after `step` model steps costs a record that trains (Poisson sampling at q) and one
    that is held out (q = 1), under the plan's noise, drawn in at most MOST_PIECES pieces from tables. One in the data
    of k `organisations` moves the sum k times as far (D5).
    """
    _check_purpose(plan, purpose)
    return _charge(plan, privacy, *_kind(plan, purpose, step), organisations)


@lru_cache(maxsize=_KEPT)
def _charge(plan: Plan, privacy: PrivacySpec, trains: bool, measured: bool, organisations: int) -> Charge:
    """`charge`, which is the same for all sums of a kind."""
    if plan.statistics is not None:
        return _charge_of_statistics(plan, privacy, organisations)
    priced = _mechanism(plan, privacy, trains, measured)

    def curve(rows: Rows, rate: float) -> rdp.Curve:
        if not priced.squared_sensitivity(rows):
            return rdp.NOTHING
        single = rdp.sampled_gaussian(rate, priced.squared_shift(rows, organisations))
        return rdp.with_gap(single, _largest_gap(), priced.length)

    slack = Slack(draws=priced.length * MOST_PIECES)
    return Charge(curve(Rows.TRAINING, privacy.sample_rate), curve(Rows.HOLDOUT, 1.0), slack)


def _charge_of_statistics(plan: Plan, privacy: PrivacySpec, organisations: int) -> Charge:
    """Every record is in the one sum of a statistics plan, which moves by `Grid.squared` at most: its caps together.
    Under Laplace it moves by their sum in L1 norm, and the noise of a coordinate is one draw.
    """
    length, found = coordinates(plan), grid(plan, privacy)
    if isinstance(found.noise, DiscreteLaplace):
        scale = min(found.noise.scale, laplace.MAX_SCALE)  # a larger one cannot be drawn, and would cost less
        curve = rdp.discrete_laplace(scale, organisations * vector.l1_sensitivity(plan))
        return Charge.on(Rows.BOTH, curve, Slack(draws=length))
    single = rdp.sampled_gaussian(1.0, organisations**2 * found.squared_shift)
    return Charge.on(Rows.BOTH, rdp.with_gap(single, _largest_gap(), length), Slack(draws=length * MOST_PIECES))


@cache
def _largest_gap() -> float:
    """Between a sum of pieces, the most and the smallest that there can be, and one Gaussian (D13)."""
    return rdp.sum_gap([LEAST_VARIANCE] * MOST_PIECES)


def sums_planned(plan: Plan) -> int:
    """How many sums a run of the plan opens if nothing ends it before: its steps, and the one that measures the last
    model.
    """
    return 1 if plan.statistics is not None else plan.training.rounds + bool(plan.evaluation.metrics)


def _charges(plan: Plan, privacy: PrivacySpec, sums: int, organisations: int = 1) -> list[Charge]:
    """Of the first `sums` sums of a run, in order. ValueError for more than it has."""
    if not 0 <= sums <= sums_planned(plan):
        raise ValueError(f"a run of this plan has {sums_planned(plan)} sums, not {sums}")
    if plan.statistics is not None:
        return [charge(plan, privacy, Purpose.STATISTICS, 0, organisations)] * sums
    steps = min(sums, plan.training.rounds)
    due = [measures.due(plan, step) for step in range(steps)]
    priced = {one: _charge(plan, privacy, True, one, organisations) for one in set(due)}  # few, however many steps
    last = [charge(plan, privacy, Purpose.EVALUATE, steps, organisations)] if sums > steps else []
    return [priced[one] for one in due] + last


@lru_cache(maxsize=_KEPT)
def spent(plan: Plan, privacy: PrivacySpec, sums: int, organisations: int = 1) -> float:
    """Epsilon at the plan's delta after the first `sums` sums of a run have opened: 0 for none; to the last bit what a
    ledger says.
    """
    return of_run(_charges(plan, privacy, sums, organisations)).epsilon(privacy.delta)


@lru_cache(maxsize=_KEPT)
def costs(plan: Plan, privacy: PrivacySpec, sums: int) -> tuple[float, float]:
    """What `spent` says of a record that trains, and of one that is held out, each by itself."""
    every = _charges(plan, privacy, sums)
    slack = sum((one.slack for one in every), Slack())
    curves = rdp.composed(one.training for one in every), rdp.composed(one.holdout for one in every)
    training, holdout = (Spent(curve, slack).epsilon(privacy.delta) if any(curve.rho) else 0.0 for curve in curves)
    return training, holdout


@lru_cache(maxsize=_KEPT)
def cost_of_sum(plan: Plan, privacy: PrivacySpec, purpose: Purpose, step: int) -> float:
    """Epsilon of one sum by itself, at the plan's delta. Epsilons of sums do not add up: `spent` is of all together."""
    return of_run([charge(plan, privacy, purpose, step)]).epsilon(privacy.delta)


def model_noise(plan: Plan, privacy: PrivacySpec) -> float:
    """Standard deviation of the noise that the accountant counts on, in one coordinate of a step's mean."""
    record = privacy.unit is Unit.RECORD
    many = privacy.sample_rate * privacy.rows if record else plan.cohort.min_participants
    return privacy.noise_multiplier * privacy.clip_norm / many


@lru_cache(maxsize=_KEPT)
def sums_allowed(plan: Plan, privacy: PrivacySpec) -> int:
    """How many of the plan's sums, in order, fit below max_epsilon, the one that measures the last model included."""
    low, high = 0, sums_planned(plan)
    while low < high:
        middle = (low + high + 1) // 2
        if _nearly_spent(plan, privacy, middle) <= privacy.max_epsilon:
            low = middle
        else:
            high = middle - 1
    while spent(plan, privacy, low) > privacy.max_epsilon:
        low -= 1
    return low


def steps_allowed(plan: Plan, privacy: PrivacySpec) -> int:
    """How many of the plan's model steps fit below max_epsilon."""
    return min(sums_allowed(plan, privacy), plan.training.rounds)


def _nearly_spent(plan: Plan, privacy: PrivacySpec, sums: int) -> float:
    """`spent` by multiplication, which is faster for many sums and may be smaller in the last bit: to search with."""
    if plan.statistics is not None:
        return spent(plan, privacy, sums)
    steps = min(sums, plan.training.rounds)
    measured = sum(measures.due(plan, step) for step in range(steps))
    kinds = (((True, False), steps - measured), ((True, True), measured), ((False, True), sums - steps))
    parts = [(_charge(plan, privacy, *kind, 1), count) for kind, count in kinds if count]
    training = rdp.composed(one.training.times(count) for one, count in parts)
    holdout = rdp.composed(one.holdout.times(count) for one, count in parts)
    draws = sum(one.slack.draws * count for one, count in parts)
    return Spent(rdp.largest(training, holdout), Slack(draws)).epsilon(privacy.delta)


def multiplier_for(plan: Plan, privacy: PrivacySpec, target: float) -> float:
    """The smallest noise multiplier, in steps of 1/FINEST, with which all sums of the plan together cost at most
    `target`; 0 if none up to MOST_MULTIPLIER does. `privacy.noise_multiplier` is not looked at.
    """
    sums = sums_planned(plan)

    def fits(thousandths: int, cost: Callable[[Plan, PrivacySpec, int], float]) -> bool:
        tried = replace(privacy, noise_multiplier=thousandths / FINEST)
        return grid(plan, tried).variance > 0 and cost(plan, tried, sums) <= target

    low, high = 0, MOST_MULTIPLIER * FINEST
    while low < high - 1:
        middle = (low + high) // 2
        low, high = (low, middle) if fits(middle, _nearly_spent) else (middle, high)
    return next((one / FINEST for one in (high, high + 1) if fits(one, spent)), 0.0)
