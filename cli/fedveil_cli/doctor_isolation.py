"""What `doctor` says of own trainers in an organisation's home: how they would be kept apart, and how they were."""

import functools
import sys
from dataclasses import dataclass

from fedveil_common.errors import FedveilError, PolicyRefusal
from fedveil_participant.isolation import probe
from fedveil_participant.isolation.levels import Confinement
from fedveil_participant.store import Books, IsolationNote

from fedveil_cli.doctor_findings import Report


@dataclass(frozen=True, slots=True)
class Isolation:
    """`level` for Fedveil's own interpreter, empty if there is none; `why` no better one. `notes`: the last start of
    each trainer.
    """

    level: str
    why: str
    notes: tuple[IsolationNote, ...]

    def to_json(self) -> dict[str, object]:
        """For `--json`."""
        trainers = [
            {"name": note.trainer, "level": note.level, "why": note.why, "at_s": note.wall_s} for note in self.notes
        ]
        return {"level": self.level or None, "why": self.why, "trainers": trainers}

    def lines(self) -> list[str]:
        """For people."""
        why = f" ({self.why})" if self.why else ""
        found = [f"isolation of own trainers on this machine: {self.level or 'missing'}{why}"]
        return [*found, *(f"  trainer {note.trainer} at its last start: {note.level}" for note in self.notes)]


def check_isolation(books: Books | None, report: Report) -> Isolation:
    """What there is on this machine, and what the journal notes. Nothing is missing as long as nobody has a trainer."""
    report.checked.append("isolation")
    notes = () if books is None else tuple(books.isolation_notes())
    try:
        found = _here()
    except FedveilError as error:
        if isinstance(error, PolicyRefusal):
            report.add(error.code, "own trainers do not start here without isolation", advice=True)
        return Isolation("", error.what, notes)
    return Isolation(found.level.value, found.why_not_better, notes)


@functools.cache
def _here() -> Confinement:
    return probe.find(sys.executable, (), none_allowed=False, modules=())
