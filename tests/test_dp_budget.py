"""The ledger's pure core: never below the truth, whatever order and repetition of entries a journal holds.

The model of the property tests is the story itself: what happened to each attempt, added up in exact rationals.
"""

import dataclasses
import json
import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from fractions import Fraction

import pytest
from fedveil_common.bodies import AbortCertificate, BlobType, SignedBlob
from fedveil_common.dp import budget, entries, rdp
from fedveil_common.dp.budget import ChargeKey, Entry, Ledger, Release, Reserve, Settle, fold
from fedveil_common.dp.charge import Charge, Rows, Spent
from fedveil_common.dp.rdp import ORDERS, Curve
from fedveil_common.dp.slack import Slack
from fedveil_common.errors import IntegrityError
from fedveil_common.ids import AttemptKey, OrgId, RunId
from hypothesis import given
from hypothesis import strategies as st

DELTA = 1e-5
STEP = rdp.sampled_gaussian(Fraction(1, 10), Fraction(1))
MEASURED = rdp.gaussian(Fraction(3, 64))


def key(round_: int = 1, attempt: int = 1, run: str = "run-1") -> ChargeKey:
    named = AttemptKey(RunId(run), round_, attempt)
    return ChargeKey(named, repr(named).encode().ljust(32, b".")[-32:])


def certificate(of: ChargeKey, votes: int = 2) -> AbortCertificate:
    blobs = (SignedBlob(OrgId(f"org-{i}"), BlobType.ABORT, of.t0 + bytes([i]), bytes([i]) * 64) for i in range(votes))
    return AbortCertificate(of.t0, tuple(blobs))


def training(curve: Curve = STEP, slack: Slack | None = None) -> Charge:
    return Charge.on(Rows.TRAINING, curve, slack or Slack(1000, 1))


def refused(code: str, ledger: Ledger, entry: Entry) -> None:
    with pytest.raises(IntegrityError) as raised:
        ledger.apply(entry)
    assert raised.value.code == code


# --- one attempt ------------------------------------------------------------------------------------------------------


def test_a_new_ledger_has_spent_nothing() -> None:
    assert Ledger().lifetime() == Spent() == Ledger().spent(RunId("run-1"))
    assert Ledger().lifetime().epsilon(DELTA) == 0.0 == Ledger().lifetime().lifetime_epsilon(DELTA)


def test_a_reservation_counts_in_full_from_the_start() -> None:
    ledger = Ledger().apply(Reserve(key(), training()))
    account = ledger.account(RunId("run-1"))
    assert account.spent == account.reserved == Spent(STEP, Slack(1000, 1))
    assert account.settled == Spent()
    assert ledger.spent(RunId("run-1")).epsilon(DELTA) == pytest.approx(rdp.epsilon(STEP, DELTA), rel=1e-9)


def test_a_settlement_replaces_the_reservation() -> None:
    less = training(rdp.sampled_gaussian(Fraction(1, 10), Fraction(1, 4)), Slack(900, 1))
    ledger = fold([Reserve(key(), training()), Settle(key(), less)])
    account = ledger.account(RunId("run-1"))
    assert account.spent == account.settled == Spent(less.training, less.slack)
    assert account.reserved == Spent()


def test_only_a_certificate_over_the_very_attempt_takes_a_reservation_back() -> None:
    one, other = Reserve(key(1, 1), training()), Reserve(key(1, 2), training())
    ledger = fold([one, other, Release(one.key, certificate(one.key))])
    assert ledger.spent(RunId("run-1")) == Spent(STEP, Slack(1000, 1))
    with pytest.raises(ValueError, match="certificate"):
        Release(other.key, certificate(one.key))
    with pytest.raises(ValueError, match="certificate"):
        Release(other.key, None)  # type: ignore[arg-type]
    with pytest.raises(TypeError):
        Release(other.key)  # type: ignore[call-arg]
    assert [one for one in dataclasses.fields(Release) if one.type is AbortCertificate]  # and mypy says so before


def test_two_manifests_with_the_same_numbers_count_twice() -> None:
    twin = ChargeKey(key().attempt, b"another T0".ljust(32, b"."))
    ledger = fold([Reserve(key(), training()), Reserve(twin, training()), Release(twin, certificate(twin))])
    assert ledger.spent(RunId("run-1")).curve == STEP
    assert fold([Reserve(key(), training()), Reserve(twin, training())]).spent(RunId("run-1")).curve == STEP + STEP


more = training(STEP + STEP)


@pytest.mark.parametrize(
    ("before", "entry"),
    [
        ([], Settle(key(), training())),
        ([], Release(key(), certificate(key()))),
        ([Reserve(key(), training())], Reserve(key(), more)),
        ([Reserve(key(), training())], Reserve(key(), replace(training(), slack=Slack(1, 1)))),
        ([Reserve(key(), training())], Settle(key(), more)),
        ([Reserve(key(), training())], Settle(key(), replace(training(), holdout=MEASURED))),
        ([Reserve(key(), training())], Settle(key(), replace(training(), slack=Slack(1001, 1)))),
        ([Reserve(key(), training())], Settle(key(), replace(training(), slack=Slack(1000, 2)))),
        ([Reserve(key(), more), Settle(key(), training())], Settle(key(), more)),
        ([Reserve(key(), more), Settle(key(), training())], Reserve(key(), training())),
        ([Reserve(key(), training()), Settle(key(), training())], Release(key(), certificate(key()))),
        ([Reserve(key(), training()), Release(key(), certificate(key()))], Settle(key(), training())),
        ([Reserve(key(), training()), Release(key(), certificate(key()))], Reserve(key(), more)),
    ],
)
def test_an_entry_that_contradicts_another_is_refused(before: list[Entry], entry: Entry) -> None:
    ledger = fold(before)
    refused("ledger_conflict", ledger, entry)
    with pytest.raises(IntegrityError):
        fold([*before, entry])


def test_a_repeated_entry_changes_nothing() -> None:
    reserve, settle = Reserve(key(), more), Settle(key(), training())
    ledger = fold([reserve, settle])
    assert ledger.apply(settle) is ledger
    assert ledger.apply(reserve) is ledger  # a restart that replays the reservation does not unsettle it
    freed = fold([reserve, Release(key(), certificate(key()))])
    assert freed.apply(Release(key(), certificate(key(), 3))) is freed


def test_a_reservation_repeated_after_its_release_counts_again_until_the_release_is() -> None:
    reserve, release = Reserve(key(), training()), Release(key(), certificate(key()))
    ledger = fold([reserve, release])
    assert ledger.spent(RunId("run-1")) == Spent()
    again = ledger.apply(reserve)
    assert again.spent(RunId("run-1")).curve == STEP
    assert again.apply(release).spent(RunId("run-1")) == Spent()


def test_a_ledger_is_a_value() -> None:
    ledger = fold([Reserve(key(), training())])
    ledger.apply(Settle(key(), training()))
    assert ledger == fold([Reserve(key(), training())])
    with pytest.raises(TypeError):
        ledger.runs[RunId("run-1")] = budget.Account()  # type: ignore[index]
    with pytest.raises(TypeError):
        ledger.account(RunId("run-1")).attempts[key()] = budget.Unsettled(training())  # type: ignore[index]
    with pytest.raises(dataclasses.FrozenInstanceError):
        ledger.runs = {}  # type: ignore[misc]


# --- rows and runs ----------------------------------------------------------------------------------------------------


def test_d11_within_a_run_the_larger_of_training_and_holdout_then_runs_add_up() -> None:
    both = Charge(STEP, MEASURED, Slack(10, 0))
    run = [Reserve(key(round_), both if round_ % 5 == 0 else training(slack=Slack(7, 0))) for round_ in range(1, 11)]
    other = [Reserve(key(1, 1, "run-2"), Charge.on(Rows.HOLDOUT, MEASURED))]
    ledger = fold([*run, *other])
    for order in ORDERS:
        first = max(10 * STEP.at(order), 2 * MEASURED.at(order))
        assert ledger.spent(RunId("run-1")).curve.at(order) == pytest.approx(first, rel=1e-14)
        assert ledger.lifetime().curve.at(order) == pytest.approx(first + MEASURED.at(order), rel=1e-14)
    assert ledger.lifetime().slack == Slack(2 * 10 + 8 * 7, 0)
    naive = max(10 * STEP.at(2), 3 * MEASURED.at(2))  # one maximum over all runs: a row held out later trained before
    assert ledger.lifetime().curve.at(2) > naive + 0.03


def test_d11_unsettled_training_and_settled_holdout_are_compared_as_wholes() -> None:
    ledger = fold(
        [
            Reserve(key(1), Charge.on(Rows.TRAINING, STEP)),
            Reserve(key(2), Charge.on(Rows.HOLDOUT, MEASURED)),
            Settle(key(2), Charge.on(Rows.HOLDOUT, MEASURED)),
        ]
    )
    account = ledger.account(RunId("run-1"))
    assert (account.reserved.curve, account.settled.curve) == (STEP, MEASURED)
    assert account.spent.curve == rdp.largest(STEP, MEASURED)


def test_a_sum_over_all_rows_is_charged_to_both() -> None:
    everyone = Charge.on(Rows.BOTH, MEASURED)
    assert everyone == Charge(MEASURED, MEASURED)
    ledger = fold([Reserve(key(1), everyone), Reserve(key(2), training()), Reserve(key(3), training())])
    assert ledger.spent(RunId("run-1")).curve == rdp.composed([MEASURED, STEP, STEP])


# --- the two stops ----------------------------------------------------------------------------------------------------


def test_fits_run_gives_the_figures_and_stops_at_the_last_that_fits() -> None:
    ledger, rounds = Ledger(), 0
    while True:
        reservation = Reserve(key(rounds + 1), training(slack=Slack()))
        fit = ledger.fits_run(reservation, 8.0, DELTA)
        assert fit.before == rdp.epsilon(STEP.times(rounds), DELTA)
        assert (fit.limit, fit.delta) == (8.0, DELTA)
        if not fit.fits:
            break
        ledger, rounds = ledger.apply(reservation), rounds + 1
    assert rounds == 100  # 7.9729 after a hundred
    assert fit.before == pytest.approx(7.9729, abs=5e-5)
    assert fit.after == rdp.epsilon(STEP.times(101), DELTA) > 8.0


def test_a_reservation_that_is_already_counted_changes_no_figure() -> None:
    reservation = Reserve(key(), training())
    ledger = fold([reservation])
    fit = ledger.fits_run(reservation, 1.0, DELTA)
    assert fit.before == fit.after
    assert ledger.fits_run(Reserve(key(1, 1, "run-2"), training()), 1.0, DELTA).before == 0.0
    with pytest.raises(IntegrityError):
        ledger.fits_run(Reserve(key(), more), 100.0, DELTA)


def test_d16_the_lifetime_stop_is_earlier_than_the_naive_one() -> None:
    """Naive: all orders at the whole delta, over runs that were each planned after the last was seen."""
    ledger = fold(Reserve(key(round_, 1, f"run-{run}"), training()) for run in range(4) for round_ in range(1, 26))
    fit = ledger.fits_lifetime(Reserve(key(1, 1, "run-9"), training()), 8.2, DELTA)
    naive = ledger.fits_run(Reserve(key(1, 1, "run-9"), training()), 8.2, DELTA)
    assert rdp.epsilon(STEP.times(101), DELTA) < 8.2  # which is what a naive lifetime would say
    assert not fit.fits
    assert (fit.before, fit.limit) == (ledger.lifetime().lifetime_epsilon(DELTA), 8.2)
    assert fit.after == pytest.approx(rdp.epsilon(STEP.times(101), DELTA / 12, rdp.LIFETIME_ORDERS), rel=1e-6)
    assert naive.fits  # run-9 alone is small: two limits, the earlier stops


def test_d7_runs_of_one_source_add_up_whatever_they_are_for() -> None:
    """Naive: a ledger of (epsilon, delta) pairs adds epsilons (and deltas), or starts anew with each run."""
    runs = [Reserve(key(round_, 1, f"run-{run}"), training()) for run in range(4) for round_ in range(1, 26)]
    ledger = fold(runs)
    each = ledger.spent(RunId("run-0")).epsilon(DELTA)
    assert each < ledger.lifetime().epsilon(DELTA) < 4 * each
    assert ledger.lifetime().curve.at(2) == pytest.approx(100 * STEP.at(2), rel=1e-14)


def test_d15_the_slack_of_all_runs_is_paid_from_one_delta() -> None:
    dear = training(rdp.gaussian(Fraction(2)), Slack(10**9, 100))
    ledger = fold(Reserve(key(1, 1, f"run-{run}"), dear) for run in range(5))
    spent = ledger.lifetime()
    assert spent.slack == Slack(5 * 10**9, 500)
    assert spent.epsilon(DELTA) > rdp.epsilon(spent.curve, DELTA) + 1e-5
    assert fold([Reserve(key(), training(slack=Slack(0, 10**15)))]).lifetime().epsilon(DELTA) == math.inf
    hopeless = Ledger().fits_lifetime(Reserve(key(), training(slack=Slack(0, 10**15))), 1e300, DELTA)
    assert not hopeless.fits


# --- stories ----------------------------------------------------------------------------------------------------------

small = st.sampled_from([Fraction(n, 64) for n in (1, 3, 10, 64, 200)]).map(rdp.gaussian)
slacks = st.builds(Slack, st.integers(0, 10**12), st.integers(0, 3))
charges = st.one_of(
    st.builds(Charge, small, small, slacks), st.builds(Charge.on, st.sampled_from(list(Rows)), small, slacks)
)


@dataclass(frozen=True)
class Attempt:
    """What happened to one attempt, in order; `fate` is its last entry's kind."""

    entries: tuple[Entry, ...]
    fate: str


@st.composite
def attempts(draw: st.DrawFn, named: ChargeKey) -> Attempt:
    charge = draw(charges)
    reserve = Reserve(named, charge)
    fate = draw(st.sampled_from(["reserve", "settle", "settle less", "release"]))
    match fate:
        case "settle":
            return Attempt((reserve, Settle(named, charge)), "settle")
        case "settle less":
            half = Charge(*(Curve(tuple(rho / 2 for rho in c.rho)) for c in (charge.training, charge.holdout)))
            return Attempt((reserve, Settle(named, half)), "settle")
        case "release":
            return Attempt((reserve, Release(named, certificate(named))), "release")
        case _:
            return Attempt((reserve,), "reserve")


keys = st.lists(
    st.builds(key, st.integers(1, 4), st.integers(1, 2), st.sampled_from(["run-1", "run-2", "run-3"])),
    min_size=1,
    max_size=8,
    unique=True,
)
stories = keys.flatmap(lambda named: st.tuples(*(attempts(one) for one in named))).flatmap(
    lambda told: st.tuples(st.just(told), interleaved(told), interleaved(told))
)


def interleaved(told: tuple[Attempt, ...]) -> st.SearchStrategy[list[Entry]]:
    """The entries in some order that keeps each attempt's own, each of them once or twice."""
    slots = [index for index, one in enumerate(told) for _ in one.entries]
    return st.tuples(st.permutations(slots), st.lists(st.booleans(), min_size=len(slots), max_size=len(slots))).map(
        lambda both: list(_play(told, *both))
    )


def _play(told: tuple[Attempt, ...], order: list[int], doubled: list[bool]) -> Iterable[Entry]:
    waiting = [iter(one.entries) for one in told]
    for index, twice in zip(order, doubled, strict=True):
        entry = next(waiting[index])
        yield from (entry,) * (1 + twice)


def truth(told: Iterable[Attempt], run: str, order: int, rows: str) -> Fraction:
    """What rows of a kind have spent in a run at an order: exact."""
    counted = (
        one.entries[-1].charge
        for one in told
        if one.fate != "release" and one.entries[0].key.attempt.run_id == run
        if not isinstance(one.entries[-1], Release)
    )
    return sum((Fraction(getattr(charge, rows).at(order)) for charge in counted), Fraction(0))


@given(stories)
def test_the_ledger_is_never_below_the_truth_nor_far_above(
    story: tuple[tuple[Attempt, ...], list[Entry], list[Entry]],
) -> None:
    told, played, otherwise = story
    ledger = fold(played)
    for order in (2, 17, 512):
        lifetime = Fraction(0)
        for run in ("run-1", "run-2", "run-3"):
            true = max(truth(told, run, order, "training"), truth(told, run, order, "holdout"))
            lifetime += true
            ours = Fraction(ledger.spent(RunId(run)).curve.at(order))
            assert true <= ours <= true * (1 + Fraction(1, 2**50))
        ours = Fraction(ledger.lifetime().curve.at(order))
        assert lifetime <= ours <= lifetime * (1 + Fraction(1, 2**50))
    assert fold(otherwise).lifetime() == ledger.lifetime()  # to the last bit, whatever the order
    assert fold(otherwise) == ledger


@given(stories)
def test_a_prefix_of_a_journal_counts_every_attempt_that_it_has_heard_of(
    story: tuple[tuple[Attempt, ...], list[Entry], list[Entry]],
) -> None:
    """A journal that was cut off anywhere after the reservations is never below the whole one."""
    told, _, _ = story
    reservations = [one.entries[0] for one in told]
    cut = fold(reservations)
    for end in range(len(told) + 1):
        whole = fold([*reservations, *(entry for one in told[:end] for entry in one.entries)])
        assert whole.lifetime().curve.within(cut.lifetime().curve)
        assert whole.lifetime().slack.within(cut.lifetime().slack)


@given(stories)
def test_a_journal_replayed_twice_and_step_by_step_is_the_same_ledger(
    story: tuple[tuple[Attempt, ...], list[Entry], list[Entry]],
) -> None:
    _, played, _ = story
    ledger = fold(played)
    assert fold([*played, *played]) == ledger
    stepwise = Ledger()
    for entry in played:
        stepwise = stepwise.apply(entry)
    assert stepwise == ledger


# --- as JSON ----------------------------------------------------------------------------------------------------------

curves = st.lists(st.floats(0, allow_nan=False), min_size=len(ORDERS), max_size=len(ORDERS)).map(
    lambda rho: Curve(tuple(abs(one) for one in rho))
)


@given(st.builds(Charge, curves, curves, st.builds(Slack, st.integers(0, 2**200), st.integers(0, 2**60))))
def test_entries_survive_json_bit_for_bit(charge: Charge) -> None:
    for entry in (Reserve(key(7, 3), charge), Settle(key(7, 3), charge), Release(key(7, 3), certificate(key(7, 3), 5))):
        assert entries.decode(json.loads(json.dumps(entries.encode(entry)))) == entry


@given(stories)
def test_a_ledger_read_back_is_the_ledger_written(
    story: tuple[tuple[Attempt, ...], list[Entry], list[Entry]],
) -> None:
    _, played, _ = story
    written = json.dumps([entries.encode(entry) for entry in played])
    assert fold(entries.decode(one) for one in json.loads(written)) == fold(played)


def reserve_as_json() -> dict[str, object]:
    return json.loads(json.dumps(entries.encode(Reserve(key(), training()))))  # type: ignore[no-any-return]


def release_as_json() -> dict[str, object]:
    return json.loads(json.dumps(entries.encode(Release(key(), certificate(key())))))  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    "damage",
    [
        {"entry": "refund"},
        {"entry": "settle", "training": []},
        {"training": ["0x0.0p+0"]},
        {"training": "0x0.0p+0"},
        {"training": [0.5] * len(ORDERS)},
        {"training": ["nan"] * len(ORDERS)},
        {"training": ["-0x1.0p+0"] * len(ORDERS)},
        {"training": ["0x1p99999"] * len(ORDERS)},
        {"training": ["1.5"] * len(ORDERS)},
        {"draws": 1000},
        {"draws": "-1"},
        {"draws": "1_000"},
        {"round": "1"},
        {"round": True},
        {"attempt": 1.0},
        {"t0": "zz"},
        {"t0": "AB"},
        {"run": 5},
        {"note": "more"},
    ],
)
def test_what_is_not_exactly_an_entry_is_refused(damage: dict[str, object]) -> None:
    for value in ({**reserve_as_json(), **damage}, {}, [], "reserve", None):
        with pytest.raises(IntegrityError) as raised:
            entries.decode(value)  # type: ignore[arg-type]
        assert raised.value.code == "ledger_damaged"


@pytest.mark.parametrize("votes", [None, "none", {}, [5], [{"signer": "a"}], [{}]])
def test_a_release_without_its_votes_is_refused(votes: object) -> None:
    value = release_as_json()
    assert isinstance(entries.decode(value), Release)  # type: ignore[arg-type]
    for damaged in ({**value, "votes": votes}, {name: one for name, one in value.items() if name != "votes"}):
        with pytest.raises(IntegrityError) as raised:
            entries.decode(damaged)  # type: ignore[arg-type]
        assert raised.value.code == "ledger_damaged"
