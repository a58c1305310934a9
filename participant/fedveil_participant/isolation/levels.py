"""How far a trainer is kept from the rest of this machine: the levels, best first, and one that was found to work."""

import enum
from dataclasses import dataclass

from fedveil_participant.isolation.interpreter import Interpreter


class Isolation(enum.Enum):
    """`BWRAP`: namespaces of its own by bubblewrap, and a filter of system calls. `LANDLOCK`: no namespace; landlock
    and a stricter filter. `NONE`: a process of the same user, and no more: only where the organisation says so.
    """

    BWRAP = "bwrap"
    LANDLOCK = "landlock"
    NONE = "none"


@dataclass(frozen=True, slots=True)
class Confinement:
    """What a trainer's process is started with. `uid`: another user that it becomes, where the service is root.
    `passed_over`: (level, why it is not to be had here) for each better level.
    """

    level: Isolation
    interpreter: Interpreter
    uid: int | None = None
    bwrap: str = ""
    passed_over: tuple[tuple[Isolation, str], ...] = ()

    @property
    def why_not_better(self) -> str:
        """For people; empty at the best level."""
        return "; ".join(f"{level.value}: {why}" for level, why in self.passed_over)
