"""The privacy ledgers of an organisation's data sets as its people see them, and the limits that its owner sets.

Promise: a ledger is read as the rounds wrote it, entry by entry, and nothing here changes one; a limit changes together
with the row of the trail that says from what to what, when and why. Reading does not disturb a participant that runs.
Source: D7 and D16; docs/privacy.md.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from fedveil_common import jcs
from fedveil_common.database import Database
from fedveil_common.dp import budget
from fedveil_common.dp import entries as ledger_entries
from fedveil_common.ids import RunId
from fedveil_common.ports import Clock
from fedveil_common.rows import Value

from fedveil_participant.state import LifetimeLimit
from fedveil_participant.store import tables
from fedveil_participant.store.holdings import carried

LIMIT_SET = "limit_set"
"""The trail's word for a lifetime limit that was set, lowered or raised."""


LEDGER_CARRIED = "ledger_carried"
"""The trail's word for a ledger that was carried on after a re-key."""


@dataclass(frozen=True, slots=True)
class LedgerRow:
    """One entry and when it was journaled, in seconds on the wall clock; `seq` counts over all data sets, from 1."""

    seq: int
    wall_s: float
    dataset: str
    entry: budget.Entry


@dataclass(frozen=True, slots=True)
class LimitChange:
    """A limit that was set. `before` is None where there was none; the reason may be empty."""

    wall_s: float
    dataset: str
    before: LifetimeLimit | None
    after: LifetimeLimit
    reason: str


class PrivacyLedgers:
    """Ledger entries and lifetime limits. Any thread. Every method may raise StorageError."""

    def __init__(self, database: Database, clock: Clock) -> None:
        self._database = database
        self._clock = clock

    def ledger_rows(self) -> list[LedgerRow]:
        """Every entry of every data set, oldest first. IntegrityError `ledger_damaged`."""
        with self._database.read() as connection:
            found = tables.LEDGER.select(connection)
        rows = (
            LedgerRow(
                row.integer("seq"),
                row.real("wall_s"),
                row.text("dataset"),
                ledger_entries.decode(jcs.loads(row.blob("entry"))),
            )
            for row in found
        )
        return sorted(rows, key=lambda row: row.seq)

    def runs_with_sums(self) -> frozenset[RunId]:
        """Runs of which a sum was voted for or seen here, with noise or without."""
        with self._database.read() as connection:
            return frozenset(RunId(row.text("run_id")) for row in tables.OPENED.select(connection))

    def lifetimes(self) -> dict[str, LifetimeLimit]:
        """What the records of each data set may spend over all runs, where its owner has said so."""
        with self._database.read() as connection:
            found = tables.LIFETIMES.select(connection)
        return {row.text("dataset"): LifetimeLimit(row.real("max_epsilon"), row.real("delta")) for row in found}

    def set_lifetime(self, dataset: str, limit: LifetimeLimit, reason: str = "") -> LifetimeLimit | None:
        """What the records of a data set may spend over all runs; it holds from the next start of `participate` on.
        Returns the limit that it replaces.
        """
        now = self._clock.wall_s()
        with self._database.write() as connection:
            row = tables.LIFETIMES.one(connection, dataset=dataset)
            before = None if row is None else LifetimeLimit(row.real("max_epsilon"), row.real("delta"))
            tables.LIFETIMES.put(connection, dataset=dataset, max_epsilon=limit.max_epsilon, delta=limit.delta)
            facts = [["dataset", dataset], ["before", _told(before)], ["after", _told(limit)], ["reason", reason]]
            trail: dict[str, Value] = {
                "wall_s": now,
                "run_id": "",
                "round": 0,
                "attempt": 0,
                "kind": LIMIT_SET,
                "facts": jcs.dumps(facts).decode(),
            }
            tables.TRAIL.append(connection, [trail])
        return before

    def carry(self, dataset: str, entries: Sequence[budget.Entry], digest: bytes, as_of_s: float) -> int:
        """Adds what an earlier journal of this organisation spent, as somebody else knows it, to the ledger of a data
        set; returns how many entries were new. Nothing is ever taken off. `digest` (32 bytes) of the record and its
        time go to the trail. IntegrityError `ledger_conflict` if the ledger knows an attempt at another price.
        """
        now = self._clock.wall_s()
        known = budget.fold(row.entry for row in self.ledger_rows() if row.dataset == dataset)
        fresh = [one for one in entries if one.key not in known.account(one.key.attempt.run_id).attempts]
        for one in entries:
            known = known.apply(one)
        rows: list[dict[str, Value]] = [
            {"wall_s": now, "dataset": dataset, "entry": jcs.dumps(ledger_entries.encode(one))} for one in fresh
        ]
        facts = [
            ["dataset", dataset],
            ["entries", str(len(fresh))],
            ["record", digest.hex()],
            ["as_of_s", repr(as_of_s)],
        ]
        trail: dict[str, Value] = {
            "wall_s": now,
            "run_id": "",
            "round": 0,
            "attempt": 0,
            "kind": LEDGER_CARRIED,
            "facts": jcs.dumps(facts).decode(),
        }
        with self._database.write() as connection:
            tables.LEDGER.append(connection, rows)
            tables.MARKS.put(connection, name=carried(dataset), value=digest)
            tables.TRAIL.append(connection, [trail])
        return len(fresh)

    def limit_changes(self) -> list[LimitChange]:
        """Every limit that was ever set, oldest first."""
        with self._database.read() as connection:
            found = tables.TRAIL.select(connection, kind=LIMIT_SET)
        changes = []
        for row in found:
            facts = _facts(row.text("facts"))
            after = _heard(facts["after"])
            assert after is not None, "a limit is set, never lifted"
            changes.append(
                LimitChange(row.real("wall_s"), facts["dataset"], _heard(facts["before"]), after, facts["reason"])
            )
        return changes


def _told(limit: LifetimeLimit | None) -> str:
    """As text that gives the same floats back; empty for no limit."""
    return "" if limit is None else f"{limit.max_epsilon!r} at {limit.delta!r}"


def _heard(text: str) -> LifetimeLimit | None:
    max_epsilon, _, delta = text.partition(" at ")
    return LifetimeLimit(float(max_epsilon), float(delta)) if text else None


def _facts(text: str) -> Mapping[str, str]:
    pairs = jcs.loads(text.encode())
    assert isinstance(pairs, list), "written above"
    return {str(name): str(value) for name, value in (pair for pair in pairs if isinstance(pair, list))}
