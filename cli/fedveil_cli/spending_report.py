"""What a data set has spent, as people read it: plain values for `--json`, and lines. Pure.

Promise: every epsilon is the ledger's own, to the last bit under --json; null there, and "none" in text, means that no
finite one is promised. Where the coordinator adds the noise there are two figures (D19): one against members and the
public, and none against the coordinator, which can subtract what it added.
"""

import datetime
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from fedveil_common.dp import budget
from fedveil_common.dp.charge import of_run
from fedveil_common.ids import RunId
from fedveil_common.jcs import Json
from fedveil_common.plan import NoiseSource, Plan, Unit
from fedveil_participant.state import LifetimeLimit
from fedveil_participant.store import LedgerRow, LimitChange

from fedveil_cli.output import TextTable

DEFAULT_DELTA = 1e-5
"""At which a figure is given where nobody has set a delta."""

NONE = "none"


@dataclass(frozen=True, slots=True)
class DataSetBook:
    """One data set: its ledger, its limit, the plans of its runs, and those of its runs that opened exact sums."""

    name: str
    ledger: budget.Ledger
    limit: LifetimeLimit | None
    plans: Mapping[RunId, Plan]
    exact: tuple[RunId, ...]

    @property
    def delta(self) -> float:
        """The limit's, or the one that stands in for it."""
        return DEFAULT_DELTA if self.limit is None else self.limit.delta

    @property
    def spent(self) -> float:
        """Lifetime epsilon, reservations included."""
        return self.ledger.lifetime().lifetime_epsilon(self.delta)

    def run_delta(self, run: RunId) -> float:
        """The delta at which a run is accounted: its plan's."""
        plan = self.plans.get(run)
        return DEFAULT_DELTA if plan is None or plan.privacy is None else plan.privacy.delta

    def noise_is_the_coordinators(self, run: RunId) -> bool:
        """Whether the coordinator can subtract the noise of the run's sums. Where the plan is not kept, that it can."""
        plan = self.plans.get(run)
        return plan is None or plan.privacy is None or plan.privacy.noise is NoiseSource.COORDINATOR


# --- budget show ------------------------------------------------------------------------------------------------------


def dataset_report(book: DataSetBook) -> dict[str, Json]:
    """The lifetime of a data set, and its runs in the order in which they first reserved anything."""
    limit = book.limit
    unprotected = [run for run in book.ledger.runs if _costs(book, run) and book.noise_is_the_coordinators(run)]
    left = None if limit is None else left_of(limit.max_epsilon, book.spent)
    return {
        "dataset": book.name,
        "lifetime": {
            "epsilon": finite(book.spent),
            "epsilon_against_coordinator": None if unprotected else finite(book.spent),
            "delta": book.delta,
            "limit_is_set": limit is not None,
            "max_epsilon": None if limit is None else limit.max_epsilon,
            "left": left,
        },
        "runs": [_run_report(book, run) for run in book.ledger.runs],
        "runs_with_exact_sums": list(book.exact),
    }


def _run_report(book: DataSetBook, run: RunId) -> dict[str, Json]:
    account, plan = book.ledger.account(run), book.plans.get(run)
    privacy = None if plan is None else plan.privacy
    delta = book.run_delta(run)
    spent = account.spent.epsilon(delta)
    standings = tuple(account.attempts.values())
    hidden = book.noise_is_the_coordinators(run) and spent > 0
    return {
        "run_id": run,
        "plan": "" if plan is None else plan.name,
        "unit": "" if plan is None or privacy is None else unit(plan),
        "noise": "" if privacy is None else privacy.noise.value,
        "epsilon": finite(spent),
        "epsilon_against_coordinator": None if hidden else finite(spent),
        "delta": delta,
        "max_epsilon": None if privacy is None else privacy.max_epsilon,
        "settled": sum(isinstance(one, budget.Settled) for one in standings),
        "reserved": sum(isinstance(one, budget.Unsettled) for one in standings),
        "released": sum(isinstance(one, budget.Released) for one in standings),
    }


def _costs(book: DataSetBook, run: RunId) -> bool:
    return any(not isinstance(one, budget.Released) for one in book.ledger.account(run).attempts.values())


def dataset_lines(book: DataSetBook) -> list[str | TextTable]:
    """`dataset_report` for people."""
    limit, spent = book.limit, shown(book.spent)
    lines: list[str | TextTable] = [f"data set {book.name}"]
    if limit is None:
        lines.append(f"lifetime: epsilon {spent} at delta {book.delta:g}, the default: no limit is set")
    else:
        left = shown(left_of(limit.max_epsilon, book.spent))
        lines.append(f"lifetime: epsilon {spent} of at most {limit.max_epsilon:g} at delta {book.delta:g}, {left} left")
    report = dataset_report(book)
    if (hidden := [run for run in book.ledger.runs if _costs(book, run) and book.noise_is_the_coordinators(run)]) != []:
        lines.append(
            "that is against members and the public; against the coordinator: none, it can subtract the noise of "
            f"{_listed(hidden)}"
        )
    if book.exact:
        lines.append(f"no epsilon covers the exact sums (privacy: none) of {_listed(book.exact)}")
    runs = report["runs"]
    assert isinstance(runs, list), "made above"
    rows = [_run_row(one) for one in runs if isinstance(one, dict)]
    if rows:
        columns = ("run", "plan", "epsilon", "against the coordinator", "at most", "delta")
        lines.append(TextTable((*columns, "settled", "reserved", "released"), rows))
    return lines


def _run_row(report: dict[str, Json]) -> tuple[str, ...]:
    most = report["max_epsilon"]
    return (
        str(report["run_id"]),
        str(report["plan"]),
        _figure(report["epsilon"]),
        _figure(report["epsilon_against_coordinator"]),
        "" if most is None else f"{most:g}",
        f"{report['delta']:g}",
        *(str(report[name]) for name in ("settled", "reserved", "released")),
    )


# --- budget history ---------------------------------------------------------------------------------------------------


def entry_reports(rows: Sequence[LedgerRow], plans: Mapping[RunId, Plan]) -> list[dict[str, Json]]:
    """Each entry with what it costs by itself, at its run's delta; a release costs nothing."""
    priced: dict[tuple[object, float], float] = {}  # a plan has one price, and figuring it takes longer than looking
    found: list[dict[str, Json]] = []
    for row in rows:
        key = row.entry.key.attempt
        plan = plans.get(key.run_id)
        delta = DEFAULT_DELTA if plan is None or plan.privacy is None else plan.privacy.delta
        match row.entry:
            case budget.Reserve(charge=charge) | budget.Settle(charge=charge):
                if (charge, delta) not in priced:
                    priced[charge, delta] = of_run((charge,)).epsilon(delta)
                epsilon = finite(priced[charge, delta])
            case _:
                epsilon = 0.0
        found.append(
            {
                "seq": row.seq,
                "at": timestamp(row.wall_s),
                "dataset": row.dataset,
                "run_id": key.run_id,
                "round": key.round,
                "attempt": key.attempt,
                "kind": type(row.entry).__name__.lower(),
                "epsilon": epsilon,
                "delta": delta,
            }
        )
    return found


def limit_reports(changes: Iterable[LimitChange]) -> list[dict[str, Json]]:
    """Each limit that was set, with the one it replaced."""
    return [
        {
            "at": timestamp(one.wall_s),
            "dataset": one.dataset,
            "before": limit_value(one.before),
            "after": limit_value(one.after),
            "reason": one.reason,
        }
        for one in changes
    ]


def history_lines(entries: Sequence[dict[str, Json]], changes: Sequence[LimitChange]) -> list[str | TextTable]:
    """`budget history` for people."""
    lines: list[str | TextTable] = [f"{len(entries)} entries" if len(entries) != 1 else "1 entry"]
    if entries:
        columns = ("time", "data set", "run", "round", "attempt", "entry", "epsilon", "delta")
        rows = [
            (
                *(str(one[name]) for name in ("at", "dataset", "run_id", "round", "attempt", "kind")),
                _figure(one["epsilon"]),
                f"{one['delta']:g}",
            )
            for one in entries
        ]
        lines.append(TextTable(columns, rows))
    lines.extend(
        f"{timestamp(one.wall_s)} limit of {one.dataset}: {limit_text(one.after)}, before: {limit_text(one.before)}"
        + (f" ({one.reason})" if one.reason else "")
        for one in changes
    )
    return lines


# --- words and figures ------------------------------------------------------------------------------------------------


def unit(plan: Plan) -> str:
    """Whom the plan's differential privacy protects."""
    if plan.privacy is None:
        return ""
    person = plan.data.person is not None and plan.privacy.unit is Unit.RECORD
    return "person" if person else plan.privacy.unit.value


def timestamp(wall_s: float) -> str:
    """In UTC, to the second."""
    return datetime.datetime.fromtimestamp(wall_s, datetime.UTC).isoformat(timespec="seconds")


def limit_value(limit: LifetimeLimit | None) -> dict[str, Json] | None:
    """For --json."""
    return None if limit is None else {"max_epsilon": limit.max_epsilon, "delta": limit.delta}


def limit_text(limit: LifetimeLimit | None) -> str:
    """For people."""
    return NONE if limit is None else f"epsilon {limit.max_epsilon:g} at delta {limit.delta:g}"


def left_of(most: float, spent: float) -> float:
    """What is left of a limit."""
    return max(0.0, most - spent)


def finite(epsilon: float) -> float | None:
    """For --json, which has no infinity."""
    return epsilon if math.isfinite(epsilon) else None


def shown(epsilon: float) -> str:
    """For people: four digits."""
    return f"{epsilon:.4g}" if math.isfinite(epsilon) else NONE


def _figure(value: Json) -> str:
    return shown(value) if isinstance(value, float) else NONE


def _listed(runs: Iterable[RunId]) -> str:
    return f"run {', '.join(runs)}"
