"""What an attempt costs the records of a data set: reserved before its input leaves, settled or released afterwards.

Promise: pure. An input of a plan with differential privacy is made only if its worst case fits the run's max_epsilon
and the data set's lifetime limit, and its header leaves only in the step that journals the reservation; what was
reserved comes back by nothing but an abort certificate over that very attempt. What a reservation costs depends on
the plan, the purpose and the step alone: not on records, on who drops out, or on what was seen.
Source: D7, D11, D16, A9; docs/privacy.md.
"""

from fedveil_common import layout, private_sum
from fedveil_common.dp import budget
from fedveil_common.errors import PolicyRefusal
from fedveil_common.ids import AttemptKey, RunId
from fedveil_common.messages import AbortCertificate, Purpose
from fedveil_common.plan import PrivacySpec

from fedveil_participant import checks
from fedveil_participant.checks import AcceptedPlan
from fedveil_participant.events import LedgerEntry, SpentKey
from fedveil_participant.stages import Frame
from fedveil_participant.state import State


def check_plan(state: State, run_id: RunId, accepted: AcceptedPlan) -> None:
    """A run of this plan may begin: its first model, or its questions, were not summed for; or under a privacy block
    its first step fits the data set's lifetime limit. PolicyRefusal `model_spent`, `budget_spent`.
    """
    plan = accepted.plan
    if plan.privacy is None:
        purpose, subject = Purpose.TRAIN, bytes.fromhex(plan.model.initial)
        if plan.statistics is not None:
            purpose, subject = Purpose.STATISTICS, layout.query_digest(plan)
        first = SpentKey(plan.data.dataset, accepted.version, purpose, subject)
        checks.not_spent([first], state.spent, state.sketches, state.limits.min_changed_rows)
        return
    first_step = budget.ChargeKey(AttemptKey(run_id, 1, 1), b"")
    charge = private_sum.charge(plan, plan.privacy, *private_sum.first_sum(plan))
    reservation = LedgerEntry(plan.data.dataset, budget.Reserve(first_step, charge))
    _check(state, reservation, plan.privacy)


def check(state: State, frame: Frame) -> None:
    """The attempt's worst case fits both limits. PolicyRefusal `budget_spent`, whose text stays with this operator."""
    for one in _reservation(state, frame):
        plan = state.plans[frame.key.run_id].plan
        assert plan.privacy is not None, "what is reserved has a price"
        _check(state, one, plan.privacy)


def _check(state: State, one: LedgerEntry, privacy: PrivacySpec) -> None:
    ledger = state.ledgers.get(one.dataset, budget.Ledger())
    assert isinstance(one.entry, budget.Reserve)
    fits = [("of the plan", ledger.fits_run(one.entry, privacy.max_epsilon, privacy.delta))]
    if (limit := state.lifetimes.get(one.dataset)) is not None:
        fits.append(("of the data set", ledger.fits_lifetime(one.entry, limit.max_epsilon, limit.delta)))
    for whose, fit in fits:
        if not fit.fits:
            raise PolicyRefusal(
                "budget_spent",
                f"this step would bring epsilon from {fit.before:.4g} to {fit.after:.4g} at delta {fit.delta:g},"
                f" above the limit {whose}, {fit.limit:g}",
                not_done="no key, share or input was made, and nothing was charged",
                next_step=f"fedveil budget show {one.dataset}",
            )


def reserve(state: State, frame: Frame) -> tuple[LedgerEntry, ...]:
    """To be journaled with the header that is about to leave; nothing for a plan with exact sums."""
    return _reservation(state, frame)


def settle(state: State, frame: Frame) -> tuple[LedgerEntry, ...]:
    """The attempt's sum was opened: it cost what was reserved, whoever dropped out."""
    if not _is_reserved(state, frame):
        return ()
    return tuple(
        LedgerEntry(one.dataset, budget.Settle(one.entry.key, one.entry.charge))
        for one in _reservation(state, frame)
        if isinstance(one.entry, budget.Reserve)
    )


def release(state: State, frame: Frame, certificate: AbortCertificate) -> tuple[LedgerEntry, ...]:
    """No sum of the attempt can ever open: `certificate`, which was verified, says so."""
    if not _is_reserved(state, frame):
        return ()
    return (LedgerEntry(frame.manifest.dataset, budget.Release(_key(frame), certificate)),)


def _reservation(state: State, frame: Frame) -> tuple[LedgerEntry, ...]:
    accepted = state.plans.get(frame.key.run_id)
    if accepted is None or accepted.plan.privacy is None:
        return ()
    charge = private_sum.charge(accepted.plan, accepted.plan.privacy, frame.manifest.purpose, frame.manifest.step)
    return (LedgerEntry(frame.manifest.dataset, budget.Reserve(_key(frame), charge)),)


def _is_reserved(state: State, frame: Frame) -> bool:
    ledger = state.ledgers.get(frame.manifest.dataset)
    return ledger is not None and _key(frame) in ledger.account(frame.key.run_id).attempts


def _key(frame: Frame) -> budget.ChargeKey:
    return budget.ChargeKey(frame.key, frame.t0)
