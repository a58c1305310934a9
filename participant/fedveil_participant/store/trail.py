"""The trail: what happened in this organisation's house, in order; append-only, and never sent.

A row belongs to an attempt (the round journal writes these together with the stage) or to none: a note, by whoever
decides something here. Facts are names and short texts, never a value of the data.
"""

import json
from dataclasses import dataclass

from fedveil_common import jcs
from fedveil_common.database import Database
from fedveil_common.ids import AttemptKey, RunId
from fedveil_common.ports import Clock
from fedveil_common.rows import Value

from fedveil_participant.store import tables

RUN = "run"
"""The fact by which a note says which run it is about."""


@dataclass(frozen=True, slots=True)
class TrailRow:
    """One line of the public trail. `key` is None for a note that belongs to no attempt."""

    seq: int
    wall_s: float
    key: AttemptKey | None
    kind: str
    facts: tuple[tuple[str, str], ...]

    def fact(self, name: str) -> str:
        """The fact of that name; empty if there is none."""
        return dict(self.facts).get(name, "")

    @property
    def run(self) -> str:
        """Which run it is about; empty for none."""
        return self.fact(RUN) if self.key is None else self.key.run_id


class TrailRows:
    """Any thread. Every method may raise StorageError."""

    def __init__(self, database: Database, clock: Clock) -> None:
        self._database = database
        self._clock = clock

    def note(self, kind: str, facts: tuple[tuple[str, str], ...]) -> None:
        """A trail row that belongs to no attempt: a refusal, an order of the operator."""
        row: dict[str, Value] = {
            "wall_s": self._clock.wall_s(),
            "run_id": "",
            "round": 0,
            "attempt": 0,
            "kind": kind,
            "facts": facts_text(facts),
        }
        with self._database.write() as connection:
            tables.TRAIL.append(connection, [row])

    def trail(self) -> list[TrailRow]:
        """The whole trail, oldest first."""
        with self._database.read() as connection:
            found = tables.TRAIL.select(connection)
        return [
            TrailRow(
                row.integer("seq"),
                row.real("wall_s"),
                AttemptKey(RunId(row.text("run_id")), row.integer("round"), row.integer("attempt"))
                if row.text("run_id")
                else None,
                row.text("kind"),
                tuple((name, value) for name, value in json.loads(row.text("facts"))),
            )
            for row in found
        ]


def facts_text(facts: tuple[tuple[str, str], ...]) -> str:
    """Facts as the table holds them."""
    return jcs.dumps([[name, value] for name, value in facts]).decode()
