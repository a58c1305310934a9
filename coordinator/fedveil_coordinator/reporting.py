"""A run as people see it: plain values for `--json` and tables. Pure; nothing here is more than every member knows.

Every wait names whom it waits for and until when (in seconds from now). `holders`: of the key of a run under paillier,
whose absence alone keeps it from beginning.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from fedveil_common import evaluation, private_sum
from fedveil_common.noise import rests_on
from fedveil_common.pki.invites import Role
from fedveil_common.plan import Plan, Unit

from fedveil_coordinator import attempt as attempts
from fedveil_coordinator import round as rounds
from fedveil_coordinator.opened_round import RoundRecord
from fedveil_coordinator.run import RunState, holders_missing, participants_needed
from fedveil_coordinator.store.renewals import Freeze

Plain = dict[str, object]


@dataclass(frozen=True, slots=True)
class RoundTiming:
    """When a round was offered and opened, on the wall clock; None where this process did not see it."""

    seconds: float | None


def round_report(plan: Plan, record: RoundRecord, seconds: float | None) -> Plain:
    """One opened round. `noise`: standard deviations of the noise on what was measured; None for exact sums. `opened`:
    each block, which records it is made of, and whether the ledger's entry for this sum (`epsilon`, of it by itself)
    covers it.
    """
    return {
        "number": record.round,
        "attempt": record.attempt,
        "purpose": record.purpose.value,
        "cohort": list(record.cohort),
        "survivors": list(record.survivors),
        "dropped": list(record.dropped),
        "loss": record.loss,
        "accuracy": record.accuracy,
        "auc": record.auc,
        "rows": record.rows,
        "noise": _noise_report(plan, record),
        "seconds": seconds,
        "epsilon": _epsilon_of(plan, record),
        "opened": [_opened_report(plan, record, block, coordinates) for block, coordinates in record.opened],
    }


def _noise_report(plan: Plan, record: RoundRecord) -> Plain | None:
    if not record.noise or not record.rows:
        return None
    means = {"loss": (record.loss, plan.evaluation.loss_cap), "accuracy": (record.accuracy, 1.0)}
    found: Plain = {
        name: evaluation.deviation(mean, most, record.noise, record.rows)
        for name, (mean, most) in means.items()
        if mean is not None
    }
    return {**found, "rows": record.noise}


def _epsilon_of(plan: Plan, record: RoundRecord) -> float | None:
    if plan.privacy is None:
        return None
    return private_sum.cost_of_sum(plan, plan.privacy, record.purpose, record.step)


def _opened_report(plan: Plan, record: RoundRecord, block: str, coordinates: int) -> Plain:
    found: Plain = {"block": block, "coordinates": coordinates}
    if plan.privacy is None:
        return found
    rows = private_sum.rows_of(plan, plan.privacy, record.purpose, record.step, block)
    return {**found, "records": None if rows is None else rows.value, "charged": rows is not None}


def waiting_report(state: RunState, at: float) -> Plain | None:
    """What the run waits for, whom, and for how long at most; None if it waits for nobody."""
    if state.ended is not None:
        return None
    if state.attempt is None:
        needed = participants_needed(state)
        return {
            "phase": "cohort",
            "for": [org for org in state.roster.participants if org not in state.willing],
            "present": list(state.willing),
            "needed": needed,
            "holders": list(holders_missing(state)),
            "declined": {org: code for org, code in state.answers.items() if code},
            "until_s": max(0.0, state.waiting_since + state.plan.cohort.wait_s - at),
        }
    attempt = state.attempt
    if isinstance(attempt.stage, (attempts.Opening, attempts.Opened)):
        return {"phase": "opening", "for": [], "until_s": None}
    if isinstance(attempt.stage, attempts.Multiplying):
        return {"phase": "multiplying", "for": [], "until_s": None}
    lasting = {org: max(0.0, rounds.overdue_at(attempt, org) - at) for org in rounds.pending_members(attempt, at)}
    return {
        "phase": type(attempt.stage).__name__.lower(),
        "round": attempt.key.round,
        "attempt": attempt.key.attempt,
        "for": list(lasting) or list(attempt.missed),
        "reason": "too_few_holders" if attempt.missed and not lasting else "",
        "overdue": [org for org in rounds.awaited(attempt) if org not in lasting],
        "until_s": max(lasting.values(), default=max(0.0, attempt.since + attempt.frame.manifest.hard_limit_s - at)),
    }


def alarms(freezes: Sequence[Freeze], now: float) -> list[Plain]:
    """Who is frozen, since how many seconds, and what is to be done."""
    return [
        {
            "code": "identity_frozen",
            "org": item.org_id,
            "role": item.role,
            "serial": item.serial,
            "since_s": max(0.0, now - item.frozen_s),
            "next": f"somebody else may hold a key of {item.org_id}: telephone; then `fedveil invite {item.org_id} "
            "--rekey` and `fedveil join`"
            if item.role == Role.PARTICIPANT
            else "somebody else may hold the operator's key: stop `fedveil serve`, then `fedveil renew --offline`",
        }
        for item in freezes
    ]


def privacy_report(state: RunState) -> Plain | str:
    """What the sums opened so far cost, by the coordinator's ledger; "none" for a plan with exact sums."""
    privacy = state.plan.privacy
    if privacy is None:
        return "none"
    return {
        "unit": "person" if state.plan.data.person and privacy.unit is Unit.RECORD else privacy.unit.value,
        "noise": privacy.noise.value,
        "rests_on": rests_on(state.plan),
        "epsilon": private_sum.spent(state.plan, privacy, len(state.records)),
        "delta": privacy.delta,
        "max_epsilon": privacy.max_epsilon,
    }


def run_report(state: RunState, status: str, at: float, seconds: Mapping[int, float]) -> Plain:
    """Everything about a run that its members may know."""
    return {
        "run_id": state.run_id,
        "name": state.plan.name,
        "plan_hash": state.plan_hash.hex(),
        "protection": state.plan.protection.kind,
        "privacy": privacy_report(state),
        "status": status,
        "code": state.ended.code if state.ended is not None else "",
        "missing": dict(state.ended.missing) if state.ended is not None else {},
        "steps": state.step,
        "steps_planned": state.plan.training.rounds,
        "rounds": [round_report(state.plan, record, seconds.get(record.round)) for record in state.records],
        "waiting": waiting_report(state, at),
        "model": state.versions[-1].model_hash.hex() if state.versions else None,
    }
