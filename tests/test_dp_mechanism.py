"""A plan's figures on the grid, the bound of its noise, and XNoise: test 41 of FLSA/1 in exact rationals."""

import itertools
import math
from collections.abc import Callable
from fractions import Fraction

import pytest
from fedveil_common.crypto.labels import h
from fedveil_common.dp import gaussian, rdp, xnoise
from fedveil_common.dp import mechanism as mechanisms
from fedveil_common.dp.charge import Charge, Rows, of_run
from fedveil_common.dp.mechanism import Block, Mechanism, mechanism
from fedveil_common.dp.xnoise import Levels
from fedveil_common.errors import ConfigError, PeerError
from fedveil_common.ids import OrgId
from fedveil_common.masking.quorum import corrupt_bound, quorum
from fedveil_common.secret import Seed
from hypothesis import assume, given, settings
from hypothesis import strategies as st

DELTA = 1e-5


def blocks(parameters: int = 100, clip_norm: float = 1.0, measured: int = 3) -> list[Block]:
    """An update, the clip count of training rows, and `measured` blocks that holdout rows move."""
    further = [Block(f"measure-{i}", 1, clip_norm / 8, Rows.HOLDOUT) for i in range(measured)]
    return [
        Block("update", parameters, clip_norm, Rows.TRAINING),
        Block("clips", 1, clip_norm / 8, Rows.TRAINING),
        *further,
    ]


def planned(value_bits: int = 14, update_norm: float = 5.0, z: float = 1.1, members: int = 5) -> Mechanism:
    return mechanism(value_bits, update_norm, 1.0, z, blocks(), members)


# --- the grid ---------------------------------------------------------------------------------------------------------


def test_d1_a_plan_on_the_grid() -> None:
    found = planned()
    assert found.scale == 8191 / 5
    assert found.clip == 1638  # 1638.2
    assert [block.cap for block in found.blocks] == [1638, 204, 204, 204, 204]  # 204.775
    assert [block.length for block in found.blocks] == [100, 1, 1, 1, 1]
    assert found.length == 104
    assert found.variance == math.ceil((Fraction(1.1) * 1638) ** 2) == 3246484
    assert found.squared_sensitivity(Rows.TRAINING) == 1638**2 + 204**2
    assert found.squared_sensitivity(Rows.HOLDOUT) == 3 * 204**2
    assert found.squared_sensitivity(Rows.BOTH) == 1638**2 + 4 * 204**2


@settings(max_examples=200)
@given(
    st.integers(8, 32),
    st.floats(1e-3, 1e3),
    st.floats(1e-3, 1e3),
    st.floats(0.1, 30),
    st.integers(1, 10**6),
    st.integers(3, 256),
)
def test_d1_every_figure_is_on_the_safe_side(
    bits: int, update_norm: float, clip_norm: float, z: float, length: int, members: int
) -> None:
    parts, exact = blocks(length, clip_norm), (2 ** (bits - 1) - 1) / Fraction(update_norm)
    if exact * Fraction(clip_norm) < mechanisms.least_clip(length + 4, members, Fraction(z)):
        with pytest.raises(ConfigError) as refused:
            mechanism(bits, update_norm, clip_norm, z, parts, members)
        assert refused.value.code == "noise_grid_too_coarse"
        return
    found = mechanism(bits, update_norm, clip_norm, z, parts, members)
    assert found.clip <= exact * Fraction(clip_norm) < found.clip + 1
    assert all(block.cap <= exact * Fraction(part.cap) for block, part in zip(found.blocks, parts, strict=True))
    assert (Fraction(z) * found.clip) ** 2 <= found.variance < (Fraction(z) * found.clip) ** 2 + 1
    assert found.clip >= 64
    assert found.clip**2 >= 64 * found.length
    assert found.clip * Fraction(z) >= 4 * members
    assert found.squared_shift(Rows.TRAINING) <= Fraction(65, 64) / Fraction(z) ** 2
    Levels(Fraction(found.variance), members, members - 1).whole()  # every component has a variance of 16


@pytest.mark.parametrize(
    ("value_bits", "parameters", "z", "members", "least"),
    [
        (8, 10, 1.0, 3, 64),  # the floor: 25 of 64
        (11, 9_995, 1.0, 3, 800),  # 8*sqrt(10^4): 204 of 800
        (11, 10, 0.1, 10, 400),  # 4N/z = 400 (and a little less, since 0.1 is a little more)
    ],
)
def test_d1_a_grid_that_is_too_coarse_is_refused_with_what_would_do(
    value_bits: int, parameters: int, z: float, members: int, least: int
) -> None:
    assert mechanisms.least_clip(parameters + 5, members, Fraction(z)) == least
    with pytest.raises(ConfigError) as refused:
        mechanism(value_bits, 5.0, 1.0, z, blocks(parameters), members)
    assert refused.value.code == "noise_grid_too_coarse"
    bits = mechanisms.value_bits_for(least, 1.0, 5.0)
    assert f"value_bits of {bits} " in refused.value.next_step
    assert mechanism(bits, 5.0, 1.0, z, blocks(parameters), members).clip >= least
    with pytest.raises(ConfigError):
        mechanism(bits - 1, 5.0, 1.0, z, blocks(parameters), members)
    assert str(least) in refused.value.what


def test_d1_value_bits_that_no_plan_can_have_are_not_proposed() -> None:
    with pytest.raises(ConfigError) as refused:
        mechanism(14, 1e9, 1.0, 1.0, blocks(), 5)
    assert "value_bits" not in refused.value.next_step
    assert mechanisms.value_bits_for(64, 1.0, 1e9) > 32


def test_a_cap_below_one_unit_is_refused() -> None:
    with pytest.raises(ConfigError) as refused:
        mechanism(14, 5.0, 1.0, 1.1, [*blocks(), Block("dust", 1, 1e-6, Rows.HOLDOUT)], 5)
    assert refused.value.code == "block_cap_too_small"


@pytest.mark.parametrize(("z", "further"), [(1.0, 0), (1.0, 1), (2.5, 1), (0.7, 3)])
def test_d11_a_training_row_that_moves_further_blocks_has_less_noise(z: float, further: int) -> None:
    """z/sqrt(1+k/64) where 8 divides C_int, never less; naive: z, as if the further blocks cost nothing."""
    parts = [Block("update", 10, 1.0, Rows.TRAINING)]
    parts += [Block(f"further-{i}", 1, 0.125, Rows.TRAINING) for i in range(further)]
    found = mechanism(16, 32767 / 2048, 1.0, z, parts, 5)
    assert found.clip == 2048
    designed = z / math.sqrt(1 + further / 64)
    assert found.squared_shift(Rows.TRAINING) == pytest.approx(designed**-2, rel=1e-6)
    assert found.squared_shift(Rows.TRAINING) <= Fraction(64 + further, 64) / Fraction(z) ** 2
    naive = rdp.epsilon(rdp.gaussian(rdp.shift_of(z)).times(50), DELTA)
    charged = rdp.epsilon(rdp.gaussian(found.squared_shift(Rows.TRAINING)).times(50), DELTA)
    assert (charged > naive * 1.01) is (further > 0)


@pytest.mark.parametrize(("z", "measured"), [(1.0, 1), (1.1, 3), (2.0, 131)])
def test_d11_a_holdout_row_has_eight_times_the_noise_over_the_root_of_its_blocks(z: float, measured: int) -> None:
    found = mechanism(16, 32767 / 2048, 1.0, z, blocks(10, 1.0, measured), 5)
    assert found.squared_shift(Rows.HOLDOUT) == pytest.approx((8 * z / math.sqrt(measured)) ** -2, rel=1e-6)


def test_d11_evaluating_each_of_twenty_rounds_costs_more_than_training() -> None:
    found = planned(z=1.1)
    training = rdp.sampled_gaussian(0.05, found.squared_shift(Rows.TRAINING))
    holdout = rdp.gaussian(found.squared_shift(Rows.HOLDOUT))

    def run(every: int) -> float:
        sums = [Charge(training, holdout if step % every == 0 else rdp.NOTHING) for step in range(20)]
        return of_run(sums).epsilon(DELTA)

    alone = rdp.epsilon(training.times(20), DELTA)
    assert run(1) > 1.5 * alone
    assert run(10) == pytest.approx(alone, rel=1e-3)


def test_d5_the_shift_of_a_person_in_several_organisations() -> None:
    found = planned()
    assert found.squared_shift(Rows.TRAINING, 2) == 4 * found.squared_shift(Rows.TRAINING)
    assert found.squared_shift(Rows.HOLDOUT, 3) == 9 * found.squared_shift(Rows.HOLDOUT)


# --- variances and tails ----------------------------------------------------------------------------------------------


@given(st.integers(16, 10**12), st.integers(1, 256))
def test_honest_survivors_together_have_the_variance_asked_for(variance: int, honest: int) -> None:
    assume(variance >= 16 * honest)
    each = mechanisms.each_variance(variance, honest)
    assert variance <= honest * each < variance + honest


def test_d14_noise_that_is_too_fine_is_refused() -> None:
    assert mechanisms.each_variance(16 * 5, 5) == 16
    with pytest.raises(ConfigError) as refused:
        mechanisms.each_variance(15 * 5, 5)
    assert refused.value.code == "noise_component_too_small"
    with pytest.raises(ConfigError):
        mechanisms.check_variance(Fraction(159, 10))


def test_d14_at_sixteen_the_sum_is_as_good_as_one_and_at_one_it_is_not() -> None:
    assert rdp.sum_gap([16] * 256) * 2**28 < 1e-58
    assert rdp.sum_gap([1] * 4) * 10**6 > 500


def test_d15_the_tail_is_that_of_two_to_the_minus_64() -> None:
    variance, length = 3246485, 10**6
    found = mechanisms.tail([variance], length)
    assert found.likely == pytest.approx(math.sqrt(2 * math.log(2 * length * 2.0**64) * variance), abs=1)
    assert found.hard == math.ceil(mechanisms.TRUNCATION * math.sqrt(variance))
    assert found.bound == found.likely < found.hard
    naive = math.sqrt(2 * math.log(2 * length * 2.0**40) * variance)  # beta' = 2^-40, as without DP
    assert found.bound > 1.1 * naive


@pytest.mark.parametrize("variance", [1, 2, 3, 16, 1000, 2**20, 2**20 + 1, 2**24 + 1, 10**9, 2**36 + 1])
def test_nothing_is_drawn_beyond_the_hard_tail(variance: int) -> None:
    assert gaussian.table(variance).bound <= mechanisms.tail([variance], 1).hard


@given(st.lists(st.integers(16, 10**9), min_size=1, max_size=30), st.integers(1, 2**28))
def test_the_tail_of_a_sum_is_an_upper_bound(variances: list[int], length: int) -> None:
    found = mechanisms.tail(variances, length)
    assert found.likely**2 >= 2 * (math.log(2 * length) + 64 * math.log(2)) * sum(variances) * (1 - 1e-12)
    assert (found.likely - 1) ** 2 < 2 * (math.log(2 * length) + 64 * math.log(2)) * sum(variances) * (1 + 1e-12)
    assert found.hard >= mechanisms.TRUNCATION * sum(math.sqrt(variance) for variance in variances) * (1 - 1e-12)
    assert found.bound == min(found.likely, found.hard)


def test_a_hard_bound_that_is_smaller_wins() -> None:
    assert mechanisms.Tail(likely=9, hard=7).bound == 7


def test_the_tail_bounds_a_discrete_gaussian() -> None:
    """P(|X| >= w) <= 2 exp(-w^2/(2 variance)) for variance 16: summed, for every w up to 20 sigma."""
    masses = [math.exp(-x * x / 32) for x in range(400)]
    whole = 2 * math.fsum(masses) - 1
    for w in range(1, 80):
        assert 2 * math.fsum(masses[w:]) / whole <= 2 * math.exp(-w * w / 32)


@pytest.mark.parametrize(
    "call",
    [
        lambda: mechanism(1, 5.0, 1.0, 1.0, blocks(), 5),
        lambda: mechanism(14, 5.0, 1.0, 1.0, [], 5),
        lambda: mechanism(14, 5.0, 1.0, 1.0, blocks(), 0),
        lambda: mechanism(14, 0.0, 1.0, 1.0, blocks(), 5),
        lambda: mechanism(14, 5.0, math.inf, 1.0, blocks(), 5),
        lambda: mechanism(14, 5.0, 1.0, math.nan, blocks(), 5),
        lambda: Block("update", 0, 1.0, Rows.TRAINING),
        lambda: Block("update", 1, 0.0, Rows.TRAINING),
        lambda: mechanisms.each_variance(0, 1),
        lambda: mechanisms.each_variance(100, 0),
        lambda: mechanisms.tail([], 1),
        lambda: mechanisms.tail([0], 1),
        lambda: mechanisms.tail([16], 0),
        lambda: Levels(Fraction(0), 3, 1),
        lambda: Levels(Fraction(1), 3, 3),
        lambda: Levels(Fraction(1), 3, -1),
        lambda: Levels(Fraction(1), 5, 2).component(0),
        lambda: Levels(Fraction(1), 5, 2).component(3),
        lambda: Levels(Fraction(1), 5, 2).each(3),
        lambda: xnoise.staying(-1, 2),
        lambda: Levels(Fraction(1), 5, 2).total(1, 5),
        lambda: Levels(Fraction(1), 5, 2).total(1, -1),
        lambda: Levels(Fraction(1000), 5, 2).whole().each(3),
        lambda: Levels(Fraction(1000), 5, 2).whole().total(-1),
        lambda: xnoise.with_colluders(1, 3, 3),
        lambda: xnoise.with_colluders(1, 3, -1),
        lambda: xnoise.with_colluders(0, 3, 1),
    ],
)
def test_figures_that_mean_nothing_are_refused(call: Callable[[], object]) -> None:
    with pytest.raises(ValueError, match=r"[a-z]"):
        call()


# --- XNoise: test 41 --------------------------------------------------------------------------------------------------

cohorts = st.integers(3, 256).flatmap(lambda n: st.tuples(st.just(n), st.integers(0, n - 1)))
targets = st.fractions(min_value=Fraction(1, 1000), max_value=10**9)


@given(cohorts, targets)
def test_attack_41_what_stays_is_the_target_exactly_whoever_dropped(cohort: tuple[int, int], target: Fraction) -> None:
    members, tolerated = cohort
    levels = Levels(target, members, tolerated)
    for dropped in {0, *xnoise.cuts(tolerated)}:
        assert levels.total(dropped) == target
        assert levels.each(dropped) == target / (members - dropped)
    for dropped in range(tolerated + 1):
        stay = xnoise.staying(dropped, tolerated)
        taken_out = sum((levels.component(k) for k in range(stay + 1, levels.components + 1)), Fraction(0))
        assert levels.each(tolerated) - taken_out == levels.each(dropped)
        assert levels.total(dropped) >= target
        assert (
            levels.total(dropped) <= target * Fraction(108, 100) or tolerated > members * 2 // 5
        )  # protocol: T = n0 - q


@given(cohorts, targets, st.data())
def test_attack_41_a_survivor_that_is_absent_at_reveal_leaves_more_noise(
    cohort: tuple[int, int], target: Fraction, data: st.DataObject
) -> None:
    members, tolerated = cohort
    dropped = data.draw(st.integers(0, tolerated))
    absent = data.draw(st.integers(0, members - dropped))
    total = Levels(target, members, tolerated).total(dropped, absent)
    extra = target / (members - tolerated) - Levels(target, members, tolerated).each(dropped)
    assert total == Levels(target, members, tolerated).total(dropped) + absent * extra >= target
    assert dropped not in xnoise.cuts(tolerated) or extra == target / (members - tolerated) - target / (
        members - dropped
    )


@given(cohorts, targets)
def test_attack_41_integer_variances_are_above_by_less_than_one_each(cohort: tuple[int, int], target: Fraction) -> None:
    members, tolerated = cohort
    target += 16 * members * members
    whole = Levels(target, members, tolerated).whole()
    assert all(isinstance(variance, int) for variance in (whole.base, *whole.components))
    for dropped in range(0, tolerated + 1, max(1, tolerated // 8)):
        above = whole.total(dropped) - Levels(target, members, tolerated).total(dropped)
        assert 0 <= above < (members - dropped) * (xnoise.staying(dropped, tolerated) + 1)
        assert whole.total(dropped) == (members - dropped) * whole.each(dropped)


def test_d14_no_component_has_a_variance_below_sixteen() -> None:
    assert Levels(Fraction(16 * 5 * 4), 5, 2).whole().components == (16, 27)
    small = Levels(Fraction(30), 5, 2)
    assert small.whole().components == (16, 16)
    assert small.whole().base == 16
    assert all(small.whole().total(dropped) > 30 for dropped in range(3))


def test_attack_41_many_dropouts_share_components() -> None:
    """The protocol tolerates at most n0 - q: there groups cost at most 7.4 % of variance, with a tenth of the draws."""
    assert xnoise.cuts(0) == ()
    assert xnoise.cuts(3) == (1, 2, 3)
    assert xnoise.cuts(20) == (3, 5, 8, 10, 13, 15, 18, 20)
    members = 200
    tolerated = members - quorum(members, corrupt_bound(1, members))
    levels = Levels(Fraction(1), members, tolerated)
    assert levels.components == 8
    worst = max(levels.total(dropped) for dropped in range(tolerated + 1))
    assert 1 < worst < Fraction(109, 100)


def test_d16_every_attempt_costs_the_same_and_an_unprovided_dropout_would_cost_more() -> None:
    """Naive: noise for all members and nothing put back when some drop: 60.1 becomes 65.7, 76.8, 110.1."""
    found, levels = planned(z=1.0), Levels(Fraction(planned(z=1.0).variance), 20, 10)
    sensitivity = found.squared_sensitivity(Rows.TRAINING)
    costs = {levels.total(dropped) for dropped in (0, *xnoise.cuts(10))}
    assert costs == {Fraction(found.variance)}
    charged = rdp.epsilon(rdp.gaussian(Fraction(sensitivity) / costs.pop()).times(50), DELTA)
    for dropped in (2, 5, 10):
        naive_variance = levels.base * (20 - dropped)
        assert rdp.epsilon(rdp.gaussian(Fraction(sensitivity) / naive_variance).times(50), DELTA) > charged + 5


@pytest.mark.parametrize(("members", "factor"), [(10, 1.40), (20, 1.44), (50, 1.48), (100, 1.49), (200, 1.49)])
def test_colluders_are_provided_for(members: int, factor: float) -> None:
    c = corrupt_bound(1, members)
    q = quorum(members, c)
    provided = xnoise.with_colluders(10**6, q, c)
    assert provided / 10**6 == pytest.approx(factor, abs=0.006)
    levels = Levels(provided, members, members - q)
    for dropped in range(members - q + 1):
        honest = (members - dropped - c) * levels.each(dropped)
        assert honest >= 10**6  # naive, V' = V: fewer than V are left once c members take out theirs
        assert (honest == 10**6) is (dropped == members - q)
        assert (members - dropped - c) * Levels(Fraction(10**6), members, members - q).each(dropped) < 10**6


# --- the chain --------------------------------------------------------------------------------------------------------

T2, ORG = bytes(range(32)), OrgId("org-001")
FIRST = Seed(bytes(reversed(range(32))))


def test_attack_41_links_lead_forward_and_only_forward() -> None:
    links = xnoise.chain(FIRST, T2, ORG, 6)
    assert len(links) == 7
    for before, after in itertools.pairwise(links):
        assert after.expose() == h("xnoise/chain", T2, ORG.encode(), before.expose())
    assert len({link.expose() for link in links}) == 7
    shown = links[2]  # g_3: gives g_4 and on; g_2 and g_1 are preimages of it
    reached = {link.expose() for link in xnoise.chain(shown, T2, ORG, 4)}
    assert reached == {link.expose() for link in links[2:]}
    assert not reached & {links[0].expose(), links[1].expose()}


def test_attack_41_the_shown_link_gives_exactly_the_seeds_that_may_go() -> None:
    links = xnoise.chain(FIRST, T2, ORG, 6)
    end = links[-1].expose()
    every = [xnoise.component_seed(link, T2, ORG, k) for k, link in enumerate(links[:-1], start=1)]
    assert list(xnoise.component_seeds(links[:-1], T2, ORG, 1)) == every
    for stay in range(7):
        assert list(xnoise.removable(links[stay], T2, ORG, stay, 6, end)) == every[stay:]


def test_attack_41_a_false_chain_value_is_refused() -> None:
    links = xnoise.chain(FIRST, T2, ORG, 6)
    end = links[-1].expose()
    shown = links[2]
    xnoise.removable(shown, T2, ORG, 2, 6, end)
    wrong = bytearray(shown.expose())
    wrong[0] ^= 1
    for link, t2, org, stay in (
        (Seed(bytes(wrong)), T2, ORG, 2),
        (shown, T2[::-1], ORG, 2),
        (shown, T2, OrgId("org-002"), 2),
        (shown, T2, ORG, 1),  # a coordinator that claims fewer dropouts does not get one more component
        (shown, T2, ORG, 3),
        (links[3], T2, ORG, 2),  # g_(D+2) is not taken for g_(D+1)
    ):
        with pytest.raises(PeerError) as refused:
            xnoise.removable(link, t2, org, stay, 6, end)
        assert refused.value.code == "noise_chain_broken"
        assert refused.value.peer == org


def test_seeds_differ_in_every_field() -> None:
    seeds = {
        xnoise.component_seed(link, t2, org, k).expose()
        for link in xnoise.chain(FIRST, T2, ORG, 1)
        for t2 in (T2, T2[::-1])
        for org in (ORG, OrgId("org-002"))
        for k in (1, 2)
    }
    assert len(seeds) == 16
    assert "redacted" in repr(xnoise.component_seed(FIRST, T2, ORG, 1))


@pytest.mark.parametrize("stay", [-1, 7])
def test_a_count_of_components_that_cannot_be_is_refused(stay: int) -> None:
    links = xnoise.chain(FIRST, T2, ORG, 6)
    with pytest.raises(ValueError, match="stay"):
        xnoise.removable(links[0], T2, ORG, stay, 6, links[-1].expose())
    with pytest.raises(ValueError, match="dropped"):
        xnoise.staying(stay, 6)
