"""A run as people see it: plain values for `--json` and tables. Pure; nothing here is more than every member knows.

Every wait names whom it waits for and until when (in seconds from now). `holders`: of the key of a run under paillier,
whose absence alone keeps it from beginning.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from fedveil_common import evaluation, layout, private_sum
from fedveil_common.dp.charge import Rows
from fedveil_common.messages import Purpose
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


class Prices:
    """What the sums of a plan cost by themselves, and which records each block of one is made of: looked up once for
    each kind of sum, however many rounds a run has. Nothing for a plan with exact sums.
    """

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self._known: dict[tuple[Purpose, bool], tuple[float, dict[str, Rows]]] = {}

    def epsilon(self, record: RoundRecord) -> float | None:
        """Of this sum by itself, at the plan's delta."""
        found = self._of(record)
        return None if found is None else found[0]

    def opened(self, record: RoundRecord, block: str, coordinates: int) -> Plain:
        """One block that was interpreted, and whether the entry of its sum covers it."""
        listed: Plain = {"block": block, "coordinates": coordinates}
        found = self._of(record)
        if found is None:
            return listed
        rows = found[1].get(block)
        return {**listed, "records": None if rows is None else rows.value, "charged": rows is not None}

    def _of(self, record: RoundRecord) -> tuple[float, dict[str, Rows]] | None:
        plan, privacy = self.plan, self.plan.privacy
        if privacy is None:
            return None
        kind = (record.purpose, layout.evaluation_due(plan, record.step))
        if kind not in self._known:
            epsilon = private_sum.cost_of_sum(plan, privacy, record.purpose, record.step)
            self._known[kind] = epsilon, private_sum.charged_blocks(plan, privacy, record.purpose, record.step)
        return self._known[kind]


def round_report(prices: Prices, record: RoundRecord, seconds: float | None) -> Plain:
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
        "noise": _noise_report(prices.plan, record),
        "seconds": seconds,
        "epsilon": prices.epsilon(record),
        "opened": [prices.opened(record, block, coordinates) for block, coordinates in record.opened],
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
    prices = Prices(state.plan)
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
        "rounds": [round_report(prices, record, seconds.get(record.round)) for record in state.records],
        "waiting": waiting_report(state, at),
        "model": state.versions[-1].model_hash.hex() if state.versions else None,
    }
