"""What the trail says of the isolation that own trainers had: noted at each start, before any of them may run.

Promise: a start with a trainer leaves one row for it, and so does a start that was refused for want of isolation.
"""

from dataclasses import dataclass

from fedveil_common import jcs
from fedveil_common.database import Database

from fedveil_participant.store import tables

ISOLATION = "trainer_isolation"
"""The trail's word for it."""

REFUSED = "refused"
"""In place of a level: nothing was started."""


@dataclass(frozen=True, slots=True)
class IsolationNote:
    """`level`: bwrap, landlock, none, or REFUSED. `why`: why no better one. Seconds on the wall clock."""

    wall_s: float
    trainer: str
    level: str
    why: str

    def facts(self) -> tuple[tuple[str, str], ...]:
        """As the trail has them."""
        return (("trainer", self.trainer), ("level", self.level), ("why", self.why))


class TrainerNotes:
    """Any thread. StorageError."""

    def __init__(self, database: Database) -> None:
        self._notes = database

    def isolation_notes(self) -> list[IsolationNote]:
        """The newest note of each trainer, by name."""
        with self._notes.read() as connection:
            rows = tables.TRAIL.select(connection, kind=ISOLATION)
        found: dict[str, IsolationNote] = {}
        for row in rows:
            pairs = jcs.loads(row.text("facts").encode())
            assert isinstance(pairs, list), "written by `note`"
            facts = {str(pair[0]): str(pair[1]) for pair in pairs if isinstance(pair, list)}
            note = IsolationNote(row.real("wall_s"), facts["trainer"], facts["level"], facts["why"])
            found[note.trainer] = note
        return [found[name] for name in sorted(found)]
